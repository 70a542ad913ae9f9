"""The wire profile of Group OSCORE (draft-ietf-core-oscore-groupcomm-28, on RFC 8613), in group and pairwise mode.

Key derivation with Master Salt and a five-element info (§2.3), an external_aad of nine elements (§3.4), and, in
group mode, the countersignature encrypted behind the ciphertext (§4.1, §4.2):

    option    flags | Partial IV (n) | s (1), Gid (s) | kid (the rest)
              7 6: 0 | 5: Group Flag | 4: h Gid | 3: k kid | 2..0: n
    payload   ciphertext, with tag | countersignature XOR keystream       (pairwise mode: ciphertext alone)

What is countersigned is the Countersign_structure of RFC 9338 §3.3 with the context "CounterSignature0". That text
has four elements, since sign_protected is left out for an abbreviated countersignature; the implementations that
exist put an empty one in. Which of the two is made is a parameter of the group (`CommonContext.sign_protected`);
both are accepted, for they say the same and cannot be taken for each other (decision 0016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import cbor2
from cryptography.exceptions import InvalidTag

from ..cose.algorithms import AeadAlgorithm, EncryptionAlgorithm, KeyAgreement
from ..cose.keys import SignatureAlgorithm
from ..errors import MisuseError, Reason, Rejected
from ..secret import Secret
from . import coap
from .cbor import bstr, bstr_head
from .coap import BYTE, KIND, Message
from .contexts import Channel, CommonContext, RecipientContext, SenderContext
from .option import FLAG_GID, FLAG_KID, MAX_LENGTH, OptionPrefix, encode_prefix
from .profile import (
    Author,
    Binder,
    Enclosed,
    Header,
    Opened,
    OptionTail,
    Prepared,
    RequestIds,
    Rules,
    Sealed,
    Signed,
    Split,
)
from .splitting import encode_plaintext, joining, split_options, with_option

FLAG_GROUP: Final = 0x20
_FLAGS_RESERVED: Final = 0xC0

# Class U (RFC 8613 §4.1, RFC 8768 §3): travels outside only. Observe and the Block options are of both classes.
_CLASS_U: Final = frozenset(
    (coap.URI_HOST, coap.URI_PORT, coap.OBJECT_SECURITY, coap.HOP_LIMIT, coap.PROXY_URI, coap.PROXY_SCHEME)
)
_OUTSIDE: Final = _CLASS_U | {coap.OBSERVE}
_KEPT: Final = _CLASS_U - {coap.OBJECT_SECURITY}

# Outer codes of (nothing, a request, a response), without and with Observe (RFC 8613 §4.2).
_OUTER_CODE: Final = (coap.EMPTY, coap.POST, coap.CHANGED)
_OUTER_CODE_OBSERVE: Final = (coap.EMPTY, coap.FETCH, coap.CONTENT)

# [ "Encrypt0", h'', bstr(external_aad) ] and [ "CounterSignature0", h'', (h'',) bstr(external_aad), bstr ], each up
# to where external_aad begins
_ENCRYPT0: Final = b"\x83" + cbor2.dumps("Encrypt0") + b"\x40"
_COUNTERSIGNATURE0: Final = b"\x84" + cbor2.dumps("CounterSignature0") + b"\x40"
_WITH_SIGN_PROTECTED: Final = b"\x85" + cbor2.dumps("CounterSignature0") + b"\x40\x40"

_RULES: Final = Rules(
    challenge_code=coap.UNAUTHORIZED,
    replay_error=(coap.UNAUTHORIZED, b"Replay detected"),  # RFC 8613 §7.4
    repeat_lengths=(1, 40),  # RFC 9175 §2.2
    echo_is_original=False,
    signature_first=True,
    long_exchanges=True,
    inner_observe=True,
    gid_if_renewed=False,
    pairwise=True,
    binds_credentials=True,
    min_gid=1,
)


class Verifying(Protocol):
    """What it takes of a Common Context to verify countersignatures: all that an external signature checker has of
    it (§12.3). None of it decrypts anything."""

    @property
    def gid(self) -> bytes: ...

    @property
    def aead(self) -> AeadAlgorithm | None: ...

    @property
    def encryption(self) -> EncryptionAlgorithm: ...

    @property
    def signature(self) -> SignatureAlgorithm: ...

    @property
    def signature_length(self) -> int: ...

    @property
    def key_agreement(self) -> KeyAgreement | None: ...

    @property
    def manager_credential(self) -> bytes: ...

    @property
    def sign_protected(self) -> bool: ...

    @property
    def keystream(self) -> Callable[[bytes, bytes], bytes] | None: ...


def keystream_info(generator: bytes, gid: bytes, length: int, *, request: bool) -> bytes:
    """The info for the keystream of a countersignature of `length` bytes (§4.2): `generator` has made the Partial
    IV, `gid` is what the message was protected under."""
    return cbor2.dumps([generator, gid, request, length])


def xor(one: bytes, other: bytes) -> bytes:
    """Of two byte strings of one length."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))  # big endian, if not told otherwise


