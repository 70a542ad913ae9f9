"""Databases in memory, where there is such a file system: hundreds of commits, and nobody waits for a disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

MEMORY = "/dev/shm"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    memory = MEMORY if os.path.isdir(MEMORY) and os.access(MEMORY, os.W_OK) else None
    with TemporaryDirectory(prefix="groupcoap-", dir=memory) as directory:
        yield Path(directory)
