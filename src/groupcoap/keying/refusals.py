"""Refusals on the wire: concise problem details with an ace-groupcomm-error (RFC 9290, RFC 9594 §4.1.2)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import cbor2

from ..core.coap import code_text
from ..errors import Refused
from . import labels, reading
from .reading import Malformed

MAX_TITLE: Final = 200
"""Characters that are kept of the text of a refusal."""


class GroupError(IntEnum):
    """The values of ace-groupcomm-error (RFC 9594 §9, KGO §13)."""

    ONLY_FOR_MEMBERS = 0
    INCONSISTENT_ROLES = 1
    INCOMPATIBLE_CREDENTIAL = 2
    INVALID_PROOF = 3
    NO_ENDPOINT_ID = 4
    MEMBERSHIP_TERMINATED = 5
    GROUP_DELETED = 6
    NO_SIGNATURES = 7
    ONLY_FOR_VERIFIERS = 8
    GROUP_NOT_ACTIVE = 9


_TEXTS: Final = {
    GroupError.ONLY_FOR_MEMBERS: "only for members of the group",
    GroupError.INCONSISTENT_ROLES: "not with these roles",
    GroupError.INCOMPATIBLE_CREDENTIAL: "the credential does not fit the group",
    GroupError.INVALID_PROOF: "the proof of possession is not valid",
    GroupError.NO_ENDPOINT_ID: "no Endpoint ID is left",
    GroupError.MEMBERSHIP_TERMINATED: "the membership has ended",
    GroupError.GROUP_DELETED: "the group is deleted",
    GroupError.NO_SIGNATURES: "the group has no signatures",
    GroupError.ONLY_FOR_VERIFIERS: "only for signature verifiers",
    GroupError.GROUP_NOT_ACTIVE: "the group is not active",
}


def encode_problem(refused: Refused) -> bytes:
    """The payload (Content-Format 257) of a refusal: {0: {0: error}, -1: title}, either left out where there is
    none. Its code travels in the response's header, `retry_after` in Max-Age."""
    problem: dict[int, object] = {}
    if refused.error is not None:
        problem[labels.ACE_GROUPCOMM_ERROR] = {labels.ERROR_ID: int(refused.error)}
    if refused.title:
        problem[labels.TITLE] = refused.title
    return cbor2.dumps(problem)


def parse_refusal(code: int, content_format: int | None, payload: bytes) -> Refused:
    """The refusal that a response with this code says, to be raised. Whatever the payload is, there is one: its
    title is made from what is known. No text from outside gets into it but as one line of printable
    characters."""
    error, title = None, ""
    if content_format == labels.PROBLEM_DETAILS:
        error, title = _problem(payload)
    elif content_format in (None, 0):  # a diagnostic payload (RFC 7252 §5.5.2), or text that says it is
        title = _one_line(payload.decode("utf-8", "replace"))
    return Refused(code, title or _text(code, error), error)


def _problem(payload: bytes) -> tuple[int | None, str]:
    try:
        problem = reading.fields(reading.decode(payload), "problem details")
    except Malformed:
        return None, ""
    title, custom = problem.get(labels.TITLE), problem.get(labels.ACE_GROUPCOMM_ERROR)
    error = custom.get(labels.ERROR_ID) if isinstance(custom, dict) else None
    known = isinstance(error, int) and not isinstance(error, bool)
    return (error if known else None), (_one_line(title) if isinstance(title, str) else "")


def _text(code: int, error: int | None) -> str:
    if error is None:
        return f"refused with {code_text(code)}" if code > 0 else "refused"
    return next((text for known, text in _TEXTS.items() if known == error), f"refused with error {error}")


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TITLE]).strip()
