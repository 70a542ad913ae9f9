"""The listener: an ordinary aiocoap site, served to groups."""

from __future__ import annotations

from collections.abc import Sequence

from aiocoap import interfaces

from .endpoint import Endpoint


class Listener:
    """Serves `site` to the groups (all of the endpoint's if none are named) until it is closed. A group that the
    endpoint leaves is served no more; one that it joins meanwhile is served if it is among the named ones, or none
    are, and no other listener serves it.

    Requests reach the site only when they are authentic and in order; `remote.provenance(request)` says who sent
    them. Whether answers are sent is the group's matter: a pure listener sends none. `NetworkFault` if a multicast
    address cannot be joined, `MisuseError` if a group is served already."""

    def __init__(self, endpoint: Endpoint, site: interfaces.Resource, groups: Sequence[str] | None = None) -> None:
        self._endpoint = endpoint
        self._site = site
        self._names = None if groups is None else tuple(groups)
        self._served: list[str] = []
        try:
            for group in endpoint.groups.names if groups is None else groups:
                for address in endpoint.addresses([group]):
                    endpoint.network.join(address)
                endpoint.sites.add(group, site)
                self._served.append(group)
        except Exception:
            self.close()
            raise
        endpoint.joinings[self._joined] = None
        endpoint.leavings.add(self._left)

    def _joined(self, group: str) -> None:
        """The endpoint joins the addresses of what is served."""
        if (self._names is None or group in self._names) and group not in self._endpoint.sites.groups:
            self._endpoint.sites.add(group, self._site)
            self._served.append(group)

    def _left(self, group: str) -> None:
        if group in self._served:
            self._served.remove(group)
            self._endpoint.sites.remove(group)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self._served)

    def close(self) -> None:
        """Serve no more, and leave the multicast addresses that nobody else on this endpoint listens at."""
        self._endpoint.joinings.pop(self._joined, None)
        self._endpoint.leavings.discard(self._left)
        for group in self._served:
            self._endpoint.sites.remove(group)
            self._endpoint.tokens.end_incoming_of(group)
        gone = self._endpoint.addresses(self._served)
        self._served.clear()
        self._endpoint.leave(gone)
