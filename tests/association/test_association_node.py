"""Hosts with associations: blocks, multicast, malformed messages, given up requests, other implementations."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from typing import Any

import aiocoap
import pytest
from aiocoap import resource
from aiocoap.oscore_sitewrapper import OscoreSiteWrapper
from associated import GET, POST, Device, Echo, Manager, Store, Wire, nonces, options  # noqa: F401
from devices import eventually
from wire import Peer
from world import free_port

from groupcoap.association.context import AssociationContext
from groupcoap.association.node import CoapNode
from groupcoap.association.site import AssociationRemote
from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.endpoint.limits import Limits
from groupcoap.endpoint.network import SocketAddress
from groupcoap.endpoint.remote import SocketRemote
from groupcoap.errors import Limit, MisuseError, NetworkFault, Reason, Refused, Rejected
from groupcoap.membership import GroupAddress
from groupcoap.secret import Secret


@asynccontextmanager
async def pair(limits: Limits | None = None) -> AsyncIterator[tuple[Manager, Device, Wire]]:
    store, wire = Store(), Wire()
    handle, secret = store.enrol("lamp")
    async with (
        Manager(store, wire, limits=limits or Limits()) as manager,
        Device(wire, "lamp", handle, secret, manager.address) as device,
    ):
        await device.post()
        yield manager, device, wire


def contexts() -> tuple[AssociationContext, AssociationContext]:
    """(a client's, its server's)"""
    secret, salt = Secret(os.urandom(16)), os.urandom(8)
    client = AssociationContext("server", secret, salt, b"\x02", b"\x01", fresh=True)
    return client, AssociationContext("client", secret, salt, b"\x01", b"\x02", fresh=True)


class One:
    """Credentials with one context."""

    def __init__(self, context: AssociationContext) -> None:
        self.context = context

    def find_oscore(self, unprotected: dict[int, Any]) -> AssociationContext:
        if unprotected[4] != self.context.recipient_id:
            raise KeyError
        return self.context


# ---- blocks


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 1025, 20_000, 65_536, 100_000])
async def test_bodies_in_both_directions(size: int) -> None:
    """Up to 512 bytes go in one datagram; no datagram is larger than 700 bytes; none is cut outside."""
    async with pair() as (manager, device, wire):
        before = len(wire.sent)
        body = os.urandom(size)
        assert await device.post(body) == body
        assert (await manager.ask(device, body)).payload == body
        assert manager.echo.seen[-1] == ("lamp", body)
        assert device.echo.seen[-1] == ("manager", body)
        sent = wire.sent[before:]
        assert max(len(datagram) for _, _, datagram, _ in sent) < 700
        assert not any(m.option(coap.BLOCK1) or m.option(coap.BLOCK2) for _, m, _, _ in sent)
        assert len(sent) <= 4 * (2 * (-(-max(size, 1) // 512)) + 1)


async def test_an_answer_alone_in_blocks() -> None:
    async with pair() as (manager, device, _):
        answer = await device.link.request(GET, ["echo"])
        assert answer.payload == bytes(range(256)) * 256
        assert len(manager.echo.seen) == 2  # rendered once


async def test_blocks_go_on_under_another_association() -> None:
    """The manager forgets the device in the middle of a body."""
    async with pair() as (manager, device, wire):
        body = os.urandom(20_000)
        count = 0

        def forget(name: str, datagram: bytes) -> bytes:
            nonlocal count
            count += 1
            if count == 20:
                manager.associations.drop("lamp")
            return datagram

        wire.change = forget
        assert await device.post(body) == body
        assert [len(payload) for _, payload in manager.echo.seen] == [5, 20_000]


async def test_blocks_of_two_bodies_are_not_mixed() -> None:
    """One is broken off, the next begins, then a late block of the first comes (RFC 9175 §3.3)."""
    async with pair() as (manager, device, wire):
        kept: list[bytes] = []

        def keep(name: str, datagram: bytes) -> bytes | None:
            if name != "lamp" or len(wire.protected("lamp")) < 3:
                return datagram
            kept.append(datagram)
            return None

        wire.change = keep
        with pytest.raises(NetworkFault):
            await device.post(b"a" * 1000, timeout=0.2)
        held = kept[0]

        def insert(name: str, datagram: bytes) -> bytes | None:
            if name == "lamp" and datagram in wire.protected("lamp")[-1:] and len(wire.protected("lamp")) == 6:
                device.node.network._unicast[4].socket.sendto(held, manager.address)
            return datagram

        wire.change = insert
        assert await device.post(b"b" * 1000) == b"b" * 1000
        bodies = {payload for _, payload in manager.echo.seen}
        assert bodies == {b"hello", b"a" * 1000, b"b" * 1000}  # the first one late, but as it was


async def test_what_a_device_may_cost_the_manager() -> None:
    async with pair(Limits(body=4000)) as (manager, device, _):
        with pytest.raises(Refused) as caught:
            await device.post(bytes(4001))
        assert caught.value.code == 0x8D
        assert await device.post(bytes(4000)) == bytes(4000)
        assert len(manager.echo.seen) == 2


async def test_unfinished_bodies_are_bounded() -> None:
    async with pair(Limits(bodies_per_peer=2)) as (manager, device, _):
        for number in range(5):
            message = aiocoap.Message(
                code=POST, uri_path=["echo", str(number)], payload=bytes(512), block1=(0, True, 5)
            )
            context = device.link.context
            message.remote = AssociationRemote(context, SocketRemote(manager.address))
            answer = await device.node._context.request(message, handle_blockwise=False).response
            assert answer.code == aiocoap.CONTINUE
        assert manager.node.counters.limited[Limit.BODIES_PER_PEER] == 3
        assert len(manager.node._site._blockwise._bodies) == 2


# ---- other implementations


class Big(resource.Resource):  # type: ignore[misc]
    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        assert request.remote.authenticated_claims == ["client"]
        return aiocoap.Message(payload=request.payload)


async def test_aiocoaps_client() -> None:
    """It cuts into larger blocks, and these once more outside."""
    mine, others = contexts()
    site = resource.Site()
    site.add_resource(["x"], Big())
    async with CoapNode(options("127.0.0.61"), site, One(others)) as node:
        host, port = node.local_address(4)[:2]
        client = await aiocoap.Context.create_client_context(transports=["oscore", "udp6"])
        try:
            client.client_credentials[f"coap://{host}:{port}/*"] = mine
            body = os.urandom(20_000)
            message = aiocoap.Message(code=POST, uri=f"coap://{host}:{port}/x", payload=body)
            async with asyncio.timeout(10):
                assert (await client.request(message).response).payload == body
        finally:
            await client.shutdown()


async def test_aiocoaps_server() -> None:
    mine, others = contexts()
    site = resource.Site()
    site.add_resource(["x"], Big())
    port = free_port()
    server = await aiocoap.Context.create_server_context(
        OscoreSiteWrapper(site, One(others)), bind=("127.0.0.61", port), transports=["udp6"]
    )
    try:
        async with CoapNode(options("127.0.0.62")) as node:
            body = os.urandom(20_000)
            message = aiocoap.Message(code=POST, uri_path=["x"], payload=body)
            answer = await node.request(message, ("127.0.0.61", port), mine, 10.0)
            assert answer.payload == body
    finally:
        await server.shutdown()


async def test_an_observation_is_served_once() -> None:
    class Watched(resource.ObservableResource):  # type: ignore[misc]
        async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
            return aiocoap.Message(payload=b"now")

    site, watched = resource.Site(), Watched()
    site.add_resource(["x"], watched)
    mine, others = contexts()
    async with (
        CoapNode(options("127.0.0.61"), site, One(others)) as server,
        CoapNode(options("127.0.0.62")) as node,
    ):
        message = aiocoap.Message(code=GET, uri_path=["x"], observe=0)
        answer = await node.request(message, server.local_address(4)[:2], mine, 5.0)
        assert answer.payload == b"now"
        assert answer.opt.observe is None
        assert watched._observations == set()


# ---- what is malformed


MALFORMED = {
    "a group's": b"\x29\x01\x02",
    "reserved bit": b"\x49\x01\x02",
    "Partial IV of 6 bytes": b"\x0e\x01\x02\x03\x04\x05\x06\x02",
    "Partial IV of 7 bytes": b"\x0f\x01\x02\x03\x04\x05\x06\x07\x02",
    "Partial IV cut short": b"\x0d\x01",
    "kid context cut short": b"\x19\x01",
    "no Partial IV": b"\x08\x02",
    "no kid": b"\x01\x01",
    "bytes where no kid is": b"\x01\x01\x02",
    "empty": b"",
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_options(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    _, others = contexts()
    async with CoapNode(options("127.0.0.61"), None, One(others)) as node, Peer("127.0.0.64") as peer:
        option = (coap.OBJECT_SECURITY, value)
        peer.send(Message(coap.CON, coap.POST, 1, b"t", (option,), bytes(30)), node.local_address(4))
        await peer.assert_silence(node.local_address(4))
        assert node.counters.rejected == {Reason.MALFORMED: 1}
    assert caplog.records == []


async def test_two_options_no_ciphertext_no_coap() -> None:
    async with CoapNode(options("127.0.0.61")) as node, Peer("127.0.0.64") as peer:
        option = (coap.OBJECT_SECURITY, b"\x09\x01\x02")
        peer.send(Message(coap.CON, coap.POST, 1, b"t", (option, option), bytes(30)), node.local_address(4))
        peer.send(Message(coap.CON, coap.POST, 2, b"t", (option,), b""), node.local_address(4))
        peer.send(b"\x00", node.local_address(4))
        await peer.assert_silence(node.local_address(4))
        assert node.counters.rejected == {Reason.MALFORMED: 3}


@pytest.mark.parametrize(
    ("code", "kid", "answer"),
    [
        (coap.GET, b"\x02", 0x85),
        (coap.POST, b"\x03", 0x81),
        (coap.POST, b"\x02", 0x80),
        (coap.FETCH, b"\x02", 0x80),
    ],
)
async def test_what_cannot_be_verified(code: int, kid: bytes, answer: int) -> None:
    """Confirmable requests are told, others are not."""
    _, others = contexts()
    async with CoapNode(options("127.0.0.61"), None, One(others)) as node, Peer("127.0.0.64") as peer:
        message = Message(coap.CON, code, 1, b"t", ((coap.OBJECT_SECURITY, b"\x09\x01" + kid),), bytes(30))
        peer.send(message._replace(type=coap.NON, message_id=2), node.local_address(4))
        await peer.assert_silence(node.local_address(4))
        peer.send(message, node.local_address(4))
        received = await peer.receive()
        assert (received.code, received.type, received.option(coap.OBJECT_SECURITY)) == (answer, coap.ACK, None)
        assert node._context.request_interfaces[1].incoming_requests == {}
        assert len(node._context.request_interfaces[1].requests) == 0


async def test_without_credentials_or_a_site() -> None:
    mine, others = contexts()
    async with CoapNode(options("127.0.0.61")) as server, CoapNode(options("127.0.0.62")) as node:
        address = server.local_address(4)[:2]
        with pytest.raises(Rejected, match=r"4\.01"):
            await node.request(aiocoap.Message(code=GET), address, mine, 5.0)
        server.credentials = One(others)
        assert (await node.request(aiocoap.Message(code=GET), address, mine, 5.0)).code == aiocoap.NOT_FOUND
        assert (await node.request(aiocoap.Message(code=GET), address, None, 5.0)).code == aiocoap.NOT_FOUND


async def test_a_resources_mistake_is_an_error_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(resource.Resource):  # type: ignore[misc]
        async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
            raise RuntimeError("a mistake")

        async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
            raise Refused(0xA3, "later", retry_after=7.2)

    site = resource.Site()
    site.add_resource(["x"], Broken())
    mine, others = contexts()
    async with (
        CoapNode(options("127.0.0.61"), site, One(others)) as server,
        CoapNode(options("127.0.0.62")) as node,
    ):
        address = server.local_address(4)[:2]
        for context in (mine, None):
            answer = await node.request(aiocoap.Message(code=GET, uri_path=["x"]), address, context, 5.0)
            assert (answer.code, answer.payload) == (aiocoap.INTERNAL_SERVER_ERROR, b"")
            answer = await node.request(aiocoap.Message(code=POST, uri_path=["x"]), address, context, 5.0)
            assert (int(answer.code), answer.payload, answer.opt.max_age) == (0xA3, b"later", 7)
    assert [record.getMessage() for record in caplog.records] == ["a request was not served"] * 2


# ---- requests that are given up


async def test_a_request_that_is_given_up_ends_on_the_wire() -> None:
    """It keeps back none of the next ones."""
    mine, _ = contexts()
    async with CoapNode(options("127.0.0.62")) as node, Peer("127.0.0.64") as peer:
        messages = node._plain._manager
        for context in (mine, None):
            tasks = [
                asyncio.create_task(node.request(aiocoap.Message(code=GET), peer.address, context, 0.1))
                for _ in range(3)
            ]
            for task in tasks:
                with pytest.raises(NetworkFault, match="did not answer"):
                    await task
            await eventually(lambda: messages._active_exchanges == {})
            assert messages._backlogs == {}
            assert node._context.request_interfaces[1].outgoing_requests == {}
            assert node._context.request_interfaces[0]._tasks == set()
        assert node._signs == {}


async def test_patience_ends_without_a_sign_of_life() -> None:
    async with CoapNode(options("127.0.0.62")) as node, Peer("127.0.0.64") as peer:
        asked = asyncio.create_task(node.request(aiocoap.Message(code=GET), peer.address, None, 5.0, 0.1))
        with pytest.raises(NetworkFault):
            await asked
        asked = asyncio.create_task(node.request(aiocoap.Message(code=GET), peer.address, None, 5.0, 0.2))
        await peer.receive()
        message = await peer.receive()
        peer.send(message._replace(type=coap.ACK, code=coap.EMPTY, token=b"", options=()), node.local_address(4))
        await asyncio.sleep(0.4)
        assert not asked.done()
        answer = Message(coap.NON, coap.CONTENT, 9, message.token, (), b"at last")
        peer.send(answer, node.local_address(4))
        assert (await asked).payload == b"at last"
        assert node._signs == {}


async def test_tokens_are_random() -> None:
    async with CoapNode(options("127.0.0.62")) as node, Peer("127.0.0.64") as peer:
        tokens = set()
        for _ in range(5):
            with suppress(NetworkFault):
                await node.request(aiocoap.Message(code=GET), peer.address, None, 0.02)
            tokens.add((await peer.receive()).token)
        assert {len(token) for token in tokens} == {4}
        assert len({token[:3] for token in tokens}) == 5


async def test_a_request_that_cannot_be_sent() -> None:
    async with CoapNode(options("127.0.0.62")) as node:
        with pytest.raises(NetworkFault, match="cannot send"):
            await node.request(aiocoap.Message(code=GET), ("255.255.255.255", 5683), None, 5.0)
        assert node._plain._manager._active_exchanges == {}


async def test_closing_ends_requests() -> None:
    mine, _ = contexts()
    async with Peer("127.0.0.64") as peer:
        async with CoapNode(options("127.0.0.62")) as node:
            asked = [
                asyncio.create_task(node.request(aiocoap.Message(code=GET), peer.address, context, 5.0))
                for context in (mine, None)
            ]
            await peer.receive()
        for task in asked:
            with pytest.raises(NetworkFault):
                await task


# ---- multicast


async def test_multicast() -> None:
    """What comes to a multicast address is never served."""
    address = GroupAddress(IPv4Address("224.0.1.187"), free_port())
    got: list[tuple[Message, SocketAddress]] = []
    site, echo = resource.Site(), Echo()
    site.add_resource(["echo"], echo)
    async with (
        CoapNode(options("127.0.0.61"), site, on_multicast=lambda m, source: got.append((m, source))) as node,
        CoapNode(options("127.0.0.62"), on_multicast=None) as deaf,
        CoapNode(options("127.0.0.63")) as sender,
    ):
        node.join(address)
        deaf.join(address)
        message = Message(coap.NON, coap.POST, 7, b"t", ((coap.URI_PATH, b"echo"),), b"envelope")
        for kind, code in ((coap.CON, coap.POST), (coap.NON, coap.CONTENT), (coap.ACK, coap.EMPTY)):
            wrong = message._replace(type=kind, code=code)
            sender.send_multicast(address, wrong if code else Message(kind, code, 1, b"", (), b""))
        sender.send_multicast(address, message)
        await eventually(lambda: got)
        assert got == [(message, sender.local_address(4))]
        assert node.counters.rejected == {Reason.NOT_FOR_MULTICAST: 3}
        assert node.refresh()
        node.leave(address)
        sender.send_multicast(address, message)
        await asyncio.sleep(0.05)
        assert len(got) == 1
        assert echo.seen == []


async def test_an_application_that_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    address = GroupAddress(IPv4Address("224.0.1.187"), free_port())

    def fail(message: Message, source: SocketAddress) -> None:
        raise RuntimeError("a mistake")

    async with CoapNode(options("127.0.0.61"), on_multicast=fail) as node, CoapNode(options("127.0.0.62")) as other:
        node.join(address)
        other.send_multicast(address, Message(coap.NON, coap.POST, 7, b"t", (), b"x"))
        await eventually(lambda: caplog.records)
        answer = await other.request(aiocoap.Message(code=GET), node.local_address(4)[:2], None, 5.0)
        assert answer.code == aiocoap.NOT_FOUND


async def test_open_and_closed() -> None:
    node = CoapNode(options("127.0.0.62"))
    with pytest.raises(MisuseError):
        node.local_address(4)
    async with node:
        with pytest.raises(MisuseError):
            await node.__aenter__()
        assert node.local_address(4)[0] == "127.0.0.62"
        port = node.local_address(4)[1]
        with pytest.raises(NetworkFault, match="in use"):
            await CoapNode(options("127.0.0.62", port)).__aenter__()
    with pytest.raises(MisuseError):
        node.refresh()
