"""The state directory: made, claimed by one manager, and known to work."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from dwcp.errors import StateError
from dwcp.supervise.health import HEALTHY, Health

SUBDIRECTORIES = ("logs", "snapshots", "baselines", "identity")
"""The runbook's; backups and rollbacks know them by these names."""
_PROBE = 4096


def prepare(directory: Path) -> None:
    """Makes the directory and what belongs into it. Raises StateError."""
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        for name in SUBDIRECTORIES:
            (directory / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"cannot use the state directory {directory}: {error.strerror}; "
            f"make it writable for this user, or name another in storage.state_dir"
        ) from error


class Claim:
    """flock(2) on `lock` in the state directory, which names the process that has it."""

    def __init__(self, directory: Path) -> None:
        """Raises StateError while another manager has it."""
        self._path = directory / "lock"
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"cannot open {self._path}: {error.strerror}; make it writable for this user") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise StateError(
                f"another manager (pid {holder}) uses the state directory {directory}; "
                f"stop that one, or give this one its own storage.state_dir"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def write_run_file(directory: Path, name: str, addresses: Mapping[str, str]) -> None:
    """`run.json`, by which `dwcp status` finds the manager; whole or not at all."""
    content = {"pid": os.getpid(), "name": name, "addresses": dict(addresses), "started_at": time.time()}
    temporary = directory / f"run.json.{os.getpid()}"
    temporary.write_text(json.dumps(content))
    temporary.replace(directory / "run.json")


def remove_run_file(directory: Path) -> None:
    (directory / "run.json").unlink(missing_ok=True)


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
    """What requests that change something need on listeners that are not loopback; made at first use."""
    path = directory / "identity" / "api-token"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    return path.read_text().strip()


class StateComponent:
    """The `state` component: its check writes to the state directory and reads back."""

    name = "state"

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def start(self) -> None:
        await asyncio.to_thread(prepare, self._directory)

    async def stop(self) -> None:
        """Nothing runs."""

    async def check(self) -> Health:
        await asyncio.to_thread(self._write_and_read)
        return HEALTHY

    def _write_and_read(self) -> None:
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
