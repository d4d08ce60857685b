"""What nodes know of each other, without a network: updates merged per second on one core, and bytes of rounds.

An update comes as a peer sends it: its message is decoded, checked, merged, and noted in the digest. The goal is for
entries of 100 bytes, the last writer of which wins; others are shown beside it, and what committing them to the disk
adds. A round between two nodes that differ in 1% of 10,000 keys may cost twice the bytes of what has changed.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Row, finish
from dwcp.store.sync import SyncStore
from dwcp.sync import messages as m
from dwcp.sync import mvcc
from dwcp.sync.entry import Entry, Kind, Version, encode
from dwcp.sync.replica import Replica
from dwcp.sync.rounds import Round, answer

KEYS = 10_000
UPDATES = int(os.environ.get("BENCH_UPDATES", 100_000))
GOAL = 20_000.0
BATCH = 200
WALL = 1.8e9
VALUE = 100
CHANGED = KEYS // 100


def main() -> int:
    rng = random.Random(1)
    lww = _batches(rng, lambda key, version, before: Entry(key, Kind.LWW, (version,)))
    rate = _merge(lww)
    versions = _merge(_batches(rng, _version))
    with tempfile.TemporaryDirectory(prefix="dwcp-bench-") as name:
        store = SyncStore(Path(name))
        durable = _merge(
            lww, lambda replica: store.save(replica.take_changes(), replica.clock.last, WALL, history=False)
        )
        store.close()
    idle, round_bytes, entry_bytes = _round(rng)
    rows = [
        Row("updates merged, one core", "goal", "1/s", rate, GOAL, 1.0),
        Row(f"round, {CHANGED} of {KEYS} changed", "bytes of these", "B", round_bytes, entry_bytes, 0.5, True),
    ]
    notes = [
        f"{UPDATES} updates of {KEYS} keys, {VALUE} bytes each: lww {rate:.0f}/s, mvcc {versions:.0f}/s, lww and "
        f"committed to this disk in batches of {BATCH} {durable:.0f}/s",
        f"an idle round {idle} bytes, before frames and TLS; a round after {CHANGED} changes {round_bytes} bytes, "
        f"{(round_bytes - entry_bytes) / CHANGED:.0f} for each entry beside itself",
    ]
    return finish("sync", rows, notes)


def _batches(rng: random.Random, make: Callable[[str, Version, Entry | None], Entry]) -> list[bytes]:
    """Messages with later and later versions of keys by chance, from a few nodes."""
    stamps = [int(WALL * 1000) << 16]
    before: dict[str, Entry] = {}
    batches = []
    for _ in range(UPDATES // BATCH):
        entries = []
        for _ in range(BATCH):
            stamps[0] += 1
            key = f"app/inventory/{rng.randrange(KEYS):06d}"
            version = Version(bytes([rng.randrange(1, 50)] * 8), stamps[0], rng.randbytes(VALUE))
            before[key] = make(key, version, before.get(key))
            entries.append(before[key])
        batches.append(m.encode(m.Give(tuple(entries))))
    return batches


def _version(key: str, version: Version, before: Entry | None) -> Entry:
    return mvcc.write(key, before, version, [known.dot for known in before.versions] if before else [])


def _merge(batches: list[bytes], after: Callable[[Replica], object] = lambda replica: None) -> float:
    """Updates per second of processor time, or of time where something waits for the disk."""
    replica = _replica(0)
    began = time.perf_counter()
    for batch in batches:
        answered = answer(replica, m.decode_request(batch), WALL, 1.0)
        assert answered.message == m.Taken()
        after(replica)
    return UPDATES / (time.perf_counter() - began)


def _replica(number: int) -> Replica:
    return Replica(bytes([200 + number] * 8), max_skew=30.0, rng=random.Random(number))


def _round(rng: random.Random) -> tuple[int, int, int]:
    """Bytes of (an idle round, a round after changes, what has changed)."""
    ours, theirs = _replica(0), _replica(1)
    for number in range(KEYS):
        ours.accept(ours.propose(f"app/inventory/{number:06d}", rng.randbytes(VALUE), Kind.LWW, WALL), 1.0)
    _exchange(ours, theirs)
    idle = _exchange(ours, theirs)
    size = 0
    for number in rng.sample(range(KEYS), CHANGED):
        entry = theirs.propose(f"app/inventory/{number:06d}", rng.randbytes(VALUE), Kind.LWW, WALL + 1)
        theirs.accept(entry, 1.0)
        size += len(encode(entry))
    return idle, _exchange(ours, theirs), size


def _exchange(ours: Replica, theirs: Replica) -> int:
    round_ = Round(ours)
    request: m.Request | None = round_.begin(WALL + 1, 1.0)
    size = 0
    while request is not None:
        asked = m.encode(request)
        said = m.encode(answer(theirs, m.decode_request(asked), WALL + 1, 1.0).message)
        size += len(asked) + len(said)
        request = round_.receive(m.decode_answer(said), WALL + 1, 1.0)
    return size


if __name__ == "__main__":
    sys.exit(main())
