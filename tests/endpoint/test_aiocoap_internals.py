"""What `groupcoap.endpoint` relies on in aiocoap beyond its documented interface: one test each.

Run against another release of aiocoap, these say whether it can be pinned: a name that has vanished or a meaning
that has changed fails here, with its name, rather than in a building.
"""

# mypy: allow-untyped-calls, allow-untyped-defs
from __future__ import annotations

import asyncio
import logging
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiocoap
import pytest
import pytest_asyncio
from aiocoap import error, interfaces, resource
from aiocoap.message import Direction, UndecidedRemote
from aiocoap.messagemanager import MessageManager
from aiocoap.numbers import ContentFormat
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.optiontypes import BlockOption
from aiocoap.pipe import Pipe
from aiocoap.tokenmanager import TokenManager
from aiocoap.transports.oscore import TransportOSCORE
from aiocoap.util import hostportjoin, hostportsplit
from devices import eventually

from groupcoap.core.coap import NO_RESPONSE, REPEAT
from groupcoap.endpoint.remote import SocketRemote

CON, NON, ACK, RST = aiocoap.CON, aiocoap.NON, aiocoap.ACK, aiocoap.RST
LOG = logging.getLogger("test")


class Remote(SocketRemote):
    """A peer; counts what aiocoap asks about it."""

    def __init__(self, name: str = "peer", *, multicast: bool = False, multicast_locally: bool = False) -> None:
        super().__init__((name, 5683), ("local", 5683))
        self.is_multicast = multicast
        self.is_multicast_locally = multicast_locally
        self.response_address = self

    def as_response_address(self) -> Remote:
        return self.response_address


class Wire(interfaces.MessageInterface):  # type: ignore[misc]
    """A message interface that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.closed = False
        self.determined: Remote | None = None

    def send(self, message: Any) -> None:
        self.sent.append(message)

    async def recognize_remote(self, remote: Any) -> bool:
        return isinstance(remote, Remote)

    async def determine_remote(self, message: Any) -> Remote | None:
        return self.determined

    async def shutdown(self) -> None:
        self.closed = True


class Light(resource.ObservableResource):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.answer: Callable[[], Any] = lambda: aiocoap.Message(payload=b"on")
        self.wait: asyncio.Event | None = None
        self.cancelled = False

    async def render_get(self, request: Any) -> Any:
        self.seen.append(request)
        if self.wait is not None:
            try:
                await self.wait.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        return self.answer()


def keeping(events: list[Any], at_most: int = 1000) -> Callable[[Any], bool]:
    """A callback for `Pipe.on_event` that keeps events, so many at most."""

    def keep(event: Any) -> bool:
        events.append(event)
        return not event.is_last and len(events) < at_most

    return keep


class Stack:
    """aiocoap's layers as `groupcoap.endpoint` puts them together, over a wire that ends here."""

    def __init__(self) -> None:
        self.light = Light()
        self.site = resource.Site()
        self.site.add_resource(["light"], self.light)
        self.context = aiocoap.Context(serversite=self.site, loggername="test")
        self.tokens = TokenManager(self.context)
        self.messages = MessageManager(self.tokens)
        self.wire = Wire()
        self.messages.message_interface = self.wire
        self.tokens.token_interface = self.messages
        self.context.request_interfaces.append(self.tokens)
        self.peer = Remote()

    def receive(self, message: Any, remote: Remote | None = None) -> None:
        message.remote = remote or self.peer
        message.direction = Direction.INCOMING
        self.messages.dispatch_message(message)

    def request(self, mtype: Any = NON, mid: int = 7, token: bytes = b"t", **options: Any) -> Any:
        return aiocoap.Message(
            code=aiocoap.GET, uri_path=["light"], _mtype=mtype, _mid=mid, _token=token, **options
        )

    async def sent(self, count: int = 1) -> list[Any]:
        await eventually(lambda: len(self.wire.sent) >= count)
        return self.wire.sent

    def ask(self, remote: Remote | None = None, mtype: Any = CON, **options: Any) -> tuple[Any, list[Any], Any]:
        """A request sent: (its message, the events that it gets, what ends the interest in it)."""
        message = aiocoap.Message(code=aiocoap.GET, **options)
        message.remote = remote or self.peer
        message.mtype = mtype
        pipe = Pipe(message, LOG)
        events: list[Any] = []
        stop = pipe.on_event(keeping(events))
        self.tokens.request(pipe)
        return message, events, stop


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[Stack]:
    made = Stack()
    yield made
    if made.tokens.incoming_requests is not None:
        await made.context.shutdown()


