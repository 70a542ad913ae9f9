"""What the Group Manager knows, in memory: devices, groups, members, and how each of them stands in the
database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import cbor2

from ..cose.credentials import Credential, CredentialKind
from ..cose.keys import PrivateKey, SignatureAlgorithm, signature_algorithm
from ..keying.joining import MemberEntry
from ..keying.roles import roles_of, tperm
from ..membership import Role
from ..secret import Secret
from .rekey.scheme import KeyRecord, Keyring, load_keyring
from .settings import GroupSettings

Row = dict[str, Any]


class GroupStatus(Enum):
    """Whether a group is served. STOPPED: something is wrong that only the operator can judge."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ManagerKey:
    """The manager's signing key for one algorithm, and the credential that members know it by."""

    algorithm: SignatureAlgorithm
    private_key: PrivateKey = field(repr=False)
    credential: Credential

    def row(self) -> Row:
        return {
            "signature": self.algorithm.number,
            "signing_key": self.private_key.secret.reveal(),
            "credential_kind": self.credential.kind.value,
            "credential": self.credential.data,
        }

    @classmethod
    def of(cls, row: Row) -> ManagerKey:
        algorithm = signature_algorithm(row["signature"])
        private = algorithm.private_key(Secret(row["signing_key"]))
        return cls(algorithm, private, Credential(CredentialKind(row["credential_kind"]), row["credential"]))


@dataclass(slots=True)
class Device:
    """An enrolled device. `handle`: 8 bytes that name it when an association is set up; `secret`: what associations
    are derived from. `rights`: {group: roles it may take}. `withdrawn`: when it lost all rights, None: it has
    not."""

    name: str
    handle: bytes
    secret: Secret
    enrolled: float
    withdrawn: float | None = None
    note: str = ""
    rights: dict[str, frozenset[Role]] = field(default_factory=dict)
    credentials: dict[tuple[int, CredentialKind], Credential] = field(default_factory=dict)

    def row(self) -> Row:
        return {
            "device": self.name,
            "handle": self.handle,
            "secret": self.secret.reveal(),
            "enrolled": self.enrolled,
            "withdrawn": self.withdrawn,
            "note": self.note,
        }


@dataclass(slots=True)
class Member:
    """A device in a group. `node`: its name in URIs, never used twice in a group. `endpoint_id`, `credential`: None
    for who is nothing but a pure listener. `scope`, `nonce`: of its latest join, for later proofs. `confirmed_num`:
    the latest renewal that it has said to have installed; -1: none. `control`: its control URI, None: it cannot be
    reached."""

    node: str
    device: str
    endpoint_id: bytes | None
    roles: frozenset[Role]
    credential: Credential | None
    scope: bytes
    nonce: bytes
    joined: float
    joined_num: int
    confirmed_num: int
    confirmed_at: float | None = None
    control: str | None = None
    placed: bool = True
    """Whether it has a place in the keyring: not who came without a renewal, until the next one."""

    def entry(self) -> MemberEntry:
        """As the others get to know it. Only for who has a credential."""
        assert self.endpoint_id is not None
        assert self.credential is not None
        return MemberEntry(self.endpoint_id, self.roles, self.credential.data, self.device)

    def row(self, group: str) -> Row:
        credential = self.credential
        return {
            "grp": group,
            "node": self.node,
            "device": self.device,
            "endpoint_id": self.endpoint_id,
            "roles": tperm(self.roles),
            "credential_kind": None if credential is None else credential.kind.value,
            "credential": None if credential is None else credential.data,
            "scope": self.scope,
            "nonce": self.nonce,
            "joined": self.joined,
            "joined_num": self.joined_num,
            "confirmed_num": self.confirmed_num,
            "confirmed_at": self.confirmed_at,
            "control": self.control,
            "placed": int(self.placed),
        }

    @classmethod
    def of(cls, row: Row) -> Member:
        kind = row["credential_kind"]
        return cls(
            node=row["node"],
            device=row["device"],
            endpoint_id=row["endpoint_id"],
            roles=roles_of(row["roles"]),
            credential=None if kind is None else Credential(CredentialKind(kind), row["credential"]),
            placed=bool(row["placed"]),
            **{
                name: row[name]
                for name in ("scope", "nonce", "joined", "joined_num", "confirmed_num", "confirmed_at", "control")
            },
        )


