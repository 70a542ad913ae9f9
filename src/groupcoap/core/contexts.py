"""The Security Context of one group under one Gid: Common, Sender and Recipient Contexts (draft §3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ..cose.algorithms import AeadAlgorithm, EncryptionAlgorithm, Kdf, KeyAgreement
from ..cose.keys import PrivateKey, PublicKey, SignatureAlgorithm
from ..errors import Busy, ContextExpired, Limit, MisuseError, Reason, Rejected
from ..secret import Secret
from . import coap
from .profile import Profile
from .sequence import SequenceNumbers
from .synchronization import ORIGINAL_ONLY, EchoRule, Synchronization, SynchronizationPolicy
from .window import ReplayWindow

DEFAULT_RECIPIENTS = 1024
DEFAULT_SYNCHRONIZATION = SynchronizationPolicy()


class Channel(NamedTuple):
    """One direction under one key. `apply` encrypts (a Sender's) or decrypts (a Recipient's): nonce, data, AAD.
    `nonce_base`: the nonce of the key's owner for Partial IV 0, as an integer. `overhead`: bytes of a payload that
    are not plaintext's."""

    apply: Callable[[bytes, bytes, bytes | None], bytes]
    nonce_base: int
    nonce_length: int
    overhead: int

    def __repr__(self) -> str:
        return f"<Channel with nonces of {self.nonce_length} bytes>"


def construct_nonce(common_iv: bytes, endpoint_id: bytes, partial_iv: bytes, length: int | None = None) -> bytes:
    """Common IV XOR (length of ID ‖ ID padded ‖ Partial IV padded to 5 bytes) (OSCORE-06 §5.1), of `length` bytes:
    that many from the start of the Common IV (Group OSCORE §3.3), all if None. `MisuseError` if one of them is too
    long for such a nonce."""
    if not 0 < len(partial_iv) <= 5:
        raise MisuseError("a Partial IV that does not fit the nonce")
    common_iv = common_iv[:length]
    nonce = _nonce_base(common_iv, endpoint_id) ^ int.from_bytes(partial_iv, "big")
    return nonce.to_bytes(len(common_iv), "big")


def _nonce_base(common_iv: bytes, endpoint_id: bytes) -> int:
    length = len(common_iv)
    if len(endpoint_id) > length - 6:
        raise MisuseError("an Endpoint ID that does not fit the nonce")
    padded = len(endpoint_id) << 8 * (length - 1) | int.from_bytes(endpoint_id, "big") << 40
    return int.from_bytes(common_iv, "big") ^ padded


