"""Which site serves which group."""

from __future__ import annotations

from aiocoap import error, interfaces
from aiocoap.pipe import Pipe

from ..errors import MisuseError


class GroupSites:
    """Stands where aiocoap expects one site: a request goes to the site of the group that it came through."""

    def __init__(self) -> None:
        self._sites: dict[str, interfaces.Resource] = {}

    def add(self, group: str, site: interfaces.Resource) -> None:
        """Serve a group. `MisuseError` if it is served already."""
        if group in self._sites:
            raise MisuseError(f"group {group!r} is served already")
        self._sites[group] = site

    def remove(self, group: str) -> None:
        self._sites.pop(group, None)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that are served."""
        return tuple(self._sites)

    async def render_to_pipe(self, pipe: Pipe) -> None:
        """aiocoap's entry point. `NotFound` (4.04) if the group is not served here."""
        site = self._sites.get(pipe.request.remote.group)
        if site is None:
            raise error.NotFound
        await site.render_to_pipe(pipe)
