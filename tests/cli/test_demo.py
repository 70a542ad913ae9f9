"""`groupcoap demo`: all of it happens, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import re
import select
import shlex
import signal
import socket
import subprocess
from contextlib import closing
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
from groupcoap.errors import Rejected

from .room import PATIENCE, Process, run

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


COMMON = (
    "107 bytes that anybody can see",
    "3 of 3 lamps were told, and know that it is fresh and from the switch",
    "3 verified answers",
    "3 of 3 lamps took the same datagram",
    "3 of 3 lamps refused it: replay",
    "3 of 3 lamps refused it: decryption failed",
    "3 of 3 lamps refused it: signature failed",
    "2 of 3 answered; missing: lamp-2",
    "3 of 3 answered, all say on 20%",
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
    "lamp-1 says on 15%, the others on 75%: what the attackers sent has changed nothing",
)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("profile", "steps", "particular"),
    [("multicast-oscore-04", 7, DRAFT), ("group-oscore", 8, GROUP_OSCORE_STORY)],
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
        observe, decode = (shlex.split(demo.expect("groupcoap")) for _ in range(2))
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
        if alone is not None:
            done = subprocess.run(alone, capture_output=True, text=True, timeout=PATIENCE, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            assert demo.expect('PUT /light "5"').endswith("pairwise")
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
    in_one_line = " ".join(story.split())
    for said in (*COMMON, *particular):
        assert said in in_one_line
    assert re.findall(r"^(\d)  ", story, re.MULTILINE) == [str(n) for n in range(1, steps + 1)]
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


@pytest.mark.processes
@pytest.mark.parametrize("lamps", ["1", "2"])
def test_pairwise_with_few_lamps(lamps: str) -> None:
    """With one lamp nobody is there who could listen in; with two, the only other one."""
    done = run("demo", "--profile", "group-oscore", "--lamps", lamps)
    assert (done.code, done.err) == (0, "")
    assert ("1 of 1 could neither read nor take it" in done.out) is (lamps == "2")


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
