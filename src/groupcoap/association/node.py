"""A host that speaks CoAP with associations: client and server over one unicast socket, and multicast beside it.

aiocoap's layers over this package's sockets, with its limits: names are not resolved, tables are bounded, a request
that nobody waits for any more ends on the wire as well.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

import aiocoap
from aiocoap import error, interfaces
from aiocoap.oscore import ContextUnavailable, NotAProtectedMessage, ProtectionInvalid
from aiocoap.pipe import Pipe
from aiocoap.transports.oscore import TransportOSCORE

from ..core import coap
from ..core.option import FLAG_GID, FLAG_KID, decode_prefix
from ..endpoint.counters import Counters
from ..endpoint.limits import DEFAULT_LIMITS, Limits, PeerRates
from ..endpoint.network import Network, NetworkOptions, SocketAddress, parse_address
from ..endpoint.plain import open_stack
from ..endpoint.remote import SocketRemote
from ..endpoint.sparing import sparing_logger
from ..errors import Limit, MisuseError, NetworkFault, Reason, Rejected
from ..membership import GroupAddress
from .context import AssociationContext
from .site import AssociationRemote, Credentials, ProtectedSite

HostPort = tuple[str, int]
"""(IP address, UDP port)"""
OnMulticast = Callable[[coap.Message, SocketAddress], None]

_KNOWN_FLAGS: Final = 0x07 | FLAG_KID | FLAG_GID  # the others are reserved, or a group's
_REQUEST_TAG: Final = 4
_TURNS: Final = 5
"""Of the event loop, within which a cancelled request has ended."""

log = sparing_logger("groupcoap.associations")


class UnprotectedAnswer(Rejected):
    """A protected request was answered without protection. Anybody may have sent that. `code`: its code."""

    def __init__(self, code: int) -> None:
        super().__init__(Reason.NOT_PROTECTED, f"unprotected {coap.code_text(code)}")
        self.code = code


class EndingTransport(TransportOSCORE):  # type: ignore[misc]
    """aiocoap's transport for OSCORE requests; one that nobody waits for any more ends."""

    def request(self, request: Pipe) -> None:
        task = self.loop.create_task(self._request(request))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._done, request))
        request.on_interest_end(task.cancel)

    def _done(self, request: Pipe, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            request.add_exception(problem)


class CoapNode:
    """Opened with `async with`. `options`: where it sends and receives. `site`: what it serves, see
    `ProtectedSite`. `credentials`: who knows the contexts of requests; may be set later. `on_multicast`: gets
    non-confirmable requests that come to a multicast address, nothing of which is verified; it must not
    raise."""

    def __init__(
        self,
        options: NetworkOptions,
        site: interfaces.Resource | None = None,
        credentials: Credentials | None = None,
        limits: Limits = DEFAULT_LIMITS,
        on_multicast: OnMulticast | None = None,
    ) -> None:
        self._options = options
        self._limits = limits
        self._on_multicast = on_multicast
        self.counters = Counters()
        self._site = ProtectedSite(site, credentials, limits, self.counters.reached)
        self._errors = PeerRates(limits, Limit.ERROR_RATE, Limit.ERROR_RATE_PER_PEER)
        self._signs: dict[tuple[object, ...], set[asyncio.Event]] = {}
        self._network: Network | None = None

    @property
    def credentials(self) -> Credentials | None:
        """Who knows the contexts for requests."""
        return self._site.credentials

    @credentials.setter
    def credentials(self, credentials: Credentials | None) -> None:
        self._site.credentials = credentials

    async def __aenter__(self) -> CoapNode:
        """Open the sockets. `NetworkFault` if that cannot be; `MisuseError` if it is open."""
        if self._network is not None:
            raise MisuseError("the node is open already")
        self._loop = asyncio.get_running_loop()
        network = Network(self._options, self._receive, self._limits, self.counters.reached)
        try:
            network.open_unicast(4 if self._options.bind is None else self._options.bind.version)
        except Exception:
            network.close()
            raise
        self._network = network
        reached = self.counters.reached
        self._context, self._plain, _, _ = open_stack(self._site, network, self._limits, reached, self._may_answer)
        self._context.request_interfaces.insert(0, EndingTransport(self._context, self._context))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all requests, leave the multicast addresses, close the sockets."""
        network = self.network
        self._network = None
        for _ in range(_TURNS):  # what was cancelled just now ends first: aiocoap's shutdown would fail over it
            await asyncio.sleep(0)
        await self._context.shutdown()
        network.close()

    @property
    def network(self) -> Network:
        """The sockets. `MisuseError` if the node is not open."""
        if self._network is None:
            raise MisuseError("the node is not open")
        return self._network

    # ---- from the sockets

    def _receive(self, datagram: bytes, source: SocketAddress, destination: bytes | None) -> None:
        """A datagram has come. Nothing is raised: what is wrong with it is counted."""
        if self._network is None:
            return
        try:
            message = coap.decode(datagram)
            _check_protection(message)
            if destination is not None:
                self._by_multicast(message, source)
                return
            for sign in self._signs.get(source[:2], ()):
                sign.set()
            self._plain.receive(message, source)
        except Rejected as rejection:
            self.counters.reject(rejection)
            log.debug("dropped a datagram from %s: %s", source[0], rejection)
        except Exception:  # an application's function, or a mistake: other datagrams must not suffer from it
            log.exception("a datagram from %s was not processed", source[0])

    def _by_multicast(self, message: coap.Message, source: SocketAddress) -> None:
        if message.type != coap.NON or not coap.is_request(message.code):
            raise Rejected(Reason.NOT_FOR_MULTICAST)
        if self._on_multicast is not None:
            self._on_multicast(message, source)

    def _may_answer(self, address: SocketAddress) -> bool:
        """Whether an unprotected error may be sent to this host now; if so it is counted."""
        limit = self._errors.reached(address[0], self._loop.time())
        if limit is None:
            self.counters.errors_sent += 1
            return True
        self.counters.reached(limit)
        return False

    # ---- multicast

    def join(self, address: GroupAddress) -> None:
        """Receive what is sent to this multicast address. `NetworkFault` if it cannot be."""
        self.network.join(address)

    def leave(self, address: GroupAddress) -> None:
        """Do so no more."""
        self.network.leave([address])

    def send_multicast(self, address: GroupAddress, message: coap.Message) -> None:
        """Send one datagram to all. `NetworkFault` if it cannot be sent, `MisuseError` if it cannot be encoded."""
        self.network.send(coap.encode(message), self.network.socket_address(address.host, address.port))

    # ---- unicast

    def local_address(self, version: int) -> SocketAddress:
        """What the unicast socket for this IP version is bound to; it is opened if need be. `NetworkFault`."""
        self.network.open_unicast(version)
        return self.network.local_address(version)

    def refresh(self) -> bool:
        """Join again, and send by, an interface that has come back. False while it is away."""
        return self.network.refresh()

    async def request(
        self,
        message: aiocoap.Message,
        address: HostPort,
        context: AssociationContext | None,
        timeout: float,
        patience: float | None = None,
    ) -> aiocoap.Message:
        """Send a confirmable request, and wait at most `timeout` seconds for its answer, but no longer than
        `patience` seconds for any sign of life from there. Bodies of more than 512 bytes go, and come, in
        blocks. The message is used up. Only with a `context` is it protected, and then so is the answer.

        `NetworkFault`: no answer, or the address is none. `UnprotectedAnswer`: to a protected request. `Rejected`:
        the answer cannot be verified. aiocoap's `ContextUnavailable`: no Sender Sequence Number may be used. What
        fails like that may have been processed all the same."""
        remote = SocketRemote(self.network.socket_address(parse_address(address[0]), address[1]))
        message.remote = remote if context is None else AssociationRemote(context, remote)
        if len(message.payload) > AssociationRemote.maximum_payload_size:
            message.opt.request_tag = [
                os.urandom(_REQUEST_TAG)
            ]  # blocks of two bodies are not mixed (RFC 9175 §3.3)
        with _translated(address):
            async with asyncio.timeout(timeout):
                if context is not None:
                    await context.ready()
                return await self._exchange(message, remote, patience)

    async def _exchange(
        self, message: aiocoap.Message, remote: SocketRemote, patience: float | None
    ) -> aiocoap.Message:
        answer: asyncio.Future[Any] = self._context.request(message).response
        try:
            if patience is not None:
                await self._sign_of_life(answer, remote, patience)
            return await answer
        finally:
            answer.cancel()

    async def _sign_of_life(self, answer: asyncio.Future[Any], remote: SocketRemote, patience: float) -> None:
        """Wait until anything has come from there, or the request has failed. `TimeoutError` if neither."""
        sign, address = asyncio.Event(), remote.address[:2]
        self._signs.setdefault(address, set()).add(sign)
        answer.add_done_callback(lambda _: sign.set())
        try:
            async with asyncio.timeout(patience):
                await sign.wait()
        finally:
            waiting = self._signs[address]
            waiting.discard(sign)
            if not waiting:
                del self._signs[address]


@contextmanager
def _translated(address: HostPort) -> Iterator[None]:
    """aiocoap's exceptions as this package's."""
    where = f"{address[0]} port {address[1]}"
    try:
        yield
    except TimeoutError:
        raise NetworkFault(f"{where} did not answer") from None
    except NotAProtectedMessage as problem:
        raise UnprotectedAnswer(int(problem.plain_message.code)) from None
    except ContextUnavailable:
        raise
    except ProtectionInvalid as problem:
        raise Rejected(Reason.DECRYPTION_FAILED, str(problem)) from None
    except error.Error as problem:
        text = problem.args[0] if problem.args else type(problem).__name__
        raise NetworkFault(f"no answer from {where}: {text}") from None


def _check_protection(message: coap.Message) -> None:
    """`Rejected` (malformed) for an OSCORE option that is not of RFC 8613: aiocoap's parser takes some of these for
    more than they are, and stumbles."""
    values = [value for number, value in message.options if number == coap.OBJECT_SECURITY]
    if not values:
        return
    if len(values) > 1 or not message.payload:
        raise Rejected(Reason.MALFORMED, "two OSCORE options, or no ciphertext")
    flags, partial_iv, _, rest = decode_prefix(values[0])
    if flags & ~_KNOWN_FLAGS or (rest and not flags & FLAG_KID):
        raise Rejected(Reason.MALFORMED, "reserved flags in the OSCORE option, or bytes behind it")
    if coap.is_request(message.code) and (partial_iv is None or not flags & FLAG_KID):
        raise Rejected(Reason.MALFORMED, "request without Partial IV or kid")
