from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiocoap
import pytest
from aiocoap import resource
from suites import ES256

from groupcoap import devices
from groupcoap.association.node import CoapNode
from groupcoap.core.coap import FORBIDDEN, SERVICE_UNAVAILABLE
from groupcoap.core.sequence import MAXIMUM
from groupcoap.cose.algorithms import aead_algorithm
from groupcoap.cose.keys import DEFAULT_SIGNATURE
from groupcoap.endpoint.endpoint import Endpoint
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Multicaster
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.errors import MisuseError, NetworkFault, Refused, StateCopied, StateLocked
from groupcoap.files.identity import IDENTITY_FILE, load_identity
from groupcoap.files.provisioned import STATE_FILE
from groupcoap.keying.admin import Scheme
from groupcoap.keying.envelope import parse_envelope
from groupcoap.keying.proof import prove
from groupcoap.manager import decisions
from groupcoap.manager.decisions import Answer, new_incarnation
from groupcoap.manager.server import ManagerServer
from groupcoap.manager.store.store import Store
from groupcoap.member import group as member_group
from groupcoap.member import membership as membership_module
from groupcoap.member.dealings import ManagerMismatch
from groupcoap.member.enrolment import ENROLMENT_FILE, load_enrolment, save_enrolment
from groupcoap.member.membership import ManagedMembership
from groupcoap.membership import EpochInstalled

from .houses import Device, House, free_port, until, without_keys
from .managers import DRAFT, GROUP_OSCORE, LISTENER, MULTICASTER, NAME, PURE, Suite

SCHEMES = pytest.mark.parametrize("scheme", list(Scheme), ids=lambda scheme: scheme.name.lower())
SUITES = pytest.mark.parametrize("suite", [DRAFT, GROUP_OSCORE], ids=lambda suite: suite.name)


@SUITES
async def test_a_device_joins(tmp_path: Path, suite: Suite) -> None:
    async with House(tmp_path) as house:
        await house.make(suite=suite)
        device = await house.enroll("lamp")
        async with device.membership() as membership:
            device.watch(membership)
            await membership.ready(10)
            (configuration,) = membership.groups()
            assert configuration.current.gid == house.group().gid
            assert configuration.current.own_id == house.member("lamp").endpoint_id
            assert configuration.roles == LISTENER
            assert device.kinds() == ["GroupJoined"]
            assert device.kept.exists()
            await until(house.everybody_has_it)
            assert house.member("lamp").control is not None


@SCHEMES
@SUITES
async def test_renewals_come_by_every_scheme(tmp_path: Path, scheme: Scheme, suite: Suite) -> None:
    async with House(tmp_path) as house:
        await house.make(scheme, suite)
        switch = await house.enroll("switch", MULTICASTER)
        lamp = await house.enroll("lamp")
        sensor = await house.enroll("sensor", PURE)
        async with switch.membership() as first, lamp.membership() as second, sensor.membership() as third:
            for membership in (first, second, third):
                await membership.ready(10)
            switch.watch(first)
            await until(house.everybody_has_it)
            await house.rekey()
            await until(lambda: "EpochInstalled" in switch.kinds() and house.everybody_has_it())
            event = next(e for e in switch.events if type(e).__name__ == "EpochInstalled")
            assert event.configuration.current.successive  # type: ignore[union-attr]
            for membership in (first, second, third):
                assert membership.groups()[0].current.gid == house.group().gid
            await until(lambda: {m.name for m in first.groups()[0].current.members} == {"lamp"})
            assert first.groups()[0].name == NAME


# ---- missing something


