"""A device's end: its association with the manager, which is set up when it is needed."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import aiocoap
from aiocoap.oscore import COSE_KID, COSE_KID_CONTEXT, ContextUnavailable

from ..core import coap
from ..endpoint.sparing import sparing_logger
from ..errors import GroupcoapError, MisuseError, NetworkFault, Reason, Refused, Rejected
from ..keying.refusals import parse_refusal
from ..secret import Secret
from .context import AssociationContext, master_salt
from .node import CoapNode, HostPort, UnprotectedAnswer
from .setup import CONTENT_FORMAT, NONCE, PATH, AssociateRequest, AssociateResponse, check_handle

MANAGER: Final = "manager"
"""What a device's contexts call their peer."""
INTERVAL: Final = 2.0
"""Seconds from one set-up to the next."""
PATIENCE: Final = 7.0
"""Seconds without a sign of life after which the next address is asked: two retransmissions in most cases."""
TIMEOUT: Final = 60.0

_ID: Final = 2
"""Bytes of a Recipient ID. It is in the manager's requests only."""
_UNVERIFIED: Final = 2
"""Associations that are kept although they have verified nothing: the manager may have."""
_TRANSFERS: Final = 3
"""How often a body in blocks is begun: a manager that was restarted does not know of the first blocks."""
_HINTS: Final = (coap.UNAUTHORIZED, coap.BAD_REQUEST, coap.BAD_OPTION)
"""What a manager answers that does not know the association, or knows another by its ID."""

Payload = bytes | Callable[[bytes], bytes]

log = sparing_logger("groupcoap.associations")


