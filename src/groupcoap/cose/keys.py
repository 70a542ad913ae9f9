"""Countersignature algorithms and their keys: EdDSA with Ed25519 and ES256 on P-256.

Ed25519 uses libsodium: half the time of OpenSSL's, and like OpenSSL's it frees the interpreter lock.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from ..errors import MisuseError, UnsupportedAlgorithm
from ..secret import Secret

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class PublicKey(Protocol):
    """A key that countersignatures are verified with."""

    @property
    def data(self) -> bytes:
        """Ed25519: 32 bytes; P-256: 65 bytes, 04 ‖ x ‖ y."""

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is this key's over `message`. Safe to call from any thread."""


class PrivateKey(Protocol):
    """A key that countersignatures are made with."""

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def secret(self) -> Secret:
        """Ed25519: the 32-byte seed; P-256: the 32-byte scalar, big endian."""

    def sign(self, message: bytes) -> bytes:
        """The raw signature, of the algorithm's signature length."""


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

    def __repr__(self) -> str:
        return f"<Ed25519PrivateKey of {self.public_key!r}>"


class P256PublicKey:
    """An ES256 verification key."""

    __slots__ = ("_key", "data")

    def __init__(self, data: bytes) -> None:
        try:
            if len(data) != 65 or data[0] != 4:
                raise ValueError
            self._key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)
        except ValueError:
            raise MisuseError("a P-256 public key is a point 04 ‖ x ‖ y of 65 bytes on the curve") from None
        self.data = bytes(data)

    def verify(self, signature: bytes, message: bytes) -> bool:
        if len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        try:
            self._key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"P256PublicKey({self.data.hex()})"


class P256PrivateKey:
    """An ES256 signing key from its 32-byte scalar."""

    __slots__ = ("_key", "public_key", "secret")

    def __init__(self, secret: Secret) -> None:
        scalar = int.from_bytes(secret.reveal(), "big")
        if len(secret) != 32 or not 0 < scalar < _P256_ORDER:
            raise MisuseError("a P-256 private key is a 32-byte scalar between 1 and the order of the curve")
        self.secret = secret
        self._key = ec.derive_private_key(scalar, ec.SECP256R1())
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.public_key: PublicKey = P256PublicKey(point)

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def __repr__(self) -> str:
        return f"<P256PrivateKey of {self.public_key!r}>"


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """A countersignature algorithm with its parameters (draft §3, RFC 8152 §4.5)."""

    number: int
    name: str
    signature_length: int
    _private: type[Ed25519PrivateKey] | type[P256PrivateKey]
    _public: type[Ed25519PublicKey] | type[P256PublicKey]

    def private_key(self, secret: Secret) -> PrivateKey:
        """The signing key with this secret (32 bytes); `MisuseError` if it is not one."""
        return self._private(secret)

    def public_key(self, data: bytes) -> PublicKey:
        """The verification key with these bytes; `MisuseError` if they are not one."""
        return self._public(data)

    def generate(self) -> PrivateKey:
        """A new signing key from the operating system's randomness."""
        while True:
            try:
                return self._private(Secret(os.urandom(32)))
            except MisuseError:  # a P-256 scalar out of range: once in 2^32 tries
                continue


SIGNATURE_ALGORITHMS: dict[int, SignatureAlgorithm] = {
    a.number: a
    for a in (
        SignatureAlgorithm(-8, "EdDSA (Ed25519)", 64, Ed25519PrivateKey, Ed25519PublicKey),
        SignatureAlgorithm(-7, "ES256 (P-256)", 64, P256PrivateKey, P256PublicKey),
    )
}

DEFAULT_SIGNATURE = SIGNATURE_ALGORITHMS[-8]


def signature_algorithm(number: int) -> SignatureAlgorithm:
    """The signature algorithm with this COSE number; `UnsupportedAlgorithm` if there is none."""
    try:
        return SIGNATURE_ALGORITHMS[number]
    except (KeyError, TypeError):
        raise UnsupportedAlgorithm(f"signature algorithm {number!r} is not supported") from None