@dataclass(slots=True)
class Renewal:
    """A renewal of a group's Security Context, and what distributing it needs. `multicasts`: envelopes, as they go
    out, also when they go out again. `unicasts`: every remaining member is reached by itself. `reload`: the group's
    parameters changed, so that a rekey message cannot say all. `joined`: nodes that get it with their Join
    Response; `direct`: nodes that cannot read the multicasts, since they came without a renewal."""

    group: str
    num: int
    gid: bytes
    reason: str
    started: float
    multicasts: tuple[bytes, ...] = ()
    unicasts: bool = False
    reload: bool = False
    joined: frozenset[str] = frozenset()
    direct: frozenset[str] = frozenset()
    finished: float | None = None
    encryptions: int = 0

    def row(self) -> Row:
        return {
            "grp": self.group,
            "num": self.num,
            "gid": self.gid,
            "reason": self.reason,
            "started": self.started,
            "finished": self.finished,
            "multicasts": cbor2.dumps(list(self.multicasts)),
            "unicasts": int(self.unicasts),
            "reload": int(self.reload),
        }

    @classmethod
    def of(cls, row: Row) -> Renewal:
        return cls(
            group=row["grp"],
            num=row["num"],
            gid=row["gid"],
            reason=row["reason"],
            started=row["started"],
            multicasts=tuple(cbor2.loads(row["multicasts"])),
            unicasts=bool(row["unicasts"]),
            reload=bool(row["reload"]),
            finished=row["finished"],
        )


@dataclass(slots=True)
class Group:
    """A group with its current Security Context. `tag`: 4 bytes, unique at this manager, that its key-encryption
    keys are known by. `num`: version of the keying material (RFC 9594), +1 with each renewal. `stale`: {num:
    Endpoint IDs that ceased to be active under it}. `sequence`: of the next node name."""

    settings: GroupSettings
    status: GroupStatus
    tag: bytes
    prefix: bytes
    epoch: int
    num: int
    gid: bytes
    master_secret: Secret
    base_iv: bytes
    renewed: float
    keyring: Keyring
    alarm: str | None = None
    sequence: int = 1
    members: dict[str, Member] = field(default_factory=dict)
    by_device: dict[str, Member] = field(default_factory=dict)
    by_id: dict[bytes, Member] = field(default_factory=dict)
    keys: dict[bytes, str] = field(default_factory=dict)
    """{public key: device that is a member with it}."""
    confirmed: int = 0
    """How many members have confirmed the current renewal."""
    stale: dict[int, set[bytes]] = field(default_factory=dict)
    unplaced: set[str] = field(default_factory=set)
    """Nodes that came without a renewal: not in the keyring yet."""
    ghosts: set[str] = field(default_factory=set)
    """Nodes that left without one: in the keyring still."""
    renewal: Renewal | None = None
    _candidates: tuple[bytes, Iterator[bytes]] | None = None

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def active(self) -> bool:
        """Whether it is served."""
        return self.status is GroupStatus.ACTIVE

    @property
    def roster(self) -> int:
        """How many members have a credential."""
        return len(self.by_id)

    def add(self, member: Member) -> None:
        """Make this a member."""
        self.confirmed += member.confirmed_num >= self.num
        self.members[member.node] = member
        self.by_device[member.device] = member
        if member.endpoint_id is not None:
            self.by_id[member.endpoint_id] = member
        if member.credential is not None:
            self.keys[self.public_key(member.credential)] = member.device

    def remove(self, member: Member) -> None:
        """This is no member any more."""
        self.confirmed -= member.confirmed_num >= self.num
        del self.members[member.node]
        del self.by_device[member.device]
        if member.endpoint_id is not None:
            del self.by_id[member.endpoint_id]
        if member.credential is not None:
            self.keys.pop(self.public_key(member.credential), None)

    def public_key(self, credential: Credential) -> bytes:
        """The bytes of the key in a member's credential."""
        return credential.public_key(self.settings.parameters.signature).data

    def free_id(self) -> bytes | None:
        """An Endpoint ID that was not active under this Gid, and does not stand in a set of stale ones that members
        may ask for: the shortest there is, and from then on no candidate any more. None if there is none."""
        if self._candidates is None or self._candidates[0] != self.gid:
            self._candidates = self.gid, _ids(self.settings.max_id_length)
        stale = self._recently_stale(self.num)
        for candidate in self._candidates[1]:
            if candidate not in self.by_id and not any(candidate in ids for ids in stale):
                return candidate
        return None

    def ids_left(self, renewing: bool) -> int:
        """How many Endpoint IDs can be given out under this Gid, or under the next one (`renewing`); where these
        are many, at least."""
        stale = self._recently_stale(self.num + renewing)
        possible = _possible_ids(self.settings.max_id_length)
        at_least = possible - len(self.by_id) - sum(map(len, stale))
        return at_least if at_least > self.settings.max_members else possible - len(set(self.by_id).union(*stale))

    def _recently_stale(self, num: int) -> list[set[bytes]]:
        return [ids for version, ids in self.stale.items() if version > num - self.settings.stale_sets]

    def row(self) -> Row:
        return {
            "grp": self.name,
            "settings": self.settings.to_json(),
            "state": self.status.value,
            "alarm": self.alarm,
            "tag": self.tag,
            "prefix": self.prefix,
            "epoch": self.epoch,
            "num": self.num,
            "gid": self.gid,
            "master_secret": self.master_secret.reveal(),
            "base_iv": self.base_iv,
            "renewed": self.renewed,
            "sequence": self.sequence,
        }

    def relevant_to(self, asking: Member, among: Iterable[Member] | None = None) -> tuple[MemberEntry, ...]:
        """The members, `among` these or all, whose keys somebody in this member's roles needs (Appendix C.1): those
        that listen and answer for a multicaster; multicasters for a listener or pure listener. Without itself."""
        wanted: set[Role] = set()
        if Role.MULTICASTER in asking.roles:
            wanted.add(Role.LISTENER)
        if asking.roles & {Role.LISTENER, Role.PURE_LISTENER}:
            wanted.add(Role.MULTICASTER)
        return tuple(
            member.entry()
            for member in (self.by_id.values() if among is None else among)
            if member.endpoint_id is not None and member.roles & wanted and member is not asking
        )


