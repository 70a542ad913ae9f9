"""What a Group Manager and its members say to each other (keying/, association/setup.py, manager/resources.py)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from ipaddress import IPv4Address

import cbor2

from groupcoap.association.setup import AssociateRequest, AssociateResponse
from groupcoap.core.policy import GroupPolicy, profile_by_name
from groupcoap.cose.algorithms import DEFAULT_AEAD
from groupcoap.cose.credentials import CredentialKind, claims_set
from groupcoap.cose.keys import DEFAULT_SIGNATURE, PrivateKey
from groupcoap.errors import Refused, Rejected
from groupcoap.keying.admin import AdminKey, AdminKeys, Scheme, make_kid
from groupcoap.keying.envelope import parse_envelope, seal
from groupcoap.keying.joining import (
    Held,
    JoinRequest,
    MemberEntry,
    control_group_uri,
    control_uri,
    encode_credentials,
    encode_filter,
    parse_challenge,
    parse_credentials,
    parse_filter,
    parse_gids,
    parse_names,
)
from groupcoap.keying.material import KeyMaterial
from groupcoap.keying.refusals import parse_refusal
from groupcoap.keying.rekeying import RekeyMessage
from groupcoap.keying.report import KeyReport
from groupcoap.manager.resources import read_confirmation, read_credential, read_number
from groupcoap.membership import GroupAddress, Role, SecurityParameters
from groupcoap.secret import Secret

from ..choices import Choices

_REQUESTS: tuple[Callable[[bytes], object], ...] = (
    JoinRequest.parse,
    parse_filter,
    parse_gids,
    read_number,
    read_credential,
    lambda data: read_confirmation(data, "room"),
    AssociateRequest.parse,
)
_RESPONSES: tuple[Callable[[bytes], object], ...] = (
    KeyReport.parse,
    RekeyMessage.parse,
    lambda data: RekeyMessage.parse(data, seed=True),
    parse_credentials,
    parse_names,
    AdminKeys.parse,
    AssociateResponse.parse,
)
_LABELS = (*range(-2, 49), *range(-65551, -65535))
_KEY = AdminKey(make_kid(b"fuzz", 1, 1), Secret(bytes(16)), 1, 1)
_BASE_IV = bytes(DEFAULT_AEAD.nonce_length)


def check(data: bytes) -> None:
    """Requests are parsed or `Refused`, what a manager sends is parsed or `Rejected`; what is never refused is
    never refused. A join request that is accepted says what it said when it is encoded again. An envelope opens
    only if it is the one that was sealed."""
    choices = Choices(data)
    kind = choices.below(4)
    if kind == 0:
        _check_request(choices.one_of(_REQUESTS), _bytes(choices))
    elif kind == 1:
        _check_response(choices.one_of(_RESPONSES), _bytes(choices))
    elif kind == 2:
        content = _bytes(choices)
        assert parse_challenge(content) is None or content
        assert parse_refusal(choices.byte(), choices.number(2), content).title
    else:
        _check_envelope(choices)


def _bytes(choices: Choices) -> bytes:
    """A message as it should be with some fields changed, a map with fields that there are, or any bytes."""
    kind = choices.below(4)
    if kind == 0:
        return choices.rest()
    content: dict[object, object] = {} if kind == 1 else dict(choices.one_of(_messages()))
    while choices.left and len(content) < 40:
        label = choices.one_of(_LABELS)
        if choices.flag():
            content.pop(label, None)
        else:
            content[label] = _value(choices, 3)
    return cbor2.dumps(content)


@cache
def _messages() -> tuple[dict[object, object], ...]:
    """One of each, as maps."""
    roles = frozenset({Role.MULTICASTER, Role.LISTENER})
    credential = claims_set(_manager().public_key, DEFAULT_SIGNATURE, "gm")
    entry = MemberEntry(b"\x01", roles, credential.data, "lamp")
    admin = AdminKeys(DEFAULT_AEAD, _BASE_IV, (_KEY,), 2)
    gid, secret = bytes(12), Secret(bytes(16))
    uri = control_uri("room", "127.0.0.1", 5683)
    join = JoinRequest("room", roles, bytes(8), True, credential.data, bytes(64), uri, Held(gid, 3))
    update = RekeyMessage(gid, secret, b"", 4, 60, 99, frozenset((b"\x02",)), (entry,), admin, 3, seed=True)
    parameters = SecurityParameters(profile_by_name("multicast-oscore-04"), manager_credential=credential)
    address = GroupAddress(IPv4Address("224.0.1.187"))
    report = KeyReport(
        material=KeyMaterial(parameters, gid, secret, b"", CredentialKind.CCS, b"\x01"),
        num=4,
        expires_in=60,
        expires_at=99,
        scheme=Scheme.LKH,
        admin=admin,
        control_group=control_group_uri("room", address),
        policy=GroupPolicy(grace=0.5),
        check_interval=60,
        addresses=(address,),
        incarnation=bytes(8),
        roster=2,
        confirm_within=1.0,
        members=(entry,),
        manager_credential=credential,
        manager_nonce=bytes(8),
        manager_proof=bytes(64),
    )
    encoded = (
        join.encode(),
        update.encode(),
        report.encode(),
        encode_credentials(4, [entry]),
        encode_filter(None, [6]),
    )
    return tuple(cbor2.loads(data) for data in encoded)


def _value(choices: Choices, depth: int) -> object:
    match choices.below(9 if depth else 6):
        case 0:
            return choices.byte()
        case 1:
            return choices.some()
        case 2:
            return choices.some().decode("latin-1")
        case 3:
            return choices.one_of((None, True, False, 1.5, -choices.byte(), 1 << 40))
        case 4:
            return cbor2.dumps(["room", choices.byte()])
        case 5:
            return "coap://127.0.0.1:5683/ace-group/room/node"
        case 6:
            return [_value(choices, depth - 1) for _ in range(choices.below(4))]
        case 7:
            return {choices.one_of(_LABELS): _value(choices, depth - 1) for _ in range(choices.below(6))}
    return cbor2.CBORTag(choices.byte(), _value(choices, depth - 1))


def _check_request(parse: Callable[[bytes], object], data: bytes) -> None:
    refusal: Refused | None = None
    try:
        parsed = parse(data)
    except Refused as refused:
        refusal = refused
    if refusal is not None:
        assert refusal.code >> 5 == 4
        assert refusal.title
    elif isinstance(parsed, JoinRequest):
        assert JoinRequest.parse(parsed.encode()) == parsed


def _check_response(parse: Callable[[bytes], object], data: bytes) -> None:
    try:
        parse(data)
    except Rejected:
        return


@cache
def _manager() -> PrivateKey:
    return DEFAULT_SIGNATURE.private_key(Secret(bytes(range(32))))


@cache
def _sealed() -> bytes:
    return seal(b"plaintext", _KEY, DEFAULT_AEAD, _BASE_IV, 0, 7, _manager())


def _check_envelope(choices: Choices) -> None:
    """Damaged somewhere, or any bytes."""
    whole = _sealed()
    if choices.flag():
        data = choices.rest()
    else:
        at = choices.number(2) % len(whole)
        data = whole[:at] + choices.some() + whole[at + choices.below(3) :]
    try:
        envelope = parse_envelope(data)
        if envelope.kid != _KEY.kid:
            return  # a member looks for the key first
        opened = envelope.open(_KEY, DEFAULT_AEAD, _BASE_IV, _manager().public_key)
    except Rejected:
        return
    assert opened == b"plaintext"
