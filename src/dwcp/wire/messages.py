"""What frames say: one class a type, and the table from type to class.

Heads are MessagePack maps from field name to value; unknown fields are ignored, so a newer peer may say more. BLOCK,
SEGMENT and PACK, of which there are many, are arrays in field order. Every length that a peer chooses is bounded here,
before anything is done with it; `decode` raises ProtocolError for whatever does not fit.

Files are named by `file`, their number in the order of ENTRIES, from 0. Leaves are the equal pieces into which a file
is cut (`leaf_size`), the unit of sending, hashing, acknowledging and resuming. `Runs` are [first, count] pairs.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeAlias

import msgspec
from msgspec import Meta, Struct
from typing_extensions import Buffer

from dwcp.errors import ProtocolError
from dwcp.wire.tree import MAX_FILE as MAX_FILE
from dwcp.wire.tree import Change, Count, Identities, Index, PathBytes, Time, TreeOptions
from dwcp.wire.tree import Entry as Entry

VERSION = 1

MAX_TEXT = 1024
MAX_ERROR_TEXT = 4096
Text: TypeAlias = Annotated[str, Meta(max_length=MAX_TEXT)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Key: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature: TypeAlias = Annotated[bytes, Meta(min_length=64, max_length=64)]
SessionId: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
CertificateBytes: TypeAlias = Annotated[bytes, Meta(max_length=8192)]
DictionaryId: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
Digest: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=32)]
RdmaAddress: TypeAlias = Annotated[bytes, Meta(max_length=4096)]
MAX_FILL = 64 * 1024
Fill: TypeAlias = Annotated[bytes, Meta(max_length=MAX_FILL)]
SyncContent: TypeAlias = Annotated[bytes, Meta(max_length=192 * 1024)]
Run: TypeAlias = tuple[Index, Index]
MAX_RUNS = 8192
"""Of [first, count] pairs in one list: two such lists still fit a head."""
Runs: TypeAlias = Annotated[list[Run], Meta(max_length=MAX_RUNS)]

MAX_STREAMS = 1024
"""Data connections of a session at one time, what `transport.max_streams` may be set to: each costs a thread."""
MAX_ENTRIES = 512
"""Files announced in one ENTRIES, or listed in one LISTING."""
MAX_ENTRIES_SIZE = 1024 * 1024
"""Their size in MessagePack; a sender cuts earlier where paths are long."""
MAX_PACK_FILES = 512
"""Small files that ride in one PACK: its head stays under MAX_HEAD."""
MAX_SEGMENT_LEAVES = 64
"""Leaves in one SEGMENT."""
PROBE_SIZE = 8192
"""Bytes: several full segments, so that a path which swallows those shows; all in the first window (RFC 6928)."""
MAX_READ = 1024 * 1024
"""Bytes of a file in one CONTENT: a session holds no more than that for a reader; who wants more asks ahead."""
MAX_OPS = 4096
"""Copies and literals in one BLOCK: a leaf of 16 MiB in 4 KiB pages."""


def printable(text: str, limit: int) -> str:
    """What a peer says goes into logs and onto terminals: whatever could move a cursor or begin a line is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)[:limit]


class Message(Struct, forbid_unknown_fields=False, omit_defaults=True, kw_only=True):
    """Base of all heads; `kind` is the frame's type."""

    kind: ClassVar[int]


# -- handshake, first on every connection ------------------------------------------------------------------------------


class Hello(Message):
    """Initiator, first frame of a session's control connection."""

    kind = 1
    versions: Annotated[list[Index], Meta(min_length=1, max_length=16)]
    node: Name
    key: Key
    nonce: Key
    features: Annotated[list[Name], Meta(max_length=64)] = []
    certificate: CertificateBytes = b""
    """X.509 in DER, where an authority has signed the key."""


class HelloReply(Message):
    """Responder, followed at once by its AUTH."""

    kind = 2
    version: Index
    node: Name
    key: Key
    nonce: Key
    features: Annotated[list[Name], Meta(max_length=64)] = []
    certificate: CertificateBytes = b""
    """X.509 in DER, where an authority has signed the key."""


class Auth(Message):
    """Proves the sender's key: a signature over the transcript and the sender's part in it; see `handshake`."""

    kind = 3
    signature: Signature


