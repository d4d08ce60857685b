"""What `dwcp doctor` makes of what it finds."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from dwcp.config import Config
from dwcp.doctor import judge
from dwcp.doctor.finding import Finding, Level
from dwcp.errors import AuthenticationError, StateError, UnreachableError, VersionError

GIB = 2**30
GOOD = judge.Machine(16, 32 * GIB, 20 * GIB, 65536, judge.OLDEST + 1e6, 0.01)
SPACE = judge.Space("/var/lib/dwcp", True, True, "dwcp", 500 * GIB, 400 * GIB, 10_000)
VALUES = {
    "net.ipv4.tcp_available_congestion_control": "reno cubic bbr",
    "net.ipv4.tcp_allowed_congestion_control": "reno cubic bbr",
    "net.ipv4.tcp_congestion_control": "cubic",
    "net.core.rmem_max": "16777216",
    "net.core.wmem_max": "16777216",
    "net.ipv4.tcp_ecn": "1",
    "net.ipv4.tcp_window_scaling": "1",
    "net.ipv4.tcp_sack": "1",
}


def config(**transport: Any) -> Config:
    return Config.model_validate({"transport": transport})


def levels(findings: list[Finding]) -> dict[str, Level]:
    return {finding.name: finding.level for finding in findings}


def test_whatever_is_wrong_says_what_is_wanted_and_how_to_get_it() -> None:
    bad = judge.Machine(1, GIB, 2**20, 1024, 0.0, None)
    small = replace(SPACE, total=GIB, free=2**20, exists=False, writable=False)
    findings = [
        *judge.machine(bad, Config()),
        *judge.kernel(judge.Kernel(dict.fromkeys(VALUES, "0")), Config()),
        *judge.kernel(judge.Kernel({}), Config()),
        judge.disk("state", small),
        judge.directory("state", "directory", small, user="dwcp", write=True),
        *judge.ports([judge.Port("http.listen", "127.0.0.1:8080", errno.EADDRINUSE, False)], None),
        *judge.rdma([], "RDMA device not found: mlx5_0", has_package=False, config=config(enable_rdma=True)),
        judge.peer("b", "b:9000", "sha256:0", UnreachableError("no")),
        *judge.components({"status": "degraded", "components": {"state": "degraded"}}, "localhost:1"),
        *judge.configuration(["a.yaml"], ["a.yaml:1:1: x"], ["a.yaml"]),
        *judge.state(["damaged"], [], has_identity=False),
        *judge.no_peers(),
    ]
    wrong = [finding for finding in findings if finding.level is not Level.OK]
    assert len(wrong) > 20
    assert [finding for finding in wrong if not (finding.found and finding.wanted and finding.fix)] == []
    assert [finding for finding in wrong if not finding.command] == []


def test_a_machine_as_the_runbook_wants_it_is_fine() -> None:
    assert set(levels(judge.machine(GOOD, Config())).values()) == {Level.OK}


@pytest.mark.parametrize(
    ("change", "name", "level"),
    [
        ({"cores": 7.5}, "cores", Level.WARNING),
        ({"cores": 8}, "cores", Level.OK),
        ({"memory_total": 15 * GIB}, "memory", Level.OK),
        ({"memory_total": 8 * GIB}, "memory", Level.WARNING),
        ({"memory_available": 255 * 2**20}, "memory available", Level.PROBLEM),
        ({"memory_available": 256 * 2**20}, "memory available", Level.OK),
        ({"memory_total": None}, "memory", Level.WARNING),
        ({"descriptors": 65535}, "descriptors", Level.WARNING),
        ({"descriptors": None}, "descriptors", Level.OK),
        ({"clock_error": None}, "clock", Level.WARNING),
        ({"clock_error": -1.0}, "clock", Level.WARNING),
        ({"clock_error": 1.5}, "clock", Level.WARNING),
        ({"clock_error": 1.0}, "clock", Level.OK),
        ({"clock_now": 0.0}, "clock", Level.PROBLEM),
    ],
)
def test_each_part_of_a_machine(change: dict[str, Any], name: str, level: Level) -> None:
    assert levels(judge.machine(replace(GOOD, **change), Config()))[name] is level


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, Level.OK),
        ({"total": 50 * GIB, "free": 40 * GIB}, Level.WARNING),
        ({"free": 49 * GIB}, Level.WARNING),
        ({"free": GIB - 1}, Level.PROBLEM),
        ({"files_free": 0}, Level.PROBLEM),
        ({"files_free": None}, Level.OK),
    ],
)
def test_disks(change: dict[str, Any], level: Level) -> None:
    assert judge.disk("state", replace(SPACE, **change)).level is level


def test_a_state_directory_that_the_first_start_can_make_is_no_problem() -> None:
    missing = replace(SPACE, exists=False)
    assert judge.directory("state", "directory", missing, user="dwcp", write=True).level is Level.OK
    assert judge.directory("disk", "export inbox", missing, user="dwcp", write=True).level is Level.PROBLEM
    closed = replace(SPACE, writable=False)
    assert judge.directory("state", "directory", closed, user="dwcp", write=True).level is Level.PROBLEM
    assert judge.directory("disk", "export outbox", closed, user="dwcp", write=False).level is Level.OK


def kernel(wanted: Config | None = None, **changed: str) -> dict[str, Finding]:
    values = {**VALUES, **{key.replace("__", "."): value for key, value in changed.items()}}
    return {finding.name: finding for finding in judge.kernel(judge.Kernel(values), wanted or Config())}


def test_a_kernel_that_gives_all_that_is_asked_for() -> None:
    assert {finding.level for finding in kernel().values()} == {Level.OK}


def test_a_congestion_control_that_is_not_there_has_to_be_loaded() -> None:
    found = kernel(net__ipv4__tcp_available_congestion_control="reno cubic")["congestion control available"]
    assert found.level is Level.WARNING
    assert found.command.startswith("modprobe tcp_bbr && ")
    other = kernel(config(congestion_algorithm="cubic"), net__ipv4__tcp_available_congestion_control="reno cubic")
    assert {finding.level for finding in other.values()} == {Level.OK}
    assert other["bbr"].found == "not loaded"


def test_one_that_only_root_may_use_has_to_be_allowed() -> None:
    found = kernel(net__ipv4__tcp_allowed_congestion_control="reno cubic")["congestion control allowed"]
    assert found.command.startswith("sysctl -w net.ipv4.tcp_allowed_congestion_control='reno cubic bbr'")


def test_buffers_that_are_smaller_than_asked_for() -> None:
    found = kernel(net__core__rmem_max="212992")["net.core.rmem_max"]
    assert found.level is Level.WARNING
    assert found.command.startswith("sysctl -w net.core.rmem_max=16777216 && ")
    assert kernel(config(recv_buffer_size=212992), net__core__rmem_max="212992")["net.core.rmem_max"].level is Level.OK


@pytest.mark.parametrize(
    ("value", "wanted", "level"),
    [
        ("1", True, Level.OK),
        ("2", True, Level.WARNING),
        ("0", True, Level.WARNING),
        ("3", True, Level.OK),
        ("2", False, Level.OK),
        ("1", False, Level.WARNING),
    ],
)
def test_ecn(value: str, wanted: bool, level: Level) -> None:
    assert kernel(config(enable_ecn=wanted), net__ipv4__tcp_ecn=value)["net.ipv4.tcp_ecn"].level is level


@pytest.mark.parametrize(
    ("error", "ours", "level", "word"),
    [
        (0, False, Level.OK, "free"),
        (0, True, Level.OK, "pid 7"),
        (errno.EADDRINUSE, False, Level.PROBLEM, "in use"),
        (errno.EADDRNOTAVAIL, False, Level.PROBLEM, "assign"),
        (errno.EACCES, False, Level.PROBLEM, "denied"),
    ],
)
def test_ports(error: int, ours: bool, level: Level, word: str) -> None:
    (finding,) = judge.ports([judge.Port("http.listen", "10.0.0.1:80", error, ours)], 7)
    assert finding.level is level
    assert word in finding.found


def test_rdma_counts_only_where_it_is_asked_for() -> None:
    trouble = "RDMA device not found: mlx5_0"
    assert levels(judge.rdma([], None, has_package=False, config=Config())) == {"devices": Level.OK}
    wanted = judge.rdma([], trouble, has_package=False, config=config(enable_rdma=True))
    assert levels(wanted) == {"devices": Level.WARNING, "package": Level.WARNING}
    needed = judge.rdma([], trouble, has_package=True, config=config(enable_rdma=True, rdma_required=True))
    assert levels(needed) == {"devices": Level.PROBLEM}
    there = judge.rdma(["mlx5_0"], None, has_package=True, config=config(enable_rdma=True))
    assert levels(there) == {"devices": Level.OK}


@pytest.mark.parametrize(
    ("address", "outcome", "level", "word"),
    [
        ("b:9000", 0.0123, Level.OK, "12.3 ms"),
        (None, None, Level.OK, "connects to this node"),
        ("b:9000", None, Level.WARNING, "not tried"),
        ("b:9000", UnreachableError("cannot connect"), Level.PROBLEM, "cannot connect"),
        ("b:9000", AuthenticationError("another identity"), Level.PROBLEM, "another identity"),
        ("b:9000", StateError("cannot read"), Level.PROBLEM, "cannot read"),
        ("b:9000", VersionError("no version"), Level.PROBLEM, "no version"),
    ],
)
def test_peers(address: str | None, outcome: Any, level: Level, word: str) -> None:
    finding = judge.peer("b", address, "sha256:0", outcome)
    assert finding.level is level
    assert word in finding.found


def test_components_have_the_words_of_health() -> None:
    health = {
        "status": "unhealthy",
        "components": {
            "transport": "unhealthy",
            "compression": "degraded",
            "state": "healthy",
            "circuit_breaker": "open",
        },
        "reasons": {"transport": "cannot listen"},
    }
    found = {finding.name: finding for finding in judge.components(health, "127.0.0.1:8081")}
    assert found["transport"].level is Level.PROBLEM
    assert found["transport"].found == "unhealthy: cannot listen"
    assert found["compression"].level is Level.WARNING
    assert found["state"].level is Level.OK
    assert found["circuit_breaker"].command == "curl -X POST http://127.0.0.1:8081/circuit-breaker/reset"
    assert levels(judge.components(None, "", "cannot read run.json")) == {"manager": Level.PROBLEM}
    assert levels(judge.components(None, "")) == {"manager": Level.WARNING}
