"""The Group Manager's resources, one after the other: methods, formats, and what they say (docs/group-manager.md
§3)."""

# mypy: allow-untyped-calls
from __future__ import annotations

from typing import Any

import cbor2
import pytest
from manager_devices import (
    BOTH,
    DELETE,
    FETCH,
    GET,
    LISTENER,
    MULTICASTER,
    POST,
    PURE,
    PUT,
    SEED_PROFILE,
    SENDING_PURE,
    STANDARD_PROFILE,
    Device,
    House,
    house,
    place,
    until,
)

from groupcoap.core import coap
from groupcoap.cose.keys import DEFAULT_SIGNATURE
from groupcoap.keying.admin import Scheme
from groupcoap.keying.joining import KeyReport, encode_filter, parse_challenge, parse_credentials, parse_names
from groupcoap.keying.labels import CBOR
from groupcoap.keying.labels import GROUPCOMM_CBOR as GROUPCOMM
from groupcoap.keying.proof import client_proof_input, manager_proof_input, prove, verifies

__all__ = ["house", "place"]

NOTHING = b"\x40"
profiles = pytest.mark.parametrize("profile", [SEED_PROFILE, STANDARD_PROFILE])


def content(answer: Any, code: int = coap.CONTENT, form: int = GROUPCOMM) -> Any:
    """The decoded payload of an answer, which must be of this code and format."""
    assert answer.code == code, (answer.code, answer.payload)
    assert answer.opt.content_format == form
    return cbor2.loads(answer.payload)


def node(device: Device, rest: str = "", group: str = "room") -> str:
    return f"ace-group/{group}/nodes/{device.places[group].node}{rest}"


async def community(house: House, profile: str = SEED_PROFILE, **changes: Any) -> dict[str, bytes | None]:
    """A group with somebody in each role that has an Endpoint ID, and a pure listener: {device: Endpoint ID}."""
    await house.create("room", profile, **{"scheme": Scheme.GKMP, **changes})
    roles = {"m": MULTICASTER, "l": LISTENER, "both": BOTH, "p": PURE}
    if profile == SEED_PROFILE:
        roles["sp"] = SENDING_PURE
    for name, wanted in roles.items():
        await house.members(name, roles=wanted)
    await house.settled()
    return {name: house.group().by_device[name].endpoint_id for name in roles}


# ---- /ace-group


async def test_names_of_groups_by_their_current_gids(house: House) -> None:
    await house.create("room")
    await house.create("hall")
    await house.create("vault")
    device = await house.device("a", {"room": LISTENER, "hall": LISTENER})
    room, hall, vault = (house.group(name).gid for name in ("room", "hall", "vault"))
    answer = await device.ask(FETCH, "ace-group", cbor2.dumps({0: [hall, b"unknown", room, vault]}), GROUPCOMM)
    assert content(answer) == {0: [hall, room], 1: ["hall", "room"], 2: ["/ace-group/hall", "/ace-group/room"]}
    assert [found.name for found in parse_names(answer.payload)] == ["hall", "room"]
    await house.perform("rekey", group="room")
    answer = await device.ask(FETCH, "ace-group", cbor2.dumps({0: [room]}), GROUPCOMM)
    assert (answer.code, answer.payload) == (coap.CONTENT, NOTHING)  # a former Gid is nobody's
    answer = await device.ask(FETCH, "ace-group", cbor2.dumps({0: [house.group("room").gid]}), GROUPCOMM)
    assert [found.name for found in parse_names(answer.payload)] == ["room"]


# ---- /ace-group/NAME


