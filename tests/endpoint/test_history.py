"""Random histories of a group, checked against a model at every step."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest
from history import History
from history_air import Datagram, flip, tamper_with_observe, without_protection
from history_group import (
    GRACE,
    IDS,
    MULTICASTERS,
    PLACES,
    RESOURCES,
    STRANGER,
    Node,
    Setup,
    Storage,
    virtual_storage,
)
from history_model import Outcome
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from suites import DRAFT, LONG_NONCES, Suite

from groupcoap.core import coap
from groupcoap.core.policy import Verification
from groupcoap.core.profile import Mode
from groupcoap.core.synchronization import Method

IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where the state files are: no power fails here, and a disk under load makes this test slow."""

places = st.sampled_from(PLACES)
multicasters = st.sampled_from((*MULTICASTERS, *MULTICASTERS, *PLACES))
choices = st.one_of(st.integers(0, 3), st.integers(0, 60))
codes = st.sampled_from((coap.PUT, coap.GET, coap.FETCH))
resources = st.sampled_from(RESOURCES)
addresses = st.sampled_from((None, None, True, True, True, False))
steps_of_time = st.sampled_from((0.25, 1.25, 8.5, 21.0, 31.25, 300.0))
verifications = st.sampled_from((Verification.ALWAYS, None, Verification.SKIP, Verification.DEFER))
some_places = st.sets(places)
modes = st.sampled_from((None, None, *Mode))


