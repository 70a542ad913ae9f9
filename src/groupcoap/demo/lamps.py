"""The lamps: each a process of its own, whose output says what it was told and what it refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from .processes import Process
from .room import HOP_LIMIT, INTERFACE, Device

LEISURE = 0.2
"""Seconds within which a lamp's answer leaves."""
READY = " listens at "


class Lamp(Process):
    """A lamp's process."""

    def __init__(self, device: Device, host: str) -> None:
        where = ("--bind", host, "--interface", INTERFACE, "--hop-limit", str(HOP_LIMIT))
        command = ("listen", str(device.directory), *where, "--leisure", str(LEISURE), "-v")
        super().__init__(device.name, command, READY)
        self.device = device
        self.host = host


@asynccontextmanager
async def running(lamps: Sequence[Lamp], timeout: float) -> AsyncIterator[None]:
    """All lamps started, all at once: so they join together. All ended afterwards, whatever happens. `timeout`:
    seconds for each start. `ProcessFailed` if one of them does not start."""
    try:
        try:
            async with asyncio.TaskGroup() as starts:
                for lamp in lamps:
                    starts.create_task(lamp.start(timeout))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        yield
    finally:
        await asyncio.gather(*(lamp.stop() for lamp in lamps), return_exceptions=True)
