"""Requests that wait for answers, remembered beyond the death of their process.

A request is written down before it leaves, an answer before it is delivered: who takes over the state can go on
collecting, and no answer counts twice. Nothing is synchronized to the disk, since a file is as durable as it needs
to be for that: what a process has written stays when it is killed. What may be lost is lost with the machine, so
the file counts only within the boot, and for the run, that it was written in. Whatever else is wrong with it, it
is ignored: exchanges may be forgotten at any time without harm.

    90a1c2e3 ["of", boot, run]
    5f3c9a01 ["sent", token, group, gid, own_id, partial_iv, sent, deadline, [endpoint_id, …]]
    0c7d1b22 ["answered", token, endpoint_id]
    77aa0b15 ["ended", token]
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from .atomic import PRIVATE_MODE, describe
from .journal import Record, decode_record, encode_record

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
COMPACT_AT = 1 << 18
"""Bytes that the file may grow to until it is written anew."""
MAX_SIZE = 4 * COMPACT_AT
LEFT_OVER_FOR = 60.0
"""Seconds after its deadline that a request is still handed on, for who has not answered."""

log = logging.getLogger("groupcoap.state")


@dataclass(slots=True)
class PendingRequest:
    """A group request that waits for answers, and who has given one. `sent` and `deadline` are monotonic seconds of
    this boot; `roster`: Endpoint IDs that are expected to answer."""

    token: bytes
    group: str
    gid: bytes
    own_id: bytes
    partial_iv: bytes
    sent: float
    deadline: float
    roster: frozenset[bytes]
    answered: set[bytes] = field(default_factory=set)


class PendingRequests:
    """The requests of one run of an endpoint's state. `left_over`: those of the process before that nobody has
    taken over yet.

    Without a `path` it is memory alone. Nothing here raises: what cannot be written is not remembered, and said
    once in the log."""

    __slots__ = ("_descriptor", "_grown", "_head", "_path", "_requests", "left_over")

    def __init__(self, path: Path | None = None, run: str = "", before: str = "") -> None:
        self._path = path
        self._requests: dict[bytes, PendingRequest] = {}
        self._head: Record = ["of", _boot_id(), run]
        self._descriptor = -1
        self._grown = 0
        self.left_over: dict[bytes, PendingRequest] = {}
        if path is not None:
            since = time.monotonic() - LEFT_OVER_FOR
            found = _load(path, ["of", _boot_id(), before])
            self.left_over = {token: request for token, request in found.items() if request.deadline > since}
            self._requests |= self.left_over
            if self.left_over:
                self._write_anew()
            else:
                with suppress(OSError):
                    os.unlink(path)

    def sent(self, request: PendingRequest) -> None:
        """This request is about to leave."""
        self._requests[request.token] = request
        self._append(_sent(request))

    def answered(self, token: bytes, endpoint_id: bytes) -> None:
        """This listener's answer is about to be delivered."""
        request = self._requests.get(token)
        if request is not None:
            request.answered.add(endpoint_id)
            self._append(["answered", token.hex(), endpoint_id.hex()])

    def ended(self, token: bytes) -> None:
        """Nobody waits for answers any more."""
        self.left_over.pop(token, None)
        if self._requests.pop(token, None) is not None:
            self._append(["ended", token.hex()])

    def close(self) -> None:
        """Write nothing more."""
        self._path = None
        self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _append(self, record: Record) -> None:
        if self._path is None:
            return
        if self._descriptor < 0:  # the first one of this run
            self._write_anew()
            return
        line = encode_record(record)
        try:
            _write(self._descriptor, line)
        except OSError as error:
            self._give_up(self._path, error)
            return
        self._grown += len(line)
        if self._grown > COMPACT_AT:
            self._write_anew()

    def _write_anew(self) -> None:
        assert self._path is not None
        temporary = self._path.with_name(f".{self._path.name}.new")  # one name: a kill leaves one file at most
        data = b"".join(encode_record(record) for record in self._records())
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, PRIVATE_MODE)
            self._let_go()
            self._descriptor = descriptor
            _write(descriptor, data)
            os.replace(temporary, self._path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            self._give_up(self._path, error)
        self._grown = 0

    def _records(self) -> list[Record]:
        records = [self._head]
        for request in self._requests.values():
            records.append(_sent(request))
            records += [["answered", request.token.hex(), who.hex()] for who in request.answered]
        return records

    def _give_up(self, path: Path, error: OSError) -> None:
        log.warning("%s: requests are not remembered any more (%s)", path, describe(error))
        with suppress(OSError):  # what stands in it is no longer all: an answer would count twice
            os.unlink(path)
        self.close()


def _write(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):
        raise OSError("no space left")


def _boot_id() -> str | None:
    try:
        return BOOT_ID_FILE.read_text("ascii").strip()
    except (OSError, ValueError):
        return None


def _sent(request: PendingRequest) -> Record:
    return [
        "sent",
        request.token.hex(),
        request.group,
        request.gid.hex(),
        request.own_id.hex(),
        request.partial_iv.hex(),
        request.sent,
        request.deadline,
        sorted(endpoint_id.hex() for endpoint_id in request.roster),
    ]


def _load(path: Path, head: Record) -> dict[bytes, PendingRequest]:
    """What the file says, up to the first line that is not whole; nothing if it is of another run or boot."""
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_SIZE).split(b"\n")
    except (OSError, ValueError):
        return {}
    if head[1] is None or not head[2] or decode_record(lines[0]) != head:
        return {}
    requests: dict[bytes, PendingRequest] = {}
    for line in lines[1:]:
        try:
            _apply(requests, *(decode_record(line) or ()))
        except (TypeError, ValueError, KeyError, OverflowError):
            break
    return requests


def _apply(requests: dict[bytes, PendingRequest], kind: str, token: str, *rest: Any) -> None:
    key = bytes.fromhex(token)
    if kind == "sent":
        group, gid, own_id, partial_iv, sent, deadline, roster = rest
        ids = frozenset(bytes.fromhex(endpoint_id) for endpoint_id in roster)
        sent, deadline = float(sent), float(deadline)
        if not 0 <= sent < deadline < inf or not isinstance(group, str):
            raise ValueError("a request of no group, or at no time")
        requests[key] = PendingRequest(
            key,
            group,
            bytes.fromhex(gid),
            bytes.fromhex(own_id),
            bytes.fromhex(partial_iv),
            sent,
            deadline,
            ids,
        )
    elif kind == "answered":
        (endpoint_id,) = rest
        requests[key].answered.add(bytes.fromhex(endpoint_id))
    elif kind == "ended":
        del requests[key]
    else:
        raise ValueError("a record of no known kind")
