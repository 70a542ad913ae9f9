"""`groupcoap vectors`: this implementation against test vectors."""

from __future__ import annotations

from pathlib import Path

import click

from ..vectors import check_file
from .exits import Exit
from .text import printable


@click.group()
def vectors() -> None:
    """Check this implementation against test vectors (files of the form groupcoap-vectors-1)."""


@vectors.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.pass_context
def verify(ctx: click.Context, files: tuple[Path, ...]) -> None:
    """Run every vector of each FILE; name those that fail, then count."""
    passed = failed = 0
    for path in files:
        for outcome in check_file(path):
            if outcome.problem is None:
                passed += 1
                continue
            failed += 1
            where = f"{path.name}: " if len(files) > 1 else ""
            click.echo(printable(f"{where}{outcome.name}: {outcome.problem}"))
    click.echo(f"{passed} passed, {failed} failed")
    ctx.exit(Exit.INCOMPLETE if failed else Exit.DONE)
