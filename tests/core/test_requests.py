"""Protecting requests, and the stages of receiving one: nothing gets past a stage that it has not passed."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest

from groupcoap.core import coap
from groupcoap.core.coap import Message, Options
from groupcoap.core.contexts import CommonContext, CredentialNeeded, SenderContext
from groupcoap.core.option import decode_prefix
from groupcoap.core.profile import Profile
from groupcoap.core.registry import Registry
from groupcoap.core.requests import (
    ChallengedRequest,
    DecryptedRequest,
    DeliveredRequest,
    SignatureState,
    Trace,
    admit,
    challenge_message,
    object_security,
    protect_request,
)
from groupcoap.core.sequence import MAXIMUM, SequenceNumbers
from groupcoap.core.synchronization import Freshness, Method, SynchronizationPolicy
from groupcoap.cose.keys import Ed25519PublicKey
from groupcoap.errors import ContextExpired, MisuseError, Reason, Rejected, SequenceNumbersExhausted
from support import (
    A128CTR,
    ADDRESS,
    BASELINE,
    BEST_EFFORT,
    CHALLENGE,
    GID,
    LISTENER,
    MULTICASTER,
    NEXT_GID,
    OTHER_ADDRESS,
    OTHER_LISTENER,
    Node,
    answer_challenge,
    challenged,
    common_context,
    counting_entropy,
    credential_of,
    decrypt,
    deliver,
    install,
    make_node,
    of_group_oscore,
    of_the_draft,
    option_of,
    private_key,
    protect,
    receive,
    refused,
    renew,
    request,
    response,
    security_context,
    snapshot,
    take_in,
    with_protection,
)

pytestmark = pytest.mark.usefixtures("profile")


def pair() -> tuple[Node, Node]:
    return make_node(MULTICASTER), make_node(LISTENER)


# ---- protecting


def test_each_request_takes_the_next_number_and_names_sender_and_gid() -> None:
    sender, listener = pair()
    for number in range(3):
        message = protect(sender).message
        _, partial_iv, gid, _ = decode_prefix(option_of(message))
        assert (partial_iv, gid) == (bytes((number,)), GID)
        got = deliver(listener, message)
        assert (got.sender_id, got.sequence_number, got.gid, got.group) == (MULTICASTER, number, GID, "lights")


def test_the_exchange_remembers_what_binds_answers_to_the_request() -> None:
    sender, _ = pair()
    protect(sender)
    exchange = protect(sender).exchange
    assert exchange.ids == (MULTICASTER, b"\x01", GID)
    assert exchange.context is sender.context
    assert exchange.nonce == sender.context.common.nonce(MULTICASTER, b"\x01")


@pytest.mark.parametrize(("value", "registers"), [(None, False), (b"", True), (b"\0", True), (b"\x01", False)])
def test_only_an_observe_of_zero_begins_an_observation(value: bytes | None, registers: bool) -> None:
    sender, _ = pair()
    options = () if value is None else ((coap.OBSERVE, value),)
    assert protect(sender, request(coap.GET, (coap.URI_HOST, b"h"), *options)).exchange.observe is registers


def test_a_pure_listener_has_nothing_to_protect_with() -> None:
    listener = make_node(None)
    assert listener.context.sender is None
    sender, _ = pair()
    got = deliver(listener, protect(sender).message)
    assert got.message == request()


@pytest.mark.parametrize("code", [coap.EMPTY, coap.CONTENT, coap.FORBIDDEN, 0xE1])
def test_only_requests_are_protected_as_requests(code: int) -> None:
    sender, _ = pair()
    with pytest.raises(MisuseError):
        protect_request(sender.context, sender.sender, request(code))
    assert sender.sender.numbers.take() == 0


def test_options_that_travel_outside_stay_with_the_message_and_others_are_gone() -> None:
    sender, listener = pair()
    for outside in ((), ((coap.URI_HOST, b"h"),), ((coap.URI_HOST, b"h"), (coap.URI_PORT, b"\x16"))):
        message = request(coap.GET, *outside, (coap.URI_PATH, b"a"))
        protected = protect(sender, message).message
        assert protected.options == (*outside, (coap.OBJECT_SECURITY, option_of(protected)))
        assert deliver(listener, protected).message == message


def test_a_request_may_have_no_options_at_all() -> None:
    sender, listener = pair()
    bare = request()._replace(options=())
    assert deliver(listener, protect(sender, bare).message).message == bare
    assert deliver(listener, protect(sender, bare).message, destination=None).message == bare


def test_a_sender_context_of_another_group_is_refused() -> None:
    sender, _ = pair()
    other = security_context(MULTICASTER, common_context(gid=NEXT_GID))
    assert other.sender is not None
    with pytest.raises(MisuseError):
        protect_request(sender.context, other.sender, request())


def test_nothing_new_is_protected_under_a_context_that_was_renewed() -> None:
    sender, _ = pair()
    old = sender.context
    renew(sender)
    assert old.sender is not None
    with pytest.raises(MisuseError):
        protect_request(old, old.sender, request())
    assert old.sender.numbers.take() == 0


def test_past_the_last_number_nothing_is_protected() -> None:
    sender, listener = make_node(MULTICASTER, first=MAXIMUM), make_node(LISTENER)
    assert deliver(listener, protect(sender).message).sequence_number == MAXIMUM
    with pytest.raises(SequenceNumbersExhausted):
        protect(sender)


@pytest.mark.parametrize(
    "message",
    [request(coap.GET, (coap.PROXY_URI, b"nonsense")), request(coap.GET, (11, b"b"), (1, b"a"))],
    ids=["bad Proxy-Uri", "unordered options"],
)
def test_a_request_that_cannot_be_protected_costs_no_number(message: Message) -> None:
    sender, _ = pair()
    with pytest.raises(MisuseError):
        protect_request(sender.context, sender.sender, message)
    assert sender.sender.numbers.take() == 0


# ---- the first stage


@pytest.mark.parametrize("options", [(), ((coap.URI_HOST, b"h"),), ((coap.URI_PATH, b"light"),)], ids=len)
def test_a_request_without_protection_is_not_one_of_ours(options: Options) -> None:
    message = request()._replace(options=options)
    with refused(Reason.NOT_PROTECTED):
        decrypt(make_node(LISTENER), message)
    with refused(Reason.NOT_PROTECTED):
        object_security(message)


def test_two_object_security_options_are_malformed() -> None:
    message = request(coap.POST, (coap.OBJECT_SECURITY, b"\x08"), (coap.OBJECT_SECURITY, b"\x08"))
    with refused(Reason.MALFORMED):
        object_security(message)


def test_the_option_is_found_among_others_and_alone() -> None:
    option = (coap.OBJECT_SECURITY, b"\x08")
    for options in ((option,), ((coap.URI_HOST, b"h"), option), (option, (coap.MAX_AGE, b""))):
        assert object_security(request(coap.POST, *options)) == b"\x08"
    with refused(Reason.NOT_PROTECTED):
        object_security(request(coap.POST, (coap.MAX_AGE, b"")))


@pytest.mark.parametrize("kind", [coap.CON, coap.ACK, coap.RST])
def test_only_non_confirmable_requests_come_by_multicast(kind: int) -> None:
    sender, listener = pair()
    message = protect(sender)._replace().message._replace(type=kind)
    with refused(Reason.NOT_FOR_MULTICAST):
        decrypt(listener, message)
    assert decrypt(listener, message, destination=None).number == 0


@pytest.mark.parametrize("code", [coap.EMPTY, 0x20, 0x21, coap.CHANGED, 0xE0])
def test_a_code_that_is_no_request_is_malformed_whatever_the_payload(code: int) -> None:
    sender, listener = pair()
    message = protect(sender).message
    for payload in (message.payload, bytes(40)):
        with refused(Reason.MALFORMED):
            decrypt(listener, message._replace(code=code, payload=payload))


def test_a_request_without_a_payload_is_malformed() -> None:
    sender, listener = pair()
    with refused(Reason.MALFORMED):
        decrypt(listener, protect(sender).message._replace(payload=b""))


def test_a_request_without_a_gid_is_malformed() -> None:
    sender, listener = pair()
    message = protect(sender).message
    option = option_of(message)
    without_gid = bytes((option[0] & ~0x10,)) + option[1:2] + option[3 + len(GID) :]
    with refused(Reason.MALFORMED):
        decrypt(listener, with_protection(message, without_gid, message.payload))


@pytest.mark.parametrize("destination", [ADDRESS, None], ids=["multicast", "unicast"])
def test_an_unknown_gid_belongs_to_no_group(destination: bytes | None) -> None:
    sender, listener = make_node(MULTICASTER, common_context(gid=NEXT_GID)), make_node(LISTENER)
    with refused(Reason.UNKNOWN_GROUP):
        decrypt(listener, protect(sender).message, destination=destination)


def test_the_destination_address_counts_as_well_as_the_gid() -> None:
    sender, listener = pair()
    message = protect(sender).message
    with refused(Reason.UNKNOWN_GROUP):
        decrypt(listener, message, destination=OTHER_ADDRESS)
    deliver(listener, message, destination=None)


def test_our_own_message_sent_back_is_rejected() -> None:
    sender, _ = pair()
    with refused(Reason.OWN_MESSAGE):
        receive(sender, protect(sender).message)


def test_a_departed_member_is_rejected() -> None:
    sender, listener = pair()
    deliver(listener, protect(sender).message)
    listener.context.depart([MULTICASTER])
    with refused(Reason.UNKNOWN_SENDER):
        receive(listener, protect(sender).message)


@pytest.mark.parametrize("destination", [ADDRESS, None], ids=["multicast", "unicast"])
@pytest.mark.parametrize("known", [True, False], ids=["known sender", "new sender"])
def test_what_is_no_more_than_a_tag_is_malformed_whoever_sent_it(destination: bytes | None, known: bool) -> None:
    sender, listener = pair()
    message = protect(sender).message
    if known:
        deliver(listener, message)
    overhead = listener.context.common.overhead
    for length in (1, 8, overhead):
        with refused(Reason.MALFORMED):
            decrypt(listener, message._replace(payload=bytes(length)), destination=destination)
    with refused(Reason.REPLAY if known else Reason.DECRYPTION_FAILED):
        decrypt(listener, message._replace(payload=bytes(overhead + 1)), destination=destination)


def test_a_replay_is_rejected_before_it_is_decrypted() -> None:
    sender, listener = make_node(MULTICASTER, first=300), make_node(LISTENER)
    old, newest = protect(sender).message, protect(sender).message
    for message in (newest, old):  # what comes late is still new
        deliver(listener, message)
    for number, message in ((300, old), (301, newest)):
        for again in (message, message._replace(payload=bytes(100))):
            with pytest.raises(Rejected) as caught:
                decrypt(listener, again)
            assert str(caught.value) == f"replay: sequence number {number} of 01"


@pytest.mark.parametrize("pairwise", [False, True], ids=["group", "pairwise"])
@pytest.mark.parametrize("beyond", [-7, 0, 1])
def test_what_is_no_more_than_a_tag_is_malformed_before_anything_is_said_of_its_sender(
    profile: Profile, beyond: int, pairwise: bool
) -> None:
    sender, listener = pair()
    common = listener.context.common
    pairwise = pairwise and profile.rules.pairwise
    overhead = common.pairwise_overhead if pairwise else common.overhead
    message = protect(sender, to=LISTENER if pairwise else None).message._replace(payload=bytes(overhead + beyond))
    listener.context.depart([MULTICASTER])
    with refused(Reason.MALFORMED if beyond <= 0 else Reason.OWN_MESSAGE):
        decrypt(sender, message)
    with refused(Reason.MALFORMED if beyond <= 0 else Reason.UNKNOWN_SENDER):
        decrypt(listener, message)


@of_group_oscore
@pytest.mark.parametrize("method", range(1, 0x20))
def test_in_pairwise_mode_every_method_comes_by_unicast(method: int) -> None:
    """Nobody but the one listener can have been meant."""
    sender, listener = pair()
    got = deliver(listener, protect(sender, request(method, payload=b"x"), to=LISTENER).message, destination=None)
    assert (got.message.code, got.signature) == (method, SignatureState.PAIRWISE)
    assert (got.signature.authentic, got.exchange.pairwise) == (True, True)
    with refused(Reason.REPLAY):
        receive(listener, protect(make_node(MULTICASTER)).message)


@of_group_oscore
def test_only_the_one_that_a_pairwise_request_is_for_can_read_it() -> None:
    sender, other = make_node(MULTICASTER), make_node(OTHER_LISTENER)
    message = protect(sender, to=LISTENER).message
    with refused(Reason.DECRYPTION_FAILED):
        receive(other, message, destination=None)
    with refused(Reason.NO_PAIRWISE_MODE):
        receive(make_node(None), message, destination=None)


@of_group_oscore
def test_whoever_cannot_be_agreed_with_is_sent_nothing_and_costs_no_number() -> None:
    sender = make_node(MULTICASTER, common_context(pairwise=False))
    with pytest.raises(MisuseError, match="pairwise mode"):
        protect(sender, to=LISTENER)
    assert sender.sender.numbers.take() == 0
    with pytest.raises(MisuseError, match="pairwise mode"):
        protect(make_node(MULTICASTER, ids=()), to=LISTENER)


def test_what_is_known_of_a_request_s_author() -> None:
    authentic = {state: state.authentic for state in SignatureState}
    assert authentic == {
        SignatureState.VERIFIED: True,
        SignatureState.SKIPPED: False,
        SignatureState.DEFERRED: False,
        SignatureState.PAIRWISE: True,
    }


@pytest.mark.parametrize("method", range(1, 0x20))
def test_by_unicast_only_get_and_fetch_come_without_a_repeat(method: int) -> None:
    sender, listener = pair()
    message = protect(sender, request(method, payload=b"x")).message
    if method in (coap.GET, coap.FETCH):
        assert deliver(listener, message, destination=None).message.code == method
    else:
        with refused(Reason.UNICAST_METHOD):
            receive(listener, message, destination=None)
        assert list(listener.context.recipients) == []
        deliver(listener, message)  # by multicast it is welcome


def test_the_outer_code_decides_nothing() -> None:
    sender, listener = pair()
    assert deliver(listener, protect(sender).message._replace(code=0x1F)).message == request()
    put = protect(sender, request(coap.PUT, payload=b"x")).message._replace(code=coap.GET)
    with refused(Reason.UNICAST_METHOD):
        receive(listener, put, destination=None)


def test_an_outer_repeat_is_no_repeat() -> None:
    sender, listener = pair()
    message = protect(sender, request(coap.PUT, payload=b"x")).message
    dressed = message._replace(options=(*message.options, (coap.REPEAT, bytes(8))))
    with refused(Reason.UNICAST_METHOD):
        receive(listener, dressed, destination=None)
    assert deliver(listener, dressed).message == request(coap.PUT, payload=b"x")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 40, 41])
def test_a_repeat_comes_by_unicast_alone_and_has_up_to_40_bytes(profile: Profile, length: int) -> None:
    """From 8 on in the draft, from 1 on as Echo."""
    sender, listener = pair()
    with_repeat = request(coap.PUT, (coap.URI_PATH, b"a"), (coap.REPEAT, bytes(length)), payload=b"x")
    message = protect(sender, with_repeat).message
    with refused(Reason.REPEAT_BY_MULTICAST):
        receive(listener, message)
    shortest = {"multicast-oscore-04": 8, "group-oscore": 1}[profile.name]
    if shortest <= length <= 40:
        _taken_for_an_echo(profile, listener, message)
    else:
        with refused(Reason.MALFORMED):
            receive(listener, message, destination=None)


def _taken_for_an_echo(profile: Profile, listener: Node, message: Message) -> None:
    """Of nothing: it is dropped, or (Group OSCORE §9) challenged."""
    if profile.rules.echo_is_original:
        with refused(Reason.REPEAT_UNKNOWN):
            receive(listener, message, destination=None)
    else:
        assert isinstance(receive(listener, message, destination=None), ChallengedRequest)


@pytest.mark.parametrize("behind", [(), ((coap.REQUEST_TAG, b"\x01"),)], ids=["the last", "not the last"])
def test_a_repeat_is_found_wherever_it_stands(profile: Profile, behind: Options) -> None:
    sender, listener = pair()
    message = protect(sender, request(coap.GET, (coap.REPEAT, bytes(8)), *behind)).message
    with refused(Reason.REPEAT_BY_MULTICAST):
        receive(listener, message)
    _taken_for_an_echo(profile, listener, message)


def test_while_a_challenge_is_open_only_multicast_requests_are_dropped_undecrypted() -> None:
    sender, listener = pair()
    challenged(listener, protect(sender).message, entropy=counting_entropy())
    forged = protect(sender).message._replace(payload=bytes(100))
    with refused(Reason.CHALLENGE_PENDING):
        decrypt(listener, forged, policy=CHALLENGE)
    with refused(Reason.DECRYPTION_FAILED):
        decrypt(listener, forged, policy=CHALLENGE, destination=None)


# ---- blocks that a proxy has cut off


@pytest.mark.parametrize(
    ("block", "whole"),
    [(b"", True), (b"\x06", True), (b"\x0e", False), (b"\x16", False)],
    ids=["empty", "the only one", "the first", "the last"],
)
def test_a_piece_of_a_request_is_not_for_multicast(block: bytes, whole: bool) -> None:
    sender, listener = pair()
    message = protect(sender).message
    cut = message._replace(options=(*message.options, (coap.BLOCK1, block)))
    if whole:
        assert deliver(listener, cut).message == request()
    else:
        with refused(Reason.NOT_FOR_MULTICAST):
            decrypt(listener, cut)


# ---- several groups with one Gid


def member_of(*groups: str, own_id: bytes) -> Node:
    """An endpoint with groups of one Gid, whose keys are different."""
    node = Node(Registry(), [])
    for group, address in zip(groups, (ADDRESS, OTHER_ADDRESS), strict=False):
        common = common_context(master_secret=group.encode())
        install(node, security_context(own_id, common, group=group), address)
    return node


def test_by_unicast_the_group_that_a_request_decrypts_under_is_the_one_it_is_of() -> None:
    listener = member_of("lights", "doors", own_id=LISTENER)
    for group in ("lights", "doors"):
        message = protect(member_of(group, own_id=MULTICASTER)).message
        assert deliver(listener, message, destination=None).group == group
        with refused(Reason.REPLAY):
            receive(listener, message, destination=None)
    stranger = make_node(MULTICASTER, common_context(master_secret=b"strangers"), first=1)
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, protect(stranger).message, destination=None)


def test_what_is_wrong_in_one_of_several_groups_counts_more_than_that_it_does_not_decrypt_in_the_others() -> None:
    put = request(coap.PUT, payload=b"x")
    for group in ("lights", "doors"):
        listener = member_of("lights", "doors", own_id=LISTENER)
        with refused(Reason.UNICAST_METHOD):
            receive(listener, protect(member_of(group, own_id=MULTICASTER), put).message, destination=None)


# ---- the stages


@pytest.mark.parametrize("to", [None, LISTENER], ids=["group", "pairwise"])
def test_nothing_before_delivery_shows_the_message_or_changes_anything(profile: Profile, to: bytes | None) -> None:
    sender, listener = pair()
    before = snapshot(listener)
    to = to if profile.rules.pairwise else None
    message = protect(sender, request(coap.PUT, payload=b"x"), to=to).message
    decrypted = decrypt(listener, message)
    assert decrypted.pairwise is (to is not None)
    authentic = decrypted.check_signature()
    stages = [decrypted, authentic]
    if not profile.rules.signature_first:
        stages.append(decrypted.waive_signature(deferred=False))
    for stage in stages:
        assert not [name for name in dir(stage) if not name.startswith("_") and "message" in name.lower()]
        assert type(stage).__name__ != "DeliveredRequest"
    assert snapshot(listener) == before
    outcome = admit(authentic, 0.0, counting_entropy())
    assert isinstance(outcome, DeliveredRequest)
    assert snapshot(listener) != before


def test_what_was_only_decrypted_is_not_admitted() -> None:
    sender, listener = pair()
    decrypted: Any = decrypt(listener, protect(sender).message)
    with pytest.raises(AttributeError):
        admit(decrypted, 0.0, counting_entropy())


def test_a_first_stage_may_be_looked_at_for_the_decision_to_verify(profile: Profile) -> None:
    sender, listener = pair()
    message = request(coap.PUT, (1, b"if"), (coap.URI_PATH, b"a"), (coap.URI_PATH, b"b"), (coap.URI_QUERY, b"q"))
    decrypted = decrypt(listener, protect(sender, message).message)
    if profile.rules.signature_first:
        with pytest.raises(MisuseError, match="before its countersignature"):
            decrypted.peek_resource()
        decrypted.check_signature()
    assert decrypted.peek_resource() == (coap.PUT, (b"a", b"b"))
    assert decrypted.sender_id == MULTICASTER
    assert decrypted.public_key is not None
    assert decrypted.public_key.data == private_key(MULTICASTER).public_key.data


def test_what_is_inside_may_be_looked_at_by_tools_and_for_the_choice_of_blocks(profile: Profile) -> None:
    sender, listener = pair()
    message = request(coap.PUT, (coap.URI_PATH, b"a"), (coap.BLOCK1, b"\x08"), payload=bytes(16))
    decrypted = decrypt(listener, protect(sender, message).message)
    assert decrypted.for_onlooker() == message
    if profile.rules.signature_first:
        with pytest.raises(MisuseError, match="before its countersignature"):
            decrypted.has_option(frozenset((coap.BLOCK1,)))
        decrypted.check_signature()
        assert decrypted.for_onlooker() == message
    assert decrypted.has_option(frozenset((coap.BLOCK1, coap.BLOCK2)))
    assert not decrypted.has_option(frozenset((coap.BLOCK2,)))


def test_the_trace_of_a_request_shows_what_went_into_it(profile: Profile) -> None:
    sender, listener = pair()
    traces: list[Trace] = []
    protected = protect_request(sender.context, sender.sender, request(coap.PUT, payload=b"x"), traces.append)
    (trace,) = traces
    common, author = sender.context.common, sender.sender.author
    assert trace.plaintext == profile.split(request(coap.PUT, payload=b"x"))[2]
    assert trace.external_aad == profile.external_aad(common, protected.exchange.ids, trace.option, author)
    assert trace.nonce == protected.exchange.nonce
    assert trace.option == option_of(protected.message)
    assert trace.aad == cbor2.dumps(["Encrypt0", b"", trace.external_aad])
    cipher = common.encryption.cipher(sender.sender.key)
    payload = protected.message.payload
    ciphertext = payload[: len(payload) - common.overhead + common.encryption.tag_length]
    assert cipher.decrypt(trace.nonce, ciphertext, trace.aad) == trace.plaintext
    assert trace.to_be_signed.endswith(ciphertext)
    assert deliver(listener, protected.message).sequence_number == 0


def by_unknown_sender() -> tuple[Node, DecryptedRequest]:
    """A listener without the sender's key, and its request decrypted."""
    listener = make_node(LISTENER, ids=())
    return listener, decrypt(listener, protect(make_node(MULTICASTER)).message)


