"""The dashboard is what its code makes, and a Prometheus with live nodes answers all of its queries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deployments.live import Watched, metric_names

GRAFANA = Path(__file__).parent.parent.parent / "deployments" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dwcp-manager.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
NOT_YET = ("recovery_success:ratio", "dwcp_manager_recovery_seconds", "dwcp_transfer_seconds")
"""In queries about restarts and transfers, of which the watched nodes may have had none."""


def test_the_dashboard_is_what_its_code_makes() -> None:
    done = subprocess.run([sys.executable, GRAFANA / "generate.py"], capture_output=True, check=True)
    assert (GRAFANA / "dwcp-manager.json").read_bytes() == done.stdout, "run `make dashboard`"


def test_it_is_where_the_runbook_links_to() -> None:
    assert DASHBOARD["uid"] == "dwcp-manager"


def test_panels_are_told_apart_say_what_they_mean_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"] and panel["targets"] for panel in PANELS)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("query", QUERIES)
def test_prometheus_answers_each_query_over_the_nodes_that_are_chosen(watched: Watched, query: str) -> None:
    """For all nodes, as the variable's All does; what did not happen yet has nothing to say."""
    found = watched.series(query.replace("$instance", ".*"))
    names = metric_names(query)
    assert names
    if not any(name in query for name in NOT_YET):
        assert found, query
        assert all(watched.query(name) for name in names)
    if "$instance" in query:
        assert watched.series(query.replace("$instance", "nobody")) == []


def test_every_metric_of_our_own_that_changes_is_shown_or_alerted_on(watched: Watched) -> None:
    shown = set().union(*(metric_names(query) for query in QUERIES))
    recorded = [rule["query"] for group in watched.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    shown |= set().union(*(metric_names(query) for query in recorded))
    served = {name for name in watched.get("/api/v1/label/__name__/values") if name.startswith("dwcp_")}
    # the histogram's other half, the times at which counters began, and what throughput shows as well
    extra = {"dwcp_http_request_seconds_sum", "dwcp_http_request_seconds_count"}
    extra |= {"dwcp_http_requests_total", "dwcp_transport_throughput_bytes_per_second"}
    # of histograms whose mean is shown
    extra |= {"dwcp_manager_health_check_seconds_bucket"}
    shown |= {f"{name}_bucket" for name in NOT_YET}
    assert {name for name in served if not name.endswith("_created")} - shown == extra
