"""`groupcoap listen`: a small device that serves a group."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import aiocoap
import click
from aiocoap import interfaces
from aiocoap.pipe import Pipe

from ..core.policy import Verification
from ..core.profile import Mode
from ..core.requests import SignatureState
from ..core.synchronization import Method, SynchronizationPolicy
from ..devices import DEVICES
from ..endpoint.deferred import SourceReport
from ..endpoint.endpoint import Endpoint
from ..endpoint.groups import ListenerPolicy
from ..endpoint.limits import DEFAULT_LIMITS, Limits, parse_limits
from ..endpoint.listener import Listener
from ..endpoint.network import Address, NetworkOptions
from ..endpoint.remote import Provenance
from ..errors import MisuseError
from ..membership import (
    EndpointIdRenewed,
    EpochInstalled,
    GroupConfiguration,
    GroupJoined,
    GroupLeft,
    GroupResumed,
    GroupSuspended,
    MembershipEvent,
)
from .device import LISTENING, Device, either, open_device
from .exits import Exit
from .keylog import key_log_option
from .names import RESPONSE_MODES
from .network import Seconds, explained, network_options, resolve
from .stopping import stop_event
from .text import payload_text, plural, printable

DEFAULT_LEISURE = 0.5
"""Seconds. RFC 7252's 5 is for those who know nothing of their group's size; here a person is waiting."""

MOST_DROPS = 20
"""Lines a second about dropped messages."""

MAX_PAYLOAD = 40
"""Characters of a request's payload that its line shows."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says of a device, but for its files. `port`: its own, 0 for any free one, None for its
    groups'. `sync`, `verification`, `responses`: where it differs from its groups."""

    device: str
    network: NetworkOptions
    port: int | None
    sync: str | None
    verification: str | None
    responses: str | None
    leisure: float
    verbose: bool
    with_parent: bool
    key_log: Path | None = None
    limits: Limits = DEFAULT_LIMITS


class Lines:
    """Lines on standard output. Sets `stop` once nobody reads them (`listen … | head -1`)."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def say(self, line: str) -> None:
        """Print this line now."""
        try:
            print(f"{line}\n", end="", flush=True)  # one write: several listeners may share a terminal
        except OSError:
            self._stop.set()
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes there


class DropLines(logging.Handler):
    """Says why messages were dropped. In a flood, `MOST_DROPS` lines a second and how many more there were."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines
        self._second = 0
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        second = int(record.created)
        if second != self._second:
            self.close()
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= MOST_DROPS:
            self._lines.say(printable(record.getMessage()))

    def close(self) -> None:
        """Say what was not said yet."""
        if self._count > MOST_DROPS:
            self._lines.say(f"dropped {self._count - MOST_DROPS} more in the same second")
            self._count = 0
        super().close()


class Narrated(interfaces.Resource):  # type: ignore[misc]
    """A site that says, with one line each, what was delivered to it."""

    def __init__(self, site: interfaces.Resource, endpoint: Endpoint, lines: Lines) -> None:
        super().__init__()
        self._site = site
        self._endpoint = endpoint
        self._lines = lines

    async def render_to_pipe(self, pipe: Pipe) -> None:
        """aiocoap's entry point."""
        self._lines.say(self._describe(pipe.request))
        await self._site.render_to_pipe(pipe)

    async def render(self, request: aiocoap.Message) -> aiocoap.Message:
        """Not used: `render_to_pipe` takes everything."""
        raise NotImplementedError

    async def needs_blockwise_assembly(self, request: aiocoap.Message) -> bool:
        """Not used: `render_to_pipe` takes everything."""
        raise NotImplementedError

    def _describe(self, request: aiocoap.Message) -> str:
        origin: Provenance = request.remote.provenance
        name = who(self._endpoint, origin.group, origin.endpoint_id)
        if not origin.signature.authentic:
            name = f"some member, as {name}"
        groups = len(self._endpoint.groups.names)
        where = f" in {printable(origin.group)}" if groups > 1 else ""
        return (
            f"{what(request)} from {name}{where}: number {origin.sequence_number}, "
            f"{origin.freshness.value}, {authenticated_by(origin.signature)}"
        )


