"""What the operator's commands have in common: which manager they speak to, and how they say what came of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import FileFault
from ..files.documents import Json
from ..manager.control import ask, is_running
from ..manager.home import CONFIGURATION, ManagerHome
from ..membership import Role
from .names import ROLES
from .text import printable

VARIABLE = "GROUPCOAP_MANAGER"
DEFAULT = "manager"

_WIDE = 1000

_Command = TypeVar("_Command", bound=Callable[..., Any])


def manager_option(command: _Command) -> _Command:
    """Adds --manager, which is given as `directory`."""
    return click.option(
        "--manager",
        "directory",
        type=click.Path(path_type=Path),
        envvar=VARIABLE,
        default=DEFAULT,
        metavar="DIR",
        help=f"The manager's directory; it may be running or not.  [default: ${VARIABLE}, else ./{DEFAULT}]",
    )(command)


def json_option(command: _Command) -> _Command:
    """Adds --json, which is given as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")(command)


def manager_at(directory: Path) -> ManagerHome:
    """The manager in this directory. `FileFault` if there is none."""
    if not os.path.exists(directory / CONFIGURATION):
        raise FileFault(
            directory,
            f"is no manager's directory; name one with --manager or ${VARIABLE}; groupcoap manager init makes one",
        )
    return ManagerHome.load(directory)


def asked(directory: Path, name: str, **arguments: Any) -> Json:
    """Have the manager in this directory do something: see `ask`."""
    return ask(manager_at(directory), name, **arguments)


def ordered(directory: Path, name: str, **arguments: Any) -> tuple[Json, bool]:
    """The same for what members have to learn of; and whether the manager runs, so that they do at once."""
    home = manager_at(directory)
    running = is_running(home)
    return ask(home, name, **arguments), running


def say_when(running: bool) -> None:
    """Where the manager does not run: that members are not told yet."""
    if not running:
        click.echo("the manager does not run: its members are told when it is started (groupcoap manager serve)")


def show_json(body: object) -> None:
    """One line of JSON."""
    click.echo(json.dumps(body, ensure_ascii=False))


def table(*columns: str) -> Table:
    """As all tables are."""
    return Table(*columns, box=box.SIMPLE_HEAD)


def console() -> Console:
    """Where tables are shown. A pipe is as wide as it takes."""
    made = Console(highlight=False, soft_wrap=True)
    return made if made.is_terminal else Console(highlight=False, soft_wrap=True, width=_WIDE)


def roles_text(names: Iterable[str]) -> str:
    """Roles by the names that files have, as people read them."""
    return ", ".join(printable(name) for name in names)


def read_roles(text: str) -> frozenset[Role]:
    """`ROLE` or `ROLE+ROLE`. `click.BadParameter` if it is none."""
    found: frozenset[Role] = frozenset()
    for part in text.split("+"):
        if part.strip() not in ROLES:
            raise click.BadParameter(f"{part.strip()!r} is no role; roles: {', '.join(ROLES)}, with + between two")
        found |= ROLES[part.strip()]
    if {Role.LISTENER, Role.PURE_LISTENER} <= found:
        raise click.BadParameter(f"{text!r}: a pure listener is no listener that responds")
    return found


def read_right(text: str) -> tuple[str, frozenset[Role]]:
    """`GROUP=ROLE[+ROLE]`. `click.BadParameter` if it is not that."""
    group, _, roles = text.rpartition("=")
    if not group:
        raise click.BadParameter(f"{text!r} is not GROUP=ROLE; roles: {', '.join(ROLES)}, with + between two")
    return group, read_roles(roles)


def role_names(roles: frozenset[Role]) -> list[str]:
    """As `operations` takes them."""
    return [role.value for role in Role if role in roles]


def right_text(group: str, roles: frozenset[Role]) -> str:
    """As `read_right` reads it."""
    return f"{group}={'+'.join(name for name, one in ROLES.items() if len(one) == 1 and one <= roles)}"


def moment(seconds: float) -> str:
    """A moment, in seconds since 1970, as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def ago(seconds: float) -> str:
    """How long ago something was."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def some(names: Iterable[str], most: int = 5) -> str:
    """The first of these names, and how many more there are."""
    shown = [printable(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
