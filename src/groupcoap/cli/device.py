"""A device's directory, whichever kind it is: provisioned with group files, or enrolled at a Group Manager. What
`listen` and `send` do with it is the same."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core import coap
from ..endpoint.network import NetworkOptions
from ..errors import GroupcoapError, MisuseError, NetworkFault, Refused
from ..files.provisioned import load_member
from ..files.state import EndpointState
from ..member.enrolment import ENROLMENT_FILE, Enrolment, is_managed, load_enrolment
from ..membership import GroupConfiguration, MembershipSource, Role
from .text import printable

if TYPE_CHECKING:
    from ..member.membership import ManagedMembership

PATIENCE = 5.0
"""Seconds that a manager may take before a device goes on with the keys that it has."""
JOIN_PATIENCE = 60.0
"""Seconds that it may take where there are none: newcomers wait until the present members have new keys."""

LISTENING = frozenset({Role.LISTENER, Role.PURE_LISTENER})

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Device:
    """A device and its groups as they are now. `name`: what people call it. `source`: of all its groups.
    `source_of`: of one alone, where that can be. `open_state`: its run-time state, for this process alone.
    `managed`: None if it was provisioned."""

    name: str
    groups: tuple[GroupConfiguration, ...]
    source: MembershipSource
    source_of: Callable[[str], MembershipSource]
    open_state: Callable[[], AbstractContextManager[EndpointState]]
    managed: ManagedMembership | None = None


def note(line: str) -> None:
    """Say something beside the output proper."""
    click.echo(f"groupcoap: {printable(line)}", err=True)


@asynccontextmanager
async def open_device(
    path: Path, network: NetworkOptions, *, say: Say = note, wait: bool = False
) -> AsyncIterator[Device]:
    """The device at `path`, which is its directory, or one group file of a provisioned one. With a Group Manager it
    joins its groups, by `network`; where the manager is not reached it goes on with the keys that it has, and says
    so. Without any it waits for the manager if it is to `wait`.

    `FileFault`, `StateLocked`, `NetworkFault`; `Refused`, `ManagerMismatch` if the manager does not let it in."""
    if not is_managed(path):
        files = load_member(path)
        yield Device(
            files.name,
            files.groups,
            files.membership,
            lambda group: files.only(group).membership,
            lambda: EndpointState.open(files.state),
        )
        return
    say_once()
    enrolment = load_enrolment(path / ENROLMENT_FILE)
    refuse_no_group(path, enrolment)
    from ..member.membership import ManagedMembership  # provisioned devices start without it

    async with ManagedMembership(path, network) as membership:
        with hushed():
            await _be_ready(membership, enrolment, say, wait)
        yield Device(
            enrolment.device,
            tuple(membership.groups()),
            membership,
            lambda group: membership,
            membership.open_state,
            membership,
        )


def refuse_no_group(path: Path, enrolment: Enrolment) -> None:
    """`MisuseError` if the enrolment names no group."""
    if not enrolment.groups:
        raise MisuseError(f"{path} is in no group; join one with: groupcoap join {path} GROUP=ROLE")


async def _be_ready(membership: ManagedMembership, enrolment: Enrolment, say: Say, wait: bool) -> None:
    said = False
    while True:
        try:
            return await membership.ready(_patience(membership, wait))
        except GroupcoapError as problem:
            known = {group.name for group in membership.groups()}
            if not known and not (wait and _may_pass(problem)):
                raise explained(problem, enrolment) from None
            text = str(explained(problem, enrolment))
            if known:
                others = sorted(enrolment.groups.keys() - known)
                missing = f"; not in {', '.join(others)}" if others else ""
                say(f"{text}; going on with the keys that are here{missing}")
                return None
            if not said:
                say(f"{text}; waiting for it")
                said = True


def _patience(membership: ManagedMembership, wait: bool) -> float:
    """Seconds until something is said: soon if there are keys to go on with; a join takes longer, for the present
    members get new keys first."""
    if membership.groups():
        return PATIENCE
    return 3 * PATIENCE if wait else JOIN_PATIENCE


def _may_pass(problem: GroupcoapError) -> bool:
    """Whether waiting may help."""
    if isinstance(problem, Refused):
        return problem.retry_after is not None or problem.code >= coap.SERVICE_UNAVAILABLE
    return isinstance(problem, NetworkFault)


def explained(problem: GroupcoapError, enrolment: Enrolment) -> GroupcoapError:
    """The same, with what somebody at the device needs to know."""
    where = ", ".join(str(address) for address in enrolment.addresses)
    if isinstance(problem, NetworkFault):
        return NetworkFault(f"the Group Manager does not answer at {where}")
    if isinstance(problem, Refused):
        title = f"the Group Manager at {where} refuses {enrolment.device}: {problem.title}"
        return Refused(problem.code, title, problem.error, problem.retry_after)
    return problem


class _NotSaidAgain(logging.Filter):
    """Warnings that commands say themselves, in their own words."""

    _SAID = ("no member any more", "not confirmed within its lifetime")

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(text in record.msg for text in self._SAID)


def say_once() -> None:
    """Let the log not repeat what this process says of its memberships."""
    for name in ("groupcoap.member", "groupcoap.groups"):
        logging.getLogger(name).addFilter(_NotSaidAgain())


@contextmanager
def hushed() -> Iterator[None]:
    """While what goes wrong with a membership ends in a line of the command's own."""
    log = logging.getLogger("groupcoap.member")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def is_kept(directory: Path, groups: Collection[str]) -> bool:
    """Whether the device has been in one of these groups."""
    from ..member.keeping import kept_path

    return any(os.path.lexists(kept_path(directory, group)) for group in groups)


async def either(work: asyncio.Future[Any], stop: asyncio.Event) -> bool:
    """Wait for this to end, or for `stop`. Whether it has ended."""
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return work.done()
