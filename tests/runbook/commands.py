"""The commands of a runbook as they are printed, in order, with what is printed as their answer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Command:
    """`text` is for bash; `expected` is empty where nothing is printed. `line` is that of its fence's text."""

    line: int
    section: str
    text: str
    expected: str = ""

    def __str__(self) -> str:
        return f"{self.line}: {self.text.splitlines()[0]}"


@dataclass(frozen=True)
class File:
    """What the runbook has the operator write: `Create ... file: \\`PATH\\``, then a fence."""

    line: int
    path: str
    content: str


REPORT = pytest.StashKey[list[tuple[Path, Command, str]]]()
"""What became of each command, for the end of the test run."""


def steps(page: Path) -> list[Command | File]:
    """All of a page, in order."""
    found: list[Command | File] = []
    section = above = ""
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        if not line.startswith("```"):
            section = line.lstrip("# ") if line.startswith("#") else section
            above = line or above
            continue
        body = []
        for _, inner in lines:
            if inner == "```":
                break
            body.append(inner)
        created = re.search(r"[Cc]reate .*file: `([^`]+)`", above)
        if created:
            found.append(File(number, created[1], "\n".join(body) + "\n"))
        elif line in ("```bash", "```sh"):
            found += _commands(body, section, number + 1)
        above = ""
    return found


def _commands(lines: list[str], section: str, first: int) -> list[Command]:
    """Of one fence. A comment that begins with `Expected` has the answer to the command before it: behind its colon, or
    in the lines that follow, to the end of a JSON object or of the comment."""
    found: list[Command] = []
    number = 0
    while number < len(lines):
        start, line = number, lines[number]
        number += 1
        if found and re.match("# Expected", line):
            told = line.partition(":")[2].strip()
            if not told:
                end = number
                while end < len(lines) and (lines[number] == "{" or lines[end].startswith("#")):
                    end += 1
                    if lines[end - 1] == "}":
                        break
                told, number = "\n".join(text.lstrip("# ") for text in lines[number:end]), end
            found[-1] = replace(found[-1], expected=told)
        elif line.strip() and not line.startswith("#"):
            here = re.search(r"<<(\w+)$", line)
            while number < len(lines) and (line.endswith("\\") or (here and not line.endswith(f"\n{here[1]}"))):
                line = f"{line}\n{lines[number]}"
                number += 1
            # as HTTP has it, the runbook names what to ask for
            found.append(Command(first + start, section, re.sub("^GET ", "curl ", line)))
    return found


def has(document: dict[str, Any], printed: str) -> bool:
    """Whether every field that is printed is in the document, with its value; uptimes only with their type."""
    expected = json.loads(printed)
    for key, value in expected.items():
        found = document.get(key)
        if isinstance(value, dict):
            if not isinstance(found, dict) or not has(found, json.dumps(value)):
                return False
        elif key == "uptime_seconds":
            if not isinstance(found, int) or isinstance(found, bool):
                return False
        elif key == "error":
            # the runbook's words, then the reason
            if not isinstance(found, str) or not re.match(rf"{value}(: .+)?$", found):
                return False
        elif found != value or type(found) is not type(value):
            return False
    return True


def answers(output: str, expected: str) -> bool:
    """JSON by its fields, a list of lines each, other text as a part of what is printed."""
    if expected[0] not in '{"':
        return all(line.lstrip("- ") in output for line in expected.splitlines())
    wanted, _ = json.JSONDecoder().raw_decode(expected)
    found = json.loads(output)
    return has(found, json.dumps(wanted)) if isinstance(wanted, dict) else bool(found == wanted)
