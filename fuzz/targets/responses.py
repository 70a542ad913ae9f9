"""Responses, from the datagram to the application (core/responses.py, core/exchange.py)."""

from __future__ import annotations

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CredentialNeeded
from groupcoap.core.exchange import OutgoingExchange
from groupcoap.core.registry import Registry
from groupcoap.core.requests import protect_request
from groupcoap.core.responses import DecryptedResponse, DeliveredResponse, decrypt_response
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
    SWITCH,
    choose_number,
    choose_options,
    choose_peer,
    choose_plaintext,
    damaged,
    object_security_of,
    private_key,
)

_AT_MOST = 8


def check(data: bytes) -> None:
    """A multicaster gets up to eight responses to its requests: any bytes, and its members' own, replayed, damaged,
    forged, bound to another request, or under a renewed context. `Rejected`, or what a member has protected for
    this very request: from each listener one response, or notifications in ascending order."""
    choices = Choices(data)
    multicaster = _Multicaster(choices)
    for _ in range(_AT_MOST):
        if not choices.left:
            break
        multicaster.step()


class _Multicaster:
    """The switch with the lamps' keys at hand, and what has been protected for it."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._group = choices.one_of(GROUPS)
        self._registry = Registry()
        self._epoch = -1
        self._renew()
        self._exchanges = [self._request(), self._request()]
        if choices.flag():
            self._exchanges[1].follow(self._exchanges[0])
        self._sent: list[Message] = []
        self._authentic: set[tuple[int, bytes, bytes]] = set()
        self._accepted: dict[tuple[int, bytes], tuple[int, int]] = {}

    def _renew(self) -> None:
        self._epoch += 1
        self._registry.install(self._group.context(SWITCH, self._epoch), [ADDRESS.packed])

    def _request(self) -> OutgoingExchange:
        context = self._registry.current(NAME)
        assert context.sender is not None
        observe = ((coap.OBSERVE, b""),) if self._choices.flag() else ()
        message = Message(coap.NON, coap.GET, 1, b"\x70", observe, b"")
        peer = choose_peer(self._choices, self._group, (LAMP, OTHER_LAMP))
        to = None if peer is None else context.recipient(peer)
        return protect_request(context, context.sender, message, to=to).exchange

    def step(self) -> None:
        choices = self._choices
        what = choices.below(8)
        if what == 0:
            self._receive_bytes(choices.some())
        elif what == 1 and self._epoch < 2:
            self._renew()
        elif what == 2 and self._sent:
            self._receive(choices.one_of(self._sent))
        elif what == 3 and self._sent:
            self._receive(damaged(choices.one_of(self._sent), choices))
        else:
            self._receive(self._protected())

    def _protected(self) -> Message:
        choices = self._choices
        kid, which, forged = choices.one_of(SPEAKERS), choices.below(2), choices.below(8) == 7
        number = None if choices.flag() else choose_number(choices)
        outer = tuple(o for o in choose_options(choices, 1) if o[0] != coap.OBJECT_SECURITY)
        to = choose_peer(choices, self._group, (SWITCH, OTHER_LAMP))
        with_kid = not self._group.pairwise or choices.flag()
        message = self._group.response(
            kid,
            self._exchanges[which].ids,
            number,
            choose_plaintext(choices),
            to=to,
            with_kid=with_kid,
            epoch=choices.below(self._epoch + 1),
            with_gid=choices.flag(),
            forged=forged,
            outer=outer,
        )
        self._sent.append(message)
        if not forged and to in (None, SWITCH):
            self._authentic.add((which, object_security_of(message), message.payload))
        return message

    def _receive_bytes(self, datagram: bytes) -> None:
        try:
            message = coap.decode(datagram)
        except Rejected:
            return
        self._receive(message)

    def _receive(self, message: Message) -> None:
        which = self._choices.below(2)
        exchange = self._exchanges[which]
        try:
            decrypted = self._decrypt(exchange, message)
            stranger = decrypted.sender_id == STRANGER and decrypted.public_key is None
            verified = decrypted.check_signature(private_key(STRANGER).public_key if stranger else None)
            assert (which, object_security_of(message), message.payload) in self._authentic
            delivered = verified.accept()
        except Rejected:
            return
        self._check_order(exchange, which, delivered)

    def _decrypt(self, exchange: OutgoingExchange, message: Message) -> DecryptedResponse:
        try:
            return decrypt_response(self._registry, exchange, message)
        except CredentialNeeded as needed:
            assert self._group.profile.rules.binds_credentials
            if needed.sender_id != STRANGER:
                raise
            self._group.learn(needed.context, STRANGER)
            return decrypt_response(self._registry, exchange, message)

    def _check_order(self, exchange: OutgoingExchange, which: int, delivered: DeliveredResponse) -> None:
        assert coap.is_response(delivered.message.code)
        assert delivered.sender_id != SWITCH or delivered.gid != exchange.ids.gid
        key = (which, delivered.sender_id)
        before = self._accepted.get(key)
        number = -1 if delivered.sequence_number is None else delivered.sequence_number
        now = (int.from_bytes(delivered.gid, "big"), number)
        assert before is None or (exchange.long and now > before)
        assert exchange.peer in (None, delivered.sender_id)
        assert exchange.observe or not delivered.notification
        self._accepted[key] = now
