"""`groupcoap send`: a request to a group, and who answers."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiocoap
import click
from click.core import ParameterSource

from ..core.profile import Mode
from ..endpoint.endpoint import Endpoint
from ..endpoint.multicaster import DEFAULT_TIMEOUT, KNOWN, Answer, Collection, Multicaster, Observation, Roster
from ..endpoint.network import Address, NetworkOptions
from ..endpoint.proxy import HostAndPort, Proxy
from ..errors import FileFault, MisuseError, NetworkFault
from ..files.state import RuntimeState
from ..membership import GroupAddress, GroupConfiguration, MembershipSource, Role
from .answers import JsonSink, LineSink, Sink, Summary, TableSink
from .device import note, open_device
from .exits import Exit
from .keylog import key_log_option
from .network import Seconds, network_options, resolve
from .target import Target, find_target
from .text import printable
from .via import Place, host_and_port_text, named_place, proxy_options, read_proxy

MAX_PAYLOAD = 1024
"""Bytes. A group request is one datagram: blocks of a request cannot go to a group."""

OBSERVE = "observe"
_CODES = {
    "get": aiocoap.GET,
    "put": aiocoap.PUT,
    "post": aiocoap.POST,
    "fetch": aiocoap.FETCH,
    OBSERVE: aiocoap.GET,
}
_TO_ONE_IN_GROUP_MODE = ("get", "fetch")


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: seconds to wait for answers; notifications and seconds of an observation (None: no limit)."""

    timeout: float
    count: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Recipient:
    """The one listener that is asked: its Endpoint ID, where it is, and the mode in which it is asked."""

    endpoint_id: bytes
    host: Address
    port: int
    mode: Mode


