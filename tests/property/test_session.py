"""Both roles of a transfer, told anything in any order: only DwcpErrors come out, and all ends and is given back.

What nobody foresaw is turned into an error of its own (`errors.unexpected`); here it is a failure.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from typing_extensions import Buffer

from dwcp.config import Config
from dwcp.errors import DwcpError, Interrupted, UnreachableError
from dwcp.files.root import Root
from dwcp.hde import codecs
from dwcp.hde.hashes import MIN_LEAF, XXH3
from dwcp.links.interface import Delivery
from dwcp.transfer.channel import Channel
from dwcp.transfer.commit import Committer
from dwcp.transfer.counters import Tally
from dwcp.transfer.incoming import Incoming
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.receiver import Receiver
from dwcp.transfer.sender import Sender
from dwcp.transfer.settings import Compression
from dwcp.transfer.source import Source, StreamSource, TreeSource
from dwcp.wire import frames
from dwcp.wire import messages as m
from dwcp.wire.frames import FrameReader
from tests.support import wait_until

PATIENCE = 10.0


class MemoryLink:
    """Keeps what is sent; gives what it was made with, then ends."""

    description = "memory"
    encrypted = False

    def __init__(self, incoming: bytes = b"") -> None:
        self._incoming = incoming
        self._reader = FrameReader()
        self.heads: deque[m.Message] = deque(maxlen=200)
        self.broken = False

    def send(self, *parts: Buffer) -> None:
        if self.broken:
            raise UnreachableError("shut down")
        for part in parts:
            self.heads.extend(m.decode(kind, head) for kind, head, _ in self._reader.feed(part))

    def receive_into(self, view: memoryview) -> None:
        if not self._incoming:
            raise EOFError
        if len(self._incoming) < len(view):
            raise UnreachableError("cut off")
        view[:] = self._incoming[: len(view)]
        self._incoming = self._incoming[len(view) :]

    def set_read_timeout(self, seconds: float) -> None: ...
    def wire_bytes(self) -> tuple[int, int]:
        return 0, 0

    def delivery(self) -> Delivery:
        return Delivery()

    def round_trip_seconds(self) -> float | None:
        return None

    def set_pacing(self, bits_per_second: int | None) -> None: ...

    def begin_model_anew(self) -> None: ...
    def limit_queue(self, size: int) -> None:
        """Nothing waits here."""

    def shutdown(self) -> None:
        self.broken = True

    def close(self) -> None: ...


NAMES = [b"", b"a", b"b", b"d", b"d/a", b"d/d/a", b"link/a", b"../x", b"\xff", b"large", b"s\0"]
SIZES = [0, 1, 5, 70_000, 200_000, MIN_LEAF, MIN_LEAF + 1, 2 * MIN_LEAF + 5, 2**44, 2**63 - 1]
numbers = st.integers(0, 6)
small_runs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=3)
small_entries = st.builds(
    m.Entry,
    path=st.sampled_from(NAMES),
    type=st.sampled_from(["file", "file", "file", "dir", "symlink", "hardlink", "stream"]),
    mode=st.sampled_from([0, 0o644, 0o755, 2**32 - 1]),
    mtime_ns=st.sampled_from([0, 1, -1, 2**63 - 1]),
    size=st.sampled_from(SIZES),
    link=st.sampled_from(NAMES),
)
sane_names = st.sampled_from([b"a", b"b", b"d", b"d/a", b"d/d/a", b"large"])
sane_entries = st.one_of(
    st.builds(m.Entry, path=sane_names, type=st.just("file"), size=st.sampled_from(SIZES[:8]), mode=st.just(0o644)),
    st.builds(m.Entry, path=sane_names, type=st.sampled_from(["symlink", "hardlink"]), link=st.sampled_from(NAMES)),
    st.builds(m.Entry, path=sane_names, type=st.just("dir"), mode=st.just(0o755)),
)
mostly_sane = st.integers(0, 9).flatmap(lambda chance: sane_entries if chance else small_entries)
"""What is odd ends the transfer, mostly; for what comes later it has to go on."""
contents = st.sampled_from(
    [(b"x", 0), (b"x", 1), (b"x", 5), (b"\0", 70_000), (b"y", 200_000), (b"\0", MIN_LEAF), (b"z", MIN_LEAF + 1)]
).map(lambda pair: pair[0] * pair[1])
cuts = st.sampled_from([0, 0, 0, 1, 60])
digests = st.binary(min_size=16, max_size=16)
odd_blocks = st.builds(
    m.Block,
    file=numbers,
    leaf=st.integers(0, 3),
    size=st.sampled_from([0, 1, 5, 200_000, MIN_LEAF, 2**32 - 1]),
    codec=st.sampled_from([0, 1, 2, 3, 77, 255]),
    digest=st.just(b"") | digests,
    ops=st.lists(st.tuples(st.sampled_from([-1, 0, 100, 2**63 - 1]), st.sampled_from([0, 5, MIN_LEAF])), max_size=3),
    literal=st.sampled_from([0, 5, MIN_LEAF]),
)
odd_packs = st.builds(
    m.Pack,
    codec=st.sampled_from([0, 1, 255]),
    size=st.sampled_from([0, 1, 5, 70_000, 2**32 - 1]),
    files=st.lists(st.builds(m.Packed, numbers, st.sampled_from([0, 1, 5, 70_000]), digests), min_size=1, max_size=3),
)
to_a_receiver = st.one_of(
    st.builds(m.Scanned, count=numbers, complete=st.booleans()),
    st.builds(
        m.FileEnd, file=numbers, size=st.sampled_from(SIZES), root=digests, unchanged=small_runs, more=st.booleans()
    ),
    st.builds(m.IndexRequest, file=numbers, pages=small_runs, chunks=st.booleans()),
    st.builds(m.Error, code=st.sampled_from(["storage", "odd"]), message=st.text(max_size=5), file=numbers),
    st.builds(m.StreamLost, stream=numbers, reason=st.just("x")),
    st.builds(m.Need, files=st.lists(numbers, max_size=2)),
    odd_blocks,
)
known = st.integers(0, 4)
to_a_sender = st.one_of(
    st.builds(m.Need, files=st.lists(known, max_size=3), base_size=st.sampled_from([0, 5, 3_000_000, 2**63 - 1])),
    st.builds(m.BaseIndex, file=known),
    st.builds(m.Ack, file=known, leaves=small_runs),
    st.builds(m.Resend, file=known, leaves=small_runs, reason=st.just("x")),
    st.builds(m.Done, files=small_runs, unchanged=small_runs),
    st.builds(m.StreamLost, stream=st.integers(0, 1), reason=st.sampled_from(["x", "corrupted"])),
    st.builds(m.Streams, limit=known),
    st.builds(m.Pause, paused=st.booleans()),
    st.builds(m.Error, code=st.sampled_from(["storage", "odd"]), message=st.text(max_size=5), file=known),
    st.builds(m.Scanned, count=known, complete=st.booleans()),
)


def in_time(act: Any, what: str) -> None:
    """Runs it in a thread, to be able to say that it hangs."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"{what} does not come to an end"


