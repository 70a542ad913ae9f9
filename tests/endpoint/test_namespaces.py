"""Groups over real interfaces, in network namespaces: IPv6, several hosts, interfaces that come and go."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address

import pytest
from children import Child, Link
from devices import Light, answers, eventually, get, light_site, put
from namespaces import Host, Lan, Namespace, why_not
from wire import Inbox
from world import World

from groupcoap.endpoint import endpoint as endpoint_module
from groupcoap.endpoint.listener import Listener
from groupcoap.endpoint.multicaster import Multicaster
from groupcoap.endpoint.network import Network, NetworkOptions
from groupcoap.errors import NetworkFault
from groupcoap.membership import GroupAddress

pytestmark = pytest.mark.namespaces

SITE_LOCAL = "ff35:30:2001:db8::23"
LINK_LOCAL = "ff02::fd"
IPV4 = "224.0.1.187"
PORT = 5683  # a namespace has all ports to itself


@pytest.fixture(autouse=True)
def _possible() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace() as made:
        made.multicast_on_loopback()
        yield made


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan() as made:
        yield made


def group(address: str, listeners: int = 3) -> World:
    return World(listeners=listeners, addresses=(GroupAddress(ip_address(address), PORT),))


def on(host: Host, world: World, **more: object) -> NetworkOptions:
    """The host's network, by its address of the group's IP version."""
    bind = host.address(world.addresses[0].host.version)
    return NetworkOptions(interface=host.interface, bind=bind, **more)  # type: ignore[arg-type]


# ---- what runs in the namespaces


async def lamp(link: Link, world: World, kid: bytes, network: NetworkOptions) -> list[bytes]:
    """A listener until it is told to stop; returns what was asked of it."""
    endpoint_module.REJOIN_INTERVAL = 0.05
    light = Light()
    async with world.endpoint(kid, network=network) as endpoint:
        Listener(endpoint, light_site(light))
        link.tell("ready")
        while (what := await link.told()) != "stop":
            if what == "gone":
                await eventually(lambda: not endpoint.network.refresh())
                link.tell("noticed")
    return light.payloads


async def collect(link: Link, world: World, network: NetworkOptions) -> list[tuple[bytes, str]]:
    """One group request: who answered, and from where."""
    async with world.endpoint(world.switch_ids[0], network=network) as endpoint:
        collection = Multicaster(endpoint, world.name).request(put(b"on"), timeout=5)
        return sorted((answer.endpoint_id, answer.address[0]) for answer in await answers(collection))


async def collect_again_and_again(link: Link, world: World, network: NetworkOptions) -> None:
    """A group request whenever the test says so, repeated until all have answered."""
    endpoint_module.REJOIN_INTERVAL = 0.05
    async with world.endpoint(world.switch_ids[0], network=network) as endpoint:
        multicaster = Multicaster(endpoint, world.name)
        link.tell("ready")
        while await link.told() != "stop":
            for _ in range(40):
                try:
                    collection = multicaster.request(get(), timeout=0.25)
                except NetworkFault:  # this host's own interface is away
                    await eventually(endpoint.network.refresh)
                    continue
                await answers(collection)
                if not collection.missing:
                    break
            link.tell(sorted(collection.answered))


def start_lamps(world: World, hosts: list[Host]) -> list[Child]:
    children = [
        host.start(lamp, world, kid, on(host, world)) for host, kid in zip(hosts, world.lamp_ids, strict=True)
    ]
    for child in children:
        assert child.event() == "ready"
    return children


def stop(children: list[Child]) -> list[list[bytes]]:
    for child in children:
        child.tell("stop")
    return [child.result() for child in children]


# ---- one namespace


@pytest.mark.parametrize("address", [SITE_LOCAL, LINK_LOCAL, IPV4])
def test_several_listeners_on_one_loopback(namespace: Namespace, address: str) -> None:
    """IPv6 as well: each a process of its own."""
    world = group(address)
    bind = "127.0.0.1" if world.addresses[0].host.version == 4 else "::1"
    network = NetworkOptions(interface="lo", bind=ip_address(bind), hop_limit=0)
    children = [namespace.start(lamp, world, kid, network) for kid in world.lamp_ids]
    assert [child.event() for child in children] == ["ready"] * 3
    answered = namespace.start(collect, world, network).result()
    assert answered == [(kid, bind) for kid in world.lamp_ids]
    assert stop(children) == [[b"on"]] * 3


def test_an_ipv6_endpoint_that_names_no_address_may_have_the_groups_port(namespace: Namespace) -> None:
    world = group(SITE_LOCAL, listeners=1)
    anywhere = NetworkOptions(interface="lo", port=PORT, hop_limit=0)
    child = namespace.start(lamp, world, world.lamp_ids[0], anywhere)
    assert child.event() == "ready"
    assert namespace.start(second_on_that_port, world).result().startswith(":: port 5683 is in use")
    network = NetworkOptions(interface="lo", bind=IPv6Address("::1"), hop_limit=0)
    assert len(namespace.start(collect, world, network).result()) == 1
    assert stop([child]) == [[b"on"]]


async def second_on_that_port(link: Link, world: World) -> str:
    try:
        async with world.endpoint(world.switch_ids[0], network=NetworkOptions(interface="lo", port=PORT)):
            return "opened"
    except NetworkFault as problem:
        return str(problem)


# ---- several interfaces


async def only_by_one(link: Link, address: str, bind: str | None) -> dict[str, list[bytes]]:
    """Send to a group by e0; what leaves by each interface, up to a marker that is sent by each."""
    taps = {}
    for name in ("lo", "e0", "e1"):
        taps[name] = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        taps[name].bind((name, 0))
        taps[name].settimeout(5)
    network = Network(NetworkOptions(interface="e0", bind=None if bind is None else ip_address(bind)), Inbox())
    network.open_unicast(ip_address(address).version)
    network.send(b"to the group", network.socket_address(ip_address(address), PORT))
    seen: dict[str, list[bytes]] = {}
    for name, tap in taps.items():
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as marker:
            marker.sendto(b"marker", (name, 0x88B5, 0, 0, b"\xff" * 6))
        seen[name] = []
        while not (datagram := tap.recv(2000)).startswith(b"marker"):
            if datagram.endswith(b"to the group"):
                seen[name].append(datagram)
    network.close()
    return seen


@pytest.mark.parametrize(
    ("address", "bind"),
    [
        (IPV4, None),
        (IPV4, "10.2.0.1"),
        ("239.1.2.3", "10.1.0.1"),
        (LINK_LOCAL, None),
        (SITE_LOCAL, None),
        (SITE_LOCAL, "fd00:2::1"),
    ],
)
def test_multicast_leaves_by_the_chosen_interface_only(address: str, bind: str | None) -> None:
    """Whatever the routes say, which point elsewhere, and whatever address it is sent from."""
    with Namespace() as namespace:
        for number in range(2):
            name = f"e{number}"
            namespace.ip("link", "add", name, "type", "veth", "peer", "name", f"f{number}")
            for end in (name, f"f{number}"):
                namespace.ip("link", "set", end, "up")
            namespace.ip("addr", "add", f"10.{number + 1}.0.1/24", "dev", name)
            namespace.ip("addr", "add", f"fd00:{number + 1}::1/64", "dev", name, "nodad")
        namespace.ip("route", "add", "default", "via", "10.2.0.2")
        namespace.ip("route", "add", "224.0.0.0/4", "dev", "e1")
        namespace.ip("-6", "route", "add", "default", "via", "fd00:2::2")
        namespace.ip("-6", "route", "add", "multicast", "ff00::/8", "dev", "e1", "metric", "1", "table", "local")
        seen = namespace.start(only_by_one, address, bind).result()
        assert {name: len(datagrams) for name, datagrams in seen.items()} == {"lo": 0, "e0": 1, "e1": 0}


async def joined_on_one(link: Link) -> tuple[bytes, bytes]:
    """A member on e0 gets nothing that came in by e1, though somebody else is a member there."""
    address = GroupAddress(ip_address(IPV4), PORT)
    inboxes, networks = [], []
    for name, bind in (("e0", "10.77.0.1"), ("e1", "10.78.0.1")):
        inboxes.append(Inbox())
        options = NetworkOptions(interface=name, bind=ip_address(bind), kernel_filter=False)  # for no CoAP
        networks.append(Network(options, inboxes[-1]))
        networks[-1].join(address)
    link.tell("ready")
    # The other host sends by one and then by the other.
    first = (await inboxes[1].next())[0]
    second = (await inboxes[0].next())[0]
    assert inboxes[0].empty
    assert inboxes[1].empty
    for network in networks:
        network.close()
    return first, second


async def send_by(link: Link, interface: str, bind: str, payload: bytes) -> None:
    network = Network(NetworkOptions(interface=interface, bind=ip_address(bind)), Inbox())
    network.open_unicast(4)
    network.send(payload, (IPV4, PORT))
    network.close()


def test_a_member_on_one_interface_hears_that_one_only(lan: Lan) -> None:
    ours, theirs = lan.host(), lan.host()
    ours.ip("link", "add", "e1", "type", "veth", "peer", "name", "e1", "netns", theirs.name)
    for number, host in enumerate((ours, theirs), 1):
        host.ip("link", "set", "e1", "up")
        host.ip("addr", "add", f"10.78.0.{number}/24", "dev", "e1")
    child = ours.start(joined_on_one)
    assert child.event() == "ready"
    theirs.start(send_by, "e1", "10.78.0.2", b"by e1").result()
    theirs.start(send_by, "e0", "10.77.0.2", b"by e0").result()
    assert child.result() == (b"by e1", b"by e0")


# ---- several hosts


@pytest.mark.usefixtures("each_profile")
@pytest.mark.parametrize("address", [IPV4, SITE_LOCAL, LINK_LOCAL])
def test_three_hosts_on_one_hub(lan: Lan, address: str) -> None:
    world = group(address, listeners=3)
    switch, *hosts = [lan.host() for _ in range(4)]
    children = start_lamps(world, hosts)
    version = world.addresses[0].host.version
    expected = [(kid, str(host.address(version))) for kid, host in zip(world.lamp_ids, hosts, strict=True)]
    assert switch.start(collect, world, on(switch, world)).result() == expected
    assert stop(children) == [[b"on"]] * 3


@pytest.mark.parametrize("address", [IPV4, SITE_LOCAL, LINK_LOCAL])
@pytest.mark.parametrize("whose", ["lamp", "switch"])
@pytest.mark.parametrize("how", ["down and up", "deleted and made again"])
def test_an_interface_goes_away_and_comes_back(lan: Lan, address: str, whose: str, how: str) -> None:
    """The membership is joined again, and what is sent goes by the interface again."""
    world = group(address, listeners=2)
    switch, *hosts = [lan.host() for _ in range(3)]
    children = start_lamps(world, hosts)
    requests = switch.start(collect_again_and_again, world, on(switch, world))
    assert requests.event() == "ready"
    requests.tell("go")
    assert requests.event() == world.lamp_ids
    host = hosts[0] if whose == "lamp" else switch
    if how == "down and up":
        host.down()
        host.up()
    else:
        host.unplug()
        if whose == "lamp":
            children[0].tell("gone")
            assert children[0].event() == "noticed"
        host.plug_in()
    requests.tell("go")
    assert requests.event() == world.lamp_ids
    requests.tell("stop")
    requests.result()
    stop(children)


def test_a_link_local_address_after_the_interface_was_made_again(lan: Lan) -> None:
    """Sockets with a scope are bound to the interface that was; new ones with the same port take their place."""
    world = group(LINK_LOCAL, listeners=1)
    switch, host = lan.host(), lan.host()
    network = NetworkOptions(interface=host.interface, bind=IPv6Address(f"fe80::{host.number:x}"))
    children = [host.start(lamp, world, world.lamp_ids[0], network)]
    assert children[0].event() == "ready"
    bind = IPv6Address(f"fe80::{switch.number:x}")
    requests = switch.start(collect_again_and_again, world, NetworkOptions(interface=switch.interface, bind=bind))
    assert requests.event() == "ready"
    for unplugged in (None, host, switch):
        if unplugged is not None:
            unplugged.unplug()
            unplugged.plug_in()
        requests.tell("go")
        assert requests.event() == world.lamp_ids
    requests.tell("stop")
    requests.result()
    stop(children)
