"""Where threads and tasks are right now. Code only: values of variables may be secret, and are never looked at."""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import dataclass
from types import CodeType, FrameType

from dwcp.profiling.pprof import Frame
from dwcp.profiling.process import thread_cpu_ns

MAX_DEPTH = 128
"""Frames kept of a stack, the innermost ones; ours are some 20 deep."""

Raw = tuple[tuple[CodeType, int], ...]
"""Code and line of each frame, innermost first: quick to take and to compare."""


@dataclass(frozen=True, slots=True)
class ThreadStack:
    """`cpu_seconds`: None for a thread that Python does not know, or that has just ended."""

    name: str
    native_id: int | None
    daemon: bool
    cpu_seconds: float | None
    stack: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class TaskStack:
    name: str
    stack: tuple[Frame, ...]


def raw(frame: FrameType | None) -> Raw:
    """The stack that ends in `frame`."""
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < MAX_DEPTH:
        found.append((frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno))
        frame = frame.f_back
    return tuple(found)


def function_name(code: CodeType) -> str:
    """pprof takes angle brackets for C++ templates, and shows `<module>` as nothing."""
    return code.co_qualname.replace("<", "(").replace(">", ")")


def frames(stack: Raw) -> tuple[Frame, ...]:
    return tuple(Frame(function_name(code), code.co_filename, line, code.co_firstlineno) for code, line in stack)


def threads() -> list[ThreadStack]:
    """All threads that run Python, the one that asks included."""
    known = {thread.ident: thread for thread in threading.enumerate()}
    found = []
    for ident, frame in sys._current_frames().items():
        thread = known.get(ident)
        native_id = None if thread is None else thread.native_id
        cpu = None if native_id is None else thread_cpu_ns(native_id)
        found.append(
            ThreadStack(
                name="(not started by Python)" if thread is None else thread.name,
                native_id=native_id,
                daemon=thread is None or thread.daemon,
                cpu_seconds=None if cpu is None else cpu / 1e9,
                stack=frames(raw(frame)),
            )
        )
    return sorted(found, key=lambda entry: (entry.name, entry.native_id or 0))


def tasks() -> list[TaskStack]:
    """All tasks of the running event loop, where each waits. To be called in it."""
    return sorted((TaskStack(task.get_name(), _of_task(task)) for task in asyncio.all_tasks()), key=lambda t: t.name)


def _of_task(task: asyncio.Task[object]) -> tuple[Frame, ...]:
    # outermost first; for a task that waits it is its coroutine's frame only, so the awaited ones are followed
    found: list[tuple[CodeType, int]] = []
    awaited: object = task.get_coro()
    while awaited is not None and len(found) < MAX_DEPTH:
        frame = getattr(awaited, "cr_frame", None)
        if frame is None:
            break
        found.append((frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno))
        awaited = getattr(awaited, "cr_await", None)
    return frames(tuple(reversed(found)))
