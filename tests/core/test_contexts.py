from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupcoap.core.contexts import (
    CommonContext,
    CredentialNeeded,
    SecurityContext,
    SenderContext,
    construct_nonce,
    pairwise_context,
)
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.option import partial_iv_bytes
from groupcoap.core.profile import Profile
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.core.window import ReplayWindow
from groupcoap.cose.algorithms import AEAD_ALGORITHMS, DEFAULT_AEAD, Kdf, encryption_algorithm, key_agreement
from groupcoap.cose.keys import DEFAULT_SIGNATURE, PrivateKey, PublicKey
from groupcoap.errors import Busy, ContextExpired, Limit, MisuseError, Reason
from groupcoap.secret import Secret
from support import (
    A128CTR,
    BEST_EFFORT,
    GID,
    IDS,
    LISTENER,
    MULTICASTER,
    NEXT_GID,
    OTHER_LISTENER,
    Node,
    answer,
    challenged,
    common_context,
    counting_entropy,
    credential_of,
    decrypt,
    deliver,
    make_node,
    of_group_oscore,
    private_key,
    protect,
    refused,
    security_context,
    snapshot,
    take_in,
)

pytestmark = pytest.mark.usefixtures("profile")

numbers = st.integers(0, (1 << 40) - 1)
short_ids = st.binary(max_size=7)


@given(short_ids, numbers, short_ids, numbers)
def test_different_ids_or_numbers_have_different_nonces(a: bytes, n: int, b: bytes, m: int) -> None:
    common = common_context()
    same = common.nonce(a, partial_iv_bytes(n)) == common.nonce(b, partial_iv_bytes(m))
    assert same == ((a, n) == (b, m))


@pytest.mark.parametrize("aead", AEAD_ALGORITHMS)
@given(data=st.data(), number=numbers)
def test_a_nonce_is_its_base_and_the_number(aead: int, data: st.DataObject, number: int) -> None:
    common = common_context(aead=aead)
    kid = data.draw(st.binary(max_size=common.max_id_length))
    nonce = common.nonce(kid, partial_iv_bytes(number))
    assert len(nonce) == AEAD_ALGORITHMS[aead].nonce_length
    assert nonce == (common.nonce_base(kid) ^ number).to_bytes(len(nonce), "big")


def test_a_nonce_is_laid_out_as_written() -> None:
    assert construct_nonce(bytes(13), b"\xaa\xbb", b"\x01\x02") == bytes.fromhex(
        "02" + "0000000000aabb" + "0000000102"
    )
    assert construct_nonce(b"\xff" * 7, b"\x01", b"\x01") == bytes.fromhex("fe" + "fe" + "fffffffffe")


@pytest.mark.parametrize(("endpoint_id", "partial_iv"), [(bytes(8), b"\0"), (b"\x01", b""), (b"\x01", bytes(6))])
def test_what_does_not_fit_a_nonce_is_refused(endpoint_id: bytes, partial_iv: bytes) -> None:
    with pytest.raises(MisuseError):
        construct_nonce(bytes(13), endpoint_id, partial_iv)


@pytest.mark.parametrize("aead", AEAD_ALGORITHMS)
def test_an_endpoint_id_has_at_most_the_nonce_length_less_six(aead: int) -> None:
    common = common_context(aead=aead)
    longest = AEAD_ALGORITHMS[aead].nonce_length - 6
    common.check_id(bytes(longest))
    with pytest.raises(MisuseError):
        common.check_id(bytes(longest + 1))
    with pytest.raises(MisuseError):
        SenderContext(common, bytes(longest + 1), private_key(b"x"), SequenceNumbers())


def common_with(gid: bytes = GID, master_secret: bytes = b"m") -> CommonContext:
    return CommonContext(
        profile=MULTICAST_OSCORE_04,
        aead=DEFAULT_AEAD,
        kdf=Kdf.HKDF_SHA_256,
        signature=DEFAULT_SIGNATURE,
        master_secret=Secret(master_secret),
        gid=gid,
    )


