"""aiocoap's Group OSCORE as the peer: another implementation, in the groups that this one has provisioned.

A `Group` is one set of provisioned files. Its members are run by either side: `Group.endpoint` is ours,
`Group.peer` is aiocoap's context for the same files, to be served (`serving`) or to ask with (`asking`), over UDP
on loopback.

Where aiocoap 0.4.17 had to be helped, without changing a byte of what it makes of a message:

* Its key agreement on P-256 has the COSE number of its signatures (-7); the specification's is -27
  (`P256Agreement`).
* What stands for the sender of an answer in group mode cannot protect, but is what it repeats a request with after
  a 4.01 with Echo, and what it asks for further blocks with (`_FromGroup.protect`).
* It derives pairwise keys for every message, which with Ed25519 takes it 10 ms and more (`QuickAgreement`).
* It always answers in pairwise mode, there being no choice (`context_for_response`).
* It refuses a ciphertext in group mode that is shorter than the pairwise mode's tag and one byte: names and
  payloads here are long enough."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

import aiocoap
from aiocoap import oscore, resource
from aiocoap.credentials import CredentialsMap
from aiocoap.message import Direction
from aiocoap.oscore_sitewrapper import OscoreSiteWrapper
from aiocoap.pipe import Pipe
from aiocoap.transports.oscore import OSCOREAddress
from world import BEST_EFFORT, free_port

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.profile import Mode
from groupcoap.core.requests import SignatureState
from groupcoap.core.synchronization import Freshness, SynchronizationPolicy
from groupcoap.cose.algorithms import aead_algorithm, key_agreement
from groupcoap.cose.keys import signature_algorithm
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.groups import ListenerPolicy
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Multicaster
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.endpoint.remote import provenance
from groupcoap.files.identity import generate_identity
from groupcoap.files.provisioned import MemberFiles, load_member
from groupcoap.files.provisioning import DevicePlan, GroupPlan, provision
from groupcoap.files.state import MemoryState
from groupcoap.membership import GroupAddress, Role

GROUP_MODE, PAIRWISE = Mode.GROUP, Mode.PAIRWISE
MODES = (GROUP_MODE, PAIRWISE)
PATH = ("lamp", "in-the-hall")
"""Long enough for aiocoap's check of lengths (see above)."""
BIG_PATH = ("manual", "of-the-lamp")
BIG = bytes(range(256)) * 20
"""An answer that does not fit into one datagram."""
DONE = b"done as you say"
PATIENCE = 20.0
"""Seconds to wait for an answer; only a failing test waits so long."""
LOCAL = "127.0.0.1"
ALL_COAP_NODES = IPv4Address("224.0.1.187")

EDDSA, ES256 = -8, -7
CCM, CHACHA = 10, 24  # AES-CCM-16-64-128, ChaCha20/Poly1305
_AGREEMENT = -27


class Suite(NamedTuple):
    """The algorithms of a group, by their COSE numbers."""

    signature: int
    group: int
    pairwise: int

    def __str__(self) -> str:
        names = {EDDSA: "Ed25519", ES256: "P-256", CCM: "CCM", CHACHA: "ChaCha"}
        return "-".join(names[number] for number in self)


SUITES = tuple(
    Suite(signature, group, pairwise)
    for signature in (EDDSA, ES256)
    for group, pairwise in ((CCM, CCM), (CHACHA, CHACHA), (CCM, CHACHA), (CHACHA, CCM))
)
MIXED = (Suite(EDDSA, CCM, CHACHA), Suite(ES256, CHACHA, CCM))


# ---- aiocoap's contexts


class P256Agreement(oscore.ECDSA_SHA256_P256):  # type: ignore[misc]
    """Static-static ECDH on P-256 under its own COSE number."""

    value = _AGREEMENT


class QuickAgreement(oscore.EcdhSsHkdf256):  # type: ignore[misc]
    """aiocoap's key agreement with Ed25519 keys, done once for two keys and not again for each message."""

    def __init__(self) -> None:
        self._agreed: dict[tuple[bytes, bytes], bytes] = {}

    def staticstatic(self, private_key: bytes, public_key: bytes) -> bytes:
        pair = private_key, public_key
        if pair not in self._agreed:
            self._agreed[pair] = super().staticstatic(*pair)
        return self._agreed[pair]


