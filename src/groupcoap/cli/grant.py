"""`groupcoap grant`: what a device may join."""

from __future__ import annotations

from pathlib import Path

import click

from .operator import asked, manager_option, read_roles, right_text, role_names


@click.command()
@click.argument("device")
@click.argument("group")
@click.argument("roles", nargs=-1, required=True, metavar="ROLE…")
@manager_option
def grant(directory: Path, device: str, group: str, roles: tuple[str, ...]) -> None:
    """Let DEVICE, which is enrolled, join GROUP in these roles, instead of those it might have had there. ROLE is
    multicaster, listener, both or pure-listener.

    A device that was withdrawn or evicted can come back so. One that is in the group already has its new roles when
    it joins again.
    """
    chosen = read_roles("+".join(roles))
    asked(directory, "grant", device=device, group=group, roles=role_names(chosen))
    click.echo(f"{device} may join {group}")
    click.echo(f"at the device: groupcoap join DIR {right_text(group, chosen)} --interface NAME")
