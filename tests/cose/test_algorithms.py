from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.cose.algorithms import (
    AEAD_ALGORITHMS,
    DEFAULT_AEAD,
    AeadAlgorithm,
    Kdf,
    aead_algorithm,
    kdf_by_name,
)
from groupcoap.errors import UnsupportedAlgorithm
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


# RFC 5869, A.1; the other one computed with `openssl kdf` from the same inputs
IKM, SALT, INFO = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))


@pytest.mark.parametrize(
    ("kdf", "expected"),
    [
        (Kdf.HKDF_SHA_256, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
        (Kdf.HKDF_SHA_512, "832390086cda71fb47625bb5ceb168e4c8e26a1a16ed34d9fc7fe92c1481579338da362cb8d9f925d7cb"),
    ],
)
def test_hkdf_reproduces_known_answers(kdf: Kdf, expected: str) -> None:
    assert kdf.derive(salt=SALT, secret=Secret(IKM), info=INFO, length=42).hex() == expected


@pytest.mark.parametrize("kdf", Kdf)
def test_a_kdf_is_found_by_its_name(kdf: Kdf) -> None:
    assert kdf_by_name(kdf.value) is kdf


@pytest.mark.parametrize("name", ["", "sha1", "SHA256", None])
def test_an_unknown_kdf_is_refused(name: Any) -> None:
    with pytest.raises(UnsupportedAlgorithm):
        kdf_by_name(name)
