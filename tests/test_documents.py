"""What the documents name exists: tests, files, links, commands."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from groupcoap.cli import COMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))

LINK = re.compile(r"\]\(([^)#\s]+)?(#[^)\s]+)?\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
COMMAND = re.compile(r"(?<!from )groupcoap ([a-z]+)")


def text_of(path: Path) -> str:
    return path.read_text("utf-8")


@cache
def defined_in(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(text_of(path))) if isinstance(node, kinds)}


def anchors_of(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_there_are_documents() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "architecture.md", "tutorial.md", "status.md"} <= names
    assert len(list((ROOT / "docs" / "decisions").glob("0*.md"))) >= 11


@every_document
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(text_of(path)):
        if target.startswith("https://"):
            continue
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file), target + anchor


@every_document
def test_the_tests_that_are_named_exist(path: Path) -> None:
    for file, name in TEST.findall(text_of(path)):
        assert (ROOT / file).exists(), file
        assert not name or name in defined_in(ROOT / file), f"{file}::{name}"


@every_document
def test_the_commands_that_are_named_exist(path: Path) -> None:
    for name in COMMAND.findall("\n".join(re.findall(r"```.*?```|`[^`\n]+`", text_of(path), re.DOTALL))):
        assert name in COMMANDS


@every_document
def test_no_figure_is_left_to_be_filled_in(path: Path) -> None:
    assert "TODO" not in text_of(path)


def test_every_decision_is_listed() -> None:
    directory = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((0[^)]+)\)", text_of(directory / "README.md"))
    assert sorted(listed) == sorted(path.name for path in directory.glob("0*.md"))


def test_the_status_names_enough_tests() -> None:
    assert len(set(TEST.findall(text_of(ROOT / "docs" / "status.md")))) > 80


def test_ci_runs_the_test_command_of_the_readme() -> None:
    between = text_of(ROOT / "README.md").split("<!-- tests: begin -->")[1].split("<!-- tests: end -->")[0]
    commands = [line for line in between.splitlines() if line and not line.startswith("```")]
    assert len(commands) == 1
    assert commands[0].endswith("python -m pytest")
