"""A managed workload under kill -9: every version that is listed afterwards restores to a state that the source had.

    python -m tests.soak.managed --kills 100 --seed 4711

Node A keeps a tree at B and C. In each round the tree changes, a run is asked for, and a node chosen by chance is
killed at a moment chosen by chance and started again; the round ends when the queue is empty and both have the tree.
The seed repeats changes, nodes and pauses, not what the scheduler makes of them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import stat
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import yaml

from dwcp.config import load_config
from dwcp.testing.lab import Lab, lab_down, lab_up, start_node
from dwcp.transfer.client import Peer, connect

PATIENCE = 90.0
"""Seconds for a round: some seconds of timeouts and pauses, on a machine that does much else."""
SETTINGS: dict[str, dict[str, Any]] = {
    "transport": {"read_timeout": "3s", "connect_timeout": "2s", "write_timeout": "3s", "max_streams": 16},
    "jobs": {"backoff": "100ms", "max_backoff": "1s", "retries": 1000},
    "circuit_breaker": {"timeout": "500ms", "max_timeout": "1s"},
    "health": {"interval": "1s"},
}


class ManagedError(Exception):
    """What a run has to end without."""


class Managed:
    """Three nodes, and a workload `db` of the first one at the two others. `with` stops them."""

    def __init__(self, directory: Path, **workload: Any) -> None:
        self.directory = directory
        self.source = directory / "db"
        self.source.mkdir(parents=True)
        self.lab: Lab = lab_up(directory / "lab", 3, SETTINGS)
        config_file = self.lab.nodes[0].config_file
        config = yaml.safe_load(config_file.read_text())
        targets = ["node2:inbox/db", "node3:inbox/db"]
        config["workloads"] = {"db": {"source": str(self.source), "targets": targets, **workload}}
        config_file.write_text(yaml.safe_dump(config))
        os.kill(self.lab.nodes[0].pid, signal.SIGHUP)
        self.config = load_config([config_file])

    def __enter__(self) -> Managed:
        return self

    def __exit__(self, *exc: object) -> None:
        lab_down(self.directory / "lab")

    def ask(self, method: str, path: str) -> Any:
        """What node A answers; None while it does not."""
        host, port = self.lab.nodes[0].http_url.removeprefix("http://").split(":")
        connection = HTTPConnection(host, int(port), timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return json.loads(answer.read()) if answer.status < 400 else None
        except OSError:
            return None
        finally:
            connection.close()

    def kill(self, number: int) -> None:
        """kill -9 of a node (0 is A), and a new start."""
        node = self.lab.nodes[number]
        os.kill(node.pid, signal.SIGKILL)
        os.waitpid(node.pid, 0)
        self.lab = start_node(self.lab, node.name)

    def until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise ManagedError(f"did not happen: {what}; jobs: {self.ask('GET', '/jobs')}")
            time.sleep(0.02)

    def idle(self) -> bool:
        """No job has to be done any more."""
        jobs = self.ask("GET", "/jobs")
        return jobs is not None and all(job["state"] in ("done", "cancelled") for job in jobs)

    def is_everywhere(self) -> bool:
        expected = picture(self.source)
        return all(picture(node.inbox / "db") == expected for node in self.lab.nodes[1:])

    def versions(self, peer: str) -> list[str]:
        async def act(connected: Peer) -> list[str]:
            return [version.id for version in await connected.versions("inbox/db")]

        return list(self._do(peer, act))

    def restore(self, peer: str, version: str) -> str:
        """Picture of what it restores to."""
        target = self.directory / f"{peer}-{version}"

        async def act(connected: Peer) -> None:
            await connected.restore("inbox/db", target, version=version)

        self._do(peer, act)
        return picture(target)

    def _do(self, peer: str, act: Any) -> Any:
        async def run() -> Any:
            async with connect(peer, config=self.config) as connected:
                return await act(connected)

        return asyncio.run(run())


def picture(top: Path) -> str:
    """A digest of everything that a tree is; of one that changes meanwhile, that of no tree."""
    running = hashlib.sha256()
    try:
        for path in [top, *sorted(top.rglob("*"))]:
            status = path.lstat()
            running.update(repr((path.relative_to(top), status.st_mode, status.st_mtime_ns)).encode())
            if stat.S_ISREG(status.st_mode):
                running.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return "changes"
    return running.hexdigest()


def change(source: Path, chance: random.Random, number: int) -> None:
    """Some files new, some changed, some gone; small ones and one of several leaves."""
    for _ in range(chance.randint(1, 6)):
        name = source / f"d{chance.randint(0, 3)}" / f"f{chance.randint(0, 9)}"
        name.parent.mkdir(exist_ok=True)
        if name.exists() and chance.random() < 0.3:
            name.unlink()
        else:
            name.write_bytes(chance.randbytes(chance.randint(0, 200_000)))
    with (source / "image").open("r+b" if (source / "image").exists() else "w+b") as file:
        file.truncate(6 * 2**20)
        file.seek(chance.randrange(6 * 2**20))
        file.write(chance.randbytes(chance.randint(1, 500_000)))
    (source / "round").write_text(str(number))


def run(directory: Path, kills: int, seed: int) -> str:
    """What was done, in a line. Raises ManagedError."""
    chance = random.Random(seed)
    with Managed(directory, keep="all") as managed:
        managed.until(lambda: managed.ask("GET", "/workloads"), "the workload is known")
        states = set()
        for number in range(kills):
            change(managed.source, chance, number)
            states.add(picture(managed.source))
            managed.until(lambda: managed.ask("POST", "/workloads/db/run"), "a run is asked for")
            time.sleep(chance.uniform(0.0, 0.6))
            managed.kill(chance.randrange(3))
            managed.until(lambda: managed.idle() and managed.is_everywhere(), f"round {number} (seed {seed})")
        checked = 0
        for peer in ("node2", "node3"):
            found = managed.versions(peer)
            if len(found) < kills:
                raise ManagedError(f"{peer} has {len(found)} versions of {kills} states")
            for version in found:
                if managed.restore(peer, version) not in states:
                    raise ManagedError(f"version {version} at {peer} is no state that the source had (seed {seed})")
                checked += 1
    return f"{kills} kills, {checked} versions restored bit for bit (seed {seed})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            print(run(Path(directory) / "managed", options.kills, options.seed))
        except ManagedError as error:
            print(f"managed workloads failed (seed {options.seed}): {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
