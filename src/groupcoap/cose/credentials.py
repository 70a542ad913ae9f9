"""Credentials: the original bytes of what carries a public key, with their type.

The bytes are kept as they came, since Group OSCORE authenticates exactly them. That the key belongs to the
endpoint is what the source vouches for (the provisioned file, the Group Manager); nothing here checks an
issuer's signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..errors import MisuseError
from .keys import PublicKey, SignatureAlgorithm

_EXP, _NBF = 4, 5  # CWT claims, RFC 8392 §3.1
_CNF = 8  # CWT claim "cnf", RFC 8747 §3.1
_COSE_KEY = 1  # its member COSE_Key
_COSE_SIGN1_TAG = 18
_CWT_TAG = 61
_KTY, _CRV, _X, _Y = 1, -1, -2, -3
_KTY_ALG = 3
_OKP, _EC2 = 1, 2
_CURVE_ED25519 = 6
_EC2_CURVES = {1: ec.SECP256R1(), 2: ec.SECP384R1()}
_SUB = 2  # CWT claim "sub"
_CBOR_TAG = 6 << 5  # major type of tags, in the head of an item


class CredentialKind(Enum):
    """What the bytes of a credential are; the value is the name used in files."""

    RAW_KEY = "raw"
    CCS = "ccs"
    CWT = "cwt"
    X509 = "x509"


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential's kind and original bytes.

    RAW_KEY: Ed25519 32 bytes, P-256 and P-384 04 ‖ x ‖ y. CCS: a CWT Claims Set (CBOR map). CWT: a COSE_Sign1. The
    latter two tagged or not. X509: one certificate, DER."""

    kind: CredentialKind
    data: bytes

    def public_key(self, algorithm: SignatureAlgorithm) -> PublicKey:
        """The key inside, for this algorithm. `MisuseError` if there is none or it is of another type."""
        try:
            return algorithm.public_key(_EXTRACT[self.kind](self.data))
        except MisuseError as error:
            raise MisuseError(f"{self.kind.value} credential without a key for {algorithm.name}: {error}") from None

    @property
    def authenticated(self) -> bytes:
        """What stands for this credential in the AAD and in pairwise keys (Group OSCORE §2.4): its bytes as they
        came, a CCS or CWT without its tags. `MisuseError` for a raw key, which says nothing of its algorithm, and
        where there is nothing but tags."""
        if self.kind is CredentialKind.RAW_KEY:
            raise MisuseError(
                "Group OSCORE takes credentials that say what key they hold: ccs, cwt or x509, not raw"
            )
        if self.kind is CredentialKind.X509:
            return self.data
        at = 0
        while at < len(self.data) and self.data[at] & 0xE0 == _CBOR_TAG:
            argument = self.data[at] & 0x1F
            at += 1 + (1 << argument - 24 if 24 <= argument < 28 else 0)
        if at >= len(self.data):
            raise MisuseError("a credential that is empty, or nothing but tags")
        return self.data[at:]

    @property
    def validity(self) -> tuple[float | None, float | None]:
        """(not before, not after) in seconds since 1970, None where the credential does not say. It is a claim like
        any other: nothing here checks who makes it. `MisuseError` if it cannot be read."""
        return _VALIDITY[self.kind](self.data)


