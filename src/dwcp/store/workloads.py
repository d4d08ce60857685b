"""Workloads that were added by command or over HTTP: `workloads.yaml` in the state directory, below the configuration's
own."""

from __future__ import annotations

import re
from pathlib import Path

from dwcp.config import Config
from dwcp.config.load import as_written
from dwcp.config.model import NODE_NAME
from dwcp.config.workloads import WorkloadSection
from dwcp.errors import NotFoundError, UsageError
from dwcp.store import added

FILE = "workloads.yaml"
_HEADER = "# Written by `dwcp workload add` and `rm`. What the configuration says of a workload goes before.\n"


def with_workloads(config: Config) -> Config:
    """The configuration with the workloads that were added. Raises ConfigError when their file cannot be used."""
    return config.model_copy(update={"workloads": {**added_workloads(_file(config)), **config.workloads}})


def added_workloads(file: Path) -> dict[str, WorkloadSection]:
    """By name; empty where there is no file. Raises ConfigError with the place of each problem."""
    return added.read(file, "workloads").workloads


def add_workload(config: Config, name: str, workload: WorkloadSection, *, replace: bool = False) -> None:
    """Raises UsageError when the name is taken, ConfigError or StateError when the file cannot be used."""
    if not re.fullmatch(NODE_NAME, name):
        raise UsageError(f"{name!r} cannot be a name; allowed: letters, digits, . _ -, at most 63")
    file = _file(config)
    with added.locked(file.parent):
        workloads = added_workloads(file)
        if name in config.workloads and name not in workloads:
            raise UsageError(f"workload {name!r} is in the configuration, which goes before; change it there")
        if name in workloads and not replace:
            raise UsageError(f"there is a workload {name!r} already; remove it first, or replace it")
        _write(file, {**workloads, name: workload})


def remove_workload(config: Config, name: str) -> None:
    """What is at its targets stays. Raises NotFoundError, UsageError for one of the configuration, ConfigError or
    StateError."""
    file = _file(config)
    with added.locked(file.parent):
        workloads = added_workloads(file)
        if name in workloads:
            del workloads[name]
            _write(file, workloads)
            return
    if name in config.workloads:
        raise UsageError(f"workload {name!r} is in the configuration; remove it there")
    raise NotFoundError(f"no workload {name!r} was added; there are: {', '.join(sorted(workloads)) or 'none'}")


def _file(config: Config) -> Path:
    return Path(config.storage.state_dir) / FILE


def _write(file: Path, workloads: dict[str, WorkloadSection]) -> None:
    """Only what differs from the defaults, as a person would write it."""
    entries = {}
    for name, workload in workloads.items():
        written = as_written(workload)
        usual = as_written(WorkloadSection(source=workload.source, targets=workload.targets))
        entries[name] = {
            key: value for key, value in written.items() if key in ("source", "targets") or value != usual[key]
        }
    added.write(file, _HEADER, "workloads", entries)
