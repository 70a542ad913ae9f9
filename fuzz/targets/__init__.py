"""What is fuzzed. Every module here has one function, `check(data)`, which returns if all is well and raises
otherwise: what it promises is in its docstring. A check keeps nothing from one input to the next."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final, NamedTuple

Check = Callable[[bytes], None]


class Target(NamedTuple):
    """A module of this package, and how it is run.

    `share`: its part of all inputs, in thousandths or so; the fast ones have more. `longest`: bytes of an input."""

    name: str
    share: int
    longest: int

    def load(self) -> Check:
        """The module's `check`."""
        check: Check = import_module(f"{__name__}.{self.name}").check
        return check


TARGETS: Final = {
    target.name: target
    for target in (
        Target("datagram", 250, 160),
        Target("option", 250, 129),
        Target("splitting", 150, 160),
        Target("messages", 50, 160),
        Target("blocks", 40, 96),
        Target("requests", 25, 257),
        Target("responses", 20, 256),
        Target("checker", 15, 256),
        Target("insider", 6, 256),
        Target("endpoint", 8, 384),
        Target("identity_file", 8, 256),
        Target("group_file", 4, 256),
        Target("state_file", 4, 256),
        Target("vector_file", 8, 256),
        Target("credentials", 20, 512),
        Target("keying", 60, 256),
        Target("addresses", 50, 96),
        Target("hex_text", 85, 128),
        Target("explanation", 10, 256),
        Target("capture", 10, 384),
        Target("key_log", 5, 256),
    )
}
