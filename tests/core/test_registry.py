from __future__ import annotations

import pytest

from groupcoap.core import coap
from groupcoap.core.contexts import SecurityContext
from groupcoap.core.registry import Registry
from groupcoap.core.requests import protect_request
from groupcoap.errors import MisuseError, Reason
from support import (
    ADDRESS,
    GID,
    LISTENER,
    MULTICASTER,
    NEXT_GID,
    OTHER_ADDRESS,
    OTHER_LISTENER,
    Node,
    common_context,
    decrypt,
    deliver,
    install,
    make_node,
    protect,
    receive,
    refused,
    renew,
    request,
    security_context,
    snapshot,
    take_in,
)


def context_of(group: str, gid: bytes = GID, own_id: bytes = LISTENER) -> SecurityContext:
    """A context whose keys are the group's own, also where two groups have one Gid."""
    return security_context(own_id, common_context(gid=gid, master_secret=group.encode() + gid), group=group)


def two_groups_with_one_gid(own_id: bytes) -> Node:
    node = Node(Registry(), [])
    install(node, context_of("lights", own_id=own_id), ADDRESS)
    install(node, context_of("doors", own_id=own_id), OTHER_ADDRESS)
    return node


@pytest.mark.parametrize("own_group", [True, False], ids=["same group", "another group"])
def test_a_second_context_with_the_same_gid_and_address_is_refused_and_leaves_no_trace(own_group: bool) -> None:
    registry = Registry()
    first = context_of("lights")
    registry.install(first, [ADDRESS])
    with pytest.raises(MisuseError):
        registry.install(context_of("lights" if own_group else "doors"), [OTHER_ADDRESS, ADDRESS])
    assert first.current
    assert first.accepts_requests
    assert registry.groups == ("lights",)
    assert registry.at(GID, ADDRESS) is first
    with refused(Reason.UNKNOWN_GROUP):
        registry.at(GID, OTHER_ADDRESS)


def test_a_group_does_not_get_a_gid_twice_even_with_new_keys_at_another_address() -> None:
    registry = Registry()
    registry.install(context_of("lights"), [ADDRESS])
    again = common_context(gid=bytes(bytearray(GID)), master_secret=b"new")
    with pytest.raises(MisuseError, match="already"):
        registry.install(security_context(LISTENER, again), [OTHER_ADDRESS])


@pytest.mark.parametrize("gids", [(GID, NEXT_GID), (NEXT_GID, GID)], ids=["next epoch", "new prefix"])
def test_a_renewal_may_bring_any_gid_that_the_group_has_not_had(gids: tuple[bytes, bytes]) -> None:
    registry = Registry()
    for gid in gids:
        registry.install(context_of("lights", gid), [ADDRESS])
    assert registry.current("lights").gid == gids[1]


@pytest.mark.parametrize("groups", [("lights", "doors"), ("doors", "lights")])
def test_two_groups_may_have_one_gid_if_their_keys_and_addresses_differ(groups: tuple[str, str]) -> None:
    registry = Registry()
    for group, address in zip(groups, (ADDRESS, OTHER_ADDRESS), strict=True):
        registry.install(context_of(group), [address])
    assert tuple(context.group for context in registry.of(GID)) == registry.groups == groups


def test_two_groups_with_one_gid_and_the_same_keys_are_refused_and_leave_no_trace() -> None:
    registry = Registry()
    registry.install(security_context(LISTENER, group="lights"), [ADDRESS])
    with pytest.raises(MisuseError, match="nonces would repeat"):
        registry.install(security_context(LISTENER, group="doors"), [OTHER_ADDRESS])
    assert registry.groups == ("lights",)
    assert len(registry.of(GID)) == 1
    with refused(Reason.UNKNOWN_GROUP):
        registry.at(GID, OTHER_ADDRESS)


def test_gid_and_destination_together_pick_the_context() -> None:
    registry = two_groups_with_one_gid(LISTENER).registry
    assert registry.at(GID, ADDRESS).group == "lights"
    assert registry.at(GID, OTHER_ADDRESS).group == "doors"
    for gid, address in [(GID, b"other"), (NEXT_GID, ADDRESS)]:
        with refused(Reason.UNKNOWN_GROUP):
            registry.at(gid, address)
    with refused(Reason.UNKNOWN_GROUP):
        registry.of(NEXT_GID)


def test_by_unicast_the_gid_alone_picks_all_that_have_it() -> None:
    registry = two_groups_with_one_gid(LISTENER).registry
    assert {c.group for c in registry.of(GID)} == {"lights", "doors"}
    assert registry.knows(GID)
    assert not registry.knows(NEXT_GID)


