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
from ..core.group_oscore import GROUP_OSCORE, keystream_info
from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.profile import Profile
from ..core.registry import Registry
from ..core.requests import DeliveredRequest, ProtectedRequest, Trace, admit, decrypt_request, protect_request
from ..core.sequence import SequenceNumbers
from ..core.synchronization import Method, SynchronizationPolicy
from ..core.window import ReplayWindow
from ..cose.algorithms import DEFAULT_AEAD, Kdf, key_agreement_for
from ..cose.credentials import claims_set
from ..cose.keys import DEFAULT_SIGNATURE
from ..endpoint.messages import from_core, to_core
from ..membership import SecurityParameters
from ..secret import Secret

DEFAULT_ROUNDS: Final = 120
Goals = dict[str, dict[str, tuple[str, float]]]
GOALS: Final[dict[str, Goals]] = {
    MULTICAST_OSCORE_04.name: {
        "protect": {"ratio": ("≤", 1.25), "message_ratio": ("≤", 1.6), "aiocoap_ratio": ("≥", 3.5)},
        "verify": {"ratio": ("≤", 1.15), "message_ratio": ("≤", 1.35), "aiocoap_ratio": ("≥", 2.2)},
        "decrypt_only": {"aead_calls": ("≤", 5.0)},
    },
    GROUP_OSCORE.name: {
        "protect": {"ratio": ("≤", 1.25), "aiocoap_ratio": ("≥", 3.0)},
        "verify": {"ratio": ("≤", 1.15), "aiocoap_ratio": ("≥", 2.0)},
        "pairwise_verify": {"aiocoap_ratio": ("≥", 50.0)},
    },
}
"""What the figures are to reach, by profile: for each one the relation and the bound."""

_BATCH = 100
_WARM_UP = 5
_FEW = 4
_PAYLOAD_LENGTH = 20
_PATH = "light"
_GID = bytes(range(12))
_SALT = bytes(range(8))
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
    partial_iv: bytes
    keystream_info: bytes
    """Where the countersignature is encrypted; empty where it is not."""


_Step = Callable[["_Group", Any], Any]
_Times = dict[_Step, float]
"""Seconds that one batch took, by what was done with it."""


class _Group:
    """A switch and a lamp with the same keys in our core, and the same two in aiocoap."""

    def __init__(self, profile: Profile) -> None:
        secret = Secret(os.urandom(16))
        self.keys = {kid: DEFAULT_SIGNATURE.generate() for kid in (_SWITCH, _LAMP)}
        self.credentials = {kid: claims_set(key.public_key, DEFAULT_SIGNATURE) for kid, key in self.keys.items()}
        self.manager = claims_set(DEFAULT_SIGNATURE.generate().public_key, DEFAULT_SIGNATURE)
        self.profile = profile
        common = self._common(secret)
        self.sender = self._sender(common, _SWITCH)
        self.context = self._context(common, self.sender)
        self.cipher = common.encryption.cipher(self.sender.key)
        self.keystream = common.keystream or (lambda salt, info: b"")
        key = self.keys[_SWITCH]
        self.public_key, self.signing_key = crypto_sign_seed_keypair(key.secret.reveal())
        self.lamp = self._listener(secret)
        self.message_lamp = self._listener(secret)
        self.unverifying_lamp = self._listener(secret)
        self.pairwise_lamp = self._listener(secret)
        self.aiocoap_switch, self.aiocoap_lamp = self._aiocoap_contexts(secret)
        self.aiocoap_pairwise_switch, self.aiocoap_pairwise_lamp = self._aiocoap_contexts(secret)

    def _common(self, secret: Secret) -> CommonContext:
        """With the parameters that the profile has."""
        if not self.profile.rules.pairwise:
            return SecurityParameters(self.profile).common_context(_GID, secret)
        parameters = SecurityParameters(
            self.profile,
            group_encryption=DEFAULT_AEAD,
            key_agreement=key_agreement_for(Kdf.HKDF_SHA_256),
            manager_credential=self.manager,
        )
        return parameters.common_context(_GID, secret, _SALT)

    def _sender(self, common: CommonContext, kid: bytes) -> SenderContext:
        return SenderContext(common, kid, self.keys[kid], SequenceNumbers(), self.credentials[kid].authenticated)

    def _context(self, common: CommonContext, sender: SenderContext) -> SecurityContext:
        others = [kid for kid in self.keys if kid != sender.sender_id]
        return SecurityContext(
            "bench",
            common,
            sender,
            {kid: self.keys[kid].public_key for kid in others},
            credentials={kid: self.credentials[kid].authenticated for kid in others},
            synchronization=_POLICY,
        )

    def _listener(self, secret: Secret) -> Registry:
        """A lamp that is synchronized with the switch."""
        common = self._common(secret)
        context = self._context(common, self._sender(common, _LAMP))
        context.restore(_SWITCH, ReplayWindow(), unbroken=True)
        registry = Registry()
        registry.install(context, [_ADDRESS])
        return registry

    def _aiocoap_contexts(self, secret: Secret) -> tuple[Any, Any]:
        """aiocoap's contexts in group mode, with its default algorithms, which are ours as well."""
        switch, lamp = (
            oscore.SimpleGroupContext(
                oscore.algorithms[oscore.DEFAULT_ALGORITHM],
                oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION],
                oscore.Ed25519(),
                oscore.algorithms[oscore.DEFAULT_ALGORITHM],
                oscore.EcdhSsHkdf256(),
                _GID,
                secret.reveal(),
                _SALT,
                own,
                self.keys[own].secret.reveal(),
                self.credentials[own].data,
                {kid: self.credentials[kid].data for kid in self.keys if kid != own},
                self.manager.data,
            )
            for own in (_SWITCH, _LAMP)
        )
        return switch, lamp


