from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keying_support import addresses, names
from keying_support import refused as refusal

from groupcoap.errors import MisuseError, Reason
from groupcoap.keying.addresses import (
    control_address,
    control_group_address,
    control_group_uri,
    control_uri,
    parse_group_address,
    split_control_uri,
)
from groupcoap.keying.reading import Malformed
from groupcoap.membership import GroupAddress
from support import attempt, refused

GROUP = GroupAddress(ip_address("ff35:30:2001:db8::23"), 5685)


@given(names, st.sampled_from(["192.0.2.1", "127.0.0.1", "2001:db8::1", "fe80::1", "::1"]), st.integers(1, 65535))
def test_a_control_uri_comes_back(name: str, host: str, port: int) -> None:
    uri = control_uri(name, host, port)
    assert control_address(uri) == (host, port)
    assert split_control_uri(uri)[2] == name


@given(names, addresses)
def test_a_control_group_uri_comes_back(name: str, address: GroupAddress) -> None:
    assert control_group_address(control_group_uri(name, address)) == address


def test_how_they_look() -> None:
    assert control_uri("a/b ü", "2001:db8::1", 61616) == "coap://[2001:db8::1]:61616/ace-group/a%2Fb%20%C3%BC/node"
    assert control_group_uri("lights", GROUP) == "coap://[ff35:30:2001:db8::23]:5685/ace-group/lights"


def test_a_group_uri_may_do_without_the_default_port() -> None:
    assert control_group_address("coap://224.0.1.187/ace-group/lights") == GroupAddress(ip_address("224.0.1.187"))


NO_CONTROL_URIS = [
    "",
    "coap://192.0.2.1:5683/ace-group/lights",
    "coap://192.0.2.1:5683/ace-group/lights/nodes",
    "coap://192.0.2.1:5683/ace-group//node",
    "coap://192.0.2.1:5683/ace-group/a/b/node",
    "coap://192.0.2.1:5683/manage/lights/node",
    "coap://192.0.2.1:5683/ace-group/lights/node/",
    "coap://192.0.2.1:5683/ace-group/lights/node?x",
    "coap://192.0.2.1:5683/ace-group/lights/node#x",
    "coap://192.0.2.1:5683/ace-group/lights/node\n",
    "coap://192.0.2.1:5683/ace-group/lig hts/node",
    "coap://192.0.2.1:5683/ace-group/%ff/node",
    "coap://192.0.2.1:5683/ace-group/%0a/node",
    "coap://192.0.2.1:5683/ace-group/%2e%2e/node",
    "coap://192.0.2.1:5683/ace-group/" + "a" * 256 + "/node",
    "coap://192.0.2.1:5683/ace-group/" + "%61" * 400 + "/node",
    "coap://192.0.2.1/ace-group/lights/node",
    "coap://192.0.2.1:/ace-group/lights/node",
    "coap://192.0.2.1:0/ace-group/lights/node",
    "coap://192.0.2.1:65536/ace-group/lights/node",
    "coap://192.0.2.1:-1/ace-group/lights/node",
    "coap://192.0.2.1:٥/ace-group/lights/node",
    "coaps://192.0.2.1:5683/ace-group/lights/node",
    "http://192.0.2.1:5683/ace-group/lights/node",
    "coap://device.example:5683/ace-group/lights/node",
    "coap://me@192.0.2.1:5683/ace-group/lights/node",
    "coap://192.0.2:5683/ace-group/lights/node",
    "coap://192.0.2.01:5683/ace-group/lights/node",
    "coap://192.0.2.256:5683/ace-group/lights/node",
    "coap://2001:db8::1:5683/ace-group/lights/node",
    "coap://[2001:db8::1::]:5683/ace-group/lights/node",
    "coap://[fe80::1%25eth0]:5683/ace-group/lights/node",
    "coap://[192.0.2.1]:5683/ace-group/lights/node",
    "coap://224.0.1.187:5683/ace-group/lights/node",
    "coap://255.255.255.255:5683/ace-group/lights/node",
    "coap://0.0.0.0:5683/ace-group/lights/node",
    "coap://[ff02::1]:5683/ace-group/lights/node",
    "coap://[::]:5683/ace-group/lights/node",
    "coap://[::ffff:224.0.1.187]:5683/ace-group/lights/node",
]


@pytest.mark.parametrize("uri", NO_CONTROL_URIS)
def test_what_is_no_members_control_uri_is_refused(uri: str) -> None:
    refusal(lambda: control_address(uri))


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "coap://224.0.1.187:5685/ace-group/lights/node",
        "coap://192.0.2.1:5685/ace-group/lights",
        "coap://224.0.1.187:0/ace-group/lights",
        "coap://224.0.1.187:99999/ace-group/lights",
        "coap://all.example/ace-group/lights",
        "coap://224.0.1.187/ace-group/%ff",
        "coap://224.0.1.187/ace-group/" + "%61" * 400,
        "coap://[ff02::1%25eth0]/ace-group/lights",
    ],
)
def test_what_is_no_groups_control_uri_is_rejected(uri: str) -> None:
    with refused(Reason.MALFORMED):
        control_group_address(uri)


@given(st.text(max_size=60) | st.text("coap:/[]0123456789.-%abcdegrupon", max_size=60).map("coap://".__add__))
def test_nothing_else_is_raised(uri: str) -> None:
    assert attempt(lambda: control_group_address(uri)) is Reason.MALFORMED
    refusal(lambda: control_address(uri))


@given(addresses)
def test_an_address_of_the_group_comes_back(address: GroupAddress) -> None:
    assert parse_group_address(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "192.0.2.1", "ff05::fd", "[ff05::fd", "224.0.1.187:", "224.0.1.187:0", "name"]
)
def test_what_is_no_address_of_a_group(text: str) -> None:
    with pytest.raises((Malformed, MisuseError)):
        parse_group_address(text)


@pytest.mark.parametrize(
    ("name", "host", "port"),
    [
        ("", "192.0.2.1", 1),
        ("..", "192.0.2.1", 1),
        ("a" * 256, "192.0.2.1", 1),
        ("\ud800", "192.0.2.1", 1),
        ("lights", "device", 1),
        ("lights", "192.0.2.1", 0),
        ("lights", "224.0.0.1", 1),
    ],
)
def test_uris_that_cannot_be_made(name: str, host: str, port: int) -> None:
    with pytest.raises(MisuseError):
        control_uri(name, host, port)
