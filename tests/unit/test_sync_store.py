"""What nodes know of each other, on disk."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from pathlib import Path

import pytest

from dwcp.errors import StateError
from dwcp.store import sync as store_module
from dwcp.store.sync import ASIDE, DIRECTORY, FILE, KEPT, SyncStore
from dwcp.sync import lww
from dwcp.sync.entry import Entry, Version

NODE = b"\1" * 8


def entry(key: str, stamp: int = 1, value: bytes = b"x") -> Entry:
    return lww.write(key, Version(NODE, stamp, value))


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    store = SyncStore(tmp_path)
    store.save({"app/a": entry("app/a"), "app/b": entry("app/b")}, 0, 1.0, history=True)
    store.save({"app/a": entry("app/a", 2), "app/b": None}, 7, 2.0, history=True)
    store.close()
    again = SyncStore(tmp_path)
    assert again.load() == [entry("app/a", 2)]
    assert again.clock() == 7
    assert [(past.seen_at, past.entry.newest.stamp) for past in again.history("app/a")] == [(2.0, 2), (1.0, 1)]
    assert not again.began_anew
    assert (tmp_path / DIRECTORY / FILE).stat().st_mode & 0o777 == 0o600


def test_a_database_without_a_clock_gets_one(tmp_path: Path) -> None:
    """As the first ones were."""
    store = SyncStore(tmp_path)
    store.save({"app/a": entry("app/a")}, 5, 1.0, history=True)
    store._db.execute("DROP TABLE clock")
    store.close()
    again = SyncStore(tmp_path)
    assert again.clock() == 0
    again.save({"app/a": None}, 6, 2.0, history=True)
    assert again.clock() == 6
    assert again.load() == []


def test_history_is_bounded_by_key_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SyncStore(tmp_path)
    for stamp in range(1, KEPT + 10):
        store.save({"app/a": entry("app/a", stamp)}, 0, float(stamp), history=True)
    assert len(store.history("app/a")) == KEPT
    store.save({"node/" + NODE.hex(): entry("node/" + NODE.hex())}, 0, 1.0, history=True)
    assert store.history("node/" + NODE.hex()) == [], "what nodes say of themselves has none"
    store.save({"app/b": entry("app/b")}, 0, 1.0, history=False)
    assert store.history("app/b") == []
    monkeypatch.setattr(store_module, "MAX_HISTORY", 20_000)
    for number in range(100):
        store.save({f"app/{number}": entry(f"app/{number}", value=bytes(1000))}, 0, 1.0, history=True)
    kept = [number for number in range(100) if store.history(f"app/{number}")]
    assert kept == list(range(kept[0], 100)), "the newest"
    assert 10 < len(kept) < 20
    store.close()
    assert SyncStore(tmp_path)._history_size < 20_000


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    store = SyncStore(tmp_path)
    store.save(
        {f"app/{number}": entry(f"app/{number}", value=bytes(500)) for number in range(200)}, 0, 1.0, history=True
    )
    store.close()
    path = tmp_path / DIRECTORY / FILE
    content = bytearray(path.read_bytes())
    content[4096 : len(content) - 4096] = os.urandom(len(content) - 8192)
    path.write_bytes(content)
    again = SyncStore(tmp_path)
    assert again.began_anew
    assert again.load() == []
    assert path.with_name(ASIDE).read_bytes() == content
    again.save({"app/a": entry("app/a")}, 0, 1.0, history=True)
    again.close()
    path.write_bytes(b"no database at all")
    assert SyncStore(tmp_path).load() == []


def test_one_that_is_newer_is_left_alone(tmp_path: Path) -> None:
    SyncStore(tmp_path).close()
    with sqlite3.connect(tmp_path / DIRECTORY / FILE) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(StateError, match="newer dwcp"):
        SyncStore(tmp_path)


def test_a_full_disk_is_told_and_nothing_is_half_saved(tmp_path: Path) -> None:
    store = SyncStore(tmp_path)
    store.save({"app/a": entry("app/a")}, 0, 1.0, history=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        changes: dict[str, Entry | None] = {
            f"app/{number}": entry(f"app/{number}", value=os.urandom(30_000)) for number in range(20)
        }
        with pytest.raises(StateError, match="free space"):
            store.save(changes, 0, 2.0, history=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.load() == [entry("app/a")]
    store.save(changes, 0, 3.0, history=True)
    assert len(store.load()) == 21
