"""Datagrams that wait to be processed: each host in its turn, and who has sent too much loses its own."""

from __future__ import annotations

import asyncio

import pytest
from devices import eventually
from hypothesis import given
from hypothesis import strategies as st
from wire import Inbox, Peer

from groupcoap.endpoint.fairness import FairQueue
from groupcoap.endpoint.limits import Limits
from groupcoap.endpoint.network import Channel
from groupcoap.errors import Limit

ROOM = 356  # bytes that one datagram of 100 bytes takes up


def datagram(host: str, number: int) -> tuple[bytes, tuple[str, int]]:
    return number.to_bytes(2, "big") * 50, (host, 5683)


def number(item: tuple[bytes, object]) -> int:
    return int.from_bytes(item[0][:2], "big")


def taken(queue: FairQueue) -> list[tuple[str, int]]:
    return [(item[1][0], number(item)) for item in iter(lambda: queue.take() if queue else None, None) if item]


def test_each_host_in_its_turn_and_its_own_in_order() -> None:
    queue = FairQueue(100 * ROOM, lambda limit: None)
    for at in range(4):
        queue.put(datagram("a", at))
    queue.put(datagram("b", 0))
    queue.put(datagram("c", 0))
    queue.put(datagram("b", 1))
    assert taken(queue) == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2), ("a", 3)]
    assert not queue
    with pytest.raises(KeyError):
        queue.take()


def test_who_has_sent_the_most_loses_its_oldest() -> None:
    reached: list[Limit] = []
    queue = FairQueue(10 * ROOM, reached.append)
    queue.put(datagram("member", 0))
    for at in range(1000):
        queue.put(datagram("flood", at))
    assert len(queue) <= 10
    assert len(reached) == 1001 - len(queue)
    assert set(reached) == {Limit.RECEIVE_BUFFER}
    left = taken(queue)
    assert left[0] == ("member", 0)
    assert [at for host, at in left[1:]] == list(range(1000 - len(left) + 1, 1000))


def test_hosts_that_are_forged_share_what_is_left() -> None:
    queue = FairQueue(2000 * ROOM, lambda limit: None)
    queue.put(datagram("member", 0))
    for at in range(1000):
        queue.put(datagram(f"forged {at}", at))
    queue.put(datagram("member", 1))
    assert len(queue._queues) <= 257
    assert [host for host, _ in taken(queue)].count("member") == 2
    assert queue._room == 2000 * ROOM


def test_one_that_is_larger_than_all_the_room_goes_alone() -> None:
    reached: list[Limit] = []
    queue = FairQueue(ROOM, reached.append)
    queue.put((bytes(60_000), ("a", 1)))
    assert (len(queue), len(reached)) == (0, 1)
    queue.put(datagram("a", 1))
    assert taken(queue) == [("a", 1)]


def test_cleared() -> None:
    queue = FairQueue(10 * ROOM, lambda limit: None)
    for at in range(5):
        queue.put(datagram("a", at))
    queue.clear()
    assert not queue
    assert queue._room == 10 * ROOM


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400), st.integers(0, 3000)), max_size=300))
def test_whatever_comes_memory_is_bounded_and_nothing_is_made_up(steps: list[tuple[bool, int, int]]) -> None:
    lost: list[Limit] = []
    queue = FairQueue(20_000, lost.append)
    put = got = 0
    for take, host, length in steps:
        if take and queue:
            queue.take()
            got += 1
        elif not take:
            queue.put((bytes(length), (str(host), 1)))
            put += 1
        waiting = [item for queued in queue._queues.values() for item in queued]
        assert len(waiting) == len(queue) == put - got - len(lost)
        assert sum(len(item[0]) + 256 for item in waiting) == 20_000 - queue._room <= 20_000
        assert all(queue._queues.values())


async def test_at_a_socket_one_host_does_not_delay_another() -> None:
    async with Peer("127.0.0.77") as flooder, Peer("127.0.0.78") as member, Peer() as owner:
        inbox, reached = Inbox(), list[Limit]()
        for at in range(200):
            flooder.send(b"flood %d" % at, owner.address)
        member.send(b"member", owner.address)
        channel = Channel(owner.socket, None, inbox, Limits(receive_buffer=100 * (256 + 9)), reached.append)
        got = [(await inbox.next())[0] for _ in range(2)]
        assert b"member" in got
        await eventually(lambda: inbox._queue.qsize() + len(reached) == 199)
        assert len(reached) >= 100
        await asyncio.sleep(0)
        channel.close()


async def test_what_is_read_but_not_processed_when_the_socket_is_closed_is_not_given_on() -> None:
    async with Peer() as sender, Peer() as owner:
        got: list[bytes] = []

        def receive(datagram: bytes, source: object, destination: object) -> None:
            got.append(datagram)
            channel.close()

        for at in range(5):
            sender.send(b"%d" % at, owner.address)
        channel = Channel(owner.socket, None, receive)
        await eventually(lambda: got)
        await asyncio.sleep(0.01)
        assert got == [b"0"]
