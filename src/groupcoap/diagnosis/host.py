"""What an endpoint needs of the host besides a network."""

from __future__ import annotations

import os
import re
import socket
from importlib import metadata

from ..endpoint.limits import DEFAULT_LIMITS
from .finding import Finding, ok, problem, warning

RECEIVE_BUFFER = DEFAULT_LIMITS.receive_buffer

_PACKAGE = "groupcoap"
_PINNED = re.compile(r"aiocoap(?:\[\w+\])? ?\(?== ?([\w.]+)\)?")


def granted_buffer() -> int:
    """How many bytes of received datagrams the kernel lets one of our sockets hold."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel counts its own needs in


def check_buffer(granted: int) -> Finding:
    """Whether a burst of datagrams finds room."""
    if granted >= RECEIVE_BUFFER:
        return ok("buffers", f"{granted >> 10} KiB for what has been received")
    return warning(
        "buffers",
        f"{granted >> 10} KiB for what has been received, not the {RECEIVE_BUFFER >> 10} KiB that are asked for: "
        "bursts may be lost",
        "allow more",
        *("sysctl", "-w", f"net.core.rmem_max={RECEIVE_BUFFER}"),
    )


def check_randomness() -> Finding:
    """Whether the kernel's random numbers can be used yet: a small device may have to wait for them."""
    try:
        os.getrandom(1, os.GRND_NONBLOCK)
    except BlockingIOError:
        return problem("randomness", "the kernel has not gathered any yet", "wait, or start rngd")
    return ok("randomness", "the kernel has gathered enough")


def check_aiocoap(installed: str | None, pinned: str | None) -> Finding:
    """Whether aiocoap is of the one version that endpoints are made for; None where that is not known."""
    if pinned is None:
        return warning(
            "aiocoap",
            "groupcoap is not installed as a package: which version it needs is not known",
            "install it",
            "pip",
            "install",
            ".",
        )
    if installed == pinned:
        return ok("aiocoap", f"version {installed}")
    return problem(
        "aiocoap",
        f"version {installed}, but groupcoap uses parts of {pinned} that change between versions",
        "install that one",
        "pip",
        "install",
        f"aiocoap[oscore]=={pinned}",
    )


def installed_aiocoap() -> str | None:
    """The version of aiocoap that is installed."""
    try:
        return metadata.version("aiocoap")
    except metadata.PackageNotFoundError:
        return None


def pinned_aiocoap() -> str | None:
    """The version of aiocoap that this package asks for."""
    try:
        requirements = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    return next((match[1] for match in map(_PINNED.match, requirements) if match), None)
