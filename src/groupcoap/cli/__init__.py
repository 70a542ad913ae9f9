"""The command line: a table of commands, each imported only when it is used, and the one place where errors become
a line on standard error and an exit code.

A command is a `click.Command` with the name of its module. It ends by returning, by `ctx.exit(code)`, or by an
error of `groupcoap.errors`.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

import click

COMMANDS = {
    "demo": "See it work: a switch dims a room of lamps, live.",
    "keygen": "Make the identity of a device: its private key and credential.",
    "provision": "Make the files of a static group, or add one to existing devices.",
    "listen": "Be a small device (light, sensor) in its groups.",
    "send": "Send a request to a group and show who answers.",
    "decode": "Explain a datagram or a capture, verify and decrypt what is in it.",
    "checker": "Export what tells who made a group's messages, and reads none.",
    "check": "Find out why nothing comes, and what to do about it.",
    "vectors": "Check this implementation against test vectors.",
    "bench": "Measure the core and the collection of answers.",
    "manager": "Make a Group Manager, run it, back it up.",
    "group": "Make groups at a Group Manager, and change them.",
    "enroll": "Let devices join groups: one credential file for each.",
    "grant": "Let a device that is enrolled join one more group.",
    "devices": "Who is enrolled, and for what.",
    "withdraw": "Take a device out of everything, for good.",
    "members": "Who is in a group, and who is behind.",
    "evict": "Take a device out of a group: new keys for the others.",
    "rekey": "Give a group new keys now.",
    "status": "How the groups of a Group Manager are.",
    "audit": "What has happened at a Group Manager.",
    "join": "On a device: join its groups.",
    "leave": "On a device: leave a group.",
}
"""Name, also of the module and of the attribute in it, and what `--help` says; in the order of a first visit."""

MANAGED = tuple(name for index, name in enumerate(COMMANDS) if index >= list(COMMANDS).index("manager"))
"""Those that are about groups with a Group Manager."""

_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What writing to standard output fails with. Any other `OSError` that comes up to here is a mistake of ours."""

EPILOG = (
    "Exit codes: 0 done, 1 incomplete, 2 usage, 3 bad file, 4 state locked, 5 network, 6 database, 7 refused; "
    "130 interrupted."
)


class _Commands(click.Group):
    """A group of commands that are not imported before they are used, nor for the list of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = f"{__name__}.{cmd_name}"
        try:
            command: click.Command = getattr(import_module(module), cmd_name)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise click.UsageError(f"the command {cmd_name!r} is not part of this installation") from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        managed = [(name, text) for name, text in COMMANDS.items() if name in MANAGED]
        others = [(name, text) for name, text in COMMANDS.items() if name not in MANAGED]
        for heading, commands in (("Commands", others), ("With a Group Manager", managed)):
            with formatter.section(heading):
                formatter.write_dl(commands)


def _show_version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from .. import __version__

        click.echo(f"groupcoap {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
def program() -> None:
    """Secure group communication for CoAP: one protected multicast request, many verified answers.

    Start with `groupcoap demo`.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (default: the process's); returns its exit code. Whatever was wrong
    stands on standard error, on one line."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 — for as long as the process lives
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a letter is no reason to fail
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more; what Python flushes at exit must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS:
            raise
        _complain(f"cannot write the output: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        from .exits import Exit

        return Exit.BAD_FILE
    return code


def _run(arguments: list[str]) -> int:
    try:
        result = program.main(arguments, prog_name="groupcoap", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        return _usage(error)
    except (click.Abort, KeyboardInterrupt):
        from .exits import Exit

        return Exit.INTERRUPTED
    except Exception as error:
        # Imported here because `--help` must not wait for it.
        from ..errors import GroupcoapError
        from .exits import exit_code

        if not isinstance(error, GroupcoapError):
            raise
        _complain(str(error))
        return exit_code(error)


def _usage(error: click.ClickException) -> int:
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        click.echo(error.format_message(), err=True)
        return error.exit_code
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" (see: {context.command_path} --help)" if context is not None else ""
    _complain(error.format_message() + hint)
    return error.exit_code


def _complain(text: str) -> None:
    from .text import printable

    line = printable(" ".join(text.split()))
    click.echo(f"groupcoap: {line}", err=True)