class _Machine(RuleBasedStateMachine):
    """What both roles share. A transfer that was ended is followed by another one in the same place."""

    engine: Sender | Receiver

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.export = self.directory / "export"
        (self.export / "d").mkdir(parents=True)
        (self.export / "a").write_bytes(b"x" * 5)
        (self.export / "large").write_bytes(os.urandom(1000) + bytes(2 * MIN_LEAF))
        (self.export / "link").symlink_to(self.directory)
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.control = MemoryLink()
        self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def give_back(self) -> None:
        self.engine.close()

    def tell(self, message: m.Message, body: bytes = b"") -> None:
        """As a session does: an error ends the transfer."""
        if self.engine.finished.is_set():
            self.end()
            self.begin()
        try:
            self.engine.handle(message, body)
        except DwcpError as error:
            self.engine.tell_and_abort(error)

    def end(self) -> None:
        self.engine.tell_and_abort(Interrupted("the test is over"))
        in_time(self.give_back, "the transfer")
        errors = [message.message for message in self.control.heads if isinstance(message, m.Error)]
        assert not [text for text in [*errors, str(self.engine.error)] if "fault of this program" in text]
        assert sorted(path.name for path in self.directory.iterdir()) == ["export"]
        # fewer where a connection of an earlier test in this process has ended meanwhile
        assert len(os.listdir("/proc/self/fd")) <= self.descriptors

    def teardown(self) -> None:
        self.end()
        shutil.rmtree(self.directory)


