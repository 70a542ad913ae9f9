"""Key logs (files/keylog.py, files/documents.py)."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from groupcoap.cli.onlooker import onlooker
from groupcoap.errors import FileFault
from groupcoap.files.keylog import KeyLog, read_key_log

from ..choices import Choices
from ..device import configuration
from ..documents import choose_changes, directory, written

_DIRECTORY = directory("key-log")


def check(data: bytes) -> None:
    """`FileFault`, or groups as pure listeners know them, which can be looked on with unless two of them contradict
    each other."""
    choices = Choices(data)
    if choices.below(8) == 7:
        content = choices.rest()
    else:
        lines = [json.dumps(choose_changes(choices, choices.one_of(_good()))) for _ in range(choices.below(4))]
        content = "\n".join(lines).encode() + b"\n" * choices.flag()
    path = written(_DIRECTORY / "changed.keys", content)
    try:
        groups = read_key_log(path)
    except FileFault:
        return
    assert all(group.current.private_key is None for group in groups)
    with suppress(FileFault):
        onlooker((Path("changed.keys"), group) for group in groups)


@cache
def _good() -> list[Any]:
    """The lines of a good key log."""
    path = _DIRECTORY / "good.keys"
    log = KeyLog(path)
    group = configuration(epochs=2)
    for epoch in group.epochs:
        log.record(group, epoch)
    return [json.loads(line) for line in path.read_bytes().splitlines()]
