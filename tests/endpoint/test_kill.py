"""`kill -9`, again and again, at random moments: no sequence number is used twice, no replay is accepted."""

from __future__ import annotations

import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from mmap import mmap
from pathlib import Path
from random import Random

import pytest
from children import Child, Main
from victims import (
    COMPACTING,
    GROUP,
    IDLE,
    OWN_ID,
    RECORDING,
    RESERVING,
    Memory,
    Recording,
    Scene,
    gid,
    listener,
    multicaster,
    reach_all,
    record,
    use,
    user_of_state,
)
from wire import Member, common_context

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.exchange import outgoing_exchange
from groupcoap.core.option import decode_prefix
from groupcoap.core.requests import object_security
from groupcoap.core.responses import decrypt_response
from groupcoap.errors import Rejected
from groupcoap.files.state import EndpointState, StateKey

pytestmark = pytest.mark.processes

KILLS = 100
"""Under each profile."""
ENOUGH = 30
"""Of anything that is looked at in the end, for each member: there was something to be seen."""
BATCH = 32
"""Datagrams sent at once: they fit into a socket's buffer."""


class Victim:
    """A process that is killed and started again, with the same state."""

    def __init__(self, main: Main, *arguments: object) -> None:
        self._main = main
        self._arguments = arguments
        self._phase = mmap(-1, 1)
        self.start()

    def start(self) -> None:
        self._phase[0] = IDLE
        self._child = Child(self._main, *self._arguments, self._phase)

    def kill(self) -> int:
        """Returns what it was doing with its state."""
        self._child.crash()
        return self._phase[0]

    def stop(self) -> None:
        """Whatever has become of it."""
        self._child.kill()

    def wait_until_busy(self) -> None:
        """Until it writes its state, but not for long."""
        for _ in range(1000):
            if self._phase[0] != IDLE:
                return
            time.sleep(0.00005)


@pytest.mark.usefixtures("each_profile")
def test_no_number_is_used_twice_and_no_replay_accepted(tmp_path: Path) -> None:
    """Seen from what was sent, and from what listeners have acted on and multicasters have taken for an answer."""
    scene = Scene(tmp_path)
    with Recorder(scene, attacks=0.2) as recorder:
        multicasters = [Victim(multicaster, scene, kid) for kid in scene.world.switch_ids]
        listening = [Victim(listener, scene, kid) for kid in scene.world.lamp_ids]
        met = kill_again_and_again([*multicasters, *listening], KILLS)
    assert sum(met.values()) == KILLS
    assert min(met[RESERVING], met[RECORDING], met[COMPACTING]) > 0
    recorded = recorder.recording
    assert set(recorded.heard) <= {datagram for _, datagram in recorded.copies}
    with Recorder(scene, attacks=0) as afterwards, ExitStack() as stack:
        listeners = {kid: Child(listener, scene, kid, mmap(-1, 1)) for kid in scene.world.lamp_ids}
        for child in listeners.values():
            stack.enter_context(child)
        replay(scene, recorded, listeners)
        for kid in scene.world.switch_ids:
            assert Child(reach_all, scene, kid).result() == frozenset(scene.world.lamp_ids)
    check_nonces(scene, [*recorded.copies, *afterwards.recording.copies])
    check_logs(scene)


def test_state_is_as_it_was_promised_after_every_kill(tmp_path: Path) -> None:
    """Killed while reserving, recording, compacting, renewing, closing, opening: numbers and windows never go back,
    what was forgotten does not return, and the state can always be opened."""
    states = {tmp_path / f"{number}.state": Memory() for number in range(4)}
    for path in states:
        EndpointState.create(path, [StateKey(GROUP, gid(0), OWN_ID)])
    met = kill_again_and_again([Victim(user_of_state, *state) for state in states.items()], 100)
    assert min(met[RESERVING], met[RECORDING], met[COMPACTING]) > 0
    assert sum(memory.epoch for memory in states.values()) > 5
    for path, memory in states.items():
        with EndpointState.open(path) as state:
            use(state, memory)


class Recorder:
    """Records what members send."""

    recording: Recording

    def __init__(self, scene: Scene, attacks: float) -> None:
        self._child = Child(record, scene, attacks)
        assert self._child.event() == "ready"

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._child.tell("stop")
        self.recording = self._child.result()


def kill_again_and_again(victims: list[Victim], times: int) -> Counter[int]:
    """At moments that chance chooses; every other time while the state is being written. Returns how often a victim
    was doing what with its state."""
    chance = Random(3)
    met: Counter[int] = Counter()
    try:
        for number in range(times):
            time.sleep(chance.random() * 0.02)
            victim = chance.choice(victims)
            if number % 2:
                victim.wait_until_busy()
            met[victim.kill()] += 1
            victim.start()
    finally:
        for victim in victims:
            victim.stop()
    return met


# ---- what was sent


