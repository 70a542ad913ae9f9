"""Everything that goes over the wire, written down as it is sent, by whatever process; and an attacker who has all
of it, and what some devices were given when they were enrolled.

A record is one `write` to a file that is only appended to, made before the kernel gets the datagram: a process that
is killed has left all that it sent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cbor2
from aiocoap.oscore import AES_CCM
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from groupcoap.association.context import AssociationContext, master_salt
from groupcoap.association.setup import AssociateRequest, AssociateResponse
from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.option import FLAG_GID, FLAG_KID, decode_prefix
from groupcoap.cose.algorithms import aead_algorithm
from groupcoap.endpoint.network import Channel, SocketAddress
from groupcoap.errors import Refused, Rejected
from groupcoap.keying import labels
from groupcoap.keying.admin import AdminKeys
from groupcoap.keying.envelope import Envelope, parse_envelope
from groupcoap.secret import Secret

Place = tuple[str, int]
_DATAGRAM, _ENCRYPTION, _RENEWAL = range(3)


class Datagram(NamedTuple):
    """`at`: when it was sent, of a clock that all processes share."""

    at: float
    source: Place
    destination: Place
    data: bytes

    @property
    def message(self) -> Message:
        return coap.decode(self.data)


class Encryption(NamedTuple):
    """Something that an association was used to encrypt."""

    at: float
    key: bytes
    nonce: bytes
    ciphertext: bytes


class Truth(NamedTuple):
    """A renewal that the manager has decided, be it durable or not."""

    at: float
    num: int
    gid: bytes
    secret: bytes
    reason: str


class Wiretap:
    """The file. Processes that are forked from who made this write to the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, kind: int, *values: object) -> None:
        os.write(self._descriptor, cbor2.dumps([kind, time.monotonic(), *values]))

    def renewed(self, num: int, gid: bytes, secret: bytes, reason: str) -> None:
        self._write(_RENEWAL, num, gid, secret, reason)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Write down what this process sends, and what it encrypts for associations."""
        send, encrypt = Channel.send, AES_CCM.encrypt.__func__

        def sending(channel: Channel, datagram: bytes, destination: SocketAddress) -> None:
            source = channel.socket.getsockname()
            self._write(_DATAGRAM, *source[:2], *destination[:2], datagram)
            send(channel, datagram, destination)

        def encrypting(cls: Any, plaintext: bytes, aad: bytes, key: bytes, iv: bytes) -> Any:
            ciphertext = encrypt(cls, plaintext, aad, key, iv)
            self._write(_ENCRYPTION, key, iv, ciphertext)
            return ciphertext

        Channel.send = sending  # type: ignore[method-assign,assignment]
        AES_CCM.encrypt = classmethod(encrypting)
        try:
            yield
        finally:
            Channel.send = send  # type: ignore[method-assign]
            AES_CCM.encrypt = classmethod(encrypt)

    def _records(self, kind: int) -> Iterator[list[Any]]:
        data = self._path.read_bytes()
        stream = BytesIO(data)
        while stream.tell() < len(data):
            record = cbor2.load(stream)
            if record[0] == kind:
                yield record[1:]

    def datagrams(self) -> list[Datagram]:
        return [
            Datagram(at, (host, port), (to_host, to_port), data)
            for at, host, port, to_host, to_port, data in self._records(_DATAGRAM)
        ]

    def encryptions(self) -> list[Encryption]:
        return [Encryption(*record) for record in self._records(_ENCRYPTION)]

    def truths(self) -> list[Truth]:
        return [Truth(*record) for record in self._records(_RENEWAL)]


# ---- an attacker


class Learnt(NamedTuple):
    """Keying material that was read on the wire. `device`: over whose association, None: by multicast."""

    at: float
    device: str | None
    num: int
    gid: bytes
    secret: bytes
    endpoint_id: bytes | None


class Inside(NamedTuple):
    """What was in a protected message of an association; in one block of it, if there are several."""

    at: float
    device: str
    from_device: bool
    code: int
    options: coap.Options
    payload: bytes


@dataclass
class _Association:
    """As whoever knows the device's secret has it."""

    device: str
    context: AssociationContext  # the device's
    bodies: dict[tuple[bool, int], bytearray] = field(default_factory=dict)

    def decrypt(
        self, from_device: bool, nonce_of: tuple[bytes, bytes], ids: tuple[bytes, bytes], data: bytes
    ) -> bytes:
        """`nonce_of`: (ID, Partial IV) that the nonce is made from; `ids`: (kid, Partial IV) of the request."""
        context = self.context
        key = context.sender_key if from_device else context.recipient_key
        endpoint_id, partial_iv = nonce_of
        plain = bytes((len(endpoint_id),)) + endpoint_id.rjust(7, b"\0") + partial_iv.rjust(5, b"\0")
        nonce = bytes(a ^ b for a, b in zip(plain, context.common_iv, strict=True))
        external = cbor2.dumps([1, [10], *ids, b""])
        return AESCCM(key, 8).decrypt(nonce, data, cbor2.dumps(["Encrypt0", b"", external]))

    def id_of(self, device: bool) -> bytes:
        found: bytes = self.context.sender_id if device else self.context.recipient_id
        return found


