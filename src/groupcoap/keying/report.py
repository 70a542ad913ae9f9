"""What a member learns of its group: Join Response, GET …/NAME and GET …/nodes/NODE (RFC 9594 §4.3.1, §4.3.2,
§4.8.1; KGO §6.3). A group's policy goes in key 16, and what that has no numbers for in a map of its own
[LOCAL]."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, isfinite
from typing import Final

import cbor2

from ..core.group_oscore import GROUP_OSCORE
from ..core.policy import GroupPolicy, Verification, profile_by_name
from ..core.profile import Mode, Profile
from ..core.synchronization import Method, SynchronizationPolicy
from ..cose.credentials import Credential, CredentialKind
from ..errors import MisuseError
from ..membership import GroupAddress
from . import labels, reading
from .addresses import MAX_URI, control_group_address, parse_group_address
from .admin import AdminKeys, Scheme
from .labels import DEFAULT_CODE_POINTS, CodePoints
from .material import KeyMaterial, material_map, parse_material
from .reading import MAX_UINT, Malformed, Map, rejecting
from .roster import MAX_CREDENTIAL, MemberEntry, put_members, take_members

DEFAULT_CHECK_INTERVAL: Final = 3600
"""Seconds of the Key Update Check Interval where none is said (KGO §6.3)."""

_METHODS: Final = {
    Method.BEST_EFFORT: labels.BEST_EFFORT,
    Method.BASELINE: labels.BASELINE,
    Method.CHALLENGE_RESPONSE: labels.CHALLENGE_RESPONSE,
}
_METHOD_OF: Final = {number: method for method, number in _METHODS.items()}
_SCHEMES: Final = {scheme.value: scheme for scheme in Scheme}
_MAX_INCARNATION: Final = 64
_MAX_NONCE: Final = 64
_MAX_PROOF: Final = 256
_EXACT: Final = 1 << 53  # below it, every whole float is that integer


@dataclass(frozen=True, slots=True)
class KeyReport:
    """A group's current state for one member.

    `num`: of the renewal. `expires_in`: seconds; `expires_at`: seconds since 1970, None where it is not said.
    `admin`: this member's administrative keys. `control_group`: URI of the Group Manager's messages to all.
    `policy`: the group's. `check_interval`: seconds after which a member asks for `num`. `incarnation`: of the
    Group Manager; another one knows nothing of what was before. `roster`: how many members have a credential.
    `confirm_within`: seconds in which confirmations of a renewal are spread. `members`: whose credentials were
    asked for. The `manager_…` are in Join Responses: credential, N_KDC, and proof of possession over it (empty
    where there is none).

    `material.parameters.manager_credential` does not go over the wire: what is parsed has `manager_credential`
    there, None where that is not said."""

    material: KeyMaterial
    num: int
    expires_in: int
    expires_at: int | None
    scheme: Scheme
    admin: AdminKeys | None
    control_group: str | None
    policy: GroupPolicy
    check_interval: int
    addresses: tuple[GroupAddress, ...]
    incarnation: bytes
    roster: int
    confirm_within: float
    members: tuple[MemberEntry, ...] | None = None
    manager_credential: Credential | None = None
    manager_nonce: bytes = b""
    manager_proof: bytes = b""

    def encode(self, points: CodePoints = DEFAULT_CODE_POINTS) -> bytes:
        """The payload (Content-Format 261), secrets in clear. `MisuseError` if a value has no encoding: a time
        that is not finite, a number above 64 bits, credentials that are raw keys or of two kinds."""
        content: dict[int, object] = {
            labels.GKTY: points.gkty,
            labels.KEY: material_map(self.material, points, with_id=True),
            labels.NUM: self.num,
            labels.ACE_GROUPCOMM_PROFILE: points.profile,
            **({} if self.expires_at is None else {labels.EXP: self.expires_at}),
            labels.EXI: self.expires_in,
            labels.GROUP_POLICIES: _policies(self.policy, self.check_interval),
            labels.REKEYING_SCHEME: self.scheme.value,
            labels.ROSTER: self.roster,
            labels.POLICY: self._local_policy(),
            labels.INCARNATION: self.incarnation,
        }
        if self.members is not None:
            put_members(content, self.members)
        self._put_manager(content)
        if self.admin is not None:
            content[labels.MGT_KEY_MATERIAL] = self.admin.encode()
        if self.control_group is not None:
            content[labels.CONTROL_GROUP_URI] = self.control_group
        if self.addresses:
            content[labels.ADDRESSES] = [str(address) for address in self.addresses]
        profile = self.material.parameters.profile
        if profile is not GROUP_OSCORE:
            content[labels.PROFILE_NAME] = profile.name
        return cbor2.dumps(content)

    def _put_manager(self, content: dict[int, object]) -> None:
        credential = self.manager_credential
        if credential is not None:
            if credential.kind is not self.material.credential_kind:
                raise MisuseError("all credentials of a group, the Group Manager's too, are of one kind")
            content[labels.KDC_CRED] = credential.data
        if self.manager_nonce:
            content[labels.KDC_NONCE] = self.manager_nonce
        if self.manager_proof:
            content[labels.KDC_CRED_VERIFY] = self.manager_proof

    def _local_policy(self) -> dict[int, object]:
        synchronization, policy = self.policy.synchronization, self.policy
        gap, mode = synchronization.max_gap, policy.response_mode
        return {
            labels.CHALLENGE_LIFETIME: _time(synchronization.challenge_lifetime),
            labels.RECHALLENGE_AFTER: _time(synchronization.rechallenge_after),
            labels.REPEAT_LENGTH: synchronization.repeat_length,
            **({} if gap is None else {labels.MAX_GAP: _uint(gap)}),
            labels.VERIFICATION: policy.verification.value,
            **({} if mode is None else {labels.RESPONSE_MODE: mode.value}),
            labels.MAX_UNFRAGMENTED_SIZE: _uint(policy.max_unfragmented_size),
            labels.SIGN_PROTECTED: self.material.parameters.sign_protected,
            labels.CONFIRM_WITHIN: _time(self.confirm_within),
            **({} if _whole(policy.grace) else {labels.EXACT_GRACE: _time(policy.grace)}),
        }

    @classmethod
    @rejecting
    def parse(cls, payload: bytes, points: CodePoints = DEFAULT_CODE_POINTS) -> KeyReport:
        """What `encode` has made. `Rejected` (malformed) if it is not that. What only this project's managers say
        has defaults, so that another's answer can be read too."""
        content = reading.fields(reading.decode(payload), "the answer")
        check_type(content, points)
        local = reading.fields(content.get(labels.POLICY, {}), "the policy")
        policy, check_interval = _parse_policy(content, local)
        material = _parse_material(content, local, _profile(content))
        return cls(
            material=material,
            num=reading.integer(reading.needed(content, labels.NUM, "num"), "num"),
            expires_in=reading.integer(reading.needed(content, labels.EXI, "exi"), "exi"),
            expires_at=parse_expiry(content),
            scheme=_scheme(content),
            admin=parse_admin(content),
            control_group=_control_group(content),
            policy=policy,
            check_interval=check_interval,
            addresses=_addresses(content),
            incarnation=reading.octets(content.get(labels.INCARNATION, b""), "incarnation", 0, _MAX_INCARNATION),
            roster=reading.integer(content.get(labels.ROSTER, 0), "roster"),
            confirm_within=reading.seconds(local.get(labels.CONFIRM_WITHIN, 0), "a time"),
            members=take_members(content),
            manager_credential=material.parameters.manager_credential,
            manager_nonce=reading.octets(content.get(labels.KDC_NONCE, b""), "kdc_nonce", 0, _MAX_NONCE),
            manager_proof=reading.octets(
                content.get(labels.KDC_CRED_VERIFY, b""), "kdc_cred_verify", 0, _MAX_PROOF
            ),
        )