def _protect_core(group: _Group, messages: Sequence[coap.Message]) -> list[ProtectedRequest]:
    context, sender = group.context, group.sender
    return [protect_request(context, sender, message) for message in messages]


def _protect_message(group: _Group, messages: Sequence[Any]) -> list[bytes]:
    context, sender = group.context, group.sender
    return [coap.encode(protect_request(context, sender, to_core(message)).message) for message in messages]


def _as_datagrams(context: Any, messages: Sequence[Any]) -> list[bytes]:
    datagrams = []
    for message in messages:
        outer, _ = context.protect(message)
        outer.mtype, outer.mid, outer.token = message.mtype, message.mid, message.token
        datagrams.append(outer.encode())
    return datagrams


def _protect_aiocoap(group: _Group, messages: Sequence[Any]) -> list[bytes]:
    return _as_datagrams(group.aiocoap_switch, messages)


def _protect_floor(group: _Group, floors: Sequence[_Floor]) -> None:
    encrypt, key = group.cipher.encrypt, group.signing_key
    for nonce, plaintext, aad, to_be_signed, *_ in floors:
        encrypt(nonce, plaintext, aad)
        crypto_sign(to_be_signed, key)


def _protect_floor_encrypted(group: _Group, floors: Sequence[_Floor]) -> None:
    """With what it takes to encrypt the countersignature."""
    encrypt, key, keystream = group.cipher.encrypt, group.signing_key, group.keystream
    for nonce, plaintext, aad, to_be_signed, _, _, partial_iv, info in floors:
        encrypt(nonce, plaintext, aad)
        crypto_sign(to_be_signed, key)
        keystream(partial_iv, info)


def _verify_core(group: _Group, messages: Sequence[coap.Message]) -> None:
    lamp, address, entropy = group.lamp, _ADDRESS, os.urandom
    for message in messages:
        admit(decrypt_request(lamp, message, address, 0.0).check_signature(), 0.0, entropy)


def _received(lamp: Registry, datagrams: Sequence[bytes]) -> None:
    address, entropy = _ADDRESS, os.urandom
    for datagram in datagrams:
        request = decrypt_request(lamp, coap.decode(datagram), address, 0.0)
        delivered = admit(request.check_signature(), 0.0, entropy)
        assert isinstance(delivered, DeliveredRequest)
        from_core(delivered.message, None)


def _verify_message(group: _Group, datagrams: Sequence[bytes]) -> None:
    _received(group.message_lamp, datagrams)


def _verify_aiocoap(group: _Group, datagrams: Sequence[bytes]) -> None:
    _received_by_aiocoap(group.aiocoap_lamp, datagrams)


def _received_by_aiocoap(lamp: Any, datagrams: Sequence[bytes]) -> None:
    for datagram in datagrams:
        message = AiocoapMessage.decode(datagram)
        lamp.get_oscore_context_for(oscore.verify_start(message)).unprotect(message)


def _verify_floor(group: _Group, floors: Sequence[_Floor]) -> None:
    decrypt, key = group.cipher.decrypt, group.public_key
    for nonce, _, aad, _, ciphertext, signed, *_ in floors:
        decrypt(nonce, ciphertext, aad)
        crypto_sign_open(signed, key)


def _verify_floor_encrypted(group: _Group, floors: Sequence[_Floor]) -> None:
    decrypt, key, keystream = group.cipher.decrypt, group.public_key, group.keystream
    for nonce, _, aad, _, ciphertext, signed, partial_iv, info in floors:
        decrypt(nonce, ciphertext, aad)
        keystream(partial_iv, info)
        crypto_sign_open(signed, key)


def _pairwise_verify(group: _Group, datagrams: Sequence[bytes]) -> None:
    _received(group.pairwise_lamp, datagrams)


def _pairwise_verify_aiocoap(group: _Group, datagrams: Sequence[bytes]) -> None:
    _received_by_aiocoap(group.aiocoap_pairwise_lamp, datagrams)


def _decrypt_only(group: _Group, messages: Sequence[coap.Message]) -> None:
    lamp, address, entropy = group.unverifying_lamp, _ADDRESS, os.urandom
    for message in messages:
        request = decrypt_request(lamp, message, address, 0.0)
        admit(request.waive_signature(deferred=False), 0.0, entropy)


