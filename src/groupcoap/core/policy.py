"""A group's choices that the core acts on, and the profiles it can be configured with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from ..errors import MisuseError
from .group_oscore import GROUP_OSCORE
from .multicast_oscore_04 import MULTICAST_OSCORE_04
from .profile import Mode, Profile
from .synchronization import SynchronizationPolicy

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (MULTICAST_OSCORE_04, GROUP_OSCORE)}


def profile_by_name(name: str) -> Profile:
    """The wire profile with this name; `MisuseError` if there is none."""
    try:
        return PROFILES[name]
    except (KeyError, TypeError):
        raise MisuseError(f"profile {name!r} is not known; there is {', '.join(PROFILES)}") from None


class Verification(Enum):
    """What a listener does with countersignatures of requests (Appendix E).

    Anything but ALWAYS lets every member of the group, pure listeners included, speak as any other to this
    listener and move that sender's window here. The keys of the group may guard locks as well as bulbs."""

    ALWAYS = "always"
    SKIP = "skip"
    DEFER = "defer"


Decide = Callable[[int, tuple[bytes, ...]], Verification]
"""Per-request choice: request code and Uri-Path (of a message that is not authentic yet) → what to do."""


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """What the Group Manager, or the provisioned file, decides for a group; a listener may differ in the first
    three.

    `response_mode`: of answers, where there is a pairwise mode; None: that of the request. `grace`: seconds that
    requests under the previous Gid are still taken after a renewal (0: none). `max_unfragmented_size`: bytes of a
    message reassembled from outer blocks."""

    synchronization: SynchronizationPolicy = field(default_factory=SynchronizationPolicy)
    verification: Verification = Verification.ALWAYS
    response_mode: Mode | None = None
    grace: float = 0.0
    max_unfragmented_size: int = 4096

    def __post_init__(self) -> None:
        if self.grace < 0 or self.max_unfragmented_size < 64:
            raise MisuseError("a policy value is out of range")