@of_group_oscore
@pytest.mark.parametrize("to", [None, LISTENER], ids=["group", "pairwise"])
def test_without_the_credential_nothing_is_decrypted_until_it_was_looked_up(to: bytes | None) -> None:
    """It is in the AAD: the message is looked at again."""
    sender, listener = make_node(MULTICASTER), make_node(LISTENER, ids=())
    message = protect(sender, to=to).message
    with pytest.raises(CredentialNeeded) as caught:
        decrypt(listener, message)
    assert caught.value.reason is Reason.NO_PUBLIC_KEY
    assert (caught.value.context, caught.value.sender_id) == (listener.context, MULTICASTER)
    assert list(listener.context.recipients) == []
    other = private_key(OTHER_LISTENER).public_key
    listener.context.learn(MULTICASTER, other, credential_of(OTHER_LISTENER))
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, message)
    listener.context.learn(MULTICASTER, private_key(MULTICASTER).public_key, credential_of(MULTICASTER))
    assert deliver(listener, message).signature.authentic


@of_group_oscore
def test_the_key_that_counts_may_be_given_and_must_be_the_signers() -> None:
    sender, listener = pair()
    decrypted = decrypt(listener, protect(sender).message)
    with refused(Reason.SIGNATURE_FAILED):
        decrypted.check_signature(private_key(OTHER_LISTENER).public_key)
    with pytest.raises(MisuseError):
        decrypted.peek_resource()
    delivered = take_in(decrypted.check_signature(private_key(MULTICASTER).public_key))
    assert delivered.signature is SignatureState.VERIFIED


