"""Ends a process as kill -9 does, at each of its steps on the file system in turn."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link"})
"""Audit events (PEP 578); each is raised before its step is done."""
KILLED = 77


def killed_at_each_step(
    directory: Path, model: Path, act: Callable[[Path], None], check: Callable[[Path, int], None]
) -> int:
    """Runs `act` on copies of the directory `model`, in processes that end before their first, second, ... step in it,
    until one gets to its end; `check` looks at what each has left, and gets its exit code (KILLED or 0). Returns how
    many steps there are."""
    for step in itertools.count():
        place = directory / str(step) / model.name
        shutil.copytree(model, place, symlinks=True)
        code = _run(place, act, step)
        assert code in (0, KILLED), f"it ended with {code} at step {step}"
        check(place, code)
        if code == 0:
            return step
    raise AssertionError


def _run(place: Path, act: Callable[[Path], None], step: int) -> int:
    with warnings.catch_warnings():
        # threads of other tests do not matter to the child, which never leaves this function
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            _end_at(place, step, act)
        except BaseException as error:
            os.write(2, f"step {step}: {error!r}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _end_at(place: Path, step: int, act: Callable[[Path], None]) -> None:
    left = step

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in STEPS and not isinstance(arguments[0], int) and os.fsdecode(arguments[0]).startswith(str(place)):
            if left == 0:
                os._exit(KILLED)
            left -= 1

    sys.addaudithook(hook)
    act(place)
    os._exit(0)
