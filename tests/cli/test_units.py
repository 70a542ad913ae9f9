"""The systemd units in contrib/systemd: what they start exists, and systemd understands them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from groupcoap.cli import program as root

UNITS = sorted((Path(__file__).parents[2] / "contrib" / "systemd").glob("*.service"))
PROGRAM = "/usr/bin/groupcoap"
of_each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


def test_there_are_units() -> None:
    assert [unit.name for unit in UNITS] == ["groupcoap-device@.service", "groupcoap-manager.service"]


@of_each_unit
def test_what_is_started_exists(unit: Path) -> None:
    (line,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    program, *words = shlex.split(line.removeprefix("ExecStart="))
    assert program == PROGRAM
    command: click.Command = root
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    command.make_context(unit.name, [word for word in words if not word.startswith("$")])


@of_each_unit
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_it(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name.replace("@", "@lamp")
    copy.write_text(unit.read_text().replace(PROGRAM, sys.executable))
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )
    about = [line for line in ended.stderr.splitlines() if unit.name.split("@")[0].split(".")[0] in line]
    assert about == []
