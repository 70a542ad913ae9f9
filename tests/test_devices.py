"""What a device's site answers: the rest is shown by the commands that run it."""

from __future__ import annotations

import aiocoap
import pytest
from aiocoap.message import Direction

from groupcoap.devices import sensor
from groupcoap.endpoint.remote import SocketRemote


async def asked(query: str) -> aiocoap.Message:
    """What the sensor's directory answers to this query."""
    request = aiocoap.Message(code=aiocoap.GET, uri_path=[".well-known", "core"], uri_query=[query])
    request.direction = Direction.INCOMING
    request.remote = SocketRemote(("192.0.2.1", 5683), ("192.0.2.2", 5683))
    return await sensor().render(request)


async def test_the_directory_gives_the_links_that_the_query_asks_for() -> None:
    links = (await asked("rt=temperature")).payload
    assert b"</temperature>" in links
    assert b"</log>" not in links


@pytest.mark.parametrize("query", ["get_target=x", "__class__=x", "attr_pairs=a*"])
async def test_a_query_for_what_only_a_python_object_has_is_a_bad_request(query: str) -> None:
    assert (await asked(query)).code is aiocoap.BAD_REQUEST
