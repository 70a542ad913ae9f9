"""Proof of possession, of a joining node's key and of the Group Manager's (RFC 9594 §4.3.1, §4.6; KGO §6.1, §6.3).

What is signed is a sequence of CBOR byte strings, their heads included; the evidence is the raw signature of the
group's algorithm, without any COSE structure around it."""

from __future__ import annotations

from ..core.cbor import bstr
from ..cose.keys import PrivateKey, PublicKey


def client_proof_input(scope: bytes, challenge: bytes, nonce: bytes) -> bytes:
    """What client_cred_verify is over: bstr(scope) ‖ bstr(N_S) ‖ bstr(N_C).

    `scope`: the content of the byte string of key 3 of this Join Request; `challenge`: N_S, kdcchallenge; `nonce`:
    N_C, the request's cnonce."""
    return bstr(scope) + bstr(challenge) + bstr(nonce)


def manager_proof_input(nonce: bytes, manager_nonce: bytes) -> bytes:
    """What kdc_cred_verify is over: bstr(N_C) ‖ bstr(N_KDC). `nonce`: the member's; `manager_nonce`: kdc_nonce."""
    return bstr(nonce) + bstr(manager_nonce)


def prove(private_key: PrivateKey, data: bytes) -> bytes:
    """The evidence over such an input: a raw signature, of the group's algorithm's length."""
    return private_key.sign(data)


def verifies(public_key: PublicKey, proof: bytes, data: bytes) -> bool:
    """Whether this is evidence over such an input."""
    return public_key.verify(proof, data)
