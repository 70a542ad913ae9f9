"""The listener: an ordinary aiocoap site, served to groups."""

from __future__ import annotations

from collections.abc import Sequence

from aiocoap import interfaces

from .endpoint import Endpoint


class Listener:
    """Serves `site` to the groups (all of the endpoint's if none are named) until it is closed.

    Requests reach the site only when they are authentic and in order; `remote.provenance(request)` says who sent
    them. Whether answers are sent is the group's matter: a pure listener sends none. `NetworkFault` if a multicast
    address cannot be joined, `MisuseError` if a group is served already."""

    def __init__(self, endpoint: Endpoint, site: interfaces.Resource, groups: Sequence[str] | None = None) -> None:
        self._endpoint = endpoint
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

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self._served)

    def close(self) -> None:
        """Serve no more, and leave the multicast addresses that nobody else on this endpoint listens at."""
        for group in self._served:
            self._endpoint.sites.remove(group)
            if self._endpoint.tokens.incoming_requests is not None:
                self._endpoint.tokens.end_incoming_of(group)
        gone = set(self._endpoint.addresses(self._served))
        self._served.clear()
        self._endpoint.network.leave(gone - set(self._endpoint.addresses(self._endpoint.sites.groups)))
