from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message, Options
from groupcoap.core.reassembly import (
    LIFETIME,
    AnswerAssembly,
    Bound,
    Progress,
    Reassembler,
    is_piece,
    parse_block,
)
from groupcoap.errors import Busy, Limit, Reason, Rejected
from support import refused

LIMIT = 4096
TOTAL, EACH = 8, 3
PROTECTED: Options = ((coap.OBJECT_SECURITY, b"\x39\x05"),)


class Proxies:
    """A `Reassembler` that what comes from proxies goes to: the oldest assembly goes, and it is counted why."""

    def __init__(self, max_size: int = LIMIT) -> None:
        self.limited: list[Limit] = []
        self.max_size = max_size
        total, each = Bound(Limit.ASSEMBLIES, TOTAL), Bound(Limit.ASSEMBLIES_PER_PEER, EACH)
        self.reassembler = Reassembler(total, each, self.limited.append)

    def feed(self, host: object, message: Message, now: float = 0.0, port: int = 0) -> Message | Progress:
        return self.reassembler.feed((host, port), message, now, self.max_size)


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
    proxies = Proxies()
    pieces = cut(body, exponents)
    for index, part in enumerate(pieces[:-1]):
        assert proxies.feed("a", part, 0.0) is Progress.CONTINUE
        if index in repeated:  # our 2.31 was lost
            assert proxies.feed("a", part, 0.0) is Progress.CONTINUE
    result = proxies.feed("a", pieces[-1], 0.0)
    assert result == whole(body)._replace(message_id=len(pieces) - 1)


def test_a_block_that_comes_twice_counts_once() -> None:
    proxies = Proxies()
    one, two, last = cut(b"a" * 40, [0])
    assert [proxies.feed("a", part) for part in (one, two, two, two)] == [Progress.CONTINUE] * 4
    assert proxies.feed("a", last) == whole(b"a" * 40)._replace(message_id=2)


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=2, max_size=TOTAL), st.randoms())
def test_assemblies_of_several_sources_do_not_mix(bodies: list[bytes], random: object) -> None:
    proxies = Proxies()
    waiting = {source: cut(body, [1]) for source, body in enumerate(bodies)}
    done: dict[int, bytes] = {}
    while waiting:
        source = random.choice(sorted(waiting))  # type: ignore[attr-defined]
        result = proxies.feed(source, waiting[source].pop(0), 0.0)
        if isinstance(result, Message):
            done[source] = result.payload
            del waiting[source]
    assert done == dict(enumerate(bodies))


def test_request_tags_tell_assemblies_of_one_source_apart() -> None:
    proxies = Proxies()
    one, two = (cut(bytes((n,)) * 40, [0], (*PROTECTED, (coap.REQUEST_TAG, bytes((n,))))) for n in (1, 2))
    results = [proxies.feed("a", part, 0.0) for pair in zip(one, two, strict=True) for part in pair]
    assert [r.payload for r in results if isinstance(r, Message)] == [b"\1" * 40, b"\2" * 40]


def test_only_the_block_options_are_taken_off() -> None:
    options: Options = ((3, b"host"), *PROTECTED, (coap.SIZE1, b"\x10"))
    result = Proxies().feed("a", piece(0, False, b"all", options=options), 0.0)
    assert isinstance(result, Message)
    assert result.options == ((3, b"host"), *PROTECTED)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_nothing_begins_in_the_middle(number: int) -> None:
    with refused(Reason.MALFORMED):
        Proxies().feed("a", piece(number, True, bytes(16)), 0.0)


def test_a_gap_gives_the_assembly_up() -> None:
    proxies = Proxies()
    parts = [piece(n, True, bytes(16)) for n in range(4)]
    proxies.feed("a", parts[0], 0.0)
    with refused(Reason.MALFORMED):
        proxies.feed("a", parts[2], 0.0)
    with refused(Reason.MALFORMED):
        proxies.feed("a", parts[1], 0.0)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_block_that_is_not_full_but_not_the_last(length: int) -> None:
    with refused(Reason.MALFORMED):
        Proxies().feed("a", piece(0, True, bytes(length)), 0.0)


