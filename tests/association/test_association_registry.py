"""A manager's associations: half open, established, bounded."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

import aiocoap
import pytest
from aiocoap.oscore import COSE_KID, COSE_KID_CONTEXT, ContextUnavailable
from associated import Store, carried, nonces  # noqa: F401

from groupcoap.association.context import MAX_NUMBERS, RESERVATION, AssociationContext, master_salt
from groupcoap.association.registry import AssociationLimits, Associations
from groupcoap.association.setup import AssociateRequest
from groupcoap.errors import MisuseError, Refused, StoreFault
from groupcoap.secret import Secret


class Registry:
    """Associations, and devices that ask for them."""

    def __init__(self, **limits: Any) -> None:
        self.store = Store()
        self.handle, self.secret = self.store.enrol("lamp")
        self.reserve: Any = self.store.reserve
        self.associations = Associations(
            self.store.devices.get,
            os.urandom,
            AssociationLimits(**{"rate": 1e6, "rate_per_host": 1e6, **limits}),
            on_established=self.store.established,
            on_reserve=lambda device, reserved: self.reserve(device, reserved),
            clock=lambda: 1234.0,
        )

    def set_up(
        self, host: str = "h", now: float = 0.0, handle: bytes | None = None, own_id: bytes = b"\x01"
    ) -> AssociationContext:
        """The device's context."""
        request = AssociateRequest(handle or self.handle, os.urandom(8), own_id)
        response = self.associations.associate(request, host, now)
        secret = self.store.devices[request.handle][1]
        salt = master_salt(request.handle, request.nonce, response.nonce)
        self.challenge = response.challenge
        return AssociationContext("manager", secret, salt, response.recipient_id, own_id, fresh=True)

    def known(self, device: AssociationContext) -> bool:
        try:
            return bool(self.associations.find_oscore({COSE_KID: device.sender_id}))
        except KeyError:
            return False

    def verify(self, device: AssociationContext) -> AssociationContext:
        """The device sends a request."""
        context = self.associations.find_oscore({COSE_KID: device.sender_id})
        context.unprotect(carried(device.protect(aiocoap.Message(code=aiocoap.GET))[0]))
        return context


def test_the_old_one_goes_when_the_new_one_has_verified_a_request() -> None:
    registry = Registry()
    associations = registry.associations
    old = registry.set_up(host="there")
    assert associations.context("lamp") is None
    assert associations.half_open == 1
    with pytest.raises(Refused, match="no association"):
        associations.challenge("lamp")
    context = registry.verify(old)
    assert associations.context("lamp") is context
    assert (associations.half_open, len(associations)) == (0, 1)
    record = registry.store.records["lamp"]
    assert associations.record("lamp") == record
    assert (record.device, record.own_id, record.peer_id) == ("lamp", old.sender_id, old.recipient_id)
    assert (record.reserved, record.address, record.established) == (RESERVATION, "there", 1234.0)
    challenge = registry.challenge
    assert associations.challenge("lamp") == record.challenge == challenge
    new = registry.set_up()
    assert associations.challenge("lamp") == challenge
    registry.verify(old)  # still good
    registry.verify(new)
    assert not registry.known(old)
    assert associations.challenge("lamp") == registry.challenge != challenge
    assert registry.store.records["lamp"].own_id == new.sender_id


def test_only_who_has_the_secret_replaces_anything() -> None:
    registry = Registry()
    old = registry.set_up()
    registry.verify(old)
    registry.store.devices[registry.handle] = "lamp", registry.secret
    wrong = registry.set_up()
    wrong.derive_keys(b"salt", bytes(16))
    with pytest.raises(ValueError, match="Tag invalid"):
        registry.verify(wrong)
    assert registry.known(old)
    assert registry.known(wrong)  # half open yet


def test_unknown_handles() -> None:
    registry = Registry()
    with pytest.raises(Refused) as caught:
        registry.associations.associate(AssociateRequest(bytes(8), bytes(8), b""), "h", 0.0)
    assert caught.value.code == 0x81
    assert registry.associations.half_open == 0


