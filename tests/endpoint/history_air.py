"""What is on the air in a history: every datagram that ever was, who made its inside, every nonce that was used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from history_model import Answered, Asked, Broken, Content, Promise

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import RecipientContext, SenderContext
from groupcoap.core.requests import Trace
from groupcoap.cose.keys import DEFAULT_SIGNATURE


@dataclass(frozen=True)
class Datagram:
    """Something that was on the air once. `to`: the place that it was sent to; None: the group."""

    data: bytes
    to: str | None


@dataclass(frozen=True)
class Wish:
    """What an application has asked for: the plain request, and its name."""

    message: Message
    content: Content
    name: int


class Air:
    """The memory of the whole history. A token or a name is given out once. `clear_signatures`: they stand in the
    option, beside what is encrypted."""

    def __init__(self, *, clear_signatures: bool = True) -> None:
        self._clear_signatures = clear_signatures
        self.datagrams: list[Datagram] = []
        self.wishes: dict[bytes, Wish] = {}
        self._names = count(1)
        self._tokens = count(1)
        self._used: set[tuple[bytes, bytes]] = set()
        self._made: dict[tuple[bytes, bytes], tuple[bytes, Asked | Answered]] = {}
        self._highest: dict[tuple[bytes, bytes], int] = {}

    def name(self) -> int:
        """What tells one wish, or one answer, from all others."""
        return next(self._names)

    def token(self) -> bytes:
        return next(self._tokens).to_bytes(4, "big")

    def wish(self, code: int, resource: bytes, *, observe: bool = False) -> Wish:
        """Something to be asked for, with a token."""
        name = self.name()
        content = Content(code, resource, b"%d" % name)
        options: coap.Options = ((coap.URI_PATH, resource),)
        if observe:
            options = ((coap.OBSERVE, b""), *options)
        return Wish(Message(coap.NON, code, 0, self.token(), options, content.payload), content, name)

    def another(self, wish: Wish) -> Wish:
        """The same wish, but for its payload: another one."""
        name = self.name()
        payload = b"%d" % name
        return Wish(wish.message._replace(payload=payload), replace(wish.content, payload=payload), name)

    def put(self, message: Message, to: str | None) -> Datagram:
        """Send this; whether it arrives is another matter."""
        datagram = Datagram(coap.encode(message), to)
        self.datagrams.append(datagram)
        return datagram

    # ---- nonces

    def ledger(self, sender: SenderContext, to: RecipientContext | None = None) -> Callable[[Trace], None]:
        """Keeps account of the nonces that this sender uses with its key for the group, or with the one for a
        member alone. `Broken` if one comes a second time."""
        key = sender.key.reveal()
        if to is not None:
            key = b"/".join((key, to.recipient_id, to.credential or b""))

        def use(trace: Trace) -> None:
            if (key, trace.nonce) in self._used:
                raise Broken(Promise.NONCES, f"nonce {trace.nonce.hex()} of {sender!r}")
            self._used.add((key, trace.nonce))

        return use

    def took(self, gid: bytes, kid: bytes, number: int) -> None:
        """This sequence number was used."""
        self._highest[gid, kid] = max(number, self._highest.get((gid, kid), -1))

    def near(self, gid: bytes, kid: bytes, step: int) -> int:
        """The sequence number that is so far from the highest one that was used."""
        return max(0, self._highest.get((gid, kid), -1) + step)

    # ---- insides

    def note_request(
        self,
        sender: SenderContext,
        protected: Message,
        wish: Wish,
        repeat: bytes | None,
        *,
        genuine: bool = True,
        alone: bytes | None = None,
    ) -> Asked:
        """Remember who has made this request, and whom it is for."""
        option, inside = protection(protected)
        number = partial_iv(option)
        assert number is not None
        gid, kid = sender.common.gid, sender.sender_id
        asked = Asked(gid, kid, number, wish.content, repeat, wish.name, genuine, alone)
        self._note(option, inside, asked)
        self.took(gid, kid, number)
        return asked

    def note_answer(
        self,
        sender: SenderContext,
        protected: Message,
        asked: Asked,
        content: Content,
        *,
        genuine: bool = True,
        alone: bool = False,
        notification: bool = False,
    ) -> Answered:
        """Remember who has made this answer."""
        option, inside = protection(protected)
        to = (asked.gid, asked.kid, asked.number)
        number, gid = partial_iv(option), sender.common.gid
        answered = Answered(gid, sender.sender_id, number, to, content, genuine, alone, notification)
        self._note(option, inside, answered)
        return answered

    def _note(self, option: bytes, inside: bytes, made: Asked | Answered) -> None:
        signature, rest = self._without_signature(option)
        self._made[rest, inside] = signature, made

    def inside_of(self, message: Message) -> Asked | Answered | None:
        """Who made what is protected of this message; None: nobody did. A signature that is not under encryption
        may be another: then it is still what some member has made, but nobody's in particular."""
        option, inside = protection(message)
        signature, rest = self._without_signature(option)
        made = self._made.get((rest, inside))
        if made is None or made[0] == signature:
            return None if made is None else made[1]
        return replace(made[1], genuine=False)

    def _without_signature(self, option: bytes) -> tuple[bytes, bytes]:
        """(signature, what is left) of an Object-Security value."""
        if not self._clear_signatures:
            return b"", option
        at = 1 + (option[0] & 7) if option else 0
        if at < len(option) and option[0] & 0x10:
            at += 1 + option[at]
        end = at + DEFAULT_SIGNATURE.signature_length
        return option[at:end], option[:at] + option[end:]


# ---- what anybody can do to a datagram


def flip(datagram: Datagram, bit: int) -> Datagram:
    """The datagram with one bit changed."""
    data = bytearray(datagram.data)
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    return Datagram(bytes(data), datagram.to)


def tamper_with_observe(datagram: Datagram) -> Datagram:
    """Add Observe, which travels unprotected, or take it away."""
    message = coap.decode(datagram.data)
    options = tuple(option for option in message.options if option[0] != coap.OBSERVE)
    if options == message.options:
        options = tuple(sorted([*options, (coap.OBSERVE, b"")]))
    return Datagram(coap.encode(message._replace(options=options)), datagram.to)


def without_protection(datagram: Datagram) -> Datagram:
    """A plain message with the same token."""
    message = coap.decode(datagram.data)
    return Datagram(coap.encode(message._replace(options=(), payload=b"plain")), datagram.to)


# ---- the Object-Security option (§5)


def protection(message: Message) -> tuple[bytes, bytes]:
    """What is protected of a message: the Object-Security value (empty if there is none) and the payload."""
    values = [value for number, value in message.options if number == coap.OBJECT_SECURITY]
    return (values[0] if len(values) == 1 else b""), message.payload


def partial_iv(option: bytes) -> int | None:
    """The Partial IV in an Object-Security value."""
    length = option[0] & 7 if option else 0
    return int.from_bytes(option[1 : 1 + length], "big") if length else None
