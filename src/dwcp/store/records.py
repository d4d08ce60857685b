"""The transaction log's records as lines of text, and back. Sans-IO: bytes in, records and damage out.

    line      CHECKSUM, a space, one JSON object, a newline
    CHECKSUM  XXH3 (64 bits) of the object's bytes, 16 lower-case hexadecimal digits
    object    seq, time, run, kind, event; peer and detail where there is something to say

A line can be read with grep and jq, and is found again after damage by the next newline. `seq` goes up by one from
record to record, over all files, so that a lost line shows too. A file's last bytes without a newline are a record that
its writer never finished (`torn`): nobody was told that it was written.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

import msgspec
import xxhash

from dwcp.errors import StateError

MAX_LINE = 64 * 1024
"""Bytes, newline included: a name (4 KiB) and a reason fit many times over, and no reader has to hold more."""
MAX_TEXT = 1000
"""Characters of one value; what is longer is cut, and ends in an ellipsis."""
MAX_VALUES, MAX_VALUE = 20, 300
"""Values of one list, and the characters of each; how many there are more is said in their place."""
_CHECKSUM = 16

KINDS = {
    "node": ("start", "stop"),
    "component": ("start", "restart", "recovered", "restart-failed", "failed", "health"),
    "breaker": ("open", "half-open", "closed", "reset"),
    "config": ("reload", "refused"),
    "peer": ("add", "remove"),
    "limit": ("set",),
    "transfer": ("begin", "end"),
    "job": ("add", "begin", "done", "cancelled", "parked"),
    "sync": ("stale", "fresh"),
    "workload": ("add", "remove", "pause", "resume"),
    "cluster": (
        *("node-there", "node-gone", "owned", "unowned", "hand-over", "move", "refused", "drain", "drain-undone"),
        *("unfence", "shared", "unshared"),
        *("trouble", "recovered"),
    ),
    "snapshot": ("begin", "end", "failed"),
    "restore": ("begin", "end"),
    "upgrade": ("begin", "end"),
    "log": ("cut", "resumed"),
}
"""Every kind, with its events; docs/state.md says what they mean."""

Value = str | int | float | bool | list[str]


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened. `run` is the same for all records of one process."""

    seq: int
    time: datetime.datetime
    """By the wall clock, UTC; the order is that of `seq`."""
    run: str
    kind: str
    event: str
    peer: str = ""
    detail: dict[str, Value] = {}


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no record, or records that are not there. `offset` and `size` in bytes of the file."""

    offset: int
    size: int
    reason: str
    torn: bool = False
    """The last record of the file was being written when its writer was ended."""


class DamagedError(StateError):
    """A sealed line is not what its checksum says."""


def seal(payload: bytes) -> bytes:
    """A line around `payload`, which has no newline."""
    return xxhash.xxh3_64_hexdigest(payload).encode() + b" " + payload + b"\n"


def unseal_all(content: bytes) -> bytes:
    """What was sealed, where that is all of a file. Raises DamagedError."""
    if not content.endswith(b"\n"):
        raise DamagedError("its end is missing")
    return unseal(content[:-1])


def unseal(line: bytes) -> bytes:
    """What was sealed; `line` without its newline. Raises DamagedError."""
    payload = line[_CHECKSUM + 1 :]
    # bytes are compared, not numbers: a flipped bit may turn a digit's case
    if line[: _CHECKSUM + 1] != seal(payload)[: _CHECKSUM + 1]:
        raise DamagedError("the checksum does not match")
    return payload


def encode(record: Record) -> bytes:
    """Raises ValueError for a record of more than MAX_LINE bytes; ten tidy texts, or four and a list, are less."""
    line = seal(msgspec.json.encode(record))
    if len(line) > MAX_LINE:
        raise ValueError(f"a record of {len(line)} bytes; at most {MAX_LINE} are allowed")
    return line


def decode(line: bytes) -> Record:
    """`line` without its newline. Raises DamagedError."""
    try:
        return msgspec.json.decode(unseal(line), type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"it is no record ({error})") from error


def tidy(value: Value) -> Value:
    """As it can be written: of bounded size, and without what is no Unicode (names of files may have such bytes)."""
    if isinstance(value, str):
        return _shortened(value, MAX_TEXT)
    if isinstance(value, list):
        more = [f"… {len(value) - MAX_VALUES} more"] if len(value) > MAX_VALUES else []
        return [_shortened(entry, MAX_VALUE) for entry in value[:MAX_VALUES]] + more
    if isinstance(value, bool) or (math.isfinite(value) and abs(value) < 2**63):
        return value
    # what JSON, or a reader's integers, cannot hold
    return str(value)


def _shortened(text: str, most: int) -> str:
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= most else text[: most - 1] + "…"


class LogDecoder:
    """Reads one file of the log in pieces of any size."""

    def __init__(self, last_seq: int | None, offset: int = 0) -> None:
        """`last_seq`: of the record before the first one to come, None where any may come; `offset`: where in the
        file the pieces begin."""
        self.last_seq = last_seq
        self.consumed = offset
        """Up to here all lines are complete, and were given out."""
        self._pending = bytearray()
        self._skipped = 0
        self._lost = False

    def feed(self, data: bytes) -> list[Record | Damage]:
        """What the lines hold that `data` completes."""
        found: list[Record | Damage] = []
        searched = len(self._pending)
        self._pending += data
        begin = 0
        while (end := self._pending.find(b"\n", max(begin, searched))) >= 0:
            found += self._line(bytes(self._pending[begin:end]))
            begin = end + 1
        del self._pending[:begin]
        if len(self._pending) > MAX_LINE:
            # no line is that long: only how much there is of it has to be kept
            self._skipped += len(self._pending)
            self._pending.clear()
        return found

    def close(self) -> Damage | None:
        """What is left at the end of the file."""
        left = self._skipped + len(self._pending)
        if not left:
            return None
        return Damage(self.consumed, left, f"{left} bytes of a record that was not finished", torn=True)

    @property
    def carry(self) -> int | None:
        """What the decoder of the next file takes as its `last_seq`."""
        return None if self._lost else self.last_seq

    def _line(self, line: bytes) -> list[Record | Damage]:
        size, at = self._skipped + len(line) + 1, self.consumed
        self._skipped = 0
        self.consumed += size
        try:
            if size > MAX_LINE:
                raise DamagedError(f"{size} bytes without a newline")
            record = decode(line)
        except DamagedError as error:
            self._lost = True
            return [Damage(at, size, str(error))]
        last, lost = self.last_seq, self._lost
        self.last_seq, self._lost = record.seq, False
        # after damage nobody knows how many there were
        if last is not None and (record.seq <= last or (record.seq > last + 1 and not lost)):
            return [Damage(at, 0, f"record {record.seq} follows record {last}"), record]
        return [record]
