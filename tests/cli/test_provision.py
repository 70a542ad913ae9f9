"""`groupcoap provision`: all files or none, and files that fit together."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from groupcoap.cli import main
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.cose.credentials import Credential, CredentialKind, claims_set
from groupcoap.errors import FileFault
from groupcoap.files import provisioning
from groupcoap.files.identity import DeviceIdentity, generate_identity, load_identity, save_identity
from groupcoap.files.provisioned import load_member, state_keys
from groupcoap.files.state import EndpointState
from groupcoap.membership import GroupConfiguration, Role


def provisioned(directory: Path, *arguments: str) -> int:
    return main(["provision", str(directory), *arguments])


def tree(directory: Path) -> dict[str, bytes]:
    """Every file and its content, lock files apart."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b""
        for path in directory.rglob("*")
        if path.suffix != ".lock"
    }


def group(directory: Path, device: str, name: str = "room") -> GroupConfiguration:
    return load_member(directory / device / f"{name}.group.json").groups[0]


def test_the_files_of_a_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert provisioned(home, "--switches", "1", "--lamps", "3", "--pure-listeners", "1") == 0
    assert sorted(os.listdir(home)) == ["lamp-1", "lamp-2", "lamp-3", "panel-1", "switch-1"]
    assert sorted(os.listdir(home / "lamp-1")) == ["identity.json", "room.group.json", "state.journal"]
    assert sorted(os.listdir(home / "panel-1")) == ["room.group.json", "state.journal"]
    configurations = [group(home, device) for device in sorted(os.listdir(home))]
    assert len({c.current.gid for c in configurations}) == 1
    assert len({c.current.master_secret.reveal() for c in configurations}) == 1
    assert len({c.current.members for c in configurations}) == 1
    assert configurations[0].current.gid[8:] == bytes(4)
    assert [c.current.own_id for c in configurations] == [b"\x01", b"\x02", b"\x03", None, b"\x00"]
    for path in home.rglob("*"):
        assert path.is_dir() or path.stat().st_mode & 0o777 == 0o600
    out = capsys.readouterr().out
    for text in (
        "switch-1",
        "multicaster",
        "pure listener",
        f"groupcoap listen {home}/lamp-1",
        "groupcoap send get",
    ):
        assert text in out


def test_no_secret_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert provisioned(tmp_path / "home") == 0
    captured = capsys.readouterr()
    secrets = [group(tmp_path / "home", "lamp-1").current.master_secret]
    for device in os.listdir(tmp_path / "home"):
        secrets.append(load_identity(tmp_path / "home" / device / "identity.json").private_key.secret)
    assert len(secrets) == 5
    for secret in secrets:
        assert secret.reveal().hex() not in captured.out + captured.err


def test_the_state_is_ready(tmp_path: Path) -> None:
    assert provisioned(tmp_path / "home") == 0
    files = load_member(tmp_path / "home" / "switch-1")
    (key,) = state_keys(files.groups[0])
    assert key.own_id is not None
    with EndpointState.open(files.state) as state:
        assert state.stopped_cleanly
        assert state.sequence_numbers(key.group, key.gid, key.own_id).take() == 0


def test_every_choice_reaches_the_files(tmp_path: Path) -> None:
    names = (
        "--group corridor --address 224.0.1.188:61616 --address ff05::fd --device hub=both --device bulb=listener"
    )
    choices = "--sync baseline --aead a128gcm --kdf sha512 --signature es256 --verification defer"
    assert provisioned(tmp_path / "home", *names.split(), *choices.split()) == 0
    configuration = group(tmp_path / "home", "hub", "corridor")
    assert configuration.roles == {Role.MULTICASTER, Role.LISTENER}
    assert [str(address) for address in configuration.addresses] == ["224.0.1.188:61616", "[ff05::fd]"]
    assert configuration.policy.synchronization.method.value == "baseline"
    assert configuration.policy.verification.value == "defer"
    assert configuration.aead is not None
    assert (configuration.aead.number, configuration.kdf.value, configuration.signature.number) == (1, "sha512", -7)


