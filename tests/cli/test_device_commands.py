"""Devices with a Group Manager: `join`, `leave`, and `listen`, `send`, `check` with their directories."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import pytest

from groupcoap.cli import device, main
from groupcoap.cli.device import open_device
from groupcoap.cli.listen import event_text
from groupcoap.core import coap
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.errors import FileFault, GroupcoapError, MisuseError, NetworkFault, Refused
from groupcoap.member.enrolment import load_enrolment
from groupcoap.member.membership import ManagedMembership
from groupcoap.membership import (
    EndpointIdRenewed,
    EpochInstalled,
    GroupConfiguration,
    GroupJoined,
    GroupLeft,
    GroupResumed,
    GroupSuspended,
    MemberLeft,
    MembershipEvent,
)

from .managed import Hall, hall, made, template

__all__ = ["hall", "template"]


@pytest.fixture(params=["multicast-oscore-04", "group-oscore"])
def ready(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hall]:
    """A manager, with two lamps and a switch enrolled."""
    with made(tmp_path, "--profile", request.param) as hall:
        for lamp in ("lamp-1", "lamp-2"):
            hall.enroll(lamp, "room=listener")
        hall.enroll("switch", "room=multicaster")
        yield hall


@pytest.mark.processes
def test_devices_join_work_and_are_evicted(ready: Hall, capsys: pytest.CaptureFixture[str]) -> None:
    hall, manager = ready, ready.serve()
    first = hall.listen("lamp-1", "-v")
    second = hall.listen("lamp-2")
    assert re.fullmatch(
        rf"lamp-1 listens at {re.escape(hall.address)} on lo, answers from .*, as light", first.lines[0]
    )
    first.expect("room: new keys, Gid ")  # for the second one
    joined = hall.run("join", "switch")
    assert (joined.code, joined.err) == (0, "")
    pattern = r"room: joined, Endpoint ID 02, Gid [0-9a-f]{22}02, others known: lamp-1, lamp-2\n"
    assert re.fullmatch(pattern, joined.out)
    first.expect("02")
    sent = hall.send("switch", "put", "/light", "--payload", "40")
    assert (sent.code, sent.err) == (0, "")
    assert sent.out.splitlines()[-1].startswith("2 of 2 answered")
    assert ' "40" from switch (02): number ' in first.expect("PUT /light")
    # What the operator sees, and does
    capsys.readouterr()
    assert hall.do("members", "room", "--json") == 0
    members = json.loads(capsys.readouterr().out)["members"]
    assert {member["device"]: member["roles"] for member in members} == {
        "lamp-1": ["listener"],
        "lamp-2": ["listener"],
        "switch": ["multicaster"],
    }
    assert hall.do("members", "room") == hall.do("status") == 0
    assert "lamp-2   listener" in capsys.readouterr().out
    assert hall.do("evict", "room", "lamp-2", "--why", "stolen") == 0
    assert "lamp-2 is evicted from room; the others get new keys, renewal 3" in capsys.readouterr().out
    second.expect("room: no member any more: ")
    second.expect("lamp-2 is in no group any more")
    assert second.ended() == 7
    assert hall.do("evict", "room", "lamp-2") == 2
    refused = hall.run("join", "lamp-2")
    assert (refused.code, refused.out, refused.err.count("\n")) == (7, "", 1)
    assert "refuses lamp-2: " in refused.err
    first.expect("room: new keys, Gid ")
    assert hall.send("switch", "get", "/light").out.splitlines()[-1].startswith("1 of 1 answered")
    # A switch leaves, and comes back
    left = hall.run("leave", "switch", "room")
    assert (left.code, left.err) == (0, "")
    assert left.out == "switch has left room; to come back: groupcoap join DIR room=multicaster\n"
    assert (hall.run("leave", "switch", "room").code, hall.send("switch", "get", "/light").code) == (2, 2)
    back = hall.run("join", "switch", "room=multicaster")
    assert (back.code, back.err) == (0, "")
    assert first.stop() == 0
    assert "dropped: nothing" in first.rest()[-1]
    assert manager.stop() == 0


def test_without_the_manager_a_device_goes_on_and_says_so(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hall.enroll("lamp", "room=listener")
    path = hall.enroll("switch", "room=multicaster")
    manager = hall.serve()
    lamp = hall.listen("lamp")
    assert hall.run("join", "switch").code == 0
    assert manager.stop() == 0
    lamp.expect("new keys")
    monkeypatch.setattr(device, "PATIENCE", 0.5)
    capsys.readouterr()
    sending = ("send", "put", "/light", "--payload", "40", "--member", str(path), *hall.bound("switch"))
    assert main(list(sending)) == 0
    captured = capsys.readouterr()
    where = load_enrolment(path / "enrolment.json").addresses[0]
    note = f"groupcoap: the Group Manager does not answer at {where}; going on with the keys that are here\n"
    assert captured.err == note
    assert "1 of 1 answered" in captured.out
    # Who has no keys can only wait, or give up.
    monkeypatch.setattr(device, "JOIN_PATIENCE", 0.5)
    other = hall.enroll("other", "room=multicaster")
    capsys.readouterr()
    assert main(["send", "get", "/light", "--member", str(other), *hall.bound("other")]) == 5
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["join", str(other), *hall.bound("other"), "--timeout", "0.5"]) == 5
    assert main(["leave", str(other), "room", *hall.bound("other")]) == 2
    assert "other is no member of 'room'" in capsys.readouterr().err


# ---- waiting for the manager


class Fake:
    """Stands for a membership whose attempts end so; None: ready."""

    def __init__(self, *ends: GroupcoapError | None, groups: tuple[str, ...] = ()) -> None:
        self._ends = list(ends)
        self._names = groups

    def groups(self) -> list[Any]:
        return [type("Configuration", (), {"name": name}) for name in self._names]

    async def ready(self, timeout: float) -> None:
        end = self._ends.pop(0)
        if end is not None:
            raise end


def be_ready(hall: Hall, fake: Fake, wait: bool) -> list[str]:
    lines: list[str] = []
    enrolment = load_enrolment(hall.devices / "lamp" / "enrolment.json")
    asyncio.run(device._be_ready(cast(ManagedMembership, fake), enrolment, lines.append, wait))
    return lines


def test_a_listener_waits_for_its_manager_and_says_so_once(hall: Hall) -> None:
    hall.enroll("lamp", "room=listener")
    silent, busy = NetworkFault("x"), Refused(coap.SERVICE_UNAVAILABLE, "not now", retry_after=1.0)
    (line,) = be_ready(hall, Fake(silent, silent, busy, None), True)
    assert re.fullmatch(r"the Group Manager does not answer at 127\.0\.0\.1:\d+; waiting for it", line)
    assert be_ready(hall, Fake(None), True) == []
    (line,) = be_ready(hall, Fake(silent, groups=("hall",)), True)
    assert line.endswith("; going on with the keys that are here; not in room")
    for final in (Refused(coap.FORBIDDEN, "no right to these roles"), FileFault("f", "x")):
        with pytest.raises(type(final)):
            be_ready(hall, Fake(final), True)
    with pytest.raises(NetworkFault):
        be_ready(hall, Fake(silent), False)


@pytest.mark.processes
def test_a_listener_that_waits_can_be_stopped(hall: Hall) -> None:
    from .room import Process

    path = hall.enroll("lamp", "room=listener")
    waiting = Process(["listen", str(path), *hall.bound("lamp")])
    hall.stack.callback(waiting.close)
    while not list(path.glob("enrolment.json.lock")):
        pass
    assert waiting.stop() == 0
    assert waiting.rest() == []


# ---- lines


def test_what_is_said_of_events() -> None:
    class Current:
        gid = b"\x01\x02"
        own_id = b"\x07"

    configuration = cast(GroupConfiguration, type("Configuration", (), {"name": "room", "current": Current}))
    events: dict[MembershipEvent, str | None] = {
        EpochInstalled(configuration): "room: new keys, Gid 0102",
        GroupJoined(configuration): "room: joined as 07, Gid 0102",
        EndpointIdRenewed(configuration): "room: from now on as 07",
        GroupSuspended("room"): "room: suspended, since the Group Manager has not confirmed its keys in time",
        GroupResumed("room"): "room: resumed, the Group Manager has confirmed its keys",
        GroupLeft("room", "evicted\n"): "room: no member any more: evicted\\n",
        MemberLeft("room", b"", frozenset()): None,
    }
    for event, line in events.items():
        assert event_text(event) == line


# ---- files and mistakes


def enrolled(hall: Hall) -> str:
    return (hall.devices / "lamp" / "enrolment.json").read_text()


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("join {out}/nobody", 3, "enrolment.json: does not exist"),
        ("join {lamp} hall", 2, "lamp was not enrolled for 'hall' but room; say hall=ROLE"),
        ("join {lamp} room=lamp", 2, "'lamp' is no role"),
        ("join {lamp} --interface nosuch0", 5, "there is no interface 'nosuch0'"),
        ("join {lamp}", 5, "--interface NAME"),
        ("leave {lamp} room --interface lo", 2, "lamp is no member of 'room'"),
        ("leave {lamp} hall --interface lo", 2, "lamp is no member of 'hall'"),
        ("listen {lamp} --interface nosuch0", 5, "there is no interface 'nosuch0'"),
        ("send get /light --member {out}/nobody --interface lo", 3, "does not exist"),
    ],
)
def test_what_is_wrong_stands_on_one_line(
    hall: Hall, capsys: pytest.CaptureFixture[str], command: str, code: int, says: str
) -> None:
    hall.enroll("lamp", "room=listener")
    before = enrolled(hall)
    capsys.readouterr()
    arguments = command.format(lamp=hall.devices / "lamp", out=hall.devices).split()
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert says in captured.err
    assert enrolled(hall) == before


def test_a_join_that_fails_leaves_the_enrolment_as_it_was(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hall.enroll("lamp", "room=listener")
    before = (path / "enrolment.json").read_bytes()
    assert main(["join", str(path), "hall=listener", "--interface", "lo", "--timeout", "0.2"]) == 5
    assert json.loads((path / "enrolment.json").read_bytes()) == json.loads(before)


def test_one_process_for_each_device(hall: Hall, capsys: pytest.CaptureFixture[str]) -> None:
    path = hall.enroll("lamp", "room=listener")
    network = NetworkOptions("lo", IPv4Address("127.0.0.77"))

    async def act() -> None:
        async with ManagedMembership(path, network):
            with pytest.raises(GroupcoapError, match="in use"):
                async with open_device(path, network):
                    raise AssertionError

    asyncio.run(act())


def test_a_device_in_no_group_is_told_what_to_do(hall: Hall) -> None:
    path = hall.enroll("lamp", "room=listener")
    body = json.loads((path / "enrolment.json").read_text())
    (path / "enrolment.json").write_text(json.dumps({**body, "groups": []}))

    async def act() -> None:
        async with open_device(path, NetworkOptions("lo")):
            raise AssertionError

    with pytest.raises(MisuseError, match="is in no group; join one with"):
        asyncio.run(act())
    assert main(["join", str(path), "--interface", "lo"]) == 2
    assert main(["check", str(path), "--interface", "lo"]) == 1


# ---- check


@pytest.mark.processes
def test_check_knows_such_devices(hall: Hall, capsys: pytest.CaptureFixture[str]) -> None:
    path = hall.enroll("lamp", "room=listener")

    def check() -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main(["check", str(path), *hall.bound("lamp"), "--json"])
        findings = json.loads(capsys.readouterr().out)["findings"]
        return code, {finding["check"]: finding for finding in findings if finding["check"] != "clock"}

    code, found = check()
    assert (code, found["member"]["level"], found["manager"]["level"]) == (1, "warning", "problem")
    assert found["manager"]["found"].startswith("nobody answers at 127.0.0.1:")
    assert found["member"]["found"] == "room: not joined yet; it may be listener"
    assert found["enrolment"]["found"].startswith("lamp, at the Group Manager 127.0.0.1:")
    manager = hall.serve()
    lamp = hall.listen("lamp")
    code, found = check()
    assert (code, found["member"]["level"]) == (0, "ok")
    assert found["manager"]["found"].endswith(", and knows this device")
    assert re.fullmatch(r"room: renewal 0, good for 8\d+ s without the manager", found["member"]["found"])
    assert found["group"]["found"].startswith(f"room at {hall.address}: listener 00")
    assert "in use by" in found["state"]["found"]
    assert hall.do("evict", "room", "lamp") == 0
    assert lamp.ended() == 7
    code, found = check()
    assert found["member"]["found"].startswith("room: no member any more: ")
    assert hall.do("withdraw", "lamp") == 0
    code, found = check()
    assert (code, found["manager"]["level"]) == (1, "problem")
    assert found["manager"]["found"].endswith(" does not know this device")
    assert manager.stop() == 0
    (path / "enrolment.json").write_text("{}")
    code, found = check()
    assert (code, found["files"]["level"]) == (1, "problem")
