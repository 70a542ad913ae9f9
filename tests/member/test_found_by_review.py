"""What somebody on the path between a device and its manager can do, as far as a reviewer found it."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import cbor2
import pytest

from groupcoap.association.node import CoapNode
from groupcoap.core import coap
from groupcoap.endpoint.network import SocketAddress
from groupcoap.errors import NetworkFault
from groupcoap.member import group as member_group
from groupcoap.member.membership import ManagedMembership

from .houses import House, until
from .managers import NAME

Change = Callable[[bytes, SocketAddress], bytes | None]


def on_the_path(node: CoapNode, change: Change) -> Callable[[], None]:
    """What this node sends goes through `change`; None: it does not arrive. Returns what ends that."""
    network, send = node.network, node.network.send

    def sending(datagram: bytes, destination: SocketAddress) -> None:
        changed = change(datagram, destination)
        if changed is not None:
            send(changed, destination)

    def end() -> None:
        network.send = send  # type: ignore[method-assign]

    network.send = sending  # type: ignore[method-assign]
    return end


def is_set_up(message: coap.Message) -> bool:
    return (coap.URI_PATH, b"associate") in message.options


def answering(node: CoapNode, answer: Callable[[coap.Message], coap.Message | None]) -> Callable[[], None]:
    """Requests of this node for which there is an answer do not arrive, but are answered so."""

    def change(datagram: bytes, destination: SocketAddress) -> bytes | None:
        message = coap.decode(datagram)
        forged = answer(message) if coap.is_request(message.code) else None
        if forged is None:
            return datagram
        asyncio.get_running_loop().call_soon(node._receive, coap.encode(forged), destination, None)
        return None

    return on_the_path(node, change)


def unprotected(request: coap.Message, code: int, *options: tuple[int, bytes]) -> coap.Message:
    return coap.Message(coap.ACK, code, request.message_id, request.token, options, b"")


async def test_nobody_can_ask_a_device_to_wait_for_years(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        device = await house.enroll("lamp")
        async with device.membership() as membership:
            max_age = (coap.MAX_AGE, b"\xff\xff\xff\xff")

            def busy(message: coap.Message) -> coap.Message | None:
                return unprotected(message, coap.SERVICE_UNAVAILABLE, max_age) if is_set_up(message) else None

            end = answering(membership._node, busy)
            group = membership._groups[NAME]
            await until(lambda: group.problem is not None)
            end()
            assert group._check_at - group._now() <= 1.2 * member_group.LONGEST_WISH


async def test_an_association_that_the_manager_forgot_at_once_is_set_up_anew(tmp_path: Path) -> None:
    """Before its first request: a half-open one has to go after a while, or where there are too many."""
    async with House(tmp_path) as house:
        await house.make()
        device = await house.enroll("lamp")
        async with device.membership() as membership:
            lost = [True]

            def losing(datagram: bytes, _: SocketAddress) -> bytes | None:
                return datagram if is_set_up(coap.decode(datagram)) or not lost else None

            on_the_path(membership._node, losing)
            await until(lambda: house.running.associations.half_open == 1)
            house.running.associations.drop("lamp")
            lost.clear()
            await membership.ready(20)


async def test_a_changed_challenge_does_not_keep_a_device_out(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        device = await house.enroll("lamp")
        changed: list[bytes] = []

        def change(datagram: bytes, _: SocketAddress) -> bytes:
            message = coap.decode(datagram)
            content = cbor2.loads(message.payload) if message.code == coap.CREATED else None
            if not isinstance(content, dict) or 46 not in content:
                return datagram
            changed.append(content[46])
            return coap.encode(message._replace(payload=cbor2.dumps({**content, 46: b"another."})))

        on_the_path(house.running.node, change)
        async with device.membership() as membership:
            await membership.ready(10)
        assert changed


async def test_a_forged_refusal_does_not_look_like_having_left(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        device = await house.enroll("lamp")
        async with device.membership() as membership:
            await membership.ready(10)

            def refuse(message: coap.Message) -> coap.Message:
                return unprotected(message, coap.FORBIDDEN if is_set_up(message) else coap.UNAUTHORIZED)

            end = answering(membership._node, refuse)
            with pytest.raises(NetworkFault):
                await membership.leave(NAME)
            end()
            assert device.kept.exists()
            await membership.leave(NAME)
            assert "lamp" not in house.group().by_device
            assert not device.kept.exists()


async def test_who_is_no_member_any_more_can_leave(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        device = await house.enroll("lamp")
        async with device.membership() as membership:
            await membership.ready(10)
            await house.evict("lamp", told=False)
            await membership.leave(NAME)
            assert not device.kept.exists()


async def test_a_dismissal_that_was_held_back_does_not_end_the_next_membership(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.make()
        device = await house.enroll("lamp")
        async with device.membership() as membership:
            await membership.ready(10)
            await until(lambda: house.member("lamp").control is not None)
            where = membership._node.local_address(4)[1]
            held: list[tuple[bytes, SocketAddress]] = []

            def hold(datagram: bytes, destination: SocketAddress) -> bytes | None:
                if destination[1] != where or not coap.is_request(coap.decode(datagram).code):
                    return datagram
                held.append((datagram, destination))
                return None

            end = on_the_path(house.running.node, hold)
            await house.evict("lamp")
            await until(lambda: bool(held))
            house.running.manager.grant("lamp", NAME, membership._groups[NAME].state.roles, "test")  # type: ignore[union-attr]
            await house.running.persist()
            membership._groups[NAME]._check_soon(0.0)
            await until(lambda: "lamp" in house.group().by_device and _is_current(house, membership))
            end()
            for datagram, destination in held:
                house.running.node.network.send(datagram, destination)
            await asyncio.sleep(0.3)
            assert membership.groups()[0].current.gid == house.group().gid
            await house.evict("lamp")  # a new one counts
            await until(lambda: not membership.groups())


def _is_current(house: House, membership: ManagedMembership) -> bool:
    state = membership._groups[NAME].state
    return state is not None and state.node == house.member("lamp").node
