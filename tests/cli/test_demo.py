"""`groupcoap demo`: all of it happens, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from groupcoap.cli import main
from groupcoap.core import coap
from groupcoap.core.group_oscore import FLAG_GROUP, GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.option import FLAG_KID
from groupcoap.core.policy import PROFILES
from groupcoap.demo.anatomy import Legend, dissect
from groupcoap.demo.attacks import Recorded, Relay
from groupcoap.demo.office import Office
from groupcoap.errors import Rejected

from .room import PATIENCE, Process, run

DATAGRAM = bytes.fromhex(
    "52023178e30d9d4339030caa848029c892a426000000004f2f99ea06b329490e5c4e693bb013bd9827603bf61cf6ffd7749a29a5ed33"
    "bc2823b3d19f3c0c06ee0814adeb44a7a98d2db5e007e12e683018700f3bb69b0100ff304189462c6c761ef657887639b4d2a15dfe"
)


def below(directory: Path) -> list[int]:
    """The processes of this program that have to do with files in this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if any(argument.startswith(os.fsencode(directory)) for argument in arguments):
                    found.append(int(entry.name))
    return found


def is_over(pid: int) -> bool:
    """Whether this process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_over(directory: Path) -> None:
    """Fails if a process that has to do with this directory goes on."""
    deadline = time.monotonic() + PATIENCE
    while left := [pid for pid in below(directory) if not is_over(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


COMMON = (
    "$ groupcoap manager init house --bind 127.0.1.1",
    "devices/lamp-1/enrolment.json: handle ",
    "secret …, manager 127.0.1.1:",
    "group room as listener",
    "4 devices enrolled",
    "lamp-1 listens at 224.0.1.187:",
    "members 4, behind nobody",
    "107 bytes that anybody can see",
    "3 of 3 lamps were told, and know that it is fresh and from the switch",
    "3 verified answers",
    "3 of 3 lamps took the same datagram",
    "3 of 3 lamps refused it: replay",
    "3 of 3 lamps refused it: decryption failed",
    "3 of 3 lamps refused it: signature failed",
    "2 of 3 answered; missing: lamp-2",
    "3 of 3 answered, all say on 20%",
    "lamp-3: room: no member any more: ",
    "lamp-1: room: new keys, Gid ",
    "it cannot be read any more",
    ": unknown sender: ",
    "2 of 2 lamps refused both",
    "1 of 2 answered, with new keys; missing: lamp-1",
    "members 3, behind lamp-1",
    "2 of 2 answered, all say on 80%",
)
DRAFT = ("answered 4.03", "all of these say on 75%: what the attackers sent has changed nothing")
GROUP_OSCORE_STORY = (
    "flags, with the Group Flag: to all",
    "countersignature, encrypted",
    "answered 4.01",
    ", fresh, pairwise",
    "lamp-1 was told, and answered: on 15%, likewise for the switch alone",
    "43 bytes, for there is no countersignature",
    "2 of 2 could neither read nor take it: decryption failed",
    "what the attackers sent has changed nothing",
)
PULSE = r"(\d+) with the former keys and (\d+) with the new ones: (\d+) of (\d+) answered by 2 of 2 lamps, (\d+) "


@pytest.mark.processes
@pytest.mark.parametrize(
    ("profile", "steps", "particular"),
    [("multicast-oscore-04", 10, DRAFT), ("group-oscore", 11, GROUP_OSCORE_STORY)],
)
def test_all_of_it_happens_and_can_be_tried_by_hand_and_ends_without_a_trace(
    tmp_path: Path, profile: str, steps: int, particular: tuple[str, ...]
) -> None:
    demo = Process(["demo", "--lamps", "3", "--keep", "--profile", profile], TMPDIR=str(tmp_path))
    try:
        demo.expect("All of it happened")
        story = "\n".join(demo.lines)
        demo.expect("Try, in another terminal:")
        get, put = (shlex.split(demo.expect("groupcoap")) for _ in range(2))
        alone = shlex.split(demo.expect("--to lamp-1=127.0.0.2:")) if particular is GROUP_OSCORE_STORY else None
        observe, members, rekey, evict = (shlex.split(demo.expect("groupcoap")) for _ in range(4))
        demo.expect("What lamp-1 says:")
        assert len(below(tmp_path)) == 3  # the manager, and the two lamps that were not evicted
        for command, says in (
            (get, "2 of 2"),
            (put, "on 10%"),
            (members, "3 members, renewal "),
            (rekey, "room: renewal "),
        ):
            assert says in done(command)
        demo.expect('PUT /light "10"')
        demo.expect("room: new keys, Gid ")
        if alone is not None:
            done(alone)
            assert demo.expect('PUT /light "5"').endswith("pairwise")
        assert "2 of 2" in done([*observe, "--count", "2"])
        assert "lamp-2 is evicted from room" in done(evict)
        demo.expect("room: new keys, Gid ")
        demo.signal(signal.SIGINT)
        assert demo.ended() == 0
    finally:
        demo.close()
    assert not below(tmp_path)
    assert not list(tmp_path.iterdir())

    assert "\x1b" not in story
    in_one_line = " ".join(story.split())
    for said in (*COMMON, *particular):
        assert said in in_one_line
    assert re.findall(r"^(\d+)  ", story, re.MULTILINE) == [str(n) for n in range(1, steps + 1)]
    assert len(re.findall(r"the first lamp after \d+ ms, the last after \d+ ms", story)) == 3
    assert re.search(r"handle [0-9a-f]{16}, secret …", in_one_line)
    pulse = re.search(PULSE, in_one_line)
    assert pulse is not None
    before, after, answered, sent, answers = map(int, pulse.groups())
    assert before >= 3
    assert after >= 3
    assert before + after == answered == sent == answers / 2
    assert "✗" not in story


def done(command: list[str]) -> str:
    """What a command says that does its work."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
