"""The state directory as a command uses it, beside a manager or without one: of this program's version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dwcp.config import Config
from dwcp.store import layout
from dwcp.store.identity import Identity, load_or_create
from dwcp.store.recorder import Recorder


@dataclass(frozen=True, slots=True)
class State:
    identity: Identity
    recorder: Recorder


def open_state(config: Config) -> State:
    """With an identity; all of it is made where there is none. Raises StateError."""
    state_dir = Path(config.storage.state_dir)
    recorder = _recorder(config)
    layout.enter(state_dir, config.storage.snapshot_keep, recorder.write)
    return State(load_or_create(state_dir / "identity", config.node.name), recorder)


def open_existing(config: Config) -> Recorder:
    """For what changes a state directory and does not make one. Raises StateError."""
    state_dir = Path(config.storage.state_dir)
    recorder = _recorder(config)
    if state_dir.is_dir():
        layout.enter(state_dir, config.storage.snapshot_keep, recorder.write)
    return recorder


def _recorder(config: Config) -> Recorder:
    return Recorder(Path(config.storage.state_dir), config.storage.log_size, sync=True)
