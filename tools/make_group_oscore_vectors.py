"""Makes the test vectors of Group OSCORE, `tests/vectors/group-oscore-*.json`: their form is in `docs/vectors.md`.

    python tools/make_group_oscore_vectors.py [DIRECTORY]

It is an implementation of its own, written from the text of draft-ietf-core-oscore-groupcomm-28 and of RFC 8613,
with nothing but `cryptography` and `cbor2`: it neither imports groupcoap nor shares code with it, or the vectors
would prove nothing. Short and slow on purpose. All secrets come from fixed labels, and ECDSA takes its randomness
from the message (RFC 6979), so that the files are the same each time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha512
from pathlib import Path
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

DIRECTORY = Path(__file__).resolve().parents[1] / "tests" / "vectors"
PREFIX = "group-oscore-"
Json = dict[str, Any]


def seed(label: str, size: int = 32) -> bytes:
    """Bytes that look random."""
    return sha512(b"groupcoap vectors: " + label.encode()).digest()[:size]


# ---- algorithms, by their numbers in the COSE registry


@dataclass(frozen=True)
class Encryption:
    """RFC 9053 §4, RFC 9459 §4. `make`: encrypts (key, nonce, plaintext, aad)."""

    key: int
    nonce: int
    make: Callable[[bytes, bytes, bytes, bytes], bytes]


def ccm(key: int, nonce: int, tag: int) -> Encryption:
    return Encryption(key, nonce, lambda k, n, p, a: AESCCM(k, tag_length=tag).encrypt(n, p, a))


def gcm(key: int) -> Encryption:
    return Encryption(key, 12, lambda k, n, p, a: AESGCM(k).encrypt(n, p, a))


def ctr(key: int) -> Encryption:
    """§2.1.7: the IV is the nonce of 12 bytes and four zeros; there is no tag, and nothing for the AAD to do."""
    return Encryption(
        key, 12, lambda k, n, p, a: Cipher(algorithms.AES(k), modes.CTR(n + bytes(4))).encryptor().update(p)
    )


ENCRYPTION = {
    1: gcm(16),
    2: gcm(24),
    3: gcm(32),
    10: ccm(16, 13, 8),
    11: ccm(32, 13, 8),
    12: ccm(16, 7, 8),
    13: ccm(32, 7, 8),
    24: Encryption(32, 12, lambda k, n, p, a: ChaCha20Poly1305(k).encrypt(n, p, a)),
    30: ccm(16, 13, 16),
    31: ccm(32, 13, 16),
    32: ccm(16, 7, 16),
    33: ccm(32, 7, 16),
    -65534: ctr(16),
    -65533: ctr(24),
    -65532: ctr(32),
}
AEADS = [number for number in ENCRYPTION if number > 0]
COUNTERS = [number for number in ENCRYPTION if number < 0]
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
EDDSA, ES256, ES384 = -8, -7, -35
AGREEMENT = {"sha256": -27, "sha384": None, "sha512": -28}
SIGNATURE_LENGTH = {EDDSA: 64, ES256: 64, ES384: 96}


def curve(signature: int) -> ec.EllipticCurve:
    return ec.SECP256R1() if signature == ES256 else ec.SECP384R1()


@dataclass(frozen=True)
class Key:
    """A private key of one of the three signature algorithms: a seed, or a scalar."""

    signature: int
    secret: bytes

    @property
    def private(self) -> Any:
        if self.signature == EDDSA:
            return ed25519.Ed25519PrivateKey.from_private_bytes(self.secret)
        return ec.derive_private_key(int.from_bytes(self.secret, "big"), curve(self.signature))

    @property
    def public(self) -> Any:
        return self.private.public_key()

    @property
    def coordinates(self) -> tuple[bytes, ...]:
        """What a COSE_Key holds."""
        if self.signature == EDDSA:
            return (self.public.public_bytes(Encoding.Raw, PublicFormat.Raw),)
        size = len(self.secret)
        numbers = self.public.public_numbers()
        return numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")

    def sign(self, message: bytes) -> bytes:
        """RFC 9053 §2."""
        if self.signature == EDDSA:
            signed: bytes = self.private.sign(message)
            return signed
        size = len(self.secret)
        hashed = hashes.SHA256() if self.signature == ES256 else hashes.SHA384()
        signed = self.private.sign(message, ec.ECDSA(hashed, deterministic_signing=True))
        return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(signed))

    def agree(self, other: Key) -> bytes:
        """§2.5.1, §2.5.2: X25519 with mapped keys, or the x coordinate."""
        if self.signature != EDDSA:
            secret: bytes = self.private.exchange(ec.ECDH(), other.public)
            return secret
        scalar = sha512(self.secret).digest()[:32]
        return x25519.X25519PrivateKey.from_private_bytes(scalar).exchange(
            x25519.X25519PublicKey.from_public_bytes(montgomery(other.coordinates[0]))
        )


def montgomery(edwards: bytes) -> bytes:
    """u = (1 + y) / (1 - y) of an encoded Ed25519 point (RFC 7748 §4.1)."""
    p = 2**255 - 19
    y = int.from_bytes(edwards, "little") & (2**255 - 1)
    return ((1 + y) * pow(1 - y, -1, p) % p).to_bytes(32, "little")


def key(label: str, signature: int = EDDSA) -> Key:
    secret = seed("key of " + label, 48 if signature == ES384 else 32)
    return Key(signature, secret if signature == EDDSA else b"\x00" + secret[1:])  # less than the order


# ---- credentials (§2.4)


def cose_key(of: Key, *, compressed: bool = False) -> dict[int, Any]:
    if of.signature == EDDSA:
        return {1: 1, 3: EDDSA, -1: 6, -2: of.coordinates[0]}
    x, y = of.coordinates
    return {
        1: 2,
        3: of.signature,
        -1: 1 if of.signature == ES256 else 2,
        -2: x,
        -3: bool(y[-1] & 1) if compressed else y,
    }


@dataclass(frozen=True)
class Credential:
    """`data` as it is provided, `bound`: what is put into the AAD and into pairwise keys."""

    kind: str
    data: bytes
    bound: bytes

    @property
    def json(self) -> Json:
        return {"kind": self.kind, "data": self.data.hex()}


def ccs(of: Key, name: str, *, compressed: bool = False, tagged: bool = False) -> Credential:
    data = cbor2.dumps({2: name, 8: {1: cose_key(of, compressed=compressed)}})
    return Credential("ccs", b"\xd8\x3d" + data if tagged else data, data)


def cwt(of: Key, name: str, *, tags: bytes = b"") -> Credential:
    """Signed by nobody in particular: members take it from the Group Manager, whom they trust."""
    claims = cbor2.dumps({1: "manager", 2: name, 8: {1: cose_key(of)}})
    protected = cbor2.dumps({1: EDDSA})
    signature = key("issuer").sign(cbor2.dumps(["Signature1", protected, b"", claims]))
    data = cbor2.dumps([protected, {}, claims, signature])
    return Credential("cwt", tags + data, data)


def certificate(of: Key, name: str) -> Credential:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "manager")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(of.public)
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2126, 1, 1, tzinfo=UTC))
        .sign(key("issuer").private, None)
    )
    data = made.public_bytes(Encoding.DER)
    return Credential("x509", data, data)


MANAGER = ccs(key("manager"), "manager")


# ---- contexts


@dataclass(frozen=True)
class Group:
    """The Common Context (§2.1)."""

    aead: int | None = 10
    encryption: int = 10
    signature: int = EDDSA
    kdf: str = "sha256"
    agreement: int | None = -27
    secret: bytes = seed("master secret", 16)
    salt: bytes = seed("master salt", 8)
    gid: bytes = bytes.fromhex("0b9c7d2e1f00")
    manager: Credential = MANAGER
    sign_protected: bool = True
    address: str = "ff35:30:2001:db8::23"

    @property
    def json(self) -> Json:
        return {
            "aead": self.aead,
            "group_encryption": self.encryption,
            "signature": self.signature,
            "key_agreement": self.agreement,
            "kdf": self.kdf,
            "master_secret": self.secret.hex(),
            "master_salt": self.salt.hex(),
            "gid": self.gid.hex(),
            "manager_credential": self.manager.json,
            "sign_protected": self.sign_protected,
            "group_address": self.address,
        }

    def hkdf(self, salt: bytes, ikm: bytes, info: list[Any], length: int) -> bytes:
        made = HKDF(algorithm=HASHES[self.kdf], length=length, salt=salt, info=cbor2.dumps(info))
        return made.derive(ikm)

    def key(self, endpoint_id: bytes) -> bytes:
        """Sender or Recipient Key (§2.3)."""
        size = ENCRYPTION[self.encryption].key
        return self.hkdf(self.salt, self.secret, [endpoint_id, self.gid, self.encryption, "Key", size], size)

    @property
    def iv(self) -> bytes:
        """Common IV (§2.1.4)."""
        size = max(ENCRYPTION[number].nonce for number in (self.aead, self.encryption) if number is not None)
        return self.hkdf(self.salt, self.secret, [b"", self.gid, self.encryption, "IV", size], size)

    @property
    def signature_encryption_key(self) -> bytes:
        """§2.1.9."""
        size = ENCRYPTION[self.encryption].key
        return self.hkdf(self.salt, self.secret, [b"", self.gid, self.encryption, "SEKey", size], size)

    def pairwise_key(self, by: Member, to: Member) -> bytes:
        """The Pairwise Sender Key of `by` (§2.5.1)."""
        assert self.aead is not None
        ikm = by.credential.bound + to.credential.bound + by.key.agree(to.key)
        size = ENCRYPTION[self.aead].key
        return self.hkdf(self.key(by.id), ikm, [by.id, self.gid, self.aead, "Key", size], size)

    def keystream(self, piv: bytes, generator: bytes, *, request: bool) -> bytes:
        """§4.2."""
        size = SIGNATURE_LENGTH[self.signature]
        return self.hkdf(piv, self.signature_encryption_key, [generator, self.gid, request, size], size)


@dataclass(frozen=True)
class Member:
    id: bytes
    key: Key
    credential: Credential

    def sender(self, number: int) -> Json:
        return {**self.own, "sequence_number": number}

    @property
    def own(self) -> Json:
        """How a vector gives the endpoint that runs it."""
        return {
            "id": self.id.hex(),
            "private_key": self.key.secret.hex(),
            "credential": self.credential.json,
        }


def member(
    name: str, endpoint_id: str, signature: int = EDDSA, make: Callable[[Key, str], Credential] = ccs
) -> Member:
    secret = key(name, signature)
    return Member(bytes.fromhex(endpoint_id), secret, make(secret, name))


def recipients(*members: Member) -> Json:
    return {one.id.hex(): {"credential": one.credential.json} for one in members}


def nonce(iv: bytes, endpoint_id: bytes, piv: bytes, size: int) -> bytes:
    """RFC 8613 §5.2 with the last step of §3.3."""
    text = bytes([len(endpoint_id)]) + endpoint_id.rjust(size - 6, b"\0") + piv.rjust(5, b"\0")
    return bytes(a ^ b for a, b in zip(text, iv[:size], strict=True))


def piv_of(number: int) -> bytes:
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")


# ---- CoAP (RFC 7252 §3)

NON, CON = 1, 0
GET, POST, PUT, FETCH = 1, 2, 3, 5
CHANGED, CONTENT, UNAUTHORIZED = 68, 69, 129
URI_HOST, OBSERVE, OSCORE, PATH, QUERY, HOP_LIMIT, PROXY_SCHEME, ECHO = 3, 6, 9, 11, 15, 16, 39, 252
OUTSIDE = {URI_HOST, 7, HOP_LIMIT, 35, PROXY_SCHEME}
Options = list[tuple[int, bytes]]


def options_bytes(options: Options, payload: bytes) -> bytes:
    out, last = b"", 0

    def nibble(value: int) -> tuple[int, bytes]:
        if value < 13:
            return value, b""
        return (13, bytes([value - 13])) if value < 269 else (14, (value - 269).to_bytes(2, "big"))

    for number, value in sorted(options, key=lambda option: option[0]):
        (delta, more), (length, longer) = nibble(number - last), nibble(len(value))
        out += bytes([delta << 4 | length]) + more + longer + value
        last = number
    return out + (b"\xff" + payload if payload else b"")


@dataclass(frozen=True)
class Message:
    code: int
    options: tuple[tuple[int, bytes], ...] = ()
    payload: bytes = b""
    kind: int = NON
    mid: int = 0x1234
    token: bytes = b"\xc2\xb4"

    @property
    def data(self) -> bytes:
        head = bytes([1 << 6 | self.kind << 4 | len(self.token), self.code]) + self.mid.to_bytes(2, "big")
        return head + self.token + options_bytes(list(self.options), self.payload)


# ---- protecting (§7.1, §7.3, §8.3, §8.5)


@dataclass(frozen=True)
class Request:
    """What an answer is bound to."""

    kid: bytes
    piv: bytes
    gid: bytes
    pairwise_with: bytes | None = None
    observe: bool = False

    @property
    def json(self) -> Json:
        return {
            "kid": self.kid.hex(),
            "partial_iv": self.piv.hex(),
            "gid": self.gid.hex(),
            "mode": "group" if self.pairwise_with is None else "pairwise",
            "to": None if self.pairwise_with is None else self.pairwise_with.hex(),
            "observe": self.observe,
        }


@dataclass(frozen=True)
class Twist:
    """What is done otherwise than the specification says, for messages that must be refused."""

    plaintext: Callable[[bytes], bytes] = bytes
    option: Callable[[bytes], bytes] = bytes
    external_aad: Callable[[list[Any]], list[Any]] = list
    structure: Callable[[list[Any]], list[Any]] = list
    signer: Key | None = None
    keystream: bytes | None = None
    key: bytes | None = None
    nonce: bytes | None = None
    ciphertext: Callable[[bytes], bytes] = bytes
    signature: Callable[[bytes], bytes] = bytes
    outer: tuple[tuple[int, bytes], ...] = ()
    code: int | None = None


AS_SPECIFIED = Twist()


@dataclass(frozen=True)
class Made:
    """A protected message and how it came about."""

    message: Message
    fields: Json

    @property
    def output(self) -> Json:
        return {"message": self.message.data.hex(), **self.fields}


def option_value(piv: bytes | None, gid: bytes | None, kid: bytes | None, *, group: bool) -> bytes:
    """§4.1, RFC 8613 §6.1."""
    flags = (0x20 if group else 0) | (0x10 if gid is not None else 0) | (0x08 if kid is not None else 0)
    flags |= len(piv or b"")
    value = bytes([flags]) + (piv or b"")
    value += b"" if gid is None else bytes([len(gid)]) + gid
    value += kid or b""
    return b"" if value == b"\0" else value


def protect(
    group: Group,
    by: Member,
    message: Message,
    *,
    to: Member | None = None,
    number: int | None = 0,
    request: Request | None = None,
    with_gid: bool = False,
    with_kid: bool = True,
    twist: Twist = AS_SPECIFIED,
) -> Made:
    """Protect a request, or a response to `request`; in pairwise mode `to` somebody. Without a number it uses the
    request's nonce."""
    inner = [option for option in message.options if option[0] not in OUTSIDE]
    outer = [option for option in message.options if option[0] in OUTSIDE]
    observe = [option for option in inner if option[0] == OBSERVE]
    if request is None:
        code = FETCH if observe else POST
    else:
        code = CONTENT if observe else CHANGED
        inner = [(n, b"" if n == OBSERVE else value) for n, value in inner]  # RFC 8613 §4.1.3.5.2
    outer += observe
    plaintext = twist.plaintext(bytes([message.code]) + options_bytes(inner, message.payload))

    algorithm = ENCRYPTION[group.encryption if to is None else group.aead or 0]
    own = None if number is None else piv_of(number)
    if own is not None:
        generator, piv = by.id, own
    else:
        assert request is not None
        generator, piv = request.kid, request.piv
    used = twist.nonce or nonce(group.iv, generator, piv, algorithm.nonce)
    secret = twist.key or (group.key(by.id) if to is None else group.pairwise_key(by, to))
    shows_gid = request is None or with_gid
    option = twist.option(
        option_value(own, group.gid if shows_gid else None, by.id if with_kid else None, group=to is None)
    )
    bound = request or Request(by.id, piv, group.gid)
    external = twist.external_aad(
        [
            1,
            [group.aead, group.encryption, group.signature, group.agreement],
            bound.kid,
            bound.piv,
            b"",
            bound.gid,
            option,
            by.credential.bound,
            group.manager.bound,
        ]
    )
    external_aad = cbor2.dumps(external)
    aad = cbor2.dumps(["Encrypt0", b"", external_aad])
    ciphertext = twist.ciphertext(algorithm.make(secret, used, plaintext, aad))
    fields = {
        "plaintext": plaintext.hex(),
        "external_aad": external_aad.hex(),
        "aad": aad.hex(),
        "nonce": used.hex(),
        "option": option.hex(),
    }
    payload = ciphertext
    if to is None:
        protected = [b""] if group.sign_protected else []
        structure = twist.structure(["CounterSignature0", b"", *protected, external_aad, ciphertext])
        to_be_signed = cbor2.dumps(structure)
        signature = (twist.signer or by.key).sign(to_be_signed)
        keystream = twist.keystream or group.keystream(piv, generator, request=request is None)
        encrypted = bytes(a ^ b for a, b in zip(signature, keystream, strict=True))
        payload += twist.signature(encrypted)
        fields |= {
            "to_be_signed": to_be_signed.hex(),
            "countersignature": signature.hex(),
            "keystream": keystream.hex(),
        }
    options = (*outer, (OSCORE, option), *twist.outer)
    sent = replace(message, code=code if twist.code is None else twist.code, options=options, payload=payload)
    return Made(sent, fields)


