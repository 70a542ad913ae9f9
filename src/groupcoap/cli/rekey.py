"""`groupcoap rekey`: new keys for a group."""

from __future__ import annotations

from pathlib import Path

import click

from .operator import manager_option, ordered, say_when


@click.command()
@click.argument("group")
@click.option("--why", default="by hand", metavar="TEXT", help="For status and the audit.")
@manager_option
def rekey(directory: Path, group: str, why: str) -> None:
    """Give all members of GROUP new keys now. They take them up while the group works.

    A device that missed it catches up by itself; `groupcoap status` says who has not done so yet.
    """
    result, running = ordered(directory, "rekey", group=group, why=why)
    click.echo(f"{group}: renewal {result['num']}, Gid {result['gid']}")
    say_when(running)
