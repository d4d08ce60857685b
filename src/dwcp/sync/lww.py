"""The last writer wins: of two versions the one with the greater stamp, and where those are equal the greater id."""

from __future__ import annotations

from dwcp.sync.entry import Entry, Kind, Version, same_dot


def write(key: str, version: Version) -> Entry:
    return Entry(key, Kind.LWW, (version,))


def merge(one: Entry, other: Entry) -> Entry:
    a, b = one.versions[0], other.versions[0]
    if a.stamp != b.stamp:
        return one if a.stamp > b.stamp else other
    if a.origin != b.origin:
        return one if a.origin > b.origin else other
    return one if same_dot(a, b) is a else other
