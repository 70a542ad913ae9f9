"""What the Group Manager decides, one command at a time (Appendix C.1, C.2, §3.1; docs/group-manager.md).

`World.command` sees to it that a refusal stores nothing but an audit entry."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cbor2
import pytest
from manager_world import (
    BOTH,
    EVERY_ROLE,
    LISTENER,
    MULTICASTER,
    PURE,
    SEED_PROFILE,
    SENDING_PURE,
    STANDARD_PROFILE,
    Broken,
    MemoryStore,
    Thing,
    World,
    difference,
    picture,
)

from groupcoap.core import coap
from groupcoap.core.policy import GroupPolicy
from groupcoap.cose.algorithms import aead_algorithm
from groupcoap.cose.credentials import Credential, CredentialKind, claims_set
from groupcoap.cose.keys import DEFAULT_SIGNATURE, signature_algorithm
from groupcoap.errors import MisuseError, Refused
from groupcoap.keying import labels
from groupcoap.keying.admin import Scheme
from groupcoap.keying.joining import Filter, Held, JoinRequest
from groupcoap.keying.labels import DEFAULT_CODE_POINTS
from groupcoap.keying.proof import client_proof_input, prove
from groupcoap.keying.refusals import GroupError
from groupcoap.keying.roles import tperm
from groupcoap.manager.decisions import ANSWERS_KEPT, Answer, GroupManager, first_writes
from groupcoap.manager.joins import Candidate
from groupcoap.manager.renewals import LARGEST_DATAGRAM, Means
from groupcoap.manager.state import Group, GroupStatus, Member
from groupcoap.manager.store.store import Store
from groupcoap.member.updates import Install
from groupcoap.membership import Role
from groupcoap.secret import Secret

SCHEMES = tuple(Scheme)
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def world_of(profile: str = SEED_PROFILE, things: str = "abcdef", **settings: Any) -> World:
    """One group, "room", and some devices that may join it as they like."""
    world = World()
    world.create(world.settings("room", profile, **settings))
    for name in things:
        world.enroll(name, "room")
    return world


@pytest.fixture(params=[SEED_PROFILE, STANDARD_PROFILE])
def world(request: pytest.FixtureRequest) -> World:
    return world_of(request.param)


def room(world: World) -> Group:
    return world.manager.groups["room"]


def decide(world: World, what: str, *arguments: object) -> Any:
    """A command by its name."""
    return world.command(methodcaller(what, *arguments))


def refused(world: World, code: int, error: int | None, call: Callable[[GroupManager], object]) -> Refused:
    """This is refused so, and nothing has come of it."""
    with pytest.raises(Refused) as raised:
        world.command(call)
    assert (raised.value.code, raised.value.error) == (code, error), raised.value
    world.check()
    return raised.value


def join_refused(
    world: World, name: str, request: JoinRequest | bytes, code: int, error: int | None = None, group: str = "room"
) -> Refused:
    payload = request if isinstance(request, bytes) else request.encode()
    challenge = world.things[name].challenge
    return refused(world, code, error, lambda m: m.check_join(name, group, payload, challenge))


def candidate(world: World, name: str, request: JoinRequest, group: str = "room") -> Candidate:
    found = world.check_join(name, group, request)
    assert isinstance(found, Candidate)
    return found


def misused(world: World, call: Callable[[GroupManager], object]) -> None:
    with pytest.raises(MisuseError):
        world.command(call)
    world.check()


def rekey(world: World, lost: str = "") -> None:
    world.distribute(world.command(lambda m: m.rekey("room", "op")), frozenset(lost))


# ---- roles (Appendix C.1)


FIVE = [MULTICASTER, LISTENER, PURE, BOTH, SENDING_PURE]


@pytest.mark.parametrize("roles", FIVE, ids=lambda roles: str(tperm(roles)))
def test_each_role_gets_what_it_needs(roles: frozenset[Role]) -> None:
    world = world_of()
    for name, own in zip("abcd", (MULTICASTER, LISTENER, PURE, BOTH), strict=True):
        world.join(name, roles=own)
    world.join("e", roles=roles)
    state = world.things["e"].states["room"]
    peers = {entry.name for entry in state.members}
    wanted = {MULTICASTER: "bd", LISTENER: "ad", PURE: "", BOTH: "abd", SENDING_PURE: "abd"}
    assert peers == set(wanted[roles])
    pure = roles == PURE
    assert (state.endpoint_id is None) == pure
    member = room(world).by_device["e"]
    assert (member.endpoint_id, member.credential) == (
        (None, None) if pure else (state.endpoint_id, world.things["e"].credential)
    )
    assert state.roster == room(world).roster == (3 if pure else 4)
    assert state.admin is not None
    assert state.admin.keys
    world.check()


def test_a_pure_listener_in_standard_mode_may_ask_for_the_multicasters_keys() -> None:
    world = world_of(STANDARD_PROFILE)
    for name, own in zip("abc", (MULTICASTER, LISTENER, BOTH), strict=True):
        world.join(name, roles=own)
    found = candidate(world, "d", world.request("d", "room", PURE, retrieve=True))
    world.admit("room", [found])
    assert {entry.name for entry in world.things["d"].states["room"].members} == {"a", "c"}


def test_in_seed_mode_a_pure_listener_may_not() -> None:
    world = world_of()
    join_refused(world, "a", world.request("a", "room", PURE, retrieve=True), coap.BAD_REQUEST)


def test_multicaster_and_pure_listener_go_together_in_seed_mode_only() -> None:
    world = world_of(STANDARD_PROFILE)
    join_refused(world, "a", world.request("a", "room", SENDING_PURE), coap.BAD_REQUEST)
    world = world_of()
    assert world.join("a", roles=SENDING_PURE).endpoint_id is not None


@pytest.mark.parametrize("roles", [LISTENER | PURE, EVERY_ROLE])
def test_roles_that_exclude_each_other(world: World, roles: frozenset[Role]) -> None:
    join_refused(world, "a", world.request("a", "room", roles), coap.BAD_REQUEST)


def test_without_the_retrieval_flag_there_are_no_keys_of_others(world: World) -> None:
    world.join("a", roles=BOTH)
    world.admit("room", [candidate(world, "b", world.request("b", "room", BOTH, retrieve=False))])
    report = world.answer("room", room(world).by_device["b"])
    assert report is not None
    assert report.members is None
    world.check_join("c", "room", world.request("c", "room", BOTH))
    asked = world.manager.report(room(world), room(world).by_device["b"], with_members=True)
    assert [entry.name for entry in asked.members or ()] == ["a"]


def test_credentials_for_a_member(world: World) -> None:
    for name, own in zip("abcd", (MULTICASTER, LISTENER, PURE, BOTH), strict=True):
        world.join(name, roles=own)

    def of(name: str, wanted: Filter | None) -> set[str]:
        return {entry.name for entry in world.manager.credentials(name, "room", wanted)}

    assert of("a", None) == {"b", "d"}
    assert of("b", None) == {"a", "d"}
    assert of("c", None) == {"a", "d"}
    listener, requester = tperm(LISTENER), tperm(MULTICASTER)
    own_id = room(world).by_device["a"].endpoint_id
    assert own_id is not None
    assert of("b", Filter(True, (listener,))) == {"b", "d"}
    assert of("b", Filter(True, (listener | requester,), frozenset({own_id, b"gone"}))) == {"a", "d"}
    assert of("b", Filter(False, (), frozenset({own_id}))) == {"b", "d"}
    refused(world, coap.FORBIDDEN, GroupError.ONLY_FOR_MEMBERS, lambda m: m.credentials("e", "room", None))


# ---- who may join at all


def test_who_has_no_right_learns_nothing(world: World) -> None:
    world.create(world.settings("secret", number=2))
    for group in ("secret", "nonsense"):
        request = world.request("a", group, LISTENER)
        error = join_refused(world, "a", request, coap.FORBIDDEN, group=group)
        assert error.title == "no right in this group"


def test_not_enrolled_or_withdrawn(world: World) -> None:
    world.join("a")
    request = world.request("b", "room", LISTENER).encode()
    refused(world, coap.UNAUTHORIZED, None, lambda m: m.check_join("nobody", "room", request, b"12345678"))
    world.command(lambda m: m.withdraw("b", "op"))
    join_refused(world, "b", request, coap.UNAUTHORIZED)
    world.command(lambda m: m.withdraw("a", "op"))
    assert not room(world).members
    refused(world, coap.UNAUTHORIZED, None, lambda m: m.member("a", "room"))
    world.command(lambda m: m.grant("a", "room", LISTENER, "op"))
    world.join("a")


def test_roles_are_those_of_the_right(world: World) -> None:
    world.command(lambda m: m.grant("a", "room", LISTENER, "op"))
    for roles in (MULTICASTER, BOTH, PURE):
        join_refused(world, "a", world.request("a", "room", roles), coap.FORBIDDEN)
    world.join("a", roles=LISTENER)


def test_a_right_that_is_taken_while_the_join_waits(world: World) -> None:
    found = candidate(world, "a", world.request("a", "room", LISTENER))
    world.command(lambda m: m.evict("room", "a", "op"))
    admission = world.admit("room", [found])
    assert admission is not None
    (answer,) = admission.answers
    assert isinstance(answer, Refused)
    assert answer.code == coap.FORBIDDEN
    assert admission.renewal is None
    assert not room(world).members


def test_the_scope_must_name_this_group(world: World) -> None:
    world.create(world.settings("hall", number=2))
    world.command(lambda m: m.grant("a", "hall", EVERY_ROLE, "op"))
    join_refused(world, "a", world.request("a", "hall", LISTENER, control_uri=None), coap.BAD_REQUEST)


def test_a_group_that_is_full(world: World) -> None:
    world.command(lambda m: m.change_group("room", {"max_members": 2}, "op"))
    world.join("a")
    found = [candidate(world, name, world.request(name, "room", LISTENER)) for name in "bc"]
    admission = world.admit("room", found)
    assert admission is not None
    first, second = admission.answers
    assert isinstance(first, Answer)
    assert isinstance(second, Refused)
    assert (second.code, second.error) == (coap.SERVICE_UNAVAILABLE, None)
    join_refused(world, "c", world.request("c", "room", LISTENER), coap.SERVICE_UNAVAILABLE)
    world.join("b")  # who is there may join again
    world.check()


def test_a_group_that_is_not_active(world: World) -> None:
    member = world.join("a", roles=BOTH)
    world.command(lambda m: m.set_active("room", False, "op"))
    not_active = coap.SERVICE_UNAVAILABLE, GroupError.GROUP_NOT_ACTIVE
    join_refused(world, "b", world.request("b", "room", LISTENER), *not_active)
    refused(world, *not_active, lambda m: m.renew_id("a", "room", member.node))
    data, nonce = world.things["a"].credential.data, bytes(8)
    refused(
        world,
        *not_active,
        lambda m: m.replace_credential("a", "room", member.node, data, b"x", nonce, bytes(8)),
    )
    misused(world, lambda m: m.rekey("room", "op"))
    assert world.manager.due(world.now + 1e9) == []
    before = room(world).num
    renewal = world.command(lambda m: m.evict("room", "a", "op"))
    assert renewal is not None
    assert room(world).num == before + 1
    world.command(lambda m: m.set_active("room", True, "op"))
    world.join("b")


def test_a_group_that_became_inactive_while_joins_wait(world: World) -> None:
    found = candidate(world, "a", world.request("a", "room", LISTENER))
    world.command(lambda m: m.set_active("room", False, "op"))
    admission = world.admit("room", [found])
    assert admission is not None
    (answer,) = admission.answers
    assert isinstance(answer, Refused)
    assert answer.error == GroupError.GROUP_NOT_ACTIVE


# ---- fields


def fields_of(world: World) -> dict[int, object]:
    content: dict[int, object] = cbor2.loads(world.request("a", "room", BOTH).encode())
    return content


BAD_FIELDS: list[tuple[int, object]] = [
    (labels.SCOPE, 5),
    (labels.SCOPE, b""),
    (labels.SCOPE, cbor2.dumps(["room"])),
    (labels.SCOPE, cbor2.dumps(["room", 0])),
    (labels.SCOPE, cbor2.dumps(["room", 1])),
    (labels.SCOPE, cbor2.dumps(["room", 16])),
    (labels.SCOPE, cbor2.dumps(["room", 64])),
    (labels.SCOPE, cbor2.dumps(["room", "4"])),
    (labels.SCOPE, cbor2.dumps([["room", 4]])),
    (labels.SCOPE, b"\x82\x64room\x18\x04"),
    (labels.GET_CREDS, True),
    (labels.GET_CREDS, [False, [2], []]),
    (labels.GET_CREDS, [True, [], []]),
    (labels.CLIENT_CRED, "text"),
    (labels.CLIENT_CRED, bytes(5000)),
    (labels.CNONCE, b"1234567"),
    (labels.CNONCE, bytes(65)),
    (labels.CNONCE, 8),
    (labels.CLIENT_CRED_VERIFY, 1),
    (labels.CLIENT_CRED_VERIFY, bytes(257)),
    (labels.CONTROL_URI, b"coap://192.0.2.1/ace-group/room/node"),
    (labels.CONTROL_URI, "coap://192.0.2.1/ace-group/room"),
    (labels.CONTROL_URI, "coap://192.0.2.1/ace-group/hall/node"),
    (labels.CONTROL_URI, "coap://example.org/ace-group/room/node"),
    (labels.CONTROL_URI, "http://192.0.2.1/ace-group/room/node"),
    (labels.HELD, 5),
    (labels.HELD, [b"gid"]),
    (labels.HELD, [b"", 1]),
    (labels.HELD, [b"gid", -1]),
]


@pytest.mark.parametrize(("label", "value"), BAD_FIELDS, ids=repr)
def test_a_malformed_field(label: int, value: object) -> None:
    world = world_of()
    join_refused(world, "a", cbor2.dumps({**fields_of(world), label: value}), coap.BAD_REQUEST)


@pytest.mark.parametrize("label", [labels.SCOPE, labels.CNONCE])
def test_a_field_that_must_be_there(world: World, label: int) -> None:
    content = fields_of(world)
    del content[label]
    join_refused(world, "a", cbor2.dumps(content), coap.BAD_REQUEST)


@pytest.mark.parametrize("payload", [b"\x00", b"\xa0", b"\xff", b"\x9f", cbor2.dumps([1]), bytes(9000)])
def test_what_is_no_join_request(world: World, payload: bytes) -> None:
    join_refused(world, "a", payload, coap.BAD_REQUEST)


def test_unknown_fields_are_ignored(world: World) -> None:
    content: dict[Any, object] = {99: [1], -70000: "?", "text": None}
    payload = cbor2.dumps(content | fields_of(world))
    assert isinstance(world.check_join("a", "room", payload), Candidate)


# ---- credentials and proofs (Appendix C.2)


def test_proofs_of_something_else(world: World) -> None:
    thing, other = world.things["a"], world.things["b"]
    good = world.request("a", "room", BOTH)
    assert good.proof is not None

    def signed(thing: Thing, scope: bytes, challenge: bytes, nonce: bytes) -> bytes:
        return prove(thing.key, client_proof_input(scope, challenge, nonce))

    scope = cbor2.dumps(["room", tperm(LISTENER)])
    wrong = {
        "another N_S": signed(thing, good.scope, bytes(8), good.nonce),
        "another scope": signed(thing, scope, thing.challenge, good.nonce),
        "another N_C": signed(thing, good.scope, thing.challenge, bytes(8)),
        "another key": signed(other, good.scope, thing.challenge, good.nonce),
        "a bit": bytes([good.proof[0] ^ 1]) + good.proof[1:],
        "too short": good.proof[:-1],
        "too long": good.proof + b"\x00",
    }
    for proof in wrong.values():
        join_refused(world, "a", replace(good, proof=proof), coap.BAD_REQUEST, GroupError.INVALID_PROOF)
    for none in (None, b""):
        join_refused(world, "a", replace(good, proof=none), coap.BAD_REQUEST, GroupError.INVALID_PROOF)
    candidate(world, "a", good)


def test_another_devices_request_is_no_proof_for_this_one(world: World) -> None:
    """The challenge is each association's own; where two happened to be the same, one of them takes the key."""
    good = world.request("a", "room", BOTH)
    join_refused(world, "b", good, coap.BAD_REQUEST, GroupError.INVALID_PROOF)
    world.things["b"].challenge = world.things["a"].challenge
    found = [candidate(world, "a", good), candidate(world, "b", good)]
    admission = world.admit("room", found)
    assert admission is not None
    first, second = admission.answers
    assert isinstance(first, Answer)
    assert isinstance(second, Refused)
    assert second.error == GroupError.INCOMPATIBLE_CREDENTIAL
    join_refused(world, "b", good, coap.BAD_REQUEST, GroupError.INCOMPATIBLE_CREDENTIAL)


