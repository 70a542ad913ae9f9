"""External signature checkers (core/checker.py)."""

from __future__ import annotations

from groupcoap.core import coap
from groupcoap.core.checker import SignatureChecker, request_ids
from groupcoap.core.coap import Message
from groupcoap.core.option import partial_iv_bytes
from groupcoap.core.profile import RequestIds
from groupcoap.errors import Rejected

from ..choices import Choices
from ..group import (
    GROUPS,
    IDS,
    LAMP,
    MULTICAST,
    OTHER_LAMP,
    SPEAKERS,
    STRANGER,
    SWITCH,
    Group,
    choose_number,
    choose_options,
    choose_peer,
    choose_plaintext,
    damaged,
    gid,
    object_security_of,
    private_key,
)

_GROUPS = tuple(group for group in GROUPS if group is not MULTICAST)
_IDS = (RequestIds(SWITCH, b"\x05", gid()), RequestIds(LAMP, b"\x05", gid()), RequestIds(SWITCH, b"\x05", gid(1)))


def check(data: bytes) -> None:
    """A checker that knows all members but the stranger gets any bytes, or a message of a member, damaged or
    forged, in either mode, under either Gid. `Rejected`, or who has made it in group mode, for this request."""
    choices = Choices(data)
    group = choices.one_of(_GROUPS)
    checker = _checker(group)
    if choices.below(4) == 0:
        _check_bytes(checker, choices.rest(), choices.one_of(_IDS))
        return
    kid, to, forged = choices.one_of(SPEAKERS), choose_peer(choices, group, (LAMP, OTHER_LAMP)), choices.flag()
    number, plaintext, epoch = choose_number(choices), choose_plaintext(choices), choices.below(2)
    outer = tuple(o for o in choose_options(choices, 1) if o[0] != coap.OBJECT_SECURITY)
    ids = RequestIds(kid, partial_iv_bytes(number), gid(epoch))
    is_request = choices.flag()
    if is_request:
        message = group.request(kid, number, plaintext, to=to, epoch=epoch, forged=forged, outer=outer)
        assert request_ids(checker, message) == ids
    else:
        ids, own = choices.one_of(_IDS), None if choices.flag() else number
        with_kid, with_gid = choices.flag(), choices.flag()
        message = group.response(
            kid,
            ids,
            own,
            plaintext,
            to=to,
            with_kid=with_kid,
            epoch=epoch,
            with_gid=with_gid,
            forged=forged,
            outer=outer,
        )
    good = not forged and to is None and epoch == 0 and kid in IDS and kid != STRANGER
    asked = choices.one_of((ids, *_IDS))
    good = good and (is_request or asked == ids)
    if choices.below(4) == 3:
        message, good = damaged(message, choices), False
    try:
        checked = checker.check_request(message) if is_request else checker.check_response(message, asked)
    except Rejected:
        return
    assert good, message
    assert checked.sender_id == kid
    assert object_security_of(message).endswith(kid)


def _check_bytes(checker: SignatureChecker, datagram: bytes, ids: RequestIds) -> None:
    """Nothing that comes from nowhere is authentic."""
    try:
        message = coap.decode(datagram)
        checked = _either(checker, message, ids)
    except Rejected:
        return
    raise AssertionError(checked)


def _either(checker: SignatureChecker, message: Message, ids: RequestIds) -> object:
    if coap.is_request(message.code):
        return checker.check_request(message)
    return checker.check_response(message, ids)


def _checker(group: Group) -> SignatureChecker:
    common = group.common_context()
    assert common.signature_encryption_key is not None
    members = {
        kid: (group.credential(kid).authenticated, private_key(kid).public_key) for kid in IDS if kid != STRANGER
    }
    return SignatureChecker(
        gid=common.gid,
        signature_encryption_key=common.signature_encryption_key,
        members=members,
        manager_credential=common.manager_credential,
        encryption=common.encryption,
        signature=common.signature,
        kdf=common.kdf,
        aead=common.aead,
        key_agreement=common.key_agreement,
        sign_protected=common.sign_protected,
    )
