"""`groupcoap keygen`."""

from __future__ import annotations

from pathlib import Path

import cbor2
import pytest

from groupcoap.cli import main
from groupcoap.cose.credentials import CredentialKind
from groupcoap.files.identity import load_identity


@pytest.mark.parametrize(("algorithm", "number"), [("eddsa", -8), ("es256", -7), ("es384", -35)])
def test_an_identity_is_made_and_its_public_key_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str, number: int
) -> None:
    path = tmp_path / "lamp.json"
    assert main(["keygen", str(path), "--name", "Kitchen lamp", "--algorithm", algorithm]) == 0
    identity = load_identity(path)
    assert (identity.name, identity.signature.number) == ("Kitchen lamp", number)
    out = capsys.readouterr().out
    assert identity.private_key.public_key.data.hex() in out
    assert identity.private_key.secret.reveal().hex() not in out


@pytest.mark.parametrize("algorithm", ["eddsa", "es256", "es384"])
def test_with_a_claims_set_that_says_whose_the_key_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    path = tmp_path / "lamp.json"
    options = ("--name", "Kitchen lamp", "--algorithm", algorithm, "--credential", "ccs")
    assert main(["keygen", str(path), *options]) == 0
    identity = load_identity(path)
    assert identity.credential.kind is CredentialKind.CCS
    assert cbor2.loads(identity.credential.data)[2] == "Kitchen lamp"
    assert identity.credential.public_key(identity.signature).data == identity.private_key.public_key.data
    assert f"credential  ccs {identity.credential.data.hex()}\n" in capsys.readouterr().out


def test_the_credential_is_the_raw_key_unless_said_otherwise(tmp_path: Path) -> None:
    for options in ((), ("--credential", "raw")):
        path = tmp_path / f"{len(options)}.json"
        assert main(["keygen", str(path), "--name", "a", *options]) == 0
        assert load_identity(path).credential.kind is CredentialKind.RAW_KEY
    assert main(["keygen", str(tmp_path / "x.json"), "--credential", "x509"]) == 2


def test_the_name_is_the_directorys(tmp_path: Path) -> None:
    (tmp_path / "lamp-7").mkdir()
    assert main(["keygen", str(tmp_path / "lamp-7" / "identity.json")]) == 0
    assert load_identity(tmp_path / "lamp-7" / "identity.json").name == "lamp-7"


def test_a_private_key_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lamp.json"
    assert main(["keygen", str(path), "--name", "a"]) == 0
    before = path.read_bytes()
    assert main(["keygen", str(path), "--name", "b"]) == 3
    assert path.read_bytes() == before
    assert (
        capsys.readouterr().err
        == f"groupcoap: {path}: exists already and is not overwritten; choose another name\n"
    )


def test_a_name_that_files_would_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", str(tmp_path / "x.json"), "--name", "a\nb"]) == 2
    assert "is no name for a device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
