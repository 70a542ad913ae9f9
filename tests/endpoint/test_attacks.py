"""What somebody on the network can and cannot do: everything forged, replayed or unprotected ends below the
message layer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import aiocoap
import pytest
from devices import TIMEOUT, Light, answers, eventually, get, lamps, put, switch
from world import BASELINE, BEST_EFFORT, CHALLENGE, World

from groupcoap.core import coap
from groupcoap.core.contexts import SecurityContext, SenderContext
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.requests import protect_request
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.cose.keys import DEFAULT_SIGNATURE, PrivateKey
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.errors import Reason

pytestmark = pytest.mark.usefixtures("each_profile")

LIGHT = ((coap.URI_PATH, b"light"),)


class Outsider:
    """A bare socket on loopback, with a core of its own for whoever holds the group's keys."""

    def __init__(self, world: World, host: str = "127.0.9.9") -> None:
        self.world = world
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        self.sock.bind((host, 0))
        self.sock.setblocking(False)

    def multicast(self, datagram: bytes) -> None:
        self.sock.sendto(datagram, ("224.0.1.187", self.world.port))

    def unicast(self, datagram: bytes, endpoint: Endpoint) -> None:
        self.sock.sendto(datagram, endpoint.network.local_address(4)[:2])

    async def receive(self) -> coap.Message:
        loop = asyncio.get_running_loop()
        return coap.decode(await asyncio.wait_for(loop.sock_recv(self.sock, 4096), TIMEOUT))

    def nothing_came(self) -> bool:
        try:
            self.sock.recv(4096)
        except BlockingIOError:
            return True
        return False

    def protected(
        self,
        message: coap.Message,
        *,
        number: int = 0,
        kid: bytes | None = None,
        key: PrivateKey | None = None,
        gid: bytes | None = None,
    ) -> coap.Message:
        """A request as a holder of the group's keys makes it; by default the switch's own."""
        world = self.world
        common = world.suite.common_context(gid or world.gid, world.secret, world.master_salt)
        sender_id = kid or world.switch_ids[0]
        key = key or world.keys[sender_id]
        known = world.suite.authenticated(world.keys.get(sender_id, key).public_key)
        sender = SenderContext(common, sender_id, key, SequenceNumbers(number), known)
        return protect_request(SecurityContext("room", common, sender, {}), sender, message).message


@contextmanager
def outsider(world: World, host: str = "127.0.9.9") -> Iterator[Outsider]:
    made = Outsider(world, host)
    try:
        yield made
    finally:
        made.sock.close()


def request(code: int = coap.GET, *, kind: int = coap.NON, mid: int = 7, payload: bytes = b"") -> coap.Message:
    return coap.Message(kind, code, mid, b"tokn", LIGHT, payload)


async def settled(endpoint: Endpoint, light: Light, marker: Outsider, number: int) -> None:
    """Everything sent before has been processed: datagrams to one socket arrive in order."""
    before = len(light.requests)
    marker.multicast(coap.encode(marker.protected(request(coap.PUT, payload=b"marker"), number=number)))
    await light.wait_for(before + 1)


