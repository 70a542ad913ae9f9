"""Plain CoAP and RFC 8613 beside the group, on the same unicast socket: a separate site, a separate stack.

Group messages never come here, and what comes here never reaches a resource served to the group.
"""

from __future__ import annotations

import aiocoap
from aiocoap import interfaces
from aiocoap.messagemanager import MessageManager
from aiocoap.tokenmanager import TokenManager
from aiocoap.util import hostportsplit

from ..core import coap
from ..errors import NetworkFault, Rejected
from ..membership import COAP_PORT
from .layers import GroupMessageManager
from .messages import from_core, to_core
from .network import Network, SocketAddress, parse_address
from .remote import SocketRemote


class PlainMessageInterface(interfaces.MessageInterface):  # type: ignore[misc]
    """aiocoap's ordinary layers over this endpoint's unicast socket. Names are not resolved: IP addresses only."""

    def __init__(self, manager: MessageManager, network: Network, *, serves: bool) -> None:
        self._manager = manager
        self._network = network
        self.serves = serves
        """Whether there is a site for requests; otherwise this is a client only."""

    def receive(self, message: coap.Message, source: SocketAddress) -> None:
        """A message that is not a group message has come by unicast."""
        try:
            self._manager.dispatch_message(
                from_core(message, SocketRemote(source, self._network.local_of(source, None)))
            )
        except Rejected:
            return  # an option that is not of its format: a malformed message is ignored (RFC 7252 §4.2)

    def send(self, message: aiocoap.Message) -> None:
        try:
            self._network.send(coap.encode(to_core(message)), message.remote.address)
        except NetworkFault as problem:
            self._manager.dispatch_error(OSError(str(problem)), message.remote)

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
        """The socket is the endpoint's."""


def open_plain(
    site: interfaces.Resource | None, network: Network, messages: GroupMessageManager, tokens: TokenManager
) -> tuple[aiocoap.Context, PlainMessageInterface]:
    """An aiocoap Context for plain CoAP and RFC 8613 that shares the endpoint's unicast socket, and so that no peer
    is sent one twice, takes Message IDs and tokens from where the group's layers take them."""
    from aiocoap.transports.oscore import TransportOSCORE

    context = aiocoap.Context(serversite=site, loggername="groupcoap.plain")
    plain_tokens = TokenManager(context)
    plain_tokens.next_token = tokens.next_token
    manager = MessageManager(plain_tokens)
    manager._next_message_id = messages.next_message_id
    plain = PlainMessageInterface(manager, network, serves=site is not None)
    manager.message_interface = plain
    plain_tokens.token_interface = manager
    context.request_interfaces.append(TransportOSCORE(context, context))
    context.request_interfaces.append(plain_tokens)
    return context, plain
