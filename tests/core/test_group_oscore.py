"""The wire profile of Group OSCORE: derivation, AAD, countersignature, option and sealing against a second
computation from the specification's words, and whole round trips in both modes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha512
from itertools import product
from typing import Any, NamedTuple

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message, Options
from groupcoap.core.contexts import CommonContext, SecurityContext, SenderContext, pairwise_context
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.option import decode_prefix
from groupcoap.core.profile import RequestIds
from groupcoap.core.registry import Registry
from groupcoap.core.requests import Trace, protect_request
from groupcoap.core.responses import protect_response
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.core.synchronization import SynchronizationPolicy
from groupcoap.cose.algorithms import (
    AEAD_ALGORITHMS,
    COUNTER_ALGORITHMS,
    DEFAULT_AEAD,
    Kdf,
    encryption_algorithm,
    key_agreement,
    key_agreement_for,
)
from groupcoap.cose.keys import DEFAULT_SIGNATURE, SignatureAlgorithm, signature_algorithm
from groupcoap.errors import MisuseError, Reason, Rejected
from groupcoap.secret import Secret
from support import (
    A128CTR,
    ADDRESS,
    BASELINE,
    BEST_EFFORT,
    CHACHA20,
    EDDSA,
    ES256,
    ES384,
    GID,
    GROUP,
    LISTENER,
    MANAGER,
    MASTER_SALT,
    MULTICASTER,
    NEXT_GID,
    OTHER_LISTENER,
    Node,
    answer,
    collect,
    common_context,
    credential_of,
    deliver,
    flipped_bits,
    groups_of,
    install,
    make_node,
    messages,
    option_of,
    over_the_wire,
    private_key,
    protect,
    receive,
    refused,
    renew,
    request,
    request_codes,
    response,
    response_codes,
    snapshot,
    with_protection,
)


@pytest.fixture(scope="module", autouse=True)
def group_oscore() -> Iterator[None]:
    """All groups here are of this profile."""
    with groups_of(GROUP_OSCORE):
        yield


HASHES: dict[Kdf, hashes.HashAlgorithm] = {
    Kdf.HKDF_SHA_256: hashes.SHA256(),
    Kdf.HKDF_SHA_384: hashes.SHA384(),
    Kdf.HKDF_SHA_512: hashes.SHA512(),
}
SIGNATURES = {"EdDSA": EDDSA, "ES256": ES256, "ES384": ES384}

aeads = pytest.mark.parametrize("aead", AEAD_ALGORITHMS)
kdfs = pytest.mark.parametrize("kdf", Kdf, ids=lambda kdf: kdf.value)
signatures = pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES)
modes = pytest.mark.parametrize("pairwise", [False, True], ids=["group", "pairwise"])
encryptions = st.sampled_from([*AEAD_ALGORITHMS, *COUNTER_ALGORITHMS])

# Group Encryption Algorithms of the three kinds: AEAD with nonces of 13 and 12 bytes, and counter mode
ENCRYPTIONS = {"AES-CCM": 10, "ChaCha20/Poly1305": CHACHA20, "A128CTR": A128CTR}
every_encryption = pytest.mark.parametrize("encryption", ENCRYPTIONS.values(), ids=ENCRYPTIONS)


def hkdf(kdf: Kdf, salt: bytes, secret: bytes, info: list[object], length: int) -> bytes:
    derivation = HKDF(algorithm=HASHES[kdf], length=length, salt=salt, info=cbor2.dumps(info, canonical=True))
    return derivation.derive(secret)


# ---- keys (§2.1.4, §2.1.9, §2.3)


@kdfs
@aeads
@pytest.mark.parametrize("encryption", [None, 10, 12, CHACHA20, A128CTR, -65533, -65532])
def test_keys_and_common_iv_come_from_the_five_element_info_and_the_master_salt(
    aead: int, encryption: int | None, kdf: Kdf
) -> None:
    common = common_context(aead=aead, kdf=kdf, group_encryption=encryption)
    used = AEAD_ALGORITHMS[aead] if encryption is None else encryption_algorithm(encryption)
    secret = common.master_secret.reveal()

    def expected(kid: bytes, kind: str, length: int) -> bytes:
        return hkdf(kdf, MASTER_SALT, secret, [kid, GID, used.number, kind, length], length)

    longest = max(used.nonce_length, AEAD_ALGORITHMS[aead].nonce_length)
    assert common.common_iv == expected(b"", "IV", longest)
    assert common.signature_encryption_key is not None
    assert common.signature_encryption_key.reveal() == expected(b"", "SEKey", used.key_length)
    for kid in (b"", MULTICASTER):
        assert GROUP_OSCORE.derive_key(common, kid).reveal() == expected(kid, "Key", used.key_length)


def test_without_an_aead_algorithm_the_common_iv_has_the_length_of_the_other_ones_nonces() -> None:
    common = group_with(aead=None, key_agreement=None, group_encryption=encryption_algorithm(A128CTR))
    assert common.common_iv == hkdf(Kdf.HKDF_SHA_256, b"", bytes(16), [b"", GID, A128CTR, "IV", 12], 12)
    with pytest.raises(MisuseError, match="pairwise mode"):
        GROUP_OSCORE.derive_pairwise_key(common, LISTENER, Secret(b"salt"), Secret(b"secret"))


@pytest.mark.parametrize("salt", [b"", b"\0", bytes(40)], ids=len)
def test_the_master_salt_may_be_empty(salt: bytes) -> None:
    common = group_with(master_salt=salt)
    key = GROUP_OSCORE.derive_key(common, LISTENER).reveal()
    assert key == hkdf(Kdf.HKDF_SHA_256, salt, bytes(16), [LISTENER, GID, 10, "Key", 16], 16)


def group_with(**changed: Any) -> CommonContext:
    parameters: dict[str, Any] = {
        "profile": GROUP_OSCORE,
        "aead": DEFAULT_AEAD,
        "kdf": Kdf.HKDF_SHA_256,
        "signature": DEFAULT_SIGNATURE,
        "master_secret": Secret(bytes(16)),
        "gid": GID,
        "key_agreement": key_agreement(-27),
        "manager_credential": MANAGER,
    }
    return CommonContext(**parameters | changed)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"manager_credential": b""}, "Group Manager"),
        ({"kdf": Kdf.HKDF_SHA_512}, "does not go with HKDF-SHA512"),
        ({"kdf": Kdf.HKDF_SHA_384}, "does not go with HKDF-SHA384"),
        ({"key_agreement": key_agreement(-28)}, "does not go with HKDF-SHA256"),
        ({"gid": b""}, "1 to 248 bytes"),
        ({"gid": bytes(249)}, "1 to 248 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_parameters_that_do_not_go_together_are_refused(changed: dict[str, Any], what: str) -> None:
    with pytest.raises(MisuseError, match=what):
        group_with(**changed)


def test_the_nonce_takes_the_common_ivs_start_as_in_the_example() -> None:
    common = common_context(aead=10, group_encryption=12)
    common.common_iv = bytes.fromhex("00112233445566778899aabbcc")
    assert common.nonce(b"", b"\0", 7).hex() == "00112233445566"
    assert common.nonce(b"", b"\0") == common.nonce(b"", b"\0", 7)
    assert common.nonce(b"\x25", b"\x05", 7).hex() == "01342233445563"
    assert common.nonce(b"\x25", b"\x05", 13).hex() == "011122334455665288" + "99aabbc9"


# ---- pairwise keys (§2.5)


def x25519(own: bytes, other: bytes) -> bytes:
    """What the Endpoint IDs' Ed25519 keys share, by RFC 7748."""
    p = (1 << 255) - 19
    y = int.from_bytes(private_key(other).public_key.data, "little") & ((1 << 255) - 1)
    u = (1 + y) * pow(1 - y, -1, p) % p
    scalar = sha512(private_key(own).secret.reveal()).digest()[:32]
    peer = X25519PublicKey.from_public_bytes(u.to_bytes(32, "little"))
    return X25519PrivateKey.from_private_bytes(scalar).exchange(peer)


