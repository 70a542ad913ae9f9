"""Credentials and keys (cose/credentials.py, cose/keys.py)."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from io import BytesIO

import cbor2

from groupcoap.cose.credentials import Credential, CredentialKind, claims_set
from groupcoap.cose.keys import SIGNATURE_ALGORITHMS, PrivateKey, SignatureAlgorithm
from groupcoap.errors import MisuseError
from groupcoap.secret import Secret

from ..choices import Choices

_ALGORITHMS = tuple(SIGNATURE_ALGORITHMS.values())
_KINDS = tuple(CredentialKind)


def check(data: bytes) -> None:
    """`MisuseError`, or a key that verifies without complaint: what another key has signed it refuses, what its
    own private key has signed it takes. Two keys that can agree on a secret agree on the same. What stands for a
    credential in the AAD is the end of its bytes and the same credential, without a tag."""
    choices = Choices(data)
    algorithm, kind = choices.one_of(_ALGORITHMS), choices.one_of(_KINDS)
    content = choices.rest()
    credential = Credential(kind, content)
    with suppress(MisuseError):
        assert all(time is None or isinstance(time, int | float) for time in credential.validity)
    try:
        key = credential.public_key(algorithm)
    except MisuseError:
        _check_authenticated(credential)
    else:
        assert algorithm.public_key(key.data).data == key.data
        assert not key.verify(content, b"message")
        _check_authenticated(credential, key.data, algorithm)
        with suppress(MisuseError):
            assert len(_private_key(algorithm).agree(key)) in (32, 48)
    try:
        private = algorithm.private_key(Secret(content[: algorithm.key_length]))
    except MisuseError:
        return
    signature = private.sign(content)
    assert len(signature) == algorithm.signature_length
    assert private.public_key.verify(signature, content)
    other = _private_key(algorithm)
    assert private.agree(other.public_key).reveal() == other.agree(private.public_key).reveal()
    made = claims_set(private.public_key, algorithm, content.hex())
    assert made.public_key(algorithm).data == private.public_key.data
    assert made.authenticated == made.data


def _check_authenticated(
    credential: Credential, key: bytes | None = None, algorithm: SignatureAlgorithm | None = None
) -> None:
    """`key`: the credential is whole, and has this key in it."""
    try:
        authenticated = credential.authenticated
    except MisuseError:
        assert key is None or credential.kind is CredentialKind.RAW_KEY
        return
    assert credential.data.endswith(authenticated)
    if credential.kind is CredentialKind.X509:
        assert authenticated == credential.data
        return
    assert authenticated[0] >> 5 != 6
    bare = Credential(credential.kind, authenticated)
    assert bare.authenticated == authenticated
    if key is not None and algorithm is not None:
        assert bare.public_key(algorithm).data == key
        assert not isinstance(cbor2.load(BytesIO(authenticated)), cbor2.CBORTag)


@cache
def _private_key(algorithm: SignatureAlgorithm) -> PrivateKey:
    return algorithm.private_key(Secret(b"\x11" * algorithm.key_length))