class Welcome(Message):
    """Responder accepts. `join_key` is what later connections of this session prove to know."""

    kind = 4
    session: SessionId
    join_key: Key


class Join(Message):
    """First frame of a data connection. `mac` is HMAC-SHA-256 under the join key over session and stream number."""

    kind = 5
    session: SessionId
    stream: Index
    mac: Key
    rdma: RdmaAddress = b""
    """Of the initiator's UCX worker, where it wants what follows JOINED over RDMA."""
    probe: bool = False
    """It carries one PROBE each way and nothing of a transfer."""


class Joined(Message):
    """With `rdma` what follows goes there; without, it stays on this connection."""

    kind = 6
    rdma: RdmaAddress = b""


# -- at any time -------------------------------------------------------------------------------------------------------


class Error(Message):
    """Something failed. With `file` set it concerns that file alone; without, the request or the whole session."""

    kind = 7
    code: Name
    message: Annotated[str, Meta(max_length=MAX_ERROR_TEXT)]
    file: Index | None = None

    def __post_init__(self) -> None:
        self.message = printable(self.message, MAX_ERROR_TEXT)


class Ping(Message):
    """`fill` means nothing: it is there to be carried, and shows what the link can carry."""

    kind = 8
    token: Count = 0
    fill: Fill = b""


class Pong(Message):
    kind = 9
    token: Count = 0


class Probe(Message):
    """The initiator's first frame on a data connection that joined as a probe; its body, of up to PROBE_SIZE bytes,
    comes back in another one."""

    kind = 11


class Bye(Message):
    """No more will come on this connection; it is closed next."""

    kind = 10


# -- requests on the control connection --------------------------------------------------------------------------------


class List(Message):
    kind = 16
    path: PathBytes
    itself: bool = False
    """The one entry of the path itself, of a directory too; only to a peer with the feature `read`."""


class ListEntry(Struct, array_like=True, frozen=True):
    name: Annotated[bytes, Meta(max_length=4096)]
    type: Name
    size: Count
    mtime_ns: Time
    mode: Index
    link: PathBytes


class Listing(Message):
    """Answer to LIST, in as many frames as it takes; `more` is false in the last."""

    kind = 17
    entries: Annotated[list[ListEntry], Meta(max_length=MAX_ENTRIES)]
    more: bool = False


class Fence(Struct, omit_defaults=True):
    """Under whose ownership a workload is written. `workload` names it for all clusters; `token` grows with each
    owner."""

    workload: Annotated[str, Meta(min_length=1, max_length=128)]
    token: Annotated[int, Meta(ge=1, le=2**63 - 1)]

    def __post_init__(self) -> None:
        self.workload = printable(self.workload, 128)


class Read(Message):
    """Some bytes of a file. Further ones may be asked for before the answer is there."""

    kind = 18
    path: PathBytes
    offset: Count
    size: Annotated[int, Meta(ge=1, le=MAX_READ)]


class Content(Message):
    """Answer to READ; its body is what was asked for, less of it only where the file ends. `size` and `mtime_ns` are
    the whole file's: while they stay the same, so does what is read of it."""

    kind = 19
    size: Count
    mtime_ns: Time


class Open(Message):
    """Begins a transfer on this session: `put` from initiator to responder, `get` the other way."""

    kind = 20
    transfer: Name
    direction: Annotated[str, Meta(pattern="^(put|get)$")]
    path: PathBytes
    delete: bool = False
    checksum: Annotated[str, Meta(pattern="^(xxh3|blake3)$")] = "xxh3"
    delta: bool = True
    leaf_log: Annotated[int, Meta(ge=17, le=24)] = 20
    """Binary logarithm of the least leaf size: small where a leaf would keep one of many slow streams busy for long."""
    tree: TreeOptions | None = None
    """Only to a peer with the feature `trees`."""
    version: Name | None = None
    """get: that version of the path, as the directory that holds it (its content in `tree`, and `manifest`)."""
    traceparent: Name | None = None
    """The initiator's span, as W3C's Trace Context writes it. Only to a peer with the feature `traces`."""
    fence: Fence | None = None
    """put: only to a peer with the feature `fences`."""


class Opened(Message):
    kind = 21