class Histories(RuleBasedStateMachine):
    """Chance decides what happens; `History` does it and has it checked."""

    storage: Storage
    suite: Suite
    totals: Counter[str]
    history: History | None = None

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(dir=IN_MEMORY)

    @initialize(
        methods=st.permutations(list(Method)),
        verification=st.tuples(verifications, verifications, verifications),
        max_gap=st.sampled_from((None, None, 30)),
        acquainted=st.booleans(),
    )
    def begin(
        self,
        methods: list[Method],
        verification: tuple[Verification | None, ...],
        max_gap: int | None,
        acquainted: bool,
    ) -> None:
        a, b, c = methods
        setup = Setup((a, b, c), verification, max_gap, suite=self.suite)
        self.history = History(Path(self._directory.name), self.storage, setup)
        if acquainted:
            for who in MULTICASTERS:
                self.history.ask(self.node(who), PLACES)

    def teardown(self) -> None:
        if self.history is not None:
            self.history.close()
            self.totals.update(self.history.reached)
            self.totals["histories"] += 1
        self._directory.cleanup()

    @invariant()
    def step(self) -> None:
        self.totals["steps"] += 1

    @property
    def now(self) -> History:
        """The history as far as it has come."""
        assert self.history is not None
        return self.history

    def node(self, place: str) -> Node:
        return self.now.nodes[place]

    def pick(self, choice: int) -> Datagram:
        """One of the datagrams that were ever on the air, 0 being the last."""
        datagrams = self.now.air.datagrams
        return datagrams[-1 - choice % len(datagrams)]

    def something_was_sent(self) -> bool:
        return bool(self.now.air.datagrams)

    def has_pairwise_mode(self) -> bool:
        return self.suite.pairwise

    def reach(self, datagram: Datagram | None, whom: Iterable[str], address: bool | None = True) -> None:
        """Let this, if it was sent, arrive in these places."""
        if datagram is not None:
            for place in sorted(whom):
                self.now.deliver(datagram, self.node(place), address)

    def arrive(self, datagram: Datagram | None) -> None:
        """Let this, if it was sent, arrive where it shall."""
        if datagram is not None:
            self.now.deliver_as_meant(datagram)

    # ---- what members do

    @rule(who=multicasters, whom=st.permutations(PLACES), code=codes, resource=resources, reached=st.integers(1, 6))
    def ask(self, who: str, whom: list[str], code: int, resource: bytes, reached: int) -> None:
        self.now.ask(self.node(who), whom[:reached], code=code, resource=resource)

    @rule(who=multicasters, whom=st.permutations(PLACES), resource=resources, reached=st.integers(1, 6))
    def observe(self, who: str, whom: list[str], resource: bytes, reached: int) -> None:
        what = {"code": coap.GET, "resource": resource, "observe": True}
        self.now.ask(self.node(who), whom[:reached], notification=True, **what)

    @rule(
        who=multicasters,
        whom=places,
        code=codes,
        resource=resources,
        observe=st.booleans(),
        pause=steps_of_time,
        original=st.booleans(),
    )
    def converse_slowly(
        self, who: str, whom: str, code: int, resource: bytes, observe: bool, pause: float, original: bool
    ) -> None:
        request = self.now.send(self.node(who), code=code, resource=resource, observe=observe)
        self.now.converse(self.node(who), self.node(whom), request, pause=pause, original=original)

    @rule(who=multicasters, code=codes, resource=resources, observe=st.booleans(), reaches=some_places)
    def send(self, who: str, code: int, resource: bytes, observe: bool, reaches: set[str]) -> None:
        datagram = self.now.send(self.node(who), code=code, resource=resource, observe=observe)
        self.reach(datagram, reaches)

    @rule(who=multicasters, whom=places, code=st.sampled_from((coap.GET, coap.FETCH)))
    def send_to_one(self, who: str, whom: str, code: int) -> None:
        self.now.converse(self.node(who), self.node(whom), self.now.send(self.node(who), code=code, to=whom))

    @precondition(has_pairwise_mode)
    @rule(who=multicasters, whom=places, code=codes, resource=resources, observe=st.booleans(), mode=modes)
    def ask_one_alone(
        self, who: str, whom: str, code: int, resource: bytes, observe: bool, mode: Mode | None
    ) -> None:
        request = self.now.send(self.node(who), code=code, resource=resource, observe=observe, to=whom, alone=True)
        self.now.converse(self.node(who), self.node(whom), request, notification=observe, mode=mode)

    @rule(who=multicasters, whom=places, code=codes, how_many=st.integers(2, 4), order=st.randoms(), mode=modes)
    def answer_several_times(
        self, who: str, whom: str, code: int, how_many: int, order: Random, mode: Mode | None
    ) -> None:
        request = self.now.send(self.node(who), code=code)
        if request is not None and self.now.reaches(request, whom):
            given = [self.now.answer(self.node(whom), mode=mode) for _ in range(how_many)]
            order.shuffle(given)
            for answer in given:
                self.arrive(answer)

    @precondition(has_pairwise_mode)
    @rule(who=multicasters, whom=places, code=codes, reaches=some_places, address=addresses)
    def send_to_one_alone(self, who: str, whom: str, code: int, reaches: set[str], address: bool | None) -> None:
        self.reach(self.now.send(self.node(who), code=code, to=whom, alone=True), reaches | {whom}, address)

    @precondition(has_pairwise_mode)
    @rule(who=multicasters, whom=places, pause=steps_of_time, original=st.booleans(), twice=st.booleans())
    def echo_after_a_renewal(self, who: str, whom: str, pause: float, original: bool, twice: bool) -> None:
        """A challenge is answered under the next Gid or the one after it: nobody has sent its value there."""
        request = self.now.send(self.node(who))
        if request is None or self.now.deliver(request, self.node(whom), True) is not Outcome.CHALLENGED:
            return
        self.arrive(self.now.answer(self.node(whom)))
        for _ in range(1 + twice):
            self.now.renew()
        for place in sorted({who, whom}):
            self.now.install(self.node(place))
        self.now.wait(pause)
        self.arrive(self.now.echo(self.node(who), original=original))

    @rule(who=multicasters, how_many=st.sampled_from((1, 2, 10, 31, 32, 33)))
    def send_and_lose(self, who: str, how_many: int) -> None:
        self.now.lose(self.node(who), how_many)

    @rule(
        who=places,
        choice=choices,
        notification=st.booleans(),
        fresh=st.booleans(),
        include_gid=st.booleans(),
        arrives=st.booleans(),
        mode=modes,
    )
    def answer(
        self,
        who: str,
        choice: int,
        notification: bool,
        fresh: bool,
        include_gid: bool,
        arrives: bool,
        mode: Mode | None,
    ) -> None:
        datagram = self.now.answer(
            self.node(who), choice, notification=notification, fresh=fresh, include_gid=include_gid, mode=mode
        )
        if arrives:
            self.arrive(datagram)

    @rule(who=multicasters, choice=choices, original=st.booleans(), reaches=some_places)
    def echo(self, who: str, choice: int, original: bool, reaches: set[str]) -> None:
        datagram = self.now.echo(self.node(who), choice, original=original)
        self.reach(datagram, reaches, None)

    @rule(who=multicasters, choice=choices, reaches=some_places)
    def refresh(self, who: str, choice: int, reaches: set[str]) -> None:
        datagram = self.now.refresh(self.node(who), choice)
        self.reach(datagram, reaches)

    @rule(who=multicasters, choice=choices)
    def finish(self, who: str, choice: int) -> None:
        self.now.finish(self.node(who), choice)

    # ---- what the network does

    @precondition(something_was_sent)
    @rule(choice=choices, whom=places, address=addresses)
    def deliver_again(self, choice: int, whom: str, address: bool | None) -> None:
        self.now.deliver(self.pick(choice), self.node(whom), address)

    @precondition(something_was_sent)
    @rule(choice=choices)
    def deliver_late(self, choice: int) -> None:
        self.arrive(self.pick(choice))

    @precondition(something_was_sent)
    @rule(how_many=st.integers(2, 12), first=choices)
    def deliver_in_reverse(self, how_many: int, first: int) -> None:
        for datagram in [self.pick(first + n) for n in range(how_many)]:
            self.arrive(datagram)

    @rule(seconds=steps_of_time)
    def wait(self, seconds: float) -> None:
        self.now.wait(seconds)

    # ---- what the group does

    @rule(
        leaver=st.none() | places,
        returning=st.booleans(),
        grace=st.sampled_from((0.0, GRACE)),
        fresh_prefix=st.sampled_from((False, False, False, True)),
        told=some_places,
        unknown=st.none() | places,
        asked_by=st.none() | multicasters,
    )
    def renew(
        self,
        leaver: str | None,
        returning: bool,
        grace: float,
        fresh_prefix: bool,
        told: set[str],
        unknown: str | None,
        asked_by: str | None,
    ) -> None:
        request = None if asked_by is None else self.now.send(self.node(asked_by))
        reached = [] if request is None else [p for p in sorted(told) if self.now.reaches(request, p)]
        self.now.renew(leaver, returning=returning, grace=grace, fresh_prefix=fresh_prefix)
        for place in sorted(told):
            self.now.install(self.node(place), unknown=unknown)
        for place in reached:  # they answer after the renewal what they were asked before
            self.arrive(self.now.answer(self.node(place)))

    @rule(who=some_places, asked_by=multicasters)
    def renew_twice_the_same(self, who: set[str], asked_by: str) -> None:
        """Who tells of a renewal forgets it together with the process, and tells of it again."""
        self.now.renew(grace=GRACE)
        for place in sorted(who | {asked_by}):
            self.now.install(self.node(place))
        self.now.ask(self.node(asked_by), sorted(who))
        for place in sorted(who):
            self.now.kill(self.node(place))
            self.now.start(self.node(place), forgetful=True)

    @rule(who=places, newest=st.booleans(), unknown=st.none() | places)
    def install(self, who: str, newest: bool, unknown: str | None) -> None:
        self.now.install(self.node(who), newest=newest, unknown=unknown)

    @rule(who=some_places)
    def learn(self, who: set[str]) -> None:
        for place in sorted(who):
            self.now.learn(self.node(place))

    @rule(who=places, told=some_places)
    def evict(self, who: str, told: set[str]) -> None:
        self.now.evict(who)
        for place in sorted(told):
            self.now.tell_who_left(self.node(place))

    @rule()
    def mend(self) -> None:
        """Everybody runs, under the newest Gid."""
        for node in self.now.nodes.values():
            self.now.start(node)
            self.now.install(node)
            self.now.start(node)  # without its state it has waited for a new Gid

    # ---- what happens to processes

    @rule(who=some_places, restarted=st.booleans(), forgetful=st.booleans(), asked_by=multicasters)
    def crash(self, who: set[str], restarted: bool, forgetful: bool, asked_by: str) -> None:
        for place in sorted(who):
            self.now.kill(self.node(place))
            if restarted:
                self.now.start(self.node(place), forgetful=forgetful)
        self.now.ask(self.node(asked_by), sorted(who))

    @rule(who=places, restarted=st.booleans())
    def stop(self, who: str, restarted: bool) -> None:
        self.now.stop(self.node(who))
        if restarted:
            self.now.start(self.node(who))

    @rule(who=places)
    def start(self, who: str) -> None:
        self.now.start(self.node(who))

    @rule(who=places, kept=st.integers(0, 120))
    def tear(self, who: str, kept: int) -> None:
        self.now.tear(self.node(who), kept)

    @rule(who=places, really=st.sampled_from((False, False, False, True)))
    def lose_state(self, who: str, really: bool) -> None:
        if really:
            self.now.lose_state(self.node(who))

    # ---- what attackers do

    @precondition(something_was_sent)
    @rule(choice=choices, bit=st.integers(0, 8 * 200), whom=places, address=addresses)
    def flip(self, choice: int, bit: int, whom: str, address: bool | None) -> None:
        self.now.deliver(flip(self.pick(choice), bit), self.node(whom), address)

    @precondition(something_was_sent)
    @rule(choice=choices, whom=places, address=addresses)
    def tamper_with_observe(self, choice: int, whom: str, address: bool | None) -> None:
        self.now.deliver(tamper_with_observe(self.pick(choice)), self.node(whom), address)

    @precondition(something_was_sent)
    @rule(choice=choices, whom=places)
    def plain(self, choice: int, whom: str) -> None:
        self.now.deliver(without_protection(self.pick(choice)), self.node(whom))

    @rule(
        who=places,
        name=places | st.none(),
        epoch=st.integers(0, 3),
        outside=st.sampled_from((False, False, True)),
        step=st.integers(-3, 40),
        code=codes,
        resource=resources,
        echo=st.none() | st.integers(0, 10),
        alone=st.none() | places,
        reaches=some_places,
    )
    def forge_request(
        self,
        who: str,
        name: str | None,
        epoch: int,
        outside: bool,
        step: int,
        code: int,
        resource: bytes,
        echo: int | None,
        alone: str | None,
        reaches: set[str],
    ) -> None:
        alone = alone if self.suite.pairwise else None
        kid = STRANGER if name is None else IDS[name]
        challenge = (
            None
            if echo is None or not self.now.challenges
            else self.now.challenges[-1 - echo % len(self.now.challenges)]
        )
        datagram = self.now.speak_as(
            STRANGER if kid is None else kid,
            self.now.impostor(who, kid),
            self.now.epochs[-1 - epoch % len(self.now.epochs)],
            outside=outside,
            step=step,
            code=code,
            resource=resource,
            echo=challenge,
            alone=None if alone is None else IDS[alone],
        )
        by_multicast = challenge is None and alone is None
        self.reach(datagram, reaches if alone is None else reaches | {alone}, True if by_multicast else None)

    @rule(
        choice=st.integers(0, 5),
        own_name=st.booleans(),
        epoch=st.integers(0, 3),
        step=st.integers(-3, 40),
        resource=resources,
        reaches=some_places,
        alone=st.none() | places,
    )
    def speak_after_leaving(
        self,
        choice: int,
        own_name: bool,
        epoch: int,
        step: int,
        resource: bytes,
        reaches: set[str],
        alone: str | None,
    ) -> None:
        if not self.now.formers:
            return
        alone = alone if self.suite.pairwise else None
        former = self.now.formers[-1 - choice % len(self.now.formers)]
        kid = IDS[former.place] if own_name else IDS[MULTICASTERS[choice % 2]]
        known = former.epochs[-1 - epoch % len(former.epochs)]
        datagram = self.now.speak_as(
            STRANGER if kid is None else kid,
            former.key,
            known,
            step=step,
            resource=resource,
            alone=None if alone is None else IDS[alone],
        )
        self.reach(datagram, reaches if alone is None else reaches | {alone})

    @precondition(something_was_sent)
    @rule(who=places, name=places, choice=choices, own_number=st.none() | st.integers(0, 40), alone=st.booleans())
    def forge_answer(self, who: str, name: str, choice: int, own_number: int | None, alone: bool) -> None:
        kid = IDS[name]
        if kid is not None:
            datagram = self.now.answer_as(
                kid, self.now.impostor(who, kid), self.pick(choice), own_number=own_number, alone=alone
            )
            self.arrive(datagram)


