"""Roles on the wire: the Tperm of KGO §3.1, and which may go together (draft §1.1, Appendix C.1)."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

from ..core.coap import BAD_REQUEST
from ..errors import MisuseError, Refused
from ..membership import Role

REQUESTER: Final = 1 << 1
RESPONDER: Final = 1 << 2
MONITOR: Final = 1 << 3
VERIFIER: Final = 1 << 4

_BITS: Final = {Role.MULTICASTER: REQUESTER, Role.LISTENER: RESPONDER, Role.PURE_LISTENER: MONITOR}

_MULTICASTER: Final = frozenset({Role.MULTICASTER})
_LISTENER: Final = frozenset({Role.LISTENER})
_PURE: Final = frozenset({Role.PURE_LISTENER})
_STANDARD: Final = frozenset({_MULTICASTER, _LISTENER, _PURE, _MULTICASTER | _LISTENER})
_SEED: Final = _STANDARD | {_MULTICASTER | _PURE}


@cache
def tperm(roles: frozenset[Role]) -> int:
    """These roles as a Tperm: a bit for each, the lowest (admin scopes) never set. `MisuseError` if there is
    none."""
    if not roles:
        raise MisuseError("a member has at least one role")
    return sum(_BITS[role] for role in roles)


@lru_cache(256)  # of numbers that others choose
def roles_of(tperm: int) -> frozenset[Role]:
    """The roles of a Tperm, whether or not they may go together. `Refused` (4.00) if it has none, or others: a
    signature verifier is no member, and cannot join as one."""
    if tperm & VERIFIER and tperm >= 0:
        raise Refused(BAD_REQUEST, "a signature verifier does not join")
    roles = frozenset(role for role, bit in _BITS.items() if tperm & bit)
    if not roles or tperm != sum(_BITS[role] for role in roles):
        raise Refused(BAD_REQUEST, "roles that are not known")
    return roles


def check_combination(roles: frozenset[Role], seed: bool) -> None:
    """Whether a member may have these roles together. `seed`: in the profile multicast-oscore-04, which has five
    combinations (Appendix C.1); KGO §6.1 has not that of multicaster and pure listener. `Refused` (4.00) if not."""
    if roles not in (_SEED if seed else _STANDARD):
        raise Refused(BAD_REQUEST, "roles that do not go together")


def sends(roles: frozenset[Role]) -> bool:
    """Whether such a member protects messages, and so has an Endpoint ID and a credential: all but who is only a
    pure listener."""
    return roles != _PURE
