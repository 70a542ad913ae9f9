"""Datagrams explained (cli/explain.py, cli/vocabulary.py, cli/decode.py)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from groupcoap.cli.decode import _json, _shown
from groupcoap.cli.explain import Outcome, explain
from groupcoap.cli.onlooker import Onlooker, onlooker
from groupcoap.cli.text import printable
from groupcoap.core import coap
from groupcoap.core.option import partial_iv_bytes
from groupcoap.core.profile import RequestIds

from ..choices import Choices
from ..device import configuration
from ..group import (
    ADDRESS,
    GROUPS,
    LAMP,
    MULTICAST,
    OTHER_LAMP,
    SPEAKERS,
    SWITCH,
    Group,
    choose_number,
    choose_options,
    choose_peer,
    choose_plaintext,
    damaged,
    gid,
)


def check(data: bytes) -> None:
    """Nothing is raised, with keys and without, and all of it can be shown. Nothing that is damaged or forged is
    called verified."""
    choices = Choices(data)
    group = choices.one_of(GROUPS)
    datagram, asked, good = _choose_datagram(choices, group)
    destination = choices.one_of((None, ADDRESS.packed, bytes(4)))
    for view in (None, _view(group)):
        explanation = explain(
            datagram, view, destination=destination, destination_known=choices.flag(), request=asked
        )
        json.dumps(_json(explanation))
        for section in explanation.sections:
            for row in section.rows:
                assert printable(f"{row.name}: {_shown(row)}  ({row.remark})").isprintable()
        assert printable(explanation.verdict.text).isprintable()
        assert explanation.verdict.outcome is not Outcome.VERIFIED or (good and view is not None)


def _choose_datagram(choices: Choices, group: Group) -> tuple[bytes, bytes | None, bool]:
    """(datagram, the request that it may answer, whether a member made the datagram)"""
    if choices.below(4) == 0:
        asked = choices.some() if choices.flag() else None
        return choices.rest(), asked, False
    kid, number, plaintext = choices.one_of(SPEAKERS), choose_number(choices), choose_plaintext(choices)
    epoch, forged, kind = choices.below(2), choices.below(8) == 7, choices.below(4)
    outer = tuple(o for o in choose_options(choices, 1) if o[0] != coap.OBJECT_SECURITY)
    if choices.flag():
        to = choose_peer(choices, group, (LAMP, OTHER_LAMP))
        message = group.request(kid, number, plaintext, to=to, epoch=epoch, forged=forged, kind=kind, outer=outer)
        asked = None
    else:
        asked = coap.encode(group.request(SWITCH, 5, coap.BYTE[coap.GET], epoch=0))
        ids = RequestIds(SWITCH, partial_iv_bytes(5), gid(0))
        own = None if choices.flag() else number
        message = group.response(
            kid,
            ids,
            own,
            plaintext,
            to=choose_peer(choices, group, (LAMP, SWITCH)),
            with_kid=group is MULTICAST or choices.flag(),
            epoch=epoch,
            with_gid=choices.flag(),
            forged=forged,
            kind=kind,
            outer=outer,
        )
    good = not forged
    if choices.below(4) == 3:
        message, good = damaged(message, choices), False
    return coap.encode(message), asked, good


@cache
def _view(group: Group) -> Onlooker:
    return onlooker([(Path("lamp-1"), configuration(epochs=2, group=group))])
