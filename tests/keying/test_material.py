from __future__ import annotations

from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import GID, MARK, example_material, materials, plain

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.profile import Profile
from groupcoap.cose.algorithms import DEFAULT_AEAD, KEY_AGREEMENTS, Kdf
from groupcoap.cose.credentials import Credential, CredentialKind
from groupcoap.cose.keys import signature_algorithm
from groupcoap.errors import MisuseError, Reason
from groupcoap.keying.labels import DEFAULT_CODE_POINTS
from groupcoap.keying.material import KeyMaterial, material_map, parse_material
from groupcoap.membership import SecurityParameters
from groupcoap.secret import Secret
from support import attempt, refused

SEED_MAP: dict[Any, Any] = {2: MARK, 5: GID, 6: GID, 7: b"\x07", 8: 14, 9: 10, 10: -8, 11: [[1], [1, 6]]}
FULL_MAP: dict[Any, Any] = {
    2: MARK,
    4: 10,
    5: b"salt",
    6: GID,
    7: b"\x07",
    8: 14,
    9: 10,
    10: -8,
    11: [[1], [1, 6]],
    12: -27,
    13: [[1], [1, 4]],
}


def mapped(material: KeyMaterial, with_id: bool = True) -> dict[int, object]:
    return material_map(material, DEFAULT_CODE_POINTS, with_id=with_id)


@pytest.mark.parametrize(("seed", "expected"), [(True, SEED_MAP), (False, FULL_MAP)])
def test_the_map_of_either_profile(seed: bool, expected: dict[Any, Any]) -> None:
    assert list(mapped(example_material(seed=seed)).items()) == list(expected.items())


def test_the_endpoint_id_is_said_only_where_it_may_be() -> None:
    material = example_material()
    assert 7 not in mapped(material, with_id=False)
    assert 7 not in mapped(replace(material, endpoint_id=None))
    assert mapped(replace(material, endpoint_id=b""))[7] == b""


@pytest.mark.parametrize(
    ("kdf", "number"), [(Kdf.HKDF_SHA_256, None), (Kdf.HKDF_SHA_384, 6), (Kdf.HKDF_SHA_512, 7)]
)
def test_the_default_hkdf_is_left_out(kdf: Kdf, number: int | None) -> None:
    parameters = SecurityParameters(MULTICAST_OSCORE_04, kdf=kdf)
    assert mapped(replace(example_material(seed=True), parameters=parameters)).get(3) == number


@pytest.mark.parametrize(
    ("number", "sign", "ecdh"),
    [(-8, [[1], [1, 6]], [[1], [1, 4]]), (-7, [[2], [2, 1]], [[2], [2, 1]]), (-35, [[2], [2, 2]], [[2], [2, 2]])],
)
def test_parameters_of_the_signature_algorithms(number: int, sign: object, ecdh: object) -> None:
    material = example_material()
    material = replace(material, parameters=replace(material.parameters, signature=signature_algorithm(number)))
    content = mapped(material)
    assert (content[10], content[11], content[13]) == (number, sign, ecdh)


@pytest.mark.parametrize(
    ("kind", "number"), [(CredentialKind.CCS, 14), (CredentialKind.CWT, 13), (CredentialKind.X509, 33)]
)
def test_formats_of_credentials(kind: CredentialKind, number: int) -> None:
    assert mapped(replace(example_material(), credential_kind=kind))[8] == number


def test_raw_keys_have_no_format() -> None:
    with pytest.raises(MisuseError, match="raw"):
        mapped(replace(example_material(), credential_kind=CredentialKind.RAW_KEY))


@given(materials())
def test_material_comes_back(material: KeyMaterial) -> None:
    value = cbor2.loads(cbor2.dumps(mapped(material)))
    assert plain(parse_material(value, material.parameters.profile, None)) == plain(material)


def test_the_managers_credential_goes_where_it_is_used() -> None:
    manager = Credential(CredentialKind.CCS, b"\xa0")
    for profile, content in ((GROUP_OSCORE, FULL_MAP), (MULTICAST_OSCORE_04, SEED_MAP)):
        assert parse_material(content, profile, manager).parameters.manager_credential == manager


