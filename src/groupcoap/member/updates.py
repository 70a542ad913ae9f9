"""What a member makes of what its Group Manager says: envelopes, rekey messages and reports to its next state.

No I/O, clock or randomness: a state and bytes in, a decision out. Whoever acts on a decision makes the new state
durable before anything is sent or accepted under it. The rules: docs/group-manager.md §6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..core.policy import GroupPolicy
from ..cose.credentials import Credential
from ..errors import MisuseError, Reason, Rejected
from ..files.identity import DeviceIdentity
from ..keying.admin import ROOT, TAG_LENGTH, AdminKey, AdminKeys, Scheme
from ..keying.envelope import Envelope, envelope_algorithm, parse_envelope
from ..keying.joining import KeyReport, MemberEntry, control_group_address
from ..keying.labels import DEFAULT_CODE_POINTS, CodePoints
from ..keying.material import KeyMaterial
from ..keying.rekeying import RekeyMessage
from ..membership import Epoch, GroupAddress, GroupConfiguration, Member, Role, SecurityParameters


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group at one of its members, under its current Security Context.

    `node`: the member's name in the manager's URIs. `material`: with this member's own Endpoint ID, and the
    manager's credential in its parameters. `num`: of the renewal. `lifetime`: seconds that a confirmation is good
    for. `admin`: this member's keys for rekey messages, `control_group`: where these come to; None where there are
    none. `check_interval`, `confirm_within`: seconds, see `KeyReport`. `incarnation`: the manager's. `roster`: how
    many members have a credential, as the manager said with this renewal. `members`: those whose credentials are at
    hand, without this one. `departed`: Endpoint IDs that ceased to be members' with this renewal. `ids_kept`:
    whether all others still have the Endpoint ID that they had before."""

    name: str
    node: str
    roles: frozenset[Role]
    material: KeyMaterial
    num: int
    lifetime: int
    scheme: Scheme
    admin: AdminKeys | None
    control_group: GroupAddress | None
    policy: GroupPolicy
    check_interval: int
    addresses: tuple[GroupAddress, ...]
    incarnation: bytes
    roster: int
    confirm_within: float
    members: tuple[MemberEntry, ...] = ()
    departed: frozenset[bytes] = frozenset()
    ids_kept: bool = True

    @property
    def gid(self) -> bytes:
        return self.material.gid

    @property
    def endpoint_id(self) -> bytes | None:
        return self.material.endpoint_id

    @property
    def parameters(self) -> SecurityParameters:
        return self.material.parameters

    @property
    def seed(self) -> bool:
        """Whether the profile is one whose Gid takes the Master Salt's place."""
        return not self.parameters.profile.rules.pairwise

    def configuration(self, identity: DeviceIdentity | None, successive: bool = False) -> GroupConfiguration:
        """The group as endpoints take it. `identity`: this device's, None for a pure listener. `successive`: see
        `Epoch`. `MisuseError` if it does not fit together."""
        p = self.parameters
        epoch = Epoch(
            gid=self.gid,
            master_secret=self.material.master_secret,
            own_id=self.endpoint_id,
            private_key=None if identity is None else identity.private_key,
            members=tuple(self.member(entry) for entry in self.members),
            departed=self.departed,
            master_salt=self.material.master_salt,
            credential=None if identity is None else identity.credential,
            successive=successive,
            ids_kept=self.ids_kept,
        )
        return GroupConfiguration(
            name=self.name,
            profile=p.profile,
            addresses=self.addresses,
            roles=self.roles,
            epochs=(epoch,),
            policy=self.policy,
            aead=p.aead,
            kdf=p.kdf,
            signature=p.signature,
            manager_credential=p.manager_credential,
            group_encryption=p.group_encryption,
            key_agreement=p.key_agreement,
            sign_protected=p.sign_protected,
        )

    def member(self, entry: MemberEntry) -> Member:
        """A member as endpoints take it; for people it has at least its Endpoint ID as name."""
        credential = Credential(self.material.credential_kind, entry.credential)
        return Member(entry.endpoint_id, entry.name or entry.endpoint_id.hex(), entry.roles, credential)

    def knows(self, endpoint_id: bytes) -> bool:
        """Whether the credential of this member is at hand."""
        return any(entry.endpoint_id == endpoint_id for entry in self.members)

    def with_members(self, entries: Iterable[MemberEntry]) -> GroupState:
        """With these members in addition, or instead of those that had their Endpoint IDs. Who has no usable
        credential is left out; so is this member itself."""
        found = {entry.endpoint_id: entry for entry in self.members}
        found |= {entry.endpoint_id: entry for entry in entries if self._usable(entry)}
        if self.endpoint_id is not None:
            found.pop(self.endpoint_id, None)
        return replace(self, members=tuple(found.values()), departed=self.departed - found.keys())

    def _usable(self, entry: MemberEntry) -> bool:
        credential = Credential(self.material.credential_kind, entry.credential)
        try:
            credential.public_key(self.parameters.signature)
            self.parameters.authenticated(credential)
        except MisuseError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Install:
    """A renewal. `successive`: the one after that of before, learnt from a rekey message. `missing`: there are
    members that the new state knows nothing of."""

    state: GroupState
    successive: bool
    missing: bool


