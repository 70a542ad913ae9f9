"""A switch of another make: aiocoap's own Group OSCORE asks one lamp of a groupcoap group.

python aiocoap_switch.py DIRECTORY LAMP_ID ADDRESS LEVEL

DIRECTORY is a device's directory as `groupcoap provision --profile group-oscore` makes it, of a device that is not
used by groupcoap as well: aiocoap keeps its sequence numbers elsewhere.
"""

import asyncio
import sys
import time
from pathlib import Path

import aiocoap
from aiocoap import oscore

from groupcoap import load_member


def context_of(directory: str) -> oscore.SimpleGroupContext:
    """What aiocoap needs to know, from the files: with the algorithms that `provision` takes by default."""
    group = load_member(Path(directory)).groups[0]
    epoch = group.current
    others = [member for member in epoch.members if member.endpoint_id != epoch.own_id]
    context = oscore.SimpleGroupContext(
        oscore.algorithms["AES-CCM-16-64-128"],
        oscore.hashfunctions["sha256"],
        oscore.Ed25519(),
        oscore.algorithms["AES-CCM-16-64-128"],
        oscore.EcdhSsHkdf256(),
        epoch.gid,
        epoch.master_secret.reveal(),
        epoch.master_salt,
        epoch.own_id,
        epoch.private_key.secret.reveal(),
        epoch.credential.authenticated,
        {member.endpoint_id: member.credential.authenticated for member in others},
        group.manager_credential.authenticated,
    )
    # Such a context begins at 0 each time, and no number may be used twice: begin at the milliseconds since 2020.
    context.sender_sequence_number = time.time_ns() // 1_000_000 - 1_577_836_800_000
    return context


async def main(directory: str, lamp: str, address: str, level: str) -> None:
    security = context_of(directory).pairwise_for(bytes.fromhex(lamp))
    client = await aiocoap.Context.create_client_context(transports=["oscore", "udp6"])
    client.client_credentials[f"coap://{address}/*"] = security
    request = aiocoap.Message(code=aiocoap.PUT, uri=f"coap://{address}/light", payload=level.encode())
    answer = await client.request(request).response
    print(f"{answer.code}, {answer.payload.decode()}")
    await client.shutdown()


asyncio.run(main(*sys.argv[1:]))
