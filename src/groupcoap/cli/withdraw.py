"""`groupcoap withdraw`: a device that is not to be trusted any more."""

from __future__ import annotations

from pathlib import Path

import click

from .operator import manager_option, ordered, say_when


@click.command()
@click.argument("device")
@manager_option
def withdraw(directory: Path, device: str) -> None:
    """Take DEVICE out of all groups, which get new keys without it, and refuse to speak to it: it was stolen, or
    whoever has it is not to be trusted. Its credential file is worth nothing then.

    `groupcoap grant` takes it back, with the same file.
    """
    result, running = ordered(directory, "withdraw", device=device)
    groups = ", ".join(result["groups"])
    click.echo(f"{device} is withdrawn" + (f"; new keys without it in {groups}" if groups else ""))
    say_when(running or not groups)
