from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core.exchange import IncomingExchange, OutgoingExchange, outgoing_exchange
from groupcoap.core.profile import Profile, RequestIds
from groupcoap.errors import Reason
from support import (
    GID,
    LISTENER,
    MULTICASTER,
    OTHER_LISTENER,
    attempt,
    of_group_oscore,
    of_the_draft,
    refused,
    security_context,
)

pytestmark = pytest.mark.usefixtures("profile")

IDS = RequestIds(MULTICASTER, b"\x05", GID)


def incoming(right: bytes | None) -> IncomingExchange:
    return IncomingExchange(*IDS, right, True)


def outgoing(*, observe: bool, peer: bytes | None = None) -> OutgoingExchange:
    return outgoing_exchange(security_context(MULTICASTER), IDS, (b"", b""), bytes(13), observe, peer)


def test_the_nonce_of_a_request_is_given_once() -> None:
    exchange = incoming(b"nonce")
    assert exchange.ids == IDS
    assert [exchange.take_request_nonce() for _ in range(3)] == [b"nonce", None, None]


@pytest.mark.parametrize("by_multicast", [True, False])
def test_an_exchange_knows_how_its_request_came(by_multicast: bool) -> None:
    assert IncomingExchange(*IDS, None, by_multicast).by_multicast is by_multicast


def test_without_the_right_to_it_there_is_no_nonce() -> None:
    assert incoming(None).take_request_nonce() is None


def test_of_two_threads_that_ask_at_once_one_gets_nothing() -> None:
    class TakenMeanwhile(list[bytes]):
        """Empty, although it did not look so: the other thread was faster."""

        def __bool__(self) -> bool:
            return True

    exchange = incoming(b"nonce")
    exchange._right = TakenMeanwhile()
    assert exchange.take_request_nonce() is None


@of_the_draft
def test_each_listener_answers_once() -> None:
    exchange = outgoing(observe=False)
    exchange.accept(LISTENER, 0, None, notification=False)
    exchange.accept(OTHER_LISTENER, 0, 7, notification=False)
    for kid, number in [(LISTENER, None), (LISTENER, 8), (OTHER_LISTENER, None), (OTHER_LISTENER, 8)]:
        with refused(Reason.REPLAY):
            exchange.accept(kid, 1, number, notification=False)


@of_group_oscore
def test_who_was_asked_alone_answers_once() -> None:
    for first in (None, 7):
        exchange = outgoing(observe=False, peer=LISTENER)
        exchange.accept(LISTENER, 0, first, notification=False)
        for number in (None, 7, 8):
            with refused(Reason.REPLAY):
                exchange.accept(LISTENER, 1, number, notification=False)


@of_group_oscore
def test_answers_to_a_group_rise_for_each_listener_and_the_one_without_a_number_is_the_oldest() -> None:
    exchange = outgoing(observe=False)
    exchange.accept(LISTENER, 0, None, notification=False)
    exchange.accept(LISTENER, 0, 7, notification=False)
    exchange.accept(OTHER_LISTENER, 0, 7, notification=False)
    for kid in (LISTENER, OTHER_LISTENER):
        with refused(Reason.REPLAY):  # it would be older than what is known
            exchange.accept(kid, 0, None, notification=False)
        for number in (7, 6, 0):
            with refused(Reason.NOTIFICATION_ORDER):
                exchange.accept(kid, 0, number, notification=False)
        exchange.accept(kid, 0, 8, notification=False)
    with refused(Reason.NOT_OBSERVED):
        exchange.accept(LISTENER, 0, 9, notification=True)


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize("peer", [None, LISTENER])
def test_an_exchange_is_long_that_observes_or_where_the_profile_says_so_asks_a_group(
    profile: Profile, observe: bool, peer: bytes | None
) -> None:
    asks_a_group = peer is None and profile.name == "group-oscore"
    exchange = outgoing(observe=observe, peer=peer)
    assert (exchange.long, exchange.peer) == (observe or asks_a_group, peer)


def test_one_key_answers_under_one_id_alone() -> None:
    exchange = outgoing(observe=True)
    exchange.accept(LISTENER, 0, 1, notification=True, public_key=b"one")
    exchange.accept(OTHER_LISTENER, 0, 1, notification=True, public_key=b"other")
    for _ in range(2):
        with refused(Reason.OTHER_RESPONDER):
            exchange.accept(b"\x77", 0, 1, notification=True, public_key=b"one")
    exchange.accept(LISTENER, 1, 0, notification=True, public_key=b"one")
    assert exchange._answered == {LISTENER, OTHER_LISTENER}


@pytest.mark.parametrize("pairwise", [True, False])
def test_an_exchange_knows_the_mode_of_its_request(pairwise: bool) -> None:
    assert IncomingExchange(*IDS, None, False, pairwise=pairwise).pairwise is pairwise


