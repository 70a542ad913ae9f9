"""The fuzzer finds a mistake that is put in on purpose. Needs atheris (the extra `fuzz`), as in `.ci/run`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import groupcoap

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (the extra fuzz)"),
]


def fuzz(*arguments: str, source: Path) -> subprocess.CompletedProcess[str]:
    """`python -m fuzz` with the package that is in this directory."""
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the package."""
    shutil.copytree(Path(groupcoap.__file__).parent, tmp_path / "source" / "groupcoap")
    return tmp_path / "source"


def test_a_mistake_is_found_saved_and_found_again(source: Path, tmp_path: Path) -> None:
    path = source / "groupcoap" / "core" / "coap.py"
    code = path.read_text("utf-8")
    needle = 'raise Rejected(Reason.MALFORMED, "payload marker without payload")'
    assert code.count(needle) == 1
    path.write_text(code.replace(needle, 'raise IndexError("a mistake")'), "utf-8")
    (tmp_path / "corpus").mkdir()
    options = ("--corpus", str(tmp_path / "corpus"), "--findings", str(tmp_path / "findings"))

    ended = fuzz("datagram", "--inputs", "50000", *options, source=source)
    assert ended.returncode == 1
    assert "IndexError: a mistake" in ended.stdout
    (saved,) = (tmp_path / "findings").iterdir()
    assert f"python -m fuzz datagram --replay {saved}" in ended.stdout

    assert "IndexError: a mistake" in fuzz("datagram", "--replay", str(saved), source=source).stderr


def test_the_same_seed_gives_the_same_run_and_a_corpus_that_can_be_kept(source: Path, tmp_path: Path) -> None:
    rows = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        ended = fuzz("option", "--inputs", "3000", "--minimize", "--corpus", str(tmp_path / name), source=source)
        assert ended.returncode == 0, ended.stdout
        target, inputs, _, _, *reached = ended.stdout.splitlines()[1].split()
        assert (target, inputs) == ("option", "3000")
        rows.append(reached)
    assert rows[0] == rows[1]
    one, two = ((tmp_path / name / "option.txt").read_text("ascii") for name in ("one", "two"))
    assert one == two
    assert len(one.splitlines()) > 3
