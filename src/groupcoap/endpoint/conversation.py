"""A group request and everything that follows from it: answers from many, echoes of challenges, further blocks.

Shared by collections (one answer each) and observations (many).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import aiocoap
from aiocoap import error
from aiocoap.optiontypes import BlockOption
from aiocoap.pipe import Pipe

from ..errors import GroupcoapError
from .endpoint import Endpoint
from .interface import MAX_BODY
from .network import SocketAddress
from .remote import GroupRemote

MAX_ECHOES = 3
"""Challenges of one listener that are answered in one conversation."""

log = logging.getLogger("groupcoap.multicaster")

Deliver = Callable[[aiocoap.Message], None]
Extend = Callable[[bytes], None]


def unsent(message: aiocoap.Message, **changes: object) -> aiocoap.Message:
    """A copy that can be sent as a new message, with these options (or `remote`, `token`) changed."""
    copy = message.copy(mid=None, **changes)
    copy.mtype = None
    return copy


class Leg:
    """One request on the wire, with its token: the group request itself, or a unicast one to a listener."""

    def __init__(
        self, endpoint: Endpoint, message: aiocoap.Message, on_event: Callable[[Pipe.Event], None]
    ) -> None:
        self._endpoint = endpoint
        self.message = message
        self.ended = False
        pipe = Pipe(message, log)

        def receive(event: Pipe.Event) -> bool:
            self.ended = event.is_last
            if event.message is not None or event.exception is not None:
                on_event(event)
            return not event.is_last

        self._stop = pipe.on_event(receive)
        endpoint.tokens.request(pipe)

    def repeat(self, **options: object) -> None:
        """Send the request again, as a new one, with the same token and other options (Observe). The Repeat value
        of an echo has served its purpose: sent again, it would not be known any more."""
        again = unsent(self.message, echo=None, **options)
        self._endpoint.messages.send_message(again, lambda: None)

    def close(self) -> None:
        """Wait no longer for responses."""
        self.ended = True
        self._stop()
        if self.message.mtype is aiocoap.CON:
            self._endpoint.messages.abandon(self.message)


class Conversation:
    """Sends `message` to the group and hands every complete, verified answer to `deliver`.

    `extend(endpoint_id)` is called when a listener has shown that its answer will take longer. Raises what sending
    raised (`GroupcoapError`)."""

    def __init__(
        self,
        endpoint: Endpoint,
        group: str,
        address: SocketAddress,
        message: aiocoap.Message,
        deliver: Deliver,
        extend: Extend,
    ) -> None:
        self._endpoint = endpoint
        self._deliver = deliver
        self._extend = extend
        self._echoes: dict[bytes, int] = {}
        self._fetching: dict[bytes, asyncio.Task[None]] = {}
        self.problems: dict[bytes, str] = {}
        """Endpoint ID → why its answer could not be completed."""
        self._original = unsent(message, token=b"")
        self._failed: BaseException | None = None
        self._lingering = False
        self._legs: list[Leg] = []
        request = self._original.copy(remote=GroupRemote(address, group, None))
        self._root = Leg(endpoint, request, self._root_event)
        self._legs.append(self._root)
        if self._failed is not None:
            raise self._failed

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The group request, and the unicast requests that took its place for single listeners and go on."""
        self._legs = [leg for leg in self._legs if leg is self._root or not leg.ended]
        return tuple(self._legs)

    def renew_echoes(self) -> None:
        """The request is about to be sent again: it may be challenged again."""
        self._echoes.clear()

    @property
    def busy(self) -> bool:
        """Whether blocks of some answer are still being fetched."""
        return bool(self._fetching)

    def _root_event(self, event: Pipe.Event) -> None:
        if event.exception is not None:
            self._failed = event.exception
        else:
            self._received(event.message)

    def _leg_event(self, event: Pipe.Event) -> None:
        if event.exception is not None:
            log.debug("no answer by unicast: %s", event.exception)
        else:
            self._received(event.message)

    def _received(self, response: aiocoap.Message) -> None:
        remote: GroupRemote = response.remote
        response.request = self._original
        repeat = response.opt.echo
        if response.code is aiocoap.FORBIDDEN and repeat is not None:
            self._challenged(remote, repeat)
        elif self._lingering:
            return
        elif response.opt.block2 is not None and response.opt.block2.more:
            self._fetch(remote, response)
        else:
            self._deliver(response)

    # ---- challenges

    def _challenged(self, remote: GroupRemote, repeat: bytes) -> None:
        """A listener asks for proof of freshness (Appendix D.3): the same request, by unicast, with its value."""
        listener = remote.endpoint_id or b""
        count = self._echoes.get(listener, 0)
        if count >= MAX_ECHOES:
            return
        self._echoes[listener] = count + 1
        if self._lingering:
            self._synchronize_only(remote, repeat)
            return
        self._extend(listener)
        self._legs.append(Leg(self._endpoint, self._original.copy(remote=remote, echo=repeat), self._leg_event))

    def _synchronize_only(self, remote: GroupRemote, repeat: bytes) -> None:
        """The answer has been given up already: let the listener synchronize, but not act on what may no longer
        be wanted. A request that differs from the original is discarded there."""
        probe = aiocoap.Message(code=aiocoap.GET, transport_tuning=aiocoap.Unreliable, echo=repeat)
        probe.opt.uri_path = (".well-known", "core")
        probe.opt.uri_query = ("synchronize",)
        probe.remote = remote
        Leg(self._endpoint, probe, lambda event: None).close()

    # ---- blocks

    def _fetch(self, remote: GroupRemote, first: aiocoap.Message) -> None:
        listener = remote.endpoint_id or b""
        if self._original.code not in (aiocoap.GET, aiocoap.FETCH):
            # Only these may go by unicast without a Repeat value.
            self.problems[listener] = f"a block-wise answer to {self._original.code} cannot be fetched"
            return
        before = self._fetching.pop(listener, None)
        if before is not None:
            before.cancel()  # a newer notification takes the place of an unfinished one
        task = asyncio.get_running_loop().create_task(self._fetch_rest(remote, listener, first))
        self._fetching[listener] = task

        def finished(done: asyncio.Task[None]) -> None:
            if self._fetching.get(listener) is done:
                del self._fetching[listener]
                self._extend(listener)  # wakes whoever waits, to look again

        task.add_done_callback(finished)

    async def _fetch_rest(self, remote: GroupRemote, listener: bytes, first: aiocoap.Message) -> None:
        try:
            self._deliver(await self._assemble(remote, listener, first))
        except (error.Error, GroupcoapError, ValueError) as problem:
            self.problems[listener] = f"block-wise answer not completed: {problem or type(problem).__name__}"

    async def _assemble(self, remote: GroupRemote, listener: bytes, first: aiocoap.Message) -> aiocoap.Message:
        body = first.payload
        block: BlockOption.BlockwiseTuple = first.opt.block2
        if block.block_number != 0 or len(body) != block.size:
            raise ValueError("it does not begin with a whole first block")
        etag = first.opt.etags
        while block.more:
            if len(body) > MAX_BODY:
                raise ValueError(f"larger than {MAX_BODY} bytes")
            self._extend(listener)
            wanted = (len(body) // block.size, False, block.size_exponent)
            answer = await self._ask(self._original.copy(remote=remote, observe=None, block2=wanted))
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
        try:
            return await answered
        finally:
            leg.close()

    # ---- the end

    def close(self, linger: float = 0.0) -> None:
        """Deliver nothing more. For `linger` seconds late challenges are still answered, so that their listeners
        are synchronized by the next request."""
        for task in list(self._fetching.values()):
            task.cancel()
        for leg in self._legs[1:]:
            leg.close()
        self._legs = self._legs[:1]
        self._lingering = True
        if linger > 0:
            asyncio.get_running_loop().call_later(linger, self._root.close)
        else:
            self._root.close()
