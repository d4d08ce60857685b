"""Deltas between versions, beside the tools that people use for that: bytes, and seconds there and back.

    make bench-delta        DWCP_BENCH_PAIRS=DIRECTORY keeps the pairs; BENCH_PAIRS, BENCH_PEERS: parts of names

Everybody gets the same two files, one after the other, with a warm page cache, and starts as a program each time; the
best of BENCH_ROUNDS (1) counts. Goals are ratios of a peer's figure to ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import delta_peers
from bench.delta_peers import Figures
from bench.pairs import CACHE, MIB, PAIRS, Pair, UnavailableError
from bench.plot import Group
from bench.report import Row, finish

ROUNDS = int(os.environ.get("BENCH_ROUNDS", 1))
OURS = "dwcp"
SENT = "dwcp send"
"""The second version by two nodes, where the other is by files."""
LARGE = 256 * MIB
"""Bytes of a new version from which times are compared: below, starting Python is what is measured."""
WITHIN = 1 / 1.02
"""Of the smallest peer's bytes."""
ON_THE_SUM = 1 / 0.9
FASTER_THAN_ZSTD = 8.0
DECODE = 400e6
"""Bytes/s of output."""
INDEX = 0.01
"""Part of the content that may go over the wire where nothing of it is new."""
UNCHANGED = 0.005

Results = dict[str, dict[str, Figures]]


def main() -> int:
    notes: list[str] = []
    peers = [peer for peer in delta_peers.PEERS if _wanted("BENCH_PEERS", peer.name)]
    notes += [f"skipped, not installed: {peer.name}" for peer in peers if peer.missing]
    runs = [
        (OURS, delta_peers.dwcp),
        (SENT, delta_peers.dwcp_send),
        *((peer.name, peer.run) for peer in peers if not peer.missing),
    ]
    results: Results = {}
    pairs: list[Pair] = []
    for pair in PAIRS:
        if not _wanted("BENCH_PAIRS", pair.name):
            continue
        try:
            pair.provide()
        except UnavailableError as error:
            notes.append(f"left out: {error}")
            continue
        pairs.append(pair)
        for name, run in runs:
            for _ in range(ROUNDS):
                _measure(pair, name, run, results.setdefault(pair.name, {}), notes)
    if not pairs:
        print("no pair could be made:", *notes, sep="\n")
        return 2
    return finish("delta", list(_rows(pairs, results)), notes, [_group(pair, results[pair.name]) for pair in pairs])


def _wanted(variable: str, name: str) -> bool:
    parts = [part for part in os.environ.get(variable, "").split(",") if part]
    return not parts or any(part in name for part in parts)


def _measure(pair: Pair, name: str, run: delta_peers.Run, figures: dict[str, Figures], notes: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="dwcp-delta-", dir=CACHE) as scratch:
        try:
            new = run(pair.old, pair.new, Path(scratch))
        except (RuntimeError, subprocess.SubprocessError, OSError) as error:
            if name in (OURS, SENT):
                raise
            notes.append(f"{name} failed on {pair.name}: {error}")
            return
    old = figures.get(name, new)
    decode = None if new.decode is None or old.decode is None else min(new.decode, old.decode)
    figures[name] = Figures(new.size, min(new.encode, old.encode), decode, min(new.cpu, old.cpu))
    back = "" if decode is None else f", back {decode:.2f} s"
    print(f"{pair.name}, {name}: {new.size / 1e6:.3f} MB, {new.encode:.2f} s, cpu {new.cpu:.2f} s{back}", flush=True)


def _group(pair: Pair, figures: dict[str, Figures]) -> Group:
    megabytes = {name: of.size / 1e6 for name, of in figures.items()}
    title = f"{pair.name}, {pair.new.stat().st_size / 1e6:.0f} MB: on the wire"
    return Group(title, "MB", max(*megabytes.values(), 0.001), megabytes)


def _rows(pairs: list[Pair], results: Results) -> Iterator[Row]:
    for pair in pairs:
        figures, size = results[pair.name], pair.new.stat().st_size
        ours, sent = figures[OURS], figures[SENT]
        peers = {name: of for name, of in figures.items() if name not in (OURS, SENT)}
        for name, theirs in peers.items():
            within = WITHIN if theirs.size == min(of.size for of in peers.values()) else None
            yield _inverse(f"{pair.name}: bytes", name, "MB", ours.size / 1e6, theirs.size / 1e6, within)
            yield _inverse(f"{pair.name}: bytes, {SENT}", name, "MB", sent.size / 1e6, theirs.size / 1e6, within)
            is_rsync, large = name.startswith("rsync"), size > LARGE
            goal = FASTER_THAN_ZSTD if large and name.startswith("zstd") else 1.0 if large and is_rsync else None
            yield _inverse(f"{pair.name}: encode", name, "s", ours.encode, theirs.encode, goal)
            if is_rsync:
                yield _inverse(f"{pair.name}: {SENT}", name, "s", sent.encode, theirs.encode, 1.0 if large else None)
            if theirs.decode is not None and ours.decode is not None:
                yield _inverse(f"{pair.name}: decode", name, "s", ours.decode, theirs.decode, None)
        if ours.decode is not None:
            goal = 1.0 if size > LARGE else None
            yield Row(f"{pair.name}: decode", "goal", "MB/s", size / 1e6 / ours.decode, DECODE / 1e6, goal)
        if pair.changed is not None:
            part = UNCHANGED if pair.name == "unchanged" else INDEX
            yield _inverse(
                f"{pair.name}: bytes", "goal", "MB", ours.size / 1e6, (part * size + pair.changed) / 1e6, 1.0
            )
    real = [results[pair.name] for pair in pairs if pair.real]
    everywhere = {name for figures in real for name in figures if all(name in others for others in real)}
    everywhere -= {OURS, SENT}
    if everywhere:
        sums = {name: sum(figures[name].size for figures in real) / 1e6 for name in {*everywhere, OURS}}
        best = min(everywhere, key=sums.__getitem__)
        yield _inverse("sum of the real pairs: bytes", best, "MB", sums[OURS], sums[best], ON_THE_SUM)


def _inverse(name: str, peer: str, unit: str, ours: float, theirs: float, goal: float | None) -> Row:
    return Row(name, peer, unit, ours, theirs, goal, smaller_is_better=True)


if __name__ == "__main__":
    sys.exit(main())
