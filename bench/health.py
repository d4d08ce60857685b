"""How long /health takes while the node moves data as fast as it goes, both ends and who asks on this machine's cores.

hey asks RATE times a second on each of CONNECTIONS connections: many times what monitoring does, but not all that the
node can answer, which would be a second load beside the first. It stands for another machine, so as root it gets a core
at once (SCHED_FIFO): what it waits for one is not the node's time. The sender stands for another machine too, but
shares the cores like everything else here. Where the kernel gives each session its share of them before it looks at
tasks (autogroup, sched(7)), that is told: the node's session is then one of several. The goals are the issue's: 1 ms
for half of the answers, 5 ms for 99 of 100.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.moving import Moving, moving
from bench.processes import processor_seconds
from bench.report import Row, finish
from dwcp.testing.lab import Lab, LabNode

MIB = 1024 * 1024
SIZE = int(os.environ.get("BENCH_BYTES", 1024 * MIB))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3))
SECONDS = int(os.environ.get("BENCH_SECONDS", 10))
CONNECTIONS = 2
RATE = 100
LAST = 2
"""Seconds before hey ends in which the last transfer that it is beside has time to end."""
SHM = Path("/dev/shm")
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


@dataclass(frozen=True, slots=True)
class Asked:
    """What hey says; milliseconds."""

    p50: float
    p99: float
    requests: int


def main() -> int:
    if shutil.which("hey") is None:
        print("needs hey; scripts/install-test-tools.sh installs it")
        return 2
    with tempfile.TemporaryDirectory(prefix="dwcp-bench-", dir=SHM) as name:
        directory = Path(name)
        source = directory / "source"
        with source.open("wb") as file:
            for _ in range(SIZE // (16 * MIB)):
                file.write(os.urandom(16 * MIB))
        with Lab.up(directory / "lab", 2) as lab:
            return _measure(lab, source)


def _measure(lab: Lab, source: Path) -> int:
    node = lab.nodes[1]
    idle = _ask(node)
    alone: list[float] = []
    beside: list[float] = []
    busy: list[Asked] = []
    shares: list[dict[str, float]] = []
    with moving(lab, source) as transfer:
        for number in range(ROUNDS):
            alone += transfer.drain(SECONDS)
            asked, rates, share = _ask_beside(node, transfer)
            busy.append(asked)
            beside += rates
            shares.append(share)
            print(f"round {number + 1}: {asked}, {statistics.median(rates) / 1e9:.2f} GB/s", flush=True)
    p50, p99 = (statistics.median(getattr(asked, name) for asked in busy) for name in ("p50", "p99"))
    fast, asked_fast = statistics.median(alone) / 1e9, statistics.median(beside) / 1e9
    rows = [
        Row("/health p50, idle", "goal", "ms", idle.p50, 1.0, 1.0, smaller_is_better=True),
        Row("/health p99, idle", "goal", "ms", idle.p99, 5.0, 1.0, smaller_is_better=True),
        Row("/health p50, at full speed", "goal", "ms", p50, 1.0, 1.0, smaller_is_better=True),
        Row("/health p99, at full speed", "goal", "ms", p99, 5.0, 1.0, smaller_is_better=True),
        Row("transfer while asked", "not asked", "GB/s", asked_fast, fast),
    ]
    notes = [
        f"hey on {CONNECTIONS} connections, {RATE} a second on each, {ROUNDS} rounds of {SECONDS} s, medians; "
        f"{sum(asked.requests for asked in busy)} answers at full speed",
        f"autogroup: {AUTOGROUP.read_text().strip() if AUTOGROUP.exists() else 'none'}",
        "share of a core while asked: "
        + ", ".join(f"{who} {statistics.median(share[who] for share in shares):.0%}" for who in shares[0]),
    ]
    return finish("health", rows, notes)


def _ask_beside(node: LabNode, transfer: Moving) -> tuple[Asked, list[float], dict[str, float]]:
    with _hey(node) as process:
        began, before = time.monotonic(), _cores(node, transfer, process.pid)
        rates = transfer.drain(SECONDS - LAST)
        seconds = time.monotonic() - began
        shares = {who: (after - before[who]) / seconds for who, after in _cores(node, transfer, process.pid).items()}
        return _parse(process.communicate()[0]), rates, shares


def _cores(node: LabNode, transfer: Moving, hey: int) -> dict[str, float]:
    """Who had them and who waited for one, seconds so far."""
    ran, waited = _schedstat(node.pid)
    return {
        "sender": processor_seconds(transfer.pid),
        "receiving node": processor_seconds(node.pid),
        "its event loop": ran,
        "hey": processor_seconds(hey),
        "the event loop waited for a core": waited,
    }


def _ask(node: LabNode) -> Asked:
    with _hey(node) as process:
        return _parse(process.communicate()[0])


def _hey(node: LabNode) -> subprocess.Popen[str]:
    first = ["chrt", "--fifo", "1"] if os.geteuid() == 0 else []
    load = ["-c", str(CONNECTIONS), "-q", str(RATE), "-z", f"{SECONDS}s", "-cpus", "1", "-o", "csv"]
    return subprocess.Popen([*first, "hey", *load, f"{node.http_url}/health"], stdout=subprocess.PIPE, text=True)


def _parse(out: str) -> Asked:
    rows = list(csv.DictReader(io.StringIO(out)))
    if len(rows) < 100 or any(row["status-code"] != "200" for row in rows):
        raise SystemExit(f"not every request was answered; the end of what hey says:\n{out[-500:]}")
    ranks = statistics.quantiles([float(row["response-time"]) * 1000 for row in rows], n=100)
    return Asked(ranks[49], ranks[98], len(rows))


def _schedstat(pid: int) -> tuple[float, float]:
    """Seconds that a process's first thread was on a core, and ready without one (proc-schedstat)."""
    ran, waited, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9


if __name__ == "__main__":
    sys.exit(main())