def test_unsuitable_credentials(world: World) -> None:
    good = world.request("a", "room", BOTH)
    other = signature_algorithm(-7).private_key(Secret(bytes(31) + b"\x01"))
    p256 = claims_set(other.public_key, signature_algorithm(-7), "a").data
    for data in (b"\x00", b"\xa0", p256, world.things["a"].key.public_key.data):
        request = replace(good, credential=data)
        join_refused(world, "a", request, coap.BAD_REQUEST, GroupError.INCOMPATIBLE_CREDENTIAL)


def test_a_credential_is_needed_but_for_pure_listeners(world: World) -> None:
    code = coap.BAD_REQUEST
    seed = room(world).settings.seed
    unknown = GroupError.INCOMPATIBLE_CREDENTIAL
    request = world.request("a", "room", BOTH, credential=None, proof=None)
    join_refused(world, "a", request, code, unknown if seed else None)
    for proof in (None, b""):
        join_refused(world, "a", replace(request, credential=b"", proof=proof), code, unknown)
    world.join("a", roles=PURE)
    assert room(world).by_device["a"].credential is None
    join_refused(world, "a", replace(request, credential=b""), code, unknown)


def test_a_pure_listeners_credential_is_not_looked_at(world: World) -> None:
    request = world.request("a", "room", PURE, credential=b"nonsense", proof=b"nonsense")
    world.admit("room", [candidate(world, "a", request)])
    assert room(world).by_device["a"].credential is None
    assert not world.manager.devices["a"].credentials