# ---- vectors


class File:
    """The vectors of one file."""

    def __init__(self, name: str) -> None:
        self.name = f"{PREFIX}{name}.json"
        self.vectors: list[Json] = []

    def accept(self, name: str, kind: str, given: Json, output: Json) -> None:
        self.vectors.append({"name": PREFIX + name, "kind": kind, "input": given, "output": output})

    def reject(self, name: str, kind: str, given: Json, fails: str, why: str) -> None:
        self.vectors.append({"name": PREFIX + name, "kind": kind, "input": given, "fails": fails, "reject": why})

    def write(self, directory: Path) -> None:
        content = {"format": "groupcoap-vectors-1", "profile": "group-oscore"}
        head = json.dumps(content)[:-1]
        body = ",\n".join(json.dumps(vector, indent=1) for vector in self.vectors)
        (directory / self.name).write_text(f'{head}, "vectors": [\n{body}\n]}}\n', "utf-8")


CLIENT = member("client", "01")
SERVER = member("server", "52")
OTHER = member("other", "53")
GROUP = Group()
UNICAST = "2001:db8::52"
READ = Message(GET, ((PATH, b"light"),))
WRITE = Message(PUT, ((PATH, b"light"), (12, b"")), b"on")
ANSWER = Message(CONTENT, (), b"on", token=READ.token)
GROUPS_OF_ALL: dict[str, Group] = {
    **{f"aead-{number}": Group(number, number) for number in AEADS},
    **{f"ctr-{-number}": Group(10, number) for number in COUNTERS},
    "aead-10-group-24": Group(10, 24),
    "aead-24-group-10": Group(24, 10),
    "aead-12-group-10": Group(12, 10),
    "aead-10-group-33": Group(10, 33),
    "aead-none": Group(None, 10, agreement=None),
    "aead-none-ctr": Group(None, -65534, agreement=None),
    "sha384": Group(kdf="sha384", agreement=None),
    "sha512": Group(kdf="sha512", agreement=-28),
    "without-master-salt": Group(salt=b""),
    "long-gid": Group(gid=seed("gid", 32)),
    "gid-of-one-byte": Group(gid=b"\0"),
}


