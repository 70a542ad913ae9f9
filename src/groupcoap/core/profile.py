"""The seam for the wire profile: everything in which multicast OSCORE and Group OSCORE differ.

A profile derives keys, binds messages to requests (AAD), splits and fills the Object-Security option behind the
common prefix, encrypts, places and finds the countersignature, says which options travel outside, and has a few
rules of conduct (`Rules`). Contexts, windows, exchanges, synchronization and endpoints know nothing else of it. The
profile comes from the group's configuration, never from the wire: option prefix → Gid (response: Token) → Security
Context → profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..secret import Secret
from .coap import Message, Options
from .option import OptionPrefix

if TYPE_CHECKING:
    from .contexts import Channel, CommonContext, RecipientContext, SenderContext


class Mode(Enum):
    """Whom a message is protected for; the value is the name used in files and on the command line."""

    GROUP = "group"
    """For all members, with a countersignature."""
    PAIRWISE = "pairwise"
    """For one other member, with keys that only the two have (Group OSCORE §8)."""


class RequestIds(NamedTuple):
    """What binds a response to its request (draft §5.4): kid, Partial IV and Gid of the request."""

    kid: bytes
    partial_iv: bytes
    gid: bytes


Prepared = tuple[bytes, ...]
"""What the profile has made of a request's ids for AAD and countersignature; only the profile looks inside."""

Binder = Callable[[bytes], Prepared]
"""Partial IV of a request → what is prepared from it. One per requester and Gid, with everything constant computed
once."""

Author = tuple[bytes, ...]
"""What the profile has made of who protects a message: Endpoint ID and credential. Only the profile looks
inside."""

OptionTail = tuple[bytes | None, bytes, bool]
"""(kid, countersignature, pairwise) from behind the common prefix: the kid None where a response may be without;
the countersignature empty where the profile does not carry it there; whether the message is in pairwise mode."""

Header = tuple[bytes | None, bytes | None, bytes | None, bool, bool]
"""(Partial IV, Gid, kid, response, pairwise) of a message to be sealed: the first three as they shall appear in the
option. A plain tuple, here and below: one is made for every message."""

Sealed = tuple[bytes, bytes, bytes, bytes]
"""A protected message: (option value, payload) to send, then (AAD, what was signed; empty in pairwise mode)."""

Enclosed = tuple[bytes, OptionPrefix, OptionTail, bytes, bool]
"""A received message, as far as it has been split: (option value, its prefix, its tail, payload, response)."""

Signed = tuple[bytes, ...]
"""What the profile needs to say which countersignature is over what; only the profile looks inside."""

Opened = tuple[bytes | None, Signed | None]
"""(plaintext, what its countersignature is over). No plaintext: it comes only once the countersignature has been
verified (`Profile.reveal`). No countersignature: who has made the message is certain already."""

Split = tuple[int, Options, bytes]
"""A message taken apart for protection: (outer code, outer options, plaintext)."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The conduct in which profiles differ.

    `challenge_code`: of the answer that carries a Repeat (Echo) value. `replay_error`: code and text of the
    unprotected answer to a replay. `repeat_lengths`: bytes of such a value, from and to. `echo_is_original`: only
    an echo that repeats the challenged request is delivered. `signature_first`: what is inside a message in group
    mode is looked at only once its countersignature is verified, which is never put off or left out.
    `long_exchanges`: a listener may answer a group request several times, and its first answer, be it a
    notification, may do without a Partial IV. `inner_observe`: Observe is inside, what is outside only helps
    proxies. `gid_if_renewed`: every answer under another Gid than the request's says so. `pairwise`: there is a
    pairwise mode. `binds_credentials`: those of sender and Group Manager enter the AAD. `min_gid`: bytes of a Gid
    at least."""

    challenge_code: int
    replay_error: tuple[int, bytes]
    repeat_lengths: tuple[int, int]
    echo_is_original: bool
    signature_first: bool
    long_exchanges: bool
    inner_observe: bool
    gid_if_renewed: bool
    pairwise: bool
    binds_credentials: bool
    min_gid: int


