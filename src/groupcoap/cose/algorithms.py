"""AEAD and key derivation algorithms by their COSE numbers (multicast-oscore-04 §1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import UnsupportedAlgorithm
from ..secret import Secret


class AeadCipher(Protocol):
    """An AEAD algorithm with its key. `decrypt` raises `cryptography.exceptions.InvalidTag`."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


@dataclass(frozen=True, slots=True)
class AeadAlgorithm:
    """One COSE AEAD algorithm; lengths in bytes."""

    number: int
    name: str
    key_length: int
    nonce_length: int
    tag_length: int
    _factory: Callable[[bytes], AeadCipher] = field(repr=False, compare=False)

    @property
    def max_id_length(self) -> int:
        """Longest Sender ID (Endpoint ID) that fits the nonce (OSCORE-06 §3.3)."""
        return self.nonce_length - 6

    def cipher(self, key: Secret) -> AeadCipher:
        """The algorithm with this key, to be kept: setting it up costs more than one use."""
        return self._factory(key.reveal())


def _ccm(tag_length: int) -> Callable[[bytes], AeadCipher]:
    return lambda key: AESCCM(key, tag_length=tag_length)


AEAD_ALGORITHMS: dict[int, AeadAlgorithm] = {
    a.number: a
    for a in (
        AeadAlgorithm(1, "A128GCM", 16, 12, 16, AESGCM),
        AeadAlgorithm(2, "A192GCM", 24, 12, 16, AESGCM),
        AeadAlgorithm(3, "A256GCM", 32, 12, 16, AESGCM),
        AeadAlgorithm(10, "AES-CCM-16-64-128", 16, 13, 8, _ccm(8)),
        AeadAlgorithm(11, "AES-CCM-16-64-256", 32, 13, 8, _ccm(8)),
        AeadAlgorithm(12, "AES-CCM-64-64-128", 16, 7, 8, _ccm(8)),
        AeadAlgorithm(13, "AES-CCM-64-64-256", 32, 7, 8, _ccm(8)),
        AeadAlgorithm(24, "ChaCha20/Poly1305", 32, 12, 16, ChaCha20Poly1305),
        AeadAlgorithm(30, "AES-CCM-16-128-128", 16, 13, 16, _ccm(16)),
        AeadAlgorithm(31, "AES-CCM-16-128-256", 32, 13, 16, _ccm(16)),
        AeadAlgorithm(32, "AES-CCM-64-128-128", 16, 7, 16, _ccm(16)),
        AeadAlgorithm(33, "AES-CCM-64-128-256", 32, 7, 16, _ccm(16)),
    )
}

DEFAULT_AEAD = AEAD_ALGORITHMS[10]


def aead_algorithm(number: int) -> AeadAlgorithm:
    """The AEAD algorithm with this COSE number; `UnsupportedAlgorithm` if there is none."""
    try:
        return AEAD_ALGORITHMS[number]
    except (KeyError, TypeError):
        raise UnsupportedAlgorithm(f"AEAD algorithm {number!r} is not supported") from None


class Kdf(Enum):
    """HMAC-based key derivation functions; the value is the name used in files and vectors."""

    HKDF_SHA_256 = "sha256"
    HKDF_SHA_512 = "sha512"

    def derive(self, *, salt: bytes, secret: Secret, info: bytes, length: int) -> bytes:
        """HKDF (extract and expand) of `length` bytes."""
        algorithm: hashes.HashAlgorithm = hashes.SHA256() if self is Kdf.HKDF_SHA_256 else hashes.SHA512()
        return HKDF(algorithm=algorithm, length=length, salt=salt, info=info).derive(secret.reveal())


def kdf_by_name(name: str) -> Kdf:
    """The key derivation function with this name; `UnsupportedAlgorithm` if there is none."""
    try:
        return Kdf(name)
    except ValueError:
        raise UnsupportedAlgorithm(f"key derivation function {name!r} is not supported") from None
