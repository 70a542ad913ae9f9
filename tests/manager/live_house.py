"""A Group Manager with real files on a loopback address, and real devices of it in this process; all that goes over
the wire is recorded."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from suites import DRAFT, GROUP_OSCORE, Suite
from wiretap import Wiretap

from groupcoap.association.client import ManagerLink
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.profile import Mode
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.cose.credentials import Credential
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.files.documents import Json, write_document
from groupcoap.keying.admin import Scheme
from groupcoap.manager import delivery, server
from groupcoap.manager.control import ask
from groupcoap.manager.decisions import first_writes
from groupcoap.manager.home import ManagerConfiguration, ManagerHome
from groupcoap.manager.settings import GroupSettings, RekeyPolicy
from groupcoap.manager.state import ManagerKey
from groupcoap.manager.store.store import Store
from groupcoap.member import group as member_group
from groupcoap.member import link
from groupcoap.member.enrolment import ENROLMENT_FILE, KIND
from groupcoap.member.membership import ManagedMembership
from groupcoap.membership import GroupAddress, GroupConfiguration, Role
from groupcoap.secret import Secret

GROUP = "room"
MULTICAST = IPv4Address("224.0.1.188")
MANAGER_HOST = "127.0.0.71"
DEVICE_HOST = "127.0.0.72"
SCHEMES = list(Scheme)
SUITES = (DRAFT, GROUP_OSCORE)
TIMEOUT = 30.0
"""Only a failing test waits so long."""
BOTH = frozenset({Role.MULTICASTER, Role.LISTENER})


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody tries again soon. Processes that are forked from the test are as hasty."""
    monkeypatch.setattr(delivery, "FOLLOW_UP", 0.05)
    monkeypatch.setattr(delivery, "PATIENCE", 0.5)
    monkeypatch.setattr(delivery, "BACKOFF", 0.1)
    monkeypatch.setattr(delivery, "REPEATS", (0.0, 0.05, 0.2))
    monkeypatch.setattr(server, "JOIN_WAIT", 1.0)
    monkeypatch.setattr(link, "TIMEOUT", 2.0)  # who waits for a manager that was killed asks again
    monkeypatch.setattr(member_group, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(member_group, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(member_group, "PATIENCE", 0.3)
    defaults = ManagerLink.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "interval", 0.05)


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Wiretap]:
    """What this process sends, and those that are forked from it."""
    tap = Wiretap(tmp_path / "wiretap")
    with tap.listening():
        yield tap
    tap.close()


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


def make_home(directory: Path, sealing: str = "file") -> ManagerHome:
    """A manager without groups, not running."""
    configuration = ManagerConfiguration(
        "gm", IPv4Address(MANAGER_HOST), "lo", free_port(MANAGER_HOST), hop_limit=0, sealing=sealing
    )
    home = ManagerHome.create(directory, configuration)
    store = Store.create(home.url, home.sealing_key())
    store.commit(first_writes("gm", os.urandom, time.time()))
    store.close()
    return home


def make_group(home: ManagerHome, suite: Suite, scheme: Scheme, **rekey: Any) -> None:
    port = free_port(str(MULTICAST))
    control = free_port(str(MULTICAST))
    settings = GroupSettings(
        GROUP,
        (GroupAddress(MULTICAST, port),),
        replace(suite.parameters, manager_credential=_credential(home, suite)),
        GroupAddress(MULTICAST, control),
        policy=GroupPolicy(
            synchronization=SynchronizationPolicy(Method.BEST_EFFORT),
            response_mode=Mode.GROUP if suite.pairwise else None,
        ),
        rekey=RekeyPolicy(scheme, **{"window": 0.05, **rekey}),
    )
    ask(home, "create_group", settings=settings.to_json())


def _credential(home: ManagerHome, suite: Suite) -> Credential:
    """The manager's own, for the group's signature algorithm."""
    store = home.open_store()
    try:
        keys = map(ManagerKey.of, store.load().rows("manager_keys"))
        return next(key.credential for key in keys if key.algorithm == suite.parameters.signature)
    finally:
        store.close()


class Device:
    """A device with its directory; `open` runs it."""

    def __init__(self, directory: Path, enrolment: Json) -> None:
        self.directory = directory
        self.name: str = enrolment["device"]
        self.handle = bytes.fromhex(enrolment["handle"])
        self.secret = Secret(bytes.fromhex(enrolment["secret"]))
        directory.mkdir(parents=True)
        write_document(directory / ENROLMENT_FILE, KIND, enrolment)
        self.membership: ManagedMembership | None = None
        self._stack = AsyncExitStack()

    async def open(self) -> ManagedMembership:
        network = NetworkOptions("lo", IPv4Address(DEVICE_HOST), hop_limit=0)
        membership = ManagedMembership(self.directory, network, unknown_gid_interval=0.05, patience=0.5)
        self.membership = await self._stack.enter_async_context(membership)
        return self.membership

    async def close(self) -> None:
        self.membership = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    @property
    def configuration(self) -> GroupConfiguration | None:
        """Its group as it has it now."""
        assert self.membership is not None
        return next(iter(self.membership.groups()), None)

    @property
    def gid(self) -> bytes | None:
        configuration = self.configuration
        return None if configuration is None else configuration.current.gid

    def wonder(self) -> None:
        """Have it ask the manager soon, as an unknown Gid does."""
        gid = self.gid
        if gid is not None and self.membership is not None:
            self.membership.unknown_gid(gid[:-4] + b"\xff\xff\xff\xff")


def enroll(home: ManagerHome, directory: Path, names: str, roles: frozenset[Role] = BOTH) -> dict[str, Device]:
    """A device for each letter."""
    wanted = [{"device": name, "rights": {GROUP: [role.value for role in roles]}} for name in names]
    enrolments = ask(home, "enroll", devices=wanted)["enrolments"]
    return {entry["device"]: Device(directory / entry["device"], entry) for entry in enrolments}


def enrolled(*devices: Device) -> dict[bytes, tuple[str, Secret]]:
    """What an attacker has who has the memory of these."""
    return {device.handle: (device.name, device.secret) for device in devices}


async def until(condition: Callable[[], object], what: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(0.01)


async def command(home: ManagerHome, name: str, **arguments: Any) -> Json:
    """As an operator gives it, while devices go on in this process."""
    return await asyncio.to_thread(ask, home, name, **arguments)


def states(devices: Mapping[str, Device]) -> dict[str, str | None]:
    """For messages."""
    return {name: None if (gid := device.gid) is None else gid.hex() for name, device in devices.items()}