def derive_file() -> File:
    file = File("derive")

    def add(name: str, group: Group, who: Member = CLIENT, others: Iterable[Member] = (SERVER, OTHER)) -> None:
        known = list(others)
        ids = [who.id, *(other.id for other in known)]
        given: Json = {"common": group.json, "ids": [one.hex() for one in ids]}
        output: Json = {
            "common_iv": group.iv.hex(),
            "keys": {one.hex(): group.key(one).hex() for one in ids},
            "signature_encryption_key": group.signature_encryption_key.hex(),
        }
        if group.aead is not None and group.agreement is not None:
            given |= {"sender": who.own, "recipients": recipients(*known)}
            output["pairwise_keys"] = {
                other.id.hex(): {
                    "sender_key": group.pairwise_key(who, other).hex(),
                    "recipient_key": group.pairwise_key(other, who).hex(),
                }
                for other in known
            }
        file.accept(f"derive-{name}", "derive", given, output)

    for name, group in GROUPS_OF_ALL.items():
        add(name, group)
    add("empty-id", GROUP, member("client", ""), [member("server", "01020304050607")])
    for signature, name in ((ES256, "es256"), (ES384, "es384")):
        client, server = member("client", "01", signature), member("server", "52", signature)
        add(name, Group(signature=signature), client, [server])
        add(f"{name}-sha512", Group(signature=signature, kdf="sha512", agreement=-28), client, [server])
    for name, make in CREDENTIALS.items():
        add(f"credential-{name}", GROUP, CLIENT, [member("server", "52", EDDSA, make)])
    compressed = member("server", "52", ES256, lambda of, who: ccs(of, who, compressed=True))
    add("credential-compressed-point", Group(signature=ES256), member("client", "01", ES256), [compressed])
    return file


CREDENTIALS: dict[str, Callable[[Key, str], Credential]] = {
    "ccs-tagged": lambda of, name: ccs(of, name, tagged=True),
    "cwt": cwt,
    "cwt-tagged-18": lambda of, name: cwt(of, name, tags=b"\xd2"),
    "cwt-tagged-61-18": lambda of, name: cwt(of, name, tags=b"\xd8\x3d\xd2"),
    "x509": certificate,
}


def nonce_file() -> File:
    file = File("nonce")
    iv = seed("common iv", 13)
    cases = {
        "example-of-the-text": (12, bytes.fromhex("00112233445566778899aabbcc"), b"", b"\0"),
        "aes-ccm-13-bytes": (10, iv, b"\x01", b"\x05"),
        "empty-id": (10, iv, b"", b"\x05"),
        "longest-id": (10, iv, seed("id", 7), b"\x05"),
        "partial-iv-of-5-bytes": (10, iv, b"\x52", b"\xff\xff\xff\xff\xff"),
        "12-of-13-bytes-chacha20": (24, iv, b"\x52", b"\x01\x00"),
        "12-of-13-bytes-counter-mode": (-65534, iv, b"\x52", b"\x01\x00"),
        "7-of-13-bytes": (12, iv, b"\x52", b"\x01\x00\x00"),
        "7-of-7-bytes": (32, iv[:7], b"", b"\x01"),
    }
    for name, (number, common_iv, endpoint_id, piv) in cases.items():
        given = {
            "algorithm": number,
            "common_iv": common_iv.hex(),
            "id": endpoint_id.hex(),
            "partial_iv": piv.hex(),
        }
        made = nonce(common_iv, endpoint_id, piv, ENCRYPTION[number].nonce)
        file.accept(f"nonce-{name}", "nonce", given, {"nonce": made.hex()})
    return file


