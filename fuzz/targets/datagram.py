"""CoAP datagrams (core/coap.py)."""

from __future__ import annotations

from groupcoap.core import coap
from groupcoap.errors import Rejected


def check(data: bytes) -> None:
    """Decoding raises `Rejected` or gives a message that encodes to the same bytes: there is one encoding only.
    An option list alone is read in the same way, and options that are to be ignored are left out."""
    try:
        message = coap.decode(data)
    except Rejected:
        pass
    else:
        assert coap.encode(message) == data
        assert list(message.options) == sorted(message.options, key=lambda option: option[0])
        coap.code_text(message.code)
    try:
        options, payload = coap.decode_options(data)
    except Rejected:
        return
    assert coap.encode_options(options, payload=payload) == data
    ignored = frozenset(number for number, _ in options[::2])
    assert coap.decode_options(data, 0, ignored) == (tuple(o for o in options if o[0] not in ignored), payload)
