"""Checking test vectors: files of the form `groupcoap-vectors-1`, for either profile.

Each vector runs through the same functions that the endpoints use. Where a vector gives a request as its bare ids,
it enters by `core.responses.incoming_exchange`, the documented low-level seam. What Group OSCORE has more than the
draft's profile is in the vectors of that profile alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from .core import coap
from .core.contexts import (
    CommonContext,
    RecipientContext,
    SecurityContext,
    SenderContext,
    construct_nonce,
    pairwise_keys,
)
from .core.exchange import OutgoingExchange, outgoing_exchange
from .core.multicast_oscore_04 import MULTICAST_OSCORE_04, split_tail
from .core.option import decode_prefix
from .core.policy import profile_by_name
from .core.profile import Mode, Profile, RequestIds
from .core.registry import Registry
from .core.requests import (
    ChallengedRequest,
    Trace,
    TraceHook,
    admit,
    decrypt_request,
    protect_request,
)
from .core.responses import decrypt_response, incoming_exchange, protect_response
from .core.sequence import SequenceNumbers
from .core.synchronization import Entropy, Method, SynchronizationPolicy
from .cose.algorithms import DEFAULT_AEAD, Kdf, aead_algorithm, encryption_algorithm, kdf_by_name, key_agreement
from .cose.credentials import Credential, CredentialKind
from .cose.keys import DEFAULT_SIGNATURE, signature_algorithm
from .errors import FileFault, GroupcoapError, MisuseError, Reason, Rejected
from .membership import SecurityParameters
from .secret import Secret

FORMAT = "groupcoap-vectors-1"
_GROUP = "vectors"
Json = dict[str, Any]

_CONTEXT = frozenset(
    (
        Reason.UNKNOWN_GROUP,
        Reason.CONTEXT_RETIRED,
        Reason.CONTEXT_EXPIRED,
        Reason.UNKNOWN_SENDER,
        Reason.NO_PUBLIC_KEY,
        Reason.OWN_MESSAGE,
        Reason.NO_PAIRWISE_MODE,
    )
)
_BINDING = frozenset(
    (
        Reason.REPLAY,
        Reason.OTHER_RESPONDER,
        Reason.BOUND_TO_OTHER_REQUEST,
        Reason.NOTIFICATION_ORDER,
        Reason.NOT_OBSERVED,
    )
)
_FAILS: dict[str, frozenset[Reason]] = {
    "malformed": frozenset((Reason.MALFORMED,)),
    "context": _CONTEXT,
    "cryptography": frozenset((Reason.DECRYPTION_FAILED, Reason.SIGNATURE_FAILED)),
    "countersignature": frozenset((Reason.SIGNATURE_FAILED,)),
    "binding": _BINDING,
}
_MISUSE = "misuse"
"""How a vector that must be refused may fail, where it says how (`fails`): by what is received, or, in this last
case, by what was asked for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One vector's result; `problem` is None if it passed."""

    name: str
    problem: str | None


