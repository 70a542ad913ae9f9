"""The group of the demonstration: one switch, some lamps, and a UDP port that no other demonstration uses."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.profile import Profile
from ..cose.algorithms import key_agreement_for
from ..errors import NetworkFault
from ..files.provisioning import DevicePlan, GroupPlan, ProvisionedDevice, ProvisionedGroup, provision
from ..membership import GroupAddress, Role

GROUP = "room"
HOST = IPv4Address("224.0.1.187")  # RFC 7252 §12.8: All CoAP Nodes
INTERFACE = "lo"
HOP_LIMIT = 0


def reserve_port() -> socket.socket:
    """A socket that keeps a UDP port from other demonstrations while it is open. `NetworkFault` if none is free."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        holder.bind(("127.0.0.1", 0))
    except OSError as error:
        holder.close()
        raise NetworkFault(f"the loopback interface cannot be used ({error.strerror}); bring it up") from None
    return holder


@dataclass(frozen=True, slots=True)
class Room:
    """The provisioned group."""

    group: ProvisionedGroup

    @property
    def address(self) -> GroupAddress:
        """The one multicast address."""
        return self.group.plan.addresses[0]

    @property
    def profile(self) -> Profile:
        """The wire format."""
        return self.group.plan.profile

    @property
    def switch(self) -> ProvisionedDevice:
        return self.group.devices[0]

    @property
    def lamps(self) -> tuple[ProvisionedDevice, ...]:
        return self.group.devices[1:]


def furnish(directory: Path, lamps: int, port: int, profile: Profile = MULTICAST_OSCORE_04) -> Room:
    """Make the files of the room's devices in `directory`, which is empty. Synchronization is by challenge and
    response; where the profile has a pairwise mode, so has the group. `FileFault` if the files cannot be
    written."""
    plan = GroupPlan(GROUP, (GroupAddress(HOST, port),), profile=profile)
    if profile.rules.pairwise:
        plan = replace(plan, group_encryption=plan.aead, key_agreement=key_agreement_for(plan.kdf))
    names = [f"lamp-{number}" for number in range(1, lamps + 1)]
    devices = [
        DevicePlan("switch", frozenset({Role.MULTICASTER})),
        *(DevicePlan(name, frozenset({Role.LISTENER})) for name in names),
    ]
    return Room(provision(directory, plan, devices))


def endpoint_id(device: ProvisionedDevice) -> bytes:
    """Of a member that has one, as all in this room have."""
    assert device.endpoint_id is not None
    return device.endpoint_id
