"""The key log: what is written is what decoding takes, by many writers, and torn at any byte."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.policy import GroupPolicy
from groupcoap.cose.algorithms import DEFAULT_AEAD, Kdf, encryption_algorithm, key_agreement
from groupcoap.errors import FileFault
from groupcoap.files import keylog
from groupcoap.files.identity import generate_identity
from groupcoap.files.keylog import KeyLog, nameless, read_key_log
from groupcoap.membership import Epoch, GroupAddress, GroupConfiguration, Member, Role
from groupcoap.secret import Secret

from .samples import GID, SECRET, configuration, pure_configuration


@pytest.fixture
def group() -> GroupConfiguration:
    return configuration()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.log"


def renewed(group: GroupConfiguration, number: int) -> GroupConfiguration:
    epoch = group.current
    gid = epoch.gid[:-1] + bytes((number,))
    return replace(group, epochs=(replace(epoch, gid=gid, master_secret=Secret(bytes((number,)) * 16)),))


def record(path: Path, *groups: GroupConfiguration) -> None:
    log = KeyLog(path)
    for group in groups:
        log.record(group, group.current)


def test_a_line_is_what_a_pure_listener_would_know(path: Path, group: GroupConfiguration) -> None:
    record(path, group)
    (read,) = read_key_log(path)
    assert read.roles == {Role.PURE_LISTENER}
    same = ("name", "profile", "aead", "kdf", "signature", "addresses")
    assert [getattr(read, name) for name in same] == [getattr(group, name) for name in same]
    epoch = read.current
    assert (epoch.gid, epoch.members, epoch.departed) == (
        group.current.gid,
        group.current.members,
        group.current.departed,
    )
    assert epoch.master_secret.reveal() == group.current.master_secret.reveal()
    assert (epoch.own_id, epoch.private_key) == (None, None)


def test_no_private_key_is_written(path: Path, group: GroupConfiguration) -> None:
    record(path, group)
    assert group.current.private_key is not None
    assert group.current.private_key.secret.reveal().hex() not in path.read_text()


def test_the_line_names_its_version_and_profile(path: Path, group: GroupConfiguration) -> None:
    record(path, group)
    (line,) = path.read_text().splitlines()
    content = json.loads(line)
    assert (content["format"], content["version"]) == ("groupcoap-key-log", 1)
    assert content["profile"] == "multicast-oscore-04"


def test_an_endpoint_that_its_own_group_does_not_list_is_added(path: Path, group: GroupConfiguration) -> None:
    epoch = group.current
    others = tuple(member for member in epoch.members if member.endpoint_id != epoch.own_id)
    record(path, replace(group, epochs=(replace(epoch, members=others),)))
    members = {member.endpoint_id: member for member in read_key_log(path)[0].current.members}
    assert epoch.own_id is not None
    assert epoch.private_key is not None
    key = members[epoch.own_id].credential.public_key(group.signature)
    assert key.data == epoch.private_key.public_key.data


def test_a_pure_listener_writes_one_too(path: Path, group: GroupConfiguration) -> None:
    record(path, pure_configuration())
    assert read_key_log(path)[0].current.members == group.current.members


def test_the_same_is_not_written_twice_and_a_renewal_is_added(path: Path, group: GroupConfiguration) -> None:
    record(path, group, group, renewed(group, 1))
    record(path, group, renewed(group, 2))
    assert [read.current.gid[-1] for read in read_key_log(path)] == [group.current.gid[-1], 1, 2]


def test_a_member_that_becomes_known_later_is_added(path: Path, group: GroupConfiguration) -> None:
    late = nameless(b"\x77", generate_identity("late").credential)
    log = KeyLog(path)
    log.record_member(group, group.current.gid, late)
    log.record_member(group, b"another Gid", late)
    (read,) = read_key_log(path)
    assert late in read.current.members
    assert nameless(b"", late.credential).name == "endpoint (empty id)"


def test_it_is_private_and_stays_so(path: Path, group: GroupConfiguration) -> None:
    umask = os.umask(0)
    try:
        record(path, group)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    for use in (lambda: KeyLog(path), lambda: read_key_log(path)):
        with pytest.raises(FileFault, match="open to others; run: chmod 600"):
            use()


def test_a_warning_is_given(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeyLog(path)
    (message,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert str(path) in message
    assert "\n" not in message


def test_another_file_is_never_touched(tmp_path: Path, group: GroupConfiguration) -> None:
    notes, pipe = tmp_path / "notes", tmp_path / "pipe"
    notes.write_bytes(b"not to be lost")
    notes.chmod(0o600)
    os.mkfifo(pipe, 0o600)
    for path in (notes, pipe, tmp_path):
        with pytest.raises(FileFault) as caught:
            KeyLog(path)
        assert caught.value.path == path
    assert notes.read_bytes() == b"not to be lost"
    with pytest.raises(FileFault, match="is no key log"):
        read_key_log(notes)
    with pytest.raises(FileFault, match="does not exist"):
        read_key_log(tmp_path / "missing")


def test_what_is_wrong_with_a_line_is_said(path: Path, group: GroupConfiguration) -> None:
    record(path, group, renewed(group, 1), renewed(group, 2))
    lines = path.read_bytes().splitlines(keepends=True)

    def complaint(second: bytes) -> str:
        path.write_bytes(lines[0] + second + lines[2])
        with pytest.raises(FileFault) as caught:
            read_key_log(path)
        return caught.value.problem

    assert complaint(b"\n").startswith("line 2: is damaged")
    assert complaint(lines[1][:-20] + b"\n").startswith("line 2: is damaged")
    assert complaint(b"[]\n").startswith("line 2: is damaged (not a JSON object)")
    assert complaint(b"[" * 100_000 + b"\n").startswith("line 2: is damaged")
    assert complaint(lines[1].replace(b'"version": 1', b'"version": 2')).startswith(
        "line 2: is of version 2, newer"
    )
    assert complaint(lines[1].replace(b"-key-log", b"-keylog")).startswith(
        "line 2: is not a groupcoap-key-log file"
    )
    other_profile = lines[1].replace(b"multicast-oscore-04", b"group-oscore-99")
    assert complaint(other_profile).startswith("line 2.profile: profile 'group-oscore-99' is not known")
    without_manager = lines[1].replace(b"multicast-oscore-04", b"group-oscore")
    assert "line 2" in complaint(without_manager)
    assert complaint(lines[1].replace(b'"gid": "', b'"gid": "x')).startswith("line 2.gid: must be")
    assert complaint(lines[1].replace(b'"departed"', b'"left"')).startswith("line 2: 'departed' is missing")


def test_a_last_line_cut_short_anywhere_is_passed_over_and_mended(path: Path, group: GroupConfiguration) -> None:
    group = replace(group, epochs=(replace(group.current, members=group.current.members[1:]),))
    record(path, group, renewed(group, 1))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in (*range(first), *range(first, len(whole), 16), len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        read = read_key_log(path)
        assert len(read) == (length >= first - 1) + (length >= len(whole) - 1)
    for length in (0, 1, 20, first - 1, first, first + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        record(path, group, renewed(group, 1))
        assert path.read_bytes() == whole


def test_what_cannot_be_written_is_logged_and_no_more(
    path: Path, group: GroupConfiguration, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = KeyLog(path)
    monkeypatch.setattr(keylog, "MAX_SIZE", 100)
    log.record(group, group.current)
    path.chmod(0o644)
    log.record(group, group.current)
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert ["is full" in errors[0], "open to others" in errors[1]] == [True, True]
    assert path.read_bytes() == b""


def test_a_full_disk_is_logged_and_no_more(group: GroupConfiguration, path: Path) -> None:
    """In a process of its own, whose files may have 100 bytes."""
    record(path, group)
    line = path.read_bytes()
    program = (
        "import resource, signal, sys; from pathlib import Path; from groupcoap.files.keylog import KeyLog;"
        "from groupcoap.files.keylog import read_key_log; (group,) = read_key_log(Path(sys.argv[1]));"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "KeyLog(Path(sys.argv[2])).record(group, group.current)"
    )
    other = path.with_name("other.log")
    result = subprocess.run(
        [sys.executable, "-c", program, str(path), str(other)], capture_output=True, text=True, check=True
    )
    assert "cannot be written (no space left)" in result.stderr
    assert read_key_log(other) == ()
    record(other, group)
    assert other.read_bytes() == line


def _write(path: Path, group: GroupConfiguration, numbers: range) -> None:
    for number in numbers:
        record(path, renewed(group, number))


def test_several_processes_write_into_one(path: Path, group: GroupConfiguration) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [
        fork.Process(target=_write, args=(path, group, range(first, first + 40))) for first in (0, 20, 40, 60)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert sorted(read.current.gid[-1] for read in read_key_log(path)) == list(range(100))


def _write_for_ever(path: Path, group: GroupConfiguration) -> None:
    for number in range(1 << 24):
        epoch = group.current
        gid = epoch.gid[:-3] + number.to_bytes(3, "big")
        record(path, replace(group, epochs=(replace(epoch, gid=gid),)))


@pytest.mark.parametrize("enough", [1, 3, 10, 20])
def test_a_killed_writer_leaves_what_it_has_written(path: Path, group: GroupConfiguration, enough: int) -> None:
    writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path, group))
    writer.start()
    while not path.exists() or path.read_bytes().count(b"\n") < enough:
        assert writer.is_alive()
    writer.kill()
    writer.join(60)
    assert len(read_key_log(path)) >= enough
    record(path, group)
    assert group.current.gid in {read.current.gid for read in read_key_log(path)}


def test_a_log_without_keys_yet_is_empty(path: Path) -> None:
    KeyLog(path)
    assert read_key_log(path) == ()


# ---- Group OSCORE


@pytest.fixture
def today() -> GroupConfiguration:
    """A lamp's view of a group that uses all that Group OSCORE has."""
    switch, lamp, manager = (generate_identity(name, claims=True) for name in ("switch-1", "lamp-1", "manager"))
    members = (
        Member(b"\x00", "switch-1", frozenset({Role.MULTICASTER}), switch.credential),
        Member(b"\x01", "lamp-1", frozenset({Role.LISTENER}), lamp.credential),
    )
    epoch = Epoch(
        GID,
        Secret(SECRET),
        b"\x01",
        lamp.private_key,
        members,
        master_salt=b"salt",
        credential=lamp.credential,
    )
    return replace(
        configuration(),
        profile=GROUP_OSCORE,
        epochs=(epoch,),
        policy=GroupPolicy(),
        group_encryption=encryption_algorithm(-65534),
        key_agreement=key_agreement(-27),
        sign_protected=False,
        manager_credential=manager.credential,
    )