def test_an_exchange_keeps_what_answers_are_checked_with() -> None:
    context, prepared, nonce = security_context(MULTICASTER), (b"aad", b"signed"), b"nonce"
    exchange = outgoing_exchange(context, (MULTICASTER, b"\x05", GID), prepared, nonce, False)
    assert exchange.context is context
    assert (exchange.prepared, exchange.nonce, exchange.observe) == (prepared, nonce, False)
    assert exchange.ids == IDS
    assert exchange.ids.partial_iv == b"\x05"


def test_a_request_that_refreshes_an_observation_takes_its_numbers_over() -> None:
    earlier, later = outgoing(observe=True), outgoing(observe=True)
    earlier.accept(LISTENER, 0, 5, notification=True)
    later.follow(earlier)
    with refused(Reason.NOTIFICATION_ORDER):
        later.accept(LISTENER, 0, 5, notification=True)
    later.accept(LISTENER, 0, 6, notification=True)
    with refused(Reason.NOTIFICATION_ORDER):
        earlier.accept(LISTENER, 0, 6, notification=True)


def test_both_share_numbers_if_nothing_had_come_yet_when_it_was_refreshed() -> None:
    earlier, later = outgoing(observe=True), outgoing(observe=True)
    later.follow(earlier)
    earlier.accept(LISTENER, 0, 5, notification=True)
    with refused(Reason.NOTIFICATION_ORDER):
        later.accept(LISTENER, 0, 5, notification=True)
    later.accept(LISTENER, 0, 6, notification=True)


def test_who_answered_a_process_before_this_one_answers_no_more() -> None:
    exchange = outgoing(observe=False)
    exchange.resume([LISTENER])
    with refused(Reason.REPLAY):
        exchange.accept(LISTENER, 0, None, notification=False)
    exchange.accept(OTHER_LISTENER, 0, None, notification=False)


def test_looking_at_a_response_does_not_accept_it() -> None:
    exchange = outgoing(observe=False)
    exchange.check(LISTENER, 0, 1, notification=False)
    exchange.accept(LISTENER, 0, 1, notification=False)


def test_a_notification_needs_an_observation() -> None:
    with refused(Reason.NOT_OBSERVED):
        outgoing(observe=False).accept(LISTENER, 0, 1, notification=True)


@pytest.mark.parametrize("notification", [True, False], ids=["with Observe", "Observe stripped by a proxy"])
def test_notifications_must_rise_with_or_without_the_outer_observe(notification: bool) -> None:
    exchange = outgoing(observe=True)
    exchange.accept(LISTENER, 0, 5, notification=True)
    for number in (5, 4, 0):
        with refused(Reason.NOTIFICATION_ORDER):
            exchange.accept(LISTENER, 0, number, notification=notification)
    exchange.accept(LISTENER, 0, 6, notification=notification)


def test_under_a_newer_gid_numbers_start_again_and_the_older_gid_is_over() -> None:
    exchange = outgoing(observe=True)
    exchange.accept(LISTENER, 0, 500, notification=True)
    exchange.accept(LISTENER, 1, 0, notification=True)
    with refused(Reason.NOTIFICATION_ORDER):
        exchange.accept(LISTENER, 0, 501, notification=True)
    exchange.accept(LISTENER, 1, 1, notification=True)


def test_a_first_answer_with_the_nonce_of_the_request_comes_before_all_notifications() -> None:
    exchange = outgoing(observe=True)
    exchange.accept(LISTENER, 0, None, notification=False)
    with refused(Reason.REPLAY):
        exchange.accept(LISTENER, 0, None, notification=False)
    exchange.accept(LISTENER, 0, 0, notification=True)
    with refused(Reason.REPLAY):
        exchange.accept(LISTENER, 0, None, notification=False)


def test_listeners_count_for_themselves() -> None:
    exchange = outgoing(observe=True)
    exchange.accept(LISTENER, 0, 9, notification=True)
    exchange.accept(OTHER_LISTENER, 0, 1, notification=True)
    with refused(Reason.NOTIFICATION_ORDER):
        exchange.accept(OTHER_LISTENER, 0, 1, notification=True)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=20))
def test_accepted_notifications_are_strictly_ordered(arrivals: list[tuple[int, int]]) -> None:
    exchange = outgoing(observe=True)
    accepted: list[tuple[int, int]] = []
    for generation, number in arrivals:
        newest = max(accepted, default=(-1, -1))
        outcome = attempt(partial(exchange.accept, LISTENER, generation, number, notification=True))
        assert outcome is (None if (generation, number) > newest else Reason.NOTIFICATION_ORDER)
        if outcome is None:
            accepted.append((generation, number))


def test_what_was_answered_before_a_restart_is_a_replay_after_it() -> None:
    exchange = outgoing(observe=False)
    exchange.resume([LISTENER])
    with refused(Reason.REPLAY):
        exchange.check(LISTENER, 0, None, notification=False)
    exchange.accept(OTHER_LISTENER, 0, None, notification=False)