@dataclass(frozen=True, slots=True)
class Refresh:
    """The same renewal, said in full. `renewed_id`: this member has another Endpoint ID under the same Gid."""

    state: GroupState
    renewed_id: bool


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing is to be done. `present`: because it is installed already."""

    why: str
    present: bool = False


@dataclass(frozen=True, slots=True)
class CatchUp:
    """The manager is to be asked. `patient`: but only if no rekey message comes within the next seconds. `reload`:
    it has said so itself, since a rekey message does not say what else has changed."""

    why: str
    patient: bool = False
    reload: bool = False


@dataclass(frozen=True, slots=True)
class Rejoin:
    """The manager does not know this member any more, or is another incarnation: it has to join again."""

    why: str


Decision = Install | Ignore | CatchUp


# ---- rekey messages


def concerns(state: GroupState, data: bytes) -> bool:
    """Whether these bytes could be an envelope of a later renewal of this group. That costs little to say, and what
    could not be needs no rate."""
    if state.admin is None:
        return False
    try:
        envelope = parse_envelope(data)
        num = envelope.num(state.admin.aead)
    except Rejected:
        return False
    tags = {key.kid[:TAG_LENGTH] for key in state.admin.keys}
    return num > state.num and envelope.kid[:TAG_LENGTH] in tags


def take_envelope(state: GroupState, data: bytes, points: CodePoints = DEFAULT_CODE_POINTS) -> Decision:
    """An envelope has come by multicast. In this order: is its key one of ours, is it of the next renewal, is it
    countersigned by the manager, can it be decrypted. Until the third nothing of it is authentic."""
    if state.admin is None:
        return Ignore("no administrative keys here")
    try:
        envelope = parse_envelope(data)
        num = envelope.num(state.admin.aead)
    except Rejected as rejected:
        return Ignore(str(rejected))
    key = next((key for key in state.admin.keys if key.kid == envelope.kid), None)
    if key is None:
        return _under_another_key(state, envelope, num)
    if num != state.num + 1:
        return CatchUp(f"renewal {num} after {state.num}") if num > state.num else Ignore("of an earlier renewal")
    return _open(state, state.admin, envelope, key, num, points)


def _under_another_key(state: GroupState, envelope: Envelope, num: int) -> Decision:
    """For another part of the tree, or for who has the keys of a renewal that was missed here."""
    tags = {key.kid[:TAG_LENGTH] for key in state.admin.keys} if state.admin is not None else set()
    if num <= state.num or envelope.kid[:TAG_LENGTH] not in tags:
        return Ignore("under a key that is not known here")
    return CatchUp(f"others get renewal {num}", patient=num == state.num + 1)


def _open(
    state: GroupState, admin: AdminKeys, envelope: Envelope, key: AdminKey, num: int, points: CodePoints
) -> Decision:
    manager = state.parameters.manager_credential
    if manager is None:
        return Ignore("the manager's key is not known")
    try:
        public_key = manager.public_key(state.parameters.signature)
        plaintext = envelope.open(key, admin.aead, admin.base_iv, public_key)
        message = RekeyMessage.parse(plaintext, points, state.seed)
    except MisuseError as error:
        return Ignore(str(error))
    except Rejected as rejected:
        # Countersigned, so there is a newer renewal, whatever it is; but anybody could change the Partial IV.
        if rejected.reason is Reason.DECRYPTION_FAILED:
            return CatchUp("a rekey message that cannot be decrypted")
        return Ignore(str(rejected))
    if message.num != num:
        return CatchUp("a rekey message with another number than its envelope's")
    return _install(state, message, key)


def take_message(state: GroupState, message: RekeyMessage) -> Decision:
    """A rekey message has come over the association, with all of this member's administrative keys."""
    if (message.num, message.gid) == (state.num, state.gid):
        return Ignore("installed already", present=True)
    if message.num <= state.num:
        return Ignore("of an earlier renewal")
    if message.reload:
        return CatchUp("the group's parameters have changed", reload=True)
    if message.num > state.num + 1:
        return CatchUp(f"renewal {message.num} after {state.num}")
    return _install(state, message, None)


