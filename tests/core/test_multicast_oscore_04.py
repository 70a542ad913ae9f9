"""The wire profile: derivation, AAD, option and sealing against the page's own words, and whole round trips."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CommonContext
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04, split_tail
from groupcoap.core.option import decode_prefix
from groupcoap.core.profile import RequestIds
from groupcoap.core.requests import Trace, protect_request
from groupcoap.core.responses import protect_response
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.cose.algorithms import AEAD_ALGORITHMS, Kdf, encryption_algorithm, key_agreement
from groupcoap.cose.keys import signature_algorithm
from groupcoap.errors import MisuseError, Reason, Rejected
from groupcoap.secret import Secret
from support import (
    A128CTR,
    ADDRESS,
    BASELINE,
    BEST_EFFORT,
    EDDSA,
    ES256,
    ES384,
    GID,
    LISTENER,
    MULTICASTER,
    OTHER_LISTENER,
    answer,
    collect,
    common_context,
    deliver,
    flipped_bits,
    make_node,
    messages,
    option_of,
    over_the_wire,
    protect,
    receive,
    refused,
    request,
    request_codes,
    response,
    response_codes,
    snapshot,
    with_protection,
)

aeads = pytest.mark.parametrize("aead", AEAD_ALGORITHMS)
kdfs = pytest.mark.parametrize("kdf", [Kdf.HKDF_SHA_256, Kdf.HKDF_SHA_512])
signatures = pytest.mark.parametrize("signature", [EDDSA, ES256], ids=["EdDSA", "ES256"])


def hkdf(common: CommonContext, info: list[object], length: int) -> bytes:
    algorithm = hashes.SHA256() if common.kdf is Kdf.HKDF_SHA_256 else hashes.SHA512()
    derivation = HKDF(algorithm=algorithm, length=length, salt=common.gid, info=cbor2.dumps(info, canonical=True))
    return derivation.derive(common.master_secret.reveal())


@aeads
@kdfs
def test_keys_and_common_iv_come_from_the_four_element_info(aead: int, kdf: Kdf) -> None:
    common = common_context(aead=aead, kdf=kdf)
    key_length, nonce_length = common.encryption.key_length, common.encryption.nonce_length
    assert common.common_iv == hkdf(common, [None, aead, "IV", nonce_length], nonce_length)
    for kid in (b"", MULTICASTER):
        key = MULTICAST_OSCORE_04.derive_key(common, kid).reveal()
        assert key == hkdf(common, [kid, aead, "Key", key_length], key_length)


@aeads
@given(data=st.data())
def test_both_structures_hold_the_same_external_aad(aead: int, data: st.DataObject) -> None:
    kid = data.draw(st.binary(max_size=AEAD_ALGORITHMS[aead].max_id_length))
    gid = data.draw(st.binary(min_size=1, max_size=170))
    partial_iv = data.draw(st.binary(min_size=1, max_size=5))
    common = common_context(aead=aead, gid=gid)
    external = cbor2.dumps([1, aead, kid, partial_iv, gid, b""], canonical=True)
    author = MULTICAST_OSCORE_04.author(common, kid, None)
    assert author is not None
    assert MULTICAST_OSCORE_04.external_aad(common, RequestIds(kid, partial_iv, gid), b"", author) == external

    prepared = MULTICAST_OSCORE_04.binder(common, kid, gid)(partial_iv)
    assert prepared[0] == cbor2.dumps(["Encrypt0", b"", external], canonical=True)
    for length in (9, 23, 24, 255, 256, 65535, 65536):
        payload = bytes(length)
        parts = (b"signature", *prepared[1:], payload)
        signature, signed = MULTICAST_OSCORE_04.countersigned(common, parts)
        assert signature == b"signature"
        assert MULTICAST_OSCORE_04.countersigned_otherwise(common, parts) is None
        assert signed == cbor2.dumps(["CounterSignature", b"", b"", external, payload], canonical=True)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"aead": None, "group_encryption": encryption_algorithm(10)}, "one encryption algorithm"),
        ({"group_encryption": encryption_algorithm(A128CTR)}, "one encryption algorithm"),
        ({"group_encryption": encryption_algorithm(24)}, "one encryption algorithm"),
        ({"key_agreement": key_agreement(-27)}, "no pairwise mode"),
        ({"master_salt": b"salt"}, "no Master Salt"),
        ({"kdf": Kdf.HKDF_SHA_384}, "HKDF-SHA384"),
        ({"signature": signature_algorithm(ES384)}, "ES384"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_came_later_is_refused(changed: dict[str, Any], what: str) -> None:
    parameters: dict[str, Any] = {
        "profile": MULTICAST_OSCORE_04,
        "aead": AEAD_ALGORITHMS[10],
        "kdf": Kdf.HKDF_SHA_256,
        "signature": signature_algorithm(EDDSA),
        "master_secret": Secret(bytes(16)),
        "gid": GID,
    }
    assert CommonContext(**parameters).pairwise is False
    with pytest.raises(MisuseError, match=what):
        CommonContext(**parameters | changed)


def test_there_is_no_pairwise_mode_and_no_plaintext_is_withheld() -> None:
    common = common_context()
    with pytest.raises(MisuseError, match="pairwise"):
        MULTICAST_OSCORE_04.derive_pairwise_key(common, LISTENER, Secret(b"salt"), Secret(b"secret"))
    channel = make_node(LISTENER).context.recipient(MULTICASTER).channel
    with pytest.raises(MisuseError, match="withholds"):
        MULTICAST_OSCORE_04.reveal(channel, bytes(13), (b"",))


# ---- the option


@pytest.mark.parametrize(
    ("value", "kid", "signature"),
    [
        ("20aabb", None, "aabb"),
        ("28aabb", "", "aabb"),
        ("28aabb01", "01", "aabb"),
        ("0801", "01", None),
        ("0900", "", None),
        ("0100", None, None),
        ("", None, None),
    ],
)
def test_what_stands_behind_the_prefix_is_countersignature_and_kid(
    value: str, kid: str | None, signature: str | None
) -> None:
    expected = tuple(None if part is None else bytes.fromhex(part) for part in (kid, signature))
    assert split_tail(decode_prefix(bytes.fromhex(value)), 2) == expected


@pytest.mark.parametrize("value", ["48", "88", "c8", "20aa", "28aa", "20aabb01", "010001"])
def test_a_malformed_tail_is_rejected(value: str) -> None:
    with refused(Reason.MALFORMED):
        split_tail(decode_prefix(bytes.fromhex(value)), 2)


REQUEST_NEEDS = {0x20: "countersignature", 0x08: "kid"}
SIGNATURE = bytes(64)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (b"\x38" + b"\x01\xaa" + SIGNATURE + b"\x01", "Partial IV"),
        (b"\x29\x00" + SIGNATURE + b"\x01", "Gid"),
        (b"\x19\x00" + b"\x01\xaa" + b"\x01", "countersignature"),
        (b"\x31\x00" + b"\x01\xaa" + SIGNATURE, "kid"),
        (b"\x31\x00" + b"\x01\xaa" + SIGNATURE + b"\x01", "left over"),
        (b"\x79\x00" + b"\x01\xaa" + SIGNATURE + b"\x01", "reserved"),
        (b"\xb9\x00" + b"\x01\xaa" + SIGNATURE + b"\x01", "reserved"),
        (b"\x39\x00" + b"\x01\xaa" + SIGNATURE[1:], "cut short"),
        (b"\x01\x00", "countersignature, Gid, kid"),
    ],
)
def test_a_request_option_that_lacks_something_is_rejected_with_its_name(value: bytes, what: str) -> None:
    with pytest.raises(Rejected, match=what) as caught:
        MULTICAST_OSCORE_04.split_request_option(common_context(), decode_prefix(value))
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (b"", "countersignature, kid"),
        (b"\x08\x01", "countersignature"),
        (b"\x20" + SIGNATURE, "kid"),
        (b"\x20" + SIGNATURE + b"\x01", "left over"),
        (b"\x28" + SIGNATURE[1:], "cut short"),
        (b"\x68" + SIGNATURE + b"\x01", "reserved"),
        (b"\xa8" + SIGNATURE + b"\x01", "reserved"),
    ],
)
def test_a_response_option_that_lacks_something_is_rejected_with_its_name(value: bytes, what: str) -> None:
    with pytest.raises(Rejected, match=what) as caught:
        MULTICAST_OSCORE_04.split_response_option(common_context(), decode_prefix(value))
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("flags", [0x28, 0x29, 0x38, 0x39], ids=["bare", "Partial IV", "Gid", "both"])
def test_a_response_may_have_partial_iv_and_gid(flags: int) -> None:
    value = bytes((flags,)) + b"\x05" * (flags & 1) + b"\x01\xaa" * (flags >> 4 & 1) + SIGNATURE + b"\x52"
    tail = MULTICAST_OSCORE_04.split_response_option(common_context(), decode_prefix(value))
    assert tail == (b"\x52", SIGNATURE, False)


def test_an_option_with_a_countersignature_looks_like_ours_and_one_without_like_oscore() -> None:
    assert MULTICAST_OSCORE_04.is_group_message(decode_prefix(b"\x39\x00\x01\xaa" + SIGNATURE))
    for flags in (b"\x19", b"\x59", b"\x99"):
        assert not MULTICAST_OSCORE_04.is_group_message(decode_prefix(flags + b"\x00\x01\xaa\x01"))


def test_the_longest_gid_fits_with_the_longest_partial_iv_and_id() -> None:
    kid = bytes(7)
    common = common_context(gid=bytes(255 - 1 - 5 - 1 - 64 - len(kid)))
    sender = make_node(kid, common, first=(1 << 40) - 1)
    listener = make_node(LISTENER, common, ids=[kid])
    message = protect(sender).message
    assert len(option_of(message)) == 255
    assert deliver(listener, message).sender_id == kid


@pytest.mark.parametrize("kid", [b"", bytes(7)])
def test_a_gid_that_would_not_fit_beside_this_id_is_refused(kid: bytes) -> None:
    longest = 255 - 1 - 5 - 1 - 64 - len(kid)
    common = common_context()
    for length, fits in ((1, True), (longest, True), (0, False), (longest + 1, False)):
        common.gid = bytes(length)
        if fits:
            MULTICAST_OSCORE_04.check_sizes(common, kid)
        else:
            with pytest.raises(MisuseError, match=f"1 to {longest} bytes"):
                MULTICAST_OSCORE_04.check_sizes(common, kid)


# ---- sealing


@pytest.mark.parametrize("code", [coap.EMPTY, 0x20, 0xE1])
def test_what_is_neither_request_nor_response_is_not_taken_apart(code: int) -> None:
    with pytest.raises(MisuseError):
        MULTICAST_OSCORE_04.split(request(code))


@pytest.mark.parametrize(
    ("message", "plain", "observing"),
    [(request(coap.PUT), coap.POST, coap.FETCH), (response(0x85), coap.CHANGED, coap.CONTENT)],
    ids=["request", "response"],
)
def test_the_outer_code_tells_requests_and_responses_and_whether_they_observe(
    message: Message, plain: int, observing: int
) -> None:
    host, port, observe = (coap.URI_HOST, b"h"), (coap.URI_PORT, b"\x16"), (coap.OBSERVE, b"")
    for outside, code in (((), plain), ((host, port), plain), ((host, observe, port), observing)):
        assert MULTICAST_OSCORE_04.split(message._replace(options=outside))[:2] == (code, outside)


def test_a_message_too_long_for_the_nonce_is_refused() -> None:
    sender = make_node(MULTICASTER)
    with pytest.raises(MisuseError, match="too long"):
        protect_request(sender.context, sender.sender, request(coap.PUT, payload=bytes(65536)))


def test_a_received_message_too_long_for_the_nonce_is_rejected() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    message = protect(sender).message
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, message._replace(payload=bytes(70000)))


@pytest.mark.parametrize("length", [1, 7, 8])
def test_a_payload_that_is_no_more_than_a_tag_is_malformed(length: int) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    message = protect(sender).message
    with refused(Reason.MALFORMED):
        receive(listener, message._replace(payload=bytes(length)))
    deliver(listener, message)
    with refused(Reason.MALFORMED):  # not a replay: what is malformed never gets an error
        receive(listener, message._replace(payload=bytes(length)))


@pytest.mark.parametrize("length", [1, 7, 8])
def test_a_new_request_of_a_known_sender_is_malformed_too_if_it_is_no_more_than_a_tag(length: int) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    deliver(listener, protect(sender).message)
    message = protect(sender).message
    with refused(Reason.MALFORMED):
        receive(listener, message._replace(payload=bytes(length)))


def test_one_byte_beyond_the_tag_is_a_ciphertext() -> None:
    listener = make_node(LISTENER)
    message = protect(make_node(MULTICASTER)).message
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, message._replace(payload=bytes(9)))


# ---- round trips


@signatures
@kdfs
@aeads
@settings(max_examples=6)
@given(data=st.data())
def test_every_message_arrives_as_it_was_under_every_algorithm(
    aead: int, kdf: Kdf, signature: int, data: st.DataObject
) -> None:
    common = common_context(aead=aead, kdf=kdf, signature=signature)
    kid = st.binary(max_size=common.max_id_length)
    own, other = data.draw(st.lists(kid, min_size=2, max_size=2, unique=True))
    first = data.draw(st.integers(0, (1 << 40) - 1))
    sender = make_node(own, common, ids=(own, other), first=first)
    listener = make_node(other, common, ids=(own, other), first=data.draw(st.integers(0, (1 << 40) - 1)))

    asked = data.draw(messages(request_codes))
    protected = protect(sender, asked)
    got = deliver(listener, protected.message)
    assert got.message == asked
    assert (got.sender_id, got.sequence_number, got.gid) == (own, first, common.gid)

    answered = data.draw(messages(response_codes))
    fresh, include_gid = data.draw(st.booleans()), data.draw(st.booleans())
    received = answer(listener, got.exchange, answered, fresh=fresh, include_gid=include_gid)
    _, partial_iv, gid, _ = decode_prefix(option_of(received))
    notification = answered.option(coap.OBSERVE) is not None
    assert (partial_iv is not None) == (fresh or notification)
    assert gid == (common.gid if include_gid else None)
    if notification and not protected.exchange.observe:
        with refused(Reason.NOT_OBSERVED):
            collect(sender, protected.exchange, received)
    else:
        taken = collect(sender, protected.exchange, received)
        assert taken.message == answered
        assert (taken.sender_id, taken.notification) == (other, notification)


@aeads
@signatures
def test_the_trace_shows_what_went_into_a_message(aead: int, signature: int) -> None:
    common = common_context(aead=aead, signature=signature)
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common)
    traces: list[Trace] = []
    protected = protect_request(sender.context, sender.sender, request(), traces.append)
    got = deliver(listener, over_the_wire(protected.message))
    protect_response(listener.sender, got.exchange, response(), trace=traces.append)
    for trace, kid in zip(traces, (MULTICASTER, LISTENER), strict=True):
        key = MULTICAST_OSCORE_04.derive_key(common, kid)
        ciphertext = common.encryption.cipher(key).encrypt(trace.nonce, trace.plaintext, trace.aad)
        assert trace.external_aad in trace.aad
        assert trace.to_be_signed.endswith(ciphertext)
        tail = split_tail(decode_prefix(trace.option), 64)
        assert tail[0] == kid
        public_key = make_node(kid, common).sender.private_key.public_key
        assert public_key.verify(tail[1] or b"", trace.to_be_signed)
    assert traces[0].nonce == traces[1].nonce == common.nonce(MULTICASTER, b"\0")


# ---- flipped bits

FAMILIES = pytest.mark.parametrize(
    ("aead", "signature"),
    [(10, EDDSA), (10, ES256), (1, EDDSA), (24, ES256), (13, EDDSA)],
    ids=["CCM EdDSA", "CCM ES256", "GCM EdDSA", "ChaCha20 ES256", "CCM-64 EdDSA"],
)


@FAMILIES
@pytest.mark.parametrize("policy", [BEST_EFFORT, BASELINE], ids=lambda policy: policy.method.value)
@pytest.mark.parametrize("destination", [ADDRESS, None], ids=["multicast", "unicast"])
def test_no_flipped_bit_of_a_request_is_accepted_or_changes_anything(
    aead: int, signature: int, policy: SynchronizationPolicy, destination: bytes | None
) -> None:
    common = common_context(aead=aead, signature=signature)
    sender, listener = make_node(MULTICASTER, common, first=3), make_node(LISTENER, common)
    deliver(listener, protect(make_node(OTHER_LISTENER, common)).message)
    message = protect(sender).message
    before = snapshot(listener)
    flips = list(flipped_bits(message))
    assert len(flips) == 8 * (len(option_of(message)) + len(message.payload))
    for flipped in flips:
        with pytest.raises(Rejected):
            receive(listener, flipped, policy=policy, destination=destination)
    assert snapshot(listener) == before
    assert deliver(listener, message, destination=destination).message == request()


@FAMILIES
@pytest.mark.parametrize("observe", [False, True], ids=["answer", "notification"])
def test_no_flipped_bit_of_a_response_is_accepted_or_changes_anything(
    aead: int, signature: int, observe: bool
) -> None:
    common = common_context(aead=aead, signature=signature)
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common, first=300)
    options = ((coap.OBSERVE, b""),) if observe else ()
    protected = protect(sender, request(coap.GET, *options))
    exchange = deliver(listener, protected.message).exchange
    message = answer(listener, exchange, response(coap.CONTENT, *options), include_gid=observe)
    before = snapshot(sender)
    for flipped in flipped_bits(message):
        with pytest.raises(Rejected):
            collect(sender, protected.exchange, flipped)
    assert snapshot(sender) == before
    assert not protected.exchange._answered
    assert collect(sender, protected.exchange, message).sender_id == LISTENER


@given(option=st.binary(max_size=120), payload=st.binary(max_size=40), unicast=st.booleans())
def test_garbage_in_place_of_the_protection_is_always_rejected(
    option: bytes, payload: bytes, unicast: bool
) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender)
    reply = answer(listener, deliver(listener, protected.message).exchange)
    before = snapshot(listener), snapshot(sender)
    request_like = with_protection(protected.message, option, payload)
    with pytest.raises(Rejected):
        receive(listener, request_like, destination=None if unicast else ADDRESS)
    with pytest.raises(Rejected):
        collect(sender, protected.exchange, with_protection(reply, option, payload))
    assert (snapshot(listener), snapshot(sender)) == before


@given(st.binary(max_size=60))
def test_garbage_behind_a_right_prefix_is_always_rejected(rest: bytes) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    message = protect(sender).message
    prefix = b"\x39\x00" + bytes((len(GID),)) + GID
    before = snapshot(listener)
    with pytest.raises(Rejected):
        receive(listener, with_protection(message, prefix + rest, message.payload))
    assert snapshot(listener) == before
