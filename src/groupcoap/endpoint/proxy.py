"""A forward proxy between a multicaster and a group (RFC 7252 §5.7, draft §1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..membership import COAP_PORT
from .network import Address

HostAndPort = tuple[Address, int]


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that sends a request on to a group and each answer back, with the request's token, and puts none of
    them together.

    It hides where the listeners are. What needs one listener by unicast (echoes of challenges, further blocks of an
    answer) is sent through it as well, if `listeners` {Endpoint ID: (address, port)} says where that one is;
    otherwise it is reported as a problem."""

    host: Address
    port: int = COAP_PORT
    listeners: Mapping[bytes, HostAndPort] = field(default_factory=dict)


def forwarding(host: Address, port: int) -> dict[str, object]:
    """The options that make a proxy send a request on to there: they stay outside (class U)."""
    shown = f"[{host}]" if host.version == 6 else str(host)
    return {"proxy_scheme": "coap", "uri_host": shown, "uri_port": port}