def test_the_installed_release_is_the_pinned_one() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    dependencies = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    [pinned] = [d.partition("==")[2] for d in dependencies if d.startswith("aiocoap")]
    assert version("aiocoap") == pinned


# ---- message layer


async def test_message_manager_asks_deduplicate_message_about_requests_only(stack: Stack) -> None:
    asked: list[Any] = []

    def is_duplicate(message: Any) -> bool:
        asked.append(message)
        return False

    stack.messages._deduplicate_message = is_duplicate
    for token in (b"t", b"u"):
        stack.receive(stack.request(token=token))
    await stack.sent(2)
    assert len(stack.light.seen) == 2
    assert [message.mid for message in asked] == [7, 7]
    stack.receive(aiocoap.Message(code=aiocoap.CONTENT, _mtype=NON, _mid=7, _token=b"none"))
    stack.receive(aiocoap.Message(code=aiocoap.EMPTY, _mtype=ACK, _mid=7))
    assert len(asked) == 2
    stack.messages._deduplicate_message = lambda message: True
    stack.receive(stack.request(token=b"v"))
    stack.messages._deduplicate_message = lambda message: False
    stack.receive(stack.request(token=b"w"))
    assert [message.token for message in await stack.sent(3)] == [b"t", b"u", b"w"]


async def test_message_manager_would_take_a_repeated_id_for_a_duplicate(stack: Stack) -> None:
    """Why that detection is off: were this not so any more, the override could go."""
    for _ in range(2):
        stack.receive(stack.request())
    await stack.sent()
    assert len(stack.light.seen) == 1


async def test_active_exchanges(stack: Stack) -> None:
    """(remote, Message ID) → (monitor, timer) of every confirmable message that waits for its acknowledgement."""
    message, _, _ = stack.ask()
    [(key, value)] = stack.messages._active_exchanges.items()
    assert key == (stack.peer, message.mid)
    monitor, timer = value
    assert callable(monitor)
    assert not timer.cancelled()
    stack.receive(aiocoap.Message(code=aiocoap.EMPTY, _mtype=ACK, _mid=message.mid))
    assert timer.cancelled()
    assert stack.messages._active_exchanges == {}


async def test_continue_backlog(stack: Stack) -> None:
    """A second confirmable message to a peer waits for the first; `_continue_backlog` lets it go."""
    first, _, _ = stack.ask()
    second, _, _ = stack.ask()
    assert [message.mid for message in stack.wire.sent] == [first.mid]
    [(waiting, monitor)] = stack.messages._backlogs[stack.peer]
    assert waiting is second
    assert callable(monitor)
    stack.messages._active_exchanges.pop((stack.peer, first.mid))[1].cancel()
    stack.messages._continue_backlog(stack.peer)
    assert [message.mid for message in stack.wire.sent] == [first.mid, second.mid]
    stack.messages._active_exchanges.pop((stack.peer, second.mid))[1].cancel()
    stack.messages._continue_backlog(stack.peer)
    assert stack.messages._backlogs == {}


async def test_next_message_id(stack: Stack) -> None:
    """All Message IDs come from there, so that it can be shared."""
    assert stack.messages._next_message_id() + 1 & 0xFFFF == stack.messages._next_message_id()
    stack.messages._next_message_id = lambda: 0x1234
    message, _, _ = stack.ask()
    assert message.mid == 0x1234


async def test_a_retransmission_sends_the_same_message_again(stack: Stack) -> None:
    """The same object with the same ID, which is how our interface knows it."""
    tuning = aiocoap.numbers.constants.TransportTuning()
    tuning.ACK_TIMEOUT = 0.01
    message, _, _ = stack.ask(transport_tuning=tuning)
    sent = await stack.sent(2)
    assert sent[0] is sent[1] is message


async def test_a_retransmission_is_not_in_the_table_while_it_is_sent(stack: Stack) -> None:
    """Unlike a message that is sent for the first time."""
    known: list[bool] = []
    send = stack.wire.send

    def look(message: Any) -> None:
        known.append((message.remote, message.mid) in stack.messages._active_exchanges)
        send(message)

    stack.wire.send = look  # type: ignore[method-assign]
    tuning = aiocoap.numbers.constants.TransportTuning()
    tuning.ACK_TIMEOUT = 0.01
    stack.ask(transport_tuning=tuning)
    await stack.sent(3)
    assert known[:3] == [True, False, False]


