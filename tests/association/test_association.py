"""Devices and their manager over real sockets."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiocoap
import pytest
from aiocoap.oscore import ContextUnavailable
from associated import POST, Device, Manager, Store, Wire, nonces  # noqa: F401
from devices import eventually
from wire import Peer
from world import free_port

from groupcoap.association.client import ManagerLink
from groupcoap.association.context import MAX_NUMBERS, RESERVATION
from groupcoap.association.node import UnprotectedAnswer
from groupcoap.association.registry import AssociationLimits
from groupcoap.association.setup import AssociateRequest, AssociateResponse
from groupcoap.core import coap
from groupcoap.errors import MisuseError, NetworkFault, Refused
from groupcoap.secret import Secret

DEAD = ("127.0.0.63", 9)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Manager, Device]]:
    store, wire = Store(), Wire()
    handle, secret = store.enrol("lamp")
    async with Manager(store, wire) as manager, Device(wire, "lamp", handle, secret, manager.address) as device:
        yield manager, device


def wire_of(manager: Manager) -> Wire:
    return manager._wire


async def test_a_set_up_and_requests_both_ways() -> None:
    async with pair() as (manager, device):
        wire = wire_of(manager)
        assert (device.link.context, device.link.challenge) == (None, None)
        assert await device.post() == b"hello"
        assert manager.echo.seen == [("lamp", b"hello")]
        assert device.link.challenge == manager.associations.challenge("lamp")
        assert manager.store.records["lamp"].address == "127.0.0.62"
        answer = await manager.ask(device)
        assert answer.payload == b"new keys"
        assert device.echo.seen == [("manager", b"new keys")]
        for number in range(5):
            assert await device.post(bytes([number])) == bytes([number])
            await manager.ask(device, bytes([number]))
        assert len(wire.set_ups()) == 1
        for name in ("lamp", "manager"):
            numbers = wire.numbers(name)
            assert len(set(numbers)) == len(numbers)
        assert not any(b"hello" in datagram or b"new keys" in datagram for _, _, datagram, _ in wire.sent)


async def test_associate_before_there_is_anything_to_ask() -> None:
    async with pair() as (manager, device):
        challenge = await device.link.associate()
        assert await device.link.associate() == challenge
        assert manager.associations.half_open == 1
        await device.post()
        assert manager.associations.challenge("lamp") == challenge
        answer = await device.link.request(POST, ["echo"], lambda n_s: b"signed " + n_s)
        assert answer.payload == b"signed " + challenge
        assert len(wire_of(manager).set_ups()) == 1


async def test_refusals_are_protected() -> None:
    async with pair() as (manager, device):
        with pytest.raises(Refused) as caught:
            await device.link.request(aiocoap.DELETE, ["echo"])
        assert (caught.value.code, caught.value.title) == (coap.FORBIDDEN, "not you")
        with pytest.raises(Refused) as caught:
            await device.link.request(aiocoap.GET, ["nothing"])
        assert caught.value.code == 0x84
        assert len(wire_of(manager).set_ups()) == 1
        assert all(m.code < 0x80 for m in wire_of(manager).by("manager"))


async def test_concurrent_requests_share_a_set_up() -> None:
    async with pair() as (manager, device):
        bodies = [bytes([number]) for number in range(20)]
        assert await asyncio.gather(*map(device.post, bodies)) == bodies
        assert len(wire_of(manager).set_ups()) == 1


@pytest.mark.parametrize("code", [aiocoap.GET, POST, aiocoap.DELETE])
async def test_unprotected_requests_to_what_is_protected(code: aiocoap.Code) -> None:
    async with pair() as (manager, device):
        message = aiocoap.Message(code=code, uri_path=["echo"])
        answer = await device.node.request(message, manager.address, None, 5.0)
        assert answer.code == aiocoap.UNAUTHORIZED
        assert manager.echo.seen == []


# ---- restarts


async def test_a_manager_that_restarts() -> None:
    """Nothing is used twice, and a request from before it is not accepted again."""
    store, wire = Store(), Wire()
    handle, secret = store.enrol("lamp")
    port = free_port()
    async with Device(wire, "lamp", handle, secret, ("127.0.0.61", port)) as device:
        async with Manager(store, wire, port=port) as manager:
            for number in range(3):
                await device.post(bytes([number]))
                await manager.ask(device)
            first = manager.context("lamp")
        old = wire.protected("lamp")
        for _ in range(2):
            async with Manager(store, wire, port=port) as manager, Peer("127.0.0.64") as peer:
                for datagram in old:
                    peer.send(datagram, manager.address)
                    answer = await peer.receive()
                    assert answer.code == coap.CHANGED  # an Echo challenge, protected
                assert manager.echo.seen == []
                assert not manager.context("lamp").verified
                await manager.ask(device, b"at once")
                assert await device.post(b"again") == b"again"
                assert manager.echo.seen == [("lamp", b"again")]
                assert manager.context("lamp").sender_key == first.sender_key
                for datagram in old:
                    peer.send(
                        coap.encode(coap.decode(datagram)._replace(message_id=peer.next_id())), manager.address
                    )
                    assert (await peer.receive()).payload == b"Replay detected"
                assert manager.echo.seen == [("lamp", b"again")]
        assert len(wire.set_ups()) == 1
        numbers = wire.numbers("manager")
        assert len(set(numbers)) == len(numbers)
        assert int.from_bytes(max(numbers, key=lambda n: int.from_bytes(n, "big")), "big") >= 2 * RESERVATION
        assert store.records["lamp"].reserved >= 3 * RESERVATION


async def test_a_manager_that_has_lost_everything() -> None:
    store, wire = Store(), Wire()
    handle, secret = store.enrol("lamp")
    port = free_port()
    async with Device(wire, "lamp", handle, secret, ("127.0.0.61", port)) as device:
        async with Manager(store, wire, port=port):
            await device.post()
        store.records.clear()
        async with Manager(store, wire, port=port) as manager:
            assert set(await asyncio.gather(device.post(b"1"), device.post(b"2"))) == {b"1", b"2"}
            assert len(wire.set_ups()) == 2
            await manager.ask(device)


async def test_a_device_that_restarts() -> None:
    store, wire = Store(), Wire()
    handle, secret = store.enrol("lamp")
    async with Manager(store, wire) as manager:
        for number in range(3):
            async with Device(wire, "lamp", handle, secret, manager.address) as device:
                await device.post(bytes([number]))
                await manager.ask(device)
        assert len(wire.set_ups()) == 3
        assert len(manager.associations) == 1
        assert [payload for _, payload in manager.echo.seen] == [b"\x00", b"\x01", b"\x02"]


async def test_a_withdrawn_device() -> None:
    async with pair() as (manager, device):
        await device.post()
        manager.store.devices.clear()
        manager.associations.drop("lamp")
        with pytest.raises(Refused) as caught:
            await device.post()
        assert caught.value.code == coap.UNAUTHORIZED
        assert len(manager.echo.seen) == 1


async def test_the_manager_uses_the_former_association_until_the_new_one_is_verified() -> None:
    """The device has set up a new one, and not used it yet."""
    async with pair() as (manager, device):
        await device.post()
        former = device.link.context
        assert former is not None
        device.link._end(former)
        await device.link.associate()
        assert device.link.context is not former
        await manager.ask(device)
        assert device.echo.seen == [("manager", b"new keys")]
        await device.post()
        assert manager.context("lamp").recipient_id != former.sender_id
        await manager.ask(device)
        with pytest.raises(KeyError):
            device.link.find_oscore({4: former.recipient_id})


async def test_an_exhausted_association_is_replaced() -> None:
    async with pair() as (manager, device):
        await device.post()
        context = device.link.context
        assert context is not None
        context.sender_sequence_number = MAX_NUMBERS
        assert await device.post(b"more") == b"more"
        assert device.link.context is not context
        assert len(wire_of(manager).set_ups()) == 2


async def test_the_manager_makes_more_numbers_durable_as_it_goes() -> None:
    async with pair() as (manager, device):
        await device.post()
        context = manager.context("lamp")
        context.sender_sequence_number = RESERVATION - 1
        for _ in range(3):
            await manager.ask(device)
        assert manager.store.records["lamp"].reserved == 2 * RESERVATION
        assert context.bound == 2 * RESERVATION


async def test_what_is_not_durable_is_not_sent() -> None:
    async with pair() as (manager, device):
        await device.post()
        context = manager.context("lamp")
        context.sender_sequence_number = context.bound
        context.on_low = None
        sent = len(wire_of(manager).sent)
        message = aiocoap.Message(code=POST, uri_path=["node"])
        address = device.node.local_address(4)
        with pytest.raises((ContextUnavailable, NetworkFault)):
            await manager.node.request(message, (address[0], address[1]), context, 0.2)
        assert len(wire_of(manager).sent) == sent


# ---- attacks


async def test_replayed_set_ups_change_nothing() -> None:
    async with pair() as (manager, device), Peer("127.0.0.64") as peer:
        await device.post()
        [set_up] = wire_of(manager).set_ups()
        before = manager.context("lamp")
        answers = []
        for _ in range(30):
            peer.send(set_up._replace(message_id=peer.next_id()), manager.address)
            answers.append(AssociateResponse.parse((await peer.receive()).payload))
        assert len({answer.nonce for answer in answers}) == 30
        assert manager.associations.half_open == 8
        for datagram in wire_of(manager).protected("lamp"):
            for answer in answers[-8:]:  # the old request under each of the new keys
                message = coap.decode(datagram)
                value = message.option(coap.OBJECT_SECURITY)
                assert value is not None
                options = ((coap.OBJECT_SECURITY, value[:2] + answer.recipient_id),)
                peer.send(message._replace(options=options, message_id=peer.next_id()), manager.address)
                assert (await peer.receive()).payload == b"Decryption failed"
        assert manager.context("lamp") is before
        await device.post()
        assert len(wire_of(manager).set_ups()) == 1


async def test_replayed_requests() -> None:
    async with pair() as (manager, device), Peer("127.0.0.64") as peer:
        await device.post(b"1")
        await manager.ask(device, b"2")
        for name, where in (("lamp", manager.address), ("manager", device.node.local_address(4))):
            [datagram] = wire_of(manager).protected(name)
            again = coap.decode(datagram)
            peer.send(again._replace(type=coap.NON, message_id=peer.next_id()), where)
            peer.send(again._replace(token=b"again", message_id=peer.next_id()), where)
            answer = await peer.receive()
            assert (answer.token, answer.payload) == (b"again", b"Replay detected")
            await peer.assert_silence(where)
        assert manager.echo.seen == [("lamp", b"1")]
        assert device.echo.seen == [("manager", b"2")]
        assert not manager.node._context.request_interfaces[1].incoming_requests


async def test_a_retransmission_gets_the_same_answer() -> None:
    async with pair() as (manager, device):
        wire = wire_of(manager)
        lost: list[bytes] = []

        def lose_the_first(name: str, datagram: bytes) -> bytes | None:
            if name == "manager" and len(lost) < 2 and datagram not in lost:
                lost.append(datagram)
                return None
            return datagram

        wire.change = lose_the_first
        device.link._patience = 7.0
        assert await device.post(timeout=20.0) == b"hello"
        assert manager.echo.seen == [("lamp", b"hello")]
        assert len(wire.set_ups()) == 2  # one sent twice
        assert manager.associations.half_open == 0


async def test_bit_flips() -> None:
    """Wherever a bit of a protected request is flipped, it is not accepted; of an answer, it is not believed."""
    async with pair() as (manager, device), Peer("127.0.0.64") as peer:
        wire = wire_of(manager)
        await device.post()
        wire.change = lambda name, datagram: None if name == "lamp" else datagram
        with pytest.raises(NetworkFault):
            await device.post(b"flipped", timeout=0.2)
        datagram = wire.protected("lamp")[-1]
        behind_the_token = 4 + len(coap.decode(datagram).token)
        for bit in range(8 * behind_the_token, 8 * len(datagram)):
            changed = bytearray(datagram)
            changed[bit // 8] ^= 1 << bit % 8
            changed[2:4] = peer.next_id().to_bytes(2, "big")
            changed[4:behind_the_token] = os.urandom(behind_the_token - 4)
            peer.send(bytes(changed), manager.address)
        counters = manager.node.counters
        await asyncio.sleep(0.3)
        assert sum(counters.rejected.values()) > 5
        assert manager.echo.seen == [("lamp", b"hello")]
        peer.send(datagram, manager.address)
        await eventually(lambda: len(manager.echo.seen) == 2)

        def flip(name: str, datagram: bytes) -> bytes:
            return datagram[:-1] + bytes([datagram[-1] ^ 1]) if name == "manager" else datagram

        wire.change = flip
        with pytest.raises(NetworkFault):
            await device.post(timeout=1.0)


async def test_a_wrong_secret() -> None:
    store, wire = Store(), Wire()
    handle, _ = store.enrol("lamp")
    async with (
        Manager(store, wire) as manager,
        Device(wire, "lamp", handle, Secret(os.urandom(16)), manager.address) as device,
    ):
        with pytest.raises(NetworkFault, match=r"unprotected 4\.00"):
            await device.post()
        assert len(wire.set_ups()) == 2
        assert manager.echo.seen == []
        assert len(manager.associations) == 0


async def test_an_unknown_handle() -> None:
    store, wire = Store(), Wire()
    async with (
        Manager(store, wire) as manager,
        Device(wire, "lamp", bytes(8), Secret(bytes(16)), manager.address) as device,
    ):
        with pytest.raises(Refused) as caught:
            await device.post()
        assert (caught.value.code, caught.value.title) == (coap.UNAUTHORIZED, "unknown handle")


async def test_a_flood_of_set_ups() -> None:
    bounds = AssociationLimits(half_open=64, half_open_per_host=16, half_open_per_device=64, rate_per_host=50.0)
    store, wire = Store(), Wire()
    handle, secret = store.enrol("lamp")
    async with (
        Manager(store, wire, bounds=bounds) as manager,
        Device(wire, "lamp", handle, secret, manager.address) as device,
        Peer("127.0.0.64") as peer,
    ):
        await device.post()
        path = ((coap.URI_PATH, b"associate"), (12, b"\x3c"))
        for _ in range(1000):
            body = AssociateRequest(handle, os.urandom(8), os.urandom(2)).encode()
            message = coap.Message(coap.CON, coap.POST, peer.next_id(), os.urandom(4), path, body)
            peer.send(message, manager.address)
        answers = []
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while True:
                    answers.append((await peer.receive()).code)
        assert 90 < answers.count(0x41) < 300
        assert 0 < answers.count(0x9D) < 60  # errors are limited as well
        assert manager.associations.half_open == 16
        assert len(manager.associations._by_id) == 17
        link = ManagerLink(device.node, [manager.address], handle, secret, os.urandom)
        assert (await link.request(POST, ["echo"], b"x")).payload == b"x"
        assert manager.associations.half_open == 16


async def test_forged_answers_to_protected_requests_are_only_hints() -> None:
    """A success that is not protected is none; an error sets up anew, once."""
    async with pair() as (manager, device):
        wire = wire_of(manager)
        await device.post()
        forge = [coap.CONTENT, 0xA3]

        def forged(name: str, datagram: bytes) -> bytes:
            message = coap.decode(datagram)
            if name == "manager" and message.option(coap.OBJECT_SECURITY) is not None and forge:
                message = message._replace(code=forge.pop(), options=(), payload=b"forged")
            return coap.encode(message)

        wire.change = forged
        while forge:
            with pytest.raises(NetworkFault, match="unprotected"):
                await device.post()
        assert len(wire.set_ups()) == 1
        forge.append(coap.UNAUTHORIZED)
        assert await device.post(b"x") == b"x"
        assert len(wire.set_ups()) == 2


async def test_set_ups_are_not_more_frequent_than_they_may_be() -> None:
    async with pair() as (manager, device):
        device.link._interval = 0.5
        now = asyncio.get_running_loop().time
        start = now()
        for _ in range(3):
            await device.post()
            manager.associations.drop("lamp")
        assert 1.0 <= now() - start < 2.0
        assert len(wire_of(manager).set_ups()) == 3


async def test_the_two_ids_must_differ() -> None:
    async with pair() as (manager, device):
        wire = wire_of(manager)

        def same(name: str, datagram: bytes) -> bytes:
            message = coap.decode(datagram)
            if name == "manager" and message.code == 0x41:
                asked = AssociateRequest.parse(wire.set_ups()[-1].payload)
                body = AssociateResponse(bytes(8), asked.recipient_id, bytes(8)).encode()
                return coap.encode(message._replace(payload=body))
            return datagram

        wire.change = same
        with pytest.raises(NetworkFault, match="are the same"):
            await device.post()


# ---- addresses


async def test_several_addresses_the_first_of_which_is_dead() -> None:
    store, wire = Store(), Wire()
    handle, secret = store.enrol("lamp")
    async with (
        Manager(store, wire) as manager,
        Device(wire, "lamp", handle, secret, DEAD, manager.address) as device,
    ):
        now = asyncio.get_running_loop().time
        start = now()
        assert await device.post() == b"hello"
        assert 0.4 <= now() - start < 2.0
        start = now()
        assert await device.post() == b"hello"  # the one that worked is first now
        assert now() - start < 0.3
        await asyncio.sleep(0.05)
        assert not device.node._context.request_interfaces[1].outgoing_requests
        assert device.node._plain._manager._active_exchanges == {}


async def test_an_address_that_dies() -> None:
    """The association goes on at the other one."""
    store, wire = Store(), Wire()
    handle, secret = store.enrol("lamp")
    async with Manager(store, wire) as manager:
        addresses = (manager.address, DEAD)
        async with Device(wire, "lamp", handle, secret, *addresses) as device:
            await device.post()
            device.link._addresses.reverse()
            assert await device.post(b"x") == b"x"
            assert len(wire.set_ups()) == 1


async def test_no_manager_at_all() -> None:
    wire = Wire()
    async with Device(wire, "lamp", bytes(8), Secret(bytes(16)), DEAD, ("127.0.0.65", 9)) as device:
        with pytest.raises(NetworkFault, match="no manager answers"):
            await device.post()
        with pytest.raises(NetworkFault, match="not in time"):
            await device.post(timeout=0.1)


async def test_a_slow_manager_is_waited_for() -> None:
    """It has acknowledged the request: silence is no reason to ask elsewhere."""
    async with pair() as (manager, device):
        await device.post()

        async def slow() -> None:
            await asyncio.sleep(1.0)

        manager.echo.before = slow
        assert await device.post(b"x") == b"x"
        assert len(manager.echo.seen) == 2


@pytest.mark.parametrize(
    ("addresses", "handle"), [([], bytes(8)), ([DEAD], bytes(7))], ids=["no address", "no handle"]
)
async def test_a_link_that_cannot_be(addresses: list[tuple[str, int]], handle: bytes) -> None:
    async with pair() as (_, device):
        with pytest.raises(MisuseError):
            ManagerLink(device.node, addresses, handle, Secret(bytes(16)), os.urandom)


async def test_an_address_that_is_a_name() -> None:
    wire = Wire()
    async with Device(wire, "lamp", bytes(8), Secret(bytes(16)), ("manager.example", 9)) as device:
        with pytest.raises(NetworkFault, match="not an IP address"):
            await device.post()


async def test_unprotected_answers_say_their_code() -> None:
    async with pair() as (manager, device):
        await device.post()
        context = device.link.context
        manager.associations.drop("lamp")
        message = aiocoap.Message(code=POST, uri_path=["echo"])
        with pytest.raises(UnprotectedAnswer) as caught:
            await device.node.request(message, manager.address, context, 5.0)
        assert caught.value.code == coap.UNAUTHORIZED
