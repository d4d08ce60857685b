"""Ranges of files and single names at a peer: exact, of one state of a file, closed to what is outside, bounded."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dwcp.errors import NotFoundError, ProtocolError, RefusedError, TemporaryError, UsageError
from dwcp.transfer import asked
from dwcp.transfer.channel import Channel
from dwcp.transfer.client import Peer
from dwcp.transfer.remote_files import READS_AHEAD
from dwcp.wire import frames, handshake
from dwcp.wire import messages as m
from tests.hostile import MIB, Attacker, EvilServer, Watch
from tests.support import Pair, Proxy, random_file


@pytest.fixture
def watch(pair: Pair) -> Iterator[Watch]:
    made = Watch(pair)
    yield made
    made.check()


def read(pair: Pair, path: str, offset: int, size: int, **options: Any) -> bytes:
    content = pair.do(lambda peer: peer.read(path, offset, size, **options))
    assert isinstance(content, bytes)
    return content


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 0),
        (0, 1),
        (5, 10),
        (0, m.MAX_READ),
        (1, m.MAX_READ),
        (m.MAX_READ - 1, 2),
        (0, 10 * m.MAX_READ),
        (3 * m.MAX_READ + 12, 2**62),
        (10 * m.MAX_READ, 5),
    ],
)
def test_ranges_are_exact(pair: Pair, offset: int, size: int) -> None:
    content = random_file(pair.inbox / "file", 3 * m.MAX_READ + 123)
    assert read(pair, "inbox/file", offset, size) == content[offset : offset + size]
    known = pair.do(lambda peer: peer.stat("inbox/file"))
    assert read(pair, "inbox/file", offset, size, unchanged=known) == content[offset : offset + size]


def test_more_than_is_asked_ahead(pair: Pair) -> None:
    content = random_file(pair.inbox / "file", (READS_AHEAD + 3) * m.MAX_READ)
    assert read(pair, "inbox/file", 0, len(content)) == content


def test_a_read_only_export_and_an_empty_file_are_read(pair: Pair) -> None:
    (pair.inbox / "empty").touch()
    assert read(pair, "fixed/empty", 0, 100) == b""


def test_ranges_are_of_one_state_of_the_file(pair: Pair) -> None:
    random_file(pair.inbox / "file", 1000)

    async def act(peer: Peer) -> None:
        known = await peer.stat("inbox/file")
        assert len(await peer.read("inbox/file", 0, 10, unchanged=known)) == 10
        random_file(pair.inbox / "new", 1000, seed=2)
        (pair.inbox / "new").rename(pair.inbox / "file")
        with pytest.raises(TemporaryError, match="changed while it was read"):
            await peer.read("inbox/file", 10, 10, unchanged=known)
        assert len(await peer.read("inbox/file", 10, 10)) == 10

    pair.do(act)


def test_a_name_is_told_of_itself(pair: Pair) -> None:
    (pair.inbox / "same").mkdir()
    (pair.inbox / "same" / "same").write_bytes(b"12345")
    (pair.inbox / "link").symlink_to("same")

    async def act(peer: Peer) -> None:
        found = [await peer.stat(path) for path in ("inbox", "inbox/same", "inbox/same/", "inbox/same/same")]
        assert [(entry.name, entry.kind) for entry in found] == [
            ("inbox", "dir"),
            ("same", "dir"),
            ("same", "dir"),
            ("same", "file"),
        ]
        assert found[-1].size == 5
        link = await peer.stat("inbox/link")
        assert (link.kind, link.target) == ("symlink", "same")
        for missing in ("inbox/none", "nowhere", "nowhere/x"):
            with pytest.raises(NotFoundError):
                await peer.stat(missing)
        with pytest.raises(UsageError, match="no name"):
            await peer.stat("")

    pair.do(act)


def test_a_refused_range_leaves_the_session_in_step(pair: Pair) -> None:
    content = random_file(pair.inbox / "file", 3 * m.MAX_READ)

    async def act(peer: Peer) -> None:
        known = await peer.stat("inbox/file")
        (pair.inbox / "file").rename(pair.inbox / "other")
        with pytest.raises(NotFoundError):
            await peer.read("inbox/file", 0, len(content), unchanged=known)
        assert await peer.read("inbox/other", 5, 10) == content[5:15]

    pair.do(act)
    assert pair.server.counters().sessions <= 1


def test_a_session_that_was_lost_is_begun_anew(pair: Pair) -> None:
    content = random_file(pair.inbox / "file", 1000)
    proxy = Proxy(pair.port, lambda data, offset, inbound: data)

    async def act(peer: Peer) -> None:
        assert await peer.read("inbox/file", 0, 10) == content[:10]
        proxy.cut()
        assert await peer.read("inbox/file", 10, 10) == content[10:20]
        proxy.cut()
        assert [entry.name for entry in await peer.ls("inbox")] == ["file"]
        # what may not be made twice fails, once
        proxy.cut()
        with pytest.raises(TemporaryError):
            await peer.versions("inbox/file")
        with pytest.raises(NotFoundError):
            await peer.versions("inbox/file")

    try:
        pair.do(act, pair.client_config(proxy.port))
    finally:
        proxy.close()


def test_a_peer_that_cannot_do_it_is_not_asked(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    random_file(pair.inbox / "file", 1000)
    monkeypatch.setattr(handshake, "READ", "else")
    monkeypatch.setattr("dwcp.transfer.node.READ", "else")
    for act in (lambda peer: peer.read("inbox/file", 0, 1), lambda peer: peer.stat("inbox/file")):
        with pytest.raises(RefusedError, match=r"cannot do this \(read\)"):
            pair.do(act)


def test_content_goes_over_rdma_only_where_that_is_demanded(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    random_file(pair.inbox / "file", 1000)
    transport = pair.server_config.transport.model_copy(update={"enable_rdma": True, "rdma_required": True})
    pair.server.apply(pair.server_config.model_copy(update={"transport": transport}))
    try:
        with pytest.raises(RefusedError, match="RDMA only"):
            read(pair, "inbox/file", 0, 1)
    finally:
        pair.close()


def test_what_is_read_keeps_to_the_rate(tmp_path: Path) -> None:
    """While it is sent; a session that only stands by takes no share of the rate away."""
    pair = Pair(tmp_path, transport={"enable_pacing": True, "pacing_rate": 80_000_000})
    content = random_file(pair.inbox / "file", 2 * m.MAX_READ)
    paced: list[int | None] = []
    pacer = pair.server.node.pacer
    add = pacer.add

    def noting(link: Any) -> None:
        set_pacing = link.set_pacing
        link.set_pacing = lambda rate: (paced.append(rate), set_pacing(rate))
        add(link)
        del link.set_pacing

    pacer.add = noting  # type: ignore[method-assign]
    try:
        assert read(pair, "inbox/file", 0, len(content)) == content
    finally:
        pair.close()
    assert paced == [80_000_000] * 2


def test_a_transfer_does_not_wait_for_a_range_that_is_being_read(pair: Pair, tmp_path: Path) -> None:
    """It begins a session of its own where the one that stands by is in use."""
    content = random_file(pair.inbox / "file", 100_000)
    reading, go_on = threading.Event(), threading.Event()
    answer = asked.read_range

    def held(*arguments: Any) -> Any:
        reading.set()
        assert go_on.wait(20)
        return answer(*arguments)

    async def act(peer: Peer) -> None:
        read = asyncio.ensure_future(peer.read("inbox/file", 0, 100))
        await asyncio.to_thread(reading.wait, 20)
        await peer.get("inbox/file", tmp_path / "got")
        assert not read.done()
        go_on.set()
        assert await read == content[:100]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dwcp.transfer.served.read_range", held)
        pair.do(act)
    assert (tmp_path / "got").read_bytes() == content


# -- peers that mean harm ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"inbox",
        b"inbox/",
        b"inbox/.dwcp/x",
        b"inbox/../b/identity/key",
        b"inbox/sub/../file",
        b"inbox//file",
        b"/etc/passwd",
        b"inbox/./file",
        b"nowhere/file",
        b"inbox/dir",
        b"inbox/fifo",
        b"inbox/to-file",
        b"inbox/to-dir/secret",
        b"inbox/file/below",
        b"inbox/file\0",
        b"inbox/" + b"x" * 300,
    ],
)
def test_nothing_but_regular_files_of_exports_is_read(pair: Pair, watch: Watch, path: bytes, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (pair.inbox / "dir").mkdir()
    (pair.inbox / "file").write_text("public")
    os.mkfifo(pair.inbox / "fifo")
    (pair.inbox / "to-file").symlink_to(outside / "secret")
    (pair.inbox / "to-dir").symlink_to(outside)
    with Attacker(pair) as evil:
        evil.send(m.Read(path=path, offset=0, size=100))
        answer = evil.answer(m.Error, m.Content)
        assert isinstance(answer, m.Error)
        # and the session goes on
        evil.send(m.Read(path=b"inbox/file", offset=0, size=100))
        evil.receive(m.Content)


@pytest.mark.parametrize(
    "head",
    [
        {"path": b"inbox/honest", "offset": 0, "size": m.MAX_READ + 1},
        {"path": b"inbox/honest", "offset": 0, "size": 2**63},
        {"path": b"inbox/honest", "offset": 0, "size": 0},
        {"path": b"inbox/honest", "offset": -1, "size": 1},
        {"path": b"inbox/honest", "offset": 2**63, "size": 1},
        {"path": b"x" * 4097, "offset": 0, "size": 1},
        {"path": "inbox/honest", "offset": 0, "size": 1},
        {"path": b"inbox/honest"},
    ],
)
def test_a_range_that_cannot_be_meant_ends_the_session(pair: Pair, watch: Watch, head: dict[str, Any]) -> None:
    with Attacker(pair) as evil:
        evil.channel.link.send(frames.seal(m.Read.kind, msgspec.msgpack.encode(head)))
        error = evil.ending()
        assert error is not None
        assert error.code == "protocol"


def test_a_range_at_the_end_of_all_numbers_is_empty(pair: Pair, watch: Watch) -> None:
    with Attacker(pair) as evil:
        evil.send(m.Read(path=b"inbox/honest", offset=2**63 - 1, size=m.MAX_READ))
        message, body = evil.channel.receive()
        while isinstance(message, m.Ping):
            message, body = evil.channel.receive()
        assert isinstance(message, m.Content)
        assert body == b""


def test_reads_do_not_come_during_a_transfer(pair: Pair, watch: Watch) -> None:
    with Attacker(pair) as evil:
        evil.open()
        evil.send(m.Read(path=b"inbox/honest", offset=0, size=1))
        error = evil.ending()
        assert error is not None
        assert error.code == "protocol"


@pytest.mark.parametrize(
    ("content", "body", "complaint"),
    [
        (m.Content(size=1000, mtime_ns=1), b"x" * 101, "101 bytes"),
        (m.Content(size=1000, mtime_ns=1), b"x" * 99, "99 bytes"),
        (m.Content(size=50, mtime_ns=1), b"x" * 100, "100 bytes"),
        (m.Content(size=1000, mtime_ns=1), b"x" * (m.MAX_READ + 1), "are allowed"),
        (m.Listing(entries=[]), b"", "answers with a Listing"),
    ],
)
def test_a_server_that_sends_something_else(
    pair: Pair, watch: Watch, content: m.Message, body: bytes, complaint: str
) -> None:
    def behave(server: EvilServer, channel: Channel, request: m.Message) -> None:
        channel.send(content, body)
        channel.receive()

    with EvilServer(pair, behave) as server, pytest.raises(ProtocolError, match=complaint):
        pair.do(lambda peer: peer.read("inbox/x", 0, 100), server.config)


def test_a_server_whose_file_is_larger_than_memory(pair: Pair, watch: Watch) -> None:
    """What is kept follows what arrives, not what is claimed."""

    def behave(server: EvilServer, channel: Channel, request: m.Message) -> None:
        channel.send(m.Content(size=2**62, mtime_ns=1), bytes(m.MAX_READ))
        for _ in range(3):
            channel.receive()
            channel.send(m.Content(size=2**62, mtime_ns=1), bytes(m.MAX_READ))

    with EvilServer(pair, behave) as server, pytest.raises(TemporaryError):
        pair.do(lambda peer: peer.read("inbox/x", 0, 2**62), server.config)


def test_a_body_is_taken_only_while_a_range_is_awaited(pair: Pair, watch: Watch) -> None:
    def behave(server: EvilServer, channel: Channel, request: m.Message) -> None:
        channel.send(m.Listing(entries=[]), bytes(MIB))
        channel.receive()

    with EvilServer(pair, behave) as server, pytest.raises(ProtocolError, match="0 are allowed"):
        pair.do(lambda peer: peer.ls("inbox"), server.config)
