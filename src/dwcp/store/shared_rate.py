"""One sending rate for all processes of a node: the manager, and every `dwcp send` beside it.

    limit          the rate that an operator has set (`dwcp limit`), bits per second, or `off`; absent: as configured
    senders/PID-*  how many links of that process send now; locked (flock(2)) for as long as the process lives

Nobody coordinates: each process reads now and then what is there, and gives its own links their part of the whole. A
process that was killed has lost its lock, and counts no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from dwcp.errors import UsageError
from dwcp.store import durable
from dwcp.units import format_rate, parse_rate

OFF = "off"
LEAST = 10**6
"""As `transport.pacing_rate`."""


class SharedRate:
    """This process's seat at the table. Methods may be called from any thread, one at a time."""

    def __init__(self, state_dir: Path) -> None:
        self._senders = state_dir / "senders"
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._fd: int | None = None

    def announce(self, links: int) -> None:
        """Tells the other processes. Raises OSError."""
        if self._fd is None:
            self._senders.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._senders / self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(self._fd, b"%-8d" % links, 0)

    def others(self) -> int:
        """Links that send in other processes. Raises OSError."""
        total = 0
        for path in self._senders.iterdir():
            if path.name != self._name:
                total += _count(path)
        return total

    def leave(self) -> None:
        """Gives up the seat."""
        if self._fd is not None:
            with contextlib.suppress(FileNotFoundError):
                (self._senders / self._name).unlink()
            os.close(self._fd)
            self._fd = None


def read_limit(state_dir: Path) -> int | str | None:
    """The rate in bits per second, OFF, or None where none is set or it cannot be read."""
    try:
        text = (state_dir / "limit").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return OFF if text == OFF else int(text) if text.isdecimal() and int(text) > 0 else None


def write_limit(state_dir: Path, rate: int | str | None) -> None:
    """Sets or, with None, takes away what `read_limit` gives. Raises OSError."""
    path = state_dir / "limit"
    if rate is None:
        path.unlink(missing_ok=True)
        return
    durable.write(path, f"{rate}\n".encode())


def parse_limit(text: str) -> int | str | None:
    """What `write_limit` takes, from a rate like 200Mbit/s, `off`, or `auto` for as configured. Raises UsageError."""
    if text == "auto":
        return None
    if text == OFF:
        return OFF
    try:
        rate = parse_rate(text)
    except ValueError as error:
        raise UsageError(f"{error}; or off, or auto") from error
    if rate < LEAST:
        raise UsageError(f"{text} is less than {format_rate(LEAST)}, the least that can be kept to")
    return rate


def _count(path: Path) -> int:
    """Of a process that lives; the file of one that does not is removed."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 8, 0).strip()
        return int(text) if text.isdigit() else 0
    else:
        path.unlink(missing_ok=True)
        return 0
    finally:
        os.close(fd)
