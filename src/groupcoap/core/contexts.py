"""The Security Context of one group under one Gid: Common, Sender and Recipient Contexts (draft §3)."""

from __future__ import annotations

from collections.abc import Iterable

from ..cose.algorithms import AeadAlgorithm, Kdf
from ..cose.keys import PrivateKey, PublicKey, SignatureAlgorithm
from ..errors import Busy, Limit, MisuseError, Reason, Rejected
from ..secret import Secret
from .profile import Profile
from .sequence import SequenceNumbers
from .synchronization import Synchronization, SynchronizationPolicy
from .window import ReplayWindow

DEFAULT_RECIPIENTS = 1024
DEFAULT_SYNCHRONIZATION = SynchronizationPolicy()


def construct_nonce(common_iv: bytes, endpoint_id: bytes, partial_iv: bytes) -> bytes:
    """Common IV XOR (length of ID ‖ ID padded ‖ Partial IV padded to 5 bytes) (OSCORE-06 §5.1). `MisuseError`
    if one of them is too long for a nonce of the Common IV's length."""
    if not 0 < len(partial_iv) <= 5:
        raise MisuseError("a Partial IV that does not fit the nonce")
    nonce = _nonce_base(common_iv, endpoint_id) ^ int.from_bytes(partial_iv, "big")
    return nonce.to_bytes(len(common_iv), "big")


def _nonce_base(common_iv: bytes, endpoint_id: bytes) -> int:
    length = len(common_iv)
    if len(endpoint_id) > length - 6:
        raise MisuseError("an Endpoint ID that does not fit the nonce")
    padded = len(endpoint_id) << 8 * (length - 1) | int.from_bytes(endpoint_id, "big") << 40
    return int.from_bytes(common_iv, "big") ^ padded


class CommonContext:
    """What all members share: AEAD, KDF, Master Secret, the Gid (which is also the Master Salt), the
    countersignature algorithm, and the Common IV derived from them. Immutable; a renewal makes a new one.

    `MisuseError` if messages under it could not be encoded."""

    __slots__ = ("aead", "common_iv", "gid", "kdf", "master_secret", "profile", "signature", "signature_length")

    def __init__(
        self,
        *,
        profile: Profile,
        aead: AeadAlgorithm,
        kdf: Kdf,
        signature: SignatureAlgorithm,
        master_secret: Secret,
        gid: bytes,
    ) -> None:
        if not len(master_secret):
            raise MisuseError("the Master Secret is empty")
        self.profile = profile
        self.aead = aead
        self.kdf = kdf
        self.signature = signature
        self.signature_length = signature.signature_length
        self.master_secret = master_secret
        self.gid = bytes(gid)
        profile.check_sizes(self, b"")
        self.common_iv = profile.derive_common_iv(self)

    def nonce_base(self, endpoint_id: bytes) -> int:
        """The nonce of this Endpoint ID with Partial IV 0, as an integer: the Partial IV fills the last 5
        bytes, so the nonce of number n is this XOR n."""
        return _nonce_base(self.common_iv, endpoint_id)

    def nonce(self, endpoint_id: bytes, partial_iv: bytes) -> bytes:
        """The AEAD nonce for this Endpoint ID and Partial IV."""
        return construct_nonce(self.common_iv, endpoint_id, partial_iv)

    def check_id(self, endpoint_id: bytes) -> None:
        """`MisuseError` if this cannot be an Endpoint ID here."""
        if len(endpoint_id) > self.aead.max_id_length:
            raise MisuseError(f"an Endpoint ID has at most {self.aead.max_id_length} bytes with {self.aead.name}")
        self.profile.check_sizes(self, endpoint_id)

    def __repr__(self) -> str:
        return f"<CommonContext {self.profile.name} gid={self.gid.hex()} {self.aead.name}>"