async def test_every_flipped_bit_is_refused_and_answered_by_nothing() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as attacker:
            good = attacker.protected(request(coap.PUT, payload=b"on"), number=5)
            option, payload = good.options[0][1], good.payload
            # Sent by unicast as well, the place where errors could come back; non-confirmable, so none may.
            for position in range(len(option) * 8):
                bent = bytearray(option)
                bent[position // 8] ^= 1 << position % 8
                attacker.multicast(coap.encode(good._replace(options=((9, bytes(bent)),))))
            for position in range(len(payload) * 8):
                bent = bytearray(payload)
                bent[position // 8] ^= 1 << position % 8
                attacker.multicast(coap.encode(good._replace(payload=bytes(bent))))
                if position % 50 == 0:
                    await asyncio.sleep(0)  # keep the receive buffer from overflowing
            await eventually(lambda: sum(endpoint.counters.rejected.values()) == (len(option) + len(payload)) * 8)
            assert light.payloads == []
            assert list(endpoint.groups.current("room").recipients) == []
            assert attacker.nothing_came()
            attacker.multicast(coap.encode(good))  # the window has not moved: the good one is still new
            await light.wait_for(1)


async def test_a_forged_datagram_with_the_same_message_id_does_not_make_the_authentic_one_a_duplicate() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as switch_itself:
            good = switch_itself.protected(request(coap.PUT, payload=b"on"))
            forged = good._replace(payload=bytes((good.payload[0] ^ 1,)) + good.payload[1:])
            switch_itself.multicast(coap.encode(forged))  # from the very same address and port
            switch_itself.multicast(coap.encode(good))
            await light.wait_for(1)
            assert light.payloads == [b"on"]
            assert endpoint.counters.rejected == {Reason.DECRYPTION_FAILED: 1}
            assert not endpoint.messages._recent_messages


async def test_a_replay_is_refused_whatever_address_it_comes_from() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as one, outsider(world, "127.0.9.10") as other:
            good = one.protected(request(coap.PUT, payload=b"on"))
            one.multicast(coap.encode(good))
            await light.wait_for(1)
            for sender in (one, other):
                sender.multicast(coap.encode(good._replace(message_id=99, token=b"other")))
            await eventually(lambda: endpoint.counters.rejected.get(Reason.REPLAY) == 2)
            assert light.payloads == [b"on"]


async def test_a_member_cannot_speak_as_another() -> None:
    world = World(listeners=2)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as lamp:
            lamps_key = world.keys[world.lamp_ids[1]]
            forged = lamp.protected(request(coap.PUT, payload=b"I am the switch"), key=lamps_key)
            lamp.multicast(coap.encode(forged))
            await eventually(lambda: endpoint.counters.rejected == {Reason.SIGNATURE_FAILED: 1})
            assert light.payloads == []
            assert list(endpoint.groups.current("room").recipients) == []


async def test_one_replayed_datagram_does_not_lock_the_real_sender_out_of_the_challenge() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=CHALLENGE))
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as attacker:
            attacker.multicast(coap.encode(attacker.protected(request(coap.PUT, payload=b"recorded"))))
            answer = await attacker.receive()
            assert answer.code == coap.CHANGED  # a protected 4.03, which the attacker cannot read
            async with switch(world) as multicaster:
                sender = multicaster.endpoint.groups.current("room").sender
                assert sender is not None
                sender.numbers.take()
                collection = multicaster.request(put(b"real"), timeout=1.2)
                assert await answers(collection) == []  # within a second of the challenge: dropped
                assert len(await answers(multicaster.request(put(b"real")))) == 1
        assert light.payloads == [b"real"]
        assert endpoint.counters.rejected[Reason.CHALLENGE_PENDING] == 1


# ---- what comes by unicast, and which errors go out


@pytest.mark.parametrize("kind", [coap.CON, coap.NON])
@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("unknown group", coap.UNAUTHORIZED),
        ("unknown sender", coap.UNAUTHORIZED),
        ("decryption", coap.BAD_REQUEST),
        ("signature", coap.BAD_REQUEST),
        ("replay", None),
    ],
)
async def test_errors_go_out_to_confirmable_unicast_requests_only(case: str, code: int | None, kind: int) -> None:
    world = World(listeners=1)
    code = code or world.suite.parameters.profile.rules.replay_error[0]
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as sender:
            plain = request(kind=kind)
            match case:
                case "unknown group":
                    message = sender.protected(plain, gid=b"another one!")
                case "unknown sender":
                    key = DEFAULT_SIGNATURE.generate()
                    message = sender.protected(plain, kid=b"\x44", key=key)
                case "signature":
                    message = sender.protected(plain, key=DEFAULT_SIGNATURE.generate())
                case "decryption":
                    message = sender.protected(plain)
                    message = message._replace(payload=bytes(len(message.payload)))
                case _:
                    message = sender.protected(plain)
                    sender.multicast(coap.encode(message._replace(type=coap.NON)))
                    await light.wait_for(1)
                    await sender.receive()
            rejections = sum(endpoint.counters.rejected.values())
            sender.unicast(coap.encode(message), endpoint)
            if kind == coap.CON:
                error = await sender.receive()
                assert (error.type, error.code, error.message_id, error.token) == (coap.ACK, code, 7, b"tokn")
                assert all(number != coap.OBJECT_SECURITY for number, _ in error.options)
                assert (error.option(coap.MAX_AGE) == b"") == (case == "replay")
            else:
                await eventually(lambda: sum(endpoint.counters.rejected.values()) > rejections)
                await settled(endpoint, light, sender, 9)
                answer = await sender.receive()
                assert answer.code == coap.CHANGED  # only the marker's answer