class ManagerLink:
    """A device's link to its manager. `node`: whose requests from the manager are accepted from now on.
    `addresses`: the manager's, of which the one that worked last is asked first. `handle` (8 bytes) and
    `secret`: of the enrolment. `random`: so many random bytes. `interval`: seconds from one set-up to the next
    at least; `patience`: seconds that an address may be silent. `MisuseError` if there is no address, or the
    handle is none."""

    def __init__(
        self,
        node: CoapNode,
        addresses: Sequence[HostPort],
        handle: bytes,
        secret: Secret,
        random: Callable[[int], bytes],
        *,
        interval: float = INTERVAL,
        patience: float = PATIENCE,
    ) -> None:
        check_handle(handle)
        if not addresses:
            raise MisuseError("a manager has at least one address")
        self._node = node
        self._addresses = list(addresses)
        self._handle = handle
        self._secret = secret
        self._random = random
        self._interval = interval
        self._patience = patience
        self._current: AssociationContext | None = None
        self._accepted: dict[bytes, AssociationContext] = {}
        self._setting_up: asyncio.Task[AssociationContext] | None = None
        self._last_set_up = -interval
        self.challenge: bytes | None = None
        """N_S of the last set-up; None: there was none."""
        node.credentials = self

    @property
    def context(self) -> AssociationContext | None:
        """Of the current association; None: the next request sets one up."""
        return self._current

    def find_oscore(self, unprotected: dict[int, Any]) -> AssociationContext:
        """The context for a request of the manager: of the current association, or of the one before as long as the
        current one has verified nothing. `KeyError` if it is none of these."""
        if COSE_KID_CONTEXT in unprotected:
            raise KeyError("associations have no ID Context")
        return self._accepted[unprotected[COSE_KID]]

    async def close(self) -> None:
        """End a set-up that is under way."""
        if self._setting_up is not None:
            self._setting_up.cancel()
            await asyncio.gather(self._setting_up, return_exceptions=True)

    # ---- requests

    async def associate(self, timeout: float = TIMEOUT) -> bytes:
        """Set up an association if there is none: its N_S. Raises as `request` does."""

        await self._at_some_address(self._ensured, timeout)
        return self.challenge or b""

    async def request(
        self,
        code: int,
        path: Sequence[str],
        payload: Payload = b"",
        content_format: int | None = None,
        timeout: float = TIMEOUT,
    ) -> aiocoap.Message:
        """The manager's successful answer, verified, within `timeout` seconds in all. `payload`: bytes, or what
        makes them of N_S of the association that the request goes by; it may be asked again.

        `Refused`: the manager refuses the request or, which anybody may have said, a set-up. `NetworkFault`: no
        address of the manager answers. A request may be processed by the manager more than once, even if this
        raises: an answer can be lost, and an unprotected one that ends an association be forged."""

        async def ask(address: HostPort) -> aiocoap.Message:
            return await self._ask(address, code, path, payload, content_format, timeout)

        for _ in range(_TRANSFERS):
            answer = await self._at_some_address(ask, timeout)
            if answer.code is not aiocoap.REQUEST_ENTITY_INCOMPLETE:
                break
        if not answer.code.is_successful():
            raise _refused(answer)
        return answer

    async def _at_some_address(self, ask: Callable[[HostPort], Any], timeout: float) -> Any:
        """Ask one address after the other, from the last that worked: the first answer. Otherwise a refusal, if
        there was one, or the last failure."""
        refused: Refused | None = None
        problem: GroupcoapError | None = None
        try:
            async with asyncio.timeout(timeout):
                for address in tuple(self._addresses):
                    try:
                        answer = await ask(address)
                    except Refused as refusal:
                        refused = refusal
                    except (NetworkFault, Rejected) as failure:
                        log.debug("manager at %s: %s", address[0], failure)
                        problem = failure
                    else:
                        self._prefer(address)
                        return answer
        except TimeoutError:
            problem = None
        if refused is not None:
            raise refused
        raise NetworkFault(f"no manager answers: {problem or 'not in time'}") from None

    def _prefer(self, address: HostPort) -> None:
        self._addresses.remove(address)
        self._addresses.insert(0, address)

    async def _ask(
        self,
        address: HostPort,
        code: int,
        path: Sequence[str],
        payload: Payload,
        content_format: int | None,
        timeout: float,
    ) -> aiocoap.Message:
        """Ask at this address; if the association has ended, once more by another."""
        for attempt in (1, 2):
            context = await self._ensured(address)
            challenge = self.challenge or b""
            body = payload if isinstance(payload, bytes) else payload(challenge)
            message = aiocoap.Message(code=aiocoap.Code(code), payload=body, uri_path=tuple(path))
            message.opt.content_format = content_format
            try:
                return await self._node.request(message, address, context, timeout, self._patience)
            except ContextUnavailable:
                self._end(context)
            except UnprotectedAnswer as answer:
                if answer.code not in _HINTS:
                    raise
                self._end(context)
                if attempt == 2:
                    raise
        raise NetworkFault("no association lasts")  # the second one had no numbers either

    def doubt(self, context: AssociationContext, answer: UnprotectedAnswer) -> None:
        """A request that went by this association, elsewhere, was answered without protection. If that says that
        the manager does not know it, the next request sets up another."""
        if answer.code in _HINTS:
            self._end(context)

    def correct(self, context: AssociationContext, challenge: bytes | None) -> None:
        """The manager's verified answer names this N_S. The one of the set-up was not protected, and may have been
        changed on the way: then no proof would ever be right."""
        if challenge is not None and self._current is context:
            self.challenge = challenge

    def _end(self, context: AssociationContext) -> None:
        """Use this association for no further requests, unless there is another already."""
        if self._current is context:
            self._current = None

    # ---- setting up

    async def _ensured(self, address: HostPort) -> AssociationContext:
        """The current association's context. If there is none, one is set up at this address, or is being set up
        already. Raises as `request` does, and `Rejected`."""
        if self._current is not None:
            return self._current
        if self._setting_up is None:
            self._setting_up = asyncio.create_task(self._set_up(address))
            self._setting_up.add_done_callback(self._set_up_done)
        return await asyncio.shield(self._setting_up)

    def _set_up_done(self, task: asyncio.Task[AssociationContext]) -> None:
        self._setting_up = None
        if not task.cancelled():
            task.exception()  # whoever waits has it; perhaps nobody does any more

    async def _set_up(self, address: HostPort) -> AssociationContext:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._last_set_up + self._interval - loop.time()))
        self._last_set_up = loop.time()
        asked = AssociateRequest(self._handle, self._random(NONCE), self._new_id())
        message = aiocoap.Message(
            code=aiocoap.POST, payload=asked.encode(), uri_path=PATH, content_format=CONTENT_FORMAT
        )
        answer = await self._node.request(message, address, None, 2 * self._patience, self._patience)
        if not answer.code.is_successful():
            raise _refused(answer)
        return self._take(asked, AssociateResponse.parse(answer.payload))

    def _new_id(self) -> bytes:
        while (own_id := self._random(_ID)) in self._accepted:
            pass
        return own_id

    def _take(self, asked: AssociateRequest, answer: AssociateResponse) -> AssociationContext:
        if answer.recipient_id == asked.recipient_id:
            raise Rejected(Reason.MALFORMED, "answer to a set-up: both Recipient IDs are the same")
        salt = master_salt(self._handle, asked.nonce, answer.nonce)
        context = AssociationContext(
            MANAGER, self._secret, salt, answer.recipient_id, asked.recipient_id, fresh=True
        )
        # The manager uses the latest that it has verified something with: at least the latest that we have.
        known = list(self._accepted.values())
        verified = [former for former in known if former.verified][-1:]
        unverified = [former for former in known if not former.verified][-_UNVERIFIED:]
        kept = (*verified, *unverified, context)
        self._accepted = {one.recipient_id: one for one in kept}
        context.on_verified = lambda: self._verified(context)
        self._current = context
        self.challenge = answer.challenge
        return context

    def _verified(self, context: AssociationContext) -> None:
        """The manager has this association: it will not use the one before any more."""
        if self._accepted.get(context.recipient_id) is context:
            later = list(self._accepted.values())
            later = later[later.index(context) :]
            self._accepted = {known.recipient_id: known for known in later}


def _refused(answer: aiocoap.Message) -> Refused:
    """An error response as exception."""
    content_format = answer.opt.content_format
    number = None if content_format is None else int(content_format)
    refused = parse_refusal(int(answer.code), number, answer.payload)
    if refused.retry_after is None and answer.opt.max_age:
        refused.retry_after = float(answer.opt.max_age)
    return refused
