"""Versions that were written without knowing of each other stay side by side, until a write names those it replaces.

Dotted version vectors (Preguiça, Baquero, Almeida et al., 2012): beside its versions an entry has a context, the newest
stamp of each node that it has taken in. A version that one side lacks was replaced there if that side's context knows
it, and is new to it otherwise.
"""

from __future__ import annotations

from collections.abc import Collection

from dwcp.sync.entry import Context, Dot, Entry, Kind, Version, in_order, joined, same_dot


def write(key: str, before: Entry | None, version: Version, replaced: Collection[Dot]) -> Entry:
    """`version` in place of those with the dots `replaced`, beside all others. Its stamp is greater than all that its
    node gave out before."""
    kept = [other for other in before.versions if other.dot not in replaced] if before else []
    context = dict(before.context) if before else {}
    context[version.origin] = version.stamp
    return _entry(key, [version, *kept], context)


def merge(one: Entry, other: Entry) -> Entry:
    context = joined(one, other)
    ours = {version.dot: version for version in one.versions}
    theirs = {version.dot: version for version in other.versions}
    kept = [same_dot(version, theirs[dot]) for dot, version in ours.items() if dot in theirs]
    kept += [version for dot, version in ours.items() if dot not in theirs and not _knows(other, dot)]
    kept += [version for dot, version in theirs.items() if dot not in ours and not _knows(one, dot)]
    # of honest states something is always left: what was replaced, was replaced by something
    return _entry(one.key, kept or [in_order([*one.versions, *other.versions])[0]], context)


def _knows(entry: Entry, dot: Dot) -> bool:
    origin, stamp = dot
    return dict(entry.context).get(origin, 0) >= stamp


def _entry(key: str, versions: list[Version], context: Context) -> Entry:
    return Entry(key, Kind.MVCC, in_order(versions), tuple(sorted(context.items())))
