"""`groupcoap provision`: all files or none, and files that fit together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groupcoap.cli import main
from groupcoap.errors import FileFault
from groupcoap.files import provisioning
from groupcoap.files.identity import load_identity
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


@pytest.mark.parametrize("failing", range(8))
def test_nothing_is_left_behind_wherever_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Each write in turn fails: of two new devices with three files each, and of the group file of an old one."""
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
    code = provisioned(home, "--group", "all", "--switches", "1", "--lamps", "1", "--join", "lamp-1=listener")
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
