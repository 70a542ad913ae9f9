"""What `groupcoap.association` relies on in aiocoap beyond its documented interface: one test each.

What the layers below rely on is in tests/endpoint/test_aiocoap_internals.py. Run against another release of
aiocoap, these say whether it can be pinned.
"""

# mypy: allow-untyped-calls, allow-untyped-defs
from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

import aiocoap
import pytest
from aiocoap import error, oscore
from aiocoap.message import Direction
from aiocoap.oscore import (
    COSE_KID,
    COSE_KID_CONTEXT,
    COSE_PIV,
    CanProtect,
    CanUnprotect,
    ContextUnavailable,
    ReplayError,
    ReplayErrorWithEcho,
    ReplayWindow,
)
from aiocoap.pipe import Pipe
from aiocoap.transports.oscore import OSCOREAddress, TransportOSCORE
from associated import carried, nonces  # noqa: F401

from groupcoap.association.context import AssociationContext
from groupcoap.association.node import EndingTransport
from groupcoap.association.site import AssociationRemote
from groupcoap.endpoint.remote import SocketRemote
from groupcoap.secret import Secret

LOG = logging.getLogger("test")
SECRET = Secret(bytes(16))


def pair(**options: Any) -> tuple[AssociationContext, AssociationContext]:
    client = AssociationContext("server", SECRET, b"", b"\x02", b"\x01", fresh=True)
    return client, AssociationContext("client", SECRET, b"", b"\x01", b"\x02", **{"fresh": True, **options})


def request(client: AssociationContext, **options: Any) -> tuple[Any, Any]:
    message, request_id = client.protect(aiocoap.Message(code=aiocoap.GET, **options))
    return carried(message), request_id


def test_algorithms_by_default() -> None:
    assert oscore.algorithms[oscore.DEFAULT_ALGORITHM].value == 10
    assert oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION].name == "sha256"
    assert oscore.DEFAULT_WINDOWSIZE == 32


def test_numbers_are_taken_by_new_sequence_number_alone() -> None:
    client, server = pair(bound=0)
    source = inspect.getsource(CanProtect._build_new_nonce)
    assert source.count("new_sequence_number") == 1
    sent, _ = request(client)
    _, request_id = server.unprotect(sent)
    answer, _ = server.protect(aiocoap.Message(code=aiocoap.CONTENT), request_id)  # by the request's nonce
    assert carried(answer).opt.oscore == b""
    with pytest.raises(ContextUnavailable):
        server.protect(aiocoap.Message(code=aiocoap.CONTENT), request_id)  # which is used up


def test_errors_and_what_they_are() -> None:
    for kind in (oscore.ProtectionInvalid, oscore.NotAProtectedMessage, ContextUnavailable):
        assert issubclass(kind, error.Error)
        assert issubclass(kind, ValueError)
    for kind in (ReplayError, ReplayErrorWithEcho, oscore.DecodeError):
        assert issubclass(kind, oscore.ProtectionInvalid)
    assert not issubclass(ReplayErrorWithEcho, ReplayError)
    assert not issubclass(ContextUnavailable, oscore.ProtectionInvalid)
    assert oscore.NotAProtectedMessage("text", "message").plain_message == "message"


def test_verify_start_says_what_is_not_protected() -> None:
    sent, _ = request(pair()[0])
    assert oscore.verify_start(sent) == {COSE_KID: b"\x02", COSE_PIV: b"\x00"}
    assert (COSE_KID, COSE_PIV, COSE_KID_CONTEXT) == (4, 6, 10)
    with pytest.raises(oscore.NotAProtectedMessage):
        oscore.verify_start(carried(aiocoap.Message(code=aiocoap.GET)))


def test_requests_are_post_outside_and_errors_are_successes() -> None:
    client, server = pair()
    sent, _ = request(client)
    assert sent.code == aiocoap.POST
    assert sent.opt.uri_path == ()
    _, request_id = server.unprotect(sent)
    answer, _ = server.protect(aiocoap.Message(code=aiocoap.FORBIDDEN), request_id)
    assert answer.code == aiocoap.CHANGED


def test_without_an_echo_value_a_replay_is_not_even_decrypted() -> None:
    client, server = pair()
    assert server.echo_recovery is None
    sent, _ = request(client)
    server.unprotect(sent)
    sent.payload = bytes(len(sent.payload))
    with pytest.raises(ReplayError):
        server.unprotect(sent)


def test_an_echo_answer_does_not_use_the_requests_nonce() -> None:
    client, server = pair(fresh=False, next_number=5, bound=10)
    sent, _ = request(client)
    with pytest.raises(ReplayErrorWithEcho) as caught:
        server.unprotect(sent)
    assert oscore.verify_start(carried(caught.value.to_message()))[COSE_PIV] == b"\x05"


def test_replay_window() -> None:
    window = ReplayWindow(32, lambda: None)
    assert not window.is_initialized()
    window.initialize_from_freshlyseen(7)
    assert window.is_initialized()
    assert [window.is_valid(number) for number in (6, 7, 8)] == [False, False, True]
    window.initialize_empty()
    assert window.is_valid(0)


def test_unprotect_gives_incoming_messages() -> None:
    client, server = pair()
    inner, _ = server.unprotect(request(client, payload=b"x")[0])
    assert inner.direction is Direction.INCOMING
    assert (inner.mtype, inner.mid, inner.remote) == (None, None, None)
    assert isinstance(server, CanUnprotect)


