"""Renewing static groups in their files: everybody who stays gets the same new keys, and nothing old comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groupcoap.cli import main
from groupcoap.errors import FileFault, MisuseError, StateCopied, StateLocked, StateLost
from groupcoap.files import renewal as renewal_module
from groupcoap.files.group import save_group
from groupcoap.files.provisioned import load_member, state_keys
from groupcoap.files.renewal import groups_in, renew
from groupcoap.files.state import EndpointState, StateKey
from groupcoap.membership import Epoch, GroupConfiguration

DEVICES = ("lamp-1", "lamp-2", "lamp-3", "panel-1", "switch-1")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One switch, three lamps, one panel in the group room."""
    directory = tmp_path / "home"
    made = ["provision", str(directory), "--switches", "1", "--lamps", "3", "--pure-listeners", "1"]
    assert main(made) == 0
    return directory


def group(home: Path, device: str, name: str = "room") -> GroupConfiguration:
    return load_member(home / device / f"{name}.group.json").groups[0]


def epoch(home: Path, device: str, name: str = "room") -> Epoch:
    return group(home, device, name).current


def second_group(home: Path) -> None:
    joining = [argument for lamp in ("lamp-1", "lamp-2") for argument in ("--join", f"{lamp}=listener")]
    address = ("--address", "224.0.1.188")
    assert (
        main(["provision", str(home), "--group", "hall", *address, "--join", "switch-1=multicaster", *joining]) == 0
    )


def number(home: Path, device: str, name: str = "room") -> int:
    """The next sequence number of this device."""
    with EndpointState.open(home / device / "state.journal") as state:
        (key,) = state_keys(group(home, device, name))
        assert key.own_id is not None
        return state.sequence_numbers(key.group, key.gid, key.own_id).take()


def test_everybody_gets_the_same_new_keys_and_keeps_its_id(home: Path) -> None:
    before = {device: epoch(home, device) for device in DEVICES}
    result = renew(home, ["room"])
    after = {device: epoch(home, device) for device in DEVICES}
    assert {e.gid for e in after.values()} == {result.groups[0].gid}
    assert result.groups[0].gid == before["lamp-1"].gid[:8] + bytes((0, 0, 0, 1))
    secrets = {e.master_secret.reveal() for e in after.values()}
    assert len(secrets) == 1
    assert secrets.isdisjoint(e.master_secret.reveal() for e in before.values())
    for device in DEVICES:
        assert after[device].own_id == before[device].own_id
        assert after[device].members == before[device].members
        assert len(group(home, device).epochs) == 1
        assert (home / device / "room.group.json").stat().st_mode & 0o777 == 0o600
    assert tuple(device.name for device in result.devices) == DEVICES


def test_again_and_again(home: Path) -> None:
    gids = [renew(home, ["room"]).groups[0].gid for _ in range(3)]
    assert [gid[8:] for gid in gids] == [n.to_bytes(4, "big") for n in (1, 2, 3)]


