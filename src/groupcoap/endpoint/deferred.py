"""Deferred checks of countersignatures (Appendix E): off the delivery path, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..core.requests import DecryptedRequest
from ..errors import Rejected
from .limits import Limits
from .sparing import sparing_logger

BATCH = 32
"""Checks handed to a thread at once: the hop costs as much as one check."""
WORKERS = 2

log = sparing_logger("groupcoap.deferred")


@dataclass(frozen=True, slots=True)
class SourceReport:
    """The late result for a request that was delivered with its check deferred.

    `verified`: this Endpoint ID did make it. Otherwise an alarm: another member spoke in its name, and it has
    been acted on already."""

    group: str
    gid: bytes
    endpoint_id: bytes
    sequence_number: int
    verified: bool


Report = Callable[[SourceReport], None]


def log_report(report: SourceReport) -> None:
    """What is done with reports if the application asked for nothing else: alarms are logged."""
    if not report.verified:
        log.error(
            "ALARM: group %s: request %d was not made by %s, in whose name it came",
            report.group,
            report.sequence_number,
            report.endpoint_id.hex(),
        )


def _check(request: DecryptedRequest) -> SourceReport:
    try:
        request.check_signature()
        verified = True
    except Rejected:
        verified = False
    context = request.context
    return SourceReport(context.group, context.gid, request.sender_id, request.number, verified)


def _check_all(requests: list[DecryptedRequest]) -> list[SourceReport]:
    return [_check(request) for request in requests]


class DeferredChecks:
    """A bounded queue of checks, worked off in batches by threads; reports arrive on the event loop."""

    def __init__(self, report: Report, limits: Limits) -> None:
        self._report = report
        self._most = limits.deferred
        self._queue: list[DecryptedRequest] = []
        self._running: set[asyncio.Future[list[SourceReport]]] = set()
        self._executor: ThreadPoolExecutor | None = None
        self._pending = 0
        self._scheduled = False

    @property
    def full(self) -> bool:
        """No room for another: the next request is to be verified at once."""
        return self._pending >= self._most

    def submit(self, request: DecryptedRequest) -> None:
        """Check this request soon."""
        self._pending += 1
        self._queue.append(request)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        if self._executor is None:
            self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="countersignatures")
        loop = asyncio.get_running_loop()
        queue, self._queue = self._queue, []
        for at in range(0, len(queue), BATCH):
            future = loop.run_in_executor(self._executor, _check_all, queue[at : at + BATCH])
            self._running.add(future)
            future.add_done_callback(self._finished)

    def _finished(self, future: asyncio.Future[list[SourceReport]]) -> None:
        self._running.discard(future)
        reports = future.result()
        self._pending -= len(reports)
        for report in reports:
            try:
                self._report(report)
            except Exception:  # the application's own: the other reports must not be lost with it
                log.exception("a report of a deferred check was not taken")

    async def close(self) -> None:
        """Finish what is queued; all reports have been given when this returns."""
        if self._scheduled:
            self._start()
        while self._running:
            await asyncio.wait(self._running)
            await asyncio.sleep(0)  # let the done callbacks run
        if self._executor is not None:
            self._executor.shutdown(wait=False)
