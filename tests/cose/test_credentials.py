from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import datetime, timedelta
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.cose.credentials import Credential, CredentialKind, claims_set
from groupcoap.cose.keys import SIGNATURE_ALGORITHMS, SignatureAlgorithm, signature_algorithm
from groupcoap.errors import MisuseError
from groupcoap.secret import Secret

EDDSA, ES256, ES384 = signature_algorithm(-8), signature_algorithm(-7), signature_algorithm(-35)
SEED = b"\x11" * 32
SEED_384 = b"\x11" * 48
PRIVATE = {
    algorithm.number: algorithm.private_key(Secret(b"\x11" * algorithm.key_length))
    for algorithm in (EDDSA, ES256, ES384)
}
CURVES = {-7: ec.SECP256R1(), -35: ec.SECP384R1()}

RAW = {number: key.public_key.data for number, key in PRIVATE.items()}
COSE_KEY: dict[int, dict[int, Any]] = {
    -8: {1: 1, -1: 6, -2: RAW[-8]},
    -7: {1: 2, -1: 1, -2: RAW[-7][1:33], -3: RAW[-7][33:]},
    -35: {1: 2, -1: 2, -2: RAW[-35][1:49], -3: RAW[-35][49:]},
}

CertificateKey = ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def claims(cose_key: Any) -> bytes:
    return cbor2.dumps({2: "endpoint", 8: {1: cose_key}})


def sign1(payload: bytes) -> list[object]:
    return [b"", {}, payload, bytes(64)]


def certificate(key: CertificateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "endpoint")])
    start = datetime(2017, 1, 1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
    )
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def certificate_of(algorithm: SignatureAlgorithm) -> bytes:
    if algorithm is EDDSA:
        return certificate(ed25519.Ed25519PrivateKey.from_private_bytes(SEED))
    scalar = int.from_bytes(PRIVATE[algorithm.number].secret.reveal(), "big")
    return certificate(ec.derive_private_key(scalar, CURVES[algorithm.number]))


def credential(kind: CredentialKind, algorithm: SignatureAlgorithm) -> Credential:
    """The test key of this algorithm as this kind of credential."""
    payload = claims(COSE_KEY[algorithm.number])
    data = {
        CredentialKind.RAW_KEY: lambda: RAW[algorithm.number],
        CredentialKind.CCS: lambda: payload,
        CredentialKind.CWT: lambda: cbor2.dumps(cbor2.CBORTag(18, sign1(payload))),
        CredentialKind.X509: lambda: certificate_of(algorithm),
    }
    return Credential(kind, data[kind]())


@pytest.mark.parametrize("algorithm", SIGNATURE_ALGORITHMS.values(), ids=lambda a: a.name)
@pytest.mark.parametrize("kind", CredentialKind)
def test_every_kind_of_credential_gives_the_key_inside(kind: CredentialKind, algorithm: SignatureAlgorithm) -> None:
    assert credential(kind, algorithm).public_key(algorithm).data == RAW[algorithm.number]


@pytest.mark.parametrize("kind", CredentialKind)
@pytest.mark.parametrize(
    ("inside", "wanted"),
    [(EDDSA, ES256), (ES256, EDDSA), (ES256, ES384), (ES384, ES256), (ES384, EDDSA)],
    ids=lambda algorithm: algorithm.name.split()[0],
)
def test_a_key_of_another_algorithm_is_refused(
    kind: CredentialKind, inside: SignatureAlgorithm, wanted: SignatureAlgorithm
) -> None:
    with pytest.raises(MisuseError, match=kind.value):
        credential(kind, inside).public_key(wanted)


@pytest.mark.parametrize("tags", [(), (18,), (61, 18), (61,)], ids=str)
def test_a_cwt_may_be_tagged_or_not(tags: tuple[int, ...]) -> None:
    value: object = sign1(claims(COSE_KEY[-8]))
    for tag in reversed(tags):
        value = cbor2.CBORTag(tag, value)
    assert Credential(CredentialKind.CWT, cbor2.dumps(value)).public_key(EDDSA).data == RAW[-8]


