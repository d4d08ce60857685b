"""What a node with 20 peers takes when nothing is to be done: a share of one core, and memory.

All peers are one other node under 20 names; each is asked every ten seconds, as by default, and asks nobody back. Both
processes of the node count. It is left alone first until every peer has answered and what its start took is over.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from bench.processes import processor_seconds
from bench.report import Row, finish
from bench.scrape import await_peers, give_peers
from dwcp.testing.lab import Lab

PEERS = 20
TLS = {"security": {"tls": "always"}}
"""As to peers that are not on this machine."""
SETTLE = 15.0
SECONDS = float(os.environ.get("BENCH_SECONDS", 60))
CORE_PERCENT = 1.0
MEMORY_MIB = 80.0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="dwcp-bench-") as name, Lab.up(Path(name), 2, TLS) as lab:
        node = lab.nodes[0]
        give_peers(node, PEERS)
        if not await_peers(node, PEERS):
            return 1
        time.sleep(SETTLE)
        processes = {"manager": node.pid, "probes": _child(node.pid)}
        before = {who: processor_seconds(pid) for who, pid in processes.items()}
        began = time.monotonic()
        time.sleep(SECONDS)
        passed = time.monotonic() - began
        share = {who: (processor_seconds(pid) - before[who]) / passed * 100 for who, pid in processes.items()}
        # the interpreter and libraries that both have mapped are resident once
        memory = {"manager": _rolled_up(node.pid, "Rss"), "probes": _rolled_up(processes["probes"], "Private_")}
    rows = [
        Row("one core, idle", "goal", "%", sum(share.values()), CORE_PERCENT, 1.0, smaller_is_better=True),
        Row("resident, idle", "goal", "MiB", sum(memory.values()), MEMORY_MIB, 1.0, smaller_is_better=True),
    ]
    notes = [
        f"{PEERS} peers, {SECONDS:g} s; "
        + ", ".join(f"{who} {share[who]:.2f}% and {memory[who]:.0f} MiB" for who in processes)
    ]
    return finish("idle", rows, notes)


def _child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _rolled_up(pid: int, key: str) -> float:
    """Fields of /proc/PID/smaps_rollup (proc_pid_smaps(5)) that begin so, MiB together."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


if __name__ == "__main__":
    sys.exit(main())
