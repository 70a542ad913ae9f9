"""What `provision` and `group` have in common: the options that say how a group's messages are protected and how
its listeners behave, and the plan that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.policy import PROFILES, GroupPolicy, Verification
from ..core.profile import Mode, Profile
from ..core.synchronization import Method, SynchronizationPolicy
from ..cose.algorithms import DEFAULT_AEAD, AeadAlgorithm, Kdf, key_agreement_for
from ..errors import MisuseError
from ..files.group import parse_address
from ..files.provisioning import GroupPlan
from ..membership import GroupAddress, SecurityParameters
from ..secret import Secret
from .names import AEADS, GROUP_ENCRYPTIONS, RESPONSE_MODES, SIGNATURES

SIGN_PROTECTED = {"deployed": True, "rfc9338": False}

Values = Mapping[str, Any]
"""What the options of `plan_options` say, by the names of their parameters."""

_GROUP_OSCORE_ONLY = frozenset({"pairwise", "group_encryption", "responses", "countersignature", "manager"})

_Command = TypeVar("_Command", bound=Callable[..., Any])


def group_address(text: str) -> GroupAddress:
    """A multicast address on the command line."""
    try:
        return parse_address(text)
    except MisuseError as error:
        raise click.BadParameter(str(error)) from None


def address_option(**settings: Any) -> Callable[[_Command], _Command]:
    """--address, with what else click is to know of it."""
    return click.option(
        "--address",
        "addresses",
        multiple=True,
        type=group_address,
        metavar="ADDRESS",
        help="Multicast address, IPv4 or IPv6, [ff05::fd]:5683 with a port. Repeat it for several.",
        **settings,
    )


def plan_options(
    *, defaults: bool = True, profile_default: str = MULTICAST_OSCORE_04.name
) -> Callable[[_Command], _Command]:
    """Adds the options that `make_plan` reads. Without `defaults`, for a group that is there, None says that
    something stays as it is."""

    def default(value: str) -> dict[str, Any]:
        return {"default": value, "show_default": True} if defaults else {}

    def decorate(command: _Command) -> _Command:
        for option in (
            click.option(
                "--countersignature",
                type=click.Choice(list(SIGN_PROTECTED)),
                **default("deployed"),
                help="group-oscore: what is signed. deployed: as aiocoap and Californium do; rfc9338: without the "
                "empty sign_protected that they put in. Listeners accept either.",
            ),
            click.option(
                "--responses",
                type=click.Choice(list(RESPONSE_MODES)),
                **default("as-requested"),
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
                help="group-oscore: whether two members can speak to each other alone."
                + ("  [default: yes]" if defaults else ""),
            ),
            click.option(
                "--profile",
                type=click.Choice(list(PROFILES)),
                show_default=profile_default if defaults else False,
                help="The wire format: of the draft, or today's standard, which devices of others speak.",
            ),
            click.option(
                "--verification",
                type=click.Choice([choice.value for choice in Verification]),
                **default("always"),
                help="Of requests' signatures. Anything but always lets every member speak as any other.",
            ),
            click.option(
                "--signature",
                type=click.Choice(list(SIGNATURES)),
                **default("eddsa"),
                help="Signatures.",
            ),
            click.option(
                "--kdf",
                type=click.Choice([choice.value for choice in Kdf]),
                **default("sha256"),
                help="Hash of HKDF.",
            ),
            click.option(
                "--aead",
                type=click.Choice(list(AEADS), case_sensitive=False),
                **default(DEFAULT_AEAD.name),
                metavar="NAME",
                help=f"Encryption: {', '.join(AEADS)}.",
            ),
            click.option(
                "--sync",
                type=click.Choice([method.value for method in Method]),
                **default("challenge-response"),
                help="How listeners come to know which requests are new.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def make_plan(
    ctx: click.Context, values: Values, profile: Profile, name: str, addresses: tuple[GroupAddress, ...]
) -> GroupPlan:
    """The group that these values stand for, with the profile and what follows from it. `MisuseError` for options
    that it does not know. `ctx`: to tell what was said from what was not."""
    encryption = values["group_encryption"]
    plan = GroupPlan(
        name,
        tuple(dict.fromkeys(addresses)),
        GroupPolicy(
            SynchronizationPolicy(Method(values["sync"])),
            Verification(values["verification"]),
            RESPONSE_MODES[values["responses"]],
        ),
        AEADS[values["aead"]],
        Kdf(values["kdf"]),
        SIGNATURES[values["signature"]],
        group_encryption=None if encryption is None else GROUP_ENCRYPTIONS[encryption],
        sign_protected=SIGN_PROTECTED[values["countersignature"]],
    )
    return _with_profile(ctx, profile, values["pairwise"], plan)


def values_of(parameters: SecurityParameters, policy: GroupPolicy) -> dict[str, Any]:
    """The values from which `make_plan` makes a group like this one."""
    encryption, aead = parameters.encryption, parameters.aead
    follows = encryption is aead or aead is None
    if aead is None:
        aead = encryption if isinstance(encryption, AeadAlgorithm) else DEFAULT_AEAD
        follows = aead is encryption
    modern = parameters.profile.rules.pairwise
    return {
        "profile": parameters.profile.name,
        "sync": policy.synchronization.method.value,
        "verification": policy.verification.value,
        "responses": _name(RESPONSE_MODES, policy.response_mode),
        "aead": aead.name,
        "group_encryption": None if follows or not modern else encryption.name,
        "kdf": parameters.kdf.value,
        "signature": _name(SIGNATURES, parameters.signature),
        "pairwise": (parameters.key_agreement is not None) if modern else None,
        "countersignature": _name(SIGN_PROTECTED, parameters.sign_protected),
    }


def _name(names: Mapping[str, object], value: object) -> str:
    return next(name for name, known in names.items() if known == value)


def algorithms_text(parameters: SecurityParameters, response_mode: Mode | None) -> str:
    """A group's algorithms on one line."""
    parts = [
        parameters.encryption.name,
        f"HKDF-{parameters.kdf.value.upper()}",
        parameters.signature.name,
    ]
    if parameters.key_agreement is not None and parameters.aead is not None:
        parts.append(f"pairwise mode with {parameters.aead.name} and {parameters.key_agreement.name}")
    if response_mode is not None:
        parts.append(f"answers in {response_mode.value} mode")
    if not parameters.sign_protected:
        parts.append("countersignatures as in RFC 9338")
    return ", ".join(parts)