def test_an_epoch_never_wraps(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = epoch(home, "lamp-1").gid[:8]
    assert renewal_module._next_gid(prefix + b"\xff\xff\xff\xfd") == prefix + b"\xff\xff\xff\xfe"
    wrapped = renewal_module._next_gid(prefix + b"\xff\xff\xff\xfe")
    assert wrapped[:8] != prefix
    assert wrapped[8:] == bytes(4)


def test_used_state_gets_the_new_gid_and_loses_the_old(home: Path) -> None:
    before = epoch(home, "switch-1")
    assert number(home, "switch-1") == 0
    result = renew(home, ["room"])
    assert number(home, "switch-1") == 0
    assert result.devices[-1].lost is None
    assert before.own_id is not None
    with EndpointState.open(home / "switch-1" / "state.journal") as state, pytest.raises(StateLost):
        state.add_key("room", before.gid, before.own_id)


@pytest.mark.parametrize("harm", ["missing", "copied", "damaged"])
def test_lost_state_is_made_anew_with_the_new_gid_only(home: Path, harm: str) -> None:
    before = epoch(home, "switch-1")
    number(home, "switch-1")
    path = home / "switch-1" / "state.journal"
    data = path.read_bytes()
    path.unlink()
    if harm == "copied":
        path.write_bytes(data)
    elif harm == "damaged":
        path.write_bytes(data.replace(b"key", b"kex"))
    if path.exists():
        path.chmod(0o600)
    with pytest.raises(FileFault):
        EndpointState.open(path)
    result = renew(home, ["room"])
    assert [device.name for device in result.devices if device.lost] == ["switch-1"]
    with EndpointState.open(path) as state, pytest.raises(StateLost):
        state.add_key("room", before.gid, before.own_id)
    assert number(home, "switch-1") == 0


def test_a_running_device_is_left_alone(home: Path) -> None:
    with EndpointState.open(home / "lamp-1" / "state.journal") as state:
        result = renew(home, ["room"])
        assert [device.name for device in result.devices if device.running] == ["lamp-1"]
        assert [key.gid for key in state.keys] == [result.groups[0].before]
        state.add_key("room", result.groups[0].gid, b"\x01")  # as its endpoint does when it sees the file
    assert epoch(home, "lamp-1").gid == result.groups[0].gid


def test_a_device_that_starts_at_that_moment_is_left_alone_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    EndpointState.open(home / "lamp-1" / "state.journal").close()

    def locked(_path: Path) -> EndpointState:
        raise StateLocked("in use")

    monkeypatch.setattr(EndpointState, "open", locked)
    result = renew(home, ["room"])
    assert [device.name for device in result.devices if device.running] == ["lamp-1"]


def test_one_that_is_running_on_lost_state_must_be_stopped_first(home: Path) -> None:
    before = {device: (home / device / "room.group.json").read_bytes() for device in DEVICES}
    with EndpointState.open(home / "switch-1" / "state.journal") as state:
        (home / "switch-1" / "state.journal").unlink()
        with pytest.raises(StateLocked, match="stop that first"):
            renew(home, ["room"])
        with pytest.raises(FileFault, match="was removed or replaced while in use"):
            state.sequence_numbers("room", epoch(home, "switch-1").gid, b"\x00").take()
    assert {device: (home / device / "room.group.json").read_bytes() for device in DEVICES} == before


def test_the_evicted_stay_behind_and_their_ids_are_stale(home: Path) -> None:
    old = {device: (home / device / "room.group.json").read_bytes() for device in DEVICES}
    gone = epoch(home, "lamp-2").own_id
    result = renew(home, ["room"], evict=["lamp-2", "panel-1"])
    assert result.groups[0].evicted == ("lamp-2", "panel-1")
    for device in ("lamp-2", "panel-1"):
        assert not (home / device / "room.group.json").exists()
        assert (home / device / "room.group.json.evicted").read_bytes() == old[device]
    for device in ("lamp-1", "lamp-3", "switch-1"):
        now = epoch(home, device)
        assert now.departed == {gone}
        assert gone not in {member.endpoint_id for member in now.members}
    again = renew(home, ["room"])
    assert [device.name for device in again.devices] == ["lamp-1", "lamp-3", "switch-1"]
    assert epoch(home, "lamp-1").departed == {gone}


def test_who_was_evicted_once_does_not_slip_back_in(home: Path) -> None:
    renew(home, ["room"], evict=["lamp-2"])
    file = home / "lamp-2" / "room.group.json"
    os.rename(f"{file}.evicted", file)
    result = renew(home, ["room"])
    assert "lamp-2" not in [device.name for device in result.devices]
    assert result.groups[0].evicted == ()


def test_members_whose_files_are_missing(home: Path) -> None:
    shutil.move(home / "lamp-3", home.parent / "lamp-3")
    with pytest.raises(FileFault, match="files of lamp-3 are not in it; bring them, or --evict"):
        renew(home, ["room"])
    assert renew(home, ["room"], evict=["lamp-3"]).groups[0].evicted == ("lamp-3",)


def test_who_cannot_be_evicted(home: Path) -> None:
    before = {device: (home / device / "room.group.json").read_bytes() for device in DEVICES}
    with pytest.raises(MisuseError, match="'lamp-9' is no member"):
        renew(home, ["room"], evict=["lamp-9"])
    with pytest.raises(MisuseError, match="nobody would be left in room to send"):
        renew(home, ["room"], evict=["switch-1"])
    with pytest.raises(MisuseError, match="or nobody to listen"):
        renew(home, ["room"], evict=["lamp-1", "lamp-2", "lamp-3", "panel-1"])
    assert {device: (home / device / "room.group.json").read_bytes() for device in DEVICES} == before


def test_where_there_is_nothing_to_renew(home: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFault, match="nobody in it is in a group 'hall'; there is room"):
        renew(home, ["hall"])
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "empty", home / "lamp-1", tmp_path / "missing"):
        with pytest.raises(FileFault, match="give the directory"):
            groups_in(directory)


