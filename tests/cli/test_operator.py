"""What an operator asks of a manager that does not run, and of one that does."""

from __future__ import annotations

import json
import signal

import pytest

from groupcoap.cli import main, status
from groupcoap.cli.operator import ago, read_right, right_text, some
from groupcoap.files.documents import Json

from .managed import Hall, Said, hall, said, template
from .room import Process

__all__ = ["hall", "said", "template"]


def test_rights_are_given_and_taken(hall: Hall, said: Said) -> None:
    hall.enroll("lamp-1", "room=listener")
    assert said("grant", "lamp-1", "room", "multicaster", "listener") == (
        0,
        "lamp-1 may join room\nat the device: groupcoap join DIR room=multicaster+listener --interface NAME\n",
        "",
    )
    assert "room: multicaster, listener" in said("devices")[1]
    assert said("evict", "room", "lamp-1", "--why", "moved") == (
        0,
        "lamp-1 is no member of room, and may not join it any more\n",
        "",
    )
    code, _, err = said("evict", "room", "lamp-1")
    assert (code, err) == (2, "groupcoap: 'lamp-1' is neither a member of 'room' nor has it a right to join\n")
    assert said("withdraw", "lamp-1") == (0, "lamp-1 is withdrawn\n", "")
    assert "withdrawn 20" in said("devices")[1]
    assert said("grant", "lamp-1", "room", "listener")[0] == 0
    assert "withdrawn" not in said("devices")[1]


def test_new_keys_while_the_manager_does_not_run(said: Said) -> None:
    code, out, _ = said("rekey", "room", "--why", "tuesday")
    assert code == 0
    assert out.splitlines()[0].startswith("room: renewal 1, Gid ")
    assert "the manager does not run" in out.splitlines()[1]
    code, out, _ = said("status")
    assert code == 0
    assert "not running" in out
    assert "tuesday" in out


def test_members_of_an_empty_group(said: Said) -> None:
    assert said("members", "room")[1].startswith("nobody is a member of room")
    assert json.loads(said("members", "room", "--json")[1])["members"] == []


def test_the_audit_is_the_newest_first_and_can_be_narrowed(hall: Hall, said: Said) -> None:
    hall.enroll("lamp-1", "room=listener")
    assert hall.do("evict", "room", "lamp-1", "--why", "moved") == 0
    assert hall.do("rekey", "room") == 0
    lines = said("audit")[1].splitlines()
    assert "group created" in lines[-1]
    assert any("evicted  room lamp-1  (why moved)" in line for line in lines)
    assert len(said("audit", "--limit", "2")[1].splitlines()) == 2
    of_device = [json.loads(line) for line in said("audit", "--device", "lamp-1", "--json")[1].splitlines()]
    assert [entry["event"] for entry in of_device] == ["evicted", "enrolled"]
    assert of_device[0]["detail"] == {"why": "moved"}
    assert "lamp-1" in said("audit", "--group", "room")[1]
    assert "enrolled" not in said("audit", "--group", "room")[1]


def test_status_as_json(said: Said) -> None:
    code, out, _ = said("status", "--json")
    found = json.loads(out)
    assert (code, found["running"], found["groups"][0]["name"]) == (0, False, "room")


def test_an_alarm_is_seen_and_is_the_exit_code(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(_: object, __: str) -> Json:
        renewal = {"reason": "x\x1b[2J", "started": 0.0, "finished": None}
        group = {"name": "room", "state": "stopped", "alarm": "lamp-1 has num 9", "num": 3, "members": 7}
        behind = [f"lamp-{n}" for n in range(7)]
        return {"name": "hall", "devices": 7, "groups": [{**group, "behind": behind, "renewal": renewal}]}

    monkeypatch.setattr(status, "ask", ask)
    code, out, _ = said("status")
    assert code == 1
    for text in (
        "ALARM room: lamp-1 has num 9",
        "7: lamp-0, lamp-1, lamp-2, lamp-3, lamp-4 and 2 more",
        "under way",
    ):
        assert text in out
    assert "\x1b[2J" not in out
    assert said("status", "--json")[0] == 1


@pytest.mark.processes
def test_a_running_manager_answers_and_is_watched(hall: Hall, said: Said) -> None:
    hall.enroll("lamp-1", "room=listener")
    served = hall.serve()
    code, out, _ = said("status")
    assert code == 0
    assert "manager hall: running, 1 device enrolled, 0 associations" in out
    code, out, _ = said("rekey", "room")
    assert (code, out.count("\n")) == (0, 1)
    assert said("evict", "room", "nobody")[0] == 2
    assert len(said("audit", "--limit", "1")[1].splitlines()) == 1
    watching = Process(["status", "--watch", "--manager", str(hall.directory)])
    hall.stack.callback(watching.close)
    watching.expect("room")
    assert watching.stop() == 0
    as_json = Process(["status", "--watch", "--json", "--manager", str(hall.directory)])
    hall.stack.callback(as_json.close)
    assert json.loads(as_json.expect("{"))["running"]
    served.signal(signal.SIGINT)
    assert served.ended() == 0
    assert not json.loads(as_json.expect('"running": false'))["running"]
    assert as_json.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("members hall", 2, "there is no group 'hall'"),
        ("evict room lamp-9", 2, "no device 'lamp-9' is enrolled"),
        ("withdraw lamp-9", 2, "no device 'lamp-9' is enrolled"),
        ("grant lamp-9 room listener", 2, "no device 'lamp-9' is enrolled"),
        ("grant lamp-9 room lamp", 2, "'lamp' is no role"),
        ("grant lamp-9 room", 2, "ROLE"),
        ("rekey hall", 2, "there is no group 'hall'"),
        ("audit --limit 0", 2, "--limit"),
    ],
)
def test_what_is_wrong_stands_on_one_line(said: Said, arguments: str, code: int, says: str) -> None:
    ended, out, err = said(*arguments.split())
    assert (ended, out, err.count("\n")) == (code, "", 1)
    assert says in err


def test_which_manager(hall: Hall, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GROUPCOAP_MANAGER", str(hall.directory))
    assert main(["status"]) == 0
    monkeypatch.delenv("GROUPCOAP_MANAGER")
    hall.directory.rename(hall.directory.with_name("manager"))
    monkeypatch.chdir(hall.directory.parent)
    assert main(["status"]) == 0
    assert main(["status", "--manager", "elsewhere"]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_texts() -> None:
    assert [ago(seconds) for seconds in (-3, 0, 119, 120, 7200, 200000)] == [
        *("0 s ago", "0 s ago", "119 s ago", "2 min ago", "2 h ago", "2 d ago"),
    ]
    assert some(["a", "b"], 1) == "a and 1 more"
    assert right_text(*read_right("a=b=both")) == "a=b=multicaster+listener"
