"""`groupcoap bench`: how fast it is, with the goals beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module

import click

from .network import Seconds

Figures = Mapping[str, Mapping[str, float]]
Goals = Mapping[str, Mapping[str, tuple[str, float]]]


@click.group()
def bench() -> None:
    """Measure the core and the collection of answers."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option(
    "--rounds", type=click.IntRange(min=1), help="How often everything is measured (default: 10 to 20 s)."
)
@click.option(
    "--profile",
    type=click.Choice(["multicast-oscore-04", "group-oscore"]),
    default="multicast-oscore-04",
    show_default=True,
    help="The wire format.",
)
def protect(as_json: bool, rounds: int | None, profile: str) -> None:
    """What protecting and verifying cost beyond their cryptography.

    us: microseconds for one message in the core; floor_us: its AEAD and signature calls alone, with the HKDF calls
    that encrypt the signature where it is; ratio: one over the other. message_ratio: from aiocoap's message to a
    datagram, or back, over the floor. aiocoap_ratio: aiocoap's Group OSCORE over that. decrypt_only: verifying
    without the signature, aead_calls: in calls of the AEAD. pairwise_verify: verifying in pairwise mode, from a
    datagram to aiocoap's message."""
    from ..bench import protect as measurement
    from ..core.policy import profile_by_name

    figures = measurement.run(rounds or measurement.DEFAULT_ROUNDS, profile_by_name(profile))
    _show(figures, measurement.GOALS[profile], as_json)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def collect(as_json: bool) -> None:
    """How many verified answers one call collects in a second, beside a bare socket with the same core.

    rate, bare_rate: answers of 100 listeners in a second; ratio: the one over the other.
    """
    measurement = import_module("groupcoap.bench.collect")
    _show(measurement.run(), {"collect": {"ratio": ("≥", 0.6)}}, as_json)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option(
    "--rounds", type=click.IntRange(min=1), help="How often the drops are measured (default: a few seconds)."
)
@click.option("--seconds", type=Seconds(0.1, 60), help="How long each of seven floods lasts (default: 2).")
def flood(as_json: bool, rounds: int | None, seconds: float | None) -> None:
    """What a flood costs a listener, and how members are served meanwhile. All of it stays on this machine.

    us: microseconds to drop one datagram; parse_us: of its parsing alone, aead_us: of the AEAD call alone;
    above_parse_us, ratio: the one against the others. served: part of a member's requests that is answered during a
    flood at full speed, delivered: that reaches the resource; dropped_per_second: by the process, beyond what the
    kernel keeps back; one_core: flooder and listener share a processor core.
    """
    from ..bench import flood as measurement

    figures = measurement.run(rounds or measurement.DEFAULT_ROUNDS, seconds or measurement.DEFAULT_SECONDS)
    _show(figures, measurement.GOALS, as_json)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option(
    "--size",
    "sizes",
    type=click.IntRange(3, 1_000_000),
    multiple=True,
    metavar="N",
    help="Members of the group; may be given several times (default: 100, 10000 and 100000; half a minute).",
)
def rekey(as_json: bool, sizes: tuple[int, ...]) -> None:
    """What it costs the Group Manager when one member leaves, by rekeying scheme and size of the group.

    encryptions: keys to be encrypted, each once, as RFC 2627 counts; messages, bytes: as they leave, several keys
    in each; ms: milliseconds from the decision to the last message, durable in between, the median of five leaves
    where all goes by multicast. lkh-2, lkh-4: key trees of arity 2 and 4.
    """
    from ..bench import rekey as measurement

    figures = measurement.run(sizes or measurement.SIZES)
    if as_json:
        click.echo(json.dumps(figures))
        return
    rows = {f"{name}, n = {int(n):,}": values for name, by_size in figures.items() for n, values in by_size.items()}
    _print_table(rows, {})


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--rounds", type=click.IntRange(min=1), help="How often everything is measured (default: 3).")
def join(as_json: bool, rounds: int | None) -> None:
    """How many joins the Group Manager makes durable in a second, beside what the disk gives.

    commits_per_second: bare durable transactions of one row on the same disk (SQLite, WAL, synchronous FULL).
    single_ratio: joins one after the other, each with its own commit, over that; concurrent_ratio: 64 at a time,
    which share commits. A join is everything but the network: parsing, proof of possession, Endpoint ID, rows,
    audit, commit, response."""
    from ..bench import join as measurement

    figures = measurement.run(rounds or measurement.ROUNDS)
    goals = {"join": {"single_ratio": ("≥", 0.1), "concurrent_ratio": ("≥", 0.5)}}
    if as_json:
        click.echo(json.dumps(figures))
    else:
        _print_table({"join": figures}, goals)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option(
    "--devices", type=click.IntRange(1, 1000), default=100, show_default=True, metavar="N", help="How many."
)
def fleet(as_json: bool, devices: int) -> None:
    """How long it takes until many devices have joined a group, from nothing but their credential files.

    enroll_seconds: making these files, from a list; join_seconds: until the last one has its keys and has said so,
    all starting at once; renewals: how many it took. The manager is a process of its own, the devices are in
    another."""
    from ..bench import fleet as measurement

    figures = measurement.run(devices)
    if as_json:
        click.echo(json.dumps(figures))
    else:
        _print_table({"fleet": figures}, {"fleet": {"join_seconds": ("≤", 60.0), "renewals": ("≤", 2.0)}})


def _show(figures: Figures, goals: Goals, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(figures))
    else:
        _print_table(figures, goals)


def _print_table(figures: Figures, goals: Goals) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", "measured", "goal", box=None)
    table.columns[2].justify = "right"
    for name, values in figures.items():
        for figure, value in values.items():
            relation, bound = goals.get(name, {}).get(figure, ("", 0.0))
            met = not relation or (value <= bound if relation == "≤" else value >= bound)
            goal = f"{relation} {bound:g}" if relation else ""
            table.add_row(name, figure, f"{value:,}", goal if met else f"{goal}  missed")
    Console().print(table)