def test_after_an_interruption_it_can_be_done_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def fails(path: Path, configuration: GroupConfiguration, *, overwrite: bool) -> None:
        if len(written) == 2:
            raise FileFault(path, "cannot be written")
        written.append(path)
        save_group(path, configuration, overwrite=overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(renewal_module, "save_group", fails)
        with pytest.raises(FileFault, match="cannot be written"):
            renew(home, ["room"])
    assert len({epoch(home, device).gid for device in DEVICES}) == 2
    result = renew(home, ["room"])
    assert {epoch(home, device).gid for device in DEVICES} == {result.groups[0].gid}
    assert result.groups[0].gid[8:] == bytes((0, 0, 0, 2))
    assert number(home, "switch-1") == 0
    assert number(home, "lamp-1") == 0


def test_an_eviction_that_was_interrupted_can_be_done_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, configuration: GroupConfiguration, *, overwrite: bool) -> None:
        if path.parent.name == "lamp-3":
            raise FileFault(path, "cannot be written")
        save_group(path, configuration, overwrite=overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(renewal_module, "save_group", fails)
        with pytest.raises(FileFault, match="cannot be written"):
            renew(home, ["room"], evict=["lamp-2", "panel-1"])
    gone = epoch(home, "lamp-1").departed
    assert len(gone) == 1
    for _ in range(2):
        result = renew(home, ["room"], evict=["lamp-2", "panel-1"])
        assert [device.name for device in result.devices] == ["lamp-1", "lamp-3", "switch-1"]
        assert {epoch(home, device).gid for device in ("lamp-1", "lamp-3", "switch-1")} == {result.groups[0].gid}
        assert epoch(home, "switch-1").departed == gone


def test_whoever_sends_gets_the_new_keys_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    assert main(["provision", str(home), "--device", "a-switch=multicaster", "--lamps", "2"]) == 0
    written: list[str] = []

    def noted(path: Path, configuration: GroupConfiguration, *, overwrite: bool) -> None:
        written.append(path.parent.name)
        save_group(path, configuration, overwrite=overwrite)

    monkeypatch.setattr(renewal_module, "save_group", noted)
    renew(home, ["room"])
    assert written == ["lamp-1", "lamp-2", "a-switch"]


KILLED = """
import os, sys
from pathlib import Path
from groupcoap.files.renewal import renew

replace, written = os.replace, []

def killed(source, target):
    written.append(target)
    if len(written) == 4:
        os.kill(os.getpid(), 9)
    replace(source, target)

os.replace = killed
renew(Path(sys.argv[1]), ["room"])
"""


def test_what_a_killed_renewal_has_left_behind_goes_with_the_next(home: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(home)], check=False).returncode == -9
    assert len(list(home.glob("*/.room.group.json.*"))) == 1  # with a Master Secret
    renew(home, ["room"])
    assert list(home.glob("*/.*")) == []
    left = home / "lamp-1" / ".state.journal.0123456789ab"
    left.touch()
    assert number(home, "lamp-1") == 0
    assert not left.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_renewal_by_the_administrator_leaves_files_to_their_user(home: Path) -> None:
    names = ("room.group.json", "state.journal")
    for name in names:
        os.chown(home / "lamp-1" / name, 1234, 1235)
    renew(home, ["room"])
    for name in names:
        status = (home / "lamp-1" / name).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 1235, 0o600)


