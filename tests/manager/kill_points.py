"""A manager in a process of its own that kills itself at a chosen point, as `kill -9` would."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from mmap import mmap
from pathlib import Path
from typing import Any

from children import Child, Link
from wiretap import Wiretap

from groupcoap.manager import delivery, server
from groupcoap.manager.decisions import GroupManager
from groupcoap.manager.delivery import Delivery
from groupcoap.manager.home import ManagerHome
from groupcoap.manager.server import ManagerServer
from groupcoap.manager.state import Renewal
from groupcoap.manager.store import sqlite
from groupcoap.manager.store import store as store_module
from groupcoap.manager.store.sqlite import SqliteDatabase
from groupcoap.manager.store.store import Store
from groupcoap.manager.store.writes import Insert, Update, Write

SLOW = 0.5
"""Seconds that the disk takes in `Point.SLOW_COMMIT`."""


class Point(IntEnum):
    """Where the manager dies."""

    NOWHERE = 0
    BEFORE_COMMIT = 1
    IN_TRANSACTION = 2
    """Some of the statements of a renewal were executed."""
    AFTER_COMMIT = 3
    """SQLite has it, and nobody else knows yet."""
    BEFORE_FIRST_BYTE = 4
    AFTER_FIRST_MULTICAST = 5
    BETWEEN_UNICASTS = 6
    CONFIRMED = 7
    """Somebody has confirmed, and that is not written."""
    IN_WINDOW = 8
    """A join waits for others."""
    ADMITTED = 9
    """The join is durable, and not answered."""
    DISMISSING = 10
    """An eviction is durable, and nobody was told."""
    SLOW_COMMIT = 11
    """The disk takes its time for a renewal; requests are served meanwhile; then it ends before it is written."""
    ERASING = 12
    """What the renewal has superseded is being overwritten."""


class Trap:
    """Shared with the manager's process."""

    def __init__(self) -> None:
        self._memory = mmap(-1, 2)

    def set(self, point: Point) -> None:
        self._memory[0] = point

    @property
    def point(self) -> Point:
        return Point(self._memory[0])

    @property
    def reached(self) -> Point:
        """Where it has died."""
        return Point(self._memory[1])

    def spring(self, point: Point) -> None:
        if self._memory[0] == point:
            self._memory[0], self._memory[1] = Point.NOWHERE, point
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(10)  # the signal is on its way


class Manager:
    """The manager's process, which is started again after it has died."""

    def __init__(self, home: ManagerHome, tap: Wiretap, trap: Trap) -> None:
        self._home, self._tap, self._trap = home, tap, trap
        self._child: Child | None = None

    async def start(self) -> None:
        self._child = Child(serve, self._home.directory, self._tap, self._trap)
        assert await asyncio.to_thread(self._child.event) == "ready"

    async def died(self) -> None:
        """Wait until it has. Then it is not there until `start`."""
        assert self._child is not None
        process = self._child._process
        await asyncio.to_thread(process.join, 20.0)
        assert process.exitcode == -signal.SIGKILL, f"it lives on, and was to die at {self._trap.point.name}"
        self._child = None

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


async def serve(link: Link, directory: Path, tap: Wiretap, trap: Trap) -> None:
    """The manager's main program."""
    _arm(trap)
    _tell_truth(tap)
    home = ManagerHome.load(directory)
    async with ManagerServer(home.open_store(), home.configuration, control=home.socket, place=directory):
        link.tell("ready")
        await asyncio.Event().wait()


def tell_truth(tap: Wiretap, manager: GroupManager, renewal: Renewal) -> None:
    group = manager.groups[renewal.group]
    tap.renewed(renewal.num, renewal.gid, group.master_secret.reveal(), renewal.reason)


def _tell_truth(tap: Wiretap) -> None:
    renew = GroupManager._renew

    def noting(self: GroupManager, *arguments: Any, **named: Any) -> Renewal:
        renewal = renew(self, *arguments, **named)
        tell_truth(tap, self, renewal)
        return renewal

    GroupManager._renew = noting  # type: ignore[method-assign]


def _arm(trap: Trap) -> None:
    delivery.UNICASTS = 1
    server.ERASE_AFTER = 0.2
    _arm_store(trap)
    before(ManagerServer, "renewed", lambda: trap.spring(Point.BEFORE_FIRST_BYTE))
    after(ManagerServer, "send_multicast", lambda: trap.spring(Point.AFTER_FIRST_MULTICAST))
    before(ManagerServer, "_flush", lambda: trap.spring(Point.IN_WINDOW))
    before(Delivery, "settled", lambda: trap.spring(Point.ADMITTED))
    before(Delivery, "dismiss", lambda: trap.spring(Point.DISMISSING))
    told: list[int] = []

    def telling() -> None:
        if trap.point is Point.BETWEEN_UNICASTS:
            told.append(1)
            if len(told) > 1:
                trap.spring(Point.BETWEEN_UNICASTS)

    before(ManagerServer, "tell", telling)


def before(owner: type, name: str, first: Callable[[], None]) -> None:
    real = getattr(owner, name)

    def replaced(*arguments: Any, **named: Any) -> Any:
        first()
        return real(*arguments, **named)

    setattr(owner, name, replaced)


def after(owner: type, name: str, then: Callable[[], None]) -> None:
    real = getattr(owner, name)

    def replaced(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        then()
        return result

    setattr(owner, name, replaced)


def _arm_store(trap: Trap) -> None:
    commit, execute = Store.commit, store_module._execute

    def committing(store: Store, writes: Sequence[Write]) -> None:
        renews, confirms = _renews(writes), _confirms(writes)
        if renews and trap.point is Point.SLOW_COMMIT:
            time.sleep(SLOW)
            trap.spring(Point.SLOW_COMMIT)
        if renews:
            trap.spring(Point.BEFORE_COMMIT)
        if confirms:
            trap.spring(Point.CONFIRMED)
        commit(store, writes)
        if renews:
            trap.spring(Point.AFTER_COMMIT)

    def executing(connection: Any, statements: list[Any]) -> None:
        half = len(statements) // 2
        execute(connection, statements[:half])
        if len(statements) > 3:
            trap.spring(Point.IN_TRANSACTION)
        execute(connection, statements[half:])

    rewrite = SqliteDatabase._rewrite

    def rewriting(database: SqliteDatabase) -> bool:
        raw = sqlite._raw(database.connection)
        raw.set_progress_handler(lambda: trap.spring(Point.ERASING), 200)
        try:
            return rewrite(database)
        finally:
            raw.set_progress_handler(None, 0)

    SqliteDatabase._rewrite = rewriting  # type: ignore[method-assign,assignment]
    Store.commit = committing  # type: ignore[method-assign,assignment]
    store_module._execute = executing


def _renews(writes: Sequence[Write]) -> bool:
    return any(isinstance(write, Insert) and write.table == "renewals" for write in writes)


def _confirms(writes: Sequence[Write]) -> bool:
    return any(
        isinstance(write, Update) and write.table == "members" and "confirmed_num" in write.values
        for write in writes
    )
