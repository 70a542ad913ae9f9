"""Short histories, played as they stand and with a fault planted in the implementation: the checks of random
histories hold in the first case, and find each fault in the second."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from history import History
from history_air import Datagram, flip
from history_group import (
    FAN,
    GAUGE,
    GRACE,
    IDS,
    LAMP,
    LIGHT,
    LOCK,
    REMOTE,
    STRANGER,
    SWITCH,
    VENT,
    Setup,
    make_ids_fit,
    virtual_storage,
)
from history_model import Broken, Outcome, Promise
from suites import COUNTER_MODE, DRAFT, LONG_NONCES, Suite

from groupcoap.core import coap, requests, responses, synchronization, window
from groupcoap.core.contexts import RecipientContext, SecurityContext
from groupcoap.core.exchange import IncomingExchange, OutgoingExchange
from groupcoap.core.group_oscore import GroupOscore
from groupcoap.core.policy import Verification
from groupcoap.core.profile import Mode
from groupcoap.core.registry import Registry
from groupcoap.core.requests import ChallengedRequest, DecryptedRequest, DeliveredRequest, SignatureState
from groupcoap.core.synchronization import Challenge, Method, Synchronization
from groupcoap.core.window import ReplayWindow
from groupcoap.endpoint import groups
from groupcoap.endpoint.groups import Groups
from groupcoap.files import state
from groupcoap.files.journal import lock_file
from groupcoap.files.pending import PendingRequests
from groupcoap.files.state import EndpointState, StateKey

Script = Callable[[History], None]
Plant = Callable[[pytest.MonkeyPatch], None]

PROFILES = (DRAFT, LONG_NONCES)
NAMES = {DRAFT: "draft", LONG_NONCES: "group-oscore", COUNTER_MODE: "counter-mode"}

OTHERS = (LAMP, FAN, LOCK, GAUGE, REMOTE)
WAIVING = Setup(
    (Method.BEST_EFFORT, Method.CHALLENGE_RESPONSE, Method.BASELINE),
    (Verification.SKIP, None, Verification.DEFER),
)


def acquaint(history: History) -> None:
    """Everybody has heard the switch, and delivers what it asks for next."""
    for _ in range(2):
        history.ask(history.nodes[SWITCH], OTHERS)


def install_everywhere(history: History) -> None:
    for node in history.nodes.values():
        history.install(node)


def restart_everything(history: History) -> None:
    for node in history.nodes.values():
        history.kill(node)
        history.start(node)


def play_again(history: History) -> None:
    """Everything that was ever on the air arrives again, everywhere, in every way, and what is delivered is
    answered."""
    for datagram in tuple(history.air.datagrams):
        for node in history.nodes.values():
            for address in (True, None):
                if history.deliver(datagram, node, address) is Outcome.DELIVERED:
                    history.answer(node)


def sent(datagram: Datagram | None) -> Datagram:
    assert datagram is not None
    return datagram


def for_another(history: History, datagram: Datagram, as_answer_to: Datagram) -> Datagram:
    """The same message with the token of another request."""
    token = coap.decode(as_answer_to.data).token
    changed = coap.encode(coap.decode(datagram.data)._replace(token=token))
    return replace(datagram, data=changed)


# ---- histories


def replays(history: History) -> None:
    acquaint(history)
    play_again(history)


def replays_after_a_crash(history: History) -> None:
    acquaint(history)
    restart_everything(history)
    play_again(history)
    acquaint(history)


def replays_after_a_clean_stop(history: History) -> None:
    acquaint(history)
    for node in history.nodes.values():
        history.stop(node)
        history.start(node)
    play_again(history)
    acquaint(history)


def replays_after_going_back_an_epoch(history: History) -> None:
    acquaint(history)
    history.renew(grace=GRACE)
    install_everywhere(history)
    acquaint(history)
    for node in history.nodes.values():
        history.kill(node)
        history.start(node, forgetful=True)
    install_everywhere(history)
    play_again(history)
    acquaint(history)


def death_within_a_write(history: History) -> None:
    """At every third byte of the record of a window and of a reservation, and within that of a renewal."""
    acquaint(history)
    lamp, switch = history.nodes[LAMP], history.nodes[SWITCH]
    for kept in range(0, 130, 3):
        history.tear(lamp, kept)
        history.ask(switch, [LAMP])
        history.tear(switch, kept)
        history.lose(switch, 6)
        history.start(lamp)
        history.start(switch)
    for kept in (0, 20, 200):
        history.renew()
        history.tear(lamp, kept)
        install_everywhere(history)
        history.start(lamp)
        install_everywhere(history)
        history.ask(switch, [LAMP, FAN])
    play_again(history)


def many_answers(history: History) -> None:
    """First, second, notification, after a renewal; and again after a crash."""
    acquaint(history)
    switch = history.nodes[SWITCH]
    request = history.send(switch, code=coap.GET, observe=True)
    assert request is not None
    for place in (LAMP, FAN, LOCK):
        node = history.nodes[place]
        assert history.deliver(request, node, True) is Outcome.DELIVERED
        answers = [history.answer(node, notification=number % 2 == 0) for number in range(4)]
        for answer in (answers[0], *reversed(answers)):
            assert answer is not None
            history.deliver_as_meant(answer)


def second_answer(history: History) -> None:
    acquaint(history)
    request = history.send(history.nodes[SWITCH])
    assert request is not None
    history.deliver(request, history.nodes[LAMP], True)
    for _ in range(2):
        assert history.answer(history.nodes[LAMP]) is not None


def notification_first(history: History) -> None:
    acquaint(history)
    request = history.send(history.nodes[SWITCH], code=coap.GET, observe=True)
    assert request is not None
    history.deliver(request, history.nodes[LAMP], True)
    answer = history.answer(history.nodes[LAMP], notification=True)
    assert answer is not None
    history.deliver_as_meant(answer)


def answers_again(history: History) -> None:
    """An answer that has a number of its own arrives twice."""
    acquaint(history)
    request = history.send(history.nodes[SWITCH])
    assert request is not None
    history.deliver(request, history.nodes[LAMP], True)
    answer = history.answer(history.nodes[LAMP], fresh=True)
    assert answer is not None
    assert history.deliver_as_meant(answer) == [Outcome.DELIVERED]
    assert history.deliver_as_meant(answer) == [Outcome.DROPPED]


def answer_after_a_renewal(history: History) -> None:
    acquaint(history)
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    request = history.send(switch)
    assert request is not None
    history.deliver(request, lamp, True)
    history.renew()
    install_everywhere(history)
    answer = history.answer(lamp)
    assert answer is not None
    assert history.deliver_as_meant(answer) == [Outcome.DELIVERED]


def answers_after_a_crash(history: History) -> None:
    """One answer comes before a crash of who asked, and again after it; another one only after it."""
    acquaint(history)
    switch = history.nodes[SWITCH]
    request = history.send(switch)
    assert request is not None
    answers = []
    for place in (LAMP, FAN):
        history.deliver(request, history.nodes[place], True)
        answers.append(history.answer(history.nodes[place], fresh=True))
    before, after = answers
    assert before is not None
    assert after is not None
    assert history.deliver_as_meant(before) == [Outcome.DELIVERED]
    history.kill(switch)
    history.start(switch)
    assert history.deliver_as_meant(before) == [Outcome.DROPPED]
    assert history.deliver_as_meant(after) == [Outcome.DELIVERED]


def crash_of_a_sender(history: History) -> None:
    for _ in range(3):
        acquaint(history)
        history.kill(history.nodes[SWITCH])
        history.start(history.nodes[SWITCH])


def stop_of_a_sender(history: History) -> None:
    for _ in range(3):
        acquaint(history)
        history.stop(history.nodes[SWITCH])
        history.start(history.nodes[SWITCH])


def forgeries(history: History) -> None:
    """A member speaks as another, an outsider as a member, a stranger as itself, a member as a listener."""
    acquaint(history)
    lamp = history.nodes[LAMP]
    request = history.send(history.nodes[SWITCH])
    assert request is not None
    for resource in (LIGHT, VENT):
        history.deliver_as_meant(history.speak_as(b"\x01", lamp.key, history.epochs[0], resource=resource))
    history.deliver_as_meant(history.speak_as(b"\x01", lamp.key, history.epochs[0], outside=True))
    history.deliver_as_meant(history.speak_as(b"\x55", lamp.key, history.epochs[0]))
    history.deliver_as_meant(flip(request, 8 * 80))
    for own_number in (None, 77):
        answer = history.answer_as(b"\x00\x01", lamp.key, request, own_number=own_number)
        assert answer is not None
        history.deliver_as_meant(answer)


def forged_echo(history: History) -> None:
    """A member answers, as the switch, the challenge that it has read, where signatures are skipped."""
    switch, fan = history.nodes[SWITCH], history.nodes[FAN]
    request = history.send(switch)
    assert request is not None
    assert history.deliver(request, fan, True) is Outcome.CHALLENGED
    echo = history.speak_as(
        b"\x01", history.nodes[LAMP].key, history.epochs[0], echo=history.challenges[-1], to=FAN
    )
    history.deliver_as_meant(echo)


def forgery_in_the_grace(history: History) -> None:
    acquaint(history)
    history.renew(grace=GRACE)
    install_everywhere(history)
    old = history.epochs[0]
    history.deliver_as_meant(history.speak_as(b"\x01", history.nodes[FAN].key, old))


def who_has_left(history: History) -> None:
    """Who leaves with a renewal, or before one, is heard neither under the old keys nor as another."""
    acquaint(history)
    history.ask(history.nodes[REMOTE], (LAMP, FAN, LOCK, GAUGE, SWITCH))
    history.ask(history.nodes[FAN], (LAMP, LOCK))
    history.evict(FAN)
    history.tell_who_left(history.nodes[LAMP])
    (gone,) = history.formers
    history.deliver(history.speak_as(b"\x00\x01", gone.key, history.epochs[0]), history.nodes[LAMP], True)
    history.renew(REMOTE, grace=GRACE)
    install_everywhere(history)
    for former in history.formers:
        kid = IDS[former.place]
        assert kid is not None
        history.deliver_as_meant(history.speak_as(kid, former.key, history.epochs[0]))
    history.ask(history.nodes[SWITCH], (LAMP, LOCK, GAUGE))


def who_has_left_unknown(history: History) -> None:
    """Under the new Gid its credential has not come yet, under the old one, which is still in use, it is known."""
    acquaint(history)
    kid = IDS[REMOTE]
    assert kid is not None
    history.ask(history.nodes[REMOTE], (LOCK,))
    history.renew(grace=GRACE)
    for node in history.nodes.values():
        history.install(node, unknown=REMOTE)
    history.evict(REMOTE)
    history.tell_who_left(history.nodes[LOCK])
    (gone,) = history.formers
    request = history.speak_as(kid, gone.key, history.epochs[0])
    assert history.deliver(request, history.nodes[LOCK], True) is Outcome.DROPPED


def an_id_for_another_device(history: History) -> None:
    """The Endpoint ID of who leaves is given to another device at once: the former is not heard under old keys."""
    acquaint(history)
    for _ in range(2):
        history.ask(history.nodes[REMOTE], (LAMP, FAN, LOCK, GAUGE, SWITCH))
    history.renew(REMOTE, returning=True, grace=GRACE)
    install_everywhere(history)
    (former,) = history.formers
    history.deliver_as_meant(history.speak_as(b"", former.key, history.epochs[0]))
    for _ in range(2):
        history.ask(history.nodes[REMOTE], (LAMP, FAN, LOCK, GAUGE, SWITCH))


def first_requests(history: History) -> None:
    acquaint(history)
    assert history.reached["a challenge"] == 2  # lamp and remote
    assert history.reached["an echo delivered"] == 2


def challenge_again(history: History) -> None:
    """Replays and newer requests while a challenge is open."""
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    first = history.send(switch)
    assert first is not None
    assert history.deliver(first, lamp, True) is Outcome.CHALLENGED
    assert history.deliver(first, lamp, True) is Outcome.DROPPED
    history.wait(1.25)
    assert history.deliver(first, lamp, True) is Outcome.DROPPED
    assert history.converse(switch, lamp, history.send(switch)) is Outcome.DELIVERED


def late_echo(history: History) -> None:
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    request = history.send(switch)
    assert request is not None
    history.deliver(request, lamp, True)
    challenge = history.answer(lamp)
    assert challenge is not None
    history.deliver_as_meant(challenge)
    history.wait(31.25)
    echo = history.echo(switch)
    assert echo is not None
    # its value is not known any more: by Group OSCORE another challenge may follow
    expected = Outcome.CHALLENGED if history.suite.bound else Outcome.DROPPED
    assert history.deliver_as_meant(echo) == [expected]


def echo_of_another_request(history: History) -> None:
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    request = history.send(switch)
    assert request is not None
    history.deliver(request, lamp, True)
    challenge = history.answer(lamp)
    assert challenge is not None
    history.deliver_as_meant(challenge)
    echo = history.echo(switch, original=False)
    assert echo is not None
    assert history.deliver_as_meant(echo) == [Outcome.DELIVERED if history.suite.bound else Outcome.DROPPED]
    assert history.converse(switch, lamp, history.send(switch)) is Outcome.DELIVERED


def echo_of_nothing(history: History) -> None:
    """A Repeat value that was another listener's."""
    switch, lamp, remote = history.nodes[SWITCH], history.nodes[LAMP], history.nodes[REMOTE]
    request = history.send(switch)
    assert request is not None
    history.deliver(request, lamp, True)
    history.deliver(request, remote, True)
    challenge = history.answer(remote)
    assert challenge is not None
    history.deliver_as_meant(challenge)
    assert switch.process is not None
    doubts = switch.process.doubts
    doubts.append(replace(doubts[-1], place=LAMP))
    assert history.deliver(sent(history.echo(switch)), lamp) is Outcome.DROPPED
    doubts.pop()
    assert history.deliver(sent(history.echo(switch)), remote) is Outcome.DELIVERED


