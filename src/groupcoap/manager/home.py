"""A manager's directory: its configuration, its database, the key that seals it, and the operator's socket."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..endpoint.network import Address, NetworkOptions, parse_address
from ..errors import FileFault, MisuseError, NetworkFault, StoreFault
from ..files.documents import DocumentKind, Field, Json, read_document, write_document
from ..keying.labels import DEFAULT_CODE_POINTS, CodePoints
from ..membership import COAP_PORT
from .settings import check_name
from .store.sealing import SealingKey
from .store.store import Store

CONFIGURATION = "manager.json"
DATABASE = "manager.sqlite"
SEALING_KEY = "sealing.key"
SOCKET = "control.sock"

SEALING_VARIABLE = "GROUPCOAP_SEALING_KEY"
"""Environment variable that holds the sealing key in hex, where it is not in a file."""

KIND = DocumentKind("groupcoap-manager", 1)


@dataclass(frozen=True, slots=True)
class ManagerConfiguration:
    """What a manager is started with. `bind`, `port`: where it serves. `interface`: for rekey messages by
    multicast, with `hop_limit`. `addresses`: under which devices reach it, in the order in which they try.
    `database`: URL, None: a file in the directory. `sealing`: "file", "environment", or "none", which is written
    down as a choice."""

    name: str
    bind: Address
    interface: str
    port: int = COAP_PORT
    hop_limit: int = 1
    addresses: tuple[tuple[str, int], ...] = ()
    database: str | None = None
    sealing: str = "file"
    points: CodePoints = DEFAULT_CODE_POINTS

    def __post_init__(self) -> None:
        check_name(self.name, "manager")
        if self.sealing not in ("file", "environment", "none"):
            raise MisuseError("values are sealed with a key from a file, from the environment, or with none")
        if not 0 < self.port < 65536:
            raise MisuseError(f"{self.port} is not a UDP port")

    @property
    def network(self) -> NetworkOptions:
        """As the server takes it."""
        return NetworkOptions(self.interface, self.bind, self.port, self.hop_limit)

    @property
    def reached_at(self) -> tuple[tuple[str, int], ...]:
        """Where devices find the manager."""
        return self.addresses or ((str(self.bind), self.port),)


class ManagerHome:
    """A manager's directory."""

    def __init__(self, directory: Path, configuration: ManagerConfiguration) -> None:
        self.directory = directory
        self.configuration = configuration

    @classmethod
    def create(cls, directory: Path, configuration: ManagerConfiguration) -> ManagerHome:
        """A new directory with its configuration and, if there is to be one, a fresh sealing key; no database yet.
        `FileFault` if there is a manager already."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise FileFault(directory, f"cannot be made ({error.strerror})") from None
        home = cls(directory, configuration)
        write_document(directory / CONFIGURATION, KIND, _to_json(configuration))
        if configuration.sealing == "file":
            SealingKey.generate().write(directory / SEALING_KEY)
        return home

    @classmethod
    def load(cls, directory: Path) -> ManagerHome:
        """`FileFault` if there is no manager there, or its configuration cannot be used."""
        path = directory / CONFIGURATION
        if not os.path.exists(path):
            raise FileFault(directory, "is no manager's directory; make one with: groupcoap manager init")
        return cls(directory, _read(read_document(path, KIND)))

    @property
    def socket(self) -> Path:
        """Where a running manager takes the operator's commands."""
        return self.directory / SOCKET

    @property
    def url(self) -> str:
        """Of the database."""
        return self.configuration.database or f"sqlite:///{(self.directory / DATABASE).resolve()}"

    def sealing_key(self, environment: Mapping[str, str] = os.environ) -> SealingKey | None:
        """What the database is sealed with. `FileFault`, `StoreFault` if it is not there."""
        match self.configuration.sealing:
            case "file":
                return SealingKey.from_file(self.directory / SEALING_KEY)
            case "environment":
                if SEALING_VARIABLE not in environment:
                    raise StoreFault(f"the sealing key is missing: set {SEALING_VARIABLE} to its 64 hex digits")
                return SealingKey.from_text(environment[SEALING_VARIABLE], SEALING_VARIABLE)
        return None

    def open_store(self) -> Store:
        """The database, for this process alone. `StoreFault`, `FileFault`."""
        return Store.open(self.url, self.sealing_key())


def parse_endpoint(text: str) -> tuple[str, int]:
    """A manager's address as `192.0.2.1`, `192.0.2.1:5683` or `[2001:db8::1]:5683`. `MisuseError` if it is none."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise MisuseError(f"{text!r} is not an address; write [2001:db8::1]:5683")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise MisuseError(f"{port!r} is not a UDP port")
    try:
        address = parse_address(host)
    except NetworkFault as fault:
        raise MisuseError(str(fault)) from None
    if address.is_multicast:
        raise MisuseError(f"{text!r} is a multicast address")
    return str(address), int(port) if port else COAP_PORT


def endpoint_text(endpoint: tuple[str, int]) -> str:
    """An address and port, as people write them."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _to_json(configuration: ManagerConfiguration) -> Json:
    points = {
        field.name: getattr(configuration.points, field.name)
        for field in fields(CodePoints)
        if getattr(configuration.points, field.name) != getattr(DEFAULT_CODE_POINTS, field.name)
    }
    return {
        "name": configuration.name,
        "bind": str(configuration.bind),
        "port": configuration.port,
        "interface": configuration.interface,
        "hop_limit": configuration.hop_limit,
        "addresses": [endpoint_text(endpoint) for endpoint in configuration.addresses],
        **({} if configuration.database is None else {"database": configuration.database}),
        "sealing": configuration.sealing,
        **({"code_points": points} if points else {}),
    }


def _read(document: Field) -> ManagerConfiguration:
    required = ("name", "bind", "port", "interface", "hop_limit", "addresses", "sealing")
    members = document.members(required, ("database", "code_points"))
    try:
        bind = parse_address(members["bind"].text())
    except NetworkFault as fault:
        members["bind"].fault(str(fault))
    addresses = []
    for item in members["addresses"].items():
        with item.refusing():
            addresses.append(parse_endpoint(item.text()))
    points = DEFAULT_CODE_POINTS
    if "code_points" in members:
        known = tuple(field.name for field in fields(CodePoints))
        given = members["code_points"].members((), known)
        points = replace(points, **{name: entry.integer() for name, entry in given.items()})
    with document.refusing():
        return ManagerConfiguration(
            name=members["name"].text(),
            bind=bind,
            interface=members["interface"].text(),
            port=members["port"].integer(),
            hop_limit=members["hop_limit"].integer(),
            addresses=tuple(addresses),
            database=members["database"].text() if "database" in members else None,
            sealing=members["sealing"].text(),
            points=points,
        )