@pytest.mark.parametrize("other", [False, True])
def test_in_seed_mode_a_known_credential_may_be_left_out(other: bool) -> None:
    """For this group, or another of this manager (Appendix C.2)."""
    world = world_of()
    world.create(world.settings("hall", number=2))
    group = "hall" if other else "room"
    world.command(lambda m: m.grant("a", "hall", EVERY_ROLE, "op"))
    member = world.join("a")
    if not other:
        world.distribute(world.command(lambda m: m.leave("a", "room", member.node)))
    world.admit(group, [candidate(world, "a", world.sparing("a", group, BOTH), group)])
    found = world.manager.groups[group].by_device["a"]
    assert found.credential == world.things["a"].credential
    assert found.endpoint_id is not None
    world.check()


def test_in_standard_mode_it_is_sent_but_not_proved_again() -> None:
    world = world_of(STANDARD_PROFILE)
    member = world.join("a")
    world.distribute(world.command(lambda m: m.leave("a", "room", member.node)))
    join_refused(world, "a", world.request("a", "room", BOTH, credential=None, proof=None), coap.BAD_REQUEST)
    request = world.request("a", "room", BOTH, proof=b"")
    world.admit("room", [candidate(world, "a", request)])
    other = DEFAULT_SIGNATURE.private_key(Secret(bytes(32)))
    data = claims_set(other.public_key, DEFAULT_SIGNATURE, "a").data
    unproved = world.request("a", "room", BOTH, credential=data, proof=b"")
    join_refused(world, "a", unproved, coap.BAD_REQUEST, GroupError.INVALID_PROOF)


def test_a_member_that_joins_again_may_keep_its_credential(world: World) -> None:
    world.join("a")
    for credential in (None, b""):
        request = world.request("a", "room", BOTH, credential=credential, proof=None)
        world.admit("room", [candidate(world, "a", request)])
        assert room(world).by_device["a"].credential == world.things["a"].credential