class SenderContext:
    """What this endpoint protects with. A pure listener has none, and nothing can be protected without one.

    `numbers` gives out each sequence number once: see `SequenceNumbers`."""

    __slots__ = (
        "bind",
        "cipher",
        "common",
        "key",
        "nonce_base",
        "nonce_length",
        "numbers",
        "private_key",
        "sender_id",
    )

    def __init__(
        self, common: CommonContext, sender_id: bytes, private_key: PrivateKey, numbers: SequenceNumbers
    ) -> None:
        common.check_id(sender_id)
        self.common = common
        self.sender_id = bytes(sender_id)
        self.private_key = private_key
        self.numbers = numbers
        self.key = common.profile.derive_key(common, self.sender_id)
        self.cipher = common.aead.cipher(self.key)
        self.nonce_base = common.nonce_base(self.sender_id)
        self.nonce_length = common.aead.nonce_length
        self.bind = common.profile.binder(common, self.sender_id, common.gid)

    def __repr__(self) -> str:
        return f"<SenderContext {self.sender_id.hex()!r} gid={self.common.gid.hex()}>"


class RecipientContext:
    """What this endpoint verifies one sender's messages with: its key, public key, replay window and state of
    synchronization.

    `unbroken`: the window has missed nothing since our Sender Key was first used, which is what allows the
    nonce of a request to be used for its response (multicast-oscore-04 §7). `kept`: it is
    one of its Security Context's."""

    __slots__ = (
        "bind",
        "common",
        "decrypt",
        "kept",
        "key",
        "nonce_base",
        "nonce_length",
        "public_key",
        "recipient_id",
        "sync",
        "tag_length",
        "unbroken",
        "window",
    )

    def __init__(
        self,
        common: CommonContext,
        recipient_id: bytes,
        public_key: PublicKey | None,
        *,
        unbroken: bool,
    ) -> None:
        self.common = common
        self.recipient_id = recipient_id
        self.public_key = public_key
        self.window = ReplayWindow()
        self.sync = Synchronization()
        self.unbroken = unbroken
        self.key = common.profile.derive_key(common, recipient_id)
        self.decrypt = common.aead.cipher(self.key).decrypt
        self.kept = False
        self.nonce_base = common.nonce_base(recipient_id)
        self.nonce_length = common.aead.nonce_length
        self.tag_length = common.aead.tag_length
        self.bind = common.profile.binder(common, recipient_id, common.gid)

    def __repr__(self) -> str:
        return f"<RecipientContext {self.recipient_id.hex()!r} gid={self.common.gid.hex()} {self.window!r}>"


