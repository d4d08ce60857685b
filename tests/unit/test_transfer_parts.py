"""Small parts of a transfer under the thread interleavings that hurt."""

from __future__ import annotations

import fcntl
import io
import os
import threading
from pathlib import Path

import pytest

from dwcp.errors import StorageError
from dwcp.files import staging as staging_module
from dwcp.files.root import Root
from dwcp.files.staging import Staging
from dwcp.hde.hashes import MIN_LEAF
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.source import FileReader, StreamSource
from dwcp.wire.messages import Entry
from tests.support import wait_until


def test_a_buffer_given_back_goes_to_whoever_it_is_large_enough_for() -> None:
    pool = BufferPool(4)
    got = {size: threading.Event() for size in (4, 2)}

    def take(size: int) -> None:
        with pool.buffer(size):
            got[size].set()

    with pool.buffer(2):
        with pool.buffer(2):
            threads = [threading.Thread(target=take, args=(size,), daemon=True) for size in (4, 2)]
            for number, thread in enumerate(threads, 1):
                thread.start()
                wait_until(lambda number=number: len(pool._condition._waiters) == number, "it waits")  # type: ignore[attr-defined]
        assert got[2].wait(5), "the one that waits for more has slept through the other's call"
        assert not got[4].is_set()
    for thread in threads:
        thread.join(5)
    assert got[4].is_set()


def test_a_file_that_is_closed_while_it_is_read_keeps_its_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the number would be that of the next file to be opened, the node's key perhaps."""
    (tmp_path / "a").write_bytes(b"a" * 10)
    (tmp_path / "secret").write_bytes(b"s" * 10)
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    reader = FileReader(fd, Entry(path=b"a", type="file", size=10))
    original = os.preadv

    def slow(fd: int, buffers: list[memoryview], offset: int) -> int:
        reader.close()
        with (tmp_path / "secret").open("rb"):
            return original(fd, buffers, offset)

    monkeypatch.setattr("dwcp.transfer.source.os.preadv", slow)
    view = memoryview(bytearray(10))
    assert reader.read_into(0, view) == 10
    assert bytes(view) == b"a" * 10
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(StorageError, match="not being sent any more"):
        reader.read_into(0, view)
    reader.close()


def test_a_settled_leaf_of_a_stream_is_not_there_to_be_read() -> None:
    """It is asked for where a stream is found lost just before the acknowledgement arrives."""
    reader = StreamSource(io.BytesIO(bytes(2 * MIN_LEAF))).reader
    turn, _, _ = reader.take_over()
    assert reader.next_leaf(turn) == 0
    reader.settled(0)
    assert reader.read_into(0, memoryview(bytearray(MIN_LEAF))) == 0


def test_a_part_that_was_finished_while_its_lock_was_waited_for_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal has been unlinked: what is noted there would be lost, and publishing would fail."""
    root = Root(tmp_path)
    staging = Staging(root)
    original = fcntl.flock
    finished = threading.Event()

    def flock(fd: int, operation: int) -> None:
        if not finished.is_set():
            finished.set()
            (tmp_path / ".dwcp" / "k.journal").unlink()
        original(fd, operation)

    monkeypatch.setattr("dwcp.files.staging.fcntl.flock", flock)
    part = staging.open_part("k", b"x")
    assert os.fstat(part.journal_fd).st_nlink == 1
    staging.publish_part(part, b"x", root.fd)
    assert (tmp_path / "x").exists()
    part.close()
    staging.discard()
    staging.close()
    root.close()


def test_the_staging_directory_stays_while_somebody_uses_it(tmp_path: Path) -> None:
    root = Root(tmp_path)
    first, second = Staging(root), Staging(root)
    first.discard()
    first.close()
    name, fd = second.create()
    os.close(fd)
    second.publish(name, b"x", root.fd)
    second.discard()
    second.close()
    assert os.listdir(tmp_path) == ["x"]
    root.close()


@pytest.mark.parametrize("moment", ["before it is open", "before it is locked"])
def test_a_staging_directory_that_is_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    root = Root(tmp_path)
    removed = threading.Event()

    def remove() -> None:
        if not removed.is_set():
            removed.set()
            (tmp_path / ".dwcp").rmdir()

    if moment == "before it is open":
        original = staging_module.make_directory
        monkeypatch.setattr(staging_module, "make_directory", lambda name, fd: (original(name, fd), remove()))
    else:
        flock = fcntl.flock
        monkeypatch.setattr("dwcp.files.staging.fcntl.flock", lambda fd, operation: (remove(), flock(fd, operation)))
    staging = Staging(root)
    name, fd = staging.create()
    os.close(fd)
    staging.publish(name, b"x", root.fd)
    assert (tmp_path / "x").exists()
    staging.discard()
    staging.close()
    root.close()
