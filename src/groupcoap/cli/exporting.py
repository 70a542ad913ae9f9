"""A manager's metrics for Prometheus: the optional extra `metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..endpoint.proxy import HostAndPort
from ..errors import EnvironmentFault, NetworkFault
from ..manager.server import ManagerServer
from ..manager.state import GroupStatus
from .via import host_and_port_text

PATIENCE = 5.0
"""Seconds that a scrape waits for the manager's event loop."""

INSTALL = "--metrics takes an extra package; install it with: pip install 'groupcoap[metrics]'"


def check_installed() -> None:
    """`EnvironmentFault`, saying how to install it, if the library is not there."""
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError:
        raise EnvironmentFault(INSTALL) from None


@contextmanager
def exporting(server: ManagerServer, where: HostAndPort) -> Iterator[None]:
    """Serve this server's metrics by HTTP. To be called on its event loop. `NetworkFault` if the address cannot be
    used."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(server, asyncio.get_running_loop()))
    try:
        http, thread = start_http_server(where[1], str(where[0]), registry)
    except OSError as error:
        raise NetworkFault(
            f"metrics cannot be served at {host_and_port_text(*where)}: {error.strerror}; choose another --metrics"
        ) from None
    try:
        yield
    finally:
        http.shutdown()
        http.server_close()
        thread.join(PATIENCE)


class _Collector:
    """Asks the manager at each scrape. Scrapes are on threads of their own, the manager's state is not."""

    def __init__(self, server: ManagerServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop

    def describe(self) -> Iterable[Any]:
        """Nothing beforehand: registering must not ask an event loop that waits for it."""
        return ()

    def collect(self) -> Iterable[Any]:
        """As prometheus_client wants it."""
        return asyncio.run_coroutine_threadsafe(self._collect(), self._loop).result(PATIENCE)

    async def _collect(self) -> list[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        server, manager = self._server, self._server.manager
        names = {
            "members": "Members of the group.",
            "behind": "Members that have not confirmed the current renewal.",
            "num": "Number of the current renewal.",
            "seconds_since_renewal": "Since the current renewal.",
            "active": "1 if the group is served.",
            "alarm": "1 if the group was stopped with an alarm.",
        }
        gauges = {
            name: GaugeMetricFamily(f"groupcoap_group_{name}", text, labels=["group"])
            for name, text in names.items()
        }
        now = time.time()
        for group in manager.groups.values():
            values = {
                "members": len(group.members),
                "behind": len(manager.behind(group)),
                "num": group.num,
                "seconds_since_renewal": max(0.0, now - group.renewed),
                "active": int(group.status is GroupStatus.ACTIVE),
                "alarm": int(group.alarm is not None),
            }
            for name, value in values.items():
                gauges[name].add_metric([group.name], value)
        devices = GaugeMetricFamily("groupcoap_devices", "Devices that are enrolled.", len(manager.devices))
        associations = GaugeMetricFamily(
            "groupcoap_associations", "Devices that have an association.", len(server.associations)
        )
        counters = [
            CounterMetricFamily(f"groupcoap_{name}", f"{name.replace('_', ' ')} since the start", count)
            for name, count in server.counts.values().items()
        ]
        return [*gauges.values(), devices, associations, *counters]
