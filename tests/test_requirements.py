"""The requirement tables hold, and the checker would notice if they did not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "check_requirements.py"

KEPT = "`core.safe:Safe.keep`, `core.safe:FIRST` | `tests/test_safe.py::test_kept`"
HEAD = "| id | words | requirement | state | code | shown by |\n|---|---|---|---|---|---|\n"
GOOD = f"""# A specification

In all: 2 MUST, 1 SHOULD NOT.

## 4.1 Keys

Counted: 1 MUST, 1 SHOULD NOT.

{HEAD}| D-4.1-1 | 1 MUST | "keys MUST be kept" | done; mostly | {KEPT} |
| D-4.1-2 | 1 SHOULD NOT | They are not lent | not ours; who has them | | |

## Appendix C.3 Locks

Counted: 1 MUST.

{HEAD}| D-C.3-1 | 1 MUST | Locks lock | to come: Group Manager; he has them | | `tests/test_safe.py::test_locked` |

## 5 Doors

Counted: none.
"""
NAMES = ["multicast-oscore-04.md", "oscore-06.md", "our-reading.md", "group-oscore-28.md", "rfc8613.md"]
OTHERS = dict.fromkeys(NAMES[1:], "# Another\n\nIn all: none.\n")
CODE = "FIRST, SECOND = 1, 2\n\n\nclass Safe:\n    def keep(self) -> None: ...\n"
TESTS = "def test_kept(): ...\n\n\nasync def test_locked(): ...\n\n\ndef helper(): ...\n"


def check(root: Path) -> tuple[int, str, str]:
    """(exit code, output, what is wrong)"""
    ran = subprocess.run([sys.executable, TOOL, root], capture_output=True, text=True, timeout=60)
    return ran.returncode, ran.stdout, ran.stderr


def tree(root: Path, table: str = GOOD) -> Path:
    """A project with one class, two tests, and this table."""
    files = {
        "src/groupcoap/__init__.py": "",
        "src/groupcoap/core/safe.py": CODE,
        "tests/test_safe.py": TESTS,
        "docs/requirements/multicast-oscore-04.md": table,
        **{f"docs/requirements/{name}": text for name, text in OTHERS.items()},
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_requirement_tables_of_this_project_hold() -> None:
    code, output, wrong = check(ROOT)
    assert wrong == ""
    assert code == 0
    assert [line.partition(":")[0] for line in output.splitlines()] == NAMES


def test_a_table_that_holds(tmp_path: Path) -> None:
    code, output, wrong = check(tree(tmp_path))
    assert (code, wrong) == (0, "")
    assert output.splitlines()[0] == "multicast-oscore-04.md: 3 rows; 1 done, 1 to come: Group Manager, 1 not ours"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("test_safe.py::test_kept", "test_safe.py::test_lent", "11: D-4.1-1: no tests/test_safe.py::test_lent"),
        ("test_safe.py::test_kept", "test_save.py::test_kept", "11: D-4.1-1: no tests/test_save.py::test_kept"),
        ("test_safe.py::test_kept", "test_safe.py::helper", "11: D-4.1-1: no tests/test_safe.py::helper"),
        ("test_safe.py::test_kept", "test_safe.py", "11: D-4.1-1: no tests/test_safe.py"),
        ("core.safe:Safe.keep", "core.safe:Safe.lose", "11: D-4.1-1: no core.safe:Safe.lose"),
        ("core.safe:Safe.keep", "core.safe:keep", "11: D-4.1-1: no core.safe:keep"),
        ("core.safe:Safe.keep", "core.lock:Safe.keep", "11: D-4.1-1: no core.lock:Safe.keep"),
        ("core.safe:Safe.keep", "core.safe", "11: D-4.1-1: no core.safe"),
        ("`tests/test_safe.py::test_kept`", "", "11: D-4.1-1: is done, but names no test"),
        ("`core.safe:Safe.keep`, `core.safe:FIRST`", "", "11: D-4.1-1: is done, but names no code"),
        ("`core.safe:FIRST`", "and so on", "11: '`core.safe:Safe.keep`, and so on' is not a list of names"),
        ("not ours; who has them", "not ours", "12: D-4.1-2: 'not ours' without a reason"),
        ("not ours; who has them", "somehow", "12: D-4.1-2: state 'somehow' is none of done, to come: Group"),
        ("| 1 MUST | Locks", "| | Locks", "14: section C.3: 1 MUST counted, none in its rows"),
        ("| 1 MUST | Locks", "| 2 MUST | Locks", "14: section C.3: 1 MUST counted, 2 MUST in its rows"),
        ("| 1 MUST | Locks", "| 1 MAY | Locks", "14: section C.3: 1 MUST counted, 1 MAY in its rows"),
        ("| 1 MUST | Locks", "| MUST | Locks", "20: 'MUST' is not a number and a normative word"),
        ("Counted: none.", "Counted: 1 SHALL.", "22: section 5: 1 SHALL counted, none in its rows"),
        ("Counted: none.", "", "22: section 5 does not say what was counted in it"),
        ("In all: 2 MUST", "In all: 3 MUST", "1: in all 3 MUST, 1 SHOULD NOT recorded, 2 MUST, 1 SHOULD NOT in"),
        ("In all: 2 MUST, 1 SHOULD NOT.\n", "", "1: in all nothing recorded"),
        (GOOD[GOOD.index("## Appendix C.3") :], "", "1: in all 2 MUST, 1 SHOULD NOT recorded, 1 MUST, 1 SHOULD"),
        ("D-4.1-2", "D-4.1-1", "12: D-4.1-1 stands in docs/requirements/multicast-oscore-04.md:11 already"),
        ("D-4.1-2", "D-4.2-2", "12: D-4.2-2 is not of the form D-4.1-1"),
        ("D-4.1-2", "R-4.1-2", "12: R-4.1-2 is not of the form D-4.1-1"),
        ("| Locks lock", "| Locks | lock", "20: a row has 6 cells, not 7"),
        ("| Locks lock", "| ", "20: a requirement without words"),
        ("## 5 Doors", "## Doors", "22: a heading without the number of a section"),
    ],
)
def test_a_table_that_does_not_hold_is_refused_with_the_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert GOOD.count(old) == 1
    code, _, wrong = check(tree(tmp_path, GOOD.replace(old, new)))
    assert code == 1
    assert f"docs/requirements/multicast-oscore-04.md:{says}" in wrong


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "docs" / "requirements" / "oscore-06.md").unlink()
    assert check(root)[0] == 1
    assert "no oscore-06.md" in check(root)[2]


def test_ci_runs_the_checker() -> None:
    assert "tools/check_requirements.py" in (ROOT / ".ci" / "run").read_text("utf-8")
