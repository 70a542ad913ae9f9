"""How long it takes until many devices, enrolled from a file, have joined from nothing: a manager in a process of
its own, the devices in this one, each with its own address, socket, key pair and files. All of it on the loopback
interface."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from ..core.policy import profile_by_name
from ..endpoint.network import NetworkOptions
from ..errors import EnvironmentFault
from ..manager.control import ask, is_running
from ..manager.decisions import first_writes
from ..manager.home import ManagerConfiguration, ManagerHome
from ..manager.settings import GroupSettings
from ..manager.store.store import Store
from ..member.membership import ManagedMembership
from ..membership import GroupAddress, SecurityParameters

DEVICES: Final = 100
_GROUP = "fleet"
_PORT = 25683
_MANAGER = IPv4Address("127.0.0.1")
_FIRST = IPv4Address("127.1.0.1")
_PATIENCE = 300.0

Figures = dict[str, float]


def run(devices: int = DEVICES) -> Figures:
    """`enroll_seconds`: making the credential files; `join_seconds`: until the last device is a member and has
    confirmed; `renewals`, `members`: as the manager counts them, with the one device that was there before.
    `EnvironmentFault` if it does not come to that."""
    with tempfile.TemporaryDirectory() as directory:
        home = _manager(Path(directory) / "manager")
        server = subprocess.Popen(  # noqa: S603 — ourselves
            [sys.executable, "-m", "groupcoap", "manager", "serve", str(home.directory)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_running(home, server)
            return asyncio.run(_measure(home, Path(directory), devices))
        finally:
            server.terminate()
            server.wait()


def _manager(directory: Path) -> ManagerHome:
    home = ManagerHome.create(directory, ManagerConfiguration("bench", _MANAGER, "lo", _PORT, hop_limit=0))
    store = Store.create(home.url, home.sealing_key())
    store.commit(first_writes("bench", os.urandom, time.time()))
    store.close()
    address = GroupAddress(IPv4Address("224.0.1.187"), _PORT + 1)
    control = GroupAddress(IPv4Address("224.0.1.187"), _PORT + 2)
    settings = GroupSettings(
        _GROUP, (address,), SecurityParameters(profile_by_name("multicast-oscore-04")), control
    )
    ask(home, "create_group", settings=settings.to_json())
    return home


def _await_running(home: ManagerHome, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not is_running(home):
        if server.poll() is not None or time.monotonic() > deadline:
            raise EnvironmentFault(f"the manager did not start; is UDP port {_PORT} of {_MANAGER} in use?")
        time.sleep(0.05)


def _enroll(home: ManagerHome, listed: Path, directory: Path) -> None:
    """As an operator does it."""
    options = ["--from", str(listed), "--out", str(directory), "--manager", str(home.directory)]
    command = [sys.executable, "-m", "groupcoap", "enroll", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 — ourselves
    if done.returncode:
        raise EnvironmentFault(f"enrolling failed: {done.stderr.strip()}")


async def _measure(home: ManagerHome, directory: Path, devices: int) -> Figures:
    listed = directory / "devices.csv"
    names = ["first", *(f"lamp-{number}" for number in range(devices))]
    listed.write_text("device,group,roles\n" + "".join(f"{name},{_GROUP},listener\n" for name in names))
    began = time.monotonic()
    await asyncio.to_thread(_enroll, home, listed, directory)
    enrolled = time.monotonic()
    async with AsyncExitStack() as stack:
        await _join(stack, directory, names[:1], _FIRST)  # now the keys are in use, so that others renew them
        started = time.monotonic()
        await _join(stack, directory, names[1:], _FIRST + 1)
        joined = time.monotonic()
        group = await asyncio.to_thread(ask, home, "group", group=_GROUP)
    return {
        "enroll_seconds": round(enrolled - began, 2),
        "join_seconds": round(joined - started, 2),
        "renewals": group["num"],
        "members": group["members"],
    }


async def _join(stack: AsyncExitStack, directory: Path, names: list[str], first: IPv4Address) -> None:
    memberships = [
        await stack.enter_async_context(
            ManagedMembership(directory / name, NetworkOptions("lo", first + number, hop_limit=0))
        )
        for number, name in enumerate(names)
    ]
    await asyncio.gather(*(membership.ready(_PATIENCE) for membership in memberships))