def _install(state: GroupState, message: RekeyMessage, under: AdminKey | None) -> Decision:
    """The next renewal, from an authentic message. `under`: the key that protected it, None: the association."""
    if message.reload:
        return CatchUp("the group's parameters have changed", reload=True)
    if message.gid == state.gid:
        return CatchUp("a renewal without a new Gid")
    if state.endpoint_id is not None and state.endpoint_id in message.stale:
        return CatchUp("this member has another Endpoint ID now")
    try:
        admin = _renewed_keys(state.admin, message.admin, under)
        state.parameters.common_context(message.gid, message.master_secret, message.master_salt)
    except (Rejected, MisuseError) as problem:
        return CatchUp(str(problem))
    material = replace(
        state.material, gid=message.gid, master_secret=message.master_secret, master_salt=message.master_salt
    )
    after = replace(
        state,
        material=material,
        num=message.num,
        lifetime=message.expires_in,
        admin=admin,
        roster=message.roster,
        members=_without(state.members, message.stale),
        departed=message.stale,
        ids_kept=True,
    ).with_members(message.joined or ())
    listed = len(message.joined or ())
    return Install(after, True, _missing(state, message.roster, message.stale, listed))


def _without(members: Iterable[MemberEntry], stale: frozenset[bytes]) -> tuple[MemberEntry, ...]:
    return tuple(entry for entry in members if entry.endpoint_id not in stale)


def _missing(before: GroupState, roster: int, stale: frozenset[bytes], listed: int) -> bool:
    """Whether somebody has come, or got another Endpoint ID, without being listed: every stale Endpoint ID is one
    member less, so that whatever is more than that and those listed is somebody."""
    return roster > before.roster - len(stale) + listed


def _renewed_keys(held: AdminKeys | None, new: AdminKeys | None, under: AdminKey | None) -> AdminKeys | None:
    """This member's path after a rekey message: the old one as far as the key that protected the message, then the
    keys in it, which go up to the root; what stood above is void (see `manager.rekey.model.Wrap`). Over the
    association the message has the whole path. `Rejected` (malformed) if a key is older than one that is held, or
    the path does not end at the root."""
    if new is None or held is None:
        if under is not None and new is None:
            raise Rejected(Reason.MALFORMED, "no new root key in a rekey message")
        return held if new is None else new
    if new.aead.number != held.aead.number:
        raise Rejected(Reason.MALFORMED, "administrative keys for another algorithm")
    generations = {key.node: key.generation for key in held.keys}
    if any(key.generation < generations.get(key.node, 0) for key in new.keys):
        raise Rejected(Reason.MALFORMED, "an administrative key older than the one held")
    if under is None:
        return new
    below = held.keys[: held.keys.index(under) + 1]
    nodes = {key.node for key in new.keys}
    path = (*(key for key in below if key.node not in nodes), *new.keys)
    if path[-1].node != ROOT:
        raise Rejected(Reason.MALFORMED, "administrative keys that do not end at the root")
    return replace(new, keys=path)


