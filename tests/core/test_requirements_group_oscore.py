"""Requirements of Group OSCORE, and of RFC 8613 below it, stated one by one: docs/requirements/group-oscore-28.md.

What is derived, encrypted and signed is computed here a second time, from the specifications alone."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256, sha512
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from groupcoap.core import coap, responses
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CommonContext, CredentialNeeded, SecurityContext, SenderContext
from groupcoap.core.exchange import IncomingExchange
from groupcoap.core.group_oscore import GROUP_OSCORE, GroupOscore
from groupcoap.core.registry import Registry
from groupcoap.core.requests import (
    ChallengedRequest,
    DeliveredRequest,
    ProtectedRequest,
    SignatureState,
    Trace,
    admit,
    challenge_message,
    protect_request,
)
from groupcoap.core.responses import decrypt_response, protect_response
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.core.synchronization import Freshness
from groupcoap.cose.algorithms import (
    Kdf,
    aead_algorithm,
    encryption_algorithm,
    key_agreement,
)
from groupcoap.cose.credentials import Credential, CredentialKind, claims_set
from groupcoap.cose.keys import Ed25519PublicKey, signature_algorithm
from groupcoap.errors import MisuseError, Reason, UnsupportedAlgorithm
from groupcoap.secret import Secret
from support import (
    ADDRESS,
    CHALLENGE,
    EDDSA,
    ES256,
    GROUP,
    IDS,
    LISTENER,
    MULTICASTER,
    OTHER_LISTENER,
    Node,
    attempt,
    challenged,
    collect,
    counting_entropy,
    decrypt,
    deliver,
    install,
    option_of,
    over_the_wire,
    private_key,
    protect,
    receive,
    refused,
    request,
    response,
    snapshot,
    with_protection,
)

GID, NEXT_GID = b"Dal", b"Dam"
SECRET, SALT = bytes(range(16)), b"\x9e\x7c\xa9\x22"
P_25519 = 2**255 - 19


def credential(kid: bytes, signature: int = EDDSA) -> bytes:
    algorithm = signature_algorithm(signature)
    return claims_set(private_key(kid, signature).public_key, algorithm, f"member {kid.hex()}").authenticated


MANAGER = credential(b"manager")


def common(gid: bytes = GID, **changes: Any) -> CommonContext:
    """AES-CCM-16-64-128 for the group, ChaCha20/Poly1305 for two: keys and nonces of different lengths."""
    given: dict[str, Any] = {
        "profile": GROUP_OSCORE,
        "aead": aead_algorithm(24),
        "group_encryption": encryption_algorithm(10),
        "key_agreement": key_agreement(-27),
        "kdf": Kdf.HKDF_SHA_256,
        "signature": signature_algorithm(EDDSA),
        "master_secret": Secret(sha256(SECRET + gid).digest()),
        "master_salt": SALT,
        "manager_credential": MANAGER,
        "gid": gid,
    }
    return CommonContext(**given | changes)


def context(
    own_id: bytes,
    shared: CommonContext | None = None,
    ids: tuple[bytes, ...] = IDS,
    established: float | None = None,
) -> SecurityContext:
    shared = shared or common()
    number = shared.signature.number
    keys = {kid: private_key(kid, number).public_key for kid in ids if kid != own_id}
    credentials = {kid: credential(kid, number) for kid in keys}
    own = SenderContext(shared, own_id, private_key(own_id, number), SequenceNumbers(), credential(own_id, number))
    return SecurityContext(GROUP, shared, own, keys, credentials=credentials, established=established)


def member(own_id: bytes, shared: CommonContext | None = None, ids: tuple[bytes, ...] = IDS) -> Node:
    node = Node(Registry(), [])
    install(node, context(own_id, shared, ids))
    return node


def renewed(*nodes: Node, gid: bytes = NEXT_GID) -> None:
    for node in nodes:
        install(node, context(node.sender.sender_id, common(gid)))


def alone(node: Node, to: bytes, message: Message | None = None) -> ProtectedRequest:
    """A request in pairwise mode."""
    recipient = node.context.recipient(to)
    protected = protect_request(node.context, node.sender, message or request(), to=recipient)
    return ProtectedRequest(over_the_wire(protected.message), protected.exchange)


def answer(
    node: Node, exchange: IncomingExchange, message: Message | None = None, *, to: bytes | None = None, **more: Any
) -> Message:
    """A response for the group, or in pairwise mode."""
    whom = None if to is None else (node.context, node.context.recipient(to))
    return over_the_wire(protect_response(node.sender, exchange, message or response(), to=whom, **more))


def traced(protecting: Callable[[Callable[[Trace], None]], object]) -> Trace:
    traces: list[Trace] = []
    protecting(traces.append)
    (trace,) = traces
    return trace


def hkdf(secret: bytes, salt: bytes, info: list[Any], length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, cbor2.dumps(info)).derive(secret)


def secret_of(gid: bytes) -> bytes:
    return sha256(SECRET + gid).digest()


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


# ---- §2 Security Context


def test_keys_and_common_iv_come_from_the_five_element_info_and_the_group_encryption_algorithm() -> None:
    shared = common()
    secret = secret_of(GID)
    for kid in IDS:
        assert GROUP_OSCORE.derive_key(shared, kid).reveal() == hkdf(secret, SALT, [kid, GID, 10, "Key", 16], 16)
    assert shared.common_iv == hkdf(secret, SALT, [b"", GID, 10, "IV", 13], 13)
    assert shared.signature_encryption_key is not None
    assert shared.signature_encryption_key.reveal() == hkdf(secret, SALT, [b"", GID, 10, "SEKey", 16], 16)


def test_without_a_master_salt_it_is_empty() -> None:
    shared = common(master_salt=b"")
    assert shared.common_iv == hkdf(secret_of(GID), b"", [b"", GID, 10, "IV", 13], 13)


@pytest.mark.parametrize(
    ("aead", "group", "iv", "longest"),
    [(24, 10, 13, 6), (10, 24, 13, 6), (12, 10, 13, 1), (10, -65534, 13, 6), (12, 12, 7, 1), (None, 12, 7, 1)],
)
def test_the_common_iv_is_as_long_as_the_longer_nonce_and_sender_ids_as_the_shorter_allows(
    aead: int | None, group: int, iv: int, longest: int
) -> None:
    shared = common(
        aead=None if aead is None else aead_algorithm(aead),
        key_agreement=None if aead is None else key_agreement(-27),
        group_encryption=encryption_algorithm(group),
    )
    assert len(shared.common_iv) == iv
    shared.check_id(bytes(longest))
    with pytest.raises(MisuseError):
        shared.check_id(bytes(longest + 1))


def test_a_shorter_nonce_takes_the_start_of_the_common_iv() -> None:
    shared = common()
    for length in (13, 12, 7):
        padded = b"\x01" + b"\x52".rjust(length - 6, b"\0") + b"\x05".rjust(5, b"\0")
        kid = b"\x52"
        assert shared.nonce(kid, b"\x05", length) == xor(padded, shared.common_iv[:length])


def test_the_group_manager_s_credential_is_needed() -> None:
    with pytest.raises(MisuseError, match="Group Manager"):
        common(manager_credential=b"")


@pytest.mark.parametrize("number", [-65531, -65530, -65529])
def test_cbc_is_no_group_encryption_algorithm(number: int) -> None:
    with pytest.raises(UnsupportedAlgorithm):
        encryption_algorithm(number)


@pytest.mark.parametrize(("number", "length"), [(-65534, 16), (-65533, 24), (-65532, 32)])
def test_counter_mode_has_a_nonce_of_twelve_bytes_before_a_counter_from_zero_and_takes_no_aad(
    number: int, length: int
) -> None:
    key, nonce, data = bytes(range(length)), bytes(range(12)), bytes(100)
    cipher = encryption_algorithm(number).cipher(Secret(key))
    expected = Cipher(algorithms.AES(key), modes.CTR(nonce + bytes(4))).encryptor().update(data)
    assert cipher.encrypt(nonce, data, None) == expected
    assert cipher.decrypt(nonce, expected, None) == data
    with pytest.raises(MisuseError, match="associated data"):
        cipher.encrypt(nonce, data, b"")


@pytest.mark.parametrize(("kdf", "agreement"), [(Kdf.HKDF_SHA_256, -28), (Kdf.HKDF_SHA_512, -27)])
def test_the_key_agreement_uses_the_hkdf_of_the_group(kdf: Kdf, agreement: int) -> None:
    with pytest.raises(MisuseError, match=r"2\.1\.10"):
        common(kdf=kdf, key_agreement=key_agreement(agreement))


def test_the_algorithms_that_are_mandatory_to_implement_are_there() -> None:
    assert encryption_algorithm(10).name == aead_algorithm(10).name == "AES-CCM-16-64-128"
    assert encryption_algorithm(-65534).name == "A128CTR"
    assert key_agreement(-27).kdf is Kdf.HKDF_SHA_256
    for number in (EDDSA, ES256):  # and with their curves the pairwise mode, too
        shared = common(signature=signature_algorithm(number), aead=aead_algorithm(10))
        one, other = member(MULTICASTER, shared), member(LISTENER, shared)
        deliver(other, protect(one).message)
        deliver(other, alone(one, LISTENER).message, destination=None)


def test_a_credential_is_taken_as_it_came_but_for_its_tags() -> None:
    key = private_key(LISTENER).public_key
    claims = b"\xbf\x08\xa1\x01\xa3\x20\x06\x01\x01\x21\x58\x20" + key.data + b"\xff"  # in no canonical order
    for tags in (b"", b"\xd8\x3d", b"\xd9\x00\x3d"):
        ccs = Credential(CredentialKind.CCS, tags + claims)
        assert ccs.authenticated == claims
        assert ccs.public_key(signature_algorithm(EDDSA)).data == key.data
    with pytest.raises(MisuseError, match="raw"):
        _ = Credential(CredentialKind.RAW_KEY, key.data).authenticated


def pairwise_secret(private: bytes, public: bytes) -> bytes:
    """X25519 of two Ed25519 keys, by the maps of RFC 7748 §4.1."""
    y = int.from_bytes(public, "little") % 2**255
    u = (1 + y) * pow(1 - y, -1, P_25519) % P_25519
    scalar = X25519PrivateKey.from_private_bytes(sha512(private).digest()[:32])
    return scalar.exchange(X25519PublicKey.from_public_bytes(u.to_bytes(32, "little")))


def test_pairwise_keys_come_from_both_credentials_and_the_secret_of_two() -> None:
    node = member(MULTICASTER)
    pair = node.context.pairwise(node.context.recipient(LISTENER))
    private = private_key(MULTICASTER).secret.reveal()
    shared = pairwise_secret(private, private_key(LISTENER).public_key.data)
    own, others = credential(MULTICASTER), credential(LISTENER)
    secret = secret_of(GID)

    def key(kid: bytes, ikm: bytes) -> bytes:
        salt = hkdf(secret, SALT, [kid, GID, 10, "Key", 16], 16)
        return hkdf(ikm, salt, [kid, GID, 24, "Key", 32], 32)

    nonce = bytes(12)
    sender_key = key(MULTICASTER, own + others + shared)
    assert pair.outgoing.apply(nonce, b"x", b"aad") == ChaCha20Poly1305(sender_key).encrypt(nonce, b"x", b"aad")
    recipient_key = key(LISTENER, others + own + shared)
    assert pair.incoming.apply(nonce, ChaCha20Poly1305(recipient_key).encrypt(nonce, b"y", b""), b"") == b"y"


@pytest.mark.parametrize("y", [1, P_25519 - 1, 0], ids=["y = 1", "y = -1", "order 4"])
def test_no_secret_is_agreed_on_with_a_point_of_small_order(y: int) -> None:
    degenerate = Ed25519PublicKey(y.to_bytes(32, "little"))
    with pytest.raises(MisuseError):
        private_key(MULTICASTER).agree(degenerate)
    node = member(MULTICASTER)
    node.context.learn(LISTENER, degenerate, b"\xa0")
    assert attempt(lambda: node.context.pairwise(node.context.recipient(LISTENER))) is Reason.NO_PUBLIC_KEY


def test_a_point_that_is_not_on_its_curve_is_no_public_key() -> None:
    data = bytearray(private_key(LISTENER, ES256).public_key.data)
    data[-1] ^= 1
    with pytest.raises(MisuseError):
        signature_algorithm(ES256).public_key(bytes(data))


def test_pairwise_keys_are_kept_and_go_with_the_credential_the_member_and_the_gid() -> None:
    node = member(MULTICASTER)
    older = node.context
    before = older.pairwise(older.recipient(LISTENER))
    assert older.pairwise(older.recipient(LISTENER)) is before
    number = signature_algorithm(EDDSA)
    older.learn(LISTENER, private_key(b"new").public_key, claims_set(private_key(b"new").public_key, number).data)
    after = older.pairwise(older.recipient(LISTENER))
    assert after is not before
    renewed(node)
    newer = node.context
    kept = newer.pairwise(newer.recipient(LISTENER))
    assert kept is newer.pairwise(newer.recipient(LISTENER))
    # What late answers to older requests take is derived again.
    assert older.pairwise(older.recipient(LISTENER)) is not after
    newer.depart([LISTENER])
    assert attempt(lambda: newer.recipient(LISTENER)) is Reason.UNKNOWN_SENDER


def test_both_modes_take_their_numbers_from_one_space() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    numbers = [
        deliver(other, protect(one).message).sequence_number,
        deliver(other, alone(one, LISTENER).message, destination=None).sequence_number,
        deliver(other, protect(one).message).sequence_number,
    ]
    assert numbers == [0, 1, 2]


# ---- §3 The COSE Object, §4 Compression


def aad_array(trace: Trace) -> list[Any]:
    array: list[Any] = cbor2.loads(trace.external_aad)
    assert cbor2.loads(trace.aad) == ["Encrypt0", b"", trace.external_aad]
    return array


@pytest.mark.parametrize("pairwise", [False, True], ids=["group mode", "pairwise mode"])
def test_the_external_aad_names_algorithms_request_option_and_credentials(pairwise: bool) -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    to = one.context.recipient(LISTENER) if pairwise else None
    first = traced(lambda hook: protect_request(one.context, one.sender, request(), hook, to=to))
    flags = b"\x19" if pairwise else b"\x39"
    algorithm_ids = [24, 10, EDDSA, -27]
    option = flags + b"\x00\x03" + GID + MULTICASTER
    assert aad_array(first) == [
        1, algorithm_ids, MULTICASTER, b"\x00", b"", GID, option, credential(MULTICASTER), MANAGER
    ]  # fmt: skip
    asked = alone(one, LISTENER) if pairwise else protect(one)
    exchange = deliver(other, asked.message, destination=None).exchange
    to_requester = (other.context, other.context.recipient(MULTICASTER)) if pairwise else None
    second = traced(lambda hook: protect_response(other.sender, exchange, response(), to=to_requester, trace=hook))
    option = b"" if pairwise else b"\x28" + LISTENER
    assert aad_array(second) == [
        1, algorithm_ids, MULTICASTER, b"\x01", b"", GID, option, credential(LISTENER), MANAGER
    ]  # fmt: skip


def test_what_is_not_set_is_null_in_the_external_aad() -> None:
    one = member(MULTICASTER, common(aead=None, key_agreement=None))
    trace = traced(lambda hook: protect_request(one.context, one.sender, request(), hook))
    assert aad_array(trace)[1] == [None, 10, EDDSA, None]


@pytest.mark.parametrize("sign_protected", [True, False])
def test_the_payload_is_the_ciphertext_and_in_group_mode_the_encrypted_countersignature(
    sign_protected: bool,
) -> None:
    one = member(MULTICASTER, common(sign_protected=sign_protected))
    trace = traced(lambda hook: protect_request(one.context, one.sender, request(), hook))
    message = protect(one).message  # number 1
    ciphertext, encrypted = message.payload[:-64], message.payload[-64:]
    secret = secret_of(GID)
    key = hkdf(secret, SALT, [MULTICASTER, GID, 10, "Key", 16], 16)
    external_aad = cbor2.loads(trace.external_aad)
    external_aad[3], external_aad[6] = b"\x01", option_of(message)
    external = cbor2.dumps(external_aad)
    nonce = one.context.common.nonce(MULTICASTER, b"\x01")
    aad = cbor2.dumps(["Encrypt0", b"", external])
    assert AESCCM(key, tag_length=8).decrypt(nonce, ciphertext, aad) == b"\x01\xb5light"
    keystream = hkdf(hkdf(secret, SALT, [b"", GID, 10, "SEKey", 16], 16), b"\x01", [MULTICASTER, GID, True, 64], 64)
    signed = ["CounterSignature0", b"", *([b""] if sign_protected else []), external, ciphertext]
    public = private_key(MULTICASTER).public_key
    assert public.verify(xor(encrypted, keystream), cbor2.dumps(signed))
    assert cbor2.loads(trace.to_be_signed)[0] == "CounterSignature0"
    paired = alone(one, LISTENER).message
    assert len(paired.payload) == len(b"\x01\xb5light") + 16


@pytest.mark.parametrize("fresh", [False, True])
def test_the_keystream_of_an_answer_is_of_whoever_made_the_partial_iv(fresh: bool) -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    exchange = deliver(other, protect(one).message).exchange
    traces: list[Trace] = []
    message = answer(other, exchange, fresh=fresh, trace=traces.append)
    key = hkdf(secret_of(GID), SALT, [b"", GID, 10, "SEKey", 16], 16)
    generator = LISTENER if fresh else MULTICASTER
    keystream = hkdf(key, b"\x00", [generator, GID, False, 64], 64)
    signature = xor(message.payload[-64:], keystream)
    assert private_key(LISTENER).public_key.verify(signature, traces[0].to_be_signed)


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_countersignatures_are_taken_with_and_without_sign_protected(made: bool, own: bool) -> None:
    one, other = member(MULTICASTER, common(sign_protected=made)), member(LISTENER, common(sign_protected=own))
    protected = protect(one)
    exchange = deliver(other, protected.message).exchange
    assert collect(one, protected.exchange, answer(other, exchange)).signature is SignatureState.VERIFIED


def test_option_values_are_those_of_the_examples() -> None:
    shared = common()
    one = member(b"\x25", shared, (b"\x25", b"\x52"))
    other = member(b"\x52", shared, (b"\x25", b"\x52"))
    one.sender.numbers = SequenceNumbers(5)
    protected = protect(one)
    assert option_of(protected.message) == bytes.fromhex("39050344616c25")
    assert option_of(answer(other, deliver(other, protected.message).exchange)) == bytes.fromhex("2852")
    one.sender.numbers = SequenceNumbers(6)
    paired = alone(one, b"\x52")
    assert option_of(paired.message) == bytes.fromhex("19060344616c25")
    exchange = deliver(other, paired.message, destination=None).exchange
    assert option_of(answer(other, exchange, to=b"\x25")) == b""


@pytest.mark.parametrize("flag", [0x40, 0x80])
def test_reserved_bits_make_a_message_malformed(flag: int) -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one)
    option = bytearray(option_of(protected.message))
    option[0] |= flag
    with refused(Reason.MALFORMED):
        receive(other, with_protection(protected.message, bytes(option), protected.message.payload))
    answered = answer(other, deliver(other, protected.message).exchange)
    option = bytearray(option_of(answered))
    option[0] |= flag
    with refused(Reason.MALFORMED):
        collect(one, protected.exchange, with_protection(answered, bytes(option), answered.payload))


def test_the_kid_is_in_every_answer_but_those_for_one_who_asked_this_one_alone() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    asked, paired = protect(one), alone(one, LISTENER)
    to_all = deliver(other, asked.message).exchange
    to_one = deliver(other, paired.message, destination=None).exchange
    assert option_of(answer(other, to_all)).endswith(LISTENER)
    assert option_of(answer(other, to_all, to=MULTICASTER)).endswith(LISTENER)
    assert option_of(answer(other, to_one)).endswith(LISTENER)
    bare = answer(other, to_one, fresh=True, to=MULTICASTER)
    assert option_of(bare)[0] == 0x01  # a Partial IV, and nothing else
    assert collect(one, paired.exchange, bare).sender_id == LISTENER


# ---- what a message is bound to


@pytest.mark.parametrize(
    "changed",
    [
        {"manager_credential": credential(b"another manager")},
        {"aead": aead_algorithm(1)},
        {"aead": None, "key_agreement": None},
        {"signature": signature_algorithm(ES256)},
    ],
    ids=["group cloning", "AEAD Algorithm", "no pairwise mode", "Signature Algorithm"],
)
def test_a_message_is_bound_to_algorithms_and_to_the_group_s_manager(changed: dict[str, Any]) -> None:
    """Members with the same Master Secret, Master Salt and Gid do not understand it."""
    message = protect(member(MULTICASTER)).message
    before = snapshot(other := member(LISTENER, common(**changed)))
    with refused(Reason.DECRYPTION_FAILED):
        receive(other, message)
    assert snapshot(other) == before


def test_a_message_is_bound_to_its_whole_option() -> None:
    """Under the very same keys: only the Gid that stands in the option is another (cross-group injection)."""
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one)
    answered = answer(other, deliver(other, protected.message).exchange)
    longer = b"\x38" + b"\x03" + GID + LISTENER  # it says the Gid, which it need not
    forged = with_protection(answered, longer, answered.payload)
    assert attempt(lambda: collect(one, protected.exchange, forged)) is Reason.DECRYPTION_FAILED


def test_the_countersignature_alone_binds_to_the_option_in_counter_mode() -> None:
    counter = common(group_encryption=encryption_algorithm(-65534))
    one, other = member(MULTICASTER, counter), member(LISTENER, counter)
    protected = protect(one)
    answered = answer(other, deliver(other, protected.message).exchange)
    forged = with_protection(answered, b"\x38\x03" + GID + LISTENER, answered.payload)
    assert attempt(lambda: collect(one, protected.exchange, forged)) is Reason.SIGNATURE_FAILED


# ---- §5 Binding and replay, §7 Group mode


def test_a_listener_may_answer_a_group_request_again_and_no_answer_counts_twice() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one)
    exchange = deliver(other, protected.message).exchange
    first, second, third = (answer(other, exchange) for _ in range(3))
    assert [option_of(message)[0] & 7 for message in (first, second, third)] == [0, 1, 1]
    assert collect(one, protected.exchange, first).sequence_number is None
    with refused(Reason.REPLAY):  # at most one without Partial IV
        collect(one, protected.exchange, first)
    assert collect(one, protected.exchange, third).sequence_number == 1
    for old in (third, second):  # not greater than the Response Number
        with refused(Reason.NOTIFICATION_ORDER):
            collect(one, protected.exchange, old)


def test_an_answer_without_partial_iv_is_the_oldest() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one)
    exchange = deliver(other, protected.message).exchange
    first, second = answer(other, exchange), answer(other, exchange)
    collect(one, protected.exchange, second)
    with refused(Reason.REPLAY):
        collect(one, protected.exchange, first)


def test_under_a_new_security_context_response_numbers_begin_again() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    other.sender.numbers = SequenceNumbers(7)
    protected = protect(one)
    exchange = deliver(other, protected.message).exchange
    collect(one, protected.exchange, answer(other, exchange, fresh=True))
    renewed(one, other)
    later = answer(other, exchange)
    assert option_of(later) == b"\x39\x00\x03" + NEXT_GID + LISTENER  # own Partial IV, and the new Gid
    assert collect(one, protected.exchange, later).sequence_number == 0


def test_after_a_renewal_answers_are_bound_to_kid_and_gid_of_the_request() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one)
    exchange = deliver(other, protected.message).exchange
    renewed(one, other)
    trace = traced(lambda hook: protect_response(other.sender, exchange, response(), trace=hook))
    array = aad_array(trace)
    assert (array[2], array[3], array[5]) == (MULTICASTER, b"\x00", GID)
    assert trace.option == b"\x39\x00\x03" + NEXT_GID + LISTENER  # the first, and yet with a Partial IV of its own
    assert collect(one, protected.exchange, answer(other, exchange)).gid == NEXT_GID


def test_whoever_has_a_new_sender_id_does_not_go_on_answering() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one)
    exchange = deliver(other, protected.message).exchange
    collect(one, protected.exchange, answer(other, exchange))
    shared = one.context.common
    new_id = b"\x54"
    own = SenderContext(shared, new_id, private_key(LISTENER), SequenceNumbers(), credential(LISTENER))
    one.context.learn(new_id, private_key(LISTENER).public_key, credential(LISTENER))
    late = over_the_wire(protect_response(own, exchange, response()))
    with refused(Reason.OTHER_RESPONDER):
        collect(one, protected.exchange, late)


def test_who_was_asked_alone_answers_and_nobody_else() -> None:
    one, other, third = member(MULTICASTER), member(LISTENER), member(OTHER_LISTENER)
    paired = alone(one, LISTENER)
    exchange = deliver(other, paired.message, destination=None).exchange
    stranger = over_the_wire(protect_response(third.sender, exchange, response()))
    with refused(Reason.OTHER_RESPONDER):
        collect(one, paired.exchange, stranger)
    assert collect(one, paired.exchange, answer(other, exchange)).signature is SignatureState.VERIFIED


@pytest.mark.parametrize(
    ("encryption", "reason"), [(10, Reason.SIGNATURE_FAILED), (-65534, Reason.SIGNATURE_FAILED)]
)
@pytest.mark.parametrize("asking", [True, False])
def test_nothing_inside_is_looked_at_before_the_countersignature_is_verified(
    encryption: int, reason: Reason, asking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member speaks as another: what it has written must not matter, nor be decrypted in counter mode."""
    shared = common(group_encryption=encryption_algorithm(encryption))
    one, other = member(MULTICASTER, shared), member(LISTENER, shared)
    (one if asking else other).sender.private_key = private_key(b"somebody else")
    protected = protect(one, request(coap.PUT))
    exchange = None if asking else deliver(other, protected.message).exchange
    message = protected.message if exchange is None else answer(other, exchange)

    def look(*_: object) -> Message:
        raise AssertionError("it was looked at")

    monkeypatch.setattr(GroupOscore, "join", look)
    monkeypatch.setattr(GroupOscore, "reveal", look)
    receiver = other if asking else one
    before = snapshot(receiver)
    if asking:
        decrypted = decrypt(other, message)
        for see in (decrypted.peek_resource, lambda: decrypted.has_option(frozenset({coap.REPEAT}))):
            with pytest.raises(MisuseError):
                see()
        assert decrypted.signature_needed()
        with refused(reason):
            decrypted.check_signature()
    else:
        unverified = decrypt_response(one.registry, protected.exchange, message)
        with refused(reason):
            unverified.check_signature()
    assert snapshot(receiver) == before


