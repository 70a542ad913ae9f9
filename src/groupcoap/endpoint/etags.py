"""ETags for block-wise answers that have none (OSCORE-06 §4.2.3.1): a client must not put together blocks of two
states of a resource."""

from __future__ import annotations

import os

import aiocoap
from aiocoap.numbers.optionnumbers import OptionNumber

from .limits import RecentTable

MAX_TRANSFERS = 256
LIFETIME = 100.0
"""Seconds; longer than aiocoap keeps the body that blocks are cut from."""
_NOT_COMPARED = [OptionNumber.BLOCK1, OptionNumber.BLOCK2, OptionNumber.OBSERVE]


class BlockEtags:
    """Gives every transfer an ETag of its own: a first block begins one, the blocks that follow belong to it."""

    def __init__(self) -> None:
        self._transfers: RecentTable[object, bytes] = RecentTable(MAX_TRANSFERS, LIFETIME)

    def complete(self, response: aiocoap.Message, now: float) -> None:
        """Add the ETag to this response, if it is a block and the resource has not set one."""
        block = response.opt.block2
        if block is None or response.request is None or response.opt.etag is not None:
            return
        if block.block_number == 0 and not block.more:
            return
        key = (response.remote.identity, response.request.get_cache_key(_NOT_COMPARED))
        etag = None if block.block_number == 0 else self._transfers.get(key, now)
        if etag is None:
            etag = os.urandom(8)
        self._transfers.put(key, etag, now)
        response.opt.etag = etag
