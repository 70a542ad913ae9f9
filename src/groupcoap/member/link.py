"""The device's link to its manager, as `dealings` takes it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import aiocoap

from ..association.client import PATIENCE, ManagerLink
from ..association.node import CoapNode, HostPort, UnprotectedAnswer
from ..errors import GroupcoapError, NetworkFault
from ..keying.addresses import control_uri
from ..keying.joining import parse_challenge
from ..keying.labels import GROUPCOMM_CBOR
from .enrolment import Enrolment

TIMEOUT = 30.0
"""Seconds that a request may take in all: newcomers wait until the present members have a renewal."""
VERIFIED_TIMEOUT = 10.0


class DeviceLink:
    """See `dealings.Link`."""

    def __init__(
        self, node: CoapNode, enrolment: Enrolment, random: Callable[[int], bytes], patience: float | None = None
    ) -> None:
        self._node = node
        self._addresses = [(str(address.host), address.port) for address in enrolment.addresses]
        self._patience = PATIENCE if patience is None else patience
        self._link = ManagerLink(
            node, self._addresses, enrolment.handle, enrolment.secret, random, patience=self._patience
        )

    async def associate(self) -> None:
        """As `Link.associate`."""
        await self._link.associate(TIMEOUT)

    async def request(
        self,
        code: int,
        path: Sequence[str],
        payload: bytes | Callable[[bytes], bytes] = b"",
        content_format: int | None = None,
    ) -> aiocoap.Message:
        """As `Link.request`."""
        answer = await self._link.request(code, path, payload, content_format, TIMEOUT)
        self._remember(answer)
        return answer

    def _remember(self, answer: aiocoap.Message) -> None:
        """The address that answers is where the manager is now."""
        outer = getattr(answer.remote, "underlying_address", answer.remote)
        remote = tuple(outer.address[:2])
        for address in self._addresses:
            if ip_address(address[0]) == ip_address(str(remote[0])) and address[1] == remote[1]:
                self._addresses.remove(address)
                self._addresses.insert(0, address)
                return

    async def verified(self, code: int, path: Sequence[str], payload: bytes = b"") -> aiocoap.Message:
        """As `Link.verified`."""
        problem: GroupcoapError = NetworkFault("there is no association with the Group Manager")
        for address in tuple(self._addresses):
            context = self._link.context
            if context is None:
                break
            message = aiocoap.Message(code=aiocoap.Code(code), payload=payload, uri_path=tuple(path))
            if payload:
                message.opt.content_format = GROUPCOMM_CBOR
            try:
                answer = await self._node.request(message, address, context, VERIFIED_TIMEOUT, self._patience)
            except UnprotectedAnswer as failure:
                self._link.doubt(context, failure)  # or the same would be asked, in vain, for ever
                problem = failure
            except GroupcoapError as failure:
                problem = failure
            except aiocoap.error.Error:  # no sequence numbers: the next request sets up an association anew
                break
            else:
                self._link.correct(context, parse_challenge(answer.payload))
                return answer
        raise problem if isinstance(problem, NetworkFault) else NetworkFault(f"no verified answer: {problem}")

    def control_uri(self, group: str) -> str | None:
        """Where the manager reaches this device for a group; None if that cannot be said."""
        try:
            host, port = self._local(self._addresses[0])
            return control_uri(group, host, port)
        except (GroupcoapError, OSError):
            return None

    def _local(self, manager: HostPort) -> HostPort:
        version = ip_address(manager[0]).version
        local = self._node.local_address(version)
        if not ip_address(local[0].partition("%")[0]).is_unspecified:
            return local[0], local[1]
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:  # sends nothing: says which address is routed there
            probe.connect(manager)
            return str(probe.getsockname()[0]), local[1]
