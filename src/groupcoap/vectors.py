"""Checking test vectors: files of the form `groupcoap-vectors-1`.

Each vector runs through the same functions that the endpoints use. Where a vector gives a request as a bare
triple, it enters by `core.responses.incoming_exchange`, the documented low-level seam.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from .core import coap
from .core.contexts import CommonContext, SecurityContext, SenderContext, construct_nonce
from .core.exchange import outgoing_exchange
from .core.multicast_oscore_04 import MULTICAST_OSCORE_04, split_tail
from .core.option import decode_prefix
from .core.policy import profile_by_name
from .core.profile import RequestIds
from .core.registry import Registry
from .core.requests import (
    ChallengedRequest,
    Trace,
    admit,
    decrypt_request,
    protect_request,
)
from .core.responses import decrypt_response, incoming_exchange, protect_response
from .core.sequence import SequenceNumbers
from .core.synchronization import Method, SynchronizationPolicy
from .cose.algorithms import aead_algorithm, kdf_by_name
from .cose.keys import PublicKey, signature_algorithm
from .errors import FileFault, GroupcoapError, MisuseError, Rejected
from .secret import Secret

FORMAT = "groupcoap-vectors-1"
_GROUP = "vectors"
Json = dict[str, Any]


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
        profile_by_name(content.get("profile", ""))
    except MisuseError as error:
        yield Outcome(path.name, str(error))
        return
    for vector in content["vectors"]:
        yield check_vector(vector)


def check_vector(vector: Any) -> Outcome:
    """Run one vector: every named field of `output` must be met, or `reject` must be refused."""
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
        result = run(vector["input"])
    except GroupcoapError as error:
        return Outcome(name, None if "reject" in vector else f"refused: {error}")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        return Outcome(name, f"not a usable vector ({type(error).__name__}: {error})")
    if "reject" in vector:
        return Outcome(name, f"accepted, must be refused: {vector['reject']}")
    return Outcome(name, _difference(vector["output"], result))


def _difference(expected: Json, result: Json) -> str | None:
    for field, value in expected.items():
        if field not in result:
            return f"{field}: not known"
        if result[field] != value:
            return f"{field}: expected {value}, got {result[field]}"
    return None


def _common(data: Json) -> CommonContext:
    return CommonContext(
        profile=MULTICAST_OSCORE_04,
        aead=aead_algorithm(data["aead"]),
        kdf=kdf_by_name(data["kdf"]),
        signature=signature_algorithm(data["signature"]),
        master_secret=Secret(bytes.fromhex(data["master_secret"])),
        gid=bytes.fromhex(data["gid"]),
    )


def _sender(common: CommonContext, data: Json) -> SenderContext:
    key = common.signature.private_key(Secret(bytes.fromhex(data["private_key"])))
    numbers = SequenceNumbers(data["sequence_number"])
    return SenderContext(common, bytes.fromhex(data["id"]), key, numbers)


def _public_keys(common: CommonContext, recipients: Json) -> dict[bytes, PublicKey]:
    return {
        bytes.fromhex(kid): common.signature.public_key(bytes.fromhex(entry["public_key"]))
        for kid, entry in recipients.items()
    }


def _listener(data: Json, sender: SenderContext | None = None, method: Method = Method.BEST_EFFORT) -> Registry:
    common = sender.common if sender else _common(data["common"])
    keys = _public_keys(common, data["recipients"])
    policy = SynchronizationPolicy(method)
    context = SecurityContext(_GROUP, common, sender, keys, synchronization=policy)
    registry = Registry()
    registry.install(context, [ip_address(data["common"]["group_address"]).packed])
    return registry


def _destination(data: Json) -> bytes | None:
    address = ip_address(data["destination"])
    return address.packed if address.is_multicast else None


def _derive(data: Json) -> Json:
    common = _common(data["common"])
    keys = {}
    for endpoint_id in data["ids"]:
        common.check_id(bytes.fromhex(endpoint_id))
        key = common.profile.derive_key(common, bytes.fromhex(endpoint_id))
        keys[endpoint_id] = key.reveal().hex()
    return {"common_iv": common.common_iv.hex(), "keys": keys}


def _nonce(data: Json) -> Json:
    common_iv = bytes.fromhex(data["common_iv"])
    if len(common_iv) != aead_algorithm(data["aead"]).nonce_length:
        raise MisuseError("the Common IV does not have the algorithm's nonce length")
    nonce = construct_nonce(common_iv, bytes.fromhex(data["id"]), bytes.fromhex(data["partial_iv"]))
    return {"nonce": nonce.hex()}


def _option(data: Json) -> Json:
    prefix = decode_prefix(bytes.fromhex(data["value"]))
    kid, signature = split_tail(prefix, data["signature_length"])
    fields = {"partial_iv": prefix[1], "gid": prefix[2], "signature": signature, "kid": kid}
    return {name: None if value is None else value.hex() for name, value in fields.items()}


def _traced(protect: Callable[[Callable[[Trace], None]], coap.Message]) -> Json:
    traces: list[Trace] = []
    message = protect(traces.append)
    fields = {name: value.hex() for name, value in traces[0]._asdict().items()}
    return {"message": coap.encode(message).hex(), **fields}


def _protect_request(data: Json) -> Json:
    sender = _sender(_common(data["common"]), data["sender"])
    context = SecurityContext(_GROUP, sender.common, sender, {})
    message = coap.decode(bytes.fromhex(data["message"]))
    return _traced(lambda hook: protect_request(context, sender, message, hook).message)


def _verify_request(data: Json) -> Json:
    message = coap.decode(bytes.fromhex(data["message"]))
    request = decrypt_request(_listener(data), message, _destination(data), 0.0)
    request.check_signature()
    return {
        "message": coap.encode(request.for_onlooker()).hex(),
        "sender_id": request.sender_id.hex(),
        "sequence_number": request.number,
    }


def _ids(data: Json) -> RequestIds:
    request = data["request"]
    return RequestIds(*(bytes.fromhex(request[field]) for field in ("kid", "partial_iv", "gid")))


def _protect_response(data: Json) -> Json:
    sender = _sender(_common(data["common"]), data["sender"])
    message = coap.decode(bytes.fromhex(data["message"]))
    fresh, include_gid = data["fresh_partial_iv"], data["include_gid"]
    exchange = incoming_exchange(sender, _ids(data), may_reuse_nonce=not fresh)
    result = _traced(
        lambda hook: protect_response(sender, exchange, message, fresh=fresh, include_gid=include_gid, trace=hook)
    )
    prefix = decode_prefix(bytes.fromhex(result["option"]))
    if (prefix[1] is not None) != fresh or (prefix[2] is not None) != include_gid:
        raise MisuseError("this response cannot be asked for: its nonce or Gid would be ambiguous or reused")
    return result


def _verify_response(data: Json) -> Json:
    registry = _listener(data)
    message = coap.decode(bytes.fromhex(data["message"]))
    current = registry.current(_GROUP)
    ids = _ids(data)
    context = current
    if ids.gid != current.gid:
        # The request was sent before a renewal; its own keys are not among the vector's inputs.
        context = SecurityContext(_GROUP, _common({**data["common"], "gid": ids.gid.hex()}), None, {})
    common = context.common
    nonce = common.nonce(ids.kid, ids.partial_iv)
    prepared = common.profile.binder(common, ids.kid, ids.gid)(ids.partial_iv)
    observe = message.option(coap.OBSERVE) is not None
    exchange = outgoing_exchange(context, ids, prepared, nonce, observe)
    response = decrypt_response(registry, exchange, message)
    delivered = response.check_signature().accept()
    return {"message": coap.encode(delivered.message).hex(), "sender_id": delivered.sender_id.hex()}


def _other_id(taken: set[bytes], longest: int) -> bytes:
    """An Endpoint ID for the listener itself: any that is nobody else's."""
    for length in range(longest + 1):
        for number in range(min(256**length, len(taken) + 1)):
            candidate = number.to_bytes(length, "big")
            if candidate not in taken:
                return candidate
    raise MisuseError("no Endpoint ID is left for the listener")


def _sequence(data: Json) -> Json:
    common = _common(data["common"])
    own_id = _other_id({bytes.fromhex(kid) for kid in data["recipients"]}, common.max_id_length)
    key = common.signature.generate()
    sender = SenderContext(common, own_id, key, SequenceNumbers())
    registry = _listener(data, sender, Method(data["synchronization"]))
    destination = _destination(data)
    values = iter(range(1 << 30))
    outcomes = []
    for index, datagram in enumerate(data["messages"]):
        now = index / max(len(data["messages"]), 1) / 2  # all within one second
        try:
            message = coap.decode(bytes.fromhex(datagram))
            request = decrypt_request(registry, message, destination, now)
            result = admit(request.check_signature(), now, lambda n: next(values).to_bytes(n, "big"))
            outcomes.append("challenge" if isinstance(result, ChallengedRequest) else "deliver")
        except Rejected:
            outcomes.append("reject")
    return {"outcomes": outcomes}


_KINDS: dict[str, Callable[[Json], Json]] = {
    "derive": _derive,
    "nonce": _nonce,
    "option": _option,
    "protect_request": _protect_request,
    "verify_request": _verify_request,
    "protect_response": _protect_response,
    "verify_response": _verify_response,
    "sequence": _sequence,
}
