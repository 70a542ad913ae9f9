"""`groupcoap decode`: everything in a datagram by name, and the right verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from groupcoap.cli import main
from groupcoap.cli.decode import decode, parse_hex
from groupcoap.cli.explain import Outcome, explain
from groupcoap.cli.onlooker import Onlooker, onlooker
from groupcoap.cli.vocabulary import code_name, option_name, option_value
from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.core.contexts import CommonContext, SecurityContext, SenderContext
from groupcoap.core.profile import RequestIds
from groupcoap.core.requests import protect_request
from groupcoap.core.responses import incoming_exchange, protect_response
from groupcoap.core.sequence import SequenceNumbers
from groupcoap.errors import Reason
from groupcoap.files.provisioned import load_member

ADDRESS = "224.0.1.187"
PACKED = ip_address(ADDRESS).packed


@dataclass(frozen=True)
class World:
    """A provisioned group and one exchange in it: datagrams."""

    home: Path
    request: bytes
    response: bytes
    notification: bytes
    echo: bytes

    def view(self, device: str = "lamp-1") -> Onlooker:
        return view_of(self.home / device)


def view_of(*paths: Path) -> Onlooker:
    return onlooker((path, group) for path in paths for group in load_member(path).groups)


def sender(home: Path, device: str) -> tuple[SecurityContext, SenderContext]:
    group = load_member(home / device).groups[0]
    epoch = group.current
    assert epoch.own_id is not None
    assert epoch.private_key is not None
    common = CommonContext(
        profile=group.profile,
        aead=group.aead,
        kdf=group.kdf,
        signature=group.signature,
        master_secret=epoch.master_secret,
        gid=epoch.gid,
    )
    context = SenderContext(common, epoch.own_id, epoch.private_key, SequenceNumbers(300))
    return SecurityContext(group.name, common, context, {}), context


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp("decode") / "home"
    assert main(["provision", str(home), "--switches", "1", "--lamps", "1", "--pure-listeners", "1"]) == 0
    switch, switch_sender = sender(home, "switch-1")
    _, lamp_sender = sender(home, "lamp-1")

    def protect(code: int, options: coap.Options, payload: bytes = b"") -> bytes:
        message = Message(coap.NON, code, 7, b"\xaa\xbb", options, payload)
        return coap.encode(protect_request(switch, switch_sender, message).message)

    def answer(options: coap.Options, *, fresh: bool) -> bytes:
        ids = RequestIds(switch_sender.sender_id, b"\x01\x2c", switch.gid)
        exchange = incoming_exchange(lamp_sender, ids, may_reuse_nonce=not fresh)
        message = Message(coap.NON, coap.CONTENT, 9, b"\xaa\xbb", options, b'{"on":1}')
        return coap.encode(protect_response(lamp_sender, exchange, message, fresh=fresh))

    observe = (coap.OBSERVE, b"")
    path = (coap.URI_PATH, b"light")
    return World(
        home,
        request=protect(coap.GET, (observe, path)),
        response=answer(((12, b"2"),), fresh=False),
        notification=answer(((coap.OBSERVE, b"\x05"), (12, b"2")), fresh=True),
        echo=protect(coap.PUT, (path, (coap.REPEAT, bytes(8))), b"on"),
    )


def names(explanation: Any, title: str) -> dict[str, tuple[str, str]]:
    rows = next(section.rows for section in explanation.sections if section.title == title)
    return {row.name: (row.meaning, row.remark) for row in rows}


def test_a_request_explained(world: World) -> None:
    explanation = explain(world.request, world.view())
    assert explanation.verdict.outcome is Outcome.VERIFIED
    assert "from switch-1, multicaster" in explanation.verdict.text
    header = names(explanation, "CoAP header")
    assert header["type"][0] == "NON, non-confirmable"
    assert header["code"] == ("0.05 FETCH", "outer code; the real one is encrypted")
    assert header["token"][0] == "aabb"
    assert names(explanation, "Options outside")["Observe"] == ("0", "option 6, class U")
    security = names(explanation, "Object-Security")
    assert security["flags"] == ("00111010", "countersignature, Gid, kid, Partial IV of 2")
    assert security["Partial IV"][0] == "sequence number 300"
    assert security["Gid"] == ("group room", "epoch 0, current Security Context")
    assert security["countersignature"][0] == "64 bytes, EdDSA (Ed25519)"
    assert security["kid"] == ("Endpoint ID 00", "switch-1, multicaster")
    inner = names(explanation, "Decrypted")
    assert inner["code"][0] == "0.01 GET"
    assert inner["Uri-Path"] == ("light", "option 11, class E")


def test_the_bytes_of_the_option_are_all_there(world: World) -> None:
    value = coap.decode(world.request).option(coap.OBJECT_SECURITY)
    for view in (None, world.view()):
        section = next(s for s in explain(world.request, view).sections if s.title == "Object-Security")
        assert b"".join(row.data or b"" for row in section.rows) == value


def test_everybody_can_look(world: World) -> None:
    assert explain(world.request, world.view("panel-1")).verdict.outcome is Outcome.VERIFIED
    own = explain(world.request, world.view("switch-1")).verdict
    assert own.outcome is Outcome.VERIFIED
    assert own.text.endswith("switch-1, multicaster (this device itself)")


@pytest.mark.parametrize("kind", ["response", "notification"])
def test_a_response_takes_its_request(world: World, kind: str) -> None:
    datagram = getattr(world, kind)
    alone = explain(datagram, world.view("switch-1"))
    assert alone.verdict.outcome is Outcome.NOT_TRIED
    assert "--request" in alone.verdict.text
    explanation = explain(datagram, world.view("switch-1"), request=world.request)
    assert explanation.verdict.outcome is Outcome.VERIFIED
    assert "from lamp-1, listener" in explanation.verdict.text
    assert names(explanation, "Object-Security")["kid"] == ("Endpoint ID 01", "lamp-1, listener")
    assert names(explanation, "Decrypted")["payload"] == ('{"on":1}', "8 bytes")
    other_token = bytes((datagram[0],)) + datagram[1:4] + b"zz" + datagram[6:]
    text = explain(other_token, world.view("switch-1"), request=world.request).verdict.text
    assert "its token is not the request's" in text


def test_an_echo_comes_by_unicast(world: World) -> None:
    assert explain(world.echo, world.view()).verdict.outcome is Outcome.VERIFIED
    refused = explain(world.echo, world.view(), destination=PACKED, destination_known=True).verdict
    assert refused.reason is Reason.REPEAT_BY_MULTICAST


def flipped(datagram: bytes, at: int) -> bytes:
    return datagram[:at] + bytes((datagram[at] ^ 1,)) + datagram[at + 1 :]


def test_a_wrong_signature_is_said_and_shown_as_such(world: World) -> None:
    at = world.request.index(bytes.fromhex("2c0c")) + 14 + 5
    explanation = explain(flipped(world.request, at), world.view())
    assert explanation.verdict.reason is Reason.SIGNATURE_FAILED
    assert names(explanation, "Decrypted, NOT authentic")["Uri-Path"][0] == "light"


ELSEWHERE = ip_address("224.0.1.200").packed


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (lambda d: flipped(d, len(d) - 1), {}, Reason.DECRYPTION_FAILED),
        (lambda d: d[:1] + b"\x44" + d[2:], {"request": b"\x40\x01\0\0"}, Reason.NOT_PROTECTED),
        (lambda d: d, {"destination": ELSEWHERE, "destination_known": True}, Reason.UNKNOWN_GROUP),
        (
            lambda d: bytes((d[0] & 0xCF,)) + d[1:],
            {"destination": PACKED, "destination_known": True},
            Reason.NOT_FOR_MULTICAST,
        ),
        (lambda d: d[:3], {}, Reason.MALFORMED),
        (lambda d: b"", {}, Reason.MALFORMED),
        (lambda d: b"\x4f" + d[1:], {}, Reason.MALFORMED),
        (lambda d: b"\x40\x01\x00\x07", {}, Reason.NOT_PROTECTED),
        (lambda d: b"\x40\x02\x00\x07\x93\x00\x01\x02\xffx", {}, Reason.MALFORMED),
    ],
)
def test_why_not(world: World, change: Callable[[bytes], bytes], options: dict[str, Any], reason: Reason) -> None:
    verdict = explain(change(world.request), world.view(), **options).verdict
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.reason is reason


@pytest.mark.parametrize(
    ("change", "text", "reason"),
    [
        (
            lambda d: d.replace(bytes.fromhex("2c0c"), bytes.fromhex("2c0b")),
            "no keys for its Gid ",
            Reason.UNKNOWN_GROUP,
        ),
        (lambda d: b"\x40\x02\x00\x07\x93\x09\x05\x01\xffx", "it looks like RFC 8613", None),
        (lambda d: b"\x40\x02\x00\x07\x96\x19\x05\x02ab\x01\xffx", "it looks like RFC 8613", None),
        (lambda d: b"\x40\x44\x00\x07\x90\xffx", "a response takes its request", None),
    ],
)
def test_why_not_even_tried(
    world: World, change: Callable[[bytes], bytes], text: str, reason: Reason | None
) -> None:
    verdict = explain(change(world.request), world.view()).verdict
    assert verdict.outcome is Outcome.NOT_TRIED
    assert verdict.detail.startswith(text)
    assert verdict.reason is reason


def test_keys_of_several_devices(world: World) -> None:
    several = run(
        world.request.hex(),
        "--member",
        world.home / "lamp-1",
        "--member",
        world.home / "switch-1" / "room.group.json",
    )
    assert several.exit_code == 0
    assert several.output.endswith("from switch-1, multicaster\n")  # whose files these are no longer matters


def test_what_can_be_seen_without_keys(world: World) -> None:
    explanation = explain(world.request)
    assert explanation.verdict.outcome is Outcome.NOT_TRIED
    security = names(explanation, "Object-Security")
    assert security["read as"] == (
        "multicast-oscore-04",
        "by its length: group-oscore has the countersignature in the payload",
    )
    assert security["countersignature"][0].startswith("64 bytes (assumed")
    assert security["kid"] == ("Endpoint ID 00", "")
    assert names(explanation, "Payload")["ciphertext"][0].endswith("bytes with its tag")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_bytes_are_explained(world: World, data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([world.request, world.response, world.echo]))
    at = data.draw(st.integers(0, len(original)))
    datagram = (
        original[:at] + data.draw(st.binary(max_size=8)) + original[data.draw(st.integers(at, len(original))) :]
    )
    for request in (None, world.request, datagram):
        explain(datagram, world.view("switch-1"), request=request)
    explain(datagram)


@pytest.mark.parametrize("text", ["40 01 ff 07", "0x4001FF07", "40:01:ff:07\n", "0x40 0X01 0xfF 0x07", "40 01ff07"])
def test_hex_as_tools_print_it(text: str) -> None:
    assert parse_hex(text) == b"\x40\x01\xff\x07"


def run(*arguments: str | Path, stdin: str | None = None) -> Any:
    return CliRunner().invoke(decode, [str(argument) for argument in arguments], input=stdin)


def test_the_command(world: World) -> None:
    member = world.home / "lamp-1"
    before = (member / "state.journal").read_bytes()
    result = run(world.request.hex(), "--member", member)
    assert result.exit_code == 0
    assert result.output.endswith("from switch-1, multicaster\n")
    assert "Partial IV: sequence number 300  [012c]" in result.output
    assert run("-", "--member", member, stdin=world.request.hex(" ")).output == result.output
    assert run(*world.request.hex(" ").split(), "--member", member).output == result.output
    assert (member / "state.journal").read_bytes() == before
    assert not (member / "state.journal.lock").exists()


def test_exit_codes(world: World) -> None:
    member = world.home / "lamp-1"
    assert run(world.request.hex()).exit_code == 0
    assert run(world.response.hex()).exit_code == 0
    assert run(flipped(world.request, len(world.request) - 1).hex(), "--member", member).exit_code == 1
    assert run(world.response.hex(), "--member", member).exit_code == 1
    assert run(world.response.hex(), "--member", member, "--request", world.request.hex()).exit_code == 0
    assert run(world.request.hex(), "--member", member, "--destination", ADDRESS).exit_code == 0
    assert run(world.request.hex(), "--member", member, "--destination", "127.0.0.1").exit_code == 0
    assert run(world.request.hex(), "--destination", "lamp").exit_code == 2
    assert run("4").exit_code == 2
    assert run("").exit_code == 2
    assert run("00" * 65536).exit_code == 2
    assert run("40010007").exit_code == 1


def test_json(world: World) -> None:
    result = run(world.request.hex(), "--member", world.home / "lamp-1", "--json")
    assert result.output.count("\n") == 1
    content = json.loads(result.output)
    assert (content["outcome"], content["reason"]) == ("verified", None)
    titles = [section["title"] for section in content["sections"]]
    assert titles == ["CoAP header", "Options outside", "Object-Security", "Payload", "Decrypted"]
    kid = content["sections"][2]["fields"][-1]
    assert kid == {"name": "kid", "bytes": "00", "meaning": "Endpoint ID 00", "remark": "switch-1, multicaster"}
    refused = json.loads(run("40010007", "--json").output)
    assert refused["reason"] == "not a protected group message"


def test_no_key_is_ever_shown(world: World) -> None:
    for device in ("lamp-1", "switch-1"):
        files = load_member(world.home / device)
        assert files.identity is not None
        output = run(world.response.hex(), "--member", world.home / device, "--request", world.request.hex()).output
        secrets = (files.groups[0].current.master_secret, files.identity.private_key.secret)
        assert not any(secret.reveal().hex() in output for secret in secrets)


def test_a_terminal_gets_colours_but_no_control_characters_from_the_datagram(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    plain = coap.encode(Message(coap.NON, coap.GET, 1, b"", ((coap.URI_PATH, b"\x1b[2J[red]x"),), b"\x07"))
    output = run(plain.hex()).output
    assert "\x1b[" in output
    assert "\x1b[2J" not in output
    assert "\\x1b[2J[red]x" in output
    assert "\x07" not in output


def test_an_older_epoch_is_opened_and_called_old(world: World, tmp_path: Path) -> None:
    path = tmp_path / "room.group.json"
    identity = tmp_path / "identity.json"
    identity.write_bytes((world.home / "lamp-1" / "identity.json").read_bytes())
    document = json.loads((world.home / "lamp-1" / "room.group.json").read_text())
    renewed = {**document["epochs"][0], "gid": document["epochs"][0]["gid"][:-1] + "1", "master_secret": "77" * 16}
    path.write_text(json.dumps({**document, "epochs": [*document["epochs"], renewed]}))
    path.chmod(0o600)
    identity.chmod(0o600)
    explanation = explain(world.request, view_of(tmp_path))
    assert explanation.verdict.outcome is Outcome.VERIFIED
    assert "under an older Security Context" in explanation.verdict.text
    assert names(explanation, "Object-Security")["Gid"][1] == "epoch 0, an older Security Context"


@pytest.mark.parametrize(
    ("number", "value", "text"),
    [
        (3, b"example", "example"),
        (6, b"\x01\x00", "256"),
        (12, b"", "0 text/plain"),
        (12, b"\xff\xff", "65535"),
        (23, b"\x1e", "block 1, more follow, 1024 bytes"),
        (27, b"", "block 0, the last, 16 bytes"),
        (11, b"\xff", "0xff"),
        (5, b"", "(empty)"),
        (4711, b"\x01", "01"),
    ],
)
def test_option_values(number: int, value: bytes, text: str) -> None:
    assert option_value(number, value) == text


def test_names() -> None:
    assert (option_name(252), option_name(4711)) == ("Repeat", "option 4711")
    assert (code_name(0x45), code_name(0x1F)) == ("2.05 Content", "0.31")