def test_what_is_malformed_inside_comes_to_light_after_the_countersignature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    monkeypatch.setattr(GroupOscore, "split", lambda *_: (coap.POST, (), b"\x45wrong code"))
    decrypted = decrypt(other, protect(one).message)
    with refused(Reason.MALFORMED):
        decrypted.check_signature()


@pytest.mark.parametrize("pairwise", [False, True], ids=["group mode", "pairwise mode"])
def test_without_the_sender_s_credential_processing_stops_until_it_is_there(pairwise: bool) -> None:
    one, other = member(MULTICASTER), member(LISTENER, ids=(OTHER_LISTENER, LISTENER))
    message = alone(one, LISTENER).message if pairwise else protect(one).message
    before = snapshot(other)
    with pytest.raises(CredentialNeeded) as needed:
        decrypt(other, message, destination=None)
    assert (needed.value.sender_id, needed.value.context) == (MULTICASTER, other.context)
    assert snapshot(other) == before
    other.context.learn(MULTICASTER, private_key(MULTICASTER).public_key, credential(MULTICASTER))
    deliver(other, message, destination=None)


def test_a_recipient_context_is_kept_only_once_its_message_has_passed() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    one.sender.private_key = private_key(b"somebody else")
    with refused(Reason.SIGNATURE_FAILED):
        receive(other, protect(one).message)
    assert not list(other.context.recipients)


