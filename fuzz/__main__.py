"""`python -m fuzz`: run targets under atheris, each for its share of the inputs, from the corpus on.

Ends with code 1 if there was a finding; what caused it is saved, and the command that repeats it printed. The same
seed and corpus give the same run. Without atheris the corpus is replayed, and nothing more."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from .corpus import CORPUS, read_corpus, write_corpus
from .targets import TARGETS, Target

ROOT = Path(__file__).parents[1]
FINDINGS = Path(__file__).parent / "findings"
SECONDS_FOR_ONE = 30
MEMORY = 2048
"""Mebibytes that a target may have. More, or longer for one input than `SECONDS_FOR_ONE`, is a finding too."""

_EXECUTED = re.compile(r"^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)
_PROGRESS = re.compile(r"^#\d+\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)
_SAVED = re.compile(r"Test unit written to (\S+)")
_ROW = "{:14} {:>10} {:>8} {:>9} {:>9} {:>9} {:>7}  {}"


class Result(NamedTuple):
    """How a target's run went. `coverage`, `features`: branches, and kinds of ways through them, as libFuzzer
    counts them. `kept`: inputs that together reach them. `finding`: the saved input, or what else went wrong."""

    target: str
    inputs: int
    seconds: float
    coverage: int
    features: int
    kept: int
    finding: str
    output: str

    @property
    def row(self) -> str:
        rate = f"{self.inputs / self.seconds:.0f}" if self.seconds else ""
        numbers = (f"{self.seconds:.1f}", rate, self.coverage, self.features, self.kept)
        return _ROW.format(self.target, self.inputs, *numbers, self.finding or "nothing found")


def main(given: Sequence[str] | None = None) -> int:
    """Run the program with these arguments."""
    arguments = _arguments(given)
    targets = [TARGETS[name] for name in arguments.targets or TARGETS]
    if arguments.replay is not None:
        (target,) = targets
        target.load()(arguments.replay.read_bytes())
        return 0
    if find_spec("atheris") is None:
        print("atheris is not installed here (pip install -e '.[fuzz]'): the corpus is replayed, and nothing more")
        return _replay_all(targets, arguments.corpus)
    return _fuzz(targets, arguments)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m fuzz", description="Coverage-guided fuzzing: see docs/fuzzing.md.")
    add = parser.add_argument
    add("targets", nargs="*", metavar="TARGET", help=f"all by default: {', '.join(TARGETS)}")
    add("--inputs", type=int, default=100_000, help="in all, shared out among the targets (%(default)s)")
    add("--seed", type=int, default=1, help="(%(default)s)")
    add("--jobs", type=int, default=1, help="targets at the same time (%(default)s)")
    add("--corpus", type=Path, default=CORPUS, metavar="DIRECTORY", help="where inputs are kept (fuzz/corpus)")
    add("--findings", type=Path, default=FINDINGS, metavar="DIRECTORY", help="where to save them (fuzz/findings)")
    add("--minimize", action="store_true", help="put what was found into the corpus, and keep what adds coverage")
    add("--replay", type=Path, metavar="FILE", help="give this one input to the one TARGET that is named")
    arguments = parser.parse_args(given)
    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}")
    if arguments.replay is not None and len(arguments.targets) != 1:
        parser.error("--replay takes one target")
    return arguments


def _replay_all(targets: Sequence[Target], corpus: Path) -> int:
    for target in targets:
        check = target.load()
        inputs = read_corpus(corpus, target.name)
        for data in inputs:
            check(data)
        print(f"{target.name}: {len(inputs)} inputs")
    return 0


def _fuzz(targets: Sequence[Target], arguments: argparse.Namespace) -> int:
    shares = sum(target.share for target in targets)
    run = partial(_run, arguments)
    inputs = [-(-arguments.inputs * target.share // shares) for target in targets]  # rounded up
    print(_ROW.format("target", "inputs", "seconds", "inputs/s", "coverage", "features", "corpus", "findings"))
    results = []
    with ThreadPoolExecutor(arguments.jobs) as threads:
        for result in threads.map(run, targets, inputs):
            print(result.row, flush=True)
            results.append(result)
    found = [result for result in results if result.finding]
    for result in found:
        print(f"\n== {result.target}\n{_tail(result.output)}")
        if Path(result.finding).exists():
            print(f"repeat it: python -m fuzz {result.target} --replay {result.finding}")
    total, seconds = sum(result.inputs for result in results), sum(result.seconds for result in results)
    print(f"{total} inputs in {seconds:.1f} s, {len(found)} findings")
    return 1 if found else 0


def _run(arguments: argparse.Namespace, target: Target, inputs: int) -> Result:
    """Fuzz one target in a process of its own."""
    arguments.findings.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="groupcoap-fuzz-") as directory:
        seeds, new = Path(directory, "seeds"), Path(directory, "new")
        new.mkdir()
        paths = _unpack(seeds, read_corpus(arguments.corpus, target.name))
        listed = Path(directory, "list")
        listed.write_text(",".join(paths))
        begun = time.monotonic()
        code, output = _engine(
            target,
            f"-runs={inputs}",
            f"-seed={arguments.seed}",
            f"-artifact_prefix={arguments.findings.resolve()}/{target.name}-",
            *([f"-seed_inputs=@{listed}"] if paths else []),
            str(new),
        )
        seconds = time.monotonic() - begun
        if arguments.minimize and not code:
            kept = Path(directory, "kept")
            kept.mkdir()
            code, merging = _engine(target, "-merge=1", str(kept), str(seeds), str(new))
            output = merging if code else output
            write_corpus(arguments.corpus, target.name, [path.read_bytes() for path in kept.iterdir()])
    return _result(target, code, output, seconds)


def _unpack(directory: Path, inputs: Sequence[bytes]) -> list[str]:
    """One file for each input, as libFuzzer wants them; in this order, which it keeps."""
    directory.mkdir()
    paths = []
    for number, data in enumerate(inputs):
        path = directory / f"{number:05}"
        path.write_bytes(data)
        paths.append(str(path))
    return paths


def _engine(target: Target, *options: str) -> tuple[int, str]:
    """(exit code, output) of the target's process."""
    limits = (f"-max_len={target.longest}", f"-timeout={SECONDS_FOR_ONE}", f"-rss_limit_mb={MEMORY}")
    command = [sys.executable, "-m", "fuzz.engine", target.name, *limits, "-print_final_stats=1", *options]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(  # noqa: S603 — this program itself
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.returncode, done.stdout.decode(errors="replace")


def _result(target: Target, code: int, output: str, seconds: float) -> Result:
    executed, progress, saved = _EXECUTED.search(output), _PROGRESS.findall(output), _SAVED.search(output)
    coverage, features, kept = map(int, progress[-1]) if progress else (0, 0, 0)
    finding = ""
    if code:
        finding = saved.group(1) if saved else f"ended with code {code}"
    inputs = int(executed.group(1)) if executed else 0
    return Result(target.name, inputs, seconds, coverage, features, kept, finding, output)


def _tail(output: str) -> str:
    """What Python said of the finding; or else the last lines."""
    begin = output.find("=== Uncaught Python exception")
    end = output.find("==", begin + 40)
    return output[begin:end].rstrip() if begin >= 0 else "\n".join(output.splitlines()[-15:])


if __name__ == "__main__":
    sys.exit(main())
