"""Plain CoAP and RFC 8613 beside the group, on the same unicast socket: a separate site, a separate stack.

Group messages never come here, and what comes here never reaches a resource served to the group. Nothing is
authentic as far as these layers can see, so a full table gives up its oldest entry.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import aiocoap
from aiocoap import interfaces
from aiocoap.pipe import Pipe
from aiocoap.util import hostportsplit

from ..core import coap
from ..errors import Limit, NetworkFault
from ..membership import COAP_PORT
from .layers import GroupMessageManager, GroupTokenManager
from .limits import EXCHANGE_LIFETIME, Limits, PeerTable, Reached
from .messages import from_core, to_core
from .network import Network, SocketAddress, parse_address
from .remote import SocketRemote
from .serving import BoundedMessageManager, BoundedTokenManager
from .sparing import sparing_logger

MayAnswer = Callable[[SocketAddress], bool]
"""Whether an error or a reset may be sent to this address now."""
_TOKEN = 4
"""Random bytes of a token: who is not on the path must not guess it (RFC 7252 §5.3.1)."""


@dataclass(slots=True)
class _Seen:
    """A request that has come, and what was answered at once."""

    answer: aiocoap.Message | None = None


class PlainMessageManager(BoundedMessageManager):
    """The message layer, with a bounded table of the requests that it knows copies by."""

    def __init__(self, tokens: BoundedTokenManager) -> None:
        super().__init__(tokens)
        self._seen: PeerTable[tuple[SocketRemote, int], _Seen] = PeerTable(
            tokens.limits, Limit.REMEMBERED, Limit.REMEMBERED_PER_PEER, EXCHANGE_LIFETIME, tokens.reached
        )

    def _deduplicate_message(self, message: aiocoap.Message) -> bool:
        key, now = (message.remote, message.mid), self.loop.time()
        seen = self._seen.get(key, now)
        if seen is None:
            self._seen.put_for(message.remote.peer, key, _Seen(), now)
        elif message.mtype is aiocoap.CON and seen.answer is not None:
            self._send_initially(seen.answer)
        return seen is not None

    def _store_response_for_duplicates(self, message: aiocoap.Message) -> None:
        seen = self._seen.get((message.remote, message.mid), self.loop.time())
        if seen is not None:
            seen.answer = message


class PlainTokenManager(BoundedTokenManager):
    """The token layer: where too many requests are being served, the oldest ends. A request that nobody waits
    for any more is not sent again, so that it does not keep back the next one to the same peer."""

    def request(self, pipe: Pipe) -> None:
        ended = asyncio.Event()
        pipe.on_interest_end(ended.set)
        if not ended.is_set():
            # Not at once: the message layer may be in the middle of giving up all that goes to this peer.
            abandon = functools.partial(self.token_interface.abandon, pipe.request)
            pipe.on_interest_end(functools.partial(self.loop.call_soon, abandon))
            super().request(pipe)

    def next_token(self) -> bytes:
        return os.urandom(_TOKEN)

    def _serve(self, request: aiocoap.Message) -> None:
        peer = request.remote.peer
        limit = self.requests.reached(peer)
        if limit is not None:
            self.reached(limit)
            own = limit is Limit.REQUESTS_PER_PEER
            self.end_incoming(next(key for key in self.incoming_requests if not own or key[1].peer == peer))
        super()._serve(request)


class PlainMessageInterface(interfaces.MessageInterface):  # type: ignore[misc]
    """aiocoap's ordinary layers over this endpoint's unicast socket. Names are not resolved: IP addresses only."""

    def __init__(
        self, manager: PlainMessageManager, network: Network, may_answer: MayAnswer, *, serves: bool
    ) -> None:
        self._manager = manager
        self._network = network
        self._may_answer = may_answer
        self._closed = False
        self.serves = serves
        """Whether there is a site for requests; otherwise this is a client only."""

    def receive(self, message: coap.Message, source: SocketAddress) -> None:
        """A message that is not a group message has come by unicast. `Rejected` if it is malformed."""
        remote = SocketRemote(source, self._network.local_of(source, None))
        self._manager.dispatch_message(from_core(message, remote))

    def send(self, message: aiocoap.Message) -> None:
        if self._closed:  # the message layer's timers for empty acknowledgements do not end with it
            return
        error = message.mtype is aiocoap.RST or (message.code.is_response() and not message.code.is_successful())
        if error and not self._may_answer(message.remote.address):
            return
        try:
            self._network.send(coap.encode(to_core(message)), message.remote.address)
        except NetworkFault as problem:
            # Not at once: the message layer is in the middle of sending.
            self._manager.loop.call_soon(self._manager.dispatch_error, OSError(str(problem)), message.remote)

    async def recognize_remote(self, remote: object) -> bool:
        return type(remote) is SocketRemote

    async def determine_remote(self, message: aiocoap.Message) -> SocketRemote | None:
        if message.requested_scheme not in ("coap", None):
            return None
        if message.unresolved_remote is not None:
            host, port = hostportsplit(message.unresolved_remote)
        else:
            host, port = message.opt.uri_host, message.opt.uri_port
        if not host:
            return None
        try:
            address = parse_address(host.strip("[]"))
        except NetworkFault:
            return None
        return SocketRemote(self._network.socket_address(address, port or COAP_PORT))

    async def shutdown(self) -> None:
        """The socket is the endpoint's. Nothing is sent any more: that would open a socket anew."""
        self._closed = True


def open_stack(
    site: interfaces.Resource | None,
    network: Network,
    limits: Limits,
    reached: Reached,
    may_answer: MayAnswer,
) -> tuple[aiocoap.Context, PlainMessageInterface, PlainMessageManager, PlainTokenManager]:
    """An aiocoap Context for plain CoAP over the unicast sockets of a network, with bounds, and its layers from the
    bottom up."""
    context = aiocoap.Context(serversite=site, loggername=sparing_logger("groupcoap.plain").name)
    tokens = PlainTokenManager(context, limits, reached, reached)
    manager = PlainMessageManager(tokens)
    plain = PlainMessageInterface(manager, network, may_answer, serves=site is not None)
    manager.message_interface = plain
    tokens.token_interface = manager
    context.request_interfaces.append(tokens)
    return context, plain, manager, tokens


def open_plain(
    site: interfaces.Resource | None,
    network: Network,
    messages: GroupMessageManager,
    tokens: GroupTokenManager,
    may_answer: MayAnswer,
) -> tuple[aiocoap.Context, PlainMessageInterface]:
    """An aiocoap Context for plain CoAP and RFC 8613 that shares the endpoint's unicast socket and limits, and so
    that no peer is sent one twice, takes Message IDs and tokens from where the group's layers take them."""
    from aiocoap.transports.oscore import TransportOSCORE

    context, plain, manager, plain_tokens = open_stack(site, network, tokens.limits, tokens.reached, may_answer)
    plain_tokens.next_token = tokens.next_token  # type: ignore[method-assign]
    manager._next_message_id = messages.next_message_id
    context.request_interfaces.insert(0, TransportOSCORE(context, context))
    return context, plain