@pytest.mark.parametrize("kdf", [Kdf.HKDF_SHA_256, Kdf.HKDF_SHA_512], ids=lambda kdf: kdf.value)
@aeads
@every_encryption
def test_pairwise_keys_come_from_both_credentials_the_shared_secret_and_the_sender_key(
    aead: int, encryption: int, kdf: Kdf
) -> None:
    common = common_context(aead=aead, group_encryption=encryption, kdf=kdf)
    own, other = b"\x01", b"\x52"
    node = make_node(own, common)
    keys = pairwise_context(node.sender, node.context.recipient(other))
    algorithm = AEAD_ALGORITHMS[aead]
    nonce, length = bytes(algorithm.nonce_length), algorithm.key_length

    def expected(sender: bytes, recipient: bytes) -> Secret:
        credentials = credential_of(sender) + credential_of(recipient)
        salt = GROUP_OSCORE.derive_key(common, sender).reveal()
        info: list[object] = [sender, GID, aead, "Key", length]
        return Secret(hkdf(kdf, salt, credentials + x25519(own, other), info, length))

    sealed = keys.outgoing.apply(nonce, b"message", b"aad")
    assert sealed == algorithm.cipher(expected(own, other)).encrypt(nonce, b"message", b"aad")
    sealed = algorithm.cipher(expected(other, own)).encrypt(nonce, b"message", b"aad")
    assert keys.incoming.apply(nonce, sealed, b"aad") == b"message"


@signatures
def test_what_one_sends_with_the_other_receives_with_and_no_two_pairs_have_the_same_key(signature: int) -> None:
    common = common_context(signature=signature)
    ids = (MULTICASTER, LISTENER, OTHER_LISTENER)
    keys = {
        (own, other): make_node(own, common).context.pairwise(make_node(own, common).context.recipient(other))
        for own, other in product(ids, ids)
        if own != other
    }
    nonce = bytes(13)
    sealed = {pair: found.outgoing.apply(nonce, b"message", b"") for pair, found in keys.items()}
    assert len(set(sealed.values())) == 6
    for (own, other), ciphertext in sealed.items():
        assert keys[other, own].incoming.apply(nonce, ciphertext, b"") == b"message"


# ---- what binds a message (§3.4)


class Opened(NamedTuple):
    """What a message shows to somebody who has the group's keys, computed a second time."""

    option: bytes
    aad: list[Any]
    ciphertext: bytes
    signature: bytes
    trace: Trace


def keystream(common: CommonContext, partial_iv: bytes, generator: bytes, *, is_request: bool) -> bytes:
    key = common.signature_encryption_key
    assert key is not None
    length = common.signature_length
    return hkdf(common.kdf, partial_iv, key.reveal(), [generator, common.gid, is_request, length], length)


def taken_apart(
    common: CommonContext, message: Message, trace: Trace, partial_iv: bytes, generator: bytes, *, is_request: bool
) -> Opened:
    length = common.signature_length
    encrypted = message.payload[-length:]
    stream = keystream(common, partial_iv, generator, is_request=is_request)
    signature = bytes(a ^ b for a, b in zip(encrypted, stream, strict=True))
    aad = cbor2.loads(trace.external_aad)
    assert trace.external_aad == cbor2.dumps(aad, canonical=True)
    return Opened(option_of(message), aad, message.payload[:-length], signature, trace)


def traced(node: Node, message: Message | None = None, *, to: bytes | None = None) -> tuple[Message, Any, Trace]:
    """A protected request, its exchange and its trace."""
    traces: list[Trace] = []
    recipient = None if to is None else node.context.recipient(to)
    protected = protect_request(node.context, node.sender, message or request(), traces.append, to=recipient)
    return over_the_wire(protected.message), protected.exchange, traces[0]


