"""The one rule that must never break: no key sees a nonce twice, whatever happened (multicast-oscore-04 §7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groupcoap.core import coap, contexts
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CommonContext, pairwise_keys
from groupcoap.core.exchange import IncomingExchange
from groupcoap.core.profile import Profile
from groupcoap.core.registry import Registry
from groupcoap.core.requests import Trace, admit, protect_request
from groupcoap.core.responses import protect_response
from groupcoap.core.synchronization import Entropy
from groupcoap.errors import MisuseError, Rejected
from support import (
    A128CTR,
    BEST_EFFORT,
    CHACHA20,
    CHALLENGE,
    GID,
    LISTENER,
    MULTICASTER,
    Node,
    common_context,
    counting_entropy,
    decrypt,
    install,
    make_node,
    request,
    response,
    security_context,
)

pytestmark = pytest.mark.usefixtures("profile")

OWN_IDS = (MULTICASTER, LISTENER)
# (AEAD algorithm, Group Encryption Algorithm): nonces of one length, of two, and a cipher without integrity
GROUPS = {"CCM": (10, 10), "CCM, ChaCha20": (10, CHACHA20), "CCM, CTR": (10, A128CTR)}
OBSERVE = (coap.OBSERVE, b"")
REPEAT = (coap.REPEAT, bytes(8))


Action = Callable[["History", int, int], None]


@dataclass
class History:
    """Two members that both ask and answer; every message ever sent may arrive again at any time."""

    algorithms: tuple[int, int] = GROUPS["CCM"]
    nodes: list[Node] = field(default_factory=list)
    epochs: list[int] = field(default_factory=lambda: [0, 0])
    sent: list[Message] = field(default_factory=list)
    exchanges: list[tuple[int, IncomingExchange]] = field(default_factory=list)
    used: list[tuple[bytes, bytes]] = field(default_factory=list)
    entropy: Entropy = field(default_factory=counting_entropy)

    def __post_init__(self) -> None:
        self.nodes = [make_node(kid, self.common(GID)) for kid in OWN_IDS]

    def common(self, gid: bytes) -> CommonContext:
        aead, encryption = self.algorithms
        return common_context(gid=gid, aead=aead, group_encryption=encryption)

    def key(self, who: int, *, alone: bool) -> bytes:
        """What this member encrypts with, for all or for the other one alone."""
        node, other = self.nodes[who], OWN_IDS[1 - who]
        if not alone:
            return node.sender.key.reveal()
        return pairwise_keys(node.sender, node.context.recipient(other))[1].reveal()


def send(history: History, who: int, choice: int) -> None:
    node = history.nodes[who]
    message = request(coap.GET, *([OBSERVE] if choice % 2 else []))
    alone = node.context.common.pairwise and choice % 3 == 0
    key = history.key(who, alone=alone)
    protected = protect_request(
        node.context,
        node.sender,
        message,
        lambda trace: history.used.append((key, trace.nonce)),
        to=node.context.recipient(OWN_IDS[1 - who]) if alone else None,
    )
    history.sent.append(protected.message)


def arrive(history: History, who: int, choice: int) -> None:
    if not history.sent:
        return
    message = history.sent[-1 - choice // 10 % len(history.sent)]
    policy = CHALLENGE if choice % 5 == 0 else BEST_EFFORT
    try:
        decrypted = decrypt(history.nodes[who], message, policy=policy)
        if choice % 7 == 0 and not decrypted.signature_needed():
            outcome = admit(decrypted.waive_signature(deferred=False), 0.0, history.entropy)
        else:
            outcome = admit(decrypted.check_signature(), 0.0, history.entropy)
    except Rejected:
        return
    history.exchanges.append((who, outcome.exchange))


def reply(history: History, who: int, choice: int) -> None:
    mine = [exchange for owner, exchange in history.exchanges if owner == who]
    if not mine:
        return
    options = ((), (), (), (OBSERVE,), (REPEAT,))[choice % 5]
    node = history.nodes[who]
    sender = node.sender
    alone = sender.common.pairwise and choice % 7 < 3
    key = history.key(who, alone=alone)

    def collect(trace: Trace) -> None:
        history.used.append((key, trace.nonce))

    try:
        protect_response(
            sender,
            mine[-1 - choice // 5 % len(mine)],
            response(coap.CONTENT, *options, payload=bytes((choice % 3,))),
            fresh=choice % 11 == 0,
            include_gid=choice % 3 == 0,
            to=(node.context, node.context.recipient(OWN_IDS[1 - who])) if alone else None,
            trace=collect,
        )
    except MisuseError as error:
        raise AssertionError("a response that can be asked for was refused") from error


def renewed(history: History, who: int, choice: int) -> None:
    history.epochs[who] += 1
    install(history.nodes[who], context_at(history, who))


def context_at(history: History, who: int, *, first: int = 0, intact: bool = True) -> contexts.SecurityContext:
    gid = GID[:-1] + bytes((history.epochs[who],))
    return security_context(OWN_IDS[who], history.common(gid), first=first, intact=intact)


def restart(history: History, who: int, choice: int) -> None:
    """The process dies: sequence numbers were durable, replay windows and exchanges were not."""
    first = history.nodes[who].sender.numbers.take() + 1
    history.nodes[who] = Node(Registry(), [])
    install(history.nodes[who], context_at(history, who, first=first, intact=False))
    history.exchanges = [(owner, exchange) for owner, exchange in history.exchanges if owner != who]


def evict(history: History, who: int, choice: int) -> None:
    """So many others send that there is no room for another Recipient Context."""
    context = history.nodes[who].context
    with patch.object(context, "max_recipients", 1), suppress(Rejected):
        for kid in (b"\x7e", b"\x7f"):
            context.keep(context.recipient(kid))


def talk(history: History, who: int, choice: int) -> None:
    """A request that is answered at once: most of what really happens."""
    send(history, 1 - who, choice)
    arrive(history, who, 1)
    reply(history, who, choice)


def again(history: History, who: int, choice: int) -> None:
    """One of the last few messages comes again, and whatever is made of it is answered."""
    arrive(history, who, choice % 40)
    reply(history, who, choice % 3)


ACTIONS = (talk, talk, talk, again, again, again, send, arrive, arrive, reply, reply, renewed, restart, evict)
steps = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1), st.integers(0, 1000))


def play(history: History, taken: list[tuple[Action, int, int]]) -> list[tuple[bytes, bytes]]:
    """All (key, nonce) pairs that were used more than once."""
    for action, who, choice in taken:
        action(history, who, choice)
    return [pair for pair, times in Counter(history.used).items() if times > 1]


@pytest.mark.parametrize("algorithms", GROUPS.values(), ids=GROUPS)
@settings(max_examples=150)
@given(taken=st.lists(steps, min_size=15, max_size=60))
@example(taken=[(talk, 0, 1), (again, 0, 1), (reply, 0, 1)])
@example(taken=[(talk, 0, 1), (restart, 0, 0), (again, 0, 1)])
@example(taken=[(talk, 0, 1), (evict, 0, 0), (again, 0, 1)])
@example(taken=[(talk, 0, 1), (renewed, 0, 0), (reply, 0, 1), (again, 0, 1)])
@example(taken=[(talk, 0, 1), (renewed, 0, 0), (renewed, 1, 0), (talk, 0, 1), (again, 0, 12)])
def test_no_key_sees_a_nonce_twice_in_any_history(
    profile: Profile, algorithms: tuple[int, int], taken: list[tuple[Action, int, int]]
) -> None:
    if not profile.rules.pairwise and algorithms != GROUPS["CCM"]:
        return  # it has one encryption algorithm
    assert play(History(algorithms), taken) == []


def give_again(exchange: IncomingExchange) -> bytes | None:
    """What must never be: the nonce of the request for every response."""
    return common_context().nonce(exchange.kid, exchange.partial_iv)


def test_these_histories_show_a_nonce_that_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IncomingExchange, "take_request_nonce", give_again)
    assert play(History(), [(talk, 0, 1), (reply, 0, 2)]) != []
    assert play(History(), [(talk, 0, 1), (restart, 0, 0), (arrive, 0, 1), (reply, 0, 2)]) != []


def test_answers_in_these_histories_do_use_the_nonce_of_the_request(profile: Profile) -> None:
    for choice in (5, 1, 6, 15) if profile.rules.pairwise else (5,):  # all four mixes
        history = History()
        assert play(history, [(talk, 0, choice)]) == []
        (_, asked), (_, answered) = history.used
        assert asked == answered
