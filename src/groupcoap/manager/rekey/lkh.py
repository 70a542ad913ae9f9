"""Logical Key Hierarchy (RFC 2627 §5.4): a tree of key-encryption keys whose root is the group's.

A leave changes the keys above the leaver, and costs messages in the order of the tree's height. Messages are in the
form with several keys each: one for each subtree that hangs off the changed nodes, with all new keys from there to
the root, so that each remaining member needs one message and none depends on another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from ...errors import MisuseError
from ...keying.admin import AdminKey, Scheme
from .draft import Draft
from .model import (
    ROOT,
    KeyRecord,
    Plan,
    Random,
    check_batch,
    check_follows,
    distinct,
    new_key,
)
from .tree import Tree


class Lkh:
    """The keyring of a group with a key tree; of `arity` children at most."""

    scheme = Scheme.LKH

    def __init__(self, arity: int, tag: bytes, key_length: int, tree: Tree) -> None:
        self._arity = arity
        self._tag = tag
        self._key_length = key_length
        self._tree = tree

    @classmethod
    def make(cls, arity: int, tag: bytes, key_length: int, members: Iterable[str], random: Random) -> Lkh:
        """A fresh one, split near-equally at every node. `MisuseError` if a member is named twice."""
        root = KeyRecord(ROOT, None, 0, new_key(key_length, random), None)
        keyring = cls(arity, tag, key_length, Tree(root))
        names = tuple(distinct(members))
        if names:
            keyring.apply(keyring.plan(names, (), random))
        return keyring

    @classmethod
    def load(
        cls, arity: int, tag: bytes, key_length: int, records: Iterable[KeyRecord], members: Iterable[str]
    ) -> Lkh:
        """From what was stored. `MisuseError` if that is not a tree of this arity, with keys of this length and
        these members."""
        found = tuple(records)
        if any(len(record.key) != key_length for record in found):
            raise MisuseError("a stored key has another length than the group's")
        tree = Tree.load(found, arity)
        if tree.members != distinct(members).keys():
            raise MisuseError("the stored key tree is not that of these members")
        return cls(arity, tag, key_length, tree)

    @property
    def members(self) -> AbstractSet[str]:
        """The names of the members, as a view."""
        return self._tree.members

    def draft(self, joined: Sequence[str], left: Sequence[str], random: Random) -> Draft:
        """The tree after this batch, whichever way the members are told. Changes nothing. `MisuseError` as in
        `plan`."""
        check_batch(self.members, joined, left)
        return Draft(self._tree, self._arity, self._key_length, joined, left, random)

    def plan(self, joined: Sequence[str], left: Sequence[str], random: Random) -> Plan:
        """`Keyring.plan`: by multicast, unless a unicast to each remaining member is less than the encryptions."""
        draft = self.draft(joined, left, random)
        remaining = len(self.members) - len(left)
        unicasts = remaining < draft.encryptions
        return Plan(
            () if unicasts else draft.wraps(self._tag),
            unicasts,
            remaining if unicasts else draft.encryptions,
            draft.puts(),
            draft.removes(),
            tuple(joined),
            tuple(left),
        )

    def apply(self, plan: Plan) -> None:
        """`Keyring.apply`: work for what the plan changes, whatever the size of the group."""
        check_follows(self._tree[ROOT].record, plan)
        check_batch(self.members, plan.joined, plan.left)
        self._tree.apply(plan.puts, plan.removes)

    def path(self, member: str) -> tuple[AdminKey, ...]:
        """`Keyring.path`: from the member's leaf to the root."""
        leaf = self._tree.leaf(member)
        return tuple(node.record.admin(self._tag) for node in self._tree.upwards(leaf))

    def records(self) -> Iterable[KeyRecord]:
        """`Keyring.records`: all nodes of the tree."""
        return self._tree.records()
