"""External signature checkers: they accept what members accept as authentic, and have nothing to read it with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupcoap.core import checker as checker_module
from groupcoap.core import coap
from groupcoap.core.checker import CheckedRequest, CheckedResponse, SignatureChecker, request_ids
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CommonContext, SecurityContext, SenderContext
from groupcoap.core.exchange import OutgoingExchange
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.profile import RequestIds
from groupcoap.core.registry import Registry
from groupcoap.core.requests import decrypt_request, protect_request
from groupcoap.core.responses import decrypt_response, incoming_exchange, protect_response
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.cose.algorithms import Kdf, aead_algorithm, encryption_algorithm, key_agreement_for
from groupcoap.cose.credentials import Credential, claims_set
from groupcoap.cose.keys import PrivateKey, signature_algorithm
from groupcoap.errors import MisuseError, Reason, Rejected
from groupcoap.secret import Secret
from support import refused

GID, NEXT_GID = b"Gid 0", b"Gid 1"
MANAGER = b"\xa1\x01\x02"
SWITCH, LAMP, OTHER = b"\x00", b"\x01", b"\x02\x03"
IDS = (SWITCH, LAMP, OTHER)
LIGHT = ((coap.URI_PATH, b"light"),)
GROUP_FLAG = 0x20


@dataclass(frozen=True)
class Suite:
    """The algorithms of a group."""

    aead: int | None = 10
    encryption: int = 10
    signature: int = -8
    kdf: Kdf = Kdf.HKDF_SHA_256
    sign_protected: bool = True

    def __str__(self) -> str:
        return f"{self.aead},{self.encryption},{self.signature},{self.kdf.value},{self.sign_protected}"


SUITES = (
    Suite(),
    Suite(sign_protected=False),
    Suite(aead=24, encryption=-65534),
    Suite(aead=None, encryption=-65532, sign_protected=False),
    Suite(signature=-7, encryption=24),
    Suite(signature=-35, kdf=Kdf.HKDF_SHA_512),
    Suite(aead=None, kdf=Kdf.HKDF_SHA_384, encryption=30),
)


class Group:
    """A switch and two lamps under one Gid, and who checks what they say."""

    def __init__(self, suite: Suite, gid: bytes = GID) -> None:
        self.suite = suite
        self.algorithm = signature_algorithm(suite.signature)
        self.keys: dict[bytes, PrivateKey] = {
            kid: self.algorithm.private_key(
                Secret((sha256(b"key of " + kid).digest() * 2)[: self.algorithm.key_length])
            )
            for kid in IDS
        }
        self.credentials: dict[bytes, Credential] = {
            kid: claims_set(key.public_key, self.algorithm, kid.hex()) for kid, key in self.keys.items()
        }
        self.common = CommonContext(
            profile=GROUP_OSCORE,
            aead=None if suite.aead is None else aead_algorithm(suite.aead),
            kdf=suite.kdf,
            signature=self.algorithm,
            master_secret=Secret(sha256(b"secret of " + gid).digest()),
            gid=gid,
            group_encryption=encryption_algorithm(suite.encryption),
            key_agreement=None if suite.aead is None else key_agreement_for(suite.kdf),
            master_salt=b"salt",
            manager_credential=MANAGER,
            sign_protected=suite.sign_protected,
        )

    def context(self, own_id: bytes) -> SecurityContext:
        numbers = SequenceNumbers(7)
        own = self.credentials[own_id].authenticated
        sender = SenderContext(self.common, own_id, self.keys[own_id], numbers, own)
        return SecurityContext(
            "room",
            self.common,
            sender,
            {kid: key.public_key for kid, key in self.keys.items() if kid != own_id},
            credentials={kid: credential.authenticated for kid, credential in self.credentials.items()},
        )

    def checker(self, **changes: Any) -> SignatureChecker:
        common = self.common
        key = common.signature_encryption_key
        assert key is not None
        given: dict[str, Any] = {
            "gid": common.gid,
            "signature_encryption_key": key,
            "members": {kid: (self.credentials[kid].authenticated, self.keys[kid].public_key) for kid in IDS},
            "manager_credential": MANAGER,
            "encryption": common.encryption,
            "signature": common.signature,
            "kdf": common.kdf,
            "aead": common.aead,
            "key_agreement": common.key_agreement,
            "sign_protected": common.sign_protected,
        }
        return SignatureChecker(**{**given, **changes})

    def request(
        self, code: int = coap.GET, payload: bytes = b"", *, to: bytes | None = None
    ) -> tuple[Message, OutgoingExchange]:
        context = self.context(SWITCH)
        assert context.sender is not None
        message = Message(coap.NON, code, 1, b"t", LIGHT, payload)
        peer = None if to is None else context.recipient(to)
        protected = protect_request(context, context.sender, message, to=peer)
        return wire(protected.message), protected.exchange

    def response(
        self, ids: RequestIds, *, by: bytes = LAMP, fresh: bool = False, only: bool = False, gid: bool = False
    ) -> Message:
        context = self.context(by)
        assert context.sender is not None
        exchange = incoming_exchange(context.sender, ids, may_reuse_nonce=not fresh, pairwise=only)
        to = (context, context.recipient(SWITCH)) if only else None
        message = Message(coap.NON, coap.CONTENT, 2, b"t", (), b"on")
        return wire(protect_response(context.sender, exchange, message, to=to, fresh=fresh, include_gid=gid))


def wire(message: Message) -> Message:
    return coap.decode(coap.encode(message))


def registry(context: SecurityContext) -> Registry:
    made = Registry()
    made.install(context, [b"\xe0\x00\x01\xbb"])
    return made


def flags_of(message: Message) -> int:
    value = message.option(coap.OBJECT_SECURITY)
    assert value is not None
    return value[0] if value else 0


@pytest.fixture(params=SUITES, ids=str)
def group(request: pytest.FixtureRequest) -> Group:
    return Group(request.param)


@pytest.fixture
def usual() -> Group:
    return Group(Suite())


def test_who_has_made_a_request(group: Group) -> None:
    message, exchange = group.request()
    assert group.checker().check_request(message) == CheckedRequest(SWITCH, exchange.ids)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("gid", [False, True])
def test_who_has_made_a_response_whatever_it_leaves_out(group: Group, fresh: bool, gid: bool) -> None:
    _, exchange = group.request()
    message = group.response(exchange.ids, by=OTHER, fresh=fresh, gid=gid)
    number = b"\x07" if fresh else None
    assert group.checker().check_response(message, exchange.ids) == CheckedResponse(OTHER, GID, number)


def test_either_form_of_what_is_countersigned_is_accepted(group: Group) -> None:
    request, exchange = group.request()
    response = group.response(exchange.ids)
    for form in (False, True):
        checker = group.checker(sign_protected=form)
        assert checker.check_request(request).sender_id == SWITCH
        assert checker.check_response(response, exchange.ids).sender_id == LAMP


def test_a_response_in_group_mode_to_a_request_in_pairwise_mode(usual: Group) -> None:
    request, exchange = usual.request(to=LAMP)
    checker = usual.checker()
    assert request_ids(checker, request) == exchange.ids
    assert checker.check_response(usual.response(exchange.ids), exchange.ids).sender_id == LAMP


def test_an_answer_under_a_newer_gid_is_bound_to_the_request_under_the_old_one(group: Group) -> None:
    newer = Group(group.suite, NEXT_GID)
    _, exchange = group.request()
    message = newer.response(exchange.ids)
    assert newer.checker().check_response(message, exchange.ids).gid == NEXT_GID
    with refused(Reason.UNKNOWN_GROUP):
        group.checker().check_response(message, exchange.ids)
    with refused(Reason.SIGNATURE_FAILED):
        newer.checker().check_response(message, exchange.ids._replace(gid=NEXT_GID))


def test_pairwise_mode_is_refused_for_what_it_is(usual: Group) -> None:
    checker = usual.checker()
    request, exchange = usual.request(to=LAMP)
    with refused(Reason.NO_COUNTERSIGNATURE):
        checker.check_request(request)
    for fresh in (False, True):
        with refused(Reason.NO_COUNTERSIGNATURE):
            checker.check_response(usual.response(exchange.ids, only=True, fresh=fresh), exchange.ids)


def with_option(message: Message, value: bytes) -> Message:
    options = tuple((number, value if number == coap.OBJECT_SECURITY else old) for number, old in message.options)
    return message._replace(options=options)


def option(message: Message) -> bytes:
    value = message.option(coap.OBJECT_SECURITY)
    assert value is not None
    return value


def test_why_a_request_is_refused(usual: Group) -> None:
    checker = usual.checker()
    message, _ = usual.request()
    value = option(message)
    no_kid = with_option(message, bytes((value[0] & ~0x08,)) + value[1:-1])
    stranger = with_option(message, value[:-1] + b"\x77")
    for changed, reason in (
        (message._replace(code=coap.CONTENT), Reason.MALFORMED),
        (message._replace(payload=b""), Reason.MALFORMED),
        (message._replace(payload=message.payload[:72]), Reason.MALFORMED),
        (message._replace(options=()), Reason.NOT_PROTECTED),
        (no_kid, Reason.MALFORMED),
        (stranger, Reason.UNKNOWN_SENDER),
        (with_option(message, value[:-1] + LAMP), Reason.SIGNATURE_FAILED),
        (with_option(message, value.replace(GID, NEXT_GID)), Reason.UNKNOWN_GROUP),
        (message._replace(payload=message.payload[:-64] + bytes(64)), Reason.SIGNATURE_FAILED),
    ):
        with refused(reason):
            checker.check_request(changed)


def test_why_a_response_is_refused(usual: Group) -> None:
    checker = usual.checker()
    request, exchange = usual.request()
    ids = exchange.ids
    message = usual.response(ids)
    for changed, to, reason in (
        (request, ids, Reason.MALFORMED),
        (message._replace(payload=b""), ids, Reason.MALFORMED),
        (message._replace(payload=message.payload[:72]), ids, Reason.MALFORMED),
        (message._replace(options=()), ids, Reason.NOT_PROTECTED),
        (with_option(message, b"\x20"), ids, Reason.UNKNOWN_SENDER),
        (with_option(message, b"\x20\x01"), ids, Reason.MALFORMED),
        (with_option(message, b"\x28" + SWITCH), ids, Reason.OWN_MESSAGE),
        (with_option(message, b"\x28\x77"), ids, Reason.UNKNOWN_SENDER),
        (with_option(message, b"\x28" + OTHER), ids, Reason.SIGNATURE_FAILED),
        (message, ids._replace(partial_iv=b"\x08"), Reason.SIGNATURE_FAILED),
        (message, ids._replace(kid=OTHER), Reason.SIGNATURE_FAILED),
        (message, ids._replace(gid=NEXT_GID), Reason.BOUND_TO_OTHER_REQUEST),
    ):
        with refused(reason):
            checker.check_response(changed, to)
    with refused(Reason.MALFORMED):
        request_ids(checker, message)
    of_its_own = ids._replace(gid=bytes(bytearray(ids.gid)))  # the same bytes in another object
    assert checker.check_response(message, of_its_own) == checker.check_response(message, ids)


def test_who_was_asked_alone_must_say_who_it_is(usual: Group) -> None:
    """The member that asked knows; a checker does not, unless something else tells."""
    _, exchange = usual.request(to=LAMP)
    context = usual.context(LAMP)
    sender = context.sender
    assert sender is not None
    ids = exchange.ids
    prepared = GROUP_OSCORE.binder(usual.common, ids.kid, ids.gid)(ids.partial_iv)
    nonce = usual.common.nonce(ids.kid, ids.partial_iv)
    header = (None, None, None, True, False)
    value, payload, _, _ = GROUP_OSCORE.seal(sender, sender.channel, prepared, nonce, header, b"\x45")
    message = Message(coap.NON, coap.CHANGED, 2, b"t", ((coap.OBJECT_SECURITY, value),), payload)
    requester = usual.context(SWITCH)
    known = decrypt_response(registry(requester), _as_of(requester, exchange), message)
    assert known.check_signature() is not None
    checker = usual.checker()
    with refused(Reason.UNKNOWN_SENDER):
        checker.check_response(message, ids)
    assert checker.check_response(message, ids, LAMP).sender_id == LAMP  # by its address, for example
    with refused(Reason.SIGNATURE_FAILED):
        checker.check_response(message, ids, OTHER)
    named = usual.response(ids)
    assert checker.check_response(named, ids, OTHER).sender_id == LAMP  # what it says itself counts
    assert set(checker.members) == set(IDS)


def _as_of(context: SecurityContext, exchange: OutgoingExchange) -> OutgoingExchange:
    exchange.context = context
    return exchange


@pytest.mark.parametrize(
    "change",
    [
        {"manager_credential": b"\xa1\x01\x03"},
        {"signature_encryption_key": Secret(bytes(16))},
        {"key_agreement": None},
        {"aead": aead_algorithm(11)},
        {"kdf": Kdf.HKDF_SHA_512},
    ],
    ids=str,
)
def test_everything_that_a_checker_is_given_counts(usual: Group, change: dict[str, Any]) -> None:
    request, exchange = usual.request()
    checker = usual.checker(**change)
    with refused(Reason.SIGNATURE_FAILED):
        checker.check_request(request)
    with refused(Reason.SIGNATURE_FAILED):
        checker.check_response(usual.response(exchange.ids), exchange.ids)


def test_a_members_credential_counts_to_the_byte(usual: Group) -> None:
    other = claims_set(usual.keys[SWITCH].public_key, usual.algorithm, "another name").authenticated
    request, _ = usual.request()
    with refused(Reason.SIGNATURE_FAILED):
        usual.checker(members={SWITCH: (other, usual.keys[SWITCH].public_key)}).check_request(request)


def test_what_cannot_be_a_group_is_refused(usual: Group) -> None:
    for change in (
        {"gid": b""},
        {"manager_credential": b""},
        {"signature_encryption_key": Secret(bytes(15))},
        {"signature_encryption_key": Secret(bytes(17))},
        {"encryption": encryption_algorithm(24)},  # whose key has 32 bytes
    ):
        with pytest.raises(MisuseError):
            usual.checker(**change)


def test_it_shows_no_key(usual: Group) -> None:
    key = usual.common.signature_encryption_key
    assert key is not None
    shown = repr(usual.checker())
    assert shown == f"<SignatureChecker gid={GID.hex()} of 3 members>"
    assert key.reveal().hex() not in shown


# ---- every bit counts


def flips(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]


@pytest.mark.parametrize("suite", [SUITES[0], SUITES[2], SUITES[4]], ids=str)
def test_no_bit_of_option_or_payload_can_be_changed(suite: Suite) -> None:
    group = Group(suite)
    checker = group.checker()
    request, exchange = group.request()
    for value in flips(option(request)):
        with pytest.raises(Rejected):
            checker.check_request(with_option(request, value))
    for payload in flips(request.payload):
        with refused(Reason.SIGNATURE_FAILED):
            checker.check_request(request._replace(payload=payload))
    response = group.response(exchange.ids, fresh=True, gid=True)
    for value in flips(option(response)):
        with pytest.raises(Rejected):
            checker.check_response(with_option(response, value), exchange.ids)
    for payload in flips(response.payload):
        with refused(Reason.SIGNATURE_FAILED):
            checker.check_response(response._replace(payload=payload), exchange.ids)


# ---- the same as a member


def members_verdict(group: Group, message: Message, exchange: OutgoingExchange | None) -> bytes | None:
    """Of whom a member says that this is; None if it refuses it before or with the countersignature. A response is
    judged by the requester, a request by a lamp."""
    try:
        if exchange is None:
            request = decrypt_request(registry(group.context(LAMP)), message, b"\xe0\x00\x01\xbb", 0.0)
            request.check_signature()
            return None if request.pairwise else request.sender_id
        context = group.context(SWITCH)
        response = decrypt_response(registry(context), _as_of(context, exchange), message)
        response.check_signature()
        return None if response.pairwise else response.sender_id
    except Rejected:
        return None


def checkers_verdict(group: Group, message: Message, ids: RequestIds | None) -> bytes | None:
    try:
        if ids is None:
            return group.checker().check_request(message).sender_id
        return group.checker().check_response(message, ids).sender_id
    except Rejected:
        return None


@settings(max_examples=200)
@given(data=st.data())
def test_a_checker_accepts_what_a_member_takes_for_authentic(data: st.DataObject) -> None:
    group = Group(data.draw(st.sampled_from(SUITES)))
    exchange = None
    pairwise = group.common.pairwise and data.draw(st.booleans())
    message, asked = group.request(data.draw(st.sampled_from((coap.GET, coap.PUT))), to=LAMP if pairwise else None)
    if data.draw(st.booleans()):
        exchange = asked
        only = pairwise and data.draw(st.booleans())
        fresh, gid = data.draw(st.booleans()), data.draw(st.booleans())
        message = group.response(
            asked.ids,
            by=data.draw(st.sampled_from((LAMP, OTHER))) if not pairwise else LAMP,
            fresh=fresh,
            only=only,
            gid=gid,
        )
    datagram = coap.encode(message)
    if data.draw(st.booleans()):
        # Behind type and code, of which nothing is protected, nor that a request by multicast is non-confirmable.
        at = data.draw(st.integers(4, len(datagram) - 1))
        datagram = datagram[:at] + data.draw(st.binary(min_size=1, max_size=1)) + datagram[at + 1 :]
    try:
        message = coap.decode(datagram)
    except Rejected:
        return
    ids = None if exchange is None else exchange.ids
    assert checkers_verdict(group, message, ids) == members_verdict(group, message, exchange)


# ---- nothing to read with


def everything(value: object, seen: set[int]) -> Iterator[object]:
    """All that can be reached from an object by its attributes, containers and closures."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    inner: list[object] = []
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, tuple | list | set | frozenset):
        inner = list(value)
    elif callable(value):
        inner = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    else:
        inner = [getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)]
    for each in inner:
        yield from everything(each, seen)


def test_a_checker_holds_no_key_that_decrypts(group: Group) -> None:
    """But the Signature Encryption Key, which no cipher is made from."""
    common = group.common
    contexts = [group.context(kid) for kid in IDS]
    secrets = [common.master_secret, *(context.sender.key for context in contexts if context.sender is not None)]
    forbidden = {secret.reveal() for secret in secrets} | {common.common_iv}
    checker = group.checker()
    held = list(everything(checker, set()))
    held_bytes = {
        each.reveal() if isinstance(each, Secret) else each for each in held if isinstance(each, Secret | bytes)
    }
    key = common.signature_encryption_key
    assert key is not None
    assert key.reveal() in held_bytes  # the search finds what there is
    assert not held_bytes & forbidden
    assert not any(isinstance(each, CommonContext | SecurityContext | SenderContext) for each in held)
    names = {name for name in dir(checker) if not name.startswith("_")}
    assert not {name for name in names if "decrypt" in name or "open" in name or "seal" in name}


def test_its_module_takes_no_cipher_into_its_hands() -> None:
    names = set(vars(checker_module))
    assert not names & {"decrypt_request", "decrypt_response", "Channel", "CommonContext", "SecurityContext"}
