"""A forward proxy of the tests' own (RFC 7252 §5.7): real sockets on loopback, knows nothing of OSCORE, sends every
answer of a group on by itself. It may cut what is large into outer blocks (RFC 7959)."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.reassembly import parse_block
from groupcoap.core.splitting import with_option

Address = tuple[str, int]

_OWN = (coap.PROXY_URI, coap.PROXY_SCHEME, coap.URI_HOST, coap.URI_PORT)


@dataclass
class Exchange:
    """What a client has asked, and what has become of it."""

    client: Address
    request: Message
    to: Address
    pieces: list[bytes] = field(default_factory=list)
    answer: Message | None = None


class ForwardProxy:
    """`cut`: exponent of the size from which on messages by unicast are cut into outer blocks, None: none are."""

    def __init__(self, host: str = "127.0.0.99", cut: int | None = None) -> None:
        self.cut = cut
        self.seen: list[Message] = []
        """What clients have sent."""
        self._tokens = count(1)
        self._ids = count(1)
        self._exchanges: dict[bytes, Exchange] = {}
        self._front = self._socket(host)
        self._back = self._socket(host)
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    def _socket(host: str) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind((host, 0))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        return made

    @property
    def address(self) -> Address:
        host, port = self._front.getsockname()
        return host, port

    async def __aenter__(self) -> ForwardProxy:
        self._tasks = [asyncio.create_task(self._clients()), asyncio.create_task(self._servers())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._front.close()
        self._back.close()

    def _send(self, through: socket.socket, message: Message, to: Address) -> None:
        through.sendto(coap.encode(message), to)

    # ---- towards the group

    async def _clients(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            datagram, client = await loop.sock_recvfrom(self._front, 65535)
            message = coap.decode(datagram)
            if coap.is_request(message.code):
                self.seen.append(message)
                self._from_client(message, client)

    def _from_client(self, message: Message, client: Address) -> None:
        block = message.option(coap.BLOCK2)
        if block is not None:  # the next piece of an answer that is here
            exchange = next(e for e in self._exchanges.values() if e.request.token == message.token and e.answer)
            self._answer(exchange, message, parse_block(block)[0])
            return
        host, port = message.option(coap.URI_HOST), message.option(coap.URI_PORT)
        assert message.option(coap.PROXY_SCHEME) == b"coap"
        assert host is not None
        assert port is not None
        exchange = Exchange(client, message, (host.decode(), coap.uint_value(port)))
        token = next(self._tokens).to_bytes(4, "big")
        self._exchanges[token] = exchange
        options = tuple(option for option in message.options if option[0] not in _OWN)
        onward = message._replace(token=token, message_id=next(self._ids), options=options)
        size = None if self.cut is None else 16 << self.cut
        if size is not None and message.type == coap.CON and len(message.payload) > size:
            exchange.pieces = [onward.payload[at : at + size] for at in range(0, len(onward.payload), size)]
            self._piece(token, onward, 0)
        else:
            self._send(self._back, onward, exchange.to)

    def _piece(self, token: bytes, onward: Message, number: int) -> None:
        assert self.cut is not None
        exchange = self._exchanges[token]
        more = number < len(exchange.pieces) - 1
        block = coap.uint_bytes(number << 4 | more << 3 | self.cut)
        options = with_option(onward.options, coap.BLOCK1, block)
        piece = onward._replace(
            type=coap.CON, message_id=next(self._ids), options=options, payload=exchange.pieces[number]
        )
        self._send(self._back, piece, exchange.to)

    # ---- and back

    async def _servers(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            datagram, server = await loop.sock_recvfrom(self._back, 65535)
            message = coap.decode(datagram)
            if message.type == coap.CON:
                empty = Message(coap.ACK, coap.EMPTY, message.message_id, b"", (), b"")
                self._send(self._back, empty, server)
            exchange = self._exchanges.get(message.token)
            if exchange is not None and coap.is_response(message.code):
                self._from_server(message, exchange)

    def _from_server(self, message: Message, exchange: Exchange) -> None:
        block = message.option(coap.BLOCK1)
        if message.code == coap.CONTINUE:
            assert block is not None
            options = tuple(option for option in exchange.request.options if option[0] not in _OWN)
            onward = exchange.request._replace(token=message.token, options=options)
            self._piece(message.token, onward, parse_block(block)[0] + 1)
            return
        options = tuple(option for option in message.options if option[0] != coap.BLOCK1)
        if exchange.pieces:
            assert block is not None, "the answer to the last piece says that it is"
            assert parse_block(block)[:2] == (len(exchange.pieces) - 1, False)
        exchange.answer = message._replace(options=options)
        self._answer(exchange, exchange.request, 0)

    def _answer(self, exchange: Exchange, asked: Message, number: int) -> None:
        assert exchange.answer is not None
        answer = exchange.answer
        confirmable = asked.type == coap.CON
        payload, options = answer.payload, answer.options
        size = None if self.cut is None else 16 << self.cut
        if size is not None and exchange.request.type == coap.CON and len(payload) > size:
            more = len(payload) > (number + 1) * size
            block = coap.uint_bytes(number << 4 | more << 3 | (self.cut or 0))
            options = with_option(with_option(options, coap.BLOCK2, block), coap.ETAG, b"whole")
            payload = payload[number * size : (number + 1) * size]
        back = Message(
            coap.ACK if confirmable else coap.NON,
            answer.code,
            asked.message_id if confirmable else next(self._ids),
            asked.token,
            options,
            payload,
        )
        self._send(self._front, back, exchange.client)
