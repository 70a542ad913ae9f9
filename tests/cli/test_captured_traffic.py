"""Real devices, what went over the wire between them, and a key log: `decode` puts it together again."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from capture_bytes import pcap
from groupcoap.files.keylog import read_key_log

from .room import Room, furnished, group_oscore, room, run

__all__ = ["room"]
pytestmark = pytest.mark.processes

ALL_PROTOCOLS = 3
"""ETH_P_ALL"""


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Captures the loopback interface; called, gives the file with what has gone over it so far."""
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    except PermissionError:
        pytest.skip("capturing needs root (CAP_NET_RAW)")
    frames: list[bytes] = []
    asked_for = threading.Event()

    def drain() -> None:
        """Take what is there."""
        with suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = sock.recvfrom(1 << 16)
                if kind != socket.PACKET_OUTGOING:  # on loopback everything comes back
                    frames.append(frame)

    def keep_up() -> None:
        """Other tests, in other processes, may send more meanwhile than the socket holds."""
        while not asked_for.wait(0.02):
            drain()

    with sock:
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
        sock.bind(("lo", 0))
        sock.setblocking(False)
        thread = threading.Thread(target=keep_up)
        thread.start()

        def write() -> Path:
            asked_for.set()
            thread.join()
            drain()
            path = tmp_path / "room.pcap"
            path.write_bytes(pcap(frames))
            return path

        try:
            yield write
        finally:
            asked_for.set()
            thread.join()


def decode(capture: Path, room: Room) -> tuple[str, ...]:
    """Others on this machine may use CoAP's own port meanwhile."""
    return "decode", str(capture), "--port", str(room.address.port)


def test_the_key_log_of_one_device_decodes_what_all_have_said(
    room: Room, captured: Callable[[], Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.log"
    lamp = room.listen("lamp-1", "--key-log", str(keys))
    assert any(str(keys) in line for line in lamp.lines)
    room.listen("lamp-2")
    assert room.send("put", "/light", "--payload", "40").code == 0
    assert room.send("observe", "/light", "--count", "2", timeout=5).code == 0
    lamp.signal(signal.SIGKILL)
    capture = captured()
    decoded = run(*decode(capture, room), "--key-log", str(keys))
    assert 'PUT /light "40"' in decoded.out
    assert '2.04 Changed "on 40%", to frame ' in decoded.out
    assert "(notification), to frame " in decoded.out
    assert decoded.code == 0
    assert run(*decode(capture, room), "--member", str(room.directory / "panel-1")).out == decoded.out
    *sightings, summary = run(*decode(capture, room), "--key-log", str(keys), "--json").json
    assert summary["complete"]
    assert {sighting["outcome"] for sighting in sightings} <= {"verified", None}  # None: an acknowledgement
    members = {member["name"]: member for member in summary["members"]}
    assert members["switch-1"]["requests"] >= 5  # two to the group, two echoes, the end of the observation
    for name in ("lamp-1", "lamp-2"):
        assert (members[name]["asked"], members[name]["answered"]) == (2, 2)


def test_group_oscore_between_real_devices(captured: Callable[[], Path], tmp_path: Path) -> None:
    """The switch's files read all of it, the key log of a lamp what is for all, a signature checker tells who."""
    keys, gate = tmp_path / "keys.log", tmp_path / "gate.json"
    with furnished(tmp_path, change=group_oscore, switch=1, lamp=2) as room:
        room.listen("lamp-1", "--key-log", str(keys))
        room.listen("lamp-2")
        assert room.send("put", "/light", "--payload", "40").code == 0
        assert room.send("get", "/light").code == 0
        assert run("checker", str(room.directory / "lamp-2"), "-o", str(gate)).code == 0
        capture = captured()
        by_switch = run(*decode(capture, room), "--member", str(room.directory / "switch-1"), "--json")
        by_log = run(*decode(capture, room), "--key-log", str(keys), "--json")
        by_gate = run(*decode(capture, room), "--checker", str(gate), "--json")
    assert by_switch.code == 0
    *sightings, summary = by_switch.json
    assert summary["complete"]
    messages = [sighting for sighting in sightings if sighting["outcome"] is not None]
    modes = [sighting["mode"] for sighting in messages]
    assert set(modes) == {"group", "pairwise"}  # echoes of challenges are between two
    for found, outcome in ((by_log.json, "verified"), (by_gate.json, "countersigned")):
        told = [sighting["outcome"] for sighting in found[:-1] if sighting["outcome"] is not None]
        assert told == [outcome if mode == "group" else "not tried" for mode in modes]
    members = {member["name"]: member for member in summary["members"]}
    for name in ("lamp-1", "lamp-2"):
        assert (members[name]["asked"], members[name]["answered"]) == (2, 2)


def test_a_capture_goes_on_through_a_renewal(captured: Callable[[], Path], tmp_path: Path) -> None:
    keys = tmp_path / "keys.log"
    with furnished(tmp_path, switch=2, lamp=1) as room:
        before = tmp_path / "before"
        shutil.copytree(room.directory / "lamp-1", before)
        lamp = room.listen("lamp-1", "--key-log", str(keys))
        watch = room.start("send", "observe", "/light", *room.sender("switch-1"))
        watch.expect("2.05 Content")
        assert run("provision", str(room.directory), "--renew").code == 0
        lamp.expect("new keys")
        assert room.send("put", "/light", "--payload", "40", member="switch-2").code == 0
        watch.expect("on 40%")
        assert watch.stop() == 0
        capture = captured()
        decoded = run(*decode(capture, room), "--key-log", str(keys), "--json")
        by_members = ("--member", str(before), "--member", str(room.directory / "lamp-1"))
        assert run(*decode(capture, room), *by_members, "--json").json[-1] == decoded.json[-1]
    assert decoded.code == 0
    *sightings, summary = decoded.json
    assert summary["complete"]
    messages = [sighting for sighting in sightings if sighting["kind"] != "empty message"]
    epochs = {sighting["frame"]: sighting["epoch"] for sighting in messages}
    assert set(epochs.values()) == {0, 1}
    across = [s for s in messages if s["answers_frame"] and epochs[s["answers_frame"]] < s["epoch"]]
    assert [sighting["payload"] for sighting in across] == ["on 40%"]  # observed before, told after


def test_the_environment_turns_it_on_and_a_line_of_warning_says_so(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.log"
    monkeypatch.setenv("GROUPCOAP_KEY_LOG", str(keys))
    sent = room.send("get", "/light", "--json", timeout=0.1)
    assert sent.err.count("\n") == 1
    assert f"key log {keys}" in sent.err
    assert len(sent.json) == 1
    (group,) = read_key_log(keys)
    assert group.name == "room"
    assert room.send("get", "/light", "--key-log", str(tmp_path / "other.log"), timeout=0.1).code == 1
    assert read_key_log(tmp_path / "other.log")[0].current.gid == group.current.gid


def test_a_log_that_cannot_be_used_is_exit_code_3(room: Room, tmp_path: Path) -> None:
    keys = tmp_path / "keys.log"
    keys.touch(0o644)
    sent = room.send("get", "/light", "--key-log", str(keys), timeout=0.1)
    assert sent.code == 3
    assert sent.err == f"groupcoap: {keys}: is to hold secrets but is open to others; run: chmod 600 {keys}\n"
