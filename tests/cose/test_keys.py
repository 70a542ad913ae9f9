from __future__ import annotations

from dataclasses import FrozenInstanceError
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.cose.keys import (
    DEFAULT_SIGNATURE,
    SIGNATURE_ALGORITHMS,
    PrivateKey,
    SignatureAlgorithm,
    signature_algorithm,
)
from groupcoap.errors import MisuseError, UnsupportedAlgorithm
from groupcoap.secret import Secret

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

both = pytest.mark.parametrize("algorithm", SIGNATURE_ALGORITHMS.values(), ids=lambda a: a.name)


def key(algorithm: SignatureAlgorithm, seed: int = 7) -> PrivateKey:
    return algorithm.private_key(Secret(bytes((seed,)) * 32))


def test_eddsa_is_the_default_and_both_make_signatures_of_64_bytes() -> None:
    assert DEFAULT_SIGNATURE is signature_algorithm(-8)
    assert {a.number: a.signature_length for a in SIGNATURE_ALGORITHMS.values()} == {-8: 64, -7: 64}


@pytest.mark.parametrize("number", [0, 8, -37, None, "-8", []])
def test_an_unknown_algorithm_is_named_in_the_refusal(number: Any) -> None:
    with pytest.raises(UnsupportedAlgorithm) as caught:
        signature_algorithm(number)
    assert repr(number) in str(caught.value)


@both
@given(message=st.binary(max_size=60))
def test_a_signature_verifies_under_its_own_key_and_message_only(
    algorithm: SignatureAlgorithm, message: bytes
) -> None:
    signature = key(algorithm).sign(message)
    public = algorithm.public_key(key(algorithm).public_key.data)
    assert len(signature) == 64
    assert public.verify(signature, message)
    assert not public.verify(signature, message + b"x")
    assert not key(algorithm, 8).public_key.verify(signature, message)


@both
def test_no_flipped_bit_of_a_signature_verifies(algorithm: SignatureAlgorithm) -> None:
    signature = int.from_bytes(key(algorithm).sign(b"message"), "big")
    public = key(algorithm).public_key
    assert not [bit for bit in range(512) if public.verify((signature ^ 1 << bit).to_bytes(64, "big"), b"message")]


@both
@pytest.mark.parametrize("cut", [0, 1, 32, 63])
def test_a_signature_of_another_length_never_verifies(algorithm: SignatureAlgorithm, cut: int) -> None:
    signature, message = key(algorithm).sign(b"message"), b"message"
    public = key(algorithm).public_key
    assert not public.verify(signature[:cut], signature[cut:] + message)
    assert not public.verify(signature + message[:1], message[1:])


def test_the_two_numbers_of_an_es256_signature_have_32_bytes_each_and_no_other_encoding() -> None:
    """With k = 1, r is the x of the generator and s = e + r·d: a key can be chosen for which s is 1."""
    r = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
    e = int.from_bytes(sha256(b"message").digest(), "big")
    scalar = (1 - e) * pow(r, -1, P256_ORDER) % P256_ORDER
    public = signature_algorithm(-7).private_key(Secret(scalar.to_bytes(32, "big"))).public_key
    first = r.to_bytes(32, "big")
    assert public.verify(first + bytes(31) + b"\x01", b"message")
    for length in (1, 30, 31, 33):
        assert not public.verify(first + bytes(length - 1) + b"\x01", b"message")


@both
@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, bytes(32) + b"\x01" * 32])
def test_numbers_that_are_no_signature_do_not_verify(algorithm: SignatureAlgorithm, signature: bytes) -> None:
    assert not key(algorithm).public_key.verify(signature, b"message")


def test_an_algorithm_is_not_changed_once_it_is_made() -> None:
    algorithm: Any = DEFAULT_SIGNATURE
    with pytest.raises(FrozenInstanceError):
        algorithm.signature_length = 0


def test_ed25519_reproduces_rfc_8032_test_1() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    private = signature_algorithm(-8).private_key(Secret(seed))
    assert private.public_key.data.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert private.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_p256_verifies_rfc_6979_a_2_5() -> None:
    private = signature_algorithm(-7).private_key(
        Secret(bytes.fromhex("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"))
    )
    assert private.public_key.data.hex() == (
        "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
        "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
    )
    signature = bytes.fromhex(
        "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
        "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
    )
    assert private.public_key.verify(signature, b"sample")


@both
@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_private_key_of_another_length_is_refused(algorithm: SignatureAlgorithm, length: int) -> None:
    for secret in (b"\x01" * length, b"\x01".rjust(length, b"\0")[:length]):
        with pytest.raises(MisuseError):
            algorithm.private_key(Secret(secret))


@pytest.mark.parametrize("scalar", [0, P256_ORDER, P256_ORDER + 1, (1 << 256) - 1])
def test_a_p256_scalar_out_of_range_is_refused(scalar: int) -> None:
    with pytest.raises(MisuseError):
        signature_algorithm(-7).private_key(Secret(scalar.to_bytes(32, "big")))


@pytest.mark.parametrize("scalar", [1, P256_ORDER - 1])
def test_the_extreme_p256_scalars_are_keys(scalar: int) -> None:
    private = signature_algorithm(-7).private_key(Secret(scalar.to_bytes(32, "big")))
    assert private.public_key.verify(private.sign(b"m"), b"m")


P256_POINT = key(signature_algorithm(-7)).public_key.data


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (-8, b""),
        (-8, bytes(31)),
        (-8, bytes(33)),
        (-7, b""),
        (-7, P256_POINT[:-1]),
        (-7, P256_POINT + b"\0"),
        (-7, b"\x02" + P256_POINT[1:33]),
        (-7, b"\x06" + P256_POINT[1:]),
        (-7, P256_POINT[:-1] + bytes((P256_POINT[-1] ^ 1,))),
        (-7, b"\x04" + bytes(64)),
    ],
)
def test_bytes_that_are_no_public_key_are_refused(number: int, data: bytes) -> None:
    with pytest.raises(MisuseError):
        signature_algorithm(number).public_key(data)


@both
def test_a_generated_key_is_new_and_can_be_stored(algorithm: SignatureAlgorithm) -> None:
    one, two = algorithm.generate(), algorithm.generate()
    assert one.secret.reveal() != two.secret.reveal()
    again = algorithm.private_key(Secret(one.secret.reveal()))
    assert again.public_key.data == one.public_key.data


def test_generation_tries_again_when_the_randomness_is_no_scalar(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([bytes(32), b"\xff" * 32, b"\x05" * 32])
    monkeypatch.setattr("os.urandom", lambda length: next(values))
    assert signature_algorithm(-7).generate().secret.reveal() == b"\x05" * 32


@both
def test_the_text_of_a_key_shows_the_public_one_only(algorithm: SignatureAlgorithm) -> None:
    private = key(algorithm)
    public = private.public_key.data.hex()
    assert public in repr(private)
    assert public in repr(private.public_key)
    assert private.secret.reveal().hex() not in repr(private)
    assert private.secret.reveal().hex() not in repr(algorithm)
