"""`groupcoap audit`: what has happened at a manager."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .operator import asked, json_option, manager_option, moment, show_json
from .text import printable


@click.command()
@click.option("--group", metavar="NAME", help="Of this group alone.")
@click.option("--device", metavar="NAME", help="Of this device alone.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="The newest N.")
@manager_option
@json_option
def audit(directory: Path, group: str | None, device: str | None, limit: int, as_json: bool) -> None:
    """Show who did what when, the newest first: the operator, devices, and the manager by itself."""
    entries = asked(directory, "audit", limit=limit, group=group, device=device)["entries"]
    for entry in entries:
        detail = entry.get("detail") or {}
        if isinstance(detail, str):
            detail = json.loads(detail)
        if as_json:
            show_json({**entry, "detail": detail})
            continue
        where = [entry[name] for name in ("grp", "group", "device") if entry.get(name)]
        said = ", ".join(f"{name} {_text(value)}" for name, value in detail.items() if value not in ("", None))
        line = f"{moment(entry['time'])}  {entry['actor']:<8}  {entry['event']}  {' '.join(where)}"
        click.echo(printable(line + (f"  ({said})" if said else "")))


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
