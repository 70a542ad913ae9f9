"""`groupcoap send`: one request, many answers, and who is missing."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from forward_proxy import ForwardProxy
from groupcoap.cli.answers import Summary
from groupcoap.cli.target import find_target
from groupcoap.cli.via import host_and_port, host_and_port_text
from groupcoap.demo.room import reserve_port
from groupcoap.errors import MisuseError
from groupcoap.files.provisioned import load_member
from groupcoap.files.provisioning import GroupPlan

from .room import PATIENCE, PROGRAM, Room, furnished, group_oscore, modern, room, run

__all__ = ["modern", "room"]
pytestmark = pytest.mark.processes


@pytest.fixture
def lit(room: Room) -> Room:
    """The room with both lamps listening."""
    room.listen("lamp-1")
    room.listen("lamp-2")
    return room


def test_every_lamp_answers_on_a_line_of_its_own_then_comes_the_summary(lit: Room) -> None:
    sent = lit.send("put", f"coap://{lit.address}/light", "--payload", "40")
    *answers, summary = sent.out.splitlines()
    assert sent.code == 0
    assert sent.err == ""
    line = r"lamp-(\d)  0(\d)  2\.04 Changed +\d+ ms  verified, bound  on 40%"
    assert sorted(re.fullmatch(line, answer).groups() for answer in answers) == [("1", "1"), ("2", "2")]  # type: ignore[union-attr]
    assert re.fullmatch(r"2 of 2 answered, the first after \d+ ms, the last after \d+ ms", summary)


def test_json_is_one_object_per_answer_then_the_summary(lit: Room) -> None:
    sent = lit.send("get", "/light", "--json")
    *answers, summary = sent.json
    assert sent.code == 0
    assert {answer["listener"]: answer["endpoint_id"] for answer in answers} == {"lamp-1": "01", "lamp-2": "02"}
    for answer in answers:
        assert (answer["code"], answer["payload"], answer["content_format"]) == ("2.05", "off", 0)
        assert (answer["signature"], answer["freshness"]) == ("verified", "bound")
        assert answer["address"] == lit.hosts[answer["listener"]]
        assert 0 < answer["delay_ms"] < 10_000
    assert summary == {
        "summary": True,
        "complete": True,
        "answered": 2,
        "expected": 2,
        "others": 0,
        "missing": [],
        "problems": {},
        "refused": {},
        "errors": 0,
        "answers": 2,
    }


def test_on_a_terminal_the_answers_are_a_table(lit: Room) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    arguments = ("send", "get", "/light", *lit.sender())
    with subprocess.Popen([*PROGRAM, *arguments], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b"")).decode()
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "listener" in text
    assert re.search(r"lamp-1 +01 +2\.05 Content +off +\d+ ms +verified +bound", text)
    assert "2 of 2 answered" in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how the end of the other side shows on Linux
        return b""


def test_who_is_missing_is_named(room: Room) -> None:
    room.listen("lamp-2")
    sent = room.send("get", "/light", timeout=1)
    assert sent.code == 1
    assert sent.out.splitlines()[1:] == [sent.out.splitlines()[1], "missing: lamp-1"]
    assert sent.out.splitlines()[1].startswith("1 of 2 answered")
    as_json = room.send("get", "/light", "--json", timeout=1)
    assert as_json.code == 1
    assert as_json.json[-1]["missing"] == ["lamp-1"]
    assert as_json.json[-1]["complete"] is False


def test_the_roster_says_who_is_waited_for(room: Room) -> None:
    room.listen("lamp-2")
    assert room.send("get", "/light", "--roster", "lamp-2").code == 0
    assert room.send("get", "/light", "--roster", "02").code == 0
    assert room.send("get", "/light", "--roster", "lamp-1, lamp-2", timeout=1).code == 1
    whoever = room.send("get", "/light", "--roster", "none", "--json", timeout=1)
    assert whoever.code == 0
    assert whoever.json[-1]["expected"] is None
    nobody = room.send("get", "/nothing", "--roster", "none", timeout=0.5)
    assert nobody.code == 1
    assert nobody.out.splitlines()[-1] == (
        "nobody answered: do the listeners run, on this interface, and is there such a resource? "
        "Errors are not sent in answer to multicast. groupcoap check looks for the cause."
    )


def test_who_is_not_in_the_roster_is_counted_apart(room: Room) -> None:
    room.listen("lamp-2")
    absent = ("get", "/light", "--roster", "lamp-1")
    sent = room.send(*absent, timeout=1)
    assert sent.code == 1
    _, counts, *rest = sent.out.splitlines()
    assert re.fullmatch(r"0 of 1 answered, and 1 more; the first after \d+ ms", counts)
    assert rest == ["missing: lamp-1"]
    summary = room.send(*absent, "--json", timeout=1).json[-1]
    assert [summary[key] for key in ("answered", "expected", "others", "answers")] == [0, 1, 1, 1]
    room.listen("lamp-1")
    observed = room.send("observe", "/light", "--roster", "lamp-1", "--count", "2")
    assert observed.out.splitlines()[-1] == "1 of 1 answered, and 1 more; 2 notifications"


@pytest.mark.parametrize(
    ("summary", "line"),
    [
        (
            Summary(2, 1, 1, 1, first=0.358, last=0.512),
            "1 of 1 answered, and 1 more; the first after 358 ms, the last after 512 ms",
        ),
        (Summary(1, 1, 1, first=0.358, last=0.358), "1 of 1 answered, the first after 358 ms"),
        (Summary(2, 2, None, first=0.358, last=0.512), "2 answered, the first after 358 ms, the last after 512 ms"),
        (Summary(0, 0, 2), "0 of 2 answered"),
    ],
)
def test_how_answers_are_counted(summary: Summary, line: str) -> None:
    assert next(iter(summary.lines())) == line


def test_the_table_counts_while_it_waits(tmp_path: Path) -> None:
    with furnished(tmp_path, switch=1, lamp=2) as room:
        room.listen("lamp-2")
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        arguments = ("send", "get", "/light", *room.sender(), "--roster", "lamp-1", "--timeout", "1")
        with subprocess.Popen([*PROGRAM, *arguments], stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            shown = b"".join(iter(lambda: _read(ours), b"")).decode()
            assert process.wait(PATIENCE) == 1
        os.close(ours)
    assert "0 of 1, and 1 more …" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)


def test_a_group_of_pure_listeners_is_complete_without_answers(tmp_path: Path) -> None:
    with furnished(tmp_path, switch=1, panel=1) as room:
        sent = room.send("put", "/light", "--payload", "on", timeout=0.5)
        assert (sent.code, sent.out.splitlines()[0]) == (0, "0 of 0 answered")


def test_payloads_from_a_file_and_from_standard_input(lit: Room, tmp_path: Path) -> None:
    level = tmp_path / "level"
    level.write_text("70")
    assert {a["payload"] for a in lit.send("put", "/light", "--payload", f"@{level}", "--json").json[:-1]} == {
        "on 70%"
    }
    typed = run("send", "put", "coap://room/light", "--payload", "-", "--json", *lit.sender(), stdin="15\n")
    assert {answer["payload"] for answer in typed.json[:-1]} == {"on 15%"}
    mistyped = lit.send("put", "/light", "--payload", "dimm", "--json")
    assert {answer["code"] for answer in mistyped.json[:-1]} == {"4.00"}
    assert (mistyped.code, mistyped.json[-1]["complete"], mistyped.json[-1]["errors"]) == (1, True, 2)
    assert "0 to 100" in mistyped.json[0]["payload"]


def test_a_large_answer_comes_whole(room: Room) -> None:
    room.listen("lamp-1", "--as", "sensor")
    whole = room.send("get", "/log", "--roster", "lamp-1", "--json")
    assert whole.code == 0
    assert len(whole.json[0]["payload"]) > 4096
    shown = room.send("get", "/log", "--roster", "lamp-1")
    assert re.search(r"… \(\d{4} bytes\)$", shown.out.splitlines()[0])
    links = room.send("get", "/.well-known/core", "--roster", "lamp-1", "--json").json[0]
    assert "</temperature>" in links["payload"]
    assert links["content_format"] == 40


def test_an_observation_follows_every_change_and_is_ended_by_ctrl_c(tmp_path: Path) -> None:
    with furnished(tmp_path, switch=2, lamp=2) as room:
        lamps = [room.listen("lamp-1"), room.listen("lamp-2")]
        watcher = room.start("send", "observe", "/light", *room.sender("switch-1"), "--json")
        for _ in lamps:
            watcher.expect('"payload": "off"')
        assert room.send("put", "/light", "--payload", "30", member="switch-2").code == 0
        for _ in lamps:
            watcher.expect('"payload": "on 30%"')
        assert watcher.stop() == 0
        assert json.loads(watcher.rest()[-1])["notifications"] == 4
        for lamp in lamps:
            lamp.expect("GET /light (observe no more) from switch-1")


def test_an_observation_ends_by_count_or_time(lit: Room) -> None:
    counted = lit.send("observe", "/light", "--count", "2", "--json")
    assert (counted.code, counted.json[-1]["notifications"]) == (0, 2)
    timed = lit.send("observe", "/light", "--for", "0.8", "--json")
    assert (timed.code, timed.json[-1]["answered"]) == (0, 2)
    refused = lit.send("observe", "/.well-known/core")
    assert refused.code == 1
    assert "nobody lets this resource be observed" in refused.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_waiting_with_a_summary(room: Room, number: signal.Signals) -> None:
    room.listen("lamp-1")
    waiting = room.start("send", "get", "/light", *room.sender(), "--timeout", "60")
    waiting.expect("lamp-1")
    waiting.signal(number)
    assert waiting.ended() == 130
    assert waiting.rest()[-1] == "missing: lamp-2"


def test_an_interrupted_request_without_a_roster_is_not_done(room: Room) -> None:
    room.listen("lamp-1")
    waiting = room.start("send", "get", "/light", *room.sender(), "--timeout", "60", "--roster", "none")
    waiting.expect("lamp-1")
    assert waiting.stop() == 130
    assert waiting.rest()[-1].startswith("1 answered, the first after ")


def test_no_guess_why_nobody_answered_is_made_when_interrupted(room: Room) -> None:
    panel = room.listen("panel-1", "--verbose")
    waiting = room.start("send", "get", "/light", *room.sender(), "--timeout", "60")
    panel.expect("not synchronized yet")
    assert waiting.stop() == 130
    assert waiting.rest() == ["0 of 2 answered", "missing: lamp-1, lamp-2"]


def test_an_observation_that_ctrl_c_ends_is_incomplete_while_somebody_is_missing(room: Room) -> None:
    room.listen("lamp-1")
    for roster, code in (("lamp-1", 0), ("known", 1), ("none", 0)):
        watcher = room.start("send", "observe", "/light", *room.sender(), "--roster", roster)
        watcher.expect("lamp-1")
        assert watcher.stop() == code


def test_what_cannot_be_sent_says_where_help_is(room: Room) -> None:
    """A broadcast address is refused by the kernel: nothing is sent."""
    sent = room.send("get", "/light", "--proxy", "255.255.255.255")
    assert (sent.code, sent.err) == (
        5,
        "groupcoap: cannot send to 255.255.255.255: Permission denied; groupcoap check says what to do\n",
    )


def test_a_proxy_that_does_not_answer_is_asked_about(room: Room) -> None:
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        sent = room.send("get", "/light", "--proxy", f"127.0.0.1:{port}", timeout=0.5)
    assert sent.code == 1
    assert sent.out.splitlines()[-1] == (
        f"nobody answered: does a forward proxy run at 127.0.0.1:{port}, and does it send to the group?"
    )


def test_a_device_that_runs_already_cannot_send(lit: Room) -> None:
    busy = lit.start("send", "observe", "/light", *lit.sender())
    busy.expect("lamp-")
    refused = lit.send("get", "/light")
    assert refused.code == 4
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["get", "/light"], 2, "--member"),
        (["get", "/light", "--member", "{room}/switch-1"], 5, "--interface NAME"),
        (["get", "/light", "--member", "{room}/nobody", "--interface", "lo"], 3, "does not exist"),
        (["get", "/light", "--member", "{room}/lamp-1", "--interface", "lo"], 2, "may only listen"),
        (["get", "coap://224.0.1.188/", "{by}"], 2, "room (coap://224.0.1.187:"),
        (["get", "coap://rooom/light", "{by}"], 2, "room (coap://224.0.1.187:"),
        (["get", "light", "{by}"], 2, "write coap://"),
        (["get", "/light#x", "{by}"], 2, "no fragment"),
        (["get", "/%ff", "{by}"], 2, "not UTF-8"),
        (["get", "/light", "--group", "hall", "{by}"], 2, "not a member of group 'hall'"),
        (["get", "/light", "--roster", "lamp-9", "{by}"], 2, "there is lamp-1"),
        (["get", "/light", "--payload", "x", "{by}"], 2, "get has no payload"),
        (["get", "/light", "--count", "2", "{by}"], 2, "are for observe"),
        (["put", "/light", "--payload", "@/nosuchfile", "{by}"], 3, "/nosuchfile: cannot be read"),
        (["put", "/light", "--payload", "x" * 1025, "{by}"], 2, "at most 1024 bytes"),
        (["get", "/light", "--timeout", "0", "{by}"], 2, "--timeout"),
        (["toggle", "/light", "{by}"], 2, "toggle"),
    ],
)
def test_what_is_wrong_stands_on_one_line(room: Room, arguments: list[str], code: int, says: str) -> None:
    given: list[str] = []
    for argument in arguments:
        given += room.sender() if argument == "{by}" else [argument.format(room=room.directory)]
    ended = run("send", *given)
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert says in ended.err


def test_uris(room: Room) -> None:
    groups = load_member(room.directory / "switch-1").groups
    port = room.address.port
    target = find_target(f"COAP://224.0.1.187:{port}/a%20b//%C3%A9?x=1&&y=%26", groups)
    assert (target.address, target.path, target.query) == (room.address, ("a b", "", "é"), ("x=1", "", "y=&"))
    for root in (f"coap://224.0.1.187:{port}", f"coap://224.0.1.187:{port}/", "coap://room", "/"):
        assert (find_target(root, groups).path, find_target(root, groups).query) == ((), ())
    assert find_target("coap://room?a", groups).query == ("a",)
    for wrong in ("", "coap:/x", "coap://room:99999/x", "coap://224.0.1.187:0/", f"/{'x' * 256}", "coaps://room/x"):
        with pytest.raises(MisuseError):
            find_target(wrong, groups)
    for not_utf8 in ("/%ff", "/\udcff", "coap://room/?\udcff=1"):  # \udcff: what Python makes of such an argument
        with pytest.raises(MisuseError, match="is not UTF-8"):
            find_target(not_utf8, groups)


async def test_through_a_forward_proxy(lit: Room) -> None:
    lamps = [
        argument
        for name in ("lamp-1", "lamp-2")
        for argument in ("--reach", f"{name}={lit.hosts[name]}:{lit.address.port}")
    ]
    async with ForwardProxy() as proxy:
        host, port = proxy.address
        via = ("--proxy", f"{host}:{port}", *lamps)
        sent = await asyncio.to_thread(lit.send, "put", "/light", "--payload", "20", "--json", *via)
        assert sent.code == 0, sent.err
        assert sorted(answer["listener"] for answer in sent.json[:-1]) == ["lamp-1", "lamp-2"]
        assert proxy.seen


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--reach", "lamp-1=127.0.0.1"], "--reach goes with --proxy"),
        (["--proxy", "127.0.0.1", "--reach", "lamp-9=127.0.0.1"], "no member 'lamp-9' in group room"),
        (["--proxy", "127.0.0.1", "--reach", "lamp-1"], "is not NAME=ADDRESS[:PORT]"),
        (["--proxy", "127.0.0.1", "--reach", "=127.0.0.1"], "is not NAME=ADDRESS[:PORT]"),
        (["--proxy", "lamps.example"], "is not ADDRESS or ADDRESS:PORT"),
        (["--proxy", "127.0.0.1:"], "no UDP port behind the colon"),
        (["--proxy", "127.0.0.1:70000"], "no UDP port behind the colon"),
        (["--proxy", "[::1]x"], "no UDP port behind the colon"),
        (["--proxy", "224.0.1.187"], "is a multicast address"),
    ],
)
def test_a_proxy_that_makes_no_sense(room: Room, options: list[str], complaint: str) -> None:
    sent = room.send("get", "/light", *options)
    assert sent.code == 2
    assert complaint in sent.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", 5683)),
        ("127.0.0.1:9", ("127.0.0.1", 9)),
        ("::1", ("::1", 5683)),
        ("[::1]", ("::1", 5683)),
        ("[::1]:9", ("::1", 9)),
    ],
)
def test_where_a_proxy_is(text: str, expected: tuple[str, int]) -> None:
    host, port = host_and_port(text)
    assert (str(host), port) == expected
    assert host_and_port(host_and_port_text(host, port)) == (host, port)


# ---- Group OSCORE, and one listener alone


def test_a_group_of_todays_standard_is_asked_like_any_other(modern: Room) -> None:
    modern.listen("lamp-1")
    modern.listen("lamp-2")
    first = modern.send("put", "/light", "--payload", "40")
    assert first.code == 0
    assert re.search(r"^lamp-1  01  2\.04 Changed +\d+ ms  pairwise, bound  on 40%$", first.out, re.MULTILINE)
    second = modern.send("get", "/light", "--json")
    assert second.code == 0
    assert {answer["signature"] for answer in second.json[:-1]} == {"verified"}
    assert "mode" not in second.json[-1]


def test_one_listener_alone_in_pairwise_mode(modern: Room) -> None:
    lamp, other = modern.listen("lamp-1", "-v"), modern.listen("lamp-2", "-v")
    to = ("--to", f"lamp-1={modern.hosts['lamp-1']}")  # the group's port
    sent = modern.send("put", "/light", "--payload", "7", *to)
    assert (sent.code, sent.err) == (0, "")
    answer, summary = sent.out.splitlines()
    assert re.fullmatch(r"lamp-1  01  2\.04 Changed +\d+ ms  pairwise, bound  on 7%", answer)
    assert re.fullmatch(r"1 of 1 answered, the first after \d+ ms", summary)
    lamp.expect('PUT /light "7" from switch-1 (00): number 1, fresh, pairwise')
    as_json = modern.send("get", "/light", *to, "--mode", "pairwise", "--json")
    (got, end) = as_json.json
    assert (as_json.code, got["signature"], got["payload"]) == (0, "pairwise", "on 7%")
    assert (end["to"], end["mode"], end["answered"], end["expected"]) == ("lamp-1", "pairwise", 1, 1)
    other.stop()
    assert other.rest()[-1] == "0 requests delivered; dropped: nothing"


def test_one_listener_alone_in_group_mode(modern: Room) -> None:
    lamp = modern.listen("lamp-1")
    to = ("--to", f"01={modern.hosts['lamp-1']}:{modern.address.port}", "--mode", "group", "--json")
    modern.send("get", "/light", *to)  # an echo, which is pairwise
    (answer, summary) = modern.send("get", "/light", *to).json
    assert (answer["listener"], answer["signature"], summary["mode"]) == ("lamp-1", "verified", "group")
    assert lamp.expect("ordered").endswith("signature verified")


def test_in_the_drafts_profile_one_listener_can_be_asked_but_not_told(lit: Room) -> None:
    to = ("--to", f"lamp-1={lit.hosts['lamp-1']}")
    (answer, summary) = lit.send("get", "/light", *to, "--json").json
    assert (answer["signature"], summary["to"], summary["mode"]) == ("verified", "lamp-1", "group")
    refused = lit.send("put", "/light", "--payload", "1", *to)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "only get and fetch can be sent" in refused.err


def test_another_listener_than_the_one_that_is_asked(modern: Room) -> None:
    """What is for lamp-1 alone has come to lamp-2, which cannot read it, whatever the group's keys are."""
    other = modern.listen("lamp-2", "-v")
    sent = modern.send("put", "/light", "--payload", "7", "--to", f"lamp-1={modern.hosts['lamp-2']}", timeout=1)
    assert sent.code == 1
    assert sent.out.splitlines()[1] == "missing: lamp-1"
    where = f"{modern.hosts['lamp-2']}:{modern.address.port}"
    assert f"nobody answered: does lamp-1 run at {where}, and does it know this device's credential?" in sent.out
    other.expect("decryption failed")
    other.stop()
    assert other.rest()[-1].startswith("0 requests delivered")


