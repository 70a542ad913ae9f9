"""`groupcoap checker`: what an external signature checker needs of a group."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ..errors import MisuseError
from ..files.checker import CheckedGroup, checked_group, save_checker
from ..files.provisioned import load_member
from ..membership import GroupConfiguration
from .text import printable


@click.command()
@click.argument("member", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The new file."
)
def checker(member: Path, output: Path) -> None:
    """Export what it takes to verify the countersignatures of a group, and nothing that it could be read with: for
    a gateway that lets only authentic messages pass, or for `groupcoap decode --checker FILE`.

    MEMBER is the directory of any device in the group, pure listeners too, or one group file in it. The group's
    profile must be group-oscore. FILE holds the Signature Encryption Key and is readable by you alone; it is good
    until the group is renewed. Messages in pairwise mode have no countersignature and cannot be checked.
    """
    group = checked_group(_only_group(member))
    save_checker(output, group)
    for line in _lines(group, output):
        click.echo(printable(line))


def _only_group(member: Path) -> GroupConfiguration:
    files = load_member(member)
    if len(files.groups) > 1:
        names = ", ".join(path.name for path in files.paths)
        raise MisuseError(f"{member} is in several groups: give one of its group files, {names}")
    return files.groups[0]


def _lines(group: CheckedGroup, output: Path) -> tuple[str, ...]:
    parameters = group.parameters
    members = ", ".join(f"{member.name} ({member.endpoint_id.hex() or 'empty id'})" for member in group.members)
    return (
        f"group       {group.name}, Gid {group.gid.hex()}",
        f"signatures  {parameters.signature.name}, over messages in {parameters.encryption.name}",
        f"members     {members}",
        f"file        {output}  (holds a key that lays signatures open, none that decrypts: keep it)",
        f"try         groupcoap decode CAPTURE --checker {shlex.quote(str(output))}",
    )
