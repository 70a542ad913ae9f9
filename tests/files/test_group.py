"""Group files: a configuration comes back as it was, and every wrong field is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupcoap.cose.keys import SIGNATURE_ALGORITHMS
from groupcoap.errors import FileFault, MisuseError
from groupcoap.files.group import load_group, parse_address, read_group, save_group
from groupcoap.files.identity import generate_identity, save_identity
from groupcoap.membership import GroupConfiguration

from .samples import LAMP, SECRET, configuration, lamp_directory, pure_configuration


def comparable(group: GroupConfiguration) -> dict[str, Any]:
    fields = {name: getattr(group, name) for name in group.__slots__ if name != "epochs"}
    epochs = [
        (
            e.gid,
            e.master_secret.reveal(),
            e.own_id,
            e.private_key and e.private_key.secret.reveal(),
            e.members,
            e.departed,
        )
        for e in group.epochs
    ]
    return {**fields, "epochs": epochs}


def test_round_trip(tmp_path: Path) -> None:
    path = lamp_directory(tmp_path)
    assert comparable(load_group(path)) == comparable(configuration())
    assert path.stat().st_mode & 0o777 == 0o600
    identity = read_group(path).identity
    assert identity is not None
    assert identity.name == "lamp-1"


def test_a_pure_listener_needs_no_identity(tmp_path: Path) -> None:
    path = tmp_path / "room.group.json"
    save_group(path, pure_configuration())
    assert comparable(load_group(path)) == comparable(pure_configuration())
    assert "identity" not in json.loads(path.read_text())


def test_the_identity_may_have_another_name(tmp_path: Path) -> None:
    save_identity(tmp_path / "key.json", LAMP)
    (tmp_path / "groups").mkdir()
    path = tmp_path / "groups" / "room.group.json"
    save_group(path, configuration(), identity="../key.json")
    assert load_group(path).current.own_id == b"\x01"


def test_secrets_do_not_show(tmp_path: Path) -> None:
    group = load_group(lamp_directory(tmp_path))
    assert SECRET.hex() not in repr(group)
    assert repr(SECRET) not in repr(group)


def set_at(*way: Any) -> Callable[[Any], None]:
    """A change: the last of `way` is the new value of what the others lead to."""
    *steps, last, value = way

    def change(document: Any) -> None:
        for step in steps:
            document = document[step]
        document[last] = value

    return change


def remove_at(*way: Any) -> Callable[[Any], None]:
    *steps, last = way

    def change(document: Any) -> None:
        for step in steps:
            document = document[step]
        del document[last]

    return change


E, M = ("epochs", 0), ("epochs", 0, "members")


def two_epochs(document: Any) -> None:
    document["epochs"].append(document["epochs"][0])


def swap_ids(document: Any) -> None:
    document["epochs"][0]["members"][0]["id"] = "01"
    document["epochs"][0]["members"][1]["id"] = "00"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (set_at("name", "a\tb"), "name: must be a text"),
        (set_at("profile", "group-oscore-99"), "profile: profile 'group-oscore-99' is not known"),
        (set_at("aead", 99), "aead: AEAD algorithm 99 is not supported"),
        (set_at("aead", "10"), "aead: must be a whole number"),
        (set_at("kdf", "md5"), "kdf: key derivation function 'md5'"),
        (set_at("signature", 0), "signature: signature algorithm 0"),
        (set_at("signature", -7), "signature: the identity has a key for EdDSA (Ed25519) instead"),
        (set_at("identity", "none.json"), "does not exist"),
        (set_at("identity", "/etc/x"), "identity: must be a path relative to this file"),
        (set_at("roles", []), "roles: must be a list of at least 1"),
        (set_at("roles", ["lamp"]), "roles[0]: must be one of"),
        (set_at("roles", ["listener", "pure listener"]), "a pure listener is no listener that responds"),
        (set_at("roles", ["pure listener"]), "epochs[0].own_id: must be null"),
        (set_at("addresses", []), "addresses: must be a list of at least 1"),
        (set_at("addresses", 0, "10.0.0.1"), "addresses[0]: 10.0.0.1 is not a multicast address"),
        (set_at("addresses", 0, "224.0.1.187:0"), "addresses[0]: 0 is not a UDP port"),
        (set_at("addresses", 0, "ff02::1%lo"), "addresses[0]: 'ff02::1%lo' names an interface"),
        (set_at("addresses", 0, "all lamps"), "addresses[0]: 'all lamps' is not an IPv4"),
        (set_at("addresses", ["224.0.0.1", "224.0.0.1:5683"]), "addresses: the same address"),
        (set_at("policy", "grace", -1), "policy.grace: must be a number of seconds"),
        (set_at("policy", "verification", "never"), "policy.verification: must be one of"),
        (set_at("policy", "max_unfragmented_size", 1), "policy: a policy value is out of range"),
        (set_at("policy", "synchronization", "method", "x"), "policy.synchronization.method: must be one of"),
        (set_at("policy", "synchronization", "repeat_length", 7), "policy.synchronization: a Repeat value"),
        (remove_at("policy", "synchronization", "method"), "policy.synchronization: 'method' is missing"),
        (set_at("epochs", []), "epochs: must be a list of at least 1"),
        (two_epochs, "epochs: two epochs have the same Gid"),
        (set_at(*E, "gid", "00" * 8), "epochs[0].gid: must have 9 to"),
        (set_at(*E, "gid", "00" * 200), "epochs[0].gid: the Gid must have 1 to"),
        (set_at(*E, "master_secret", "00" * 15), "epochs[0].master_secret: must have 16 to 255 bytes, not 15"),
        (set_at(*E, "own_id", None), "epochs[0].own_id: must be null for a pure listener, and"),
        (set_at(*E, "own_id", "00" * 8), "epochs[0].own_id: an Endpoint ID has at most 7 bytes"),
        (set_at(*E, "own_id", "00"), "epochs[0].members[0]: has this endpoint's own Endpoint ID but another"),
        (swap_ids, "epochs[0].members[0]: has this endpoint's own Endpoint ID but another"),
        (set_at(*E, "departed", ["01"]), "epochs[0].departed: names an Endpoint ID that is a member's"),
        (set_at(*M, 0, "id", "01"), "epochs[0].members[1]: Endpoint ID '01' stands here twice"),
        (set_at(*M, 0, "id", "00" * 8), "epochs[0].members[0].id: an Endpoint ID has at most 7 bytes"),
        (set_at(*M, 0, "roles", ["pure listener"]), "epochs[0].members[0].roles: who is a pure listener and"),
        (
            set_at(*M, 0, "roles", ["pure listener", "listener"]),
            "epochs[0].members[0].roles: a pure listener is no",
        ),
        (set_at(*M, 0, "credential", "data", "00"), "epochs[0].members[0].credential: raw credential"),
        (set_at(*M, 0, "nickname", "x"), "epochs[0].members[0]: 'nickname' is not known"),
        (remove_at(*M, 1, "name"), "epochs[0].members[1]: 'name' is missing"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: Callable[[Any], None], problem: str) -> None:
    path = lamp_directory(tmp_path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(FileFault) as caught:
        load_group(path)
    assert caught.value.problem.startswith(problem)


def test_endpoint_ids_must_fit_the_nonce(tmp_path: Path) -> None:
    path = lamp_directory(tmp_path)
    document = json.loads(path.read_text())
    document["aead"] = 12
    path.write_text(json.dumps(document))
    load_group(path)
    document["epochs"][0]["own_id"] = "0001"
    path.write_text(json.dumps(document))
    with pytest.raises(FileFault, match="at most 1 bytes with AES-CCM-64-64-128"):
        load_group(path)


def test_the_identity_must_fit_the_algorithm(tmp_path: Path) -> None:
    save_identity(tmp_path / "identity.json", generate_identity("lamp-1", SIGNATURE_ALGORITHMS[-7]))
    path = tmp_path / "room.group.json"
    save_group(path, configuration())
    with pytest.raises(FileFault, match=r"signature: the identity has a key for ES256"):
        load_group(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("224.0.1.187", "224.0.1.187"),
        ("224.0.1.187:5683", "224.0.1.187"),
        ("224.0.1.187:61616", "224.0.1.187:61616"),
        ("ff05::fd", "[ff05::fd]"),
        ("[ff05::fd]", "[ff05::fd]"),
        ("[ff05::fd]:61616", "[ff05::fd]:61616"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    address = parse_address(text)
    assert str(address) == shown
    assert parse_address(shown) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "224.0.1.187:",
        "[ff05::fd",
        "[ff05::fd]x",
        "[ff05::fd]:",
        "224.0.1.187:٣",
        "224.0.1.187:99999",
        "[]",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(MisuseError):
        parse_address(text)


LEAVES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just([]) | st.just({})
)


def ways(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(longer for step, inner in inside for longer in ways(inner, (*way, step)))]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=LEAVES)
def test_any_value_anywhere_is_read_or_refused(tmp_path: Path, data: st.DataObject, value: Any) -> None:
    path = tmp_path / "room.group.json"
    if not path.exists():
        lamp_directory(tmp_path)
        (tmp_path / "original").write_bytes(path.read_bytes())
    document = json.loads((tmp_path / "original").read_text())
    way = data.draw(st.sampled_from(ways(document)[1:]))
    set_at(*way, value)(document)
    path.write_text(json.dumps(document))
    with suppress(FileFault):
        load_group(path)


def test_a_group_manager_s_own_credential_is_kept_as_it_came(tmp_path: Path) -> None:
    lamp_directory(tmp_path)
    credential = generate_identity("manager").credential
    with_manager = replace(configuration(), manager_credential=credential)
    path = tmp_path / "managed.group.json"
    save_group(path, with_manager)
    assert load_group(path).manager_credential == credential
    damaged = json.loads(path.read_text())
    damaged["manager_credential"]["data"] = "00"
    path.write_text(json.dumps(damaged))
    with pytest.raises(FileFault, match="manager_credential"):
        load_group(path)
