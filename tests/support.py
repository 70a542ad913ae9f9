"""A small group in memory for the tests: everything in it is deterministic, and messages go through real bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256, sha384
from ipaddress import ip_address
from itertools import count
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st

from groupcoap.core import coap
from groupcoap.core.coap import Message, Options
from groupcoap.core.contexts import CommonContext, SecurityContext, SenderContext
from groupcoap.core.exchange import IncomingExchange, OutgoingExchange
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.profile import Profile
from groupcoap.core.registry import Registry
from groupcoap.core.requests import (
    AuthenticRequest,
    ChallengedRequest,
    DecryptedRequest,
    DeliveredRequest,
    GroupRequest,
    ProtectedRequest,
    Trace,
    admit,
    challenge_message,
    decrypt_request,
    protect_request,
)
from groupcoap.core.responses import DeliveredResponse, decrypt_response, protect_response
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.core.synchronization import Entropy, Method, SynchronizationPolicy
from groupcoap.cose.algorithms import Kdf, aead_algorithm, encryption_algorithm, key_agreement_for
from groupcoap.cose.credentials import claims_set
from groupcoap.cose.keys import PrivateKey, signature_algorithm
from groupcoap.errors import Reason, Rejected
from groupcoap.secret import Secret

Result = TypeVar("Result")

GROUP = "lights"
GID = bytes.fromhex("a1b2c3d4e5f6071800000000")
NEXT_GID = bytes.fromhex("a1b2c3d4e5f6071800000001")
ADDRESS = ip_address("ff35:30:2001:db8::23").packed
OTHER_ADDRESS = ip_address("ff35:30:2001:db8::24").packed

MULTICASTER = b"\x01"
LISTENER = b"\x52"
OTHER_LISTENER = b"\x53"
IDS = (MULTICASTER, LISTENER, OTHER_LISTENER)

EDDSA, ES256, ES384 = -8, -7, -35
A128CTR, CHACHA20 = -65534, 24

PROFILES: tuple[Profile, ...] = (MULTICAST_OSCORE_04, GROUP_OSCORE)
of_the_draft = pytest.mark.parametrize("profile", [MULTICAST_OSCORE_04], ids=["draft"], indirect=True)
of_group_oscore = pytest.mark.parametrize("profile", [GROUP_OSCORE], ids=["group-oscore"], indirect=True)
"""What holds for one of them, where the fixture `profile` would give both."""

_DEFAULT_PROFILE: ContextVar[Profile] = ContextVar("profile", default=MULTICAST_OSCORE_04)

MASTER_SALT = bytes.fromhex("9e7ca92223786340")
MANAGER = claims_set(
    signature_algorithm(EDDSA).private_key(Secret(sha256(b"key of the Group Manager").digest())).public_key,
    signature_algorithm(EDDSA),
    "group manager",
).authenticated

BEST_EFFORT = SynchronizationPolicy(Method.BEST_EFFORT)
BASELINE = SynchronizationPolicy(Method.BASELINE)
CHALLENGE = SynchronizationPolicy(Method.CHALLENGE_RESPONSE)


@contextmanager
def groups_of(profile: Profile) -> Iterator[Profile]:
    """What is inside makes its groups for this profile, where it names none."""
    token = _DEFAULT_PROFILE.set(profile)
    try:
        yield profile
    finally:
        _DEFAULT_PROFILE.reset(token)


@contextmanager
def refused(reason: Reason) -> Iterator[None]:
    """What is inside must be rejected for exactly this reason."""
    with pytest.raises(Rejected) as caught:
        yield
    assert caught.value.reason is reason, str(caught.value)


def attempt(call: Callable[[], Result]) -> Result | Reason:
    """What comes out, or the reason why it was rejected: nothing but `Rejected` may be raised."""
    try:
        return call()
    except Rejected as rejection:
        return rejection.reason


def counting_entropy() -> Entropy:
    """Values that are new each time: 1, 2, 3 …"""
    numbers = count(1)
    return lambda length: next(numbers).to_bytes(length, "big")


def private_key(endpoint_id: bytes, signature: int = EDDSA) -> PrivateKey:
    """The signing key that this Endpoint ID has in every test."""
    algorithm = signature_algorithm(signature)
    seed = sha384(b"key of " + endpoint_id) if algorithm.key_length > 32 else sha256(b"key of " + endpoint_id)
    return algorithm.private_key(Secret(seed.digest()))


def credential_of(endpoint_id: bytes, signature: int = EDDSA) -> bytes:
    """The CCS that this Endpoint ID has in every test, as it enters the AAD."""
    algorithm = signature_algorithm(signature)
    return claims_set(private_key(endpoint_id, signature).public_key, algorithm, endpoint_id.hex()).authenticated


def common_context(
    *,
    gid: bytes = GID,
    master_secret: bytes | None = None,
    aead: int = 10,
    kdf: Kdf = Kdf.HKDF_SHA_256,
    signature: int = EDDSA,
    profile: Profile | None = None,
    group_encryption: int | None = None,
    pairwise: bool = True,
    manager: bytes = MANAGER,
    sign_protected: bool = True,
) -> CommonContext:
    """A Common Context; unless told otherwise every Gid has a Master Secret of its own. Where the profile has a
    pairwise mode, this group has it unless it may not (`pairwise`, or a KDF without key agreement), and its
    encryption in group mode is `group_encryption`, the AEAD algorithm if that is None."""
    profile = profile or _DEFAULT_PROFILE.get()
    common: dict[str, Any] = {
        "profile": profile,
        "aead": aead_algorithm(aead),
        "kdf": kdf,
        "signature": signature_algorithm(signature),
        "master_secret": Secret(master_secret or sha256(b"secret of " + gid).digest()),
        "gid": gid,
    }
    if not profile.rules.binds_credentials:
        return CommonContext(**common)
    return CommonContext(
        **common,
        group_encryption=encryption_algorithm(aead if group_encryption is None else group_encryption),
        key_agreement=key_agreement_for(kdf) if pairwise else None,
        master_salt=MASTER_SALT,
        manager_credential=manager,
        sign_protected=sign_protected,
    )


def security_context(
    own_id: bytes | None,
    common: CommonContext | None = None,
    *,
    ids: Iterable[bytes] = IDS,
    first: int = 0,
    group: str = GROUP,
    intact: bool = True,
    established: float | None = None,
) -> SecurityContext:
    """A Security Context that knows the credentials of all `ids`; a pure listener's if `own_id` is None."""
    common = common or common_context()
    number = common.signature.number
    binds = common.profile.rules.binds_credentials
    sender = None
    if own_id is not None:
        credential = credential_of(own_id, number) if binds else None
        sender = SenderContext(common, own_id, private_key(own_id, number), SequenceNumbers(first), credential)
    others = [kid for kid in ids if kid != own_id]
    keys = {kid: private_key(kid, number).public_key for kid in others}
    credentials = {kid: credential_of(kid, number) for kid in others} if binds else {}
    return SecurityContext(
        group, common, sender, keys, credentials=credentials, intact=intact, established=established
    )