class ReceiverMachine(_Machine):
    def begin(self) -> None:
        self.announced = 0
        self.streams = 0
        self.control = MemoryLink()
        self.engine: Receiver = Receiver(
            Root(self.export),
            (),
            Channel(self.control),
            checksum="xxh3",
            least_leaf=2**20,
            delete=False,
            delta=True,
            pool=BufferPool(4 * MIN_LEAF),
            tally=Tally(),
        )
        self.engine.start()

    def tell(self, message: m.Message, body: bytes = b"") -> None:
        """Returns when what it set off is done: planned, compared, put together."""
        super().tell(message, body)
        for pool in (self.engine._planning, self.engine._hashing, self.engine._planning):
            pool.submit(bool).result(PATIENCE)

    @rule(entries=st.lists(mostly_sane, min_size=1, max_size=3), lie=st.integers(0, 50))
    def announce(self, entries: list[m.Entry], lie: int) -> None:
        if self.engine.finished.is_set():
            self.end()
            self.begin()
        plain = m.encode_entries(entries)
        first = self.announced + (lie == 48)
        count, size = len(entries) + (lie == 49), len(plain) + (lie == 50)
        self.announced += len(entries)
        self.tell(m.Entries(first=first, count=count, size=size), codecs.encode_names(plain))

    @rule(complete=st.booleans())
    def scanned(self, complete: bool) -> None:
        self.tell(m.Scanned(count=self.announced, complete=complete))

    @rule(message=to_a_receiver, body=st.binary(max_size=20))
    def say(self, message: m.Message, body: bytes) -> None:
        self.tell(message, body)

    @rule(number=numbers, content=contents, leaf=st.integers(0, 2), packed=st.booleans(), damage=st.booleans())
    def carry(self, number: int, content: bytes, leaf: int, packed: bool, damage: bool) -> None:
        """Well-formed blocks, though perhaps of what nobody asked for."""
        digest = XXH3.digest(content) if not damage else bytes(16)
        message: m.Message = m.Block(file=number, leaf=leaf, size=len(content), codec=0, digest=digest)
        if packed:
            message = m.Pack(codec=0, size=len(content), files=[m.Packed(number, len(content), digest)])
        self.stream(message, content)

    @rule(leaves=st.lists(contents, min_size=1, max_size=2), number=numbers, right=st.booleans())
    def say_the_end(self, leaves: list[bytes], number: int, right: bool) -> None:
        root = XXH3.root(b"".join(map(XXH3.digest, leaves)), sum(map(len, leaves))) if right else bytes(16)
        if number in self.engine._files:
            self.tell(m.FileEnd(file=number, size=self.engine._files[number].size, root=root))

    @rule(
        message=odd_blocks | odd_packs | to_a_receiver,
        body=st.binary(max_size=40),
        cut=st.sampled_from([0, 0, 0, 1, 60]),
    )
    def carry_nonsense(self, message: m.Message, body: bytes, cut: int) -> None:
        self.stream(message, body, cut)

    def stream(self, message: m.Message, body: bytes, cut: int = 0) -> None:
        frame = frames.seal(message.kind, m.encode(message), body) + body
        channel = Channel(MemoryLink(frame[: len(frame) - cut]))
        self.streams += 1

        def run() -> None:
            try:
                self.engine.run_stream(self.streams, channel)
            except DwcpError:
                return

        in_time(run, "a stream")


class SenderMachine(_Machine):
    def begin(self) -> None:
        self.control = MemoryLink()
        self.source = TreeSource(Root(self.export), ())
        self.engine: Sender = Sender(
            self.source,
            Channel(self.control),
            checksum="xxh3",
            least_leaf=2**20,
            compression=Compression.of(Config()),
            pool=BufferPool(4 * MIN_LEAF),
            tally=Tally(),
            idle_seconds=0.05,
        )
        self.engine.start()
        # numbers mean something from now on
        self.engine._scanner.join(PATIENCE)
        self.threads: list[threading.Thread] = []

    @rule(message=to_a_sender, body=st.sampled_from([b"", b"", bytes(4), bytes(16), bytes(48), b"\xff" * 48]))
    def say(self, message: m.Message, body: bytes) -> None:
        self.tell(message, body)

    @rule(files=st.lists(known, max_size=3, unique=True))
    def need(self, files: list[int]) -> None:
        self.tell(m.Need(files=files))

    @rule(deleted=numbers, verified=st.booleans(), really=st.integers(0, 5))
    def finish(self, deleted: int, verified: bool, really: int) -> None:
        if not really:
            self.tell(m.Finished(deleted=deleted, verified=verified, errors=["x"]))

    @rule()
    def join(self) -> None:
        number = len(self.threads)
        if number > 2:
            return

        def run() -> None:
            try:
                self.engine.run_stream(number, Channel(MemoryLink()))
            except DwcpError:
                self.engine.stream_lost(number)

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def give_back(self) -> None:
        for thread in self.threads:
            thread.join()
        self.engine.close()
        self.source.close()


bounded = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestReceiver = ReceiverMachine.TestCase
TestReceiver.settings = bounded
TestSender = SenderMachine.TestCase
TestSender.settings = bounded


