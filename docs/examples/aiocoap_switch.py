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


def algorithm(number: int) -> oscore.SymmetricEncryptionAlgorithm:
    return next(known for known in oscore.algorithms.values() if known.value == number)


def context_of(directory: str) -> oscore.SimpleGroupContext:
    """What aiocoap needs to know, from the files."""
    group = load_member(Path(directory)).groups[0]
    usual = group.signature.number == -8 and group.kdf.value == "sha256"
    if group.profile.name != "group-oscore" or group.aead is None or not usual:
        sys.exit(
            f"{directory}: for this program a group must be of group-oscore, with Ed25519 and the pairwise mode"
        )
    epoch = group.current
    others = [member for member in epoch.members if member.endpoint_id != epoch.own_id]
    context = oscore.SimpleGroupContext(
        algorithm(group.aead.number),
        oscore.hashfunctions[group.kdf.value],
        oscore.Ed25519(),
        algorithm(group.parameters.encryption.number),
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


if len(sys.argv) != 5:
    sys.exit("usage: python aiocoap_switch.py DIRECTORY LAMP_ID ADDRESS LEVEL")
asyncio.run(main(*sys.argv[1:]))
