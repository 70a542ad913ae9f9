"""A lamp of your own: python own_lamp.py DIRECTORY [OWN_ADDRESS]

DIRECTORY is a device's directory as `groupcoap provision` makes it.
"""

import asyncio
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import aiocoap
from aiocoap import resource

from groupcoap import Endpoint, EndpointState, Listener, NetworkOptions, load_member, provenance


class Lamp(resource.ObservableResource):
    """An ordinary aiocoap resource: nothing in it is about groups but the line that asks who sent the request."""

    def __init__(self) -> None:
        super().__init__()
        self.level = b"0"

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=self.level)

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        origin = provenance(request)
        print(
            f"{request.payload.decode()} from {origin.endpoint_id.hex()} of {origin.group}: "
            f"number {origin.sequence_number}, {origin.freshness.value}, signature {origin.signature.value}",
            flush=True,
        )
        self.level = request.payload
        self.updated_state()  # tells whoever observes it
        return aiocoap.Message(code=aiocoap.CHANGED, payload=self.level)


async def main(directory: str, own_address: str = "127.0.0.2") -> None:
    member = load_member(Path(directory))
    site = resource.Site()
    site.add_resource(["lamp"], Lamp())
    network = NetworkOptions(interface="lo", bind=ip_address(own_address))
    with EndpointState.open(member.state) as state:
        async with Endpoint(member.membership, state, network, leisure=0.1) as endpoint:
            Listener(endpoint, site)
            print(f"{member.name} listens", flush=True)
            await asyncio.Event().wait()  # until Ctrl-C


with suppress(KeyboardInterrupt):
    asyncio.run(main(*sys.argv[1:]))
