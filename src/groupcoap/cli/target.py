"""Which group a URI on the command line means, and what is asked for there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from ..errors import MisuseError
from ..files.group import parse_address
from ..membership import GroupAddress, GroupConfiguration, Role
from .text import printable

SCHEME = "coap://"


@dataclass(frozen=True, slots=True)
class Target:
    """A group, one of its multicast addresses, and a resource there."""

    group: GroupConfiguration
    address: GroupAddress
    path: tuple[str, ...]
    query: tuple[str, ...]


def find_target(uri: str, groups: Sequence[GroupConfiguration], group: str | None = None) -> Target:
    """What `coap://224.0.1.187/light?x=1`, `coap://GROUP/light` or `/light` means to a member of these groups;
    `group` names one of them. `MisuseError` if it is none of that, or not clear."""
    authority, path, query = _split(uri)
    candidates = _candidates(groups, group)
    if authority is None:
        chosen = _only(candidates)
        return Target(chosen, chosen.addresses[0], path, query)
    named = next((g for g in candidates if g.name == unquote(authority)), None)
    if named is not None:
        return Target(named, named.addresses[0], path, query)
    address = _address(authority, candidates)
    found = [g for g in candidates if address in g.addresses]
    if not found:
        raise MisuseError(f"{_show(address)} is no address of these groups: {_known(candidates)}")
    return Target(_only(found), address, path, query)


def _split(uri: str) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    if "#" in uri:
        raise MisuseError("a CoAP URI has no fragment (#…)")
    if uri.startswith("/"):
        authority, rest = None, uri
    elif uri[: len(SCHEME)].lower() == SCHEME:
        end = next((i for i, c in enumerate(uri) if i >= len(SCHEME) and c in "/?"), len(uri))
        authority, rest = uri[len(SCHEME) : end], uri[end:]
    else:
        raise MisuseError(f"{uri!r} is no URI of a group: write coap://ADDRESS/path, coap://GROUP/path or /path")
    path, mark, query = rest.partition("?")
    try:
        segments = tuple(unquote(part, errors="strict") for part in path.split("/")[1:])
        parts = tuple(unquote(part, errors="strict") for part in query.split("&")) if mark else ()
        longest = max(len(part.encode()) for part in (*segments, *parts, ""))
    except UnicodeError:  # in a percent-encoding, or in the argument itself as the program got it
        raise MisuseError(f"{uri!r} is not UTF-8") from None
    if longest > 255:
        raise MisuseError("a part of the path or of the query is longer than 255 bytes")
    return authority, () if segments == ("",) else segments, parts


def _candidates(groups: Sequence[GroupConfiguration], name: str | None) -> list[GroupConfiguration]:
    chosen = [group for group in groups if name in (None, group.name)]
    if not chosen:
        raise MisuseError(f"not a member of group {name!r}; there is {_known(groups)}")
    senders = [group for group in chosen if Role.MULTICASTER in group.roles]
    if not senders:
        names = ", ".join(printable(group.name) for group in chosen)
        raise MisuseError(f"this device may only listen in {names}; give the directory of one that is multicaster")
    return senders


def _only(groups: Sequence[GroupConfiguration]) -> GroupConfiguration:
    if len(groups) > 1:
        raise MisuseError(f"that may be any of these groups; choose with --group: {_known(groups)}")
    return groups[0]


def _address(authority: str, groups: Sequence[GroupConfiguration]) -> GroupAddress:
    try:
        return parse_address(authority)
    except MisuseError as problem:
        raise MisuseError(f"{problem}, and no group of this device: {_known(groups)}") from None


def _show(address: GroupAddress) -> str:
    return f"{SCHEME}{address}"


def _known(groups: Sequence[GroupConfiguration]) -> str:
    return ", ".join(f"{printable(g.name)} ({', '.join(_show(a) for a in g.addresses)})" for g in groups)
