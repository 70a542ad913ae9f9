"""CBOR that came from outside, taken apart with care: bounded in depth, no key twice in a map, nothing left over.

None of the messages here has tags: what is tagged fits no field that is known, so that no date, regular expression
or number of any size is made of it; as an unknown field it is ignored like any other."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from io import BytesIO
from math import isfinite
from typing import Final, ParamSpec, TypeVar

import cbor2

from ..core.coap import BAD_REQUEST
from ..errors import MisuseError, Reason, Refused, Rejected

P = ParamSpec("P")
T = TypeVar("T")

Key = int | str | bytes
Map = dict[Key, object]

MAX_DEPTH: Final = 16
MAX_UINT: Final = (1 << 64) - 1


class Other:
    """A tagged item, of which no message here has any."""

    def __repr__(self) -> str:
        return "OTHER"


OTHER: Final = Other()


class Malformed(Exception):
    """What came is not what it must be; the text says which part. It does not leave this package."""


def refusing(parse: Callable[P, T]) -> Callable[P, T]:
    """A parser of requests: what is malformed becomes `Refused` (4.00)."""

    @wraps(parse)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return parse(*args, **kwargs)
        except (Malformed, MisuseError) as error:
            raise Refused(BAD_REQUEST, str(error)) from None

    return guarded


def rejecting(parse: Callable[P, T]) -> Callable[P, T]:
    """A parser of what a Group Manager sends: what is malformed becomes `Rejected`."""

    @wraps(parse)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return parse(*args, **kwargs)
        except (Malformed, MisuseError) as error:
            raise Rejected(Reason.MALFORMED, str(error)) from None

    return guarded


def decode(data: bytes) -> object:
    """The one CBOR item that these bytes are. `Malformed` if they are not."""
    stream = BytesIO(data)
    try:
        decoder = cbor2.CBORDecoder(
            stream, semantic_decoders=_UNTAGGED, max_depth=MAX_DEPTH, allow_duplicate_keys=False
        )
        value: object = decoder.decode()
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise Malformed(f"not CBOR ({type(error).__name__})") from None
    if stream.read(1):
        raise Malformed("bytes left over after the CBOR")
    return value


def _skip(_value: object, *_: object) -> object:
    return OTHER


_UNTAGGED: Final = dict.fromkeys(
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799), _skip
)
"""The tags that cbor2 would make something of."""


_KEYS: Final = frozenset((int, str, bytes))


def fields(value: object, what: str) -> Map:
    """A map."""
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not a map")
    if not _KEYS.issuperset(map(type, value)):  # True and 1.0 would be taken for the key 1
        raise Malformed(f"{what} has a key that is neither number nor string")
    return value


def needed(entries: Map, key: Key, what: str) -> object:
    """The entry with this key."""
    if key not in entries:
        raise Malformed(f"{what} is missing")
    return entries[key]


def octets(value: object, what: str, low: int = 0, high: int | None = None) -> bytes:
    """A byte string of `low` to `high` bytes."""
    if not isinstance(value, bytes):
        raise Malformed(f"{what} is not a byte string")
    if len(value) < low or (high is not None and len(value) > high):
        raise Malformed(f"{what} has {len(value)} bytes")
    return value


def integer(value: object, what: str, low: int = 0, high: int = MAX_UINT) -> int:
    """An integer from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed(f"{what} is not an integer")
    if not low <= value <= high:
        raise Malformed(f"{what} is out of range")
    return value


def seconds(value: object, what: str) -> float:
    """A finite number that is not negative, as float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Malformed(f"{what} is not a number")
    if not isfinite(value) or value < 0:
        raise Malformed(f"{what} is out of range")
    return float(value)


def text(value: object, what: str, high: int | None = None) -> str:
    """A text string of at most `high` bytes."""
    if not isinstance(value, str):
        raise Malformed(f"{what} is not a text string")
    if high is not None and len(value.encode()) > high:
        raise Malformed(f"{what} is too long")
    return value


def boolean(value: object, what: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Malformed(f"{what} is neither true nor false")
    return value


def array(value: object, what: str, length: int | None = None) -> list[object]:
    """An array, of `length` items."""
    if not isinstance(value, list):
        raise Malformed(f"{what} is not an array")
    if length is not None and len(value) != length:
        raise Malformed(f"{what} has not {length} items")
    return value
