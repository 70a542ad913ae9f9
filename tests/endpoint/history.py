"""A group whose history a test decides: real endpoints' contexts over real state files, and no network but a bag of
datagrams that anybody may deliver, change or make.

Everything that is protected, received or stored goes through the implementation; `history_model` says what must
become of it. Time is a number, the event loop is real but for its clock, chance is a counter."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from history_air import Datagram, Wish
from history_group import (
    ADDRESS,
    GROUP,
    IDS,
    LIGHT,
    PLACE_OF,
    Death,
    Doubt,
    Group,
    GroupEpoch,
    Node,
    Pending,
)
from history_model import Answered, Arrival, Asked, Broken, Content, Exchange, Incoming, Outcome, Promise

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import RecipientContext, SecurityContext, SenderContext
from groupcoap.core.exchange import OutgoingExchange
from groupcoap.core.option import partial_iv_bytes
from groupcoap.core.policy import Verification
from groupcoap.core.profile import Mode, RequestIds
from groupcoap.core.requests import (
    ChallengedRequest,
    DecryptedRequest,
    DeliveredRequest,
    SignatureState,
    challenge_message,
    decrypt_request,
    protect_request,
)
from groupcoap.core.responses import DeliveredResponse, decrypt_response, incoming_exchange, protect_response
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.core.synchronization import Freshness
from groupcoap.cose.keys import PrivateKey
from groupcoap.errors import MisuseError, Rejected
from support import OTHER_ADDRESS

KEPT_EXCHANGES = 2  # of one token, as in GroupMessageInterface


class History(Group):
    """One history. `challenges`: (Repeat value, what was challenged) of every 4.03, which each member can read."""

    challenges: list[tuple[bytes, Content]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.challenges = []
        self._challenged: set[tuple[bytes, bytes, bytes]] = set()
        super().__init__(*args, **kwargs)

    # ---- requests leave

    def send(
        self,
        node: Node,
        *,
        code: int = coap.PUT,
        resource: bytes = LIGHT,
        observe: bool = False,
        to: str | None = None,
        alone: bool = False,
    ) -> Datagram | None:
        """The node's application wishes something of the group, or of one, or in pairwise mode of that one `alone`.
        None if the node cannot send that."""
        wish = self.air.wish(code, resource, observe=observe)
        return self._request(node, wish, wish.message, None, to, alone=alone)

    def _request(
        self, node: Node, wish: Wish, message: Message, repeat: bytes | None, to: str | None, *, alone: bool = False
    ) -> Datagram | None:
        sender = self._sender(node)
        if node.process is None or sender is None:
            return None
        context = node.process.groups.current(GROUP)
        whom = self._alone(context, to) if alone else None
        if alone and whom is None:
            return None
        try:
            with self.alive(node):
                ledger = self.air.ledger(sender, whom)
                protected, exchange = protect_request(context, sender, message, ledger, to=whom)
        except Death:
            return None
        asked = self.air.note_request(
            sender, protected, wish, repeat, alone=None if whom is None else whom.recipient_id
        )
        self._await(node, message.token, exchange, asked, remembered=to is None and not exchange.observe)
        self.air.wishes[message.token] = wish
        return self.air.put(protected, to)

    @staticmethod
    def _alone(context: SecurityContext, place: str | None) -> RecipientContext | None:
        """Who is in this place, if a message can be protected for it alone."""
        kid = None if place is None else IDS[place]
        if kid is None or not context.common.pairwise:
            return None
        try:
            recipient = context.recipient(kid)
            context.pairwise(recipient)
        except Rejected:
            return None
        return recipient

    @staticmethod
    def _sender(node: Node) -> SenderContext | None:
        return None if node.process is None else node.process.groups.current(GROUP).sender

    def _await(
        self, node: Node, token: bytes, exchange: OutgoingExchange, asked: Asked, *, remembered: bool
    ) -> None:
        assert node.process is not None
        before = node.process.outgoing.get(token, [])
        models = node.model.exchanges.get(token, [])
        if before:
            exchange.follow(before[-1])
        model = Exchange(
            asked.identity,
            exchange.observe,
            models[-1].notified if models else {},
            remembered=remembered,
            peer=asked.alone,
        )
        node.process.outgoing[token] = [*before, exchange][-KEPT_EXCHANGES:]
        node.model.exchanges[token] = [*models, model][-KEPT_EXCHANGES:]
        if remembered:
            self.remember(node, token, exchange)

    def lose(self, node: Node, how_many: int) -> None:
        """So many requests leave and reach nobody."""
        sender = self._sender(node)
        if sender is not None:
            with suppress(Death), self.alive(node):
                for _ in range(how_many):
                    self.air.took(sender.common.gid, sender.sender_id, sender.numbers.take())

    def refresh(self, node: Node, choice: int) -> Datagram | None:
        """Register again for an observation, with the same token."""
        outgoing = {} if node.process is None else node.process.outgoing
        observing = [token for token, exchanges in outgoing.items() if exchanges[-1].observe]
        if not observing:
            return None
        self.reached["an observation refreshed"] += 1
        token = observing[-1 - choice % len(observing)]
        wish = self.air.another(self.air.wishes[token])
        peer = node.model.exchanges[token][-1].peer
        place = None if peer is None else PLACE_OF[peer]  # who was asked alone is asked alone again
        message = wish.message._replace(token=token)
        return self._request(node, wish, message, None, place, alone=place is not None)

    def finish(self, node: Node, choice: int) -> None:
        """No more answers are awaited to one of the node's requests."""
        process = node.process
        if process is not None and process.outgoing:
            token = list(process.outgoing)[choice % len(process.outgoing)]
            del process.outgoing[token]
            del node.model.exchanges[token]
            process.groups.pending.ended(token)
            with suppress(Death), self.alive(node):
                process.groups.retire()

    def echo(self, node: Node, choice: int = 0, *, original: bool = True) -> Datagram | None:
        """The node shows a listener that has challenged it that its request is fresh; or sends another request with
        the Repeat value, which synchronizes, and is not to be delivered by the draft. In pairwise mode, if there is
        one."""
        if node.process is None or not node.process.doubts:
            return None
        doubt = node.process.doubts[-1 - choice % len(node.process.doubts)]
        wish = doubt.wish if original else self.air.another(doubt.wish)
        options = (*wish.message.options, (coap.REPEAT, doubt.repeat))
        message = wish.message._replace(options=options, token=self.air.token())
        return self._request(node, wish, message, doubt.repeat, doubt.place, alone=self.suite.pairwise)

    # ---- answers leave

    def answer(
        self,
        node: Node,
        choice: int = 0,
        *,
        notification: bool = False,
        fresh: bool = False,
        include_gid: bool = False,
        mode: Mode | None = None,
    ) -> Datagram | None:
        """The node answers a request, for the first time or again; with a 4.03 (4.01) if that is what it got.
        `mode`: as its policy says; None: that of the request."""
        sender = self._sender(node)
        if node.process is None or sender is None or not node.process.pending:
            return None
        pending = node.process.pending[-1 - choice % len(node.process.pending)]
        notification = notification and pending.repeat is None
        message = self._plain_answer(pending, notification=notification)
        groups = node.process.groups
        groups._policies[GROUP] = replace(groups.policy(GROUP), response_mode=mode)
        if not self._may_answer(node, pending, mode):
            return None
        alone = groups.responding(GROUP, pending.exchange)
        ledger = self.air.ledger(sender, alone)
        to = None if alone is None else (groups.current(GROUP), alone)
        try:
            with self.alive(node):
                protected = protect_response(
                    sender, pending.exchange, message, to=to, fresh=fresh, include_gid=include_gid, trace=ledger
                )
        except Death:
            return None
        answered = self.air.note_answer(
            sender,
            protected,
            pending.asked,
            _content(message),
            alone=alone is not None,
            notification=notification,
        )
        self._count_mode(pending, answered)
        used = answered.number is None
        node.model.answered(pending.model, request_nonce=used, notification=notification)
        self.reached["an answer with the nonce of its request"] += used
        return self.air.put(protected, PLACE_OF[pending.asked.kid])

    def _may_answer(self, node: Node, pending: Pending, mode: Mode | None) -> bool:
        """Whether there is an answer: not for one alone who is no member under its Gid any more. It is in the mode
        that was wanted, or in none."""
        assert node.process is not None
        kid, gid = pending.asked.kid, node.model.current
        context = node.model.contexts[gid]
        owner = {epoch.gid: epoch.owner(kid) for epoch in self.epochs}
        member = kid in context.known - context.departed and owner[pending.asked.gid] is owner[gid]
        alone = pending.asked.alone is not None if mode is None else mode is Mode.PAIRWISE
        alone = alone and self.suite.pairwise
        try:
            recipient = node.process.groups.responding(GROUP, pending.exchange)
        except MisuseError:
            refused, chosen = True, alone
        else:
            refused, chosen = False, recipient is not None
        if refused is not (alone and not member) or chosen is not alone:
            done = f"answered alone: {chosen}, not at all: {refused}, a member: {member}"
            node.model.broken(Promise.MEMBERS, done)
        self.reached["who has left not answered alone"] += refused
        return not refused

    def _count_mode(self, pending: Pending, answered: Answered) -> None:
        self.reached["an answer in pairwise mode"] += answered.alone
        other = answered.alone != (pending.asked.alone is not None)
        self.reached["an answer in another mode than its request"] += other

    def _plain_answer(self, pending: Pending, *, notification: bool) -> Message:
        if pending.repeat is not None:
            return challenge_message(pending.request, pending.repeat, self.suite.challenge_code)
        name = self.air.name()
        options = ((coap.OBSERVE, coap.uint_bytes(name)),) if notification else ()
        return Message(coap.NON, coap.CONTENT, 0, pending.request.token, options, b"%d" % name)

    # ---- attackers

    def impostor(self, place: str, kid: bytes | None) -> PrivateKey:
        """The key of whoever is in this place, or a stranger's if that is the place of the kid itself: honest
        members do not use their numbers twice."""
        return self._new_key() if IDS[place] == kid else self.nodes[place].key

    def speak_as(
        self,
        kid: bytes,
        key: PrivateKey,
        epoch: GroupEpoch,
        *,
        outside: bool = False,
        step: int = 1,
        code: int = coap.PUT,
        resource: bytes = LIGHT,
        echo: tuple[bytes, Content] | None = None,
        to: str | None = None,
        alone: bytes | None = None,
    ) -> Datagram:
        """A request in this name, signed with this key, under this epoch's keys, or from `outside` under guessed
        ones; or in pairwise mode for this member `alone`, with what this key agrees on with that one's. `step`: how
        far its number is from the highest of that name. `echo`: of this challenge."""
        sender = self._impostors_sender(kid, key, epoch, self.air.near(epoch.gid, kid, step), outside=outside)
        common = sender.common
        wish = self.air.wish(code, resource)
        message, repeat = wish.message, None
        if echo is not None:
            repeat, content = echo
            options = ((coap.URI_PATH, content.resource), (coap.REPEAT, repeat))
            message = message._replace(code=content.code, options=options, payload=content.payload)
            wish = Wish(message, content, wish.name)
        context = SecurityContext(GROUP, common, sender, {})
        whom = None if alone is None or alone == kid else self._known(epoch, context, alone)
        protected = protect_request(context, sender, message, to=whom).message
        if not outside:
            alone = None if whom is None else alone
            self.air.note_request(sender, protected, wish, repeat, genuine=epoch.owns(kid, key), alone=alone)
        return self.air.put(protected, to)

    def _impostors_sender(
        self, kid: bytes, key: PrivateKey, epoch: GroupEpoch, number: int, *, outside: bool = False
    ) -> SenderContext:
        """Who speaks in this name puts the credential into the AAD by which everybody knows who has the name."""
        common = epoch.guessed if outside else epoch.common
        known = epoch.owner(kid) or key
        return SenderContext(common, kid, key, SequenceNumbers(number), self.suite.authenticated(known.public_key))

    def _known(self, epoch: GroupEpoch, context: SecurityContext, kid: bytes) -> RecipientContext | None:
        """This member of the epoch, if there is one and a pairwise mode."""
        owner = epoch.owner(kid)
        if owner is None or not self.suite.pairwise:
            return None
        public_key = owner.public_key
        context.learn(kid, public_key, self.suite.authenticated(public_key))
        return context.recipient(kid)

    def answer_as(
        self,
        kid: bytes,
        key: PrivateKey,
        datagram: Datagram,
        *,
        own_number: int | None = None,
        alone: bool = False,
    ) -> Datagram | None:
        """An answer in this name to a request that was on the air, signed with this key, or in pairwise mode for
        the requester `alone`; with the nonce of the request, or with a number of its own. None if that is no
        request, or this name's."""
        message = coap.decode(datagram.data)
        asked = self.air.inside_of(message)
        if not isinstance(asked, Asked) or asked.kid == kid:
            return None
        epoch = next(epoch for epoch in self.epochs if epoch.gid == asked.gid)
        sender = self._impostors_sender(kid, key, epoch, own_number or 0)
        context = SecurityContext(GROUP, sender.common, sender, {})
        whom = self._known(epoch, context, asked.kid) if alone else None
        ids = RequestIds(asked.kid, partial_iv_bytes(asked.number), asked.gid)
        exchange = incoming_exchange(
            sender, ids, may_reuse_nonce=own_number is None, pairwise=asked.alone is not None
        )
        reply = Message(coap.NON, coap.CONTENT, 0, message.token, (), b"forged %d" % self.air.name())
        protected = protect_response(sender, exchange, reply, to=None if whom is None else (context, whom))
        genuine = epoch.owns(kid, key)
        self.air.note_answer(sender, protected, asked, _content(reply), genuine=genuine, alone=whom is not None)
        return self.air.put(protected, PLACE_OF.get(asked.kid))

    # ---- something arrives

    def deliver(self, datagram: Datagram, node: Node, address: bool | None = None) -> Outcome:
        """The datagram arrives at this node: by unicast, at the group's multicast address, or at another one."""
        if node.process is None:
            return Outcome.DROPPED
        try:
            message = coap.decode(datagram.data)
        except Rejected:
            return Outcome.DROPPED
        types = (coap.NON, coap.CON) if address is None else (coap.NON,)
        arrival = Arrival(
            self.air.inside_of(message),
            coap.is_request(message.code),
            message.type in types,
            address,
            message.option(coap.OBSERVE),
            message.token,
        )
        if coap.is_response(message.code):
            return self._response(node, message, arrival)
        return self._request_arrives(node, message, arrival)

    def _request_arrives(self, node: Node, message: Message, arrival: Arrival) -> Outcome:
        now = self.loop.now
        try:
            with self.alive(node):
                taken = self._take(node, message, arrival)
        except Death as death:
            node.model.settle_by_death(arrival, now, death.durable)
            return Outcome.DROPPED
        if taken is None:
            node.model.settle(arrival, now, Outcome.DROPPED)
            self._count_drop(node, arrival)
            return Outcome.DROPPED
        decrypted, outcome = taken
        if isinstance(outcome, ChallengedRequest):
            node.model.settle(arrival, now, Outcome.CHALLENGED, outcome.repeat)
            self._check_challenge(arrival, outcome.repeat)
            self._keep(node, message, arrival, outcome)
            return Outcome.CHALLENGED
        node.model.settle(arrival, now, Outcome.DELIVERED)
        self._check_delivered(arrival, decrypted, outcome)
        self._count_delivery(node, arrival, outcome)
        self._keep(node, message, arrival, outcome)
        return Outcome.DELIVERED

    def _take(
        self, node: Node, message: Message, arrival: Arrival
    ) -> tuple[DecryptedRequest, DeliveredRequest | ChallengedRequest] | None:
        """What `GroupMessageInterface` does with a request; None if it is rejected."""
        assert node.process is not None
        groups, now = node.process.groups, self.loop.now
        if arrival.address is None and not arrival.fitting_type:
            return None
        destination = {None: None, True: ADDRESS.packed, False: OTHER_ADDRESS}[arrival.address]
        try:
            decrypted = decrypt_request(groups.registry, message, destination, now)
            mode = groups.verification(decrypted)
            if mode is Verification.ALWAYS:
                return decrypted, groups.admit(decrypted.check_signature(), decrypted, now)
            waived = decrypted.waive_signature(deferred=mode is Verification.DEFER)
            return decrypted, groups.admit(waived, decrypted, now)
        except Rejected:
            return None

    def _check_challenge(self, arrival: Arrival, repeat: bytes) -> None:
        asked = arrival.inside
        assert isinstance(asked, Asked)
        if len(repeat) < 8 or any(repeat == earlier for earlier, _ in self.challenges):
            raise Broken(Promise.SYNCHRONIZATION, f"a Repeat value that is not new: {repeat.hex()}")
        self.challenges.append((repeat, asked.content))
        self._challenged.add((asked.gid, asked.kid, repeat))
        self.reached["a challenge"] += 1

    def _check_delivered(self, arrival: Arrival, decrypted: DecryptedRequest, delivered: DeliveredRequest) -> None:
        """What the application is told is what was sent, and no more than is known."""
        asked = arrival.inside
        assert isinstance(asked, Asked)
        told = (delivered.gid, delivered.sender_id, delivered.sequence_number, _content(delivered.message))
        verified = delivered.signature.authentic
        alone = delivered.signature is SignatureState.PAIRWISE
        right = told == (*asked.identity, asked.content) and alone == (asked.alone is not None)
        if not right or (verified and not asked.genuine):
            raise Broken(Promise.MEMBERS, f"delivered as {told}, verified: {verified}: {asked}")
        if (delivered.freshness is Freshness.FRESH) != (asked.repeat is not None):
            raise Broken(Promise.SYNCHRONIZATION, f"{delivered.freshness}: {asked}")
        if delivered.signature is SignatureState.DEFERRED:
            self._check_late(asked, decrypted)

    def _check_late(self, asked: Asked, decrypted: DecryptedRequest) -> None:
        try:
            decrypted.check_signature()
        except Rejected:
            found = False
        else:
            found = True
        self.reached["a deferred check, " + ("of a member" if found else "with an alarm")] += 1
        if found is not asked.genuine:
            raise Broken(Promise.MEMBERS, f"the deferred check says {found}: {asked}")

    def _keep(
        self, node: Node, message: Message, arrival: Arrival, outcome: DeliveredRequest | ChallengedRequest
    ) -> None:
        """The node may answer this."""
        asked = arrival.inside
        assert isinstance(asked, Asked)
        assert node.process is not None
        if isinstance(outcome, ChallengedRequest):
            repeat, verified = outcome.repeat, False
        else:
            repeat, verified = None, outcome.signature.authentic
        model = Incoming(asked.gid, may_use_nonce=verified)
        node.process.pending.append(Pending(outcome.exchange, asked, message, model, repeat))

    def _response(self, node: Node, message: Message, arrival: Arrival) -> Outcome:
        """What `GroupMessageInterface` does with a response."""
        assert node.process is not None
        if arrival.address is not None:
            return Outcome.DROPPED
        delivered = self._collect(node, message)
        node.model.collect(arrival, Outcome.DROPPED if delivered is None else Outcome.DELIVERED)
        if delivered is None:
            return Outcome.DROPPED
        node.process.groups.pending.answered(message.token, delivered.sender_id)
        answered = arrival.inside
        assert isinstance(answered, Answered)
        told = (delivered.gid, delivered.sender_id, delivered.sequence_number, _content(delivered.message))
        alone = delivered.signature is SignatureState.PAIRWISE
        if (*told, alone) != (answered.gid, answered.kid, answered.number, answered.content, answered.alone):
            raise Broken(Promise.MEMBERS, f"delivered as {told}, alone: {alone}: {answered}")
        self._count_answer(node, message.token, answered)
        self.reached["a notification" if delivered.notification else "an answer"] += 1
        self.reached["an answer under a later Gid than its request"] += delivered.gid != answered.to[0]
        repeat = delivered.message.option(coap.REPEAT)
        if repeat is not None:
            wish = self.air.wishes[message.token]
            node.process.doubts.append(Doubt(wish, repeat, PLACE_OF[answered.kid]))
        return Outcome.DELIVERED

    def _collect(self, node: Node, message: Message) -> DeliveredResponse | None:
        """Under the request sent last with this token, or else under the one it refreshed."""
        assert node.process is not None
        for exchange in reversed(node.process.outgoing.get(message.token, [])):
            try:
                decrypted = decrypt_response(node.process.groups.registry, exchange, message)
            except Rejected:
                continue
            try:
                return decrypted.check_signature().accept()
            except Rejected:
                return None
        return None

    # ---- what has been reached

    def _count_answer(self, node: Node, token: bytes, answered: Answered) -> None:
        assert node.process is not None
        given = node.process.answers
        given[token, answered.kid] += 1
        self.reached["a further answer"] += given[token, answered.kid] > 1 and not answered.notification
        self.reached["an answer for one alone delivered"] += answered.alone

    def _count_delivery(self, node: Node, arrival: Arrival, delivered: DeliveredRequest) -> None:
        asked = arrival.inside
        assert isinstance(asked, Asked)
        assert node.process is not None
        self.reached[f"delivered, {delivered.signature.value}"] += 1
        self.reached[f"delivered by {node.model.policy.method}"] += 1
        self.reached["a forgery delivered where signatures are waived"] += not asked.genuine
        self.reached["an echo delivered"] += asked.repeat is not None
        if asked.repeat is not None:
            unknown = (asked.gid, asked.kid, asked.repeat) not in self._challenged
            self.reached["a Repeat value that nobody sent, under young keys"] += unknown
        self.reached["a request for one alone delivered by multicast"] += bool(asked.alone and arrival.address)
        self.reached["a late request delivered within the grace"] += asked.gid != node.model.current
        self.reached["a request delivered after a crash"] += not node.process.state.stopped_cleanly

    def _count_drop(self, node: Node, arrival: Arrival) -> None:
        asked = arrival.inside
        if not isinstance(asked, Asked) or node.process is None:
            return
        context = node.model.contexts.get(asked.gid)
        replayed = asked.identity in node.model.delivered
        self.reached["who has left refused"] += context is not None and asked.kid in context.departed
        self.reached["a forgery by a member refused"] += not asked.genuine
        self.reached["a forgery for one alone refused"] += not asked.genuine and asked.alone is not None
        self.reached["a request for another refused"] += asked.alone not in (None, node.kid)
        self.reached["a replay refused"] += replayed
        self.reached["a replay refused after a crash"] += replayed and not node.process.state.stopped_cleanly

    # ---- several steps at once

    def reaches(self, datagram: Datagram, place: str) -> bool:
        """Whether a group request is delivered in this place, or challenged, and so may be answered."""
        return self.deliver(datagram, self.nodes[place], True) is not Outcome.DROPPED

    def deliver_as_meant(self, datagram: Datagram) -> list[Outcome]:
        """To whom it was sent, as it was sent."""
        if datagram.to is not None:
            return [self.deliver(datagram, self.nodes[datagram.to])]
        return [self.deliver(datagram, node, True) for node in self.nodes.values()]

    def converse(
        self,
        node: Node,
        listener: Node,
        request: Datagram | None,
        *,
        pause: float = 0.0,
        original: bool = True,
        notification: bool = False,
        mode: Mode | None = None,
    ) -> Outcome:
        """A request reaches one listener, and what follows reaches who it is for: challenge, echo (`original` or of
        another request), answer (or `notification`) in this mode; each after a `pause`."""
        if request is None:
            return Outcome.DROPPED
        outcome = self.deliver(request, listener, True if request.to is None else None)
        if outcome is Outcome.CHALLENGED:
            outcome = self._convince(node, listener, pause, original)
        if outcome is Outcome.DELIVERED:
            self._pause(pause)
            reply = self.answer(listener, notification=notification, mode=mode)
            if reply is not None:
                self.deliver(reply, node)
        return outcome

    def _convince(self, node: Node, listener: Node, pause: float, original: bool) -> Outcome:
        self._pause(pause)
        challenge = self.answer(listener)
        if challenge is None or self.deliver(challenge, node) is not Outcome.DELIVERED:
            return Outcome.DROPPED
        self._pause(pause)
        echo = self.echo(node, original=original)
        return Outcome.DROPPED if echo is None else self.deliver(echo, listener)

    def _pause(self, seconds: float) -> None:
        if seconds:
            self.wait(seconds)

    def ask(self, node: Node, places: Iterable[str], *, notification: bool = False, **what: Any) -> None:
        """A group request reaches these places one after the other, and they answer."""
        request = self.send(node, **what)
        for place in places:
            self.converse(node, self.nodes[place], request, notification=notification)


def _content(message: Message) -> Content:
    resource = b"/".join(value for number, value in message.options if number == coap.URI_PATH)
    return Content(message.code, resource, message.payload)
