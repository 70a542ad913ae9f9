"""Values of what is said about keys, as Hypothesis makes them, and what all parsers must withstand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from ipaddress import ip_address
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.core.policy import GroupPolicy, Verification
from groupcoap.core.profile import Mode
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.cose.algorithms import (
    AEAD_ALGORITHMS,
    COUNTER_ALGORITHMS,
    DEFAULT_AEAD,
    KEY_AGREEMENTS,
    EncryptionAlgorithm,
    Kdf,
)
from groupcoap.cose.credentials import Credential, CredentialKind
from groupcoap.cose.keys import SIGNATURE_ALGORITHMS, signature_algorithm
from groupcoap.errors import Refused
from groupcoap.keying.admin import AdminKey, AdminKeys, Scheme, make_kid
from groupcoap.keying.material import KeyMaterial
from groupcoap.keying.report import KeyReport
from groupcoap.keying.roster import MemberEntry
from groupcoap.membership import GroupAddress, Role, SecurityParameters
from groupcoap.secret import Secret

Result = TypeVar("Result")

M, L, P = Role.MULTICASTER, Role.LISTENER, Role.PURE_LISTENER
BAD_REQUEST = 0x80

MANAGER = signature_algorithm(-8).private_key(Secret(bytes(range(0x20, 0x40))))
CLIENT = signature_algorithm(-8).private_key(Secret(bytes(range(0x20))))
GID = bytes.fromhex("a1b2c3d4e5f6071800")
MARK = b"\xaasecret-that-none-may-see"[:16]
"""A key that must not be seen in any repr."""


def plain(value: Any) -> Any:
    """A value that can be compared: secrets compare by what they are, not by their bytes."""
    if isinstance(value, Secret):
        return ("secret", value.reveal())
    if is_dataclass(value) and type(value).__module__.startswith("groupcoap.keying"):
        return (type(value), *(plain(getattr(value, field.name)) for field in fields(value)))
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return value


def refused(call: Callable[[], object]) -> Refused:
    """The refusal that comes out, which must be 4.00 and say something."""
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.code == BAD_REQUEST
    assert caught.value.title.isprintable()
    assert caught.value.title
    return caught.value


def parsed(call: Callable[[], Result]) -> Result | None:
    """What comes out, None if it was refused: nothing but `Refused` (4.00) may be raised."""
    try:
        return call()
    except Refused:
        refused(call)
        return None


def mutations(payload: bytes) -> st.SearchStrategy[bytes]:
    """This payload with something changed in one to three places."""

    def change(data: bytes, edit: tuple[int, int, bytes]) -> bytes:
        at, removed, put = edit
        at %= len(data) + 1
        return data[:at] + put + data[at + removed :]

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = payload
        for edit in edits:
            data = change(data, edit)
        return data

    edit = st.tuples(st.integers(0, 1 << 16), st.integers(0, 3), st.binary(max_size=3))
    return st.lists(edit, min_size=1, max_size=3).map(apply)


member_roles = st.sampled_from([frozenset({M}), frozenset({L}), frozenset({M, L}), frozenset({M, P})])
join_roles = st.sampled_from([frozenset(s) for s in ({M}, {L}, {P}, {M, L}, {M, P})])
names = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=1, max_size=20).filter(
    lambda name: name.isprintable() and name not in (".", "..")
)
uints = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
times = st.one_of(
    st.integers(0, 1 << 20).map(float), st.floats(0, allow_nan=False, allow_infinity=False), st.just(0.25)
)
positive_times = times.filter(lambda value: value > 0)

entries = st.builds(
    MemberEntry,
    endpoint_id=st.binary(max_size=7),
    roles=member_roles,
    credential=st.binary(min_size=1, max_size=60),
    name=st.text(max_size=10),
)
rosters = st.lists(entries, max_size=4, unique_by=lambda entry: entry.endpoint_id).map(tuple)

addresses = st.builds(
    GroupAddress,
    st.sampled_from(["224.0.1.187", "239.255.0.9", "ff05::fd", "ff35:30:2001:db8::23"]).map(ip_address),
    st.sampled_from([5683, 5685, 1, 65535]),
)

synchronizations = st.builds(
    SynchronizationPolicy,
    method=st.sampled_from(Method),
    challenge_lifetime=positive_times,
    rechallenge_after=times,
    repeat_length=st.integers(8, 40),
    max_gap=st.none() | st.integers(1, (1 << 64) - 1),
)
policies = st.builds(
    GroupPolicy,
    synchronization=synchronizations,
    verification=st.sampled_from(Verification),
    response_mode=st.none() | st.sampled_from(Mode),
    grace=times,
    max_unfragmented_size=st.integers(64, (1 << 64) - 1),
)


@st.composite
def admin_keys(draw: st.DrawFn) -> AdminKeys:
    aead = draw(st.sampled_from(list(AEAD_ALGORITHMS.values())))
    nodes = draw(st.lists(st.integers(1, (1 << 32) - 1), max_size=4, unique=True))
    tag = draw(st.binary(min_size=4, max_size=4))
    keys = []
    for node in nodes:
        generation = draw(st.integers(0, (1 << 32) - 1))
        secret = Secret(draw(st.binary(min_size=aead.key_length, max_size=aead.key_length)))
        keys.append(AdminKey(make_kid(tag, node, generation), secret, node, generation))
    base_iv = draw(st.binary(min_size=aead.nonce_length, max_size=aead.nonce_length))
    return AdminKeys(aead, base_iv, tuple(keys), draw(st.none() | st.integers(2, 8)))


@st.composite
def parameters(draw: st.DrawFn) -> SecurityParameters:
    """Parameters that say what is said of them in one way: see `material_map`."""
    signature = draw(st.sampled_from(list(SIGNATURE_ALGORITHMS.values())))
    kdf = draw(st.sampled_from(Kdf))
    aead = draw(st.sampled_from(list(AEAD_ALGORITHMS.values())))
    if draw(st.booleans()):
        return SecurityParameters(MULTICAST_OSCORE_04, aead, kdf, signature)
    encryptions: list[EncryptionAlgorithm] = [*AEAD_ALGORITHMS.values(), *COUNTER_ALGORITHMS.values()]
    group = draw(st.sampled_from(encryptions))
    agreement = draw(st.none() | st.sampled_from(list(KEY_AGREEMENTS.values())))
    used = None if agreement is None else aead
    return SecurityParameters(GROUP_OSCORE, used, kdf, signature, group, agreement)


@st.composite
def materials(draw: st.DrawFn) -> KeyMaterial:
    chosen = draw(parameters())
    seed = not chosen.profile.rules.pairwise
    algorithms = [chosen.encryption, *([chosen.aead] if chosen.aead else [])]
    longest = min(algorithm.max_id_length for algorithm in algorithms)
    return KeyMaterial(
        chosen,
        gid=draw(st.binary(min_size=chosen.profile.rules.min_gid, max_size=20)),
        master_secret=Secret(draw(st.binary(min_size=16, max_size=40))),
        master_salt=b"" if seed else draw(st.binary(max_size=16)),
        credential_kind=draw(st.sampled_from([CredentialKind.CCS, CredentialKind.CWT, CredentialKind.X509])),
        endpoint_id=draw(st.none() | st.binary(max_size=longest)),
    )


@st.composite
def reports(draw: st.DrawFn) -> KeyReport:
    material = draw(materials())
    data = draw(st.none() | st.binary(min_size=1, max_size=50))
    manager = None if data is None else Credential(material.credential_kind, data)
    sign_protected = draw(st.booleans())
    material = replace(
        material,
        parameters=replace(material.parameters, manager_credential=manager, sign_protected=sign_protected),
    )
    return KeyReport(
        material=material,
        num=draw(uints),
        expires_in=draw(uints),
        expires_at=draw(st.none() | uints),
        scheme=draw(st.sampled_from(Scheme)),
        admin=draw(st.none() | admin_keys()),
        control_group=draw(st.sampled_from([None, "coap://[ff05::fd]:5685/ace-group/lights"])),
        policy=draw(policies),
        check_interval=draw(uints),
        addresses=tuple(draw(st.lists(addresses, max_size=3, unique=True))),
        incarnation=draw(st.binary(max_size=16)),
        roster=draw(uints),
        confirm_within=draw(times),
        members=draw(st.none() | rosters),
        manager_credential=manager,
        manager_nonce=draw(st.binary(max_size=16)),
        manager_proof=draw(st.binary(max_size=64)),
    )


def example_admin() -> AdminKeys:
    key = AdminKey(make_kid(b"tag!", 1, 3), Secret(MARK), 1, 3)
    return AdminKeys(DEFAULT_AEAD, bytes(range(13)), (key,), 2)


def example_material(*, seed: bool = False) -> KeyMaterial:
    chosen = (
        SecurityParameters(MULTICAST_OSCORE_04)
        if seed
        else SecurityParameters(
            GROUP_OSCORE,
            DEFAULT_AEAD,
            group_encryption=DEFAULT_AEAD,
            key_agreement=KEY_AGREEMENTS[-27],
        )
    )
    return KeyMaterial(chosen, GID, Secret(MARK), b"" if seed else b"salt", CredentialKind.CCS, b"\x07")


def example_report() -> KeyReport:
    return KeyReport(
        material=example_material(),
        num=5,
        expires_in=600,
        expires_at=1_800_000_000,
        scheme=Scheme.LKH,
        admin=example_admin(),
        control_group="coap://224.0.1.187:5685/ace-group/lights",
        policy=GroupPolicy(grace=1.5, response_mode=Mode.PAIRWISE),
        check_interval=60,
        addresses=(GroupAddress(ip_address("ff05::fd")),),
        incarnation=b"incarnation",
        roster=2,
        confirm_within=2.5,
        members=(MemberEntry(b"\x01", frozenset({M}), b"credential", "lamp"),),
        manager_nonce=b"12345678",
        manager_proof=bytes(64),
        manager_credential=Credential(CredentialKind.CCS, b"\xa0"),
    )
