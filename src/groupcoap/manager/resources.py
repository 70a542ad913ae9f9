"""The Group Manager's CoAP resources: requests to calls, results and refusals to responses (docs/group-manager.md
§3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import aiocoap
import cbor2
from aiocoap import interfaces, resource
from aiocoap.numbers.contentformat import ContentFormat

from ..association.registry import device_of
from ..association.setup import PATH
from ..association.site import AssociateResource
from ..core import coap
from ..errors import MisuseError, Refused, StoreFault
from ..keying import labels
from ..keying.addresses import MAX_URI, split_control_uri
from ..keying.joining import (
    GroupName,
    challenge_map,
    encode_credentials,
    encode_names,
    parse_filter,
    parse_gids,
)
from ..keying.reading import Malformed, array, decode, fields, integer, needed, octets, refusing, text
from ..keying.refusals import encode_problem
from .catchups import CatchUps, Paces
from .decisions import Answer

if TYPE_CHECKING:
    from .server import ManagerServer
    from .state import Group, Member

ROOT = "ace-group"
NOTHING = b"\x40"
"""The payload that stands for nothing found: an empty byte string (RFC 9594)."""

METHODS = {
    aiocoap.GET: "get",
    aiocoap.FETCH: "fetch",
    aiocoap.POST: "post",
    aiocoap.PUT: "put",
    aiocoap.DELETE: "delete",
}

Handler = Callable[..., Awaitable[aiocoap.Message]]


def answer(code: int, payload: bytes = b"", content_format: int | None = None) -> aiocoap.Message:
    """A response with this payload."""
    message = aiocoap.Message(code=aiocoap.Code(code), payload=payload)
    if content_format is not None:
        message.opt.content_format = ContentFormat(content_format)
    return message


def refusal(refused: Refused) -> aiocoap.Message:
    """A response that says why not (RFC 9290)."""
    message = answer(refused.code, encode_problem(refused), labels.PROBLEM_DETAILS)
    if refused.retry_after is not None:
        message.opt.max_age = int(refused.retry_after)
    return message


class Groups(resource.Resource, resource.PathCapable):  # type: ignore[misc]
    """Everything under the root. What is refused is answered with the reason; what nobody thought of, too."""

    def __init__(self, server: ManagerServer) -> None:
        super().__init__()
        self._server = server
        self._catch_ups = CatchUps()
        self._changes = Paces()

    async def render(self, request: aiocoap.Message) -> aiocoap.Message:
        """aiocoap's entry point."""
        try:
            try:
                response = await self._dispatch(request)
            except Refused as refused:
                response = refusal(refused)
            # What this says may have been decided a moment ago, by somebody else's command. The answer to a
            # confirmation says nothing of it, and need not wait for the disk.
            if request.code is not aiocoap.PUT:
                await self._server.persist()
            return response
        except (StoreFault, MisuseError):
            # The database is gone, or a group between two steps: the manager says nothing more about it to devices.
            return refusal(Refused(coap.SERVICE_UNAVAILABLE, "not now", retry_after=30))

    async def _dispatch(self, request: aiocoap.Message) -> aiocoap.Message:
        device = device_of(request)
        path = request.opt.uri_path
        if not path:
            return await self._only(request, device, fetch=self._names)
        group, rest = path[0], path[1:]
        match rest:
            case ():
                return await self._only(request, device, group, post=self._join, get=self._keys)
            case ("creds",):
                return await self._only(request, device, group, get=self._creds, fetch=self._creds)
            case ("kdc-cred",):
                return await self._only(request, device, group, get=self._kdc_cred)
            case ("policies",):
                return await self._only(request, device, group, get=self._policies)
            case ("num",):
                return await self._only(request, device, group, get=self._num)
            case ("active",):
                return await self._only(request, device, group, get=self._active)
            case ("stale-sids",):
                return await self._only(request, device, group, fetch=self._stale)
            case ("nodes", node):
                methods = {"get": self._own_keys, "post": self._new_id, "delete": self._leave}
                return await self._only(request, device, group, node, **methods)
            case ("nodes", node, "cred"):
                return await self._only(request, device, group, node, post=self._new_credential)
            case ("nodes", node, "num"):
                return await self._only(request, device, group, node, put=self._confirm)
        self._server.manager.authorized(device, group)
        raise Refused(coap.NOT_FOUND, "no such resource")

    async def _only(self, request: aiocoap.Message, *where: str, **methods: Handler) -> aiocoap.Message:
        """The handler for this method. Somebody without a right learns nothing about methods either."""
        manager = self._server.manager
        if len(where) > 1:
            manager.authorized(*where[:2])
        handler = methods.get(METHODS.get(request.code, ""))
        if handler is None:
            raise Refused(coap.METHOD_NOT_ALLOWED, f"not {request.code}")
        return await handler(request, *where)

    # ---- the group

    async def _names(self, request: aiocoap.Message, device: str) -> aiocoap.Message:
        _check_format(request, labels.GROUPCOMM_CBOR)
        found = self._server.manager.names(device, parse_gids(request.payload))
        groups = [GroupName(gid, name, f"/{ROOT}/{name}") for gid, name in found]
        return answer(coap.CONTENT, encode_names(groups), labels.GROUPCOMM_CBOR)

    async def _join(self, request: aiocoap.Message, device: str, group: str) -> aiocoap.Message:
        server, manager = self._server, self._server.manager
        challenge = server.associations.challenge(device)
        if not request.payload:
            settings = manager.authorized(device, group)[1].settings
            payload = challenge_map(group, settings.parameters, settings.credential_kind, challenge, manager.points)
            return answer(coap.BAD_REQUEST, payload, labels.GROUPCOMM_CBOR)
        _check_format(request, labels.GROUPCOMM_CBOR)
        self._changes.take(device)
        joined: Answer = await server.join(device, group, request.payload)
        member, current = joined.member, manager.groups.get(group)
        if current is None or current.members.get(member.node) is not member:
            raise Refused(coap.SERVICE_UNAVAILABLE, "no member any more", retry_after=1)
        asked = labels.GET_CREDS in fields(decode(request.payload), "the Join Request")
        report = manager.report(current, member, with_members=asked, prove_with=member.nonce)
        code = coap.CREATED if joined.created else coap.CHANGED
        response = answer(code, report.encode(manager.points), labels.GROUPCOMM_CBOR)
        response.opt.location_path = (ROOT, group, "nodes", member.node)
        return response

    async def _keys(self, request: aiocoap.Message, device: str, group: str) -> aiocoap.Message:
        return self._report(*self._server.manager.member(device, group), with_id=False)

    async def _own_keys(self, request: aiocoap.Message, device: str, group: str, node: str) -> aiocoap.Message:
        return self._report(*self._server.manager.member(device, group, node), with_id=True)

    def _report(self, group: Group, member: Member, *, with_id: bool) -> aiocoap.Message:
        """A catch-up: bounded, since everybody may want one at the same time."""
        self._catch_ups.take(member.device)
        manager = self._server.manager
        self._server.counts.add("catch_ups")
        report = manager.report(group, member, with_id=with_id)
        return answer(coap.CONTENT, report.encode(manager.points), labels.GROUPCOMM_CBOR)

    async def _creds(self, request: aiocoap.Message, device: str, group: str) -> aiocoap.Message:
        wanted = None
        if request.code is aiocoap.FETCH:
            _check_format(request, labels.GROUPCOMM_CBOR)
            wanted = parse_filter(request.payload)
        manager = self._server.manager
        manager.member(device, group)
        self._catch_ups.take(device)
        entries = manager.credentials(device, group, wanted)
        num = manager.groups[group].num
        payload = encode_credentials(num, entries) if entries else NOTHING
        return answer(coap.CONTENT, payload, labels.GROUPCOMM_CBOR)

    async def _kdc_cred(self, request: aiocoap.Message, device: str, group: str) -> aiocoap.Message:
        manager = self._server.manager
        current, member = manager.member(device, group)
        self._catch_ups.take(device)
        report = manager.report(current, member, prove_with=member.nonce)
        credential = report.manager_credential
        assert credential is not None
        content = {
            labels.KDC_CRED: credential.data,
            labels.KDC_NONCE: report.manager_nonce,
            labels.KDC_CRED_VERIFY: report.manager_proof,
        }
        return answer(coap.CONTENT, cbor2.dumps(content), labels.GROUPCOMM_CBOR)

    async def _policies(self, request: aiocoap.Message, device: str, group: str) -> aiocoap.Message:
        manager = self._server.manager
        current, member = manager.member(device, group)
        content = decode(manager.report(current, member, with_id=False).encode(manager.points))
        policies = fields(content, "the report")[labels.GROUP_POLICIES]
        return answer(coap.CONTENT, cbor2.dumps({labels.GROUP_POLICIES: policies}), labels.GROUPCOMM_CBOR)

    async def _num(self, request: aiocoap.Message, device: str, group: str) -> aiocoap.Message:
        current, _ = self._server.manager.member(device, group)
        return answer(coap.CONTENT, cbor2.dumps(current.num), labels.CBOR)

    async def _active(self, request: aiocoap.Message, device: str, group: str) -> aiocoap.Message:
        current, _ = self._server.manager.member(device, group)
        return answer(coap.CONTENT, cbor2.dumps(current.active), labels.CBOR)

    async def _stale(self, request: aiocoap.Message, device: str, group: str) -> aiocoap.Message:
        _check_format(request, labels.CBOR)
        ids = self._server.manager.stale_ids(device, group, read_number(request.payload))
        if ids is None:
            return answer(coap.CONTENT)
        return answer(coap.CONTENT, cbor2.dumps(sorted(ids)), labels.CBOR)

    # ---- the member

    async def _new_id(self, request: aiocoap.Message, device: str, group: str, node: str) -> aiocoap.Message:
        if request.payload:
            raise Refused(coap.BAD_REQUEST, "a request for a new Endpoint ID has no payload")
        self._changes.take(device)
        manager = self._server.manager
        member = manager.renew_id(device, group, node)
        await self._server.persist()
        payload = cbor2.dumps({manager.points.group_sender_id: member.endpoint_id})
        return answer(coap.CHANGED, payload, labels.GROUPCOMM_CBOR)

    async def _leave(self, request: aiocoap.Message, device: str, group: str, node: str) -> aiocoap.Message:
        self._changes.take(device)
        renewal = self._server.manager.leave(device, group, node)
        await self._server.carry_out([] if renewal is None else [renewal], [])
        self._server.delivery.confirmed(group)  # who waits for this member need not any more
        return answer(coap.DELETED)

    async def _new_credential(
        self, request: aiocoap.Message, device: str, group: str, node: str
    ) -> aiocoap.Message:
        _check_format(request, labels.GROUPCOMM_CBOR)
        credential, proof, nonce = read_credential(request.payload)
        self._changes.take(device)
        challenge = self._server.associations.challenge(device)
        self._server.manager.replace_credential(device, group, node, credential, proof, nonce, challenge)
        await self._server.persist()
        return answer(coap.CHANGED)

    async def _confirm(self, request: aiocoap.Message, device: str, group: str, node: str) -> aiocoap.Message:
        _check_format(request, labels.CBOR)
        num, gid, control = read_confirmation(request.payload, group)
        server = self._server
        server.counts.add("confirmations")
        try:
            current = server.manager.confirm(device, group, node, num, gid, control)
        finally:
            server.soon(server.persist())  # an alarm, or where it is reached: nothing that the answer depends on
        server.delivery.confirmed(group)
        return answer(coap.CHANGED if current else coap.CONFLICT)


