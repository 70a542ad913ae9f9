"""The tutorial's own programs, as processes on the loopback interface, with a group made by the command line."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
TIMEOUT = 20.0
"""Seconds. Far more than anything here takes; only a failing test waits for it."""


@pytest.fixture
def port() -> int:
    """A UDP port that no other test uses at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        number: int = sock.getsockname()[1]
        return number


@pytest.fixture
def home(tmp_path: Path, port: int) -> Path:
    """A switch and two lamps in a group of their own."""
    command = ("-m", "groupcoap", "provision", str(tmp_path / "home"), "--group", "hall")
    devices = ("--address", f"224.0.1.187:{port}", "--switches", "1", "--lamps", "2")
    subprocess.run((sys.executable, *command, *devices), check=True, capture_output=True, timeout=TIMEOUT)
    return tmp_path / "home"


class Program:
    """A running example and what it prints."""

    def __init__(self, *command: object) -> None:
        self._process = subprocess.Popen(
            (sys.executable, *map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._text = b""

    def line(self) -> str:
        """The next line."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + TIMEOUT
        while b"\n" not in self._text:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            assert more, f"no further line; so far: {self._text!r}"
            self._text += more
        first, _, self._text = self._text.partition(b"\n")
        return first.decode()

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=TIMEOUT)


@contextmanager
def running(*command: object) -> Iterator[Program]:
    program = Program(*command)
    try:
        yield program
    finally:
        program.close()


def own_switch(home: Path, level: int) -> tuple[int, list[str]]:
    command = (sys.executable, EXAMPLES / "own_switch.py", home / "switch-1", str(level))
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert result.stderr == ""
    return result.returncode, sorted(result.stdout.splitlines())


def test_own_switch_and_own_lamps_and_who_is_missing(home: Path) -> None:
    with running(EXAMPLES / "own_lamp.py", home / "lamp-1") as first:
        assert first.line() == "lamp-1 listens"
        with running(EXAMPLES / "own_lamp.py", home / "lamp-2", "127.0.0.3") as second:
            assert second.line() == "lamp-2 listens"
            assert own_switch(home, 60) == (0, ["lamp-1: 2.04 Changed, 60", "lamp-2: 2.04 Changed, 60"])
            for lamp in (first, second):
                assert re.fullmatch(r"60 from 00 of hall: number \d+, fresh, signature verified", lamp.line())
        assert own_switch(home, 20) == (1, ["lamp-1: 2.04 Changed, 20", "lamp-2: no answer"])
        assert re.fullmatch(r"20 from 00 of hall: number \d+, ordered, signature verified", first.line())


def test_a_captured_datagram_is_explained(home: Path, port: int) -> None:
    with (
        running(EXAMPLES / "own_lamp.py", home / "lamp-1") as lamp,
        running(EXAMPLES / "capture.py", "224.0.1.187", port) as capture,
    ):
        assert lamp.line() == "lamp-1 listens"
        assert capture.line() == f"capturing what goes to 224.0.1.187 port {port}"
        own_switch(home, 60)
        datagram = capture.line()
    command = ("-m", "groupcoap", "decode", datagram, "--member", str(home / "lamp-1"))
    decoded = subprocess.run((sys.executable, *command), capture_output=True, text=True, timeout=TIMEOUT)
    assert decoded.returncode == 0
    assert "payload: 60" in decoded.stdout


@pytest.mark.parametrize(
    "algorithms", [(), ("--aead", "ChaCha20/Poly1305", "--group-encryption", "A128GCM")], ids=str
)
def test_a_switch_of_another_make(tmp_path: Path, port: int, algorithms: tuple[str, ...]) -> None:
    command = ("-m", "groupcoap", "provision", str(tmp_path / "home"), "--profile", "group-oscore", *algorithms)
    devices = ("--address", f"224.0.1.187:{port}", "--switches", "1", "--lamps", "1")
    subprocess.run((sys.executable, *command, *devices), check=True, capture_output=True, timeout=TIMEOUT)
    listening = ("listen", tmp_path / "home" / "lamp-1", "--interface", "lo", "--bind", "127.0.0.2", "--verbose")
    with running("-m", "groupcoap", *listening) as lamp:
        lamp.line()
        for level in (60, 70):  # as two processes, which must not use a number twice
            switch = (EXAMPLES / "aiocoap_switch.py", tmp_path / "home" / "switch-1")
            arguments = (*switch, "01", f"127.0.0.2:{port}", str(level))
            asked = subprocess.run((sys.executable, *arguments), capture_output=True, text=True, timeout=TIMEOUT)
            assert (asked.stdout, asked.stderr) == (f"2.04 Changed, on {level}%\n", "")
            assert re.fullmatch(rf'PUT /light "{level}" from switch-1 \(00\): number \d+, .*', lamp.line())


@pytest.mark.parametrize("algorithms", [(), ("--profile", "group-oscore", "--signature", "es256")], ids=str)
def test_it_says_what_it_does_not_speak(tmp_path: Path, algorithms: tuple[str, ...]) -> None:
    command = ("-m", "groupcoap", "provision", str(tmp_path / "home"), *algorithms)
    subprocess.run((sys.executable, *command), check=True, capture_output=True, timeout=TIMEOUT)
    switch = (EXAMPLES / "aiocoap_switch.py", tmp_path / "home" / "switch-1", "01", "127.0.0.2", "60")
    asked = subprocess.run((sys.executable, *switch), capture_output=True, text=True, timeout=TIMEOUT)
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "a group must be of group-oscore, with Ed25519" in asked.stderr
    assert "Traceback" not in asked.stderr


@pytest.mark.parametrize("name", ["own_lamp.py", "own_switch.py"])
def test_the_tutorial_shows_these_very_programs(name: str) -> None:
    tutorial = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    assert f"```python\n{(EXAMPLES / name).read_text('utf-8')}```\n" in tutorial