class Keep(Message):
    """Make a version of what is at the path now, and remove older ones that the rules do not keep."""

    kind = 48
    path: PathBytes
    rules: Text
    """As in `last 5, daily 7`; `all`."""
    fence: Fence | None = None
    """As in OPEN."""


class VersionEntry(Struct, array_like=True, frozen=True):
    """`new_bytes`: not shared with the version before; `checked_at`: seconds since the epoch, 0 for never."""

    id: Name
    taken_at: Count
    files: Count
    bytes: Count
    new_bytes: Count
    checked_at: Count
    damaged: Count


class Kept(Message):
    """Answer to KEEP. `fresh` is false where nothing has changed since that version."""

    kind = 49
    version: VersionEntry
    fresh: bool
    removed: Count


class Versions(Message):
    """Which versions of a path there are."""

    kind = 50
    path: PathBytes


class VersionListing(Message):
    """Answer to VERSIONS, oldest first, in as many frames as it takes; `more` is false in the last."""

    kind = 51
    versions: Annotated[list[VersionEntry], Meta(max_length=MAX_ENTRIES)]
    more: bool = False


class Check(Message):
    """Read all versions of a path again, compare, mend."""

    kind = 52
    path: PathBytes
    rate: Count = 0
    """Bytes per second, at the most; 0 for no limit."""
    fence: Fence | None = None
    """As in OPEN."""


class Checked(Message):
    """Answer to CHECK. `removed`: live files that have to come anew before their versions can be mended."""

    kind = 53
    files: Count
    bytes: Count
    healed: Count
    damaged: Count
    removed: Count
    lines: Annotated[list[Text], Meta(max_length=64)] = []

    def __post_init__(self) -> None:
        self.lines = [printable(line, MAX_TEXT) for line in self.lines]


class Order(Message):
    """Send what is at a path of yours to a peer of yours, for me."""

    kind = 54
    source: PathBytes
    peer: Name
    target: PathBytes
    delete: bool = False
    checksum: Annotated[str, Meta(pattern="^(xxh3|blake3)$")] = "xxh3"


class OrderStatus(Message):
    """How far is the job?"""

    kind = 55
    job: Count


class Ordered(Message):
    """Answer to ORDER and ORDER_STATUS. `reason`: why the job waits or is parked."""

    kind = 56
    job: Count
    state: Name
    reason: Text = ""
    files: Count = 0
    bytes: Count = 0
    wire_bytes: Count = 0

    def __post_init__(self) -> None:
        self.reason = printable(self.reason, MAX_TEXT)


class Sync(Message):
    """What one node asks another about what both know of all nodes; see `dwcp.sync.messages`."""

    kind = 57
    content: SyncContent


class Synced(Message):
    """Answer to SYNC."""

    kind = 58
    content: SyncContent


# -- sender to receiver ------------------------------------------------------------------------------------------------


class Names(Message):
    """Before ENTRIES, where deletions come first: the paths of all entries. The body is as that of ENTRIES, an array of
    bytes, where `count` is not 0. `complete` is read in the last one: false where something could not be listed."""

    kind = 23
    count: Annotated[int, Meta(ge=0, le=MAX_ENTRIES)]
    size: Annotated[int, Meta(ge=1, le=MAX_ENTRIES_SIZE)]
    last: bool
    complete: bool


class Entries(Message):
    """The body is a zstd frame of `size` bytes of MessagePack: an array of entries, numbered from `first`."""

    kind = 24
    first: Index
    count: Annotated[int, Meta(ge=1, le=MAX_ENTRIES)]
    size: Annotated[int, Meta(ge=1, le=MAX_ENTRIES_SIZE)]
    users: Identities = []
    """Names of users that these entries are the first to mention."""
    groups: Identities = []


class Scanned(Message):
    """The source is listed to the end. `complete` is false where something of it could not be read."""

    kind = 25
    count: Index
    complete: bool


Op: TypeAlias = tuple[Annotated[int, Meta(ge=-1, le=2**63 - 1)], Index]