def test_a_message_with_our_own_sender_id_is_refused() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    for protected in (protect(one), alone(one, LISTENER)):
        with refused(Reason.OWN_MESSAGE):
            decrypt(one, protected.message, destination=None)
    exchange = deliver(other, protect(one).message).exchange
    assert exchange.kid == MULTICASTER


def test_pairwise_mode_where_there_is_none_is_refused() -> None:
    one, other = member(MULTICASTER), member(LISTENER, common(aead=None, key_agreement=None))
    with refused(Reason.NO_PAIRWISE_MODE):
        decrypt(other, alone(one, LISTENER).message, destination=None)
    with pytest.raises(MisuseError, match="pairwise"):
        alone(other, MULTICASTER)


def test_a_request_in_pairwise_mode_is_understood_by_its_recipient_alone() -> None:
    one, other, third = member(MULTICASTER), member(LISTENER), member(OTHER_LISTENER)
    message = alone(one, LISTENER, request(coap.PUT, payload=b"on")).message
    before = snapshot(third)
    for destination in (None, ADDRESS):
        with refused(Reason.DECRYPTION_FAILED):
            receive(third, message, destination=destination)
    assert snapshot(third) == before
    assert deliver(other, message, destination=None).signature is SignatureState.PAIRWISE


def test_a_request_in_group_mode_that_came_by_unicast_may_only_read() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    for code in (coap.PUT, coap.POST, coap.DELETE):
        with refused(Reason.UNICAST_METHOD):
            receive(other, protect(one, request(code)).message, destination=None)
        deliver(other, protect(one, request(code)).message)
        deliver(other, alone(one, LISTENER, request(code)).message, destination=None)
    deliver(other, protect(one, request(coap.GET)).message, destination=None)


