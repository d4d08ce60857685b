"""`dwcp report` of a node that has done something."""

from __future__ import annotations

import json
from pathlib import Path

from tests.processes import Daemon, run_dwcp


def test_a_report_of_what_a_node_did(tmp_path: Path) -> None:
    """From the log alone, also after a kill."""
    with Daemon(tmp_path) as daemon:
        daemon.running.kill()
        daemon.running.wait()
    with Daemon(tmp_path) as daemon:
        assert daemon.stop() == 0
    out = tmp_path / "report.html"
    done = run_dwcp("report", "--config", daemon.config_file, "-o", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"No transfer ended. The report is in {out}.\n"
    assert "<h1>n</h1>" in out.read_text()
    figures = json.loads(run_dwcp("report", "--config", daemon.config_file, "--since", "1h", "--json").stdout)
    assert (figures["node"], figures["starts"], figures["kills"], figures["transfers"]) == ("n", 2, 1, 0)
    printed = run_dwcp("report", "--config", daemon.config_file, "-o", "-")
    assert printed.stdout.startswith("<!doctype html>")


def test_what_cannot_be_reported_is_said(tmp_path: Path) -> None:
    without = run_dwcp("report", "--set", f"storage.state_dir={tmp_path}")
    assert without.returncode == 3
    assert "no transaction log" in without.stderr
    assert run_dwcp("report", "--set", f"storage.state_dir={tmp_path}", "--since", "long ago").returncode == 2
    with Daemon(tmp_path) as daemon:
        daemon.stop()
    done = run_dwcp("report", "--config", daemon.config_file, "-o", tmp_path / "no" / "where.html")
    assert done.returncode == 7
    assert "No such file or directory" in done.stderr
