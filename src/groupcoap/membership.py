"""What an endpoint knows of its groups, and where it learns it: values, events, and the source's interface.

A group is its name. Its Security Contexts come and go as epochs, each with its own Gid. Endpoints take both from a
`MembershipSource`: a provisioned file is one, a Group Manager's client is another; nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from .core.contexts import CommonContext
from .core.policy import GroupPolicy, Verification
from .core.profile import Profile
from .cose.algorithms import DEFAULT_AEAD, AeadAlgorithm, EncryptionAlgorithm, Kdf, KeyAgreement
from .cose.credentials import Credential
from .cose.keys import DEFAULT_SIGNATURE, PrivateKey, SignatureAlgorithm
from .errors import MisuseError
from .secret import Secret

COAP_PORT = 5683


class Role(Enum):
    """What a member does in a group (draft §1.1); the value is the name used in files. A pure listener never
    responds nor challenges. If it is a multicaster too it has an Endpoint ID, which others know as a sender's."""

    MULTICASTER = "multicaster"
    LISTENER = "listener"
    PURE_LISTENER = "pure listener"

    __hash__ = object.__hash__  # they are in sets everywhere, and Enum's own costs more than what is done with them


@dataclass(frozen=True, slots=True)
class GroupAddress:
    """A multicast address of a group, with its UDP port."""

    host: IPv4Address | IPv6Address
    port: int = COAP_PORT

    def __post_init__(self) -> None:
        if not self.host.is_multicast:
            raise MisuseError(f"{self.host} is not a multicast address")
        if not 0 < self.port < 65536:
            raise MisuseError(f"{self.port} is not a UDP port")

    @property
    def packed(self) -> bytes:
        return self.host.packed

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return host if self.port == COAP_PORT else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the others know it. `name` is for people; the Endpoint ID is what counts on the wire."""

    endpoint_id: bytes
    name: str
    roles: frozenset[Role]
    credential: Credential


@dataclass(frozen=True, slots=True)
class Epoch:
    """One Security Context of a group as one endpoint gets it.

    `own_id`: this endpoint's Endpoint ID, None for a pure listener. `private_key`, `credential`: this endpoint's,
    None likewise. `members`: whose credentials are at hand (this endpoint itself may be among them). `departed`:
    Endpoint IDs that have left: they must not be taken for members any more in the Security Contexts before this,
    nor in this one if they are in `refused`. `master_salt`: of Group OSCORE, may be empty.

    `successive`: whether this directly follows what was installed before, so that who was synchronized stays so;
    False if some renewals were missed, None if only the Gid tells. `ids_kept`: whether who is a member still has
    the Endpoint ID it had then: credentials that were looked up under the Gid before stay known."""

    gid: bytes
    master_secret: Secret
    own_id: bytes | None
    private_key: PrivateKey | None
    members: tuple[Member, ...]
    departed: frozenset[bytes] = frozenset()
    master_salt: bytes = b""
    credential: Credential | None = None
    successive: bool | None = None
    ids_kept: bool = False

    def __post_init__(self) -> None:
        if (self.own_id is None) != (self.private_key is None):
            raise MisuseError("an endpoint has both an Endpoint ID and a private key, or neither (pure listener)")

    @property
    def refused(self) -> frozenset[bytes]:
        """Endpoint IDs that are nobody's in this very Security Context, as far as is known: those that left, and
        that nobody has got since. Where the source knows what it follows (`successive`), any of them may have been
        given to a newcomer: they are looked up like others, and who left does not have the keys."""
        if self.successive is not None:
            return frozenset()
        return self.departed - {member.endpoint_id for member in self.members} - {self.own_id}


@dataclass(frozen=True, slots=True)
class SecurityParameters:
    """What a group's Security Contexts have in common, whatever the epoch: see `core.contexts.CommonContext`.
    `manager_credential`: the Group Manager's own, where there is one."""

    profile: Profile
    aead: AeadAlgorithm | None = DEFAULT_AEAD
    kdf: Kdf = Kdf.HKDF_SHA_256
    signature: SignatureAlgorithm = DEFAULT_SIGNATURE
    group_encryption: EncryptionAlgorithm | None = None
    key_agreement: KeyAgreement | None = None
    sign_protected: bool = True
    manager_credential: Credential | None = None

    @property
    def encryption(self) -> EncryptionAlgorithm:
        """Of messages to the group. `MisuseError` if there is none."""
        encryption = self.group_encryption or self.aead
        if encryption is None:
            raise MisuseError("a group needs an encryption algorithm")
        return encryption

    def common_context(self, gid: bytes, master_secret: Secret, master_salt: bytes = b"") -> CommonContext:
        """The Common Context of an epoch. `MisuseError` if there cannot be one."""
        manager = None if self.manager_credential is None else self.authenticated(self.manager_credential)
        return CommonContext(
            profile=self.profile,
            aead=self.aead,
            kdf=self.kdf,
            signature=self.signature,
            master_secret=master_secret,
            gid=gid,
            group_encryption=self.group_encryption,
            key_agreement=self.key_agreement,
            master_salt=master_salt,
            manager_credential=manager or b"",
            sign_protected=self.sign_protected,
        )

    def authenticated(self, credential: Credential) -> bytes | None:
        """A credential as it enters the AAD; None where the profile binds messages to none. `MisuseError` if it is
        of a kind that cannot."""
        return credential.authenticated if self.profile.rules.binds_credentials else None