def test_a_context_that_could_not_be_encoded_is_refused() -> None:
    longest = 255 - 1 - 5 - 1 - 64
    common = common_with(bytes(longest))
    common.check_id(b"")
    with pytest.raises(MisuseError):
        common.check_id(b"\x01")
    common_with(bytes(longest - 7)).check_id(bytes(7))
    for gid in (b"", bytes(longest + 1)):
        with pytest.raises(MisuseError):
            common_with(gid)


def test_an_empty_master_secret_is_refused() -> None:
    with pytest.raises(MisuseError):
        common_with(master_secret=b"")


def test_a_renewal_makes_all_new_keys() -> None:
    one, two = (common_context(gid=gid, master_secret=b"the same secret") for gid in (b"\x01", b"\x02"))
    assert one.common_iv != two.common_iv
    keys = [common.profile.derive_key(common, kid).reveal() for common in (one, two) for kid in (*IDS, b"")]
    assert len(set(keys)) == len(keys)


def test_a_sender_context_belongs_to_its_common_context() -> None:
    sender = security_context(MULTICASTER).sender
    with pytest.raises(MisuseError):
        SecurityContext("lights", common_context(), sender, {})


def test_a_recipient_is_made_but_not_kept_until_its_message_has_passed() -> None:
    context = security_context(LISTENER)
    recipient = context.recipient(MULTICASTER)
    assert list(context.recipients) == []
    assert context.keep(recipient) is recipient
    assert list(context.recipients) == [recipient]
    assert context.recipient(MULTICASTER) is recipient


def test_of_two_first_messages_under_way_the_first_kept_recipient_counts() -> None:
    context = security_context(LISTENER)
    first, second = context.recipient(MULTICASTER), context.recipient(MULTICASTER)
    assert first is not second
    assert context.keep(first) is context.keep(second) is first


def test_two_first_messages_with_one_number_are_delivered_once() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    message = protect(sender).message
    ahead, behind = (decrypt(listener, message).check_signature() for _ in range(2))
    take_in(ahead)
    with refused(Reason.REPLAY):
        take_in(behind)


@pytest.mark.parametrize(
    ("kid", "reason"),
    [(LISTENER, Reason.OWN_MESSAGE), (bytes(8), Reason.UNKNOWN_SENDER), (OTHER_LISTENER, Reason.UNKNOWN_SENDER)],
    ids=["own", "too long", "departed"],
)
def test_a_kid_that_cannot_be_a_sender_here_is_rejected(kid: bytes, reason: Reason) -> None:
    context = security_context(LISTENER)
    context.depart([OTHER_LISTENER])
    with refused(reason):
        context.recipient(kid)


def test_our_own_id_is_known_by_its_bytes_and_the_longest_id_may_be_a_senders() -> None:
    context = security_context(b"\x01\x02")
    with refused(Reason.OWN_MESSAGE):
        context.recipient(bytes(bytearray(b"\x01\x02")))
    assert context.recipient(bytes(7)).recipient_id == bytes(7)


def test_a_recipient_knows_whether_it_is_kept() -> None:
    context = security_context(LISTENER)
    recipient = context.recipient(MULTICASTER)
    context.keep_answering(recipient)
    kept = [recipient.kept]
    assert context.recipient(MULTICASTER) is recipient
    context.keep(recipient)
    kept.append(recipient.kept)
    context.keep_answering(recipient)
    assert not context._answering
    context.depart([MULTICASTER])
    kept.append(recipient.kept)
    assert kept == [False, True, False]


def test_a_pure_listener_has_no_own_id_to_reflect() -> None:
    assert security_context(None).recipient(LISTENER).recipient_id == LISTENER


def test_who_left_loses_context_and_key_and_stays_out() -> None:
    context = security_context(LISTENER)
    context.keep(context.recipient(MULTICASTER))
    context.depart([MULTICASTER])
    assert list(context.recipients) == []
    assert not context.knows(MULTICASTER)
    assert MULTICASTER not in set(context.members)
    context.learn(MULTICASTER, private_key(MULTICASTER).public_key)
    with refused(Reason.UNKNOWN_SENDER):
        context.recipient(MULTICASTER)


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_message_under_way_when_its_sender_leaves_is_rejected(seen_before: bool) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    if seen_before:
        deliver(listener, protect(sender).message)
    under_way = decrypt(listener, protect(sender).message).check_signature()
    listener.context.depart([MULTICASTER])
    before = snapshot(listener)
    with refused(Reason.UNKNOWN_SENDER):
        take_in(under_way)
    assert snapshot(listener) == before


