"""Messages of the core as aiocoap's and back (endpoint/messages.py)."""

from __future__ import annotations

from groupcoap.core import coap
from groupcoap.core.coap import Message
from groupcoap.endpoint.messages import from_core, to_core
from groupcoap.errors import Rejected

from ..choices import Choices
from ..group import choose_options


def check(data: bytes) -> None:
    """`Rejected`, or a message that is the same when it comes back, but for the length of numbers."""
    choices = Choices(data)
    kind, code, message_id = choices.below(4), choices.byte(), choices.number(2)
    message = Message(kind, code, message_id, choices.take(4), choose_options(choices), choices.rest())
    try:
        theirs = from_core(message, None)
    except Rejected:
        return
    ours = to_core(theirs)
    assert ours._replace(options=()) == message._replace(options=())
    assert sorted(number for number, _ in ours.options) == [number for number, _ in message.options]
    assert to_core(from_core(ours, None)) == ours
    if code != coap.EMPTY:
        assert coap.decode(coap.encode(ours)) == ours