class _Root(resource.Resource):  # type: ignore[misc]
    """The root itself: aiocoap gives a resource that is capable of paths only what is below its own."""

    def __init__(self, groups: Groups) -> None:
        super().__init__()
        self._groups = groups

    async def render(self, request: aiocoap.Message) -> aiocoap.Message:
        """aiocoap's entry point."""
        return await self._groups.render(request)


def _check_format(request: aiocoap.Message, expected: int) -> None:
    """`Refused` if the request says that its payload is of another kind."""
    given = request.opt.content_format
    if given is not None and int(given) != expected:
        raise Refused(coap.UNSUPPORTED_CONTENT_FORMAT, f"Content-Format {int(given)} instead of {expected}")


@refusing
def read_number(payload: bytes) -> int:
    """What FETCH …/stale-sids asks for. `Refused` (4.00) if it is no number."""
    return integer(decode(payload), "num")


@refusing
def read_credential(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """What POST …/cred brings: (credential, proof, N_C). `Refused` (4.00)."""
    content = fields(decode(payload), "the credential")
    credential = octets(needed(content, labels.CLIENT_CRED, "client_cred"), "client_cred", 1, 4096)
    proof = octets(needed(content, labels.CLIENT_CRED_VERIFY, "client_cred_verify"), "client_cred_verify", 1, 256)
    return credential, proof, octets(needed(content, labels.CNONCE, "cnonce"), "cnonce", 8, 64)


@refusing
def read_confirmation(payload: bytes, group: str) -> tuple[int, bytes, str | None]:
    """What PUT …/num says: (num, Gid, control URI or None). `Refused` (4.00)."""
    items = array(decode(payload), "the confirmation")
    if not 2 <= len(items) <= 3:
        raise Malformed("a confirmation has two or three elements")
    num, gid = integer(items[0], "num"), octets(items[1], "Gid", 1, 255)
    if len(items) == 2 or items[2] is None:
        return num, gid, None
    control = text(items[2], "the control URI", MAX_URI)
    if split_control_uri(control)[2] != group:
        raise Malformed("a control URI of another group")
    return num, gid, control


def manager_site(server: ManagerServer) -> interfaces.Resource:
    """All of the manager's resources."""
    site, groups = resource.Site(), Groups(server)
    site.add_resource([ROOT], groups)
    site.add_resource([ROOT], _Root(groups))
    site.add_resource(PATH, AssociateResource(server.associations))
    return site
