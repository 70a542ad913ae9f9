"""Encryption and key derivation algorithms by their COSE numbers (multicast-oscore-04 §1; RFC 9053, RFC 9459)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import MisuseError, UnsupportedAlgorithm
from ..secret import Secret


class EncryptionCipher(Protocol):
    """An encryption algorithm with its key. `decrypt` raises `cryptography.exceptions.InvalidTag` where there is a
    tag. `associated_data` is None exactly where there is none (RFC 9459 §6)."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class EncryptionAlgorithm(Protocol):
    """What messages can be encrypted with: AEAD, or a cipher in counter mode that something else protects from
    changes. Lengths in bytes; `tag_length` 0: no integrity."""

    @property
    def number(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def key_length(self) -> int: ...

    @property
    def nonce_length(self) -> int: ...

    @property
    def tag_length(self) -> int: ...

    @property
    def max_id_length(self) -> int:
        """Longest Sender ID (Endpoint ID) that fits the nonce (OSCORE-06 §3.3)."""

    def cipher(self, key: Secret) -> EncryptionCipher:
        """The algorithm with this key, to be kept: setting it up costs more than one use."""


@dataclass(frozen=True, slots=True)
class AeadAlgorithm:
    """One COSE AEAD algorithm; lengths in bytes."""

    number: int
    name: str
    key_length: int
    nonce_length: int
    tag_length: int
    _factory: Callable[[bytes], EncryptionCipher] = field(repr=False, compare=False)

    @property
    def max_id_length(self) -> int:
        """Longest Sender ID (Endpoint ID) that fits the nonce (OSCORE-06 §3.3)."""
        return self.nonce_length - 6

    def cipher(self, key: Secret) -> EncryptionCipher:
        """The algorithm with this key, to be kept: setting it up costs more than one use."""
        return self._factory(key.reveal())


def _ccm(tag_length: int) -> Callable[[bytes], EncryptionCipher]:
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


class _CounterCipher:
    """AES in counter mode with its key: encrypting and decrypting are the same."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = algorithms.AES(key)

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """`MisuseError` if there is associated data, which nothing would protect (RFC 9459 §6)."""
        if associated_data is not None:
            raise MisuseError("counter mode takes no associated data")
        # The 12-byte nonce, then a block counter of 4 bytes from 0: 2^32 blocks, which no datagram has.
        return Cipher(self._key, modes.CTR(nonce + bytes(4))).encryptor().update(data)

    decrypt = encrypt


@dataclass(frozen=True, slots=True)
class CounterAlgorithm:
    """AES-CTR of RFC 9459 §4 as Group OSCORE uses it: 12 bytes of nonce, no tag. Only under a countersignature."""

    number: int
    name: str
    key_length: int

    nonce_length = 12
    tag_length = 0
    max_id_length = nonce_length - 6

    def cipher(self, key: Secret) -> EncryptionCipher:
        """The algorithm with this key."""
        return _CounterCipher(key.reveal())


COUNTER_ALGORITHMS: dict[int, CounterAlgorithm] = {
    a.number: a
    for a in (
        CounterAlgorithm(-65534, "A128CTR", 16),
        CounterAlgorithm(-65533, "A192CTR", 24),
        CounterAlgorithm(-65532, "A256CTR", 32),
    )
}


def encryption_algorithm(number: int) -> EncryptionAlgorithm:
    """The AEAD or counter mode algorithm with this COSE number; `UnsupportedAlgorithm` if there is none."""
    try:
        return COUNTER_ALGORITHMS[number]
    except (KeyError, TypeError):
        return aead_algorithm(number)


class Kdf(Enum):
    """HMAC-based key derivation functions; the value is the name used in files and vectors."""

    HKDF_SHA_256 = "sha256"
    HKDF_SHA_384 = "sha384"
    HKDF_SHA_512 = "sha512"

    def derive(self, *, salt: bytes, secret: Secret, info: bytes, length: int) -> bytes:
        """HKDF (extract and expand) of `length` bytes."""
        return HKDF(algorithm=_HASHES[self], length=length, salt=salt, info=info).derive(secret.reveal())

    def deriver(self, secret: Secret, length: int) -> Callable[[bytes, bytes], bytes]:
        """The same for one secret and length, to be kept: (salt, info) → `length` bytes."""
        algorithm, key = _HASHES[self], secret.reveal()

        def derive(salt: bytes, info: bytes) -> bytes:
            return HKDF(algorithm=algorithm, length=length, salt=salt, info=info).derive(key)

        return derive

    __hash__ = object.__hash__  # one is looked up for every message, and Enum's own costs more than the look-up


_HASHES: dict[Kdf, hashes.HashAlgorithm] = {
    Kdf.HKDF_SHA_256: hashes.SHA256(),
    Kdf.HKDF_SHA_384: hashes.SHA384(),
    Kdf.HKDF_SHA_512: hashes.SHA512(),
}


def kdf_by_name(name: str) -> Kdf:
    """The key derivation function with this name; `UnsupportedAlgorithm` if there is none."""
    try:
        return Kdf(name)
    except ValueError:
        raise UnsupportedAlgorithm(f"key derivation function {name!r} is not supported") from None


@dataclass(frozen=True, slots=True)
class KeyAgreement:
    """A COSE algorithm for direct static-static ECDH (RFC 9053 §6.3.1), and the HKDF that it goes with."""

    number: int
    name: str
    kdf: Kdf


KEY_AGREEMENTS: dict[int, KeyAgreement] = {
    a.number: a
    for a in (
        KeyAgreement(-27, "ECDH-SS + HKDF-256", Kdf.HKDF_SHA_256),
        KeyAgreement(-28, "ECDH-SS + HKDF-512", Kdf.HKDF_SHA_512),
    )
}


def key_agreement(number: int) -> KeyAgreement:
    """The key agreement algorithm with this COSE number; `UnsupportedAlgorithm` if there is none."""
    try:
        return KEY_AGREEMENTS[number]
    except (KeyError, TypeError):
        raise UnsupportedAlgorithm(f"key agreement algorithm {number!r} is not supported") from None


def key_agreement_for(kdf: Kdf) -> KeyAgreement | None:
    """The one that goes with this HKDF; None for SHA-384, for which COSE has none."""
    return next((agreement for agreement in KEY_AGREEMENTS.values() if agreement.kdf is kdf), None)