class CommonContext:
    """What all members share: algorithms, Master Secret, Gid, and the Common IV derived from them. Immutable; a
    renewal makes a new one.

    `encryption`: the algorithm for messages to the group; it is `group_encryption` where the profile has that apart
    from `aead`, which is then for the pairwise mode (None: not set). `key_agreement`: for the pairwise mode (None:
    not set). `master_salt`: of Group OSCORE; in multicast OSCORE the Gid takes its place. `manager_credential`: the
    Group Manager's, as it enters the AAD; empty where it does not. `signature_encryption_key`: None where
    countersignatures travel in clear. `sign_protected`: whether what is countersigned has an empty sign_protected,
    see `groupcoap.core.group_oscore`. `keystream`: made with that key from a Partial IV and an info. `overhead`,
    `pairwise_overhead`: bytes of a payload that are not plaintext's, in either mode.

    `MisuseError` if messages under it could not be encoded, or the profile has no such algorithms."""

    __slots__ = (
        "aead",
        "common_iv",
        "encryption",
        "gid",
        "kdf",
        "key_agreement",
        "keystream",
        "manager_credential",
        "master_salt",
        "master_secret",
        "max_id_length",
        "overhead",
        "pairwise_overhead",
        "profile",
        "sign_protected",
        "signature",
        "signature_encryption_key",
        "signature_length",
    )

    def __init__(
        self,
        *,
        profile: Profile,
        aead: AeadAlgorithm | None,
        kdf: Kdf,
        signature: SignatureAlgorithm,
        master_secret: Secret,
        gid: bytes,
        group_encryption: EncryptionAlgorithm | None = None,
        key_agreement: KeyAgreement | None = None,
        master_salt: bytes = b"",
        manager_credential: bytes = b"",
        sign_protected: bool = True,
    ) -> None:
        if not len(master_secret):
            raise MisuseError("the Master Secret is empty")
        encryption = group_encryption or aead
        if encryption is None:
            raise MisuseError("a group needs an encryption algorithm")
        self.profile = profile
        self.aead = aead
        self.encryption: EncryptionAlgorithm = encryption
        self.kdf = kdf
        self.signature = signature
        self.signature_length = signature.signature_length
        self.key_agreement = key_agreement
        self.master_secret = master_secret
        self.master_salt = master_salt
        self.manager_credential = manager_credential
        self.sign_protected = sign_protected
        self.gid = bytes(gid)
        self.max_id_length = min(
            encryption.max_id_length, encryption.max_id_length if aead is None else aead.max_id_length
        )
        profile.check_algorithms(self)
        profile.check_sizes(self, b"")
        self.common_iv = profile.derive_common_iv(self)
        self.signature_encryption_key = profile.derive_signature_encryption_key(self)
        key = self.signature_encryption_key
        self.keystream = None if key is None else kdf.deriver(key, self.signature_length)
        signature_in_payload = 0 if self.signature_encryption_key is None else self.signature_length
        self.overhead = encryption.tag_length + signature_in_payload
        self.pairwise_overhead = 0 if aead is None else aead.tag_length

    @property
    def pairwise(self) -> bool:
        """Whether the pairwise mode is used in the group (Group OSCORE §2.1)."""
        return self.aead is not None and self.key_agreement is not None

    def nonce_base(self, endpoint_id: bytes, length: int | None = None) -> int:
        """The nonce of this Endpoint ID with Partial IV 0, as an integer: the Partial IV fills the last 5
        bytes, so the nonce of number n is this XOR n. `length`: of the nonce, `encryption`'s if None."""
        return _nonce_base(self.common_iv[: length or self.encryption.nonce_length], endpoint_id)

    def nonce(self, endpoint_id: bytes, partial_iv: bytes, length: int | None = None) -> bytes:
        """The nonce for this Endpoint ID and Partial IV, of this length, or `encryption`'s."""
        return construct_nonce(self.common_iv, endpoint_id, partial_iv, length or self.encryption.nonce_length)

    def check_id(self, endpoint_id: bytes) -> None:
        """`MisuseError` if this cannot be an Endpoint ID here."""
        if len(endpoint_id) > self.max_id_length:
            raise MisuseError(f"an Endpoint ID has at most {self.max_id_length} bytes with {self.encryption.name}")
        self.profile.check_sizes(self, endpoint_id)

    def __repr__(self) -> str:
        return f"<CommonContext {self.profile.name} gid={self.gid.hex()} {self.encryption.name}>"


class SenderContext:
    """What this endpoint protects with. A pure listener has none, and nothing can be protected without one.

    `numbers` gives out each sequence number once: see `SequenceNumbers`. `credential`: this endpoint's own, as it
    enters the AAD. `channel`: for messages to the group."""

    __slots__ = ("author", "bind", "channel", "common", "credential", "key", "numbers", "private_key", "sender_id")

    def __init__(
        self,
        common: CommonContext,
        sender_id: bytes,
        private_key: PrivateKey,
        numbers: SequenceNumbers,
        credential: bytes | None = None,
    ) -> None:
        common.check_id(sender_id)
        self.common = common
        self.sender_id = bytes(sender_id)
        self.private_key = private_key
        self.numbers = numbers
        self.credential = credential
        profile, encryption = common.profile, common.encryption
        author = profile.author(common, self.sender_id, credential)
        if author is None:
            raise MisuseError("a member needs a credential of its own here")
        self.author = author
        self.key = profile.derive_key(common, self.sender_id)
        base = common.nonce_base(self.sender_id)
        self.channel = Channel(encryption.cipher(self.key).encrypt, base, encryption.nonce_length, 0)
        self.bind = profile.binder(common, self.sender_id, common.gid)

    def __repr__(self) -> str:
        return f"<SenderContext {self.sender_id.hex()!r} gid={self.common.gid.hex()}>"


