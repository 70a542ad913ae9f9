"""A Group Manager, and devices that are enrolled at it: real processes on the loopback interface."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest

from groupcoap.cli import main

from .room import Process, Sent

HOST = "127.0.0.1"


def free_port() -> int:
    """A UDP port that nobody has just now, at no address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Hall:
    """A manager in `directory`, with the group room; `devices` holds those that were enrolled."""

    directory: Path
    devices: Path
    address: str
    stack: ExitStack = field(repr=False)
    hosts: dict[str, str] = field(default_factory=dict)

    def serve(self, *options: str, **environment: str) -> Process:
        """Start the manager and wait until it serves."""
        process = Process(["manager", "serve", str(self.directory), *options], **environment)
        self.stack.callback(process.close)
        process.expect(" serves at ")
        return process

    def do(self, *arguments: str) -> int:
        """One of the operator's commands, in this process."""
        return main([*arguments, "--manager", str(self.directory)])

    def enroll(self, device: str, *rights: str) -> Path:
        """Enroll a device; its directory."""
        options = [option for right in rights for option in ("--group", right)]
        assert self.do("enroll", device, *options, "--out", str(self.devices)) == 0
        return self.devices / device

    def bound(self, device: str) -> tuple[str, str]:
        """Where a device is: each has an address of its own."""
        host = self.hosts.setdefault(device, f"127.0.0.{len(self.hosts) + 20}")
        return "--bind", host

    def listen(self, device: str, *options: str) -> Process:
        """Start a device and wait until it listens."""
        path = str(self.devices / device)
        process = Process(["listen", path, *self.bound(device), "--leisure", "0.05", *options])
        self.stack.callback(process.close)
        process.expect(" listens at ")
        return process

    def run(self, command: str, device: str, *arguments: str) -> Sent:
        """`join` or `leave`, to its end."""
        return ended(command, str(self.devices / device), *arguments, *self.bound(device))

    def send(self, device: str, *arguments: str) -> Sent:
        """`send` to its end."""
        return ended("send", *arguments, "--member", str(self.devices / device), *self.bound(device))


def ended(*arguments: str) -> Sent:
    """How a command ends in this process, which costs less than one of its own."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    return Sent(code, out.getvalue(), err.getvalue())


@contextmanager
def made(directory: Path, *options: str) -> Iterator[Hall]:
    """A manager that does not run yet. `options`: of its group room."""
    with ExitStack() as stack:
        home = directory / "hall"
        address = f"224.0.1.187:{free_port()}"
        hall = Hall(home, directory / "devices", address, stack)
        assert main(["manager", "init", str(home), "--bind", HOST, "--port", str(free_port())]) == 0
        control = f"224.0.1.187:{free_port()}"
        assert hall.do("group", "create", "room", "--address", address, "--control", control, *options) == 0
        yield hall


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Hall:
    """What each test of a module gets a copy of."""
    with made(tmp_path_factory.mktemp("template")) as hall:
        return hall


@pytest.fixture
def hall(template: Hall, tmp_path: Path) -> Iterator[Hall]:
    """A manager that does not run, with a group that nobody is in."""
    shutil.copytree(template.directory, tmp_path / "hall")
    with ExitStack() as stack:
        yield Hall(tmp_path / "hall", tmp_path / "devices", template.address, stack)


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(hall: Hall, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs an operator's command; exit code, output and errors."""

    def do(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = hall.do(*arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return do