def test_the_last_file_that_is_published_while_all_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The transfer is cancelled in the instant in which it would have finished."""
    closing = threading.Event()
    original_publish, original_shutdown = Committer._publish, ThreadPoolExecutor.shutdown

    def publish(committer: Committer, file: Incoming) -> None:
        assert closing.wait(PATIENCE)
        original_publish(committer, file)

    def shutdown(pool: ThreadPoolExecutor, *args: Any, **more: Any) -> None:
        original_shutdown(pool, *args, **more)
        closing.set()

    monkeypatch.setattr(Committer, "_publish", publish)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
    control = MemoryLink()
    receiver = Receiver(
        Root(tmp_path),
        (b"x",),
        Channel(control),
        checksum="xxh3",
        least_leaf=MIN_LEAF,
        delete=False,
        delta=True,
        pool=BufferPool(MIN_LEAF),
        tally=Tally(),
    )
    receiver.start()
    plain = m.encode_entries([m.Entry(path=b"", type="file", size=5)])
    receiver.handle(m.Entries(first=0, count=1, size=len(plain)), codecs.encode_names(plain))
    receiver.handle(m.Scanned(count=1, complete=True), b"")
    receiver._planning.submit(bool).result(PATIENCE)
    message = m.Pack(codec=0, size=5, files=[m.Packed(0, 5, XXH3.digest(b"12345"))])
    receiver.run_stream(0, Channel(MemoryLink(frames.seal(message.kind, m.encode(message), b"12345") + b"12345")))
    receiver.abort(Interrupted("cancelled"))
    in_time(receiver.close, "the receiver")
    assert (tmp_path / "x").read_bytes() == b"12345"
    assert str(receiver.error) == "cancelled"
    assert "fault of this program" not in capsys.readouterr().out


def test_a_receiver_that_never_begins_gives_everything_back(tmp_path: Path) -> None:
    """Its session broke while the peer was told that the transfer may go on."""
    before = len(os.listdir("/proc/self/fd"))
    receiver = Receiver(
        Root(tmp_path),
        (b"x",),
        Channel(MemoryLink()),
        checksum="xxh3",
        least_leaf=MIN_LEAF,
        delete=False,
        delta=True,
        pool=BufferPool(MIN_LEAF),
        tally=Tally(),
    )
    receiver.abort(Interrupted("the session broke"))
    in_time(receiver.close, "the receiver")
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_file_that_is_called_done_just_before_it_is_opened(tmp_path: Path) -> None:
    """Nobody would close it again."""
    (tmp_path / "large").write_bytes(os.urandom(MIN_LEAF))
    before = len(os.listdir("/proc/self/fd"))

    class Pool(BufferPool):
        def buffer(self, size: int) -> Any:
            sender.handle(m.Done(files=[(0, 1)]), b"")
            return super().buffer(size)

    source = TreeSource(Root(tmp_path), (b"large",))
    sender = Sender(
        source,
        Channel(MemoryLink()),
        checksum="xxh3",
        least_leaf=MIN_LEAF,
        compression=Compression.of(Config()),
        pool=Pool(MIN_LEAF),
        tally=Tally(),
        idle_seconds=0.05,
    )
    sender.start()
    sender._scanner.join(PATIENCE)
    sender.handle(m.Need(files=[0]), b"")
    thread = threading.Thread(target=lambda: sender.run_stream(0, Channel(MemoryLink())), daemon=True)
    thread.start()
    wait_until(lambda: not sender._files and not sender.backlog(), "it is taken")
    sender.handle(m.Finished(deleted=0, verified=True), b"")
    thread.join(PATIENCE)
    sender.close()
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before


def _sender(source: Source, control: MemoryLink) -> Sender:
    return Sender(
        source,
        Channel(control),
        checksum="xxh3",
        least_leaf=MIN_LEAF,
        compression=Compression.of(Config()),
        pool=BufferPool(MIN_LEAF),
        tally=Tally(),
        idle_seconds=0.05,
    )


def test_a_stream_that_has_settled_to_its_end_keeps_its_size_when_the_session_is_lost() -> None:
    """Its last leaf is shorter than the others, and nobody reads it a second time."""
    content = os.urandom(MIN_LEAF + 1000)
    source = StreamSource(io.BytesIO(content))
    first = _sender(source, MemoryLink())
    first.start()
    first._scanner.join(PATIENCE)
    first.handle(m.Need(files=[0]), b"")
    link = MemoryLink()
    thread = threading.Thread(target=first.run_stream, args=(0, Channel(link)), daemon=True)
    thread.start()
    wait_until(lambda: len([head for head in link.heads if isinstance(head, m.Block)]) == 2, "all of it is sent")
    first.handle(m.Ack(file=0, leaves=[(0, 2)]), b"")
    first.abort(UnreachableError("lost"))
    in_time(thread.join, "the stream")
    first.close()

    control = MemoryLink()
    second = _sender(source, control)
    second.start()
    second._scanner.join(PATIENCE)
    digests = [XXH3.digest(content[:MIN_LEAF]), XXH3.digest(content[MIN_LEAF:])]
    second.handle(m.Need(files=[0]), b"".join(digests))
    wait_until(lambda: isinstance(control.heads[-1], m.FileEnd), "the end is told")
    end = control.heads[-1]
    assert isinstance(end, m.FileEnd)
    assert (end.size, end.unchanged) == (len(content), [(0, 2)])
    assert end.root == XXH3.root(b"".join(digests), len(content))
    second.abort(Interrupted("the test is over"))
    second.close()


@pytest.mark.parametrize("size", [4, 6, MIN_LEAF])
def test_a_stream_that_ends_elsewhere_than_what_came_of_it_is_not_published(tmp_path: Path, size: int) -> None:
    """Though its hash is right: that is about digests and a size, and says nothing of what lies between."""
    control = MemoryLink()
    receiver = Receiver(
        Root(tmp_path),
        (b"x",),
        Channel(control),
        checksum="xxh3",
        least_leaf=MIN_LEAF,
        delete=False,
        delta=True,
        pool=BufferPool(MIN_LEAF),
        tally=Tally(),
    )
    receiver.start()
    plain = m.encode_entries([m.Entry(path=b"", type="stream")])
    receiver.handle(m.Entries(first=0, count=1, size=len(plain)), codecs.encode_names(plain))
    receiver._planning.submit(bool).result(PATIENCE)
    wait_until(lambda: any(isinstance(head, m.Need) for head in control.heads), "it is wanted")
    digest = XXH3.digest(b"12345")
    message = m.Block(file=0, leaf=0, size=5, codec=0, digest=digest)
    receiver.run_stream(0, Channel(MemoryLink(frames.seal(message.kind, m.encode(message), b"12345") + b"12345")))
    receiver.handle(m.FileEnd(file=0, size=size, root=XXH3.root(digest, size)), b"")
    wait_until(lambda: any(isinstance(head, m.Error) for head in control.heads), "it is refused")
    assert [head.code for head in control.heads if isinstance(head, m.Error)] == ["integrity"]
    receiver.abort(Interrupted("the test is over"))
    in_time(receiver.close, "the receiver")
    assert not (tmp_path / "x").exists()


def test_what_a_lost_stream_carried_goes_again_once_and_only_if_it_did_not_arrive(tmp_path: Path) -> None:
    """Both ends find the stream lost, and an acknowledgement comes in between."""
    (tmp_path / "large").write_bytes(os.urandom(3 * MIN_LEAF))
    source = TreeSource(Root(tmp_path), (b"large",))
    tally = Tally()
    sender = Sender(
        source,
        Channel(MemoryLink()),
        checksum="xxh3",
        least_leaf=MIN_LEAF,
        compression=Compression.of(Config()),
        pool=BufferPool(MIN_LEAF),
        tally=tally,
        idle_seconds=0.05,
    )
    sender.start()
    sender._scanner.join(PATIENCE)
    sender.handle(m.Need(files=[0]), b"")
    links = [MemoryLink(), MemoryLink()]

    def run(number: int) -> None:
        with contextlib.suppress(UnreachableError):
            sender.run_stream(number, Channel(links[number]))

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(2)]

    def carried(link: MemoryLink) -> list[int]:
        return [message.leaf for message in link.heads if isinstance(message, m.Block)]

    threads[0].start()
    wait_until(lambda: len(carried(links[0])) == 3, "all of it is sent")
    sender.stream_lost(0)
    sender.handle(m.StreamLost(stream=0, reason="it broke"), b"")
    sender.handle(m.Resend(file=0, leaves=[(2, 1)], reason="damaged"), b"")
    assert sender.backlog() == 3
    sender.handle(m.Ack(file=0, leaves=[(0, 1)]), b"")
    threads[1].start()
    wait_until(lambda: not sender.backlog() and len(carried(links[1])) >= 2, "the rest is sent again")
    sender.handle(m.Done(files=[(0, 1)]), b"")
    sender.handle(m.Finished(deleted=0, verified=True), b"")
    for thread in threads:
        in_time(thread.join, "a stream")
    assert sorted(carried(links[1])) == [1, 2]
    assert tally.read()["blocks_resent"] == 3
    sender.close()
    source.close()