# ---- §9 Challenge–response


def challenge(one: Node, other: Node, now: float = 0.0) -> tuple[Message, bytes]:
    """(the protected challenge, its value)"""
    entropy = counting_entropy()
    protected = protect(one)
    outcome = challenged(other, protected.message, now=now, entropy=entropy)
    asked = answer(other, outcome.exchange, challenge_message(request(), outcome.repeat, coap.UNAUTHORIZED))
    return asked, outcome.repeat


@pytest.mark.parametrize("pairwise", [False, True], ids=["group mode", "pairwise mode"])
def test_the_first_request_is_challenged_and_its_echo_makes_the_window_valid(pairwise: bool) -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one)
    outcome = challenged(other, protected.message, entropy=counting_entropy())
    assert GROUP_OSCORE.rules.challenge_code == coap.UNAUTHORIZED
    asked = answer(other, outcome.exchange, challenge_message(request(), outcome.repeat, coap.UNAUTHORIZED))
    assert option_of(asked)[0] & 7 == 1  # a Partial IV of its own
    got = collect(one, protected.exchange, asked)
    assert got.message.code == coap.UNAUTHORIZED
    assert got.message.options == ((coap.REPEAT, outcome.repeat),)
    assert got.message.payload == b""
    skipped = protect(one).message  # number 1, held back
    another = request(coap.GET, (coap.URI_PATH, b"temperature"), (coap.REPEAT, outcome.repeat))
    echo = alone(one, LISTENER, another) if pairwise else protect(one, another)
    delivered = deliver(other, echo.message, policy=CHALLENGE, destination=None)
    assert delivered.freshness is Freshness.FRESH  # the request need not be the same one
    with refused(Reason.REPLAY):  # the echo's number is the lower limit
        receive(other, skipped, policy=CHALLENGE)
    deliver(other, protect(one).message, policy=CHALLENGE)


