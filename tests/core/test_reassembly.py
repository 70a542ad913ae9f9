from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message, Options
from groupcoap.core.reassembly import LIFETIME, MAX_ASSEMBLIES, Progress, Reassembler, parse_block
from groupcoap.errors import Reason, Rejected
from support import refused

LIMIT = 4096
PROTECTED: Options = ((coap.OBJECT_SECURITY, b"\x39\x05"),)


def block(number: int, more: bool, exponent: int) -> tuple[int, bytes]:
    return coap.BLOCK1, coap.uint_bytes(number << 4 | more << 3 | exponent)


def whole(body: bytes, options: Options = PROTECTED) -> Message:
    return Message(coap.CON, coap.POST, 7, b"tok", options, body)


def piece(
    number: int, more: bool, payload: bytes, *, exponent: int = 0, options: Options = PROTECTED, mid: int = 7
) -> Message:
    with_block = tuple(sorted((*options, block(number, more, exponent))))
    return Message(coap.CON, coap.POST, mid, b"tok", with_block, payload)


def cut(body: bytes, exponents: list[int], options: Options = PROTECTED) -> list[Message]:
    """The body in blocks; the size of a block may fall on the way, as RFC 7959 §2.3 allows."""
    pieces: list[Message] = []
    at = 0
    for exponent in [*sorted(exponents, reverse=True), *[min(exponents)] * (len(body) // 16 + 1)]:
        size = 16 << exponent
        more = at + size < len(body)
        part = piece(at // size, more, body[at : at + size], exponent=exponent, options=options, mid=len(pieces))
        pieces.append(part)
        at += size
        if not more:
            break
    return pieces


@given(
    st.binary(min_size=1, max_size=2000),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.sets(st.integers(0, 200)),
)
def test_any_cut_is_put_together_again(body: bytes, exponents: list[int], repeated: set[int]) -> None:
    reassembler = Reassembler(LIMIT)
    pieces = cut(body, exponents)
    for index, part in enumerate(pieces[:-1]):
        assert reassembler.feed("a", part, 0.0) is Progress.CONTINUE
        if index in repeated:  # our 2.31 was lost
            assert reassembler.feed("a", part, 0.0) is Progress.CONTINUE
    result = reassembler.feed("a", pieces[-1], 0.0)
    assert result == whole(body)._replace(message_id=len(pieces) - 1)


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=2, max_size=MAX_ASSEMBLIES), st.randoms())
def test_assemblies_of_several_sources_do_not_mix(bodies: list[bytes], random: object) -> None:
    reassembler = Reassembler(LIMIT)
    waiting = {source: cut(body, [1]) for source, body in enumerate(bodies)}
    done: dict[int, bytes] = {}
    while waiting:
        source = random.choice(sorted(waiting))  # type: ignore[attr-defined]
        result = reassembler.feed(source, waiting[source].pop(0), 0.0)
        if isinstance(result, Message):
            done[source] = result.payload
            del waiting[source]
    assert done == dict(enumerate(bodies))


def test_request_tags_tell_assemblies_of_one_source_apart() -> None:
    reassembler = Reassembler(LIMIT)
    one, two = (cut(bytes((n,)) * 40, [0], (*PROTECTED, (coap.REQUEST_TAG, bytes((n,))))) for n in (1, 2))
    results = [reassembler.feed("a", part, 0.0) for pair in zip(one, two, strict=True) for part in pair]
    assert [r.payload for r in results if isinstance(r, Message)] == [b"\1" * 40, b"\2" * 40]


def test_only_the_block_options_are_taken_off() -> None:
    options: Options = ((3, b"host"), *PROTECTED, (coap.SIZE1, b"\x10"))
    result = Reassembler(LIMIT).feed("a", piece(0, False, b"all", options=options), 0.0)
    assert isinstance(result, Message)
    assert result.options == ((3, b"host"), *PROTECTED)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_nothing_begins_in_the_middle(number: int) -> None:
    with refused(Reason.MALFORMED):
        Reassembler(LIMIT).feed("a", piece(number, True, bytes(16)), 0.0)


def test_a_gap_gives_the_assembly_up() -> None:
    reassembler = Reassembler(LIMIT)
    parts = [piece(n, True, bytes(16)) for n in range(4)]
    reassembler.feed("a", parts[0], 0.0)
    with refused(Reason.MALFORMED):
        reassembler.feed("a", parts[2], 0.0)
    with refused(Reason.MALFORMED):
        reassembler.feed("a", parts[1], 0.0)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_block_that_is_not_full_but_not_the_last(length: int) -> None:
    with refused(Reason.MALFORMED):
        Reassembler(LIMIT).feed("a", piece(0, True, bytes(length)), 0.0)


def test_a_last_block_larger_than_its_size() -> None:
    reassembler = Reassembler(LIMIT)
    reassembler.feed("a", piece(0, True, bytes(16)), 0.0)
    with refused(Reason.MALFORMED):
        reassembler.feed("a", piece(1, False, bytes(17)), 0.0)


def test_as_large_as_allowed_and_one_more() -> None:
    for size, fits in ((64, True), (65, False)):
        reassembler = Reassembler(64)
        *parts, last = cut(bytes(size), [0])
        for part in parts:
            reassembler.feed("a", part, 0.0)
        if fits:
            assert isinstance(reassembler.feed("a", last, 0.0), Message)
        else:
            with refused(Reason.TOO_LARGE):
                reassembler.feed("a", last, 0.0)
            with refused(Reason.MALFORMED):  # nothing of it was kept
                reassembler.feed("a", last, 0.0)


def test_block_zero_begins_anew() -> None:
    reassembler = Reassembler(LIMIT)
    for part in cut(b"a" * 40, [0])[:2]:
        reassembler.feed("a", part, 0.0)
    *parts, last = cut(b"b" * 40, [0])
    for part in parts:
        assert reassembler.feed("a", part, 0.0) is Progress.CONTINUE
    result = reassembler.feed("a", last, 0.0)
    assert isinstance(result, Message)
    assert result.payload == b"b" * 40


def test_another_block_zero_begins_anew() -> None:
    """A repetition has the same bytes. Whoever put other ones there first must not spoil the real message."""
    reassembler = Reassembler(LIMIT)
    reassembler.feed("a", piece(0, True, b"x" * 16), 0.0)
    first, last = cut(b"b" * 20, [0])
    assert reassembler.feed("a", first, 0.0) is Progress.CONTINUE
    result = reassembler.feed("a", last, 0.0)
    assert isinstance(result, Message)
    assert result.payload == b"b" * 20


def test_the_same_block_with_other_bytes() -> None:
    reassembler = Reassembler(LIMIT)
    for part in cut(b"a" * 60, [0])[:2]:
        reassembler.feed("a", part, 0.0)
    with refused(Reason.MALFORMED):
        reassembler.feed("a", piece(1, True, b"b" * 16), 0.0)


def test_the_same_block_as_the_last_one() -> None:
    """Repeated without "more" it is not a repetition."""
    reassembler = Reassembler(LIMIT)
    for part in cut(b"a" * 60, [0])[:2]:
        reassembler.feed("a", part, 0.0)
    with refused(Reason.MALFORMED):
        reassembler.feed("a", piece(1, False, b"a" * 16), 0.0)


def test_the_last_block_once_more() -> None:
    reassembler = Reassembler(LIMIT)
    first, last = cut(b"a" * 20, [0])
    reassembler.feed("a", first, 0.0)
    assert isinstance(reassembler.feed("a", last, 0.0), Message)
    with refused(Reason.MALFORMED):
        reassembler.feed("a", last, 0.0)


@pytest.mark.parametrize(("age", "kept"), [(LIFETIME - 1, True), (LIFETIME + 1, False)])
def test_unfinished_assemblies_expire(age: float, kept: bool) -> None:
    reassembler = Reassembler(LIMIT)
    first, last = cut(b"a" * 20, [0])
    reassembler.feed("a", first, 100.0)
    if kept:
        assert isinstance(reassembler.feed("a", last, 100.0 + age), Message)
    else:
        with refused(Reason.MALFORMED):
            reassembler.feed("a", last, 100.0 + age)


def test_only_so_many_at_once_and_the_oldest_goes() -> None:
    reassembler = Reassembler(LIMIT)
    first, last = cut(b"a" * 20, [0])
    for source in range(MAX_ASSEMBLIES + 1):
        reassembler.feed(source, first, float(source))
    with refused(Reason.MALFORMED):
        reassembler.feed(0, last, 9.0)
    for source in range(1, MAX_ASSEMBLIES + 1):
        assert isinstance(reassembler.feed(source, last, 9.0), Message)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.booleans(), st.binary(max_size=40)), max_size=60)
)
def test_whatever_comes_memory_is_bounded(feeds: list[tuple[int, int, bool, bytes]]) -> None:
    reassembler = Reassembler(64)
    for source, number, more, payload in feeds:
        with suppress(Rejected):
            result = reassembler.feed(source, piece(number, more, payload), 0.0)
            assert result is Progress.CONTINUE or len(result.payload) <= 64
        kept = reassembler._assemblies.values()
        assert len(kept) <= MAX_ASSEMBLIES
        assert sum(len(assembly.payload) for assembly in kept) <= MAX_ASSEMBLIES * 64


@given(st.integers(0, 2**20 - 1), st.booleans(), st.integers(0, 6))
def test_block_option_there_and_back(number: int, more: bool, exponent: int) -> None:
    assert parse_block(block(number, more, exponent)[1]) == (number, more, 16 << exponent)


@pytest.mark.parametrize("value", [b"\x07", b"\x0f", b"\x01\x00\x00\x00"], ids=bytes.hex)
def test_block_option_that_is_none(value: bytes) -> None:
    with refused(Reason.MALFORMED):
        parse_block(value)


def test_sizes_fall_but_blocks_still_follow() -> None:
    pieces = cut(bytes(range(200)), [3, 1])
    sizes = [parse_block(part.option(coap.BLOCK1) or b"")[2] for part in pieces]
    assert sizes[0] == 128
    assert all(a >= b for a, b in pairwise(sizes))
