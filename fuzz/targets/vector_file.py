"""Files of test vectors (vectors.py)."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from groupcoap.errors import FileFault
from groupcoap.vectors import check_file, check_vector

from ..choices import Choices
from ..documents import choose_changes, directory, written

_VECTORS = Path(__file__).parents[2] / "tests" / "vectors"


def check(data: bytes) -> None:
    """A vector always has an outcome, whatever stands in it, and a good one passes. A file that is none gives
    `FileFault`."""
    choices = Choices(data)
    if choices.below(8) == 7:
        path = written(directory("vectors") / "vectors.json", choices.rest())
        with suppress(FileFault):
            list(check_file(path))
        return
    good = choices.one_of(_good_ones())
    vector = choose_changes(choices, good)
    outcome = check_vector(vector)
    assert outcome.problem is None or vector != good


@cache
def _good_ones() -> list[Any]:
    """The vectors of the repository, but for the long ones."""
    found = []
    for path in sorted(_VECTORS.glob("*.json")):
        found += json.loads(path.read_bytes())["vectors"]
    return [vector for vector in found if len(json.dumps(vector)) < 4000]
