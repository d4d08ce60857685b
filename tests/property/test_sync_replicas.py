"""Replicas through any history of writes, exchanges, restarts, clocks and deletions: all end with the same, and with
what was written last; nothing that was deleted comes back."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dwcp.errors import NotFoundError, RefusedError
from dwcp.sync.entry import Dot, Entry, Kind, Version
from tests.cluster import Cluster

COUNT = 4
KEYS = [f"app/{name}" for name in "abc"]
replicas = st.integers(0, COUNT - 1)
keys = st.sampled_from(KEYS)


class Histories(RuleBasedStateMachine):
    kind = Kind.LWW

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(COUNT, skew=20.0)
        self.written: dict[str, list[Version]] = {key: [] for key in KEYS}
        self.replaced: dict[str, set[Dot]] = {key: set() for key in KEYS}

    @rule(at=replicas, key=keys, lifetime=st.none() | st.floats(1, 200), passed=st.floats(0, 5))
    def put(self, at: int, key: str, lifetime: float | None, passed: float) -> None:
        self.cluster.now += passed
        before = self.cluster.members[at].replica.state(key)
        replaces = [version.dot for version in before.versions] if before else []
        value = f"{self.cluster.now}".encode()
        self._wrote(key, self.cluster.put(at, key, value, self.kind, lifetime=lifetime, replaces=replaces), replaces)

    @rule(at=replicas, key=keys)
    def put_beside(self, at: int, key: str) -> None:
        """As one that knows of nothing that is there."""
        try:
            self._wrote(key, self.cluster.put(at, key, b"beside", self.kind, replaces=[]), [])
        except RefusedError:
            return

    @rule(at=replicas, key=keys)
    def delete(self, at: int, key: str) -> None:
        before = self.cluster.members[at].replica.state(key)
        replaces = [version.dot for version in before.versions] if before else []
        try:
            self._wrote(key, self.cluster.delete(at, key, replaces=replaces), replaces)
        except NotFoundError:
            return

    def _wrote(self, key: str, entry: Entry, replaces: list[Dot]) -> None:
        self.written[key].append(max(entry.versions, key=lambda version: version.stamp))
        self.replaced[key].update(replaces)

    @rule(one=replicas, other=replicas)
    def exchange(self, one: int, other: int) -> None:
        if one != other:
            self.cluster.exchange(one, other)

    @rule(at=replicas, skew=st.none() | st.floats(-29, 29))
    def restart(self, at: int, skew: float | None) -> None:
        """Some machines come up with another time, maybe one that has been already."""
        self.cluster.restart(at)
        if skew is not None:
            self.cluster.members[at].skew = skew

    @rule(at=replicas, skew=st.floats(-29, 29))
    def set_clock(self, at: int, skew: float) -> None:
        self.cluster.members[at].skew = skew

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.cluster.now += seconds
        for number in range(COUNT):
            self.cluster.tick(number)

    @rule()
    def meet(self) -> None:
        """So that tombstones are collected in the middle of histories too."""
        for _ in range(3):
            self.cluster.now += 1
            for number in range(COUNT):
                self.cluster.exchange(number, (number + 1) % COUNT)
                self.cluster.tick(number)

    @invariant()
    def counts_are_right(self) -> None:
        for member in self.cluster.members:
            assert member.replica.digest.count == len(member.replica)
            assert set(member.disk) == set(member.replica.keys())

    def teardown(self) -> None:
        cluster = self.cluster
        for number, member in enumerate(cluster.members):
            member.skew = 0.0
            cluster.tick(number)
        # until everybody has everything, what everybody knows to be gone too
        for _ in range(3):
            cluster.now += 250.0
            for number in range(COUNT):
                cluster.tick(number)
            for one in range(COUNT):
                for other in range(COUNT):
                    if one != other:
                        cluster.exchange(one, other)
        for _ in range(4):
            for number in range(COUNT):
                cluster.tick(number)
            for number in range(COUNT):
                cluster.exchange(number, (number + 1) % COUNT)
        assert cluster.converged()
        for key in KEYS:
            for number, member in enumerate(cluster.members):
                entry = member.replica.get(key, cluster.wall(number))
                assert self._now(entry) == self._expected(key, cluster.wall(number)), key
        assert not any(member.replica.tombstones for member in cluster.members), "all are collected in the end"

    def _now(self, entry: Entry | None) -> Any:
        return sorted(version.dot for version in entry.live) if entry else []

    def _expected(self, key: str, wall: float) -> Any:
        """Without any protocol: the newest of all writes, or those that nobody replaced."""
        left = [version for version in self.written[key] if version.dot not in self.replaced[key]]
        if self.kind is Kind.LWW:
            left = [max(self.written[key], key=lambda it: (it.stamp, it.origin))] if self.written[key] else []
        return sorted(it.dot for it in left if not it.deleted and not 0 < it.expires <= wall * 1000)


class Versions(Histories):
    kind = Kind.MVCC


TestLastWriterWins = Histories.TestCase
TestVersions = Versions.TestCase
for case in (TestLastWriterWins, TestVersions):
    case.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
del case  # or pytest takes it for one more
