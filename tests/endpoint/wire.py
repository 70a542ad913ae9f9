"""The other side of the wire: bare sockets, and members of a group made with the core alone, honest or not."""

from __future__ import annotations

import asyncio
import socket
from itertools import count
from types import TracebackType

from world import World

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CommonContext, SecurityContext, SenderContext
from groupcoap.core.exchange import OutgoingExchange
from groupcoap.core.registry import Registry
from groupcoap.core.requests import protect_request
from groupcoap.core.responses import DeliveredResponse, decrypt_response
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.cose.keys import PrivateKey
from groupcoap.endpoint.network import SocketAddress

TIMEOUT = 5.0
"""Far more than anything here takes; only a failing test waits for it."""

LIGHT = ((coap.URI_PATH, b"light"),)

_tokens = count(1)  # two requests of one peer with the same token would be one


class Inbox:
    """What a `Network` or `Channel` reports, in order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[bytes, SocketAddress, bytes | None]] = asyncio.Queue()

    def __call__(self, datagram: bytes, source: SocketAddress, destination: bytes | None) -> None:
        self._queue.put_nowait((datagram, source, destination))

    async def next(self) -> tuple[bytes, SocketAddress, bytes | None]:
        async with asyncio.timeout(TIMEOUT):
            return await self._queue.get()

    @property
    def empty(self) -> bool:
        return self._queue.empty()


class Peer:
    """A UDP socket on loopback that speaks CoAP by hand. Multicast leaves by loopback only, with TTL 0."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((host, 0))
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        self._ids = count(1000)

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()
        return host, port

    def next_id(self) -> int:
        return next(self._ids)

    def send(self, message: Message | bytes, destination: tuple[object, ...]) -> None:
        datagram = message if isinstance(message, bytes) else coap.encode(message)
        self.socket.sendto(datagram, destination)

    async def receive(self) -> Message:
        """The next message that comes."""
        datagram, _ = await self.receive_from()
        return coap.decode(datagram)

    async def receive_from(self) -> tuple[bytes, tuple[str, int]]:
        async with asyncio.timeout(TIMEOUT):
            return await asyncio.get_running_loop().sock_recvfrom(self.socket, 65535)

    async def assert_silence(self, destination: tuple[object, ...]) -> None:
        """Nothing came in answer to what was sent before: a ping sent now is what is answered next."""
        assert await self.until_ping(destination) == []

    async def until_ping(self, destination: tuple[object, ...]) -> list[Message]:
        """What came in answer to what was sent before."""
        ping = Message(coap.CON, coap.EMPTY, self.next_id(), b"", (), b"")
        self.send(ping, destination)
        got: list[Message] = []
        while (message := await self.receive()) != ping._replace(type=coap.RST):
            got.append(message)
        return got


def common_context(world: World) -> CommonContext:
    return world.suite.common_context(world.gid, world.secret, world.master_salt)


class Member:
    """Speaks as this Endpoint ID, with its own private key or with another: any member of the group can do that."""

    def __init__(self, world: World, kid: bytes, key: PrivateKey | None = None, *, first: int = 0) -> None:
        common, suite = common_context(world), world.suite
        key = key or world.keys.get(kid) or suite.generate()
        self.key = key
        self.sender = SenderContext(common, kid, key, SequenceNumbers(first), self._credential(world, kid, key))
        keys = {other: world.keys[other].public_key for other in world.keys if other != kid}
        found = {other: suite.authenticated(public_key) for other, public_key in keys.items()}
        credentials = {other: data for other, data in found.items() if data is not None}
        self.context = SecurityContext(world.name, common, self.sender, keys, credentials=credentials)
        self.registry = Registry()
        self.registry.install(self.context, [address.packed for address in world.addresses])
        self.group: SocketAddress = (str(world.addresses[0].host), world.addresses[0].port)

    @staticmethod
    def _credential(world: World, kid: bytes, key: PrivateKey) -> bytes | None:
        """Who speaks as another puts that one's credential into the AAD, as everybody knows it."""
        own = world.keys.get(kid, key)
        return world.suite.authenticated(own.public_key)

    def protect(
        self,
        payload: bytes = b"on",
        *,
        code: int = coap.PUT,
        kind: int = coap.NON,
        options: coap.Options = LIGHT,
        to: bytes | None = None,
    ) -> tuple[Message, OutgoingExchange]:
        """A protected request, and the exchange for its answers; in pairwise mode if it is `to` one member."""
        number = next(_tokens)
        token = number.to_bytes(4, "big")
        ordered = tuple(sorted(options, key=lambda option: option[0]))
        plain = Message(kind, code, number & 0xFFFF, token, ordered, payload)
        alone = None if to is None else self.context.recipient(to)
        protected = protect_request(self.context, self.sender, plain, to=alone)
        return protected.message, protected.exchange

    def request(self, payload: bytes = b"on", **how: int) -> bytes:
        """A protected request as a datagram."""
        return coap.encode(self.protect(payload, **how)[0])  # type: ignore[arg-type]

    def answer(self, exchange: OutgoingExchange, message: Message) -> DeliveredResponse:
        """A received answer, verified."""
        return decrypt_response(self.registry, exchange, message).check_signature().accept()