def test_a_last_block_larger_than_its_size() -> None:
    proxies = Proxies()
    proxies.feed("a", piece(0, True, bytes(16)), 0.0)
    with refused(Reason.MALFORMED):
        proxies.feed("a", piece(1, False, bytes(17)), 0.0)


def test_as_large_as_allowed_and_one_more() -> None:
    for size, fits in ((64, True), (65, False)):
        proxies = Proxies(64)
        *parts, last = cut(bytes(size), [0])
        for part in parts:
            proxies.feed("a", part, 0.0)
        if fits:
            assert isinstance(proxies.feed("a", last, 0.0), Message)
        else:
            with refused(Reason.TOO_LARGE):
                proxies.feed("a", last, 0.0)
            with refused(Reason.MALFORMED):  # nothing of it was kept
                proxies.feed("a", last, 0.0)


def test_what_is_bounded_is_all_that_came_and_not_the_latest_piece() -> None:
    proxies, answer = Proxies(31), AnswerAssembly(31)
    proxies.feed("a", piece(0, True, bytes(16)), 0.0)
    answer.feed(answer_piece(0, True, bytes(16)))
    with refused(Reason.TOO_LARGE):
        proxies.feed("a", piece(1, False, bytes(16)), 0.0)
    with refused(Reason.TOO_LARGE):
        answer.feed(answer_piece(1, False, bytes(16)))


def test_block_zero_begins_anew() -> None:
    proxies = Proxies()
    for part in cut(b"a" * 40, [0])[:2]:
        proxies.feed("a", part, 0.0)
    *parts, last = cut(b"b" * 40, [0])
    for part in parts:
        assert proxies.feed("a", part, 0.0) is Progress.CONTINUE
    result = proxies.feed("a", last, 0.0)
    assert isinstance(result, Message)
    assert result.payload == b"b" * 40


def test_another_block_zero_begins_anew() -> None:
    """A repetition has the same bytes. Whoever put other ones there first must not spoil the real message."""
    proxies = Proxies()
    proxies.feed("a", piece(0, True, b"x" * 16), 0.0)
    first, last = cut(b"b" * 20, [0])
    assert proxies.feed("a", first, 0.0) is Progress.CONTINUE
    result = proxies.feed("a", last, 0.0)
    assert isinstance(result, Message)
    assert result.payload == b"b" * 20


def test_the_same_block_with_other_bytes() -> None:
    proxies = Proxies()
    for part in cut(b"a" * 60, [0])[:2]:
        proxies.feed("a", part, 0.0)
    with refused(Reason.MALFORMED):
        proxies.feed("a", piece(1, True, b"b" * 16), 0.0)


def test_the_same_block_as_the_last_one() -> None:
    """Repeated without "more" it is not a repetition."""
    proxies = Proxies()
    for part in cut(b"a" * 60, [0])[:2]:
        proxies.feed("a", part, 0.0)
    with refused(Reason.MALFORMED):
        proxies.feed("a", piece(1, False, b"a" * 16), 0.0)


def test_the_last_block_once_more() -> None:
    proxies = Proxies()
    first, last = cut(b"a" * 20, [0])
    proxies.feed("a", first, 0.0)
    assert isinstance(proxies.feed("a", last, 0.0), Message)
    with refused(Reason.MALFORMED):
        proxies.feed("a", last, 0.0)


@pytest.mark.parametrize(("age", "kept"), [(LIFETIME - 1, True), (LIFETIME + 1, False)])
def test_unfinished_assemblies_expire(age: float, kept: bool) -> None:
    proxies = Proxies()
    first, last = cut(b"a" * 20, [0])
    proxies.feed("a", first, 100.0)
    if kept:
        assert isinstance(proxies.feed("a", last, 100.0 + age), Message)
    else:
        with refused(Reason.MALFORMED):
            proxies.feed("a", last, 100.0 + age)