def test_no_context_for_others() -> None:
    registry = Registry()
    device = registry.set_up()
    for unprotected in ({}, {COSE_KID: b""}, {COSE_KID: device.sender_id, COSE_KID_CONTEXT: b"x"}):
        with pytest.raises(KeyError):
            registry.associations.find_oscore(unprotected)


def test_half_open_ones_expire() -> None:
    registry = Registry(lifetime=30.0)
    first, established = registry.set_up(now=0.0), registry.set_up(now=0.0)
    registry.verify(established)
    second = registry.set_up(now=20.0)
    registry.associations.expire(29.9)
    assert registry.known(first)
    registry.associations.expire(30.0)
    assert not registry.known(first)
    assert registry.known(second)
    assert registry.known(established)
    registry.set_up(now=60.0)
    assert not registry.known(second)


def test_half_open_ones_are_bounded_by_device_by_host_and_in_all() -> None:
    registry = Registry(half_open=10, half_open_per_host=4, half_open_per_device=3)
    handles = [registry.store.enrol(f"device {i}")[0] for i in range(30)]
    of_device = [registry.set_up(host=f"host {i}") for i in range(5)]
    assert [registry.known(device) for device in of_device] == [False, False, True, True, True]
    of_host = [registry.set_up(host="one", handle=handle) for handle in handles[:6]]
    assert [registry.known(device) for device in of_host] == [False, False, True, True, True, True]
    of_all = [registry.set_up(host=f"x {i}", handle=handle) for i, handle in enumerate(handles[6:])]
    assert [registry.known(device) for device in of_all] == [False] * 14 + [True] * 10
    assert registry.associations.half_open == 10
    assert not any(map(registry.known, of_device + of_host))


def test_a_flood_touches_nothing_that_is_established() -> None:
    registry = Registry(half_open=10)
    device = registry.set_up()
    registry.verify(device)
    for number in range(1000):
        registry.set_up(host=str(number), now=number / 1000)
    registry.verify(device)
    assert registry.associations.half_open <= 10


def test_set_ups_are_limited_in_rate() -> None:
    registry = Registry(rate_per_host=2.0, rate=4.0)

    refusals: list[tuple[int, float | None]] = []

    def admitted(host: str, now: float) -> int:
        count = 0
        for _ in range(20):
            try:
                registry.set_up(host, now)
                count += 1
            except Refused as refused:
                refusals.append((refused.code, refused.retry_after))
        return count

    assert admitted("a", 0.0) == 4
    assert admitted("b", 0.0) == 4
    assert admitted("c", 0.0) == 0
    assert admitted("a", 1.0) == 2
    assert set(refusals) == {(0x9D, 2.0)}


def test_limits_are_positive() -> None:
    for name in ("half_open", "half_open_per_host", "half_open_per_device", "lifetime", "rate", "rate_per_host"):
        with pytest.raises(MisuseError):
            AssociationLimits(**{name: 0})


def test_recipient_ids_are_unique_and_not_the_devices() -> None:
    store = Store()
    handle, _ = store.enrol("lamp")
    ids = iter([b"aaaa", b"aaaa", b"bbbb", b"cccc"])
    associations = Associations(
        store.devices.get,
        lambda size: bytes(8) if size == 8 else next(ids),
        on_established=store.established,
        on_reserve=store.reserve,
    )

    def own_id(peer_id: bytes) -> bytes:
        return associations.associate(AssociateRequest(handle, bytes(8), peer_id), "h", 0.0).recipient_id

    assert own_id(b"") == b"aaaa"
    assert own_id(b"bbbb") == b"cccc"


def test_without_a_free_id() -> None:
    store = Store()
    handle, _ = store.enrol("lamp")
    associations = Associations(
        store.devices.get, bytes, on_established=store.established, on_reserve=store.reserve
    )
    request = AssociateRequest(handle, bytes(8), b"")
    associations.associate(request, "h", 0.0)
    with pytest.raises(Refused) as caught:
        associations.associate(request, "h", 0.0)
    assert caught.value.code == 0xA3
    assert associations.half_open == 1


