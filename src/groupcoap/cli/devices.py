"""`groupcoap devices`: who is enrolled."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from .operator import asked, console, json_option, manager_option, moment, roles_text, show_json, table
from .text import printable


@click.command()
@manager_option
@json_option
def devices(directory: Path, as_json: bool) -> None:
    """Show who is enrolled, and what for: groups that a device may join, and those that it is in (*)."""
    found = asked(directory, "devices")["devices"]
    if as_json:
        show_json(found)
        return
    if not found:
        click.echo("nobody is enrolled; do it with: groupcoap enroll DEVICE --group NAME=ROLE")
        return
    shown = table("device", "groups", "enrolled", "note")
    for device in found:
        groups = {name: roles_text(roles) for name, roles in device["rights"].items()}
        groups |= {name: "no right to come back" for name in device["member_of"] if name not in groups}
        text = "; ".join(f"{name}{'*' * (name in device['member_of'])}: {roles}" for name, roles in groups.items())
        withdrawn = device["withdrawn"]
        shown.add_row(
            Text(device["device"]),
            Text(f"withdrawn {moment(withdrawn)}", "red") if withdrawn is not None else Text(text or "none"),
            moment(device["enrolled"]),
            Text(printable(device["note"])),
        )
    console().print(shown)
