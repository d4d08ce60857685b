"""The state directory when writers are killed, the disk is full, or any byte of it is damaged: no traceback, no lie."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwcp.config import Config
from dwcp.errors import DwcpError, StateError
from dwcp.manager.manager import Manager
from dwcp.store import layout, snapshots
from dwcp.store.identity import load_or_create
from dwcp.store.path_memory import PathMemory, remember
from dwcp.store.recorder import Recorder, untold
from dwcp.store.records import Record
from dwcp.store.shared_rate import write_limit
from dwcp.store.txlog import LogDamage, LogReader
from dwcp.store.verify import verify
from tests.processes import Daemon, clean_environment, run_dwcp, run_manager
from tests.support import wait_until

WRITER = """
import sys
from pathlib import Path
from dwcp.store.txlog import TransactionLog
log = TransactionLog(Path(sys.argv[1]), 2**20)
while True:
    print(log.append("transfer", "end", detail={"text": "x" * 2000}).seq, flush=True)
"""


def test_writers_that_are_killed_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(11)
    acknowledged: set[int] = set()
    cuts = 0
    for _ in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        writers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, env=clean_environment(), text=True) for _ in range(3)
        ]
        before, wanted = len(acknowledged), chance.randrange(20, 300)
        while len(acknowledged) < before + wanted:
            for writer in writers:
                assert writer.stdout is not None
                acknowledged.add(int(writer.stdout.readline()))
        for writer in writers:
            writer.kill()
        for writer in writers:
            assert writer.stdout is not None
            # what stands in the pipe was acknowledged before the end; its last line may be half a number
            acknowledged |= {int(line) for line in writer.stdout.read().splitlines(keepends=True) if line[-1] == "\n"}
            writer.stdout.close()
            writer.wait()
        reader = LogReader(tmp_path)
        found = list(reader.poll())
        assert not [entry for entry in found if isinstance(entry, LogDamage)]
        torn = reader.torn()
        cuts += torn is not None
        numbers = [entry.seq for entry in found if isinstance(entry, Record)]
        assert {seq for seq in acknowledged if seq >= numbers[0]} <= set(numbers)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MB, where the state directory will be."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "state"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> Path:
    """Until nothing more goes there."""
    path = place / "senders" / "filler"
    path.parent.mkdir(exist_ok=True)
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return path


@pytest.mark.root
def test_a_full_disk_is_told_everywhere_and_costs_only_what_is_counted(small_disk: Path, tmp_path: Path) -> None:
    settings = {"health": {"interval": "100ms", "recovery_backoff": "50ms", "slow_retry_interval": "1s"}}
    config = ["--config", tmp_path / "config.yaml"]
    with Daemon(tmp_path, settings) as daemon:
        wait_until(lambda: bool(snapshots.find(small_disk)), "the first snapshot is taken")
        filler = fill(small_disk)
        wait_until(lambda: daemon.get("/health")[1]["status"] != "healthy", "it is told")
        assert "No space left on device" in json.dumps(daemon.get("/health")[1])
        # a last page of the log may still take some
        wait_until(lambda: "the transaction log cannot be written" in daemon.log_file.read_text(), "the log is full")
        for command, words in (
            (["state", "snapshot"], "free space there"),
            (["limit", "5Mbit/s"], "No space left"),
            (["peer", "add", "b", "127.0.0.1:2", "sha256:" + "0" * 64], "No space left"),
        ):
            done = run_dwcp(*command, *config)
            assert (done.returncode, words in done.stderr) == (7, True), done.stderr
            assert "Traceback" not in done.stderr
        assert run_dwcp("log", *config).returncode == 0
        assert run_dwcp("state", "verify", *config).returncode == 0
        filler.unlink()
        wait_until(lambda: daemon.get("/health")[1]["status"] == "healthy", "it has recovered")
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log_file.read_text()
    found = [json.loads(line) for line in run_dwcp("log", "--json", *config).stdout.splitlines()]
    assert [record["seq"] for record in found] == list(range(1, len(found) + 1))
    (resumed, *_) = [record for record in found if (record["kind"], record["event"]) == ("log", "resumed")]
    assert resumed["detail"]["lost"] > 0
    assert resumed["detail"]["reason"] == "No space left on device"
    assert verify(small_disk).findings == []


@pytest.mark.root
@pytest.mark.parametrize("used_before", [False, True])
def test_a_manager_that_finds_the_disk_full_runs_and_says_so_or_says_why_not(
    small_disk: Path, tmp_path: Path, used_before: bool
) -> None:
    daemon = Daemon(tmp_path, {"health": {"interval": "100ms"}})
    if used_before:
        with daemon:
            assert daemon.stop() == 0
        fill(small_disk)
        with daemon:
            wait_until(lambda: "No space left" in json.dumps(daemon.get("/health")[1]), "it is told")
            assert daemon.stop() == 0
    else:
        fill(small_disk)
        done = run_manager("--config", daemon.config_file)
        assert done.returncode == 7
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (small_disk / "identity" / "node.key").exists()
        assert run_manager("--config", daemon.config_file).returncode == 7
    assert not daemon.log_file.exists() or "Traceback" not in daemon.log_file.read_text()


@pytest.mark.root
def test_a_restore_on_a_full_disk_changes_nothing(small_disk: Path) -> None:
    make(small_disk)
    before = dict(snapshots.read_state(small_disk))
    (taken,) = snapshots.find(small_disk)
    fill(small_disk)
    options = ["--set", f"storage.state_dir={small_disk}"]
    done = run_dwcp("state", "restore", taken.name, *options)
    assert done.returncode == 7
    assert "free space there" in done.stderr
    assert dict(snapshots.read_state(small_disk)) == before
    assert [path.name for path in snapshots.paths(small_disk)] == [taken.name]


# -- damage ------------------------------------------------------------------------------------------------------------


def make(state: Path) -> None:
    """Something of everything."""
    layout.enter(state, 5, untold)
    load_or_create(state / "identity", "n")
    peers = "peers:\n  b:\n    address: 127.0.0.1:1\n    fingerprint: sha256:" + "0" * 64 + "\n"
    (state / "peers.yaml").write_text(peers)
    write_limit(state, 5_000_000)
    remember(state, "b", PathMemory(8, 1e8, "bbr"))
    recorder = Recorder(state, 2**20)
    recorder.write("node", "start", pid=4711)
    recorder.write("transfer", "begin", peer="b", id="1", target="inbox/x")
    recorder.write("transfer", "end", peer="b", id="1", state="done")
    layout.take_snapshot(state, "manual", 5, recorder.write)


def damaged(model: Path, state: Path, path: Path, raw: bytes) -> None:
    """`state` becomes a copy of `model` with `raw` in one of its files."""
    if state.exists():
        shutil.rmtree(state)
    shutil.copytree(model, state)
    (state / path).write_bytes(raw)


def variants(raw: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    """With one bit changed, with zeros for a while, cut."""
    for _ in range(count):
        at = chance.randrange(len(raw))
        flipped = bytearray(raw)
        flipped[at] ^= 1 << chance.randrange(8)
        yield bytes(flipped)
    at = chance.randrange(len(raw))
    yield raw[:at] + bytes(len(raw) - at)
    yield raw[: chance.randrange(len(raw))]


def test_any_damaged_byte_is_told_or_harmless_and_never_a_traceback(tmp_path: Path) -> None:
    chance = random.Random(4711)
    model, state = tmp_path / "model", tmp_path / "state"
    make(model)
    assert verify(model).findings == []
    checksummed = ("version", "logs/", "snapshots/")
    paths = [path.relative_to(model) for path in sorted(model.rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(paths) > 10
    for path in paths:
        for raw in variants((model / path).read_bytes(), chance, 10):
            damaged(model, state, path, raw)
            found = verify(state).findings
            if str(path).startswith(checksummed) and path.name != "lock":
                # a last record that is cut is a note: nobody was told that it was there
                assert any(f"/{path.parts[0]}" in finding.text for finding in found), (path, raw)
            shows(state)
    # the same through the manager, which starts or says why not
    for path in paths:
        for raw in variants((model / path).read_bytes(), chance, 2):
            damaged(model, state, path, raw)
            asyncio.run(start_or_say_why(state))


def shows(state: Path) -> None:
    """What commands do first with it; each may raise a DwcpError, which has words."""
    for look in (
        lambda: layout.enter(state, 5, untold),
        lambda: snapshots.take(state, "manual", 5, layout=2, program="x"),
        lambda: [snapshots.check(path) for path in snapshots.paths(state)],
    ):
        try:
            look()
        except DwcpError as error:
            assert str(error)
    before = [entry for entry in LogReader(state).poll() if isinstance(entry, Record)]
    Recorder(state, 2**20).write("limit", "set")
    after = [entry for entry in LogReader(state).poll() if isinstance(entry, Record)]
    assert after[-1].kind == "limit"
    # what was whole stays, in its order
    kept = [entry for entry in after if entry in before]
    assert kept == before


async def start_or_say_why(state: Path) -> None:
    values: dict[str, Any] = {
        "node": {"name": "n"},
        "transport": {"listen": "127.0.0.1:0"},
        "http": {"listen": "127.0.0.1:0", "tls_listen": ""},
        "storage": {"state_dir": str(state)},
    }
    try:
        async with Manager(Config.model_validate(values)) as node:
            assert node.health().status in ("healthy", "degraded")
    except StateError as error:
        assert str(state) in str(error)
