"""Resources for the endpoint tests, and what opens many endpoints at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiocoap
from aiocoap import resource
from world import World

from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Answer, Collection, Multicaster
from groupcoap.endpoint.remote import Provenance, provenance

GET, PUT, POST, CHANGED = aiocoap.GET, aiocoap.PUT, aiocoap.POST, aiocoap.CHANGED
TIMEOUT = 5.0
"""Far more than anything here takes; only a failing test waits for it."""


class Light(resource.ObservableResource):  # type: ignore[misc]
    """A lamp: remembers who asked for what."""

    def __init__(self) -> None:
        super().__init__()
        self.state = b"off"
        self.requests: list[tuple[bytes, Provenance]] = []
        self.came = asyncio.Event()

    def _note(self, request: aiocoap.Message) -> None:
        origin = provenance(request)
        assert origin is not None
        self.requests.append((request.payload, origin))
        self.came.set()

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        self._note(request)
        return aiocoap.Message(payload=self.state)

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        self._note(request)
        self.state = request.payload
        self.updated_state()
        return aiocoap.Message(code=CHANGED)

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        self._note(request)
        return aiocoap.Message(code=aiocoap.BAD_REQUEST)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for payload, _ in self.requests]

    async def wait_for(self, count: int) -> None:
        """Until this many requests have come."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.requests) < count:
                self.came.clear()
                await self.came.wait()


class Big(resource.Resource):  # type: ignore[misc]
    """An answer that does not fit into one datagram."""

    body = bytes(range(256)) * 20

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=self.body, etag=b"v1")


def light_site(light: Light) -> resource.Site:
    site = resource.Site()
    site.add_resource(["light"], light)
    site.add_resource(["big"], Big())
    return site


@asynccontextmanager
async def lamps(
    world: World, ids: Sequence[bytes | None] | None = None, **options: object
) -> AsyncIterator[list[tuple[Endpoint, Light]]]:
    """The world's listeners (or these), each serving a light."""
    async with AsyncExitStack() as stack:
        opened = []
        for kid in world.lamp_ids if ids is None else ids:
            endpoint = await stack.enter_async_context(world.endpoint(kid, **options))  # type: ignore[arg-type]
            light = Light()
            Listener(endpoint, light_site(light))
            opened.append((endpoint, light))
        yield opened


@asynccontextmanager
async def switch(world: World, number: int = 0, **options: object) -> AsyncIterator[Multicaster]:
    """The world's multicaster with this number."""
    kid = world.switch_ids[number]
    async with world.endpoint(kid, **options) as endpoint:  # type: ignore[arg-type]
        yield Multicaster(endpoint, world.name)


def get(path: str = "light", **options: object) -> aiocoap.Message:
    return aiocoap.Message(code=GET, uri_path=[path], **options)


def put(payload: bytes) -> aiocoap.Message:
    return aiocoap.Message(code=PUT, uri_path=["light"], payload=payload)


async def answers(collection: Collection) -> list[Answer]:
    return [answer async for answer in collection]


async def eventually(condition: Callable[[], object]) -> None:
    """Until this holds, looked at after every turn of the event loop."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 — the conditions are of many kinds
            await asyncio.sleep(0.005)