async def test_a_gap_is_found_and_closed(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp, other = await house.enroll("lamp"), await house.enroll("other", MULTICASTER)
        async with lamp.membership() as membership, other.membership() as second:
            await membership.ready(10)
            await second.ready(10)
            await until(house.everybody_has_it)
            lamp.watch(membership)
            await house.rekey(lost=True)
            await house.rekey()
            await until(lambda: membership.groups()[0].current.gid == house.group().gid)
            installed = [e for e in lamp.events if isinstance(e, EpochInstalled)]
            assert [e.configuration.current.successive for e in installed] == [False]
            await until(house.everybody_has_it)
            await house.rekey()
            await until(lambda: len([e for e in lamp.events if isinstance(e, EpochInstalled)]) == 2)
            assert lamp.events[-1].configuration.current.successive  # type: ignore[union-attr]


async def test_a_poll_finds_what_was_lost(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make(check_interval=1.0)
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            await house.rekey(lost=True)
            await until(lambda: membership.groups()[0].current.gid == house.group().gid)
            await until(house.everybody_has_it)


async def test_an_unknown_gid_makes_it_ask_and_takes_nothing_away(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership(unknown_gid_interval=0.3) as membership:
            await membership.ready(10)
            await house.rekey(lost=True)
            current = membership.groups()[0].current.gid
            confirmations = house.running.counts.values()["confirmations"]
            membership.unknown_gid(b"other prefix")
            membership.unknown_gid(current[:8] + bytes(4))  # not a later one
            membership.unknown_gid(bytes(3))
            await asyncio.sleep(0.6)
            assert house.running.counts.values()["confirmations"] == confirmations
            membership.unknown_gid(house.group().gid)
            await until(lambda: membership.groups()[0].current.gid == house.group().gid)
            confirmations = house.running.counts.values()["confirmations"]
            before = lamp.kept.read_text()
            for _ in range(100):
                membership.unknown_gid(house.group().gid[:-4] + b"\xff\xff\xff\xff")
                await asyncio.sleep(0.01)
            assert house.running.counts.values()["confirmations"] <= confirmations + 5
            assert len(membership.groups()) == 1
            assert json.loads(lamp.kept.read_text())["gid"] == json.loads(before)["gid"]


async def test_members_catch_up_after_a_delay_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance decides how soon each of them asks; the group's size, within what time."""
    monkeypatch.setattr(decisions, "CONFIRMATIONS_PER_SECOND", 1)

    def chance(value: bytes) -> Callable[[int], bytes]:
        return lambda length: value if length == 4 else os.urandom(length)

    async with House(tmp_path) as house:
        await house.make()
        lamps = [await house.enroll(name) for name in ("soon", "late")]
        async with (
            lamps[0].membership(random=chance(bytes(4))) as soon,
            lamps[1].membership(random=chance(b"\xff" * 4)) as late,
        ):
            for membership in (soon, late):
                await membership.ready(10)
            await until(house.everybody_has_it)
            await house.rekey(lost=True)
            await house.rekey()  # a gap for both, at the same moment
            gid = house.group().gid
            await until(lambda: soon.groups()[0].current.gid == gid)
            await asyncio.sleep(0.7)
            assert late.groups()[0].current.gid != gid
            await until(lambda: late.groups()[0].current.gid == gid)


async def test_changed_parameters_are_fetched(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            lamp.watch(membership)
            renewal = house.running.manager.change_group(NAME, {"lifetime": 5000.0, "scheme": Scheme.GKMP}, "test")
            assert renewal is not None
            await house.running.carry_out([renewal], [])
            await until(house.everybody_has_it)
            assert json.loads(lamp.kept.read_text())["lifetime"] == 5000
            assert membership.groups()[0].current.gid == house.group().gid
            await house.rekey()
            await until(house.everybody_has_it)


async def test_members_that_no_message_named_are_learnt(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make(Scheme.POINT_TO_POINT, on_join=False)
        switch = await house.enroll("switch", MULTICASTER)
        async with switch.membership() as first:
            switch.watch(first)
            await first.ready(10)
            lamp = await house.enroll("lamp")
            async with lamp.membership() as second:
                await second.ready(10)  # without a renewal, which would name it
                await house.rekey()
                await until(lambda: "CredentialLearned" in switch.kinds())
                assert {m.name for m in first.groups()[0].current.members} == {"lamp"}


async def test_credentials_are_looked_up(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        sensor, switch = await house.enroll("sensor", PURE), await house.enroll("switch", MULTICASTER)
        async with switch.membership() as first, sensor.membership() as second:
            await first.ready(10)
            await second.ready(10)
            await until(house.everybody_has_it)
            await until(lambda: second.groups()[0].current.gid == first.groups()[0].current.gid)
            gid, own_id = first.groups()[0].current.gid, first.groups()[0].current.own_id
            assert own_id is not None
            found = await second.credential(NAME, gid, own_id)
            assert found == house.member("switch").credential
            assert await second.credential(NAME, gid, b"\x7f\x7f") is None
            assert await second.credential(NAME, bytes(12), own_id) is None
            assert await second.credential("hall", gid, own_id) is None


# ---- being no member any more


@pytest.mark.parametrize("told", [True, False])
async def test_an_evicted_device_has_no_keys_left(tmp_path: Path, told: bool) -> None:
    async with House(tmp_path) as house:
        await house.make(check_interval=1.0)
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            lamp.watch(membership)
            await house.evict("lamp", told=told)
            await until(lambda: lamp.kinds() == ["GroupLeft"])
            assert membership.groups() == ()
            assert not lamp.kept.exists()
            with pytest.raises(MisuseError):
                await membership.leave(NAME)
        async with lamp.membership() as membership:
            with pytest.raises(Refused) as refused:
                await membership.ready(10)
            assert refused.value.code == FORBIDDEN


async def test_a_device_leaves_and_comes_back(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            lamp.watch(membership)
            await membership.leave(NAME)
            assert lamp.kinds() == ["GroupLeft"]
            assert "lamp" not in house.group().by_device
            assert not lamp.kept.exists()
        async with lamp.membership(groups=()) as membership:
            await membership.ready(10)
            assert membership.groups() == ()
        async with lamp.membership() as membership:
            await membership.ready(10)
            assert "lamp" in house.group().by_device


async def test_nobody_without_the_association_can_speak_for_the_manager(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            await until(lambda: house.member("lamp").control is not None)
            uri = house.member("lamp").control
            assert uri is not None
            client = await aiocoap.Context.create_client_context(transports=["simple6"])
            for code in (aiocoap.DELETE, aiocoap.POST):
                answer = await client.request(aiocoap.Message(code=code, uri=uri, payload=b"\xa0")).response
                assert answer.code is aiocoap.UNAUTHORIZED
            await client.shutdown()
            assert len(membership.groups()) == 1


async def test_a_forged_refusal_evicts_nobody(tmp_path: Path) -> None:
    class Impostor(resource.Resource):  # type: ignore[misc]
        async def render(self, request: aiocoap.Message) -> aiocoap.Message:
            asked.append(request)
            return aiocoap.Message(code=aiocoap.FORBIDDEN)

    asked: list[aiocoap.Message] = []
    async with House(tmp_path) as house:
        await house.make(check_interval=1.0)
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            await house.stop()
            site = resource.Site()
            site.add_resource(["associate"], Impostor())
            options = NetworkOptions(interface="lo", bind=ip_address("127.0.0.1"), port=house.port, hop_limit=0)
            lamp.watch(membership)
            async with CoapNode(options, site):
                await until(lambda: len(asked) > 1, 20)
                await asyncio.sleep(0.5)
            assert lamp.kinds() == []
            assert lamp.kept.exists()
            await house.start()
            await until(lambda: house.everybody_has_it())


# ---- strangers


async def test_another_managers_credential_is_not_taken(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        path = lamp.directory / ENROLMENT_FILE
        save_enrolment(path, without_keys(load_enrolment(path)), replace=True)
        async with lamp.membership() as membership:
            lamp.watch(membership)
            with pytest.raises(ManagerMismatch):
                await membership.ready(10)
            assert membership.groups() == ()
            assert lamp.events == []
            assert not lamp.kept.exists()


async def test_a_manager_that_does_not_prove_its_key_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        another = DEFAULT_SIGNATURE.generate()
        monkeypatch.setattr(decisions, "prove", lambda key, data: prove(another, data))
        async with lamp.membership() as membership:
            with pytest.raises(ManagerMismatch, match="has not proved"):
                await membership.ready(10)
            assert membership.groups() == ()
            assert not lamp.kept.exists()


async def test_the_private_key_stays_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    join = ManagerServer.join

    async def noting(self: ManagerServer, device: str, group: str, payload: bytes) -> Answer:
        asked.append(payload)
        return await join(self, device, group, payload)

    monkeypatch.setattr(ManagerServer, "join", noting)
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            await until(house.everybody_has_it)
        identity = load_identity(lamp.directory / IDENTITY_FILE)
        private, public = identity.private_key.secret.reveal(), identity.private_key.public_key.data
        stored = database_of(tmp_path)
        assert asked
        for what in (*asked, stored):
            assert public in what
            assert private not in what
            assert private.hex().encode() not in what


def database_of(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.glob("manager.db*"))


async def test_a_group_without_a_right_is_refused(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        house.running.manager.evict(NAME, "lamp", "test")
        async with lamp.membership() as membership:
            with pytest.raises(Refused) as refused:
                await membership.ready(10)
            assert refused.value.code == FORBIDDEN


async def test_no_manager_is_said_in_time(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        await house.stop()
        async with lamp.membership(patience=0.2) as membership:
            with pytest.raises(NetworkFault):
                await membership.ready(0.5)
            with pytest.raises(NetworkFault):
                await membership.ready()
            await house.start()
            await membership.ready(20)


async def test_one_device_is_one_process(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership():
            with pytest.raises(StateLocked):
                await lamp.membership().__aenter__()
        with pytest.raises(MisuseError):
            await lamp.membership(groups=["hall"]).__aenter__()


async def test_the_next_address_is_asked(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp", ports=(free_port(),))
        async with lamp.membership(patience=0.3) as membership:
            await membership.ready(20)
            await house.rekey()
            await until(house.everybody_has_it)


# ---- restarts


async def test_a_restarted_device_goes_on(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            membership.open_state().close()
            own_id = membership.groups()[0].current.own_id
        identity = (lamp.directory / "identity.json").read_bytes()
        await house.rekey(lost=True)
        async with lamp.membership() as membership:
            lamp.watch(membership)
            assert len(membership.groups()) == 1
            await membership.ready(10)
            assert lamp.kinds() == ["EpochInstalled"]
            assert membership.groups()[0].current.gid == house.group().gid
            assert membership.groups()[0].current.own_id == own_id
        assert (lamp.directory / "identity.json").read_bytes() == identity


async def test_lost_run_time_state_means_joining_again(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make(on_join=False)
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            membership.open_state().close()
            before = membership.groups()[0].current
        (lamp.directory / STATE_FILE).unlink()
        async with lamp.membership() as membership:
            lamp.watch(membership)
            assert membership.groups() == ()
            await membership.ready(10)
            after = membership.groups()[0].current
            assert lamp.kinds() == ["GroupJoined"]
            assert (before.gid, before.own_id) != (after.gid, after.own_id)


async def test_a_lost_key_pair_means_joining_again(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            membership.open_state().close()
        credential = house.member("lamp").credential
        (lamp.directory / "identity.json").unlink()
        async with lamp.membership() as membership:
            assert membership.groups() == ()
            await membership.ready(10)
            assert house.member("lamp").credential != credential
            own = membership.groups()[0].current
            assert own.credential == house.member("lamp").credential
            membership.open_state().close()


async def test_other_roles_in_the_enrolment_mean_joining_again(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            membership.open_state().close()
        house.running.manager.grant("lamp", NAME, PURE, "test")
        path = lamp.directory / ENROLMENT_FILE
        save_enrolment(path, replace(load_enrolment(path), groups={NAME: PURE}), replace=True)
        async with lamp.membership() as membership:
            await membership.ready(10)
            assert membership.groups()[0].roles == PURE
            assert membership.groups()[0].current.own_id is None


async def test_a_busy_manager_is_given_time(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        house.running.manager.set_active(NAME, False, "test")
        async with lamp.membership() as membership:
            with pytest.raises(Refused) as refused:
                await membership.ready(0.5)
            assert refused.value.code == SERVICE_UNAVAILABLE
            house.running.manager.set_active(NAME, True, "test")
            await membership.ready(20)


async def test_a_message_that_is_lost_for_one_member_alone_is_asked_for(tmp_path: Path) -> None:
    """In a key tree others' messages say that there is one."""
    async with House(tmp_path) as house:
        await house.make(Scheme.LKH)
        lamps = [await house.enroll(f"lamp{i}") for i in range(4)]
        async with AsyncExitStack() as stack:
            members = [await stack.enter_async_context(lamp.membership()) for lamp in lamps]
            for member in members:
                await member.ready(10)
            await until(house.everybody_has_it)
            manager = house.running.manager
            renewal = manager.leave("lamp3", NAME, house.member("lamp3").node)
            assert renewal is not None
            await house.running.persist()  # nobody hears any of it, but
            state = members[0]._groups[NAME].state
            assert state is not None
            assert state.admin is not None
            own = {key.kid for key in state.admin.keys}
            foreign = [e for e in renewal.multicasts if parse_envelope(e).kid not in own]
            assert foreign
            members[0]._groups[NAME].envelope(foreign[0])
            await until(lambda: members[0].groups()[0].current.gid == house.group().gid)
            assert members[1].groups()[0].current.gid != house.group().gid


CHILD = """
import asyncio, sys
from ipaddress import ip_address
from pathlib import Path
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.member.membership import ManagedMembership

async def main():
    network = NetworkOptions(interface="lo", bind=ip_address("127.0.0.1"), hop_limit=0)
    async with ManagedMembership(Path(sys.argv[1]), network) as membership:
        await membership.ready(20)
        membership.open_state()
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.processes
async def test_a_killed_device_goes_on(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        for round_ in range(4):
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHILD, str(lamp.directory), stdout=asyncio.subprocess.PIPE
            )
            assert child.stdout is not None
            async with asyncio.timeout(30):
                assert await child.stdout.readline() == b"ready\n"
            await until(house.everybody_has_it)
            await house.rekey()
            await asyncio.sleep(0.004 * round_)
            child.kill()
            await child.wait()
        node = house.member("lamp").node
        async with lamp.membership() as membership:
            await membership.ready(20)
            assert house.member("lamp").node == node
            assert membership.groups()[0].current.gid == house.group().gid
            with membership.open_state() as state:
                current = membership.groups()[0].current
                state.add_key(NAME, current.gid, current.own_id)
            left = [path.name for path in lamp.directory.iterdir() if path.name.startswith(".")]
            assert left == []


async def test_a_restarted_manager_finds_its_members(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make(check_interval=1.0)
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            lamp.watch(membership)
            await house.stop()
            await house.start()
            await house.rekey()
            await until(house.everybody_has_it)
            assert lamp.kinds() == ["EpochInstalled"]


async def test_a_restored_manager_is_joined_again(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make(check_interval=1.0)
        lamp, switch = await house.enroll("lamp"), await house.enroll("switch", MULTICASTER)
        async with lamp.membership() as membership, switch.membership() as second:
            await membership.ready(10)
            await second.ready(10)
            await until(house.everybody_has_it)
            lamp.watch(membership)
            before = membership.groups()[0].current
            await house.stop()
            store = Store.open(house.url, None)
            store.commit(new_incarnation(store.load(), os.urandom, 0.0))
            store.close()
            await house.start()
            await until(lambda: len(house.group().members) == 2 and house.everybody_has_it(), 20)
            current = membership.groups()[0].current
            assert current.gid[:8] != before.gid[:8]
            assert current.gid == house.group().gid
            assert set(lamp.kinds()) == {"EpochInstalled"}
            first = next(e for e in lamp.events if isinstance(e, EpochInstalled))
            assert not first.configuration.current.ids_kept
            assert not first.configuration.current.successive


# ---- lifetime


async def test_past_its_lifetime_a_group_is_suspended_until_it_is_confirmed(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make(check_interval=1.0, lifetime=1.5)
        lamp = await house.enroll("lamp")
        async with lamp.membership(patience=0.2) as membership:
            await membership.ready(10)
            membership.open_state().close()
            lamp.watch(membership)
            await asyncio.sleep(2)
            assert lamp.kinds() == []  # polls confirm it
            await house.stop()
            await until(lambda: lamp.kinds() == ["GroupSuspended"])
            await house.start()
            await until(lambda: lamp.kinds() == ["GroupSuspended", "GroupResumed"])
            await house.stop()
            await until(lambda: lamp.kinds()[2:] == ["GroupSuspended"])
        lamp.events.clear()
        async with lamp.membership(patience=0.2) as membership:
            lamp.watch(membership)
            assert lamp.kinds() == ["GroupSuspended"]
            assert len(membership.groups()) == 1
            await house.start()
            await membership.ready(10)
            assert lamp.kinds() == ["GroupSuspended", "GroupResumed"]


async def test_within_its_lifetime_a_group_needs_no_manager(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            membership.open_state().close()
        await house.stop()
        async with lamp.membership(patience=0.2) as membership:
            lamp.watch(membership)
            with pytest.raises(NetworkFault):
                await membership.ready(0.5)
            assert len(membership.groups()) == 1
            assert lamp.events == []
        async with lamp.membership(patience=0.2, clock=lambda: time.time() - 10_000) as membership:
            lamp.watch(membership)
            assert lamp.kinds() == ["GroupSuspended"]  # the clock went back: nobody knows how old this is


# ---- Endpoint IDs


async def test_a_new_endpoint_id_is_kept_first(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            lamp.watch(membership)
            current = membership.groups()[0].current
            assert current.own_id is not None
            membership.running_low(NAME, current.gid, b"\x55")  # not its own
            membership.running_low(NAME, current.gid, current.own_id)
            await until(lambda: lamp.kinds() == ["EndpointIdRenewed"])
            after = membership.groups()[0].current
            assert after.own_id == house.member("lamp").endpoint_id != current.own_id
            assert after.gid == current.gid
            assert json.loads(lamp.kept.read_text())["endpoint_id"] == after.own_id.hex()  # type: ignore[union-attr]
            await house.rekey()
            await until(lambda: membership.groups()[0].current.gid == house.group().gid)
            assert membership.groups()[0].current.own_id == after.own_id


# ---- with endpoints


@SCHEMES
@SUITES
async def test_endpoints_talk_across_renewals(tmp_path: Path, scheme: Scheme, suite: Suite) -> None:
    async with House(tmp_path) as house:
        await house.make(scheme, suite)
        switch = await house.enroll("switch", MULTICASTER, host="127.0.0.2")
        lamp = await house.enroll("lamp", host="127.0.0.3")
        async with switch.membership() as first, lamp.membership() as second:
            await first.ready(10)
            await second.ready(10)
            await until(house.everybody_has_it)
            with first.open_state() as one, second.open_state() as two:
                near = NetworkOptions("lo", ip_address("127.0.0.2"), hop_limit=0)
                far = NetworkOptions("lo", ip_address("127.0.0.3"), hop_limit=0)
                async with (
                    Endpoint(first, one, near, leisure=0.0) as sender,
                    Endpoint(second, two, far, leisure=0.0) as receiver,
                ):
                    Listener(receiver, devices.light())
                    multicaster = Multicaster(sender, NAME)
                    await answers(multicaster, 1)
                    await house.rekey()
                    await until(house.everybody_has_it)
                    await answers(multicaster, 1)
                    await house.rekey(lost=True)
                    first.unknown_gid(house.group().gid)
                    second.unknown_gid(house.group().gid)
                    await until(house.everybody_has_it)
                    await answers(multicaster, 1)
                    await house.evict("lamp")
                    await until(lambda: second.groups() == ())
                    await answers(multicaster, 0)


async def answers(multicaster: Multicaster, wanted: int) -> None:
    """Ask until so many answer; who has to be synchronized first does not at once."""
    found = -1
    for _ in range(10):
        message = aiocoap.Message(code=aiocoap.GET, uri_path=("light",))
        found = len([answer async for answer in multicaster.request(message, timeout=0.4, roster=None)])
        if found == wanted:
            return
    assert found == wanted


@SUITES
async def test_endpoints_talk_on_when_the_algorithm_has_changed(tmp_path: Path, suite: Suite) -> None:
    async with House(tmp_path) as house:
        await house.make(suite=suite)
        switch = await house.enroll("switch", MULTICASTER, host="127.0.0.2")
        lamp = await house.enroll("lamp", host="127.0.0.3")
        async with talking(switch, lamp) as (first, second, multicaster):
            await until(house.everybody_has_it)
            await answers(multicaster, 1)
            before = house.group().settings.parameters
            after = replace(before, aead=aead_algorithm(30))
            renewal = house.running.manager.change_group(NAME, {"parameters": after}, "test")
            assert renewal is not None
            await house.running.carry_out([renewal], [])
            await until(house.everybody_has_it)
            await answers(multicaster, 1)
            for membership in (first, second):
                (configuration,) = membership.groups()
                assert configuration.current.gid == house.group().gid
                assert configuration.parameters.aead is after.aead


async def test_a_new_endpoint_id_comes_before_the_numbers_are_used_up(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        switch = await house.enroll("switch", MULTICASTER, host="127.0.0.2")
        lamp = await house.enroll("lamp", host="127.0.0.3")
        async with talking(switch, lamp, running_low=MAXIMUM - 2) as (first, second, multicaster):
            switch.watch(first)
            before = house.member("switch").endpoint_id
            for _ in range(5):
                await answers(multicaster, 1)
            await until(lambda: "EndpointIdRenewed" in switch.kinds())
            own_id = first.groups()[0].current.own_id
            assert own_id == house.member("switch").endpoint_id != before
            await answers(multicaster, 1)
            assert second.groups()[0].current.gid == first.groups()[0].current.gid  # without a renewal


@asynccontextmanager
async def talking(
    switch: Device, lamp: Device, **options: Any
) -> AsyncIterator[tuple[ManagedMembership, ManagedMembership, Multicaster]]:
    """Both joined, with endpoints: a light, and who asks it. `options`: of the latter's endpoint."""
    async with switch.membership() as first, lamp.membership() as second:
        await first.ready(10)
        await second.ready(10)
        near, far = (NetworkOptions("lo", ip_address(device.host), hop_limit=0) for device in (switch, lamp))
        with first.open_state() as one, second.open_state() as two:
            async with (
                Endpoint(first, one, near, leisure=0.0, **options) as sender,
                Endpoint(second, two, far, leisure=0.0) as receiver,
            ):
                Listener(receiver, devices.light())
                yield first, second, Multicaster(sender, NAME)


async def test_two_groups_in_one_device(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        house.group_port, house.control_port = free_port(), house.control_port
        await house.make(Scheme.GKMP, GROUP_OSCORE, "hall")
        lamp = await house.enroll("lamp", names=(NAME, "hall"))
        async with lamp.membership() as membership:
            await membership.ready(10)
            assert {group.name for group in membership.groups()} == {NAME, "hall"}
            await until(lambda: house.everybody_has_it() and house.everybody_has_it("hall"))
            await house.rekey(name="hall")
            await until(lambda: house.everybody_has_it("hall"))
            await membership.leave(NAME)
            assert [group.name for group in membership.groups()] == ["hall"]
            await house.rekey(name="hall")
            await until(lambda: house.everybody_has_it("hall"))


async def test_groups_with_other_algorithms_get_keys_of_their_own(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        house.group_port = free_port()
        await house.make(suite=ES256, name="hall")
        lamp = await house.enroll("lamp", names=(NAME, "hall"))
        async with lamp.membership() as membership:
            await membership.ready(10)
        assert (lamp.directory / "identity.json").exists()
        assert len(list(lamp.directory.glob("identity*.json"))) == 2


async def test_no_secret_gets_into_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        secrets = [load_enrolment(lamp.directory / ENROLMENT_FILE).secret]
        async with lamp.membership() as membership:
            await membership.ready(10)
            for _ in range(2):
                secrets.append(membership.groups()[0].current.master_secret)
                await house.rekey()
                await until(house.everybody_has_it)
    for secret in secrets:
        assert secret.reveal().hex() not in caplog.text
        assert repr(secret.reveal()) not in caplog.text


async def test_a_lifetime_is_over_though_the_machine_was_suspended_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer of the event loop knows nothing of the time in between: the clock that does is looked at."""
    monkeypatch.setattr(membership_module, "WATCH_INTERVAL", 0.05)
    async with House(tmp_path) as house:
        await house.make(lifetime=3600.0)
        lamp = await house.enroll("lamp")
        async with lamp.membership(patience=0.2) as membership:
            await membership.ready(10)
            lamp.watch(membership)
            await house.stop()
            now = member_group._now_suspended_or_not
            monkeypatch.setattr(member_group, "_now_suspended_or_not", lambda: now() + 3599.0)
            await asyncio.sleep(0.2)
            assert lamp.kinds() == []
            monkeypatch.setattr(member_group, "_now_suspended_or_not", lambda: now() + 3601.0)
            await until(lambda: lamp.kinds() == ["GroupSuspended"])


async def test_a_copied_device_is_refused_before_it_joins_again(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        lamp = await house.enroll("lamp")
        async with lamp.membership() as membership:
            await membership.ready(10)
            with membership.open_state() as state:
                own_id = membership.groups()[0].current.own_id
                assert own_id is not None
                state.sequence_numbers(NAME, membership.groups()[0].current.gid, own_id).take()
        node = house.member("lamp").node
        copy = tmp_path / "copy"
        shutil.copytree(lamp.directory, copy)
        with pytest.raises(StateCopied, match="joins anew"):
            async with Device(copy, "lamp").membership():
                raise AssertionError("it was opened")
        assert house.member("lamp").node == node
        (copy / STATE_FILE).unlink()
        async with Device(copy, "lamp").membership() as membership:
            await membership.ready(10)