def test_an_observe_option_is_taken_off_a_request_that_has_none_outside() -> None:
    client, server = pair()
    sent, _ = request(client, observe=0)
    assert sent.code == aiocoap.FETCH
    assert sent.opt.observe == 0
    sent.opt.observe = None
    assert server.unprotect(sent)[0].opt.observe is None


def test_remotes_with_settings_of_their_own() -> None:
    context, _ = pair()
    remote = AssociationRemote(context, SocketRemote(("127.0.0.1", 9)))
    assert isinstance(remote, OSCOREAddress)
    assert remote.security_context is context
    assert (remote.maximum_block_size_exp, remote.maximum_payload_size) == (5, 512)
    remote.maximum_block_size_exp = 3  # aiocoap does this
    assert AssociationRemote.maximum_block_size_exp == 5


class Recorder(aiocoap.Context):  # type: ignore[misc]
    """A context that keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def request(self, message: Any, handle_blockwise: bool = True) -> Any:
        self.sent.append(message)
        wire, self.answer = aiocoap.protocol.BaseUnicastRequest(), asyncio.get_running_loop().create_future()
        wire.response = self.answer
        return wire


def asked(context: Recorder, security: AssociationContext, **options: Any) -> tuple[Pipe, list[Any], Any]:
    message = aiocoap.Message(code=aiocoap.GET, **options)
    message.remote = AssociationRemote(security, SocketRemote(("127.0.0.1", 9)))
    pipe = Pipe(message, LOG)
    events: list[Any] = []

    def note(event: Any) -> bool:
        events.append(event)
        return not event.is_last

    stop = pipe.on_event(note)
    EndingTransport(context, context).request(pipe)
    return pipe, events, stop


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_transport_takes_requests_to_its_addresses_only() -> None:
    context = aiocoap.Context()
    transport = TransportOSCORE(context, context)
    client, _ = pair()
    remote = SocketRemote(("127.0.0.1", 9))
    message = aiocoap.Message(code=aiocoap.GET)
    message.remote = AssociationRemote(client, remote)
    assert await transport.fill_or_recognize_remote(message)
    protected, _ = client.protect(aiocoap.Message(code=aiocoap.GET))
    protected.remote = remote
    assert not await transport.fill_or_recognize_remote(protected)
    assert transport._tasks == set()


async def test_the_transport_verifies_answers() -> None:
    context = Recorder()
    client, server = pair()
    _, events, _ = asked(context, client)
    await turn()
    [sent] = context.sent
    assert sent.remote == SocketRemote(("127.0.0.1", 9))
    _, request_id = server.unprotect(carried(sent))
    answer = carried(server.protect(aiocoap.Message(code=aiocoap.CONTENT, payload=b"x"), request_id)[0])
    answer.remote = sent.remote
    context.answer.set_result(answer)
    await turn()
    assert [event.message.payload for event in events] == [b"x"]
    assert isinstance(events[0].message.remote, OSCOREAddress)


async def test_the_transport_answers_an_echo_challenge_itself() -> None:
    context = Recorder()
    client, server = pair(fresh=False)
    _, events, _ = asked(context, client)
    await turn()
    with pytest.raises(ReplayErrorWithEcho) as caught:
        server.unprotect(carried(context.sent[0]))
    answer = carried(caught.value.to_message())
    answer.remote = context.sent[0].remote
    context.answer.set_result(answer)
    await turn()
    inner, _ = server.unprotect(carried(context.sent[1]))
    assert inner.opt.echo is not None
    assert events == []


async def test_the_transport_passes_on_what_is_not_protected_and_what_fails() -> None:
    context = Recorder()
    client, _ = pair()
    _, events, _ = asked(context, client)
    await turn()
    context.answer.set_result(carried(aiocoap.Message(code=aiocoap.UNAUTHORIZED)))
    await turn()
    assert isinstance(events[0].exception, oscore.NotAProtectedMessage)
    assert events[0].exception.plain_message.code == aiocoap.UNAUTHORIZED
    client.sender_sequence_number = client.bound
    _, events, _ = asked(context, client)
    await turn()
    assert isinstance(events[0].exception, ContextUnavailable)


async def test_a_request_that_nobody_waits_for_ends() -> None:
    context = Recorder()
    client, _ = pair()
    _, events, stop = asked(context, client)
    await turn()
    answer = context.answer
    stop()
    await turn()
    assert answer.cancelled()
    assert events == []


async def test_cancelling_the_response_of_a_request_in_blocks_ends_the_interest_in_its_pipe() -> None:
    context = aiocoap.Context()
    ended: list[Any] = []

    class Interface:
        async def fill_or_recognize_remote(self, message: Any) -> bool:
            return True

        def request(self, pipe: Pipe) -> None:
            pipe.on_interest_end(lambda: ended.append(pipe))

    context.request_interfaces.append(Interface())
    message = aiocoap.Message(code=aiocoap.GET)
    message.remote = SocketRemote(("127.0.0.1", 9))
    response = context.request(message).response
    await turn()
    assert ended == []
    response.cancel()
    await turn()
    assert len(ended) == 1


async def test_interest_in_a_pipe_that_has_ended_ends_at_once(caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe(aiocoap.Message(code=aiocoap.GET), LOG)
    pipe.on_event(lambda event: True)()
    told: list[str] = []
    pipe.on_interest_end(lambda: told.append("ended"))
    assert told == ["ended"]