class Block(Message, array_like=True):
    """One leaf, on a data connection. The body holds its literal bytes, encoded by `codec`.

    `digest` is of the decoded leaf; empty where the body is the leaf as it is and its frame's hash says the same.
    `ops` put the leaf together: [offset in the baseline, length], offset -1 for literal bytes; none: all literal.
    """

    kind = 26
    file: Index
    leaf: Index
    size: Index
    codec: Index
    digest: Annotated[bytes, Meta(max_length=32)] = b""
    ops: Annotated[list[Op], Meta(max_length=MAX_OPS)] = []
    literal: Index = 0
    """Bytes of literal content that the body decodes to."""


class Packed(Struct, array_like=True, frozen=True):
    file: Index
    size: Index
    digest: Digest


class Pack(Message, array_like=True):
    """Small files, whole, end to end in one body, on a data connection."""

    kind = 27
    codec: Index
    size: Index
    files: Annotated[list[Packed], Meta(min_length=1, max_length=MAX_PACK_FILES)]
    dictionary: DictionaryId | None = None
    """Only of codec zstd, and one that the receiver has said it holds. Where it has lost it, it asks again."""


class FileEnd(Message):
    """All leaves of the file were sent or found unchanged. `root` is the hash of its leaf hashes and its size."""

    kind = 28
    file: Index
    size: Count
    root: Digest
    unchanged: Runs = []
    """Leaves that the receiver has: where it stands in its own list of leaf hashes."""
    more: bool = False
    """Another FILE_END with further `unchanged` runs of the same file follows."""


class IndexRequest(Message):
    """Sender asks for finer hashes of the receiver's baseline."""

    kind = 29
    file: Index
    pages: Runs = []
    """Leaves whose page hashes are wanted."""
    chunks: bool = False


class Segment(Message, array_like=True):
    """Some leaves of a file, ascending, on a data connection. The body makes them of the baseline (`hde.standalone`).

    Only to peers with the feature `segment`, and of files that a baseline was offered for.
    """

    kind = 30
    file: Index
    leaves: Annotated[list[Run], Meta(min_length=1, max_length=MAX_SEGMENT_LEAVES)]
    size: Index
    """Bytes of the leaves together."""
    digests: Annotated[bytes, Meta(min_length=16, max_length=32 * MAX_SEGMENT_LEAVES)]
    """Of each leaf, end to end."""


class Dictionary(Message):
    """A dictionary for packs, `size` bytes; the body is a zstd frame of it. Only to peers with the feature
    `dictionary`."""

    kind = 31
    id: DictionaryId
    size: Index


# -- receiver to sender ------------------------------------------------------------------------------------------------


class DictionaryHeld(Message):
    """Answer to DICTIONARY: it may be used, now and in later sessions."""

    kind = 41
    id: DictionaryId


class Need(Message):
    """What the receiver wants of a file.

    The body of a file that it has something of is the digests of its leaves, in order, all zero where it has none;
    as many as the sender's file has leaves.
    """

    kind = 32
    files: Annotated[list[Index], Meta(max_length=MAX_ENTRIES)]
    """Wanted whole; or, where there is a body, the one file that the body is about."""
    base_size: Count = 0
    """Size of the baseline that finer hashes can be asked of; 0 when there is none."""


class BaseIndex(Message):
    """Answer to INDEX_REQUEST; the body is laid out in `hde.index`."""

    kind = 33
    file: Index


class Ack(Message):
    """These leaves are on the receiver's disk and in its journal: they will not be asked for again."""

    kind = 34
    file: Index
    leaves: Runs


class Resend(Message):
    """These leaves did not arrive whole."""

    kind = 35
    file: Index
    leaves: Runs
    reason: Text

    def __post_init__(self) -> None:
        self.reason = printable(self.reason, MAX_TEXT)


class Done(Message):
    """These files are verified, durable and have their final names; `unchanged` ones had before."""

    kind = 36
    files: Runs
    unchanged: Runs = []


class StreamLost(Message):
    """A data connection broke at the receiver's end: what it carried and is not acknowledged must go again."""

    kind = 37
    stream: Index
    reason: Text

    def __post_init__(self) -> None:
        self.reason = printable(self.reason, MAX_TEXT)


class Streams(Message):
    """Use no more data connections than this; the sender ends the others after the block that is under way."""

    kind = 39
    limit: Index


