"""Identity files (files/identity.py, files/documents.py)."""

from __future__ import annotations

from functools import cache
from typing import Any

from groupcoap.cose.credentials import claims_set
from groupcoap.cose.keys import SIGNATURE_ALGORITHMS
from groupcoap.errors import FileFault
from groupcoap.files.identity import credential_json, load_identity, save_identity
from groupcoap.secret import Secret

from ..choices import Choices
from ..documents import choose_document, directory, written


def check(data: bytes) -> None:
    """`FileFault`, or an identity that is the same when it has been written and read again."""
    choices = Choices(data)
    good = choices.one_of(_good_ones())
    path = written(directory("identity") / "identity.json", choose_document(choices, good))
    try:
        identity = load_identity(path)
    except FileFault:
        return
    again = directory("identity") / "again.json"
    again.unlink(missing_ok=True)
    save_identity(again, identity)
    read = load_identity(again)
    assert (read.name, read.signature, read.credential) == (identity.name, identity.signature, identity.credential)
    assert read.private_key.secret.reveal() == identity.private_key.secret.reveal()


@cache
def _good_ones() -> tuple[dict[str, Any], ...]:
    found = []
    for algorithm in SIGNATURE_ALGORITHMS.values():
        key = algorithm.private_key(Secret(b"\x11" * algorithm.key_length))
        raw = {"kind": "raw", "data": key.public_key.data.hex()}
        document = {
            "format": "groupcoap-identity",
            "version": 1,
            "name": "lamp-1",
            "signature": algorithm.number,
            "private_key": key.secret.reveal().hex(),
            "credential": raw,
        }
        found.append(document)
        claims = claims_set(key.public_key, algorithm, "lamp-1")
        found.append({**document, "credential": credential_json(claims)})
    return tuple(found)
