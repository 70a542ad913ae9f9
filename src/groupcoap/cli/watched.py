"""A group's Security Context to somebody who only looks on, pairwise mode included.

It has no Sender Context and empty windows, so nobody's messages are reflections or replays. What is in pairwise
mode can be read where the private key of one of the two is at hand, whoever of them has sent it."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidTag

from ..core.contexts import (
    Channel,
    CommonContext,
    PairwiseContext,
    RecipientContext,
    SecurityContext,
    SenderContext,
    pairwise_keys,
)
from ..core.sequence import SequenceNumbers
from ..cose.keys import PrivateKey
from ..errors import MisuseError, Reason, Rejected

_Decrypt = Callable[[bytes, bytes, bytes | None], bytes]


class WatchedContext(SecurityContext):
    """See the module's text.

    `requester`: whose request is answered by the message that is looked at; None if it is a request, of which only
    the keys can tell whom it is for. `peer`: whom the message in pairwise mode that was decrypted last is for."""

    __slots__ = ("_holders", "_overheard", "peer", "requester")

    def __init__(self, group: str, common: CommonContext) -> None:
        super().__init__(group, common, None, {})
        self.requester: bytes | None = None
        self.peer: bytes | None = None
        self._holders: dict[bytes, SenderContext] = {}
        self._overheard: dict[tuple[bytes, bytes], _Decrypt | None] = {}  # of pairs with a holder alone

    def hold(self, endpoint_id: bytes, private_key: PrivateKey, credential: bytes | None) -> None:
        """This member's private key is at hand. It is used to derive pairwise keys; nothing is ever sent."""
        if self.common.pairwise:
            numbers = SequenceNumbers()
            self._holders[endpoint_id] = SenderContext(self.common, endpoint_id, private_key, numbers, credential)

    def pairwise(self, recipient: RecipientContext) -> PairwiseContext:
        """What reads the messages of this sender in pairwise mode, whomever they are for: their nonces and AAD do
        not depend on that, so that all keys are tried.

        `Rejected`: no pairwise mode here, or no key (`PairwiseKeysNeeded`)."""
        common, author = self.common, recipient.recipient_id
        if not common.pairwise or common.aead is None:
            raise Rejected(Reason.NO_PAIRWISE_MODE)
        peers = [kid for kid in self.members if kid != author] if self.requester is None else [self.requester]
        found = [(peer, decrypt) for peer in peers if (decrypt := self._decrypt(recipient, peer)) is not None]
        if not found:
            raise PairwiseKeysNeeded(self, author, self.requester)

        def apply(nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
            for peer, decrypt in found:
                try:
                    plaintext = decrypt(nonce, data, associated_data)
                except InvalidTag:
                    continue
                self.peer = peer
                return plaintext
            if len(found) < len(peers):
                raise PairwiseKeysNeeded(self, author, self.requester)
            raise InvalidTag

        length = common.aead.nonce_length
        channel = Channel(apply, common.nonce_base(author, length), length, common.pairwise_overhead)
        return PairwiseContext(outgoing=channel, incoming=channel)

    def _decrypt(self, author: RecipientContext, peer: bytes) -> _Decrypt | None:
        """What decrypts messages of the one for the other; None if neither's private key is at hand."""
        pair = author.recipient_id, peer
        if self._holders.keys().isdisjoint(pair):
            return None
        if pair not in self._overheard:
            self._overheard[pair] = self._derived(author, peer)
        return self._overheard[pair]

    def _derived(self, author: RecipientContext, peer: bytes) -> _Decrypt | None:
        holder = self._holders.get(author.recipient_id)
        try:
            if holder is not None:
                aead, key, _ = pairwise_keys(holder, self.recipient(peer))
            else:
                aead, _, key = pairwise_keys(self._holders[peer], author)
        except (MisuseError, Rejected):  # a credential that no secret can be agreed on with
            return None
        return aead.cipher(key).decrypt


class PairwiseKeysNeeded(Rejected):
    """A message in pairwise mode between others: nothing can be said of it without the private key of one of the
    two. `peer`: whom it is for, None if that is not known."""

    def __init__(self, context: WatchedContext, sender_id: bytes, peer: bytes | None) -> None:
        super().__init__(Reason.DECRYPTION_FAILED, "in pairwise mode between others")
        self.context = context
        self.sender_id = sender_id
        self.peer = peer
