"""A key with its versions, as it is merged, kept and sent.

A version is known by its dot: who wrote it (`origin`) and when (`stamp`, of a hybrid logical clock). No node gives a
stamp out twice, so a dot stands for one content. A deletion is a version too, a tombstone; so is one that has expired:
its value goes, its dot stays until everybody is known to have it.

Keys of `app/...` are for applications, and anybody may write them. All others are NAMESPACE/ID, and belong to the node
of that id, which alone writes them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, TypeAlias

import msgspec
import xxhash
from msgspec import Meta, Struct

from dwcp.errors import ProtocolError, UsageError

ID_SIZE = 8
"""Bytes of a node's id: the first of its fingerprint. A collision of random ones is not to be seen below a billion
nodes, and one that somebody computes (2^64 key pairs) gains what any trusted peer can do anyway."""
APP = "app"
MAX_KEY = 512
MAX_VALUE = 32 * 1024
"""Bytes of one version's value: four that were written at the same time still fit an entry."""
MAX_ENTRY = 128 * 1024
"""Bytes of an entry with all of its versions: half a frame's head."""
MAX_VERSIONS = 64
MAX_WRITERS = 1024
"""Nodes in an entry's context: they take 18 bytes each."""

NodeId: TypeAlias = Annotated[bytes, Meta(min_length=ID_SIZE, max_length=ID_SIZE)]
Stamp: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Dot: TypeAlias = tuple[bytes, int]
Context: TypeAlias = dict[bytes, int]


class Kind(IntEnum):
    """How states of a key are merged. Where two nodes made a key with different kinds, the greater one stays."""

    LWW = 0
    MVCC = 1
    CRDT = 2


class Version(Struct, array_like=True, frozen=True):
    """`expires`: milliseconds since the epoch, 0 for never."""

    origin: NodeId
    stamp: Stamp
    value: Annotated[bytes, Meta(max_length=MAX_ENTRY)]
    deleted: bool = False
    expires: Milliseconds = 0

    @property
    def dot(self) -> Dot:
        return self.origin, self.stamp


class Entry(Struct, array_like=True, frozen=True):
    """`versions` newest first: one, or those that nobody has resolved yet (mvcc). `context`: for each node the newest
    of its stamps that the entry has taken in, sorted; empty with lww, where the version says it all."""

    key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
    kind: Kind
    versions: Annotated[tuple[Version, ...], Meta(min_length=1, max_length=MAX_VERSIONS)]
    context: Annotated[tuple[tuple[NodeId, Stamp], ...], Meta(max_length=MAX_WRITERS)] = ()

    @property
    def newest(self) -> Version:
        return self.versions[0]

    @property
    def deleted(self) -> bool:
        """Nothing is there any more."""
        return all(version.deleted for version in self.versions)

    @property
    def live(self) -> tuple[Version, ...]:
        return tuple(version for version in self.versions if not version.deleted)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    return _ENCODER.encode(entry)


def decode(data: bytes) -> Entry:
    """Raises ProtocolError for what is no entry, or one that `check` objects to."""
    try:
        entry = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"malformed entry: {error}") from error
    check(entry)
    return entry


def check(entry: Entry) -> None:
    """Raises ProtocolError for an entry that no node of this protocol makes."""
    key = entry.key
    try:
        owner = owner_of(key)
    except UsageError as error:
        raise ProtocolError(str(error)) from error
    if owner is not None and (entry.kind is not Kind.LWW or entry.newest.origin != owner):
        raise ProtocolError(f"{key!r} was written by another node than the one whose it is")
    if entry.kind is Kind.MVCC:
        context = dict(entry.context)
        if any(context.get(version.origin, 0) < version.stamp for version in entry.versions):
            raise ProtocolError(f"{key!r} has a version that its context does not know")
        if len({version.dot for version in entry.versions}) < len(entry.versions):
            raise ProtocolError(f"{key!r} has one version twice")
    elif len(entry.versions) > 1 or (entry.kind is Kind.LWW and entry.context):
        raise ProtocolError(f"{key!r} has more than one version")
    elif entry.kind is Kind.CRDT and entry.newest.dot != max(entry.context, key=_later, default=None):
        raise ProtocolError(f"{key!r} has a context that is not that of its newest edit")
    if size(entry) > MAX_ENTRY:
        raise ProtocolError(f"{key!r} is larger than {MAX_ENTRY} bytes")


def _later(dot: Dot) -> tuple[int, bytes]:
    return dot[1], dot[0]


def owner_of(key: str) -> bytes | None:
    """The id of the node whose key it is; None for one of an application. Raises UsageError for what is no key."""
    namespace, slash, rest = key.partition("/")
    if not (namespace and slash and rest) or not key.isprintable() or len(key.encode("utf-8", "replace")) > MAX_KEY:
        raise UsageError(f"{key[:80]!r} is no key: write app/NAME, printable, at most {MAX_KEY} bytes")
    if namespace == APP:
        return None
    if len(rest) != 2 * ID_SIZE or rest.strip("0123456789abcdef"):
        raise UsageError(f"{key[:80]!r} is no key: applications have app/NAME, all others NAMESPACE/ID of a node")
    return bytes.fromhex(rest)


def fingerprint(entry: Entry) -> int:
    """64 bits that tell this state of the key from all others of all keys: XXH3-64 over the key, its kind, the dots of
    its versions and its context. Equal dots have equal content, so that values need not be hashed."""
    parts = [entry.key.encode(), bytes([entry.kind])]
    for version in entry.versions:
        parts += [version.origin, version.stamp.to_bytes(8, "big")]
    for origin, stamp in entry.context:
        parts += [origin, stamp.to_bytes(8, "big")]
    return xxhash.xxh3_64_intdigest(b"\0".join(parts))


def size(entry: Entry) -> int:
    """Bytes in MessagePack, or a few more."""
    values = sum(len(version.value) + 40 for version in entry.versions)
    return len(entry.key.encode()) + 16 + values + 20 * len(entry.context)


def in_order(versions: list[Version]) -> tuple[Version, ...]:
    """Newest first."""
    return tuple(sorted(versions, key=lambda version: _later(version.dot), reverse=True))


def same_dot(one: Version, other: Version) -> Version:
    """Of two copies of one version: the one that has expired already, where it has at one end only."""
    return max(one, other, key=lambda version: (version.deleted, version.value, version.expires))


def joined(one: Entry, other: Entry) -> Context:
    """What either context knows."""
    context = dict(one.context)
    for origin, stamp in other.context:
        context[origin] = max(stamp, context.get(origin, 0))
    return context


def expired(entry: Entry, wall: float) -> Entry:
    """The entry as it is at that moment, in seconds since the epoch: the same dots, without what is over."""
    now = int(wall * 1000)
    if not any(0 < version.expires <= now and not version.deleted for version in entry.versions):
        return entry
    versions = tuple(
        msgspec.structs.replace(version, value=b"", deleted=True) if 0 < version.expires <= now else version
        for version in entry.versions
    )
    return msgspec.structs.replace(entry, versions=versions)
