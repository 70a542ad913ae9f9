"""What files say of groups, put together: files of several devices, of several epochs, key logs, files of signature
checkers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..core import coap
from ..core.checker import SignatureChecker
from ..core.coap import Message
from ..core.contexts import CommonContext
from ..core.group_oscore import GROUP_OSCORE, Verifying, algorithm_numbers
from ..core.option import OptionPrefix
from ..core.profile import OptionTail, Profile
from ..cose.algorithms import AeadAlgorithm, EncryptionAlgorithm
from ..cose.keys import SignatureAlgorithm
from ..errors import FileFault
from ..files.checker import CheckedGroup
from ..membership import Epoch, GroupAddress, GroupConfiguration, Member, SecurityParameters
from .watched import WatchedContext

PREFIX = 8
"""Bytes of a Group Prefix, in Gids of the default sizes and at least in others (multicast-oscore-04 §8)."""

Keys = tuple[Path, GroupConfiguration | CheckedGroup]
"""A group, and the file (or device's directory) that it was read from."""


@dataclass(slots=True)
class KnownEpoch:
    """What the given files say of a group under one Gid.

    `context`: what its messages are read with; `checker`: what says who has made them, where there is more of that
    than of the former. One of the two may be None. `members`: their roles are empty where they are not known.
    `own_ids`: Endpoint IDs of the devices whose files these are. `current`: no newer epoch of the group is
    known."""

    group: str
    gid: bytes
    path: Path
    parameters: SecurityParameters
    context: WatchedContext | None = field(default=None, repr=False)
    checker: SignatureChecker | None = field(default=None, repr=False)
    addresses: list[GroupAddress] = field(default_factory=list)
    members: dict[bytes, Member] = field(default_factory=dict)
    departed: set[bytes] = field(default_factory=set)
    own_ids: set[bytes] = field(default_factory=set)
    current: bool = True

    @property
    def profile(self) -> Profile:
        return self.parameters.profile

    @property
    def encryption(self) -> EncryptionAlgorithm:
        """Of messages to the group."""
        return self.parameters.encryption

    @property
    def aead(self) -> AeadAlgorithm | None:
        """Of messages in pairwise mode."""
        return self.parameters.aead

    @property
    def signature(self) -> SignatureAlgorithm:
        return self.parameters.signature

    @property
    def number(self) -> int | None:
        """The Group Epoch, if the Gid has the default sizes; otherwise where it begins is not known here."""
        return int.from_bytes(self.gid[PREFIX:], "big") if len(self.gid) == PREFIX + 4 else None

    def split(self, message: Message, prefix: OptionPrefix) -> OptionTail:
        """What stands in a message's option behind this prefix. `Rejected` if it is malformed."""
        is_request = coap.is_request(message.code)
        if self.context is not None:
            profile, common = self.profile, self.context.common
            split = profile.split_request_option if is_request else profile.split_response_option
            return split(common, prefix)
        assert self.checker is not None  # there is one of the two
        check = GROUP_OSCORE.split_request_option if is_request else GROUP_OSCORE.split_response_option
        return check(self.checker, prefix)


def known_epochs(keys: Iterable[Keys]) -> list[KnownEpoch]:
    """All of these together. `FileFault` if they contradict each other."""
    epochs: dict[tuple[str, bytes], KnownEpoch] = {}
    for path, group in keys:
        if isinstance(group, CheckedGroup):
            _take_checked(epochs, path, group)
            continue
        for index, epoch in enumerate(group.epochs):
            known = _take(epochs, path, group, epoch)
            known.current &= index == len(group.epochs) - 1
    for known in epochs.values():
        known.current &= not any(_is_newer(other, known) for other in epochs.values())
        known.departed -= known.members.keys()
        if known.context is not None:
            _teach(known, known.context)
    return list(epochs.values())


def _teach(known: KnownEpoch, context: WatchedContext) -> None:
    """Tell the context who the members are."""
    for member in known.members.values():
        key = member.credential.public_key(known.signature)
        context.learn(member.endpoint_id, key, known.parameters.authenticated(member.credential))
    context.depart(known.departed)


def _take(
    epochs: dict[tuple[str, bytes], KnownEpoch], path: Path, group: GroupConfiguration, epoch: Epoch
) -> KnownEpoch:
    common, parameters = group.common_context(epoch), group.parameters
    known = epochs.setdefault((group.name, epoch.gid), KnownEpoch(group.name, epoch.gid, path, parameters))
    if known.context is None:
        known.context = WatchedContext(group.name, common)
    context = known.context
    _require(known, path, _same_keys(context.common, common))
    _require(known, path, known.checker is None or _same_checks(known.checker, common))
    _merge(known, path, group.addresses, epoch.members)
    known.departed |= epoch.departed
    if epoch.own_id is not None and epoch.private_key is not None:
        known.own_ids.add(epoch.own_id)
        own = epoch.credential
        context.hold(epoch.own_id, epoch.private_key, None if own is None else parameters.authenticated(own))
    return known


def _take_checked(epochs: dict[tuple[str, bytes], KnownEpoch], path: Path, group: CheckedGroup) -> None:
    known = epochs.setdefault((group.name, group.gid), KnownEpoch(group.name, group.gid, path, group.parameters))
    checker = group.checker()
    _require(known, path, known.checker is None or _same_checks(known.checker, checker))
    _require(known, path, known.context is None or _same_checks(known.context.common, checker))
    known.checker = known.checker or checker
    _merge(known, path, group.addresses, group.members)


def _merge(known: KnownEpoch, path: Path, addresses: Iterable[GroupAddress], members: Iterable[Member]) -> None:
    known.addresses += [address for address in addresses if address not in known.addresses]
    for member in members:
        found = known.members.setdefault(member.endpoint_id, member)
        one, other = (_identity(known, each) for each in (found, member))
        if one != other:
            what = "public key" if one[0] != other[0] else "credential"
            problem = f"has another {what} than in {known.path}; leave one of them out"
            raise FileFault(path, f"{_where(known)}: Endpoint ID {member.endpoint_id.hex()} {problem}")
        if not found.roles:
            known.members[member.endpoint_id] = member


def _identity(known: KnownEpoch, member: Member) -> tuple[bytes, bytes | None]:
    """What a member is known by: its public key, and its credential where messages are bound to that."""
    credential = member.credential
    return credential.public_key(known.signature).data, known.parameters.authenticated(credential)


def _where(known: KnownEpoch) -> str:
    return f"group {known.group}, Gid {known.gid.hex()}"


def _require(known: KnownEpoch, path: Path, same: bool) -> None:
    if not same:
        problem = f"has other keys or algorithms than in {known.path}; leave one of them out"
        raise FileFault(path, f"{_where(known)}: {problem}")


def _same_keys(one: CommonContext, other: CommonContext) -> bool:
    """The Common IV is derived from the Master Secret: there is no need to look at that."""
    same = (one.profile.name, one.encryption, one.kdf, one.signature, one.common_iv) == (
        other.profile.name,
        other.encryption,
        other.kdf,
        other.signature,
        other.common_iv,
    )
    return same and (one.keystream is None or _same_checks(one, other))


def _same_checks(one: Verifying, other: Verifying) -> bool:
    """Whether the same countersignatures are right to both."""
    if one.keystream is None or other.keystream is None:
        return False
    return (
        algorithm_numbers(one) == algorithm_numbers(other)
        and one.manager_credential == other.manager_credential
        and one.keystream(b"", b"") == other.keystream(b"", b"")
    )


def _is_newer(one: KnownEpoch, other: KnownEpoch) -> bool:
    """Whether one epoch is known to come after the other: where the prefix is another, nothing is known."""
    same = one.group == other.group and one.gid[:PREFIX] == other.gid[:PREFIX]
    return same and len(one.gid) == len(other.gid) and one.gid > other.gid