def authenticated_by(signature: SignatureState) -> str:
    """How it is known, or not yet, who has made a message."""
    return signature.value if signature is SignatureState.PAIRWISE else f"signature {signature.value}"


def who(endpoint: Endpoint, group: str, endpoint_id: bytes) -> str:
    """A member's name and Endpoint ID."""
    member = endpoint.groups.member(group, endpoint_id)
    shown = endpoint_id.hex() or "empty id"
    return f"{printable(member.name)} ({shown})" if member is not None else shown


def what(request: aiocoap.Message) -> str:
    """A request's method, path and payload, in short."""
    path = "/" + "/".join(request.opt.uri_path)
    query = "?" + "&".join(request.opt.uri_query) if request.opt.uri_query else ""
    parts = [str(request.code), printable(path + query)]
    if request.payload:
        parts.append(f'"{payload_text(request.payload, MAX_PAYLOAD)}"')
    if request.opt.observe is not None:
        parts.append("(observe)" if request.opt.observe == 0 else "(observe no more)")
    if request.opt.block2 is not None:
        parts.append(f"(block {request.opt.block2.block_number})")
    return " ".join(parts)


def listening_groups(device: Device) -> tuple[GroupConfiguration, ...]:
    """The groups that this device listens in. `MisuseError` if there are none."""
    groups = tuple(group for group in device.groups if group.roles & LISTENING)
    if not groups:
        names = ", ".join(printable(group.name) for group in device.groups)
        raise MisuseError(f"{printable(device.name)} is no listener in {names}; give the directory of one that is")
    return groups


def read_policy(
    groups: Sequence[GroupConfiguration], sync: str | None, verification: str | None, responses: str | None
) -> ListenerPolicy:
    """Where this device differs from its groups. `MisuseError` where that is possible in none of them; where it is
    in some, the others are named on standard error."""
    if verification not in (None, Verification.ALWAYS.value):
        strict = [group for group in groups if group.profile.rules.signature_first]
        _without_effect(f"--verification {verification}", strict, groups, "every signature is verified")
    mode = None if responses is None else RESPONSE_MODES[responses]
    if mode is Mode.PAIRWISE:
        without = [group for group in groups if not group.common_context(group.current).pairwise]
        _without_effect(f"--responses {responses}", without, groups, "there is no pairwise mode")
    elif responses is not None:
        without = [group for group in groups if not group.profile.rules.pairwise]
        _without_effect(f"--responses {responses}", without, groups, "there is only one mode")
    return ListenerPolicy(
        None if sync is None else SynchronizationPolicy(Method(sync)),
        None if verification is None else Verification(verification),
        response_mode=mode,
        as_requested=responses is not None and mode is None,
    )


def _without_effect(
    option: str, where: Sequence[GroupConfiguration], groups: Sequence[GroupConfiguration], why: str
) -> None:
    """`MisuseError` if the option would change nothing in any group; a warning if it would in some."""
    names = ", ".join(printable(group.name) for group in where)
    if len(where) == len(groups):
        profiles = ", ".join(sorted({group.profile.name for group in groups}))
        raise MisuseError(f"{option} does not go with {names} ({profiles}), where {why}; leave it out")
    if where:
        click.echo(f"groupcoap: {option} changes nothing in {names}, where {why}", err=True)


async def serve(path: Path, settings: Settings) -> Exit:
    """Serve the groups of the device at `path` until SIGINT or SIGTERM, or until it is in none any more.
    `EnvironmentFault`, `MisuseError`, `Refused` if that cannot be."""
    stop = stop_event(settings.with_parent)
    lines = Lines(stop)
    async with AsyncExitStack() as stack:
        opened = open_device(path, settings.network, say=lines.say, wait=True)
        opening = asyncio.ensure_future(stack.enter_async_context(opened))
        if not await either(opening, stop):
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            return Exit.DONE
        return await _Serving(opening.result(), settings, lines, stop).run()