def having(**changes: Any) -> Callable[[GroupConfiguration], GroupConfiguration]:
    return lambda group: replace(group, **changes)


@pytest.mark.parametrize(
    "change",
    [
        having(),
        having(aead=None, key_agreement=None),
        having(sign_protected=True, group_encryption=DEFAULT_AEAD),
        having(kdf=Kdf.HKDF_SHA_384, key_agreement=None),
        having(name="hall", addresses=(GroupAddress(ip_address("ff05::fd"), 61616),)),
        lambda group: replace(group, epochs=(replace(group.current, master_salt=b""),)),
        lambda group: replace(group, epochs=(replace(group.current, departed=frozenset({b"\x07", b""})),)),
    ],
)
def test_a_line_holds_all_that_group_oscore_has(
    path: Path, today: GroupConfiguration, change: Callable[[GroupConfiguration], GroupConfiguration]
) -> None:
    group = change(today)
    record(path, group)
    (read,) = read_key_log(path)
    assert read.parameters == group.parameters
    assert (read.name, read.addresses) == (group.name, group.addresses)
    one, other = read.current, group.current
    assert (one.gid, one.master_salt, one.members, one.departed) == (
        other.gid,
        other.master_salt,
        other.members,
        other.departed,
    )
    assert one.master_secret.reveal() == other.master_secret.reveal()
    assert (one.own_id, one.private_key, one.credential) == (None, None, None)
    again, before = read.common_context(one), group.common_context(other)
    assert again.common_iv == before.common_iv
    keys = [common.signature_encryption_key for common in (again, before)]
    assert keys[0] is not None
    assert keys[1] is not None
    assert keys[0].reveal() == keys[1].reveal()


