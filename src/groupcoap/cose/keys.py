"""Countersignature algorithms and their keys: EdDSA with Ed25519, ES256 on P-256, ES384 on P-384.

The same keys agree on secrets by ECDH, for the pairwise mode of Group OSCORE.

Ed25519 uses libsodium: half the time of OpenSSL's, and like OpenSSL's it frees the interpreter lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.bindings import (
    crypto_scalarmult,
    crypto_sign,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError

from ..errors import MisuseError, UnsupportedAlgorithm
from ..secret import Secret


class PublicKey(Protocol):
    """A key that countersignatures are verified with."""

    @property
    def data(self) -> bytes:
        """Ed25519: 32 bytes; P-256, P-384: 65 or 97 bytes, 04 ‖ x ‖ y."""

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is this key's over `message`. Safe to call from any thread."""


class PrivateKey(Protocol):
    """A key that countersignatures are made with."""

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def secret(self) -> Secret:
        """Ed25519: the 32-byte seed; P-256, P-384: the scalar of 32 or 48 bytes, big endian."""

    def sign(self, message: bytes) -> bytes:
        """The raw signature, of the algorithm's signature length."""

    def agree(self, public_key: PublicKey) -> Secret:
        """The secret that these two share by static-static ECDH (Group OSCORE §2.5.1): 32 bytes of X25519 for
        Ed25519 keys, the x coordinate for the others. `MisuseError` if the public key is of small order or of
        another algorithm."""


