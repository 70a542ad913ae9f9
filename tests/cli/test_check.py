"""`groupcoap check`: what it says, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .room import PROGRAM, Room, Sent, modern, room, run

__all__ = ["modern", "room"]
pytestmark = pytest.mark.processes

LEVELS = ("ok", "warning", "problem")


def check(room: Room, name: str, *options: str) -> Sent:
    return run("check", str(room.directory / name), "--interface", "lo", *options)


def findings(sent: Sent) -> dict[str, dict[str, Any]]:
    """{check: its finding}, of `--json`."""
    (line,) = sent.out.splitlines()
    return {finding["check"]: finding for finding in json.loads(line)["findings"]}


def test_a_device_that_is_in_order(room: Room) -> None:
    done = check(room, "lamp-1", *room.bound("lamp-1"))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert re.fullmatch(r"0 problems, \d warnings?, \d+ ok", lines[-1])
    assert re.search(r"^ok       group        room at 224\.0\.1\.187:\d+: listener 01, ", done.out, re.MULTILINE)
    assert re.search(r"^ok       self-test    a datagram from this host to 224\.", done.out, re.MULTILINE)
    assert all(line.startswith((*LEVELS, " " * 22)) for line in lines[:-1])


def test_it_is_readable_on_80_columns_without_colours(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room.directory)  # no longer than a path is that is given
    Path("lamp-1/state.journal").unlink()
    done = run("check", "lamp-1", "--interface", "lo", "--bind", "192.0.2.77")
    assert done.code == 1
    assert "\x1b" not in done.out
    assert max(len(line) for line in done.out.splitlines() if not line.lstrip().startswith("$ ")) <= 80


def test_what_is_wrong_what_to_do_and_the_command(room: Room) -> None:
    lamp = room.directory / "lamp-1"
    lamp.chmod(0o757)
    done = check(room, "lamp-1", *room.bound("lamp-1"))
    assert done.code == 1
    assert done.out.splitlines()[-1].startswith("1 problem, ")
    said = done.out.partition("problem  directory")[2].splitlines()
    command = next(line for line in said if line.startswith(" " * 22 + "$ "))
    assert command.split("$ ")[1] == f"chmod go-w {lamp}"
    subprocess.run(command.split("$ ")[1].split(), check=True)
    assert check(room, "lamp-1", *room.bound("lamp-1")).code == 0


def test_one_json_object(room: Room) -> None:
    done = check(room, "lamp-1", *room.bound("lamp-1"), "--json")
    assert done.code == 0
    whole = json.loads(done.out)
    assert list(whole) == ["member", "healthy", "findings"]
    assert whole["healthy"] is True
    assert {finding["level"] for finding in whole["findings"]} <= set(LEVELS)
    assert all(list(f) == ["check", "level", "found", "advice", "command"] for f in whole["findings"])
    assert findings(done)["port"]["found"] == f"{room.hosts['lamp-1']} port {room.address.port} is free"
    ill = check(room, "lamp-1", "--bind", "192.0.2.77", "--json")
    assert (ill.code, json.loads(ill.out)["healthy"]) == (1, False)


def test_beside_the_running_device_which_goes_on(room: Room) -> None:
    lamp = room.listen("lamp-1", "-v")
    done = check(room, "lamp-1", *room.bound("lamp-1"), "--json")
    assert done.code == 0
    found = findings(done)
    assert found["state"]["found"].startswith(f"in use by process {lamp.pid} (")
    assert found["port"]["found"] == f"port {room.address.port} is held by the process that runs this device"
    assert f"also listening there: process {lamp.pid} (" in found["membership"]["found"]
    assert room.send("put", "/light", "--payload", "40", "--roster", "lamp-1").code == 0


def test_a_port_that_somebody_else_has(room: Room) -> None:
    other = room.listen("lamp-2", "--bind", "127.0.0.9")
    done = check(room, "lamp-1", "--bind", "127.0.0.9", "--json")
    assert done.code == 1
    port = findings(done)["port"]
    assert port["level"] == "problem"
    assert f"process {other.pid} (" in port["found"]
    assert "--bind" in port["advice"]
    assert check(room, "lamp-1", "--bind", "127.0.0.9", "--port", "0").code == 0


def test_nothing_is_changed_or_left_behind(room: Room) -> None:
    def snapshot() -> list[tuple[Path, int, int, bytes]]:
        files = sorted(path for path in room.directory.rglob("*") if path.is_file())
        return [(path, path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files]

    before = snapshot()
    assert check(room, "lamp-1", *room.bound("lamp-1")).code == 0
    assert check(room, "switch-1").code == 0
    assert snapshot() == before


def test_a_name_cannot_move_the_cursor(room: Room, tmp_path: Path) -> None:
    odd = tmp_path / "lamp\x1b[2J"
    (room.directory / "lamp-1").rename(odd)
    done = run("check", str(odd), "--interface", "lo", *room.bound("lamp-1"))
    assert "\x1b" not in done.out
    assert "lamp\\x1b[2J belongs to" in " ".join(done.out.split())


def test_colours_on_a_terminal_unless_they_are_not_wanted(room: Room) -> None:
    words = [*PROGRAM, "check", str(room.directory / "lamp-1"), "--interface", "lo", *room.bound("lamp-1")]
    for no_color, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        main, terminal = os.openpty()
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | no_color
        with subprocess.Popen(words, stdout=terminal, env=environment) as process:
            os.close(terminal)
            said = b""
            while chunk := _read(main):
                said += chunk
            assert process.wait(30) == 0
        os.close(main)
        assert (b"\x1b[32mok" in said) is coloured


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how a terminal says that nobody writes any more
        return b""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "MEMBER"),
        (["{room}/nobody", "--interface", "lo"], 3, "does not exist"),
        (["{room}/lamp-1", "--bind", "here"], 2, "'here' is not an IP address"),
        (["{room}/lamp-1", "--bind", "224.0.1.187"], 5, "is a multicast address"),
        (["{room}/lamp-1", "--port", "65536"], 2, "65536"),
    ],
)
def test_what_is_no_diagnosis_stands_on_one_line(room: Room, arguments: list[str], code: int, says: str) -> None:
    ended = run("check", *(argument.format(room=room.directory) for argument in arguments))
    assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1)
    assert says in ended.err


def test_an_interface_that_is_not_there_or_not_named_is_a_finding(room: Room) -> None:
    for options in (["--interface", "nosuch0"], []):
        ended = run("check", str(room.directory / "lamp-1"), *options)
        assert (ended.code, ended.err) == (1, "")
        assert "problem  interface" in ended.out
        assert "--interface with one of " in ended.out


def test_the_profile_and_its_modes(room: Room) -> None:
    said = findings(check(room, "lamp-1", *room.bound("lamp-1"), "--json"))
    assert said["profile"]["found"] == "room: multicast-oscore-04, AES-CCM-16-64-128, EdDSA (Ed25519)"
    assert "pairwise" not in said


def test_a_device_of_a_modern_group_that_is_in_order(modern: Room) -> None:
    done = check(modern, "lamp-1", *modern.bound("lamp-1"), "--json")
    assert (done.code, done.err) == (0, "")
    said = findings(done)
    assert said["profile"]["found"] == (
        "room: group-oscore, group mode with AES-CCM-16-64-128 and EdDSA (Ed25519), pairwise mode with "
        "AES-CCM-16-64-128 and ECDH-SS + HKDF-256"
    )
    assert said["pairwise"]["found"] == "room: keys can be agreed on with all others (2)"
    assert said["credentials"]["found"] == "4, none of them out of its time"  # the manager's is one
    assert check(modern, "panel-1", *modern.bound("panel-1")).code == 0


def test_a_modern_group_without_its_managers_credential(modern: Room) -> None:
    path = modern.directory / "lamp-1" / "room.group.json"
    document = json.loads(path.read_text())
    del document["manager_credential"]
    path.write_text(json.dumps(document))
    done = check(modern, "lamp-1", "--json")
    assert done.code == 1
    fault = findings(done)["files"]
    needed = "that of its Group Manager, which every message is bound to"
    assert fault["found"].endswith(f"profile: group-oscore needs a 'manager_credential', {needed}")
    assert fault["advice"] == "restore it from a copy, or provision the group anew"