def test_a_wrong_echo_value_is_not_processed_and_challenged_again() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    challenge(one, other)
    wrong = alone(one, LISTENER, request(coap.GET, (coap.URI_PATH, b"a"), (coap.REPEAT, b"not what was asked")))
    outcome = challenged_alone(other, wrong.message, now=2.0)
    assert len(outcome) == 8


def challenged_alone(node: Node, message: Message, now: float) -> bytes:
    decrypted = decrypt(node, message, policy=CHALLENGE, destination=None, now=now)
    outcome = admit(decrypted.check_signature(), now, counting_entropy())
    assert isinstance(outcome, ChallengedRequest)
    return outcome.repeat


def test_where_the_window_is_valid_an_echo_leaves_it_as_it_is() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    _, value = challenge(one, other)
    earlier = alone(one, LISTENER, request(coap.GET, (coap.URI_PATH, b"a"), (coap.REPEAT, value)))
    deliver(other, earlier.message, policy=CHALLENGE, destination=None)
    with refused(Reason.REPLAY):
        receive(other, earlier.message, policy=CHALLENGE, destination=None)


def test_echo_values_end_with_their_security_context() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    _, value = challenge(one, other)
    late = alone(one, LISTENER, request(coap.GET, (coap.URI_PATH, b"a"), (coap.REPEAT, value)))
    renewed(one, other)
    with refused(Reason.CONTEXT_RETIRED):
        receive(other, late.message, policy=CHALLENGE, destination=None)
    other.contexts[0].accepts_requests = True  # a policy with a grace for late senders
    assert challenged_alone(other, late.message, now=0.0) != b""
    again = alone(one, LISTENER, request(coap.GET, (coap.URI_PATH, b"a"), (coap.REPEAT, value)))
    assert challenged_alone(other, again.message, now=0.0) != b""


