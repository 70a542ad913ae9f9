"""A whole endpoint with nothing around it: real groups, interface, aiocoap layers and devices, over a network that
only records, in a time that passes at once. What it does and logs is watched."""

from __future__ import annotations

import asyncio
import logging
import random
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields, replace
from functools import cache
from itertools import count
from typing import Any
from unittest.mock import patch

from groupcoap.core.contexts import DEFAULT_SYNCHRONIZATION
from groupcoap.core.policy import GroupPolicy, Verification
from groupcoap.core.profile import Mode
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.cose.credentials import Credential
from groupcoap.endpoint import endpoint as endpoint_module
from groupcoap.endpoint import sparing
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.groups import ListenerPolicy
from groupcoap.endpoint.limits import DEFAULT_LIMITS, Limits, Reached
from groupcoap.endpoint.network import Address, NetworkOptions, Receive, SocketAddress
from groupcoap.files.state import MemoryState
from groupcoap.membership import (
    COAP_PORT,
    Epoch,
    EpochInstalled,
    GroupAddress,
    GroupConfiguration,
    Member,
    MembershipEvent,
    Role,
)

from .group import (
    ADDRESS,
    IDS,
    LAMP,
    MULTICAST,
    NAME,
    OTHER_LAMP,
    STRANGER,
    SWITCH,
    Group,
    gid,
    master_secret,
    private_key,
)

OWN_ADDRESS: SocketAddress = ("192.0.2.1", COAP_PORT)
GROUP_ADDRESS: SocketAddress = (str(ADDRESS), COAP_PORT)
_ROLES = {LAMP: Role.LISTENER, OTHER_LAMP: Role.LISTENER, SWITCH: Role.MULTICASTER, STRANGER: Role.MULTICASTER}
_BOTH = frozenset({Role.LISTENER, Role.MULTICASTER})


# ---- time


class _Clock(selectors.SelectSelector):
    """Nothing ever arrives: waiting moves the clock instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits for something that will not come"
        self.now += max(timeout, 0.0)
        return []


class Loop(asyncio.SelectorEventLoop):
    """An event loop in which time passes at once."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def begin_again(self) -> None:
        """Put the clock back: after long the numbers would be too coarse for short times. Nothing may be left that
        waits for it."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        assert all(timer.cancelled() for timer in timers), timers
        timers.clear()
        self._clock.now = 1000.0


@cache
def _loop() -> Loop:
    return Loop()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run this coroutine function in a loop of that kind, which is kept for the next unless something was wrong."""
    loop = _loop()
    problems: list[dict[str, Any]] = []
    try:
        loop.begin_again()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        loop.run_until_complete(main())
        assert not problems, problems
    except BaseException:
        _loop.cache_clear()
        raise


# ---- what is around an endpoint


class RecordingNetwork:
    """Stands where `Network` does. `sent`: (datagram, destination) in order."""

    interface = "none"
    kernel_drops = 0

    def __init__(self, options: NetworkOptions, receive: Receive, limits: Limits, reached: Reached) -> None:
        self.receive = receive
        self.sent: list[tuple[bytes, SocketAddress]] = []

    def open_unicast(self, version: int) -> None:
        pass

    def join(self, address: GroupAddress) -> None:
        pass

    def leave(self, addresses: Sequence[GroupAddress]) -> None:
        pass

    def refresh(self) -> bool:
        return True

    def socket_address(self, host: Address, port: int = COAP_PORT) -> SocketAddress:
        return str(host), port

    def send(self, datagram: bytes, destination: SocketAddress) -> None:
        self.sent.append((datagram, destination))

    def local_of(self, source: SocketAddress, destination: bytes | None) -> SocketAddress:
        return OWN_ADDRESS if destination is None else GROUP_ADDRESS

    def close(self) -> None:
        pass


