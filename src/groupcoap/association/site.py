"""A site behind OSCORE: requests are verified, put together from blocks, served, and their answers protected.

aiocoap's `OscoreSiteWrapper` does that for its own contexts. This one waits for durable numbers where it must,
keeps bodies in bounds (what a device may cost the manager is limited even when it is authenticated), knows no
EDHOC and no observations, and ends every request, also those that it does not answer.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any, Final, Protocol

from aiocoap import CON, FETCH, POST, Message, error, interfaces, oscore
from aiocoap.numbers import codes
from aiocoap.oscore import ContextUnavailable, ReplayError, ReplayErrorWithEcho
from aiocoap.pipe import Pipe
from aiocoap.resource import Resource
from aiocoap.transports.oscore import OSCOREAddress

from ..endpoint.blockwise import Blockwise
from ..endpoint.limits import Limits, Reached
from ..endpoint.sparing import sparing_logger
from ..errors import Refused
from .context import AssociationContext
from .registry import Associations
from .setup import CONTENT_FORMAT, AssociateRequest

_SILENCE: Final = 26
"""No-Response (RFC 7967) to all classes: the request ends, and at most its acknowledgement is sent."""

log = sparing_logger("groupcoap.associations")


class Credentials(Protocol):
    """Who knows the contexts for requests."""

    def find_oscore(self, unprotected: dict[int, Any]) -> AssociationContext:
        """`KeyError` if there is none for these unprotected COSE parameters."""
        ...  # pragma: no cover


class AssociationRemote(OSCOREAddress):  # type: ignore[misc]
    """The peer of an association at a socket address: what requests under it come from, and go to."""

    maximum_block_size_exp = 5  # 512 bytes: with what protects them they are never cut again outside
    maximum_payload_size = 512
    last_block: Any = None

    @property
    def peer(self) -> Hashable:
        """Who limits count this for."""
        name: str = self.security_context.peer
        return name

    @property
    def identity(self) -> tuple[object, ...]:
        """What bodies in blocks are told apart by: they may go on under the peer's next association."""
        return (self.security_context.peer,)

    @property
    def blockwise_key(self) -> tuple[object, ...]:
        return self.identity

    @property
    def address(self) -> Any:
        """The socket address. Nothing about it is authentic."""
        return self.underlying_address.address


class _Rendering:
    """Stands where a resource expects a `Pipe`; keeps the first answer."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.answer: Any = None

    def add_response(self, response: Any, is_last: bool = False) -> None:
        if self.answer is None:
            self.answer = response


def _refusal(refused: Refused) -> Any:
    """A refusal that its resource has not put into a message itself: a diagnostic payload (RFC 7252 §5.5.2)."""
    message = Message(code=codes.Code(refused.code), payload=refused.title.encode())
    if refused.retry_after is not None:
        message.opt.max_age = max(1, round(refused.retry_after))
    return message


class ProtectedSite(interfaces.Resource):  # type: ignore[misc]
    """See the module's text. `site` gets requests that are not protected as well; what it serves over associations
    only calls `device_of`. `credentials` may be set later; None: no request can be verified."""

    def __init__(
        self, site: interfaces.Resource | None, credentials: Credentials | None, limits: Limits, reached: Reached
    ) -> None:
        super().__init__()
        self.credentials = credentials
        self._site = site
        self._blockwise = Blockwise(limits, reached, reached)

    async def needs_blockwise_assembly(self, request: Any) -> bool:
        return False

    async def render(self, request: Any) -> Any:
        raise NotImplementedError("requests come by render_to_pipe")

    async def render_to_pipe(self, pipe: Pipe) -> None:
        """aiocoap's entry point: always adds one response."""
        request = pipe.request
        if request.opt.oscore is None:
            answer = await self._serve(request)
        else:
            answer = await self._protected(request)
        pipe.add_response(answer, is_last=True)

    async def _protected(self, request: Any) -> Any:
        """The protected answer to a protected request, or an error that is not protected."""
        if request.code not in (POST, FETCH):
            return _unprotected(request, codes.METHOD_NOT_ALLOWED, "")
        try:
            context = self._find(request)
            if not context.initialized:
                await context.ready()  # the Echo challenge needs a number of its own
            inner, request_id = context.unprotect(request)
        except KeyError:
            return _unprotected(request, codes.UNAUTHORIZED, "Security context not found")
        except ContextUnavailable:
            return _unprotected(request, codes.SERVICE_UNAVAILABLE, "")
        except ReplayErrorWithEcho as challenge:
            return self._challenged(request, challenge)
        except ReplayError:
            return _unprotected(request, codes.UNAUTHORIZED, "Replay detected")
        except oscore.ProtectionInvalid:
            return _unprotected(request, codes.BAD_REQUEST, "Decryption failed")
        except (error.Error, ValueError):  # verified, and yet no message
            return _unprotected(request, codes.BAD_OPTION, "")
        answer = await self._answer(context, request, inner)
        try:
            return context.protect(answer, request_id)[0]
        except ContextUnavailable:
            return _unprotected(request, codes.SERVICE_UNAVAILABLE, "")

    def _find(self, request: Any) -> AssociationContext:
        if self.credentials is None:
            raise KeyError
        return self.credentials.find_oscore(oscore.verify_start(request))

    def _challenged(self, request: Any, challenge: ReplayErrorWithEcho) -> Any:
        try:
            return challenge.to_message()
        except ContextUnavailable:
            return _unprotected(request, codes.SERVICE_UNAVAILABLE, "")

    async def _answer(self, context: AssociationContext, request: Any, inner: Any) -> Any:
        """What is protected: an answer, or a block of one."""
        now = asyncio.get_running_loop().time
        if not inner.code.is_request():
            return Message(code=codes.BAD_REQUEST)
        inner.remote = AssociationRemote(context, request.remote)
        inner.mtype, inner.mid = request.mtype, request.mid
        inner.opt.observe = None
        answer = self._blockwise.receive(inner, now())
        if answer is None:
            whole = await self._serve(inner)
            whole.request = inner
            answer = self._blockwise.cut(whole, now())
        answer.opt.no_response = None
        return answer

    async def _serve(self, request: Any) -> Any:
        """The site's answer; of an exception the message that says so."""
        if self._site is None:
            return Message(code=codes.NOT_FOUND)
        rendering = _Rendering(request)
        try:
            await self._site.render_to_pipe(rendering)
        except Refused as refused:
            return _refusal(refused)
        except error.RenderableError as problem:
            return problem.to_message()
        except Exception:  # a resource's mistake: its peer is told no more
            log.exception("a request was not served")
            return Message(code=codes.INTERNAL_SERVER_ERROR)
        return rendering.answer or Message(code=codes.INTERNAL_SERVER_ERROR)


def _unprotected(request: Any, code: Any, text: str) -> Any:
    """An error outside the association: for confirmable requests only, and not to be kept by a proxy."""
    message = Message(code=code, payload=text.encode(), max_age=0)
    if request.mtype is not CON:
        message.opt.no_response = _SILENCE
    return message


class AssociateResource(Resource):  # type: ignore[misc]
    """/associate at the manager: POST sets up an association."""

    def __init__(self, associations: Associations) -> None:
        super().__init__()
        self._associations = associations

    async def render_post(self, request: Any) -> Any:
        if request.opt.content_format != CONTENT_FORMAT:
            raise error.UnsupportedContentFormat
        asked = AssociateRequest.parse(request.payload)
        now = asyncio.get_running_loop().time()
        response = self._associations.associate(asked, request.remote.address[0], now)
        return Message(code=codes.CREATED, payload=response.encode(), content_format=CONTENT_FORMAT)