def too_far(history: History) -> None:
    acquaint(history)
    history.lose(history.nodes[SWITCH], 40)
    request = history.send(history.nodes[SWITCH])
    assert request is not None
    assert history.deliver(request, history.nodes[LAMP], True) is Outcome.CHALLENGED


def late_request(history: History) -> None:
    acquaint(history)
    request = history.send(history.nodes[SWITCH])
    assert request is not None
    history.renew()
    install_everywhere(history)
    history.deliver_as_meant(request)


def grace_that_ends(history: History) -> None:
    acquaint(history)
    request, later = history.send(history.nodes[SWITCH]), history.send(history.nodes[SWITCH])
    assert request is not None
    assert later is not None
    history.renew(grace=GRACE)
    install_everywhere(history)
    assert history.deliver(request, history.nodes[LAMP], True) is Outcome.DELIVERED
    history.wait(21.0)
    assert history.deliver(later, history.nodes[LAMP], True) is Outcome.DROPPED


def one_renewal_after_the_other(history: History) -> None:
    acquaint(history)
    for _ in range(2):
        history.renew()
        install_everywhere(history)
        request = history.send(history.nodes[SWITCH])
        assert request is not None
        assert history.deliver(request, history.nodes[LAMP], True) is Outcome.DELIVERED


def a_renewal_slept_through(history: History) -> None:
    acquaint(history)
    history.renew()
    history.renew()
    install_everywhere(history)
    request = history.send(history.nodes[SWITCH])
    assert request is not None
    assert history.deliver(request, history.nodes[LAMP], True) is Outcome.CHALLENGED


