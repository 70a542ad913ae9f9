"""`groupcoap status`: how a manager's groups are."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from ..files.documents import Json
from ..manager.control import ask, is_running
from ..manager.home import ManagerHome
from .exits import Exit
from .operator import ago, console, json_option, manager_at, manager_option, show_json, some, table
from .text import plural, printable

PAUSE = 1.0
"""Seconds between two looks."""


@click.command()
@click.option("--watch", is_flag=True, help="Keep showing it, until Ctrl-C.")
@manager_option
@json_option
@click.pass_context
def status(ctx: click.Context, directory: Path, watch: bool, as_json: bool) -> None:
    """Show a manager's groups: state, members, who is behind, when and why keys were renewed last, and alarms.

    Exit code 1 if there is an alarm. With --json, one object; with --watch too, one a line each second.
    """
    home = manager_at(directory)
    found, running = _look(home)
    if not watch:
        show_json({**found, "running": running}) if as_json else console().print(_shown(found, running))
        ctx.exit(Exit.INCOMPLETE if any(group["alarm"] for group in found["groups"]) else Exit.DONE)
    try:
        _watch(home, found, running, as_json)
    except KeyboardInterrupt:
        ctx.exit(Exit.DONE)


def _look(home: ManagerHome) -> tuple[Json, bool]:
    running = is_running(home)
    return ask(home, "status"), running


def _watch(home: ManagerHome, found: Json, running: bool, as_json: bool) -> None:
    screen = console()
    with ExitStack() as stack:
        live = None
        if screen.is_terminal and not as_json:
            live = stack.enter_context(Live(console=screen, auto_refresh=False))
        while True:
            if as_json:
                show_json({**found, "running": running})
            elif live is not None:
                live.update(_shown(found, running), refresh=True)
            else:
                screen.print(_shown(found, running))
            sys.stdout.flush()
            time.sleep(PAUSE)
            # While it does not run, nothing changes, and its database must be free for it to start.
            running = is_running(home)
            if running:
                found = ask(home, "status")


def _shown(found: Json, running: bool) -> RenderableType:
    head = f"manager {printable(found['name'])}: " + ("running" if running else "not running")
    head += f", {plural(found['devices'], 'device')} enrolled"
    if "associations" in found:
        head += f", {plural(found['associations'], 'association')}"
    if not found["groups"]:
        return Group(Text(head), Text("no groups yet: groupcoap group create NAME --address ADDRESS"))
    now = time.time()
    shown = table("group", "state", "num", "members", "behind", "last renewal")
    alarms = []
    for group in found["groups"]:
        behind = group["behind"]
        shown.add_row(
            Text(group["name"]),
            Text(group["state"], "red" if group["alarm"] else "" if group["state"] == "active" else "yellow"),
            str(group["num"]),
            str(group["members"]),
            Text(f"{len(behind)}: {some(behind)}", "yellow") if behind else Text("nobody"),
            Text(_renewal(group, now)),
        )
        if group["alarm"]:
            alarms.append(Text(f"ALARM {group['name']}: {printable(group['alarm'])}", "bold red"))
    return Group(Text(head), shown, *alarms)


def _renewal(group: Json, now: float) -> str:
    renewal = group["renewal"]
    if renewal is None:
        return "none yet"
    under_way = "" if renewal["finished"] is not None else ", under way"
    return f"{ago(now - renewal['started'])}: {printable(renewal['reason'])}{under_way}"
