"""Making the files of a static group: one directory per device, all of them or none.

DIR/switch-1/identity.json        private key of the device
DIR/switch-1/room.group.json      the group as this device knows it
DIR/switch-1/state.journal        nothing sent, nothing seen
DIR/room.manager.json             who vouches for the group, where its messages are bound to that (Group OSCORE)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..core.contexts import CommonContext
from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.policy import GroupPolicy
from ..core.profile import Profile
from ..cose.algorithms import DEFAULT_AEAD, AeadAlgorithm, EncryptionAlgorithm, Kdf, KeyAgreement
from ..cose.credentials import Credential, CredentialKind, claims_set
from ..cose.keys import DEFAULT_SIGNATURE, SignatureAlgorithm
from ..errors import FileFault, MisuseError
from ..membership import Epoch, GroupAddress, GroupConfiguration, Member, Role, SecurityParameters
from ..secret import Secret
from .atomic import describe, sync_directory
from .documents import MAX_TEXT
from .group import GROUP_SUFFIX, check_formats, save_group
from .identity import IDENTITY_FILE, DeviceIdentity, generate_identity, load_identity, save_identity
from .provisioned import STATE_FILE, state_keys
from .state import EndpointState, extend_unused

PREFIX_LENGTH = 8
EPOCH_LENGTH = 4
MASTER_SECRET_LENGTH = 32
MASTER_SALT_LENGTH = 8
MANAGER_SUFFIX = ".manager.json"
"""What the name of the file with the Group Manager's identity ends in."""
_DIRECTORY_MODE = 0o755  # whatever the umask: who can write there can put other keys in the place of these
_PURE = frozenset({Role.PURE_LISTENER})
_STAGING = ".provisioning-"
_MANAGER = ".manager"  # no device's name begins so


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A group to be made. Its Gid and Master Secret are chosen at random when it is."""

    name: str
    addresses: tuple[GroupAddress, ...]
    policy: GroupPolicy = field(default_factory=GroupPolicy)
    aead: AeadAlgorithm | None = DEFAULT_AEAD
    kdf: Kdf = Kdf.HKDF_SHA_256
    signature: SignatureAlgorithm = DEFAULT_SIGNATURE
    profile: Profile = MULTICAST_OSCORE_04
    group_encryption: EncryptionAlgorithm | None = None
    key_agreement: KeyAgreement | None = None
    sign_protected: bool = True

    def __post_init__(self) -> None:
        check_file_name("group", self.name)
        if not self.addresses:
            raise MisuseError("a group has at least one multicast address")

    def parameters(self, manager: Credential | None) -> SecurityParameters:
        """With the Group Manager's credential, where there is one."""
        return SecurityParameters(
            self.profile,
            self.aead,
            self.kdf,
            self.signature,
            self.group_encryption,
            self.key_agreement,
            self.sign_protected,
            manager,
        )


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A device that is to be a member. `name` is that of its directory.

    `existing`: the directory is there and gets the group in addition. Otherwise it is made, with `identity`, or
    with a new one if that is None; a pure listener needs none."""

    name: str
    roles: frozenset[Role]
    identity: DeviceIdentity | None = None
    existing: bool = False

    def __post_init__(self) -> None:
        check_file_name("device", self.name)
        if not self.roles or {Role.PURE_LISTENER, Role.LISTENER} <= self.roles:
            raise MisuseError(f"{self.name}: a device has roles, and a pure listener is no listener that responds")


@dataclass(frozen=True, slots=True)
class ProvisionedDevice:
    """A member of the group that was made. `endpoint_id` is None for a pure listener."""

    name: str
    roles: frozenset[Role]
    endpoint_id: bytes | None
    directory: Path
    existing: bool


@dataclass(frozen=True, slots=True)
class ProvisionedGroup:
    """The group that was made. `manager`: where the identity of its Group Manager was written, None if there is
    none, or it was there before."""

    plan: GroupPlan
    gid: bytes
    devices: tuple[ProvisionedDevice, ...]
    manager: Path | None = None


@dataclass(frozen=True, slots=True)
class _Device:
    """A device with all that its files need."""

    plan: DevicePlan
    identity: DeviceIdentity | None
    configuration: GroupConfiguration


def check_file_name(kind: str, name: str) -> None:
    """`MisuseError` if a group or device of this name could not have a file or directory of that name."""
    if not name or len(name.encode("utf-8", "replace")) > 100 or not name.isprintable():
        raise MisuseError(f"a {kind}'s name has 1 to 100 printable characters, unlike {name!r}")
    if "/" in name or name.startswith((".", "-")) or name != name.strip():
        raise MisuseError(f"{name!r} cannot be a {kind}'s name, for files are named after it")


def provision(
    directory: Path, plan: GroupPlan, devices: Sequence[DevicePlan], manager: DeviceIdentity | None = None
) -> ProvisionedGroup:
    """Make a group: the directories of its new devices in `directory`, and a group file in those of existing ones.

    `manager`: the Group Manager's identity, where the profile binds messages to it; None: a new one, whose file is
    put beside the devices. `directory` must be empty or missing, unless devices exist in it. Whatever goes wrong,
    nothing is left behind.
    `MisuseError` if the plan is impossible, `FileFault` if files are in the way, missing or cannot be written,
    `StateLocked` if an existing device is running."""
    _check_devices(devices)
    binds = plan.profile.rules.binds_credentials
    new_manager = None
    if binds and manager is None:
        new_manager = generate_identity(f"manager of {plan.name}"[:MAX_TEXT], plan.signature, claims=True)
    _check_directory(directory, devices, None if new_manager is None else _manager_path(directory, plan))
    gid = os.urandom(PREFIX_LENGTH) + bytes(EPOCH_LENGTH)
    made = _configure(directory, plan, devices, gid, _manager_credential(plan, manager or new_manager))
    try:
        with ExitStack() as undo:
            _write(directory, plan, made, new_manager, undo)
            undo.pop_all()
    except OSError as error:
        raise FileFault(directory, f"cannot be provisioned ({describe(error)}); nothing was made") from None
    return ProvisionedGroup(
        plan,
        gid,
        tuple(
            ProvisionedDevice(
                device.plan.name,
                device.plan.roles,
                device.configuration.current.own_id,
                directory / device.plan.name,
                device.plan.existing,
            )
            for device in made
        ),
        None if new_manager is None else _manager_path(directory, plan),
    )


def _manager_path(directory: Path, plan: GroupPlan) -> Path:
    return directory / f"{plan.name}{MANAGER_SUFFIX}"


def _manager_credential(plan: GroupPlan, manager: DeviceIdentity | None) -> Credential | None:
    if manager is None:
        return None
    if not plan.profile.rules.binds_credentials:
        raise MisuseError(f"{plan.profile.name} binds messages to no Group Manager")
    if manager.signature != plan.signature:
        raise MisuseError(
            f"the manager's key is for {manager.signature.name}, the group uses {plan.signature.name}; "
            "choose the signature algorithm accordingly"
        )
    return _credential(plan, manager)


def new_master_salt(profile: Profile) -> bytes:
    """At random, for the profiles that have one."""
    return os.urandom(MASTER_SALT_LENGTH) if profile.rules.binds_credentials else b""


def _check_devices(devices: Sequence[DevicePlan]) -> None:
    names = [device.name for device in devices]
    for name in names:
        if names.count(name) > 1:
            raise MisuseError(f"two devices are called {name!r}; give one of them another name")
    roles = frozenset[Role]().union(*(device.roles for device in devices))
    if Role.MULTICASTER not in roles:
        raise MisuseError("nobody in this group could send a request; add a multicaster")
    if not roles & {Role.LISTENER, Role.PURE_LISTENER}:
        raise MisuseError("nobody in this group would listen; add a listener")


def _check_directory(directory: Path, devices: Sequence[DevicePlan], manager: Path | None) -> None:
    try:
        present = set(os.listdir(directory)) if os.path.lexists(directory) else set()
    except (OSError, ValueError) as error:
        raise FileFault(directory, f"cannot be used ({describe(error)}); choose another directory") from None
    for name in present:
        if name.startswith(_STAGING):
            left = directory / name
            raise FileFault(directory, f"has keys in it that an interrupted provision has left; run: rm -r {left}")
    managers = set() if manager is None else {manager.name} & present
    if present - managers and not any(device.existing for device in devices):
        raise FileFault(directory, "is not empty; choose another one, or let devices that are there --join")
    if managers:
        raise FileFault(
            directory / managers.pop(),
            "exists already, and holds the private key of a group's manager; give the new group another name, or, "
            "if no device is in that group any more, move this file away",
        )
    for device in devices:
        if device.existing and device.name not in present:
            raise FileFault(directory / device.name, "does not exist; only a device that is there can join")
        if not device.existing and device.name in present:
            raise FileFault(directory / device.name, "exists already; let it join, or choose another name")


def _configure(
    directory: Path, plan: GroupPlan, devices: Sequence[DevicePlan], gid: bytes, manager: Credential | None
) -> list[_Device]:
    secret = Secret(os.urandom(MASTER_SECRET_LENGTH))
    salt = new_master_salt(plan.profile)
    identities = [_identity(directory, plan, device) for device in devices]
    ids = _endpoint_ids(plan.parameters(manager).common_context(gid, secret, salt), identities)
    members = tuple(
        Member(endpoint_id, device.name, device.roles, _credential(plan, identity))
        for device, identity, endpoint_id in zip(devices, identities, ids, strict=True)
        if identity is not None and endpoint_id is not None
    )
    _refuse_shared_keys(plan.signature, members)
    if plan.profile.rules.binds_credentials:
        _refuse_mixed_formats(members)
    made = []
    for device, identity, endpoint_id in zip(devices, identities, ids, strict=True):
        key = None if identity is None else identity.private_key
        credential = None if identity is None else _credential(plan, identity)
        epoch = Epoch(gid, secret, endpoint_id, key, members, master_salt=salt, credential=credential)
        made.append(_Device(device, identity, _configuration(plan, device.roles, epoch, manager)))
    return made


def _credential(plan: GroupPlan, identity: DeviceIdentity) -> Credential:
    """As the group is to know it: a raw key is put into a claims set where messages are bound to credentials."""
    if plan.profile.rules.binds_credentials and identity.credential.kind is CredentialKind.RAW_KEY:
        return claims_set(identity.private_key.public_key, identity.signature, identity.name)
    return identity.credential


def _configuration(
    plan: GroupPlan, roles: frozenset[Role], epoch: Epoch, manager: Credential | None
) -> GroupConfiguration:
    return GroupConfiguration(
        name=plan.name,
        profile=plan.profile,
        addresses=plan.addresses,
        roles=roles,
        epochs=(epoch,),
        policy=plan.policy,
        aead=plan.aead,
        kdf=plan.kdf,
        signature=plan.signature,
        manager_credential=manager,
        group_encryption=plan.group_encryption,
        key_agreement=plan.key_agreement,
        sign_protected=plan.sign_protected,
    )


def _identity(directory: Path, plan: GroupPlan, device: DevicePlan) -> DeviceIdentity | None:
    if device.roles == _PURE:
        return None
    if device.existing:
        identity = load_identity(directory / device.name / IDENTITY_FILE)
    else:
        claims = plan.profile.rules.binds_credentials
        identity = device.identity or generate_identity(device.name, plan.signature, claims=claims)
    if identity.signature != plan.signature:
        raise MisuseError(
            f"{device.name} has a key for {identity.signature.name}, the group uses {plan.signature.name}; "
            "choose the signature algorithm accordingly"
        )
    return identity


def _refuse_shared_keys(algorithm: SignatureAlgorithm, members: Sequence[Member]) -> None:
    """Two members with one key could answer in each other's name."""
    seen: dict[bytes, str] = {}
    for member in members:
        key = _public_key(member.credential, algorithm)
        if key in seen:
            raise MisuseError(f"{seen[key]} and {member.name} have the same key; make one of them its own")
        seen[key] = member.name