class _FromGroup(oscore._GroupContextAspect):  # type: ignore[misc]
    """What has come from one member in group mode. `asks`: the context that the request was made with, if what has
    come is the answer to one."""

    def __init__(self, group: PeerContext, recipient_id: bytes, asks: Any = None) -> None:
        super().__init__(group, recipient_id)
        self._asks = asks

    def context_for_response(self) -> Any:
        return self.groupcontext.responding(self.recipient_id, GROUP_MODE)

    def protect(self, *arguments: Any, **named: Any) -> Any:
        return self._asks.protect(*arguments, **named)

    def context_from_response(self, unprotected: Any) -> Any:
        return self._asks.context_from_response(unprotected)


class _Pairwise(oscore._PairwiseContextAspect):  # type: ignore[misc]
    """To and from one member in pairwise mode."""

    def context_for_response(self) -> Any:
        return self.groupcontext.responding(self.recipient_id, PAIRWISE)

    def context_from_response(self, unprotected: Any) -> Any:
        found = super().context_from_response(unprotected)
        return found if found is self else _FromGroup(self.groupcontext, self.recipient_id, self)


class PeerContext(oscore.SimpleGroupContext):  # type: ignore[misc]
    """A member of a group as aiocoap has it. `answers`: the mode of its answers; None: that of the request, in
    which aiocoap itself would answer pairwise requests only. `answering`: another context to answer with."""

    answers: Mode | None = None
    answering: PeerContext | None = None

    def get_oscore_context_for(self, unprotected: Any) -> Any:
        found = super().get_oscore_context_for(unprotected)
        if found is None:
            return None
        pairwise = isinstance(found, oscore._PairwiseContextAspect)
        return (_Pairwise if pairwise else _FromGroup)(self, found.recipient_id)

    def context_from_response(self, unprotected: Any) -> Any:
        found = super().context_from_response(unprotected)
        if isinstance(found, oscore._PairwiseContextAspect):
            return _Pairwise(self, found.recipient_id)
        return _FromGroup(self, found.recipient_id, self)

    def pairwise_for(self, recipient_id: bytes) -> Any:
        return _Pairwise(self, recipient_id)

    def responding(self, recipient_id: bytes, asked_in: Mode) -> Any:
        """What answers to this member are protected with."""
        who = self.answering or self
        mode = self.answers or asked_in
        return who if mode is GROUP_MODE else who.pairwise_for(recipient_id)

    def asking(self, mode: Mode, recipient_id: bytes) -> Any:
        """What requests to this member are protected with."""
        return self if mode is GROUP_MODE else self.pairwise_for(recipient_id)


def _algorithm(number: int) -> Any:
    return next(found for found in oscore.algorithms.values() if found.value == number)


class Parts(NamedTuple):
    """What a peer's context is made of: of the provisioned files, or with something changed."""

    suite: Suite
    gid: bytes
    secret: bytes
    salt: bytes
    manager: bytes
    own_id: bytes
    private_key: Any
    credential: bytes
    peers: dict[bytes, bytes]

    def context(self, answers: Mode | None = None) -> PeerContext:
        """As aiocoap has it, where it had to be helped."""
        made: PeerContext = self.make(PeerContext)
        if self.suite.signature == EDDSA:
            made.alg_pairwise_key_agreement = QuickAgreement()
        made.answers = answers
        return made

    def make(self, kind: type[Any]) -> Any:
        """As aiocoap has it. Private keys are as it wants them: bytes for Ed25519, an object for P-256."""
        suite = self.suite
        eddsa = suite.signature == EDDSA
        return kind(
            _algorithm(suite.pairwise),
            oscore.hashfunctions["sha256"],
            oscore.Ed25519() if eddsa else oscore.ECDSA_SHA256_P256(),
            _algorithm(suite.group),
            oscore.EcdhSsHkdf256() if eddsa else P256Agreement(),
            self.gid,
            self.secret,
            self.salt,
            self.own_id,
            self.private_key.secret.reveal() if eddsa else self.private_key._key,
            self.credential,
            dict(self.peers),
            self.manager,
        )