def test_what_two_say_in_pairwise_mode_stays_between_them(path: Path, today: GroupConfiguration) -> None:
    """There is no private key in a log, and pairwise keys are not to be had without one."""
    record(path, today)
    key = today.current.private_key
    assert key is not None
    text = path.read_text()
    assert key.secret.reveal().hex() not in text
    assert "private_key" not in text


def test_the_own_credential_is_written_as_messages_are_bound_to_it(path: Path, today: GroupConfiguration) -> None:
    epoch = replace(today.current, members=today.current.members[:1])
    record(path, replace(today, epochs=(epoch,)))
    own = {member.endpoint_id: member for member in read_key_log(path)[0].current.members}[b"\x01"]
    assert own.credential == today.current.credential


def test_groups_of_both_profiles_in_one_file(
    path: Path, group: GroupConfiguration, today: GroupConfiguration
) -> None:
    record(path, group, replace(today, name="hall"), renewed(group, 1))
    assert [read.profile.name for read in read_key_log(path)] == [
        "multicast-oscore-04",
        "group-oscore",
        "multicast-oscore-04",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"group_encryption": -65534', '"group_encryption": 4711', "line 1.group_encryption: "),
        ('"key_agreement": -27', '"key_agreement": -1', "line 1.key_agreement: "),
        ('"sign_protected": false', '"sign_protected": 0', "line 1.sign_protected: must be true or false"),
        ('"master_salt": "', '"master_salt": "x', "line 1.master_salt: must be"),
        (
            '"profile": "group-oscore"',
            '"profile": "multicast-oscore-04"',
            "line 1.group_encryption: is nothing that",
        ),
    ],
)
def test_what_is_wrong_with_a_field_of_group_oscore_is_said(
    path: Path, today: GroupConfiguration, old: str, new: str, problem: str
) -> None:
    record(path, today)
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(FileFault) as caught:
        read_key_log(path)
    assert caught.value.problem.startswith(problem)
