"""What a capture's datagrams are, for people (a line each, and what it comes to) and for programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

import click
from rich.console import Console
from rich.text import Text

from ..capture.datagrams import HostPort
from ..core import coap
from ..core.coap import Message
from ..core.profile import Profile
from ..membership import COAP_PORT
from .explain import Outcome
from .known import KnownEpoch
from .onlooker import Onlooker
from .text import payload_text, plural, printable
from .traffic import Kind, MemberKey, MemberTally, Sighting, Summary
from .vocabulary import TYPES, code_name, option_name, option_value

MAX_PAYLOAD = 40
"""Characters of a payload that a line shows; --json has all of it."""

_SECOND = 10**9
_LABELS = {
    Outcome.VERIFIED: "verified",
    Outcome.COUNTERSIGNED: "countersigned",
    Outcome.REFUSED: "refused",
    Outcome.NOT_TRIED: "not decrypted",
}
STYLES = {
    Outcome.VERIFIED: "bold green",
    Outcome.COUNTERSIGNED: "green",
    Outcome.REFUSED: "bold red",
    Outcome.NOT_TRIED: "bold yellow",
}
_ALARM = "NONCE USED TWICE: same sender, Gid and number as frame {}, but another message; state restored or copied?"


class Sink(Protocol):
    """Where sightings are shown."""

    def sighting(self, sighting: Sighting, begun: int | None) -> None:
        """One more. `begun`: time of the capture's first frame."""

    def summary(self, summary: Summary) -> None:
        """That was all."""


# ---- for people


class Lines:
    """One line for each datagram, with colours on a terminal. `view`: names are said as far as it takes to tell
    groups and epochs in it apart."""

    def __init__(self, view: Onlooker | None) -> None:
        epochs = [] if view is None else view.epochs
        groups = [epoch.group for epoch in epochs]
        self._several_groups = len(set(groups)) > 1
        self._renewed = {group for group in groups if groups.count(group) > 1}
        self._with_keys = view is not None
        self._console = Console(highlight=False)
        self._route_width = 33
        self._empty = True

    def sighting(self, sighting: Sighting, begun: int | None) -> None:
        self._empty = False
        datagram = sighting.datagram
        route = f"{_shown(datagram.source)} → {_shown(datagram.destination)}"
        self._route_width = max(self._route_width, len(route))
        head = f"{datagram.number:>5}  {_after(datagram.time, begun):>9}  {route:<{self._route_width}}  "
        label, style = "", ""
        if sighting.verdict is not None:
            label, style = _LABELS[sighting.verdict.outcome], STYLES[sighting.verdict.outcome]
        self._print(head, f"{label:<13}", style, "  " + printable(self._text(sighting)))
        if sighting.earlier is not None and not sighting.earlier.same:
            self._print("", _ALARM.format(sighting.earlier.number), "bold red", "")

    def _text(self, sighting: Sighting) -> str:
        return "; ".join(part for part in (self._what(sighting), _remark(sighting)) if part)

    def _what(self, sighting: Sighting) -> str:
        verdict, message = sighting.verdict, sighting.message
        if verdict is None:
            return sighting.kind.value + ("" if message is None else f": {_plain(message)}")
        if sighting.kind in (Kind.NOT_COAP, Kind.CUT_SHORT):
            return f"{sighting.kind.value}: {verdict.detail}"
        if sighting.verified:
            said = sighting.kind.value if message is None else what(message)
            return f"{self._who(sighting)}: {said}{_answers(sighting)}"
        claim = f"{sighting.kind.value}{_answers(sighting)}"
        if not self._with_keys:
            return claim + self._unread(sighting)
        if sighting.sender_id is not None:
            claim += f", as if from {self._who(sighting)}"
        if message is not None:  # decrypted, but not signed by who it says it is from
            claim += f": {what(message)}"
        return f"{verdict.detail} ({claim})"

    def _who(self, sighting: Sighting) -> str:
        epoch = sighting.epoch
        parts = [_member(epoch, sighting.sender_id)]
        if sighting.peer is not None:
            parts[0] += f" for {_member(epoch, sighting.peer)}"
        if epoch is not None and self._several_groups:
            parts.append(epoch.group)
        if epoch is not None and epoch.group in self._renewed:
            parts.append(f"Gid …{epoch.gid[-4:].hex()}" if epoch.number is None else f"epoch {epoch.number}")
        if sighting.sequence_number is not None:
            parts.append(f"number {sighting.sequence_number}")
        return ", ".join(parts)

    @staticmethod
    def _unread(sighting: Sighting) -> str:
        number = "" if sighting.sequence_number is None else f", number {sighting.sequence_number}"
        return number + ("" if sighting.gid is None else f", under Gid {sighting.gid.hex()}")

    def summary(self, summary: Summary) -> None:
        if not self._empty:
            self._print("", "", "", "")
        for line in summary_lines(summary):
            self._print("", "", "", line)
        for number in summary.reused[:1]:
            more = f" and {len(summary.reused) - 1} more" if len(summary.reused) > 1 else ""
            self._print("", f"NONCE USED TWICE: frame {number}{more}", "bold red", "")

    def _print(self, head: str, marked: str, style: str, rest: str) -> None:
        if self._console.is_terminal:
            self._console.print(Text.assemble(head, (marked, style), rest), soft_wrap=True)
        else:
            click.echo(head + marked + rest)


