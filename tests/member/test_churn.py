"""Thirty members, one datagram in ten lost: members join, leave, are evicted and crash, the manager crashes, and
there are requests all the while."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import children
import pytest
from children import Child
from namespaces import Host, Lan, why_not
from relay import FAIR, Weather

from groupcoap.errors import EnvironmentFault
from groupcoap.files.documents import Json
from groupcoap.keying.admin import Scheme
from groupcoap.manager.control import ask
from groupcoap.manager.home import ManagerHome
from groupcoap.manager.settings import RekeyPolicy

from .churn_parts import (
    GROUP,
    LAMP,
    SWITCH,
    Asked,
    Witness,
    enroll,
    evil,
    make_manager,
    manage,
    member,
    steal,
    write_enrolment,
)

pytestmark = pytest.mark.namespaces

LAMPS, SWITCHES = 27, 3
SCHEMES = list(Scheme) if os.environ.get("GROUPCOAP_CHURN") == "all" else [Scheme.LKH]
"""Each takes half a minute or more: `GROUPCOAP_CHURN=all` for the other two."""
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _possible(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    # A join takes some ten exchanges, of which one in five is lost and repeated after seconds.
    monkeypatch.setattr(children, "TIMEOUT", PATIENCE)


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(seed=5) as made:
        yield made


class Building:
    """The manager and its members, each on a host of its own."""

    def __init__(self, lan: Lan, directory: Path, scheme: Scheme) -> None:
        self._lan = lan
        self._directory = directory
        self._manager_host = lan.host()
        bind = self._manager_host.ipv4.ip
        rekey = RekeyPolicy(scheme=scheme, window=0.1, check_interval=3.0, lifetime=60.0)
        self.home: ManagerHome = make_manager(directory / "manager", bind, rekey, grace=1.0)
        self.manager = self._start_manager()
        self._roles = {f"lamp{n}": LAMP for n in range(LAMPS + 4)} | {f"switch{n}": SWITCH for n in range(SWITCHES)}
        self._enrolments = enroll(self.home, list(self._roles.items()))
        self._hosts: dict[str, Host] = {}
        self.members: dict[str, Child] = {}
        self.gone: list[tuple[Witness, Asked]] = []

    def _start_manager(self) -> Child:
        child = self._manager_host.start(manage, self.home.directory)
        assert child.event() == "ready"
        return child

    def crash_manager(self) -> None:
        self.manager.crash()
        self.manager = self._start_manager()

    def start(self, *names: str) -> None:
        """Have these join, or come back."""
        for name in names:
            if name not in self._hosts:
                self._hosts[name] = self._lan.host()
                write_enrolment(self._directory / name, self._enrolments[name])
            host = self._hosts[name]
            self.members[name] = host.start(member, self._directory / name, host.ipv4.ip, self._roles[name])

    def await_ready(self, *names: str) -> None:
        for name in names:
            assert self.members[name].event() == ("ready", name)

    def crash(self, name: str) -> None:
        self.members.pop(name).crash()

    def leave(self, name: str) -> None:
        child = self.members.pop(name)
        child.tell("leave")
        self.gone.append(child.event())

    def evict(self, name: str) -> Child:
        """Evict somebody, who goes on with the keys that it had."""
        child, host = self.members.pop(name), self._hosts[name]
        child.kill()
        stolen = steal(self._directory / name)
        result: Json = ask(self.home, "evict", group=GROUP, device=name)
        assert result["was_member"]
        thief = host.start(evil, stolen, host.ipv4.ip)
        assert thief.event() == "ready"
        return thief

    def status(self) -> Json:
        """Of the group."""
        group: Json = ask(self.home, "group", group=GROUP)
        return group

    def reports(self) -> dict[str, tuple[list[bytes], Witness, Asked]]:
        for child in self.members.values():
            child.tell("report")
        return {name: child.event() for name, child in self.members.items()}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_all_end_on_the_last_epoch_and_nobody_hears_who_has_left(lan: Lan, tmp_path: Path, scheme: Scheme) -> None:
    building = Building(lan, tmp_path, scheme)
    first = [f"lamp{n}" for n in range(LAMPS)] + [f"switch{n}" for n in range(SWITCHES)]
    building.start(*first)
    building.await_ready(*first)
    lan.hub.weather(Weather(loss=0.1))

    building.start("lamp27", "lamp28")  # two join
    building.await_ready("lamp27", "lamp28")
    building.leave("lamp3")
    thief = building.evict("switch2")
    building.crash("lamp5")
    building.start("lamp5")
    building.crash_manager()
    building.await_ready("lamp5")
    building.leave("lamp9")
    building.crash("lamp11")
    building.crash("switch1")
    ask(building.home, "rekey", group=GROUP)  # while two are away
    building.start("lamp11", "switch1", "lamp29", "lamp30")
    building.crash_manager()
    building.await_ready("lamp11", "switch1", "lamp29", "lamp30")
    ask(building.home, "evict", group=GROUP, device="lamp13")

    lan.hub.weather(FAIR)
    for child in building.members.values():
        child.tell("hush")
        assert child.event() == "quiet"
    wait_until(lambda: _settled(building))
    thief.tell("count")
    time.sleep(2)  # it goes on, and nobody answers
    thief.tell("stop")
    assert thief.event() == 0
    _check(building)


def _settled(building: Building) -> bool:
    with suppress(EnvironmentFault):
        return not building.status()["behind"]
    return False


def _check(building: Building) -> None:
    reports = building.reports()
    gid = bytes.fromhex(building.status()["gid"])
    evicted = reports.pop("lamp13")
    assert evicted[0] == []
    assert evicted[1].left
    assert {name: report[0] for name, report in reports.items()} == {name: [gid] for name in reports}
    assert building.status()["members"] == len(reports)
    everybody = [*building.gone, *(report[1:] for report in reports.values())]
    assert [v for witness, _ in everybody for v in witness.violations] == []
    assert [u for _, asked in everybody for u in asked.unnamed] == []
    for switch in ("switch0", "switch1"):  # and now that nothing is lost, all answer
        building.members[switch].tell("once")
        assert building.members[switch].event() == len(reports) - 2
    assert sum(asked.complete + asked.named for _, asked in everybody) > 5
    assert sum(witness.delivered["request"] for witness, _ in everybody) > 100
    assert sum(witness.delivered["answer"] for witness, _ in everybody) > 100