@cache
def _possible_ids(longest: int) -> int:
    return sum(1 << 8 * length for length in range(1, longest + 1))


def _ids(longest: int) -> Iterator[bytes]:
    for length in range(1, longest + 1):
        for number in range(1 << 8 * length):
            yield number.to_bytes(length, "big")


def key_row(group: str, record: KeyRecord) -> Row:
    """A key of a group's keyring, as it is stored."""
    return {
        "grp": group,
        "node": record.node,
        "parent": record.parent,
        "generation": record.generation,
        "key": record.key.reveal(),
        "member": record.member,
    }


def load_group(
    row: Row, members: Iterable[Row], keys: Iterable[Row], stale: Iterable[Row], ghosts: Iterable[Row], place: Path
) -> Group:
    """A group from its rows."""
    settings = GroupSettings.from_json(row["settings"], place)
    found = [Member.of(member) for member in members]
    records = [
        KeyRecord(key["node"], key["parent"], key["generation"], Secret(key["key"]), key["member"]) for key in keys
    ]
    rekey = settings.rekey
    unplaced = {member.node for member in found if not member.placed}
    gone = {ghost["node"] for ghost in ghosts}
    placed = {member.node for member in found} - unplaced | gone
    group = Group(
        settings=settings,
        status=GroupStatus(row["state"]),
        alarm=row["alarm"],
        tag=row["tag"],
        prefix=row["prefix"],
        epoch=row["epoch"],
        num=row["num"],
        gid=row["gid"],
        master_secret=Secret(row["master_secret"]),
        base_iv=row["base_iv"],
        renewed=row["renewed"],
        sequence=row["sequence"],
        keyring=load_keyring(
            rekey.scheme,
            rekey.arity,
            row["tag"],
            settings.wrapping.key_length,
            records,
            sorted(placed),
        ),
        unplaced=unplaced,
        ghosts=gone,
    )
    for member in found:
        group.add(member)
    for entry in stale:
        group.stale.setdefault(entry["num"], set()).add(entry["endpoint_id"])
    return group
