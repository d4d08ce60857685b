"""One file over emulated long links, TLS on, every block verified, beside what people use for that today.

    DWCP_WANLINK=PROGRAM make bench-wan       see `emulated` for what PROGRAM has to do; not needed where netem is

Everyone brings the same file, from one tmpfs to another, over the same link with the same congestion control, one after
the other, in each round; medians count. The time is that of the whole command. Who takes CUT_OFF times as long as the
link would is stopped, and what arrived counts; who is far behind in the first round is not run in the others.
BENCH_ROUNDS, BENCH_SECONDS (of link rate that the file is worth), BENCH_PROFILES, BENCH_CONGESTION and BENCH_PEERS
(parts of names, comma-separated) make a run smaller.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bench.emulated import RECEIVER, RECEIVER_HOST, SENDER, SENDER_HOST, NoLinkError, Profile, inside, link
from bench.peers import PEERS, Job, Peer, server, timed
from bench.plot import Group
from bench.report import Row, finish
from dwcp.store.identity import load_or_create

MIB = 1024 * 1024
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3))
SECONDS = float(os.environ.get("BENCH_SECONDS", 40))
OURS = "dwcp"

GOALS: dict[Profile, dict[str, float]] = {
    Profile(1000, 20, 0): {"bbr": 0.94, "cubic": 0.94},
    Profile(500, 50, 0.1): {"bbr": 0.92, "cubic": 0.88},
    Profile(100, 100, 1): {"bbr": 0.92, "cubic": 0.85},
    Profile(200, 200, 0.01): {"bbr": 0.90, "cubic": 0.88},
}
"""Share of the link's rate, by congestion control."""

FEW_STREAMS = {"min_streams": 8, "initial_streams": 8}
"""What docs/operations.md advises for BBR where the round trip is short; elsewhere the defaults run."""
SHORT = 50.0
"""Milliseconds of a round trip."""
CUT_OFF = 2.0
"""Times the file's length at link rate after which a peer is stopped; what has arrived by then is its figure."""
CONTENDER = 0.8
"""A peer that is slower than this share of our figure in the first round is not run again in the others."""


@dataclass(slots=True)
class Case:
    """One link with one congestion control, and what was measured on it, in Mbit/s by program."""

    profile: Profile
    congestion: str
    figures: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.figures[name])


def main() -> int:
    peers = [peer for peer in PEERS if _wanted("BENCH_PEERS", peer.name)]
    notes = [f"skipped, not installed: {peer.name} ({', '.join(peer.missing)})" for peer in peers if peer.missing]
    peers = [peer for peer in peers if not peer.missing]
    cases = [
        Case(profile, congestion)
        for profile, goals in GOALS.items()
        for congestion in goals
        if _wanted("BENCH_PROFILES", str(profile)) and _wanted("BENCH_CONGESTION", congestion)
    ]
    try:
        for case in cases:
            # another link is another peer: nothing that was learned of one is known of the next
            with tempfile.TemporaryDirectory(prefix="dwcp-wan-", dir="/dev/shm") as directory:
                _measure(case, peers, Path(directory), notes)
    except NoLinkError as error:
        print(f"no link can be emulated here: {error}")
        return 2
    notes.append(f"Mbit/s, medians of {ROUNDS}; files of {SECONDS:g} s at link rate")
    groups = [
        Group(f"{case.profile}, {case.congestion}", "Mbit/s", case.profile.rate, _medians(case), shares=True)
        for case in cases
    ]
    return finish("wan", list(_rows(cases, peers)), notes, groups)


def _medians(case: Case) -> dict[str, float]:
    return {name: case.median(name) for name in case.figures}


def _wanted(variable: str, name: str) -> bool:
    parts = [part for part in os.environ.get(variable, "").split(",") if part]
    return not parts or any(part in name for part in parts)


def _rows(cases: Iterable[Case], peers: list[Peer]) -> Iterable[Row]:
    for case in cases:
        name, ours = f"{case.profile}, {case.congestion}", case.median(OURS)
        yield Row(name, "the link's rate", "Mbit/s", ours, case.profile.rate, GOALS[case.profile][case.congestion])
        for peer in peers:
            if peer.name in case.figures:
                yield Row(name, peer.name, "Mbit/s", ours, case.median(peer.name), None if peer.limit else 1.0)


def _measure(case: Case, peers: list[Peer], directory: Path, notes: list[str]) -> None:
    source = directory / "from" / "source"
    for folder in ("from", "to"):
        (directory / folder).mkdir(exist_ok=True)
    _noise(source, int(case.profile.rate * 1e6 / 8 * SECONDS))
    few = case.congestion == "bbr" and case.profile.round_trip <= SHORT
    job = Job(source, directory / "to" / "copy", directory, case.congestion, SECONDS, SECONDS * CUT_OFF, few)
    with link(case.profile, case.congestion):
        for number in range(ROUNDS):
            for name, run in [(OURS, _dwcp), *((peer.name, peer.run) for peer in peers)]:
                if number and name in case.figures and case.median(name) < CONTENDER * case.median(OURS):
                    continue
                try:
                    figure = run(job)
                except (RuntimeError, subprocess.SubprocessError, OSError) as error:
                    if name == OURS:
                        raise
                    notes.append(f"{name} failed on {case.profile}, {case.congestion}: {error}")
                    continue
                case.figures.setdefault(name, []).append(figure)
                share = f"{figure:.0f} Mbit/s, {figure / case.profile.rate:.1%} of the link"
                print(f"{case.profile}, {case.congestion}, round {number + 1}, {name}: {share}", flush=True)


def _noise(path: Path, size: int) -> None:
    with path.open("wb") as file:
        left = size
        while left:
            piece = min(left, 16 * MIB)
            file.write(os.urandom(piece))
            left -= piece


def _dwcp(job: Job) -> float:
    """Both ends are configured as their operators would: address, peer, export, congestion control."""
    home = job.directory / "dwcp"
    hosts = {"a": SENDER_HOST, "b": RECEIVER_HOST}
    identities = {name: load_or_create(home / name / "identity", name) for name in hosts}
    for name, host in hosts.items():
        other = "b" if name == "a" else "a"
        config = {
            "node": {"name": name, "log_level": "warning"},
            "http": {"listen": "127.0.0.1:8080", "tls_listen": ""},
            "storage": {"state_dir": str(home / name)},
            "transport": {
                "listen": f"{host}:9000",
                "congestion_algorithm": job.congestion,
                "enable_pacing": False,
                **(FEW_STREAMS if job.few_streams else {}),
            },
            "compression": {"enabled": False},
            "peers": {
                other: {"address": f"{hosts[other]}:9000", "fingerprint": identities[other].fingerprint},
            },
        }
        if name == "b":
            config["storage"] = {**config["storage"], "exports": {"to": {"path": str(job.target.parent)}}}
        (home / f"{name}.yaml").write_text(yaml.safe_dump(config))
    serve = [sys.executable, "-m", "dwcp.manager.daemon", "--config", str(home / "b.yaml")]
    with server(serve, RECEIVER, RECEIVER_HOST, 9000):
        command = [sys.executable, "-m", "dwcp.cli", "send", "--quiet", "--config", str(home / "a.yaml")]
        return timed(job, inside(SENDER, *command, job.source, f"b:to/{job.target.name}"))


if __name__ == "__main__":
    sys.exit(main())
