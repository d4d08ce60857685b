"""The runbook's scripts and `dwcp bench`, against real nodes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwcp.testing.lab import Lab
from tests.processes import clean_environment, run_dwcp

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
RUNBOOKS = ["check-system-resources.sh", "diagnose-components.sh", "dwcp-status.sh", "benchmark-dwcp-manager.sh"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab.up(tmp_path_factory.mktemp("scripts") / "lab", 2) as up:
        yield up


@pytest.fixture(scope="module")
def dwcp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `dwcp` under test, as the scripts are told of it."""
    program = tmp_path_factory.mktemp("bin") / "dwcp"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dwcp.cli "$@"\n')
    program.chmod(0o755)
    return program


def script(name: str, dwcp: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=clean_environment(DWCP=str(dwcp))
    )


def areas(done: subprocess.CompletedProcess[str]) -> set[str]:
    document: dict[str, Any] = json.loads(done.stdout)
    return {finding["area"] for finding in document["findings"]}


def test_resources(lab: Lab, dwcp: Path) -> None:
    done = script(RUNBOOKS[0], dwcp, "--json", "--config", lab.nodes[0].config_file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert areas(done) == {"machine", "disk", "kernel", "ports", "rdma"}


def test_components(lab: Lab, dwcp: Path) -> None:
    done = script(RUNBOOKS[1], dwcp, "--json", "--config", lab.nodes[0].config_file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert areas(done) == {"configuration", "state", "components", "peers"}


def test_status(lab: Lab, dwcp: Path) -> None:
    done = script(RUNBOOKS[2], dwcp, "--json", "--config", lab.nodes[0].config_file)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"]["node"] == "node1"


def test_benchmark(dwcp: Path, tmp_path: Path) -> None:
    done = script(RUNBOOKS[3], dwcp, "--json", "--size", "8MiB", "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    results = {row["name"]: row for row in json.loads(done.stdout)["results"]}
    assert results["throughput, TCP"]["value"] > 0
    assert 0 < results["health p50, idle"]["value"] <= results["health p99, idle"]["value"]
    assert 0 < results["CPU, receiver"]["value"] <= 100
    assert 0 < results["memory, receiver"]["value"] < 100
    assert results["throughput, RDMA"]["met"] is None
    assert list(tmp_path.iterdir()) == []


def test_the_table_for_people_has_the_expectation_beside_what_was_measured(tmp_path: Path) -> None:
    done = run_dwcp("bench", "--size", "1MiB", "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["measured", "expected", "met"]
    assert any(line.startswith("throughput, TCP") and "> 800 Mbit/s" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [(["--size", "much"], 2, "no size"), (["--size", "1KiB"], 2, "less than"), (["--dir", "/proc"], 7, "another one")],
)
def test_what_cannot_be_measured_says_why(arguments: list[str], code: int, word: str) -> None:
    done = run_dwcp("bench", *arguments)
    assert (done.returncode, word in done.stderr) == (code, True), done.stderr


@pytest.mark.skipif(Path("/opt/dwcp/venv").exists(), reason="here dwcp is installed")
def test_without_dwcp_a_script_says_where_to_get_it(tmp_path: Path) -> None:
    for name in (RUNBOOKS[2], "find-dwcp.sh"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        shutil.copy(SCRIPTS / name, tmp_path / "scripts" / name)
    done = subprocess.run(
        [str(tmp_path / "scripts" / RUNBOOKS[2])],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, "dwcp is not installed" in done.stderr) == (3, True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck (scripts/install-test-tools.sh)")
def test_shellcheck_finds_nothing() -> None:
    files = sorted(str(path) for path in SCRIPTS.glob("*.sh"))
    assert set(RUNBOOKS) < {Path(file).name for file in files}
    done = subprocess.run(
        ["shellcheck", "--external-sources", *files],
        cwd=SCRIPTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
