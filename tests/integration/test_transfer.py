"""Two nodes in one process, real sockets and files: what arrives, what is refused, what is left behind."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import resource
import shutil
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from dwcp.cli.demo import compare_trees
from dwcp.config import Config
from dwcp.errors import (
    AuthenticationError,
    DwcpError,
    Interrupted,
    NotFoundError,
    PartialError,
    RefusedError,
    StorageError,
    UnreachableError,
    UsageError,
)
from dwcp.store.identity import load_or_create
from dwcp.transfer.channel import Channel
from dwcp.transfer.client import connect
from dwcp.transfer.commit import Committer
from dwcp.transfer.incoming import Incoming
from dwcp.transfer.receiver import Receiver
from dwcp.wire import messages as m
from tests.support import Pair, make_tree, random_file, wait_until


@pytest.mark.parametrize("checksum", ["xxh3", "blake3"])
def test_a_tree_arrives_as_it_is(pair: Pair, tmp_path: Path, checksum: str) -> None:
    make_tree(tmp_path / "tree")
    result = pair.send(tmp_path / "tree", "inbox/copy", checksum=checksum)
    assert compare_trees(tmp_path / "tree", pair.inbox / "copy") == []
    assert result.verified
    assert result.files == sum(not path.is_dir() or path.is_symlink() for path in (tmp_path / "tree").rglob("*"))
    copy = pair.inbox / "copy"
    assert (copy / "small").stat().st_ino == (copy / "sub" / "same").stat().st_ino
    assert (copy / "sparse").stat().st_blocks * 512 < 2_000_000
    assert pair.leftovers() == []


def test_the_second_time_only_what_changed_goes(pair: Pair, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    pair.send(tmp_path / "tree", "inbox/copy")
    again = pair.send(tmp_path / "tree", "inbox/copy")
    assert again.unchanged == again.files
    assert again.wire_bytes < 5_000
    large = tmp_path / "tree" / "sub" / "deep" / "large"
    large.write_bytes(b"in front" + large.read_bytes())
    (tmp_path / "tree" / "text").rename(tmp_path / "tree" / "renamed")
    (tmp_path / "tree" / "small").unlink()
    third = pair.send(tmp_path / "tree", "inbox/copy", delete=True)
    assert compare_trees(tmp_path / "tree", pair.inbox / "copy") == []
    assert third.wire_bytes < 150_000
    assert third.deleted == 2


def test_a_page_changed_in_place_costs_little_more_than_itself(pair: Pair, tmp_path: Path) -> None:
    content = bytearray(random_file(tmp_path / "image", 8_000_000))
    pair.send(tmp_path / "image", "inbox/image")
    content[5_000_000:5_000_010] = b"0123456789"
    (tmp_path / "image").write_bytes(content)
    result = pair.send(tmp_path / "image", "inbox/image")
    assert (pair.inbox / "image").read_bytes() == content
    assert result.wire_bytes < 16_000


def test_without_delta_encoding_all_of_a_changed_file_goes(tmp_path: Path) -> None:
    pair = Pair(tmp_path, compression={"enable_delta_encoding": False})
    content = random_file(tmp_path / "image", 3_000_000)
    pair.send(tmp_path / "image", "inbox/image")
    (tmp_path / "image").write_bytes(b"x" + content[1:])
    result = pair.send(tmp_path / "image", "inbox/image")
    assert result.wire_bytes > 3_000_000
    assert (pair.inbox / "image").read_bytes() == b"x" + content[1:]
    pair.close()


@pytest.mark.parametrize("algorithm", ["zstd", "lz4", "snappy"])
@pytest.mark.parametrize("level", ["fast", "max"])
def test_codecs_shrink_what_can_be_shrunk(tmp_path: Path, algorithm: str, level: str) -> None:
    pair = Pair(tmp_path, compression={"algorithm": algorithm, "level": level, "enable_adaptive": False})
    (tmp_path / "text").write_text("a line of text that comes again\n" * 100_000)
    result = pair.send(tmp_path / "text", "inbox/text")
    assert (pair.inbox / "text").read_bytes() == (tmp_path / "text").read_bytes()
    assert result.wire_bytes < result.bytes / 5
    pair.close()


def test_get_is_the_mirror_of_send(pair: Pair, tmp_path: Path) -> None:
    make_tree(pair.inbox / "tree")
    result = pair.get("inbox/tree", tmp_path / "back")
    assert compare_trees(pair.inbox / "tree", tmp_path / "back") == []
    assert result.verified
    (tmp_path / "into").mkdir()
    pair.get("inbox/tree/small", f"{tmp_path}/into/")
    assert (tmp_path / "into" / "small").read_text() == "hello\n"
    assert not (tmp_path / ".dwcp").exists()


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 5_000_001])
def test_a_stream_becomes_a_file_and_a_file_a_stream(pair: Pair, size: int) -> None:
    content = os.urandom(size)
    result = pair.send(io.BytesIO(content), "inbox/stream")
    assert (pair.inbox / "stream").read_bytes() == content
    assert (result.files, result.bytes) == (1, size)
    out = io.BytesIO()
    pair.get("inbox/stream", out)
    assert out.getvalue() == content


def test_names_of_results(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    pair.send(tmp_path / "file", "inbox")
    pair.send(tmp_path / "file", "inbox/")
    pair.send(tmp_path / "file", "inbox/other")
    pair.send(tmp_path / "file", "inbox/made/on/the/way/")
    names = sorted(str(path.relative_to(pair.inbox)) for path in pair.inbox.rglob("*") if path.is_file())
    assert names == ["file", "made/on/the/way/file", "other"]


def test_listing_and_ping(pair: Pair) -> None:
    make_tree(pair.inbox / "tree")
    exports = pair.do(lambda peer: peer.ls())
    assert [(entry.name, entry.kind) for entry in exports] == [("fixed", "export"), ("inbox", "export")]
    entries = {entry.name: entry for entry in pair.do(lambda peer: peer.ls("inbox/tree"))}
    assert entries["link"].target == "sub/medium"
    assert entries["script"].mode == 0o755
    assert entries["sub"].kind == "dir"
    assert 0 < pair.do(lambda peer: peer.ping()) < 5


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("nowhere/x", NotFoundError, "has no export 'nowhere'; it has: fixed, inbox"),
        ("fixed/x", RefusedError, "read-only"),
        ("inbox/../x", RefusedError, "'..' are not allowed"),
        ("inbox/.dwcp/x", RefusedError, "unfinished files"),
        ("inbox//x", RefusedError, "empty components"),
        ("", UsageError, "PEER:EXPORT/PATH"),
    ],
)
def test_what_is_refused(pair: Pair, tmp_path: Path, target: str, error: type[DwcpError], words: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(error, match=words.replace(".", r"\.")):
        pair.send(tmp_path / "file", target)
    assert list(pair.inbox.iterdir()) == []


def test_symlinks_in_the_export_are_never_followed(pair: Pair, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (pair.inbox / "way-out").symlink_to(outside)
    (tmp_path / "file").write_text("x")
    with pytest.raises(PartialError, match="never followed"):
        pair.send(tmp_path / "file", "inbox/way-out/file")
    with pytest.raises(RefusedError, match="never followed"):
        pair.get("inbox/way-out/file", tmp_path / "got")
    assert [entry.kind for entry in pair.do(lambda peer: peer.ls("inbox/way-out"))] == ["symlink"]
    with pytest.raises(RefusedError):
        pair.do(lambda peer: peer.ls("inbox/way-out/deeper"))
    assert list(outside.iterdir()) == []
    # a symlink in a file's place is replaced, not written through
    (outside / "victim").write_text("mine")
    (pair.inbox / "file").symlink_to(outside / "victim")
    pair.send(tmp_path / "file", "inbox/file")
    assert (outside / "victim").read_text() == "mine"
    assert (pair.inbox / "file").read_text() == "x"


def test_set_user_id_bits_do_not_travel(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "program").write_text("x")
    (tmp_path / "program").chmod(0o4755)
    pair.send(tmp_path / "program", "inbox/program")
    assert stat.S_IMODE((pair.inbox / "program").stat().st_mode) == 0o755


def test_a_directory_gives_way_to_a_file_only_when_asked(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "thing").write_text("x" * 10)
    (pair.inbox / "thing" / "full").mkdir(parents=True)
    with pytest.raises(PartialError, match="--delete"):
        pair.send(tmp_path / "thing", "inbox/thing")
    assert (pair.inbox / "thing" / "full").is_dir()
    pair.send(tmp_path / "thing", "inbox/thing", delete=True)
    assert (pair.inbox / "thing").read_text() == "x" * 10


def test_sockets_and_fifos_are_named_and_left_out(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree" / "fifo")
    (tmp_path / "tree" / "file").write_text("x")
    with pytest.raises(PartialError, match="'fifo' is left out"):
        pair.send(tmp_path / "tree", "inbox/tree", delete=True)
    assert (pair.inbox / "tree" / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_named_and_the_rest_arrives(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "secret").write_text("x")
    (tmp_path / "tree" / "secret").chmod(0)
    (tmp_path / "tree" / "open").write_text("x")
    with pytest.raises(PartialError, match="secret"):
        pair.send(tmp_path / "tree", "inbox/tree")
    assert (pair.inbox / "tree" / "open").exists()


def test_a_missing_source_and_a_missing_remote(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing-here"):
        pair.send(tmp_path / "nothing-here", "inbox/x")
    with pytest.raises(NotFoundError, match="does not exist"):
        pair.get("inbox/nothing-here", tmp_path / "x")
    with pytest.raises(NotFoundError, match="no peer 'c'; known peers: b"):
        asyncio.run(_connect("c", pair.config))


async def _connect(name: str, config: Config) -> None:
    async with connect(name, config=config) as peer:
        await peer.ping()
        raise AssertionError("connected")


def test_strangers_and_impostors_are_told_apart(pair: Pair, tmp_path: Path) -> None:
    stranger = load_or_create(tmp_path / "c" / "identity", "c")
    unknown = pair.config.model_copy(
        update={
            "node": pair.config.node.model_copy(update={"name": "c"}),
            "storage": pair.config.storage.model_copy(update={"state_dir": str(tmp_path / "c")}),
        }
    )
    with pytest.raises(AuthenticationError, match="does not know your fingerprint"):
        asyncio.run(_connect("b", unknown))
    peer = pair.config.peers["b"].model_copy(update={"fingerprint": stranger.fingerprint})
    expecting_another = pair.config.model_copy(update={"peers": {"b": peer}})
    with pytest.raises(AuthenticationError, match="is pinned for it"):
        asyncio.run(_connect("b", expecting_another))
    assert pair.server.counters().refused >= 1


def test_nobody_listens(pair: Pair) -> None:
    pair.close()
    with pytest.raises(UnreachableError, match=r"cannot connect to 127\.0\.0\.1"):
        asyncio.run(_connect("b", pair.config))


def test_tls_carries_the_same(tmp_path: Path) -> None:
    pair = Pair(tmp_path, security={"tls": "always"})
    make_tree(tmp_path / "tree")
    pair.send(tmp_path / "tree", "inbox/tree")
    pair.get("inbox/tree", tmp_path / "back")
    assert compare_trees(tmp_path / "tree", tmp_path / "back") == []
    plain = pair.config.model_copy(update={"security": pair.config.security.model_copy(update={"tls": "auto"})})
    with pytest.raises(DwcpError, match=r"without TLS|closed the connection|connection lost"):
        asyncio.run(_connect("b", plain))
    pair.close()


def test_cancelling_keeps_what_arrived(tmp_path: Path) -> None:
    content = random_file(tmp_path / "big", 60_000_000)
    slow = Pair(tmp_path, transport={"enable_pacing": True, "pacing_rate": 200_000_000})

    async def run() -> None:
        async with connect("b", config=slow.config) as peer:
            task = asyncio.ensure_future(peer.send(tmp_path / "big", "inbox/big"))
            await asyncio.to_thread(wait_until, lambda: any(s.bytes_done for s in slow.board.live()), "some bytes")
            await asyncio.to_thread(wait_until, lambda: slow.board.live()[0].bytes_done > 10_000_000, "10 MB")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert not (slow.inbox / "big").exists()
    wait_until(lambda: not slow.board.live(), "the receiver notices")
    assert slow.board.recent()[0].state == "cancelled"
    result = slow.send(tmp_path / "big", "inbox/big")
    assert (slow.inbox / "big").read_bytes() == content
    assert result.wire_bytes < 52_000_000
    slow.close()


def test_cancelling_at_the_receiver_ends_the_sender(tmp_path: Path) -> None:
    pair = Pair(tmp_path, transport={"enable_pacing": True, "pacing_rate": 100_000_000})
    random_file(tmp_path / "big", 40_000_000)
    failure: list[BaseException] = []

    def send() -> None:
        try:
            pair.send(tmp_path / "big", "inbox/big")
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    wait_until(lambda: bool(pair.board.live()), "the transfer begins")
    pair.board.cancel(pair.board.live()[0].id)
    thread.join(20)
    assert isinstance(failure[0], Interrupted)
    pair.close()


def test_nothing_leaks(pair: Pair, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    pair.send(tmp_path / "tree", "inbox/tree")
    gc.collect()
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(5):
        pair.send(tmp_path / "tree", f"inbox/tree{number}")
    with pytest.raises(RefusedError):
        pair.send(tmp_path / "tree", "fixed/tree")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "descriptors are given back")
    wait_until(lambda: threading.active_count() <= threads, "threads end")


def test_memory_does_not_grow_with_the_file(pair: Pair, tmp_path: Path) -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    pair.send(tmp_path / "sparse", "inbox/first")
    before = peak()
    with (tmp_path / "sparse").open("r+b") as file:
        file.truncate(4 * 1024**3)
    pair.send(tmp_path / "sparse", "inbox/second")
    assert (pair.inbox / "second").stat().st_size == 4 * 1024**3
    assert peak() - before < 64 * 1024


def test_a_source_that_changes_is_not_passed_off_as_whole(pair: Pair, tmp_path: Path) -> None:
    """The file is announced with one size and read with another, as often as it is tried."""
    random_file(tmp_path / "log", 3_000_000)
    original = os.preadv

    def grow(fd: int, buffers: list[memoryview], offset: int) -> int:
        with (tmp_path / "log").open("ab") as file:
            file.write(b"more")
        return original(fd, buffers, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dwcp.transfer.source.os.preadv", grow)
        with pytest.raises(PartialError, match="changed while it was read"):
            pair.send(tmp_path / "log", "inbox/log")
    assert not (pair.inbox / "log").exists()
    pair.send(tmp_path / "log", "inbox/log")
    assert (pair.inbox / "log").read_bytes() == (tmp_path / "log").read_bytes()


def test_storage_errors_are_named_at_both_ends(pair: Pair, tmp_path: Path) -> None:
    random_file(tmp_path / "file", 3_000_000)

    def full(fd: int, content: memoryview, offset: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dwcp.transfer.writing.write_all", full)
        with pytest.raises(StorageError, match="the disk is full; free space there"):
            pair.send(tmp_path / "file", "inbox/file")
    wait_until(lambda: bool(pair.board.recent()), "the receiver ends it too")
    assert "the disk is full" in pair.board.recent()[0].error
    pair.send(tmp_path / "file", "inbox/file")
    assert (pair.inbox / "file").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_file_larger_than_any_that_can_be_received_is_named_and_left_out(pair: Pair) -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no file system here that has sparse files of this size")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as tree:
        (Path(tree) / "small").write_text("x")
        with (Path(tree) / "vast").open("wb") as file:
            file.truncate(2**60)
        with pytest.raises(PartialError, match="'vast' is left out: more than 16.0 TiB"):
            pair.send(tree, "inbox/tree")
    assert (pair.inbox / "tree" / "small").read_text() == "x"


def test_a_path_longer_than_can_be_said_is_named_and_left_out(pair: Pair, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "small").write_text("x")
    here = os.open(tree, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=here)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    with pytest.raises(PartialError, match="is left out: its path has more than 4096 bytes"):
        pair.send(tree, "inbox/tree")
    assert (pair.inbox / "tree" / "small").read_text() == "x"
    for path in (tree, pair.inbox / "tree"):
        shutil.rmtree(path)


@pytest.mark.parametrize("direction", ["send", "get"])
def test_a_goodbye_that_comes_before_the_receiver_has_ended(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """The peer is quick: it has read FINISHED and left while the receiver's thread is about to note that it is done."""
    original_send, original_receive = Channel.send, Channel.receive
    left = threading.Event()

    def send(channel: Channel, message: m.Message, *rest: Any, **more: Any) -> None:
        original_send(channel, message, *rest, **more)
        if isinstance(message, m.Finished):
            assert left.wait(10)

    def receive(channel: Channel) -> tuple[m.Message, bytes]:
        message, body = original_receive(channel)
        if isinstance(message, m.Bye):
            left.set()
        return message, body

    monkeypatch.setattr(Channel, "send", send)
    monkeypatch.setattr(Channel, "receive", receive)
    content = random_file(tmp_path / "file", 300_000)
    if direction == "get":
        (pair.inbox / "file").write_bytes(content)
        pair.get("inbox/file", tmp_path / "back")
    else:
        pair.send(tmp_path / "file", "inbox/file")
    wait_until(lambda: not pair.board.live(), "the server has ended it")
    assert [status.state for status in pair.board.recent()] == ["done"]


