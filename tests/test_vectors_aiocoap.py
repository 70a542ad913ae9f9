"""The vectors of Group OSCORE against aiocoap, a third implementation: what it can do must come out the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import pytest
from aiocoap import oscore
from aiocoap.message import Direction
from cryptography.hazmat.primitives.asymmetric import ec

VECTORS = Path(__file__).parent / "vectors"
Vector = dict[str, Any]


class _EcdhSsHkdf512(oscore.EcdhSsHkdf256):  # type: ignore[misc]
    value = -28


class _P256Agreement(oscore.ECDSA_SHA256_P256):  # type: ignore[misc]
    """With the number that the standard has for it."""

    value = -27


class _P256Agreement512(_P256Agreement):
    value = -28


_AEADS = {algorithm.value: algorithm for algorithm in oscore.algorithms.values()}
_AGREEMENTS = {
    (-8, -27): oscore.EcdhSsHkdf256,
    (-8, -28): _EcdhSsHkdf512,
    (-7, -27): _P256Agreement,
    (-7, -28): _P256Agreement512,
}
_SIGNATURES = {-8: oscore.Ed25519, -7: oscore.ECDSA_SHA256_P256}


def load(name: str, *kinds: str) -> list[Vector]:
    vectors = json.loads((VECTORS / f"group-oscore-{name}.json").read_text("utf-8"))["vectors"]
    return [
        vector
        for vector in vectors
        if vector["kind"] in kinds
        and can(vector["input"])
        and not any(part in vector["name"] for part in AIOCOAP_CANNOT)
    ]


AIOCOAP_CANNOT = (
    "through-a-proxy",  # it puts other options outside, or none back
    "last-number",  # it stops one number before the last
    "group-aead-24-group-10",  # it wants a ciphertext to be longer than the tag of the other algorithm
    "first-notification-without-partial-iv",  # it makes the Observe value -1
)


def can(data: Vector) -> bool:
    """aiocoap has no counter mode, no P-384, no group without an AEAD Algorithm, one form of what is countersigned,
    one kind of credential, without tags and with both coordinates; and its groups have no renewals."""
    common = data["common"]
    request: Any = data.get("request", common)
    members = [*data.get("recipients", {}).values(), *([data["sender"]] if "sender" in data else [])]
    credentials = [entry["credential"] for entry in members]
    return (
        common["group_encryption"] in _AEADS
        and common["aead"] is not None
        and common["signature"] in _SIGNATURES
        and common["sign_protected"]
        and all(is_plain_ccs(credential) for credential in credentials)
        and request["gid"] == common["gid"]
    )


def is_plain_ccs(credential: Vector) -> bool:
    if credential["kind"] != "ccs":
        return False
    claims = cbor2.loads(bytes.fromhex(credential["data"]))
    return isinstance(claims, dict) and not isinstance(claims[8][1].get(-3), bool)


def context(data: Vector) -> Any:
    """A member of the vector's group as aiocoap has it."""
    common, own = data["common"], data["sender"]
    number = common["signature"]
    private: Any = bytes.fromhex(own["private_key"])
    if number == -7:
        private = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
    agreement = None if common["key_agreement"] is None else _AGREEMENTS[number, common["key_agreement"]]()
    peers = {
        bytes.fromhex(kid): bytes.fromhex(entry["credential"]["data"])
        for kid, entry in data.get("recipients", {}).items()
    }
    made = oscore.SimpleGroupContext(
        _AEADS[common["aead"]],
        oscore.hashfunctions[common["kdf"]],
        _SIGNATURES[number](),
        _AEADS[common["group_encryption"]],
        agreement,
        bytes.fromhex(common["gid"]),
        bytes.fromhex(common["master_secret"]),
        bytes.fromhex(common["master_salt"]),
        bytes.fromhex(own["id"]),
        private,
        bytes.fromhex(own["credential"]["data"]),
        peers,
        _manager(common["manager_credential"]),
    )
    made.sender_sequence_number = own.get("sequence_number", 0)
    return made


