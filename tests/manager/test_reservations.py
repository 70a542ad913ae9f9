"""Sequence numbers of associations, where they cross other things."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from live_house import GROUP, enroll, hasty, make_group, make_home, tap, until
from suites import DRAFT
from wiretap import Wiretap

from groupcoap.keying.admin import Scheme
from groupcoap.manager.server import ManagerServer

__all__ = ["hasty", "tap"]

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.mark.parametrize("meanwhile", [False, True], ids=["before", "meanwhile"])
async def test_a_device_that_runs_low_is_withdrawn(tmp_path: Path, tap: Wiretap, meanwhile: bool) -> None:
    """The reservation comes after the association has ended, and the manager goes on."""
    home = make_home(tmp_path / "gm", sealing="none")
    make_group(home, DRAFT, Scheme.LKH)
    devices = enroll(home, tmp_path / "devices", "ab")
    store = home.open_store()
    try:
        async with ManagerServer(store, home.configuration, place=tmp_path) as server:
            for device in devices.values():
                await device.open()
            group = server.manager.group(GROUP)
            await until(lambda: len(group.members) == 2 and not server.manager.behind(group))
            context = server.associations.context("a")
            assert context is not None
            assert context.on_low is not None
            if not meanwhile:
                context.on_low()
            withdrawing = asyncio.create_task(server.perform("withdraw", {"device": "a"}))
            await asyncio.sleep(0)
            context.on_low()
            await withdrawing
            context.on_low()
            await asyncio.sleep(0.1)
            assert server.failure is None
            assert not server.stopped.is_set()
            assert server.associations.context("a") is None
            assert list(group.by_device) == ["b"]
            for device in devices.values():
                await device.close()
        assert [row["device"] for row in store.load().rows("associations")] == ["b"]
    finally:
        store.close()
