"""`groupcoap decode` of a capture file: its lines, its JSON, one frame of it, and what it says when something is
wrong."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from capture_bytes import (
    LINKS,
    SLL2,
    datagram,
    ethernet,
    interface,
    ipv4,
    pcap,
    pcapng,
    section,
    simple,
    udp,
)
from groupcoap.cli import main
from groupcoap.cli.captures import Capture
from groupcoap.cli.decode import decode
from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.errors import FileFault
from groupcoap.files.keylog import KeyLog
from groupcoap.files.provisioned import load_member

from .scene import (
    ELSEWHERE,
    FORMAT,
    GROUP,
    LAMP_1,
    LAMP_2,
    LIGHT,
    OBSERVE,
    SWITCH,
    Step,
    frames_of,
    provisioned,
    renewed,
    speaker,
    view_of,
)

TCP = ethernet(ipv4(b"segment", protocol=6))
PLAIN = coap.encode(
    Message(coap.CON, coap.GET, 1, b"\x05", ((coap.URI_PATH, b"\x1b[2Jx"), (coap.URI_QUERY, b"a=b")), b"")
)
OSCORE = coap.encode(
    Message(coap.CON, coap.POST, 2, b"\x06", ((coap.OBJECT_SECURITY, b"\x09\x05\x01"),), b"x" * 20)
)


@dataclass(frozen=True)
class Scene:
    """A capture of a conversation, a renewal in the middle of it, and who took part."""

    before: Path
    after: Path
    steps: tuple[Step, ...]
    capture: Path
    logs: Path

    @property
    def keys(self) -> tuple[str | Path, ...]:
        """Of one device before and another one after."""
        return "--member", self.before / "lamp-1", "--member", self.after / "lamp-2"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    directory = tmp_path_factory.mktemp("scene")
    before = provisioned(directory / "before")
    after = renewed(before, directory / "after")
    switch, lamp_1, lamp_2 = (
        speaker(before / "switch-1", 300),
        speaker(before / "lamp-1"),
        speaker(before / "lamp-2", 9),
    )
    later = speaker(after / "lamp-1")
    asked = switch.request(coap.GET, LIGHT, OBSERVE)
    ids = switch.asked[asked]
    put = switch.request(coap.PUT, LIGHT, payload=b"40", token=b"\xbb")
    fetch = switch.request(coap.FETCH, LIGHT, (coap.BLOCK2, b"\x26"), token=b"\xcc")
    steps: tuple[Step, ...] = (
        (SWITCH, GROUP, asked),
        (
            LAMP_1,
            SWITCH,
            lamp_1.answer(ids, coap.CONTENT, (coap.OBSERVE, b"\x01"), FORMAT, payload=b"on", fresh=True),
        ),
        (LAMP_2, SWITCH, lamp_2.answer(ids, coap.FORBIDDEN, (coap.REPEAT, bytes(8)), fresh=True)),
        (SWITCH, GROUP, put),
        (SWITCH, GROUP, put),
        (
            LAMP_1,
            SWITCH,
            later.answer(ids, coap.CONTENT, (coap.OBSERVE, b"\x02"), FORMAT, payload=b"\xff", fresh=True),
        ),
        (SWITCH, LAMP_2, fetch),
        (LAMP_2, SWITCH, lamp_2.answer(switch.asked[fetch], coap.CONTENT, (coap.BLOCK2, b"\x2e"), token=b"\xcc")),
        (LAMP_1, SWITCH, lamp_1.answer(switch.asked[put], coap.CHANGED, token=b"\xbb")[:-1] + b"?"),
    )
    (directory / "room.pcap").write_bytes(pcap([TCP, *frames_of(steps)]))
    for name, home in (("before", before), ("after", after)):
        group = load_member(home / "switch-1").groups[0]
        KeyLog(directory / f"{name}.log").record(group, group.current)
    return Scene(before, after, steps, directory / "room.pcap", directory)


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(decode, [str(argument) for argument in arguments], input=stdin)


def fault(*arguments: object) -> Exception:
    error = run(*arguments).exception
    assert isinstance(error, Exception)
    return error


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def without_columns(output: str) -> list[str]:
    """The lines, with two spaces between columns, however wide they are."""
    return [re.sub(" {2,}", "  ", line.strip()) for line in output.splitlines()]


def test_a_line_for_each_datagram_then_what_it_comes_to(scene: Scene) -> None:
    result = run(scene.capture, *scene.keys)
    lines = without_columns(result.output)
    assert lines[:9] == [
        "2  0.250  10.0.0.1:40000 → 224.0.1.187  verified  "
        "switch-1 (00), epoch 0, number 300: GET /light (observe)",
        "3  0.500  10.0.0.2 → 10.0.0.1:40000  verified  "
        'lamp-1 (01), epoch 0, number 0: 2.05 Content "on" (notification), to frame 2',
        "4  0.750  10.0.0.3:61616 → 10.0.0.1:40000  verified  "
        "lamp-2 (02), epoch 0, number 9: 4.03 Forbidden (challenge), to frame 2 after 500 ms",
        '5  1.000  10.0.0.1:40000 → 224.0.1.187  verified  switch-1 (00), epoch 0, number 301: PUT /light "40"',
        "6  1.250  10.0.0.1:40000 → 224.0.1.187  verified  "
        'switch-1 (00), epoch 0, number 301: PUT /light "40"; repeats frame 5',
        "7  1.500  10.0.0.2 → 10.0.0.1:40000  verified  "
        'lamp-1 (01), epoch 1, number 0: 2.05 Content "0xff" (notification), to frame 2',
        "8  1.750  10.0.0.1:40000 → 10.0.0.3:61616  verified  "
        "switch-1 (00), epoch 0, number 302: FETCH /light (block 2)",
        "9  2.000  10.0.0.3:61616 → 10.0.0.1:40000  verified  "
        "lamp-2 (02), epoch 0: 2.05 Content (block 2, more follow), to frame 8 after 250 ms",
        "10  2.250  10.0.0.2 → 10.0.0.1:40000  refused  "
        "decryption failed (group response, to frame 6 after 1000 ms, as if from lamp-1 (01), epoch 0)",
    ]
    assert lines[9] == ""
    assert lines[10].startswith("9 group messages in 2.2 s, from 2023-11-1")
    assert lines[11:] == [
        "8  verified",
        "1  refused: decryption failed",
        "1  of these repeated",
        "passed over: 1 × not UDP",
        "group room",
        "switch-1 (00)  3 requests",
        "lamp-1 (01)  2 answers, to 1 of 2 multicast requests",
        "lamp-2 (02)  2 answers, to 1 of 2 multicast requests",
    ]
    assert result.exit_code == 1


def test_a_key_log_does_as_well_as_a_member(scene: Scene) -> None:
    by_members = run(scene.capture, *scene.keys)
    logs = ("--key-log", scene.logs / "before.log", "--key-log", scene.logs / "after.log")
    assert run(scene.capture, *logs).output == by_members.output
    mixed = ("--key-log", scene.logs / "before.log", "--member", scene.after / "lamp-2")
    assert run(scene.capture, *mixed).output == by_members.output
    request = scene.steps[0][2].hex()
    assert run(request, *logs).exit_code == 0
    assert run(request, "--key-log", scene.logs / "after.log").exit_code == 1


def test_without_the_keys_of_an_epoch_the_rest_is_shown(scene: Scene) -> None:
    result = run(scene.capture, "--member", scene.before / "lamp-1")
    gid = load_member(scene.after / "lamp-1").groups[0].current.gid.hex()
    assert f"not decrypted  no keys for its Gid {gid} (group response, to frame 2 after 1250 ms)\n" in result.output
    assert f"\n      1  not decrypted: no keys for its Gid {gid}\n" in result.output
    assert "switch-1 (00), number 300: GET" in result.output  # there is one epoch only


def test_without_keys_who_answers_whom_can_be_seen(scene: Scene) -> None:
    result = run(scene.capture)
    gid = load_member(scene.before / "lamp-1").groups[0].current.gid.hex()
    assert f"not decrypted  group request, number 300, under Gid {gid}\n" in result.output
    assert f"not decrypted  group response, to frame 2 after 250 ms, number 0, under Gid {gid}\n" in result.output
    assert "9  not decrypted: that takes keys, give --member PATH or --key-log FILE\n" in result.output
    assert result.exit_code == 0


def test_all_verified_is_exit_code_0(scene: Scene, tmp_path: Path) -> None:
    good = write(tmp_path / "good.pcapng", pcapng([TCP, *frames_of(scene.steps[:-1])]))
    assert run(good, *scene.keys).exit_code == 0
    assert run(good, *scene.keys, "--json").exit_code == 0
    other = write(tmp_path / "other.pcap", pcap([TCP], 105))
    assert run(other, *scene.keys).exit_code == 1
    nothing = run(write(tmp_path / "empty.pcap", pcap([])))
    assert (nothing.exit_code, nothing.output) == (0, "no group messages\n")


@pytest.mark.parametrize("link", LINKS)
def test_the_link_type_makes_no_difference(scene: Scene, tmp_path: Path, link: int) -> None:
    packets = [ipv4(b"segment", protocol=6), *(datagram(*step) for step in scene.steps)]
    capture = write(tmp_path / "any.pcapng", pcapng(map(LINKS[link], packets), link))
    assert run(capture, *scene.keys).output == run(scene.capture, *scene.keys).output


def test_json_is_an_object_for_each_datagram_then_the_summary(scene: Scene) -> None:
    result = run(scene.capture, *scene.keys, "--json")
    *sightings, summary = [json.loads(line) for line in result.output.splitlines()]
    assert [sighting["frame"] for sighting in sightings] == list(range(2, 11))
    gids = [load_member(home / "lamp-1").groups[0].current.gid.hex() for home in (scene.before, scene.after)]
    first, binary = sightings[0], sightings[5]
    assert first == {
        "frame": 2,
        "time": 1700000000.25,
        "source": "10.0.0.1",
        "source_port": 40000,
        "destination": "224.0.1.187",
        "destination_port": 5683,
        "kind": "group request",
        "outcome": "verified",
        "reason": None,
        "text": first["text"],
        "group": "room",
        "gid": gids[0],
        "epoch": 0,
        "profile": "multicast-oscore-04",
        "mode": "group",
        "sender_id": "00",
        "sender": "switch-1",
        "recipient_id": None,
        "recipient": None,
        "sequence_number": 300,
        "answers_frame": None,
        "repeats_frame": None,
        "nonce_used_in_frame": None,
        "code": "0.01 GET",
        "path": "/light",
        "options": [
            {"number": 6, "name": "Observe", "value": "0"},
            {"number": 11, "name": "Uri-Path", "value": "light"},
        ],
        "payload": "",
        "datagram": scene.steps[0][2].hex(),
    }
    assert (binary["gid"], binary["epoch"], binary["answers_frame"]) == (gids[1], 1, 2)
    assert (binary["payload"], binary["payload_hex"], binary["path"]) == (None, "ff", None)
    assert sightings[4]["repeats_frame"] == 5
    refused = sightings[8]
    assert (refused["outcome"], refused["reason"]) == ("refused", "decryption failed")
    assert refused["code"] is refused["path"] is refused["options"] is refused["payload"] is None
    assert summary == {
        "summary": True,
        "complete": False,
        "kinds": {"group request": 4, "group response": 5},
        "verified": 8,
        "countersigned": 0,
        "refused": {"decryption failed": 1},
        "not_tried": {},
        "repeated": 1,
        "nonce_used_again": [],
        "passed_over": {"not UDP": 1},
        "other_ports": 0,
        "begun": 1700000000.0,
        "ended": 1700000002.25,
        "members": [
            {"group": "room", "endpoint_id": id_, "name": name, **dict(zip(TALLY, counts, strict=True))}
            for id_, name, counts in (
                ("00", "switch-1", (3, 0, 0, 0)),
                ("01", "lamp-1", (0, 2, 2, 1)),
                ("02", "lamp-2", (0, 2, 2, 1)),
            )
        ],
    }


TALLY = ("requests", "responses", "asked", "answered")


def test_one_frame_is_explained_field_by_field(scene: Scene) -> None:
    result = run(scene.capture, *scene.keys, "--frame", 7)
    assert result.exit_code == 0
    assert result.output.startswith("Frame 7\n  time: 2023-11-1")
    for text in (
        "  from: 10.0.0.2:5683\n  to: 10.0.0.1:40000\n  answers: frame 2\n",
        "  Gid: group room",
        "(epoch 1, current Security Context)\n",
        "Decrypted\n  code: 2.05 Content\n",
        "decrypted, and the countersignature is right: from lamp-1, listener\n",
    ):
        assert text in result.output
    repeated = run(scene.capture, *scene.keys, "--frame", 6)
    assert "  repeats: frame 5\n" in repeated.output
    assert repeated.output.endswith("once renewed, a device takes no new request under it\n")
    refused = run(scene.capture, *scene.keys, "--frame", 10)
    assert (refused.exit_code, refused.output.splitlines()[-1]) == (1, "refused: decryption failed")
    without = run(scene.capture, "--frame", 3)
    assert without.exit_code == 0
    assert without.output.endswith("not decrypted: that takes keys, give --member PATH or --key-log FILE\n")


def test_one_frame_as_json(scene: Scene) -> None:
    content = json.loads(run(scene.capture, *scene.keys, "--frame", 4, "--json").output)
    assert content["outcome"] == "verified"
    assert content["sections"][0]["title"] == "Frame 4"
    assert {"name": "answers", "meaning": "frame 2", "remark": "after 500 ms"} in content["sections"][0]["fields"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--frame", "1"), "frame 1 is not UDP; choose one with CoAP"),
        (("--frame", "99"), "there is no datagram in frame 99"),
        (("--frame", "2", "--port", "61617"), "frame 2 goes to UDP port 5683; if that is CoAP, give --port 5683"),
        (("--request", "4001"), "--request and --destination are for a datagram in hex"),
        (("--destination", "10.0.0.1"), "--request and --destination are for a datagram in hex"),
    ],
)
def test_what_makes_no_sense_is_said(scene: Scene, arguments: tuple[str, ...], problem: str) -> None:
    assert str(fault(scene.capture, *arguments)).startswith(problem)


@pytest.mark.parametrize("option", [("--frame", "1"), ("--port", "5683")])
def test_options_of_captures_are_not_for_hex(scene: Scene, option: tuple[str, str]) -> None:
    assert "are for captures" in str(fault(scene.steps[0][2].hex(), *option))


def test_ports_are_those_of_the_groups_and_5683_unless_they_are_given(scene: Scene, tmp_path: Path) -> None:
    device = tmp_path / "lamp-1"
    shutil.copytree(scene.before / "lamp-1", device)
    group = device / "room.group.json"
    group.write_text(group.read_text().replace('"224.0.1.187"', '"224.0.1.187:61000"'))
    elsewhere = [(SWITCH, (GROUP[0], 61000), scene.steps[0][2]), (SWITCH, (GROUP[0], 61001), scene.steps[0][2])]
    capture = write(tmp_path / "ports.pcap", pcap(frames_of([*elsewhere, (ELSEWHERE, LAMP_1, PLAIN)])))
    kinds = [
        json.loads(line).get("kind") for line in run(capture, "--member", device, "--json").output.splitlines()
    ]
    # The third is from where a request has come, and so is the second: its sender is followed.
    assert kinds == ["group request", "group request", "plain CoAP", None]
    assert "passed over: 1 × UDP at other ports" in run(capture, "--port", 61000).output
    assert "passed over: 3 × UDP at other ports" in run(capture, "--port", 1).output


def test_other_messages_are_named_and_cannot_obey(tmp_path: Path) -> None:
    kinds = (PLAIN, OSCORE, b"\x07\x1b[2J", b"\x60\x00\x00\x01")
    steps = [(ELSEWHERE, LAMP_1, datagram) for datagram in kinds]
    result = run(write(tmp_path / "others.pcap", pcap(frames_of(steps))))
    texts = [line.partition("10.0.0.2  ")[2] for line in without_columns(result.output)[:4]]
    assert texts == [
        "plain CoAP: GET /\\x1b[2Jx?a=b (confirmable)",
        "RFC 8613 or pairwise mode",
        "refused  not CoAP: malformed: CoAP version is not 1",
        "empty message: ACK, acknowledgement",
    ]
    besides = "1 × empty message, 1 × plain CoAP, 1 × RFC 8613 or pairwise mode, 1 × not CoAP"
    assert f"besides: {besides}\n" in result.output
    assert "\x1b" not in result.output


def test_a_number_used_twice_cannot_be_overlooked(scene: Scene, tmp_path: Path) -> None:
    again = speaker(scene.before / "switch-1", 300).request(coap.PUT, LIGHT, payload=b"0")
    capture = write(tmp_path / "twice.pcap", pcap(frames_of([scene.steps[0], (SWITCH, GROUP, again)])))
    result = run(capture, *scene.keys)
    assert result.output.count("NONCE USED TWICE") == 2
    assert "as frame 1, but another message" in result.output
    assert result.exit_code == 1
    *_, second, summary = [json.loads(line) for line in run(capture, *scene.keys, "--json").output.splitlines()]
    assert (second["nonce_used_in_frame"], second["repeats_frame"]) == (1, None)
    assert summary["nonce_used_again"] == [2]
    assert "  uses the nonce of: frame 1\n" in run(capture, *scene.keys, "--frame", 2).output


def test_groups_are_named_where_there_are_several(tmp_path: Path) -> None:
    home = provisioned(tmp_path / "home")
    joining = ("--join", "switch-1=multicaster", "--join", "lamp-1=listener")
    assert main(["provision", str(home), "--group", "hall", "--address", "224.0.1.188", *joining]) == 0
    room, hall = (speaker(home / "switch-1", group_name=name) for name in ("room", "hall"))
    asked = room.request(coap.GET, LIGHT)
    under_hall = speaker(home / "lamp-1", group_name="hall").answer(room.asked[asked], coap.CONTENT)
    steps = [
        (SWITCH, GROUP, asked),
        (SWITCH, ("224.0.1.188", 5683), hall.request(coap.GET, LIGHT, token=b"\xbb")),
        (LAMP_1, SWITCH, under_hall),
    ]
    result = run(write(tmp_path / "two.pcap", pcap(frames_of(steps))), "--member", home / "lamp-1")
    lines = without_columns(result.output)
    assert "verified  switch-1 (00), room, number 0: GET /light" in lines[0]
    assert "verified  switch-1 (00), hall, number 0: GET /light" in lines[1]
    assert "refused  unknown group: " in lines[2]
    assert [line for line in lines if line.startswith("group ")] == ["group room", "group hall"]


def test_what_a_member_forged_is_shown_as_what_it_is(scene: Scene, tmp_path: Path) -> None:
    asked = scene.steps[3][2]
    at = asked.index(load_member(scene.before / "lamp-1").groups[0].current.gid) + 12
    forged = asked[:at] + bytes((asked[at] ^ 1,)) + asked[at + 1 :]
    result = run(write(tmp_path / "forged.pcap", pcap(frames_of([(SWITCH, GROUP, forged)]))), *scene.keys)
    assert without_columns(result.output)[0].endswith(
        "refused  signature failed: 00 (group request, as if from switch-1 (00), epoch 0, number 301: "
        'PUT /light "40")'
    )
    assert "group room" not in result.output  # nobody is known to have said anything


def test_frames_without_a_time(scene: Scene, tmp_path: Path) -> None:
    data = section() + interface() + b"".join(simple(frame) for frame in frames_of(scene.steps[:2]))
    capture = write(tmp_path / "timeless.pcapng", data)
    result = run(capture, *scene.keys)
    assert without_columns(result.output)[1].startswith("2  -  10.0.0.2 → 10.0.0.1:40000  verified")
    assert "\n2 group messages\n" in result.output
    assert run(capture, *scene.keys, "--frame", 2).output.startswith("Frame 2\n  from: 10.0.0.2:5683\n")
    first, *_, summary = [json.loads(line) for line in run(capture, *scene.keys, "--json").output.splitlines()]
    assert first["time"] is summary["begun"] is None


def test_a_capture_from_standard_input(scene: Scene) -> None:
    data = scene.capture.read_bytes()
    assert run("-", *scene.keys, stdin=data).output == run(scene.capture, *scene.keys).output
    assert run("-", stdin=scene.steps[0][2].hex().encode()).output == run(scene.steps[0][2].hex()).output


def test_fragments_and_what_is_cut_short(scene: Scene, tmp_path: Path) -> None:
    whole = udp(scene.steps[0][2], 40000)
    pieces = [ethernet(ipv4(whole[:80], more=True)), ethernet(ipv4(whole[80:], fragment=80))]
    together = run(write(tmp_path / "fragments.pcap", pcap(pieces)), *scene.keys)
    assert without_columns(together.output)[0].startswith("2  0.250  10.0.0.1:40000 → 224.0.1.187  verified")
    missing = run(write(tmp_path / "missing.pcap", pcap(pieces[:1])), *scene.keys)
    assert "passed over: 1 × of a datagram whose fragments are not all there\n" in missing.output
    assert missing.exit_code == 1
    cut = run(write(tmp_path / "cut.pcap", pcap(frames_of(scene.steps), snap_length=120)), *scene.keys)
    assert "not decrypted  only the beginning of a message: cut short by the capture's snap" in cut.output
    assert cut.exit_code == 1
    frame = run(tmp_path / "cut.pcap", *scene.keys, "--frame", 1)
    assert frame.output.splitlines()[-1].startswith("not decrypted: cut short")


def test_a_terminal_gets_colours(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    output = run(scene.capture, *scene.keys).output
    assert "\x1b[1;32mverified" in output
    assert "\x1b[1;31mrefused" in output
    assert "\n".join(line.partition("\n")[0] for line in output.splitlines()[:9]).count("\n") == 8  # none is broken


def test_no_key_is_ever_shown(scene: Scene) -> None:
    outputs = [
        run(scene.capture, *scene.keys, *more).output for more in ((), ("--json",), ("--frame", 4), ("--frame", 7))
    ]
    for home in (scene.before, scene.after):
        for device in ("switch-1", "lamp-1", "lamp-2"):
            files = load_member(home / device)
            assert files.identity is not None
            for secret in (files.groups[0].current.master_secret, files.identity.private_key.secret):
                assert not any(secret.reveal().hex() in output for output in outputs)


# ---- what is wrong with the file


def program(*arguments: object) -> int:
    return main(["decode", *map(str, arguments)])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("missing.pcap", None, "missing.pcap: does not exist; check the path"),
        ("notes.txt", b"40 01 00 07", "notes.txt: is no capture file"),
        ("short.pcap", pcap([TCP])[:-1], "short.pcap: is cut short before its first frame"),
        ("keys", b"{}", "keys: is no capture file"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_3(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        write(tmp_path / name, content)
    assert program(name) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"groupcoap: {problem}")
    assert error.count("\n") == 1


def test_a_directory_is_no_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program(tmp_path) == 3
    assert "cannot be read (Is a directory)" in capsys.readouterr().err


def test_what_is_neither_hex_nor_a_file_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert program("captured") == 2
    assert "'captured' is neither hex nor a file: 'p' is not a hex digit" in capsys.readouterr().err
    assert program("40", "zz") == 2
    assert "'z' is not a hex digit" in capsys.readouterr().err
    assert program("40" * 1000 + "z") == 2
    assert len(capsys.readouterr().err) < 200


def test_hex_in_a_file_is_told_its_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "hex.txt", b"0x40 01 00 07")
    assert program(path) == 3
    assert f"is no capture file; hex from a file: groupcoap decode - < {path}\n" in capsys.readouterr().err
    write(path, b"")
    assert program(path) == 3
    assert "(pcap or pcapng)" in capsys.readouterr().err


def test_a_key_log_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("40010007", "--key-log", tmp_path / "keys") == 3
    assert capsys.readouterr().err.endswith("does not exist; check the path; listen --key-log makes one\n")


def test_where_nothing_fits_the_output_begins_with_the_summary(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scene.capture, "--port", 1).output.startswith("no group messages in ")
    assert program(write(tmp_path / "cut.pcap", scene.capture.read_bytes()[:30])) == 3
    assert capsys.readouterr().out == "no group messages\n"


def test_a_damaged_capture_shows_what_comes_before(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = write(tmp_path / "torn.pcap", scene.capture.read_bytes()[:-3])
    assert program(capture, *scene.keys) == 3
    captured = capsys.readouterr()
    assert captured.out.count("  verified  ") == 8
    assert "8 group messages" in captured.out
    assert (
        captured.err
        == f"groupcoap: {capture}: is cut short behind frame 9; capture again, or use what comes before\n"
    )


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_a_capture_with_any_wrong_or_missing_byte_is_shown_or_refused(scene: Scene, make: Any) -> None:
    view = view_of(scene.before / "lamp-1")
    data = make([LINKS[SLL2](datagram(*step)) for step in scene.steps[:2]], SLL2)
    damaged = [data[:length] for length in range(0, len(data), 3)]
    damaged += [data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :] for at in range(0, len(data), 3)]
    refused = 0
    for content in damaged:
        try:
            capture = Capture(BytesIO(content), Path("some.pcap"), view)
            for _ in capture:
                pass
        except FileFault:
            refused += 1
    assert 0 < refused < len(damaged)


def test_contradicting_keys_are_exit_code_3(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scene.before / "lamp-1", tmp_path / "lamp-1")
    group = tmp_path / "lamp-1" / "room.group.json"
    secret = load_member(scene.before / "lamp-1").groups[0].current.master_secret.reveal().hex()
    group.write_text(group.read_text().replace(secret, "00" * 16))
    assert program(scene.capture, *scene.keys, "--member", tmp_path / "lamp-1") == 3
    assert "has other keys or algorithms than in" in capsys.readouterr().err