def option_file() -> File:
    file = File("option")
    gid = bytes.fromhex("44616c")
    cases: dict[str, tuple[str, bytes | None, bytes | None, bytes | None, bool]] = {
        "request-group": ("request", b"\x05", gid, b"\x25", True),
        "request-pairwise": ("request", b"\x05", gid, b"\x25", False),
        "request-empty-kid": ("request", b"\x00", gid, b"", True),
        "request-partial-iv-of-5-bytes": ("request", b"\xff" * 5, seed("gid", 32), seed("id", 7), False),
        "response-group": ("response", None, None, b"\x52", True),
        "response-group-with-partial-iv": ("response", b"\x01\x00", None, b"\x52", True),
        "response-group-with-gid": ("response", b"\x01\x00", gid, b"\x52", True),
        "response-group-without-kid": ("response", None, None, None, True),
        "response-pairwise-empty": ("response", None, None, None, False),
        "response-pairwise-with-partial-iv": ("response", b"\x07", None, None, False),
        "response-pairwise-with-all": ("response", b"\x07", gid, b"\x52", False),
        "response-pairwise-with-gid": ("response", b"\x07", gid, None, False),
        "response-pairwise-empty-kid": ("response", None, None, b"", False),
    }
    for name, (kind, piv, of, kid, grouped) in cases.items():
        value = option_value(piv, of, kid, group=grouped)
        fields = {"partial_iv": piv, "gid": of, "kid": kid}
        output: Json = {field: None if data is None else data.hex() for field, data in fields.items()}
        given = {"value": value.hex(), "message": kind}
        file.accept(f"option-{name}", "option", given, {**output, "mode": "group" if grouped else "pairwise"})
    return file


def messages_file() -> File:
    file = File("messages")

    def add_request(
        name: str,
        group: Group,
        message: Message,
        *,
        by: Member = CLIENT,
        to: Member = SERVER,
        number: int = 0,
        mode: str = "group",
        destination: str | None = None,
        seen: Message | None = None,
        deterministic: bool = True,
    ) -> None:
        """`seen`: the message that is delivered, where it differs."""
        alone = to if mode == "pairwise" else None
        made = protect(group, by, message, to=alone, number=number)
        given: Json = {
            "common": group.json,
            "mode": mode,
            "sender": by.sender(number),
            "message": message.data.hex(),
        }
        if alone is not None:
            given |= {"to": to.id.hex(), "recipients": recipients(to)}
        if deterministic:
            file.accept(f"protect-request-{name}", "protect_request", given, made.output)
        where = destination or (group.address if mode == "group" else UNICAST)
        file.accept(
            f"verify-request-{name}",
            "verify_request",
            {
                "common": group.json,
                "sender": to.own,
                "recipients": recipients(by),
                "destination": where,
                "message": made.message.data.hex(),
            },
            {
                "message": (seen or message).data.hex(),
                "sender_id": by.id.hex(),
                "sequence_number": number,
                "mode": mode,
            },
        )

    for name, group in GROUPS_OF_ALL.items():
        add_request(f"group-{name}", group, READ, number=5)
        if group.agreement is not None:
            add_request(f"pairwise-{name}", group, WRITE, number=0x10000, mode="pairwise")
    other_form = replace(GROUP, sign_protected=False)
    add_request("group-without-sign-protected", other_form, WRITE)
    registration = Message(GET, ((OBSERVE, b""), (PATH, b"light")))
    cancellation = Message(GET, ((OBSERVE, b"\x01"), (PATH, b"light")))
    for mode in ("group", "pairwise"):
        add_request(f"{mode}-observe", GROUP, registration, mode=mode)
        add_request(f"{mode}-observe-ends", GROUP, cancellation, mode=mode, number=1)
        proxied = Message(
            GET, ((URI_HOST, b"room"), (PATH, b"light"), (HOP_LIMIT, b"\x10"), (PROXY_SCHEME, b"coap"))
        )
        add_request(f"{mode}-through-a-proxy", GROUP, proxied, mode=mode)
        confirmable = replace(READ, kind=CON)
        add_request(f"{mode}-confirmable", GROUP, confirmable, mode=mode, destination=UNICAST)
    add_request("group-by-unicast", GROUP, READ, destination=UNICAST)
    add_request(
        "pairwise-echo", GROUP, Message(PUT, ((PATH, b"light"), (ECHO, b"\x07" * 8)), b"on"), mode="pairwise"
    )
    add_request("group-last-number", GROUP, READ, number=2**40 - 1)
    add_request("group-empty-id", GROUP, READ, by=member("client", ""))
    add_request("pairwise-empty-id", GROUP, READ, by=member("client", ""), mode="pairwise")
    add_request("pairwise-id-of-7-bytes", GROUP, READ, by=member("client", "01020304050607"), mode="pairwise")
    add_request(
        "pairwise-one-side-is-x509", GROUP, READ, to=member("server", "52", EDDSA, certificate), mode="pairwise"
    )
    for name, make in CREDENTIALS.items():
        for mode in ("group", "pairwise"):
            add_request(f"{mode}-credential-{name}", GROUP, READ, by=member("client", "01", EDDSA, make), mode=mode)
    for name, make in CREDENTIALS.items():
        group = replace(GROUP, manager=make(key("manager"), "manager"))
        add_request(f"group-manager-credential-{name}", group, READ)
    for signature, name in ((ES256, "es256"), (ES384, "es384")):
        client, server = member("client", "01", signature), member("server", "52", signature)
        group = Group(signature=signature)
        for variant in (group, Group(signature=signature, encryption=-65534)):
            label = f"group-{name}" + ("-ctr" if variant.encryption < 0 else "")
            add_request(label, variant, READ, by=client, to=server, deterministic=False)
        add_request(f"pairwise-{name}", group, WRITE, by=client, to=server, mode="pairwise")
        certified = member("client", "01", signature, certificate)
        add_request(f"group-{name}-x509", group, READ, by=certified, to=server, deterministic=False)
        compressed = member("client", "01", signature, lambda of, who: ccs(of, who, compressed=True))
        add_request(f"group-{name}-compressed-point", group, READ, by=compressed, to=server, deterministic=False)
        add_request(f"pairwise-{name}-compressed-point", group, READ, by=compressed, to=server, mode="pairwise")

    def add_response(
        name: str,
        group: Group,
        message: Message,
        request: Request,
        *,
        by: Member = SERVER,
        to: Member = CLIENT,
        mode: str = "group",
        number: int | None = None,
        with_gid: bool = False,
        with_kid: bool = True,
        can_protect: bool = True,
        seen: Message | None = None,
    ) -> None:
        alone = to if mode == "pairwise" else None
        made = protect(
            group, by, message, to=alone, number=number, request=request, with_gid=with_gid, with_kid=with_kid
        )
        given = {
            "common": group.json,
            "mode": mode,
            "sender": by.sender(number or 0),
            "recipients": recipients(to),
            "request": request.json,
            "fresh_partial_iv": number is not None,
            "include_gid": with_gid,
            "include_kid": with_kid,
            "message": message.data.hex(),
        }
        if can_protect:
            file.accept(f"protect-response-{name}", "protect_response", given, made.output)
        given = {
            "common": group.json,
            "sender": to.own,
            "recipients": recipients(by),
            "request": request.json,
            "message": made.message.data.hex(),
        }
        output = {"message": (seen or message).data.hex(), "sender_id": by.id.hex(), "mode": mode}
        file.accept(f"verify-response-{name}", "verify_response", given, output)

    to_group = Request(CLIENT.id, b"\x14", GROUP.gid)
    to_one = Request(CLIENT.id, b"\x14", GROUP.gid, SERVER.id)
    for name in (
        "aead-10",
        "aead-24",
        "aead-12",
        "ctr-65534",
        "aead-10-group-24",
        "aead-24-group-10",
        "aead-12-group-10",
    ):
        group = GROUPS_OF_ALL[name]
        for asked, request in (("group", to_group), ("pairwise", to_one)):
            for mode in ("group", "pairwise"):
                short = request is to_one and mode == "pairwise"
                label = f"{asked}-{mode}-{name}"
                add_response(label, group, ANSWER, request, mode=mode, with_kid=not short)
                add_response(
                    f"{label}-partial-iv", group, ANSWER, request, mode=mode, number=300, with_kid=not short
                )
    for name in ("sha384", "sha512", "aead-none", "aead-none-ctr", "ctr-65533", "ctr-65532", "without-master-salt"):
        add_response(f"group-group-{name}", GROUPS_OF_ALL[name], ANSWER, to_group)
    add_response("group-group-without-sign-protected", other_form, ANSWER, to_group)
    add_response("group-group-with-gid", GROUP, ANSWER, to_group, with_gid=True)
    add_response("group-pairwise-with-gid", GROUP, ANSWER, to_group, mode="pairwise", number=0, with_gid=True)
    add_response("pairwise-pairwise-with-gid", GROUP, ANSWER, to_one, mode="pairwise", with_gid=True)
    add_response("pairwise-pairwise-with-kid", GROUP, ANSWER, to_one, mode="pairwise", can_protect=False)
    add_response("pairwise-group-without-kid", GROUP, ANSWER, to_one, with_kid=False, can_protect=False)
    add_response(
        "pairwise-group-without-kid-partial-iv", GROUP, ANSWER, to_one, number=7, with_kid=False, can_protect=False
    )
    for asked, request in (("group", to_group), ("pairwise", to_one)):
        observing = replace(request, observe=True)
        notification = Message(CONTENT, ((OBSERVE, b"\x2c"),), b"on")
        delivered = Message(CONTENT, ((OBSERVE, b""),), b"on")
        short = request is to_one
        add_response(f"{asked}-group-notification", GROUP, notification, observing, number=44, seen=delivered)
        add_response(
            f"{asked}-pairwise-notification",
            GROUP,
            notification,
            observing,
            mode="pairwise",
            number=44,
            with_kid=not short,
            seen=delivered,
        )
    first = Message(CONTENT, ((OBSERVE, b"\x01"),), b"on")
    delivered = Message(CONTENT, ((OBSERVE, b""),), b"on")
    observing = replace(to_group, observe=True)
    add_response(
        "first-notification-without-partial-iv", GROUP, first, observing, seen=delivered, can_protect=False
    )
    challenge = Message(UNAUTHORIZED, ((ECHO, bytes(range(8))),))
    add_response("group-group-challenge", GROUP, challenge, to_group, number=9)
    add_response("group-pairwise-challenge", GROUP, challenge, to_group, number=9, mode="pairwise")

    renewed = replace(GROUP, gid=bytes.fromhex("0b9c7d2e1f01"), secret=seed("renewed secret", 16))
    for asked, request in (("group", to_group), ("pairwise", to_one)):
        for mode in ("group", "pairwise"):
            label = f"{asked}-{mode}-renewed-gid"
            add_response(label, renewed, ANSWER, request, mode=mode, number=0, with_gid=True)
    add_response("group-group-renewed-gid-not-shown", renewed, ANSWER, to_group, number=1, can_protect=False)
    for signature, name in ((ES256, "es256"), (ES384, "es384")):
        client, server = member("client", "01", signature), member("server", "52", signature)
        group = Group(signature=signature)
        add_response(f"group-group-{name}", group, ANSWER, to_group, by=server, to=client, can_protect=False)
        add_response(
            f"pairwise-pairwise-{name}",
            group,
            ANSWER,
            to_one,
            by=server,
            to=client,
            mode="pairwise",
            with_kid=False,
        )
        add_response(
            f"group-pairwise-{name}", group, ANSWER, to_group, by=server, to=client, mode="pairwise", number=3
        )
    return file