class Pause(Message):
    """From the receiver: begin no further blocks, or go on. From the sender: it does so now, whoever asked. Only to
    peers with the feature `pause`."""

    kind = 42
    paused: bool


class Finished(Message):
    """Everything that can be done is done."""

    kind = 38
    deleted: Count
    verified: bool
    errors: Annotated[list[Text], Meta(max_length=64)] = []
    """What failed after the files were done: links, deletions, times of directories."""
    notes: Annotated[list[Text], Meta(max_length=64)] = []
    """What of the metadata could not be kept."""

    def __post_init__(self) -> None:
        self.errors = [printable(line, MAX_TEXT) for line in self.errors]
        self.notes = [printable(line, MAX_TEXT) for line in self.notes]


class Changes(Message):
    """What the receiver changes, where the transfer was asked to tell."""

    kind = 40
    changes: Annotated[list[Change], Meta(max_length=MAX_ENTRIES)]


MESSAGES: dict[int, type[Message]] = {
    cls.kind: cls
    for cls in (
        *(Hello, HelloReply, Auth, Welcome, Join, Joined),
        *(Error, Ping, Pong, Bye, Probe),
        *(List, Listing, Read, Content, Open, Opened),
        *(Keep, Kept, Versions, VersionListing, Check, Checked),
        *(Order, OrderStatus, Ordered),
        *(Sync, Synced),
        *(Names, Entries, Scanned, Block, Pack, FileEnd, IndexRequest, Segment, Dictionary),
        *(Need, DictionaryHeld, BaseIndex, Ack, Resend, Done, StreamLost, Streams, Finished, Changes, Pause),
    )
}

_ENCODER = msgspec.msgpack.Encoder()
_ENTRIES = msgspec.msgpack.Decoder(list[Entry])
_NAMES = msgspec.msgpack.Decoder(list[PathBytes])
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not the type: text that isn't UTF-8 has an error of its own."""
_DECODERS = {kind: msgspec.msgpack.Decoder(cls) for kind, cls in MESSAGES.items()}


def encode(message: Message) -> bytes:
    """The head of the frame of type `message.kind`."""
    return _ENCODER.encode(message)


def decode(kind: int, head: bytes) -> Message:
    """The message in a frame. Raises ProtocolError for an unknown type or a head that breaks its limits."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ProtocolError(f"the peer sent a frame of unknown type {kind}")
    try:
        return decoder.decode(head)
    except _MALFORMED as error:
        name = MESSAGES[kind].__name__
        raise ProtocolError(f"the peer sent a malformed {name}: {error}") from error


def encode_entries(entries: list[Entry]) -> bytes:
    """What the body of an ENTRIES decodes to."""
    return _ENCODER.encode(entries)


def decode_entries(data: Buffer, count: int) -> list[Entry]:
    """Raises ProtocolError when they are malformed or not `count`."""
    try:
        entries = _ENTRIES.decode(data)
    except _MALFORMED as error:
        raise ProtocolError(f"the peer sent a malformed list of entries: {error}") from error
    if len(entries) != count:
        raise ProtocolError(f"the peer announced {count} entries and sent {len(entries)}")
    return entries


def encode_names(names: list[bytes]) -> bytes:
    """What the body of a NAMES decodes to."""
    return _ENCODER.encode(names)


def decode_names(data: Buffer, count: int) -> list[bytes]:
    """Raises ProtocolError when they are malformed or not `count`."""
    try:
        names = _NAMES.decode(data)
    except _MALFORMED as error:
        raise ProtocolError(f"the peer sent a malformed list of names: {error}") from error
    if len(names) != count:
        raise ProtocolError(f"the peer announced {count} names and sent {len(names)}")
    return names


def runs_of(indexes: list[int]) -> list[tuple[int, int]]:
    """Ascending indexes as [first, count] pairs."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and runs[-1][0] + runs[-1][1] == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs


def indexes_of(runs: list[tuple[int, int]], limit: int) -> list[int]:
    """The indexes in runs. Raises ProtocolError where one reaches `limit` or they are more than `limit` together."""
    total = 0
    for first, count in runs:
        total += count
        if first + count > limit or total > limit:
            raise ProtocolError(f"the peer named {first}+{count} where only {limit} exist")
    return [index for first, count in runs for index in range(first, first + count)]
