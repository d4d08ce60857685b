"""What the kernel knows of this process and its threads."""

from __future__ import annotations

import resource
import time
from pathlib import Path

_STATM = Path("/proc/self/statm")
_PER_THREAD_CPU = 6
"""CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED of Linux' include/linux/posix-timers_types.h."""


def resident_bytes() -> int:
    """As `ps` shows it (RSS)."""
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def thread_cpu_ns(native_id: int) -> int | None:
    """Processor time of a thread of this process; None when it has ended.

    The clock is named by the kernel's number for the thread. pthread_getcpuclockid(3) takes the C library's, which is
    undefined once the thread has ended, and there is no way to know in time that it has not.
    """
    try:
        return time.clock_gettime_ns(~native_id << 3 | _PER_THREAD_CPU)
    except OSError:
        return None
