"""GKMP style (RFC 2094; draft Appendix C.1): one key-encryption key for the whole group.

A join or a periodic renewal is one message under the old key. After a leave the old key is worth nothing, and the
new one goes to everybody by unicast (RFC 2627 §5.4.2.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from ...errors import MisuseError
from ...keying.admin import AdminKey, Scheme
from .model import (
    ROOT,
    KeyRecord,
    Plan,
    Random,
    Wrap,
    check_batch,
    check_follows,
    distinct,
    new_key,
    next_generation,
    renew_members,
)


class Gkmp:
    """The keyring of a group with one key-encryption key. `kek` is its record: node 1, no member."""

    scheme = Scheme.GKMP

    def __init__(self, tag: bytes, key_length: int, kek: KeyRecord, members: Iterable[str]) -> None:
        self._tag = tag
        self._key_length = key_length
        self._kek = kek
        self._members = distinct(members)

    @classmethod
    def make(cls, tag: bytes, key_length: int, members: Iterable[str], random: Random) -> Gkmp:
        """A fresh one. `MisuseError` if a member is named twice."""
        return cls(tag, key_length, KeyRecord(ROOT, None, 0, new_key(key_length, random), None), members)

    @classmethod
    def load(cls, tag: bytes, key_length: int, records: Iterable[KeyRecord], members: Iterable[str]) -> Gkmp:
        """From what was stored. `MisuseError` if that is not one key of this length."""
        found = tuple(records)
        if len(found) != 1 or (found[0].node, found[0].parent, found[0].member) != (ROOT, None, None):
            raise MisuseError("a GKMP style group has exactly one key")
        if len(found[0].key) != key_length:
            raise MisuseError("the stored key has another length than the group's")
        return cls(tag, key_length, found[0], members)

    @property
    def members(self) -> AbstractSet[str]:
        """The names of the members, as a view."""
        return self._members.keys()

    def plan(self, joined: Sequence[str], left: Sequence[str], random: Random) -> Plan:
        """`Keyring.plan`: one message under the old key, or unicasts if anybody leaves."""
        check_batch(self.members, joined, left)
        remaining = len(self._members) - len(left)
        new = KeyRecord(ROOT, None, next_generation(self._kek), new_key(self._key_length, random), None)
        unicasts = bool(left) and remaining > 0
        wraps: tuple[Wrap, ...] = ()
        if remaining and not unicasts:
            wraps = (Wrap(self._kek.admin(self._tag), (new.admin(self._tag),), remaining),)
        encryptions = remaining if unicasts else len(wraps)
        return Plan(wraps, unicasts, encryptions, (new,), (), tuple(joined), tuple(left))

    def apply(self, plan: Plan) -> None:
        """`Keyring.apply`."""
        check_follows(self._kek, plan)
        (new,) = plan.puts
        renew_members(self._members, plan)
        self._kek = new

    def path(self, member: str) -> tuple[AdminKey, ...]:
        """`Keyring.path`: the group's key."""
        if member not in self._members:
            raise MisuseError(f"{member} is not a member")
        return (self._kek.admin(self._tag),)

    def records(self) -> Iterable[KeyRecord]:
        """`Keyring.records`: the group's key."""
        return (self._kek,)
