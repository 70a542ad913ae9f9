"""Group commit: shared transactions, in order, and an end to everything when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from threading import Event, current_thread, main_thread

import pytest

from groupcoap.errors import MisuseError, StoreFault
from groupcoap.manager.store.commit import GroupCommit
from groupcoap.manager.store.writes import Insert, Update, Write

from .rows import audit_of, create, sample


class Slow:
    """A store whose commits end when they are let."""

    def __init__(self) -> None:
        self.commits: list[list[Write]] = []
        self.let = Event()
        self.error: Exception | None = None

    def commit(self, writes: Sequence[Write]) -> None:
        assert current_thread() is not main_thread()
        self.commits.append(list(writes))
        assert self.let.wait(10)
        if self.error is not None:
            raise self.error


def command(n: int, size: int = 2) -> list[Write]:
    return [Insert("audit", {"seq": n, "part": part}) for part in range(size)]


async def started(group: GroupCommit, *commands: Sequence[Write]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(group.durable(writes)) for writes in commands]
    await asyncio.sleep(0)
    return tasks


async def test_what_is_asked_for_meanwhile_shares_the_next_transaction() -> None:
    store = Slow()
    group = GroupCommit(store)
    first = await started(group, command(0))
    others = await started(group, *(command(n) for n in range(1, 100)))
    await asyncio.sleep(0.02)
    assert not any(task.done() for task in first + others)
    store.let.set()
    await asyncio.gather(*first, *others)
    assert store.commits == [command(0), [write for n in range(1, 100) for write in command(n)]]
    await group.close()


async def test_it_returns_only_when_the_writes_are_committed() -> None:
    store = Slow()
    group = GroupCommit(store)
    [first] = await started(group, command(0))
    [second] = await started(group, command(1))
    store.let.set()
    await first
    assert not second.done()
    assert len(store.commits) <= 2
    await second
    assert store.commits == [command(0), command(1)]
    await group.close()


async def test_no_writes_wait_for_those_before_and_for_nothing_else() -> None:
    store = Slow()
    group = GroupCommit(store)
    await group.durable([])
    [first] = await started(group, command(0))
    [nothing] = await started(group, [])
    await asyncio.sleep(0.02)
    assert not nothing.done()
    store.let.set()
    await asyncio.gather(first, nothing)
    assert store.commits == [command(0)]
    await group.close()


async def test_a_failure_is_told_to_everybody_and_is_the_end() -> None:
    store, told = Slow(), list[StoreFault]()
    group = GroupCommit(store, on_failed=told.append)
    store.error = StoreFault("no space is left; free some")
    tasks = await started(group, command(0)) + await started(group, command(1), [], command(2))
    store.let.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["no space is left; free some"] * 4
    assert all(isinstance(result, StoreFault) for result in results)
    assert len({id(result) for result in results}) == 4
    assert told == [group.failed]
    store.error = None
    for writes in (command(3), list[Write]()):
        with pytest.raises(StoreFault, match="no space"):
            await group.durable(writes)
    await group.close()
    assert store.commits == [command(0)]


async def test_an_unexpected_error_is_a_fault_too_and_shows_no_values() -> None:
    for error, text in ((ValueError("secret"), "ValueError;"), (MisuseError("no column"), "no column")):
        store = Slow()
        store.error = error
        store.let.set()
        group = GroupCommit(store)
        with pytest.raises(StoreFault, match=text) as caught:
            await group.durable(command(0))
        assert "secret" not in str(caught.value)
        assert group.failed is not None
        await group.close()


async def test_who_is_cancelled_does_not_hold_up_the_others() -> None:
    store = Slow()
    group = GroupCommit(store)
    tasks = await started(group, command(0)) + await started(group, command(1), command(2))
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.sleep(0)
    store.let.set()
    await tasks[2]
    assert store.commits == [command(0), command(1) + command(2)]
    await group.close()


async def test_closing_waits_and_then_takes_nothing_more() -> None:
    store = Slow()
    group = GroupCommit(store)
    tasks = await started(group, command(0)) + await started(group, command(1))
    closing = asyncio.create_task(group.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    with pytest.raises(MisuseError):
        await group.durable(command(2))
    store.let.set()
    await closing
    await asyncio.gather(*tasks)
    assert store.commits == [command(0), command(1)]
    await group.close()


async def test_with_a_real_database_commands_see_those_before(tmp_path: Path) -> None:
    store = create(tmp_path)
    transactions = 0
    commit = store.commit

    def counted(writes: Sequence[Write]) -> None:
        nonlocal transactions
        transactions += 1
        commit(writes)

    store.commit = counted  # type: ignore[method-assign]
    group = GroupCommit(store)
    key = {"device": "d", "grp": "g"}
    await group.durable([Insert("rights", key | {"roles": 0})])
    updates: list[list[Write]] = [
        [Update("rights", key, {"roles": n}), Insert("audit", sample("audit", n))] for n in range(1, 300)
    ]
    await asyncio.gather(*(group.durable(writes) for writes in updates))
    assert transactions == 3
    assert store.load().rows("rights") == [key | {"roles": 299}]
    assert len(audit_of(store)) == 299
    with pytest.raises(StoreFault, match="UNIQUE"):
        await group.durable(updates[0])
    await group.close()
    store.close()
