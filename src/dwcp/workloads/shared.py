"""Workloads that are declared once for all nodes of a cluster, in its registry.

Such a declaration names places, NODE:EXPORT/PATH, in the order in which their nodes should own it. What a node makes
of it is a workload like any other: its own place is the source, the others are the targets. So it can only be about
what is in exports, and a node takes it only where `consensus.shared_workloads` says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from dwcp.config import Config
from dwcp.config.workloads import NEVER_OVER_HTTP, TARGET, WorkloadSection
from dwcp.errors import StateError, UsageError
from dwcp.store import durable
from dwcp.wire.paths import check_relative

FILE = "shared-workloads"
OWN = ("source", "targets", "owners", *NEVER_OVER_HTTP)
"""Keys of a workload that follow from the places, or that no other node may set."""


class SharedRecord(msgspec.Struct, frozen=True):
    """`settings`: keys of `workloads.NAME`, as in a file."""

    places: list[str]
    settings: dict[str, Any] = {}


def check(name: str, record: SharedRecord) -> None:
    """Raises UsageError for what no node could take."""
    wrong = [key for key in OWN if key in record.settings]
    if wrong:
        raise UsageError(f"workload {name!r}: {', '.join(wrong)}: follow from the places, or cannot be shared")
    if len(record.places) < 2:
        raise UsageError(f"workload {name!r} needs two places at the least: NODE:EXPORT/PATH")
    for place in record.places:
        if not TARGET.fullmatch(place):
            raise UsageError(f"workload {name!r}: {place!r} is no place; write NODE:EXPORT/PATH")
    nodes = [place.partition(":")[0] for place in record.places]
    if len(set(nodes)) < len(nodes):
        raise UsageError(f"workload {name!r} has two places at one node")
    for place in record.places:
        check_relative(os.fsencode(place.partition(":")[2]))
    _section("/", record, nodes[0], name)


def declared(config: Config, shared: Mapping[str, SharedRecord]) -> tuple[dict[str, WorkloadSection], list[str]]:
    """What this node makes of it, by name; and what it cannot take, a line each."""
    found: dict[str, WorkloadSection] = {}
    problems: list[str] = []
    me = config.node.name
    for name, record in shared.items():
        own = {node: path for node, _, path in (place.partition(":") for place in record.places)}.get(me)
        if own is None:
            continue
        export, _, below = own.partition("/")
        if name in config.workloads:
            problems.append(f"workload {name} is declared by this node itself, which goes before the shared one")
        elif export not in config.storage.exports:
            problems.append(f"shared workload {name} is to be at {own}, and this node has no export {export}")
        else:
            try:
                found[name] = _section(str(Path(config.storage.exports[export].path) / below), record, me, name)
            except UsageError as error:
                problems.append(str(error))
    return found, problems


def _section(source: str, record: SharedRecord, me: str, name: str) -> WorkloadSection:
    targets = [place for place in record.places if place.partition(":")[0] != me]
    owners = [place.partition(":")[0] for place in record.places]
    try:
        return WorkloadSection.model_validate(
            {**record.settings, "source": source, "targets": targets, "owners": owners}
        )
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()]
        raise UsageError(f"workload {name!r}: {'; '.join(lines)}") from error


def recall(state_dir: Path) -> dict[str, SharedRecord]:
    """As they were last seen: a node that starts without the registry knows what it had to do. Raises StateError."""
    path = state_dir / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, SharedRecord])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(f"cannot read {path} ({error}); remove it: it comes again from the registry") from error


def remember(state_dir: Path, shared: Mapping[str, SharedRecord]) -> None:
    """Raises StateError."""
    path = state_dir / FILE
    try:
        durable.write(path, msgspec.json.encode(shared))
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}") from error