@dataclass(frozen=True)
class Node:
    """An endpoint of the test group."""

    registry: Registry
    contexts: list[SecurityContext]

    @property
    def context(self) -> SecurityContext:
        return self.contexts[-1]

    @property
    def sender(self) -> SenderContext:
        assert self.context.sender is not None
        return self.context.sender


def install(node: Node, context: SecurityContext, address: bytes = ADDRESS) -> None:
    """Renew the node's group, or give it one more."""
    node.registry.install(context, [address])
    node.contexts.append(context)


def make_node(
    own_id: bytes | None,
    common: CommonContext | None = None,
    *,
    ids: Iterable[bytes] = IDS,
    first: int = 0,
    intact: bool = True,
) -> Node:
    """An endpoint with one group at `ADDRESS`."""
    node = Node(Registry(), [])
    install(node, security_context(own_id, common, ids=ids, first=first, intact=intact))
    return node


def renew(*nodes: Node, gid: bytes = NEXT_GID) -> None:
    """Install a new Gid with a new Master Secret at these nodes."""
    for node in nodes:
        own_id = node.context.sender.sender_id if node.context.sender else None
        install(node, security_context(own_id, under_gid(node.context.common, gid)))


def under_gid(common: CommonContext, gid: bytes) -> CommonContext:
    """What a renewal makes of this one: all algorithms stay."""
    return common_context(
        gid=gid,
        aead=10 if common.aead is None else common.aead.number,
        kdf=common.kdf,
        signature=common.signature.number,
        profile=common.profile,
        group_encryption=common.encryption.number,
        pairwise=common.pairwise,
        sign_protected=common.sign_protected,
    )