def sequences_file() -> File:
    file = File("sequences")

    def add(
        name: str,
        group: Group,
        messages: list[tuple[str, Made]],
        outcomes: list[str],
        *,
        method: str = "best-effort",
        echo_values: Iterable[bytes] = (),
    ) -> None:
        given = {
            "common": group.json,
            "sender": SERVER.own,
            "recipients": recipients(CLIENT, OTHER),
            "synchronization": method,
            "echo_values": [value.hex() for value in echo_values],
            "messages": [
                {"destination": destination, "message": made.message.data.hex()} for destination, made in messages
            ],
        }
        file.accept(f"sequence-{name}", "sequence", given, {"outcomes": outcomes})

    counter = Group(10, -65534)
    for label, group in (("aead", GROUP), ("ctr", counter)):

        def grouped(number: int, by: Member = CLIENT, group: Group = group) -> tuple[str, Made]:
            return group.address, protect(group, by, READ, number=number)

        def alone(
            number: int, options: tuple[tuple[int, bytes], ...] = (), by: Member = CLIENT, group: Group = group
        ) -> tuple[str, Made]:
            message = replace(WRITE, options=(*WRITE.options, *options))
            return UNICAST, protect(group, by, message, to=SERVER, number=number)

        add(
            f"{label}-one-window-for-both-modes",
            group,
            [grouped(3), alone(3), alone(4), grouped(4), grouped(2), alone(2), grouped(40), grouped(8), alone(7)],
            ["deliver", "reject", "deliver", "reject", "deliver", "reject", "deliver", "reject", "reject"],
        )
        add(
            f"{label}-a-window-for-each-sender",
            group,
            [grouped(1), grouped(1, OTHER), alone(1, by=OTHER), grouped(2, OTHER)],
            ["deliver", "deliver", "reject", "deliver"],
        )
        one, two = bytes(8), bytes(7) + b"\x01"
        add(
            f"{label}-challenge-then-echo",
            group,
            [
                grouped(10),
                alone(11, ((ECHO, one),)),
                alone(11, ((ECHO, one),)),
                grouped(12),
                grouped(10),
                alone(13),
            ],
            ["challenge", "deliver", "reject", "deliver", "reject", "deliver"],
            method="challenge-response",
            echo_values=[one, two],
        )
        add(
            f"{label}-challenge-in-pairwise-mode",
            group,
            [alone(0), alone(1, ((ECHO, one),)), alone(2)],
            ["challenge", "deliver", "deliver"],
            method="challenge-response",
            echo_values=[one, two],
        )
        forged = group.address, protect(group, CLIENT, READ, number=50, twist=Twist(signer=OTHER.key))
        add(
            f"{label}-what-is-forged-moves-no-window",
            group,
            [grouped(1), forged, grouped(2), grouped(50)],
            ["deliver", "reject", "deliver", "deliver"],
        )
    return file


# ---- what must be refused

MALFORMED, CONTEXT, CRYPTOGRAPHY, COUNTERSIGNATURE, BINDING, MISUSE = (
    "malformed",
    "context",
    "cryptography",
    "countersignature",
    "binding",
    "misuse",
)


