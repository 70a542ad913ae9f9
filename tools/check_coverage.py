"""Whether each module of `core/` and `cose/` is covered to the last branch by its own test file alone.

    python tools/check_coverage.py           all modules (under a minute)
    python tools/check_coverage.py window    only those

Prints the missing lines and branches of those that are not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]

TESTED_BY = {"profile": "multicast_oscore_04"}
"""A module whose tests have another name: the seam is nothing without what is plugged in."""


def chosen_modules(names: Collection[str]) -> list[Path]:
    """The modules of `core/` and `cose/` with these names, or all, relative to the root."""
    packages = [ROOT / "src" / "groupcoap" / name for name in ("core", "cose")]
    modules = [path.relative_to(ROOT) for package in packages for path in sorted(package.glob("[!_]*.py"))]
    return [module for module in modules if not names or module.stem in names]


def tests_of(module: Path) -> str:
    """The module's own test file."""
    return f"tests/{module.parent.name}/test_{TESTED_BY.get(module.stem, module.stem)}.py"


def what_is_missing(module: Path) -> str:
    """What the module's test file says if it does not cover the module, else nothing."""
    tests = tests_of(module)
    name = ".".join(module.relative_to("src").with_suffix("").parts)
    coverage = [f"--cov={name}", "--cov-branch", "--cov-report=term-missing", "--cov-fail-under=100"]
    options = ["-n0", "-q", "--no-header", "-p", "no:cacheprovider", "--hypothesis-profile=quick"]
    with TemporaryDirectory() as directory:
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *coverage, tests],
            cwd=ROOT,
            env={**os.environ, "COVERAGE_FILE": str(Path(directory, "coverage"))},
            capture_output=True,
            text=True,
        )
    return f"{name} is not covered by {tests} alone:\n{ran.stdout}{ran.stderr}" if ran.returncode else ""


def main() -> int:
    chosen = chosen_modules(sys.argv[1:])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        missing = [text for text in pool.map(what_is_missing, chosen) if text]
    print(*missing, sep="\n", end="")
    print(
        f"{len(chosen) - len(missing)} of {len(chosen)} modules are covered to the last branch by their own tests"
    )
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