def test_an_identity_from_keygen_keeps_its_key(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    assert main(["keygen", str(key), "--name", "hall-lamp"]) == 0
    assert provisioned(tmp_path / "home", "--switches", "1", "--identity", f"{key}=listener") == 0
    identity = load_identity(key)
    assert load_identity(tmp_path / "home" / "hall-lamp" / "identity.json").credential == identity.credential
    content = (tmp_path / "home" / "switch-1" / "room.group.json").read_text()
    assert identity.credential.data.hex() in content
    assert identity.private_key.secret.reveal().hex() not in content


def test_a_second_group_of_the_same_devices(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert provisioned(home) == 0
    joining = ["--join", "switch-1=multicaster", "--join", "lamp-2=both", "--lamps", "1"]
    assert provisioned(home, "--group", "all", "--address", "224.0.1.188", *joining) == 0
    assert [c.name for c in load_member(home / "lamp-2").groups] == ["all", "room"]
    assert [c.name for c in load_member(home / "lamp-1").groups] == ["room"]
    assert [c.name for c in load_member(home / "lamp-4").groups] == ["all"]
    files = load_member(home / "lamp-2")
    with EndpointState.open(files.state) as state:
        for configuration in files.groups:
            for key in state_keys(configuration):
                assert key.own_id is not None
                assert state.sequence_numbers(key.group, key.gid, key.own_id).take() == 0


JOINING = ("--join", "switch-1=multicaster", "--join", "lamp-1=listener")


def test_a_group_that_devices_join_has_the_profile_that_they_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert provisioned(home, "--profile", "group-oscore") == 0
    assert provisioned(home, "--group", "all", *JOINING) == 0
    assert group(home, "lamp-1", "all").profile is GROUP_OSCORE
    assert provisioned(home, "--group", "old", "--profile", "multicast-oscore-04", *JOINING) == 0
    assert group(home, "lamp-1", "old").profile is MULTICAST_OSCORE_04
    before = tree(home)
    assert provisioned(home, "--group", "new", *JOINING) == 2
    assert "are in groups of group-oscore and multicast-oscore-04; say which with --profile" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert tree(home) == before


def test_a_directory_that_is_there_and_empty(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    inode = home.stat().st_ino
    assert provisioned(home) == 0
    assert home.stat().st_ino == inode


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        ("", 3, "is not empty"),
        ("--group room --join switch-1=multicaster --join lamp-1=listener", 3, "is in a group 'room' already"),
        ("--group all --join switch-1=multicaster --join lamp-9=listener", 3, "does not exist"),
        ("--group all --join switch-1=multicaster --device lamp-1=listener", 3, "exists already"),
        ("--group all --join switch-1=multicaster --join switch-1=listener", 2, "two devices are called"),
        ("--group all --join switch-1=multicaster", 2, "nobody in this group would listen"),
        ("--group all --join lamp-1=listener", 2, "nobody in this group could send"),
        ("--group ../all --join switch-1=both", 2, "cannot be a group's name"),
        ("--group all --join switch-1=both --device .x=listener", 2, "cannot be a device's name"),
        ("--group all --join switch-1=both --signature es256", 2, "has a key for EdDSA"),
        ("--group all --join switch-1=boss", 2, "roles: multicaster"),
        ("--group all --join switch-1=both --address 10.0.0.1", 2, "not a multicast address"),
        ("--group all --join switch-1=both --lamps 20000", 2, "at most 10000"),
        (
            "--group all --join switch-1=both --lamps 256 --aead AES-CCM-64-64-128",
            2,
            "an Endpoint ID has at most 1",
        ),
        ("--group all --join switch-1=both --identity KEY=pure-listener", 2, "needs no identity"),
        ("--group all --join switch-1=both --identity KEY=listener", 2, "have the same key"),
        ("--group all --join switch-1=both --identity none=listener", 3, "does not exist"),
    ],
)
def test_what_is_refused_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, problem: str
) -> None:
    home = tmp_path / "home"
    assert provisioned(home) == 0
    key = tmp_path / "copy.json"
    key.write_bytes((home / "switch-1" / "identity.json").read_bytes().replace(b"switch-1", b"thief"))
    key.chmod(0o600)
    before = tree(tmp_path)
    capsys.readouterr()
    assert provisioned(home, *arguments.replace("KEY", str(key)).split()) == code
    captured = capsys.readouterr()
    assert problem in captured.err
    assert captured.err.count("\n") == 1
    assert tree(tmp_path) == before


