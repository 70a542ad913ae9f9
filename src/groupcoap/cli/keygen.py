"""`groupcoap keygen`: the identity of a device."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import MisuseError
from ..files.documents import MAX_TEXT
from ..files.identity import IDENTITY_FILE, generate_identity, save_identity
from .names import SIGNATURES


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=IDENTITY_FILE)
@click.option("--name", help="What people call the device.  [default: the name of the file's directory]")
@click.option(
    "--algorithm",
    type=click.Choice(list(SIGNATURES)),
    default="eddsa",
    show_default=True,
    help="Of its signatures; the same for all members of a group.",
)
def keygen(file: Path, name: str | None, algorithm: str) -> None:
    """Make the identity of a device, in a new FILE that only you can read (default: identity.json).

    Nothing overwrites that file, and nobody else needs its private key. `groupcoap provision --identity FILE=ROLE`
    makes the device a member of a group.
    """
    signature = SIGNATURES[algorithm]
    identity = generate_identity(checked_name(name or file.resolve().parent.name), signature)
    save_identity(file, identity)
    click.echo(f"identity    {identity.name}")
    click.echo(f"algorithm   {signature.name}")
    click.echo(f"public key  {identity.private_key.public_key.data.hex()}")
    click.echo(f"file        {file}  (holds the private key: keep it)")


def checked_name(name: str) -> str:
    """The name, if files will take it. `MisuseError` otherwise."""
    if not 0 < len(name) <= MAX_TEXT or not name.isprintable():
        raise MisuseError(f"{name!r} is no name for a device; give another with --name")
    return name
