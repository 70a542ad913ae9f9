"""Requests, from the datagram to the application and back (core/requests.py and what it uses)."""

from __future__ import annotations

from functools import partial
from itertools import count

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CredentialNeeded
from groupcoap.core.registry import Registry
from groupcoap.core.requests import (
    ChallengedRequest,
    DecryptedRequest,
    DeliveredRequest,
    Trace,
    admit,
    challenge_message,
    decrypt_request,
)
from groupcoap.core.responses import protect_response
from groupcoap.core.sequence import MAXIMUM
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.cose.keys import PublicKey
from groupcoap.errors import Rejected

from ..choices import Choices
from ..group import (
    ADDRESS,
    GROUPS,
    LAMP,
    NAME,
    OTHER_LAMP,
    SPEAKERS,
    STRANGER,
    choose_number,
    choose_options,
    choose_peer,
    choose_plaintext,
    damaged,
    object_security_of,
    private_key,
)

_POLICIES = (
    SynchronizationPolicy(Method.BEST_EFFORT),
    SynchronizationPolicy(Method.BASELINE),
    SynchronizationPolicy(Method.CHALLENGE_RESPONSE),
    SynchronizationPolicy(Method.CHALLENGE_RESPONSE, max_gap=4, rechallenge_after=0.0),
)
_AT_MOST = 8


def check(data: bytes) -> None:
    """A listener gets up to eight messages: any bytes, and its members' own, replayed, damaged, forged, or late.
    Every stage raises `Rejected` or goes on. What is delivered is exactly what a member has protected, once. Before
    `admit` nothing changes. No answer uses a nonce that another one has used."""
    choices = Choices(data)
    listener = _Listener(choices)
    for _ in range(_AT_MOST):
        if not choices.left:
            break
        listener.step()


