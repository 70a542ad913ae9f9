"""The option of `listen` and `send` that writes a key log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def key_log_option(command: _Command) -> _Command:
    """Adds --key-log."""
    option = click.option(
        "--key-log",
        type=click.Path(path_type=Path),
        envvar="GROUPCOAP_KEY_LOG",
        show_envvar=True,
        metavar="FILE",
        help="Add the groups' keys to this file, for `decode` to look into captures with: keep it secret. Pairwise "
        "mode takes more than that.",
    )
    return option(command)