def parts(member: MemberFiles) -> Parts:
    """What the files of a device say of its one group."""
    configuration = member.groups[0]
    epoch = configuration.current
    assert configuration.aead is not None
    assert configuration.manager_credential is not None
    assert epoch.own_id is not None
    assert epoch.credential is not None
    return Parts(
        Suite(
            configuration.signature.number, configuration.parameters.encryption.number, configuration.aead.number
        ),
        epoch.gid,
        epoch.master_secret.reveal(),
        epoch.master_salt,
        configuration.manager_credential.authenticated,
        epoch.own_id,
        epoch.private_key,
        epoch.credential.authenticated,
        {m.endpoint_id: m.credential.authenticated for m in epoch.members if m.endpoint_id != epoch.own_id},
    )


def with_new_key(these: Parts, own_id: bytes) -> Parts:
    """The same for somebody who has the group's keys, but signs with a key that nobody knows."""
    identity = generate_identity("stranger", signature_algorithm(these.suite.signature), claims=True)
    peers = {kid: credential for kid, credential in these.peers.items() if kid != own_id}
    return these._replace(
        own_id=own_id,
        private_key=identity.private_key,
        credential=identity.credential.authenticated,
        peers=peers,
    )


# ---- what is served, by either side


class Asked(NamedTuple):
    """A request that has reached a resource, and the mode it came in."""

    code: Any
    payload: bytes
    mode: Mode


def mode_of(request: aiocoap.Message) -> Mode:
    """Of a request at either side's resource, or an answer at aiocoap's client."""
    remote = request.remote
    if isinstance(remote, OSCOREAddress):
        return PAIRWISE if isinstance(remote.security_context, oscore._PairwiseContextAspect) else GROUP_MODE
    origin = provenance(request)
    assert origin is not None
    return mode_of_signature(origin.signature)


def mode_of_signature(signature: SignatureState) -> Mode:
    """Of an authentic message."""
    return {SignatureState.PAIRWISE: PAIRWISE, SignatureState.VERIFIED: GROUP_MODE}[signature]


class Lamp(resource.ObservableResource):  # type: ignore[misc]
    """A lamp: remembers who asked for what, and, at our endpoint, how fresh that was. `echo`: a value that it wants
    to see before it does anything; `echoed`: the modes in which it has."""

    def __init__(self, name: str = "a lamp") -> None:
        super().__init__()
        self.state = f"{name} is off".encode()
        self.asked: list[Asked] = []
        self.echo: bytes | None = None
        self.echoed: list[Mode] = []
        self.freshness: list[Freshness] = []

    def _note(self, request: aiocoap.Message) -> None:
        self.asked.append(Asked(request.code, request.payload, mode_of(request)))
        origin = provenance(request)
        if origin is not None:
            self.freshness.append(origin.freshness)

    def _challenge(self, request: aiocoap.Message) -> aiocoap.Message | None:
        if self.echo is None:
            return None
        if request.opt.echo == self.echo:
            self.echoed.append(mode_of(request))
            return None
        return aiocoap.Message(code=aiocoap.UNAUTHORIZED, echo=self.echo)

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        challenge = self._challenge(request)
        if challenge is not None:
            return challenge
        self._note(request)
        return aiocoap.Message(payload=self.state)

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        challenge = self._challenge(request)
        if challenge is not None:
            return challenge
        self._note(request)
        self.switch(request.payload)
        return aiocoap.Message(code=aiocoap.CHANGED, payload=DONE)

    def switch(self, state: bytes) -> None:
        """Change, and tell the observers."""
        self.state = state
        self.updated_state()

    @property
    def observers(self) -> int:
        """How many there are."""
        return len(self._observations)


