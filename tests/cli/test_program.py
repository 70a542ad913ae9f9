"""The program as a whole: what it costs to start, what it says, and how it ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import groupcoap
from groupcoap import cli
from groupcoap.cli import COMMANDS, main
from groupcoap.cli.exits import Exit, exit_code
from groupcoap.errors import (
    EnvironmentFault,
    FileFault,
    MisuseError,
    NetworkFault,
    SequenceNumbersExhausted,
    StateLocked,
    StateLost,
)

HEAVY = ("aiocoap", "asyncio", "cbor2", "cryptography", "nacl", "rich", "importlib.metadata", "groupcoap.core")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "groupcoap", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.processes
def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    result = run("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout
    code = "import sys; from groupcoap.cli import main; main(['--help']); "
    code += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("[]\n")


@pytest.mark.processes
def test_no_arguments_give_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: groupcoap [OPTIONS] COMMAND")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"groupcoap {groupcoap.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["dance"], ["--dance"], ["decode"], ["decode", "zz"], ["vectors", "verify"], ["keygen", "--algorithm", "x"]],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == Exit.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("groupcoap: ")
    assert captured.err.count("\n") == 1
    assert " --help)\n" in captured.err


def test_a_command_group_alone_gives_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vectors"]) == Exit.USAGE
    assert "verify" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: groupcoap {name}" in capsys.readouterr().out


def test_a_command_whose_module_is_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "later", "Later.")
    assert main(["later"]) == Exit.USAGE
    assert "'later' is not part of this installation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MisuseError("x"), 2),
        (SequenceNumbersExhausted("x"), 2),
        (FileFault("f", "x"), 3),
        (StateLost("f", "x"), 3),
        (EnvironmentFault("x"), 3),
        (StateLocked("x"), 4),
        (NetworkFault("x"), 5),
    ],
)
def test_errors_and_exit_codes(error: MisuseError | EnvironmentFault, code: int) -> None:
    assert exit_code(error) == code


def with_command(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    monkeypatch.setattr(cli.program, "get_command", lambda ctx, name: click.Command("act", callback=act))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MisuseError("two\nlines\x1b[2J"), 2, "groupcoap: two lines\\x1b[2J\n"),
        (StateLocked("f: in use"), 4, "groupcoap: f: in use\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_errors_end_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    def act() -> None:
        raise error

    with_command(monkeypatch, act)
    assert main(["act"]) == code
    assert capsys.readouterr().err.lstrip("\n") == text


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def act() -> None:
        raise ZeroDivisionError

    with_command(monkeypatch, act)
    with pytest.raises(ZeroDivisionError):
        main(["act"])


def test_a_broken_connection_is_not_called_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def act() -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with_command(monkeypatch, act)
    with pytest.raises(ConnectionResetError):
        main(["act"])


@pytest.mark.processes
def test_nobody_reads_the_output(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        [sys.executable, "-m", "groupcoap", "decode", "40 01 00 00"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(write)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (1, "")


@pytest.mark.processes
def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "groupcoap", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 3
    assert result.stderr == "groupcoap: cannot write the output: No space left on device\n"


@pytest.mark.processes
def test_closed_output_is_no_traceback() -> None:
    command = f"exec {sys.executable} -m groupcoap --version >&-"
    result = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (0, "")