@profiles
async def test_an_empty_post_brings_a_challenge_and_the_groups_algorithms(house: House, profile: str) -> None:
    await house.create("room", profile)
    device = await house.device("a")
    await device.settle()
    answer = await device.ask(POST, "ace-group/room")
    found = content(answer, coap.BAD_REQUEST)
    assert found[29] == [["room", -8, [1], [1, 6], 14]]
    assert found[30] == parse_challenge(answer.payload) == device.link.challenge
    assert found.get(31) == (None if profile == SEED_PROFILE else [["room", -27, [1], [1, 4], 14]])
    assert found.keys() <= {29, 30, 31}
    assert house.group().members == {}
    request = await device.request()
    signed = client_proof_input(request.scope, found[30], request.nonce)
    assert request.proof == prove(device.key, signed)


@profiles
async def test_get_group_is_the_current_keys_without_an_endpoint_id(house: House, profile: str) -> None:
    group = await house.create("room", profile)
    a, b = await house.members("a", "b")
    await house.settled()
    answer = await a.ask(GET, "ace-group/room")
    found = content(answer)
    assert 7 not in found[8]
    assert (found[8][2], found[8][6], found[9]) == (group.master_secret.reveal(), group.gid, group.num)
    assert (found[7], found[10], found[12], found[20]) == (1, 1, 86400, Scheme.LKH.value)
    assert not {13, 14, 15, 18, 19} & found.keys()
    report = KeyReport.parse(answer.payload)
    other = KeyReport.parse((await b.ask(GET, "ace-group/room")).payload)
    assert report.admin is not None
    assert other.admin is not None
    assert report.admin.keys[-1].key.reveal() == other.admin.keys[-1].key.reveal()
    assert report.admin.keys[0].key.reveal() != other.admin.keys[0].key.reveal()


@profiles
async def test_get_node_is_the_current_keys_with_the_own_endpoint_id(house: House, profile: str) -> None:
    group = await house.create("room", profile)
    a, b = await house.members("a", "b")
    for device in (a, b):
        found = content(await device.ask(GET, node(device)))
        assert found[8][7] == device.places["room"].endpoint_id
        assert 21 not in found
        assert found[8][6] == group.gid
        without = content(await device.ask(GET, "ace-group/room"))
        del found[8][7]
        assert {key: value for key, value in found.items() if key != 11} == {
            key: value for key, value in without.items() if key != 11
        }


async def test_get_node_of_a_pure_listener_has_no_endpoint_id(house: House) -> None:
    await house.create()
    (device,) = await house.members("p", roles=PURE)
    assert 7 not in content(await device.ask(GET, node(device)))[8]


async def test_exp_and_exi_say_the_same(house: House) -> None:
    await house.create(lifetime=1000.0, check_interval=77.0)
    now = 2_000_000_000.0
    house.clock = lambda: now
    (device,) = await house.members("a")
    found = content(await device.ask(GET, "ace-group/room"))
    assert (found[11], found[12], found[16][1]) == (2_000_001_000, 1000, 77)


# ---- creds


async def test_creds_of_those_whom_the_callers_roles_need(house: House) -> None:
    ids = await community(house)
    wanted = {"m": {"l", "both"}, "l": {"m", "both", "sp"}, "p": {"m", "both", "sp"}}
    for name, needed in wanted.items():
        answer = await house.devices[name].ask(GET, "ace-group/room/creds")
        assert content(answer)[9] == house.group().num
        num, entries = parse_credentials(answer.payload)
        found = {entry.endpoint_id for entry in entries}
        assert {ids[other] for other in needed} <= found, name
        assert num == house.group().num
        by_id = {house.group().by_device[other].endpoint_id: house.devices[other] for other in ids}
        assert all(entry.credential == by_id[entry.endpoint_id].credential.data for entry in entries)
        assert all(entry.roles == house.group().by_device[entry.name].roles for entry in entries)


async def test_creds_are_aligned_arrays(house: House) -> None:
    await community(house)
    found = content(await house.devices["both"].ask(GET, "ace-group/room/creds"))
    assert found.keys() >= {9, 13, 14, 15}
    assert len(found[13]) == len(found[14]) == len(found[15]) == len(found[-65542])