def _decrypt_first(group: _Group, messages: Sequence[coap.Message]) -> None:
    """The stage before the signature, where that is never left out."""
    lamp, address = group.unverifying_lamp, _ADDRESS
    for message in messages:
        decrypt_request(lamp, message, address, 0.0)


def _decrypt_floor(group: _Group, floors: Sequence[_Floor]) -> None:
    decrypt = group.cipher.decrypt
    for nonce, _, aad, _, ciphertext, *_ in floors:
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


def _floor_of(group: _Group, message: coap.Message) -> _Floor:
    """Of a message like this one, protected for the purpose."""
    traces: list[Trace] = []
    protected = protect_request(group.context, group.sender, message, traces.append)
    (trace,) = traces
    ciphertext = group.cipher.encrypt(trace.nonce, trace.plaintext, trace.aad)
    signed = crypto_sign(trace.to_be_signed, group.signing_key)
    info = keystream_info(_SWITCH, _GID, DEFAULT_SIGNATURE.signature_length, request=True)
    partial_iv = protected.exchange.ids.partial_iv
    return _Floor(trace.nonce, trace.plaintext, trace.aad, trace.to_be_signed, ciphertext, signed, partial_iv, info)


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
    encrypted = group.profile.rules.signature_first
    protect_floor, verify_floor = (
        (_protect_floor_encrypted, _verify_floor_encrypted) if encrypted else (_protect_floor, _verify_floor)
    )
    floors = [_floor_of(group, value) for value in values]
    protecting, results = _timed_in_turn(
        group,
        {_protect_core: values, protect_floor: floors, _protect_message: messages, _protect_aiocoap: messages},
        number,
    )
    sealed = [request.message for request in results[_protect_core]]
    steps: dict[_Step, Sequence[Any]] = {
        _verify_core: sealed,
        verify_floor: floors,
        _verify_message: results[_protect_message],
        _verify_aiocoap: results[_protect_aiocoap],
    }
    if encrypted:
        alone = [_plain_messages(number * _BATCH) for _ in range(2)]
        lamp = group.context.recipient(_LAMP)
        steps[_pairwise_verify] = [
            coap.encode(protect_request(group.context, group.sender, to_core(message), to=lamp).message)
            for message in alone[0]
        ]
        # aiocoap takes milliseconds for each: a few of them, counted as many as they are
        few = alone[1][:_FEW]
        steps[_pairwise_verify_aiocoap] = _as_datagrams(group.aiocoap_pairwise_switch.pairwise_for(_LAMP), few)
    steps[_decrypt_first if encrypted else _decrypt_only] = sealed
    steps[_decrypt_floor] = floors
    verifying, _ = _timed_in_turn(group, steps, number)
    if encrypted:
        verifying[_pairwise_verify_aiocoap] *= _BATCH / _FEW
    return protecting | verifying


def _measure(profile: Profile, rounds: int) -> list[_Times]:
    group = _Group(profile)
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


def run(rounds: int = DEFAULT_ROUNDS, profile: Profile = MULTICAST_OSCORE_04) -> dict[str, dict[str, float]]:
    """Measure. Per message, for a payload of 20 bytes and the default algorithms:

    `us`: microseconds that the core takes, from message value to message value; verifying includes replay check and
    synchronization. `floor_us`: the same AEAD and signature calls alone, on the same data, and the HKDF calls that
    encrypt the countersignature where it is. `ratio`: the one over the other. `message_ratio`: from aiocoap's
    message to a datagram, or from a datagram to aiocoap's message, over the floor. `aiocoap_ratio`: aiocoap's Group
    OSCORE from message to datagram, or back, over ours. `decrypt_only`: verifying without the signature, also in
    calls of the AEAD algorithm; where a signature is never left out, the stage before it. `pairwise_verify`:
    verifying a request in pairwise mode, from datagram to aiocoap's message, where there is that mode.

    `rounds`: how many batches of each; the default takes 10 to 30 seconds."""
    gc.collect()
    gc.freeze()  # what exists by now is not searched again before every round
    try:
        results = _measure(profile, rounds)
    finally:
        gc.unfreeze()
    encrypted = profile.rules.signature_first
    protect_floor, verify_floor = (
        (_protect_floor_encrypted, _verify_floor_encrypted) if encrypted else (_protect_floor, _verify_floor)
    )
    figures = {
        "protect": _figures(results, _protect_core, protect_floor, _protect_message, _protect_aiocoap),
        "verify": _figures(results, _verify_core, verify_floor, _verify_message, _verify_aiocoap),
    }
    if encrypted:
        figures["pairwise_verify"] = {
            "us": _microseconds(results, _pairwise_verify),
            "aiocoap_ratio": _ratio(results, _pairwise_verify_aiocoap, _pairwise_verify),
        }
    decrypting = _decrypt_first if encrypted else _decrypt_only
    figures["decrypt_only"] = {
        "us": _microseconds(results, decrypting),
        "aead_calls": _ratio(results, decrypting, _decrypt_floor),
    }
    return figures
