"""A pair of nodes, the machine's exporter, and a Prometheus with the deployment's own rules that scrapes them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import yaml

from dwcp.testing import etcd
from dwcp.testing.etcd import EtcdCluster
from dwcp.testing.lab import Lab, LabNode
from tests.processes import DEADLINE, free_ports, run_dwcp
from tests.support import random_file, wait_until

DEPLOYED = Path(__file__).parent.parent.parent / "deployments" / "prometheus"

_KEYWORDS = {"and", "or", "unless", "bool", "offset"}


def metric_names(expression: str) -> set[str]:
    """The metrics that a PromQL expression asks for."""
    rest = re.sub(r'\{[^}]*\}|\[[^\]]*\]|"[^"]*"', " ", expression)
    rest = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", rest)
    return set(re.findall(r"(?<![\w:.])[a-zA-Z_][\w:]*\b(?!\s*\()", rest)) - _KEYWORDS


class Watched:
    """`lab` is scraped each second; what the rules call minutes and seconds of waiting is one second."""

    def __init__(self, url: str, lab: Lab) -> None:
        self.url = url
        self.lab = lab

    def get(self, path: str) -> Any:
        with urlopen(self.url + path, timeout=DEADLINE) as answer:
            return json.load(answer)["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        """Raises urllib.error.HTTPError for an expression that Prometheus does not take."""
        found: list[dict[str, Any]] = self.get(f"/api/v1/query?query={quote(expression)}")["result"]
        return found

    def query(self, expression: str) -> list[float]:
        return [float(item["value"][1]) for item in self.series(expression)]

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/api/v1/targets")["activeTargets"]
        return found

    def firing(self, alert: str) -> list[dict[str, str]]:
        """The labels of its instances that fire."""
        return [item["metric"] for item in self.series(f'ALERTS{{alertname="{alert}", alertstate="firing"}}')]


def _configure(directory: Path, nodes: list[LabNode], exporter: str) -> Path:
    """The deployment's files with the targets of the lab, and without its patience."""
    config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    del config["alerting"]
    targets = {
        "dwcp-manager": [node.http_url.removeprefix("http://") for node in nodes],
        "node": [exporter],
    }
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    (directory / "rules").mkdir()
    for file in (DEPLOYED / "rules").iterdir():
        rules = yaml.safe_load(file.read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "1s"
        (directory / "rules" / file.name).write_text(yaml.safe_dump(rules))
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    return directory / "prometheus.yml"


@contextmanager
def process(log: Path, *command: str | Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(list(map(str, command)), stdout=output, stderr=output) as running:
        try:
            yield
        finally:
            running.kill()


@contextmanager
def watching(directory: Path) -> Iterator[Watched]:
    settings: dict[str, dict[str, Any]] = {
        "health": {"interval": "200ms", "metrics_interval": "200ms"},
        "circuit_breaker": {"failure_threshold": 2, "timeout": "500ms", "max_timeout": "500ms"},
        # declared, and never run: it has all metrics of a workload
        "workloads": {"db": {"source": "/srv/db", "targets": ["node2:inbox/db"], "max_age": "1h"}},
    }
    exporter, prometheus = (f"127.0.0.1:{port}" for port in free_ports(2))
    with ExitStack() as stack:
        if not etcd.missing():
            agreed = stack.enter_context(EtcdCluster(directory / "etcd", 1))
            settings["consensus"] = {"enabled": True, "endpoints": agreed.endpoints, "quorum_size": 1}
            # nobody has anything at its source: it waits for an owner
            shared = {"source": "/srv/shared", "targets": ["node2:inbox/shared"], "owners": ["node1", "node2"]}
            settings["workloads"]["shared"] = shared
        lab = stack.enter_context(Lab.up(directory / "lab", settings=settings))
        listen = f"--web.listen-address={exporter}"
        stack.enter_context(process(directory / "exporter.log", "prometheus-node-exporter", listen))
        config = _configure(directory, lab.nodes, exporter)
        arguments = [f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
        log = directory / "prometheus.log"
        stack.enter_context(process(log, "prometheus", *arguments, f"--web.listen-address={prometheus}"))
        watched = Watched(f"http://{prometheus}", lab)

        def up(count: int) -> bool:
            try:
                return watched.query("sum(up)") == [count]
            except OSError:
                # it does not listen yet
                return False

        wait_until(lambda: up(3), "Prometheus scrapes both nodes and the exporter")
        random_file(directory / "content", 2_000_000)
        sent = run_dwcp("send", "--config", lab.nodes[0].config_file, directory / "content", "node2:inbox/")
        assert sent.returncode == 0, sent.stderr
        # rates want two scrapes of each target; nothing had to be recovered, so that its share has no value
        rules = yaml.safe_load((DEPLOYED / "rules" / "dwcp-recording.yml").read_text())["groups"][0]["rules"]
        for name in (rule["record"] for rule in rules if "recovery_success" not in rule["record"]):
            wait_until(lambda name=name: any(value >= 0 for value in watched.query(name)), f"{name} is recorded")
        received = "instance:dwcp_transport_received_bits:rate1m"
        wait_until(lambda: sum(watched.query(received)) > 0, "the transfer is seen")
        yield watched
