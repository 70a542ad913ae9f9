"""`groupcoap check`: why nothing comes, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import os
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import click

from ..diagnosis import Finding, Level, diagnose
from ..endpoint.network import Address, NetworkOptions
from .exits import Exit
from .network import network_options
from .text import plural, printable

WIDTH = 80
"""Columns of the output; only commands, which are to be copied, may be longer."""

_LEVEL, _CHECK = 9, 13  # columns, with what stands between
_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


@click.command()
@click.argument("member", type=click.Path(path_type=Path))
@network_options
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Own UDP port to answer from, 0 for any free one.  [default: the group's, if it listens]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def check(
    ctx: click.Context,
    member: Path,
    interface: str | None,
    bind: Address | None,
    hop_limit: int,
    port: int | None,
    as_json: bool,
) -> None:
    """Find out why nothing comes, or why a device does not start: look at the files of MEMBER, which is a device's
    directory or one group file in it, at its state, the network and this host, and say what to do. Give the options
    that `listen` or `send` is given.

    It changes nothing, and the device may run meanwhile. It joins and leaves the group's multicast addresses, which
    the system announces as it does for `listen`; the empty message that it sends to them stays on this machine.
    Exit code 0 if there is no problem (warnings do not count), 1 otherwise.
    """
    findings = asyncio.run(_diagnosis(member, NetworkOptions(interface, bind, port, hop_limit), show=not as_json))
    counts = Counter(finding.level for finding in findings)
    healthy = not counts[Level.PROBLEM]
    if as_json:
        click.echo(json.dumps(_json(member, findings, healthy), ensure_ascii=False))
    else:
        problems, warnings = plural(counts[Level.PROBLEM], "problem"), plural(counts[Level.WARNING], "warning")
        click.echo(f"{problems}, {warnings}, {counts[Level.OK]} ok")
    ctx.exit(Exit.DONE if healthy else Exit.INCOMPLETE)


async def _diagnosis(member: Path, options: NetworkOptions, *, show: bool) -> list[Finding]:
    """All findings; each is shown as it comes."""
    findings = []
    async for finding in diagnose(member, options):
        findings.append(finding)
        if show:
            click.echo(_line(finding), color=False if "NO_COLOR" in os.environ else None)
    return findings


def _line(finding: Finding) -> str:
    """Level, check and what was found; what to do about it below, and the command on a line of its own."""
    level = click.style(f"{finding.level.value:<{_LEVEL}}", fg=_COLOURS[finding.level])
    indent = " " * (_LEVEL + _CHECK)
    texts = [f"{finding.check:<{_CHECK}}{finding.found}"]
    if finding.advice:
        texts.append(f"{'':<{_CHECK}}> {finding.advice}")
    wrapped = [
        textwrap.fill(
            printable(text),
            WIDTH,
            initial_indent=" " * _LEVEL,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for text in texts
    ]
    if finding.command:
        wrapped.append(f"{indent}$ {printable(finding.command)}")
    return level + "\n".join(wrapped)[_LEVEL:]


def _json(member: Path, findings: list[Finding], healthy: bool) -> dict[str, Any]:
    return {
        "member": str(member),
        "healthy": healthy,
        "findings": [
            {
                "check": finding.check,
                "level": finding.level.value,
                "found": finding.found,
                "advice": finding.advice or None,
                "command": finding.command or None,
            }
            for finding in findings
        ],
    }
