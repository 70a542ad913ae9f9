#!/usr/bin/env python3
"""Check the requirement tables in docs/requirements against the code and the tests, and against their own counts.

    tools/check_requirements.py [ROOT]

docs/requirements/README.md says how the tables are written. What is wrong comes out as one line each, with file and
line; then the exit code is 1.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

DOCUMENTS = {
    "multicast-oscore-04.md": "D",
    "oscore-06.md": "O",
    "our-reading.md": "R",
    "group-oscore-28.md": "G",
    "rfc8613.md": "S",
}
"""File name → first letter of the ids in it."""

HEADER = "| id | words | requirement | state | code | shown by |"
WORDS = frozenset(
    {"MUST", "MUST NOT", "SHALL", "SHALL NOT", "REQUIRED", "SHOULD", "SHOULD NOT", "RECOMMENDED", "NOT RECOMMENDED"}
    | {"MAY", "OPTIONAL", "decided"}
)
"""What is counted: the words of RFC 2119, and `decided` for a rule of our own."""
DONE = "done"
OPEN = ("to come: Group Manager", "to come in this milestone", "to come", "not ours", "deliberately not")
"""States that need a reason."""

HEADING = re.compile(r"#{2,} (?:Appendix )?([0-9]+(?:\.[0-9]+)*|[A-Z](?:\.[0-9]+)*)(?: .+)?")
REFERENCE = re.compile(r"`([^`]+)`")

Words = Counter[str]


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement. `words`: the occurrences of normative words that it accounts for."""

    line: int
    id: str
    words: Words
    state: str
    reason: str
    code: tuple[str, ...]
    tests: tuple[str, ...]


@dataclass(slots=True)
class Section:
    """One section of a source document. `counted`: the normative words in it; None as long as nothing says so."""

    line: int
    number: str
    counted: Words | None = None
    rows: list[Row] = field(default_factory=list)


class Unreadable(Exception):
    """A line that is not of the form it must have."""


def words_of(text: str) -> Words:
    """`2 MUST, 1 MAY` → how often each; `none` or nothing → none."""
    found: Words = Counter()
    for part in text.split(", ") if text not in ("", "none") else ():
        number, _, word = part.partition(" ")
        if not number.isdigit() or word not in WORDS or word in found or not int(number):
            raise Unreadable(f"{part!r} is not a number and a normative word")
        found[word] = int(number)
    return found


def text_of(words: Words) -> str:
    """The other way round."""
    return ", ".join(f"{words[word]} {word}" for word in sorted(words) if words[word]) or "none"


def references(cell: str) -> tuple[str, ...]:
    """What stands in a cell in backquotes, separated by commas; nothing else may stand there."""
    found = tuple(REFERENCE.findall(cell))
    if ", ".join(f"`{reference}`" for reference in found) != cell:
        raise Unreadable(f"{cell!r} is not a list of names in backquotes")
    return found


def row_of(line: int, text: str) -> Row:
    """A row of a table."""
    cells = [cell.strip() for cell in text.strip().strip("|").split("|")]
    if len(cells) != 6:
        raise Unreadable(f"a row has 6 cells, not {len(cells)}")
    name, words, requirement, state, code, tests = cells
    if not requirement:
        raise Unreadable("a requirement without words")
    head, _, reason = state.partition("; ")
    return Row(line, name, words_of(words), head, reason, references(code), references(tests))