@pytest.mark.parametrize("group", [0, 1])
def test_a_unicast_request_finds_its_group_among_those_with_its_gid(group: int) -> None:
    sender, listener = two_groups_with_one_gid(MULTICASTER), two_groups_with_one_gid(LISTENER)
    own = Node(sender.registry, [sender.contexts[group]])
    outcome = deliver(listener, protect(own).message, destination=None)
    assert outcome.group == own.context.group


def test_what_one_group_has_seen_is_no_replay_in_the_other_with_its_gid() -> None:
    sender, listener = two_groups_with_one_gid(MULTICASTER), two_groups_with_one_gid(LISTENER)
    lights, doors = (Node(sender.registry, [context]) for context in sender.contexts)
    deliver(listener, protect(lights).message, destination=ADDRESS)
    assert deliver(listener, protect(doors).message, destination=None).group == "doors"


def test_an_id_that_is_ours_in_one_group_may_be_anothers_in_the_other_with_its_gid() -> None:
    listener = Node(Registry(), [])
    install(listener, context_of("lights", own_id=MULTICASTER), ADDRESS)
    install(listener, context_of("doors", own_id=LISTENER), OTHER_ADDRESS)
    sender = Node(Registry(), [context_of("doors", own_id=MULTICASTER)])
    assert deliver(listener, protect(sender).message, destination=None).group == "doors"


def test_a_request_that_fits_none_of_the_groups_with_its_gid_is_rejected_with_the_telling_reason() -> None:
    sender, listener = two_groups_with_one_gid(MULTICASTER), two_groups_with_one_gid(LISTENER)
    stranger = Node(Registry(), [context_of("strangers", own_id=MULTICASTER)])
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, protect(stranger).message, destination=None)
    doors = Node(sender.registry, [sender.contexts[1]])
    seen = protect(doors).message
    deliver(listener, seen, destination=None)
    lights_seen = protect(Node(sender.registry, [sender.contexts[0]])).message
    deliver(listener, lights_seen, destination=None)
    for replayed in (seen, lights_seen):
        with refused(Reason.REPLAY):
            receive(listener, replayed, destination=None)
    with refused(Reason.UNICAST_METHOD):
        receive(listener, protect(doors, request(coap.PUT)).message, destination=None)


@pytest.mark.parametrize("retired", [0, 1])
def test_a_retired_context_takes_no_unicast_request_whoever_else_has_its_gid(retired: int) -> None:
    sender, listener = two_groups_with_one_gid(MULTICASTER), two_groups_with_one_gid(LISTENER)
    messages = [protect(Node(sender.registry, [context])).message for context in sender.contexts]
    old = listener.contexts[retired]
    listener.registry.install(context_of(old.group, NEXT_GID), [(ADDRESS, OTHER_ADDRESS)[retired]])
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, messages[retired], destination=None)
    deliver(listener, messages[1 - retired], destination=None)


@pytest.mark.parametrize("destination", [ADDRESS, None], ids=["multicast", "unicast"])
def test_after_a_renewal_the_old_context_takes_requests_only_for_its_grace(destination: bytes | None) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    late = protect(sender).message
    renew(listener)
    old = listener.contexts[0]
    with refused(Reason.CONTEXT_RETIRED):
        receive(listener, late, destination=destination)
    with refused(Reason.CONTEXT_RETIRED):
        listener.registry.at(GID, ADDRESS)
    old.accepts_requests = True
    assert listener.registry.at(GID, ADDRESS) is old
    assert deliver(listener, late, destination=destination).gid == GID


def test_a_request_under_way_when_its_context_retires_is_not_delivered() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    under_way = decrypt(listener, protect(sender).message).check_signature()
    renew(listener)
    before = snapshot(listener)
    with refused(Reason.CONTEXT_RETIRED):
        take_in(under_way)
    assert snapshot(listener) == before


def test_during_the_grace_a_request_under_way_needs_its_signature_after_all() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    waived = decrypt(listener, protect(sender).message).waive_signature(deferred=False)
    renew(listener)
    listener.contexts[0].accepts_requests = True
    with refused(Reason.CONTEXT_RETIRED):
        take_in(waived)


def test_a_renewal_makes_the_new_context_current_and_newer() -> None:
    listener = make_node(LISTENER)
    renew(listener)
    old, new = listener.contexts
    assert (old.current, old.accepts_requests) == (False, False)
    assert (new.current, new.accepts_requests) == (True, True)
    assert new.generation > old.generation
    assert listener.registry.current("lights") is new
    assert listener.registry.current("lights", NEXT_GID) is new
    assert listener.registry.contexts("lights") == (old, new)
    with refused(Reason.UNKNOWN_GROUP):
        listener.registry.current("lights", GID)


