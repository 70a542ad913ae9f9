"""Plain CoAP and RFC 8613 beside a group: what is not protected never reaches what is served to the group."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiocoap
import pytest
from aiocoap import resource
from aiocoap.credentials import CredentialsMap
from aiocoap.oscore import FilesystemSecurityContext
from aiocoap.oscore_sitewrapper import OscoreSiteWrapper
from devices import Light, answers, eventually, get, lamps, put, switch
from wire import TIMEOUT, Member, Peer
from world import World, free_port

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.option import encode_prefix
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.remote import provenance
from groupcoap.errors import Reason

PATH = ((coap.URI_PATH, b"light"),)


class Plain(resource.Resource):  # type: ignore[misc]
    """What is served to everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[object] = []

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        assert provenance(request) is None
        self.claims.append(tuple(request.remote.authenticated_claims))
        return aiocoap.Message(payload=b"plain")

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=request.payload)


def plain_site(served: Plain | None = None) -> resource.Site:
    site = resource.Site()
    site.add_resource(["light"], served or Plain())
    return site


def oscore_context(path: Path, sender: str, recipient: str) -> FilesystemSecurityContext:
    """One side of an RFC 8613 context, in a directory of its own."""
    directory = path / f"context-{sender}"
    directory.mkdir()
    settings = {"sender-id_hex": sender, "recipient-id_hex": recipient}
    (directory / "settings.json").write_text(json.dumps(settings))
    secret = {"secret_hex": "0102030405060708090a0b0c0d0e0f10", "salt_hex": "9e7ca92223786340"}
    (directory / "secret.json").write_text(json.dumps(secret))
    return FilesystemSecurityContext(str(directory))


@asynccontextmanager
async def client() -> AsyncIterator[aiocoap.Context]:
    """An ordinary aiocoap client with OSCORE."""
    context = await aiocoap.Context.create_client_context(transports=["oscore", "udp6"])
    try:
        yield context
    finally:
        await context.shutdown()


def uri(endpoint: Endpoint, path: str = "light") -> str:
    host, port = endpoint.network.local_address(4)[:2]
    return f"coap://{host}:{port}/{path}"


def request(
    code: int = coap.GET, *, kind: int = coap.CON, options: coap.Options = PATH, payload: bytes = b""
) -> Message:
    return Message(kind, code, 7, b"token", options, payload)


# ---- where there is no plain site


@pytest.mark.parametrize("kind", [coap.CON, coap.NON, coap.ACK, coap.RST])
@pytest.mark.parametrize("plain", [None, plain_site()], ids=["without", "with"])
async def test_silence_by_multicast(kind: int, plain: resource.Site | None) -> None:
    """Plain requests, pings, responses: nothing comes back and nothing is delivered."""
    world = World(listeners=1)
    async with lamps(world, plain_site=plain) as [(lamp, light)], Peer() as peer:
        to = (str(world.addresses[0].host), world.port)
        for code in (coap.GET, coap.PUT, coap.CONTENT, coap.EMPTY):
            message = Message(kind, code, 7, b"", (), b"") if code == coap.EMPTY else request(code, kind=kind)
            peer.send(message, to)
        await eventually(lambda: sum(lamp.counters.rejected.values()) == 4)
        assert lamp.counters.rejected.keys() <= {Reason.NOT_FOR_MULTICAST, Reason.NOT_PROTECTED}
        await peer.assert_silence(lamp.network.local_address(4))
        assert not light.requests


@pytest.mark.parametrize("kind", [coap.CON, coap.NON])
@pytest.mark.parametrize("code", [coap.GET, coap.POST, coap.PUT, coap.DELETE, coap.FETCH])
@pytest.mark.parametrize("client_only", [False, True])
async def test_unauthorized_by_unicast(kind: int, code: int, client_only: bool) -> None:
    world = World(listeners=1)
    async with lamps(world, plain=client_only) as [(lamp, light)], Peer() as peer:
        peer.send(request(code, kind=kind), lamp.network.local_address(4))
        answer = await peer.receive()
        assert (answer.code, answer.token) == (coap.UNAUTHORIZED, b"token")
        if kind == coap.CON:
            assert (answer.type, answer.message_id) == (coap.ACK, 7)
        else:
            assert answer.type == coap.NON
        assert not light.requests
        assert lamp.counters.rejected == {Reason.NOT_PROTECTED: 1}


