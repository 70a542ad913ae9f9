"""`groupcoap manager`: made, served, backed up and restored."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from groupcoap.cli import main, serving
from groupcoap.cli import manager as command
from groupcoap.cli.exits import exit_code
from groupcoap.cli.serving import JsonLines, Settings, TextLines, notify
from groupcoap.errors import Refused, StoreFault
from groupcoap.manager.home import SEALING_VARIABLE, ManagerHome
from groupcoap.manager.server import ManagerServer

from .managed import Hall, Said, hall, said, template
from .room import run

__all__ = ["hall", "said", "template"]


def init(directory: Path, *options: str) -> int:
    return main(["manager", "init", str(directory), "--bind", "127.0.0.1", *options])


# ---- init


def test_what_is_made_is_private_and_what_comes_next_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path / "hall") == 0
    out = capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "hall")) == [
        *("manager.json", "manager.sqlite", "manager.sqlite.lock", "sealing.key"),
    ]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "hall").iterdir()} == {0o600}
    assert (tmp_path / "hall").stat().st_mode & 0o777 == 0o700
    for text in ("127.0.0.1:5683", "lo", f"groupcoap manager serve {tmp_path}/hall", "groupcoap group create room"):
        assert text in out
    home = ManagerHome.load(tmp_path / "hall")
    store = home.open_store()
    assert store.load().rows("manager")[0]["name"] == home.configuration.name == "hall"
    store.close()


def test_all_options_are_in_the_configuration(tmp_path: Path) -> None:
    places = ("--address", "192.0.2.1:5700", "--address", "[2001:db8::1]:5683")
    database = f"sqlite:///{tmp_path}/elsewhere.db"
    options = ("--interface", "lo", "--port", "5700", "--name", "main", "--hop-limit", "3", "--database", database)
    assert init(tmp_path / "hall", *places, *options) == 0
    configuration = ManagerHome.load(tmp_path / "hall").configuration
    assert (configuration.name, configuration.port, configuration.hop_limit) == ("main", 5700, 3)
    assert configuration.reached_at == (("192.0.2.1", 5700), ("2001:db8::1", 5683))
    assert (tmp_path / "elsewhere.db").exists()


def test_without_sealing_is_a_choice_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(tmp_path / "hall", "--sealing", "none") == 0
    assert "NOT SEALED, as you chose" in capsys.readouterr().out
    assert "sealing.key" not in os.listdir(tmp_path / "hall")
    assert main(["manager", "backup", str(tmp_path / "hall"), str(tmp_path / "copy")]) == 0
    assert "NOT SEALED" in capsys.readouterr().out


def test_the_sealing_key_in_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SEALING_VARIABLE, raising=False)
    assert init(tmp_path / "hall", "--sealing", "environment") == 6
    assert SEALING_VARIABLE in capsys.readouterr().err
    assert not (tmp_path / "hall").exists()
    monkeypatch.setenv(SEALING_VARIABLE, "ab" * 32)
    assert init(tmp_path / "hall", "--sealing", "environment") == 0
    assert "sealing.key" not in os.listdir(tmp_path / "hall")
    monkeypatch.setenv(SEALING_VARIABLE, "cd" * 32)
    assert main(["status", "--manager", str(tmp_path / "hall")]) == 6


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--bind", "224.0.1.1"], 5, "is a multicast address"),
        (["--bind", "here"], 2, "'here' is not an IP address"),
        (["--bind", "0.0.0.0", "--interface", "lo"], 2, "add --address HOST"),
        (["--bind", "127.0.0.1", "--interface", "nosuch0"], 5, "there is no interface 'nosuch0'"),
        (["--bind", "192.0.2.77"], 5, "--interface NAME"),
        (["--bind", "127.0.0.1", "--name", "a b"], 2, "a name has 1 to 64"),
        (["--bind", "127.0.0.1", "--address", "host.example"], 2, "is not an IP address"),
        (["--bind", "127.0.0.1", "--database", "postgresql://x"], 6, "this database URL is not known"),
        (["--bind", "127.0.0.1", "--port", "0"], 2, "--port"),
        ([], 2, "--bind"),
    ],
)
def test_what_is_wrong_stands_on_one_line_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, says: str
) -> None:
    assert main(["manager", "init", str(tmp_path / "hall"), *options]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert says in captured.err
    assert not (tmp_path / "hall").exists()


def test_no_manager_is_made_over_another(hall: Hall, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in hall.directory.iterdir()}
    assert init(hall.directory) == 3
    assert "exists already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in hall.directory.iterdir()} == before


# ---- serve


@pytest.mark.processes
def test_one_line_when_it_is_ready_and_a_signal_ends_it_gracefully(hall: Hall, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        port = _tcp_port()
        served = hall.serve("--metrics", f"127.0.0.1:{port}", NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert systemd.recv(200) == b"READY=1\nSTATUS=1 group"
        configuration = ManagerHome.load(hall.directory).configuration
        where = f"manager hall serves at 127.0.0.1:{configuration.port} on lo: 1 group, 0 devices"
        assert served.lines == [where]
        # What an operator does meanwhile
        assert hall.do("rekey", "room") == 0
        assert main(["manager", "backup", str(hall.directory), str(tmp_path / "copy")]) == 0
        assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            metrics = page.read().decode()
        for line in (
            'groupcoap_group_num{group="room"} 1.0',
            'groupcoap_group_active{group="room"} 1.0',
            'groupcoap_group_members{group="room"} 0.0',
            'groupcoap_group_behind{group="room"} 0.0',
            "groupcoap_renewals_total 1.0",
        ):
            assert f"\n{line}\n" in metrics
        assert 'groupcoap_group_seconds_since_renewal{group="room"} ' in metrics
        second = run("manager", "serve", str(hall.directory))
        assert (second.code, second.out, second.err.count("\n")) == (6, "", 1)
        assert f"in use by process {served.pid}" in second.err
        served.signal(signal.SIGTERM)
        assert systemd.recv(200) == b"STOPPING=1"
        assert served.ended() == 0
        assert served.rest()[-2:] == [
            "stopping: what is under way is finished",
            "stopped; members go on with the keys that they have",
        ]
    assert not (hall.directory / "control.sock").exists()


def _tcp_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.processes
def test_the_log_as_json(hall: Hall) -> None:
    served = hall.serve("--log-format", "json")
    assert hall.do("rekey", "room", "--why", "a test") == 0
    assert served.stop() == 0
    entries = [json.loads(line) for line in served.rest()]
    assert {"time", "level", "logger", "event"} == {name for entry in entries for name in entry}
    events = [entry["event"] for entry in entries]
    assert "group room: renewal 1 (a test), 0 members" in events
    assert events[-1].startswith("stopped")


def test_log_lines_stay_lines() -> None:
    record = logging.LogRecord("groupcoap.x", logging.WARNING, "f", 1, "a %s", ("b\n\x1b[2J",), None)
    assert TextLines().format(record).endswith(" warning a b\\n\\x1b[2J")
    record = logging.LogRecord("groupcoap.x", logging.WARNING, "f", 1, "a %s", ("b\n\x1b[2J",), None)
    assert json.loads(JsonLines().format(record))["event"] == "a b\n\x1b[2J"
    try:
        raise ValueError("x")
    except ValueError:
        record = logging.LogRecord("groupcoap.x", logging.ERROR, "f", 1, "failed", None, sys.exc_info())
    entry = json.loads(JsonLines().format(record))
    assert "ValueError: x" in entry["exception"]
    assert "\n" not in JsonLines().format(record)


def test_nobody_is_notified_without_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")  # logged, and no more


def test_a_database_that_fails_ends_it(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(ManagerServer):
        async def __aenter__(self) -> Failing:
            await super().__aenter__()
            self._failed(StoreFault("no space is left on the disk; free some"))
            return self

    monkeypatch.setattr(serving, "ManagerServer", Failing)
    home = ManagerHome.load(hall.directory)
    with pytest.raises(StoreFault, match="no space"):
        asyncio.run(serving.serve(home, Settings()))
    home.open_store().close()  # it has been given back
    assert exit_code(StoreFault("x")) == 6
    assert exit_code(Refused(0x83, "no right")) == 7


def test_metrics_without_the_extra(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["manager", "serve", str(hall.directory), "--metrics", "127.0.0.1"]) == 3
    assert "pip install 'groupcoap[metrics]'" in capsys.readouterr().err


def test_metrics_where_they_cannot_be(hall: Hall, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["manager", "serve", str(hall.directory), "--metrics", where]) == 5
    assert f"metrics cannot be served at {where}" in capsys.readouterr().err


def test_serve_where_there_is_no_manager(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manager", "serve", str(tmp_path)]) == 3
    assert "groupcoap manager init" in capsys.readouterr().err


# ---- backup and restore


def database(hall: Hall) -> Path:
    return hall.directory / "manager.sqlite"


def lost(hall: Hall) -> None:
    for path in hall.directory.glob("manager.sqlite*"):
        path.unlink()


def test_a_restored_manager_is_a_new_incarnation_and_says_what_that_means(
    hall: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hall.enroll("lamp-1", "room=listener")
    assert main(["manager", "backup", str(hall.directory), str(tmp_path / "copy")]) == 0
    hall.enroll("lamp-2", "room=listener")
    before = _status(hall, capsys)
    lost(hall)
    assert main(["manager", "restore", str(tmp_path / "copy"), str(hall.directory)]) == 0
    out = capsys.readouterr().out
    for text in (
        "1 device enrolled",
        "join again by themselves",
        "evict and withdraw them",
        "must never run again",
    ):
        assert text in out
    after = _status(hall, capsys)
    assert after["incarnation"] != before["incarnation"]
    assert after["groups"][0]["gid"][:16] != before["groups"][0]["gid"][:16]
    assert after["groups"][0]["num"] > before["groups"][0]["num"]
    assert sorted(os.listdir(hall.directory)) == [
        *("manager.json", "manager.sqlite", "manager.sqlite.lock", "sealing.key"),
    ]


def _status(hall: Hall, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert hall.do("status", "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_nothing_from_the_past_is_left_to_be_served_when_a_restore_fails(
    hall: Hall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["manager", "backup", str(hall.directory), str(tmp_path / "copy")]) == 0
    lost(hall)

    def fail(*_: object) -> None:
        assert not database(hall).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "new_incarnation", fail)
    assert main(["manager", "restore", str(tmp_path / "copy"), str(hall.directory)]) == 130
    assert sorted(os.listdir(hall.directory)) == ["manager.json", "sealing.key"]


def test_what_a_restore_refuses(hall: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = str(tmp_path / "copy")
    assert main(["manager", "backup", str(hall.directory), copy]) == 0

    def refused(directory: Path, code: int, says: str, source: str = copy) -> None:
        capsys.readouterr()
        assert main(["manager", "restore", source, str(directory)]) == code
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        assert says in captured.err

    refused(hall.directory, 6, "exists already, and nothing is overwritten")
    (tmp_path / "new").mkdir()
    refused(tmp_path / "new", 3, "a backup is the database alone; bring the manager's manager.json and sealing.key")
    assert init(tmp_path / "other") == 0
    lost(Hall(tmp_path / "other", tmp_path, "", hall.stack))
    refused(tmp_path / "other", 6, "sealed with another key")
    lost(hall)
    refused(hall.directory, 6, "does not exist", str(tmp_path / "nothing"))
    (tmp_path / "copy").write_bytes(b"x" * 5000)
    refused(hall.directory, 6, "copy")


def test_a_backup_overwrites_nothing(hall: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "copy").write_text("precious")
    assert main(["manager", "backup", str(hall.directory), str(tmp_path / "copy")]) == 6
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "copy").read_text() == "precious"


@pytest.mark.processes
def test_a_backup_of_a_running_manager_overwrites_nothing_either(hall: Hall, tmp_path: Path, said: Said) -> None:
    served = hall.serve()
    assert main(["manager", "backup", str(hall.directory), str(tmp_path / "copy")]) == 0
    assert main(["manager", "backup", str(hall.directory), str(tmp_path / "copy")]) != 0
    assert main(["manager", "restore", str(tmp_path / "copy"), str(hall.directory)]) == 2
    assert served.stop() == 0
