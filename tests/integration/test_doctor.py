"""`dwcp doctor` beside real nodes."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwcp.doctor import probes
from dwcp.doctor.examine import AREAS
from dwcp.testing.lab import Lab
from tests.processes import free_ports, run_dwcp


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab.up(tmp_path_factory.mktemp("doctor") / "lab", 2) as up:
        yield up


def doctor(*arguments: str | Path) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    done = run_dwcp("doctor", "--json", "--timeout", "2", *arguments)
    document = json.loads(done.stdout)
    found = {(one["area"], one["name"]): one for one in document["findings"]}
    assert sum(document["summary"].values()) == len(document["findings"])
    assert (done.returncode == 7) is (document["summary"]["problem"] > 0)
    return done.returncode, found


def changed(lab: Lab, directory: Path, sections: dict[str, Any]) -> Path:
    """The first node's configuration with other sections."""
    document = yaml.safe_load(lab.nodes[0].config_file.read_text())
    for name, section in sections.items():
        document[name] = {**document.get(name, {}), **section}
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_running_node_with_its_peer(lab: Lab) -> None:
    _, found = doctor("--config", lab.nodes[0].config_file)
    assert {area for area, _ in found} == set(AREAS)
    for key in ("transport.listen", "http.listen", "http.tls_listen"):
        assert f"(pid {lab.nodes[0].pid})" in found["ports", key]["found"]
    assert found["peers", "node2"]["level"] == "ok"
    assert "identity proved" in found["peers", "node2"]["found"]
    assert found["components", "transport"]["level"] == "ok"
    assert found["state", "contents"]["found"] == "whole"


def test_the_report_for_people_has_the_command_that_mends(lab: Lab, tmp_path: Path) -> None:
    file = changed(lab, tmp_path, {"storage": {"state_dir": str(tmp_path / "state")}})
    done = run_dwcp("doctor", "--config", file, "--area", "ports")
    assert done.returncode == 7
    # the node's ports are taken, by a manager that is not of this state directory
    number = lab.nodes[0].transport.rpartition(":")[2]
    assert f"$ ss -ltnp 'sport = :{number}'" in done.stdout
    assert "0 ok, 0 warnings, 3 problems" in done.stdout
    assert done.stderr == "dwcp: 3 problem(s); what mends each is said with it\n"


def test_peers_that_are_away_or_somebody_else(lab: Lab, tmp_path: Path) -> None:
    peers = {
        "away": {"address": f"127.0.0.1:{free_ports(1)[0]}", "fingerprint": f"sha256:{'1' * 64}"},
        "other": {"address": lab.nodes[1].transport, "fingerprint": f"sha256:{'2' * 64}"},
        "dials": {"fingerprint": f"sha256:{'3' * 64}"},
    }
    code, found = doctor("--config", changed(lab, tmp_path, {"peers": peers}), "--area", "peers")
    assert code == 7
    level = {name: one["level"] for (_, name), one in found.items()}
    assert level == {"node2": "ok", "away": "problem", "other": "problem", "dials": "ok"}
    assert "cannot connect" in found["peers", "away"]["found"]
    assert "peer remove other" in found["peers", "other"]["fix"]


def test_a_wrong_configuration_is_a_finding_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("transport:\n  max_streams: many\n")
    code, found = doctor("--config", file, "--area", "configuration", "--area", "machine")
    assert code == 7
    assert "2:3: transport.max_streams: found 'many'" in found["configuration", "contents"]["found"]
    assert found["configuration", "contents"]["command"] == f"dwcp-manager --config {file} --validate"
    assert ("machine", "cores") in found


def test_a_configuration_that_others_may_write_is_a_problem(lab: Lab, tmp_path: Path) -> None:
    file = changed(lab, tmp_path, {})
    file.chmod(0o666)
    assert doctor("--config", file, "--area", "configuration")[1]["configuration", "permissions"]["level"] == "problem"
    file.chmod(0o640)
    assert ("configuration", "permissions") not in doctor("--config", file, "--area", "configuration")[1]


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    state = tmp_path / "state"
    peer = {"address": "127.0.0.1:1", "fingerprint": f"sha256:{'1' * 64}"}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"storage": {"state_dir": str(state)}, "peers": {"b": peer}}))
    _, found = doctor("--config", file)
    assert not state.exists()
    assert found["state", "directory"]["level"] == "ok"
    assert found["peers", "b"]["level"] == "warning"
    state.mkdir()
    doctor("--config", file)
    assert list(state.iterdir()) == []


def test_damaged_state_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"storage": {"state_dir": str(tmp_path / "state")}}))
    assert run_dwcp("id", "--config", file).returncode == 0
    assert doctor("--config", file, "--area", "state")[0] == 0
    (tmp_path / "state" / "identity" / "node.key").write_text("no key")
    assert doctor("--config", file, "--area", "state")[1]["state", "contents"]["level"] == "problem"


def test_probes_read_this_machine() -> None:
    machine = probes.machine()
    assert 0 < machine.cores <= (os.cpu_count() or 1)
    assert machine.memory_total is not None
    assert machine.memory_available is not None
    assert 0 < machine.memory_available <= machine.memory_total
    assert machine.clock_error is None or machine.clock_error >= -1
    assert "reno" in probes.kernel().values["net.ipv4.tcp_available_congestion_control"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert probes.port("http.listen", address, None).error != 0
        assert probes.port("http.listen", address, f"[::]:{server.getsockname()[1]}").ours
    assert probes.port("http.listen", address, None).error == 0
