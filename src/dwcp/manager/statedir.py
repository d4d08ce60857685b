"""The state directory: made, claimed by one manager, and known to work."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from dwcp.config import Config
from dwcp.errors import StateError
from dwcp.manager.apart import Apart
from dwcp.manager.component import Background
from dwcp.store import durable, layout, snapshots
from dwcp.store.recorder import Recorder
from dwcp.supervise.health import HEALTHY, Health, Status

SUBDIRECTORIES = ("logs", "snapshots", "baselines", "identity")
"""The runbook's; backups and rollbacks know them by these names."""
SYNC_INTERVAL = 1.0
"""Seconds that a record may wait to be brought to the disk: what a power cut can cost. A kill costs nothing."""
SNAPSHOT_SECONDS = 60.0
"""For as much as a snapshot may hold, on a slow disk."""
_PROBE = 4096

log = structlog.get_logger()


def prepare(directory: Path) -> None:
    """Makes the directory and what belongs into it. Raises StateError."""
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        for name in SUBDIRECTORIES:
            (directory / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise layout.unusable(directory, error) from error


def write_run_file(directory: Path, name: str, addresses: Mapping[str, str]) -> None:
    """`run.json`, by which `dwcp status` finds the manager; whole or not at all."""
    content = {"pid": os.getpid(), "name": name, "addresses": dict(addresses), "started_at": time.time()}
    try:
        durable.write(directory / "run.json", json.dumps(content).encode(), sync=False)
    except OSError as error:
        # the state component says what is wrong with the directory
        log.warning("`dwcp status` will not find this manager", reason=error.strerror)


def remove_run_file(directory: Path) -> None:
    try:
        (directory / "run.json").unlink(missing_ok=True)
    except OSError as error:
        log.warning("run.json stays, though this manager ends", reason=error.strerror)


def tell_to_reload(directory: Path) -> str:
    """Sends SIGHUP to the manager that runs on the directory, where there is one; what was done, as a sentence.

    The process is held by a descriptor while it is looked at, so that no other can take its place (pidfd_open(2)). One
    that runs a `Manager` inside, without a handler for SIGHUP, would be ended by it and is left alone.
    """
    try:
        pid = int((directory / "lock").read_text())
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        return "no manager runs here; the next one that starts takes it over"
    try:
        if not _has_open(pid, directory / "lock"):
            return "no manager runs here; the next one that starts takes it over"
        if not _catches(pid, signal.SIGHUP):
            return f"the manager (pid {pid}) does not listen to signals; restart it to take this over"
        signal.pidfd_send_signal(descriptor, signal.SIGHUP)
    except PermissionError:
        return f"tell the running manager: `kill -HUP {pid}` as its user, or `systemctl reload dwcp-manager`"
    except (ProcessLookupError, FileNotFoundError):
        return "the manager has just ended; the next one that starts takes it over"
    finally:
        os.close(descriptor)
    return f"the running manager (pid {pid}) takes it over"


def _has_open(pid: int, path: Path) -> bool:
    wanted = path.stat()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            # closed since it was listed, or it leads to a file that is gone
            if os.path.samestat(link.stat(), wanted):
                return True
    return False


def _catches(pid: int, number: int) -> bool:
    """SigCgt of proc_pid_status(5): bit 0 is signal 1."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def api_token(directory: Path) -> str:
    """What requests that change something need on listeners that are not loopback; made at first use.

    Raises StateError.
    """
    path = directory / "identity" / "api-token"
    try:
        if not path.exists():
            durable.write(path, secrets.token_urlsafe(32).encode() + b"\n")
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise layout.unusable(directory, error) from error
    except UnicodeDecodeError as error:
        raise StateError(f"{path} is damaged ({error}); remove it, and a new one is made") from error
    if not token:
        raise StateError(f"{path} is empty, which would let everybody in; remove it, and a new one is made")
    return token


class StateComponent(Background):
    """The `state` component: its check writes to the state directory and reads back.

    Beside that it brings the log to the disk, and takes snapshots.
    """

    name = "state"

    def __init__(self, directory: Path, recorder: Recorder, config: Callable[[], Config]) -> None:
        self._directory = directory
        self._recorder = recorder
        self._config = config
        self._no_snapshot = ""
        self._work = Apart("dwcp-state")
        self._checks = Apart("dwcp-check-state")

    async def check(self) -> Health:
        trouble = self._trouble()
        if trouble:
            return Health(Status.UNHEALTHY, f"no snapshots are taken any more: {trouble}")
        await self._checks.run(self._write_and_read)
        await self._checks.run(self._recorder.retry)
        if self._no_snapshot:
            await self._work.run(self._snapshot)
        reasons = [reason for reason in (self._recorder.failure, self._no_snapshot) if reason]
        return Health(Status.DEGRADED, "; ".join(reasons)) if reasons else HEALTHY

    async def _run(self) -> None:
        due = time.monotonic() + await self._work.run(self._until_next)
        while True:
            await self._sleep(SYNC_INTERVAL)
            if self._recorder.unsynced:
                await self._work.run(self._recorder.sync)
            if time.monotonic() >= due:
                self._alive(SNAPSHOT_SECONDS)
                await self._work.run(self._snapshot)
                due = time.monotonic() + self._config().storage.snapshot_interval

    def _until_next(self) -> float:
        """Seconds from the newest snapshot on; a clock that was set back makes it no longer than the interval."""
        interval = self._config().storage.snapshot_interval
        try:
            newest = snapshots.find(self._directory)[:1]
        except OSError:
            # taking one tells what is wrong
            return 0.0
        ages = [time.time() - snapshot.manifest.taken_at.timestamp() for snapshot in newest]
        return min(interval, max(0.0, interval - ages[0])) if ages else 0.0

    def _snapshot(self) -> None:
        """Takes one where something has changed. One that fails is tried again with each check."""
        storage = self._config().storage
        try:
            if snapshots.is_changed(self._directory):
                layout.take_snapshot(self._directory, "interval", storage.snapshot_keep, self._recorder.note)
        except StateError as error:
            if not self._no_snapshot:
                log.warning("no snapshot of the state could be taken", reason=str(error))
            self._no_snapshot = str(error)
        else:
            self._no_snapshot = ""

    def _write_and_read(self) -> None:
        # it may have been lost meanwhile, with its mount
        prepare(self._directory)
        content = os.urandom(_PROBE)
        path = self._directory / "health-probe"
        try:
            path.write_bytes(content)
            same = path.read_bytes() == content
            path.unlink()
        except OSError as error:
            raise StateError(f"the state directory {self._directory} cannot be written: {error.strerror}") from error
        if not same:
            raise StateError(f"the state directory {self._directory} does not give back what was written")