def check_nonces(scene: Scene, sent: Iterable[tuple[tuple[str, int], bytes]]) -> None:
    """Under one key no nonce stands for two messages. It is made of the Partial IV of the sender, or is the
    request's, which one answer of each listener may use. One count of numbers is for all keys of a sender: so it
    does not in two modes either."""
    common = common_context(scene.world)
    requests = Requests(scene)
    used: dict[tuple[bytes, ...], bytes] = {}
    pairwise: Counter[bool] = Counter()
    nonce: tuple[bytes, ...]
    for _, datagram in sent:
        message = coap.decode(datagram)
        if message.option(coap.OBJECT_SECURITY) is None:
            continue  # an empty acknowledgement or an unprotected error
        prefix = decode_prefix(object_security(message))
        partial_iv = prefix[1]
        if coap.is_request(message.code):
            kid, _, alone = common.profile.split_request_option(common, prefix)
            assert kid is not None
            assert partial_iv is not None
            requests.add(kid, partial_iv, message, alone=alone)
            nonce = (kid, partial_iv)
        else:
            told, _, alone = common.profile.split_response_option(common, prefix)
            if told is not None and partial_iv:
                nonce = (told, partial_iv)
            else:
                kid, *request = requests.answered_by(message)
                assert told in (None, kid)
                nonce = (kid, partial_iv) if partial_iv else (kid, *request)
        pairwise[alone] += 1
        assert used.setdefault(nonce, datagram) == datagram, f"{nonce} stands for two messages"
    for kid in scene.kids:
        assert sum(nonce[0] == kid for nonce in used) > ENOUGH
    assert (pairwise[True] > 0) == scene.world.suite.pairwise


class Requests:
    """The requests that were sent, to find the one that an answer without Partial IV or without kid belongs to."""

    def __init__(self, scene: Scene) -> None:
        self._members = [Member(scene.world, kid) for kid in scene.world.switch_ids]
        self._sent: dict[tuple[bytes, bytes], set[tuple[bytes, bytes | None]]] = defaultdict(set)
        self._others = scene.world.lamp_ids

    def add(self, kid: bytes, partial_iv: bytes, message: Message, *, alone: bool) -> None:
        """`alone`: it was for one. Who that is does not depend on where it went: a challenge may have come from
        anywhere."""
        self._sent[kid, message.token] |= {(partial_iv, peer) for peer in (self._others if alone else [None])}

    def answered_by(self, message: Message) -> tuple[bytes, bytes, bytes]:
        """(who answers, kid and Partial IV of the request). Tokens come again in another life, so it is the one
        that fits."""
        found = []
        for member in self._members:
            kid = member.sender.sender_id
            for partial_iv, peer in self._sent[kid, message.token]:
                nonce = member.context.common.nonce(kid, partial_iv)
                ids = (kid, partial_iv, member.context.gid)
                bind = member.sender.bind
                exchange = outgoing_exchange(member.context, ids, bind(partial_iv), nonce, False, peer)
                with suppress(Rejected):
                    answer = decrypt_response(member.registry, exchange, message)
                    found.append((answer.sender_id, kid, partial_iv))
        assert len(found) == 1
        return found[0]


# ---- what was done


def check_logs(scene: Scene) -> None:
    """Nobody acted twice on one request, or on one command; no answer counted twice."""
    for kid in scene.world.lamp_ids:
        lines = [line.split() for line in scene.log(kid).read_text().splitlines()]
        assert len(lines) > ENOUGH
        twice = [origin for origin, times in Counter(tuple(origin) for _, *origin in lines).items() if times > 1]
        assert not twice
        commands = Counter(what for what, *_ in lines if what != "observe")
        assert not [what for what, times in commands.items() if times > 1]
    for kid in scene.world.switch_ids:
        answers = Counter(scene.log(kid).read_text().splitlines())
        assert len(answers) > ENOUGH
        assert not [answer for answer, times in answers.items() if times > 1]


def replay(scene: Scene, recording: Recording, listeners: dict[bytes, Child]) -> None:
    """Send all requests once more to new lives of the listeners, in any order: the way they came, and what came by
    multicast by unicast as well."""
    for child in listeners.values():
        assert child.event() == "ready"
    reached = {scene.address(kid): [kid] for kid in listeners} | {scene.group: list(listeners)}
    again = {(to, sent) for to, sent in recording.copies if to in reached and coap.is_request(sent[1])}
    again |= {(to, datagram) for of, datagram in again if of == scene.group for to in reached}
    order = sorted(again)
    Random(5).shuffle(order)
    sent = Counter(dict.fromkeys(listeners, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        attacker.bind(("127.0.0.1", 0))
        attacker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        attacker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        for at in range(0, len(order), BATCH):
            for destination, datagram in order[at : at + BATCH]:
                attacker.sendto(datagram, destination)
                sent.update(reached[destination])
            for kid, child in listeners.items():
                child.tell(sent[kid])
            for child in listeners.values():
                assert child.event() == "accounted for"
