"""Renewals of a group's Security Context: who is left, what is new, and the messages that carry it (draft §3.1).

What is decided here has happened as soon as its writes are durable; only then do messages leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import MisuseError
from ..keying.admin import AdminKeys, Scheme
from ..keying.envelope import seal
from ..keying.joining import MemberEntry
from ..keying.labels import CodePoints
from ..keying.rekeying import RekeyMessage
from ..secret import Secret
from .rekey.scheme import Plan, make_keyring
from .settings import GroupSettings
from .state import Group, ManagerKey, Member, Renewal, Row, key_row
from .store.writes import Delete, Insert, Update, Write

Random = Callable[[int], bytes]

LARGEST_DATAGRAM = 1024
"""Bytes of an envelope at most, so that a datagram is not fragmented: joiners' credentials are left out first."""

MAX_STALE = 256
"""Stale Endpoint IDs that a rekey message names: a member can cause any number of them, and of a message that is
too long for a datagram nobody would learn. Where there are more, members are told to ask."""

STALE_SETS = 100
"""Sets of stale Endpoint IDs that are stored: all that a group's settings can ever ask for, so that none is missing
when they ask for more than before."""


@dataclass(slots=True)
class Change:
    """A renewal that is being decided: what it does to the group, and the writes that make it durable."""

    writes: list[Write] = field(default_factory=list)

    def insert(self, table: str, row: Row) -> None:
        self.writes.append(Insert(table, row))

    def update(self, table: str, key: Row, values: Row) -> None:
        self.writes.append(Update(table, key, values))

    def delete(self, table: str, key: Row) -> None:
        self.writes.append(Delete(table, key))


@dataclass(frozen=True, slots=True)
class Means:
    """What renewals are made with: the manager's keys, its prefixes, randomness and the code points in use."""

    keys: dict[int, ManagerKey]
    prefixes: set[bytes]
    tags: set[bytes]
    random: Random
    points: CodePoints

    def new_tag(self) -> bytes:
        """4 bytes that no other group's key-encryption keys are known by."""
        while True:
            tag = self.random(4)
            if tag not in self.tags:
                self.tags.add(tag)
                return tag

    def new_prefix(self, size: int) -> bytes:
        """A Group Prefix that no group of this manager has or ever had (Appendix B)."""
        while True:
            prefix = self.random(size)
            if prefix not in self.prefixes:
                return prefix


def new_secret(settings: GroupSettings, random: Random) -> Secret:
    """A Master Secret: as long as the longest key that is derived from it, and at least 16 bytes."""
    parameters = settings.parameters
    aead = 0 if parameters.aead is None else parameters.aead.key_length
    return Secret(random(max(16, aead, parameters.encryption.key_length)))


def renew(
    group: Group,
    means: Means,
    change: Change,
    *,
    joiners: Sequence[Member] = (),
    leavers: Sequence[Member] = (),
    reason: str,
    now: float,
    settings: GroupSettings | None = None,
) -> Renewal:
    """Give the group a new Gid and Master Secret. `joiners` have no Endpoint ID yet and are not members; `leavers`
    are members still. `settings`: new ones that take effect with this renewal."""
    reload = settings is not None
    plan = None if reload else _plan(group, means, joiners, leavers)
    direct = frozenset(group.unplaced)
    stale = _retire(group, leavers, change)
    if settings is not None:
        group.settings = settings
    _new_gid(group, means, change)
    group.num += 1
    group.master_secret = new_secret(group.settings, means.random)
    group.renewed = now
    group.confirmed = 0
    _drop_old_stale(group, change)
    _place(group, joiners, change)
    if plan is None:
        _plant(group, means, change)
    else:
        _apply(group, plan, change)
    too_many = len(stale) > MAX_STALE
    renewal = Renewal(
        group=group.name,
        num=group.num,
        gid=group.gid,
        reason=reason,
        started=now,
        unicasts=plan is None or plan.unicasts or too_many,
        reload=reload or too_many,
        joined=frozenset(member.node for member in joiners),
        direct=direct & group.members.keys(),
        encryptions=len(group.members) if plan is None else plan.encryptions,
    )
    if plan is not None and not too_many:
        renewal.multicasts = _envelopes(group, means, plan, stale, joiners, now)
    if not group.members:
        renewal.finished = now
    _settle_quiet(group, change)
    _record(group, renewal, change)
    return renewal