def test_a_request_under_keys_that_are_new_needs_no_value_that_is_known() -> None:
    one = member(MULTICASTER)
    echo = request(coap.GET, (coap.URI_PATH, b"a"), (coap.REPEAT, b"of somebody before us"))
    for now, young in ((10.0, True), (40.0, False)):
        other = Node(Registry(), [])
        install(other, context(LISTENER, established=0.0))
        message = alone(one, LISTENER, echo).message
        decrypted = decrypt(other, message, policy=CHALLENGE, destination=None, now=now)
        outcome = admit(decrypted.check_signature(), now, counting_entropy())
        assert isinstance(outcome, DeliveredRequest) is young


def test_an_echo_does_not_come_by_multicast() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    _, value = challenge(one, other)
    echo = protect(one, request(coap.GET, (coap.URI_PATH, b"a"), (coap.REPEAT, value)))
    with refused(Reason.REPEAT_BY_MULTICAST):
        receive(other, echo.message, policy=CHALLENGE, now=2.0)


# ---- RFC 8613


def observing(value: bytes = b"") -> Message:
    return request(coap.GET, (coap.OBSERVE, value), (coap.URI_PATH, b"light"))


@pytest.mark.parametrize("value", [b"", b"\x01"], ids=["registration", "cancellation"])
def test_observe_is_inside_and_outside_with_the_same_value(value: bytes) -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one, observing(value))
    assert protected.message.code == coap.FETCH
    assert protected.message.option(coap.OBSERVE) == value
    for outside in ((), ((coap.OBSERVE, b""),), ((coap.OBSERVE, b"\x01"),)):  # whatever a proxy makes of it
        option = (coap.OBJECT_SECURITY, option_of(protected.message))
        other = member(LISTENER)
        delivered = deliver(other, protected.message._replace(options=(*outside, option)))
        assert delivered.message == observing(value)


