from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.policy import GroupPolicy, Verification
from groupcoap.cose.algorithms import encryption_algorithm, key_agreement
from groupcoap.cose.credentials import Credential, CredentialKind, claims_set
from groupcoap.cose.keys import signature_algorithm
from groupcoap.errors import MisuseError
from groupcoap.membership import Epoch, GroupAddress, GroupConfiguration, Member, Role, SecurityParameters
from groupcoap.secret import Secret
from support import ADDRESS, GID, MULTICASTER, NEXT_GID, private_key

HOST = ip_address("ff35:30:2001:db8::23")
MEMBER = Member(
    MULTICASTER,
    "switch",
    frozenset({Role.MULTICASTER}),
    Credential(CredentialKind.RAW_KEY, private_key(MULTICASTER).public_key.data),
)
EPOCH = Epoch(GID, Secret(b"\xa5" * 16), b"\x52", private_key(b"\x52"), (MEMBER,))
PURE_EPOCH = Epoch(GID, Secret(b"\xa5" * 16), None, None, (MEMBER,))
GROUP = GroupConfiguration(
    "lights", MULTICAST_OSCORE_04, (GroupAddress(HOST),), frozenset({Role.LISTENER}), (EPOCH,)
)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (GroupAddress(HOST), "[ff35:30:2001:db8::23]"),
        (GroupAddress(HOST, 61616), "[ff35:30:2001:db8::23]:61616"),
        (GroupAddress(ip_address("224.0.1.187")), "224.0.1.187"),
        (GroupAddress(ip_address("224.0.1.187"), 5684), "224.0.1.187:5684"),
    ],
)
def test_an_address_shows_as_in_a_uri(address: GroupAddress, text: str) -> None:
    assert str(address) == text


def test_an_address_packs_to_what_the_registry_looks_up() -> None:
    assert GroupAddress(HOST).packed == ADDRESS
    assert GroupAddress(HOST).port == 5683


@pytest.mark.parametrize(
    ("host", "port"),
    [("2001:db8::1", 5683), ("192.0.2.1", 5683), (str(HOST), 0), (str(HOST), 65536), (str(HOST), -1)],
)
def test_what_is_no_multicast_address_or_port_is_refused(host: str, port: int) -> None:
    with pytest.raises(MisuseError):
        GroupAddress(ip_address(host), port)


@pytest.mark.parametrize("missing", ["own_id", "private_key"])
def test_an_endpoint_id_and_a_private_key_come_together(missing: str) -> None:
    values: dict[str, Any] = {missing: None}
    with pytest.raises(MisuseError):
        replace(EPOCH, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"addresses": ()},
        {"epochs": ()},
        {"roles": frozenset()},
        {"roles": frozenset({Role.PURE_LISTENER, Role.LISTENER})},
        {"roles": frozenset({Role.PURE_LISTENER})},
        {"epochs": (PURE_EPOCH,)},
        {"epochs": (PURE_EPOCH, EPOCH)},
    ],
    ids=[
        "no name",
        "no address",
        "no epoch",
        "no role",
        "pure and not",
        "pure with an id",
        "listener without an id",
        "an old epoch without an id",
    ],
)
def test_a_group_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        replace(GROUP, **values)


CCS = claims_set(private_key(MULTICASTER).public_key, signature_algorithm(-8), "manager")


@pytest.mark.parametrize("verification", [Verification.SKIP, Verification.DEFER])
def test_where_the_signature_comes_first_no_policy_leaves_it_out(verification: Verification) -> None:
    policy = GroupPolicy(verification=verification)
    assert replace(GROUP, policy=policy).policy is policy
    with pytest.raises(MisuseError, match="always verified"):
        replace(GROUP, profile=GROUP_OSCORE, manager_credential=CCS, policy=policy)


def test_the_parameters_of_a_group_make_its_common_contexts() -> None:
    group = replace(
        GROUP,
        profile=GROUP_OSCORE,
        manager_credential=CCS,
        group_encryption=encryption_algorithm(-65534),
        key_agreement=key_agreement(-27),
        sign_protected=False,
    )
    common = group.common_context(replace(EPOCH, master_salt=b"salt"))
    assert (common.profile, common.gid, common.master_salt) == (GROUP_OSCORE, GID, b"salt")
    assert (common.encryption.number, common.pairwise, common.sign_protected) == (-65534, True, False)
    assert common.manager_credential == CCS.authenticated
    assert GROUP.common_context(EPOCH).manager_credential == b""
    assert group.parameters.encryption.number == -65534
    assert GROUP.parameters.encryption is GROUP.aead
    with pytest.raises(MisuseError, match="encryption algorithm"):
        _ = SecurityParameters(GROUP_OSCORE, aead=None).encryption


def test_a_credential_enters_the_aad_only_where_the_profile_binds_it() -> None:
    raw = MEMBER.credential
    assert SecurityParameters(MULTICAST_OSCORE_04).authenticated(raw) is None
    assert SecurityParameters(GROUP_OSCORE).authenticated(CCS) == CCS.data
    with pytest.raises(MisuseError, match="not raw"):
        SecurityParameters(GROUP_OSCORE).authenticated(raw)


def test_a_multicaster_may_be_a_pure_listener_and_has_an_id() -> None:
    both = frozenset({Role.MULTICASTER, Role.PURE_LISTENER})
    assert replace(GROUP, roles=both).current.own_id is not None
    with pytest.raises(MisuseError, match="no Endpoint ID"):
        replace(GROUP, roles=both, epochs=(PURE_EPOCH,))


@pytest.mark.parametrize(("successive", "refused"), [(None, {b"\x77"}), (True, set()), (False, set())])
def test_who_left_is_refused_unless_somebody_may_have_got_its_id(
    successive: bool | None, refused: set[bytes]
) -> None:
    assert EPOCH.own_id is not None
    departed = frozenset({b"\x77", MEMBER.endpoint_id, EPOCH.own_id})
    assert replace(EPOCH, departed=departed, members=(MEMBER,), successive=successive).refused == refused


def test_a_pure_listener_has_no_id() -> None:
    pure = replace(GROUP, roles=frozenset({Role.PURE_LISTENER}), epochs=(PURE_EPOCH,))
    assert pure.current.own_id is None


def test_the_last_epoch_is_the_current_one() -> None:
    newer = replace(EPOCH, gid=NEXT_GID)
    assert replace(GROUP, epochs=(EPOCH, newer)).current is newer


def test_a_configuration_shows_no_secret() -> None:
    for secret in (EPOCH.master_secret, private_key(b"\x52").secret):
        assert secret.reveal().hex() not in repr(GROUP)
        assert repr(secret.reveal())[2:-1] not in repr(GROUP)
