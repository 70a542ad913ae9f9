"""`groupcoap members`: who is in a group."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.text import Text

from .operator import ago, asked, console, json_option, manager_option, roles_text, show_json, table
from .text import plural


@click.command()
@click.argument("group")
@manager_option
@json_option
def members(directory: Path, group: str, as_json: bool) -> None:
    """Show who is a member of GROUP, and who has not confirmed the newest keys yet (behind)."""
    result = asked(directory, "members", group=group)
    if as_json:
        show_json(result)
        return
    found = result["members"]
    if not found:
        click.echo(f"nobody is a member of {group}; devices join with: groupcoap join DIR")
        return
    shown = table("device", "role", "Endpoint ID", "joined", "confirmed")
    now = time.time()
    for member in found:
        confirmed = f"{ago(now - member['confirmed_at'])}" if member["confirmed_at"] is not None else "never"
        behind = f"behind: has renewal {member['confirmed_num']}" if member["confirmed_num"] >= 0 else "behind"
        shown.add_row(
            Text(member["device"]),
            roles_text(member["roles"]),
            member["endpoint_id"] if member["endpoint_id"] is not None else "–",
            ago(now - member["joined"]),
            Text(behind, "yellow") if member["behind"] else Text(confirmed),
        )
    console().print(shown)
    count = sum(member["behind"] for member in found)
    late = f", {count} behind" if count else ""
    click.echo(f"{plural(len(found), 'member')}, renewal {result['num']}{late}")