async def test_creds_when_there_are_none(house: House) -> None:
    await house.create()
    (device,) = await house.members("m", roles=MULTICASTER)
    answer = await device.ask(GET, "ace-group/room/creds")
    assert (answer.code, answer.payload, answer.opt.content_format) == (coap.CONTENT, NOTHING, GROUPCOMM)
    answer = await device.ask(FETCH, "ace-group/room/creds", encode_filter([b"nobody"]), GROUPCOMM)
    assert (answer.code, answer.payload) == (coap.CONTENT, NOTHING)


@pytest.mark.parametrize("profile", [SEED_PROFILE])
async def test_creds_by_filter(house: House, profile: str) -> None:
    ids = await community(house, profile)
    device = house.devices["p"]

    async def names(*filters: Any) -> set[str]:
        answer = await device.ask(FETCH, "ace-group/room/creds", cbor2.dumps({4: list(filters)}), GROUPCOMM)
        return {entry.name for entry in parse_credentials(answer.payload)[1]}

    assert await names(True, [], [ids["m"], ids["l"], b"unknown"]) == {"m", "l"}
    assert await names(True, [2], []) == {"m", "both", "sp"}
    assert await names(True, [4], []) == {"l", "both"}
    assert await names(True, [6], []) == {"both"}  # all roles of the combination
    assert await names(True, [10], []) == {"sp"}
    assert await names(True, [6, 10], []) == {"both", "sp"}
    assert await names(True, [6], [ids["l"]]) == {"both", "l"}
    assert await names(False, [2], [ids["m"]]) == {"both", "sp"}
    assert await names(False, [], [ids["m"], ids["both"]]) == {"l", "sp"}
    assert await names(False, [2], [ids["m"], ids["both"], ids["sp"]]) == set()
    assert await names(True, [8], []) == {"sp"}  # a pure listener by itself has no credential


# ---- kdc-cred, policies, num, active


@profiles
async def test_kdc_cred_is_the_managers_with_a_proof_for_the_nonce_of_the_latest_join(
    house: House, profile: str
) -> None:
    await house.create("room", profile)
    device = await house.device("a")
    await device.join()
    joined = await device.join()
    found = content(await device.ask(GET, "ace-group/room/kdc-cred"))
    assert found.keys() == {17, 18, 19}
    key = house.server.manager.keys[DEFAULT_SIGNATURE.number]
    assert found[17] == key.credential.data
    signed = manager_proof_input(joined.request.nonce, found[18])
    assert verifies(key.credential.public_key(DEFAULT_SIGNATURE), found[19], signed)
    again = content(await device.ask(GET, "ace-group/room/kdc-cred"))
    assert again[18] != found[18]


async def test_policies(house: House) -> None:
    await house.create(check_interval=60.0)
    (device,) = await house.members("a")
    assert content(await device.ask(GET, "ace-group/room/policies")) == {16: {0: -65539, 1: 60, 2: 2}}


async def test_num(house: House) -> None:
    group = await house.create()
    (device,) = await house.members("a")
    answer = await device.ask(GET, "ace-group/room/num")
    assert (answer.payload, content(answer, form=CBOR)) == (b"\x00", 0)
    await house.perform("rekey", group="room")
    assert content(await device.ask(GET, "ace-group/room/num"), form=CBOR) == group.num == 1


async def test_active(house: House) -> None:
    await house.create()
    (device,) = await house.members("a")
    assert (await device.ask(GET, "ace-group/room/active")).payload == b"\xf5"
    await house.perform("set_active", group="room", active=False)
    answer = await device.ask(GET, "ace-group/room/active")
    assert (answer.payload, content(answer, form=CBOR)) == (b"\xf4", False)
    assert content(await device.ask(GET, "ace-group/room/num"), form=CBOR) == 0  # members are still answered


# ---- stale-sids


