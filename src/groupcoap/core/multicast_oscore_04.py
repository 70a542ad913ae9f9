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

from ..errors import MisuseError, Reason, Rejected
from ..secret import Secret
from . import coap
from .coap import Message
from .contexts import CommonContext, RecipientContext, SenderContext
from .option import FLAG_GID, FLAG_KID, MAX_LENGTH, OptionPrefix, encode_prefix
from .profile import Binder, Binding, Opened, OptionTail, RequestIds, Sealed, Split
from .splitting import encode_plaintext, join_message, split_options

FLAG_COUNTERSIGN: Final = 0x20
_FLAGS_RESERVED: Final = 0xC0
_REQUEST_FLAGS: Final = FLAG_COUNTERSIGN | FLAG_GID | FLAG_KID
_RESPONSE_FLAGS: Final = FLAG_COUNTERSIGN | FLAG_KID

# Class U (multicast-oscore-04 §6): travels outside, unprotected. Observe is outer only in OSCORE-06.
_CLASS_U: Final = frozenset(
    (coap.URI_HOST, coap.OBSERVE, coap.URI_PORT, coap.OBJECT_SECURITY, coap.PROXY_URI, coap.PROXY_SCHEME)
)
_KEPT: Final = _CLASS_U - {coap.OBJECT_SECURITY}

# [ "Encrypt0", h'', bstr(external_aad) ] and [ "CounterSignature", h'', h'', bstr(external_aad), bstr ],
# each up to where external_aad begins
_ENCRYPT0: Final = b"\x83" + cbor2.dumps("Encrypt0") + b"\x40"
_COUNTERSIGNATURE: Final = b"\x85" + cbor2.dumps("CounterSignature") + b"\x40\x40"


def _bstr_head(length: int) -> bytes:
    """The head of a CBOR byte string in its shortest form."""
    if length < 24:
        return bytes((0x40 | length,))
    if length < 256:
        return bytes((0x58, length))
    if length < 65536:
        return b"\x59" + length.to_bytes(2, "big")
    return b"\x5a" + length.to_bytes(4, "big")


