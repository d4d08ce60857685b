"""The transaction log on disk: who writes, in which order, how much is kept, and what a reader finds."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dwcp.store import txlog
from dwcp.store.recorder import Recorder
from dwcp.store.records import MAX_LINE, Record
from dwcp.store.txlog import FILES, LogDamage, LogReader, TransactionLog, list_files
from tests.processes import clean_environment
from tests.support import wait_until

SIZE = 2**20
WRITER = """
import sys
from pathlib import Path
from dwcp.store.txlog import TransactionLog
log = TransactionLog(Path(sys.argv[1]), 2**20)
for number in range(100):
    log.append("node", "start", detail={"number": number})
"""


def read(state_dir: Path) -> tuple[list[Record], list[LogDamage]]:
    reader = LogReader(state_dir)
    found = list(reader.poll())
    torn = reader.torn()
    damage = [entry for entry in found if isinstance(entry, LogDamage)]
    return [entry for entry in found if isinstance(entry, Record)], [*damage, torn] if torn else damage


def newest(state_dir: Path) -> Path:
    return list_files(state_dir / "logs")[-1].path


def test_processes_that_write_at_once_get_one_order(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(command, env=clean_environment()) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    records, damage = read(tmp_path)
    assert damage == []
    assert [record.seq for record in records] == list(range(1, 401))
    for run in {record.run for record in records}:
        assert [r.detail["number"] for r in records if r.run == run] == list(range(100))


def test_it_never_takes_more_than_it_may_and_keeps_the_newest(tmp_path: Path) -> None:
    log = TransactionLog(tmp_path, SIZE)
    most = 0
    for number in range(5000):
        log.append("transfer", "end", peer="b", detail={"number": number, "text": "x" * 500})
        if number % 50 == 0:
            most = max(most, sum(file.path.stat().st_size for file in list_files(log.directory)))
    assert SIZE * (FILES - 2) // FILES < most <= SIZE
    records, damage = read(tmp_path)
    assert damage == []
    assert [record.seq for record in records] == list(range(records[0].seq, 5001))
    log.size = SIZE // 2
    for _ in range(500):
        log.append("transfer", "end", detail={"text": "x" * 500})
    assert sum(file.path.stat().st_size for file in list_files(log.directory)) <= SIZE // 2


def test_files_and_directory_are_their_owners_alone(tmp_path: Path) -> None:
    TransactionLog(tmp_path, SIZE).append("node", "start")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "logs").iterdir()}
    assert modes == {"lock": 0o600, "transactions-000000000001.log": 0o600}
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def test_a_record_cut_at_any_byte_is_torn_then_cut_off_and_named(tmp_path: Path) -> None:
    log = TransactionLog(tmp_path, SIZE)
    log.append("node", "start")
    whole = newest(tmp_path).read_bytes()
    log.append("peer", "add", peer="b")
    both = newest(tmp_path).read_bytes()
    for at in range(len(whole) + 1, len(both)):
        newest(tmp_path).write_bytes(both[:at])
        records, damage = read(tmp_path)
        assert [record.kind for record in records] == ["node"]
        assert [entry.damage.torn for entry in damage] == [True]
        log.append("limit", "set")
        records, damage = read(tmp_path)
        assert damage == []
        # where nothing but its newline is missing, the record is whole
        second = ["peer"] if at == len(both) - 1 else ["log"]
        assert [record.kind for record in records] == ["node", *second, "limit"]
        if second == ["log"]:
            assert records[1].event == "cut"
            assert records[1].detail["bytes"] == at - len(whole)


@pytest.mark.parametrize("filler", [b"\0", b"\n", b"x", b"\xff"])
def test_a_tail_of_anything_is_survived(tmp_path: Path, filler: bytes) -> None:
    """Zeros are what a power cut leaves; the rest is what nobody would."""
    log = TransactionLog(tmp_path, SIZE)
    log.append("node", "start")
    for size in (1, 1000, MAX_LINE - 1, MAX_LINE, 3 * MAX_LINE):
        before = len(read(tmp_path)[0])
        with newest(tmp_path).open("ab") as file:
            file.write(filler * size)
        log.append("limit", "set")
        records, damage = read(tmp_path)
        assert len(records) > before
        assert records[-1].kind == "limit"
        assert not any(entry.damage.torn for entry in damage)


def test_a_damaged_last_record_stays_to_be_seen_and_numbers_go_on(tmp_path: Path) -> None:
    log = TransactionLog(tmp_path, SIZE)
    for kind in ("node", "peer"):
        log.append(kind, "x")
    raw = bytearray(newest(tmp_path).read_bytes())
    raw[-10] ^= 1
    newest(tmp_path).write_bytes(raw)
    assert log.append("limit", "set").seq == 3
    records, damage = read(tmp_path)
    assert [record.seq for record in records] == [1, 3]
    assert [entry.damage.reason for entry in damage] == ["the checksum does not match"]


def test_a_lost_file_between_two_others_shows(tmp_path: Path) -> None:
    log = TransactionLog(tmp_path, SIZE)
    log.append("node", "start")
    while len(list_files(log.directory)) < 4:
        log.append("transfer", "end", detail={"text": "x" * 1000})
    lost = list_files(log.directory)[1].path
    lost.unlink()
    _, damage = read(tmp_path)
    assert len(damage) == 1
    assert "follows record" in str(damage[0])


def test_a_follower_sees_each_record_once_over_new_files_and_cut_tails(tmp_path: Path) -> None:
    log = TransactionLog(tmp_path, SIZE)
    log.append("node", "start")
    reader = LogReader(tmp_path)
    seen = list(reader.poll())
    for number in range(2000):
        log.append("transfer", "end", detail={"number": number, "text": "x" * 300})
        if number % 97 == 0:
            with newest(tmp_path).open("ab") as file:
                file.write(b"half a rec")
            seen += reader.poll()
    seen += reader.poll()
    assert all(isinstance(entry, Record) for entry in seen)
    assert [entry.seq for entry in seen if isinstance(entry, Record)] == list(range(1, len(seen) + 1))
    assert len(list_files(log.directory)) > 4


def test_a_write_that_the_disk_takes_only_half_of_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = TransactionLog(tmp_path, SIZE)
    log.append("node", "start")
    before = newest(tmp_path).read_bytes()
    original = os.write
    with monkeypatch.context() as patch:
        patch.setattr(txlog.os, "write", lambda fd, data: original(fd, data[:20]))
        with pytest.raises(OSError, match="No space left"):
            log.append("limit", "set")
    assert newest(tmp_path).read_bytes() == before
    assert log.append("limit", "set").seq == 2


def test_what_could_not_be_written_is_counted_and_told_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path, SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(txlog.os, "write", lambda fd, data: _full())
        recorder.write("node", "start")
        recorder.note("limit", "set")
        wait_until(lambda: "2 records" in recorder.failure, "both are counted")
        recorder.retry()
    assert "No space left on device" in recorder.failure
    recorder.retry()
    assert recorder.failure == ""
    recorder.note("peer", "add", peer="b")
    recorder.close(10)
    records, damage = read(tmp_path)
    assert damage == []
    assert [(record.kind, record.event) for record in records] == [("log", "resumed"), ("peer", "add")]
    assert records[0].detail["lost"] == 2


def _full() -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_notes_come_in_order_and_all_of_them_before_the_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, SIZE)
    for number in range(300):
        recorder.note("component", "health", number=number)
    recorder.close(10)
    assert [record.detail["number"] for record in read(tmp_path)[0]] == list(range(300))
    assert not recorder.unsynced