async def test_stale_ids_since_a_num(house: House) -> None:
    await house.create(stale_sets=3)
    a, b, c = await house.members("a", "b", "c")  # num 0, 1, 2
    ids = {device.name: device.places["room"].endpoint_id or b"" for device in (a, b, c)}

    async def stale(num: int) -> Any:
        answer = await a.ask(FETCH, "ace-group/room/stale-sids", cbor2.dumps(num), CBOR)
        assert answer.code == coap.CONTENT, answer.payload
        if not answer.payload:
            assert answer.opt.content_format is None
            return None
        return content(answer, form=CBOR)

    assert await stale(0) == await stale(1) == []
    await house.perform("evict", group="room", device="b")  # num 3: kept are those of 1, 2 and 3
    assert await stale(2) == await stale(1) == [ids["b"]]
    assert await stale(0) is None  # too old to say: no payload
    await c.ask(POST, node(c))  # another Endpoint ID under num 3
    assert await stale(2) == sorted([ids["b"], ids["c"]])
    await house.perform("rekey", group="room")  # num 4
    assert await stale(3) == [ids["c"]]
    assert await stale(2) == sorted([ids["b"], ids["c"]])
    assert await stale(1) is None
    for num in (4, 5, 1 << 63):
        answer = await a.ask(FETCH, "ace-group/room/stale-sids", cbor2.dumps(num), CBOR)
        assert answer.code == coap.BAD_REQUEST


async def test_stale_ids_survive_a_restart(house: House) -> None:
    await house.create()
    a, b = await house.members("a", "b")
    gone = b.places["room"].endpoint_id
    await house.perform("evict", group="room", device="b")
    await house.settled()
    await house.restart()
    answer = await a.ask(FETCH, "ace-group/room/stale-sids", cbor2.dumps(1), CBOR)
    assert content(answer, form=CBOR) == [gone]


# ---- nodes/NODE


async def test_a_new_endpoint_id_is_another_one_and_the_former_is_nobodys(house: House) -> None:
    group = await house.create()
    a, b = await house.members("a", "b")
    await house.settled()
    before, num, gid = b.places["room"].endpoint_id, group.num, group.gid
    found = content(await b.ask(POST, node(b)), coap.CHANGED)
    assert found.keys() == {21}
    after = found[21]
    assert after not in (before, a.places["room"].endpoint_id)
    assert (group.num, group.gid) == (num, gid)
    assert (await b.own_keys()).material.endpoint_id == after
    (row,) = [row for row in house.tables()["members"] if row["device"] == "b"]
    assert row["endpoint_id"] == after
    assert [(row["num"], row["endpoint_id"]) for row in house.tables()["stale"]] == [(num, before)]
    again = content(await b.ask(POST, node(b)), coap.CHANGED)[21]
    assert again not in (before, after)
    newcomer = await house.device("c")
    assert (await newcomer.join()).report.material.endpoint_id not in (before, after, again)
    answer = await a.ask(FETCH, "ace-group/room/creds", encode_filter([after, again]), GROUPCOMM)
    (entry,) = parse_credentials(answer.payload)[1]
    assert (entry.endpoint_id, entry.credential) == (again, b.credential.data)


async def test_a_member_leaves_and_may_come_back(house: House) -> None:
    group = await house.create()
    a, b = await house.members("a", "b")
    await house.settled()
    former, num = b.places["room"], group.num
    answer = await b.ask(DELETE, node(b))
    assert (answer.code, answer.payload, answer.opt.content_format) == (coap.DELETED, b"", None)
    assert list(group.by_device) == ["a"]
    assert (await b.ask(GET, node(b))).code == coap.FORBIDDEN
    await until(lambda: a.places["room"].num == num + 1)
    assert a.rekeys[-1].stale == {former.endpoint_id}
    joined = await b.join()
    assert joined.answer.code.dotted == "2.01"
    assert joined.node != former.node


# ---- nodes/NODE/cred


