"""What open dashboards cost a node: its processor time with 0, 1 and 100 readers of /events, and a transfer beside 100.

The readers are sockets of this process that take what comes. A transfer runs while processor time is counted, so that
there is something to tell each second.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.report import Row, finish
from dwcp.testing.lab import Lab, LabNode

PAGES = int(os.environ.get("BENCH_PAGES", 100))
SECONDS = float(os.environ.get("BENCH_SECONDS", 20))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 5))
MIB = 2**20
SIZE = 256 * MIB
GOAL_PERCENT = 1.0
GOAL_RATE = 0.95
"""Of the rate without pages: what rounds differ by anyway."""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="dwcp-bench-") as name:
        directory = Path(name)
        chance = random.Random(1)
        with (directory / "content").open("wb") as file:
            for _ in range(SIZE // MIB):
                file.write(chance.randbytes(MIB))
        with Lab.up(directory, 2, {"transport": {"enable_pacing": True, "pacing_rate": "20Mbit/s"}}) as lab:
            sender = _send(lab, "watched")
            try:
                percent = {pages: _percent(lab.nodes[1], pages) for pages in (0, 1, PAGES)}
            finally:
                sender.kill()
                sender.wait()
        with Lab.up(directory / "fast", 2) as lab:
            (directory / "fast" / "content").hardlink_to(directory / "content")
            alone, beside = [], []
            for number in range(ROUNDS):
                alone.append(_rate(lab, f"alone-{number}"))
                with _pages(lab.nodes[1], PAGES):
                    beside.append(_rate(lab, f"beside-{number}"))
    # what cannot be told from the noise of the clock's ticks counts as one of them
    each = max(100 / os.sysconf("SC_CLK_TCK") / SECONDS, percent[PAGES] - percent[0]) / PAGES
    rows = [
        Row("processor per page", "goal", "%", each, GOAL_PERCENT, 1.0, smaller_is_better=True),
        Row(
            f"transfer beside {PAGES} pages",
            "without pages",
            "MB/s",
            statistics.median(beside),
            statistics.median(alone),
            GOAL_RATE,
        ),
    ]
    notes = [f"{pages} pages: the node takes {value:.2f}% of a core" for pages, value in percent.items()]
    return finish("dashboard", rows, notes)


def _send(lab: Lab, target: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dwcp.cli", "send", "--quiet", "--config", str(lab.nodes[0].config_file)]
    return subprocess.Popen([*command, str(lab.directory / "content"), f"node2:inbox/{target}"])


def _rate(lab: Lab, target: str) -> float:
    """MB/s of one transfer, the command's start included."""
    began = time.perf_counter()
    if _send(lab, target).wait() != 0:
        raise SystemExit("a transfer failed")
    return SIZE / 1e6 / (time.perf_counter() - began)


def _percent(node: LabNode, pages: int) -> float:
    """Of a core, over SECONDS."""
    with _pages(node, pages):
        before, began = _processor_seconds(node.pid), time.monotonic()
        time.sleep(SECONDS)
        return (_processor_seconds(node.pid) - before) / (time.monotonic() - began) * 100


def _processor_seconds(pid: int) -> float:
    """utime and stime of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _pages(node: LabNode, count: int) -> Iterator[None]:
    host, port = node.http_url.removeprefix("http://").split(":")
    stop = threading.Event()
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection((host, int(port))))
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            selector.register(sock, selectors.EVENT_READ)

        def read() -> None:
            while not stop.is_set():
                for key, _ in selector.select(0.2):
                    assert isinstance(key.fileobj, socket.socket)
                    key.fileobj.recv(1 << 20)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            stop.set()
            reader.join()


if __name__ == "__main__":
    sys.exit(main())
