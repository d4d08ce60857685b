"""Ownership from end to end on one machine: the owner of a workload is killed, and another node goes on."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from dwcp.cli.manager_http import ask
from dwcp.errors import DwcpError, NotFoundError, TemporaryError
from dwcp.testing import etcd
from dwcp.testing.etcd import EtcdCluster
from dwcp.testing.lab import Lab, LabNode, lab_down, lab_up, start_node

NAMES = ("node1", "node2", "node3")
LEASE = 3
PATIENCE = 30.0
"""Seconds for each thing that is to happen."""
LOOK = 0.02


def run_cluster_demo(directory: Path) -> None:
    """Prints a timeline. Raises NotFoundError without etcd, TemporaryError where something does not happen."""
    reason = etcd.missing()
    if reason:
        raise NotFoundError(reason)
    directory = directory.absolute()
    lab_down(directory)
    if (directory / "lab.json").exists():
        shutil.rmtree(directory)
    story = _Timeline()
    with EtcdCluster(directory / "etcd", len(NAMES)) as cluster:
        story.tell(f"three members of etcd are up: {', '.join(cluster.endpoints)}")
        settings: dict[str, dict[str, Any]] = {
            "consensus": {"enabled": True, "endpoints": cluster.endpoints, "lease": f"{LEASE}s"},
            # a peer that was killed is tried again soon
            "jobs": {"backoff": "200ms", "max_backoff": "1s", "retries": 1000},
            "circuit_breaker": {"timeout": "1s"},
        }
        try:
            lab = lab_up(directory, len(NAMES), settings)
            story.tell(f"three nodes are up; the workload `db` may be owned by {', '.join(NAMES)}")
            _Demo(lab, story).run()
        finally:
            lab_down(directory)


class _Timeline:
    def __init__(self) -> None:
        self._began = time.monotonic()

    def tell(self, what: str) -> None:
        click.echo(f"{time.monotonic() - self._began:7.2f} s  {what}")


class _Demo:
    def __init__(self, lab: Lab, story: _Timeline) -> None:
        self._lab = lab
        self._story = story

    def run(self) -> None:
        tell = self._story.tell
        self._write("node1", "as node1 has it")
        self._declare()
        token = self._await_owner("node1", seen_by="node3")
        tell(f"node1 owns `db` with fencing token {token}")
        self._await_everywhere("as node1 has it")
        tell("what node1 has is at node2 and node3")
        os.kill(self._node("node1").pid, signal.SIGKILL)
        killed = time.monotonic()
        tell(f"node1 is killed (SIGKILL); its lease lasts {LEASE} s at the most")
        token = self._await_owner("node2", seen_by="node3")
        tell(f"node2 owns `db` with fencing token {token}, {time.monotonic() - killed:.1f} s after")
        self._write("node2", "as node2 has it")
        self._await("node3", "as node2 has it")
        tell("what node2 has changed is at node3")
        self._lab = start_node(self._lab, "node1")
        tell("node1 is started again: it owns nothing")
        self._await("node1", "as node2 has it")
        tell("what node2 has changed is at node1")
        self._dwcp("node3", "workload", "move", "db", "node1")
        tell("dwcp workload move db node1")
        token = self._await_owner("node1", seen_by="node3")
        tell(f"node1 owns `db` with fencing token {token}")
        click.echo("\nAs node3 saw it (`dwcp cluster events`):")
        click.echo(self._dwcp("node3", "cluster", "events").rstrip())

    def _declare(self) -> None:
        owners = [part for name in NAMES for part in ("--owner", name)]
        for name in NAMES:
            targets = [f"{other}:inbox/db" for other in NAMES if other != name]
            source = str(self._data(name).parent)
            self._dwcp(name, "workload", "add", "db", source, *targets, *owners, "--on-change", "--settle", "200ms")

    def _write(self, name: str, text: str) -> None:
        self._data(name).parent.mkdir(exist_ok=True)
        self._data(name).write_text(text)

    def _await(self, name: str, text: str) -> None:
        def arrived() -> bool:
            with suppress(FileNotFoundError):
                return self._data(name).read_text() == text
            return False

        _await(arrived, f"{text!r} does not arrive at {name}")

    def _await_everywhere(self, text: str) -> None:
        for name in NAMES:
            self._await(name, text)

        def known() -> bool:
            nodes = self._cluster("node3")["nodes"]
            return all("db" in node["copies"] and node["copies"]["db"]["token"] for node in nodes)

        _await(known, "the nodes do not learn of each other's copies")

    def _await_owner(self, name: str, *, seen_by: str) -> int:
        def owned() -> bool:
            return any(workload["owner"] == name for workload in self._cluster(seen_by)["workloads"])

        _await(owned, f"{name} does not become the owner")
        return int(self._cluster(seen_by)["workloads"][0]["token"])

    def _cluster(self, name: str) -> dict[str, Any]:
        return dict(ask(self._node(name).http_url.removeprefix("http://"), "/cluster"))

    def _node(self, name: str) -> LabNode:
        return next(node for node in self._lab.nodes if node.name == name)

    def _data(self, name: str) -> Path:
        return self._node(name).inbox / "db" / "table"

    def _dwcp(self, name: str, *arguments: str) -> str:
        from dwcp.cli.main import main

        result = CliRunner().invoke(main, [*arguments, "--config", str(self._node(name).config_file)])
        if result.exit_code:
            raise DwcpError(f"dwcp {' '.join(arguments)} failed: {result.output.strip()}")
        return result.output


def _await(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TemporaryError(otherwise)
        time.sleep(LOOK)
