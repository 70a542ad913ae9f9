from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest

from groupcoap.core.coap import BAD_REQUEST
from groupcoap.errors import Refused, Rejected
from groupcoap.keying.admin import Scheme
from groupcoap.keying.envelope import seal
from groupcoap.keying.rekeying import RekeyMessage
from groupcoap.member import updates
from groupcoap.member.updates import CatchUp, Ignore, Install, Refresh, Rejoin
from groupcoap.secret import Secret

from .managers import (
    DRAFT,
    GROUP_OSCORE,
    LISTENER,
    MULTICASTER,
    NAME,
    PURE,
    Desk,
    Suite,
    asks,
    installs,
)

SCHEMES = pytest.mark.parametrize("scheme", list(Scheme), ids=lambda scheme: scheme.name.lower())
SUITES = pytest.mark.parametrize("suite", [DRAFT, GROUP_OSCORE], ids=lambda suite: suite.name)
SMALL = {"switch": MULTICASTER, "lamp": LISTENER, "sensor": PURE}
LARGE = {"switch": MULTICASTER, **{f"lamp{i}": LISTENER for i in range(8)}}


@SCHEMES
@SUITES
def test_members_follow_joins(scheme: Scheme, suite: Suite) -> None:
    desk = Desk(scheme, suite)
    devices = desk.members(SMALL)
    assert all(device.is_current() for device in devices.values())
    switch = devices["switch"]
    assert {entry.name for entry in switch.state.members} == {"lamp"}
    assert devices["sensor"].state.endpoint_id is None
    configuration = switch.state.configuration(switch.identity)
    assert configuration.current.gid == desk.group.gid
    assert configuration.parameters.manager_credential == desk.manager.manager_key(desk.group).credential
    assert configuration.current.ids_kept


@SCHEMES
def test_members_follow_a_leave_and_forget_who_left(scheme: Scheme) -> None:
    desk = Desk(scheme)
    devices = desk.members(LARGE)
    gone = devices.pop("lamp3")
    gone_id = gone.state.endpoint_id
    renewal = desk.manager.leave("lamp3", NAME, gone.state.node)
    assert renewal is not None
    for device in devices.values():
        if renewal.multicasts:
            (install,) = installs(device.hear(renewal))
            assert install.successive
        else:
            assert isinstance(device.told(), Install)
        assert device.is_current()
        assert device.state.departed == {gone_id}
        assert gone_id not in {entry.endpoint_id for entry in device.state.members}
    assert not installs(gone.hear(renewal))
    assert gone.state.num == renewal.num - 1


def test_long_histories_leave_every_member_with_its_path() -> None:
    desk = Desk(Scheme.LKH, arity=3)
    devices = desk.members(LARGE)
    for round_ in range(12):
        left = sorted(name for name in devices if name.startswith("lamp"))[round_ % 3]
        gone = devices.pop(left)
        renewals = [desk.manager.leave(left, NAME, gone.state.node)]
        for renewal in renewals:
            assert renewal is not None
            for device in devices.values():
                assert len(installs(device.hear(renewal))) == 1
        device = desk.device(f"lamp-{round_}")
        renewal = device.join()
        assert renewal is not None
        for other in devices.values():
            assert len(installs(other.hear(renewal))) == 1
        devices[device.name] = device
        assert all(device.is_current() for device in devices.values())


def test_a_joiner_is_learnt_from_the_message() -> None:
    desk = Desk()
    devices = desk.members({"switch": MULTICASTER, "lamp": LISTENER})
    new = desk.device("late")
    renewal = new.join()
    assert renewal is not None
    (install,) = installs(devices["switch"].hear(renewal))
    assert not install.missing
    assert "late" in {entry.name for entry in install.state.members}


def test_a_member_that_nobody_mentioned_is_missing() -> None:
    desk = Desk(on_join=False)
    devices = desk.members({"switch": MULTICASTER, "lamp": LISTENER})
    assert desk.group.num == 0
    renewal = desk.manager.rekey(NAME, "test")
    decision = devices["switch"].told()
    assert isinstance(decision, Install)
    assert decision.missing  # the lamp came after it
    assert renewal.num == 1