def test_a_running_device_cannot_join(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert provisioned(home) == 0
    before = tree(home)
    with EndpointState.open(home / "lamp-1" / "state.journal"):
        assert (
            provisioned(home, "--group", "all", "--join", "switch-1=multicaster", "--join", "lamp-1=listener") == 4
        )
    after = tree(home)
    assert after.keys() == before.keys()
    assert [c.name for c in load_member(home / "switch-1").groups] == ["room"]
    assert provisioned(home, "--group", "all", "--join", "switch-1=multicaster", "--join", "lamp-1=listener") == 0


@pytest.mark.parametrize(
    ("profile", "failing"),
    [*(("multicast-oscore-04", n) for n in range(8)), *(("group-oscore", n) for n in range(10))],
)
def test_nothing_is_left_behind_wherever_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, failing: int
) -> None:
    """Each write in turn fails: of two new devices with three files each, of the group file of an old one, and of
    the identity of the group's manager."""
    home = tmp_path / "home"
    assert provisioned(home) == 0
    before = {name: content for name, content in tree(home).items() if "state" not in name}
    calls = 0

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                raise FileFault("x", "no space left")
            return original(*arguments, **options)

        return call

    for name in ("save_group", "save_identity", "sync_directory"):
        monkeypatch.setattr(provisioning, name, counting(getattr(provisioning, name)))
    monkeypatch.setattr(EndpointState, "create", staticmethod(counting(EndpointState.create)))
    devices = ("--switches", "1", "--lamps", "1", "--join", "lamp-1=listener")
    code = provisioned(home, "--group", "all", "--profile", profile, *devices)
    assert code == 3, "the number of writes has changed"
    assert {name: content for name, content in tree(home).items() if "state" not in name} == before
    assert len(EndpointState.open(home / "lamp-1" / "state.journal").keys) == 1


def test_a_new_directory_is_removed_again(tmp_path: Path) -> None:
    assert provisioned(tmp_path / "home", "--device", "a=both", "--identity", f"{tmp_path / 'none'}=listener") == 3
    assert provisioned(tmp_path / "none" / "home") == 3
    assert os.listdir(tmp_path) == []


def test_a_new_directory_is_removed_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(provisioning, "save_group", fail)
    assert provisioned(tmp_path / "home") == 3
    assert os.listdir(tmp_path) == []


def test_long_endpoint_ids_when_short_ones_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    assert provisioned(tmp_path / "home", "--switches", "1", "--lamps", "256") == 0
    assert group(tmp_path / "home", "lamp-256").current.own_id == b"\x01\x00"


def test_what_an_interrupted_one_has_left_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    (home / ".provisioning-0123456789ab").mkdir(parents=True)
    assert provisioned(home) == 3
    assert f"rm -r {home}/.provisioning-0123456789ab" in capsys.readouterr().err


# ---- Group OSCORE

MODERN = ("--profile", "group-oscore")


def kinds(configuration: GroupConfiguration) -> set[CredentialKind]:
    return {member.credential.kind for member in configuration.current.members}