MOMENTS = (
    "groupcoap manager init",
    "2 lamps and the switch join",
    "The switch dims the room",
    "is evicted; the switch does not stop",
    "sleeps (kill -STOP",
)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "moment"),
    [(number, MOMENTS[1]) for number in ENDS] + [(ENDS[n % 3], MOMENTS[n]) for n in (0, 2, 3, 4)],
)
def test_whatever_ends_it_ends_its_processes(number: signal.Signals, moment: str, tmp_path: Path) -> None:
    demo = Process(["demo", "--lamps", "2"], TMPDIR=str(tmp_path))
    try:
        demo.expect(moment)
        time.sleep(0.3)  # in the middle of it
        demo.signal(number)
        assert demo.ended() == (130 if number is not signal.SIGKILL else -signal.SIGKILL)
        wait_until_over(tmp_path)
    finally:
        demo.close()
    if number is not signal.SIGKILL:
        assert not list(tmp_path.iterdir())


@pytest.mark.processes
@pytest.mark.parametrize("lamps", ["1", "2"])
def test_with_few_lamps(lamps: str) -> None:
    """With one lamp nobody is there who could listen in, nor be left if it were evicted; with two, one other."""
    ended = run("demo", "--profile", "group-oscore", "--lamps", lamps)
    assert (ended.code, ended.err) == (0, "")
    assert ("1 of 1 could neither read nor take it" in ended.out) is (lamps == "2")
    assert ("1 of 1 lamps refused both" in ended.out) is (lamps == "2")
    assert "missing: lamp-1\n" in ended.out


@pytest.mark.processes
def test_what_does_not_happen_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Office, "evict", lambda self, device: ("rekey", "room"))
    try:
        assert main(["demo", "--lamps", "2"]) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    out = capsys.readouterr().out
    assert "✗ lamp-2 did not learn that it is evicted" in " ".join(out.split())
    assert out.endswith("Not all of it happened.\n")
    assert not below(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lamps", ["0", "101", "many"])
def test_how_many_lamps(lamps: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--lamps", lamps]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_parts_of_a_datagram_are_all_of_it() -> None:
    legend = Legend(signature_length=64, tag_length=8, inside="a secret", sender="the switch")
    parts = dissect(DATAGRAM, MULTICAST_OSCORE_04, legend)
    assert b"".join(part.data for part in parts) == DATAGRAM
    assert "Partial IV: sequence number 3" in {part.meaning for part in parts}
    for profile in PROFILES.values():
        with pytest.raises(Rejected):
            dissect(bytes.fromhex("5001aaaab178"), profile, legend)


def test_the_parts_of_a_group_oscore_datagram_are_all_of_it() -> None:
    value = bytes.fromhex("3903020a0b07")  # Group Flag, Gid, kid and one byte of Partial IV
    payload = b"x" * 10 + b"t" * 8 + b"s" * 64
    legend = Legend(signature_length=64, tag_length=8, inside="a secret", sender="the switch")

    def datagram(value: bytes, payload: bytes) -> bytes:
        return coap.encode(coap.Message(coap.NON, coap.POST, 1, b"ab", ((coap.OBJECT_SECURITY, value),), payload))

    parts = dissect(datagram(value, payload), GROUP_OSCORE, legend)
    assert b"".join(part.data for part in parts) == datagram(value, payload)
    assert [(part.layer, part.data, part.meaning) for part in parts][-3:] == [
        ("ciphertext", b"x" * 10, "a secret"),
        ("ciphertext", b"t" * 8, "tag"),
        ("signature", b"s" * 64, "countersignature, encrypted"),
    ]
    assert [part.data for part in parts if part.layer == "OSCORE"] == [b"9", b"\x03", b"\x02\x0a\x0b", b"\x07"]
    pairwise = bytes((value[0] & ~FLAG_GROUP,)) + value[1:]
    without_kid = bytes((value[0] & ~FLAG_KID,)) + value[1:-1]
    for wrong in (datagram(pairwise, payload), datagram(without_kid, payload), datagram(value, payload[10:])):
        with pytest.raises(Rejected):
            dissect(wrong, GROUP_OSCORE, legend)


async def test_somebody_on_the_way_passes_on_and_keeps_what_comes() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lamp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as switch,
    ):
        for one in (lamp, switch):
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
        loop = asyncio.get_running_loop()
        with closing(Relay(lamp.getsockname())) as relay:
            for text in (b"one", b"two"):
                switch.sendto(text, relay.address)
                received, source = await asyncio.wait_for(loop.sock_recvfrom(lamp, 100), PATIENCE)
                assert (received, source) == (text, relay.address)
                lamp.sendto(b"to " + text, source)
                answer = await asyncio.wait_for(loop.sock_recvfrom(switch, 100), PATIENCE)
                assert answer == (b"to " + text, relay.address)
            assert relay.datagrams == [b"one", b"two"]


@pytest.mark.parametrize("number", [4, 255, 256, 1 << 39])
def test_an_outsider_changes_the_number_and_nothing_else(number: int) -> None:
    recorded = Recorded(DATAGRAM)
    changed = Recorded(recorded.renumbered(number))
    assert changed.number == number
    assert Recorded(changed.renumbered(recorded.number)).datagram == DATAGRAM
    assert coap.decode(changed.datagram).payload == coap.decode(DATAGRAM).payload