def check_file(path: Path) -> Iterator[Outcome]:
    """Run every vector of a file. `FileFault` if it is not a vector file; an unknown format or profile fails
    the file as one vector, and an unknown kind fails its vector."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise FileFault(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise FileFault(path, f"is not JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("vectors"), list):
        raise FileFault(path, "is not a vector file (no list of vectors)")
    if content.get("format") != FORMAT:
        yield Outcome(path.name, f"format {content.get('format')!r} is not {FORMAT!r}")
        return
    try:
        profile = profile_by_name(content.get("profile", ""))
    except MisuseError as error:
        yield Outcome(path.name, str(error))
        return
    for vector in content["vectors"]:
        yield check_vector(vector, profile)


def check_vector(vector: Any, profile: Profile = MULTICAST_OSCORE_04) -> Outcome:
    """Run one vector: every named field of `output` must be met, or `reject` must be refused, as `fails` says."""
    if not isinstance(vector, dict):
        return Outcome("(unnamed)", "not a JSON object")
    name = str(vector.get("name", "(unnamed)"))
    kind = vector.get("kind")
    run = _KINDS.get(kind) if isinstance(kind, str) else None
    if run is None:
        return Outcome(name, f"unknown kind {kind!r}")
    if ("output" in vector) == ("reject" in vector):
        return Outcome(name, "needs either output or reject")
    if "output" in vector and not (isinstance(vector["output"], dict) and vector["output"]):
        return Outcome(name, "output is not an object with fields")
    try:
        result = run(profile, vector["input"])
    except GroupcoapError as error:
        return Outcome(name, _refused(vector, error))
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        return Outcome(name, f"not a usable vector ({type(error).__name__}: {error})")
    if "reject" in vector:
        return Outcome(name, f"accepted, must be refused: {vector['reject']}")
    return Outcome(name, _difference(vector["output"], result))


def _refused(vector: Json, error: GroupcoapError) -> str | None:
    """What is wrong with its having been refused; None if it is right."""
    if "reject" not in vector:
        return f"refused: {error}"
    how = vector.get("fails")
    if how is None:
        return None
    if how != _MISUSE and (not isinstance(how, str) or how not in _FAILS):
        return f"fails: {how!r} is not known"
    right = error.reason in _FAILS.get(how, ()) if isinstance(error, Rejected) else how == _MISUSE
    return None if right else f"refused, but not as {how}: {error}"


def _difference(expected: Json, result: Json) -> str | None:
    for field, value in expected.items():
        if field not in result:
            return f"{field}: not known"
        if result[field] != value:
            return f"{field}: expected {value}, got {result[field]}"
    return None


# ---- what a vector gives


def _hex(data: str) -> bytes:
    return bytes.fromhex(data)


def _credential(entry: Json) -> Credential:
    return Credential(CredentialKind(entry["kind"]), _hex(entry["data"]))


def _parameters(profile: Profile, data: Json) -> SecurityParameters:
    kdf, signature = kdf_by_name(data["kdf"]), signature_algorithm(data["signature"])
    if not profile.rules.pairwise:
        return SecurityParameters(profile, aead_algorithm(data["aead"]), kdf, signature)
    return SecurityParameters(
        profile,
        None if data["aead"] is None else aead_algorithm(data["aead"]),
        kdf,
        signature,
        encryption_algorithm(data["group_encryption"]),
        None if data["key_agreement"] is None else key_agreement(data["key_agreement"]),
        data["sign_protected"],
        _credential(data["manager_credential"]),
    )


class _Group:
    """A vector's group, and who is in it. `own`: the Sender Context of whoever runs the vector, None if it has
    none."""

    def __init__(self, profile: Profile, data: Json) -> None:
        self._data = data
        common = data["common"]
        self._parameters = _parameters(profile, common)
        self.profile = profile
        self.common = self.common_under(_hex(common["gid"]))
        self.own = self._sender(data["sender"]) if "sender" in data else None
        self._address = ip_address(common["group_address"]).packed

    def common_under(self, gid: bytes) -> CommonContext:
        """The Common Context as it would be under this Gid."""
        common = self._data["common"]
        salt = _hex(common["master_salt"]) if self.profile.rules.pairwise else b""
        return self._parameters.common_context(gid, Secret(_hex(common["master_secret"])), salt)

    def _authenticated(self, entry: Json) -> bytes | None:
        return self._parameters.authenticated(_credential(entry["credential"])) if "credential" in entry else None

    def _sender(self, data: Json) -> SenderContext:
        key = self.common.signature.private_key(Secret(_hex(data["private_key"])))
        numbers = SequenceNumbers(data.get("sequence_number", 0))
        return SenderContext(self.common, _hex(data["id"]), key, numbers, self._authenticated(data))

    @property
    def sender(self) -> SenderContext:
        if self.own is None:
            raise KeyError("sender")
        return self.own

    @property
    def synchronization(self) -> Method:
        return Method(self._data.get("synchronization", Method.BEST_EFFORT.value))

    def context(self, common: CommonContext | None = None) -> SecurityContext:
        """A new Security Context; of members alone, without a Sender Context, if it is under another Gid."""
        keys, credentials = {}, {}
        for kid, entry in self._data.get("recipients", {}).items():
            if self.profile.rules.binds_credentials:
                credential = _credential(entry["credential"])
                keys[_hex(kid)] = credential.public_key(self.common.signature)
                credentials[_hex(kid)] = self._parameters.authenticated(credential) or b""
            else:
                keys[_hex(kid)] = self.common.signature.public_key(_hex(entry["public_key"]))
        return SecurityContext(
            _GROUP,
            common or self.common,
            self.own if common is None else None,
            keys,
            credentials=credentials,
            synchronization=SynchronizationPolicy(self.synchronization),
        )

    def registry(self, *before: SecurityContext) -> Registry:
        """The group's contexts: those `before`, then the current one, at its multicast address."""
        registry = Registry()
        for context in (*before, self.context()):
            registry.install(context, [self._address])
        return registry

    @property
    def message(self) -> coap.Message:
        return coap.decode(_hex(self._data["message"]))

    @property
    def ids(self) -> RequestIds:
        """Of the request that is answered."""
        request = self._data["request"]
        return RequestIds(*(_hex(request[field]) for field in ("kid", "partial_iv", "gid")))

    @property
    def asked_alone(self) -> bytes | None:
        """Whom that request was for in pairwise mode; None in group mode."""
        if not self.profile.rules.pairwise:
            return None
        request = self._data["request"]
        return _hex(request["to"]) if Mode(request["mode"]) is Mode.PAIRWISE else None

    def observes(self, answer: coap.Message) -> bool:
        """Whether that request has begun an observation; where the vector does not say so, the answer does."""
        if self.profile.rules.inner_observe:
            return bool(self._data["request"]["observe"])
        return answer.option(coap.OBSERVE) is not None

    @property
    def pairwise(self) -> bool:
        """Whether something shall be protected in pairwise mode."""
        return self.profile.rules.pairwise and Mode(self._data["mode"]) is Mode.PAIRWISE