def test_a_group_of_todays_standard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert provisioned(home, *MODERN, "--switches", "1", "--lamps", "2", "--pure-listeners", "1") == 0
    assert sorted(os.listdir(home)) == ["lamp-1", "lamp-2", "panel-1", "room.manager.json", "switch-1"]
    assert (home / "room.manager.json").stat().st_mode & 0o777 == 0o600
    manager = load_identity(home / "room.manager.json")
    devices = ("lamp-1", "lamp-2", "panel-1", "switch-1")
    configurations = [group(home, device) for device in devices]
    assert {c.profile for c in configurations} == {GROUP_OSCORE}
    assert {c.manager_credential for c in configurations} == {manager.credential}
    assert manager.credential.kind is CredentialKind.CCS
    assert len({c.current.master_salt for c in configurations}) == 1
    assert len(configurations[0].current.master_salt) == 8
    assert all(kinds(c) == {CredentialKind.CCS} for c in configurations)
    assert all(c.common_context(c.current).pairwise for c in configurations)
    for device in ("lamp-1", "lamp-2", "switch-1"):  # what others know a device by is what it has itself
        own = load_identity(home / device / "identity.json").credential
        assert own in {member.credential for member in configurations[0].current.members}
        assert group(home, device).current.credential == own
    secret = manager.private_key.secret.reveal().hex()
    captured = capsys.readouterr()
    assert secret not in captured.out + captured.err
    assert not [path for path in home.glob("*/*") if secret in path.read_text()]
    for text in (
        "group-oscore: AES-CCM-16-64-128, HKDF-SHA256, EdDSA (Ed25519), pairwise mode with AES-CCM-16-64-128 and "
        "ECDH-SS + HKDF-256",
        f"the group's manager: {home}/room.manager.json (keep it; no device needs it)",
    ):
        assert text in captured.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "10 10 sha256 -8 -27 None True"),
        ("--no-pairwise", "None 10 sha256 -8 None None True"),
        ("--pairwise --kdf sha512", "10 10 sha512 -8 -28 None True"),
        ("--kdf sha384 --no-pairwise --signature es384", "None 10 sha384 -35 None None True"),
        ("--group-encryption A128CTR", "10 -65534 sha256 -8 -27 None True"),
        ("--group-encryption a256ctr --no-pairwise", "None -65532 sha256 -8 None None True"),
        ("--group-encryption chacha20/poly1305 --aead a128gcm", "1 24 sha256 -8 -27 None True"),
        ("--aead a256gcm --no-pairwise", "None 3 sha256 -8 None None True"),
        ("--signature es384 --responses pairwise", "10 10 sha256 -35 -27 pairwise True"),
        ("--signature es256 --responses group", "10 10 sha256 -7 -27 group True"),
        ("--countersignature rfc9338 --responses as-requested", "10 10 sha256 -8 -27 None False"),
    ],
)
def test_every_choice_of_todays_standard_reaches_the_files(tmp_path: Path, arguments: str, expected: str) -> None:
    assert provisioned(tmp_path / "home", *MODERN, *arguments.split()) == 0
    for device in ("switch-1", "lamp-3"):
        c = group(tmp_path / "home", device)
        assert c.group_encryption is not None
        found = (
            c.aead and c.aead.number,
            c.group_encryption.number,
            c.kdf.value,
            c.signature.number,
            c.key_agreement and c.key_agreement.number,
            c.policy.response_mode and c.policy.response_mode.value,
            c.sign_protected,
        )
        assert " ".join(map(str, found)) == expected
        assert load_identity(tmp_path / "home" / device / "identity.json").signature == c.signature


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--pairwise", "--pairwise goes with --profile group-oscore"),
        ("--no-pairwise", "--no-pairwise goes with --profile group-oscore"),
        ("--group-encryption A128CTR", "--group-encryption goes with --profile group-oscore"),
        ("--responses group", "--responses goes with --profile group-oscore"),
        ("--countersignature deployed", "--countersignature goes with --profile group-oscore"),
        ("--manager key.json", "--manager goes with --profile group-oscore"),
        ("--signature es384", "multicast-oscore-04 has no --signature es384; --profile group-oscore has"),
        ("--kdf sha384", "multicast-oscore-04 has no --kdf sha384; --profile group-oscore has"),
        ("--profile group-oscore --kdf sha384", "say --no-pairwise, or choose another"),
        ("--profile group-oscore --kdf sha384 --pairwise", "--pairwise does not go with --kdf sha384"),
        ("--profile group-oscore --verification skip", "has its countersignatures always verified"),
        ("--profile group-oscore --verification defer", "has its countersignatures always verified"),
        ("--profile group-oscore --no-pairwise --responses pairwise", "does not go with --no-pairwise"),
        (
            "--profile group-oscore --no-pairwise --aead a128gcm --group-encryption a128ctr",
            "--aead is for the pairwise mode",
        ),
        ("--profile group-oscore --aead a128ctr", "--aead"),
        ("--profile oscore", "--profile"),
        ("--profile group-oscore --manager none", "none: does not exist"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, problem: str
) -> None:
    assert provisioned(tmp_path / "home", *arguments.split()) in (2, 3)
    err = capsys.readouterr().err
    assert problem in err
    assert err.count("\n") == 1
    assert not (tmp_path / "home").exists()


