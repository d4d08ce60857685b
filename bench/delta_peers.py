"""The programs that are measured beside `dwcp delta`: each brings `new` to where `old` is already.

Tools for deltas of files write one and apply it. Tools that keep a store have `old` in it before the clock starts; what
adding `new` makes the store grow by is what would go over the wire. rsync counts what it sends and receives itself.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dwcp.testing import Lab


@dataclass(frozen=True, slots=True)
class Figures:
    size: int
    """Bytes that have to go over the wire."""
    encode: float
    """Seconds of the whole command; of rsync both ends."""
    decode: float | None = None
    cpu: float = 0.0
    """Seconds of all cores while encoding: what a busy machine does not distort."""


Run = Callable[[Path, Path, Path], Figures]


@dataclass(frozen=True, slots=True)
class Peer:
    """`run(old, new, scratch)`; the scratch directory is empty."""

    name: str
    tool: str
    run: Run

    @property
    def missing(self) -> bool:
        return shutil.which(self.tool) is None


def _cpu() -> float:
    """Seconds of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(*command: str | Path, **environment: str) -> tuple[float, float, str]:
    """(seconds, seconds of all cores, standard output). Raises RuntimeError."""
    cpu, began = _cpu(), time.monotonic()
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{command[0]} {command[1]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return seconds, _cpu() - cpu, done.stdout


def _two_ways(encode: list[str | Path], decode: list[str | Path], delta: Path, made: Path, new: Path) -> Figures:
    there, cpu, _ = timed(*encode)
    back, _, _ = timed(*decode)
    if subprocess.run(["cmp", "-s", made, new], check=False).returncode:
        raise RuntimeError(f"{encode[0]} made something else of its delta")
    return Figures(delta.stat().st_size, there, back, cpu)


def dwcp_send(old: Path, new: Path, scratch: Path) -> Figures:
    """The second `dwcp send` to a node that has the first one's result: everything on the wire, both ends' time."""
    settings = {
        "storage": {"keep_baselines": "always", "baselines_limit": "64GiB"},
        "transport": {"enable_pacing": False},
    }
    with Lab.up(scratch / "lab", 2, settings) as lab:
        near = lab.nodes[0].config_file
        send = [sys.executable, "-m", "dwcp.cli", "send", "--config", near, "--json"]
        timed(*send, old, "node2:inbox/version")
        seconds, cpu, said = timed(*send, new, "node2:inbox/version")
        arrived = lab.nodes[1].inbox / "version"
        if subprocess.run(["cmp", "-s", arrived, new], check=False).returncode:
            raise RuntimeError("dwcp send made something else of the new version")
    return Figures(json.loads(said.splitlines()[-1])["wire_bytes"], seconds, None, cpu)


def dwcp(old: Path, new: Path, scratch: Path) -> Figures:
    program: list[str | Path] = [sys.executable, "-m", "dwcp.cli", "delta"]
    delta, made = scratch / "delta", scratch / "made"
    return _two_ways([*program, "encode", old, new, delta], [*program, "decode", old, delta, made], delta, made, new)


def zstd(old: Path, new: Path, scratch: Path) -> Figures:
    delta, made = scratch / "delta", scratch / "made"
    common: list[str | Path] = ["zstd", "-q", "-f", "--long=31", f"--patch-from={old}"]
    return _two_ways([*common, new, "-o", delta], [*common, "-d", delta, "-o", made], delta, made, new)


def xdelta3(old: Path, new: Path, scratch: Path) -> Figures:
    delta, made = scratch / "delta", scratch / "made"
    # its window on the source, else 64 MiB
    common: list[str | Path] = ["xdelta3", "-f", "-B", str(1 << 31)]
    return _two_ways([*common, "-e", "-s", old, new, delta], [*common, "-d", "-s", old, delta, made], delta, made, new)


def rsync(old: Path, new: Path, scratch: Path) -> Figures:
    target = scratch / "there"
    shutil.copyfile(old, target)
    options = ["--no-whole-file", "--ignore-times", "--stats", "-z", "--zc=zstd"]
    seconds, cpu, told = timed("rsync", *options, new, target)
    counts = [re.search(rf"Total bytes {way}: ([\d,]+)", told) for way in ("sent", "received")]
    return Figures(sum(int(count[1].replace(",", "")) for count in counts if count), seconds, cpu=cpu)


def _store_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _grown(store: Path, add: Callable[[Path], tuple[float, float]], old: Path, new: Path, scratch: Path) -> Figures:
    """The same name for both versions, as a file that became other."""
    source = scratch / "source"
    source.mkdir()
    place = source / "content"
    # the scratch directory is beside the pairs
    os.link(old, place)
    add(source)
    before = _store_size(store)
    place.unlink()
    os.link(new, place)
    seconds, cpu = add(source)
    return Figures(_store_size(store) - before, seconds, cpu=cpu)


def borg(old: Path, new: Path, scratch: Path) -> Figures:
    store = scratch / "store"
    environment = {"BORG_BASE_DIR": str(scratch / "home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    timed("borg", "init", "-e", "none", store, **environment)
    number = 0

    def add(source: Path) -> tuple[float, float]:
        nonlocal number
        number += 1
        return timed("borg", "create", "--compression", "zstd", f"{store}::{number}", source, **environment)[:2]

    return _grown(store, add, old, new, scratch)


def casync(old: Path, new: Path, scratch: Path) -> Figures:
    store = scratch / "store"
    store.mkdir()

    def add(source: Path) -> tuple[float, float]:
        return timed("casync", "make", f"--store={store}", store / "index.caibx", source / "content")[:2]

    return _grown(store, add, old, new, scratch)


def restic(old: Path, new: Path, scratch: Path) -> Figures:
    store = scratch / "store"
    common = ["restic", "-q", "--no-cache", "-r", str(store)]
    environment = {"RESTIC_PASSWORD": "measured", "HOME": str(scratch)}
    timed(*common, "init", **environment)
    return _grown(store, lambda source: timed(*common, "backup", source, **environment)[:2], old, new, scratch)


PEERS = (
    Peer("zstd --patch-from", "zstd", zstd),
    Peer("xdelta3", "xdelta3", xdelta3),
    Peer("rsync --zc=zstd", "rsync", rsync),
    Peer("borg", "borg", borg),
    Peer("casync", "casync", casync),
    Peer("restic", "restic", restic),
)