def test_what_it_keeps_is_that_of_this_group(world: World) -> None:
    """Another credential was proved for another group meanwhile."""
    profile = room(world).settings.parameters.profile.name
    world.create(world.settings("hall", profile, number=2))
    world.command(lambda m: m.grant("a", "hall", EVERY_ROLE, "op"))
    thing = world.things["a"]
    world.join("a")
    first = thing.credential
    thing.key = DEFAULT_SIGNATURE.private_key(Secret(world.random(32)))
    world.join("a", "hall")
    request = world.request("a", "room", BOTH, credential=None, proof=None)
    world.admit("room", [candidate(world, "a", request)])
    assert room(world).by_device["a"].credential == first
    assert world.manager.groups["hall"].by_device["a"].credential == thing.credential


def test_another_members_key_is_refused_under_any_name(world: World) -> None:
    world.join("a")
    thief = world.things["b"]
    thief.key = world.things["a"].key
    assert thief.credential != world.things["a"].credential
    request = world.request("b", "room", BOTH)
    join_refused(world, "b", request, coap.BAD_REQUEST, GroupError.INCOMPATIBLE_CREDENTIAL)


def test_another_credential_for_a_member(world: World) -> None:
    member, thing = world.join("a", roles=BOTH), world.things["a"]
    world.join("b")
    key, nonce = DEFAULT_SIGNATURE.private_key(Secret(world.random(32))), world.random(8)
    credential = claims_set(key.public_key, DEFAULT_SIGNATURE, "a")
    good = prove(key, client_proof_input(member.scope, thing.challenge, nonce))

    def call(data: bytes, proof: bytes, challenge: bytes) -> Callable[[GroupManager], None]:
        return lambda m: m.replace_credential("a", "room", member.node, data, proof, nonce, challenge)

    refused(world, coap.BAD_REQUEST, GroupError.INVALID_PROOF, call(credential.data, good, bytes(8)))
    theirs = world.things["b"].credential.data
    refused(world, coap.BAD_REQUEST, GroupError.INCOMPATIBLE_CREDENTIAL, call(theirs, good, thing.challenge))
    refused(world, coap.BAD_REQUEST, GroupError.INCOMPATIBLE_CREDENTIAL, call(b"\xa0", good, thing.challenge))
    before = room(world).num
    world.command(call(credential.data, good, thing.challenge))
    assert (room(world).by_device["a"].credential, room(world).num) == (credential, before)
    world.check()
    world.join("c")
    assert credential.data in {e.credential for e in world.manager.credentials("c", "room", None)}


def test_a_pure_listener_has_neither_endpoint_id_nor_credential_to_renew(world: World) -> None:
    member = world.join("a", roles=PURE)
    wrong = coap.BAD_REQUEST, GroupError.INCONSISTENT_ROLES
    refused(world, *wrong, lambda m: m.renew_id("a", "room", member.node))
    refused(world, *wrong, lambda m: m.replace_credential("a", "room", member.node, b"x", b"x", bytes(8), bytes(8)))


def test_a_credential_that_is_too_long(world: World) -> None:
    long = Credential(CredentialKind.CCS, cbor2.dumps({2: "x" * 4090}))
    member = world.join("a", roles=BOTH)
    code = coap.BAD_REQUEST, GroupError.INCOMPATIBLE_CREDENTIAL
    args = long.data, b"x", bytes(8), bytes(8)
    refused(world, *code, lambda m: m.replace_credential("a", "room", member.node, *args))


# ---- joining twice


def test_a_retransmitted_join_gets_the_same_answer(world: World) -> None:
    world.join("b")
    member, before = world.join("a"), room(world).num
    again = world.check_join("a", "room", world.things["a"].requests["room"])
    assert isinstance(again, Answer)
    assert (again.member, again.created, room(world).num) == (member, True, before)
    world.start()
    again = world.check_join("a", "room", world.things["a"].requests["room"])
    assert isinstance(again, Answer)
    assert again.member.node == member.node


def test_an_answer_is_forgotten_after_a_while(world: World) -> None:
    world.join("a")
    world.now += ANSWERS_KEPT + 1
    world.command(lambda m: m.purge())
    assert not world.store.tables["answers"]
    assert isinstance(world.check_join("a", "room", world.things["a"].requests["room"]), Candidate)


def test_the_very_same_request_after_leaving_is_a_new_join(world: World) -> None:
    """A device that repeats its nonce does no harm: the answer is stored anew."""
    member = world.join("a")
    world.distribute(world.command(lambda m: m.leave("a", "room", member.node)))
    found = world.check_join("a", "room", world.things["a"].requests["room"])
    assert isinstance(found, Candidate)
    world.admit("room", [found])
    assert room(world).by_device["a"].node != member.node
    world.check()


def test_an_answer_is_not_given_for_another_group_of_the_same_name(world: World) -> None:
    settings = room(world).settings
    world.join("a")
    request = world.things["a"].requests["room"]
    world.command(lambda m: m.set_active("room", False, "op"))
    world.command(lambda m: m.delete_group("room", "op"))
    world.create(settings)
    for name in "ab":
        decide(world, "grant", name, "room", EVERY_ROLE, "op")
    other = world.join("b")
    assert other.node == "n1"
    assert isinstance(world.check_join("a", "room", request), Candidate)


def test_who_joins_again_gets_another_endpoint_id_and_node(world: World) -> None:
    for on_join in (True, False):
        decide(world, "change_group", "room", {"on_join": on_join}, "op")
        first, second = world.join("a"), world.join("a")
        assert first.endpoint_id != second.endpoint_id
        assert first.node != second.node
        assert len(room(world).members) == 1
        world.check()
    refused(world, coap.FORBIDDEN, None, lambda m: m.member("a", "room", first.node))


def test_of_several_joins_of_one_device_the_last_counts(world: World) -> None:
    world.join("b")
    found = [candidate(world, "a", world.request("a", "room", roles)) for roles in (LISTENER, PURE)]
    admission = world.admit("room", found)
    assert admission is not None
    first, second = admission.answers
    assert isinstance(first, Refused)
    assert first.code == coap.SERVICE_UNAVAILABLE
    assert isinstance(second, Answer)
    assert second.member.roles == PURE
    assert len(room(world).members) == 2


# ---- renewals at joins and leaves (§3.1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_batch_of_joins_is_one_renewal(scheme: Scheme) -> None:
    world = world_of(scheme=scheme)
    for name in "ab":
        world.join(name)
    before = room(world)
    num, gid = before.num, before.gid
    found = [candidate(world, name, world.request(name, "room", BOTH)) for name in "cde"]
    admission = world.admit("room", found)
    assert admission is not None
    assert admission.renewal is not None
    assert admission.renewal.num == num + 1
    assert room(world).gid != gid
    assert admission.renewal.unicasts == (scheme is Scheme.POINT_TO_POINT)
    assert {world.things[name].states["room"].num for name in "abcde"} == {num + 1}
    if scheme is not Scheme.POINT_TO_POINT:  # joiners' credentials travel with the renewal
        assert {entry.name for entry in world.things["a"].states["room"].members} == set("bcde")
    world.check()


