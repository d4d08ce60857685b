"""What nodes know of each other: read, and for applications written.

Writing needs the token on every listener, loopback included, as what is written goes to all nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dwcp.api.bodies import read_object
from dwcp.api.endpoint import Endpoint, Json, Parameter, obj
from dwcp.errors import UsageError
from dwcp.metrics.view import NodeView
from dwcp.sync import crdt
from dwcp.sync.clock import seconds_of
from dwcp.sync.entry import ID_SIZE, MAX_KEY, MAX_VALUE, Dot, Entry, Kind, Version
from dwcp.transfer.shared_state import SharedState

MAX_BODY = 2 * MAX_VALUE
PAGE = 1000
"""Entries in one answer."""
LONGEST = 10 * 365 * 86400.0
"""Seconds that an entry may be given to live."""


def entry_document(shared: SharedState, entry: Entry, names: Mapping[bytes, str], stale: list[str]) -> dict[str, Any]:
    """`value` where there is one; `versions`, newest first, with the ids by which a write names them."""
    live = entry.live
    versions = [_version_document(entry, version, names) for version in entry.versions]
    return {
        "key": entry.key,
        "kind": entry.kind.name.lower(),
        "value": _value(entry, live[0]) if len(live) == 1 else None,
        "conflict": len(entry.versions) > 1,
        "versions": versions,
        "view_age_seconds": shared.age_of(entry.newest.origin),
        "stale_peers": stale,
    }


def _version_document(entry: Entry, version: Version, names: Mapping[bytes, str]) -> dict[str, Any]:
    return {
        "id": f"{version.stamp:x}-{version.origin.hex()}",
        "node": names.get(version.origin, version.origin.hex()),
        "written_at": seconds_of(version.stamp),
        "expires_at": version.expires / 1000 if version.expires else None,
        "deleted": version.deleted,
        "value": None if version.deleted else _value(entry, version),
    }


def _value(entry: Entry, version: Version) -> Any:
    """Values are JSON; what another program has put there that is none is shown as hexadecimal digits."""
    if entry.kind is Kind.CRDT:
        return crdt.content(entry)
    try:
        return msgspec.json.decode(version.value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"hex": version.value.hex()}


async def _status(view: NodeView, request: Request) -> Response:
    status = asdict(view.sync.status)
    peers = {peer.pop("name"): peer for peer in status.pop("peers")}
    return Json({**status, "peers": peers})


async def _entries(view: NodeView, request: Request) -> Response:
    query = request.query_params
    prefix, after = query.get("prefix", ""), query.get("after", "")

    def find() -> dict[str, Any]:
        shared = view.sync
        entries, more = shared.find(prefix, after, PAGE)
        names, stale = shared.names(), _stale(view)
        return {
            "entries": [entry_document(shared, entry, names, stale) for entry in entries],
            "more": more,
            "stale_peers": stale,
        }

    return Json(await asyncio.to_thread(find))


async def _entry(view: NodeView, request: Request) -> Response:
    return await _shown(view, lambda: view.sync.get(_key(request)))


async def _history(view: NodeView, request: Request) -> Response:
    def find() -> list[dict[str, Any]]:
        shared = view.sync
        names, stale = shared.names(), _stale(view)
        return [
            {"seen_at": past.seen_at, "deleted": past.entry.deleted, **entry_document(shared, past.entry, names, stale)}
            for past in shared.history(_key(request))
        ]

    return Json(await asyncio.to_thread(find))


async def _put(view: NodeView, request: Request) -> Response:
    body = await read_object(request, MAX_BODY)
    unknown = body.keys() - {"value", "expires_in", "replaces"}
    if unknown or "value" not in body:
        raise UsageError("the body has `value`, and may have `expires_in` and `replaces`, and nothing else")
    lifetime = body.get("expires_in")
    if lifetime is not None and not (_is_number(lifetime) and 0 < lifetime <= LONGEST):
        raise UsageError(f"expires_in is a number of seconds, up to {LONGEST:.0f}")
    value = msgspec.json.encode(body["value"])
    replaces = _dots(body.get("replaces"))
    return await _shown(view, lambda: view.sync.put(_key(request), value, lifetime=lifetime, replaces=replaces))


async def _edit(view: NodeView, request: Request) -> Response:
    body = await read_object(request, MAX_BODY)
    if body.keys() != {"edits"}:
        raise UsageError("the body has `edits`, a list, and nothing else")
    edits = crdt.decode_edits(msgspec.json.encode(body["edits"]))
    return await _shown(view, lambda: view.sync.edit(_key(request), edits))


async def _delete(view: NodeView, request: Request) -> Response:
    given = request.query_params.get("replaces")
    replaces = _dots(given.split(",") if given else None)
    await asyncio.to_thread(lambda: view.sync.delete(_key(request), replaces=replaces))
    return Json({"key": _key(request)})


async def _shown(view: NodeView, get: Callable[[], Entry]) -> Response:
    def show() -> dict[str, Any]:
        entry = get()
        return entry_document(view.sync, entry, view.sync.names(), _stale(view))

    return Json(await asyncio.to_thread(show))


def _key(request: Request) -> str:
    key = request.query_params.get("key", "")
    if not key:
        raise UsageError("name the key: ?key=app/NAME")
    return key


def _stale(view: NodeView) -> list[str]:
    return sorted(peer.name for peer in view.sync.status.peers if peer.stale)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dots(ids: object) -> list[Dot] | None:
    """Of versions by their ids. Raises UsageError."""
    if ids is None:
        return None
    dots = []
    for text in ids if isinstance(ids, list) else [ids]:
        stamp, dash, origin = str(text).partition("-")
        try:
            dot = (bytes.fromhex(origin), int(stamp, 16))
        except ValueError:
            dash = ""
        if not dash or len(dot[0]) != ID_SIZE:
            raise UsageError(f"{str(text)[:80]!r} is no version; GET shows the ids of those that there are")
        dots.append(dot)
    return dots


_OR_NULL = {"type": ["number", "null"]}
_NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}
_NAMES = {"type": "array", "items": {"type": "string"}}
_VERSION = obj(id="string", node="string", written_at="number", expires_at=_OR_NULL, deleted="boolean", value={})
_ENTRY = obj(
    key="string",
    kind={"enum": ["lww", "mvcc", "crdt"]},
    value={},
    conflict="boolean",
    versions={"type": "array", "items": _VERSION},
    view_age_seconds=_OR_NULL,
    stale_peers=_NAMES,
)
_PEER = obj(
    id="string",
    age=_OR_NULL,
    stale="boolean",
    takes_part={"type": ["boolean", "null"]},
    clock_offset=_OR_NULL,
    error="string",
)
_STATUS = obj(
    enabled="boolean",
    id="string",
    entries="integer",
    tombstones="integer",
    bytes="integer",
    rounds=_NUMBERS,
    received="integer",
    sent="integer",
    bytes_received="integer",
    bytes_sent="integer",
    refused=_NUMBERS,
    newest_refusal="string",
    clock_ahead="number",
    peers={"type": "object", "additionalProperties": _PEER},
    others=_NUMBERS,
    failure="string",
)
_VERSION_ID = {"type": "string", "pattern": "^[0-9a-f]{1,16}-[0-9a-f]{16}$"}
_WRITTEN = {
    "type": "object",
    "properties": {
        "value": {"description": "Any JSON."},
        "expires_in": {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST, "description": "Seconds."},
        "replaces": {"type": "array", "items": _VERSION_ID, "description": "Versions that this one replaces."},
    },
    "required": ["value"],
    "additionalProperties": False,
}
_EDITED = {
    "type": "object",
    "properties": {
        "edits": {
            "type": "array",
            "items": {"anyOf": [msgspec.json.schema(kind)["$defs"][kind.__name__] for kind in crdt.EDITS]},
            "minItems": 1,
            "maxItems": crdt.MAX_EDITS,
        }
    },
    "required": ["edits"],
    "additionalProperties": False,
}
_KEY = {
    "key": Parameter(
        "app/NAME of an application; NAMESPACE/NODE of what a node says of itself",
        {"type": "string", "pattern": "^[^/]+/.+$", "maxLength": MAX_KEY},
        required=True,
    )
}
_OURS = {"key": Parameter("app/NAME", {"type": "string", "pattern": "^app/.+$", "maxLength": MAX_KEY}, required=True)}
_REPLACES = Parameter(
    "ids of the versions that are meant, with commas; without, the one that is there",
    {"type": "string", "pattern": "^[0-9a-f]{1,16}-[0-9a-f]{16}(,[0-9a-f]{1,16}-[0-9a-f]{16})*$"},
)
_OFF = "synchronisation is not enabled, or the disk cannot be used"
_BAD = "it cannot be meant"
_HELD = "somebody else's, or there is no room, or there are versions that have to be named"

ENDPOINTS = (
    Endpoint("GET", "/sync", _status, "What is known of other nodes, and how old the view of each peer is", _STATUS),
    Endpoint(
        "GET",
        "/sync/entries",
        _entries,
        f"What nodes know, by key: up to {PAGE} entries",
        obj(entries={"type": "array", "items": _ENTRY}, more="boolean", stale_peers=_NAMES),
        {409: _OFF},
        {
            "prefix": Parameter("only keys that begin so, like app/ or node/"),
            "after": Parameter("only keys after this one: the last of the answer before"),
        },
    ),
    Endpoint("GET", "/sync/entry", _entry, "One entry", _ENTRY, {400: _BAD, 404: "nothing is there", 409: _OFF}, _KEY),
    Endpoint(
        "PUT",
        "/sync/entry",
        _put,
        "Write an entry of an application: the body has `value` (any JSON), and may have `expires_in` (seconds) and "
        "`replaces` (ids of the versions that it is written instead of)",
        _ENTRY,
        {400: _BAD, 403: _HELD, 409: _OFF},
        _OURS,
        body=_WRITTEN,
        secret=True,
    ),
    Endpoint(
        "POST",
        "/sync/entry",
        _edit,
        "Edit a document of an application (crdt): the body has `edits`",
        _ENTRY,
        {400: _BAD, 403: _HELD, 409: _OFF},
        _OURS,
        body=_EDITED,
        secret=True,
    ),
    Endpoint(
        "DELETE",
        "/sync/entry",
        _delete,
        "Delete an entry of an application",
        obj(key="string"),
        {400: _BAD, 403: _HELD, 404: "nothing is there", 409: _OFF},
        {**_OURS, "replaces": _REPLACES},
        secret=True,
    ),
    Endpoint(
        "GET",
        "/sync/history",
        _history,
        "What an entry of an application was, newest first, as far as this node saw it (sync.enable_versioning)",
        {"type": "array", "items": _ENTRY},
        {400: _BAD, 404: "nothing is remembered", 409: _OFF},
        _KEY,
    ),
)
