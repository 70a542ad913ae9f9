"""`groupcoap group`: groups as an operator says them, and as they are changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
import pytest

from groupcoap.cli.group_options import make_plan, plan_options, values_of
from groupcoap.core.policy import profile_by_name
from groupcoap.files.group import parse_address

from .managed import Said, hall, said, template

__all__ = ["hall", "said", "template"]

ADDRESS = ("--address", "224.0.1.188")


def settings(said: Said, name: str = "hall") -> Any:
    code, out, _ = said("group", "show", name, "--json")
    assert code == 0
    return json.loads(out)["settings"]


def test_a_group_is_made_and_what_comes_next_is_said(said: Said) -> None:
    code, out, _ = said("group", "create", "hall", *ADDRESS)
    assert code == 0
    assert out.splitlines()[0].startswith("group hall, Gid ")
    assert out.splitlines()[1:] == [
        "multicast-oscore-04: AES-CCM-16-64-128, HKDF-SHA256, EdDSA (Ed25519)",
        "let devices join it: groupcoap enroll DEVICE --group hall=listener",
    ]
    assert "hall" in said("group", "list")[1]
    assert [group["name"] for group in json.loads(said("group", "list", "--json")[1])] == ["hall", "room"]
    shown = said("group", "show", "hall")[1]
    for text in (
        "hall, active, at 224.0.1.188",
        "challenge-response, verification always",
        "lkh, arity 2, at 224.0.1.188:5685, when somebody joins or leaves",
        "window 0.2 s, lifetime 86400 s, check interval 300 s, grace 2 s",
        "0 of at most 1000, with ccs",
        "renewal 0, Gid ",
    ):
        assert text in shown


def test_everything_can_be_said(said: Said) -> None:
    more = ("--address", "[ff05::fd]:5690", "--profile", "group-oscore", "--aead", "AES-CCM-64-64-128")
    algorithms = ("--group-encryption", "A128CTR", "--signature", "es256", "--countersignature", "rfc9338")
    rekey = ("--scheme", "gkmp", "--arity", "4", "--no-rekey-on-join", "--no-rekey-on-leave", "--period", "3600")
    times = ("--window", "1", "--lifetime", "7200", "--check-interval", "60", "--grace", "5")
    listeners = ("--sync", "baseline", "--responses", "pairwise", "--suggest", "lamp-1=best-effort")
    sizes = ("--max-members", "7", "--prefix-size", "10", "--epoch-size", "2", "--control", "224.0.1.189:5700")
    options = (*more, *algorithms, *rekey, *times, *listeners, *sizes, "--credential", "x509")
    code, _, err = said("group", "create", "hall", *ADDRESS, *options)
    assert (code, err) == (0, "")
    made = settings(said)
    assert made["addresses"] == ["224.0.1.188", "[ff05::fd]:5690"]
    assert (made["profile"], made["aead"], made["group_encryption"], made["signature"]) == (
        *("group-oscore", 12, -65534, -7),
    )
    assert made["sign_protected"] is False
    assert made["rekey"] | {"scheme": 0} == {
        "scheme": 0,
        "arity": 4,
        "on_join": False,
        "on_leave": False,
        "period": 3600.0,
        "window": 1.0,
        "lifetime": 7200.0,
        "check_interval": 60.0,
    }
    assert made["policy"]["synchronization"]["method"] == "baseline"
    assert (made["policy"]["response_mode"], made["policy"]["grace"]) == ("pairwise", 5.0)
    assert made["suggestions"]["lamp-1"]["method"] == "best-effort"
    assert (made["max_members"], made["prefix_size"], made["epoch_size"]) == (7, 10, 2)
    assert (made["control"], made["credential_kind"]) == ("224.0.1.189:5700", "x509")
    assert "gkmp, at 224.0.1.189:5700, when somebody is evicted, every 3600 s" in said("group", "show", "hall")[1]


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("--grace 9", {"policy.grace": 9.0}),
        ("--sync baseline", {"policy.synchronization.method": "baseline"}),
        ("--lifetime 7200 --check-interval 100", {"rekey.lifetime": 7200.0, "rekey.check_interval": 100.0}),
        ("--period 60", {"rekey.period": 60.0}),
        ("--scheme point-to-point", {"rekey.scheme": 0}),
        ("--no-rekey-on-join", {"rekey.on_join": False}),
        ("--max-members 3", {"max_members": 3}),
        ("--aead AES-CCM-64-64-128", {"aead": 12}),
        ("--address 224.0.1.190:5999", {"addresses": ["224.0.1.190:5999"], "control": "224.0.1.190:5685"}),
        ("--control 224.0.1.190:5999", {"control": "224.0.1.190:5999"}),
    ],
)
def test_what_is_changed_and_nothing_else(said: Said, options: str, changes: dict[str, object]) -> None:
    assert said("group", "create", "hall", *ADDRESS)[0] == 0
    before = _flat(settings(said))
    code, out, _ = said("group", "set", "hall", *options.split())
    assert code == 0
    assert out.startswith("hall: changed ")
    assert _flat(settings(said)) == before | changes
    assert said("group", "set", "hall", *options.split())[1] == "hall: is so already\n"


def _flat(body: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in body.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def test_suggestions_and_periods_end(said: Said) -> None:
    suggested = ("--suggest", "a=baseline", "--suggest", "b=baseline", "--period", "60")
    assert said("group", "create", "hall", *ADDRESS, *suggested)[0] == 0
    assert said("group", "set", "hall", "--suggest", "a=group", "--period", "0")[0] == 0
    made = settings(said)
    assert list(made["suggestions"]) == ["b"]
    assert "period" not in made["rekey"]


def test_pairwise_mode_goes_and_comes(said: Said) -> None:
    assert said("group", "create", "hall", *ADDRESS, "--profile", "group-oscore")[0] == 0
    before = settings(said)
    assert said("group", "set", "hall", "--no-pairwise")[0] == 0
    without = settings(said)
    assert (without["aead"], "key_agreement" in without, without["group_encryption"]) == (None, False, 10)
    assert without["manager_credential"] == before["manager_credential"]
    assert said("group", "set", "hall", "--pairwise")[0] == 0
    assert settings(said) == before


def test_the_life_of_a_group(said: Said) -> None:
    code, _, err = said("group", "delete", "room")
    assert (code, err) == (2, "groupcoap: group 'room' is active; deactivate it first\n")
    assert said("group", "deactivate", "room") == (0, "room is inactive\n", "")
    assert said("rekey", "room")[0] == 2
    assert said("group", "activate", "room")[0] == 0
    assert said("group", "deactivate", "room")[0] == 0
    assert said("group", "delete", "room") == (0, "room is deleted; it had 0 members\n", "")
    assert "no groups yet" in said("group", "list")[1]
    assert "no groups yet" in said("status")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("create hall", 2, "--address"),
        ("create hall --address 192.0.2.1", 2, "is not a multicast address"),
        ("create room --address 224.0.1.188", 2, "there already is a group 'room'"),
        ("create a/b --address 224.0.1.188", 2, "'a/b'"),
        ("create hall --address 224.0.1.188 --pairwise", 2, "--pairwise goes with --profile group-oscore"),
        ("create hall --address 224.0.1.188 --kdf sha384", 2, "multicast-oscore-04 has no --kdf sha384"),
        ("create hall --address 224.0.1.188 --scheme tree", 2, "--scheme"),
        ("create hall --address 224.0.1.188 --arity 1", 2, "--arity"),
        ("create hall --address 224.0.1.188 --suggest lamp-1=soon", 2, "is not DEVICE=METHOD"),
        ("create hall --address 224.0.1.188 --control 224.0.1.188", 2, "rekey messages need another port"),
        ("create hall --address 224.0.1.188 --lifetime 10", 2, "the check interval"),
        ("create hall --address 224.0.1.188 --lifetime nan", 2, "not a number of seconds"),
        ("set room", 2, "say what to change"),
        ("set hall --grace 1", 2, "there is no group 'hall'; there is room"),
        ("set room --responses pairwise", 2, "--responses goes with --profile group-oscore"),
        ("set room --profile group-oscore --verification skip", 2, "always verified"),
        ("show hall", 2, "there is no group 'hall'"),
        ("delete hall", 2, "there is no group 'hall'"),
        ("paint room", 2, "paint"),
    ],
)
def test_what_is_wrong_stands_on_one_line(said: Said, arguments: str, code: int, says: str) -> None:
    words = arguments.split()
    if words[0] == "paint":
        from groupcoap.cli import main

        assert main(["group", *words]) == code
        return
    ended, out, err = said("group", *words)
    assert (ended, out, err.count("\n")) == (code, "", 1)
    assert says in err


# ---- a plan from values, and values from a plan


def _context(action: Callable[..., None], *arguments: str) -> None:
    plan_options()(click.command()(click.pass_context(action))).main(list(arguments), standalone_mode=False)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--aead A128GCM --kdf sha512 --signature es256 --sync best-effort",
        "--verification skip",
        "--profile group-oscore",
        "--profile group-oscore --responses group --countersignature rfc9338",
        "--profile group-oscore --group-encryption A128CTR",
        "--profile group-oscore --group-encryption A128CTR --no-pairwise",
        "--profile group-oscore --aead AES-CCM-64-64-128 --no-pairwise",
        "--profile group-oscore --aead AES-CCM-64-64-128 --group-encryption AES-CCM-16-64-128",
        "--profile group-oscore --kdf sha384 --no-pairwise",
    ],
)
def test_values_of_a_group_make_the_same_group(options: str) -> None:
    address = parse_address("224.0.1.187")

    def act(ctx: click.Context, /, **given: Any) -> None:
        profile = profile_by_name(given["profile"] or "multicast-oscore-04")
        plan = make_plan(ctx, given, profile, "room", (address,))
        values = values_of(plan.parameters(None), plan.policy)
        again: list[object] = []

        def repeat(ctx: click.Context, /, **_: Any) -> None:
            again.append(make_plan(ctx, values, profile_by_name(values["profile"]), "room", (address,)))

        _context(repeat)
        assert again == [plan]

    _context(act, *options.split())
