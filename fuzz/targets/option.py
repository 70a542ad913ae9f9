"""The Object-Security option's value (core/option.py, core/multicast_oscore_04.py)."""

from __future__ import annotations

from groupcoap.core.multicast_oscore_04 import FLAG_COUNTERSIGN, MULTICAST_OSCORE_04, split_tail
from groupcoap.core.option import FLAG_GID, FLAG_KID, decode_prefix, encode_prefix, partial_iv_bytes
from groupcoap.errors import Rejected

from ..group import common_context

_FURTHER = FLAG_COUNTERSIGN | FLAG_KID | 0xC0


def check(data: bytes) -> None:
    """Every step raises `Rejected` or gives parts that are the value again when they are put together, the Partial
    IV in its only encoding. What may stand in a request or response has all that it must have."""
    try:
        prefix = decode_prefix(data)
    except Rejected:
        return
    flags, partial_iv, gid, rest = prefix
    assert len(data) <= 255
    if data:
        assert encode_prefix(flags & _FURTHER, partial_iv, gid) + rest == data
    assert partial_iv is None or partial_iv == partial_iv_bytes(int.from_bytes(partial_iv, "big"))
    assert (gid is not None) == bool(flags & FLAG_GID)
    MULTICAST_OSCORE_04.is_group_message(prefix)
    common = common_context()
    q = common.signature_length
    try:
        kid, signature = split_tail(prefix, q)
    except Rejected:
        kid = signature = None
    else:
        assert (signature or b"") + (kid or b"") == rest
        assert (kid is not None, signature is not None) == (bool(flags & FLAG_KID), bool(flags & FLAG_COUNTERSIGN))
    try:
        request = MULTICAST_OSCORE_04.split_request_option(common, prefix)
        assert request == (kid, signature)
        assert None not in (kid, signature, partial_iv, gid)
    except Rejected:
        pass
    try:
        response = MULTICAST_OSCORE_04.split_response_option(common, prefix)
        assert response == (kid, signature)
        assert None not in (kid, signature)
    except Rejected:
        pass