def identity_of(kind: CredentialKind, name: str) -> DeviceIdentity:
    """A new identity with a credential of this kind."""
    made = generate_identity(name, claims=True)
    if kind is CredentialKind.CWT:
        data = cbor2.dumps([b"", {}, made.credential.data, bytes(64)])
    elif kind is CredentialKind.X509:
        data = certificate(made)
    elif kind is CredentialKind.RAW_KEY:
        data = made.private_key.public_key.data
    else:
        data = made.credential.data
    return DeviceIdentity(name, made.signature, made.private_key, Credential(kind, data))


def certificate(identity: DeviceIdentity) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(identity.private_key.secret.reveal())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name)])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=9999))
    return made.sign(key, None).public_bytes(Encoding.DER)


@pytest.mark.parametrize("kind", CredentialKind)
def test_identities_with_every_kind_of_credential(tmp_path: Path, kind: CredentialKind) -> None:
    """They stay as they are; a raw key, which says nothing of its algorithm, is put into a claims set."""
    arguments = []
    for name, role in (("hub", "both"), ("bulb", "listener")):
        save_identity(tmp_path / f"{name}.json", identity_of(kind, name))
        arguments += ["--identity", f"{tmp_path / name}.json={role}"]
    assert provisioned(tmp_path / "home", *MODERN, *arguments) == 0
    made = group(tmp_path / "home", "hub")
    raw = kind is CredentialKind.RAW_KEY
    assert kinds(made) == {CredentialKind.CCS if raw else kind}
    for member in made.current.members:
        own = load_identity(tmp_path / f"{member.name}.json")
        expected = claims_set(own.private_key.public_key, own.signature, member.name) if raw else own.credential
        assert member.credential == expected
        assert load_identity(tmp_path / "home" / member.name / "identity.json").credential == own.credential
        assert group(tmp_path / "home", member.name).current.credential == expected


@pytest.mark.parametrize("kind", [CredentialKind.CWT, CredentialKind.X509])
def test_all_members_have_credentials_of_one_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: CredentialKind
) -> None:
    save_identity(tmp_path / "key.json", identity_of(kind, "bulb"))
    mixed = ("--switches", "1", "--identity", f"{tmp_path / 'key.json'}=listener")
    assert provisioned(tmp_path / "home", *MODERN, *mixed) == 2
    assert capsys.readouterr().err == (
        "groupcoap: all members of a group have credentials of one format, but switch-1 has ccs and bulb has "
        f"{kind.value}; give every device an identity with a credential of the same\n"
    )
    assert not (tmp_path / "home").exists()
    assert provisioned(tmp_path / "home", *mixed) == 0  # the draft binds messages to no credentials


def test_the_same_device_in_groups_of_both_profiles(tmp_path: Path) -> None:
    home = tmp_path / "home"
    joining = ("--join", "switch-1=multicaster", "--join", "lamp-1=listener")
    elsewhere = ("--address", "224.0.1.188")
    assert provisioned(home) == 0
    assert provisioned(home, *MODERN, "--group", "hall", *elsewhere, *joining, "--lamps", "1") == 0
    back = ("--profile", "multicast-oscore-04", "--group", "attic", "--join", "lamp-4=listener")
    assert provisioned(home, *back, "--join", "switch-1=both") == 0
    files = load_member(home / "switch-1")
    assert [(c.name, c.profile.name) for c in files.groups] == [
        ("attic", "multicast-oscore-04"),
        ("hall", "group-oscore"),
        ("room", "multicast-oscore-04"),
    ]
    assert kinds(group(home, "lamp-1", "room")) == {CredentialKind.RAW_KEY}
    assert kinds(group(home, "lamp-1", "hall")) == {CredentialKind.CCS}
    with EndpointState.open(files.state) as state:
        for configuration in files.groups:
            for key in state_keys(configuration):
                assert key.own_id is not None
                assert state.sequence_numbers(key.group, key.gid, key.own_id).take() == 0


