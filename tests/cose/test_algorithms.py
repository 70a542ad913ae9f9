from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.cose.algorithms import (
    AEAD_ALGORITHMS,
    COUNTER_ALGORITHMS,
    DEFAULT_AEAD,
    KEY_AGREEMENTS,
    AeadAlgorithm,
    CounterAlgorithm,
    Kdf,
    aead_algorithm,
    encryption_algorithm,
    kdf_by_name,
    key_agreement,
    key_agreement_for,
)
from groupcoap.errors import MisuseError, UnsupportedAlgorithm
from groupcoap.secret import Secret

# COSE number: key, nonce and tag length in bytes (RFC 8152 §10)
LENGTHS = {
    1: (16, 12, 16),
    2: (24, 12, 16),
    3: (32, 12, 16),
    10: (16, 13, 8),
    11: (32, 13, 8),
    12: (16, 7, 8),
    13: (32, 7, 8),
    24: (32, 12, 16),
    30: (16, 13, 16),
    31: (32, 13, 16),
    32: (16, 7, 16),
    33: (32, 7, 16),
}

algorithms = pytest.mark.parametrize("algorithm", AEAD_ALGORITHMS.values(), ids=lambda a: a.name)


def test_the_lengths_are_those_of_cose() -> None:
    found = {n: (a.key_length, a.nonce_length, a.tag_length) for n, a in AEAD_ALGORITHMS.items()}
    assert found == LENGTHS
    assert DEFAULT_AEAD is aead_algorithm(10)
    assert all(a.number == n for n, a in AEAD_ALGORITHMS.items())


def test_an_algorithm_is_not_changed_once_it_is_made_and_shows_no_function() -> None:
    algorithm: Any = DEFAULT_AEAD
    with pytest.raises(FrozenInstanceError):
        algorithm.tag_length = 4
    assert repr(algorithm) == (
        "AeadAlgorithm(number=10, name='AES-CCM-16-64-128', key_length=16, nonce_length=13, tag_length=8)"
    )


def test_the_default_takes_ids_of_up_to_seven_bytes() -> None:
    assert DEFAULT_AEAD.max_id_length == 7


@algorithms
@given(data=st.binary(max_size=40), aad=st.binary(max_size=20), seed=st.integers(0, 255))
def test_what_is_encrypted_decrypts_only_as_it_was(
    algorithm: AeadAlgorithm, data: bytes, aad: bytes, seed: int
) -> None:
    cipher = algorithm.cipher(Secret(bytes((seed,)) * algorithm.key_length))
    nonce = bytes((seed ^ 0xFF,)) * algorithm.nonce_length
    sealed = cipher.encrypt(nonce, data, aad)
    assert len(sealed) == len(data) + algorithm.tag_length
    assert cipher.decrypt(nonce, sealed, aad) == data
    for wrong in (
        (bytes((seed,)) * algorithm.nonce_length, sealed, aad),
        (nonce, sealed[:-1] + bytes((sealed[-1] ^ 1,)), aad),
        (nonce, sealed, aad + b"x"),
    ):
        with pytest.raises(InvalidTag):
            cipher.decrypt(*wrong)


@algorithms
def test_a_key_of_another_length_is_no_key(algorithm: AeadAlgorithm) -> None:
    with pytest.raises(ValueError):
        algorithm.cipher(Secret(bytes(algorithm.key_length + 1)))


@pytest.mark.parametrize("number", [0, 4, 23, -8, None, "10", []])
def test_an_unknown_algorithm_is_named_in_the_refusal(number: Any) -> None:
    with pytest.raises(UnsupportedAlgorithm) as caught:
        aead_algorithm(number)
    assert repr(number) in str(caught.value)


# RFC 5869, A.1; the other ones computed with `openssl kdf` from the same inputs
IKM, SALT, INFO = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))


