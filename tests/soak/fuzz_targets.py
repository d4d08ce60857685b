"""What `make soak` fuzzes: each function takes the fuzzer's bytes for what a stranger or a peer sends."""

from __future__ import annotations

import io
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dwcp.config import Config
from dwcp.errors import DwcpError, Interrupted
from dwcp.files.root import Root
from dwcp.hde import codecs, segment
from dwcp.hde.content import from_buffer, leaf_digests
from dwcp.hde.decoder import DeltaDecoder
from dwcp.hde.dictionary import Dictionary, packed, train
from dwcp.hde.hashes import MIN_LEAF, XXH3
from dwcp.store.dictionaries import Dictionaries
from dwcp.store.identity import load_or_create
from dwcp.sync import messages as sync
from dwcp.sync.entry import Entry, Kind, Version, decode, encode
from dwcp.sync.replica import Replica
from dwcp.sync.rounds import Round, answer
from dwcp.transfer.channel import Channel
from dwcp.transfer.counters import Tally
from dwcp.transfer.dictionaries import Taken
from dwcp.transfer.node import Node
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.receiver import Receiver
from dwcp.transfer.sender import Sender
from dwcp.transfer.served import ServedSession
from dwcp.transfer.settings import Compression
from dwcp.transfer.source import TreeSource
from dwcp.wire import frames
from dwcp.wire import messages as m
from dwcp.wire.handshake import Initiator, Introduction, Responder
from tests.property.test_session import MemoryLink

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
ME = Introduction("fuzzed", KEY.public_key().public_bytes_raw(), bytes(32), KEY.sign)
HOME = Path(tempfile.gettempdir())
"""Where exports and state are; set by the process that fuzzes."""
WALL = 1.8e9
"""Seconds since the epoch, by the fuzzed node's clock."""
PATIENCE = 8.0
"""Seconds in which everything comes to its end: below libFuzzer's own limit, to say what hangs."""