class Profile(Protocol):
    """One wire profile. Stateless; every method is pure."""

    @property
    def name(self) -> str:
        """The name used in files and vectors."""

    @property
    def rules(self) -> Rules:
        """What conduct it asks for."""

    def check_algorithms(self, common: CommonContext) -> None:
        """`MisuseError` for a combination of algorithms and parameters that the profile does not have."""

    def derive_key(self, common: CommonContext, endpoint_id: bytes) -> Secret:
        """The Sender or Recipient Key of this Endpoint ID, of the key length of `common.encryption`."""

    def derive_common_iv(self, common: CommonContext) -> bytes:
        """The Common IV, of the greatest nonce length of the algorithms."""

    def derive_signature_encryption_key(self, common: CommonContext) -> Secret | None:
        """What countersignatures are encrypted with; None if they are not."""

    def derive_pairwise_key(
        self, common: CommonContext, endpoint_id: bytes, salt: Secret, secret: Secret
    ) -> Secret:
        """The Pairwise Sender or Recipient Key of this Endpoint ID, whose Sender Key is `salt`, from the
        credentials of both and the secret that they share. `MisuseError` if there is no pairwise mode."""

    def check_sizes(self, common: CommonContext, endpoint_id: bytes) -> None:
        """`MisuseError` where messages under these could not be encoded."""

    def author(self, common: CommonContext, endpoint_id: bytes, credential: bytes | None) -> Author | None:
        """For messages of this Endpoint ID with this credential; None if the credential is needed and not there."""

    def binder(self, common: CommonContext, kid: bytes, gid: bytes) -> Binder:
        """For requests sent by `kid` under `gid`, verified or answered with the algorithms of `common`."""

    def external_aad(self, common: CommonContext, ids: RequestIds, option: bytes, author: Author) -> bytes:
        """The external_aad of a message, CBOR: for traces and explanations."""

    def is_group_message(self, prefix: OptionPrefix) -> bool:
        """Whether an option whose Gid is not known looks like this profile's, rather than like RFC 8613's."""

    def split_request_option(self, common: CommonContext, prefix: OptionPrefix) -> OptionTail:
        """The rest of a request's option. `Rejected` (malformed) unless everything a request needs is there."""

    def split_response_option(self, common: CommonContext, prefix: OptionPrefix) -> OptionTail:
        """The rest of a response's option, likewise."""

    def split(self, message: Message) -> Split:
        """Class E and class U of a message to be protected. `MisuseError` if it cannot be."""

    def join(self, outer: Message, plaintext: bytes) -> Message:
        """The original message from a received one and its plaintext. `Rejected` (malformed)."""

    def seal(
        self,
        sender: SenderContext,
        channel: Channel,
        prepared: Prepared,
        nonce: bytes,
        header: Header,
        plaintext: bytes,
    ) -> Sealed:
        """Encrypt with this channel's key, sign unless in pairwise mode, and encode."""

    def open(
        self, recipient: RecipientContext, channel: Channel, prepared: Prepared, nonce: bytes, enclosed: Enclosed
    ) -> Opened:
        """Decrypt, as far as that may be before a countersignature is verified. `Rejected`: malformed (payload too
        short), decryption failed, or no public key (the credential is needed to decrypt)."""

    def countersigned(self, common: CommonContext, signed: Signed) -> tuple[bytes, bytes]:
        """(countersignature, what it must be a signature over) of a message that `open` has taken."""

    def countersigned_otherwise(self, common: CommonContext, signed: Signed) -> bytes | None:
        """What else that may be a signature over, in another form of the same; None if there is no other."""

    def reveal(self, channel: Channel, nonce: bytes, signed: Signed) -> bytes:
        """The plaintext that `open` has withheld, now that the countersignature is verified."""
