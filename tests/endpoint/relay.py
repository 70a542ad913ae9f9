"""A hub of the tests' own: it carries frames between network interfaces, and loses, delays and repeats datagrams.

No kernel module for bad networks is needed. What becomes of a datagram depends on the seed, on the way it goes
(from which sender to which receiver) and on how many went that way before, not on the time.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

PORT_PREFIX = "p"
_SOL_PACKET = 263  # linux/if_packet.h
_PACKET_VNET_HDR = 15
_SO_RCVBUFFORCE = 33
_ETH_P_ALL = 3
_IPV4, _IPV6 = 0x0800, 0x86DD
_HEAD = 10  # the virtio_net_hdr before each frame: with it the kernel fills in checksums that it has left open
_BUFFER = 8 << 20


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to UDP datagrams, each receiver's copy by itself: chances from 0 to 1. What is delayed takes up
    to `delay` seconds, and so is overtaken."""

    loss: float = 0.0
    repeated: float = 0.0
    delayed: float = 0.0
    delay: float = 0.0


FAIR = Weather()


@dataclass(slots=True)
class Counts:
    """UDP datagrams, each receiver's copy by itself: how many met which fate, how many arrived at which port.
    `waiting`: delayed and not delivered yet."""

    lost: int = 0
    repeated: int = 0
    delayed: int = 0
    waiting: int = 0
    arrived: Counter[str] = field(default_factory=Counter)


class Relay:
    """Carries between all interfaces of this namespace whose name begins with `PORT_PREFIX`, now or later.

    Multicast goes to all others, unicast to the port that `port_of` the hardware address says."""

    def __init__(self, seed: int, port_of: Callable[[bytes], str]) -> None:
        self.weather = FAIR
        self.counts = Counts()
        self._seed = seed
        self._port_of = port_of
        self._chances: dict[tuple[str, str], Random] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setblocking(False)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._loop.add_reader(self._socket.fileno(), self.carry)

    def carry(self) -> None:
        """Carry all that has come."""
        while True:
            try:
                frame, (source, _, kind, *_) = self._socket.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:  # an interface has gone
                continue
            if kind != socket.PACKET_OUTGOING and source.startswith(PORT_PREFIX):
                self._carry(frame, source)

    def _carry(self, frame: bytes, source: str) -> None:
        address = frame[_HEAD : _HEAD + 6]
        if address[0] & 1:
            names = [name for _, name in socket.if_nameindex()]
            receivers = [name for name in names if name.startswith(PORT_PREFIX) and name != source]
        else:
            receivers = [self._port_of(address)]
        if not _is_udp(frame):
            for receiver in receivers:
                self._send(frame, receiver)
            return
        for receiver in receivers:
            for delay in self._fate(source, receiver):
                if delay:
                    self.counts.waiting += 1
                    self._loop.call_later(delay, self._deliver_late, frame, receiver)
                else:
                    self._deliver(frame, receiver)

    def _fate(self, source: str, receiver: str) -> list[float]:
        """How long each copy of the next datagram on this way takes."""
        chance = self._chances.get((source, receiver))
        if chance is None:
            chance = self._chances[source, receiver] = Random(f"{self._seed} {source} {receiver}")
        weather = self.weather
        # As many numbers for each datagram, whatever the weather: a change of it changes nothing later.
        lost, repeated, *delayed = [chance.random() for _ in range(6)]
        if lost < weather.loss:
            self.counts.lost += 1
            return []
        copies = 1 + (repeated < weather.repeated)
        self.counts.repeated += copies - 1
        delays = [delayed[2 * i] * weather.delay * (delayed[2 * i + 1] < weather.delayed) for i in range(copies)]
        self.counts.delayed += sum(delay > 0 for delay in delays)
        return delays

    def _deliver_late(self, frame: bytes, receiver: str) -> None:
        self.counts.waiting -= 1
        self._deliver(frame, receiver)

    def _deliver(self, frame: bytes, receiver: str) -> None:
        if self._send(frame, receiver):
            self.counts.arrived[receiver] += 1

    def _send(self, frame: bytes, receiver: str) -> bool:
        with suppress(OSError):  # the port is down, or has gone
            self._socket.sendto(frame, (receiver, struct.unpack_from("!H", frame, _HEAD + 12)[0]))
            return True
        return False


def _is_udp(frame: bytes) -> bool:
    kind = struct.unpack_from("!H", frame, _HEAD + 12)[0]
    packet = frame[_HEAD + 14 :]
    if kind == _IPV4:
        return packet[9] == socket.IPPROTO_UDP
    return bool(kind == _IPV6 and packet[6] == socket.IPPROTO_UDP)
