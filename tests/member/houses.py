"""A real Group Manager on a loopback socket over a real database, and devices with real files."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from groupcoap.cose.credentials import claims_set
from groupcoap.cose.keys import SIGNATURE_ALGORITHMS
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.keying.admin import Scheme
from groupcoap.manager.decisions import first_writes
from groupcoap.manager.home import ManagerConfiguration
from groupcoap.manager.server import ManagerServer
from groupcoap.manager.state import Group, Member
from groupcoap.manager.store.store import Store
from groupcoap.member.enrolment import ENROLMENT_FILE, Enrolment, ManagerAddress, save_enrolment
from groupcoap.member.membership import ManagedMembership
from groupcoap.membership import MembershipEvent, Role

from .managers import DRAFT, LISTENER, NAME, Suite, settings


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Device:
    """A device's directory, and a membership over it."""

    def __init__(self, directory: Path, name: str, host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.name = name
        self.host = host
        self.events: list[MembershipEvent] = []

    def membership(self, **options: Any) -> ManagedMembership:
        network = NetworkOptions(interface="lo", bind=ip_address(self.host), hop_limit=0)
        given = {"unknown_gid_interval": 0.2, "patience": 1.0, **options}
        return ManagedMembership(self.directory, network, **given)

    def watch(self, membership: ManagedMembership) -> ManagedMembership:
        membership.subscribe(self.events.append)
        return membership

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    @property
    def kept(self) -> Path:
        return self.directory / f"{NAME}.membership.json"


class House:
    """The manager, which can be stopped and started, with its groups."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.group_port, self.control_port = free_port(), free_port()
        self.url = f"sqlite:///{directory / 'manager.db'}"
        self._stack = AsyncExitStack()
        self.server: ManagerServer | None = None

    async def __aenter__(self) -> Self:
        store = Store.create(self.url, None)
        store.commit(first_writes("manager", os.urandom, 0.0))
        store.close()
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        store = Store.open(self.url, None)
        self._stack.callback(store.close)
        configuration = ManagerConfiguration("manager", ip_address("127.0.0.1"), "lo", self.port, 0)
        self.server = await self._stack.enter_async_context(ManagerServer(store, configuration))

    async def stop(self) -> None:
        self.server = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    @property
    def running(self) -> ManagerServer:
        assert self.server is not None
        return self.server

    def group(self, name: str = NAME) -> Group:
        return self.running.manager.group(name)

    def member(self, device: str, name: str = NAME) -> Member:
        return self.group(name).by_device[device]

    async def make(self, scheme: Scheme = Scheme.LKH, suite: Suite = DRAFT, name: str = NAME, **rekey: Any) -> None:
        """A group. Joins wait a moment only."""
        manager = self.running.manager
        rekey = {"window": 0.02, **rekey}
        given = settings(manager, scheme, suite, self.group_port, self.control_port, name, **rekey)
        manager.create_group(given, "test")
        await self.running.persist()

    async def enroll(
        self,
        device: str,
        roles: frozenset[Role] = LISTENER,
        names: tuple[str, ...] = (NAME,),
        ports: tuple[int, ...] = (),
        host: str = "127.0.0.1",
    ) -> Device:
        """A new device, with its enrolment file. `ports`: other addresses of the manager, asked first."""
        enrolment = self.running.manager.enroll(device, dict.fromkeys(names, roles), "test")
        await self.running.persist()
        directory = self.directory / device
        directory.mkdir()
        numbers = {key.credential: number for number, key in self.running.manager.keys.items()}
        file = Enrolment(
            device,
            enrolment.device.handle,
            enrolment.device.secret,
            tuple(ManagerAddress(ip_address("127.0.0.1"), port) for port in (*ports, self.port)),
            {numbers[credential]: credential for credential in enrolment.credentials},
            dict.fromkeys(names, roles),
        )
        save_enrolment(directory / ENROLMENT_FILE, file)
        return Device(directory, device, host)

    async def rekey(self, *, lost: bool = False, name: str = NAME) -> None:
        """Renew the group's keys; `lost`: no message of it ever arrives."""
        renewal = self.running.manager.rekey(name, "test")
        if lost:
            await self.running.persist()
        else:
            await self.running.carry_out([renewal], [])

    async def evict(self, device: str, *, told: bool = True) -> None:
        member = self.member(device)
        renewal = self.running.manager.evict(NAME, device, "test")
        assert renewal is not None
        await self.running.carry_out([renewal], [(NAME, member)] if told else [])

    def everybody_has_it(self, name: str = NAME) -> bool:
        return not self.running.manager.behind(self.group(name))


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for this."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def without_keys(enrolment: Enrolment) -> Enrolment:
    """With another manager's credentials."""
    others = {
        algorithm.number: claims_set(algorithm.generate().public_key, algorithm, "somebody")
        for algorithm in SIGNATURE_ALGORITHMS.values()
    }
    return replace(enrolment, credentials=others)
