"""`groupcoap group`: the groups of a manager."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.text import Text

from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.policy import GroupPolicy, profile_by_name
from ..core.synchronization import Method, SynchronizationPolicy
from ..cose.credentials import Credential, CredentialKind
from ..cose.keys import SignatureAlgorithm
from ..errors import MisuseError
from ..files.documents import Json
from ..manager.settings import CONTROL_PORT, SCHEME_NAMES, GroupSettings, RekeyPolicy, control_for
from .group_options import address_option, algorithms_text, group_address, make_plan, plan_options, values_of
from .network import Seconds
from .operator import (
    asked,
    console,
    json_option,
    manager_option,
    moment,
    ordered,
    say_when,
    show_json,
    some,
    table,
)
from .text import plural

_YEAR = 366 * 86400.0
_CREDENTIALS = [kind.value for kind in CredentialKind if kind is not CredentialKind.RAW_KEY]
_AS_GROUP = "group"
_REKEY = RekeyPolicy()
_SIZES: dict[str, Any] = {field.name: field.default for field in fields(GroupSettings)}
_OF_REKEY = ("arity", "on_join", "on_leave", "window", "lifetime", "check_interval")
_OF_MANAGER = {"max_members", "window", "period", "on_join", "on_leave", "check_interval"}
"""What no member has to be told."""
_OF_SETTINGS = ("max_members", "prefix_size", "epoch_size")

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
def group() -> None:
    """Groups of a Group Manager, which may be running or not: it is the one that --manager names."""


def _suggestion(text: str) -> tuple[str, Method | None]:
    """`DEVICE=METHOD`."""
    device, _, method = text.rpartition("=")
    methods = [known.value for known in Method]
    if not device or method not in (*methods, _AS_GROUP):
        raise click.BadParameter(f"{text!r} is not DEVICE=METHOD; methods: {', '.join(methods)}, {_AS_GROUP}")
    return device, None if method == _AS_GROUP else Method(method)


def _managed_options(*, defaults: bool) -> Callable[[_Command], _Command]:
    """What `plan_options` does not have: what a manager decides."""

    def default(value: object) -> dict[str, Any]:
        return {"default": value, "show_default": True} if defaults else {"default": None}

    def seconds(*names: str, value: float, at_most: float = _YEAR, text: str) -> Callable[[_Command], _Command]:
        return click.option(*names, type=Seconds(0, at_most), metavar="SECONDS", help=text, **default(value))

    def decorate(command: _Command) -> _Command:
        for option in (
            click.option(
                "--epoch-size",
                type=click.IntRange(1, 8),
                metavar="BYTES",
                help="Of the Gid's part that counts renewals.",
                **default(_SIZES["epoch_size"]),
            ),
            click.option(
                "--prefix-size",
                type=click.IntRange(8, 32),
                metavar="BYTES",
                help="Of the Gid's random part.",
                **default(_SIZES["prefix_size"]),
            ),
            click.option(
                "--max-members",
                type=click.IntRange(1),
                metavar="N",
                help="No more can join.",
                **default(_SIZES["max_members"]),
            ),
            click.option(
                "--credential",
                type=click.Choice(_CREDENTIALS),
                help="What members present.",
                **default(CredentialKind.CCS.value),
            ),
            click.option(
                "--control",
                type=group_address,
                metavar="ADDRESS:PORT",
                help="Where new keys come by multicast; another port than the group's."
                + (f"  [default: the first --address, port {CONTROL_PORT}]" if defaults else ""),
            ),
            click.option(
                "--suggest",
                "suggestions",
                multiple=True,
                type=_suggestion,
                metavar="DEVICE=METHOD",
                help="Another --sync for this listener alone; group: as the others. May be repeated.",
            ),
            seconds("--grace", value=2.0, text="For which requests under the former keys are still taken."),
            seconds(
                "--check-interval",
                value=_REKEY.check_interval,
                text="After which a member asks the manager whether its keys are the newest.",
            ),
            seconds(
                "--lifetime",
                value=_REKEY.lifetime,
                text="For which a member uses its keys without a word from the manager; then it sends and takes "
                "nothing.",
            ),
            seconds(
                "--window", value=_REKEY.window, at_most=60, text="In which joins are gathered into one renewal."
            ),
            click.option(
                "--period",
                type=Seconds(0, _YEAR),
                metavar="SECONDS",
                help="New keys after this time at the latest; 0: only when there is a reason."
                + ("  [default: 0]" if defaults else ""),
            ),
            click.option(
                "--rekey-on-leave/--no-rekey-on-leave",
                "on_leave",
                help="New keys when somebody leaves of its own accord. An eviction always brings them.",
                **default(_REKEY.on_leave),
            ),
            click.option(
                "--rekey-on-join/--no-rekey-on-join",
                "on_join",
                help="New keys when somebody joins, who can then not read what was said before.",
                **default(_REKEY.on_join),
            ),
            click.option(
                "--arity",
                type=click.IntRange(2, 16),
                metavar="N",
                help="lkh: of the key tree.",
                **default(_REKEY.arity),
            ),
            click.option(
                "--scheme",
                type=click.Choice(list(SCHEME_NAMES)),
                help="How new keys get to the members: to each alone; by one multicast message, but to each alone "
                "where somebody has left; or by few multicast messages always.",
                **default(_scheme(_REKEY)),
            ),
        ):
            command = option(command)
        return command

    return decorate


def _scheme(policy: RekeyPolicy) -> str:
    return next(name for name, scheme in SCHEME_NAMES.items() if scheme is policy.scheme)


@group.command()
@click.argument("name")
@address_option(required=True)
@plan_options()
@_managed_options(defaults=True)
@manager_option
@click.pass_context
def create(ctx: click.Context, /, directory: Path, name: str, **_options: object) -> None:
    """Make a group NAME, with nobody in it. Devices that `groupcoap enroll` or `grant` lets join do so by
    themselves.

    \b
    Lamps and their switches:
      groupcoap group create room --address 224.0.1.187
    Today's standard, new keys at least every day:
      groupcoap group create hall --address 224.0.1.188 \\
          --profile group-oscore --period 86400
    """
    settings = _created(ctx, directory, name)
    result = asked(directory, "create_group", settings=settings.to_json())
    click.echo(f"group {name}, Gid {result['gid']}, at {', '.join(result['addresses'])}")
    click.echo(_algorithms(settings))
    click.echo(f"let devices join it: groupcoap enroll DEVICE --group {name}=listener")


def _manager_credential(directory: Path, signature: SignatureAlgorithm) -> Credential:
    """What the manager is known by where messages are signed so."""
    found = asked(directory, "credentials")["credentials"]
    body = next(one for one in found if one["signature"] == signature.number)
    return Credential(CredentialKind(body["kind"]), bytes.fromhex(body["data"]))


def _created(ctx: click.Context, directory: Path, name: str) -> GroupSettings:
    options = ctx.params
    profile = profile_by_name(options["profile"] or MULTICAST_OSCORE_04.name)
    plan = make_plan(ctx, options, profile, name, options["addresses"])
    return GroupSettings(
        name=name,
        addresses=plan.addresses,
        parameters=plan.parameters(_manager_credential(directory, plan.signature)),
        control=options["control"] or control_for(plan.addresses),
        credential_kind=CredentialKind(options["credential"]),
        policy=replace(plan.policy, grace=options["grace"]),
        rekey=RekeyPolicy(
            scheme=SCHEME_NAMES[options["scheme"]],
            period=options["period"] or None,
            **{field: options[field] for field in _OF_REKEY},
        ),
        suggestions=_suggestions({}, options["suggestions"], plan.policy.synchronization),
        **{field: options[field] for field in _OF_SETTINGS},
    )


def _suggestions(
    before: dict[str, SynchronizationPolicy],
    said: tuple[tuple[str, Method | None], ...],
    policy: SynchronizationPolicy,
) -> dict[str, SynchronizationPolicy]:
    after = before | {device: replace(policy, method=method) for device, method in said if method is not None}
    dropped = {device for device, method in said if method is None}
    return {device: suggested for device, suggested in after.items() if device not in dropped}


@group.command("set")
@click.argument("name")
@address_option()
@plan_options(defaults=False)
@_managed_options(defaults=False)
@manager_option
@click.pass_context
def set_(ctx: click.Context, /, directory: Path, name: str, **_options: object) -> None:
    """Change what is said of the group NAME, and nothing else. Where members have to know, they get new keys with
    it; profile, signatures and kind of credential stay while there are members.
    """
    said = {field: value for field, value in ctx.params.items() if value not in (None, ())}
    del said["name"], said["directory"]
    if not said:
        raise MisuseError(f"say what to change (see: {ctx.command_path} --help)")
    before = GroupSettings.from_json(asked(directory, "group", group=name)["settings"], directory)
    after = _changed(ctx, directory, before, said)
    result, running = ordered(directory, "change_group", group=name, settings=after.to_json())
    if not result["changed"]:
        click.echo(f"{name}: is so already")
        return
    click.echo(f"{name}: changed {', '.join(field.replace('_', ' ') for field in result['changed'])}")
    say_when(running or _OF_MANAGER.issuperset(result["changed"]))


def _changed(ctx: click.Context, directory: Path, before: GroupSettings, said: Json) -> GroupSettings:
    values = values_of(before.parameters, before.policy) | said
    addresses = said.get("addresses", before.addresses)
    plan = make_plan(ctx, values, profile_by_name(values["profile"]), before.name, addresses)
    parameters = plan.parameters(_manager_credential(directory, plan.signature))
    policy = _policy(before.policy, plan.policy, said)
    rekey = replace(before.rekey, **{field: said[field] for field in _OF_REKEY if field in said})
    if "scheme" in said:
        rekey = replace(rekey, scheme=SCHEME_NAMES[said["scheme"]])
    if "period" in said:
        rekey = replace(rekey, period=said["period"] or None)
    control = said.get("control", before.control)
    if "control" not in said and before.control == control_for(before.addresses):
        control = control_for(plan.addresses)
    return replace(
        before,
        addresses=plan.addresses,
        parameters=parameters,
        control=control,
        credential_kind=CredentialKind(said.get("credential", before.credential_kind.value)),
        policy=policy,
        rekey=rekey,
        suggestions=_suggestions(dict(before.suggestions), said.get("suggestions", ()), policy.synchronization),
        **{field: said[field] for field in _OF_SETTINGS if field in said},
    )


def _policy(before: GroupPolicy, plan: GroupPolicy, said: Json) -> GroupPolicy:
    """What the options do not name stays as it was."""
    return replace(
        before,
        synchronization=replace(before.synchronization, method=plan.synchronization.method),
        verification=plan.verification,
        response_mode=plan.response_mode,
        grace=said.get("grace", before.grace),
    )


@group.command("list")
@manager_option
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """Show the groups."""
    found = asked(directory, "groups")["groups"]
    if as_json:
        show_json(found)
        return
    if not found:
        click.echo("no groups yet: groupcoap group create NAME --address ADDRESS")
        return
    shown = table("group", "state", "members", "addresses", "profile", "scheme")
    for one in found:
        addresses = ", ".join(one["addresses"])
        scheme = one["scheme"].lower().replace("_", "-")
        shown.add_row(Text(one["name"]), one["state"], str(one["members"]), addresses, one["profile"], scheme)
    console().print(shown)


@group.command()
@click.argument("name")
@manager_option
@json_option
def show(directory: Path, name: str, as_json: bool) -> None:
    """Show all that is said of the group NAME."""
    result = asked(directory, "group", group=name)
    if as_json:
        show_json({**result, "settings": json.loads(result["settings"])})
        return
    settings = GroupSettings.from_json(result["settings"], directory)
    for label, text in _described(result, settings):
        click.echo(f"{label:<12}{text}")


def _described(result: Json, settings: GroupSettings) -> list[tuple[str, str]]:
    rekey, policy = settings.rekey, settings.policy
    behind = f", behind: {some(result['behind'])}" if result["behind"] else ""
    causes = [text for text, wanted in (("joins", rekey.on_join), ("leaves", rekey.on_leave)) if wanted]
    tree = f", arity {rekey.arity}" if _scheme(rekey) == "lkh" else ""
    period = f", every {rekey.period:g} s" if rekey.period is not None else ""
    suggested = ", ".join(f"{device}={known.method.value}" for device, known in settings.suggestions.items())
    when = f"when somebody {' or '.join(causes) or 'is evicted'}"
    limits = f"{result['members']} of at most {settings.max_members}, with {settings.credential_kind.value}"
    times = {
        "window": rekey.window,
        "lifetime": rekey.lifetime,
        "check interval": rekey.check_interval,
        "grace": policy.grace,
    }
    return [
        ("group", f"{settings.name}, {result['state']}, at {', '.join(result['addresses'])}"),
        *((("alarm", result["alarm"]),) if result["alarm"] else ()),
        ("protection", _algorithms(settings)),
        ("listeners", f"{policy.synchronization.method.value}, verification {policy.verification.value}"),
        *((("suggested", suggested),) if suggested else ()),
        ("rekeying", f"{_scheme(rekey)}{tree}, at {settings.control}, {when}{period}"),
        ("times", ", ".join(f"{name} {value:g} s" for name, value in times.items())),
        ("members", f"{limits}{behind}"),
        ("keys", f"renewal {result['num']}, Gid {result['gid']}, since {moment(result['renewed'])}"),
    ]


def _algorithms(settings: GroupSettings) -> str:
    text = algorithms_text(settings.parameters, settings.policy.response_mode)
    return f"{settings.parameters.profile.name}: {text}"


@group.command()
@click.argument("name")
@manager_option
def activate(directory: Path, name: str) -> None:
    """Serve the group NAME again, also one that was stopped with an alarm."""
    asked(directory, "set_active", group=name, active=True)
    click.echo(f"{name} is active")


@group.command()
@click.argument("name")
@manager_option
def deactivate(directory: Path, name: str) -> None:
    """Let nobody join the group NAME, and renew nothing in it, until it is made active. Its members go on with the
    keys that they have, while these last."""
    asked(directory, "set_active", group=name, active=False)
    click.echo(f"{name} is inactive")


@group.command()
@click.argument("name")
@manager_option
def delete(directory: Path, name: str) -> None:
    """Delete the group NAME, which must be inactive, and tell its members."""
    result, running = ordered(directory, "delete_group", group=name)
    click.echo(f"{name} is deleted; it had {plural(result['members'], 'member')}")
    say_when(running or not result["members"])
