"""aiocoap's message and token layers, with what group communication needs changed.

The aiocoap internals used here and in `interface` are listed, each with its test, in
tests/endpoint/test_aiocoap_internals.py; aiocoap is pinned to releases that pass them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from aiocoap import Context, Message
from aiocoap.pipe import Pipe

from ..errors import Busy, GroupcoapError, Limit, MisuseError
from .limits import Limits, Places, Reached
from .remote import GroupRemote
from .serving import BoundedMessageManager, BoundedTokenManager, Key

OBSERVE_REGISTER = 0


class GroupMessageManager(BoundedMessageManager):
    """The message layer. Duplicates are known below it (by sequence number, or byte by byte for confirmable
    messages), so its own detection, which takes more than 265 messages a second for duplicates, is off."""

    def __init__(self, tokens: GroupTokenManager, can_respond: Callable[[str], bool]) -> None:
        super().__init__(tokens)
        self._can_respond = can_respond

    def _deduplicate_message(self, message: Message) -> bool:
        return False

    def send_message(self, message: Message, messageerror_monitor: Callable[[], None]) -> Any:
        if message.code.is_response() and not self._wanted(message):
            # The base class drops what No-Response excludes, and acknowledges the request if it must be.
            message.opt.no_response = 1 << message.code.class_ - 1
        try:
            return super().send_message(message, messageerror_monitor)
        except GroupcoapError:
            self.abandon(message)  # or all that is sent to the same member would wait for its acknowledgement
            raise

    def _wanted(self, message: Message) -> bool:
        """Whether this response is sent: pure listeners send none, nor who has left the group; No-Response (RFC
        7967) decides if the request has it; errors to multicast only if the resource set No-Response itself (0:
        send in any case)."""
        remote = message.remote
        if not self._can_respond(remote.group):
            return False
        bit = 1 << message.code.class_ - 1
        asked = None if message.request is None else message.request.opt.no_response
        if asked is not None:
            return not asked & bit
        if message.opt.no_response is not None:
            return True  # the base class acts on the value
        by_multicast = remote.incoming is not None and remote.incoming.exchange.by_multicast
        return message.code.is_successful() or not by_multicast

    def under_way(self, message: Message) -> bool:
        """Whether a confirmable message is not acknowledged yet, or waits for an earlier one to be."""
        waiting = self._backlogs.get(message.remote, ())
        return (message.remote, message.mid) in self._active_exchanges or any(m is message for m, _ in waiting)

    def sends_again(self, message: Message) -> bool:
        """Whether this confirmable message, which is being sent right now, has been sent before: the base class
        takes it out of its table to send it again."""
        return (message.remote, message.mid) not in self._active_exchanges

    def awaited(self, request: Message) -> bool:
        """Whether somebody waits for answers to this request."""
        key = (request.token, None if request.remote.is_multicast else request.remote)
        return key in self.token_manager.outgoing_requests

    def _continue_backlog(self, remote: GroupRemote) -> None:
        """Send what has waited for an earlier message. If it cannot be sent any more, since its receiver has left,
        say, that belongs to who asked for it: nobody else is there to be told. Then it is the next one's turn."""
        failed: list[tuple[Message, Exception]] = []
        while True:
            waiting = self._backlogs.get(remote)
            message = waiting[0][0] if waiting else None
            try:
                super()._continue_backlog(remote)
                break
            except GroupcoapError as problem:
                assert message is not None  # or nothing was sent
                self._active_exchanges.pop((message.remote, message.mid))[1].cancel()
                failed.append((message, problem))
        for message, cause in failed:
            pipe = (self.token_manager.outgoing_requests or {}).get((message.token, remote))
            if pipe is not None:
                pipe.add_exception(cause)

    def next_message_id(self) -> int:
        """A Message ID for a message that bypasses this layer."""
        number: int = self._next_message_id()
        return number


def _goes_on(request: Message, response: Message) -> bool:
    """Whether more may follow: see `ends_observation`."""
    return request.opt.observe == OBSERVE_REGISTER and not ends_observation(response)


