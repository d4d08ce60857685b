"""What goes wrong on the way: flipped bits, cut and silent connections, strangers that speak no sense, bad disks."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwcp.cli.demo import compare_trees
from dwcp.errors import DwcpError, IntegrityError, PartialError, ProtocolError, StorageError, TemporaryError
from dwcp.links.tcp import TcpLink
from dwcp.transfer.channel import Channel
from dwcp.wire import frames
from dwcp.wire import messages as m
from tests.support import Pair, Proxy, make_tree, random_file, wait_until


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_caught_and_mended(pair: Pair, tmp_path: Path, seed: int) -> None:
    """On a data connection: in the payload one block goes again, in a header one connection."""
    chance = random.Random(seed)
    make_tree(tmp_path / "tree")
    random_file(tmp_path / "tree" / "big", 20_000_000)
    flipped = threading.Event()

    def flip_once(data: bytes, offset: int, inbound: bool) -> bytes:
        # beyond what the control connection carries, so that it hits blocks; both payload and frame heads
        if not inbound or flipped.is_set() or offset < 200_000 or chance.random() < 0.7:
            return data
        flipped.set()
        changed = bytearray(data)
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(changed)

    proxy = Proxy(pair.port, flip_once)
    result = pair.send(tmp_path / "tree", "inbox/tree", pair.client_config(proxy.port))
    assert flipped.is_set()
    assert result.verified
    assert compare_trees(tmp_path / "tree", pair.inbox / "tree") == []
    assert pair.server.counters().frames_corrupt >= 1
    proxy.close()


def test_every_byte_of_a_block_frame_matters(pair: Pair, tmp_path: Path) -> None:
    """One transfer for each of the first bytes of a data connection after its JOIN: prefix and head of a block."""
    content = random_file(tmp_path / "file", 400_000)
    for position in range(0, 100, 7):
        struck = threading.Event()

        def strike(
            data: bytes, offset: int, inbound: bool, position: int = position, struck: threading.Event = struck
        ) -> bytes:
            if not inbound or struck.is_set() or frames.MAGIC + bytes([m.Block.kind]) not in data:
                return data
            at = data.index(frames.MAGIC + bytes([m.Block.kind])) + position
            if at >= len(data):
                return data
            struck.set()
            return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

        proxy = Proxy(pair.port, strike)
        pair.send(tmp_path / "file", f"inbox/file{position}", pair.client_config(proxy.port))
        assert struck.is_set()
        assert (pair.inbox / f"file{position}").read_bytes() == content
        proxy.close()


@pytest.mark.parametrize("position", [0, 41])
@pytest.mark.parametrize("kind", [m.Need.kind, m.Ack.kind, m.FileEnd.kind, m.Entries.kind, m.Hello.kind, m.Auth.kind])
def test_a_damaged_control_frame_costs_a_session_and_not_the_transfer(
    pair: Pair, tmp_path: Path, kind: int, position: int
) -> None:
    """Of either direction: in the magic, the type, the hashes and the head. A handshake is begun anew as well, once
    there was one that went well."""
    content = random_file(tmp_path / "file", 3_000_000)
    struck = threading.Event()
    connected = threading.Event()

    def strike(data: bytes, offset: int, inbound: bool) -> bytes | None:
        if not connected.is_set() and kind in (m.Hello.kind, m.Auth.kind):
            if frames.MAGIC + bytes([m.Need.kind]) not in data:
                return data
            connected.set()
            return None
        at = data.find(frames.MAGIC + bytes([kind])) + position
        if struck.is_set() or at < position or at >= len(data):
            return data
        struck.set()
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

    proxy = Proxy(pair.port, strike)
    assert pair.send(tmp_path / "file", "inbox/file", pair.client_config(proxy.port)).verified
    assert struck.is_set()
    assert (pair.inbox / "file").read_bytes() == content
    proxy.close()


def test_a_peer_that_hangs_up_in_the_handshake_is_called_again(pair: Pair, tmp_path: Path) -> None:
    """As one does that is being stopped, or that has too many handshakes under way."""
    content = random_file(tmp_path / "file", 3_000_000)
    broken = threading.Event()
    hung_up: list[int] = []

    def hang_up(data: bytes, offset: int, inbound: bool) -> bytes | None:
        if not broken.is_set() and frames.MAGIC + bytes([m.Need.kind]) in data:
            broken.set()
            return None
        if broken.is_set() and not inbound and offset == 0 and len(hung_up) < 2:
            hung_up.append(len(data))
            return None
        return data

    proxy = Proxy(pair.port, hang_up)
    pair.send(tmp_path / "file", "inbox/file", pair.client_config(proxy.port))
    assert len(hung_up) == 2
    assert (pair.inbox / "file").read_bytes() == content
    proxy.close()


def test_cut_connections_are_made_again_and_little_is_sent_twice(tmp_path: Path) -> None:
    pair = Pair(tmp_path, transport={"enable_pacing": True, "pacing_rate": 200_000_000})
    content = random_file(tmp_path / "file", 40_000_000)
    proxy = Proxy(pair.port, lambda data, offset, inbound: data)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(pair.send(tmp_path / "file", "inbox/file", pair.client_config(proxy.port)))
    )
    thread.start()
    for done in (8_000_000, 20_000_000):
        wait_until(lambda done=done: any(s.bytes_done > done for s in pair.board.live()), f"{done} bytes arrive")
        proxy.cut()
    thread.join(60)
    assert (pair.inbox / "file").read_bytes() == content
    assert results[0].wire_bytes < 40_000_000 + 2 * 16_000_000
    proxy.close()
    pair.close()


def test_a_stream_from_standard_input_survives_a_cut(tmp_path: Path) -> None:
    pair = Pair(tmp_path, transport={"enable_pacing": True, "pacing_rate": 200_000_000})
    content = random_file(tmp_path / "file", 30_000_000)
    proxy = Proxy(pair.port, lambda data, offset, inbound: data)
    with (tmp_path / "file").open("rb") as stream:
        thread = threading.Thread(target=lambda: pair.send(stream, "inbox/file", pair.client_config(proxy.port)))
        thread.start()
        wait_until(lambda: any(s.bytes_done > 8_000_000 for s in pair.board.live()), "some of it arrives")
        proxy.cut()
        thread.join(60)
    assert (pair.inbox / "file").read_bytes() == content
    proxy.close()
    pair.close()


def test_a_peer_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    pair = Pair(tmp_path, transport={"read_timeout": 0.6, "write_timeout": 0.6})
    random_file(tmp_path / "file", 30_000_000)
    silent = threading.Event()

    def stall(data: bytes, offset: int, inbound: bool) -> bytes:
        if offset > 2_000_000:
            silent.set()
        return b"" if silent.is_set() else data

    proxy = Proxy(pair.port, stall)
    with pytest.raises(TemporaryError):
        pair.send(tmp_path / "file", "inbox/file", pair.client_config(proxy.port))
    proxy.close()
    wait_until(lambda: not pair.board.live(), "the other end gives it up too")
    assert not (pair.inbox / "file").exists()
    pair.close()


def _raw(pair: Pair) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", pair.port))
    sock.settimeout(10)
    return sock


@pytest.mark.parametrize(
    "opening",
    [
        random.Random(1).randbytes(100_000),
        b"GET / HTTP/1.1\r\n\r\n",
        b"DW" + bytes(60),
        frames.seal(1, b"\xc1"),
        frames.seal(1, m.encode(m.Bye())),
        frames.seal(99, b"\x80"),
        frames.seal(26, b"\x97" + b"\x00" * 7),
        frames.seal(1, b"\x81" * 10_000),
        b"\x16\x03\x01\xff\xff" + bytes(200),
        frames.seal(5, m.encode(m.Join(session=bytes(16), stream=0, mac=bytes(32)))),
        frames.seal(1, m.encode(m.Hello(versions=[7], node="x", key=bytes(32), nonce=bytes(32)))),
    ],
    ids=lambda opening: opening[:12].hex(),
)
def test_strangers_are_shown_the_door(pair: Pair, tmp_path: Path, opening: bytes) -> None:
    sock = _raw(pair)
    try:
        sock.sendall(opening)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
    except OSError:
        pass
    finally:
        sock.close()
    wait_until(lambda: pair.server.counters().refused >= 1, "it is counted")
    random_file(tmp_path / "file", 1000)
    pair.send(tmp_path / "file", "inbox/file")


def test_a_peer_of_another_version_is_told_so(pair: Pair) -> None:
    link = TcpLink(_raw(pair), read_timeout=5, write_timeout=5)
    channel = Channel(link)
    channel.send(m.Hello(versions=[7, 8], node="future", key=bytes(32), nonce=bytes(32)))
    answer, _ = channel.receive()
    assert isinstance(answer, m.Error)
    assert answer.code == "version"
    assert "speaks [7, 8]" in answer.message
    link.close()


def test_absurd_lengths_allocate_nothing(pair: Pair) -> None:
    """The prefix is well-formed and its check right, but what it announces is refused before it is waited for."""
    whole = frames.seal(1, b"")
    for field in (4, 8):
        prefix = bytearray(whole[: frames.PREFIX_SIZE - 4])
        prefix[field : field + 4] = b"\xff\xff\xff\xff"
        sock = _raw(pair)
        sock.sendall(bytes(prefix) + frames._check(bytes(prefix)).to_bytes(4, "big"))
        answer = sock.recv(4096)
        assert b"are allowed" in answer
        sock.close()


def test_slow_handshakes_end_and_don_t_keep_others_out(tmp_path: Path) -> None:
    pair = Pair(tmp_path, security={"handshake_timeout": 0.5, "max_pending_handshakes": 4})
    idle = [_raw(pair) for _ in range(8)]
    for sock in idle:
        assert sock.recv(4096) in (b"",) or True
        sock.close()
    random_file(tmp_path / "file", 1000)
    wait_until(lambda: not pair.server._pending, "places become free")
    pair.send(tmp_path / "file", "inbox/file")
    pair.close()


def test_a_hostile_sender_gets_nothing_written_outside(pair: Pair, tmp_path: Path) -> None:
    """Entries that no honest sender makes, over a real, proved session."""
    from dwcp.hde import codecs
    from dwcp.transfer.client import _node
    from dwcp.transfer.session import dial_session

    node = _node(pair.config)
    bad = [
        m.Entry(path=b"../escaped", type="file", size=1),
        m.Entry(path=b"/etc/escaped", type="file", size=1),
        m.Entry(path=b"a/../../escaped", type="dir"),
        m.Entry(path=b"a//b", type="symlink", link=b"x"),
        m.Entry(path=b"nul\0l", type="file", size=1),
        m.Entry(path=b"x" * 256, type="file", size=1),
        m.Entry(path=b"ok", type="hardlink", link=b"../../outside"),
    ]
    for entry in bad:
        session = dial_session(node, f"127.0.0.1:{pair.port}", pair.identities["b"].fingerprint)
        channel = session.channel
        channel.send(m.Open(transfer="evil", direction="put", path=b"inbox/sub"))
        entries = [m.Entry(path=b"", type="dir", mode=0o755), entry]
        plain = m.encode_entries(entries)
        channel.send(m.Entries(first=0, count=2, size=len(plain)), codecs.encode_names(plain))
        seen = []
        with pytest.raises((EOFError, DwcpError)):
            while True:
                message, _ = channel.receive()
                seen.append(message)
                if isinstance(message, m.Error):
                    raise EOFError
        errors = [message for message in seen if isinstance(message, m.Error)]
        assert errors[0].code in ("refused", "protocol"), entry
        channel.link.close()
    assert not (tmp_path / "escaped").exists()
    assert not (pair.inbox / "escaped").exists()
    wait_until(lambda: not pair.board.live(), "all of them are ended")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 8 MB, mounted in place of the inbox."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", inbox], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    yield inbox
    subprocess.run(["umount", "-l", inbox], check=True)


@pytest.mark.root
def test_a_full_disk_is_named_and_what_is_there_is_used_later(small_disk: Path, tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    content = random_file(tmp_path / "file", 12_000_000)
    with pytest.raises(StorageError, match="the disk is full"):
        pair.send(tmp_path / "file", "inbox/file")
    wait_until(lambda: bool(pair.board.recent()), "the receiver ends it")
    assert not (small_disk / "file").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    result = pair.send(tmp_path / "file", "inbox/file")
    assert (small_disk / "file").read_bytes() == content
    assert result.wire_bytes < 8_000_000
    pair.close()


@pytest.mark.root
def test_a_read_only_target_is_named(small_disk: Path, tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    random_file(tmp_path / "file", 100_000)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises((StorageError, PartialError), match="read-only"):
        pair.send(tmp_path / "file", "inbox/file")
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    pair.send(tmp_path / "file", "inbox/file")
    pair.close()


def test_an_export_that_is_gone_is_named(pair: Pair, tmp_path: Path) -> None:
    random_file(tmp_path / "file", 1000)
    shutil.rmtree(pair.inbox)
    with pytest.raises(DwcpError, match="does not exist"):
        pair.send(tmp_path / "file", "inbox/file")


@pytest.mark.parametrize(
    "broken",
    [
        "dwcp.transfer.plan.Planner.plan",
        "dwcp.transfer.commit.Committer._round",
        "dwcp.transfer.arriving.Arrivals._block",
        "dwcp.transfer.carrying.Carrier._leaf",
        "dwcp.transfer.source.TreeSource.entries",
    ],
)
def test_a_fault_of_our_own_ends_the_transfer_at_both_ends(
    pair: Pair, tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_file(tmp_path / "file", 3_000_000)

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("nobody foresaw this")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(DwcpError, match="a fault of this program"):
            pair.send(tmp_path / "file", "inbox/file")
    wait_until(lambda: bool(pair.board.recent()), "the receiver ends it too")
    pair.send(tmp_path / "file", "inbox/file")
    assert (pair.inbox / "file").read_bytes() == (tmp_path / "file").read_bytes()


def test_blocks_that_never_decode_are_not_sent_for_ever(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_file(tmp_path / "file", 2_000_000)

    def refuse(*arguments: object) -> None:
        raise ProtocolError("it does not decode")

    with monkeypatch.context() as patch:
        patch.setattr("dwcp.transfer.arriving.decode_leaf", refuse)
        with pytest.raises(IntegrityError, match="nothing arrived in between; the last: it does not decode"):
            pair.send(tmp_path / "file", "inbox/file")


def test_a_get_of_a_file_that_always_arrives_damaged_ends(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_file(pair.inbox / "file", 2_000_000)

    def damaged(*arguments: object) -> None:
        raise IntegrityError("damaged on the way, as always")

    with monkeypatch.context() as patch:
        patch.setattr("dwcp.transfer.arriving.decode_leaf", damaged)
        with pytest.raises(PartialError, match=r"'\.' arrives damaged again and again: damaged on the way, as always"):
            pair.get("inbox/file", tmp_path / "file")


def _grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


@pytest.mark.root
def test_a_tree_that_fills_the_disk_arrives_once_there_is_room(small_disk: Path, pair: Pair, tmp_path: Path) -> None:
    """Small files in packs, one large one, directories: whatever meets the full disk first."""
    make_tree(tmp_path / "tree")
    for number in range(120):
        random_file(tmp_path / "tree" / f"small-{number}", 60_000, seed=number)
    with pytest.raises(StorageError, match="the disk is full"):
        pair.send(tmp_path / "tree", "inbox/tree")
    wait_until(lambda: bool(pair.board.recent()), "the receiver ends it")
    assert "the disk is full" in pair.board.recent()[0].error
    _grow(small_disk)
    result = pair.send(tmp_path / "tree", "inbox/tree")
    assert compare_trees(tmp_path / "tree", small_disk / "tree") == []
    assert result.verified
    assert pair.leftovers() == []


@pytest.mark.root
def test_a_disk_that_is_full_before_anything_comes(small_disk: Path, pair: Pair, tmp_path: Path) -> None:
    content = random_file(tmp_path / "file", 100_000)
    filler = small_disk / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(1_000_000))
            file.flush()
    with pytest.raises(StorageError, match="the disk is full"):
        pair.send(tmp_path / "file", "inbox/file")
    filler.unlink()
    pair.send(tmp_path / "file", "inbox/file")
    assert (small_disk / "file").read_bytes() == content


@pytest.mark.root
def test_a_stream_that_fills_the_disk(small_disk: Path, pair: Pair) -> None:
    content = random.Random(1).randbytes(12_000_000)
    with pytest.raises(StorageError, match="the disk is full"):
        pair.send(io.BytesIO(content), "inbox/stream")
    assert not (small_disk / "stream").exists()
    _grow(small_disk)
    pair.send(io.BytesIO(content), "inbox/stream")
    assert (small_disk / "stream").read_bytes() == content


@pytest.mark.root
def test_a_get_that_fills_the_disk_here(small_disk: Path, tmp_path: Path) -> None:
    """The mirror: the node that asked is the one without room, and the server is told."""
    (tmp_path / "pair").mkdir()
    pair = Pair(tmp_path / "pair")
    content = random_file(pair.inbox / "file", 12_000_000)
    with pytest.raises(StorageError, match="the disk is full"):
        pair.get("inbox/file", small_disk / "file")
    wait_until(lambda: bool(pair.board.recent()), "the sender ends it")
    assert "the disk is full" in pair.board.recent()[0].error
    assert not (small_disk / "file").exists()
    _grow(small_disk)
    pair.get("inbox/file", small_disk / "file")
    assert (small_disk / "file").read_bytes() == content
    pair.close()
