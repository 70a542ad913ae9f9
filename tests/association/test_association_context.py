"""Security Contexts of associations: keys, numbers, replay windows."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
from typing import Any

import aiocoap
import pytest
from aiocoap import oscore
from aiocoap.oscore import ContextUnavailable, ReplayErrorWithEcho
from associated import carried, nonces  # noqa: F401

from groupcoap.association.context import MAX_NUMBERS, RESERVATION, AssociationContext, master_salt
from groupcoap.errors import MisuseError
from groupcoap.secret import Secret

SECRET = Secret(bytes.fromhex("f9af838368e353e78888e1426bd94e6f"))
N1, N2 = bytes.fromhex("018a278f7faab55a"), bytes.fromhex("25a8991cd700ac01")
ID1, ID2 = bytes.fromhex("1645"), bytes.fromhex("0000")
SALT = master_salt(b"handle01", N1, N2)


def device(**options: Any) -> AssociationContext:
    return AssociationContext("manager", SECRET, SALT, ID2, ID1, **{"fresh": True, **options})


def manager(**options: Any) -> AssociationContext:
    return AssociationContext("lamp", SECRET, SALT, ID1, ID2, **{"fresh": True, **options})


def request(context: AssociationContext, **options: Any) -> tuple[Any, Any]:
    message, request_id = context.protect(aiocoap.Message(code=aiocoap.GET, **options))
    return carried(message), request_id


@pytest.mark.parametrize(
    ("salt", "head", "to_manager", "to_device", "common_iv"),
    [
        (
            SECRET.reveal(),
            "50f9af838368e353e78888e1426bd94e6f",
            "b27e21a6e8904c69367a7903b60c19ae",
            "7ca38f735b2e0866341bfe149795d547",
            "7c3b80ba46ee86b866da7b6718",
        ),
        (
            b"",
            "40",
            "8554dd374eb4cecca6e09e2d9ba84480",
            "091b6d7f314c85f03f0ab33c223191ed",
            "3e5e3bd86f4f46cf3a1608a332",
        ),
    ],
)
def test_check_values(salt: bytes, head: str, to_manager: str, to_device: str, common_iv: str) -> None:
    """Of the digest of RFC 9203, section 7; its input salt is where our handle is."""
    derived = master_salt(salt, N1, N2)
    assert derived.hex() == head + "48018a278f7faab55a" + "4825a8991cd700ac01"
    one = AssociationContext("manager", SECRET, derived, ID2, ID1, fresh=True)
    other = AssociationContext("lamp", SECRET, derived, ID1, ID2, fresh=True)
    assert one.sender_key.hex() == other.recipient_key.hex() == to_manager
    assert one.recipient_key.hex() == other.sender_key.hex() == to_device
    assert one.common_iv.hex() == other.common_iv.hex() == common_iv


def test_nothing_shows_the_keys() -> None:
    context = device()
    shown = repr(context)
    assert "manager" in shown
    for key in (context.sender_key, context.recipient_key, context.common_iv, SECRET.reveal()):
        assert key.hex() not in shown
        assert repr(key) not in shown


@pytest.mark.parametrize(("sender", "recipient"), [(b"", b""), (b"1", b"1"), (bytes(8), b"1"), (b"1", bytes(8))])
def test_ids_that_cannot_be(sender: bytes, recipient: bytes) -> None:
    with pytest.raises(MisuseError):
        AssociationContext("lamp", SECRET, SALT, sender, recipient, fresh=True)


def test_numbers_below_the_bound_and_no_others() -> None:
    context = device(next_number=7, bound=9)
    assert [context.new_sequence_number() for _ in range(2)] == [7, 8]
    for _ in range(2):
        with pytest.raises(ContextUnavailable):
            context.new_sequence_number()
    context.extend(10)
    assert context.new_sequence_number() == 9
    with pytest.raises(ContextUnavailable):
        request(context)
    context.extend(5)  # never lower
    assert context.bound == 10


def test_the_last_number_there_is() -> None:
    context = device(next_number=MAX_NUMBERS - 1)
    message, _ = request(context)
    assert oscore.verify_start(message)[oscore.COSE_PIV] == bytes([255] * 5)
    with pytest.raises(ContextUnavailable):
        request(context)
    context.extend(MAX_NUMBERS + 10)
    with pytest.raises(ContextUnavailable):
        request(context)


def test_it_says_when_numbers_run_low() -> None:
    context = device(bound=RESERVATION)
    told: list[int] = []
    context.on_low = lambda: told.append(context.sender_sequence_number)
    for _ in range(RESERVATION // 2):
        context.new_sequence_number()
    assert told == []
    context.new_sequence_number()
    assert told == [RESERVATION // 2 + 1]
    context.extend(2 * RESERVATION)
    context.new_sequence_number()
    assert len(told) == 1


async def test_waiting_for_numbers() -> None:
    context = device(next_number=5, bound=5)
    context.on_low = lambda: asyncio.get_running_loop().call_soon(context.extend, 6)  # type: ignore[assignment]
    await context.ready()
    assert context.new_sequence_number() == 5
    context.on_low = None
    with pytest.raises(ContextUnavailable):
        await context.ready(0.01)
    with pytest.raises(ContextUnavailable):
        await device(next_number=MAX_NUMBERS).ready()


def test_both_directions() -> None:
    one, other = device(), manager()
    for client, server in ((one, other), (other, one)):
        sent, sent_id = request(client)
        _, request_id = server.unprotect(sent)
        assert server.verified
        answer, _ = server.protect(aiocoap.Message(code=aiocoap.CONTENT, payload=b"x"), request_id)
        assert client.unprotect(carried(answer), sent_id)[0].payload == b"x"


def test_it_is_verified_by_what_is_no_replay() -> None:
    server, told = manager(), []
    server.on_verified = lambda: told.append(server.verified)
    client = device()
    sent, _ = request(client)
    changed = sent.copy(payload=sent.payload[:-1] + bytes([sent.payload[-1] ^ 1]))
    with pytest.raises(oscore.ProtectionInvalid):
        server.unprotect(changed)
    assert not server.verified
    for _ in range(3):
        server.unprotect(request(client)[0])
    assert told == [True]
    server.unprotect(sent)  # overtaken, within the window
    with pytest.raises(oscore.ReplayError):
        server.unprotect(sent)


def test_without_a_replay_window_there_is_an_echo_first() -> None:
    client, server = device(), manager(fresh=False, next_number=3)
    replayed, replayed_id = request(client)
    assert not server.recipient_replay_window.is_initialized()
    for number in (3, 4):
        with pytest.raises(ReplayErrorWithEcho) as caught:
            server.unprotect(replayed)
        answer = carried(caught.value.to_message())
        assert oscore.verify_start(answer)[oscore.COSE_PIV] == bytes([number])
        assert not server.verified
        challenge, _ = client.unprotect(answer, replayed_id)
        assert challenge.opt.echo == server.echo_recovery
    fresh, _ = request(client, echo=challenge.opt.echo)
    server.unprotect(fresh)
    assert server.verified
    assert server.initialized
    assert server.echo_recovery is None
    for old in (replayed, fresh):
        with pytest.raises(oscore.ReplayError):
            server.unprotect(old)
