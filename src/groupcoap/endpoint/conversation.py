"""A group request and everything that follows from it: answers from many, echoes of challenges, further blocks.

Shared by collections (one answer each) and observations (many).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

import aiocoap
from aiocoap import error
from aiocoap.optiontypes import BlockOption
from aiocoap.pipe import Pipe

from ..core.profile import Mode
from ..errors import GroupcoapError, Limit
from .endpoint import Endpoint
from .network import SocketAddress
from .proxy import Proxy, forwarding
from .remote import Awaited, GroupRemote
from .sparing import sparing_logger

MAX_ECHOES = 3
"""Challenges of one listener that are answered in one conversation, or between two refreshes of an observation."""
NO_RESPONSE_AT_ALL: Final = 2 | 8 | 16
"""No-Response (RFC 7967): not interested in responses of any class."""

log = sparing_logger("groupcoap.multicaster")

Deliver = Callable[[aiocoap.Message], None]
Extend = Callable[[bytes], None]


def unsent(message: aiocoap.Message, **changes: object) -> aiocoap.Message:
    """A copy that can be sent as a new message, with these options (or `remote`, `token`) changed."""
    copy = message.copy(mid=None, **changes)
    copy.mtype = None
    return copy


class Route(NamedTuple):
    """Where a conversation's requests go: straight to the group and its listeners, or all to a `proxy`, with
    `options` that say where it sends them on to."""

    address: SocketAddress
    options: Mapping[str, object] = {}
    proxy: Proxy | None = None

    def to(self, listener: bytes) -> Mapping[str, object] | None:
        """The options that lead to this listener; None if a proxy hides where it is."""
        if self.proxy is None:
            return {}
        known = self.proxy.listeners.get(listener)
        return None if known is None else forwarding(*known)


class Leg:
    """One request on the wire, with its token: the group request itself, or a unicast one to a listener."""

    def __init__(
        self, endpoint: Endpoint, message: aiocoap.Message, on_event: Callable[[Pipe.Event], None]
    ) -> None:
        self._endpoint = endpoint
        self.message = message
        self._last = message
        self.ended = False
        self.answered = False
        self._pipe = pipe = Pipe(message, log)

        def receive(event: Pipe.Event) -> bool:
            self.ended = event.is_last
            self.answered = True
            if event.message is not None or event.exception is not None:
                on_event(event)
            return not event.is_last

        self._stop = pipe.on_event(receive)

    def send(self) -> None:
        """Send the request. What goes wrong becomes an event."""
        self._endpoint.tokens.request(self._pipe)

    def resume(self, token: bytes) -> None:
        """Wait for answers to the request as a process before this one sent it."""
        self.message.token = token
        self._endpoint.tokens.resume(self._pipe, token)

    @property
    def token(self) -> bytes:
        """What answers are known by."""
        token: bytes = self.message.token
        return token

    @property
    def under_way(self) -> bool:
        """Whether what was sent last is still being retransmitted."""
        return self._endpoint.messages.under_way(self._last)

    def repeat(self, **options: object) -> None:
        """Send the request again, as a new one, with the same token and other options (Observe). The Repeat value
        of an echo has served its purpose: sent again, it would not be known any more."""
        self._give_up()
        self._last = unsent(self.message, echo=None, **options)
        self._endpoint.messages.send_message(self._last, lambda: None)

    def end_observation(self) -> None:
        """Tell the listeners to notify no more (Observe 1), and wait for nothing. By unicast this is retransmitted.
        `NetworkFault` if it cannot be sent: then the observations expire."""
        try:
            self.repeat(observe=1, no_response=NO_RESPONSE_AT_ALL)
        finally:
            self._stop_waiting()

    def close(self) -> None:
        """Wait no longer for responses, and retransmit nothing."""
        self._stop_waiting()
        self._give_up()

    def _give_up(self) -> None:
        if self._last.mtype is aiocoap.CON:
            self._endpoint.messages.abandon(self._last)

    def _stop_waiting(self) -> None:
        if not self.ended:
            self.ended = True
            self._stop()


class Conversation:
    """Sends `message` to the group and hands every complete, verified answer to `deliver`.

    `to`: the one listener that is asked, in this `mode` (see `GroupRemote`); None: the whole group. `route`: the
    options that lead to the group, and to a listener where it is known, through a proxy.
    `extend(endpoint_id)` is called when a listener has shown that its answer will take longer. `awaited`: what to
    remember beyond this process. `resumed`: the token of a request that a process before this one has sent;
    `message` then only stands for it. Raises what sending raised (`GroupcoapError`)."""

    def __init__(
        self,
        endpoint: Endpoint,
        group: str,
        route: Route,
        message: aiocoap.Message,
        deliver: Deliver,
        extend: Extend,
        *,
        awaited: Awaited | None = None,
        resumed: bytes | None = None,
        to: bytes | None = None,
        mode: Mode | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._route = route
        self._deliver = deliver
        self._extend = extend
        self._echoes: dict[bytes, int] = {}
        self._fetching: dict[bytes, asyncio.Task[None]] = {}
        self.problems: dict[bytes, str] = {}
        """Endpoint ID → why its answer could not be completed."""
        self._original = unsent(message, token=b"")
        self._failed: BaseException | None = None
        self._synchronizes_only = resumed is not None
        self._closed = False
        self._challenge_code = endpoint.groups.configuration(group).profile.rules.challenge_code
        self._legs: dict[bytes, Leg] = {}
        remote = GroupRemote(route.address, group, to, awaited=awaited, mode=mode)
        request = self._original.copy(remote=remote, **route.options)
        self._root = Leg(endpoint, request, self._root_event)
        if resumed is None:
            self._root.send()
        else:
            self._root.resume(resumed)
        if self._failed is not None:
            raise self._failed

    def refresh(self) -> None:
        """Register again: the group by multicast, and by unicast the listeners that have answered an echo only. It
        may be challenged again."""
        self._echoes.clear()
        self._legs = {listener: leg for listener, leg in self._legs.items() if not leg.ended}
        for leg in (self._root, *self._legs.values()):
            if leg.under_way:
                continue
            try:
                leg.repeat()
            except GroupcoapError as problem:  # the network may be back the next time
                log.warning("observation not refreshed: %s", problem)

    def repeat(self) -> None:
        """Send the group request once more, as a new one with the same token. That it cannot be is logged: answers
        to the first may come yet."""
        if not self._root.ended:
            try:
                self._root.repeat()
            except GroupcoapError as problem:
                log.warning("request not repeated: %s", problem)

    def leave_out(self, listener: bytes) -> None:
        """Ask this one, who has left, for nothing more: its Endpoint ID may be another's by now."""
        leg = self._legs.pop(listener, None)
        if leg is not None:
            leg.close()

    def end_observation(self) -> None:
        """Tell all listeners to stop, and wait for nothing more."""
        for leg in (self._root, *self._legs.values()):
            if not leg.ended:
                with suppress(GroupcoapError):  # then it expires there
                    leg.end_observation()
        self._legs.clear()

    @property
    def token(self) -> bytes:
        """That of the group request."""
        return self._root.token

    @property
    def busy(self) -> bool:
        """Whether blocks of some answer are still being fetched."""
        return bool(self._fetching)

    def _root_event(self, event: Pipe.Event) -> None:
        if event.exception is not None:
            self._failed = event.exception
            return
        if event.message.opt.observe is not None:
            self._follows_the_group(event.message.remote.endpoint_id)
        self._received(event.message)

    def _follows_the_group(self, listener: bytes) -> None:
        """It notifies for the group request: its notifications for an echo, sent before, would come twice."""
        leg = self._legs.pop(listener, None)
        if leg is not None and not leg.ended:
            with suppress(GroupcoapError):
                leg.end_observation()

    def _leg_event(self, event: Pipe.Event) -> None:
        if event.exception is not None:
            log.debug("no answer by unicast: %s", event.exception)
        else:
            self._received(event.message)

    def _received(self, response: aiocoap.Message) -> None:
        remote: GroupRemote = response.remote
        response.request = self._original
        repeat = response.opt.echo
        if response.code == self._challenge_code and repeat is not None:
            self._challenged(remote, repeat)
        elif self._closed:
            return
        elif response.opt.block2 is not None and response.opt.block2.more:
            self._fetch(remote, response)
        else:
            self._deliver(response)

    # ---- challenges

    def _challenged(self, remote: GroupRemote, repeat: bytes) -> None:
        """A listener asks for proof of freshness (Appendix D.3; Group OSCORE §9): the same request, by unicast,
        with its value, and in pairwise mode where there is one."""
        listener = remote.endpoint_id or b""
        count = self._echoes.get(listener, 0)
        if count >= MAX_ECHOES:
            return
        self._echoes[listener] = count + 1
        way = self._way_to(listener)
        if way is None:
            return
        if self._synchronizes_only:
            self._synchronize_only(remote, repeat, way)
            return
        self._extend(listener)
        before = self._legs.pop(listener, None)
        if before is not None:  # what it wants to know now is another value
            before.close()
        echo = self._original.copy(remote=remote, echo=repeat, **way)
        self._legs[listener] = Leg(self._endpoint, echo, self._leg_event)
        self._legs[listener].send()

    def _way_to(self, listener: bytes) -> Mapping[str, object] | None:
        """The options that lead to this listener; None if a proxy hides where it is."""
        way = self._route.to(listener)
        if way is None:
            self.problems[listener] = "it must be asked by unicast, and a proxy hides where it is"
        return way

    def _synchronize_only(self, remote: GroupRemote, repeat: bytes, way: Mapping[str, object]) -> None:
        """The answer has been given up already: let the listener synchronize, but not act on what may no longer
        be wanted. A request that differs from the original is discarded there."""
        probe = aiocoap.Message(code=aiocoap.GET, transport_tuning=aiocoap.Unreliable, echo=repeat, **way)
        probe.opt.uri_path = (".well-known", "core")
        probe.opt.uri_query = ("synchronize",)
        probe.remote = remote
        leg = Leg(self._endpoint, probe, lambda event: None)
        leg.send()
        leg.close()

    # ---- blocks

    def _fetch(self, remote: GroupRemote, first: aiocoap.Message) -> None:
        listener = remote.endpoint_id or b""
        if self._synchronizes_only:
            self.problems[listener] = "the rest of a block-wise answer cannot be fetched after a restart"
            return
        if self._original.code not in (aiocoap.GET, aiocoap.FETCH):
            # Only these may go by unicast without a Repeat value.
            self.problems[listener] = f"a block-wise answer to {self._original.code} cannot be fetched"
            return
        way = self._way_to(listener)
        if way is None:
            return
        before = self._fetching.pop(listener, None)
        if before is not None:
            before.cancel()  # a newer notification takes the place of an unfinished one
        ask = self._original.copy(remote=remote, observe=None, **way)
        task = asyncio.get_running_loop().create_task(self._fetch_rest(ask, listener, first))
        self._fetching[listener] = task

        def finished(done: asyncio.Task[None]) -> None:
            if self._fetching.get(listener) is done:
                del self._fetching[listener]
                self._extend(listener)  # wakes whoever waits, to look again

        task.add_done_callback(finished)

    async def _fetch_rest(self, ask: aiocoap.Message, listener: bytes, first: aiocoap.Message) -> None:
        fetches = self._endpoint.fetches
        if fetches.locked():
            self._endpoint.counters.reached(Limit.FETCHES)
        try:
            async with fetches:
                whole = await self._assemble(ask, listener, first)
            self._deliver(whole)
        except (error.Error, GroupcoapError, ValueError) as problem:
            self.problems[listener] = f"block-wise answer not completed: {problem or type(problem).__name__}"

    async def _assemble(self, ask: aiocoap.Message, listener: bytes, first: aiocoap.Message) -> aiocoap.Message:
        body = first.payload
        block: BlockOption.BlockwiseTuple = first.opt.block2
        if block.block_number != 0 or len(body) != block.size:
            raise ValueError("it does not begin with a whole first block")
        etag = first.opt.etags
        while block.more:
            if len(body) > self._endpoint.limits.body:
                raise ValueError(f"larger than {self._endpoint.limits.body} bytes")
            self._extend(listener)
            wanted = (len(body) // block.size, False, block.size_exponent)
            answer = await self._ask(ask.copy(remote=ask.remote, block2=wanted))
            block = answer.opt.block2
            if answer.code != first.code or block is None or block.start != len(body):
                raise ValueError(f"block {wanted[0]} was answered with {answer.code}")
            if answer.opt.etags != etag:
                raise ValueError("the resource changed meanwhile (another ETag)")
            if not answer.payload or (block.more and len(answer.payload) != block.size):
                raise ValueError("a block has the wrong size")
            body += answer.payload
        whole = first.copy(payload=body, block2=None)
        whole.request = self._original
        return whole

    async def _ask(self, message: aiocoap.Message) -> aiocoap.Message:
        """One unicast request and its answer; the answer may be late, which is the caller's deadline's matter."""
        answered: asyncio.Future[aiocoap.Message] = asyncio.get_running_loop().create_future()

        def on_event(event: Pipe.Event) -> None:
            if answered.done():
                return
            if event.exception is not None:
                answered.set_exception(event.exception)
            else:
                answered.set_result(event.message)

        leg = Leg(self._endpoint, message, on_event)
        leg.send()
        try:
            return await answered
        finally:
            leg.close()

    # ---- the end

    def close(self, linger: float = 0.0) -> None:
        """Deliver nothing more. For `linger` seconds late challenges are still answered, so that their listeners
        are synchronized by the next request; so are at once those whose echo may have been lost."""
        for task in list(self._fetching.values()):
            task.cancel()
        for leg in self._legs.values():
            leg.close()
            if linger > 0 and not leg.answered:
                remote = leg.message.remote
                self._synchronize_only(remote, leg.message.opt.echo, self._route.to(remote.endpoint_id) or {})
        self._legs.clear()
        self._closed = self._synchronizes_only = True
        if linger > 0:
            asyncio.get_running_loop().call_later(linger, self._root.close)
        else:
            self._root.close()
