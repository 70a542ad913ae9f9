"""The corpus of the fuzz targets, replayed: what was worth keeping once is tried on every change."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.choices import Choices
from fuzz.corpus import CORPUS, read_corpus, write_corpus
from fuzz.targets import TARGETS, Target

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@every_target
def test_nothing_is_found_in_the_corpus(target: Target) -> None:
    check = target.load()
    for data in read_corpus(CORPUS, target.name):
        check(data)


@every_target
def test_there_is_a_corpus_of_inputs_that_the_target_takes(target: Target) -> None:
    inputs = read_corpus(CORPUS, target.name)
    assert len(inputs) > 3
    assert max(map(len, inputs)) <= target.longest


def test_the_corpus_is_small_and_of_these_targets() -> None:
    files = list(CORPUS.iterdir())
    assert {path.name for path in files} == {f"{name}.txt" for name in TARGETS}
    assert sum(path.stat().st_size for path in files) < 1 << 20


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_corpus(tmp_path, "new") == []
    write_corpus(tmp_path, "new", [b"\xff\x00", b"", b"\x01", b"\x01"])
    assert (tmp_path / "new.txt").read_text("ascii") == "\n01\nff00\n"
    assert read_corpus(tmp_path, "new") == [b"", b"\x01", b"\xff\x00"]


def test_choices_that_have_run_out_are_the_simplest() -> None:
    choices = Choices(b"\x07\x02ab\x01\x05c")
    assert (choices.below(4), choices.some(), choices.flag(), choices.some()) == (3, b"ab", True, b"c")
    assert not choices.left
    assert (choices.byte(), choices.number(4), choices.take(3), choices.rest()) == (0, 0, b"", b"")
    assert choices.one_of("xyz") == "x"