class Attacker:
    """Reads what it can of these datagrams, all at once: a key that is found late opens what was sent early.
    `enrolled`: {handle: (device, secret)} of the devices whose memory it has."""

    def __init__(self, datagrams: Iterable[Datagram], enrolled: dict[bytes, tuple[str, Secret]]) -> None:
        self.learnt: list[Learnt] = []
        self.inside: list[Inside] = []
        self.keys: dict[bytes, bytes] = {}
        """{kid: key-encryption key}"""
        self.opened: list[tuple[float, Envelope]] = []
        self._base_ivs: set[bytes] = set()
        self._enrolled = enrolled
        self._associations: list[_Association] = []
        self._asked: dict[bytes, list[tuple[_Association, bool, bytes, bytes]]] = {}
        self._set_ups: dict[bytes, list[AssociateRequest]] = {}
        self._envelopes: list[tuple[float, Envelope]] = []
        for datagram in datagrams:
            self._read(datagram)
        self._close()

    @property
    def secrets(self) -> set[bytes]:
        """All Master Secrets that it has."""
        return {learnt.secret for learnt in self.learnt}

    @property
    def nums(self) -> set[int]:
        return {learnt.num for learnt in self.learnt}

    # ---- one datagram

    def _read(self, datagram: Datagram) -> None:
        message = datagram.message
        value = message.option(coap.OBJECT_SECURITY)
        if value is None:
            self._plain(datagram.at, message)
            return
        flags, partial_iv, _, kid = decode_prefix(value)
        if flags & FLAG_GID:
            return  # a group's
        if coap.is_request(message.code):
            assert flags & FLAG_KID
            assert partial_iv is not None
            self._request(datagram.at, message, kid, partial_iv)
        else:
            self._response(datagram.at, message, partial_iv)

    def _plain(self, at: float, message: Message) -> None:
        path = [value for number, value in message.options if number == coap.URI_PATH]
        if path == [b"associate"]:
            with suppress(Refused):
                self._set_ups.setdefault(message.token, []).append(AssociateRequest.parse(message.payload))
        elif message.code == coap.POST and len(path) == 2:
            self._envelopes.append((at, parse_envelope(message.payload)))
        elif message.code == coap.CREATED:
            with suppress(Rejected):
                answer = AssociateResponse.parse(message.payload)
                for asked in self._set_ups.get(message.token, ()):
                    self._associate(asked, answer)

    def _associate(self, asked: AssociateRequest, answer: AssociateResponse) -> None:
        if asked.handle not in self._enrolled:
            return
        device, secret = self._enrolled[asked.handle]
        salt = master_salt(asked.handle, asked.nonce, answer.nonce)
        ids = answer.recipient_id, asked.recipient_id
        self._associations.append(_Association(device, AssociationContext(device, secret, salt, *ids, fresh=True)))

    def _request(self, at: float, message: Message, kid: bytes, partial_iv: bytes) -> None:
        for association in self._associations:
            for from_device in (True, False):
                if association.id_of(from_device) != kid:
                    continue
                with suppress(InvalidTag):
                    ids = kid, partial_iv
                    plaintext = association.decrypt(from_device, ids, ids, message.payload)
                    self._asked.setdefault(message.token, []).append((association, from_device, *ids))
                    self._opened(at, association, from_device, plaintext)

    def _response(self, at: float, message: Message, partial_iv: bytes | None) -> None:
        for association, from_device, kid, asked_iv in self._asked.get(message.token, ()):
            own = (association.id_of(not from_device), partial_iv) if partial_iv is not None else (kid, asked_iv)
            with suppress(InvalidTag):
                plaintext = association.decrypt(not from_device, own, (kid, asked_iv), message.payload)
                self._opened(at, association, not from_device, plaintext)
                return

    # ---- what is inside

    def _opened(self, at: float, association: _Association, from_device: bool, plaintext: bytes) -> None:
        options, payload = coap.decode_options(plaintext, 1)
        code = plaintext[0]
        self.inside.append(Inside(at, association.device, from_device, code, options, payload))
        number = coap.BLOCK1 if coap.is_request(code) else coap.BLOCK2
        block = next((coap.uint_value(value) for option, value in options if option == number), None)
        if block is not None and payload:
            body = association.bodies.setdefault((from_device, number), bytearray())
            start = (block >> 4) << (4 + (block & 7))
            if start == 0:
                body.clear()
            if start != len(body):
                return
            body += payload
            if block & 8:
                return
            payload = bytes(body)
        self._learn(at, association.device, payload)

    def _learn(self, at: float, device: str | None, payload: bytes) -> None:
        try:
            content = cbor2.loads(payload)
        except (cbor2.CBORError, ValueError):
            return
        if not isinstance(content, dict) or labels.KEY not in content:
            return
        key = content[labels.KEY]
        endpoint_id = key.get(labels.GROUP_SENDER_ID)
        self.learnt.append(
            Learnt(at, device, content[labels.NUM], key[labels.CONTEXT_ID], key[labels.MS], endpoint_id)
        )
        if labels.MGT_KEY_MATERIAL in content:
            admin = AdminKeys.parse(content[labels.MGT_KEY_MATERIAL])
            self._base_ivs.add(admin.base_iv)
            for found in admin.keys:
                key = found.key.reveal()
                assert self.keys.setdefault(found.kid, key) == key, "a kid of two keys"

    def _close(self) -> None:
        """Open envelopes until none opens any more."""
        waiting = self._envelopes
        while True:
            left = [entry for entry in waiting if not self._open(*entry)]
            if len(left) == len(waiting):
                return
            waiting = left

    def _open(self, at: float, envelope: Envelope) -> bool:
        key = self.keys.get(envelope.kid)
        if key is None:
            return False
        cipher = aead_algorithm(envelope.alg).cipher(Secret(key))
        for base_iv in self._base_ivs:
            nonce = bytes(a ^ b for a, b in zip(base_iv, envelope.partial_iv, strict=True))
            with suppress(InvalidTag):
                bound = cbor2.dumps(["Encrypt0", envelope.protected, b""])
                plaintext = cipher.decrypt(nonce, envelope.ciphertext, bound)
                self.opened.append((at, envelope))
                self._learn(at, None, plaintext)
                return True
        return False


