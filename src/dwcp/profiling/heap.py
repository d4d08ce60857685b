"""A profile of the memory that is in use.

Where allocations are traced (tracemalloc, `debug.heap_frames`): by the stack that allocated. Where they are not, which
costs nothing until somebody asks: by type of object. Either way the last entry is what remains of the resident memory:
the interpreter and libraries, buffers of theirs, thread stacks, and what the allocator keeps free.

Tracing begins at the start and never ends: in CPython before 3.12.9 and 3.13.2 stopping it beside running threads may
crash the process (https://github.com/python/cpython/issues/128679).
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterable
from types import CodeType, FunctionType

from dwcp.errors import TemporaryError
from dwcp.profiling.pprof import Frame, Kind, Profile, Sample
from dwcp.profiling.process import resident_bytes
from dwcp.profiling.stacks import function_name

_KINDS = (Kind("inuse_objects", "count"), Kind("inuse_space", "bytes"))
_REST = "(not in Python objects: interpreter, libraries, thread stacks, memory that the allocator keeps)"
_UNTRACED = "(not traced: allocated before tracing began, interpreter, libraries, thread stacks, kept by the allocator)"
_TRACER = "(tracemalloc itself)"
_one_at_a_time = threading.Lock()
_Traceback = tuple[tuple[str, int], ...]
"""As tracemalloc has it: file and line of each frame, innermost first."""


def trace(frames: int) -> None:
    """Traces allocations from now on with stacks of that many frames; 0 does nothing. Never undone."""
    if frames and not tracemalloc.is_tracing():
        tracemalloc.start(frames)


def profile() -> Profile:
    """Takes a moment in which other threads come to run less; blocks, so not for an event loop. Raises TemporaryError
    while another one is taken."""
    if not _one_at_a_time.acquire(blocking=False):
        raise TemporaryError("another heap profile is being taken; try again when it is done")
    try:
        return _profile()
    finally:
        _one_at_a_time.release()


def _profile() -> Profile:
    resident, taken_at = resident_bytes(), time.time_ns()
    traced = tracemalloc.is_tracing()
    samples = _by_stack() if traced else _by_type()
    rest = resident - sum(sample.values[1] for sample in samples)
    if rest > 0:
        samples.append(Sample((Frame(_UNTRACED if traced else _REST),), (0, rest)))
    comment = (
        f"by the stack that allocated, {tracemalloc.get_traceback_limit()} frames deep"
        if traced
        else "by type of object, because allocations are not traced; debug.heap_frames traces them from the start"
    )
    return Profile(_KINDS, "inuse_space", samples, taken_at, comments=(comment,))


def _by_type() -> list[Sample]:
    """Objects that the collector tracks, and those that they refer to directly, as buffers and strings are."""
    count: dict[type, int] = defaultdict(int)
    size: dict[type, int] = defaultdict(int)
    seen: set[int] = set()

    def add(thing: object) -> None:
        kind = type(thing)
        count[kind] += 1
        size[kind] += sys.getsizeof(thing, 0)

    tracked = gc.get_objects()
    for thing in tracked:
        if thing is tracked:
            continue
        add(thing)
        for other in gc.get_referents(thing):
            if not gc.is_tracked(other) and id(other) not in seen:
                seen.add(id(other))
                add(other)
    return [
        Sample((Frame(f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")),), (count[kind], size[kind]))
        for kind in count
    ]


def _by_stack() -> list[Sample]:
    own = tracemalloc.get_tracemalloc_memory()
    count: dict[_Traceback, int] = defaultdict(int)
    size: dict[_Traceback, int] = defaultdict(int)
    # past the public view of it, which makes objects of all frames of all blocks: seconds in which all others suffer
    traces: Iterable[tuple[int, int, _Traceback, int]] = tracemalloc.take_snapshot().traces._traces  # type: ignore[attr-defined]
    for _, bytes_, traceback, _ in traces:
        count[traceback] += 1
        size[traceback] += bytes_
    frames = _frames({place for traceback in count for place in traceback})
    samples = [
        Sample(tuple([frames[place] for place in traceback]), (count[traceback], size[traceback]))
        for traceback in count
    ]
    return [*samples, Sample((Frame(_TRACER),), (0, own))]


def _frames(places: set[tuple[str, int]]) -> dict[tuple[str, int], Frame]:
    """With the function at each file and line, which tracemalloc does not keep."""
    files = {file for file, _ in places}
    # the code of a module is gone once it has run
    found = {(file, line): Frame("(module)", file, line) for file, line in places}
    for code in _codes(thing.__code__ for thing in gc.get_objects() if type(thing) is FunctionType):
        if code.co_filename not in files:
            continue
        for _, _, line in code.co_lines():
            place = (code.co_filename, line or 0)
            # a line that begins an inner function is also one of the outer
            if place in found and code.co_firstlineno >= found[place].first_line:
                found[place] = Frame(function_name(code), *place, code.co_firstlineno)
    return found


def _codes(codes: Iterable[CodeType]) -> set[CodeType]:
    """With those of the functions, lambdas and comprehensions inside."""
    found: set[CodeType] = set()
    waiting = list(codes)
    while waiting:
        code = waiting.pop()
        if code not in found:
            found.add(code)
            waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return found