def out_of_order(history: History) -> None:
    """The whole width of the window, last one first."""
    acquaint(history)
    requests = [history.send(history.nodes[SWITCH]) for _ in range(33)]
    for request in reversed(requests):
        assert request is not None
        history.deliver_as_meant(request)


def lost_state(history: History) -> None:
    """State is lost; the old requests come again; then the group is renewed."""
    acquaint(history)
    lock = history.nodes[LOCK]
    history.lose_state(lock)
    history.start(lock)
    play_again(history)
    history.renew()
    install_everywhere(history)
    history.start(lock)
    play_again(history)
    history.ask(history.nodes[SWITCH], (LOCK,))


# ---- histories of Group OSCORE


def for_one_alone(history: History) -> None:
    """Everybody gets it, by unicast and by multicast; nobody else can make anything of it, and it counts once."""
    acquaint(history)
    switch = history.nodes[SWITCH]
    for place in (LAMP, FAN, LOCK, REMOTE):
        for by_multicast in (True, None):
            request = sent(history.send(switch, to=place, alone=True))
            for node in history.nodes.values():
                expected = Outcome.DELIVERED if node.place == place else Outcome.DROPPED
                assert history.deliver(request, node, by_multicast) is expected
                assert history.deliver(request, node, by_multicast) is Outcome.DROPPED
            history.deliver_as_meant(sent(history.answer(history.nodes[place])))
    assert history.send(switch, to=GAUGE, alone=True) is None
    play_again(history)


