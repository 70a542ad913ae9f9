"""`groupcoap leave`: a device leaves a group."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import click

from ..endpoint.network import Address, NetworkOptions
from ..errors import GroupcoapError, MisuseError
from ..member.enrolment import ENROLMENT_FILE, load_enrolment, save_enrolment
from ..member.membership import ManagedMembership
from .device import explained, hushed, is_kept
from .network import network_options, resolve
from .operator import right_text


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("group")
@network_options
def leave(directory: Path, group: str, interface: str | None, bind: Address | None, hop_limit: int) -> None:
    """Leave GROUP, and keep none of its keys. The manager is told, and gives the others new ones if the group wants
    that. The device may come back with `groupcoap join DIR GROUP=ROLE`.
    """
    path = directory / ENROLMENT_FILE
    enrolment = load_enrolment(path)
    roles = enrolment.groups.get(group)
    if roles is None or not is_kept(directory, [group]):
        raise MisuseError(f"{enrolment.device} is no member of {group!r}")
    network = resolve(interface, bind, hop_limit)
    try:
        with hushed():
            asyncio.run(_leave(directory, group, network))
    except GroupcoapError as problem:
        raise explained(problem, enrolment) from None
    others = {name: other for name, other in enrolment.groups.items() if name != group}
    save_enrolment(path, replace(enrolment, groups=others), replace=True)
    click.echo(f"{enrolment.device} has left {group}; to come back: groupcoap join DIR {right_text(group, roles)}")


async def _leave(directory: Path, group: str, network: NetworkOptions) -> None:
    async with ManagedMembership(directory, network, groups=[group]) as membership:
        await membership.leave(group)
