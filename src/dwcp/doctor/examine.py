"""Looks at everything that was asked for, area by area."""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwcp.config import Config
from dwcp.doctor import judge, probes
from dwcp.doctor.finding import Finding
from dwcp.links.rdma_device import RdmaDevice
from dwcp.store.verify import verify


@dataclass(frozen=True, slots=True)
class Running:
    """The manager that runs on the state directory. `health`: what it answers to /health."""

    pid: int
    addresses: Mapping[str, str]
    health: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """What is looked at. `problems`: of the configuration, in whose place the default is then. `closed`: why
    nobody can say whether a manager runs. `timeout`: seconds for each step towards a peer."""

    config: Config
    files: Sequence[Path]
    problems: list[str]
    running: Running | None
    closed: str
    timeout: float


def examine(case: Case, areas: Sequence[str]) -> list[Finding]:
    """`areas`: names in AREAS."""
    return [finding for area in AREAS if area in areas for finding in AREAS[area](case)]


def _configuration(case: Case) -> list[Finding]:
    exposed = [file for file in case.files if file.exists() and file.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
    return judge.configuration([str(file) for file in case.files], case.problems, [str(file) for file in exposed])


def _machine(case: Case) -> list[Finding]:
    return judge.machine(probes.machine(), case.config)


def _disk(case: Case) -> list[Finding]:
    storage, user = case.config.storage, probes.user()
    findings = [judge.disk("state", probes.space(Path(storage.state_dir)))]
    for name, export in storage.exports.items():
        space = probes.space(Path(export.path))
        write = not export.read_only
        findings.append(judge.directory("disk", f"export {name}", space, user=user, write=write))
        if write:
            findings.append(judge.disk(f"export {name}", space))
    return findings


def _kernel(case: Case) -> list[Finding]:
    return judge.kernel(probes.kernel(), case.config)


def _ports(case: Case) -> list[Finding]:
    config, running = case.config, case.running
    wanted = {
        "transport": ("transport.listen", config.transport.listen),
        "http": ("http.listen", config.http.listen),
        "https": ("http.tls_listen", config.http.tls_listen),
    }
    has = running.addresses if running else {}
    seen = [probes.port(key, address, has.get(name)) for name, (key, address) in wanted.items() if address]
    return judge.ports(seen, running.pid if running else None)


def _rdma(case: Case) -> list[Finding]:
    transport = case.config.transport
    trouble = RdmaDevice(transport.rdma_device, transport.rdma_port).problem() if transport.enable_rdma else None
    has_package = importlib.util.find_spec("ucxx") is not None
    return judge.rdma(probes.rdma_devices(), trouble, has_package=has_package, config=case.config)


def _state(case: Case) -> list[Finding]:
    state_dir = Path(case.config.storage.state_dir)
    findings = [judge.directory("state", "directory", probes.space(state_dir), user=probes.user(), write=True)]
    if not os.access(state_dir, os.R_OK | os.X_OK):
        # not there yet, or somebody else's, which the finding says
        return findings
    report = verify(state_dir)
    notes = [finding.text for finding in report.findings if finding.harmless]
    problems = [finding.text for finding in report.problems]
    return [*findings, *judge.state(problems, notes, has_identity=probes.has_identity(state_dir))]


def _components(case: Case) -> list[Finding]:
    running = case.running
    if running is None:
        return judge.components(None, "", case.closed)
    return judge.components(running.health, running.addresses["http"])


def _peers(case: Case) -> list[Finding]:
    outcomes = probes.peers(case.config, case.timeout)
    known = case.config.peers.items()
    findings = [judge.peer(name, peer.address, peer.fingerprint, outcomes.get(name)) for name, peer in known]
    return findings or judge.no_peers()


AREAS: dict[str, Callable[[Case], list[Finding]]] = {
    "configuration": _configuration,
    "machine": _machine,
    "disk": _disk,
    "kernel": _kernel,
    "ports": _ports,
    "rdma": _rdma,
    "state": _state,
    "components": _components,
    "peers": _peers,
}