def ends_observation(response: Message) -> bool:
    """Whether a listener ends its observation with this response: an error, or an answer to this very request that
    is no notification. Where Observe travels outside, its absence alone says nothing, for it is not protected; a
    Partial IV is."""
    remote = response.remote
    if not response.code.is_successful():
        return True
    return response.opt.observe is None and (remote.observe_inside or remote.provenance.sequence_number is None)


def _refuse(limit: Limit) -> None:
    raise Busy(limit)


class GroupTokenManager(BoundedTokenManager):
    """The token layer: one token collects responses from many, and observations at this listener expire if they
    are not refreshed."""

    def __init__(
        self,
        context: Context,
        limits: Limits,
        reached: Reached,
        forget: Callable[[bytes], None],
        observation_lifetime: float,
    ) -> None:
        super().__init__(context, limits, reached, _refuse)
        self._forget = forget
        self._observation_lifetime = observation_lifetime
        self._observations = Places(limits, Limit.OBSERVATIONS, Limit.OBSERVATIONS_PER_PEER)

    def request(self, pipe: Pipe) -> None:
        """Send the pipe's request; every response to its token becomes an event of the pipe. A group request ends
        only when the pipe has no interest left."""
        if self.outgoing_requests is None:
            pipe.add_exception(MisuseError("the endpoint is closed"))
            return
        message = pipe.request
        message.token = self.next_token()
        key = (message.token, None if message.remote.is_multicast else message.remote)
        self.outgoing_requests[key] = pipe
        pipe.on_interest_end(functools.partial(self._end_request, key))
        try:
            self.token_interface.send_message(message, lambda: None)
        except Exception as problem:  # whatever it is belongs to who asked for the request
            pipe.add_exception(problem)

    def resume(self, pipe: Pipe, token: bytes) -> None:
        """Take responses to a group request that a process before this one has sent, as events of this pipe."""
        self.outgoing_requests[token, None] = pipe
        pipe.on_interest_end(functools.partial(self._end_request, (token, None)))

    def next_token(self) -> bytes:
        """One that no request of this endpoint waits under, be it of a process before."""
        token: bytes = super().next_token()
        while (token, None) in self.outgoing_requests:
            token = super().next_token()
        return token

    def _end_request(self, key: tuple[bytes, GroupRemote | None]) -> None:
        if self.outgoing_requests is not None:
            self.outgoing_requests.pop(key, None)
        self._forget(key[0])

    def process_response(self, response: Message) -> bool:
        for asked in (None, response.remote):
            pipe = self.outgoing_requests.get((response.token, asked))
            if pipe is not None:
                pipe.add_response(response, is_last=asked is not None and not _goes_on(pipe.request, response))
                return True
        return False

    def _serve(self, request: Message) -> None:
        key = (request.token, request.remote)
        if request.opt.observe == OBSERVE_REGISTER and key not in self.incoming_requests:
            limit = self._observations.reached(request.remote.peer)
            if limit is not None:
                request.opt.observe = None  # served once, which RFC 7641 §4.1 allows
                self.reached(limit)
        super()._serve(request)
        if request.opt.observe == OBSERVE_REGISTER:
            self._expire_later(key)

    def _places(self, request: Message) -> Places:
        return self._observations if request.opt.observe == OBSERVE_REGISTER else self.requests

    def _expire_later(self, key: Key) -> None:
        entry = self.incoming_requests[key]
        timer = self.loop.call_later(self._observation_lifetime, self.end_incoming, key)
        entry[0].on_interest_end(timer.cancel)

    def end_incoming_of(self, group: str, endpoint_ids: frozenset[bytes] | None = None) -> None:
        """Stop serving all requests of these members of a group, who have left; or of all members."""
        gone = [
            key
            for key in self.incoming_requests or ()  # None once the endpoint is closing
            if key[1].group == group and (endpoint_ids is None or key[1].endpoint_id in endpoint_ids)
        ]
        for key in gone:
            self.end_incoming(key)