def test_an_assembly_is_kept_for_a_minute_to_the_very_end() -> None:
    proxies = Proxies()
    first, last = cut(b"a" * 20, [0])
    for port in range(EACH):
        proxies.feed("a", first, 0.0, port)
    proxies.feed("a", first, 60.0, EACH)  # none of the others has expired yet
    assert proxies.limited == [Limit.ASSEMBLIES_PER_PEER]
    assert isinstance(proxies.feed("a", last, 60.0, 1), Message)
    with refused(Reason.MALFORMED):
        proxies.feed("a", last, 60.1, 2)
    assert len(proxies.reassembler) == 1  # nor is it kept any longer


def test_the_time_runs_from_the_latest_piece() -> None:
    proxies = Proxies()
    one, two, last = cut(b"a" * 40, [0])
    proxies.feed("a", one, 0.0)
    proxies.feed("a", two, LIFETIME - 1)
    assert isinstance(proxies.feed("a", last, 2 * LIFETIME - 2), Message)


def test_only_so_many_at_once_and_the_oldest_goes() -> None:
    proxies = Proxies()
    first, last = cut(b"a" * 20, [0])
    for host in range(TOTAL + 1):
        proxies.feed(host, first, float(host))
    assert proxies.limited == [Limit.ASSEMBLIES]
    assert len(proxies.reassembler) == TOTAL
    with refused(Reason.MALFORMED):
        proxies.feed(0, last, 9.0)
    for host in range(1, TOTAL + 1):
        assert isinstance(proxies.feed(host, last, 9.0), Message)
    assert len(proxies.reassembler) == 0


def test_one_host_takes_the_places_of_none_but_its_own() -> None:
    proxies = Proxies()
    first, last = cut(b"a" * 20, [0])
    proxies.feed("other", first, 0.0)
    for port in range(100):
        proxies.feed("greedy", first, 1.0, port)
    assert proxies.limited == [Limit.ASSEMBLIES_PER_PEER] * (100 - EACH)
    assert isinstance(proxies.feed("other", last, 2.0), Message)
    for port in range(100 - EACH, 100):
        assert isinstance(proxies.feed("greedy", last, 2.0, port), Message)
    with refused(Reason.MALFORMED):
        proxies.feed("greedy", last, 2.0, 99 - EACH)


def test_what_has_expired_takes_no_place() -> None:
    proxies = Proxies()
    first, _ = cut(b"a" * 20, [0])
    for port in range(EACH):
        proxies.feed("a", first, 0.0, port)
    proxies.feed("a", first, LIFETIME + 1, EACH)
    assert proxies.limited == []
    assert len(proxies.reassembler) == 1


def test_a_new_attempt_takes_no_further_place() -> None:
    proxies = Proxies()
    for number in range(EACH + 1):
        proxies.feed("a", piece(0, True, bytes((number,)) * 16))
    assert proxies.limited == []
    assert len(proxies.reassembler) == 1


def test_a_new_attempt_of_a_host_that_has_all_its_places_takes_its_own() -> None:
    proxies = Proxies()
    host, same = (("host", number) for number in (1, 1))  # equal, but not one object
    first, last = cut(b"a" * 20, [0])
    for port in range(EACH):
        proxies.feed(host, first, 0.0, port)
    proxies.feed(same, piece(0, True, b"b" * 16), 0.0, EACH - 1)
    assert proxies.limited == []
    proxies.feed(same, first, 0.0, EACH)
    assert proxies.limited == [Limit.ASSEMBLIES_PER_PEER]
    for port in range(1, EACH):
        assert isinstance(proxies.feed(host, last, 0.0, port), Message)


def test_a_larger_piece_with_all_that_came_so_far_is_a_new_attempt() -> None:
    proxies = Proxies()
    for part in cut(b"a" * 48, [0])[:2]:
        proxies.feed("a", part)
    assert proxies.feed("a", piece(0, True, b"a" * 32, exponent=1)) is Progress.CONTINUE
    with refused(Reason.MALFORMED):  # the second one of before does not repeat the latest
        proxies.feed("a", piece(1, True, b"a" * 16))