def traced_answer(node: Node, exchange: Any, **how: Any) -> tuple[Message, Trace]:
    traces: list[Trace] = []
    return answer(node, exchange, trace=traces.append, **how), traces[0]


@kdfs
@signatures
@every_encryption
@modes
def test_the_external_aad_of_a_request_has_nine_elements(
    encryption: int, signature: int, kdf: Kdf, pairwise: bool
) -> None:
    common = common_context(group_encryption=encryption, signature=signature, kdf=kdf)
    agreement = key_agreement_for(kdf)
    sender = make_node(MULTICASTER, common, first=258)
    if pairwise and agreement is None:
        with pytest.raises(MisuseError):
            traced(sender, to=LISTENER)
        return
    message, _, trace = traced(sender, to=LISTENER if pairwise else None)
    algorithms = [10, encryption, signature, None if agreement is None else agreement.number]
    expected = [
        1,
        algorithms,
        MULTICASTER,
        b"\x01\x02",
        b"",
        GID,
        option_of(message),
        credential_of(MULTICASTER, signature),
        MANAGER,
    ]
    assert cbor2.loads(trace.external_aad) == expected
    assert trace.external_aad == cbor2.dumps(expected, canonical=True)
    assert trace.aad == cbor2.dumps(["Encrypt0", b"", trace.external_aad], canonical=True)
    assert GROUP_OSCORE.external_aad(
        common, RequestIds(MULTICASTER, b"\x01\x02", GID), option_of(message), sender.sender.author
    ) == (trace.external_aad)


@pytest.mark.parametrize("length", [23, 24, 25])
def test_an_option_of_any_length_enters_it_as_cbor_has_it(length: int) -> None:
    sender = make_node(
        MULTICASTER, common_context(gid=bytes(length - 4))
    )  # flags, Partial IV, length of the Gid, kid
    _, _, trace = traced(sender)
    external_aad = cbor2.loads(trace.external_aad)
    assert len(external_aad[6]) == length
    assert trace.aad == cbor2.dumps(["Encrypt0", b"", cbor2.dumps(external_aad)])


def test_an_algorithm_that_is_not_set_is_null_in_it() -> None:
    common = group_with(aead=None, key_agreement=None, group_encryption=encryption_algorithm(10))
    _, _, trace = traced(make_node(MULTICASTER, common))
    assert cbor2.loads(trace.external_aad)[1] == [None, 10, EDDSA, None]


@modes
@pytest.mark.parametrize("asked_alone", [False, True], ids=["asked group", "asked alone"])
@pytest.mark.parametrize("fresh", [False, True], ids=["the request's nonce", "its own nonce"])
def test_the_external_aad_of_a_response_holds_the_requests_ids_and_its_own_option_and_sender(
    pairwise: bool, asked_alone: bool, fresh: bool
) -> None:
    sender, listener = make_node(MULTICASTER, first=7), make_node(LISTENER, first=20)
    message, _, _ = traced(sender, to=LISTENER if asked_alone else None)
    reply, trace = traced_answer(listener, deliver(listener, message).exchange, pairwise=pairwise, fresh=fresh)
    assert cbor2.loads(trace.external_aad) == [
        1,
        [10, 10, EDDSA, -27],
        MULTICASTER,
        b"\x07",
        b"",
        GID,
        option_of(reply),
        credential_of(LISTENER),
        MANAGER,
    ]


def test_the_gid_of_the_request_stays_in_it_after_a_renewal() -> None:
    sender, listener = make_node(MULTICASTER, first=7), make_node(LISTENER)
    message, outgoing, _ = traced(sender)
    incoming = deliver(listener, message).exchange
    renew(sender, listener)
    reply, trace = traced_answer(listener, incoming)
    aad = cbor2.loads(trace.external_aad)
    assert (aad[2], aad[3], aad[5]) == (MULTICASTER, b"\x07", GID)
    assert NEXT_GID in option_of(reply)
    opened = taken_apart(listener.context.common, reply, trace, b"\0", LISTENER, is_request=False)
    assert private_key(LISTENER).public_key.verify(opened.signature, trace.to_be_signed)
    assert collect(sender, outgoing, reply).gid == NEXT_GID


# ---- the countersignature (§3.1, §4.1, §4.2)


def structure(opened: Opened, *, sign_protected: bool) -> bytes:
    external_aad = opened.trace.external_aad
    empty = [b"", b""] if sign_protected else [b""]
    return cbor2.dumps(["CounterSignature0", *empty, external_aad, opened.ciphertext], canonical=True)


@kdfs
@signatures
@every_encryption
@pytest.mark.parametrize("sign_protected", [True, False], ids=["with sign_protected", "without"])
def test_countersignatures_are_over_external_aad_and_ciphertext_and_encrypted(
    encryption: int, signature: int, kdf: Kdf, sign_protected: bool
) -> None:
    common = common_context(
        group_encryption=encryption, signature=signature, kdf=kdf, sign_protected=sign_protected
    )
    sender, listener = make_node(MULTICASTER, common, first=300), make_node(LISTENER, common, first=77)
    message, _, trace = traced(sender)
    incoming = deliver(listener, message).exchange
    first, first_trace = traced_answer(listener, incoming)
    later, later_trace = traced_answer(listener, incoming)
    for taken, kid in (
        (taken_apart(common, message, trace, b"\x01\x2c", MULTICASTER, is_request=True), MULTICASTER),
        (taken_apart(common, first, first_trace, b"\x01\x2c", MULTICASTER, is_request=False), LISTENER),
        (taken_apart(common, later, later_trace, b"\x4d", LISTENER, is_request=False), LISTENER),
    ):
        signed = structure(taken, sign_protected=sign_protected)
        assert taken.trace.to_be_signed == signed
        assert private_key(kid, signature).public_key.verify(taken.signature, signed)
        key = GROUP_OSCORE.derive_key(common, kid)
        aad = taken.trace.aad if common.encryption.tag_length else None
        decrypted = common.encryption.cipher(key).decrypt(taken.trace.nonce, taken.ciphertext, aad)
        assert decrypted == taken.trace.plaintext


