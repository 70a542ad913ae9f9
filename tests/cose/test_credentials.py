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

from groupcoap.cose.credentials import Credential, CredentialKind
from groupcoap.cose.keys import SIGNATURE_ALGORITHMS, SignatureAlgorithm, signature_algorithm
from groupcoap.errors import MisuseError
from groupcoap.secret import Secret

EDDSA, ES256 = signature_algorithm(-8), signature_algorithm(-7)
SEED = b"\x11" * 32

RAW = {algorithm.number: algorithm.private_key(Secret(SEED)).public_key.data for algorithm in (EDDSA, ES256)}
COSE_KEY: dict[int, dict[int, Any]] = {
    -8: {1: 1, -1: 6, -2: RAW[-8]},
    -7: {1: 2, -1: 1, -2: RAW[-7][1:33], -3: RAW[-7][33:]},
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
    return certificate(ec.derive_private_key(int.from_bytes(SEED, "big"), ec.SECP256R1()))


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
@pytest.mark.parametrize(("inside", "wanted"), [(EDDSA, ES256), (ES256, EDDSA)], ids=["EdDSA", "ES256"])
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
        claims({1: 2, -1: 1, -2: RAW[-7][1:33], -3: True}),
        claims({1: 2, -1: 1, -2: RAW[-7][1:33], -3: "text"}),
        claims({1: 2, -1: 1, -2: b"", -3: b""}),
        claims({1: 1, -1: 6, -2: b""}),
    ],
    ids=lambda data: data[:24].hex() or "empty",
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["CCS", "CWT"])
def test_claims_without_a_usable_key_are_refused(data: bytes, wrapped: bool) -> None:
    kind = CredentialKind.CWT if wrapped else CredentialKind.CCS
    for algorithm in (EDDSA, ES256):
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
        certificate(ec.generate_private_key(ec.SECP384R1())),
    ],
    ids=["empty", "not DER", "cut short", "Ed448", "P-384"],
)
def test_what_is_no_certificate_of_a_usable_key_is_refused(data: bytes) -> None:
    for algorithm in (EDDSA, ES256):
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
    for algorithm in (EDDSA, ES256):
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
