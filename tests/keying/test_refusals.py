from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import mutations

from groupcoap.errors import Refused
from groupcoap.keying.labels import GROUPCOMM_CBOR, PROBLEM_DETAILS
from groupcoap.keying.refusals import MAX_TITLE, GroupError, encode_problem, parse_refusal

titles = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), max_size=MAX_TITLE).filter(str.isprintable)


def test_the_bytes_of_an_error_without_a_title() -> None:
    assert encode_problem(Refused(0x80, "", GroupError.INVALID_PROOF)) == bytes.fromhex("a100a10003")


def test_an_error_comes_before_the_title() -> None:
    assert encode_problem(Refused(0x83, "no", 0)) == bytes.fromhex("a200a1000020626e6f")
    assert encode_problem(Refused(0x83, "no")) == bytes.fromhex("a120626e6f")


@given(titles, st.none() | st.sampled_from(GroupError), st.integers(0x80, 0xBF))
def test_a_refusal_comes_back(title: str, error: GroupError | None, code: int) -> None:
    refused = parse_refusal(code, PROBLEM_DETAILS, encode_problem(Refused(code, title, error)))
    assert (refused.code, refused.error) == (code, error)
    assert refused.title == title or (not title and refused.title)


@given(
    st.integers(-5, 300),
    st.none() | st.sampled_from([0, 60, PROBLEM_DETAILS, GROUPCOMM_CBOR]),
    st.binary(max_size=300) | mutations(encode_problem(Refused(0x80, "title", 3))),
)
def test_whatever_comes_there_is_a_refusal_of_one_line(
    code: int, content_format: int | None, payload: bytes
) -> None:
    refused = parse_refusal(code, content_format, payload)
    assert refused.code == code
    assert refused.title
    assert refused.title.isprintable()
    assert len(refused.title) <= MAX_TITLE
    assert refused.retry_after is None


@pytest.mark.parametrize(
    "problem", [{0: {0: True}}, {0: {0: "3"}}, {0: 3}, {0: {}}, {-1: b"bytes"}, {-1: ""}, {-1: "\n"}, [], 3]
)
def test_what_does_not_fit_is_left_out(problem: object) -> None:
    refused = parse_refusal(0x80, PROBLEM_DETAILS, cbor2.dumps(problem))
    assert (refused.error, refused.title) == (None, "refused with 4.00")


@pytest.mark.parametrize("error", GroupError)
def test_every_error_has_a_text_of_its_own(error: GroupError) -> None:
    title = parse_refusal(0x80, PROBLEM_DETAILS, encode_problem(Refused(0x80, "", error))).title
    assert "refused" not in title


def test_an_error_that_is_not_known_is_kept() -> None:
    refused = parse_refusal(0x80, PROBLEM_DETAILS, cbor2.dumps({0: {0: 77}}))
    assert (refused.error, refused.title) == (77, "refused with error 77")


def test_a_text_is_taken_from_a_diagnostic_payload_only() -> None:
    assert parse_refusal(0x81, None, b"Security context\nnot found").title == "Security context not found"
    assert parse_refusal(0x81, None, b"").title == "refused with 4.01"
    assert parse_refusal(0x80, GROUPCOMM_CBOR, b"text").title == "refused with 4.00"