@pytest.mark.parametrize("kind", [coap.CON, coap.NON])
async def test_malformed_messages_are_answered_by_silence(kind: int) -> None:
    world = World(listeners=1)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as sender:
            good = sender.protected(request(kind=kind))
            option = good.options[0][1]
            within = 20 if len(option) > 20 else 10  # the signature, or the Gid
            for bent in (b"\x00", b"\x06", bytes((option[0] | 0x40,)) + option[1:], option[:within], b""):
                sender.unicast(coap.encode(good._replace(options=((9, bent),))), endpoint)
            sender.unicast(coap.encode(good._replace(payload=b"")), endpoint)
            sender.unicast(coap.encode(good._replace(payload=b"12345678")), endpoint)
            sender.unicast(b"\x40", endpoint)
            await eventually(lambda: endpoint.counters.rejected.get(Reason.MALFORMED, 0) >= 7)
            assert sender.nothing_came()
            assert light.payloads == []


async def test_only_get_and_fetch_come_by_unicast_without_a_repeat_value() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as sender:
            sender.unicast(coap.encode(sender.protected(request(coap.PUT, payload=b"on"), number=0)), endpoint)
            await eventually(lambda: endpoint.counters.rejected == {Reason.UNICAST_METHOD: 1})
            sender.unicast(coap.encode(sender.protected(request(), number=1)), endpoint)
            await light.wait_for(1)
            assert light.payloads == [b""]


async def test_a_repeat_value_that_nobody_asked_for_is_dropped_or_challenged() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=BEST_EFFORT))
    original_only = world.suite.parameters.profile.rules.echo_is_original
    dropped = {Reason.REPEAT_BY_MULTICAST: 1}
    if original_only:
        dropped[Reason.REPEAT_UNKNOWN] = 1
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as sender:
            echo = request(coap.PUT)._replace(options=(*LIGHT, (coap.REPEAT, bytes(8))), payload=b"on")
            sender.unicast(coap.encode(sender.protected(echo)), endpoint)
            sender.multicast(coap.encode(sender.protected(echo, number=1)))
            await eventually(lambda: endpoint.counters.rejected == dropped)
            if original_only:
                assert sender.nothing_came()
            else:
                await eventually(lambda: not sender.nothing_came())
            assert light.payloads == []


async def test_nothing_confirmable_empty_or_answering_passes_by_multicast() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as sender:
            sender.multicast(coap.encode(sender.protected(request(kind=coap.CON))))
            for kind in range(4):
                sender.multicast(coap.encode(coap.Message(kind, coap.EMPTY, 1, b"", (), b"")))
            sender.multicast(coap.encode(request(coap.CONTENT)))
            await eventually(lambda: endpoint.counters.rejected.get(Reason.NOT_FOR_MULTICAST) == 6)
            assert sender.nothing_came()
            assert light.payloads == []


async def test_a_retransmitted_request_gets_the_same_bytes_again_and_acts_once() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as sender:
            datagram = coap.encode(sender.protected(request(kind=coap.CON)))
            sender.unicast(datagram, endpoint)
            first = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sender.sock, 4096), TIMEOUT)
            sender.unicast(datagram, endpoint)
            again = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sender.sock, 4096), TIMEOUT)
            assert first == again
            assert coap.decode(first).type == coap.ACK
            assert len(light.requests) == 1
            assert endpoint.counters.rejected == {}


