"""Processes of the demonstration: this program's own commands, whose output says what they do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

STOP_TIMEOUT = 20.0
_CHUNK = 65536


class ProcessFailed(Exception):
    """A process did not do what it should. The text says which and what, on one line."""


class Process:
    """A process. `lines` is everything that it has printed, before a restart and after.

    Not asyncio's subprocesses: their watcher and Popen's own compete for the end of a process that is killed."""

    def __init__(self, name: str, command: Sequence[str], ready: str) -> None:
        """`command`: without the program, as one would type it. `ready`: what is in the line that says that it
        works."""
        self.name = name
        self.command = command
        self.lines: list[str] = []
        self._ready = ready
        self._changed = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._unfinished = b""
        self._reading = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs, or ran last."""
        return None if self._process is None else self._process.pid

    async def start(self, timeout: float) -> str:
        """Start the process and wait until it works; the line that says so. `ProcessFailed` if it does not."""
        since = len(self.lines)
        try:
            self._process = self._spawn()
        except OSError as error:
            raise ProcessFailed(f"{self.name} cannot be started: {error.strerror or error}") from None
        self._reading = True
        asyncio.get_running_loop().add_reader(self._output, self._read)
        return await self.expect(lambda line: self._ready in line, since, timeout, "start")

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  # our own program with our own arguments
            (sys.executable, "-m", "groupcoap", *self.command, "--with-parent"),
            stdin=subprocess.PIPE,  # ends when this process ends, however it ends, and with it the other
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"},
            # Ctrl-C is for the demonstration, which then stops the others. Not a session of its own: when this
            # process ends, the kernel wakes and ends one that sleeps (SIGSTOP) in its session.
            process_group=0,
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
        """The first wanted line from number `since` on. `ProcessFailed` if it does not come in time (None: however
        long it takes) or the process ends: it did not do `what`."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for line in self.lines[since:]:
                        if wanted(line):
                            return line
                    if not self._reading:
                        raise ProcessFailed(f"{self.name} did not {what}, it has ended{self._last_words(since)}")
                    await self._changed.wait()
        except TimeoutError:
            raise ProcessFailed(f"{self.name} did not {what} in {timeout} s{self._last_words(since)}") from None

    def _last_words(self, since: int) -> str:
        return f"; its last line: {self.lines[-1]}" if len(self.lines) > since else ""

    def sleep(self) -> None:
        """SIGSTOP: from now on it does nothing, until it is woken."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

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
        self.wake()  # one that sleeps would not notice
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
