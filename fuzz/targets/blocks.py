"""Messages put together from blocks (core/reassembly.py)."""

from __future__ import annotations

from collections import Counter

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.reassembly import AnswerAssembly, Bound, Progress, Reassembler, parse_block
from groupcoap.errors import Busy, Limit, Rejected

from ..choices import Choices

_MAX_SIZE = 64
_IN_ALL, _OF_EACH = Bound(Limit.ASSEMBLIES, 4), Bound(Limit.ASSEMBLIES_PER_PEER, 2)
_FURTHER = ((), ((coap.REQUEST_TAG, b""),), ((coap.REQUEST_TAG, b"1"),), ((coap.SIZE1, b"\x40"),))


def check(data: bytes) -> None:
    """Of requests, or of one answer: see `_requests` and `_answer`."""
    choices = Choices(data)
    (_answer if choices.below(4) == 3 else _requests)(choices)


def _requests(choices: Choices) -> None:
    """`Rejected`, or a message that is no larger than allowed and in which everything came from its own source, in
    the order of the blocks' numbers. There are never more assemblies than there may be, in all and of one peer."""
    refuses = choices.flag()

    def full(limit: Limit) -> None:
        if refuses:
            raise Busy(limit)

    reassembler = Reassembler(_IN_ALL, _OF_EACH, full)
    now = 0.0
    while choices.left:
        source = choices.below(12)
        block = choices.take(choices.below(5)) if choices.flag() else _block(choices)
        payload = bytes((source << 4 | coap.uint_value(block) >> 4 & 15,)) * choices.below(80)
        options = tuple(sorted(((coap.OBJECT_SECURITY, b"\x39"), (coap.BLOCK1, block), *choices.one_of(_FURTHER))))
        message = Message(coap.CON, coap.POST, 1, b"", options, payload)
        now += choices.byte() / 4
        try:
            whole = reassembler.feed((source // 2, source), message, now, _MAX_SIZE)
        except Rejected:
            pass
        else:
            _check_outcome(whole, message, source)
        kept = reassembler._assemblies.values()
        assert len(kept) <= _IN_ALL.most
        assert all(count <= _OF_EACH.most for count in Counter(assembly.peer for assembly in kept).values())
        assert all(len(assembly.payload) <= _MAX_SIZE for assembly in kept)


def _answer(choices: Choices) -> None:
    """`Rejected`, the next block to ask for, or a message that is no larger than allowed, of blocks in order."""
    assembly = AnswerAssembly(_MAX_SIZE)
    while choices.left:
        block = choices.take(choices.below(5)) if choices.flag() else _block(choices)
        number = coap.uint_value(block) >> 4
        options = [(coap.OBJECT_SECURITY, b"\x28"), (coap.BLOCK2, block)]
        if choices.flag():
            options.insert(0, (coap.ETAG, choices.take(1)))
        payload = coap.BYTE[number & 0xFF] * choices.below(80)
        piece = Message(coap.NON, coap.CHANGED, 1, b"", tuple(options), payload)
        try:
            whole = assembly.feed(piece)
        except Rejected:
            continue
        if isinstance(whole, Message):
            assert whole.payload.endswith(payload)
            assert len(whole.payload) <= _MAX_SIZE
            assert number > 255 or list(whole.payload) == sorted(whole.payload)
            assert not {number for number, _ in whole.options} & {coap.BLOCK2, coap.ETAG}
        else:
            assert parse_block(whole) == (number + 1, False, parse_block(block)[2])


def _block(choices: Choices) -> bytes:
    """A Block option that fits the others more often than any bytes do."""
    number, more, exponent = choices.below(6), choices.flag(), choices.below(3)
    value = coap.uint_bytes(number << 4 | more << 3 | exponent)
    assert parse_block(value) == (number, more, 16 << exponent)
    return value


def _check_outcome(whole: Message | Progress, piece: Message, source: int) -> None:
    number, more, _ = parse_block(piece.option(coap.BLOCK1) or b"")
    assert isinstance(whole, Message) != more
    if isinstance(whole, Message):
        assert whole.payload.endswith(piece.payload)
        assert len(whole.payload) <= _MAX_SIZE
        assert {byte >> 4 for byte in whole.payload} <= {source}
        assert number > 15 or list(whole.payload) == sorted(whole.payload)
        assert not {number for number, _ in whole.options} & {coap.BLOCK1, coap.SIZE1}
