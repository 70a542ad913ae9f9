"""`groupcoap provision --renew`: real devices take new keys up by themselves; lost state is never used again."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from groupcoap.cli import main

from .room import Room, modern, room, run

__all__ = ["modern", "room"]

pytestmark = pytest.mark.processes


def renew(room: Room, *options: str) -> str:
    done = run("provision", str(room.directory), "--renew", *options)
    assert done.code == 0, done.err
    return done.out


def test_running_devices_take_it_up_and_the_evicted_is_out(room: Room) -> None:
    lamps = {name: room.listen(name) for name in ("lamp-1", "lamp-2")}
    assert room.send("put", "/light", "--payload", "10").code == 0
    out = renew(room)
    assert "is running, and takes it up by itself" in out
    assert "takes it up when it is started" in out
    assert room.send("put", "/light", "--payload", "20").code == 0
    lamps["lamp-1"].expect("new keys")
    lamps["lamp-1"].expect('PUT /light "20"')
    assert "evicted: lamp-2" in renew(room, "--evict", "lamp-2")
    assert room.send("put", "/light", "--payload", "30").code == 0  # lamp-2 is expected no more
    lamps["lamp-1"].expect('PUT /light "30"')
    assert lamps["lamp-2"].stop() == 0
    assert not any('"30"' in line for line in lamps["lamp-2"].rest())
    assert run("listen", str(room.directory / "lamp-2"), "--interface", "lo").code == 3
    again = renew(room, "--evict", "lamp-2")
    assert "lamp-2: evicted before, and no member any more" in again
    assert "evicted: " not in again


def test_a_copy_is_silent_and_a_lamp_with_lost_state_comes_back_by_renewal(room: Room, tmp_path: Path) -> None:
    lamp = room.listen("lamp-1")
    roster = ("--roster", "lamp-1")
    assert room.send("put", "/light", "--payload", "10", *roster).code == 0
    copy = tmp_path / "copy"
    shutil.copytree(room.directory / "switch-1", copy)
    refused = run("send", "put", "/light", "--payload", "11", "--member", str(copy), "--interface", "lo")
    assert refused.code == 3
    assert "is a copy" in refused.err
    assert "provision --renew" in refused.err
    lamp.signal(signal.SIGKILL)
    lamp.ended()
    (room.directory / "lamp-1" / "state.journal").unlink()
    again = run("listen", str(room.directory / "lamp-1"), "--interface", "lo", *room.bound("lamp-1"))
    assert again.code == 3
    assert "run-time state is missing" in again.err
    assert "new run-time state (the former: the run-time state is missing)" in " ".join(renew(room).split())
    lamp = room.listen("lamp-1")
    assert room.send("put", "/light", "--payload", "20", *roster).code == 0
    lamp.expect('PUT /light "20" from switch-1 (00): number 1, fresh')


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--renew", "--lamps", "3"], "--lamps does not go with --renew"),
        (["--renew", "--sync", "baseline"], "--sync does not go with --renew"),
        (["--renew", "--no-pairwise"], "--no-pairwise does not go with --renew"),
        (["--renew", "--profile", "group-oscore"], "--profile does not go with --renew"),
        (["--renew", "--manager", "x"], "--manager does not go with --renew"),
        (["--evict", "lamp-1"], "--evict goes with --renew"),
        (["--renew", "--evict", "lamp-7"], "'lamp-7' is no member of what is renewed"),
        (["--renew", "--group", "hall"], "nobody in it is in a group 'hall'; there is room"),
    ],
)
def test_what_is_wrong_stands_on_one_line(
    room: Room, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    before = {path: path.read_bytes() for path in room.directory.rglob("*") if path.is_file()}
    assert main(["provision", str(room.directory), *arguments]) in (2, 3)
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count(os.linesep) == 1
    assert {path: path.read_bytes() for path in room.directory.rglob("*") if path.is_file()} == before


def test_a_modern_group_is_renewed_while_it_runs(modern: Room) -> None:
    """Both modes go on under the new keys, and the evicted one is out of both."""
    manager = modern.directory / "room.manager.json"
    before = manager.read_bytes()
    lamps = {name: modern.listen(name, "-v") for name in ("lamp-1", "lamp-2")}
    assert modern.send("put", "/light", "--payload", "10").code == 0
    assert "is running, and takes it up by itself" in renew(modern, "--evict", "lamp-2")
    assert modern.send("put", "/light", "--payload", "20").code == 0
    lamps["lamp-1"].expect("new keys")
    lamps["lamp-1"].expect('PUT /light "20"')
    alone = ("--to", f"lamp-1={modern.hosts['lamp-1']}")
    assert modern.send("put", "/light", "--payload", "30", *alone).code == 0
    assert lamps["lamp-1"].expect('PUT /light "30"').endswith("pairwise")
    gone = modern.send("put", "/light", "--payload", "30", "--to", f"lamp-2={modern.hosts['lamp-2']}")
    assert (gone.code, gone.err) == (2, "groupcoap: no listener 'lamp-2' in group room; there is lamp-1\n")
    assert lamps["lamp-2"].stop() == 0
    assert not any('"20"' in line or '"30"' in line for line in lamps["lamp-2"].rest())
    assert manager.read_bytes() == before
