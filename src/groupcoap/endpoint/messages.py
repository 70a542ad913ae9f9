"""Messages of the core as aiocoap's, and the other way round.

aiocoap's own `Message.encode` and `Message.decode` do the same by way of a datagram. These go directly, take the
datagram's checks from `core.coap`, and let out only this package's exceptions. Relied on of aiocoap (0.4.17):

* `Message.code`, `mtype`, `mid`, `token`, `payload`, `opt`, `remote`, and `direction` with `message.Direction`: set
  on an empty message, as `Message.decode` does for most (arguments of the constructor would be converted again);
* `Options.option_list()`: all options in ascending order of number, repeated ones in their order; each has
  `number` and `encode()`;
* `Options.add_option()`, and `OptionNumber.create_option(decode=)` as in `Options.decode`;
* `OptionNumber` and `ContentFormat` are Enums of int whose members without a name are the bare number, which they
  would remember in `_value2member_map_`;
* `OptionNumber.format`: the class of an option's values, made as `StringOption(number, str)`,
  `UintOption(number, int)`.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiocoap.message import Direction, Message
from aiocoap.numbers import Code, ContentFormat, Type
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.optiontypes import ContentFormatOption, StringOption, UintOption

from ..core import coap
from ..errors import MisuseError, Reason, Rejected

_new = tuple.__new__  # a NamedTuple made this way costs a third; its own constructor does nothing else


def _string(number: OptionNumber, value: bytes) -> Any:
    return StringOption(number, value.decode())


def _uint(number: OptionNumber, value: bytes) -> Any:
    return UintOption(number, int.from_bytes(value, "big"))


def _content_format(number: OptionNumber, value: bytes) -> Any:
    if len(value) > 2:  # RFC 7252 Table 4
        raise ValueError("a Content-Format has at most 2 bytes")
    return ContentFormatOption(number, _number(ContentFormat, int.from_bytes(value, "big")))


def _number(kind: Any, value: int) -> Any:
    """The number as a member of aiocoap's Enum. Made by calling that, one without a name would be remembered for
    ever: peers could fill tens of megabytes with them."""
    known = kind._value2member_map_.get(value)
    if known is None:
        known = int.__new__(kind, value)
        known._value_ = value
    return known


def _any(number: OptionNumber, value: bytes) -> Any:
    return number.create_option(decode=value)


# For the numbers that aiocoap knows: the look-up of a number and `create_option` cost several times the option.
# What an application has given a format of its own (`OptionNumber.set_format`) goes the general way.
_FORMATS: dict[Any, Callable[[OptionNumber, bytes], Any]] = {
    StringOption: _string,
    UintOption: _uint,
    ContentFormatOption: _content_format,
}
_INCOMING = Direction.INCOMING
_CODES = tuple(Code(number) for number in range(256))
_TYPES = tuple(Type(number) for number in range(4))
_KNOWN = {int(number): (number, _FORMATS.get(number.format, _any)) for number in OptionNumber}


def to_core(message: Message) -> coap.Message:
    """The core's value of a message that is ready to be sent, or was received. Nothing of it is shared.

    `MisuseError` if code, type or Message ID is not set, or an option has a value that cannot be encoded."""
    kind, code, message_id = message.mtype, message.code, message.mid
    if kind is None or code is None or message_id is None:
        raise MisuseError("a message without code, type or Message ID")
    try:
        options = tuple([(int(option.number), option.encode()) for option in message.opt.option_list()])
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise MisuseError(f"an option with a value that is not of its format: {error}") from None
    return _new(coap.Message, (int(kind), int(code), message_id, message.token, options, message.payload))


def from_core(message: coap.Message, remote: Any) -> Message:
    """A message as aiocoap's stack would have made it of a datagram that came from `remote`.

    `Rejected` (malformed) if an option's value is not of the option's format. Numbers of format uint come out
    in their shortest form if they are encoded again (RFC 7252 §3.2)."""
    kind, code, message_id, token, options, payload = message
    result = Message()
    result.code = _CODES[code]
    result.mtype = _TYPES[kind]
    result.mid = message_id
    result.token = token
    result.payload = payload
    add = result.opt.add_option
    try:
        for number, value in options:
            known = _KNOWN.get(number)
            if known is None:
                add(_number(OptionNumber, number).create_option(decode=value))
            else:
                add(known[1](known[0], value))
    except ValueError as error:  # UnicodeDecodeError is one
        raise Rejected(Reason.MALFORMED, f"option {number} with a value not of its format: {error}") from None
    result.remote = remote
    result.direction = _INCOMING
    return result
