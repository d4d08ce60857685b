"""What two replicas say to each other: the initiator asks, the responder answers, one for one.

    Hail    "my root is ..."                 State    "mine is ..., and these are my sums on the next level"
    Look    "the sums of these nodes?"       Sums
    List    "what is in these nodes?"        Items    32 bits of each fingerprint there
    Want    "these, please"                  Parcel   entries
    Give    entries                          Taken

Each is a MessagePack array that begins with its number, inside a frame of the session. Nodes are 2 bytes each, sums and
items 4; `salt` is the initiator's, for one round. The responder keeps nothing from one to the next.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from dwcp.errors import ProtocolError
from dwcp.sync.digest import LEVELS
from dwcp.sync.entry import Entry

MAX_MESSAGE = 192 * 1024
"""Bytes: a frame's head has room for it, and an entry of MAX_ENTRY fits."""
MAX_PARCEL = 160 * 1024
"""Bytes of entries in one message, unless it is one alone."""
MAX_NODES = 4096
"""In one Look or List."""
MAX_SUMS = 4 * MAX_NODES
MAX_ITEMS = 16 * 1024
MAX_WANTED = 4 * 1024
RIVAL_SIZE = 14
MAX_ENTRIES = 8 * 1024

Salt: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Root: TypeAlias = Annotated[bytes, Meta(min_length=8, max_length=8)]
Told: TypeAlias = Annotated[bytes, Meta(max_length=1024)]
Level: TypeAlias = Annotated[int, Meta(ge=0, le=LEVELS[-1])]
Nodes: TypeAlias = Annotated[bytes, Meta(max_length=2 * MAX_NODES)]
Moment: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Entries: TypeAlias = Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)]


class Hail(Struct, tag=1, array_like=True, frozen=True):
    """`told`: see `views`. `echo`: the responder's mark that came before, 0 for none."""

    salt: Salt
    root: Root
    told: Told
    echo: Moment = 0


class State(Struct, tag=2, array_like=True, frozen=True):
    """`sums`: of all nodes of the first level below the root, where the roots differ and there are many entries.
    `mark`: to be echoed. `wall`: milliseconds since the epoch, by the responder's clock."""

    root: Root
    count: Annotated[int, Meta(ge=0, le=2**32)]
    told: Told
    mark: Moment
    wall: Moment
    sums: Annotated[bytes, Meta(max_length=4 << LEVELS[1])] = b""


class Look(Struct, tag=3, array_like=True, frozen=True):
    """Nodes that are made of others."""

    salt: Salt
    level: Level
    nodes: Nodes


class Sums(Struct, tag=4, array_like=True, frozen=True):
    """Of what each node is made of, in the order of the question."""

    sums: Annotated[bytes, Meta(max_length=4 * MAX_SUMS)]


class List(Struct, tag=5, array_like=True, frozen=True):
    salt: Salt
    level: Level
    nodes: Nodes


class Items(Struct, tag=6, array_like=True, frozen=True):
    """`counts`: 2 bytes for each node asked about, in order; `items`: one after the other. A node of which not all fit
    is left out, with those after it."""

    counts: Nodes
    items: Annotated[bytes, Meta(max_length=4 * MAX_ITEMS)]


class Want(Struct, tag=7, array_like=True, frozen=True):
    """One node for each item. `ours`: of the asker's entries with one version only that are in these nodes and were not
    listed, the hash of the key (6 bytes) and the stamp (8): it does not want older versions of them."""

    salt: Salt
    level: Level
    nodes: Annotated[bytes, Meta(max_length=2 * MAX_WANTED)]
    items: Annotated[bytes, Meta(max_length=4 * MAX_WANTED)]
    ours: Annotated[bytes, Meta(max_length=RIVAL_SIZE * MAX_WANTED)] = b""


class Parcel(Struct, tag=8, array_like=True, frozen=True):
    """As many of those wanted as fit, in order; `looked`: how many items of the question they are the answer to, those
    included that are there no more, and `older` ones, of which the asker has a newer version."""

    looked: Annotated[int, Meta(ge=0, le=MAX_WANTED)]
    entries: Entries
    older: Annotated[int, Meta(ge=0, le=MAX_WANTED)] = 0


class Give(Struct, tag=9, array_like=True, frozen=True):
    """`complete`: with these the responder has all that the initiator had when it said Hail, and `told` counts."""

    entries: Entries
    complete: bool = False
    told: Told = b""
    echo: Moment = 0


class Taken(Struct, tag=10, array_like=True, frozen=True):
    """`refused`: entries that were not taken in; `reason`: why, of the first."""

    refused: Annotated[int, Meta(ge=0, le=MAX_ENTRIES)] = 0
    reason: Annotated[str, Meta(max_length=1024)] = ""


Request: TypeAlias = Hail | Look | List | Want | Give
Answer: TypeAlias = State | Sums | Items | Parcel | Taken
_ENCODER = msgspec.msgpack.Encoder()
_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_ANSWERS: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(message: Request | Answer) -> bytes:
    return _ENCODER.encode(message)


def decode_request(data: bytes) -> Request:
    """Raises ProtocolError. Entries are as they came: `entry.check` looks at them."""
    try:
        return _REQUESTS.decode(data)
    except _MALFORMED as error:
        raise ProtocolError(f"the peer sent a malformed request to synchronise: {error}") from error


def decode_answer(data: bytes) -> Answer:
    """Raises as `decode_request`."""
    try:
        return _ANSWERS.decode(data)
    except _MALFORMED as error:
        raise ProtocolError(f"the peer sent a malformed answer to synchronise: {error}") from error
