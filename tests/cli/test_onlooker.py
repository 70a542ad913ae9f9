"""Keys from several places: put together where they agree, refused where they do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groupcoap.cli.onlooker import Onlooker
from groupcoap.core import coap
from groupcoap.errors import FileFault, Reason, Rejected

from .scene import LIGHT, provisioned, renewed, speaker, view_of

GROUP_FILE = "room.group.json"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return provisioned(tmp_path / "home")


def changed(home: Path, device: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a device's directory with another group file."""
    target = home.parent / f"changed-{device}"
    shutil.copytree(home / device, target)
    document = json.loads((target / GROUP_FILE).read_text())
    change(document)
    (target / GROUP_FILE).write_text(json.dumps(document))
    return target


def refusal(view: Onlooker, home: Path) -> Reason | None:
    """Why a request of the switch there cannot be verified; None if it can."""
    message = coap.decode(speaker(home / "switch-1").request(coap.GET, LIGHT))
    try:
        refused = view.open_request(message, None).refused
    except Rejected as rejection:
        return rejection.reason
    return None if refused is None else refused.reason


def test_the_same_epoch_from_several_devices_is_one(home: Path) -> None:
    view = view_of(home / "switch-1", home / "lamp-1", home / "lamp-1" / GROUP_FILE)
    (epoch,) = view.epochs
    assert sorted(member.name for member in epoch.members.values()) == ["lamp-1", "lamp-2", "switch-1"]
    assert epoch.own_ids == {b"\x00", b"\x01"}
    assert view.locate(epoch.gid) == [epoch]
    assert view.locate(None) == view.locate(b"another") == []


def test_members_and_addresses_that_only_one_file_knows_are_put_together(home: Path) -> None:
    def without_switch(document: dict[str, Any]) -> None:
        members = document["epochs"][0]["members"]
        document["epochs"][0]["members"] = [member for member in members if member["name"] != "switch-1"]
        document["addresses"] = ["ff05::fd"]

    partial = changed(home, "lamp-1", without_switch)
    assert refusal(view_of(partial), home) is Reason.NO_PUBLIC_KEY
    both = view_of(partial, home / "lamp-2")
    assert refusal(both, home) is None
    assert [str(address) for address in both.epochs[0].addresses] == ["[ff05::fd]", "224.0.1.187"]


def test_epochs_from_before_and_after_a_renewal(home: Path) -> None:
    after = renewed(home, home.parent / "after")
    for devices in ((home / "lamp-1", after / "lamp-2"), (after / "lamp-2", home / "lamp-1")):
        view = view_of(*devices)
        assert sorted((epoch.number, epoch.current) for epoch in view.epochs) == [(0, False), (1, True)]
        assert refusal(view, home) is None
        assert refusal(view, after) is None


def test_of_epochs_with_other_prefixes_each_file_says_which_is_current(home: Path) -> None:
    def another_prefix(document: dict[str, Any]) -> None:
        (epoch,) = document["epochs"]
        document["epochs"].append({**epoch, "gid": "ab" * 9, "master_secret": "55" * 16})

    view = view_of(home / "lamp-1", changed(home, "lamp-2", another_prefix))
    assert sorted((epoch.number, epoch.current) for epoch in view.epochs if epoch.number is not None) == [
        (0, False)
    ]
    assert [(epoch.gid, epoch.current) for epoch in view.epochs if epoch.number is None] == [(b"\xab" * 9, True)]


def departed(document: dict[str, Any]) -> None:
    (epoch,) = document["epochs"]
    epoch["members"] = [member for member in epoch["members"] if member["name"] != "switch-1"]
    epoch["departed"] = ["00"]


def test_who_has_left_in_one_file_is_still_a_member_in_an_older_one(home: Path) -> None:
    gone = changed(home, "lamp-1", departed)
    assert refusal(view_of(gone), home) is Reason.UNKNOWN_SENDER
    assert refusal(view_of(gone, home / "lamp-2"), home) is None


def other_secret(document: dict[str, Any]) -> None:
    document["epochs"][0]["master_secret"] = "99" * 16


def other_algorithm(document: dict[str, Any]) -> None:
    document["kdf"] = "sha512"


def other_member(document: dict[str, Any]) -> None:
    members = {member["name"]: member for member in document["epochs"][0]["members"]}
    members["switch-1"]["credential"] = members["lamp-1"]["credential"]


def other_name(document: dict[str, Any]) -> None:
    document["name"] = "hall"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (other_secret, "has other keys or algorithms than in"),
        (other_algorithm, "has other keys or algorithms than in"),
        (other_member, "Endpoint ID 00 has another public key than in"),
        (other_name, "group hall: there already is a security context"),
    ],
)
def test_contradictions_are_refused_and_name_both_files(
    home: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    second = changed(home, "lamp-2", change)
    with pytest.raises(FileFault) as caught:
        view_of(home / "lamp-1", second)
    assert problem in caught.value.problem
    assert caught.value.path == second
    assert change is other_name or str(home / "lamp-1") in caught.value.problem
    assert "\n" not in str(caught.value)


def test_groups_whose_gids_collide_are_told_apart_by_their_keys(home: Path) -> None:
    def colliding(document: dict[str, Any]) -> None:
        other_secret(document)
        document |= {"name": "hall", "addresses": ["224.0.1.200"]}

    second = changed(home, "switch-1", colliding)
    view = view_of(second, home / "lamp-1")
    sender = speaker(home / "switch-1")
    assert [epoch.group for epoch in view.locate(sender.gid)] == ["hall", "room"]
    assert refusal(view, home) is None
    request = coap.decode(sender.request(coap.GET, LIGHT))
    opened = view.open_request(request, None)
    assert view.epoch_of(opened.decrypted.context).group == "room"
    assert view.exchange(request, opened.decrypted.context).context.group == "room"


def test_only_a_request_has_an_exchange(home: Path) -> None:
    view = view_of(home / "lamp-1")
    asked = coap.decode(speaker(home / "switch-1").request(coap.GET, LIGHT))
    assert view.exchange(asked).ids.kid == b"\x00"
    for message in (asked._replace(code=coap.CONTENT), asked._replace(options=((coap.OBJECT_SECURITY, b""),))):
        with pytest.raises(Rejected) as caught:
            view.exchange(message)
        assert caught.value.reason is Reason.MALFORMED
