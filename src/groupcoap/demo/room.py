"""The room of the demonstration: where its devices and their Group Manager are, on UDP ports that no other
demonstration uses."""

from __future__ import annotations

import csv
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from ..core.profile import Profile
from ..errors import NetworkFault
from ..membership import GroupAddress

GROUP = "room"
HOST = IPv4Address("224.0.1.187")  # RFC 7252 §12.8: All CoAP Nodes
MANAGER_HOST = "127.0.1.1"
"""Of the Group Manager: no lamp's, and not where its port is kept from others."""
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
class Device:
    """A device and its directory."""

    name: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to be. `directory`: of all its files, empty at first. `count`: of lamps. `port`: of the group;
    `manager_port`: of the manager, and of what it sends by multicast."""

    directory: Path
    count: int
    profile: Profile
    port: int
    manager_port: int

    @property
    def address(self) -> GroupAddress:
        """The one multicast address."""
        return GroupAddress(HOST, self.port)

    @property
    def control(self) -> GroupAddress:
        """Where new keys come by multicast."""
        return GroupAddress(HOST, self.manager_port)

    @property
    def manager(self) -> Path:
        """The Group Manager's directory."""
        return self.directory / "house"

    @property
    def devices(self) -> Path:
        """The directory of the devices' directories."""
        return self.directory / "devices"

    @property
    def roster(self) -> Path:
        """The file that names all devices."""
        return self.directory / "devices.csv"

    @property
    def switch(self) -> Device:
        return self._device("switch")

    @property
    def lamps(self) -> tuple[Device, ...]:
        return tuple(self._device(f"lamp-{number}") for number in range(1, self.count + 1))

    def _device(self, name: str) -> Device:
        return Device(name, self.devices / name)

    def write_list(self) -> None:
        """Make the file that names all devices."""
        with open(self.roster, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("device", "group", "roles"))
            rows.writerow((self.switch.name, GROUP, "multicaster"))
            rows.writerows((lamp.name, GROUP, "listener") for lamp in self.lamps)
