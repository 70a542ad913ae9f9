"""`groupcoap decode`: a datagram explained, verified and decrypted."""

from __future__ import annotations

import json
import re
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..files.provisioned import load_member
from .exits import Exit
from .explain import Explanation, Outcome, Row, explain, onlooker
from .text import printable

MAX_DATAGRAM = 65535
_STYLES = {Outcome.VERIFIED: "bold green", Outcome.REFUSED: "bold red", Outcome.NOT_TRIED: "bold yellow"}


def parse_hex(text: str) -> bytes:
    """Bytes from hex as tools print it: white space, colons and 0x in between do not matter.
    `click.BadParameter` if it is something else."""
    digits = re.sub(r"0[xX]|[\s:]", "", text)
    strange = re.search(r"[^0-9a-fA-F]", digits)
    if strange is not None:
        raise click.BadParameter(f"{strange.group()!r} is not a hex digit")
    if not digits or len(digits) % 2:
        raise click.BadParameter("an odd number of hex digits" if digits else "no hex digits")
    if len(digits) > 2 * MAX_DATAGRAM:
        raise click.BadParameter(f"more than the {MAX_DATAGRAM} bytes that a datagram may have")
    return bytes.fromhex(digits)


def _destination(text: str) -> bytes | None:
    """Packed multicast address, None for unicast."""
    try:
        address = ip_address(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an IP address") from None
    return address.packed if address.is_multicast else None


@click.command()
@click.argument("datagram", nargs=-1, required=True, metavar="HEX|-")
@click.option(
    "--member",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Whose keys: a device's directory or group file.",
)
@click.option("--request", type=parse_hex, metavar="HEX", help="The request that this response answers.")
@click.option(
    "--destination",
    metavar="ADDRESS",
    help="Address that a request was sent to.  [default: the group's, if it may have come by multicast]",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
@click.pass_context
def decode(
    ctx: click.Context,
    datagram: tuple[str, ...],
    member: Path | None,
    request: bytes | None,
    destination: str | None,
    as_json: bool,
) -> None:
    """Explain a datagram given in hex (- reads it from standard input; white space, colons and 0x do not matter):
    every field, then what is inside, verified and decrypted with the keys of --member, or why not.

    It is an onlooker's view: replays and a device's own messages are shown like any other. Nothing is changed.
    """
    data = _read(datagram)
    explanation = explain(
        data,
        None if member is None else onlooker(load_member(member)),
        destination=None if destination is None else _destination(destination),
        destination_known=destination is not None,
        request=request,
    )
    if as_json:
        click.echo(json.dumps(_json(explanation)))
    else:
        _show(explanation)
    complete = explanation.verdict.outcome is Outcome.VERIFIED or (
        member is None and explanation.verdict.outcome is Outcome.NOT_TRIED
    )
    ctx.exit(Exit.DONE if complete else Exit.INCOMPLETE)


def _read(datagram: tuple[str, ...]) -> bytes:
    text = " ".join(datagram)
    if text == "-":
        text = sys.stdin.buffer.read(16 * MAX_DATAGRAM).decode("ascii", "replace")
    return parse_hex(text)


def _json(explanation: Explanation) -> dict[str, Any]:
    verdict = explanation.verdict
    return {
        "sections": [
            {"title": section.title, "fields": [_json_row(row) for row in section.rows]}
            for section in explanation.sections
        ],
        "outcome": verdict.outcome.value,
        "reason": None if verdict.reason is None else verdict.reason.value,
        "text": verdict.text,
    }


def _json_row(row: Row) -> dict[str, Any]:
    data = {} if row.data is None else {"bytes": row.data.hex()}
    remark = {"remark": row.remark} if row.remark else {}
    return {"name": row.name, **data, "meaning": row.meaning, **remark}


def _show(explanation: Explanation) -> None:
    console = Console(highlight=False)
    if console.is_terminal:
        _show_rich(explanation, console)
    else:
        _show_plain(explanation)


def _show_plain(explanation: Explanation) -> None:
    for section in explanation.sections:
        click.echo(section.title)
        for row in section.rows:
            remark = f"  ({row.remark})" if row.remark else ""
            click.echo(printable(f"  {row.name}: {_shown(row)}{remark}"))
    click.echo(printable(explanation.verdict.text))


def _shown(row: Row) -> str:
    """Meaning and bytes, the latter unless they say no more."""
    if not row.data or row.data.hex() in row.meaning:
        return row.meaning
    return f"{row.meaning}  [{row.data.hex()}]" if row.meaning else row.data.hex()


def _show_rich(explanation: Explanation, console: Console) -> None:
    for section in explanation.sections:
        console.print(Text(section.title, style="bold underline"))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold", max_width=34, style="dim")
        table.add_column(overflow="fold")
        for row in section.rows:
            meaning = Text(printable(row.meaning))
            if row.remark:
                meaning.append(f"  {printable(row.remark)}", style="italic dim")
            data = "" if row.data is None else row.data.hex(" ")
            table.add_row(f"  {printable(row.name)}", Text(data), meaning)
        console.print(table)
        console.print()
    console.print(Text(printable(explanation.verdict.text), style=_STYLES[explanation.verdict.outcome]))
