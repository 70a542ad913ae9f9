"""What the audience sees: headings, sentences, tables. Plain text where it does not go to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from textwrap import wrap

from rich.console import Console
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

from .anatomy import CIPHERTEXT, OSCORE, SECURITY, SIGNATURE, Part

PLAIN_WIDTH = 100
_INDENT = 3
_COLOURS = {SECURITY: "yellow", OSCORE: "yellow", CIPHERTEXT: "green", SIGNATURE: "cyan"}
_BYTES_PER_LINE = 16


class Stage:
    """The console, and how things are put on it."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else PLAIN_WIDTH
        self._console = Console(highlight=False, width=width)
        self._step = 0

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def step(self, text: str) -> None:
        """A new part of the story."""
        self._step += 1
        self.title(f"{self._step}  {text}")

    def say(self, text: str) -> None:
        """A sentence."""
        self._put_text("", "", text)

    def command(self, text: str) -> None:
        """What somebody types."""
        self._put_text("$ ", "bold", text, "bold")

    def good(self, text: str) -> None:
        """Something that was checked and is as it should be."""
        self._put_text("✓ ", "bold green", text)

    def bad(self, text: str) -> None:
        """Something that is not."""
        self._put_text("✗ ", "bold red", text)

    def quote(self, lines: Iterable[str]) -> None:
        """What a lamp said."""
        for line in lines:
            self._put_text("  ", "", line, "dim")

    def verbatim(self, text: str) -> None:
        """A line that is never broken, such as a command to be copied."""
        self._console.print(Text(text), soft_wrap=True)

    def waiting(self, text: str) -> Status:
        """Something that takes a moment: shown as long as the context manager is open, on a terminal only."""
        return self._console.status(text)

    def parts(self, parts: Sequence[Part]) -> None:
        """A datagram taken apart."""
        table = _table()
        table.add_column("layer", no_wrap=True)
        table.add_column("bytes", justify="right", no_wrap=True)
        table.add_column("hex", no_wrap=True)
        table.add_column("what it is")
        before = None
        for part in parts:
            layer = part.layer if part.layer != before else ""
            style = _COLOURS.get(part.layer, "")
            table.add_row(layer, str(len(part.data)), _hex(part.data), part.meaning, style=style)
            before = part.layer
        self._put_table(table)

    def rows(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table of text."""
        table = _table(*heads)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._put_table(table)

    def _put_table(self, table: Table) -> None:
        self._console.print()
        self._console.print(Padding(table, (0, 0, 0, _INDENT), expand=False))
        self._console.print()

    def _put_text(self, mark: str, mark_style: str, text: str, style: str = "") -> None:
        """Text behind a mark, all of its lines indented equally."""
        indent = " " * (_INDENT + len(mark))
        lines = wrap(text, max(self._console.width - len(indent), 20), break_long_words=False)
        head = Text(" " * _INDENT) + Text(mark, style=mark_style)
        self._console.print(head + Text(f"\n{indent}".join(lines), style=style), soft_wrap=True)


def _table(*heads: str) -> Table:
    return Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def _hex(data: bytes) -> str:
    lines = (data[at : at + _BYTES_PER_LINE] for at in range(0, len(data), _BYTES_PER_LINE))
    return "\n".join(line.hex(" ", -4) for line in lines)
