"""The envelope of rekey messages to many at once (RFC 9594 §6.2.1): COSE_Encrypt0 with a countersignature.

    [protected {1: alg, 4: kid}, {6: Partial IV, 12: countersignature}, ciphertext]        untagged

    Partial IV = COUNT (2 bytes) ‖ NEW_NUM, padded to the nonce's length      nonce = Base IV XOR Partial IV
    AAD = ["Encrypt0", protected, h'']
    signed: ["CounterSignature0", protected, h'', ciphertext], with the Group Manager's key [LOCAL: 4 elements]

Whoever holds the administrative key could have made the ciphertext; only the countersignature says that it is the
Group Manager's. So it is verified first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cbor2
from cryptography.exceptions import InvalidTag

from ..cose.algorithms import DEFAULT_AEAD, AeadAlgorithm, EncryptionCipher
from ..cose.keys import PrivateKey, PublicKey
from ..errors import MisuseError, Reason, Rejected
from ..membership import SecurityParameters
from . import reading
from .admin import MAX_KID, AdminKey
from .reading import Malformed, rejecting

MAX_COUNT: Final = (1 << 16) - 1
"""Of messages under one key in one renewal: they are numbered from 0."""

MAX_CIPHERTEXT: Final = (1 << 16) - 1
"""Bytes of a ciphertext, tag included: what CCM with a nonce of 13 bytes can count, and more than a datagram
holds."""

_ALG, _CRIT, _KID, _PARTIAL_IV, _COUNTERSIGNATURE = 1, 2, 4, 6, 12
_COUNT_LENGTH: Final = 2
_MAX_NONCE: Final = 32
_MAX_SIGNATURE: Final = 256


def envelope_algorithm(parameters: SecurityParameters) -> AeadAlgorithm:
    """What a group's envelopes are encrypted with: its AEAD for messages to the group, or AES-CCM-16-64-128 where
    those are encrypted without authentication. `MisuseError` if the group has no encryption algorithm."""
    encryption = parameters.encryption
    return encryption if isinstance(encryption, AeadAlgorithm) else DEFAULT_AEAD


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope as it came; nothing of it is authentic yet. `protected`: the encoded map of the protected header,
    without its byte string's head."""

    kid: bytes
    alg: int
    partial_iv: bytes
    protected: bytes
    countersignature: bytes
    ciphertext: bytes

    @property
    def count(self) -> int:
        """COUNT: which message under this key in this renewal it says to be, from 0."""
        return int.from_bytes(self.partial_iv[:_COUNT_LENGTH], "big")

    def num(self, aead: AeadAlgorithm) -> int:
        """NEW_NUM: the number of the renewal that it says to be of. `Rejected` (malformed) if its Partial IV is
        not as long as this algorithm's nonce."""
        if len(self.partial_iv) != aead.nonce_length:
            raise Rejected(Reason.MALFORMED, "a Partial IV that is not as long as the nonce")
        return int.from_bytes(self.partial_iv[_COUNT_LENGTH:], "big")

    def open(self, key: AdminKey, aead: AeadAlgorithm, base_iv: bytes, manager_key: PublicKey) -> bytes:
        """The plaintext, a rekey message, once the countersignature is verified. `Rejected`: malformed (not the
        group's algorithm), signature failed, decryption failed. `MisuseError` if the kid is another key's."""
        if key.kid != self.kid:
            raise MisuseError("an envelope under another key")
        if self.alg != aead.number:
            raise Rejected(Reason.MALFORMED, "an envelope under another algorithm than the group's")
        self.num(aead)
        if not manager_key.verify(self.countersignature, _signed(self.protected, self.ciphertext)):
            raise Rejected(Reason.SIGNATURE_FAILED, "not the Group Manager's")
        nonce, cipher = _nonce(base_iv, self.partial_iv), _cipher(aead, key)
        try:
            return cipher.decrypt(nonce, self.ciphertext, _associated(self.protected))
        except InvalidTag:
            raise Rejected(Reason.DECRYPTION_FAILED) from None


