"""`groupcoap join`: a device joins its groups."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from ..endpoint.network import Address, NetworkOptions
from ..errors import GroupcoapError, MisuseError
from ..member.enrolment import ENROLMENT_FILE, Enrolment, load_enrolment, save_enrolment
from ..member.membership import ManagedMembership
from ..membership import GroupConfiguration, Role
from .device import JOIN_PATIENCE, explained, hushed, refuse_no_group
from .network import Seconds, network_options, resolve
from .operator import read_roles, some
from .text import printable

Wanted = tuple[str, frozenset[Role] | None]
"""A group, and the roles in it if they were said."""


def _wanted(text: str) -> Wanted:
    group, equals, roles = text.partition("=")
    return group, read_roles(roles) if equals else None


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("groups", nargs=-1, type=_wanted, metavar="[GROUP[=ROLE]]…")
@network_options
@click.option(
    "--timeout",
    type=Seconds(0, 3600, min_open=True),
    default=JOIN_PATIENCE,
    show_default=True,
    metavar="SECONDS",
    help="How long to try. Who joins waits until the present members have new keys.",
)
def join(
    directory: Path,
    groups: tuple[Wanted, ...],
    interface: str | None,
    bind: Address | None,
    hop_limit: int,
    timeout: float,
) -> None:
    """Join the groups of the device in DIR, where its enrolment.json is, or some of them, and say what it is there.
    `listen` and `send` do it by themselves.

    GROUP=ROLE joins one that the file does not name, or in other roles than it says, where `groupcoap grant` has
    allowed that.
    """
    path = directory / ENROLMENT_FILE
    before = load_enrolment(path)
    after = _with(before, groups)
    refuse_no_group(directory, after)
    if after != before:
        save_enrolment(path, after, replace=True)
    names = [name for name, _ in groups] or list(after.groups)
    network = resolve(interface, bind, hop_limit)
    try:
        with hushed():
            joined = asyncio.run(_joined(directory, names, network, timeout))
    except BaseException as problem:
        if after != before:
            save_enrolment(path, before, replace=True)
        if isinstance(problem, GroupcoapError):
            raise explained(problem, after) from None
        raise
    for configuration in joined:
        click.echo(_shown(configuration))


def _with(enrolment: Enrolment, groups: Sequence[Wanted]) -> Enrolment:
    said = {name: roles for name, roles in groups if roles is not None}
    for name, _ in groups:
        if name not in enrolment.groups and name not in said:
            known = ", ".join(enrolment.groups) or "none"
            raise MisuseError(f"{enrolment.device} was not enrolled for {name!r} but {known}; say {name}=ROLE")
    return replace(enrolment, groups={**enrolment.groups, **said})


async def _joined(
    directory: Path, names: Sequence[str], network: NetworkOptions, timeout: float
) -> Sequence[GroupConfiguration]:
    async with ManagedMembership(directory, network, groups=names) as membership:
        await membership.ready(timeout)
        membership.open_state().close()  # begun now, so that what comes next goes on with it
        return membership.groups()


def _shown(group: GroupConfiguration) -> str:
    epoch = group.current
    own = "a pure listener" if epoch.own_id is None else f"Endpoint ID {epoch.own_id.hex() or '(empty)'}"
    others = [member.name for member in epoch.members if member.endpoint_id != epoch.own_id]
    there = f"others known: {some(others)}" if others else "nobody else known yet"
    return f"{printable(group.name)}: joined, {own}, Gid {epoch.gid.hex()}, {there}"