def test_the_first_members_need_no_renewal(world: World) -> None:
    world.join("a")
    assert room(world).num == 0
    world.join("b")
    assert room(world).num == 1


def test_pure_listeners_before_everybody_else(world: World) -> None:
    """They have no Endpoint ID, but keys: who joins after them is not the first."""
    world.join("a", roles=PURE)
    world.join("a", roles=PURE)
    world.check()
    world.join("b", roles=BOTH)
    world.check()
    rekey(world)
    world.check()
    assert world.things["a"].states["room"].num == room(world).num


def test_they_may_leave_quietly_too(world: World) -> None:
    world.command(lambda m: m.change_group("room", {"on_join": False, "on_leave": False}, "op"))
    member = world.join("a", roles=PURE)
    world.command(lambda m: m.leave("a", "room", member.node))
    world.check()
    world.join("b", roles=BOTH)
    world.check()
    rekey(world)
    world.check()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_renewals_members_come_and_go_under_one_gid(scheme: Scheme) -> None:
    world = world_of(scheme=scheme, on_join=False, on_leave=False)
    for name in "abcd":
        world.join(name, roles=BOTH)
    gid = room(world).gid
    ids = {member.endpoint_id for member in room(world).members.values()}
    member = room(world).by_device["b"]
    assert world.command(lambda m: m.leave("b", "room", member.node)) is None
    assert world.join("e").endpoint_id not in ids
    assert room(world).gid == gid
    world.check()
    rekey(world)
    world.check()
    assert all(world.things[name].states["room"].gid == room(world).gid for name in "acde")
    world.check()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_eviction_renews_and_takes_the_right(scheme: Scheme) -> None:
    world = world_of(scheme=scheme, on_leave=False)
    for name in "abcd":
        world.join(name, roles=BOTH)
    before = room(world).num
    gone = room(world).by_device["b"].endpoint_id
    renewal = world.command(lambda m: m.evict("room", "b", "op", "stolen"))
    assert renewal is not None
    assert room(world).num == before + 1
    world.distribute(renewal)
    world.check()
    for name in "acd":
        state = world.things[name].states["room"]
        assert state.num == before + 1
        assert state.departed == {gone}
        assert "b" not in {entry.name for entry in state.members}
    join_refused(world, "b", world.request("b", "room", BOTH), coap.FORBIDDEN)
    misused(world, lambda m: m.evict("room", "b", "op"))
    world.command(lambda m: m.grant("b", "room", BOTH, "op"))
    world.join("b")
    world.check()


def test_who_is_withdrawn_is_out_of_every_group() -> None:
    world = world_of()
    world.create(world.settings("hall", STANDARD_PROFILE, number=2))
    for name in "ab":
        decide(world, "grant", name, "hall", EVERY_ROLE, "op")
        world.join(name)
        world.join(name, "hall")
    renewals = world.command(lambda m: m.withdraw("a", "op"))
    assert renewals is not None
    assert {renewal.group for renewal in renewals} == {"room", "hall"}
    for renewal in renewals:
        world.distribute(renewal)
    world.check()
    assert not world.store.tables["rights"].keys() & {("a", "room"), ("a", "hall")}


def test_the_last_member_leaves_and_somebody_comes(world: World) -> None:
    first = world.join("a")
    secret = room(world).master_secret.reveal()
    renewal = world.command(lambda m: m.leave("a", "room", first.node))
    assert renewal is not None
    assert renewal.finished is not None
    assert room(world).master_secret.reveal() != secret
    world.join("b")
    world.check()


def test_who_misses_a_renewal_catches_up(world: World) -> None:
    for name in "abcd":
        world.join(name, roles=BOTH)
    gone = room(world).by_device["b"]
    world.distribute(world.command(lambda m: m.leave("b", "room", gone.node)), frozenset("a"))
    rekey(world)
    state = world.things["a"].states["room"]
    assert state.num == room(world).num - 2
    decision = world.catch_up("a", "room")
    assert isinstance(decision, Install)
    assert decision.state.departed == {gone.endpoint_id}
    world.check()


def test_a_renewal_is_over_when_everybody_has_confirmed(world: World) -> None:
    for name in "abc":
        world.join(name)
    renewal = world.command(lambda m: m.rekey("room", "op"))
    assert renewal is not None
    world.distribute(renewal, frozenset("a"))
    assert [member.device for member in world.manager.behind(room(world))] == ["a"]
    assert [found.num for found in world.manager.unfinished()] == [room(world).num]
    world.start()
    assert [found.num for found in world.manager.unfinished()] == [room(world).num]
    world.catch_up("a", "room")
    assert world.confirm("a", "room")
    assert not world.manager.behind(room(world))
    assert not world.manager.unfinished()
    found = room(world).renewal
    assert found is not None
    assert found.multicasts == ()
    world.check()


def test_a_confirmation_of_something_else_counts_for_nothing(world: World) -> None:
    member = world.join("a")
    world.join("b")
    group = room(world)
    for num, gid in ((group.num - 1, group.gid), (group.num, bytes(len(group.gid))), (group.num + 1, group.gid)):
        found = decide(world, "confirm", "a", "room", member.node, num, gid)
        assert found is False
    refused(world, coap.FORBIDDEN, None, lambda m: m.confirm("b", "room", member.node, group.num, group.gid))


def test_a_late_confirmation_of_an_earlier_renewal_does_not_finish_the_newest(world: World) -> None:
    """A member's answer to a rekey message may come when the next renewal is decided already."""
    for name in "ab":
        world.join(name)
    group, first = room(world), world.command(lambda m: m.rekey("room", "op"))
    assert first is not None
    second = world.command(lambda m: m.rekey("room", "op"))
    assert second is not None
    for member in group.members.values():
        world.command(methodcaller("confirmed", group, member, first.num))
        world.check()
    assert len(world.manager.behind(group)) == 2
    assert second.finished is None


def test_where_a_member_is_reached_may_change_with_a_confirmation(world: World) -> None:
    member, group = world.join("a"), room(world)
    control = "coap://192.0.2.7:1234/ace-group/room/node"
    world.command(lambda m: m.confirm("a", "room", member.node, group.num, group.gid, control))
    world.start()
    assert room(world).by_device["a"].control == control


# ---- Endpoint IDs


def test_another_endpoint_id(world: World) -> None:
    member = world.join("a", roles=BOTH)
    world.join("b", roles=BOTH)
    group, before = room(world), member.endpoint_id
    num, gid = group.num, group.gid
    world.command(lambda m: m.renew_id("a", "room", member.node))
    assert member.endpoint_id not in (before, None)
    assert (group.num, group.gid) == (num, gid)
    assert group.stale[num] == {before}
    world.check()
    for _ in range(5):
        world.command(lambda m: m.renew_id("a", "room", member.node))
        world.check()
    refused(world, coap.FORBIDDEN, None, lambda m: m.renew_id("b", "room", member.node))


