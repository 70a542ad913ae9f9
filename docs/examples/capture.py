"""Print the datagrams that go to a group, in hex: python capture.py [GROUP_ADDRESS [PORT]]

On the loopback interface, IPv4. It needs no keys and no rights: anybody on the network can do this.
"""

import socket
import sys
from contextlib import suppress


def main(group: str = "224.0.1.187", port: str = "5683") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((group, int(port)))
        sock.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
        )
        print(f"capturing what goes to {group} port {port}", file=sys.stderr, flush=True)
        while True:
            print(sock.recv(65535).hex(), flush=True)


with suppress(KeyboardInterrupt):
    main(*sys.argv[1:])
