"""Peers that mean harm, against a real server: a clear error, nothing outside, nothing leaked, honest peers served."""

from __future__ import annotations

import logging
import os
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dwcp.errors import AuthenticationError, DwcpError
from dwcp.files.attributes import Attributes
from dwcp.hde import codecs
from dwcp.hde.hashes import MIN_LEAF, XXH3
from dwcp.links.tcp import TcpLink
from dwcp.transfer.channel import Channel
from dwcp.wire import frames
from dwcp.wire import messages as m
from tests.hostile import MIB, Attacker, EvilServer, Watch, block, file_end, pack
from tests.support import Pair, make_tree, random_file, wait_until

HANDSHAKE = 0.5
FILE = m.Entry(path=b"", type="file", mode=0o644, mtime_ns=1, size=10)
LARGE = m.Entry(path=b"", type="file", mode=0o644, mtime_ns=1, size=3 * MIN_LEAF)
TEN = b"0123456789"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Quick to lose patience."""
    made = Pair(
        tmp_path,
        transport={
            "read_timeout": 1.0,
            "write_timeout": 1.0,
            # little is swallowed unread, so that floods end soon
            "send_buffer_size": 65536,
            "recv_buffer_size": 65536,
        },
        security={"handshake_timeout": HANDSHAKE, "max_pending_handshakes": 16},
    )
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def watch(pair: Pair) -> Iterator[Watch]:
    made = Watch(pair)
    yield made
    made.check()


# -- strangers ---------------------------------------------------------------------------------------------------------


def _connect(pair: Pair) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", pair.port))
    sock.settimeout(10)
    return sock


def _is_shown_the_door(sock: socket.socket) -> None:
    """Reads to the end, however it comes."""
    try:
        while sock.recv(65536):
            pass
    except OSError:
        pass
    finally:
        sock.close()


HELLO = frames.seal(1, m.encode(m.Hello(versions=[1], node="x", key=bytes(32), nonce=bytes(32))))


def test_random_and_truncated_openings(pair: Pair, watch: Watch) -> None:
    chance = random.Random(1)
    openings = [chance.randbytes(chance.randrange(1, 3000)) for _ in range(40)]
    openings += [HELLO[:length] for length in range(1, len(HELLO), 7)]
    openings += [HELLO + chance.randbytes(100), b"\x16\x03\x01" + chance.randbytes(500)]
    for opening in openings:
        sock = _connect(pair)
        try:
            sock.sendall(opening)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        _is_shown_the_door(sock)


def test_text_that_is_not_utf8_before_the_handshake(pair: Pair, watch: Watch) -> None:
    sock = _connect(pair)
    sock.sendall(
        frames.seal(
            1, m.encode(m.Hello(versions=[1], node="xy", key=bytes(32), nonce=bytes(32))).replace(b"xy", b"\xff\xfe")
        )
    )
    assert b"malformed Hello" in sock.recv(4096)
    _is_shown_the_door(sock)


@pytest.mark.parametrize(
    "opening", [HELLO, b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03" + bytes(16000)], ids=["plain", "tls"]
)
def test_dripping_handshakes_end_in_time(pair: Pair, watch: Watch, opening: bytes) -> None:
    """A byte now and then is life enough for a read timeout; the deadline of the handshake counts from its start."""
    sockets = [_connect(pair) for _ in range(16)]
    over = threading.Event()

    def drip() -> None:
        for byte in opening:
            for sock in sockets:
                try:
                    sock.send(bytes([byte]))
                except OSError:
                    continue
            if over.wait(HANDSHAKE / 5):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        wait_until(lambda: not pair.server._pending, "the deadline ends them", 10 * HANDSHAKE)
    finally:
        over.set()
        thread.join()
        for sock in sockets:
            sock.close()


def test_a_dripping_hello_inside_of_tls_ends_in_time(pair: Pair, watch: Watch) -> None:
    """Python's TLS takes the socket over; the deadline has to reach it all the same."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secured = context.wrap_socket(_connect(pair))
    over = threading.Event()

    def drip() -> None:
        for byte in HELLO[:-1]:
            try:
                secured.send(bytes([byte]))
            except OSError:
                return
            if over.wait(HANDSHAKE / 5):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        wait_until(lambda: not pair.server._pending, "the deadline ends it", 6 * HANDSHAKE)
    finally:
        over.set()
        thread.join()
        secured.close()


def test_more_connections_than_may_shake_hands(pair: Pair, watch: Watch) -> None:
    sockets = [_connect(pair) for _ in range(300)]
    for sock in sockets:
        _is_shown_the_door(sock)