def check_type(content: Map, points: CodePoints) -> None:
    """Whether this is keying material of Group OSCORE (keys 7 and 10). `Malformed` if not."""
    for label, expected, what in (
        (labels.GKTY, points.gkty, "gkty"),
        (labels.ACE_GROUPCOMM_PROFILE, points.profile, "ace_groupcomm_profile"),
    ):
        value = reading.needed(content, label, what)
        if isinstance(value, bool) or value != expected:
            raise Malformed(f"{what} is not that of Group OSCORE")


def parse_expiry(content: Map) -> int | None:
    """exp, if it is there."""
    return reading.integer(content[labels.EXP], "exp") if labels.EXP in content else None


def parse_admin(content: Map) -> AdminKeys | None:
    """mgt_key_material, if it is there."""
    if labels.MGT_KEY_MATERIAL not in content:
        return None
    return AdminKeys.parse(reading.octets(content[labels.MGT_KEY_MATERIAL], "mgt_key_material"))


def _profile(content: Map) -> Profile:
    if labels.PROFILE_NAME not in content:
        return GROUP_OSCORE
    return profile_by_name(reading.text(content[labels.PROFILE_NAME], "the profile"))


def _parse_material(content: Map, local: Map, profile: Profile) -> KeyMaterial:
    material = parse_material(reading.needed(content, labels.KEY, "key"), profile, None)
    sign_protected = reading.boolean(local.get(labels.SIGN_PROTECTED, True), "sign_protected")
    manager = _manager_credential(content, material.credential_kind)
    parameters = replace(material.parameters, sign_protected=sign_protected, manager_credential=manager)
    return replace(material, parameters=parameters)


