"""Many small files over loopback, memory to memory, beside rsync and rclone: the first time, and again unchanged.

200,000 files of 1 to 16 KiB (BENCH_FILES) in directories of 200. rsync speaks with its daemon, rclone with its own SFTP
server and 16 transfers; neither encrypts more or less than it does by itself. dwcp verifies and syncs every file. The
time is that of the client, from its start to its end.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.report import Row, finish
from dwcp.testing.lab import Lab

FILES = int(os.environ.get("BENCH_FILES", 200_000))
A_DIRECTORY = 200
SHM = Path("/dev/shm")
RSYNC_PORT, SFTP_PORT = 5997, 5996
START_SECONDS = 15.0
TWICE_RSYNC = 2.0
"""What dwcp is to reach beside rsync, both times."""


def main() -> int:
    missing = [tool for tool in ("rsync", "rclone") if shutil.which(tool) is None]
    directory = Path(tempfile.mkdtemp(prefix="dwcp-bench-", dir=SHM))
    try:
        source = directory / "source"
        size = _make(source)
        if shutil.disk_usage(directory).free < 4 * size:
            print(f"needs {4 * size >> 20} MiB free in {directory}")
            return 2
        return _measure(directory, source, missing)
    finally:
        shutil.rmtree(directory)


def _make(source: Path) -> int:
    """Bytes that all files have together; the same in every run."""
    chance = random.Random(1)
    total = 0
    for number in range(FILES):
        parent = source / f"{number // A_DIRECTORY // 100:02}" / f"{number // A_DIRECTORY % 100:02}"
        if number % A_DIRECTORY == 0:
            parent.mkdir(parents=True)
        size = chance.randrange(1024, 16 * 1024)
        # half noise, half text: neither compresses to nothing
        (parent / f"{number}").write_bytes(chance.randbytes(size // 2) + b"0123456789abcdef" * (size // 32))
        total += size
    return total


def _measure(directory: Path, source: Path, missing: list[str]) -> int:
    figures: dict[str, list[float]] = {}
    with ExitStack() as stack:
        lab = stack.enter_context(Lab.up(directory / "lab", 2))
        sender, receiver = lab.nodes
        dwcp = [sys.executable, "-m", "dwcp.cli", "send", "-q", "--config", str(sender.config_file), str(source)]
        runs: dict[str, tuple[list[str], Path]] = {"dwcp": ([*dwcp, f"{receiver.name}:inbox/tree"], receiver.inbox)}
        if "rsync" not in missing:
            runs["rsync -a"] = (_rsync(stack, directory, source), directory / "rsync")
        if "rclone" not in missing:
            runs["rclone, 16 transfers"] = (_rclone(stack, directory, source), directory / "rclone")
        for name, (command, target) in runs.items():
            figures[name] = [_timed(name, command) for _ in range(2)]
            arrived = sum(len(files) for _, _, files in os.walk(target))
            if arrived != FILES:
                raise SystemExit(f"{name} brought {arrived} files of {FILES}")
            _clear(target)
    ours = figures.pop("dwcp")
    rows = []
    for peer, theirs in figures.items():
        for when, mine, its in zip(("first time", "second time"), ours, theirs, strict=True):
            goal = TWICE_RSYNC if peer.startswith("rsync") else 1.0
            rows.append(Row(when, peer, "files/s", mine, its, goal))
    notes = [f"{FILES} files of 1 to 16 KiB on loopback, memory to memory, in files per second"]
    notes += [f"skipped, not installed: {tool}" for tool in missing]
    return finish("trees", rows, notes)


def _timed(name: str, command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rate = FILES / (time.monotonic() - began)
    print(f"{name}: {rate:.0f} files/s", flush=True)
    return rate


def _clear(target: Path) -> None:
    """The next one needs the memory."""
    for path in target.iterdir():
        shutil.rmtree(path)


def _rsync(stack: ExitStack, directory: Path, source: Path) -> list[str]:
    target = directory / "rsync"
    target.mkdir()
    config = directory / "rsyncd.conf"
    root = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"port = {RSYNC_PORT}\naddress = 127.0.0.1\nuse chroot = no\n{root}[b]\npath = {target}\nread only = no\n"
    )
    _serve(stack, ["rsync", "--daemon", "--no-detach", f"--config={config}"], RSYNC_PORT)
    return ["rsync", "-a", f"{source}/", f"rsync://127.0.0.1:{RSYNC_PORT}/b/tree/"]


def _rclone(stack: ExitStack, directory: Path, source: Path) -> list[str]:
    target = directory / "rclone"
    target.mkdir()
    own = ["--config", str(directory / "rclone.conf"), "--cache-dir", str(directory / "rclone-cache")]
    address = f"127.0.0.1:{SFTP_PORT}"
    serve = ["rclone", "serve", "sftp", str(target), "--addr", address, "--user", "bench", "--pass", "bench"]
    _serve(stack, [*serve, *own], SFTP_PORT)
    hidden = subprocess.run(["rclone", "obscure", "bench"], check=True, capture_output=True, text=True).stdout.strip()
    remote = ["--sftp-host", "127.0.0.1", "--sftp-port", str(SFTP_PORT), "--sftp-user", "bench", "--sftp-pass", hidden]
    command = ["rclone", "sync", str(source), ":sftp:tree", *remote, "--sftp-disable-hashcheck", *own]
    return [*command, "--transfers", "16", "--checkers", "16"]


def _serve(stack: ExitStack, command: list[str], port: int) -> None:
    """Runs it until the stack ends; returns when it takes connections."""
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    stack.callback(process.terminate)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not listen on port {port}: {error}") from error
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
