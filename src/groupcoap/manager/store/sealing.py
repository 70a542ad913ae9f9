"""Secrets at rest: sealed with AES-256-GCM, each bound to the database, table, column and row it belongs to.

A sealed value: 01 ‖ nonce (12 random bytes) ‖ ciphertext ‖ tag (16). A value in an unsealed database: 00 ‖ plain
bytes. Random nonces are safe for 2^32 values under one key (NIST SP 800-38D §8.3).
"""

from __future__ import annotations

import os
import stat
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...errors import FileFault, StoreFault
from ...files.atomic import describe, write_atomically
from ...secret import Secret
from .schema import Shape
from .writes import Row

KEY_LENGTH: Final = 32
NONCE_LENGTH: Final = 12
_TAG_LENGTH: Final = 16
_PLAIN: Final = b"\x00"
_SEALED: Final = b"\x01"
_MAX_FILE: Final = 4096
_HOW_TO: Final = f"must be {KEY_LENGTH} bytes in hex"


class Sealing(Enum):
    """How the secrets of a database are sealed; the value is the name recorded in it."""

    NONE = "none"
    AES_256_GCM = "AES-256-GCM"


class SealingKey:
    """The key that a manager's database is sealed with: 32 bytes."""

    __slots__ = ("_cipher", "_secret")

    def __init__(self, key: bytes) -> None:
        """`StoreFault` if it is not 32 bytes."""
        if len(key) != KEY_LENGTH:
            raise StoreFault(f"the sealing key {_HOW_TO}; give the right one")
        self._secret: Final = Secret(key)
        self._cipher: Final = AESGCM(key)

    @classmethod
    def generate(cls) -> SealingKey:
        """A new random key."""
        return cls(os.urandom(KEY_LENGTH))

    @classmethod
    def from_text(cls, text: str, origin: str = "the sealing key") -> SealingKey:
        """The key in hex, as an environment variable holds it. `origin` names it in the `StoreFault` that is raised
        if it is none."""
        digits = text.strip()
        if len(digits) != 2 * KEY_LENGTH or not set(digits.lower()) <= set("0123456789abcdef"):
            raise StoreFault(f"{origin} {_HOW_TO}; give the right one")
        return cls(bytes.fromhex(digits))

    @classmethod
    def from_file(cls, path: Path) -> SealingKey:
        """The key that `write` has written. `FileFault` if the file is missing, not regular, or open to others,
        `StoreFault` if it holds no key."""
        return cls.from_text(_read_private(path).decode("ascii", "replace"), str(path))

    def write(self, path: Path) -> None:
        """Write the key in hex to a new file of mode 0600. `FileFault` if the file exists or cannot be written."""
        write_atomically(path, self._secret.reveal().hex().encode() + b"\n", replace=False)

    def seal(self, value: bytes, bound_to: bytes) -> bytes:
        """Nonce, ciphertext and tag: 28 bytes more than the value."""
        nonce = os.urandom(NONCE_LENGTH)
        return nonce + self._cipher.encrypt(nonce, value, bound_to)

    def unseal(self, sealed: bytes, bound_to: bytes) -> bytes | None:
        """The value; None if it was sealed with another key or bound to something else, or is damaged."""
        if len(sealed) < NONCE_LENGTH + _TAG_LENGTH:
            return None
        try:
            return self._cipher.decrypt(sealed[:NONCE_LENGTH], sealed[NONCE_LENGTH:], bound_to)
        except InvalidTag:
            return None

    def __repr__(self) -> str:
        return "<sealing key>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a sealing key is not pickled")


class Sealer:
    """Seals and opens the values of one database. `identity`: its 16 random bytes. Without a key, values are stored
    as they are, which the database says of itself."""

    __slots__ = ("_identity", "_key")

    def __init__(self, key: SealingKey | None, identity: bytes) -> None:
        self._key = key
        self._identity = identity

    @property
    def identity(self) -> bytes:
        return self._identity

    @property
    def sealing(self) -> Sealing:
        return Sealing.NONE if self._key is None else Sealing.AES_256_GCM

    def seal(self, shape: Shape, column: str, row: Row, value: bytes | None) -> bytes | None:
        """What is stored for this value of a sealed column in the row with the primary key in `row`."""
        if value is None:
            return None
        if self._key is None:
            return _PLAIN + value
        return _SEALED + self._key.seal(value, self._place(shape, column, row))

    def unseal(self, shape: Shape, column: str, row: Row, stored: bytes | None) -> bytes | None:
        """The value that is stored. `StoreFault` if it does not belong here, or is damaged."""
        if stored is None:
            return None
        value = self._open(stored, shape, column, row)
        if value is None:
            raise StoreFault(
                f"{shape.name}.{column}: a sealed value does not belong where it stands, or is damaged; "
                "restore the database from a backup"
            )
        return value

    def prove(self) -> bytes | None:
        """What only this key opens, for `is_proof`; None without a key."""
        return None if self._key is None else self._key.seal(b"", b"proof" + self._identity)

    def is_proof(self, proof: bytes | None) -> bool:
        """Whether this comes from `prove` with the same key in the same database."""
        if self._key is None or proof is None:
            return self._key is None and proof is None
        return self._key.unseal(proof, b"proof" + self._identity) is not None

    def _open(self, stored: bytes, shape: Shape, column: str, row: Row) -> bytes | None:
        # A value that says of itself that it is not sealed counts only where nothing is.
        if self._key is None:
            return stored[1:] if stored[:1] == _PLAIN else None
        if stored[:1] != _SEALED:
            return None
        return self._key.unseal(stored[1:], self._place(shape, column, row))

    def _place(self, shape: Shape, column: str, row: Row) -> bytes:
        """Where a value belongs, in one way only: the identity has a fixed length, everything else its length in
        front, and the table says how many values its primary key has and of which types."""
        parts = [self._identity, _head(shape.name, column)]
        for name, encode in shape.pk_codes:
            value = encode(row[name])
            parts += (len(value).to_bytes(4, "big"), value)
        return b"".join(parts)


@cache
def _head(table: str, column: str) -> bytes:
    names = (table.encode(), column.encode())
    return _SEALED + b"".join(bytes([len(name)]) + name for name in names)


def _read_private(path: Path) -> bytes:
    try:
        # Non-blocking: opening a named pipe must not wait for someone to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileFault(path, "is not a regular file; give the file of the sealing key")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise FileFault(path, f"holds the sealing key but is open to others; run: chmod 600 {path}")
            return file.read(_MAX_FILE)
    except FileNotFoundError:
        raise FileFault(path, "does not exist; give the file of the sealing key") from None
    except (OSError, ValueError) as error:
        raise FileFault(path, f"cannot be read ({describe(error)}); check the path and its mode") from None
