"""Peers, as aiocoap's layers see them: (socket address, group, Endpoint ID)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from aiocoap import interfaces
from aiocoap.util import hostportjoin

from ..core.exchange import IncomingExchange
from ..core.profile import Mode
from ..core.requests import SignatureState
from ..core.synchronization import Freshness
from ..membership import COAP_PORT
from .network import SocketAddress

if TYPE_CHECKING:
    from aiocoap import Message


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is known of where a delivered message came from.

    `signature` VERIFIED or PAIRWISE: exactly this Endpoint ID made it; otherwise only that some member of the group
    did. `sequence_number` is None for a response that used its request's nonce."""

    group: str
    gid: bytes
    endpoint_id: bytes
    sequence_number: int | None
    signature: SignatureState
    freshness: Freshness


class Awaited(NamedTuple):
    """From when and until when answers to a request are collected (monotonic seconds), and whose."""

    sent: float
    deadline: float
    roster: frozenset[bytes]


class Incoming:
    """A received request while it may be answered: its exchange, and from when on answers may leave (Leisure).
    `final_block`: the outer Block1 value of the last piece, if a proxy has cut it up."""

    __slots__ = ("exchange", "final_block", "group", "release_at")

    def __init__(
        self, group: str, exchange: IncomingExchange, release_at: float, final_block: bytes | None = None
    ) -> None:
        self.group = group
        self.exchange = exchange
        self.release_at = release_at
        self.final_block = final_block


def _host_and_port(address: SocketAddress) -> str:
    text: str = hostportjoin(address[0], None if address[1] == COAP_PORT else address[1])
    return text


class SocketRemote(interfaces.EndpointAddress):  # type: ignore[misc]
    """A peer by its socket address alone."""

    scheme = "coap"
    is_multicast = False
    is_multicast_locally = False
    maximum_block_size_exp = 6
    maximum_payload_size = 1024
    last_block: Any = None
    """Of a request whose body came in blocks: the last one's Block1 option, which its response has again."""

    def __init__(self, address: SocketAddress, local: SocketAddress | None = None) -> None:
        self.address = address
        self.local = local

    @property
    def peer(self) -> Hashable:
        """Who limits count this for: nothing about it is authentic, so its host."""
        return self.address[0]

    @property
    def identity(self) -> tuple[object, ...]:
        """What peers are told apart by."""
        return (self.address[:2],)

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SocketRemote) and self.identity == other.identity

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.hostinfo}>"

    @property
    def hostinfo(self) -> str:
        return _host_and_port(self.address)

    @property
    def hostinfo_local(self) -> str:
        if self.local is None:
            raise ValueError("the local address of this peer is not known")
        return _host_and_port(self.local)

    @property
    def uri_base(self) -> str:
        return f"coap://{self.hostinfo}"

    @property
    def uri_base_local(self) -> str:
        return f"coap://{self.hostinfo_local}"

    @property
    def blockwise_key(self) -> tuple[object, ...]:
        return self.identity


class GroupRemote(SocketRemote):
    """A member of a group at a socket address, or the group's multicast address (`endpoint_id` None).

    On a received message it also carries the `provenance`, and on a request what is needed to answer. `awaited`:
    who is expected to answer what is sent there, if that is to be remembered beyond the process. `mode`: of
    requests to a member; None: pairwise where there is such a mode. `observe_inside`: of an answer, that its
    Observe option is authentic, and so is the lack of one."""

    def __init__(
        self,
        address: SocketAddress,
        group: str,
        endpoint_id: bytes | None,
        *,
        local: SocketAddress | None = None,
        provenance: Provenance | None = None,
        incoming: Incoming | None = None,
        locally_multicast: bool = False,
        awaited: Awaited | None = None,
        mode: Mode | None = None,
        observe_inside: bool = False,
    ) -> None:
        super().__init__(address, local)
        self.awaited = awaited
        self.mode = mode
        self.observe_inside = observe_inside
        self.group = group
        self.endpoint_id = endpoint_id
        self.provenance = provenance
        self.incoming = incoming
        self.is_multicast = endpoint_id is None
        self.is_multicast_locally = locally_multicast

    @property
    def peer(self) -> Hashable:
        """Who limits count this for: the member, wherever it is."""
        return self.group, self.endpoint_id

    @property
    def identity(self) -> tuple[object, ...]:
        return (self.address[:2], self.group, self.endpoint_id)

    def as_response_address(self) -> GroupRemote:
        if not self.is_multicast_locally:
            return self
        return GroupRemote(
            self.address,
            self.group,
            self.endpoint_id,
            local=self.local,
            provenance=self.provenance,
            incoming=self.incoming,
        )

    @property
    def authenticated_claims(self) -> tuple[Provenance, ...]:
        """The provenance, if it is certain who made the message."""
        if self.provenance is not None and self.provenance.signature.authentic:
            return (self.provenance,)
        return ()

    def __repr__(self) -> str:
        who = "the group" if self.endpoint_id is None else self.endpoint_id.hex() or "(empty id)"
        return f"<GroupRemote {self.hostinfo} {who} of {self.group!r}>"


def provenance(message: Message) -> Provenance | None:
    """Where a request given to a resource, or an answer, came from; None for plain CoAP."""
    found: Provenance | None = getattr(message.remote, "provenance", None)
    return found
