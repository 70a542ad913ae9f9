"""An endpoint with a key log writes every Security Context that it installs, and every member that it learns of."""

from __future__ import annotations

from pathlib import Path

import pytest
from devices import answers, eventually, get, lamps, switch
from wire import Member as Stranger
from wire import Peer
from world import World

from groupcoap.cose.credentials import Credential, CredentialKind
from groupcoap.errors import FileFault
from groupcoap.files.keylog import read_key_log
from groupcoap.membership import CredentialLearned, GroupConfiguration, Member, Role


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.log"


def names(logged: tuple[GroupConfiguration, ...], gid: bytes) -> dict[bytes, str]:
    """Everybody whom the log knows under this Gid."""
    epochs = [group.current for group in logged if group.current.gid == gid]
    return {member.endpoint_id: member.name for epoch in epochs for member in epoch.members}


async def test_contexts_are_written_before_they_are_used_and_renewals_too(path: Path) -> None:
    world = World(listeners=1)
    source = world.source(world.lamp_ids[0])
    async with lamps(world, source=source, key_log=path):
        gids = [world.gid]
        (first,) = read_key_log(path)
        assert first.current.master_secret.reveal() == world.secret.reveal()
        world.renew({world.lamp_ids[0]: source})
        gids.append(world.gid)
        assert [group.current.gid for group in read_key_log(path)] == gids
        assert read_key_log(path)[-1].current.master_secret.reveal() == world.secret.reveal()


async def test_devices_may_share_a_log(path: Path) -> None:
    world = World(listeners=2)
    async with lamps(world, key_log=path), switch(world, key_log=path) as multicaster:
        assert len(await answers(multicaster.request(get()))) == 2
    assert len(read_key_log(path)) == 1  # all know the same


async def test_members_that_become_known_later_are_written(path: Path) -> None:
    world = World(listeners=1)
    told, found = Stranger(world, b"\x77"), Stranger(world, b"\x78")
    source = world.source(world.lamp_ids[0])
    source.credentials[b"\x78"] = Credential(CredentialKind.RAW_KEY, found.key.public_key.data)
    async with lamps(world, source=source, key_log=path) as [(_, light)], Peer() as peer:
        credential = Credential(CredentialKind.RAW_KEY, told.key.public_key.data)
        member = Member(b"\x77", "panel", frozenset({Role.MULTICASTER}), credential)
        source.tell(CredentialLearned(world.name, world.gid, member))
        assert names(read_key_log(path), world.gid)[b"\x77"] == "panel"
        peer.send(found.request(b"on"), found.group)
        await eventually(lambda: light.payloads == [b"on"])  # looked up meanwhile
    assert names(read_key_log(path), world.gid)[b"\x78"] == "endpoint 78"


@pytest.fixture
def notes(path: Path) -> Path:
    path.write_text("not to be lost")
    path.chmod(0o600)
    return path


async def test_a_log_that_cannot_be_opened_is_said_before_anything_else_is_done(notes: Path) -> None:
    world = World(listeners=1)
    with pytest.raises(FileFault, match="something else than a key log"):
        async with world.endpoint(world.lamp_ids[0], key_log=notes):
            pass


async def test_without_being_told_nothing_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("GROUPCOAP_KEY_LOG", str(path))  # the program's, not the library's
    async with lamps(World(listeners=1)):
        pass
    assert list(path.parent.iterdir()) == []