class _Listener:
    """A lamp with the switch's key at hand, and what has been protected for it."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._group = choices.one_of(GROUPS)
        self._rules = self._group.profile.rules
        self._policy = choices.one_of(_POLICIES)
        self._own_id = None if choices.flag() else LAMP
        self._registry = Registry()
        self._epoch = -1
        self._now = 0.0
        self._renew()
        self._sent: list[Message] = []
        self._authentic: set[tuple[bytes, bytes]] = set()
        self._plaintexts: list[tuple[bytes, int, bytes]] = []
        self._repeat = b""
        self._entropy = count(1)
        self._delivered: set[tuple[bytes, bytes, int]] = set()
        self._nonces: set[tuple[bytes, bytes, bytes]] = set()

    def _renew(self) -> None:
        self._epoch += 1
        known_since = not self._rules.echo_is_original and self._choices.flag()
        established = self._now if known_since else None
        context = self._group.context(self._own_id, self._epoch, self._policy, established)
        self._registry.install(context, [ADDRESS.packed])

    def step(self) -> None:
        choices = self._choices
        what = choices.below(8)
        if what == 0:
            self._receive_bytes(choices.some())
        elif what == 1:
            self._pass_time()
        elif what == 2 and self._sent:
            self._receive(choices.one_of(self._sent))
        elif what == 3 and self._sent:
            self._receive(damaged(choices.one_of(self._sent), choices))
        else:
            self._receive(self._protected(echo=what == 4))

    def _pass_time(self) -> None:
        self._now += self._choices.byte() / 4
        if self._choices.below(4) == 3 and self._epoch < 2:
            older = self._registry.current(NAME)
            self._renew()
            older.accepts_requests = self._choices.flag()

    def _protected(self, echo: bool) -> Message:
        choices = self._choices
        kid, number, forged = choices.one_of(SPEAKERS), choose_number(choices), choices.below(8) == 7
        plaintext = choose_plaintext(choices)
        if echo and self._plaintexts:
            kid, number, plaintext = self._echo(*self._plaintexts[-1])
        self._plaintexts.append((kid, number, plaintext))
        outer = tuple(o for o in choose_options(choices, 1) if o[0] != coap.OBJECT_SECURITY)
        kind = coap.CON if choices.below(4) == 3 else coap.NON
        epoch = choices.below(self._epoch + 1)
        to = choose_peer(choices, self._group, (LAMP, OTHER_LAMP))
        message = self._group.request(
            kid, number, plaintext, to=to, epoch=epoch, forged=forged, kind=kind, outer=outer
        )
        self._sent.append(message)
        if not forged and to in (None, self._own_id):
            self._authentic.add((object_security_of(message), message.payload))
        return message

    def _echo(self, kid: bytes, number: int, plaintext: bytes) -> tuple[bytes, int, bytes]:
        """The request again, with the value of the last challenge."""
        try:
            options, payload = coap.decode_options(plaintext, 1)
        except Rejected:
            return kid, number, plaintext
        with_repeat = sorted([*options, (coap.REPEAT, self._repeat)], key=lambda option: option[0])
        again = coap.encode_options(tuple(with_repeat), plaintext[:1], payload + self._choices.take(1))
        return kid, min(number + self._choices.below(3), MAXIMUM), again

    def _receive_bytes(self, datagram: bytes) -> None:
        try:
            message = coap.decode(datagram)
        except Rejected:
            return
        self._receive(message)

    def _receive(self, message: Message) -> None:
        before = self._snapshot()
        by_multicast, waive = self._choices.flag(), self._choices.below(4) == 3
        try:
            decrypted = self._decrypt(message, ADDRESS.packed if by_multicast else None)
            assert decrypted.signature_needed() or not self._rules.signature_first
            if not self._rules.signature_first:
                decrypted.peek_resource()
            if waive and not decrypted.signature_needed():
                verified = None
                waived = decrypted.waive_signature(deferred=False)
            else:
                verified = decrypted.check_signature(self._looked_up(decrypted))
        except Rejected:
            assert self._snapshot() == before
            return
        assert self._snapshot() == before
        if verified is not None:
            assert (object_security_of(message), message.payload) in self._authentic
        try:
            outcome = admit(verified or waived, self._now, lambda length: next(self._entropy).to_bytes(length))
        except Rejected:
            return
        if isinstance(outcome, ChallengedRequest):
            self._repeat = outcome.repeat
            self._answer(outcome, challenge_message(message, outcome.repeat, self._rules.challenge_code))
        else:
            self._check_delivered(outcome)
            self._answer(outcome, Message(coap.NON, coap.CONTENT, 1, b"", (), b"on"))

    def _decrypt(self, message: Message, destination: bytes | None) -> DecryptedRequest:
        try:
            return decrypt_request(self._registry, message, destination, self._now)
        except CredentialNeeded as needed:
            assert self._rules.binds_credentials
            if needed.sender_id != STRANGER:
                raise
            self._group.learn(needed.context, STRANGER)
            return decrypt_request(self._registry, message, destination, self._now)

    @staticmethod
    def _looked_up(decrypted: DecryptedRequest) -> PublicKey | None:
        stranger = decrypted.sender_id == STRANGER and decrypted.public_key is None
        return private_key(STRANGER).public_key if stranger else None

    def _check_delivered(self, outcome: DeliveredRequest) -> None:
        new = (outcome.gid, outcome.sender_id, outcome.sequence_number)
        assert new not in self._delivered
        self._delivered.add(new)
        assert outcome.sender_id != self._own_id
        assert coap.is_request(outcome.message.code)

    def _answer(self, outcome: DeliveredRequest | ChallengedRequest, answer: Message) -> None:
        context = self._registry.current(NAME)
        own = context.sender
        if own is None:
            return
        for _ in range(2):  # a second answer to one request is what a notification is
            # A stranger's credential is known under the Gid of its request only.
            alone = self._group.pairwise and context.knows(outcome.sender_id) and self._choices.flag()
            to = (context, context.recipient(outcome.sender_id)) if alone else None
            whose = outcome.sender_id if alone else b"the group"

            protect_response(own, outcome.exchange, answer, to=to, trace=partial(self._used, own.common.gid, whose))

    def _used(self, gid: bytes, whose: bytes, trace: Trace) -> None:
        """Something has been protected with this key, of this Gid and for this member or the group."""
        assert (gid, whose, trace.nonce) not in self._nonces
        self._nonces.add((gid, whose, trace.nonce))

    def _snapshot(self) -> object:
        return [
            (r.recipient_id, r.window.highest, r.window.bits, r.sync.synchronized, len(r.sync._challenges))
            for context in self._registry.contexts(NAME)
            for r in context.recipients
        ]
