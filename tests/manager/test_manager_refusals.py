"""What the Group Manager refuses: with which code and error number, and that nothing of it is stored."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import functools
from dataclasses import replace
from typing import Any

import aiocoap
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
    problem,
)

from groupcoap.association.node import UnprotectedAnswer
from groupcoap.core import coap
from groupcoap.cose.credentials import claims_set
from groupcoap.cose.keys import DEFAULT_SIGNATURE, signature_algorithm
from groupcoap.errors import Refused
from groupcoap.keying.joining import Held, JoinRequest
from groupcoap.keying.labels import CBOR, PROBLEM_DETAILS
from groupcoap.keying.labels import GROUPCOMM_CBOR as GROUPCOMM
from groupcoap.keying.roles import tperm
from groupcoap.manager import resources
from groupcoap.manager.catchups import Paces
from groupcoap.manager.state import GroupStatus
from groupcoap.membership import Role

__all__ = ["house", "place"]

BAD, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = coap.BAD_REQUEST, coap.UNAUTHORIZED, coap.FORBIDDEN, coap.NOT_FOUND
UNAVAILABLE, METHOD, FORMAT = coap.SERVICE_UNAVAILABLE, coap.METHOD_NOT_ALLOWED, coap.UNSUPPORTED_CONTENT_FORMAT
profiles = pytest.mark.parametrize("profile", [SEED_PROFILE, STANDARD_PROFILE])


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices may ask as often as they like."""
    monkeypatch.setattr(resources, "Paces", functools.partial(Paces, rate=1e6, burst=1_000_000))