@pytest.mark.parametrize("exponent", range(7))
def test_blocks_of_every_size_are_put_together_and_may_be_repeated(exponent: int) -> None:
    size = 16 << exponent
    proxies = Proxies(5 * size)
    for number in range(4):
        part = piece(number, True, bytes((number,)) * size, exponent=exponent)
        for _ in range(2):
            assert proxies.feed("a", part) is Progress.CONTINUE
    result = proxies.feed("a", piece(4, False, b"end", exponent=exponent))
    assert isinstance(result, Message)
    assert result.payload == b"".join(bytes((number,)) * size for number in range(4)) + b"end"


def test_a_new_one_is_refused_where_being_full_raises() -> None:
    def refuse(limit: Limit) -> None:
        raise Busy(limit)

    bodies = Reassembler(Bound(Limit.BODIES, 2), Bound(Limit.BODIES_PER_PEER, 1), refuse)
    first, last = cut(b"a" * 20, [0])
    for member in ("a", "b"):
        bodies.feed((member, 0), first, 0.0, LIMIT)
    for member, limit in (("a", Limit.BODIES_PER_PEER), ("c", Limit.BODIES)):
        with pytest.raises(Busy) as caught:
            bodies.feed((member, 1), first, 0.0, LIMIT)
        assert caught.value.limit is limit
    for member in ("a", "b"):
        assert isinstance(bodies.feed((member, 0), last, 0.0, LIMIT), Message)


@pytest.mark.parametrize("number", [coap.BLOCK2, coap.OBSERVE])
def test_pieces_may_differ_in_what_is_about_the_answer(number: int) -> None:
    proxies = Proxies()
    first, last = cut(b"a" * 20, [0])
    proxies.feed("a", first)
    option = (number, b"")
    result = proxies.feed("a", last._replace(options=tuple(sorted((*last.options, option)))))
    assert isinstance(result, Message)
    assert option in result.options


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.booleans(), st.binary(max_size=40)), max_size=60)
)
def test_whatever_comes_memory_is_bounded(feeds: list[tuple[int, int, bool, bytes]]) -> None:
    proxies = Proxies(64)
    for source, number, more, payload in feeds:
        with suppress(Rejected):
            result = proxies.feed(source, piece(number, more, payload), 0.0)
            assert result is Progress.CONTINUE or len(result.payload) <= 64
        kept = proxies.reassembler._assemblies.values()
        assert len(kept) <= TOTAL
        assert sum(len(assembly.payload) for assembly in kept) <= TOTAL * 64


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


def answer_piece(
    number: int, more: bool, payload: bytes, *, etag: bytes | None = b"e", exponent: int = 0
) -> Message:
    options = [(coap.OBJECT_SECURITY, b"\x28"), (coap.BLOCK2, coap.uint_bytes(number << 4 | more << 3 | exponent))]
    if etag is not None:
        options.append((coap.ETAG, etag))
    options.append((coap.SIZE2, b"\x28"))
    return Message(coap.NON, coap.CHANGED, 7, b"tok", tuple(sorted(options)), payload)


