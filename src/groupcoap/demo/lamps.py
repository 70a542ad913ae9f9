"""The lamps: each a process of its own, whose output says what it was told and what it refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from ..files.provisioning import ProvisionedDevice
from .room import HOP_LIMIT, INTERFACE

LEISURE = 0.2
"""Seconds within which a lamp's answer leaves."""
STARTS_AT_ONCE = 2 * (os.cpu_count() or 1)
STOP_TIMEOUT = 20.0
_READY = " listens at "
_CHUNK = 65536


class LampFailed(Exception):
    """A lamp did not do what it should. The text says which and what, on one line."""


class Lamp:
    """A lamp's process. `lines` is everything that it has printed, before a restart and after.

    Not asyncio's subprocesses: their watcher and Popen's own compete for the end of a process that is killed."""

    def __init__(self, device: ProvisionedDevice, host: str) -> None:
        self.device = device
        self.host = host
        self.lines: list[str] = []
        self._changed = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._unfinished = b""
        self._reading = False

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def pid(self) -> int | None:
        """Of the process that runs, or ran last."""
        return None if self._process is None else self._process.pid

    @property
    def command(self) -> Sequence[str]:
        """What starts the lamp, as one would type it."""
        options = ("--bind", self.host, "--interface", INTERFACE, "--hop-limit", str(HOP_LIMIT))
        return ("listen", str(self.device.directory), *options, "--leisure", str(LEISURE), "-v")

    async def start(self, timeout: float) -> None:
        """Start the process and wait until it listens. `LampFailed` if it does not."""
        since = len(self.lines)
        try:
            self._process = self._spawn()
        except OSError as error:
            raise LampFailed(f"{self.name} cannot be started: {error.strerror or error}") from None
        self._reading = True
        asyncio.get_running_loop().add_reader(self._output, self._read)
        await self.expect(lambda line: _READY in line, since, timeout, "start")

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  # our own program with our own arguments
            (sys.executable, "-m", "groupcoap", *self.command, "--with-parent"),
            stdin=subprocess.PIPE,  # ends when this process ends, however it ends, and with it the lamp
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,  # Ctrl-C is for the demonstration, which then stops its lamps
        )

    @property
    def _output(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def _read(self) -> None:
        data = os.read(self._output, _CHUNK)
        if not data:
            self._stop_reading()
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        self.lines += [line.decode(errors="replace") for line in lines]
        self._changed.set()
        self._changed = asyncio.Event()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._output)

    async def expect(self, wanted: Callable[[str], bool], since: int, timeout: float | None, what: str) -> str:
        """The first wanted line from number `since` on. `LampFailed` if it does not come in time (None: however
        long it takes) or the lamp ends: it did not do `what`."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for line in self.lines[since:]:
                        if wanted(line):
                            return line
                    if not self._reading:
                        raise LampFailed(f"{self.name} did not {what}, it has ended{self._last_words(since)}")
                    await self._changed.wait()
        except TimeoutError:
            raise LampFailed(f"{self.name} did not {what} in {timeout} s{self._last_words(since)}") from None

    def _last_words(self, since: int) -> str:
        return f"; its last line: {self.lines[-1]}" if len(self.lines) > since else ""

    async def kill(self) -> None:
        """SIGKILL: no chance to say goodbye or to write anything down."""
        if self._process is not None:
            self._process.kill()
            await self._gone(None)

    async def stop(self) -> None:
        """End the process, gently if possible."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            await self._gone(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            await self.kill()

    async def _gone(self, timeout: float | None) -> None:
        assert self._process is not None
        await asyncio.to_thread(self._process.wait, timeout)
        self._stop_reading()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@asynccontextmanager
async def running(lamps: Sequence[Lamp], timeout: float) -> AsyncIterator[None]:
    """All lamps started, not too many at once; all ended afterwards, whatever happens. `timeout`: seconds for each
    start. `LampFailed` if one of them does not start."""
    gate = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start(lamp: Lamp) -> None:
        async with gate:
            await lamp.start(timeout)

    try:
        try:
            async with asyncio.TaskGroup() as starts:
                for lamp in lamps:
                    starts.create_task(start(lamp))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        yield
    finally:
        await asyncio.gather(*(lamp.stop() for lamp in lamps), return_exceptions=True)
