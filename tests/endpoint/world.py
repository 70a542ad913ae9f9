"""A small world for endpoint tests: groups made in memory, real sockets on the loopback interface."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address

import suites
from suites import Suite

from groupcoap.core.policy import GroupPolicy
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.cose.credentials import Credential
from groupcoap.cose.keys import PrivateKey
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.groups import ListenerPolicy
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.files.state import MemoryState, RuntimeState
from groupcoap.membership import (
    Epoch,
    EpochInstalled,
    GroupAddress,
    GroupConfiguration,
    Member,
    MembershipEvent,
    Role,
)
from groupcoap.secret import Secret

BEST_EFFORT = SynchronizationPolicy(Method.BEST_EFFORT)
BASELINE = SynchronizationPolicy(Method.BASELINE)
CHALLENGE = SynchronizationPolicy(Method.CHALLENGE_RESPONSE)


def free_port() -> int:
    """A port that no other test uses at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Source:
    """A membership source that a test drives."""

    def __init__(self, configurations: Iterable[GroupConfiguration]) -> None:
        self.configurations = list(configurations)
        self.subscribers: list[Callable[[MembershipEvent], None]] = []
        self.looked_up: list[bytes] = []
        self.refreshed = 0
        self.credentials: dict[bytes, Credential] = {}
        self.low: list[tuple[str, bytes, bytes]] = []
        self.unknown: list[bytes] = []

    def groups(self) -> Sequence[GroupConfiguration]:
        return tuple(self.configurations)

    def subscribe(self, receive: Callable[[MembershipEvent], None]) -> Callable[[], None]:
        self.subscribers.append(receive)
        return lambda: self.subscribers.remove(receive)

    def refresh(self) -> None:
        self.refreshed += 1

    async def credential(self, group: str, gid: bytes, endpoint_id: bytes) -> Credential | None:
        self.looked_up.append(endpoint_id)
        return self.credentials.get(endpoint_id)

    def running_low(self, group: str, gid: bytes, own_id: bytes) -> None:
        self.low.append((group, gid, own_id))

    def unknown_gid(self, gid: bytes) -> None:
        self.unknown.append(gid)

    def tell(self, event: MembershipEvent) -> None:
        for subscriber in list(self.subscribers):
            subscriber(event)


@dataclass
class World:
    """One group with its members; `endpoint` opens one of them on a loopback address of its own."""

    name: str = "room"
    multicasters: int = 1
    listeners: int = 2
    pure_listeners: int = 0
    policy: GroupPolicy = field(default_factory=lambda: GroupPolicy(synchronization=BEST_EFFORT))
    addresses: tuple[GroupAddress, ...] = ()
    keys: dict[bytes, PrivateKey] = field(default_factory=dict)
    secret: Secret = field(default_factory=lambda: Secret(os.urandom(16)))
    gid: bytes = field(default_factory=lambda: os.urandom(8) + bytes(4))
    suite: Suite = field(default_factory=lambda: suites.default)
    salt: bytes = field(default_factory=lambda: os.urandom(8))

    def __post_init__(self) -> None:
        self.port = free_port()
        if not self.addresses:
            self.addresses = (GroupAddress(IPv4Address("224.0.1.187"), self.port),)
        for kid in (*self.switch_ids, *self.lamp_ids):
            self.keys.setdefault(kid, self.suite.generate())

    @property
    def switch_ids(self) -> list[bytes]:
        return [bytes((0x80 + i,)) for i in range(self.multicasters)]

    @property
    def lamp_ids(self) -> list[bytes]:
        return [bytes((1 + i,)) for i in range(self.listeners)]

    @property
    def members(self) -> tuple[Member, ...]:
        def member(kid: bytes, role: Role) -> Member:
            credential = self.suite.credential(self.keys[kid].public_key)
            return Member(kid, f"{role.value}-{kid.hex()}", frozenset({role}), credential)

        return (
            *(member(kid, Role.MULTICASTER) for kid in self.switch_ids),
            *(member(kid, Role.LISTENER) for kid in self.lamp_ids),
        )

    def epoch(self, kid: bytes | None) -> Epoch:
        key = None if kid is None else self.keys[kid]
        credential = None if key is None else self.suite.credential(key.public_key)
        return Epoch(
            self.gid, self.secret, kid, key, self.members, master_salt=self.master_salt, credential=credential
        )

    @property
    def master_salt(self) -> bytes:
        """Empty where the profile has none."""
        return self.salt if self.suite.bound else b""

    def configuration(self, kid: bytes | None) -> GroupConfiguration:
        speaking = Role.MULTICASTER if kid in self.switch_ids else Role.LISTENER
        role = Role.PURE_LISTENER if kid is None else speaking
        return GroupConfiguration(
            self.name,
            addresses=self.addresses,
            roles=frozenset({role}),
            epochs=(self.epoch(kid),),
            policy=self.policy,
            **self.suite.of_configuration,
        )

    def source(self, kid: bytes | None) -> Source:
        return Source([self.configuration(kid)])

    def renew(self, sources: dict[bytes | None, Source], departed: frozenset[bytes] = frozenset()) -> None:
        """A new Gid and Master Secret for everyone in `sources`."""
        number = int.from_bytes(self.gid[8:], "big") + 1
        self.gid = self.gid[:8] + number.to_bytes(4, "big")
        self.secret = Secret(os.urandom(16))
        self.salt = os.urandom(8)
        for kid, source in sources.items():
            old = source.configurations[0]
            epoch = replace(self.epoch(kid), departed=departed)
            source.configurations[0] = replace(old, epochs=(*old.epochs, epoch))
            source.tell(EpochInstalled(source.configurations[0]))

    def host(self, kid: bytes | None) -> str:
        """127.0.0.x of this member; several per host, all on loopback."""
        if kid is None:
            return "127.0.0.250"
        return f"127.0.{kid[0] >> 7}.{(kid[0] & 0x7F) + 1}"

    def endpoint(
        self,
        kid: bytes | None,
        *,
        source: Source | None = None,
        state: RuntimeState | None = None,
        policy: ListenerPolicy | None = None,
        leisure: float = 0.0,
        network: NetworkOptions | None = None,
        **options: object,
    ) -> Endpoint:
        # the kernel's filter would keep from a test what it wants to see dropped
        loopback = NetworkOptions("lo", ip_address(self.host(kid)), hop_limit=0, kernel_filter=False)
        return Endpoint(
            source or self.source(kid),
            state or MemoryState(),
            network or loopback,
            policy=policy,
            leisure=leisure,
            **options,  # type: ignore[arg-type]
        )