def flipped(data: bytes, at: int, bit: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= bit
    return bytes(changed)


def rejects_file() -> File:
    file = File("rejects")
    reject_options(file)
    reject_requests(file)
    reject_responses(file)
    reject_misuse(file)
    return file


def reject_options(file: File) -> None:
    good = option_value(b"\x05", GROUP.gid, b"\x25", group=True)
    cases = {
        "reserved-bit-6": ("request", bytes([good[0] | 0x40]) + good[1:], "reserved bit set"),
        "reserved-bit-7": ("request", bytes([good[0] | 0x80]) + good[1:], "reserved bit set (extended flags)"),
        "partial-iv-of-6-bytes": ("request", b"\x3e" + bytes([1] * 6) + good[2:], "reserved Partial IV length"),
        "partial-iv-of-7-bytes": ("request", b"\x3f" + bytes([1] * 7) + good[2:], "reserved Partial IV length"),
        "partial-iv-leading-zero": ("request", b"\x3a\x00\x05" + good[2:], "Partial IV with a leading zero"),
        "partial-iv-cut-short": ("request", b"\x3d\x01\x02", "cut short"),
        "gid-cut-short": ("request", b"\x39\x05\x07" + GROUP.gid, "cut short"),
        "gid-length-missing": ("request", b"\x39\x05", "cut short"),
        "one-zero-byte": ("response", b"\x00", "an all-zero flag byte means an empty value"),
        "too-long": ("request", good + bytes(256 - len(good)), "more than 255 bytes"),
        "request-without-kid": ("request", b"\x31\x05\x06" + GROUP.gid, "request without kid"),
        "request-without-gid": ("request", b"\x29\x05\x25", "request without Gid"),
        "request-without-partial-iv": ("request", b"\x38\x06" + GROUP.gid + b"\x25", "request without Partial IV"),
        "request-empty": ("request", b"", "request without anything"),
        "response-bytes-without-kid": ("response", b"\x21\x05\x52", "bytes left over without the kid flag"),
        "response-reserved-bit-6": ("response", b"\x68\x52", "reserved bit set"),
    }
    for name, (kind, value, why) in cases.items():
        file.reject(f"option-{name}", "option", {"value": value.hex(), "message": kind}, MALFORMED, why)


Change = Callable[[Message], Message]


def option(change: Callable[[bytes], bytes]) -> Change:
    """Changes the OSCORE option of a protected message."""

    def changed(sent: Message) -> Message:
        return replace(
            sent, options=tuple((n, change(value) if n == OSCORE else value) for n, value in sent.options)
        )

    return changed


def payload(change: Callable[[bytes], bytes]) -> Change:
    """Changes its payload."""
    return lambda sent: replace(sent, payload=change(sent.payload))


def inside(change: Callable[[bytes], bytes]) -> Twist:
    return Twist(plaintext=change)


COUNTER = Group(10, -65534)
EITHER = "decryption or countersignature verification fails"
STRUCTURES: dict[str, Callable[[list[Any]], list[Any]]] = {
    "countersignature-version-1": lambda s: ["CounterSignature", *s[1:]],
    "signature1": lambda s: ["Signature1", *s[1:]],
    "of-a-full-countersignature": lambda s: ["CounterSignatureV2", *s[1:], [b""]],
    "sign-protected-not-empty": lambda s: [s[0], s[1], b"\xa0", *s[3:]],
    "without-external-aad": lambda s: [*s[:3], b"", s[4]],
    "without-ciphertext": lambda s: [*s[:4], b""],
}
EXTERNAL_AADS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "of-rfc-8613": lambda a: [1, [10], *a[2:5]],
    "without-group-encryption": lambda a: [1, [a[1][0], None, *a[1][2:]], *a[2:]],
    "without-key-agreement": lambda a: [1, [*a[1][:3], None], *a[2:]],
    "without-gid": lambda a: [*a[:5], b"", *a[6:]],
    "without-the-option": lambda a: [*a[:6], b"", *a[7:]],
    "without-senders-credential": lambda a: [*a[:7], b"", a[8]],
    "without-managers-credential": lambda a: [*a[:8], b""],
    "with-credentials-swapped": lambda a: [*a[:7], a[8], a[7]],
    "with-class-i-options": lambda a: [*a[:4], b"\xb5light", *a[5:]],
    "of-another-version": lambda a: [2, *a[1:]],
}


def reject_requests(file: File) -> None:
    def add(
        label: str,
        name: str,
        fails: str,
        why: str,
        *,
        group: Group = GROUP,
        at: Group | None = None,
        by: Member = CLIENT,
        to: Member | None = None,
        listener: Member = SERVER,
        known: Json | None = None,
        destination: str | None = None,
        message: Message = READ,
        twist: Twist = AS_SPECIFIED,
        change: Change | None = None,
    ) -> None:
        """`at`: the group as the listener has it. `change`: after protection."""
        made = protect(group, by, message, to=to, number=5, twist=twist).message
        sent = made if change is None else change(made)
        given = {
            "common": (at or group).json,
            "sender": listener.own,
            "recipients": recipients(CLIENT, OTHER) if known is None else known,
            "destination": destination or (GROUP.address if to is None else UNICAST),
            "message": sent.data.hex(),
        }
        file.reject(f"request-{label}-{name}", "verify_request", given, fails, why)

    for label, group in (("group", GROUP), ("ctr", COUNTER)):
        reject_group_requests(partial(add, label, group=group), group)
    for name, aad in EXTERNAL_AADS.items():
        twist = Twist(external_aad=aad)
        add("group", f"aad-{name}", CRYPTOGRAPHY, "another external_aad", twist=twist)
        add("pairwise", f"aad-{name}", CRYPTOGRAPHY, "another external_aad", to=SERVER, twist=twist)
        add("ctr", f"aad-{name}", COUNTERSIGNATURE, "another external_aad", group=COUNTER, twist=twist)
    for label, to in (("group", None), ("pairwise", SERVER)):
        reject_parameters(partial(add, label), to)
    elsewhere = "ff35:30:2001:db8::99"
    add("group", "other-address", CONTEXT, "no Security Context for this address", destination=elsewhere)
    reject_pairwise_requests(partial(add, "pairwise", to=SERVER))
    add("pairwise", "for-another-member", CRYPTOGRAPHY, "decryption fails", to=OTHER)


def reject_group_requests(add: Callable[..., None], group: Group) -> None:
    add("first-bit", CRYPTOGRAPHY, EITHER, change=payload(lambda p: flipped(p, 0)))
    add("partial-iv-replaced", CRYPTOGRAPHY, EITHER, change=option(lambda o: flipped(o, 1, 2)))
    add("kid-replaced", CRYPTOGRAPHY, EITHER, change=option(lambda o: o[:-1] + OTHER.id))

    why = "the countersignature is wrong"
    add("last-bit", COUNTERSIGNATURE, why, change=payload(lambda p: flipped(p, -1)))
    add("first-bit-of-the-signature", COUNTERSIGNATURE, why, change=payload(lambda p: flipped(p, -64)))
    why = "an insider cannot sign for others"
    add("signed-by-another-member", COUNTERSIGNATURE, why, twist=Twist(signer=OTHER.key))
    why = "the countersignature is not encrypted"
    add("signature-in-clear", COUNTERSIGNATURE, why, twist=Twist(keystream=bytes(64)))
    keystreams = {
        "of-a-response": group.keystream(b"\x05", CLIENT.id, request=False),
        "of-another-number": group.keystream(b"\x06", CLIENT.id, request=True),
        "of-another-sender": group.keystream(b"\x05", OTHER.id, request=True),
        "of-another-gid": replace(group, gid=b"\x01").keystream(b"\x05", CLIENT.id, request=True),
    }
    for name, stream in keystreams.items():
        why = "encrypted with another keystream"
        add(f"keystream-{name}", COUNTERSIGNATURE, why, twist=Twist(keystream=stream))
    for name, change in STRUCTURES.items():
        why = "countersignature over another structure"
        add(f"signed-{name}", COUNTERSIGNATURE, why, twist=Twist(structure=change))

    why = "taken for pairwise mode, whose key is another"
    flag = option(lambda o: flipped(o, 0, 0x20))
    add("group-flag-cleared", CRYPTOGRAPHY, why, destination=UNICAST, change=flag)

    add("nothing-but-tag-and-signature", MALFORMED, "no ciphertext", twist=inside(lambda p: b""))
    add("payload-of-signature-length", MALFORMED, "no ciphertext", change=payload(lambda p: p[-64:]))
    response, why = bytes([CONTENT]), "a response inside a request"
    add("code-of-a-response-inside", MALFORMED, why, twist=inside(lambda p: response + p[1:]))
    add("code-empty-inside", MALFORMED, "an empty message inside", twist=inside(lambda p: b"\0"))
    add("options-cut-short-inside", MALFORMED, "malformed options inside", twist=inside(lambda p: p[:-1]))
    why = "payload marker without payload"
    add("payload-marker-alone-inside", MALFORMED, why, twist=inside(lambda p: p + b"\xff"))


