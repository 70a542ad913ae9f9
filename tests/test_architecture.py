"""The protocol core takes bytes and values and gives bytes and values: held by its imports, read and run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import groupcoap

SOURCE = Path(groupcoap.__file__).parent
MODULES = sorted([*(SOURCE / "core").glob("*.py"), *(SOURCE / "cose").glob("*.py")])
KEYING = sorted((SOURCE / "keying").glob("*.py"))
BELOW = ("groupcoap.errors", "groupcoap.secret")

# What computes and nothing else. No clock, no randomness, no files, no network, no event loop.
PURE = {
    "__future__",
    "collections.abc",
    "dataclasses",
    "enum",
    "hashlib",
    "io",
    "itertools",
    "threading",
    "typing",
    "urllib.parse",
}
LIBRARIES = {
    "core": {"cbor2", "cryptography"},
    "cose": {"cbor2", "cryptography", "nacl"},
    # cryptography for the one exception that says that a tag is wrong; ipaddress opens nothing
    "keying": {"cbor2", "cryptography", "functools", "ipaddress", "math", "re", "struct"},
}
OWN = {
    "core": ("groupcoap.core", "groupcoap.cose", *BELOW),
    "cose": ("groupcoap.cose", *BELOW),
    "keying": ("groupcoap.keying", "groupcoap.core", "groupcoap.cose", "groupcoap.membership", *BELOW),
}
BACK_DOORS = {"__import__", "importlib", "open", "exec", "eval", "print", "input"}
RANDOMNESS_ALLOWED = SOURCE / "cose" / "keys.py"  # making a new key, and nothing else

FORBIDDEN_AT_RUN_TIME = ("asyncio", "aiocoap", "sqlalchemy", "groupcoap.endpoint", "groupcoap.cli")


def name_of(path: Path) -> str:
    parts = ("groupcoap", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path) -> Iterator[str]:
    """The full name of every module that this one imports anywhere, also inside functions."""
    package = ["groupcoap", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = [*base, *([node.module] if node.module else [])]
            if node.module:
                yield ".".join(source)
            else:
                yield from (".".join([*source, alias.name]) for alias in node.names)


def allowed(name: str, room: str) -> bool:
    inside = any(name == own or name.startswith(own + ".") for own in OWN[room])
    return inside or name in PURE or name.partition(".")[0] in LIBRARIES[room]


def test_there_is_something_to_look_at() -> None:
    names = {name_of(path) for path in MODULES}
    assert {"groupcoap.core", "groupcoap.core.requests", "groupcoap.cose.keys"} <= names
    assert len(MODULES) > 15
    assert "groupcoap.core.coap" in set(imported(SOURCE / "core" / "requests.py"))
    assert "groupcoap.errors" in set(imported(SOURCE / "core" / "requests.py"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_core_and_cose_import_only_what_computes(path: Path) -> None:
    room = path.parent.name
    names = set(imported(path))
    if path == RANDOMNESS_ALLOWED:
        names -= {"os"}
    assert not {name for name in names if not allowed(name, room)}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_core_and_cose_open_no_back_door_to_the_outside(path: Path) -> None:
    calls = {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)}
    assert not calls & BACK_DOORS


@pytest.mark.parametrize("path", sorted((SOURCE / "capture").glob("*.py")), ids=name_of)
def test_captures_are_read_without_knowing_of_anything_else(path: Path) -> None:
    own = ("groupcoap.errors", "groupcoap.capture.")
    names = {name for name in imported(path) if name not in PURE and not name.startswith(own)}
    assert names <= {"ipaddress", "pathlib", "struct"}


@pytest.mark.parametrize("path", sorted((SOURCE / "cli").glob("*.py")), ids=name_of)
def test_the_command_line_never_takes_a_secret_into_its_hands(path: Path) -> None:
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    assert not [node.lineno for node in nodes if isinstance(node, ast.Attribute) and node.attr == "reveal"]


@pytest.mark.parametrize("path", KEYING, ids=name_of)
def test_keying_imports_only_what_computes_and_what_it_is_about(path: Path) -> None:
    assert not {name for name in imported(path) if not allowed(name, "keying")}
    calls = {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)}
    assert not calls & BACK_DOORS


def test_there_is_something_of_keying_to_look_at() -> None:
    assert {"groupcoap.keying.joining", "groupcoap.keying.envelope"} <= {name_of(path) for path in KEYING}
    assert "groupcoap.membership" in set(imported(SOURCE / "keying" / "roles.py"))
    assert not allowed("groupcoap.manager.state", "keying")
    assert not allowed("groupcoap.membership", "core")
    assert not allowed("ipaddress", "core")
    assert not allowed("os", "keying")


def test_cose_takes_randomness_only_to_make_a_key() -> None:
    uses = [
        (function.name, node.attr)
        for function in ast.walk(ast.parse(RANDOMNESS_ALLOWED.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    ]
    assert uses == [("generate", "urandom")]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import time", "time"),
        ("from os import urandom", "os"),
        ("import asyncio.events", "asyncio.events"),
        ("def f():\n    from socket import socket", "socket"),
        ("from ..endpoint import groups", "groupcoap.endpoint"),
        ("from .. import membership", "groupcoap.membership"),
        ("from groupcoap.files import state", "groupcoap.files"),
        ("import random as r", "random"),
    ],
)
def test_this_test_would_find_a_forbidden_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, name: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    path = tmp_path / "core" / "example.py"
    path.parent.mkdir()
    path.write_text(code, "utf-8")
    assert list(imported(path)) == [name]
    assert not allowed(name, "core")


def test_importing_the_core_loads_no_event_loop_and_no_coap_stack() -> None:
    names = [name_of(path) for path in MODULES]
    program = f"import sys, {', '.join(names)}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = result.stdout.split()
    assert set(names) <= set(loaded)
    assert not [
        module for module in loaded if any(module == f or module.startswith(f + ".") for f in FORBIDDEN_AT_RUN_TIME)
    ]
