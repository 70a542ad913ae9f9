"""What the operating system says of itself in small files."""

from __future__ import annotations

from pathlib import Path


def read(path: str | Path) -> str | None:
    """The text of a file under /proc or /sys, None if it is not there or may not be read."""
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return None


def read_number(path: str | Path) -> int | None:
    """The number in such a file, None if there is none."""
    text = (read(path) or "").strip()
    return int(text) if text.lstrip("-").isdigit() else None


def process_name(pid: int) -> str:
    """A process as people know it: its number and program."""
    program = (read(f"/proc/{pid}/comm") or "").strip()
    return f"process {pid} ({program})" if program else f"process {pid}"


def file_system(path: Path, mountinfo: str) -> str | None:
    """The type of the file system that this absolute path is on, by the text of /proc/self/mountinfo; None if it
    does not say."""
    best: tuple[int, str] | None = None
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        fields = mount.split()
        if len(fields) < 5 or not source:
            continue
        point = Path(_unescaped(fields[4]))
        # Of two on one point the later one covers the other.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), source.split()[0]
    return best[1] if best is not None else None


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