def _destination(text: str) -> bytes | None:
    address = ip_address(text)
    return address.packed if address.is_multicast else None


# ---- kinds


def _derive(profile: Profile, data: Json) -> Json:
    ids = [_hex(endpoint_id) for endpoint_id in data["ids"]]
    group = _Group(profile, {"recipients": {}, **data})
    common, keys = group.common, {}
    for endpoint_id in ids:
        common.check_id(endpoint_id)
        keys[endpoint_id.hex()] = profile.derive_key(common, endpoint_id).reveal().hex()
    result: Json = {"common_iv": common.common_iv.hex(), "keys": keys}
    if common.signature_encryption_key is not None:
        result["signature_encryption_key"] = common.signature_encryption_key.reveal().hex()
    if group.own is not None:
        context = group.context()
        pairs = {kid: _pairwise_keys(group.own, context.recipient(kid)) for kid in context.members}
        result["pairwise_keys"] = {kid.hex(): pair for kid, pair in pairs.items()}
    return result


def _pairwise_keys(sender: SenderContext, recipient: RecipientContext) -> Json:
    _, sender_key, recipient_key = pairwise_keys(sender, recipient)
    return {"sender_key": sender_key.reveal().hex(), "recipient_key": recipient_key.reveal().hex()}


def _nonce(profile: Profile, data: Json) -> Json:
    common_iv = _hex(data["common_iv"])
    if profile.rules.pairwise:
        length = encryption_algorithm(data["algorithm"]).nonce_length
        wrong = len(common_iv) < length
    else:
        length = aead_algorithm(data["aead"]).nonce_length
        wrong = len(common_iv) != length
    if wrong:
        raise MisuseError("the Common IV does not have the algorithm's nonce length")
    nonce = construct_nonce(common_iv, _hex(data["id"]), _hex(data["partial_iv"]), length)
    return {"nonce": nonce.hex()}


def _option(profile: Profile, data: Json) -> Json:
    prefix = decode_prefix(_hex(data["value"]))
    _, partial_iv, gid, _ = prefix
    result: Json = {}
    if profile.rules.pairwise:
        splits = {"request": profile.split_request_option, "response": profile.split_response_option}
        kid, _, pairwise = splits[data["message"]](_any_group(profile), prefix)
        result["mode"] = _mode(pairwise)
        fields = {"partial_iv": partial_iv, "gid": gid, "kid": kid}
    else:
        kid, signature = split_tail(prefix, data["signature_length"])
        fields = {"partial_iv": partial_iv, "gid": gid, "signature": signature, "kid": kid}
    return result | {name: None if value is None else value.hex() for name, value in fields.items()}


def _any_group(profile: Profile) -> CommonContext:
    """Where the kid stands in the option is the same in every group of this profile."""
    return CommonContext(
        profile=profile,
        aead=DEFAULT_AEAD,
        kdf=Kdf.HKDF_SHA_256,
        signature=DEFAULT_SIGNATURE,
        master_secret=Secret(bytes(16)),
        gid=b"\x00",
        manager_credential=b"\xa0",
    )


def _traced(group: _Group, protect: Callable[[TraceHook], coap.Message]) -> Json:
    traces: list[Trace] = []
    message = protect(traces.append)
    (trace,) = traces
    result = {name: value.hex() for name, value in trace._asdict().items()}
    if group.common.signature_encryption_key is not None and not group.pairwise:
        # Signed again: what an algorithm without randomness gives is what must be in the payload.
        signature = group.sender.private_key.sign(trace.to_be_signed)
        encrypted = message.payload[-len(signature) :]
        keystream = bytes(a ^ b for a, b in zip(signature, encrypted, strict=True))
        result |= {"countersignature": signature.hex(), "keystream": keystream.hex()}
    return {"message": coap.encode(message).hex(), **result}


def _protect_request(profile: Profile, data: Json) -> Json:
    group = _Group(profile, data)
    sender, context, message = group.sender, group.context(), group.message
    to = context.recipient(_hex(data["to"])) if group.pairwise else None
    return _traced(group, lambda hook: protect_request(context, sender, message, hook, to=to).message)


def _verify_request(profile: Profile, data: Json) -> Json:
    group = _Group(profile, data)
    request = decrypt_request(group.registry(), group.message, _destination(data["destination"]), 0.0)
    request.check_signature()
    return {
        "message": coap.encode(request.for_onlooker()).hex(),
        "sender_id": request.sender_id.hex(),
        "sequence_number": request.number,
        **({"mode": _mode(request.pairwise)} if profile.rules.pairwise else {}),
    }