class Untouched:
    """What is refused inside leaves all tables but the audit log as they were, and the groups in memory."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def __aenter__(self) -> None:
        for device in self._house.devices.values():
            if device.link.context is not None:
                await device.settle()
        await self._house.server.persist()
        self._tables, self._groups, self._sent = self._picture()

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            return
        await self._house.server.persist()
        tables, groups, sent = self._picture()
        for name, rows in tables.items():
            assert rows == self._tables[name], name
        assert groups == self._groups
        assert sent == self._sent, "something was sent by multicast"

    def _picture(self) -> tuple[Any, Any, Any]:
        house = self._house
        groups = {
            name: (
                group.row(),
                {node: member.row(name) for node, member in group.members.items()},
                dict(group.keys),
            )
            for name, group in house.server.manager.groups.items()
        }
        return house.tables(), groups, house.multicasts()


async def join_refused(
    device: Device, request: JoinRequest | bytes, group: str = "room", form: int = GROUPCOMM
) -> Any:
    payload = request if isinstance(request, bytes) else request.encode()
    return problem(await device.ask(POST, f"ace-group/{group}", payload, form))


# ---- rights and roles


async def test_no_right_in_the_group(house: House) -> None:
    await house.create()
    await house.create("hall")
    device = await house.device("a", {"hall": BOTH})
    await device.settle()
    async with Untouched(house):
        assert await join_refused(device, await device.request()) == (FORBIDDEN, None)


async def test_a_group_that_does_not_exist_is_like_one_without_a_right(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.settle()
    async with Untouched(house):
        request = await device.request("nowhere")
        assert await join_refused(device, request, "nowhere") == (FORBIDDEN, None)
        for path in ("nowhere", "nowhere/num", "nowhere/creds", "nowhere/nodes/n1", "nowhere/what", "room/nodes"):
            answer = await device.ask(GET, f"ace-group/{path}")
            assert problem(answer)[0] == (NOT_FOUND if path == "room/nodes" else FORBIDDEN), path


@pytest.mark.parametrize("roles", [MULTICASTER, BOTH, PURE, SENDING_PURE], ids=lambda roles: str(tperm(roles)))
async def test_a_role_to_which_there_is_no_right(house: House, roles: frozenset[Role]) -> None:
    await house.create()
    device = await house.device("a", {"room": LISTENER})
    await device.settle()
    async with Untouched(house):
        assert await join_refused(device, await device.request(roles=roles)) == (FORBIDDEN, None)


async def test_roles_that_do_not_go_together(house: House) -> None:
    await house.create("room")
    await house.create("hall", STANDARD_PROFILE)
    device = await house.device("a", {"room": frozenset(Role), "hall": frozenset(Role)})
    await device.settle()
    async with Untouched(house):
        for group, numbers in (("room", (0, 1, 12, 14, 16, 18, 32, 3)), ("hall", (0, 10, 12, 14, 16, 24))):
            for number in numbers:
                request = await device.request(group)
                content = cbor2.loads(request.encode()) | {3: cbor2.dumps([group, number])}
                assert await join_refused(device, cbor2.dumps(content), group) == (BAD, None), (group, number)
    await device.join("room", SENDING_PURE)


async def test_a_right_that_was_taken_away(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.settle()
    await house.perform("evict", group="room", device="a")
    async with Untouched(house):
        assert await join_refused(device, await device.request()) == (FORBIDDEN, None)


async def test_a_role_that_was_taken_away_does_not_come_back_with_a_rejoin(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.join(roles=BOTH)
    await house.perform("grant", device="a", group="room", roles=["listener"])
    async with Untouched(house):
        assert await join_refused(device, await device.request(roles=BOTH)) == (FORBIDDEN, None)
    await device.join(roles=LISTENER)
    assert house.group().by_device["a"].roles == LISTENER


# ---- proof and credential


@profiles
async def test_proofs_that_do_not_verify(house: House, profile: str) -> None:
    await house.create("room", profile)
    device = await house.device("a")
    await device.settle()
    good = await device.request()
    other_nonce = await device.request()
    other_roles = await device.request(roles=BOTH)
    async with Untouched(house):
        for proof in (
            bytes(64),
            b"\x00",
            other_nonce.proof,
            other_roles.proof,
            (good.proof or b"") + b"\x00",
            b"",
            None,
        ):
            refused = await join_refused(device, replace(good, proof=proof))
            assert refused == (BAD, 3), proof
        other = await house_key(device)
        assert await join_refused(device, other) == (BAD, 3)


async def house_key(device: Device) -> JoinRequest:
    """A request with one key's credential, and another key's proof."""
    good = await device.request()
    device.key, key = DEFAULT_SIGNATURE.generate(), device.key
    request = await device.request(credential=good.credential)
    device.key = key
    return request


async def test_a_proof_over_the_challenge_of_an_association_before(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.settle()
    request = await device.request()
    before = device.link.challenge
    device.link._current = None
    await device.settle()
    assert device.link.challenge != before
    async with Untouched(house):
        assert await join_refused(device, request) == (BAD, 3)
    await device.join()


@profiles
async def test_credentials_that_do_not_fit_the_group(house: House, profile: str) -> None:
    await house.create("room", profile)
    device = await house.device("a")
    await device.settle()
    es256 = signature_algorithm(-7)
    other_algorithm = claims_set(es256.generate().public_key, es256, "a").data
    raw_key = device.credential.data[device.credential.data.index(b"\x01\xa4") + 1 :]
    async with Untouched(house):
        for data in (other_algorithm, raw_key, b"\xff", b"\xa0", cbor2.dumps({8: {}}), bytes(4096)):
            refused = await join_refused(device, await device.request(credential=data))
            assert refused == (BAD, 2), data


@profiles
async def test_a_key_that_another_member_has(house: House, profile: str) -> None:
    await house.create("room", profile)
    (first,) = await house.members("a")
    second = await house.device("b")
    second.key = first.key
    await second.settle()
    async with Untouched(house):
        assert await join_refused(second, await second.request()) == (BAD, 2)


async def test_two_newcomers_with_one_key_in_one_batch(house: House) -> None:
    await house.create(window=0.2)
    first, second = await house.device("a"), await house.device("b")
    second.key = first.key
    requests = [(device, await device.request()) for device in (first, second)]
    answers = await asyncio.gather(
        *(device.ask(POST, "ace-group/room", request.encode(), GROUPCOMM) for device, request in requests)
    )
    assert sorted(answer.code.dotted for answer in answers) == ["2.01", "4.00"]
    (refused,) = [answer for answer in answers if not answer.code.is_successful()]
    assert problem(refused) == (BAD, 2)
    assert len(house.group().members) == 1


async def test_credentials_left_out_that_are_not_known(house: House) -> None:
    await house.create("room")
    await house.create("hall", STANDARD_PROFILE)
    device = await house.device("a", {"room": BOTH, "hall": BOTH})
    await device.settle()
    async with Untouched(house):
        assert await join_refused(device, await device.request(credential=None)) == (BAD, 2)
        assert await join_refused(device, await device.request("hall", credential=None), "hall") == (BAD, None)
        for group in ("room", "hall"):
            empty = await device.request(group, credential=b"", proof=None)
            assert await join_refused(device, empty, group) == (BAD, 2), group
            unproved = await device.request(group, proof=b"")
            assert await join_refused(device, unproved, group) == (BAD, 3), group


# ---- the group


async def test_a_group_that_is_not_active(house: House) -> None:
    await house.create()
    (member,) = await house.members("m")
    device = await house.device("a")
    await device.settle()
    await house.perform("set_active", group="room", active=False)
    node = f"ace-group/room/nodes/{member.places['room'].node}"
    challenge = await member.link.associate()
    assert challenge
    async with Untouched(house):
        assert await join_refused(device, await device.request()) == (UNAVAILABLE, 9)
        assert await join_refused(member, await member.request()) == (UNAVAILABLE, 9)
        assert problem(await member.ask(POST, node)) == (UNAVAILABLE, 9)
        request = await member.request()
        content = {5: request.credential, 6: request.nonce, 24: request.proof}
        answer = await member.ask(POST, f"{node}/cred", cbor2.dumps(content), GROUPCOMM)
        assert problem(answer) == (UNAVAILABLE, 9)
    await house.perform("set_active", group="room", active=True)
    await device.join()


async def test_a_group_that_is_full_and_a_member_may_still_join_again(house: House) -> None:
    await house.create(max_members=2)
    (member, _) = await house.members("m", "n")
    device = await house.device("a")
    await device.settle()
    async with Untouched(house):
        assert await join_refused(device, await device.request()) == (UNAVAILABLE, None)
        assert await join_refused(device, await device.request(roles=PURE)) == (UNAVAILABLE, None)
    assert (await member.join()).answer.code.dotted == "2.04"


async def test_more_newcomers_in_one_batch_than_there_is_room_for(house: House) -> None:
    await house.create(max_members=2, window=0.2)
    devices = [await house.device(f"d{number}") for number in range(4)]
    requests = [await device.request() for device in devices]
    answers = await asyncio.gather(
        *(
            device.ask(POST, "ace-group/room", request.encode(), GROUPCOMM)
            for device, request in zip(devices, requests, strict=True)
        )
    )
    assert sorted(answer.code.dotted for answer in answers) == ["2.01", "2.01", "5.03", "5.03"]
    for answer in answers:
        assert answer.code.is_successful() or problem(answer) == (UNAVAILABLE, None)


async def test_a_group_that_was_deleted(house: House) -> None:
    await house.create()
    (member,) = await house.members("m")
    node = member.places["room"].node
    await house.perform("set_active", group="room", active=False)
    await house.perform("delete_group", group="room")
    async with Untouched(house):
        assert await join_refused(member, await member.request()) == (FORBIDDEN, None)
        for path in ("room", "room/num", f"room/nodes/{node}"):
            assert problem(await member.ask(GET, f"ace-group/{path}")) == (FORBIDDEN, None), path


async def test_a_group_whose_database_is_older_than_what_a_member_holds(house: House) -> None:
    group = await house.create()
    (member,) = await house.members("m")
    place = member.places["room"]
    later = group.prefix + (group.epoch + 1).to_bytes(4, "big")
    request = await member.request(held=Held(later, group.num + 1))
    num = group.num
    assert await join_refused(member, request) == (UNAVAILABLE, 9)
    assert (group.status, group.num, list(group.members)) == (GroupStatus.STOPPED, num, [place.node])
    assert "older" in str(group.alarm)
    assert house.tables()["groups"][0]["state"] == "stopped"
    (shown,) = (await house.perform("groups"))["groups"]
    assert shown["state"] == "stopped"
    async with Untouched(house):
        device = house.devices["m"]
        assert await join_refused(device, await device.request()) == (UNAVAILABLE, 9)


# ---- malformed


async def test_each_field_of_a_join_request_that_is_malformed(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.settle()
    good = cbor2.loads((await device.request(held=Held(b"some Gid", 3))).encode())
    name, uri = "room", device.control_uri()
    port = device.address[1]
    scopes: list[object] = [
        *(None, 1, [], "room", b"", b"\xff", b"\x80", ["room", 4]),
        cbor2.dumps("room"),
        cbor2.dumps(["room"]),
        cbor2.dumps(["room", 4, 4]),
        cbor2.dumps([["room", 4]]),
        cbor2.dumps([b"room", 4]),
        cbor2.dumps(["room", "4"]),
        cbor2.dumps(["room", [4]]),
        cbor2.dumps(["room", 4.0]),
        cbor2.dumps(["room", True]),
        cbor2.dumps(["room", -4]),
        cbor2.dumps(["room", 1 << 33]),
        cbor2.dumps(["other", 4]),
        cbor2.dumps(["", 4]),
        cbor2.dumps(["ro\nom", 4]),
        cbor2.dumps(["room", 4]) + b"\x00",
        b"\x82\x64room\x18\x04",  # not in shortest form: two ways to say the same would have two proofs
        b"\x9f\x64room\x04\xff",
    ]
    wrong: dict[int, list[object]] = {
        3: scopes,
        4: [0, 1, True, b"", "", {}, [], [True], [True, [], []], [False, [2], []], [True, [2], [b"\x00"]]],
        5: [None, 1, "text", [], {}, bytes(4097)],
        6: [None, 1, "12345678", [], b"", b"1234567", bytes(65)],
        24: [None, 1, "text", [], {}, bytes(257)],
        26: [
            *(None, 1, b"coap://127.0.0.1:5683/ace-group/room/node", "", "coap://", [], {}),
            *(f"coaps://127.0.0.72:{port}/ace-group/{name}/node", f"http://127.0.0.72/ace-group/{name}/node"),
            *(f"coap://localhost:{port}/ace-group/{name}/node", f"coap://127.0.0.72/ace-group/{name}/node"),
            *(f"coap://127.0.0.72:{port}/ace-group/{name}", f"coap://127.0.0.72:{port}/ace-group/hall/node"),
            *(f"coap://224.0.1.187:{port}/ace-group/{name}/node", f"coap://0.0.0.0:{port}/ace-group/{name}/node"),
            *(f"coap://255.255.255.255:1/ace-group/{name}/node", f"coap://127.0.0.72:0/ace-group/{name}/node"),
            *(f"coap://127.0.0.72:70000/ace-group/{name}/node", uri + "/", uri + "?a", uri + "#a", uri + "\n"),
            *(
                f"coap://[ff02::1]:{port}/ace-group/{name}/node",
                f"coap://[::ffff:224.0.0.1]:1/ace-group/{name}/node",
            ),
            f"coap://127.0.0.72:{port}/ace-group/{'r' * 1024}/node",
        ],
        -65540: [None, 1, [], [b"some Gid"], [b"", 3], ["some Gid", 3], [b"some Gid", -1], [b"g", 3, 3], [3, b"g"]],
    }
    async with Untouched(house):
        for label, values in wrong.items():
            for value in values:
                payload = cbor2.dumps(good | {label: value})
                assert await join_refused(device, payload) == (BAD, None), (label, value)
        for label in (3, 6):
            payload = cbor2.dumps({key: value for key, value in good.items() if key != label})
            assert await join_refused(device, payload) == (BAD, None), label
        lonely = {key: value for key, value in good.items() if key != 5}
        assert await join_refused(device, cbor2.dumps(lonely)) == (BAD, None)


async def test_a_join_request_that_is_malformed_as_a_whole(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.settle()
    good = (await device.request()).encode()
    twice = bytes([good[0] + 1]) + b"\x06\x48" + bytes(8) + good[1:]
    async with Untouched(house):
        for payload in (
            *(b"\x00", b"\xff", b"\xa0", b"\x80", b"\xf6", good + b"\x00", good[:-1], good[1:], twice),
            cbor2.dumps([3, 4]),
            cbor2.dumps(cbor2.CBORTag(55799, cbor2.loads(good))),
            cbor2.dumps(cbor2.loads(good) | {True: 1}),
            cbor2.dumps(cbor2.loads(good) | {1.0: 1}),
            b"\x81" * 40 + b"\x00",
            b"\xbf" + good[1:],
            cbor2.dumps(cbor2.loads(good) | {99: bytes(9000)}),
        ):
            assert await join_refused(device, payload) == (BAD, None), payload[:40]


async def test_fields_that_nobody_knows_are_ignored(house: House) -> None:
    await house.create()
    device = await house.device("a")
    request = await device.request()
    content = cbor2.loads(request.encode()) | {99: [1, {2: 3}], -70000: b"x", "text": None, 25: "coap://repository"}
    answer = await device.ask(POST, "ace-group/room", cbor2.dumps(content), GROUPCOMM)
    assert device.joined(request, answer).node in house.group().members


async def test_wrong_content_formats(house: House) -> None:
    await house.create()
    (device,) = await house.members("a")
    await device.settle()
    node = f"ace-group/room/nodes/{device.places['room'].node}"
    request = (await device.request()).encode()
    place = device.places["room"]
    cred = cbor2.loads(request)
    cred = cbor2.dumps({label: cred[label] for label in (5, 6, 24)})
    async with Untouched(house):
        for code, path, payload, form in (
            (POST, "ace-group/room", request, CBOR),
            (POST, "ace-group/room", request, 0),
            (FETCH, "ace-group", cbor2.dumps({0: [place.gid]}), CBOR),
            (FETCH, "ace-group/room/creds", cbor2.dumps({4: [True, [2], []]}), CBOR),
            (FETCH, "ace-group/room/stale-sids", cbor2.dumps(0), GROUPCOMM),
            (POST, f"{node}/cred", cred, CBOR),
            (PUT, f"{node}/num", cbor2.dumps([place.num, place.gid]), GROUPCOMM),
        ):
            answer = await device.ask(code, path, payload, form)
            assert problem(answer) == (FORMAT, None), (path, form)


async def test_other_payloads_that_are_malformed(house: House) -> None:
    await house.create()
    (device,) = await house.members("a")
    place = device.places["room"]
    node = f"ace-group/room/nodes/{place.node}"
    good = cbor2.loads((await device.request()).encode())
    cred = {label: good[label] for label in (5, 6, 24)}
    cases: list[tuple[Any, str, int, list[object]]] = [
        (
            FETCH,
            "ace-group",
            GROUPCOMM,
            [{}, {0: []}, {0: b"gid"}, {0: [1]}, {0: ["gid"]}, [], 0, {0: [b""] * 5000}],
        ),
        (FETCH, "ace-group/room/creds", GROUPCOMM, [{}, {4: 0}, {4: []}, {4: [True, [], []]}, {4: [1, [2], []]}]),
        (
            FETCH,
            "ace-group/room/creds",
            GROUPCOMM,
            [{4: [True, [0], []]}, {4: [True, ["a"], []]}, {4: [True, [], [1]]}],
        ),
        (FETCH, "ace-group/room/stale-sids", CBOR, [-1, 1.5, "0", [0], {}, None, True, 1 << 70]),
        (
            PUT,
            f"{node}/num",
            CBOR,
            [0, [], [0], [place.gid, 0], [0, b""], [-1, place.gid], [0, place.gid, 1], [1.0, b"g"]],
        ),
        (
            PUT,
            f"{node}/num",
            CBOR,
            [[place.num, place.gid, "coap://224.0.0.1:1/ace-group/room/node"], [0, b"g", None, 0]],
        ),
        (POST, f"{node}/cred", GROUPCOMM, [{}, [], {**cred, 5: b""}, {**cred, 6: b"short"}, {**cred, 24: b""}]),
        (POST, f"{node}/cred", GROUPCOMM, [{key: cred[key] for key in cred if key != gone} for gone in cred]),
    ]
    async with Untouched(house):
        for code, path, form, values in cases:
            for payload in (*(cbor2.dumps(value) for value in values), b"", b"\xff", b"\x00\x00"):
                answer = await device.ask(code, path, payload, form)
                assert problem(answer) == (BAD, None), (path, payload)
        answer = await device.ask(POST, node, b"\xa0", GROUPCOMM)
        assert problem(answer) == (BAD, None)


async def test_a_control_uri_of_another_group_in_a_confirmation(house: House) -> None:
    await house.create()
    (device,) = await house.members("a")
    place = device.places["room"]
    path = f"ace-group/room/nodes/{place.node}/num"
    elsewhere = device.control_uri("hall")
    async with Untouched(house):
        answer = await device.ask(PUT, path, cbor2.dumps([place.num, place.gid, elsewhere]), CBOR)
        assert problem(answer) == (BAD, None)


# ---- who asks


async def test_what_is_not_protected(house: House) -> None:
    await house.create()
    (device,) = await house.members("a")
    await device.settle()
    place = device.places["room"]
    request = (await device.request()).encode()
    async with Untouched(house):
        for code, path, payload, form in (
            (POST, "ace-group/room", request, GROUPCOMM),
            (POST, "ace-group/room", b"", None),
            (FETCH, "ace-group", cbor2.dumps({0: [place.gid]}), GROUPCOMM),
            *((GET, f"ace-group/room{rest}", b"", None) for rest in ("", "/num", "/active", "/creds", "/nodes/n1")),
            (DELETE, f"ace-group/room/nodes/{place.node}", b"", None),
            (GET, "ace-group/nowhere", b"", None),
        ):
            message = aiocoap.Message(code=code, uri_path=tuple(path.split("/")), payload=payload)
            message.opt.content_format = form
            answer = await device.node.request(message, house.address, None, 5.0)
            assert problem(answer) == (UNAUTHORIZED, None), path


async def test_a_device_that_was_withdrawn(house: House) -> None:
    await house.create()
    (device,) = await house.members("a")
    await device.settle()
    request = (await device.request()).encode()
    await house.perform("withdraw", device="a")
    with pytest.raises(UnprotectedAnswer) as caught:
        await device.ask(POST, "ace-group/room", request, GROUPCOMM)
    assert caught.value.code == UNAUTHORIZED
    device.link._current = None
    with pytest.raises(Refused) as refused:
        await device.link.associate(3.0)
    assert refused.value.code == UNAUTHORIZED
    assert house.tables()["associations"] == []


async def test_who_is_no_member(house: House) -> None:
    await house.create()
    await house.members("m")
    device = await house.device("a")
    await device.settle()
    node = "ace-group/room/nodes/n1"
    async with Untouched(house):
        for code, path, payload, form in (
            (GET, "ace-group/room", b"", None),
            *(
                (GET, f"ace-group/room/{rest}", b"", None)
                for rest in ("creds", "kdc-cred", "policies", "num", "active")
            ),
            (FETCH, "ace-group/room/creds", cbor2.dumps({4: [True, [2], []]}), GROUPCOMM),
            (FETCH, "ace-group/room/stale-sids", cbor2.dumps(0), CBOR),
            *((code, node, b"", None) for code in (GET, POST, DELETE)),
            (PUT, f"{node}/num", cbor2.dumps([0, b"12345678"]), CBOR),
            (POST, f"{node}/cred", cbor2.dumps({5: b"c", 6: bytes(8), 24: b"p"}), GROUPCOMM),
        ):
            answer = await device.ask(code, path, payload, form)
            assert problem(answer) == (FORBIDDEN, 0), (code, path)


async def test_a_node_that_is_another_members_or_a_former_one(house: House) -> None:
    await house.create()
    (a, b) = await house.members("a", "b")
    former = a.places["room"].node
    await a.join()
    foreign = b.places["room"].node
    place = a.places["room"]
    assert place.node not in (former, foreign)
    good = cbor2.loads((await a.request()).encode())
    cred = cbor2.dumps({label: good[label] for label in (5, 6, 24)})
    async with Untouched(house):
        for node in (former, foreign, "n99", "", "..", "n1/n2"):
            for code in (GET, POST, DELETE):
                answer = await a.ask(code, f"ace-group/room/nodes/{node}")
                code_, error = problem(answer)
                assert (code_, error) == ((NOT_FOUND if "/" in node else FORBIDDEN), None), (code, node)
            if "/" in node:
                continue
            num = cbor2.dumps([place.num, place.gid])
            assert problem(await a.ask(PUT, f"ace-group/room/nodes/{node}/num", num, CBOR)) == (FORBIDDEN, None)
            answer = await a.ask(POST, f"ace-group/room/nodes/{node}/cred", cred, GROUPCOMM)
            assert problem(answer) == (FORBIDDEN, None)


async def test_roles_for_which_something_has_no_meaning(house: House) -> None:
    await house.create()
    (device,) = await house.members("p", roles=PURE)
    node = f"ace-group/room/nodes/{device.places['room'].node}"
    good = cbor2.loads((await device.request(roles=BOTH)).encode())
    cred = cbor2.dumps({label: good[label] for label in (5, 6, 24)})
    async with Untouched(house):
        assert problem(await device.ask(POST, node)) == (BAD, 1)
        assert problem(await device.ask(POST, f"{node}/cred", cred, GROUPCOMM)) == (BAD, 1)


# ---- methods and resources


async def test_methods_that_a_resource_does_not_have(house: House) -> None:
    await house.create()
    (device,) = await house.members("a")
    node = f"nodes/{device.places['room'].node}"
    allowed = {
        "": (FETCH,),
        "room": (GET, POST),
        "room/creds": (GET, FETCH),
        "room/kdc-cred": (GET,),
        "room/policies": (GET,),
        "room/num": (GET,),
        "room/active": (GET,),
        "room/stale-sids": (FETCH,),
        f"room/{node}": (GET, POST, DELETE),
        f"room/{node}/cred": (POST,),
        f"room/{node}/num": (PUT,),
    }
    methods = (GET, POST, PUT, DELETE, FETCH, aiocoap.PATCH, aiocoap.iPATCH)
    async with Untouched(house):
        for path, has in allowed.items():
            for code in methods:
                if code not in has:
                    answer = await device.ask(code, f"ace-group/{path}".rstrip("/"))
                    assert problem(answer) == (METHOD, None), (path, code)


async def test_resources_that_there_are_not(house: House) -> None:
    await house.create()
    (device,) = await house.members("a")
    node = device.places["room"].node
    async with Untouched(house):
        for path in (
            "what",
            "nodes",
            f"nodes/{node}/what",
            f"nodes/{node}/num/1",
            "creds/1",
            "verif-data",
            "num/",
            "",
        ):
            answer = await device.ask(GET, f"ace-group/room/{path}")
            assert problem(answer) == (NOT_FOUND, None), path
        answer = await device.ask(GET, "elsewhere")
        assert answer.code == NOT_FOUND


async def test_problem_details_have_a_title_for_people_and_no_secret(house: House) -> None:
    await house.create()
    device = await house.device("a")
    answer = await device.ask(POST, "ace-group/room", (await device.request(proof=bytes(64))).encode(), GROUPCOMM)
    assert int(answer.opt.content_format) == PROBLEM_DETAILS
    assert cbor2.loads(answer.payload) == {0: {0: 3}, -1: "the proof of possession does not verify"}
    (entry, *_) = (await house.perform("audit", limit=5))["entries"]
    assert (entry["event"], entry["device"], entry["grp"]) == ("join refused", "a", "room")


async def test_refusals_are_counted_and_noted_and_that_is_all(house: House) -> None:
    await house.create()
    device = await house.device("a")
    await device.settle()
    before = len((await house.perform("audit", limit=1000))["entries"])
    async with Untouched(house):
        for _ in range(3):
            await join_refused(device, await device.request(proof=bytes(64)))
    noted = (await house.perform("audit", limit=1000))["entries"]
    assert before < len(noted) <= before + 3
    assert noted[0]["event"] == "join refused"
    assert (await house.perform("status"))["counts"]["join_refusals"] == 3