def _refuse_mixed_formats(members: Sequence[Member]) -> None:
    """Before anything is written: nobody could read such a group's files."""
    try:
        check_formats((member.name, member.credential) for member in members)
    except MisuseError as error:
        raise MisuseError(f"{error}; give every device an identity with a credential of the same") from None


def _public_key(credential: Credential, algorithm: SignatureAlgorithm) -> bytes:
    return credential.public_key(algorithm).data


def _endpoint_ids(common: CommonContext, identities: Sequence[DeviceIdentity | None]) -> list[bytes | None]:
    """Endpoint IDs as short as they can be, all of one length, for those who have an identity."""
    count = sum(identity is not None for identity in identities)
    length = 1 if count <= 0x100 else 2 if count <= 0x10000 else 3
    common.check_id(bytes(length))
    numbers = iter(range(count))
    return [None if identity is None else next(numbers).to_bytes(length, "big") for identity in identities]


def _write(
    directory: Path, plan: GroupPlan, made: Sequence[_Device], manager: DeviceIdentity | None, undo: ExitStack
) -> None:
    """Everything that could fail happens before the first new directory gets its name."""
    _make_directory(directory, undo)
    staging = directory / f"{_STAGING}{os.urandom(6).hex()}"
    os.mkdir(staging)
    undo.callback(shutil.rmtree, staging, ignore_errors=True)
    for device in made:
        if not device.plan.existing:
            _write_new(staging / device.plan.name, plan.name, device)
    if manager is not None:  # before any device has the group: who removes what is staged must not lose this key
        _write_manager(staging / _MANAGER, _manager_path(directory, plan), manager, undo)
    for device in made:
        if device.plan.existing:
            _add_to(directory / device.plan.name, plan.name, device, undo)
    for device in made:
        if not device.plan.existing:
            target = directory / device.plan.name
            os.rename(staging / device.plan.name, target)
            undo.callback(shutil.rmtree, target, ignore_errors=True)
    os.rmdir(staging)
    sync_directory(directory)


