"""Where others are, a forward proxy or a listener: what the command line says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, TypeVar

import click

from ..endpoint.network import Address
from ..endpoint.proxy import HostAndPort, Proxy
from ..errors import MisuseError
from ..membership import COAP_PORT, GroupConfiguration
from .text import printable

Place = tuple[Address, int | None]
"""Where somebody is: host, and UDP port if it was given."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def host_and_port(text: str) -> HostAndPort:
    """`192.0.2.1`, `192.0.2.1:5683`, `2001:db8::1` or `[2001:db8::1]:5683`. `click.BadParameter` if it is none."""
    address, port = place(text)
    return address, COAP_PORT if port is None else port


def place(text: str) -> Place:
    """The same; the port is None if there is none."""
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port[1:] if port.startswith(":") else port and "?"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or "?"
    try:
        address = ip_address(host)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not ADDRESS or ADDRESS:PORT") from None
    if address.is_multicast:
        raise click.BadParameter(f"{text!r} is a multicast address")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise click.BadParameter(f"{text!r} has no UDP port behind the colon")
    return address, int(port) if port else None


def host_and_port_text(host: Address, port: int) -> str:
    """`192.0.2.1:5683` or `[2001:db8::1]:5683`."""
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def named_place(text: str) -> tuple[str, Place]:
    """`NAME=` and a place. `click.BadParameter` if it is not that."""
    name, _, where = text.rpartition("=")
    if not name or not where:
        raise click.BadParameter(f"{text!r} is not NAME=ADDRESS[:PORT]")
    return name, place(where)


def _named(text: str) -> tuple[str, HostAndPort]:
    name, (address, port) = named_place(text)
    return name, (address, COAP_PORT if port is None else port)


def proxy_options(command: _Command) -> _Command:
    """Adds --proxy and --reach."""
    reach = click.option(
        "--reach",
        multiple=True,
        type=_named,
        metavar="NAME=ADDRESS[:PORT]",
        help="With --proxy: where the proxy finds this listener, for what must go to it alone (echoes, blocks).",
    )
    proxy = click.option(
        "--proxy",
        type=host_and_port,
        metavar="ADDRESS[:PORT]",
        help="Send through this forward proxy, which must not aggregate answers.",
    )
    return proxy(reach(command))


def read_proxy(
    where: HostAndPort | None, reach: Sequence[tuple[str, HostAndPort]], group: GroupConfiguration
) -> Proxy | None:
    """The proxy to send through. `MisuseError` if a listener is not known, or there is no proxy to reach it by."""
    if where is None:
        if reach:
            raise MisuseError("--reach goes with --proxy")
        return None
    ids = {member.name: member.endpoint_id for member in group.current.members}
    for name, _ in reach:
        if name not in ids:
            known = ", ".join(printable(known) for known in ids) or "nobody"
            raise MisuseError(f"no member {printable(name)!r} in group {printable(group.name)}; there is {known}")
    return Proxy(*where, {ids[name]: place for name, place in reach})