def test_an_error_of_the_one_that_is_asked_is_shown(modern: Room) -> None:
    modern.listen("lamp-1")
    sent = modern.send("get", "/nothing", "--to", f"lamp-1={modern.hosts['lamp-1']}")
    assert sent.code == 1
    assert "4.04 Not Found" in sent.out
    assert "1 answer with an error: not done there" in sent.out


def test_a_large_answer_of_one_listener_comes_whole(modern: Room) -> None:
    modern.listen("lamp-1", "--as", "sensor")
    (answer, _) = modern.send("get", "/log", "--to", f"lamp-1={modern.hosts['lamp-1']}", "--json").json
    assert len(answer["payload"]) > 4096
    assert answer["signature"] == "pairwise"


def test_a_group_without_pairwise_mode(tmp_path: Path) -> None:
    def change(plan: GroupPlan) -> GroupPlan:
        return replace(group_oscore(plan), aead=None, key_agreement=None)

    with furnished(tmp_path, change=change, switch=1, lamp=1) as made:
        made.listen("lamp-1")
        to = ("--to", f"lamp-1={made.hosts['lamp-1']}")
        for _ in range(2):
            (answer, summary) = made.send("get", "/light", *to, "--json").json
            assert (answer["signature"], summary["mode"]) == ("verified", "group")
        asked_for = made.send("get", "/light", *to, "--mode", "pairwise")
        assert asked_for.err == "groupcoap: group room has no pairwise mode; leave --mode out\n"
        assert made.send("post", "/light", "--payload", "1", *to).code == 2
        assert made.send("put", "/light", "--payload", "1").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get", "/light", "--to", "lamp-1"], "'lamp-1' is not NAME=ADDRESS[:PORT]"),
        (["get", "/light", "--to", "lamp-1=here"], "is not ADDRESS or ADDRESS:PORT"),
        (["get", "/light", "--to", "lamp-1=224.0.1.187"], "is a multicast address"),
        (
            ["get", "/light", "--to", "lamp-9=127.0.0.2"],
            "no listener 'lamp-9' in group room; there is lamp-1, lamp-2",
        ),
        (["get", "/light", "--to", "panel-1=127.0.0.2"], "no listener 'panel-1'"),
        (["get", "/light", "--to", "switch-1=127.0.0.2"], "no listener 'switch-1'"),
        (["get", "/light", "--to", "known=127.0.0.2"], "--to takes the name or Endpoint ID of one listener"),
        (
            ["get", "/light", "--to", "lamp-1,lamp-2=127.0.0.2"],
            "--to takes the name or Endpoint ID of one listener",
        ),
        (["get", "/light", "--mode", "group"], "--mode goes with --to"),
        (["get", "/light", "--to", "lamp-1=127.0.0.2", "--mode", "both"], "--mode"),
        (["put", "/light", "--to", "lamp-1=127.0.0.2", "--mode", "group"], "only get and fetch can be sent"),
        (["observe", "/light", "--to", "lamp-1=127.0.0.2"], "--to does not go with observe"),
        (["get", "/light", "--to", "lamp-1=127.0.0.2", "--roster", "lamp-1"], "--roster does not go with --to"),
        (["get", "/light", "--to", "lamp-1=127.0.0.2", "--proxy", "127.0.0.1"], "--proxy does not go with --to"),
    ],
)
def test_one_listener_that_cannot_be_asked_so(modern: Room, arguments: list[str], says: str) -> None:
    ended = modern.send(*arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert says in ended.err
