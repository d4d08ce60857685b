"""A file of 2 GiB of noise over loopback, tmpfs to tmpfs, every block verified, beside iperf3 and rsync.

Runs alternate, the median counts. A small page that a virtual machine has to get from its host costs many times what
it costs later, and hosts take free ones back within seconds: that would be all that is measured. So as root the files
live in a tmpfs of huge pages, and right before each run, of whatever program, as much memory as the file takes is
written and freed. All programs work under the same conditions.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Row, finish
from dwcp.testing.lab import Lab

MIB = 1024 * 1024
SIZE = int(os.environ.get("BENCH_BYTES", 2048 * MIB))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 5))
SHM = Path("/dev/shm")


def main() -> int:
    missing = [tool for tool in ("iperf3", "rsync") if shutil.which(tool) is None]
    directory = Path(tempfile.mkdtemp(prefix="dwcp-bench-", dir=SHM))
    mounted = _mount_huge(directory)
    try:
        if shutil.disk_usage(directory).free < 3 * SIZE:
            print(f"needs {3 * SIZE // MIB} MiB free in {directory}")
            return 2
        with Lab.up(directory / "lab", 2) as lab:
            return _measure(directory, lab, missing, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", directory], check=True)
        shutil.rmtree(directory)


def _mount_huge(directory: Path) -> bool:
    if os.geteuid() != 0:
        return False
    options = f"huge=always,size={4 * SIZE}"
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=False).returncode == 0


def _measure(directory: Path, lab: Lab, missing: list[str], mounted: bool) -> int:
    source = directory / "source"
    with source.open("wb") as file:
        for _ in range(SIZE // (16 * MIB)):
            file.write(os.urandom(16 * MIB))
    runs: dict[str, Callable[[], float]] = {
        "dwcp": lambda: _dwcp(lab, source, "xxh3"),
        "dwcp blake3": lambda: _dwcp(lab, source, "blake3"),
    }
    if "iperf3" not in missing:
        runs["iperf3"] = lambda: _iperf3(directory, None)
        runs["iperf3 -F"] = lambda: _iperf3(directory, source)
    if "rsync" not in missing:
        runs["rsync"] = lambda: _rsync(directory, source)
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS):
        for name, run in runs.items():
            _touch_pages(directory)
            figures[name].append(run())
            print(f"round {number + 1} {name}: {figures[name][-1]:.2f} GB/s", flush=True)
    median = {name: statistics.median(values) for name, values in figures.items()}
    ours = median["dwcp"]
    goals = {"iperf3": 0.6, "iperf3 -F": 3.0, "rsync": 3.0}
    rows = [
        Row("file to file, xxh3", peer, "GB/s", ours, median[peer], goals[peer]) for peer in goals if peer in median
    ]
    rows.append(Row("file to file, blake3", "dwcp xxh3", "GB/s", median["dwcp blake3"], ours))
    peaks = {node.name: _peak_mib(node.pid) for node in lab.nodes}
    rows.append(Row("receiver's peak memory", "256 MiB allowed", "MiB", 256.0, peaks["node2"], 1.0))
    notes = [f"{SIZE // MIB} MiB, medians of {ROUNDS}, GB/s; receiver's peak resident memory {peaks['node2']:.0f} MiB"]
    notes.append("files in a tmpfs of huge pages" if mounted else "files in the machine's own /dev/shm")
    notes += [f"skipped, not installed: {tool}" for tool in missing]
    return finish("loopback", rows, notes)


def _touch_pages(directory: Path) -> None:
    block = bytes(16 * MIB)
    with (directory / "pages").open("wb") as file:
        for _ in range(SIZE // len(block) + 8):
            file.write(block)
    (directory / "pages").unlink()


def _dwcp(lab: Lab, source: Path, checksum: str) -> float:
    sender, receiver = lab.nodes
    command = [sys.executable, "-m", "dwcp.cli", "send", "--json", "--hash", checksum]
    command += ["--config", str(sender.config_file), str(source), f"{receiver.name}:inbox/copy"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    done = json.loads(out.splitlines()[-1])
    if not done["verified"] or done["bytes"] != SIZE:
        raise SystemExit(f"the transfer went wrong: {done}")
    (receiver.inbox / "copy").unlink()
    return float(done["bytes"] / done["seconds"] / 1e9)


def _iperf3(directory: Path, file: Path | None) -> float:
    """Memory to memory, or with -F from file to file; the receiver's figure."""
    target = directory / "iperf3-target"
    server = ["iperf3", "-s", "-1", "--forceflush", "-p", "5999", *(["-F", str(target)] if file else [])]
    client = ["iperf3", "-c", "127.0.0.1", "-p", "5999", "-J", "-n", str(SIZE), *(["-F", str(file)] if file else [])]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        report = json.loads(subprocess.run(client, check=True, capture_output=True, text=True).stdout)
        process.communicate(timeout=60)
    target.unlink(missing_ok=True)
    return float(report["end"]["sum_received"]["bits_per_second"]) / 8e9


def _rsync(directory: Path, source: Path) -> float:
    """Over its daemon on loopback: no ssh in the way."""
    target = directory / "rsync"
    target.mkdir(exist_ok=True)
    config = directory / "rsyncd.conf"
    root = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"port = 5998\naddress = 127.0.0.1\nuse chroot = no\n{root}[b]\npath = {target}\nread only = no\n"
    )
    with subprocess.Popen(["rsync", "--daemon", "--no-detach", f"--config={config}"]) as daemon:
        try:
            command = ["rsync", "--whole-file", str(source), "rsync://127.0.0.1:5998/b/copy"]
            deadline = time.monotonic() + 10
            while True:
                began = time.monotonic()
                if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                    break
                if time.monotonic() > deadline:
                    raise SystemExit("rsync does not work here")
            return SIZE / (time.monotonic() - began) / 1e9
        finally:
            daemon.terminate()
            (target / "copy").unlink(missing_ok=True)


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