@profiles
async def test_a_credential_is_replaced_with_a_proof_over_the_scope_of_the_latest_join(
    house: House, profile: str
) -> None:
    group = await house.create("room", profile)
    a, b = await house.members("a", "b", roles=BOTH)
    old, number = b.credential, group.num
    b.key = DEFAULT_SIGNATURE.generate()
    request = await b.request(roles=BOTH)
    upload = {5: request.credential, 6: request.nonce, 24: request.proof}
    answer = await b.ask(POST, node(b, "/cred"), cbor2.dumps(upload), GROUPCOMM)
    assert (answer.code, answer.payload) == (coap.CHANGED, b"")
    answer = await a.ask(GET, "ace-group/room/creds")
    found = {entry.name: entry.credential for entry in parse_credentials(answer.payload)[1]}
    assert found["b"] == b.credential.data != old.data
    tables = house.tables()
    assert b.credential.data in [row["data"] for row in tables["credentials"]]
    assert old.data not in [row["data"] for row in tables["credentials"]]
    assert old.data not in [row["credential"] for row in tables["members"]]
    assert group.num == number
    c = await house.device("c")
    c.key = DEFAULT_SIGNATURE.generate()
    await c.join()
    other_scope = await b.request(roles=LISTENER)
    upload = {5: other_scope.credential, 6: other_scope.nonce, 24: other_scope.proof}
    answer = await b.ask(POST, node(b, "/cred"), cbor2.dumps(upload), GROUPCOMM)
    assert cbor2.loads(answer.payload)[0] == {0: 3}
    taken = await b.request(roles=BOTH, credential=c.credential.data)
    upload = {5: taken.credential, 6: taken.nonce, 24: prove(c.key, b"")}
    answer = await b.ask(POST, node(b, "/cred"), cbor2.dumps(upload), GROUPCOMM)
    assert cbor2.loads(answer.payload)[0] == {0: 2}


# ---- nodes/NODE/num


async def test_a_confirmation_of_the_current_renewal_or_of_another(house: House) -> None:
    group = await house.create()
    a, b = await house.members("a", "b")
    await house.settled()
    a.confirms = b.confirms = False
    before = a.places["room"]
    num, gid = before.num, before.gid
    await house.perform("rekey", group="room")
    await until(lambda: a.places["room"].num == group.num)

    async def confirm(device: Device, *items: Any) -> int:
        answer = await device.ask(PUT, node(device, "/num"), cbor2.dumps(list(items)), CBOR)
        assert answer.payload == b""
        return int(answer.code)

    assert await confirm(a, num, gid) == coap.CONFLICT
    assert await confirm(a, group.num, gid) == coap.CONFLICT
    assert await confirm(a, group.num, b"another Gid") == coap.CONFLICT
    assert {member.device for member in house.server.manager.behind(group)} == {"a", "b"}
    assert await confirm(a, group.num, group.gid) == coap.CHANGED
    assert [member.device for member in house.server.manager.behind(group)] == ["b"]
    assert await confirm(a, group.num, group.gid, None) == coap.CHANGED
    assert await confirm(b, group.num, group.gid) == coap.CHANGED
    await house.settled()
    assert {row["confirmed_num"] for row in house.tables()["members"]} == {group.num}
    assert house.tables()["renewals"][0]["finished"] is not None
    assert house.tables()["renewals"][0]["multicasts"] == b"\x80"


async def test_the_control_uri_moves_with_a_confirmation(house: House) -> None:
    group = await house.create(scheme=Scheme.POINT_TO_POINT)
    device = await house.device("a")
    await device.join(control_uri=None)
    assert house.group().by_device["a"].control is None
    place = device.places["room"]
    payload = cbor2.dumps([place.num, place.gid, device.control_uri()])
    answer = await device.ask(PUT, node(device, "/num"), payload, CBOR)
    assert answer.code == coap.CHANGED
    await house.server.persist()
    assert [row["control"] for row in house.tables()["members"]] == [device.control_uri()]
    await house.perform("rekey", group="room")
    await until(lambda: place.num == group.num, "not told at its new address")
    await house.settled()
