"""Replicas that exchange what they have in memory, each with clocks of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dwcp.sync import messages as m
from dwcp.sync.entry import Entry, Kind
from dwcp.sync.replica import Replica
from dwcp.sync.rounds import Round, answer

EPOCH = 1.8e9


@dataclass
class Exchange:
    requests: int
    bytes: int
    round: Round


@dataclass
class Member:
    replica: Replica
    skew: float
    """Seconds by which its wall clock is ahead of the true time."""
    offset: float
    """Of its monotonic clock."""
    marks: dict[bytes, int] = field(default_factory=dict)
    disk: dict[str, Entry] = field(default_factory=dict)
    disk_clock: int = 0


class Cluster:
    """`now` is the true time in seconds since the beginning."""

    def __init__(self, count: int, seed: int = 0, *, max_skew: float = 60.0, skew: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.max_skew = max_skew
        self.ids = [bytes([number >> 8, number & 255]) + b"\x01" * 6 for number in range(count)]
        self.members = [
            Member(self._replica(number), self.rng.uniform(-skew, skew), 1000.0 * (number + 1))
            for number in range(count)
        ]

    def _replica(self, number: int) -> Replica:
        replica = Replica(self.ids[number], max_skew=self.max_skew, rng=random.Random(self.rng.random()))
        replica.members = frozenset(self.ids) - {self.ids[number]}
        return replica

    def wall(self, number: int) -> float:
        return EPOCH + self.now + self.members[number].skew

    def clock(self, number: int) -> float:
        return self.members[number].offset + self.now

    def put(self, number: int, key: str, value: bytes, kind: Kind = Kind.LWW, **options: object) -> Entry:
        replica = self.members[number].replica
        entry = replica.propose(key, value, kind, self.wall(number), **options)  # type: ignore[arg-type]
        return self.accept(number, entry)

    def accept(self, number: int, entry: Entry) -> Entry:
        self.members[number].replica.accept(entry, self.clock(number))
        self.save(number)
        return entry

    def delete(self, number: int, key: str, **options: object) -> Entry:
        replica = self.members[number].replica
        return self.accept(number, replica.propose_deletion(key, self.wall(number), **options))  # type: ignore[arg-type]

    def save(self, number: int) -> None:
        member = self.members[number]
        changes = member.replica.take_changes()
        if changes:
            member.disk_clock = member.replica.clock.last
        for key, entry in changes.items():
            if entry is None:
                member.disk.pop(key, None)
            else:
                member.disk[key] = entry

    def restart(self, number: int) -> None:
        """It knows what is on its disk, and no more."""
        member = self.members[number]
        member.replica = self._replica(number)
        member.replica.load(member.disk.values(), member.disk_clock, self.clock(number))
        member.marks.clear()
        for other in self.members:
            other.marks.pop(self.ids[number], None)

    def tick(self, number: int) -> None:
        self.members[number].replica.tick(self.wall(number), self.clock(number))
        self.save(number)

    def exchange(self, one: int, other: int) -> Exchange:
        """`one` begins; a thousandth of a second for each message."""
        a, b = self.members[one], self.members[other]
        round_ = Round(a.replica, a.marks.get(self.ids[other], 0))
        request: m.Request | None = round_.begin(self.wall(one), self.clock(one))
        requests = size = 0
        while request is not None:
            raw = m.encode(request)
            self.now += 0.001
            said = answer(b.replica, m.decode_request(raw), self.wall(other), self.clock(other))
            self.save(other)
            if said.learned is not None:
                b.replica.views.learn(*said.learned)
            reply = m.encode(said.message)
            assert max(len(raw), len(reply)) <= m.MAX_MESSAGE
            self.now += 0.001
            requests, size = requests + 1, size + len(raw) + len(reply)
            request = round_.receive(m.decode_answer(reply), self.wall(one), self.clock(one))
        self.save(one)
        if round_.learned is not None:
            a.replica.views.learn(*round_.learned)
        a.marks[self.ids[other]] = round_.mark
        return Exchange(requests, size, round_)

    def converged(self) -> bool:
        return len({member.replica.digest.root for member in self.members}) == 1

    def settle(self) -> None:
        """Everybody with everybody until all have the same."""
        count = len(self.members)
        for _ in range(4):
            for number in range(1, count):
                self.exchange(number, 0)
            for number in range(1, count):
                self.exchange(0, number)
            if self.converged():
                return
        raise AssertionError("the replicas do not become the same")