def _manager_credential(content: Map, kind: CredentialKind) -> Credential | None:
    if labels.KDC_CRED not in content:
        return None
    return Credential(kind, reading.octets(content[labels.KDC_CRED], "kdc_cred", 1, MAX_CREDENTIAL))


def _scheme(content: Map) -> Scheme:
    number = reading.integer(content.get(labels.REKEYING_SCHEME, 0), "rekeying_scheme", -MAX_UINT)
    if number not in _SCHEMES:
        raise Malformed("a rekeying_scheme that is not known")
    return _SCHEMES[number]


def _control_group(content: Map) -> str | None:
    if labels.CONTROL_GROUP_URI not in content:
        return None
    uri = reading.text(content[labels.CONTROL_GROUP_URI], "control_group_uri", MAX_URI)
    control_group_address(uri)
    return uri


def _addresses(content: Map) -> tuple[GroupAddress, ...]:
    items = reading.array(content.get(labels.ADDRESSES, []), "addresses")
    addresses = tuple(parse_group_address(reading.text(item, "an address", MAX_URI)) for item in items)
    if len(set(addresses)) != len(addresses):
        raise Malformed("an address that stands there twice")
    return addresses


def _policies(policy: GroupPolicy, check_interval: int) -> dict[int, object]:
    # Key 2 has whole seconds: rounded up, and exactly in the local map where that makes a difference.
    _time(policy.grace)
    return {
        labels.SYNCHRONIZATION_METHOD: _METHODS[policy.synchronization.method],
        labels.KEY_UPDATE_CHECK_INTERVAL: _uint(check_interval),
        labels.EXPIRATION_DELTA: min(ceil(policy.grace), MAX_UINT),
    }


def _parse_policy(content: Map, local: Map) -> tuple[GroupPolicy, int]:
    """(policy, Key Update Check Interval)."""
    standard = reading.fields(content.get(labels.GROUP_POLICIES, {}), "group_policies")
    interval = reading.integer(
        standard.get(labels.KEY_UPDATE_CHECK_INTERVAL, DEFAULT_CHECK_INTERVAL), "Key Update Check Interval"
    )
    grace = reading.integer(standard.get(labels.EXPIRATION_DELTA, 0), "Expiration Delta")
    policy = GroupPolicy(
        synchronization=_parse_synchronization(standard, local),
        verification=_verification(local),
        response_mode=_response_mode(local),
        grace=reading.seconds(local.get(labels.EXACT_GRACE, grace), "a time"),
        max_unfragmented_size=reading.integer(
            local.get(labels.MAX_UNFRAGMENTED_SIZE, GroupPolicy().max_unfragmented_size), "MAX_UNFRAGMENTED_SIZE"
        ),
    )
    return policy, interval


def _parse_synchronization(standard: Map, local: Map) -> SynchronizationPolicy:
    default = SynchronizationPolicy()
    number = standard.get(labels.SYNCHRONIZATION_METHOD, labels.CHALLENGE_RESPONSE)
    method = _METHOD_OF.get(reading.integer(number, "the synchronization method", -MAX_UINT))
    if method is None:
        raise Malformed("a synchronization method that is not known")
    return SynchronizationPolicy(
        method,
        reading.seconds(local.get(labels.CHALLENGE_LIFETIME, default.challenge_lifetime), "a time"),
        reading.seconds(local.get(labels.RECHALLENGE_AFTER, default.rechallenge_after), "a time"),
        reading.integer(local.get(labels.REPEAT_LENGTH, default.repeat_length), "the length of a Repeat value"),
        reading.integer(local[labels.MAX_GAP], "max_gap") if labels.MAX_GAP in local else None,
    )


def _verification(local: Map) -> Verification:
    try:
        return Verification(reading.text(local.get(labels.VERIFICATION, Verification.ALWAYS.value), "verification"))
    except ValueError:
        raise Malformed("verification is none that is known") from None


def _response_mode(local: Map) -> Mode | None:
    if labels.RESPONSE_MODE not in local:
        return None
    try:
        return Mode(reading.text(local[labels.RESPONSE_MODE], "response_mode"))
    except ValueError:
        raise Malformed("response_mode is none that is known") from None


def _whole(value: float) -> bool:
    return value < _EXACT and value == int(value)


def _time(value: float) -> int | float:
    """A time in seconds as it is encoded: as an integer if it is one."""
    if not isfinite(value) or value < 0:
        raise MisuseError("a time that is not finite, or negative")
    return int(value) if _whole(value) else value


def _uint(value: int) -> int:
    if not 0 <= value <= MAX_UINT:
        raise MisuseError("a number of more than 64 bits, or negative")
    return value
