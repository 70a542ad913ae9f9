"""Secure group communication for CoAP: multicast OSCORE (draft-tiloca-core-multicast-oscoap-04).

The names that applications use are here, each imported when it is first asked for: the command line must start
without waiting for what it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.policy import GroupPolicy, Verification
    from .core.requests import SignatureState
    from .core.synchronization import Freshness, Method, SynchronizationPolicy
    from .endpoint.endpoint import Endpoint
    from .endpoint.groups import ListenerPolicy
    from .endpoint.limits import Limits
    from .endpoint.listener import Listener
    from .endpoint.multicaster import Answer, Collection, Multicaster, Observation
    from .endpoint.network import NetworkOptions
    from .endpoint.proxy import Proxy
    from .endpoint.remote import Provenance, provenance
    from .errors import Limit
    from .files.provisioned import load_member
    from .files.state import EndpointState
    from .member.membership import ManagedMembership

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Collection",
    "Endpoint",
    "EndpointState",
    "Freshness",
    "GroupPolicy",
    "Limit",
    "Limits",
    "Listener",
    "ListenerPolicy",
    "ManagedMembership",
    "Method",
    "Multicaster",
    "NetworkOptions",
    "Observation",
    "Provenance",
    "Proxy",
    "SignatureState",
    "SynchronizationPolicy",
    "Verification",
    "__version__",
    "load_member",
    "provenance",
]

_HOME = {
    "Answer": "endpoint.multicaster",
    "Collection": "endpoint.multicaster",
    "Endpoint": "endpoint.endpoint",
    "EndpointState": "files.state",
    "Freshness": "core.synchronization",
    "GroupPolicy": "core.policy",
    "Limit": "errors",
    "Limits": "endpoint.limits",
    "Listener": "endpoint.listener",
    "ListenerPolicy": "endpoint.groups",
    "ManagedMembership": "member.membership",
    "Method": "core.synchronization",
    "Multicaster": "endpoint.multicaster",
    "NetworkOptions": "endpoint.network",
    "Observation": "endpoint.multicaster",
    "Provenance": "endpoint.remote",
    "Proxy": "endpoint.proxy",
    "SignatureState": "core.requests",
    "SynchronizationPolicy": "core.synchronization",
    "Verification": "core.policy",
    "load_member": "files.provisioned",
    "provenance": "endpoint.remote",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