def test_a_learned_key_reaches_new_and_existing_recipients() -> None:
    context = security_context(LISTENER, ids=())
    existing = context.keep(context.recipient(MULTICASTER))
    assert not context.knows(MULTICASTER)
    for kid in (MULTICASTER, OTHER_LISTENER):
        context.learn(kid, private_key(kid).public_key)
    for kid in (MULTICASTER, OTHER_LISTENER):
        learned = context.recipient(kid).public_key
        assert learned is not None
        assert learned.data == private_key(kid).public_key.data
    assert context.recipient(MULTICASTER) is existing
    assert set(context.members) == {MULTICASTER, OTHER_LISTENER}


def test_an_endpoint_id_names_another_endpoint_when_another_key_is_at_hand_for_it() -> None:
    older = security_context(LISTENER)
    newer = security_context(LISTENER, common_context(gid=NEXT_GID), ids=(MULTICASTER,))
    assert older.reassigned(newer) == set()  # the other listener's key may yet come
    for device in range(6):
        newer.learn(MULTICASTER, private_key(b"another device %d" % device).public_key)
        assert older.reassigned(newer) == {MULTICASTER}


def test_when_senders_become_too_many_the_newcomer_is_refused_and_no_window_is_given_up() -> None:
    context = security_context(LISTENER)
    context.max_recipients = 2
    kids = [b"\x01", b"\x02"]
    kept = [context.keep(context.recipient(kid)) for kid in kids]
    with pytest.raises(Busy) as caught:
        context.keep(context.recipient(b"\x03"))
    assert caught.value.limit is Limit.RECIPIENTS
    assert [context.recipient(kid) for kid in kids] == kept
    assert context.intact
    context.max_recipients = 1
    with pytest.raises(Busy):
        context.keep(context.recipient(b"\x03"))
    assert list(context.recipients) == kept


def test_of_listeners_whose_answers_were_verified_the_first_goes_and_no_sender_with_it() -> None:
    context = security_context(MULTICASTER)
    context.max_recipients = 2
    sender = context.keep(context.recipient(LISTENER))
    context.keep_answering(sender)
    answering = [context.recipient(kid) for kid in (b"\x11", b"\x12", b"\x13")]
    for recipient in answering:
        context.keep_answering(recipient)
    assert context.recipient(b"\x11") is not answering[0]
    assert [context.recipient(kid) for kid in (b"\x12", b"\x13")] == answering[1:]
    assert list(context.recipients) == [sender]
    assert context.keep(answering[2]) is context.recipient(b"\x13")
    context.depart([b"\x12"])
    with refused(Reason.UNKNOWN_SENDER):
        context.keep_answering(answering[1])


def test_a_lost_state_makes_every_recipient_broken() -> None:
    assert not security_context(LISTENER, intact=False).recipient(MULTICASTER).unbroken
    assert security_context(LISTENER).recipient(MULTICASTER).unbroken


@pytest.mark.parametrize("unbroken", [True, False])
def test_a_restored_sender_is_synchronized_and_its_window_holds(unbroken: bool) -> None:
    sender, listener = make_node(MULTICASTER, first=40), make_node(LISTENER)
    window = ReplayWindow()
    window.start_at(40)
    listener.context.restore(MULTICASTER, window, unbroken=unbroken)
    with refused(Reason.REPLAY):
        decrypt(listener, protect(sender).message)
    recipient = decrypt(listener, protect(sender).message, policy=BEST_EFFORT).recipient
    assert recipient.sync.synchronized
    assert recipient.unbroken is unbroken


# ---- one Endpoint ID and another Gid


