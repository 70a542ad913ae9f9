"""The file of a signature checker: what §12.3 lists and nothing to read with, and every complaint about it."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import SecurityContext, SenderContext
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.requests import protect_request
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.cose.algorithms import DEFAULT_AEAD, encryption_algorithm, key_agreement
from groupcoap.errors import FileFault, MisuseError
from groupcoap.files.checker import CheckedGroup, checked_group, load_checker, save_checker
from groupcoap.files.identity import generate_identity
from groupcoap.membership import Epoch, GroupConfiguration, Member, Role
from groupcoap.secret import Secret

from .samples import GID, SECRET, configuration

SWITCH, LAMP, MANAGER = (generate_identity(name, claims=True) for name in ("switch-1", "lamp-1", "manager"))
MEMBERS = (
    Member(b"\x00", "switch-1", frozenset({Role.MULTICASTER}), SWITCH.credential),
    Member(b"\x01", "lamp-1", frozenset({Role.LISTENER}), LAMP.credential),
)


def group(**changes: Any) -> GroupConfiguration:
    """A lamp's view of a group that has it all."""
    epoch = Epoch(
        GID, Secret(SECRET), b"\x01", LAMP.private_key, MEMBERS, master_salt=b"salt", credential=LAMP.credential
    )
    given = {
        "profile": GROUP_OSCORE,
        "epochs": (epoch,),
        "policy": GroupPolicy(),
        "aead": DEFAULT_AEAD,
        "group_encryption": encryption_algorithm(-65534),
        "key_agreement": key_agreement(-27),
        "sign_protected": False,
        "manager_credential": MANAGER.credential,
    }
    return replace(configuration(), **{**given, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gate.json"


@pytest.fixture
def saved(path: Path) -> CheckedGroup:
    checked = checked_group(group())
    save_checker(path, checked)
    return checked


def test_what_is_written_is_read_again(path: Path, saved: CheckedGroup) -> None:
    read = load_checker(path)
    assert read.signature_encryption_key.reveal() == saved.signature_encryption_key.reveal()
    assert replace(read, signature_encryption_key=saved.signature_encryption_key) == saved
    assert (read.name, read.gid, read.addresses) == ("room", GID, group().addresses)
    assert [(member.endpoint_id, member.name, member.credential) for member in read.members] == [
        (member.endpoint_id, member.name, member.credential) for member in MEMBERS
    ]
    assert not any(member.roles for member in read.members)
    assert read.parameters == group().parameters


def test_it_verifies_what_a_member_has_protected(path: Path, saved: CheckedGroup) -> None:
    config = group()
    common = config.common_context(config.current)
    sender = SenderContext(common, b"\x00", SWITCH.private_key, SequenceNumbers(5), SWITCH.credential.authenticated)
    context = SecurityContext("room", common, sender, {})
    message = Message(coap.NON, coap.GET, 1, b"t", (), b"on")
    protected = protect_request(context, sender, message).message
    assert load_checker(path).checker().check_request(protected).sender_id == b"\x00"


def test_there_is_nothing_in_it_to_read_with(path: Path, saved: CheckedGroup) -> None:
    config = group()
    common = config.common_context(config.current)
    text = path.read_text()
    keys = [GROUP_OSCORE.derive_key(common, member.endpoint_id) for member in MEMBERS]
    for secret in (common.master_secret, LAMP.private_key.secret, *keys):
        assert secret.reveal().hex() not in text
    assert b"salt".hex() not in text
    assert common.common_iv.hex() not in text
    assert set(json.loads(text)) == {
        "format",
        "version",
        "group",
        "profile",
        "aead",
        "group_encryption",
        "kdf",
        "signature",
        "key_agreement",
        "sign_protected",
        "manager_credential",
        "addresses",
        "gid",
        "signature_encryption_key",
        "members",
    }
    assert saved.signature_encryption_key.reveal().hex() in text  # this search finds what there is


def test_it_is_private_and_never_overwritten(path: Path, saved: CheckedGroup) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(FileFault, match="exists already"):
        save_checker(path, saved)
    assert path.read_bytes() == before
    path.chmod(0o640)
    with pytest.raises(FileFault, match="open to others; run: chmod 600"):
        load_checker(path)


def test_an_endpoint_that_its_own_group_does_not_list_is_there(path: Path) -> None:
    config = group()
    epoch = replace(config.current, members=MEMBERS[:1])
    checked = checked_group(replace(config, epochs=(epoch,)))
    assert {member.endpoint_id: member.credential for member in checked.members} == {
        b"\x00": SWITCH.credential,
        b"\x01": LAMP.credential,
    }


def test_the_current_epoch_is_the_one(path: Path) -> None:
    config = group()
    newer = replace(config.current, gid=GID[:-1] + b"\x0b", master_secret=Secret(bytes(16)))
    checked = checked_group(replace(config, epochs=(config.current, newer)))
    assert checked.gid == newer.gid
    assert checked.signature_encryption_key.reveal() != checked_group(config).signature_encryption_key.reveal()


def test_the_drafts_profile_has_no_use_for_one() -> None:
    with pytest.raises(MisuseError, match="countersignatures travel in clear"):
        checked_group(configuration())


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(format="groupcoap-group"), "is not a groupcoap-checker file"),
        (lambda d: d.update(version=2), "is of version 2, newer"),
        (
            lambda d: d.update(profile="multicast-oscore-04"),
            "group_encryption: is nothing that multicast-oscore-04",
        ),
        (lambda d: d.update(master_secret="00" * 16), "'master_secret' is not known"),
        (lambda d: d.pop("gid"), "'gid' is missing"),
        (lambda d: d.update(gid=""), "gid: must have 1 to 255 bytes"),
        (lambda d: d.update(group_encryption=4711), "group_encryption: "),
        (lambda d: d.update(signature_encryption_key="00"), "a Signature Encryption Key has 16 bytes with A128CTR"),
        (lambda d: d.update(signature_encryption_key="0x"), "signature_encryption_key: must be bytes"),
        (lambda d: d.pop("manager_credential"), "needs a 'manager_credential'"),
        (lambda d: d.update(members=[]), "members: must be a list of at least 1"),
        (lambda d: d["members"].append(d["members"][0]), "members[2]: Endpoint ID '00' stands here twice"),
        (lambda d: d["members"][0].update(roles=[]), "members[0]: 'roles' is not known"),
        (
            lambda d: d["members"][0].update(
                credential={"kind": "raw", "data": SWITCH.private_key.public_key.data.hex()}
            ),
            "members[0].credential: ",
        ),
        (lambda d: d["members"][0]["credential"].update(data="a0"), "members[0].credential: "),
        (lambda d: d.update(addresses=["127.0.0.1"]), "addresses[0]: 127.0.0.1 is not a multicast address"),
    ],
)
def test_what_is_wrong_is_said(path: Path, saved: CheckedGroup, change: Change, problem: str) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(FileFault) as caught:
        load_checker(path)
    assert caught.value.path == path
    assert problem in caught.value.problem
    assert "\n" not in str(caught.value)


def test_a_draft_file_without_what_that_does_not_have(path: Path, saved: CheckedGroup) -> None:
    document = json.loads(path.read_text())
    for name in ("group_encryption", "key_agreement", "sign_protected"):
        del document[name]
    path.write_text(json.dumps({**document, "profile": "multicast-oscore-04"}))
    with pytest.raises(FileFault, match="profile: has no signature checkers"):
        load_checker(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format": "groupcoap-checker"'])
def test_what_is_no_such_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(FileFault):
        load_checker(path)


def test_a_missing_file_says_how_to_make_one(path: Path) -> None:
    with pytest.raises(FileFault, match="does not exist; check the path; groupcoap checker makes one"):
        load_checker(path)