class _Serving:
    """A device while it serves its groups."""

    def __init__(self, device: Device, settings: Settings, lines: Lines, stop: asyncio.Event) -> None:
        groups = listening_groups(device)
        self._policy = read_policy(groups, settings.sync, settings.verification, settings.responses)
        port = groups[0].addresses[0].port if settings.port is None else settings.port
        self._network = replace(settings.network, port=port or None, kernel_filter=not settings.verbose)
        self._device = device
        self._settings = settings
        self._lines = lines
        self._stop = stop
        self._names = [group.name for group in groups]
        self._listeners: dict[str, Listener] = {}

    async def run(self) -> Exit:
        """Until it is stopped."""
        settings, lines = self._settings, self._lines
        with self._device.open_state() as state:
            self._endpoint = endpoint = Endpoint(
                self._device.source,
                state,
                self._network,
                policy=self._policy,
                leisure=settings.leisure,
                report=self._report,
                key_log=settings.key_log,
                limits=settings.limits,
            )
            async with AsyncExitStack() as stack:
                with explained(self._network):
                    await stack.enter_async_context(endpoint)
                self._site = Narrated(DEVICES[settings.device](), endpoint, lines)
                stack.callback(self._device.source.subscribe(self._told))
                for address in endpoint.addresses(self._names):  # IPv6 beside IPv4: a port that is taken shows now
                    endpoint.network.open_unicast(address.host.version)
                for name in self._names:
                    self._listeners[name] = Listener(endpoint, self._site, [name])
                if settings.verbose:
                    drops = logging.getLogger("groupcoap.drops")
                    drops.setLevel(logging.DEBUG)
                    drops.addHandler(said := DropLines(lines))
                    stack.callback(said.close)
                lines.say(_ready(endpoint, self._device.name, self._names, settings))
                await self._stop.wait()
                for listener in self._listeners.values():
                    listener.close()
        if settings.verbose:
            lines.say(_totals(endpoint))
        return Exit.REFUSED if self._out else Exit.DONE

    @property
    def _out(self) -> bool:
        """Whether it is in no group any more."""
        return self._device.managed is not None and not self._device.managed.groups()

    def _report(self, late: SourceReport) -> None:
        name = who(self._endpoint, late.group, late.endpoint_id)
        result = "signature verified" if late.verified else "ALARM: it was another member who made it"
        self._lines.say(f"number {late.sequence_number} from {name}, checked later: {result}")

    def _told(self, event: MembershipEvent) -> None:
        line = event_text(event)
        if line is not None:
            self._lines.say(line)
        if isinstance(event, GroupJoined):
            group = event.configuration
            if group.roles & LISTENING and group.name not in self._listeners:
                self._listeners[group.name] = Listener(self._endpoint, self._site, [group.name])
        elif isinstance(event, GroupLeft) and self._out:
            self._lines.say(f"{printable(self._device.name)} is in no group any more")
            self._stop.set()


def event_text(event: MembershipEvent) -> str | None:
    """What has happened to a group, in one line; None for what is not worth one."""
    match event:
        case EpochInstalled(configuration=group):
            return f"{printable(group.name)}: new keys, Gid {group.current.gid.hex()}"
        case GroupJoined(configuration=group):
            return f"{printable(group.name)}: joined{_as(group)}, Gid {group.current.gid.hex()}"
        case EndpointIdRenewed(configuration=group):
            return f"{printable(group.name)}: from now on{_as(group)}"
        case GroupSuspended(group=name):
            return f"{printable(name)}: suspended, since the Group Manager has not confirmed its keys in time"
        case GroupResumed(group=name):
            return f"{printable(name)}: resumed, the Group Manager has confirmed its keys"
        case GroupLeft(group=name, why=why):
            return f"{printable(name)}: no member any more: {printable(why)}"
    return None


def _as(group: GroupConfiguration) -> str:
    own = group.current.own_id
    return "" if own is None else f" as {own.hex() or 'empty id'}"