def seal(
    plaintext: bytes,
    key: AdminKey,
    aead: AeadAlgorithm,
    base_iv: bytes,
    count: int,
    num: int,
    signer: PrivateKey,
) -> bytes:
    """An envelope around a rekey message. `count`: from 0, one more for each message under this key in this
    renewal; `num`: the renewal's. The same of both under one key must never come twice with another plaintext.
    `MisuseError` if one of them is out of range, the plaintext too long, or key or Base IV not of the algorithm's
    length."""
    protected = cbor2.dumps({_ALG: aead.number, _KID: key.kid})
    partial_iv = _partial_iv(aead, count, num)
    nonce = _nonce(base_iv, partial_iv)
    if len(plaintext) + aead.tag_length > MAX_CIPHERTEXT:
        raise MisuseError("a rekey message that is too long for an envelope")
    ciphertext = _cipher(aead, key).encrypt(nonce, plaintext, _associated(protected))
    signature = signer.sign(_signed(protected, ciphertext))
    return cbor2.dumps([protected, {_PARTIAL_IV: partial_iv, _COUNTERSIGNATURE: signature}, ciphertext])


@rejecting
def parse_envelope(data: bytes) -> Envelope:
    """An envelope taken apart. `Rejected` (malformed) if it is not one; header parameters that are not known are
    ignored, unless they are said to be critical."""
    protected, unprotected, ciphertext = reading.array(reading.decode(data), "the envelope", 3)
    protected = reading.octets(protected, "the protected header")
    inside = reading.fields(reading.decode(protected), "the protected header")
    outside = reading.fields(unprotected, "the unprotected header")
    if _CRIT in inside:
        raise Malformed("critical header parameters that are not known")
    if inside.keys() & outside.keys():
        raise Malformed("a header parameter that is both protected and not")
    iv, signature = (
        reading.needed(outside, label, "a header parameter") for label in (_PARTIAL_IV, _COUNTERSIGNATURE)
    )
    return Envelope(
        reading.octets(reading.needed(inside, _KID, "kid"), "kid", 1, MAX_KID),
        reading.integer(reading.needed(inside, _ALG, "alg"), "alg", -(1 << 63)),
        reading.octets(iv, "Partial IV", _COUNT_LENGTH + 1, _MAX_NONCE),
        protected,
        reading.octets(signature, "the countersignature", 1, _MAX_SIGNATURE),
        reading.octets(ciphertext, "the ciphertext", 1, MAX_CIPHERTEXT),
    )


def _partial_iv(aead: AeadAlgorithm, count: int, num: int) -> bytes:
    length = aead.nonce_length - _COUNT_LENGTH
    if not 0 <= count <= MAX_COUNT or not 0 <= num < 1 << 8 * length:
        raise MisuseError("too many messages in a renewal, or renewals, for the nonce")
    return count.to_bytes(_COUNT_LENGTH, "big") + num.to_bytes(length, "big")


def _nonce(base_iv: bytes, partial_iv: bytes) -> bytes:
    if len(base_iv) != len(partial_iv):
        raise MisuseError("a Base IV is as long as the nonce")
    return bytes(a ^ b for a, b in zip(base_iv, partial_iv, strict=True))


def _cipher(aead: AeadAlgorithm, key: AdminKey) -> EncryptionCipher:
    if len(key.key) != aead.key_length:
        raise MisuseError(f"an administrative key for {aead.name} has {aead.key_length} bytes")
    return aead.cipher(key.key)


def _associated(protected: bytes) -> bytes:
    return cbor2.dumps(["Encrypt0", protected, b""])


def _signed(protected: bytes, ciphertext: bytes) -> bytes:
    return cbor2.dumps(["CounterSignature0", protected, b"", ciphertext])
