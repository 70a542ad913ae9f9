"""A manager with a database, and raw devices, over real sockets on loopback addresses.

A device here is a CoAP node and a link to its manager, and nothing of `groupcoap.member`: what it makes of renewals
is its own, and as simple as can be. All that the manager and its devices send is taken down in one log, in order,
with what devices have got."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple

import aiocoap
import cbor2
import pytest
from aiocoap import resource
from manager_world import (
    BOTH,
    EVERY_ROLE,
    LISTENER,
    MULTICASTER,
    PURE,
    SEED_PROFILE,
    SENDING_PURE,
    STANDARD_PROFILE,
    difference,
    parameters_of,
    picture,
)
from world import free_port

from groupcoap.association.client import MANAGER, ManagerLink
from groupcoap.association.node import CoapNode
from groupcoap.association.registry import DEFAULT_ASSOCIATION_LIMITS, AssociationLimits, device_of
from groupcoap.core import coap
from groupcoap.cose.credentials import Credential, claims_set
from groupcoap.cose.keys import DEFAULT_SIGNATURE
from groupcoap.endpoint.limits import DEFAULT_LIMITS, Limits
from groupcoap.endpoint.network import NetworkOptions, SocketAddress
from groupcoap.keying.admin import AdminKey, AdminKeys
from groupcoap.keying.envelope import parse_envelope
from groupcoap.keying.joining import JoinRequest, KeyReport
from groupcoap.keying.labels import CBOR, GROUPCOMM_CBOR, PROBLEM_DETAILS
from groupcoap.keying.proof import client_proof_input, manager_proof_input, prove, verifies
from groupcoap.keying.rekeying import RekeyMessage
from groupcoap.manager.decisions import GroupManager, first_writes
from groupcoap.manager.home import ManagerConfiguration, ManagerHome
from groupcoap.manager.server import ManagerServer
from groupcoap.manager.settings import GroupSettings, RekeyPolicy
from groupcoap.manager.state import Group
from groupcoap.manager.store.schema import SHAPES
from groupcoap.manager.store.store import Store
from groupcoap.membership import GroupAddress, Role
from groupcoap.secret import Secret

__all__ = [
    "BOTH",
    "DELETE",
    "EVERY_ROLE",
    "FETCH",
    "GET",
    "LISTENER",
    "MULTICASTER",
    "POST",
    "PURE",
    "PUT",
    "SEED_PROFILE",
    "SENDING_PURE",
    "STANDARD_PROFILE",
]

GET, POST, PUT, DELETE, FETCH = aiocoap.GET, aiocoap.POST, aiocoap.PUT, aiocoap.DELETE, aiocoap.FETCH
MANAGER_HOST, DEVICE_HOST = "127.0.0.71", "127.0.0.72"
MEMORY = "/dev/shm"
PATIENCE = 5.0
"""Seconds after which something that must happen has not."""


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for it, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what or "it has not happened"
        await asyncio.sleep(0.005)


class Event(NamedTuple):
    """`what`: sends (detail: datagram, destination), told or heard (num), evicted (group), confirms (num), answered
    (code)."""

    who: str
    what: str
    detail: Any = None


class Joined(NamedTuple):
    """A join that worked: the response, what it says, and what was asked."""

    answer: Any
    report: KeyReport
    node: str
    request: JoinRequest

    @property
    def content(self) -> dict[int, Any]:
        content: dict[int, Any] = cbor2.loads(self.answer.payload)
        return content


@dataclass
class Place:
    """What a device knows of a group. `keys`: all administrative keys that it ever got, by kid."""

    node: str
    num: int
    gid: bytes
    secret: bytes
    endpoint_id: bytes | None
    seed: bool
    manager: Credential
    base_iv: bytes
    aead: Any
    keys: dict[bytes, AdminKey]
    path: tuple[AdminKey, ...] = ()

    def learn(self, admin: AdminKeys | None) -> None:
        if admin is not None:
            self.base_iv, self.aead = admin.base_iv, admin.aead
            self.keys |= {key.kid: key for key in admin.keys}

    def install(self, message: RekeyMessage) -> None:
        self.num, self.gid, self.secret = message.num, message.gid, message.master_secret.reveal()
        self.learn(message.admin)


class DeafNode(CoapNode):
    """Hears nothing while it is deaf."""

    deaf = False

    def _receive(self, datagram: bytes, source: SocketAddress, destination: bytes | None) -> None:
        if not self.deaf:
            super()._receive(datagram, source, destination)


class Control(resource.Resource, resource.PathCapable):  # type: ignore[misc]
    """/ace-group/NAME/node at a device."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    async def render(self, request: aiocoap.Message) -> aiocoap.Message:
        assert device_of(request) == MANAGER
        group, node = request.opt.uri_path
        assert node == "node"
        code = self._device.asked(group, request)
        return aiocoap.Message(code=code)


