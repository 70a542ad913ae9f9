"""A group of both: one datagram, answered by listeners of ours and of aiocoap's."""

from __future__ import annotations

from devices import answers

from .peer import GROUP_MODE, PAIRWISE, Group, mode_of_signature, request, serving


async def test_one_datagram_is_answered_by_both(group: Group) -> None:
    async with (
        serving(group.peer("lamp-1", PAIRWISE), group=group.address) as one,
        serving(group.peer("lamp-2", GROUP_MODE), group=group.address) as two,
        group.lamp("lamp-3") as (endpoint, ours),
        group.switch() as multicaster,
    ):
        found = {a.name: a for a in await answers(multicaster.request(request()))}
        assert {name: a.message.payload for name, a in found.items()} == {
            "lamp-1": one.lamp.state,
            "lamp-2": two.lamp.state,
            "lamp-3": ours.state,
        }
        assert {name: mode_of_signature(a.provenance.signature) for name, a in found.items()} == {
            "lamp-1": PAIRWISE,
            "lamp-2": GROUP_MODE,
            "lamp-3": GROUP_MODE,
        }
        assert [lamp.asked for lamp in (one.lamp, two.lamp)] == [ours.asked] * 2
        assert endpoint.counters.rejected == multicaster.endpoint.counters.rejected == {}