class Manual(resource.Resource):  # type: ignore[misc]
    """Text that goes in blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.uploaded: list[bytes] = []

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=BIG, etag=b"v1")

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        self.uploaded.append(request.payload)
        return aiocoap.Message(code=aiocoap.CHANGED, payload=DONE)


def site_of(lamp: Lamp, manual: Manual | None = None) -> resource.Site:
    """A site with this lamp and the manual."""
    site = resource.Site()
    site.add_resource(PATH, lamp)
    site.add_resource(BIG_PATH, manual or Manual())
    return site


# ---- aiocoap as a server and as a client


class _Site(OscoreSiteWrapper):  # type: ignore[misc]
    """aiocoap's site for OSCORE. Counts the requests that it is done with."""

    done = 0

    async def render_to_pipe(self, pipe: Pipe) -> None:
        try:
            await super().render_to_pipe(pipe)
        finally:
            self.done += 1


@dataclass
class PeerServer:
    """aiocoap, serving a lamp. `address`: where it takes unicast requests."""

    context: aiocoap.Context
    site: _Site
    security: Any
    lamp: Lamp
    address: tuple[str, int]

    @property
    def kid(self) -> bytes:
        kid: bytes = self.security.sender_id
        return kid

    def has_done(self, requests: int) -> bool:
        """Whether it is done with so many, served or not."""
        return self.site.done >= requests


@asynccontextmanager
async def serving(
    security: Any, lamp: Lamp | None = None, *, group: GroupAddress | None = None
) -> AsyncIterator[PeerServer]:
    """An aiocoap server: at a port of its own, or, for a `group`, at the group's address and port, which several
    may share; unicast requests then reach any of them."""
    credentials = CredentialsMap()
    credentials[":group"] = security
    lamp = lamp or Lamp(security.sender_id.hex())
    site = _Site(site_of(lamp), credentials)
    context = await aiocoap.Context.create_server_context(
        site,
        bind=(LOCAL, 0) if group is None else ("::", group.port),
        multicast=[] if group is None else [(str(group.host), "lo")],
        transports=["udp6"],
    )
    # Only now: a listener of ours may have the group's address at this port too, but nobody this one.
    _socket(context).setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        yield PeerServer(context, site, security, lamp, (LOCAL, _socket(context).getsockname()[1]))
    finally:
        await context.shutdown()


def _socket(context: aiocoap.Context) -> Any:
    """The one of a server."""
    return context.request_interfaces[0].token_interface.message_interface.transport.get_extra_info("socket")


class PeerClient:
    """aiocoap, asking."""

    def __init__(self, context: aiocoap.Context) -> None:
        self.context = context

    async def ask(self, message: aiocoap.Message) -> aiocoap.Message:
        """The answer to this request. What aiocoap raises if it is refused."""
        async with asyncio.timeout(PATIENCE):
            return await self.context.request(message).response


@asynccontextmanager
async def asking(security: Any) -> AsyncIterator[PeerClient]:
    """An aiocoap client that protects all requests with this: a group's context or a pairwise one."""
    context = await aiocoap.Context.create_client_context(transports=["oscore", "udp6"])
    context.client_credentials["coap://*"] = security
    try:
        yield PeerClient(context)
    finally:
        await context.shutdown()


def to(
    endpoint: Endpoint, code: Any = aiocoap.GET, path: tuple[str, ...] = PATH, **options: Any
) -> aiocoap.Message:
    """A request of aiocoap's to an endpoint of ours, by unicast."""
    host, port = endpoint.network.local_address(4)[:2]
    return aiocoap.Message(code=code, uri=f"coap://{host}:{port}/{'/'.join(path)}", **options)


def request(code: Any = aiocoap.GET, path: tuple[str, ...] = PATH, **options: Any) -> aiocoap.Message:
    """For the lamp, or another path."""
    return aiocoap.Message(code=code, uri_path=path, **options)