@given(body=st.binary(min_size=1, max_size=300), exponent=st.integers(0, 3), etag=st.none() | st.just(b"e"))
def test_an_answer_is_put_together_again(body: bytes, exponent: int, etag: bytes | None) -> None:
    size = 16 << exponent
    assembly = AnswerAssembly(300)
    count = -(-len(body) // size)
    for number in range(count):
        more = number < count - 1
        part = body[number * size : (number + 1) * size]
        result = assembly.feed(answer_piece(number, more, part, etag=etag, exponent=exponent))
        if more:
            assert result == coap.uint_bytes((number + 1) << 4 | exponent)
    assert isinstance(result, Message)
    assert result.payload == body
    assert result.options == ((coap.OBJECT_SECURITY, b"\x28"),)


@pytest.mark.parametrize("exponent", range(7))
def test_each_piece_of_an_answer_asks_for_the_next_of_the_same_size(exponent: int) -> None:
    size = 16 << exponent
    assembly = AnswerAssembly(5 * size)
    for number in range(4):
        asked_for = assembly.feed(answer_piece(number, True, bytes((number,)) * size, exponent=exponent))
        assert isinstance(asked_for, bytes)
        assert parse_block(asked_for) == (number + 1, False, size)
    whole_answer = assembly.feed(answer_piece(4, False, b"end", exponent=exponent))
    assert isinstance(whole_answer, Message)
    assert whole_answer.payload == b"".join(bytes((number,)) * size for number in range(4)) + b"end"


@pytest.mark.parametrize(
    "second",
    [
        answer_piece(2, True, b"b" * 16),
        answer_piece(1, True, b"b" * 15),
        answer_piece(1, False, b"b" * 17),
        answer_piece(1, False, b"b", etag=b"other"),
        answer_piece(1, False, b"b", etag=None),
        answer_piece(1, True, b"b" * 32, exponent=1),
    ],
)
def test_a_piece_of_an_answer_that_does_not_follow(second: Message) -> None:
    assembly = AnswerAssembly(100)
    with refused(Reason.MALFORMED):
        assembly.feed(second)
    assembly.feed(answer_piece(0, True, b"a" * 16))
    with refused(Reason.MALFORMED):
        assembly.feed(second)
    with refused(Reason.MALFORMED):  # it begins again from the start
        assembly.feed(answer_piece(1, False, b"b"))
    assembly.feed(answer_piece(0, True, b"a" * 16))
    whole_again = assembly.feed(answer_piece(1, False, b"b"))
    assert isinstance(whole_again, Message)
    assert whole_again.payload == b"a" * 16 + b"b"


def test_a_piece_of_an_answer_that_comes_twice_does_not_follow() -> None:
    assembly = AnswerAssembly(100)
    for number in range(2):
        assembly.feed(answer_piece(number, True, b"a" * 16))
    with refused(Reason.MALFORMED):
        assembly.feed(answer_piece(1, True, b"a" * 16))


def test_an_etag_is_compared_by_its_bytes() -> None:
    assembly = AnswerAssembly(100)
    assembly.feed(answer_piece(0, True, b"a" * 16, etag=bytes(bytearray(b"etag"))))
    assert isinstance(assembly.feed(answer_piece(1, False, b"b", etag=bytes(bytearray(b"etag")))), Message)


def test_an_answer_is_bounded() -> None:
    assembly = AnswerAssembly(32)
    assembly.feed(answer_piece(0, True, b"a" * 16))
    assembly.feed(answer_piece(1, True, b"b" * 16))
    with refused(Reason.TOO_LARGE):
        assembly.feed(answer_piece(2, False, b"c"))
    exact = AnswerAssembly(16)
    assert isinstance(exact.feed(answer_piece(0, False, b"a" * 16)), Message)


def test_another_first_piece_begins_another_answer() -> None:
    assembly = AnswerAssembly(100)
    assembly.feed(answer_piece(0, True, b"a" * 16, etag=b"1"))
    assembly.feed(answer_piece(0, True, b"b" * 16, etag=b"2"))
    result = assembly.feed(answer_piece(1, False, b"c", etag=b"2"))
    assert isinstance(result, Message)
    assert result.payload == b"b" * 16 + b"c"


def test_without_a_block_option_it_is_the_first_and_last() -> None:
    alone = Message(coap.NON, coap.CHANGED, 7, b"tok", PROTECTED, b"a")
    assert AnswerAssembly(100).feed(alone) == alone


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, False), (b"", False), (b"\x06", False), (b"\x08", True), (b"\x10", True), (b"\x18", True)],
)
def test_what_is_a_piece(value: bytes | None, expected: bool) -> None:
    assert is_piece(value) is expected


@pytest.mark.parametrize(("max_size", "most"), [(64, 10), (45, 6), (16, 4)])
def test_pieces_without_end_are_refused_some_day(max_size: int, most: int) -> None:
    assembly = AnswerAssembly(max_size)
    taken = 0
    with refused(Reason.TOO_LARGE):
        while taken < 1000:
            assembly.feed(answer_piece(0, True, b"a" * 16))
            taken += 1
    assert taken == most
