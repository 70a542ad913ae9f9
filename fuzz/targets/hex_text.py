"""Hex as tools print it, and text as a terminal may have it (cli/decode.py, cli/text.py)."""

from __future__ import annotations

import click

from groupcoap.cli.decode import parse_hex
from groupcoap.cli.text import payload_text, printable


def check(data: bytes) -> None:
    """`click.BadParameter`, or the bytes that are written there. What is shown has no control characters."""
    text = data.decode("utf-8", "surrogateescape")
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert payload_text(data).isprintable()
    assert len(payload_text(data, limit=10)) <= 10 + len(f"… ({len(data)} bytes)")
    try:
        found = parse_hex(text)
    except click.BadParameter:
        return
    assert found
    assert parse_hex(found.hex()) == parse_hex(found.hex(":")) == parse_hex("0x" + found.hex(" ")) == found
