"""The corpus: for each target a text file with one input on each line, in hex, short ones first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def read_corpus(directory: Path, target: str) -> list[bytes]:
    """The inputs kept for this target; none if there is no file."""
    path = directory / f"{target}.txt"
    return [bytes.fromhex(line) for line in path.read_text("ascii").splitlines()] if path.exists() else []


def write_corpus(directory: Path, target: str, inputs: Iterable[bytes]) -> None:
    """Keep these inputs, and no others."""
    lines = [data.hex() + "\n" for data in sorted(set(inputs), key=lambda data: (len(data), data))]
    (directory / f"{target}.txt").write_text("".join(lines), "ascii")
