"""Small devices for trying things out: a dimmable light and a sensor, as ordinary aiocoap sites."""

from __future__ import annotations

import asyncio
from math import pi, sin

import aiocoap
from aiocoap import resource
from aiocoap.numbers.contentformat import ContentFormat

UPDATE_INTERVAL = 2.0
"""Seconds between two values of the thermometer, while somebody observes it."""
_SWING_PERIOD = 120.0
_LOG_LINES = 120

_NOT_A_LEVEL = b"send on, off or a level from 0 to 100"


class Light(resource.ObservableResource):  # type: ignore[misc]
    """A light that is off, or on at a level from 1 to 100 %. GET and every PUT answer with the state as text
    (`off`, `on 40%`); PUT takes `on` (as bright as it last was), `off`, or a level."""

    rt = "light"

    def __init__(self) -> None:
        super().__init__()
        self._level = 0
        self._bright = 100

    @property
    def state(self) -> str:
        """What the light does now."""
        return f"on {self._level}%" if self._level else "off"

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        """The state."""
        return _text(self.state.encode())

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        """Another state; the answer says what it is now."""
        level = self._wanted(request.payload)
        if level is None:
            # No-Response 0: whoever mistypes a payload to a whole group is told so, not left without an answer.
            return aiocoap.Message(code=aiocoap.BAD_REQUEST, payload=_NOT_A_LEVEL, no_response=0)
        if level != self._level:
            self._level = level
            self._bright = level or self._bright
            self.updated_state()
        return _text(self.state.encode())

    def _wanted(self, payload: bytes) -> int | None:
        text = payload.strip().lower()
        if text in (b"on", b"off"):
            return self._bright if text == b"on" else 0
        digits = text.removesuffix(b"%")
        if digits.isdigit() and len(digits) <= 3 and int(digits) <= 100:
            return int(digits)
        return None


class Thermometer(resource.ObservableResource):  # type: ignore[misc]
    """A temperature that slowly goes up and down between 18 and 24 °C. Observable."""

    rt = "temperature"

    def __init__(self) -> None:
        super().__init__()
        self._timer: asyncio.TimerHandle | None = None

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        """The temperature in °C, with one decimal."""
        now = asyncio.get_running_loop().time()
        celsius = 21.0 + 3.0 * sin(2 * pi * now / _SWING_PERIOD)
        return _text(f"{celsius:.1f} °C".encode())

    def update_observation_count(self, count: int) -> None:
        """aiocoap's hook: the timer runs only while there is somebody to notify."""
        if count and self._timer is None:
            self._tick()
        elif not count and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        if self._timer is not None:
            self.updated_state()
        self._timer = asyncio.get_running_loop().call_later(UPDATE_INTERVAL, self._tick)


class Log(resource.Resource):  # type: ignore[misc]
    """A text of more than 4 kB: too large for one datagram, so it is fetched block by block."""

    rt = "log"

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        """The whole text, with an ETag so that its blocks can be told from another text's."""
        lines = (f"{number:04}  temperature read, battery at {100 - number // 4} %" for number in range(_LOG_LINES))
        response = _text("".join(f"{line}\n" for line in lines).encode())
        resource.hashing_etag(request, response)
        return response


class Directory(resource.WKCResource):  # type: ignore[misc]
    """What a device serves, for `/.well-known/core`."""

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        """Links in the link format, those that the query asks for."""
        try:
            return await super().render_get(request)
        except (AttributeError, TypeError):
            # aiocoap looks for what a query names in its objects: it may be a method there, and none of a link.
            return aiocoap.Message(code=aiocoap.BAD_REQUEST)


def light() -> resource.Site:
    """A site with `/light`."""
    return _site({"light": Light()})


def sensor() -> resource.Site:
    """A site with `/temperature` and `/log`."""
    return _site({"temperature": Thermometer(), "log": Log()})


DEVICES = {"light": light, "sensor": sensor}
"""Kind of device → what makes its site."""


def _site(resources: dict[str, resource.Resource]) -> resource.Site:
    site = resource.Site()
    for path, served in resources.items():
        site.add_resource([path], served)
    site.add_resource([".well-known", "core"], Directory(site.get_resources_as_linkheader))
    return site


def _text(payload: bytes) -> aiocoap.Message:
    return aiocoap.Message(payload=payload, content_format=ContentFormat.TEXT)
