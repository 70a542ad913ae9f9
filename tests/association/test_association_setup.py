"""The set-up exchange as bytes."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.association.setup import AssociateRequest, AssociateResponse
from groupcoap.errors import Reason, Refused, Rejected

REQUEST = AssociateRequest(b"handle01", b"nonce-01", b"\x01\x02")
RESPONSE = AssociateResponse(b"nonce-02", b"\x00", b"challeng")


def test_what_goes_over_the_wire() -> None:
    assert cbor2.loads(REQUEST.encode()) == {0: b"handle01", 40: b"nonce-01", 43: b"\x01\x02"}
    assert cbor2.loads(RESPONSE.encode()) == {42: b"nonce-02", 44: b"\x00", 46: b"challeng"}
    assert AssociateRequest.parse(REQUEST.encode()) == REQUEST
    assert AssociateResponse.parse(RESPONSE.encode()) == RESPONSE


@pytest.mark.parametrize("length", [0, 7])
def test_ids(length: int) -> None:
    request = AssociateRequest(bytes(8), bytes(8), bytes(length))
    assert AssociateRequest.parse(request.encode()) == request
    response = AssociateResponse(bytes(8), bytes(length), bytes(8))
    assert AssociateResponse.parse(response.encode()) == response


def test_other_labels_are_ignored() -> None:
    value = {**cbor2.loads(REQUEST.encode()), 99: [1], "x": None}
    assert AssociateRequest.parse(cbor2.dumps(value)) == REQUEST


REQUESTS = {
    "empty": b"",
    "no map": b"\x80",
    "a number": b"\x01",
    "cut short": REQUEST.encode()[:-1],
    "more behind it": REQUEST.encode() + b"\x00",
    "no handle": cbor2.dumps({40: bytes(8), 43: b""}),
    "no nonce": cbor2.dumps({0: bytes(8), 43: b""}),
    "no id": cbor2.dumps({0: bytes(8), 40: bytes(8)}),
    "a short handle": cbor2.dumps({0: bytes(7), 40: bytes(8), 43: b""}),
    "a long nonce": cbor2.dumps({0: bytes(8), 40: bytes(9), 43: b""}),
    "a long id": cbor2.dumps({0: bytes(8), 40: bytes(8), 43: bytes(8)}),
    "text": cbor2.dumps({0: "handle01", 40: bytes(8), 43: b""}),
    "unhashable": b"\xa1\xa0\x00",
    "deep": b"\x81" * 120,
    "long": cbor2.dumps({0: bytes(8), 40: bytes(8), 43: b"", 99: bytes(200)}),
}


@pytest.mark.parametrize("payload", REQUESTS.values(), ids=REQUESTS.keys())
def test_malformed_requests(payload: bytes) -> None:
    with pytest.raises(Refused) as caught:
        AssociateRequest.parse(payload)
    assert caught.value.code == 0x80


@pytest.mark.parametrize("length", [(7, 1, 8), (8, 8, 8), (8, 1, 9)])
def test_malformed_responses(length: tuple[int, int, int]) -> None:
    payload = cbor2.dumps(dict(zip((42, 44, 46), map(bytes, length), strict=True)))
    with pytest.raises(Rejected) as caught:
        AssociateResponse.parse(payload)
    assert caught.value.reason is Reason.MALFORMED


@given(st.binary(max_size=140))
def test_any_bytes(payload: bytes) -> None:
    for parse, refused in ((AssociateRequest.parse, Refused), (AssociateResponse.parse, Rejected)):
        with suppress(refused):
            parse(payload)