def test_a_member_is_known_under_another_gid_by_its_key() -> None:
    older = security_context(MULTICASTER)
    newer = security_context(MULTICASTER, common_context(gid=NEXT_GID), ids=(LISTENER,))
    assert older.same_member(LISTENER, older) == older.same_member(LISTENER, newer) == LISTENER
    assert older.same_member(OTHER_LISTENER, newer) is None
    assert older.same_member(b"\x66", older) == b"\x66"
    assert older.same_member(b"\x66", newer) is None  # nothing is known of it
    newer.learn(b"\x77", private_key(OTHER_LISTENER).public_key, b"credential")
    assert older.same_member(OTHER_LISTENER, newer) == b"\x77"
    newer.learn(LISTENER, private_key(b"somebody else").public_key, b"credential")
    assert older.same_member(LISTENER, newer) is None


# ---- Group OSCORE's parameters


def group_with(**changed: Any) -> CommonContext:
    """A Common Context of Group OSCORE with these parameters."""
    parameters: dict[str, Any] = {
        "profile": GROUP_OSCORE,
        "aead": DEFAULT_AEAD,
        "kdf": Kdf.HKDF_SHA_256,
        "signature": DEFAULT_SIGNATURE,
        "master_secret": Secret(bytes(16)),
        "gid": GID,
        "key_agreement": key_agreement(-27),
        "manager_credential": b"manager",
    }
    return CommonContext(**parameters | changed)


@pytest.mark.parametrize(
    ("aead", "group", "iv", "longest", "overhead", "pairwise_overhead"),
    [
        (10, None, 13, 7, 8 + 64, 8),
        (10, 24, 13, 6, 16 + 64, 8),
        (24, 10, 13, 6, 8 + 64, 16),
        (12, 10, 13, 1, 8 + 64, 8),
        (10, A128CTR, 13, 6, 64, 8),
        (12, A128CTR, 12, 1, 64, 8),
        (None, 10, 13, 7, 8 + 64, 0),
        (None, A128CTR, 12, 6, 64, 0),
    ],
)
def test_lengths_are_those_of_both_algorithms(
    aead: int | None, group: int | None, iv: int, longest: int, overhead: int, pairwise_overhead: int
) -> None:
    """The Common IV has the greatest nonce length, an Endpoint ID must fit the smallest (§2.1.4, §2.2)."""
    common = group_with(
        aead=None if aead is None else AEAD_ALGORITHMS[aead],
        group_encryption=None if group is None else encryption_algorithm(group),
        key_agreement=None if aead is None else key_agreement(-27),
    )
    assert (len(common.common_iv), common.max_id_length) == (iv, longest)
    assert (common.overhead, common.pairwise_overhead) == (overhead, pairwise_overhead)
    assert common.pairwise is (aead is not None)
    common.check_id(bytes(longest))
    with pytest.raises(MisuseError):
        common.check_id(bytes(longest + 1))


@given(st.data(), numbers)
@pytest.mark.parametrize("length", [7, 12, 13])
def test_a_nonce_takes_the_start_of_a_longer_common_iv(length: int, data: st.DataObject, number: int) -> None:
    common_iv = data.draw(st.binary(min_size=13, max_size=13))
    kid = data.draw(st.binary(max_size=length - 6))
    whole = bytes((len(kid),)) + kid.rjust(length - 6, b"\0") + number.to_bytes(5, "big")
    expected = bytes(a ^ b for a, b in zip(whole, common_iv[:length], strict=True))
    assert construct_nonce(common_iv, kid, partial_iv_bytes(number), length) == expected
    common = group_with()
    common.common_iv = common_iv
    assert common.nonce(kid, partial_iv_bytes(number), length) == expected
    assert (common.nonce_base(kid, length) ^ number).to_bytes(length, "big") == expected


def test_a_group_without_any_encryption_is_none() -> None:
    with pytest.raises(MisuseError, match="encryption algorithm"):
        group_with(aead=None)


# ---- pairwise keys (Group OSCORE §2.5)


@dataclass
class CountingKey:
    """A private key that counts how often it agrees on a secret."""

    key: PrivateKey
    agreed: int = 0

    @property
    def public_key(self) -> PublicKey:
        return self.key.public_key

    @property
    def secret(self) -> Secret:
        return self.key.secret

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message)

    def agree(self, public_key: PublicKey) -> Secret:
        self.agreed += 1
        return self.key.agree(public_key)


