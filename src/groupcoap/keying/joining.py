"""Joining: the request (RFC 9594 §4.3.1, KGO §6.1) and the challenge that comes before it.

What the Group Manager answers is in `report`, members in `roster`, URIs in `addresses`; all of it may be taken
from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import cbor2

from ..cose.credentials import CredentialKind
from ..membership import Role, SecurityParameters
from . import labels, reading
from .addresses import (
    MAX_URI,
    check_name,
    control_address,
    control_group_address,
    control_group_uri,
    control_uri,
    split_control_uri,
)
from .labels import DEFAULT_CODE_POINTS, CodePoints
from .material import credential_format, ecdh_params, sign_params, uses_pairwise
from .reading import Malformed, Map, refusing
from .report import KeyReport
from .roles import tperm
from .roster import (
    MAX_CREDENTIAL,
    Filter,
    GroupName,
    MemberEntry,
    encode_credentials,
    encode_filter,
    encode_gids,
    encode_names,
    parse_credentials,
    parse_filter,
    parse_gids,
    parse_names,
    put_members,
    roles_from,
    take_members,
)

__all__ = [
    "Filter",
    "GroupName",
    "Held",
    "JoinRequest",
    "KeyReport",
    "MemberEntry",
    "challenge_map",
    "control_address",
    "control_group_address",
    "control_group_uri",
    "control_uri",
    "encode_credentials",
    "encode_filter",
    "encode_gids",
    "encode_names",
    "parse_challenge",
    "parse_credentials",
    "parse_filter",
    "parse_gids",
    "parse_names",
    "put_members",
    "take_members",
]

MAX_REQUEST: Final = 8192
"""Bytes of a Join Request."""

NONCE_LENGTHS: Final = (8, 64)
"""Bytes of a cnonce or kdcchallenge, from and to."""

_MAX_PROOF: Final = 256
_MAX_SCOPE: Final = 512
_MAX_GID: Final = 255


class Held(NamedTuple):
    """What a device still has of a group: the newest Gid, and the number of that renewal."""

    gid: bytes
    num: int


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A device asks to become a member, or to be one again.

    `nonce`: N_C, 8 to 64 bytes. `retrieve`: whether the credentials of those it will hear are asked for.
    `credential`: original bytes; empty: keep the one you have; None: none is given. `proof`: of possession of its
    key (see `keying.proof`); empty: you have had one; None: none is given. `control_uri`: where rekey messages
    reach it. `held` [LOCAL]."""

    group: str
    roles: frozenset[Role]
    nonce: bytes
    retrieve: bool = False
    credential: bytes | None = None
    proof: bytes | None = None
    control_uri: str | None = None
    held: Held | None = None

    @property
    def scope(self) -> bytes:
        """The content of the byte string of key 3: CBOR [name, Tperm]."""
        return cbor2.dumps([self.group, tperm(self.roles)])

    def encode(self) -> bytes:
        """The payload (Content-Format 261)."""
        content: dict[int, object] = {labels.SCOPE: self.scope}
        if self.retrieve:
            content[labels.GET_CREDS] = None
        if self.credential is not None:
            content[labels.CLIENT_CRED] = self.credential
        content[labels.CNONCE] = self.nonce
        if self.proof is not None:
            content[labels.CLIENT_CRED_VERIFY] = self.proof
        if self.control_uri is not None:
            content[labels.CONTROL_URI] = self.control_uri
        if self.held is not None:
            content[labels.HELD] = [self.held.gid, self.held.num]
        return cbor2.dumps(content)

    @classmethod
    @refusing
    def parse(cls, payload: bytes) -> JoinRequest:
        """What `encode` has made. `Refused` (4.00) if any field is malformed; unknown ones are ignored. Which
        roles go together, and which fields a group wants, is not looked at.

        A get_creds that names roles is taken for one that does not: nobody gets credentials that are of no use to
        its own roles, and more than was asked for does no harm."""
        if len(payload) > MAX_REQUEST:
            raise Malformed("a Join Request that is too long")
        content = reading.fields(reading.decode(payload), "the Join Request")
        scope = reading.octets(reading.needed(content, labels.SCOPE, "scope"), "scope", 1, _MAX_SCOPE)
        group, roles = _scope(scope)
        credential = _optional(content, labels.CLIENT_CRED, "client_cred", MAX_CREDENTIAL)
        proof = _optional(content, labels.CLIENT_CRED_VERIFY, "client_cred_verify", _MAX_PROOF)
        if proof is not None and credential is None:
            raise Malformed("client_cred_verify without client_cred")
        nonce = reading.octets(reading.needed(content, labels.CNONCE, "cnonce"), "cnonce", *NONCE_LENGTHS)
        uri = _control_uri(content, group)
        request = cls(group, roles, nonce, _retrieve(content), credential, proof, uri, _held(content))
        if request.scope != scope:  # the proof is over what `scope` says, so there must be one way to say it
            raise Malformed("scope is not in shortest form")
        return request


