"""The Group Manager of the demonstration: its process, and what an operator does with it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from typing import Any

from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..errors import EnvironmentFault
from ..manager.control import ask
from ..manager.home import ManagerHome
from .processes import Process, ProcessFailed
from .room import GROUP, HOP_LIMIT, INTERFACE, MANAGER_HOST, Room

WINDOW = 0.6
"""Seconds in which joins are gathered into one renewal: processes that are started together are not ready at the
same moment."""
_LOOK_INTERVAL = 0.05

Command = tuple[str, ...]


class Office:
    """An operator at the manager. A command is what one would type after `groupcoap`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._manager = Process("the Group Manager", ("manager", "serve", str(room.manager)), " serves at ")

    # ---- commands

    @property
    def init(self) -> Command:
        where = ("--bind", MANAGER_HOST, "--port", str(self._room.manager_port), "--interface", INTERFACE)
        return ("manager", "init", str(self._room.manager), *where, "--hop-limit", str(HOP_LIMIT))

    @property
    def create(self) -> Command:
        room = self._room
        where = ("--address", str(room.address), "--control", str(room.control))
        profile = () if room.profile is MULTICAST_OSCORE_04 else ("--profile", room.profile.name)
        return ("group", "create", GROUP, *profile, *where, "--window", str(WINDOW))

    @property
    def enroll(self) -> Command:
        return ("enroll", "--from", str(self._room.roster), "--out", str(self._room.devices))

    @property
    def serve(self) -> Command:
        return tuple(self._manager.command)

    def evict(self, device: str) -> Command:
        return ("evict", GROUP, device)

    @property
    def rekey(self) -> Command:
        return ("rekey", GROUP)

    async def do(self, command: Command) -> list[str]:
        """What the command says. Raises as it does. Nothing else may be printed meanwhile."""
        at = () if command[0] == "manager" else ("--manager", str(self._room.manager))
        return await asyncio.to_thread(_run, (*command, *at))

    @asynccontextmanager
    async def open(self, timeout: float) -> AsyncIterator[str]:
        """The manager runs; the line that says so. `ProcessFailed` if it does not."""
        try:
            yield await self._manager.start(timeout)
        finally:
            await self._manager.stop()

    # ---- what it knows

    async def status(self) -> dict[str, Any]:
        """How the group is."""
        found = await asyncio.to_thread(ask, ManagerHome.load(self._room.manager), "group", group=GROUP)
        return dict(found)

    async def until_behind(self, names: Sequence[str], timeout: float) -> dict[str, Any]:
        """How the group is, once exactly these members have not confirmed the newest keys. `ProcessFailed` if that
        is not so in time."""
        status: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout):
                while True:
                    status = await self.status()
                    if status["behind"] == list(names):
                        return status
                    await asyncio.sleep(_LOOK_INTERVAL)
        except TimeoutError:
            behind = ", ".join(status.get("behind", ())) or "nobody"
            wanted = ", ".join(names) or "nobody"
            raise ProcessFailed(f"according to the Group Manager {behind} is behind, not {wanted}") from None


def _run(arguments: Sequence[str]) -> list[str]:
    from ..cli import program

    with redirect_stdout(io.StringIO()) as said:
        code = program.main(list(arguments), prog_name="groupcoap", standalone_mode=False)
    lines = said.getvalue().splitlines()
    if code:
        raise EnvironmentFault(f"groupcoap {' '.join(arguments)}: {lines[-1] if lines else f'exit code {code}'}")
    return lines
