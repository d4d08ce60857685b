"""What the operator's runbook calls "Expected results", measured on this machine: two real nodes on loopback.

Throughput is that of one file of noise, verified block for block, as fast as it goes. Latency is that of /health at a
node that receives it. Processor time is taken at the rate of the runbook's link, because on loopback nothing but the
processor ends the rate: whatever program moves the file takes all there is.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dwcp.errors import StorageError, UnreachableError, from_code
from dwcp.testing.lab import Lab, LabNode
from dwcp.units import format_rate, format_size

LINK = 10**9
"""bit/s; the least that the runbook's prerequisites allow, and its pacing_rate."""
MIB = 2**20
BLOCK = 16 * MIB
ASKS = 200
"""Requests to a node that does nothing; enough for a 99th percentile that is not the worst one."""
PAUSE = 0.005
"""Seconds between two requests while a transfer runs: 200 a second, more than any monitoring asks for."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds, bit/s, shares of the whole machine (0 to 1), bytes. `rdma`: None where it was not measured."""

    idle_latency: list[float]
    busy_latency: list[float]
    throughput: float
    rdma: float | None
    cpu_at_link: Mapping[str, float]
    memory: Mapping[str, int]
    machine_memory: int


@dataclass(frozen=True, slots=True)
class Row:
    """`met` is None where it was not measured, or where nothing is expected."""

    name: str
    value: float | None
    unit: str
    goal: str
    met: bool | None
    shown: str
    note: str = field(default="")


def percentile(values: list[float], percent: int) -> float:
    """Of at least two values; the exclusive method, as `statistics.quantiles` has it."""
    return statistics.quantiles(values, n=100)[percent - 1]


def rows(measured: Measured) -> list[Row]:
    """Beside the runbook's "Expected results". Nothing is measured here."""
    table = []
    for when, latency in (("idle", measured.idle_latency), ("under load", measured.busy_latency)):
        for percent in (50, 99):
            value = percentile(latency, percent) * 1000
            table.append(Row(f"health p{percent}, {when}", value, "ms", "< 5 ms", value < 5, f"{value:.2f} ms"))
    fast = measured.throughput
    table.append(Row("throughput, TCP", fast, "bit/s", "> 800 Mbit/s", fast > 800e6, format_rate(fast)))
    rdma = measured.rdma
    if rdma is None:
        table.append(Row("throughput, RDMA", None, "bit/s", "> 1 Gbit/s", None, "-", "see --rdma-device"))
    else:
        table.append(Row("throughput, RDMA", rdma, "bit/s", "> 1 Gbit/s", rdma > 1e9, format_rate(rdma)))
    for name, share in measured.cpu_at_link.items():
        note = f"of all cores, at {format_rate(LINK)}"
        table.append(Row(f"CPU, {name}", share * 100, "%", "<= 40%", share <= 0.4, f"{share:.1%}", note))
    for name, size in measured.memory.items():
        share = size / measured.machine_memory
        note = f"{format_size(size)} of {format_size(measured.machine_memory)} at the highest"
        table.append(Row(f"memory, {name}", share * 100, "%", "<= 50%", share <= 0.5, f"{share:.1%}", note))
    return table


