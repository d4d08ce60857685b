"""A profile of what all threads do over some seconds.

A thread of its own looks at the stacks of all others some hundred times a second. What each has had of a processor
since the last look, by the kernel's clock for it, goes to the stack that is seen now; so does the time that has passed.
Both are exact in sum, and statistical in which line they go to. A call into C (a hash, a codec, a system call) counts
for the line that made it. Looking needs the interpreter's lock: a thread that holds it is seen when it lets go.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

from dwcp.errors import TemporaryError
from dwcp.profiling.pprof import Frame, Kind, Profile, Sample
from dwcp.profiling.process import thread_cpu_ns
from dwcp.profiling.stacks import Raw, frames, raw

PERIOD = 0.01
"""Seconds between two looks: pprof's usual 100 Hz."""
MOST_OF_ONE_CORE = 0.05
"""Looking takes no larger share than this; with many threads it happens less often."""
MAX_STACKS = 20_000
"""Different ones that are kept, which bounds memory to some 20 MB; seen were some hundred."""

_OUTSIDE: Frame = Frame("(threads outside of Python, and threads that ended)")
_OTHER: Raw = ()
_one_at_a_time = threading.Lock()


@dataclass(slots=True)
class _Seen:
    samples: int = 0
    cpu: int = 0
    wall: int = 0


def profile(seconds: float, stop: threading.Event) -> Profile:
    """Takes `seconds`, or until `stop` is set. Raises TemporaryError while another one is taken: two would see each
    other, and cost twice."""
    if not _one_at_a_time.acquire(blocking=False):
        raise TemporaryError("another CPU profile is being taken; try again when it is done")
    try:
        return _profile(seconds, stop)
    finally:
        _one_at_a_time.release()


def _profile(seconds: float, stop: threading.Event) -> Profile:
    taken_at, began = time.time_ns(), time.monotonic_ns()
    process, own = time.process_time_ns(), time.thread_time_ns()
    seen: dict[tuple[str, Raw], _Seen] = defaultdict(_Seen)
    clocks: dict[int, int] = {}
    _look(clocks, 0, defaultdict(_Seen))
    last, pause = began, PERIOD
    while last < began + seconds * 1e9 and not stop.wait(pause):
        busy = time.thread_time()
        now = time.monotonic_ns()
        _look(clocks, now - last, seen)
        last = now
        pause = max(PERIOD, (time.thread_time() - busy) / MOST_OF_ONE_CORE)
    samples = [
        Sample(
            frames(stack) or (Frame("(further stacks)"),),
            (entry.samples, entry.cpu, entry.wall),
            (("thread", name),),
        )
        for (name, stack), entry in seen.items()
    ]
    # what nobody of these has had, and not we ourselves
    own = time.thread_time_ns() - own
    outside = time.process_time_ns() - process - own - sum(entry.cpu for entry in seen.values())
    if outside > 0:
        samples.append(Sample((_OUTSIDE,), (0, outside, 0)))
    return Profile(
        kinds=(Kind("samples", "count"), Kind("cpu", "nanoseconds"), Kind("wall", "nanoseconds")),
        default="cpu",
        samples=samples,
        taken_at=taken_at,
        duration=last - began,
        period_kind=Kind("wall", "nanoseconds"),
        period=int(PERIOD * 1e9),
        comments=("cpu: processor time; wall: time that passed, waiting included; the label `thread` is its name",),
    )


def _look(clocks: dict[int, int], passed: int, seen: dict[tuple[str, Raw], _Seen]) -> None:
    """Adds what each thread has had since the last look; `clocks` has the readings of that one, by thread."""
    known = {thread.ident: thread for thread in threading.enumerate()}
    own = threading.get_ident()
    for ident, frame in sys._current_frames().items():
        if ident == own:
            continue
        thread = known.get(ident)
        cpu = 0
        if thread is not None and thread.native_id is not None:
            clock = thread_cpu_ns(thread.native_id) or 0
            # one that began since the last look has had all that its clock shows
            cpu = max(0, clock - clocks.get(thread.native_id, 0))
            clocks[thread.native_id] = clock
        name = "(not started by Python)" if thread is None else thread.name
        key = (name, raw(frame))
        if key not in seen and len(seen) >= MAX_STACKS:
            key = ("", _OTHER)
        entry = seen[key]
        entry.samples += 1
        entry.cpu += cpu
        entry.wall += passed
