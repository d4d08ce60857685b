"""What a path does to single connections: one dies, one is slow, one goes silent, the peer's address changes; and a
receiver whose disk cannot follow."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dwcp.transfer import writing
from dwcp.transfer.result import TransferResult
from dwcp.wire import frames
from dwcp.wire import messages as m
from tests.support import Pair, Proxy, random_file, wait_until

MIB = 2**20
BUFFER = 64 * 1024
BLOCK = frames.MAGIC + bytes([m.Block.kind])
LEAF_AND_FRAME = MIB + 200


class OneStream:
    """Harm to the first data connection that carries a block; each direction of a connection has its own thread."""

    def __init__(self, harm: Callable[[bytes], bytes | None]) -> None:
        self.carried = 0
        """Bytes on that connection towards the server."""
        self.total = 0
        """And on all: what is sent, without what TCP sends again."""
        self._harm = harm
        self._lock = threading.Lock()
        self._thread: int | None = None

    def __call__(self, data: bytes, offset: int, inbound: bool) -> bytes | None:
        if not inbound:
            return data
        with self._lock:
            self.total += len(data)
            if self._thread is None and BLOCK in data:
                self._thread = threading.get_ident()
            if self._thread != threading.get_ident():
                return data
            self.carried += len(data)
        return self._harm(data)


@pytest.fixture
def make_pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make(**transport: Any) -> Pair:
        buffers = {"send_buffer_size": BUFFER, "recv_buffer_size": BUFFER}
        pairs.append(Pair(tmp_path, transport={**buffers, **transport}))
        return pairs[0]

    yield make
    for pair in pairs:
        pair.close()


def _sessions(pair: Pair) -> int:
    """Transfers that the server has begun."""
    return len(pair.board.live()) + len(pair.board.recent())


def test_a_stream_that_dies_costs_what_it_carried(make_pair: Callable[..., Pair], tmp_path: Path) -> None:
    """It is cut in its fifth leaf: that one goes again and perhaps the one before, on another connection."""
    pair = make_pair(min_streams=4, initial_streams=4, enable_pacing=True, pacing_rate=400_000_000)
    content = random_file(tmp_path / "file", 40 * MIB)
    harm = OneStream(lambda data: data if harm.carried < 4.5 * LEAF_AND_FRAME else None)
    proxy = Proxy(pair.port, harm, buffer=BUFFER)
    result = pair.send(tmp_path / "file", "inbox/file", pair.client_config(proxy.port))
    assert harm.carried >= 4.5 * LEAF_AND_FRAME
    assert (pair.inbox / "file").read_bytes() == content
    assert result.verified
    assert harm.total < 40 * MIB + 2.5 * MIB
    wait_until(lambda: _sessions(pair) == 1 and not pair.board.live(), "the one session ends")
    proxy.close()


def test_a_stream_that_falls_silent_is_found_and_replaced(make_pair: Callable[..., Pair], tmp_path: Path) -> None:
    """As when one connection of many is forgotten by something in between: nobody is told, the session lives on."""
    pair = make_pair(min_streams=4, initial_streams=4, read_timeout=1.0, write_timeout=1.0)
    content = random_file(tmp_path / "file", 40 * MIB)
    over = threading.Event()

    def falls_silent(data: bytes) -> bytes:
        if harm.carried > 2.5 * LEAF_AND_FRAME:
            over.wait(60)
        return data

    harm = OneStream(falls_silent)
    proxy = Proxy(pair.port, harm, buffer=BUFFER)
    result = pair.send(tmp_path / "file", "inbox/file", pair.client_config(proxy.port))
    assert (pair.inbox / "file").read_bytes() == content
    assert result.verified
    assert harm.total < 40 * MIB + 3 * MIB
    over.set()
    wait_until(lambda: _sessions(pair) == 1 and not pair.board.live(), "the one session ends")
    proxy.close()


def test_one_slow_stream_among_32_does_not_hold_the_others_up(make_pair: Callable[..., Pair], tmp_path: Path) -> None:
    pair = make_pair(min_streams=32, initial_streams=32, max_streams=32)
    content = random_file(tmp_path / "file", 96 * MIB)
    pause = threading.Event()

    def slowly(data: bytes) -> bytes:
        pause.wait(len(data) / MIB)
        return data

    harm = OneStream(slowly)
    proxy = Proxy(pair.port, harm, buffer=BUFFER)
    result = pair.send(tmp_path / "file", "inbox/file", pair.client_config(proxy.port))
    assert (pair.inbox / "file").read_bytes() == content
    assert result.streams == 32
    assert 0 < harm.carried < 4 * LEAF_AND_FRAME, "an equal share is 3 leaves, and what it would have kept waiting"
    proxy.close()


def test_the_peers_address_changes_and_the_old_one_is_silent(
    make_pair: Callable[..., Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections are half open then: nothing comes, nothing is refused. The name leads to the new address."""
    pair = make_pair(
        read_timeout=1.0, write_timeout=1.0, connect_timeout=1.0, enable_pacing=True, pacing_rate=200_000_000
    )
    content = random_file(tmp_path / "file", 24 * MIB)
    silent, over, passed = threading.Event(), threading.Event(), []

    def until_then(data: bytes, offset: int, inbound: bool) -> bytes:
        if silent.is_set():
            over.wait(60)
        return count(data, offset, inbound)

    def count(data: bytes, offset: int, inbound: bool) -> bytes:
        passed.append(len(data) if inbound else 0)
        return data

    old = Proxy(pair.port, until_then, listen=("127.0.0.2", 0), buffer=BUFFER)
    new = Proxy(pair.port, count, listen=("127.0.0.3", old.port), buffer=BUFFER)
    resolve = socket.getaddrinfo

    def moving(host: str, *arguments: Any, **more: Any) -> Any:
        address = "127.0.0.3" if silent.is_set() else "127.0.0.2"
        return resolve(address if host == "moving.test" else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", moving)
    peer = {"address": f"moving.test:{old.port}", "fingerprint": pair.identities["b"].fingerprint}
    config = pair._config("a", peers={"b": peer}, exports={}, listen="127.0.0.1:0")
    results: list[TransferResult] = []
    sending = threading.Thread(target=lambda: results.append(pair.send(tmp_path / "file", "inbox/file", config)))
    sending.start()
    wait_until(lambda: any(status.bytes_done > 8 * MIB for status in pair.board.live()), "a third of it arrives")
    silent.set()
    sending.join(60)
    assert results[0].verified
    assert (pair.inbox / "file").read_bytes() == content
    assert sum(passed) < 24 * MIB + 8 * MIB
    over.set()
    old.close()
    new.close()


@pytest.mark.parametrize("direction", ["put", "get"])
def test_a_disk_that_is_slower_than_the_link_is_waited_for(
    make_pair: Callable[..., Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """A write takes as long as a quarter of the timeouts, and streams wait for each other's: the sender waits too,
    and nobody takes that for silence."""
    pair = make_pair(min_streams=2, initial_streams=2, read_timeout=0.8, write_timeout=0.8)
    source = tmp_path / "file" if direction == "put" else pair.inbox / "file"
    target = pair.inbox / "copy" if direction == "put" else tmp_path / "copy"
    content = random_file(source, 12 * MIB)
    disk, pause, write = threading.Lock(), threading.Event(), writing.write_all

    def slowly(fd: int, data: memoryview, offset: int) -> None:
        with disk:
            pause.wait(0.2)
            write(fd, data, offset)

    monkeypatch.setattr(writing, "write_all", slowly)
    result = pair.send(source, "inbox/copy") if direction == "put" else pair.get("inbox/file", target)
    assert target.read_bytes() == content
    assert result.seconds > 12 * 0.2
    assert result.wire_bytes < 12.9 * MIB, "something was sent twice"
    assert pair.server.counters().blocks_resent == 0
    wait_until(lambda: _sessions(pair) == 1 and not pair.board.live(), "the one session ends")