def test_every_group_has_a_manager_of_its_own_or_the_one_that_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    joining = ("--join", "switch-1=multicaster", "--join", "lamp-1=listener")
    assert provisioned(home, *MODERN) == 0
    room = (home / "room.manager.json").read_bytes()
    assert provisioned(home, *MODERN, "--group", "hall", *joining) == 0
    assert (home / "room.manager.json").read_bytes() == room
    assert group(home, "lamp-1", "hall").manager_credential != group(home, "lamp-1").manager_credential
    assert provisioned(home, *MODERN, "--group", "all", "--manager", f"{home}/room.manager.json", *joining) == 0
    assert group(home, "lamp-1", "all").manager_credential == group(home, "lamp-1").manager_credential
    assert sorted(path.name for path in home.glob("*.json")) == ["hall.manager.json", "room.manager.json"]


def test_a_manager_whose_key_is_for_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", str(tmp_path / "m.json"), "--name", "m", "--algorithm", "es256"]) == 0
    assert provisioned(tmp_path / "home", *MODERN, "--manager", f"{tmp_path}/m.json") == 2
    assert "the manager's key is for ES256 (P-256), the group uses EdDSA" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
    plain = ("--manager", f"{tmp_path}/m.json", "--signature", "es256")
    assert provisioned(tmp_path / "home", *MODERN, *plain) == 0
    manager = group(tmp_path / "home", "lamp-1").manager_credential
    assert manager is not None
    assert manager.kind is CredentialKind.CCS  # a raw key says too little
    key = load_identity(tmp_path / "m.json")
    assert manager.public_key(key.signature).data == key.private_key.public_key.data


def test_the_key_of_a_manager_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    save_identity(home / "room.manager.json", generate_identity("manager"))
    before = tree(home)
    assert provisioned(home, *MODERN) == 3
    err = capsys.readouterr().err
    assert f"{home}/room.manager.json: exists already, and holds the private key of a group's manager" in err
    assert "move this file away" in err
    assert tree(home) == before
    assert provisioned(home, *MODERN, "--group", "hall", "--manager", f"{home}/room.manager.json") == 3
    assert "is not empty" in capsys.readouterr().err


CALLS = ("mkdir", "rename", "link", "unlink", "rmdir", "fsync")


def killed_at(step: int, *arguments: str) -> int:
    """Run the program in a process that is gone at its call number `step` of `CALLS`; its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    steps = iter(range(step))

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            if next(steps, None) is None:
                os._exit(9)
            return original(*given, **options)

        return call

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))
    os._exit(main(list(arguments)))


def test_a_managers_key_is_whole_before_any_device_has_the_group(tmp_path: Path) -> None:
    """Whenever it is killed: nobody has a group whose manager's key is lost, and what is left is named."""
    for step in range(1000):
        home = tmp_path / str(step)
        code = killed_at(step, "provision", str(home), *MODERN, "--lamps", "1", "--switches", "1")
        manager = home / "room.manager.json"
        identity = load_identity(manager) if manager.exists() else None
        devices = (
            [path for path in home.iterdir() if path.name[0] != "." and path.is_dir()] if home.exists() else []
        )
        for device in devices:
            assert identity is not None
            assert group(home, device.name).manager_credential == identity.credential
        if code == 0:
            assert len(devices) == 2
            break
        assert code == 9
        left = home.exists() and os.listdir(home)
        assert provisioned(home, *MODERN) == (3 if left else 0)
    assert step > 20