def test_another_endpoint_id_of_a_member_is_missing_too() -> None:
    desk = Desk()
    devices = desk.members(SMALL)
    lamp = devices["lamp"]
    before = lamp.state.endpoint_id
    desk.manager.renew_id("lamp", NAME, lamp.state.node)
    renewal = desk.manager.rekey(NAME, "test")
    (install,) = installs(devices["switch"].hear(renewal))
    assert install.missing
    assert install.state.departed == {before}
    assert asks(lamp.hear(renewal))  # its own Endpoint ID is stale: it has missed the answer
    install_or = lamp.catch_up()
    assert isinstance(install_or, Install)
    assert lamp.is_current()


@SCHEMES
def test_a_gap_is_caught_up_with_all_that_left_meanwhile(scheme: Scheme) -> None:
    desk = Desk(scheme)
    devices = desk.members(LARGE)
    gone = devices["lamp2"].state.endpoint_id
    desk.manager.leave("lamp2", NAME, devices["lamp2"].state.node)
    renewal = desk.manager.rekey(NAME, "test")
    switch = devices["switch"]
    assert not installs(switch.hear(renewal))
    assert isinstance(switch.told(), CatchUp)
    decision = switch.catch_up()
    assert isinstance(decision, Install)
    assert not decision.successive
    assert not decision.missing
    assert decision.state.departed == {gone}
    assert decision.state.ids_kept
    assert switch.is_current()
    follow = desk.manager.rekey(NAME, "test")
    if scheme is not Scheme.POINT_TO_POINT:
        assert len(installs(switch.hear(follow))) == 1


def test_who_was_away_too_long_forgets_all_members() -> None:
    desk = Desk()
    devices = desk.members({"switch": MULTICASTER, "lamp": LISTENER})
    switch = devices["switch"]
    for _ in range(5):
        desk.manager.rekey(NAME, "test")
    decision = switch.catch_up()
    assert isinstance(decision, Install)
    assert decision.missing
    assert decision.state.members == ()
    assert decision.state.departed == {devices["lamp"].state.endpoint_id}
    assert not decision.state.ids_kept
    entries = desk.manager.credentials("switch", NAME, None)
    learnt = decision.state.with_members(entries)
    assert {entry.name for entry in learnt.members} == {"lamp"}
    assert learnt.departed == frozenset()


def test_the_same_again_is_ignored() -> None:
    desk = Desk()
    devices = desk.members(SMALL)
    renewal = desk.manager.rekey(NAME, "test")
    lamp = devices["lamp"]
    assert len(installs(lamp.hear(renewal))) == 1
    after = lamp.state
    assert all(isinstance(decision, Ignore) for decision in lamp.hear(renewal))
    told = lamp.told()
    assert isinstance(told, Ignore)
    assert told.present
    assert lamp.state is after


def test_an_older_message_is_ignored() -> None:
    desk = Desk()
    devices = desk.members(SMALL)
    lamp = devices["lamp"]
    desk.manager.rekey(NAME, "test")
    member = desk.group.by_device["lamp"]
    old = desk.manager.message_for(desk.group, member)
    lamp.told()
    desk.manager.rekey(NAME, "test")
    lamp.told()
    decision = updates.take_message(lamp.state, RekeyMessage.parse(old.encode(), seed=True))
    assert isinstance(decision, Ignore)
    assert not decision.present


def test_changed_parameters_are_asked_for() -> None:
    desk = Desk()
    devices = desk.members(SMALL)
    lamp = devices["lamp"]
    renewal = desk.manager.change_group(NAME, {"lifetime": 777.0}, "test")
    assert renewal is not None
    assert renewal.reload
    message = replace(desk.manager.message_for(desk.group, desk.group.by_device["lamp"]), reload=True)
    decision = updates.take_message(lamp.state, RekeyMessage.parse(message.encode(), seed=True))
    assert isinstance(decision, CatchUp)
    assert decision.reload
    assert isinstance(lamp.catch_up(), Install)
    assert lamp.state.lifetime == 777
    assert lamp.is_current()


