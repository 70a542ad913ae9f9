"""Members and their credentials on the wire: keys 13, 14 and 15, requests for them, and groups by their Gids (RFC
9594 §4.2.1, §4.3.1, §4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import cbor2

from ..errors import Refused
from ..membership import Role
from . import labels, reading
from .addresses import MAX_NAME, MAX_URI
from .reading import Malformed, Map, refusing, rejecting
from .roles import roles_of, sends, tperm

NOTHING: Final = b"\x40"
"""The payload that says that nothing was found: an empty byte string."""

MAX_CREDENTIAL: Final = 4096
"""Bytes of a credential."""

MAX_ID: Final = 255
MAX_FILTER: Final = 4096
"""Items in a filter, and Gids asked for at once."""

_MAX_TPERM: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A member that has an Endpoint ID, as the Group Manager says it to others. `credential`: its original bytes.
    `name`: for people, may be empty."""

    endpoint_id: bytes
    roles: frozenset[Role]
    credential: bytes
    name: str = ""


def put_members(content: dict[int, object], entries: Sequence[MemberEntry]) -> None:
    """Add 13 creds, 14 peer_roles, 15 peer_identifiers and, if there are names, peer_names [LOCAL] to a map:
    arrays of one length, the same index for the same member."""
    content[labels.CREDS] = [entry.credential for entry in entries]
    content[labels.PEER_ROLES] = [tperm(entry.roles) for entry in entries]
    content[labels.PEER_IDENTIFIERS] = [entry.endpoint_id for entry in entries]
    if any(entry.name for entry in entries):
        content[labels.PEER_NAMES] = [entry.name for entry in entries]


def take_members(content: Map) -> tuple[MemberEntry, ...] | None:
    """What `put_members` has added; None if it has not. `Malformed` if only part of it is there, the lengths
    differ, an Endpoint ID stands there twice, or an entry is not one."""
    labelled = (labels.CREDS, labels.PEER_ROLES, labels.PEER_IDENTIFIERS)
    if not any(label in content for label in labelled):
        return None
    what = "one of creds, peer_roles and peer_identifiers"
    creds, roles, ids = (reading.array(reading.needed(content, label, what), what) for label in labelled)
    names = reading.array(content.get(labels.PEER_NAMES, [""] * len(creds)), "peer_names")
    if not len(creds) == len(roles) == len(ids) == len(names):
        raise Malformed("arrays of members that have not the same length")
    entries = tuple(_entry(*item) for item in zip(ids, roles, creds, names, strict=True))
    if len({entry.endpoint_id for entry in entries}) != len(entries):
        raise Malformed("an Endpoint ID that two members have")
    return entries


def _entry(endpoint_id: object, roles: object, credential: object, name: object) -> MemberEntry:
    found = roles_from(roles)
    if not sends(found):
        raise Malformed("an Endpoint ID of a pure listener")
    return MemberEntry(
        reading.octets(endpoint_id, "Endpoint ID", 0, MAX_ID),
        found,
        reading.octets(credential, "a credential", 1, MAX_CREDENTIAL),
        reading.text(name, "a member's name", MAX_NAME),
    )


def roles_from(value: object) -> frozenset[Role]:
    """The roles that a decoded Tperm says. `Malformed` if it says none, or others."""
    try:
        return roles_of(reading.integer(value, "Tperm", 0, _MAX_TPERM))
    except Refused as refused:
        raise Malformed(refused.title) from None


@dataclass(frozen=True, slots=True)
class Filter:
    """Whose credentials are asked for (get_creds of a FETCH). `inclusive`: who has all roles of one of `roles`,
    or one of `ids`; otherwise who has all roles of one of `roles` (anybody, if there is none) and none of `ids`.
    `roles`: Tperms."""

    inclusive: bool
    roles: tuple[int, ...] = ()
    ids: frozenset[bytes] = frozenset()

    def matches(self, roles: int, endpoint_id: bytes) -> bool:
        """Whether a member with these roles (a Tperm) and this Endpoint ID is meant."""
        return self.selects(self.fits(roles), endpoint_id)

    def fits(self, roles: int) -> bool:
        """Whether these have all roles of one of `roles`. There may be thousands, so ask once for members alike."""
        return any(roles & wanted == wanted for wanted in self.roles)

    def selects(self, fits: bool, endpoint_id: bytes) -> bool:
        """As `matches`, of somebody of whose roles it is known whether they fit."""
        if self.inclusive:
            return fits or endpoint_id in self.ids
        return (fits or not self.roles) and endpoint_id not in self.ids


