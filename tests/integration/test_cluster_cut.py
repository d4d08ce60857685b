"""Three machines, each with a manager and a member of etcd, and links between them that are cut."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dwcp.store.identity import load_or_create
from dwcp.testing import etcd
from dwcp.testing.etcd import EtcdCluster
from tests.bridged import Bridged, no_bridge
from tests.certificates import Authority
from tests.processes import Daemon
from tests.support import wait_until

REASON = etcd.missing() or no_bridge()
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(REASON), reason=REASON)]

LEASE = 2.0
NAMES = ("n1", "n2", "n3")


class Machines:
    """The manager of machine 0 is `n1`, and the first owner of `db`."""

    def __init__(self, network: Bridged, directory: Path, managers: list[Daemon]) -> None:
        self.network = network
        self.directory = directory
        self.managers = managers

    def data(self, number: int) -> Path:
        return self.directory / NAMES[number] / "inbox" / "db" / "table"

    def get(self, number: int, path: str) -> Any:
        url = f"http://127.0.0.1:{self.managers[number].http}{path}"
        shown = subprocess.run(
            self.network.inside(number, "curl", "-s", "-m", "5", url), capture_output=True, check=True
        )
        return json.loads(shown.stdout)

    def workload(self, number: int) -> dict[str, Any]:
        return dict(self.get(number, "/cluster")["workloads"][0])

    def await_owner(self, name: str, seen_by: int, seconds: float = 20.0) -> None:
        wait_until(lambda: self.workload(seen_by)["owner"] == name, f"{name} owns it, seen by {seen_by}", seconds)

    def await_content(self, number: int, text: str) -> None:
        path = self.data(number)
        wait_until(lambda: path.exists() and path.read_text() == text, f"{text!r} is at {NAMES[number]}")

    def await_copies(self, token: int) -> None:
        def known() -> bool:
            nodes = self.get(0, "/cluster")["nodes"]
            copies = [node["copies"].get("db") for node in nodes]
            return len(nodes) == len(NAMES) and all(copy == {"token": token, "complete": True} for copy in copies)

        wait_until(known, "all have it")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with Bridged(3) as network, ExitStack() as stack:
        authority = Authority(tmp_path, "authority")
        server, client = authority.issue("server", *network.addresses), authority.issue("client")
        options = ["--cert-file", str(server.certificate), "--key-file", str(server.key)]
        options += ["--trusted-ca-file", str(authority.file), "--client-cert-auth"]
        cluster = EtcdCluster(
            tmp_path / "etcd",
            3,
            hosts=network.addresses,
            prefixes=[network.inside(number) for number in range(3)],
            options=options,
            scheme="https",
        )
        stack.enter_context(cluster)
        consensus = {
            "enabled": True,
            "endpoints": cluster.endpoints,
            "ca_file": str(authority.file),
            "cert_file": str(client.certificate),
            "key_file": str(client.key),
            "lease": f"{LEASE:g}s",
        }
        managers = []
        fingerprints = {
            name: load_or_create(tmp_path / name / "state" / "identity", name).fingerprint for name in NAMES
        }
        for number, name in enumerate(NAMES):
            others = {other: address for other, address in zip(NAMES, network.addresses, strict=True) if other != name}
            inbox = tmp_path / name / "inbox"
            inbox.mkdir()
            if number == 0:
                (inbox / "db").mkdir()
                (inbox / "db" / "table").write_text("first")
            settings: dict[str, Any] = {
                "node": {"name": name},
                "transport": {
                    "listen": f"{network.addresses[number]}:9000",
                    "congestion_algorithm": "cubic",
                    "connect_timeout": "2s",
                    "read_timeout": "3s",
                    "write_timeout": "3s",
                },
                "storage": {"exports": {"inbox": {"path": str(inbox)}}},
                "peers": {
                    other: {"address": f"{address}:9000", "fingerprint": fingerprints[other]}
                    for other, address in others.items()
                },
                "consensus": consensus,
                "health": {"interval": "1s"},
                "jobs": {"backoff": "200ms", "max_backoff": "500ms", "retries": 1000},
                "circuit_breaker": {"timeout": "200ms", "max_timeout": "500ms"},
                "workloads": {
                    "db": {
                        "source": str(inbox / "db"),
                        "targets": [f"{other}:inbox/db" for other in others],
                        "owners": list(NAMES),
                        "on_change": True,
                        "settle": "100ms",
                    }
                },
            }
            daemon = Daemon(tmp_path / name, settings, prefix=network.inside(number))
            managers.append(stack.enter_context(daemon))
        found = Machines(network, tmp_path, managers)
        found.await_owner("n1", 2)
        for number in (1, 2):
            found.await_content(number, "first")
        found.await_copies(found.workload(0)["token"])
        yield found


def test_an_owner_that_is_cut_off_is_followed_and_comes_back_as_none(machines: Machines) -> None:
    before = machines.workload(2)["token"]
    machines.network.cut(0)
    machines.await_owner("n2", 2, LEASE + 2.0)
    assert machines.workload(2)["token"] > before
    # what it has changed meanwhile goes nowhere
    machines.data(0).write_text("of the former owner")
    machines.data(1).write_text("second")
    machines.await_content(2, "second")
    wait_until(lambda: machines.get(0, "/health")["status"] == "degraded", "its health says so")
    wait_until(lambda: machines.get(0, "/cluster")["lease"] == "unconfirmed", "its lease has run out")
    machines.network.mend(0)
    machines.await_owner("n2", 0)
    machines.await_content(0, "second")
    assert machines.data(1).read_text() == machines.data(2).read_text() == "second"


def test_an_agreement_of_five_clients(tmp_path: Path) -> None:
    """Short here; `make soak` has ten minutes of it, three times."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.soak.agreement", "--seconds", "6", "--seeds", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "faults: linearizable" in result.stdout
