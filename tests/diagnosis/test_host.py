"""Checks of the host, each failing and passing."""

from __future__ import annotations

import os
from pathlib import Path

import aiocoap.meta
import pytest

from groupcoap.diagnosis import Level
from groupcoap.diagnosis.host import (
    RECEIVE_BUFFER,
    check_aiocoap,
    check_buffer,
    check_randomness,
    granted_buffer,
    installed_aiocoap,
    pinned_aiocoap,
)


def test_what_the_kernel_grants_is_what_it_says() -> None:
    limit = Path("/proc/sys/net/core/rmem_max")
    if not limit.exists():
        pytest.skip("this kernel does not say it here")
    assert granted_buffer() == min(RECEIVE_BUFFER, int(limit.read_text()))


def test_too_small_a_buffer() -> None:
    assert check_buffer(RECEIVE_BUFFER).level is Level.OK
    finding = check_buffer(212992)
    assert finding.level is Level.WARNING
    assert finding.found.startswith("208 KiB for what has been received, not the 1024 KiB")
    assert finding.command == "sysctl -w net.core.rmem_max=1048576"


def test_the_pinned_aiocoap_is_installed() -> None:
    assert installed_aiocoap() == pinned_aiocoap() == aiocoap.meta.version
    assert check_aiocoap(installed_aiocoap(), pinned_aiocoap()).level is Level.OK


@pytest.mark.parametrize("installed", ["0.4.16", None])
def test_another_aiocoap(installed: str | None) -> None:
    finding = check_aiocoap(installed, "0.4.17")
    assert finding.level is Level.PROBLEM
    assert finding.command == "pip install 'aiocoap[oscore]==0.4.17'"


def test_an_installation_that_says_nothing() -> None:
    assert check_aiocoap("0.4.17", None).level is Level.WARNING


def test_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_randomness().level is Level.OK

    def none_yet(size: int, flags: int) -> bytes:
        raise BlockingIOError

    monkeypatch.setattr(os, "getrandom", none_yet)  # only a machine that has just started has none
    assert check_randomness().level is Level.PROBLEM