# ---- playing them

EACH = 40
"""Histories from one seed. Hypothesis varies what it has made before: several seeds give more different ones."""

SEEDS = {DRAFT: range(6, 9), LONG_NONCES: range(3)}
"""Of each profile."""
FURTHER_SEEDS = range(20, 32)

REACHED = (
    "a challenge",
    "an echo delivered",
    "a replay refused",
    "a replay refused after a crash",
    "a request delivered after a crash",
    "died within a write",
    "silent without its state",
    "back with a new Gid after its state was lost",
    "an answer",
    "a notification",
    "an answer with the nonce of its request",
    "an answer under a later Gid than its request",
    "a renewal installed",
    "a renewal skipped",
    "a renewal with an answer pending",
    "renewed while it was down",
    "gone back an epoch",
    "an exchange taken up again",
    "a late request delivered within the grace",
    "an Endpoint ID given to another device",
    "who has left refused",
    "a forgery by a member refused",
    "delivered, verified",
    "delivered by challenge-response",
    "delivered by baseline",
    "delivered by best-effort",
)
"""What the histories of the seeds above must come to between them, or they show nothing."""
REACHED_BY = {
    DRAFT: (
        "a forgery delivered where signatures are waived",
        "delivered, skipped",
        "delivered, deferred",
    ),
    LONG_NONCES: (
        "delivered, pairwise",
        "an answer in pairwise mode",
        "an answer in another mode than its request",
        "an answer for one alone delivered",
        "a further answer",
        "a request for another refused",
        "a request for one alone delivered by multicast",
        "a forgery for one alone refused",
        "a Repeat value that nobody sent, under young keys",
    ),
}
"""And what those of one profile only can."""


