"""The demonstration step by step. Every step is checked, most of them by what the lamps themselves say."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from ipaddress import IPv4Address

import aiocoap

from ..cli.answers import cells
from ..cli.text import plural
from ..core import coap
from ..endpoint.endpoint import Endpoint
from ..endpoint.multicaster import Answer, Multicaster
from ..endpoint.network import NetworkOptions
from ..errors import Reason
from ..files.provisioned import load_member
from ..files.state import EndpointState
from .anatomy import Legend, dissect
from .attacks import Attacker, Recorded, Recorder, Relay, impersonate
from .lamps import LEISURE, Lamp, running
from .room import GROUP, HOP_LIMIT, INTERFACE, Room, endpoint_id
from .stage import Stage
from .story import story_of

SHOWN = 10
"""Answers in a table; of more, only the first and the last are shown."""

_DELIVERED = re.compile(
    r"(?P<what>.+) from .+: number (?P<number>\d+), (?P<freshness>\w+), (?P<how>signature verified|pairwise)"
)
_SIGNED = "signature verified"


class ShowFailed(Exception):
    """Something did not happen as it should. The text says what, on one line."""


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


def check(condition: bool, otherwise: str) -> None:
    """`ShowFailed` with this text unless the condition holds."""
    if not condition:
        raise ShowFailed(otherwise)


class Show:
    """All steps: `start`, then `perform`, once."""

    def __init__(self, stage: Stage, room: Room) -> None:
        self._stage = stage
        self._room = room
        self._story = story_of(room.profile)
        self._hosts = [str(IPv4Address("127.0.0.2") + index) for index in range(len(room.lamps))]
        self.lamps = [Lamp(device, host) for device, host in zip(room.lamps, self._hosts, strict=True)]
        self._start_timeout = 20.0 + len(self.lamps)
        self._patience = 10.0 + 0.1 * len(self.lamps)
        """Seconds to wait for what should come at once."""
        self.recorded = b""
        """A request as it went over the wire."""
        self._states = {lamp.name: b"off" for lamp in self.lamps}

    @property
    def _all(self) -> str:
        return f"{len(self.lamps)} of {len(self.lamps)}"

    async def start(self, stack: AsyncExitStack) -> None:
        """Step 1: the lamps start. They run until `stack` is closed."""
        stage, count = self._stage, len(self.lamps)
        stage.step(f"A room with {plural(count, 'lamp')}")
        stage.say(self._story.files)
        began = time.monotonic()
        with stage.waiting("starting the lamps…"):
            await stack.enter_async_context(running(self.lamps, self._start_timeout))
        stage.quote([self.lamps[0].lines[-1], *(["…"] if count > 1 else [])])
        took = time.monotonic() - began
        stage.good(f"{count} running, each a process of its own (started in {took:.1f} s)")

    async def perform(self) -> None:
        """All other steps. `ShowFailed`, `LampFailed`, `GroupcoapError` if anything is not as it should be."""
        member = load_member(self._room.switch.directory)
        network = NetworkOptions(INTERFACE, IPv4Address("127.0.0.1"), hop_limit=HOP_LIMIT)
        with (
            EndpointState.open(member.state) as state,
            closing(Recorder(self._room.address)) as recorder,
            closing(Attacker(self._room.address)) as attacker,
        ):
            async with Endpoint(member.membership, state, network) as endpoint:
                switch = _Switch(Multicaster(endpoint, GROUP), recorder)
                await self._first_contact(switch)
                recorded = await self._once_more(switch)
                await self._replay(attacker, recorded)
                await self._forge(attacker, recorded)
                if self._room.profile.rules.pairwise:
                    await self._speak_to_one(switch, attacker)
                await self._lose_one(switch)

    # ---- the steps

    async def _first_contact(self, switch: _Switch) -> None:
        stage = self._stage
        stage.step("The switch dims the room: one datagram to all")
        marks = self._marks()
        round_ = await switch.put("40", self._patience)
        self._check_complete(round_)
        sent = switch.sent_by_multicast
        check(sent == 1, f"{sent} datagrams went to the group instead of one")
        plan = self._room.group.plan
        lengths = plan.signature.signature_length, plan.parameters(None).encryption.tag_length
        legend = Legend(*lengths, inside='PUT /light "40", encrypted', sender="the switch")
        stage.parts(dissect(round_.datagram, plan.profile, legend))
        stage.say(f"{len(round_.datagram)} bytes that anybody can see. {self._story.datagram}")
        stage.say(self._story.first_contact)
        lines = await self._all_delivered(marks, 'PUT /light "40"', "fresh", self._story.echoed)
        stage.quote([f"{self.lamps[0].name}: {lines[0]}"])
        stage.good(f"{self._all} lamps were told, and know that it is fresh and from the switch")
        stage.step(f"{plural(len(round_.answers), 'verified answer')}")
        self._show_answers(round_)
        stage.say(
            f"A lamp waits up to {LEISURE * 1000:.0f} ms, at random, before it answers a multicast request: "
            f"otherwise all would answer at once.{self._story.answers}"
        )

    async def _once_more(self, switch: _Switch) -> Recorded:
        stage = self._stage
        stage.step("Once more: the lamps know the switch now")
        marks = self._marks()
        round_ = await switch.put("75", self._patience)
        self._check_complete(round_)
        recorded = Recorded(round_.datagram)
        self.recorded = recorded.datagram
        lines = await self._all_delivered(marks, 'PUT /light "75"', "ordered")
        numbers = {int(_parse(line)["number"]) for line in lines}
        check(numbers == {recorded.number}, f"the lamps took requests {numbers}, not all number {recorded.number}")
        stage.quote([f"{self.lamps[0].name}: {lines[0]}"])
        stage.good(f"{self._all} lamps took the same datagram: no challenges, one answer each")
        self._show_delays(round_)
        return recorded

    async def _replay(self, attacker: Attacker, recorded: Recorded) -> None:
        self._stage.step("Somebody has recorded that datagram, and sends it again byte for byte")
        await self._attack(attacker, recorded.datagram, Reason.REPLAY, "they have seen this number")

    async def _forge(self, attacker: Attacker, recorded: Recorded) -> None:
        stage = self._stage
        number = recorded.number + 1
        stage.step(f"Somebody forges the switch's next request, number {number}")
        stage.say("An outsider changes the number in the recording:")
        await self._attack(
            attacker, recorded.renumbered(number), Reason.DECRYPTION_FAILED, "that takes the group's keys"
        )
        insider = self.lamps[-1]
        stage.say(
            f"{insider.name}, taken over by an attacker, has the group's keys and encrypts as the switch would:"
        )
        order = coap.Message(coap.NON, coap.PUT, 0x0BAD, b"\x66", ((coap.URI_PATH, b"light"),), b"off")
        forged = impersonate(insider.device, self._room.switch, number, order)
        await self._attack(attacker, forged, Reason.SIGNATURE_FAILED, "the signature takes the switch's own key")

    async def _attack(self, attacker: Attacker, datagram: bytes, reason: Reason, why: str) -> None:
        marks = self._marks()
        attacker.send(datagram)
        lines = await self._refused(self.lamps, marks, reason)
        self._stage.quote([f"{self.lamps[0].name}: {lines[0]}"])
        self._stage.good(f"{self._all} lamps refused it: {reason.value} ({why})")

    async def _speak_to_one(self, switch: _Switch, attacker: Attacker) -> None:
        stage, lamp, others = self._stage, self.lamps[0], self.lamps[1:]
        stage.step(f"The switch speaks to {lamp.name} alone, in pairwise mode")
        marks = self._marks()
        with closing(Relay((lamp.host, self._room.address.port))) as relay:
            answer = await switch.put_alone("15", lamp, relay.address, self._patience)
            request = relay.datagrams[0]
        line = await lamp.expect(
            lambda line: _DELIVERED.fullmatch(line) is not None, marks[0], self._patience, 'get PUT /light "15"'
        )
        parsed = _parse(line)
        good = (parsed["what"], parsed["freshness"], parsed["how"]) == ('PUT /light "15"', "ordered", "pairwise")
        check(good, f'{lamp.name} should have got PUT /light "15", ordered, pairwise, but said: {line}')
        said = answer.message.payload
        known = answer.provenance.signature.value
        check((said, known) == (b"on 15%", "pairwise"), f"{lamp.name} answered {said!r}, {known}")
        self._states[lamp.name] = said
        stage.quote([f"{lamp.name}: {line}"])
        stage.good(f"{lamp.name} was told, and answered: on 15%, likewise for the switch alone")
        stage.say(
            f"{len(request)} bytes, for there is no countersignature. A request to the group does not say which "
            "lamp it is for: sent to one of them, it could be turned to another, so lamps take it that way only if "
            "it changes nothing. This one is of use to one lamp only."
        )
        if not others:
            return
        stage.say(
            "Somebody on the way has kept it and sends it to all other lamps, which have the group's keys and all "
            "credentials:"
        )
        marks = self._marks()
        for other in others:
            attacker.send(request, (other.host, self._room.address.port))
        lines = await self._refused(others, marks[1:], Reason.DECRYPTION_FAILED)
        stage.quote([f"{others[0].name}: {lines[0]}"])
        stage.good(
            f"{len(others)} of {len(others)} could neither read nor take it: {Reason.DECRYPTION_FAILED.value} "
            f"(that takes the private key of the switch or of {lamp.name})"
        )

    async def _lose_one(self, switch: _Switch) -> None:
        stage = self._stage
        victim = self.lamps[len(self.lamps) // 2]
        stage.step(f"{victim.name} dies (kill -9 {victim.pid})")
        await victim.kill()
        patience = max(2.5, 10 * switch.slowest)
        with stage.waiting("asking all lamps for their state…"):
            round_ = await switch.get(patience)
        check(
            round_.missing == (victim.name,), f"missing: {', '.join(round_.missing) or 'nobody'}, not {victim.name}"
        )
        self._check_states(round_)
        others = len(self.lamps) - 1
        stage.good(f"{others} of {others + 1} answered; missing: {victim.name}")
        if others:
            stage.good(f"{self._told(round_)}: what the attackers sent has changed nothing")
        await victim.start(self._start_timeout)
        marks = self._marks()
        round_ = await switch.put("20", self._patience)
        self._check_complete(round_)
        lines = await self._all_delivered(marks, 'PUT /light "20"', "ordered")
        self._check_states(round_)
        stage.say(
            f"{victim.name} is started again; what it has seen of the switch was on its disk before it mattered:"
        )
        stage.quote([f"{victim.name}: {lines[self.lamps.index(victim)]}"])
        stage.good(f"{self._all} answered, all say on 20%")
        self._show_delays(round_)

    # ---- what is checked and shown in several

    def _marks(self) -> list[int]:
        return [len(lamp.lines) for lamp in self.lamps]

    async def _each(
        self, lamps: Sequence[Lamp], marks: Sequence[int], wanted: Callable[[str], bool], what: str
    ) -> list[str]:
        """The first wanted line of each of these lamps."""
        pairs = zip(lamps, marks, strict=True)
        found = (lamp.expect(wanted, mark, self._patience, what) for lamp, mark in pairs)
        return list(await asyncio.gather(*found))

    async def _all_delivered(
        self, marks: Sequence[int], what: str, freshness: str, how: str = _SIGNED
    ) -> list[str]:
        lines = await self._each(
            self.lamps, marks, lambda line: _DELIVERED.fullmatch(line) is not None, f"get {what}"
        )
        level = what.split('"')[1]
        for lamp, line in zip(self.lamps, lines, strict=True):
            parsed = _parse(line)
            good = (parsed["what"], parsed["freshness"], parsed["how"]) == (what, freshness, how)
            check(good, f"{lamp.name} should have got {what}, {freshness}, {how}, but said: {line}")
            self._states[lamp.name] = f"on {level}%".encode()
        return lines

    async def _refused(self, lamps: Sequence[Lamp], marks: Sequence[int], reason: Reason) -> list[str]:
        """What these lamps say of a datagram that all of them must refuse for this reason."""

        def decided(line: str) -> bool:
            return line.startswith("dropped ") or _DELIVERED.fullmatch(line) is not None

        lines = await self._each(lamps, marks, decided, "say what became of the datagram")
        for lamp, line in zip(lamps, lines, strict=True):
            check(f": {reason.value}" in line, f"{lamp.name} did not refuse it for {reason.value!r}: {line}")
        return lines

    def _check_states(self, round_: Round) -> None:
        """Whether all who have answered say what they were told last."""
        for answer in round_.answers:
            told, said = self._states[answer.label], answer.message.payload
            check(said == told, f"{answer.label} says {said!r} instead of {told!r}")

    def _told(self, round_: Round) -> str:
        """What they have said, once that is checked."""
        lamps: dict[str, list[str]] = {}
        for answer in sorted(round_.answers, key=lambda answer: answer.endpoint_id):
            lamps.setdefault(answer.message.payload.decode(), []).append(answer.label)
        if len(lamps) == 1:
            return f"all of these say {next(iter(lamps))}"
        (one, (name, *_)), (most, _) = lamps.items()
        return f"{name} says {one}, the others {most}"

    def _check_complete(self, round_: Round) -> None:
        check(not round_.missing, f"no answer from {', '.join(round_.missing)}")
        good = len(round_.answers) == len(self.lamps)
        check(good, f"{len(round_.answers)} answers from {len(self.lamps)} lamps")
        bad = next((answer for answer in round_.answers if not answer.message.code.is_successful()), None)
        check(bad is None, f"{bad.label if bad else ''} answered {bad.message.code if bad else ''}")

    def _show_answers(self, round_: Round) -> None:
        rows = [cells(answer) for answer in round_.answers]
        if len(rows) > SHOWN:
            rows = [*rows[:4], ("…",) * 7, *rows[-4:]]
        self._stage.rows(("lamp", "id", "code", "payload", "after", "signature", "freshness"), rows)
        self._show_delays(round_)

    def _show_delays(self, round_: Round) -> None:
        first = min(answer.delay for answer in round_.answers)
        self._stage.good(f"the first lamp after {first * 1000:.0f} ms, the last after {round_.last * 1000:.0f} ms")


class _Switch:
    """The switch, with somebody listening on the wire."""

    def __init__(self, multicaster: Multicaster, recorder: Recorder) -> None:
        self._multicaster = multicaster
        self._recorder = recorder
        self._before = 0
        self.slowest = 0.0
        """Seconds: the longest that any answer has taken so far."""

    @property
    def sent_by_multicast(self) -> int:
        """Datagrams that the last request took."""
        return len(self._recorder.datagrams) - self._before

    async def put(self, level: str, patience: float) -> Round:
        """Tell all lamps."""
        message = aiocoap.Message(code=aiocoap.PUT, uri_path=("light",), payload=level.encode())
        return await self._request(message, patience)

    async def get(self, patience: float) -> Round:
        """Ask all lamps."""
        return await self._request(aiocoap.Message(code=aiocoap.GET, uri_path=("light",)), patience)

    async def put_alone(self, level: str, lamp: Lamp, address: tuple[str, int], patience: float) -> Answer:
        """Tell one lamp, which is to be found there."""
        message = aiocoap.Message(code=aiocoap.PUT, uri_path=("light",), payload=level.encode())
        collection = self._multicaster.ask(endpoint_id(lamp.device), message, address, timeout=patience)
        async with collection:
            answers = [answer async for answer in collection]
        check(len(answers) == 1, f"{lamp.name} did not answer")
        return answers[0]

    async def _request(self, message: aiocoap.Message, patience: float) -> Round:
        self._before = len(self._recorder.datagrams)
        async with self._multicaster.request(message, timeout=patience) as collection:
            answers = [answer async for answer in collection]
        missing = tuple(sorted(self._multicaster.name_of(lamp) or lamp.hex() for lamp in collection.missing))
        self.slowest = max([self.slowest, *(answer.delay for answer in answers)])
        check(self.sent_by_multicast > 0, "nothing was seen on the wire")
        return Round(self._recorder.datagrams[self._before], answers, missing)


def _parse(line: str) -> dict[str, str]:
    found = _DELIVERED.fullmatch(line)
    return found.groupdict() if found is not None else {}