@every_encryption
@pytest.mark.parametrize("sign_protected", [True, False], ids=["with sign_protected", "without"])
def test_either_form_is_accepted_and_no_other(encryption: int, sign_protected: bool) -> None:
    one = common_context(group_encryption=encryption, sign_protected=sign_protected)
    other = common_context(group_encryption=encryption, sign_protected=not sign_protected)
    sender, listener = make_node(MULTICASTER, one), make_node(LISTENER, other)
    message, outgoing, _ = traced(sender)
    reply = answer(listener, deliver(listener, message).exchange)
    assert collect(sender, outgoing, reply).message == response()


@every_encryption
@pytest.mark.parametrize("context", ["CounterSignature", "CounterSignature0V2", "Signature1", "Encrypt0"])
def test_a_signature_over_another_structure_is_refused(
    monkeypatch: pytest.MonkeyPatch, encryption: int, context: str
) -> None:
    common = common_context(group_encryption=encryption)
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common)
    key = sender.sender.private_key

    class Otherwise:
        """Signs the same under another context."""

        public_key = key.public_key
        secret = key.secret
        agree = staticmethod(key.agree)

        @staticmethod
        def sign(message: bytes) -> bytes:
            return key.sign(cbor2.dumps([context, *cbor2.loads(message)[1:]]))

    monkeypatch.setattr(sender.sender, "private_key", Otherwise())
    with refused(Reason.SIGNATURE_FAILED):
        receive(listener, protect(sender).message)


def test_signatures_are_not_to_be_seen() -> None:
    """EdDSA is deterministic: if it were in clear, one message under two numbers would be known by its R."""
    sender = make_node(MULTICASTER)
    payload = protect(sender).message.payload
    for kid in (MULTICASTER, LISTENER):
        assert private_key(kid).sign(payload[:-64]) != payload[-64:]
    message, _, trace = traced(sender)
    assert not private_key(MULTICASTER).public_key.verify(message.payload[-64:], trace.to_be_signed)


# ---- the option (§4.1, §4.3)


def test_the_option_is_laid_out_as_in_the_examples() -> None:
    common = common_context(gid=b"Dal")
    client, server = b"\x25", b"\x52"
    asking = make_node(client, common, ids=(client, server), first=5)
    answering = make_node(server, common, ids=(client, server))
    group, _, _ = traced(asking)
    alone, _, _ = traced(asking, to=server)
    assert option_of(group).hex() == "39" + "05" + "03" + "44616c" + "25"
    assert option_of(alone).hex() == "19" + "06" + "03" + "44616c" + "25"
    assert option_of(answer(answering, deliver(answering, group).exchange)).hex() == "28" + "52"
    exchange = deliver(answering, alone).exchange
    assert option_of(answer(answering, exchange, pairwise=True)) == b""
    assert option_of(answer(answering, exchange, pairwise=True)).hex() == "01" + "00"


def test_payloads_are_ciphertext_and_in_group_mode_the_encrypted_countersignature() -> None:
    """A plaintext of 6 bytes and a tag of 8 (§4.3)."""
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    message = request(coap.GET, (coap.URI_PATH, b"temp"))
    assert len(GROUP_OSCORE.split(message)[2]) == 6
    assert len(protect(sender, message).message.payload) == 14 + 64
    alone = protect(sender, message, to=LISTENER)
    assert len(alone.message.payload) == 14
    reply = answer(listener, deliver(listener, alone.message).exchange, response(payload=b"1234"), pairwise=True)
    assert len(reply.payload) == 1 + 1 + 4 + 8


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("380001aa", "Partial IV"),
        ("290501", "Gid"),
        ("310501aa", "kid"),
        ("110501aa", "kid"),
        ("0105", "kid, Gid"),
        ("20", "kid, Gid, Partial IV"),
        ("", "kid, Gid, Partial IV"),
        ("790501aa25", "reserved"),
        ("b90501aa25", "reserved"),
        ("590501aa25", "reserved"),
    ],
)
def test_a_request_option_that_lacks_something_is_rejected_with_its_name(value: str, what: str) -> None:
    with pytest.raises(Rejected, match=what) as caught:
        GROUP_OSCORE.split_request_option(common_context(), decode_prefix(bytes.fromhex(value)))
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("6852", "reserved"),
        ("a852", "reserved"),
        ("4852", "reserved"),
        ("2052", "left over"),
        ("010552", "left over"),
    ],
)
def test_a_response_option_that_makes_no_sense_is_rejected(value: str, what: str) -> None:
    with pytest.raises(Rejected, match=what) as caught:
        GROUP_OSCORE.split_response_option(common_context(), decode_prefix(bytes.fromhex(value)))
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("value", "kid", "pairwise"),
    [
        ("", None, True),
        ("0105", None, True),
        ("1001aa", None, True),
        ("20", None, False),
        ("2105", None, False),
        ("08", "", True),
        ("0852", "52", True),
        ("28", "", False),
        ("2852", "52", False),
        ("390501aa5253", "5253", False),
    ],
)
def test_a_response_option_says_its_mode_and_may_say_who_made_it(
    value: str, kid: str | None, pairwise: bool
) -> None:
    tail = GROUP_OSCORE.split_response_option(common_context(), decode_prefix(bytes.fromhex(value)))
    assert tail == (None if kid is None else bytes.fromhex(kid), b"", pairwise)


@pytest.mark.parametrize(("value", "pairwise"), [("390501aa25", False), ("190501aa25", True), ("190501aa", True)])
def test_a_request_option_says_its_mode(value: str, pairwise: bool) -> None:
    prefix = decode_prefix(bytes.fromhex(value))
    kid = bytes.fromhex(value)[4:]
    assert GROUP_OSCORE.split_request_option(common_context(), prefix) == (kid, b"", pairwise)


