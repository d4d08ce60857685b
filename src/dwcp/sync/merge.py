"""Two states of one key become one: commutative, associative and idempotent, whatever their kinds."""

from __future__ import annotations

from dwcp.sync import crdt, lww, mvcc
from dwcp.sync.entry import Entry, Kind

_MERGES = {Kind.LWW: lww.merge, Kind.MVCC: mvcc.merge, Kind.CRDT: crdt.merge}


def merge(one: Entry, other: Entry) -> Entry:
    """Of different kinds the greater one, so that nodes with different settings agree too. Raises ProtocolError and
    UsageError as `crdt.merge`."""
    if one.kind is not other.kind:
        return max(one, other, key=lambda entry: entry.kind)
    return _MERGES[one.kind](one, other)
