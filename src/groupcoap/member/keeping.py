"""What a device keeps of a group that it is a member of: one file for each, replaced as a whole.

The file is durable before anything is sent or accepted under what it says, so a device that was killed goes on
where it was. Secrets of former renewals are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ..cose.algorithms import aead_algorithm
from ..cose.credentials import Credential, CredentialKind
from ..errors import FileFault
from ..files.atomic import describe, remove_left_behind, sync_directory
from ..files.documents import DocumentKind, Field, Json, read_document, write_document
from ..files.group import (
    OPTIONAL_PARAMETERS,
    parameters_json,
    parse_address,
    policy_json,
    read_addresses,
    read_parameters,
    read_policy,
)
from ..keying.admin import MAX_KID, AdminKey, AdminKeys, Scheme
from ..keying.joining import MemberEntry
from ..keying.material import MAX_LENGTH, MIN_MASTER_SECRET, KeyMaterial
from ..membership import GroupAddress, Role, SecurityParameters
from ..secret import Secret
from .updates import GroupState

KEPT_SUFFIX: Final = ".membership.json"
"""What the name of every such file ends in."""

FORMER_SUFFIX: Final = ".left"
"""What that name gets in addition when the device is no member any more; without its keys."""

KIND: Final = DocumentKind("groupcoap-membership", 1)
FORMER_KIND: Final = DocumentKind("groupcoap-former-membership", 1)

_MAX_INCARNATION: Final = 64
_STATE: Final = (
    "name",
    "node",
    "roles",
    "endpoint_id",
    "parameters",
    "credential_kind",
    "gid",
    "num",
    "master_secret",
    "master_salt",
    "lifetime",
    "scheme",
    "admin",
    "control_group",
    "policy",
    "check_interval",
    "addresses",
    "incarnation",
    "roster",
    "confirm_within",
    "members",
    "departed",
    "ids_kept",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A group as it was kept. `confirmed`: when the manager last confirmed it, seconds since 1970."""

    state: GroupState
    confirmed: float

    def remaining(self, now: float) -> float:
        """Seconds for which it is good from `now` (since 1970) on without being confirmed again. A clock that shows
        a time before the confirmation cannot be trusted: none."""
        age = now - self.confirmed
        return max(0.0, self.state.lifetime - age) if age >= 0 else 0.0


def kept_path(directory: Path, group: str) -> Path:
    """Where a group is kept in this device's directory."""
    return directory / f"{quote(group, safe='')}{KEPT_SUFFIX}"


def load_kept(path: Path, group: str) -> Kept | None:
    """What is kept of this group; None if there is nothing. What a killed process has left beside it is removed.
    `FileFault` if it cannot be used."""
    if not path.exists():
        return None
    remove_left_behind(path)
    return read_kept(path, group)


def read_kept(path: Path, group: str) -> Kept:
    """The same of a device that may be running: nothing is changed."""
    document = read_document(path, KIND)
    members = document.members((*_STATE, "confirmed"))
    if members["name"].text() != group:
        members["name"].fault(f"is another group than {group!r}; restore the file from a copy, or remove it")
    confirmed = members["confirmed"]
    if type(confirmed.value) not in (int, float):
        confirmed.fault("must be a time in seconds since 1970")
    return Kept(_read_state(document, members), float(confirmed.value))


def save_kept(path: Path, kept: Kept) -> None:
    """Keep this, instead of what was kept; durable on return. `FileFault` if it cannot be written: then what was
    kept is as it was."""
    write_document(path, KIND, {**_state_json(kept.state), "confirmed": kept.confirmed}, replace=True)


def drop_kept(path: Path, state: GroupState, why: str) -> None:
    """Keep nothing of this group any more, but that the device was a member. `FileFault` if that fails."""
    body: Json = {"name": state.name, "gid": state.gid.hex(), "num": state.num, "why": why}
    write_document(path.with_name(path.name + FORMER_SUFFIX), FORMER_KIND, body, replace=True)
    try:
        path.unlink(missing_ok=True)
        remove_left_behind(path)
        sync_directory(path.parent)
    except OSError as error:
        raise FileFault(path, f"cannot be removed ({describe(error)})") from None


def _state_json(state: GroupState) -> Json:
    material = state.material
    return {
        "name": state.name,
        "node": state.node,
        "roles": _roles_json(state.roles),
        "endpoint_id": None if state.endpoint_id is None else state.endpoint_id.hex(),
        "parameters": parameters_json(state.parameters),
        "credential_kind": material.credential_kind.value,
        "gid": state.gid.hex(),
        "num": state.num,
        "master_secret": material.master_secret.reveal().hex(),
        "master_salt": material.master_salt.hex(),
        "lifetime": state.lifetime,
        "scheme": state.scheme.value,
        "admin": None if state.admin is None else _admin_json(state.admin),
        "control_group": None if state.control_group is None else str(state.control_group),
        "policy": policy_json(state.policy),
        "check_interval": state.check_interval,
        "addresses": [str(address) for address in state.addresses],
        "incarnation": state.incarnation.hex(),
        "roster": state.roster,
        "confirm_within": state.confirm_within,
        "members": [_member_json(entry) for entry in state.members],
        "departed": sorted(endpoint_id.hex() for endpoint_id in state.departed),
        "ids_kept": state.ids_kept,
    }


