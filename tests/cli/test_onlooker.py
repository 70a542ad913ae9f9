"""Keys from several places: put together where they agree, refused where they do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groupcoap.cli.known import Keys
from groupcoap.cli.onlooker import Onlooker, onlooker
from groupcoap.cli.watched import PairwiseKeysNeeded
from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.profile import RequestIds
from groupcoap.errors import FileFault, Reason, Rejected
from groupcoap.files.checker import checked_group
from groupcoap.files.provisioned import load_member

from .scene import DRAFT, LIGHT, OBSERVE, TODAY, Speaker, checkers_view, provisioned, renewed, speaker, view_of

GROUP_FILE = "room.group.json"


@pytest.fixture(params=[DRAFT, TODAY])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return provisioned(tmp_path / "home", request.param)


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
    document["aead"] = 30


def other_member(document: dict[str, Any]) -> None:
    members = {member["name"]: member for member in document["epochs"][0]["members"]}
    one, other = members["switch-1"], members["lamp-1"]
    one["credential"], other["credential"] = other["credential"], one["credential"]


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
    assert opened.epoch.group == opened.question.epoch.group == "room"


def test_only_a_request_is_answered(home: Path) -> None:
    view = view_of(home / "lamp-1")
    switch, lamp = speaker(home / "switch-1"), speaker(home / "lamp-1")
    asked = switch.request(coap.GET, LIGHT)
    request = coap.decode(asked)
    answer = coap.decode(lamp.answer(switch.asked[asked], coap.CONTENT))
    assert view.open_response(answer, request).sender_id == lamp.sender.sender_id
    for message in (request._replace(code=coap.CONTENT), request._replace(options=((coap.OBJECT_SECURITY, b""),))):
        with pytest.raises(Rejected) as caught:
            view.open_response(answer, message)
        assert caught.value.reason is Reason.MALFORMED


# ---- pairwise mode, and signature checkers


def other_manager(document: dict[str, Any]) -> None:
    document["manager_credential"] = document["epochs"][0]["members"][0]["credential"]


def other_claims(document: dict[str, Any]) -> None:
    """The same key, but as of somebody called swytch-1."""
    members = {member["name"]: member for member in document["epochs"][0]["members"]}
    credential = members["switch-1"]["credential"]
    credential["data"] = credential["data"].replace(b"switch-1".hex(), b"swytch-1".hex())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (other_manager, "has other keys or algorithms than in"),
        (other_claims, "Endpoint ID 00 has another credential than in"),
    ],
)
def test_what_messages_are_bound_to_must_be_the_same(
    today: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    with pytest.raises(FileFault) as caught:
        view_of(today / "lamp-1", changed(today, "lamp-2", change))
    assert problem in caught.value.problem


@pytest.fixture
def today(tmp_path: Path) -> Path:
    return provisioned(tmp_path / "today", TODAY, "--pure-listeners", "1")


def opened_by(view: Onlooker, datagram: bytes) -> bytes | None:
    """Whom a request in pairwise mode is for, as far as this one can tell."""
    try:
        found = view.open_request(coap.decode(datagram), None)
    except PairwiseKeysNeeded:
        return None
    assert found.refused is None
    assert found.message is not None
    assert found.message.payload == b"40"
    return found.peer


@pytest.mark.parametrize("for_lamp", [1, 2])
def test_only_the_files_of_one_of_the_two_read_what_is_in_pairwise_mode(today: Path, for_lamp: int) -> None:
    switch = speaker(today / "switch-1")
    asked = switch.request(coap.PUT, LIGHT, payload=b"40", only=bytes((for_lamp,)))
    able = {
        name: opened_by(view_of(today / name), asked) is not None
        for name in ("switch-1", "lamp-1", "lamp-2", "panel-1")
    }
    assert able == {"switch-1": True, f"lamp-{for_lamp}": True, f"lamp-{3 - for_lamp}": False, "panel-1": False}
    assert opened_by(view_of(today / "lamp-1", today / "lamp-2"), asked) == bytes((for_lamp,))
    assert opened_by(view_of(today / "switch-1"), asked) == bytes((for_lamp,))


def refused_as(view: Onlooker, datagram: bytes) -> Reason | None:
    try:
        view.open_request(coap.decode(datagram), None)
    except PairwiseKeysNeeded:
        return None
    except Rejected as rejection:
        return rejection.reason
    raise AssertionError("accepted")


def test_what_nobody_can_read_is_refused_only_if_all_keys_are_there(today: Path) -> None:
    asked = speaker(today / "switch-1").request(coap.PUT, LIGHT, payload=b"40", only=b"\x01")
    forged = asked[:-1] + bytes((asked[-1] ^ 1,))
    assert refused_as(view_of(today / "lamp-1"), forged) is None  # it may be for lamp-2
    assert refused_as(view_of(today / "switch-1"), forged) is Reason.DECRYPTION_FAILED
    assert refused_as(view_of(today / "lamp-1", today / "lamp-2"), forged) is Reason.DECRYPTION_FAILED


def test_without_the_pairwise_mode_in_the_group_it_is_refused(tmp_path: Path) -> None:
    home = provisioned(tmp_path / "home", TODAY, "--no-pairwise")
    asked = coap.decode(speaker(home / "switch-1").request(coap.GET, LIGHT))
    value = asked.option(coap.OBJECT_SECURITY)
    assert value is not None
    pairwise = asked._replace(options=((coap.OBJECT_SECURITY, bytes((value[0] & ~0x20,)) + value[1:]),))
    assert refused_as(view_of(home / "lamp-1"), coap.encode(pairwise)) is Reason.NO_PAIRWISE_MODE


@pytest.fixture
def speakers(today: Path) -> tuple[Speaker, Speaker]:
    return speaker(today / "switch-1", 300), speaker(today / "lamp-1", 20)


@pytest.mark.parametrize("asked_alone", [False, True])
@pytest.mark.parametrize("answered_alone", [False, True])
@pytest.mark.parametrize("fresh", [False, True])
def test_answers_in_all_four_mixes_of_modes(
    today: Path, speakers: tuple[Speaker, Speaker], asked_alone: bool, answered_alone: bool, fresh: bool
) -> None:
    switch, lamp = speakers
    datagram = switch.request(coap.GET, LIGHT, only=b"\x01" if asked_alone else None)
    request = coap.decode(datagram)
    answer = lamp.answer(
        switch.asked[datagram],
        coap.CONTENT,
        payload=b"on",
        fresh=fresh,
        only=b"\x00" if answered_alone else None,
        asked_alone=asked_alone,
    )
    for device in ("switch-1", "lamp-1"):
        view = view_of(today / device)
        asked = view.open_request(request, None).question
        found = view.open_response(coap.decode(answer), request, asked)
        assert (found.sender_id, found.peer) == (b"\x01", b"\x00" if answered_alone else None)
        assert found.refused is None
        assert found.message is not None
        assert found.message.payload == b"on"
    for device in ("lamp-2", "panel-1"):
        view = view_of(today / device)
        if not answered_alone:
            assert view.open_response(coap.decode(answer), request).sender_id == b"\x01"
            continue
        with pytest.raises(PairwiseKeysNeeded) as caught:
            view.open_response(coap.decode(answer), request)
        two = (caught.value.sender_id, caught.value.peer)
        # Who is asked alone is named nowhere, and its answer does not say who it is from.
        assert two == ((b"\x00", None) if asked_alone else (b"\x01", b"\x00"))


def test_an_answer_that_does_not_say_who_it_is_from_is_found_among_all(
    today: Path, speakers: tuple[Speaker, Speaker]
) -> None:
    """Group mode without kid, to a request in pairwise mode: allowed, though nobody here does it."""
    switch, lamp = speakers
    datagram = switch.request(coap.GET, LIGHT, only=b"\x01")
    ids = switch.asked[datagram]
    common, sender = lamp.security.common, lamp.sender
    prepared = common.profile.binder(common, ids.kid, ids.gid)(ids.partial_iv)
    value, payload, _, _ = common.profile.seal(
        sender,
        sender.channel,
        prepared,
        common.nonce(ids.kid, ids.partial_iv),
        (None, None, None, True, False),
        b"\x44",
    )
    answer = Message(coap.NON, coap.CHANGED, 1, b"\xaa", ((coap.OBJECT_SECURITY, value),), payload)
    request = coap.decode(datagram)
    for device in ("lamp-1", "lamp-2", "panel-1"):
        for view in (view_of(today / device), checkers_view(today / device)):
            found = view.open_response(answer, request)
            assert (found.sender_id, found.refused) == (b"\x01", None)
    forged = answer._replace(payload=payload[:-1] + bytes((payload[-1] ^ 1,)))
    assert view_of(today / "lamp-2").open_response(forged, request).refused is not None
    with pytest.raises(Rejected):
        checkers_view(today / "lamp-2").open_response(forged, request)


def test_who_answers_in_the_place_of_who_was_asked_is_refused(
    today: Path, speakers: tuple[Speaker, Speaker]
) -> None:
    switch, _ = speakers
    other = speaker(today / "lamp-2")
    datagram = switch.request(coap.GET, LIGHT, only=b"\x01")
    request = coap.decode(datagram)
    answer = coap.decode(other.answer(switch.asked[datagram], coap.CONTENT, only=b"\x00"))
    view = view_of(today / "switch-1")
    with pytest.raises(Rejected) as caught:
        view.open_response(answer, request, view.open_request(request, None).question)
    assert caught.value.reason is Reason.OTHER_RESPONDER


def test_what_is_inside_decides_about_notifications(today: Path, speakers: tuple[Speaker, Speaker]) -> None:
    switch, lamp = speakers
    view = view_of(today / "lamp-2")

    def verdict(*options: tuple[int, bytes], strip: bool) -> Reason | None:
        datagram = switch.request(coap.GET, LIGHT, *options)
        request = coap.decode(datagram)
        notification = coap.decode(
            lamp.answer(switch.asked[datagram], coap.CONTENT, (coap.OBSERVE, b"\x07"), fresh=True)
        )
        if strip:  # as a proxy may
            request, notification = (
                m._replace(options=tuple(o for o in m.options if o[0] != coap.OBSERVE))
                for m in (request, notification)
            )
        opened = view.open_response(notification, request, view.open_request(request, None).question)
        assert opened.message is not None
        assert opened.message.option(coap.OBSERVE) == b""
        return None if opened.refused is None else opened.refused.reason

    for strip in (False, True):
        assert verdict(OBSERVE, strip=strip) is None
        assert verdict(strip=strip) is Reason.NOT_OBSERVED
        assert verdict((coap.OBSERVE, b"\x01"), strip=strip) is Reason.NOT_OBSERVED


@pytest.mark.parametrize("encryption", ["AES-CCM-16-64-128", "A128CTR"])
def test_a_later_answer_need_not_say_that_it_is_under_a_newer_gid(tmp_path: Path, encryption: str) -> None:
    before = provisioned(tmp_path / "before", TODAY, "--group-encryption", encryption)
    after = renewed(before, tmp_path / "after")
    switch, lamp, late = (
        speaker(before / "switch-1", 300),
        speaker(before / "lamp-1", 20),
        speaker(after / "lamp-1", 5),
    )
    datagram = switch.request(coap.GET, LIGHT, OBSERVE)
    request = coap.decode(datagram)
    for answerer in (lamp, late):
        said = coap.decode(
            answerer.answer(switch.asked[datagram], coap.CONTENT, (coap.OBSERVE, b"\x01"), fresh=True)
        )
        if answerer is late:
            said = without_gid(late, switch.asked[datagram], said)
        for known in ((before / "lamp-2", after / "lamp-2"), (after / "lamp-2", before / "lamp-2")):
            for view in (view_of(*known), checkers_view(*known)):
                found = view.open_response(said, request, view.open_request(request, None).question)
                assert (found.refused, found.sender_id) == (None, b"\x01")
                assert found.epoch.gid == answerer.gid


def without_gid(late: Speaker, ids: RequestIds, said: Message) -> Message:
    """The same answer as the second of a long exchange, which may leave the Gid out."""
    common, sender = late.security.common, late.sender
    prepared = common.profile.binder(common, ids.kid, ids.gid)(ids.partial_iv)
    nonce = common.nonce(sender.sender_id, b"\x06")
    header = (b"\x06", None, sender.sender_id, True, False)
    value, payload, _, _ = common.profile.seal(sender, sender.channel, prepared, nonce, header, b"\x45\x60")
    options = tuple((n, value if n == coap.OBJECT_SECURITY else old) for n, old in said.options)
    return said._replace(options=options, payload=payload)


def test_a_checker_says_who_and_no_more(today: Path, speakers: tuple[Speaker, Speaker]) -> None:
    switch, lamp = speakers
    view = checkers_view(today / "panel-1")
    datagram = switch.request(coap.GET, LIGHT, OBSERVE)
    request = coap.decode(datagram)
    asked = view.open_request(request, None)
    assert (asked.sender_id, asked.message, asked.refused, asked.readable) == (b"\x00", None, None, False)
    answer = coap.decode(lamp.answer(switch.asked[datagram], coap.CONTENT, (coap.OBSERVE, b"\x01"), fresh=True))
    found = view.open_response(answer, request, asked.question)
    assert (found.sender_id, found.message, found.refused) == (b"\x01", None, None)
    confirmable = request._replace(type=coap.CON)
    assert view.open_request(confirmable, None).sender_id == b"\x00"
    with pytest.raises(Rejected) as caught:
        view.open_request(confirmable, b"\xe0\0\1\xbb")
    assert caught.value.reason is Reason.NOT_FOR_MULTICAST


def test_with_a_member_beside_the_checker_everything_is_read(
    today: Path, speakers: tuple[Speaker, Speaker]
) -> None:
    group = load_member(today / "lamp-2").groups[0]
    both: list[Keys] = [(Path("gate.json"), checked_group(group)), (Path("lamp-2"), group)]
    for keys in (both, both[::-1]):
        view = onlooker(keys)
        (epoch,) = view.epochs
        opened = view.open_request(coap.decode(speakers[0].request(coap.GET, LIGHT)), None)
        assert opened.readable
        assert opened.message is not None
        assert epoch.members[b"\x00"].roles  # which the checker's file does not tell


def test_a_checker_of_other_keys_contradicts(today: Path) -> None:
    group = load_member(today / "lamp-1").groups[0]
    other = load_member(changed(today, "lamp-2", other_secret)).groups[0]
    contradictions: list[list[Keys]] = [
        [(Path("lamp-1"), group), (Path("gate.json"), checked_group(other))],
        [(Path("gate.json"), checked_group(group)), (Path("lamp-2"), other)],
        [(Path("one.json"), checked_group(group)), (Path("other.json"), checked_group(other))],
    ]
    for keys in contradictions:
        with pytest.raises(FileFault, match="has other keys or algorithms than in") as caught:
            onlooker(keys)
        assert caught.value.path == keys[1][0]