def _manager(credential: Vector) -> bytes:
    """It is never looked into: as it enters the AAD."""
    data = bytes.fromhex(credential["data"])
    for tags in (b"\xd8\x3d\xd2", b"\xd8\x3d", b"\xd2"):
        data = data.removeprefix(tags)
    return data


def received(datagram: str) -> Any:
    return aiocoap.Message.decode(bytes.fromhex(datagram))


def each(vectors: list[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


DERIVE = [vector for vector in load("derive", "derive") if "sender" in vector["input"]]
PROTECT = load("messages", "protect_request")
VERIFY = load("messages", "verify_request", "verify_response")
REJECTS = [
    vector
    for vector in load("rejects", "verify_request", "verify_response")
    if vector["fails"] in ("cryptography", "countersignature")
]


def test_there_is_much_that_aiocoap_can_check() -> None:
    assert len(DERIVE) > 15
    assert len(PROTECT) > 40
    assert len(VERIFY) > 100
    assert len(REJECTS) > 40
    assert {vector["input"]["common"]["group_encryption"] for vector in VERIFY} == {n for n in _AEADS if n > 0}


@each(DERIVE)
def test_keys(vector: Vector) -> None:
    group, output = context(vector["input"]), vector["output"]
    assert group.common_iv.hex() == output["common_iv"]
    assert group.signature_encryption_key.hex() == output["signature_encryption_key"]
    assert {kid.hex(): key.hex() for kid, key in group.recipient_keys.items()}.items() <= output["keys"].items()
    for kid, keys in output["pairwise_keys"].items():
        pair = group.pairwise_for(bytes.fromhex(kid))
        assert (pair.sender_key.hex(), pair.recipient_key.hex()) == (keys["sender_key"], keys["recipient_key"])


@each(PROTECT)
def test_it_protects_the_same(vector: Vector) -> None:
    data = vector["input"]
    group = context(data)
    by = group.pairwise_for(bytes.fromhex(data["to"])) if data["mode"] == "pairwise" else group
    message = received(data["message"])
    message.direction = Direction.OUTGOING
    protected, _ = by.protect(message)
    expected = received(vector["output"]["message"])
    assert protected.opt.oscore == expected.opt.oscore
    if data["common"]["signature"] == -8 or data["mode"] == "pairwise":
        assert protected.payload == expected.payload
    assert protected.code == expected.code


def opened(vector: Vector) -> Any:
    """The message as aiocoap unprotects it. Raises what aiocoap raises."""
    data = vector["input"]
    group, message = context(data), received(data["message"])
    bag = oscore.verify_start(message)
    if vector["kind"] == "verify_request":
        peer = group.get_oscore_context_for(bag)
        return peer.unprotect(message)[0]
    request = data["request"]
    client = group.pairwise_for(bytes.fromhex(request["to"])) if request["mode"] == "pairwise" else group
    code = aiocoap.FETCH if request["observe"] else aiocoap.POST
    ids = oscore.RequestIdentifiers(
        bytes.fromhex(request["kid"]), bytes.fromhex(request["partial_iv"]), False, code
    )
    return client.context_from_response(bag).unprotect(message, ids)[0]


@each(VERIFY)
def test_it_verifies_what_is_to_be_accepted(vector: Vector) -> None:
    message, expected = opened(vector), received(vector["output"]["message"])
    assert (message.code, message.payload) == (expected.code, expected.payload)
    inside = [(option.number, option.encode()) for option in expected.opt.option_list()]
    found = [(option.number, option.encode()) for option in message.opt.option_list()]
    assert [option for option in found if option[0] != 6] == [option for option in inside if option[0] != 6]


@each(REJECTS)
def test_it_refuses_what_is_to_be_refused(vector: Vector) -> None:
    with pytest.raises((oscore.NotAProtectedMessage, oscore.ProtectionInvalid)):
        opened(vector)