def test_files_that_were_renamed_in_a_circle_are_all_there(pair: Pair, tmp_path: Path) -> None:
    """Rotated logs: the baseline of one is replaced by another before it is used."""
    logs = tmp_path / "logs"
    logs.mkdir()
    contents = [random_file(logs / f"log.{number}", 1_300_000 + number, seed=number) for number in range(4)]
    pair.send(logs, "inbox/logs")
    for number in (3, 2, 1, 0):
        (logs / f"log.{number}").rename(logs / f"log.{number + 1}")
    contents.insert(0, random_file(logs / "log.0", 2_000_000, seed=9))
    result = pair.send(logs, "inbox/logs")
    assert result.verified
    for number, content in enumerate(contents):
        assert (pair.inbox / "logs" / f"log.{number}").read_bytes() == content


def test_a_renamed_file_whose_old_name_is_filled_anew_costs_nothing(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content is here under the old name; that name gets its new content before the old one is copied."""
    logs = tmp_path / "logs"
    logs.mkdir()
    old = random_file(logs / "log", 1_300_000, seed=1)
    pair.send(logs, "inbox/logs")
    (logs / "log").rename(logs / "log.1")
    new = random_file(logs / "log", 200_000, seed=2)
    published = threading.Event()
    original_publish, original_complete = Committer._publish, Receiver._complete

    def publish(committer: Committer, file: Incoming) -> None:
        original_publish(committer, file)
        if file.target[-1] == b"log":
            published.set()

    def complete(receiver: Receiver, file: Incoming) -> None:
        if file.target[-1] == b"log.1":
            assert published.wait(10)
        original_complete(receiver, file)

    monkeypatch.setattr(Committer, "_publish", publish)
    monkeypatch.setattr(Receiver, "_complete", complete)
    result = pair.send(logs, "inbox/logs")
    assert (pair.inbox / "logs" / "log").read_bytes() == new
    assert (pair.inbox / "logs" / "log.1").read_bytes() == old
    assert result.wire_bytes < 400_000


def test_what_fails_after_the_files_are_there_is_told_to_the_sender(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hard links are made last."""

    def refuse(*args: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("x")
    os.link(tmp_path / "tree" / "a", tmp_path / "tree" / "b")
    monkeypatch.setattr("dwcp.transfer.tree.os.link", refuse)
    with pytest.raises(PartialError, match="cannot link .*not permitted"):
        pair.send(tmp_path / "tree", "inbox/tree")