def test_a_machine_without_threads_to_spare_goes_on_listening(
    pair: Pair, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = threading.Thread.start
    refused = threading.Event()

    def start(thread: threading.Thread) -> None:
        if thread.name == "dwcp-serve" and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    _is_shown_the_door(_connect(pair))
    assert refused.is_set()


# -- data connections --------------------------------------------------------------------------------------------------


def test_joins_that_do_not_belong(pair: Pair, watch: Watch) -> None:
    with Attacker(pair) as evil:
        # a stream may overtake its OPEN and is let wait, but not for longer than a handshake may take
        with pytest.raises(DwcpError):
            evil.join(0)
        evil.open()
        evil.join(1)
        with pytest.raises(AuthenticationError, match="its session is over, or is not of this node"):
            evil.join(1)
        welcome = evil.session.wait_welcome()
        for forged in (
            m.Join(session=welcome.session, stream=2, mac=bytes(32)),
            m.Join(session=bytes(16), stream=3, mac=bytes(32)),
        ):
            channel = Channel(TcpLink(_connect(pair), read_timeout=5, write_timeout=5))
            channel.send(forged)
            answer, _ = channel.receive()
            assert isinstance(answer, m.Error)
            assert answer.code == "authentication"
            assert "fingerprint" not in answer.message, "no advice that does not help"
            channel.link.close()


def test_a_session_has_not_more_streams_than_a_transfer_can_use(
    pair: Pair, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the real number takes longer to join than an idle stream lives
    monkeypatch.setattr(m, "MAX_STREAMS", 64)
    with Attacker(pair) as evil:
        evil.open()
        joined = 0
        with pytest.raises(DwcpError):
            while joined < 100:
                evil.join(joined)
                joined += 1
        assert joined == 64


# -- what is announced -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        m.Entry(path=b"..", type="dir"),
        m.Entry(path=b"../escaped", type="file", size=1),
        m.Entry(path=b"/etc/escaped", type="file", size=1),
        m.Entry(path=b"a/./b", type="dir"),
        m.Entry(path=b"a//b", type="file", size=1),
        m.Entry(path=b"a/", type="dir"),
        m.Entry(path=b"nul\0", type="file", size=1),
        m.Entry(path=b"x" * 256, type="symlink", link=b"x"),
        m.Entry(path=b"/".join([b"x" * 200] * 20) + b"/" + b"x" * 76, type="file", size=1),
        m.Entry(path=b".dwcp", type="dir"),
        m.Entry(path=b".dwcp/t-x", type="file", size=1),
        m.Entry(path=b".dwcp", type="symlink", link=b"/"),
        m.Entry(path=b"s", type="symlink", link=b"nul\0l"),
        m.Entry(path=b"s", type="symlink", link=b""),
        m.Entry(path=b"s", type="symlink", link=b"x" * 4096),
        m.Entry(path=b"h", type="hardlink", link=b""),
        m.Entry(path=b"h", type="hardlink", link=b"../outside"),
        m.Entry(path=b"h", type="hardlink", link=b"/etc/passwd"),
        m.Entry(path=b"h", type="hardlink", link=b".dwcp/x"),
        m.Entry(path=b"h", type="hardlink", link=b"h"),
        m.Entry(path=b"f", type="file", size=2**63 - 1),
        m.Entry(path=b"f", type="file", size=2**44 + 1),
        m.Entry(path=b"f", type="file", size=0, mtime_ns=2**64 - 1),
        m.Entry(path=b"f", type="file", size=0, mtime_ns=-(2**63)),
        m.Entry(path=b"d", type="dir", mode=2**32 - 1, mtime_ns=2**64 - 1),
        m.Entry(path=b"s", type="symlink", link=b"x", mtime_ns=-(2**63)),
        m.Entry(path=b"d", type="dir", size=2**63 - 1),
        m.Entry(path=b"s", type="symlink", link=b"x", size=2**63 - 1),
        m.Entry(path=b"stream", type="stream"),
        m.Entry(path=b"\xff\xfe\x1b[31m", type="file", size=0),
    ],
    ids=lambda entry: f"{entry.type}-{entry.path[:12]!r}-{entry.link[:12]!r}-{entry.size}-{entry.mtime_ns}",
)
@pytest.mark.parametrize("target", [b"inbox", b"inbox/sub"])
def test_hostile_entries_are_answered_and_stay_inside(
    pair: Pair, tmp_path: Path, entry: m.Entry, target: bytes
) -> None:
    with Attacker(pair) as evil:
        evil.open(path=target)
        evil.announce(m.Entry(path=b"", type="dir", mode=0o755), entry)
        evil.send(m.Scanned(count=2, complete=True))
        last = evil.answer(m.Error, m.Need, m.Finished)
        if b".." in entry.path or entry.path.startswith((b"/", b".dwcp")):
            assert isinstance(last, m.Error)
            assert last.code == "refused"
    assert not list(tmp_path.glob("*escaped*"))
    assert not list(tmp_path.glob("inbox/*escaped*"))
    wait_until(lambda: not pair.board.live(), "it is ended")