# ---- attacks on the multicaster


async def test_unprotected_and_forged_answers_end_nothing() -> None:
    world = World(listeners=1)
    async with lamps(world, leisure=0.3), switch(world) as multicaster:
        endpoint = multicaster.endpoint
        collection = multicaster.request(get())
        (token,) = endpoint.interface._outgoing
        with outsider(world, world.host(world.lamp_ids[0])) as attacker:  # even from the lamp's own address
            for kind in (coap.NON, coap.CON, coap.ACK):
                for code in (coap.CONTENT, coap.UNAUTHORIZED, coap.FORBIDDEN):
                    plain = coap.Message(kind, code, 3, token, (), b"fake")
                    attacker.unicast(coap.encode(plain), endpoint)
                forged = coap.Message(kind, coap.CHANGED, 4, token, ((9, b"\x28" + bytes(65)),), bytes(20))
                attacker.unicast(coap.encode(forged), endpoint)
            for kind in (coap.ACK, coap.RST):
                attacker.unicast(coap.encode(coap.Message(kind, coap.EMPTY, 3, b"", (), b"")), endpoint)
            got = await answers(collection)
            assert [a.message.payload for a in got] == [b"off"]
            assert endpoint.counters.rejected[Reason.NOT_PROTECTED] == 9
            assert endpoint.counters.delivered_responses == 1
            assert attacker.nothing_came()


async def test_an_answer_counts_once_however_often_it_comes() -> None:
    world = World(listeners=2)
    recorded: list[tuple[bytes, tuple[str, int]]] = []
    async with lamps(world) as opened, switch(world) as multicaster:
        network = opened[0][0].network
        send = network.send

        def twice(datagram: bytes, destination: tuple[str, int]) -> None:
            recorded.append((datagram, destination))
            send(datagram, destination)
            send(datagram, destination)

        network.send = twice  # type: ignore[method-assign,assignment]
        got = await answers(multicaster.request(get(), timeout=0.3, roster=None))
        assert sorted(a.endpoint_id for a in got) == world.lamp_ids
        assert multicaster.endpoint.counters.rejected == {Reason.REPLAY: 1}


async def test_dropped_datagrams_leave_no_entry_anywhere() -> None:
    world = World(listeners=1, policy=GroupPolicy(synchronization=BASELINE))
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        with outsider(world) as attacker:
            key = DEFAULT_SIGNATURE.generate()
            for n in range(100):
                kid = bytes((0xC0, n))
                forged = attacker.protected(request(mid=n), kid=kid, key=key, number=n)
                attacker.multicast(coap.encode(forged._replace(payload=bytes(len(forged.payload)))))
            await eventually(lambda: sum(endpoint.counters.rejected.values()) == 100)
            # Where it takes a credential to decrypt, these kids are looked up, but not many of them.
            bound = world.suite.bound
            reasons = {Reason.NO_PUBLIC_KEY, Reason.BUSY} if bound else {Reason.DECRYPTION_FAILED}
            assert endpoint.counters.rejected.keys() == reasons
            assert endpoint.counters.rejected.get(Reason.NO_PUBLIC_KEY, 0) < 20
            assert list(endpoint.groups.current("room").recipients) == []
            assert not endpoint.messages._recent_messages
            assert not endpoint.tokens.incoming_requests
            assert light.payloads == []


async def test_an_aiocoap_client_without_keys_gets_4_01() -> None:
    world = World(listeners=1)
    async with lamps(world) as opened:
        endpoint, light = opened[0]
        client = await aiocoap.Context.create_client_context(transports=["udp6"])
        try:
            host, port = endpoint.network.local_address(4)[:2]
            answer = await client.request(
                aiocoap.Message(code=aiocoap.GET, uri=f"coap://{host}:{port}/light")
            ).response
            assert answer.code == aiocoap.UNAUTHORIZED
            assert light.payloads == []
        finally:
            await client.shutdown()
