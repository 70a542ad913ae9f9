"""Point-to-point rekeying (RFC 9594 §6.1): no administrative keys; everybody is reached over its own
association."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from ...errors import MisuseError
from ...keying.admin import AdminKey, Scheme
from .model import KeyRecord, Plan, Random, check_batch, distinct, renew_members


class PointToPoint:
    """The keyring of a group without administrative keys: it only knows the members."""

    scheme = Scheme.POINT_TO_POINT

    def __init__(self, members: Iterable[str]) -> None:
        self._members = distinct(members)

    @property
    def members(self) -> AbstractSet[str]:
        """The names of the members, as a view."""
        return self._members.keys()

    def plan(self, joined: Sequence[str], left: Sequence[str], random: Random) -> Plan:
        """`Keyring.plan`: a unicast to each remaining member. `random` is not asked."""
        check_batch(self.members, joined, left)
        remaining = len(self._members) - len(left)
        return Plan((), remaining > 0, remaining, (), (), tuple(joined), tuple(left))

    def apply(self, plan: Plan) -> None:
        """`Keyring.apply`. Without keys, only the names show whether a plan was made from this state."""
        renew_members(self._members, plan)

    def path(self, member: str) -> tuple[AdminKey, ...]:
        """`Keyring.path`: always empty."""
        if member not in self._members:
            raise MisuseError(f"{member} is not a member")
        return ()

    def records(self) -> Iterable[KeyRecord]:
        """`Keyring.records`: none."""
        return ()