def test_an_option_with_the_group_flag_looks_like_ours_and_one_without_like_oscore() -> None:
    assert GROUP_OSCORE.is_group_message(decode_prefix(bytes.fromhex("390501aa25")))
    assert not GROUP_OSCORE.is_group_message(decode_prefix(bytes.fromhex("190501aa25")))


@modes
def test_the_longest_gid_fits_with_the_longest_partial_iv_and_id(pairwise: bool) -> None:
    kid = bytes(7)
    common = common_context(gid=bytes(255 - 1 - 5 - 1 - len(kid)))
    sender = make_node(kid, common, ids=(kid, LISTENER), first=(1 << 40) - 1)
    listener = make_node(LISTENER, common, ids=[kid])
    message = protect(sender, to=LISTENER if pairwise else None).message
    assert len(option_of(message)) == 255
    assert deliver(listener, message).sender_id == kid
    with pytest.raises(MisuseError, match="1 to 241"):
        common_context(gid=bytes(242)).check_id(kid)


# ---- splitting (RFC 8613 §4.1)


@pytest.mark.parametrize("code", [coap.EMPTY, 0x20, 0xE1])
def test_what_is_neither_request_nor_response_is_not_taken_apart(code: int) -> None:
    with pytest.raises(MisuseError):
        GROUP_OSCORE.split(request(code))


OUTSIDE: Options = ((coap.URI_HOST, b"h"), (coap.URI_PORT, b"\x16"), (coap.HOP_LIMIT, b"\x10"))


@pytest.mark.parametrize(
    ("code", "plain", "observing", "inner"),
    [(coap.PUT, coap.POST, coap.FETCH, b"\x01"), (0x85, coap.CHANGED, coap.CONTENT, b"")],
    ids=["request", "response"],
)
def test_observe_travels_inside_and_outside_and_changes_the_outer_code(
    code: int, plain: int, observing: int, inner: bytes
) -> None:
    """The inner one of a notification is empty (RFC 8613 §4.1.3.5.2)."""
    observe = (coap.OBSERVE, b"\x01")
    secret = (coap.URI_PATH, b"a")
    for outside in (OUTSIDE[:n] for n in range(len(OUTSIDE) + 1)):
        message = request(code)._replace(options=tuple(sorted((*outside, secret))))
        assert GROUP_OSCORE.split(message) == (plain, outside, bytes((code,)) + coap.encode_options((secret,)))
        message = request(code)._replace(options=tuple(sorted((*outside, observe, secret))))
        plaintext = bytes((code,)) + coap.encode_options(((coap.OBSERVE, inner), secret))
        assert GROUP_OSCORE.split(message) == (observing, tuple(sorted((*outside, observe))), plaintext)


def test_what_may_be_outside_is_kept_and_nothing_else() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    message = request(coap.GET, *sorted((*OUTSIDE, (coap.URI_PATH, b"a"))))
    protected = protect(sender, message).message
    added = (
        (1, b"if-match"),
        (coap.OBSERVE, b""),
        (coap.URI_PATH, b"x"),
        (coap.MAX_AGE, b"\x01"),
        (coap.REPEAT, bytes(8)),
    )
    dressed = tuple(sorted((*protected.options, *added)))
    assert deliver(listener, protected._replace(options=dressed)).message == message


def test_an_option_that_belongs_outside_does_not_count_inside() -> None:
    """Made by a member that is at fault."""
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    inside = bytes((coap.GET,)) + coap.encode_options(((coap.URI_HOST, b"evil"), (coap.URI_PATH, b"a")))
    assert deliver(listener, sealed(sender, inside)).message.options == ((coap.URI_PATH, b"a"),)


def sealed(sender: Node, plaintext: bytes, *, to: bytes | None = None) -> Message:
    """A request with this plaintext, whatever it may be."""
    number = sender.sender.numbers.take()
    partial_iv = bytes((number,))
    channel = sender.sender.channel
    if to is not None:
        channel = sender.context.pairwise(sender.context.recipient(to)).outgoing
    nonce = (channel.nonce_base ^ number).to_bytes(channel.nonce_length, "big")
    header = (partial_iv, GID, MULTICASTER, False, to is not None)
    own = sender.sender
    option, payload, *_ = GROUP_OSCORE.seal(own, channel, own.bind(partial_iv), nonce, header, plaintext)
    return request(coap.POST, (coap.OBJECT_SECURITY, option), payload=payload)


@modes
@pytest.mark.parametrize("plaintext", [b"\x45", b"\x00", b"\x01\xff", b"\x01\xf0", b"\x01\xb5abc"], ids=bytes.hex)
def test_what_is_no_request_inside_is_malformed_and_changes_nothing(plaintext: bytes, pairwise: bool) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    before = snapshot(listener)
    with refused(Reason.MALFORMED):
        receive(listener, sealed(sender, plaintext, to=LISTENER if pairwise else None))
    assert snapshot(listener) == before


# ---- sealing and opening


@modes
def test_a_message_too_long_for_the_nonce_is_refused(pairwise: bool) -> None:
    sender = make_node(MULTICASTER)
    with pytest.raises(MisuseError, match="too long"):
        protect(sender, request(coap.PUT, payload=bytes(65536)), to=LISTENER if pairwise else None)


@modes
def test_a_received_message_too_long_for_the_nonce_is_rejected(pairwise: bool) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    message = protect(sender, to=LISTENER if pairwise else None).message
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, message._replace(payload=bytes(70000)))