class MulticastOscore04:
    """See the module's text. There is one instance, `MULTICAST_OSCORE_04`."""

    name: Final = "multicast-oscore-04"

    def _info(self, common: CommonContext, endpoint_id: bytes | None, kind: str, length: int) -> bytes:
        return cbor2.dumps([endpoint_id, common.aead.number, kind, length])

    def derive_key(self, common: CommonContext, endpoint_id: bytes) -> Secret:
        length = common.aead.key_length
        info = self._info(common, endpoint_id, "Key", length)
        return Secret(common.kdf.derive(salt=common.gid, secret=common.master_secret, info=info, length=length))

    def derive_common_iv(self, common: CommonContext) -> bytes:
        length = common.aead.nonce_length
        info = self._info(common, None, "IV", length)
        return common.kdf.derive(salt=common.gid, secret=common.master_secret, info=info, length=length)

    def check_sizes(self, common: CommonContext, endpoint_id: bytes) -> None:
        room = MAX_LENGTH - 1 - 5 - 1 - common.signature.signature_length - len(endpoint_id)
        if not 0 < len(common.gid) <= room:
            raise MisuseError(f"the Gid must have 1 to {room} bytes to fit into the Object-Security option")

    def _external_aad_parts(self, common: CommonContext, kid: bytes, gid: bytes) -> tuple[bytes, bytes]:
        """What stands before and behind request_piv in [1, alg, request_kid, request_piv, gid, h'']."""
        before = b"\x86\x01" + cbor2.dumps(common.aead.number) + cbor2.dumps(kid)
        return before, cbor2.dumps(gid) + b"\x40"

    def external_aad(self, common: CommonContext, ids: RequestIds) -> bytes:
        before, behind = self._external_aad_parts(common, ids.kid, ids.gid)
        return before + cbor2.dumps(ids.partial_iv) + behind

    def binder(self, common: CommonContext, kid: bytes, gid: bytes) -> Binder:
        before, behind = self._external_aad_parts(common, kid, gid)
        # Only the Partial IV changes from request to request, and it has one of five lengths.
        heads: list[tuple[bytes, bytes]] = []
        for n in range(6):
            inside = _bstr_head(len(before) + 1 + n + len(behind)) + before + bytes((0x40 | n,))
            heads.append((_ENCRYPT0 + inside, _COUNTERSIGNATURE + inside))

        def bind(partial_iv: bytes) -> Binding:
            encrypt0, countersignature = heads[len(partial_iv)]
            rest = partial_iv + behind
            return Binding(RequestIds(kid, partial_iv, gid), (encrypt0 + rest, countersignature + rest))

        return bind

    def is_group_message(self, prefix: OptionPrefix) -> bool:
        return bool(prefix.flags & FLAG_COUNTERSIGN)

    def _split_option(self, common: CommonContext, prefix: OptionPrefix, needed: int) -> OptionTail:
        tail = split_tail(prefix, common.signature.signature_length)
        if prefix.flags & needed != needed:
            missing = needed & ~prefix.flags
            what = {FLAG_COUNTERSIGN: "countersignature", FLAG_GID: "Gid", FLAG_KID: "kid"}
            text = ", ".join(name for flag, name in what.items() if missing & flag)
            raise Rejected(Reason.MALFORMED, f"no {text}")
        return tail

    def split_request_option(self, common: CommonContext, prefix: OptionPrefix) -> OptionTail:
        if prefix.partial_iv is None:
            raise Rejected(Reason.MALFORMED, "request without Partial IV")
        return self._split_option(common, prefix, _REQUEST_FLAGS)

    def split_response_option(self, common: CommonContext, prefix: OptionPrefix) -> OptionTail:
        return self._split_option(common, prefix, _RESPONSE_FLAGS)

    def split(self, message: Message) -> Split:
        inner, outer = split_options(message.options, _CLASS_U)
        observe = bool(outer) and any(number == coap.OBSERVE for number, _ in outer)
        if coap.is_request(message.code):
            code = coap.FETCH if observe else coap.POST
        elif coap.is_response(message.code):
            code = coap.CONTENT if observe else coap.CHANGED
        else:
            raise MisuseError("only requests and responses are protected")
        return Split(code, outer, encode_plaintext(message.code, inner, message.payload))

    def join(self, outer: Message, plaintext: bytes) -> Message:
        return join_message(outer, plaintext, _CLASS_U, _KEPT)

    def seal(
        self,
        sender: SenderContext,
        binding: Binding,
        nonce: bytes,
        partial_iv: bytes | None,
        gid: bytes | None,
        plaintext: bytes,
    ) -> Sealed:
        aad, signed = binding.prepared
        try:
            payload = sender.cipher.encrypt(nonce, plaintext, aad)
        except (OverflowError, ValueError) as error:
            raise MisuseError(f"the message is too long for {sender.common.aead.name}: {error}") from None
        to_be_signed = signed + _bstr_head(len(payload)) + payload
        signature = sender.private_key.sign(to_be_signed)
        option = encode_prefix(_RESPONSE_FLAGS, partial_iv, gid) + signature + sender.sender_id
        return Sealed(option, payload, aad, to_be_signed)

    def open(
        self, recipient: RecipientContext, binding: Binding, nonce: bytes, tail: OptionTail, payload: bytes
    ) -> Opened:
        if len(payload) <= recipient.common.aead.tag_length or tail.signature is None:
            raise Rejected(Reason.MALFORMED, "payload too short for a ciphertext")
        aad, signed = binding.prepared
        try:
            plaintext = recipient.cipher.decrypt(nonce, payload, aad)
        except (InvalidTag, ValueError):
            raise Rejected(Reason.DECRYPTION_FAILED) from None
        return Opened(plaintext, signed + _bstr_head(len(payload)) + payload, tail.signature)


def split_tail(prefix: OptionPrefix, signature_length: int) -> OptionTail:
    """Countersignature and kid from what stands behind the common prefix; `signature_length` comes from the
    context's algorithm. `Rejected` (malformed): reserved bits, cut short, or bytes left over without k."""
    flags, _, _, rest = prefix
    if flags & _FLAGS_RESERVED:
        raise Rejected(Reason.MALFORMED, "reserved bit set")
    signature = None
    if flags & FLAG_COUNTERSIGN:
        if len(rest) < signature_length:
            raise Rejected(Reason.MALFORMED, "countersignature cut short")
        signature, rest = rest[:signature_length], rest[signature_length:]
    if flags & FLAG_KID:
        return OptionTail(rest, signature)
    if rest:
        raise Rejected(Reason.MALFORMED, "bytes left over without a kid")
    return OptionTail(None, signature)


MULTICAST_OSCORE_04: Final = MulticastOscore04()