@pytest.mark.parametrize("mtype", [CON, NON])
async def test_send_message_and_no_response(stack: Stack, mtype: Any) -> None:
    """A response excluded by its own No-Response option is dropped; a confirmable request is acknowledged still."""
    stack.light.answer = lambda: aiocoap.Message(code=aiocoap.CONTENT, payload=b"on", no_response=2)
    stack.receive(stack.request(mtype))
    await eventually(lambda: stack.light.seen)
    stack.receive(aiocoap.Message(code=aiocoap.EMPTY, _mtype=CON, _mid=99))  # its reset comes after all else
    await eventually(lambda: any(message.mtype is RST for message in stack.wire.sent))
    await eventually(lambda: not stack.tokens.incoming_requests)
    others = [message for message in stack.wire.sent if message.mtype is not RST]
    if mtype is CON:
        [ack] = others
        assert (ack.code, ack.mtype, ack.mid) == (aiocoap.EMPTY, ACK, 7)
    else:
        assert others == []


async def test_send_message_takes_the_option_off(stack: Stack) -> None:
    stack.light.answer = lambda: aiocoap.Message(code=aiocoap.CONTENT, payload=b"on", no_response=8)
    stack.receive(stack.request())
    [answer] = await stack.sent()
    assert answer.code is aiocoap.CONTENT
    assert answer.opt.no_response is None


@pytest.mark.parametrize("mtype", [CON, NON])
async def test_send_message_looks_at_the_request_for_the_type(stack: Stack, mtype: Any) -> None:
    """A confirmable request is answered in its acknowledgement; another one with a message of its own."""
    stack.receive(stack.request(mtype))
    [answer] = await stack.sent()
    assert answer.request.mid == 7
    if mtype is CON:
        assert (answer.mtype, answer.mid) == (ACK, 7)
    else:
        assert (answer.mtype, answer.mid) == (NON, stack.messages.message_id - 1 & 0xFFFF)


async def test_multicast_is_never_confirmable(stack: Stack) -> None:
    message, events, _ = stack.ask(Remote(multicast=True), mtype=None)
    assert message.mtype is NON
    _, events, _ = stack.ask(Remote(multicast=True), mtype=CON)
    assert isinstance(events[0].exception, error.ConToMulticast)


async def test_transport_tuning_says_whether_confirmable(stack: Stack) -> None:
    for tuning, mtype in ((aiocoap.Unreliable, NON), (aiocoap.Reliable, CON)):
        message, _, _ = stack.ask(Remote(str(mtype)), mtype=None, transport_tuning=tuning)
        assert message.mtype is mtype


async def test_a_slow_answer_to_a_confirmable_request_is_acknowledged_first(stack: Stack) -> None:
    """Through `message_interface.send`, as an empty acknowledgement with the request's ID."""
    stack.light.wait = asyncio.Event()
    stack.receive(stack.request(CON))
    [ack] = await stack.sent()
    assert (ack.code, ack.mtype, ack.mid) == (aiocoap.EMPTY, ACK, 7)
    stack.light.wait.set()
    answer = (await stack.sent(2))[1]
    assert (answer.code, answer.mtype) == (aiocoap.CONTENT, CON)


@pytest.mark.parametrize("mtype", [CON, NON, ACK])
async def test_what_an_unknown_response_causes(stack: Stack, mtype: Any) -> None:
    stack.receive(aiocoap.Message(code=aiocoap.CONTENT, _mtype=mtype, _mid=5, _token=b"none"))
    assert [message.mtype for message in stack.wire.sent] == ([RST] if mtype is CON else [])


async def test_a_confirmable_response_is_acknowledged(stack: Stack) -> None:
    message, events, _ = stack.ask()
    stack.receive(aiocoap.Message(code=aiocoap.CONTENT, _mtype=CON, _mid=5, _token=message.token))
    ack = stack.wire.sent[-1]
    assert (ack.code, ack.mtype, ack.mid) == (aiocoap.EMPTY, ACK, 5)
    assert len(events) == 1


