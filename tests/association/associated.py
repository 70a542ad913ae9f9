"""A manager and devices on loopback addresses, with what goes over the wire between them in the test's hands."""

# mypy: allow-untyped-calls
from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from types import TracebackType
from typing import Any

import aiocoap
import pytest
from aiocoap import resource
from aiocoap.oscore import AES_CCM
from world import free_port

from groupcoap.association.client import ManagerLink
from groupcoap.association.context import AssociationContext
from groupcoap.association.node import CoapNode
from groupcoap.association.registry import (
    DEFAULT_ASSOCIATION_LIMITS,
    AssociationLimits,
    AssociationRecord,
    Associations,
    device_of,
)
from groupcoap.association.site import AssociateResource
from groupcoap.core import coap
from groupcoap.core.option import FLAG_KID, decode_prefix
from groupcoap.endpoint.limits import DEFAULT_LIMITS, Limits
from groupcoap.endpoint.network import NetworkOptions, SocketAddress
from groupcoap.errors import Refused
from groupcoap.secret import Secret

POST, GET = aiocoap.POST, aiocoap.GET


def options(host: str, port: int | None = None) -> NetworkOptions:
    return NetworkOptions("lo", IPv4Address(host), port, hop_limit=0, kernel_filter=False)


class Echo(resource.Resource):  # type: ignore[misc]
    """Answers with what it got, to whom it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bytes]] = []
        self.before: Callable[[], Awaitable[None]] | None = None

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        self.seen.append((device_of(request), request.payload))
        if self.before is not None:
            await self.before()
        return aiocoap.Message(payload=request.payload, content_format=261)

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        self.seen.append((device_of(request), b""))
        return aiocoap.Message(payload=bytes(range(256)) * 256)

    async def render_delete(self, request: aiocoap.Message) -> aiocoap.Message:
        device_of(request)
        raise Refused(coap.FORBIDDEN, "not you")


class Wire:
    """All datagrams that tapped nodes send. `change`: what becomes of one; None: it is lost."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, coap.Message, bytes, SocketAddress]] = []
        self.change: Callable[[str, bytes], bytes | None] = lambda name, datagram: datagram

    def tap(self, name: str, node: CoapNode) -> None:
        network, send = node.network, node.network.send

        def sending(datagram: bytes, destination: SocketAddress) -> None:
            self.sent.append((name, coap.decode(datagram), datagram, destination))
            changed = self.change(name, datagram)
            if changed is not None:
                send(changed, destination)

        network.send = sending  # type: ignore[method-assign]

    def by(self, name: str) -> list[coap.Message]:
        return [message for sender, message, _, _ in self.sent if sender == name]

    def set_ups(self) -> list[coap.Message]:
        return [m for _, m, _, _ in self.sent if m.code == coap.POST and (coap.URI_PATH, b"associate") in m.options]

    def numbers(self, name: str) -> list[bytes]:
        """Partial IVs that this node has sent of its own, each datagram once."""
        found = []
        for datagram in dict.fromkeys(d for sender, _, d, _ in self.sent if sender == name):
            value = coap.decode(datagram).option(coap.OBJECT_SECURITY)
            if value is not None and (partial_iv := decode_prefix(value)[1]) is not None:
                found.append(partial_iv)
        return found

    def protected(self, name: str) -> list[bytes]:
        """Protected requests of this node."""
        found = []
        for sender, message, datagram, _ in self.sent:
            value = message.option(coap.OBJECT_SECURITY)
            if sender == name and value and decode_prefix(value)[0] & FLAG_KID:
                found.append(datagram)
        return found


@dataclass
class Store:
    """What a manager keeps: survives it."""

    devices: dict[bytes, tuple[str, Secret]] = field(default_factory=dict)
    records: dict[str, AssociationRecord] = field(default_factory=dict)

    def enrol(self, name: str) -> tuple[bytes, Secret]:
        handle, secret = os.urandom(8), Secret(os.urandom(16))
        self.devices[handle] = name, secret
        return handle, secret

    def established(self, record: AssociationRecord) -> None:
        self.records[record.device] = record

    async def reserve(self, device: str, reserved: int) -> None:
        self.records[device] = replace(self.records[device], reserved=reserved)

    def secret_of(self, name: str) -> Secret:
        return next(secret for device, secret in self.devices.values() if device == name)


class Manager:
    """One manager, at one address."""

    def __init__(
        self,
        store: Store,
        wire: Wire,
        *,
        host: str = "127.0.0.61",
        port: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        bounds: AssociationLimits = DEFAULT_ASSOCIATION_LIMITS,
    ) -> None:
        self.store = store
        self.address = (host, port or free_port())
        self.associations = Associations(
            store.devices.get,
            os.urandom,
            bounds,
            on_established=store.established,
            on_reserve=store.reserve,
        )
        self.echo = Echo()
        site = resource.Site()
        site.add_resource(["associate"], AssociateResource(self.associations))
        site.add_resource(["echo"], self.echo)
        self.node = CoapNode(options(*self.address), site, self.associations, limits)
        self._wire = wire

    async def __aenter__(self) -> Manager:
        for record in self.store.records.values():
            self.associations.restore(record, self.store.secret_of(record.device))
        await self.node.__aenter__()
        self._wire.tap("manager", self.node)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.node.__aexit__(kind, error, trace)
        await self.associations.close()

    def context(self, device: str) -> AssociationContext:
        context = self.associations.context(device)
        assert context is not None
        return context

    async def ask(self, device: Device, payload: bytes = b"new keys") -> Any:
        message = aiocoap.Message(code=POST, uri_path=["node"], payload=payload)
        address = device.node.local_address(4)
        return await self.node.request(message, (address[0], address[1]), self.context(device.name), 5.0)


class Device:
    """One device."""

    def __init__(self, wire: Wire, name: str, handle: bytes, secret: Secret, *addresses: tuple[str, int]) -> None:
        self.name = name
        self.echo = Echo()
        site = resource.Site()
        site.add_resource(["node"], self.echo)
        self.node = CoapNode(options("127.0.0.62"), site)
        self._wire = wire
        self._stack = AsyncExitStack()
        self._enrolment = handle, secret
        self._addresses = addresses

    async def __aenter__(self) -> Device:
        await self.node.__aenter__()
        self._wire.tap(self.name, self.node)
        handle, secret = self._enrolment
        self.link = ManagerLink(self.node, self._addresses, handle, secret, os.urandom, interval=0.05, patience=0.4)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.link.close()
        await self.node.__aexit__(kind, error, trace)

    async def post(self, payload: bytes = b"hello", timeout: float = 5.0) -> bytes:
        answer = await self.link.request(POST, ["echo"], payload, 261, timeout)
        assert answer.opt.content_format == 261
        body: bytes = answer.payload
        return body


def carried(message: Any) -> Any:
    """A message of aiocoap's as it is received."""
    message.mtype, message.mid, message.token = aiocoap.CON, 1, b""
    return aiocoap.Message.decode(message.encode())


@pytest.fixture(autouse=True)
def nonces(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[bytes, bytes]]]:
    """All (key, nonce) that something was encrypted with. In every test that imports this: none is used twice."""
    used: list[tuple[bytes, bytes]] = []
    encrypt = AES_CCM.encrypt.__func__

    def noting(cls: Any, plaintext: bytes, aad: bytes, key: bytes, iv: bytes) -> Any:
        used.append((key, iv))
        return encrypt(cls, plaintext, aad, key, iv)

    monkeypatch.setattr(AES_CCM, "encrypt", classmethod(noting))
    yield used
    assert len(used) == len(set(used))
