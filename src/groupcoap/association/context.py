"""The Security Context of an association: aiocoap's OSCORE, with bounded Sender Sequence Numbers.

Set up from a secret and nonces of both ends (RFC 9203 §4), AES-CCM-16-64-128 and HKDF SHA-256, no ID Context.
Relied on of aiocoap (0.4.17) beyond what it documents: see tests/association/test_aiocoap_oscore.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

from aiocoap import oscore
from aiocoap.oscore import CanProtect, CanUnprotect, ContextUnavailable, ReplayWindow, SecurityContextUtils

from ..core.cbor import bstr
from ..errors import MisuseError
from ..secret import Secret

RESERVATION: Final = 1000
"""Sender Sequence Numbers that are made durable at once."""
MAX_NUMBERS: Final = 1 << 40
"""Sender Sequence Numbers that there are (RFC 8613 §7.2.1)."""
MAX_ID: Final = 7
"""Bytes of the longest Sender or Recipient ID with this algorithm (RFC 8613 §3.3)."""
_RECOVERY_ECHO: Final = 8


def master_salt(handle: bytes, n1: bytes, n2: bytes) -> bytes:
    """The Master Salt of an association (RFC 9203 §4.3): three CBOR byte strings, one after the other.
    `handle`: what names the device, here in the place of the input salt; `n1`: the device's nonce; `n2`: the
    manager's."""
    return bstr(handle) + bstr(n1) + bstr(n2)


class AssociationContext(CanProtect, CanUnprotect, SecurityContextUtils):  # type: ignore[misc]
    """One end's Security Context of an association, for requests and responses in both directions.

    `peer`: who is at the other end, a device's name or "manager". `verified`: whether a message of the peer has
    been verified that is not a replay.

    `sender_id`, `recipient_id`: 0 to 7 bytes each, different. `next_number`: the first Sender Sequence Number;
    those at or past `bound` are never used. `fresh`: whether nothing was ever received under these keys; if
    not, the replay window is initialized by an Echo exchange (RFC 8613 Appendix B.1.2). `MisuseError` for IDs
    that cannot be.

    `on_low` is called with each number that is taken while fewer than half a reservation is left; `on_verified`
    once, before the first verified message is processed."""

    alg_aead = oscore.algorithms[oscore.DEFAULT_ALGORITHM]
    hashfun = oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION]
    id_context = None

    def __init__(
        self,
        peer: str,
        secret: Secret,
        salt: bytes,
        sender_id: bytes,
        recipient_id: bytes,
        *,
        next_number: int = 0,
        bound: int = MAX_NUMBERS,
        fresh: bool,
    ) -> None:
        if sender_id == recipient_id or max(len(sender_id), len(recipient_id)) > MAX_ID:
            raise MisuseError(f"Sender and Recipient ID differ, and have at most {MAX_ID} bytes")
        self.peer = peer
        self.verified = False
        self.on_low: Callable[[], None] | None = None
        self.on_verified: Callable[[], None] | None = None
        self.sender_id = sender_id
        self.recipient_id = recipient_id
        self.sender_sequence_number = next_number
        self.bound = min(bound, MAX_NUMBERS)
        self.authenticated_claims = [peer]
        self._extended = asyncio.Event()
        self.derive_keys(salt, secret.reveal())
        self.recipient_replay_window = ReplayWindow(oscore.DEFAULT_WINDOWSIZE, lambda: None)
        self.echo_recovery: bytes | None = None
        if fresh:
            self.recipient_replay_window.initialize_empty()
        else:
            self.echo_recovery = os.urandom(_RECOVERY_ECHO)

    @property
    def initialized(self) -> bool:
        """Whether the replay window is; if not, requests are answered with an Echo challenge first."""
        return bool(self.recipient_replay_window.is_initialized())

    def extend(self, bound: int) -> None:
        """Numbers up to this one, exclusive, may be used from now on: they are durable."""
        self.bound = max(self.bound, min(bound, MAX_NUMBERS))
        self._extended.set()

    async def ready(self, timeout: float = 5.0) -> None:
        """Wait until there is a number to use, asking for a reservation if need be. aiocoap's
        `ContextUnavailable` if there is none within `timeout` seconds, or never will be."""
        try:
            async with asyncio.timeout(timeout):
                while self.sender_sequence_number >= self.bound and self.bound < MAX_NUMBERS:
                    self._extended.clear()
                    self._tell_low()
                    await self._extended.wait()
        except TimeoutError:
            pass
        if self.sender_sequence_number >= self.bound:
            raise ContextUnavailable("no Sender Sequence Number may be used")

    def new_sequence_number(self) -> int:
        """Take a Sender Sequence Number. aiocoap's `ContextUnavailable` if none may be used."""
        number: int = self.sender_sequence_number
        if number >= self.bound:
            self._tell_low()
            raise ContextUnavailable("no Sender Sequence Number may be used")
        self.sender_sequence_number = number + 1
        self.post_seqnoincrease()
        return number

    def post_seqnoincrease(self) -> None:
        """What aiocoap wants to be told after each number taken."""
        if self.bound - self.sender_sequence_number < RESERVATION // 2:
            self._tell_low()

    def _tell_low(self) -> None:
        if self.on_low is not None:
            self.on_low()

    def unprotect(self, protected_message: Any, request_id: Any = None) -> tuple[Any, Any]:
        """(the message, what its response is bound to). aiocoap's `ProtectionInvalid` and those under it."""
        result: tuple[Any, Any] = super().unprotect(protected_message, request_id)
        if self.initialized:
            self.echo_recovery = None  # from now on a replay is not even decrypted
        if not self.verified:
            self.verified = True
            if self.on_verified is not None:
                self.on_verified()
        return result

    def __repr__(self) -> str:
        return f"<AssociationContext with {self.peer!r} {self.sender_id.hex()}/{self.recipient_id.hex()}>"