OTHER_CBOR = [1, "text", b"bytes", [], {}, None, 1.5, True]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\x81" * 10000,
        b"\x5b" + b"\xff" * 8,
        claims(COSE_KEY[-8]) + b"\0",
        *(cbor2.dumps(value) for value in OTHER_CBOR),
        *(cbor2.dumps({8: value}) for value in OTHER_CBOR),
        *(claims(value) for value in OTHER_CBOR),
        claims({1: 1, -1: 6}),
        claims({1: 1, -1: 6, -2: "text"}),
        claims({1: 1, -1: 7, -2: RAW[-8]}),
        claims({1: 4, -1: 6, -2: RAW[-8]}),
        claims({1: 2, -1: 1, -2: RAW[-7][1:33]}),
        claims({1: 2, -1: 2, -2: RAW[-7][1:33], -3: RAW[-7][33:]}),
        claims({1: 2, -1: 0, -2: RAW[-7][1:33], -3: RAW[-7][33:]}),
        claims({1: 2, -1: 3, -2: RAW[-7][1:33], -3: RAW[-7][33:]}),
        claims({1: 2, -1: 2, -2: RAW[-7][1:33], -3: True}),
        claims({1: 2, -1: 1, -2: RAW[-7][1:32], -3: True}),
        claims({1: 2, -1: 1, -2: b"\xff" * 32, -3: True}),
        claims({1: 2, -1: 1, -2: bytes(31) + b"\x04", -3: False}),  # x³ - 3x + b is no square
        claims({1: 2, -1: 1, -2: "text", -3: True}),
        claims({1: 2, -1: 1, -2: RAW[-7][1:33], -3: 1}),
        claims({1: 2, -1: 1, -2: RAW[-7][1:33], -3: None}),
        claims({1: 2, -1: [1], -2: RAW[-7][1:33], -3: RAW[-7][33:]}),
        claims({1: 2, -1: 1, -2: RAW[-7][1:33], -3: "text"}),
        claims({1: 2, -1: 1, -2: b"", -3: b""}),
        claims({1: 1, -1: 6, -2: b""}),
    ],
    ids=lambda data: data[:24].hex() or "empty",
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["CCS", "CWT"])
def test_claims_without_a_usable_key_are_refused(data: bytes, wrapped: bool) -> None:
    kind = CredentialKind.CWT if wrapped else CredentialKind.CCS
    for algorithm in (EDDSA, ES256, ES384):
        with pytest.raises(MisuseError):
            Credential(kind, cbor2.dumps(sign1(data)) if wrapped else data).public_key(algorithm)


@pytest.mark.parametrize(
    "value",
    [
        *OTHER_CBOR,
        sign1(claims(COSE_KEY[-8]))[:3],
        [*sign1(claims(COSE_KEY[-8])), 0],
        [b"", {}, "text", b""],
        cbor2.CBORTag(17, sign1(claims(COSE_KEY[-8]))),
        cbor2.CBORTag(19, sign1(claims(COSE_KEY[-8]))),
        cbor2.CBORTag(62, sign1(claims(COSE_KEY[-8]))),
        cbor2.CBORTag(600, sign1(claims(COSE_KEY[-8]))),
        cbor2.CBORTag(18, cbor2.CBORTag(61, sign1(claims(COSE_KEY[-8])))),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_cose_sign1_is_no_cwt(value: object) -> None:
    with pytest.raises(MisuseError):
        Credential(CredentialKind.CWT, cbor2.dumps(value)).public_key(EDDSA)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not DER",
        certificate_of(EDDSA)[:-1],
        certificate(ed448.Ed448PrivateKey.generate()),
        certificate(ec.generate_private_key(ec.SECP521R1())),
    ],
    ids=["empty", "not DER", "cut short", "Ed448", "P-521"],
)
def test_what_is_no_certificate_of_a_usable_key_is_refused(data: bytes) -> None:
    for algorithm in (EDDSA, ES256, ES384):
        with pytest.raises(MisuseError):
            Credential(CredentialKind.X509, data).public_key(algorithm)


def key_or_refusal(found: Credential, algorithm: SignatureAlgorithm) -> bytes:
    """The key inside, or nothing: no other exception than the one that is documented may come."""
    try:
        return found.public_key(algorithm).data
    except MisuseError:
        return b""


@pytest.mark.parametrize("kind", CredentialKind)
@given(data=st.binary(max_size=100))
def test_any_bytes_are_a_key_or_refused(kind: CredentialKind, data: bytes) -> None:
    for algorithm in (EDDSA, ES256, ES384):
        assert key_or_refusal(Credential(kind, data), algorithm) in data