def four_mixes(history: History) -> None:
    """Group and pairwise mode of request and answer; answered twice each, in both modes."""
    acquaint(history)
    switch = history.nodes[SWITCH]
    for place in (LAMP, FAN, LOCK):
        node = history.nodes[place]
        for alone in (False, True):
            for mode in Mode:
                request = sent(history.send(switch, to=place if alone else None, alone=alone))
                assert history.deliver(request, node, None if alone else True) is Outcome.DELIVERED
                answers = [sent(history.answer(node, mode=mode)), sent(history.answer(node, mode=other(mode)))]
                # to a group request there may be several answers, to what was for one alone there is one
                second = Outcome.DROPPED if alone else Outcome.DELIVERED
                assert [history.deliver(answer, switch) for answer in answers] == [Outcome.DELIVERED, second]
                assert [history.deliver(answer, switch) for answer in answers] == [Outcome.DROPPED] * 2
    assert history.reached["a further answer"] == 6


def other(mode: Mode) -> Mode:
    return Mode.GROUP if mode is Mode.PAIRWISE else Mode.PAIRWISE


def answers_in_order(history: History) -> None:
    """Of one listener, to one request: the first without Partial IV is the oldest, and none is taken behind a newer
    one; a renewal begins anew."""
    acquaint(history)
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    request = sent(history.send(switch))
    history.deliver(request, lamp, True)
    first, second, third = (sent(history.answer(lamp)) for _ in range(3))
    taken = [history.deliver(answer, switch) for answer in (first, third, second, third, first)]
    assert taken == [Outcome.DELIVERED] * 2 + [Outcome.DROPPED] * 3
    history.renew()
    install_everywhere(history)
    later = sent(history.answer(lamp))
    assert [history.deliver(later, switch) for _ in range(2)] == [Outcome.DELIVERED, Outcome.DROPPED]


def forgeries_for_one_alone(history: History) -> None:
    """Another member, or an outsider, cannot make what only two can make; nor can one answer for the other."""
    acquaint(history)
    lamp, fan = history.nodes[LAMP], history.nodes[FAN]
    kid = IDS[FAN]
    assert kid is not None
    epoch = history.epochs[0]
    for outside in (False, True):
        forged = history.speak_as(b"\x01", lamp.key, epoch, outside=outside, alone=kid, to=FAN)
        assert history.deliver(forged, fan) is Outcome.DROPPED
    request = sent(history.send(history.nodes[SWITCH], to=FAN, alone=True))
    for alone in (False, True):
        for own_number in (None, 77):
            forged = sent(history.answer_as(kid, lamp.key, request, own_number=own_number, alone=alone))
            assert history.deliver_as_meant(forged) == [Outcome.DROPPED]


def answer_of_another(history: History) -> None:
    """A member answers in its own name what only another was asked."""
    acquaint(history)
    request = sent(history.send(history.nodes[SWITCH], to=LAMP, alone=True))
    fan, kid = history.nodes[FAN], IDS[FAN]
    assert kid is not None
    for alone in (False, True):
        answer = sent(history.answer_as(kid, fan.key, request, own_number=77 + alone, alone=alone))
        assert history.deliver_as_meant(answer) == [Outcome.DROPPED]


def who_has_left_alone(history: History) -> None:
    """Who left is not heard in pairwise mode either, and answers nothing any more."""
    acquaint(history)
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    kid, lamps_kid = IDS[FAN], IDS[LAMP]
    assert kid is not None
    history.ask(history.nodes[FAN], (LAMP,), to=LAMP, alone=True)
    history.ask(switch, (FAN,), to=FAN, alone=True)
    before = sent(history.send(switch))
    history.renew(FAN, grace=GRACE)
    install_everywhere(history)
    (gone,) = history.formers
    request = history.speak_as(kid, gone.key, history.epochs[0], alone=lamps_kid, to=LAMP)
    assert history.deliver(request, lamp) is Outcome.DROPPED
    answer = sent(history.answer_as(kid, gone.key, before, own_number=99, alone=True))
    assert history.deliver(answer, switch) is Outcome.DROPPED


def who_left_before_it_was_answered(history: History) -> None:
    """Its Endpoint ID is another's by now: that one is not answered alone what it has not asked."""
    acquaint(history)
    history.ask(history.nodes[REMOTE], (LOCK,))
    history.deliver(sent(history.send(history.nodes[REMOTE], to=LOCK, alone=True)), history.nodes[LOCK])
    history.renew(REMOTE)
    history.renew(returning=True)
    install_everywhere(history)
    assert history.answer(history.nodes[LOCK]) is None


