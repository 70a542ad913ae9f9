"""Showing verified answers as they come: a live table on a terminal, lines in a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..core.profile import Mode
from ..endpoint.multicaster import Answer
from ..errors import Reason
from .text import payload_text, plural, printable

if TYPE_CHECKING:
    from rich.table import Table

MAX_PAYLOAD = 60
"""Characters of a payload that a line of the table shows; --json has all of it."""
MAX_NAMED = 12
"""Missing listeners that the summary names."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a request ended. `answered`, `expected`: listeners of the roster; without one, whoever has answered, and
    None. `others`: who has answered beside the roster. `errors`: answers of class 4 or 5. `missing`: names.
    `problems`: name → why its answer is not complete. `refused`: messages that were not accepted, by reason.
    `first`, `last`: the shortest and the longest delay in seconds. `interrupted`: somebody would not wait longer.
    `proxy`: ADDRESS:PORT of the forward proxy, if there is one. `asked`: if one listener alone was asked, its name,
    ADDRESS:PORT and the mode."""

    messages: int
    answered: int
    expected: int | None
    others: int = 0
    errors: int = 0
    missing: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[Reason, int] = field(default_factory=dict)
    first: float | None = None
    last: float | None = None
    observing: bool = False
    interrupted: bool = False
    proxy: str | None = None
    asked: tuple[str, str, Mode] | None = None

    @property
    def complete(self) -> bool:
        """Everybody who was expected has answered; without a roster, somebody has."""
        return bool(self.answered) if self.expected is None else not self.missing

    def lines(self) -> Iterable[str]:
        """The summary for people."""
        of = "" if self.expected is None else f" of {self.expected}"
        text = f"{self.answered}{of} answered" + (f", and {self.others} more;" if self.others else ",")
        if self.observing:
            text += f" {plural(self.messages, 'notification')}"
        elif self.first is not None and self.last is not None:
            text += f" the first after {_ms(self.first)}"
            if self.answered + self.others > 1:
                text += f", the last after {_ms(self.last)}"
        yield text.rstrip(",;")
        if self.errors:
            yield f"{plural(self.errors, 'answer')} with an error: not done there"
        if self.missing:
            more = len(self.missing) - MAX_NAMED
            named = ", ".join(printable(name) for name in self.missing[:MAX_NAMED])
            yield f"missing: {named}" + (f" and {more} more" if more > 0 else "")
        for name, problem in self.problems.items():
            yield f"{printable(name)}: {printable(problem)}"
        if self.refused:
            yield "refused: " + ", ".join(f"{count} × {reason.value}" for reason, count in self.refused.items())
        if not self.answered and not self.others and not self.interrupted:
            yield f"nobody answered: {self._guess}"

    @property
    def _guess(self) -> str:
        if self.asked is not None:
            name, where, _ = self.asked
            return (
                f"does {printable(name)} run at {where}, and does it know this device's credential? "
                "groupcoap check looks for the cause."
            )
        if self.proxy is not None:
            return f"does a forward proxy run at {self.proxy}, and does it send to the group?"
        return (
            "do the listeners run, on this interface, and is there such a resource? "
            "Errors are not sent in answer to multicast. groupcoap check looks for the cause."
        )

    def json(self) -> dict[str, Any]:
        """The summary for programs."""
        asked = {} if self.asked is None else {"to": self.asked[0], "mode": self.asked[2].value}
        return {
            "summary": True,
            **asked,
            "complete": self.complete,
            "answered": self.answered,
            "expected": self.expected,
            "others": self.others,
            "errors": self.errors,
            "missing": list(self.missing),
            "problems": dict(self.problems),
            "refused": {reason.value: count for reason, count in self.refused.items()},
            "notifications" if self.observing else "answers": self.messages,
        }


class Sink(Protocol):
    """Where answers are shown. A context manager."""

    def answer(self, answer: Answer) -> None:
        """One more has come."""

    def note(self, text: str) -> None:
        """Something that people should know meanwhile."""

    def summary(self, summary: Summary) -> None:
        """That was all."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class JsonSink:
    """One JSON object per line."""

    def answer(self, answer: Answer) -> None:
        self._write(answer_json(answer))

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def summary(self, summary: Summary) -> None:
        self._write(summary.json())

    @staticmethod
    def _write(value: dict[str, Any]) -> None:
        print(json.dumps(value, ensure_ascii=False), flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class LineSink:
    """One line per answer. `names`: whose answers to expect, so that columns stay where they are."""

    def __init__(self, names: Iterable[str]) -> None:
        self._width = max((len(printable(name)) for name in names), default=8)

    def answer(self, answer: Answer) -> None:
        name, endpoint_id, code, payload, delay, signature, freshness = cells(answer)
        text = f"{name:<{self._width}}  {endpoint_id}  {code}  {delay:>8}  {signature}, {freshness}  {payload}"
        print(text.rstrip(), flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)

    def summary(self, summary: Summary) -> None:
        for line in summary.lines():
            print(line, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class TableSink:
    """A table on the terminal that grows while answers come. `names`: whose answers to expect (None: anybody's)."""

    def __init__(self, names: Iterable[str] | None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._expected = None if names is None else frozenset(names)
        self._console = Console(highlight=False)
        self._rows: list[Answer] = []
        self._live = Live(console=self._console, auto_refresh=False)

    def answer(self, answer: Answer) -> None:
        self._rows.append(answer)
        self._live.update(self._render(waiting=True), refresh=True)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False)

    def summary(self, summary: Summary) -> None:
        self._live.update(self._render(waiting=False), refresh=True)
        self._live.stop()
        for line in summary.lines():
            style = "bold" if summary.complete else "bold red" if line.startswith("missing") else ""
            self._console.print(line, markup=False, style=style)

    def _render(self, *, waiting: bool) -> Table | str:
        from rich import box

        caption = f"{self._progress()} …" if waiting else None
        if not self._rows:
            return caption or ""
        return answer_table(self._rows, caption=caption, box=box.SIMPLE_HEAD)

    def _progress(self) -> str:
        if self._expected is None:
            return str(len(self._rows))
        answered = sum(answer.label in self._expected for answer in self._rows)
        others = len(self._rows) - answered
        return f"{answered} of {len(self._expected)}" + (f", and {others} more" if others else "")

    def __enter__(self) -> Self:
        self._live.start()
        self._live.update(self._render(waiting=True), refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def answer_table(answers: Iterable[Answer], *, caption: str | None = None, box: Any = None) -> Table:
    """A table of answers."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box, caption=caption, caption_justify="left", pad_edge=False)
    table.add_column("listener", no_wrap=True)
    table.add_column("id", style="dim", no_wrap=True)
    table.add_column("code", no_wrap=True)
    table.add_column("payload", overflow="fold")
    table.add_column("delay", justify="right", no_wrap=True)
    table.add_column("signature", style="green", no_wrap=True)
    table.add_column("freshness", style="green", no_wrap=True)
    for answer in answers:
        row = [Text(cell) for cell in cells(answer)]
        if not answer.message.code.is_successful():
            row[2].stylize("red")
        table.add_row(*row)
    return table


def cells(answer: Answer) -> tuple[str, str, str, str, str, str, str]:
    """An answer for people: listener, Endpoint ID, code, payload, delay, signature, freshness."""
    return (
        printable(answer.label),
        answer.endpoint_id.hex() or "(empty)",
        str(answer.message.code),
        payload_text(answer.message.payload, MAX_PAYLOAD),
        _ms(answer.delay),
        answer.provenance.signature.value,
        answer.provenance.freshness.value,
    )


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer for programs. `payload` is null where it is not UTF-8; then `payload_hex` has it."""
    message = answer.message
    value: dict[str, Any] = {
        "listener": answer.name,
        "endpoint_id": answer.endpoint_id.hex(),
        "code": message.code.dotted,
    }
    try:
        value["payload"] = message.payload.decode()
    except UnicodeDecodeError:
        value |= {"payload": None, "payload_hex": message.payload.hex()}
    content_format = message.opt.content_format
    return value | {
        "content_format": None if content_format is None else int(content_format),
        "delay_ms": round(answer.delay * 1000, 3),
        "signature": answer.provenance.signature.value,
        "freshness": answer.provenance.freshness.value,
        "sequence_number": answer.provenance.sequence_number,
        "address": answer.address[0],
        "port": answer.address[1],
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
