"""Running a manager as a process: signals, the log, systemd, metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import click

from ..endpoint.proxy import HostAndPort
from ..manager.home import ManagerHome, endpoint_text
from ..manager.server import ManagerServer
from .exits import Exit
from .stopping import stop_event
from .text import plural, printable

log = logging.getLogger("groupcoap.manager")


@dataclass(frozen=True, slots=True)
class Settings:
    """How it runs. `as_json`: the log. `metrics`: where they are served, None: nowhere. `with_parent`: it stops
    when standard input ends."""

    as_json: bool = False
    metrics: HostAndPort | None = None
    verbose: bool = False
    with_parent: bool = False


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextLines(logging.Formatter):
    """For people: what comes from elsewhere is made printable, and stays on one line."""

    def __init__(self) -> None:
        # The journal has the time of each line already.
        under_systemd = "JOURNAL_STREAM" in os.environ
        super().__init__("%(levelname)s %(message)s" if under_systemd else "%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        record.message = printable(record.message)
        return super().formatMessage(record)


def start_logging(settings: Settings) -> None:
    """The log of this process, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.as_json else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("groupcoap").setLevel(logging.DEBUG if settings.verbose else logging.INFO)
    # Whoever is on the network decides how many of these there are.
    for name in ("groupcoap.drops", "groupcoap.coap", "groupcoap.plain", "coap"):
        logging.getLogger(name).setLevel(logging.DEBUG if settings.verbose else logging.ERROR)


def notify(state: str) -> None:
    """Tell systemd, if it has started this process (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address.replace("@", "\0", 1))
        except OSError as error:
            log.warning("systemd is not told %s: %s", state.partition("=")[0], error.strerror)


async def serve(home: ManagerHome, settings: Settings) -> Exit:
    """Until SIGINT or SIGTERM, or until it cannot go on: then its `StoreFault` is raised. `EnvironmentFault` if it
    cannot begin."""
    start_logging(settings)
    if settings.metrics is not None:
        from .exporting import check_installed

        check_installed()  # before anything else is opened
    store = home.open_store()
    try:
        server = ManagerServer(store, home.configuration, control=home.socket, place=home.directory)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(server)
            if settings.metrics is not None:
                from .exporting import exporting

                stack.enter_context(exporting(server, settings.metrics))
            stop = stop_event(settings.with_parent)
            _say(settings, _ready(home, server))
            notify(f"READY=1\nSTATUS={plural(len(server.manager.groups), 'group')}")
            await _first(stop, server.stopped)
            notify("STOPPING=1")
            _let_go()
            if server.failure is None:
                _say(settings, "stopping: what is under way is finished")
    finally:
        store.close()
    if server.failure is not None:
        raise server.failure
    _say(settings, "stopped; members go on with the keys that they have")
    return Exit.DONE


def _ready(home: ManagerHome, server: ManagerServer) -> str:
    configuration, manager = home.configuration, server.manager
    where = endpoint_text((str(configuration.bind), configuration.port))
    groups, devices = plural(len(manager.groups), "group"), plural(len(manager.devices), "device")
    return f"manager {configuration.name} serves at {where} on {configuration.interface}: {groups}, {devices}"


def _say(settings: Settings, line: str) -> None:
    """A line on standard output; in JSON it is one like those of the log."""
    if settings.as_json:
        record = logging.LogRecord(log.name, logging.INFO, __file__, 0, line, None, None)
        line = JsonLines().format(record)
    click.echo(line)


def _let_go() -> None:
    """A second signal ends it at once: all that was decided is durable."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().remove_signal_handler(number)


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
