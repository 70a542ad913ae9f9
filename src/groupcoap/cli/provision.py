"""`groupcoap provision`: the files of a static group."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.policy import profile_by_name
from ..core.profile import Profile
from ..errors import MisuseError
from ..files.identity import load_identity
from ..files.provisioning import DevicePlan, ProvisionedDevice, ProvisionedGroup
from ..files.provisioning import provision as make_files
from ..files.renewal import Renewal, RenewedDevice, groups_in, profiles_of
from ..files.renewal import renew as renew_groups
from ..membership import GroupAddress, Role
from .group_options import address_option, algorithms_text, given, make_plan, plan_options, spelt
from .names import ROLES

MAX_DEVICES = 10_000
"""Devices that are made at once, at most."""

_COUNT = click.IntRange(0)


def _with_role(text: str) -> tuple[str, str]:
    """`SOMETHING=ROLE`, as (something, role)."""
    what, _, role = text.rpartition("=")
    if not what or role not in ROLES:
        raise click.BadParameter(f"{text!r} does not end in =ROLE; roles: {', '.join(ROLES)}")
    return what, role


def _device_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--join",
            multiple=True,
            type=_with_role,
            metavar="NAME=ROLE",
            help="A device that is in DIR already, and not running: it gets this group in addition.",
        ),
        click.option(
            "--identity",
            multiple=True,
            type=_with_role,
            metavar="FILE=ROLE",
            help="A device whose identity keygen has made: FILE is copied into its directory; the other devices "
            "get its public part alone.",
        ),
        click.option("--device", multiple=True, type=_with_role, metavar="NAME=ROLE", help="A device of any name."),
        click.option(
            "--pure-listeners", type=_COUNT, metavar="N", help="Pure listeners, which never answer: panel-1, …"
        ),
        click.option("--lamps", type=_COUNT, metavar="N", help="Listeners lamp-1, lamp-2, …"),
        click.option("--switches", type=_COUNT, metavar="N", help="Multicasters switch-1, switch-2, …"),
    ):
        command = option(command)
    return command


def _group_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--manager",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="group-oscore: the identity of the group's manager, to which its messages are bound: one that "
            "keygen has made, or that another group has.  [default: a new one, in DIR/NAME.manager.json]",
        ),
        plan_options(profile_default=f"with --join that of the devices' groups, else {MULTICAST_OSCORE_04.name}"),
        address_option(default=("224.0.1.187",), show_default=True),
        click.option("--group", "name", default="room", show_default=True, metavar="NAME", help="Its name."),
    ):
        command = option(command)
    return command


def _renewal_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--evict",
            multiple=True,
            metavar="NAME",
            help="With --renew: a device that gets no new keys; nobody will listen to it any more.",
        ),
        click.option(
            "--renew",
            is_flag=True,
            help="Give the groups in DIR (or the one named by --group) new keys. Running devices take them up by "
            "themselves; one whose run-time state was lost or copied can take part again.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@_group_options
@_device_options
@_renewal_options
@click.pass_context
def provision(
    ctx: click.Context,
    /,
    directory: Path,
    name: str,
    addresses: tuple[GroupAddress, ...],
    profile: str | None,
    manager: Path | None,
    switches: int | None,
    lamps: int | None,
    pure_listeners: int | None,
    device: tuple[tuple[str, str], ...],
    identity: tuple[tuple[str, str], ...],
    join: tuple[tuple[str, str], ...],
    renew: bool,
    evict: tuple[str, ...],
    **_of_plan: object,
) -> None:
    """Make the files of a static group: in DIR, which must be empty or not exist, one directory per device, to be
    carried to that device. All of them are made, or none.

    Without any device named: one switch and three lamps. ROLE is multicaster, listener, both or pure-listener.

    \b
    A group of your own:
      groupcoap provision home --group room --switches 1 --lamps 3
    A second group of the same devices:
      groupcoap provision home --group all --address 224.0.1.188 \\
          --join switch-1=multicaster --join lamp-1=listener
    New keys for everybody but a lamp that was stolen:
      groupcoap provision home --renew --evict lamp-2
    A group that speaks today's standard, with devices of others too:
      groupcoap provision home --profile group-oscore
    """
    if renew:
        _refuse_others(ctx)
        chosen = [name] if given(ctx, "name") else groups_in(directory)
        _show_renewal(renew_groups(directory, chosen, evict=evict), evict)
        return
    if evict:
        raise MisuseError("--evict goes with --renew")
    counts = _counts(switches, lamps, pure_listeners, device, identity, join)
    if sum(count for _, _, count in counts) > MAX_DEVICES:
        raise MisuseError(f"at most {MAX_DEVICES} devices are made at once")
    devices = [
        *(DevicePlan(name, ROLES[role]) for kind, role, n in counts for name in _numbered(directory, kind, n)),
        *(DevicePlan(name, ROLES[role]) for name, role in device),
        *(_with_identity(Path(path), role) for path, role in identity),
        *(DevicePlan(name, ROLES[role], existing=True) for name, role in join),
    ]
    chosen_profile = _joined_profile(directory, join) if profile is None else profile_by_name(profile)
    plan = make_plan(ctx, ctx.params, chosen_profile, name, addresses)
    _show(make_files(directory, plan, devices, None if manager is None else load_identity(manager)))


def _joined_profile(directory: Path, join: tuple[tuple[str, str], ...]) -> Profile:
    """What the devices that join speak already; the draft's if there are none."""
    known = profiles_of(directory, [name for name, _ in join]) or {MULTICAST_OSCORE_04}
    if len(known) > 1:
        names = " and ".join(sorted(profile.name for profile in known))
        raise MisuseError(f"the devices that --join are in groups of {names}; say which with --profile")
    return next(iter(known))


