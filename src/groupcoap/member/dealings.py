"""What a device asks of its Group Manager, over its association: one method for each request.

Every method raises `Refused` if the manager does not do it, `NetworkFault` if it cannot be reached, and `Rejected`
(malformed) if its answer is none. A refusal may be forged where it is about setting up an association, so nothing
is given up on account of one that `is_authentic` does not confirm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

import aiocoap
import cbor2

from ..core import coap
from ..core.coap import BAD_REQUEST
from ..cose.credentials import CredentialKind
from ..cose.keys import SignatureAlgorithm, signature_algorithm
from ..errors import EnvironmentFault, MisuseError, NetworkFault, Reason, Refused, Rejected
from ..files.identity import DeviceIdentity
from ..keying import labels, reading
from ..keying.joining import (
    Held,
    JoinRequest,
    KeyReport,
    MemberEntry,
    encode_filter,
    parse_credentials,
)
from ..keying.proof import client_proof_input, manager_proof_input, prove, verifies
from ..keying.refusals import parse_refusal
from ..keying.roles import REQUESTER, RESPONDER
from ..membership import Role
from .enrolment import Enrolment

ROOT: Final = "ace-group"
MAX_FILTER: Final = 4096
"""Endpoint IDs that a request names at most."""

_NONCE: Final = 8
_KINDS: Final = {14: CredentialKind.CCS, 13: CredentialKind.CWT, 33: CredentialKind.X509}
Random = Callable[[int], bytes]


class ManagerMismatch(EnvironmentFault):
    """Who answers at the manager's address has not shown to be the manager that this device was enrolled with."""


class VerifiedRefusal(Refused):
    """A refusal that is certainly the manager's own."""


class Link(Protocol):
    """A device's link to its manager."""

    async def associate(self) -> None:
        """Have an association."""

    async def request(
        self,
        code: int,
        path: Sequence[str],
        payload: bytes | Callable[[bytes], bytes] = b"",
        content_format: int | None = None,
    ) -> aiocoap.Message:
        """The manager's successful answer. `payload`: bytes, or what makes them of N_S."""

    async def verified(self, code: int, path: Sequence[str], payload: bytes = b"") -> aiocoap.Message:
        """The manager's answer, whatever it is, in the association that there is. `NetworkFault` if there is none,
        or no verified answer."""


class Terms(NamedTuple):
    """What credentials of a group's members are like."""

    signature: SignatureAlgorithm
    kind: CredentialKind


class Joined(NamedTuple):
    """A group joined: this member's name there, and what it was told. The manager has proved its credential."""

    node: str
    report: KeyReport


class JoinAttempt:
    """One attempt to join. As long as the manager's challenge is the same, every transmission has the same bytes,
    so that the manager knows one that comes again."""

    def __init__(
        self,
        group: str,
        roles: frozenset[Role],
        held: Held | None,
        control_uri: str | None,
        random: Random,
    ) -> None:
        self._group = group
        self._roles = roles
        self._held = held
        self._control_uri = control_uri
        self._random = random
        self._challenge: bytes | None = None
        self.identity: DeviceIdentity | None = None
        """Whose credential is presented; None for a pure listener."""
        self.nonce = b""
        """N_C of the latest payload."""
        self.payload = b""

    def __call__(self, challenge: bytes) -> bytes:
        """The payload for this N_S."""
        if challenge != self._challenge:
            self._challenge, self.nonce = challenge, self._random(_NONCE)
            self.payload = self._request(challenge).encode()
        return self.payload

    def _request(self, challenge: bytes) -> JoinRequest:
        request = JoinRequest(
            group=self._group,
            roles=self._roles,
            nonce=self.nonce,
            # A pure listener looks up whom it hears; asking for more is an error in the draft's profile.
            retrieve=self._roles != {Role.PURE_LISTENER},
            credential=None if self.identity is None else self.identity.credential.data,
            control_uri=self._control_uri,
            held=self._held,
        )
        if self.identity is None:
            return request
        proof_input = client_proof_input(request.scope, challenge, self.nonce)
        return replace(request, proof=prove(self.identity.private_key, proof_input))


