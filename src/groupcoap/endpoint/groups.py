"""An endpoint's groups at run time: Security Contexts from the membership source, over durable state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf

from ..core import coap
from ..core.contexts import CommonContext, RecipientContext, SecurityContext, SenderContext
from ..core.exchange import IncomingExchange
from ..core.policy import Decide, GroupPolicy, Verification
from ..core.profile import Mode
from ..core.registry import Registry
from ..core.requests import (
    AuthenticRequest,
    ChallengedRequest,
    DecryptedRequest,
    DeliveredRequest,
    GroupRequest,
    admit,
)
from ..core.synchronization import Entropy, Method, SynchronizationPolicy
from ..core.window import ReplayWindow
from ..cose.credentials import Credential
from ..cose.keys import PublicKey
from ..errors import Busy, Limit, MisuseError
from ..files.keylog import KeyLog, nameless
from ..files.pending import PendingRequests
from ..files.state import RuntimeState
from ..membership import (
    CredentialLearned,
    EndpointIdRenewed,
    Epoch,
    EpochInstalled,
    GroupConfiguration,
    GroupJoined,
    GroupLeft,
    GroupResumed,
    GroupSuspended,
    Member,
    MemberLeft,
    MembershipEvent,
    MembershipSource,
    Role,
)
from .limits import DEFAULT_LIMITS, Limits, PeerRates

RUNNING_LOW = 1 << 20
"""With fewer sequence numbers left than this the membership source is told to see to new ones."""

log = logging.getLogger("groupcoap.groups")


_ALWAYS_VERIFIED = frozenset((coap.BLOCK1, coap.URI_PATH_ABBREV))
"""Options with which a request is always verified: blocks of several senders would end up in one body, and an
abbreviated path is another than the one that was decided by."""


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """Where this listener differs from its groups' policies; None: it does not.

    `verification` may be a function that decides per request (Appendix E); in groups whose profile has every
    signature verified it changes nothing. `response_mode`: of answers, where there is a pairwise mode;
    `as_requested`: that of the request, whatever the groups say."""

    synchronization: SynchronizationPolicy | None = None
    verification: Verification | Decide | None = None
    response_mode: Mode | None = None
    as_requested: bool = False


class Groups:
    """The registry of Security Contexts, kept up to date from the membership source.

    `departed` is called with (group, Endpoint IDs) when members have left. `running_low`: with fewer sequence
    numbers left the source is told. `MisuseError`, `StateLost` while it is made, if a group cannot be set up."""

    def __init__(
        self,
        source: MembershipSource,
        state: RuntimeState,
        policy: ListenerPolicy,
        entropy: Entropy,
        departed: Callable[[str, frozenset[bytes]], None],
        key_log: KeyLog | None = None,
        limits: Limits = DEFAULT_LIMITS,
        running_low: int = RUNNING_LOW,
    ) -> None:
        self.registry = Registry()
        self.source = source
        self._state = state
        self._listener_policy = policy
        self._entropy = entropy
        self._departed = departed
        self._recipients = limits.recipients
        self._challenges = PeerRates(limits, Limit.CHALLENGE_RATE, Limit.CHALLENGE_RATE_PER_PEER)
        self._key_log = key_log
        self._graces: list[asyncio.TimerHandle] = []
        self._claims: list[tuple[str, bytes, bytes | None]] = []
        self._configurations: dict[str, GroupConfiguration] = {}
        self._policies: dict[str, GroupPolicy] = {}
        self._left: dict[str, str] = {}
        self._running_low = running_low
        self._closed = False
        self._installed = 0
        self.changed: Callable[[str, GroupConfiguration | None, str | None], None] = lambda *_: None
        """Called with (group, its configuration before or None, why) when this endpoint has joined a group, has
        left one (then it says why), or the group has other multicast addresses."""
        self.renewed: Callable[[str], None] = lambda _: None
        """Called after a renewal of this group is installed."""
        self._renewed_at: dict[str, float] = {}
        self.rejoined: Callable[[str], None] = lambda _: None
        """Called with a group that this endpoint has joined again without ever having left it here."""
        self.in_use: Callable[[SecurityContext], bool] = lambda context: False
        """Whether a pending exchange needs this Security Context."""
        try:
            for configuration in source.groups():
                self._take_up(configuration)
        except Exception:
            for claim in self._claims:
                state.release(*claim)
            raise
        self._unsubscribe = source.subscribe(self._on_event)

    def _take_up(self, configuration: GroupConfiguration) -> None:
        """Begin with the current epoch. Older ones only verify answers to requests of this process, of which there
        are none yet."""
        epoch = configuration.current
        if self._state.knows(configuration.name):  # renewed while no endpoint was running
            self._state.add_key(configuration.name, epoch.gid, epoch.own_id)
        self._install(configuration, epoch)

    def since_renewal(self, group: str) -> float:
        """Seconds since a renewal of this group was installed; infinite if there was none."""
        return asyncio.get_running_loop().time() - self._renewed_at.get(group, -inf)

    def look_for_renewal(self) -> bool:
        """Ask the membership source for news now. Whether a Security Context has been installed by it."""
        before = self._installed
        self.source.refresh()
        return self._installed != before

    def close(self) -> None:
        """Take no more events, and let go of the state."""
        self._closed = True
        self._unsubscribe()
        for timer in self._graces:
            timer.cancel()
        for claim in self._claims:
            self._state.release(*claim)
        self._claims.clear()

    @property
    def pending(self) -> PendingRequests:
        """The requests that wait for answers, as they are remembered beyond this process."""
        return self._state.pending

    # ---- what is known of a group

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._configurations)

    def configuration(self, group: str) -> GroupConfiguration:
        """The group's configuration. `MisuseError` if this endpoint is not in such a group, or not any more."""
        try:
            return self._configurations[group]
        except KeyError:
            if group in self._left:
                raise MisuseError(f"no member of group {group!r} any more: {self._left[group]}") from None
            known = ", ".join(self._configurations) or "none"
            raise MisuseError(f"not a member of group {group!r}; there is {known}") from None

    def policy(self, group: str) -> GroupPolicy:
        """The group's policy with what this listener has overridden."""
        return self._policies[group]

    def current(self, group: str) -> SecurityContext:
        """The group's current Security Context. `Rejected` if there is none."""
        return self.registry.current(group)

    def to_send(self, group: str) -> SecurityContext:
        """The group's current Security Context, to send under it now. `MisuseError` if this endpoint is not in such
        a group, or not any more, `ContextExpired` if it is past its lifetime."""
        self.configuration(group)
        context = self.registry.current(group)
        context.check_lifetime()
        return context

    def may_send(self, group: str) -> bool:
        """Whether anything at all may be sent in this group now."""
        contexts = self.registry.contexts(group)
        return bool(contexts) and contexts[-1].refusal is None

    def can_respond(self, group: str) -> bool:
        """Whether this endpoint is one that responds in this group: no pure listener, and a member still."""
        configuration = self._configurations.get(group)
        if configuration is None or Role.PURE_LISTENER in configuration.roles:
            return False
        return configuration.current.own_id is not None

    def responding(self, group: str, exchange: IncomingExchange) -> RecipientContext | None:
        """Whom an answer in this exchange is for alone, in the group's current Security Context: None if it goes
        out in group mode. That of the request, unless the policy says otherwise.

        `MisuseError` if it is for one alone who is not known any more: nobody else is to read it. Raises as
        `to_send` does, too."""
        context = self.to_send(group)
        wanted = self.policy(group).response_mode
        pairwise = exchange.pairwise if wanted is None else wanted is Mode.PAIRWISE
        if not pairwise or not context.common.pairwise:
            return None
        kid = None if exchange.requester is None else context.member_with(exchange.requester, exchange.kid)
        if kid is None:
            raise MisuseError("an answer for one member alone, who is not known to be a member any more")
        return context.recipient(kid)

    def listeners(self, group: str) -> frozenset[bytes]:
        """Endpoint IDs of the listeners that can answer, without this endpoint itself."""
        epoch = self.configuration(group).current
        return frozenset(
            member.endpoint_id
            for member in epoch.members
            if Role.LISTENER in member.roles and member.endpoint_id != epoch.own_id
        )

    def member(self, group: str, endpoint_id: bytes) -> Member | None:
        """The member with this Endpoint ID in the current epoch, if its credential is at hand."""
        for member in self.configuration(group).current.members:
            if member.endpoint_id == endpoint_id:
                return member
        return None

    def verification(self, request: DecryptedRequest) -> Verification:
        """What to do with this request's countersignature."""
        group = request.context.group
        choice = self._listener_policy.verification
        if request.context.common.profile.rules.signature_first:
            return Verification.ALWAYS
        if choice is None:
            choice = self.policy(group).verification
        if not isinstance(choice, Verification):
            choice = choice(*request.peek_resource())
        if choice is not Verification.ALWAYS and (
            request.signature_needed() or request.has_option(_ALWAYS_VERIFIED)
        ):
            return Verification.ALWAYS
        return choice

    # ---- renewals and members

    def _on_event(self, event: MembershipEvent) -> None:
        match event:
            case EpochInstalled(configuration):
                self._install_event(configuration)
            case EndpointIdRenewed(configuration):
                self._renew_own_id(configuration)
            case MemberLeft(group, gid, endpoint_ids):
                self._member_left(group, gid, endpoint_ids)
            case CredentialLearned(group, gid, member):
                self.learn(group, gid, member.endpoint_id, member.credential, member)
                self._list(group, gid, frozenset((member.endpoint_id,)), member)
            case GroupSuspended(group):
                self._suspend(group)
            case GroupResumed(group):
                self._resume(group)
            case GroupLeft(group, why):
                self._leave(group, why)
            case GroupJoined(configuration):
                self._join(configuration)

    def _install_event(self, configuration: GroupConfiguration) -> None:
        """A renewal. Of a group that was left it is a joining again; under the same Gid only the own Endpoint ID
        can be new."""
        before = self._configurations.get(configuration.name)
        if before is None:
            self._join(configuration)
        elif (
            before.current.gid == configuration.current.gid
            and before.current.own_id != configuration.current.own_id
        ):
            self._renew_own_id(configuration)
        else:
            self._renew(configuration)
            epoch = configuration.current
            if epoch.successive is not None and epoch.own_id != before.current.own_id:
                self.rejoined(configuration.name)  # a Group Manager keeps Endpoint IDs over its renewals
            if configuration.addresses != before.addresses:
                self.changed(configuration.name, before, None)
            self._renewed_at[configuration.name] = asyncio.get_running_loop().time()
            self.renewed(configuration.name)

    def _member_left(self, group: str, gid: bytes, endpoint_ids: frozenset[bytes]) -> None:
        contexts = self.registry.contexts(group)
        for context in (context for context in contexts if context.gid == gid):
            for other in contexts:  # the same members, whatever they are called there, as far as is known
                if other is not context:
                    other.depart(_same_members(endpoint_ids, context, other))
            context.depart(endpoint_ids)
        self._list(group, gid, endpoint_ids)
        self._departed(group, endpoint_ids)

    def _list(self, group: str, gid: bytes, former: frozenset[bytes], *new: Member) -> None:
        """In the list of members under the current Gid, from which answers are expected: new ones instead of former
        ones."""
        configuration = self._configurations.get(group)
        if configuration is None or configuration.current.gid != gid:
            return
        others = [member for member in configuration.current.members if member.endpoint_id not in former]
        epoch = replace(configuration.current, members=(*others, *new))
        self._configurations[group] = replace(configuration, epochs=(*configuration.epochs[:-1], epoch))

    def _suspend(self, group: str) -> None:
        for context in self.registry.contexts(group):
            context.suspend()
        log.warning(
            "group %s: security context past its lifetime, not used until the Group Manager confirms it", group
        )

    def _resume(self, group: str) -> None:
        for context in self.registry.contexts(group):
            context.resume()

    def _join(self, configuration: GroupConfiguration) -> None:
        name, epoch = configuration.name, configuration.current
        if name in self._configurations:
            raise MisuseError(f"already a member of group {name!r}")
        self._state.add_key(name, epoch.gid, epoch.own_id)
        self._install(configuration, epoch, established=asyncio.get_running_loop().time())
        self._left.pop(name, None)
        self.changed(name, None, None)

    def _leave(self, group: str, why: str) -> None:
        """Remove all that belongs to the group. What is under way is refused when its turn comes."""
        before = self._configurations.pop(group, None)
        if before is None:
            return
        self._left[group] = why
        del self._policies[group]
        log.warning("group %s: this endpoint is no member any more: %s", group, why)
        contexts = self.registry.contexts(group)
        for context in contexts:
            self.registry.remove(context)
        self.changed(group, before, why)
        for claim in [claim for claim in self._claims if claim[0] == group]:
            self._claims.remove(claim)
            self._state.release(*claim)
        for context in contexts:
            self._state.forget(group, context.gid)

    def _renew_own_id(self, configuration: GroupConfiguration) -> None:
        """Go on in place under another own Endpoint ID: windows stay, in memory and in the state."""
        name, epoch = configuration.name, configuration.current
        self.configuration(name)
        context = self.current(name)
        if epoch.gid != context.gid or epoch.own_id is None or context.sender is None:
            raise MisuseError(f"no other own Endpoint ID for group {name!r} under Gid {epoch.gid.hex()}")
        self._state.add_key(name, epoch.gid, epoch.own_id)
        self._claim(configuration.name, epoch)
        sender = self._sender(configuration, epoch, context.common)
        assert sender is not None  # it has an own Endpoint ID
        context.renew_sender(sender)
        self._configurations[name] = configuration
        if self._key_log is not None:
            self._key_log.record(configuration, epoch)
        log.info("group %s: own Endpoint ID is %s now", name, epoch.own_id.hex())

    def learn(
        self, group: str, gid: bytes, endpoint_id: bytes, credential: Credential, member: Member | None = None
    ) -> PublicKey:
        """A member's credential under this Gid has become known: its public key. `member`: more about it, if there
        is more. `MisuseError` if the credential is not usable in this group."""
        configuration = self.configuration(group)
        key = credential.public_key(configuration.signature)
        authenticated = configuration.parameters.authenticated(credential)
        for context in self.registry.contexts(group):
            if context.gid == gid:
                context.learn(endpoint_id, key, authenticated)
        if self._key_log is not None:
            self._key_log.record_member(configuration, gid, member or nameless(endpoint_id, credential))
        return key

    def _renew(self, configuration: GroupConfiguration) -> None:
        name, epoch, grace = configuration.name, configuration.current, configuration.policy.grace
        own_id = epoch.own_id
        self._state.add_key(name, epoch.gid, own_id)
        self._install(configuration, epoch, established=asyncio.get_running_loop().time())
        before = self.registry.contexts(name)[:-1]
        for older in before:
            older.resume()  # who has a renewal from the Group Manager has it confirmed
        departed = epoch.departed.union(*(older.reassigned(self.current(name)) for older in before))
        for older in before:
            older.depart(departed)
        for older in before[-1:]:
            successive = _follows(self.current(name), older) if epoch.successive is None else epoch.successive
            if epoch.ids_kept:
                self.current(name).adopt(older)
            if successive:
                self._carry_over(older, self.current(name))
            if grace and successive:
                older.accepts_requests = True  # late senders; their signatures are verified whatever the policy
                self._graces.append(asyncio.get_running_loop().call_later(grace, self._end_grace, older))
        self._departed(name, departed)
        self.retire()

    @staticmethod
    def _carry_over(older: SecurityContext, newer: SecurityContext) -> None:
        """Who installs one renewal after the other stays synchronized: every number under the new keys is new
        (multicast-oscore-04 §8). Not so who has missed one."""
        for recipient in older.recipients:
            kid = recipient.recipient_id
            # A window that is there was stored before a restart under the older Gid: it must not be emptied.
            if recipient.sync.synchronized and newer.knows(kid) and kid not in newer.kept:
                newer.restore(kid, ReplayWindow(), unbroken=newer.intact)

    def _end_grace(self, context: SecurityContext) -> None:
        context.accepts_requests = False
        self.retire()

    def _install(self, configuration: GroupConfiguration, epoch: Epoch, established: float | None = None) -> None:
        claim = self._claim(configuration.name, epoch)
        policy = self._effective(configuration)
        try:
            context = self._context(configuration, epoch, policy.synchronization, established)
            self.registry.install(context, [address.packed for address in configuration.addresses])
        except Exception:
            self._claims.remove(claim)
            self._state.release(*claim)
            raise
        self._configurations[configuration.name] = configuration
        self._policies[configuration.name] = policy
        self._installed += 1
        if self._key_log is not None:
            self._key_log.record(configuration, epoch)
        log.info("group %s: security context %s installed", configuration.name, epoch.gid.hex())

    def _claim(self, group: str, epoch: Epoch) -> tuple[str, bytes, bytes | None]:
        claim = (group, epoch.gid, epoch.own_id)
        self._state.claim(*claim)
        self._claims.append(claim)
        return claim

    def _sender(
        self, configuration: GroupConfiguration, epoch: Epoch, common: CommonContext
    ) -> SenderContext | None:
        """The epoch's Sender Context, watched for running low of sequence numbers. None for a pure listener."""
        if epoch.own_id is None or epoch.private_key is None:
            return None
        name, gid, own_id = configuration.name, epoch.gid, epoch.own_id
        numbers = self._state.sequence_numbers(name, gid, own_id)

        def running_low() -> None:
            # Not from within the protection of a message, which the source might change the Sender Context under;
            # nor where what is left is given up, with the context or the endpoint.
            if not self._closed and self._is_own(name, gid, own_id):
                asyncio.get_running_loop().call_soon(self._tell_running_low, name, gid, own_id)

        numbers.watch(self._running_low, running_low)
        authenticated = configuration.parameters.authenticated
        credential = None if epoch.credential is None else authenticated(epoch.credential)
        return SenderContext(common, own_id, epoch.private_key, numbers, credential)

    def _is_own(self, group: str, gid: bytes, own_id: bytes) -> bool:
        configuration = self._configurations.get(group)
        return configuration is not None and (configuration.current.gid, configuration.current.own_id) == (
            gid,
            own_id,
        )

    def _tell_running_low(self, group: str, gid: bytes, own_id: bytes) -> None:
        if not self._closed and self._is_own(group, gid, own_id):
            self.source.running_low(group, gid, own_id)

    def _context(
        self,
        configuration: GroupConfiguration,
        epoch: Epoch,
        synchronization: SynchronizationPolicy,
        established: float | None,
    ) -> SecurityContext:
        name = configuration.name
        common = configuration.common_context(epoch)
        authenticated = configuration.parameters.authenticated
        sender = self._sender(configuration, epoch, common)
        others = [member for member in epoch.members if member.endpoint_id != epoch.own_id]
        credentials = {member.endpoint_id: authenticated(member.credential) for member in others}
        context = SecurityContext(
            name,
            common,
            sender,
            {member.endpoint_id: member.credential.public_key(configuration.signature) for member in others},
            credentials={kid: data for kid, data in credentials.items() if data is not None},
            synchronization=synchronization,
            established=established,
            max_recipients=self._recipients,
        )
        context.depart(epoch.refused)
        for sender_id, window in self._state.windows(name, epoch.gid, epoch.own_id).items():
            if sender_id in epoch.refused or sender_id == epoch.own_id:
                continue
            # Every change was made durable before its effect left, so nothing has been missed.
            context.restore(sender_id, ReplayWindow(window.highest, window.bits), unbroken=True)
        return context

    def _effective(self, configuration: GroupConfiguration) -> GroupPolicy:
        policy = configuration.policy
        synchronization = self._listener_policy.synchronization or policy.synchronization
        if Role.PURE_LISTENER in configuration.roles and synchronization.method is Method.CHALLENGE_RESPONSE:
            # A pure listener sends no 4.03 (Appendix D.3); the safer of the two others takes its place.
            synchronization = replace(synchronization, method=Method.BASELINE)
        mine = self._listener_policy
        response_mode = None if mine.as_requested else mine.response_mode or policy.response_mode
        return replace(policy, synchronization=synchronization, response_mode=response_mode)

    def retire(self) -> None:
        """Forget old contexts that take no requests and that no pending exchange needs."""
        for group in self.registry.groups:
            for context in self.registry.contexts(group)[:-1]:
                if not context.accepts_requests and not self.in_use(context):
                    self.registry.remove(context)
                    self._state.forget(group, context.gid)

    # ---- requests

    def admit(
        self, verified: AuthenticRequest | GroupRequest, request: DecryptedRequest, now: float
    ) -> DeliveredRequest | ChallengedRequest:
        """The core's `admit`, with the replay window durable before any effect can leave, and not challenging more
        often than 4.03s may be sent."""
        context = request.context
        before = _window_of(request.recipient)

        def repeat_value(length: int) -> bytes:
            limit = self._challenges.reached((context.group, request.sender_id), now)
            if limit is not None:
                raise Busy(limit)
            return self._entropy(length)

        try:
            return admit(verified, now, repeat_value)
        finally:
            recipient = context.recipient(request.sender_id)
            if _window_of(recipient) != before:
                own_id = None if context.sender is None else context.sender.sender_id
                window = recipient.window
                self._state.record_window(
                    context.group, context.gid, own_id, request.sender_id, window.highest, window.bits
                )


def _window_of(recipient: RecipientContext) -> tuple[int, int]:
    return recipient.window.highest, recipient.window.bits


def _same_members(endpoint_ids: Iterable[bytes], context: SecurityContext, other: SecurityContext) -> list[bytes]:
    """What these members of a context are called in another one of the group. Of whom no credential is at hand
    nothing is known: they are taken for the same in contexts before, but in a newer one their Endpoint ID may be a
    newcomer's."""
    found = []
    for endpoint_id in endpoint_ids:
        if context.knows(endpoint_id):
            found.append(context.same_member(endpoint_id, other))
        elif other.generation < context.generation:
            found.append(endpoint_id)
    return [kid for kid in found if kid is not None]


def _follows(newer: SecurityContext, older: SecurityContext) -> bool:
    """Whether no renewal was missed between these two."""
    return int.from_bytes(newer.gid, "big") == int.from_bytes(older.gid, "big") + 1
