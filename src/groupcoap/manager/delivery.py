"""Bringing renewals to members: multicast and unicast, again and again, until everybody has confirmed or the next
one comes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Protocol

import aiocoap

from ..core import coap
from ..core.coap import Message
from ..errors import GroupcoapError, NetworkFault, StoreFault
from ..keying.joining import control_address, control_group_uri
from ..keying.labels import COSE_ENCRYPT0, GROUPCOMM_CBOR
from ..membership import GroupAddress
from .decisions import GroupManager
from .state import Group, Member, Renewal

REPEATS = (0.0, 0.25, 1.0)
"""Seconds after the start of a renewal at which its multicasts go out: identical bytes, so that one may be lost."""

UNICASTS = 32
"""Members that are told at the same time."""

PATIENCE = 6.0
"""Seconds that a member has to answer."""

FOLLOW_UP = 0.5
"""Seconds after the time for confirmations when who is behind is told by unicast."""

BACKOFF, MAX_BACKOFF = 2.0, 300.0
"""Seconds between attempts to reach somebody who sleeps: doubled each time."""

log = logging.getLogger("groupcoap.manager.delivery")


class Carrier(Protocol):
    """What messages are sent with."""

    def send_multicast(self, address: GroupAddress, message: Message) -> None:
        """`NetworkFault` if it cannot be sent."""

    async def tell(self, device: str, address: tuple[str, int], message: aiocoap.Message) -> aiocoap.Message:
        """Over the device's association. `NetworkFault` if it does not answer, or there is none."""


