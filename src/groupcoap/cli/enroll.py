"""`groupcoap enroll`: devices that may join groups."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.text import Text

from ..errors import EnvironmentFault, FileFault, MisuseError
from ..files.atomic import describe
from ..files.documents import Json, write_document
from ..manager.control import ask
from ..manager.home import ManagerHome
from ..manager.settings import check_name
from ..member.enrolment import ENROLMENT_FILE, KIND
from ..membership import Role
from .operator import (
    console,
    manager_at,
    manager_option,
    read_right,
    read_roles,
    right_text,
    role_names,
    table,
)
from .text import plural, printable

COLUMNS = ("device", "group", "roles", "note")
OUT = Path("devices")
_DIRECTORY_MODE = 0o700


@dataclass(slots=True)
class Candidate:
    """A device that is to be enrolled."""

    name: str
    rights: dict[str, frozenset[Role]] = field(default_factory=dict)
    note: str = ""

    def add(self, group: str, roles: frozenset[Role]) -> None:
        """One more group. `MisuseError` if it is named already."""
        if group in self.rights:
            raise MisuseError(f"{self.name} and {group} stand there twice; write roles with + between them")
        self.rights[group] = roles


@click.command()
@click.argument("device", required=False)
@click.option(
    "--group",
    "rights",
    multiple=True,
    type=read_right,
    metavar="NAME=ROLE[+ROLE]",
    help="A group that it may join, and as what: multicaster, listener, both or pure-listener. May be repeated.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Many at once: CSV with the columns device,group,roles and, if there are any, note; one line for each "
    "group of a device.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=OUT,
    show_default=True,
    metavar="DIR",
    help="Each gets its file in DIR/DEVICE.",
)
@click.option(
    "--again",
    is_flag=True,
    help="A new file for a DEVICE that is enrolled: its former one was lost, or seen, and is of no use any more.",
)
@click.option("--note", default="", metavar="TEXT", help="For people: where it is, whose it is.")
@manager_option
def enroll(
    directory: Path,
    device: str | None,
    rights: tuple[tuple[str, frozenset[Role]], ...],
    source: Path | None,
    out: Path,
    note: str,
    again: bool,
) -> None:
    """Let DEVICE join groups: it gets one small file, enrolment.json, with which it joins them and stays in them by
    itself. Carry that file to the device, and to no other; nothing overwrites it.

    \b
    One device:
      groupcoap enroll lamp-1 --group room=listener --out devices
    Many, all of them or none:
      groupcoap enroll --from devices.csv --out devices
    One whose file was lost:
      groupcoap enroll lamp-1 --again --out new
    """
    if (device is None) == (source is None):
        raise MisuseError("name one DEVICE, or many with --from FILE")
    home = manager_at(directory)
    if again:
        _again(home, device, rights, note, out)
        return
    if source is not None:
        if rights or note:
            raise MisuseError("--group and --note go with one DEVICE; with --from they stand in the file")
        candidates = _from_file(source, home)
    else:
        assert device is not None
        candidates = [_named(device, rights, note)]
    paths: list[Path] = []
    try:
        paths += (_prepared(out / candidate.name) for candidate in candidates)
        result = ask(
            home,
            "enroll",
            devices=[
                {
                    "device": candidate.name,
                    "rights": {group: role_names(roles) for group, roles in candidate.rights.items()},
                    "note": candidate.note,
                }
                for candidate in candidates
            ],
        )
    except BaseException:
        for directory in (*(out / candidate.name for candidate in candidates), out):
            with suppress(OSError):
                os.rmdir(directory)  # if it is empty
        raise
    _write(paths, result["enrolments"])
    _show(candidates, paths)


def _again(
    home: ManagerHome, device: str | None, rights: tuple[tuple[str, frozenset[Role]], ...], note: str, out: Path
) -> None:
    if device is None or rights or note:
        raise MisuseError("--again goes with one DEVICE, and nothing else changes: see grant")
    path = _prepared(out / check_name(device, "device"))
    try:
        result = ask(home, "enroll_again", device=device)
    except BaseException:
        with suppress(OSError):
            os.rmdir(path.parent)  # if it is empty
        raise
    _write([path], result["enrolments"])
    console().print(f"{device} has a new file, {path}; the former one is of no use any more", markup=False)


def _named(device: str, rights: tuple[tuple[str, frozenset[Role]], ...], note: str) -> Candidate:
    if not rights:
        raise MisuseError("say what it may join, and as what: --group NAME=ROLE")
    candidate = Candidate(check_name(device, "device"), note=note)
    for group, roles in rights:
        candidate.add(group, roles)
    return candidate


# ---- many


def _from_file(path: Path, home: ManagerHome) -> list[Candidate]:
    """The devices in this file. `FileFault`, naming the line, if one cannot be enrolled."""
    groups = {group["name"] for group in ask(home, "groups")["groups"]}
    enrolled = {known["device"] for known in ask(home, "devices")["devices"]}
    found: dict[str, Candidate] = {}
    for number, row in _rows(path):
        with _at(path, number):
            name, group = row["device"], row["group"]
            if name in enrolled:
                raise MisuseError(f"{name} is enrolled already; groupcoap grant lets it join more groups")
            if group not in groups:
                raise MisuseError(f"there is no group {group!r}; there is {', '.join(sorted(groups)) or 'none'}")
            candidate = found.setdefault(name, Candidate(check_name(name, "device")))
            candidate.add(group, read_roles(row["roles"]))
            candidate.note = candidate.note or row.get("note", "")
    if not found:
        raise FileFault(path, "there is no device in it")
    return list(found.values())


@contextmanager
def _at(path: Path, number: int) -> Iterator[None]:
    """Say which line a mistake is on."""
    try:
        yield
    except (MisuseError, click.BadParameter) as problem:
        text = problem.message if isinstance(problem, click.BadParameter) else str(problem)
        raise FileFault(path, f"line {number}: {text}; nobody was enrolled") from None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip() for name in next(reader, [])]
            if names not in (list(COLUMNS), list(COLUMNS[:3])):
                raise FileFault(path, f"line 1: must be {','.join(COLUMNS[:3])} or {','.join(COLUMNS)}")
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(names):
                    count = plural(len(cells), "column")
                    raise FileFault(path, f"line {reader.line_num}: {count} instead of {len(names)}")
                yield reader.line_num, dict(zip(names, (cell.strip() for cell in cells), strict=True))
    except (OSError, ValueError) as error:
        what = describe(error) if isinstance(error, OSError) else "not UTF-8"
        raise FileFault(path, f"cannot be read ({what}); give a CSV file") from None
    except csv.Error as error:
        raise FileFault(path, f"line {reader.line_num}: is no CSV ({error})") from None


# ---- their files


def _prepared(directory: Path) -> Path:
    """Where a device's file goes: seen to before anybody is enrolled, since its secret is told once. `FileFault` if
    it is there, or could not be written."""
    path = directory / ENROLMENT_FILE
    if os.path.lexists(path):
        raise FileFault(path, "exists already; nobody was enrolled: choose another --out, or remove it")
    try:
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise FileFault(directory, f"cannot be used ({describe(error)}); nobody was enrolled") from None
    return path


def _write(paths: Sequence[Path], enrolments: Sequence[Json]) -> None:
    for index, (path, enrolment) in enumerate(zip(paths, enrolments, strict=True)):
        try:
            write_document(path, KIND, enrolment)
        except FileFault as fault:
            names = ", ".join(one["device"] for one in enrolments[index:])
            raise EnvironmentFault(
                f"{fault}; {names}: enrolled, but without a file: withdraw them, and enroll them under other names"
            ) from None


def _show(candidates: Sequence[Candidate], paths: Sequence[Path]) -> None:
    shown = table("device", "may join", "file")
    for candidate, path in zip(candidates, paths, strict=True):
        rights = " ".join(right_text(group, roles) for group, roles in candidate.rights.items())
        shown.add_row(Text(printable(candidate.name)), Text(rights), Text(str(path)))
    console().print(shown)
    click.echo("Each file holds a secret that only this device may have: carry it there, and leave no copy.")
    click.echo("On the device: groupcoap join DIR --interface NAME, or listen and send, which join by themselves.")
