"""Synchronization with a multicaster (multicast-oscore-04 §9), through whole messages where that is what counts."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.option import decode_prefix
from groupcoap.core.profile import Profile
from groupcoap.core.requests import ChallengedRequest, DeliveredRequest, SignatureState, admit
from groupcoap.core.synchronization import (
    MAX_CHALLENGES,
    Challenge,
    EchoRule,
    Freshness,
    Method,
    Synchronization,
    SynchronizationPolicy,
    request_digest,
)
from groupcoap.core.window import ReplayWindow
from groupcoap.errors import Busy, Limit, MisuseError, Reason, Rejected
from support import (
    ADDRESS,
    BASELINE,
    BEST_EFFORT,
    CHALLENGE,
    LISTENER,
    MULTICASTER,
    NEXT_GID,
    OTHER_LISTENER,
    Node,
    answer_challenge,
    challenged,
    collect,
    common_context,
    counting_entropy,
    decrypt,
    deliver,
    install,
    make_node,
    of_group_oscore,
    of_the_draft,
    protect,
    receive,
    refused,
    renew,
    request,
    security_context,
    snapshot,
)

pytestmark = pytest.mark.usefixtures("profile")

SWITCH = request(coap.PUT, payload=b"on")


def pair(first: int = 10) -> tuple[Node, Node]:
    """A multicaster at this sequence number and a listener that has never heard it."""
    return make_node(MULTICASTER, first=first), make_node(LISTENER)


def protected_numbers(sender: Node, how_many: int, message: Message | None = None) -> list[Message]:
    return [protect(sender, message).message for _ in range(how_many)]


def echo(sender: Node, repeat: bytes, message: Message = SWITCH, *, host: bytes | None = None) -> Message:
    """The request again, with the next sequence number and this inner Repeat."""
    options = [*message.options, (coap.REPEAT, repeat)]
    if host is not None:
        options.append((coap.URI_HOST, host))
    return protect(sender, message._replace(options=tuple(sorted(options)))).message


def echoed(listener: Node, message: Message, now: float = 0.0) -> DeliveredRequest:
    return deliver(listener, message, policy=CHALLENGE, destination=None, now=now)


def unknown(profile: Profile) -> Reason:
    """Why an echo of a value that is not awaited is dropped while others are: for that, or, where it is a request
    like any other, for the challenge that is open."""
    return Reason.REPEAT_UNKNOWN if profile.rules.echo_is_original else Reason.CHALLENGE_PENDING


def challenged_anew(
    profile: Profile, listener: Node, message: Message, policy: SynchronizationPolicy = CHALLENGE, now: float = 0.0
) -> None:
    """What becomes of a value that is not awaited when no challenge is open: in Group OSCORE, another one."""
    if profile.rules.echo_is_original:
        with refused(Reason.REPEAT_UNKNOWN):
            receive(listener, message, policy=policy, destination=None, now=now)
    else:
        outcome = receive(listener, message, policy=policy, destination=None, now=now)
        assert isinstance(outcome, ChallengedRequest)


# ---- the policy


@pytest.mark.parametrize(
    "values",
    [
        {"repeat_length": 7},
        {"repeat_length": 41},
        {"challenge_lifetime": 0},
        {"challenge_lifetime": -1},
        {"rechallenge_after": -1},
        {"max_gap": 0},
    ],
)
def test_a_policy_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        SynchronizationPolicy(**values)


def test_by_default_senders_are_challenged_with_eight_bytes_for_half_a_minute_and_at_most_once_a_second() -> None:
    policy = SynchronizationPolicy()
    assert policy.method is Method.CHALLENGE_RESPONSE
    assert (policy.challenge_lifetime, policy.rechallenge_after) == (30.0, 1.0)
    assert (policy.repeat_length, policy.max_gap) == (8, None)
    assert policy.challenge_lifetime / policy.rechallenge_after < MAX_CHALLENGES == 32


@pytest.mark.parametrize(
    "values",
    [
        {"repeat_length": 8},
        {"repeat_length": 40},
        {"challenge_lifetime": 0.5},
        {"rechallenge_after": 0.0},
        {"max_gap": 1},
    ],
)
def test_the_extremes_of_a_policy_are_taken(values: dict[str, Any]) -> None:
    policy = SynchronizationPolicy(**values)
    assert {name: getattr(policy, name) for name in values} == values


def test_a_policy_is_not_changed_once_it_is_made() -> None:
    policy: Any = SynchronizationPolicy()
    with pytest.raises(FrozenInstanceError):
        policy.method = Method.BEST_EFFORT


# ---- best effort


def test_best_effort_delivers_the_first_request_and_lower_ones_within_the_window() -> None:
    sender, listener = pair(0)
    requests = protected_numbers(sender, 40)
    assert deliver(listener, requests[39]).freshness is Freshness.UNSYNCHRONIZED
    assert deliver(listener, requests[8]).freshness is Freshness.UNSYNCHRONIZED
    for replayed in (39, 8, 7):
        with refused(Reason.REPLAY):
            receive(listener, requests[replayed])
    assert deliver(listener, protect(sender).message).freshness is Freshness.ORDERED


# ---- baseline


def test_baseline_takes_the_first_request_as_the_mark_and_delivers_what_follows() -> None:
    sender, listener = pair(0)
    requests = protected_numbers(sender, 3)
    with refused(Reason.NOT_SYNCHRONIZED):
        receive(listener, requests[1], policy=BASELINE)
    for replayed in (1, 0):
        with refused(Reason.REPLAY):
            receive(listener, requests[replayed], policy=BASELINE)
    assert deliver(listener, requests[2], policy=BASELINE).freshness is Freshness.ORDERED


def test_baseline_may_begin_at_the_very_first_number() -> None:
    sender, listener = pair(0)
    with refused(Reason.NOT_SYNCHRONIZED):
        receive(listener, protect(sender).message, policy=BASELINE)
    assert deliver(listener, protect(sender).message, policy=BASELINE).freshness is Freshness.ORDERED


# ---- challenge-response


def test_the_first_request_is_challenged_and_its_retransmission_delivered(profile: Profile) -> None:
    sender, listener = pair()
    protected = protect(sender, SWITCH)
    outcome = challenged(listener, protected.message, entropy=counting_entropy())
    assert len(outcome.repeat) >= 8
    assert (outcome.sender_id, outcome.sequence_number, outcome.group) == (MULTICASTER, 10, "lights")

    challenge = answer_challenge(listener, protected.message, outcome)
    assert decode_prefix(challenge.option(coap.OBJECT_SECURITY) or b"")[1] == b"\0"  # a Partial IV of its own
    received = collect(sender, protected.exchange, challenge)
    codes = {"multicast-oscore-04": coap.FORBIDDEN, "group-oscore": coap.UNAUTHORIZED}
    assert received.message.code == codes[profile.name]
    assert received.message.option(coap.REPEAT) == outcome.repeat

    delivered = echoed(listener, echo(sender, outcome.repeat))
    assert delivered.freshness is Freshness.FRESH
    assert delivered.signature is SignatureState.VERIFIED
    assert delivered.message.payload == b"on"
    assert deliver(listener, protect(sender).message, policy=CHALLENGE).freshness is Freshness.ORDERED


def test_the_window_starts_at_the_echo() -> None:
    sender, listener = pair(0)
    first, between = protected_numbers(sender, 2, SWITCH)
    outcome = challenged(listener, first, entropy=counting_entropy())
    message = echo(sender, outcome.repeat)
    echoed(listener, message)
    for replayed in (first, between):
        with refused(Reason.REPLAY):
            receive(listener, replayed, policy=CHALLENGE)
    with refused(Reason.REPLAY):
        receive(listener, message, policy=CHALLENGE, destination=None)


@pytest.mark.parametrize(
    "changed",
    [
        request(coap.PUT, payload=b"off"),
        request(coap.POST, payload=b"on"),
        request(coap.PUT, (coap.URI_PATH, b"door"), payload=b"on"),
        request(coap.PUT, (coap.URI_PATH, b"light"), (coap.URI_QUERY, b"now"), payload=b"on"),
        *(request(coap.PUT, payload=bytes((level,))) for level in range(8)),  # digests on either side
    ],
    ids=["payload", "code", "path", "one more option", *(f"level {level}" for level in range(8))],
)
def test_an_echo_of_another_request_synchronizes_but_is_not_delivered(changed: Message) -> None:
    """In group mode, where nothing says that it is for this listener."""
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    message = echo(sender, outcome.repeat, changed)
    with refused(Reason.NOT_THE_ORIGINAL):
        receive(listener, message, policy=CHALLENGE, destination=None)
    with refused(Reason.REPLAY):
        receive(listener, message, policy=CHALLENGE, destination=None)
    assert deliver(listener, protect(sender).message, policy=CHALLENGE).freshness is Freshness.ORDERED


def test_an_echo_that_is_routed_another_way_is_still_the_original() -> None:
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    assert echoed(listener, echo(sender, outcome.repeat, host=b"listener-7")).freshness is Freshness.FRESH


@pytest.mark.parametrize("late", [0.0, 0.001], ids=["in time", "too late"])
def test_an_echo_counts_until_the_configured_time_has_passed(profile: Profile, late: float) -> None:
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, now=100.0, entropy=counting_entropy())
    message = echo(sender, outcome.repeat)
    before = snapshot(listener)
    now = 100.0 + CHALLENGE.challenge_lifetime + late
    if late and profile.rules.echo_is_original:
        with refused(Reason.REPEAT_UNKNOWN):
            echoed(listener, message, now)
        assert snapshot(listener) == before
    elif late:
        anew = receive(listener, message, policy=CHALLENGE, destination=None, now=now)
        assert isinstance(anew, ChallengedRequest)
    else:
        echoed(listener, message, now)


def test_without_a_valid_echo_in_time_the_next_request_is_challenged_again(profile: Profile) -> None:
    sender, listener = pair()
    entropy = counting_entropy()
    first = challenged(listener, protect(sender).message, now=0.0, entropy=entropy)
    second = challenged(listener, protect(sender).message, now=30.001, entropy=entropy)
    assert second.repeat != first.repeat
    with refused(unknown(profile)):
        echoed(listener, echo(sender, first.repeat), 30.002)


def test_an_expired_challenge_does_not_hold_a_lower_number_back() -> None:
    sender, listener = pair()
    low, high = protected_numbers(sender, 2)
    challenged(listener, high, now=0.0, entropy=counting_entropy())
    challenged(listener, low, now=31.0, entropy=counting_entropy())


def test_at_its_very_end_a_challenge_is_still_open() -> None:
    sender, listener = pair()
    entropy = counting_entropy()
    low = protect(sender).message
    first = challenged(listener, protect(sender, SWITCH).message, now=0.0, entropy=entropy)
    with refused(Reason.CHALLENGE_PENDING):
        decrypt(listener, low, policy=CHALLENGE, now=30.0)
    under_way = decrypt(listener, low, policy=CHALLENGE, now=31.0).check_signature()
    with refused(Reason.CHALLENGE_PENDING):
        admit(under_way, 30.0, entropy)
    challenged(listener, protect(sender).message, now=30.0, entropy=entropy)
    assert echoed(listener, echo(sender, first.repeat), 30.0).freshness is Freshness.FRESH


@pytest.mark.parametrize("wrong", [bytes(8), b"\xff" * 8, bytes(7) + b"\x02", bytes(9)], ids=bytes.hex)
def test_only_the_very_value_that_was_sent_is_an_echo(profile: Profile, wrong: bytes) -> None:
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    assert outcome.repeat == bytes(7) + b"\x01"
    with refused(unknown(profile)):
        echoed(listener, echo(sender, wrong))
    echoed(listener, echo(sender, outcome.repeat))


@pytest.mark.parametrize("policy", [BEST_EFFORT, BASELINE, CHALLENGE], ids=lambda p: p.method.value)
def test_a_value_never_asked_for_is_dropped_or_challenged_anew(
    profile: Profile, policy: SynchronizationPolicy
) -> None:
    sender, listener = pair()
    with refused(Reason.REPEAT_BY_MULTICAST):
        receive(listener, echo(sender, bytes(8)), policy=policy)
    challenged_anew(profile, listener, echo(sender, bytes(8)), policy)


def test_a_repeat_in_a_multicast_request_is_dropped_even_if_it_was_asked_for() -> None:
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    before = snapshot(listener)
    with refused(Reason.REPEAT_BY_MULTICAST):
        receive(listener, echo(sender, outcome.repeat), policy=CHALLENGE, now=1.0)
    assert snapshot(listener) == before


@pytest.mark.parametrize("length", [0, 7, 41])
def test_a_repeat_value_of_no_valid_length_is_malformed(profile: Profile, length: int) -> None:
    sender, listener = pair()
    shortest, longest = profile.rules.repeat_lengths
    if shortest <= length <= longest:
        challenged_anew(profile, listener, echo(sender, bytes(length)), BEST_EFFORT)
    else:
        with refused(Reason.MALFORMED):
            receive(listener, echo(sender, bytes(length)), policy=BEST_EFFORT, destination=None)


def test_the_value_of_one_sender_is_nothing_from_another(profile: Profile) -> None:
    listener = make_node(LISTENER)
    one, other = make_node(MULTICASTER), make_node(OTHER_LISTENER)
    entropy = counting_entropy()
    outcome = challenged(listener, protect(one, SWITCH).message, entropy=entropy)
    challenged(listener, protect(other, SWITCH).message, entropy=entropy)
    with refused(unknown(profile)):
        echoed(listener, echo(other, outcome.repeat))
    echoed(listener, echo(one, outcome.repeat))


def test_a_value_is_good_for_one_echo(profile: Profile) -> None:
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    echoed(listener, echo(sender, outcome.repeat))
    challenged_anew(profile, listener, echo(sender, outcome.repeat))


# ---- while a challenge is pending


@pytest.mark.parametrize("now", [0.0, 0.999])
def test_a_multicast_request_while_a_challenge_is_pending_is_dropped_before_it_is_decrypted(now: float) -> None:
    sender, listener = pair()
    entropy = counting_entropy()
    challenged(listener, protect(sender).message, entropy=entropy)
    message = protect(sender).message
    forged = message._replace(payload=bytes(20))
    before = snapshot(listener)
    for dropped in (message, forged):
        with refused(Reason.CHALLENGE_PENDING):
            decrypt(listener, dropped, policy=CHALLENGE, now=now)
    assert snapshot(listener) == before


def test_a_higher_number_a_second_later_gets_another_value_and_the_earlier_one_stays_valid() -> None:
    sender, listener = pair()
    entropy = counting_entropy()
    first = challenged(listener, protect(sender, SWITCH).message, now=5.0, entropy=entropy)
    second = challenged(listener, protect(sender).message, now=6.0, entropy=entropy)
    assert first.repeat != second.repeat
    assert echoed(listener, echo(sender, first.repeat), 7.0).freshness is Freshness.FRESH
    # The other one is a value that was sent, too: its request comes, and is new.
    assert echoed(listener, echo(sender, second.repeat, request()), 7.1).freshness is Freshness.FRESH


@pytest.mark.parametrize("later", [1.0, 1.5, 20.0])
def test_any_time_later_than_a_second_a_higher_number_gets_another_value(later: float) -> None:
    sender, listener = pair()
    entropy = counting_entropy()
    challenged(listener, protect(sender).message, now=5.0, entropy=entropy)
    challenged(listener, protect(sender).message, now=5.0 + later, entropy=entropy)


def test_a_further_second_counts_from_the_last_challenge() -> None:
    sender, listener = pair()
    entropy = counting_entropy()
    challenged(listener, protect(sender).message, now=0.0, entropy=entropy)
    challenged(listener, protect(sender).message, now=1.0, entropy=entropy)
    with refused(Reason.CHALLENGE_PENDING):
        receive(listener, protect(sender).message, policy=CHALLENGE, now=1.9, entropy=entropy)
    challenged(listener, protect(sender).message, now=2.0, entropy=entropy)


def test_the_same_or_a_lower_number_gets_no_second_challenge_however_late() -> None:
    sender, listener = pair()
    low, high = protected_numbers(sender, 2)
    challenged(listener, high, entropy=counting_entropy())
    for message in (low, high):
        with refused(Reason.CHALLENGE_PENDING):
            receive(listener, message, policy=CHALLENGE, now=20.0)


def test_a_replayed_datagram_a_second_keeps_no_earlier_value_from_being_echoed() -> None:
    sender, listener = pair(0)
    entropy = counting_entropy()
    first = challenged(listener, protect(sender, SWITCH).message, now=0.0, entropy=entropy)
    for second in range(1, 30):
        challenged(listener, protect(sender).message, now=float(second), entropy=entropy)
    assert echoed(listener, echo(sender, first.repeat), 30.0).freshness is Freshness.FRESH


def test_open_challenges_are_bounded_and_the_newest_count(profile: Profile) -> None:
    sender, listener = pair(0)
    eager = SynchronizationPolicy(Method.CHALLENGE_RESPONSE, rechallenge_after=0.0)
    entropy = counting_entropy()
    values = [
        challenged(listener, message, entropy=entropy, policy=eager).repeat
        for message in protected_numbers(sender, MAX_CHALLENGES + 1, SWITCH)
    ]
    with refused(unknown(profile)):
        echoed(listener, echo(sender, values[0]))
    for value in values[1:]:
        echoed(listener, echo(sender, value))


def test_two_requests_decrypted_before_the_first_challenge_get_one_challenge() -> None:
    sender, listener = pair()
    both = [decrypt(listener, m, policy=CHALLENGE).check_signature() for m in protected_numbers(sender, 2)]
    challenged_first, second = both
    assert isinstance(admit(challenged_first, 0.0, counting_entropy()), ChallengedRequest)
    with refused(Reason.CHALLENGE_PENDING):
        admit(second, 0.0, counting_entropy())


def test_a_challenge_that_may_not_be_made_now_leaves_its_sender_as_it_was() -> None:
    sender, listener = pair()
    one, two = protected_numbers(sender, 2)

    def busy(length: int) -> bytes:
        raise Busy(Limit.CHALLENGE_RATE)

    for number, message in enumerate((one, two)):
        now = 2.0 * number
        with refused(Reason.BUSY):
            receive(listener, message, policy=CHALLENGE, now=now, entropy=busy)
        challenged(listener, message, now=now, entropy=counting_entropy())  # the very same, at once


def test_a_unicast_get_of_an_unknown_sender_is_challenged_too() -> None:
    sender, listener = pair()
    outcome = receive(listener, protect(sender).message, policy=CHALLENGE, destination=None)
    assert isinstance(outcome, ChallengedRequest)
    assert not outcome.exchange.by_multicast
    with refused(Reason.CHALLENGE_PENDING):
        receive(listener, protect(sender).message, policy=CHALLENGE, destination=None)


# ---- synchronization lost and kept


GAP = SynchronizationPolicy(Method.CHALLENGE_RESPONSE, max_gap=100)


def synchronized_pair() -> tuple[Node, Node]:
    """A multicaster whose number 11 was echoed."""
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    echoed(listener, echo(sender, outcome.repeat))
    return sender, listener


@pytest.mark.parametrize(("number", "fits"), [(111, True), (112, False)])
def test_a_gap_larger_than_the_bound_ends_synchronization(number: int, fits: bool) -> None:
    _, listener = synchronized_pair()
    ahead = make_node(MULTICASTER, first=number)
    outcome = receive(listener, protect(ahead).message, policy=GAP)
    assert isinstance(outcome, DeliveredRequest) == fits
    if isinstance(outcome, ChallengedRequest):
        late = make_node(MULTICASTER, first=15)
        with refused(Reason.CHALLENGE_PENDING):
            receive(listener, protect(late).message, policy=GAP)
        again = deliver(listener, echo(ahead, outcome.repeat, request()), policy=GAP, destination=None)
        assert again.freshness is Freshness.FRESH
        with refused(Reason.REPLAY):
            receive(listener, protect(late).message, policy=GAP)


@pytest.mark.parametrize("method", [Method.BEST_EFFORT, Method.BASELINE])
def test_a_gap_means_nothing_to_the_other_methods(method: Method) -> None:
    _, listener = synchronized_pair()
    policy = SynchronizationPolicy(method, max_gap=1)
    assert deliver(listener, protect(make_node(MULTICASTER, first=1 << 39)).message, policy=policy)


@of_the_draft
def test_a_request_that_would_end_synchronization_may_not_go_unverified() -> None:
    _, listener = synchronized_pair()
    within, beyond = (
        decrypt(listener, protect(make_node(MULTICASTER, first=first)).message, policy=GAP) for first in (50, 500)
    )
    assert not within.signature_needed()
    within.waive_signature(deferred=False)
    assert beyond.signature_needed()
    with pytest.raises(MisuseError):
        beyond.waive_signature(deferred=False)


def test_an_old_value_may_be_echoed_after_a_gap_ended_synchronization() -> None:
    sender, listener = pair()
    entropy = counting_entropy()
    first = challenged(listener, protect(sender, SWITCH).message, now=0.0, entropy=entropy)
    second = challenged(listener, protect(sender, SWITCH).message, now=1.0, entropy=entropy)
    deliver(listener, echo(sender, first.repeat), policy=GAP, destination=None, now=1.1)
    ahead = make_node(MULTICASTER, first=500)
    with refused(Reason.CHALLENGE_PENDING):  # the second value is still open
        receive(listener, protect(ahead).message, policy=GAP, now=1.2, entropy=entropy)
    replayed = echo(make_node(MULTICASTER, first=12), second.repeat)
    with refused(Reason.REPLAY):
        receive(listener, replayed, policy=GAP, destination=None, now=1.3)
    deliver(listener, echo(ahead, second.repeat), policy=GAP, destination=None, now=1.4)


def test_a_second_challenge_echoed_with_a_number_already_seen_is_a_replay() -> None:
    sender, listener = pair()
    entropy = counting_entropy()
    first = challenged(listener, protect(sender, SWITCH).message, now=0.0, entropy=entropy)
    second = challenged(listener, protect(sender, SWITCH).message, now=1.0, entropy=entropy)
    one, two = (
        decrypt(listener, echo(node, value), policy=CHALLENGE, destination=None).check_signature()
        for node, value in ((sender, first.repeat), (make_node(MULTICASTER, first=12), second.repeat))
    )
    admit(one, 2.0, entropy)
    before = snapshot(listener)
    with refused(Reason.REPLAY):
        admit(two, 2.0, entropy)
    assert snapshot(listener) == before


@pytest.mark.parametrize("policy", [BASELINE, CHALLENGE], ids=lambda p: p.method.value)
def test_a_renewal_makes_every_sender_unknown_again(policy: SynchronizationPolicy) -> None:
    sender, listener = synchronized_pair()
    renew(sender, listener)
    message = protect(sender).message
    if policy is CHALLENGE:
        challenged(listener, message, entropy=counting_entropy())
    else:
        with refused(Reason.NOT_SYNCHRONIZED):
            receive(listener, message, policy=policy)


def test_a_sender_restored_from_durable_state_needs_no_challenge() -> None:
    sender, listener = pair()
    listener.context.restore(MULTICASTER, ReplayWindow(9, 1), unbroken=True)
    assert deliver(listener, protect(sender).message, policy=CHALLENGE).freshness is Freshness.ORDERED


def test_of_a_restored_sender_only_what_is_newer_than_the_stored_window_is_in_order() -> None:
    listener = make_node(LISTENER)
    listener.context.restore(MULTICASTER, ReplayWindow(9, 1), unbroken=True)
    for number, freshness in (
        (8, Freshness.UNSYNCHRONIZED),
        (10, Freshness.ORDERED),
        (5, Freshness.UNSYNCHRONIZED),
    ):
        late = protect(make_node(MULTICASTER, first=number)).message
        assert deliver(listener, late, policy=CHALLENGE).freshness is freshness


def test_a_sender_counts_as_unknown_without_a_stored_window() -> None:
    sender, _ = synchronized_pair()
    challenged(make_node(LISTENER), protect(sender).message, entropy=counting_entropy())


# ---- challenge–response with Echo (Group OSCORE §9)


def in_pairwise_mode(sender: Node, repeat: bytes, message: Message = SWITCH) -> Message:
    """The echo as the specification wants it where there is a pairwise mode: readable to the one listener only."""
    with_echo = message._replace(options=(*message.options, (coap.REPEAT, repeat)))
    return protect(sender, with_echo, to=LISTENER).message


@of_group_oscore
def test_the_challenge_of_a_group_request_is_echoed_in_pairwise_mode() -> None:
    sender, listener = pair()
    protected = protect(sender, SWITCH)
    outcome = challenged(listener, protected.message, entropy=counting_entropy())
    challenge = answer_challenge(listener, protected.message, outcome)
    _, partial_iv, _, kid = decode_prefix(challenge.option(coap.OBJECT_SECURITY) or b"")
    assert (partial_iv, kid) == (b"\0", LISTENER)
    received = collect(sender, protected.exchange, challenge).message
    assert (received.code, received.options, received.payload) == (0x81, ((252, outcome.repeat),), b"")
    delivered = echoed(listener, in_pairwise_mode(sender, outcome.repeat))
    assert (delivered.freshness, delivered.signature) == (Freshness.FRESH, SignatureState.PAIRWISE)
    assert deliver(listener, protect(sender).message, policy=CHALLENGE).freshness is Freshness.ORDERED


@of_group_oscore
def test_a_pairwise_request_is_challenged_in_pairwise_mode_and_its_window_is_that_of_the_group() -> None:
    sender, listener = pair()
    protected = protect(sender, SWITCH, to=LISTENER)
    outcome = receive(listener, protected.message, policy=CHALLENGE, destination=None)
    assert isinstance(outcome, ChallengedRequest)
    challenge = answer_challenge(listener, protected.message, outcome)
    assert challenge.option(coap.OBJECT_SECURITY) == b"\x01\x00"
    got = collect(sender, protected.exchange, challenge)
    assert (got.message.code, got.signature) == (coap.UNAUTHORIZED, SignatureState.PAIRWISE)
    missed = protect(sender).message
    echoed(listener, in_pairwise_mode(sender, outcome.repeat))
    with refused(Reason.REPLAY):
        receive(listener, missed, policy=CHALLENGE)
    assert deliver(listener, protect(sender).message, policy=CHALLENGE).freshness is Freshness.ORDERED


def renewed_pair(established: float | None) -> tuple[Node, Node]:
    """Both have renewed the group, the listener at this time."""
    sender, listener = pair()
    common = common_context(gid=NEXT_GID)
    install(sender, security_context(MULTICASTER, common))
    install(listener, security_context(LISTENER, common, established=established))
    return sender, listener


@of_group_oscore
@pytest.mark.parametrize("policy", [BEST_EFFORT, BASELINE, CHALLENGE], ids=lambda p: p.method.value)
def test_a_value_that_is_not_known_soon_after_a_renewal_makes_a_request_fresh(
    policy: SynchronizationPolicy,
) -> None:
    """It cannot be older than its keys. A value of the Gid before may be what is echoed."""
    sender, listener = renewed_pair(100.0)
    message = in_pairwise_mode(sender, b"from before")
    delivered = deliver(listener, message, policy=policy, destination=None, now=129.999)
    assert delivered.freshness is Freshness.FRESH
    with refused(Reason.REPLAY):
        receive(listener, message, policy=policy, destination=None, now=129.999)
    later = deliver(listener, protect(sender).message, policy=policy, now=500.0)
    assert later.freshness is Freshness.ORDERED


@of_group_oscore
def test_of_two_such_requests_with_one_number_under_way_one_is_delivered() -> None:
    sender, listener = renewed_pair(100.0)
    message = in_pairwise_mode(sender, b"from before")
    copies = [decrypt(listener, message, policy=CHALLENGE, destination=None).check_signature() for _ in range(2)]
    assert isinstance(admit(copies[0], 101.0, counting_entropy()), DeliveredRequest)
    with refused(Reason.REPLAY):
        admit(copies[1], 101.0, counting_entropy())


@of_group_oscore
@pytest.mark.parametrize(("established", "now"), [(100.0, 130.0), (100.0, 9999.0), (None, 0.0)])
def test_later_or_if_the_time_is_not_known_it_is_challenged_anew(established: float | None, now: float) -> None:
    sender, listener = renewed_pair(established)
    entropy = counting_entropy()
    message = in_pairwise_mode(sender, b"from before")
    anew = receive(listener, message, policy=CHALLENGE, destination=None, now=now, entropy=entropy)
    assert isinstance(anew, ChallengedRequest)
    assert echoed(listener, in_pairwise_mode(sender, anew.repeat), now).freshness is Freshness.FRESH


@of_group_oscore
def test_where_nobody_else_is_challenged_a_challenge_keeps_no_request_back() -> None:
    sender, listener = pair()
    message = in_pairwise_mode(sender, b"from before")
    anew = receive(listener, message, policy=BEST_EFFORT, destination=None)
    assert isinstance(anew, ChallengedRequest)
    assert deliver(listener, protect(sender).message, policy=BEST_EFFORT).freshness is Freshness.UNSYNCHRONIZED
    assert echoed(listener, in_pairwise_mode(sender, anew.repeat)).freshness is Freshness.FRESH


@of_group_oscore
@pytest.mark.parametrize("policy", [BEST_EFFORT, BASELINE, CHALLENGE], ids=lambda p: p.method.value)
def test_who_is_synchronized_and_echoes_what_is_not_awaited_is_challenged_anew(
    policy: SynchronizationPolicy,
) -> None:
    """It may have missed the answer to its echo, and goes by what it knows."""
    sender, listener = pair()
    deliver(listener, protect(sender).message, policy=BEST_EFFORT)
    entropy = counting_entropy()
    message = in_pairwise_mode(sender, b"from before")
    anew = receive(listener, message, policy=policy, destination=None, entropy=entropy)
    assert isinstance(anew, ChallengedRequest)
    with refused(Reason.CHALLENGE_PENDING):  # repeating it brings no second one
        receive(listener, message, policy=policy, destination=None, entropy=entropy)
    deliver(listener, protect(sender).message, policy=policy)  # other requests are not concerned
    assert echoed(listener, in_pairwise_mode(sender, anew.repeat)).freshness is Freshness.FRESH


@of_group_oscore
def test_while_a_value_is_awaited_no_other_counts_however_young_the_keys() -> None:
    sender, listener = renewed_pair(100.0)
    outcome = challenged(listener, protect(sender, SWITCH).message, now=101.0, entropy=counting_entropy())
    with refused(Reason.CHALLENGE_PENDING):
        echoed(listener, in_pairwise_mode(sender, b"from before"), 101.0)
    assert echoed(listener, in_pairwise_mode(sender, outcome.repeat), 101.5).freshness is Freshness.FRESH


@of_group_oscore
@pytest.mark.parametrize("length", [1, 40])
def test_a_value_of_any_length_that_echo_may_have_is_compared(length: int) -> None:
    sender, listener = pair()
    challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    with refused(Reason.CHALLENGE_PENDING):  # it is none of those that are awaited
        echoed(listener, in_pairwise_mode(sender, bytes(length)))


@of_the_draft
def test_in_the_draft_young_keys_prove_nothing() -> None:
    sender, listener = renewed_pair(100.0)
    with refused(Reason.REPEAT_UNKNOWN):
        echoed(listener, echo(sender, b"from before"), 100.0)


@of_group_oscore
@pytest.mark.parametrize("changed", [SWITCH, request(coap.PUT, payload=b"off"), request(coap.DELETE), request()])
def test_in_pairwise_mode_a_more_recent_request_may_carry_the_echo(changed: Message) -> None:
    """The client need not have kept the one that was challenged (§9)."""
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    delivered = echoed(listener, in_pairwise_mode(sender, outcome.repeat, changed))
    assert (delivered.freshness, delivered.message.code) == (Freshness.FRESH, changed.code)
    assert delivered.message.payload == changed.payload


@pytest.mark.parametrize("code", [coap.GET, coap.FETCH])
def test_in_group_mode_a_more_recent_request_may_if_it_changes_nothing(profile: Profile, code: int) -> None:
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    message = echo(sender, outcome.repeat, request(code))
    if profile.rules.echo_is_original:
        with refused(Reason.NOT_THE_ORIGINAL):
            echoed(listener, message)
    else:
        assert echoed(listener, message).message.code == code


@of_group_oscore
def test_in_group_mode_young_keys_prove_nothing() -> None:
    """What another listener asked for may be as young, and could have been sent on to this one."""
    sender, listener = renewed_pair(100.0)
    anew = receive(listener, echo(sender, b"from before"), policy=CHALLENGE, destination=None, now=101.0)
    assert isinstance(anew, ChallengedRequest)


@of_group_oscore
def test_a_renewal_ends_all_challenges() -> None:
    """§9: the values that are stored are deleted."""
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    late = echo(sender, outcome.repeat)
    renew(listener)
    listener.contexts[0].accepts_requests = True
    anew = receive(listener, late, policy=CHALLENGE, destination=None)
    assert isinstance(anew, ChallengedRequest)


@of_the_draft
def test_in_the_draft_a_challenge_outlives_a_renewal_as_long_as_its_context_takes_requests() -> None:
    sender, listener = pair()
    outcome = challenged(listener, protect(sender, SWITCH).message, entropy=counting_entropy())
    late = echo(sender, outcome.repeat)
    renew(listener)
    listener.contexts[0].accepts_requests = True
    assert echoed(listener, late).freshness is Freshness.FRESH


@pytest.mark.parametrize(
    ("rule", "delivered"),
    [(EchoRule(), False), (EchoRule(frozenset((coap.GET,))), False), (EchoRule(frozenset((coap.PUT,))), True)],
)
def test_an_echo_of_another_request_counts_by_the_rule(rule: EchoRule, delivered: bool) -> None:
    sync, window = Synchronization(), ReplayWindow()
    outcome = decide(sync, window, 5, CHALLENGE)
    assert isinstance(outcome, Challenge)
    changed = request(coap.PUT, (coap.REPEAT, outcome.repeat))

    def answered() -> object:
        return sync.decide(CHALLENGE, window, 6, outcome.repeat, changed, 0.0, counting_entropy(), rule)

    if delivered:
        assert answered() is Freshness.FRESH
    else:
        with refused(Reason.NOT_THE_ORIGINAL):
            answered()
    assert sync.synchronized


# ---- the table itself, without messages


def decide(
    sync: Synchronization, window: ReplayWindow, number: int, policy: SynchronizationPolicy
) -> Freshness | Challenge:
    return sync.decide(policy, window, number, None, request(), 0.0, counting_entropy())


@pytest.mark.parametrize("policy", [BEST_EFFORT, CHALLENGE], ids=lambda p: p.method.value)
def test_a_number_that_the_window_has_seen_meanwhile_is_a_replay_in_any_state(
    policy: SynchronizationPolicy,
) -> None:
    sync, window = Synchronization(), ReplayWindow()
    window.accept(5)
    with refused(Reason.REPLAY):
        decide(sync, window, 5, policy)
    sync.restore(4)
    assert decide(sync, window, 6, policy) is Freshness.ORDERED
    for seen in (5, 6):
        with refused(Reason.REPLAY):
            decide(sync, window, seen, policy)


@pytest.mark.parametrize("number", [6, 5, 0])
def test_an_echo_with_a_number_that_the_window_has_passed_is_a_replay(number: int) -> None:
    sync, window = Synchronization(), ReplayWindow()
    outcome = decide(sync, window, 5, CHALLENGE)
    assert isinstance(outcome, Challenge)
    window.accept(6)
    message = request(coap.GET, (coap.URI_PATH, b"light"), (coap.REPEAT, outcome.repeat))
    with refused(Reason.REPLAY):
        sync.decide(CHALLENGE, window, number, outcome.repeat, message, 0.0, counting_entropy())
    assert not sync.synchronized
    assert (window.highest, window.bits) == (6, 1)


@pytest.mark.parametrize(("number", "far"), [(15, False), (16, False), (17, True), (0, False), (1 << 39, True)])
def test_a_gap_is_the_difference_to_the_highest_number(number: int, far: bool) -> None:
    policy = SynchronizationPolicy(Method.CHALLENGE_RESPONSE, max_gap=1)
    assert Synchronization.too_far(policy, ReplayWindow(15, 1), number) is far
    for other in (CHALLENGE, SynchronizationPolicy(Method.BASELINE, max_gap=1)):
        assert not Synchronization.too_far(other, ReplayWindow(15, 1), number)


@pytest.mark.parametrize("policy", [BEST_EFFORT, BASELINE, CHALLENGE], ids=lambda p: p.method.value)
@given(numbers=st.lists(st.integers(0, 60), max_size=40))
def test_no_number_is_delivered_twice(policy: SynchronizationPolicy, numbers: list[int]) -> None:
    sync, window, clock = Synchronization(), ReplayWindow(), count()
    delivered: list[int] = []
    for number in numbers:
        now = float(next(clock))
        try:
            outcome = sync.decide(policy, window, number, None, request(), now, counting_entropy())
        except Rejected:
            continue
        if isinstance(outcome, Freshness):
            delivered.append(number)
    assert len(set(delivered)) == len(delivered)
    assert not (policy is CHALLENGE and delivered)
    if policy is BASELINE and numbers:
        assert all(number > numbers[0] for number in delivered)
    if policy is BEST_EFFORT and numbers:
        assert delivered[0] == numbers[0]


def test_an_option_behind_repeat_changes_nothing_for_an_ordinary_request() -> None:
    sender, listener = pair()
    message = request(coap.GET, (coap.URI_PATH, b"light"), (coap.REQUEST_TAG, b"\x01"))
    assert deliver(listener, protect(sender, message).message).message == message


@pytest.mark.parametrize(
    "routing",
    [
        (coap.URI_HOST, b"h"),
        (coap.URI_PORT, b"\x16"),
        (coap.PROXY_URI, b"coap://h"),
        (coap.PROXY_SCHEME, b"coap"),
        (coap.REPEAT, bytes(8)),
    ],
)
def test_what_only_routes_a_request_does_not_make_it_another(routing: tuple[int, bytes]) -> None:
    plain = request(coap.PUT, (coap.URI_PATH, b"a"), payload=b"x")
    assert request_digest(request(coap.PUT, *sorted([(coap.URI_PATH, b"a"), routing]), payload=b"x")) == (
        request_digest(plain)
    )


def test_option_and_payload_bytes_are_not_confused_in_the_digest() -> None:
    with_option = request(coap.PUT, (coap.URI_PATH, b"ab"))
    with_payload = request(coap.PUT, (coap.URI_PATH, b"a"), payload=b"b")
    assert len({request_digest(m) for m in (with_option, with_payload, request(coap.PUT))}) == 3


def test_the_group_address_is_what_makes_a_request_multicast() -> None:
    sender, listener = pair()
    assert deliver(listener, protect(sender).message, destination=ADDRESS).exchange.by_multicast
    assert not deliver(listener, protect(sender).message, destination=None).exchange.by_multicast