def reject_parameters(add: Callable[..., None], to: Member | None) -> None:
    """What does not go together with what the listener has."""
    others = {
        "other-master-salt": replace(GROUP, salt=b""),
        "other-master-secret": replace(GROUP, secret=bytes(16)),
        "other-manager": replace(GROUP, manager=ccs(key("manager"), "another name")),
        "other-kdf": replace(GROUP, kdf="sha512", agreement=-28),
    }
    if to is None:  # bound, though they are of the other mode
        others["other-aead-of-pairwise-mode"] = replace(GROUP, aead=30)
        others["no-pairwise-mode"] = replace(GROUP, agreement=None)
    for name, at in others.items():
        add(f"{name}-at-the-listener", CRYPTOGRAPHY, "other parameters", to=to, at=at)
    renamed = recipients(replace(CLIENT, credential=ccs(CLIENT.key, "another name")))
    why = "the same key in a credential of other bytes"
    add("other-bytes-of-the-credential", CRYPTOGRAPHY, why, to=to, known=renamed)
    elsewhere = replace(GROUP, gid=b"\x01\x02")
    add("other-gid", CONTEXT, "no Security Context with this Gid", to=to, at=elsewhere)
    add("unknown-sender", CONTEXT, "no credential for this kid", to=to, known=recipients(OTHER))
    why, known = "a message of one's own, reflected", recipients(OTHER)
    add("own-kid", CONTEXT, why, to=OTHER if to else None, listener=CLIENT, known=known)

    def twice(sent: Message) -> Message:
        return replace(sent, options=(*sent.options, (OSCORE, b"\x01")))

    add("option-twice", MALFORMED, "two OSCORE options", to=to, change=twice)
    add("code-of-a-response-outside", MALFORMED, "not a request", to=to, twist=Twist(code=CHANGED))
    add("no-payload", MALFORMED, "no ciphertext", to=to, change=payload(lambda p: b""))


def reject_pairwise_requests(add: Callable[..., None]) -> None:
    why = "decryption fails"
    add("first-bit", CRYPTOGRAPHY, why, change=payload(lambda p: flipped(p, 0)))
    add("last-bit", CRYPTOGRAPHY, why, change=payload(lambda p: flipped(p, -1)))
    add("partial-iv-replaced", CRYPTOGRAPHY, why, change=option(lambda o: flipped(o, 1, 2)))
    add("kid-replaced", CRYPTOGRAPHY, why, change=option(lambda o: o[:-1] + OTHER.id))
    add("nothing-but-a-tag", MALFORMED, "no ciphertext", twist=inside(lambda p: b""))
    response = bytes([CONTENT])
    add("code-of-a-response-inside", MALFORMED, "a response inside a request", twist=inside(lambda p: response))
    long, why = replace(WRITE, payload=bytes(200)), "taken for group mode, whose key is another"
    add("group-flag-set", CRYPTOGRAPHY, why, message=long, change=option(lambda o: flipped(o, 0, 0x20)))

    why = "an insider has the Sender Key only"
    add("with-the-group-key", CRYPTOGRAPHY, why, twist=Twist(key=GROUP.key(CLIENT.id)))
    shared, info = CLIENT.key.agree(SERVER.key), [CLIENT.id, GROUP.gid, 10, "Key", 16]
    mine, yours, salt = CLIENT.credential.bound, SERVER.credential.bound, GROUP.key(CLIENT.id)
    keys = {
        "credentials-swapped": GROUP.hkdf(salt, yours + mine + shared, info, 16),
        "no-credentials": GROUP.hkdf(salt, shared, info, 16),
        "master-salt": GROUP.hkdf(GROUP.salt, mine + yours + shared, info, 16),
        "no-shared-secret": GROUP.hkdf(salt, mine + yours, info, 16),
        "the-other-direction": GROUP.pairwise_key(SERVER, CLIENT),
        "another-member": GROUP.pairwise_key(OTHER, SERVER),
    }
    for name, secret in keys.items():
        add(f"key-of-{name}", CRYPTOGRAPHY, "derived otherwise", twist=Twist(key=secret))
    mixed = Group(24, 10)  # nonces of 12 bytes in pairwise mode, from a Common IV of 13
    end, why = nonce(mixed.iv[1:], CLIENT.id, b"\x05", 12), "the nonce takes the start of the Common IV"
    add("nonce-from-the-end-of-the-iv", CRYPTOGRAPHY, why, group=mixed, twist=Twist(nonce=end))

    why = "the group has no pairwise mode"
    add("where-it-is-not-used", CONTEXT, why, at=Group(None, 10, agreement=None))
    add("without-key-agreement", CONTEXT, why, at=replace(GROUP, agreement=None))
    for name, y in (("y-is-1", 1), ("y-is-minus-1", 2**255 - 20)):
        claims = {2: "small", 8: {1: {1: 1, 3: EDDSA, -1: 6, -2: y.to_bytes(32, "little")}}}
        known = {"01": {"credential": {"kind": "ccs", "data": cbor2.dumps(claims).hex()}}}
        why = "no secret can be agreed on with such a key"
        add(name, CONTEXT, why, by=member("small", "01"), known=known)


def reject_responses(file: File) -> None:
    to_group = Request(CLIENT.id, b"\x14", GROUP.gid)
    to_one = Request(CLIENT.id, b"\x14", GROUP.gid, SERVER.id)

    def add(
        label: str,
        name: str,
        fails: str,
        why: str,
        *,
        group: Group = GROUP,
        at: Group | None = None,
        asked: Request = to_group,
        answers: Request | None = None,
        change: Change | None = None,
        by: Member = SERVER,
        message: Message = ANSWER,
        number: int | None = None,
        **how: Any,
    ) -> None:
        """`asked`: the request as the client sent it, `answers`: as the server binds its answer to it."""
        made = protect(group, by, message, number=number, request=answers or asked, **how).message
        sent = made if change is None else change(made)
        given = {
            "common": (at or group).json,
            "sender": CLIENT.own,
            "recipients": recipients(SERVER, OTHER),
            "request": asked.json,
            "message": sent.data.hex(),
        }
        file.reject(f"response-{label}-{name}", "verify_response", given, fails, why)

    for label, group in (("group", GROUP), ("ctr", COUNTER)):
        reject_group_responses(partial(add, label, group=group), group, to_group)
    reject_who_answers(add, to_one)

    mine = partial(add, "group")
    mine("without-kid", MALFORMED, "no kid in an answer to the group", with_kid=False)
    mine("own-kid", CONTEXT, "an answer of one's own, reflected", by=CLIENT, number=0)
    mine("nothing-but-tag-and-signature", MALFORMED, "no ciphertext", twist=inside(lambda p: b""))
    mine("no-payload", MALFORMED, "no ciphertext", change=payload(lambda p: b""))
    why = "an all-zero flag byte means an empty value"
    mine("option-one-zero-byte", MALFORMED, why, change=option(lambda o: b"\0"))
    mine("empty-option", MALFORMED, "no kid in an answer to the group", change=option(lambda o: b""))
    notification = Message(CONTENT, ((OBSERVE, b"\x2c"),), b"on")
    why = "a notification without an observation"
    mine("notification-not-asked-for", BINDING, why, message=notification, number=44)
    other, why = replace(GROUP, gid=b"\x09"), "no Security Context with this Gid"
    mine("gid-of-another-group", CONTEXT, why, group=other, at=GROUP, number=0, with_gid=True)

    renewed = replace(GROUP, gid=bytes.fromhex("0b9c7d2e1f01"), secret=seed("renewed secret", 16))
    after = partial(add, "renewed-gid", group=renewed, with_gid=True)
    after("without-partial-iv", BINDING, "the request's nonce is of the Gid before")
    answers, why = replace(to_group, gid=renewed.gid), "request_kid_context is the request's"
    after("bound-to-the-new-gid", CRYPTOGRAPHY, why, answers=answers, number=0)
    stream = replace(renewed, gid=GROUP.gid).keystream(b"\0", SERVER.id, request=False)
    why = "id_context is the Gid that the response is protected under"
    after("keystream-of-the-gid-before", COUNTERSIGNATURE, why, number=0, twist=Twist(keystream=stream))


