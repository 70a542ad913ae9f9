"""The multicaster: one group request, many verified answers; and observations of a whole group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import aiocoap

from ..core.profile import Mode
from ..core.synchronization import Method
from ..errors import Limit, MisuseError, Rejected
from ..files.pending import PendingRequest
from ..membership import GroupAddress
from .conversation import Conversation, Route
from .endpoint import OBSERVATION_LIFETIME, Endpoint
from .layers import ends_observation
from .network import SocketAddress
from .proxy import Proxy, forwarding
from .remote import Awaited, GroupRemote, Provenance

DEFAULT_TIMEOUT = 7.0
"""Seconds to wait for answers: the default Leisure of listeners and a bit."""
LINGER = 10.0
"""Seconds that late challenges are answered after a collection has ended."""


RENEWAL_UNDER_WAY = 3.0
"""Seconds after a renewal was installed here, in which others may still be without it."""
REPEAT_AFTER = 0.5
"""Seconds after a renewal, or after a request soon after one, when those who have not answered are asked again; a
third of the timeout, if that is less."""
REPEATS = 2
"""How often a request is repeated for renewals."""
SAFE = frozenset((aiocoap.GET, aiocoap.FETCH))
REPEATABLE = SAFE | {aiocoap.PUT, aiocoap.DELETE}
"""What may be done twice (RFC 7252 §5.1, RFC 8132)."""
MAX_EXTENSION = 20
"""An answer that comes in pieces may take so many times the timeout in all."""


class _Known:
    """Stands for: every listener of the group whose credential is at hand."""


KNOWN: Final = _Known()
Roster = Iterable[bytes] | _Known | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One listener's verified answer.

    `name`: what people call the listener, if known. `delay`: seconds since the group request was sent."""

    endpoint_id: bytes
    name: str | None
    message: aiocoap.Message
    provenance: Provenance
    address: SocketAddress
    delay: float

    @property
    def label(self) -> str:
        """The name, or the Endpoint ID in hex."""
        return self.name or self.endpoint_id.hex() or "(empty id)"


