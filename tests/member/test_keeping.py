from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from groupcoap.errors import FileFault
from groupcoap.keying.admin import Scheme
from groupcoap.member.keeping import FORMER_SUFFIX, Kept, drop_kept, kept_path, load_kept, save_kept
from groupcoap.member.updates import Install

from .managers import DRAFT, GROUP_OSCORE, LISTENER, MULTICASTER, NAME, PURE, Desk, Suite, path_of

SMALL = {"switch": MULTICASTER, "lamp": LISTENER, "sensor": PURE}


@pytest.mark.parametrize("scheme", list(Scheme), ids=lambda scheme: scheme.name.lower())
@pytest.mark.parametrize("suite", [DRAFT, GROUP_OSCORE], ids=lambda suite: suite.name)
def test_what_is_kept_comes_back(tmp_path: Path, scheme: Scheme, suite: Suite) -> None:
    devices = Desk(scheme, suite).members(SMALL)
    for name, device in devices.items():
        path = kept_path(tmp_path, name)
        save_kept(path, Kept(device.state, 12.5))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found = load_kept(path, NAME)
        assert found is not None
        assert found.confirmed == 12.5
        before, after = device.state, found.state
        assert path_of(after.admin) == path_of(before.admin)
        assert after.material.master_secret.reveal() == before.material.master_secret.reveal()
        for field in before.__dataclass_fields__:
            if field not in ("admin", "material"):
                assert getattr(after, field) == getattr(before, field), field
        assert after.parameters == before.parameters
        configuration = after.configuration(device.identity)
        assert configuration.common_context(configuration.current).gid == before.gid


def test_a_renewal_takes_the_secrets_before_away(tmp_path: Path) -> None:
    desk = Desk()
    lamp = desk.members(SMALL)["lamp"]
    path = kept_path(tmp_path, NAME)
    save_kept(path, Kept(lamp.state, 1.0))
    before = lamp.state
    renewal = desk.manager.rekey(NAME, "test")
    assert any(isinstance(decision, Install) for decision in lamp.hear(renewal))
    save_kept(path, Kept(lamp.state, 2.0))
    text = path.read_text()
    assert before.material.master_secret.reveal().hex() not in text
    assert before.admin is not None
    assert before.admin.keys[-1].key.reveal().hex() not in text
    assert os.listdir(tmp_path) == [path.name]


def test_who_has_left_keeps_no_keys(tmp_path: Path) -> None:
    lamp = Desk().members(SMALL)["lamp"]
    path = kept_path(tmp_path, NAME)
    save_kept(path, Kept(lamp.state, 1.0))
    drop_kept(path, lamp.state, "evicted")
    assert load_kept(path, NAME) is None
    former = path.with_name(path.name + FORMER_SUFFIX)
    assert os.listdir(tmp_path) == [former.name]
    text = former.read_text()
    assert "evicted" in text
    assert lamp.state.material.master_secret.reveal().hex() not in text
    drop_kept(path, lamp.state, "evicted again")


@pytest.mark.parametrize(
    ("now", "remaining"), [(100.0, 60.0), (130.0, 30.0), (160.0, 0.0), (1000.0, 0.0), (99.0, 0.0)]
)
def test_the_wall_clock_decides_conservatively(now: float, remaining: float) -> None:
    desk = Desk(lifetime=60.0, check_interval=20.0)
    lamp = desk.members({"lamp": LISTENER})["lamp"]
    assert Kept(lamp.state, 100.0).remaining(now) == remaining


def test_another_groups_file_is_refused(tmp_path: Path) -> None:
    lamp = Desk().members(SMALL)["lamp"]
    path = kept_path(tmp_path, "hall")
    save_kept(path, Kept(lamp.state, 1.0))
    with pytest.raises(FileFault, match="another group"):
        load_kept(path, "hall")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gid", "00"),
        ("gid", None),
        ("num", -1),
        ("num", "1"),
        ("master_secret", "zz"),
        ("endpoint_id", None),
        ("scheme", 5),
        ("confirmed", "now"),
        ("members", [{"id": "01", "name": "x", "roles": ["listener"], "credential": "a0"}]),
        ("members", [{"id": "01", "name": "x", "roles": []}]),
        ("admin", {"alg": 10, "base_iv": "00", "arity": None, "keys": []}),
        ("admin", {"alg": 4711, "base_iv": "00", "arity": None, "keys": []}),
        ("control_group", "somewhere"),
        ("parameters", {}),
        ("roles", ["boss"]),
        ("credential_kind", "raw?"),
        ("surprise", 1),
    ],
)
def test_a_damaged_file_is_refused_with_its_place(tmp_path: Path, field: str, value: object) -> None:
    lamp = Desk().members(SMALL)["lamp"]
    path = kept_path(tmp_path, NAME)
    save_kept(path, Kept(lamp.state, 1.0))
    content = json.loads(path.read_text())
    content[field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(FileFault, match=field):
        load_kept(path, NAME)


def test_the_file_of_a_group_with_a_strange_name_stays_in_the_directory(tmp_path: Path) -> None:
    assert kept_path(tmp_path, "a/../b").parent == tmp_path