async def test_errors_are_limited() -> None:
    """Nobody makes this endpoint a source of many datagrams."""
    world = World(listeners=1)
    async with lamps(world) as [(lamp, _)], Peer() as peer:
        for number in range(200):
            peer.send(request()._replace(message_id=number), lamp.network.local_address(4))
        await eventually(lambda: lamp.counters.rejected == {Reason.NOT_PROTECTED: 200})
        assert 20 <= lamp.counters.errors_sent < 60


@pytest.mark.parametrize("plain", [None, plain_site()], ids=["without", "with"])
async def test_a_ping_gets_a_reset(plain: resource.Site | None) -> None:
    world = World(listeners=1)
    async with lamps(world, plain_site=plain) as [(lamp, _)], Peer() as peer:
        ping = Message(coap.CON, coap.EMPTY, 99, b"", (), b"")
        peer.send(ping, lamp.network.local_address(4))
        assert await peer.receive() == ping._replace(type=coap.RST)


MALFORMED = {
    "one zero byte": b"\x00",
    "reserved length 6": b"\x0e" + bytes(6),
    "reserved length 7": b"\x0f" + bytes(7),
    "Partial IV cut short": b"\x0d\x01",
    "leading zero": b"\x0a\x00\x01kid",
    "Gid cut short": b"\x19\x01\x08abc",
    "reserved bit 7": b"\x89\x01kid",
    "reserved bit 6": b"\x49\x01kid",
    "no Partial IV": b"\x08kid",
    "no kid": b"\x01\x01",
    "empty": b"",
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("plain", [None, plain_site()], ids=["without", "with"])
async def test_a_malformed_object_security_is_met_with_silence(value: bytes, plain: resource.Site | None) -> None:
    world = World(listeners=1)
    async with lamps(world, plain_site=plain) as [(lamp, light)], Peer() as peer:
        for kind in (coap.CON, coap.NON):
            message = request(coap.POST, kind=kind, options=((coap.OBJECT_SECURITY, value),), payload=bytes(30))
            peer.send(message, lamp.network.local_address(4))
            peer.send(message._replace(type=coap.NON), (str(world.addresses[0].host), world.port))
        await eventually(lambda: lamp.counters.rejected == {Reason.MALFORMED: 4})
        await peer.assert_silence(lamp.network.local_address(4))
        assert not light.requests


@pytest.mark.parametrize("plain", [None, plain_site()], ids=["without", "with"])
async def test_so_are_two_of_them_and_one_without_a_ciphertext(plain: resource.Site | None) -> None:
    world = World(listeners=1)
    async with lamps(world, plain_site=plain) as [(lamp, _)], Peer() as peer:
        good = (coap.OBJECT_SECURITY, b"\x09\x01kid")
        peer.send(request(coap.POST, options=(good, good), payload=bytes(30)), lamp.network.local_address(4))
        peer.send(request(coap.POST, options=(good,)), lamp.network.local_address(4))
        await eventually(lambda: lamp.counters.rejected == {Reason.MALFORMED: 2})
        await peer.assert_silence(lamp.network.local_address(4))


@pytest.mark.parametrize("kind", [coap.ACK, coap.RST])
async def test_a_protected_request_of_a_type_that_is_no_requests(kind: int) -> None:
    """The type is not protected: changed on the way it must not use up the request's number."""
    world = World(listeners=1)
    async with lamps(world) as [(lamp, light)], Peer() as peer:
        member = Member(world, world.switch_ids[0])
        message, _ = member.protect(b"", code=coap.GET, kind=coap.CON)
        peer.send(message._replace(type=kind), lamp.network.local_address(4))
        await eventually(lambda: lamp.counters.rejected == {Reason.MALFORMED: 1})
        peer.send(message, lamp.network.local_address(4))
        await light.wait_for(1)


async def test_a_datagram_that_is_no_coap() -> None:
    world = World(listeners=1)
    async with lamps(world, plain_site=plain_site()) as [(lamp, _)], Peer() as peer:
        junk = [b"", b"\x40", b"\x00" * 20, b"\xff" * 20, b"\x4f" + bytes(40), b"\x40\x01\x00\x01\xff"]
        for datagram in junk:
            peer.send(datagram, lamp.network.local_address(4))
            peer.send(datagram, (str(world.addresses[0].host), world.port))
        await eventually(lambda: lamp.counters.rejected == {Reason.MALFORMED: 2 * len(junk)})
        await peer.assert_silence(lamp.network.local_address(4))


# ---- with a plain site


@pytest.mark.parametrize("kind", [coap.CON, coap.NON])
async def test_served_by_the_plain_site_and_never_by_the_groups(kind: int) -> None:
    world = World(listeners=1)
    async with (
        lamps(world, plain_site=plain_site()) as [(lamp, light)],
        Peer() as peer,
        switch(world) as multicaster,
    ):
        peer.send(request(kind=kind), lamp.network.local_address(4))
        answer = await peer.receive()
        assert (answer.code, answer.token, answer.payload) == (coap.CONTENT, b"token", b"plain")
        # What only the group is served is not there.
        peer.send(request(options=((coap.URI_PATH, b"big"),))._replace(message_id=8), lamp.network.local_address(4))
        assert (await peer.receive()).code == aiocoap.NOT_FOUND
        assert not light.requests
        # And the other way round.
        [answered] = await answers(multicaster.request(get()))
        assert answered.message.payload == b"off"
        assert lamp.plain_context is not None


async def test_an_ordinary_client() -> None:
    world = World(listeners=1)
    async with lamps(world, plain_site=plain_site()) as [(lamp, _)], client() as context:
        response = await context.request(aiocoap.Message(code=aiocoap.GET, uri=uri(lamp))).response
        assert response.payload == b"plain"
        body = bytes(5000)  # block-wise both ways
        message = aiocoap.Message(code=aiocoap.POST, uri=uri(lamp), payload=body)
        response = await context.request(message).response
        assert response.payload == body


async def test_rfc8613_on_the_same_socket(tmp_path: Path) -> None:
    """aiocoap's client and aiocoap's OSCORE site wrapper, beside a group that goes on."""
    served = Plain()
    inner = plain_site(served)
    credentials = CredentialsMap()
    credentials[":peer"] = oscore_context(tmp_path, "01", "02")
    credentials[":peer"].authenticated_claims = ["peer"]
    world = World(listeners=1)
    async with (
        lamps(world, plain_site=OscoreSiteWrapper(inner, credentials)) as [(lamp, light)],
        switch(world) as multicaster,
        client() as context,
    ):
        context.client_credentials[uri(lamp, "*")] = oscore_context(tmp_path, "02", "01")
        for _ in range(2):  # the first is answered with an Echo challenge, by aiocoap itself
            response = await context.request(aiocoap.Message(code=aiocoap.GET, uri=uri(lamp))).response
            assert response.payload == b"plain"
        assert type(response.remote).__name__ == "OSCOREAddress"
        assert served.claims == [("peer",)] * 2
        assert not light.requests
        assert len(await answers(multicaster.request(put(b"on")))) == 1
        assert lamp.counters.rejected == {}


async def test_rfc8613_without_a_site_for_it() -> None:
    """Well-formed, so that a confirmable one is told."""
    world = World(listeners=1)
    async with lamps(world) as [(lamp, _)], Peer() as peer:
        option = (coap.OBJECT_SECURITY, encode_prefix(0x08, b"\x01", None) + b"kid")
        peer.send(request(coap.POST, options=(option,), payload=bytes(30)), lamp.network.local_address(4))
        assert (await peer.receive()).code == coap.UNAUTHORIZED


@pytest.mark.parametrize("protected", [False, True], ids=["plain", "rfc8613"])
async def test_the_endpoint_as_a_client(protected: bool, tmp_path: Path) -> None:
    """Its own plain context asks an ordinary aiocoap server, from the endpoint's socket."""
    world = World(listeners=1)
    port = free_port()
    served = Plain()
    inner: object = plain_site(served)
    credentials = CredentialsMap()
    if protected:
        credentials[":peer"] = oscore_context(tmp_path, "01", "02")
        credentials[":peer"].authenticated_claims = ["peer"]
        inner = OscoreSiteWrapper(inner, credentials)
    server = await aiocoap.Context.create_server_context(inner, bind=("127.0.0.9", port), transports=["udp6"])
    try:
        async with world.endpoint(world.lamp_ids[0], plain=True) as endpoint:
            context = endpoint.plain_context
            assert context is not None
            if protected:
                context.client_credentials[f"coap://127.0.0.9:{port}/*"] = oscore_context(tmp_path, "02", "01")
            for _ in range(2):
                message = aiocoap.Message(code=aiocoap.GET, uri=f"coap://127.0.0.9:{port}/light")
                async with asyncio.timeout(TIMEOUT):
                    response = await context.request(message).response
                assert response.payload == b"plain"
            assert served.claims == [("peer",) if protected else ()] * 2
    finally:
        await server.shutdown()


async def test_names_are_not_resolved() -> None:
    world = World(listeners=1)
    async with world.endpoint(world.lamp_ids[0], plain=True) as endpoint:
        for where in ("coap://lamp.example/x", "coaps://127.0.0.9/x"):
            assert endpoint.plain_context is not None
            with pytest.raises(aiocoap.error.NoRequestInterface):
                await endpoint.plain_context.request(aiocoap.Message(code=aiocoap.GET, uri=where)).response


async def test_message_ids_and_tokens_of_both_stacks_differ() -> None:
    """They share a socket, and with it the peers' memory of what has been seen."""
    world = World()
    async with world.endpoint(world.switch_ids[0], plain=True) as endpoint:
        assert endpoint.plain_context is not None
        plain = endpoint.plain_context.request_interfaces[-1]
        plain._token = endpoint.tokens._token  # as chance may have it
        plain.token_interface.message_id = endpoint.messages.message_id
        seen = [
            (manager._next_message_id(), tokens.next_token())
            for _ in range(3)
            for manager, tokens in ((endpoint.messages, endpoint.tokens), (plain.token_interface, plain))
        ]
        assert len({message_id for message_id, _ in seen}) == len({token for _, token in seen}) == 6


# ---- unprotected responses


@pytest.mark.parametrize("plain", [False, True], ids=["without", "with"])
async def test_an_unprotected_response_ends_nothing(plain: bool) -> None:
    """With the right token, from the right address, of any type: it is not delivered, and the answers come."""
    world = World(listeners=0)
    lamp_id = b"\x05"
    world.keys[lamp_id] = world.keys[world.switch_ids[0]]
    async with switch(world, plain=plain) as multicaster, Peer("127.0.0.5") as peer:
        to = multicaster.endpoint.network.local_address(4)
        collection = multicaster.request(put(b"on"), roster=[lamp_id], timeout=TIMEOUT)
        [token] = multicaster.endpoint.interface._outgoing
        for kind in (coap.CON, coap.NON, coap.ACK, coap.RST):
            for code in (coap.CHANGED, coap.FORBIDDEN, coap.UNAUTHORIZED):
                peer.send(Message(kind, code, 50 + kind, token, (), b"forged"), to)
        # aiocoap's own layers tell whoever sends an unknown confirmable response; no more than that.
        assert {message.type for message in await peer.until_ping(to)} <= ({coap.RST} if plain else set())
        assert not collection.answered
        assert list(multicaster.endpoint.interface._outgoing) == [token]
        collection.close()


async def test_an_unprotected_answer_to_a_unicast_request_ends_nothing() -> None:
    """Neither the exchange nor the retransmission: the genuine answer comes later and counts."""
    world = World(listeners=1)
    async with switch(world) as multicaster, lamps(world) as [(lamp, light)], Peer() as peer:
        endpoint = multicaster.endpoint
        collection = multicaster.request(get("big"), timeout=TIMEOUT)  # its further blocks are fetched by unicast
        forged = 0
        address = endpoint.network.local_address(4)
        async with asyncio.timeout(TIMEOUT):
            while not collection.answered:
                for token in list(endpoint.interface._outgoing):
                    peer.send(Message(coap.NON, coap.CONTENT, 9, token, (), b"forged"), address)
                    forged += 1
                await asyncio.sleep(0)
                if collection._queue.qsize():
                    break
        [answer] = await answers(collection)
        assert len(answer.message.payload) == 5120
        assert forged
        await eventually(lambda: endpoint.counters.rejected.get(Reason.NOT_PROTECTED) == forged)
        assert lamp.counters.rejected == {}
        assert isinstance(light, Light)


# ---- below the message layer


async def test_message_ids_make_no_duplicates() -> None:
    """A forged datagram with the switch's address and Message ID does not make the genuine one a duplicate, and nor
    does a counter that has gone round."""
    world = World(listeners=1)
    async with lamps(world) as [(lamp, light)], Peer() as peer:
        member = Member(world, world.switch_ids[0])
        outsider = Member(World(gid=world.gid, addresses=world.addresses), world.switch_ids[0])
        for who, payload in ((outsider, b"forged"), (member, b"one"), (member, b"two")):
            message, _ = who.protect(payload)
            peer.send(message._replace(message_id=7), member.group)
        await light.wait_for(2)
        assert light.payloads == [b"one", b"two"]
        assert lamp.counters.rejected == {Reason.DECRYPTION_FAILED: 1}
