"""Datagrams that have been read and wait to be processed, so that a flood from one host delays nobody else.

Reading a datagram costs a fraction of finding out that it is to be dropped. So whatever has come is read first;
each host gets its turn, and one that has sent too much loses its own.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from ..errors import Limit
from .limits import Reached

Datagram = tuple[bytes, tuple[str, int] | tuple[str, int, int, int]]
"""(bytes, source address)"""

_OVERHEAD: Final = 256
"""Bytes that an entry takes up besides the datagram."""
_HOSTS: Final = 256
"""Hosts that have a queue of their own; those beyond, as there are when sources are forged, share one."""


class FairQueue:
    """At most `size` bytes of datagrams. `reached` is told of every one that has to go for want of room."""

    def __init__(self, size: int, reached: Reached) -> None:
        self._size = size
        self._room = size
        self._reached = reached
        self._queues: OrderedDict[str, deque[Datagram]] = OrderedDict()

    def put(self, datagram: Datagram) -> None:
        """Add a datagram. If there is no room the longest queue gives up the older half."""
        host = datagram[1][0]
        queue = self._queues.get(host)
        if queue is None:
            if len(self._queues) >= _HOSTS:
                host = ""
            queue = self._queues.setdefault(host, deque())
        queue.append(datagram)
        self._room -= len(datagram[0]) + _OVERHEAD
        while self._room < 0:
            self._make_room()

    def _make_room(self) -> None:
        host = max(self._queues, key=lambda host: len(self._queues[host]))
        queue = self._queues[host]
        for _ in range((len(queue) + 1) // 2):
            self._room += len(queue.popleft()[0]) + _OVERHEAD
            self._reached(Limit.RECEIVE_BUFFER)
        if not queue:
            del self._queues[host]

    def take(self) -> Datagram:
        """The next datagram, of the host that has waited longest. `KeyError` if there is none."""
        for host, queue in self._queues.items():
            datagram = queue.popleft()
            self._room += len(datagram[0]) + _OVERHEAD
            if queue:
                self._queues.move_to_end(host)
            else:
                del self._queues[host]
            return datagram
        raise KeyError("nothing has come")

    def clear(self) -> None:
        self._queues.clear()
        self._room = self._size

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())