@pytest.mark.parametrize("kind", CredentialKind)
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_damaged_credential_is_a_key_or_refused(kind: CredentialKind, position: int, bit: int) -> None:
    data = bytearray(credential(kind, EDDSA).data)
    data[position % len(data)] ^= 1 << bit
    assert key_or_refusal(Credential(kind, bytes(data)), EDDSA) in data


cbor_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10) | st.binary(max_size=5) | st.text(max_size=3) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-3, 9), inner, max_size=4)
        | st.builds(cbor2.CBORTag, st.integers(0, 300), inner)
    ),
    max_leaves=8,
)


@given(value=cbor_values, kind=st.sampled_from([CredentialKind.CCS, CredentialKind.CWT]))
def test_any_cbor_is_refused_unless_it_holds_a_key(value: Any, kind: CredentialKind) -> None:
    with pytest.raises(MisuseError):
        Credential(kind, cbor2.dumps(value)).public_key(EDDSA)


def test_a_credential_is_not_changed_once_it_is_made() -> None:
    found: Any = Credential(CredentialKind.RAW_KEY, RAW[-8])
    with pytest.raises(FrozenInstanceError):
        found.data = RAW[-7]


def test_the_original_bytes_are_kept() -> None:
    data = certificate_of(EDDSA)
    assert Credential(CredentialKind.X509, data).data == data


# ---- validity


def dated(kind: CredentialKind, **dates: object) -> Credential:
    """A credential that says until when it is good (claims 5 and 4, RFC 8392 §3.1)."""
    payload = cbor2.dumps({8: {1: COSE_KEY[-8]}, **{{"nbf": 5, "exp": 4}[name]: at for name, at in dates.items()}})
    return Credential(kind, payload if kind is CredentialKind.CCS else cbor2.dumps(sign1(payload)))


@pytest.mark.parametrize("kind", [CredentialKind.CCS, CredentialKind.CWT])
def test_claims_say_from_when_to_when_they_hold(kind: CredentialKind) -> None:
    assert dated(kind, nbf=1500000000, exp=1600000000.5).validity == (1500000000, 1600000000.5)
    assert dated(kind, exp=7).validity == (None, 7)
    assert dated(kind).validity == (None, None)
    tagged_claims = Credential(kind, tagged(dated(kind, nbf=3, exp=7).data, 61, 18))
    assert tagged_claims.validity == (3, 7)


def test_a_certificate_says_from_when_to_when_it_holds() -> None:
    start = 1483228800  # 2017-01-01, UTC
    assert credential(CredentialKind.X509, EDDSA).validity == (start, start + 86400)


def test_a_raw_key_holds_for_ever() -> None:
    assert credential(CredentialKind.RAW_KEY, ES256).validity == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        dated(CredentialKind.CCS, exp="tomorrow"),
        dated(CredentialKind.CWT, nbf=True),
        Credential(CredentialKind.CCS, cbor2.dumps([1])),
        Credential(CredentialKind.CWT, cbor2.dumps([1])),
        Credential(CredentialKind.X509, b"\x30\x00"),
    ],
)
def test_a_validity_that_cannot_be_read_is_refused(wrong: Credential) -> None:
    with pytest.raises(MisuseError):
        _ = wrong.validity


# ---- only the sign of y (RFC 9053 §7.1.1)


@pytest.mark.parametrize("algorithm", [ES256, ES384], ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize("seed", range(1, 9))
def test_a_key_may_say_only_the_sign_of_y(algorithm: SignatureAlgorithm, seed: int) -> None:
    key = algorithm.private_key(Secret(bytes((seed,)) * algorithm.key_length)).public_key
    size = algorithm.key_length
    whole = COSE_KEY[algorithm.number] | {-2: key.data[1 : 1 + size], -3: key.data[1 + size :]}
    odd = bool(key.data[-1] & 1)
    for kind, wrap in ((CredentialKind.CCS, bytes), (CredentialKind.CWT, lambda data: cbor2.dumps(sign1(data)))):
        assert Credential(kind, wrap(claims(whole))).public_key(algorithm).data == key.data
        assert Credential(kind, wrap(claims(whole | {-3: odd}))).public_key(algorithm).data == key.data
        other = Credential(kind, wrap(claims(whole | {-3: not odd}))).public_key(algorithm).data
        assert other[: 1 + size] == key.data[: 1 + size]
        assert other != key.data


# ---- what stands for a credential in the AAD (Group OSCORE §2.4)


def tagged(data: bytes, *tags: int) -> bytes:
    """The CBOR item with these tags before it, outermost first, in shortest form."""
    return b"".join(cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] for tag in tags) + data