def test_a_device_and_a_copy_of_it_are_not_renewed_both(home: Path) -> None:
    number(home, "switch-1")
    shutil.copytree(home / "switch-1", home / "switch-2")
    before = epoch(home, "switch-1").gid
    for _ in range(2):
        with pytest.raises(FileFault, match=r"switch-2.*same Endpoint ID as .*switch-1.*remove the one"):
            renew(home, ["room"])
    assert epoch(home, "switch-1").gid == before
    shutil.copytree(home / "panel-1", home / "panel-2")  # which sends nothing
    renew(home, ["room"], evict=["switch-2"])
    assert epoch(home, "switch-1").departed == frozenset()
    assert not (home / "switch-2" / "room.group.json").exists()


def test_all_groups_at_once(home: Path) -> None:
    second_group(home)
    assert groups_in(home) == ("hall", "room")
    result = renew(home, ["hall", "room"])
    assert {group.name: group.gid[8:] for group in result.groups} == dict.fromkeys(
        ("hall", "room"), bytes((0, 0, 0, 1))
    )
    by_name = {device.name: device for device in result.devices}
    assert by_name["lamp-1"].groups == ("hall", "room")
    assert by_name["lamp-3"].groups == ("room",)
    assert all(not device.without for device in result.devices)
    for name in ("hall", "room"):
        assert number(home, "lamp-1", name) == 0


def test_one_of_two_groups_with_used_state_leaves_the_other_as_it_is(home: Path) -> None:
    second_group(home)
    assert number(home, "lamp-1", "hall") == 0
    result = renew(home, ["room"])
    assert {device.name: device.without for device in result.devices}["lamp-1"] == ()
    assert number(home, "lamp-1", "hall") == 1
    assert number(home, "lamp-1", "room") == 0


def test_one_of_two_groups_without_state_shuts_the_device_out_of_the_other(home: Path) -> None:
    second_group(home)
    assert number(home, "lamp-1", "hall") == 0
    (home / "lamp-1" / "state.journal").unlink()
    result = renew(home, ["room"])
    assert {device.name: device.without for device in result.devices}["lamp-1"] == ("hall",)
    assert number(home, "lamp-1", "room") == 0
    with pytest.raises(StateLost):
        number(home, "lamp-1", "hall")
    with EndpointState.open(home / "lamp-1" / "state.journal") as state:
        (key,) = state_keys(group(home, "lamp-1", "hall"))
        with pytest.raises(StateLost, match="has forgotten"):
            state.add_key(key.group, key.gid, key.own_id)
    renew(home, ["hall"])
    assert number(home, "lamp-1", "hall") == 0


def test_a_copy_that_was_carried_and_used_gets_no_number_twice(home: Path) -> None:
    """What was made for a device and never used here may have been carried there: it is made anew."""
    path = home / "switch-1" / "state.journal"
    unused = path.read_bytes()
    renew(home, ["room"])
    report = EndpointState.examine(path)
    assert report.never_used
    assert set(report.used) == {StateKey("room", epoch(home, "switch-1").gid, b"\x00")}
    path.write_bytes(unused)
    with pytest.raises(StateCopied):
        EndpointState.open(path)


def test_joining_leaves_unused_state_unused(home: Path) -> None:
    second_group(home)
    report = EndpointState.examine(home / "lamp-1" / "state.journal")
    assert report.never_used
    assert {key.group for key in report.used} == {"hall", "room"}
    assert not os.path.exists(home / "lamp-1" / "state.journal.lock")


