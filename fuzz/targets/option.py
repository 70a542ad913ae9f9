"""The OSCORE option's value (core/option.py, and what the profiles do with the rest of it)."""

from __future__ import annotations

from groupcoap.core.group_oscore import FLAG_GROUP
from groupcoap.core.multicast_oscore_04 import FLAG_COUNTERSIGN, split_tail
from groupcoap.core.option import FLAG_GID, FLAG_KID, OptionPrefix, decode_prefix, encode_prefix, partial_iv_bytes
from groupcoap.core.profile import OptionTail
from groupcoap.errors import Rejected

from ..choices import Choices
from ..group import GROUPS, MULTICAST, Group

_FURTHER = FLAG_COUNTERSIGN | FLAG_GROUP | FLAG_KID | 0xC0


def check(data: bytes) -> None:
    """Every step raises `Rejected` or gives parts that are the value again when they are put together, the Partial
    IV in its only encoding. What may stand in a request or response has all that it must have."""
    choices = Choices(data)
    group, value = choices.one_of(GROUPS), choices.rest()
    try:
        prefix = decode_prefix(value)
    except Rejected:
        return
    flags, partial_iv, gid, rest = prefix
    assert len(value) <= 255
    if value:
        assert encode_prefix(flags & _FURTHER, partial_iv, gid) + rest == value
    assert partial_iv is None or partial_iv == partial_iv_bytes(int.from_bytes(partial_iv, "big"))
    assert (gid is not None) == bool(flags & FLAG_GID)
    group.profile.is_group_message(prefix)
    expected = _multicast_tail(prefix) if group is MULTICAST else _group_oscore_tail(prefix)
    request, response = _split(group, prefix)
    assert request is None or (request == expected and None not in (partial_iv, gid, request[0]))
    assert response is None or response == expected
    assert request is None or response is not None  # a response needs nothing that a request does not


def _split(group: Group, prefix: OptionPrefix) -> tuple[OptionTail | None, OptionTail | None]:
    """As a request's and as a response's; None where it cannot be one."""
    common = group.common_context()
    found: list[OptionTail | None] = []
    for split in (group.profile.split_request_option, group.profile.split_response_option):
        try:
            found.append(split(common, prefix))
        except Rejected:
            found.append(None)
    return found[0], found[1]


def _multicast_tail(prefix: OptionPrefix) -> OptionTail | None:
    """What stands behind the prefix, if it is a message's with kid and countersignature."""
    flags, _, _, rest = prefix
    try:
        kid, signature = split_tail(prefix, MULTICAST.common_context().signature_length)
    except Rejected:
        return None
    assert (signature or b"") + (kid or b"") == rest
    assert (kid is not None, signature is not None) == (bool(flags & FLAG_KID), bool(flags & FLAG_COUNTERSIGN))
    return None if kid is None or signature is None else (kid, signature, False)


def _group_oscore_tail(prefix: OptionPrefix) -> OptionTail | None:
    flags, _, _, rest = prefix
    if flags & 0xC0 or (rest and not flags & FLAG_KID):
        return None
    return rest if flags & FLAG_KID else None, b"", not flags & FLAG_GROUP
