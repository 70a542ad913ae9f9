"""`groupcoap demo`: the whole thing at work, on this machine alone."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.policy import PROFILES, profile_by_name
from ..demo.processes import ProcessFailed
from ..demo.room import GROUP, INTERFACE, Room, reserve_port
from ..demo.show import Show
from ..demo.stage import Stage
from ..demo.switch import ShowFailed
from ..errors import GroupcoapError
from .exits import Exit
from .text import plural, printable

MAX_LAMPS = 100
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--lamps", type=click.IntRange(1, MAX_LAMPS), default=8, show_default=True, help="How many.")
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default=MULTICAST_OSCORE_04.name,
    show_default=True,
    help="The wire format: of the draft, or today's standard.",
)
@click.option("--keep", is_flag=True, help="Leave the lamps running, to try things by hand, until Ctrl-C.")
@click.pass_context
def demo(ctx: click.Context, lamps: int, profile: str, keep: bool) -> None:
    """Show it at work: a Group Manager lets a switch and lamps join, each a process of its own; the switch dims the
    lamps with real multicast that stays on this machine; then attacks, which fail, a lamp that does, one that is
    evicted, and one that sleeps while keys are renewed.

    Exit code 0 only if all of it happened.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: nothing is left behind
        signal.signal(number, signal.default_int_handler)
    stage = Stage()
    with (
        closing(reserve_port()) as one,
        closing(reserve_port()) as other,
        TemporaryDirectory(prefix="groupcoap-demo-") as directory,
    ):
        ports = one.getsockname()[1], other.getsockname()[1]
        room = Room(Path(directory), lamps, profile_by_name(profile), *ports)
        try:
            ctx.exit(asyncio.run(_run(stage, room, keep)))
        except asyncio.CancelledError:
            ctx.exit(Exit.INTERRUPTED)


async def _run(stage: Stage, room: Room, keep: bool) -> Exit:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in _SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    began = time.monotonic()
    count = plural(len(room.lamps), "lamp")
    stage.title(f"A switch and {count}, at {room.address} on the loopback interface: nothing leaves this machine")
    if room.profile is not MULTICAST_OSCORE_04:
        stage.say("They speak Group OSCORE, today's standard, in its group mode and its pairwise mode.")
    show = Show(stage, room)
    async with AsyncExitStack() as stack:
        try:
            await show.start(stack)
            await show.perform(stack)
        except (GroupcoapError, ShowFailed, ProcessFailed) as error:
            stage.bad(printable(str(error)))
            stage.title("Not all of it happened.")
            return Exit.INCOMPLETE
        stage.title(f"All of it happened, in {time.monotonic() - began:.1f} s.")
        if keep:
            await _keep(stage, room, show)
        else:
            stage.say("Try it by hand: groupcoap demo --keep. A group of your own: groupcoap manager init --help")
    return Exit.DONE


async def _keep(stage: Stage, room: Room, show: Show) -> None:
    """Until a signal comes: say what can be tried, and what the first lamp says to it."""
    stop = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stage.title("The lamps go on until Ctrl-C. Try, in another terminal:")
    for command in _commands(room, show):
        stage.verbatim(f"  {command}")
    lamp = show.lamps[0]
    stage.title(f"What {lamp.name} says:")
    follow = asyncio.create_task(_follow(stage, show))
    await stop.wait()
    follow.cancel()


async def _follow(stage: Stage, show: Show) -> None:
    lamp = show.lamps[0]
    seen = len(lamp.lines)
    try:
        while True:
            stage.quote([await lamp.expect(lambda line: True, seen, None, "go on")])
            seen += 1
    except ProcessFailed as ended:
        stage.bad(printable(str(ended)))


def _commands(room: Room, show: Show) -> list[str]:
    switch = shlex.quote(str(room.switch.directory))
    light = f"coap://{room.address}/light"
    by = f"--member {switch} --interface {INTERFACE}"
    first, last = show.lamps[0], show.lamps[-1]
    alone = f"--to {first.name}={first.host}:{room.address.port}"
    manager = f"--manager {shlex.quote(str(room.manager))}"
    return [
        f"{_program()} send get {light} {by}",
        f"{_program()} send put {light} --payload 10 {by}",
        *([f"{_program()} send put {light} --payload 5 {alone} {by}"] if room.profile.rules.pairwise else []),
        f"{_program()} send observe {light} {by}",
        f"{_program()} members {GROUP} {manager}",
        f"{_program()} rekey {GROUP} {manager}",
        f"{_program()} evict {GROUP} {last.name} {manager}",
    ]


def _program() -> str:
    """How this program is started from any terminal: by its path if it is in a virtual environment, which need not
    be active there."""
    script = Path(sys.executable).parent / "groupcoap"
    if sys.prefix == sys.base_prefix:
        return "groupcoap"
    return shlex.quote(str(script)) if script.exists() else f"{shlex.quote(sys.executable)} -m groupcoap"