def _read_state(document: Field, members: dict[str, Field]) -> GroupState:
    parameters = read_parameters(
        members["parameters"].members(("profile", "aead", "kdf", "signature"), OPTIONAL_PARAMETERS)
    )
    with document.refusing():
        state = GroupState(
            name=members["name"].text(),
            node=members["node"].text(),
            roles=_read_roles(members["roles"]),
            material=_read_material(members, parameters),
            num=_count(members["num"]),
            lifetime=_count(members["lifetime"]),
            scheme=members["scheme"].choice(Scheme),
            admin=None if members["admin"].value is None else _read_admin(members["admin"]),
            control_group=_read_control(members["control_group"]),
            policy=read_policy(members["policy"]),
            check_interval=_count(members["check_interval"]),
            addresses=read_addresses(members["addresses"]),
            incarnation=members["incarnation"].hex(0, _MAX_INCARNATION),
            roster=_count(members["roster"]),
            confirm_within=members["confirm_within"].seconds(),
            members=tuple(_read_member(item) for item in members["members"].items()),
            departed=frozenset(item.hex(0, MAX_LENGTH) for item in members["departed"].items()),
            ids_kept=members["ids_kept"].boolean(),
        )
        parameters.common_context(state.gid, state.material.master_secret, state.material.master_salt)
    if (state.endpoint_id is None) != (state.roles == {Role.PURE_LISTENER}):
        members["endpoint_id"].fault("must be null for a pure listener, and for nobody else")
    for item, entry in zip(members["members"].items(), state.members, strict=True):
        with item.refusing():
            credential = Credential(state.material.credential_kind, entry.credential)
            credential.public_key(parameters.signature)
            parameters.authenticated(credential)
    return state


def _read_material(members: dict[str, Field], parameters: SecurityParameters) -> KeyMaterial:
    own = members["endpoint_id"]
    return KeyMaterial(
        parameters=parameters,
        gid=members["gid"].hex(parameters.profile.rules.min_gid, MAX_LENGTH),
        master_secret=Secret(members["master_secret"].hex(MIN_MASTER_SECRET, MAX_LENGTH)),
        master_salt=members["master_salt"].hex(0, MAX_LENGTH),
        credential_kind=members["credential_kind"].choice(CredentialKind),
        endpoint_id=None if own.value is None else own.hex(0, MAX_LENGTH),
    )


def _admin_json(admin: AdminKeys) -> Json:
    return {
        "alg": admin.aead.number,
        "base_iv": admin.base_iv.hex(),
        "arity": admin.arity,
        "keys": [
            {
                "kid": key.kid.hex(),
                "key": key.key.reveal().hex(),
                "node": key.node,
                "generation": key.generation,
            }
            for key in admin.keys
        ],
    }


def _read_admin(entry: Field) -> AdminKeys:
    members = entry.members(("alg", "base_iv", "arity", "keys"))
    with members["alg"].refusing():
        aead = aead_algorithm(members["alg"].integer())
    arity = members["arity"]
    keys = []
    for item in members["keys"].items():
        fields = item.members(("kid", "key", "node", "generation"))
        keys.append(
            AdminKey(
                fields["kid"].hex(1, MAX_KID),
                Secret(fields["key"].hex(aead.key_length, aead.key_length)),
                _count(fields["node"]),
                _count(fields["generation"]),
            )
        )
    return AdminKeys(
        aead,
        members["base_iv"].hex(aead.nonce_length, aead.nonce_length),
        tuple(keys),
        None if arity.value is None else arity.integer(),
    )


def _read_control(entry: Field) -> GroupAddress | None:
    if entry.value is None:
        return None
    with entry.refusing():
        return parse_address(entry.text())


def _member_json(entry: MemberEntry) -> Json:
    return {
        "id": entry.endpoint_id.hex(),
        "name": entry.name,
        "roles": _roles_json(entry.roles),
        "credential": entry.credential.hex(),
    }


def _read_member(entry: Field) -> MemberEntry:
    members = entry.members(("id", "name", "roles", "credential"))
    name = members["name"]
    return MemberEntry(
        members["id"].hex(0, MAX_LENGTH),
        _read_roles(members["roles"]),
        members["credential"].hex(1),
        "" if name.value == "" else name.text(),
    )


def _roles_json(roles: frozenset[Role]) -> list[str]:
    return [role.value for role in Role if role in roles]


def _read_roles(entry: Field) -> frozenset[Role]:
    return frozenset(item.choice(Role) for item in entry.items(at_least=1))


def _count(entry: Field) -> int:
    if entry.integer() < 0:
        entry.fault("must not be negative")
    return entry.integer()
