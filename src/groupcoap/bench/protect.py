"""What protection costs beyond its cryptography, and beside aiocoap's own Group OSCORE.

Everything is measured in one run, in turn: a round takes a small batch of every measured thing, one after the
other, on messages never used before. Ratios are taken within a round, so that a processor that slows down slows
both sides; reported is the median over the rounds. As with `timeit`, the garbage collector rests while a round
runs.
"""

from __future__ import annotations

# mypy: allow-untyped-calls
import gc
import os
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from aiocoap import oscore
from aiocoap.message import Direction
from aiocoap.message import Message as AiocoapMessage
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

from ..core import coap
from ..core.contexts import CommonContext, SecurityContext, SenderContext
from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.registry import Registry
from ..core.requests import DeliveredRequest, ProtectedRequest, admit, decrypt_request, protect_request
from ..core.sequence import SequenceNumbers
from ..core.synchronization import Method, SynchronizationPolicy
from ..core.window import ReplayWindow
from ..cose.algorithms import DEFAULT_AEAD, Kdf
from ..cose.keys import DEFAULT_SIGNATURE
from ..endpoint.messages import from_core, to_core
from ..secret import Secret

DEFAULT_ROUNDS: Final = 120
GOALS: Final[dict[str, dict[str, tuple[str, float]]]] = {
    "protect": {"ratio": ("≤", 1.25), "message_ratio": ("≤", 1.6), "aiocoap_ratio": ("≥", 3.5)},
    "verify": {"ratio": ("≤", 1.15), "message_ratio": ("≤", 1.35), "aiocoap_ratio": ("≥", 2.2)},
    "decrypt_only": {"aead_calls": ("≤", 5.0)},
}
"""What the figures are to reach: for each one the relation and the bound."""

_BATCH = 100
_WARM_UP = 5
_PAYLOAD_LENGTH = 20
_PATH = "light"
_GID = bytes(range(12))
_ADDRESS = b"\xef\x45\x00\x01"
_SWITCH, _LAMP = b"\x01", b"\x02"
_POLICY = SynchronizationPolicy(Method.BEST_EFFORT)


class _Floor(NamedTuple):
    """One protected message as the bare cryptographic calls need it."""

    nonce: bytes
    plaintext: bytes
    aad: bytes
    to_be_signed: bytes
    ciphertext: bytes
    signed: bytes
    """Signature ‖ to_be_signed, as libsodium takes them."""


_Step = Callable[["_Group", Any], Any]
_Times = dict[_Step, float]
"""Seconds that one batch took, by what was done with it."""


class _Group:
    """A switch and a lamp with the same keys in our core, and the same two in aiocoap."""

    def __init__(self) -> None:
        secret = Secret(os.urandom(16))
        key = DEFAULT_SIGNATURE.generate()
        common = self._common(secret)
        self.sender = SenderContext(common, _SWITCH, key, SequenceNumbers())
        self.context = SecurityContext("bench", common, self.sender, {})
        self.cipher = self.sender.cipher
        self.public_key, self.signing_key = crypto_sign_seed_keypair(key.secret.reveal())
        self.lamp = self._listener(secret)
        self.message_lamp = self._listener(secret)
        self.unverifying_lamp = self._listener(secret)
        self.aiocoap_switch, self.aiocoap_lamp = self._aiocoap_contexts(secret)

    @staticmethod
    def _common(secret: Secret) -> CommonContext:
        return CommonContext(
            profile=MULTICAST_OSCORE_04,
            aead=DEFAULT_AEAD,
            kdf=Kdf.HKDF_SHA_256,
            signature=DEFAULT_SIGNATURE,
            master_secret=secret,
            gid=_GID,
        )

    def _listener(self, secret: Secret) -> Registry:
        """A lamp that is synchronized with the switch."""
        keys = {_SWITCH: self.sender.private_key.public_key}
        context = SecurityContext("bench", self._common(secret), None, keys, synchronization=_POLICY)
        context.restore(_SWITCH, ReplayWindow(), unbroken=True)
        registry = Registry()
        registry.install(context, [_ADDRESS])
        return registry

    @staticmethod
    def _aiocoap_contexts(secret: Secret) -> tuple[Any, Any]:
        """aiocoap's contexts in group mode, with its default algorithms, which are ours as well."""
        signature = oscore.Ed25519()
        ids = (_SWITCH, _LAMP)
        keys = {kid: signature.generate_with_ccs() for kid in ids}
        switch, lamp = (
            oscore.SimpleGroupContext(
                oscore.algorithms[oscore.DEFAULT_ALGORITHM],
                oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION],
                signature,
                oscore.algorithms[oscore.DEFAULT_ALGORITHM],
                oscore.EcdhSsHkdf256(),
                _GID,
                secret.reveal(),
                b"",
                own,
                keys[own][0],
                keys[own][1],
                {other: keys[other][1] for other in ids if other != own},
                b"",  # the Group Manager's credential, which takes no part here
            )
            for own in ids
        )
        return switch, lamp


