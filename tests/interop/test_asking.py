"""Our multicaster asks aiocoap's servers: all of them with one datagram, or one of them alone."""

from __future__ import annotations

from contextlib import AsyncExitStack

import aiocoap
import pytest
from devices import answers

from groupcoap.core.profile import Mode
from groupcoap.core.requests import SignatureState

from .peer import DONE, GROUP_MODE, MODES, PAIRWISE, Asked, Group, mode_of_signature, request, serving


@pytest.mark.parametrize("answering", MODES)
async def test_one_datagram_reaches_all_servers_and_each_answer_is_verified(group: Group, answering: Mode) -> None:
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(serving(group.peer(name, answering), group=group.address))
            for name in group.lamps
        ]
        multicaster = await stack.enter_async_context(group.switch())
        for number, code in enumerate((aiocoap.GET, aiocoap.PUT)):
            payload = b"" if code is aiocoap.GET else b"on at half power"
            found = await answers(multicaster.request(request(code, payload=payload)))
            assert sorted(answer.endpoint_id for answer in found) == sorted(group.lamps.values())
            assert {mode_of_signature(answer.provenance.signature) for answer in found} == {answering}
            for server in servers:
                assert server.lamp.asked[number:] == [Asked(code, payload, GROUP_MODE)]
            by_kid = {answer.endpoint_id: answer.message.payload for answer in found}
            if code is aiocoap.GET:
                assert by_kid == {server.kid: server.lamp.state for server in servers}
        assert multicaster.endpoint.counters.rejected == {}


@pytest.mark.parametrize("answering", MODES)
@pytest.mark.parametrize("asking", MODES)
async def test_one_server_alone(group: Group, asking: Mode, answering: Mode) -> None:
    async with serving(group.peer("lamp-2", answering)) as server, group.switch() as multicaster:
        codes = (aiocoap.GET, aiocoap.PUT) if asking is PAIRWISE else (aiocoap.GET,)
        for code in codes:
            payload = b"" if code is aiocoap.GET else b"on at half power"
            expected = server.lamp.state if code is aiocoap.GET else DONE
            ask = multicaster.ask(server.kid, request(code, payload=payload), server.address, mode=asking)
            (answer,) = await answers(ask)
            assert (answer.endpoint_id, answer.name) == (server.kid, "lamp-2")
            assert mode_of_signature(answer.provenance.signature) is answering
            assert answer.message.payload == expected
            assert server.lamp.asked[-1] == Asked(code, payload, asking)
        assert len(server.lamp.asked) == len(codes)
        assert multicaster.endpoint.counters.rejected == {}


async def test_unless_told_otherwise_one_alone_is_asked_in_pairwise_mode(any_group: Group) -> None:
    async with serving(any_group.peer("lamp-1")) as server, any_group.switch() as multicaster:
        (answer,) = await answers(multicaster.ask(server.kid, request(), server.address))
        assert answer.provenance.signature is SignatureState.PAIRWISE
        assert [asked.mode for asked in server.lamp.asked] == [PAIRWISE]