def measure(directory: Path | None, size: int, rdma_device: str, say: Callable[[str], None]) -> Measured:
    """`directory`: where the nodes and three times `size` bytes go, made and removed; None for the system's own place.
    `rdma_device`: as transport.rdma_device, "" for none. `say` is told what is being done.

    Raises StorageError where there is no room, or what a transfer failed with.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix="dwcp-bench-", dir=directory))
    except OSError as error:
        raise StorageError(f"cannot make a directory in {directory}: {error.strerror}; name another one") from error
    try:
        free = shutil.disk_usage(place).free
        if free < 3 * size:
            raise StorageError(
                f"{place.parent} has {format_size(free)} free, {format_size(3 * size)} are needed; "
                f"name another place with --dir, or a smaller --size"
            )
        return _measure(place, size, rdma_device, say)
    finally:
        shutil.rmtree(place)


def _measure(place: Path, size: int, rdma_device: str, say: Callable[[str], None]) -> Measured:
    source = place / "source"
    _noise(source, size)
    with Lab.up(place / "lab", 2) as lab:
        receiver = lab.nodes[1]
        say("health, idle")
        with _Asker(receiver) as asker:
            idle = [asker.ask() for _ in range(ASKS)]
        say(f"{format_size(size)} as fast as it goes")
        with _Asking(receiver) as asking:
            throughput = _send(lab, source).rate
        say(f"{format_size(size)} at {format_rate(LINK)}")
        _limit(lab, LINK)
        before, began = _cpu_seconds(receiver.pid), time.monotonic()
        sent = _send(lab, source)
        whole = (time.monotonic() - began) * (os.cpu_count() or 1)
        cpu = {"receiver": (_cpu_seconds(receiver.pid) - before) / whole, "sender": sent.cpu_seconds / whole}
        memory = {"receiver": _peak(receiver.pid), "sender": sent.peak}
    rdma = _over_rdma(place, source, rdma_device, say) if rdma_device else None
    machine_memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Measured(idle, asking.seconds, throughput, rdma, cpu, memory, machine_memory)


def _over_rdma(place: Path, source: Path, device: str, say: Callable[[str], None]) -> float:
    say(f"{format_size(source.stat().st_size)} over {device}")
    settings = {
        "transport": {
            "enable_rdma": True,
            "rdma_required": True,
            "rdma_device": device,
            "enable_pacing": False,
            "congestion_algorithm": "cubic",
        }
    }
    with Lab.up(place / "rdma", 2, settings) as lab:
        return _send(lab, source).rate


def _noise(path: Path, size: int) -> None:
    """What no compression and no delta makes smaller."""
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(os.urandom(min(BLOCK, size - start)))


@dataclass(frozen=True, slots=True)
class _Sent:
    """bit/s of content; processor time in seconds and the most memory in bytes of the process that sent."""

    rate: float
    cpu_seconds: float
    peak: int


def _send(lab: Lab, source: Path) -> _Sent:
    sender, receiver = lab.nodes
    command = [sys.executable, "-m", "dwcp.cli", "send", "--json", "--config", str(sender.config_file)]
    with subprocess.Popen(
        [*command, str(source), f"{receiver.name}:inbox/copy"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out = process.stdout.read() if process.stdout else b""
        err = process.stderr.read() if process.stderr else b""
        # wait4(2): what this one child took, whatever others there were
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    lines = out.splitlines()
    done: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if process.returncode or done.get("event") != "done":
        message = str(done.get("message") or err.decode(errors="replace").strip() or "the transfer did not end")
        raise from_code(str(done.get("code", "fatal")), message)
    # at the next one nothing must be there that it could be compared with
    (receiver.inbox / "copy").unlink()
    rate = done["bytes"] * 8 / done["seconds"]
    return _Sent(rate, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _limit(lab: Lab, bits_per_second: int) -> None:
    command = [sys.executable, "-m", "dwcp.cli", "limit", "--config", str(lab.nodes[0].config_file)]
    done = subprocess.run([*command, f"{bits_per_second}bit/s"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StorageError(done.stderr.strip())


def _cpu_seconds(pid: int) -> float:
    """Fields 14 and 15 of /proc/PID/stat (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak(pid: int) -> int:
    """The most memory that a process ever had resident, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class _Asker:
    """Asks a node's /health on one connection, as monitoring does."""

    def __init__(self, node: LabNode) -> None:
        host, port = node.http_url.removeprefix("http://").split(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=30)

    def __enter__(self) -> _Asker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def ask(self) -> float:
        """Seconds until the answer was read. Raises UnreachableError."""
        began = time.perf_counter()
        try:
            self._connection.request("GET", "/health")
            self._connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"the node under measurement does not answer: {error}") from error
        return time.perf_counter() - began


class _Asking:
    """Asks again and again in a thread of its own for as long as the block runs."""

    def __init__(self, node: LabNode) -> None:
        self.seconds: list[float] = []
        self._node = node
        self._over = threading.Event()
        self._failure: UnreachableError | None = None
        self._thread = threading.Thread(target=self._run, name="dwcp-bench-ask")

    def __enter__(self) -> _Asking:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None and kind is None:
            raise self._failure

    def _run(self) -> None:
        try:
            with _Asker(self._node) as asker:
                while not self._over.wait(PAUSE) or len(self.seconds) < 2:
                    self.seconds.append(asker.ask())
        except UnreachableError as error:
            self._failure = error
