"""What every rekeying scheme takes and gives: stored keys, multicast messages, plans, the keyring itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Protocol

from ...errors import MisuseError
from ...keying.admin import AdminKey, Scheme, make_kid
from ...secret import Secret

Random = Callable[[int], bytes]
"""Takes a number of bytes, gives that many unpredictable ones: `os.urandom` outside of tests."""

ROOT: Final = 1
"""The node of the key that every member holds: the group's key-encryption key."""

TAG_LENGTH: Final = 4
MIN_KEY_LENGTH: Final = 16
LARGEST: Final = 0xFFFFFFFF  # node and generation have four bytes each in a kid


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One administrative key, as it is stored.

    `node`: its place, a positive number; 1 is the root. `parent`: the node above, None for the root. `generation`:
    the renewal of the group's keys in which this key was made, counted from 0. `member`: the name of the member
    whose own key it is (a leaf), else None."""

    node: int
    parent: int | None
    generation: int
    key: Secret
    member: str | None

    def admin(self, tag: bytes) -> AdminKey:
        """The key as members know it, in the group with this tag."""
        return AdminKey(make_kid(tag, self.node, self.generation), self.key, self.node, self.generation)


@dataclass(frozen=True, slots=True)
class Wrap:
    """One multicast message (RFC 9594 §6.2): `keys`, and with them the new group key material, encrypted under
    `under`.

    `keys` are the new keys that all who hold `under` need, from the lowest node to the root. `readers`: how many
    members can read this message, never 0. In one plan no member can read two of them and no key is used twice as
    `under`, so any order of arrival will do.

    A reader's new path is its old one as far as `under`, without `under` itself if `keys` has a key of the same
    node, and then `keys`. What stood above `under` is void."""

    under: AdminKey
    keys: tuple[AdminKey, ...]
    readers: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What one renewal does to a group's administrative keys, and what it takes to tell the members.

    `wraps`: the multicast messages. `unicasts`: nothing goes by multicast; every remaining member is reached over
    its own association, with `Keyring.path` of it once the plan is applied. `encryptions`: what the chosen way
    costs at one key per encryption (RFC 2627 §5.4); for unicasts, one for each remaining member. In LKH it is
    counted before nodes with one child are spliced out, so it may exceed by one for each such node what is really
    encrypted. `puts`: records that are new or changed, `removes`: nodes that are no more; applied to what is stored
    they make it equal to `Keyring.records`. `joined`, `left`: the batch, as it was given."""

    wraps: tuple[Wrap, ...]
    unicasts: bool
    encryptions: int
    puts: tuple[KeyRecord, ...]
    removes: tuple[int, ...]
    joined: tuple[str, ...]
    left: tuple[str, ...]


class Keyring(Protocol):
    """A group's administrative keys and who holds which."""

    @property
    def scheme(self) -> Scheme:
        """The rekeying scheme that this keyring follows."""
        ...

    @property
    def members(self) -> AbstractSet[str]:
        """The names of the members: a view, which changes with `apply`."""
        ...

    def plan(self, joined: Sequence[str], left: Sequence[str], random: Random) -> Plan:
        """How the keys are renewed when these join and those leave; neither of both is the periodic renewal.
        Changes nothing. Joiners get `path` after `apply`, and nothing else.

        `MisuseError`: a joiner who is a member, a leaver who is not, a name given twice; generations used up."""
        ...

    def apply(self, plan: Plan) -> None:
        """Make the plan true. `MisuseError`, and nothing changed, if it was not made from the keyring as it is
        now."""
        ...

    def path(self, member: str) -> tuple[AdminKey, ...]:
        """The keys that this member must know now, from its own to the root; none in point-to-point. `MisuseError`
        if there is no such member."""
        ...

    def records(self) -> Iterable[KeyRecord]:
        """Every key, as it is to be stored; in no order."""
        ...


def check_batch(members: AbstractSet[str], joined: Sequence[str], left: Sequence[str]) -> None:
    """`MisuseError` unless every joiner is new, every leaver a member, and nobody is named twice."""
    distinct([*joined, *left])
    for name in joined:
        if name in members:
            raise MisuseError(f"{name} is a member already")
    for name in left:
        if name not in members:
            raise MisuseError(f"{name} is not a member")


def distinct(names: Iterable[str]) -> dict[str, None]:
    """The names, in order. `MisuseError` if one is there twice."""
    found: dict[str, None] = {}
    for name in names:
        if name in found:
            raise MisuseError(f"{name} is named twice")
        found[name] = None
    return found


def renew_members(members: dict[str, None], plan: Plan) -> None:
    """Let the joiners in and the leavers out. `MisuseError`, and nothing changed, if the plan is not for these
    members."""
    check_batch(members.keys(), plan.joined, plan.left)
    for name in plan.left:
        del members[name]
    members.update(dict.fromkeys(plan.joined))


def new_key(length: int, random: Random) -> Secret:
    """A new key of this many bytes. `MisuseError` if the source of randomness gives another number of them."""
    value = random(length)
    if len(value) != length:
        raise MisuseError("the source of randomness gave another number of bytes than asked for")
    return Secret(value)


def next_generation(root: KeyRecord) -> int:
    """The generation of the keys that the next renewal makes.

    Every renewal makes a new root key, and all keys it makes have the root's new generation. So no kid ever names
    two keys: within a renewal nodes differ, between renewals generations do, even where a node number comes back
    because the record that showed the highest one is gone. `MisuseError` when four bytes are used up."""
    if root.generation >= LARGEST:
        raise MisuseError("the generations of the administrative keys are used up: the group needs a new tag")
    return root.generation + 1


def check_follows(root: KeyRecord, plan: Plan) -> None:
    """`MisuseError` unless the plan makes the root key that follows this one: a plan is good for one state only."""
    if not any(put.node == ROOT and put.generation == root.generation + 1 for put in plan.puts):
        raise MisuseError("the plan was not made from the keys as they are now")
