"""What a check has found, and what to do about it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import Enum

from ..errors import EnvironmentFault, FileFault


class Level(Enum):
    """How bad it is; the value is the word that people and programs get."""

    OK = "ok"
    WARNING = "warning"
    """It may be meant so, or it hurts later."""
    PROBLEM = "problem"
    """The device will not start, or will not be heard."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a diagnosis. `check`: what was looked at, one word. `found`: what was found. `advice`: what to do
    about it, empty where nothing is to be done. `command`: what does it, to be typed as it stands, if there is one.
    The texts hold no secrets, but may hold names from files: print them escaped."""

    check: str
    level: Level
    found: str
    advice: str = ""
    command: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, advice: str, *command: str) -> Finding:
    """Something that may be meant so. `command`: its words."""
    return Finding(check, Level.WARNING, found, advice, shlex.join(command))


def problem(check: str, found: str, advice: str, *command: str) -> Finding:
    """Something that keeps the group from working. `command`: its words."""
    return Finding(check, Level.PROBLEM, found, advice, shlex.join(command))


def from_fault(check: str, fault: EnvironmentFault) -> Finding:
    """A fault of a file or of the network, whose text says behind a semicolon what to do."""
    if not isinstance(fault, FileFault):
        found, _, advice = str(fault).partition("; ")
        return Finding(check, Level.PROBLEM, found, advice)
    found, _, advice = fault.problem.partition("; ")
    before, run, command = advice.partition("run: ")
    if run:
        advice, command = (
            before or "keep it private",
            command.replace(str(fault.path), shlex.quote(str(fault.path))),
        )
    return Finding(check, Level.PROBLEM, f"{fault.path}: {found}", advice, command)