def algorithm_numbers(common: Verifying) -> list[int | None]:
    """The `algorithms` of the external_aad (§3.4): AEAD, Group Encryption, Signature, Pairwise Key Agreement."""
    agreement = common.key_agreement
    return [
        None if common.aead is None else common.aead.number,
        common.encryption.number,
        common.signature.number,
        None if agreement is None else agreement.number,
    ]


def request_part(algorithms: list[int | None], kid: bytes, gid: bytes) -> tuple[bytes, bytes]:
    """What stands in an external_aad before request_piv, and behind it up to OSCORE_option (§3.4)."""
    return b"\x89\x01" + cbor2.dumps(algorithms) + bstr(kid), b"\x40" + bstr(gid)


def countersign_structure(bound: bytes, ciphertext: bytes, sign_protected: bool) -> bytes:
    """What is countersigned, with an empty sign_protected or without. `bound`: the external_aad as a CBOR byte
    string."""
    head = _WITH_SIGN_PROTECTED if sign_protected else _COUNTERSIGNATURE0
    return b"".join((head, bound, bstr_head(len(ciphertext)), ciphertext))


def signed_part(prepared: Prepared, author: Author, enclosed: Enclosed, signature_length: int) -> Signed:
    """What the countersignature of a received message in group mode is over, and what it is encrypted with (§4.1,
    §4.2)."""
    option, prefix, _, payload, response = enclosed
    partial_iv = prefix[1]
    bound, at = _bound(prepared, option, author), -signature_length
    if partial_iv is None:
        return bound, payload[:at], payload[at:], prepared[1], prepared[2]
    return bound, payload[:at], payload[at:], partial_iv, author[2 if response else 1]


