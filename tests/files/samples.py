"""Groups and identities that the tests of files and command line share."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.policy import GroupPolicy, Verification
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.files.group import save_group
from groupcoap.files.identity import DeviceIdentity, generate_identity, save_identity
from groupcoap.membership import Epoch, GroupAddress, GroupConfiguration, Member, Role
from groupcoap.secret import Secret

GID = bytes.fromhex("00112233445566770000000a")
SECRET = bytes(range(16))

SWITCH = generate_identity("switch-1")
LAMP = generate_identity("lamp-1")
MEMBERS = (
    Member(b"\x00", "switch-1", frozenset({Role.MULTICASTER}), SWITCH.credential),
    Member(b"\x01", "lamp-1", frozenset({Role.LISTENER}), LAMP.credential),
)


def epoch(
    identity: DeviceIdentity | None,
    own_id: bytes | None,
    *,
    gid: bytes = GID,
    departed: frozenset[bytes] = frozenset(),
) -> Epoch:
    key = None if identity is None else identity.private_key
    return Epoch(gid, Secret(SECRET), own_id, key, MEMBERS, departed)


def configuration(
    identity: DeviceIdentity | None = LAMP,
    own_id: bytes | None = b"\x01",
    roles: frozenset[Role] = frozenset({Role.LISTENER}),
    name: str = "room",
    gid: bytes = GID,
) -> GroupConfiguration:
    return GroupConfiguration(
        name=name,
        profile=MULTICAST_OSCORE_04,
        addresses=(GroupAddress(ip_address("224.0.1.187")), GroupAddress(ip_address("ff05::fd"), 61616)),
        roles=roles,
        epochs=(epoch(identity, own_id, gid=gid),),
        policy=GroupPolicy(SynchronizationPolicy(Method.BASELINE, max_gap=7), Verification.DEFER, grace=1.5),
    )


def pure_configuration() -> GroupConfiguration:
    return configuration(None, None, frozenset({Role.PURE_LISTENER}))


def lamp_directory(directory: Path) -> Path:
    """A lamp's directory with identity and one group, as provisioning makes it; returns the group file."""
    save_identity(directory / "identity.json", LAMP)
    path = directory / "room.group.json"
    save_group(path, configuration())
    return path
