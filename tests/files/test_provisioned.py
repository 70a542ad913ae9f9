"""A device's directory, and the membership source made from it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import cbor2
import pytest

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.cose.algorithms import key_agreement_for
from groupcoap.cose.credentials import Credential, CredentialKind
from groupcoap.errors import FileFault, StateLost
from groupcoap.files.group import save_group
from groupcoap.files.identity import save_identity
from groupcoap.files.provisioned import LOOK_INTERVAL, ProvisionedMembership, load_member, state_keys
from groupcoap.files.provisioning import DevicePlan, GroupPlan, provision
from groupcoap.files.renewal import renew
from groupcoap.files.state import StateKey
from groupcoap.membership import CredentialLearned, EpochInstalled, GroupAddress, Member, MembershipSource, Role

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


def test_nothing_happens_as_long_as_the_files_are_the_same(tmp_path: Path, now: Clock) -> None:
    events: list[object] = []
    source = ProvisionedMembership.load(lamp_directory(tmp_path))
    source.subscribe(events.append)
    for _ in range(3):
        now.pass_by(1)
        source.refresh()
    assert not events


class Clock:
    """Monotonic time as the test wants it."""

    def __init__(self) -> None:
        self.time = 100.0

    def pass_by(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("groupcoap.files.provisioned.time.monotonic", lambda: clock.time)
    return clock


def test_a_new_gid_is_a_renewal(tmp_path: Path, now: Clock) -> None:
    path = lamp_directory(tmp_path)
    source = load_member(tmp_path).membership
    events: list[object] = []
    unsubscribe = source.subscribe(events.append)
    renewed = configuration(gid=b"the next gid")
    save_group(path, renewed, overwrite=True)
    source.refresh()  # too soon after the last look
    assert not events
    now.pass_by(LOOK_INTERVAL)
    source.refresh()
    (event,) = events
    assert isinstance(event, EpochInstalled)
    assert event.configuration.current.gid == b"the next gid"
    assert source.groups()[0].current.gid == b"the next gid"
    now.pass_by(LOOK_INTERVAL)
    source.refresh()
    assert len(events) == 1
    unsubscribe()
    save_group(path, configuration(gid=b"and the next"), overwrite=True)
    now.pass_by(LOOK_INTERVAL)
    source.refresh()
    assert len(events) == 1
    assert source.groups()[0].current.gid == b"and the next"


def test_a_change_between_reading_and_watching_is_not_missed(tmp_path: Path, now: Clock) -> None:
    path = lamp_directory(tmp_path)
    member = load_member(tmp_path)
    save_group(path, configuration(gid=b"the next gid"), overwrite=True)
    source = member.membership
    events: list[object] = []
    source.subscribe(events.append)
    now.pass_by(1)
    source.refresh()
    assert len(events) == 1


def test_a_further_member_is_learned(tmp_path: Path, now: Clock) -> None:
    path = lamp_directory(tmp_path)
    source = ProvisionedMembership.load(path)
    events: list[object] = []
    source.subscribe(events.append)
    known = configuration()
    newcomer = Member(b"\x77", "newcomer", frozenset({Role.LISTENER}), SWITCH.credential)
    epoch = replace(known.current, members=(*known.current.members, newcomer))
    save_group(path, replace(known, epochs=(epoch,)), overwrite=True)
    now.pass_by(1)
    source.refresh()
    assert events == [CredentialLearned("room", GID, newcomer)]


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_file_that_is_damaged_or_gone_changes_nothing(
    tmp_path: Path, now: Clock, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = lamp_directory(tmp_path)
    source = ProvisionedMembership.load(path)
    events: list[object] = []
    source.subscribe(events.append)
    path.write_bytes(content) if content else path.unlink()
    for _ in range(2):
        now.pass_by(1)
        source.refresh()
    assert not events
    assert source.groups()[0].current.gid == GID
    assert caplog.text.count("group room goes on as it was") == 1


def test_a_file_that_nobody_could_use_is_taken_once_its_mode_is_right(tmp_path: Path, now: Clock) -> None:
    path = lamp_directory(tmp_path)
    source = ProvisionedMembership.load(path)
    save_group(path, configuration(gid=b"the next gid"), overwrite=True)
    path.chmod(0o644)  # as a file that was carried may have
    now.pass_by(1)
    source.refresh()
    assert source.groups()[0].current.gid == GID
    seen = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == seen:  # the clock of the file system is coarse
        path.chmod(0o600)
    now.pass_by(1)
    source.refresh()
    assert source.groups()[0].current.gid == b"the next gid"


def test_what_a_subscriber_refuses_is_not_taken_for_known(
    tmp_path: Path, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    path = lamp_directory(tmp_path)
    source = ProvisionedMembership.load(path)

    def refuse(_event: object) -> None:
        raise StateLost(path, "no")

    source.subscribe(refuse)
    save_group(path, configuration(gid=b"the next gid"), overwrite=True)
    now.pass_by(1)
    source.refresh()
    assert "goes on as it was" in caplog.text
    assert source.groups()[0].current.gid == GID


def test_one_group_of_several(tmp_path: Path) -> None:
    lamp_directory(tmp_path)
    save_group(tmp_path / "hall.group.json", configuration(name="hall", gid=b"another gid"))
    files = load_member(tmp_path).only("room")
    assert [group.name for group in files.groups] == ["room"]
    assert [group.name for group in files.membership.groups()] == ["room"]
    assert files.paths == (tmp_path / "room.group.json",)


def test_who_was_evicted_is_told_so(tmp_path: Path, now: Clock, caplog: pytest.LogCaptureFixture) -> None:
    path = lamp_directory(tmp_path)
    source = ProvisionedMembership.load(path)
    path.rename(f"{path}.evicted")
    now.pass_by(1)
    source.refresh()
    assert "group room: this device was evicted; nobody listens to it any more" in caplog.text
    with pytest.raises(FileFault, match="was evicted from room, and has no other group"):
        load_member(tmp_path)


def test_a_directory_of_devices_is_none_itself(tmp_path: Path) -> None:
    for name in ("lamp-1", "lamp-2"):
        (tmp_path / name).mkdir()
        lamp_directory(tmp_path / name)
    with pytest.raises(FileFault, match="holds devices and is none itself; give one of lamp-1, lamp-2"):
        load_member(tmp_path)


# ---- Group OSCORE


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A group `room` with Group OSCORE: a switch and a lamp."""
    plan = GroupPlan("room", (GroupAddress(ip_address("224.0.1.187")),), profile=GROUP_OSCORE)
    devices = [
        DevicePlan("switch", frozenset({Role.MULTICASTER})),
        DevicePlan("lamp", frozenset({Role.LISTENER})),
    ]
    provision(tmp_path / "home", replace(plan, key_agreement=key_agreement_for(plan.kdf)), devices)
    return tmp_path / "home"