class GroupOscore:
    """See the module's text. There is one instance, `GROUP_OSCORE`."""

    name: Final = "group-oscore"
    rules: Final = _RULES

    def check_algorithms(self, common: CommonContext) -> None:
        agreement = common.key_agreement
        if not common.manager_credential:
            raise MisuseError(f"{self.name} needs the Group Manager's credential, which every message is bound to")
        if agreement is not None and agreement.kdf is not common.kdf:
            raise MisuseError(f"{agreement.name} does not go with HKDF-{common.kdf.value.upper()} (§2.1.10)")

    # ---- keys

    def _derive(self, common: CommonContext, endpoint_id: bytes, number: int, kind: str, length: int) -> bytes:
        info = cbor2.dumps([endpoint_id, common.gid, number, kind, length])
        return common.kdf.derive(salt=common.master_salt, secret=common.master_secret, info=info, length=length)

    def derive_key(self, common: CommonContext, endpoint_id: bytes) -> Secret:
        encryption = common.encryption
        return Secret(self._derive(common, endpoint_id, encryption.number, "Key", encryption.key_length))

    def derive_common_iv(self, common: CommonContext) -> bytes:
        length = max(common.encryption.nonce_length, 0 if common.aead is None else common.aead.nonce_length)
        return self._derive(common, b"", common.encryption.number, "IV", length)

    def derive_signature_encryption_key(self, common: CommonContext) -> Secret | None:
        encryption = common.encryption
        return Secret(self._derive(common, b"", encryption.number, "SEKey", encryption.key_length))

    def derive_pairwise_key(
        self, common: CommonContext, endpoint_id: bytes, salt: Secret, secret: Secret
    ) -> Secret:
        aead = common.aead
        if aead is None:
            raise MisuseError("the pairwise mode is not used in this group")
        info = cbor2.dumps([endpoint_id, common.gid, aead.number, "Key", aead.key_length])
        return Secret(common.kdf.derive(salt=salt.reveal(), secret=secret, info=info, length=aead.key_length))

    def check_sizes(self, common: CommonContext, endpoint_id: bytes) -> None:
        room = MAX_LENGTH - 1 - 5 - 1 - len(endpoint_id)
        if not 0 < len(common.gid) <= room:
            raise MisuseError(f"the Gid must have 1 to {room} bytes to fit into the OSCORE option")

    # ---- what binds a message

    def author(self, common: Verifying, endpoint_id: bytes, credential: bytes | None) -> Author | None:
        if credential is None:
            return None
        length, gid = common.signature_length, common.gid
        return (
            bstr(credential) + bstr(common.manager_credential),
            keystream_info(endpoint_id, gid, length, request=True),
            keystream_info(endpoint_id, gid, length, request=False),
            BYTE[len(gid)] + gid + endpoint_id,  # what stands behind the Partial IV in a request's option
        )

    def binder(self, common: Verifying, kid: bytes, gid: bytes) -> Binder:
        before, behind = request_part(algorithm_numbers(common), kid, gid)
        # Of a response without Partial IV, whose nonce is the request's. Such a one is always under the same Gid.
        info = keystream_info(kid, gid, common.signature_length, request=False)

        def bind(partial_iv: bytes) -> Prepared:
            return b"".join((before, BYTE[0x40 | len(partial_iv)], partial_iv, behind)), partial_iv, info

        return bind

    def external_aad(self, common: CommonContext, ids: RequestIds, option: bytes, author: Author) -> bytes:
        prepared = self.binder(common, ids.kid, ids.gid)(ids.partial_iv)
        return b"".join((prepared[0], bstr(option), author[0]))

    # ---- the option

    def is_group_message(self, prefix: OptionPrefix) -> bool:
        return bool(prefix[0] & FLAG_GROUP)

    def split_request_option(self, common: Verifying, prefix: OptionPrefix) -> OptionTail:
        flags, partial_iv, gid, rest = prefix
        if flags & _FLAGS_RESERVED:
            raise Rejected(Reason.MALFORMED, "reserved bit set")
        if not flags & FLAG_KID or partial_iv is None or gid is None:
            missing = {"kid": flags & FLAG_KID, "Gid": flags & FLAG_GID, "Partial IV": partial_iv is not None}
            raise Rejected(
                Reason.MALFORMED, "no " + ", ".join(name for name, there in missing.items() if not there)
            )
        return rest, b"", not flags & FLAG_GROUP

    def split_response_option(self, common: Verifying, prefix: OptionPrefix) -> OptionTail:
        flags, _, _, rest = prefix
        if flags & _FLAGS_RESERVED:
            raise Rejected(Reason.MALFORMED, "reserved bit set")
        if flags & FLAG_KID:
            return rest, b"", not flags & FLAG_GROUP
        if rest:
            raise Rejected(Reason.MALFORMED, "bytes left over without a kid")
        return None, b"", not flags & FLAG_GROUP

    # ---- splitting

    def split(self, message: Message) -> Split:
        _, code, _, _, options, payload = message
        kind = KIND[code]
        if not kind:
            raise MisuseError("only requests and responses are protected")
        inner, outer = split_options(options, _OUTSIDE)
        observe = next((value for number, value in outer if number == coap.OBSERVE), None) if outer else None
        if observe is None:
            return _OUTER_CODE[kind], outer, encode_plaintext(code, inner, payload)
        # It is inside as well; the value of a notification's is empty there (RFC 8613 §4.1.3.5.2).
        inner = with_option(inner, coap.OBSERVE, observe if kind == 1 else b"")
        return _OUTER_CODE_OBSERVE[kind], outer, encode_plaintext(code, inner, payload)

    join = joining(_CLASS_U, _KEPT)

    # ---- sealing and opening

    def seal(
        self,
        sender: SenderContext,
        channel: Channel,
        prepared: Prepared,
        nonce: bytes,
        header: Header,
        plaintext: bytes,
    ) -> Sealed:
        partial_iv, gid, kid, response, pairwise = header
        common = sender.common
        author = sender.author
        flags = 0 if pairwise else FLAG_GROUP
        if partial_iv is not None and not response:
            option = b"".join((BYTE[flags | FLAG_GID | FLAG_KID | len(partial_iv)], partial_iv, author[3]))
        elif kid is not None:
            option = encode_prefix(flags | FLAG_KID, partial_iv, gid) + kid
        else:
            option = encode_prefix(flags, partial_iv, gid)
            if option == b"\x00":
                option = b""
        bound = _bound(prepared, option, author)
        aad = _ENCRYPT0 + bound
        authenticated = pairwise or common.encryption.tag_length
        try:
            ciphertext = channel.apply(nonce, plaintext, aad if authenticated else None)
        except (OverflowError, ValueError) as error:
            raise MisuseError(f"the message is too long for the group's encryption: {error}") from None
        if pairwise:
            return option, ciphertext, aad, b""
        to_be_signed = countersign_structure(bound, ciphertext, common.sign_protected)
        signature = sender.private_key.sign(to_be_signed)
        derive = common.keystream
        assert derive is not None  # there is a Signature Encryption Key
        if partial_iv is None:
            keystream = derive(prepared[1], prepared[2])
        else:
            keystream = derive(partial_iv, author[2 if response else 1])
        return option, ciphertext + xor(signature, keystream), aad, to_be_signed

    def open(
        self, recipient: RecipientContext, channel: Channel, prepared: Prepared, nonce: bytes, enclosed: Enclosed
    ) -> Opened:
        option, _, tail, payload, _ = enclosed
        if len(payload) <= channel.overhead:
            raise Rejected(Reason.MALFORMED, "payload too short for a ciphertext")
        author = recipient.author
        if author is None:
            raise Rejected(Reason.NO_PUBLIC_KEY, recipient.recipient_id.hex())
        if tail[2]:
            return _decrypted(channel, nonce, payload, _bound(prepared, option, author)), None
        common = recipient.common
        signed = signed_part(prepared, author, enclosed, common.signature_length)
        plaintext = None
        if common.encryption.tag_length:
            # The tag first, in spite of §7.2: it costs 1/50 of a signature and stops most outsiders. Nothing is
            # looked at of what comes out before the countersignature is verified, and what it takes depends on the
            # length alone (decision 0017).
            plaintext = _decrypted(channel, nonce, signed[1], signed[0])
        return plaintext, signed

    def countersigned(self, common: Verifying, signed: Signed) -> tuple[bytes, bytes]:
        bound, ciphertext, encrypted, partial_iv, info = signed
        derive = common.keystream
        assert derive is not None  # there is a Signature Encryption Key
        signature = xor(encrypted, derive(partial_iv, info))
        return signature, countersign_structure(bound, ciphertext, common.sign_protected)

    def countersigned_otherwise(self, common: Verifying, signed: Signed) -> bytes | None:
        return countersign_structure(signed[0], signed[1], not common.sign_protected)

    def reveal(self, channel: Channel, nonce: bytes, signed: Signed) -> bytes:
        return channel.apply(nonce, signed[1], None)


def _bound(prepared: Prepared, option: bytes, author: Author) -> bytes:
    """The external_aad as a CBOR byte string."""
    before, credentials, length = prepared[0], author[0], len(option)
    head = BYTE[0x40 | length] if length < 24 else b"\x58" + BYTE[length]  # an option has 255 bytes at most
    total = len(before) + len(head) + length + len(credentials)
    # with two credentials it nearly always has 24 to 255 bytes, or more
    first = b"\x58" + BYTE[total] if 23 < total < 256 else bstr_head(total)
    return b"".join((first, before, head, option, credentials))


def _decrypted(channel: Channel, nonce: bytes, ciphertext: bytes, bound: bytes) -> bytes:
    try:
        return channel.apply(nonce, ciphertext, _ENCRYPT0 + bound)
    except (InvalidTag, ValueError):
        raise Rejected(Reason.DECRYPTION_FAILED) from None


GROUP_OSCORE: Final = GroupOscore()
