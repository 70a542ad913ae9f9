"""What the rest of the Group Manager uses of the rekeying schemes: a keyring, fresh or from what was stored."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import MisuseError
from ...keying.admin import AdminKey, Scheme
from .gkmp import Gkmp
from .lkh import Lkh
from .model import MIN_KEY_LENGTH, TAG_LENGTH, KeyRecord, Keyring, Plan, Random, Wrap
from .point_to_point import PointToPoint

__all__ = ["AdminKey", "KeyRecord", "Keyring", "Plan", "Random", "Scheme", "Wrap", "load_keyring", "make_keyring"]


def make_keyring(
    scheme: Scheme, arity: int, tag: bytes, key_length: int, members: Iterable[str], random: Random
) -> Keyring:
    """The keyring of a group that has these members, with fresh keys of `key_length` bytes.

    `arity`: how many children a node of the key tree may have, 2 to 16 (used in LKH only). `tag`: the 4 bytes with
    which the kids of this group's keys begin, never used before at this manager. `MisuseError`: an argument outside
    its range, a member named twice."""
    _check(arity, tag, key_length)
    match scheme:
        case Scheme.POINT_TO_POINT:
            return PointToPoint(members)
        case Scheme.GKMP:
            return Gkmp.make(tag, key_length, members, random)
        case Scheme.LKH:
            return Lkh.make(arity, tag, key_length, members, random)


def load_keyring(
    scheme: Scheme, arity: int, tag: bytes, key_length: int, records: Iterable[KeyRecord], members: Iterable[str]
) -> Keyring:
    """The keyring that `records` were stored from, in a group with these members. Arguments as in `make_keyring`.
    `MisuseError` also if the records are not those of such a keyring."""
    _check(arity, tag, key_length)
    match scheme:
        case Scheme.POINT_TO_POINT:
            if tuple(records):
                raise MisuseError("a group rekeyed point-to-point has no administrative keys")
            return PointToPoint(members)
        case Scheme.GKMP:
            return Gkmp.load(tag, key_length, records, members)
        case Scheme.LKH:
            return Lkh.load(arity, tag, key_length, records, members)


def _check(arity: int, tag: bytes, key_length: int) -> None:
    if not 2 <= arity <= 16:
        raise MisuseError(f"an arity of {arity} is outside 2 to 16")
    if len(tag) != TAG_LENGTH:
        raise MisuseError(f"a group tag has {TAG_LENGTH} bytes")
    if key_length < MIN_KEY_LENGTH:
        raise MisuseError(f"administrative keys have at least {MIN_KEY_LENGTH} bytes")
