"""What a device is given when it is enrolled: how it is known to its Group Manager and where that is.

One file, mode 0600. It holds the secret that associations are derived from, and the manager's credentials: who has
other keys is not this manager, whatever it says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from ..cose.credentials import Credential
from ..cose.keys import signature_algorithm
from ..errors import MisuseError
from ..files.documents import DocumentKind, Field, Json, read_document, write_document
from ..files.identity import credential_json, read_credential
from ..keying.labels import DEFAULT_CODE_POINTS, CodePoints
from ..membership import COAP_PORT, Role
from ..secret import Secret

ENROLMENT_FILE: Final = "enrolment.json"
"""The name of the file in a device's directory."""

KIND: Final = DocumentKind("groupcoap-enrolment", 1)

_ADDRESS: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)|([0-9.]+))(?::([0-9]{1,5}))?"
)

HANDLE_LENGTH: Final = 8
SECRET_LENGTH: Final = 16
"""Bytes of a handle and of the secret that goes with it (docs/group-manager.md §2)."""


@dataclass(frozen=True, slots=True)
class ManagerAddress:
    """Where a Group Manager can be reached: IP address and UDP port."""

    host: IPv4Address | IPv6Address
    port: int = COAP_PORT

    def __post_init__(self) -> None:
        if self.host.is_multicast or self.host.is_unspecified or not 0 < self.port < 65536:
            raise MisuseError(f"{self} is no address of a Group Manager")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.host.version == 6 else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> ManagerAddress:
        """What `str` makes; the port may be left out, and with it the brackets. `MisuseError` if it is not that."""
        match = _ADDRESS.fullmatch(text)
        try:
            if match is None:
                raise AddressValueError
            address = IPv6Address(match[1] or match[2]) if match[3] is None else IPv4Address(match[3])
        except AddressValueError:
            raise MisuseError(f"{text!r} is not an address; write 192.0.2.1:5683 or [2001:db8::1]:5683") from None
        port = match[4]
        return cls(address, int(port) if port else COAP_PORT)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A device's enrolment. `MisuseError` for values that cannot be.

    `device`: its name, for people. `handle`: 8 bytes that name it at the manager; `secret`: 16 bytes.
    `addresses`: of the manager, in the order in which they are tried. `credentials`: {COSE number of a signature
    algorithm: the manager's credential for it}. `groups`: {name: roles that it joins in}. `points`: numbers that
    only this manager uses."""

    device: str
    handle: bytes
    secret: Secret
    addresses: tuple[ManagerAddress, ...]
    credentials: Mapping[int, Credential]
    groups: Mapping[str, frozenset[Role]]
    points: CodePoints = field(default=DEFAULT_CODE_POINTS)

    def __post_init__(self) -> None:
        if len(self.handle) != HANDLE_LENGTH or len(self.secret) != SECRET_LENGTH:
            raise MisuseError(f"a handle has {HANDLE_LENGTH} bytes and a secret {SECRET_LENGTH}")
        if not self.device or not self.addresses or not self.credentials:
            raise MisuseError("an enrolment names the device, and its manager's addresses and credentials")
        if not all(self.groups.values()):
            raise MisuseError("a group is joined in at least one role")
        if any({Role.LISTENER, Role.PURE_LISTENER} <= roles for roles in self.groups.values()):
            raise MisuseError("a pure listener is no listener that responds")
        for number, credential in self.credentials.items():
            credential.public_key(signature_algorithm(number))


def is_managed(path: Path) -> bool:
    """Whether this is the directory of a device with a Group Manager."""
    return os.path.isdir(path) and os.path.lexists(path / ENROLMENT_FILE)


def load_enrolment(path: Path) -> Enrolment:
    """The enrolment in this file. `FileFault` if it cannot be used."""
    document = read_document(path, KIND)
    members = document.members(("device", "handle", "secret", "manager", "groups"), ("code_points",))
    manager = members["manager"].members(("addresses", "credentials"))
    with document.refusing():
        return Enrolment(
            device=members["device"].text(),
            handle=members["handle"].hex(HANDLE_LENGTH, HANDLE_LENGTH),
            secret=Secret(members["secret"].hex(SECRET_LENGTH, SECRET_LENGTH)),
            addresses=tuple(_address(item) for item in manager["addresses"].items(at_least=1)),
            credentials=_credentials(manager["credentials"]),
            groups=_groups(members["groups"]),
            points=_points(members.get("code_points")),
        )


def save_enrolment(path: Path, enrolment: Enrolment, *, replace: bool = False) -> None:
    """Write an enrolment, mode 0600. `FileFault` if that fails, or the file exists and `replace` is not given."""
    body: Json = {
        "device": enrolment.device,
        "handle": enrolment.handle.hex(),
        "secret": enrolment.secret.reveal().hex(),
        "manager": {
            "addresses": [str(address) for address in enrolment.addresses],
            "credentials": [
                {"signature": number, **credential_json(credential)}
                for number, credential in enrolment.credentials.items()
            ],
        },
        "groups": [
            {"name": name, "roles": [role.value for role in Role if role in roles]}
            for name, roles in enrolment.groups.items()
        ],
    }
    if enrolment.points != DEFAULT_CODE_POINTS:
        body["code_points"] = {f.name: getattr(enrolment.points, f.name) for f in fields(CodePoints)}
    write_document(path, KIND, body, replace=replace)


def _address(entry: Field) -> ManagerAddress:
    with entry.refusing():
        return ManagerAddress.parse(entry.text())


def _credentials(entry: Field) -> dict[int, Credential]:
    found: dict[int, Credential] = {}
    for item in entry.items(at_least=1):
        number = item.members(("signature", "kind", "data"))["signature"]
        with number.refusing():
            algorithm = signature_algorithm(number.integer())
        if algorithm.number in found:
            number.fault("stands here twice")
        body = {name: value for name, value in item.value.items() if name != "signature"}
        found[algorithm.number] = read_credential(Field(item.path, item.where, body), algorithm)
    return found


def _groups(entry: Field) -> dict[str, frozenset[Role]]:
    found: dict[str, frozenset[Role]] = {}
    for item in entry.items():
        members = item.members(("name", "roles"))
        name = members["name"].text()
        if name in found:
            members["name"].fault("stands here twice")
        found[name] = frozenset(role.choice(Role) for role in members["roles"].items(at_least=1))
    return found


def _points(entry: Field | None) -> CodePoints:
    if entry is None:
        return DEFAULT_CODE_POINTS
    names = tuple(field.name for field in fields(CodePoints))
    return CodePoints(**{name: found.integer() for name, found in entry.members((), names).items()})
