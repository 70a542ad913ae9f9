"""Network namespaces for tests: many hosts on one machine, each a process of its own.

    with Lan() as lan:
        switch, *lamps = [lan.host() for _ in range(4)]
        children = [lamp.start(listen, …) for lamp in lamps]
        lan.hub.weather(Weather(loss=0.1))
        result = switch.start(collect, …).result()

What a host runs is a `children.Child` inside its namespace. Everything is removed at the end, and what a killed
test run left behind is removed by the next one.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from itertools import count
from types import TracebackType

from children import TIMEOUT, Child, Link, Main
from relay import PORT_PREFIX, Counts, Relay, Weather

__all__ = ["Child", "Host", "Hub", "Lan", "Link", "Namespace", "why_not"]

_PREFIX = "gcoap"
_CLONE_NEWNET = 0x40000000
_numbers = count()


@functools.cache
def why_not() -> str | None:
    """Why no namespaces can be made here; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program ip (iproute2)"
    try:
        with Namespace() as probe:
            probe.ip("link", "set", "lo", "up")
    except RuntimeError as problem:
        return f"network namespaces cannot be made here: {problem}"
    return None


def run(*command: str) -> str:
    """Run a command. `RuntimeError` with its last words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def enter(namespace: str) -> None:
    """Move this process, which has one thread, into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")


def _remove_leftovers() -> None:
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        owner = re.fullmatch(rf"{_PREFIX}-(\d+)-\d+", name)
        if owner and not os.path.exists(f"/proc/{owner[1]}"):
            subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False)


class Namespace:
    """A network namespace with loopback up, and the processes in it."""

    def __init__(self) -> None:
        self.name = f"{_PREFIX}-{os.getpid()}-{next(_numbers)}"
        self._children: list[Child] = []
        run("ip", "netns", "add", self.name)
        try:
            self.ip("link", "set", "lo", "up")
        except RuntimeError:
            self.close()
            raise

    def ip(self, *arguments: str) -> str:
        """`ip …` inside."""
        return run("ip", "-n", self.name, *arguments)

    def start(self, main: Main, *arguments: object) -> Child:
        """Run `main(link, *arguments)` in a process inside."""
        child = Child(main, *arguments, before=functools.partial(enter, self.name))
        self._children.append(child)
        return child

    def multicast_on_loopback(self) -> None:
        """Let multicast of both families go and come by loopback."""
        self.ip("-4", "route", "add", "224.0.0.0/4", "dev", "lo", "src", "127.0.0.1")
        self.ip("-6", "route", "add", "local", "ff00::/8", "dev", "lo", "table", "local")

    def close(self) -> None:
        for child in self._children:
            child.kill()
        self._children.clear()
        subprocess.run(("ip", "netns", "del", self.name), capture_output=True, check=False)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Host(Namespace):
    """A host on a `Lan`, with the interface e0."""

    interface = "e0"

    def __init__(self, hub: Hub, number: int) -> None:
        super().__init__()
        self._hub = hub
        self.number = number
        self.port = f"{PORT_PREFIX}{number}"
        """The other end of its cable, in the hub."""
        self.ipv4 = IPv4Interface(f"10.77.{number >> 8}.{number & 255}/16")
        self.ipv6 = IPv6Interface(f"fd77::{number:x}/64")
        try:
            self.plug_in()
        except RuntimeError:
            self.close()
            raise

    def address(self, version: int) -> IPv4Address | IPv6Address:
        return self.ipv4.ip if version == 4 else self.ipv6.ip

    def plug_in(self) -> None:
        """Make the interface and its cable to the hub."""
        e0 = self.interface
        # Always the same hardware address: the others remember it, and the hub goes by it.
        mac = f"02:00:00:00:{self.number >> 8:02x}:{self.number & 255:02x}"
        peer = ("peer", "name", e0, "address", mac, "netns", self.name)
        self._hub.ip("link", "add", self.port, "type", "veth", *peer)
        self._hub.ip("link", "set", self.port, "addrgenmode", "none", "up")
        self.up()

    def unplug(self) -> None:
        """The interface is gone, as when a device is pulled out or a driver is loaded anew."""
        self.ip("link", "del", self.interface)

    def down(self) -> None:
        self.ip("link", "set", self.interface, "down")

    def up(self) -> None:
        e0 = self.interface
        self.ip("link", "set", e0, "addrgenmode", "none")
        self.ip("link", "set", e0, "up")
        self.ip("addr", "replace", str(self.ipv4), "dev", e0)
        self.ip("addr", "replace", str(self.ipv6), "dev", e0, "nodad")
        self.ip("addr", "replace", f"fe80::{self.number:x}/64", "dev", e0, "nodad")
        self.ip("route", "replace", "224.0.0.0/4", "dev", e0)


class Hub(Namespace):
    """A relay between the hosts, in a namespace and a process of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._relay = self.start(_carry, seed)
        try:
            self._relay.event()
        except BaseException:
            self.close()
            raise

    def weather(self, weather: Weather) -> Counts:
        """From now on datagrams fare like this. Returns how they have fared so far."""
        self._relay.tell(weather)
        counts: Counts = self._relay.event()
        return counts


async def _carry(link: Link, seed: int) -> None:
    """The relay, until its namespace is closed."""
    relay = Relay(seed, lambda mac: f"{PORT_PREFIX}{int.from_bytes(mac[-2:])}")
    link.tell("ready")
    while True:
        weather = await link.told()
        assert isinstance(weather, Weather)
        relay.carry()
        relay.weather = weather
        link.tell(relay.counts)


class Lan:
    """A hub and hosts on it. `seed`: of the hub's chances."""

    def __init__(self, seed: int = 0) -> None:
        _remove_leftovers()
        self.hub = Hub(seed)
        self.hosts: list[Host] = []

    def host(self) -> Host:
        """One more host."""
        host = Host(self.hub, len(self.hosts) + 1)
        self.hosts.append(host)
        return host

    def __enter__(self) -> Lan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts:
            host.close()
        self.hub.close()