@modes
@every_encryption
def test_a_payload_that_is_no_more_than_tag_and_signature_is_malformed(encryption: int, pairwise: bool) -> None:
    common = common_context(group_encryption=encryption)
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common)
    overhead = common.pairwise_overhead if pairwise else common.overhead
    assert overhead == (8 if pairwise else common.encryption.tag_length + 64)
    to = LISTENER if pairwise else None
    deliver(listener, protect(sender, to=to).message)
    protected = protect(sender, to=to)
    for length in (1, overhead - 1, overhead):
        with refused(Reason.MALFORMED):
            receive(listener, protected.message._replace(payload=bytes(length)))
    reason = Reason.DECRYPTION_FAILED if pairwise or common.encryption.tag_length else Reason.SIGNATURE_FAILED
    with refused(reason):
        receive(listener, protected.message._replace(payload=bytes(overhead + 1)))
    reply = answer(listener, deliver(listener, protected.message).exchange, pairwise=pairwise)
    with refused(Reason.MALFORMED):
        collect(sender, protected.exchange, reply._replace(payload=bytes(overhead)))


def test_nothing_is_opened_without_the_credential_of_its_sender() -> None:
    listener = make_node(LISTENER)
    recipient = listener.context.recipient(MULTICASTER)
    recipient.learn(None, None)
    message = protect(make_node(MULTICASTER)).message
    prefix = decode_prefix(option_of(message))
    enclosed = (option_of(message), prefix, (MULTICASTER, b"", False), message.payload, False)
    with refused(Reason.NO_PUBLIC_KEY):
        GROUP_OSCORE.open(recipient, recipient.channel, recipient.bind(b"\0"), bytes(13), enclosed)


# ---- round trips


def observed_once(message: Message, value: bytes | None = None) -> Message:
    """What arrives of a message: no second Observe, which may not be repeated and is to be ignored then; with this
    value, since that of a notification is not protected (the Partial IV takes its place)."""
    options = [option for option in message.options if option[0] != coap.OBSERVE]
    first = message.option(coap.OBSERVE)
    if first is not None:
        options.append((coap.OBSERVE, first if value is None else value))
    return message._replace(options=tuple(sorted(options, key=lambda option: option[0])))


@signatures
@kdfs
@aeads
@settings(max_examples=4)
@given(data=st.data())
def test_every_message_arrives_as_it_was_under_every_algorithm_and_in_both_modes(
    aead: int, kdf: Kdf, signature: int, data: st.DataObject
) -> None:
    encryption = data.draw(encryptions)
    common = common_context(aead=aead, kdf=kdf, signature=signature, group_encryption=encryption)
    kid = st.binary(max_size=common.max_id_length)
    own, other = data.draw(st.lists(kid, min_size=2, max_size=2, unique=True))
    first = data.draw(st.integers(0, (1 << 40) - 1))
    sender = make_node(own, common, ids=(own, other), first=first)
    listener = make_node(other, common, ids=(own, other), first=data.draw(st.integers(0, (1 << 40) - 1)))

    mode = st.booleans() if common.pairwise else st.just(False)
    asked_alone, answered_alone = data.draw(mode), data.draw(mode)
    asked = data.draw(messages(request_codes))
    protected = protect(sender, asked, to=other if asked_alone else None)
    got = deliver(listener, protected.message)
    assert got.message == observed_once(asked)
    assert (got.sender_id, got.sequence_number, got.gid) == (own, first, common.gid)
    assert got.exchange.pairwise is asked_alone

    answered = data.draw(messages(response_codes))
    fresh, include_gid = data.draw(st.booleans()), data.draw(st.booleans())
    reply = answer(listener, got.exchange, answered, fresh=fresh, include_gid=include_gid, pairwise=answered_alone)
    _, partial_iv, gid, _ = decode_prefix(option_of(reply))
    observed = answered.option(coap.OBSERVE) is not None
    assert (partial_iv is not None) == (fresh or observed)
    assert gid == (common.gid if include_gid else None)
    if observed and not protected.exchange.observe:
        with refused(Reason.NOT_OBSERVED):
            collect(sender, protected.exchange, reply)
        return
    taken = collect(sender, protected.exchange, reply)
    assert taken.message == observed_once(answered, b"")
    assert (taken.sender_id, taken.notification) == (other, observed)


# ---- flipped bits

FAMILIES = pytest.mark.parametrize(
    ("aead", "encryption", "signature"),
    [(10, 10, EDDSA), (10, A128CTR, EDDSA), (CHACHA20, CHACHA20, ES256), (1, A128CTR, ES384), (13, 10, EDDSA)],
    ids=["CCM EdDSA", "CTR EdDSA", "ChaCha20 ES256", "GCM, CTR ES384", "CCM-64, CCM EdDSA"],
)


@FAMILIES
@modes
@pytest.mark.parametrize("policy", [BEST_EFFORT, BASELINE], ids=lambda policy: policy.method.value)
@pytest.mark.parametrize("destination", [ADDRESS, None], ids=["multicast", "unicast"])
def test_no_flipped_bit_of_a_request_is_accepted_or_changes_anything(
    aead: int,
    encryption: int,
    signature: int,
    pairwise: bool,
    policy: SynchronizationPolicy,
    destination: bytes | None,
) -> None:
    common = common_context(aead=aead, group_encryption=encryption, signature=signature)
    sender, listener = make_node(MULTICASTER, common, first=3), make_node(LISTENER, common)
    deliver(listener, protect(make_node(OTHER_LISTENER, common)).message)
    message = protect(sender, to=LISTENER if pairwise else None).message
    before = snapshot(listener)
    flips = list(flipped_bits(message))
    assert len(flips) == 8 * (len(option_of(message)) + len(message.payload))
    for flipped in flips:
        with pytest.raises(Rejected):
            receive(listener, flipped, policy=policy, destination=destination)
    assert snapshot(listener) == before
    assert deliver(listener, message, destination=destination).message == request()