def given(ctx: click.Context, parameter: str) -> bool:
    """Whether it was said on the command line."""
    return ctx.get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def spelt(ctx: click.Context, parameter: click.Parameter) -> str:
    """The option as it was given."""
    assert parameter.name is not None
    return parameter.secondary_opts[0] if ctx.params[parameter.name] is False else parameter.opts[0]


def _with_profile(ctx: click.Context, profile: Profile, pairwise: bool | None, plan: GroupPlan) -> GroupPlan:
    if not profile.rules.pairwise:
        for parameter in ctx.command.params:
            if parameter.name in _GROUP_OSCORE_ONLY and given(ctx, parameter.name):
                raise MisuseError(f"{spelt(ctx, parameter)} goes with --profile group-oscore")
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
        said = " with ".join(f"--{name} {ctx.params[name]}" for name in ("signature", "kdf") if given(ctx, name))
        said = said or "such algorithms"
        raise MisuseError(f"{plan.profile.name} has no {said}; --profile group-oscore has") from None
    return plan


def _refuse_unused(ctx: click.Context, plan: GroupPlan) -> None:
    """`MisuseError` for what would have no meaning without a pairwise mode."""
    if plan.policy.response_mode is Mode.PAIRWISE:
        raise MisuseError("--responses pairwise does not go with --no-pairwise")
    if plan.group_encryption is not None and given(ctx, "aead"):
        raise MisuseError(
            "--aead is for the pairwise mode alone beside --group-encryption, and there is to be none"
        )
