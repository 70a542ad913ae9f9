"""What a command that a test runs in its own process must not leave behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """`manager serve` sets up the log of its process: to a standard error that is gone after the test."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    levels = {name: logging.getLogger(name).level for name in ("groupcoap", "groupcoap.drops", "groupcoap.plain")}
    yield
    root.handlers[:] = [handler for handler in root.handlers if handler in handlers] or handlers
    root.setLevel(level)
    logging.disable(disabled)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)
