"""`groupcoap vectors verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from groupcoap.cli import main

NONCE = {
    "kind": "nonce",
    "input": {"aead": 10, "common_iv": "00" * 13, "id": "01", "partial_iv": "05"},
    "output": {"nonce": "01" + "00" * 6 + "01" + "0000000005"},
}


NONCE_OF_GROUP_OSCORE = {
    "kind": "nonce",
    "input": {"algorithm": -65534, "common_iv": "00" * 13, "id": "01", "partial_iv": "05"},
    "output": {"nonce": "01" + "00" * 5 + "01" + "0000000005"},
}


def put(path: Path, *vectors: Any, profile: str = "multicast-oscore-04") -> str:
    content = {"format": "groupcoap-vectors-1", "profile": profile, "vectors": vectors}
    path.write_text(json.dumps(content))
    return str(path)


def test_all_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "a.json", {"name": "n", **NONCE})
    assert main(["vectors", "verify", path, path]) == 0
    assert capsys.readouterr().out == "2 passed, 0 failed\n"


def test_files_of_both_profiles_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = put(tmp_path / "a.json", {"name": "n", **NONCE})
    standard = put(tmp_path / "b.json", {"name": "n", **NONCE_OF_GROUP_OSCORE}, profile="group-oscore")
    assert main(["vectors", "verify", draft, standard]) == 0
    assert capsys.readouterr().out == "2 passed, 0 failed\n"


def test_a_profile_that_is_not_known_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "a.json", {"name": "n", **NONCE}, profile="group-oscore-2")
    assert main(["vectors", "verify", path]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("a.json: profile 'group-oscore-2' is not known")
    assert last == "0 passed, 1 failed"


def test_each_failing_vector_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {"name": "wrong nonce", **NONCE, "output": {"nonce": "00"}}
    assert main(["vectors", "verify", put(tmp_path / "a.json", {"name": "n", **NONCE}, wrong)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("wrong nonce: nonce: expected 00, got 01")
    assert lines[1:] == ["1 passed, 1 failed"]


def test_of_several_files_the_file_is_named_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = put(tmp_path / "a.json", {"name": "n", **NONCE})
    bad = put(tmp_path / "b.json", {"name": "x", "kind": "riddle"})
    assert main(["vectors", "verify", good, bad]) == 1
    assert capsys.readouterr().out == "b.json: x: unknown kind 'riddle'\n1 passed, 1 failed\n"


@pytest.mark.parametrize("content", ["{", "[]", "{}", None])
def test_what_is_no_vector_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    assert main(["vectors", "verify", str(path)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"groupcoap: {path}: ")
    assert captured.err.count("\n") == 1
