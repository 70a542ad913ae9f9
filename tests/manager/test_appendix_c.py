"""Joining as the draft has it: Appendix C.1 and C.2 line by line, §3.1, §6 and Appendix B, over real sockets."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from manager_devices import (
    BOTH,
    DELETE,
    FETCH,
    LISTENER,
    MULTICASTER,
    POST,
    PURE,
    SEED_PROFILE,
    SENDING_PURE,
    STANDARD_PROFILE,
    Device,
    House,
    house,
    place,
    problem,
    until,
)

from groupcoap.association.node import CoapNode
from groupcoap.core import coap
from groupcoap.core.policy import GroupPolicy
from groupcoap.core.synchronization import Method, SynchronizationPolicy
from groupcoap.cose.keys import DEFAULT_SIGNATURE
from groupcoap.keying.admin import Scheme
from groupcoap.keying.envelope import parse_envelope
from groupcoap.keying.joining import encode_filter, parse_credentials
from groupcoap.keying.labels import (
    CONTROL_GROUP_URI,
    CREDS,
    KEY,
    MGT_KEY_MATERIAL,
    PEER_IDENTIFIERS,
    PEER_ROLES,
    REKEYING_SCHEME,
)
from groupcoap.keying.labels import GROUPCOMM_CBOR as GROUPCOMM
from groupcoap.manager import delivery, server

__all__ = ["house", "place"]

schemes = pytest.mark.parametrize("scheme", Scheme, ids=lambda scheme: scheme.name)
profiles = pytest.mark.parametrize("profile", [SEED_PROFILE, STANDARD_PROFILE])
GROUP_SENDER_ID, MASTER_SECRET, SALT, CONTEXT_ID = 7, 2, 5, 6

ROLES = {
    "multicaster": MULTICASTER,
    "listener": LISTENER,
    "pure listener": PURE,
    "multicaster and listener": BOTH,
    "multicaster and pure listener": SENDING_PURE,
}
NEEDED = {
    "multicaster": {"listener", "multicaster and listener"},
    "listener": {"multicaster", "multicaster and listener", "multicaster and pure listener"},
    "pure listener": {"multicaster", "multicaster and listener", "multicaster and pure listener"},
    "multicaster and listener": {
        "multicaster",
        "listener",
        "multicaster and listener",
        "multicaster and pure listener",
    },
    "multicaster and pure listener": {
        "multicaster",
        "listener",
        "multicaster and listener",
        "multicaster and pure listener",
    },
}
"""Whose public keys a newcomer in a role gets (C.1, Member public keys)."""


def active(house: House, group: str = "room") -> dict[bytes, bytes]:
    """{credential: Endpoint ID} of a group, as it is stored."""
    rows = [row for row in house.tables()["members"] if row["grp"] == group and row["credential"] is not None]
    found = {row["credential"]: row["endpoint_id"] for row in rows}
    assert len(found) == len(rows)
    assert all(member.entry().endpoint_id == key for key, member in house.group(group).by_id.items())
    memory = {member.entry().credential: key for key, member in house.group(group).by_id.items()}
    assert memory == found
    return found


def readable(house: House, device: Device, since: int = 0) -> list[bytes]:
    """Multicasts under any key that this device ever got."""
    keys = {kid for place in device.places.values() for kid in place.keys}
    return [data for data in house.multicasts()[since:] if parse_envelope(data).kid in keys]


def watch(node: CoapNode, seen: Callable[[bytes, Any], None]) -> None:
    """Call this with each datagram before it leaves."""
    network, send = node.network, node.network.send

    def sending(datagram: bytes, destination: Any) -> None:
        seen(datagram, destination)
        send(datagram, destination)

    network.send = sending  # type: ignore[method-assign]


# ---- C.1: the request


async def test_c1_a_join_is_a_confirmable_post_to_the_resource_of_the_group(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.settle()
    before = len(house.sent("a"))
    joined = await device.join()
    message = coap.decode(house.sent("a")[before])
    assert (message.type, message.code) == (coap.CON, coap.POST)
    assert joined.answer.code.dotted == "2.01"
    assert tuple(joined.answer.opt.location_path) == ("ace-group", "room", "nodes", joined.node)
    assert [member.device for member in house.group().members.values()] == ["a"]


async def test_c1_a_group_is_joined_at_its_own_resource_only(house: House) -> None:
    await house.create("room")
    await house.create("hall")
    device = await house.device("a", {"room": LISTENER, "hall": LISTENER})
    request = await device.request("room")
    answer = await device.ask(POST, "ace-group/hall", request.encode(), GROUPCOMM)
    assert problem(answer) == (coap.BAD_REQUEST, None)
    await device.join("room")
    assert (len(house.group("room").members), len(house.group("hall").members)) == (1, 0)


@pytest.mark.parametrize("role", ROLES)
async def test_c1_role_and_what_each_of_the_five_gets(house: House, role: str) -> None:
    group = await house.create(scheme=Scheme.GKMP)
    ids = {}
    for name, roles in ROLES.items():
        device = await house.device(name.replace(" ", "-"))
        ids[name] = (await device.join(roles=roles)).report.material.endpoint_id
    newcomer = await house.device("newcomer")
    joined = await newcomer.join(roles=ROLES[role])
    member = group.by_device["newcomer"]
    assert member.roles == ROLES[role]
    key = joined.content[KEY]
    if role == "pure listener":  # no Endpoint ID, no public key of its own, and no retrieval
        assert GROUP_SENDER_ID not in key
        assert (member.endpoint_id, member.credential) == (None, None)
        assert not {CREDS, PEER_ROLES, PEER_IDENTIFIERS} & joined.content.keys()
        return
    assert key[GROUP_SENDER_ID] == member.endpoint_id
    assert member.credential == newcomer.credential
    wanted = {ids[name]: ROLES[name] for name in NEEDED[role]}
    entries = joined.report.members or ()
    assert {entry.endpoint_id: entry.roles for entry in entries} == wanted
    known = {house.devices[name.replace(" ", "-")].credential.data for name in NEEDED[role]}
    assert {entry.credential for entry in entries} == known


async def test_c1_identity_credentials_are_omitted_if_provided_for_the_same_group(house: House) -> None:
    await house.create()
    device = await house.device("a")
    first = await device.join()
    again = await device.join(credential=None)
    assert (first.request.credential, again.request.credential, again.request.proof) == (
        device.credential.data,
        None,
        None,
    )
    assert active(house) == {device.credential.data: again.report.material.endpoint_id}


async def test_c1_identity_credentials_are_omitted_if_provided_for_a_group_that_was_left(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.join()
    await device.ask(DELETE, f"ace-group/room/nodes/{device.places['room'].node}")
    assert active(house) == {}
    await device.join(credential=None)
    assert device.credential.data in active(house)


async def test_c1_identity_credentials_are_omitted_if_provided_for_another_group(house: House) -> None:
    await house.create("room")
    await house.create("hall")
    device = await house.device("a", {"room": LISTENER, "hall": BOTH})
    await device.join("room")
    joined = await device.join("hall", BOTH, credential=None)
    assert joined.request.credential is None
    assert device.credential.data in active(house, "hall")


async def test_c1_identity_credentials_are_omitted_across_a_restart_of_the_manager(house: House) -> None:
    await house.create("room")
    await house.create("hall")
    device = await house.device("a", {"room": LISTENER, "hall": BOTH})
    await device.join("room")
    await house.restart()
    await device.join("hall", BOTH, credential=None)
    assert device.credential.data in active(house, "hall")


async def test_c1_identity_credentials_that_were_never_provided_are_not_omitted(house: House) -> None:
    await house.create("room")
    await house.create("hall")
    other, device = await house.device("other"), await house.device("a", {"hall": LISTENER})
    await other.join()
    request = await device.request("hall", credential=None)
    answer = await device.ask(POST, "ace-group/hall", request.encode(), GROUPCOMM)
    assert problem(answer) == (coap.BAD_REQUEST, 2)
    assert house.group("hall").members == {}


@profiles
async def test_c1_identity_credentials_are_omitted_by_who_is_exclusively_a_pure_listener(
    house: House, profile: str
) -> None:
    await house.create("room", profile)
    device = await house.device("a")
    joined = await device.join(roles=PURE)
    assert (joined.request.credential, joined.request.proof) == (None, None)
    assert house.tables()["credentials"] == []
    assert active(house) == {}


async def test_c1_identity_credentials_of_a_pure_listener_are_ignored(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.join(roles=PURE, credential=device.credential.data)
    assert house.tables()["credentials"] == []
    assert active(house) == {}


async def test_c1_standard_mode_wants_the_credential_but_no_second_proof(house: House) -> None:
    await house.create("room", STANDARD_PROFILE)
    await house.create("hall", STANDARD_PROFILE)
    device = await house.device("a", {"room": LISTENER, "hall": LISTENER})
    await device.join("room")
    request = await device.request("hall", credential=None)
    answer = await device.ask(POST, "ace-group/hall", request.encode(), GROUPCOMM)
    assert answer.code.dotted == "4.00"
    await device.join("hall", proof=b"")
    again = await device.join("room", credential=b"", proof=None)
    assert active(house, "room") == {device.credential.data: again.report.material.endpoint_id}


@profiles
async def test_c1_retrieval_flag_false_brings_no_public_keys(house: House, profile: str) -> None:
    await house.create("room", profile)
    await house.members("m", roles=BOTH)
    device = await house.device("a")
    joined = await device.join(roles=BOTH, retrieve=False)
    assert not {CREDS, PEER_ROLES, PEER_IDENTIFIERS} & joined.content.keys()
    joined = await device.join(roles=BOTH, retrieve=True)
    assert joined.content.keys() > {CREDS, PEER_ROLES, PEER_IDENTIFIERS}
    assert len(joined.content[CREDS]) == len(joined.content[PEER_ROLES]) == len(joined.content[PEER_IDENTIFIERS])


async def test_c1_retrieval_flag_of_an_exclusively_pure_listener_must_be_false(house: House) -> None:
    await house.create()
    device = await house.device("a")
    request = await device.request(roles=PURE, retrieve=True)
    answer = await device.ask(POST, "ace-group/room", request.encode(), GROUPCOMM)
    assert problem(answer) == (coap.BAD_REQUEST, None)
    await device.join(roles=PURE, retrieve=False)


async def test_c1_in_standard_mode_a_monitor_may_retrieve(house: House) -> None:
    await house.create("room", STANDARD_PROFILE)
    await house.members("m", roles=MULTICASTER)
    await house.members("l", roles=LISTENER)
    device = await house.device("a")
    joined = await device.join(roles=PURE, retrieve=True)
    assert [entry.name for entry in joined.report.members or ()] == ["m"]


# ---- C.1: what the Group Manager does


async def test_c1_without_authorization_the_join_is_aborted_and_nothing_allocated(house: House) -> None:
    await house.create()
    stranger = await house.device("stranger", {})
    half = await house.device("half", {"room": LISTENER})
    for device in (stranger, half):
        await device.settle()
    before, memory = house.tables(), house.group().row()
    request = await stranger.request()
    answer = await stranger.ask(POST, "ace-group/room", request.encode(), GROUPCOMM)
    assert problem(answer) == (coap.FORBIDDEN, None)
    request = await half.request(roles=BOTH)
    answer = await half.ask(POST, "ace-group/room", request.encode(), GROUPCOMM)
    assert problem(answer) == (coap.FORBIDDEN, None)
    assert (house.tables(), house.group().row()) == (before, memory)
    assert (await half.join()).report.material.endpoint_id == b"\x00"  # the first there is


@profiles
async def test_c1_authorization_is_checked_before_anything_else(house: House, profile: str) -> None:
    await house.create("room", profile)
    stranger = await house.device("stranger", {})
    for payload in (b"", b"\xff", b"\xa0", (await stranger.request(proof=b"no proof")).encode()):
        answer = await stranger.ask(POST, "ace-group/room", payload, GROUPCOMM)
        assert problem(answer) == (coap.FORBIDDEN, None), payload
    half = await house.device("half", {"room": LISTENER})
    await house.perform("set_active", group="room", active=False)
    request = await half.request(roles=BOTH, proof=b"no proof")
    answer = await half.ask(POST, "ace-group/room", request.encode(), GROUPCOMM)
    assert problem(answer) == (coap.FORBIDDEN, None)


async def test_c1_the_endpoint_id_is_there_before_the_renewal_and_that_before_the_answer(house: House) -> None:
    group = await house.create()
    await house.members("m", "n")
    newcomer = await house.device("newcomer")
    request = await newcomer.request()
    seen: list[str] = []

    def sending(datagram: bytes, destination: Any) -> None:
        tables = house.tables()
        row = next((row for row in tables["members"] if row["device"] == "newcomer"), None)
        if destination[0].startswith("239."):
            seen.append("renewal")
            assert row is not None
            assert row["endpoint_id"] == group.by_device["newcomer"].endpoint_id
            assert tables["groups"][0]["num"] == group.num
            assert tables["renewals"][0]["num"] == group.num
        elif destination == newcomer.address and coap.decode(datagram).code:
            seen.append("answer")
            assert row is not None

    watch(house.server.node, sending)
    newcomer.joined(request, await newcomer.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
    assert seen.index("renewal") < seen.index("answer")


@profiles
@schemes
async def test_c1_present_members_have_the_renewal_before_the_newcomer_is_answered(
    house: House, scheme: Scheme, profile: str
) -> None:
    group = await house.create("room", profile, scheme=scheme)
    present = await house.members("a", "b", "c")
    await house.settled()
    before, gid, secret = len(house.log), group.gid, group.master_secret
    newcomer = await house.device("newcomer")
    joined = await newcomer.join()
    assert joined.report.num == group.num == present[0].places["room"].num
    what = "told" if scheme is Scheme.POINT_TO_POINT else "heard"
    answers = [
        index
        for index, event in enumerate(house.log)
        if index >= before and event.who == "manager" and event.what == "sends"
        if event.detail[1] == newcomer.address and coap.decode(event.detail[0]).token
        if coap.decode(event.detail[0]).option(coap.OBJECT_SECURITY) is not None
    ]
    for device in present:
        got = house.index(device.name, what, group.num, before)
        assert got < answers[0] < house.index("newcomer", "answered")
        if what == "heard":
            assert house.index(device.name, "confirms", group.num, before) < answers[0]
        place = device.places["room"]
        assert (place.gid, place.secret) == (group.gid, group.master_secret.reveal())
        assert place.gid != gid
        assert place.secret != secret.reveal()


@schemes
async def test_c1_a_member_that_sleeps_does_not_keep_newcomers_out_and_gets_it_later(
    house: House, scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "JOIN_WAIT", 0.3)
    monkeypatch.setattr(delivery, "PATIENCE", 0.2)
    monkeypatch.setattr(delivery, "FOLLOW_UP", 0.0)
    monkeypatch.setattr(delivery, "BACKOFF", 0.1)
    group = await house.create(scheme=scheme)
    awake, asleep = await house.members("awake", "asleep")
    await house.settled()
    asleep.node.deaf = True
    newcomer = await house.device("newcomer")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await newcomer.join()
    assert 0.29 <= loop.time() - began < 20
    assert awake.places["room"].num == group.num > asleep.places["room"].num
    assert [member.device for member in house.server.manager.behind(group)] == ["asleep"]
    assert house.tables()["renewals"][0]["finished"] is None
    asleep.node.deaf = False
    await until(lambda: asleep.places["room"].gid == group.gid, "not followed up")
    await house.settled()
    assert house.tables()["renewals"][0]["finished"] is not None


async def test_c1_who_is_alone_is_answered_at_once(house: House) -> None:
    await house.create()
    device = await house.device("a")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await device.join()
    await device.join()  # again: nobody else is there
    assert loop.time() - began < 4.0


# ---- C.1: the response


@profiles
async def test_c1_security_common_context(house: House, profile: str) -> None:
    group = await house.create("room", profile)
    (first,) = await house.members("a")
    joined = await (await house.device("b")).join()
    key = joined.content[KEY]
    seed = profile == SEED_PROFILE
    assert key[MASTER_SECRET] == group.master_secret.reveal()
    assert key[CONTEXT_ID] == group.gid
    assert key.get(SALT) == (group.gid if seed else None)  # the draft: the Gid is the Master Salt
    assert (key[8], key[9], key[10], key[11]) == (14, 10, -8, [[1], [1, 6]])
    assert (key.get(4), key.get(12), key.get(13)) == ((None,) * 3 if seed else (10, -27, [[1], [1, 4]]))
    material = joined.report.material
    context = material.parameters.common_context(material.gid, material.master_secret, material.master_salt)
    other = (await first.own_keys()).material
    same = other.parameters.common_context(other.gid, other.master_secret, other.master_salt)
    key_of = [one.profile.derive_key(one, b"\x07").reveal() for one in (context, same)]
    assert key_of[0] == key_of[1]
    assert (other.gid, other.master_secret.reveal()) == (material.gid, material.master_secret.reveal())


@profiles
async def test_c1_endpoint_id_is_unique_and_not_given_to_a_pure_listener(house: House, profile: str) -> None:
    group = await house.create("room", profile)
    ids = []
    for number, roles in enumerate((MULTICASTER, LISTENER, BOTH, PURE)):
        device = await house.device(f"d{number}")
        ids.append((await device.join(roles=roles)).content[KEY].get(GROUP_SENDER_ID))
    assert ids[3] is None
    assert len(set(ids)) == 4
    assert set(ids[:3]) == group.by_id.keys()


async def test_c1_management_keying_material_of_point_to_point_is_the_association_alone(house: House) -> None:
    await house.create(scheme=Scheme.POINT_TO_POINT)
    joined = await (await house.device("a")).join()
    assert joined.content[REKEYING_SCHEME] == 0
    assert not {MGT_KEY_MATERIAL, CONTROL_GROUP_URI} & joined.content.keys()


@profiles
async def test_c1_management_keying_material_of_gkmp_is_one_key_encryption_key(house: House, profile: str) -> None:
    group = await house.create("room", profile, scheme=Scheme.GKMP)
    await house.members("a")
    joined = await (await house.device("b")).join(roles=PURE)
    admin = joined.report.admin
    assert admin is not None
    (kek,) = admin.keys
    assert (kek.node, admin.arity, joined.content[REKEYING_SCHEME]) == (1, None, -65537)
    assert kek.kid[:4] == group.tag
    assert kek.key.reveal() == next(iter(group.keyring.records())).key.reveal()
    assert joined.report.control_group == f"coap://{group.settings.control}/ace-group/room"


@pytest.mark.parametrize("arity", [2, 4])
async def test_c1_management_keying_material_of_lkh_is_the_path_from_leaf_to_root(house: House, arity: int) -> None:
    group = await house.create(scheme=Scheme.LKH, arity=arity)
    await house.members("a", "b", "c", "d")
    paths = {}
    for name in "abcd":
        report = await house.devices[name].own_keys()
        assert (report.scheme, report.admin is not None) == (Scheme.LKH, True)
        assert report.admin is not None
        assert report.admin.arity == arity
        paths[name] = report.admin.keys
    records = {record.node: record for record in group.keyring.records()}
    for name, path in paths.items():
        leaf = records[path[0].node]
        assert leaf.member == group.by_device[name].node
        assert [key.node for key in path[1:]] == [records[key.node].parent for key in path[:-1]]
        assert path[-1].node == 1
        assert [key.key.reveal() for key in path] == [records[key.node].key.reveal() for key in path]
    assert len({path[-1].key.reveal() for path in paths.values()}) == 1
    assert len({path[0].key.reveal() for path in paths.values()}) == 4


async def test_c1_the_manager_proves_its_key_with_the_newcomers_nonce(house: House) -> None:
    await house.create()
    device = await house.device("a")
    first, again = await device.join(), await device.join()  # each proof is verified in `joined`
    assert first.report.manager_credential == house.server.manager.keys[DEFAULT_SIGNATURE.number].credential
    assert first.report.manager_nonce != again.report.manager_nonce
    assert first.report.manager_proof != again.report.manager_proof


# ---- C.2


async def test_c2_the_public_key_is_stored_with_its_endpoint_id_before_the_answer(house: House) -> None:
    group = await house.create()
    newcomer = await house.device("newcomer")
    request = await newcomer.request()
    stored: list[dict[bytes, bytes]] = []

    def sending(datagram: bytes, destination: Any) -> None:
        message = coap.decode(datagram)
        if destination == newcomer.address and message.option(coap.OBJECT_SECURITY) is not None:
            tables = house.tables()
            assert [row["data"] for row in tables["credentials"]] == [newcomer.credential.data]
            stored.append({row["credential"]: row["endpoint_id"] for row in tables["members"]})

    watch(house.server.node, sending)
    newcomer.joined(request, await newcomer.ask(POST, "ace-group/room", request.encode(), GROUPCOMM))
    assert stored[0] == {newcomer.credential.data: group.by_device["newcomer"].endpoint_id}


async def test_c2_possession_of_the_private_key_must_be_proved_to_the_challenge(house: House) -> None:
    await house.create()
    device, thief = await house.device("a"), await house.device("thief")
    await device.settle()
    await thief.settle()
    before = house.tables()
    good = await device.request()
    thief.key = device.key
    stolen = (await thief.request()).proof
    for request in (
        await thief.request(credential=good.credential, proof=good.proof),  # another's, over another challenge
        await device.request(proof=stolen),
        await device.request(proof=bytes(64)),
        await device.request(proof=(good.proof or b"")[:-1]),
        await device.request(proof=None),
        await device.request(proof=b""),
    ):
        who = thief if request.proof == good.proof else device
        answer = await who.ask(POST, "ace-group/room", request.encode(), GROUPCOMM)
        assert problem(answer) == (coap.BAD_REQUEST, 3), request
    assert house.tables() == before


async def test_c2_from_then_on_others_can_have_the_public_key(house: House) -> None:
    await house.create()
    (listener,) = await house.members("l")
    (sender,) = await house.members("m", roles=MULTICASTER)
    endpoint_id = sender.places["room"].endpoint_id
    assert endpoint_id is not None
    assert [entry.endpoint_id for entry in listener.rekeys[-1].joined or ()] == [endpoint_id]
    answer = await listener.ask(FETCH, "ace-group/room/creds", encode_filter([endpoint_id]), GROUPCOMM)
    num, entries = parse_credentials(answer.payload)
    assert num == house.group().num
    assert [(e.endpoint_id, e.credential, e.roles) for e in entries] == [
        (endpoint_id, sender.credential.data, MULTICASTER)
    ]


async def test_c2_active_endpoint_ids_of_one_key_are_kept_apart_and_up_to_date_for_each_group(house: House) -> None:
    await house.create("room")
    await house.create("hall")
    device = await house.device("a", {"room": BOTH, "hall": BOTH})
    other = await house.device("b", {"room": BOTH, "hall": BOTH})
    await other.join("hall")
    await device.join("room")
    joined = await device.join("hall")
    key = device.credential.data
    assert active(house, "room")[key] == b"\x00"
    assert active(house, "hall")[key] == joined.report.material.endpoint_id == b"\x01"
    again = await device.join("hall")
    assert active(house, "hall")[key] == again.report.material.endpoint_id != b"\x01"
    assert active(house, "room")[key] == b"\x00"
    answer = await device.ask(POST, f"ace-group/room/nodes/{device.places['room'].node}")
    await house.server.persist()
    assert active(house, "room") == {key: cbor2.loads(answer.payload)[21]}
    assert active(house, "room")[key] != b"\x00"
    await house.perform("rekey", group="hall")
    assert active(house, "hall")[key] == again.report.material.endpoint_id  # a renewal keeps it
    await device.ask(DELETE, f"ace-group/hall/nodes/{device.places['hall'].node}")
    assert active(house, "hall").keys() == {other.credential.data}
    assert active(house, "room").keys() == {key}
    await house.perform("evict", group="room", device="a")
    assert active(house, "room") == {}


# ---- 3.1


@pytest.mark.parametrize(
    ("scheme", "profile", "how"),
    [
        *((scheme, SEED_PROFILE, how) for scheme in Scheme for how in ("leaves", "evicted", "withdrawn")),
        (Scheme.LKH, STANDARD_PROFILE, "evicted"),
    ],
    ids=str,
)
async def test_31_who_leaves_gets_nothing_of_the_renewal(
    house: House, scheme: Scheme, profile: str, how: str
) -> None:
    group = await house.create("room", profile, scheme=scheme)
    gone, *rest = await house.members("gone", "b", "c")
    await house.settled()
    before, old, sent = len(house.log), (group.gid, group.master_secret.reveal()), len(house.multicasts())
    if how == "leaves":
        answer = await gone.ask(DELETE, f"ace-group/room/nodes/{gone.places['room'].node}")
        assert answer.code.dotted == "2.02"
    elif how == "evicted":
        await house.perform("evict", group="room", device="gone")
    else:
        await house.perform("withdraw", device="gone")
    await until(lambda: all(device.places["room"].gid == group.gid for device in rest))
    await house.settled()
    assert group.gid != old[0]
    assert group.master_secret.reveal() != old[1]
    assert all(device.places["room"].secret == group.master_secret.reveal() for device in rest)
    assert gone.places["room"].secret == old[1]
    assert readable(house, gone, sent) == []
    assert not [event for event in house.log[before:] if (event.who, event.what) == ("gone", "told")]
    stale = rest[0].rekeys[-1].stale
    assert stale == {gone.places["room"].endpoint_id}


@profiles
@schemes
async def test_31_a_newcomer_gets_nothing_from_before(house: House, scheme: Scheme, profile: str) -> None:
    group = await house.create("room", profile, scheme=scheme)
    await house.members("a", "b")
    await house.settled()
    old = (group.gid, group.master_secret.reveal())
    newcomer = await house.device("newcomer")
    joined = await newcomer.join()
    assert joined.report.material.gid != old[0]
    assert joined.report.material.master_secret.reveal() != old[1]
    assert readable(house, newcomer) == []
    for data in house.multicasts():
        assert newcomer.places["room"].secret not in data


async def test_31_no_renewal_where_the_operator_wants_none(house: House) -> None:
    group = await house.create(on_join=False, on_leave=False)
    a, b = await house.members("a", "b")
    assert (group.num, group.gid[-4:], a.places["room"].gid) == (0, bytes(4), b.places["room"].gid)
    await a.ask(DELETE, f"ace-group/room/nodes/{a.places['room'].node}")
    assert group.num == 0
    await house.perform("evict", group="room", device="b")
    assert group.num == 1


async def test_31_every_renewal_has_a_new_master_secret(house: House) -> None:
    group = await house.create(scheme=Scheme.GKMP)
    (device,) = await house.members("a")
    secrets, gids = {group.master_secret.reveal()}, {group.gid}
    for number in range(1, 6):
        await house.perform("rekey", group="room")
        await until(lambda num=number: device.places["room"].num == num)  # type: ignore[misc]
        secrets.add(device.places["room"].secret)
        gids.add(device.places["room"].gid)
    assert (len(secrets), len(gids)) == (6, 6)


# ---- Appendix B


async def test_b_the_gid_is_a_prefix_and_an_epoch_that_begins_with_zero(house: House) -> None:
    group = await house.create()
    (device,) = await house.members("a")
    prefix = group.gid[:8]
    assert group.gid == prefix + bytes(4)
    for epoch in range(1, 4):
        await house.perform("rekey", group="room")
        assert group.gid == prefix + epoch.to_bytes(4, "big")
    await until(lambda: device.places["room"].gid == group.gid)
    assert house.tables()["groups"][0]["gid"] == group.gid


async def test_b_the_epoch_is_incremented_by_one_with_each_renewal_whatever_caused_it(house: House) -> None:
    group = await house.create(scheme=Scheme.GKMP)
    epochs = [group.epoch]
    a, b = await house.members("a", "b")
    epochs.append(group.epoch)
    await a.join()
    epochs.append(group.epoch)
    await b.ask(DELETE, f"ace-group/room/nodes/{b.places['room'].node}")
    epochs.append(group.epoch)
    await house.perform("rekey", group="room")
    epochs.append(group.epoch)
    await house.perform("evict", group="room", device="a")
    epochs.append(group.epoch)
    assert epochs == [0, 1, 2, 3, 4, 5]
    assert group.num == group.epoch


class Coins:
    """Random bytes, of which some are known beforehand."""

    def __init__(self) -> None:
        self.next: list[bytes] = []

    def __call__(self, length: int) -> bytes:
        if self.next and len(self.next[0]) == length:
            return self.next.pop(0)
        return os.urandom(length)


async def test_b_prefixes_are_unique_at_a_manager_also_among_former_ones(place: Path) -> None:
    coins = Coins()
    async with House(place, random=coins) as house:
        room = await house.create("room", epoch_size=1)
        former = room.prefix
        room.epoch, room.gid = 253, former + b"\xfd"  # as if there had been so many
        await house.perform("rekey", group="room")
        assert room.gid == former + b"\xfe"
        coins.next = [former, b"new one!"]  # the same once more: not to be taken
        await house.perform("rekey", group="room")
        assert room.gid == b"new one!" + b"\x00"
        coins.next = [former, b"new one!", b"another!"]
        hall = await house.create("hall")
        assert hall.gid == b"another!" + bytes(4)
        await house.perform("set_active", group="hall", active=False)
        await house.perform("delete_group", group="hall")
        await house.restart()
        coins.next = [former, b"new one!", b"another!", b"the last"]
        assert (await house.create("hall")).gid == b"the last" + bytes(4)
        assert {row["prefix"] for row in house.tables()["prefixes"]} == {
            former,
            b"new one!",
            b"another!",
            b"the last",
        }


# ---- 6


async def test_6_the_groups_synchronization_policy_is_in_the_answer(house: House) -> None:
    policy = GroupPolicy(synchronization=SynchronizationPolicy(Method.BASELINE, 12.0, 3.0, 12, 7), grace=1.5)
    await house.create(policy=policy)
    joined = await (await house.device("a")).join()
    assert joined.report.policy == policy
    assert joined.content[16] == {0: -65538, 1: 300, 2: 2}


async def test_6_a_suggestion_reaches_the_single_listener_that_it_is_for(house: House) -> None:
    suggestion = SynchronizationPolicy(Method.BEST_EFFORT)
    await house.create(suggestions={"a": suggestion})
    (b,) = await house.members("b")
    a = await house.device("a")
    joined = await a.join()
    assert joined.report.policy.synchronization == suggestion
    assert joined.content[16][0] == -65537
    other = await b.own_keys()
    assert other.policy.synchronization.method is Method.CHALLENGE_RESPONSE


async def test_6_a_later_suggestion_reaches_a_member(house: House) -> None:
    await house.create()
    a, b = await house.members("a", "b")
    await house.settled()
    await house.change(suggestions={"a": SynchronizationPolicy(Method.BASELINE)})
    await until(lambda: a.rekeys and a.rekeys[-1].reload, "not told to reload")
    assert (await a.own_keys()).policy.synchronization.method is Method.BASELINE
    assert (await b.own_keys()).policy.synchronization.method is Method.CHALLENGE_RESPONSE
    assert await a.confirm() == await b.confirm()
    await house.settled()