@of_group_oscore
def test_nothing_is_verified_once_the_key_is_gone() -> None:
    sender, listener = pair()
    decrypted = decrypt(listener, protect(sender).message)
    decrypted.recipient.learn(None, None)
    with refused(Reason.NO_PUBLIC_KEY):
        decrypted.check_signature()


@of_the_draft
def test_without_the_public_key_nothing_is_delivered_and_no_recipient_kept() -> None:
    listener, decrypted = by_unknown_sender()
    assert decrypted.public_key is None
    with refused(Reason.NO_PUBLIC_KEY):
        decrypted.check_signature()
    assert list(listener.context.recipients) == []


@of_the_draft
def test_a_key_that_was_looked_up_meanwhile_verifies() -> None:
    listener, decrypted = by_unknown_sender()
    delivered = take_in(decrypted.check_signature(private_key(MULTICASTER).public_key))
    assert delivered.signature is SignatureState.VERIFIED
    assert delivered.sender_id == MULTICASTER
    assert [r.recipient_id for r in listener.context.recipients] == [MULTICASTER]


@of_the_draft
def test_the_key_of_another_member_does_not_verify() -> None:
    listener, decrypted = by_unknown_sender()
    with refused(Reason.SIGNATURE_FAILED):
        decrypted.check_signature(private_key(OTHER_LISTENER).public_key)
    assert list(listener.context.recipients) == []