_WITH_RENEW = frozenset({"directory", "name", "renew", "evict"})


def _refuse_others(ctx: click.Context) -> None:
    """`MisuseError` if there is an option that a renewal does not know."""
    for parameter in ctx.command.params:
        if parameter.name is not None and parameter.name not in _WITH_RENEW and given(ctx, parameter.name):
            raise MisuseError(f"{spelt(ctx, parameter)} does not go with --renew: only --group and --evict do")


def _counts(
    switches: int | None, lamps: int | None, pure_listeners: int | None, *named: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str, int], ...]:
    if switches is lamps is pure_listeners is None and not any(named):
        switches, lamps = 1, 3
    return (
        ("switch", "multicaster", switches or 0),
        ("lamp", "listener", lamps or 0),
        ("panel", "pure-listener", pure_listeners or 0),
    )


def _numbered(directory: Path, kind: str, count: int) -> Iterator[str]:
    """The first names of this kind that are free."""
    names = (f"{kind}-{number}" for number in itertools.count(1))
    return itertools.islice((name for name in names if not os.path.lexists(directory / name)), count)


def _with_identity(path: Path, role: str) -> DevicePlan:
    if ROLES[role] == {Role.PURE_LISTENER}:
        raise MisuseError("a pure listener needs no identity: name it with --device NAME=pure-listener")
    identity = load_identity(path)
    return DevicePlan(identity.name, ROLES[role], identity)


def _show(made: ProvisionedGroup) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table("device", "role", "Endpoint ID", "files", box=box.SIMPLE_HEAD)
    for device in made.devices:
        endpoint_id = "–" if device.endpoint_id is None else device.endpoint_id.hex()
        files = f"{device.directory}" + ("  (group added)" if device.existing else "")
        table.add_row(Text(device.name), _roles(device), endpoint_id, Text(files))
    addresses = ", ".join(str(address) for address in made.plan.addresses)
    plan = made.plan
    console.print(Text(f"group {plan.name}, Gid {made.gid.hex()}, at {addresses}"))
    console.print(Text(f"{plan.profile.name}: {algorithms_text(plan.parameters(None), plan.policy.response_mode)}"))
    console.print(table)
    if made.manager is not None:
        console.print(Text(f"the group's manager: {made.manager} (keep it; no device needs it)"))
    console.print("These files hold secret keys: keep them readable by yourself alone.")
    _suggest(console, made)


def _roles(device: ProvisionedDevice) -> str:
    return ", ".join(role.value for role in Role if role in device.roles)


def _suggest(console: Console, made: ProvisionedGroup) -> None:
    listener = next(d for d in made.devices if d.roles & {Role.LISTENER, Role.PURE_LISTENER})
    sender = next(d for d in made.devices if Role.MULTICASTER in d.roles)
    group = "" if not any(d.existing for d in made.devices) else f"/{made.plan.name}.group.json"
    uri = f"coap://{made.plan.addresses[0]}/light"
    listening, sending = (shlex.quote(f"{device.directory}{group}") for device in (listener, sender))
    commands = (
        f"groupcoap listen {listening} --interface lo",
        f"groupcoap send get {shlex.quote(uri)} --member {sending} --interface lo",
    )
    console.print("\nTry next, in two terminals on this machine (elsewhere name your network's interface):")
    for command in commands:
        console.print(Text(f"  {command}", style="bold"))


def _show_renewal(renewal: Renewal, evict: tuple[str, ...]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for group in renewal.groups:
        console.print(Text(f"group {group.name}: Gid {group.gid.hex()} takes the place of {group.before.hex()}"))
        if group.evicted:
            console.print(Text(f"evicted: {', '.join(group.evicted)}"))
    evicted = {name for group in renewal.groups for name in group.evicted}
    before = ", ".join(name for name in dict.fromkeys(evict) if name not in evicted)
    if before:
        console.print(Text(f"{before}: evicted before, and no member any more"))
    table = Table("device", "groups", "what happens now", box=box.SIMPLE_HEAD)
    for device in renewal.devices:
        table.add_row(Text(device.name), Text(", ".join(device.groups)), Text(_what_happens(device)))
    console.print(table)
    console.print(
        "To a device that is elsewhere carry its group files alone; its whole directory only if its state was lost "
        "there."
    )


def _what_happens(device: RenewedDevice) -> str:
    if device.running:
        return "is running, and takes it up by itself"
    parts = ["takes it up when it is started"]
    if device.lost is not None:
        why = device.lost.partition(", and sequence")[0].partition(" and sequence")[0]
        parts.append(f"with new run-time state (the former: {why})")
    if device.without:
        parts.append(f"is shut out of {', '.join(device.without)}: renew all at once, without --group")
    return "; ".join(parts)