class RecipientContext:
    """What this endpoint verifies one sender's messages with: its key, public key, replay window and state of
    synchronization.

    `unbroken`: the window has missed nothing since our Sender Key was first used, which is what allows the nonce of
    a request to be used for its response (multicast-oscore-04 §7). `kept`: it is one of its Security Context's.
    `signs_otherwise`: whether what this sender has countersigned last was in the other form, see
    `Profile.countersigned_otherwise`. `credential`: the sender's, as it enters the AAD. `channel`: for its messages
    to the group."""

    __slots__ = (
        "author",
        "bind",
        "channel",
        "common",
        "credential",
        "kept",
        "key",
        "public_key",
        "recipient_id",
        "signs_otherwise",
        "sync",
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
        credential: bytes | None = None,
    ) -> None:
        self.common = common
        self.recipient_id = recipient_id
        self.learn(public_key, credential)
        self.window = ReplayWindow()
        self.sync = Synchronization()
        self.signs_otherwise = False
        self.unbroken = unbroken
        self.kept = False
        profile, encryption = common.profile, common.encryption
        self.key = profile.derive_key(common, recipient_id)
        base = common.nonce_base(recipient_id)
        self.channel = Channel(encryption.cipher(self.key).decrypt, base, encryption.nonce_length, common.overhead)
        self.bind = profile.binder(common, recipient_id, common.gid)

    def learn(self, public_key: PublicKey | None, credential: bytes | None) -> None:
        """The sender's credential has come."""
        self.public_key = public_key
        self.credential = credential
        self.author = self.common.profile.author(self.common, self.recipient_id, credential)

    def __repr__(self) -> str:
        return f"<RecipientContext {self.recipient_id.hex()!r} gid={self.common.gid.hex()} {self.window!r}>"


class PairwiseContext(NamedTuple):
    """What this endpoint and one other share with nobody else (Group OSCORE §2.5). The Pairwise Sender Key is in
    `outgoing`, the Pairwise Recipient Key in `incoming`."""

    outgoing: Channel
    incoming: Channel


def pairwise_keys(sender: SenderContext, recipient: RecipientContext) -> tuple[AeadAlgorithm, Secret, Secret]:
    """What these two encrypt with in pairwise mode, the Pairwise Sender Key and the Pairwise Recipient Key (Group
    OSCORE §2.5.1). `MisuseError` if the group has no pairwise mode, or the other's credential is not at hand or not
    usable for it."""
    common = sender.common
    aead = common.aead
    if not common.pairwise or aead is None:
        raise MisuseError("the pairwise mode is not used in this group")
    own, others, key = sender.credential, recipient.credential, recipient.public_key
    if own is None or others is None or key is None:
        raise MisuseError("the pairwise mode takes the credentials of both")
    shared = sender.private_key.agree(key).reveal()
    derive = common.profile.derive_pairwise_key
    sender_key = derive(common, sender.sender_id, sender.key, Secret(own + others + shared))
    recipient_key = derive(common, recipient.recipient_id, recipient.key, Secret(others + own + shared))
    return aead, sender_key, recipient_key


def pairwise_context(sender: SenderContext, recipient: RecipientContext) -> PairwiseContext:
    """The pairwise keys of these two, ready for use. `MisuseError` as for `pairwise_keys`."""
    aead, sender_key, recipient_key = pairwise_keys(sender, recipient)
    common = sender.common
    length, overhead = aead.nonce_length, common.pairwise_overhead
    return PairwiseContext(
        Channel(aead.cipher(sender_key).encrypt, common.nonce_base(sender.sender_id, length), length, 0),
        Channel(
            aead.cipher(recipient_key).decrypt, common.nonce_base(recipient.recipient_id, length), length, overhead
        ),
    )


class CredentialNeeded(Rejected):
    """Nothing can be said of a message before its sender's credential is there: it is looked up for `context`, and
    the message looked at again."""

    def __init__(self, context: SecurityContext, sender_id: bytes) -> None:
        super().__init__(Reason.NO_PUBLIC_KEY, sender_id.hex())
        self.context = context
        self.sender_id = sender_id


