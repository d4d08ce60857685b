"""Three managers, three members of etcd: who owns a workload when somebody dies, stops, or is cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from dwcp.testing import etcd
from dwcp.testing.etcd import EtcdCluster
from dwcp.testing.lab import Lab, LabNode, lab_down, lab_up, start_node
from tests.processes import run_dwcp
from tests.support import wait_until

pytestmark = pytest.mark.skipif(bool(etcd.missing()), reason=etcd.missing())

LEASE = 2.0
BOUND = LEASE + 2.0


@dataclass
class Cluster:
    """Workload `db` is at `data/db` of each node, which is also what the others send to."""

    etcd: EtcdCluster
    lab: Lab

    def node(self, name: str) -> LabNode:
        return next(node for node in self.lab.nodes if node.name == name)

    def data(self, name: str) -> Path:
        return self.node(name).directory / "inbox" / "db"

    def get(self, name: str, path: str) -> Any:
        with urlopen(f"{self.node(name).http_url}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def workload(self, name: str) -> dict[str, Any]:
        """As a node sees it."""
        return dict(self.get(name, "/cluster")["workloads"][0])

    def owner(self, seen_by: str) -> str:
        with suppress(OSError):
            return str(self.workload(seen_by)["owner"])
        return ""

    def await_owner(self, names: set[str], seen_by: str, seconds: float = 20.0) -> str:
        wait_until(lambda: self.owner(seen_by) in names, f"{names} own it, seen by {seen_by}", seconds)
        return self.owner(seen_by)

    def await_content(self, name: str, text: str) -> None:
        def arrived() -> bool:
            with suppress(FileNotFoundError):
                return (self.data(name) / "table").read_bytes() == text.encode()
            return False

        wait_until(arrived, f"{text!r} is at {name}")

    def await_copies(self, names: set[str]) -> None:
        """Those nodes have what the owner has, and everybody knows."""

        def known() -> bool:
            found = self.get("node1", "/cluster")
            token = found["workloads"][0]["token"]
            copies = {node["name"]: node["copies"].get("db", {}) for node in found["nodes"]}
            return all(copies.get(name) == {"token": token, "complete": True} for name in names)

        wait_until(known, f"{names} have it")

    def dwcp(self, name: str, *arguments: str) -> str:
        result = run_dwcp(*arguments, "--config", self.node(name).config_file)
        assert result.returncode == 0, result.stderr
        return str(result.stdout)

    def signal(self, name: str, number: int) -> None:
        os.kill(self.node(name).pid, number)


def settings_of(endpoints: list[str], lease: float) -> dict[str, Any]:
    return {
        "consensus": {
            "enabled": True,
            "endpoints": endpoints,
            "lease": f"{lease:g}s",
            "quorum_size": len(endpoints),
            "shared_workloads": True,
        },
        "health": {"interval": "1s"},
        "jobs": {"backoff": "200ms", "max_backoff": "1s", "retries": 1000},
        "circuit_breaker": {"timeout": "500ms", "max_timeout": "1s"},
    }


def declare(lab: Lab) -> None:
    """Workload `db`, at all nodes, by their configuration files; they reload it."""
    for node in lab.nodes:
        config = yaml.safe_load(node.config_file.read_text())
        config["workloads"] = {
            "db": {
                "source": str(node.directory / "inbox" / "db"),
                "targets": [f"{other.name}:inbox/db" for other in lab.nodes if other is not node],
                "owners": [other.name for other in lab.nodes],
                "on_change": True,
                "settle": "100ms",
            }
        }
        node.config_file.write_text(yaml.safe_dump(config))
        os.kill(node.pid, signal.SIGHUP)


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd"), 3) as cluster:
        yield cluster


@pytest.fixture
def cluster(request: pytest.FixtureRequest, agreed: EtcdCluster, tmp_path: Path) -> Iterator[Cluster]:
    """The parameter: seconds of a lease."""
    lab = lab_up(tmp_path, 3, settings_of(agreed.endpoints, getattr(request, "param", LEASE)))
    made = Cluster(agreed, lab)
    try:
        made.data("node1").mkdir()
        (made.data("node1") / "table").write_text("first")
        declare(lab)
        made.await_owner({"node1"}, "node3")
        for name in ("node2", "node3"):
            made.await_content(name, "first")
        made.await_copies({"node1", "node2", "node3"})
        yield made
    finally:
        for node in made.lab.nodes:
            with suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGCONT)
        lab_down(tmp_path)
        clear(agreed)


def clear(cluster: EtcdCluster) -> None:
    subprocess.run(
        ["etcdctl", "--endpoints", cluster.endpoints[0], "del", "--prefix", "dwcp/"],
        check=True,
        capture_output=True,
        env={**os.environ, "ETCDCTL_API": "3"},
    )


def test_another_node_goes_on_where_the_owner_was_killed(cluster: Cluster) -> None:
    before = cluster.workload("node3")
    killed_at = time.monotonic()
    cluster.signal("node1", signal.SIGKILL)
    cluster.await_owner({"node2"}, "node3", BOUND)
    took = time.monotonic() - killed_at
    after = cluster.workload("node3")
    assert after["token"] > before["token"]
    (cluster.data("node2") / "table").write_text("second")
    cluster.await_content("node3", "second")
    # who comes back is no owner, and gets what there is now
    cluster.lab = start_node(cluster.lab, "node1")
    cluster.await_content("node1", "second")
    assert cluster.owner("node1") == "node2"
    print(f"another one owned it after {took:.1f} s")


def test_an_owner_that_wakes_up_in_the_middle_of_a_write_writes_nothing(cluster: Cluster) -> None:
    big = os.urandom(4 * 2**20)
    cluster.dwcp("node1", "limit", "1Mbit/s")
    (cluster.data("node1") / "table").write_bytes(big)
    for name in ("node2", "node3"):

        def arriving(name: str = name) -> bool:
            return any(transfer["wire_bytes"] > 2**14 for transfer in cluster.get(name, "/transfers"))

        wait_until(arriving, f"{name} is receiving")
    cluster.signal("node1", signal.SIGSTOP)
    # what was in the kernel's buffers when it was stopped may still arrive, and be whole
    cluster.await_owner({"node2"}, "node3", BOUND)
    (cluster.data("node2") / "table").write_text("second")
    cluster.await_content("node3", "second")
    cluster.signal("node1", signal.SIGCONT)
    cluster.await_owner({"node2"}, "node1")
    cluster.dwcp("node1", "limit", "off")
    cluster.await_content("node1", "second")
    for name in ("node2", "node3"):
        assert (cluster.data(name) / "table").read_text() == "second"
    log = "".join((cluster.node(name).directory / "manager.log").read_text() for name in ("node2", "node3"))
    assert "a former owner was stopped" in log


def test_a_workload_is_moved_and_a_node_drained(cluster: Cluster) -> None:
    (cluster.data("node1") / "table").write_text("newest")
    assert "goes to node3" in cluster.dwcp("node1", "workload", "move", "db", "node3")
    cluster.await_owner({"node3"}, "node1")
    assert (cluster.data("node3") / "table").read_text() == "newest", "it was brought up to date before"
    wait_until(lambda: not cluster.workload("node1")["moving_to"], "the move is done")
    refused = run_dwcp("workload", "move", "db", "node9", "--config", cluster.node("node1").config_file)
    assert refused.returncode == 2
    assert "node9 is not among its owners" in refused.stderr
    refused = run_dwcp("workload", "run", "db", "--config", cluster.node("node1").config_file)
    assert "is run by node3" in refused.stderr
    cluster.await_copies({"node1", "node2", "node3"})
    assert "hands over" in cluster.dwcp("node2", "node", "drain", "node3")
    cluster.await_owner({"node1"}, "node2")
    assert "node node3" in (status := cluster.dwcp("node2", "cluster", "status"))
    assert "drained" in status
    cluster.dwcp("node2", "node", "drain", "node3", "--undo")
    wait_until(lambda: "drained" not in cluster.dwcp("node2", "cluster", "status"), "it may own again")
    assert "hand-over" in cluster.dwcp("node3", "cluster", "events")
    assert "leader, etcd 3." in cluster.dwcp("node2", "cluster", "members")
    assert cluster.get("node2", "/health")["components"]["consensus"] == "healthy"


def test_a_workload_is_declared_once_for_all_nodes(cluster: Cluster) -> None:
    places = [f"{name}:inbox/www" for name in ("node2", "node1", "node3")]
    pages = {name: cluster.node(name).inbox / "www" for name in ("node1", "node2", "node3")}
    pages["node2"].write_text("a page")
    cluster.dwcp("node1", "cluster", "share", "www", *places, "--with", "every=1h")

    def owner(seen_by: str) -> str:
        return {found["name"]: found["owner"] for found in cluster.get(seen_by, "/cluster")["workloads"]}.get("www", "")

    wait_until(lambda: owner("node3") == "node2", "the first one owns it")
    for name in ("node1", "node3"):
        wait_until(lambda name=name: pages[name].exists(), f"it is at {name}")
    # a node that reads its own files again still knows
    cluster.signal("node2", signal.SIGHUP)
    assert "inbox/www" in cluster.dwcp("node2", "workload", "show", "www")
    taken = run_dwcp("cluster", "share", "bad", "node1:inbox/x", "--config", cluster.node("node1").config_file)
    assert taken.returncode == 2
    assert "needs two places" in taken.stderr
    cluster.dwcp("node3", "cluster", "unshare", "www")
    wait_until(lambda: not owner("node3"), "nobody owns it")
    assert pages["node3"].read_text() == "a page"


@pytest.mark.parametrize("cluster", [60.0], indirect=True)
def test_an_owner_that_is_restarted_in_time_is_the_owner(cluster: Cluster) -> None:
    before = cluster.workload("node1")
    cluster.signal("node1", signal.SIGTERM)
    wait_until(lambda: not cluster.node("node1").running, "it has stopped")
    cluster.lab = start_node(cluster.lab, "node1")
    (cluster.data("node1") / "table").write_text("after the restart")
    cluster.await_content("node2", "after the restart")
    assert cluster.workload("node1")["token"] == before["token"]


def test_without_a_quorum_nothing_stops_but_changes_of_owners(cluster: Cluster) -> None:
    stopped = cluster.etcd.members[:2]
    for member in stopped:
        member.kill()
    try:

        def told() -> bool:
            return "etcd has no quorum" in cluster.get("node2", "/health").get("reasons", {}).get("consensus", "")

        wait_until(told, "its health says what is lost")
        wait_until(lambda: cluster.get("node1", "/cluster")["lease"] == "unconfirmed", "its lease has run out")
        (cluster.data("node1") / "table").write_text("without a quorum")
        cluster.await_content("node2", "without a quorum")
        assert cluster.get("node1", "/health")["status"] == "degraded"
        moved = run_dwcp("workload", "move", "db", "node2", "--config", cluster.node("node1").config_file)
        assert moved.returncode == 5
        assert "no quorum" in moved.stderr
    finally:
        for member in stopped:
            cluster.etcd.start(member)
        for member in stopped:
            cluster.etcd.await_ready(member)
    wait_until(lambda: cluster.get("node1", "/cluster")["lease"] == "held", "it is there again")
    assert cluster.owner("node1") == "node1"


def test_etcds_leader_and_the_owner_die_together(cluster: Cluster) -> None:
    leader = next(member["endpoint"] for member in cluster.get("node2", "/cluster/members") if member["is_leader"])
    died = next(member for member in cluster.etcd.members if member.endpoint == leader)
    cluster.signal("node1", signal.SIGKILL)
    died.kill()
    try:
        # a new leader gives every lease its whole time once more
        cluster.await_owner({"node2"}, "node3", 2 * LEASE + 2.0)
    finally:
        cluster.etcd.start(died)
        cluster.etcd.await_ready(died)
