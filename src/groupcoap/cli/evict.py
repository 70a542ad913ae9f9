"""`groupcoap evict`: a device out of a group."""

from __future__ import annotations

from pathlib import Path

import click

from .operator import manager_option, ordered, say_when


@click.command()
@click.argument("group")
@click.argument("device")
@click.option("--why", default="", metavar="TEXT", help="For the audit.")
@manager_option
def evict(directory: Path, group: str, device: str, why: str) -> None:
    """Take DEVICE out of GROUP, and its right to join it: the others get new keys, and nobody listens to it any
    more. `groupcoap grant` lets it come back; `withdraw` takes a device out of everything.
    """
    result, running = ordered(directory, "evict", group=group, device=device, why=why)
    if not result["was_member"]:
        click.echo(f"{device} is no member of {group}, and may not join it any more")
        return
    click.echo(f"{device} is evicted from {group}; the others get new keys, renewal {result['num']}")
    say_when(running)