def one_number_under_two_gids(history: History) -> None:
    """An answer under the new Gid to what was asked under the old one is no answer to the request that has the same
    number under the new one."""
    switch, lock = history.nodes[SWITCH], history.nodes[LOCK]
    before = sent(history.send(switch))
    assert history.deliver(before, lock, True) is Outcome.DELIVERED
    history.renew()
    install_everywhere(history)
    after = sent(history.send(switch))
    answer = sent(history.answer(lock))
    assert history.deliver(for_another(history, answer, after), switch) is Outcome.DROPPED
    assert history.deliver(answer, switch) is Outcome.DELIVERED


def echo_twice(history: History) -> None:
    """A value is good for one request."""
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    assert history.deliver(sent(history.send(switch)), lamp, True) is Outcome.CHALLENGED
    history.deliver_as_meant(sent(history.answer(lamp)))
    assert history.deliver_as_meant(sent(history.echo(switch))) == [Outcome.DELIVERED]
    again = Outcome.DROPPED if lamp.model.policy.rules.original_echo else Outcome.CHALLENGED
    assert history.deliver_as_meant(sent(history.echo(switch, original=False))) == [again]


def echo_after_a_renewal(history: History) -> None:
    """Of a challenge of before: its value is gone, though requests under that Gid are still taken."""
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    assert history.deliver(sent(history.send(switch)), lamp, True) is Outcome.CHALLENGED
    history.deliver_as_meant(sent(history.answer(lamp)))
    history.renew(grace=GRACE)
    history.install(lamp)
    assert history.deliver_as_meant(sent(history.echo(switch))) == [Outcome.CHALLENGED]


def echo_under_young_keys(history: History) -> None:
    """A value that nobody has sent under these keys: while they are young, what has it cannot be old. The window
    starts there, and what was sent before does not count any more. Only where it says whom it is for."""
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    assert history.deliver(sent(history.send(switch)), lamp, True) is Outcome.CHALLENGED
    history.deliver_as_meant(sent(history.answer(lamp)))
    for _ in range(2):
        history.renew()  # the lamp sleeps through the first
    install_everywhere(history)
    earlier = sent(history.send(switch))
    history.wait(21.0)
    assert history.deliver_as_meant(sent(history.echo(switch))) == [Outcome.DELIVERED]
    assert history.deliver(earlier, lamp, True) is Outcome.DROPPED


def echo_under_old_keys(history: History) -> None:
    switch, lamp = history.nodes[SWITCH], history.nodes[LAMP]
    assert history.deliver(sent(history.send(switch)), lamp, True) is Outcome.CHALLENGED
    history.deliver_as_meant(sent(history.answer(lamp)))
    for _ in range(2):
        history.renew()
    install_everywhere(history)
    history.wait(31.25)
    assert history.deliver_as_meant(sent(history.echo(switch))) == [Outcome.CHALLENGED]


def bits_flipped(history: History) -> None:
    """In everything that a group request is made of, from its end: once it is delivered, all else is a replay."""
    acquaint(history)
    request = sent(history.send(history.nodes[SWITCH]))
    for bit in reversed(range(0, 8 * len(request.data), 3)):
        history.deliver(flip(request, bit), history.nodes[LAMP], True)


HISTORIES: tuple[Script, ...] = (
    replays,
    replays_after_a_crash,
    replays_after_a_clean_stop,
    replays_after_going_back_an_epoch,
    death_within_a_write,
    many_answers,
    second_answer,
    notification_first,
    answers_again,
    answer_after_a_renewal,
    answers_after_a_crash,
    crash_of_a_sender,
    stop_of_a_sender,
    forgeries,
    forged_echo,
    forgery_in_the_grace,
    who_has_left,
    who_has_left_unknown,
    an_id_for_another_device,
    first_requests,
    challenge_again,
    late_echo,
    echo_of_another_request,
    echo_of_nothing,
    too_far,
    late_request,
    grace_that_ends,
    one_renewal_after_the_other,
    a_renewal_slept_through,
    out_of_order,
    lost_state,
)

HISTORIES_OF_GROUP_OSCORE: tuple[Script, ...] = (
    for_one_alone,
    four_mixes,
    answers_in_order,
    forgeries_for_one_alone,
    answer_of_another,
    who_has_left_alone,
    who_left_before_it_was_answered,
    one_number_under_two_gids,
    echo_twice,
    echo_after_a_renewal,
    echo_under_young_keys,
    echo_under_old_keys,
    bits_flipped,
)

SETUPS: dict[Script, Setup] = {
    forgeries: WAIVING,
    forged_echo: WAIVING,
    forgery_in_the_grace: WAIVING,
    too_far: Setup(max_gap=30),
}


# ---- faults


