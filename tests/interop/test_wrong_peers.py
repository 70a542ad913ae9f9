"""aiocoap with something else than what the group has: nothing of it is delivered, in either direction."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
from aiocoap import oscore
from devices import answers, eventually

from groupcoap.core import coap
from groupcoap.core.profile import Mode
from groupcoap.endpoint.network import SocketAddress
from groupcoap.errors import Reason

from .peer import (
    GROUP_MODE,
    LOCAL,
    MODES,
    PAIRWISE,
    Group,
    Parts,
    PeerContext,
    asking,
    parts,
    request,
    serving,
    to,
    with_new_key,
)

STRANGER = b"\x77"
QUICKLY = 0.3
"""Seconds in which an answer would have come, were there one."""


class Wrong(NamedTuple):
    """What makes a member's context wrong, and why what it makes is refused by us, in either mode."""

    name: str
    make: Callable[[Parts], PeerContext]
    in_group_mode: Reason
    in_pairwise_mode: Reason

    def reason(self, mode: Mode) -> Reason:
        return self.in_group_mode if mode is GROUP_MODE else self.in_pairwise_mode


def _another_manager(right: Parts) -> PeerContext:
    return right._replace(manager=with_new_key(right, right.own_id).credential).context()


def _another_salt(right: Parts) -> PeerContext:
    return right._replace(salt=os.urandom(len(right.salt))).context()


def _another_secret(right: Parts) -> PeerContext:
    return right._replace(secret=os.urandom(len(right.secret))).context()


def _no_member(right: Parts) -> PeerContext:
    """It has got hold of the group's keys."""
    return with_new_key(right, STRANGER).context()


def _in_anothers_name(right: Parts) -> PeerContext:
    """It has the group's keys, as every member has, and says what that other one would; but signs with its own."""
    made = with_new_key(right, right.own_id).context()
    made.sender_auth_cred = right.credential
    return made


_DECRYPTION = Reason.DECRYPTION_FAILED
OUTSIDE = (
    Wrong("another manager", _another_manager, _DECRYPTION, _DECRYPTION),
    Wrong("another Master Salt", _another_salt, _DECRYPTION, _DECRYPTION),
    Wrong("another Master Secret", _another_secret, _DECRYPTION, _DECRYPTION),
)
INSIDE = (
    Wrong("no member", _no_member, Reason.NO_PUBLIC_KEY, Reason.NO_PUBLIC_KEY),
    Wrong("in another's name", _in_anothers_name, Reason.SIGNATURE_FAILED, _DECRYPTION),
)