class Multicaster:
    """Sends requests to a group, at one of its multicast addresses (the first, if none is named), directly or
    through a forward proxy.

    `MisuseError` if this endpoint is a pure listener there, or not in the group, or the address is not the
    group's."""

    def __init__(
        self, endpoint: Endpoint, group: str, address: GroupAddress | None = None, proxy: Proxy | None = None
    ) -> None:
        configuration = endpoint.groups.configuration(group)
        if endpoint.groups.current(group).sender is None:
            raise MisuseError(f"a pure listener cannot send to group {group!r}")
        if address is not None and address not in configuration.addresses:
            raise MisuseError(f"{address} is not an address of group {group!r}")
        self.endpoint = endpoint
        self.group = group
        self.address = address or configuration.addresses[0]
        self.proxy = proxy
        endpoint.network.open_unicast((self.address if proxy is None else proxy).host.version)

    @property
    def route(self) -> Route:
        """Where requests go. Asked each time: an interface that was made anew has another index."""
        socket_address = self.endpoint.network.socket_address
        host, port = self.address.host, self.address.port
        if self.proxy is None:
            return Route(socket_address(host, port))
        return Route(socket_address(self.proxy.host, self.proxy.port), forwarding(host, port), self.proxy)

    @property
    def listeners(self) -> frozenset[bytes]:
        """Endpoint IDs of the listeners that are known and can answer."""
        return self.endpoint.groups.listeners(self.group)

    def name_of(self, endpoint_id: bytes) -> str | None:
        """What people call this member, if it is known and this is a member too."""
        if self.group not in self.endpoint.groups.names:
            return None
        member = self.endpoint.groups.member(self.group, endpoint_id)
        return None if member is None else member.name

    def request(
        self, message: aiocoap.Message, *, timeout: float = DEFAULT_TIMEOUT, roster: Roster = KNOWN
    ) -> Collection:
        """Send a request to the group now; iterate over what is returned for the answers.

        The iteration ends after `timeout` seconds, or as soon as everyone in `roster` has answered: Endpoint IDs,
        the known listeners, or None for whoever answers; or when this endpoint leaves the group or joins it again.
        `NetworkFault`, `MisuseError`, `SequenceNumbersExhausted`, `ContextExpired` if it cannot be sent."""
        if message.opt.observe is not None:
            raise MisuseError("use observe() for a request with Observe")
        self.endpoint.groups.look_for_renewal()
        return Collection(self, message, timeout, self.expected(roster))

    def ask(
        self,
        endpoint_id: bytes,
        message: aiocoap.Message,
        address: SocketAddress,
        *,
        mode: Mode | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Collection:
        """Send a request to one listener alone, at its address (`Answer.address` of an answer, or
        `NetworkOptions`' own form: host, port), and iterate over what is returned for its answer.

        `mode`: None is the pairwise mode, where the group has one: nobody else can read the request, and it cannot
        be turned to another listener (Group OSCORE §8). In group mode, and in groups without the other, only GET
        and FETCH are accepted. Raises as `request` does, and `MisuseError` if the listener is not known."""
        if message.opt.observe is not None:
            raise MisuseError("use observe() for a request with Observe")
        self.endpoint.groups.look_for_renewal()
        return Collection(self, message, timeout, frozenset((endpoint_id,)), to=(endpoint_id, address, mode))

    def left_over(self) -> list[Collection]:
        """Collections of the requests that a process before this one has sent and not given up: answers that come
        from now on are taken, if they reach this endpoint (`NetworkOptions.port`). To be called once, at the start.

        A listener that challenges is synchronized, but the request is not repeated to it."""
        pending = self.endpoint.groups.pending
        found = [request for request in pending.left_over.values() if request.group == self.group]
        collections = []
        for request in found:
            del pending.left_over[request.token]
            try:
                self.endpoint.interface.resume(request)
            except Rejected:  # renewed meanwhile: nobody could verify its answers
                pending.ended(request.token)
                continue
            collections.append(Collection(self, None, request.deadline - request.sent, request.roster, request))
        return collections

    def observe(
        self,
        message: aiocoap.Message,
        *,
        refresh: float = OBSERVATION_LIFETIME / 2,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Observation:
        """Observe a resource at every listener. Registers again every `refresh` seconds, since listeners forget
        who does not; raises as `request` does."""
        self.endpoint.groups.look_for_renewal()
        return Observation(self, message, refresh, timeout)

    def expected(self, roster: Roster) -> frozenset[bytes]:
        """The Endpoint IDs that a roster stands for."""
        if isinstance(roster, _Known):
            return self.listeners
        return frozenset(roster or ())

    def answer(self, response: aiocoap.Message, sent: float) -> Answer:
        """A delivered response as an answer."""
        remote: GroupRemote = response.remote
        origin = remote.provenance
        if origin is None:
            raise MisuseError("a response without provenance")
        now = asyncio.get_running_loop().time()
        name = self.name_of(origin.endpoint_id)
        return Answer(origin.endpoint_id, name, response, origin, remote.address, now - sent)

    @property
    def linger(self) -> float:
        """How long challenges may come late: only where listeners challenge at all, and this is a member."""
        if self.group not in self.endpoint.groups.names:
            return 0.0
        method = self.endpoint.groups.configuration(self.group).policy.synchronization.method
        return LINGER if method is Method.CHALLENGE_RESPONSE else 0.0


class Collection:
    """The answers to one group request: an asynchronous iterator that ends by itself.

    Afterwards `answered` and `missing` say who did and who did not; `problems` why an answer could not be
    completed. A listener that challenges gets the request again by itself and its time anew.

    Where a renewal comes between, some listeners do not have the keys of the request any more, or not yet. A
    request that may be done twice (`REPEATABLE`) is then repeated to the group if somebody has not answered: one
    that changes something only as long as it is the last such of this endpoint, so that it does not undo a later
    one. Of all others the application decides. Who has left meanwhile is expected no more."""

    def __init__(
        self,
        multicaster: Multicaster,
        message: aiocoap.Message | None,
        timeout: float,
        roster: frozenset[bytes],
        left_over: PendingRequest | None = None,
        to: tuple[bytes, SocketAddress, Mode | None] | None = None,
    ) -> None:
        if timeout <= 0:
            raise MisuseError("a timeout is a positive number of seconds")
        self._multicaster = multicaster
        self._timeout = timeout
        self.roster = roster
        self._answers: dict[bytes, Answer] = {}
        self._queue: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._extended: dict[bytes, float] = {}
        self._loop = asyncio.get_running_loop()
        self._sent = self._loop.time() if left_over is None else left_over.sent
        self._deadline = self._sent + timeout
        self._before = frozenset[bytes]() if left_over is None else frozenset(left_over.answered)
        self._closed = False
        endpoint = multicaster.endpoint
        # What is asked of one alone is not remembered: it can be asked again, and is in another mode.
        self._conversation = Conversation(
            endpoint,
            multicaster.group,
            multicaster.route if to is None else Route(to[1]),
            message or aiocoap.Message(code=aiocoap.GET),
            self._delivered,
            self._extend,
            awaited=Awaited(self._sent, self._deadline, roster) if to is None else None,
            resumed=None if left_over is None else left_over.token,
            to=None if to is None else to[0],
            mode=None if to is None else to[2],
        )
        # Whoever stops iterating halfway must not keep the exchange open for ever.
        self._reaper = self._loop.call_at(self._deadline, self._reap)
        endpoint.closings.add(self.close)
        endpoint.endings.add(self._group_ended)
        endpoint.departures.add(self._departed)
        endpoint.renewals.add(self._renewed)
        self._again: asyncio.TimerHandle | None = None
        self._repeats = REPEATS if to is None and message is not None and message.code in REPEATABLE else 0
        self._command: int | None = None  # the number of this among those that change something
        if message is not None and message.code not in SAFE:
            self._command = endpoint.commands[multicaster.group] = endpoint.commands[multicaster.group] + 1
        if endpoint.groups.since_renewal(multicaster.group) < RENEWAL_UNDER_WAY:
            self._renewed(multicaster.group)

    def _departed(self, group: str, endpoint_ids: frozenset[bytes]) -> None:
        if group == self._multicaster.group and self.roster & endpoint_ids:
            self.roster -= endpoint_ids
            self._wake()

    def _renewed(self, group: str) -> None:
        """Others may have no use for the request as it was sent. Repeat it soon, but not before those who have
        could answer."""
        if group == self._multicaster.group and self._repeats and self._again is None:
            self._again = self._loop.call_later(min(REPEAT_AFTER, self._timeout / 3), self._repeat)

    def _repeat(self) -> None:
        self._again = None
        overtaken = self._command not in (None, self._multicaster.endpoint.commands[self._multicaster.group])
        if self._closed or not self.missing or overtaken:
            return
        self._repeats -= 1
        self._conversation.repeat()
        latest = self._sent + MAX_EXTENSION * self._timeout
        self._deadline = min(max(self._deadline, self._loop.time() + self._timeout), latest)
        self._wake()

    def _wake(self) -> None:
        """Have who waits look at the deadlines again."""
        if self._queue.empty():
            self._queue.put_nowait(None)

    def _group_ended(self, group: str) -> None:
        if group == self._multicaster.group:
            self.close()

    @property
    def answered(self) -> frozenset[bytes]:
        """Endpoint IDs that have answered, before a restart too (see `Multicaster.left_over`)."""
        return self._before | self._answers.keys()

    @property
    def missing(self) -> frozenset[bytes]:
        """Endpoint IDs of the roster that have not answered (yet)."""
        return self.roster - self.answered

    @property
    def problems(self) -> dict[bytes, str]:
        """Endpoint ID → why its answer could not be completed."""
        return dict(self._conversation.problems)

    def _delivered(self, response: aiocoap.Message) -> None:
        answer = self._multicaster.answer(response, self._sent)
        if answer.endpoint_id in self._answers:
            return  # the answer to an echo, after one to the group request itself
        # Not before: a challenge or the first block of an answer is not yet one.
        self._multicaster.endpoint.groups.pending.answered(self._conversation.token, answer.endpoint_id)
        self._answers[answer.endpoint_id] = answer
        self._extended.pop(answer.endpoint_id, None)
        self._queue.put_nowait(answer)

    def _extend(self, endpoint_id: bytes) -> None:
        if endpoint_id not in self._answers:
            latest = self._sent + MAX_EXTENSION * self._timeout
            self._extended[endpoint_id] = min(self._loop.time() + self._timeout, latest)
        self._wake()

    @property
    def _remaining(self) -> float:
        return max(self._deadline, *self._extended.values(), 0.0) - self._loop.time()

    @property
    def _complete(self) -> bool:
        return bool(self.roster) and not self.missing and not self._conversation.busy

    def __aiter__(self) -> AsyncIterator[Answer]:
        return self

    async def __anext__(self) -> Answer:
        while True:
            if not self._queue.empty():
                answer = self._queue.get_nowait()
            elif self._closed or self._complete or self._remaining <= 0:
                self.close()
                raise StopAsyncIteration
            else:
                try:
                    # Not wait_for: before Python 3.12 it can lose a cancellation.
                    async with asyncio.timeout(self._remaining):
                        answer = await self._queue.get()
                except TimeoutError:
                    continue
            if answer is not None:
                return answer

    def _reap(self) -> None:
        if self._closed:
            return
        if self._remaining > 0:
            self._reaper = self._loop.call_later(self._remaining, self._reap)
        else:
            self.close()

    def close(self) -> None:
        """Collect no more. Answers that have come already can still be iterated over."""
        if self._closed:
            return
        self._closed = True
        self._multicaster.endpoint.closings.discard(self.close)
        self._multicaster.endpoint.endings.discard(self._group_ended)
        self._multicaster.endpoint.departures.discard(self._departed)
        self._multicaster.endpoint.renewals.discard(self._renewed)
        self._reaper.cancel()
        if self._again is not None:
            self._again.cancel()
        self._queue.put_nowait(None)
        self._conversation.close(linger=self._multicaster.linger)

    async def __aenter__(self) -> Collection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream:
    """The notifications of one listener: an asynchronous iterator that ends when the listener ends its observation
    (an error, or an answer without Observe) or the whole is ended."""

    def __init__(self, endpoint: Endpoint, endpoint_id: bytes) -> None:
        self.endpoint_id = endpoint_id
        self.ended = False
        self.latest: Answer | None = None
        self._reached = endpoint.counters.reached
        self._queue: asyncio.Queue[Answer | None] = asyncio.Queue(endpoint.limits.unread)

    def _put(self, answer: Answer) -> None:
        self.latest = answer
        if self._queue.full():
            self._queue.get_nowait()  # observing is about the present state: the oldest goes
            self._reached(Limit.UNREAD)
        self._queue.put_nowait(answer)

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            if self._queue.full():
                self._queue.get_nowait()
            self._queue.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[Answer]:
        return self

    async def __anext__(self) -> Answer:
        answer = None if self.ended and self._queue.empty() else await self._queue.get()
        if answer is None:
            raise StopAsyncIteration
        return answer


class Observation:
    """An observation of a resource at every listener of a group.

    Iterate over it for all notifications as they come, or take one listener's from `streams`. `end` it: the
    listeners are told with Observe 1 and the same token."""

    def __init__(self, multicaster: Multicaster, message: aiocoap.Message, refresh: float, timeout: float) -> None:
        if refresh <= 0 or timeout <= 0:
            raise MisuseError("refresh and timeout are positive numbers of seconds")
        if message.code not in (aiocoap.GET, aiocoap.FETCH):
            raise MisuseError("only GET and FETCH can observe")
        self._multicaster = multicaster
        self.streams: dict[bytes, Stream] = {}
        """Endpoint ID → its notifications; a listener appears with its first answer."""
        endpoint = multicaster.endpoint
        self._all = Stream(endpoint, b"")
        self._loop = asyncio.get_running_loop()
        self._sent = self._loop.time()
        self._conversation = Conversation(
            endpoint, multicaster.group, multicaster.route, message.copy(observe=0), self._delivered, lambda _: None
        )
        self._refresh = refresh
        self._refresher = self._loop.call_later(refresh, self._register_again)
        endpoint.departures.add(self._member_left)
        endpoint.endings.add(self._group_ended)
        endpoint.closings.add(self._stop)

    def _delivered(self, response: aiocoap.Message) -> None:
        answer = self._multicaster.answer(response, self._sent)
        stream = self.streams.get(answer.endpoint_id)
        if stream is None or stream.ended:
            stream = Stream(self._multicaster.endpoint, answer.endpoint_id)
            self.streams[answer.endpoint_id] = stream
        stream._put(answer)
        self._all._put(answer)
        if ends_observation(response):
            stream._end()

    def _register_again(self) -> None:
        self._refresher = self._loop.call_later(self._refresh, self._register_again)
        self._conversation.refresh()

    def _member_left(self, group: str, endpoint_ids: frozenset[bytes]) -> None:
        for endpoint_id in endpoint_ids if group == self._multicaster.group else ():
            if endpoint_id in self.streams:
                self.streams[endpoint_id]._end()
            self._conversation.leave_out(endpoint_id)

    def _group_ended(self, group: str) -> None:
        if group == self._multicaster.group:
            self._stop()

    def _stop(self) -> None:
        """End all streams, and wait for nothing more."""
        self._refresher.cancel()
        endpoint = self._multicaster.endpoint
        endpoint.departures.discard(self._member_left)
        endpoint.endings.discard(self._group_ended)
        endpoint.closings.discard(self._stop)
        for stream in (*self.streams.values(), self._all):
            stream._end()
        self._conversation.close()

    def __aiter__(self) -> AsyncIterator[Answer]:
        return self._all

    async def end(self) -> None:
        """Tell the listeners to stop (Observe 1, same token), and end all streams."""
        if self._all.ended:
            return
        self._conversation.end_observation()
        await asyncio.sleep(0)
        self._stop()

    async def __aenter__(self) -> Observation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