class Source:
    """The group as an endpoint that is lamp and switch at once knows it. The stranger's credential has to be looked
    up."""

    def __init__(self, policy: SynchronizationPolicy, group: Group) -> None:
        self.group = group
        self.configuration = configuration(policy, group=group)
        self._receive: Callable[[MembershipEvent], None] = lambda event: None

    def groups(self) -> Sequence[GroupConfiguration]:
        return (self.configuration,)

    def subscribe(self, receive: Callable[[MembershipEvent], None]) -> Callable[[], None]:
        self._receive = receive
        return lambda: None

    def refresh(self) -> None:
        """Renewals are told at once: there is never anything to be found."""

    async def credential(self, group: str, gid: bytes, endpoint_id: bytes) -> Credential | None:
        return self.group.credential(STRANGER) if endpoint_id == STRANGER else None

    def running_low(self, group: str, gid: bytes, own_id: bytes) -> None:
        """It has no use for that."""

    def unknown_gid(self, gid: bytes) -> None:
        """Nor for that."""

    @property
    def epoch(self) -> int:
        """The number of the current epoch."""
        return len(self.configuration.epochs) - 1

    def renew(self) -> None:
        """The next epoch, which the other lamp is no longer a member of."""
        epochs = (*self.configuration.epochs, _epoch(self.group, self.epoch + 1, frozenset({OTHER_LAMP})))
        self.configuration = replace(self.configuration, epochs=epochs)
        self._receive(EpochInstalled(self.configuration))


@cache
def _member(group: Group, kid: bytes) -> Member:
    return Member(kid, f"member-{kid.hex()}", frozenset({_ROLES[kid]}), group.credential(kid))


@cache
def _epoch(group: Group, number: int, departed: frozenset[bytes] = frozenset()) -> Epoch:
    members = tuple(_member(group, kid) for kid in IDS if kid not in departed | {STRANGER})
    own = group.credential(LAMP)
    return Epoch(
        gid(number), master_secret(number), LAMP, private_key(LAMP), members, departed, group.master_salt, own
    )


@cache
def configuration(
    policy: SynchronizationPolicy = DEFAULT_SYNCHRONIZATION, epochs: int = 1, group: Group = MULTICAST
) -> GroupConfiguration:
    """The group as an endpoint that is lamp and switch at once knows it, after so many epochs."""
    given = {field.name: getattr(group.parameters, field.name) for field in fields(group.parameters)}
    return GroupConfiguration(
        name=NAME,
        addresses=(GroupAddress(ADDRESS),),
        roles=_BOTH,
        epochs=tuple(_epoch(group, number) for number in range(epochs)),
        policy=GroupPolicy(synchronization=policy, grace=10.0, max_unfragmented_size=512),
        **given,
    )


# ---- the endpoint


class Device:
    """An open endpoint, with what stands in for the world around it."""

    def __init__(self, endpoint: Endpoint, network: RecordingNetwork, source: Source) -> None:
        self.endpoint = endpoint
        self.network = network
        self.source = source

    @property
    def delivered(self) -> int:
        """How many datagrams were delivered."""
        return self.endpoint.counters.delivered_requests + self.endpoint.counters.delivered_responses

    @property
    def outcomes(self) -> int:
        """How many datagrams were delivered, challenged or refused."""
        counters = self.endpoint.counters
        return self.delivered + counters.challenges_sent + sum(counters.rejected.values())


@asynccontextmanager
async def opened(
    policy: SynchronizationPolicy,
    verification: Verification = Verification.ALWAYS,
    *,
    group: Group = MULTICAST,
    response_mode: Mode | None = None,
    plain: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Device]:
    """An endpoint that is lamp and switch at once. Afterwards it is closed, and nothing of it is left."""
    random.seed(0)  # aiocoap's Message IDs, tokens and retransmission times
    entropy = count(1)
    source = Source(policy, group)
    with patch.multiple(endpoint_module, Network=RecordingNetwork, REJOIN_INTERVAL=300.0):
        endpoint = Endpoint(
            source,
            MemoryState(),
            NetworkOptions(),
            policy=ListenerPolicy(verification=verification, response_mode=response_mode),
            plain=plain,
            limits=limits,
            leisure=0.0,
            entropy=lambda length: next(entropy).to_bytes(length, "big"),
        )
        async with endpoint:
            network: Any = endpoint.network
            yield Device(endpoint, network, source)
    await asyncio.sleep(1000.0)  # longer than any timer
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left


# ---- what is logged


class _Watch(logging.Handler):
    """Everything is formatted, as it would be for somebody who reads it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.ERROR or record.exc_info:
            self.errors.append(f"{record.name}: {text}: {record.exc_info}")


@contextmanager
def watched() -> Iterator[list[str]]:
    """What is logged meanwhile at error level, or with a traceback. Nothing is left out for coming too often, which
    would depend on the time."""
    watch = _Watch()
    loggers = [logging.getLogger(name) for name in ("groupcoap", "coap", "asyncio")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(watch)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    try:
        with patch.object(sparing._SPARING, "filter", lambda record: True):
            yield watch.errors
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(watch)
            logger.setLevel(level)
            logger.propagate = propagate
