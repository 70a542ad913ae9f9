"""The processes of the churn test: a manager, members, and somebody who was evicted and goes on with the keys it
had."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiocoap
from aiocoap import resource
from children import Link

from groupcoap.core.policy import profile_by_name
from groupcoap.cose.credentials import Credential
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Collection, Multicaster
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.endpoint.remote import provenance
from groupcoap.errors import GroupcoapError, NetworkFault
from groupcoap.files.documents import Json, write_document
from groupcoap.files.identity import IDENTITY_FILE, load_identity
from groupcoap.files.state import MemoryState
from groupcoap.manager.control import ask
from groupcoap.manager.decisions import first_writes
from groupcoap.manager.home import ManagerConfiguration, ManagerHome
from groupcoap.manager.server import ManagerServer
from groupcoap.manager.settings import GroupSettings, RekeyPolicy
from groupcoap.manager.store.store import Store
from groupcoap.member.enrolment import ENROLMENT_FILE, KIND
from groupcoap.member.keeping import kept_path, load_kept
from groupcoap.member.membership import ManagedMembership
from groupcoap.membership import (
    EpochInstalled,
    GroupAddress,
    GroupConfiguration,
    GroupLeft,
    MembershipEvent,
    SecurityParameters,
)

GROUP = "hall"
PORT = 5683
MULTICAST = IPv4Address("239.7.7.7")
PERIOD = 0.4
"""Seconds between two requests of a switch."""
TIMEOUT = 2.0

LAMP, SWITCH = "listener", "multicaster"


# ---- the manager


def make_manager(directory: Path, bind: IPv4Address, rekey: RekeyPolicy, grace: float) -> ManagerHome:
    """A manager with one group, not running."""
    home = ManagerHome.create(directory, ManagerConfiguration("gm", bind, "e0"))
    store = Store.create(home.url, home.sealing_key())
    store.commit(first_writes("gm", os.urandom, time.time()))
    store.close()
    parameters = SecurityParameters(profile_by_name("multicast-oscore-04"))
    settings = GroupSettings(
        GROUP,
        (GroupAddress(MULTICAST, PORT),),
        parameters,
        GroupAddress(MULTICAST, PORT + 2),
        rekey=rekey,
    )
    settings = replace(settings, policy=replace(settings.policy, grace=grace))
    ask(home, "create_group", settings=settings.to_json())
    return home


def enroll(home: ManagerHome, names: Sequence[tuple[str, str]]) -> Json:
    """Their enrolments: {device: body}."""
    devices = [{"device": name, "rights": {GROUP: [role]}} for name, role in names]
    enrolments = ask(home, "enroll", devices=devices)["enrolments"]
    return {entry["device"]: entry for entry in enrolments}


async def manage(link: Link, directory: Path) -> None:
    """The manager, until it is killed."""
    home = ManagerHome.load(directory)
    store = home.open_store()
    async with ManagerServer(store, home.configuration, control=home.socket, place=directory):
        link.tell("ready")
        await asyncio.Event().wait()


# ---- members


@dataclass
class Witness:
    """What a member has seen of others: deliveries that must not have been."""

    banned: set[tuple[bytes, bytes]] = field(default_factory=set)
    """(Gid, Endpoint ID) of those that an installed renewal has removed."""
    violations: list[str] = field(default_factory=list)
    delivered: Counter[str] = field(default_factory=Counter)
    gids: list[bytes] = field(default_factory=list)
    evil: int = 0
    """Requests of somebody evicted, before the renewal that removed it was here."""
    left: str | None = None

    def tell(self, event: MembershipEvent) -> None:
        if isinstance(event, EpochInstalled):
            epoch = event.configuration.current
            self.banned |= {(gid, kid) for gid in self.gids for kid in epoch.departed}
            self.gids.append(epoch.gid)
        elif isinstance(event, GroupLeft):
            self.left = event.why

    def saw(self, what: str, gid: bytes, kid: bytes, sender: str) -> None:
        self.delivered[what] += 1
        if (gid, kid) in self.banned:
            self.violations.append(f"{what} of {kid.hex()} under {gid.hex()} after it had left")
        if sender == "evil":
            self.evil += 1


class Lamp(resource.Resource):  # type: ignore[misc]
    """Notes who asks."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self._witness = witness

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        origin = provenance(request)
        assert origin is not None
        self._witness.saw("request", origin.gid, origin.endpoint_id, request.payload.decode())
        return aiocoap.Message(code=aiocoap.CHANGED)


@dataclass
class Asked:
    """What became of a switch's requests."""

    complete: int = 0
    named: int = 0
    """Requests of which somebody was named missing."""
    refused: int = 0
    unnamed: list[str] = field(default_factory=list)


def write_enrolment(directory: Path, enrolment: Json) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / ENROLMENT_FILE).exists():
        write_document(directory / ENROLMENT_FILE, KIND, enrolment)


