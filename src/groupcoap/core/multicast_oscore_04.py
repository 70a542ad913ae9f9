"""The wire profile of draft-tiloca-core-multicast-oscoap-04 over OSCORE-06.

Key derivation with the Gid as salt and a four-element info (§3), an external_aad of six elements with the Gid
(§4), and the countersignature in clear inside the Object-Security option (§4, Figure 2):

    flags | Partial IV (n) | s (1), Gid (s) | countersignature (q) | kid (the rest)
    7 6: 0 | 5: c countersignature | 4: h Gid | 3: k kid | 2..0: n
"""

from __future__ import annotations

from typing import Final

import cbor2
from cryptography.exceptions import InvalidTag

from ..cose.algorithms import Kdf
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
from .splitting import encode_plaintext, joining, split_options

FLAG_COUNTERSIGN: Final = 0x20
_FLAGS_RESERVED: Final = 0xC0
_REQUEST_FLAGS: Final = FLAG_COUNTERSIGN | FLAG_GID | FLAG_KID
_RESPONSE_FLAGS: Final = FLAG_COUNTERSIGN | FLAG_KID
_ALL_FLAGS: Final = _FLAGS_RESERVED | _REQUEST_FLAGS

# Class U (multicast-oscore-04 §6): travels outside, unprotected. Observe is outer only in OSCORE-06.
_CLASS_U: Final = frozenset(
    (coap.URI_HOST, coap.OBSERVE, coap.URI_PORT, coap.OBJECT_SECURITY, coap.PROXY_URI, coap.PROXY_SCHEME)
)
_KEPT: Final = _CLASS_U - {coap.OBJECT_SECURITY}

# Outer codes of (nothing, a request, a response), without and with Observe (§6).
_OUTER_CODE: Final = (coap.EMPTY, coap.POST, coap.CHANGED)
_OUTER_CODE_OBSERVE: Final = (coap.EMPTY, coap.FETCH, coap.CONTENT)

# [ "Encrypt0", h'', bstr(external_aad) ] and [ "CounterSignature", h'', h'', bstr(external_aad), bstr ],
# each up to where external_aad begins
_ENCRYPT0: Final = b"\x83" + cbor2.dumps("Encrypt0") + b"\x40"
_COUNTERSIGNATURE: Final = b"\x85" + cbor2.dumps("CounterSignature") + b"\x40\x40"


_RULES: Final = Rules(
    challenge_code=coap.FORBIDDEN,
    replay_error=(coap.SERVICE_UNAVAILABLE, b"Replay protection failed"),
    repeat_lengths=(8, 40),
    echo_is_original=True,
    signature_first=False,
    long_exchanges=False,
    inner_observe=False,
    gid_if_renewed=True,
    pairwise=False,
    binds_credentials=False,
    min_gid=9,  # a Group Prefix of 8 and a Group Epoch of 1 (multicast-oscore-04 §8)
)
_KDFS: Final = frozenset((Kdf.HKDF_SHA_256, Kdf.HKDF_SHA_512))
_SIGNATURES: Final = frozenset((-8, -7))


