"""`groupcoap keygen`: the identity of a device."""

from __future__ import annotations

from pathlib import Path

import click

from ..cose.credentials import CredentialKind
from ..errors import MisuseError
from ..files.documents import MAX_TEXT
from ..files.identity import IDENTITY_FILE, generate_identity, save_identity
from .names import SIGNATURES

_RAW, _CCS = CredentialKind.RAW_KEY.value, CredentialKind.CCS.value


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
@click.option(
    "--credential",
    type=click.Choice([_RAW, _CCS]),
    default=_RAW,
    show_default=True,
    help="What others know the device by: its public key alone, or a CWT Claims Set that says whose it is and what "
    "for. Groups of group-oscore have ccs; a raw one is put into a Claims Set there.",
)
def keygen(file: Path, name: str | None, algorithm: str, credential: str) -> None:
    """Make the identity of a device, in a new FILE that only you can read (default: identity.json).

    Nothing overwrites that file, and nobody else needs its private key. `groupcoap provision --identity FILE=ROLE`
    makes the device a member of a group.
    """
    signature = SIGNATURES[algorithm]
    checked = checked_name(name or file.resolve().parent.name)
    identity = generate_identity(checked, signature, claims=credential == _CCS)
    save_identity(file, identity)
    click.echo(f"identity    {identity.name}")
    click.echo(f"algorithm   {signature.name}")
    click.echo(f"public key  {identity.private_key.public_key.data.hex()}")
    if credential == _CCS:
        click.echo(f"credential  {_CCS} {identity.credential.data.hex()}")
    click.echo(f"file        {file}  (holds the private key: keep it)")


def checked_name(name: str) -> str:
    """The name, if files will take it. `MisuseError` otherwise."""
    if not 0 < len(name) <= MAX_TEXT or not name.isprintable():
        raise MisuseError(f"{name!r} is no name for a device; give another with --name")
    return name