def test_endpoint_ids_of_those_who_left_come_back_when_nobody_can_ask_for_them_any_more(world: World) -> None:
    member = world.join("a", roles=BOTH)
    world.join("b", roles=BOTH)
    gone = member.endpoint_id
    world.distribute(world.command(lambda m: m.leave("a", "room", member.node)))
    seen = []
    for _ in range(6):
        joined = world.join("c", roles=BOTH)
        seen.append(joined.endpoint_id)
        world.distribute(decide(world, "leave", "c", "room", joined.node))
        world.check()
    assert gone not in seen[:1]
    assert gone in seen


@pytest.mark.parametrize("on_join", [True, False])
def test_endpoint_ids_that_are_used_up(on_join: bool) -> None:
    """With a nonce of 7 bytes there are 256 of them. Who finds none is refused, and nothing has happened."""
    world = world_of(things="abc", on_join=on_join, on_leave=False)
    parameters = replace(room(world).settings.parameters, aead=aead_algorithm(12))
    world.command(lambda m: m.change_group("room", {"parameters": parameters}, "op"))
    first = world.join("a", roles=BOTH)
    assert room(world).settings.max_id_length == 1
    world.command(lambda m: m.change_group("room", {"on_join": False}, "op"))
    world.join("b", roles=BOTH)
    left = room(world).ids_left(False)
    for _ in range(left):
        world.command(lambda m: m.renew_id("a", "room", first.node))
    world.command(lambda m: m.change_group("room", {"on_join": on_join}, "op"))
    none = coap.SERVICE_UNAVAILABLE, GroupError.NO_ENDPOINT_ID
    refused(world, *none, lambda m: m.renew_id("a", "room", first.node))
    before = picture(world.manager)
    found = [candidate(world, "c", world.request("c", "room", BOTH))]
    admission = world.admit("room", found)
    assert admission is not None
    (answer,) = admission.answers
    assert isinstance(answer, Refused)
    assert (answer.code, answer.error) == none
    assert picture(world.manager) == before
    for _ in range(room(world).settings.stale_sets):
        rekey(world)
    world.join("c", roles=BOTH)
    world.check()


def test_algorithms_for_which_present_endpoint_ids_are_too_long() -> None:
    world = world_of()
    member = world.join("a", roles=BOTH)
    for _ in range(256):
        world.command(lambda m: m.renew_id("a", "room", member.node))
    assert len(member.endpoint_id or b"") == 2
    parameters = replace(room(world).settings.parameters, aead=aead_algorithm(12))
    misused(world, lambda m: m.change_group("room", {"parameters": parameters}, "op"))


# ---- stale Endpoint IDs (KGO §9.7)


def several_leave(world: World) -> dict[int, set[bytes]]:
    """Five renewals, with one or two leavers each. {num: stale set}, by hand."""
    sets: dict[int, set[bytes]] = {}
    world.join("f", roles=BOTH)
    world.join("e", roles=BOTH)
    for name in "abcd":
        member, num = world.join(name, roles=BOTH), room(world).num
        if name in "bd":
            assert member.endpoint_id is not None
            sets.setdefault(num, set()).add(member.endpoint_id)
            decide(world, "renew_id", name, "room", member.node)
        assert member.endpoint_id is not None
        sets.setdefault(num, set()).add(member.endpoint_id)
        world.distribute(decide(world, "leave", name, "room", member.node))
    return sets


@pytest.mark.parametrize("kept", [2, 3, 4, 7])
def test_stale_endpoint_ids_as_key_groupcomm_oscore_counts_them(kept: int) -> None:
    """SKEW = V' - V + 1 newest sets, the current one included; nothing if there are not so many."""
    world = world_of(stale_sets=kept)
    sets = several_leave(world)
    group = room(world)
    member = group.by_device["e"]
    before = member.endpoint_id
    assert before is not None
    world.command(lambda m: m.renew_id("e", "room", member.node))
    now = group.num
    sets.setdefault(now, set()).add(before)
    stored = min(kept, now + 1)
    for version in range(now):
        skew = now - version + 1
        expected = None
        if skew <= stored:
            expected = set().union(*(sets.get(num, set()) for num in range(now - skew + 1, now + 1)))
        assert world.manager.stale_ids("e", "room", version) == expected, version
    for version in (now, now + 1, -1):
        refused(world, coap.BAD_REQUEST, None, methodcaller("stale_ids", "e", "room", version))
    refused(world, coap.FORBIDDEN, GroupError.ONLY_FOR_MEMBERS, lambda m: m.stale_ids("a", "room", 0))


def test_fewer_sets_keep_the_newest_and_more_bring_none_missing() -> None:
    """The number of sets changes: what is said is complete, or nothing."""
    world = world_of(stale_sets=2)
    sets = several_leave(world)
    now = room(world).num
    for kept in (5, 2, 9, 3, 7):
        decide(world, "change_group", "room", {"stale_sets": kept}, "op")
        world.check()
        for version in range(now):
            found = world.manager.stale_ids("e", "room", version)
            expected = set().union(*(sets.get(num, set()) for num in range(version, now + 1)))
            assert found in (None, expected)
            assert (found is None) == (now - version + 1 > kept)


def test_the_set_in_a_rekey_message_is_that_of_the_version_before(world: World) -> None:
    for name in "abc":
        world.join(name, roles=BOTH)
    member = room(world).by_device["a"]
    before = member.endpoint_id
    world.command(lambda m: m.renew_id("a", "room", member.node))
    rekey(world, lost="a")
    for name in "bc":
        assert world.things[name].states["room"].departed == {before}
    assert world.things["a"].states["room"].num == room(world).num - 1
    message = world.manager.message_for(room(world), member)
    assert message.stale == {before}
    rekey(world)
    assert world.manager.message_for(room(world), member).stale == frozenset()


# ---- Gids (Appendix B)


def test_the_prefix_changes_before_the_epoch_wraps(world: World) -> None:
    world.create(world.settings("hall", epoch_size=1, number=2), epoch=252)
    group = world.manager.groups["hall"]
    first = group.prefix
    for expected in (253, 254, 0, 1):
        world.command(lambda m: m.rekey("hall", "op"))
        assert group.gid == group.prefix + bytes([expected])
        assert (group.prefix == first) == (expected > 1)
        world.check()


def test_a_prefix_is_never_taken_twice() -> None:
    """Also not that of a group which was deleted, and whatever the source of randomness says."""
    world = world_of(epoch_size=1)
    settings = room(world).settings
    first = room(world).prefix
    world.command(lambda m: m.set_active("room", False, "op"))
    world.command(lambda m: m.delete_group("room", "op"))
    good, offered = world.random, [first, first]
    world.manager = GroupManager(
        world.store.load(),
        world.clock,
        lambda length: offered.pop() if length == 8 and offered else good(length),
    )
    world.create(settings)
    assert not offered
    assert room(world).prefix != first