def _mode(pairwise: bool) -> str:
    mode: str = (Mode.PAIRWISE if pairwise else Mode.GROUP).value
    return mode


def _protect_response(profile: Profile, data: Json) -> Json:
    group = _Group(profile, data)
    sender, ids, message = group.sender, group.ids, group.message
    fresh, include_gid, pairwise = data["fresh_partial_iv"], data["include_gid"], group.asked_alone is not None
    exchange = incoming_exchange(sender, ids, may_reuse_nonce=not fresh, pairwise=pairwise)
    to = None
    if group.pairwise:
        context = group.context()
        to = context, context.recipient(ids.kid)
    result = _traced(
        group,
        lambda hook: protect_response(
            sender, exchange, message, to=to, fresh=fresh, include_gid=include_gid, trace=hook
        ),
    )
    prefix = decode_prefix(_hex(str(result["option"])))
    kid, _, _ = profile.split_response_option(group.common, prefix)
    shown = prefix[1] is not None, prefix[2] is not None, kid is not None
    if shown != (fresh, include_gid, data.get("include_kid", True)):
        raise MisuseError("this response cannot be asked for: its nonce, Gid or kid would be ambiguous or reused")
    return result


def _verify_response(profile: Profile, data: Json) -> Json:
    group = _Group(profile, data)
    ids, message = group.ids, group.message
    if ids.gid != group.common.gid:
        # The request was sent before a renewal; its own keys are not among the vector's inputs.
        before = group.context(group.common_under(ids.gid))
        registry = group.registry(before)
        context = before
    else:
        registry = group.registry()
        context = registry.current(_GROUP)
    exchange = _outgoing(group, context, message)
    response = decrypt_response(registry, exchange, message)
    delivered = response.check_signature().accept()
    return {
        "message": coap.encode(delivered.message).hex(),
        "sender_id": delivered.sender_id.hex(),
        **({"mode": _mode(response.pairwise)} if profile.rules.pairwise else {}),
    }


def _outgoing(group: _Group, context: SecurityContext, message: coap.Message) -> OutgoingExchange:
    """What a client has remembered of its request."""
    common, ids, peer = context.common, group.ids, group.asked_alone
    aead = common.aead if peer is not None else None
    nonce = common.nonce(ids.kid, ids.partial_iv, None if aead is None else aead.nonce_length)
    prepared = common.profile.binder(common, ids.kid, ids.gid)(ids.partial_iv)
    return outgoing_exchange(context, ids, prepared, nonce, group.observes(message), peer)


def _other_id(taken: set[bytes], longest: int) -> bytes:
    """An Endpoint ID for the listener itself: any that is nobody else's."""
    for length in range(longest + 1):
        for number in range(min(256**length, len(taken) + 1)):
            candidate = number.to_bytes(length, "big")
            if candidate not in taken:
                return candidate
    raise MisuseError("no Endpoint ID is left for the listener")


def _sequence(profile: Profile, data: Json) -> Json:
    group = _Group(profile, data)
    if profile.rules.pairwise:
        datagrams = [(entry["message"], _destination(entry["destination"])) for entry in data["messages"]]
        echo_values = [_hex(value) for value in data["echo_values"]]
    else:
        destination = _destination(data["destination"])
        datagrams = [(message, destination) for message in data["messages"]]
        echo_values = [number.to_bytes(8, "big") for number in range(len(datagrams))]
        own_id = _other_id({_hex(kid) for kid in data["recipients"]}, group.common.max_id_length)
        key = group.common.signature.generate()
        group.own = SenderContext(group.common, own_id, key, SequenceNumbers())
    registry, outcomes = group.registry(), []
    for index, (datagram, destination) in enumerate(datagrams):
        now = index / len(datagrams) / 2  # all within one second
        outcomes.append(_outcome(registry, _hex(datagram), destination, now, lambda length: echo_values.pop(0)))
    return {"outcomes": outcomes}


def _outcome(registry: Registry, datagram: bytes, destination: bytes | None, now: float, entropy: Entropy) -> str:
    try:
        request = decrypt_request(registry, coap.decode(datagram), destination, now)
        result = admit(request.check_signature(), now, entropy)
    except Rejected:
        return "reject"
    return "challenge" if isinstance(result, ChallengedRequest) else "deliver"


_KINDS: dict[str, Callable[[Profile, Json], Json]] = {
    "derive": _derive,
    "nonce": _nonce,
    "option": _option,
    "protect_request": _protect_request,
    "verify_request": _verify_request,
    "protect_response": _protect_response,
    "verify_response": _verify_response,
    "sequence": _sequence,
}