class Device:
    """A device that is enrolled with a manager. `confirms`: whether it says so when it has installed a renewal."""

    def __init__(self, house: House, name: str, handle: bytes, secret: Secret) -> None:
        self.house = house
        self.name = name
        self.key = DEFAULT_SIGNATURE.generate()
        self.places: dict[str, Place] = {}
        self.confirms = True
        self.rekeys: list[RekeyMessage] = []
        site = resource.Site()
        site.add_resource(["ace-group"], Control(self))
        options = NetworkOptions("lo", IPv4Address(DEVICE_HOST), None, 0, kernel_filter=False)
        self.node = DeafNode(options, site, on_multicast=self._hear)
        self._enrolment = handle, secret
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Device:
        await self.node.__aenter__()
        self.house.tap(self.name, self.node)
        handle, secret = self._enrolment
        self.link = ManagerLink(
            self.node, [self.house.address], handle, secret, os.urandom, interval=0.01, patience=2.0
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.link.close()
        await self.node.__aexit__(kind, error, trace)

    @property
    def address(self) -> SocketAddress:
        return self.node.local_address(4)

    @property
    def credential(self) -> Credential:
        return claims_set(self.key.public_key, DEFAULT_SIGNATURE, self.name)

    def control_uri(self, group: str = "room") -> str:
        return f"coap://{DEVICE_HOST}:{self.address[1]}/ace-group/{group}/node"

    # ---- requests

    async def ask(
        self, code: Any, path: str, payload: bytes = b"", content_format: int | None = None, timeout: float = 8.0
    ) -> Any:
        """The manager's answer to a request over the association, whatever it is."""
        await self.link.associate()
        message = aiocoap.Message(code=code, uri_path=tuple(path.split("/")), payload=payload)
        message.opt.content_format = content_format
        return await self.node.request(message, self.house.address, self.link.context, timeout)

    async def request(self, group: str = "room", roles: frozenset[Role] = LISTENER, **changes: Any) -> JoinRequest:
        """A good join request, with some of its fields changed; the proof is made last, unless it is given."""
        challenge = await self.link.associate()
        sends = roles != PURE
        request = JoinRequest(
            group,
            roles,
            os.urandom(8),
            retrieve=sends,
            credential=self.credential.data if sends else None,
            control_uri=self.control_uri(group),
        )
        request = replace(request, **{key: value for key, value in changes.items() if key != "proof"})
        if "proof" in changes:
            return replace(request, proof=changes["proof"])
        if request.credential:
            signed = client_proof_input(request.scope, challenge, request.nonce)
            request = replace(request, proof=prove(self.key, signed))
        return request

    async def join(self, group: str = "room", roles: frozenset[Role] = LISTENER, **changes: Any) -> Joined:
        """Join, and it must work; confirm it."""
        request = await self.request(group, roles, **changes)
        answer = await self.ask(POST, f"ace-group/{group}", request.encode(), GROUPCOMM_CBOR)
        joined = self.joined(request, answer)
        if self.confirms:
            assert await self.confirm(group) == aiocoap.CHANGED
        return joined

    def joined(self, request: JoinRequest, answer: Any) -> Joined:
        """Take up what a join was answered."""
        assert answer.code in (aiocoap.CREATED, aiocoap.CHANGED), (answer.code, answer.payload)
        assert answer.opt.content_format == GROUPCOMM_CBOR
        self.house.log.append(Event(self.name, "answered", answer.code))
        group = request.group
        root, name, nodes, node = answer.opt.location_path
        assert (root, name, nodes) == ("ace-group", group, "nodes")
        report = KeyReport.parse(answer.payload)
        manager = report.manager_credential
        assert manager is not None
        signed = manager_proof_input(request.nonce, report.manager_nonce)
        assert verifies(manager.public_key(DEFAULT_SIGNATURE), report.manager_proof, signed)
        material = report.material
        seed = not material.parameters.profile.rules.pairwise
        before = self.places.get(group)
        place = self.places[group] = Place(
            node,
            report.num,
            material.gid,
            material.master_secret.reveal(),
            material.endpoint_id,
            seed,
            manager,
            b"",
            None,
            {} if before is None else before.keys,
        )
        place.learn(report.admin)
        control = self.house.group(group).settings.control
        if report.control_group is not None and control not in self.node.network.joined:
            self.node.join(control)
        return Joined(answer, report, node, request)

    async def confirm(self, group: str = "room") -> Any:
        """PUT …/num: the code of the answer."""
        place = self.places[group]
        path = f"ace-group/{group}/nodes/{place.node}/num"
        self.house.log.append(Event(self.name, "confirms", place.num))
        answer = await self.ask(PUT, path, cbor2.dumps([place.num, place.gid]), CBOR)
        return answer.code

    async def own_keys(self, group: str = "room") -> KeyReport:
        """GET …/nodes/NODE, and take up what it says."""
        place = self.places[group]
        answer = await self.ask(GET, f"ace-group/{group}/nodes/{place.node}")
        assert answer.code == aiocoap.CONTENT, answer.payload
        report = KeyReport.parse(answer.payload)
        place.num, place.gid = report.num, report.material.gid
        place.secret, place.endpoint_id = report.material.master_secret.reveal(), report.material.endpoint_id
        place.learn(report.admin)
        return report

    async def settle(self) -> None:
        """Have an association that is durable."""
        await self.ask(FETCH, "ace-group", cbor2.dumps({0: [b"no such Gid"]}), GROUPCOMM_CBOR)
        await until(lambda: self.house.server.associations.context(self.name))
        await self.house.server.persist()

    # ---- what comes

    def asked(self, group: str, request: Any) -> Any:
        """The manager asks something at the control URI: the code of the answer."""
        place = self.places.get(group)
        if request.code == DELETE:
            self.house.log.append(Event(self.name, "evicted", group))
            return aiocoap.DELETED
        assert request.code == POST
        assert request.opt.content_format == GROUPCOMM_CBOR
        if place is None:
            return aiocoap.CONFLICT
        message = RekeyMessage.parse(request.payload, seed=place.seed)
        self.rekeys.append(message)
        self.house.log.append(Event(self.name, "told", message.num))
        if message.num == place.num:
            return aiocoap.CHANGED
        if message.reload:  # received, and to be asked for
            return aiocoap.CHANGED
        if message.num != place.num + 1:
            return aiocoap.CONFLICT
        place.install(message)
        return aiocoap.CHANGED

    def _hear(self, message: coap.Message, source: SocketAddress) -> None:
        envelope = parse_envelope(message.payload)
        for group, place in self.places.items():
            key = place.keys.get(envelope.kid)
            if key is None or envelope.num(place.aead) != place.num + 1:
                continue
            manager_key = place.manager.public_key(DEFAULT_SIGNATURE)
            plaintext = envelope.open(key, place.aead, place.base_iv, manager_key)
            rekey = RekeyMessage.parse(plaintext, seed=place.seed)
            self.rekeys.append(rekey)
            place.install(rekey)
            self.house.log.append(Event(self.name, "heard", rekey.num))
            if self.confirms:
                task = asyncio.get_running_loop().create_task(self._confirm_quietly(group))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            return

    async def _confirm_quietly(self, group: str) -> None:
        await self.confirm(group)


class House:
    """One manager and its devices. Use it as an asynchronous context manager; when it ends, the manager's memory
    must be what its database says."""

    def __init__(
        self,
        directory: Path,
        *,
        limits: Limits = DEFAULT_LIMITS,
        association_limits: AssociationLimits = DEFAULT_ASSOCIATION_LIMITS,
        sealing: str = "none",
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        configuration = ManagerConfiguration(
            "gm", IPv4Address(MANAGER_HOST), "lo", free_port(), hop_limit=0, sealing=sealing
        )
        self.home = ManagerHome.create(directory / "gm", configuration)
        store = Store.create(self.home.url, self.home.sealing_key())
        store.commit(first_writes("gm", os.urandom, time.time()))
        store.close()
        self.address = MANAGER_HOST, configuration.port
        self.limits = limits
        self.association_limits = association_limits
        self.clock: Callable[[], float] = time.time
        self.random = random
        self.log: list[Event] = []
        self.devices: dict[str, Device] = {}
        self.compare = True
        self._stack = AsyncExitStack()
        self._number = 0

    async def __aenter__(self) -> House:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        if self.running:
            await self.stop(check=kind is None)

    async def start(self) -> None:
        """Start the manager, for the first time or again."""
        self.store = self.home.open_store()
        self.server = ManagerServer(
            self.store,
            self.home.configuration,
            control=self.home.socket,
            limits=self.limits,
            association_limits=self.association_limits,
            clock=lambda: self.clock(),
            random=self.random,
        )
        await self.server.__aenter__()
        self.tap("manager", self.server.node)
        self.running = True

    async def stop(self, check: bool = True) -> None:
        """Stop it in an orderly way."""
        self.running = False
        await self.server.__aexit__(None, None, None)
        try:
            if check and self.compare:
                stored = GroupManager(self.store.load(), self.clock, os.urandom)
                before, after = picture(self.server.manager), picture(stored)
                assert before == after, difference(before, after)
        finally:
            self.store.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def tap(self, name: str, node: CoapNode) -> None:
        network, send = node.network, node.network.send

        def sending(datagram: bytes, destination: SocketAddress) -> None:
            self.log.append(Event(name, "sends", (datagram, destination)))
            send(datagram, destination)

        network.send = sending  # type: ignore[method-assign]

    # ---- the operator

    async def perform(self, name: str, **arguments: Any) -> Any:
        return await self.server.perform(name, arguments)

    def settings(self, name: str = "room", profile: str = SEED_PROFILE, **changes: Any) -> GroupSettings:
        self._number += 1
        host = ip_address(f"239.255.71.{self._number}")
        rekey = {key: changes.pop(key) for key in list(changes) if key in RekeyPolicy.__slots__}
        manager = self.server.manager.keys[DEFAULT_SIGNATURE.number].credential
        return GroupSettings(
            name,
            (GroupAddress(host),),
            parameters_of(profile, manager),
            GroupAddress(host, free_port()),
            rekey=RekeyPolicy(**{"window": 0.0, **rekey}),
            **changes,
        )

    async def create(self, name: str = "room", profile: str = SEED_PROFILE, **changes: Any) -> Group:
        """A new group."""
        await self.perform("create_group", settings=self.settings(name, profile, **changes).to_json())
        return self.group(name)

    async def change(self, name: str = "room", **changes: Any) -> Any:
        """Change a group's settings."""
        settings = self.group(name).settings
        rekey = {key: changes.pop(key) for key in list(changes) if key in RekeyPolicy.__slots__}
        settings = replace(settings, rekey=replace(settings.rekey, **rekey), **changes)
        return await self.perform("change_group", group=name, settings=settings.to_json())

    async def device(self, name: str, rights: Mapping[str, frozenset[Role]] | None = None) -> Device:
        """A new device that is enrolled and switched on; it may have all roles in the room if nothing else is
        said."""
        given = {"room": EVERY_ROLE} if rights is None else rights
        entry = {
            "device": name,
            "rights": {group: [role.value for role in roles] for group, roles in given.items()},
        }
        (enrolment,) = (await self.perform("enroll", devices=[entry]))["enrolments"]
        device = Device(self, name, bytes.fromhex(enrolment["handle"]), Secret(bytes.fromhex(enrolment["secret"])))
        self.devices[name] = await self._stack.enter_async_context(device)
        return device

    async def members(self, *names: str, roles: frozenset[Role] = LISTENER, group: str = "room") -> list[Device]:
        """New devices, which join one after the other."""
        devices = [await self.device(name) for name in names]
        for device in devices:
            await device.join(group, roles)
        return devices

    # ---- what there is

    def group(self, name: str = "room") -> Group:
        return self.server.manager.groups[name]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """All that is stored, but for the audit log."""
        snapshot = self.store.load()
        return {name: snapshot.rows(name) for name in SHAPES if name != "audit"}

    def events(self, who: str, what: str) -> list[Any]:
        """Details of these."""
        return [event.detail for event in self.log if (event.who, event.what) == (who, what)]

    def index(self, who: str, what: str, detail: Any = None, start: int = 0) -> int:
        """Where this stands in the log for the first time."""
        for index, event in enumerate(self.log[start:], start):
            if (event.who, event.what) == (who, what) and detail in (None, event.detail):
                return index
        raise AssertionError(f"{who} never {what} {detail}")

    def sent(self, who: str, to: SocketAddress | None = None) -> list[bytes]:
        """Datagrams, in order."""
        return [data for data, where in self.events(who, "sends") if to in (None, where)]

    def multicasts(self) -> list[bytes]:
        """Datagrams that the manager has sent by multicast, each once."""
        found = [data for data, where in self.events("manager", "sends") if ip_address(where[0]).is_multicast]
        return list(dict.fromkeys(coap.decode(data).payload for data in found))

    def set_ups(self) -> int:
        """How often an association was set up."""
        return sum(
            (coap.URI_PATH, b"associate") in coap.decode(detail[0]).options
            for _, what, detail in self.log
            if what == "sends"
        )

    async def settled(self, name: str = "room") -> None:
        """Wait until all members have confirmed the current renewal, and that is durable."""
        await until(lambda: not self.server.manager.behind(self.group(name)), "not all have confirmed")
        await self.server.persist()


def problem(answer: Any) -> tuple[Any, int | None]:
    """(code, error number) of a refusal, which must be concise problem details."""
    assert answer.opt.content_format == PROBLEM_DETAILS, (answer.code, answer.opt.content_format, answer.payload)
    content = cbor2.loads(answer.payload)
    assert isinstance(content, dict)
    assert content.keys() <= {0, -1}
    assert isinstance(content.get(-1, ""), str)
    error = content.get(0, {})
    assert error.keys() <= {0}
    return answer.code, error.get(0)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory, where there is such a file system."""
    memory = MEMORY if os.path.isdir(MEMORY) and os.access(MEMORY, os.W_OK) else None
    with TemporaryDirectory(prefix="groupcoap-", dir=memory) as directory:
        yield Path(directory)


@pytest.fixture
async def house(place: Path) -> AsyncIterator[House]:
    """A manager without groups."""
    async with House(place) as house:
        yield house
