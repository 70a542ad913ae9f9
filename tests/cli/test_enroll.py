"""`groupcoap enroll`: one credential file for each device, for all of them or none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from groupcoap.cli import enroll as command
from groupcoap.errors import FileFault
from groupcoap.member.enrolment import load_enrolment
from groupcoap.membership import Role

from .managed import Hall, Said, hall, said, template

__all__ = ["hall", "said", "template"]


def devices(said: Said) -> dict[str, Any]:
    code, out, _ = said("devices", "--json")
    assert code == 0
    return {device["device"]: device for device in json.loads(out)}


def test_one_device(hall: Hall, said: Said, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, shown, err = said(
        "enroll", "lamp-1", "--group", "room=listener", "--out", str(out), "--note", "hall, left"
    )
    assert (code, err) == (0, "")
    path = out / "lamp-1" / "enrolment.json"
    assert os.listdir(out / "lamp-1") == ["enrolment.json"]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    enrolment = load_enrolment(path)
    assert enrolment.device == "lamp-1"
    assert dict(enrolment.groups) == {"room": frozenset({Role.LISTENER})}
    assert enrolment.secret.reveal().hex() not in shown
    assert str(path) in shown
    assert devices(said)["lamp-1"]["note"] == "hall, left"
    assert "hall, left" in said("devices")[1]


@pytest.mark.parametrize(
    ("role", "roles"),
    [
        ("both", {Role.MULTICASTER, Role.LISTENER}),
        ("multicaster+listener", {Role.MULTICASTER, Role.LISTENER}),
        ("multicaster+pure-listener", {Role.MULTICASTER, Role.PURE_LISTENER}),
        ("pure-listener", {Role.PURE_LISTENER}),
    ],
)
def test_roles_as_provision_has_them(hall: Hall, role: str, roles: set[Role]) -> None:
    assert load_enrolment(hall.enroll("x", f"room={role}") / "enrolment.json").groups["room"] == roles


def test_nothing_is_overwritten_and_then_nobody_is_enrolled(hall: Hall, said: Said, tmp_path: Path) -> None:
    path = tmp_path / "out" / "lamp-1" / "enrolment.json"
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    code, _, err = said("enroll", "lamp-1", "--group", "room=listener", "--out", str(tmp_path / "out"))
    assert (code, err.count("\n")) == (3, 1)
    assert path.read_text() == "precious"
    assert devices(said) == {}


def test_a_file_that_could_not_be_written_is_said_with_whose_it_is(
    hall: Hall, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *_: object) -> None:
        raise FileFault(path, "cannot be written (No space left on device)")

    monkeypatch.setattr(command, "write_document", fail)
    code, _, err = said("enroll", "lamp-1", "--group", "room=listener", "--out", str(tmp_path / "out"))
    assert (code, err.count("\n")) == (3, 1)
    assert "lamp-1: enrolled, but without a file: withdraw them" in err


# ---- many


def csv(tmp_path: Path, text: str) -> str:
    path = tmp_path / "devices.csv"
    path.write_text(text, "utf-8")
    return str(path)


def test_many_from_a_file(hall: Hall, said: Said, tmp_path: Path) -> None:
    assert hall.do("group", "create", "hall", "--address", "224.0.1.188") == 0
    source = csv(
        tmp_path,
        "\ufeffdevice,group,roles,note\n"
        'lamp-1,room,listener,"left, above"\n'
        "\n"
        "sw-1, room , multicaster+listener ,\n"
        "lamp-1,hall,pure-listener,\n",
    )
    code, shown, err = said("enroll", "--from", source, "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    assert "room=listener hall=pure-listener" in shown
    lamp = load_enrolment(tmp_path / "out" / "lamp-1" / "enrolment.json")
    switch = load_enrolment(tmp_path / "out" / "sw-1" / "enrolment.json")
    assert dict(lamp.groups) == {"room": frozenset({Role.LISTENER}), "hall": frozenset({Role.PURE_LISTENER})}
    assert dict(switch.groups) == {"room": frozenset({Role.MULTICASTER, Role.LISTENER})}
    assert len({lamp.handle, switch.handle, lamp.secret.reveal(), switch.secret.reveal()}) == 4
    assert devices(said)["lamp-1"]["note"] == "left, above"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: must be device,group,roles"),
        ("name,group,roles\n", "line 1: must be device,group,roles"),
        ("device,group,roles\n", "there is no device in it"),
        ("device,group,roles\nlamp-1,room\n", "line 2: 2 columns instead of 3"),
        ("device,group,roles\nlamp-1,room,listener\nlamp-2,room,lamp\n", "line 3: 'lamp' is no role"),
        ("device,group,roles\nlamp-1,room,listener+pure-listener\n", "line 2: 'listener+pure-listener'"),
        ("device,group,roles\nlamp-1,hall,listener\n", "line 2: there is no group 'hall'; there is room"),
        ("device,group,roles\na b,room,listener\n", "line 2: device 'a b'"),
        ("device,group,roles\n../x,room,listener\n", "line 2: device '../x'"),
        ("device,group,roles\nold,room,listener\n", "line 2: old is enrolled already"),
        ("device,group,roles\nx,room,listener\nx,room,multicaster\n", "line 3: x and room stand there twice"),
        ('device,group,roles\nx,room,"listener\n', "is no CSV"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_nobody_is_enrolled(
    hall: Hall, said: Said, tmp_path: Path, text: str, says: str
) -> None:
    hall.enroll("old", "room=listener")
    code, out, err = said("enroll", "--from", csv(tmp_path, text), "--out", str(tmp_path / "out"))
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert says in err
    assert list(devices(said)) == ["old"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read(said: Said, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_bytes(content)
    code, _, err = said("enroll", "--from", str(path))
    assert (code, err.count("\n")) == (3, 1)
    assert "cannot be read" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "name one DEVICE, or many with --from"),
        ("lamp-1", "say what it may join"),
        ("lamp-1 --from x", "name one DEVICE, or many with --from"),
        ("--from x --note y", "go with one DEVICE"),
        ("lamp-1 --group room", "is not GROUP=ROLE"),
        ("lamp-1 --group room=lamp", "'lamp' is no role"),
        ("lamp-1 --group room=listener+pure-listener", "no listener that responds"),
        ("lamp-1 --group room=listener --group room=multicaster", "stand there twice"),
        ("lamp-1 --group hall=listener", "there is no group 'hall'"),
        ("../x --group room=listener", "a name has 1 to 64"),
    ],
)
def test_what_is_wrong_stands_on_one_line(said: Said, tmp_path: Path, arguments: str, says: str) -> None:
    code, out, err = said("enroll", *arguments.split(), "--out", str(tmp_path / "out"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not (tmp_path / "out").exists()
    assert devices(said) == {}


def test_a_name_that_is_taken(hall: Hall, said: Said, tmp_path: Path) -> None:
    hall.enroll("lamp-1", "room=listener")
    code, _, err = said("enroll", "lamp-1", "--group", "room=listener", "--out", str(tmp_path / "out"))
    assert (code, err.count("\n")) == (2, 1)
    assert "there already is a device 'lamp-1'" in err


def test_without_a_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from groupcoap.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROUPCOAP_MANAGER", raising=False)
    assert main(["enroll", "lamp-1", "--group", "room=listener"]) == 3
    assert (
        "manager: is no manager's directory; name one with --manager or $GROUPCOAP_MANAGER"
        in capsys.readouterr().err
    )
    assert os.listdir(tmp_path) == []


def test_a_new_file_for_a_device_whose_former_one_is_lost(hall: Hall, said: Said, tmp_path: Path) -> None:
    former = load_enrolment(hall.enroll("lamp-1", "room=listener") / "enrolment.json")
    code, shown, err = said("enroll", "lamp-1", "--again", "--out", str(tmp_path / "new"))
    assert (code, err) == (0, "")
    enrolment = load_enrolment(tmp_path / "new" / "lamp-1" / "enrolment.json")
    assert enrolment.handle != former.handle
    assert enrolment.secret.reveal() != former.secret.reveal()
    assert enrolment.secret.reveal().hex() not in shown
    assert enrolment.groups == former.groups
    for arguments in (
        ("nobody", "--again", "--out", str(tmp_path / "other")),
        ("lamp-1", "--again", "--group", "room=listener", "--out", str(tmp_path / "other")),
        ("lamp-1", "--again", "--out", str(tmp_path / "new")),
    ):
        code, _, err = said("enroll", *arguments)
        assert code
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "other" / "nobody").exists()
