"""aiocoap's message and token layers, with what group communication needs changed.

The aiocoap internals used here and in `interface` are listed, each with its test, in
tests/endpoint/test_aiocoap_internals.py; aiocoap is pinned to releases that pass them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from aiocoap import Context, Message
from aiocoap.messagemanager import MessageManager
from aiocoap.pipe import Pipe
from aiocoap.tokenmanager import TokenManager

from ..errors import MisuseError
from .etags import BlockEtags
from .remote import GroupRemote

OBSERVE_REGISTER = 0


class GroupMessageManager(MessageManager):  # type: ignore[misc]
    """The message layer. Duplicates are known below it (by sequence number, or byte by byte for confirmable
    messages), so its own detection, which takes more than 265 messages a second for duplicates, is off."""

    def __init__(self, token_manager: TokenManager, can_respond: Callable[[str], bool]) -> None:
        super().__init__(token_manager)
        self._can_respond = can_respond
        self._etags = BlockEtags()

    def _deduplicate_message(self, message: Message) -> bool:
        return False

    def send_message(self, message: Message, messageerror_monitor: Callable[[], None]) -> Any:
        if message.code.is_response():
            self._etags.complete(message, self.loop.time())
            if not self._wanted(message):
                # The base class drops what No-Response excludes, and acknowledges the request if it must be.
                message.opt.no_response = 1 << message.code.class_ - 1
        return super().send_message(message, messageerror_monitor)

    def _wanted(self, message: Message) -> bool:
        """Whether this response is sent: pure listeners send none; No-Response (RFC 7967) decides if the request
        has it; errors to multicast only if the resource set No-Response itself (0: send in any case)."""
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

    def abandon(self, message: Message) -> None:
        """Stop retransmitting a confirmable message: nobody waits for its answer any more."""
        pending = self._active_exchanges.pop((message.remote, message.mid), None)
        if pending is not None:
            pending[1].cancel()
            self._continue_backlog(message.remote)

    def next_message_id(self) -> int:
        """A Message ID for a message that bypasses this layer."""
        number: int = self._next_message_id()
        return number


def _goes_on(request: Message, response: Message) -> bool:
    """Whether more may follow: see `ends_observation`."""
    return request.opt.observe == OBSERVE_REGISTER and not ends_observation(response)


def ends_observation(response: Message) -> bool:
    """Whether a listener ends its observation with this response: an error, or an answer to this very request that
    is no notification. An absent Observe option alone says nothing, it is not protected; a Partial IV is."""
    number = response.remote.provenance.sequence_number
    return not response.code.is_successful() or (response.opt.observe is None and number is None)


class GroupTokenManager(TokenManager):  # type: ignore[misc]
    """The token layer: one token collects responses from many, and observations at this listener expire if they
    are not refreshed."""

    def __init__(self, context: Context, forget: Callable[[bytes], None], observation_lifetime: float) -> None:
        super().__init__(context)
        self._forget = forget
        self._observation_lifetime = observation_lifetime

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

    def process_request(self, request: Message) -> None:
        super().process_request(request)
        key = (request.token, request.remote)
        entry = self.incoming_requests.get(key)
        if entry is not None and request.opt.observe == OBSERVE_REGISTER:
            asyncio.get_running_loop().call_later(self._observation_lifetime, self._expire_observation, key, entry)

    def _expire_observation(self, key: tuple[bytes, GroupRemote], entry: tuple[Pipe, Any]) -> None:
        if self.incoming_requests is not None and self.incoming_requests.get(key) is entry:
            self.end_incoming(key)

    def end_incoming(self, key: tuple[bytes, GroupRemote]) -> None:
        """Stop serving this request: nothing more is sent to it."""
        _, stop = self.incoming_requests.pop(key)
        stop()

    def end_incoming_of(self, group: str, endpoint_ids: frozenset[bytes] | None = None) -> None:
        """Stop serving all requests of these members of a group, who have left; or of all members."""
        gone = [
            key
            for key in self.incoming_requests
            if key[1].group == group and (endpoint_ids is None or key[1].endpoint_id in endpoint_ids)
        ]
        for key in gone:
            self.end_incoming(key)