def _member(epoch: KnownEpoch | None, endpoint_id: bytes | None) -> str:
    shown = "?" if endpoint_id is None else endpoint_id.hex() or "empty id"
    found = None if epoch is None or endpoint_id is None else epoch.members.get(endpoint_id)
    return shown if found is None else f"{found.name} ({shown})"


def _shown(end: HostPort) -> str:
    if end.port != COAP_PORT:
        return str(end)
    return f"[{end.host}]" if end.host.version == 6 else str(end.host)


def _after(time: int | None, begun: int | None) -> str:
    return "-" if time is None or begun is None else f"{(time - begun) / _SECOND:.3f}"


def _answers(sighting: Sighting) -> str:
    if sighting.request is None:
        return ""
    return f", to frame {sighting.request.datagram.number} {delay(sighting)}".rstrip()


def _remark(sighting: Sighting) -> str:
    earlier = sighting.earlier
    if earlier is None or not earlier.same:
        return ""
    return f"repeats frame {earlier.number}" + (", from another address" if earlier.elsewhere else "")


def delay(sighting: Sighting) -> str:
    """Behind the number of the request's frame: how long the answer has taken. Notifications take no time."""
    began = None if sighting.request is None else sighting.request.datagram.time
    notifies = sighting.message is not None and sighting.message.option(coap.OBSERVE) is not None
    if began is None or sighting.datagram.time is None or notifies:
        return ""
    return f"after {(sighting.datagram.time - began) / _SECOND * 1000:.0f} ms"


def _plain(message: Message) -> str:
    return what(message) if message.code else TYPES[message.type]


def what(message: Message) -> str:
    """A message in short: method and path or response code, the beginning of the payload, and what it is for."""
    if coap.is_request(message.code):
        name = code_name(message.code)
        shown = f"{name.partition(' ')[2] or name} {path(message)}"
    else:
        shown = code_name(message.code)
    if message.payload:
        shown += f' "{payload_text(message.payload, MAX_PAYLOAD)}"'
    purposes = ", ".join(_purposes(message))
    return f"{shown} ({purposes})" if purposes else shown


def path(message: Message) -> str:
    """Uri-Path and Uri-Query, as in a URI, but with nothing escaped."""
    segments = [payload_text(value) for number, value in message.options if number == coap.URI_PATH]
    arguments = [payload_text(value) for number, value in message.options if number == coap.URI_QUERY]
    return "/" + "/".join(segments) + ("?" + "&".join(arguments) if arguments else "")


def _purposes(message: Message) -> Iterator[str]:
    is_request = coap.is_request(message.code)
    if message.type == coap.CON:
        yield "confirmable"
    observe = message.option(coap.OBSERVE)
    if observe is not None and is_request:
        yield "observe" if coap.uint_value(observe) == 0 else "observe no more"
    elif observe is not None:
        yield "notification"
    if message.option(coap.REPEAT) is not None:
        yield "echo of a challenge" if is_request else "challenge"
    for number in (coap.BLOCK1, coap.BLOCK2):
        block = message.option(number)
        if block is not None:
            value = coap.uint_value(block)
            asked_for = is_request and number == coap.BLOCK2
            yield f"block {value >> 4}" + ("" if asked_for else ", more follow" if value & 8 else ", the last")


def summary_lines(summary: Summary) -> Iterator[str]:
    """What it comes to."""
    yield _heading(summary)
    for (outcome, cause), count in sorted(summary.verdicts.items(), key=lambda item: -item[1]):
        yield f"{count:>7}  {_LABELS[outcome]}" + (f": {printable(cause)}" if cause else "")
    if summary.repeated:
        yield f"{summary.repeated:>7}  of these repeated"
    besides = (Kind.EMPTY, Kind.PLAIN, Kind.OSCORE, Kind.NOT_COAP)
    others = [(kind.value, summary.kinds[kind]) for kind in besides if summary.kinds[kind]]
    if others:
        yield "besides: " + ", ".join(f"{count} × {text}" for text, count in others)
    passed = [(reason.value, count) for reason, count in summary.skipped.items()]
    passed += [("UDP at other ports", summary.other)] if summary.other else []
    if passed:
        yield "passed over: " + ", ".join(f"{count} × {text}" for text, count in passed)
    for group in dict.fromkeys(group for group, _, _ in summary.members):
        yield printable(f"group {group}")
        tallies = {_name(key): tally for key, tally in summary.members.items() if key[0] == group}
        width = max(map(len, tallies))
        for name, tally in tallies.items():
            yield f"  {name:<{width}}  {_said(tally)}"


