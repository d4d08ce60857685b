"""Many replicas with partitions, restarts and wrong clocks, by a seed."""

from __future__ import annotations

import random

from dwcp.sync.partners import Partners
from tests.cluster import Cluster


def simulate(count: int, entries: int, rounds: int, seed: int) -> tuple[int, float]:
    """`count` nodes of which each exchanges with its partners once a second; half of the time the cluster is cut in
    two or three. (Seconds from the end of the last partition until all had the same, the oldest view then).

    Raises AssertionError where they do not become the same, or not what was written last.
    """
    rng = random.Random(seed)
    cluster = Cluster(count, seed, skew=25.0)
    partners = [Partners(random.Random(rng.random())) for _ in range(count)]
    written: dict[str, tuple[int, bytes, bool]] = {}
    side = [0] * count

    def write(key: str, value: bytes) -> None:
        at = rng.randrange(count)
        gone = rng.random() < 0.05 and cluster.members[at].replica.get(key, cluster.wall(at)) is not None
        entry = cluster.delete(at, key) if gone else cluster.put(at, key, value)
        newest = entry.newest
        written[key] = max(written.get(key, (0, b"", False)), (newest.stamp, newest.origin, newest.deleted))

    def second() -> None:
        for number in rng.sample(range(count), count):
            names = [str(other) for other in range(count) if other != number and side[other] == side[number]]
            for name in partners[number].choose(names):
                cluster.exchange(number, int(name))
            cluster.tick(number)
        cluster.now = float(int(cluster.now) + 1)

    for number in range(entries):
        write(f"app/{number:06d}", b"first")
    for turn in range(rounds):
        if turn % 6 == 0:
            side[:] = [rng.randrange(rng.choice([1, 2, 3])) for _ in range(count)]
        for _ in range(entries // 100):
            write(f"app/{rng.randrange(entries):06d}", f"{turn}".encode())
        if rng.random() < 0.3:
            cluster.restart(rng.randrange(count))
        second()
    expected = {key: (origin, stamp) for key, (stamp, origin, gone) in written.items() if not gone}

    def has_all(number: int) -> bool:
        replica, wall = cluster.members[number].replica, cluster.wall(number)
        return {key: it.newest.dot for key in written if (it := replica.get(key, wall))} == expected

    side[:] = [0] * count
    healed = 0
    while not all(map(has_all, range(count))):
        healed += 1
        assert healed < 60, "they do not become the same"
        second()
    for _ in range(20):
        second()
    assert all(map(has_all, range(count))), "nothing comes back"
    assert cluster.converged(), "tombstones are gone everywhere"
    ages: list[float] = []
    for number, member in enumerate(cluster.members):
        ages += member.replica.views.ages(cluster.clock(number)).values()
    assert len(ages) == count * (count - 1), "everybody has a view of everybody"
    return healed, max(ages)
