"""When a command that goes on and on is to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys


def stop_event(with_parent: bool) -> asyncio.Event:
    """Set by SIGINT and SIGTERM; `with_parent`: also when standard input ends, as it does with who holds it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    if with_parent:
        loop.add_reader(sys.stdin.fileno(), read)
    return stop
