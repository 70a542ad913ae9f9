from __future__ import annotations

from dataclasses import FrozenInstanceError
from hashlib import sha256, sha512
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
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
P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
ORDERS = {-7: P256_ORDER, -35: P384_ORDER}

every = pytest.mark.parametrize("algorithm", SIGNATURE_ALGORITHMS.values(), ids=lambda a: a.name)


def key(algorithm: SignatureAlgorithm, seed: int = 7) -> PrivateKey:
    return algorithm.private_key(Secret(bytes((seed,)) * algorithm.key_length))


def test_eddsa_is_the_default_and_signatures_are_twice_as_long_as_keys() -> None:
    assert DEFAULT_SIGNATURE is signature_algorithm(-8)
    assert {a.number: a.signature_length for a in SIGNATURE_ALGORITHMS.values()} == {-8: 64, -7: 64, -35: 96}
    assert {a.number: a.key_length for a in SIGNATURE_ALGORITHMS.values()} == {-8: 32, -7: 32, -35: 48}
    assert all(a.number == n for n, a in SIGNATURE_ALGORITHMS.items())


@pytest.mark.parametrize("number", [0, 8, -37, None, "-8", []])
def test_an_unknown_algorithm_is_named_in_the_refusal(number: Any) -> None:
    with pytest.raises(UnsupportedAlgorithm) as caught:
        signature_algorithm(number)
    assert repr(number) in str(caught.value)


@every
@given(message=st.binary(max_size=60))
def test_a_signature_verifies_under_its_own_key_and_message_only(
    algorithm: SignatureAlgorithm, message: bytes
) -> None:
    signature = key(algorithm).sign(message)
    public = algorithm.public_key(key(algorithm).public_key.data)
    assert len(signature) == algorithm.signature_length
    assert public.verify(signature, message)
    assert not public.verify(signature, message + b"x")
    assert not key(algorithm, 8).public_key.verify(signature, message)


@every
def test_no_flipped_bit_of_a_signature_verifies(algorithm: SignatureAlgorithm) -> None:
    signature = int.from_bytes(key(algorithm).sign(b"message"), "big")
    public, length = key(algorithm).public_key, algorithm.signature_length
    flipped = [(signature ^ 1 << bit).to_bytes(length, "big") for bit in range(8 * length)]
    assert not [wrong for wrong in flipped if public.verify(wrong, b"message")]


@every
def test_a_signature_of_another_length_never_verifies(algorithm: SignatureAlgorithm) -> None:
    signature, message = key(algorithm).sign(b"message"), b"message"
    public = key(algorithm).public_key
    for cut in (0, 1, 32, algorithm.signature_length // 2, algorithm.signature_length - 1):
        assert not public.verify(signature[:cut], signature[cut:] + message)
    assert not public.verify(signature + message[:1], message[1:])
    assert public.verify(signature, message)


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


@every
@pytest.mark.parametrize(("r", "s"), [(0, 0), (0xFF, 0xFF), (0, 1), (1, 0)])
def test_numbers_that_are_no_signature_do_not_verify(algorithm: SignatureAlgorithm, r: int, s: int) -> None:
    half = algorithm.signature_length // 2
    assert not key(algorithm).public_key.verify(bytes((r,)) * half + bytes((s,)) * half, b"message")


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


@every
def test_a_private_key_of_another_length_is_refused(algorithm: SignatureAlgorithm) -> None:
    for length in (0, 31, 33, algorithm.key_length - 1, algorithm.key_length + 1):
        for secret in (b"\x01" * length, b"\x01".rjust(length, b"\0")[:length]):
            with pytest.raises(MisuseError):
                algorithm.private_key(Secret(secret))


@pytest.mark.parametrize("number", ORDERS)
def test_a_scalar_out_of_range_is_refused(number: int) -> None:
    algorithm, order = signature_algorithm(number), ORDERS[number]
    for scalar in (0, order, order + 1, (1 << 8 * algorithm.key_length) - 1):
        with pytest.raises(MisuseError):
            algorithm.private_key(Secret(scalar.to_bytes(algorithm.key_length, "big")))


@pytest.mark.parametrize("number", ORDERS)
def test_the_extreme_scalars_are_keys(number: int) -> None:
    algorithm = signature_algorithm(number)
    for scalar in (1, ORDERS[number] - 1):
        private = algorithm.private_key(Secret(scalar.to_bytes(algorithm.key_length, "big")))
        assert private.public_key.verify(private.sign(b"m"), b"m")


P256_POINT = key(signature_algorithm(-7)).public_key.data
P384_POINT = key(signature_algorithm(-35)).public_key.data


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
        (-7, P384_POINT),
        (-35, b""),
        (-35, P384_POINT[:-1]),
        (-35, P384_POINT + b"\0"),
        (-35, b"\x02" + P384_POINT[1:49]),
        (-35, b"\x06" + P384_POINT[1:]),
        (-35, P384_POINT[:-1] + bytes((P384_POINT[-1] ^ 1,))),
        (-35, b"\x04" + bytes(96)),
        (-35, P256_POINT),
    ],
)
def test_bytes_that_are_no_public_key_are_refused(number: int, data: bytes) -> None:
    with pytest.raises(MisuseError):
        signature_algorithm(number).public_key(data)


