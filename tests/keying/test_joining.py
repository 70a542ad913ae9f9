from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import GID, L, M, example_material, join_roles, mutations, names, parsed, refused, uints

from groupcoap.cose.credentials import CredentialKind
from groupcoap.cose.keys import signature_algorithm
from groupcoap.errors import MisuseError
from groupcoap.keying.joining import Held, JoinRequest, challenge_map, parse_challenge
from groupcoap.keying.labels import CodePoints
from groupcoap.membership import SecurityParameters

NONCE = bytes.fromhex("25a8991cd700ac01")
SCOPE = bytes.fromhex("826367703106")
URI = "coap://[2001:db8::1]:5683/ace-group/gp1/node"
FULL = JoinRequest("gp1", frozenset({M, L}), NONCE, True, b"credential", bytes(64), URI, Held(GID, 7))
GOOD: dict[Any, Any] = {
    3: SCOPE,
    4: None,
    5: b"credential",
    6: NONCE,
    24: bytes(64),
    26: URI,
    -65540: [GID, 7],
}


@st.composite
def requests(draw: st.DrawFn) -> JoinRequest:
    credential = draw(st.none() | st.binary(max_size=60))
    name = draw(names)
    return JoinRequest(
        group=name,
        roles=draw(join_roles),
        nonce=draw(st.binary(min_size=8, max_size=64)),
        retrieve=draw(st.booleans()),
        credential=credential,
        proof=None if credential is None else draw(st.none() | st.binary(max_size=96)),
        control_uri=None,
        held=draw(st.none() | st.builds(Held, st.binary(min_size=1, max_size=20), uints)),
    )


@given(requests())
def test_a_request_comes_back(request: JoinRequest) -> None:
    assert JoinRequest.parse(request.encode()) == request


def test_a_request_with_everything() -> None:
    assert FULL.encode() == cbor2.dumps(GOOD)
    assert JoinRequest.parse(FULL.encode()) == FULL


def test_the_least_request() -> None:
    least = JoinRequest("gp1", frozenset({M, L}), NONCE)
    assert least.encode() == cbor2.dumps({3: SCOPE, 6: NONCE})
    assert JoinRequest.parse(least.encode()) == least


@pytest.mark.parametrize("wanted", [None, [True, [2], []], [True, [2, 4], []]])
def test_ways_to_ask_for_credentials(wanted: object) -> None:
    assert JoinRequest.parse(cbor2.dumps(GOOD | {4: wanted})).retrieve


def test_a_credential_that_is_known_already() -> None:
    known = JoinRequest.parse(cbor2.dumps(GOOD | {24: b""}))
    assert (known.credential, known.proof) == (b"credential", b"")
    kept = JoinRequest.parse(cbor2.dumps({3: SCOPE, 5: b"", 6: NONCE}))
    assert (kept.credential, kept.proof) == (b"", None)


def test_unknown_fields_are_ignored() -> None:
    extra = {25: "repository", 99: cbor2.CBORTag(99, {1: 2}), "text": [1, {2: 3.5}], -70000: None}
    assert JoinRequest.parse(cbor2.dumps(GOOD | extra)) == FULL


MISSING = object()


