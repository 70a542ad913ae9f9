"""What a member in good standing can do to another one: authentic messages with anything inside, through aiocoap's
layers to a site's resources, and to whoever asked (endpoint/, devices.py)."""

from __future__ import annotations

import asyncio

import aiocoap
from aiocoap import resource

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.devices import Directory, Light, Log, Thermometer
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Multicaster
from groupcoap.endpoint.network import SocketAddress

from ..choices import Choices
from ..device import Device, opened, run, watched
from ..group import (
    ADDRESS,
    GROUPS,
    LAMP,
    MULTICAST,
    NAME,
    OTHER_LAMP,
    SWITCH,
    Group,
    choose_options,
    choose_peer,
    choose_plaintext,
)

_POLICY = SynchronizationPolicy(Method.BEST_EFFORT)
_PATHS = ((), (b"light",), (b"temperature",), (b"log",), (b"body",), (b".well-known", b"core"))
_QUERIES = (b"rt=light", b"rt=*", b"href=/log", b"obs", b"get_target=x", b"attr_pairs=a*")
_CODES = (coap.GET, coap.PUT, coap.POST, coap.FETCH, coap.DELETE)
_FROM: SocketAddress = ("192.0.2.9", 5683)
_AT_MOST = 6


def check(data: bytes) -> None:
    """Up to six authentic messages: requests to a device's resources, or answers to its requests. Nothing is
    raised, nothing logged as an error, and closing leaves no task and no timer. What somebody has made with all
    keys of the group, but in another member's name, is not delivered."""
    choices = Choices(data)
    group = choices.one_of(GROUPS)

    async def main() -> None:
        with watched() as errors:
            async with opened(_POLICY, group=group) as device:
                Listener(device.endpoint, _site())
                await (_requests if choices.flag() else _responses)(device, choices, group)
                await asyncio.sleep(120.0)
        assert not errors, errors

    run(main)


class _Body(resource.Resource):  # type: ignore[misc]
    """Takes a body of any size, in blocks if need be, and gives it back."""

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=request.payload)

    render_put = render_fetch = render_post


def _site() -> resource.Site:
    site = resource.Site()
    for path, served in {"light": Light(), "temperature": Thermometer(), "log": Log(), "body": _Body()}.items():
        site.add_resource([path], served)
    site.add_resource([".well-known", "core"], Directory(site.get_resources_as_linkheader))
    return site


async def _requests(device: Device, choices: Choices, group: Group) -> None:
    for number in range(_AT_MOST):
        if not choices.left:
            break
        outer = tuple(o for o in choose_options(choices, 1) if o[0] != coap.OBJECT_SECURITY)
        forged = group is not MULTICAST and choices.below(4) == 3
        message = group.request(
            SWITCH,
            number,
            _inside(choices),
            to=choose_peer(choices, group, (LAMP,)),
            forged=forged,
            kind=coap.CON if choices.flag() else coap.NON,
            message_id=choices.below(4),
            token=choices.take(choices.below(2)),
            outer=outer,
        )
        before = device.delivered
        device.network.receive(coap.encode(message), _FROM, ADDRESS.packed if choices.flag() else None)
        assert not forged or device.delivered == before
        await asyncio.sleep(choices.byte() / 100)


def _inside(choices: Choices) -> bytes:
    """A request that reaches a resource; or anything at all."""
    if choices.below(4) == 3:
        return choose_plaintext(choices)
    options = [(coap.URI_PATH, segment) for segment in choices.one_of(_PATHS)]
    options += choose_options(choices, 3)
    if choices.below(4) == 3:
        options.append((coap.URI_QUERY, choices.one_of(_QUERIES)))
    if choices.below(4) == 3:  # a part of the body, or of the answer
        block = choices.below(4) << 4 | choices.below(2) << 3 | choices.below(8)
        options.append((choices.one_of((coap.BLOCK1, coap.BLOCK2)), coap.uint_bytes(block)))
    options.sort(key=lambda option: option[0])
    code, times = choices.one_of(_CODES), choices.one_of((1, 1, 4, 16))
    return coap.encode_options(tuple(options), coap.BYTE[code], choices.some() * times)


async def _responses(device: Device, choices: Choices, group: Group) -> None:
    multicaster = Multicaster(device.endpoint, NAME)
    message = aiocoap.Message(code=choices.one_of((aiocoap.GET, aiocoap.FETCH, aiocoap.PUT)), uri_path=["log"])
    if group.pairwise and choices.flag():
        multicaster.ask(OTHER_LAMP, message, _FROM, timeout=5.0)
    elif choices.flag() and message.code is not aiocoap.PUT:
        multicaster.observe(message, timeout=5.0)
    else:
        multicaster.request(message, timeout=5.0)
    for number in range(_AT_MOST):
        if not choices.left:
            break
        asked = [m for d, _ in device.network.sent if coap.is_request((m := coap.decode(d)).code)]
        forged = group is not MULTICAST and choices.below(4) == 3
        datagram = coap.encode(_answer(choices.one_of(asked[::-1]), number, choices, group, forged))
        before = device.delivered
        device.network.receive(datagram, _FROM, None)
        assert not forged or device.delivered == before
        await asyncio.sleep(choices.byte() / 100)


def _answer(asked: Message, number: int, choices: Choices, group: Group, forged: bool) -> Message:
    plaintext = choose_plaintext(choices)
    if choices.below(4) == 0:  # a block of an answer
        more, place = choices.flag(), choices.below(4)
        block = coap.uint_bytes(place << 4 | more << 3)
        payload = bytes(16) if more else choices.take(16)
        plaintext = coap.encode_options(((coap.BLOCK2, block),), coap.BYTE[coap.CONTENT], payload)
    return group.response(
        OTHER_LAMP,
        group.ids_of(asked),
        None if choices.flag() else number,
        plaintext,
        to=choose_peer(choices, group, (LAMP,)),
        with_kid=group is MULTICAST or choices.flag(),
        forged=forged,
        kind=choices.one_of((coap.NON, coap.CON, coap.ACK)),
        message_id=asked.message_id,
        token=asked.token,
        outer=tuple(o for o in choose_options(choices, 1) if o[0] != coap.OBJECT_SECURITY),
    )
