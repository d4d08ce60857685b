"""The soft budget of a manager that runs: too small a one shows everywhere it should, and transfers still arrive."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from dwcp.config import Config
from dwcp.manager.runner import Runner
from dwcp.metrics.durations import Durations
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.testing.lab import Lab
from tests.integration.test_http import ask
from tests.processes import DEADLINE, run_dwcp
from tests.support import random_file, wait_until

CONTRACT = "dwcp_transport_latency_milliseconds use base unit"
"""The runbook has this name; promtool would have seconds."""


def metrics(address: str) -> dict[str, float]:
    """Those without labels."""
    families = text_string_to_metric_families(ask(address, "GET", "/metrics").body.decode())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def test_a_budget_that_does_not_suffice_degrades_the_node_and_stops_nothing(tmp_path: Path) -> None:
    random_file(tmp_path / "content", 30_000_000)
    # a manager takes more than this before it has done anything
    with Lab.up(tmp_path / "lab", 2, {"memory": {"limit": "64MiB"}, "health": {"interval": "100ms"}}) as lab:
        sender, receiver = lab.nodes
        address = receiver.http_url.removeprefix("http://")
        wait_until(lambda: metrics(address)["dwcp_manager_memory_shrink_level"] == 3, "buffers have shrunk")
        found = metrics(address)
        assert found["dwcp_manager_memory_limit_bytes"] == 64 * 2**20
        assert found["dwcp_manager_memory_resident_bytes"] > 64 * 2**20
        assert found["dwcp_manager_memory_shrinks_total"] == 3
        assert found["dwcp_transport_buffers_limit_bytes"] == 2 * 2**20
        wait_until(lambda: "memory" in ask(address, "GET", "/health").json.get("reasons", {}), "health says so")
        health = ask(address, "GET", "/health")
        assert (health.status, health.json["status"], health.json["components"]["memory"]) == (
            200,
            "degraded",
            "degraded",
        )
        assert "memory.limit is 64.0 MiB" in health.json["reasons"]["memory"]
        done = run_dwcp("send", "--config", sender.config_file, tmp_path / "content", f"{receiver.name}:inbox/content")
        assert done.returncode == 0, done.stderr
        assert (receiver.inbox / "content").read_bytes() == (tmp_path / "content").read_bytes()


def test_histograms_of_what_was_done_and_names_as_promtool_wants_them(tmp_path: Path) -> None:
    random_file(tmp_path / "content", 1000)
    with Lab.up(tmp_path / "lab", 2, {"health": {"interval": "100ms"}}) as lab:
        sender, receiver = lab.nodes
        done = run_dwcp("send", "--config", sender.config_file, tmp_path / "content", f"{receiver.name}:inbox/content")
        assert done.returncode == 0, done.stderr
        address = receiver.http_url.removeprefix("http://")

        def counted(name: str, **labels: str) -> float:
            families = text_string_to_metric_families(ask(address, "GET", "/metrics").body.decode())
            samples = [sample for family in families for sample in family.samples]
            return sum(s.value for s in samples if s.name == f"{name}_count" and labels.items() <= s.labels.items())

        wait_until(lambda: counted("dwcp_transfer_seconds", role="receive", state="done") == 1, "it has ended")
        for component in ("state", "transport", "memory", "http"):
            wait_until(lambda c=component: counted("dwcp_manager_health_check_seconds", component=c) > 1, component)
        assert counted("dwcp_http_request_seconds", route="/metrics") > 1
        wait_until(lambda: "latency_milliseconds{" in ask(address, "GET", "/metrics").body.decode(), "a peer was seen")
        if shutil.which("promtool") is None:
            pytest.skip("needs promtool (prometheus)")
        content = ask(address, "GET", "/metrics").body
        checked = subprocess.run(["promtool", "check", "metrics"], input=content, capture_output=True, check=False)
        complaints = checked.stderr.decode().splitlines()
        assert [line for line in complaints if not line.startswith(CONTRACT)] == []
        # 1: it could not be read; 3: it was read, and there are complaints
        assert checked.returncode in (0, 3)


class Ailing:
    """Fails its check until it has been restarted twice."""

    name = "ailing"

    def __init__(self) -> None:
        self.starts = 0

    async def start(self) -> None:
        self.starts += 1

    async def stop(self) -> None:
        """Nothing runs."""

    async def check(self) -> Health:
        return HEALTHY if self.starts == 3 else Health(Status.UNHEALTHY, "not yet")


def test_a_recovery_is_timed_from_the_fault_to_the_check_that_is_well() -> None:
    settings = {"interval": "100ms", "recovery_backoff": "200ms", "recovery_jitter": 0.0}
    config = Config.model_validate({"health": settings})
    durations, registry = Durations(), CollectorRegistry()
    durations.register(registry)

    def value(suffix: str) -> float | None:
        return registry.get_sample_value(f"dwcp_manager_recovery_seconds_{suffix}", {"component": "ailing"})

    async def run() -> None:
        runner = Runner({Ailing(): ()}, lambda: config, durations=durations)
        await runner.start()
        async with asyncio.timeout(DEADLINE):
            while runner.recoveries()["ailing"].successes == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await runner.stop()

    asyncio.run(run())
    assert value("count") == 1
    # the backoffs of both restarts: 0.2 s and 0.4 s
    assert (value("sum") or 0) >= 0.6
    assert (registry.get_sample_value("dwcp_manager_health_check_seconds_count", {"component": "ailing"}) or 0) >= 3
