"""Files of test vectors (vectors.py)."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from groupcoap.core.policy import PROFILES
from groupcoap.errors import FileFault
from groupcoap.vectors import FORMAT, check_file, check_vector

from ..choices import Choices
from ..documents import choose_changes, directory, written

_PROFILES = tuple(PROFILES.values())
_VECTORS = Path(__file__).parents[2] / "tests" / "vectors"


def check(data: bytes) -> None:
    """A vector always has an outcome, whatever stands in it, and a good one passes. A file that is none gives
    `FileFault`."""
    choices = Choices(data)
    profile = choices.one_of(_PROFILES)
    if choices.below(8) == 7:
        path = written(directory("vectors") / "vectors.json", choices.rest())
        with suppress(FileFault):
            list(check_file(path))
        return
    known = _good_ones(profile.name)
    good = known[choices.number(1 if len(known) <= 256 else 2) % len(known)]
    vector = choose_changes(choices, good)
    outcome = check_vector(vector, profile)
    assert outcome.problem is None or vector != good


@cache
def _good_ones(profile: str) -> list[Any]:
    """The repository's vectors of this profile, but for the long ones."""
    found: list[Any] = []
    for path in sorted(_VECTORS.glob("*.json")):
        content = json.loads(path.read_bytes())
        if content.get("format") == FORMAT and content["profile"] == profile:
            found += content["vectors"]
    return [vector for vector in found if len(json.dumps(vector)) < 4000]
