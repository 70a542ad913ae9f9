"""Administrative keys: what protects renewals to many at once, as a member gets it (key 27, mgt_key_material).

    {0: 1 (version), 1: alg, 2: Base IV, 3: [[kid, key, node, generation], …], 4: arity}        [LOCAL]

Keys stand leaf to root. A kid is the group's tag (4 bytes, unique at its manager) ‖ node (4) ‖ generation (4), big
endian: never the same for two keys, so that no stale key is mistaken for its successor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import cbor2

from ..cose.algorithms import AeadAlgorithm, aead_algorithm
from ..errors import MisuseError
from ..secret import Secret
from . import reading
from .reading import Malformed, rejecting

TAG_LENGTH: Final = 4
"""Bytes of a group's tag."""

ROOT: Final = 1
"""The node whose key all members hold."""

MAX_NODE: Final = (1 << 32) - 1
MAX_KID: Final = 64

_VERSION, _ALG, _BASE_IV, _KEYS, _ARITY = range(5)
_THIS_VERSION: Final = 1


class Scheme(Enum):
    """How a group is rekeyed; the value is that of key 20 (rekeying_scheme). The latter two [LOCAL]: only the first
    is registered (RFC 9594 §11.14)."""

    POINT_TO_POINT = 0
    GKMP = -65537
    """One key-encryption key for all, beside the pairwise associations."""
    LKH = -65538
    """A tree of keys; a member holds those from its leaf to the root."""


@dataclass(frozen=True, slots=True)
class AdminKey:
    """One administrative key. `node`: its place in the tree, 1 is the root. `generation`: how often that place has
    got a new key."""

    kid: bytes
    key: Secret
    node: int
    generation: int


def make_kid(tag: bytes, node: int, generation: int) -> bytes:
    """The 12-byte kid of a node's key. `MisuseError` if a part does not fit."""
    if len(tag) != TAG_LENGTH or not 0 < node <= MAX_NODE or not 0 <= generation <= MAX_NODE:
        raise MisuseError("a kid is a tag of 4 bytes, a node and a generation of 32 bits")
    return tag + node.to_bytes(4, "big") + generation.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class AdminKeys:
    """Administrative keys for one member, or in a rekey message for all who can read it.

    `base_iv`: as many bytes as the algorithm's nonce. `arity`: children of a node, None where there is no tree."""

    aead: AeadAlgorithm
    base_iv: bytes
    keys: tuple[AdminKey, ...]
    arity: int | None = None

    def encode(self) -> bytes:
        """The content of the byte string of key 27; it holds the keys in clear."""
        entries = [[key.kid, key.key.reveal(), key.node, key.generation] for key in self.keys]
        content: dict[int, object] = {
            _VERSION: _THIS_VERSION,
            _ALG: self.aead.number,
            _BASE_IV: self.base_iv,
            _KEYS: entries,
        }
        if self.arity is not None:
            content[_ARITY] = self.arity
        return cbor2.dumps(content)

    @classmethod
    @rejecting
    def parse(cls, data: bytes) -> AdminKeys:
        """What `encode` has made. `Rejected` (malformed) if it is not that: another version, an unknown
        algorithm, a length that is not the algorithm's, or a node that has two keys."""
        content = reading.fields(reading.decode(data), "mgt_key_material")
        version = reading.integer(reading.needed(content, _VERSION, "the version"), "the version")
        if version != _THIS_VERSION:
            raise Malformed("mgt_key_material of another version")
        aead = aead_algorithm(reading.integer(reading.needed(content, _ALG, "alg"), "alg", -(1 << 31)))
        length = aead.nonce_length
        base_iv = reading.octets(reading.needed(content, _BASE_IV, "Base IV"), "Base IV", length, length)
        items = reading.array(reading.needed(content, _KEYS, "the keys"), "the keys")
        keys = tuple(_key(item, aead) for item in items)
        if len({key.node for key in keys}) != len(keys) or len({key.kid for key in keys}) != len(keys):
            raise Malformed("two administrative keys of one node, or with one kid")
        arity = reading.integer(content[_ARITY], "the arity", 2, 256) if _ARITY in content else None
        return cls(aead, base_iv, keys, arity)


def _key(item: object, aead: AeadAlgorithm) -> AdminKey:
    kid, key, node, generation = reading.array(item, "an administrative key", 4)
    return AdminKey(
        reading.octets(kid, "kid", 1, MAX_KID),
        Secret(reading.octets(key, "an administrative key", aead.key_length, aead.key_length)),
        reading.integer(node, "node", ROOT, MAX_NODE),
        reading.integer(generation, "generation", 0, MAX_NODE),
    )
