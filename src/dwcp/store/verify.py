"""Looks at everything in the state directory, and says what is wrong. Nothing is changed, and a manager may run."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from dwcp.errors import DwcpError
from dwcp.store import identity, layout, path_memory, peers, restore, shared_rate, snapshots, txlog, workloads
from dwcp.store.records import Record
from dwcp.wire.authority import UNREADABLE


@dataclass(frozen=True, slots=True)
class Finding:
    """`harmless`: it is worth to know, but nothing is lost and nothing has to be done."""

    text: str
    harmless: bool = False


@dataclass(slots=True)
class Report:
    """What was looked at, by kind, and what was found."""

    counts: dict[str, int]
    findings: list[Finding]

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.harmless]


def verify(state_dir: Path) -> Report:
    """Raises OSError where the directory itself cannot be looked at."""
    state_dir.stat()
    report = Report({}, [])
    for what, look in _LOOKS.items():
        report.counts[what] = 0
        try:
            for finding in look(state_dir):
                if finding is None:
                    report.counts[what] += 1
                else:
                    report.findings.append(finding)
        except OSError as error:
            report.findings.append(Finding(f"{error.filename or state_dir}: cannot be read: {error.strerror}"))
    return report


def _version(state_dir: Path) -> Iterator[Finding | None]:
    if restore.is_pending(state_dir):
        yield Finding(f"{state_dir / restore.PLAN}: a restore was interrupted; the next start finishes it")
    try:
        version = layout.read_version(state_dir)
    except DwcpError as error:
        yield Finding(str(error))
        return
    if version is not None and version.layout < layout.LAYOUT:
        yield Finding(f"{state_dir}: is of version {version.layout}; the next start brings it to {layout.LAYOUT}", True)
    yield None


def _identity(state_dir: Path) -> Iterator[Finding | None]:
    directory = state_dir / "identity"
    key, certificate = directory / "node.key", directory / "node.crt"
    if not key.exists():
        if certificate.exists():
            yield Finding(f"{key}: is missing, and the node's identity with it; restore it from a snapshot")
        return
    for path in (key, directory / "api-token"):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding(f"{path}: others may read it; `chmod 600` it")
    if not certificate.exists():
        yield Finding(f"{certificate}: is missing; the next start makes a new one", True)
        return
    try:
        # both are there, so that nothing is made
        found = identity.load_or_create(directory, "node")
        parsed = x509.load_pem_x509_certificate(found.certificate_pem)
        if not found.signed_certificate:
            parsed.verify_directly_issued_by(parsed)
        yield None
    except InvalidSignature:
        yield Finding(f"{certificate}: is damaged: its signature does not match; move it away and a new one is made")
    except (DwcpError, *UNREADABLE) as error:
        yield Finding(str(error))


def _peers(state_dir: Path) -> Iterator[Finding | None]:
    return _entries(lambda: peers.added_peers(state_dir / peers.FILE))


def _workloads(state_dir: Path) -> Iterator[Finding | None]:
    return _entries(lambda: workloads.added_workloads(state_dir / workloads.FILE))


def _entries(read: Callable[[], Mapping[str, object]]) -> Iterator[Finding | None]:
    try:
        for _ in read():
            yield None
    except DwcpError as error:
        for line in str(error).splitlines():
            yield Finding(line)


def _limit(state_dir: Path) -> Iterator[Finding | None]:
    path = state_dir / "limit"
    if not os.path.lexists(path):
        return
    if shared_rate.read_limit(state_dir) is None:
        yield Finding(f"{path}: is no rate, and does not count; set it anew with `dwcp limit`")
    else:
        yield None


def _paths(state_dir: Path) -> Iterator[Finding | None]:
    directory = state_dir / path_memory.DIRECTORY
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if snapshots.TEMPORARY.fullmatch(path.name):
            continue
        try:
            msgspec.json.decode(path.read_bytes(), type=path_memory.PathMemory)
            yield None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield Finding(f"{path}: is damaged ({error}), and does not count; remove it")


def _log(state_dir: Path) -> Iterator[Finding | None]:
    reader = txlog.LogReader(state_dir)
    try:
        for entry in reader.poll():
            yield None if isinstance(entry, Record) else Finding(str(entry))
        torn = reader.torn()
    except FileNotFoundError:
        # nothing was logged yet
        return
    if torn is not None:
        yield Finding(f"{torn}; whoever wrote it was killed, the next record cuts it off", True)


def _snapshots(state_dir: Path) -> Iterator[Finding | None]:
    for path in snapshots.paths(state_dir):
        problems = snapshots.check(path)
        yield from (Finding(problem) for problem in problems)
        if not problems:
            yield None


def _run_file(state_dir: Path) -> Iterator[Finding | None]:
    path = state_dir / "run.json"
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or not isinstance(content.get("addresses"), dict):
            raise ValueError("it has no addresses")
        yield None
    except FileNotFoundError:
        # no manager runs
        return
    except ValueError as error:
        yield Finding(f"{path}: is damaged ({error}); restart the manager, which writes it anew")


_LOOKS: dict[str, Callable[[Path], Iterator[Finding | None]]] = {
    "version": _version,
    "identity": _identity,
    "peers": _peers,
    "workloads": _workloads,
    "limit": _limit,
    "paths": _paths,
    "run file": _run_file,
    "log records": _log,
    "snapshots": _snapshots,
}
"""Each yields None for what is well."""