def named(value: Any) -> str:
    return str(value.name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrong", OUTSIDE + INSIDE, ids=named)
async def test_its_requests(mixed_group: Group, wrong: Wrong, mode: Mode) -> None:
    security = wrong.make(parts(mixed_group.files("switch-1"))).asking(mode, mixed_group.lamps["lamp-1"])
    async with mixed_group.lamp() as (endpoint, lamp), asking(security) as client:
        with pytest.raises(oscore.NotAProtectedMessage) as refused:
            await client.ask(to(endpoint))
        assert not refused.value.plain_message.code.is_successful()
        assert lamp.asked == []
        assert endpoint.counters.rejected == {wrong.reason(mode): 1}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrong", OUTSIDE + INSIDE, ids=named)
async def test_its_answers(mixed_group: Group, wrong: Wrong, mode: Mode) -> None:
    """It is told what was asked by one that can read it."""
    right = parts(mixed_group.files("lamp-1"))
    security = right.context(mode)
    security.answering = wrong.make(right)
    async with serving(security, group=mixed_group.address) as server, mixed_group.switch() as multicaster:
        collection = multicaster.request(request(), roster=[server.kid])
        await eventually(lambda: multicaster.endpoint.counters.rejected == {wrong.reason(mode): 1})
        assert len(server.lamp.asked) == 1
        collection.close()
        assert await answers(collection) == []


@pytest.mark.parametrize("wrong", OUTSIDE, ids=named)
async def test_our_requests_to_it(mixed_group: Group, wrong: Wrong) -> None:
    security = wrong.make(parts(mixed_group.files("lamp-1")))
    async with serving(security, group=mixed_group.address) as server, mixed_group.switch() as multicaster:
        for number, collection in enumerate(
            (
                multicaster.request(request()),
                multicaster.ask(server.kid, request(), (LOCAL, mixed_group.address.port), mode=GROUP_MODE),
                multicaster.ask(server.kid, request(), (LOCAL, mixed_group.address.port), mode=PAIRWISE),
            ),
            1,
        ):
            await eventually(partial(server.has_done, number))
            collection.close()
            assert await answers(collection) == []
        assert server.lamp.asked == []


async def test_our_pairwise_requests_to_one_in_anothers_name(mixed_group: Group) -> None:
    """What is said to one member alone, no other one can read or answer."""
    security = _in_anothers_name(parts(mixed_group.files("lamp-1")))
    async with serving(security) as server, mixed_group.switch() as multicaster:
        collection = multicaster.ask(server.kid, request(), server.address, timeout=QUICKLY)
        assert await answers(collection) == []
        assert server.site.done == 1
        assert server.lamp.asked == []
        assert multicaster.endpoint.counters.rejected == {Reason.NOT_PROTECTED: 1}  # a plain 4.00


@pytest.mark.parametrize("mode", MODES)
async def test_a_request_for_one_listener_sent_to_another(mixed_group: Group, mode: Mode) -> None:
    """A pairwise one it cannot read; one in group mode may be turned to it, which is why only reading is allowed
    so."""
    security = mixed_group.peer("switch-1").asking(mode, mixed_group.lamps["lamp-2"])
    async with mixed_group.lamp("lamp-1") as (endpoint, lamp), asking(security) as client:
        if mode is PAIRWISE:
            with pytest.raises(oscore.NotAProtectedMessage):
                await client.ask(to(endpoint))
            assert lamp.asked == []
            assert endpoint.counters.rejected == {Reason.DECRYPTION_FAILED: 1}
        else:
            assert (await client.ask(to(endpoint))).payload == b"lamp-1 is off"


@pytest.mark.parametrize("mode", MODES)
async def test_a_replay_of_theirs(mixed_group: Group, mode: Mode) -> None:
    """The same sequence number again, under another token and Message ID."""
    security = mixed_group.peer("switch-1")
    async with mixed_group.lamp() as (endpoint, lamp):
        async with asking(security.asking(mode, mixed_group.lamps["lamp-1"])) as client:
            for _ in range(2):
                security.sender_sequence_number = 7
                if not lamp.asked:
                    assert (await client.ask(to(endpoint))).payload == b"lamp-1 is off"
                else:
                    with pytest.raises(oscore.NotAProtectedMessage):
                        await client.ask(to(endpoint))
        assert len(lamp.asked) == 1
        assert endpoint.counters.rejected == {Reason.REPLAY: 1}


@pytest.mark.parametrize("mode", MODES)
async def test_a_replay_of_ours(mixed_group: Group, mode: Mode) -> None:
    """What we have sent, sent again by somebody else, who changes the Message ID."""
    async with serving(mixed_group.peer("lamp-1")) as server, mixed_group.switch() as multicaster:
        network = multicaster.endpoint.network
        send, sent = network.send, []

        def record(datagram: bytes, destination: SocketAddress) -> None:
            sent.append(datagram)
            send(datagram, destination)

        network.send = record  # type: ignore[method-assign]
        assert len(await answers(multicaster.ask(server.kid, request(), server.address, mode=mode))) == 1
        other_id = (coap.decode(sent[0]).message_id + 1) % 0x10000
        send(coap.encode(coap.decode(sent[0])._replace(message_id=other_id)), server.address)
        await eventually(partial(server.has_done, 2))
        assert len(server.lamp.asked) == 1
