"""`groupcoap provision`: the files of a static group."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.policy import PROFILES, GroupPolicy, Verification, profile_by_name
from ..core.profile import Mode, Profile
from ..core.synchronization import Method, SynchronizationPolicy
from ..cose.algorithms import DEFAULT_AEAD, Kdf, key_agreement_for
from ..errors import MisuseError
from ..files.group import parse_address
from ..files.identity import load_identity
from ..files.provisioning import DevicePlan, GroupPlan, ProvisionedDevice, ProvisionedGroup
from ..files.provisioning import provision as make_files
from ..files.renewal import Renewal, RenewedDevice, groups_in, profiles_of
from ..files.renewal import renew as renew_groups
from ..membership import GroupAddress, Role
from ..secret import Secret
from .names import AEADS, GROUP_ENCRYPTIONS, RESPONSE_MODES, SIGNATURES

SIGN_PROTECTED = {"deployed": True, "rfc9338": False}

ROLES: dict[str, frozenset[Role]] = {
    "multicaster": frozenset({Role.MULTICASTER}),
    "listener": frozenset({Role.LISTENER}),
    "both": frozenset({Role.MULTICASTER, Role.LISTENER}),
    "pure-listener": frozenset({Role.PURE_LISTENER}),
}
MAX_DEVICES = 10_000
"""Devices that are made at once, at most."""

_COUNT = click.IntRange(0)


def _address(text: str) -> GroupAddress:
    try:
        return parse_address(text)
    except MisuseError as error:
        raise click.BadParameter(str(error)) from None


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
            "--countersignature",
            type=click.Choice(list(SIGN_PROTECTED)),
            default="deployed",
            show_default=True,
            help="group-oscore: what is signed. deployed: as aiocoap and Californium do; rfc9338: without the "
            "empty sign_protected that they put in. Listeners accept either.",
        ),
        click.option(
            "--responses",
            type=click.Choice(list(RESPONSE_MODES)),
            default="as-requested",
            show_default=True,
            help="group-oscore: the mode of answers. pairwise: only the requester can read them.",
        ),
        click.option(
            "--group-encryption",
            type=click.Choice(list(GROUP_ENCRYPTIONS), case_sensitive=False),
            metavar="NAME",
            help="group-oscore: encryption of messages to the group, if not that of --aead: one of these, or "
            f"{', '.join(name for name in GROUP_ENCRYPTIONS if name not in AEADS)}.",
        ),
        click.option(
            "--pairwise/--no-pairwise",
            default=None,
            help="group-oscore: whether two members can speak to each other alone.  [default: yes]",
        ),
        click.option(
            "--manager",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="group-oscore: the identity of the group's manager, to which its messages are bound: one that "
            "keygen has made, or that another group has.  [default: a new one, in DIR/NAME.manager.json]",
        ),
        click.option(
            "--profile",
            type=click.Choice(list(PROFILES)),
            show_default=f"with --join that of the devices' groups, else {MULTICAST_OSCORE_04.name}",
            help="The wire format: of the draft, or today's standard, which devices of others speak.",
        ),
        click.option(
            "--verification",
            type=click.Choice([choice.value for choice in Verification]),
            default="always",
            show_default=True,
            help="Of requests' signatures. Anything but always lets every member speak as any other.",
        ),
        click.option(
            "--signature",
            type=click.Choice(list(SIGNATURES)),
            default="eddsa",
            show_default=True,
            help="Signatures.",
        ),
        click.option(
            "--kdf",
            type=click.Choice([choice.value for choice in Kdf]),
            default="sha256",
            show_default=True,
            help="Hash of HKDF.",
        ),
        click.option(
            "--aead",
            type=click.Choice(list(AEADS), case_sensitive=False),
            default=DEFAULT_AEAD.name,
            show_default=True,
            metavar="NAME",
            help=f"Encryption: {', '.join(AEADS)}.",
        ),
        click.option(
            "--sync",
            type=click.Choice([method.value for method in Method]),
            default="challenge-response",
            show_default=True,
            help="How listeners come to know which requests are new.",
        ),
        click.option(
            "--address",
            "addresses",
            multiple=True,
            type=_address,
            default=("224.0.1.187",),
            show_default=True,
            metavar="ADDRESS",
            help="Multicast address, IPv4 or IPv6, [ff05::fd]:5683 with a port. Repeat it for several.",
        ),
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
    directory: Path,
    name: str,
    addresses: tuple[GroupAddress, ...],
    sync: str,
    aead: str,
    kdf: str,
    signature: str,
    verification: str,
    profile: str | None,
    pairwise: bool | None,
    group_encryption: str | None,
    responses: str,
    countersignature: str,
    manager: Path | None,
    switches: int | None,
    lamps: int | None,
    pure_listeners: int | None,
    device: tuple[tuple[str, str], ...],
    identity: tuple[tuple[str, str], ...],
    join: tuple[tuple[str, str], ...],
    renew: bool,
    evict: tuple[str, ...],
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
        chosen = [name] if _given(ctx, "name") else groups_in(directory)
        _show_renewal(renew_groups(directory, chosen, evict=evict))
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
    plan = _plan(
        ctx,
        _joined_profile(directory, join) if profile is None else profile_by_name(profile),
        pairwise,
        GroupPlan(
            name,
            tuple(dict.fromkeys(addresses)),
            GroupPolicy(SynchronizationPolicy(Method(sync)), Verification(verification), RESPONSE_MODES[responses]),
            AEADS[aead],
            Kdf(kdf),
            SIGNATURES[signature],
            group_encryption=None if group_encryption is None else GROUP_ENCRYPTIONS[group_encryption],
            sign_protected=SIGN_PROTECTED[countersignature],
        ),
    )
    _show(make_files(directory, plan, devices, None if manager is None else load_identity(manager)))


def _joined_profile(directory: Path, join: tuple[tuple[str, str], ...]) -> Profile:
    """What the devices that join speak already; the draft's if there are none."""
    known = profiles_of(directory, [name for name, _ in join]) or {MULTICAST_OSCORE_04}
    if len(known) > 1:
        names = " and ".join(sorted(profile.name for profile in known))
        raise MisuseError(f"the devices that --join are in groups of {names}; say which with --profile")
    return next(iter(known))