@every
def test_a_generated_key_is_new_and_can_be_stored(algorithm: SignatureAlgorithm) -> None:
    one, two = algorithm.generate(), algorithm.generate()
    assert one.secret.reveal() != two.secret.reveal()
    again = algorithm.private_key(Secret(one.secret.reveal()))
    assert again.public_key.data == one.public_key.data


@pytest.mark.parametrize("number", ORDERS)
def test_generation_tries_again_when_the_randomness_is_no_scalar(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([b"\0", b"\xff", b"\x05"])
    monkeypatch.setattr("os.urandom", lambda length: next(values) * length)
    algorithm = signature_algorithm(number)
    assert algorithm.generate().secret.reveal() == b"\x05" * algorithm.key_length


@every
def test_the_text_of_a_key_shows_the_public_one_only(algorithm: SignatureAlgorithm) -> None:
    private = key(algorithm)
    public = private.public_key.data.hex()
    assert public in repr(private)
    assert public in repr(private.public_key)
    assert private.secret.reveal().hex() not in repr(private)
    assert private.secret.reveal().hex() not in repr(algorithm)


def test_p384_verifies_rfc_6979_a_2_6() -> None:
    private = signature_algorithm(-35).private_key(
        Secret(
            bytes.fromhex(
                "6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5"
            )
        )
    )
    assert private.public_key.data.hex() == (
        "04ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc13"
        "8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720"
    )
    signature = bytes.fromhex(
        "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46"
        "99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8"
    )
    assert private.public_key.verify(signature, b"sample")


# ---- agreeing on secrets (Group OSCORE §2.5.1)

# RFC 5903 §8.1, §8.2: one private key, the other one, the x coordinate that they share
RFC_5903 = {
    -7: (
        "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
        "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
        "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de",
    ),
    -35: (
        "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655e35b538041e649ee3faef896783ab194",
        "41cb0779b4bdb85d47846725fbec3c9430fab46cc8dc5060855cc9bda0aa2942e0308312916b8ed2960e4bd55a7448fc",
        "11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4d603135569b9e9d09cf5d4a270f59746",
    ),
}

P = (1 << 255) - 19  # the field of Curve25519 and Ed25519
D = -121665 * pow(121666, -1, P) % P


@pytest.mark.parametrize("number", RFC_5903)
def test_ecdh_reproduces_rfc_5903(number: int) -> None:
    one, other, shared = (bytes.fromhex(text) for text in RFC_5903[number])
    algorithm = signature_algorithm(number)
    mine, theirs = algorithm.private_key(Secret(one)), algorithm.private_key(Secret(other))
    assert mine.agree(theirs.public_key).reveal() == shared
    assert theirs.agree(mine.public_key).reveal() == shared


def montgomery(edwards: bytes) -> bytes:
    """The u coordinate of an Ed25519 public key: u = (1 + y) / (1 - y) (RFC 7748 §4.1)."""
    y = int.from_bytes(edwards, "little") & ((1 << 255) - 1)
    return ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")


@given(one=st.binary(min_size=32, max_size=32), other=st.binary(min_size=32, max_size=32))
def test_ed25519_keys_agree_as_x25519_does_with_the_mapped_coordinates(one: bytes, other: bytes) -> None:
    algorithm = signature_algorithm(-8)
    mine, theirs = algorithm.private_key(Secret(one)), algorithm.private_key(Secret(other))
    scalar = X25519PrivateKey.from_private_bytes(sha512(one).digest()[:32])
    expected = scalar.exchange(X25519PublicKey.from_public_bytes(montgomery(theirs.public_key.data)))
    assert mine.agree(theirs.public_key).reveal() == expected
    assert theirs.agree(mine.public_key).reveal() == expected


@every
def test_two_agree_on_a_secret_that_no_third_has(algorithm: SignatureAlgorithm) -> None:
    one, two, three = (key(algorithm, seed) for seed in (1, 2, 3))
    secrets = [a.agree(b.public_key).reveal() for a, b in ((one, two), (two, one), (one, three), (two, three))]
    assert secrets[0] == secrets[1]
    assert len(set(secrets)) == 3
    assert {len(secret) for secret in secrets} == {algorithm.key_length}


def on_the_curve(y: int) -> bool:
    """Whether there is a point of edwards25519 with this y: x² = (y² - 1) / (d·y² + 1) has a root."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    return square == 0 or pow(square, (P - 1) // 2, P) == 1


OF_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SIGN = 1 << 255

# All points whose order divides 8, and other encodings of the same: y = 1 and y = -1 (where the map to Curve25519
# is not defined or degenerates), y = 0 (order 4), and the four of order 8.
SMALL = {
    "1": 1,
    "-1": P - 1,
    "order 4": 0,
    "order 4, other sign": SIGN,
    "order 8": OF_ORDER_8,
    "order 8, other sign": OF_ORDER_8 | SIGN,
    "order 8, negative": P - OF_ORDER_8,
    "order 8, negative, other sign": P - OF_ORDER_8 | SIGN,
    "1 with a sign": 1 | SIGN,
    "-1 with a sign": P - 1 | SIGN,
    "0 as p": P,
    "0 as p with a sign": P | SIGN,
    "1 as p + 1": P + 1,
    "1 as p + 1 with a sign": P + 1 | SIGN,
}


def test_the_points_of_small_order_are_what_they_are_said_to_be() -> None:
    """Doubling a point of order 8 gives one with y = 0: x² = -y², so d·y⁴ + 2·y² = 1."""
    assert on_the_curve(OF_ORDER_8)
    assert (D * pow(OF_ORDER_8, 4, P) + 2 * pow(OF_ORDER_8, 2, P)) % P == 1
    assert {y % SIGN % P for y in SMALL.values()} == {0, 1, P - 1, OF_ORDER_8, P - OF_ORDER_8}


@pytest.mark.parametrize("encoded", SMALL.values(), ids=SMALL)
def test_no_secret_is_agreed_on_with_a_point_of_small_order(encoded: int) -> None:
    algorithm = signature_algorithm(-8)
    public = algorithm.public_key(encoded.to_bytes(32, "little"))
    for seed in range(4):
        with pytest.raises(MisuseError, match="no secret"):
            key(algorithm, seed).agree(public)


def test_no_secret_is_agreed_on_with_what_is_no_point() -> None:
    algorithm = signature_algorithm(-8)
    outside = [y for y in range(2, 60) if not on_the_curve(y)]
    assert len(outside) > 10
    for y in outside:
        with pytest.raises(MisuseError, match="no secret"):
            key(algorithm).agree(algorithm.public_key(y.to_bytes(32, "little")))


@pytest.mark.parametrize("other", [-8, -7, -35])
@every
def test_keys_of_two_algorithms_do_not_agree(algorithm: SignatureAlgorithm, other: int) -> None:
    public = key(signature_algorithm(other)).public_key
    if other == algorithm.number:
        assert len(key(algorithm).agree(public)) == algorithm.key_length
    else:
        with pytest.raises(MisuseError, match="no secret"):
            key(algorithm).agree(public)