def test_dropping_a_device() -> None:
    registry = Registry()
    old = registry.set_up()
    registry.verify(old)
    new = registry.set_up()
    context = registry.associations.find_oscore({COSE_KID: new.sender_id})
    registry.associations.drop("lamp")
    registry.associations.drop("lamp")
    assert not registry.known(old)
    assert not registry.known(new)
    assert registry.associations.context("lamp") is None
    # one that was found before
    context.unprotect(carried(new.protect(aiocoap.Message(code=aiocoap.GET))[0]))
    assert registry.associations.context("lamp") is None


async def test_restored_ones_use_no_number_twice() -> None:
    before = Registry()
    device = before.set_up()
    context = before.verify(device)
    for _ in range(3):
        context.protect(aiocoap.Message(code=aiocoap.GET))
    after = Registry()
    after.reserve = before.store.reserve
    record = before.store.records["lamp"]
    after.associations.restore(record, before.secret)
    restored = after.associations.context("lamp")
    assert restored is not None
    assert not restored.initialized
    with pytest.raises(ContextUnavailable):
        restored.new_sequence_number()
    await restored.ready()
    number = restored.new_sequence_number()
    assert number >= RESERVATION
    assert before.store.records["lamp"].reserved == number + RESERVATION
    with pytest.raises(MisuseError):
        after.associations.restore(record, before.secret)
    await after.associations.close()


async def test_numbers_are_used_when_they_are_durable() -> None:
    registry = Registry()
    context = registry.verify(registry.set_up())
    asked: list[int] = []
    durable = asyncio.Event()

    async def reserve(device: str, reserved: int) -> None:
        asked.append(reserved)
        await durable.wait()

    registry.reserve = reserve
    numbers = [context.new_sequence_number() for _ in range(RESERVATION)]
    assert numbers == list(range(RESERVATION))
    await asyncio.sleep(0)
    assert asked == [2 * RESERVATION]
    with pytest.raises(ContextUnavailable):
        context.new_sequence_number()
    durable.set()
    await context.ready()
    assert context.new_sequence_number() == RESERVATION


async def test_what_cannot_be_made_durable_is_not_used() -> None:
    registry = Registry()
    context = registry.verify(registry.set_up())
    attempts = []

    async def fail(device: str, reserved: int) -> None:
        attempts.append(reserved)
        raise StoreFault("the disk is full") if len(attempts) % 2 else KeyError(device)

    registry.reserve = fail
    for _ in range(RESERVATION):
        context.new_sequence_number()
        await asyncio.sleep(0)
    with pytest.raises(ContextUnavailable):
        await context.ready(0.02)
    assert len(attempts) > 1
    assert set(attempts) == {2 * RESERVATION}
    registry.reserve = registry.store.reserve
    await context.ready()
    assert context.new_sequence_number() == RESERVATION


async def test_a_former_association_gets_no_more_numbers() -> None:
    registry = Registry()
    former = registry.verify(registry.set_up())
    durable = asyncio.Event()

    async def reserve(device: str, reserved: int) -> None:
        await durable.wait()

    registry.reserve = reserve
    for _ in range(RESERVATION):
        former.new_sequence_number()
    await asyncio.sleep(0)
    registry.verify(registry.set_up())
    durable.set()
    with pytest.raises(ContextUnavailable):
        await former.ready(0.02)


def test_secrets_are_not_in_records() -> None:
    registry = Registry()
    registry.verify(registry.set_up())
    assert registry.secret.reveal().hex() not in repr(registry.store.records)
    assert isinstance(registry.secret, Secret)


async def test_two_that_go_on_from_one_record_go_different_ways() -> None:
    """Somebody has put an old database back."""
    before = Registry()
    before.verify(before.set_up())
    record = before.store.records["lamp"]
    numbers = []
    for _ in range(2):
        after = Registry()
        after.reserve = before.store.reserve
        after.associations.restore(record, before.secret)
        restored = after.associations.context("lamp")
        assert restored is not None
        await restored.ready()
        numbers.append({restored.new_sequence_number() for _ in range(50)})
        await after.associations.close()
    assert not numbers[0] & numbers[1]


async def test_one_that_has_no_room_for_more_numbers_is_not_taken_up() -> None:
    before = Registry()
    before.verify(before.set_up())
    after = Registry()
    after.associations.restore(replace(before.store.records["lamp"], reserved=MAX_NUMBERS - 1), before.secret)
    assert after.associations.context("lamp") is None