def play(number: int, suite: Suite, storage: Storage, totals: Counter[str]) -> None:
    """The histories of one seed. `Broken` comes out with the steps that lead to it, as few as possible."""
    machine = type("Machine", (Histories,), {"storage": storage, "totals": totals, "suite": suite})
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=EACH,
            stateful_step_count=50,
            derandomize=False,  # the seed decides
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


by_profile = pytest.mark.parametrize("suite", SEEDS, ids=lambda suite: suite.name)


@by_profile
def test_every_promise_is_kept_in_random_histories(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    totals: Counter[str] = Counter()
    storage = virtual_storage(monkeypatch)
    for number in SEEDS[suite]:
        play(number, suite, storage, totals)
    # What Hypothesis makes of a seed depends on the modules that are loaded beside: some more, where it takes them.
    further = iter(FURTHER_SEEDS)
    while missing := [name for name in (*REACHED, *REACHED_BY[suite]) if not totals[name]]:
        number = next(further, -1)
        assert number >= 0, f"never reached: {missing}"
        play(number, suite, storage, totals)


@by_profile
@pytest.mark.skipif(
    "GROUPCOAP_HISTORIES" not in os.environ, reason="a long run: set GROUPCOAP_HISTORIES to how many"
)
def test_every_promise_is_kept_in_very_many_random_histories(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    totals: Counter[str] = Counter()
    storage = virtual_storage(monkeypatch)
    first = int.from_bytes(os.urandom(4), "big")
    try:
        while totals["histories"] < int(os.environ["GROUPCOAP_HISTORIES"]):
            play(first, suite, storage, totals)
            first += 1
    finally:
        print(f"\nseeds up to {first}")
        for name, times in sorted(totals.items()):
            print(f"{times:9} {name}")
