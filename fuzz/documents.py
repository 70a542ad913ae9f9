"""Documents for the targets of files: a good one, changed in a few places; and where they are written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from atexit import register
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from .choices import Choices

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, -7, -8, 10, 24, 255, 1 << 40, 1 << 64, 0.5, 1e308, float("nan")),
    *("", "00", "0", "a", "\n", "é", "\ud800", "a" * 300, "ff" * 20, "224.0.1.187", "[ff05::fd]:1", "multicaster"),
    *([], {}, [[]], [0], {"": 0}),
)


@cache
def directory(name: str) -> Path:
    """A directory of this process by this name, in memory where that is possible; it goes with the process."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 — a directory is made in it
    path = Path(tempfile.mkdtemp(prefix=f"groupcoap-fuzz-{name}-", dir=memory))
    register(shutil.rmtree, path, ignore_errors=True)
    return path


def written(path: Path, content: bytes) -> Path:
    """A private file with this content."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return path


def choose_document(choices: Choices, good: Any) -> bytes:
    """The JSON text of a document like the good one; or any bytes."""
    if choices.below(8) == 7:
        return choices.rest()
    return json.dumps(choose_changes(choices, good)).encode()


def choose_changes(choices: Choices, good: Any) -> Any:
    """A JSON value like the good one, but for up to four changes."""
    root = [deepcopy(good)]
    for _ in range(choices.below(5)):
        _change(root, choices)
    return root[0]


def _change(root: list[Any], choices: Choices) -> None:
    """Change one member or element, however deep."""
    inside: Any = root
    where: Any = 0
    while isinstance(inside[where], dict | list) and inside[where] and choices.below(8):
        inside = inside[where]
        where = choices.one_of(list(inside) if isinstance(inside, dict) else range(len(inside)))
    how = choices.below(6)
    if how == 0 and inside is not root:
        del inside[where]
    elif how == 1 and isinstance(inside, dict):
        inside[choices.some().decode("utf-8", "replace")] = inside[where]
    elif how == 2 and isinstance(inside, list) and inside is not root:
        inside.append(deepcopy(inside[where]))
    elif how == 3 and isinstance(inside[where], str):
        inside[where] = _changed_text(inside[where], choices)
    elif how == 4 and isinstance(inside[where], int):
        inside[where] += choices.byte() - 128
    else:
        inside[where] = deepcopy(choices.one_of(_VALUES))


def _changed_text(text: str, choices: Choices) -> str:
    at = choices.byte() % (len(text) + 1)
    new = choices.take(choices.below(4)).decode("latin-1")
    return text[:at] + new + text[at + choices.below(4) :]
