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

from ..endpoint.endpoint import Endpoint
from ..endpoint.multicaster import DEFAULT_TIMEOUT, KNOWN, Answer, Collection, Multicaster, Observation, Roster
from ..endpoint.network import Address, NetworkOptions
from ..endpoint.proxy import HostAndPort, Proxy
from ..errors import FileFault, MisuseError, NetworkFault
from ..files.provisioned import ProvisionedMembership, load_member
from ..files.state import EndpointState
from ..membership import GroupConfiguration, Role
from .answers import JsonSink, LineSink, Sink, Summary, TableSink
from .exits import Exit
from .keylog import key_log_option
from .network import Seconds, network_options, resolve
from .target import Target, find_target
from .text import printable
from .via import host_and_port_text, proxy_options, read_proxy

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


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: seconds to wait for answers; notifications and seconds of an observation (None: no limit)."""

    timeout: float
    count: int | None = None
    seconds: float | None = None


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


async def run(
    target: Target,
    message: aiocoap.Message,
    membership: ProvisionedMembership,
    state: EndpointState,
    network: NetworkOptions,
    roster: Roster,
    limits: Limits,
    make_sink: Callable[[list[str] | None], Sink],
    key_log: Path | None = None,
    proxy: Proxy | None = None,
) -> Exit:
    """Send, show, and say how it ended. `EnvironmentFault`, `MisuseError` if it cannot be sent."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Endpoint(membership, state, network, key_log=key_log) as endpoint:
        multicaster = Multicaster(endpoint, target.group.name, target.address, proxy)
        session = _Session(multicaster, roster, limits, stop)
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

    def __init__(self, multicaster: Multicaster, roster: Roster, limits: Limits, stop: asyncio.Event) -> None:
        self._multicaster = multicaster
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
        async with self._multicaster.request(
            message, timeout=self._limits.timeout, roster=self._roster
        ) as collection:
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
        )


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
    "--member", required=True, type=click.Path(path_type=Path), help="Own device directory, or group file."
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
    """Send a request to all listeners of a group with one datagram and show their verified answers.

    URI is coap://ADDRESS/path with one of the group's multicast addresses, coap://GROUP/path, or /path if the
    device is in one group only. Exit code 0 if all who were expected have answered and done it, 1 if
    somebody is missing or has answered with an error, 130 if interrupted before all have answered. Ctrl-C ends
    observe as --for does.
    """
    if method != OBSERVE and (count is not None or seconds is not None):
        raise MisuseError("--count and --for are for observe")
    if payload is not None and method in ("get", OBSERVE):
        raise MisuseError(f"{method} has no payload; put, post and fetch have")
    files = load_member(member)
    target = find_target(uri, files.groups, group)
    expected = read_roster(roster, target.group)
    message = aiocoap.Message(
        code=_CODES[method],
        uri_path=target.path,
        uri_query=target.query,
        payload=read_payload(payload),
        observe=0 if method == OBSERVE else None,
    )
    if content_format is not None:
        message.opt.content_format = content_format
    network = resolve(interface, bind, hop_limit)
    via = read_proxy(proxy, reach, target.group)
    limits = Limits(timeout, count, seconds)
    make_sink = _sink_maker(as_json, method == OBSERVE)
    membership = files.only(target.group.name).membership
    with EndpointState.open(files.state) as state:
        code = asyncio.run(
            run(target, message, membership, state, network, expected, limits, make_sink, key_log, via)
        )
    ctx.exit(code)
