"""The seam for the wire profile: everything in which multicast OSCORE and its successors differ.

A profile derives keys, binds messages to requests (AAD), splits and fills the Object-Security option behind the
common prefix, encrypts, places and finds the countersignature, and says which options travel outside. Contexts,
windows, exchanges, synchronization and endpoints know nothing of it. The profile comes from the group's
configuration, never from the wire: option prefix → Gid (response: Token) → Security Context → profile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..secret import Secret
from .coap import Message, Options
from .option import OptionPrefix

if TYPE_CHECKING:
    from .contexts import CommonContext, RecipientContext, SenderContext


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

OptionTail = tuple[bytes, bytes]
"""(kid, countersignature) from behind the common prefix; the latter empty where the profile does not carry it
there."""


Sealed = tuple[bytes, bytes, bytes, bytes]
"""A protected message: (option value, payload) to send, then (AAD, what was signed). A plain tuple, here and below:
one is made for every message."""

Split = tuple[int, Options, bytes]
"""A message taken apart for protection: (outer code, outer options, plaintext)."""


class Profile(Protocol):
    """One wire profile. Stateless; every method is pure."""

    @property
    def name(self) -> str:
        """The name used in files and vectors."""

    def derive_key(self, common: CommonContext, endpoint_id: bytes) -> Secret:
        """The Sender or Recipient Key of this Endpoint ID, of the AEAD's key length."""

    def derive_common_iv(self, common: CommonContext) -> bytes:
        """The Common IV, of the AEAD's nonce length."""

    def check_sizes(self, common: CommonContext, endpoint_id: bytes) -> None:
        """`MisuseError` where messages under these could not be encoded."""

    def binder(self, common: CommonContext, kid: bytes, gid: bytes) -> Binder:
        """For requests sent by `kid` under `gid`, verified or answered with the algorithms of `common`."""

    def external_aad(self, common: CommonContext, ids: RequestIds) -> bytes:
        """The external_aad of an exchange, CBOR: for traces and explanations."""

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
        prepared: Prepared,
        nonce: bytes,
        partial_iv: bytes | None,
        gid: bytes | None,
        plaintext: bytes,
    ) -> Sealed:
        """Encrypt, sign and encode; `partial_iv` and `gid` as they shall appear in the option."""

    def open(self, recipient: RecipientContext, prepared: Prepared, nonce: bytes, payload: bytes) -> bytes:
        """The plaintext. `Rejected`: malformed (payload too short) or decryption failed."""

    def countersigned(self, prepared: Prepared, tail: OptionTail, payload: bytes) -> tuple[bytes, bytes]:
        """(countersignature, what it must be a signature over) of a message that `open` has decrypted."""