def counting_node(own_id: bytes, *, ids: tuple[bytes, ...] = IDS) -> tuple[Node, CountingKey]:
    node = make_node(own_id, common_context(), ids=ids)
    node.sender.private_key = key = CountingKey(node.sender.private_key)
    return node, key


@of_group_oscore
def test_pairwise_keys_are_derived_once_and_kept_whether_messages_pass_or_not() -> None:
    (sender, sending), (listener, listening) = counting_node(MULTICASTER), counting_node(LISTENER)
    for _ in range(3):
        message = protect(sender, to=LISTENER).message
        with refused(Reason.DECRYPTION_FAILED):
            decrypt(listener, message._replace(payload=bytes(40)))
        got = deliver(listener, message)
        answer(listener, got.exchange, pairwise=True)
    assert (sending.agreed, listening.agreed) == (1, 1)
    protect(sender, to=OTHER_LISTENER)
    assert (sending.agreed, listening.agreed) == (2, 1)
    assert sender.context.pairwise(sender.context.recipient(LISTENER)) is sender.context.pairwise(
        sender.context.recipient(LISTENER)
    )


@of_group_oscore
def test_pairwise_keys_go_when_the_member_departs_or_its_credential_changes() -> None:
    sender, key = counting_node(MULTICASTER)
    for times in (1, 2):
        first = sender.context.pairwise(sender.context.recipient(LISTENER))
        assert key.agreed == times
        sender.context.learn(LISTENER, private_key(LISTENER).public_key, credential_of(LISTENER) + bytes((times,)))
        assert sender.context.pairwise(sender.context.recipient(LISTENER)) is not first
        sender.context.learn(LISTENER, private_key(LISTENER).public_key, credential_of(LISTENER))
        key.agreed = times
    remaining = sender.context.pairwise(sender.context.recipient(OTHER_LISTENER))
    sender.context.depart([LISTENER])
    assert set(sender.context._pairwise) == {OTHER_LISTENER}
    assert sender.context.pairwise(sender.context.recipient(OTHER_LISTENER)) is remaining
    with refused(Reason.UNKNOWN_SENDER):
        sender.context.recipient(LISTENER)


@of_group_oscore
def test_a_renewal_derives_new_pairwise_keys() -> None:
    one, other = (security_context(MULTICASTER, common_context(gid=gid)) for gid in (GID, NEXT_GID))
    sealed = [
        context.pairwise(context.recipient(LISTENER)).outgoing.apply(bytes(13), b"message", b"")
        for context in (one, other)
    ]
    assert sealed[0] != sealed[1]


def test_no_channel_shows_its_key() -> None:
    context = security_context(MULTICASTER)
    assert context.sender is not None
    for channel in (context.sender.channel, context.recipient(LISTENER).channel):
        assert repr(channel) == "<Channel with nonces of 13 bytes>"


@of_group_oscore
def test_a_superseded_context_has_no_pairwise_keys_and_derives_them_again_for_what_comes_late() -> None:
    sender, key = counting_node(MULTICASTER)
    context = sender.context
    context.pairwise(context.recipient(LISTENER))
    context.supersede()
    assert (context._pairwise, context.current, context.accepts_requests) == ({}, False, False)
    for _ in range(2):
        context.pairwise(context.recipient(LISTENER))
        assert key.agreed == 2


def test_with_a_renewal_challenges_go_where_the_profile_wants_it(profile: Profile) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    challenged(listener, protect(sender).message, entropy=counting_entropy())
    (recipient,) = listener.context.recipients
    assert len(recipient.sync._challenges) == 1
    listener.context.supersede()
    assert len(recipient.sync._challenges) == (1 if profile.name == "multicast-oscore-04" else 0)


@of_group_oscore
def test_keys_with_who_is_no_known_member_are_not_kept() -> None:
    """Or whoever invents senders would fill the memory."""
    context = security_context(MULTICASTER, ids=())
    recipient = context.recipient(LISTENER)
    with pytest.raises(CredentialNeeded) as caught:
        context.pairwise(recipient)
    assert (caught.value.context, caught.value.sender_id) == (context, LISTENER)
    recipient.learn(private_key(LISTENER).public_key, credential_of(LISTENER))
    assert context.pairwise(recipient).outgoing is not context.pairwise(recipient).outgoing
    assert not context._pairwise


