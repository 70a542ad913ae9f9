"""A provisioned group, and the program's processes in it: real multicast on the loopback interface."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.policy import GroupPolicy
from groupcoap.cose.algorithms import key_agreement_for
from groupcoap.demo.room import reserve_port
from groupcoap.files.provisioning import DevicePlan, GroupPlan, provision
from groupcoap.membership import GroupAddress, Role

PROGRAM = (sys.executable, "-m", "groupcoap")
PATIENCE = 30.0
"""Seconds to wait for what comes at once on an idle machine."""

ROLES = {
    "switch": {Role.MULTICASTER},
    "lamp": {Role.LISTENER},
    "panel": {Role.PURE_LISTENER},
    "desk": {Role.MULTICASTER, Role.PURE_LISTENER},
}


class Process:
    """A running program whose output is read line by line."""

    def __init__(self, arguments: Sequence[str], **environment: str) -> None:
        self.lines: list[str] = []
        self._popen = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        )
        self._queue: queue.Queue[str | None] = queue.Queue()
        Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._queue.put(line.decode().rstrip("\n"))
        self._queue.put(None)

    def expect(self, text: str) -> str:
        """The next line with this in it; lines before it are skipped."""
        while True:
            line = self._queue.get(timeout=PATIENCE)
            assert line is not None, f"ended without {text!r}: {self.lines}"
            self.lines.append(line)
            if text in line:
                return line

    def rest(self) -> list[str]:
        """All lines up to the end, those skipped before included."""
        while (line := self._queue.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        return self.lines

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        return self._popen.wait(PATIENCE)

    def stop(self) -> int:
        """As Ctrl-C does."""
        self.signal(signal.SIGINT)
        return self.ended()

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait(PATIENCE)


@dataclass
class Room:
    """A group of devices in files: switch-1, lamp-1 …, panel-1 …"""

    directory: Path
    address: GroupAddress
    hosts: dict[str, str]
    stack: ExitStack = field(repr=False)

    def listen(self, name: str, *options: str, leisure: float = 0.05) -> Process:
        """Start a device and wait until it listens."""
        process = self.start(
            "listen", str(self.directory / name), *self.bound(name), "--leisure", str(leisure), *options
        )
        process.expect(" listens at ")
        return process

    def bound(self, name: str) -> tuple[str, ...]:
        return ("--bind", self.hosts[name])

    def start(self, *arguments: str) -> Process:
        """Start the program, to be ended with the test."""
        process = Process(arguments)
        self.stack.callback(process.close)
        return process

    def send(self, *arguments: str, member: str = "switch-1", timeout: float = 10.0) -> Sent:
        """`groupcoap send` to its end."""
        return run("send", *arguments, *self.sender(member), "--timeout", str(timeout))

    def sender(self, member: str = "switch-1") -> tuple[str, ...]:
        return ("--member", str(self.directory / member), "--interface", "lo")


@dataclass(frozen=True)
class Sent:
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def run(*arguments: str, stdin: str | None = None) -> Sent:
    """Run the program to its end."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        timeout=PATIENCE * 3,
        input=stdin,
        encoding="utf-8",
        check=False,
    )
    return Sent(done.returncode, done.stdout, done.stderr)


def group_oscore(plan: GroupPlan) -> GroupPlan:
    """The same group with today's standard, in both modes."""
    agreement = key_agreement_for(plan.kdf)
    return replace(plan, profile=GROUP_OSCORE, group_encryption=plan.aead, key_agreement=agreement)


@contextmanager
def furnished(
    directory: Path,
    policy: GroupPolicy | None = None,
    change: Callable[[GroupPlan], GroupPlan] = lambda plan: plan,
    **counts: int,
) -> Iterator[Room]:
    """A room with so many of each kind, at a UDP port of its own. `change`: to the plan of its group."""
    names = [f"{kind}-{n}" for kind, count in counts.items() for n in range(1, count + 1)]
    with ExitStack() as stack:
        port = stack.enter_context(reserve_port()).getsockname()[1]
        address = GroupAddress(IPv4Address("224.0.1.187"), port)
        devices = [DevicePlan(name, frozenset(ROLES[name.partition("-")[0]])) for name in names]
        provision(directory / "devices", change(GroupPlan("room", (address,), policy or GroupPolicy())), devices)
        hosts = {name: f"127.0.0.{n}" for n, name in enumerate(names, 2)}
        yield Room(directory / "devices", address, hosts, stack)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """One switch, two lamps, one panel that never answers."""
    with furnished(tmp_path, switch=1, lamp=2, panel=1) as made:
        yield made


@pytest.fixture
def modern(tmp_path: Path) -> Iterator[Room]:
    """The same with Group OSCORE."""
    with furnished(tmp_path, change=group_oscore, switch=1, lamp=2, panel=1) as made:
        yield made