def change_quietly(
    group: Group, means: Means, change: Change, *, joiners: Sequence[Member] = (), leavers: Sequence[Member] = ()
) -> None:
    """Members come and go without a renewal. Their places in the keyring are changed by the next one, since nobody
    is told of new keys now: until then who came has none of its keys, and who left is still taken to hold them."""
    untouched = is_untouched(group, joiners)
    _retire(group, leavers, change)
    for member in joiners:
        member.placed = untouched
    _place(group, joiners, change)
    if untouched:  # all there are get their keys with their Join Responses
        _apply(group, group.keyring.plan([member.node for member in joiners], (), means.random), change)
    else:
        group.unplaced |= {member.node for member in joiners}
        for member in leavers:
            if member.placed:
                group.ghosts.add(member.node)
                change.insert("ghosts", {"grp": group.name, "node": member.node})
            group.unplaced.discard(member.node)
    change.update("groups", {"grp": group.name}, {"sequence": group.sequence})


def _settle_quiet(group: Group, change: Change) -> None:
    """This renewal has given everybody a place in the keyring, or has taken it."""
    for node in group.unplaced & group.members.keys():
        group.members[node].placed = True
        change.update("members", {"grp": group.name, "node": node}, {"placed": 1})
    if group.ghosts:
        change.delete("ghosts", {"grp": group.name})
    group.unplaced.clear()
    group.ghosts.clear()


def is_untouched(group: Group, joiners: Sequence[Member]) -> bool:
    """Whether nobody before these joiners has ever known the group's Security Context."""
    return group.num == 0 and group.sequence == 1 + len(joiners)


def _plan(group: Group, means: Means, joiners: Sequence[Member], leavers: Sequence[Member]) -> Plan:
    """What becomes of the keyring, with those that came and went quietly since the renewal before."""
    left = {member.node for member in leavers}
    joined = [*(member.node for member in joiners), *sorted(group.unplaced - left)]
    return group.keyring.plan(joined, sorted((left - group.unplaced) | group.ghosts), means.random)


def _retire(group: Group, leavers: Sequence[Member], change: Change) -> frozenset[bytes]:
    """Take the leavers out. Returns the Endpoint IDs that ceased to be active since the renewal before."""
    for member in leavers:
        group.remove(member)
        change.delete("members", {"grp": group.name, "node": member.node})
        if member.endpoint_id is not None:
            make_stale(group, member.endpoint_id, change)
    return frozenset(group.stale.get(group.num, ()))


def make_stale(group: Group, endpoint_id: bytes, change: Change) -> None:
    """This Endpoint ID is not active any more under the current num (KGO: set of stale Sender IDs)."""
    ids = group.stale.setdefault(group.num, set())
    if endpoint_id not in ids:
        ids.add(endpoint_id)
        change.insert("stale", {"grp": group.name, "num": group.num, "endpoint_id": endpoint_id})


def _new_gid(group: Group, means: Means, change: Change) -> None:
    """The next epoch; a new prefix before the last value of an epoch, and where the sizes have changed (Appendix
    B)."""
    settings = group.settings
    last = (1 << 8 * settings.epoch_size) - 1
    fits = (
        len(group.prefix) == settings.prefix_size and len(group.gid) == settings.prefix_size + settings.epoch_size
    )
    group.epoch += 1
    if group.epoch >= last or not fits:
        take_prefix(group, means, change)
    group.gid = group.prefix + group.epoch.to_bytes(settings.epoch_size, "big")


def take_prefix(group: Group, means: Means, change: Change) -> None:
    """A new prefix, and epoch 0."""
    group.prefix, group.epoch = means.new_prefix(group.settings.prefix_size), 0
    means.prefixes.add(group.prefix)
    change.insert("prefixes", {"prefix": group.prefix, "grp": group.name})


def _drop_old_stale(group: Group, change: Change) -> None:
    """Of what is older than the settings can say, this num's empty set included."""
    for num in [num for num in group.stale if num <= group.num - STALE_SETS]:
        del group.stale[num]
        change.delete("stale", {"grp": group.name, "num": num})


def _place(group: Group, joiners: Sequence[Member], change: Change) -> None:
    for member in joiners:
        give_id(group, member)
        member.joined_num, member.confirmed_num = group.num, -1
        group.add(member)
        change.insert("members", member.row(group.name))


def give_id(group: Group, member: Member) -> None:
    """An Endpoint ID for a member that needs one. `MisuseError` if there is none left under this Gid."""
    if member.credential is not None:
        member.endpoint_id = group.free_id()
        if member.endpoint_id is None:
            raise MisuseError("no Endpoint ID is left under this Gid")


