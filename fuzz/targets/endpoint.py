"""A whole endpoint: datagrams from outsiders and members, by multicast and unicast, among its own requests,
renewals and the passing of time (endpoint/interface.py and all around it)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import aiocoap
from aiocoap import resource

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.option import decode_prefix
from groupcoap.core.policy import Verification
from groupcoap.core.profile import Mode
from groupcoap.core.sequence import MAXIMUM
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.devices import Light
from groupcoap.endpoint.limits import DEFAULT_LIMITS, NAMES, Limits
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Collection, Multicaster, Observation
from groupcoap.endpoint.network import SocketAddress
from groupcoap.endpoint.proxy import Proxy
from groupcoap.endpoint.remote import Provenance, provenance
from groupcoap.errors import MisuseError, Rejected

from ..choices import Choices
from ..device import GROUP_ADDRESS, Device, opened, run, watched
from ..group import (
    ADDRESS,
    GROUPS,
    IDS,
    LAMP,
    NAME,
    NOBODY,
    OTHER_LAMP,
    SPEAKERS,
    STRANGER,
    SWITCH,
    choose_number,
    choose_options,
    choose_peer,
    choose_plaintext,
    damaged,
    gid,
    object_security_of,
)

_POLICIES = (
    SynchronizationPolicy(Method.BEST_EFFORT),
    SynchronizationPolicy(Method.BASELINE),
    SynchronizationPolicy(Method.CHALLENGE_RESPONSE, rechallenge_after=0.0),
)
_SOURCES: tuple[SocketAddress, ...] = (("192.0.2.9", 5683), ("192.0.2.10", 61616), ("2001:db8::9", 5683, 0, 0))
_PROXY_ADDRESS: SocketAddress = ("192.0.2.10", 61616)
_PROXY = Proxy(ip_address(_PROXY_ADDRESS[0]), _PROXY_ADDRESS[1], {OTHER_LAMP: (ip_address("192.0.2.9"), 5683)})
_AT_MOST = 10
_NARROW = Limits(
    **{name: 1.0 if "_rate" in name else 2 for name in NAMES if name != "receive_buffer"},  # type: ignore[arg-type]
)
_MODES = (None, Mode.GROUP, Mode.PAIRWISE)
_ERRORS = (coap.BAD_REQUEST, coap.UNAUTHORIZED, coap.BAD_OPTION, coap.SERVICE_UNAVAILABLE)


def check(data: bytes) -> None:
    """Whatever comes: nothing is raised, nothing logged as an error. What reaches the application a member has
    protected, once. Every datagram is counted once. By multicast nothing goes out to anyone but for what is
    authentic; by unicast only the errors and acknowledgements that the specification allows. Strangers leave
    nothing in memory, and members no more than the limits allow. Closing leaves no task and no timer."""
    choices = Choices(data)
    group = choices.one_of(GROUPS)
    response_mode = choices.one_of(_MODES) if group.pairwise else None
    policy, plain, narrow = choices.one_of(_POLICIES), choices.below(8) == 7, choices.flag()
    verification = Verification.SKIP if choices.below(4) == 3 else Verification.ALWAYS

    async def main() -> None:
        with watched() as errors:
            limits = _NARROW if narrow else DEFAULT_LIMITS
            async with opened(
                policy, verification, group=group, response_mode=response_mode, plain=plain, limits=limits
            ) as device:
                skips = verification is Verification.SKIP and not group.profile.rules.signature_first
                scene = _Scene(device, choices, plain, skips)
                for _ in range(_AT_MOST):
                    if not choices.left:
                        break
                    scene.step()
                    await asyncio.sleep(scene.pause)
                    scene.check_sent()
                await scene.end()
        assert not errors, errors

    run(main)


def _protection(message: Message) -> tuple[bytes, bytes]:
    """What is authentic of a message, or not."""
    return object_security_of(message), message.payload


class _Site(resource.Site):  # type: ignore[misc]
    """A light, and a note of where requests came from."""

    def __init__(self) -> None:
        super().__init__()
        self.add_resource(["light"], Light())
        self.came: list[Provenance] = []

    async def render_to_pipe(self, request: Any) -> None:
        origin = provenance(request.request)
        assert origin is not None
        self.came.append(origin)
        await super().render_to_pipe(request)


class _Scene:
    """An endpoint, and the world that it is in."""

    def __init__(self, device: Device, choices: Choices, plain: bool, skips: bool) -> None:
        self._device = device
        self._group = device.source.group
        self._rules = self._group.profile.rules
        self._choices = choices
        self._plain = plain
        self._skips = skips
        self._site = _Site()
        Listener(device.endpoint, self._site)
        proxy = _PROXY if choices.below(4) == 3 else None
        self._multicaster = Multicaster(device.endpoint, NAME, proxy=proxy)
        self._asked: list[Collection | Observation] = []
        self._asked_at: set[SocketAddress] = set()
        self.pause = 0.0

        self._messages: list[Message] = []
        self._sent: list[tuple[bytes, int, bytes]] = []
        self._ciphertexts: set[bytes] = set()
        self._made: set[tuple[bytes, bytes]] = set()
        self._requests: set[tuple[bytes, bytes, int]] = set()
        self._responses: set[tuple[bytes, bytes, int | None]] = set()
        self._received = 0
        self._silent = 0
        self._authentic_from: set[SocketAddress] = set()
        self._from: defaultdict[SocketAddress, list[Message]] = defaultdict(list)
        self._checked = 0

    # ---- what happens

    def step(self) -> None:
        choices, self.pause = self._choices, 0.0
        steps = (
            lambda: self._receive(choices.some()),
            self._wait,
            self._repeat,
            self._damage,
            self._reflect,
            self._request,
            self._request,
            self._ask,
            self._respond,
            self._respond,
            self._renew,
            self._request_in_pieces,
            self._answer_in_pieces,
            self._empty,
        )
        choices.one_of(steps)()

    def _wait(self) -> None:
        self.pause = self._choices.byte() ** 2 / 100

    def _repeat(self) -> None:
        if self._messages:
            self._receive_message(self._choices.one_of(self._messages))

    def _damage(self) -> None:
        if self._messages:
            self._receive_message(damaged(self._choices.one_of(self._messages), self._choices))

    def _reflect(self) -> None:
        """What the endpoint itself has sent comes to it."""
        if self._device.network.sent:
            self._receive(self._choices.one_of(self._device.network.sent)[0])

    def _request(self) -> None:
        self._receive_message(self._protected_request())

    def _protected_request(self) -> Message:
        choices = self._choices
        kid, number, forged = choices.one_of(SPEAKERS), choose_number(choices), choices.below(8) == 7
        epoch = choices.below(self._device.source.epoch + 1)
        plaintext = choose_plaintext(choices)
        if choices.below(4) == 3 and self._sent:
            kid, number, plaintext = self._echo(*self._sent[-1])
        to = choose_peer(choices, self._group, (LAMP, OTHER_LAMP))
        message = self._group.request(
            kid,
            number,
            plaintext,
            to=to,
            epoch=epoch,
            forged=forged,
            kind=coap.CON if choices.flag() else coap.NON,
            message_id=choices.byte(),
            token=choices.take(choices.below(3)),
            outer=self._outer(),
        )
        self._note(message, forged, to)
        self._sent.append((kid, number, plaintext))
        if to in (None, LAMP) and (not forged or self._skips):
            self._requests.add((gid(epoch), kid, number))
        return message

    def _echo(self, kid: bytes, number: int, plaintext: bytes) -> tuple[bytes, int, bytes]:
        """The request again, as the answer to a challenge, whose values are 1, 2, 3 …"""
        try:
            options, payload = coap.decode_options(plaintext, 1)
        except Rejected:
            return kid, number, plaintext
        repeat = (self._choices.below(4) + 1).to_bytes(8, "big")
        with_repeat = sorted([*options, (coap.REPEAT, repeat)], key=lambda option: option[0])
        again = coap.encode_options(tuple(with_repeat), plaintext[:1], payload)
        return kid, min(number + self._choices.below(3), MAXIMUM), again

    def _outer(self) -> coap.Options:
        return tuple(o for o in choose_options(self._choices, 1) if o[0] != coap.OBJECT_SECURITY)

    def _note(self, message: Message, forged: bool, to: bytes | None) -> None:
        self._messages.append(message)
        self._ciphertexts.add(message.payload)
        if not forged and to in (None, LAMP):
            self._made.add(_protection(message))

    def _ask(self) -> None:
        """The endpoint asks the group itself, or one member alone."""
        message = aiocoap.Message(code=aiocoap.GET, uri_path=["light"])
        with suppress(MisuseError):  # too many wait for answers already, or the other lamp has left
            if self._group.pairwise and self._choices.flag():
                mode, address = self._choices.one_of(_MODES), self._choices.one_of(_SOURCES)
                self._asked.append(self._multicaster.ask(OTHER_LAMP, message, address, mode=mode, timeout=1.0))
                self._asked_at.add(address)
            else:
                ask = self._multicaster.observe if self._choices.flag() else self._multicaster.request
                self._asked.append(ask(message, timeout=1.0))

    def _respond(self) -> None:
        """A member answers."""
        answer = self._answer()
        if answer is not None:
            self._receive_message(answer)

    def _answer(self) -> Message | None:
        """A member's answer to what the endpoint asked last, or to an earlier thing."""
        choices = self._choices
        asked = [m for d, _ in self._device.network.sent if coap.is_request((m := coap.decode(d)).code)]
        if not asked:
            return None
        to = choices.one_of(asked[::-1])
        kid, number = choices.one_of(SPEAKERS), None if choices.flag() else choose_number(choices)
        plaintext = choose_plaintext(choices)
        if choices.below(4) == 3:  # a challenge
            code = coap.BYTE[self._rules.challenge_code]
            plaintext = coap.encode_options(((coap.REPEAT, choices.take(8).ljust(8, b"\0")),), code)
        epoch, forged = choices.below(self._device.source.epoch + 1), choices.below(8) == 7
        alone = choose_peer(choices, self._group, (LAMP, OTHER_LAMP))
        message = self._group.response(
            kid,
            self._group.ids_of(to),
            number,
            plaintext,
            to=alone,
            with_kid=not self._group.pairwise or choices.flag(),
            epoch=epoch,
            with_gid=choices.flag(),
            forged=forged,
            kind=choices.one_of((coap.NON, coap.CON, coap.ACK)),
            message_id=to.message_id if choices.flag() else choices.byte(),
            token=to.token,
            outer=self._outer(),
        )
        self._note(message, forged, alone)
        if not forged and alone in (None, LAMP):
            self._responses.add((gid(epoch), kid, number))
        return message

    def _renew(self) -> None:
        if self._device.source.epoch < 2:
            self._device.source.renew()

    def _request_in_pieces(self) -> None:
        """As a proxy would send it: outer Block1, confirmable, one after the other."""
        whole = self._protected_request()._replace(type=coap.CON)
        source = self._choices.one_of(_SOURCES)
        self._authentic_from.add(source)
        for piece in self._pieces(whole, coap.BLOCK1):
            self._deliver(coap.encode(piece), source, None)

    def _answer_in_pieces(self) -> None:
        """The same with an answer to what the endpoint asked last; the others have to be asked for."""
        answer = self._answer()
        if answer is None:
            return
        source = self._choices.one_of(_SOURCES)
        asked_at = self._device.network.sent[-1][1]
        for piece in self._pieces(answer, coap.BLOCK2):
            self._deliver(coap.encode(piece), source if self._choices.below(4) == 3 else asked_at, None)

    def _pieces(self, whole: Message, option: int) -> Iterator[Message]:
        choices = self._choices
        exponent = choices.below(3)
        size = 16 << exponent
        pieces = range(0, len(whole.payload), size)
        for number, at in enumerate(pieces):
            more = at != pieces[-1]
            block = coap.uint_bytes((choices.below(8) == 7) + number << 4 | more << 3 | exponent)
            options = tuple(sorted([*whole.options, (option, block)], key=lambda option: option[0]))
            yield whole._replace(message_id=number, options=options, payload=whole.payload[at : at + size])

    def _empty(self) -> None:
        """An empty message, perhaps for something that was sent."""
        choices = self._choices
        kind, message_id = choices.one_of((coap.CON, coap.ACK, coap.RST)), choices.byte()
        source = choices.one_of(_SOURCES)
        sent = self._device.network.sent
        if choices.flag() and sent:
            datagram, source = choices.one_of(sent)
            message_id = coap.decode(datagram).message_id
        self._deliver(coap.encode(Message(kind, coap.EMPTY, message_id, b"", (), b"")), source, None)

    def _receive_message(self, message: Message) -> None:
        self._receive(coap.encode(message))

    def _receive(self, datagram: bytes) -> None:
        source, by_multicast = self._choices.one_of(_SOURCES), self._choices.flag()
        self._deliver(datagram, source, ADDRESS.packed if by_multicast else None)

    # ---- what must hold

    def _deliver(self, datagram: bytes, source: SocketAddress, destination: bytes | None) -> None:
        """Hand the datagram to the endpoint and see what it has done at once."""
        try:
            message = coap.decode(datagram)
        except Rejected:
            message = None
        may_be_silent = False
        if message is not None:
            if self._is_authentic(message):
                self._authentic_from.add(source)
            if destination is None:
                may_be_silent = self._may_be_silent(message, source)
                self._from[source].append(message)
        before = self._device.outcomes
        self._device.network.receive(datagram, source, destination)
        outcomes = self._device.outcomes - before
        self._received += 1
        if outcomes == 0 and may_be_silent:
            self._silent += 1
        else:
            assert outcomes == 1 or self._awaits_credential(message), message
        self.check_sent()

    def _may_be_silent(self, message: Message, source: SocketAddress) -> bool:
        """Whether this may be neither delivered nor refused: empty messages, repetitions, pieces, plain CoAP."""
        if message.code == coap.EMPTY or self._plain:
            return True
        if coap.is_response(message.code) and message.option(coap.BLOCK2) is not None:
            return True
        return message.type == coap.CON and (
            message in self._from[source] or message.option(coap.BLOCK1) is not None
        )

    def _is_authentic(self, message: Message) -> bool:
        """Whether a member has made this: the one in whose name it is, or any where signatures are not verified."""
        return _protection(message) in self._made or (self._skips and message.payload in self._ciphertexts)

    def _awaits_credential(self, message: Message | None) -> bool:
        """Whether this is from somebody whose credential must be looked up, so that it is decided later. The
        signature may be wrong: nobody can know yet."""
        if message is None:
            return False
        if self._rules.binds_credentials:  # it is needed before anything can be decrypted
            return self._kid_of(message) not in (None, LAMP, OTHER_LAMP, SWITCH)
        if message.payload not in self._ciphertexts:
            return False
        return object_security_of(message).endswith((STRANGER, NOBODY))

    def _kid_of(self, message: Message) -> bytes | None:
        """In whose name this is, if it says so."""
        profile, common = self._group.profile, self._group.common_context()
        split = profile.split_request_option if coap.is_request(message.code) else profile.split_response_option
        try:
            return split(common, decode_prefix(object_security_of(message)))[0]
        except Rejected:
            return None

    def check_sent(self) -> None:
        """What has been sent since the last time may be sent."""
        sent = self._device.network.sent
        for datagram, destination in sent[self._checked :]:
            message = coap.decode(datagram)
            if message.option(coap.OBJECT_SECURITY) is not None:
                asked = (GROUP_ADDRESS,) if self._multicaster.proxy is None else (_PROXY_ADDRESS,)
                assert destination in asked or destination in self._authentic_from | self._asked_at, message
            else:
                assert any(self._is_allowed(message, cause) for cause in self._from[destination]), message
        self._checked = len(sent)

    def _is_allowed(self, sent: Message, cause: Message) -> bool:
        """Whether this unprotected message may be sent because that one had come by unicast."""
        if self._plain:
            return sent.token == cause.token or sent.message_id == cause.message_id
        request_came = coap.is_request(cause.code) and sent.token == cause.token
        if sent.type == coap.NON:
            # What has no countersignature is RFC 8613's, if anybody's.
            is_groups = self._group.profile.is_group_message(decode_prefix(object_security_of(cause)))
            return request_came and cause.type == coap.NON and not is_groups and sent.code == coap.UNAUTHORIZED
        if cause.type != coap.CON or sent.message_id != cause.message_id:
            return False
        if sent.code == coap.EMPTY:
            if sent.type == coap.RST and cause.code == coap.EMPTY:
                return True
            # An answer that came before a newer one is acknowledged whatever it is; the last piece as the whole is.
            answers = coap.is_response(cause.code) and cause.option(coap.OBJECT_SECURITY) is not None
            return answers or cause.option(coap.BLOCK1) is not None or self._is_authentic(cause)
        if sent.code == coap.CONTINUE:
            return request_came and cause.option(coap.BLOCK1) is not None
        return request_came and sent.type == coap.ACK and sent.code in _ERRORS

    async def end(self) -> None:
        """Let all that was begun come to its end, and look at what is left."""
        await asyncio.sleep(20.0)
        self.check_sent()
        assert self._received - self._silent <= self._device.outcomes <= self._received
        came = [(p.gid, p.endpoint_id, p.sequence_number) for p in self._site.came]
        assert set(came) <= self._requests
        assert len(set(came)) == len(came)
        for asked in self._asked:
            if isinstance(asked, Collection):
                origins = [answer.provenance for answer in asked._answers.values()]
            else:
                origins = [stream.latest.provenance for stream in asked.streams.values() if stream.latest]
            assert {(p.gid, p.endpoint_id, p.sequence_number) for p in origins} <= self._responses
        self._check_tables()

    def _check_tables(self) -> None:
        endpoint = self._device.endpoint
        limits, interface = endpoint.limits, endpoint.interface
        assert not endpoint.messages._recent_messages
        assert len(endpoint.tokens.incoming_requests) <= min(
            len(self._requests), limits.requests + limits.observations
        )
        assert len(interface._confirmed) <= limits.remembered
        assert len(interface._confirmable) <= limits.remembered
        assert len(interface._outgoing) <= limits.outgoing
        assert len(interface._reassembler) <= limits.assemblies
        for context in endpoint.groups.registry.contexts(NAME):
            kept = {recipient.recipient_id for recipient in context.recipients}
            assert kept <= set(IDS) - {LAMP}
            assert len(kept) <= limits.recipients