def _decode_all(data: bytes) -> Any:
    stream = BytesIO(data)
    try:
        value = cbor2.load(stream)
    except (cbor2.CBORError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise MisuseError(f"not CBOR ({type(error).__name__})") from None
    if stream.read(1):
        raise MisuseError("bytes left over after the CBOR")
    return value


def _key_of_claims(claims: Any) -> bytes:
    confirmation = claims.get(_CNF) if isinstance(claims, Mapping) else None
    key = confirmation.get(_COSE_KEY) if isinstance(confirmation, Mapping) else None
    if not isinstance(key, Mapping):
        raise MisuseError("no cnf claim with a COSE_Key")
    kind, curve, x, y = key.get(_KTY), key.get(_CRV), key.get(_X), key.get(_Y)
    if kind == _OKP and curve == _CURVE_ED25519 and isinstance(x, bytes):
        return x
    if kind == _EC2 and isinstance(curve, int) and curve in _EC2_CURVES and isinstance(x, bytes):
        size = (_EC2_CURVES[curve].key_size + 7) // 8
        if isinstance(y, bytes) and len(x) == len(y) == size:
            return b"\x04" + x + y
        if isinstance(y, bool):  # only the sign of y (RFC 9053 §7.1.1)
            return _decompressed(_EC2_CURVES[curve], (b"\x03" if y else b"\x02") + x)
    raise MisuseError("a COSE_Key of another type or curve")


def _decompressed(curve: ec.EllipticCurve, point: bytes) -> bytes:
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    except ValueError:
        raise MisuseError("a COSE_Key that is no point of its curve") from None
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def claims_set(public_key: PublicKey, algorithm: SignatureAlgorithm, subject: str | None = None) -> Credential:
    """A new CCS that holds this key, with the COSE number of its algorithm, and says whose it is."""
    data = public_key.data
    key: dict[int, Any]
    if len(data) == 32:
        key = {_KTY: _OKP, _KTY_ALG: algorithm.number, _CRV: _CURVE_ED25519, _X: data}
    else:
        size = len(data) // 2
        curve = next(number for number, curve in _EC2_CURVES.items() if (curve.key_size + 7) // 8 == size)
        key = {_KTY: _EC2, _KTY_ALG: algorithm.number, _CRV: curve, _X: data[1 : 1 + size], _Y: data[1 + size :]}
    claims = ({} if subject is None else {_SUB: subject}) | {_CNF: {_COSE_KEY: key}}
    return Credential(CredentialKind.CCS, cbor2.dumps(claims))


def _untagged(value: Any) -> Any:
    while isinstance(value, cbor2.CBORTag):
        value = value.value
    return value


def _from_ccs(data: bytes) -> bytes:
    return _key_of_claims(_untagged(_decode_all(data)))


def _from_cwt(data: bytes) -> bytes:
    return _from_ccs(_claims_of_cwt(data))


def _claims_of_cwt(data: bytes) -> bytes:
    value = _decode_all(data)
    for tag in (_CWT_TAG, _COSE_SIGN1_TAG):
        if isinstance(value, cbor2.CBORTag) and value.tag == tag:
            value = value.value
    if not isinstance(value, (list, tuple)) or len(value) != 4 or not isinstance(value[2], bytes):
        raise MisuseError("not a COSE_Sign1")
    claims: bytes = value[2]
    return claims


def _from_x509(data: bytes) -> bytes:
    try:
        key = x509.load_der_x509_certificate(data).public_key()
    except Exception as error:
        # The parser's errors are many (ValueError, UnsupportedAlgorithm, its own): all mean "no usable key".
        raise MisuseError(f"not a certificate ({type(error).__name__})") from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    raise MisuseError("a certificate with a key of another type")


_EXTRACT: dict[CredentialKind, Callable[[bytes], bytes]] = {
    CredentialKind.RAW_KEY: bytes,
    CredentialKind.CCS: _from_ccs,
    CredentialKind.CWT: _from_cwt,
    CredentialKind.X509: _from_x509,
}


def _validity_of_claims(data: bytes) -> tuple[float | None, float | None]:
    claims = _untagged(_decode_all(data))
    if not isinstance(claims, Mapping):
        raise MisuseError("not a CWT Claims Set")
    return _numeric_date(claims.get(_NBF)), _numeric_date(claims.get(_EXP))


def _numeric_date(value: Any) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise MisuseError("a date that is no number")


def _validity_of_x509(data: bytes) -> tuple[float | None, float | None]:
    try:
        certificate = x509.load_der_x509_certificate(data)
        return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    except Exception as error:  # as many as in _from_x509
        raise MisuseError(f"not a certificate ({type(error).__name__})") from None


_VALIDITY: dict[CredentialKind, Callable[[bytes], tuple[float | None, float | None]]] = {
    CredentialKind.RAW_KEY: lambda data: (None, None),
    CredentialKind.CCS: _validity_of_claims,
    CredentialKind.CWT: lambda data: _validity_of_claims(_claims_of_cwt(data)),
    CredentialKind.X509: _validity_of_x509,
}