def _plant(group: Group, means: Means, change: Change) -> None:
    """A new keyring, of whatever scheme it is now. Nobody can mistake a key of the former for one of it: another
    tag."""
    rekey = group.settings.rekey
    group.tag = means.new_tag()
    group.base_iv = means.random(group.settings.wrapping.nonce_length)
    length = group.settings.wrapping.key_length
    group.keyring = make_keyring(rekey.scheme, rekey.arity, group.tag, length, list(group.members), means.random)
    change.delete("keys", {"grp": group.name})
    for record in group.keyring.records():
        change.insert("keys", key_row(group.name, record))


def _apply(group: Group, plan: Plan, change: Change) -> None:
    for node in plan.removes:
        change.delete("keys", {"grp": group.name, "node": node})
    for record in plan.puts:
        change.delete("keys", {"grp": group.name, "node": record.node})
        change.insert("keys", key_row(group.name, record))
    group.keyring.apply(plan)


def _record(group: Group, renewal: Renewal, change: Change) -> None:
    """It stands instead of the one before: who has not confirmed that one is told of this one."""
    group.renewal = renewal
    _store(group, change)
    change.delete("renewals", {"grp": group.name})
    change.insert("renewals", renewal.row())


def _store(group: Group, change: Change) -> None:
    row = group.row()
    del row["grp"]
    change.update("groups", {"grp": group.name}, row)


def begin_anew(group: Group, means: Means, change: Change, now: float) -> list[Member]:
    """More has happened to this group than the manager knows of: nobody is a member any more, and nothing that was
    given out, or may have been, is used again. Returns who was a member."""
    former = list(group.members.values())
    for member in former:
        group.remove(member)
    for table in ("members", "stale", "ghosts", "renewals"):
        change.delete(table, {"grp": group.name})
    group.stale.clear()
    group.unplaced.clear()
    group.ghosts.clear()
    group.renewal = None
    take_prefix(group, means, change)
    group.gid = group.prefix + bytes(group.settings.epoch_size)
    group.num += 1
    group.master_secret, group.renewed = new_secret(group.settings, means.random), now
    _plant(group, means, change)
    _store(group, change)
    return former


# ---- messages


def rekey_message(
    group: Group,
    *,
    stale: frozenset[bytes],
    admin: AdminKeys | None,
    joined: Sequence[MemberEntry] | None = None,
    now: float,
    reload: bool = False,
) -> RekeyMessage:
    """What members are told of the current Security Context."""
    settings = group.settings
    return RekeyMessage(
        gid=group.gid,
        master_secret=group.master_secret,
        master_salt=b"",
        num=group.num,
        expires_in=settings.expires_in,
        expires_at=int(now) + settings.expires_in,
        stale=stale,
        joined=None if joined is None else tuple(joined),
        admin=admin,
        roster=group.roster,
        seed=settings.seed,
        reload=reload,
    )


def admin_keys(group: Group, member: Member) -> AdminKeys | None:
    """The management keying material of one member (Appendix C.1): its path in the key tree, or the group's
    key-encryption key; none where renewals go by unicast alone."""
    if group.keyring.scheme is Scheme.POINT_TO_POINT:
        return None
    settings = group.settings
    arity = settings.rekey.arity if group.keyring.scheme is Scheme.LKH else None
    path = () if member.node in group.unplaced else group.keyring.path(member.node)
    return AdminKeys(settings.wrapping, group.base_iv, path, arity)


def _envelopes(
    group: Group, means: Means, plan: Plan, stale: frozenset[bytes], joiners: Sequence[Member], now: float
) -> tuple[bytes, ...]:
    """The multicast messages of a renewal. No key encrypts two of them, so COUNT is 0 in all; (key, nonce) never
    repeats, since `num` is never given out twice. They are made once, and sent again as they are."""
    assert len({wrap.under.kid for wrap in plan.wraps}) == len(plan.wraps)
    settings = group.settings
    signer = means.keys[settings.parameters.signature.number].private_key
    arity = settings.rekey.arity if group.keyring.scheme is Scheme.LKH else None
    entries = [member.entry() for member in joiners if member.credential is not None]
    messages = []
    for wrap in plan.wraps:
        admin = AdminKeys(settings.wrapping, group.base_iv, wrap.keys, arity)
        for joined in (entries, None):
            message = rekey_message(group, stale=stale, admin=admin, joined=joined or None, now=now)
            plaintext = message.encode(means.points)
            sealed = seal(plaintext, wrap.under, settings.wrapping, group.base_iv, 0, group.num, signer)
            if len(sealed) <= LARGEST_DATAGRAM:
                break
        messages.append(sealed)
    return tuple(messages)