def signed_by_another_member() -> Message:
    """A message under the multicaster's id by a member that has all symmetric keys, but not its private key."""
    forger = make_node(MULTICASTER)
    forger.sender.private_key = private_key(OTHER_LISTENER)
    return protect(forger).message


def test_a_member_that_speaks_as_another_fails_by_its_signature_and_changes_nothing() -> None:
    listener = make_node(LISTENER)
    before = snapshot(listener)
    with refused(Reason.SIGNATURE_FAILED):
        receive(listener, signed_by_another_member())
    assert snapshot(listener) == before
    deliver(listener, protect(make_node(MULTICASTER)).message)


# ---- encryption without integrity (Group OSCORE §2.1.7)


def counter_pair() -> tuple[Node, Node]:
    """A group whose messages are only encrypted, and protected from changes by their countersignatures."""
    common = common_context(group_encryption=A128CTR)
    return make_node(MULTICASTER, common), make_node(LISTENER, common)


@of_group_oscore
def test_in_counter_mode_nothing_is_decrypted_before_the_signature_is_verified() -> None:
    sender, listener = counter_pair()
    message = protect(sender, request(coap.PUT, (coap.URI_PATH, b"a"), (coap.URI_PATH, b"b"))).message
    decrypted = decrypt(listener, message)
    assert decrypted._closed is not None
    assert (decrypted._closed[1], decrypted._inside) == (None, None)
    with pytest.raises(MisuseError):
        decrypted.peek_resource()
    assert decrypted.for_onlooker().options == ((coap.URI_PATH, b"a"), (coap.URI_PATH, b"b"))
    assert decrypted._inside is None
    delivered = take_in(decrypted.check_signature())
    assert decrypted.peek_resource() == (coap.PUT, (b"a", b"b"))
    assert (delivered.message.code, delivered.signature) == (coap.PUT, SignatureState.VERIFIED)