def encode_filter(ids: Sequence[bytes] | None, roles: Sequence[int] = (), inclusive: bool = True) -> bytes:
    """The payload of FETCH creds: {4: [inclusive, [Tperm], [id]]}; see `Filter`. Without ids and roles: {4:
    null}, all [LOCAL: the RFC has GET for that]."""
    wanted = [inclusive, list(roles), list(ids or ())] if ids or roles else None
    return cbor2.dumps({labels.GET_CREDS: wanted})


@refusing
def parse_filter(payload: bytes) -> Filter | None:
    """What `encode_filter` has made; None: all. `Refused` (4.00) if it is not that, or asks for nobody in
    particular in two empty arrays (RFC 9594 §4.4.1)."""
    content = reading.fields(reading.decode(payload), "the request")
    wanted = reading.needed(content, labels.GET_CREDS, "get_creds")
    if wanted is None:
        return None
    flag, roles, ids = reading.array(wanted, "get_creds", 3)
    inclusive = reading.boolean(flag, "the flag of get_creds")
    role_filter = [reading.integer(item, "a role", 1, _MAX_TPERM) for item in _bounded(roles, "role_filter")]
    id_filter = [reading.octets(item, "Endpoint ID", 0, MAX_ID) for item in _bounded(ids, "id_filter")]
    if not role_filter and not id_filter:
        raise Malformed("get_creds with both filters empty")
    return Filter(inclusive, tuple(role_filter), frozenset(id_filter))


def _bounded(value: object, what: str) -> list[object]:
    items = reading.array(value, what)
    if len(items) > MAX_FILTER:
        raise Malformed(f"{what} has too many items")
    return items


def encode_credentials(num: int, entries: Sequence[MemberEntry]) -> bytes:
    """The answer to GET and FETCH creds: {9: num, 13, 14, 15}, or an empty byte string if there is nobody."""
    if not entries:
        return NOTHING
    content: dict[int, object] = {labels.NUM: num}
    put_members(content, entries)
    return cbor2.dumps(content)


@rejecting
def parse_credentials(payload: bytes) -> tuple[int | None, tuple[MemberEntry, ...]]:
    """(num, members) of such an answer; no num where there is nobody. `Rejected` (malformed)."""
    value = reading.decode(payload)
    if value == b"":
        return None, ()
    content = reading.fields(value, "the answer")
    num = reading.integer(reading.needed(content, labels.NUM, "num"), "num")
    return num, take_members(content) or ()


class GroupName(NamedTuple):
    """A group that the Group Manager knows under a current Gid. `uri`: of its resource, full or only a path."""

    gid: bytes
    name: str
    uri: str


def encode_gids(gids: Sequence[bytes]) -> bytes:
    """The payload of FETCH /ace-group: {0: [gid]}."""
    return cbor2.dumps({labels.GID: list(gids)})


@refusing
def parse_gids(payload: bytes) -> tuple[bytes, ...]:
    """The Gids that are asked for. `Refused` (4.00) if this is no such request."""
    content = reading.fields(reading.decode(payload), "the request")
    gids = _bounded(reading.needed(content, labels.GID, "gid"), "gid")
    if not gids:
        raise Malformed("no Gid is asked for")
    return tuple(reading.octets(gid, "Gid", 0, MAX_ID) for gid in gids)


def encode_names(groups: Sequence[GroupName]) -> bytes:
    """The answer to it: {0: gids, 1: names, 2: URIs}, or an empty byte string if there is none."""
    if not groups:
        return NOTHING
    gids, names, uris = (list(column) for column in zip(*groups, strict=True))
    return cbor2.dumps({labels.GID: gids, labels.GNAME: names, labels.GURI: uris})


@rejecting
def parse_names(payload: bytes) -> tuple[GroupName, ...]:
    """The groups in such an answer. `Rejected` (malformed)."""
    value = reading.decode(payload)
    if value == b"":
        return ()
    content = reading.fields(value, "the answer")
    gids, names, uris = (
        reading.array(reading.needed(content, label, what), what)
        for label, what in ((labels.GID, "gid"), (labels.GNAME, "gname"), (labels.GURI, "guri"))
    )
    if not len(gids) == len(names) == len(uris):
        raise Malformed("arrays of groups that have not the same length")
    return tuple(
        GroupName(
            reading.octets(gid, "Gid", 0, MAX_ID),
            reading.text(name, "gname", MAX_NAME),
            reading.text(uri, "guri", MAX_URI),
        )
        for gid, name, uri in zip(gids, names, uris, strict=True)
    )