def test_nothing_but_the_managers_signature_counts() -> None:
    desk = Desk()
    devices = desk.members(SMALL)
    insider, lamp = devices["switch"], devices["lamp"]
    assert insider.state.admin is not None
    assert insider.identity is not None
    root = insider.state.admin.keys[-1]
    member = desk.group.by_device["lamp"]
    num = insider.state.num + 1
    message = replace(
        desk.manager.message_for(desk.group, member), num=num, gid=bytes(12), master_secret=Secret(bytes(16))
    )
    admin = insider.state.admin
    forged = seal(message.encode(), root, admin.aead, admin.base_iv, 0, num, insider.identity.private_key)
    assert isinstance(updates.take_envelope(lamp.state, forged), Ignore)
    gap = seal(message.encode(), root, admin.aead, admin.base_iv, 0, num + 1, insider.identity.private_key)
    assert isinstance(updates.take_envelope(lamp.state, gap), CatchUp)  # asking is all that it can bring about
    old = seal(message.encode(), root, admin.aead, admin.base_iv, 0, num - 1, insider.identity.private_key)
    assert isinstance(updates.take_envelope(lamp.state, old), Ignore)


def test_a_changed_partial_iv_only_makes_members_ask() -> None:
    desk = Desk(Scheme.GKMP)
    devices = desk.members(SMALL)
    lamp = devices["lamp"]
    renewal = desk.manager.rekey(NAME, "test")
    protected, outside, ciphertext = cbor2.loads(renewal.multicasts[0])
    changed = {**outside, 6: b"\x00\x01" + outside[6][2:]}  # another COUNT, the same number
    decision = updates.take_envelope(lamp.state, cbor2.dumps([protected, changed, ciphertext]))
    assert isinstance(decision, CatchUp)
    assert len(installs(lamp.hear(renewal))) == 1


@pytest.mark.parametrize("data", [b"", b"\x40", b"\xa0", b"\x83\x40\xa0\x40", bytes(2000)])
def test_rubbish_is_ignored(data: bytes) -> None:
    lamp = Desk().members(SMALL)["lamp"]
    assert isinstance(updates.take_envelope(lamp.state, data), Ignore)


def test_messages_for_others_make_one_wait_for_ones_own() -> None:
    desk = Desk(Scheme.LKH)
    devices = desk.members(LARGE)
    renewal = desk.manager.leave("lamp1", NAME, devices["lamp1"].state.node)
    assert renewal is not None
    switch = devices["switch"]
    foreign = [
        decision
        for envelope in renewal.multicasts
        if isinstance(decision := updates.take_envelope(switch.state, envelope), CatchUp)
    ]
    assert foreign
    assert all(decision.patient for decision in foreign)


def test_an_older_key_is_never_taken() -> None:
    desk = Desk(Scheme.GKMP)
    devices = desk.members(SMALL)
    lamp = devices["lamp"]
    first = lamp.state.admin
    renewal = desk.manager.rekey(NAME, "test")
    assert len(installs(lamp.hear(renewal))) == 1
    desk.manager.rekey(NAME, "test")
    message = replace(desk.manager.message_for(desk.group, desk.group.by_device["lamp"]), admin=first)
    decision = updates.take_message(lamp.state, RekeyMessage.parse(message.encode(), seed=True))
    assert isinstance(decision, CatchUp)


def test_a_renewal_needs_a_new_gid() -> None:
    desk = Desk()
    lamp = desk.members(SMALL)["lamp"]
    desk.manager.rekey(NAME, "test")
    message = replace(desk.manager.message_for(desk.group, desk.group.by_device["lamp"]), gid=lamp.state.gid)
    decision = updates.take_message(lamp.state, RekeyMessage.parse(message.encode(), seed=True))
    assert isinstance(decision, CatchUp)