# ---- reports


def joined(
    name: str, node: str, roles: frozenset[Role], report: KeyReport, manager: Credential, before: GroupState | None
) -> GroupState:
    """The state of who has joined. `manager`: its credential, once it has proved that it is its own. `before`: what
    this device knew of the group, which holds no more: Endpoint IDs may be others' now. `Rejected` (malformed) if
    the report does not fit together."""
    state = _reported(name, node, roles, report, manager)
    known = frozenset() if before is None else _all_ids(before)
    if state.endpoint_id is not None:
        known -= {state.endpoint_id}
    return replace(state, departed=known, ids_kept=False).with_members(report.members or ())


def take_report(
    state: GroupState, report: KeyReport, stale: frozenset[bytes] | None
) -> Install | Refresh | Ignore | Rejoin:
    """The manager's answer to who wanted to catch up. `stale`: Endpoint IDs that ceased to be active since the
    renewal of `state`; None: the manager cannot say, so that all members known so far have to go. `Rejected`
    (malformed) if the report does not fit together."""
    manager = state.parameters.manager_credential
    if report.incarnation != state.incarnation:
        return Rejoin("the Group Manager has been restored")
    if report.num < state.num or manager is None:
        return Ignore(f"the manager is at renewal {report.num}, before {state.num}")
    if report.manager_credential not in (None, manager):
        raise Rejected(Reason.MALFORMED, "the manager has another credential")
    fresh = _reported(state.name, state.node, state.roles, report, manager)
    if report.num == state.num:
        if fresh.gid != state.gid:
            return Rejoin("another Gid for the same renewal")
        # What nobody says in a report stays; the roster that members were counted by belongs to these members.
        kept = replace(
            fresh,
            members=state.members,
            departed=state.departed,
            ids_kept=state.ids_kept,
            roster=state.roster,
        )
        return Refresh(kept.with_members(()), fresh.endpoint_id != state.endpoint_id)
    gone = _all_ids(state) if stale is None else stale
    own = frozenset() if fresh.endpoint_id is None else frozenset({fresh.endpoint_id})
    after = replace(
        fresh,
        members=() if stale is None else _without(state.members, gone),
        departed=gone - own,
        ids_kept=stale is not None,
    ).with_members(report.members or ())
    missing = stale is None or _missing(state, report.roster, stale, 0)
    return Install(after, False, missing)


def _all_ids(state: GroupState) -> frozenset[bytes]:
    return frozenset(entry.endpoint_id for entry in state.members)


def _reported(name: str, node: str, roles: frozenset[Role], report: KeyReport, manager: Credential) -> GroupState:
    material = report.material
    parameters = replace(material.parameters, manager_credential=manager)
    pure = roles == {Role.PURE_LISTENER}
    if (material.endpoint_id is None) != pure:
        raise Rejected(Reason.MALFORMED, "an Endpoint ID for a pure listener, or none for another member")
    if not report.addresses:
        raise Rejected(Reason.MALFORMED, "a group without multicast addresses")
    try:
        parameters.common_context(material.gid, material.master_secret, material.master_salt)
        expected = envelope_algorithm(parameters).number
    except MisuseError as error:
        raise Rejected(Reason.MALFORMED, str(error)) from None
    if report.admin is not None and report.admin.aead.number != expected:
        raise Rejected(Reason.MALFORMED, "administrative keys for another algorithm than the group's")
    control = None if report.control_group is None else control_group_address(report.control_group)
    return GroupState(
        name=name,
        node=node,
        roles=roles,
        material=replace(material, parameters=parameters),
        num=report.num,
        lifetime=report.expires_in,
        scheme=report.scheme,
        admin=report.admin,
        control_group=control,
        policy=report.policy,
        check_interval=report.check_interval,
        addresses=report.addresses,
        incarnation=report.incarnation,
        roster=report.roster,
        confirm_within=report.confirm_within,
    )
