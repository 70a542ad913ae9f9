"""The Group Manager as a server: batches, commits, restarts, the operator, and what must not leave too early."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import pytest
from manager_devices import (
    BOTH,
    DELETE,
    FETCH,
    GET,
    LISTENER,
    POST,
    Device,
    House,
    Joined,
    house,
    place,
    problem,
    until,
)

from groupcoap.association.node import UnprotectedAnswer
from groupcoap.association.registry import TOO_MANY_REQUESTS, AssociationLimits
from groupcoap.association.setup import AssociateRequest
from groupcoap.core import coap
from groupcoap.endpoint.limits import Limits
from groupcoap.errors import EnvironmentFault, MisuseError, NetworkFault, Refused, StoreFault
from groupcoap.keying.admin import Scheme
from groupcoap.keying.envelope import parse_envelope
from groupcoap.keying.joining import KeyReport
from groupcoap.keying.labels import CBOR
from groupcoap.keying.labels import GROUPCOMM_CBOR as GROUPCOMM
from groupcoap.manager import delivery, resources, server
from groupcoap.manager.catchups import CatchUps, Paces
from groupcoap.manager.control import ask, is_running
from groupcoap.manager.server import ManagerServer
from groupcoap.manager.state import GroupStatus

__all__ = ["house", "place"]

schemes = pytest.mark.parametrize("scheme", Scheme, ids=lambda scheme: scheme.name)


async def join_all(devices: list[Device], group: str = "room", **changes: Any) -> list[Joined]:
    """All of them at the same time."""
    requests = [await device.request(group, **changes) for device in devices]
    answers = await asyncio.gather(
        *(
            device.ask(POST, f"ace-group/{group}", request.encode(), GROUPCOMM)
            for device, request in zip(devices, requests, strict=True)
        )
    )
    return [device.joined(r, a) for device, r, a in zip(devices, requests, answers, strict=True)]


def commits_of(house: House) -> list[int]:
    """How many writes each commit has, from now on."""
    found: list[int] = []
    commit = house.store.commit

    def counting(writes: Any) -> None:
        found.append(len(writes))
        commit(writes)

    house.store.commit = counting  # type: ignore[method-assign]
    return found


@contextmanager
def commits_held(house: House) -> Iterator[threading.Event]:
    """Commits do not happen until the event is set, at the latest at the end."""
    gate, commit = threading.Event(), house.store.commit

    def held(writes: Any) -> None:
        gate.wait(10.0)
        commit(writes)

    house.store.commit = held  # type: ignore[method-assign]
    try:
        yield gate
    finally:
        gate.set()
        house.store.commit = commit  # type: ignore[method-assign]


# ---- batches


@schemes
async def test_twenty_joins_at_once_are_one_renewal(house: House, scheme: Scheme) -> None:
    group = await house.create(scheme=scheme, window=0.25)
    (present,) = await house.members("present")
    devices = [await house.device(f"d{number}") for number in range(20)]
    for device in devices:
        await device.settle()
    await house.settled()
    commits, num, multicasts = commits_of(house), group.num, len(house.multicasts())
    joined = await join_all(devices)
    assert group.num == num + 1
    assert len([count for count in commits if count > 5]) == 1
    assert len(commits) <= 3  # and the present member's confirmation
    assert len({one.report.material.endpoint_id for one in joined}) == 20
    assert len({one.node for one in joined}) == 20
    assert {one.report.num for one in joined} == {num + 1}
    assert present.places["room"].gid == group.gid
    assert len(house.multicasts()) - multicasts == (0 if scheme is Scheme.POINT_TO_POINT else 1)
    assert len({parse_envelope(data).kid for data in house.multicasts()}) == len(house.multicasts())
    answers = await asyncio.gather(*(device.confirm() for device in devices))
    assert set(answers) == {aiocoap.CHANGED}
    await house.settled()


async def test_joins_in_two_groups_do_not_wait_for_each_other(house: House) -> None:
    await house.create("slow", window=5.0)
    await house.create("quick", window=0.0)
    a = await house.device("a", {"slow": LISTENER})
    b = await house.device("b", {"quick": LISTENER})
    request = await a.request("slow")
    waiting = asyncio.create_task(a.ask(POST, "ace-group/slow", request.encode(), GROUPCOMM))
    await until(lambda: house.server._batches)
    await b.join("quick")
    assert not waiting.done()
    await house.server._flush("slow")
    a.joined(request, await waiting)


async def test_two_joins_of_one_device_in_one_batch_make_one_member(house: House) -> None:
    group = await house.create(window=0.2)
    device = await house.device("a")
    first, second = await device.request(), await device.request()
    answers = await asyncio.gather(
        *(device.ask(POST, "ace-group/room", one.encode(), GROUPCOMM) for one in (first, second))
    )
    assert sorted(answer.code.dotted for answer in answers) == ["2.01", "5.03"]
    assert len(group.members) == 1


async def test_a_batch_stays_open_while_newcomers_come_but_not_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WINDOWS", 2)
    group = await house.create(window=5.0)
    devices = [await house.device(f"d{number}") for number in range(3)]
    requests = [(device, await device.request()) for device in devices]
    tasks, ends = [], []

    def waiting(number: int) -> bool:
        return "room" in house.server._batches and len(house.server._batches["room"].waiting) == number

    for number, (device, request) in enumerate(requests, 1):
        tasks.append(asyncio.create_task(device.ask(POST, "ace-group/room", request.encode(), GROUPCOMM)))
        await until(functools.partial(waiting, number))
        batch = house.server._batches["room"]
        assert batch.timer is not None
        ends.append(batch.timer.when())
        if number == 2:
            batch.opened -= 6.0  # as if it had been open for longer
    assert ends[0] < ends[1]
    assert ends[2] < ends[1]
    assert ends[2] <= batch.opened + 2 * 5.0 + 0.01
    await house.server._flush("room")
    assert {(await task).code for task in tasks} == {aiocoap.CREATED}
    assert len(group.members) == 3


async def test_who_comes_while_others_are_admitted_is_in_the_next_batch(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "JOIN_WAIT", 0.5)
    group = await house.create()
    a, asleep = await house.members("a", "asleep")
    await house.settled()
    num = group.num
    asleep.node.deaf = True
    devices = [await house.device(f"d{number}") for number in range(4)]
    requests = [(device, await device.request()) for device in devices]
    tasks = []
    for number, (device, request) in enumerate(requests):
        tasks.append(asyncio.create_task(device.ask(POST, "ace-group/room", request.encode(), GROUPCOMM)))
        if number == 0:
            await until(lambda: "d0" in group.by_device)
    answers = [await task for task in tasks]
    joined = [device.joined(request, answer) for (device, request), answer in zip(requests, answers, strict=True)]
    assert group.num == num + 2
    assert [one.report.num for one in joined][1:] == [num + 2] * 3
    await until(lambda: a.places["room"].num == num + 2)


# ---- again


async def test_a_join_that_comes_again_as_the_same_message_gets_identical_bytes(house: House) -> None:
    group = await house.create()
    device = await house.device("a")
    await device.settle()

    def answers() -> list[bytes]:
        sent = house.sent("manager", device.address)
        return [data for data in sent if coap.decode(data).message_id == request.message_id]

    for _ in range(10):  # where it takes long, there is an empty acknowledgement first
        before = len(house.sent("a"))
        joined = await device.join()
        request = coap.decode(house.sent("a")[before])
        (first,) = answers()
        if coap.decode(first).payload:
            break
    assert coap.decode(first).type == coap.ACK
    await house.settled()
    sequence, tables = group.sequence, house.tables()
    device.node.network.send(house.sent("a")[before], house.address)
    await until(lambda: len(answers()) == 2)
    assert answers() == [first, first]
    assert (group.sequence, house.tables()) == (sequence, tables)
    assert list(group.members) == [joined.node]


async def test_a_join_that_comes_again_while_it_waits_is_one(house: House) -> None:
    group = await house.create(window=0.3)
    device = await house.device("a")
    await device.settle()
    before = len(house.sent("a"))
    task = asyncio.create_task(device.join())
    await until(lambda: house.server._batches)
    for _ in range(3):
        device.node.network.send(house.sent("a")[before], house.address)
    await task
    assert (group.sequence, len(group.members)) == (2, 1)


async def test_the_same_join_in_a_new_message_gets_the_same_endpoint_id(house: House) -> None:
    group = await house.create()
    await house.members("m")
    device = await house.device("a")
    first = await device.join()
    num, sequence = group.num, group.sequence
    for restart in (False, True):
        if restart:
            await house.restart()
            group = house.group()
        answer = await device.ask(POST, "ace-group/room", first.request.encode(), GROUPCOMM)
        again = device.joined(first.request, answer)
        assert answer.code == aiocoap.CREATED
        assert (again.node, again.report.material.endpoint_id) == (first.node, first.report.material.endpoint_id)
        assert (group.num, group.sequence, len(group.members)) == (num, sequence, 2)
    await house.perform("rekey", group="room")
    answer = await device.ask(POST, "ace-group/room", first.request.encode(), GROUPCOMM)
    assert device.joined(first.request, answer).report.material.gid == group.gid  # never old keys
    assert len(group.members) == 2


async def test_a_join_that_comes_again_after_the_member_left_is_a_new_one(house: House) -> None:
    group = await house.create()
    device = await house.device("a")
    first = await device.join()
    await device.ask(DELETE, f"ace-group/room/nodes/{first.node}")
    answer = await device.ask(POST, "ace-group/room", first.request.encode(), GROUPCOMM)
    again = device.joined(first.request, answer)
    assert again.node != first.node
    assert list(group.members) == [again.node]


@schemes
async def test_a_rejoin_gets_a_new_endpoint_id_and_node(house: House, scheme: Scheme) -> None:
    group = await house.create(scheme=scheme)
    other, device = await house.members("other", "a")
    await house.settled()
    before, num = device.places["room"], group.num
    again = await device.join(roles=BOTH)
    assert again.answer.code == aiocoap.CHANGED
    assert again.node != before.node
    assert again.report.material.endpoint_id not in (before.endpoint_id, other.places["room"].endpoint_id)
    assert group.num == num + 1
    assert other.places["room"].gid == group.gid
    assert before.endpoint_id in other.rekeys[-1].stale
    assert (await device.ask(GET, f"ace-group/room/nodes/{before.node}")).code == coap.FORBIDDEN
    assert sorted(group.by_device) == ["a", "other"]


async def test_no_endpoint_id_is_given_twice_under_one_gid(house: House) -> None:
    group = await house.create(window=0.0)
    devices = [await house.device(f"d{number}") for number in range(6)]
    seen: dict[bytes, set[bytes]] = {}
    for turn in range(12):
        device = devices[turn % 6]
        joined = await device.join()
        material = joined.report.material
        assert material.endpoint_id is not None
        others = {member.endpoint_id or b"" for member in group.members.values()} - {material.endpoint_id}
        given = seen.setdefault(material.gid, others)
        assert material.endpoint_id not in given
        given.add(material.endpoint_id)
        ids = [member.endpoint_id for member in group.members.values()]
        assert len(set(ids)) == len(ids)
    assert len(group.members) == 6


async def test_answers_are_forgotten_after_a_while(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TICK", 0.02)
    await house.restart()
    await house.create()
    await house.members("a")
    assert len(house.tables()["answers"]) == 1
    house.clock = lambda: time.time() + 300
    await until(lambda: not house.tables()["answers"])


# ---- nothing leaves before it is durable


@pytest.mark.parametrize("scheme", [Scheme.LKH, Scheme.POINT_TO_POINT], ids=lambda scheme: scheme.name)
async def test_nobody_learns_of_a_renewal_that_is_not_durable_yet(house: House, scheme: Scheme) -> None:
    group = await house.create(scheme=scheme)
    a, b = await house.members("a", "b")
    await house.settled()
    secret, gid = group.master_secret.reveal(), group.gid
    node = f"ace-group/room/nodes/{a.places['room'].node}"
    with commits_held(house) as gate:
        sent, told = len(house.multicasts()), len(b.rekeys)
        rekey = asyncio.create_task(house.perform("rekey", group="room"))
        await until(lambda: group.gid != gid)
        asking = [
            asyncio.create_task(a.ask(GET, path))
            for path in (node, "ace-group/room", "ace-group/room/num", "ace-group/room/creds")
        ]
        names = cbor2.dumps({0: [group.gid]})
        asking.append(asyncio.create_task(a.ask(FETCH, "ace-group", names, GROUPCOMM)))
        await asyncio.sleep(0.15)
        assert not any(task.done() for task in (rekey, *asking)), "answered before the commit"
        assert (len(house.multicasts()), len(b.rekeys)) == (sent, told)
        gate.set()
        await rekey
        answers = [await task for task in asking]
    report = KeyReport.parse(answers[0].payload)
    assert report.material.gid == group.gid
    assert report.material.master_secret.reveal() == group.master_secret.reveal() != secret
    await until(lambda: b.places["room"].gid == group.gid)
    await house.settled()


async def test_a_newcomer_is_not_answered_before_its_membership_is_durable(house: House) -> None:
    group = await house.create()
    device = await house.device("a")
    request = await device.request()
    await device.settle()
    with commits_held(house) as gate:
        task = asyncio.create_task(device.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
        await until(lambda: group.members)
        await asyncio.sleep(0.1)
        assert not task.done()
        gate.set()
        device.joined(request, await task)


@schemes
async def test_a_commit_that_fails_stops_the_manager_and_nothing_has_left(house: House, scheme: Scheme) -> None:
    await house.create(scheme=scheme)
    a, b = await house.members("a", "b")
    newcomer = await house.device("newcomer")
    await newcomer.settle()
    await house.settled()
    request = await newcomer.request()
    stored, sent = house.tables(), len(house.multicasts())
    places = [(device.places["room"].num, device.places["room"].gid) for device in (a, b)]
    log = len(house.log)

    def failing(writes: Any) -> None:
        raise StoreFault("the disk is full")

    commit = house.store.commit
    house.store.commit = failing  # type: ignore[method-assign]
    answer = await newcomer.ask(POST, "ace-group/room", request.encode(), GROUPCOMM)
    assert problem(answer) == (coap.SERVICE_UNAVAILABLE, None)
    assert house.server.stopped.is_set()
    assert isinstance(house.server.failure, StoreFault)
    assert "disk is full" in str(house.server.failure)
    house.store.commit = commit  # type: ignore[method-assign]  # it works again, but memory is ahead of it
    for device in (a, b):
        node = f"ace-group/room/nodes/{device.places['room'].node}"
        for path in (node, "ace-group/room", "ace-group/room/num"):
            assert (await device.ask(GET, path)).code == coap.SERVICE_UNAVAILABLE, path
    with pytest.raises(StoreFault):
        await house.perform("rekey", group="room")
    assert house.tables() == stored
    assert len(house.multicasts()) == sent
    assert places == [(device.places["room"].num, device.places["room"].gid) for device in (a, b)]
    assert not [event for event in house.log[log:] if event.what in ("told", "heard", "evicted", "answered")]
    house.compare = False
    await house.restart()
    house.compare = True
    await newcomer.join()
    assert house.group().num == places[0][0] + 1
    assert a.places["room"].gid == house.group().gid


async def test_a_manager_that_cannot_write_says_so_to_the_operator(house: House) -> None:
    await house.create()

    def failing(writes: Any) -> None:
        raise StoreFault("the disk is full")

    house.store.commit = failing  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFault, match="disk is full"):
        await asyncio.to_thread(ask, house.home, "rekey", group="room")
    await asyncio.wait_for(house.server.stopped.wait(), 3.0)
    house.compare = False


# ---- the operator


async def operate(house: House, name: str, **arguments: Any) -> Any:
    """As the command line does it."""
    return await asyncio.to_thread(ask, house.home, name, **arguments)


@pytest.mark.parametrize("running", [True, False], ids=["running", "offline"])
async def test_every_operator_command(house: House, place: Path, running: bool) -> None:
    settings = house.settings("hall").to_json()
    if not running:
        await house.stop()
    assert is_running(house.home) == running
    assert (await operate(house, "create_group", settings=settings))["num"] == 0
    rights: dict[str, list[str]] = {"hall": ["listener", "multicaster"]}
    enrolled = await operate(
        house,
        "enroll",
        devices=[{"device": "a", "rights": rights, "note": "a lamp"}, {"device": "b", "rights": {}}],
    )
    first, second = enrolled["enrolments"]
    assert (first["device"], second["device"], first["groups"][0]["name"]) == ("a", "b", "hall")
    assert first["manager"]["addresses"] == [f"{house.address[0]}:{house.address[1]}"]
    assert len(bytes.fromhex(first["handle"])) == 8
    assert len(bytes.fromhex(first["secret"])) == 16
    await operate(house, "grant", device="b", group="hall", roles=["pure listener"])
    devices = (await operate(house, "devices"))["devices"]
    assert [(one["device"], one["rights"]) for one in devices] == [
        ("a", {"hall": ["multicaster", "listener"]}),
        ("b", {"hall": ["pure listener"]}),
    ]
    assert (await operate(house, "members", group="hall"))["members"] == []
    assert (await operate(house, "rekey", group="hall"))["num"] == 1
    changed = json.loads(settings) | {"max_members": 7}
    assert (await operate(house, "change_group", group="hall", settings=json.dumps(changed)))["changed"] == [
        "max_members"
    ]
    (shown,) = (await operate(house, "groups"))["groups"]
    assert (shown["name"], shown["num"], shown["members"], shown["scheme"]) == ("hall", 1, 0, "LKH")
    assert json.loads((await operate(house, "group", group="hall"))["settings"])["max_members"] == 7
    assert (await operate(house, "evict", group="hall", device="b"))["was_member"] is False
    assert (await operate(house, "withdraw", device="a"))["groups"] == []
    status = await operate(house, "status")
    assert (status["name"], status["devices"], ("associations" in status)) == ("gm", 2, running)
    await operate(house, "backup", path=str(place / "backup"))
    assert (place / "backup").stat().st_mode & 0o777 == 0o600
    with pytest.raises(MisuseError, match="active"):
        await operate(house, "delete_group", group="hall")
    await operate(house, "set_active", group="hall", active=False)
    with pytest.raises(MisuseError, match="inactive"):
        await operate(house, "rekey", group="hall")
    assert (await operate(house, "delete_group", group="hall"))["members"] == 0
    with pytest.raises(MisuseError, match="no group"):
        await operate(house, "members", group="hall")
    entries = (await operate(house, "audit", limit=100))["entries"]
    assert [entry["event"] for entry in entries[:2]] == ["group deleted", "group deactivated"]
    assert {entry["device"] for entry in (await operate(house, "audit", device="a"))["entries"]} == {"a"}
    if not running:
        await house.start()
    assert house.server.manager.devices["a"].withdrawn is not None


@pytest.mark.parametrize("running", [True, False], ids=["running", "offline"])
async def test_commands_that_cannot_be(house: House, running: bool) -> None:
    await house.create()
    await house.device("a")
    tables = house.tables()
    other = house.settings("other").to_json()
    if not running:
        await house.stop()
    for name, arguments in (
        ("what", {}),
        ("__init__", {}),
        ("rekey", {}),
        ("rekey", {"group": "room", "more": 1}),
        ("rekey", {"group": "nowhere"}),
        ("grant", {"device": "nobody", "group": "room", "roles": ["listener"]}),
        ("grant", {"device": "a", "group": "room", "roles": ["king"]}),
        ("grant", {"device": "a", "group": "room", "roles": []}),
        ("grant", {"device": "a", "group": "nowhere", "roles": ["listener"]}),
        ("enroll", {"devices": [{"device": "b", "rights": {}}, {"device": "a", "rights": {}}]}),
        ("enroll", {"devices": [{"device": "b", "rights": {}}, {"device": "b", "rights": {}}]}),
        ("enroll", {"devices": [{"device": "b", "rights": {"nowhere": ["listener"]}}]}),
        ("enroll", {"devices": [{"device": "no/name", "rights": {}}]}),
        ("evict", {"group": "room", "device": "nobody"}),
        ("change_group", {"group": "room", "settings": other}),
        ("audit", {"limit": 0}),
    ):
        with pytest.raises(MisuseError):
            await operate(house, name, **arguments)
    if not running:
        await house.start()
    assert house.tables() == tables


async def test_the_socket_is_the_managers_users_alone_and_gone_afterwards(house: House) -> None:
    path = house.home.socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_running(house.home)
    await house.stop()
    assert not path.exists()
    assert not is_running(house.home)
    await house.start()


async def test_what_is_no_command_is_answered_and_the_connection_goes_on(house: House) -> None:
    await house.create()

    def talk() -> list[Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(str(house.home.socket))
            lines = [
                b"{",
                b"[]",
                b"1",
                b'{"name": 1, "arguments": {}}',
                b'{"name": "rekey"}',
                b"\xff",
                b"[" * 100_000,
            ]
            for line in (*lines, b'{"name": "groups", "arguments": {}}'):
                connection.sendall(line + b"\n")
            with connection.makefile("rb") as answers:
                return [json.loads(answers.readline()) for _ in range(len(lines) + 1)]

    *wrong, right = await asyncio.to_thread(talk)
    assert [answer["kind"] for answer in wrong] == ["misuse"] * 7
    assert right["result"]["groups"][0]["name"] == "room"


async def test_a_second_manager_cannot_have_the_database(house: House) -> None:
    with pytest.raises(StoreFault):
        house.home.open_store()


async def test_an_address_that_is_taken_leaves_nothing_behind(house: House) -> None:
    await house.stop()
    threads = threading.active_count()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(house.address)
        store = house.home.open_store()
        manager = ManagerServer(store, house.home.configuration, control=house.home.socket)
        with pytest.raises(NetworkFault):
            await manager.__aenter__()
        store.close()
    assert not house.home.socket.exists()
    assert threading.active_count() == threads
    await house.start()


# ---- out


async def test_an_eviction_is_told_to_who_is_evicted_and_then_it_is_refused(house: House) -> None:
    group = await house.create()
    a, b = await house.members("a", "b")
    await house.settled()
    await house.perform("evict", group="room", device="a", why="lost")
    await until(lambda: house.events("a", "evicted") == ["room"], "no notice")
    node = f"ace-group/room/nodes/{a.places['room'].node}"
    for path in ("ace-group/room", node, "ace-group/room/creds"):
        assert problem(await a.ask(GET, path)) == (coap.FORBIDDEN, None)
    answer = await a.ask(POST, "ace-group/room", (await a.request()).encode(), GROUPCOMM)
    assert problem(answer) == (coap.FORBIDDEN, None)
    await until(lambda: b.places["room"].gid == group.gid)
    assert a.places["room"].gid != group.gid
    await house.settled()
    await house.perform("grant", device="a", group="room", roles=["listener"])
    assert (await a.join()).answer.code == aiocoap.CREATED


async def test_who_is_withdrawn_is_told_in_each_of_its_groups_and_has_no_association_any_more(house: House) -> None:
    for name in ("room", "hall"):
        await house.create(name)
    a = await house.device("a", {"room": LISTENER, "hall": LISTENER})
    await a.join("room")
    await a.join("hall")
    await house.perform("withdraw", device="a")
    assert house.server.associations.context("a") is None
    await until(lambda: sorted(house.events("a", "evicted")) == ["hall", "room"], "no notice")
    with pytest.raises(UnprotectedAnswer):
        await a.ask(GET, "ace-group/room")
    assert (house.group("room").members, house.group("hall").members) == ({}, {})
    assert house.tables()["associations"] == []
    assert house.server.failure is None


async def test_numbers_wanted_while_a_device_is_withdrawn_do_not_stop_the_manager(house: House) -> None:
    await house.create()
    (a,) = await house.members("a")
    await a.settle()
    context = house.server.associations.context("a")
    assert context is not None
    with commits_held(house) as gate:
        task = asyncio.create_task(house.perform("withdraw", device="a"))
        await until(lambda: not house.group().members)
        context.sender_sequence_number = context.bound - 1  # the next one wants more to be reserved
        context.post_seqnoincrease()
        await asyncio.sleep(0.05)
        gate.set()
        await task
    await house.server.persist()
    assert house.server.failure is None


async def test_a_group_that_is_deleted_tells_its_members(house: House) -> None:
    await house.create()
    await house.members("a", "b")
    await house.perform("set_active", group="room", active=False)
    assert (await house.perform("delete_group", group="room")) == {"members": 2}
    await until(lambda: house.events("a", "evicted") == house.events("b", "evicted") == ["room"])
    left = {name: rows for name, rows in house.tables().items() if rows}
    for name in ("groups", "members", "keys", "renewals", "rights", "stale", "ghosts"):
        assert name not in left
    created = await house.create()
    assert (created.num, created.members) == (0, {})
    assert problem(await house.devices["a"].ask(GET, "ace-group/room")) == (coap.FORBIDDEN, None)


async def test_joins_that_wait_while_their_group_is_deactivated_or_deleted(house: House) -> None:
    for name in ("room", "hall"):
        await house.create(name, window=5.0)
    a, b = await house.device("a", {"room": LISTENER}), await house.device("b", {"hall": LISTENER})
    waiting = []
    for device, group in ((a, "room"), (b, "hall")):
        request = await device.request(group)
        task = device.ask(POST, f"ace-group/{group}", request.encode(), GROUPCOMM)
        waiting.append(asyncio.create_task(task))
    await until(lambda: len(house.server._batches) == 2)
    for name in ("room", "hall"):
        await house.perform("set_active", group=name, active=False)
    await house.perform("delete_group", group="hall")
    await asyncio.gather(house.server._flush("room"), house.server._flush("hall"))
    assert problem(await waiting[0]) == (coap.SERVICE_UNAVAILABLE, 9)
    assert problem(await waiting[1]) == (coap.SERVICE_UNAVAILABLE, None)


async def test_a_right_that_is_taken_while_the_join_waits(house: House) -> None:
    group = await house.create(window=5.0)
    device = await house.device("a")
    request = await device.request()
    waiting = asyncio.create_task(device.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
    await until(lambda: house.server._batches)
    await house.perform("evict", group="room", device="a")
    await house.server._flush("room")
    assert problem(await waiting) == (coap.FORBIDDEN, None)
    assert group.members == {}


async def test_a_renewal_that_is_followed_by_the_next_at_once_goes_out_all_the_same(house: House) -> None:
    group = await house.create()
    a, b = await house.members("a", "b")
    await house.settled()
    num = group.num
    with commits_held(house) as gate:
        commands = [asyncio.create_task(house.perform("rekey", group="room")) for _ in range(3)]
        await until(lambda: group.num == num + 3)
        gate.set()
        await asyncio.gather(*commands)  # the latter two are durable at the same moment
    await until(lambda: a.places["room"].gid == b.places["room"].gid == group.gid, "a gap")
    for name in "ab":
        assert house.events(name, "heard")[-3:] == [num + 1, num + 2, num + 3]
        assert house.events(name, "told") == []
    await house.settled()


async def test_an_eviction_while_newcomers_wait_for_who_is_evicted(house: House) -> None:
    group = await house.create()
    a, asleep = await house.members("a", "asleep")
    await house.settled()
    asleep.node.deaf = True
    newcomer = await house.device("newcomer")
    request = await newcomer.request()
    waiting = asyncio.create_task(newcomer.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
    await until(lambda: "newcomer" in group.by_device and a.places["room"].num == group.num)
    began = time.monotonic()
    await house.perform("evict", group="room", device="asleep")
    joined = newcomer.joined(request, await waiting)
    assert time.monotonic() - began < 4.0  # not until the time for who sleeps is over
    assert joined.report.material.gid == group.gid
    assert a.places["room"].gid == group.gid


async def test_newcomers_need_not_wait_for_a_member_that_leaves_quietly(house: House) -> None:
    group = await house.create(on_leave=False)
    slow, other = await house.members("slow", "other")
    await house.settled()
    slow.confirms = False
    newcomer = await house.device("newcomer")
    request = await newcomer.request()
    waiting = asyncio.create_task(newcomer.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
    await until(lambda: slow.places["room"].num == other.places["room"].num == group.num == 2)
    began = time.monotonic()
    answer = await slow.ask(DELETE, f"ace-group/room/nodes/{slow.places['room'].node}")
    assert answer.code == aiocoap.DELETED
    newcomer.joined(request, await waiting)
    assert time.monotonic() - began < 4.0


async def test_a_newcomer_that_is_evicted_before_it_is_answered_gets_no_keys(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "JOIN_WAIT", 0.3)
    group = await house.create()
    (asleep,) = await house.members("asleep")
    await house.settled()
    asleep.node.deaf = True
    newcomer = await house.device("newcomer")
    request = await newcomer.request()
    waiting = asyncio.create_task(newcomer.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
    await until(lambda: "newcomer" in group.by_device)
    await house.perform("evict", group="room", device="newcomer")
    asleep.node.deaf = False
    answer = await waiting
    assert problem(answer)[0] == coap.SERVICE_UNAVAILABLE


# ---- renewals in time


async def test_a_periodic_renewal(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TICK", 0.02)
    await house.restart()
    group = await house.create("room", period=3600.0, check_interval=0.05)
    quiet = await house.create("hall")
    (a,) = await house.members("a")
    num = group.num
    house.clock = lambda: time.time() + 3590
    await asyncio.sleep(0.1)
    assert group.num == num
    house.clock = lambda: time.time() + 3601
    await until(lambda: a.places["room"].num == num + 1)
    await house.settled()
    assert (group.num, quiet.num) == (num + 1, 0)
    (entry, *_) = (await house.perform("audit", group="room"))["entries"]
    assert (entry["event"], entry["actor"]) == ("renewed", "manager")


async def test_after_a_start_members_have_time_to_say_what_they_hold_before_a_periodic_renewal(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TICK", 0.02)
    await house.create("room", period=3600.0, check_interval=0.5)
    house.clock = lambda: time.time() + 3601
    await house.restart()
    began = time.monotonic()
    group = house.server.manager.groups["room"]
    await until(lambda: group.num == 1)
    assert time.monotonic() - began >= 0.5


async def test_periodic_renewals_go_on_when_a_group_is_deactivated_in_between(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TICK", 0.02)
    await house.restart()
    first, second = [await house.create(name, period=1000.0, check_interval=0.05) for name in ("first", "second")]
    with commits_held(house) as gate:
        house.clock = lambda: time.time() + 1001
        await until(lambda: first.num == 1)  # decided, and on its way to the disk
        change = asyncio.create_task(house.perform("set_active", group="second", active=False))
        await until(lambda: second.status is GroupStatus.INACTIVE)
        gate.set()
        await change
    house.clock = lambda: time.time() + 3000
    await until(lambda: first.num == 2, "the manager does not look at what is due any more")
    assert second.num == 0


@schemes
async def test_an_epoch_of_one_byte_takes_a_new_prefix_before_it_is_used_up(house: House, scheme: Scheme) -> None:
    group = await house.create(epoch_size=1, scheme=scheme)
    group.epoch, group.gid = 251, group.prefix + b"\xfb"
    a, b = await house.members("a", "b")
    await house.settled()
    prefix, gids = group.prefix, [group.gid]
    while group.prefix == prefix:
        await house.perform("rekey", group="room")
        await until(lambda: a.places["room"].gid == b.places["room"].gid == group.gid)
        gids.append(group.gid)
    await house.settled()
    assert [gid[-1] for gid in gids] == [252, 253, 254, 0]
    assert group.num == 4
    assert len(set(gids)) == len(gids)


@pytest.mark.parametrize(
    "changes",
    [{"scheme": Scheme.LKH, "arity": 4}, {"scheme": Scheme.POINT_TO_POINT}, {"epoch_size": 2}, {"lifetime": 600.0}],
    ids=lambda changes: "-".join(changes),
)
async def test_changed_settings_are_announced_and_members_follow(house: House, changes: dict[str, Any]) -> None:
    group = await house.create(scheme=Scheme.GKMP)
    a, b = await house.members("a", "b")
    await house.settled()
    num = group.num
    assert (await house.change(**changes))["changed"] == sorted(changes)
    assert group.num == num + 1
    await until(lambda: a.rekeys[-1:] and b.rekeys[-1:] and a.rekeys[-1].reload and b.rekeys[-1].reload)
    assert {member.device for member in house.server.manager.behind(group)} == {"a", "b"}  # told, but not there yet
    for device in (a, b):
        report = await device.own_keys()
        assert report.num == group.num
        assert report.scheme is group.keyring.scheme
        assert await device.confirm() == aiocoap.CHANGED
    await house.settled()
    await house.perform("rekey", group="room")
    await until(lambda: a.places["room"].gid == b.places["room"].gid == group.gid)
    await house.settled()


async def test_changes_that_members_need_not_know_are_no_renewal(house: House) -> None:
    group = await house.create()
    await house.members("a")
    num = group.num
    assert (await house.change(window=0.5, max_members=3, stale_sets=5, on_join=False))["changed"] == [
        "max_members",
        "on_join",
        "stale_sets",
        "window",
    ]
    assert group.num == num
    await house.restart()
    assert house.group().settings.max_members == 3


async def test_a_follow_up_is_for_who_is_behind_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FOLLOW_UP", 0.0)
    group = await house.create()
    _, b = await house.members("a", "b")
    await house.settled()
    b.confirms = False
    await house.perform("rekey", group="room")
    await until(lambda: house.events("b", "told") == [group.num], "not followed up")
    await house.settled()
    assert house.events("a", "told") == []
    assert house.events("b", "heard")[-1] == group.num


async def test_a_rekey_message_that_is_lost_is_sent_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    group = await house.create()
    a, b = await house.members("a", "b")
    await house.settled()
    a.node.deaf = True
    await house.perform("rekey", group="room")
    await until(lambda: b.places["room"].gid == group.gid)
    a.node.deaf = False
    before = len(house.log)
    await until(lambda: a.places["room"].gid == group.gid)
    assert [event.what for event in house.log[before:] if event.who == "a" and event.what in ("told", "heard")] == [
        "heard"
    ]
    await house.settled()


@schemes
async def test_a_member_without_a_control_uri_still_follows(house: House, scheme: Scheme) -> None:
    group = await house.create(scheme=scheme)
    device = await house.device("a")
    await device.join(control_uri=None)
    await house.perform("rekey", group="room")
    if scheme is Scheme.POINT_TO_POINT:
        assert content_num(await device.ask(GET, "ace-group/room/num")) == group.num  # it has to ask
        await device.own_keys()
        assert await device.confirm() == aiocoap.CHANGED
    await until(lambda: device.places["room"].gid == group.gid)
    await house.settled()


def content_num(answer: Any) -> Any:
    return cbor2.loads(answer.payload)


# ---- too many


async def test_catch_ups_have_a_rate_and_who_is_turned_away_is_told_when_to_come(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "CatchUps", functools.partial(CatchUps, rate=0.001, burst=3))
    async with House(place) as house:
        await house.create()
        (a,) = await house.members("a")
        path = f"ace-group/room/nodes/{a.places['room'].node}"
        codes = [int((await a.ask(GET, path)).code) for _ in range(3)]
        assert codes == [coap.CONTENT] * 3
        for refused in (await a.ask(GET, path), await a.ask(GET, "ace-group/room")):
            assert problem(refused) == (coap.SERVICE_UNAVAILABLE, None)
            assert 1 <= refused.opt.max_age <= 5
        assert (await a.ask(GET, "ace-group/room/num")).code == coap.CONTENT
        assert await a.confirm() == aiocoap.CHANGED
        assert (await house.perform("status"))["counts"]["catch_ups"] == 3


async def test_what_a_device_changes_has_a_rate_of_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "Paces", functools.partial(Paces, rate=0.001, burst=3))
    async with House(place) as house:
        group = await house.create()
        a, b = await house.device("a"), await house.device("b")
        await a.join()
        node = f"ace-group/room/nodes/{a.places['room'].node}"
        for _ in range(2):
            assert (await a.ask(POST, node)).code == aiocoap.CHANGED
        await house.settled()
        tables = house.tables()
        request = await a.request()
        for path, payload, form in ((node, b"", None), ("ace-group/room", request.encode(), GROUPCOMM)):
            answer = await a.ask(POST, path, payload, form)
            assert problem(answer) == (coap.SERVICE_UNAVAILABLE, None)
            assert 1 <= answer.opt.max_age <= 5
        assert house.tables() == tables
        await b.join()
        assert len(group.members) == 2
        assert await a.confirm() == aiocoap.CHANGED


async def test_set_ups_of_associations_have_a_rate_for_each_host(place: Path) -> None:
    async with House(place, association_limits=AssociationLimits(rate_per_host=1.0)) as house:
        await house.create()
        device = await house.device("a")
        handle = house.server.manager.devices["a"].handle
        codes = []
        for number in range(4):
            payload = AssociateRequest(handle, os.urandom(8), bytes([number, 1])).encode()
            message = aiocoap.Message(code=POST, uri_path=["associate"], payload=payload, content_format=CBOR)
            answer = await device.node.request(message, house.address, None, 5.0)
            codes.append(int(answer.code))
        assert codes == [coap.CREATED, coap.CREATED, TOO_MANY_REQUESTS, TOO_MANY_REQUESTS]
        assert answer.opt.max_age == 2
        with pytest.raises(Refused) as refused:
            await device.link.associate(3.0)
        assert (refused.value.code, refused.value.retry_after) == (TOO_MANY_REQUESTS, 2.0)
        assert len(house.server.associations) == 0


async def test_errors_that_are_not_protected_have_a_rate_for_each_host(place: Path) -> None:
    async with House(place, limits=Limits(error_rate_per_peer=1.0)) as house:
        await house.create()
        device = await house.device("a", {})
        await device.settle()
        answered = 0
        for _ in range(4):
            message = aiocoap.Message(code=GET, uri_path=["ace-group", "room"])
            try:
                await device.node.request(message, house.address, None, 0.15)
            except NetworkFault:
                continue
            answered += 1
        assert answered == 2
        assert (await device.ask(GET, "ace-group/room")).code == coap.FORBIDDEN  # protected ones are no errors here


async def test_bodies_in_blocks_are_bounded_for_each_device(place: Path) -> None:
    async with House(place, limits=Limits(body=1500)) as house:
        await house.create()
        a, b = await house.device("a"), await house.device("b")
        answer = await a.ask(POST, "ace-group/room", bytes(4000), GROUPCOMM)
        assert answer.code.dotted == "4.13"
        await b.join()
        await a.join()


# ---- again and again


@schemes
async def test_a_restart_keeps_associations_members_and_endpoint_ids(house: House, scheme: Scheme) -> None:
    group = await house.create(scheme=scheme)
    a, b = await house.members("a", "b")
    await house.settled()
    before, set_ups = group.row(), house.set_ups()
    ids = {member.device: member.endpoint_id for member in group.members.values()}
    await house.restart()
    group = house.group()
    assert group.row() == before
    assert {member.device: member.endpoint_id for member in group.members.values()} == ids
    assert (await a.ask(GET, "ace-group/room/num")).code == coap.CONTENT
    await house.perform("rekey", group="room")
    await until(lambda: a.places["room"].gid == b.places["room"].gid == group.gid)
    await house.settled()
    assert house.set_ups() == set_ups, "an association was set up anew"
    newcomer = await house.device("c")
    assert (await newcomer.join()).report.material.endpoint_id not in ids.values()


async def test_a_device_that_lost_its_association_sets_up_another_and_the_former_is_void(house: House) -> None:
    await house.create()
    (device,) = await house.members("a")
    former = device.link.context
    device.link._current = None
    await device.settle()
    assert device.link.context is not former
    assert len(house.server.associations) == 1
    message = aiocoap.Message(code=GET, uri_path=("ace-group", "room", "num"))
    with pytest.raises(UnprotectedAnswer):
        await device.node.request(message, house.address, former, 3.0)
    assert [row["device"] for row in house.tables()["associations"]] == ["a"]


@schemes
async def test_an_unfinished_renewal_goes_on_after_a_restart(
    house: House, scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FOLLOW_UP", 0.0)
    group = await house.create(scheme=scheme)
    a, b = await house.members("a", "b")
    await house.settled()
    a.node.deaf = True
    sent = len(house.multicasts())
    await house.perform("rekey", group="room")
    await until(lambda: b.places["room"].gid == group.gid)
    await until(lambda: [member.device for member in house.server.manager.behind(group)] == ["a"])
    envelopes = house.multicasts()[sent:]
    await house.restart()
    a.node.deaf = False
    await until(lambda: a.places["room"].gid == house.group().gid)
    await house.settled()
    assert house.multicasts()[sent:] == envelopes  # the very same bytes
    assert house.group().num == group.num


async def test_newcomers_that_wait_when_the_manager_stops_are_told_to_come_again(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    group = await house.create(window=5.0)
    device = await house.device("a")
    await device.settle()
    request = await device.request()
    tasks = asyncio.all_tasks()
    waiting = asyncio.create_task(device.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
    await until(lambda: house.server._batches)
    with caplog.at_level(logging.WARNING):
        await house.stop()
    answer = await waiting
    assert problem(answer) == (coap.SERVICE_UNAVAILABLE, None)
    assert answer.opt.max_age == 10
    assert group.members == {}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert asyncio.all_tasks() <= tasks
    await house.start()
    await house.change(window=0.0)
    await device.join()


async def test_a_stop_while_a_request_is_served_opens_no_socket_anew(house: House) -> None:
    group = await house.create()
    (device,) = await house.members("a")
    await house.settled()
    before = device.places["room"].endpoint_id
    with commits_held(house) as gate:
        path = f"ace-group/room/nodes/{device.places['room'].node}"
        asking = asyncio.create_task(device.ask(POST, path, timeout=0.5))
        await until(lambda: group.by_device["a"].endpoint_id != before)
        stopping = asyncio.create_task(house.stop())
        await asyncio.sleep(0.2)  # the time for an empty acknowledgement comes
        gate.set()
        await stopping
    with pytest.raises(NetworkFault):
        await asking
    await house.start()
    assert (await device.own_keys()).material.endpoint_id not in (before, None)


async def test_a_stop_while_present_members_are_told(house: House) -> None:
    group = await house.create()
    (asleep,) = await house.members("asleep")
    await house.settled()
    asleep.node.deaf = True
    newcomer = await house.device("newcomer")
    request = await newcomer.request()
    task = asyncio.create_task(newcomer.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
    await until(lambda: "newcomer" in group.by_device)
    await house.server.persist()
    await house.stop()
    assert problem(await task) == (coap.SERVICE_UNAVAILABLE, None)
    await house.start()
    asleep.node.deaf = False
    joined = newcomer.joined(request, await newcomer.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
    assert joined.node in house.group().members
    assert house.group().num == group.num  # the renewal was made already
    assert len(house.group().members) == 2
    await until(lambda: asleep.places["room"].gid == house.group().gid)


async def test_an_eviction_while_the_manager_is_down_reaches_the_others_when_it_is_up(house: House) -> None:
    await house.create()
    a, b = await house.members("a", "b")
    await house.settled()
    await house.stop()
    before = a.places["room"].gid
    assert (await operate(house, "evict", group="room", device="b"))["was_member"] is True
    await house.start()
    await until(lambda: a.places["room"].gid == house.group().gid != before)
    assert b.places["room"].gid == before
    assert (await b.ask(GET, "ace-group/room")).code == coap.FORBIDDEN


@pytest.mark.parametrize("sealing", ["none", "file"])
async def test_superseded_secrets_are_not_in_the_files_soon_after_a_renewal(
    place: Path, monkeypatch: pytest.MonkeyPatch, sealing: str
) -> None:
    monkeypatch.setattr(server, "ERASE_AFTER", 0.05)

    def files(house: House) -> bytes:
        directory = house.home.directory
        return b"".join(path.read_bytes() for path in directory.iterdir() if path.name.startswith("manager.sqlite"))

    async with House(place, sealing=sealing) as house:
        group = await house.create(scheme=Scheme.LKH)
        await house.members("a", "b", "c")
        await house.settled()
        secrets = [group.master_secret.reveal()]
        secrets += [record.key.reveal() for record in group.keyring.records()]
        assert all(secret in files(house) for secret in secrets) == (sealing == "none")
        await house.perform("evict", group="room", device="b")
        await house.settled()
        kept = [record.key.reveal() for record in group.keyring.records()]
        gone = [secret for secret in secrets if secret not in kept]
        assert len(gone) >= 3
        await until(lambda: not any(secret in files(house) for secret in gone), "still there")
        assert (group.master_secret.reveal() in files(house)) == (sealing == "none")


async def test_the_same_happens_offline(place: Path) -> None:
    async with House(place) as house:
        group = await house.create()
        (a,) = await house.members("a")
        secret = group.master_secret.reveal()
        await house.stop()
        await operate(house, "rekey", group="room")
        for path in house.home.directory.iterdir():
            if path.is_file():
                assert secret not in path.read_bytes(), path
        await house.start()
        await until(lambda: a.places["room"].gid == house.group().gid)


async def test_status_counts_what_was_done(house: House) -> None:
    await house.create()
    await house.members("a", "b")
    await house.settled()
    status = await house.perform("status")
    counts = status["counts"]
    assert (status["associations"], counts["join_requests"], counts["renewals"]) == (2, 2, 1)
    assert counts["confirmations"] >= 3
    assert counts["rekey_multicasts"] >= 1
    assert status["groups"][0]["behind"] == []


async def test_a_device_that_is_enrolled_again_goes_on_with_its_new_file_alone(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.join()
    result = await house.perform("enroll_again", device="a")
    handle = bytes.fromhex(result["enrolments"][0]["handle"])
    assert house.server.manager.by_handle[handle].name == "a"
    assert house.server.associations.context("a") is None
    assert len(house.server.manager.by_handle) == 1


async def test_an_alarm_stands_in_the_log_when_it_comes_and_when_the_manager_starts(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    group = await house.create()
    await house.members("a")
    node = group.by_device["a"].node
    with pytest.raises(Refused):
        house.server.manager.confirm("a", "room", node, group.num + 5, group.prefix + b"\x7f" * 4)
    await house.server.persist()
    said = [record.message for record in caplog.records if record.levelname == "CRITICAL"]
    assert len(said) == 1
    assert "a has renewal" in said[0]
    assert "group activate room" in said[0]
    caplog.clear()
    await house.restart()
    assert any("group activate room" in record.message for record in caplog.records)
    with pytest.raises(MisuseError, match="group activate room"):
        await house.perform("rekey", group="room")


async def test_who_slept_before_keeps_no_newcomer_waiting(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "JOIN_WAIT", 30.0)
    group = await house.create()
    _, asleep = await house.members("awake", "asleep")
    await house.settled()
    asleep.node.deaf = True
    await house.perform("rekey", group="room")
    await until(lambda: group.confirmed == 1)
    newcomer = await house.device("newcomer")
    async with asyncio.timeout(20):
        await newcomer.join()
    assert [member.device for member in house.server.manager.behind(group)] == ["asleep"]