def _heading(summary: Summary) -> str:
    messages = summary.kinds[Kind.REQUEST] + summary.kinds[Kind.RESPONSE]
    text = plural(messages, "group message") if messages else "no group messages"
    if summary.begun is None or summary.ended is None:
        return text
    since = datetime.fromtimestamp(summary.begun // _SECOND, UTC).astimezone()
    return f"{text} in {(summary.ended - summary.begun) / _SECOND:.1f} s, from {since:%Y-%m-%d %H:%M:%S %z} on"


def _name(key: MemberKey) -> str:
    _, endpoint_id, name = key
    return printable(f"{name} ({endpoint_id.hex() or 'empty id'})")


def _said(tally: MemberTally) -> str:
    parts = [plural(tally.requests, "request")] if tally.requests else []
    if tally.responses or tally.asked:
        answers = plural(tally.responses, "answer")
        of = f", to {tally.answered} of {plural(tally.asked, 'multicast request')}" if tally.asked else ""
        parts.append(answers + of)
    return "; ".join(parts) or "nothing"


# ---- for programs


class JsonLines:
    """One object for each datagram, then one for the summary."""

    def sighting(self, sighting: Sighting, begun: int | None) -> None:
        click.echo(json.dumps(sighting_json(sighting)))

    def summary(self, summary: Summary) -> None:
        click.echo(json.dumps(summary_json(summary)))


def sighting_json(sighting: Sighting) -> dict[str, Any]:
    """A datagram. `code`, `path`, `options` and `payload` are of the message inside, null where it could not be
    decrypted; `payload` is also null where it is not UTF-8: `payload_hex` has it then."""
    datagram, verdict, sender, earlier = sighting.datagram, sighting.verdict, sighting.sender, sighting.earlier
    epoch, recipient = sighting.epoch, sighting.recipient
    return {
        "frame": datagram.number,
        "time": _seconds(datagram.time),
        "source": str(datagram.source.host),
        "source_port": datagram.source.port,
        "destination": str(datagram.destination.host),
        "destination_port": datagram.destination.port,
        "kind": sighting.kind.value,
        "outcome": None if verdict is None else verdict.outcome.value,
        "reason": None if verdict is None or verdict.reason is None else verdict.reason.value,
        "text": None if verdict is None else verdict.text,
        "group": None if epoch is None else epoch.group,
        "gid": None if sighting.gid is None else sighting.gid.hex(),
        "epoch": None if epoch is None else epoch.number,
        "profile": None if epoch is None else epoch.profile.name,
        "mode": None if sighting.mode is None else sighting.mode.value,
        "sender_id": None if sighting.sender_id is None else sighting.sender_id.hex(),
        "sender": None if sender is None else sender.name,
        "recipient_id": None if sighting.peer is None else sighting.peer.hex(),
        "recipient": None if recipient is None else recipient.name,
        "sequence_number": sighting.sequence_number,
        "answers_frame": None if sighting.request is None else sighting.request.datagram.number,
        "repeats_frame": earlier.number if earlier is not None and earlier.same else None,
        "nonce_used_in_frame": earlier.number if earlier is not None and not earlier.same else None,
        **_message_json(sighting.message, None if epoch is None else epoch.profile),
        "datagram": datagram.payload.hex(),
    }


def _seconds(time: int | None) -> float | None:
    return None if time is None else round(time / _SECOND, 6)


def _message_json(message: Message | None, profile: Profile | None) -> dict[str, Any]:
    if message is None:
        return {"code": None, "path": None, "options": None, "payload": None}
    options = [
        {"number": number, "name": option_name(number, profile), "value": option_value(number, value)}
        for number, value in message.options
    ]
    value = {
        "code": code_name(message.code),
        "path": path(message) if coap.is_request(message.code) else None,
        "options": options,
    }
    try:
        return {**value, "payload": message.payload.decode()}
    except UnicodeDecodeError:
        return {**value, "payload": None, "payload_hex": message.payload.hex()}


def summary_json(summary: Summary) -> dict[str, Any]:
    """What it comes to."""
    counts: dict[Outcome, dict[str, int]] = {outcome: {} for outcome in Outcome}
    for (outcome, cause), count in summary.verdicts.items():
        counts[outcome][cause] = count
    return {
        "summary": True,
        "complete": summary.complete,
        "kinds": {kind.value: count for kind, count in summary.kinds.items()},
        "verified": summary.count(Outcome.VERIFIED),
        "countersigned": summary.count(Outcome.COUNTERSIGNED),
        "refused": counts[Outcome.REFUSED],
        "not_tried": counts[Outcome.NOT_TRIED],
        "repeated": summary.repeated,
        "nonce_used_again": summary.reused,
        "passed_over": {reason.value: count for reason, count in summary.skipped.items()},
        "other_ports": summary.other,
        "begun": _seconds(summary.begun),
        "ended": _seconds(summary.ended),
        "members": [
            {
                "group": group,
                "endpoint_id": endpoint_id.hex(),
                "name": name,
                "requests": tally.requests,
                "responses": tally.responses,
                "asked": tally.asked,
                "answered": tally.answered,
            }
            for (group, endpoint_id, name), tally in summary.members.items()
        ],
    }