def test_an_observe_from_outside_registers_nothing() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one)
    options = ((coap.OBSERVE, b""), *protected.message.options)
    assert deliver(other, protected.message._replace(options=options)).message == request()


def test_inner_observe_of_a_notification_is_empty_and_the_outer_one_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responses, "_needs_own_partial_iv", lambda message: False)  # as servers of others may do
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one, observing())
    exchange = deliver(other, protected.message).exchange
    notification = response(coap.CONTENT, (coap.OBSERVE, b"\x0c"))
    first, second, third = (answer(other, exchange, notification) for _ in range(3))
    assert first.code == coap.CONTENT
    assert first.option(coap.OBSERVE) == b"\x0c"
    assert [option_of(message)[0] & 7 for message in (first, second)] == [0, 1]  # the first may be without
    for message, outer in ((first, b"\x0c"), (second, b"\x01"), (third, None)):
        outside = () if outer is None else ((coap.OBSERVE, outer),)
        sent = message._replace(options=(*outside, (coap.OBJECT_SECURITY, option_of(message))))
        got = collect(one, protected.exchange, sent)
        assert got.notification
        assert got.message.option(coap.OBSERVE) == b""


def test_a_response_is_made_no_notification_from_outside() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one, observing())
    plain = answer(other, deliver(other, protected.message).exchange)
    options = ((coap.OBSERVE, b"\x05"), *plain.options)
    assert not collect(one, protected.exchange, plain._replace(options=options)).notification


def test_a_notification_for_a_request_that_observes_nothing_is_refused() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    protected = protect(one)
    exchange = deliver(other, protected.message).exchange
    notification = answer(other, exchange, response(coap.CONTENT, (coap.OBSERVE, b"\x01")))
    with refused(Reason.NOT_OBSERVED):
        collect(one, protected.exchange, notification)


def test_each_registration_has_a_partial_iv_of_its_own() -> None:
    one = member(MULTICASTER)
    assert option_of(protect(one, observing()).message)[1] == 0
    assert option_of(protect(one, observing()).message)[1] == 1


def test_an_option_value_whose_flags_are_all_zero_is_empty() -> None:
    one, other = member(MULTICASTER), member(LISTENER)
    paired = alone(one, LISTENER)
    message = answer(other, deliver(other, paired.message, destination=None).exchange, to=MULTICASTER)
    assert option_of(message) == b""
    with refused(Reason.MALFORMED):
        collect(one, paired.exchange, with_protection(message, b"\x00", message.payload))
    collect(one, paired.exchange, message)
