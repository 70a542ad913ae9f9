"""Protecting responses and receiving them: nonces, Gids, order, and who may answer."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CommonContext, CredentialNeeded, SecurityContext, SenderContext
from groupcoap.core.exchange import IncomingExchange, OutgoingExchange
from groupcoap.core.option import decode_prefix
from groupcoap.core.profile import Profile, RequestIds
from groupcoap.core.requests import SignatureState, Trace
from groupcoap.core.responses import DeliveredResponse, decrypt_response, incoming_exchange, protect_response
from groupcoap.core.sequence import MAXIMUM, SequenceNumbers
from groupcoap.core.synchronization import Freshness
from groupcoap.errors import MisuseError, Reason, Rejected, SequenceNumbersExhausted
from support import (
    A128CTR,
    ADDRESS,
    CHACHA20,
    GID,
    LISTENER,
    MULTICASTER,
    NEXT_GID,
    OTHER_LISTENER,
    Node,
    answer,
    attempt,
    collect,
    common_context,
    credential_of,
    deliver,
    install,
    make_node,
    of_group_oscore,
    of_the_draft,
    option_of,
    private_key,
    protect,
    refused,
    renew,
    request,
    response,
    security_context,
    snapshot,
    under_gid,
    with_protection,
)

pytestmark = pytest.mark.usefixtures("profile")

OBSERVE = (coap.OBSERVE, b"")
NOTIFICATION = response(coap.CONTENT, OBSERVE)


def asked(message: Message | None = None) -> tuple[Node, Node, OutgoingExchange, IncomingExchange]:
    """A multicaster, a listener, and both sides of a request between them."""
    sender, listener = make_node(MULTICASTER), make_node(LISTENER, first=20)
    protected = protect(sender, message)
    return sender, listener, protected.exchange, deliver(listener, protected.message).exchange


def observed() -> tuple[Node, Node, OutgoingExchange, IncomingExchange]:
    return asked(request(coap.GET, OBSERVE))


def own_partial_iv(message: Message) -> bytes | None:
    return decode_prefix(option_of(message))[1]


def gid(message: Message) -> bytes | None:
    return decode_prefix(option_of(message))[2]


# ---- which nonce


def test_the_first_response_uses_the_nonce_of_the_request_and_sends_neither_partial_iv_nor_gid() -> None:
    sender, listener, outgoing, incoming = asked()
    traces: list[Trace] = []
    message = answer(listener, incoming, trace=traces.append)
    assert (own_partial_iv(message), gid(message)) == (None, None)
    assert traces[0].nonce == outgoing.nonce
    got = collect(sender, outgoing, message)
    assert (got.sender_id, got.sequence_number, got.gid, got.group) == (LISTENER, None, GID, "lights")
    assert (got.freshness, got.notification) == (Freshness.BOUND, False)
    assert got.message == response()


@pytest.mark.parametrize(
    ("message", "fresh"),
    [
        (response(), True),
        (NOTIFICATION, False),
        (response(coap.FORBIDDEN, (coap.REPEAT, bytes(8))), False),
    ],
    ids=["asked for", "notification", "challenge"],
)
def test_a_fresh_partial_iv_is_sent_and_the_right_to_the_requests_nonce_is_gone(
    message: Message, fresh: bool
) -> None:
    _, listener, _, incoming = observed()
    assert own_partial_iv(answer(listener, incoming, message, fresh=fresh)) == bytes((20,))
    assert own_partial_iv(answer(listener, incoming)) == bytes((21,))


def test_a_second_response_to_one_request_has_a_partial_iv_of_its_own() -> None:
    _, listener, _, incoming = asked()
    assert own_partial_iv(answer(listener, incoming)) is None
    assert [own_partial_iv(answer(listener, incoming)) for _ in range(2)] == [b"\x14", b"\x15"]


def test_after_a_renewal_a_response_has_a_partial_iv_of_its_own_and_carries_its_gid() -> None:
    sender, listener, outgoing, incoming = asked()
    renew(sender, listener)
    message = answer(listener, incoming)
    assert (own_partial_iv(message), gid(message)) == (b"\0", NEXT_GID)
    got = collect(sender, outgoing, message)
    assert (got.gid, got.sender_id, got.sequence_number) == (NEXT_GID, LISTENER, 0)


def test_the_gid_is_sent_where_it_is_asked_for() -> None:
    sender, listener, outgoing, incoming = asked()
    message = answer(listener, incoming, include_gid=True)
    assert (own_partial_iv(message), gid(message)) == (None, GID)
    assert collect(sender, outgoing, message).gid == GID


def test_after_the_window_was_lost_a_replayed_request_cannot_make_a_nonce_repeat() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender)
    assert own_partial_iv(answer(listener, deliver(listener, protected.message).exchange)) is None
    restarted = make_node(LISTENER, intact=False)
    again = deliver(restarted, protected.message).exchange
    assert own_partial_iv(answer(restarted, again, response(payload=b"off"))) is not None


def test_a_listener_sends_only_what_is_needed_unless_it_is_told_to() -> None:
    _, listener, _, incoming = asked()
    message = protect_response(listener.sender, incoming, response())
    assert (own_partial_iv(message), gid(message)) == (None, None)


def test_the_request_s_gid_is_known_by_its_bytes() -> None:
    _, listener, _, incoming = asked()
    incoming.gid = bytes(bytearray(GID))
    message = answer(listener, incoming)
    assert (own_partial_iv(message), gid(message)) == (None, None)


OTHER_GIDS = pytest.mark.parametrize("other", [NEXT_GID, bytes(12)], ids=["next epoch", "new prefix"])


@OTHER_GIDS
def test_after_any_renewal_a_response_carries_its_own_gid(other: bytes) -> None:
    sender, listener, outgoing, incoming = asked()
    renew(sender, listener, gid=other)
    message = answer(listener, incoming)
    assert (own_partial_iv(message), gid(message)) == (b"\0", other)
    assert collect(sender, outgoing, message).gid == other


def test_after_a_renewal_with_another_algorithm_both_sides_bind_the_response_to_it() -> None:
    sender, listener, outgoing, incoming = asked()
    for node in (sender, listener):
        install(node, security_context(node.sender.sender_id, common_context(gid=NEXT_GID, aead=1)))
    assert collect(sender, outgoing, answer(listener, incoming)).gid == NEXT_GID


# ---- what is refused when protecting


@pytest.mark.parametrize("code", [coap.EMPTY, coap.GET, 0x20, 0xE1])
def test_only_responses_are_protected_as_responses(code: int) -> None:
    _, listener, _, incoming = asked()
    with pytest.raises(MisuseError):
        protect_response(listener.sender, incoming, response(code))
    assert incoming.take_request_nonce() is not None


@pytest.mark.parametrize("first", [MAXIMUM + 1, MAXIMUM])
def test_past_the_last_number_nothing_is_sent_not_even_with_the_nonce_of_the_request(first: int) -> None:
    sender = make_node(MULTICASTER)
    listener = make_node(LISTENER, first=first)
    if first == MAXIMUM:
        assert listener.sender.numbers.take() == MAXIMUM
    incoming = deliver(listener, protect(sender).message).exchange
    with pytest.raises(SequenceNumbersExhausted):
        answer(listener, incoming)


def test_our_own_request_is_neither_answered_nor_is_its_answer_ours() -> None:
    sender = make_node(MULTICASTER)
    with pytest.raises(MisuseError, match="own"):
        incoming_exchange(sender.sender, RequestIds(MULTICASTER, b"\x05", GID), may_reuse_nonce=True)


# ---- the low-level seam

IDS = RequestIds(MULTICASTER, b"\x05", GID)


def test_the_bare_triple_of_a_request_makes_an_exchange() -> None:
    listener = make_node(LISTENER)
    exchange = incoming_exchange(listener.sender, IDS, may_reuse_nonce=True)
    assert exchange.ids == IDS
    assert exchange.by_multicast
    assert exchange.take_request_nonce() == listener.context.common.nonce(MULTICASTER, b"\x05")


@pytest.mark.parametrize(
    ("ids", "may_reuse"),
    [(IDS, False), (IDS._replace(gid=NEXT_GID), True), (IDS._replace(gid=bytes(12)), True)],
    ids=["not vouched for", "next epoch", "new prefix"],
)
def test_the_seam_grants_no_nonce_that_could_repeat(ids: RequestIds, may_reuse: bool) -> None:
    exchange = incoming_exchange(make_node(LISTENER).sender, ids, may_reuse_nonce=may_reuse)
    assert exchange.take_request_nonce() is None


@pytest.mark.parametrize(
    "ids", [IDS._replace(partial_iv=b""), IDS._replace(partial_iv=bytes(6)), IDS._replace(kid=bytes(8))]
)
@pytest.mark.parametrize("may_reuse", [True, False])
def test_ids_that_no_request_can_have_are_refused(ids: RequestIds, may_reuse: bool) -> None:
    with pytest.raises(MisuseError):
        incoming_exchange(make_node(LISTENER).sender, ids, may_reuse_nonce=may_reuse)


@OTHER_GIDS
def test_our_id_may_have_been_anothers_under_another_gid_and_ids_are_compared_by_their_bytes(other: bytes) -> None:
    own = b"\x05\x06"
    sender = make_node(own, ids=[own]).sender
    assert incoming_exchange(sender, RequestIds(own, b"\x01", other), may_reuse_nonce=True).ids.kid == own
    for kid in (b"\x05\x05", b"\x05\x07"):
        ids = RequestIds(kid, b"\x01", bytes(bytearray(GID)))
        assert incoming_exchange(sender, ids, may_reuse_nonce=True).take_request_nonce() is not None
    copies = RequestIds(bytes(bytearray(own)), b"\x01", bytes(bytearray(GID)))
    with pytest.raises(MisuseError, match="own"):
        incoming_exchange(sender, copies, may_reuse_nonce=True)


# ---- one Token, many listeners


@of_the_draft
def test_one_request_collects_from_many_listeners_and_from_each_once() -> None:
    sender = make_node(MULTICASTER)
    protected = protect(sender)
    for kid in (LISTENER, OTHER_LISTENER):
        listener = make_node(kid)
        incoming = deliver(listener, protected.message).exchange
        first, second = answer(listener, incoming), answer(listener, incoming)
        assert collect(sender, protected.exchange, first).sender_id == kid
        for again in (first, second):
            with refused(Reason.REPLAY):
                collect(sender, protected.exchange, again)


@of_group_oscore
def test_one_request_collects_from_many_listeners_and_several_answers_of_each_in_order() -> None:
    sender = make_node(MULTICASTER)
    protected = protect(sender)
    for kid in (LISTENER, OTHER_LISTENER):
        listener = make_node(kid)
        incoming = deliver(listener, protected.message).exchange
        first, second, third = (answer(listener, incoming) for _ in range(3))
        got = [collect(sender, protected.exchange, message) for message in (first, third)]
        assert [(response.sender_id, response.sequence_number) for response in got] == [(kid, None), (kid, 1)]
        assert {response.freshness for response in got} == {Freshness.BOUND}
        with refused(Reason.REPLAY):
            collect(sender, protected.exchange, first)
        for old in (second, third):
            with refused(Reason.NOTIFICATION_ORDER):
                collect(sender, protected.exchange, old)


@of_group_oscore
@pytest.mark.parametrize("observe", [False, True], ids=["plain", "observed"])
def test_of_whom_was_asked_alone_one_answer_is_taken_unless_it_observes(observe: bool) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender, request(coap.GET, *([OBSERVE] if observe else [])), to=LISTENER)
    incoming = deliver(listener, protected.message).exchange
    first, second = answer(listener, incoming, pairwise=True), answer(listener, incoming, pairwise=True)
    collect(sender, protected.exchange, first)
    if observe:
        assert collect(sender, protected.exchange, second).sequence_number == 0
    else:
        with refused(Reason.REPLAY):
            collect(sender, protected.exchange, second)


@of_group_oscore
def test_who_answers_under_another_id_than_before_is_refused() -> None:
    """The Endpoint ID must not change within a long exchange (§7.4): Response Numbers are kept by it."""
    sender = make_node(MULTICASTER)
    protected = protect(sender)
    listener = make_node(LISTENER)
    incoming = deliver(listener, protected.message).exchange
    collect(sender, protected.exchange, answer(listener, incoming))
    key = private_key(LISTENER)
    sender.context.learn(b"\x77", key.public_key, credential_of(LISTENER))
    common = listener.context.common
    listener.context.sender = SenderContext(common, b"\x77", key, SequenceNumbers(), credential_of(LISTENER))
    renamed = answer(listener, incoming)
    with pytest.raises(Rejected, match="has changed") as caught:
        collect(sender, protected.exchange, renamed)
    assert caught.value.reason is Reason.OTHER_RESPONDER
    assert protected.exchange._answered == {LISTENER}


def test_of_two_copies_under_way_at_once_one_is_delivered() -> None:
    sender, listener, outgoing, incoming = asked()
    message = answer(listener, incoming)
    copies = [decrypt_response(sender.registry, outgoing, message).check_signature() for _ in range(2)]
    copies[0].accept()
    with refused(Reason.REPLAY):
        copies[1].accept()


def test_an_unprotected_response_is_no_answer_and_ends_nothing() -> None:
    sender, listener, outgoing, incoming = asked()
    for code in (coap.CONTENT, coap.UNAUTHORIZED):
        with refused(Reason.NOT_PROTECTED):
            collect(sender, outgoing, response(code))
    assert collect(sender, outgoing, answer(listener, incoming)).message == response()


def test_a_response_to_another_request_does_not_decrypt() -> None:
    sender, listener, _, incoming = asked()
    other = protect(sender).exchange
    with refused(Reason.DECRYPTION_FAILED):
        collect(sender, other, answer(listener, incoming))
    with refused(Reason.DECRYPTION_FAILED):
        collect(sender, other, answer(listener, incoming, fresh=True))


@pytest.mark.parametrize("payload", [None, bytes(100)], ids=["authentic", "forged"])
@pytest.mark.parametrize(
    ("code", "what"), [(coap.EMPTY, "empty message"), (coap.GET, "no ciphertext"), (0xE1, "no ciphertext")]
)
def test_a_code_that_is_no_response_is_malformed(code: int, what: str, payload: bytes | None) -> None:
    sender, listener, outgoing, incoming = asked()
    message = answer(listener, incoming)
    with pytest.raises(Rejected, match=what) as caught:
        collect(sender, outgoing, message._replace(code=code, payload=payload or message.payload))
    assert caught.value.reason is Reason.MALFORMED


def test_a_response_without_a_payload_is_malformed() -> None:
    sender, listener, outgoing, incoming = asked()
    with pytest.raises(Rejected, match="no ciphertext") as caught:
        collect(sender, outgoing, answer(listener, incoming)._replace(payload=b""))
    assert caught.value.reason is Reason.MALFORMED


def test_a_repetition_is_rejected_before_it_is_decrypted() -> None:
    sender, listener, outgoing, incoming = asked()
    message = answer(listener, incoming)
    collect(sender, outgoing, message)
    with refused(Reason.REPLAY):
        collect(sender, outgoing, message._replace(payload=bytes(100)))


@pytest.mark.parametrize("kid", [b"", b"\0", b"\x00\x01", b"\xff"], ids=bytes.hex)
def test_a_listener_may_have_any_id_but_the_multicasters(kid: bytes) -> None:
    sender, listener = make_node(MULTICASTER, ids=[kid]), make_node(kid)
    protected = protect(sender)
    reply = answer(listener, deliver(listener, protected.message).exchange)
    assert collect(sender, protected.exchange, reply).sender_id == kid


def test_what_a_proxy_adds_outside_makes_no_notification_of_an_answer() -> None:
    sender, listener, outgoing, incoming = asked()
    message = answer(listener, incoming)
    dressed = message._replace(options=(*message.options, (coap.MAX_AGE, b"\x3c")))
    assert collect(sender, outgoing, dressed).message == response()


def test_a_request_sent_back_as_its_own_answer_is_refused() -> None:
    sender, _, outgoing, _ = asked()
    reflected = protect(sender)
    message = reflected.message._replace(code=coap.CHANGED)
    with refused(Reason.OWN_MESSAGE):
        collect(sender, outgoing, message)


def test_what_we_sent_under_an_id_that_we_no_longer_have_is_no_answer_either() -> None:
    own = b"\x01\x02"
    sender = make_node(own)
    outgoing, reflected = protect(sender).exchange, protect(sender).message._replace(code=coap.CHANGED)
    common, credential = sender.context.common, credential_of(b"\x77")
    sender.context.sender = SenderContext(common, b"\x77", private_key(b"\x77"), SequenceNumbers(), credential)
    with refused(Reason.OWN_MESSAGE):
        collect(sender, outgoing, reflected)


def test_a_departed_listener_is_no_listener() -> None:
    sender, listener, outgoing, incoming = asked()
    message = answer(listener, incoming)
    sender.context.depart([LISTENER])
    with refused(Reason.UNKNOWN_SENDER):
        collect(sender, outgoing, message)


def test_a_response_under_way_when_its_listener_leaves_is_rejected_and_changes_nothing() -> None:
    sender, listener, outgoing, incoming = asked()
    under_way = decrypt_response(sender.registry, outgoing, answer(listener, incoming)).check_signature()
    sender.context.depart([LISTENER])
    before = snapshot(sender)
    with refused(Reason.UNKNOWN_SENDER):
        under_way.accept()
    assert snapshot(sender) == before
    assert not outgoing._answered


# ---- signatures


@pytest.mark.parametrize("pairwise", [False, True], ids=["group", "pairwise"])
def test_nothing_before_acceptance_shows_the_message_or_changes_anything(profile: Profile, pairwise: bool) -> None:
    sender, listener, outgoing, incoming = asked()
    before = snapshot(sender)
    message = answer(listener, incoming, pairwise=pairwise and profile.rules.pairwise)
    decrypted = decrypt_response(sender.registry, outgoing, message)
    assert decrypted.pairwise is (pairwise and profile.rules.pairwise)
    authentic = decrypted.check_signature()
    for stage in (decrypted, authentic):
        assert not [name for name in dir(stage) if not name.startswith("_") and "message" in name.lower()]
    assert not hasattr(decrypted, "accept")
    assert decrypted.sender_id == LISTENER
    assert decrypted.public_key is not None
    assert decrypted.for_onlooker() == response()
    assert snapshot(sender) == before
    authentic.accept()
    assert list(sender.context._answering) == [LISTENER]


def test_a_member_that_answers_as_another_fails_by_its_signature() -> None:
    sender, listener, outgoing, incoming = asked()
    listener.sender.private_key = private_key(OTHER_LISTENER)
    before = snapshot(sender)
    with refused(Reason.SIGNATURE_FAILED):
        collect(sender, outgoing, answer(listener, incoming))
    assert snapshot(sender) == before


@of_group_oscore
@pytest.mark.parametrize("pairwise", [False, True], ids=["group", "pairwise"])
def test_without_the_credential_nothing_is_decrypted_until_it_was_looked_up(pairwise: bool) -> None:
    sender, listener = make_node(MULTICASTER, ids=()), make_node(LISTENER)
    protected = protect(sender)
    incoming = deliver(listener, protected.message).exchange
    message = answer(listener, incoming, pairwise=pairwise)
    with pytest.raises(CredentialNeeded) as caught:
        decrypt_response(sender.registry, protected.exchange, message)
    assert (caught.value.context, caught.value.sender_id) == (sender.context, LISTENER)
    sender.context.learn(LISTENER, private_key(OTHER_LISTENER).public_key, credential_of(OTHER_LISTENER))
    with refused(Reason.DECRYPTION_FAILED):
        collect(sender, protected.exchange, message)
    sender.context.learn(LISTENER, private_key(LISTENER).public_key, credential_of(LISTENER))
    if not pairwise:
        decrypted = decrypt_response(sender.registry, protected.exchange, message)
        with refused(Reason.SIGNATURE_FAILED):
            decrypted.check_signature(private_key(OTHER_LISTENER).public_key)
    assert collect(sender, protected.exchange, message).message == response()


@of_the_draft
def test_without_the_public_key_there_is_no_answer_until_it_was_looked_up() -> None:
    sender = make_node(MULTICASTER, ids=())
    listener = make_node(LISTENER)
    protected = protect(sender)
    message = answer(listener, deliver(listener, protected.message).exchange)
    decrypted = decrypt_response(sender.registry, protected.exchange, message)
    assert decrypted.public_key is None
    with refused(Reason.NO_PUBLIC_KEY):
        decrypted.check_signature()
    with refused(Reason.SIGNATURE_FAILED):
        decrypted.check_signature(private_key(OTHER_LISTENER).public_key)
    assert decrypted.check_signature(private_key(LISTENER).public_key).accept().sender_id == LISTENER


# ---- modes (Group OSCORE §7.3, §7.4, §8.5, §8.6)

MODES = pytest.mark.parametrize(
    ("asked_alone", "alone"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["group, group", "group, pairwise", "pairwise, group", "pairwise, pairwise"],
)
# AES-CCM has nonces of 13 bytes, ChaCha20/Poly1305 and counter mode of 12
ENCRYPTIONS = pytest.mark.parametrize(
    ("aead", "encryption"), [(10, 10), (10, CHACHA20), (CHACHA20, 10), (10, A128CTR), (12, 10)]
)


def asked_in(
    asked_alone: bool, common: CommonContext | None = None, message: Message | None = None
) -> tuple[Node, Node, OutgoingExchange, IncomingExchange]:
    """As `asked`, in either mode."""
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common, first=20)
    protected = protect(sender, message, to=LISTENER if asked_alone else None)
    return sender, listener, protected.exchange, deliver(listener, protected.message).exchange


@of_group_oscore
@MODES
@ENCRYPTIONS
def test_all_four_mixes_of_modes_with_the_requests_nonce_and_without(
    aead: int, encryption: int, asked_alone: bool, alone: bool
) -> None:
    common = common_context(aead=aead, group_encryption=encryption)
    sender, listener, outgoing, incoming = asked_in(asked_alone, common, request(coap.GET, OBSERVE))
    traces: list[Trace] = []
    sent = [
        answer(listener, incoming, response(payload=bytes((n,))), pairwise=alone, trace=traces.append)
        for n in range(3)
    ]
    assert [own_partial_iv(message) for message in sent] == [None, b"\x14", b"\x15"]
    used = common.aead if alone else common.encryption
    assert used is not None
    length = used.nonce_length
    assert [trace.nonce for trace in traces] == [
        common.nonce(MULTICASTER, b"\0", length),
        common.nonce(LISTENER, b"\x14", length),
        common.nonce(LISTENER, b"\x15", length),
    ]
    state = SignatureState.PAIRWISE if alone else SignatureState.VERIFIED
    for number, message in enumerate(sent):
        got = collect(sender, outgoing, message)
        assert (got.message.payload, got.signature, got.sender_id) == (bytes((number,)), state, LISTENER)


@of_group_oscore
@MODES
def test_the_kid_is_left_out_only_where_both_know_who_answers(asked_alone: bool, alone: bool) -> None:
    """Always there in answers to a request in group mode (§3.2)."""
    sender, listener, outgoing, incoming = asked_in(asked_alone)
    message = answer(listener, incoming, pairwise=alone)
    expected = {
        (False, False): b"\x28\x52",
        (False, True): b"\x08\x52",
        (True, False): b"\x28\x52",
        (True, True): b"",
    }
    assert option_of(message) == expected[asked_alone, alone]
    assert collect(sender, outgoing, message).sender_id == LISTENER


@of_group_oscore
def test_an_answer_in_group_mode_may_leave_its_kid_out_if_its_sender_was_asked_alone() -> None:
    """Ours does not, others may (§7.4)."""
    sender, listener, outgoing, incoming = asked_in(True)
    right = incoming.take_request_nonce()
    assert right is not None
    profile, own = listener.context.common.profile, listener.sender
    prepared = profile.binder(own.common, MULTICASTER, GID)(incoming.partial_iv)
    plaintext = profile.split(response())[2]
    option, payload, *_ = profile.seal(
        own, own.channel, prepared, right, (None, None, None, True, False), plaintext
    )
    assert option == b"\x20"
    message = response(coap.CHANGED, (coap.OBJECT_SECURITY, option), payload=payload)
    with refused(Reason.MALFORMED):
        collect(sender, protect(sender).exchange, message)
    got = collect(sender, outgoing, message)
    assert (got.sender_id, got.message) == (LISTENER, response())


@of_group_oscore
def test_an_answer_in_pairwise_mode_without_a_kid_answers_no_request_to_the_group() -> None:
    sender, _, outgoing, _ = asked_in(False)
    for option in (b"", b"\x20", b"\x01\x05"):
        bare = response(coap.CHANGED, (coap.OBJECT_SECURITY, option), payload=bytes(100))
        with pytest.raises(Rejected, match="no kid") as caught:
            collect(sender, outgoing, bare)
        assert caught.value.reason is Reason.MALFORMED


@of_group_oscore
@pytest.mark.parametrize("alone", [False, True], ids=["group", "pairwise"])
def test_who_was_not_asked_does_not_answer(alone: bool) -> None:
    """Not even by an honest answer to the very request (as it would be, were the message for the group)."""
    sender, _, outgoing, _ = asked_in(True)
    other = make_node(OTHER_LISTENER)
    exchange = incoming_exchange(other.sender, outgoing.ids, may_reuse_nonce=False, pairwise=not alone)
    before = snapshot(sender)
    with refused(Reason.OTHER_RESPONDER):
        collect(sender, outgoing, answer(other, exchange, pairwise=alone))
    silent = incoming_exchange(other.sender, outgoing.ids, may_reuse_nonce=True, pairwise=True)
    with refused(Reason.DECRYPTION_FAILED):  # without a kid it is taken for the listener's
        collect(sender, outgoing, answer(other, silent, pairwise=True))
    assert snapshot(sender) == before
    assert not outgoing._answered


@of_group_oscore
def test_who_was_asked_alone_may_have_another_id_after_a_renewal_and_is_known_by_its_key() -> None:
    sender, listener, outgoing, incoming = asked_in(True)
    common = common_context(gid=NEXT_GID)
    install(sender, security_context(MULTICASTER, common, ids=(OTHER_LISTENER,)))
    key, credential = private_key(LISTENER), credential_of(LISTENER)
    own = SenderContext(common, b"\x77", key, SequenceNumbers(), credential)
    keys, credentials = (
        {MULTICASTER: private_key(MULTICASTER).public_key},
        {MULTICASTER: credential_of(MULTICASTER)},
    )
    install(listener, SecurityContext("lights", common, own, keys, credentials=credentials))
    message = answer(listener, incoming, pairwise=True)
    with refused(Reason.OTHER_RESPONDER):
        collect(sender, outgoing, message)
    sender.context.learn(b"\x77", key.public_key, credential)
    got = collect(sender, outgoing, message)
    assert (got.sender_id, got.gid, got.signature) == (b"\x77", NEXT_GID, SignatureState.PAIRWISE)


@of_group_oscore
def test_what_cannot_be_answered_in_pairwise_mode_costs_no_number_and_no_nonce() -> None:
    common = common_context(pairwise=False)
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common)
    incoming = deliver(listener, protect(sender).message).exchange
    with pytest.raises(MisuseError, match="pairwise mode"):
        answer(listener, incoming, pairwise=True)
    assert own_partial_iv(answer(listener, incoming)) is None
    assert own_partial_iv(answer(listener, incoming)) == b"\0"


# ---- counter mode (Group OSCORE §2.1.7)


@of_group_oscore
def test_in_counter_mode_no_answer_is_read_before_its_signature_is_verified() -> None:
    common = common_context(group_encryption=A128CTR)
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common)
    protected = protect(sender)
    message = answer(listener, deliver(listener, protected.message).exchange)
    decrypted = decrypt_response(sender.registry, protected.exchange, message)
    assert (decrypted._inside, decrypted._closed[0]) == (None, None)
    flipped = message._replace(payload=bytes((message.payload[0] ^ 1,)) + message.payload[1:])
    forged = decrypt_response(sender.registry, protected.exchange, flipped)
    with refused(Reason.SIGNATURE_FAILED):
        forged.check_signature()
    assert forged._inside is None
    assert decrypted.for_onlooker() == response()
    assert decrypted.check_signature().accept().message == response()


# ---- the Gid of a response


@of_group_oscore
@pytest.mark.parametrize("alone", [False, True], ids=["group", "pairwise"])
@pytest.mark.parametrize("newer", [False, True], ids=["under the older", "under the newer"])
def test_without_a_gid_an_answer_is_tried_under_the_newer_context_then_the_older(newer: bool, alone: bool) -> None:
    """Only the first answer after a renewal must say so (§7.3)."""
    sender, listener, outgoing, incoming = asked_in(False)
    collect(sender, outgoing, answer(listener, incoming, pairwise=alone))
    if newer:
        renew(sender, listener)
        incoming.gid = NEXT_GID  # what makes ours leave the Gid out; it stays the old one in the AAD
        profile, common = listener.context.common.profile, listener.context.common
        own = listener.sender
        prepared = profile.binder(common, MULTICASTER, GID)(incoming.partial_iv)
        to = listener.context.pairwise(listener.context.recipient(MULTICASTER)).outgoing if alone else None
        channel = to or own.channel
        nonce = common.nonce(LISTENER, b"\0", channel.nonce_length)
        header = (b"\0", None, LISTENER, True, alone)
        option, payload, *_ = profile.seal(
            own, channel, prepared, nonce, header, profile.split(response(payload=b"new"))[2]
        )
        message = response(coap.CHANGED, (coap.OBJECT_SECURITY, option), payload=payload)
    else:
        message = answer(listener, incoming, response(payload=b"new"), pairwise=alone)
        renew(sender)
    assert gid(message) is None
    got = collect(sender, outgoing, message)
    assert (got.message.payload, got.gid) == (b"new", NEXT_GID if newer else GID)
    with refused(Reason.NOTIFICATION_ORDER):
        collect(sender, outgoing, message)


@of_group_oscore
def test_in_counter_mode_the_signature_tells_under_which_context_an_answer_is() -> None:
    common = common_context(group_encryption=A128CTR)
    sender, listener, outgoing, incoming = asked_in(False, common)
    collect(sender, outgoing, answer(listener, incoming))
    late = answer(listener, incoming)
    renew(sender)
    assert (gid(late), collect(sender, outgoing, late).gid) == (None, GID)


@of_group_oscore
def test_where_a_credential_may_help_it_is_asked_for_before_an_answer_is_given_up() -> None:
    """After a renewal that the multicaster knows no credentials of yet."""
    sender, listener, outgoing, incoming = asked_in(False)
    collect(sender, outgoing, answer(listener, incoming))
    late = answer(listener, incoming)
    install(sender, security_context(MULTICASTER, common_context(gid=NEXT_GID), ids=()))
    forged = late._replace(payload=bytes(100))
    with pytest.raises(CredentialNeeded) as caught:
        collect(sender, outgoing, forged)
    assert caught.value.context is sender.context
    assert collect(sender, outgoing, late).gid == GID


@of_group_oscore
def test_response_numbers_begin_again_with_a_renewal_and_the_older_context_is_over() -> None:
    sender, listener, outgoing, incoming = asked_in(False)
    for expected in (None, 20):
        assert collect(sender, outgoing, answer(listener, incoming)).sequence_number == expected
    late = answer(listener, incoming)
    renew(sender, listener)
    first, second = answer(listener, incoming), answer(listener, incoming)
    assert [gid(message) for message in (first, second)] == [NEXT_GID, NEXT_GID]
    assert collect(sender, outgoing, first).sequence_number == 0
    for old in (late, first):
        with refused(Reason.NOTIFICATION_ORDER):
            collect(sender, outgoing, old)
    assert collect(sender, outgoing, second).sequence_number == 1


# ---- Observe inside and outside (Group OSCORE §7.5; RFC 8613 §4.1.3.5)


@of_group_oscore
def test_what_is_observed_is_said_inside_and_what_is_outside_changes_nothing() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender, request(coap.GET, (coap.OBSERVE, b"")))
    assert protected.message.option(coap.OBSERVE) == b""
    stripped = tuple(option for option in protected.message.options if option[0] != coap.OBSERVE)
    got = deliver(listener, protected.message._replace(options=stripped, code=coap.POST))
    assert got.message.option(coap.OBSERVE) == b""
    notification = answer(listener, got.exchange, response(coap.CONTENT, (coap.OBSERVE, b"\x07")))
    outer = notification.option(coap.OBSERVE)
    assert outer == b"\x07"
    assert (notification.code, own_partial_iv(notification)) == (coap.CONTENT, b"\0")
    changed = tuple((n, b"\x09" if n == coap.OBSERVE else value) for n, value in notification.options)
    taken = collect(sender, protected.exchange, notification._replace(options=changed))
    assert (taken.message.option(coap.OBSERVE), taken.notification) == (b"", True)


@of_group_oscore
def test_an_outer_observe_alone_makes_neither_an_observation_nor_a_notification() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender)
    dressed = protected.message._replace(options=(OBSERVE, *protected.message.options), code=coap.FETCH)
    got = deliver(listener, dressed)
    assert got.message == request()
    message = answer(listener, got.exchange)
    taken = collect(sender, protected.exchange, message._replace(options=(OBSERVE, *message.options)))
    assert (taken.notification, taken.message, taken.freshness) == (False, response(), Freshness.BOUND)


@of_group_oscore
@pytest.mark.parametrize("alone", [False, True], ids=["group", "pairwise"])
def test_a_first_notification_without_a_partial_iv_is_taken_once_and_is_the_oldest(alone: bool) -> None:
    """Ours sends one; others need not (§5.3.1)."""
    sender, listener, outgoing, incoming = asked_in(False, message=request(coap.GET, OBSERVE))
    nonce = incoming.take_request_nonce()
    assert nonce is not None
    profile, own = listener.context.common.profile, listener.sender
    prepared = profile.binder(own.common, MULTICASTER, GID)(incoming.partial_iv)
    plaintext = profile.split(NOTIFICATION)[2]
    channel = listener.context.pairwise(listener.context.recipient(MULTICASTER)).outgoing if alone else own.channel
    option, payload, *_ = profile.seal(
        own, channel, prepared, nonce, (None, None, LISTENER, True, alone), plaintext
    )
    bare = response(coap.CONTENT, (coap.OBJECT_SECURITY, option), payload=payload)
    got = collect(sender, outgoing, bare)
    assert (got.notification, got.sequence_number, got.freshness) == (True, None, Freshness.ORDERED)
    with refused(Reason.REPLAY):
        collect(sender, outgoing, bare)
    assert collect(sender, outgoing, answer(listener, incoming, NOTIFICATION)).sequence_number == 20


@of_group_oscore
def test_a_notification_with_a_number_is_newer_than_one_without() -> None:
    sender, listener, outgoing, incoming = asked_in(False, message=request(coap.GET, OBSERVE))
    oldest = answer(listener, incoming)
    collect(sender, outgoing, answer(listener, incoming, NOTIFICATION))
    with refused(Reason.REPLAY):
        collect(sender, outgoing, oldest)


# ---- the Gid of any response


def test_a_response_under_the_gid_of_the_request_counts_after_the_multicaster_has_renewed() -> None:
    sender, listener, outgoing, incoming = asked()
    message = answer(listener, incoming, include_gid=True)
    renew(sender)
    got = collect(sender, outgoing, message)
    assert got.gid == GID


def test_a_gid_that_is_neither_the_requests_nor_current_is_refused() -> None:
    sender, listener, outgoing, incoming = asked()
    unknown = answer(listener, incoming, include_gid=True)
    option = option_of(unknown)
    stranger = with_protection(unknown, option.replace(GID, b"\xee" * len(GID)), unknown.payload)
    with refused(Reason.UNKNOWN_GROUP):
        collect(sender, outgoing, stranger)
    renew(listener)
    under_next = answer(listener, incoming)
    renew(sender)
    renew(sender, gid=b"\x77" * 12)
    with refused(Reason.UNKNOWN_GROUP):  # NEXT_GID is live here, but no longer current
        collect(sender, outgoing, under_next)


def test_a_gid_of_another_group_is_refused() -> None:
    sender, _, outgoing, _ = asked()
    other = security_context(MULTICASTER, common_context(gid=NEXT_GID), group="doors")
    install(sender, other)
    elsewhere = make_node(LISTENER, common_context(gid=NEXT_GID))
    exchange = incoming_exchange(elsewhere.sender, outgoing.ids, may_reuse_nonce=False)
    with refused(Reason.UNKNOWN_GROUP):
        collect(sender, outgoing, answer(elsewhere, exchange))


def test_another_gid_without_a_partial_iv_is_refused() -> None:
    sender, listener, outgoing, incoming = asked()
    message = answer(listener, incoming, include_gid=True)
    renew(sender)
    other = with_protection(message, option_of(message).replace(GID, NEXT_GID), message.payload)
    with refused(Reason.BOUND_TO_OTHER_REQUEST):
        collect(sender, outgoing, other)


# ---- observing


def test_notifications_come_in_order_and_say_so() -> None:
    sender, listener, outgoing, incoming = observed()
    first, second, third = (answer(listener, incoming, NOTIFICATION) for _ in range(3))
    got = collect(sender, outgoing, first)
    assert (got.notification, got.freshness, got.sequence_number) == (True, Freshness.ORDERED, 20)
    assert collect(sender, outgoing, third).sequence_number == 22
    for old in (first, second, third):
        with refused(Reason.NOTIFICATION_ORDER):
            collect(sender, outgoing, old)


def test_a_notification_whose_observe_a_proxy_stripped_is_still_checked_for_order() -> None:
    sender, listener, outgoing, incoming = observed()
    first, second = (answer(listener, incoming, NOTIFICATION) for _ in range(2))
    stripped = tuple(option for option in first.options if option[0] != coap.OBSERVE)
    collect(sender, outgoing, second)
    with refused(Reason.NOTIFICATION_ORDER):
        collect(sender, outgoing, first._replace(options=stripped))


@of_the_draft
def test_a_notification_without_a_partial_iv_is_malformed() -> None:
    sender, listener, outgoing, incoming = observed()
    plain = answer(listener, incoming)
    for payload in (plain.payload, bytes(40)):
        with refused(Reason.MALFORMED):
            collect(sender, outgoing, plain._replace(options=(OBSERVE, *plain.options), payload=payload))


@of_the_draft
def test_a_challenge_without_a_partial_iv_is_malformed() -> None:
    sender, listener, outgoing, incoming = asked()
    nonce = incoming.take_request_nonce()
    assert nonce is not None
    profile, common = listener.context.common.profile, listener.context.common
    plaintext = bytes((coap.FORBIDDEN,)) + coap.encode_options(((coap.REPEAT, bytes(8)),))
    prepared = profile.binder(common, *incoming.ids[::2])(incoming.ids.partial_iv)
    header = (None, None, listener.sender.sender_id, True, False)
    sender_context = listener.sender
    option, payload, *_ = profile.seal(sender_context, sender_context.channel, prepared, nonce, header, plaintext)
    message = Message(coap.NON, coap.CHANGED, 1, b"\x70\x07", ((coap.OBJECT_SECURITY, option),), payload)
    with refused(Reason.MALFORMED):
        collect(sender, outgoing, message)


@of_the_draft
def test_a_notification_to_a_request_that_observes_nothing_is_refused_undecrypted() -> None:
    """By its outer Observe; where that says nothing, it is the inner one that counts."""
    sender, listener, outgoing, incoming = asked()
    forged = answer(listener, incoming, NOTIFICATION)._replace(payload=bytes(100))
    with refused(Reason.NOT_OBSERVED):
        collect(sender, outgoing, forged)


def test_a_notification_to_a_request_that_observes_nothing_is_refused() -> None:
    sender, listener, outgoing, incoming = asked()
    with refused(Reason.NOT_OBSERVED):
        collect(sender, outgoing, answer(listener, incoming, NOTIFICATION))


def test_an_observation_goes_on_under_the_renewed_context_and_not_back() -> None:
    sender, listener, outgoing, incoming = observed()
    old_context = listener.context
    collect(sender, outgoing, answer(listener, incoming, NOTIFICATION))
    late = answer(listener, incoming, NOTIFICATION)
    renew(sender, listener)
    first = collect(sender, outgoing, answer(listener, incoming, NOTIFICATION))
    assert (first.gid, first.sequence_number) == (NEXT_GID, 0)
    with refused(Reason.NOTIFICATION_ORDER):
        collect(sender, outgoing, late)
    assert collect(sender, outgoing, answer(listener, incoming, NOTIFICATION)).sequence_number == 1
    assert not old_context.current


def test_who_left_with_a_renewal_notifies_no_more() -> None:
    sender, listener, outgoing, incoming = observed()
    collect(sender, outgoing, answer(listener, incoming, NOTIFICATION))
    renew(sender)
    for context in sender.contexts:
        context.depart([LISTENER])
    with refused(Reason.UNKNOWN_SENDER):
        collect(sender, outgoing, answer(listener, incoming, NOTIFICATION))


@given(st.lists(st.integers(0, 9), max_size=20))
def test_whatever_order_notifications_arrive_in_numbers_only_rise(order: list[int]) -> None:
    sender, listener, outgoing, incoming = observed()
    sent = [answer(listener, incoming, NOTIFICATION) for _ in range(10)]
    newest = -1
    for index in order:
        outcome = attempt(partial(collect, sender, outgoing, sent[index]))
        if index + 20 > newest:
            assert isinstance(outcome, DeliveredResponse)
            assert outcome.sequence_number == index + 20
        else:
            assert outcome is Reason.NOTIFICATION_ORDER
        newest = max(newest, index + 20)


def test_an_old_notification_under_way_when_a_newer_gid_has_spoken_leaves_no_trace() -> None:
    sender, listener, outgoing, incoming = observed()
    late = answer(listener, incoming, NOTIFICATION)
    under_way = decrypt_response(sender.registry, outgoing, late).check_signature()
    renew(sender, listener)
    collect(sender, outgoing, answer(listener, incoming, NOTIFICATION))
    before = snapshot(sender)
    with refused(Reason.NOTIFICATION_ORDER):
        under_way.accept()
    assert snapshot(sender) == before


# ---- past its lifetime, and under another Endpoint ID


def test_past_its_lifetime_no_answer_is_taken() -> None:
    sender, listener, outgoing, incoming = asked()
    message = answer(listener, incoming)
    sender.context.suspend()
    before = snapshot(sender)
    with refused(Reason.CONTEXT_EXPIRED):
        decrypt_response(sender.registry, outgoing, message)
    assert snapshot(sender) == before
    sender.context.resume()
    assert collect(sender, outgoing, message).sender_id == LISTENER


def test_an_answer_under_way_when_the_lifetime_ends_is_refused() -> None:
    sender, listener, outgoing, incoming = asked()
    under_way = decrypt_response(sender.registry, outgoing, answer(listener, incoming)).check_signature()
    sender.context.suspend()
    with refused(Reason.CONTEXT_EXPIRED):
        under_way.accept()
    sender.context.resume()
    assert under_way.accept().sender_id == LISTENER


@pytest.mark.parametrize("with_gid", [True, False])
def test_under_a_renewed_context_past_its_lifetime_no_answer_is_taken(with_gid: bool) -> None:
    sender, listener, outgoing, incoming = asked()
    late = answer(listener, incoming, include_gid=with_gid)
    renew(sender, listener)
    renewed = answer(listener, incoming)
    for context in sender.contexts:
        context.suspend()
    for message in (late, renewed):
        with refused(Reason.CONTEXT_EXPIRED):
            collect(sender, outgoing, message)


def with_another_id(node: Node, own_id: bytes = b"\x5e") -> None:
    """This endpoint gets another Endpoint ID under the same Gid."""
    former = node.sender
    context = node.context
    numbers = SequenceNumbers()
    context.renew_sender(SenderContext(context.common, own_id, former.private_key, numbers, former.credential))


@pytest.mark.parametrize("alone", [False, True], ids=["group mode", "pairwise"])
def test_answers_to_a_request_under_the_former_own_id_are_verified(profile: Profile, alone: bool) -> None:
    if alone and not profile.rules.pairwise:
        return
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender, to=LISTENER if alone else None)
    incoming = deliver(listener, protected.message, destination=None if alone else ADDRESS).exchange
    with_another_id(sender)
    for message in (answer(listener, incoming, pairwise=alone),):
        assert collect(sender, protected.exchange, message).sender_id == LISTENER
    assert protected.exchange.ids.kid == MULTICASTER


def test_an_own_answer_under_the_former_id_is_still_no_answer() -> None:
    sender, _, outgoing, incoming = asked()
    mirrored = answer(make_node(MULTICASTER), incoming)
    with_another_id(sender)
    with refused(Reason.OWN_MESSAGE):
        collect(sender, outgoing, mirrored)


def test_requests_that_came_under_the_former_own_id_are_still_answered() -> None:
    sender, listener, outgoing, incoming = asked()
    second = protect(sender)
    unanswered = deliver(listener, second.message).exchange
    answer(listener, incoming)  # takes the right to the request's nonce, under the former key
    with_another_id(listener)
    sender.context.learn(b"\x5e", private_key(LISTENER).public_key, credential_of(LISTENER))
    again = answer(listener, incoming)
    assert own_partial_iv(again) == b"\0"
    assert collect(sender, outgoing, again).sender_id == b"\x5e"
    first = answer(listener, unanswered)
    assert own_partial_iv(first) is None  # nobody has used that nonce with the new key, nor will
    assert collect(sender, second.exchange, first).sender_id == b"\x5e"


# ---- who has left


@pytest.mark.parametrize("alone", [False, True], ids=["group mode", "pairwise"])
@pytest.mark.parametrize("renewed", [False, True])
def test_who_has_left_answers_nothing_that_was_asked_before(profile: Profile, alone: bool, renewed: bool) -> None:
    if alone and not profile.rules.pairwise:
        return
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender, to=LISTENER if alone else None)
    incoming = deliver(listener, protected.message, destination=None if alone else ADDRESS).exchange
    late = answer(listener, incoming, pairwise=alone)
    if renewed:
        renew(sender)
    for context in sender.contexts:
        context.depart([LISTENER])
    with refused(Reason.UNKNOWN_SENDER):
        collect(sender, protected.exchange, late)


def test_an_id_that_left_and_was_given_to_a_newcomer_answers_under_the_new_gid_alone() -> None:
    sender, listener, outgoing, incoming = asked()
    late = answer(listener, incoming)
    renew(sender)
    sender.contexts[0].depart([LISTENER])
    newcomer = make_node(LISTENER, under_gid(sender.contexts[0].common, NEXT_GID))
    theirs = answer(newcomer, incoming)
    with refused(Reason.UNKNOWN_SENDER):
        collect(sender, outgoing, late)
    assert collect(sender, outgoing, theirs).gid == NEXT_GID