@dataclass(frozen=True, slots=True)
class GroupConfiguration:
    """A group as one endpoint knows it. `epochs`: live Security Contexts, the current one last. The algorithms and
    `manager_credential` are those of `SecurityParameters`."""

    name: str
    profile: Profile
    addresses: tuple[GroupAddress, ...]
    roles: frozenset[Role]
    epochs: tuple[Epoch, ...]
    policy: GroupPolicy = field(default_factory=GroupPolicy)
    aead: AeadAlgorithm | None = DEFAULT_AEAD
    kdf: Kdf = Kdf.HKDF_SHA_256
    signature: SignatureAlgorithm = DEFAULT_SIGNATURE
    manager_credential: Credential | None = None
    group_encryption: EncryptionAlgorithm | None = None
    key_agreement: KeyAgreement | None = None
    sign_protected: bool = True

    def __post_init__(self) -> None:
        if not self.name or not self.addresses or not self.epochs or not self.roles:
            raise MisuseError("a group has a name, multicast addresses, roles and at least one epoch")
        pure = self.roles == {Role.PURE_LISTENER}
        if {Role.PURE_LISTENER, Role.LISTENER} <= self.roles:
            raise MisuseError("a pure listener is no listener that responds")
        if any((epoch.own_id is None) != pure for epoch in self.epochs):
            raise MisuseError("exactly who is a pure listener and nothing else has no Endpoint ID")
        if self.profile.rules.signature_first and self.policy.verification is not Verification.ALWAYS:
            raise MisuseError(f"{self.profile.name} has its countersignatures always verified")

    @property
    def current(self) -> Epoch:
        return self.epochs[-1]

    @property
    def parameters(self) -> SecurityParameters:
        """The group's algorithms and its Group Manager's credential."""
        return SecurityParameters(
            self.profile,
            self.aead,
            self.kdf,
            self.signature,
            self.group_encryption,
            self.key_agreement,
            self.sign_protected,
            self.manager_credential,
        )

    def common_context(self, epoch: Epoch) -> CommonContext:
        """The Common Context of one of its epochs. `MisuseError` if there cannot be one."""
        return self.parameters.common_context(epoch.gid, epoch.master_secret, epoch.master_salt)


@dataclass(frozen=True, slots=True)
class EpochInstalled:
    """A renewal: `configuration.current` is the new Security Context."""

    configuration: GroupConfiguration


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """These Endpoint IDs are no longer members under this Gid."""

    group: str
    gid: bytes
    endpoint_ids: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class CredentialLearned:
    """A member's credential has become known under this Gid."""

    group: str
    gid: bytes
    member: Member


@dataclass(frozen=True, slots=True)
class EndpointIdRenewed:
    """This endpoint has another Endpoint ID under the same Gid: `configuration.current` is the Security Context as
    before but for `own_id`. Own sequence numbers begin anew under the new Sender Key; nobody takes messages under
    the former Endpoint ID any more."""

    configuration: GroupConfiguration


@dataclass(frozen=True, slots=True)
class GroupSuspended:
    """The group's Security Context is past its lifetime: until it is confirmed (`GroupResumed`, or a renewal)
    nothing is sent under it and nothing accepted. Nothing is forgotten."""

    group: str


@dataclass(frozen=True, slots=True)
class GroupResumed:
    """The group's Security Context has been confirmed: it goes on where it was."""

    group: str


@dataclass(frozen=True, slots=True)
class GroupLeft:
    """This endpoint is no member any more. `why`: for people, a clause ("evicted by the Group Manager")."""

    group: str
    why: str


@dataclass(frozen=True, slots=True)
class GroupJoined:
    """This endpoint has become a member of a group that it was not in, or of one that it had left. Its Security
    Context is one under which this device has never sent anything: run-time state begins with it. (One that was
    kept over a restart is among `MembershipSource.groups`, and needs the state that it had.)"""

    configuration: GroupConfiguration


MembershipEvent = (
    EpochInstalled
    | MemberLeft
    | CredentialLearned
    | EndpointIdRenewed
    | GroupSuspended
    | GroupResumed
    | GroupLeft
    | GroupJoined
)


class MembershipSource(Protocol):
    """Where an endpoint takes its groups from."""

    def groups(self) -> Sequence[GroupConfiguration]:
        """The groups as they are now."""

    def subscribe(self, receive: Callable[[MembershipEvent], None]) -> Callable[[], None]:
        """Call `receive`, on the event loop's thread, for every later change, but not from within this call;
        returns what ends that. What `receive` raises (`GroupcoapError`) is why the change could not be followed."""

    def refresh(self) -> None:
        """Look for changes, unless that was done a moment ago; what is found is told to who has subscribed, now or
        later. Endpoints call it regularly, and when a message comes under a Gid that they do not know: it must be
        cheap. Nothing is raised."""

    async def credential(self, group: str, gid: bytes, endpoint_id: bytes) -> Credential | None:
        """Look up a member's credential; None if there is no such member. May take long or raise
        `EnvironmentFault`: the caller bounds how many are under way and how long it waits."""

    def running_low(self, group: str, gid: bytes, own_id: bytes) -> None:
        """Few sequence numbers are left under this own Endpoint ID: a new one, or a renewal, is needed. Called once
        for each, on the event loop's thread. Must be cheap; nothing is raised."""

    def unknown_gid(self, gid: bytes) -> None:
        """A message has come under a Gid that the endpoint does not know: somebody may have installed a renewal, or
        invented it, for nothing of it is verified. Must be cheap and bound by itself how often it acts on it; it
        takes nothing away. Nothing is raised."""
