"""A switch of your own: python own_switch.py DIRECTORY LEVEL

DIRECTORY is a device's directory as `groupcoap provision` makes it. Exit code 1 if a lamp has not answered.
"""

import asyncio
import sys
from pathlib import Path

import aiocoap

from groupcoap import Endpoint, EndpointState, Multicaster, NetworkOptions, load_member


async def main(directory: str, level: str) -> bool:
    member = load_member(Path(directory))
    message = aiocoap.Message(code=aiocoap.PUT, uri_path=["lamp"], payload=level.encode())
    with EndpointState.open(member.state) as state:
        async with Endpoint(member.membership, state, NetworkOptions(interface="lo")) as endpoint:
            switch = Multicaster(endpoint, member.groups[0].name)
            answers = switch.request(message, timeout=3)
            async for answer in answers:
                print(f"{answer.label}: {answer.message.code}, {answer.message.payload.decode()}")
            for endpoint_id in answers.missing:
                print(f"{switch.name_of(endpoint_id)}: no answer")
            return not answers.missing


sys.exit(0 if asyncio.run(main(*sys.argv[1:])) else 1)
