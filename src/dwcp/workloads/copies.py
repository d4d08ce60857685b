"""What this node has of each workload that may have several owners, as others have to know it."""

from __future__ import annotations

import os
from pathlib import Path

from dwcp.config import Config
from dwcp.store.fences import FenceRecord
from dwcp.transfer.fencing import Fences


def fence_key(cluster: str, workload: str) -> str:
    """What receivers know a workload by: names are only unique within a cluster."""
    return f"{cluster}/{workload}"


def copies(config: Config, cluster: str, fences: Fences) -> dict[str, tuple[int, bool]]:
    """(token of the ownership that it is of, whether it is complete) by workload; none where nothing is at the source.
    Reads the disk. Raises StateError."""
    records = {record.key: record for record in fences.known()}
    found = {}
    for name, workload in config.workloads.items():
        if workload.owners and Path(workload.source).exists():
            record = records.get(fence_key(cluster, name), FenceRecord(""))
            found[name] = _state(record, workload.source)
    return found


def _state(record: FenceRecord, source: str) -> tuple[int, bool]:
    received_here = bool(record.path) and os.path.realpath(record.path) == os.path.realpath(source)
    if not received_here or record.owned >= record.begun:
        return record.owned, True
    return record.begun, record.complete >= record.begun
