"""What one check came to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """A warning works, slower or less safely; a problem keeps something that was asked for from working."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `wanted` is empty where anything is right, `fix` and `command` where nothing is wrong.

    `fix` is a sentence; `command` can be typed as it stands, as root where it changes the machine.
    """

    area: str
    name: str
    level: Level
    found: str
    wanted: str = ""
    fix: str = ""
    command: str = ""


def ok(area: str, name: str, found: str, wanted: str = "") -> Finding:
    return Finding(area, name, Level.OK, found, wanted)


def warning(area: str, name: str, found: str, wanted: str, fix: str, command: str = "") -> Finding:
    return Finding(area, name, Level.WARNING, found, wanted, fix, command)


def problem(area: str, name: str, found: str, wanted: str, fix: str, command: str = "") -> Finding:
    return Finding(area, name, Level.PROBLEM, found, wanted, fix, command)
