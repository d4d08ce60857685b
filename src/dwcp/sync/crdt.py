"""Documents that are edited at several nodes at once, without anybody's edit being lost: Yjs's types (Nicolaescu, Jahns
et al., 2016: YATA) by pycrdt, the extra `crdt`.

A document has four parts, each of which is there when somebody has used it:

    map       text keys to JSON; of two values for one key either stays
    set       texts; one that is added and removed at the same time stays
    counter   the sum of what everybody added
    text      characters, in an order that respects everybody's insertions

An entry's only version holds the whole document as an update of Yjs; its context names the edits that are in it. Where
one context includes the other the document does too, so that documents have to be put together only after edits that
did not know of each other.

Deleting a document takes out all that is in it; an edit that was made at the same time stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from dwcp.errors import ProtocolError, UsageError
from dwcp.sync.entry import Context, Entry, Kind, Version, joined

if TYPE_CHECKING:
    from pycrdt import Doc
    from pycrdt import Map as YMap
    from pycrdt import Text as YText

MISSING = "documents need pycrdt: pip install 'dwcp[crdt]'"
MAX_EDITS = 1000
"""In one write."""
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=512)]


class SetKey(Struct, tag="set-key", tag_field="edit", forbid_unknown_fields=True):
    """map: the key has this value from now on."""

    key: Name
    value: Any


class RemoveKey(Struct, tag="remove-key", tag_field="edit", forbid_unknown_fields=True):
    """map: the key is gone."""

    key: Name


class Add(Struct, tag="add", tag_field="edit", forbid_unknown_fields=True):
    """set: the member is in it."""

    member: Name


class Remove(Struct, tag="remove", tag_field="edit", forbid_unknown_fields=True):
    """set: the member is not in it."""

    member: Name


class Increment(Struct, tag="increment", tag_field="edit", forbid_unknown_fields=True):
    """counter: so much more, or less."""

    by: Annotated[int, Meta(ge=-(2**53), le=2**53)]


class Insert(Struct, tag="insert", tag_field="edit", forbid_unknown_fields=True):
    """text: before the character with this number, counted from 0; at the end where it is as long as the text."""

    at: Annotated[int, Meta(ge=0)]
    text: str


class Cut(Struct, tag="cut", tag_field="edit", forbid_unknown_fields=True):
    """text: so many characters from there on are gone."""

    at: Annotated[int, Meta(ge=0)]
    count: Annotated[int, Meta(ge=1)]


Edit: TypeAlias = SetKey | RemoveKey | Add | Remove | Increment | Insert | Cut
EDITS: tuple[type[Struct], ...] = get_args(Edit)
_EDITS: msgspec.json.Decoder[list[Edit]] = msgspec.json.Decoder(
    # to JSON 1.0 is an integer too
    Annotated[list[Edit], Meta(min_length=1, max_length=MAX_EDITS)],
    strict=False,
)


def decode_edits(data: bytes) -> list[Edit]:
    """From a JSON list of objects with `edit` and what it needs. Raises UsageError."""
    try:
        return _EDITS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"these are no edits of a document: {error}") from error


def available() -> bool:
    return find_spec("pycrdt") is not None


def write(key: str, before: Entry | None, edits: list[Edit], client: int, origin: bytes, stamp: int) -> Entry:
    """The document with the edits made. `client`: a number by which Yjs tells writers apart; two that edit without
    knowing of each other must not share one. Raises UsageError for an edit that cannot be made, or without
    pycrdt; ProtocolError where what is there is no document."""
    with _guarded(key):
        parts = _Parts(before.newest.value if before else b"", client)
        with parts.doc.transaction():
            for edit in edits:
                parts.make(edit)
        return _entry(key, parts, {**(dict(before.context) if before else {}), origin: stamp})


def clear(key: str, before: Entry, client: int, origin: bytes, stamp: int) -> Entry:
    """The document with nothing in it. Raises as `write`."""
    with _guarded(key):
        parts = _Parts(before.newest.value, client)
        parts.clear()
        return _entry(key, parts, {**dict(before.context), origin: stamp})


def merge(one: Entry, other: Entry) -> Entry:
    """Raises ProtocolError for what is no document, UsageError without pycrdt where it is needed."""
    ours, theirs = dict(one.context), dict(other.context)
    if _includes(ours, theirs):
        return one
    if _includes(theirs, ours):
        return other
    with _guarded(one.key):
        parts = _Parts(one.newest.value, 0)
        parts.take(other.newest.value)
        return _entry(one.key, parts, joined(one, other))


def content(entry: Entry) -> dict[str, Any]:
    """By part: map, set (sorted), counter, text; only those in use. Raises as `merge`."""
    with _guarded(entry.key):
        return _Parts(entry.newest.value, 0).content()


def _includes(one: Mapping[bytes, int], other: Mapping[bytes, int]) -> bool:
    return all(one.get(origin, 0) >= stamp for origin, stamp in other.items())


def _entry(key: str, parts: _Parts, context: Context) -> Entry:
    origin, stamp = max(context.items(), key=lambda item: (item[1], item[0]))
    version = Version(origin, stamp, parts.doc.get_update(), deleted=not parts.content())
    return Entry(key, Kind.CRDT, (version,), tuple(sorted(context.items())))


class _Parts:
    """A document opened. Values are JSON texts, so that numbers stay what they were; the counter is a map from writers
    to what each has added."""

    def __init__(self, update: bytes, client: int) -> None:
        """Raises ValueError for what is no update."""
        from pycrdt import Doc, Map, Text

        self.doc: Doc[Any] = Doc(client_id=client) if client else Doc()
        self._client = str(client)
        if update:
            self.doc.apply_update(update)
        self._map: YMap[Any] = self.doc.get("map", type=Map)
        self._set: YMap[Any] = self.doc.get("set", type=Map)
        self._counter: YMap[Any] = self.doc.get("counter", type=Map)
        self._text: YText = self.doc.get("text", type=Text)

    def take(self, update: bytes) -> None:
        self.doc.apply_update(update)

    def make(self, edit: Edit) -> None:
        match edit:
            case SetKey(key=key, value=value):
                self._map[key] = msgspec.json.encode(value).decode()
            case RemoveKey(key=key):
                if key in self._map:
                    del self._map[key]
            case Add(member=member):
                self._set[member] = "true"
            case Remove(member=member):
                if member in self._set:
                    del self._set[member]
            case Increment(by=by):
                self._counter[self._client] = str(_number(self._counter.get(self._client, "0")) + by)
            case Insert(at=at, text=text):
                self._text.insert(self._offset(at), text)
            case Cut(at=at, count=count):
                del self._text[self._offset(at) : self._offset(at + count)]

    def _offset(self, at: int) -> int:
        """Of a character in UTF-8, by which pycrdt counts. Raises UsageError."""
        text = str(self._text)
        if at > len(text):
            raise UsageError(f"the text has {len(text)} characters, and none at {at}")
        return len(text[:at].encode())

    def clear(self) -> None:
        with self.doc.transaction():
            for part in (self._map, self._set, self._counter):
                for name in list(part.keys()):
                    del part[name]
            if len(self._text):
                del self._text[:]

    def content(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "map": {name: msgspec.json.decode(str(self._map[name])) for name in sorted(self._map.keys())},
            "set": sorted(self._set.keys()),
        }
        if len(self._counter):
            parts["counter"] = sum(_number(added) for added in self._counter.values())
        parts["text"] = str(self._text)
        return {name: part for name, part in parts.items() if part or name == "counter"}


def _number(text: Any) -> int:
    """Raises ValueError. Python refuses more digits than anybody counts to."""
    return int(str(text))


@contextmanager
def _guarded(key: str) -> Iterator[None]:
    """What a document of somebody's makes pycrdt or its Rust say, as ProtocolError."""
    try:
        yield
    except ImportError as error:
        raise UsageError(f"{key!r}: {MISSING}") from error
    except (UsageError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of its Rust is no Exception
        raise ProtocolError(f"{key!r} is no document: {error}") from error
