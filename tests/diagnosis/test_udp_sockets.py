"""Who has a UDP port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from groupcoap.diagnosis.sockets import Holder, UdpSocket, holders, in_the_way, parse_sockets, shown

LITTLE = sys.byteorder == "little"
REST = "07 00000000:00000000 00:00000000 00000000"
TABLE = f"""\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode …
  512: 0200007F:1643 00000000:0000 {REST}  1000        0 4711 2 0000000000000000 0
"""
TABLE6 = f"""\
  sl  local_address                         remote_address                        st …
  100: 000005FF0000000000000000FD000000:1643 {"0" * 32}:0000 {REST}     0        0 4712 2
"""
HOLD = (
    "import socket, sys\n"
    "sock = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)\n"
    "sock.bind((sys.argv[1], int(sys.argv[2])))\n"
    "print(sock.getsockname()[1], flush=True)\n"
    "sys.stdin.read()\n"
)


@pytest.mark.skipif(not LITTLE, reason="the tables are those of a little-endian machine")
def test_the_kernels_tables_are_read() -> None:
    assert list(parse_sockets(TABLE)) == [UdpSocket(ip_address("127.0.0.2"), 5699, 1000, 4711)]
    assert list(parse_sockets(TABLE6)) == [UdpSocket(ip_address("ff05::fd"), 5699, 0, 4712)]
    assert list(parse_sockets("")) == []


@pytest.mark.processes
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_the_process_that_has_a_port_is_named(host: str) -> None:
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this host has no IPv6")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, host, "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        (holder,) = holders(port)
        assert (holder.pid, holder.socket.address, holder.socket.port) == (process.pid, ip_address(host), port)
        assert holder.socket.uid == os.getuid()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        program = Path(f"/proc/{process.pid}/comm").read_text().strip()
        assert shown([holder, holder]) == f"process {process.pid} ({program}) at {where}"
        process.kill()


def test_ones_own_sockets_are_nobody_elses() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert holders(sock.getsockname()[1]) == []


def test_a_process_that_may_not_be_seen_is_of_a_user() -> None:
    assert (
        str(Holder(UdpSocket(ip_address("0.0.0.0"), 5683, 33, 1), None)) == "a process of user 33 at 0.0.0.0:5683"
    )


@pytest.mark.parametrize(
    ("has", "wants", "clash"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("::", "127.0.0.1", True),
        ("::1", "127.0.0.1", False),
        ("127.0.0.1", "::", False),
        ("::1", "::", True),
        ("ff05::fd", "::", True),
        ("::", "ff05::fd", True),
        ("ff02::fd", "ff05::fd", False),
        ("224.0.1.187", "127.0.0.1", False),
    ],
)
def test_who_is_in_whose_way(has: str, wants: str, clash: bool) -> None:
    holder = Holder(UdpSocket(ip_address(has), 5683, 0, 1), 77)
    assert in_the_way([holder], ip_address(wants)) == ([holder] if clash else [])
