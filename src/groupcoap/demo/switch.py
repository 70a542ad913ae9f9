"""The switch, in this process, and what it asks of the lamps."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType

import aiocoap

from ..endpoint.endpoint import Endpoint
from ..endpoint.multicaster import KNOWN, Answer, Multicaster, Roster
from ..membership import MembershipEvent
from .attacks import Recorder
from .room import GROUP


class ShowFailed(Exception):
    """Something did not happen as it should. The text says what, on one line."""


def check(condition: bool, otherwise: str) -> None:
    """`ShowFailed` with this text unless the condition holds."""
    if not condition:
        raise ShowFailed(otherwise)


@dataclass(frozen=True, slots=True)
class Round:
    """A request that was sent, as it went over the wire, and who answered."""

    datagram: bytes
    answers: list[Answer]
    missing: tuple[str, ...]

    @property
    def last(self) -> float:
        """Seconds until the last answer."""
        return max((answer.delay for answer in self.answers), default=0.0)


class Switch:
    """The switch, with somebody listening on the wire."""

    def __init__(self, endpoint: Endpoint, recorder: Recorder) -> None:
        self._multicaster = Multicaster(endpoint, GROUP)
        self._changed = asyncio.Event()
        endpoint.groups.source.subscribe(self._told)  # behind the endpoint, which is up to date when this is called
        self._recorder = recorder
        self._before = 0
        self.slowest = 0.0
        """Seconds: the longest that any answer has taken so far."""

    @property
    def gid(self) -> bytes:
        """What it sends under now."""
        return self._multicaster.endpoint.groups.current(GROUP).gid

    def _told(self, event: MembershipEvent) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until_renewed(self, before: bytes, timeout: float) -> None:
        """Wait until it has other keys than those of this Gid. `ShowFailed` if that takes longer."""
        try:
            async with asyncio.timeout(timeout):
                while self.gid == before:
                    await self._changed.wait()
        except TimeoutError:
            raise ShowFailed("the switch did not get new keys") from None

    @property
    def lengths(self) -> tuple[int, int]:
        """Bytes of a countersignature and of a tag."""
        group = self._multicaster.endpoint.groups.configuration(GROUP)
        return group.signature.signature_length, group.parameters.encryption.tag_length

    @property
    def last_datagram(self) -> bytes:
        """What went over the wire last."""
        return self._recorder.datagrams[-1]

    @property
    def sent_by_multicast(self) -> int:
        """Datagrams that the last request took."""
        return len(self._recorder.datagrams) - self._before

    async def put(self, level: str, patience: float) -> Round:
        """Tell all lamps."""
        return await self._request(_put(level), patience)

    async def get(self, patience: float) -> Round:
        """Ask all lamps."""
        return await self._request(aiocoap.Message(code=aiocoap.GET, uri_path=("light",)), patience)

    async def put_alone(self, level: str, lamp: str, address: tuple[str, int], patience: float) -> Answer:
        """Tell one lamp, which is to be found there."""
        (endpoint_id,) = self._ids((lamp,))
        async with self._multicaster.ask(endpoint_id, _put(level), address, timeout=patience) as collection:
            answers = [answer async for answer in collection]
        check(len(answers) == 1, f"{lamp} did not answer")
        return answers[0]

    async def put_to(self, level: str, lamps: Collection[str], patience: float) -> tuple[Answer, ...]:
        """Tell all lamps, and wait for the answers of these. Several at a time can be under way."""
        return await self._answers(_put(level), patience, self._ids(lamps))

    async def _request(self, message: aiocoap.Message, patience: float) -> Round:
        self._before = len(self._recorder.datagrams)
        expected = self._multicaster.listeners
        answers = await self._answers(message, patience, KNOWN)
        missing = expected - {answer.endpoint_id for answer in answers}
        names = tuple(sorted(self._multicaster.name_of(lamp) or lamp.hex() for lamp in missing))
        check(self.sent_by_multicast > 0, "nothing was seen on the wire")
        return Round(self._recorder.datagrams[self._before], list(answers), names)

    async def _answers(self, message: aiocoap.Message, patience: float, roster: Roster) -> tuple[Answer, ...]:
        async with self._multicaster.request(message, timeout=patience, roster=roster) as collection:
            answers = [answer async for answer in collection]
        self.slowest = max([self.slowest, *(answer.delay for answer in answers)])
        return tuple(answers)

    def _ids(self, names: Collection[str]) -> frozenset[bytes]:
        listeners = self._multicaster.listeners
        return frozenset(lamp for lamp in listeners if self._multicaster.name_of(lamp) in names)


def _put(level: str) -> aiocoap.Message:
    return aiocoap.Message(code=aiocoap.PUT, uri_path=("light",), payload=level.encode())


@dataclass(frozen=True, slots=True)
class Beat:
    """A request of a pulse: its number, under which Gid it was sent, what it says, and who of those that it was for
    answered how."""

    number: int
    gid: bytes
    level: int
    answers: tuple[Answer, ...]


class Pulse:
    """While it is open, the switch tells the lamps a level every `period` seconds, whatever else happens. After it
    was closed, `beats` are all requests with their answers."""

    def __init__(self, switch: Switch, lamps: Sequence[str], first: int, period: float, patience: float) -> None:
        self.beats: list[Beat] = []
        self._switch = switch
        self._lamps = tuple(lamps)
        self._first = first
        self._period = period
        self._patience = patience
        self._under_way: list[asyncio.Task[None]] = []
        self._beaten = asyncio.Event()

    async def __aenter__(self) -> Pulse:
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the answers; with an error, for nothing."""
        self._beating.cancel()
        if error is not None:
            for task in self._under_way:
                task.cancel()
        found = await asyncio.gather(self._beating, *self._under_way, return_exceptions=True)
        failed = [one for one in found if isinstance(one, Exception)]
        if failed and error is None:
            raise failed[0]

    async def go_on(self, beats: int) -> None:
        """Wait for so many beats more."""
        for _ in range(beats):
            await self._beaten.wait()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time()
        while True:
            self._under_way.append(loop.create_task(self._one(len(self._under_way))))
            self._beaten.set()
            self._beaten = asyncio.Event()
            at += self._period
            await asyncio.sleep(max(0.0, at - loop.time()))

    async def _one(self, number: int) -> None:
        gid, level = self._switch.gid, (self._first + number) % 101  # percent
        answers = await self._switch.put_to(str(level), self._lamps, self._patience)
        self.beats.append(Beat(number, gid, level, answers))