class MulticastOscore04:
    """See the module's text. There is one instance, `MULTICAST_OSCORE_04`."""

    name: Final = "multicast-oscore-04"
    rules: Final = _RULES

    def check_algorithms(self, common: CommonContext) -> None:
        if common.aead is None or common.encryption is not common.aead:
            raise MisuseError(f"{self.name} has one encryption algorithm, an AEAD")
        if common.key_agreement is not None or common.master_salt:
            raise MisuseError(f"{self.name} has no pairwise mode and no Master Salt")
        if common.kdf not in _KDFS or common.signature.number not in _SIGNATURES:
            raise MisuseError(
                f"{self.name} has neither {common.signature.name} with HKDF-{common.kdf.value.upper()}"
            )

    def _info(self, common: CommonContext, endpoint_id: bytes | None, kind: str, length: int) -> bytes:
        return cbor2.dumps([endpoint_id, common.encryption.number, kind, length])

    def derive_key(self, common: CommonContext, endpoint_id: bytes) -> Secret:
        length = common.encryption.key_length
        info = self._info(common, endpoint_id, "Key", length)
        return Secret(common.kdf.derive(salt=common.gid, secret=common.master_secret, info=info, length=length))

    def derive_common_iv(self, common: CommonContext) -> bytes:
        length = common.encryption.nonce_length
        info = self._info(common, None, "IV", length)
        return common.kdf.derive(salt=common.gid, secret=common.master_secret, info=info, length=length)

    def derive_signature_encryption_key(self, common: CommonContext) -> Secret | None:
        return None

    def derive_pairwise_key(
        self, common: CommonContext, endpoint_id: bytes, salt: Secret, secret: Secret
    ) -> Secret:
        raise MisuseError(f"{self.name} has no pairwise mode")

    def author(self, common: CommonContext, endpoint_id: bytes, credential: bytes | None) -> Author | None:
        return (endpoint_id,)

    def check_sizes(self, common: CommonContext, endpoint_id: bytes) -> None:
        room = MAX_LENGTH - 1 - 5 - 1 - common.signature_length - len(endpoint_id)
        if not 0 < len(common.gid) <= room:
            raise MisuseError(f"the Gid must have 1 to {room} bytes to fit into the Object-Security option")

    def _external_aad_parts(self, common: CommonContext, kid: bytes, gid: bytes) -> tuple[bytes, bytes]:
        """What stands before and behind request_piv in [1, alg, request_kid, request_piv, gid, h'']."""
        before = b"\x86\x01" + cbor2.dumps(common.encryption.number) + bstr(kid)
        return before, bstr(gid) + b"\x40"

    def external_aad(self, common: CommonContext, ids: RequestIds, option: bytes, author: Author) -> bytes:
        before, behind = self._external_aad_parts(common, ids.kid, ids.gid)
        return before + bstr(ids.partial_iv) + behind

    def binder(self, common: CommonContext, kid: bytes, gid: bytes) -> Binder:
        before, behind = self._external_aad_parts(common, kid, gid)
        # Only the Partial IV changes from request to request, and it has one of five lengths.
        heads: list[tuple[bytes, bytes] | None] = [None] * 6

        def make_head(n: int) -> tuple[bytes, bytes]:
            inside = bstr_head(len(before) + 1 + n + len(behind)) + before + BYTE[0x40 | n]
            head = heads[n] = _ENCRYPT0 + inside, _COUNTERSIGNATURE + inside
            return head

        def bind(partial_iv: bytes) -> Prepared:
            n = len(partial_iv)
            encrypt0, countersignature = heads[n] or make_head(n)
            rest = partial_iv + behind
            return encrypt0 + rest, countersignature, rest  # the latter two are joined with what is signed

        return bind

    def is_group_message(self, prefix: OptionPrefix) -> bool:
        return bool(prefix[0] & FLAG_COUNTERSIGN)

    def split_request_option(self, common: CommonContext, prefix: OptionPrefix) -> OptionTail:
        flags, partial_iv, _, rest = prefix
        q = common.signature_length
        if flags & _ALL_FLAGS != _REQUEST_FLAGS or partial_iv is None or len(rest) < q:
            raise Rejected(Reason.MALFORMED, _what_is_wrong(prefix, q, _REQUEST_FLAGS))
        return rest[q:], rest[:q], False

    def split_response_option(self, common: CommonContext, prefix: OptionPrefix) -> OptionTail:
        flags, _, _, rest = prefix
        q = common.signature_length
        if flags & _ALL_FLAGS & ~FLAG_GID != _RESPONSE_FLAGS or len(rest) < q:
            raise Rejected(Reason.MALFORMED, _what_is_wrong(prefix, q, _RESPONSE_FLAGS))
        return rest[q:], rest[:q], False

    def split(self, message: Message) -> Split:
        _, code, _, _, options, payload = message
        if not KIND[code]:
            raise MisuseError("only requests and responses are protected")
        inner, outer = split_options(options, _CLASS_U)
        observe = bool(outer) and any(number == coap.OBSERVE for number, _ in outer)
        outer_code = (_OUTER_CODE_OBSERVE if observe else _OUTER_CODE)[KIND[code]]
        return outer_code, outer, encode_plaintext(code, inner, payload)

    join = joining(_CLASS_U, _KEPT)

    def seal(
        self,
        sender: SenderContext,
        channel: Channel,
        prepared: Prepared,
        nonce: bytes,
        header: Header,
        plaintext: bytes,
    ) -> Sealed:
        aad, head, rest = prepared
        try:
            payload = channel.apply(nonce, plaintext, aad)
        except (OverflowError, ValueError) as error:
            raise MisuseError(f"the message is too long for {sender.common.encryption.name}: {error}") from None
        to_be_signed = b"".join((head, rest, bstr_head(len(payload)), payload))
        signature = sender.private_key.sign(to_be_signed)
        option = b"".join((encode_prefix(_RESPONSE_FLAGS, header[0], header[1]), signature, sender.sender_id))
        return option, payload, aad, to_be_signed

    def open(
        self, recipient: RecipientContext, channel: Channel, prepared: Prepared, nonce: bytes, enclosed: Enclosed
    ) -> Opened:
        aad, head, rest = prepared
        _, _, (_, signature, _), payload, _ = enclosed
        try:
            plaintext = channel.apply(nonce, payload, aad)
        except (InvalidTag, ValueError):
            # An authentic one of the tag's length has no plaintext, which `join` refuses.
            if len(payload) <= channel.overhead:
                raise Rejected(Reason.MALFORMED, "payload too short for a ciphertext") from None
            raise Rejected(Reason.DECRYPTION_FAILED) from None
        return plaintext, (signature, head, rest, payload)

    def countersigned(self, common: CommonContext, signed: Signed) -> tuple[bytes, bytes]:
        signature, head, rest, payload = signed
        return signature, b"".join((head, rest, bstr_head(len(payload)), payload))

    def countersigned_otherwise(self, common: CommonContext, signed: Signed) -> bytes | None:
        return None

    def reveal(self, channel: Channel, nonce: bytes, signed: Signed) -> bytes:
        raise MisuseError(f"{self.name} withholds no plaintext")