async def test_fill_or_recognize_remote(stack: Stack) -> None:
    """Asks the message interface whether a remote is its own, and otherwise for one."""
    known = aiocoap.Message(code=aiocoap.GET)
    known.remote = stack.peer
    assert await stack.messages.fill_or_recognize_remote(known)
    other = aiocoap.Message(code=aiocoap.GET, uri="coap://192.0.2.1/x")
    assert not await stack.messages.fill_or_recognize_remote(other)
    stack.wire.determined = stack.peer
    assert await stack.messages.fill_or_recognize_remote(other)
    assert other.remote is stack.peer


async def test_dispatch_error_ends_the_requests_to_a_peer(stack: Stack) -> None:
    _, events, _ = stack.ask()
    stack.messages.dispatch_error(OSError("no way there"), stack.peer)
    assert isinstance(events[0].exception, error.NetworkError)
    assert stack.messages._active_exchanges == {}


# ---- token layer


async def test_outgoing_requests(stack: Stack) -> None:
    """(token, remote) → pipe; a multicast request's remote is None there. None after the shutdown."""
    message, _, stop = stack.ask()
    [(key, pipe)] = stack.tokens.outgoing_requests.items()
    assert key == (message.token, stack.peer)
    assert pipe.request is message
    stop()
    assert stack.tokens.outgoing_requests == {}
    message, _, _ = stack.ask(Remote(multicast=True), mtype=None)
    assert list(stack.tokens.outgoing_requests) == [(message.token, None)]
    await stack.context.shutdown()
    assert stack.tokens.outgoing_requests is None
    assert stack.tokens.incoming_requests is None


async def test_incoming_requests(stack: Stack) -> None:
    """(token, remote) → (pipe, what ends the serving)."""
    stack.light.wait = asyncio.Event()
    request = stack.request()
    stack.receive(request)
    [(key, (pipe, stop))] = stack.tokens.incoming_requests.items()
    assert key == (b"t", stack.peer)
    assert pipe.request is request
    await eventually(lambda: stack.light.seen)
    del stack.tokens.incoming_requests[key]
    stop()
    await eventually(lambda: stack.light.cancelled)
    assert stack.wire.sent == []


async def test_a_served_request_leaves_no_entry(stack: Stack) -> None:
    stack.receive(stack.request())
    await stack.sent()
    assert stack.tokens.incoming_requests == {}


async def test_an_observation_keeps_its_entry_until_it_is_stopped(stack: Stack) -> None:
    stack.receive(stack.request(observe=0))
    [first] = await stack.sent()
    assert first.opt.observe is not None
    [(pipe, stop)] = stack.tokens.incoming_requests.values()
    assert isinstance(pipe, Pipe)
    stack.light.updated_state()
    assert (await stack.sent(2))[1].token == b"t"
    stack.tokens.incoming_requests.clear()
    stop()
    await eventually(lambda: not stack.light._observations)


async def test_the_same_token_again_takes_the_place_of_the_first(stack: Stack) -> None:
    stack.light.wait = asyncio.Event()
    stack.receive(stack.request(mid=7))
    await eventually(lambda: stack.light.seen)
    stack.receive(stack.request(mid=8))
    await eventually(lambda: stack.light.cancelled)
    assert [key[0] for key in stack.tokens.incoming_requests] == [b"t"]