class Dealings:
    """See the module's text. `enrolment`: whose manager, and what is known of it."""

    def __init__(self, link: Link, enrolment: Enrolment) -> None:
        self._link = link
        self._enrolment = enrolment
        self._points = enrolment.points

    # ---- joining

    async def terms(self, group: str) -> Terms:
        """What credential a group wants of those who join. `VerifiedRefusal` if this device may not join."""
        await self._link.associate()
        answer = await self._link.verified(coap.POST, (ROOT, group))
        format_ = answer.opt.content_format
        if int(answer.code) != BAD_REQUEST or format_ is None or int(format_) != labels.GROUPCOMM_CBOR:
            raise _refusal(answer)
        return _terms(answer.payload, group)

    async def join(self, group: str, attempt: JoinAttempt) -> Joined:
        """Join, or join again. `ManagerMismatch` if the manager does not show to be the one that is known."""
        answer = await self._link.request(coap.POST, (ROOT, group), attempt, labels.GROUPCOMM_CBOR)
        report = KeyReport.parse(answer.payload, self._points)
        self._check_manager(report, attempt.nonce)
        return Joined(_node(answer, group), report)

    def _check_manager(self, report: KeyReport, nonce: bytes) -> None:
        """Whether this is the manager of the enrolment, and has just shown to own its key (RFC 9594 §4.3.1)."""
        signature = report.material.parameters.signature
        known, said = self._enrolment.credentials.get(signature.number), report.manager_credential
        if known is None or said is None or said != known:
            raise ManagerMismatch(
                "the Group Manager has another credential than this device was enrolled with; enroll it again"
            )
        key = known.public_key(signature)
        data = manager_proof_input(nonce, report.manager_nonce)
        if not report.manager_nonce or not verifies(key, report.manager_proof, data):
            raise ManagerMismatch("the Group Manager has not proved to own its key; enroll this device again")

    async def is_authentic(self, refused: Refused, group: str, attempt: JoinAttempt) -> bool:
        """Whether the manager itself refuses this attempt so; if need be it is asked once more in a way that nobody
        can forge. False also if it cannot be found out now."""
        if isinstance(refused, VerifiedRefusal):
            return True
        if not attempt.payload:
            return False
        try:
            answer = await self._link.verified(coap.POST, (ROOT, group), attempt.payload)
        except (NetworkFault, Rejected):
            return False
        return int(answer.code) == refused.code

    # ---- members

    async def confirm(self, group: str, node: str, num: int, gid: bytes, control_uri: str | None) -> bool:
        """Say what is installed here, and where this device is reached now. Whether that is the current renewal."""
        payload = cbor2.dumps([num, gid, control_uri])
        try:
            await self._link.request(coap.PUT, (ROOT, group, "nodes", node, "num"), payload, labels.CBOR)
        except Refused as refused:
            if refused.code == coap.CONFLICT:
                return False
            raise
        return True

    async def report(self, group: str, node: str) -> KeyReport:
        """The group's current state."""
        answer = await self._link.request(coap.GET, (ROOT, group, "nodes", node))
        return KeyReport.parse(answer.payload, self._points)

    async def stale(self, group: str, num: int) -> frozenset[bytes] | None:
        """Endpoint IDs that ceased to be active since this renewal; None: too long ago to say."""
        payload = cbor2.dumps(num)
        answer = await self._link.request(coap.FETCH, (ROOT, group, "stale-sids"), payload, labels.CBOR)
        if not answer.payload:
            return None
        return _ids(answer.payload, self._points.stale_node_ids)

    async def find(self, group: str, endpoint_id: bytes) -> tuple[int | None, tuple[MemberEntry, ...]]:
        """(num, the member with this Endpoint ID or nobody)."""
        return await self._credentials(group, encode_filter([endpoint_id]))

    async def others(
        self, group: str, roles: frozenset[Role], known: Sequence[bytes]
    ) -> tuple[int | None, tuple[MemberEntry, ...]]:
        """(num, the members that somebody in these roles deals with, without those that are known)."""
        wanted = [RESPONDER] if Role.MULTICASTER in roles else []
        wanted += [REQUESTER] if roles & {Role.LISTENER, Role.PURE_LISTENER} else []
        if not known or len(known) > MAX_FILTER:
            return await self._credentials(group, encode_filter(None))
        return await self._credentials(group, encode_filter(known, wanted, False))

    async def _credentials(self, group: str, wanted: bytes) -> tuple[int | None, tuple[MemberEntry, ...]]:
        answer = await self._link.request(coap.FETCH, (ROOT, group, "creds"), wanted, labels.GROUPCOMM_CBOR)
        return parse_credentials(answer.payload)

    async def renew_id(self, group: str, node: str) -> bytes:
        """Another Endpoint ID under the same Gid."""
        answer = await self._link.request(coap.POST, (ROOT, group, "nodes", node))
        return _new_id(answer.payload, self._points.group_sender_id)

    async def leave(self, group: str, node: str) -> None:
        """Be a member no longer. `VerifiedRefusal` if the manager itself says that this device is none."""
        path = (ROOT, group, "nodes", node)
        try:
            await self._link.request(coap.DELETE, path)
        except Refused as refused:
            if refused.code not in (coap.FORBIDDEN, coap.NOT_FOUND):
                raise
            answer = await self._link.verified(coap.DELETE, path)  # anybody may refuse a set-up
            if not answer.code.is_successful():
                raise _refusal(answer) from None


def _refusal(answer: aiocoap.Message) -> VerifiedRefusal:
    """Of a verified answer that is not what was asked for."""
    format_ = answer.opt.content_format
    said = parse_refusal(int(answer.code), None if format_ is None else int(format_), answer.payload)
    return VerifiedRefusal(said.code, said.title, said.error, answer.opt.max_age or None)


def _node(answer: aiocoap.Message, group: str) -> str:
    path = tuple(answer.opt.location_path)
    if len(path) != 4 or path[:3] != (ROOT, group, "nodes") or not path[3]:
        raise Rejected(Reason.MALFORMED, "a Location-Path that names no member of the group")
    return str(path[3])


@reading.rejecting
def _terms(payload: bytes, group: str) -> Terms:
    """From sign_info (RFC 9594 §3.3)."""
    content = reading.fields(reading.decode(payload), "the answer")
    entries = reading.array(reading.needed(content, labels.SIGN_INFO, "sign_info"), "sign_info")
    for entry in entries:
        names, algorithm, _, _, kind = reading.array(entry, "sign_info", 5)
        if names == group or (isinstance(names, list) and group in names):
            found = _KINDS.get(reading.integer(kind, "cred_fmt"))
            if found is None:
                raise MisuseError("a kind of credential that is not supported")
            return Terms(signature_algorithm(reading.integer(algorithm, "sign_alg", -(1 << 31))), found)
    raise MisuseError("sign_info does not name the group")


@reading.rejecting
def _ids(payload: bytes, label: int) -> frozenset[bytes]:
    content = reading.decode(payload)
    if isinstance(content, dict):
        content = content.get(label)
    return frozenset(
        reading.octets(item, "Endpoint ID", 0, 255) for item in reading.array(content, "stale_node_ids")
    )


@reading.rejecting
def _new_id(payload: bytes, label: int) -> bytes:
    content = reading.fields(reading.decode(payload), "the answer")
    return reading.octets(reading.needed(content, label, "group_SenderId"), "group_SenderId", 0, 255)
