"""The datagrams of a capture: answers find their requests, repetitions are called so, and verdicts are right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupcoap.capture.datagrams import Datagram, Skip, Skipped
from groupcoap.cli import traffic
from groupcoap.cli.explain import Outcome
from groupcoap.cli.onlooker import Onlooker
from groupcoap.cli.traffic import Kind, Sighting, Summary, Traffic
from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.errors import Reason
from groupcoap.membership import COAP_PORT

from .scene import (
    DRAFT,
    ELSEWHERE,
    FORMAT,
    GROUP,
    LAMP_1,
    LAMP_2,
    LIGHT,
    OBSERVE,
    SWITCH,
    TODAY,
    Speaker,
    Step,
    datagrams_of,
    provisioned,
    renewed,
    speaker,
    view_of,
)


@dataclass(frozen=True)
class Homes:
    """Directories of the devices, before and after a renewal."""

    before: Path
    after: Path

    def view(self) -> Onlooker:
        return view_of(self.before / "lamp-1", self.after / "lamp-2")


@pytest.fixture(scope="module", params=[DRAFT, TODAY])
def homes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Homes:
    directory = tmp_path_factory.mktemp("traffic")
    before = provisioned(directory / "before", request.param)
    return Homes(before, renewed(before, directory / "after"))


@pytest.fixture
def view(homes: Homes) -> Onlooker:
    return view_of(homes.before / "switch-1")


@dataclass(frozen=True)
class Room:
    switch: Speaker
    lamp_1: Speaker
    lamp_2: Speaker


def room_of(home: Path) -> Room:
    return Room(speaker(home / "switch-1", 300), speaker(home / "lamp-1", 20), speaker(home / "lamp-2", 40))


@pytest.fixture
def room(homes: Homes) -> Room:
    return room_of(homes.before)


def look(view: Onlooker | None, *steps: Step, ports: tuple[int, ...] = (COAP_PORT,)) -> list[Sighting]:
    """What each of these is, as far as it is CoAP."""
    seen = Traffic(view, ports)
    sightings = [seen.look(datagram) for datagram in datagrams_of(steps)]
    return [sighting for sighting in sightings if sighting is not None]


def answered(sighting: Sighting) -> int | None:
    return None if sighting.request is None else sighting.request.datagram.number


def detail(sighting: Sighting) -> str:
    assert sighting.verdict is not None
    return sighting.verdict.detail


def reason(sighting: Sighting) -> Reason | None:
    assert sighting.verdict is not None
    return sighting.verdict.reason


def names(sightings: list[Sighting]) -> list[str | None]:
    return [None if sighting.sender is None else sighting.sender.name for sighting in sightings]


def test_one_request_and_answers_from_many(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    ids = room.switch.asked[asked]
    request, first, second = look(
        view,
        (SWITCH, GROUP, asked),
        (LAMP_1, SWITCH, room.lamp_1.answer(ids, coap.CONTENT, payload=b"on")),
        (LAMP_2, SWITCH, room.lamp_2.answer(ids, coap.CONTENT, payload=b"off", fresh=True)),
    )
    assert all(sighting.verified for sighting in (request, first, second))
    assert names([request, first, second]) == ["switch-1", "lamp-1", "lamp-2"]
    assert [s.kind for s in (request, first, second)] == [Kind.REQUEST, Kind.RESPONSE, Kind.RESPONSE]
    assert [s.sequence_number for s in (request, first, second)] == [300, None, 40]
    assert [answered(s) for s in (request, first, second)] == [None, 1, 1]
    assert [s.message.payload for s in (request, first, second) if s.message] == [b"", b"on", b"off"]
    assert request.gid == first.gid == room.switch.gid


def test_tokens_and_addresses_tell_requests_apart(room: Room, view: Onlooker) -> None:
    one, other = (room.switch.request(coap.GET, LIGHT, token=token) for token in (b"\x01", b"\x02"))
    to_one = room.lamp_1.answer(room.switch.asked[one], coap.CONTENT, token=b"\x01")
    sightings = look(
        view,
        (SWITCH, GROUP, one),
        (SWITCH, GROUP, other),
        (LAMP_1, SWITCH, to_one),
        (LAMP_1, (SWITCH[0], 40001), to_one),
        (LAMP_1, SWITCH, room.lamp_1.answer(room.switch.asked[one], coap.CONTENT, token=b"\x02")),
    )
    assert [answered(sighting) for sighting in sightings[2:]] == [1, None, 2]
    assert [sighting.verified for sighting in sightings[2:]] == [True, False, False]
    assert detail(sightings[3]) == "the request that it answers is not in the capture"
    assert reason(sightings[4]) is Reason.DECRYPTION_FAILED


def test_a_request_by_unicast_is_answered_from_where_it_went(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    answer = room.lamp_2.answer(room.switch.asked[asked], coap.CONTENT)
    request, wrong, right = look(
        view, (SWITCH, LAMP_2, asked), (LAMP_1, SWITCH, answer), (LAMP_2, SWITCH, answer), ports=(SWITCH[1],)
    )
    assert request.verified
    assert (wrong.verified, right.verified) == (False, True)
    assert right.earlier is None


def test_challenge_echo_and_answer(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.PUT, LIGHT, payload=b"40")
    repeat = (coap.REPEAT, bytes(8))
    challenge = room.lamp_2.answer(room.switch.asked[asked], coap.FORBIDDEN, repeat, fresh=True)
    echo = room.switch.request(coap.PUT, LIGHT, repeat, payload=b"40", token=b"\xbb")
    answer = room.lamp_2.answer(room.switch.asked[echo], coap.CHANGED, token=b"\xbb")
    sightings = look(
        view, (SWITCH, GROUP, asked), (LAMP_2, SWITCH, challenge), (SWITCH, LAMP_2, echo), (LAMP_2, SWITCH, answer)
    )
    assert all(
        sighting.verified for sighting in sightings
    )  # lamp-2's port is nobody's: it is followed nevertheless
    assert [answered(sighting) for sighting in sightings] == [None, 1, None, 3]
    (by_multicast,) = look(view, (SWITCH, GROUP, echo))
    assert reason(by_multicast) is Reason.REPEAT_BY_MULTICAST


def test_an_answer_after_a_renewal_is_bound_to_the_request_before_it(homes: Homes, room: Room) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    late = room_of(homes.after).lamp_1
    steps = [(SWITCH, GROUP, asked), (LAMP_1, SWITCH, late.answer(room.switch.asked[asked], coap.CONTENT))]
    request, response = look(homes.view(), *steps)
    assert (request.verified, response.verified) == (True, True)
    assert (request.gid, response.gid) == (room.switch.gid, late.gid)
    assert [s.epoch.number for s in (request, response) if s.epoch] == [0, 1]
    for known, missing in ((homes.before, late.gid), (homes.after, room.switch.gid)):
        sightings = look(view_of(known / "lamp-1"), *steps)
        assert not sightings[1].verified
        assert detail(sightings[1]) == f"no keys for its Gid {missing.hex()}"
        assert reason(sightings[1]) is Reason.UNKNOWN_GROUP


def test_an_observation_with_refreshes_and_a_renewal(homes: Homes, room: Room) -> None:
    begun = room.switch.request(coap.GET, OBSERVE, LIGHT)
    refreshed = room.switch.request(coap.GET, OBSERVE, LIGHT)
    old, new = room.switch.asked[begun], room.switch.asked[refreshed]
    later = room_of(homes.after).lamp_1

    def notify(lamp: Speaker, to: object, value: bytes) -> bytes:
        return lamp.answer(to, coap.CONTENT, (coap.OBSERVE, value), FORMAT, fresh=True)  # type: ignore[arg-type]

    sightings = look(
        homes.view(),
        (SWITCH, GROUP, begun),
        (LAMP_1, SWITCH, notify(room.lamp_1, old, b"\x01")),
        (LAMP_1, SWITCH, notify(room.lamp_1, old, b"\x02")),
        (SWITCH, GROUP, refreshed),
        (LAMP_1, SWITCH, notify(room.lamp_1, new, b"\x03")),
        (LAMP_2, SWITCH, notify(room.lamp_2, old, b"\x01")),  # it has missed the refresh
        (LAMP_1, SWITCH, notify(later, new, b"\x04")),
    )
    assert all(sighting.verified for sighting in sightings)
    assert [answered(sighting) for sighting in sightings] == [None, 1, 1, None, 4, 1, 4]
    assert not any(sighting.earlier for sighting in sightings)


def test_repetitions_are_called_so(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    answer = room.lamp_1.answer(room.switch.asked[asked], coap.CONTENT)
    sightings = look(
        view,
        (SWITCH, GROUP, asked),
        (SWITCH, GROUP, asked),
        (ELSEWHERE, GROUP, asked),
        (LAMP_1, SWITCH, answer),
        (LAMP_1, SWITCH, answer),
    )
    assert all(sighting.verified for sighting in sightings)
    assert [sighting.earlier and tuple(sighting.earlier) for sighting in sightings] == [
        None,
        (1, True, False),
        (1, True, True),
        None,
        (4, True, False),
    ]


def test_repetitions_can_be_seen_without_keys(room: Room) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    first, second = look(None, (SWITCH, GROUP, asked), (SWITCH, GROUP, asked))
    assert (first.earlier, second.earlier and second.earlier.number) == (None, 1)
    assert (first.gid, first.sequence_number, first.sender_id) == (room.switch.gid, 300, None)


def test_a_number_that_is_used_for_two_messages_raises_an_alarm(homes: Homes, room: Room, view: Onlooker) -> None:
    again = speaker(homes.before / "switch-1", 300)  # as from a backup
    asked = room.switch.request(coap.GET, LIGHT)
    lamp_again = speaker(homes.before / "lamp-1", 20)
    ids = room.switch.asked[asked]
    first, second, third, answer, other_answer = look(
        view,
        (SWITCH, GROUP, asked),
        (SWITCH, GROUP, again.request(coap.PUT, LIGHT, payload=b"on")),
        (SWITCH, GROUP, room.switch.request(coap.GET, LIGHT)),
        (LAMP_1, SWITCH, room.lamp_1.answer(ids, coap.CONTENT, payload=b"1", token=b"\xaa")),
        (LAMP_1, SWITCH, lamp_again.answer(ids, coap.CONTENT, payload=b"2", token=b"\xaa")),
    )
    assert all(sighting.verified for sighting in (first, second, third, answer, other_answer))
    assert (first.earlier, third.earlier, answer.earlier) == (None, None, None)
    assert second.earlier == (1, False, False)
    assert other_answer.earlier == (4, False, False)  # both under the request's nonce


def test_a_forgery_changes_nothing_for_what_is_authentic(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    in_the_option = room.switch.security.common.profile.name == DRAFT
    signature = asked.index(room.switch.gid) + len(room.switch.gid) if in_the_option else len(asked) - 64
    ciphertext = len(asked) - 1 if in_the_option else signature - 1
    forged, garbled = (asked[:at] + bytes((asked[at] ^ 1,)) + asked[at + 1 :] for at in (signature, ciphertext))
    answer = room.lamp_1.answer(room.switch.asked[asked], coap.CONTENT)
    one, other, authentic, response = look(
        view, (SWITCH, GROUP, forged), (SWITCH, GROUP, garbled), (SWITCH, GROUP, asked), (LAMP_1, SWITCH, answer)
    )
    assert reason(one) is Reason.SIGNATURE_FAILED
    assert one.message is not None  # a person may look at it
    assert (reason(other), other.message) == (Reason.DECRYPTION_FAILED, None)
    assert (one.sender_id, one.sequence_number) == (b"\x00", 300)  # what it says
    assert authentic.verified
    assert authentic.earlier is None
    assert answered(response) == 3


def plain(*options: tuple[int, bytes], code: int = coap.GET, kind: int = coap.CON, token: bytes = b"\x01") -> bytes:
    return coap.encode(Message(kind, code, 1, token, options, b""))


@pytest.mark.parametrize("keys", [False, True])
def test_what_is_no_group_message_is_named(room: Room, view: Onlooker, keys: bool) -> None:
    oscore_request = plain((coap.OBJECT_SECURITY, b"\x19\x05\x02ab\x01"))
    asked = room.switch.request(coap.GET, LIGHT)
    sightings = look(
        view if keys else None,
        (SWITCH, LAMP_1, plain(LIGHT)),
        (LAMP_1, SWITCH, plain(code=coap.EMPTY, kind=coap.ACK, token=b"")),
        (SWITCH, LAMP_1, oscore_request),
        (LAMP_1, SWITCH, plain((coap.OBJECT_SECURITY, b""), code=coap.CHANGED)),
        (SWITCH, LAMP_1, b"GET / HTTP/1.1"),
        (ELSEWHERE, ELSEWHERE, asked),
        (SWITCH, GROUP, asked),
    )
    assert [sighting.kind for sighting in sightings] == [
        Kind.PLAIN,
        Kind.EMPTY,
        Kind.OSCORE,
        Kind.OSCORE,
        Kind.NOT_COAP,
        Kind.REQUEST,
    ]
    assert [sighting.verdict for sighting in sightings[:4]] == [None] * 4
    assert reason(sightings[4]) is Reason.MALFORMED


def test_an_unprotected_answer_to_a_protected_request_is_plain(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT, kind=coap.CON)
    _, error, oscore = look(
        view,
        (SWITCH, LAMP_1, asked),
        (LAMP_1, SWITCH, plain(code=coap.UNAUTHORIZED, kind=coap.ACK, token=b"\xaa")),
        (LAMP_1, SWITCH, plain((coap.OBJECT_SECURITY, b""), code=coap.CHANGED, token=b"\xaa")),
    )
    assert error.kind is Kind.PLAIN
    assert (oscore.kind, reason(oscore)) == (Kind.RESPONSE, Reason.MALFORMED)


def test_malformed_group_messages_are_refused(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    no_gid = plain((coap.OBJECT_SECURITY, b"\x29\x05" + bytes(65)), kind=coap.NON)
    cut = plain((coap.OBJECT_SECURITY, b"\x39\x05\x0c" + room.switch.gid[:4]), kind=coap.NON)
    confirmable = bytes((asked[0] & 0xCF,)) + asked[1:]
    strange = bytes((asked[0], 0xE1)) + asked[2:]
    sightings = look(
        view,
        (SWITCH, GROUP, no_gid),
        (SWITCH, GROUP, cut),
        (SWITCH, GROUP, confirmable),
        (SWITCH, GROUP, asked[:-1]),
    )
    assert [reason(sighting) for sighting in sightings] == [
        Reason.MALFORMED,
        Reason.MALFORMED,
        Reason.NOT_FOR_MULTICAST,
        Reason.DECRYPTION_FAILED,
    ]
    _, neither = look(view, (LAMP_1, GROUP, asked), (SWITCH, LAMP_1, strange))
    assert (neither.kind, reason(neither)) == (Kind.RESPONSE, Reason.MALFORMED)


def test_a_message_that_a_proxy_has_cut_is_not_called_forged(room: Room, view: Onlooker) -> None:
    message = coap.decode(room.switch.request(coap.FETCH, LIGHT, payload=bytes(100)))
    block = (*message.options, (coap.BLOCK1, b"\x0a"))
    piece = coap.encode(message._replace(options=tuple(sorted(block)), payload=message.payload[:64]))
    strange = coap.encode(message._replace(options=(*message.options, (coap.BLOCK1, b"\x0f"))))
    sightings = look(view, (SWITCH, LAMP_1, piece), (SWITCH, GROUP, piece), (SWITCH, LAMP_1, strange))
    assert detail(sightings[0]) == "one block of a message that a proxy has cut"
    assert reason(sightings[1]) is Reason.NOT_FOR_MULTICAST
    assert sightings[2].verified  # an outer option of no meaning


def test_what_the_capture_has_cut_short_is_not_called_malformed(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    answer = room.lamp_1.answer(room.switch.asked[asked], coap.CONTENT)
    whole = datagrams_of([(SWITCH, GROUP, asked), (LAMP_1, SWITCH, answer), (SWITCH, GROUP, asked)])
    seen = Traffic(view, (COAP_PORT,))
    sightings = [seen.look(replace(d, payload=d.payload[:-4], whole=False)) for d in whole[:2]]
    sightings.append(seen.look(replace(whole[2], payload=asked[:20], whole=False)))
    assert [s.kind for s in sightings if s] == [Kind.REQUEST, Kind.RESPONSE, Kind.CUT_SHORT]
    for sighting in sightings:
        assert sighting is not None
        assert sighting.verdict is not None
        assert sighting.verdict.outcome is Outcome.NOT_TRIED
        assert "snap length" in sighting.verdict.detail


def test_old_entries_make_room_for_new_ones(room: Room, view: Onlooker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "MAX_REQUESTS", 2)
    monkeypatch.setattr(traffic, "MAX_SAME_TOKEN", 2)
    monkeypatch.setattr(traffic, "MAX_SEEN", 3)
    asked = [room.switch.request(coap.GET, LIGHT, token=bytes((at,))) for at in range(3)]
    steps: list[Step] = [(SWITCH, GROUP, request) for request in asked]
    steps += [
        (LAMP_1, SWITCH, room.lamp_1.answer(room.switch.asked[asked[at]], coap.CONTENT, token=bytes((at,))))
        for at in range(3)
    ]
    assert [answered(sighting) for sighting in look(view, *steps)[3:]] == [None, 2, 3]
    same = [room.switch.request(coap.GET, LIGHT) for _ in range(3)]
    steps = [(SWITCH, GROUP, request) for request in same]
    steps += [(LAMP_1, SWITCH, room.lamp_1.answer(room.switch.asked[r], coap.CONTENT)) for r in same]
    sightings = look(view, *steps, (SWITCH, GROUP, same[0]), (SWITCH, GROUP, same[2]))
    assert [sighting.verified for sighting in sightings] == [True, True, True, False, True, True, True, True]
    assert [sighting.earlier for sighting in sightings[-2:]] == [None, None]


# ---- all together


def summary_of(view: Onlooker | None, *found: Datagram | Skipped) -> Summary:
    seen, summary = Traffic(view, (COAP_PORT,)), Summary(view is not None)
    for item in found:
        summary.note_time(item.time)
        summary.add(item, seen.look(item) if isinstance(item, Datagram) else None)
    return summary


def test_what_it_comes_to(homes: Homes, room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, OBSERVE, LIGHT)
    ids = room.switch.asked[asked]
    ends = room.switch.request(coap.GET, (coap.OBSERVE, b"\x01"), LIGHT)
    silent = room.switch.request(coap.PUT, LIGHT, (coap.NO_RESPONSE, b"\x1a"), payload=b"0")
    steps = [
        (SWITCH, GROUP, asked),
        (SWITCH, GROUP, asked),
        (LAMP_1, SWITCH, room.lamp_1.answer(ids, coap.CONTENT, (coap.OBSERVE, b"\x01"), fresh=True)),
        (LAMP_1, SWITCH, room.lamp_1.answer(ids, coap.CONTENT, (coap.OBSERVE, b"\x02"), fresh=True)),
        (SWITCH, GROUP, ends),
        (SWITCH, GROUP, silent),
        (SWITCH, LAMP_1, plain(LIGHT)),
        (ELSEWHERE, ELSEWHERE, b"something"),
    ]
    summary = summary_of(view, *datagrams_of(steps), Skipped(9, 10**10, Skip.NOT_IP))
    assert summary.complete
    assert summary.kinds == {Kind.REQUEST: 4, Kind.RESPONSE: 2, Kind.PLAIN: 1}
    assert summary.verdicts == {(Outcome.VERIFIED, ""): 6}
    assert (summary.repeated, summary.reused, summary.other, summary.skipped) == (1, [], 1, {Skip.NOT_IP: 1})
    assert (summary.begun, summary.ended) == (250_000_000, 10**10)
    tallies = {name: (t.requests, t.responses, t.asked, t.answered) for (_, _, name), t in summary.members.items()}
    assert tallies == {"switch-1": (3, 0, 0, 0), "lamp-1": (0, 2, 1, 1), "lamp-2": (0, 0, 1, 0)}


def test_invented_gids_do_not_make_a_summary_long(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    gids = [bytes(10) + at.to_bytes(2, "big") for at in range(100)]
    steps = [(ELSEWHERE, GROUP, asked.replace(room.switch.gid, gid)) for gid in gids]
    summary = summary_of(view, *datagrams_of(steps))
    assert len(summary.verdicts) == traffic.MAX_CAUSES + 1
    assert summary.verdicts[Outcome.NOT_TRIED, "other reasons"] == 100 - traffic.MAX_CAUSES
    assert summary.count(Outcome.NOT_TRIED) == 100


def test_a_retransmitted_request_is_answered_once(room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    ids = room.switch.asked[asked]
    first, second = (room.lamp_1.answer(ids, coap.CONTENT, fresh=True) for _ in range(2))
    steps = [(SWITCH, GROUP, asked), (LAMP_1, SWITCH, first), (SWITCH, GROUP, asked), (LAMP_1, SWITCH, second)]
    tally = summary_of(view, *datagrams_of(steps)).members["room", b"\x01", "lamp-1"]
    assert (tally.responses, tally.asked, tally.answered) == (2, 1, 1)


def test_what_leaves_a_question_open_is_not_complete(homes: Homes, room: Room, view: Onlooker) -> None:
    asked = room.switch.request(coap.GET, LIGHT)
    again = speaker(homes.before / "switch-1", 300).request(coap.PUT, LIGHT)
    (good,) = datagrams_of([(SWITCH, GROUP, asked)])
    (bad,) = datagrams_of([(SWITCH, GROUP, asked[:-1] + b"?")])
    (twice,) = datagrams_of([(SWITCH, GROUP, again)])
    (alone,) = datagrams_of([(LAMP_1, SWITCH, room.lamp_1.answer(room.switch.asked[asked], coap.CONTENT))])
    assert summary_of(view, good).complete
    assert not summary_of(view, good, bad).complete
    assert not summary_of(view, good, twice).complete
    assert not summary_of(view, alone, good).complete
    for reason in Skip:
        perhaps = reason in (Skip.LINK_TYPE, Skip.CUT_SHORT, Skip.FRAGMENTS)
        assert summary_of(view, good, Skipped(2, None, reason)).complete is not perhaps
    without = summary_of(None, good, alone)
    assert without.complete
    assert without.verdicts == {(Outcome.NOT_TRIED, "that takes keys, give --member PATH or --key-log FILE"): 2}
    assert without.members == {}


@settings(max_examples=30)
@given(data=st.data())
def test_any_datagrams_give_sightings(homes: Homes, data: st.DataObject) -> None:
    room = room_of(homes.before)
    asked = room.switch.request(coap.GET, OBSERVE, LIGHT)
    answer = room_of(homes.after).lamp_1.answer(room.switch.asked[asked], coap.CONTENT)
    originals: list[Step] = [(SWITCH, GROUP, asked), (SWITCH, LAMP_1, asked), (LAMP_1, SWITCH, answer)]
    steps = [originals[0]]
    for _ in range(data.draw(st.integers(1, 6))):
        source, destination, original = data.draw(st.sampled_from(originals))
        at = data.draw(st.integers(0, len(original)))
        rest = original[data.draw(st.integers(at, len(original))) :]
        steps.append((source, destination, original[:at] + data.draw(st.binary(max_size=8)) + rest))
    for keys in (None, homes.view()):
        summary = summary_of(keys, *datagrams_of(steps))
        assert sum(summary.kinds.values()) == len(steps)
