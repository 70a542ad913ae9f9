"""Checks of a device's files, each failing and passing."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import cbor2
import pytest
from homes import IPV4, make_home, obey

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.profile import Mode
from groupcoap.cose.algorithms import encryption_algorithm
from groupcoap.cose.credentials import Credential, CredentialKind
from groupcoap.diagnosis import Finding, Level
from groupcoap.diagnosis.files import (
    check_credentials,
    check_groups,
    check_pairwise,
    check_privacy,
    describe_group,
    describe_profile,
    read_device,
)
from groupcoap.errors import FileFault
from groupcoap.files.group import GroupFile, save_group
from groupcoap.files.identity import generate_identity
from groupcoap.files.provisioning import DevicePlan, GroupPlan, provision
from groupcoap.membership import GroupAddress, GroupConfiguration, Member, Role
from groupcoap.secret import Secret

NOW = 1_600_000_000.0


@pytest.fixture
def lamp(tmp_path: Path) -> Path:
    return make_home(tmp_path)


def faults(path: Path) -> list[Finding]:
    _, found = read_device(path)
    assert {finding.level for finding in found} <= {Level.PROBLEM}
    return found


def the_group(path: Path) -> GroupFile:
    device, _ = read_device(path)
    (group,) = device.groups
    return group


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- there, readable, belonging together


def test_a_device_as_provisioned_is_in_order(lamp: Path) -> None:
    device, found = read_device(lamp)
    assert found == []
    assert device.addresses == (IPV4,)
    assert device.newest == max(path.stat().st_mtime for path in lamp.iterdir())
    assert check_privacy(device).level is Level.OK
    assert list(check_groups(device.configurations)) == []


def test_one_group_file_will_do(lamp: Path) -> None:
    device, found = read_device(lamp / "hall.group.json")
    assert (found, device.directory, len(device.groups)) == ([], lamp, 1)


def test_nothing_there_is_not_a_finding_but_a_wrong_path(lamp: Path) -> None:
    with pytest.raises(FileFault, match="does not exist"):
        read_device(lamp / "nobody")


def test_a_file_that_is_open_to_others_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    lamp = make_home(tmp_path / "with a space; and more")
    group = lamp / "hall.group.json"
    group.chmod(0o640)
    (finding,) = faults(lamp)
    assert "open to others" in finding.found
    obey(finding)
    assert faults(lamp) == []


def test_the_same_fault_of_an_identity_is_said_once(lamp: Path) -> None:
    shutil.copy(lamp / "hall.group.json", lamp / "stairs.group.json")
    edit(lamp / "stairs.group.json", name="stairs")
    (lamp / "identity.json").chmod(0o604)
    (finding,) = faults(lamp)
    assert finding.found == f"{lamp / 'identity.json'}: holds secrets but is open to others"


def test_a_damaged_file_does_not_hide_the_other_groups(lamp: Path) -> None:
    (lamp / "attic.group.json").write_text('{"format": "groupcoap-group", ')
    (lamp / "attic.group.json").chmod(0o600)
    device, (finding,) = read_device(lamp)
    assert "attic.group.json: is damaged" in finding.found
    assert finding.advice == "restore it from a copy"
    assert [group.name for group in device.configurations] == ["hall"]


def test_a_newer_version_asks_for_an_upgrade(lamp: Path) -> None:
    edit(lamp / "hall.group.json", version=99)
    (finding,) = faults(lamp)
    assert finding.advice == "upgrade groupcoap"


def test_a_missing_identity_and_that_of_another_device(lamp: Path) -> None:
    (lamp / "identity.json").rename(lamp / "aside.json")
    (missing,) = faults(lamp)
    assert "identity.json: does not exist" in missing.found
    shutil.copy(lamp.parent / "switch" / "identity.json", lamp / "identity.json")
    (foreign,) = faults(lamp)
    assert "another public key than its identity file" in foreign.found


def test_a_directory_without_groups(tmp_path: Path) -> None:
    device, (finding,) = read_device(tmp_path)
    assert finding.advice == "provision the device first, or enroll it at a Group Manager"
    assert (device.groups, device.newest) == ((), 0)


# ---- nobody else's


def test_a_directory_that_others_can_write_to(lamp: Path) -> None:
    lamp.chmod(0o770)
    device, _ = read_device(lamp)
    finding = check_privacy(device)
    assert finding.level is Level.PROBLEM
    obey(finding)
    assert check_privacy(device).level is Level.OK
    assert lamp.stat().st_mode & 0o777 == 0o750


def test_provisioning_lets_nobody_else_write_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        lamp = make_home(tmp_path / "free for all")
    finally:
        os.umask(before)
    device, _ = read_device(lamp)
    assert check_privacy(device).level is Level.OK
    assert lamp.parent.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user(lamp: Path) -> None:
    os.chown(lamp / "identity.json", 12345, -1)
    device, _ = read_device(lamp)
    finding = check_privacy(device)
    assert finding.level is Level.WARNING
    assert "identity.json belongs to 12345, the directory to root" in finding.found
    obey(finding)
    assert check_privacy(device).level is Level.OK


# ---- groups


def another(group: GroupConfiguration, **changes: Any) -> GroupConfiguration:
    return replace(group, **{"name": "stairs", **changes})


def test_what_a_group_is_to_the_device_is_said(lamp: Path) -> None:
    group = the_group(lamp)
    gid = group.configuration.current.gid.hex()
    finding = describe_group(group)
    assert finding.found == f"hall at 224.0.1.187:5699: listener 01, members known: 2, Gid {gid}"


def test_older_epochs_are_counted(lamp: Path) -> None:
    group = the_group(lamp).configuration
    older = replace(group.current, gid=bytes(12))
    save_group(lamp / "hall.group.json", replace(group, epochs=(older, group.current)), overwrite=True)
    assert describe_group(the_group(lamp)).found.endswith(f"Gid {group.current.gid.hex()}, and 1 older")


def test_a_pure_listener_has_no_id(tmp_path: Path) -> None:
    devices = [
        DevicePlan("switch", frozenset({Role.MULTICASTER})),
        DevicePlan("panel", frozenset({Role.PURE_LISTENER})),
    ]
    provision(tmp_path / "home", GroupPlan("hall", (IPV4,)), devices)
    assert ": pure listener, members known: 1" in describe_group(the_group(tmp_path / "home" / "panel")).found


def test_two_files_of_one_group(lamp: Path) -> None:
    group = the_group(lamp).configuration
    (finding,) = check_groups([group, group])
    assert finding.found == "two files hold the group hall"


def test_groups_that_cannot_be_told_apart(lamp: Path) -> None:
    group = the_group(lamp).configuration
    other_keys = replace(group.current, master_secret=Secret(bytes(32)))
    elsewhere = (GroupAddress(ip_address("224.0.1.188")),)
    same_address = another(group, epochs=(other_keys,))
    same_keys = another(group, addresses=elsewhere)
    neither = another(group, epochs=(other_keys,), addresses=elsewhere)
    other_gid = another(group, epochs=(replace(group.current, gid=bytes(12)),))
    assert len(list(check_groups([group, same_address]))) == 1
    assert len(list(check_groups([group, same_keys]))) == 1
    assert list(check_groups([group, neither])) == []
    assert list(check_groups([group, other_gid])) == []


# ---- credentials


def dated(group: GroupFile, **dates: float) -> GroupFile:
    """The group with one more member, whose credential says from when to when it holds."""
    key = generate_identity("porch").private_key.public_key.data
    claims = {8: {1: {1: 1, -1: 6, -2: key}}} | {{"begin": 5, "end": 4}[name]: at for name, at in dates.items()}
    credential = Credential(CredentialKind.CCS, cbor2.dumps(claims))
    porch = Member(b"\x07", "porch", frozenset({Role.LISTENER}), credential)
    configuration = group.configuration
    epoch = replace(configuration.current, members=(*configuration.current.members, porch))
    return replace(group, configuration=replace(configuration, epochs=(epoch,)))


@pytest.mark.parametrize(
    ("dates", "found"),
    [
        ({}, None),
        ({"begin": NOW, "end": NOW}, None),
        ({"end": NOW - 86400}, "porch: its credential expired on 2020-09-12"),
        ({"begin": NOW + 86400}, "porch: its credential is not valid before 2020-09-14"),
        ({"end": float("nan")}, "porch: its credential expired on a day out of all calendars"),
        ({"begin": 1e300}, "porch: its credential is not valid before a day out of all calendars"),
        ({"end": "soon"}, "porch: a date that is no number"),
    ],
)
def test_credentials_out_of_their_time_are_named(lamp: Path, dates: dict[str, Any], found: str | None) -> None:
    (finding,) = check_credentials([dated(the_group(lamp), **dates)], NOW)
    if found is None:
        assert (finding.level, finding.found) == (Level.OK, "3, none of them out of its time")
    else:
        assert (finding.level, finding.found) == (Level.WARNING, found)


# ---- Group OSCORE


@pytest.fixture
def modern(tmp_path: Path) -> Path:
    return make_home(tmp_path, profile=GROUP_OSCORE)


AGREEMENT = "pairwise mode with AES-CCM-16-64-128 and ECDH-SS + HKDF-256"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, f"group mode with AES-CCM-16-64-128 and EdDSA (Ed25519), {AGREEMENT}"),
        (
            {"group_encryption": encryption_algorithm(-65534), "sign_protected": False},
            f"group mode with A128CTR and EdDSA (Ed25519), {AGREEMENT}, countersignatures as in RFC 9338",
        ),
        ({"key_agreement": None}, "group mode with AES-CCM-16-64-128 and EdDSA (Ed25519), no pairwise mode"),
    ],
)
def test_the_profile_is_said_with_its_modes(modern: Path, changes: dict[str, Any], found: str) -> None:
    finding = describe_profile(replace(the_group(modern).configuration, **changes))
    assert (finding.level, finding.found) == (Level.OK, f"hall: group-oscore, {found}")


def test_answers_in_a_mode_that_is_not_there(modern: Path) -> None:
    group = the_group(modern).configuration
    pairwise = replace(group, policy=replace(group.policy, response_mode=Mode.PAIRWISE))
    assert describe_profile(pairwise).found.endswith(f"{AGREEMENT}, answers in pairwise mode")
    finding = describe_profile(replace(pairwise, key_agreement=None))
    assert finding.level is Level.WARNING
    assert finding.found.endswith(
        "no pairwise mode, although answers are to be in it: they go out in group mode, readable by all"
    )
    assert finding.advice


def test_with_whom_keys_can_be_agreed_on(modern: Path) -> None:
    group = the_group(modern)
    (fine,) = check_pairwise([group])
    assert (fine.level, fine.found) == (Level.OK, "hall: keys can be agreed on with all others (1)")
    claims = {8: {1: {1: 1, -1: 6, -2: b"\x01" + bytes(31)}}}  # the neutral point: it would agree with everybody
    porch = Member(
        b"\x07", "porch", frozenset({Role.LISTENER}), Credential(CredentialKind.CCS, cbor2.dumps(claims))
    )
    configuration = group.configuration
    epoch = replace(configuration.current, members=(*configuration.current.members, porch))
    ill = replace(group, configuration=replace(configuration, epochs=(epoch,)))
    (finding,) = check_pairwise([ill])
    assert finding.level is Level.WARNING
    assert finding.found.startswith(
        "hall: porch cannot be spoken to alone, nor speak to this device: no secret can"
    )
    assert "keygen" in finding.advice
    without = replace(ill, configuration=replace(ill.configuration, key_agreement=None))
    assert list(check_pairwise([without])) == []
    assert list(check_pairwise([replace(ill, identity=None)])) == []


def test_the_credential_of_a_manager_out_of_its_time_is_named(modern: Path) -> None:
    group = the_group(modern)
    manager = group.configuration.manager_credential
    assert manager is not None
    expired = Credential(CredentialKind.CCS, cbor2.dumps(cbor2.loads(manager.data) | {4: NOW - 86400}))
    ill = replace(group, configuration=replace(group.configuration, manager_credential=expired))
    (finding,) = check_credentials([ill], NOW)
    assert (finding.level, finding.found) == (
        Level.WARNING,
        "the manager of hall: its credential expired on 2020-09-12",
    )


def test_members_whose_credentials_are_of_several_formats(modern: Path) -> None:
    path = modern / "hall.group.json"
    epoch = json.loads(path.read_text())["epochs"][0]
    data = bytes.fromhex(epoch["members"][0]["credential"]["data"])
    cwt = {"kind": "cwt", "data": cbor2.dumps([b"", {}, data, bytes(64)]).hex()}
    epoch["members"][0]["credential"] = cwt
    edit(path, epochs=[epoch])
    (finding,) = faults(modern)
    assert finding.found == (
        f"{path}: epochs[0].members: all members of a group have credentials of one format, but switch has cwt and "
        "lamp has ccs"
    )


def test_a_member_with_nothing_but_a_key(modern: Path) -> None:
    path = modern / "hall.group.json"
    epoch = json.loads(path.read_text())["epochs"][0]
    epoch["members"][0]["credential"] = {"kind": "raw", "data": epoch["members"][0]["credential"]["data"][-64:]}
    edit(path, epochs=[epoch])
    (finding,) = faults(modern)
    assert "Group OSCORE takes credentials that say what key they hold: ccs, cwt or x509, not raw" in finding.found


@pytest.mark.parametrize("choice", ["skip", "defer"])
def test_signatures_that_are_not_to_be_verified(modern: Path, choice: str) -> None:
    path = modern / "hall.group.json"
    policy = json.loads(path.read_text())["policy"]
    edit(path, policy=policy | {"verification": choice})
    (finding,) = faults(modern)
    assert "group-oscore has its countersignatures always verified" in finding.found