def _write_manager(staged: Path, path: Path, manager: DeviceIdentity, undo: ExitStack) -> None:
    """Whole or not at all, and never in the place of another."""
    save_identity(staged, manager)
    os.link(staged, path)
    undo.callback(path.unlink, missing_ok=True)
    sync_directory(path.parent)
    os.unlink(staged)


def _make_directory(directory: Path, undo: ExitStack) -> None:
    with suppress(FileExistsError):
        os.mkdir(directory, _DIRECTORY_MODE)
        undo.callback(_remove_empty, directory)


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):
        os.rmdir(directory)


def _write_new(directory: Path, group: str, device: _Device) -> None:
    os.mkdir(directory, _DIRECTORY_MODE)
    if device.identity is not None:
        save_identity(directory / IDENTITY_FILE, device.identity)
    save_group(directory / f"{group}{GROUP_SUFFIX}", device.configuration)
    EndpointState.create(directory / STATE_FILE, state_keys(device.configuration))


def _add_to(directory: Path, group: str, device: _Device, undo: ExitStack) -> None:
    """The state first: state without a group does no harm, a group without state would not start."""
    path = directory / STATE_FILE
    keys = state_keys(device.configuration)
    report = EndpointState.examine(path)
    if any(key.group == group for key in report.used):
        raise FileFault(directory, f"is in a group {group!r} already; choose another name for the new one")
    if report.never_used:
        extend_unused(report, keys)
        undo.callback(extend_unused, report, ())
    else:
        with EndpointState.open(path) as state:
            for key in keys:
                state.add_key(key.group, key.gid, key.own_id)
            undo.callback(_take_back, path, device.configuration)
    file = directory / f"{group}{GROUP_SUFFIX}"
    save_group(file, device.configuration)
    undo.callback(file.unlink, missing_ok=True)


def _take_back(path: Path, configuration: GroupConfiguration) -> None:
    with EndpointState.open(path) as state:
        state.forget(configuration.name, configuration.current.gid)