async def ask_all(
    security: PeerContext, message: aiocoap.Message, group: GroupAddress, count: int
) -> dict[bytes, tuple[Mode, aiocoap.Message]]:
    """Send this to a group and take so many answers: aiocoap protects and unprotects, but the socket is not its,
    since it takes one answer to a request at most."""
    outer, ids = security.protect(message)
    outer.mtype, outer.mid, outer.token = aiocoap.NON, 1, b"all"
    loop = asyncio.get_running_loop()
    found: dict[bytes, tuple[Mode, aiocoap.Message]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((LOCAL, 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOCAL))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        async with asyncio.timeout(PATIENCE):
            await loop.sock_sendto(sock, outer.encode(), (str(group.host), group.port))
            while len(found) < count:
                kid, mode, answer = _unprotected(security, await loop.sock_recv(sock, 2048), ids)
                assert kid not in found
                found[kid] = mode, answer
    return found


def _unprotected(security: PeerContext, datagram: bytes, ids: Any) -> tuple[bytes, Mode, aiocoap.Message]:
    """(who answers, in which mode, what) of an answer to a group request of aiocoap's."""
    outer = aiocoap.Message.decode(datagram)
    outer.direction = Direction.INCOMING
    assert (outer.mtype, outer.token) == (aiocoap.NON, b"all")
    answering = security.context_from_response(oscore.verify_start(outer))
    answer, _ = answering.unprotect(outer, ids)
    pairwise = isinstance(answering, oscore._PairwiseContextAspect)
    return answering.recipient_id, PAIRWISE if pairwise else GROUP_MODE, answer


# ---- the group


@dataclass(frozen=True)
class Group:
    """A provisioned group: switch-1, a multicaster, and three listeners lamp-1 to lamp-3."""

    directory: Path
    address: GroupAddress
    suite: Suite

    @cached_property
    def lamps(self) -> dict[str, bytes]:
        """Name → Endpoint ID."""
        members = self.files("switch-1").groups[0].current.members
        return {member.name: member.endpoint_id for member in members if Role.LISTENER in member.roles}

    def files(self, name: str) -> MemberFiles:
        """Of this device."""
        return load_member(self.directory / name)

    def peer(self, name: str, answers: Mode | None = None) -> PeerContext:
        """This device as aiocoap has it."""
        return parts(self.files(name)).context(answers)

    def endpoint(
        self, name: str, response_mode: Mode | None = None, synchronization: SynchronizationPolicy | None = None
    ) -> Endpoint:
        """This device as ours."""
        return Endpoint(
            self.files(name).membership,
            MemoryState(),
            NetworkOptions("lo", IPv4Address(LOCAL), hop_limit=0, kernel_filter=False),
            policy=ListenerPolicy(synchronization=synchronization, response_mode=response_mode),
            leisure=0.0,
        )

    @asynccontextmanager
    async def switch(self) -> AsyncIterator[Multicaster]:
        """Our multicaster."""
        async with self.endpoint("switch-1") as endpoint:
            yield Multicaster(endpoint, "room")

    @asynccontextmanager
    async def lamp(
        self,
        name: str = "lamp-1",
        response_mode: Mode | None = None,
        synchronization: SynchronizationPolicy | None = None,
        manual: Manual | None = None,
    ) -> AsyncIterator[tuple[Endpoint, Lamp]]:
        """Our listener, with what it serves."""
        async with self.endpoint(name, response_mode, synchronization) as endpoint:
            lamp = Lamp(name)
            Listener(endpoint, site_of(lamp, manual))
            yield endpoint, lamp


def make_group(directory: Path, suite: Suite, *, sign_protected: bool = True) -> Group:
    """Provision a group with these algorithms, at a port of its own. `sign_protected`: as aiocoap countersigns."""
    address = GroupAddress(ALL_COAP_NODES, free_port())
    plan = GroupPlan(
        "room",
        (address,),
        GroupPolicy(BEST_EFFORT),
        aead=aead_algorithm(suite.pairwise),
        signature=signature_algorithm(suite.signature),
        profile=GROUP_OSCORE,
        group_encryption=aead_algorithm(suite.group),
        key_agreement=key_agreement(_AGREEMENT),
        sign_protected=sign_protected,
    )
    lamps = [DevicePlan(f"lamp-{n}", frozenset({Role.LISTENER})) for n in (1, 2, 3)]
    provision(directory, plan, [DevicePlan("switch-1", frozenset({Role.MULTICASTER})), *lamps])
    return Group(directory, address, suite)