def _plan(ctx: click.Context, profile: Profile, pairwise: bool | None, plan: GroupPlan) -> GroupPlan:
    """With the profile, and what follows from it. `MisuseError` for options that it does not know."""
    if not profile.rules.pairwise:
        for parameter in ctx.command.params:
            if parameter.name in _GROUP_OSCORE_ONLY and _given(ctx, parameter.name):
                raise MisuseError(f"{_spelt(ctx, parameter)} goes with --profile group-oscore")
        return _possible(ctx, replace(plan, profile=profile))
    if plan.policy.verification is not Verification.ALWAYS:
        raise MisuseError(f"--verification: {profile.name} has its countersignatures always verified")
    agreement = key_agreement_for(plan.kdf)
    if agreement is None and pairwise is None:
        hint = "there is no key agreement for it, so there can be no pairwise mode"
        raise MisuseError(f"--kdf {plan.kdf.value}: {hint}; say --no-pairwise, or choose another")
    if agreement is None and pairwise:
        raise MisuseError(
            f"--pairwise does not go with --kdf {plan.kdf.value}, for which there is no key agreement"
        )
    encryption = plan.group_encryption or plan.aead
    if pairwise is False:
        _refuse_unused(ctx, plan)
        return replace(plan, profile=profile, aead=None, group_encryption=encryption)
    return replace(plan, profile=profile, group_encryption=encryption, key_agreement=agreement)


def _possible(ctx: click.Context, plan: GroupPlan) -> GroupPlan:
    """The same. `MisuseError` if its profile does not have these algorithms."""
    try:
        plan.parameters(None).common_context(bytes(1), Secret(bytes(1)))
    except MisuseError:
        given = " with ".join(f"--{name} {ctx.params[name]}" for name in ("signature", "kdf") if _given(ctx, name))
        raise MisuseError(f"{plan.profile.name} has no {given}; --profile group-oscore has") from None
    return plan


def _refuse_unused(ctx: click.Context, plan: GroupPlan) -> None:
    """`MisuseError` for what would have no meaning without a pairwise mode."""
    if plan.policy.response_mode is Mode.PAIRWISE:
        raise MisuseError("--responses pairwise does not go with --no-pairwise")
    if plan.group_encryption is not None and _given(ctx, "aead"):
        raise MisuseError(
            "--aead is for the pairwise mode alone beside --group-encryption, and there is to be none"
        )


def _spelt(ctx: click.Context, parameter: click.Parameter) -> str:
    """The option as it was given."""
    assert parameter.name is not None
    return parameter.secondary_opts[0] if ctx.params[parameter.name] is False else parameter.opts[0]


_GROUP_OSCORE_ONLY = frozenset({"pairwise", "group_encryption", "responses", "countersignature", "manager"})
_WITH_RENEW = frozenset({"directory", "name", "renew", "evict"})


def _given(ctx: click.Context, parameter: str) -> bool:
    return ctx.get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def _refuse_others(ctx: click.Context) -> None:
    """`MisuseError` if there is an option that a renewal does not know."""
    for parameter in ctx.command.params:
        if parameter.name is not None and parameter.name not in _WITH_RENEW and _given(ctx, parameter.name):
            raise MisuseError(f"{_spelt(ctx, parameter)} does not go with --renew: only --group and --evict do")


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
    console.print(Text(f"{plan.profile.name}: {_algorithms(plan)}"))
    console.print(table)
    if made.manager is not None:
        console.print(Text(f"the group's manager: {made.manager} (keep it; no device needs it)"))
    console.print("These files hold secret keys: keep them readable by yourself alone.")
    _suggest(console, made)


def _algorithms(plan: GroupPlan) -> str:
    parts = [
        plan.parameters(None).encryption.name,
        f"HKDF-{plan.kdf.value.upper()}",
        plan.signature.name,
    ]
    if plan.key_agreement is not None and plan.aead is not None:
        parts.append(f"pairwise mode with {plan.aead.name} and {plan.key_agreement.name}")
    if plan.policy.response_mode is not None:
        parts.append(f"answers in {plan.policy.response_mode.value} mode")
    if not plan.sign_protected:
        parts.append("countersignatures as in RFC 9338")
    return ", ".join(parts)


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


def _show_renewal(renewal: Renewal) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for group in renewal.groups:
        console.print(Text(f"group {group.name}: Gid {group.gid.hex()} takes the place of {group.before.hex()}"))
        if group.evicted:
            console.print(Text(f"evicted: {', '.join(group.evicted)}"))
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