def test_each_renewal_is_one_generation_newer_and_the_last_one_current() -> None:
    registry = Registry()
    contexts = [context_of("lights", GID[:-1] + bytes((epoch,))) for epoch in range(4)]
    for context in contexts:
        registry.install(context, [ADDRESS])
        assert registry.current("lights") is registry.current("lights", context.gid) is context
    assert [context.generation for context in contexts] == [0, 1, 2, 3]
    assert [context.current for context in contexts] == [False, False, False, True]
    assert registry.contexts("lights") == tuple(contexts)


def test_an_unknown_group_has_no_current_context() -> None:
    with refused(Reason.UNKNOWN_GROUP):
        Registry().current("lights")
    assert Registry().contexts("lights") == ()


def test_a_removed_context_is_forgotten_and_its_gid_free_again() -> None:
    listener = make_node(LISTENER)
    renew(listener)
    old, new = listener.contexts
    listener.registry.remove(old)
    assert listener.registry.contexts("lights") == (new,)
    with refused(Reason.UNKNOWN_GROUP):
        listener.registry.at(GID, ADDRESS)
    with refused(Reason.UNKNOWN_GROUP):
        listener.registry.of(GID)
    listener.registry.install(context_of("doors"), [ADDRESS])
    assert listener.registry.at(GID, ADDRESS).group == "doors"


def test_removing_one_of_two_groups_with_one_gid_leaves_the_other() -> None:
    node = two_groups_with_one_gid(LISTENER)
    lights, doors = node.contexts
    node.registry.remove(lights)
    assert node.registry.groups == ("doors",)
    assert node.registry.of(GID) == (doors,)
    assert node.registry.at(GID, OTHER_ADDRESS) is doors
    with refused(Reason.UNKNOWN_GROUP):
        node.registry.current("lights")


def test_one_group_may_be_reached_at_several_addresses() -> None:
    registry = Registry()
    context = context_of("lights", own_id=OTHER_LISTENER)
    registry.install(context, [ADDRESS, OTHER_ADDRESS])
    assert registry.at(GID, ADDRESS) is registry.at(GID, OTHER_ADDRESS) is context


@pytest.mark.parametrize("destination", [ADDRESS, None], ids=["multicast", "unicast"])
def test_a_suspended_context_takes_no_request_and_goes_on_with_its_windows(destination: bytes | None) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    first, second = protect(sender).message, protect(sender).message
    deliver(listener, first)
    before = snapshot(listener)
    listener.context.suspend()
    for message in (first, second):
        with refused(Reason.CONTEXT_EXPIRED):
            receive(listener, message, destination=destination)
    assert snapshot(listener) == before
    listener.context.resume()
    with refused(Reason.REPLAY):
        receive(listener, first, destination=destination)
    assert deliver(listener, second, destination=destination).sequence_number == 1


@pytest.mark.parametrize("destination", [ADDRESS, None], ids=["multicast", "unicast"])
def test_one_in_its_grace_is_suspended_likewise_and_its_grace_may_end_meanwhile(destination: bytes | None) -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    late = protect(sender).message
    renew(listener)
    old = listener.contexts[0]
    old.accepts_requests = True
    old.suspend()
    with refused(Reason.CONTEXT_EXPIRED):
        receive(listener, late, destination=destination)
    old.accepts_requests = False
    old.resume()
    with refused(Reason.CONTEXT_RETIRED):
        receive(listener, late, destination=destination)


def test_of_two_groups_with_one_gid_the_other_one_goes_on() -> None:
    sender, listener = two_groups_with_one_gid(MULTICASTER), two_groups_with_one_gid(LISTENER)
    messages = [
        protect_request(context, context.sender, request()).message for context in sender.contexts if context.sender
    ]
    listener.contexts[0].suspend()
    with refused(Reason.DECRYPTION_FAILED):
        receive(listener, messages[0], destination=None)
    assert deliver(listener, messages[1], destination=None).group == "doors"


def test_what_is_under_way_when_its_context_is_removed_is_refused() -> None:
    sender, listener = make_node(MULTICASTER), make_node(LISTENER)
    under_way = decrypt(listener, protect(sender).message).check_signature()
    listener.registry.remove(listener.context)
    with refused(Reason.CONTEXT_RETIRED):
        take_in(under_way)
