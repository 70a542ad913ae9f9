"""The program, as real processes, with aiocoap: files made by it, a listener of its, a request of its."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import aiocoap
import pytest
from world import free_port

from cli.room import Process, run
from groupcoap.core.profile import Mode
from groupcoap.membership import GroupAddress

from .peer import ALL_COAP_NODES, CCM, EDDSA, MODES, PAIRWISE, Group, Suite, asking, mode_of, serving

pytestmark = pytest.mark.processes

HOST = "127.0.0.2"


@pytest.fixture
def provisioned(tmp_path: Path) -> Group:
    """What `groupcoap provision` makes by default, but for the profile and the port."""
    address = GroupAddress(ALL_COAP_NODES, free_port())
    made = run(
        *("provision", str(tmp_path / "home"), "--profile", "group-oscore", "--address", str(address)),
        *("--switches", "1", "--lamps", "2"),
    )
    assert (made.code, made.err) == (0, "")
    return Group(tmp_path / "home", address, Suite(EDDSA, CCM, CCM))


@pytest.mark.parametrize("mode", MODES)
async def test_aiocoap_asks_groupcoap_listen(provisioned: Group, mode: Mode) -> None:
    lamp = Process(("listen", str(provisioned.directory / "lamp-1"), "--bind", HOST, "--leisure", "0", "-v"))
    with closing(lamp):
        await asyncio.to_thread(lamp.expect, " listens at ")
        security = provisioned.peer("switch-1").asking(mode, provisioned.lamps["lamp-1"])
        uri = f"coap://{HOST}:{provisioned.address.port}/light"
        async with asking(security) as client:
            got = await client.ask(aiocoap.Message(code=aiocoap.GET, uri=uri))
            assert (got.code, got.payload, mode_of(got)) == (aiocoap.CONTENT, b"off", mode)
            # The first one was challenged, and aiocoap has repeated it by itself.
            said = await asyncio.to_thread(lamp.expect, "GET /light from switch-1 (00)")
            assert "number 1, fresh, " in said
            assert said.endswith("pairwise" if mode is PAIRWISE else "signature verified")
            if mode is PAIRWISE:
                put = aiocoap.Message(code=aiocoap.PUT, uri=uri, payload=b"40")
                assert (await client.ask(put)).payload == b"on 40%"
                await asyncio.to_thread(lamp.expect, 'PUT /light "40" from switch-1 (00): number 2, ordered')
        assert await asyncio.to_thread(lamp.stop) == 0
        assert lamp.rest()[-1].endswith("1 challenge sent; dropped: nothing")


@pytest.mark.parametrize("mode", MODES)
async def test_groupcoap_send_asks_aiocoap(provisioned: Group, mode: Mode) -> None:
    async with (
        serving(provisioned.peer("lamp-1", mode), group=provisioned.address) as one,
        serving(provisioned.peer("lamp-2", mode), group=provisioned.address) as two,
    ):
        sent = await asyncio.to_thread(
            run,
            *("send", "put", "coap://room/lamp/in-the-hall", "--payload", "on at half power", "--json"),
            *("--member", str(provisioned.directory / "switch-1"), "--interface", "lo", "--timeout", "10"),
        )
    *found, summary = sent.json
    assert (sent.code, sent.err) == (0, "")
    assert {answer["listener"]: answer["code"] for answer in found} == dict.fromkeys(provisioned.lamps, "2.04")
    assert {answer["signature"] for answer in found} == {"pairwise" if mode is PAIRWISE else "verified"}
    assert (summary["complete"], summary["answered"], summary["refused"]) == (True, 2, {})
    for server in (one, two):
        assert [asked.payload for asked in server.lamp.asked] == [b"on at half power"]
