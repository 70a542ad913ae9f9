"""Joining: what is checked before anything is stored, in the order of RFC 9594 and key-groupcomm-oscore (Appendix
C.1, C.2)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from ..core import coap
from ..cose.credentials import Credential
from ..cose.keys import PublicKey
from ..errors import MisuseError, Refused
from ..keying.joining import JoinRequest
from ..keying.proof import client_proof_input, verifies
from ..keying.refusals import GroupError
from ..keying.roles import check_combination, sends
from ..membership import Role
from .state import Device, Group, GroupStatus

MAX_CREDENTIAL = 4096
"""Bytes of a credential at most."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A join that was checked and found good; nothing is stored yet. `credential`: None for who is nothing but a
    pure listener; `proved`: it came with a proof that this device owns its private key. `digest`: of the request,
    to know a retransmission by."""

    device: Device
    request: JoinRequest
    credential: Credential | None
    proved: bool
    digest: bytes


def check_active(group: Group) -> None:
    """`Refused` unless the group is served now."""
    if group.status is not GroupStatus.ACTIVE:
        raise Refused(coap.SERVICE_UNAVAILABLE, "the group is not active", GroupError.GROUP_NOT_ACTIVE)


def check_join(device: Device, group: Group, payload: bytes, challenge: bytes) -> Candidate:
    """A join request of a device that has some right in this group. `challenge`: N_S, the one it was given last.

    `Refused`: 4.00 malformed or wrong credential or proof, 4.03 a role it has no right to, 5.03 the group is not
    active or full."""
    request = JoinRequest.parse(payload)
    if request.group != group.name:
        raise Refused(coap.BAD_REQUEST, "the scope names another group")
    check_combination(request.roles, group.settings.seed)
    if not request.roles <= device.rights.get(group.name, frozenset()):
        raise Refused(coap.FORBIDDEN, "no right to these roles")
    check_active(group)
    if group.settings.seed and request.retrieve and request.roles == {Role.PURE_LISTENER}:
        raise Refused(coap.BAD_REQUEST, "a pure listener gets no public keys: the retrieval flag must be false")
    if device.name not in group.by_device and len(group.members) >= group.settings.max_members:
        raise Refused(coap.SERVICE_UNAVAILABLE, "the group is full")
    digest = sha256(payload).digest()
    if not sends(request.roles):
        return Candidate(device, request, None, False, digest)
    credential, proved = _credential(device, group, request, challenge)
    return Candidate(device, request, credential, proved, digest)


def _credential(device: Device, group: Group, request: JoinRequest, challenge: bytes) -> tuple[Credential, bool]:
    """The credential that the device joins with, and whether it has proved it just now. One that this manager has
    seen proved by this device need not be proved again, nor sent where the draft's rules hold (Appendix C.2)."""
    settings, member = group.settings, group.by_device.get(device.name)
    known = device.credentials.get((settings.parameters.signature.number, settings.credential_kind))
    if request.credential is None:
        if member is not None and member.credential is not None:
            return member.credential, False
        if not settings.seed and member is None:
            raise Refused(coap.BAD_REQUEST, "a credential is missing")
        if request.proof or known is None:
            raise Refused(
                coap.BAD_REQUEST, "no credential is known of this device", GroupError.INCOMPATIBLE_CREDENTIAL
            )
        return known, False
    if not request.credential:  # an empty one: "as before"
        if member is None or member.credential is None:
            raise Refused(
                coap.BAD_REQUEST, "no credential is known of this member", GroupError.INCOMPATIBLE_CREDENTIAL
            )
        return member.credential, False
    credential = Credential(settings.credential_kind, request.credential)
    key = check_credential(group, device, credential)
    if not request.proof:
        if known != credential:
            raise Refused(coap.BAD_REQUEST, "this credential was never proved", GroupError.INVALID_PROOF)
        return credential, False
    check_proof(key, request.proof, request.scope, challenge, request.nonce)
    return credential, True


def check_credential(group: Group, device: Device, credential: Credential) -> PublicKey:
    """The public key in a credential, which must fit the group. `Refused`, 4.00 with error 2, if it does not, or is
    another member's: who has countersigned would not be certain."""
    parameters = group.settings.parameters
    try:
        if len(credential.data) > MAX_CREDENTIAL:
            raise MisuseError(f"more than {MAX_CREDENTIAL} bytes")
        key = credential.public_key(parameters.signature)
        parameters.authenticated(credential)
    except MisuseError as error:
        raise Refused(
            coap.BAD_REQUEST, f"unsuitable credential: {error}", GroupError.INCOMPATIBLE_CREDENTIAL
        ) from None
    owner = group.keys.get(key.data)
    if owner is not None and owner != device.name:
        raise Refused(coap.BAD_REQUEST, "another member has this key", GroupError.INCOMPATIBLE_CREDENTIAL)
    return key


def check_proof(key: PublicKey, proof: bytes, scope: bytes, challenge: bytes, nonce: bytes) -> None:
    """The proof of possession (RFC 9594 §4.3.1; KGO §6.2). `Refused`, 4.00 with error 3, if it is none."""
    if not verifies(key, proof, client_proof_input(scope, challenge, nonce)):
        raise Refused(coap.BAD_REQUEST, "the proof of possession does not verify", GroupError.INVALID_PROOF)