class SecurityContext:
    """One group's Security Context under one Gid, at one endpoint.

    `public_keys` are those at hand ({Endpoint ID: key}); more may be learned. `credentials`: theirs, as they enter
    the AAD ({Endpoint ID: bytes}), where the profile needs them. `established`: when a renewal brought this context
    (monotonic seconds), None if that is not known. `intact` says that no Recipient Context of this Gid was ever
    lost here, since before our Sender Key was first used. `generation` counts the renewals of the group that this
    endpoint has installed: a higher one is newer. `current` until the group is renewed; `accepts_requests` until
    then or until the grace after it has ended. `refusal`: why nothing at all is accepted, None if that is not so:
    it is past its lifetime, or was removed. `synchronization`: how it is done with the senders of requests.
    `kept`: {Endpoint ID: Recipient Context}, changed only by `keep` and `depart`. `max_recipients`: senders of
    requests that are kept at most, and listeners whose answers were verified. A window is never given up for a
    newcomer, since it could not be made again; what only verified answers can be."""

    __slots__ = (
        "_answering",
        "_credentials",
        "_departed",
        "_pairwise",
        "_public_keys",
        "accepts_requests",
        "common",
        "current",
        "echo_rule",
        "generation",
        "gid",
        "group",
        "intact",
        "kept",
        "max_recipients",
        "pairwise_echo_rule",
        "refusal",
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
        credentials: Mapping[bytes, bytes] | None = None,
        synchronization: SynchronizationPolicy = DEFAULT_SYNCHRONIZATION,
        intact: bool = True,
        established: float | None = None,
        max_recipients: int = DEFAULT_RECIPIENTS,
    ) -> None:
        if sender is not None and sender.common is not common:
            raise MisuseError("a Sender Context of another Common Context")
        self.group = group
        self.common = common
        self.sender = sender
        self.synchronization = synchronization
        self.intact = intact
        self.echo_rule = self.pairwise_echo_rule = ORIGINAL_ONLY
        if not common.profile.rules.echo_is_original:
            # Only in pairwise mode does a request say whom it is for. In group mode it could be meant for another
            # listener, by whom this value was passed on: what is not harmless must be what was challenged.
            self.echo_rule = EchoRule(frozenset((coap.GET, coap.FETCH)), known_only=False)
            self.pairwise_echo_rule = EchoRule(frozenset(range(256)), False, established)
        self.max_recipients = max_recipients
        self.gid = common.gid
        self.current = True
        self.accepts_requests = True
        self.refusal: Reason | None = None
        self.generation = 0
        self.kept: dict[bytes, RecipientContext] = {}
        self._answering: dict[bytes, RecipientContext] = {}
        self._pairwise: dict[bytes, PairwiseContext] = {}
        self._public_keys = dict(public_keys)
        self._credentials = dict(credentials or {})
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
        if kid in self._departed or len(kid) > self.common.max_id_length:
            raise Rejected(Reason.UNKNOWN_SENDER, kid.hex())
        key, credential = self._public_keys.get(kid), self._credentials.get(kid)
        return RecipientContext(self.common, kid, key, unbroken=self.intact, credential=credential)

    def pairwise(self, recipient: RecipientContext) -> PairwiseContext:
        """The pairwise keys with this member, derived once and kept while its credential is the same: whether one
        of its messages has passed or not, or every forged one would cost another key agreement. There are no more
        of them than members whose credential is at hand.

        `Rejected`: no pairwise mode here (or no Sender Context), no credential (`CredentialNeeded`), or none to
        agree on a secret with."""
        kid = recipient.recipient_id
        found = self._pairwise.get(kid)
        if found is not None:
            return found
        if not self.common.pairwise or self.sender is None:
            raise Rejected(Reason.NO_PAIRWISE_MODE)
        if recipient.author is None or recipient.public_key is None:
            raise CredentialNeeded(self, kid)
        try:
            made = pairwise_context(self.sender, recipient)
        except MisuseError as error:
            raise Rejected(Reason.NO_PUBLIC_KEY, f"{kid.hex()}: {error}") from None
        if kid in self._public_keys:
            self._pairwise[kid] = made
        return made

    def supersede(self) -> None:
        """A newer context of the group has been installed: this one takes no more requests, and what Group OSCORE
        wants gone then goes, its pairwise keys (§2.5.1) and Echo values (§9). For what comes late the former are
        derived again, and go with the context."""
        self.current = self.accepts_requests = False
        self._pairwise.clear()
        if not self.common.profile.rules.echo_is_original:
            for recipient in self.kept.values():
                recipient.sync.forget_challenges()

    def suspend(self) -> None:
        """It is past its lifetime (multicast-oscore-04 §8): nothing is sent under it nor accepted until it has been
        confirmed. Windows and exchanges stay."""
        self.refusal = self.refusal or Reason.CONTEXT_EXPIRED

    def resume(self) -> None:
        """It has been confirmed: it goes on where it was."""
        if self.refusal is Reason.CONTEXT_EXPIRED:
            self.refusal = None

    def end(self) -> None:
        """It is gone for good: what is still under way in it is refused too."""
        self.current = self.accepts_requests = False
        self.refusal = Reason.CONTEXT_RETIRED

    def check_lifetime(self) -> None:
        """`ContextExpired` if nothing may be sent under it for now."""
        if self.refusal is Reason.CONTEXT_EXPIRED:
            raise ContextExpired(
                f"the security context of group {self.group!r} is past its lifetime, and nothing is sent until the "
                "Group Manager has confirmed it; check that the Group Manager can be reached"
            )

    def renew_sender(self, sender: SenderContext) -> None:
        """This endpoint has another Endpoint ID under the same Gid: from now on it protects with this Sender
        Context alone (Group OSCORE §2.6.3.1). Windows are of others' keys and stay as they are, and what was sent
        before can still be answered. The former Endpoint ID is nobody's. Pairwise keys are derived again, for the
        outgoing ones are made of the Sender Key (§2.5.1).

        `MisuseError` if it is not one of this Common Context, or there was none before."""
        if self.sender is None or sender.common is not self.common:
            raise MisuseError("a Sender Context of another Common Context, or of a pure listener")
        former, self.sender = self.sender.sender_id, sender
        self.depart({former} - {sender.sender_id})
        self._forget(sender.sender_id)  # whatever was taken for another's of it is ours
        self._pairwise.clear()

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

    def learn(self, kid: bytes, public_key: PublicKey, credential: bytes | None = None) -> None:
        """A member's credential has arrived. Nothing happens if the member has left meanwhile."""
        if kid in self._departed:
            return
        self._public_keys[kid] = public_key
        if credential is not None:
            self._credentials[kid] = credential
        self._pairwise.pop(kid, None)
        found = self.kept.get(kid) or self._answering.get(kid)
        if found is not None:
            found.learn(public_key, credential)

    def adopt(self, older: SecurityContext) -> None:
        """Who was a member under this older context of the group, and has not left, still has its Endpoint ID: its
        credential is known here too. What is said of an Endpoint ID or a key here already counts more."""
        own_id = None if self.sender is None else self.sender.sender_id
        keys = {key.data for key in self._public_keys.values()}
        for kid, public_key in older._public_keys.items():
            if kid != own_id and kid not in self._public_keys and public_key.data not in keys:
                self.learn(kid, public_key, older._credentials.get(kid))

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

    def same_member(self, kid: bytes, newer: SecurityContext) -> bytes | None:
        """The Endpoint ID that this member has under another context of the group: it is known by its public key.
        None if it is not a member there, as far as is known."""
        if newer is self:
            return kid
        key = self._public_keys.get(kid)
        return None if key is None else newer.member_with(key.data, kid)

    def member_with(self, public_key: bytes, kid: bytes) -> bytes | None:
        """The Endpoint ID of the member with this public key, the same as before (`kid`) if it can be; None if
        there is no such member, as far as is known."""
        before = self._public_keys.get(kid)
        if before is not None and before.data == public_key:
            return kid
        return next((other for other, key in self._public_keys.items() if key.data == public_key), None)

    def depart(self, kids: Iterable[bytes]) -> None:
        """These Endpoint IDs have left: their Recipient Contexts and keys go, their messages are refused."""
        for kid in kids:
            self._departed.add(kid)
            self._forget(kid)

    def _forget(self, kid: bytes) -> None:
        self._drop(kid)
        self._pairwise.pop(kid, None)
        self._public_keys.pop(kid, None)
        self._credentials.pop(kid, None)

    def __repr__(self) -> str:
        return f"<SecurityContext of {self.group!r} {self.common!r}>"
