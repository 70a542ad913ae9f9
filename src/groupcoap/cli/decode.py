"""`groupcoap decode`: a datagram, or all those of a capture, explained, verified and decrypted."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..capture.frames import MAGIC_SIZE, is_capture
from ..errors import FileFault, MisuseError
from ..files.atomic import describe
from ..files.checker import load_checker
from ..files.keylog import read_key_log
from ..files.provisioned import load_member
from ..membership import COAP_PORT
from .captures import Capture
from .exits import Exit
from .explain import Explanation, Outcome, Row, explain
from .known import Keys
from .onlooker import Onlooker, onlooker
from .sightings import STYLES, JsonLines, Lines
from .text import printable

MAX_DATAGRAM = 65535
STANDARD_INPUT = Path("standard input")


_SEPARATORS = re.compile(r"0[xX]|[\s:]")


def _strange_digit(text: str) -> str | None:
    """A character that does not belong into hex."""
    strange = re.search(r"[^0-9a-fA-F]", _SEPARATORS.sub("", text))
    return None if strange is None else strange.group()


def parse_hex(text: str) -> bytes:
    """Bytes from hex as tools print it: white space, colons and 0x in between do not matter.
    `click.BadParameter` if it is something else."""
    digits = _SEPARATORS.sub("", text)
    strange = _strange_digit(text)
    if strange is not None:
        raise click.BadParameter(f"{strange!r} is not a hex digit")
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


def _keys(members: Sequence[Path], key_logs: Sequence[Path], checkers: Sequence[Path]) -> Onlooker | None:
    keys: list[Keys] = [(path, group) for path in members for group in load_member(path).groups]
    keys += [(path, group) for path in key_logs for group in read_key_log(path)]
    keys += [(path, load_checker(path)) for path in checkers]
    return onlooker(keys) if members or key_logs or checkers else None


@click.command()
@click.argument("datagram", nargs=-1, required=True, metavar="HEX|FILE|-")
@click.option(
    "--member",
    "members",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    help="Whose keys: a device's directory or group file. May be given several times.",
)
@click.option(
    "--key-log",
    "key_logs",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Keys that `listen --key-log` or `send --key-log` has written. May be given several times.",
)
@click.option(
    "--checker",
    "checkers",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="What `groupcoap checker` has made: says who has made a message, without reading it. May be given several "
    "times.",
)
@click.option("--request", type=parse_hex, metavar="HEX", help="The request that this response answers.")
@click.option(
    "--destination",
    metavar="ADDRESS",
    help="Address that a request was sent to.  [default: the group's, if it may have come by multicast]",
)
@click.option(
    "--port",
    "ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    metavar="N",
    help=f"Where CoAP is spoken in a capture.  [default: {COAP_PORT} and the ports of the groups]",
)
@click.option(
    "--frame", type=click.IntRange(1), metavar="N", help="Explain the datagram in this frame of a capture."
)
@click.option("--json", "as_json", is_flag=True, help="JSON: one line; of a capture, one for each datagram.")
@click.pass_context
def decode(
    ctx: click.Context,
    datagram: tuple[str, ...],
    members: tuple[Path, ...],
    key_logs: tuple[Path, ...],
    checkers: tuple[Path, ...],
    request: bytes | None,
    destination: str | None,
    ports: tuple[int, ...],
    frame: int | None,
    as_json: bool,
) -> None:
    """Explain a datagram given in hex (- reads it from standard input; white space, colons and 0x do not matter):
    every field, then what is inside, verified and decrypted with the keys of --member or --key-log, or why not.
    What two devices say to each other in pairwise mode takes the --member of one of them; with --checker it is said
    who has made a message, and no more.

    Or look into a capture (FILE, or - too; pcap or pcapng, as tcpdump and Wireshark write them): one line for each
    CoAP datagram, answers found for their requests, then a summary. --frame explains one of them.

    It is an onlooker's view: replays and a device's own messages are shown like any other. Nothing is changed.
    Exit code 1 if a message is refused, or neither decrypted nor verified although keys were given, or if a capture
    shows a nonce used twice or lacks part of what may be a message; 0 otherwise, also where no keys were given.
    """
    with ExitStack() as stack:
        given = _given(datagram, stack)
        if isinstance(given, str):
            if ports or frame is not None:
                raise MisuseError("--port and --frame are for captures; give a capture file")
            view = _keys(members, key_logs, checkers)
            ctx.exit(_decode_one(parse_hex(given), view, request, destination, as_json))
        if request is not None or destination is not None:
            raise MisuseError("--request and --destination are for a datagram in hex; a capture has them in it")
        view = _keys(members, key_logs, checkers)
        capture = Capture(given.file, given.path, view, ports, given.magic)
        if frame is not None:
            ctx.exit(_present(capture.explain(frame), view, as_json))
        summary = capture.show(JsonLines() if as_json else Lines(view))
        ctx.exit(Exit.DONE if summary.complete else Exit.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class _File:
    """An open capture file; `magic`: what has been read of it already."""

    file: BinaryIO
    path: Path
    magic: bytes


def _given(arguments: tuple[str, ...], stack: ExitStack) -> str | _File:
    """Hex digits, or a capture that is open until the stack is left."""
    text = " ".join(arguments)
    if text == "-":
        magic = sys.stdin.buffer.read(MAGIC_SIZE)
        if is_capture(magic):
            return _File(sys.stdin.buffer, STANDARD_INPUT, magic)
        return (magic + sys.stdin.buffer.read(16 * MAX_DATAGRAM)).decode("ascii", "replace")
    strange = _strange_digit(text)
    if not ("." in text or "/" in text or (strange and os.path.exists(text))):
        if strange and len(text.split()) == 1:
            raise click.BadParameter(
                f"{_beginning(text)!r} is neither hex nor a file: {strange!r} is not a hex digit"
            )
        return text
    path = Path(text)
    try:
        file = stack.enter_context(path.open("rb"))
        magic = file.read(MAGIC_SIZE)
    except FileNotFoundError:
        raise FileFault(path, "does not exist; check the path") from None
    except (OSError, ValueError) as error:
        raise FileFault(path, f"cannot be read ({describe(error)}); check the path and its mode") from None
    if magic and not is_capture(magic) and _strange_digit(magic.decode("latin-1")) is None:
        raise FileFault(path, f"is no capture file; hex from a file: groupcoap decode - < {path}")
    return _File(file, path, magic)


def _beginning(text: str) -> str:
    """As much of a mistyped argument as fits into a line."""
    return text if len(text) <= 60 else text[:60] + "…"


def _decode_one(
    data: bytes, view: Onlooker | None, request: bytes | None, destination: str | None, as_json: bool
) -> Exit:
    explanation = explain(
        data,
        view,
        destination=None if destination is None else _destination(destination),
        destination_known=destination is not None,
        request=request,
    )
    return _present(explanation, view, as_json)


def _present(explanation: Explanation, view: Onlooker | None, as_json: bool) -> Exit:
    if as_json:
        click.echo(json.dumps(_json(explanation)))
    else:
        _show(explanation)
    outcome = explanation.verdict.outcome
    complete = outcome.authentic or (view is None and outcome is Outcome.NOT_TRIED)
    return Exit.DONE if complete else Exit.INCOMPLETE


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
    console.print(Text(printable(explanation.verdict.text), style=STYLES[explanation.verdict.outcome]))