@of_group_oscore
def test_there_are_no_pairwise_keys_without_a_mode_a_key_or_a_usable_credential() -> None:
    without_mode = security_context(MULTICASTER, common_context(pairwise=False))
    pure = security_context(None)
    for context in (without_mode, pure):
        with refused(Reason.NO_PAIRWISE_MODE):
            context.pairwise(context.recipient(LISTENER))
    context = security_context(MULTICASTER)
    small = DEFAULT_SIGNATURE.public_key(b"\x01" + bytes(31))
    context.learn(LISTENER, small, b"credential")
    with refused(Reason.NO_PUBLIC_KEY):
        context.pairwise(context.recipient(LISTENER))


@of_group_oscore
def test_deriving_pairwise_keys_takes_both_credentials_and_the_mode() -> None:
    context = security_context(MULTICASTER)
    sender, recipient = context.sender, context.recipient(LISTENER)
    assert sender is not None
    keys = pairwise_context(sender, recipient)
    assert (keys.outgoing.overhead, keys.incoming.overhead) == (0, 8)
    for credential, public_key in ((None, recipient.public_key), (recipient.credential, None)):
        recipient.learn(public_key, credential)
        with pytest.raises(MisuseError, match="credentials of both"):
            pairwise_context(sender, recipient)
    without = security_context(MULTICASTER, common_context(pairwise=False))
    assert without.sender is not None
    with pytest.raises(MisuseError, match="not used"):
        pairwise_context(without.sender, without.recipient(LISTENER))


@of_group_oscore
def test_a_member_without_a_credential_of_its_own_can_say_nothing() -> None:
    with pytest.raises(MisuseError, match="credential of its own"):
        SenderContext(common_context(), MULTICASTER, private_key(MULTICASTER), SequenceNumbers())


def test_texts_of_contexts_name_them_and_hide_their_secrets() -> None:
    context = security_context(LISTENER)
    recipient = context.recipient(MULTICASTER)
    assert context.sender is not None
    texts = [repr(x) for x in (context, context.common, context.sender, recipient)]
    secrets = [context.common.master_secret, context.sender.key, recipient.key, context.sender.private_key.secret]
    for text in texts:
        assert GID.hex() in text
        for secret in secrets:
            assert secret.reveal().hex() not in text
            assert repr(secret.reveal())[2:-1] not in text
    assert "lights" in texts[0]
    assert "52" in texts[2]
    assert "highest=-1" in texts[3]


NEW_ID = b"\x5e"
"""An Endpoint ID that nobody has had."""


def renewed_sender(context: SecurityContext, own_id: bytes = NEW_ID) -> SenderContext:
    """Another Sender Context of this endpoint: the same keys of its own, another Endpoint ID."""
    former = context.sender
    assert former is not None
    return SenderContext(context.common, own_id, former.private_key, SequenceNumbers(), former.credential)


def test_with_another_own_endpoint_id_windows_stay_and_the_former_is_nobodys() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    first = protect(sender).message
    deliver(listener, first)
    context, before = listener.context, snapshot(listener)
    sender_context = renewed_sender(context)
    context.renew_sender(sender_context)
    assert context.sender is sender_context
    assert snapshot(listener) == before
    with refused(Reason.REPLAY):
        deliver(listener, first)
    assert deliver(listener, protect(sender).message).sender_id == MULTICASTER
    with refused(Reason.UNKNOWN_SENDER):
        context.recipient(LISTENER)
    with refused(Reason.OWN_MESSAGE):
        context.recipient(NEW_ID)


def test_what_was_taken_for_anothers_of_the_new_own_endpoint_id_goes() -> None:
    context = security_context(LISTENER)
    context.learn(NEW_ID, private_key(b"whoever").public_key, credential_of(b"whoever"))
    context.keep(context.recipient(NEW_ID))
    context.renew_sender(renewed_sender(context))
    assert not context.knows(NEW_ID)
    with refused(Reason.OWN_MESSAGE):
        context.recipient(NEW_ID)