class Document:
    """One table, and what is wrong with it as far as it tells by itself."""

    def __init__(self, path: Path, letter: str) -> None:
        self.path = path
        self.sections: list[Section] = []
        self.problems: list[tuple[int, str]] = []
        self._letter = letter
        self._in_all: Words | None = None
        self._read(path.read_text("utf-8").splitlines())
        self._check_counts()
        for row in self.rows:
            self.problems += [(row.line, f"{row.id}: {problem}") for problem in _state_problems(row)]

    @property
    def rows(self) -> Iterator[Row]:
        return (row for section in self.sections for row in section.rows)

    def _read(self, lines: list[str]) -> None:
        for number, text in enumerate(lines, start=1):
            try:
                self._line(number, text)
            except Unreadable as problem:
                self.problems.append((number, str(problem)))

    def _line(self, number: int, text: str) -> None:
        if text.startswith("In all: "):
            self._in_all = words_of(text.removeprefix("In all: ").removesuffix("."))
        elif text.startswith("##"):
            heading = HEADING.fullmatch(text)
            if heading is None:
                raise Unreadable("a heading without the number of a section")
            self.sections.append(Section(number, heading[1]))
        elif text.startswith("Counted: "):
            self._section().counted = words_of(text.removeprefix("Counted: ").removesuffix("."))
        elif text.startswith("|") and text != HEADER and text.strip("|-"):
            self._add(row_of(number, text))

    def _section(self) -> Section:
        if not self.sections:
            raise Unreadable("stands before the first section")
        return self.sections[-1]

    def _add(self, row: Row) -> None:
        section = self._section()
        if not re.fullmatch(rf"{self._letter}-{re.escape(section.number)}-[1-9][0-9]*", row.id):
            self.problems.append((row.line, f"{row.id} is not of the form {self._letter}-{section.number}-1"))
        section.rows.append(row)

    def _check_counts(self) -> None:
        total: Words = Counter()
        for section in self.sections:
            total += section.counted or Counter()
            accounted = sum((row.words for row in section.rows), Words())
            if section.counted is None:
                self.problems.append(
                    (section.line, f"section {section.number} does not say what was counted in it")
                )
            elif section.counted != accounted:
                counts = f"{text_of(section.counted)} counted, {text_of(accounted)} in its rows"
                self.problems.append((section.line, f"section {section.number}: {counts}"))
        if self._in_all != total:
            recorded = "nothing" if self._in_all is None else text_of(self._in_all)
            self.problems.append((1, f"in all {recorded} recorded, {text_of(total)} in the sections"))


def _state_problems(row: Row) -> Iterator[str]:
    if row.state == DONE:
        if not row.code:
            yield "is done, but names no code"
        if not row.tests:
            yield "is done, but names no test"
    elif row.state not in OPEN:
        yield f"state {row.state!r} is none of {DONE}, {', '.join(OPEN)}"
    elif not row.reason:
        yield f"{row.state!r} without a reason"


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a file defines: functions, classes, what is in these (`Class.method`), and module-level values."""
    return frozenset(_names(ast.parse(path.read_text("utf-8")).body)) if path.is_file() else frozenset()


def _names(body: Iterable[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{inner}" for inner in _names(node.body))
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            names = (inner for inner in ast.walk(node) if isinstance(inner, ast.Name))
            yield from (name.id for name in names if isinstance(name.ctx, ast.Store))


def _code_exists(root: Path, reference: str) -> bool:
    module, _, name = reference.partition(":")
    path = root.joinpath("src", "groupcoap", *module.split("."))
    return any(name in names_in(file) for file in (path.with_suffix(".py"), path / "__init__.py"))


def _test_exists(root: Path, reference: str) -> bool:
    file, _, name = reference.partition("::")
    return file.startswith("tests/") and name.startswith("test_") and name in names_in(root / file)


def problems_of(root: Path, documents: Iterable[Document]) -> Iterator[str]:
    """All that is wrong, as `file:line: what`."""
    seen: dict[str, str] = {}
    for document in documents:
        name = document.path.relative_to(root)
        found = list(document.problems)
        for row in document.rows:
            if row.id in seen:
                found.append((row.line, f"{row.id} stands in {seen[row.id]} already"))
            seen.setdefault(row.id, f"{name}:{row.line}")
            found += [(row.line, f"{row.id}: no {code}") for code in row.code if not _code_exists(root, code)]
            found += [(row.line, f"{row.id}: no {test}") for test in row.tests if not _test_exists(root, test)]
        yield from (f"{name}:{line}: {problem}" for line, problem in sorted(found))


def summary(document: Document) -> str:
    """One line: how many rows of which state."""
    rows = list(document.rows)
    states = Counter(row.state for row in rows)
    return f"{document.path.name}: {len(rows)} rows; " + ", ".join(
        f"{states[state]} {state}" for state in (DONE, *OPEN) if states[state]
    )


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).parents[1]
    directory = root / "docs" / "requirements"
    missing = [name for name in DOCUMENTS if not (directory / name).is_file()]
    if missing:
        print(f"{directory}: no {', '.join(missing)}", file=sys.stderr)
        return 1
    documents = [Document(directory / name, letter) for name, letter in DOCUMENTS.items()]
    problems = list(problems_of(root, documents))
    for problem in problems:
        print(problem, file=sys.stderr)
    for document in documents:
        print(summary(document))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