class Ed25519PublicKey:
    """A verification key of RFC 8032."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        if len(data) != 32:
            raise MisuseError(f"an Ed25519 public key has 32 bytes, not {len(data)}")
        self.data = bytes(data)

    def verify(self, signature: bytes, message: bytes) -> bool:
        if len(signature) != 64:  # libsodium sees only the two put together
            return False
        try:
            crypto_sign_open(signature + message, self.data)
        except (CryptoError, ValueError):
            return False
        return True

    def __repr__(self) -> str:
        return f"Ed25519PublicKey({self.data.hex()})"


class Ed25519PrivateKey:
    """A signing key of RFC 8032 from its 32-byte seed."""

    __slots__ = ("_expanded", "public_key", "secret")

    def __init__(self, secret: Secret) -> None:
        if len(secret) != 32:
            raise MisuseError(f"an Ed25519 private key (seed) has 32 bytes, not {len(secret)}")
        public, expanded = crypto_sign_seed_keypair(secret.reveal())
        self.secret = secret
        self._expanded: bytes = expanded
        self.public_key: PublicKey = Ed25519PublicKey(public)

    def sign(self, message: bytes) -> bytes:
        signed: bytes = crypto_sign(message, self._expanded)
        return signed[:64]

    def agree(self, public_key: PublicKey) -> Secret:
        # Both are mapped to Curve25519 (RFC 7748 §4.1). libsodium refuses points of small order, among them those
        # that the map is not defined for (y = 1) or degenerates at (y = -1), and a shared secret of zeros.
        try:
            peer = crypto_sign_ed25519_pk_to_curve25519(public_key.data)
            own = crypto_sign_ed25519_sk_to_curve25519(self._expanded)
            return Secret(crypto_scalarmult(own, peer))
        except (CryptoError, TypeError, ValueError):
            raise MisuseError("no secret can be agreed on with this public key") from None

    def __repr__(self) -> str:
        return f"<Ed25519PrivateKey of {self.public_key!r}>"


class EcdsaCurve(NamedTuple):
    """A curve with the hash that COSE pairs it with in ECDSA."""

    name: str
    size: int
    """Bytes of a coordinate, and of a scalar."""
    order: int
    curve: ec.EllipticCurve
    hash: hashes.HashAlgorithm


P256: Final = EcdsaCurve(
    "P-256",
    32,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ec.SECP256R1(),
    hashes.SHA256(),
)
P384: Final = EcdsaCurve(
    "P-384",
    48,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ec.SECP384R1(),
    hashes.SHA384(),
)


class EcdsaPublicKey:
    """A verification key on one of these curves."""

    __slots__ = ("_curve", "_key", "data")

    def __init__(self, curve: EcdsaCurve, data: bytes) -> None:
        length = 1 + 2 * curve.size
        try:
            if len(data) != length or data[0] != 4:
                raise ValueError
            self._key = ec.EllipticCurvePublicKey.from_encoded_point(curve.curve, data)
        except ValueError:
            raise MisuseError(
                f"a {curve.name} public key is a point 04 ‖ x ‖ y of {length} bytes on the curve"
            ) from None
        self._curve = curve
        self.data = bytes(data)

    def verify(self, signature: bytes, message: bytes) -> bool:
        size = self._curve.size
        if len(signature) != 2 * size:
            return False
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        try:
            self._key.verify(encode_dss_signature(r, s), message, ec.ECDSA(self._curve.hash))
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"<{self._curve.name} public key {self.data.hex()}>"


class EcdsaPrivateKey:
    """A signing key on one of these curves, from its scalar."""

    __slots__ = ("_curve", "_key", "public_key", "secret")

    def __init__(self, curve: EcdsaCurve, secret: Secret) -> None:
        scalar = int.from_bytes(secret.reveal(), "big")
        if len(secret) != curve.size or not 0 < scalar < curve.order:
            raise MisuseError(
                f"a {curve.name} private key is a {curve.size}-byte scalar between 1 and the order of the curve"
            )
        self.secret = secret
        self._curve = curve
        self._key = ec.derive_private_key(scalar, curve.curve)
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.public_key: PublicKey = EcdsaPublicKey(curve, point)

    def sign(self, message: bytes) -> bytes:
        size = self._curve.size
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(self._curve.hash)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    def agree(self, public_key: PublicKey) -> Secret:
        # The cofactor of these curves is 1, and a public key that was made is a point of them.
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self._curve.curve, public_key.data)
        except ValueError:
            raise MisuseError("no secret can be agreed on with this public key") from None
        return Secret(self._key.exchange(ec.ECDH(), peer))

    def __repr__(self) -> str:
        return f"<private key of {self.public_key!r}>"


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """A countersignature algorithm with its parameters (draft §3, RFC 8152 §4.5)."""

    number: int
    name: str
    signature_length: int
    key_length: int
    """Bytes of a private key."""
    _private: Callable[[Secret], PrivateKey] = field(repr=False, compare=False)
    _public: Callable[[bytes], PublicKey] = field(repr=False, compare=False)

    def private_key(self, secret: Secret) -> PrivateKey:
        """The signing key with this secret; `MisuseError` if it is not one."""
        return self._private(secret)

    def public_key(self, data: bytes) -> PublicKey:
        """The verification key with these bytes; `MisuseError` if they are not one."""
        return self._public(data)

    def generate(self) -> PrivateKey:
        """A new signing key from the operating system's randomness."""
        while True:
            try:
                return self._private(Secret(os.urandom(self.key_length)))
            except MisuseError:  # a scalar out of range: once in 2^32 tries, or fewer
                continue


def _ecdsa(number: int, name: str, curve: EcdsaCurve) -> SignatureAlgorithm:
    return SignatureAlgorithm(
        number,
        f"{name} ({curve.name})",
        2 * curve.size,
        curve.size,
        lambda secret: EcdsaPrivateKey(curve, secret),
        lambda data: EcdsaPublicKey(curve, data),
    )


SIGNATURE_ALGORITHMS: dict[int, SignatureAlgorithm] = {
    a.number: a
    for a in (
        SignatureAlgorithm(-8, "EdDSA (Ed25519)", 64, 32, Ed25519PrivateKey, Ed25519PublicKey),
        _ecdsa(-7, "ES256", P256),
        _ecdsa(-35, "ES384", P384),
    )
}

DEFAULT_SIGNATURE = SIGNATURE_ALGORITHMS[-8]


def signature_algorithm(number: int) -> SignatureAlgorithm:
    """The signature algorithm with this COSE number; `UnsupportedAlgorithm` if there is none."""
    try:
        return SIGNATURE_ALGORITHMS[number]
    except (KeyError, TypeError):
        raise UnsupportedAlgorithm(f"signature algorithm {number!r} is not supported") from None