def test_an_algorithm_that_is_not_set_apart_is_said_to_be_the_groups() -> None:
    pairwise = SecurityParameters(GROUP_OSCORE, DEFAULT_AEAD, key_agreement=KEY_AGREEMENTS[-27])
    material = replace(example_material(), parameters=pairwise)
    assert mapped(material) == FULL_MAP
    group_only = replace(material, parameters=SecurityParameters(GROUP_OSCORE))
    content = mapped(group_only)
    assert not content.keys() & {4, 12, 13}
    parsed = parse_material(content, GROUP_OSCORE, None).parameters
    assert (parsed.aead, parsed.group_encryption, parsed.key_agreement) == (None, DEFAULT_AEAD, None)


@pytest.mark.parametrize(("profile", "good"), [(GROUP_OSCORE, FULL_MAP), (MULTICAST_OSCORE_04, SEED_MAP)])
@pytest.mark.parametrize(
    "change",
    [
        {2: None},
        {2: MARK[:15]},
        {2: bytes(256)},
        {2: "secret"},
        {3: 4},
        {3: "5"},
        {3: [5]},
        {5: bytes(256)},
        {5: "salt"},
        {6: None},
        {6: b""},
        {6: bytes(256)},
        {7: bytes(8)},
        {7: 7},
        {8: None},
        {8: 32},
        {9: None},
        {9: 99},
        {9: "10"},
        {10: None},
        {10: -37},
        {10: -7},
        {11: None},
        {11: [[1], [1, 4]]},
        {11: [1]},
    ],
)
def test_a_malformed_part_is_rejected(profile: Profile, good: dict[int, Any], change: dict[int, Any]) -> None:
    with refused(Reason.MALFORMED):
        parse_material(changed(good, change), profile, None)


def changed(good: dict[int, Any], change: dict[int, Any]) -> dict[int, Any]:
    return {key: value for key, value in (good | change).items() if value is not None}


@pytest.mark.parametrize(
    "change", [{4: None}, {4: 99}, {4: -65534}, {12: None}, {12: -25}, {13: None}, {13: [[1], [1, 6]]}]
)
def test_the_pairwise_mode_has_all_its_parts_or_none(change: dict[int, Any]) -> None:
    with refused(Reason.MALFORMED):
        parse_material(changed(FULL_MAP, change), GROUP_OSCORE, None)


@pytest.mark.parametrize("change", [{5: None}, {5: GID[:-1] + b"\x01"}, {6: GID[1:], 5: GID[1:]}, {9: -65534}])
def test_what_the_draft_alone_demands(change: dict[int, Any]) -> None:
    with refused(Reason.MALFORMED):
        parse_material(changed(SEED_MAP, change), MULTICAST_OSCORE_04, None)


def test_the_longest_endpoint_id_is_that_of_the_shorter_nonce() -> None:
    content = FULL_MAP | {4: 1}
    assert parse_material(content | {7: bytes(6)}, GROUP_OSCORE, None).endpoint_id == bytes(6)
    with refused(Reason.MALFORMED):
        parse_material(content | {7: bytes(7)}, GROUP_OSCORE, None)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=20) | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.sampled_from([GROUP_OSCORE, MULTICAST_OSCORE_04]), st.dictionaries(st.integers(0, 15), values, max_size=3)
)
def test_nothing_else_is_raised(profile: Profile, change: dict[int, Any]) -> None:
    good = FULL_MAP if profile.rules.pairwise else SEED_MAP
    outcome = attempt(lambda: parse_material(good | change, profile, None))
    assert outcome is Reason.MALFORMED or isinstance(outcome, KeyMaterial)
    assert attempt(lambda: parse_material([change], profile, None)) is Reason.MALFORMED


def test_secrets_do_not_show() -> None:
    material = replace(example_material(), master_secret=Secret(MARK))
    assert MARK.hex() not in repr(material)
    assert repr(MARK)[2:-1] not in repr(material)