def split_tail(prefix: OptionPrefix, signature_length: int) -> tuple[bytes | None, bytes | None]:
    """(kid, countersignature) from what stands behind the common prefix, None where absent; `signature_length`
    comes from the context's algorithm. `Rejected` (malformed): reserved bits, cut short, or bytes left over
    without k."""
    flags, _, _, rest = prefix
    if flags & _FLAGS_RESERVED:
        raise Rejected(Reason.MALFORMED, "reserved bit set")
    signature = None
    if flags & FLAG_COUNTERSIGN:
        if len(rest) < signature_length:
            raise Rejected(Reason.MALFORMED, "countersignature cut short")
        signature, rest = rest[:signature_length], rest[signature_length:]
    if flags & FLAG_KID:
        return rest, signature
    if rest:
        raise Rejected(Reason.MALFORMED, "bytes left over without a kid")
    return None, signature


def _what_is_wrong(prefix: OptionPrefix, signature_length: int, needed: int) -> str:
    """The text of a rejection, worked out only once it is certain that there is one."""
    try:
        split_tail(prefix, signature_length)
    except Rejected as rejection:
        return rejection.detail
    names = {FLAG_COUNTERSIGN: "countersignature", FLAG_GID: "Gid", FLAG_KID: "kid"}
    missing = [name for flag, name in names.items() if needed & ~prefix[0] & flag]
    return "no " + ", ".join(missing or ["Partial IV"])


MULTICAST_OSCORE_04: Final = MulticastOscore04()