async def member(link: Link, directory: Path, address: IPv4Address, role: str) -> None:
    """A member, from nothing or from what it has kept, until it is told to stop, leave, or is killed."""
    witness, asked = Witness(), Asked()
    network = NetworkOptions("e0", address)
    async with AsyncExitStack() as stack:
        membership = await stack.enter_async_context(
            ManagedMembership(directory, network, unknown_gid_interval=1.0)
        )
        await membership.ready(60)
        witness.gids.append(membership.groups()[0].current.gid)
        membership.subscribe(witness.tell)
        state = stack.enter_context(membership.open_state())
        endpoint = await stack.enter_async_context(
            Endpoint(membership, state, NetworkOptions("e0", address, PORT), leisure=0.3)
        )
        asking = None
        if role == LAMP:
            site = resource.Site()
            site.add_resource(["light"], Lamp(witness))
            Listener(endpoint, site)
        else:
            asking = asyncio.create_task(_ask(Multicaster(endpoint, GROUP), witness, asked))
        link.tell(("ready", directory.name))
        await _obey(link, membership, witness, asked, asking, endpoint)


async def _obey(
    link: Link,
    membership: ManagedMembership,
    witness: Witness,
    asked: Asked,
    asking: asyncio.Task[None] | None,
    endpoint: Endpoint,
) -> None:
    while True:
        match await link.told():
            case "hush":
                if asking is not None:
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                link.tell("quiet")
            case "once":
                message = aiocoap.Message(code=aiocoap.PUT, uri_path=("light",), payload=b"switch")
                collection = Multicaster(endpoint, GROUP).request(message, timeout=10)
                link.tell(len({answer.endpoint_id async for answer in collection}))
            case "leave":
                for _ in range(5):
                    with suppress(NetworkFault):
                        await membership.leave(GROUP)
                        break
                link.tell((witness, asked))
                return
            case "report":
                gids = [configuration.current.gid for configuration in membership.groups()]
                link.tell((gids, witness, asked))


async def _ask(switch: Multicaster, witness: Witness, asked: Asked) -> None:
    """Requests all the while. An answer is counted, or its sender is named missing, or the request was refused to
    us: nothing vanishes."""
    while witness.left is None:
        message = aiocoap.Message(code=aiocoap.PUT, uri_path=("light",), payload=b"switch")
        try:
            collection = switch.request(message, timeout=TIMEOUT)
        except GroupcoapError:
            asked.refused += 1
            await asyncio.sleep(PERIOD)
            continue
        await _collect(collection, witness, asked)
        await asyncio.sleep(PERIOD * random.random())


async def _collect(collection: Collection, witness: Witness, asked: Asked) -> None:
    answered = set()
    expected = collection.roster
    async for answer in collection:
        witness.saw("answer", answer.provenance.gid, answer.endpoint_id, "lamp")
        answered.add(answer.endpoint_id)
    silent = collection.roster - answered - collection.missing
    if silent or (expected - answered and not collection.missing and collection.roster == expected):
        asked.unnamed.append(f"{sorted(kid.hex() for kid in silent)}")
    if collection.missing:
        asked.named += 1
    else:
        asked.complete += 1


# ---- somebody who was evicted


class Stolen:
    """A membership source that never changes: the keys that somebody had when it was evicted."""

    def __init__(self, configuration: GroupConfiguration) -> None:
        self._configuration = configuration

    def groups(self) -> Sequence[GroupConfiguration]:
        return (self._configuration,)

    def subscribe(self, receive: Any) -> Any:
        return lambda: None

    def refresh(self) -> None: ...

    def running_low(self, group: str, gid: bytes, own_id: bytes) -> None: ...

    def unknown_gid(self, gid: bytes) -> None: ...

    async def credential(self, group: str, gid: bytes, endpoint_id: bytes) -> Credential | None:
        return None


def steal(directory: Path) -> Path:
    """A copy of all that a device has kept."""
    copy = directory.with_name(f"{directory.name}-stolen")
    shutil.copytree(directory, copy)
    return copy


async def evil(link: Link, directory: Path, address: IPv4Address) -> None:
    """Sends with stolen keys, and says how many answers that got since it was told to count."""
    answers = 0
    kept = load_kept(kept_path(directory, GROUP), GROUP)
    assert kept is not None
    configuration = kept.state.configuration(load_identity(directory / IDENTITY_FILE))
    async with Endpoint(Stolen(configuration), MemoryState(), NetworkOptions("e0", address, PORT)) as endpoint:
        switch = Multicaster(endpoint, GROUP)
        link.tell("ready")
        orders = asyncio.create_task(link.told())
        while not (orders.done() and orders.result() == "stop"):
            if orders.done():  # from now on there must be none
                answers = 0
                orders = asyncio.create_task(link.told())
            message = aiocoap.Message(code=aiocoap.PUT, uri_path=("light",), payload=b"evil")
            async for _ in switch.request(message, timeout=0.5):
                answers += 1
    link.tell(answers)