def test_giants_cost_nothing_before_they_come(pair: Pair, watch: Watch) -> None:
    with Attacker(pair) as evil:
        evil.open()
        evil.announce(*(m.Entry(path=b"%d" % n, type="file", size=2**44 - n) for n in range(512)))
        assert isinstance(evil.answer(m.Error, m.Need), m.Error | m.Need)


def test_streams_of_any_length_cost_no_more_than_one(pair: Pair, watch: Watch) -> None:
    with Attacker(pair) as evil:
        evil.open()
        evil.announce(*(m.Entry(path=b"%d" % n, type="stream") for n in range(100)))
        error = evil.answer(m.Error)
        assert isinstance(error, m.Error)
        assert error.code == "protocol"


def test_more_files_at_once_than_are_allowed(pair: Pair, watch: Watch) -> None:
    with Attacker(pair) as evil:
        evil.open()
        cut = False
        try:
            for first in range(0, 100_000, 512):
                evil.announce(
                    *(m.Entry(path=b"%d" % n, type="file", size=1) for n in range(first, first + 512)), first=first
                )
        except DwcpError:
            cut = True
        error = evil.ending()
        # where all of it fits into the buffers on the way, nothing is cut before it is sent
        assert error.code == "protocol" if error is not None else cut


def test_thousands_of_names_that_cannot_be_made(pair: Pair, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a symlink nothing can be made: each one fails by itself, and none is kept in memory."""
    # the log is kept in memory here
    monkeypatch.setattr("dwcp.transfer.receiver.log", logging.getLogger("nobody"))
    monkeypatch.setattr(logging.getLogger("nobody"), "warning", lambda *args, **more: None)
    (pair.inbox / "x").mkdir()
    (pair.inbox / "x" / "link").symlink_to("/tmp")
    name = b"/".join([b"n" * 250] * 14)
    failed = 0
    with Attacker(pair) as evil:
        evil.open()
        for first in range(0, 15_000, 250):
            evil.announce(
                *(m.Entry(path=b"link/%d/" % n + name, type="dir") for n in range(first, first + 250)), first=first
            )
            for _ in range(250):
                error = evil.answer(m.Error)
                assert isinstance(error, m.Error)
                failed += error.file is not None
        assert failed == 15_000


# -- what comes on the data connections --------------------------------------------------------------------------------

Attack = Callable[[Attacker, Channel], None]


def _large_and(evil: Attacker, stream: Channel, *frames_to_send: tuple[m.Message, bytes]) -> None:
    evil.announce(LARGE)
    evil.receive(m.Need)
    for message, body in frames_to_send:
        stream.send(message, body)


def _control_after_large(evil: Attacker, stream: Channel, *to_send: m.Message) -> None:
    evil.announce(LARGE)
    evil.receive(m.Need)
    for message in to_send:
        evil.send(message)


def _endless_wrong_blocks(evil: Attacker, stream: Channel) -> None:
    """Each one is asked for again; at some point it is enough."""
    evil.announce(LARGE)
    evil.receive(m.Need)
    for _ in range(70):
        stream.send(*block(0, b"x" * MIN_LEAF, digest=bytes(16)))


def _two_files_of_one_name(evil: Attacker, stream: Channel) -> None:
    directory = m.Entry(path=b"", type="dir", mode=0o755)
    twins = [m.Entry(path=b"same", type="file", mtime_ns=5, size=3 * MIN_LEAF) for _ in range(2)]
    evil.announce(directory, *twins)
    evil.receive(m.Need)
    stream.send(*block(1, b"x" * MIN_LEAF))
    evil.receive(m.Ack)
    stream.send(*block(2, b"y" * MIN_LEAF))


def _entries_after_the_end(evil: Attacker, stream: Channel) -> None:
    evil.announce(LARGE)
    evil.receive(m.Need)
    evil.send(m.Scanned(count=1, complete=True))
    evil.announce(FILE, first=1)


def _bomb(evil: Attacker, stream: Channel) -> None:
    evil.send(m.Entries(first=0, count=1, size=1000), codecs.encode_names(bytes(64 * MIB)))


def _garbage_entries(evil: Attacker, stream: Channel) -> None:
    evil.send(m.Entries(first=0, count=3, size=1000), codecs.encode_names(random.Random(1).randbytes(1000)))


def _need_of_a_receiver(evil: Attacker, stream: Channel) -> None:
    evil.send(m.Need(files=[0]))


def _index_of_nothing(evil: Attacker, stream: Channel) -> None:
    _control_after_large(evil, stream, m.IndexRequest(file=0, pages=[(0, 3)]))


@pytest.mark.parametrize(
    "attack",
    [
        _index_of_nothing,
        lambda e, s: _control_after_large(e, s, m.IndexRequest(file=0, pages=[(0, 4)])),
        lambda e, s: _control_after_large(e, s, m.IndexRequest(file=7)),
        lambda e, s: _control_after_large(e, s, file_end(0, TEN)),
        lambda e, s: _control_after_large(
            e, s, m.FileEnd(file=0, size=3 * MIN_LEAF, root=bytes(16), unchanged=[(0, 1)])
        ),
        lambda e, s: _control_after_large(
            e, s, m.FileEnd(file=0, size=3 * MIN_LEAF, root=bytes(16), unchanged=[(0, 4)])
        ),
        lambda e, s: _control_after_large(e, s, *[m.FileEnd(file=0, size=3 * MIN_LEAF, root=bytes(16))] * 2),
        lambda e, s: _control_after_large(e, s, m.FileEnd(file=1, size=1, root=bytes(16))),
        lambda e, s: _control_after_large(e, s, m.Scanned(count=5, complete=True)),
        lambda e, s: _control_after_large(e, s, m.Error(code="storage", message="x", file=9)),
        lambda e, s: _control_after_large(e, s, m.StreamLost(stream=0, reason="x")),
        lambda e, s: _control_after_large(e, s, m.Hello(versions=[1], node="x", key=bytes(32), nonce=bytes(32))),
        lambda e, s: e.announce(FILE, first=1),
        _need_of_a_receiver,
        _entries_after_the_end,
        _endless_wrong_blocks,
        _two_files_of_one_name,
        _bomb,
        _garbage_entries,
    ],
    ids=[
        *("index of nothing", "index beyond the end", "index of no file", "another size", "unchanged, not here"),
        *("unchanged beyond the end", "ended twice", "end of no file", "lost count", "error of no file", "stream lost"),
        *("hello again", "another first", "wrong role", "entries after the end", "endless wrong blocks"),
        *("two files of one name", "bomb", "garbage entries"),
    ],
)
def test_what_no_honest_sender_says_ends_the_transfer(pair: Pair, watch: Watch, attack: Attack) -> None:
    with Attacker(pair) as evil:
        evil.open()
        stream = evil.join()
        try:
            attack(evil, stream)
        except DwcpError:
            # it was cut off in the middle of it
            pass
        error = evil.answer(m.Error)
        assert isinstance(error, m.Error)
        assert error.code in ("protocol", "integrity", "temporary")
    assert not (pair.inbox / "x").is_file()


@pytest.mark.parametrize(
    "bad",
    [
        block(0, b"x" * MIN_LEAF, leaf=3),
        block(0, b"x" * MIN_LEAF, leaf=2**32 - 1),
        block(0, b"x" * 10),
        block(0, b"x" * MIN_LEAF, codec=77),
        block(0, b"x" * MIN_LEAF, size=2**32 - 1),
        block(0, b"x" * MIN_LEAF, codec=1),
        block(0, b"x" * MIN_LEAF, codec=1, digest=b""),
        block(0, b"x" * 10, size=MIN_LEAF),
        block(0, b"x" * 10, size=MIN_LEAF, codec=2),
        block(0, codecs.BY_NAME["zstd"].encode(bytes(64 * MIB), "fast"), size=MIN_LEAF, codec=1),
        block(0, b"", size=MIN_LEAF, ops=[(0, MIN_LEAF)]),
        block(0, b"", size=MIN_LEAF, ops=[(2**63 - 1, 2**32 - 1)]),
        block(0, b"x" * 10, size=MIN_LEAF, ops=[(-1, 10)] * 4096, literal=10),
        block(0, b"x" * MIN_LEAF, ops=[(-1, MIN_LEAF)], literal=2**32 - 1),
        pack((0, b"x" * 10)),
        pack((0, b"x" * 10), size=11),
        pack((0, b"x" * 10), size=2**32 - 1),
        pack((0, b"x" * (2 * MIB))),
        pack((0, b"x" * 10), codec=77),
        (m.FileEnd(file=0, size=1, root=bytes(16)), b""),
        (m.Ping(), b"x" * (17 * MIB)),
        (m.Opened(), b""),
    ],
    ids=lambda bad: f"{type(bad[0]).__name__}-{len(bad[1])}",
)
def test_a_block_that_lies_ends_its_stream_and_no_more(pair: Pair, bad: tuple[m.Message, bytes]) -> None:
    content = random.Random(1).randbytes(3 * MIN_LEAF)
    with Attacker(pair) as evil:
        evil.open()
        stream = evil.join()
        try:
            _large_and(evil, stream, bad)
        except DwcpError:
            pass
        lost = evil.receive(m.StreamLost)
        assert lost.stream == 0
        good = evil.join(1)
        leaves = [content[at : at + MIN_LEAF] for at in range(0, len(content), MIN_LEAF)]
        for number, leaf in enumerate(leaves):
            good.send(*block(0, leaf, leaf=number))
        root = XXH3.root(b"".join(map(XXH3.digest, leaves)), len(content))
        evil.send(m.FileEnd(file=0, size=len(content), root=root))
        evil.send(m.Scanned(count=1, complete=True))
        assert evil.receive(m.Finished).verified
        evil.send(m.Bye())
    assert (pair.inbox / "x").read_bytes() == content
    wait_until(lambda: not pair.board.live(), "it is ended")


def test_blocks_for_what_was_not_asked_for(pair: Pair, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come while the receiver still looks at what it has; nothing may be put in a directory's place."""
    planning, sent = threading.Event(), threading.Event()
    from dwcp.transfer.plan import Planner

    original = Planner.plan

    def slow(planner: Planner, file: object) -> object:
        planning.set()
        assert sent.wait(10)
        return original(planner, file)  # type: ignore[arg-type]

    monkeypatch.setattr(Planner, "plan", slow)
    (pair.inbox / "x").mkdir()
    with Attacker(pair) as evil:
        evil.open(path=b"inbox/x")
        stream = evil.join()
        evil.announce(m.Entry(path=b"", type="dir", mode=0o755), m.Entry(path=b"e", type="dir", mode=0o755))
        assert planning.wait(10)
        stream.send(*pack((0, b"")))
        evil.receive(m.StreamLost)
        sent.set()
        evil.send(m.Scanned(count=2, complete=True))
        evil.receive(m.Finished)
        evil.send(m.Bye())
    assert (pair.inbox / "x" / "e").is_dir()


def test_operations_beyond_the_baseline(pair: Pair, watch: Watch) -> None:
    random_file(pair.inbox / "x", 3 * MIN_LEAF)
    with Attacker(pair) as evil:
        evil.open()
        evil.announce(LARGE)
        evil.receive(m.Need)
        for number, ops in enumerate(
            [[(2**63 - 1, MIN_LEAF)], [(2**63 - MIN_LEAF, MIN_LEAF)], [(3 * MIN_LEAF, MIN_LEAF)], [(0, 2**32 - 1)]]
        ):
            evil.join(number).send(*block(0, b"", size=MIN_LEAF, ops=ops))
            lost = evil.receive(m.StreamLost)
            assert "delta" in lost.reason


def test_index_requests_in_a_flood_are_not_piled_up(pair: Pair, watch: Watch) -> None:
    random_file(pair.inbox / "x", 3 * MIN_LEAF)
    with Attacker(pair) as evil:
        evil.open()
        evil.announce(LARGE)
        evil.receive(m.Need)
        try:
            for _ in range(1000):
                evil.send(m.IndexRequest(file=0, pages=[(0, 3)], chunks=True))
        except DwcpError:
            pass
        error = evil.ending()
        assert error is None or error.code == "protocol"


def test_an_index_of_a_large_baseline_is_told_in_parts(pair: Pair, watch: Watch) -> None:
    """The page hashes of all of it could be gigabytes."""
    leaves = 2060
    (pair.inbox / "x").write_bytes(TEN)
    with Attacker(pair) as evil:
        evil.open()
        evil.announce(m.Entry(path=b"", type="file", mtime_ns=1, size=leaves * MIN_LEAF))
        evil.receive(m.Need)
        evil.send(m.IndexRequest(file=0, pages=[(0, leaves)]))
        error = evil.ending()
        assert error is not None
        assert error.code == "protocol"


def test_an_end_is_an_end_however_large_the_baseline(pair: Pair, watch: Watch) -> None:
    """Reading all of a terabyte takes minutes; nobody waits for them when the peer has left."""
    with (pair.inbox / "x").open("wb") as file:
        file.truncate(2**40)
    with Attacker(pair) as evil:
        evil.open()
        evil.announce(m.Entry(path=b"", type="file", mtime_ns=1, size=2**40))
        wait_until(lambda: any(name.startswith("dwcp-hash") for name in _threads()), "it is being read")


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


# -- peers that do not listen, or do not leave -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [m.List(path=b"inbox"), m.Ping(token=1), m.Read(path=b"inbox/honest", offset=0, size=m.MAX_READ)],
    ids=lambda message: type(message).__name__,
)
def test_a_peer_that_asks_and_never_reads(pair: Pair, watch: Watch, request_: m.Message) -> None:
    for number in range(500):
        (pair.inbox / f"{number:0200}").touch()
    with Attacker(pair) as evil:
        with pytest.raises(DwcpError):
            while True:
                evil.send(request_)
        wait_until(lambda: pair.server.counters().sessions == 0, "it is given up")