def test_what_can_be_put_right_is_not_taken_for_lost(home: Path) -> None:
    number(home, "switch-1")
    state = home / "switch-1" / "state.journal"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    state.chmod(0o644)
    with pytest.raises(FileFault, match="chmod 600"):
        renew(home, ["room"])
    state.chmod(0o600)
    os.link(state, home / "second")
    with pytest.raises(FileFault, match="has a second name"):
        renew(home, ["room"])
    (home / "second").unlink()
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    renew(home, ["room"])


def test_two_renewals_at_once_are_refused(home: Path) -> None:
    with renewal_module._alone(home), pytest.raises(StateLocked, match="is being renewed by another process"):
        renew(home, ["room"])
    renew(home, ["room"])


# ---- Group OSCORE


@pytest.fixture
def modern(tmp_path: Path) -> Path:
    """The same, with Group OSCORE."""
    directory = tmp_path / "modern"
    devices = ("--switches", "1", "--lamps", "3", "--pure-listeners", "1")
    choices = ("--group-encryption", "A128CTR", "--responses", "pairwise", "--countersignature", "rfc9338")
    assert main(["provision", str(directory), "--profile", "group-oscore", *devices, *choices]) == 0
    return directory


def test_a_modern_group_gets_a_new_master_salt_too_and_keeps_credentials_and_manager(modern: Path) -> None:
    manager = (modern / "room.manager.json").read_bytes()
    before = {device: group(modern, device) for device in DEVICES}
    result = renew(modern, ["room"])
    assert (modern / "room.manager.json").read_bytes() == manager
    after = {device: group(modern, device) for device in DEVICES}
    assert len({made.current.master_salt for made in after.values()}) == 1
    assert after["lamp-1"].current.master_salt != before["lamp-1"].current.master_salt
    assert len(after["lamp-1"].current.master_salt) == 8
    assert after["lamp-1"].current.master_secret.reveal() != before["lamp-1"].current.master_secret.reveal()
    for device in DEVICES:
        then, now = before[device], after[device]
        assert now.current.gid == result.groups[0].gid != then.current.gid
        assert now.parameters == then.parameters
        assert now.policy == then.policy
        assert now.current.credential == then.current.credential
        assert now.current.members == then.current.members


def test_who_is_evicted_from_a_modern_group_is_in_no_file_of_the_others(modern: Path) -> None:
    evicted = epoch(modern, "lamp-2")
    assert evicted.credential is not None
    manager = (modern / "room.manager.json").read_bytes()
    result = renew(modern, ["room"], evict=["lamp-2", "panel-1"])
    assert result.groups[0].evicted == ("lamp-2", "panel-1")
    for device in ("lamp-1", "lamp-3", "switch-1"):
        made = epoch(modern, device)
        assert made.departed == {evicted.own_id}
        assert [member.name for member in made.members] == ["switch-1", "lamp-1", "lamp-3"]
        assert evicted.credential.data.hex() not in (modern / device / "room.group.json").read_text()
    assert (modern / "room.manager.json").read_bytes() == manager
    assert not (modern / "lamp-2" / "room.group.json").exists()


def test_one_of_two_groups_of_different_profiles_is_renewed(modern: Path) -> None:
    joining = ("--join", "switch-1=multicaster", "--join", "lamp-1=listener")
    draft = ("--profile", "multicast-oscore-04", "--group", "hall", "--address", "224.0.1.188")
    assert main(["provision", str(modern), *draft, *joining]) == 0
    before = {name: epoch(modern, "lamp-1", name) for name in ("room", "hall")}
    file = (modern / "lamp-1" / "room.group.json").read_bytes()
    renew(modern, ["hall"])
    assert (modern / "lamp-1" / "room.group.json").read_bytes() == file
    assert epoch(modern, "lamp-1", "hall").gid != before["hall"].gid
    assert epoch(modern, "lamp-1", "hall").master_salt == b""
    assert groups_in(modern) == ("hall", "room")
    renew(modern, groups_in(modern))
    assert epoch(modern, "lamp-1", "room").gid != before["room"].gid