def _ready(endpoint: Endpoint, device: str, names: list[str], settings: Settings) -> str:
    addresses = endpoint.addresses(names)
    at = ", ".join(f"{_host(str(a.host))}:{a.port}" for a in addresses)
    pure = not any(endpoint.groups.can_respond(name) for name in names)
    if pure:
        answers = "never answers (pure listener)"
    else:
        versions = sorted({address.host.version for address in addresses})
        own = [endpoint.network.local_address(version) for version in versions]
        answers = "answers from " + ", ".join(f"{_host(str(a[0]))}:{a[1]}" for a in own)
    return f"{printable(device)} listens at {at} on {endpoint.network.interface}, {answers}, as {settings.device}"


def _host(text: str) -> str:
    return f"[{text}]" if ":" in text else text


def _totals(endpoint: Endpoint) -> str:
    counters = endpoint.counters
    parts = [f"{plural(counters.delivered_requests, 'request')} delivered"]
    if counters.challenges_sent:
        parts.append(f"{plural(counters.challenges_sent, 'challenge')} sent")
    rejected = sorted(counters.rejected.items(), key=lambda item: -item[1])
    dropped = ", ".join(f"{count} × {reason.value}" for reason, count in rejected)
    said = [", ".join(parts), f"dropped: {dropped or 'nothing'}"]
    if counters.limited:
        said.append("limits reached: " + ", ".join(f"{n} × {limit.value}" for limit, n in counters.limited.items()))
    if endpoint.network.kernel_drops:
        said.append(f"{plural(endpoint.network.kernel_drops, 'datagram')} lost, no room in the receive buffer")
    return "; ".join(said)


def _limits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Limits:
    try:
        return parse_limits(values)
    except MisuseError as problem:
        raise click.BadParameter(str(problem), ctx, param) from None


@click.command()
@click.argument("member", type=click.Path(path_type=Path))
@click.option(
    "--as", "device", type=click.Choice(list(DEVICES)), default="light", show_default=True, help="What it is."
)
@network_options
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Own UDP port to answer from, 0 for any free one.  [default: the group's]",
)
@click.option(
    "--leisure",
    type=Seconds(0, 600),
    default=DEFAULT_LEISURE,
    show_default=True,
    metavar="SECONDS",
    help="Time within which answers to multicast are spread.",
)
@click.option(
    "--sync",
    type=click.Choice([method.value for method in Method]),
    help="Synchronization.  [default: the group's]",
)
@click.option(
    "--verification",
    type=click.Choice([choice.value for choice in Verification]),
    help="Of signatures. Whatever is not verified may be any member's. Not for groups of group-oscore, where all "
    "are verified.  [default: the group's]",
)
@click.option(
    "--responses",
    type=click.Choice(list(RESPONSE_MODES)),
    help="group-oscore: the mode of answers. pairwise: only the requester can read them.  [default: the group's]",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    callback=_limits,
    metavar="NAME=VALUE",
    help="How much peers may take up: a field of Limits, see docs/security.md. May be repeated.",
)
@key_log_option
@click.option("-v", "--verbose", is_flag=True, help="Say what was dropped and why, and the totals at the end.")
@click.option("--with-parent", is_flag=True, hidden=True, help="Stop when standard input is closed.")
@click.pass_context
def listen(
    ctx: click.Context,
    /,
    member: Path,
    device: str,
    interface: str | None,
    bind: Address | None,
    hop_limit: int,
    port: int | None,
    leisure: float,
    sync: str | None,
    verification: str | None,
    responses: str | None,
    limits: Limits,
    key_log: Path | None,
    verbose: bool,
    with_parent: bool,
) -> None:
    """Be a small device: a light (/light) or a sensor (/temperature, /log) in the groups of MEMBER, which is a
    device's directory or one group file in it. Runs until Ctrl-C.

    A device with a Group Manager (enrolment.json in its directory) joins its groups by itself, and gets fresh keys.
    It ends, with exit code 7, when it is in no group any more.

    Several devices on one machine: `--interface lo`, and each with another address,
    `--bind 127.0.0.2`, `--bind 127.0.0.3`, …
    """
    settings = Settings(
        device,
        resolve(interface, bind, hop_limit),
        port,
        sync,
        verification,
        responses,
        leisure,
        verbose,
        with_parent,
        key_log,
        limits,
    )
    ctx.exit(asyncio.run(serve(member, settings)))