# ---- settings


@pytest.mark.parametrize(
    "changes",
    [
        {"scheme": Scheme.POINT_TO_POINT},
        {"scheme": Scheme.GKMP},
        {"arity": 4},
        {"lifetime": 4000.0},
        {"policy": GroupPolicy(grace=1.5)},
        {"prefix_size": 12},
        {"epoch_size": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_members_ask_for_all_when_parameters_have_changed(world: World, changes: dict[str, Any]) -> None:
    for name in "abc":
        world.join(name, roles=BOTH)
    before, tag = room(world).num, room(world).tag
    renewal = world.command(lambda m: m.change_group("room", changes, "op"))
    assert renewal is not None
    assert (renewal.reload, renewal.unicasts, renewal.multicasts) == (True, True, ())
    assert (room(world).num, room(world).tag == tag) == (before + 1, False)
    made = world.distribute(renewal)
    assert [one for decisions in made.values() for one in decisions if isinstance(one, Install)] == []
    for name in "abc":
        assert isinstance(world.catch_up(name, "room"), Install)
        world.confirm(name, "room")
    world.check()
    rekey(world)
    assert {world.things[name].states["room"].num for name in "abc"} == {before + 2}
    world.check()


def test_what_members_need_not_know_renews_nothing(world: World) -> None:
    world.join("a")
    before = room(world).num
    for changes in ({"max_members": 5}, {"window": 1.0}, {"on_join": False}, {"period": 60.0}, {"stale_sets": 9}):
        assert decide(world, "change_group", "room", changes, "op") is None
        world.check()
    assert room(world).num == before
    assert world.manager.due(world.now + 61) == ["room"]


def test_changes_that_cannot_be(world: World) -> None:
    for name in "ab":
        world.join(name)
    other = replace(room(world).settings.parameters, signature=signature_algorithm(-7))
    for changes in (
        {"name": "hall"},
        {"nonsense": 1},
        {"arity": 1},
        {"max_members": 1},
        {"credential_kind": CredentialKind.X509},
        {"credential_kind": CredentialKind.RAW_KEY},
        {"parameters": other},
        {"stale_sets": 1},
        {"epoch_size": 0},
    ):
        misused(world, methodcaller("change_group", "room", changes, "op"))


def test_groups_and_devices_that_are_not_there_or_there_already(world: World) -> None:
    settings = room(world).settings
    misused(world, lambda m: m.create_group(settings, "op"))
    misused(world, lambda m: m.delete_group("room", "op"))
    misused(world, lambda m: m.enroll("a", {}, "op"))
    misused(world, lambda m: m.enroll("new", {"nowhere": LISTENER}, "op"))
    misused(world, lambda m: m.enroll("new", {"room": frozenset()}, "op"))
    misused(world, lambda m: m.enroll("no/name", {}, "op"))
    misused(world, lambda m: m.grant("nobody", "room", LISTENER, "op"))
    misused(world, lambda m: m.evict("nowhere", "a", "op"))
    misused(world, lambda m: m.withdraw("nobody", "op"))
    misused(world, lambda m: m.rekey("nowhere", "op"))


def test_a_group_that_was_deleted(world: World) -> None:
    world.join("a")
    world.command(lambda m: m.set_active("room", False, "op"))
    former = world.command(lambda m: m.delete_group("room", "op"))
    assert [member.device for member in former or ()] == ["a"]
    for name in ("a", "b"):
        join_refused(world, name, world.request(name, "room", LISTENER), coap.FORBIDDEN)
    used = {"members", "stale", "ghosts", "keys", "renewals", "rights", "groups", "answers"}
    assert not any(world.store.tables[table] for table in used)
    assert world.store.tables["prefixes"]


# ---- the past comes back


def alarm(world: World, by: str = "join") -> None:
    """The database is one from before the last renewal, and a member says so."""
    for name in "ab":
        world.join(name, roles=BOTH)
    old = world.store.copy()
    rekey(world)
    world.store = old
    world.start()
    state = world.things["a"].states["room"]
    if by == "join":
        request = world.request("a", "room", BOTH)
        assert request.held == Held(state.gid, state.num)
        join_refused(world, "a", request, coap.SERVICE_UNAVAILABLE, GroupError.GROUP_NOT_ACTIVE)
    else:
        refused(
            world,
            coap.SERVICE_UNAVAILABLE,
            GroupError.GROUP_NOT_ACTIVE,
            lambda m: m.confirm("a", "room", state.node, state.num, state.gid),
        )


@pytest.mark.parametrize("by", ["join", "confirm"])
def test_a_member_that_knows_better_stops_the_group(world: World, by: str) -> None:
    alarm(world, by)
    group = room(world)
    assert group.status is GroupStatus.STOPPED
    assert group.alarm is not None
    assert "older than it was" in group.alarm
    before = group.num, group.gid
    misused(world, lambda m: m.rekey("room", "op"))
    misused(world, lambda m: m.change_group("room", {"arity": 3}, "op"))
    assert world.command(lambda m: m.evict("room", "b", "op")) is None
    member = group.by_device["a"]
    assert world.command(lambda m: m.leave("a", "room", member.node)) is None
    join_refused(
        world, "c", world.request("c", "room", LISTENER), coap.SERVICE_UNAVAILABLE, GroupError.GROUP_NOT_ACTIVE
    )
    assert (group.num, group.gid) == before
    world.start()
    assert room(world).status is GroupStatus.STOPPED


def test_a_stopped_group_begins_anew_when_it_goes_on(world: World) -> None:
    """What it would have given out next was given out already: Gids, Endpoint IDs, numbers."""
    alarm(world)
    prefix, tag = room(world).prefix, room(world).tag
    world.begin_lives()
    former = world.command(lambda m: m.set_active("room", True, "op"))
    assert {member.device for member in former or ()} == {"a", "b"}
    group = room(world)
    assert (group.status, group.alarm, group.members) == (GroupStatus.ACTIVE, None, {})
    assert group.prefix != prefix
    assert group.tag != tag
    world.check()
    for name in "ab":
        world.catch_up(name, "room")
        assert "room" not in world.things[name].states
        world.join(name, roles=BOTH)
    rekey(world)
    world.check()


def test_an_alarm_is_told_once(world: World) -> None:
    alarm(world)
    state = world.things["a"].states["room"]
    before = len(world.store.tables["audit"])
    call = methodcaller("confirm", "a", "room", state.node, state.num, state.gid)
    refused(world, coap.SERVICE_UNAVAILABLE, GroupError.GROUP_NOT_ACTIVE, call)
    assert len(world.store.tables["audit"]) == before


def test_what_is_held_of_another_time_or_group_is_no_alarm(world: World) -> None:
    world.join("a")
    world.join("b")
    group = room(world)
    for gid in (group.gid, group.gid[:-1] + b"\x00", bytes(12), b"\xff" * 12, group.gid + b"\x00", group.prefix):
        candidate(world, "c", world.request("c", "room", LISTENER, held=Held(gid, 9999)))
    assert room(world).active


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_restored_manager_is_another_incarnation(scheme: Scheme) -> None:
    world = world_of(scheme=scheme, on_leave=False, on_join=False)
    for name in "abcd":
        world.join(name, roles=BOTH)
    member = room(world).by_device["b"]
    world.command(lambda m: m.leave("b", "room", member.node))
    backup, incarnation = world.store.copy(), world.manager.incarnation
    rekey(world)
    prefix, num = room(world).prefix, room(world).num
    world.restore(backup)
    world.check()
    group = room(world)
    assert world.manager.incarnation != incarnation
    assert (group.members, group.unplaced, group.ghosts, group.stale) == ({}, set(), set(), {})
    assert group.prefix != prefix
    assert group.num >= num
    assert "a" in world.manager.devices
    assert "room" in world.manager.devices["a"].rights
    assert not world.store.tables["answers"]
    world.catch_up("a", "room")
    assert "room" not in world.things["a"].states
    for name in "abc":
        world.join(name, roles=BOTH)
        world.check()
    rekey(world)
    world.check()


# ---- messages


@pytest.mark.parametrize("scheme", [Scheme.GKMP, Scheme.LKH])
def test_credentials_of_joiners_are_left_out_of_what_would_be_too_long(scheme: Scheme) -> None:
    names = [f"d{number}" for number in range(16)]
    world = world_of(things="ab", scheme=scheme)
    for name in names:
        world.enroll(name, "room")
    for name in "ab":
        world.join(name, roles=BOTH)
    found = [candidate(world, name, world.request(name, "room", BOTH)) for name in names]
    world.admit("room", found)
    assert all(len(data) <= LARGEST_DATAGRAM for _, data in world.air)
    assert "d0" not in {entry.name for entry in world.things["a"].states["room"].members}
    assert world.things["a"].states["room"].num == room(world).num
    world.check()


def test_names_by_gid(world: World) -> None:
    world.create(world.settings("hall", number=2))
    world.join("a")
    gids = [room(world).gid, world.manager.groups["hall"].gid, b"nonsense"]
    assert world.manager.names("a", gids) == [(gids[0], "room")]
    assert world.manager.names("nobody", gids) == []
    world.command(lambda m: m.grant("a", "hall", LISTENER, "op"))
    assert [name for _, name in world.manager.names("a", gids)] == ["room", "hall"]
    rekey(world)
    assert world.manager.names("a", gids) == [(gids[1], "hall")]


# ---- the helper itself, and the real database


def test_everything_is_the_same_in_the_real_database() -> None:
    """What the histories' database in memory does with the writes, SQLite does too."""
    with TemporaryDirectory(dir=IN_MEMORY) as directory:
        store = Store.create(f"sqlite:///{Path(directory)}/manager.db", None)
        world = World()
        store.commit(first_writes("gm", world.random, world.now))
        snapshot = store.load()
        world.store = MemoryStore(
            {name: dict(enumerate(snapshot.rows(name))) for name in world.store.tables if not snapshot.rows(name)}
            | {
                "manager": {row["id"]: row for row in snapshot.rows("manager")},
                "manager_keys": {row["signature"]: row for row in snapshot.rows("manager_keys")},
            }
        )
        world.start()
        memory, commit = world.store, world.store.commit

        def both(writes: Any) -> None:
            commit(writes)
            store.commit(writes)

        memory.commit = both  # type: ignore[method-assign]
        world.create(world.settings(on_leave=False))
        for name in "abcde":
            world.enroll(name, "room")
        for name in "abcd":
            world.join(name, roles=BOTH)
        gone = room(world).by_device["c"]
        world.command(lambda m: m.leave("c", "room", gone.node))
        rekey(world, lost="a")
        world.join("e", roles=PURE)
        world.command(lambda m: m.change_group("room", {"scheme": Scheme.GKMP}, "op"))
        world.distribute(world.command(lambda m: m.evict("room", "b", "op")))
        loaded = GroupManager(store.load(), world.clock, world.random)
        assert picture(loaded) == picture(world.manager), difference(picture(loaded), picture(world.manager))
        loaded_rows = store.load()
        for table in memory.tables.keys() - {"audit"}:  # of which the manager reads the end only
            assert loaded_rows.rows(table) == memory.load().rows(table), table
        store.close()


def test_the_attackers_closure_sees_a_leak() -> None:
    """If a leaver's key protected the next renewal, this would be found."""
    world = world_of(scheme=Scheme.GKMP, on_leave=False)
    for name in "abc":
        world.join(name, roles=BOTH)
    member: Member = room(world).by_device["b"]
    world.command(lambda m: m.leave("b", "room", member.node))
    world.check()
    group = room(world)
    group.ghosts.clear()  # the manager forgets that somebody has left who still holds the key
    group.keyring.apply(group.keyring.plan((), (), world.random))
    for record in group.keyring.records():
        key = record.admin(group.tag)
        world.kids[key.kid] = key.key.reveal()
        world.things["b"].keys[key.kid] = key.key.reveal()
    world.distribute(world.manager.rekey("room", "op"))
    with pytest.raises(Broken, match="can derive"):
        world._check_outsiders(group)


def test_only_members_are_believed_what_they_hold_as_long_as_there_are_any(world: World) -> None:
    """The prefix can be read on the air: who may join could stop the group with it otherwise."""
    world.join("a")
    group = room(world)
    later = Held(group.gid[:-1] + b"\x07", 7)
    candidate(world, "c", world.request("c", "room", LISTENER, held=later))
    assert room(world).active
    join_refused(
        world,
        "a",
        world.request("a", "room", LISTENER, held=later),
        coap.SERVICE_UNAVAILABLE,
        GroupError.GROUP_NOT_ACTIVE,
    )
    assert room(world).status is GroupStatus.STOPPED


def test_whoever_holds_something_is_believed_where_nobody_is_known(world: World) -> None:
    group = room(world)
    held = Held(group.prefix + b"\x07" * (len(group.gid) - len(group.prefix)), 7)
    payload = world.request("c", "room", LISTENER, held=held)
    join_refused(world, "c", payload, coap.SERVICE_UNAVAILABLE, GroupError.GROUP_NOT_ACTIVE)
    assert room(world).status is GroupStatus.STOPPED


def test_no_two_groups_have_one_tag() -> None:
    drawn = [b"\x01" * 4, b"\x01" * 4, b"\x02" * 4]
    means = Means({}, set(), {b"\x00" * 4}, lambda size: drawn.pop(0), DEFAULT_CODE_POINTS)
    assert [means.new_tag(), means.new_tag()] == [b"\x01" * 4, b"\x02" * 4]