def _protect_core(group: _Group, messages: Sequence[coap.Message]) -> list[ProtectedRequest]:
    context, sender = group.context, group.sender
    return [protect_request(context, sender, message) for message in messages]


def _protect_message(group: _Group, messages: Sequence[Any]) -> list[bytes]:
    context, sender = group.context, group.sender
    return [coap.encode(protect_request(context, sender, to_core(message)).message) for message in messages]


def _protect_aiocoap(group: _Group, messages: Sequence[Any]) -> list[bytes]:
    datagrams = []
    for message in messages:
        outer, _ = group.aiocoap_switch.protect(message)
        outer.mtype, outer.mid, outer.token = message.mtype, message.mid, message.token
        datagrams.append(outer.encode())
    return datagrams


def _protect_floor(group: _Group, floors: Sequence[_Floor]) -> None:
    encrypt, key = group.cipher.encrypt, group.signing_key
    for nonce, plaintext, aad, to_be_signed, _, _ in floors:
        encrypt(nonce, plaintext, aad)
        crypto_sign(to_be_signed, key)


def _verify_core(group: _Group, messages: Sequence[coap.Message]) -> None:
    lamp, address, entropy = group.lamp, _ADDRESS, os.urandom
    for message in messages:
        admit(decrypt_request(lamp, message, address, 0.0).check_signature(), 0.0, entropy)


def _verify_message(group: _Group, datagrams: Sequence[bytes]) -> None:
    lamp, address, entropy = group.message_lamp, _ADDRESS, os.urandom
    for datagram in datagrams:
        request = decrypt_request(lamp, coap.decode(datagram), address, 0.0)
        delivered = admit(request.check_signature(), 0.0, entropy)
        assert isinstance(delivered, DeliveredRequest)
        from_core(delivered.message, None)


def _verify_aiocoap(group: _Group, datagrams: Sequence[bytes]) -> None:
    lamp = group.aiocoap_lamp
    for datagram in datagrams:
        message = AiocoapMessage.decode(datagram)
        lamp.get_oscore_context_for(oscore.verify_start(message)).unprotect(message)


def _verify_floor(group: _Group, floors: Sequence[_Floor]) -> None:
    decrypt, key = group.cipher.decrypt, group.public_key
    for nonce, _, aad, _, ciphertext, signed in floors:
        decrypt(nonce, ciphertext, aad)
        crypto_sign_open(signed, key)


def _decrypt_only(group: _Group, messages: Sequence[coap.Message]) -> None:
    lamp, address, entropy = group.unverifying_lamp, _ADDRESS, os.urandom
    for message in messages:
        request = decrypt_request(lamp, message, address, 0.0)
        admit(request.waive_signature(deferred=False), 0.0, entropy)


def _decrypt_floor(group: _Group, floors: Sequence[_Floor]) -> None:
    decrypt = group.cipher.decrypt
    for nonce, _, aad, _, ciphertext, _ in floors:
        decrypt(nonce, ciphertext, aad)


def _plain_messages(first_id: int) -> list[Any]:
    """A batch of aiocoap requests as they stand when they are about to be sent."""
    messages = []
    for message_id in range(first_id, first_id + _BATCH):
        message = AiocoapMessage(
            code=coap.PUT,
            payload=os.urandom(_PAYLOAD_LENGTH),
            _mtype=coap.NON,
            _mid=message_id & 0xFFFF,
            _token=os.urandom(4),
        )
        message.opt.uri_path = (_PATH,)
        message.direction = Direction.OUTGOING
        messages.append(message)
    return messages


