"""A capture from its first frame to its last: what `groupcoap decode` does with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from ..capture.datagrams import Datagram, Skipped, read_datagrams
from ..capture.frames import Frame, read_frames
from ..errors import MisuseError
from ..membership import COAP_PORT
from .explain import Explanation, Row, Section, explain
from .onlooker import Onlooker
from .sightings import Sink, delay
from .traffic import Sighting, Summary, Traffic

Found = tuple[Datagram | Skipped, Sighting | None]
"""What was in a frame, and what it is if it is CoAP."""


class Capture:
    """A capture file, to be gone through once, with what `view` can read (None: without keys). `path`: what
    complaints call it. `magic`: bytes that have been read from it already. `ports`: where CoAP is spoken; if there
    are none, 5683 and the ports of the view's groups.

    `FileFault` if it is no capture."""

    def __init__(
        self,
        file: BinaryIO,
        path: Path,
        view: Onlooker | None,
        ports: Collection[int] = (),
        magic: bytes | None = None,
    ) -> None:
        epochs = [] if view is None else view.epochs
        usual = {COAP_PORT, *(address.port for epoch in epochs for address in epoch.addresses)}
        self._view = view
        self._traffic = Traffic(view, ports or usual)
        self.seen = Summary(view is not None)
        """What has come so far."""
        self._datagrams = read_datagrams(self._timed(read_frames(file, path, magic)))

    def _timed(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self.seen.note_time(frame.time)
            yield frame

    def __iter__(self) -> Iterator[Found]:
        """One frame after the other. `FileFault` from where it is damaged."""
        for found in self._datagrams:
            sighting = self._traffic.look(found) if isinstance(found, Datagram) else None
            self.seen.add(found, sighting)
            yield found, sighting

    def show(self, sink: Sink) -> Summary:
        """All of it, then the summary, also of a capture that turns out to be damaged (`FileFault`)."""
        try:
            for _, sighting in self:
                if sighting is not None:
                    sink.sighting(sighting, self.seen.begun)
        finally:
            sink.summary(self.seen)
        return self.seen

    def explain(self, number: int) -> Explanation:
        """The datagram in this frame, field by field. `MisuseError` if there is none."""
        for found, sighting in self:
            if found.number == number:
                return self._explained(found, sighting)
        raise MisuseError(f"there is no datagram in frame {number}; datagrams in fragments count as their last one")

    def _explained(self, found: Datagram | Skipped, sighting: Sighting | None) -> Explanation:
        if isinstance(found, Skipped):
            raise MisuseError(f"frame {found.number} is {found.reason.value}; choose one with CoAP")
        if sighting is None:
            port = found.destination.port
            raise MisuseError(f"frame {found.number} goes to UDP port {port}; if that is CoAP, give --port {port}")
        host = found.destination.host
        explanation = explain(
            found.payload,
            self._view,
            destination=host.packed if host.is_multicast else None,
            destination_known=True,
            request=None if sighting.request is None else sighting.request.datagram.payload,
        )
        frame = Section(f"Frame {found.number}", tuple(self._rows(sighting)))
        # That of the sighting knows more: of the capture's gaps, and under which of several groups the request was.
        verdict = sighting.verdict or explanation.verdict
        return replace(explanation, sections=(frame, *explanation.sections), verdict=verdict)

    def _rows(self, sighting: Sighting) -> Iterator[Row]:
        datagram, earlier = sighting.datagram, sighting.earlier
        if datagram.time is not None and self.seen.begun is not None:
            when = datetime.fromtimestamp(datagram.time // 10**9, UTC).astimezone()
            fraction = datagram.time // 1000 % 10**6
            after = (datagram.time - self.seen.begun) / 10**9
            yield Row(
                "time", None, f"{when:%Y-%m-%d %H:%M:%S}.{fraction:06} {when:%z}", f"{after:.6f} s after the first"
            )
        yield Row("from", None, str(datagram.source))
        yield Row("to", None, str(datagram.destination))
        if sighting.request is not None:
            yield Row("answers", None, f"frame {sighting.request.datagram.number}", delay(sighting))
        if earlier is not None:
            name = "repeats" if earlier.same else "uses the nonce of"
            yield Row(name, None, f"frame {earlier.number}", "from another address" if earlier.elsewhere else "")
