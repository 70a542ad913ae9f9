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
from ..group import GROUPS, Group

_DIRECTORY = directory("key-log")


def check(data: bytes) -> None:
    """`FileFault`, or groups as pure listeners know them, which can be looked on with unless two of them contradict
    each other."""
    choices = Choices(data)
    group = choices.one_of(GROUPS)
    if choices.below(8) == 7:
        content = choices.rest()
    else:
        lines = [json.dumps(choose_changes(choices, choices.one_of(_good(group)))) for _ in range(choices.below(4))]
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
def _good(group: Group) -> list[Any]:
    """The lines of a good key log."""
    path = _DIRECTORY / f"good-{GROUPS.index(group)}.keys"
    log = KeyLog(path)
    known = configuration(epochs=2, group=group)
    for epoch in known.epochs:
        log.record(known, epoch)
    return [json.loads(line) for line in path.read_bytes().splitlines()]
