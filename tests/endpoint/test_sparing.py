"""Loggers that a flood cannot fill a disk with."""

from __future__ import annotations

import logging

import pytest
from devices import eventually, lamps
from wire import Member, Peer
from world import World

from groupcoap.core.policy import Verification
from groupcoap.endpoint import sparing
from groupcoap.endpoint.groups import ListenerPolicy
from groupcoap.endpoint.sparing import BURST, RATE, sparing_logger


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(sparing, "monotonic", lambda: self.now)


def test_so_many_lines_of_a_kind_and_then_how_many_were_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    log = sparing_logger("groupcoap.test-kinds")
    for number in range(BURST + 50):
        log.warning("from %s port %d", "somebody", number)
    assert len(caplog.records) == BURST
    log.warning("another kind")
    assert caplog.messages[-1] == "another kind"
    clock.now += 1.0
    log.warning("from %s port %d", "somebody", 7)
    assert caplog.messages[-1] == "from somebody port 7 (and 50 more like it before)"
    for number in range(50):
        log.warning("from %s port %d", "somebody", number)
    assert len(caplog.records) == BURST + 1 + RATE
    assert caplog.messages[-1] == f"from somebody port {RATE - 2:.0f}"


def test_what_people_ask_to_see_is_not_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "groupcoap.test-debug")
    log = sparing_logger("groupcoap.test-debug")
    for _ in range(3 * BURST):
        log.debug("dropped")
    assert len(caplog.records) == 3 * BURST


def test_a_logger_has_one_filter_however_often_it_is_asked_for() -> None:
    assert sparing_logger("groupcoap.test-once") is sparing_logger("groupcoap.test-once")
    assert len(sparing_logger("groupcoap.test-once").filters) == 1


def test_kinds_are_bounded_too() -> None:
    log = sparing_logger("groupcoap.test-many")
    for number in range(1000):
        log.warning(f"kind {number}")
    assert len(sparing._SPARING._kinds) <= 128


async def test_a_member_cannot_fill_the_log_with_what_an_application_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def decide(code: int, path: tuple[bytes, ...]) -> Verification:
        raise RuntimeError("a mistake")

    world = World(listeners=1)
    member = Member(world, world.switch_ids[0])
    async with lamps(world, policy=ListenerPolicy(verification=decide)) as [(lamp, light)], Peer() as peer:
        datagram = member.request()
        for _ in range(3 * BURST):
            lamp.interface.receive(datagram, peer.address, world.addresses[0].packed)
        assert light.requests == []
    lines = [record for record in caplog.records if record.name == "groupcoap.drops"]
    assert BURST <= len(lines) < 2 * BURST
    await eventually(lambda: True)
