"""What `listen` and `send` have in common: the options that say where to send and receive, and their meaning."""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Any, TypeVar

import click

from ..endpoint.network import Address, NetworkOptions, choose_interface, parse_address
from ..errors import NetworkFault

LOOPBACK = "lo"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class AddressType(click.ParamType):  # type: ignore[type-arg]
    """An IP address on the command line."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return parse_address(value) if isinstance(value, str) else value
        except NetworkFault as problem:
            self.fail(str(problem), param, ctx)


class Seconds(click.FloatRange):
    """A time on the command line: within a range, which "nan" is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        converted = super().convert(value, param, ctx)
        if converted is not None and math.isnan(converted):
            self.fail("not a number of seconds", param, ctx)
        return converted


def network_options(command: _Command) -> _Command:
    """Adds --interface, --bind and --hop-limit."""
    hop_limit = click.option(
        "--hop-limit",
        type=click.IntRange(0, 255),
        default=1,
        show_default=True,
        metavar="N",
        help="Of multicast datagrams: 1 keeps them on this link, 0 on this machine.",
    )
    bind = click.option(
        "--bind", type=AddressType(), metavar="ADDRESS", help="Own address.  [default: the interface's own]"
    )
    interface = click.option(
        "--interface", metavar="NAME", help="Interface for multicast.  [default: the one that --bind belongs to]"
    )
    return interface(bind(hop_limit(command)))


def resolve(
    interface: str | None, bind: Address | None, hop_limit: int, *, port: int | None = None
) -> NetworkOptions:
    """The options as an endpoint takes them. `port`: of the unicast socket, None for any free one. `NetworkFault`,
    saying which option to give, if no interface is named and none is safe to infer."""
    options = NetworkOptions(interface, bind, port, hop_limit)
    try:
        return NetworkOptions(choose_interface(options), bind, port, hop_limit)
    except NetworkFault as problem:
        if interface is not None:
            raise
        raise NetworkFault(f"{problem}: --interface NAME; {LOOPBACK} stays on this machine") from None


@contextmanager
def explained(options: NetworkOptions) -> Iterator[None]:
    """Around opening an endpoint: says what to do where an address of this machine alone is taken, as it is when a
    second device is started beside the first."""
    try:
        yield
    except NetworkFault:
        bind = options.bind or (IPv4Address("127.0.0.1") if options.interface == LOOPBACK else None)
        if bind is None or options.port is None or not bind.is_loopback or _is_free(str(bind), options.port):
            raise
        raise NetworkFault(
            f"{bind} port {options.port} is in use; every device on this machine needs an address of its own: "
            f"{_suggestion(bind, options.port)}"
        ) from None


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _suggestion(taken: Address, port: int) -> str:
    hosts = (f"127.0.0.{number}" for number in range(2, 255) if taken.version == 4)
    host = next((host for host in hosts if _is_free(host, port)), None)
    return f"try --bind {host}" if host is not None else "try --port 0, any free port"
