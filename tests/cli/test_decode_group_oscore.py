"""`groupcoap decode` of Group OSCORE: both modes field by field, what can be told without keys, whose files it
takes for what two members say to each other, and captures of it all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from capture_bytes import pcap
from groupcoap.cli.decode import decode
from groupcoap.cli.explain import Explanation, Outcome, explain, likely_profile
from groupcoap.cli.vocabulary import option_class, option_name
from groupcoap.core import coap
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.errors import Reason
from groupcoap.files.checker import checked_group, save_checker
from groupcoap.files.keylog import KeyLog
from groupcoap.files.provisioned import load_member

from .scene import (
    GROUP,
    LAMP_1,
    LAMP_2,
    LIGHT,
    OBSERVE,
    SWITCH,
    TODAY,
    Speaker,
    Step,
    checkers_view,
    frames_of,
    provisioned,
    renewed,
    speaker,
    view_of,
)

SWITCH_ID, LAMP_1_ID, LAMP_2_ID = b"\x00", b"\x01", b"\x02"
ECHO = (coap.REPEAT, bytes(8))
BETWEEN = "in pairwise mode between"


@dataclass(frozen=True)
class World:
    """A group, and one exchange in it in each mode: datagrams."""

    home: Path
    request: bytes
    response: bytes
    asked_alone: bytes
    answered_alone: bytes


def world_of(home: Path) -> World:
    switch, lamp = speaker(home / "switch-1", 300), speaker(home / "lamp-1", 20)
    request = switch.request(coap.GET, OBSERVE, LIGHT)
    asked = switch.request(coap.PUT, LIGHT, payload=b"40", only=LAMP_1_ID)
    return World(
        home,
        request,
        lamp.answer(switch.asked[request], coap.CONTENT, (coap.OBSERVE, b"\x05"), payload=b"on", fresh=True),
        asked,
        lamp.answer(switch.asked[asked], coap.CHANGED, payload=b"40%", only=SWITCH_ID, asked_alone=True),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("today")
    return world_of(provisioned(directory / "home", TODAY, "--pure-listeners", "1"))


def rows(explanation: Explanation, title: str) -> dict[str, tuple[str, str]]:
    found = next(section.rows for section in explanation.sections if section.title == title)
    return {row.name: (row.meaning, row.remark) for row in found}


def lengths(explanation: Explanation, title: str) -> dict[str, int]:
    found = next(section.rows for section in explanation.sections if section.title == title)
    return {row.name: len(row.data or b"") for row in found}


def test_group_mode_field_by_field(world: World) -> None:
    explanation = explain(world.request, view_of(world.home / "lamp-1"))
    assert rows(explanation, "Options outside") == {
        "Observe": ("0", "option 6, class E and U: for proxies, what counts is inside"),
        "OSCORE": ("17 bytes, see below", "option 9, class U"),
    }
    option = rows(explanation, "OSCORE option")
    assert option["flags"] == ("00111010", "group mode, Gid, kid, Partial IV of 2")
    assert option["Partial IV"][0] == "sequence number 300"
    assert option["Gid"] == ("group room", "epoch 0, current Security Context")
    assert option["kid"] == ("Endpoint ID 00", "switch-1, multicaster")
    assert rows(explanation, "Payload") == {
        "ciphertext": ("8 bytes, AES-CCM-16-64-128", ""),
        "tag": ("8 bytes", ""),
        "countersignature": ("64 bytes, encrypted, EdDSA (Ed25519)", ""),
    }
    assert rows(explanation, "Decrypted") == {
        "code": ("0.01 GET", ""),
        "Observe": ("0", "option 6, class E and U"),
        "Uri-Path": ("light", "option 11, class E"),
    }
    assert explanation.verdict.text == ("decrypted, and the countersignature is right: from switch-1, multicaster")


@pytest.mark.parametrize("device", ["switch-1", "lamp-1"])
def test_pairwise_mode_field_by_field(world: World, device: str) -> None:
    explanation = explain(world.asked_alone, view_of(world.home / device))
    assert rows(explanation, "OSCORE option")["flags"] == ("00011010", "pairwise mode, Gid, kid, Partial IV of 2")
    assert rows(explanation, "Payload") == {
        "ciphertext": ("10 bytes, AES-CCM-16-64-128", ""),
        "tag": ("8 bytes", ""),
    }
    assert rows(explanation, "Decrypted")["payload"] == ("40", "2 bytes")
    assert explanation.verdict.text == (
        "decrypted, in pairwise mode: from switch-1 for lamp-1; only these two could have made it"
    )
    answer = explain(world.answered_alone, view_of(world.home / device), request=world.asked_alone)
    own = " (this device itself)" if device == "lamp-1" else ""
    assert rows(answer, "OSCORE option") == {
        "value": ("(empty)", "all flags 0"),
        "kid": ("left out: Endpoint ID 01, who was asked", f"lamp-1, listener{own}"),
    }
    assert answer.verdict.text == (
        "decrypted, in pairwise mode: from lamp-1 for switch-1; only these two could have made it"
    )


def test_whose_files_it_takes_is_said_and_is_no_refusal(world: World) -> None:
    for device in ("lamp-2", "panel-1"):
        view = view_of(world.home / device)
        request = explain(world.asked_alone, view)
        assert request.verdict.outcome is Outcome.NOT_TRIED
        assert request.verdict.reason is None
        assert request.verdict.text == (
            f"not decrypted: {BETWEEN} switch-1 and another member: takes the member files of one of them"
        )
        assert rows(request, "OSCORE option")["kid"] == ("Endpoint ID 00", "switch-1, multicaster")
        answer = explain(world.answered_alone, view, request=world.asked_alone).verdict
        assert answer.text == request.verdict.text
        assert answer.cause == "in pairwise mode between others: takes the member files of one of them"


def test_an_answer_in_pairwise_mode_to_a_request_for_all_names_both(world: World) -> None:
    switch, lamp = speaker(world.home / "switch-1"), speaker(world.home / "lamp-2")
    asked = switch.request(coap.GET, LIGHT)
    answer = lamp.answer(switch.asked[asked], coap.CONTENT, only=SWITCH_ID)
    verdict = explain(answer, view_of(world.home / "lamp-1"), request=asked).verdict
    assert verdict.text.startswith("not decrypted: in pairwise mode between lamp-2 and switch-1: takes the member")
    both = explain(answer, view_of(world.home / "lamp-2"), request=asked)
    assert both.verdict.text.startswith("decrypted, in pairwise mode: from lamp-2 for switch-1;")
    assert rows(both, "OSCORE option")["flags"] == ("00001000", "pairwise mode, kid, no Partial IV")


@pytest.mark.parametrize(
    ("options", "payload"),
    [
        (
            ("--group-encryption", "A128CTR", "--signature", "es256"),
            {
                "ciphertext": ("8 bytes, A128CTR", ""),
                "countersignature": ("64 bytes, encrypted, ES256 (P-256)", ""),
            },
        ),
        (
            ("--no-pairwise", "--signature", "es384", "--aead", "ChaCha20/Poly1305"),
            {
                "ciphertext": ("8 bytes, ChaCha20/Poly1305", ""),
                "tag": ("16 bytes", ""),
                "countersignature": ("96 bytes, encrypted, ES384 (P-384)", ""),
            },
        ),
    ],
)
def test_the_payload_is_split_as_the_algorithms_say(
    tmp_path: Path, options: tuple[str, ...], payload: dict[str, tuple[str, str]]
) -> None:
    home = provisioned(tmp_path / "home", TODAY, *options)
    asked = speaker(home / "switch-1").request(coap.GET, OBSERVE, LIGHT)
    explanation = explain(asked, view_of(home / "lamp-1"))
    assert explanation.verdict.outcome is Outcome.VERIFIED
    assert rows(explanation, "Payload") == payload


@pytest.mark.parametrize("which", ["request", "response", "asked_alone", "answered_alone"])
def test_every_byte_of_option_and_payload_stands_there_once(world: World, which: str) -> None:
    datagram = getattr(world, which)
    message = coap.decode(datagram)
    for view in (None, view_of(world.home / "lamp-1"), checkers_view(world.home / "lamp-1")):
        for cut in (message, message._replace(payload=message.payload[:20]), message._replace(payload=b"x")):
            explanation = explain(coap.encode(cut), view, request=world.request)
            for title, whole in (
                ("OSCORE option", message.option(coap.OBJECT_SECURITY)),
                ("Payload", cut.payload),
            ):
                section = next(section for section in explanation.sections if section.title == title)
                assert b"".join(row.data or b"" for row in section.rows) == whole


def flipped(datagram: bytes, at: int) -> bytes:
    return datagram[:at] + bytes((datagram[at] ^ 1,)) + datagram[at + 1 :]


def test_a_wrong_countersignature_is_said_and_what_is_inside_shown_as_such(world: World) -> None:
    explanation = explain(flipped(world.request, len(world.request) - 1), view_of(world.home / "lamp-1"))
    assert explanation.verdict.reason is Reason.SIGNATURE_FAILED
    assert rows(explanation, "Decrypted, NOT authentic")["Uri-Path"][0] == "light"
    garbled = explain(flipped(world.request, len(world.request) - 65), view_of(world.home / "lamp-1"))
    assert garbled.verdict.reason is Reason.DECRYPTION_FAILED


def test_an_echo_and_a_challenge_have_the_names_of_today(world: World) -> None:
    switch, lamp = speaker(world.home / "switch-1"), speaker(world.home / "lamp-1")
    asked = switch.request(coap.GET, LIGHT)
    challenge = lamp.answer(switch.asked[asked], coap.UNAUTHORIZED, ECHO, fresh=True)
    explanation = explain(challenge, view_of(world.home / "lamp-2"), request=asked)
    assert rows(explanation, "Decrypted")["Echo"] == ("0000000000000000", "option 252, class E")
    echo = switch.request(coap.GET, LIGHT, ECHO, only=LAMP_1_ID)
    assert explain(echo, view_of(world.home / "lamp-1")).verdict.outcome is Outcome.VERIFIED


def test_names_and_classes_of_options() -> None:
    assert (option_name(252), option_name(252, GROUP_OSCORE)) == ("Repeat", "Echo")
    assert (option_name(9, MULTICAST_OSCORE_04), option_name(9, GROUP_OSCORE)) == ("Object-Security", "OSCORE")
    assert (option_name(4711, GROUP_OSCORE), option_class(4711, GROUP_OSCORE)) == ("option 4711", "E")
    assert [option_class(6, profile) for profile in (None, MULTICAST_OSCORE_04, GROUP_OSCORE)] == [
        "U",
        "U",
        "E and U",
    ]
    assert [option_class(16, profile) for profile in (MULTICAST_OSCORE_04, GROUP_OSCORE)] == ["E", "U"]


def test_groups_of_both_profiles_under_one_gid_are_told_apart(tmp_path: Path) -> None:
    draft, today = provisioned(tmp_path / "draft"), provisioned(tmp_path / "today", TODAY)
    gid = load_member(draft / "lamp-1").groups[0].current.gid.hex()
    for path in today.glob("*/room.group.json"):
        document = json.loads(path.read_text())
        document["epochs"][0]["gid"] = gid
        path.write_text(json.dumps({**document, "name": "hall", "addresses": ["224.0.1.200"]}))
    view = view_of(draft / "lamp-1", today / "lamp-1")
    of_draft = explain(speaker(draft / "switch-1").request(coap.GET, LIGHT), view)
    of_today = explain(
        speaker(today / "switch-1", group_name="hall").request(coap.GET, LIGHT, only=LAMP_1_ID),
        view,
        destination_known=True,
    )
    for explanation, title, group in ((of_draft, "Object-Security", "room"), (of_today, "OSCORE option", "hall")):
        assert explanation.verdict.outcome is Outcome.VERIFIED
        assert rows(explanation, title)["Gid"][0] == f"group {group}"


# ---- without keys


def test_without_keys_the_length_tells_the_profiles_apart(world: World) -> None:
    option = rows(explain(world.request), "OSCORE option")
    assert option["read as"] == (
        "group-oscore in group mode",
        "by its length: multicast-oscore-04 has the countersignature here",
    )
    assert option["flags"] == ("00111010", "group mode, Gid, kid, Partial IV of 2")
    assert option["kid"] == ("Endpoint ID 00", "")
    payload = rows(explain(world.request), "Payload")
    assert payload["ciphertext"][0] == "80 bytes with its tag, if it has one, and its encrypted countersignature"


def test_without_keys_pairwise_mode_looks_like_rfc_8613(world: World) -> None:
    explanation = explain(world.asked_alone)
    option = rows(explanation, "OSCORE option")
    assert option["read as"] == ("RFC 8613, or group-oscore in pairwise mode", "they look the same")
    assert option["flags"] == ("00011010", "Gid, kid, Partial IV of 2")
    assert explanation.verdict.outcome is Outcome.NOT_TRIED
    elsewhere = world.asked_alone.replace(world.asked_alone[9:21], bytes(12))
    of_others = explain(elsewhere, view_of(world.home / "lamp-1")).verdict
    assert of_others.text == "not decrypted: it looks like RFC 8613, or like a group's pairwise mode"


@pytest.mark.parametrize(
    ("value", "profile"),
    [
        (b"\x39\x05\x01G\x00", GROUP_OSCORE),
        (b"\x20", GROUP_OSCORE),
        (b"", GROUP_OSCORE),
        (b"\x39\x05\x01G" + bytes(7), GROUP_OSCORE),
        (b"\x39\x05\x01G" + bytes(8), None),
        (b"\x39\x05\x01G" + bytes(63), None),
        (b"\x39\x05\x01G" + bytes(64), MULTICAST_OSCORE_04),
        (b"\x28" + bytes(65), MULTICAST_OSCORE_04),
        (b"\x08" + bytes(65), None),
        (b"\x0f\x01", None),
    ],
)
def test_what_an_option_looks_like(value: bytes, profile: Any) -> None:
    assert likely_profile(value) is profile


def test_an_option_of_no_length_that_there_is_is_called_so() -> None:
    datagram = bytes.fromhex("50020001") + bytes((0x9D, 12 - 5)) + b"\x39\x05\x01G" + bytes(16) + b"\xffx" * 40
    message = coap.decode(datagram)
    explanation = explain(datagram)
    assert rows(explanation, "Object-Security")["read as"] == (
        "malformed",
        "of no length that multicast-oscore-04 or group-oscore has",
    )
    assert message.option(coap.OBJECT_SECURITY) == b"\x39\x05\x01G" + bytes(16)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_bytes_are_explained_and_nothing_changed_is_authentic(world: World, data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([world.request, world.response, world.asked_alone, world.answered_alone]))
    at = data.draw(st.integers(0, len(original)))
    rest = original[data.draw(st.integers(at, len(original))) :]
    datagram = original[:at] + data.draw(st.binary(max_size=8)) + rest
    for view in (view_of(world.home / "lamp-1"), checkers_view(world.home / "lamp-2")):
        for request in (None, world.request, world.asked_alone, datagram):
            verdict = explain(datagram, view, request=request).verdict
            if verdict.outcome.authentic and datagram != original:
                found, meant = coap.decode(datagram), coap.decode(original)
                protected = (found.option(coap.OBJECT_SECURITY), found.payload)
                assert protected == (meant.option(coap.OBJECT_SECURITY), meant.payload)
    explain(datagram)


# ---- the command, and captures


def run(*arguments: object) -> Result:
    return CliRunner().invoke(decode, [str(argument) for argument in arguments])


@dataclass(frozen=True)
class Scene:
    """A capture of all mixes of modes, with a renewal in the middle of an observation, and who took part."""

    before: Path
    after: Path
    steps: tuple[Step, ...]
    directory: Path

    @property
    def capture(self) -> Path:
        return self.directory / "room.pcap"

    def keys(self, name: str) -> tuple[object, ...]:
        return "--member", self.before / name, "--member", self.after / name

    @property
    def logs(self) -> tuple[object, ...]:
        return "--key-log", self.directory / "before.log", "--key-log", self.directory / "after.log"

    @property
    def checkers(self) -> tuple[object, ...]:
        return "--checker", self.directory / "before.json", "--checker", self.directory / "after.json"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    directory = tmp_path_factory.mktemp("scene")
    before = provisioned(directory / "before", TODAY, "--pure-listeners", "1")
    after = renewed(before, directory / "after")
    switch, lamp_1, lamp_2 = (
        speaker(before / "switch-1", 300),
        speaker(before / "lamp-1", 20),
        speaker(before / "lamp-2", 40),
    )
    later = speaker(after / "lamp-1", 3)

    def ask(where: tuple[str, int], asked: bytes) -> Step:
        return SWITCH, where, asked

    all_of_them = switch.request(coap.GET, LIGHT, OBSERVE)
    ids = switch.asked[all_of_them]
    echo = switch.request(coap.GET, LIGHT, OBSERVE, ECHO, token=b"\xbb", only=LAMP_2_ID)
    put = switch.request(coap.PUT, LIGHT, payload=b"10", token=b"\xcc", only=LAMP_1_ID)
    get = switch.request(coap.GET, LIGHT, token=b"\xdd", only=LAMP_1_ID)
    alone: dict[str, Any] = {"only": SWITCH_ID, "asked_alone": True}
    steps: tuple[Step, ...] = (
        ask(GROUP, all_of_them),
        (LAMP_1, SWITCH, lamp_1.answer(ids, coap.CONTENT, (coap.OBSERVE, b"\x01"), payload=b"on", fresh=True)),
        (LAMP_2, SWITCH, lamp_2.answer(ids, coap.UNAUTHORIZED, ECHO, only=SWITCH_ID, fresh=True)),
        ask(LAMP_2, echo),
        (
            LAMP_2,
            SWITCH,
            lamp_2.answer(switch.asked[echo], coap.CONTENT, payload=b"off", token=b"\xbb", fresh=True, **alone),
        ),
        ask(LAMP_1, put),
        (LAMP_1, SWITCH, lamp_1.answer(switch.asked[put], coap.CHANGED, token=b"\xcc", **alone)),
        (LAMP_1, SWITCH, later.answer(ids, coap.CONTENT, (coap.OBSERVE, b"\x02"), payload=b"10", fresh=True)),
        ask(LAMP_1, get),
        (
            LAMP_1,
            SWITCH,
            lamp_1.answer(switch.asked[get], coap.CONTENT, payload=b"10", token=b"\xdd", asked_alone=True),
        ),
    )
    (directory / "room.pcap").write_bytes(pcap(frames_of(steps)))
    for name, home in (("before", before), ("after", after)):
        group = load_member(home / "panel-1").groups[0]
        KeyLog(directory / f"{name}.log").record(group, group.current)
        save_checker(directory / f"{name}.json", checked_group(group))
    return Scene(before, after, steps, directory)


def texts(result: Result) -> list[str]:
    """Verdict and what is said, of each datagram."""
    lines = result.output.split("\n\n")[0].splitlines()
    return [" ".join(line[51:].split()) for line in lines]


def summary(result: Result) -> list[str]:
    return [line.strip() for line in result.output.split("\n\n")[1].splitlines()[1:]]


def test_one_of_the_two_reads_everything(scene: Scene) -> None:
    result = run(scene.capture, *scene.keys("switch-1"))
    assert texts(result) == [
        "verified switch-1 (00), epoch 0, number 300: GET /light (observe)",
        'verified lamp-1 (01), epoch 0, number 20: 2.05 Content "on" (notification), to frame 1',
        "verified lamp-2 (02) for switch-1 (00), epoch 0, number 40: 4.01 Unauthorized (challenge), to frame 1 "
        "after 500 ms",
        "verified switch-1 (00) for lamp-2 (02), epoch 0, number 301: GET /light (observe, echo of a challenge)",
        'verified lamp-2 (02) for switch-1 (00), epoch 0, number 41: 2.05 Content "off", to frame 4 after 250 ms',
        'verified switch-1 (00) for lamp-1 (01), epoch 0, number 302: PUT /light "10"',
        "verified lamp-1 (01) for switch-1 (00), epoch 0: 2.04 Changed, to frame 6 after 250 ms",
        'verified lamp-1 (01), epoch 1, number 3: 2.05 Content "10" (notification), to frame 1',
        "verified switch-1 (00) for lamp-1 (01), epoch 0, number 303: GET /light",
        'verified lamp-1 (01), epoch 0: 2.05 Content "10", to frame 9 after 250 ms',
    ]
    assert summary(result) == [
        "10  verified",
        "group room",
        "switch-1 (00)  4 requests",
        "lamp-1 (01)    4 answers, to 1 of 1 multicast request",
        "lamp-2 (02)    2 answers, to 1 of 1 multicast request",
    ]
    assert result.exit_code == 0


def test_somebody_else_and_the_key_log_read_what_is_for_all(scene: Scene) -> None:
    result = run(scene.capture, *scene.logs)
    assert [text.partition(" ")[0] for text in texts(result)] == [
        "verified" if at in (1, 2, 8, 10) else "not" for at in range(1, 11)
    ]
    assert texts(result)[2:7] == [
        f"not decrypted {BETWEEN} lamp-2 and switch-1 (group response, to frame 1 after 500 ms, as if from "
        "lamp-2 (02), epoch 0, number 40)",
        f"not decrypted {BETWEEN} switch-1 and another member (group request, as if from switch-1 (00), epoch 0, "
        "number 301)",
        f"not decrypted {BETWEEN} switch-1 and another member (group response, to frame 4 after 250 ms)",
        # lamp-1 has spoken to all from there
        f"not decrypted {BETWEEN} switch-1 and lamp-1, by the address (group request, as if from switch-1 (00), "
        "epoch 0, number 302)",
        f"not decrypted {BETWEEN} switch-1 and lamp-1, by the address (group response, to frame 6 after 250 ms)",
    ]
    assert summary(result)[:2] == [
        "6  not decrypted: in pairwise mode between others: takes the member files of one of them",
        "4  verified",
    ]
    assert result.exit_code == 1
    assert run(scene.capture, *scene.keys("panel-1")).output == result.output
    one_of_two = run(scene.capture, *scene.logs, "--member", scene.before / "lamp-2")
    assert [at for at, text in enumerate(texts(one_of_two), 1) if text.startswith("not")] == [6, 7, 9]


def test_a_checker_says_who_and_reads_nothing(scene: Scene) -> None:
    result = run(scene.capture, *scene.checkers)
    assert texts(result) == [
        "countersigned switch-1 (00), epoch 0, number 300: group request",
        "countersigned lamp-1 (01), epoch 0, number 20: group response, to frame 1 after 250 ms",
        *texts(result)[2:7],
        "countersigned lamp-1 (01), epoch 1, number 3: group response, to frame 1 after 1750 ms",
        texts(result)[8],
        "countersigned lamp-1 (01), epoch 0: group response, to frame 9 after 250 ms",
    ]
    assert summary(result) == [
        "6  not decrypted: in pairwise mode, which has no countersignature",
        "4  countersigned",
        "group room",
        "switch-1 (00)  1 request",
        "lamp-1 (01)    3 answers",
        "lamp-2 (02)    nothing",
    ]
    frame = run(scene.capture, *scene.checkers, "--frame", 8)
    assert frame.output.splitlines()[-1] == "countersignature right: from lamp-1; content not readable"
    assert frame.exit_code == 0
    assert not {'"on"', "/light", "GET"} & set(result.output.split())
    *sightings, total = [
        json.loads(line) for line in run(scene.capture, *scene.checkers, "--json").output.splitlines()
    ]
    assert (total["verified"], total["countersigned"]) == (0, 4)
    assert {sighting["payload"] for sighting in sightings} == {None}


def test_without_keys_answers_in_group_mode_find_what_looks_like_rfc_8613(scene: Scene) -> None:
    result = run(scene.capture)
    gid = load_member(scene.before / "lamp-1").groups[0].current.gid.hex()
    assert texts(result)[3:7] == ["RFC 8613 or pairwise mode"] * 4
    assert texts(result)[9] == f"not decrypted group response, to frame 9 after 250 ms, under Gid {gid}"
    assert result.exit_code == 0


def test_a_single_datagram_with_a_checker(scene: Scene) -> None:
    request, response = scene.steps[0][2].hex(), scene.steps[1][2].hex()
    result = run(request, *scene.checkers)
    assert result.output.endswith("countersignature right: from switch-1; content not readable\n")
    assert "Decrypted" not in result.output
    assert result.exit_code == 0
    answer = run(response, *scene.checkers, "--request", request)
    assert answer.output.endswith("countersignature right: from lamp-1; content not readable\n")
    forged = run(request[:-1] + "0123456789abcdef"[int(request[-1], 16) ^ 1], *scene.checkers)
    assert forged.output.endswith("refused: signature failed: 00\n")
    assert forged.exit_code == 1
    pairwise = run(scene.steps[5][2].hex(), *scene.checkers)
    assert pairwise.output.endswith("not verified: in pairwise mode, which has no countersignature\n")
    assert pairwise.exit_code == 1
    content = json.loads(run(request, *scene.checkers, "--json").output)
    assert (content["outcome"], content["reason"]) == ("countersigned", None)


def test_a_terminal_gets_colours(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = run(scene.capture, *scene.checkers).output
    assert "\x1b[32mcountersigned" in output
    single = run(scene.steps[0][2].hex(), *scene.checkers).output
    assert "\x1b[32mcountersignature right: from switch-1; content not readable\x1b" in single


def test_json_says_mode_and_recipient(scene: Scene) -> None:
    result = run(scene.capture, *scene.keys("lamp-2"), "--json")
    *sightings, total = [json.loads(line) for line in result.output.splitlines()]
    assert [sighting["mode"] for sighting in sightings] == [
        "group" if at in (1, 2, 8, 10) else "pairwise" for at in range(1, 11)
    ]
    assert {sighting["profile"] for sighting in sightings} == {TODAY}
    challenge, answer, others = sightings[2], sightings[4], sightings[5]
    assert (challenge["recipient_id"], challenge["recipient"]) == ("00", "switch-1")
    assert [option["name"] for option in challenge["options"]] == ["Echo"]
    assert (answer["sender_id"], answer["sender"]) == ("02", "lamp-2")
    assert (others["outcome"], others["reason"], others["recipient"]) == ("not tried", None, None)
    assert total["not_tried"] == {
        "in pairwise mode between others: takes the member files of one of them": 3,
    }


def test_one_frame_in_pairwise_mode_is_explained(scene: Scene) -> None:
    result = run(scene.capture, *scene.keys("lamp-2"), "--frame", 5)
    assert result.exit_code == 0
    assert result.output.endswith("from lamp-2 for switch-1; only these two could have made it\n")
    others = run(scene.capture, *scene.keys("lamp-2"), "--frame", 7)
    assert others.exit_code == 1
    assert others.output.splitlines()[-1] == (
        f"not decrypted: {BETWEEN} switch-1 and lamp-1, by the address: takes the member files of one of them"
    )


def test_no_key_is_ever_shown(scene: Scene) -> None:
    outputs = [
        run(scene.capture, *keys, *more).output
        for keys in (scene.keys("switch-1"), scene.checkers)
        for more in ((), ("--json",), ("--frame", 5))
    ]
    for home in (scene.before, scene.after):
        group = load_member(home / "switch-1").groups[0]
        epoch = group.current
        assert epoch.private_key is not None
        secrets = (epoch.master_secret, epoch.private_key.secret, checked_group(group).signature_encryption_key)
        assert not any(secret.reveal().hex() in output for secret in secrets for output in outputs)


def test_an_address_names_nobody_whom_the_message_names_already(scene: Scene, tmp_path: Path) -> None:
    switch = speaker(scene.before / "switch-1", 600)
    for_all, for_one = switch.request(coap.GET, LIGHT), switch.request(coap.GET, LIGHT, only=LAMP_1_ID)
    capture = capture_of(tmp_path / "same.pcap", (LAMP_1, GROUP, for_all), (SWITCH, LAMP_1, for_one))
    assert texts(run(capture, *scene.logs))[1].startswith(
        f"not decrypted {BETWEEN} switch-1 and another member (group request"
    )


def test_without_a_tag_too_an_answer_finds_the_request_before_the_refresh(tmp_path: Path) -> None:
    """In counter mode anything can be decrypted: only the countersignature tells what it answers."""
    home = provisioned(tmp_path / "home", TODAY, "--group-encryption", "A128CTR")
    switch, lamp = speaker(home / "switch-1", 300), speaker(home / "lamp-1", 20)
    begun, refreshed = (switch.request(coap.GET, OBSERVE, LIGHT) for _ in range(2))
    notification = lamp.answer(switch.asked[begun], coap.CONTENT, (coap.OBSERVE, b"\x01"), fresh=True)
    steps = [(SWITCH, GROUP, begun), (SWITCH, GROUP, refreshed), (LAMP_1, SWITCH, notification)]
    result = run(capture_of(tmp_path / "refreshed.pcap", *steps), "--member", home / "lamp-2")
    assert texts(result)[2] == "verified lamp-1 (01), number 20: 2.05 Content (notification), to frame 1"


# ---- nonces


def capture_of(path: Path, *steps: Step) -> Path:
    path.write_bytes(pcap(frames_of(steps)))
    return path


def test_a_number_used_twice_raises_an_alarm_whatever_the_mode(scene: Scene, tmp_path: Path) -> None:
    """All keys of a sender share one series of numbers: two messages of one number tell of a copied state."""
    again = speaker(scene.before / "switch-1", 300).request(coap.PUT, LIGHT, payload=b"0", only=LAMP_1_ID)
    capture = capture_of(tmp_path / "twice.pcap", scene.steps[0], (SWITCH, LAMP_1, again))
    result = run(capture, *scene.keys("switch-1"))
    assert result.output.count("NONCE USED TWICE") == 2
    assert result.exit_code == 1


def test_a_requests_nonce_may_be_used_under_each_key(scene: Scene, tmp_path: Path) -> None:
    lamp: Speaker = speaker(scene.before / "lamp-1", 90)
    switch: Speaker = speaker(scene.before / "switch-1", 400)
    asked = switch.request(coap.GET, LIGHT)
    ids = switch.asked[asked]
    for_all = lamp.answer(ids, coap.CONTENT, payload=b"1")
    for_one = lamp.answer(ids, coap.CONTENT, payload=b"2", only=SWITCH_ID)
    other = lamp.answer(ids, coap.CONTENT, payload=b"3")
    steps = [(SWITCH, GROUP, asked), (LAMP_1, SWITCH, for_all), (LAMP_1, SWITCH, for_one)]
    fine = run(capture_of(tmp_path / "fine.pcap", *steps), *scene.keys("switch-1"))
    assert "NONCE" not in fine.output
    assert fine.exit_code == 0
    twice = run(capture_of(tmp_path / "twice.pcap", *steps, (LAMP_1, SWITCH, other)), *scene.keys("switch-1"))
    assert "as frame 2, but another message" in twice.output
    by_checker = run(capture_of(tmp_path / "twice.pcap", *steps, (LAMP_1, SWITCH, other)), *scene.checkers)
    assert "as frame 2, but another message" in by_checker.output


def test_a_request_in_pairwise_mode_by_multicast_asks_one(scene: Scene, tmp_path: Path) -> None:
    asked = speaker(scene.before / "switch-1", 500).request(coap.GET, LIGHT, only=LAMP_1_ID)
    result = run(capture_of(tmp_path / "who.pcap", (SWITCH, GROUP, asked)), *scene.keys("switch-1"))
    assert summary(result)[1:] == [
        "group room",
        "switch-1 (00)  1 request",
        "lamp-1 (01)    nothing",
        "lamp-2 (02)    nothing",
    ]


# ---- files that are not what they should be


def test_wrong_files_are_said(scene: Scene, tmp_path: Path) -> None:
    def problem(*arguments: object) -> str:
        error = run(scene.steps[0][2].hex(), *arguments).exception
        assert isinstance(error, Exception)
        return str(error)

    log = scene.directory / "before.log"
    assert "is not a groupcoap-checker file; give the right file" in problem("--checker", log)
    assert "is no key log" in problem("--key-log", scene.directory / "before.json")
    assert "is not a groupcoap-group file" in problem("--member", scene.directory / "before.json")
    assert "groupcoap checker makes one" in problem("--checker", tmp_path / "missing")
