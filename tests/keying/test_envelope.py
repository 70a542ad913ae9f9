"""Envelopes; the vector was made apart from this code, from the text of RFC 9594 §6.2.1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import CLIENT, MANAGER, MARK, mutations

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.cose.algorithms import AEAD_ALGORITHMS, DEFAULT_AEAD, AeadAlgorithm, encryption_algorithm
from groupcoap.cose.keys import SIGNATURE_ALGORITHMS, SignatureAlgorithm
from groupcoap.errors import MisuseError, Reason
from groupcoap.keying.admin import AdminKey
from groupcoap.keying.envelope import Envelope, envelope_algorithm, parse_envelope, seal
from groupcoap.membership import SecurityParameters
from groupcoap.secret import Secret
from support import attempt, refused

KEY = AdminKey(b"\x0b", Secret(bytes(range(0x10, 0x20))), 1, 0)
BASE_IV = bytes(range(13))
PLAINTEXT = bytes.fromhex("a4070108a30250a0a1a2a3a4a5a6a7a8a9aaabacadaeaf0544b10000060644b100000609061822814103")
PARTIAL_IV = bytes.fromhex("00000000000000000000000006")
PROTECTED = bytes.fromhex("a2010a04410b")
CIPHERTEXT = bytes.fromhex(
    "dce0285f19a1df5df4236031d271a12cab700a6749bed2a27f519b20dccd33fd0460e21f080e17d09e1cc50348cd0566189a"
)
SIGNATURE = bytes.fromhex(
    "5917e5c06e6a7b228046135ce2cb4f78fbea3e47da9db6c72c7de01af08d0e02"
    "58c7965ab83a9793c91408891fa43afb2228771108ba513ec6e1f5393e74620a"
)
WHOLE = (
    bytes.fromhex("8346") + PROTECTED + bytes.fromhex("a2064d") + PARTIAL_IV + bytes.fromhex("0c5840") + SIGNATURE
)
WHOLE += bytes.fromhex("5832") + CIPHERTEXT


def sealed() -> bytes:
    return seal(PLAINTEXT, KEY, DEFAULT_AEAD, BASE_IV, 0, 6, MANAGER)


def opened(envelope: Envelope) -> bytes:
    return envelope.open(KEY, DEFAULT_AEAD, BASE_IV, MANAGER.public_key)


def test_the_vector() -> None:
    assert sealed() == WHOLE
    assert len(WHOLE) == 143


def test_the_vector_opens() -> None:
    envelope = parse_envelope(WHOLE)
    assert envelope == Envelope(b"\x0b", 10, PARTIAL_IV, PROTECTED, SIGNATURE, CIPHERTEXT)
    assert (envelope.count, envelope.num(DEFAULT_AEAD)) == (0, 6)
    assert opened(envelope) == PLAINTEXT


@given(
    st.sampled_from(list(AEAD_ALGORITHMS.values())),
    st.sampled_from(list(SIGNATURE_ALGORITHMS.values())),
    st.binary(max_size=100),
    st.integers(0, 65535),
    st.integers(0, (1 << 40) - 1),
    st.data(),
)
def test_an_envelope_opens(
    aead: AeadAlgorithm, signature: SignatureAlgorithm, plaintext: bytes, count: int, num: int, data: st.DataObject
) -> None:
    signer = signature.generate()
    secret = data.draw(st.binary(min_size=aead.key_length, max_size=aead.key_length))
    base_iv = data.draw(st.binary(min_size=aead.nonce_length, max_size=aead.nonce_length))
    key = AdminKey(data.draw(st.binary(min_size=1, max_size=12)), Secret(secret), 1, 0)
    envelope = parse_envelope(seal(plaintext, key, aead, base_iv, count, num, signer))
    assert (envelope.kid, envelope.alg) == (key.kid, aead.number)
    assert (envelope.count, envelope.num(aead)) == (count, num)
    assert envelope.open(key, aead, base_iv, signer.public_key) == plaintext


def test_every_message_has_a_nonce_of_its_own() -> None:
    one, two = (parse_envelope(seal(PLAINTEXT, KEY, DEFAULT_AEAD, BASE_IV, n, 6, MANAGER)) for n in (0, 1))
    other = parse_envelope(seal(PLAINTEXT, KEY, DEFAULT_AEAD, BASE_IV, 0, 7, MANAGER))
    assert len({one.ciphertext, two.ciphertext, other.ciphertext}) == 3


def test_who_only_holds_the_key_is_not_the_manager() -> None:
    envelope = parse_envelope(seal(PLAINTEXT, KEY, DEFAULT_AEAD, BASE_IV, 0, 6, CLIENT))
    with refused(Reason.SIGNATURE_FAILED):
        opened(envelope)


def test_the_signature_is_verified_before_anything_is_decrypted() -> None:
    both_wrong = replace(parse_envelope(WHOLE), ciphertext=bytes(50))
    with refused(Reason.SIGNATURE_FAILED):
        opened(both_wrong)


@pytest.mark.parametrize("key", [bytes(16), bytes(range(0x10, 0x1F)) + b"\x00"])
def test_another_key_does_not_decrypt(key: bytes) -> None:
    with refused(Reason.DECRYPTION_FAILED):
        parse_envelope(WHOLE).open(replace(KEY, key=Secret(key)), DEFAULT_AEAD, BASE_IV, MANAGER.public_key)


def test_the_partial_iv_is_authentic_because_it_makes_the_nonce() -> None:
    with refused(Reason.DECRYPTION_FAILED):
        opened(replace(parse_envelope(WHOLE), partial_iv=PARTIAL_IV[:-1] + b"\x07"))


@pytest.mark.parametrize("aead", AEAD_ALGORITHMS.values(), ids=lambda aead: aead.name)
@pytest.mark.parametrize("length", [1, 7, 8, 15, 16])
def test_a_signed_ciphertext_that_is_too_short_does_not_decrypt(aead: AeadAlgorithm, length: int) -> None:
    key = replace(KEY, key=Secret(bytes(aead.key_length)))
    envelope = parse_envelope(seal(b"", key, aead, bytes(aead.nonce_length), 0, 1, MANAGER))
    ciphertext = bytes(length)
    signed = cbor2.dumps(["CounterSignature0", envelope.protected, b"", ciphertext])
    envelope = replace(envelope, ciphertext=ciphertext, countersignature=MANAGER.sign(signed))
    with refused(Reason.DECRYPTION_FAILED):
        envelope.open(key, aead, bytes(aead.nonce_length), MANAGER.public_key)


def test_another_algorithm_than_the_groups_is_malformed() -> None:
    other = AEAD_ALGORITHMS[30]
    envelope = parse_envelope(WHOLE)
    with refused(Reason.MALFORMED):
        envelope.open(KEY, other, BASE_IV, MANAGER.public_key)


@pytest.mark.parametrize("length", [3, 12, 14])
def test_a_partial_iv_of_another_length_is_malformed(length: int) -> None:
    envelope = replace(parse_envelope(WHOLE), partial_iv=bytes(length))
    with refused(Reason.MALFORMED):
        envelope.num(DEFAULT_AEAD)
    with refused(Reason.MALFORMED):
        opened(envelope)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [PROTECTED, {6: PARTIAL_IV, 12: SIGNATURE}],
        [PROTECTED, {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT, 0],
        cbor2.CBORTag(16, [PROTECTED, {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT]),
        [{1: 10, 4: b"\x0b"}, {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT],
        [b"", {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT],
        [PROTECTED, {6: PARTIAL_IV}, CIPHERTEXT],
        [PROTECTED, {12: SIGNATURE}, CIPHERTEXT],
        [PROTECTED, {6: bytes(2), 12: SIGNATURE}, CIPHERTEXT],
        [PROTECTED, {6: bytes(33), 12: SIGNATURE}, CIPHERTEXT],
        [PROTECTED, {6: PARTIAL_IV, 12: b""}, CIPHERTEXT],
        [PROTECTED, {6: PARTIAL_IV, 12: bytes(257)}, CIPHERTEXT],
        [PROTECTED, {6: PARTIAL_IV, 12: [SIGNATURE]}, CIPHERTEXT],
        [PROTECTED, {6: PARTIAL_IV, 12: SIGNATURE, 4: b"\x0b"}, CIPHERTEXT],
        [PROTECTED, {6: PARTIAL_IV, 12: SIGNATURE}, b""],
        [PROTECTED, {6: PARTIAL_IV, 12: SIGNATURE}, bytes(65536)],
        [PROTECTED, {6: PARTIAL_IV, 12: SIGNATURE}, None],
        [cbor2.dumps({1: 10}), {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT],
        [cbor2.dumps({4: b"\x0b"}), {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT],
        [cbor2.dumps({1: "10", 4: b"\x0b"}), {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT],
        [cbor2.dumps({1: 10, 4: b""}), {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT],
        [cbor2.dumps({1: 10, 4: b"\x0b", 2: [99], 99: 1}), {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT],
        [PROTECTED + b"\x00", {6: PARTIAL_IV, 12: SIGNATURE}, CIPHERTEXT],
    ],
)
def test_what_is_no_envelope_is_malformed(value: Any) -> None:
    with refused(Reason.MALFORMED):
        parse_envelope(cbor2.dumps(value))


def test_header_parameters_that_are_not_known_are_ignored() -> None:
    data = cbor2.dumps([PROTECTED, {6: PARTIAL_IV, 12: SIGNATURE, 99: 1}, CIPHERTEXT])
    assert opened(parse_envelope(data)) == PLAINTEXT


@given(st.binary(max_size=200) | mutations(WHOLE))
def test_only_the_vector_itself_opens(data: bytes) -> None:
    outcome = attempt(lambda: parse_envelope(data))
    if isinstance(outcome, Envelope) and outcome.kid == KEY.kid:
        result = attempt(lambda: opened(outcome))
        assert result in (PLAINTEXT, Reason.MALFORMED, Reason.SIGNATURE_FAILED, Reason.DECRYPTION_FAILED)
    else:
        assert isinstance(outcome, Envelope) or outcome is Reason.MALFORMED


@pytest.mark.parametrize(
    "change",
    [
        {"count": -1},
        {"count": 65536},
        {"num": -1},
        {"num": 1 << 88},
        {"base_iv": bytes(12)},
        {"key": replace(KEY, key=Secret(bytes(15)))},
        {"plaintext": bytes(65528)},
    ],
)
def test_what_cannot_be_sealed_is_the_callers_mistake(change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "plaintext": b"",
        "key": KEY,
        "aead": DEFAULT_AEAD,
        "base_iv": BASE_IV,
        "count": 0,
        "num": 1,
        "signer": MANAGER,
    }
    seal(**arguments)
    with pytest.raises(MisuseError):
        seal(**arguments | change)


def test_the_longest_message_opens() -> None:
    plaintext = bytes(65527)
    assert opened(parse_envelope(seal(plaintext, KEY, DEFAULT_AEAD, BASE_IV, 0, 1, MANAGER))) == plaintext


@pytest.mark.parametrize(
    ("key", "base_iv"),
    [(replace(KEY, kid=b"\x0c"), BASE_IV), (KEY, bytes(12)), (replace(KEY, key=Secret(bytes(24))), BASE_IV)],
)
def test_what_cannot_open_it_is_the_callers_mistake(key: AdminKey, base_iv: bytes) -> None:
    with pytest.raises(MisuseError):
        parse_envelope(WHOLE).open(key, DEFAULT_AEAD, base_iv, MANAGER.public_key)


def test_envelopes_are_authenticated_even_where_messages_are_not() -> None:
    counter = SecurityParameters(GROUP_OSCORE, None, group_encryption=encryption_algorithm(-65534))
    assert envelope_algorithm(counter) is DEFAULT_AEAD
    own = SecurityParameters(GROUP_OSCORE, None, group_encryption=AEAD_ALGORITHMS[24])
    assert envelope_algorithm(own) is AEAD_ALGORITHMS[24]


def test_keys_do_not_show() -> None:
    assert MARK.hex() not in repr(replace(KEY, key=Secret(MARK)))
    assert repr(MARK)[2:-1] not in repr(replace(KEY, key=Secret(MARK)))