def returning(owner: Any, name: str, value: Any) -> Plant:
    """A function that always returns this."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, lambda *args, **kwargs: value)


def changing(owner: Any, name: str, change: Callable[..., Any]) -> Plant:
    """A function, which `change` gets as its first argument, then what the function was called with."""
    right = inspect.getattr_static(owner, name)
    call = getattr(owner, name)

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong(*args: Any, **kwargs: Any) -> Any:
            return change(call, *args, **kwargs)

        monkeypatch.setattr(owner, name, staticmethod(wrong) if isinstance(right, staticmethod) else wrong)

    return plant


def all_of(*plants: Plant) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in plants:
            one(monkeypatch)

    return plant


def without_records(kind: str) -> Plant:
    """Records of this kind reach the memory and not the file."""
    return changing(
        EndpointState, "_append", lambda append, self, record: None if record[0] == kind else append(self, record)
    )


def accept_anything(accept: Any, self: ReplayWindow, number: int) -> bool:
    self.highest = max(number, self.highest)
    return True


def record_late() -> Plant:
    """The last window is missing when the process dies."""
    last: dict[EndpointState, tuple[Any, ...]] = {}

    def late(record: Any, self: EndpointState, *window: Any) -> None:
        if self in last:
            record(self, *last[self])
        last[self] = window

    return changing(EndpointState, "record_window", late)


def begin_anew() -> Plant:
    """State that is missing is made, with no witness beside it of what there was before."""
    keys: dict[Path, tuple[StateKey, ...]] = {}

    def careless(open_state: Any, path: Path) -> EndpointState:
        if not path.exists():
            lock_file(path).unlink()
            EndpointState.create(path, keys[path])
        opened: EndpointState = open_state(path)
        keys[path] = opened.keys
        return opened

    return changing(EndpointState, "open", careless)


def give_the_right_always(admit: Any, *args: Any) -> DeliveredRequest | ChallengedRequest:
    outcome: DeliveredRequest | ChallengedRequest = admit(*args)
    if isinstance(outcome, DeliveredRequest) and outcome._right is None:
        assert outcome._request._inside is not None
        outcome._right = outcome._request._inside[3]
    return outcome


def lose_the_payload(admit: Any, *args: Any) -> DeliveredRequest | ChallengedRequest:
    outcome: DeliveredRequest | ChallengedRequest = admit(*args)
    if isinstance(outcome, DeliveredRequest):
        outcome.message = outcome.message._replace(payload=b"")
    return outcome


def admit_under_any_context(admit: Any, verified: Any, *args: Any) -> Any:
    verified._request.context.current = True
    return admit(verified, *args)


def find_any_challenge(find: Any, self: Synchronization, repeat: bytes, now: float) -> Challenge | None:
    return self._challenges[-1] if self._challenges else None


def echo_and_keep(echo: Any, self: Synchronization, *args: Any) -> Any:
    before = list(self._challenges)
    outcome = echo(self, *args)
    self._challenges = before
    return outcome


def admit_without_moving(admit: Any, verified: Any, *args: Any) -> Any:
    """What comes in pairwise mode does not move the window."""
    window = verified._request.recipient.window
    before = window.highest, window.bits
    outcome = admit(verified, *args)
    if verified.state is SignatureState.PAIRWISE:
        window.highest, window.bits = before
    return outcome


def accept_and_forget(forgotten: str) -> Callable[..., None]:
    def accept(right: Any, self: OutgoingExchange, *args: Any, **kwargs: Any) -> None:
        right(self, *args, **kwargs)
        setattr(self, forgotten, None)

    return accept


def start_anywhere(right: Any, self: Synchronization, window: ReplayWindow, number: int) -> None:
    window.accept(number)
    self.synchronized = True


def keep_taking_requests(install: Any, self: Registry, context: SecurityContext, addresses: Any) -> None:
    install(self, context, addresses)
    for older in self.contexts(context.group):
        older.accepts_requests = True


def carry_everything_over(carry_over: Any, older: SecurityContext, newer: SecurityContext) -> None:
    for recipient in older.recipients:
        newer.restore(recipient.recipient_id, ReplayWindow(), unbroken=True)


windows_are_not_stored = without_records("window")
every_number_is_new = all_of(
    changing(ReplayWindow, "accept", accept_anything), returning(ReplayWindow, "is_new", True)
)
windows_come_back_empty = changing(
    SecurityContext,
    "restore",
    lambda restore, self, kid, window, unbroken: restore(self, kid, ReplayWindow(), unbroken=unbroken),
)
windows_are_stored_under_another_id = changing(
    EndpointState,
    "record_window",
    lambda record, self, group, gid, own_id, sender_id, *window: record(
        self, group, gid, own_id, STRANGER, *window
    ),
)
a_stop_gives_back_too_much = changing(state, "_drain", lambda drain, *args: max(drain(*args) - 1, 0))
the_right_stays = changing(
    IncomingExchange, "take_request_nonce", lambda take, self: self._right[0] if self._right else None
)
notifications_need_no_number = returning(responses, "_needs_own_partial_iv", False)
signatures_are_not_checked = returning(requests, "verify_countersignature", None)
signatures_of_answers_are_not_checked = returning(responses, "verify_countersignature", None)
anything_may_be_waived = all_of(
    changing(DecryptedRequest, "signature_needed", lambda needed, self: self.public_key is None),
    changing(groups, "admit", admit_under_any_context),
)
nobody_departs = returning(SecurityContext, "depart", None)
ids_are_compared_without_zeros = changing(
    SecurityContext, "depart", lambda depart, self, kids: depart(self, [kid.lstrip(b"\0") for kid in kids])
)
ids_stay_with_the_old_device = returning(SecurityContext, "reassigned", set())
baseline_delivers_at_once = changing(
    Synchronization,
    "_first_request",
    lambda first, self, method, *rest: first(self, Method.BEST_EFFORT, *rest),
)
challenges_last_for_ever = changing(
    Synchronization, "_find", lambda find, self, repeat, now: find(self, repeat, 0.0)
)
pending_challenges_are_forgotten = returning(Synchronization, "_pending", False)
any_request_is_the_original = returning(synchronization, "request_digest", b"")
no_step_is_too_far = returning(Synchronization, "too_far", False)
old_contexts_take_requests = all_of(
    changing(Registry, "install", keep_taking_requests), returning(Groups, "retire", None)
)
the_grace_never_ends = returning(Groups, "_end_grace", None)
nothing_is_carried_over = returning(Groups, "_carry_over", None)
no_renewal_is_missed = returning(groups, "_follows", True)
too_much_is_carried_over = changing(Groups, "_carry_over", carry_everything_over)
answers_are_not_counted = returning(OutgoingExchange, "accept", None)
answers_before_a_crash_are_not_counted = returning(OutgoingExchange, "resume", None)
requests_are_not_remembered = returning(PendingRequests, "sent", None)


response_numbers_are_not_kept = changing(OutgoingExchange, "accept", accept_and_forget("_notified"))
answers_without_a_number_are_not_counted = changing(OutgoingExchange, "accept", accept_and_forget("_answered"))
anybody_may_answer = changing(
    responses,
    "_responder",
    lambda responder, context, exchange, tail: tail[0] or responder(context, exchange, tail),
)
the_credential_is_another = changing(
    RecipientContext,
    "learn",
    lambda learn, self, key, credential: learn(self, key, credential and credential[::-1]),
)
the_gid_of_the_request_is_left_out = changing(
    GroupOscore, "binder", lambda binder, self, common, kid, gid: binder(self, common, kid, common.gid)
)
ids_stand_for_who_has_them = changing(SecurityContext, "member_with", lambda right, self, key, kid: kid)
challenges_outlive_renewals = returning(Synchronization, "forget_challenges", None)
keys_stay_young = returning(Synchronization, "_is_young", True)


def half_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "WIDTH", 16)


@dataclass(frozen=True)
class Fault:
    """What goes wrong in the implementation, the history that shows it, and the promise that it breaks.
    `overlooked`: what it breaks before that. `suites`: where it goes wrong."""

    name: str
    plant: Plant
    history: Script
    promise: Promise
    overlooked: tuple[Promise, ...] = ()
    suites: tuple[Suite, ...] = PROFILES


ONCE, NONCES, MEMBERS, ARRIVAL = Promise.ONCE, Promise.NONCES, Promise.MEMBERS, Promise.ARRIVAL
SYNCHRONIZATION, REQUEST_NONCE = Promise.SYNCHRONIZATION, Promise.REQUEST_NONCE
LOOSE = (SYNCHRONIZATION,)
ALL_BUT_NONCES = (Promise.SILENCE, ONCE, SYNCHRONIZATION, ARRIVAL)

FAULTS = (
    Fault("every number is new", every_number_is_new, replays, ONCE),
    Fault("no windows after a crash", windows_are_not_stored, replays_after_a_crash, ONCE, LOOSE),
    Fault("no windows after a stop", windows_are_not_stored, replays_after_a_clean_stop, ONCE, LOOSE),
    Fault("nonces without windows", windows_are_not_stored, replays_after_a_crash, NONCES, ALL_BUT_NONCES),
    Fault("empty windows", windows_come_back_empty, replays_after_a_crash, ONCE),
    Fault("nonces with empty windows", windows_come_back_empty, replays_after_a_crash, NONCES, ALL_BUT_NONCES),
    Fault("another's windows", windows_are_stored_under_another_id, replays_after_a_crash, ONCE, LOOSE),
    Fault("windows stored late", record_late(), replays_after_a_crash, ONCE),
    Fault("windows emptied by a renewal", too_much_is_carried_over, replays_after_going_back_an_epoch, ONCE),
    Fault("reservations not stored", without_records("reserve"), crash_of_a_sender, NONCES),
    Fault("too many numbers given back", a_stop_gives_back_too_much, stop_of_a_sender, NONCES),
    Fault("the right taken twice", the_right_stays, second_answer, NONCES),
    Fault("the right taken late", the_right_stays, many_answers, REQUEST_NONCE),
    Fault(
        "the right without verification",
        changing(groups, "admit", give_the_right_always),
        forgeries,
        REQUEST_NONCE,
        suites=(DRAFT,),
    ),
    Fault("the right for a notification", notifications_need_no_number, notification_first, REQUEST_NONCE),
    Fault("lost state made anew", begin_anew(), lost_state, Promise.SILENCE),
    Fault("replays to state made anew", begin_anew(), lost_state, ONCE, (Promise.SILENCE,)),
    Fault("nonces of state made anew", begin_anew(), lost_state, NONCES, ALL_BUT_NONCES),
    Fault("signatures not checked", signatures_are_not_checked, forgeries, MEMBERS),
    Fault("signatures of answers not checked", signatures_of_answers_are_not_checked, forgeries, MEMBERS),
    Fault("signatures of echoes waived", anything_may_be_waived, forged_echo, MEMBERS, suites=(DRAFT,)),
    Fault("signatures in the grace waived", anything_may_be_waived, forgery_in_the_grace, MEMBERS, suites=(DRAFT,)),
    Fault("nobody departs", nobody_departs, who_has_left, MEMBERS),
    Fault("somebody else departs", ids_are_compared_without_zeros, who_has_left, MEMBERS),
    Fault("the old device of an id", ids_stay_with_the_old_device, an_id_for_another_device, MEMBERS),
    Fault("payloads lost", changing(groups, "admit", lose_the_payload), replays, MEMBERS),
    Fault("baseline delivers at once", baseline_delivers_at_once, first_requests, SYNCHRONIZATION),
    Fault("challenges last for ever", challenges_last_for_ever, late_echo, SYNCHRONIZATION),
    Fault("challenges forgotten", pending_challenges_are_forgotten, challenge_again, SYNCHRONIZATION),
    Fault(
        "any Repeat value", changing(Synchronization, "_find", find_any_challenge), echo_of_nothing, SYNCHRONIZATION
    ),
    Fault(
        "any original",
        any_request_is_the_original,
        echo_of_another_request,
        SYNCHRONIZATION,
        suites=(DRAFT,),
    ),
    Fault("no step too far", no_step_is_too_far, too_far, SYNCHRONIZATION),
    Fault("requests to old contexts", old_contexts_take_requests, late_request, SYNCHRONIZATION),
    Fault("an endless grace", the_grace_never_ends, grace_that_ends, SYNCHRONIZATION),
    Fault("carried over after a sleep", no_renewal_is_missed, a_renewal_slept_through, SYNCHRONIZATION),
    Fault("nothing carried over", nothing_is_carried_over, one_renewal_after_the_other, ARRIVAL),
    Fault("half a window", half_a_window, out_of_order, ARRIVAL),
    Fault("requests not remembered", requests_are_not_remembered, answers_after_a_crash, ARRIVAL),
    Fault("answers not counted", answers_are_not_counted, answers_again, Promise.ANSWERS),
    Fault("answers forgotten", answers_before_a_crash_are_not_counted, answers_after_a_crash, Promise.ANSWERS),
)

ALONE = (LONG_NONCES,)
FAULTS_OF_GROUP_OSCORE = (
    Fault("alone without windows", changing(groups, "admit", admit_without_moving), for_one_alone, ONCE, (), ALONE),
    Fault("the right taken in both modes", the_right_stays, four_mixes, REQUEST_NONCE, (), ALONE),
    Fault("no Response Numbers", response_numbers_are_not_kept, answers_in_order, Promise.ANSWERS, (), ALONE),
    Fault(
        "first answers not counted",
        answers_without_a_number_are_not_counted,
        answers_in_order,
        Promise.ANSWERS,
        (),
        ALONE,
    ),
    Fault("anybody answers", anybody_may_answer, answer_of_another, Promise.ANSWERS, (), ALONE),
    Fault("another's credential", the_credential_is_another, for_one_alone, ARRIVAL, LOOSE, ALONE),
    Fault(
        "the Gid not bound",
        the_gid_of_the_request_is_left_out,
        one_number_under_two_gids,
        Promise.ANSWERS,
        (),
        ALONE,
    ),
    Fault("nobody departs alone", nobody_departs, who_has_left_alone, MEMBERS, (), ALONE),
    Fault("an id for who had it", ids_stand_for_who_has_them, who_left_before_it_was_answered, MEMBERS, (), ALONE),
    Fault(
        "echoes again", changing(Synchronization, "_echo", echo_and_keep), echo_twice, SYNCHRONIZATION, (), ALONE
    ),
    Fault(
        "challenges outlive renewals",
        challenges_outlive_renewals,
        echo_after_a_renewal,
        SYNCHRONIZATION,
        (),
        ALONE,
    ),
    Fault("keys stay young", keys_stay_young, echo_under_old_keys, SYNCHRONIZATION, (), ALONE),
    Fault(
        "young echoes start no window",
        changing(Synchronization, "_take_fresh", start_anywhere),
        echo_under_young_keys,
        SYNCHRONIZATION,
        (),
        ALONE,
    ),
    Fault(
        "signatures not checked in counter mode",
        signatures_are_not_checked,
        bits_flipped,
        MEMBERS,
        (),
        (COUNTER_MODE,),
    ),
)


# ---- playing them


def play(script: Script, setup: Setup, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ids_fit(monkeypatch, setup.suite)
    history = History(directory, virtual_storage(monkeypatch), setup)
    try:
        script(history)
    finally:
        history.close()


PLAYED = [(script, suite) for script in HISTORIES for suite in PROFILES]
PLAYED += [(script, suite) for script in HISTORIES_OF_GROUP_OSCORE for suite in (LONG_NONCES, COUNTER_MODE)]


@pytest.mark.parametrize(
    ("script", "suite"),
    [pytest.param(*pair, id=f"{pair[0].__name__}-{NAMES[pair[1]]}") for pair in PLAYED],
)
def test_every_promise_is_kept_in(
    script: Script, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(script, replace(SETUPS.get(script, Setup()), suite=suite), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("fault", "suite"),
    [
        pytest.param(fault, suite, id=f"{fault.name}-{NAMES[suite]}")
        for fault in (*FAULTS, *FAULTS_OF_GROUP_OSCORE)
        for suite in fault.suites
    ],
)
def test_a_promise_is_broken_by(
    fault: Fault, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = replace(SETUPS.get(fault.history, Setup()), overlooked=fault.overlooked, suite=suite)
    fault.plant(monkeypatch)
    with pytest.raises(Broken) as caught:
        play(fault.history, setup, tmp_path, monkeypatch)
    assert caught.value.promise is fault.promise
