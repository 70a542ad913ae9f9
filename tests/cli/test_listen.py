"""`groupcoap listen`: a small device, as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from groupcoap.cli.listen import MOST_DROPS, DropLines, Lines
from groupcoap.core.profile import Mode
from groupcoap.files.provisioning import GroupPlan

from .room import PROGRAM, Room, furnished, group_oscore, modern, room, run

__all__ = ["modern", "room"]
pytestmark = pytest.mark.processes


def test_one_ready_line_then_one_line_for_each_request_and_the_totals(room: Room) -> None:
    lamp = room.listen("lamp-1", "-v")
    port = room.address.port
    assert lamp.lines == [f"lamp-1 listens at 224.0.1.187:{port} on lo, answers from 127.0.0.3:{port}, as light"]
    assert room.send("put", "/light", "--payload", "40", "--roster", "lamp-1").code == 0
    assert re.fullmatch(
        r'PUT /light "40" from switch-1 \(00\): number 1, fresh, signature verified', lamp.expect("PUT")
    )
    assert room.send("get", "/light?a=b", "--roster", "lamp-1").code == 0
    assert lamp.expect("GET").endswith("number 2, ordered, signature verified")
    assert lamp.stop() == 0
    assert lamp.rest()[-1] == "2 requests delivered, 1 challenge sent; dropped: nothing"
    assert len(lamp.lines) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_gracefully(room: Room, number: signal.Signals) -> None:
    lamp = room.listen("lamp-1")
    lamp.signal(number)
    assert lamp.ended() == 0
    assert lamp.rest() == lamp.lines[:1]
    assert '"stop"' in (room.directory / "lamp-1" / "state.journal").read_text().splitlines()[-1]


def test_one_process_per_device(room: Room) -> None:
    room.listen("lamp-1")
    second = run("listen", str(room.directory / "lamp-1"), *room.bound("lamp-2"))
    assert second.code == 4
    assert second.out == ""
    assert second.err.count("\n") == 1


def test_a_second_device_at_the_same_address_is_told_which_one_to_use(room: Room) -> None:
    room.listen("lamp-1", "--bind", "127.0.0.2")
    second = run("listen", str(room.directory / "lamp-2"), "--bind", "127.0.0.2")
    assert second.code == 5
    assert second.err.count("\n") == 1
    (suggested,) = re.findall(r"try (--bind 127\.0\.0\.\d+)$", second.err.strip())
    room.start("listen", str(room.directory / "lamp-2"), *suggested.split()).expect(" listens at ")


def test_lo_alone_is_enough_for_one_device_and_port_0_takes_any(room: Room) -> None:
    path = str(room.directory / "lamp-1")
    ready = room.start("listen", path, "--interface", "lo", "--port", "0").expect(" listens at ")
    port = int(re.findall(r"answers from 127\.0\.0\.1:(\d+)", ready)[0])
    assert port != room.address.port


def test_a_pure_listener_never_answers(room: Room) -> None:
    panel = room.listen("panel-1", "-v")
    assert "never answers (pure listener)" in panel.lines[0]
    nobody = room.send("put", "/light", "--payload", "on", "--roster", "none", timeout=0.5)
    assert (nobody.code, nobody.out.splitlines()[0]) == (1, "0 answered")
    panel.expect("not synchronized yet (baseline)")
    room.send("put", "/light", "--payload", "off", "--roster", "none", timeout=0.5)
    panel.expect('PUT /light "off" from switch-1 (00): number 1, ordered, signature verified')


def test_who_sends_and_is_a_pure_listener_hears_the_others_and_never_answers(tmp_path: Path) -> None:
    with furnished(tmp_path, switch=1, lamp=1, desk=1) as room:
        desk, lamp = room.listen("desk-1", "-v"), room.listen("lamp-1")
        assert "never answers (pure listener)" in desk.lines[0]
        for payload in ("on", "off"):
            both = room.send("put", "/light", "--payload", payload, "--roster", "lamp-1")
            assert both.code == 0
        desk.expect('PUT /light "off" from switch-1')
        assert desk.stop() == 0
        assert room.send("put", "/light", "--payload", "40", member="desk-1").code == 0
        lamp.expect('PUT /light "40" from desk-1')


def test_a_group_file_will_do(room: Room) -> None:
    path = room.directory / "lamp-1" / "room.group.json"
    room.start("listen", str(path), *room.bound("lamp-1")).expect("lamp-1 listens at ")


def test_what_is_dropped_is_said_with_the_reason(room: Room) -> None:
    lamp = room.listen("lamp-1", "-v")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outsider:
        outsider.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        outsider.sendto(bytes.fromhex("5001aaaab54c69676874"), ("224.0.1.187", room.address.port))
    lamp.expect("not a protected group message")
    lamp.stop()
    assert lamp.rest()[-1] == "0 requests delivered; dropped: 1 × not a protected group message"


def test_synchronization_and_verification_may_differ_from_the_groups(room: Room) -> None:
    lamp = room.listen("lamp-1", "--sync", "best-effort", "--verification", "defer")
    assert room.send("get", "/light", "--roster", "lamp-1").code == 0
    said = lamp.expect("GET")
    assert said.endswith("from some member, as switch-1 (00): number 0, unsynchronized, signature deferred")
    lamp.expect("number 0 from switch-1 (00), checked later: signature verified")


def test_it_ends_when_nobody_reads_it(room: Room) -> None:
    lamp = subprocess.Popen(
        [*PROGRAM, "listen", str(room.directory / "lamp-1"), *room.bound("lamp-1"), "--leisure", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert lamp.stdout is not None
    assert lamp.stderr is not None
    with lamp:
        lamp.stdout.readline()
        lamp.stdout.close()
        room.send("get", "/light", "--roster", "lamp-1", timeout=1)
        assert lamp.wait(30) == 0
        assert lamp.stderr.read() == b""


def test_it_ends_with_its_parent_if_asked_to(room: Room) -> None:
    lamp = subprocess.Popen(
        [*PROGRAM, "listen", str(room.directory / "lamp-1"), *room.bound("lamp-1"), "--with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert lamp.stdin is not None
    assert lamp.stdout is not None
    with lamp:
        lamp.stdout.readline()
        lamp.stdin.close()
        assert lamp.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{room}/nobody", "--interface", "lo"], 3, "does not exist"),
        (["{room}", "--interface", "lo"], 3, "holds devices and is none itself; give one of lamp-1"),
        (["{room}/switch-1", "--interface", "lo"], 2, "switch-1 is no listener in room"),
        (["{room}/lamp-1"], 5, "--interface NAME"),
        (["{room}/lamp-1", "--interface", "nosuch0"], 5, "there is no interface 'nosuch0'"),
        (["{room}/lamp-1", "--interface", "lo", "--bind", "192.0.2.7"], 5, "192.0.2.7"),
        (["{room}/lamp-1", "--bind", "224.0.1.187"], 5, "is a multicast address"),
        (["{room}/lamp-1", "--bind", "here"], 2, "'here' is not an IP address"),
        (["{room}/lamp-1", "--as", "toaster"], 2, "toaster"),
        ([], 2, "MEMBER"),
    ],
)
def test_what_is_wrong_stands_on_one_line(room: Room, arguments: list[str], code: int, says: str) -> None:
    ended = run("listen", *(argument.format(room=room.directory) for argument in arguments))
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert says in ended.err


def test_a_restarted_device_has_not_forgotten_whom_it_knows(room: Room) -> None:
    first = room.listen("lamp-1")
    assert room.send("put", "/light", "--payload", "on", "--roster", "lamp-1").code == 0
    first.expect("fresh")
    first.signal(signal.SIGKILL)
    assert first.ended() == -signal.SIGKILL
    second = room.listen("lamp-1")
    assert room.send("put", "/light", "--payload", "off", "--roster", "lamp-1").code == 0
    assert "ordered" in second.expect("PUT")


def test_addresses_of_both_families(tmp_path: Path) -> None:
    if not Path("/proc/net/if_inet6").read_text():
        pytest.skip("this host has no IPv6")
    with furnished(tmp_path, switch=1, lamp=1) as room:
        both = tmp_path / "both"
        port = room.address.port
        addresses = ("--address", f"224.0.1.187:{port}", "--address", f"[ff05::fd]:{port}")
        assert run("provision", str(both), *addresses, "--lamps", "1", "--switches", "1").code == 0
        ready = room.start("listen", str(both / "lamp-1"), "--bind", "127.0.0.2").expect(" listens at ")
        assert f" listens at 224.0.1.187:{port}, [ff05::fd]:{port} on lo" in ready
        assert f"answers from 127.0.0.2:{port}, [::]:{port}" in ready
        sent = run("send", "get", "/light", "--member", str(both / "switch-1"), "--interface", "lo")
        assert sent.code == 0


def test_limits_are_set_and_those_that_were_reached_are_in_the_totals(room: Room) -> None:
    lamp = room.listen("lamp-1", "-v", "--limit", "recipients=1", "--limit", "error_rate_per_peer=0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outsider:
        outsider.connect(("127.0.0.3", room.address.port))
        for number in range(3):
            outsider.send(bytes((0x40, 1, 0, number)))
            lamp.expect("not a protected group message")
    assert lamp.stop() == 0
    assert lamp.rest()[-1] == (
        "0 requests delivered; dropped: 3 × not a protected group message; limits reached: 2 × error_rate_per_peer"
    )


@pytest.mark.parametrize(
    ("limit", "said"),
    [("lamps=3", "observations_per_peer"), ("bodies=many", "whole number"), ("error_rate=0", "above 0")],
)
def test_a_limit_that_is_none_is_a_usage_error(room: Room, limit: str, said: str) -> None:
    result = run("listen", str(room.directory / "lamp-1"), "--limit", limit)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err


def test_no_secret_is_ever_said(tmp_path: Path) -> None:
    with furnished(tmp_path, switch=1, lamp=1) as room:
        lamp = room.listen("lamp-1", "-v")
        sent = room.send("get", "/light")
        lamp.stop()
        said = "\n".join(lamp.rest()) + sent.out
        files = [file.read_text() for file in room.directory.rglob("*.json")]
        secrets = re.findall(r'"(?:private_key|master_secret)": "([0-9a-f]+)"', "".join(files))
        assert len(secrets) == 4
        assert not [secret for secret in secrets if secret in said]


def test_a_flood_of_drops_does_not_become_a_flood_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    handler = DropLines(Lines(asyncio.Event()))
    for second, count in ((100, 50), (101, 3), (102, MOST_DROPS + 1)):
        for number in range(count):
            record = logging.makeLogRecord({"msg": f"dropped {second}-{number}", "created": second + 0.5})
            handler.emit(record)
    handler.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[MOST_DROPS] == "dropped 30 more in the same second"
    assert lines[MOST_DROPS + 1 : MOST_DROPS + 4] == ["dropped 101-0", "dropped 101-1", "dropped 101-2"]
    assert lines[-1] == "dropped 1 more in the same second"
    assert len(lines) == 2 * MOST_DROPS + 5


# ---- Group OSCORE


def test_how_it_is_known_who_has_sent_a_request(modern: Room) -> None:
    """The echo comes in pairwise mode, what is sent to all later is signed."""
    lamp = modern.listen("lamp-1", "-v")
    assert modern.send("put", "/light", "--payload", "40", "--roster", "lamp-1").code == 0
    assert re.fullmatch(r'PUT /light "40" from switch-1 \(00\): number 1, fresh, pairwise', lamp.expect("PUT"))
    assert modern.send("get", "/light", "--roster", "lamp-1").code == 0
    assert lamp.expect("GET").endswith("from switch-1 (00): number 2, ordered, signature verified")
    assert lamp.stop() == 0
    assert lamp.rest()[-1] == "2 requests delivered, 1 challenge sent; dropped: nothing"


def test_a_silent_listener_of_a_modern_group(modern: Room) -> None:
    panel = modern.listen("panel-1", "-v")
    assert "never answers (pure listener)" in panel.lines[0]
    modern.send("put", "/light", "--payload", "on", "--roster", "none", timeout=0.5)
    panel.expect("not synchronized yet (baseline)")
    modern.send("put", "/light", "--payload", "off", "--roster", "none", timeout=0.5)
    panel.expect('PUT /light "off" from switch-1 (00): number 1, ordered, signature verified')


def answered_in(room: Room, policy: str | None) -> list[str]:
    """How answers are protected, with this --responses: to an echo in pairwise mode, then to the group."""
    options = () if policy is None else ("--responses", policy)
    lamp = room.listen("lamp-1", *options)
    ways = []
    for _ in range(2):
        (answer, summary) = room.send("get", "/light", "--roster", "lamp-1", "--json").json
        assert summary["complete"]
        ways.append(answer["signature"])
    lamp.stop()
    lamp.rest()
    return ways


@pytest.mark.parametrize(
    ("groups", "own", "ways"),
    [
        (None, None, ["pairwise", "verified"]),
        (None, "as-requested", ["pairwise", "verified"]),
        (None, "pairwise", ["pairwise", "pairwise"]),
        (None, "group", ["verified", "verified"]),
        ("pairwise", None, ["pairwise", "pairwise"]),
        ("pairwise", "as-requested", ["pairwise", "verified"]),
        ("pairwise", "group", ["verified", "verified"]),
        ("group", "as-requested", ["pairwise", "verified"]),
    ],
)
def test_the_mode_of_answers(tmp_path: Path, groups: str | None, own: str | None, ways: list[str]) -> None:
    def change(plan: GroupPlan) -> GroupPlan:
        mode = None if groups is None else Mode(groups)
        return group_oscore(replace(plan, policy=replace(plan.policy, response_mode=mode)))

    with furnished(tmp_path, change=change, switch=1, lamp=1) as made:
        assert answered_in(made, own) == ways


@pytest.mark.parametrize(
    ("modern_group", "option", "says"),
    [
        (
            True,
            "--verification skip",
            "--verification skip does not go with room (group-oscore), where every signature",
        ),
        (True, "--verification defer", "--verification defer does not go with room (group-oscore)"),
        (False, "--responses group", "--responses group does not go with room (multicast-oscore-04)"),
        (False, "--responses as-requested", "where there is only one mode; leave it out"),
        (False, "--responses pairwise", "where there is no pairwise mode; leave it out"),
        (True, "--responses none", "--responses"),
    ],
)
def test_what_would_change_nothing_is_refused(tmp_path: Path, modern_group: bool, option: str, says: str) -> None:
    change = group_oscore if modern_group else lambda plan: plan
    with furnished(tmp_path, change=change, switch=1, lamp=1) as made:
        ended = run("listen", str(made.directory / "lamp-1"), *made.bound("lamp-1"), *option.split())
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert says in ended.err


def test_what_changes_nothing_in_one_of_two_groups_is_said(modern: Room) -> None:
    joining = ("--group", "hall", "--join", "switch-1=multicaster", "--join", "lamp-1=listener")
    draft = ("--profile", "multicast-oscore-04", "--address", f"224.0.1.188:{modern.address.port}")
    assert run("provision", str(modern.directory), *draft, *joining).code == 0
    lamp = modern.start(
        *("listen", str(modern.directory / "lamp-1"), *modern.bound("lamp-1")),
        *("--verification", "defer", "--responses", "pairwise", "--leisure", "0.05"),
    )
    said = [lamp.expect("groupcoap: ") for _ in range(2)]
    assert said == [
        "groupcoap: --verification defer changes nothing in room, where every signature is verified",
        "groupcoap: --responses pairwise changes nothing in hall, where there is no pairwise mode",
    ]
    lamp.expect(" listens at ")
    for group, state in (("room", "signature verified"), ("hall", "signature deferred")):
        for _ in range(2):  # the first is an echo
            sent = modern.send("get", f"coap://{group}/light", "--roster", "lamp-1", "--json")
            assert sent.code == 0
        assert sent.json[0]["signature"] == ("pairwise" if group == "room" else "verified")
        lamp.expect(state)
