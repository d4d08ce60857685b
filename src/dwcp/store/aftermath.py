"""What the run of a manager before this one left open, where it was killed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dwcp.store.records import LogDecoder, Record
from dwcp.store.txlog import CHUNK, DIRECTORY, LogFile, list_files

MOST = 64 * 2**20
"""Bytes that are read back: a second's work. A manager with more than that behind it is not waited for longer."""


@dataclass(frozen=True, slots=True)
class Aftermath:
    """`end`: first (there was no run before), stopped, or killed."""

    end: str
    open_transfers: list[Record] = field(default_factory=list)
    """Their beginnings."""


def aftermath(state_dir: Path) -> Aftermath:
    """Of the newest run of a manager in the log; its records before MOST are not looked at. Raises OSError."""
    try:
        files = list_files(state_dir / DIRECTORY)
    except FileNotFoundError:
        return Aftermath("first")
    run, read = "", 0
    records: list[Record] = []
    for file in reversed(files):
        older = _read(file)
        records = older + records
        run = next((record.run for record in reversed(older) if _is(record, "node", "start")), "")
        read += file.path.stat().st_size
        if run or read >= MOST:
            break
    if not run:
        return Aftermath("first")
    ours = [record for record in records if record.run == run]
    if any(_is(record, "node", "stop") for record in ours):
        return Aftermath("stopped")
    began = {record.detail.get("id"): record for record in ours if _is(record, "transfer", "begin")}
    for record in ours:
        if _is(record, "transfer", "end"):
            began.pop(record.detail.get("id"), None)
    return Aftermath("killed", list(began.values()))


def _read(file: LogFile) -> list[Record]:
    """Only what matters here: with many commands beside it most records are not the manager's."""
    decoder = LogDecoder(None)
    found = []
    with file.path.open("rb") as source:
        while data := source.read(CHUNK):
            found += [e for e in decoder.feed(data) if isinstance(e, Record) and e.kind in ("node", "transfer")]
    return found


def _is(record: Record, kind: str, event: str) -> bool:
    return record.kind == kind and record.event == event
