"""An endpoint's groups and their live Security Contexts: who is found by what (draft §5.2, §3.1)."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import MisuseError, Reason, Rejected
from .contexts import SecurityContext


class Registry:
    """Security Contexts by Gid and destination, and the current one of each group.

    A group is its name. Several Gids of it may be live: the current one, and older ones that still verify
    responses to requests already sent (multicast-oscore-04 §8)."""

    def __init__(self) -> None:
        self.by_address: dict[tuple[bytes, bytes], SecurityContext] = {}
        """{(Gid, packed multicast address): context}, to be looked into; `at` says why not, if it is not there."""
        self._by_gid: dict[bytes, tuple[SecurityContext, ...]] = {}
        self._by_group: dict[str, list[SecurityContext]] = {}

    def install(self, context: SecurityContext, addresses: Iterable[bytes]) -> None:
        """Make this the current context of its group, reachable at these packed multicast addresses. An older
        context of the group takes no more requests until it is told to (`accepts_requests`).

        `MisuseError` if another context has the same Gid at one of the addresses, or this group already had
        this Gid."""
        group, gid = context.group, context.gid
        packed = tuple(addresses)
        siblings = self._by_group.get(group, [])
        if any((gid, address) in self.by_address for address in packed) or any(
            sibling.gid == gid for sibling in siblings
        ):
            raise MisuseError(f"there already is a security context with Gid {gid.hex()} at this address")
        if any(other.common.common_iv == context.common.common_iv for other in self._by_gid.get(gid, ())):
            raise MisuseError(f"two groups have the same keys (Gid {gid.hex()}): nonces would repeat")
        for older in siblings:
            older.supersede()
        context.generation = siblings[-1].generation + 1 if siblings else 0
        self._by_group[group] = [*siblings, context]
        self._by_gid[gid] = (*self._by_gid.get(gid, ()), context)
        for address in packed:
            self.by_address[gid, address] = context

    def remove(self, context: SecurityContext) -> None:
        """Forget this context: its collections are over and its grace has ended, or this endpoint has left the
        group."""
        context.end()
        siblings = self._by_group[context.group]
        siblings.remove(context)
        if not siblings:
            del self._by_group[context.group]
        others = tuple(c for c in self._by_gid[context.gid] if c is not context)
        if others:
            self._by_gid[context.gid] = others
        else:
            del self._by_gid[context.gid]
        self.by_address = {k: v for k, v in self.by_address.items() if v is not context}

    def at(self, gid: bytes, address: bytes) -> SecurityContext:
        """The context of a request sent under this Gid to this multicast address. `Rejected` if there is none, or
        it takes no more requests."""
        context = self.by_address.get((gid, address))
        if context is None:
            raise Rejected(Reason.UNKNOWN_GROUP, gid.hex())
        if context.refusal is not None or not context.accepts_requests:
            raise Rejected(context.refusal or Reason.CONTEXT_RETIRED, gid.hex())
        return context

    def of(self, gid: bytes) -> tuple[SecurityContext, ...]:
        """The contexts that a request sent under this Gid by unicast may belong to: more than one where groups of
        several managers collide. `Rejected` as for `at`."""
        found = self._by_gid.get(gid)
        if found is None:
            raise Rejected(Reason.UNKNOWN_GROUP, gid.hex())
        usable = tuple(context for context in found if context.refusal is None)
        if not usable:
            raise Rejected(Reason.CONTEXT_EXPIRED, gid.hex())
        accepting = tuple(context for context in usable if context.accepts_requests)
        if not accepting:
            raise Rejected(Reason.CONTEXT_RETIRED, gid.hex())
        return accepting

    def knows(self, gid: bytes) -> bool:
        """Whether any context, current or old, has this Gid."""
        return gid in self._by_gid

    def current(self, group: str, gid: bytes | None = None) -> SecurityContext:
        """The current context of this group. `Rejected` if there is none, or it is not of this Gid."""
        contexts = self._by_group.get(group)
        if not contexts or gid not in (None, contexts[-1].gid):
            raise Rejected(Reason.UNKNOWN_GROUP, group if gid is None else gid.hex())
        return contexts[-1]

    def contexts(self, group: str) -> tuple[SecurityContext, ...]:
        """All live contexts of this group, the current one last."""
        return tuple(self._by_group.get(group, ()))

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self._by_group)
