"""aiocoap's message and token layers with bounds: what requests cost the one who serves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiocoap import CON, NON, Context, Message
from aiocoap.messagemanager import MessageManager
from aiocoap.tokenmanager import TokenManager

from ..errors import Limit
from .blockwise import Blockwise
from .limits import Limits, Places, Reached

Key = tuple[bytes, Any]
"""(token, remote) of a request that is being served."""


class BoundedMessageManager(MessageManager):  # type: ignore[misc]
    """The message layer: cuts answers into blocks, and keeps at most so many messages for retransmission."""

    def __init__(self, tokens: BoundedTokenManager) -> None:
        super().__init__(tokens)
        self._blockwise = tokens.blockwise
        self._limits = tokens.limits
        self._reached = tokens.reached
        self.requests = tokens.requests
        """The places of requests that are being served."""

    def send_message(self, message: Message, messageerror_monitor: Callable[[], None]) -> Any:
        if message.code.is_response():
            message = self._blockwise.cut(message, self.loop.time())
            self._spare_confirmable(message)
        return super().send_message(message, messageerror_monitor)

    def _spare_confirmable(self, message: Message) -> None:
        """A response that would go confirmable goes non-confirmable if too many of these wait for acknowledgement:
        a peer that acknowledges none, or changes its address, would fill the table."""
        piggybacked = (message.remote, message.token) in self._piggyback_opportunities
        reliable = message.request is not None and message.request.mtype is CON and message.mtype in (None, CON)
        if piggybacked or not reliable or self._active_exchanges is None:
            return
        waiting = [remote.peer for remote, _ in self._active_exchanges]
        waiting += [remote.peer for remote, backlog in self._backlogs.items() for _ in backlog]
        if waiting.count(message.remote.peer) >= self._limits.confirmable_per_peer:
            self._reached(Limit.CONFIRMABLE_PER_PEER)
        elif len(waiting) >= self._limits.confirmable:
            self._reached(Limit.CONFIRMABLE)
        else:
            return
        message.mtype = NON

    def abandon(self, message: Message) -> None:
        """Do not send a confirmable message any more, be it once again or for the first time: nobody waits for its
        answer."""
        if self._active_exchanges is None:  # closed
            return
        pending = self._active_exchanges.pop((message.remote, message.mid), None)
        if pending is not None:
            pending[1].cancel()
            self._continue_backlog(message.remote)
        elif message.remote in self._backlogs:
            waiting = self._backlogs[message.remote]
            waiting[:] = [entry for entry in waiting if entry[0] is not message]


class BoundedTokenManager(TokenManager):  # type: ignore[misc]
    """The token layer: puts bodies of requests together, and counts the requests that are being served.

    `full`: what is done with one body too many, see `Blockwise`."""

    def __init__(self, context: Context, limits: Limits, reached: Reached, full: Reached) -> None:
        super().__init__(context)
        self.limits = limits
        self.reached = reached
        self.blockwise = Blockwise(limits, reached, full)
        self.requests = Places(limits, Limit.REQUESTS, Limit.REQUESTS_PER_PEER)

    def process_request(self, request: Message) -> None:
        answer = self.blockwise.receive(request, self.loop.time())
        if answer is None:
            self._serve(request)
            return
        answer.token = request.token
        answer.remote = request.remote.as_response_address()
        answer.request = request
        self.token_interface.send_message(answer, lambda: None)

    def _serve(self, request: Message) -> None:
        """Give a request to the site, and count it until it is served."""
        super().process_request(request)
        places, peer = self._places(request), request.remote.peer
        places.take(peer)
        pipe, _ = self.incoming_requests[request.token, request.remote]
        pipe.on_interest_end(lambda: places.give_back(peer))

    def _places(self, request: Message) -> Places:
        """Where this request takes a place."""
        return self.requests

    def end_incoming(self, key: Key) -> None:
        """Stop serving this request: nothing more is sent to it."""
        _, stop = self.incoming_requests.pop(key)
        stop()
