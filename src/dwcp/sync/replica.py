"""All entries of one node: what is written here, what comes from others, what expires, what is forgotten.

Nothing here asks a clock: `wall` is seconds since the epoch, `now` monotonic seconds. `take_changes` tells what has to
be made durable, with `clock.last` of then; what was heard of others may be told on only once it is (`rounds`).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from dwcp.errors import DwcpError, NotFoundError, RefusedError, UsageError
from dwcp.sync import crdt, lww, mvcc
from dwcp.sync.clock import HybridClock, seconds_of
from dwcp.sync.crdt import Edit
from dwcp.sync.digest import Digest
from dwcp.sync.entry import (
    MAX_ENTRY,
    MAX_VALUE,
    MAX_VERSIONS,
    MAX_WRITERS,
    Dot,
    Entry,
    Kind,
    Version,
    check,
    expired,
    fingerprint,
    owner_of,
    size,
)
from dwcp.sync.merge import merge
from dwcp.sync.views import Views

MAX_COUNT = 100_000
"""Entries, tombstones included: some 100 MB of memory with short values."""
MAX_TOTAL = 64 * 2**20
"""Bytes of all entries together."""
MAX_COLLECTED = 100_000
REMEMBERED = 3600.0
"""Seconds for which a tombstone that was collected here is not taken back from those who have not done so yet."""
MAX_CLIENTS = 10_000


@dataclass(slots=True)
class Refusals:
    """What was not taken in: entries since the start, by reason, and the newest words."""

    counts: dict[str, int] = field(default_factory=dict)
    newest: str = ""

    def add(self, why: str, words: str) -> None:
        self.counts[why] = self.counts.get(why, 0) + 1
        self.newest = words


class Replica:
    def __init__(self, node: bytes, *, max_skew: float, rng: random.Random) -> None:
        """`node`: the id of this one, `entry.ID_SIZE` bytes."""
        self.node = node
        self.clock = HybridClock(max_skew)
        self.digest = Digest()
        self.views = Views(node)
        self.refusals = Refusals()
        self.rng = rng
        self.members: frozenset[bytes] = frozenset()
        """Ids of all peers that take part."""
        self.all_met = True
        """No peer is to take part whose id is not known yet: without it no tombstone is collected."""
        self.bytes = 0
        """Of all entries together."""
        self._entries: dict[str, Entry] = {}
        self._prints: dict[str, int] = {}
        self._tombstones: dict[str, float] = {}
        """By key, since when it is here: monotonic seconds."""
        self._expiries: list[tuple[int, str]] = []
        """A heap; an item whose entry has changed since means nothing."""
        self._collected: dict[int, float] = {}
        """By fingerprint, oldest first."""
        self._clients: dict[str, int] = {}
        """Yjs's number for this replica in each document that it has edited since it was begun."""
        self._changed: dict[str, Entry | None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def tombstones(self) -> int:
        return len(self._tombstones)

    def load(self, entries: Iterable[Entry], last: int, now: float) -> None:
        """What was kept from an earlier run, and `clock.last` of then: our own stamps are later, though the wall clock
        may have been set back meanwhile. The entries alone do not tell: what was deleted is forgotten, but others may
        have the tombstone still, or remember not to take it back. To them a write with its stamp, or an older one, is
        over already."""
        self.clock.observe(last)
        for entry in entries:
            self._put(entry, now)
            self._observe(entry)
        self._changed.clear()

    def get(self, key: str, wall: float) -> Entry | None:
        """As it is now; None where there is nothing, or not any more."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry = expired(entry, wall)
        return None if entry.deleted else entry

    def keys(self, prefix: str = "") -> list[str]:
        """Sorted; those of tombstones too."""
        return sorted(key for key in self._entries if key.startswith(prefix))

    def state(self, key: str) -> Entry | None:
        """As it is kept, tombstones included."""
        return self._entries.get(key)

    def states(self) -> Iterator[tuple[str, Entry]]:
        """All that is kept."""
        yield from self._entries.items()

    def take_changes(self) -> dict[str, Entry | None]:
        """What has changed since the last call, by key; None for what was forgotten."""
        changed, self._changed = self._changed, {}
        return changed

    # -- writes of this node -------------------------------------------------------------------------------------------

    def propose(
        self,
        key: str,
        value: bytes,
        kind: Kind,
        wall: float,
        *,
        lifetime: float | None = None,
        replaces: Collection[Dot] | None = None,
    ) -> Entry:
        """The entry with that value, for `accept`. A key that is there keeps its kind. `lifetime` in seconds.
        `replaces`: the versions that the writer knows of; without, the one that is here, and RefusedError where there
        are several.

        Raises UsageError for what cannot be written so, RefusedError.
        """
        if len(value) > MAX_VALUE:
            raise UsageError(f"the value of {key!r} has {len(value)} bytes; at most {MAX_VALUE} are kept")
        before = self._own(key)
        if before is not None:
            kind = before.kind
        if kind is Kind.CRDT:
            raise UsageError(f"{key!r} is a document (crdt): it is edited, and not replaced")
        expires = int((wall + lifetime) * 1000) if lifetime is not None else 0
        version = Version(self.node, self.clock.stamp(wall), value, expires=expires)
        return self._version(key, kind, before, version, replaces)

    def propose_deletion(self, key: str, wall: float, *, replaces: Collection[Dot] | None = None) -> Entry:
        """Raises NotFoundError, and as `propose`."""
        before = self._own(key)
        if before is None or self.get(key, wall) is None:
            raise NotFoundError(f"nothing is at {key!r}")
        stamp = self.clock.stamp(wall)
        if before.kind is Kind.CRDT:
            return self._with_room(crdt.clear(key, before, self._client(key), self.node, stamp))
        return self._version(key, before.kind, before, Version(self.node, stamp, b"", deleted=True), replaces)

    def propose_edits(self, key: str, edits: list[Edit], wall: float) -> Entry:
        """The document with the edits made; a new one where there is none. Raises UsageError, RefusedError."""
        before = self._own(key)
        if before is not None and before.kind is not Kind.CRDT:
            raise UsageError(f"{key!r} is no document: it is replaced, and not edited")
        entry = crdt.write(key, before, edits, self._client(key), self.node, self.clock.stamp(wall))
        if size(entry) > MAX_ENTRY:
            raise UsageError(f"{key!r} would have {size(entry)} bytes; a document has at most {MAX_ENTRY}")
        return self._with_room(entry)

    def accept(self, entry: Entry, now: float) -> None:
        """What was proposed counts, if nothing else was done to the replica meanwhile."""
        self._put(entry, now)

    def _with_room(self, entry: Entry) -> Entry:
        full = self._full(entry)
        if full:
            raise RefusedError(full)
        return entry

    def _own(self, key: str) -> Entry | None:
        """What is at a key that this node may write. Raises UsageError, RefusedError."""
        if owner_of(key) not in (None, self.node):
            raise RefusedError(f"{key!r} is of another node, which alone writes it; applications have app/NAME")
        return self._entries.get(key)

    def _version(
        self, key: str, kind: Kind, before: Entry | None, version: Version, replaces: Collection[Dot] | None
    ) -> Entry:
        if kind is Kind.LWW:
            return self._with_room(lww.write(key, version))
        if replaces is None:
            if before is not None and len(before.live) > 1:
                raise RefusedError(f"{key!r} has {len(before.live)} versions; name those that this one replaces")
            replaces = [] if before is None else [known.dot for known in before.versions]
        return self._with_room(mvcc.write(key, before, version, replaces))

    def _client(self, key: str) -> int:
        """Never one that this replica had before it lost the document, or was restarted: Yjs counts a writer's edits,
        and would take others with the same numbers for those that it knows."""
        if key not in self._clients:
            if len(self._clients) >= MAX_CLIENTS:
                self._clients.clear()
            self._clients[key] = self.rng.randrange(1, 2**32)
        return self._clients[key]

    # -- what comes from others ----------------------------------------------------------------------------------------

    def take(self, entry: Entry, wall: float, now: float) -> str:
        """Merges what another node has. Why it was not taken in; empty where all is well."""
        known = self._prints.get(entry.key)
        found = fingerprint(entry)
        if found == known or found in self._collected:
            return ""
        ahead = self._ahead(entry, wall)
        if ahead:
            self.refusals.add("clock", ahead)
            return ahead
        try:
            check(entry)
            if owner_of(entry.key) == self.node:
                return self._restate(entry, wall, now)
            before = self._entries.get(entry.key)
            merged = entry if before is None else merge(before, entry)
        except DwcpError as error:
            self.refusals.add(error.code, str(error))
            return str(error)
        self._observe(entry)
        if merged is before:
            return ""
        full = self._full(merged)
        if full:
            self.refusals.add("full", full)
            return full
        self._put(expired(merged, wall), now)
        return ""

    def _ahead(self, entry: Entry, wall: float) -> str:
        newest = max([version.stamp for version in entry.versions] + [stamp for _, stamp in entry.context])
        if self.clock.accepts(newest, wall):
            return ""
        return (
            f"{entry.key!r} is dated {seconds_of(newest) - wall:.1f} s ahead of this node's clock, and "
            f"{self.clock.max_skew:g} s are allowed (sync.max_clock_skew); set the clock of "
            f"{entry.newest.origin.hex()}, or of this node"
        )

    def _restate(self, entry: Entry, wall: float, now: float) -> str:
        """Somebody has a state of our own key that we did not write, or have lost: what we say is later."""
        self._observe(entry)
        before = self._entries.get(entry.key)
        if before is not None and merge(before, entry) is before:
            return ""
        stamp = self.clock.stamp(wall)
        said = before.newest if before is not None else Version(self.node, stamp, b"", deleted=True)
        self._put(lww.write(entry.key, Version(self.node, stamp, said.value, said.deleted, said.expires)), now)
        return ""

    def _observe(self, entry: Entry) -> None:
        for version in entry.versions:
            self.clock.observe(version.stamp)
        for _, stamp in entry.context:
            self.clock.observe(stamp)

    def _full(self, entry: Entry) -> str:
        before = self._entries.get(entry.key)
        if size(entry) > MAX_ENTRY or len(entry.versions) > MAX_VERSIONS:
            return f"{entry.key!r} has {len(entry.versions)} versions of {size(entry)} bytes together; resolve them"
        if len(entry.context) > MAX_WRITERS:
            return f"{entry.key!r} was written by more than {MAX_WRITERS} nodes; delete it, and take another key"
        if before is None and len(self._entries) >= MAX_COUNT:
            return f"there are {MAX_COUNT} entries already, and no room for {entry.key!r}"
        if self.bytes + size(entry) - (size(before) if before else 0) > MAX_TOTAL:
            return f"the entries have {self.bytes} bytes already, and no room for {entry.key!r}"
        return ""

    # -- time ----------------------------------------------------------------------------------------------------------

    def tick(self, wall: float, now: float) -> None:
        """Lets expire what is over, and forgets the tombstones that everybody has."""
        while self._expiries and self._expiries[0][0] <= wall * 1000:
            _, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is not None and (over := expired(entry, wall)) is not entry:
                self._put(over, now)
        self.views.forget(self.members, now)
        stable = self.views.stable(self.members) if self.all_met else None
        if self._tombstones and (stable is not None or not (self.members or self.views.known())):
            moment = now if stable is None else stable
            for key in [key for key, since in self._tombstones.items() if since < moment]:
                self._forget(key, now)
        while self._collected and now - self._collected[oldest := next(iter(self._collected))] > REMEMBERED:
            del self._collected[oldest]

    # -- the table -----------------------------------------------------------------------------------------------------

    def _put(self, entry: Entry, now: float) -> None:
        key = entry.key
        self._take_out(key)
        found = fingerprint(entry)
        self._entries[key] = entry
        self._prints[key] = found
        self.digest.add(key, found)
        self.bytes += size(entry)
        self._changed[key] = entry
        if entry.deleted:
            self._tombstones[key] = now
        else:
            self._tombstones.pop(key, None)
            for version in entry.versions:
                if version.expires and not version.deleted:
                    heapq.heappush(self._expiries, (version.expires, key))
            if len(self._expiries) > 2 * len(self._entries) + 1000:
                self._expiries = [item for item in self._expiries if self._waits(*item)]
                heapq.heapify(self._expiries)

    def _waits(self, expires: int, key: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and any(version.expires == expires for version in entry.live)

    def _take_out(self, key: str) -> None:
        before = self._entries.pop(key, None)
        if before is not None:
            self.digest.remove(key, self._prints.pop(key))
            self.bytes -= size(before)

    def _forget(self, key: str, now: float) -> None:
        found = self._prints[key]
        self._take_out(key)
        del self._tombstones[key]
        self._clients.pop(key, None)
        if len(self._collected) >= MAX_COLLECTED:
            del self._collected[next(iter(self._collected))]
        self._collected[found] = now
        self._changed[key] = None

    # -- what rounds need ----------------------------------------------------------------------------------------------

    def fingerprint_of(self, key: str) -> int | None:
        return self._prints.get(key)

    def collected(self) -> Collection[int]:
        """Fingerprints of what must not be asked for again."""
        return self._collected.keys()
