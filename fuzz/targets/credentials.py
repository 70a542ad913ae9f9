"""Credentials and keys (cose/credentials.py, cose/keys.py)."""

from __future__ import annotations

from contextlib import suppress

from groupcoap.cose.credentials import Credential, CredentialKind
from groupcoap.cose.keys import SIGNATURE_ALGORITHMS
from groupcoap.errors import MisuseError
from groupcoap.secret import Secret

from ..choices import Choices

_ALGORITHMS = tuple(SIGNATURE_ALGORITHMS.values())
_KINDS = tuple(CredentialKind)


def check(data: bytes) -> None:
    """`MisuseError`, or a key that verifies without complaint: what another key has signed it refuses, what its
    own private key has signed it takes."""
    choices = Choices(data)
    algorithm, kind = choices.one_of(_ALGORITHMS), choices.one_of(_KINDS)
    content = choices.rest()
    with suppress(MisuseError):
        assert all(time is None or isinstance(time, int | float) for time in Credential(kind, content).validity)
    try:
        key = Credential(kind, content).public_key(algorithm)
    except MisuseError:
        pass
    else:
        assert algorithm.public_key(key.data).data == key.data
        assert not key.verify(content, b"message")
    try:
        private = algorithm.private_key(Secret(content[:32]))
    except MisuseError:
        return
    signature = private.sign(content)
    assert len(signature) == algorithm.signature_length
    assert private.public_key.verify(signature, content)