@pytest.mark.parametrize(
    "change",
    [
        {3: MISSING},
        {3: ["gp1", 6]},
        {3: b""},
        {3: bytes(513)},
        {3: SCOPE + b"\x00"},
        {3: SCOPE[:-1]},
        {3: cbor2.dumps("gp1")},
        {3: cbor2.dumps(["gp1"])},
        {3: cbor2.dumps([["gp1", 6]])},
        {3: cbor2.dumps(["gp1", 6, 0])},
        {3: cbor2.dumps([b"gp1", 6])},
        {3: cbor2.dumps(["", 6])},
        {3: cbor2.dumps(["a" * 256, 6])},
        {3: cbor2.dumps(["gp\n1", 6])},
        {3: cbor2.dumps(["gp1", "6"])},
        {3: cbor2.dumps(["gp1", [2, 4]])},
        {3: cbor2.dumps(["gp1", 0])},
        {3: cbor2.dumps(["gp1", -2])},
        {3: cbor2.dumps(["gp1", 7])},
        {3: cbor2.dumps(["gp1", 16])},
        {3: cbor2.dumps(["gp1", 22])},
        {3: cbor2.dumps(["gp1", 1 << 40])},
        {3: cbor2.dumps(["gp1", True])},
        {3: bytes.fromhex("82636770311806")},
        {3: bytes.fromhex("9f6367703106ff")},
        {3: cbor2.dumps(["gp2", 6])},
        {4: True},
        {4: 0},
        {4: []},
        {4: [True, [], []]},
        {4: [True, [2], [b"\x01"]]},
        {4: [False, [2], []]},
        {4: [1, [2], []]},
        {4: [True, 2, []]},
        {4: [True, [b"2"], []]},
        {4: [True, [2], None]},
        {5: None},
        {5: "credential"},
        {5: bytes(4097)},
        {5: MISSING},
        {6: MISSING},
        {6: None},
        {6: "25a8991cd700ac01"},
        {6: b""},
        {6: bytes(7)},
        {6: bytes(65)},
        {24: None},
        {24: "proof"},
        {24: bytes(257)},
        {26: None},
        {26: URI.encode()},
        {26: "coap://[2001:db8::1]:5683/ace-group/gp1"},
        {26: "coap://[2001:db8::1]:5683/ace-group/gp2/node"},
        {26: "coap://device.example:5683/ace-group/gp1/node"},
        {26: "coap://[2001:db8::1]/ace-group/gp1/node"},
        {26: "coap://224.0.1.187:5683/ace-group/gp1/node"},
        {26: URI + "x" * 2000},
        {-65540: None},
        {-65540: GID},
        {-65540: [GID]},
        {-65540: [GID, 7, 7]},
        {-65540: [b"", 7]},
        {-65540: [bytes(256), 7]},
        {-65540: ["gid", 7]},
        {-65540: [GID, -1]},
        {-65540: [GID, "7"]},
        {-65540: [GID, 1 << 64]},
        {3.5: 1},
        {99: bytes(8192)},
    ],
)
def test_every_malformed_field_is_refused(change: dict[Any, Any]) -> None:
    content = {key: value for key, value in (GOOD | change).items() if value is not MISSING}
    refused(lambda: JoinRequest.parse(cbor2.dumps(content)))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xa0",
        b"\x80",
        b"\x40",
        b"\xf6",
        cbor2.dumps(GOOD) + b"\x00",
        cbor2.dumps(GOOD)[:-1],
        b"\xa8" + cbor2.dumps(GOOD)[1:] + b"\x06\x48" + NONCE,
        b"\xa3\x03\x46" + SCOPE + b"\x06\x48" + NONCE + b"\xf5\x00",
        cbor2.dumps(cbor2.CBORTag(55799, GOOD)),
        b"\x81" * 8000,
        b"\xff",
    ],
)
def test_what_is_no_map_of_fields_is_refused(payload: bytes) -> None:
    refused(lambda: JoinRequest.parse(payload))


def test_the_longest_request() -> None:
    room = 8192 - len(cbor2.dumps(GOOD)) - len(bytes.fromhex("1863590000"))
    assert len(payload := cbor2.dumps(GOOD | {99: bytes(room)})) == 8192
    assert JoinRequest.parse(payload) == FULL
    refused(lambda: JoinRequest.parse(cbor2.dumps(GOOD | {99: bytes(room + 1)})))


@given(st.binary(max_size=100) | mutations(FULL.encode()))
def test_anything_is_a_request_or_refused(payload: bytes) -> None:
    request = parsed(lambda: JoinRequest.parse(payload))
    assert request is None or JoinRequest.parse(request.encode()) == request


def test_a_group_without_the_pairwise_mode_challenges() -> None:
    parameters = SecurityParameters(example_material(seed=True).parameters.profile)
    payload = challenge_map("gp1", parameters, CredentialKind.CCS, NONCE)
    assert payload == cbor2.dumps({29: [["gp1", -8, [1], [1, 6], 14]], 30: NONCE})
    assert parse_challenge(payload) == NONCE


def test_a_group_with_the_pairwise_mode_challenges() -> None:
    parameters = example_material().parameters
    payload = challenge_map("gp1", parameters, CredentialKind.X509, NONCE, CodePoints(ecdh_info=131))
    assert cbor2.loads(payload) == {
        29: [["gp1", -8, [1], [1, 6], 33]],
        30: NONCE,
        131: [["gp1", -27, [1], [1, 4], 33]],
    }


def test_parameters_of_another_algorithm() -> None:
    parameters = SecurityParameters(example_material().parameters.profile, signature=signature_algorithm(-7))
    payload = challenge_map("gp1", parameters, CredentialKind.CWT, NONCE)
    assert cbor2.loads(payload)[29] == [["gp1", -7, [2], [2, 1], 13]]


def test_raw_keys_have_no_format() -> None:
    with pytest.raises(MisuseError):
        challenge_map("gp1", example_material().parameters, CredentialKind.RAW_KEY, NONCE)


@pytest.mark.parametrize("content", [{}, [], {30: None}, {30: b"short"}, {30: bytes(65)}, {30: "25a8991cd700ac01"}])
def test_no_challenge(content: object) -> None:
    assert parse_challenge(cbor2.dumps(content)) is None


@given(st.binary(max_size=60) | mutations(cbor2.dumps({30: NONCE})))
def test_anything_is_a_challenge_or_none(payload: bytes) -> None:
    challenge = parse_challenge(payload)
    assert challenge is None or 8 <= len(challenge) <= 64
