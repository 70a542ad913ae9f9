"""`groupcoap checker`: from any device's directory, of Group OSCORE alone, and what is wrong is said."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from groupcoap.cli import main
from groupcoap.cli.exits import Exit
from groupcoap.files.checker import load_checker
from groupcoap.files.provisioned import load_member

from .scene import DRAFT, TODAY, provisioned, renewed


@pytest.fixture
def home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    made = provisioned(tmp_path / "home", TODAY, "--pure-listeners", "1")
    capsys.readouterr()
    return made


def program(*arguments: object) -> int:
    return main(["checker", *map(str, arguments)])


@pytest.mark.parametrize("device", ["switch-1", "lamp-1", "panel-1", "lamp-2/room.group.json"])
def test_any_device_of_the_group_has_what_it_takes(
    home: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = home.parent / "gate.json"
    assert program(home / device, "-o", gate) == 0
    gid = load_member(home / "lamp-1").groups[0].current.gid.hex()
    assert capsys.readouterr().out.splitlines() == [
        f"group       room, Gid {gid}",
        "signatures  EdDSA (Ed25519), over messages in AES-CCM-16-64-128",
        "members     switch-1 (00), lamp-1 (01), lamp-2 (02)",
        f"file        {gate}  (holds a key that lays signatures open, none that decrypts: keep it)",
        f"try         groupcoap decode CAPTURE --checker {gate}",
    ]
    assert stat.S_IMODE(gate.stat().st_mode) == 0o600
    assert load_checker(gate).gid.hex() == gid
    secrets = [load_member(home / name).groups[0].current.master_secret for name in ("switch-1", "panel-1")]
    assert not any(secret.reveal().hex() in gate.read_text() for secret in secrets)


def test_every_device_gives_the_same(home: Path) -> None:
    made = []
    for name in ("switch-1", "lamp-2", "panel-1"):
        path = home.parent / f"{name}.json"
        assert program(home / name, "--output", path) == 0
        made.append(path.read_text())
    assert len(set(made)) == 1


def test_after_a_renewal_it_is_another(home: Path) -> None:
    after = renewed(home, home.parent / "after")
    one, other = home.parent / "one.json", home.parent / "other.json"
    assert program(home / "lamp-1", "-o", one) == program(after / "lamp-1", "-o", other) == 0
    keys = [load_checker(path).signature_encryption_key.reveal() for path in (one, other)]
    assert keys[0] != keys[1]


def complaint(code: int, expected: Exit, capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert code == expected
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_drafts_profile_is_refused_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = provisioned(tmp_path / "home", DRAFT)
    capsys.readouterr()
    error = complaint(program(home / "lamp-1", "-o", tmp_path / "gate.json"), Exit.USAGE, capsys)
    assert error.startswith(
        "groupcoap: group room is of multicast-oscore-04, whose countersignatures travel in clear"
    )
    assert not (tmp_path / "gate.json").exists()


def test_of_several_groups_one_is_to_be_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joining = ("--join", "switch-1=multicaster", "--join", "lamp-1=listener")
    arguments = ("--group", "hall", "--profile", TODAY, "--address", "224.0.1.188", *joining)
    assert main(["provision", str(home), *arguments]) == 0
    capsys.readouterr()
    gate = home.parent / "gate.json"
    error = complaint(program(home / "lamp-1", "-o", gate), Exit.USAGE, capsys)
    assert error.endswith("is in several groups: give one of its group files, hall.group.json, room.group.json\n")
    assert program(home / "lamp-1" / "hall.group.json", "-o", gate) == 0
    assert load_checker(gate).name == "hall"


def test_wrong_files_are_exit_code_3(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = home.parent / "gate.json"
    gate.write_text("not to be lost")
    assert "exists already" in complaint(program(home / "lamp-1", "-o", gate), Exit.BAD_FILE, capsys)
    assert gate.read_text() == "not to be lost"
    missing = home.parent / "missing" / "gate.json"
    assert str(missing.parent) in complaint(program(home / "lamp-1", "-o", missing), Exit.BAD_FILE, capsys)
    assert "give one of lamp-1" in complaint(program(home, "-o", gate), Exit.BAD_FILE, capsys)


def test_the_help_says_what_it_is_good_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert program("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "nothing that it could be read with",
        "group-oscore",
        "until the group is renewed",
        "pairwise mode",
    ):
        assert part in text
    assert program("home/lamp-1") == Exit.USAGE
    assert "--output" in capsys.readouterr().err
