"""Documents: whatever the bytes in the file are, a value or a `FileFault` that names what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupcoap.errors import FileFault
from groupcoap.files.documents import MAX_SIZE, DocumentKind, Field, read_document, read_private, write_document
from groupcoap.files.group import load_group
from groupcoap.files.identity import load_identity
from groupcoap.membership import Role

KIND = DocumentKind("groupcoap-test", 1)


def put(path: Path, content: Any, mode: int = 0o600) -> Path:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(data)
    path.chmod(mode)
    return path


def fault(path: Path, kind: DocumentKind = KIND) -> str:
    with pytest.raises(FileFault) as caught:
        read_document(path, kind)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.problem


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_document(path, KIND, {"a": 1})
    assert read_document(path, KIND).value == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_file_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_document(path, KIND, {"a": 1})
    with pytest.raises(FileFault, match="exists already"):
        write_document(path, KIND, {"a": 2})
    assert read_document(path, KIND).value == {"a": 1}
    write_document(path, KIND, {"a": 3}, replace=True)
    assert read_document(path, KIND).value == {"a": 3}
    assert os.listdir(tmp_path) == ["x.json"]


def test_writing_where_there_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileFault, match="cannot be written"):
        write_document(tmp_path / "none" / "x.json", KIND, {})


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    write_document(real, KIND, {"a": 1})
    link.symlink_to(real)
    write_document(link, KIND, {"a": 2}, replace=True)
    assert link.is_symlink()
    assert read_document(real, KIND).value == {"a": 2}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "damaged"),
        (b"{", "at line 1"),
        (b"[]", "not a JSON object"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b'{"format": "groupcoap-test", "format": "groupcoap-test", "version": 1}', "twice"),
        (b'{"format": "groupcoap-test", "version": NaN}', "not JSON"),
        (b"[" * 200_000, "nested"),
        (b'{"format": "groupcoap-test", "version": ' + b"9" * 5000 + b"}", "damaged"),
        ({"format": "other", "version": 1}, "is not a groupcoap-test file"),
        ({"version": 1}, "is not a groupcoap-test file"),
        ({"format": "groupcoap-test"}, "version"),
        ({"format": "groupcoap-test", "version": 0}, "version"),
        ({"format": "groupcoap-test", "version": True}, "version"),
        ({"format": "groupcoap-test", "version": 2}, "upgrade groupcoap"),
    ],
)
def test_each_kind_of_damage_is_named(tmp_path: Path, content: Any, problem: str) -> None:
    assert problem in fault(put(tmp_path / "x.json", content))


def test_missing_unreadable_and_wrong_kinds_of_file(tmp_path: Path) -> None:
    assert "does not exist" in fault(tmp_path / "none.json")
    assert "Is a directory" in fault(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in fault(tmp_path / "pipe")
    assert "larger than" in fault(put(tmp_path / "large.json", b" " * (MAX_SIZE + 1)))
    with pytest.raises(FileFault, match="cannot be read"):
        read_document(Path("nul\0byte"), KIND)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_secrets_open_to_others_are_refused(tmp_path: Path, mode: int) -> None:
    path = put(tmp_path / "x.json", {"format": "groupcoap-test", "version": 1}, mode)
    assert f"chmod 600 {path}" in fault(path)


def test_an_older_version_is_brought_up_to_date_step_by_step(tmp_path: Path) -> None:
    kind = DocumentKind(
        "groupcoap-test",
        3,
        {1: lambda body: {"names": [body["name"]]}, 2: lambda body: {**body, "colour": "red"}},
    )
    path = put(tmp_path / "x.json", {"format": "groupcoap-test", "version": 1, "name": "a"})
    assert read_document(path, kind).value == {"names": ["a"], "colour": "red"}
    path = put(tmp_path / "y.json", {"format": "groupcoap-test", "version": 2, "names": ["b"]})
    assert read_document(path, kind).value == {"names": ["b"], "colour": "red"}
    assert json.loads(path.read_text())["version"] == 2, "reading does not write"


def test_an_older_version_that_is_damaged_or_too_old(tmp_path: Path) -> None:
    path = put(tmp_path / "x.json", {"format": "groupcoap-test", "version": 1})
    assert "damaged (version 1" in fault(path, DocumentKind("groupcoap-test", 2, {1: lambda b: {"x": b["y"]}}))
    assert "no longer read" in fault(path, DocumentKind("groupcoap-test", 2))


@pytest.mark.parametrize(
    ("value", "ask", "problem"),
    [
        (1, lambda f: f.members(("a",)), "must be an object"),
        ({}, lambda f: f.members(("a",)), "'a' is missing"),
        ({"a": 1, "b\n": 2}, lambda f: f.members(("a",)), r"'b\n' is not known"),
        ([], lambda f: f.items(at_least=1), "at least 1"),
        ({}, lambda f: f.items(), "must be a list"),
        ("", lambda f: f.text(), "printable"),
        ("a\nb", lambda f: f.text(), "printable"),
        ("\ud800", lambda f: f.text(), "printable"),
        (True, lambda f: f.integer(), "whole number"),
        (1.0, lambda f: f.integer(), "whole number"),
        (-1, lambda f: f.seconds(), "seconds"),
        (float("inf"), lambda f: f.seconds(), "seconds"),
        (False, lambda f: f.seconds(), "seconds"),
        ("0g", lambda f: f.hex(), "hex"),
        ("0A", lambda f: f.hex(), "hex"),
        ("0", lambda f: f.hex(), "hex"),
        ("0 0 ", lambda f: f.hex(), "hex"),
        ("00", lambda f: f.hex(2, 3), "2 to 3 bytes, not 1"),
        ("boss", lambda f: f.choice(Role), "must be one of 'multicaster', 'listener', 'pure listener'"),
        ([], lambda f: f.choice(Role), "must be one of"),
    ],
)
def test_a_bad_field_is_named_with_its_path(value: Any, ask: Callable[[Field], Any], problem: str) -> None:
    outer = Field(Path("f.json"), "", {"list": [0, value]})
    field = outer.members(("list",))["list"].items()[1]
    with pytest.raises(FileFault) as caught:
        ask(field)
    assert str(caught.value).startswith("f.json: list[1]: ")
    assert problem in str(caught.value)


def test_a_field_does_not_show_its_value() -> None:
    assert "5eC4e7" not in repr(Field(Path("x"), "key", "5eC4e7"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_file_fault(tmp_path: Path, data: bytes) -> None:
    path = put(tmp_path / "x.json", data)
    for load in (load_identity, load_group):
        with pytest.raises(FileFault) as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_nobody_is_told_to_change_the_mode_of_a_file_that_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0")
    path.chmod(0o644)
    with pytest.raises(FileFault) as caught:
        read_private(path)
    assert "chmod" not in str(caught.value)
    assert "no file of groupcoap" in str(caught.value)
