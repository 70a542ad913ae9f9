"""Requirements on groups that are provisioned, in so far as no other test states them: docs/requirements."""

from __future__ import annotations

from functools import reduce
from ipaddress import ip_address
from operator import and_, or_
from pathlib import Path

import pytest

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.policy import GroupPolicy, Verification
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.cose.algorithms import Kdf, aead_algorithm, key_agreement
from groupcoap.cose.keys import DEFAULT_SIGNATURE, signature_algorithm
from groupcoap.errors import MisuseError
from groupcoap.files.identity import DeviceIdentity, generate_identity
from groupcoap.files.provisioned import load_member
from groupcoap.files.provisioning import PREFIX_LENGTH, DevicePlan, GroupPlan, provision
from groupcoap.files.renewal import renew
from groupcoap.membership import GroupAddress, Role

ADDRESS = (GroupAddress(ip_address("ff05::fd")),)
SWITCH = DevicePlan("switch-1", frozenset({Role.MULTICASTER}))
LAMP = DevicePlan("lamp-1", frozenset({Role.LISTENER}))
PANEL = DevicePlan("panel-1", frozenset({Role.PURE_LISTENER}))


def test_all_members_get_the_same_ciphersuite_keys_and_policy(tmp_path: Path) -> None:
    plan = GroupPlan(
        "room",
        ADDRESS,
        GroupPolicy(SynchronizationPolicy(Method.BASELINE), Verification.DEFER),
        aead_algorithm(24),
        Kdf.HKDF_SHA_512,
        signature_algorithm(-7),
    )
    provision(tmp_path / "home", plan, [SWITCH, LAMP, PANEL])
    groups = [load_member(tmp_path / "home" / device.name).groups[0] for device in (SWITCH, LAMP, PANEL)]
    for group in groups:
        assert group.aead is not None
        assert group.aead is not None
        assert (group.aead.number, group.kdf, group.signature.number) == (24, Kdf.HKDF_SHA_512, -7)
        assert (group.policy, group.addresses, group.profile) == (plan.policy, ADDRESS, plan.profile)
    assert len({(group.current.gid, group.current.master_secret.reveal()) for group in groups}) == 1
    own_ids = [group.current.own_id for group in groups]
    assert len(set(own_ids)) == 3
    assert own_ids[2] is None


def test_gids_of_provisioned_groups_are_random(tmp_path: Path) -> None:
    """Each of 64 bits is once 0 and once 1 among 48 groups: the chance that one is not is 10^-12."""
    prefixes = [
        int.from_bytes(provision(tmp_path / str(n), GroupPlan("room", ADDRESS), [SWITCH, LAMP]).gid[:PREFIX_LENGTH])
        for n in range(48)
    ]
    assert reduce(and_, prefixes) == 0
    assert reduce(or_, prefixes) == (1 << 64) - 1


def test_a_renewal_of_group_oscore_brings_a_new_master_salt_and_keeps_who_vouches_for_it(tmp_path: Path) -> None:
    plan = GroupPlan("room", ADDRESS, profile=GROUP_OSCORE, key_agreement=key_agreement(-27))
    provision(tmp_path / "home", plan, [SWITCH, LAMP, PANEL])
    names = [device.name for device in (SWITCH, LAMP, PANEL)]
    before = [load_member(tmp_path / "home" / name).groups[0] for name in names]
    renew(tmp_path / "home", ["room"])
    after = [load_member(tmp_path / "home" / name).groups[0] for name in names]
    for groups in (before, after):
        assert len({(group.current.gid, group.current.master_salt) for group in groups}) == 1
        assert {group.manager_credential for group in groups} == {before[0].manager_credential}
    assert before[0].current.master_salt != after[0].current.master_salt
    assert len(after[0].current.master_salt) == 8
    assert before[0].parameters == after[0].parameters


def test_no_two_members_are_provisioned_with_one_key(tmp_path: Path) -> None:
    """The public key in a member's credential is that member's alone, and the one in its identity file."""

    def named(name: str, identity: DeviceIdentity) -> DevicePlan:
        return DevicePlan(name, frozenset({Role.LISTENER}), identity)

    one, other = generate_identity("lamp-1"), generate_identity("lamp-2")
    with pytest.raises(MisuseError, match="have the same key"):
        provision(
            tmp_path / "shared", GroupPlan("room", ADDRESS), [SWITCH, named("lamp-1", one), named("lamp-2", one)]
        )
    assert not (tmp_path / "shared").exists()
    provision(tmp_path / "own", GroupPlan("room", ADDRESS), [SWITCH, named("lamp-1", one), named("lamp-2", other)])
    for member in load_member(tmp_path / "own" / "switch-1").groups[0].current.members:
        device = load_member(tmp_path / "own" / member.name)
        assert device.identity is not None
        key = member.credential.public_key(DEFAULT_SIGNATURE)
        assert key.data == device.identity.private_key.public_key.data
        assert device.groups[0].current.own_id == member.endpoint_id