def test_the_same_own_endpoint_id_again_has_not_left() -> None:
    context = security_context(LISTENER)
    context.renew_sender(renewed_sender(context, LISTENER))
    with refused(Reason.OWN_MESSAGE):
        context.recipient(LISTENER)
    assert LISTENER not in context._departed


@of_group_oscore
def test_with_another_own_endpoint_id_pairwise_keys_are_derived_again() -> None:
    context = security_context(LISTENER)
    before = context.pairwise(context.recipient(MULTICASTER))
    context.renew_sender(renewed_sender(context))
    after = context.pairwise(context.recipient(MULTICASTER))
    nonce = bytes(13)
    assert after.outgoing.apply(nonce, b"x", b"") != before.outgoing.apply(nonce, b"x", b"")


def test_only_who_had_an_endpoint_id_gets_another_of_the_same_context() -> None:
    context = security_context(LISTENER)
    with pytest.raises(MisuseError):
        context.renew_sender(renewed_sender(security_context(LISTENER, common_context(gid=NEXT_GID))))
    with pytest.raises(MisuseError):
        security_context(None, context.common).renew_sender(renewed_sender(context))


def test_a_suspended_context_refuses_until_it_is_confirmed() -> None:
    context = security_context(LISTENER)
    context.check_lifetime()
    for _ in range(2):  # nothing is made worse by saying so twice
        context.suspend()
        assert context.refusal is Reason.CONTEXT_EXPIRED
        with pytest.raises(ContextExpired, match="Group Manager"):
            context.check_lifetime()
    context.resume()
    assert context.refusal is None
    context.check_lifetime()
    assert context.current
    assert context.accepts_requests


def test_what_has_ended_is_neither_suspended_nor_confirmed_again() -> None:
    context = security_context(LISTENER)
    context.end()
    context.suspend()
    context.resume()
    assert context.refusal is Reason.CONTEXT_RETIRED
    assert not context.current
    assert not context.accepts_requests
    context.check_lifetime()  # that is another matter


def test_a_credential_that_comes_too_late_brings_nobody_back() -> None:
    context = security_context(LISTENER)
    context.depart([MULTICASTER])
    context.learn(MULTICASTER, private_key(MULTICASTER).public_key, credential_of(MULTICASTER))
    assert not context.knows(MULTICASTER)
    assert MULTICASTER not in context.members
    assert context.member_with(private_key(MULTICASTER).public_key.data, MULTICASTER) is None


def test_credentials_are_adopted_from_the_context_before() -> None:
    older = security_context(LISTENER)
    older.depart([OTHER_LISTENER])
    newer = security_context(LISTENER, common_context(gid=NEXT_GID), ids=())
    newer.adopt(older)
    assert set(newer.members) == {MULTICASTER}
    recipient = newer.recipient(MULTICASTER)
    assert recipient.public_key is not None
    assert recipient.public_key.data == private_key(MULTICASTER).public_key.data
    assert recipient.author is not None


@pytest.mark.parametrize(
    ("own_id", "known", "adopted"),
    [
        (None, {}, {MULTICASTER, OTHER_LISTENER}),
        (MULTICASTER, {}, {OTHER_LISTENER}),
        (LISTENER, {MULTICASTER: b"a newcomer"}, {OTHER_LISTENER}),
        (LISTENER, {NEW_ID: MULTICASTER}, {OTHER_LISTENER}),
    ],
    ids=["a pure listener", "now our own", "now another's", "known by another id"],
)
def test_what_is_known_in_the_new_context_counts_more(
    own_id: bytes | None, known: dict[bytes, bytes], adopted: set[bytes]
) -> None:
    older = security_context(LISTENER)
    newer = security_context(own_id, common_context(gid=NEXT_GID), ids=())
    for kid, whose in known.items():
        newer.learn(kid, private_key(whose).public_key, credential_of(whose))
    newer.adopt(older)
    assert set(newer.members) == adopted | set(known)
    for kid, whose in known.items():
        assert newer.member_with(private_key(whose).public_key.data, kid) == kid