async def test_a_modern_group_as_its_file_has_it(home: Path) -> None:
    files = load_member(home / "lamp")
    (group,) = files.groups
    assert files.identity is not None
    assert group.current.credential == files.identity.credential
    assert group.common_context(group.current).pairwise
    switch = next(member for member in group.current.members if member.name == "switch")
    found = await files.membership.credential("room", group.current.gid, switch.endpoint_id)
    assert found == switch.credential == load_member(home / "switch").groups[0].current.credential


def test_a_renewal_of_a_modern_group_is_seen_with_its_salt(home: Path, now: Clock) -> None:
    source = load_member(home / "lamp").membership
    before = source.groups()[0]
    events: list[object] = []
    source.subscribe(events.append)
    renew(home, ["room"])
    now.pass_by(1)
    source.refresh()
    (event,) = events
    assert isinstance(event, EpochInstalled)
    assert event.configuration.current.master_salt not in (b"", before.current.master_salt)
    assert event.configuration.parameters == before.parameters


def test_a_file_with_credentials_of_several_formats_is_not_taken(
    home: Path, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source = load_member(home / "lamp").membership
    before = source.groups()[0]
    (first, second) = before.current.members
    raised = cbor2.dumps([b"", {}, first.credential.data, bytes(64)])
    members = (replace(first, credential=Credential(CredentialKind.CWT, raised)), second)
    epoch = replace(before.current, gid=bytes(12), members=members)
    save_group(home / "lamp" / "room.group.json", replace(before, epochs=(epoch,)), overwrite=True)
    now.pass_by(1)
    source.refresh()
    assert source.groups()[0].current.gid == before.current.gid
    assert "credentials of one format, but switch has cwt and lamp has ccs" in caplog.text
