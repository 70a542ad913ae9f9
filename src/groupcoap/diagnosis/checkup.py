"""All checks of one device, in the order in which their answers help."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..endpoint.network import NetworkOptions
from ..files.atomic import describe
from ..files.state import EndpointState, StateReport
from ..member.enrolment import is_managed
from ..membership import GroupAddress, Role
from .clock import check_clock, synchronized
from .files import (
    LISTENING,
    Device,
    check_credentials,
    check_groups,
    check_pairwise,
    check_privacy,
    describe_group,
    describe_profile,
    read_device,
)
from .finding import Finding, Level, warning
from .firewall import check_bridge, check_firewall
from .host import check_aiocoap, check_buffer, check_randomness, granted_buffer, installed_aiocoap, pinned_aiocoap
from .interfaces import Interface, check_interface, choose, interfaces
from .managed import check_managed_state, read_managed
from .reception import check_port, check_reception
from .routes import check_forwarding, check_reverse_path, check_route
from .scope import check_scope
from .state import check_state, check_storage, running_process

Check = tuple[str, Callable[[], Finding | Iterable[Finding]]]
"""(what it is called, the check)"""


async def diagnose(path: Path, options: NetworkOptions) -> AsyncIterator[Finding]:
    """Look at everything that commonly keeps group communication from working, one finding after the other.

    `path`: a device's directory, or one group file in it. `options`: as its endpoint would get them, but that
    `port` None stands for its group's if it listens there, and 0 for any free one. Nothing is changed, and nothing
    leaves this host but the kernel's announcement that a multicast address is joined and left, and a question to
    the device's Group Manager, if it has one. `FileFault` if there is nothing at `path`."""
    managed = is_managed(path)
    device, faults = read_managed(path) if managed else read_device(path)
    report = EndpointState.examine(device.state)
    for finding in (*faults, *_run(_of_files(device, report, managed))):
        yield finding
    async for finding in _of_network(device, options, running_process(report)):
        yield finding
    if managed:
        reached = await _of_manager(path, options)
        if reached is not None:
            yield reached
    for finding in _run(_of_host(device)):
        yield finding


async def _of_manager(path: Path, options: NetworkOptions) -> Finding | None:
    from .manager import check_manager  # aiocoap and more, which nothing else here needs

    return await check_manager(path, options)


def _run(checks: Iterable[Check]) -> Iterator[Finding]:
    """One after the other; one that fails is itself a finding."""
    for name, check in checks:
        try:
            found = check()
            yield from (found,) if isinstance(found, Finding) else found
        except OSError as error:
            yield warning(
                name, f"cannot be looked at: {describe(error)}", "run this as root, or as the device's user"
            )


def _of_files(device: Device, report: StateReport, managed: bool) -> Iterator[Check]:
    yield "directory", partial(check_privacy, device)
    for file in device.groups:
        yield "group", partial(describe_group, file)
        yield "profile", partial(describe_profile, file.configuration)
    yield "groups", partial(check_groups, device.configurations)
    yield "credentials", partial(check_credentials, device.groups, time.time())
    yield "pairwise", partial(check_pairwise, device.groups)
    yield "state", partial(check_managed_state if managed else check_state, report, device.configurations)
    yield "storage", partial(check_storage, device.directory)


async def _of_network(device: Device, options: NetworkOptions, own: int | None) -> AsyncIterator[Finding]:
    """What has to do with the interface. Where that cannot be used, it is what there is to mend first."""
    present = interfaces()
    chosen = choose(options, present)
    if isinstance(chosen, Finding):
        yield chosen
        return
    versions = sorted({address.host.version for address in device.addresses})
    for finding in _run([("interface", partial(check_interface, chosen, options.bind, versions))]):
        yield finding
    if not chosen.up:
        return
    options = replace(options, interface=chosen.name, port=_port(device, options))
    for version in versions:
        yield await check_port(options, version, chosen, own)
    for address in device.addresses:
        async for finding in _of_address(device, address, options, chosen, present):
            yield finding
    for finding in _run(_of_the_way(chosen, device.addresses, versions)):
        yield finding


async def _of_address(
    device: Device,
    address: GroupAddress,
    options: NetworkOptions,
    chosen: Interface,
    present: Sequence[Interface],
) -> AsyncIterator[Finding]:
    sends = any(Role.MULTICASTER in g.roles for g in device.configurations if address in g.addresses)
    yield check_scope(address, options.hop_limit, loopback=chosen.loopback, sends=sends)
    route = check_route(chosen, address, present)
    yield route
    if route.level is Level.PROBLEM:
        return  # then nothing can be heard either
    for finding in await check_reception(options, address, chosen):
        yield finding


def _of_the_way(chosen: Interface, addresses: Sequence[GroupAddress], versions: Sequence[int]) -> Iterator[Check]:
    """What may stand between this host's sockets and the network."""
    yield "firewall", partial(check_firewall, chosen, addresses)
    if chosen.loopback:
        return
    if 4 in versions:
        yield "rp_filter", partial(check_reverse_path, chosen)
    for version in versions:
        yield "forwarding", partial(check_forwarding, chosen, version)
    yield "bridge", partial(check_bridge, chosen)


def _of_host(device: Device) -> Iterator[Check]:
    yield "clock", partial(check_clock, time.time(), device.newest, synchronized())
    yield "buffers", lambda: check_buffer(granted_buffer())
    yield "randomness", check_randomness
    yield "aiocoap", partial(check_aiocoap, installed_aiocoap(), pinned_aiocoap())


def _port(device: Device, options: NetworkOptions) -> int:
    """The unicast port as `groupcoap listen` takes it."""
    if options.port is not None:
        return options.port
    listening = (group.addresses[0].port for group in device.configurations if group.roles & LISTENING)
    return next(listening, 0)
