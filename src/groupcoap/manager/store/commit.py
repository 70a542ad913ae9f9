"""Group commit: the writes of many commands share one transaction and one wait for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ...errors import MisuseError, StoreFault
from .writes import Write


class Committer(Protocol):
    """`Store`, as far as it matters here."""

    def commit(self, writes: Sequence[Write]) -> None: ...


class GroupCommit:
    """Makes writes durable in the order of the calls, in a worker thread of its own. Belongs to one event loop.

    While a transaction is on its way to the disk, what is asked for meanwhile waits, and shares the next one. After
    a failure nothing is written any more: memory is ahead of the disk, and the manager has to start again from
    there. `on_failed` is then called once, in the event loop, before anyone else hears of it."""

    def __init__(self, store: Committer, *, on_failed: Callable[[StoreFault], None] | None = None) -> None:
        self._store = store
        self._on_failed = on_failed
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._queue: list[tuple[tuple[Write, ...], asyncio.Future[None]]] = []
        self._running: asyncio.Future[None] | None = None
        self._failed: StoreFault | None = None
        self._closed = False

    @property
    def failed(self) -> StoreFault | None:
        """Why nothing is written any more; None as long as all is well."""
        return self._failed

    async def durable(self, writes: Sequence[Write]) -> None:
        """Return when these writes, and all that were asked for before, are committed: all of these in one
        transaction. No writes: wait for those before. They are committed also if the caller is cancelled.

        `StoreFault` if they could not be, or something before them could not; `MisuseError` after `close`."""
        if self._failed is not None:
            raise StoreFault(*self._failed.args)
        if self._closed:
            raise MisuseError("the group commit is closed")
        if not writes and self._running is None:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((tuple(writes), future))
        if self._running is None:
            self._start()
        await future

    async def close(self) -> None:
        """Wait for what was asked for, take nothing more, and end the worker thread. The store stays open."""
        self._closed = True
        while self._running is not None:
            await asyncio.wait([self._running])
        self._worker.shutdown(wait=False)

    def _start(self) -> None:
        batch, self._queue = self._queue, []
        writes = [write for command, _ in batch for write in command]
        waiters = [future for _, future in batch]
        # Not a task: those are cancelled when the program ends, and then nobody would start the next one.
        running = asyncio.get_running_loop().run_in_executor(self._worker, self._commit, writes)
        self._running = running
        running.add_done_callback(lambda done: self._finished(done, waiters))

    def _commit(self, writes: list[Write]) -> None:
        if writes:
            self._store.commit(writes)

    def _finished(self, done: asyncio.Future[None], waiters: list[asyncio.Future[None]]) -> None:
        self._running = None
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is not None:
            self._fail(error, waiters)
            return
        for waiter in waiters:
            if not waiter.done():  # its caller may have been cancelled
                waiter.set_result(None)
        if self._queue:
            self._start()

    def _fail(self, error: BaseException, waiters: list[asyncio.Future[None]]) -> None:
        fault = error if isinstance(error, StoreFault) else _unexpected(error)
        self._failed = fault
        waiters += [future for _, future in self._queue]
        self._queue = []
        try:
            if self._on_failed is not None:
                self._on_failed(fault)
        finally:
            for waiter in waiters:
                if not waiter.done():
                    # One for each: they are raised at different places, and each gathers a traceback.
                    waiter.set_exception(StoreFault(*fault.args))


def _unexpected(error: BaseException) -> StoreFault:
    # Only its own kind of errors is quoted: others may hold what was to be written.
    text = f" ({error})" if isinstance(error, MisuseError) else ""
    return StoreFault(
        f"writing to the database failed: {type(error).__name__}{text}; restart the manager, and report it"
    )
