"""Addresses and URIs that the messages carry: IP literals only, so that nobody has anything looked up."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import quote, unquote

from ..errors import MisuseError
from ..membership import COAP_PORT, GroupAddress
from .reading import Malformed, refusing, rejecting

ROOT: Final = "ace-group"
"""First segment of the path of every resource of a group (RFC 9594 §4.1: only a default)."""

MAX_URI: Final = 1024
MAX_NAME: Final = 255
"""Bytes of a group's name, as of a path's segment (RFC 7252 §5.10)."""

_AUTHORITY: Final = r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::([0-9]{1,5}))?"
_ADDRESS: Final = re.compile(_AUTHORITY)
_GROUP: Final = re.compile(rf"coap://{_AUTHORITY}/{ROOT}/([^/?#\s]+)")
_MEMBER: Final = re.compile(rf"coap://{_AUTHORITY}/{ROOT}/([^/?#\s]+)/node")


def control_uri(name: str, host: str, port: int) -> str:
    """A member's control URI: coap://host:port/ace-group/NAME/node. `host`: an IP address without brackets.
    `MisuseError` if this is no address of a node."""
    try:
        address = ip_address(host)
        _check_unicast(address, port)
    except (ValueError, Malformed):
        raise MisuseError("a control URI needs the IP address of a node and a UDP port") from None
    return f"coap://{_authority(address, port)}/{ROOT}/{_segment(name)}/node"


@refusing
def control_address(uri: str) -> tuple[str, int]:
    """(IP address, UDP port) of a member's control URI; the address without brackets. `Refused` (4.00) if it is not
    one: another scheme or path, a name instead of an address, no port, or an address that is no node's."""
    address, port, _name = split_control_uri(uri)
    return str(address), port


def split_control_uri(uri: str) -> tuple[IPv4Address | IPv6Address, int, str]:
    """(IP address, UDP port, group name) of a member's control URI. `Malformed` if it is not one."""
    match = _MEMBER.fullmatch(uri)
    if match is None or match[2] is None or len(uri) > MAX_URI:
        raise Malformed("a control_uri that is not coap://ADDRESS:PORT/ace-group/NAME/node")
    address, port = _host(match[1]), int(match[2])
    _check_unicast(address, port)
    return address, port, _name(match[3])


def control_group_uri(name: str, address: GroupAddress) -> str:
    """Where the Group Manager speaks to all members of a group: coap://host:port/ace-group/NAME."""
    return f"coap://{_authority(address.host, address.port)}/{ROOT}/{_segment(name)}"


@rejecting
def control_group_address(uri: str) -> GroupAddress:
    """The multicast address in a group's control URI. `Rejected` (malformed) if it is not one."""
    match = _GROUP.fullmatch(uri)
    if match is None or len(uri) > MAX_URI:
        raise Malformed("a control_group_uri that is not coap://ADDRESS:PORT/ace-group/NAME")
    _name(match[3])
    return GroupAddress(_host(match[1]), COAP_PORT if match[2] is None else int(match[2]))


def parse_group_address(text: str) -> GroupAddress:
    """What `str` makes of a multicast address. `Malformed` or `MisuseError` if it is not one."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise Malformed("an address that is no IP address")
    return GroupAddress(_host(match[1]), COAP_PORT if match[2] is None else int(match[2]))


def check_name(name: str) -> str:
    """A group's name, as it is. `Malformed` if it could not be a segment of a path."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= MAX_NAME or not name.isprintable() or name in (".", ".."):
        raise Malformed("a group name that is empty, too long or not printable")
    return name


def _segment(name: str) -> str:
    try:
        return quote(check_name(name), safe="")
    except Malformed as error:
        raise MisuseError(str(error)) from None


def _name(segment: str) -> str:
    try:
        return check_name(unquote(segment, errors="strict"))
    except UnicodeDecodeError:
        raise Malformed("a URI whose group name is not UTF-8") from None


def _host(text: str) -> IPv4Address | IPv6Address:
    try:
        return IPv6Address(text[1:-1]) if text.startswith("[") else IPv4Address(text)
    except ValueError:
        raise Malformed("a URI or address without an IP address") from None


def _check_unicast(address: IPv4Address | IPv6Address, port: int) -> None:
    # A member could otherwise have the Group Manager send its messages to many who never asked for them.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    address = mapped or address
    if address.is_multicast or address.is_unspecified or address == IPv4Address(0xFFFFFFFF) or not 0 < port < 65536:
        raise Malformed("a control_uri that is no node's")


def _authority(address: IPv4Address | IPv6Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
