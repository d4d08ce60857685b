"""Schemathesis asks everything that the OpenAPI document allows, and what it does not, and compares the answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dwcp.api.routes import ENDPOINTS
from tests.processes import OWN_NETWORK, Daemon, clean_environment, no_own_network

ENDLESS = {"/debug/pprof/profile"} | {e.path for e in ENDPOINTS if e.media_type == "text/event-stream"}
"""Takes as long as it is asked to, or for ever; tested by hand in test_debug.py."""
BEYOND_A_SCHEMA = """
[[operations]]
include-path-regex = "^/(jobs|limit|workloads|cluster/workloads)$"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "404"]
"""
"""What is a rate, a schedule or a target, JSON Schema cannot say."""
SETTINGS = {
    "debug": {"enabled": True},
    "peers": {"away": {"address": "127.0.0.1:1", "fingerprint": f"sha256:{'0' * 64}"}},
}


def schemathesis(directory: Path, url: str, *options: str, prefix: tuple[str, ...] = ()) -> None:
    (directory / "schemathesis.toml").write_text(BEYOND_A_SCHEMA)
    code = "from schemathesis.cli import schemathesis; schemathesis()"
    command = [*prefix, sys.executable, "-c", code, "run", f"{url}/openapi.json", *options]
    excluded = [f"--exclude-path={path}" for path in sorted(ENDLESS)]
    done = subprocess.run(
        [*command, *excluded, "--checks=all", "--max-examples=25", "--continue-on-failure", "--no-color"],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Stateful" in done.stdout


def unharmed(daemon: Daemon) -> None:
    assert "Traceback" not in daemon.log_file.read_text()
    assert daemon.stop() == 0


def test_it_finds_nothing_on_loopback(tmp_path: Path) -> None:
    with Daemon(tmp_path, SETTINGS) as daemon:
        schemathesis(tmp_path, f"http://127.0.0.1:{daemon.http}")
        assert daemon.get("/health")[0] == 200
        unharmed(daemon)


@pytest.mark.root
def test_it_finds_nothing_where_a_token_is_needed(tmp_path: Path) -> None:
    if reason := no_own_network():
        pytest.skip(reason)
    far = Daemon(tmp_path, prefix=OWN_NETWORK)
    far.configure({**SETTINGS, "http": {"listen": "10.9.0.1:8080", "tls_listen": ""}})
    with far:
        token = (far.state_dir / "identity" / "api-token").read_text().strip()
        inside = ("nsenter", "--target", str(far.running.pid), "--net")
        schemathesis(tmp_path, "http://10.9.0.1:8080", "-H", f"Authorization: Bearer {token}", prefix=inside)
        unharmed(far)