def cut(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(type, head, body) of each frame that the fuzzer describes: it need not find hashes, which anybody can compute.

    One byte of type, two of the head's length, one of the body's, then both.
    """
    at = 0
    while at + 4 <= len(data):
        kind, head_size, body_size = data[at], int.from_bytes(data[at + 1 : at + 3], "big"), data[at + 3]
        at += 4
        yield kind, data[at : at + head_size], data[at + head_size : at + head_size + body_size]
        at += head_size + body_size


def describe(kind: int, head: bytes, body: bytes = b"") -> bytes:
    """The inverse of `cut`, for the first corpus."""
    return bytes([kind]) + len(head).to_bytes(2, "big") + bytes([len(body)]) + head + body


def seal(data: bytes) -> bytes:
    return b"".join(frames.seal(kind, head, body) + body for kind, head, body in cut(data))


def fuzz_frames(data: bytes) -> None:
    """Raw bytes, whole and in two pieces; then heads with right hashes."""
    for raw in (data, seal(data)):
        try:
            whole = frames.FrameReader().feed(raw)
        except DwcpError:
            continue
        reader = frames.FrameReader()
        half = len(raw) // 2
        if reader.feed(raw[:half]) + reader.feed(raw[half:]) != whole:
            raise AssertionError("it matters how a stream is cut")
        for kind, head, body in whole:
            try:
                message = m.decode(kind, head)
                if m.decode(kind, m.encode(message)) != message:
                    raise AssertionError("a message does not come back")
                if isinstance(message, m.Entries):
                    m.decode_entries(body, message.count)
            except DwcpError:
                continue


def fuzz_handshake(data: bytes) -> None:
    """What comes is taken for a HELLO, an AUTH and a HELLO_REPLY, as far as it is one."""
    responder, initiator = Responder(ME, lambda fingerprint: "known"), Initiator(ME, None)
    reply: tuple[m.HelloReply, bytes] | None = None
    for kind, head, _ in cut(data):
        try:
            match m.decode(kind, head):
                case m.Hello() as hello:
                    responder.reply(hello, head)
                case m.HelloReply() as came:
                    reply = (came, head)
                case m.Auth() as auth:
                    if reply is not None:
                        initiator.answer(*reply, auth)
                    responder.accept(auth)
        except DwcpError:
            continue


def fuzz_session(data: bytes) -> None:
    """A proved peer's control connection, from its first request to its end."""
    control = MemoryLink(seal(data))
    session = ServedSession(_node(), Channel(control), "peer", lambda new: None)
    _in_time(session.serve)
    _check(control)


def fuzz_receiver(data: bytes) -> None:
    """Frames of types below 128 on the control connection, of the others on data connections."""
    control = MemoryLink()
    engine = Receiver(
        Root(_export()),
        (),
        Channel(control),
        checksum="xxh3",
        least_leaf=2**17,
        delete=False,
        delta=True,
        pool=BufferPool(4 * MIN_LEAF),
        tally=Tally(),
        dictionaries=Taken(Dictionaries(HOME / "state", "fuzzed")),
    )
    _transfer(engine, control, data)


def fuzz_sender(data: bytes) -> None:
    control = MemoryLink()
    source = TreeSource(Root(_export()), ())
    engine = Sender(
        source,
        Channel(control),
        checksum="xxh3",
        least_leaf=2**17,
        compression=Compression.of(Config()),
        pool=BufferPool(4 * MIN_LEAF),
        tally=Tally(),
        idle_seconds=0.01,
    )
    _transfer(engine, control, data)
    source.close()


def _transfer(engine: Receiver | Sender, control: MemoryLink, data: bytes) -> None:
    engine.start()
    streams: list[threading.Thread] = []
    for kind, head, body in cut(data):
        if engine.finished.is_set():
            break
        if kind < 128:
            try:
                engine.handle(m.decode(kind, head), body)
            except DwcpError as error:
                engine.tell_and_abort(error)
        else:
            frame = frames.seal(kind - 128, head, body) + body
            streams.append(threading.Thread(target=_stream, args=(engine, len(streams), frame), daemon=True))
            streams[-1].start()
            if isinstance(engine, Receiver):
                streams[-1].join(PATIENCE)
    engine.tell_and_abort(Interrupted("the input is over"))

    def end() -> None:
        for thread in streams:
            thread.join()
        engine.close()

    _in_time(end)
    _check(control)
    if "fault of this program" in str(engine.error):
        raise AssertionError(str(engine.error))


def _stream(engine: Receiver | Sender, number: int, frame: bytes) -> None:
    try:
        engine.run_stream(number, Channel(MemoryLink(frame)))
    except DwcpError:
        if isinstance(engine, Sender):
            engine.stream_lost(number)


def _in_time(act: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        raise AssertionError("it does not come to an end")
    if failures:
        raise failures[0]


def _check(control: MemoryLink) -> None:
    errors = [message.message for message in control.heads if isinstance(message, m.Error)]
    if any("fault of this program" in text for text in errors):
        raise AssertionError(errors)


def _export() -> Path:
    """Made anew when there is none, or too much in it."""
    export = HOME / "export"
    if export.exists() and len(list(export.iterdir())) > 100:
        shutil.rmtree(export)
    (export / "d").mkdir(parents=True, exist_ok=True)
    if not (export / "a").is_file():
        (export / "a").unlink(missing_ok=True)
        (export / "a").write_bytes(b"x" * 5)
        (export / "large").write_bytes(random.Random(1).randbytes(1000) + bytes(300_000))
    return export


def _dictionary() -> Dictionary:
    # as small as they get: `describe` has one byte for a body's size
    made = train([f"what all of them have, and what only number {n} has".encode() * 3 for n in range(500)], 256)
    assert made is not None
    return made


def _node() -> Node:
    config = Config.model_validate(
        {"storage": {"state_dir": str(HOME / "state"), "exports": {"inbox": {"path": str(_export())}}}}
    )
    return Node(config, load_or_create(HOME / "state" / "identity", "fuzzed"))


def corpus() -> list[bytes]:
    """One honest message of each kind, and how a put and a get begin."""
    content = b"hello"
    entry = m.Entry(path=b"new", type="file", size=len(content), mode=0o644)
    plain = m.encode_entries([entry])
    digest = XXH3.digest(content)
    honest: list[tuple[m.Message, bytes]] = [
        (m.Hello(versions=[1], node="a", key=ME.key, nonce=bytes(32)), b""),
        (m.HelloReply(version=1, node="a", key=ME.key, nonce=bytes(32)), b""),
        (m.Auth(signature=bytes(64)), b""),
        (m.Ping(token=1), b""),
        (m.List(path=b"inbox"), b""),
        (m.Open(transfer="t", direction="put", path=b"inbox/x"), b""),
        (m.Open(transfer="t", direction="get", path=b"inbox/large"), b""),
        (m.Entries(first=0, count=1, size=len(plain)), codecs.encode_names(plain)),
        (m.Scanned(count=1, complete=True), b""),
        (m.Block(file=0, leaf=0, size=len(content), codec=0, digest=digest), content),
        (m.Pack(codec=0, size=len(content), files=[m.Packed(0, len(content), digest)]), content),
        (m.FileEnd(file=0, size=len(content), root=XXH3.root(digest, len(content))), b""),
        (m.IndexRequest(file=0, pages=[(0, 1)], chunks=True), b""),
        (m.Need(files=[0, 1]), b""),
        (m.Need(files=[2], base_size=300_000), bytes(48)),
        (m.BaseIndex(file=2), bytes(4)),
        (m.Ack(file=2, leaves=[(0, 1)]), b""),
        (m.Resend(file=2, leaves=[(0, 2)], reason="r"), b""),
        (m.Done(files=[(0, 1)], unchanged=[(1, 1)]), b""),
        (m.StreamLost(stream=0, reason="r"), b""),
        (m.Streams(limit=1), b""),
        (m.Finished(deleted=0, verified=True), b""),
        (m.Error(code="storage", message="x", file=0), b""),
        (m.Bye(), b""),
    ]
    dictionary = _dictionary()
    honest.append((m.Dictionary(id=dictionary.id, size=len(dictionary.content)), packed(dictionary)))
    with_dictionary = m.Pack(codec=1, size=5, files=[m.Packed(0, 5, digest)], dictionary=dictionary.id)
    body = dictionary.encode(content, "fast")
    told = [describe(message.kind, m.encode(message), body) for message, body in honest]
    # one zero, one copy, ten literal bytes as they are
    told.append(describe(3, bytes([5, 40, 42, 0, 0]), bytes(10)))
    by_stream = [describe(message.kind + 128, m.encode(message), body) for message, body in honest[9:11]]
    by_stream.append(describe(with_dictionary.kind + 128, m.encode(with_dictionary), body))
    return [
        *told,
        *by_stream,
        b"".join(told[7:9]) + by_stream[0] + told[11],
        told[5] + told[7] + told[8],
        told[24] + b"".join(told[7:9]) + by_stream[2],
        seal(told[0]),
        *_sync_corpus(),
    ]


def fuzz_delta(data: bytes) -> None:
    """A delta from a stranger: an honest header, and operations and bodies of the fuzzer's, framed by `describe`, since
    a packed list of operations is nothing that it would come upon."""
    base = from_buffer(random.Random(1).randbytes(5000) + bytes(5000))
    root = XXH3.root(leaf_digests(base, XXH3), base.size)
    parts = [segment.Header(XXH3, b"fuzzed", base.size, root, 20_000).pack()]
    for kind, head, body in cut(data):
        plain = codecs.encode_names(head)
        sizes = (max(1, kind), len(head), len(plain), len(body))
        parts += [segment.SEGMENT.pack(1, body[0] if body else 0, *sizes), plain, body]
    for delta in (data, b"".join(parts)):
        try:
            made = 0
            for size, _ in DeltaDecoder(io.BytesIO(delta).read).run(base, max_size=2**20):
                made += size
                assert made <= 2**20, "a delta made more than was allowed"
        except DwcpError:
            pass


def fuzz_sync(data: bytes) -> None:
    """What a peer asks, and what it answers to a round of ours; by turns, on one replica that has something."""
    replica = Replica(b"\1" * 8, max_skew=30.0, rng=random.Random(1))
    for number in range(100):
        replica.accept(replica.propose(f"app/{number}", b"x", Kind.LWW, WALL), 1.0)
    round_ = Round(replica)
    round_.begin(WALL, 1.0)
    for kind, head, _ in cut(data):
        try:
            if kind % 2:
                round_.receive(sync.decode_answer(head), WALL, 2.0)
            else:
                answered = answer(replica, sync.decode_request(head), WALL, 2.0).message
                sync.decode_answer(sync.encode(answered))
        except DwcpError:
            continue
    for _, entry in replica.states():
        # what was taken in can be told on
        if decode(encode(entry)) != entry:
            raise AssertionError("an entry does not come back")


def _sync_corpus() -> list[bytes]:
    node, stamp = b"\2" * 8, int(WALL * 1000) << 16
    version = Version(node, stamp, b"1")
    entries = tuple(Entry("app/a", kind, (version,), ((node, stamp),) if kind else ()) for kind in Kind)
    nodes = bytes(2)
    said = [
        *(sync.Hail(1, bytes(8), node + bytes(4)), sync.Look(1, 8, nodes), sync.List(1, 0, nodes)),
        *(sync.Want(1, 0, nodes, bytes(4), bytes(14)), sync.Give(entries, True, node + bytes(4), 1)),
    ]
    answers = [
        *(sync.State(bytes(8), 200, node + bytes(4), 1, 1, bytes(1024)), sync.Sums(bytes(16))),
        *(sync.Items(nodes, b""), sync.Parcel(3, entries), sync.Taken()),
    ]
    asked = [describe(0, sync.encode(request)) for request in said]
    replies = [describe(1, sync.encode(reply)) for reply in answers]
    return [*asked, *replies, b"".join(asked), b"".join(replies)]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": fuzz_frames,
    "handshake": fuzz_handshake,
    "session": fuzz_session,
    "receiver": fuzz_receiver,
    "sender": fuzz_sender,
    "delta": fuzz_delta,
    "sync": fuzz_sync,
}
