"""How things from elsewhere are shown on a terminal: on one line, with nothing in it that a terminal would obey."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def payload_text(payload: bytes, limit: int | None = None) -> str:
    """A payload on one line: as text if it is UTF-8, else in hex. What is longer than `limit` characters is cut,
    with its length in bytes behind it."""
    try:
        shown = printable(payload.decode())
    except UnicodeDecodeError:
        shown = f"0x{payload.hex()}"
    if limit is not None and len(shown) > limit:
        return f"{shown[:limit]}… ({len(payload)} bytes)"
    return shown


def plural(count: int, noun: str) -> str:
    """`1 answer`, `2 answers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
