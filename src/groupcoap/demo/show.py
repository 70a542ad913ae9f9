"""The demonstration step by step. Every step is checked, most of them by what the lamps themselves say."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from ipaddress import IPv4Address

from ..cli.answers import cells
from ..cli.text import plural
from ..core import coap
from ..endpoint.endpoint import Endpoint
from ..endpoint.network import NetworkOptions
from ..errors import Reason, Rejected
from ..member.enrolment import ENROLMENT_FILE
from ..member.membership import ManagedMembership
from .anatomy import Legend, dissect
from .attacks import Attacker, Insider, Recorded, Recorder, Relay
from .lamps import LEISURE, READY, Lamp, running
from .office import Command, Office
from .room import GROUP, HOP_LIMIT, INTERFACE, Device, Room
from .stage import Stage
from .story import story_of
from .switch import Pulse, Round, ShowFailed, Switch, check

SHOWN = 10
"""Answers in a table; of more, only the first and the last are shown."""

BEAT = 0.2
"""Seconds between two requests while keys are renewed."""

_DELIVERED = re.compile(
    r"(?P<what>.+) from .+: number (?P<number>\d+), (?P<freshness>\w+), (?P<how>signature verified|pairwise)"
)
_SIGNED = "signature verified"
_LEFT = f"{GROUP}: no member any more"
_NEW_KEYS = "new keys, Gid "
_OFF = coap.Message(coap.NON, coap.PUT, 0x0BAD, b"\x66", ((coap.URI_PATH, b"light"),), b"off")


class Show:
    """All steps: `start`, then `perform`, once. `lamps`: those that are in the room now."""

    def __init__(self, stage: Stage, room: Room) -> None:
        self._stage = stage
        self._room = room
        self._story = story_of(room.profile)
        self.office = Office(room)
        hosts = [str(IPv4Address("127.0.0.2") + index) for index in range(room.count)]
        self.lamps = [Lamp(device, host) for device, host in zip(room.lamps, hosts, strict=True)]
        self._start_timeout = 30.0 + 2 * len(self.lamps)
        self._patience = 10.0 + 0.1 * len(self.lamps)
        """Seconds to wait for what should come at once."""
        self._states = {lamp.name: b"off" for lamp in self.lamps}

    @property
    def _all(self) -> str:
        return f"{len(self.lamps)} of {len(self.lamps)}"

    @property
    def _names(self) -> list[str]:
        return [lamp.name for lamp in self.lamps]

    async def start(self, stack: AsyncExitStack) -> None:
        """Step 1: there is a manager, which runs until `stack` is closed, a group, and a file for each device."""
        stage, room, office = self._stage, self._room, self.office
        stage.step("A Group Manager, a group, and one file for each device")
        await self._do(office.init)
        with stage.waiting("starting the manager…"):
            ready = await stack.enter_async_context(office.open(self._start_timeout))
        self._show_command(office.serve)
        stage.quote([ready])
        stage.quote((await self._do(office.create))[:1])
        room.write_list()
        *_, line = room.roster.read_text().splitlines()
        stage.say(f"{room.roster.name} has a line for each device, such as {line}.")
        await self._do(office.enroll)
        stage.quote([self._enrolment(room.lamps[0])])
        devices = plural(room.count + 1, "device")
        stage.good(f"{devices} enrolled: each has a file of its own, to be carried there, and no key of the group")

    def _enrolment(self, device: Device) -> str:
        """What a device's file says, but for its secret."""
        path = device.directory / ENROLMENT_FILE
        body = json.loads(path.read_text())
        (group,) = body["groups"]
        check(len(body["secret"]) == 32, f"{path} has no secret")
        shown = {"handle": body["handle"], "secret": "…", "manager": body["manager"]["addresses"][0]}
        shown["group"] = f"{group['name']} as {' and '.join(group['roles'])}"
        return f"{path.relative_to(self._room.directory)}: " + ", ".join(f"{k} {v}" for k, v in shown.items())

    async def perform(self, stack: AsyncExitStack) -> None:
        """All other steps. The lamps run until `stack` is closed. `ShowFailed`, `ProcessFailed`, `GroupcoapError`
        if anything is not as it should be."""
        room = self._room
        with closing(Recorder(room.address)) as recorder, closing(Attacker(room.address)) as attacker:
            async with self._joined(stack, recorder) as switch:
                await self._first_contact(switch)
                recorded = await self._once_more(switch)
                await self._replay(attacker, recorded)
                insider = await self._forge(attacker, recorded)
                if room.profile.rules.pairwise:
                    await self._speak_to_one(switch, attacker)
                await self._lose_one(switch)
                if len(self.lamps) > 1:
                    await self._evict(switch, attacker, insider)
                await self._let_one_sleep(switch)

    @asynccontextmanager
    async def _joined(self, stack: AsyncExitStack, recorder: Recorder) -> AsyncIterator[Switch]:
        """Step 2: the lamps start and join, and the switch with them."""
        stage, count = self._stage, len(self.lamps)
        stage.step(f"{plural(count, 'lamp')} and the switch join the group")
        began = time.monotonic()
        network = NetworkOptions(INTERFACE, IPv4Address("127.0.0.1"), hop_limit=HOP_LIMIT)
        async with ManagedMembership(self._room.switch.directory, network) as membership:
            with stage.waiting("starting the lamps…"):
                await stack.enter_async_context(running(tuple(self.lamps), self._start_timeout))
                await membership.ready(self._start_timeout)
            took = time.monotonic() - began
            self._show_command(tuple(self.lamps[0].command))
            ready = next(line for line in self.lamps[0].lines if READY in line)
            stage.quote([ready, *(["…"] if count > 1 else [])])
            status = await self.office.until_behind([], self._patience)
            check(status["members"] == count + 1, f"{status['members']} members instead of {count + 1}")
            stage.say(self._story.joined)
            renewals = plural(status["num"], "renewal")
            stage.good(f"{count + 1} members after {took:.1f} s and {renewals}: {self._shown(status)}")
            with membership.open_state() as state:
                async with Endpoint(membership, state, network) as endpoint:
                    yield Switch(endpoint, recorder)

    @staticmethod
    def _shown(status: dict[str, object]) -> str:
        """How the manager says the group is, in short."""
        behind = status["behind"]
        assert isinstance(behind, list)
        names = ", ".join(behind) or "nobody"
        return f"num {status['num']}, Gid {status['gid']}, members {status['members']}, behind {names}"

    def _show_command(self, command: Command) -> None:
        """A command as one would type it in the demonstration's directory."""
        directory = f"{self._room.directory}/"
        self._stage.command(" ".join(("groupcoap", *(word.removeprefix(directory) for word in command))))

    async def _do(self, command: Command) -> list[str]:
        self._show_command(command)
        return await self.office.do(command)

    # ---- the steps

    async def _first_contact(self, switch: Switch) -> None:
        stage = self._stage
        stage.step("The switch dims the room: one datagram to all")
        marks = self._marks()
        round_ = await switch.put("40", self._patience)
        self._check_complete(round_)
        sent = switch.sent_by_multicast
        check(sent == 1, f"{sent} datagrams went to the group instead of one")
        legend = Legend(*switch.lengths, inside='PUT /light "40", encrypted', sender="the switch")
        stage.parts(dissect(round_.datagram, self._room.profile, legend))
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

    async def _once_more(self, switch: Switch) -> Recorded:
        stage = self._stage
        stage.step("Once more: the lamps know the switch now")
        marks = self._marks()
        round_ = await switch.put("75", self._patience)
        self._check_complete(round_)
        recorded = Recorded(round_.datagram)
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

    async def _forge(self, attacker: Attacker, recorded: Recorded) -> Insider:
        stage = self._stage
        number = recorded.number + 1
        stage.step(f"Somebody forges the switch's next request, number {number}")
        stage.say("An outsider changes the number in the recording:")
        await self._attack(
            attacker, recorded.renumbered(number), Reason.DECRYPTION_FAILED, "that takes the group's keys"
        )
        lamp = self.lamps[-1]
        insider = Insider(lamp.device, self._room.directory / "stolen")
        stage.say(f"{lamp.name}, taken over by an attacker, has the group's keys and encrypts as the switch would:")
        forged = insider.speak(number, _OFF, name=self._room.switch.name)
        await self._attack(attacker, forged, Reason.SIGNATURE_FAILED, "the signature takes the switch's own key")
        return insider

    async def _attack(self, attacker: Attacker, datagram: bytes, reason: Reason, why: str) -> None:
        marks = self._marks()
        attacker.send(datagram)
        lines = await self._refused(self.lamps, marks, (reason,))
        self._stage.quote([f"{self.lamps[0].name}: {lines[0]}"])
        self._stage.good(f"{self._all} lamps refused it: {reason.value} ({why})")

    async def _speak_to_one(self, switch: Switch, attacker: Attacker) -> None:
        stage, lamp, others = self._stage, self.lamps[0], self.lamps[1:]
        stage.step(f"The switch speaks to {lamp.name} alone, in pairwise mode")
        marks = self._marks()
        with closing(Relay((lamp.host, self._room.address.port))) as relay:
            answer = await switch.put_alone("15", lamp.name, relay.address, self._patience)
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
        lines = await self._refused(others, marks[1:], (Reason.DECRYPTION_FAILED,))
        stage.quote([f"{others[0].name}: {lines[0]}"])
        stage.good(
            f"{len(others)} of {len(others)} could neither read nor take it: {Reason.DECRYPTION_FAILED.value} "
            f"(that takes the private key of the switch or of {lamp.name})"
        )

    async def _lose_one(self, switch: Switch) -> None:
        stage = self._stage
        victim = self.lamps[len(self.lamps) // 2]
        stage.step(f"{victim.name} dies (kill -9 {victim.pid})")
        await victim.kill()
        with stage.waiting("asking all lamps for their state…"):
            round_ = await self._without(switch.get(self._patience_for_missing(switch)), victim)
        self._check_states(round_)
        stage.good(f"{self._others} answered; missing: {victim.name}")
        if len(self.lamps) > 1:
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

    async def _evict(self, switch: Switch, attacker: Attacker, insider: Insider) -> None:
        stage, evicted = self._stage, self.lamps.pop()
        stage.step(f"{evicted.name}, which was taken over, is evicted; the switch does not stop for that")
        before, mark, marks = switch.gid, len(evicted.lines), self._marks()
        async with Pulse(switch, self._names, 30, BEAT, self._patience) as pulse:
            await pulse.go_on(3)
            await self._do(self.office.evict(evicted.name))
            await self.office.until_behind([], self._patience)
            await switch.until_renewed(before, self._patience)
            await pulse.go_on(3)
        told = await evicted.expect(
            lambda line: line.startswith(_LEFT), mark, self._patience, "learn that it is evicted"
        )
        lines = await self._each(self.lamps, marks, lambda line: _NEW_KEYS in line, "get new keys")
        stage.quote([f"{evicted.name}: {told}", f"{self.lamps[0].name}: {lines[0]}"])
        self._check_pulse(pulse, switch)
        last = Recorded(switch.last_datagram)
        check(last.gid == switch.gid, "the switch goes on with the former keys")
        stage.say(
            f"Whoever has taken {evicted.name} over still gets what the switch sends. With the keys from there:"
        )
        stage.quote([f"{evicted.name}'s keys, {_unreadable(insider, last)}"])
        stage.good("it cannot be read any more")
        stage.say(f"Nor is {evicted.name} heard, as itself or, under the new Gid, as the switch:")
        in_vain = insider.speak(0, _OFF)
        await self._speak_in_vain(attacker, in_vain, (Reason.UNKNOWN_SENDER, Reason.UNKNOWN_GROUP))
        in_vain = insider.speak(last.number + 1, _OFF, name=self._room.switch.name, gid=last.gid)
        await self._speak_in_vain(attacker, in_vain, (Reason.DECRYPTION_FAILED,))
        stage.good(f"{self._all} lamps refused both")

    async def _speak_in_vain(self, attacker: Attacker, datagram: bytes, reasons: Collection[Reason]) -> None:
        marks = self._marks()
        attacker.send(datagram)
        lines = await self._refused(self.lamps, marks, reasons)
        self._stage.quote([f"{self.lamps[0].name}: {lines[0]}"])

    def _check_pulse(self, pulse: Pulse, switch: Switch) -> None:
        """Whether all of these lamps have answered each request; it is said how many that were."""
        beats, count = pulse.beats, len(self.lamps)
        for beat in beats:
            silent = set(self._names) - {answer.label for answer in beat.answers}
            check(not silent, f"no answer to the request for {beat.level} % from {', '.join(sorted(silent))}")
            done = f"on {beat.level}%".encode()
            bad = [answer.label for answer in beat.answers if answer.message.payload != done]
            check(not bad, f"{', '.join(bad)} did not do {beat.level} %")
        after = sum(beat.gid == switch.gid for beat in beats)
        check(0 < after < len(beats), "the switch did not send before and after the renewal")
        slowest = max(answer.delay for beat in beats for answer in beat.answers)
        for lamp in self.lamps:
            self._states[lamp.name] = f"on {max(beats, key=lambda beat: beat.number).level}%".encode()
        self._stage.good(
            f"a request every {BEAT * 1000:.0f} ms, {len(beats) - after} with the former keys and {after} with the "
            f"new ones: {len(beats)} of {len(beats)} answered by {self._all} lamps, {len(beats) * count} answers, "
            f"each within {slowest * 1000:.0f} ms"
        )

    async def _let_one_sleep(self, switch: Switch) -> None:
        stage = self._stage
        sleeper = self.lamps[len(self.lamps) // 3]
        stage.step(f"{sleeper.name} sleeps (kill -STOP {sleeper.pid}) while the keys are renewed")
        sleeper.sleep()
        mark, before = len(sleeper.lines), switch.gid
        await self._do(self.office.rekey)
        status = await self.office.until_behind([sleeper.name], self._patience)
        await switch.until_renewed(before, self._patience)
        round_ = await self._without(switch.put("60", self._patience_for_missing(switch)), sleeper)
        for lamp in self.lamps:
            if lamp is not sleeper:
                self._states[lamp.name] = b"on 60%"
        self._check_states(round_)
        stage.good(f"{self._others} answered{', with new keys' if round_.answers else ''}; missing: {sleeper.name}")
        stage.good(f"the manager knows: {self._shown(status)}")
        sleeper.wake()
        line = await sleeper.expect(lambda line: _NEW_KEYS in line, mark, self._patience, "catch up")
        await self.office.until_behind([], self._patience)
        stage.say(f"{sleeper.name} wakes up (kill -CONT {sleeper.pid}), and catches up by itself:")
        stage.quote([f"{sleeper.name}: {line}"])
        check(switch.gid.hex() in line, f"{sleeper.name} has other keys than the switch")
        round_ = await switch.put("80", self._patience)
        self._check_complete(round_)
        for name in self._states:
            self._states[name] = b"on 80%"
        self._check_states(round_)
        stage.good(f"{self._all} answered, all say on 80%")

    # ---- what is checked and shown in several

    @property
    def _others(self) -> str:
        return f"{len(self.lamps) - 1} of {len(self.lamps)}"

    @staticmethod
    def _patience_for_missing(switch: Switch) -> float:
        """Seconds after which who has not answered is missing."""
        return max(1.5, 6 * switch.slowest)

    @staticmethod
    async def _without(request: Awaitable[Round], lamp: Lamp) -> Round:
        """What has become of a request that everybody but this lamp must answer."""
        round_ = await request
        missing = ", ".join(round_.missing) or "nobody"
        check(round_.missing == (lamp.name,), f"missing: {missing}, not {lamp.name}")
        return round_

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

    async def _refused(self, lamps: Sequence[Lamp], marks: Sequence[int], reasons: Collection[Reason]) -> list[str]:
        """What these lamps say of a datagram that all of them must refuse for one of these reasons."""

        def decided(line: str) -> bool:
            return line.startswith("dropped ") or _DELIVERED.fullmatch(line) is not None

        lines = await self._each(lamps, marks, decided, "say what became of the datagram")
        for lamp, line in zip(lamps, lines, strict=True):
            good = any(f": {reason.value}" in line for reason in reasons)
            wanted = " or ".join(repr(reason.value) for reason in reasons)
            check(good, f"{lamp.name} did not refuse it for {wanted}: {line}")
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
        (one, (name, *_)), (most, _) = sorted(lamps.items(), key=lambda entry: len(entry[1]))
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


def _parse(line: str) -> dict[str, str]:
    found = _DELIVERED.fullmatch(line)
    return found.groupdict() if found is not None else {}


def _unreadable(insider: Insider, recorded: Recorded) -> str:
    """Why an insider cannot read this any more. `ShowFailed` if that is not so."""
    try:
        insider.read(recorded.datagram)
    except Rejected as rejection:
        check(rejection.reason is Reason.DECRYPTION_FAILED, f"{insider.name} cannot read it for another reason")
        return f"Gid {insider.gid.hex()}, not {recorded.gid.hex()}: {rejection.reason.value}"
    raise ShowFailed(f"{insider.name} can still read the group's messages")
