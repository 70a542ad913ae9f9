"""A group as one endpoint knows it, in a file: algorithms, addresses, policy, and its epochs with their members.

The file holds Master Secrets. The endpoint's private key is not in it but in the identity file that it names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from ..core.contexts import CommonContext
from ..core.policy import GroupPolicy, Verification, profile_by_name
from ..core.profile import Mode
from ..core.synchronization import Method, SynchronizationPolicy
from ..cose.algorithms import AeadAlgorithm, aead_algorithm, encryption_algorithm, kdf_by_name, key_agreement
from ..cose.credentials import Credential
from ..cose.keys import SignatureAlgorithm, signature_algorithm
from ..errors import MisuseError
from ..membership import COAP_PORT, Epoch, GroupAddress, GroupConfiguration, Member, Role, SecurityParameters
from ..secret import Secret
from .documents import DocumentKind, Field, Json, read_document, write_document
from .identity import (
    IDENTITY_FILE,
    DeviceIdentity,
    credential_json,
    load_identity,
    read_credential,
    read_opaque_credential,
)

GROUP_SUFFIX = ".group.json"
"""What the name of every group file ends in."""

EVICTED_SUFFIX = ".evicted"
"""What that name gets in addition when the device is evicted, so that it does not come back."""

MIN_MASTER_SECRET = 16
"""Bytes of a Master Secret at least: as many as the shortest key derived from it."""

KIND = DocumentKind("groupcoap-group", 1)


@dataclass(frozen=True, slots=True)
class GroupFile:
    """A group file that has been read: the group, and the identity that it names (None: a pure listener's)."""

    path: Path
    configuration: GroupConfiguration
    identity: DeviceIdentity | None


def parse_address(text: str) -> GroupAddress:
    """A multicast address as `224.0.1.187`, `224.0.1.187:5683`, `ff05::fd`, `[ff05::fd]` or `[ff05::fd]:5683`.
    `MisuseError` if it is not one."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise MisuseError(f"{text!r} is not an address; write [ff05::fd] or [ff05::fd]:5683")
        port = port[1:] if port else ""
        if text.endswith(":"):
            raise MisuseError(f"{text!r} has no port behind the colon")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise MisuseError(f"{text!r} has no port behind the colon")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise MisuseError(f"{port!r} is not a UDP port")
    return GroupAddress(_host(host, text), int(port) if port else COAP_PORT)


def _host(host: str, text: str) -> IPv4Address | IPv6Address:
    try:
        if ":" not in host:
            return IPv4Address(host)
        address = IPv6Address(host)
    except AddressValueError:
        raise MisuseError(f"{text!r} is not an IPv4 or IPv6 address") from None
    if address.scope_id is not None:
        raise MisuseError(f"{text!r} names an interface; leave it out, endpoints choose their own")
    return address


def load_group(path: Path) -> GroupConfiguration:
    """The group in this file, with the private key from the identity file it names. `FileFault` if any of it
    cannot be used."""
    return read_group(path).configuration


def read_group(path: Path) -> GroupFile:
    """As `load_group`, with the identity."""
    document = read_document(path, KIND)
    members = document.members(
        ("name", "profile", "aead", "kdf", "signature", "roles", "addresses", "policy", "epochs"),
        ("identity", *OPTIONAL_PARAMETERS),
    )
    roles = _roles(members["roles"])
    identity = None if roles == {Role.PURE_LISTENER} else _identity(path, members.get("identity"))
    algorithms = read_parameters(members)
    if identity is not None and identity.signature != algorithms.signature:
        members["signature"].fault(f"the identity has a key for {identity.signature.name} instead")
    epochs = tuple(_epoch(entry, algorithms, identity) for entry in members["epochs"].items(at_least=1))
    if len({epoch.gid for epoch in epochs}) != len(epochs):
        members["epochs"].fault("two epochs have the same Gid")
    with document.refusing():
        configuration = GroupConfiguration(
            name=members["name"].text(),
            profile=algorithms.profile,
            addresses=read_addresses(members["addresses"]),
            roles=roles,
            epochs=epochs,
            policy=read_policy(members["policy"]),
            **_given(algorithms),
        )
    return GroupFile(path, configuration, identity)


def save_group(
    path: Path, configuration: GroupConfiguration, *, identity: str = IDENTITY_FILE, overwrite: bool = False
) -> None:
    """Write a group file of mode 0600; `identity` is the identity file's path as seen from it. `FileFault` if it
    exists (without `overwrite`) or cannot be written."""
    pure = configuration.roles == {Role.PURE_LISTENER}
    body: Json = {
        "name": configuration.name,
        **({} if pure else {"identity": identity}),
        **parameters_json(configuration.parameters),
        "roles": _roles_json(configuration.roles),
        "addresses": [str(address) for address in configuration.addresses],
        "policy": policy_json(configuration.policy),
        "epochs": [_epoch_json(epoch) for epoch in configuration.epochs],
    }
    write_document(path, KIND, body, replace=overwrite)


def shared_json(group: GroupConfiguration, epoch: Epoch) -> Json:
    """What is the same at every member under one of the group's epochs, keys included: a line of a key log."""
    shared = _epoch_json(epoch)
    del shared["own_id"]
    return {
        "group": group.name,
        **parameters_json(group.parameters),
        "addresses": [str(address) for address in group.addresses],
        **shared,
    }


def read_shared(entry: Field) -> GroupConfiguration:
    """What `shared_json` has made, as it is to a pure listener. `FileFault` if it cannot be used."""
    epoch_names = ("gid", "master_secret", "members", "departed")
    members = entry.members(
        ("group", "profile", "aead", "kdf", "signature", "addresses", *epoch_names),
        ("master_salt", *OPTIONAL_PARAMETERS),
    )
    algorithms = read_parameters(members)
    shared = {name: members[name].value for name in (*epoch_names, "master_salt") if name in members}
    epoch = _epoch(replace(entry, value={**shared, "own_id": None}), algorithms, None)
    with entry.refusing():
        return GroupConfiguration(
            name=members["group"].text(),
            profile=algorithms.profile,
            addresses=read_addresses(members["addresses"]),
            roles=frozenset({Role.PURE_LISTENER}),
            epochs=(epoch,),
            **_given(algorithms),
        )


OPTIONAL_PARAMETERS = ("group_encryption", "key_agreement", "sign_protected", "manager_credential")
"""What a file has of `parameters_json` only where the profile has it too."""


def _given(parameters: SecurityParameters) -> dict[str, Any]:
    """As arguments of a `GroupConfiguration`, but the profile."""
    given = {field.name: getattr(parameters, field.name) for field in fields(parameters)}
    del given["profile"]
    return given


def read_parameters(members: dict[str, Field]) -> SecurityParameters:
    """What `parameters_json` has made, from among these members. `FileFault` if the profile has no such thing."""
    with members["profile"].refusing():
        profile = profile_by_name(members["profile"].text())
    aead: AeadAlgorithm | None = None
    if members["aead"].value is not None or not profile.rules.pairwise:
        with members["aead"].refusing():
            aead = aead_algorithm(members["aead"].integer())
    with members["kdf"].refusing():
        kdf = kdf_by_name(members["kdf"].text())
    with members["signature"].refusing():
        signature = signature_algorithm(members["signature"].integer())
    parameters = SecurityParameters(profile, aead, kdf, signature)
    if not profile.rules.pairwise:
        for name in ("group_encryption", "key_agreement", "sign_protected"):
            if name in members:
                members[name].fault(f"is nothing that {profile.name} has")
    if "group_encryption" in members:
        with members["group_encryption"].refusing():
            encryption = encryption_algorithm(members["group_encryption"].integer())
        parameters = replace(parameters, group_encryption=encryption)
    if "key_agreement" in members:
        with members["key_agreement"].refusing():
            agreement = key_agreement(members["key_agreement"].integer())
        parameters = replace(parameters, key_agreement=agreement)
    if "sign_protected" in members:
        parameters = replace(parameters, sign_protected=members["sign_protected"].boolean())
    if "manager_credential" in members:
        parameters = replace(parameters, manager_credential=_manager(members["manager_credential"], parameters))
    elif profile.rules.binds_credentials:
        needed = "needs a 'manager_credential', that of its Group Manager, which every message is bound to"
        members["profile"].fault(f"{profile.name} {needed}; restore it from a copy, or provision the group anew")
    return parameters


def parameters_json(parameters: SecurityParameters) -> Json:
    """A group's algorithms and its Group Manager's credential, as members of a document."""
    agreement, manager = parameters.key_agreement, parameters.manager_credential
    encryption = parameters.group_encryption
    return {
        "profile": parameters.profile.name,
        "aead": None if parameters.aead is None else parameters.aead.number,
        **({} if encryption is None else {"group_encryption": encryption.number}),
        "kdf": parameters.kdf.value,
        "signature": parameters.signature.number,
        **({} if agreement is None else {"key_agreement": agreement.number}),
        **({} if parameters.sign_protected else {"sign_protected": False}),
        **({} if manager is None else {"manager_credential": credential_json(manager)}),
    }


def _manager(entry: Field, parameters: SecurityParameters) -> Credential:
    """The Group Manager's credential. Its key may be of another algorithm than the members': where messages are
    bound to it, it is opaque (Group OSCORE §2.1.6)."""
    if not parameters.profile.rules.binds_credentials:
        return usable_credential(entry, parameters)
    credential = read_opaque_credential(entry)
    with entry.refusing():
        parameters.authenticated(credential)
    return credential


def usable_credential(entry: Field, parameters: SecurityParameters) -> Credential:
    """A credential that is usable in the group."""
    credential = read_credential(entry, parameters.signature)
    with entry.refusing():
        parameters.authenticated(credential)
    return credential


def _identity(path: Path, entry: Field | None) -> DeviceIdentity:
    name = IDENTITY_FILE if entry is None else entry.text()
    if entry is not None and Path(name).is_absolute():
        entry.fault("must be a path relative to this file")
    return load_identity(path.parent / name)


def _roles(entry: Field) -> frozenset[Role]:
    return frozenset(item.choice(Role) for item in entry.items(at_least=1))


def _roles_json(roles: frozenset[Role]) -> list[str]:
    return [role.value for role in Role if role in roles]


def read_addresses(entry: Field) -> tuple[GroupAddress, ...]:
    """A group's multicast addresses. `FileFault` if there is none, or one stands there twice."""
    addresses = []
    for item in entry.items(at_least=1):
        with item.refusing():
            addresses.append(parse_address(item.text()))
    if len(set(addresses)) != len(addresses):
        entry.fault("the same address stands here twice")
    return tuple(addresses)


def read_policy(entry: Field) -> GroupPolicy:
    """What `policy_json` has made."""
    members = entry.members(
        ("synchronization", "verification", "grace", "max_unfragmented_size"), ("response_mode",)
    )
    synchronization = read_synchronization(members["synchronization"])
    with entry.refusing():
        return GroupPolicy(
            synchronization=synchronization,
            verification=members["verification"].choice(Verification),
            response_mode=members["response_mode"].choice(Mode) if "response_mode" in members else None,
            grace=members["grace"].seconds(),
            max_unfragmented_size=members["max_unfragmented_size"].integer(),
        )


def read_synchronization(entry: Field) -> SynchronizationPolicy:
    """What `synchronization_json` has made."""
    members = entry.members(("method", "challenge_lifetime", "rechallenge_after", "repeat_length"), ("max_gap",))
    with entry.refusing():
        return SynchronizationPolicy(
            method=members["method"].choice(Method),
            challenge_lifetime=members["challenge_lifetime"].seconds(),
            rechallenge_after=members["rechallenge_after"].seconds(),
            repeat_length=members["repeat_length"].integer(),
            max_gap=members["max_gap"].integer() if "max_gap" in members else None,
        )


def policy_json(policy: GroupPolicy) -> Json:
    """A group's policy, as it stands in documents."""
    return {
        "synchronization": synchronization_json(policy.synchronization),
        "verification": policy.verification.value,
        **({} if policy.response_mode is None else {"response_mode": policy.response_mode.value}),
        "grace": policy.grace,
        "max_unfragmented_size": policy.max_unfragmented_size,
    }


def synchronization_json(policy: SynchronizationPolicy) -> Json:
    """How it is synchronized, as it stands in documents."""
    return {
        "method": policy.method.value,
        "challenge_lifetime": policy.challenge_lifetime,
        "rechallenge_after": policy.rechallenge_after,
        "repeat_length": policy.repeat_length,
        **({} if policy.max_gap is None else {"max_gap": policy.max_gap}),
    }


def _epoch(entry: Field, parameters: SecurityParameters, identity: DeviceIdentity | None) -> Epoch:
    fields = entry.members(("gid", "master_secret", "own_id", "members", "departed"), ("master_salt",))
    gid = fields["gid"].hex(parameters.profile.rules.min_gid)
    secret = Secret(fields["master_secret"].hex(MIN_MASTER_SECRET, 255))
    salt = fields["master_salt"].hex(1, 255) if "master_salt" in fields else b""
    with fields["gid"].refusing():
        common = parameters.common_context(gid, secret, salt)
    own_id = None if fields["own_id"].value is None else _endpoint_id(fields["own_id"], common)
    if (own_id is None) != (identity is None):
        fields["own_id"].fault("must be null for a pure listener, and for nobody else")
    members = _members(fields["members"], common, parameters)
    departed = frozenset(_endpoint_id(item, common) for item in fields["departed"].items())
    ids = {member.endpoint_id for member in members} | ({own_id} if own_id is not None else set())
    if ids & departed:
        fields["departed"].fault("names an Endpoint ID that is a member's")
    for item, member in zip(fields["members"].items(), members, strict=True):
        if identity is not None and member.endpoint_id == own_id:
            _check_own(item, member, identity, parameters.signature)
    private_key = None if identity is None else identity.private_key
    credential = _own_credential(own_id, members, identity)
    if credential is not None:
        with fields["own_id"].refusing():
            parameters.authenticated(credential)
    if parameters.profile.rules.binds_credentials:
        own = () if credential is None else (("this device", credential),)
        with fields["members"].refusing():
            check_formats((*((member.name, member.credential) for member in members), *own))
    return Epoch(gid, secret, own_id, private_key, members, departed, salt, credential)


def check_formats(credentials: Iterable[tuple[str, Credential]]) -> None:
    """Whether these (whose, credential) are all of one format, as those of a group's members must be (Group OSCORE
    §2.4). `MisuseError` otherwise."""
    first: tuple[str, Credential] | None = None
    for name, credential in credentials:
        first = first or (name, credential)
        if credential.kind is not first[1].kind:
            one, other = f"{first[0]} has {first[1].kind.value}", f"{name} has {credential.kind.value}"
            raise MisuseError(f"all members of a group have credentials of one format, but {one} and {other}")


def _own_credential(
    own_id: bytes | None, members: tuple[Member, ...], identity: DeviceIdentity | None
) -> Credential | None:
    """As the others in the group know it, which may be another than the identity's own."""
    own = next((member.credential for member in members if member.endpoint_id == own_id), None)
    return own or (None if identity is None else identity.credential)


def _check_own(entry: Field, member: Member, identity: DeviceIdentity, algorithm: SignatureAlgorithm) -> None:
    if member.credential.public_key(algorithm).data != identity.private_key.public_key.data:
        entry.fault("has this endpoint's own Endpoint ID but another public key than its identity file")


def _members(entry: Field, common: CommonContext, parameters: SecurityParameters) -> tuple[Member, ...]:
    members: dict[bytes, Member] = {}
    keys: dict[bytes, str] = {}
    for item in entry.items():
        member = _member(item, common, parameters)
        if member.endpoint_id in members:
            item.fault(f"Endpoint ID {member.endpoint_id.hex()!r} stands here twice")
        key = member.credential.public_key(parameters.signature).data
        if key in keys and parameters.profile.rules.binds_credentials:  # which knows members by their keys
            item.fault(f"has the same key as {keys[key]!r}, and either could speak in the other's name")
        keys[key] = member.name
        members[member.endpoint_id] = member
    return tuple(members.values())


def _member(entry: Field, common: CommonContext, parameters: SecurityParameters) -> Member:
    fields = entry.members(("id", "name", "roles", "credential"))
    roles = _roles(fields["roles"])
    if roles == {Role.PURE_LISTENER}:
        fields["roles"].fault("who is a pure listener and nothing else has no Endpoint ID, so it is not listed")
    if {Role.PURE_LISTENER, Role.LISTENER} <= roles:
        fields["roles"].fault("a pure listener is no listener that responds")
    credential = usable_credential(fields["credential"], parameters)
    return Member(_endpoint_id(fields["id"], common), fields["name"].text(), roles, credential)


def _endpoint_id(entry: Field, common: CommonContext) -> bytes:
    endpoint_id = entry.hex()
    with entry.refusing():
        common.check_id(endpoint_id)
    return endpoint_id


def _epoch_json(epoch: Epoch) -> Json:
    return {
        "gid": epoch.gid.hex(),
        "master_secret": epoch.master_secret.reveal().hex(),
        **({"master_salt": epoch.master_salt.hex()} if epoch.master_salt else {}),
        "own_id": None if epoch.own_id is None else epoch.own_id.hex(),
        "members": [_member_json(member) for member in epoch.members],
        "departed": sorted(endpoint_id.hex() for endpoint_id in epoch.departed),
    }


def _member_json(member: Member) -> Json:
    return {
        "id": member.endpoint_id.hex(),
        "name": member.name,
        "roles": _roles_json(member.roles),
        "credential": credential_json(member.credential),
    }