@of_group_oscore
def test_in_counter_mode_a_changed_bit_never_reaches_what_reads_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    sender, listener = counter_pair()
    message = protect(sender).message
    before = snapshot(listener)
    read: list[bytes] = []
    profile = type(listener.context.common.profile)
    join = profile.join

    def noting(profile: Profile, outer: Message, plaintext: bytes) -> Message:
        read.append(plaintext)
        return join(profile, outer, plaintext)

    monkeypatch.setattr(profile, "join", noting)
    ciphertext_length = len(message.payload) - listener.context.common.overhead
    for bit in range(8 * ciphertext_length):
        changed = int.from_bytes(message.payload, "big") ^ 1 << (8 * len(message.payload) - 1 - bit)
        with refused(Reason.SIGNATURE_FAILED):
            receive(listener, message._replace(payload=changed.to_bytes(len(message.payload), "big")))
    assert (read, snapshot(listener)) == ([], before)
    assert deliver(listener, message).message == request()
    assert len(read) == 1


@of_group_oscore
def test_what_is_signed_and_yet_no_message_is_malformed_and_changes_nothing() -> None:
    """Only a member that is at fault makes such a thing."""
    sender, listener = counter_pair()
    context, profile = sender.context, sender.context.common.profile
    for plaintext in (b"\x45", b"\x01\xff"):  # a response's code; a payload marker without a payload
        number = sender.sender.numbers.take()
        partial_iv = bytes((number,))
        nonce = context.common.nonce(MULTICASTER, partial_iv)
        header = (partial_iv, GID, MULTICASTER, False, False)
        prepared = sender.sender.bind(partial_iv)
        option, payload, *_ = profile.seal(sender.sender, sender.sender.channel, prepared, nonce, header, plaintext)
        message = request(coap.POST, (coap.OBJECT_SECURITY, option))._replace(payload=payload)
        before = snapshot(listener)
        decrypted = decrypt(listener, message)
        for _ in range(2):
            with refused(Reason.MALFORMED):
                decrypted.check_signature()
        assert snapshot(listener) == before


