"""Processes of a test: forked, so that whatever the test has made can be handed over, and nothing is imported anew.

    child = Child(listen, world)       # async def listen(link: Link, world: World) -> list[bytes]
    child.tell("stop")
    payloads = child.result()

A child's function is a coroutine that gets a `Link` to the test as its first argument. Children end with the test
run, however that ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

TIMEOUT = 20.0
"""Seconds for anything a child does; only a failing test waits so long."""
_PR_SET_PDEATHSIG = 1
_forking = multiprocessing.get_context("fork")


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


def _nothing() -> None:
    pass


class Child:
    """A process that runs `main(link, *arguments)`, after `before()`."""

    def __init__(self, main: Main, *arguments: object, before: Callable[[], None] = _nothing) -> None:
        self._connection, theirs = _forking.Pipe()
        self._process = _forking.Process(target=self._run, args=(before, theirs, main, arguments), daemon=True)
        self._process.start()
        theirs.close()

    @staticmethod
    def _run(before: Callable[[], None], connection: Connection, main: Main, arguments: tuple[object, ...]) -> None:
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            before()
            connection.send(("result", asyncio.run(_call(main, Link(connection), arguments))))
        except BaseException:
            connection.send(("failed", traceback.format_exc()))
        finally:
            os._exit(0)  # no exit handlers of the test run

    def _next(self) -> tuple[str, Any]:
        if not self._connection.poll(TIMEOUT):
            raise TimeoutError("a child process says nothing")
        try:
            kind, value = self._connection.recv()
        except EOFError:
            raise AssertionError("a child process has died") from None
        if kind == "failed":
            raise AssertionError(f"in a child process:\n{value}")
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

    def crash(self) -> None:
        """Kill it in the middle of what it does. `AssertionError`, with the reason, if it has ended before."""
        self._process.kill()
        self._process.join(TIMEOUT)
        if self._process.exitcode != -signal.SIGKILL:
            raise AssertionError(f"a child process has ended by itself with {self.result()!r}")
        self._connection.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


async def _call(main: Main, link: Link, arguments: tuple[object, ...]) -> object:
    return await main(link, *arguments)
