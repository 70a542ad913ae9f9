"""Identity files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from groupcoap.cose.keys import SIGNATURE_ALGORITHMS, SignatureAlgorithm
from groupcoap.errors import FileFault
from groupcoap.files.identity import generate_identity, load_identity, save_identity


@pytest.mark.parametrize("algorithm", SIGNATURE_ALGORITHMS.values(), ids=lambda a: a.name)
def test_round_trip(tmp_path: Path, algorithm: SignatureAlgorithm) -> None:
    identity = generate_identity("lamp-1", algorithm)
    path = tmp_path / "identity.json"
    save_identity(path, identity)
    loaded = load_identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (loaded.name, loaded.signature, loaded.credential) == ("lamp-1", algorithm, identity.credential)
    assert loaded.private_key.secret.reveal() == identity.private_key.secret.reveal()
    assert identity.private_key.secret.reveal().hex() not in repr(loaded)


def test_a_private_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    save_identity(path, generate_identity("a"))
    with pytest.raises(FileFault, match="exists already"):
        save_identity(path, generate_identity("b"))
    assert load_identity(path).name == "a"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": ""}, "name: must be a text"),
        ({"signature": -6}, "signature: signature algorithm -6 is not supported"),
        ({"signature": "EdDSA"}, "signature: must be a whole number"),
        ({"private_key": "00" * 31}, "private_key: must have 32 to 32 bytes, not 31"),
        ({"private_key": "00" * 32}, "the credential does not belong to the private key"),
        ({"credential": {"kind": "raw"}}, "credential: 'data' is missing"),
        ({"credential": {"kind": "pgp", "data": "00"}}, "credential.kind: must be one of"),
        ({"credential": {"kind": "raw", "data": "00"}}, "credential: raw credential without a key"),
        ({"credential": {"kind": "ccs", "data": "a0"}}, "credential: ccs credential without a key"),
        ({"extra": 1}, "'extra' is not known"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    path = tmp_path / "identity.json"
    save_identity(path, generate_identity("a"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FileFault) as caught:
        load_identity(path)
    assert caught.value.problem.startswith(problem)