def test_a_peer_that_gets_and_never_reads(pair: Pair, watch: Watch) -> None:
    random_file(pair.inbox / "big", 8_000_000)
    with Attacker(pair) as evil:
        evil.open("get", b"inbox/big")
        for number in range(4):
            evil.join(number)
        evil.receive(m.Entries)
        evil.send(m.Need(files=[0]))
        wait_until(lambda: pair.server.counters().active_streams == 0, "its streams are given up")


@pytest.mark.parametrize("direction", ["put", "get"])
def test_a_peer_that_stays_when_all_is_over(pair: Pair, watch: Watch, direction: str) -> None:
    """It keeps its session alive after the transfer failed, and with it the locks on parts that others may want."""
    with Attacker(pair) as evil:
        evil.open(direction, b"inbox/honest")
        evil.send(m.Error(code="storage", message="I cannot go on"))
        with pytest.raises((DwcpError, EOFError)):
            while True:
                evil.channel.receive()
        wait_until(lambda: pair.server.counters().sessions == 0, "it is shown the door")


def test_a_peer_that_stops_in_mid_block(pair: Pair, watch: Watch) -> None:
    with Attacker(pair) as evil:
        evil.open()
        evil.announce(LARGE)
        evil.receive(m.Need)
        message, body = block(0, b"x" * MIN_LEAF)
        for number in range(4):
            evil.join(number).link.send(frames.seal(message.kind, m.encode(message), body), body[: MIN_LEAF // 2])
        for _ in range(4):
            evil.receive(m.StreamLost)


@pytest.mark.parametrize("opened", [False, True])
def test_a_body_that_nothing_needs_is_not_waited_for(pair: Pair, watch: Watch, opened: bool) -> None:
    head = m.encode(m.Ping())
    attackers = [Attacker(pair) for _ in range(8)]
    for evil in attackers:
        with evil:
            if opened:
                evil.open(path=b"inbox/%d" % id(evil))
            evil.channel.link.send(frames.seal(m.Ping.kind, head, bytes(frames.MAX_BODY)))
            error = evil.ending()
            assert error is not None
            assert "claims a body" in error.message


def test_two_transfers_of_one_name(pair: Pair, watch: Watch) -> None:
    """The name of a transfer is the initiator's choice; that two are alike is no reason to stumble."""
    with Attacker(pair) as first, Attacker(pair) as second:
        first.open(path=b"inbox/1", transfer="same")
        second.open(path=b"inbox/2", transfer="same")
        assert len({status.id for status in pair.board.live()}) == 2


def test_refused_requests_leave_nothing_open(pair: Pair, watch: Watch) -> None:
    for path in (b"inbox/../x", b"inbox/.dwcp", b"nowhere/x", b"inbox//x", b"inbox/missing", b"fixed/x"):
        for direction in ("get", "put"):
            with Attacker(pair) as evil:
                evil.send(m.Open(transfer="evil", direction=direction, path=path))
                evil.answer(m.Error, m.Opened)
        with Attacker(pair) as evil:
            evil.send(m.List(path=path))
            evil.answer(m.Error, m.Listing)


# -- an evil receiver, towards the server as the sender ----------------------------------------------------------------


@pytest.mark.parametrize(
    "attack",
    [
        [m.Need(files=[99])],
        [m.Need(files=[1]), m.Need(files=[1])],
        [m.Need(files=[2]), m.Need(files=[2])],
        [m.Need(files=[1, 1])],
        [(m.Need(files=[1, 2]), bytes(16))],
        [(m.Need(files=[2]), bytes(15))],
        [(m.BaseIndex(file=2), bytes(4))],
        [(m.BaseIndex(file=99), bytes(4))],
        [(m.BaseIndex(file=2), b"\xff\xff\xff\xff")],
        [m.Ack(file=2, leaves=[(0, 2**32 - 1)])],
        [m.Resend(file=99, leaves=[(0, 1)], reason="x")],
        [m.Resend(file=2, leaves=[(0, 2**31)], reason="x")],
        [m.Resend(file=2, leaves=[(0, 1)], reason="x")] * 100,
        [m.Done(files=[(0, 99)])],
        [m.Done(files=[(0, 2**32 - 1)])],
        [m.Finished(deleted=0, verified=True)],
        [m.Error(code="storage", message="x", file=99)],
        [m.Scanned(count=1, complete=True)],
        [m.FileEnd(file=0, size=1, root=bytes(16))],
    ],
    ids=lambda attack: "+".join(type(a[0] if isinstance(a, tuple) else a).__name__ for a in attack[:3]),
)
def test_what_no_honest_receiver_says_ends_the_transfer(
    pair: Pair, watch: Watch, attack: list[m.Message | tuple[m.Message, bytes]]
) -> None:
    (pair.inbox / "tree").mkdir()
    (pair.inbox / "tree" / "small").write_text("x")
    random_file(pair.inbox / "tree" / "zlarge", 3 * MIN_LEAF)
    with Attacker(pair) as evil:
        evil.open("get", b"inbox/tree")
        evil.join()
        evil.receive(m.Scanned)
        try:
            for step in attack:
                evil.send(*(step if isinstance(step, tuple) else (step,)))
        except DwcpError:
            pass
        error = evil.ending()
        assert error is not None
        assert error.code in ("protocol", "integrity")


def test_resend_of_what_was_never_sent_is_of_no_consequence(pair: Pair, watch: Watch) -> None:
    """Of a directory, a link, a file that nobody asked for."""
    make_tree(pair.inbox / "tree")
    with Attacker(pair) as evil:
        evil.open("get", b"inbox/tree")
        evil.join()
        count = evil.receive(m.Scanned).count
        for number in range(count):
            evil.send(m.Resend(file=number, leaves=[(0, 1)], reason="x"))
            evil.send(m.Ack(file=number, leaves=[(0, 1)]))
        evil.send(m.Done(files=[(0, 1), (0, 1)]))
        evil.send(m.StreamLost(stream=0, reason="x"))
        evil.send(m.Streams(limit=0))
        evil.send(m.Bye())
        evil.ending()


# -- symlinks that appear in the middle --------------------------------------------------------------------------------


def test_a_symlink_in_a_directorys_place_is_not_followed(pair: Pair, watch: Watch, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    with Attacker(pair) as evil:
        evil.open(path=b"inbox/x")
        directory = m.Entry(path=b"", type="dir", mode=0o755, mtime_ns=1)
        evil.announce(
            directory,
            m.Entry(path=b"d", type="dir", mode=0o700, mtime_ns=1),
            m.Entry(path=b"d/f", type="file", size=10),
        )
        evil.receive(m.Need)
        (pair.inbox / "x" / "d").rename(tmp_path / "moved")
        (pair.inbox / "x" / "d").symlink_to(outside)
        evil.join().send(*pack((2, TEN)))
        error = evil.answer(m.Error)
        assert isinstance(error, m.Error)
        assert "never followed" in error.message
        evil.send(m.Scanned(count=3, complete=True))
        assert not evil.receive(m.Finished).verified
        evil.send(m.Bye())
    assert list(outside.iterdir()) == []
    assert outside.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_a_files_place_keeps_the_mode_of_what_it_points_to(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[[Path, Path], None]
) -> None:
    """It appears between the look at the file and the change of its mode."""
    victim = tmp_path / "victim"
    victim.write_bytes(TEN)
    victim.chmod(0o600)
    (tmp_path / "file").write_bytes(TEN)
    (tmp_path / "file").chmod(0o666)
    pair.send(tmp_path / "file", "inbox/file")
    (tmp_path / "file").chmod(0o777)
    look = Attributes.differences

    def swap(self: Attributes, *seen: Any) -> int:
        what = look(self, *seen)
        (pair.inbox / "file").unlink()
        link(victim, pair.inbox / "file")
        return what

    monkeypatch.setattr(Attributes, "differences", swap)
    with pytest.raises(DwcpError, match="was replaced by something else just now"):
        pair.send(tmp_path / "file", "inbox/file")
    assert victim.stat().st_mode & 0o777 == 0o600


def test_a_symlink_in_the_staging_directorys_place_is_refused(pair: Pair, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (pair.inbox / ".dwcp").symlink_to(outside)
    (tmp_path / "file").write_bytes(TEN)
    with pytest.raises(DwcpError, match="never followed"):
        pair.send(tmp_path / "file", "inbox/file")
    assert outside.stat().st_mode & 0o777 == 0o755
    assert list(outside.iterdir()) == []


def test_a_directory_of_long_links_is_listed_whole(pair: Pair) -> None:
    """512 of them are more than one frame's head may carry."""
    for number in range(600):
        (pair.inbox / f"{number:0200}").symlink_to("x" * 1000)
    entries = pair.do(lambda peer: peer.ls("inbox"))
    assert len(entries) == 600
    assert all(len(entry.target) == 1000 for entry in entries)


# -- an evil server, towards `dwcp get` --------------------------------------------------------------------------------


def _serve_entries(*entries: m.Entry) -> Callable[[EvilServer, Channel, m.Message], None]:
    def behave(server: EvilServer, channel: Channel, request: m.Message) -> None:
        channel.send(m.Opened())
        plain = m.encode_entries(list(entries))
        channel.send(m.Entries(first=0, count=len(entries), size=len(plain)), codecs.encode_names(plain))
        channel.send(m.Scanned(count=len(entries), complete=True))
        while not isinstance(channel.receive()[0], m.Error | m.Finished):
            pass
        channel.send(m.Bye())

    return behave


DIRECTORY = m.Entry(path=b"", type="dir", mode=0o755)


@pytest.mark.parametrize(
    "entries",
    [
        (DIRECTORY, m.Entry(path=b"../escaped", type="dir")),
        (DIRECTORY, m.Entry(path=b"/tmp/escaped", type="dir")),
        (DIRECTORY, m.Entry(path=b"a/../../escaped", type="symlink", link=b"/")),
        (DIRECTORY, m.Entry(path=b"h", type="hardlink", link=b"../../victim")),
        (DIRECTORY, m.Entry(path=b"out", type="symlink", link=b"/tmp"), m.Entry(path=b"out/escaped", type="dir")),
        (m.Entry(path=b"escaped/../../escaped", type="dir"),),
        (m.Entry(path=b"", type="file", size=2**63 - 1),),
        (m.Entry(path=b"", type="hardlink", link=b""),),
        (m.Entry(path=b"", type="symlink", link=b"\0"),),
    ],
)
def test_a_server_that_names_what_it_should_not(pair: Pair, tmp_path: Path, entries: tuple[m.Entry, ...]) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "victim").write_text("mine")
    with EvilServer(pair, _serve_entries(*entries)) as server, pytest.raises(DwcpError):
        pair.do(lambda peer: peer.get("inbox/x", tmp_path / "into" / "x"), server.config)
    assert not Path("/tmp/escaped").exists()
    assert not list(tmp_path.rglob("*escaped*"))
    assert (tmp_path / "victim").stat().st_nlink == 1


def test_a_server_that_sends_more_than_was_asked_for_stays_below_the_target(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    entries = (DIRECTORY, m.Entry(path=b"more", type="dir", mode=0o755), m.Entry(path=b"more/yet", type="file"))
    with EvilServer(pair, _serve_entries(*entries)) as server:
        pair.do(lambda peer: peer.get("inbox/x", tmp_path / "into" / "x"), server.config)
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["x"]
    assert (tmp_path / "into" / "x" / "more" / "yet").exists()


def test_a_server_whose_blocks_never_match(pair: Pair, tmp_path: Path) -> None:
    def behave(server: EvilServer, channel: Channel, request: m.Message) -> None:
        channel.send(m.Opened())
        plain = m.encode_entries([LARGE])
        channel.send(m.Entries(first=0, count=1, size=len(plain)), codecs.encode_names(plain))
        channel.send(m.Scanned(count=1, complete=True))
        while True:
            message, _ = channel.receive()
            if isinstance(message, m.Need | m.Resend):
                assert server.joined.wait(10)
                server.streams[0].send(*block(0, b"x" * MIN_LEAF, digest=bytes(16)))

    with EvilServer(pair, behave) as server, pytest.raises(DwcpError, match="does not match its digest"):
        pair.do(lambda peer: peer.get("inbox/x", tmp_path / "x"), server.config)
    assert not (tmp_path / "x").exists()


def test_a_server_whose_list_has_no_end(pair: Pair, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwcp.transfer.requests.MAX_ANSWERS", 20)

    def behave(server: EvilServer, channel: Channel, request: m.Message) -> None:
        while True:
            channel.send(m.Listing(entries=[m.ListEntry(b"n" * 255, "file", 0, 0, 0, b"")] * 512, more=True))

    with EvilServer(pair, behave) as server, pytest.raises(DwcpError, match="without end"):
        pair.do(lambda peer: peer.ls("inbox"), server.config)


def test_a_server_that_says_it_has_everything_without_a_word(pair: Pair, tmp_path: Path) -> None:
    """As the receiver of a put: it must have settled each file before it is believed to be done."""
    random_file(tmp_path / "file", 100_000)

    def behave(server: EvilServer, channel: Channel, request: m.Message) -> None:
        channel.send(m.Opened())
        while not isinstance(channel.receive()[0], m.Scanned):
            pass
        channel.send(m.Finished(deleted=0, verified=True))
        while True:
            channel.receive()

    with EvilServer(pair, behave) as server, pytest.raises(DwcpError, match="not settled"):
        pair.do(lambda peer: peer.send(tmp_path / "file", "inbox/x"), server.config)
