"""aiocoap as it comes, with nothing of `peer`'s help: as far as it gets with Ed25519, which is far."""

from __future__ import annotations

from pathlib import Path

import aiocoap
import pytest
from aiocoap import oscore
from devices import answers

from groupcoap.core.profile import Mode
from groupcoap.core.requests import SignatureState

from .conftest import made
from .peer import (
    DONE,
    EDDSA,
    GROUP_MODE,
    MODES,
    PAIRWISE,
    SUITES,
    Asked,
    Group,
    asking,
    mode_of,
    parts,
    request,
    serving,
    to,
)


@pytest.fixture(params=[suite for suite in SUITES if suite.signature == EDDSA], ids=str)
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Group:
    return made(tmp_path, request.param)


async def test_it_answers_our_requests_to_a_group_and_to_one(group: Group) -> None:
    security = parts(group.files("lamp-1")).make(oscore.SimpleGroupContext)
    async with serving(security, group=group.address) as server, group.switch() as multicaster:
        put = request(aiocoap.PUT, payload=b"on at half power")
        (one,) = await answers(multicaster.request(put, roster=[server.kid]))
        (two,) = await answers(multicaster.ask(server.kid, put, server.address))
        for answer in (one, two):
            assert answer.message.payload == DONE
            assert answer.provenance.signature is SignatureState.PAIRWISE
        assert [asked.mode for asked in server.lamp.asked] == [GROUP_MODE, PAIRWISE]
        assert multicaster.endpoint.counters.rejected == {}


@pytest.mark.parametrize("mode", MODES)
async def test_it_asks_our_listener(group: Group, mode: Mode) -> None:
    security = parts(group.files("switch-1")).make(oscore.SimpleGroupContext)
    if mode is PAIRWISE:
        security = security.pairwise_for(group.lamps["lamp-1"])
    async with group.lamp() as (endpoint, lamp), asking(security) as client:
        got = await client.ask(to(endpoint))
        assert (got.payload, mode_of(got)) == (b"lamp-1 is off", mode)
        assert lamp.asked == [Asked(aiocoap.GET, b"", mode)]
        assert endpoint.counters.rejected == {}