@FAMILIES
@modes
@pytest.mark.parametrize("asked_alone", [False, True], ids=["asked group", "asked alone"])
@pytest.mark.parametrize("observe", [False, True], ids=["answer", "notification"])
def test_no_flipped_bit_of_a_response_is_accepted_or_changes_anything(
    aead: int, encryption: int, signature: int, pairwise: bool, asked_alone: bool, observe: bool
) -> None:
    common = common_context(aead=aead, group_encryption=encryption, signature=signature)
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common, first=300)
    options = ((coap.OBSERVE, b""),) if observe else ()
    protected = protect(sender, request(coap.GET, *options), to=LISTENER if asked_alone else None)
    exchange = deliver(listener, protected.message).exchange
    message = answer(listener, exchange, response(coap.CONTENT, *options), include_gid=observe, pairwise=pairwise)
    before = snapshot(sender)
    for flipped in flipped_bits(message):
        with pytest.raises(Rejected):
            collect(sender, protected.exchange, flipped)
    assert snapshot(sender) == before
    assert not protected.exchange._answered
    assert collect(sender, protected.exchange, message).sender_id == LISTENER


@modes
@given(option=st.binary(max_size=60), payload=st.binary(max_size=120), unicast=st.booleans())
def test_garbage_in_place_of_the_protection_is_always_rejected(
    pairwise: bool, option: bytes, payload: bytes, unicast: bool
) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    protected = protect(sender, to=LISTENER if pairwise else None)
    reply = answer(listener, deliver(listener, protected.message).exchange, pairwise=pairwise)
    before = snapshot(listener), snapshot(sender)
    request_like = with_protection(protected.message, option, payload)
    with pytest.raises(Rejected):
        receive(listener, request_like, destination=None if unicast else ADDRESS)
    with pytest.raises(Rejected):
        collect(sender, protected.exchange, with_protection(reply, option, payload))
    assert (snapshot(listener), snapshot(sender)) == before


@given(flags=st.sampled_from([0x39, 0x19]), rest=st.binary(max_size=40), payload=st.binary(max_size=120))
def test_garbage_behind_a_right_prefix_is_always_rejected(flags: int, rest: bytes, payload: bytes) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    message = protect(sender).message
    prefix = bytes((flags, 0, len(GID))) + GID
    before = snapshot(listener)
    for behind, ciphertext in ((rest, message.payload), (MULTICASTER, payload)):
        changed = with_protection(message, prefix + behind, ciphertext)
        with pytest.raises(Rejected):
            receive(listener, changed)
    assert snapshot(listener) == before


# ---- one mode is not taken for the other


@every_encryption
def test_a_message_of_one_mode_is_none_of_the_other(encryption: int) -> None:
    common = common_context(group_encryption=encryption)
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common)
    for to in (None, LISTENER):
        message = protect(sender, to=to).message
        option = option_of(message)
        other = bytes((option[0] ^ 0x20,)) + option[1:]
        for payload in (message.payload, message.payload + bytes(64), bytes(200)):
            with pytest.raises(Rejected):
                receive(listener, with_protection(message, other, payload))
        deliver(listener, message)


def test_both_modes_share_one_sequence_of_numbers_and_one_window() -> None:
    """§2.5.3, §8.3."""
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    sent = [protect(sender, to=to).message for to in (None, LISTENER, None, OTHER_LISTENER, LISTENER)]
    numbers = [decode_prefix(option_of(message))[1] for message in sent]
    assert numbers == [b"\0", b"\x01", b"\x02", b"\x03", b"\x04"]
    for index in (0, 1, 2, 4):
        assert deliver(listener, sent[index]).sequence_number == index
    assert len(list(listener.context.recipients)) == 1
    for index in (0, 1, 2, 4):
        with refused(Reason.REPLAY):
            receive(listener, sent[index])


def test_a_request_sent_back_as_its_own_answer_is_refused() -> None:
    sender = make_node(MULTICASTER)
    for to in (None, LISTENER):
        protected, reflected = protect(sender, to=to), protect(sender, to=to)
        reason = Reason.OWN_MESSAGE if to is None else Reason.OTHER_RESPONDER
        for message in (protected.message, reflected.message):
            with refused(reason):
                collect(sender, protected.exchange, message._replace(code=coap.CHANGED))
        with refused(Reason.OWN_MESSAGE):
            receive(sender, reflected.message)


def test_an_answer_sent_on_as_a_request_is_refused() -> None:
    sender, listener, other = make_node(MULTICASTER), make_node(LISTENER), make_node(OTHER_LISTENER)
    reply = answer(listener, deliver(listener, protect(sender).message).exchange, fresh=True, include_gid=True)
    for pairwise in (False, True):
        flags = option_of(reply)[0] & ~(0x20 if pairwise else 0)
        message = with_protection(reply, bytes((flags,)) + option_of(reply)[1:], reply.payload)
        for node in (sender, other):
            with refused(Reason.DECRYPTION_FAILED):
                receive(node, message._replace(code=coap.POST))


# ---- attacks that the AAD stops (security considerations)


def reason_of(common: CommonContext) -> Reason:
    """What a message of the group that does not belong there fails by."""
    return Reason.DECRYPTION_FAILED if common.encryption.tag_length else Reason.SIGNATURE_FAILED


@every_encryption
def test_a_cloned_group_with_another_manager_understands_nothing(encryption: int) -> None:
    """All its keys, Gid and members are the same: a Group Manager that was a member of the original has set it up
    ("Prevention of Group Cloning Attack")."""
    original = common_context(group_encryption=encryption)
    clone = common_context(group_encryption=encryption, manager=MANAGER + b"\0")
    assert clone.common_iv == original.common_iv
    sender, listener = make_node(MULTICASTER, original), make_node(LISTENER, clone)
    with refused(reason_of(original)):
        receive(listener, protect(sender).message)
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, protect(sender, to=LISTENER).message)
    deliver(make_node(LISTENER, original), protect(sender).message)


