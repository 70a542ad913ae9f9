"""`groupcoap demo`: all of it happens, and nothing is left behind."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from groupcoap.cli import main
from groupcoap.core import coap
from groupcoap.demo.anatomy import dissect
from groupcoap.demo.attacks import Recorded
from groupcoap.errors import Rejected

from .room import PATIENCE, Process

DATAGRAM = bytes.fromhex(
    "52023178e30d9d4339030caa848029c892a426000000004f2f99ea06b329490e5c4e693bb013bd9827603bf61cf6ffd7749a29a5ed33"
    "bc2823b3d19f3c0c06ee0814adeb44a7a98d2db5e007e12e683018700f3bb69b0100ff304189462c6c761ef657887639b4d2a15dfe"
)


def lamps_below(pid: int) -> list[int]:
    """The processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.processes
def test_all_of_it_happens_and_can_be_tried_by_hand_and_ends_without_a_trace(tmp_path: Path) -> None:
    demo = Process(["demo", "--lamps", "3", "--keep"], TMPDIR=str(tmp_path))
    try:
        demo.expect("All of it happened")
        story = "\n".join(demo.lines)
        demo.expect("Try, in another terminal:")
        get, put, observe, decode = (shlex.split(demo.expect("groupcoap")) for _ in range(4))
        demo.expect("What lamp-1 says:")
        lamps = lamps_below(demo.pid)
        assert len(lamps) == 3
        directory = Path(get[get.index("--member") + 1]).parent
        for command, says in (
            (get, "3 of 3"),
            (put, "on 10%"),
            (decode, "the countersignature is right: from switch"),
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            assert says in done.stdout
        assert demo.expect('PUT /light "10"')
        watched = subprocess.run(
            [*observe, "--count", "3"], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert watched.returncode == 0
        demo.signal(signal.SIGINT)
        assert demo.ended() == 0
    finally:
        demo.close()
    assert not [pid for pid in lamps if alive(pid)]
    assert directory.is_relative_to(tmp_path)
    assert not list(tmp_path.iterdir())

    assert "\x1b" not in story
    for said in (
        "107 bytes that anybody can see",
        "3 of 3 lamps were told, and know that it is fresh and from the switch",
        "3 verified answers",
        "3 of 3 lamps took the same datagram",
        "3 of 3 lamps refused it: replay",
        "3 of 3 lamps refused it: decryption failed",
        "3 of 3 lamps refused it: signature failed",
        "2 of 3 answered; missing: lamp-2",
        "3 of 3 answered, all say on 20%",
    ):
        assert said in story
    assert re.findall(r"^(\d)  ", story, re.MULTILINE) == list("1234567")
    assert len(re.findall(r"the first lamp after \d+ ms, the last after \d+ ms", story)) == 3
    assert "✗" not in story


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_ends_its_lamps(number: signal.Signals, tmp_path: Path) -> None:
    demo = Process(["demo", "--lamps", "2"], TMPDIR=str(tmp_path))
    try:
        demo.expect("2  The switch dims the room")
        lamps = lamps_below(demo.pid)
        descriptors = [os.pidfd_open(pid) for pid in lamps]
        assert len(lamps) == 2
        demo.signal(number)
        assert demo.ended() == (130 if number is not signal.SIGKILL else -signal.SIGKILL)
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], PATIENCE)[0]
            os.close(descriptor)
    finally:
        demo.close()
    if number is not signal.SIGKILL:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lamps", ["0", "101", "many"])
def test_how_many_lamps(lamps: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--lamps", lamps]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_parts_of_a_datagram_are_all_of_it() -> None:
    parts = dissect(DATAGRAM, signature_length=64, tag_length=8, inside="a secret", sender="the switch")
    assert b"".join(part.data for part in parts) == DATAGRAM
    assert "Partial IV: sequence number 3" in {part.meaning for part in parts}
    with pytest.raises(Rejected):
        dissect(bytes.fromhex("5001aaaab178"), signature_length=64, tag_length=8, inside="", sender="")


@pytest.mark.parametrize("number", [4, 255, 256, 1 << 39])
def test_an_outsider_changes_the_number_and_nothing_else(number: int) -> None:
    recorded = Recorded(DATAGRAM)
    changed = Recorded(recorded.renumbered(number))
    assert changed.number == number
    assert Recorded(changed.renumbered(recorded.number)).datagram == DATAGRAM
    assert coap.decode(changed.datagram).payload == coap.decode(DATAGRAM).payload
