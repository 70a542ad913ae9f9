"""One target under atheris: `python -m fuzz.engine TARGET …`, with libFuzzer's arguments. The runner starts it; a
process for each target, since libFuzzer ends the process when it is done."""

from __future__ import annotations

import sys
from shlex import quote

import atheris

from .targets import TARGETS

_SELF = f"{quote(sys.executable)} -m fuzz.engine {{}}"
"""What libFuzzer puts into a shell to start itself again, which it does to merge corpora."""


def main(name: str, *arguments: str) -> None:
    """Instrument the package, and run the target until libFuzzer is done."""
    with atheris.instrument_imports(include=["groupcoap"]):
        check = TARGETS[name].load()
    atheris.Setup([_SELF.format(name), *arguments], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
