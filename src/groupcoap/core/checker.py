"""External signature checkers (Group OSCORE §7.5, §12.3): who has made a message, for somebody who cannot read it.

One is a gateway that lets only authentic messages into a network. It is given the Signature Encryption Key, which
lays the countersignatures open, and no Master Secret, from which alone the keys are derived that messages are
encrypted with: there is nothing here that could decrypt one, nor does the Signature Encryption Key lead back.

What is said here holds of a message in group mode, whenever it was made: repetitions are not found out, since that
takes a window for each sender and the certainty that a message has gone through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..cose.algorithms import AeadAlgorithm, EncryptionAlgorithm, Kdf, KeyAgreement
from ..cose.keys import PublicKey, SignatureAlgorithm
from ..errors import MisuseError, Reason, Rejected
from ..secret import Secret
from .coap import Message, is_request, is_response
from .group_oscore import GROUP_OSCORE, signed_part
from .option import OptionPrefix, decode_prefix
from .profile import Author, OptionTail, Prepared, RequestIds
from .requests import object_security


class CheckedRequest(NamedTuple):
    """A request whose countersignature is right. `ids`: what its responses are bound to."""

    sender_id: bytes
    ids: RequestIds


class CheckedResponse(NamedTuple):
    """A response whose countersignature is right: made by this member under this Gid, for that request.
    `partial_iv`: None where it has none of its own."""

    sender_id: bytes
    gid: bytes
    partial_iv: bytes | None


class SignatureChecker:
    """A group under one Gid, as an external signature checker knows it. Immutable; a renewal takes a new one.

    `members`: {Endpoint ID: (credential as it enters the AAD, its public key)}. `manager_credential`: the Group
    Manager's, likewise. `encryption`: the Group Encryption Algorithm. `aead`, `key_agreement`: of the pairwise
    mode, None where they are not set; they too are bound to every message. `sign_protected`: which form of what is
    countersigned is tried first; both are accepted.

    `MisuseError` if the key is not of the algorithm's length, or there is no manager credential."""

    __slots__ = (
        "_members",
        "aead",
        "encryption",
        "gid",
        "key_agreement",
        "keystream",
        "manager_credential",
        "sign_protected",
        "signature",
        "signature_length",
    )

    def __init__(
        self,
        *,
        gid: bytes,
        signature_encryption_key: Secret,
        members: Mapping[bytes, tuple[bytes, PublicKey]],
        manager_credential: bytes,
        encryption: EncryptionAlgorithm,
        signature: SignatureAlgorithm,
        kdf: Kdf,
        aead: AeadAlgorithm | None = None,
        key_agreement: KeyAgreement | None = None,
        sign_protected: bool = True,
    ) -> None:
        if len(signature_encryption_key) != encryption.key_length:
            raise MisuseError(
                f"a Signature Encryption Key has {encryption.key_length} bytes with {encryption.name}"
            )
        if not gid or not manager_credential:
            raise MisuseError("a signature checker needs the Gid and the Group Manager's credential")
        self.gid = bytes(gid)
        self.aead = aead
        self.encryption = encryption
        self.key_agreement = key_agreement
        self.signature = signature
        self.signature_length = signature.signature_length
        self.manager_credential = manager_credential
        self.sign_protected = sign_protected
        self.keystream = kdf.deriver(signature_encryption_key, self.signature_length)
        self._members: dict[bytes, tuple[Author, PublicKey]] = {}
        for endpoint_id, (credential, key) in members.items():
            author = GROUP_OSCORE.author(self, endpoint_id, credential)
            assert author is not None  # there is a credential
            self._members[endpoint_id] = author, key

    def check_request(self, message: Message) -> CheckedRequest:
        """Who has made this request. `Rejected` if that is not certain: malformed, another Gid, in pairwise mode
        (no countersignature), not from a member, or the countersignature is wrong."""
        if not is_request(message.code) or not message.payload:
            raise Rejected(Reason.MALFORMED, "not a request with a ciphertext")
        value = object_security(message)
        prefix = decode_prefix(value)
        ids, tail = _request(self, prefix)
        if ids.gid != self.gid:
            raise Rejected(Reason.UNKNOWN_GROUP, ids.gid.hex())
        if tail[2]:
            raise Rejected(Reason.NO_COUNTERSIGNATURE)
        prepared = GROUP_OSCORE.binder(self, ids.kid, ids.gid)(ids.partial_iv)
        self._verify(ids.kid, prepared, value, prefix, tail, message.payload, response=False)
        return CheckedRequest(ids.kid, ids)

    @property
    def members(self) -> Iterable[bytes]:
        """Endpoint IDs of those whose countersignatures can be verified."""
        return self._members.keys()

    def check_response(
        self, message: Message, request: RequestIds, responder: bytes | None = None
    ) -> CheckedResponse:
        """Who has made this response, to the request with these ids, which the Token has led to. That may have been
        under an older Gid, and in pairwise mode; then the response may leave out who it is from, and `responder` is
        who that should be, by its address or whatever else tells: the countersignature then says whether it is.

        `Rejected` if it is not certain, as for a request; also if nothing says who it is from."""
        if not is_response(message.code) or not message.payload:
            raise Rejected(Reason.MALFORMED, "not a response with a ciphertext")
        value = object_security(message)
        prefix = decode_prefix(value)
        _, partial_iv, gid, _ = prefix
        tail = GROUP_OSCORE.split_response_option(self, prefix)
        kid = responder if tail[0] is None else tail[0]
        if gid not in (None, self.gid):
            raise Rejected(Reason.UNKNOWN_GROUP, (gid or b"").hex())
        if tail[2]:
            raise Rejected(Reason.NO_COUNTERSIGNATURE)
        if kid is None:
            raise Rejected(Reason.UNKNOWN_SENDER, "it does not say who it is from")
        if partial_iv is None and request.gid != self.gid:
            raise Rejected(Reason.BOUND_TO_OTHER_REQUEST, "another Gid without Partial IV")
        if kid == request.kid and request.gid == self.gid:
            raise Rejected(Reason.OWN_MESSAGE)
        prepared = GROUP_OSCORE.binder(self, request.kid, request.gid)(request.partial_iv)
        self._verify(kid, prepared, value, prefix, tail, message.payload, response=True)
        return CheckedResponse(kid, self.gid, partial_iv)

    def _verify(
        self,
        kid: bytes,
        prepared: Prepared,
        value: bytes,
        prefix: OptionPrefix,
        tail: OptionTail,
        payload: bytes,
        *,
        response: bool,
    ) -> None:
        if len(payload) <= self.encryption.tag_length + self.signature_length:
            raise Rejected(Reason.MALFORMED, "payload too short for a ciphertext")
        if kid not in self._members:
            raise Rejected(Reason.UNKNOWN_SENDER, kid.hex())
        author, key = self._members[kid]
        signed = signed_part(prepared, author, (value, prefix, tail, payload, response), self.signature_length)
        signature, message = GROUP_OSCORE.countersigned(self, signed)
        if not key.verify(signature, message):
            otherwise = GROUP_OSCORE.countersigned_otherwise(self, signed)
            if otherwise is None or not key.verify(signature, otherwise):
                raise Rejected(Reason.SIGNATURE_FAILED, kid.hex())

    def __repr__(self) -> str:
        return f"<SignatureChecker gid={self.gid.hex()} of {len(self._members)} members>"


def request_ids(checker: SignatureChecker, request: Message) -> RequestIds:
    """What responses to this request are bound to. It need not be authentic, nor in group mode: a response is, if
    it fits. `Rejected` if it is no group request."""
    if not is_request(request.code):
        raise Rejected(Reason.MALFORMED, "not a request")
    return _request(checker, decode_prefix(object_security(request)))[0]


def _request(checker: SignatureChecker, prefix: OptionPrefix) -> tuple[RequestIds, OptionTail]:
    tail = GROUP_OSCORE.split_request_option(checker, prefix)
    _, partial_iv, gid, _ = prefix
    kid = tail[0]
    assert kid is not None  # as split_request_option promises, of all three
    assert partial_iv is not None
    assert gid is not None
    return RequestIds(kid, partial_iv, gid), tail
