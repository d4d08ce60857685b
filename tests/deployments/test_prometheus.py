"""What Prometheus is given: Debian's promtool takes it, and Debian's Prometheus runs it beside a pair of nodes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwcp.testing import etcd
from dwcp.testing.lab import start_node
from tests.deployments.live import Watched, metric_names
from tests.support import wait_until

PROMETHEUS = Path(__file__).parent.parent.parent / "deployments" / "prometheus"
ALERTS = PROMETHEUS / "rules" / "dwcp-alerts.yml"
RECORDING = PROMETHEUS / "rules" / "dwcp-recording.yml"
TESTS = PROMETHEUS / "tests" / "dwcp-alerts.yml"

RUNBOOK = {
    "DwcpManagerDown": ("P0", "30s"),  # Manager down for >30 seconds
    "DwcpCircuitBreakerOpen": ("P0", "5m"),  # Circuit breaker open for >5 minutes
    "DwcpTransportFailed": ("P0", "15s"),  # Transport layer failure
    "DwcpHighCpu": ("P1", "5m"),  # CPU usage >80% for 5 minutes
    "DwcpHighMemory": ("P1", "5m"),  # Memory usage >85% for 5 minutes
    "DwcpManyRecoveries": ("P1", "0s"),  # Recovery attempts >10 per minute
    "DwcpCircuitBreakerHalfOpen": ("P2", "0s"),  # Circuit breaker half-open state
    "DwcpRecoveryInProgress": ("P2", "0s"),  # Component recovery in progress
    "DwcpMetricsDelayed": ("P2", "0s"),  # Metrics collection delayed
}
OUR_OWN = {
    "DwcpComponentFailed": ("P1", "1m"),
    "DwcpWorkloadStale": ("P1", "1m"),
    "DwcpJobsParked": ("P1", "1m"),
    "DwcpStoredFilesDamaged": ("P1", "0s"),
    "DwcpConsensusLost": ("P1", "1m"),
    "DwcpWorkloadUnowned": ("P1", "1m"),
    "DwcpHostMetricsMissing": ("P2", "5m"),
}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (apt prometheus)")


def rules(file: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@needs_promtool
@pytest.mark.parametrize(
    "command", [["check", "config", PROMETHEUS / "prometheus.yml"], ["test", "rules", TESTS]], ids=["check", "test"]
)
def test_promtool_takes_the_configuration_and_the_rules_do_as_their_tests_say(command: list[str | Path]) -> None:
    done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_an_alert_for_each_threshold_of_the_runbook() -> None:
    found = {rule["alert"]: (rule["labels"]["severity"], rule.get("for", "0s")) for rule in rules(ALERTS)}
    assert found == RUNBOOK | OUR_OWN
    page = (PROMETHEUS.parent.parent / "docs" / "deployment.md").read_text()
    assert re.findall(r"^\| `(Dwcp\w+)` \| (P\d) \|", page, re.MULTILINE) == [
        (name, severity) for name, (severity, _) in found.items()
    ]
    assert all({"summary", "action"} <= rule["annotations"].keys() for rule in rules(ALERTS))


@pytest.mark.parametrize("alert", [*RUNBOOK, *OUR_OWN])
def test_each_alert_is_tested_before_it_fires_while_it_does_and_after(alert: str) -> None:
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    assert [bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert] == [False, True, False]


def test_both_nodes_and_their_machine_are_scraped(watched: Watched) -> None:
    jobs = [target["labels"]["job"] for target in watched.targets() if target["health"] == "up"]
    assert sorted(jobs) == ["dwcp-manager", "dwcp-manager", "node"]


@pytest.mark.parametrize(
    "rule", [*rules(ALERTS), *rules(RECORDING)], ids=lambda rule: rule.get("alert") or rule["record"]
)
def test_every_metric_that_a_rule_asks_for_is_there(watched: Watched, rule: dict[str, Any]) -> None:
    names = metric_names(rule["expr"])
    assert names
    if rule.get("alert") in ("DwcpConsensusLost", "DwcpWorkloadUnowned") and etcd.missing():
        pytest.skip(etcd.missing())
    assert [name for name in names if not watched.query(name)] == []


@pytest.mark.parametrize("name", [rule["record"] for rule in rules(RECORDING)])
def test_what_is_recorded_has_a_value_for_each_node(watched: Watched, name: str) -> None:
    # nothing had to be recovered, so that there is no share of what helped
    wanted = 0 if "recovery_success" in name else 1 if ":node_" in name else 2
    wait_until(lambda: len([value for value in watched.query(name) if not isnan(value)]) == wanted, name)


def test_what_is_recorded_is_right(watched: Watched) -> None:
    assert 0 < watched.query("instance:node_memory_usage:ratio")[0] < 1
    assert 0 <= watched.query("instance:node_cpu_usage:ratio_rate1m")[0] <= 1
    assert max(watched.query("instance:dwcp_transport_sent_bits:rate1m")) > 0


def test_no_rule_has_failed(watched: Watched) -> None:
    groups = watched.get("/api/v1/rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def test_a_node_that_is_gone_is_told_of_by_name_and_by_its_peer(watched: Watched) -> None:
    """The same rules as in production, with seconds for minutes. Last: it stops a node and starts it again."""
    victim = watched.lab.nodes[1]
    victim_instance = victim.http_url.removeprefix("http://")
    assert watched.firing("DwcpManagerDown") == []
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(
        lambda: [alert["instance"] for alert in watched.firing("DwcpManagerDown")] == [victim_instance], "it is down"
    )
    wait_until(
        lambda: [alert["peer"] for alert in watched.firing("DwcpCircuitBreakerOpen")] == [victim.name], "the peer tells"
    )
    assert {alert["severity"] for alert in watched.firing("DwcpManagerDown")} == {"P0"}
    watched.lab = start_node(watched.lab, victim.name)
    for name in ("DwcpManagerDown", "DwcpCircuitBreakerOpen"):
        wait_until(lambda name=name: watched.firing(name) == [], f"{name} clears")
