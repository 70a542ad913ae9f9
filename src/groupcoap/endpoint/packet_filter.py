"""A filter that the kernel applies to what comes by multicast, before it costs this process anything.

What can be a group request by its CoAP header passes: non-confirmable and with a request code (multicast-oscore-04
§7). That is checked again by those who must rely on it.
"""

from __future__ import annotations

import socket
import struct
from array import array
from typing import Final

from ..core import coap

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8  # linux/sock_diag.h

# Instructions of the classic BPF machine (linux/bpf_common.h). Accumulator A, index register X.
_LOAD_BYTE: Final = 0x30
_LOAD_LENGTH: Final = 0x80
_AND: Final = 0x54
_SUBTRACT_X: Final = 0x1C
_TO_X: Final = 0x07
_IF_EQUAL: Final = 0x15
_IF_GREATER: Final = 0x25
_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06

_UDP: Final = 8  # bytes of its header, which stands in front here
_HEADER: Final = 4

# (operation, operand, with which outcome a comparison rejects the datagram; None: no comparison)
_GROUP_REQUEST: Final[tuple[tuple[int, int, bool | None], ...]] = (
    (_LOAD_LENGTH, 0, None),
    (_IF_AT_LEAST, _UDP + _HEADER, False),
    (_LOAD_BYTE, _UDP, None),  # version, type, length of the Token
    (_AND, 0xF0, None),
    (_IF_EQUAL, 0x40 | coap.NON << 4, False),
    (_LOAD_BYTE, _UDP, None),
    (_AND, 0x0F, None),
    (_IF_GREATER, 8, True),
    (_TO_X, 0, None),
    (_LOAD_LENGTH, 0, None),
    (_SUBTRACT_X, 0, None),
    (_IF_AT_LEAST, _UDP + _HEADER, False),
    (_LOAD_BYTE, _UDP + 1, None),  # code
    (_IF_EQUAL, coap.EMPTY, True),
    (_IF_GREATER, 0x1F, True),
)


def _assembled() -> bytes:
    """Instructions of 8 bytes, then the two that accept and reject."""
    instructions = []
    for at, (operation, operand, rejects) in enumerate(_GROUP_REQUEST):
        away = len(_GROUP_REQUEST) - at
        if_true, if_false = (away if rejects is outcome else 0 for outcome in (True, False))
        instructions.append(struct.pack("=HBBI", operation, if_true, if_false, operand))
    instructions += [struct.pack("=HBBI", _RETURN, 0, 0, length) for length in (0xFFFFFFFF, 0)]
    return b"".join(instructions)


def let_group_requests_pass(sock: socket.socket) -> None:
    """Drop everything else before it takes up room in this socket's buffer. `OSError` where the kernel cannot."""
    program = array("B", _assembled())
    address, length = program.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", length // 8, address))


def kernel_drops(sock: socket.socket) -> int:
    """How many datagrams the kernel has dropped for this socket: kept back by the filter, or no room in the buffer.
    0 where the kernel does not say."""
    try:
        counters = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    except OSError:
        return 0
    drops: int = struct.unpack_from("=I", counters, 4 * _MEMINFO_DROPS)[0]
    return drops
