"""One versioned JSON document per file: `{"format": "groupcoap-…", "version": N, …}`.

Reading gives a `Field`, which knows the way that led to it, so that every complaint names file and field. A newer
version is refused, an older one is brought up to date in memory, step by step.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..errors import FileFault, MisuseError
from .atomic import describe, write_atomically

MAX_SIZE = 16 << 20
"""Bytes that a document may have: more than any real one, less than what hurts to read."""

MAX_TEXT = 200
"""Characters that a name may have."""

Json = dict[str, Any]
Migration = Callable[[Json], Json]
_Choice = TypeVar("_Choice", bound=Enum)


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """A kind of document. `migrations[n]` turns version n into n + 1. All documents hold secrets: mode 0600."""

    format: str
    version: int
    migrations: Mapping[int, Migration] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Field:
    """A value in a document: where it stands (`epochs[0].gid`; empty for the document itself) and what it is.

    Every method raises `FileFault`, naming file and field, where the value is not what is asked for."""

    path: Path
    where: str
    value: Any = field(repr=False)  # may be a secret

    def fault(self, problem: str) -> NoReturn:
        """Refuse this value."""
        raise FileFault(self.path, f"{self.where}: {problem}" if self.where else problem)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn what a constructor says of a wrong value into a complaint about this field."""
        try:
            yield
        except MisuseError as error:
            self.fault(str(error))

    def members(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Field]:
        """The members of an object with these names; an unknown one is refused, since it is most likely a
        misspelt one. Optional ones that are absent are absent here too."""
        if not isinstance(self.value, dict):
            self.fault("must be an object")
        for name in required:
            if name not in self.value:
                self.fault(f"{name!r} is missing")
        for name in self.value:
            if name not in required and name not in optional:
                self.fault(f"{_shown(name)} is not known")
        return {name: self._inside(f".{name}", value) for name, value in self.value.items()}

    def items(self, *, at_least: int = 0) -> list[Field]:
        """The elements of a list."""
        if not isinstance(self.value, list) or len(self.value) < at_least:
            self.fault(f"must be a list of at least {at_least}" if at_least else "must be a list")
        return [self._inside(f"[{index}]", value) for index, value in enumerate(self.value)]

    def text(self) -> str:
        """A name: 1 to 200 printable characters."""
        value = self.value
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
            self.fault(f"must be a text of 1 to {MAX_TEXT} printable characters")
        return value

    def integer(self) -> int:
        """A whole number of any size; true and false are none."""
        if type(self.value) is not int:
            self.fault("must be a whole number")
        return self.value

    def boolean(self) -> bool:
        """True or false."""
        if type(self.value) is not bool:
            self.fault("must be true or false")
        return self.value

    def seconds(self) -> float:
        """A time span: a number, not negative, at most a year."""
        if type(self.value) not in (int, float) or not 0 <= self.value <= 366 * 86400:
            self.fault("must be a number of seconds from 0 to one year")
        return float(self.value)

    def hex(self, at_least: int = 0, at_most: int = MAX_SIZE) -> bytes:
        """Bytes in lower-case hex; the lengths are in bytes."""
        value = self.value
        if not isinstance(value, str) or len(value) % 2 or not set(value) <= set("0123456789abcdef"):
            self.fault("must be bytes in lower-case hex")
        data = bytes.fromhex(value)
        if not at_least <= len(data) <= at_most:
            self.fault(f"must have {at_least} to {at_most} bytes, not {len(data)}")
        return data

    def choice(self, choices: type[_Choice]) -> _Choice:
        """One of an enumeration's values."""
        try:
            return choices(self.value)
        except ValueError:
            self.fault("must be one of " + ", ".join(repr(choice.value) for choice in choices))

    def _inside(self, step: str, value: Any) -> Field:
        return Field(self.path, (self.where + step).lstrip("."), value)


def read_document(path: Path, kind: DocumentKind) -> Field:
    """The document in this file, in the newest version, without the members `format` and `version`.

    `FileFault` if the file is missing, unreadable, readable by others, not a document of this kind, of a newer
    version, or damaged."""
    return parse_document(read_private(path), kind, Field(path, "", None))


def parse_document(data: bytes, kind: DocumentKind, place: Field) -> Field:
    """The document in these bytes, which stand at this place of a file. `FileFault` as for `read_document`."""
    content = _parse(data, place)
    if content.get("format") != kind.format:
        place.fault(f"is not a {kind.format} file; give the right file")
    version = content.get("version")
    if type(version) is not int or version < 1:
        place.fault("version: must be a whole number from 1 on")
    if version > kind.version:
        place.fault(f"is of version {version}, newer than this program knows; upgrade groupcoap")
    body = {name: value for name, value in content.items() if name not in ("format", "version")}
    return replace(place, value=_migrated(place.path, kind, version, body))


def write_document(path: Path, kind: DocumentKind, body: Json, *, replace: bool = False) -> None:
    """Write a document of the newest version, mode 0600, completely or not at all. `FileFault` if that fails, or
    if the file exists and `replace` is not given."""
    content = {"format": kind.format, "version": kind.version, **body}
    write_atomically(path, json.dumps(content, indent=2).encode() + b"\n", replace=replace)


def read_private(path: Path, *, missing: str = "check the path, or make it with keygen or provision") -> bytes:
    """The bytes of a file that holds secrets. `missing`: what to do if it does not exist. `FileFault` if it is
    missing, not a regular file, larger than `MAX_SIZE`, or readable or writable by group or others."""
    try:
        # Non-blocking: opening a named pipe must not wait for someone to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileFault(path, "is not a regular file; give the right file")
            data = file.read(MAX_SIZE + 1)
            if stat.S_IMODE(status.st_mode) & 0o077:
                # Whoever names the wrong file by mistake must not be told to change that file's mode.
                if b'"groupcoap-' not in data:
                    raise FileFault(path, "is no file of groupcoap; give the right file")
                raise FileFault(path, f"holds secrets but is open to others; run: chmod 600 {path}")
    except FileNotFoundError:
        raise FileFault(path, f"does not exist; {missing}") from None
    except (OSError, ValueError) as error:
        raise FileFault(path, f"cannot be read ({describe(error)}); check the path and its mode") from None
    if len(data) > MAX_SIZE:
        raise FileFault(path, f"is larger than {MAX_SIZE} bytes; give the right file")
    return data


def _parse(data: bytes, place: Field) -> Json:
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        place.fault("is damaged (nested too deeply); restore it from a copy")
    except ValueError as error:
        place.fault(f"is damaged ({_one_line(error)}); restore it from a copy")
    if not isinstance(content, dict):
        place.fault("is damaged (not a JSON object); restore it from a copy")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a member stands twice in one object")
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _one_line(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}"
    return str(error).partition(";")[0]


def _migrated(path: Path, kind: DocumentKind, version: int, body: Json) -> Json:
    for step in range(version, kind.version):
        migrate = kind.migrations.get(step)
        if migrate is None:
            raise FileFault(path, f"is of version {step}, which is no longer read; provision it again")
        try:
            body = migrate(body)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise FileFault(path, f"is damaged (version {step}: {type(error).__name__} {error})") from None
    return body


def _shown(name: str) -> str:
    return ascii(name if len(name) <= MAX_TEXT else name[:MAX_TEXT] + "…")