def injected(message: Message, kid: bytes, one: CommonContext, other: CommonContext) -> Message:
    """A request of one group, made over for another by who is a member of both and knows all symmetric keys: the
    same ciphertext and countersignature under the other Gid."""
    length = one.signature_length
    partial_iv = decode_prefix(option_of(message))[1]
    assert partial_iv is not None
    masks = [keystream(common, partial_iv, kid, is_request=True) for common in (one, other)]
    signature = bytes(a ^ b ^ c for a, b, c in zip(message.payload[-length:], *masks, strict=True))
    option = option_of(message).replace(one.gid, other.gid)
    return with_protection(message, option, message.payload[:-length] + signature)


@pytest.mark.parametrize("encryption", [A128CTR, -65533, -65532])
def test_a_signature_of_one_group_is_worth_nothing_in_another(encryption: int) -> None:
    """The worst case: the other group's encryption has no integrity, and takes any ciphertext ("Cross-group Message
    Injection")."""
    one, other = (common_context(gid=gid, group_encryption=encryption) for gid in (GID, NEXT_GID))
    sender, listener = make_node(MULTICASTER, one), make_node(LISTENER, other)
    message = protect(sender).message
    with refused(Reason.SIGNATURE_FAILED):
        receive(listener, injected(message, MULTICASTER, one, other))
    # What is injected into the very same group is the message itself: the making over is right.
    assert injected(message, MULTICASTER, one, one) == message
    deliver(make_node(LISTENER, one), message)


def numbered(common: CommonContext, which: str) -> CommonContext:
    """The same with one algorithm's number changed where it enters the AAD, and nowhere else."""
    if which == "signature":
        common.signature = replace(common.signature, number=-19)
    elif which == "AEAD":
        assert common.aead is not None
        common.aead = replace(common.aead, number=99)
    else:
        assert common.key_agreement is not None
        common.key_agreement = replace(common.key_agreement, number=-29)
    return common


@every_encryption
@pytest.mark.parametrize("which", ["signature", "AEAD", "key agreement"])
def test_all_algorithms_are_bound(encryption: int, which: str) -> None:
    one = common_context(group_encryption=encryption)
    other = numbered(common_context(group_encryption=encryption), which)
    sender, listener = make_node(MULTICASTER, one), listening_under(other)
    with refused(reason_of(one)):
        receive(listener, protect(sender).message)
    deliver(listening_under(common_context(group_encryption=encryption)), protect(sender).message)


def listening_under(common: CommonContext) -> Node:
    """A listener in this group, whatever the numbers of its algorithms are."""
    own = SenderContext(common, LISTENER, private_key(LISTENER), SequenceNumbers(), credential_of(LISTENER))
    keys = {MULTICASTER: private_key(MULTICASTER).public_key}
    context = SecurityContext(GROUP, common, own, keys, credentials={MULTICASTER: credential_of(MULTICASTER)})
    node = Node(Registry(), [])
    install(node, context)
    return node


def test_who_has_no_pairwise_mode_does_not_understand_who_has() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER, common_context(pairwise=False))
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, protect(sender).message)
    with refused(Reason.NO_PAIRWISE_MODE):
        receive(listener, protect(sender, to=LISTENER).message)


@modes
@pytest.mark.parametrize("who", ["sender", "recipient"])
def test_credentials_count_byte_by_byte(pairwise: bool, who: str) -> None:
    """The same key in other bytes is another credential (§2.4)."""
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    to = LISTENER if pairwise else None
    other = cbor2.dumps({8: {1: cbor2.loads(credential_of(MULTICASTER if who == "sender" else LISTENER))[8][1]}})
    if who == "sender":
        listener.context.learn(MULTICASTER, private_key(MULTICASTER).public_key, other)
    else:
        sender.context.learn(LISTENER, private_key(LISTENER).public_key, other)
    message = protect(sender, to=to).message
    if who == "sender" or pairwise:
        with refused(Reason.DECRYPTION_FAILED):
            receive(listener, message)
    else:  # in group mode the listeners' credentials do not matter
        deliver(listener, message)


def test_a_member_that_speaks_as_another_fails_by_its_signature_and_in_pairwise_mode_by_its_key() -> None:
    listener = make_node(LISTENER)
    forger = make_node(MULTICASTER)
    forger.sender.private_key = private_key(OTHER_LISTENER)
    before = snapshot(listener)
    with refused(Reason.SIGNATURE_FAILED):
        receive(listener, protect(forger).message)
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, protect(forger, to=LISTENER).message)
    assert snapshot(listener) == before


@pytest.mark.parametrize("pairwise", [False, True], ids=["group", "pairwise"])
@given(st.lists(st.integers(0, 9), max_size=20))
def test_whatever_order_answers_arrive_in_numbers_only_rise(pairwise: bool, order: list[int]) -> None:
    """Of answers to a group request, which are none of an observation (§5.3.1)."""
    sender, listener = make_node(MULTICASTER), make_node(LISTENER, first=20)
    protected = protect(sender)
    incoming = deliver(listener, protected.message).exchange
    sent = [answer(listener, incoming, pairwise=pairwise) for _ in range(10)]  # the first without a number
    newest, bare = -1, False
    for index in order:
        if index > newest if index else not (bare or newest > 0):
            collect(sender, protected.exchange, sent[index])
            newest, bare = max(newest, index), bare or index == 0
        else:
            with refused(Reason.REPLAY if index == 0 else Reason.NOTIFICATION_ORDER):
                collect(sender, protected.exchange, sent[index])


@signatures
def test_the_signature_has_the_length_of_its_algorithm(signature: int) -> None:
    algorithm: SignatureAlgorithm = signature_algorithm(signature)
    common = common_context(signature=signature)
    sender, listener = make_node(MULTICASTER, common), make_node(LISTENER, common)
    message = protect(sender).message
    assert common.overhead == 8 + algorithm.signature_length
    assert len(message.payload) == len(GROUP_OSCORE.split(request())[2]) + common.overhead
    exchange = deliver(listener, message).exchange
    assert len(protect_response(listener.sender, exchange, response()).payload) == 1 + 3 + common.overhead
