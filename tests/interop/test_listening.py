"""aiocoap's client asks our listeners: one alone, in either mode, or all of them with one datagram that it made."""

from __future__ import annotations

from contextlib import AsyncExitStack

import aiocoap
import pytest
from aiocoap import oscore
from devices import eventually

from groupcoap.core.profile import Mode
from groupcoap.errors import Reason

from .peer import (
    DONE,
    GROUP_MODE,
    MODES,
    PAIRWISE,
    Asked,
    Group,
    ask_all,
    asking,
    mode_of,
    request,
    to,
)


@pytest.mark.parametrize("answering", [None, *MODES], ids=["as-requested", "group", "pairwise"])
@pytest.mark.parametrize("mode", MODES)
async def test_one_listener_alone(group: Group, mode: Mode, answering: Mode | None) -> None:
    security = group.peer("switch-1").asking(mode, group.lamps["lamp-1"])
    async with group.lamp(response_mode=answering) as (endpoint, lamp), asking(security) as client:
        got = await client.ask(to(endpoint))
        assert (got.code, got.payload) == (aiocoap.CONTENT, b"lamp-1 is off")
        assert mode_of(got) is (answering or mode)
        assert lamp.asked == [Asked(aiocoap.GET, b"", mode)]
        if mode is PAIRWISE:
            done = await client.ask(to(endpoint, aiocoap.PUT, payload=b"on at half power"))
            assert (done.code, done.payload) == (aiocoap.CHANGED, DONE)
            assert mode_of(done) is (answering or mode)
            assert lamp.asked[1:] == [Asked(aiocoap.PUT, b"on at half power", PAIRWISE)]
        assert endpoint.counters.rejected == {}


async def test_a_put_in_group_mode_to_one_alone_is_refused(any_group: Group) -> None:
    """Whoever got it could have turned it to another listener."""
    async with any_group.lamp() as (endpoint, lamp), asking(any_group.peer("switch-1")) as client:
        put = to(endpoint, aiocoap.PUT, payload=b"on", transport_tuning=aiocoap.Unreliable)
        waiting = client.context.request(put).response
        await eventually(lambda: endpoint.counters.rejected == {Reason.UNICAST_METHOD: 1})
        assert lamp.asked == []
        waiting.cancel()


async def test_a_group_that_countersigns_by_the_letter_of_rfc_9338(rfc9338_group: Group) -> None:
    """Our listener takes what aiocoap has countersigned; aiocoap does not take ours, which is why groups do as it
    does unless told otherwise. In pairwise mode there is no difference."""
    security = rfc9338_group.peer("switch-1")
    async with rfc9338_group.lamp(response_mode=PAIRWISE) as (endpoint, lamp), asking(security) as client:
        assert (await client.ask(to(endpoint))).payload == b"lamp-1 is off"
        assert lamp.asked == [Asked(aiocoap.GET, b"", GROUP_MODE)]
    async with rfc9338_group.lamp() as (endpoint, lamp), asking(security) as client:
        with pytest.raises(oscore.ProtectionInvalid, match="Signature mismatch"):
            await client.ask(to(endpoint))
        assert lamp.asked == [Asked(aiocoap.GET, b"", GROUP_MODE)]


@pytest.mark.parametrize("answering", [None, *MODES], ids=["as-requested", "group", "pairwise"])
async def test_one_datagram_that_aiocoap_made_to_all_listeners(group: Group, answering: Mode | None) -> None:
    security = group.peer("switch-1")
    async with AsyncExitStack() as stack:
        listeners = [
            await stack.enter_async_context(group.lamp(name, response_mode=answering)) for name in group.lamps
        ]
        put = request(aiocoap.PUT, payload=b"on at half power")
        got = await ask_all(security, put, group.address, len(listeners))
        assert {kid: (answer.code, answer.payload) for kid, (_, answer) in got.items()} == dict.fromkeys(
            group.lamps.values(), (aiocoap.CHANGED, DONE)
        )
        assert {mode for mode, _ in got.values()} == {answering or GROUP_MODE}
        for endpoint, lamp in listeners:
            assert lamp.asked == [Asked(aiocoap.PUT, b"on at half power", GROUP_MODE)]
            assert endpoint.counters.rejected == {}
