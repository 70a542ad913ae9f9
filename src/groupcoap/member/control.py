"""What a device serves to its Group Manager: its control URI in each group, over the association only."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import aiocoap
from aiocoap import resource

from ..association.client import MANAGER
from ..association.registry import device_of
from ..core import coap
from ..errors import Refused
from ..keying.labels import GROUPCOMM_CBOR

_NODE: Final = "node"


class Outcome(Enum):
    """What came of a rekey message: installed (or not to be by the message itself), or there is a gap."""

    INSTALLED = auto()
    BEHIND = auto()


class ControlResources(resource.Resource, resource.PathCapable):  # type: ignore[misc]
    """/ace-group/NAME/node: POST carries a rekey message, DELETE says that this device is no member any more.

    `rekeyed(group, payload)`: returns once the renewal is durable here and endpoints have it; `Refused` if the
    payload is no rekey message. `evicted(group, node)`: the membership as this node has ended; False if that is
    not the present one. Both are called only for groups of which `is_member` is true."""

    def __init__(
        self,
        is_member: Callable[[str], bool],
        rekeyed: Callable[[str, bytes], Outcome],
        evicted: Callable[[str, str], bool],
    ) -> None:
        super().__init__()
        self._is_member = is_member
        self._rekeyed = rekeyed
        self._evicted = evicted

    async def render(self, request: aiocoap.Message) -> aiocoap.Message:
        """aiocoap's entry point. `Refused` becomes a response outside."""
        if device_of(request) != MANAGER:
            raise Refused(coap.UNAUTHORIZED, "only for the Group Manager")
        path = tuple(request.opt.uri_path)
        if len(path) != 2 or path[1] != _NODE or not self._is_member(path[0]):
            raise Refused(coap.NOT_FOUND, "no member of such a group")
        if request.code is aiocoap.POST:
            return self._post(request, path[0])
        if request.code is aiocoap.DELETE:
            ended = self._evicted(path[0], request.payload.decode("utf-8", "replace"))
            return aiocoap.Message(code=aiocoap.DELETED if ended else aiocoap.CONFLICT)
        raise Refused(coap.METHOD_NOT_ALLOWED, "only POST and DELETE")

    def _post(self, request: aiocoap.Message, group: str) -> aiocoap.Message:
        given = request.opt.content_format
        if given is not None and int(given) != GROUPCOMM_CBOR:
            raise Refused(coap.UNSUPPORTED_CONTENT_FORMAT, "not a rekey message")
        outcome = self._rekeyed(group, request.payload)
        return aiocoap.Message(code=aiocoap.CHANGED if outcome is Outcome.INSTALLED else aiocoap.CONFLICT)
