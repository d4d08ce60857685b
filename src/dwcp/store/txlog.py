"""The transaction log on disk: `logs` in the state directory, appended to by the manager and every command beside it.

    transactions-SEQ.log   records (`store.records`), the first of which is SEQ; the newest file is written
    lock                   flock(2): held while a record is appended

Each append finds the end anew, so that nothing has to be agreed between processes, and a directory that was moved away
or restored is written to as it is. A record that was being written when its writer was killed is cut off by whoever
appends next, and named in a record of its own.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dwcp.store.durable import sync_directory
from dwcp.store.records import MAX_LINE, Damage, DamagedError, LogDecoder, Record, Value, decode, encode, tidy

DIRECTORY = "logs"
FILES = 8
"""The log is kept in as many files; the oldest goes as a whole when there is no room for another."""
CHUNK = 256 * 1024
_NAME = re.compile(r"transactions-(\d{12,19})\.log")


@dataclass(frozen=True, slots=True)
class LogFile:
    """`first`: the number of its first record."""

    path: Path
    first: int


@dataclass(frozen=True, slots=True)
class LogDamage:
    """Damage, and the file that has it."""

    path: Path
    damage: Damage

    def __str__(self) -> str:
        return f"{self.path}: at byte {self.damage.offset}: {self.damage.reason}"


class TransactionLog:
    """For any thread of any process."""

    def __init__(self, state_dir: Path, size: int) -> None:
        """`size`: bytes that all files together may have."""
        self.directory = state_dir / DIRECTORY
        self.size = size
        self.run = secrets.token_hex(4)

    def append(
        self,
        kind: str,
        event: str,
        *,
        peer: str = "",
        detail: dict[str, Value] | None = None,
        sync: bool = False,
    ) -> Record:
        """The record, which no kill can take away any more when this returns; nor a power cut, with `sync`.

        Raises OSError; the log is then as it was before.
        """
        with _locked(self.directory, fcntl.LOCK_EX):
            end = _find_end(self.directory)
            try:
                if end.cut:
                    cut: dict[str, Value] = {"bytes": len(end.cut), "text": repr(end.cut[:100])[2:-1]}
                    self._write(end, self._record(end.next_seq, "log", "cut", "", cut))
                record = self._record(end.next_seq, kind, event, peer, detail or {})
                self._write(end, record)
                if sync:
                    os.fdatasync(end.fd)
            finally:
                end.close()
        return record

    def sync(self) -> None:
        """What was appended so far withstands a power cut when this returns. Raises OSError."""
        for file in list_files(self.directory)[-1:]:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)

    def _record(self, seq: int, kind: str, event: str, peer: str, detail: dict[str, Value]) -> Record:
        tidied = {key: tidy(value) for key, value in detail.items()}
        return Record(seq, datetime.datetime.now(datetime.UTC), self.run, kind, event, str(tidy(peer)), tidied)

    def _write(self, end: _End, record: Record) -> None:
        line = encode(record)
        if end.size and end.size + len(line) > self.size // FILES:
            self._rotate(end)
        written = 0
        try:
            written = os.write(end.fd, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if written:
                os.ftruncate(end.fd, end.size)
            raise
        end.size += len(line)
        end.next_seq += 1

    def _rotate(self, end: _End) -> None:
        """A new file; the oldest go, so that there is room for all of it."""
        os.fdatasync(end.fd)
        fd = _create(self.directory, end.next_seq)
        os.close(end.fd)
        end.fd, end.size = fd, 0
        closed = [(file.path, file.path.stat().st_size) for file in list_files(self.directory)[:-1]]
        room = self.size - self.size // FILES
        while sum(size for _, size in closed) > room:
            closed.pop(0)[0].unlink()
        sync_directory(self.directory)


@dataclass(slots=True)
class _End:
    """Of the log: where the next record goes."""

    fd: int
    size: int
    next_seq: int
    cut: bytes = b""
    """What was cut off there."""

    def close(self) -> None:
        os.close(self.fd)


def list_files(directory: Path) -> list[LogFile]:
    """Oldest first. Raises OSError."""
    found = [LogFile(path, int(match[1])) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found, key=lambda file: file.first)


@contextlib.contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _create(directory: Path, seq: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    return os.open(directory / f"transactions-{seq:012d}.log", flags, 0o600)


def _find_end(directory: Path) -> _End:
    """With the lock held. Raises OSError."""
    files = list_files(directory)
    if not files:
        fd = _create(directory, 1)
        try:
            sync_directory(directory)
        except OSError:
            os.close(fd)
            raise
        return _End(fd, 0, 1)
    newest = files[-1]
    fd = os.open(newest.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return _trimmed(fd, newest.first)
    except OSError:
        os.close(fd)
        raise


def _trimmed(fd: int, first: int) -> _End:
    size = os.fstat(fd).st_size
    tail = os.pread(fd, 2 * MAX_LINE, max(0, size - 2 * MAX_LINE))
    rest = tail[tail.rfind(b"\n") + 1 :]
    if rest and len(rest) < MAX_LINE:
        try:
            decode(rest)
        except DamagedError:
            os.ftruncate(fd, size - len(rest))
            size -= len(rest)
            tail = tail[: len(tail) - len(rest)]
        else:
            # only its newline is missing
            os.write(fd, b"\n")
            size, tail, rest = size + 1, tail + b"\n", b""
    elif rest:
        # no writer makes that much without a newline: it is damage, and stays to be looked at
        os.write(fd, b"\n")
        size, tail, rest = size + 1, tail + b"\n", b""
    last = tail[:-1].rpartition(b"\n")[2]
    try:
        seq = decode(last).seq + 1
    except DamagedError:
        seq = _next_seq(fd, first)
    return _End(fd, size, seq, rest)


def _next_seq(fd: int, first: int) -> int:
    """Where the last line does not say: each damaged line was a record once."""
    decoder, seq, at = LogDecoder(None), first, 0
    while data := os.pread(fd, CHUNK, at):
        at += len(data)
        for entry in decoder.feed(data):
            seq = entry.seq + 1 if isinstance(entry, Record) else seq + 1
    return seq


class LogReader:
    """Reads on from where it was: each `poll` gives what has been written since."""

    def __init__(self, state_dir: Path, since: float = 0.0) -> None:
        """Leaves out files that were not written to after `since` (seconds since the epoch)."""
        self._directory = state_dir / DIRECTORY
        self._since = since
        self._file: LogFile | None = None
        self._decoder = LogDecoder(None)

    def poll(self) -> Iterator[Record | LogDamage]:
        """Raises OSError: FileNotFoundError where there is no log."""
        while True:
            # listed first: what is not the newest then has all of its records when it is read after
            files = list_files(self._directory)
            file = self._file
            if file is None:
                file = next((entry for entry in files if self._is_wanted(entry)), None)
                if file is None:
                    return
                self._enter(file, None)
            yield from self._read(file)
            newer = next((entry for entry in files if entry.first > file.first), None)
            if newer is None:
                return
            torn = self._decoder.close()
            if torn is not None:
                yield LogDamage(file.path, torn)
            self._enter(newer, None if torn is not None else self._decoder.carry)

    def torn(self) -> LogDamage | None:
        """An unfinished record at the end, where nobody is writing it just now. Raises OSError."""
        if self._file is None:
            return None
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                # in a copy that cannot be written nobody writes
                stack.enter_context(_locked(self._directory, fcntl.LOCK_SH))
            size = self._file.path.stat().st_size
        left = size - self._decoder.consumed
        if left <= 0:
            return None
        return LogDamage(
            self._file.path,
            Damage(self._decoder.consumed, left, f"{left} bytes of a record that was not finished", torn=True),
        )

    def _is_wanted(self, file: LogFile) -> bool:
        try:
            return file.path.stat().st_mtime >= self._since
        except FileNotFoundError:
            # it has just made room
            return False

    def _enter(self, file: LogFile, last_seq: int | None) -> None:
        if last_seq is None:
            last_seq = file.first - 1
        self._file, self._decoder = file, LogDecoder(last_seq)

    def _read(self, file: LogFile) -> Iterator[Record | LogDamage]:
        try:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # it was the oldest, and has made room
            self._decoder = LogDecoder(None)
            return
        try:
            # from the last whole line: what was half a record may have been cut since
            self._decoder = LogDecoder(self._decoder.carry, self._decoder.consumed)
            at = self._decoder.consumed
            while data := os.pread(descriptor, CHUNK, at):
                at += len(data)
                for entry in self._decoder.feed(data):
                    yield entry if isinstance(entry, Record) else LogDamage(file.path, entry)
        finally:
            os.close(descriptor)
