"""Whether a device's Group Manager answers, and knows the device."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..association.client import ManagerLink
from ..association.node import CoapNode
from ..core import coap
from ..endpoint.network import NetworkOptions
from ..errors import FileFault, GroupcoapError, NetworkFault, Refused
from ..member.enrolment import ENROLMENT_FILE, load_enrolment
from .finding import Finding, ok, problem, warning

TIMEOUT = 6.0
"""Seconds for all of the manager's addresses together."""
PATIENCE = 2.5
"""Seconds that each of them may be silent."""


async def check_manager(directory: Path, options: NetworkOptions) -> Finding | None:
    """Ask the manager for the set-up of an association, which is not gone on with: a running device keeps its own.
    None if the enrolment cannot be read, which is said elsewhere."""
    try:
        enrolment = load_enrolment(directory / ENROLMENT_FILE)
    except FileFault:
        return None
    where = ", ".join(str(address) for address in enrolment.addresses)
    try:
        async with CoapNode(replace(options, port=None)) as node:
            addresses = [(str(address.host), address.port) for address in enrolment.addresses]
            link = ManagerLink(node, addresses, enrolment.handle, enrolment.secret, os.urandom, patience=PATIENCE)
            await link.associate(TIMEOUT)
    except Refused as refused:
        if refused.code != coap.UNAUTHORIZED:
            return warning("manager", f"{where} says: {refused}", "try again later, or look at its log")
        advice = "it was withdrawn or enrolled again: get a new file with enroll --again"
        return problem("manager", f"{where} does not know this device", advice)
    except NetworkFault as fault:
        advice = f"see that it runs, and that UDP gets there ({fault})"
        return problem("manager", f"nobody answers at {where}", advice)
    except GroupcoapError as error:
        return warning("manager", f"{where}: {error}", "see that its address is the Group Manager's")
    return ok("manager", f"answers at {where}, and knows this device")
