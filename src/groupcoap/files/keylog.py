"""The key log: what it takes to decode captures, written by endpoints that are told to.

    {"format": "groupcoap-key-log", "version": 1, "group": "room", "profile": …, "gid": …, "master_secret": …}

One JSON object per line and Security Context, as a pure listener would know it: no private keys, so that what two
members say to each other in pairwise mode (Group OSCORE §8) stays between them. A line names its profile, so that
groups of several profiles may stand in one file, as may those of several endpoints.

A line is written at once and survives the death of its process. Who writes holds the file's lock, so a last line
without its newline is what a killed process has left: readers pass over it, and the next writer removes it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..cose.credentials import Credential, CredentialKind
from ..errors import FileFault
from ..membership import Epoch, GroupConfiguration, Member, Role
from .atomic import PRIVATE_MODE, describe
from .documents import MAX_SIZE, DocumentKind, Field, parse_document, read_private
from .group import read_shared, shared_json

KIND = DocumentKind("groupcoap-key-log", 1)

_BEGINNING = json.dumps({"format": KIND.format}).encode().rstrip(b"}")

log = logging.getLogger("groupcoap.keylog")


class KeyLog:
    """A key log that is appended to. `FileFault` if the file cannot be used; it is made if it does not exist.

    Whoever reads the file can read the group, but not what is in pairwise mode, and forge what is not signed: a
    warning is logged when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        os.close(self._open())
        log.warning("the keys of all groups go to the key log %s; remove it when you have seen enough", self.path)

    def record(self, group: GroupConfiguration, epoch: Epoch) -> None:
        """Write what one of the group's epochs is, unless it stands there already. A failure is logged only: an
        endpoint does its work without a log."""
        body = {"format": KIND.format, "version": KIND.version, **shared_json(group, with_own(epoch))}
        try:
            self._append(json.dumps(body).encode() + b"\n")
        except FileFault as fault:
            log.error("%s", fault)

    def record_member(self, group: GroupConfiguration, gid: bytes, member: Member) -> None:
        """Write a member that has become known later; likewise."""
        for epoch in group.epochs:
            if epoch.gid == gid:
                self.record(group, replace(epoch, members=(member,)))

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self.path, flags, PRIVATE_MODE)
            status = os.fstat(descriptor)
            beginning = os.pread(descriptor, len(_BEGINNING), 0) if stat.S_ISREG(status.st_mode) else b"-"
        except (OSError, ValueError) as error:
            raise self._fault(error) from None
        if not _BEGINNING.startswith(beginning):
            os.close(descriptor)
            raise FileFault(self.path, "is something else than a key log; choose another name")
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.close(descriptor)
            raise FileFault(self.path, f"is to hold secrets but is open to others; run: chmod 600 {self.path}")
        return descriptor

    def _append(self, line: bytes) -> None:
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            present = _read(descriptor)
            whole = present[: present.rfind(b"\n") + 1]
            if line in whole.splitlines(keepends=True):
                return
            if len(whole) + len(line) > MAX_SIZE:
                raise FileFault(self.path, "is full; move it away to begin a new one")
            if len(whole) < len(present):
                os.ftruncate(descriptor, len(whole))
            if os.write(descriptor, line) != len(line):
                raise OSError("no space left")
        except OSError as error:
            raise self._fault(error) from None
        finally:
            os.close(descriptor)

    def _fault(self, error: OSError | ValueError) -> FileFault:
        return FileFault(self.path, f"the key log cannot be written ({describe(error)}); check path and space")


def _read(descriptor: int) -> bytes:
    """The whole file, as far as one may grow."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return file.read(MAX_SIZE + 1)


def with_own(epoch: Epoch) -> Epoch:
    """With this endpoint among the members, since its messages too are to be verified."""
    if epoch.own_id is None or epoch.private_key is None:
        return epoch
    if any(member.endpoint_id == epoch.own_id for member in epoch.members):
        return epoch
    own = epoch.credential or Credential(CredentialKind.RAW_KEY, epoch.private_key.public_key.data)
    return replace(epoch, members=(*epoch.members, nameless(epoch.own_id, own)))


def nameless(endpoint_id: bytes, credential: Credential) -> Member:
    """A member of which no more is known than its credential."""
    roles = frozenset((Role.MULTICASTER, Role.LISTENER))
    return Member(endpoint_id, f"endpoint {endpoint_id.hex() or '(empty id)'}", roles, credential)


def read_key_log(path: Path) -> tuple[GroupConfiguration, ...]:
    """The groups in a key log, each with one epoch, as pure listeners know them; the same ones again where
    something has been added. `FileFault` if the file is no key log, open to others, or damaged anywhere but in a
    last line that has been cut short."""
    data = read_private(path, missing="check the path; listen --key-log makes one")
    if data[: len(_BEGINNING)] != _BEGINNING[: len(data)]:
        raise FileFault(path, "is no key log; give a file that --key-log has made")
    *lines, last = data.split(b"\n")
    groups = [_group(path, number, line) for number, line in enumerate(lines, 1)]
    if last:
        with suppress(FileFault):
            groups.append(_group(path, len(lines) + 1, last))
    return tuple(groups)


def _group(path: Path, number: int, line: bytes) -> GroupConfiguration:
    return read_shared(parse_document(line, KIND, Field(path, f"line {number}", None)))
