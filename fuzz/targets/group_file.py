"""Group files (files/group.py, files/documents.py, files/identity.py)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from groupcoap.cose.keys import DEFAULT_SIGNATURE
from groupcoap.errors import FileFault
from groupcoap.files.group import load_group, save_group
from groupcoap.files.identity import IDENTITY_FILE, DeviceIdentity, save_identity
from groupcoap.membership import Role

from ..choices import Choices
from ..device import configuration
from ..documents import choose_document, directory, written
from ..group import GROUPS, LAMP, Group, private_key

_DIRECTORY = directory("group")


def check(data: bytes) -> None:
    """`FileFault`, or a group that is the same when it has been written and read again."""
    choices = Choices(data)
    good = _good(choices.one_of(GROUPS))
    path = written(_DIRECTORY / "lights.group.json", choose_document(choices, good))
    try:
        group = load_group(path)
    except FileFault:
        return
    first, second = _DIRECTORY / "first.group.json", _DIRECTORY / "second.group.json"
    save_group(first, group, overwrite=True)
    save_group(second, load_group(first), overwrite=True)
    assert first.read_bytes() == second.read_bytes()
    assert (group.roles == {Role.PURE_LISTENER}) == (group.current.own_id is None)


@cache
def _good(group: Group) -> Any:
    """A lamp's group file, as it is written; its identity file is beside it from now on."""
    path = _DIRECTORY / "good.group.json"
    _identity()
    save_group(path, configuration(group=group), overwrite=True)
    return json.loads(path.read_bytes())


@cache
def _identity() -> None:
    """The same in all groups, whatever credential they have of it."""
    credential = GROUPS[-1].credential(LAMP)
    identity = DeviceIdentity("lamp-1", DEFAULT_SIGNATURE, private_key(LAMP), credential)
    save_identity(_DIRECTORY / IDENTITY_FILE, identity)
