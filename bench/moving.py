"""Sends one file to a peer again and again, as fast as it goes, and prints `BYTES SECONDS` after each time.

python -m bench.moving CONFIG SOURCE PEER INBOX: for benchmarks that look at a node meanwhile. `INBOX` is the directory
of the peer's export `inbox`. SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dwcp
from dwcp import logs
from dwcp.testing.lab import Lab


async def main() -> None:
    config, source, peer, inbox = sys.argv[1:]
    target = Path(inbox) / "moving"
    logs.configure("warning", "console")
    async with dwcp.connect(peer, config=dwcp.load_config([Path(config)])) as connected:
        while True:
            began = time.monotonic()
            result = await connected.send(source, "inbox/moving")
            # at the next one nothing must be there that it could be compared with
            target.unlink()
            print(result.bytes, time.monotonic() - began, flush=True)


class Moving:
    """The process that sends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def wait(self) -> float:
        """Bytes per second of the next transfer that ends."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the transfer beside the measurement has failed")
        size, seconds = line.split()
        return int(size) / float(seconds)

    def drain(self, seconds: float) -> list[float]:
        """Bytes per second of each transfer that ends within the next `seconds`."""
        deadline = time.monotonic() + seconds
        rates = [self.wait()]
        while time.monotonic() < deadline:
            rates.append(self.wait())
        return rates


@contextlib.contextmanager
def moving(lab: Lab, source: Path) -> Iterator[Moving]:
    """From the lab's first node to its second for as long as the block runs, at full speed when it begins."""
    sender, receiver = lab.nodes[:2]
    command = [sys.executable, "-m", "bench.moving", sender.config_file, source, receiver.name, receiver.inbox]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        try:
            made = Moving(process)
            made.wait()
            yield made
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(main())
