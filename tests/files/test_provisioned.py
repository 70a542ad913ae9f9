"""A device's directory, and the membership source made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from groupcoap.errors import FileFault
from groupcoap.files.group import save_group
from groupcoap.files.identity import save_identity
from groupcoap.files.provisioned import ProvisionedMembership, load_member, state_keys
from groupcoap.files.state import StateKey
from groupcoap.membership import MembershipSource

from .samples import GID, LAMP, SWITCH, configuration, lamp_directory, pure_configuration


def test_a_directory_gives_all_its_groups(tmp_path: Path) -> None:
    lamp_directory(tmp_path)
    save_group(tmp_path / "hall.group.json", configuration(name="hall", gid=b"another gid"))
    files = load_member(tmp_path)
    assert [group.name for group in files.groups] == ["hall", "room"]
    assert files.name == "lamp-1"
    assert files.state == tmp_path / "state.journal"
    assert [group.name for group in files.membership.groups()] == ["hall", "room"]


def test_a_group_file_gives_that_group_alone(tmp_path: Path) -> None:
    path = lamp_directory(tmp_path)
    save_group(tmp_path / "hall.group.json", configuration(name="hall", gid=b"another gid"))
    files = load_member(path)
    assert [group.name for group in files.groups] == ["room"]
    assert files.directory == tmp_path
    assert files.state == tmp_path / "state.journal"


def test_a_pure_listener_is_called_as_its_directory(tmp_path: Path) -> None:
    (tmp_path / "panel").mkdir()
    save_group(tmp_path / "panel" / "room.group.json", pure_configuration())
    files = load_member(tmp_path / "panel")
    assert files.identity is None
    assert files.name == "panel"
    assert state_keys(files.groups[0]) == (StateKey("room", GID, None),)
    save_identity(tmp_path / "panel" / "identity.json", LAMP)
    assert load_member(tmp_path / "panel").name == "lamp-1"


def test_what_is_no_device_directory(tmp_path: Path) -> None:
    with pytest.raises(FileFault, match=r"has no \*.group.json in it; provision the device first"):
        load_member(tmp_path)
    with pytest.raises(FileFault, match="does not exist"):
        load_member(tmp_path / "none")


def test_two_files_of_one_group(tmp_path: Path) -> None:
    lamp_directory(tmp_path)
    save_group(tmp_path / "room2.group.json", configuration())
    with pytest.raises(FileFault, match=r"name: is the group of room.group.json too"):
        load_member(tmp_path)


async def test_credentials_come_from_the_file(tmp_path: Path) -> None:
    source: MembershipSource = ProvisionedMembership.load(lamp_directory(tmp_path))
    assert await source.credential("room", GID, b"\x00") == SWITCH.credential
    assert await source.credential("room", GID, b"\x09") is None
    assert await source.credential("room", b"another gid", b"\x00") is None
    assert await source.credential("hall", GID, b"\x00") is None


def test_nothing_ever_happens(tmp_path: Path) -> None:
    events: list[object] = []
    source = ProvisionedMembership.load(lamp_directory(tmp_path))
    source.subscribe(events.append)()
    assert not events
