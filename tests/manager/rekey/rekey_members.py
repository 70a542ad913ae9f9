"""Simulated members, and everything that anybody ever held or could record: what the tests of rekeying deliver
to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from groupcoap.keying.admin import AdminKey, Scheme
from groupcoap.manager.rekey.scheme import KeyRecord, Keyring, Plan, Wrap, load_keyring, make_keyring

TAG = b"\x01\x02\x03\x04"
LENGTH = 16


def counting() -> Callable[[int], bytes]:
    """Randomness that never repeats and is the same in every run."""
    numbers = itertools.count(1)
    return lambda length: next(numbers).to_bytes(length, "big")


def plain(record: KeyRecord) -> tuple[int, int | None, int, bytes, str | None]:
    return (record.node, record.parent, record.generation, record.key.reveal(), record.member)


def known(path: Iterable[AdminKey]) -> list[tuple[bytes, bytes]]:
    return [(key.kid, key.key.reveal()) for key in path]


def readable(path: Sequence[AdminKey], wraps: Sequence[Wrap]) -> list[Wrap]:
    kids = {key.kid: key.key.reveal() for key in path}
    found = [wrap for wrap in wraps if wrap.under.kid in kids]
    assert all(kids[wrap.under.kid] == wrap.under.key.reveal() for wrap in found)
    return found


def after(path: Sequence[AdminKey], wrap: Wrap) -> tuple[AdminKey, ...]:
    """A member's path once it has read this message: the rule in `Wrap`."""
    at = next(index for index, key in enumerate(path) if key.kid == wrap.under.kid)
    kept = path[: at + 1]
    if kept[-1].node in {key.node for key in wrap.keys}:
        kept = kept[:-1]
    return (*kept, *wrap.keys)


def learn(held: set[bytes], wraps: Sequence[Wrap]) -> set[bytes]:
    """All that follows from these keys and these recorded messages."""
    held = set(held)
    growing = True
    while growing:
        before = len(held)
        for wrap in wraps:
            if wrap.under.key.reveal() in held:
                held.update(key.key.reveal() for key in wrap.keys)
        growing = len(held) > before
    return held


@dataclass
class Group:
    """A group whose members and observers do what they can. `change` checks every promise of a plan."""

    scheme: Scheme
    arity: int
    names: list[str]
    paths: dict[str, tuple[AdminKey, ...]] = field(default_factory=dict)
    ever: dict[str, set[bytes]] = field(default_factory=dict)
    """Every key that a name ever held, also in an earlier membership."""
    since: dict[str, tuple[int, set[bytes]]] = field(default_factory=dict)
    """How many messages had been sent before a member joined, and every key it held since."""
    recorded: list[Wrap] = field(default_factory=list)
    stored: dict[int, KeyRecord] = field(default_factory=dict)
    kids: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = counting()
        self.keyring: Keyring = make_keyring(self.scheme, self.arity, TAG, LENGTH, self.names, self.random)
        self.stored = {record.node: record for record in self.keyring.records()}
        for name in self.names:
            self._admit(name)
        self._check_state()

    def reload(self) -> None:
        """Go on with a keyring made from what is stored."""
        stored = list(self.stored.values())[::-1]  # in whatever order
        self.keyring = load_keyring(self.scheme, self.arity, TAG, LENGTH, stored, list(self.keyring.members))
        self._check_state()

    def change(self, joined: Sequence[str] = (), left: Sequence[str] = ()) -> Plan:
        before = [plain(record) for record in self.keyring.records()]
        renewal = max((record.generation for record in self.stored.values()), default=0) + 1
        plan = self.keyring.plan(joined, left, self.random)
        assert [plain(record) for record in self.keyring.records()] == before  # a plan changes nothing
        for put in plan.puts:  # a new key is of this renewal; else it is an old one in another place
            old = self.stored.get(put.node)
            if old is not None and old.key is put.key:
                assert (old.generation, old.member) == (put.generation, put.member)
                assert old.parent != put.parent
            else:
                assert put.generation == renewal
        self.keyring.apply(plan)
        for name in left:
            del self.paths[name], self.since[name]
        self._deliver(plan)
        self.recorded.extend(plan.wraps)
        self._store(plan)
        for name in joined:
            self._admit(name)
        self._check_state()
        return plan

    def _deliver(self, plan: Plan) -> None:
        readers = {id(wrap): 0 for wrap in plan.wraps}
        for name, path in self.paths.items():
            found = readable(path, plan.wraps)
            if plan.unicasts:
                assert not plan.wraps
                self._hold(name, self.keyring.path(name))
                continue
            assert len(found) == 1  # exactly one message for each
            readers[id(found[0])] += 1
            self._hold(name, after(path, found[0]))
        assert [readers[id(wrap)] for wrap in plan.wraps] == [wrap.readers for wrap in plan.wraps]
        assert all(wrap.readers > 0 for wrap in plan.wraps)
        unders = [wrap.under.kid for wrap in plan.wraps]
        assert len(unders) == len(set(unders))
        assert not (plan.unicasts and not self.paths)

    def _store(self, plan: Plan) -> None:
        for node in plan.removes:
            del self.stored[node]
        self.stored.update({put.node: put for put in plan.puts})

    def _admit(self, name: str) -> None:
        path = self.keyring.path(name)
        # backward: all that a joiner gets is new, and opens nothing that was sent before
        held = {key.key.reveal() for key in path}
        assert not held & {wrap.under.key.reveal() for wrap in self.recorded}
        assert not held & set(self.kids.values())
        self.since[name] = (len(self.recorded), set())
        self.paths[name] = ()
        self._hold(name, path)

    def _hold(self, name: str, path: tuple[AdminKey, ...]) -> None:
        self.paths[name] = path
        held = {key.key.reveal() for key in path}
        self.ever.setdefault(name, set()).update(held)
        self.since[name][1].update(held)

    def _check_state(self) -> None:
        assert set(self.keyring.members) == set(self.paths)
        records = {record.node: record for record in self.keyring.records()}
        assert {n: plain(r) for n, r in records.items()} == {n: plain(r) for n, r in self.stored.items()}
        current = {record.key.reveal() for record in records.values()}
        assert len(current) == len(records)
        for name, path in self.paths.items():
            assert known(path) == known(self.keyring.path(name))
        for record in records.values():  # a kid never names two keys
            kid = record.admin(TAG).kid
            assert self.kids.setdefault(kid, record.key.reveal()) == record.key.reveal()

    def check_secrecy(self) -> None:
        """Forward, backward, and nobody inside knows a key that is not on its path; whatever was recorded."""
        current = {record.key.reveal() for record in self.keyring.records()}
        out: set[bytes] = set()
        for name, held in self.ever.items():
            if name not in self.paths:
                out |= held
        assert not learn(out, self.recorded) & current  # all who left, together
        for name, path in self.paths.items():
            mine = {key.key.reveal() for key in path}
            assert learn(self.ever[name], self.recorded) & current == mine
            sent, held = self.since[name]
            assert not held & {wrap.under.key.reveal() for wrap in self.recorded[:sent]}
