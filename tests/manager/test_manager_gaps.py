"""Batches of joins as they are gathered: for how long, and what comes after them."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from manager_devices import POST, Device, House, house, place, until

from groupcoap.keying.labels import GROUPCOMM_CBOR as GROUPCOMM
from groupcoap.manager import server
from groupcoap.manager.decisions import Admission
from groupcoap.manager.joins import Candidate

__all__ = ["house", "place"]


async def ask_to_join(device: Device) -> asyncio.Task[Any]:
    """A join that is under way."""
    payload = (await device.request()).encode()
    return asyncio.create_task(device.ask(POST, "ace-group/room", payload, GROUPCOMM, timeout=20.0))


async def test_a_batch_stays_open_as_long_as_devices_keep_coming(house: House) -> None:
    group = await house.create(window=0.4)
    devices = [await house.device(f"d{number}") for number in range(4)]
    for device in devices:
        await device.settle()
    tasks = []
    for device in devices:  # together they take longer than one window
        tasks.append(await ask_to_join(device))
        await asyncio.sleep(0.2)
        assert group.members == {}
    answers = await asyncio.gather(*tasks)
    assert {answer.code.dotted for answer in answers} == {"2.01"}
    assert (len(group.members), group.num) == (4, 0)


async def test_a_batch_ends_after_some_windows_however_many_keep_coming(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WINDOWS", 2)
    group = await house.create(window=0.4)
    devices = [await house.device(f"d{number}") for number in range(8)]
    for device in devices:
        await device.settle()
    admit, batches = house.server.manager.admit, []

    def noting(name: str, candidates: Sequence[Candidate]) -> Admission:
        batches.append(len(candidates))
        return admit(name, candidates)

    monkeypatch.setattr(house.server.manager, "admit", noting)
    tasks = []
    for device in devices:
        tasks.append(await ask_to_join(device))
        await asyncio.sleep(0.2)
    await asyncio.gather(*tasks)
    assert len(group.members) == sum(batches) == len(devices)
    assert 2 <= len(batches) <= 4


async def test_who_comes_while_newcomers_are_admitted_gets_the_next_renewal(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "JOIN_WAIT", 6.0)
    group = await house.create(window=0.0)
    (asleep,) = await house.members("asleep")
    await house.settled()
    asleep.node.deaf = True
    devices = [await house.device(f"d{number}") for number in range(4)]
    for device in devices:
        await device.settle()
    num = group.num
    tasks = [await ask_to_join(devices[0])]
    await until(lambda: "d0" in group.by_device)  # it waits for the one who sleeps
    for device in devices[1:]:
        tasks.append(await ask_to_join(device))
        await asyncio.sleep(0.05)
    assert (group.num, len(group.members)) == (num + 1, 2)
    await asyncio.gather(*tasks)
    assert (group.num, len(group.members)) == (num + 2, 5)
