"""From older versions of the tables to the newest.

A new database is made as `schema` has it. `STEPS[n]` turns version n into n + 1; it says itself what it does, in
terms of the tables as they were then, since `schema` goes on. Each step runs in a transaction of its own. A step
that renames a table, a column or the values of a primary key has to seal again what is sealed there: a value is
bound to its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from sqlalchemy import Connection

from .sealing import Sealer

FORMAT: Final = "groupcoap-manager"

VERSION: Final = 1

Step = Callable[[Connection, Sealer], None]

STEPS: Final[Mapping[int, Step]] = MappingProxyType({})