def reject_group_responses(add: Callable[..., None], group: Group, asked: Request) -> None:
    add("first-bit", CRYPTOGRAPHY, EITHER, change=payload(lambda p: flipped(p, 0)))
    why = "the countersignature is wrong"
    add("last-bit", COUNTERSIGNATURE, why, change=payload(lambda p: flipped(p, -1)))
    why = "an insider cannot sign for others"
    add("signed-by-another-member", COUNTERSIGNATURE, why, twist=Twist(signer=OTHER.key))
    others = {
        "partial-iv": replace(asked, piv=b"\x15"),
        "kid": replace(asked, kid=OTHER.id),
        "gid": replace(asked, gid=b"\x01"),
    }
    for name, answers in others.items():
        add(f"to-another-{name}", CRYPTOGRAPHY, "bound to another request", answers=answers, number=0)
    keystreams = {
        "of-a-request": group.keystream(b"\x07", SERVER.id, request=True),
        "of-the-requester": group.keystream(b"\x07", CLIENT.id, request=False),
        "of-the-requests-number": group.keystream(b"\x14", SERVER.id, request=False),
    }
    for name, stream in keystreams.items():
        why = "encrypted with another keystream"
        add(f"keystream-{name}", COUNTERSIGNATURE, why, number=7, twist=Twist(keystream=stream))
    stream = group.keystream(b"\x14", SERVER.id, request=False)
    why = "without a Partial IV the requester has generated it"
    add("keystream-of-the-responder", COUNTERSIGNATURE, why, twist=Twist(keystream=stream))
    request = bytes([GET])
    add("code-of-a-request-inside", MALFORMED, "a request inside a response", twist=inside(lambda p: request))


def reject_who_answers(add: Callable[..., None], asked: Request) -> None:
    """In pairwise mode, or to a request in it."""
    short = partial(add, "pairwise", asked=asked, with_kid=False)
    why = "decryption fails"
    short("first-bit", CRYPTOGRAPHY, why, to=CLIENT, change=payload(lambda p: flipped(p, 0)))
    short("for-another-member", CRYPTOGRAPHY, why, to=OTHER)
    answers, why = replace(asked, piv=b"\x15"), "bound to another request"
    add("pairwise", "to-another-partial-iv", CRYPTOGRAPHY, why, asked=asked, answers=answers, to=CLIENT, number=0)
    why = "not from who was asked"
    short("without-kid-from-another-member", CRYPTOGRAPHY, why, by=OTHER, to=CLIENT)
    add("pairwise", "with-kid-of-another-member", BINDING, why, asked=asked, by=OTHER, to=CLIENT)
    add("pairwise", "request-group-response-of-another-member", BINDING, why, asked=asked, by=OTHER)
    short("request-group-response-without-kid-of-another-member", CRYPTOGRAPHY, why, by=OTHER)
    why = "no kid in an answer to the group"
    add("group", "request-pairwise-response-without-kid", MALFORMED, why, to=CLIENT, with_kid=False)
    mixed = Group(24, 10)
    end, why = nonce(mixed.iv[1:], CLIENT.id, b"\x14", 12), "the nonce takes the start of the Common IV"
    short("nonce-from-the-end-of-the-iv", CRYPTOGRAPHY, why, group=mixed, to=CLIENT, twist=Twist(nonce=end))


def reject_misuse(file: File) -> None:
    def protect_request(name: str, why: str, group: Group = GROUP, **changed: Any) -> None:
        given = {
            "common": group.json,
            "mode": "group",
            "sender": CLIENT.sender(0),
            "message": READ.data.hex(),
            **changed,
        }
        file.reject(f"protect-request-{name}", "protect_request", given, MISUSE, why)

    def protect_response(name: str, why: str, group: Group = GROUP, **changed: Any) -> None:
        given = {
            "common": group.json,
            "mode": "group",
            "sender": SERVER.sender(0),
            "recipients": recipients(CLIENT),
            "request": Request(CLIENT.id, b"\x14", GROUP.gid).json,
            "fresh_partial_iv": True,
            "include_gid": False,
            "include_kid": True,
            "message": ANSWER.data.hex(),
            **changed,
        }
        file.reject(f"protect-response-{name}", "protect_response", given, MISUSE, why)

    def derive(name: str, why: str, common: Json | None = None, **changed: Any) -> None:
        given = {"common": {**GROUP.json, **(common or {})}, "ids": ["01"], **changed}
        file.reject(f"derive-{name}", "derive", given, MISUSE, why)

    pairwise: Json = {"mode": "pairwise", "to": "52", "recipients": recipients(SERVER)}
    group_only, why = Group(None, 10, agreement=None), "the group has no pairwise mode"
    protect_request("pairwise-where-it-is-not-used", why, group_only, **pairwise)
    protect_request("pairwise-without-key-agreement", why, Group(agreement=None), **pairwise)
    protect_request("pairwise-for-nobody", "no credential of the other", **{**pairwise, "to": "53"})
    protect_request("of-a-response", "a response is no request", message=ANSWER.data.hex())
    exhausted = "no sequence number is left"
    protect_request("sequence-number-exhausted", exhausted, sender=CLIENT.sender(2**40))
    protect_response("sequence-number-exhausted", exhausted, sender=SERVER.sender(2**40))
    renewed, why = replace(GROUP, gid=bytes.fromhex("0b9c7d2e1f01")), "a nonce of the Gid before"
    name = "renewed-gid-with-the-requests-nonce"
    protect_response(name, why, renewed, fresh_partial_iv=False, include_gid=True)
    own = replace(SERVER, id=CLIENT.id).sender(0)
    protect_response("to-a-request-of-ones-own", "a request of one's own is not answered", sender=own)
    protect_response("of-a-request", "a request is no response", message=READ.data.hex())
    protect_response("group-without-kid", "an answer to the group has a kid", include_kid=False)

    derive("key-agreement-of-another-hkdf", "ECDH-SS + HKDF-512 with HKDF-256", {"key_agreement": -28})
    derive("sha384-with-key-agreement", "no key agreement goes with HKDF-384", {"kdf": "sha384"})
    derive("group-encryption-cbc", "A128CBC must not be used", {"group_encryption": -65531})
    derive("pairwise-counter-mode", "the AEAD Algorithm has integrity protection", {"aead": -65534})
    derive("unknown-signature-algorithm", "no such algorithm here", {"signature": -999})
    derive("empty-gid", "the Gid has at least one byte", {"gid": ""})
    derive("gid-too-long", "it does not fit into the option", {"gid": bytes(255).hex()})
    derive("id-too-long", "longer than 13 - 6 bytes", ids=["0102030405060708"])
    derive("id-too-long-for-the-other-algorithm", "longer than 7 - 6 bytes", {"aead": 12}, ids=["0102"])
    raw = {"kind": "raw", "data": CLIENT.key.coordinates[0].hex()}
    derive("managers-credential-is-a-raw-key", "a raw key is no credential", {"manager_credential": raw})
    bad: dict[str, Json] = {
        "of-another-algorithm": ccs(key("server", ES256), "server").json,
        "raw-key": {"kind": "raw", "data": SERVER.key.coordinates[0].hex()},
        "not-cbor": {"kind": "ccs", "data": "a2"},
        "cwt-as-ccs": {"kind": "ccs", "data": cwt(SERVER.key, "server").data.hex()},
        "no-confirmation": {"kind": "ccs", "data": cbor2.dumps({2: "server"}).hex()},
    }
    for name, credential in bad.items():
        why, known = "not a credential with such a key", {"52": {"credential": credential}}
        derive(f"credential-{name}", why, sender=CLIENT.own, recipients=known)
    x = bytes(31) + b"\x01"
    off = cbor2.dumps({8: {1: {1: 2, 3: ES256, -1: 1, -2: x, -3: x}}})
    known, es256 = {"52": {"credential": {"kind": "ccs", "data": off.hex()}}}, {"signature": ES256}
    own = member("client", "01", ES256).own
    derive("credential-point-not-on-the-curve", "no point of P-256", es256, sender=own, recipients=known)


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    files = (derive_file(), nonce_file(), option_file(), messages_file(), sequences_file(), rejects_file())
    for file in files:
        file.write(directory)
        rejects = sum("reject" in vector for vector in file.vectors)
        print(f"{file.name}: {len(file.vectors) - rejects} to be reproduced, {rejects} to be refused")


if __name__ == "__main__":
    main()
