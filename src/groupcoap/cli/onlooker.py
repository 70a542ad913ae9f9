"""What somebody who only looks on can read, with keys from any number of places.

Contexts are built without a Sender Context and with empty windows, so nobody's messages are reflections or replays.
Every epoch is as good as the current one: what is looked at may be old.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..core import coap
from ..core.coap import Message
from ..core.contexts import CommonContext, SecurityContext
from ..core.exchange import OutgoingExchange, outgoing_exchange
from ..core.option import decode_prefix
from ..core.profile import RequestIds
from ..core.registry import Registry
from ..core.requests import DecryptedRequest, decrypt_request, object_security
from ..core.responses import DecryptedResponse, decrypt_response
from ..errors import FileFault, MisuseError, Reason, Rejected
from ..membership import Epoch, GroupAddress, GroupConfiguration, Member

PREFIX = 8
"""Bytes of a Group Prefix, in Gids of the default sizes and at least in others (multicast-oscore-04 §8)."""

Keys = tuple[Path, GroupConfiguration]
"""A group, and the file (or device's directory) that it was read from."""


@dataclass(slots=True)
class KnownEpoch:
    """What the given files say of a group under one Gid. `own_ids`: Endpoint IDs of the devices whose files these
    are. `current`: no newer epoch of the group is known."""

    group: str
    gid: bytes
    path: Path
    context: SecurityContext = field(repr=False)
    addresses: list[GroupAddress]
    members: dict[bytes, Member]
    departed: set[bytes]
    own_ids: set[bytes]
    current: bool = True

    @property
    def common(self) -> CommonContext:
        return self.context.common

    @property
    def number(self) -> int | None:
        """The Group Epoch, if the Gid has the default sizes; otherwise where it begins is not known here."""
        return int.from_bytes(self.gid[PREFIX:], "big") if len(self.gid) == PREFIX + 4 else None


@dataclass(frozen=True, slots=True)
class Opened:
    """What was inside a message; `refused` if its countersignature is not right."""

    decrypted: DecryptedRequest | DecryptedResponse
    refused: Rejected | None

    @property
    def message(self) -> Message:
        """A person may look at what has been decrypted, whatever the signature says; programs may not."""
        return self.decrypted.for_onlooker()


class _AnyEpoch(Registry):
    """To an onlooker a response may come under any Gid of its group."""

    def current(self, group: str, gid: bytes | None = None) -> SecurityContext:
        for context in self.contexts(group):
            if context.gid == gid:
                return context
        raise Rejected(Reason.UNKNOWN_GROUP, group if gid is None else gid.hex())


class Onlooker:
    """Keys, merged: see `onlooker`."""

    def __init__(self, epochs: Iterable[KnownEpoch]) -> None:
        self._registry = _AnyEpoch()
        self._by_gid: dict[bytes, list[KnownEpoch]] = {}
        for epoch in epochs:
            try:
                self._registry.install(epoch.context, sorted({address.packed for address in epoch.addresses}))
            except MisuseError as error:
                raise FileFault(epoch.path, f"group {epoch.group}: {error}; leave one out") from None
            self._by_gid.setdefault(epoch.gid, []).append(epoch)
        for epoch in self.epochs:
            epoch.context.accepts_requests = True

    @property
    def epochs(self) -> list[KnownEpoch]:
        """All that is known."""
        return [epoch for epochs in self._by_gid.values() for epoch in epochs]

    def locate(self, gid: bytes | None) -> list[KnownEpoch]:
        """The epochs with this Gid: several where groups of several managers collide."""
        return self._by_gid.get(gid, []) if gid is not None else []

    def epoch_of(self, context: SecurityContext) -> KnownEpoch:
        """The epoch that a Security Context of these belongs to."""
        return next(epoch for epoch in self._by_gid[context.gid] if epoch.context is context)

    def open_request(self, message: Message, destination: bytes | None) -> Opened:
        """Decrypt a request that was sent to this packed multicast address, None for unicast. `Rejected` if a
        listener would refuse it before it looked at the countersignature."""
        return _checked(decrypt_request(self._registry, message, destination, 0.0))

    def open_response(self, message: Message, exchange: OutgoingExchange) -> Opened:
        """Decrypt a response to a request, likewise."""
        return _checked(decrypt_response(self._registry, exchange, message))

    def exchange(self, request: Message, context: SecurityContext | None = None) -> OutgoingExchange:
        """What the multicaster remembered of its request, which has been sent under this context, or under the
        only one with its Gid. `Rejected` if it cannot be a group request or its Gid is not known."""
        prefix = decode_prefix(object_security(request))
        _, partial_iv, gid, _ = prefix
        if not coap.is_request(request.code) or gid is None or partial_iv is None:
            raise Rejected(Reason.MALFORMED, "what is given as the request is no group request")
        context = context or self._registry.of(gid)[0]
        common = context.common
        kid, _, _ = common.profile.split_request_option(common, prefix)
        assert kid is not None  # as split_request_option promises
        prepared = common.profile.binder(common, kid, gid)(partial_iv)
        observe = request.option(coap.OBSERVE)
        registers = observe is not None and coap.uint_value(observe) == 0
        ids = RequestIds(kid, partial_iv, gid)
        return outgoing_exchange(context, ids, prepared, common.nonce(kid, partial_iv), registers)


def _checked(decrypted: DecryptedRequest | DecryptedResponse) -> Opened:
    try:
        decrypted.check_signature()
    except Rejected as rejection:
        return Opened(decrypted, rejection)
    return Opened(decrypted, None)


def onlooker(keys: Iterable[Keys]) -> Onlooker:
    """With the keys of all of these together: files of several devices, of several epochs, key logs. The same
    epoch may be in several; what they say is put together. `FileFault` if they contradict each other."""
    epochs: dict[tuple[str, bytes], KnownEpoch] = {}
    for path, group in keys:
        for index, epoch in enumerate(group.epochs):
            known = epochs.get((group.name, epoch.gid))
            if known is None:
                known = epochs[group.name, epoch.gid] = _begin(path, group, epoch)
            _merge(known, path, group, epoch)
            known.current &= index == len(group.epochs) - 1
    for known in epochs.values():
        known.current &= not any(_is_newer(other, known) for other in epochs.values())
        known.departed -= known.members.keys()
        for member in known.members.values():
            known.context.learn(member.endpoint_id, member.credential.public_key(known.common.signature))
        known.context.depart(known.departed)
    return Onlooker(epochs.values())


def _begin(path: Path, group: GroupConfiguration, epoch: Epoch) -> KnownEpoch:
    context = SecurityContext(group.name, group.common_context(epoch), None, {})
    return KnownEpoch(group.name, epoch.gid, path, context, [], {}, set(), set())


def _merge(known: KnownEpoch, path: Path, group: GroupConfiguration, epoch: Epoch) -> None:
    where = f"group {group.name}, Gid {epoch.gid.hex()}"
    if not _same_keys(known.common, group.common_context(epoch)):
        raise FileFault(path, f"{where}: has other keys or algorithms than in {known.path}; leave one of them out")
    known.addresses += [address for address in group.addresses if address not in known.addresses]
    known.departed |= epoch.departed
    if epoch.own_id is not None:
        known.own_ids.add(epoch.own_id)
    for member in epoch.members:
        found = known.members.setdefault(member.endpoint_id, member)
        keys = [one.credential.public_key(group.signature).data for one in (found, member)]
        if keys[0] != keys[1]:
            problem = f"{where}: Endpoint ID {member.endpoint_id.hex()} has another public key than in {known.path}"
            raise FileFault(path, f"{problem}; leave one of them out")


def _same_keys(one: CommonContext, other: CommonContext) -> bool:
    """The Common IV is derived from the Master Secret: there is no need to look at that."""
    same = (one.profile.name, one.aead, one.kdf, one.signature) == (
        other.profile.name,
        other.aead,
        other.kdf,
        other.signature,
    )
    return same and one.common_iv == other.common_iv


def _is_newer(one: KnownEpoch, other: KnownEpoch) -> bool:
    """Whether one epoch is known to come after the other: where the prefix is another, nothing is known."""
    same = one.group == other.group and one.gid[:PREFIX] == other.gid[:PREFIX]
    return same and len(one.gid) == len(other.gid) and one.gid > other.gid
