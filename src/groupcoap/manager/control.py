"""The operator's way to a manager: its Unix socket while it runs, its database while it does not.

The socket is in the manager's directory, of mode 0600: who may open the database may also give commands. One line
of JSON is a command, one line is what came of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFault, GroupcoapError, MisuseError, StoreFault
from ..files.atomic import describe
from ..files.documents import Json
from .decisions import GroupManager
from .home import ManagerHome
from .operations import Operations

LIMIT = 16 << 20
"""Bytes of a line at most."""

TIMEOUT = 60.0
"""Seconds that an operator waits for a running manager."""

log = logging.getLogger("groupcoap.manager.control")


class ControlServer:
    """Serves operators. `perform` decides a command, makes it durable and sets its effects going."""

    def __init__(self, path: Path, perform: Callable[[str, dict[str, Any]], Awaitable[Json]]) -> None:
        self._path = path
        self._perform = perform
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ControlServer:
        """`EnvironmentFault` if the socket cannot be made."""
        with suppress(FileNotFoundError):
            self._path.unlink()  # of a process that was killed: the database's lock says that there is no other
        with ExitStack() as stack:
            try:
                path = stack.enter_context(_short(self._path))
                before = os.umask(0o177)
                try:
                    self._server = await asyncio.start_unix_server(self._connected, path, limit=LIMIT)
                finally:
                    os.umask(before)
            except OSError as error:
                raise EnvironmentFault(f"{self._path}: cannot be made ({describe(error)})") from None
            self._stack = stack.pop_all()  # asyncio looks at the path once more when it closes the server
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._stack.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            async for line in reader:
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # the operator is gone, or sent a line without an end, or the manager stops
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> Json:
        try:
            command = json.loads(line)
            name, arguments = command["name"], command["arguments"]
            if not isinstance(name, str) or not isinstance(arguments, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"error": "not a command", "kind": "misuse"}
        try:
            return {"result": await self._perform(name, arguments)}
        except GroupcoapError as error:
            return {"error": str(error), "kind": _kind(error)}
        except Exception:
            log.exception("the command %r failed", name)
            return {"error": "the manager failed; see its log", "kind": "environment"}


_KINDS: dict[str, type[GroupcoapError]] = {"misuse": MisuseError, "store": StoreFault}
"""Errors that arrive as what they were; all others as `EnvironmentFault`."""


def _kind(error: GroupcoapError) -> str:
    return next((kind for kind, known in _KINDS.items() if isinstance(error, known)), "environment")


def ask(home: ManagerHome, name: str, **arguments: Any) -> Json:
    """Have a manager do something, be it running or not. `MisuseError` if it says that it cannot be; other errors
    if it does not work."""
    connection = _connect(home.socket)
    if connection is None:
        return _offline(home, name, arguments)
    with connection:
        return _over_socket(connection, name, arguments)


def is_running(home: ManagerHome) -> bool:
    """Whether a manager takes commands there now."""
    connection = _connect(home.socket)
    if connection is not None:
        connection.close()
    return connection is not None


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT)
    try:
        with _short(path) as short:
            connection.connect(short)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise EnvironmentFault(f"{path}: {error.strerror}; run as the manager's user") from None
    return connection


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Another path to this socket, however long its own is: of a socket's path the kernel takes 107 bytes."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _over_socket(connection: socket.socket, name: str, arguments: dict[str, Any]) -> Json:
    try:
        connection.sendall(json.dumps({"name": name, "arguments": arguments}).encode() + b"\n")
        with connection.makefile("rb") as lines:
            line = lines.readline()
        answer: Json = json.loads(line)
    except (OSError, ValueError):
        raise EnvironmentFault("the manager stopped before it answered; start it again") from None
    if "error" in answer:
        raise _KINDS.get(answer["kind"], EnvironmentFault)(answer["error"])
    result: Json = answer["result"]
    return result


def _offline(home: ManagerHome, name: str, arguments: dict[str, Any]) -> Json:
    """Without a running manager: in the database. What has to be told to members follows when it is started."""
    store = home.open_store()
    try:
        if name == "backup":
            store.backup(Path(arguments["path"]))
            return {}
        manager = GroupManager(store.load(), time.time, os.urandom, home.configuration.points, home.directory)
        if name == "audit":
            return {"entries": store.audit(**arguments)}
        outcome = Operations(manager, home.configuration, home.directory).perform(name, arguments)
        writes = manager.take_writes()
        if writes:
            store.commit(writes)
        with suppress(StoreFault):  # what it has superseded is erased now, or when the manager is started
            store.erase()
        return outcome.result
    finally:
        store.close()