class Delivery:
    """All renewals under way, at most one for each group. `persist`: make what the manager decided durable."""

    def __init__(self, manager: GroupManager, carrier: Carrier, persist: Callable[[], Awaitable[None]]) -> None:
        self._manager = manager
        self._carrier = carrier
        self._persist = persist
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._notices: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(UNICASTS)
        self._progress: dict[str, asyncio.Event] = {}
        self._message_id = int.from_bytes(os.urandom(2), "big")  # those before a restart may be remembered

    def distribute(self, renewal: Renewal) -> None:
        """Begin with this renewal. One before it in the same group is over: who has not got it gets this one."""
        self.stop(renewal.group)
        group = self._manager.groups.get(renewal.group)
        if group is None:
            return
        self._progress[renewal.group] = asyncio.Event()
        # At once, for another renewal may follow at once: its messages are only for who has got these.
        self._multicast(group, renewal)
        self._tasks[renewal.group] = asyncio.get_running_loop().create_task(self._run(group, renewal))

    def stop(self, group: str) -> None:
        """No more messages to this group."""
        task = self._tasks.pop(group, None)
        if task is not None:
            task.cancel()
        self.confirmed(group)
        self._progress.pop(group, None)

    def confirmed(self, group: str) -> None:
        """A member of this group has confirmed, or is none any more."""
        if group in self._progress:
            self._progress[group].set()

    async def settled(self, renewal: Renewal, timeout: float) -> bool:
        """Wait until all who were members before have this renewal, or one after it; at most so many seconds."""
        group = self._manager.groups.get(renewal.group)
        try:
            async with asyncio.timeout(timeout):
                while group is not None and self._awaited(group, renewal):
                    progress = self._progress.get(renewal.group)
                    if progress is None:
                        return False
                    progress.clear()
                    await progress.wait()
        except TimeoutError:
            return False
        return True

    def _awaited(self, group: Group, renewal: Renewal) -> list[Member]:
        """Who is waited for before newcomers are let in: not who had not confirmed the renewal before either, since
        it is asleep or gone."""
        return [m for m in self._present_behind(group, renewal) if m.confirmed_num >= renewal.num - 1]

    def _present_behind(self, group: Group, renewal: Renewal) -> list[Member]:
        return [
            member
            for member in group.members.values()
            if member.joined_num < renewal.num and member.confirmed_num < renewal.num
        ]

    async def _run(self, group: Group, renewal: Renewal) -> None:
        multicasts = asyncio.create_task(self._repeat(group, renewal))
        try:
            present = self._present_behind(group, renewal)
            first = present if renewal.unicasts else [m for m in present if m.node in renewal.direct]
            await self._tell_all(group, renewal, first)
            await multicasts
            await asyncio.sleep(self._manager.spread(group) + FOLLOW_UP)
            await self._follow_up(group, renewal)
        finally:
            multicasts.cancel()

    async def _repeat(self, group: Group, renewal: Renewal) -> None:
        before = REPEATS[0]
        for at in REPEATS[1:]:
            await asyncio.sleep(at - before)
            before = at
            self._multicast(group, renewal)

    def _multicast(self, group: Group, renewal: Renewal) -> None:
        address = group.settings.control
        for envelope in renewal.multicasts:
            try:
                self._carrier.send_multicast(address, self._datagram(group, address, envelope))
            except NetworkFault as fault:
                log.warning("group %s: rekey message not sent: %s", group.name, fault)

    def _datagram(self, group: Group, address: GroupAddress, envelope: bytes) -> Message:
        """NON POST to the control group URI, without a token: nobody answers (docs/group-manager.md §3)."""
        path = control_group_uri(group.name, address).split("/", 3)[3].split("/")
        options = (
            *((coap.URI_PATH, segment.encode()) for segment in path),
            (coap.CONTENT_FORMAT, bytes((COSE_ENCRYPT0,))),
        )
        self._message_id = self._message_id + 1 & 0xFFFF
        return Message(coap.NON, coap.POST, self._message_id, b"", options, envelope)

    async def _follow_up(self, group: Group, renewal: Renewal) -> None:
        """Those who have not confirmed, one by one and less and less often: nobody is given up for being asleep."""
        pause = BACKOFF
        while group.num == renewal.num:
            behind = self._manager.behind(group)
            if not behind:
                return
            await self._tell_all(group, renewal, behind)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_BACKOFF)

    async def _tell_all(self, group: Group, renewal: Renewal, members: Iterable[Member]) -> None:
        await asyncio.gather(*(self._tell(group, renewal, member) for member in members))

    async def _tell(self, group: Group, renewal: Renewal, member: Member) -> None:
        async with self._places:
            if group.num != renewal.num or member.node not in group.members or member.control is None:
                return
            payload = self._manager.message_for(group, member).encode(self._manager.points)
            message = aiocoap.Message(
                code=aiocoap.POST,
                uri_path=("ace-group", group.name, "node"),
                payload=payload,
                content_format=GROUPCOMM_CBOR,
            )
            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await self._carrier.tell(member.device, control_address(member.control), message)
            except (GroupcoapError, TimeoutError) as problem:
                log.debug("group %s: %s was not reached: %s", group.name, member.device, problem)
                return
            if answer.code is aiocoap.CHANGED and group.members.get(member.node) is member and not renewal.reload:
                self._manager.confirmed(group, member, renewal.num)
                self.confirmed(group.name)
                with suppress(StoreFault):  # then the manager stops
                    await self._persist()

    def dismiss(self, former: Member, group: str) -> None:
        """Tell somebody, once, that it is no member any more (RFC 9594 §4.10.3): it would find out anyway."""
        if former.control is None:
            return
        task = asyncio.get_running_loop().create_task(self._dismiss(former, former.control, group))
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    async def _dismiss(self, former: Member, control: str, group: str) -> None:
        # Which membership has ended: somebody may hold this back until the device has joined again.
        payload = former.node.encode()
        message = aiocoap.Message(code=aiocoap.DELETE, uri_path=("ace-group", group, "node"), payload=payload)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._carrier.tell(former.device, control_address(control), message)
        except (GroupcoapError, TimeoutError) as problem:
            log.debug("group %s: %s was not told that it left: %s", group, former.device, problem)

    async def close(self) -> None:
        """Stop all; what is unfinished goes on when the manager is started again."""
        tasks = [*self._tasks.values(), *self._notices]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
