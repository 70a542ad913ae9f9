"""Writing a file so that it is there completely or not at all, also after a power failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from glob import escape
from pathlib import Path

from ..errors import FileFault

PRIVATE_MODE = 0o600


Content = bytes | Callable[[int], bytes]
"""What a file shall hold, or what gives that for the descriptor of the new file (which keeps its inode)."""


def write_atomically(path: Path, content: Content, *, replace: bool) -> None:
    """Write `content` as the whole content of `path`, with mode 0600: temporary file beside it, fsync, rename,
    fsync of the directory. Without `replace` an existing file is never touched.

    `FileFault` if it exists (without `replace`) or cannot be written; then nothing is left behind."""
    try:
        target = Path(os.path.realpath(path))  # a symbolic link stays one
        temporary = target.with_name(f".{target.name}.{os.urandom(6).hex()}")
        try:
            _write_durably(temporary, content)
            if replace:
                _keep_owner(temporary, target)
                os.replace(temporary, target)
            else:
                os.link(temporary, target)  # unlike rename this fails where there is something already
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        sync_directory(target.parent)
    except FileExistsError:
        raise FileFault(path, "exists already and is not overwritten; choose another name") from None
    except (OSError, ValueError) as error:
        raise FileFault(path, f"cannot be written ({describe(error)})") from None


def remove_left_behind(path: Path) -> None:
    """Remove what `write_atomically` to this path has left when it was killed: it may hold keys. Only for who knows
    that nobody else is writing there."""
    target = Path(os.path.realpath(path))
    for temporary in target.parent.glob(f".{escape(target.name)}.{'[0-9a-f]' * 12}"):
        with suppress(OSError):
            os.unlink(temporary)


def _keep_owner(temporary: Path, target: Path) -> None:
    """An administrator's renewal must not take a file away from the device's own user, who has to read it."""
    with suppress(FileNotFoundError, PermissionError):
        status = os.stat(target)
        os.chown(temporary, status.st_uid, status.st_gid)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. `OSError` if that fails."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe(error: OSError | ValueError) -> str:
    """The cause as the operating system words it, without the path, which the reader has already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _write_durably(path: Path, content: Content) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content if isinstance(content, bytes) else content(descriptor))
        file.flush()
        os.fsync(descriptor)
