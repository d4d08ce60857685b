"""docs/protocol.md suffices to write a peer, and says what the code does."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import xxhash
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyfastcdc.py.constants import MASKS

from dwcp.config.model import Transport
from dwcp.errors import DwcpError
from dwcp.hde import codecs, dictionary, hashes, index, standalone
from dwcp.links import ucx
from dwcp.store.link_certificate import issuer
from dwcp.sync import digest, entry, mvcc
from dwcp.sync import messages as sync_messages
from dwcp.transfer import dictionaries, receiver, session, source, work
from dwcp.wire import frames, handshake, paths, tree
from dwcp.wire import messages as m
from dwcp.wire.tree import ALL_KEPT, Change, TreeOptions
from tests import minimal_peer
from tests.minimal_peer import LISTING, RemoteError, Session, leaves, root
from tests.support import Pair, random_file, wait_until

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


@pytest.fixture
def minimal(pair: Pair) -> Iterator[Session]:
    made = dial(pair)
    yield made
    made.close()


def dial(pair: Pair) -> Session:
    return Session(pair.port, pair.identities["a"].private_key, "minimal", pair.identities["b"].fingerprint)


def test_a_peer_made_from_the_document_lists(pair: Pair, minimal: Session) -> None:
    (pair.inbox / "sub").mkdir()
    (pair.inbox / "file").write_bytes(b"12345")
    (pair.inbox / "link").symlink_to("file")
    assert minimal.list(b"") == [[b"fixed", "export", 0, 0, 0, b""], [b"inbox", "export", 0, 0, 0, b""]]
    listed = {name: (kind, link) for name, kind, _, _, _, link in minimal.list(b"inbox")}
    assert listed == {b"file": ("file", b""), b"link": ("symlink", b"file"), b"sub": ("dir", b"")}
    status = (pair.inbox / "file").stat()
    entry = [b"file", "file", 5, status.st_mtime_ns, stat.S_IMODE(status.st_mode), b""]
    assert minimal.list(b"inbox/file") == [entry]
    with pytest.raises(RemoteError, match="not-found"):
        minimal.list(b"outbox")
    assert minimal.list(b"inbox/sub") == []
    minimal.leave()


def test_a_peer_made_from_the_document_reads_ranges(pair: Pair, minimal: Session) -> None:
    (pair.inbox / "sub").mkdir()
    content = random_file(pair.inbox / "sub" / "file", m.MAX_READ + 1000)
    status = (pair.inbox / "sub" / "file").stat()
    # all asked before the first is answered
    ranges = [(0, m.MAX_READ), (m.MAX_READ - 10, 20), (m.MAX_READ, m.MAX_READ), (len(content), 1), (2**63 - 1, 5)]
    for offset, size in ranges:
        minimal.control.send(m.Read.kind, {"path": b"inbox/sub/file", "offset": offset, "size": size})
    for offset, size in ranges:
        head, body = minimal.control.expect(m.Content.kind)
        assert head == {"size": len(content), "mtime_ns": status.st_mtime_ns}
        assert body == content[offset : offset + size]
    minimal.control.send(m.List.kind, {"path": b"inbox/sub", "itself": True})
    (entry,) = minimal.control.expect(LISTING)[0]["entries"]
    assert entry[:2] == [b"sub", "dir"]
    minimal.control.send(m.List.kind, {"path": b"inbox", "itself": True})
    (entry,) = minimal.control.expect(LISTING)[0]["entries"]
    assert entry[:2] == [b"inbox", "dir"]
    with pytest.raises(RemoteError, match="not-found"):
        minimal.control.send(m.Read.kind, {"path": b"inbox/none", "offset": 0, "size": 1})
        minimal.control.expect(m.Content.kind)
    minimal.leave()


def test_a_peer_made_from_the_document_puts(pair: Pair, minimal: Session) -> None:
    large = os.urandom(2 * hashes.MIN_LEAF) + bytes(hashes.MIN_LEAF) + b"the end"
    entries = [
        {"path": b"", "type": "dir", "mode": 0o755, "mtime_ns": 10**18},
        {"path": b"small", "type": "file", "mode": 0o640, "mtime_ns": 10**18 + 1, "size": 6},
        {"path": b"large", "type": "file", "mode": 0o600, "mtime_ns": 10**18 + 2, "size": len(large)},
        {"path": b"empty", "type": "file", "mode": 0o644, "mtime_ns": 10**18 + 3},
        {"path": b"link", "type": "symlink", "mtime_ns": 10**18 + 4, "link": b"small"},
    ]
    finished = minimal.put(b"inbox/tree", entries, {1: b"hello\n", 2: large})
    assert finished["verified"] is True
    assert (pair.inbox / "tree" / "small").read_bytes() == b"hello\n"
    assert (pair.inbox / "tree" / "large").read_bytes() == large
    assert (pair.inbox / "tree" / "empty").read_bytes() == b""
    assert (pair.inbox / "tree" / "link").readlink() == Path("small")
    status = (pair.inbox / "tree" / "large").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o600, 10**18 + 2)
    wait_until(lambda: bool(pair.board.recent()), "the other end is done")
    assert pair.board.recent()[0].state == "done"
    again = dial(pair).put(b"inbox/tree", entries, {})
    assert again["verified"] is True


def test_a_peer_made_from_the_document_gets(pair: Pair, minimal: Session) -> None:
    (pair.inbox / "tree" / "sub").mkdir(parents=True)
    contents = {
        b"sub/random": random_file(pair.inbox / "tree" / "sub" / "random", 3_500_000),
        b"small": random_file(pair.inbox / "tree" / "small", 1000),
        b"text": b"compressible " * 200_000,
        b"zeros": bytes(2 * hashes.MIN_LEAF),
    }
    for name in (b"text", b"zeros"):
        (pair.inbox / "tree" / os.fsdecode(name)).write_bytes(contents[name])
    (pair.inbox / "tree" / "empty").touch()
    assert minimal.get(b"inbox/tree") == contents
    wait_until(lambda: bool(pair.board.recent()), "the other end is done")
    assert pair.board.recent()[0].state == "done"


def test_a_peer_made_from_the_document_can_fail_to_prove_itself(pair: Pair) -> None:
    with pytest.raises(RemoteError, match="authentication"):
        Session(pair.port, Ed25519PrivateKey.generate(), "stranger", pair.identities["b"].fingerprint)


# -- what the document forbids or settles, and nobody honest tries -----------------------------------------------------


def test_a_symlink_that_cannot_exist_fails_alone(pair: Pair, minimal: Session) -> None:
    minimal.open("put", b"inbox/tree")
    minimal.announce([{"path": b"", "type": "dir"}, {"path": b"x", "type": "symlink", "link": b"nul\0"}])
    with pytest.raises(RemoteError, match="refused"):
        while True:
            minimal.control.receive()


def test_a_file_larger_than_any_is_refused(pair: Pair, minimal: Session) -> None:
    minimal.open("put", b"inbox/file")
    minimal.announce([{"path": b"", "type": "file", "size": m.MAX_FILE + 1}])
    with pytest.raises(RemoteError, match="protocol"):
        while True:
            minimal.control.receive()


def test_giving_up_a_file_that_is_done_harms_nothing(pair: Pair, minimal: Session) -> None:
    minimal.open("put", b"inbox/empty")
    minimal.control.send(
        m.Entries.kind,
        {"first": 0, "count": 1, "size": 19},
        codecs.encode_names(b"\x91\x82\xa4path\xc4\x00\xa4type\xa4file"),
    )
    assert minimal.control.expect(m.Done.kind)[0]["files"] == [[0, 1]]
    minimal.control.send(m.Error.kind, {"code": "temporary", "message": "gone", "file": 0})
    minimal.control.send(m.Scanned.kind, {"count": 1, "complete": True})
    assert minimal.control.expect(m.Finished.kind)[0]["verified"] is True
    minimal.leave()


def test_long_links_are_listed_in_several_frames(pair: Pair, minimal: Session) -> None:
    for number in range(100):
        (pair.inbox / f"link{number:03}").symlink_to("x" * 4000)
    minimal.control.send(m.List.kind, {"path": b"inbox"})
    first, _ = minimal.control.expect(LISTING)
    assert first["more"] is True
    assert len(minimal.control.last_head) <= frames.MAX_HEAD
    assert len(minimal.list(b"inbox")) >= 100 - len(first["entries"])


def test_literal_zeros_in_a_delta_are_written(pair: Pair, minimal: Session) -> None:
    """Codec 255 with ops: the leaf is not a hole, and leaves called unchanged come from the baseline."""
    old = random_file(pair.inbox / "file", 3 * hashes.MIN_LEAF)
    half = hashes.MIN_LEAF // 2
    new = bytes(half) + old[:half] + old[hashes.MIN_LEAF :]
    minimal.open("put", b"inbox/file")
    minimal.announce([{"path": b"", "type": "file", "mode": 0o644, "mtime_ns": 1, "size": len(new)}])
    need, have = minimal.control.expect(m.Need.kind)
    assert need["base_size"] == len(old)
    assert have == b"".join(xxhash.xxh3_128_digest(leaf) for leaf in leaves(old))
    data = minimal.join(0)
    digests = [xxhash.xxh3_128_digest(leaf) for leaf in leaves(new)]
    ops = [[-1, half], [0, half]]
    data.send(m.Block.kind, [0, 0, hashes.MIN_LEAF, codecs.ZERO.id, digests[0], ops, half])
    end = {"file": 0, "size": len(new), "root": root(b"".join(digests), len(new)), "unchanged": [[1, 2]]}
    minimal.control.send(m.FileEnd.kind, end)
    while minimal.control.receive()[0] != m.Finished.kind:
        pass
    minimal.leave()
    assert (pair.inbox / "file").read_bytes() == new


def test_a_small_file_need_not_ride_in_a_pack(pair: Pair, minimal: Session) -> None:
    """The end of the file comes before its content: nothing is ordered between connections."""
    minimal.open("put", b"inbox/file")
    minimal.announce([{"path": b"", "type": "file", "mode": 0o644, "mtime_ns": 1, "size": 5}])
    minimal.control.expect(m.Need.kind)
    digest = xxhash.xxh3_128_digest(b"hello")
    minimal.control.send(m.FileEnd.kind, {"file": 0, "size": 5, "root": root(digest, 5)})
    minimal.join(0).send(m.Block.kind, [0, 0, 5, 0], b"hello")
    assert minimal.control.expect(m.Done.kind)[0]["files"] == [[0, 1]]
    assert minimal.control.expect(m.Finished.kind)[0]["verified"] is True
    minimal.leave()
    assert (pair.inbox / "file").read_bytes() == b"hello"


def test_data_connections_are_limited(pair: Pair, minimal: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "MAX_STREAMS", 2)
    minimal.open("put", b"inbox/x")
    minimal.join(0)
    with pytest.raises(RemoteError, match="authentication"):
        minimal.join(0)
    minimal.join(1)
    with pytest.raises(RemoteError, match="refused"):
        minimal.join(2)


def test_a_checksum_is_asked_for_only_where_it_is_known(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_file(tmp_path / "file", 1000)
    assert pair.send(tmp_path / "file", "inbox/file", checksum="blake3").verified
    monkeypatch.setattr(handshake, "FEATURES", ("delta",))
    with pytest.raises(DwcpError, match="b cannot verify with blake3"):
        pair.send(tmp_path / "file", "inbox/file", checksum="blake3")


# -- the document beside the code --------------------------------------------------------------------------------------


def section(heading: str) -> str:
    """From a heading to the next one of the same or a higher level."""
    level = heading.split(" ")[0]
    text = DOCUMENT.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"\n#{{2,{len(level)}}} ", text)[0]


def rows(heading: str, columns: int) -> list[list[str]]:
    """Cells of the rows of a section's tables with so many columns, without the tables' own headings."""
    tables = re.findall(r"(?:^\|.*\n?)+", section(heading), re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()[2:]]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return [row for row in cells if len(row) == columns]


def wire_name(message: type[m.Message]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", message.__name__).upper()


def test_the_table_of_messages_is_the_code() -> None:
    documented = {int(row[0]): row[1] for row in rows("## Messages", 5) if row[0].isdigit()}
    assert documented == {kind: wire_name(message) for kind, message in m.MESSAGES.items()}
    arrays = {wire_name(message) for message in m.MESSAGES.values() if message.__struct_config__.array_like}
    assert arrays == {"BLOCK", "PACK", "SEGMENT"}


def test_the_table_of_fields_is_the_code() -> None:
    documented = [(name, field, shown) for name, field, _, shown, _ in rows("### Fields", 5)]
    words = {False: "false", True: "true", None: "nil", b"": "empty"}
    coded = []
    for message in m.MESSAGES.values():
        for field in msgspec.structs.fields(message):
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            if default is msgspec.NODEFAULT:
                shown = ""
            else:
                shown = words[default] if default is None or isinstance(default, bool | bytes) else str(default)
            coded.append((wire_name(message), field.name, shown))
    assert sorted(documented) == sorted(coded)
    by_name = {wire_name(message): message for message in m.MESSAGES.values()}
    for name in ("BLOCK", "PACK"):
        order = [field for message, field, _ in documented if message == name]
        assert order == list(by_name[name].__struct_fields__)


def test_the_options_of_a_tree_are_the_code() -> None:
    documented = [(name, shown) for name, _, shown, _ in rows("### Tree options", 4)]
    words = {False: "false", True: "true", None: "nil", b"": "empty", b"~": "`~`"}
    coded = []
    for field in msgspec.structs.fields(TreeOptions):
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        shown = words[default] if default is None or isinstance(default, bool | bytes) else str(default)
        coded.append((field.name, shown))
    assert documented == coded
    ((meaning,),) = ([text for name, _, _, text in rows("### Tree options", 4) if name == "keep"],)
    assert re.findall(r"`(\w+)`", meaning) == list(ALL_KEPT)


def test_the_bits_of_a_change_are_the_code() -> None:
    sentence = section("### Changes").replace("\n", " ").partition("is a sum of:")[2]
    bits = [int(bit) for bit in re.findall(r"(\d+) [a-zA-Z]", sentence)]
    names = ["NEW", "CONTENT", "SIZE", "TIME", "MODE", "OWNER", "GROUP", "ACL", "XATTR", "DELETED", "SENT"]
    assert bits == [getattr(tree, name) for name in names]


@pytest.mark.parametrize("struct", [m.ListEntry, m.Entry, m.Packed, Change])
def test_the_structures_in_fields_are_the_code(struct: type[msgspec.Struct]) -> None:
    name = {m.ListEntry: "list entry", m.Entry: "entry", m.Packed: "packed", Change: "change"}[struct]
    (found,) = (row for row in rows("### Fields", 3) if row[0] == name)
    assert [element.split()[0] for element in found[2].split(", ")] == list(struct.__struct_fields__)
    assert (found[1] == "array") == struct.__struct_config__.array_like


def test_the_limits_are_the_code() -> None:
    documented = {name: int(value) for name, value in rows("## Limits", 2)}
    assert documented == {
        "prefix": frames.PREFIX_SIZE,
        "head": frames.MAX_HEAD,
        "head before WELCOME or JOINED": frames.MAX_HEAD_BEFORE_WELCOME,
        "body before OPEN or JOINED": frames.NO_BODY,
        "body of PROBE": m.PROBE_SIZE,
        "body of CONTENT": m.MAX_READ,
        "message over UCX": ucx.PIECE,
        "body on a data connection": receiver.MAX_BLOCK_BODY,
        "body on a control connection, at the sender": frames.MAX_BODY,
        "body on a control connection, at the receiver": receiver.MAX_ENTRIES_BODY,
        "entries in ENTRIES or LISTING": m.MAX_ENTRIES,
        "decoded ENTRIES": m.MAX_ENTRIES_SIZE,
        "weight of entries not settled, sender": work.MAX_UNSETTLED,
        "weight of entries not settled, receiver": work.MAX_UNSETTLED_AT_ONCE,
        "extended attributes of an entry": tree.MAX_XATTRS,
        "bytes of extended attributes of an entry": tree.MAX_XATTRS_SIZE,
        "bytes of extended attributes that weigh 1": work.XATTRS_A_FILE,
        "users, or groups, that are named": tree.MAX_IDENTITIES,
        "filters": tree.MAX_FILTERS,
        "files in a PACK": m.MAX_PACK_FILES,
        "decoded PACK": work.PACK_BYTES,
        "file in a PACK of this implementation": work.PACK_FILE,
        "dictionary": dictionary.MAX_SIZE,
        "dictionaries in a session": dictionaries.MOST_TAKEN,
        "ops in a BLOCK": m.MAX_OPS,
        "leaves in a SEGMENT": m.MAX_SEGMENT_LEAVES,
        "bytes in a SEGMENT of several leaves": standalone.MAX_CONTENT,
        "runs in a list": m.MAX_RUNS,
        "smallest leaf": hashes.LEAF_SIZES[0],
        "largest leaf": hashes.MAX_LEAF,
        "leaves of a file": hashes.MAX_LEAVES,
        "size of a file": m.MAX_FILE,
        "page": index.PAGE,
        "bytes of a baseline in a BASE_INDEX": index.MAX_INDEXED,
        "baseline with chunks": index.MAX_CHUNKED,
        "zstd window, log2": codecs.WINDOW_LOG_MAX,
        "path": paths.MAX_PATH,
        "component of a path": paths.MAX_NAME,
        "data connections of a session": m.MAX_STREAMS,
        "leaves of a stream that are kept": source.STREAM_WINDOW,
        "damaged blocks of a file": work.MAX_RESENDS,
        "signs of life in a read timeout": session.LIVELY,
        "seconds from cancelling to closing": session.PARTING,
    }
    assert m.MAX_FILE == hashes.MAX_LEAF * hashes.MAX_LEAVES
    assert Transport.model_fields["max_streams"].metadata[-1].le == m.MAX_STREAMS


def test_the_sizes_of_leaves_are_the_code() -> None:
    units = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
    for upto, leaf in rows("## Hash tree", 2):
        size, unit = upto.removeprefix("up to ").split()
        wanted = int(leaf.removesuffix(" MiB")) * 2**20
        assert hashes.leaf_size(int(size) * units[unit]) == wanted
        assert hashes.leaf_size(int(size) * units[unit] + 1) == min(2 * wanted, hashes.MAX_LEAF)


def test_the_codecs_codes_and_features_are_the_code() -> None:
    assert {int(row[0]): row[1] for row in rows("### Codecs", 3)} == {
        c.id: c.name for c in (*codecs.CODECS, codecs.ZERO)
    }
    assert {row[0] for row in rows("## Errors", 2)} == {cls.code for cls in (DwcpError, *_below(DwcpError))}
    also = (
        handshake.RDMA,
        handshake.DICTIONARY,
        handshake.PROBE,
        handshake.VERSIONED,
        handshake.FENCES,
        handshake.PAUSE,
        handshake.ORDERS,
        handshake.SYNC,
        handshake.TRACES,
        handshake.READ,
    )
    assert [row[0] for row in rows("## Versions and extensions", 2)] == [*handshake.FEATURES, *also]


def _below(cls: type[DwcpError]) -> list[type[DwcpError]]:
    return [found for child in cls.__subclasses__() for found in (child, *_below(child))]


def vectors() -> dict[str, bytes]:
    found = re.findall(r"^(\w[\w ]*) = ([0-9a-f]+(?:\n +[0-9a-f]+)*)$", section("## Test vectors"), re.MULTILINE)
    return {name: bytes.fromhex(value) for name, value in found}


def test_the_vectors_of_the_handshake_are_the_code() -> None:
    documented = vectors()
    a, b = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
    public = [key.public_key().public_bytes_raw() for key in (a, b)]
    trusted = handshake.fingerprint(public[1])
    initiator = handshake.Initiator(handshake.Introduction("a", public[0], b"\x11" * 32, a.sign), trusted)
    responder = handshake.Responder(handshake.Introduction("b", public[1], b"\x22" * 32, b.sign), lambda _: "a")
    hello = m.encode(initiator.hello())
    reply, proof = responder.reply(initiator.hello(), hello)
    answer = initiator.answer(reply, m.encode(reply), proof)
    transcript = hashlib.sha256(len(hello).to_bytes(4, "big") + hello + m.encode(reply)).digest()
    assert {name: documented[name] for name in list(documented)[:9]} == {
        "initiator key": public[0],
        "responder key": public[1],
        "responder fingerprint": bytes.fromhex(trusted.removeprefix("sha256:")),
        "hello head": hello,
        "reply head": m.encode(reply),
        "transcript": transcript,
        "responder signature": proof.signature,
        "initiator signature": answer.signature,
        "join mac": handshake.join_mac(b"\x33" * 32, b"\x44" * 16, 7),
    }
    assert b.sign(b"dwcp responder" + transcript) == proof.signature
    assert a.sign(b"dwcp initiator" + transcript) == answer.signature


def test_the_vectors_of_frames_and_hashes_are_the_code() -> None:
    documented = vectors()
    block = m.Block(file=1, leaf=0, size=5, codec=0, literal=5)
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    asked = m.Open(transfer="t", direction="put", path=b"inbox/x", traceparent=traceparent)
    read = m.Read(path=b"inbox/file", offset=3, size=5)
    content = m.Content(size=8, mtime_ns=10**18)
    xxh3, blake3 = hashes.XXH3, hashes.BLAKE3
    page = b"x" * 5000
    chunk = (5000, xxhash.xxh3_64_intdigest(page))
    assert {name: documented[name] for name in list(documented)[9:]} == {
        "ping frame": frames.seal(m.Ping.kind, m.encode(m.Ping())),
        "block frame": frames.seal(m.Block.kind, m.encode(block), b"hello") + b"hello",
        "open head": m.encode(asked),
        "read frame": frames.seal(m.Read.kind, m.encode(read)),
        "content frame": frames.seal(m.Content.kind, m.encode(content), b"hello") + b"hello",
        "issuer certificate": ssl.PEM_cert_to_DER_cert(issuer().decode()),
        "xxh3 leaf": xxh3.digest(b"hello"),
        "xxh3 root": xxh3.root(xxh3.digest(b"hello"), 5),
        "xxh3 root of nothing": xxh3.root(b"", 0),
        "xxh3 zero leaf": hashes.zero_digest("xxh3", 2**20),
        "blake3 leaf": blake3.digest(b"hello"),
        "blake3 root": blake3.root(blake3.digest(b"hello"), 5),
        "blake3 zero leaf": hashes.zero_digest("blake3", 2**20),
        "base index": index.pack_index(index.page_hashes(page), iter([chunk])),
        **sync_vectors(),
    }
    assert minimal_peer.frame(m.Ping.kind, {}) == documented["ping frame"]
    assert minimal_peer.frame(m.Block.kind, [1, 0, 5, 0, b"", [], 5], b"hello") == documented["block frame"]


def sync_vectors() -> dict[str, bytes]:
    node, stamp = b"\x11" * 8, (1000 << 16) + 1
    made = mvcc.write("app/a", None, entry.Version(node, stamp, b"1"), ())
    found = entry.fingerprint(made)
    root_ = found.to_bytes(8, "big")
    return {
        "sync entry": entry.encode(made),
        "sync fingerprint": root_,
        "sync place": digest.place_of("app/a").to_bytes(2, "big"),
        "sync item": digest.pack_hashes([digest.salted(found, 5)]),
        "sync ours": digest.pack_rival("app/a", stamp),
        "sync hail": sync_messages.encode(sync_messages.Hail(5, root_, b"\x22" * 8 + b"\0\0\0\x0a")),
    }


def test_the_table_of_synchronisation_is_the_code() -> None:
    documented = {int(number): (name, elements) for number, name, elements in rows("## Synchronisation", 3)}
    coded = {}
    for message in (*sync_messages.Request.__args__, *sync_messages.Answer.__args__):
        elements = []
        for field in msgspec.structs.fields(message):
            default = field.default
            shown = str(default).lower() if isinstance(default, int) else "empty"
            elements.append(field.name if default is msgspec.NODEFAULT else f"{field.name} = {shown}")
        coded[message.__struct_config__.tag] = (message.__name__.lower(), ", ".join(elements))
    assert documented == coded


def test_the_chunker_in_the_document_is_the_code() -> None:
    content = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(8192))
    coded = [length for length, _ in index.cut(lambda offset, size: content[offset : offset + size], len(content))]
    sentence = re.search(r"each number in 4 bytes:\n([\d ]+)\.", DOCUMENT)
    assert sentence
    assert coded == [int(length) for length in sentence[1].split()]
    assert documented_masks() == {number: MASKS[number] for number in range(13, 24)}
    lengths, at = [], 0
    while at < len(content):
        lengths.append(first_chunk(content[at:], 16 * 1024))
        at += lengths[-1]
    assert lengths == coded


def documented_masks() -> dict[int, int]:
    cells = re.findall(r"(\d\d) \| (0x[0-9a-f]+)", section("## Deltas"))
    return {int(number): int(value, 16) for number, value in cells}


def first_chunk(b: bytes, average: int) -> int:
    """The document's pseudo-code, line by line."""
    mask = documented_masks()
    gear = [int.from_bytes(hashlib.md5(bytes([value]) * 64).digest()[:8], "big") for value in range(256)]
    minimum, maximum = average // 4, average * 4
    n = min(len(b), maximum)
    if len(b) <= minimum:
        return len(b)
    h, middle, last = 0, min(average, n) // 2 * 2, n // 2 * 2
    for p in range(minimum, last, 2):
        m = mask[average.bit_length() - 1 + (1 if p < middle else -1)]
        h = (4 * h + 2 * gear[b[p]]) % 2**64
        if not h & (2 * m):
            return p
        h = (h + gear[b[p + 1]]) % 2**64
        if not h & m:
            return p + 1
    return n