@pytest.mark.parametrize(
    ("kdf", "expected"),
    [
        (Kdf.HKDF_SHA_256, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
        (Kdf.HKDF_SHA_384, "9b5097a86038b805309076a44b3a9f38063e25b516dcbf369f394cfab43685f748b6457763e4f0204fc5"),
        (Kdf.HKDF_SHA_512, "832390086cda71fb47625bb5ceb168e4c8e26a1a16ed34d9fc7fe92c1481579338da362cb8d9f925d7cb"),
    ],
)
def test_hkdf_reproduces_known_answers(kdf: Kdf, expected: str) -> None:
    assert kdf.derive(salt=SALT, secret=Secret(IKM), info=INFO, length=42).hex() == expected
    assert kdf.deriver(Secret(IKM), 42)(SALT, INFO).hex() == expected


@pytest.mark.parametrize("kdf", Kdf)
def test_a_kdf_is_found_by_its_name(kdf: Kdf) -> None:
    assert kdf_by_name(kdf.value) is kdf


@pytest.mark.parametrize("name", ["", "sha1", "SHA256", None])
def test_an_unknown_kdf_is_refused(name: Any) -> None:
    with pytest.raises(UnsupportedAlgorithm):
        kdf_by_name(name)


# ---- counter mode (RFC 9459 §4; Group OSCORE §2.1.7)

counters = pytest.mark.parametrize("algorithm", COUNTER_ALGORITHMS.values(), ids=lambda a: a.name)

# NIST SP 800-38A F.5: keys, and the plaintext of all three. Its counter begins at f0f1…ff, ours with a nonce and
# four zero bytes: so the keystream is made of single blocks of AES, the first of which F.5 gives.
NIST_KEYS = {
    "A128CTR": "2b7e151628aed2a6abf7158809cf4f3c",
    "A192CTR": "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
    "A256CTR": "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
}
NIST_PLAINTEXT = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
# F.5.1, F.5.3 and F.5.5: the input block of the first counter, and the output block that is its keystream
NIST_COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
NIST_KEYSTREAM = {
    "A128CTR": "ec8cdf7398607cb0f2d21675ea9ea1e4",
    "A192CTR": "717d2dc639128334a6167a488ded7921",
    "A256CTR": "0bdf7df1591716335e9a8b15c860c502",
}


def block(key: bytes, data: bytes) -> bytes:
    """One block of AES."""
    return Cipher(AES(key), ECB()).encryptor().update(data)


def test_the_lengths_of_counter_mode_are_those_of_cose() -> None:
    found = {n: (a.key_length, a.nonce_length, a.tag_length) for n, a in COUNTER_ALGORITHMS.items()}
    assert found == {-65534: (16, 12, 0), -65533: (24, 12, 0), -65532: (32, 12, 0)}
    assert all(a.number == n and a.max_id_length == 6 for n, a in COUNTER_ALGORITHMS.items())


@counters
def test_the_blocks_that_counter_mode_is_made_of_are_those_of_nist(algorithm: CounterAlgorithm) -> None:
    key = bytes.fromhex(NIST_KEYS[algorithm.name])
    assert block(key, bytes.fromhex(NIST_COUNTER)).hex() == NIST_KEYSTREAM[algorithm.name]


@counters
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 64])
def test_counter_mode_begins_at_the_nonce_and_four_zero_bytes_and_counts(
    algorithm: CounterAlgorithm, length: int
) -> None:
    key, nonce = bytes.fromhex(NIST_KEYS[algorithm.name]), bytes.fromhex(NIST_COUNTER)[:12]
    stream = b"".join(block(key, nonce + number.to_bytes(4, "big")) for number in range(4))
    expected = bytes(a ^ b for a, b in zip(NIST_PLAINTEXT[:length], stream, strict=False))
    cipher = algorithm.cipher(Secret(key))
    assert cipher.encrypt(nonce, NIST_PLAINTEXT[:length], None) == expected
    assert cipher.decrypt(nonce, expected, None) == NIST_PLAINTEXT[:length]


@counters
def test_counter_mode_takes_no_associated_data(algorithm: CounterAlgorithm) -> None:
    cipher = algorithm.cipher(Secret(bytes(algorithm.key_length)))
    for use in (cipher.encrypt, cipher.decrypt):
        for data in (b"", b"x"):
            with pytest.raises(MisuseError, match="associated data"):
                use(bytes(12), b"data", data)


@counters
def test_a_key_of_another_length_is_no_key_in_counter_mode(algorithm: CounterAlgorithm) -> None:
    with pytest.raises(ValueError):
        algorithm.cipher(Secret(bytes(algorithm.key_length + 1)))


def test_messages_can_be_encrypted_with_both_kinds() -> None:
    assert encryption_algorithm(-65534) is COUNTER_ALGORITHMS[-65534]
    assert encryption_algorithm(24) is AEAD_ALGORITHMS[24]
    assert not set(AEAD_ALGORITHMS) & set(COUNTER_ALGORITHMS)


@pytest.mark.parametrize("number", [0, -65531, -65535, None, "10", []])  # CBC among them
def test_what_is_neither_is_named_in_the_refusal(number: Any) -> None:
    with pytest.raises(UnsupportedAlgorithm) as caught:
        encryption_algorithm(number)
    assert repr(number) in str(caught.value)


# ---- key agreement (Group OSCORE §2.1.10)


def test_each_key_agreement_goes_with_one_hkdf() -> None:
    assert {n: a.kdf for n, a in KEY_AGREEMENTS.items()} == {-27: Kdf.HKDF_SHA_256, -28: Kdf.HKDF_SHA_512}
    for number, agreement in KEY_AGREEMENTS.items():
        assert key_agreement(number) is agreement
        assert agreement.number == number
        assert key_agreement_for(agreement.kdf) is agreement
    assert key_agreement_for(Kdf.HKDF_SHA_384) is None


@pytest.mark.parametrize("number", [0, -25, -29, None, "-27", []])
def test_an_unknown_key_agreement_is_named_in_the_refusal(number: Any) -> None:
    with pytest.raises(UnsupportedAlgorithm) as caught:
        key_agreement(number)
    assert repr(number) in str(caught.value)
