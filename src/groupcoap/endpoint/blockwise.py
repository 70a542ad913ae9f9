"""Block-wise transfers (RFC 7959) on a server's side, in bounds.

aiocoap's own keep each body, finished or not, for one and a half minutes or more, however many there are. So bodies
are put together and cut here, and its resources see whole messages only. Every answer that is cut has an ETag: a
client must not put together blocks of two states of a resource (OSCORE-06 §4.2.3.1).
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import os
import sys
from typing import Any, Final

from aiocoap import Message, error
from aiocoap.numbers import codes
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.optiontypes import BlockOption

from ..core.reassembly import Progress, Reassembler
from ..errors import Busy, Limit, Reason, Rejected
from .limits import Limits, PeerTable, Reached
from .messages import to_core

LIFETIME: Final = 100.0
"""Seconds that an answer is kept to be fetched, after its latest block."""
_LARGEST: Final = 6
"""Exponent of the largest blocks, of 1024 bytes; 7 is reserved."""
_NOT_COMPARED: Final = [OptionNumber.BLOCK1, OptionNumber.BLOCK2, OptionNumber.OBSERVE]
_REFUSALS: Final = {
    Reason.MALFORMED: codes.REQUEST_ENTITY_INCOMPLETE,
    Reason.TOO_LARGE: codes.REQUEST_ENTITY_TOO_LARGE,
    Reason.BUSY: codes.SERVICE_UNAVAILABLE,
}

_Kept = Any
"""A whole answer, a `Message`; or of one that its resource cuts by itself the ETag, bytes."""


class Blockwise:
    """Bodies of requests that are being put together, and answers that are being fetched.

    `full`: what is done with one body too many, see `Reassembler`; answers make room oldest first."""

    def __init__(self, limits: Limits, reached: Reached, full: Reached) -> None:
        total, each = limits.bound(Limit.BODIES), limits.bound(Limit.BODIES_PER_PEER)
        self._bodies = Reassembler(total, each, full)
        self._body = limits.body
        self._answers: PeerTable[object, _Kept] = PeerTable(
            limits, Limit.TRANSFERS, Limit.TRANSFERS_PER_PEER, LIFETIME, reached
        )
        self._reached = reached

    def receive(self, request: Message, now: float) -> Message | None:
        """What answers this request at once: that a block has come, or the block it asks for. None if it is for a
        resource: it has its whole body then."""
        request.remote.maximum_payload_size = sys.maxsize  # aiocoap cuts nothing, and so it keeps nothing
        block1, block2 = request.opt.block1, request.opt.block2
        if any(block is not None and block.size_exponent > _LARGEST for block in (block1, block2)):
            return Message(code=codes.BAD_REQUEST)
        if block1 is not None and (answer := self._collect(request, block1, now)) is not None:
            return answer
        if block2 is None:
            return None
        if block2.block_number:
            return self._next(request, block2, now)
        request.remote.maximum_block_size_exp = block2.size_exponent
        request.opt.block2 = None
        return None

    def _collect(self, request: Message, block: BlockOption.BlockwiseTuple, now: float) -> Message | None:
        source = (request.remote.peer, request.remote.identity)
        try:
            whole = self._bodies.feed(source, to_core(request), now, self._body)
        except Rejected as rejection:
            if isinstance(rejection, Busy):
                self._reached(rejection.limit)
            return Message(code=_REFUSALS[rejection.reason])
        if isinstance(whole, Progress):
            return Message(code=codes.CONTINUE, block1=block)
        request.payload = whole.payload
        request.opt.block1 = request.opt.size1 = None
        request.remote.last_block = block
        return None

    def _next(self, request: Message, block: BlockOption.BlockwiseTuple, now: float) -> Message | None:
        key = self._key(request)
        whole = self._answers.get(key, now)
        if not isinstance(whole, Message):
            return None  # the resource cuts by itself, or the client is told to begin again
        self._answers.put_for(request.remote.peer, key, whole, now)
        try:
            return whole._extract_block(block.block_number, block.size_exponent, 0)
        except error.BadRequest:
            return Message(code=codes.BAD_REQUEST)

    def cut(self, response: Message, now: float) -> Message:
        """What is sent of this response: itself, or its first block."""
        request = response.request
        if request is None:
            return response
        if request.remote.last_block is not None and response.code.is_successful():
            response.opt.block1 = request.remote.last_block
        block, exponent = response.opt.block2, request.remote.maximum_block_size_exp
        if block is None and len(response.payload) > 16 << exponent:
            return self._first(response, exponent, now)
        if block is not None and response.opt.etag is None and (block.block_number or block.more):
            self._complete(response, block, now)
        return response

    def _first(self, response: Message, exponent: int, now: float) -> Message:
        if response.opt.etag is None:
            response.opt.etag = os.urandom(8)
        first = response._extract_block(0, exponent, 0)
        first.request = response.request
        self._keep(response.request, response.copy(observe=None, no_response=None, block1=None), now)
        return first

    def _complete(self, response: Message, block: BlockOption.BlockwiseTuple, now: float) -> None:
        """Add an ETag to a block that a resource has cut: a first block has a new one, the others have its."""
        before = self._answers.get(self._key(response.request), now) if block.block_number else None
        response.opt.etag = before if isinstance(before, bytes) else os.urandom(8)
        self._keep(response.request, response.opt.etag, now)

    def _keep(self, request: Message, kept: _Kept, now: float) -> None:
        self._answers.put_for(request.remote.peer, self._key(request), kept, now)

    @staticmethod
    def _key(request: Message) -> tuple[object, ...]:
        return request.remote.identity, request.get_cache_key(_NOT_COMPARED)