def _scope(scope: bytes) -> tuple[str, frozenset[Role]]:
    name, permissions = reading.array(reading.decode(scope), "scope", 2)
    return check_name(reading.text(name, "the group name")), roles_from(permissions)


def _optional(content: Map, label: int, what: str, high: int) -> bytes | None:
    return reading.octets(content[label], what, 0, high) if label in content else None


def _retrieve(content: Map) -> bool:
    if labels.GET_CREDS not in content:
        return False
    wanted = content[labels.GET_CREDS]
    if wanted is None:
        return True
    flag, roles, ids = reading.array(wanted, "get_creds", 3)
    role_filter = [reading.integer(role, "a role") for role in reading.array(roles, "role_filter")]
    if flag is not True or not role_filter or reading.array(ids, "id_filter"):
        raise Malformed("get_creds is neither null nor [true, roles, []]")
    return True


def _control_uri(content: Map, group: str) -> str | None:
    if labels.CONTROL_URI not in content:
        return None
    uri = reading.text(content[labels.CONTROL_URI], "control_uri", MAX_URI)
    if split_control_uri(uri)[2] != group:
        raise Malformed("a control_uri of another group")
    return uri


def _held(content: Map) -> Held | None:
    if labels.HELD not in content:
        return None
    gid, num = reading.array(content[labels.HELD], "held", 2)
    return Held(reading.octets(gid, "Gid", 1, _MAX_GID), reading.integer(num, "num"))


def challenge_map(
    group: str,
    parameters: SecurityParameters,
    kind: CredentialKind,
    challenge: bytes,
    points: CodePoints = DEFAULT_CODE_POINTS,
) -> bytes:
    """The payload (Content-Format 261) of the 4.00 to an empty Join Request: 29 sign_info, 30 kdcchallenge, and 31
    ecdh_info where the pairwise mode is used (RFC 9594 §3.3, KGO §6.2). `kind`: of the group's credentials;
    `challenge`: N_S."""
    cred_fmt, signature = credential_format(kind), parameters.signature
    content: dict[int, object] = {
        labels.SIGN_INFO: [[group, signature.number, *sign_params(signature), cred_fmt]],
        labels.KDCCHALLENGE: challenge,
    }
    if uses_pairwise(parameters) and parameters.key_agreement is not None:
        entry = [group, parameters.key_agreement.number, *ecdh_params(signature), cred_fmt]
        content[points.ecdh_info] = [entry]
    return cbor2.dumps(content)


def parse_challenge(payload: bytes) -> bytes | None:
    """N_S of such a payload; None if there is none in it, whatever it is."""
    try:
        content = reading.fields(reading.decode(payload), "the challenge")
        return reading.octets(content.get(labels.KDCCHALLENGE), "kdcchallenge", *NONCE_LENGTHS)
    except Malformed:
        return None
