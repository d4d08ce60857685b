"""Whatever bytes a stranger sends: frames, messages, entries and paths are read, or refused by a DwcpError."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.errors import ProtocolError, RefusedError
from dwcp.wire import frames
from dwcp.wire import messages as m
from dwcp.wire.frames import BodyError, FrameError, FrameReader
from dwcp.wire.paths import MAX_NAME, MAX_PATH, check_relative, display
from dwcp.wire.tree import ALL_KEPT, Change, TreeOptions

few = settings(max_examples=100, deadline=None)
"""Messages are expensive to draw; what is rare is found over many runs, each with a seed of its own."""

digests = st.binary(min_size=16, max_size=32)
indexes = st.integers(0, 2**32 - 1)
counts = st.integers(0, 2**63 - 1)
keys = st.binary(min_size=32, max_size=32)
names = st.text(min_size=1, max_size=64)
runs = st.lists(st.tuples(indexes, indexes), max_size=20)
paths = st.binary(max_size=300)
entries = st.builds(
    m.Entry,
    path=paths,
    type=st.sampled_from(["file", "dir", "symlink", "hardlink", "stream", "fifo", "socket", "char", "block"]),
    mode=indexes,
    mtime_ns=st.integers(-(2**63), 2**63 - 1),
    size=st.integers(0, m.MAX_FILE),
    link=paths,
    uid=st.none() | indexes,
    gid=st.none() | indexes,
    device=st.tuples(indexes, indexes),
    sparse=st.booleans(),
    xattrs=st.lists(st.tuples(st.binary(max_size=255), st.binary(max_size=300)), max_size=3),
)
identities = st.lists(st.tuples(indexes, st.binary(max_size=256)), max_size=3)
options = st.builds(
    TreeOptions,
    keep=st.lists(st.sampled_from(ALL_KEPT), max_size=7),
    filters=st.lists(st.binary(max_size=50), max_size=5),
    max_delete=st.none() | counts,
    dry_run=st.booleans(),
    backup_dir=paths,
    rate=counts,
)
changes = st.builds(Change, paths, st.text(max_size=16), indexes, paths)
list_entries = st.builds(m.ListEntry, paths, names, counts, st.integers(-(2**63), 2**63 - 1), indexes, paths)
packed = st.builds(m.Packed, indexes, indexes, digests)
messages = st.one_of(
    st.builds(m.Hello, versions=st.lists(indexes, min_size=1, max_size=16), node=names, key=keys, nonce=keys),
    st.builds(m.HelloReply, version=indexes, node=names, key=keys, nonce=keys, features=st.lists(names, max_size=5)),
    st.builds(m.Auth, signature=st.binary(min_size=64, max_size=64)),
    st.builds(m.Welcome, session=st.binary(min_size=16, max_size=16), join_key=keys),
    st.builds(m.Join, session=st.binary(min_size=16, max_size=16), stream=indexes, mac=keys),
    st.builds(m.Joined),
    st.builds(m.Error, code=names, message=st.text(max_size=300), file=st.none() | indexes),
    st.builds(m.Ping, token=counts),
    st.builds(m.Pong, token=counts),
    st.builds(m.Bye),
    st.builds(m.List, path=paths),
    st.builds(m.Listing, entries=st.lists(list_entries, max_size=5), more=st.booleans()),
    st.builds(m.Open, transfer=names, direction=st.sampled_from(["put", "get"]), path=paths, tree=st.none() | options),
    st.builds(m.Opened),
    st.builds(
        m.Names,
        count=st.integers(0, 512),
        size=st.integers(1, m.MAX_ENTRIES_SIZE),
        last=st.booleans(),
        complete=st.booleans(),
    ),
    st.builds(
        m.Entries,
        first=indexes,
        count=st.integers(1, 512),
        size=st.integers(1, m.MAX_ENTRIES_SIZE),
        users=identities,
        groups=identities,
    ),
    st.builds(m.Changes, changes=st.lists(changes, max_size=5)),
    st.builds(m.Scanned, count=indexes, complete=st.booleans()),
    st.builds(
        m.Block,
        file=indexes,
        leaf=indexes,
        size=indexes,
        codec=indexes,
        digest=st.just(b"") | digests,
        ops=st.lists(st.tuples(st.integers(-1, 2**63 - 1), indexes), max_size=20),
        literal=indexes,
    ),
    st.builds(m.Pack, codec=indexes, size=indexes, files=st.lists(packed, min_size=1, max_size=5)),
    st.builds(m.FileEnd, file=indexes, size=counts, root=digests, unchanged=runs, more=st.booleans()),
    st.builds(m.IndexRequest, file=indexes, pages=runs, chunks=st.booleans()),
    st.builds(m.Need, files=st.lists(indexes, max_size=20), base_size=counts),
    st.builds(m.BaseIndex, file=indexes),
    st.builds(m.Ack, file=indexes, leaves=runs),
    st.builds(m.Resend, file=indexes, leaves=runs, reason=st.text(max_size=100)),
    st.builds(m.Done, files=runs, unchanged=runs),
    st.builds(m.StreamLost, stream=indexes, reason=st.text(max_size=100)),
    st.builds(m.Streams, limit=indexes),
    st.builds(m.Finished, deleted=counts, verified=st.booleans(), errors=st.lists(st.text(max_size=50), max_size=5)),
)


@few
@given(messages, st.binary(max_size=200), st.binary(max_size=80), st.data())
def test_a_message_arrives_however_its_frame_is_cut(
    message: m.Message, body: bytes, tail: bytes, data: st.DataObject
) -> None:
    frame = frames.seal(message.kind, m.encode(message), body) + body
    whole, by_the_byte, with_a_tail = FrameReader(), FrameReader(), FrameReader()
    first = whole.feed(frame)
    assert first == [got for at in range(len(frame)) for got in by_the_byte.feed(frame[at : at + 1])]
    try:
        assert with_a_tail.feed(frame + tail)[:1] == first
    except FrameError:
        assert len(tail) >= frames.PREFIX_SIZE
    ((kind, head, got_body),) = first
    assert m.decode(kind, head) == message
    assert got_body == body
    at = data.draw(st.integers(0, len(frame) - 1))
    damaged = frame[:at] + bytes([frame[at] ^ 1 << data.draw(st.integers(0, 7))]) + frame[at + 1 :]
    with pytest.raises(BodyError if at >= len(frame) - len(body) else FrameError):
        FrameReader().feed(damaged)


@few
@given(messages, st.data())
def test_a_truncated_frame_is_waited_for_and_nothing_else(message: m.Message, data: st.DataObject) -> None:
    frame = frames.seal(message.kind, m.encode(message))
    assert FrameReader().feed(frame[: data.draw(st.integers(0, len(frame) - 1))]) == []


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_absurd_lengths_are_refused_by_the_prefix_alone(head_size: int, body_size: int, zero: int) -> None:
    prefix = frames._PREFIX.pack(frames.MAGIC, 1, zero, head_size, body_size, bytes(16), 0)
    raw = prefix + frames._CHECK.pack(frames._check(prefix))
    if zero or head_size > frames.MAX_HEAD or body_size > frames.MAX_BODY:
        with pytest.raises(FrameError):
            frames.parse_prefix(raw)
    else:
        assert frames.parse_prefix(raw).body_size == body_size


@few
@given(messages, st.data())
def test_a_damaged_head_is_a_message_or_a_protocol_error(message: m.Message, data: st.DataObject) -> None:
    """As from a peer that computes its checks over nonsense."""
    head = bytearray(m.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    try:
        m.decode(message.kind, bytes(head))
    except ProtocolError:
        return


FIELDS = ("versions", "node", "key", "file", "leaves", "files", "path", "ops", "errors", "code")

json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@few
@given(
    st.sampled_from(sorted(m.MESSAGES)),
    st.dictionaries(st.sampled_from(FIELDS), json_like),
)
def test_heads_of_wrong_types_are_protocol_errors(kind: int, fields: dict[str, object]) -> None:
    try:
        m.decode(kind, msgspec.msgpack.encode(fields))
    except ProtocolError:
        return


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (m.Error(code="storage", message="\x1b]0;owned\x07\nroot# \u202e"), r"\x1b]0;owned\x07\nroot# \u202e"),
        (m.Resend(file=0, leaves=[], reason="\r\x00"), r"\r\x00"),
        (m.StreamLost(stream=0, reason="\x9b2J"), r"\x9b2J"),
        (m.Finished(deleted=0, verified=True, errors=["\x1bc"]), r"\x1bc"),
        (m.Error(code="storage", message="\n" * 4096), "\\n" * 2048),
        (m.Error(code="storage", message="näme × 3"), "näme × 3"),
    ],
)
def test_what_a_peer_says_is_fit_for_a_terminal(message: m.Message, text: str) -> None:
    told = m.decode(message.kind, m.encode(message))
    assert told == message
    assert text in (getattr(told, "message", ""), getattr(told, "reason", ""), *getattr(told, "errors", []))


@pytest.mark.parametrize("kind", sorted(m.MESSAGES))
def test_text_that_is_not_utf8_is_a_protocol_error(kind: int) -> None:
    """MessagePack marks it as text all the same."""
    fields = m.MESSAGES[kind].__struct_fields__
    for field in fields:
        head = b"\x81" + bytes([0xA0 | len(field)]) + field.encode() + b"\xa2\xff\xfe"
        try:
            m.decode(kind, head)
        except ProtocolError:
            continue


@few
@given(st.lists(entries, min_size=1, max_size=20))
def test_entries_come_back(announced: list[m.Entry]) -> None:
    assert m.decode_entries(m.encode_entries(announced), len(announced)) == announced
    with pytest.raises(ProtocolError):
        m.decode_entries(m.encode_entries(announced), len(announced) + 1)


@few
@given(st.lists(entries, min_size=1, max_size=5), st.data())
def test_damaged_entries_are_entries_or_a_protocol_error(announced: list[m.Entry], data: st.DataObject) -> None:
    raw = bytearray(m.encode_entries(announced))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        m.decode_entries(bytes(raw[:cut]), len(announced))
    except ProtocolError:
        return


@given(runs, st.integers(0, 5000))
def test_runs_are_within_the_limit_or_refused(given_runs: list[tuple[int, int]], limit: int) -> None:
    try:
        indexes = m.indexes_of(given_runs, limit)
    except ProtocolError:
        return
    assert len(indexes) <= limit
    assert all(0 <= index < limit for index in indexes)


component = st.sampled_from([b"", b".", b"..", b".dwcp", b"a", b"\xff\xfe", b"x" * 255, b"x" * 256, b"nul\0", b"a b"])


@settings(max_examples=200, deadline=None)
@given(st.lists(component, max_size=20))
def test_hostile_paths_are_refused_or_stay_inside(parts: list[bytes]) -> None:
    path = b"/".join(parts)
    assert display(path).isprintable()
    bad = any(part in (b"", b".", b"..") or len(part) > MAX_NAME or b"\0" in part for part in parts)
    if path and (bad or parts[0] == b".dwcp" or len(path) > MAX_PATH):
        with pytest.raises(RefusedError):
            check_relative(path)
    else:
        assert check_relative(path) == (tuple(parts) if path else ())
