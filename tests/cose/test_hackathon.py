"""Every key, nonce and signature that the groups of the IETF 109 hackathon have published, reproduced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from groupcoap.core import coap
from groupcoap.core.contexts import CommonContext
from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.cose.algorithms import DEFAULT_AEAD, Kdf, key_agreement
from groupcoap.cose.keys import PrivateKey, signature_algorithm
from groupcoap.secret import Secret

FACTS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "published" / "hackathon.json").read_text("utf-8")
)
GROUPS: dict[str, Any] = {group["name"]: group for group in FACTS["groups"]}

groups = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)


def common_of(group: Any, gid: str | None = None) -> CommonContext:
    return CommonContext(
        profile=GROUP_OSCORE,
        aead=DEFAULT_AEAD,
        kdf=Kdf.HKDF_SHA_256,
        signature=signature_algorithm(group["signature"]),
        master_secret=Secret(bytes.fromhex(group["master_secret"])),
        gid=bytes.fromhex(gid or group["gid"]),
        key_agreement=key_agreement(-27),
        master_salt=bytes.fromhex(group["master_salt"]),
        manager_credential=b"entered no keys",
    )


def private_key(signature: int, entity: Any) -> PrivateKey:
    return signature_algorithm(signature).private_key(Secret(bytes.fromhex(entity["private"])))


def entity_of(group: Any, endpoint_id: str) -> Any:
    return next(entity for entity in group["entities"] if entity["id"] == endpoint_id)


def test_there_is_as_much_as_was_published() -> None:
    entities = [entity for group in GROUPS.values() for entity in group["entities"]]
    assert [len(entities), sum("sender_key" in entity for entity in entities)] == [9, 7]
    assert [sum(len(group[part]) for group in GROUPS.values()) for part in ("shared", "pairwise")] == [5, 4]
    assert [len(FACTS[part]) for part in ("joining", "present", "messages")] == [2, 4, 3]


@groups
def test_public_keys_come_from_private_ones_and_signatures_verify(group: Any) -> None:
    for entity in (*group["entities"], *FACTS["joining"]):
        signature = entity.get("signature", group["signature"])
        private = private_key(signature, entity)
        assert private.public_key.data.hex() == entity["public"]
        public = signature_algorithm(signature).public_key(bytes.fromhex(entity["public"]))
        assert public.verify(private.sign(b"message"), b"message")
        assert not public.verify(private.sign(b"message"), b"messages")


@groups
def test_secrets_are_shared_both_ways(group: Any) -> None:
    for shared in group["shared"]:
        one, other = (private_key(group["signature"], entity_of(group, kid)) for kid in shared["between"])
        assert one.agree(other.public_key).reveal().hex() == shared["secret"]
        assert other.agree(one.public_key).reveal().hex() == shared["secret"]


@groups
def test_sender_keys_are_derived_from_the_master_secret(group: Any) -> None:
    common = common_of(group)
    for entity in group["entities"]:
        key = GROUP_OSCORE.derive_key(common, bytes.fromhex(entity["id"])).reveal()
        assert key.hex() == entity.get("sender_key", key.hex())


@groups
def test_pairwise_keys_are_derived_from_sender_keys_and_shared_secrets(group: Any) -> None:
    for pairwise in group["pairwise"]:
        common, kid = common_of(group, pairwise["gid"]), bytes.fromhex(pairwise["id"])
        sender_key = GROUP_OSCORE.derive_key(common, kid)
        assert pairwise.get("sender_key") in (None, sender_key.reveal().hex())
        one, other = (private_key(group["signature"], entity_of(group, kid)) for kid in pairwise["between"])
        key = GROUP_OSCORE.derive_pairwise_key(common, kid, sender_key, one.agree(other.public_key))
        assert key.reveal().hex() == pairwise["key"]


@pytest.mark.parametrize("member", FACTS["present"], ids=lambda member: member["public"][:8])
def test_the_keys_of_present_members_are_usable(member: Any) -> None:
    algorithm = signature_algorithm(member["signature"])
    public = algorithm.public_key(bytes.fromhex(member["public"]))
    joining = next(entity for entity in FACTS["joining"] if entity["signature"] == member["signature"])
    assert len(private_key(member["signature"], joining).agree(public)) == 32


def test_a_key_that_is_published_as_scalar_agrees_with_ours() -> None:
    expanded = FACTS["expanded"]
    public = signature_algorithm(-8).public_key(bytes.fromhex(expanded["public"]))
    ours = private_key(-8, FACTS["joining"][1])
    p = (1 << 255) - 19
    y = int.from_bytes(ours.public_key.data, "little") & ((1 << 255) - 1)
    u = ((1 + y) * pow(1 - y, -1, p) % p).to_bytes(32, "little")
    scalar = X25519PrivateKey.from_private_bytes(bytes.fromhex(expanded["scalar"]))
    assert ours.agree(public).reveal() == scalar.exchange(X25519PublicKey.from_public_bytes(u))


@pytest.mark.parametrize("message", FACTS["messages"], ids=lambda message: message["group"])
def test_messages_have_the_nonce_key_and_signature_that_were_published(message: Any) -> None:
    """Their external_aad is an older one, and their countersignatures are in clear."""
    group = GROUPS[message["group"]]
    common, entity = common_of(group), group["entities"][message["entity"] - 1]
    kid = bytes.fromhex(entity["id"])
    nonce = common.nonce(kid, bytes.fromhex(message["partial_iv"]))
    key = GROUP_OSCORE.derive_key(common, kid)
    assert (nonce.hex(), key.reveal().hex()) == (message["nonce"], message["sender_key"])

    datagram = coap.decode(bytes.fromhex(message["datagram"]))
    assert datagram.payload.hex() == message["payload"]
    option = datagram.option(coap.OBJECT_SECURITY)
    assert option is not None
    assert option[0] == 0x39
    assert option.endswith(kid)
    signed = cbor2.loads(bytes.fromhex(message["to_be_signed"]))
    assert signed[:3] == ["CounterSignature0", b"", b""]
    ciphertext, signature = datagram.payload[:-64], datagram.payload[-64:]
    assert signed[4] == ciphertext
    public = signature_algorithm(group["signature"]).public_key(bytes.fromhex(entity["public"]))
    assert public.verify(signature, bytes.fromhex(message["to_be_signed"]))
    assert not public.verify(signature, bytes.fromhex(message["to_be_signed"]) + b"\0")
    aad = cbor2.dumps(["Encrypt0", b"", bytes.fromhex(message["aad"])])
    plaintext = common.encryption.cipher(key).decrypt(nonce, ciphertext, aad)
    assert coap.is_request(plaintext[0])
