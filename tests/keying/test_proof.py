"""Proofs of possession; the vectors were made apart from this code, from the text of RFC 9594 and KGO."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import CLIENT, MANAGER, L, M

from groupcoap.cose.credentials import Credential, CredentialKind, claims_set
from groupcoap.cose.keys import SIGNATURE_ALGORITHMS, SignatureAlgorithm, signature_algorithm
from groupcoap.keying.joining import JoinRequest
from groupcoap.keying.proof import client_proof_input, manager_proof_input, prove, verifies

CHALLENGE = bytes.fromhex("018a278f7faab55a")
NONCE = bytes.fromhex("25a8991cd700ac01")
MANAGER_NONCE = bytes.fromhex("cef04b2aa791bc6d")
SCOPE = bytes.fromhex("826367703106")
CLIENT_INPUT = bytes.fromhex("4682636770310648018a278f7faab55a4825a8991cd700ac01")
CLIENT_PROOF = bytes.fromhex(
    "163ddadf531d0a62941b313e5d668be05d7877f10cc06eb45d19ec06471c1c68"
    "5fb9d44f0cb4d4e5fc95d3ac76d11549249ef1a7f5df50dabf705bd8731d5a0b"
)
MANAGER_INPUT = bytes.fromhex("4825a8991cd700ac0148cef04b2aa791bc6d")
MANAGER_PROOF = bytes.fromhex(
    "05a0e2d28736db6a51d94af470e6f977e40e8395f84363b6d28727804304e535"
    "00eb845aedf189392f4ae333ee213a92c2bf1f21242aefcbc5188ffa317b570e"
)
CCS = bytes.fromhex(
    "a202626e3108a101a30101200621582003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
)


def test_the_scope_is_that_of_the_request() -> None:
    assert JoinRequest("gp1", frozenset({M, L}), NONCE).scope == SCOPE


def test_the_clients_proof() -> None:
    assert client_proof_input(SCOPE, CHALLENGE, NONCE) == CLIENT_INPUT
    assert prove(CLIENT, CLIENT_INPUT) == CLIENT_PROOF
    key = Credential(CredentialKind.CCS, CCS).public_key(signature_algorithm(-8))
    assert verifies(key, CLIENT_PROOF, CLIENT_INPUT)


def test_the_managers_proof() -> None:
    assert manager_proof_input(NONCE, MANAGER_NONCE) == MANAGER_INPUT
    assert prove(MANAGER, MANAGER_INPUT) == MANAGER_PROOF
    assert verifies(MANAGER.public_key, MANAGER_PROOF, MANAGER_INPUT)


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_inputs_can_be_taken_apart_in_one_way_only(scope: bytes, challenge: bytes, nonce: bytes) -> None:
    parts = [scope, challenge, nonce]
    assert client_proof_input(*parts) == b"".join(cbor2.dumps(part) for part in parts)
    assert manager_proof_input(nonce, challenge) == cbor2.dumps(nonce) + cbor2.dumps(challenge)


@pytest.mark.parametrize("algorithm", SIGNATURE_ALGORITHMS.values(), ids=lambda algorithm: algorithm.name)
def test_proofs_of_every_algorithm(algorithm: SignatureAlgorithm) -> None:
    own, other = algorithm.generate(), algorithm.generate()
    proof = prove(own, CLIENT_INPUT)
    assert len(proof) == algorithm.signature_length
    key = claims_set(own.public_key, algorithm).public_key(algorithm)
    assert verifies(key, proof, CLIENT_INPUT)
    assert not verifies(key, proof, MANAGER_INPUT)
    assert not verifies(other.public_key, proof, CLIENT_INPUT)
    assert not verifies(key, b"", CLIENT_INPUT)
    assert not verifies(key, proof[:-1], CLIENT_INPUT)
