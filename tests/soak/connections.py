"""`python -m tests.soak.connections`: ten thousand connections to a node's HTTP that never ask, beside a transfer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dwcp.testing.lab import Lab
from tests.disturbance import disturbed_transfer
from tests.support import random_file

CONNECTIONS = 10_000
TRANSPORT = {"enable_pacing": True, "pacing_rate": "40Mbit/s", "congestion_algorithm": "cubic"}
"""It takes about as long as to make the connections."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dwcp-soak-") as name:
        random_file(Path(name) / "content", 40_000_000)
        with Lab.up(Path(name), 2, {"transport": TRANSPORT}) as lab:
            grown = disturbed_transfer(lab, CONNECTIONS)
    print(f"connections: {CONNECTIONS} beside a transfer, which arrived; {grown / 2**20:.0f} MiB more were resident")


if __name__ == "__main__":
    main()