@of_group_oscore
def test_what_has_been_verified_is_not_read_again() -> None:
    sender, listener = pair()
    decrypted = decrypt(listener, protect(sender).message)
    decrypted.check_signature()
    inside = decrypted._inside
    decrypted.check_signature()
    assert decrypted._inside is inside


@of_group_oscore
@pytest.mark.parametrize("encryption", [10, A128CTR])
def test_of_groups_with_one_gid_the_right_one_is_found_also_where_only_the_signature_tells(encryption: int) -> None:
    def common(group: str) -> CommonContext:
        return common_context(master_secret=group.encode(), group_encryption=encryption)

    listener = Node(Registry(), [])
    for group, address in (("lights", ADDRESS), ("doors", OTHER_ADDRESS)):
        install(listener, security_context(LISTENER, common(group), group=group), address)
    for group in ("lights", "doors"):
        sender = make_node(MULTICASTER, common(group))
        assert deliver(listener, protect(sender).message, destination=None).group == group
    with pytest.raises(Rejected):
        receive(listener, protect(make_node(MULTICASTER, common("others"))).message, destination=None)


@of_group_oscore
@pytest.mark.parametrize("first", [True, False], ids=["with sign_protected first", "without first"])
def test_a_sender_may_change_the_form_that_it_signs(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other software, say. What it has signed last is tried first: only the change costs a verification."""
    listener = make_node(LISTENER)
    same, other = (
        make_node(MULTICASTER, common_context(sign_protected=form), first=start)
        for form, start in ((first, 0), (not first, 10))
    )
    verify, verified = Ed25519PublicKey.verify, list[bytes]()

    def count(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
        verified.append(message)
        return verify(key, signature, message)

    monkeypatch.setattr(Ed25519PublicKey, "verify", count)
    for sender, verifications in ((same, 1 if first else 2), (same, 1), (other, 2), (other, 1), (same, 2)):
        verified.clear()
        deliver(listener, protect(sender).message)
        assert len(verified) == verifications


@of_group_oscore
def test_in_pairwise_mode_sender_and_recipient_are_of_the_one_context() -> None:
    sender, other = make_node(MULTICASTER), make_node(MULTICASTER)
    for own, recipient in (
        (other.sender, sender.context.recipient(LISTENER)),
        (sender.sender, other.context.recipient(LISTENER)),
    ):
        with pytest.raises(MisuseError):
            protect_request(sender.context, own, request(), to=recipient)
    assert sender.sender.numbers.take() == other.sender.numbers.take() == 0


# ---- signatures waived (Appendix E)


@of_group_oscore
@pytest.mark.parametrize("to", [None, LISTENER], ids=["group", "pairwise"])
@pytest.mark.parametrize("policy", [BASELINE, CHALLENGE, BEST_EFFORT], ids=lambda p: p.method.value)
def test_where_the_signature_comes_first_it_is_never_waived(
    policy: SynchronizationPolicy, to: bytes | None
) -> None:
    sender, listener = pair()
    deliver(listener, protect(sender).message)
    for destination in (ADDRESS, None):
        decrypted = decrypt(listener, protect(sender, to=to).message, policy=policy, destination=destination)
        assert decrypted.signature_needed()
        for deferred in (False, True):
            with pytest.raises(MisuseError):
                decrypted.waive_signature(deferred=deferred)


@of_the_draft
@pytest.mark.parametrize(
    ("deferred", "state"), [(False, SignatureState.SKIPPED), (True, SignatureState.DEFERRED)], ids=["skip", "defer"]
)
def test_what_was_not_verified_is_marked_so(deferred: bool, state: SignatureState) -> None:
    listener = make_node(LISTENER)
    waived = decrypt(listener, signed_by_another_member()).waive_signature(deferred=deferred)
    assert waived.state is state
    delivered = take_in(waived)
    assert delivered.signature is state
    assert delivered.exchange.take_request_nonce() is None


@of_the_draft
def test_a_deferred_check_says_later_that_it_was_forged_and_rolls_no_window_back() -> None:
    listener = make_node(LISTENER)
    decrypted = decrypt(listener, signed_by_another_member())
    take_in(decrypted.waive_signature(deferred=True))
    before = snapshot(listener)
    with refused(Reason.SIGNATURE_FAILED):
        decrypted.check_signature()
    assert snapshot(listener) == before
    with refused(Reason.REPLAY):
        receive(listener, protect(make_node(MULTICASTER)).message)


@pytest.mark.parametrize("policy", [BASELINE, CHALLENGE], ids=lambda p: p.method.value)
def test_a_first_request_that_would_begin_synchronization_must_be_verified(policy: SynchronizationPolicy) -> None:
    sender, listener = pair()
    decrypted = decrypt(listener, protect(sender).message, policy=policy)
    assert decrypted.signature_needed()
    with pytest.raises(MisuseError):
        decrypted.waive_signature(deferred=False)


@of_the_draft
@pytest.mark.parametrize("policy", [BASELINE, CHALLENGE, BEST_EFFORT], ids=lambda p: p.method.value)
def test_once_synchronized_verification_may_be_waived(policy: SynchronizationPolicy) -> None:
    sender, listener = pair()
    deliver(listener, protect(sender).message)
    decrypted = decrypt(listener, protect(sender).message, policy=policy)
    assert not decrypted.signature_needed()
    assert take_in(decrypted.waive_signature(deferred=False), policy).freshness is Freshness.ORDERED


@pytest.mark.parametrize("policy", [CHALLENGE, BEST_EFFORT], ids=lambda p: p.method.value)
def test_an_echo_must_be_verified_even_once_synchronized(policy: SynchronizationPolicy) -> None:
    sender, listener = pair()
    deliver(listener, protect(sender).message)
    echo = request(coap.GET, (coap.URI_PATH, b"a"), (coap.REPEAT, bytes(8)))
    decrypted = decrypt(listener, protect(sender, echo).message, destination=None, policy=policy)
    assert decrypted.signature_needed()
    with pytest.raises(MisuseError):
        decrypted.waive_signature(deferred=True)


@of_the_draft
def test_a_unicast_get_may_be_waived() -> None:
    sender, listener = pair()
    decrypted = decrypt(listener, protect(sender).message, destination=None)
    assert not decrypted.signature_needed()
    assert take_in(decrypted.waive_signature(deferred=False)).message == request()


def test_in_an_old_context_signatures_are_always_verified() -> None:
    sender, listener = pair()
    deliver(listener, protect(sender).message)
    late = protect(sender).message
    renew(listener)
    listener.contexts[0].accepts_requests = True
    decrypted = decrypt(listener, late)
    assert decrypted.signature_needed()
    with pytest.raises(MisuseError):
        decrypted.waive_signature(deferred=False)
    assert take_in(decrypted.check_signature()).gid == GID


@pytest.mark.parametrize("destination", [ADDRESS, None], ids=["multicast", "unicast"])
def test_under_a_retired_context_nothing_is_decrypted(destination: bytes | None) -> None:
    sender, listener = pair()
    late = protect(sender).message
    renew(listener)
    for message in (late, late._replace(payload=bytes(100))):
        with refused(Reason.CONTEXT_RETIRED):
            decrypt(listener, message, destination=destination)


@of_the_draft
@pytest.mark.parametrize(("max_gap", "needed"), [(None, False), (3, False), (2, True)])
def test_a_request_after_too_large_a_gap_must_be_verified(max_gap: int | None, needed: bool) -> None:
    sender, listener = pair()
    deliver(listener, protect(sender).message)
    ahead = protect(make_node(MULTICASTER, first=3)).message
    policy = SynchronizationPolicy(Method.CHALLENGE_RESPONSE, max_gap=max_gap)
    assert decrypt(listener, ahead, policy=policy).signature_needed() is needed


@pytest.mark.parametrize("grace", [True, False])
@pytest.mark.parametrize("verified", [True, False])
def test_a_request_under_way_at_a_renewal_needs_grace_and_a_verified_signature(
    profile: Profile, grace: bool, verified: bool
) -> None:
    sender, listener = pair()
    verified = verified or profile.rules.signature_first
    decrypted = decrypt(listener, protect(sender).message)
    under_way = decrypted.check_signature() if verified else decrypted.waive_signature(deferred=False)
    renew(listener)
    listener.contexts[0].accepts_requests = grace
    if grace and verified:
        assert take_in(under_way).gid == GID
    else:
        with refused(Reason.CONTEXT_RETIRED):
            take_in(under_way)


# ---- delivery


def test_what_is_delivered_knows_its_signature_freshness_and_exchange() -> None:
    sender, listener = pair()
    got = deliver(listener, protect(sender).message)
    assert got.signature is SignatureState.VERIFIED
    assert got.freshness is Freshness.UNSYNCHRONIZED
    assert got.exchange.ids == (MULTICASTER, b"\0", GID)
    assert got.exchange.by_multicast


@pytest.mark.parametrize("intact", [True, False], ids=["intact", "state lost"])
def test_the_nonce_of_a_request_is_granted_only_if_no_window_was_ever_lost(intact: bool) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER, intact=intact)
    nonce = deliver(listener, protect(sender).message).exchange.take_request_nonce()
    assert nonce == (sender.context.common.nonce(MULTICASTER, b"\0") if intact else None)


EAGER = SynchronizationPolicy(Method.CHALLENGE_RESPONSE, rechallenge_after=0)


def test_a_challenge_never_uses_the_nonce_of_the_request(profile: Profile) -> None:
    sender, listener = pair()
    for to in (None, LISTENER):
        message = protect(sender, to=to if profile.rules.pairwise else None).message
        outcome = challenged(listener, message, entropy=counting_entropy(), policy=EAGER)
        assert outcome.exchange.take_request_nonce() is None
        assert decode_prefix(option_of(answer_challenge(listener, message, outcome)))[1] is not None


def test_the_challenge_is_a_401_where_repeat_is_called_echo() -> None:
    assert challenge_message(request(), b"1", coap.UNAUTHORIZED).code == 0x81


def test_the_challenge_is_a_403_with_the_value_and_the_token_of_the_request() -> None:
    message = challenge_message(request(), b"12345678")
    assert (message.code, message.token, message.options) == (
        coap.FORBIDDEN,
        request().token,
        ((coap.REPEAT, b"12345678"),),
    )
    assert (message.type, message.message_id, message.payload) == (coap.NON, 0, b"")
    assert not coap.is_request(response().code)


# ---- past its lifetime, and under another Endpoint ID


def test_past_its_lifetime_nothing_is_protected_and_no_number_used() -> None:
    sender = pair()[0]
    sender.context.suspend()
    with pytest.raises(ContextExpired):
        protect(sender)
    sender.context.resume()
    assert protect(sender).exchange.ids.partial_iv == b"\0"


def test_a_request_under_way_when_the_lifetime_ends_is_refused() -> None:
    sender, listener = pair()
    under_way = decrypt(listener, protect(sender).message).check_signature()
    listener.context.suspend()
    before = snapshot(listener)
    with refused(Reason.CONTEXT_EXPIRED):
        take_in(under_way)
    assert snapshot(listener) == before
    listener.context.resume()
    assert take_in(under_way).gid == GID


def test_only_the_latest_sender_context_is_used() -> None:
    """Group OSCORE §2.6.3.1."""
    sender = pair()[0]
    former = sender.sender
    renewed = SenderContext(former.common, b"\x5e", former.private_key, SequenceNumbers(), former.credential)
    sender.context.renew_sender(renewed)
    with pytest.raises(MisuseError):
        protect_request(sender.context, former, request())
    assert protect_request(sender.context, renewed, request()).exchange.ids == (b"\x5e", b"\0", GID)