def test_another_incarnation_means_joining_again() -> None:
    desk = Desk()
    lamp = desk.members(SMALL)["lamp"]
    report = replace(lamp.report(), incarnation=b"another!")
    assert isinstance(updates.take_report(lamp.state, report, frozenset()), Rejoin)


def test_an_older_manager_is_not_followed() -> None:
    desk = Desk()
    lamp = desk.members(SMALL)["lamp"]
    report = replace(lamp.report(), num=lamp.state.num - 1)
    assert isinstance(updates.take_report(lamp.state, report, frozenset()), Ignore)


def test_the_own_new_endpoint_id_is_found_in_a_report() -> None:
    desk = Desk()
    lamp = desk.members(SMALL)["lamp"]
    desk.manager.renew_id("lamp", NAME, lamp.state.node)
    decision = lamp.catch_up()
    assert isinstance(decision, Refresh)
    assert decision.renewed_id
    assert lamp.is_current()
    again = lamp.catch_up()
    assert isinstance(again, Refresh)
    assert not again.renewed_id


def test_a_report_that_does_not_fit_is_rejected() -> None:
    desk = Desk()
    devices = desk.members(SMALL)
    lamp, sensor = devices["lamp"], devices["sensor"]
    for wrong in (
        replace(lamp.report(), addresses=()),
        sensor.report(),
        replace(lamp.report(), manager_credential=replace(lamp.report().manager_credential, data=b"\xa0")),  # type: ignore[type-var]
    ):
        with pytest.raises(Rejected):
            updates.take_report(lamp.state, replace(wrong, num=lamp.state.num + 1), frozenset())


def test_unusable_credentials_are_left_out() -> None:
    desk = Desk()
    switch = desk.members(SMALL)["switch"]
    (entry,) = switch.state.members
    state = switch.state.with_members([replace(entry, endpoint_id=b"\x77", credential=b"\xa0")])
    assert [known.endpoint_id for known in state.members] == [entry.endpoint_id]
    own = switch.state.with_members([replace(entry, endpoint_id=switch.state.endpoint_id or b"")])
    assert own.members == switch.state.members


def test_a_pure_listener_may_not_ask_for_credentials_with_its_join() -> None:
    desk = Desk()
    sensor = desk.device("sensor", PURE)
    sensor.join()  # which would be refused
    assert sensor.state.members == ()
    with pytest.raises(Refused) as refused:
        desk.manager.check_join("sensor", NAME, b"", b"")
    assert refused.value.code == BAD_REQUEST


def test_secrets_do_not_show() -> None:
    lamp = Desk().members(SMALL)["lamp"]
    assert lamp.state.admin is not None
    text = repr(lamp.state)
    for secret in (lamp.state.material.master_secret, *(key.key for key in lamp.state.admin.keys)):
        assert secret.reveal().hex() not in text
        assert repr(secret.reveal()) not in text


@pytest.mark.parametrize("scheme", [Scheme.GKMP, Scheme.LKH], ids=lambda scheme: scheme.name.lower())
def test_what_cannot_be_for_this_group_needs_no_rate(scheme: Scheme) -> None:
    desk = Desk(scheme)
    devices = desk.members(LARGE)
    lamp = devices["lamp0"].state
    other = Desk(scheme)
    other.members(LARGE)
    foreign = other.manager.rekey(NAME, "test").multicasts
    renewal = desk.manager.rekey(NAME, "test")
    assert all(updates.concerns(lamp, data) for data in renewal.multicasts)
    assert not any(updates.concerns(lamp, data) for data in (*foreign, b"", b"\x83\x40\xa0\x40"))
    current = devices["lamp0"]
    installs(current.hear(renewal))
    assert not any(updates.concerns(current.state, data) for data in renewal.multicasts)
    assert not updates.concerns(replace(lamp, admin=None), renewal.multicasts[0])
