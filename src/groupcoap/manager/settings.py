"""What an operator decides for a group: its parameters, its policy, and when and how its keys are renewed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.policy import GroupPolicy, Verification
from ..core.synchronization import SynchronizationPolicy
from ..cose.algorithms import DEFAULT_AEAD, AeadAlgorithm
from ..cose.credentials import CredentialKind
from ..errors import MisuseError
from ..files.documents import DocumentKind, Field, Json, parse_document
from ..files.group import (
    OPTIONAL_PARAMETERS,
    parameters_json,
    parse_address,
    policy_json,
    read_addresses,
    read_parameters,
    read_policy,
    read_synchronization,
    synchronization_json,
)
from ..keying.admin import Scheme
from ..membership import GroupAddress, SecurityParameters
from ..secret import Secret

CONTROL_PORT = 5685
"""UDP port to which rekey messages for all go, unless an operator says otherwise [LOCAL]."""

MAX_NAME = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")

SCHEME_NAMES = {
    "point-to-point": Scheme.POINT_TO_POINT,
    "gkmp": Scheme.GKMP,
    "lkh": Scheme.LKH,
}
KIND = DocumentKind("groupcoap-group-settings", 1)
_PROBE = Secret(bytes(16))  # only to see whether a Common Context can be made with these parameters


def check_name(name: str, what: str) -> str:
    """The name of a group or device as it stands in URIs and paths. `MisuseError` if it cannot be one."""
    if not _NAME.match(name) or len(name) > MAX_NAME:
        raise MisuseError(f"{what} {name!r}: a name has 1 to {MAX_NAME} letters, digits, '.', '_' or '-'")
    return name


@dataclass(frozen=True, slots=True)
class RekeyPolicy:
    """How and when the group's keys are renewed (draft §3.1).

    `scheme`, `arity`: how renewals are distributed; the arity is the key tree's, 2 to 16. `on_join`, `on_leave`:
    whether members who come or go cause one (an eviction always does). `period`: seconds after which one comes
    anyway, None: only when the Gid's lifetime wants it. `window`: seconds in which joins are gathered into one
    renewal. `lifetime`: seconds that a member may use a context without having it confirmed by the manager.
    `check_interval`: seconds between two confirmations that a member asks for on its own."""

    scheme: Scheme = Scheme.LKH
    arity: int = 2
    on_join: bool = True
    on_leave: bool = True
    period: float | None = None
    window: float = 0.2
    lifetime: float = 86400.0
    check_interval: float = 300.0

    def __post_init__(self) -> None:
        if not 2 <= self.arity <= 16:
            raise MisuseError("the arity of a key tree is 2 to 16")
        if not 0 <= self.window <= 60:
            raise MisuseError("the window for joins is 0 to 60 seconds")
        if not 1 <= self.lifetime <= 366 * 86400:
            raise MisuseError("the lifetime of a context is 1 second to one year")
        if self.period is not None and not 1 <= self.period <= 366 * 86400:
            raise MisuseError("the period of renewals is 1 second to one year")
        if not 0 < self.check_interval <= self.lifetime:
            raise MisuseError(
                f"the check interval, {self.check_interval:g} s, must be positive and no longer than the lifetime, "
                f"{self.lifetime:g} s: give both"
            )


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """All that an operator decides for a group.

    `parameters`: with the manager's credential. `credential_kind`: what members present. `suggestions`: {device:
    how this single listener should synchronize} (draft §6). `prefix_size`, `epoch_size`: bytes of the Gid's two
    parts (Appendix B). `control`: multicast address of rekey messages. `max_members`: size limit. `stale_sets`: how
    many sets of stale Endpoint IDs are kept (at least 2)."""

    name: str
    addresses: tuple[GroupAddress, ...]
    parameters: SecurityParameters
    control: GroupAddress
    credential_kind: CredentialKind = CredentialKind.CCS
    policy: GroupPolicy = field(default_factory=lambda: GroupPolicy(grace=2.0))
    rekey: RekeyPolicy = field(default_factory=RekeyPolicy)
    suggestions: Mapping[str, SynchronizationPolicy] = field(default_factory=dict)
    prefix_size: int = 8
    epoch_size: int = 4
    max_members: int = 1000
    stale_sets: int = 3

    def __post_init__(self) -> None:
        check_name(self.name, "group")
        if not self.addresses:
            raise MisuseError("a group has at least one multicast address")
        if not 8 <= self.prefix_size <= 32:
            raise MisuseError("the prefix of a Gid has 8 to 32 bytes")
        if not 1 <= self.epoch_size <= 8:
            raise MisuseError("the epoch of a Gid has 1 to 8 bytes")
        if self.max_members < 1:
            raise MisuseError("a group has room for at least one member")
        if not 2 <= self.stale_sets <= 100:
            raise MisuseError("2 to 100 sets of stale Endpoint IDs are kept")
        if self.credential_kind is CredentialKind.RAW_KEY:
            raise MisuseError("members of a managed group present ccs, cwt or x509 credentials, not raw keys")
        if self.control in self.addresses:
            raise MisuseError("rekey messages need another port than the group's own messages")
        rules = self.parameters.profile.rules
        if rules.signature_first and self.policy.verification is not Verification.ALWAYS:
            raise MisuseError(f"{self.parameters.profile.name} has its countersignatures always verified")
        self.parameters.common_context(bytes(self.prefix_size + self.epoch_size), _PROBE)

    @property
    def seed(self) -> bool:
        """Whether the draft's rules go before key-groupcomm-oscore's where they clash (docs/group-manager.md
        §4)."""
        return not self.parameters.profile.rules.binds_credentials

    @property
    def wrapping(self) -> AeadAlgorithm:
        """What rekey messages are encrypted with: the group's AEAD, or the default where it encrypts without
        one."""
        encryption = self.parameters.encryption
        return encryption if isinstance(encryption, AeadAlgorithm) else DEFAULT_AEAD

    @property
    def max_id_length(self) -> int:
        """Bytes of an Endpoint ID at most: what the shortest nonce of the group has room for (OSCORE-06 §3.3)."""
        aead, encryption = self.parameters.aead, self.parameters.encryption
        return min(encryption.max_id_length, encryption.max_id_length if aead is None else aead.max_id_length)

    @property
    def expires_in(self) -> int:
        """Seconds that a confirmation by the manager is good for (exi)."""
        return int(self.rekey.lifetime)

    def policy_for(self, device: str) -> GroupPolicy:
        """The group's policy with what is suggested to this device."""
        suggested = self.suggestions.get(device)
        return self.policy if suggested is None else replace(self.policy, synchronization=suggested)

    def to_json(self) -> str:
        """As it is stored."""
        rekey = self.rekey
        body: Json = {
            "format": KIND.format,
            "version": KIND.version,
            "name": self.name,
            "addresses": [str(address) for address in self.addresses],
            "control": str(self.control),
            **parameters_json(self.parameters),
            "credential_kind": self.credential_kind.value,
            "policy": policy_json(self.policy),
            "suggestions": {name: synchronization_json(value) for name, value in self.suggestions.items()},
            "rekey": {
                "scheme": rekey.scheme.value,
                "arity": rekey.arity,
                "on_join": rekey.on_join,
                "on_leave": rekey.on_leave,
                **({} if rekey.period is None else {"period": rekey.period}),
                "window": rekey.window,
                "lifetime": rekey.lifetime,
                "check_interval": rekey.check_interval,
            },
            "prefix_size": self.prefix_size,
            "epoch_size": self.epoch_size,
            "max_members": self.max_members,
            "stale_sets": self.stale_sets,
        }
        return json.dumps(body)

    @classmethod
    def from_json(cls, text: str, place: Path) -> GroupSettings:
        """What `to_json` has made. `place`: the database, for messages. `FileFault` if it cannot be used."""
        return _read(parse_document(text.encode(), KIND, Field(place, "group", None)))