def request(
    code: int = coap.GET,
    *options: tuple[int, bytes],
    payload: bytes = b"",
    kind: int = coap.NON,
    token: bytes = b"\x70\x07",
) -> Message:
    """A plain request; without options one to /light."""
    return Message(kind, code, 0x1234, token, options or ((coap.URI_PATH, b"light"),), payload)


def response(code: int = coap.CONTENT, *options: tuple[int, bytes], payload: bytes = b"on") -> Message:
    """A plain response."""
    return Message(coap.NON, code, 0x4321, b"\x70\x07", options, payload)


def over_the_wire(message: Message) -> Message:
    """The message as it arrives: encoded and decoded."""
    return coap.decode(coap.encode(message))


def protect(node: Node, message: Message | None = None, *, to: bytes | None = None) -> ProtectedRequest:
    """A protected request as it arrives at the listeners, with its exchange; in pairwise mode for `to` alone."""
    recipient = None if to is None else node.context.recipient(to)
    protected = protect_request(node.context, node.sender, message or request(), to=recipient)
    return ProtectedRequest(over_the_wire(protected.message), protected.exchange)


def decrypt(
    node: Node,
    message: Message,
    *,
    policy: SynchronizationPolicy = BEST_EFFORT,
    destination: bytes | None = ADDRESS,
    now: float = 0.0,
) -> DecryptedRequest:
    """The first stage, at this node, which from now on has this policy."""
    for context in node.contexts:
        context.synchronization = policy
    return decrypt_request(node.registry, message, destination, now)


def receive(
    node: Node,
    message: Message,
    *,
    policy: SynchronizationPolicy = BEST_EFFORT,
    destination: bytes | None = ADDRESS,
    now: float = 0.0,
    entropy: Entropy | None = None,
) -> DeliveredRequest | ChallengedRequest:
    """All stages, with the signature verified."""
    decrypted = decrypt(node, message, policy=policy, destination=destination, now=now)
    return admit(decrypted.check_signature(), now, entropy or counting_entropy())


def take_in(
    verified: AuthenticRequest | GroupRequest, policy: SynchronizationPolicy = BEST_EFFORT
) -> DeliveredRequest:
    """The last stage alone; the request must be delivered."""
    verified._request.context.synchronization = policy
    outcome = admit(verified, 0.0, counting_entropy())
    assert isinstance(outcome, DeliveredRequest)
    return outcome


def deliver(
    node: Node,
    message: Message,
    *,
    policy: SynchronizationPolicy = BEST_EFFORT,
    destination: bytes | None = ADDRESS,
    now: float = 0.0,
) -> DeliveredRequest:
    """All stages; the request must be delivered."""
    outcome = receive(node, message, policy=policy, destination=destination, now=now)
    assert isinstance(outcome, DeliveredRequest)
    return outcome


def challenged(
    node: Node, message: Message, *, now: float = 0.0, entropy: Entropy, policy: SynchronizationPolicy = CHALLENGE
) -> ChallengedRequest:
    """All stages; the request must be challenged."""
    outcome = receive(node, message, policy=policy, now=now, entropy=entropy)
    assert isinstance(outcome, ChallengedRequest)
    return outcome