def _floor_of(group: _Group, protected: ProtectedRequest) -> _Floor:
    exchange, ciphertext = protected.exchange, protected.message.payload
    aad = exchange.prepared[0]
    _, to_be_signed = MULTICAST_OSCORE_04.countersigned(exchange.prepared, (_SWITCH, b""), ciphertext)
    plaintext = group.cipher.decrypt(exchange.nonce, ciphertext, aad)
    signed = crypto_sign(to_be_signed, group.signing_key)
    return _Floor(exchange.nonce, plaintext, aad, to_be_signed, ciphertext, signed)


def _timed_in_turn(group: _Group, steps: dict[_Step, Sequence[Any]], first: int) -> tuple[_Times, dict[_Step, Any]]:
    """Seconds and result of every step. Each round begins with another one: whatever comes first finds the
    processor's caches full of something else."""
    order = list(steps)
    first %= len(order)
    times, results = {}, {}
    for step in order[first:] + order[:first]:
        items = steps[step]
        start = time.perf_counter()
        result = step(group, items)
        times[step] = time.perf_counter() - start
        results[step] = result
    return times, results


def _one_round(group: _Group, number: int) -> _Times:
    messages = _plain_messages(number * _BATCH)
    values = [to_core(message) for message in messages]
    protecting, results = _timed_in_turn(
        group,
        {
            _protect_core: values,
            _protect_floor: [_floor_of(group, protected) for protected in _protect_core(group, values)],
            _protect_message: messages,
            _protect_aiocoap: messages,
        },
        number,
    )
    sealed = [request.message for request in results[_protect_core]]
    floors = [_floor_of(group, request) for request in results[_protect_core]]
    verifying, _ = _timed_in_turn(
        group,
        {
            _verify_core: sealed,
            _verify_floor: floors,
            _verify_message: results[_protect_message],
            _verify_aiocoap: results[_protect_aiocoap],
            _decrypt_only: sealed,
            _decrypt_floor: floors,
        },
        number,
    )
    return protecting | verifying


def _measure(rounds: int) -> list[_Times]:
    group = _Group()
    results = []
    for number in range(rounds + _WARM_UP):
        gc.collect()
        gc.disable()
        try:
            result = _one_round(group, number)
        finally:
            gc.enable()
        if number >= _WARM_UP:
            results.append(result)
    return results


def _microseconds(rounds: list[_Times], step: _Step) -> float:
    return round(median(times[step] for times in rounds) / _BATCH * 1e6, 2)


def _ratio(rounds: list[_Times], above: _Step, below: _Step) -> float:
    return round(median(times[above] / times[below] for times in rounds), 3)


def _figures(rounds: list[_Times], core: _Step, floor: _Step, message: _Step, aiocoap: _Step) -> dict[str, float]:
    return {
        "us": _microseconds(rounds, core),
        "floor_us": _microseconds(rounds, floor),
        "ratio": _ratio(rounds, core, floor),
        "message_ratio": _ratio(rounds, message, floor),
        "aiocoap_ratio": _ratio(rounds, aiocoap, message),
    }


def run(rounds: int = DEFAULT_ROUNDS) -> dict[str, dict[str, float]]:
    """Measure. Per message, for a payload of 20 bytes and the default algorithms:

    `us`: microseconds that the core takes, from message value to message value; verifying includes replay check
    and synchronization. `floor_us`: the same AEAD and signature calls alone, on the same data. `ratio`: the one
    over the other. `message_ratio`: from aiocoap's message to a datagram, or from a datagram to aiocoap's message,
    over the floor. `aiocoap_ratio`: aiocoap's Group OSCORE from message to datagram, or back, over ours.
    `decrypt_only`: verifying without the signature, also in calls of the AEAD algorithm.

    `rounds`: how many batches of each; the default takes 10 to 15 seconds."""
    gc.collect()
    gc.freeze()  # what exists by now is not searched again before every round
    try:
        results = _measure(rounds)
    finally:
        gc.unfreeze()
    return {
        "protect": _figures(results, _protect_core, _protect_floor, _protect_message, _protect_aiocoap),
        "verify": _figures(results, _verify_core, _verify_floor, _verify_message, _verify_aiocoap),
        "decrypt_only": {
            "us": _microseconds(results, _decrypt_only),
            "aead_calls": _ratio(results, _decrypt_only, _decrypt_floor),
        },
    }