async def test_next_token(stack: Stack) -> None:
    """All tokens come from there, so that it can be shared; each is another, of 8 bytes at most."""
    tokens = {stack.tokens.next_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(1 <= len(token) <= 8 for token in tokens)
    stack.tokens.next_token = lambda: b"shared"
    assert stack.ask()[0].token == b"shared"


async def test_process_request_and_the_answer_to_it(stack: Stack) -> None:
    """It gets the request's token, its remote's response address, and the request itself."""
    elsewhere = Remote("elsewhere")
    asker = Remote(multicast_locally=True)
    asker.response_address = elsewhere
    request = stack.request()
    stack.receive(request, asker)
    [answer] = await stack.sent()
    assert answer.token == b"t"
    assert answer.remote is elsewhere
    assert answer.request is request


async def test_process_response_ends_the_request_with_the_first(stack: Stack) -> None:
    """Of a group request too, which is why ours differs. It says whether the response was awaited."""
    for remote in (stack.peer, Remote("group", multicast=True)):
        message, events, _ = stack.ask(remote, mtype=NON)
        for expected in (True, False):
            response = aiocoap.Message(code=aiocoap.CONTENT, _mtype=NON, _mid=5, _token=message.token)
            response.remote = stack.peer
            assert stack.tokens.process_response(response) is expected
        assert [event.is_last for event in events] == [True]


async def test_process_response_keeps_an_observation(stack: Stack) -> None:
    message, events, _ = stack.ask(observe=0)
    for number, observe in enumerate((1, 2, None)):
        response = aiocoap.Message(code=aiocoap.CONTENT, _mtype=NON, _mid=number, _token=message.token)
        response.opt.observe = observe
        response.remote = stack.peer
        assert stack.tokens.process_response(response)
    assert [event.is_last for event in events] == [False, False, True]


# ---- pipe


def test_pipe_on_event() -> None:
    """Events have message, exception, is_last; a callback that returns something false is called no more."""
    pipe = Pipe("the request", LOG)
    assert pipe.request == "the request"
    events: list[Any] = []
    pipe.on_event(keeping(events, at_most=2))
    for payload in ("one", "two", "three"):
        pipe.add_response(payload, is_last=False)
    assert [(e.message, e.exception, e.is_last) for e in events] == [("one", None, False), ("two", None, False)]


def test_pipe_ends_with_an_exception() -> None:
    pipe = Pipe("the request", LOG)
    events: list[Any] = []
    ended: list[bool] = []
    pipe.on_event(keeping(events))
    pipe.on_interest_end(lambda: ended.append(True))
    problem = ValueError()
    pipe.add_exception(problem)
    assert [(e.message, e.exception, e.is_last) for e in events] == [(None, problem, True)]
    assert ended == [True]


def test_pipe_on_interest_end() -> None:
    """Called once: when the last event callback is taken away, or with the last event."""
    for end in ("stop", "last"):
        pipe = Pipe("the request", LOG)
        stop = pipe.on_event(lambda event: not event.is_last)
        ended: list[bool] = []
        pipe.on_interest_end(lambda ended=ended: ended.append(True))
        pipe.add_response("one", is_last=False)
        assert ended == []
        if end == "stop":
            stop()
        else:
            pipe.add_response("two", is_last=True)
        assert ended == [True]
        stop()
        assert ended == [True]


def test_pipe_on_interest_end_without_interest() -> None:
    ended: list[bool] = []
    Pipe("the request", LOG).on_interest_end(lambda: ended.append(True))
    assert ended == [True]


# ---- context and sites


async def test_context_hands_a_request_to_the_sites_render_to_pipe() -> None:
    """Of anything that has that; what it raises is rendered."""
    stack = Stack()

    class Elsewhere:
        async def render_to_pipe(self, pipe: Any) -> None:
            if pipe.request.token == b"t":
                raise error.NotFound
            await stack.site.render_to_pipe(pipe)

    stack.context.serversite = Elsewhere()
    stack.receive(stack.request(mid=1))
    stack.receive(stack.request(mid=2, token=b"u"))
    await stack.sent(2)
    assert {m.token: m.code for m in stack.wire.sent} == {b"t": aiocoap.NOT_FOUND, b"u": aiocoap.CONTENT}
    await stack.context.shutdown()


async def test_context_shutdown_closes_all_request_interfaces() -> None:
    stack = Stack()
    assert stack.context.request_interfaces == [stack.tokens]
    stack.context.request_interfaces.insert(0, TransportOSCORE(stack.context, stack.context))
    _, events, _ = stack.ask()
    await stack.context.shutdown()
    assert stack.wire.closed
    assert stack.messages._active_exchanges is None
    assert isinstance(events[0].exception, error.LibraryShutdown)


async def test_context_has_client_credentials_for_the_oscore_transport() -> None:
    context = aiocoap.Context(serversite=None, loggername="test")
    message = aiocoap.Message(code=aiocoap.GET, uri="coap://192.0.2.1/x")
    assert not await TransportOSCORE(context, context).fill_or_recognize_remote(message)
    assert context.client_credentials == {}


def test_what_a_message_interface_must_have() -> None:
    assert interfaces.MessageInterface.__abstractmethods__ == {"send", "determine_remote", "shutdown"}
    assert not SocketRemote.__abstractmethods__


# ---- messages


def test_message_copy() -> None:
    """Options are its own; what is named differs; mid, type, token, remote and direction come along."""
    remote = Remote()
    message = aiocoap.Message(code=aiocoap.GET, payload=b"x", _mid=5, _mtype=CON, _token=b"t", uri_path=["a"])
    message.remote = remote
    copy = message.copy()
    assert (copy.mid, copy.mtype, copy.token, copy.payload) == (5, CON, b"t", b"x")
    assert copy.remote is remote
    assert copy.direction is Direction.OUTGOING
    changed = message.copy(mid=None, token=b"", echo=b"12345678", observe=1, block2=(2, False, 4), payload=b"y")
    assert (changed.mid, changed.token, changed.payload) == (None, b"", b"y")
    assert changed.opt.echo == b"12345678"
    assert changed.opt.observe == 1
    assert changed.opt.block2 == (2, False, 4)
    assert message.opt.echo is None
    assert message.opt.uri_path == ("a",)
    assert changed.copy(observe=None).opt.observe is None


def test_directions() -> None:
    assert aiocoap.Message(code=aiocoap.GET).direction is Direction.OUTGOING
    decoded = aiocoap.Message.decode(b"\x50\x01\x00\x07", Remote())
    assert decoded.direction is Direction.INCOMING


@pytest.mark.parametrize(
    ("name", "number", "value"), [("echo", REPEAT, b"12345678"), ("no_response", NO_RESPONSE, 26)]
)
def test_options_by_name(name: str, number: int, value: Any) -> None:
    message = aiocoap.Message(code=aiocoap.GET)
    setattr(message.opt, name, value)
    [option] = message.opt.option_list()
    assert int(option.number) == number
    assert getattr(message.opt, name) == value
    setattr(message.opt, name, None)
    assert list(message.opt.option_list()) == []


def test_block_option() -> None:
    block = BlockOption.BlockwiseTuple(3, True, 4)
    assert (block.block_number, block.more, block.size_exponent, block.size, block.start) == (3, True, 4, 256, 768)
    message = aiocoap.Message(code=aiocoap.GET, block2=(3, True, 4))
    assert isinstance(message.opt.block2, BlockOption.BlockwiseTuple)


def test_etags_are_a_tuple_and_one_is_the_first() -> None:
    message = aiocoap.Message(code=aiocoap.CONTENT, etag=b"1")
    assert tuple(message.opt.etags) == (b"1",)
    assert message.opt.etag == b"1"


def test_get_cache_key() -> None:
    """Equal for the requests of one block-wise transfer, once the numbers that differ are left out."""
    left_out = [OptionNumber.BLOCK2, OptionNumber.OBSERVE]
    first, later, other = (
        aiocoap.Message(code=aiocoap.GET, uri_path=[path], block2=block)
        for path, block in (("a", None), ("a", (1, False, 6)), ("b", None))
    )
    assert first.get_cache_key(left_out) == later.get_cache_key(left_out)
    assert first.get_cache_key(left_out) != other.get_cache_key(left_out)
    assert first.get_cache_key() != later.get_cache_key()
    assert hash(first.get_cache_key(left_out))


def test_codes() -> None:
    assert (aiocoap.CONTENT.class_, aiocoap.NOT_FOUND.class_, aiocoap.INTERNAL_SERVER_ERROR.class_) == (2, 4, 5)
    assert aiocoap.GET.is_request()
    assert aiocoap.CONTENT.is_response()
    assert aiocoap.CONTENT.is_successful()
    assert not aiocoap.NOT_FOUND.is_successful()
    assert not aiocoap.EMPTY.is_request()
    assert not aiocoap.EMPTY.is_response()


def test_a_uri_that_is_not_resolved() -> None:
    """What `determine_remote` finds on the message: scheme and host of its URI."""
    message = aiocoap.Message(code=aiocoap.GET, uri="coap://[2001:db8::1]:61616/x")
    assert isinstance(message.remote, UndecidedRemote)
    assert message.requested_scheme == "coap"
    assert message.unresolved_remote == "[2001:db8::1]:61616"
    assert message.opt.uri_host is None
    assert hostportsplit(message.unresolved_remote) == ("2001:db8::1", 61616)
    assert hostportsplit("192.0.2.1") == ("192.0.2.1", None)
    assert hostportjoin("2001:db8::1", 61616) == "[2001:db8::1]:61616"
    assert hostportjoin("192.0.2.1", None) == "192.0.2.1"


# ---- what aiocoap asks of a remote


def touching(*names: str) -> Any:
    """A remote that notes which of these attributes are looked at."""

    def look(name: str) -> property:
        def get(self: Any) -> Any:
            self.touched.add(name)
            return self.__dict__.get("_" + name, getattr(SocketRemote, name, None))

        def put(self: Any, value: Any) -> None:
            self.__dict__["_" + name] = value

        return property(get, put)

    return type("Touching", (Remote,), {"touched": set(), **{name: look(name) for name in names}})


async def test_remote_is_multicast(stack: Stack) -> None:
    kind = touching("is_multicast")
    stack.ask(kind(), mtype=None)
    assert kind.touched == {"is_multicast"}


async def test_remote_is_multicast_locally(stack: Stack) -> None:
    """An unknown confirmable response to a multicast address is not reset."""
    response = aiocoap.Message(code=aiocoap.CONTENT, _mtype=CON, _mid=5, _token=b"none")
    stack.receive(response, Remote(multicast_locally=True))
    assert stack.wire.sent == []


async def test_remote_as_response_address(stack: Stack) -> None:
    """Everything that goes back goes there: resets, acknowledgements, answers."""
    asker, elsewhere = Remote(), Remote("elsewhere")
    asker.response_address = elsewhere
    stack.light.wait = asyncio.Event()
    stack.receive(aiocoap.Message(code=aiocoap.EMPTY, _mtype=CON, _mid=1), asker)
    stack.receive(aiocoap.Message(code=aiocoap.CONTENT, _mtype=CON, _mid=2, _token=b"none"), asker)
    stack.receive(stack.request(CON), asker)
    await stack.sent(3)
    stack.light.wait.set()
    await stack.sent(4)
    assert [message.remote for message in stack.wire.sent] == [elsewhere] * 4


@pytest.mark.parametrize("attribute", ["maximum_block_size_exp", "maximum_payload_size"])
async def test_remote_and_the_size_of_blocks(stack: Stack, attribute: str) -> None:
    """An answer larger than the payload size is cut into blocks of the block size."""
    stack.light.answer = lambda: aiocoap.Message(payload=bytes(700))
    asker = Remote()
    asker.maximum_payload_size = 512
    asker.maximum_block_size_exp = 4
    stack.receive(stack.request(), asker)
    [answer] = await stack.sent()
    assert answer.opt.block2 == (0, True, 4)
    assert len(answer.payload) == 256
    assert hasattr(SocketRemote, attribute)


async def test_remote_blockwise_key(stack: Stack) -> None:
    """Blocks of one answer are given to whom they belong."""
    stack.light.answer = lambda: aiocoap.Message(payload=bytes(3000))
    kind = touching("blockwise_key")
    one, two = kind("one"), kind("two")
    for remote, key in ((one, "key 1"), (two, "key 2")):
        remote.blockwise_key = key
    stack.receive(stack.request(mid=1), one)
    await stack.sent(1)
    stack.receive(stack.request(mid=2, block2=(1, False, 6)), one)
    stack.receive(stack.request(mid=3, block2=(1, False, 6)), two)
    await stack.sent(3)
    codes = {message.remote: message.code for message in stack.wire.sent[1:]}
    assert codes == {one: aiocoap.CONTENT, two: aiocoap.REQUEST_ENTITY_INCOMPLETE}


async def test_remote_uri_of_a_request(stack: Stack) -> None:
    """A site asks for the request's URI, which is made of our own address."""
    kind = touching("hostinfo_local", "scheme")
    asker = kind()
    asker.hostinfo_local = "192.0.2.7:61616"
    asker.scheme = "coap"
    request = stack.request()
    stack.receive(request, asker)
    await stack.sent()
    assert {"hostinfo_local", "scheme"} <= kind.touched
    assert request.get_request_uri() == "coap://192.0.2.7:61616/light"


async def test_remote_is_hashed_and_compared(stack: Stack) -> None:
    """Two objects that are equal are one peer."""
    message, events, _ = stack.ask(Remote("same"))
    stack.receive(
        aiocoap.Message(code=aiocoap.CONTENT, _mtype=ACK, _mid=message.mid, _token=message.token), Remote("same")
    )
    assert len(events) == 1
    assert stack.messages._active_exchanges == {}


# ---- what bounds rely on


async def test_what_is_smaller_than_the_payload_size_is_neither_cut_nor_kept(stack: Stack) -> None:
    """With a payload size that nothing reaches, aiocoap's own cache of answers stays empty."""
    stack.light.answer = lambda: aiocoap.Message(payload=bytes(70_000))
    asker = Remote()
    asker.maximum_payload_size = sys.maxsize
    stack.receive(stack.request(), asker)
    [answer] = await stack.sent()
    assert (len(answer.payload), answer.opt.block2) == (70_000, None)
    assert stack.light._block2._completes._items == {}


async def test_a_request_without_block1_is_not_kept(stack: Stack) -> None:
    stack.receive(stack.request())
    await stack.sent()
    assert stack.light._block1._assemblies._items == {}


def test_extract_block() -> None:
    whole = aiocoap.Message(code=aiocoap.CONTENT, payload=bytes(range(200)), etag=b"v1", observe=3)
    whole.mid, whole.token = 7, b"t"
    block = whole._extract_block(1, 2, 0)
    assert (block.payload, block.opt.block2, block.opt.etag, block.opt.observe) == (
        bytes(range(64, 128)),
        (1, True, 2),
        b"v1",
        3,
    )
    assert (block.mid, block.token) == (None, b"t")
    assert whole._extract_block(3, 2, 0).opt.block2 == (3, False, 2)
    with pytest.raises(error.BadRequest):
        whole._extract_block(4, 2, 0)
    assert (len(whole.payload), whole.opt.block2) == (200, None)


async def test_piggyback_opportunities_and_backlogs(stack: Stack) -> None:
    """Where an answer that goes with an acknowledgement, and a message that waits for one, are found."""
    stack.light.wait = asyncio.Event()
    stack.receive(stack.request(CON, token=b"t"))
    assert list(stack.messages._piggyback_opportunities) == [(stack.peer, b"t")]
    for _ in range(3):
        stack.ask(Remote())
    assert list(stack.messages._active_exchanges) == [(Remote(), stack.wire.sent[0].mid)]
    assert [len(waiting) for waiting in stack.messages._backlogs.values()] == [2]
    stack.light.wait.set()
    await stack.sent(2)
    assert stack.messages._piggyback_opportunities == {}


async def test_an_answer_is_shown_before_it_is_sent_so_that_it_can_be_sent_to_a_copy(stack: Stack) -> None:
    """`_store_response_for_duplicates` and `_send_initially`, between which a table of copies stands."""
    stored: list[Any] = []
    stack.messages._store_response_for_duplicates = stored.append
    stack.receive(stack.request(CON))
    [answer] = await stack.sent()
    assert stored == [answer]
    stack.messages._send_initially(answer)
    assert stack.wire.sent == [answer, answer]


async def test_interest_ends_once_when_a_request_is_stopped_or_answered(stack: Stack) -> None:
    ended: list[str] = []
    for mid, name in enumerate(("answered", "stopped")):
        stack.light.wait = asyncio.Event()
        stack.receive(stack.request(mid=mid))
        [(pipe, stop)] = stack.tokens.incoming_requests.values()
        pipe.on_interest_end(lambda name=name: ended.append(name))
        await eventually(lambda: stack.light.seen)
        if name == "answered":
            stack.light.wait.set()
            await stack.sent()
        else:
            stop()
        assert ended[-1] == name
        stack.light.seen.clear()
    await asyncio.sleep(0)
    assert ended == ["answered", "stopped"]


async def test_incoming_requests_are_in_order_of_arrival(stack: Stack) -> None:
    stack.light.wait = asyncio.Event()
    for mid, token in enumerate((b"b", b"a", b"c")):
        stack.receive(stack.request(mid=mid, token=token))
    assert [token for token, _ in stack.tokens.incoming_requests] == [b"b", b"a", b"c"]


@pytest.mark.parametrize("kind", [OptionNumber, ContentFormat])
def test_enums_of_numbers_remember_what_has_no_name(kind: Any) -> None:
    """Which is why `groupcoap.endpoint.messages` does not call them."""
    number = 54_321
    assert number not in kind._value2member_map_
    assert kind(number) is kind._value2member_map_.pop(number)
    bare = int.__new__(kind, number)
    bare._value_ = number
    assert bare == kind(number)
    del kind._value2member_map_[number]
