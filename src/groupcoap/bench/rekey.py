"""What one leave costs the Group Manager: encryptions, messages, bytes and time, by scheme and size of the group.

The leaver sits where it costs most, at the deepest leaf of a tree of near-equal splits. Measured is all that the
manager does before and while messages leave: the decision, new keys, encrypting and signing, protecting what goes
by unicast, and the transaction that makes it durable; not the network."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Final

import aiocoap

from ..association.context import AssociationContext
from ..core.policy import profile_by_name
from ..cose.keys import DEFAULT_SIGNATURE
from ..keying.admin import Scheme
from ..keying.labels import GROUPCOMM_CBOR
from ..manager.decisions import GroupManager, first_writes
from ..manager.rekey.scheme import make_keyring
from ..manager.settings import GroupSettings, RekeyPolicy, control_for
from ..manager.state import Group, Member, Renewal, key_row
from ..manager.store.store import Store
from ..manager.store.writes import Insert, Write
from ..membership import GroupAddress, Role, SecurityParameters
from ..secret import Secret

SIZES: Final = (100, 10_000, 100_000)
SCHEMES: Final = {
    "point-to-point": RekeyPolicy(scheme=Scheme.POINT_TO_POINT),
    "gkmp": RekeyPolicy(scheme=Scheme.GKMP),
    "lkh-2": RekeyPolicy(scheme=Scheme.LKH, arity=2),
    "lkh-4": RekeyPolicy(scheme=Scheme.LKH, arity=4),
}
LEAVES: Final = 5
"""Of which the median is taken, where all is done by multicast; else there is one."""

_ADDRESS = GroupAddress(IPv4Address("224.0.1.187"))
Figures = dict[str, dict[str, dict[str, float]]]


def run(sizes: tuple[int, ...] = SIZES, schemes: dict[str, RekeyPolicy] = SCHEMES) -> Figures:
    """{scheme: {n: {encryptions, messages, bytes, ms}}}. `encryptions`: keys to be encrypted, each once (RFC 2627
    §5.4, what the manager compares with telling everybody); `messages`, `bytes`: as they leave; `ms`:
    milliseconds."""
    return {name: {str(n): _measure(policy, n) for n in sizes} for name, policy in schemes.items()}


def _measure(policy: RekeyPolicy, n: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        store = Store.create(f"sqlite:///{Path(directory) / 'bench.sqlite'}", None)
        try:
            store.commit(first_writes("bench", os.urandom, time.time()))
            manager = GroupManager(store.load(), time.time, os.urandom)
            group = _group_of(manager, store, policy, n)
            tell = _teller(manager, group)
            first = _leave(manager, store, group, tell)
            times = [first["ms"]]
            if group.renewal is not None and not group.renewal.unicasts:
                times += [_leave(manager, store, group, tell)["ms"] for _ in range(LEAVES - 1)]
            return {**first, "ms": round(median(times), 3)}
        finally:
            store.close()


def _group_of(manager: GroupManager, store: Store, policy: RekeyPolicy, n: int) -> Group:
    """A group of so many members, as if they had joined, with a keyring made at once."""
    key = manager.keys[DEFAULT_SIGNATURE.number]
    parameters = SecurityParameters(profile_by_name("multicast-oscore-04"), manager_credential=key.credential)
    addresses = (_ADDRESS,)
    settings = GroupSettings("bench", addresses, parameters, control_for(addresses), rekey=policy, max_members=n)
    group = manager.create_group(settings, "bench")
    rows: list[Write] = []
    for number in range(n):
        endpoint_id = number.to_bytes(3, "big")
        member = Member(
            node=f"n{number + 1}",
            device=f"device-{number}",
            endpoint_id=endpoint_id,
            roles=frozenset({Role.LISTENER}),
            credential=key.credential,
            scope=b"",
            nonce=b"",
            joined=0.0,
            joined_num=0,
            confirmed_num=0,
            control="coap://127.0.0.1:5683/ace-group/bench/node",
        )
        group.members[member.node] = group.by_device[member.device] = group.by_id[endpoint_id] = member
        group.confirmed += 1
        rows.append(Insert("members", member.row("bench")))
    group.sequence = n + 1
    length = settings.wrapping.key_length
    group.keyring = make_keyring(policy.scheme, policy.arity, group.tag, length, list(group.members), os.urandom)
    rows += [Insert("keys", key_row("bench", record)) for record in group.keyring.records() if record.node != 1]
    store.commit([write for write in manager.take_writes() if not _is_key(write)] + rows + _root(group))
    return group


def _is_key(write: Write) -> bool:
    return write.table == "keys"


def _root(group: Group) -> list[Write]:
    return [Insert("keys", key_row("bench", record)) for record in group.keyring.records() if record.node == 1]


def _teller(manager: GroupManager, group: Group) -> Callable[[Member], int]:
    """Protects a renewal for one member, as it goes over its association: how many bytes that are."""
    context = AssociationContext("bench", Secret(bytes(16)), b"", b"\x01", b"\x02", fresh=True)

    def tell(member: Member) -> int:
        payload = manager.message_for(group, member).encode(manager.points)
        message = aiocoap.Message(
            code=aiocoap.POST,
            uri_path=("ace-group", group.name, "node"),
            payload=payload,
            content_format=GROUPCOMM_CBOR,
        )
        protected, _ = context.protect(message)
        return len(protected.payload)

    return tell


def _leave(manager: GroupManager, store: Store, group: Group, tell: Callable[[Member], int]) -> dict[str, float]:
    """The worst leave there is."""
    leaver = max(_some(group), key=lambda member: len(group.keyring.path(member.node)))
    began = time.perf_counter()
    renewal = manager.remove(group, leaver, "bench")
    assert renewal is not None
    store.commit(manager.take_writes())
    messages, size = _sent(group, renewal, tell)
    took = time.perf_counter() - began
    return {"encryptions": renewal.encryptions, "messages": messages, "bytes": size, "ms": round(took * 1000, 3)}


def _some(group: Group) -> list[Member]:
    """All of them; the search is not measured."""
    return list(group.members.values())


def _sent(group: Group, renewal: Renewal, tell: Callable[[Member], int]) -> tuple[int, int]:
    if not renewal.unicasts:
        return len(renewal.multicasts), sum(map(len, renewal.multicasts))
    sizes = [tell(member) for member in group.members.values()]
    return len(sizes), sum(sizes)
