"""A whole diagnosis: what it looks at, in which order, and that nothing stops it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from homes import IPV4, IPV6, diagnosed, diagnosis, make_home, of, troubles
from namespaces import Namespace, why_not

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.diagnosis import Finding, Level, checkup
from groupcoap.endpoint.network import NetworkOptions
from groupcoap.errors import FileFault
from groupcoap.membership import GroupAddress

LO = NetworkOptions("lo", ip_address("127.0.0.2"), hop_limit=0)
ON_LOOPBACK = [
    *("directory", "group", "profile", "credentials", "state", "storage", "interface", "port", "scope", "route"),
    *("membership", "self-test", "firewall", "clock", "buffers", "randomness", "aiocoap"),
]


def checks(findings: list[Finding]) -> list[str]:
    return [finding.check for finding in findings]


async def test_a_healthy_device_on_loopback(tmp_path: Path) -> None:
    findings = await diagnosis(make_home(tmp_path), LO)
    assert checks(findings) == ON_LOOPBACK
    assert troubles(findings) == []
    assert all(bool(finding.advice) == (finding.level is not Level.OK) for finding in findings)


async def test_a_healthy_device_of_a_modern_group(tmp_path: Path) -> None:
    findings = await diagnosis(make_home(tmp_path, profile=GROUP_OSCORE), LO)
    at = ON_LOOPBACK.index("state")
    assert checks(findings) == [*ON_LOOPBACK[:at], "pairwise", *ON_LOOPBACK[at:]]
    assert troubles(findings) == []


async def test_it_goes_on_after_problems(tmp_path: Path) -> None:
    lamp = make_home(tmp_path)
    (lamp / "identity.json").unlink()
    (lamp / "state.journal").unlink()
    lamp.chmod(0o777)
    findings = await diagnosis(lamp, NetworkOptions("nosuch0"))
    assert troubles(findings) == ["files", "directory", "state", "interface"]
    assert checks(findings)[-4:] == ["clock", "buffers", "randomness", "aiocoap"]


async def test_an_empty_directory(tmp_path: Path) -> None:
    findings = await diagnosis(tmp_path, LO)
    assert troubles(findings) == ["files", "state"]
    assert of("interface", findings).level is Level.OK


async def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileFault, match="does not exist"):
        await diagnosis(tmp_path / "nobody", LO)


async def test_the_port_is_the_groups_for_who_listens_there(tmp_path: Path) -> None:
    lamp = make_home(tmp_path)
    assert of("port", await diagnosis(lamp, LO)).found == "127.0.0.2 port 5699 is free"
    assert of("port", await diagnosis(lamp.parent / "switch", LO)).found == "127.0.0.2, any free port"
    anywhere = NetworkOptions("lo", ip_address("127.0.0.2"), 0)
    assert of("port", await diagnosis(lamp, anywhere)).found == "127.0.0.2, any free port"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.2", 0))
        taken = NetworkOptions("lo", ip_address("127.0.0.2"), sock.getsockname()[1])
        assert troubles(await diagnosis(lamp, taken)) == ["port"]


async def test_what_cannot_be_looked_at_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(directory: Path) -> Finding:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkup, "check_storage", fails)  # root, as which tests may run, may look at everything
    finding = of("storage", await diagnosis(make_home(tmp_path), LO))
    assert (finding.level, finding.found) == (Level.WARNING, "cannot be looked at: Permission denied")


async def test_no_secret_is_in_it(tmp_path: Path) -> None:
    lamp = make_home(tmp_path)
    group = await diagnosis(lamp, LO)
    text = "".join(path.read_text() for path in lamp.glob("*.json"))
    said = " ".join(f"{finding.found} {finding.advice} {finding.command}" for finding in group)
    for name in ("private_key", "master_secret"):
        _, _, rest = text.partition(f'"{name}": "')
        secret = rest.partition('"')[0]
        assert len(secret) == 64
        assert secret not in said


# ---- in namespaces


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Namespace() as made:
        made.ip("link", "add", "e0", "type", "veth", "peer", "name", "other")
        for name in ("e0", "other"):
            made.ip("link", "set", name, "addrgenmode", "none")
        yield made


def look(namespace: Namespace, path: Path, options: NetworkOptions) -> list[Finding]:
    findings: list[Finding] = namespace.start(diagnosed, path, options).result()
    return findings


@pytest.mark.namespaces
def test_a_healthy_device_on_a_network(namespace: Namespace, tmp_path: Path) -> None:
    lamp = make_home(tmp_path, IPV4, IPV6)
    e0 = NetworkOptions("e0", hop_limit=3)
    down = look(namespace, lamp, e0)
    assert troubles(down) == ["interface"]
    assert not {"port", "membership", "self-test", "firewall"} & set(checks(down))
    for name in ("e0", "other"):
        namespace.ip("link", "set", name, "up")
    namespace.ip("addr", "add", "10.5.0.1/24", "dev", "e0")
    namespace.ip("addr", "add", "fd05::1/64", "dev", "e0", "nodad")
    up = look(namespace, lamp, e0)
    assert troubles(up) == []
    assert set(checks(up)) - set(ON_LOOPBACK) == {"rp_filter", "forwarding", "bridge"}
    assert checks(up).count("self-test") == 2


@pytest.mark.namespaces
def test_the_hop_limit_counts_for_who_sends(namespace: Namespace, tmp_path: Path) -> None:
    for name in ("e0", "other"):
        namespace.ip("link", "set", name, "up")
    namespace.ip("addr", "add", "10.5.0.1/24", "dev", "e0")
    lamp = make_home(tmp_path)
    nowhere = NetworkOptions("e0", hop_limit=0)
    assert of("scope", look(namespace, lamp, nowhere)).level is Level.OK
    assert of("scope", look(namespace, lamp.parent / "switch", nowhere)).level is Level.WARNING


@pytest.mark.namespaces
def test_ipv6_without_a_route_is_one_problem_not_three(namespace: Namespace, tmp_path: Path) -> None:
    address = GroupAddress(ip_address("ff05::fd"), 5699)
    findings = look(namespace, make_home(tmp_path, address), NetworkOptions("lo"))
    assert troubles(findings) == ["route"]
    assert "self-test" not in checks(findings)