def read_payload(text: str | None) -> bytes:
    """The payload that an argument stands for: `@file`, `-` for standard input, or the text itself. `FileFault` if
    the file cannot be read, `MisuseError` if it is too long for one datagram."""
    if text is None:
        return b""
    if text == "-":
        payload = sys.stdin.buffer.read(MAX_PAYLOAD + 1)
    elif text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                payload = file.read(MAX_PAYLOAD + 1)
        except (OSError, ValueError) as error:
            raise FileFault(text[1:], f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    else:
        payload = text.encode(errors="surrogateescape")
    if len(payload) > MAX_PAYLOAD:
        raise MisuseError(f"a payload to a group has at most {MAX_PAYLOAD} bytes")
    return payload


def read_roster(text: str, group: GroupConfiguration) -> Roster:
    """`known`, `none`, or listeners by name or Endpoint ID in hex. `MisuseError` if one of them is not known."""
    if text == "known":
        return KNOWN
    if text == "none":
        return None
    epoch = group.current
    listeners = [m for m in epoch.members if Role.LISTENER in m.roles and m.endpoint_id != epoch.own_id]
    roster: set[bytes] = set()
    for name in (part.strip() for part in text.split(",")):
        found = {m.endpoint_id for m in listeners if m.name == name}
        found = found or {m.endpoint_id for m in listeners if m.endpoint_id.hex() == name}
        if not found:
            known = ", ".join(printable(m.name) for m in listeners) or "nobody"
            raise MisuseError(f"no listener {printable(name)!r} in group {printable(group.name)}; there is {known}")
        roster |= found
    return roster


def read_recipient(
    to: tuple[str, Place], mode: str | None, method: str, group: GroupConfiguration, address: GroupAddress
) -> Recipient:
    """Whom --to means, and how to speak to it. `MisuseError` if it is not known, or not in this mode."""
    name, (host, port) = to
    roster = read_roster(name, group) if name not in ("known", "none") and "," not in name else ()
    if not isinstance(roster, set) or len(roster) != 1:
        raise MisuseError(f"--to takes the name or Endpoint ID of one listener, unlike {printable(name)!r}")
    has_pairwise = group.common_context(group.current).pairwise
    if mode == Mode.PAIRWISE.value and not has_pairwise:
        raise MisuseError(f"group {printable(group.name)} has no pairwise mode; leave --mode out")
    chosen = Mode.PAIRWISE if has_pairwise and mode != Mode.GROUP.value else Mode.GROUP
    if chosen is Mode.GROUP and method not in _TO_ONE_IN_GROUP_MODE:
        why = "no listener takes another by unicast, since nothing in it would say whom it is for"
        raise MisuseError(f"to one listener in group mode only get and fetch can be sent: {why}")
    (endpoint_id,) = roster
    return Recipient(endpoint_id, host, address.port if port is None else port, chosen)


async def run(
    target: Target,
    message: aiocoap.Message,
    membership: MembershipSource,
    state: RuntimeState,
    network: NetworkOptions,
    roster: Roster,
    limits: Limits,
    make_sink: Callable[[list[str] | None], Sink],
    key_log: Path | None = None,
    proxy: Proxy | None = None,
    recipient: Recipient | None = None,
) -> Exit:
    """Send, show, and say how it ended. `EnvironmentFault`, `MisuseError` if it cannot be sent."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Endpoint(membership, state, network, key_log=key_log) as endpoint:
        multicaster = Multicaster(endpoint, target.group.name, target.address, proxy)
        session = _Session(multicaster, roster, limits, stop, recipient)
        names = None if roster is None else sorted(session.label(listener) for listener in session.expected)
        with make_sink(names) as sink:
            try:
                if message.opt.observe is not None:
                    return await session.observe(message, sink)
                return await session.collect(message, sink)
            except NetworkFault as fault:
                raise NetworkFault(f"{fault}; groupcoap check says what to do") from None


class _Session:
    """One request of one multicaster, from sending to summary."""

    def __init__(
        self,
        multicaster: Multicaster,
        roster: Roster,
        limits: Limits,
        stop: asyncio.Event,
        recipient: Recipient | None = None,
    ) -> None:
        self._multicaster = multicaster
        self._recipient = recipient
        self._roster = roster
        self.expected = multicaster.expected(roster)
        self._limits = limits
        self._stop = stop

    def label(self, endpoint_id: bytes) -> str:
        """What to call this listener."""
        return self._multicaster.name_of(endpoint_id) or endpoint_id.hex() or "(empty id)"

    # ---- one answer each

    async def collect(self, message: aiocoap.Message, sink: Sink) -> Exit:
        """Until the deadline, until everyone has answered, or until interrupted."""
        answers: list[Answer] = []
        async with self._ask(message) as collection:
            interrupt = asyncio.create_task(self._close_when_interrupted(collection))
            try:
                async for answer in collection:
                    answers.append(answer)
                    sink.answer(answer)
            finally:
                interrupt.cancel()
        problems = {self.label(listener): text for listener, text in collection.problems.items()}
        delays = [answer.delay for answer in answers]
        summary = self._summary(
            len(answers),
            collection.answered,
            problems,
            errors=sum(not answer.message.code.is_successful() for answer in answers),
            first=min(delays, default=None),
            last=max(delays, default=None),
        )
        sink.summary(summary)
        # Without a roster nobody knows whether all have answered.
        if summary.interrupted and (summary.expected is None or not summary.complete):
            return Exit.INTERRUPTED
        return Exit.DONE if summary.complete and not summary.errors else Exit.INCOMPLETE

    def _ask(self, message: aiocoap.Message) -> Collection:
        one, timeout = self._recipient, self._limits.timeout
        if one is None:
            return self._multicaster.request(message, timeout=timeout, roster=self._roster)
        where = self._multicaster.endpoint.network.socket_address(one.host, one.port)
        return self._multicaster.ask(one.endpoint_id, message, where, mode=one.mode, timeout=timeout)

    async def _close_when_interrupted(self, collection: Collection) -> None:
        await self._stop.wait()
        collection.close()

    # ---- many

    async def observe(self, message: aiocoap.Message, sink: Sink) -> Exit:
        """Until one of the limits, until all listeners have ended it, or until interrupted; which is how most
        observations are meant to end."""
        message.opt.observe = None
        seen = 0
        async with self._multicaster.observe(message, timeout=self._limits.timeout) as observation:
            loop = asyncio.get_running_loop()
            late = loop.call_later(self._limits.timeout, self._name_missing, observation, sink)
            interrupt = asyncio.create_task(self._end_when_interrupted(observation))
            try:
                async with asyncio.timeout(self._limits.seconds):
                    async for answer in observation:
                        sink.answer(answer)
                        seen += 1
                        if seen == self._limits.count or self._all_over(observation):
                            break
            except TimeoutError:
                pass
            finally:
                late.cancel()
                interrupt.cancel()
            # An interrupt ends all streams as well.
            ended = bool(seen) and all(stream.ended for stream in observation.streams.values())
            nobody_offers = ended and not self._stop.is_set()
        summary = self._summary(seen, frozenset(observation.streams), {}, observing=True)
        if nobody_offers:
            sink.note("nobody lets this resource be observed (any more)")
        sink.summary(summary)
        if seen == self._limits.count:
            return Exit.DONE
        return Exit.DONE if summary.complete and not nobody_offers else Exit.INCOMPLETE

    async def _end_when_interrupted(self, observation: Observation) -> None:
        await self._stop.wait()
        await observation.end()

    def _all_over(self, observation: Observation) -> bool:
        streams = observation.streams
        return self.expected <= streams.keys() and all(stream.ended for stream in streams.values())

    def _name_missing(self, observation: Observation, sink: Sink) -> None:
        missing = sorted(self.label(listener) for listener in self.expected - observation.streams.keys())
        if missing:
            sink.note(f"no answer yet from {', '.join(printable(name) for name in missing)}")

    # ---- the end

    def _summary(
        self,
        messages: int,
        answered: frozenset[bytes],
        problems: dict[str, str],
        *,
        errors: int = 0,
        observing: bool = False,
        first: float | None = None,
        last: float | None = None,
    ) -> Summary:
        anybody = self._roster is None
        proxy = self._multicaster.proxy
        return Summary(
            messages=messages,
            answered=len(answered if anybody else answered & self.expected),
            others=0 if anybody else len(answered - self.expected),
            errors=errors,
            expected=None if anybody else len(self.expected),
            missing=tuple(sorted(self.label(listener) for listener in self.expected - answered)),
            problems=problems,
            refused=self._multicaster.endpoint.counters.rejected,
            first=first,
            last=last,
            observing=observing,
            interrupted=self._stop.is_set(),
            proxy=None if proxy is None else host_and_port_text(proxy.host, proxy.port),
            asked=self._asked,
        )

    @property
    def _asked(self) -> tuple[str, str, Mode] | None:
        one = self._recipient
        if one is None:
            return None
        return self.label(one.endpoint_id), host_and_port_text(one.host, one.port), one.mode


def _sink_maker(as_json: bool, observing: bool) -> Callable[[list[str] | None], Sink]:
    def make(names: list[str] | None) -> Sink:
        if as_json:
            return JsonSink()
        if sys.stdout.isatty() and not observing:
            return TableSink(names)
        return LineSink(names or ())

    return make


@click.command()
@click.argument("method", type=click.Choice(list(_CODES)))
@click.argument("uri")
@click.option(
    "--member",
    required=True,
    type=click.Path(path_type=Path),
    help="Own device directory, or group file. With enrolment.json in it the device joins its groups first.",
)
@click.option("--group", metavar="NAME", help="The group, where URI does not make it clear.")
@click.option("--payload", metavar="TEXT|@FILE|-", help="Of the request; - reads standard input.")
@click.option("--content-format", type=click.IntRange(0, 65535), metavar="N", help="Of the payload.")
@click.option(
    "--timeout",
    type=Seconds(0, 3600, min_open=True),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for answers.",
)
@click.option(
    "--roster",
    default="known",
    show_default=True,
    metavar="known|none|NAME,…",
    help="Whose answers are expected: all known listeners, nobody's in particular, or these.",
)
@click.option(
    "--to",
    type=named_place,
    metavar="NAME=ADDRESS[:PORT]",
    help="Ask this listener alone, where it is (as listen says: “answers from”; without PORT the group's). In "
    "groups that have a pairwise mode nobody else can read it; in others get and fetch only.",
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    help="With --to: pairwise, or group, in which the whole group could read it (get and fetch only).  "
    "[default: pairwise, where the group has it]",
)
@network_options
@proxy_options
@key_log_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per answer, then one for the summary.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="observe: stop after so many notifications.")
@click.option(
    "--for",
    "seconds",
    type=Seconds(0, min_open=True),
    metavar="SECONDS",
    help="observe: stop after so long.  [default: until Ctrl-C]",
)
@click.pass_context
def send(
    ctx: click.Context,
    method: str,
    uri: str,
    member: Path,
    group: str | None,
    payload: str | None,
    content_format: int | None,
    timeout: float,
    roster: str,
    to: tuple[str, Place] | None,
    mode: str | None,
    interface: str | None,
    bind: Address | None,
    hop_limit: int,
    proxy: HostAndPort | None,
    reach: tuple[tuple[str, HostAndPort], ...],
    key_log: Path | None,
    as_json: bool,
    count: int | None,
    seconds: float | None,
) -> None:
    """Send a request to all listeners of a group with one datagram, or --to one of them alone, and show their
    verified answers. With each stands how it is known whose it is: by its signature (verified), or because it came
    in pairwise mode.

    URI is coap://ADDRESS/path with one of the group's multicast addresses, coap://GROUP/path, or /path if the
    device is in one group only. Exit code 0 if all who were expected have answered and done it, 1 if
    somebody is missing or has answered with an error, 130 if interrupted before all have answered. Ctrl-C ends
    observe as --for does.
    """
    if method != OBSERVE and (count is not None or seconds is not None):
        raise MisuseError("--count and --for are for observe")
    if payload is not None and method in ("get", OBSERVE):
        raise MisuseError(f"{method} has no payload; put, post and fetch have")
    if to is None and mode is not None:
        raise MisuseError("--mode goes with --to")
    if to is not None:
        _refuse_with_to(ctx, method)
    content = read_payload(payload)
    network = resolve(interface, bind, hop_limit)
    limits = Limits(timeout, count, seconds)
    make_sink = _sink_maker(as_json, method == OBSERVE)

    async def act() -> Exit:
        async with open_device(member, network) as device:
            target = find_target(uri, device.groups, group)
            recipient = None if to is None else read_recipient(to, mode, method, target.group, target.address)
            expected = read_roster(roster, target.group) if recipient is None else {recipient.endpoint_id}
            message = aiocoap.Message(
                code=_CODES[method],
                uri_path=target.path,
                uri_query=target.query,
                payload=content,
                observe=0 if method == OBSERVE else None,
            )
            if content_format is not None:
                message.opt.content_format = content_format
            via = read_proxy(proxy, reach, target.group)
            source = device.source_of(target.group.name)
            if device.managed is not None and recipient is None and not _answering(target.group):
                note(f"no member of {target.group.name} is known that answers: have they joined yet?")
            with device.open_state() as state:
                return await run(
                    *(target, message, source, state, network, expected, limits, make_sink, key_log, via, recipient)
                )

    ctx.exit(asyncio.run(act()))


def _answering(group: GroupConfiguration) -> bool:
    """Whether a member is known that answers. In a managed group there may be none yet, or not again."""
    others = (member for member in group.current.members if member.endpoint_id != group.current.own_id)
    return any(Role.LISTENER in member.roles for member in others)


def _refuse_with_to(ctx: click.Context, method: str) -> None:
    """`MisuseError` for what does not go with one listener."""
    if method == OBSERVE:
        raise MisuseError("--to does not go with observe, which is for the whole group; choose with --roster")
    for parameter in ("roster", "proxy", "reach"):
        if ctx.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
            raise MisuseError(f"--{parameter} does not go with --to")