# The same claims, also in another order and with longer heads than needed: bytes count, not values.
ENCODINGS = {
    "as made": claims(COSE_KEY[-8]),
    "other order": cbor2.dumps({8: {1: COSE_KEY[-8]}, 2: "endpoint"}),
    "longer heads": b"\xb9\x00\x01" + cbor2.dumps(8) + cbor2.dumps({1: COSE_KEY[-8]}),
    "indefinite": b"\xbf" + cbor2.dumps(8) + cbor2.dumps({1: COSE_KEY[-8]}) + b"\xff",
}


@pytest.mark.parametrize("tags", [(), (61,), (18,), (61, 18), (55799, 61, 18), (1 << 40,), (23,), (24,)], ids=str)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_ccs_counts_without_its_tags_and_byte_by_byte(encoding: str, tags: tuple[int, ...]) -> None:
    data = ENCODINGS[encoding]
    found = Credential(CredentialKind.CCS, tagged(data, *tags))
    assert found.authenticated == data
    assert found.public_key(EDDSA).data == RAW[-8]


@pytest.mark.parametrize("tags", [(), (18,), (61, 18), (61,)], ids=str)
def test_a_cwt_counts_without_its_tags_and_byte_by_byte(tags: tuple[int, ...]) -> None:
    data = b"\x98\x04" + cbor2.dumps(sign1(claims(COSE_KEY[-7])))[1:]  # a longer head than needed
    found = Credential(CredentialKind.CWT, tagged(data, *tags))
    assert found.authenticated == data
    assert found.public_key(ES256).data == RAW[-7]


@pytest.mark.parametrize("head", ["d83d", "d9003d", "da0000003d", "db000000000000003d"])
def test_a_tag_may_be_written_longer_than_needed(head: str) -> None:
    data = claims(COSE_KEY[-8])
    assert Credential(CredentialKind.CCS, bytes.fromhex(head) + data).authenticated == data


def test_a_certificate_counts_as_it_is() -> None:
    for algorithm in (EDDSA, ES256, ES384):
        data = certificate_of(algorithm)
        assert Credential(CredentialKind.X509, data).authenticated == data
    assert Credential(CredentialKind.X509, b"\xd2\x80").authenticated == b"\xd2\x80"  # nothing is stripped here


@pytest.mark.parametrize("data", [RAW[-8], RAW[-7], b""])
def test_a_raw_key_says_nothing_of_its_algorithm_and_cannot_count(data: bytes) -> None:
    with pytest.raises(MisuseError, match="not raw"):
        _ = Credential(CredentialKind.RAW_KEY, data).authenticated


@pytest.mark.parametrize("data", ["", "d2", "d83d", "d83dd2", "d9", "d900", "da0000", "db00"])
@pytest.mark.parametrize("kind", [CredentialKind.CCS, CredentialKind.CWT])
def test_where_there_is_nothing_but_tags_nothing_can_count(kind: CredentialKind, data: str) -> None:
    with pytest.raises(MisuseError, match="nothing but tags"):
        _ = Credential(kind, bytes.fromhex(data)).authenticated


@given(data=st.binary(max_size=30), kind=st.sampled_from([CredentialKind.CCS, CredentialKind.CWT]))
def test_what_counts_is_the_end_of_a_credential_and_begins_with_no_tag(data: bytes, kind: CredentialKind) -> None:
    try:
        found = Credential(kind, data).authenticated
    except MisuseError:
        assert not data or data[0] >> 5 == 6
        return
    assert data.endswith(found)
    assert found[0] >> 5 != 6


# ---- new claims sets


@pytest.mark.parametrize("algorithm", SIGNATURE_ALGORITHMS.values(), ids=lambda a: a.name)
@pytest.mark.parametrize("subject", [None, "", "lamp-1"])
def test_a_new_claims_set_holds_the_key_its_algorithm_and_whose_it_is(
    algorithm: SignatureAlgorithm, subject: str | None
) -> None:
    key = PRIVATE[algorithm.number].public_key
    made = claims_set(key, algorithm, subject)
    assert made.kind is CredentialKind.CCS
    assert made.public_key(algorithm).data == key.data
    assert made.authenticated == made.data
    expected = {8: {1: COSE_KEY[algorithm.number] | {3: algorithm.number}}}
    assert cbor2.loads(made.data) == (expected if subject is None else expected | {2: subject})
    assert made.validity == (None, None)