class SecurityContext:
    """One group's Security Context under one Gid, at one endpoint.

    `public_keys` are those at hand ({Endpoint ID: key}); more may be learned. `intact` says that no Recipient
    Context of this Gid was ever lost here, since before our Sender Key was first used. `generation` counts the
    renewals of the group that this endpoint has installed: a higher one is newer. `current` until the group is
    renewed; `accepts_requests` until then or until the grace after it has ended. `synchronization`: how it is done
    with the senders of requests. `kept`: {Endpoint ID: Recipient Context}, changed only by `keep` and `depart`.
    `max_recipients`: senders of requests that are kept at most, and listeners whose answers were verified. A
    window is never given up for a newcomer, since it could not be made again; what only verified answers can
    be."""

    __slots__ = (
        "_answering",
        "_departed",
        "_public_keys",
        "accepts_requests",
        "common",
        "current",
        "generation",
        "gid",
        "group",
        "intact",
        "kept",
        "max_recipients",
        "sender",
        "synchronization",
    )

    def __init__(
        self,
        group: str,
        common: CommonContext,
        sender: SenderContext | None,
        public_keys: dict[bytes, PublicKey],
        *,
        synchronization: SynchronizationPolicy = DEFAULT_SYNCHRONIZATION,
        intact: bool = True,
        max_recipients: int = DEFAULT_RECIPIENTS,
    ) -> None:
        if sender is not None and sender.common is not common:
            raise MisuseError("a Sender Context of another Common Context")
        self.group = group
        self.common = common
        self.sender = sender
        self.synchronization = synchronization
        self.intact = intact
        self.max_recipients = max_recipients
        self.gid = common.gid
        self.current = True
        self.accepts_requests = True
        self.generation = 0
        self.kept: dict[bytes, RecipientContext] = {}
        self._answering: dict[bytes, RecipientContext] = {}
        self._public_keys = dict(public_keys)
        self._departed: set[bytes] = set()

    @property
    def members(self) -> Iterable[bytes]:
        """Endpoint IDs whose public key is at hand and who have not left."""
        return self._public_keys.keys()

    @property
    def recipients(self) -> Iterable[RecipientContext]:
        """The Recipient Contexts that exist, least recently created first."""
        return self.kept.values()

    def recipient(self, kid: bytes) -> RecipientContext:
        """The Recipient Context of this Endpoint ID. One that did not exist is made but not kept: `keep` it
        once a message has passed, so that forged kids fill no memory.

        `Rejected` if the kid cannot be a sender here: too long, our own, or of a member that left."""
        found = self.kept.get(kid) or self._answering.get(kid)
        if found is not None:
            return found
        if self.sender is not None and kid == self.sender.sender_id:
            raise Rejected(Reason.OWN_MESSAGE)
        if kid in self._departed or len(kid) > self.common.aead.max_id_length:
            raise Rejected(Reason.UNKNOWN_SENDER, kid.hex())
        return RecipientContext(self.common, kid, self._public_keys.get(kid), unbroken=self.intact)

    def keep(self, recipient: RecipientContext) -> RecipientContext:
        """Keep a Recipient Context whose message has passed; returns the one that is kept, which is another
        if two first messages of a sender were under way at once.

        `Rejected` if the member has left since its message was decrypted, `Busy` if too many are kept."""
        kid = recipient.recipient_id
        kept = self.kept.get(kid)
        if kept is not None:
            return kept
        if kid in self._departed:
            raise Rejected(Reason.UNKNOWN_SENDER, kid.hex())
        if len(self.kept) >= self.max_recipients:
            raise Busy(Limit.RECIPIENTS)
        self._answering.pop(kid, None)
        self.kept[kid] = recipient
        recipient.kept = True
        return recipient

    def keep_answering(self, recipient: RecipientContext) -> None:
        """Keep the Recipient Context of a listener whose response has passed, apart from those with windows: it
        is only a saving. `Rejected` if the member has left since its response was decrypted."""
        kid = recipient.recipient_id
        if kid in self._departed:
            raise Rejected(Reason.UNKNOWN_SENDER, kid.hex())
        if not recipient.kept:
            self._answering[kid] = recipient
            if len(self._answering) > self.max_recipients:
                del self._answering[next(iter(self._answering))]

    def _drop(self, kid: bytes) -> None:
        self._answering.pop(kid, None)
        dropped = self.kept.pop(kid, None)
        if dropped is not None:
            dropped.kept = False

    def restore(self, kid: bytes, window: ReplayWindow, *, unbroken: bool) -> None:
        """Bring back a synchronized sender from durable state."""
        recipient = self.recipient(kid)
        recipient.window = window
        recipient.unbroken = unbroken
        recipient.sync.restore(window.highest)
        self.keep(recipient)

    def learn(self, kid: bytes, public_key: PublicKey) -> None:
        """A member's public key has arrived."""
        self._public_keys[kid] = public_key
        found = self.kept.get(kid) or self._answering.get(kid)
        if found is not None:
            found.public_key = public_key

    def knows(self, kid: bytes) -> bool:
        """Whether the public key of this Endpoint ID is at hand."""
        return kid in self._public_keys

    def reassigned(self, newer: SecurityContext) -> set[bytes]:
        """Endpoint IDs that name another endpoint under this newer context: another public key is at hand."""
        return {
            kid
            for kid, public_key in self._public_keys.items()
            if newer.knows(kid) and newer._public_keys[kid].data != public_key.data
        }

    def depart(self, kids: Iterable[bytes]) -> None:
        """These Endpoint IDs have left: their Recipient Contexts and keys go, their messages are refused."""
        for kid in kids:
            self._departed.add(kid)
            self._drop(kid)
            self._public_keys.pop(kid, None)

    def __repr__(self) -> str:
        return f"<SecurityContext of {self.group!r} {self.common!r}>"