# ---- what must hold of every recording


def check_nothing_repeats(tap: Wiretap, enrolled: dict[bytes, tuple[str, Secret]]) -> Attacker:
    """No number, Gid, Endpoint ID, (kid, Partial IV) of envelopes or (key, nonce) of associations was used for two
    things. Returns somebody who can read everything."""
    datagrams = tap.datagrams()
    used: dict[tuple[bytes, bytes], bytes] = {}
    for encryption in tap.encryptions():
        first = used.setdefault((encryption.key, encryption.nonce), encryption.ciphertext)
        assert first == encryption.ciphertext, "an association's nonce used twice"
    check_is_recorded(datagrams, set(used.values()))
    envelopes: dict[tuple[bytes, bytes], bytes] = {}
    for datagram in datagrams:
        if _is_envelope(datagram.message):
            envelope = parse_envelope(datagram.message.payload)
            first = envelopes.setdefault((envelope.kid, envelope.partial_iv), datagram.message.payload)
            assert first == datagram.message.payload, "an envelope's nonce used twice"
    everything = Attacker(datagrams, enrolled)
    one_to_one(everything.learnt, lambda learnt: learnt.gid, lambda learnt: learnt.secret, "Gids")
    one_to_one(everything.learnt, lambda learnt: learnt.gid, lambda learnt: learnt.num, "numbers", both=False)
    holders: dict[tuple[bytes, bytes], str | None] = {}
    for learnt in everything.learnt:
        if learnt.endpoint_id is not None:
            holder = holders.setdefault((learnt.gid, learnt.endpoint_id), learnt.device)
            assert holder == learnt.device, "an Endpoint ID of two devices under one Gid"
    return everything


def one_to_one(
    items: Iterable[Any], one: Callable[[Any], Any], other: Callable[[Any], Any], what: str, *, both: bool = True
) -> None:
    there: dict[Any, Any] = {}
    back: dict[Any, Any] = {}
    for item in items:
        assert there.setdefault(one(item), other(item)) == other(item), f"{what} used twice"
        assert not both or back.setdefault(other(item), one(item)) == one(item), f"{what} used twice"


def check_is_recorded(datagrams: Iterable[Datagram], ciphertexts: set[bytes]) -> None:
    """Every protected message of an association was seen when it was encrypted."""
    found = 0
    for datagram in datagrams:
        value = datagram.message.option(coap.OBJECT_SECURITY)
        if value is not None and datagram.message.payload in ciphertexts:
            found += 1
    assert found > 0


def _is_envelope(message: Message) -> bool:
    value = message.option(coap.CONTENT_FORMAT)
    return message.type == coap.NON and value == bytes((labels.COSE_ENCRYPT0,))
