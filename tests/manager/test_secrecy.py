"""Backward and forward security from recorded traffic: what somebody can open who has every datagram that was ever
sent, and whatever its devices were ever given. Exactly what was said while they were members, and nothing else.

A device's secret opens all its associations, then and later: they have no forward secrecy towards the device. So
nothing may be sent over them once it has left."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

import aiocoap
import pytest
from aiocoap import resource
from kill_points import tell_truth
from live_house import (
    DEVICE_HOST,
    GROUP,
    MULTICAST,
    SCHEMES,
    SUITES,
    Device,
    enroll,
    enrolled,
    hasty,
    make_group,
    make_home,
    states,
    tap,
    until,
)
from suites import Suite
from wiretap import Attacker, Datagram, Inside, Wiretap, check_nothing_repeats

from groupcoap.association.client import ManagerLink
from groupcoap.association.node import CoapNode
from groupcoap.cli.known import known_epochs
from groupcoap.cli.onlooker import Onlooker
from groupcoap.core import coap
from groupcoap.core.option import FLAG_GID, decode_prefix
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Multicaster
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.errors import Refused, Rejected
from groupcoap.files.state import MemoryState
from groupcoap.keying.admin import Scheme
from groupcoap.manager.decisions import GroupManager
from groupcoap.manager.home import ManagerHome
from groupcoap.manager.server import ManagerServer
from groupcoap.manager.state import Renewal
from groupcoap.membership import Epoch, GroupConfiguration, Member, Role
from groupcoap.secret import Secret

__all__ = ["hasty", "tap"]

pytestmark = pytest.mark.usefixtures("hasty")

PURE = frozenset({Role.PURE_LISTENER})
of_every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name.lower())
of_both_profiles = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)


class Era(NamedTuple):
    """A Security Context, and who was a member under it."""

    num: int
    gid: bytes
    secret: bytes
    members: frozenset[str]


class Echoing(resource.Resource):  # type: ignore[misc]
    """Answers with what it got."""

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(code=aiocoap.CHANGED, payload=request.payload)


@dataclass
class Hall:
    """A group that talks, and comes and goes."""

    home: ManagerHome
    server: ManagerServer
    devices: dict[str, Device]
    tap: Wiretap
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    eras: dict[int, Era] = field(default_factory=dict)
    known: dict[bytes, dict[bytes, Member]] = field(default_factory=dict)
    talked: set[int] = field(default_factory=set)
    configuration: GroupConfiguration | None = None
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def note(self) -> None:
        group = self.server.manager.group(GROUP)
        members = frozenset(group.by_device)
        self.eras[group.num] = Era(group.num, group.gid, group.master_secret.reveal(), members)

    async def settled(self) -> None:
        """Until everybody has what the manager has, and all credentials."""
        manager = self.server.manager
        group = manager.group(GROUP)

        def is_settled() -> bool:
            there = {name: self.devices[name] for name in group.by_device}
            same = {device.gid for device in there.values()} == {group.gid}
            return same and not manager.behind(group) and all(map(self._knows_all, there.values()))

        await until(is_settled, lambda: f"{group.gid.hex()} {states(self.devices)}")

    def _knows_all(self, device: Device) -> bool:
        configuration = device.configuration
        return configuration is not None and len(configuration.current.members) == len(self.members) - 1

    @property
    def members(self) -> list[str]:
        return sorted(self.server.manager.group(GROUP).by_device)

    async def join(self, names: str) -> None:
        for name in names:
            await self.devices[name].open()
        await until(lambda: set(names) <= set(self.members) and all(self.devices[name].gid for name in names))
        await self.settled()
        for name in names:
            membership = self.devices[name].membership
            assert membership is not None
            options = NetworkOptions("lo", IPv4Address(DEVICE_HOST), hop_limit=0)
            endpoint = Endpoint(membership, MemoryState(), options, leisure=0.02)
            self.endpoints[name] = await self.stack.enter_async_context(endpoint)
            site = resource.Site()
            site.add_resource(["talk"], Echoing())
            Listener(endpoint, site)
            if self.configuration is None:
                self.configuration = self.devices[name].configuration

    async def talk(self) -> None:
        """The first and the last member say something, and all answer."""
        await self.settled()
        self.talked.add(self.server.manager.group(GROUP).num)
        for name in self.members[0], self.members[-1]:
            self._remember_credentials(self.devices[name])
            multicaster = Multicaster(self.endpoints[name], GROUP)
            said = aiocoap.Message(code=aiocoap.PUT, uri_path=["talk"], payload=b"nobody else is to know this")
            group = self.server.manager.group(GROUP)
            others = [member.endpoint_id for member in group.members.values() if member.device != name]
            collection = multicaster.request(said, timeout=3.0, roster=[kid for kid in others if kid is not None])
            answers = [answer.message.payload async for answer in collection]
            assert answers == [said.payload] * len(others), (name, group.num, collection.missing)

    def _remember_credentials(self, device: Device) -> None:
        """They are no secret: an attacker has all of them."""
        configuration = device.configuration
        assert configuration is not None
        epoch = configuration.current
        self.known.setdefault(epoch.gid, {}).update({member.endpoint_id: member for member in epoch.members})

    async def perform(self, name: str, **arguments: Any) -> None:
        await self.server.perform(name, {"group": GROUP, **arguments})

    async def leave(self, name: str) -> None:
        membership = self.devices[name].membership
        assert membership is not None
        await membership.leave(GROUP)

    # ---- afterwards

    def entitled(self, names: Iterable[str], nums: Iterable[int] | None = None) -> set[bytes]:
        """Master Secrets of when one of them was a member, of these renewals or of all."""
        eras = [self.eras[num] for num in (self.eras if nums is None else nums)]
        return {era.secret for era in eras if era.members & set(names)}

    def gids(self, names: Iterable[str]) -> set[bytes]:
        return {era.gid for era in self.eras.values() if era.members & set(names)}

    def attacker(self, names: Iterable[str], datagrams: Iterable[Datagram]) -> Attacker:
        return Attacker(datagrams, enrolled(*(self.devices[name] for name in names)))


@asynccontextmanager
async def hall(
    directory: Path, tap: Wiretap, monkeypatch: pytest.MonkeyPatch, scheme: Scheme, suite: Suite
) -> AsyncIterator[Hall]:
    home = make_home(directory / "gm", sealing="none")
    make_group(home, suite, scheme)
    devices = enroll(home, directory / "devices", "abcdefgh")
    store = home.open_store()
    try:
        async with ManagerServer(store, home.configuration, place=directory) as server:
            hall = Hall(home, server, devices, tap)
            renew = GroupManager._renew

            def noting(self: GroupManager, *arguments: Any, **named: Any) -> Renewal:
                renewal = renew(self, *arguments, **named)
                tell_truth(tap, self, renewal)
                hall.note()
                return renewal

            monkeypatch.setattr(GroupManager, "_renew", noting)
            async with hall.stack:
                try:
                    yield hall
                finally:
                    await hall.stack.aclose()
                    for device in devices.values():
                        await device.close()
    finally:
        store.close()


@of_every_scheme
@of_both_profiles
async def test_nobody_reads_what_is_not_for_them(
    tmp_path: Path, tap: Wiretap, monkeypatch: pytest.MonkeyPatch, scheme: Scheme, suite: Suite
) -> None:
    async with hall(tmp_path, tap, monkeypatch, scheme, suite) as room:
        await room.join("a")
        room.note()  # the first one needs no renewal
        await room.join("bcdef")
        await room.talk()
        await room.join("g")
        await room.talk()
        await room.leave("f")
        await room.talk()
        await room.perform("evict", device="e")
        await room.talk()
        await room.perform("rekey")
        await room.talk()
        await room.join("h")
        await room.talk()
        await room.perform("evict", device="d")
        await room.talk()
        await ask_for_more(room, "e")
        await room.perform("rekey")
        await room.talk()
        assert room.members == ["a", "b", "c", "g", "h"]
        current = {record.admin(tag_of(room)).kid for record in room.server.manager.group(GROUP).keyring.records()}
    datagrams = tap.datagrams()
    check_nothing_repeats(tap, enrolled(*room.devices.values()))
    heard = group_messages(datagrams)
    for names in ("a", "b", "d", "e", "f", "g", "h", "ef", "def", "dh", "fh"):
        attacker = room.attacker(names, datagrams)
        assert attacker.secrets <= room.entitled(names), names
        assert attacker.secrets >= room.entitled(names, room.talked), names
        assert opened(room, attacker, heard) == {one for one in heard if one.gid in room.gids(names)}, names
    leavers = room.attacker("def", datagrams)
    assert leavers.keys.keys().isdisjoint(current)
    assert len(leavers.keys) > 0 or scheme is Scheme.POINT_TO_POINT
    assert not opened_under_other_gids(room, leavers, heard)
    for name in "def":
        check_it_was_told_no_more(room, name, datagrams)


def tag_of(room: Hall) -> bytes:
    return room.server.manager.group(GROUP).tag


# ---- somebody who was evicted asks for more


async def ask_for_more(room: Hall, name: str) -> None:
    """Over its association, and over another one. Nothing comes of it."""
    device = room.devices[name]
    await device.close()
    node = f"n{ord(name) - ord('a') + 1}"
    requests: list[tuple[int, tuple[str, ...], bytes]] = [
        (coap.GET, (), b""),
        (coap.GET, ("nodes", node), b""),
        (coap.POST, ("nodes", node), b""),
        (coap.GET, ("creds",), b""),
        (coap.GET, ("num",), b""),
        (coap.FETCH, ("stale-sids",), b"\x00"),
        (coap.POST, (), b""),
        (coap.DELETE, ("nodes", node), b""),
    ]
    options = NetworkOptions("lo", IPv4Address(DEVICE_HOST), hop_limit=0, kernel_filter=False)
    async with CoapNode(options) as coap_node:
        address = [(str(room.home.configuration.bind), room.home.configuration.port)]
        for _ in range(2):
            link = ManagerLink(coap_node, address, device.handle, device.secret, os.urandom)
            for code, path, payload in requests:
                with pytest.raises(Refused) as caught:
                    await link.request(code, ("ace-group", GROUP, *path), payload, None, 3.0)
                assert caught.value.code in (coap.FORBIDDEN, coap.METHOD_NOT_ALLOWED)
            await link.close()


def check_it_was_told_no_more(room: Hall, name: str, datagrams: list[Datagram]) -> None:
    """After the renewal that it left by: the dismissal, and refusals."""
    left_by = min(num for num, era in room.eras.items() if num > first_num(room, name) and name not in era.members)
    left_at = next(truth.at for truth in room.tap.truths() if truth.num == left_by)
    attacker = room.attacker(name, datagrams)
    assert not [learnt for learnt in attacker.learnt if learnt.at > left_at and learnt.num >= left_by]
    assert not [learnt for learnt in attacker.learnt if learnt.at > left_at and learnt.device is not None]
    told = [inside for inside in attacker.inside if inside.at > left_at and not inside.from_device]
    asked = {inside.code for inside in told if coap.is_request(inside.code)}
    answered = [inside for inside in told if not coap.is_request(inside.code)]
    assert asked == (set() if name == "f" else {coap.DELETE})
    assert all(is_refusal(inside) or is_farewell(inside, name) for inside in answered)


def first_num(room: Hall, name: str) -> int:
    return min(num for num, era in room.eras.items() if name in era.members)


def is_refusal(inside: Inside) -> bool:
    return inside.code >= 0x80 and b"room" not in inside.payload


def is_farewell(inside: Inside, name: str) -> bool:
    """To who left of its own accord."""
    return name == "f" and (inside.code, inside.payload) == (0x42, b"")


# ---- group messages


class Heard(NamedTuple):
    """A message to or from the group. `request`: what it answers; None: it is a request itself."""

    gid: bytes
    message: coap.Message
    request: coap.Message | None


def group_messages(datagrams: Iterable[Datagram]) -> list[Heard]:
    asked: dict[bytes, Heard] = {}
    found: list[Heard] = []
    for datagram in datagrams:
        message = datagram.message
        value = message.option(coap.OBJECT_SECURITY)
        if value is None:
            continue
        flags, _, gid, _ = decode_prefix(value)
        if coap.is_request(message.code) and flags & FLAG_GID:
            assert gid is not None
            found.append(Heard(gid, message, None))
            asked[message.token] = found[-1]
        elif message.token in asked and not coap.is_request(message.code):
            question = asked[message.token]
            found.append(Heard(question.gid, message, question.message))
    assert sum(one.request is None for one in found) >= 14
    assert sum(one.request is not None for one in found) >= 50
    return found


def opened(room: Hall, attacker: Attacker, heard: Iterable[Heard]) -> set[Heard]:
    """What can be decrypted with the Master Secrets that the attacker has, each under its Gid."""
    return _opened(room, {(learnt.gid, learnt.secret) for learnt in attacker.learnt}, heard)


def opened_under_other_gids(room: Hall, attacker: Attacker, heard: Iterable[Heard]) -> set[Heard]:
    """With each of its Master Secrets under the Gids that it has none for."""
    heard = list(heard)
    known = {learnt.gid for learnt in attacker.learnt}
    others = {one.gid for one in heard} - known
    assert others
    found: set[Heard] = set()
    for secret in attacker.secrets:
        found |= _opened(room, {(gid, secret) for gid in others}, heard)
    return found


def _opened(room: Hall, keys: set[tuple[bytes, bytes]], heard: Iterable[Heard]) -> set[Heard]:
    configuration = room.configuration
    assert configuration is not None
    epochs = [
        Epoch(gid, Secret(secret), None, None, tuple(room.known.get(gid, {}).values()))
        for gid, secret in sorted(keys)
    ]
    groups = [replace(configuration, roles=PURE, epochs=(epoch,)) for epoch in epochs]
    onlooker = Onlooker(known_epochs((Path("attack"), group) for group in groups))
    found = set()
    for one in heard:
        try:
            if one.request is None:
                inside = onlooker.open_request(one.message, MULTICAST.packed)
            else:
                inside = onlooker.open_response(one.message, one.request)
        except Rejected:
            continue
        if inside.message is not None and inside.message.payload == b"nobody else is to know this":
            found.add(one)
    return found
