"""How many joins a second the Group Manager makes durable, beside what the disk gives: bare durable commits.

A join is what the server does with a request, but for the network and OSCORE: parse, check rights and credential,
verify the proof of possession, assign an Endpoint ID, write member, credential, answer and audit entry, commit, and
make the response with the manager's own proof. The group renews its keys by hand only: with renewals on join a
batch of them costs one."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Final

from ..core.policy import profile_by_name
from ..cose.credentials import claims_set
from ..cose.keys import DEFAULT_SIGNATURE
from ..errors import Refused
from ..keying.joining import JoinRequest, control_uri
from ..keying.proof import client_proof_input, prove
from ..manager.decisions import Answer, GroupManager, first_writes
from ..manager.joins import Candidate
from ..manager.settings import GroupSettings, RekeyPolicy, control_for
from ..manager.state import Group
from ..manager.store.commit import GroupCommit
from ..manager.store.sealing import SealingKey
from ..manager.store.store import Store
from ..membership import GroupAddress, Role, SecurityParameters

SINGLE: Final = 300
"""Joins one after the other, each with a commit of its own."""
CONCURRENT: Final = 1500
"""Joins that come at once and share commits."""
COMMITS: Final = 500
ROUNDS: Final = 3
_CHALLENGE = b"bench NS"
_ADDRESS = GroupAddress(IPv4Address("224.0.1.187"))

Figures = dict[str, float]


def run(rounds: int = ROUNDS) -> Figures:
    """The ratios (joins per second over commits per second), with the rates they are made of; medians of
    `rounds`."""
    with tempfile.TemporaryDirectory() as directory:
        results = [_round(Path(directory), number) for number in range(rounds)]
    figures = {name: median(result[name] for result in results) for name in results[0]}
    return {name: round(value, 3 if name.endswith("ratio") else 1) for name, value in figures.items()}


def _round(directory: Path, number: int) -> Figures:
    commits = _bare_commits(directory / f"bare-{number}.sqlite")
    single = _joins(directory / f"single-{number}.sqlite", SINGLE, concurrent=False)
    concurrent = _joins(directory / f"concurrent-{number}.sqlite", CONCURRENT, concurrent=True)
    return {
        "single_ratio": single / commits,
        "concurrent_ratio": concurrent / commits,
        "single_per_second": single,
        "concurrent_per_second": concurrent,
        "commits_per_second": commits,
    }


def _bare_commits(path: Path) -> float:
    """Durable transactions of one small row, per second: WAL, FULL."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value BLOB)")
    value = os.urandom(64)
    began = time.perf_counter()
    for number in range(COMMITS):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?, ?)", (number, value))
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return COMMITS / took


def _joins(path: Path, count: int, *, concurrent: bool) -> float:
    """Durable joins per second; the requests are made before."""
    store = Store.create(f"sqlite:///{path}", SealingKey.generate())
    try:
        store.commit(first_writes("bench", os.urandom, time.time()))
        manager = GroupManager(store.load(), time.time, os.urandom)
        requests = _prepare(manager, count)
        store.commit(manager.take_writes())
        began = time.perf_counter()
        asyncio.run(_serve(manager, store, requests, 1 if not concurrent else 64))
        return count / (time.perf_counter() - began)
    finally:
        store.close()


def _prepare(manager: GroupManager, count: int) -> list[tuple[str, bytes]]:
    """Devices with the right to join, and their requests."""
    credential = manager.keys[DEFAULT_SIGNATURE.number].credential
    parameters = SecurityParameters(profile_by_name("multicast-oscore-04"), manager_credential=credential)
    rekey = RekeyPolicy(on_join=False)
    addresses = (_ADDRESS,)
    settings = GroupSettings("bench", addresses, parameters, control_for(addresses), rekey=rekey, max_members=count)
    manager.create_group(settings, "bench")
    return [(f"device-{number}", _request(manager, f"device-{number}")) for number in range(count)]


def _request(manager: GroupManager, device: str) -> bytes:
    roles = frozenset({Role.LISTENER})
    manager.enroll(device, {"bench": roles}, "bench")
    key = DEFAULT_SIGNATURE.generate()
    data = claims_set(key.public_key, DEFAULT_SIGNATURE, device).data
    uri = control_uri("bench", "127.0.0.1", 5683)
    request = JoinRequest("bench", roles, os.urandom(8), True, data, control_uri=uri)
    proof = prove(key, client_proof_input(request.scope, _CHALLENGE, request.nonce))
    return replace(request, proof=proof).encode()


async def _serve(manager: GroupManager, store: Store, requests: Sequence[tuple[str, bytes]], at_once: int) -> None:
    """`at_once` requests are under way at any time."""
    commit = GroupCommit(store)
    waiting = iter(requests)
    group = manager.groups["bench"]

    async def worker() -> None:
        for device, payload in waiting:
            await _join(manager, commit, group, device, payload)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    await commit.close()


async def _join(manager: GroupManager, commit: GroupCommit, group: Group, device: str, payload: bytes) -> None:
    """As the server does it, without waiting for others to join too."""
    candidate = manager.check_join(device, "bench", payload, _CHALLENGE)
    assert isinstance(candidate, Candidate)
    admission = manager.admit("bench", [candidate])
    await commit.durable(manager.take_writes())
    answer = admission.answers[0]
    if isinstance(answer, Refused):
        raise answer
    _respond(manager, group, answer)


def _respond(manager: GroupManager, group: Group, answer: Answer) -> bytes:
    member = answer.member
    return manager.report(group, member, prove_with=member.nonce).encode(manager.points)
