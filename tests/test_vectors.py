"""The vectors of both profiles, each on its own; and that the runner fails whatever it should."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from groupcoap.core.group_oscore import GROUP_OSCORE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04
from groupcoap.errors import FileFault
from groupcoap.vectors import FORMAT, Outcome, check_file, check_vector

ROOT = Path(__file__).parents[1]
VECTORS = ROOT / "tests" / "vectors"
GENERATOR = ROOT / "tools" / "make_group_oscore_vectors.py"
PROFILE = "multicast-oscore-04"
Vector = dict[str, Any]

EXPECTED = {
    "derive.json": {"derive": 5},
    "messages.json": {"protect_request": 5, "protect_response": 6, "verify_request": 6, "verify_response": 6},
    "nonce.json": {"nonce": 5},
    "option.json": {"option": 8},
    "rejects.json": {
        "option": 6,
        "protect_request": 1,
        "protect_response": 1,
        "verify_request": 9,
        "verify_response": 2,
    },
    "sequences.json": {"sequence": 6},
    "group-oscore-derive.json": {"derive": 37},
    "group-oscore-messages.json": {
        "protect_request": 84,
        "protect_response": 81,
        "verify_request": 92,
        "verify_response": 88,
    },
    "group-oscore-nonce.json": {"nonce": 9},
    "group-oscore-option.json": {"option": 13},
    "group-oscore-rejects.json": {
        "derive": 16,
        "option": 16,
        "protect_request": 5,
        "protect_response": 5,
        "verify_request": 123,
        "verify_response": 42,
    },
    "group-oscore-sequences.json": {"sequence": 10},
}


def load(name: str) -> list[Vector]:
    vectors: list[Vector] = json.loads((VECTORS / name).read_text("utf-8"))["vectors"]
    return vectors


CORPUS = [vector for name in EXPECTED for vector in load(name)]
PROFILES = {
    vector["name"]: GROUP_OSCORE if name.startswith("group-oscore-") else MULTICAST_OSCORE_04
    for name in EXPECTED
    for vector in load(name)
}
ACCEPTED = [vector for vector in CORPUS if "output" in vector]
REJECTED = [vector for vector in CORPUS if "reject" in vector]


def each(vectors: list[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def check(vector: Any) -> Outcome:
    """Run it in the profile that it is of."""
    name = vector.get("name") if isinstance(vector, dict) else None
    return check_vector(vector, PROFILES.get(name, MULTICAST_OSCORE_04))


def problem(vector: Any) -> str:
    """Why the vector fails, which it must."""
    found = check(vector).problem
    assert found is not None
    return found


def test_the_corpus_is_complete() -> None:
    assert {path.name for path in VECTORS.glob("*.json")} == set(EXPECTED)
    for name, counts in EXPECTED.items():
        assert Counter(vector["kind"] for vector in load(name)) == counts, name
    assert (len(ACCEPTED), len(REJECTED)) == (47 + 414, 19 + 207)
    assert len({vector["name"] for vector in CORPUS}) == len(CORPUS)


@each(CORPUS)
def test_vector(vector: Vector) -> None:
    assert check(vector) == Outcome(vector["name"], None)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_whole_file_passes_in_its_order(name: str) -> None:
    assert list(check_file(VECTORS / name)) == [Outcome(vector["name"], None) for vector in load(name)]


# ---- the runner fails what it should


def altered(value: Any) -> Any:
    """Some other value of the same kind."""
    if isinstance(value, dict):
        key = next(iter(value))
        return {**value, key: altered(value[key])}
    if isinstance(value, list):
        return [*value[:-1], "deliver" if value[-1] != "deliver" else "reject"]
    if isinstance(value, int):
        return value + 1
    if not value:  # null or empty
        return "00"
    return value[:-1] + ("0" if value[-1] != "0" else "1")


@each(ACCEPTED)
def test_a_vector_with_one_wrong_output_fails_by_its_name(vector: Vector) -> None:
    for field, value in vector["output"].items():
        outcome = check({**vector, "output": {**vector["output"], field: altered(deepcopy(value))}})
        assert outcome.name == vector["name"]
        assert outcome.problem is not None
        assert outcome.problem.startswith(field)


@each(ACCEPTED)
def test_what_is_accepted_fails_where_it_must_be_refused(vector: Vector) -> None:
    wrong = {key: value for key, value in vector.items() if key != "output"}
    assert problem({**wrong, "reject": "the reason"}) == "accepted, must be refused: the reason"


@each(REJECTED)
def test_what_is_refused_fails_where_it_must_be_accepted(vector: Vector) -> None:
    wrong = {key: value for key, value in vector.items() if key != "reject"}
    assert problem({**wrong, "output": {"message": ""}}).startswith("refused: ")


@pytest.mark.parametrize("kind", ["", "protect", "Derive", None])
def test_an_unknown_kind_fails(kind: object) -> None:
    assert "unknown kind" in problem({**CORPUS[0], "kind": kind})


def test_a_missing_kind_fails() -> None:
    assert "unknown kind" in problem({key: value for key, value in CORPUS[0].items() if key != "kind"})


@pytest.mark.parametrize("vector", [None, 5, "derive", []])
def test_what_is_no_vector_fails(vector: object) -> None:
    assert problem(vector)


def test_a_vector_needs_exactly_one_expectation() -> None:
    neither = {key: value for key, value in ACCEPTED[0].items() if key != "output"}
    for wrong in (neither, {**ACCEPTED[0], "reject": "why"}):
        assert problem(wrong) == "needs either output or reject"


@each([ACCEPTED[0], REJECTED[0]])
@pytest.mark.parametrize("data", [{}, None, [], "text"])
def test_an_unusable_input_fails_even_where_a_refusal_is_expected(vector: Vector, data: object) -> None:
    assert "not a usable vector" in problem({**vector, "input": data})


def test_an_output_field_that_is_not_known_fails() -> None:
    assert problem({**ACCEPTED[0], "output": {**ACCEPTED[0]["output"], "extra": "00"}}) == "extra: not known"


def test_an_unknown_algorithm_is_a_refusal() -> None:
    wrong = deepcopy(ACCEPTED[0])
    wrong["input"]["common"]["aead"] = 999
    assert problem(wrong).startswith("refused: ")


def test_a_wrong_common_iv_length_is_a_refusal() -> None:
    wrong = deepcopy(next(vector for vector in ACCEPTED if vector["kind"] == "nonce"))
    wrong["input"]["common_iv"] += "00"
    assert problem(wrong).startswith("refused: ")


def test_a_response_that_cannot_be_asked_for_is_a_refusal() -> None:
    wrong = deepcopy(next(v for v in ACCEPTED if v["name"] == "protect-response-notification"))
    wrong["input"]["fresh_partial_iv"] = False
    assert problem(wrong).startswith("refused: ")


def test_where_a_vector_says_how_it_fails_it_must_fail_so() -> None:
    rejects = [vector for vector in REJECTED if "fails" in vector]
    ways = Counter(vector["fails"] for vector in rejects)
    assert set(ways) == {"malformed", "context", "cryptography", "countersignature", "binding", "misuse"}
    for vector in rejects:
        other = "context" if vector["fails"] == "malformed" else "malformed"
        assert problem({**vector, "fails": other}).startswith(f"refused, but not as {other}: ")
        assert problem({**vector, "fails": "loudly"}) == "fails: 'loudly' is not known"
        assert check({key: value for key, value in vector.items() if key != "fails"}).problem is None
    assert problem({**rejects[0], "fails": ["malformed"]}) == "fails: ['malformed'] is not known"


def test_a_vector_is_of_its_own_profile_only() -> None:
    """Where the two differ in what they take: derivation, and everything that is protected."""
    for vector in CORPUS:
        if "output" in vector and vector["kind"] in ("derive", "protect_request", "verify_request", "sequence"):
            of = PROFILES[vector["name"]]
            other = MULTICAST_OSCORE_04 if of is GROUP_OSCORE else GROUP_OSCORE
            assert check_vector(vector, other).problem is not None, vector["name"]


def test_an_echo_value_too_few_is_not_a_usable_vector() -> None:
    wrong = deepcopy(next(v for v in ACCEPTED if v["name"] == "group-oscore-sequence-aead-challenge-then-echo"))
    wrong["input"]["echo_values"] = []
    assert "not a usable vector" in problem(wrong)


# ---- those of Group OSCORE, and where they come from


def inputs(kind: str) -> Iterator[Vector]:
    for name in EXPECTED:
        if name.startswith("group-oscore-"):
            yield from (vector["input"] for vector in load(name) if vector["kind"] == kind and "output" in vector)


def test_the_vectors_of_group_oscore_reach_everything_that_can_be_chosen() -> None:
    checked = [*inputs("verify_request"), *inputs("verify_response")]
    commons = [data["common"] for data in checked]
    aeads = {1, 2, 3, 10, 11, 12, 13, 24, 30, 31, 32, 33}
    assert {common["group_encryption"] for common in commons} == aeads | {-65532, -65533, -65534}
    assert {common["aead"] for common in commons} == aeads | {None}
    assert {common["kdf"] for common in commons} == {"sha256", "sha384", "sha512"}
    assert {common["key_agreement"] for common in commons} == {-27, -28, None}
    assert {common["signature"] for common in commons} == {-8, -7, -35}
    assert {common["sign_protected"] for common in commons} == {True, False}
    credentials = [common["manager_credential"] for common in commons]
    credentials += [entry["credential"] for data in checked for entry in data["recipients"].values()]
    tagged = {(credential["kind"], credential["data"][:2] in ("d2", "d8")) for credential in credentials}
    assert tagged == {("ccs", False), ("ccs", True), ("cwt", False), ("cwt", True), ("x509", False)}

    answers = load("group-oscore-messages.json")
    mixes = Counter(
        (vector["input"]["request"]["mode"], vector["output"]["mode"])
        for vector in answers
        if vector["kind"] == "verify_response"
    )
    assert min(mixes.values()) > 10
    assert len(mixes) == 4
    shown = {
        (v["input"]["fresh_partial_iv"], v["input"]["include_gid"], v["input"]["include_kid"])
        for v in answers
        if v["kind"] == "protect_response"
    }
    assert len(shown) == 6  # not without a kid where the Gid is shown
    assert any(data["request"]["gid"] != data["common"]["gid"] for data in inputs("protect_response"))
    assert {data["request"]["observe"] for data in inputs("verify_response")} == {True, False}


def test_the_generator_makes_the_same_files_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(GENERATOR), str(tmp_path)], check=True, capture_output=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in VECTORS.glob("group-oscore-*.json")}


def test_the_generator_shares_nothing_with_this_project() -> None:
    imported = set()
    for node in ast.walk(ast.parse(GENERATOR.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None
            imported.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
    assert imported - set(sys.stdlib_module_names) == {"cryptography", "cbor2"}


# ---- files


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize("number", ["groupcoap-vectors-2", "", None])
def test_another_format_fails_the_file(tmp_path: Path, number: object) -> None:
    path = write(tmp_path / "v.json", {"format": number, "profile": PROFILE, "vectors": CORPUS[:1]})
    (outcome,) = check_file(path)
    assert outcome.name == "v.json"
    assert outcome.problem is not None
    assert FORMAT in outcome.problem


@pytest.mark.parametrize("profile", ["multicast-oscore-05", "", None, []])
def test_another_profile_fails_the_file(tmp_path: Path, profile: object) -> None:
    path = write(tmp_path / "v.json", {"format": FORMAT, "profile": profile, "vectors": CORPUS[:1]})
    (outcome,) = check_file(path)
    assert outcome.problem is not None
    assert "profile" in outcome.problem


@pytest.mark.parametrize("content", [{}, {"format": FORMAT}, {"profile": PROFILE}])
def test_a_file_without_format_or_profile_fails(tmp_path: Path, content: Vector) -> None:
    (outcome,) = check_file(write(tmp_path / "v.json", {**content, "vectors": []}))
    assert outcome.problem is not None


def test_one_failing_vector_does_not_hide_the_others(tmp_path: Path) -> None:
    content = {
        "format": FORMAT,
        "profile": PROFILE,
        "vectors": [CORPUS[0], {"name": "odd", "kind": "?"}, CORPUS[1]],
    }
    outcomes = list(check_file(write(tmp_path / "v.json", content)))
    assert [outcome.problem is None for outcome in outcomes] == [True, False, True]
    assert outcomes[1].name == "odd"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"vectors": {}}', '{"vectors": 1}'])
def test_what_is_no_vector_file_is_a_fault_of_the_file(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "v.json", content)
    with pytest.raises(FileFault, match=r"v\.json"):
        list(check_file(path))


def test_a_file_that_is_not_text_or_not_there_is_a_fault_of_the_file(tmp_path: Path) -> None:
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path / "missing.json"):
        with pytest.raises(FileFault, match=path.name):
            list(check_file(path))
