from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from groupcoap.cose.credentials import claims_set
from groupcoap.cose.keys import DEFAULT_SIGNATURE, SIGNATURE_ALGORITHMS
from groupcoap.errors import FileFault, MisuseError
from groupcoap.keying.labels import CodePoints
from groupcoap.member.enrolment import Enrolment, ManagerAddress, load_enrolment, save_enrolment
from groupcoap.membership import Role
from groupcoap.secret import Secret

CREDENTIALS = {
    algorithm.number: claims_set(algorithm.generate().public_key, algorithm, "manager")
    for algorithm in SIGNATURE_ALGORITHMS.values()
}
ENROLMENT = Enrolment(
    device="lamp",
    handle=bytes(range(8)),
    secret=Secret(b"\xa5" * 16),
    addresses=(ManagerAddress.parse("127.0.0.1:5683"), ManagerAddress.parse("[fd00::1]:61616")),
    credentials=CREDENTIALS,
    groups={"room": frozenset({Role.LISTENER}), "hall": frozenset({Role.MULTICASTER, Role.LISTENER})},
)


@pytest.mark.parametrize("points", [CodePoints(), CodePoints(stale_node_ids=134)])
def test_an_enrolment_comes_back(tmp_path: Path, points: CodePoints) -> None:
    path = tmp_path / "enrolment.json"
    enrolment = replace(ENROLMENT, points=points)
    save_enrolment(path, enrolment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = load_enrolment(path)
    assert found.secret.reveal() == enrolment.secret.reveal()
    assert replace(found, secret=enrolment.secret) == enrolment
    assert ("code_points" in path.read_text()) is (points != CodePoints())
    assert "a5" * 16 not in repr(found)


def test_it_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "enrolment.json"
    save_enrolment(path, ENROLMENT)
    with pytest.raises(FileFault):
        save_enrolment(path, ENROLMENT)
    save_enrolment(path, ENROLMENT, replace=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1", "127.0.0.1:5683"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("[::1]:77", "[::1]:77"),
        ("[::1]", "[::1]:5683"),
        ("fd00::1", "[fd00::1]:5683"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert str(ManagerAddress.parse(text)) == shown


@pytest.mark.parametrize(
    "text", ["", "host", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:70000", "[::1", "[::1]:", "224.0.0.1", "0.0.0.0", "1:2"]
)
def test_what_is_no_address_of_a_manager(text: str) -> None:
    with pytest.raises(MisuseError):
        ManagerAddress.parse(text)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"device": ""}, "device"),
        ({"handle": "00"}, "handle"),
        ({"secret": "00" * 15}, "secret"),
        ({"manager": {"addresses": [], "credentials": []}}, "addresses"),
        ({"groups": [{"name": "room", "roles": []}]}, "roles"),
        ({"groups": [{"name": "room", "roles": ["listener"]}] * 2}, "groups"),
        ({"groups": [{"name": "room", "roles": ["listener", "pure listener"]}]}, "listener"),
        ({"code_points": {"gkty": "1"}}, "gkty"),
        ({"code_points": {"colour": 1}}, "colour"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, Any], place: str) -> None:
    path = tmp_path / "enrolment.json"
    save_enrolment(path, ENROLMENT)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FileFault, match=place):
        load_enrolment(path)


@pytest.mark.parametrize("change", ["algorithm", "twice", "key"])
def test_wrong_credentials_are_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "enrolment.json"
    save_enrolment(path, ENROLMENT)
    content = json.loads(path.read_text())
    credentials = content["manager"]["credentials"]
    if change == "algorithm":
        credentials[0]["signature"] = 4711
    elif change == "twice":
        credentials.append(credentials[0])
    else:
        credentials[0]["data"] = "a0"
    path.write_text(json.dumps(content))
    with pytest.raises(FileFault, match="credentials"):
        load_enrolment(path)


@pytest.mark.parametrize(
    "change",
    [
        {"handle": bytes(7)},
        {"secret": Secret(bytes(15))},
        {"device": ""},
        {"addresses": ()},
        {"credentials": {}},
        {"groups": {"room": frozenset()}},
        {"credentials": {DEFAULT_SIGNATURE.number: CREDENTIALS[-7]}},
    ],
)
def test_values_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        replace(ENROLMENT, **change)
