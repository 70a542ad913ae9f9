"""Requirements of the draft and of OSCORE-06 that no other test of the core states by itself: docs/requirements."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.contexts import CommonContext
from groupcoap.core.exchange import outgoing_exchange
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.option import partial_iv_bytes
from groupcoap.core.profile import RequestIds
from groupcoap.core.window import WIDTH
from groupcoap.cose.algorithms import Kdf
from groupcoap.errors import Reason
from groupcoap.membership import Epoch, GroupAddress, GroupConfiguration, Role
from groupcoap.secret import Secret
from support import (
    EDDSA,
    ES256,
    GID,
    LISTENER,
    MULTICASTER,
    NEXT_GID,
    OTHER_LISTENER,
    answer,
    attempt,
    collect,
    common_context,
    decrypt,
    deliver,
    make_node,
    option_of,
    protect,
    receive,
    refused,
    request,
    response,
)

numbers = st.one_of(st.integers(0, 300), st.integers(0, (1 << 40) - 1))


def test_code_path_query_and_payload_are_nowhere_in_the_datagram() -> None:
    path, query, payload, reply = b"front-door-lock", b"pin=314159", b"open until noon", b"it is open now"
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender, request(coap.PUT, (coap.URI_PATH, path), (coap.URI_QUERY, query), payload=payload))
    reading = protect(sender, request(coap.DELETE, (coap.URI_PATH, path)))
    answered = answer(listener, deliver(listener, protected.message).exchange, response(0x84, payload=reply))
    for message, code in ((protected.message, coap.POST), (reading.message, coap.POST), (answered, coap.CHANGED)):
        datagram = coap.encode(message)
        assert not [text for text in (path, query, payload, reply) if text in datagram]
        assert message.code == code
    assert collect(sender, protected.exchange, answered).message.payload == reply


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (common_context(aead=30), Reason.DECRYPTION_FAILED),
        (common_context(aead=24), Reason.DECRYPTION_FAILED),
        (common_context(kdf=Kdf.HKDF_SHA_512), Reason.DECRYPTION_FAILED),
        (common_context(signature=ES256), Reason.SIGNATURE_FAILED),
    ],
    ids=["tag length", "AEAD", "KDF", "signature"],
)
def test_who_has_not_agreed_on_the_ciphersuite_is_not_understood(other: CommonContext, reason: Reason) -> None:
    listener = make_node(LISTENER)
    with refused(reason):
        receive(listener, protect(make_node(MULTICASTER, other)).message)
    deliver(listener, protect(make_node(MULTICASTER)).message)


@given(
    kid=st.binary(max_size=7), number=numbers, gid=st.binary(min_size=1, max_size=40), response_too=st.booleans()
)
def test_the_option_value_is_laid_out_as_in_figure_2(
    kid: bytes, number: int, gid: bytes, response_too: bool
) -> None:
    """Flag byte ‖ Partial IV ‖ length and Gid ‖ countersignature ‖ kid; and the payload is the ciphertext."""
    common = common_context(gid=gid)
    other = b"\x01" if kid != b"\x01" else b"\x02"
    sender = make_node(kid, common, ids=(kid, other), first=number)
    listener = make_node(other, common, ids=(kid, other), first=number)
    protected = protect(sender)
    partial_iv = partial_iv_bytes(number)
    ids = RequestIds(kid, partial_iv, gid)

    def expected(flags: int, middle: bytes, owner: bytes, payload: bytes) -> bytes:
        prepared = MULTICAST_OSCORE_04.binder(common, kid, gid)(partial_iv)
        _, signed = MULTICAST_OSCORE_04.countersigned(common, (b"", *prepared[1:], payload))
        node = sender if owner == kid else listener
        return bytes((flags,)) + middle + node.sender.private_key.sign(signed) + owner

    length = bytes((len(gid),))
    value, payload = option_of(protected.message), protected.message.payload
    assert value == expected(0x38 | len(partial_iv), partial_iv + length + gid, kid, payload)
    key = MULTICAST_OSCORE_04.derive_key(common, kid)
    aad = MULTICAST_OSCORE_04.binder(common, *ids[::2])(partial_iv)[0]
    plaintext = common.encryption.cipher(key).decrypt(common.nonce(kid, partial_iv), payload, aad)
    assert plaintext == b"\x01\xb5light"

    exchange = deliver(listener, protected.message).exchange
    bare = answer(listener, exchange)
    assert option_of(bare) == expected(0x28, b"", other, bare.payload)
    full = answer(listener, exchange, include_gid=response_too)
    middle = partial_iv + (length + gid if response_too else b"")
    flags = 0x28 | len(partial_iv) | (0x10 if response_too else 0)
    assert option_of(full) == expected(flags, middle, other, full.payload)


def test_ids_that_differ_in_zeros_only_have_different_nonces() -> None:
    common = common_context()
    nonces = [common.nonce(bytes(length), partial_iv_bytes(n)) for length in range(8) for n in (0, 1, 256)]
    assert len(set(nonces)) == len(nonces)


def test_a_member_has_one_id_and_one_key_in_both_roles() -> None:
    member, other = make_node(LISTENER), make_node(MULTICASTER)
    asked = deliver(other, protect(member).message)
    protected = protect(other)
    answered = collect(other, protected.exchange, answer(member, deliver(member, protected.message).exchange))
    assert asked.sender_id == answered.sender_id == LISTENER
    assert {r.key.reveal() for r in other.context.recipients} == {member.sender.key.reveal()}


def test_the_defaults_are_those_of_the_specification() -> None:
    epoch = Epoch(GID, Secret(bytes(16)), None, None, ())
    address = GroupAddress(ip_address("ff35:30:2001:db8::23"))
    group = GroupConfiguration("lights", MULTICAST_OSCORE_04, (address,), frozenset({Role.PURE_LISTENER}), (epoch,))
    assert group.aead is not None
    assert (group.aead.number, group.kdf, group.signature.number) == (10, Kdf.HKDF_SHA_256, EDDSA)
    assert WIDTH == 32


def test_the_numbers_are_those_that_were_assigned_later() -> None:
    """As Object-Security (OSCORE) and Repeat (Echo) became known; Repeat is elective, safe to forward."""
    assert (coap.OBJECT_SECURITY, coap.REPEAT) == (9, 252)
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender, request(coap.GET, (coap.URI_PATH, b"light"), (252, bytes(8))))
    assert [number for number, _ in protected.message.options] == [9]
    assert decrypt(listener, protected.message, destination=None).has_option(frozenset({252}))


@pytest.mark.parametrize("kind", [coap.CON, coap.NON])
def test_type_message_id_and_token_are_those_of_the_original(kind: int) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    asked = request(kind=kind, token=b"\x01\x02\x03")._replace(message_id=0xBEEF)
    protected = protect(sender, asked)
    assert protected.message[:1] + protected.message[2:4] == (kind, 0xBEEF, b"\x01\x02\x03")
    delivered = deliver(listener, protected.message, destination=None)
    assert delivered.message == asked
    answered = response()._replace(type=coap.ACK, message_id=0xBEEF, token=b"\x01\x02\x03")
    message = answer(listener, delivered.exchange, answered)
    assert message[:1] + message[2:4] == (coap.ACK, 0xBEEF, b"\x01\x02\x03")
    assert collect(sender, protected.exchange, message).message == answered


def test_a_request_whose_observe_a_proxy_has_taken_is_an_ordinary_one() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender, request(coap.GET, (coap.OBSERVE, b""), (coap.URI_PATH, b"light")))
    assert protected.message.code == coap.FETCH
    stripped = tuple(option for option in protected.message.options if option[0] != coap.OBSERVE)
    delivered = deliver(listener, protected.message._replace(options=stripped))
    assert delivered.message == request()
    answered = collect(sender, protected.exchange, answer(listener, delivered.exchange))
    assert (answered.notification, answered.message) == (False, response())


def test_an_outer_max_age_of_an_answer_is_discarded_and_the_inner_one_counts() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender)
    exchange = deliver(listener, protected.message).exchange
    message = answer(listener, exchange, response(coap.CONTENT, (coap.MAX_AGE, b"\x3c")))
    assert message.option(coap.MAX_AGE) is None
    proxied = message._replace(options=(*message.options, (coap.MAX_AGE, b"")))
    assert collect(sender, protected.exchange, proxied).message.options == ((coap.MAX_AGE, b"\x3c"),)


@pytest.mark.parametrize(
    "changed",
    [{"kid": OTHER_LISTENER}, {"partial_iv": b"\x01"}, {"gid": NEXT_GID}],
    ids=["Sender ID", "Partial IV", "Gid"],
)
def test_an_answer_is_bound_to_all_three_of_the_requests_ids(changed: dict[str, bytes]) -> None:
    """Even under one and the same nonce of the listener's own."""
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender)
    message = answer(listener, deliver(listener, protected.message).exchange, fresh=True)
    ids = protected.exchange.ids._replace(**changed)
    prepared = MULTICAST_OSCORE_04.binder(sender.context.common, ids.kid, ids.gid)(ids.partial_iv)
    other = outgoing_exchange(sender.context, ids, prepared, protected.exchange.nonce, False)
    assert attempt(lambda: collect(sender, other, message)) is Reason.DECRYPTION_FAILED
    assert collect(sender, protected.exchange, message).sender_id == LISTENER