def answer(
    node: Node,
    exchange: IncomingExchange,
    message: Message | None = None,
    *,
    fresh: bool = False,
    include_gid: bool = False,
    pairwise: bool = False,
    trace: Callable[[Trace], None] | None = None,
) -> Message:
    """A protected response of this node, as it arrives at the multicaster; with `pairwise` for it alone."""
    to = (node.context, node.context.recipient(exchange.kid)) if pairwise else None
    protected = protect_response(
        node.sender, exchange, message or response(), to=to, fresh=fresh, include_gid=include_gid, trace=trace
    )
    return over_the_wire(protected)


def answer_challenge(node: Node, original: Message, outcome: ChallengedRequest) -> Message:
    """The protected 4.03 with the Repeat value, or 4.01 with Echo, in the mode of the request."""
    code = node.context.common.profile.rules.challenge_code
    message = challenge_message(original, outcome.repeat, code)
    return answer(node, outcome.exchange, message, pairwise=outcome.exchange.pairwise)


def collect(node: Node, exchange: OutgoingExchange, message: Message) -> DeliveredResponse:
    """All stages of a response."""
    return decrypt_response(node.registry, exchange, message).check_signature().accept()


def option_of(message: Message) -> bytes:
    """The Object-Security value of a protected message."""
    value = message.option(coap.OBJECT_SECURITY)
    assert value is not None
    return value


def with_protection(message: Message, option: bytes, payload: bytes) -> Message:
    """The message with this Object-Security value and payload in place of its own."""
    options = tuple((n, option if n == coap.OBJECT_SECURITY else value) for n, value in message.options)
    return message._replace(options=options, payload=payload)


def flipped_bits(message: Message) -> Iterator[Message]:
    """The message with every single bit of its Object-Security value and payload flipped in turn."""
    option, payload = option_of(message), message.payload
    both = int.from_bytes(option + payload, "big")
    length = len(option) + len(payload)
    for bit in range(8 * length):
        changed = (both ^ 1 << bit).to_bytes(length, "big")
        yield with_protection(message, changed[: len(option)], changed[len(option) :])


def snapshot(node: Node) -> object:
    """All that a received message could change at a node."""
    return [
        (
            context.gid,
            context.current,
            context.accepts_requests,
            context.intact,
            sorted(context.members),
            sorted(context._answering),
            [
                (r.recipient_id, r.window.highest, r.window.bits, r.unbroken, sync_snapshot(r.sync))
                for r in context.recipients
            ],
            repr(context.sender and context.sender.numbers),
        )
        for context in node.contexts
    ]


def sync_snapshot(sync: object) -> object:
    """The whole state of synchronization with one sender."""
    slots: tuple[str, ...] = type(sync).__slots__  # type: ignore[attr-defined]
    return [(name, repr(getattr(sync, name))) for name in slots]


# ---- Hypothesis strategies

CLASS_U_TO_SEND = (coap.URI_HOST, coap.OBSERVE, coap.URI_PORT, coap.PROXY_SCHEME)
NOT_TO_SEND = (coap.OBJECT_SECURITY, coap.PROXY_URI, coap.REPEAT)


def options(numbers: st.SearchStrategy[int], *, max_value: int = 300) -> st.SearchStrategy[Options]:
    """Options in ascending order, repeated numbers in any order of values."""
    value = st.one_of(st.binary(max_size=15), st.binary(min_size=max_value, max_size=max_value))
    pairs = st.lists(st.tuples(numbers, value), max_size=5)
    return pairs.map(lambda found: tuple(sorted(found, key=lambda pair: pair[0])))


def messages(
    codes: st.SearchStrategy[int], *, kind: st.SearchStrategy[int] | None = None
) -> st.SearchStrategy[Message]:
    """Messages that may be protected."""
    numbers = st.one_of(st.sampled_from(CLASS_U_TO_SEND), st.integers(0, 70), st.integers(0, 0xFFFF))
    return st.builds(
        Message,
        type=st.just(coap.NON) if kind is None else kind,
        code=codes,
        message_id=st.integers(0, 0xFFFF),
        token=st.binary(max_size=8),
        options=options(numbers.filter(lambda number: number not in NOT_TO_SEND)),
        payload=st.binary(max_size=40),
    )


request_codes = st.integers(0x01, 0x1F)
response_codes = st.integers(0x40, 0xBF)
