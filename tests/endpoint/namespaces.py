"""Network namespaces for tests: many hosts on one machine, each a process of its own.

    with Lan() as lan:
        switch, *lamps = [lan.host() for _ in range(4)]
        children = [lamp.start(listen, …) for lamp in lamps]
        result = switch.start(collect, …).result()

A host's functions are coroutines that get a `Link` to the test as their first argument. They run in a forked
process inside the host's namespace, so whatever the test has made can be handed over. Everything is removed at the
end, and what a killed test run left behind is removed by the next one.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import multiprocessing
import os
import re
import shutil
import subprocess
import traceback
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from itertools import count
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import pytest

TIMEOUT = 20.0
"""Seconds for anything a child does; only a failing test waits so long."""
_PREFIX = "gcoap"
_CLONE_NEWNET = 0x40000000
_numbers = count()
_forking = multiprocessing.get_context("fork")


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


class Link:
    """What a child process and the test tell each other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, event: object) -> None:
        """To the test: it gets it from `Child.event`."""
        self._connection.send(("event", event))

    async def told(self) -> object:
        """The next thing that the test says by `Child.tell`."""
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        loop.add_reader(self._connection.fileno(), came.set)
        try:
            while not self._connection.poll():
                came.clear()
                await came.wait()
            return self._connection.recv()
        finally:
            loop.remove_reader(self._connection.fileno())


Main = Callable[..., Awaitable[object]]


class Child:
    """A process inside a namespace."""

    def __init__(self, namespace: str, main: Main, arguments: tuple[object, ...]) -> None:
        self._connection, theirs = _forking.Pipe()
        self._process = _forking.Process(target=self._run, args=(namespace, theirs, main, arguments), daemon=True)
        self._process.start()
        theirs.close()

    @staticmethod
    def _run(namespace: str, connection: Connection, main: Main, arguments: tuple[object, ...]) -> None:
        try:
            enter(namespace)
            connection.send(("result", asyncio.run(_call(main, Link(connection), arguments))))
        except BaseException:
            connection.send(("failed", traceback.format_exc()))
        finally:
            os._exit(0)  # no exit handlers of the test run

    def _next(self) -> tuple[str, Any]:
        if not self._connection.poll(TIMEOUT):
            raise TimeoutError("a process in a namespace says nothing")
        try:
            kind, value = self._connection.recv()
        except EOFError:
            raise AssertionError("a process in a namespace has died") from None
        if kind == "failed":
            raise AssertionError(f"in a namespace:\n{value}")
        return kind, value

    def tell(self, what: object) -> None:
        self._connection.send(what)

    def event(self) -> Any:
        """The next event that the child tells."""
        kind, value = self._next()
        assert kind == "event", f"the process has ended with {value!r}"
        return value

    def result(self) -> Any:
        """What the child's function returns; events before that are skipped."""
        while True:
            kind, value = self._next()
            if kind == "result":
                return value

    def kill(self) -> None:
        """As a crash would end it."""
        self._process.kill()
        self._process.join(TIMEOUT)
        self._connection.close()


async def _call(main: Main, link: Link, arguments: tuple[object, ...]) -> object:
    return await main(link, *arguments)


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
        child = Child(self.name, main, arguments)
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
        self.port = f"p{number}"
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
        # Always the same hardware address: the others remember it.
        mac = f"02:00:00:00:{self.number >> 8:02x}:{self.number & 255:02x}"
        peer = ("peer", "name", e0, "address", mac, "netns", self.name)
        self._hub.ip("link", "add", self.port, "type", "veth", *peer)
        self._hub.ip("link", "set", self.port, "master", "hub", "up")
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

    def lose(self, percent: int) -> None:
        """Lose that many of the datagrams that come in. Skips the test where the kernel has no means for it."""
        try:
            self._hub.tc("qdisc", "replace", "dev", self.port, "root", "netem", "loss", f"{percent}%")
        except (RuntimeError, FileNotFoundError):
            rule = f"numgen random mod 100 < {percent} drop"
            chain = "{ type filter hook input priority 0; }"
            try:
                for command in (
                    "add table inet t",
                    f"add chain inet t c {chain}",
                    f"add rule inet t c meta l4proto udp {rule}",
                ):
                    run("ip", "netns", "exec", self.name, "nft", command)
            except (RuntimeError, FileNotFoundError) as problem:
                pytest.skip(f"neither netem nor nftables here: {problem}")


class Hub(Namespace):
    """A bridge without multicast snooping."""

    def __init__(self) -> None:
        super().__init__()
        try:
            self.ip("link", "add", "hub", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
            self.ip("link", "set", "hub", "up")
        except RuntimeError:
            self.close()
            raise

    def tc(self, *arguments: str) -> str:
        return run("tc", "-n", self.name, *arguments)


class Lan:
    """A hub and hosts on it."""

    def __init__(self) -> None:
        _remove_leftovers()
        self.hub = Hub()
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