def _read(document: Field) -> GroupSettings:
    names = ("name", "addresses", "control", "profile", "aead", "kdf", "signature", "credential_kind", "policy")
    sizes = ("prefix_size", "epoch_size", "max_members", "stale_sets")
    members = document.members((*names, "suggestions", "rekey", *sizes), OPTIONAL_PARAMETERS)
    suggestions = members["suggestions"]
    if not isinstance(suggestions.value, dict):
        suggestions.fault("must be an object")
    with members["control"].refusing():
        control = parse_address(members["control"].text())
    with document.refusing():
        return GroupSettings(
            name=members["name"].text(),
            addresses=read_addresses(members["addresses"]),
            parameters=read_parameters(members),
            control=control,
            credential_kind=members["credential_kind"].choice(CredentialKind),
            policy=read_policy(members["policy"]),
            rekey=_read_rekey(members["rekey"]),
            suggestions={
                name: read_synchronization(entry)
                for name, entry in suggestions.members((), tuple(suggestions.value)).items()
            },
            **{name: members[name].integer() for name in sizes},
        )


def _read_rekey(entry: Field) -> RekeyPolicy:
    required = ("scheme", "arity", "on_join", "on_leave", "window", "lifetime", "check_interval")
    members = entry.members(required, ("period",))
    with entry.refusing():
        return RekeyPolicy(
            scheme=members["scheme"].choice(Scheme),
            arity=members["arity"].integer(),
            on_join=members["on_join"].boolean(),
            on_leave=members["on_leave"].boolean(),
            period=members["period"].seconds() if "period" in members else None,
            window=members["window"].seconds(),
            lifetime=members["lifetime"].seconds(),
            check_interval=members["check_interval"].seconds(),
        )


def control_for(addresses: tuple[GroupAddress, ...]) -> GroupAddress:
    """Where rekey messages go unless somebody says otherwise: to the group's first address, at `CONTROL_PORT`."""
    return GroupAddress(addresses[0].host, CONTROL_PORT)


def changed(settings: GroupSettings, changes: Mapping[str, Any]) -> GroupSettings:
    """These settings with some fields changed, of `GroupSettings` itself or of its `rekey`. `MisuseError` for an
    unknown field or a value that cannot be."""
    own, rekey = {}, {}
    for name, value in changes.items():
        if name in RekeyPolicy.__slots__:
            rekey[name] = value
        elif name in GroupSettings.__slots__ and name != "name":
            own[name] = value
        else:
            raise MisuseError(f"{name!r} is nothing that can be set")
    return replace(settings, rekey=replace(settings.rekey, **rekey), **own)


def needs_renewal(before: GroupSettings, after: GroupSettings) -> bool:
    """Whether this change is one of the protocol's parameters, so that members need a new Security Context."""
    return (
        before.parameters != after.parameters
        or before.addresses != after.addresses
        or before.control != after.control
        or (before.rekey.scheme, before.rekey.arity) != (after.rekey.scheme, after.rekey.arity)
        or before.policy != after.policy
        or before.suggestions != after.suggestions
        or (before.prefix_size, before.epoch_size) != (after.prefix_size, after.epoch_size)
        or before.rekey.lifetime != after.rekey.lifetime
        or before.rekey.check_interval != after.rekey.check_interval
    )
