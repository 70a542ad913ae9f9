"""Addresses, URIs and limits, as people write them (files/group.py, endpoint/, cli/)."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

import click

from groupcoap.cli.decode import _destination
from groupcoap.cli.target import find_target
from groupcoap.cli.via import host_and_port
from groupcoap.endpoint import network
from groupcoap.endpoint.limits import parse_limits
from groupcoap.errors import MisuseError, NetworkFault
from groupcoap.files import group
from groupcoap.membership import COAP_PORT, GroupConfiguration

from ..choices import Choices
from ..device import configuration


def check(data: bytes) -> None:
    """Each refuses with its own exception, or gives what means the same when it is written again."""
    choices = Choices(data)
    how = choices.below(7)
    text = choices.rest().decode("utf-8", "surrogateescape")  # as Python gives arguments
    if how < 2:
        _target(("coap://" if how else "") + text)
    elif how == 2:
        _group_address(text)
    elif how == 3:
        try:
            address = network.parse_address(text)
        except NetworkFault:
            return
        assert network.parse_address(str(address)) == address
    elif how == 4:
        with suppress(click.BadParameter):
            packed = _destination(text)
            assert packed is None or len(packed) in (4, 16)
    elif how == 5:
        with suppress(click.BadParameter):
            host, port = host_and_port(text)
            assert 0 < port < 65536
            assert host_and_port(str(host)) == (host, COAP_PORT)
    else:
        with suppress(MisuseError):
            parse_limits(text.split())


def _group_address(text: str) -> None:
    try:
        address = group.parse_address(text)
    except MisuseError:
        return
    assert address.host.is_multicast
    assert 0 < address.port < 65536
    assert group.parse_address(str(address)) == address


def _target(uri: str) -> None:
    try:
        target = find_target(uri, _groups())
    except MisuseError:
        return
    assert target.address in target.group.addresses
    assert all(len(part.encode()) <= 255 for part in (*target.path, *target.query))


@cache
def _groups() -> tuple[GroupConfiguration, ...]:
    return (configuration(),)
