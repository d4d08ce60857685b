"""Managers and commands as real processes; a manager says by sd_notify when it is ready, as under systemd."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import yaml

DEADLINE = 30.0
OWN_NETWORK = (
    "unshare",
    "--net",
    "--mount",
    "sh",
    "-c",
    'ip link set lo up && ip addr add 10.9.0.1/32 dev lo && mount -t tmpfs tmpfs /var/lib && exec "$@"',
    "sh",
)
"""A prefix: all ports are free, 10.9.0.1 is an address that is not loopback, /var/lib is empty."""


def no_own_network() -> str:
    """Why the prefix above cannot be used here; empty where it can."""
    if os.geteuid() != 0:
        return "needs root, for a network namespace of its own"
    try:
        subprocess.run(["curl", "--version"], capture_output=True, check=True)
        subprocess.run([*OWN_NETWORK, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"needs network and mount namespaces, ip and curl: {error}"
    return ""


def clean_environment(**more: str) -> dict[str, str]:
    """Without what the person who runs the tests has set for dwcp."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DWCP_", "NOTIFY_", "WATCHDOG_"))}
    return {**kept, **more}


def run_dwcp(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:
    """`dwcp ARGUMENTS` to its end, output captured. Options as of subprocess.run, and `prefix` as of Daemon."""
    return _run("dwcp.cli", *arguments, **options)


def run_manager(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:
    """`dwcp-manager ARGUMENTS` to its end, for what ends by itself."""
    return _run("dwcp.manager.daemon", *arguments, **options)


def _run(
    module: str, *arguments: str | Path, prefix: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[Any]:
    settings: dict[str, Any] = {
        "capture_output": True,
        "text": True,
        "timeout": DEADLINE,
        "check": False,
        "env": clean_environment(),
    }
    return subprocess.run([*prefix, sys.executable, "-m", module, *map(str, arguments)], **{**settings, **options})


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class Daemon:
    """`with Daemon(directory, settings) as daemon:` is a manager that has said READY=1; it is stopped at the end.

    `settings` go over a configuration with free ports and a state directory below `directory`, unless `files` are
    given. Output goes to `directory`/log. `prefix`: a command that ends in exec, like unshare(1), to run it under.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict[str, dict[str, Any]] | None = None,
        *,
        files: list[Path] | None = None,
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.transport, self.http, self.https = free_ports(3)
        self.config_file = directory / "config.yaml"
        self.log_file = directory / "log"
        self.files = files or [self.config_file]
        self._prefix = list(prefix)
        self._notify: socket.socket | None = None
        self._environment = clean_environment(NOTIFY_SOCKET=str(directory / "notify"), **(environment or {}))
        self.process: subprocess.Popen[bytes] | None = None
        if files is None:
            self.configure(settings or {})

    def configure(self, settings: dict[str, dict[str, Any]]) -> None:
        """Writes the configuration file."""
        config: dict[str, dict[str, Any]] = {
            "node": {"name": "n", "log_format": "json"},
            "http": {"listen": f"127.0.0.1:{self.http}", "tls_listen": f"127.0.0.1:{self.https}"},
            "transport": {"listen": f"127.0.0.1:{self.transport}"},
            "storage": {"state_dir": str(self.state_dir)},
        }
        for section, values in settings.items():
            config[section] = {**config.get(section, {}), **values}
        self.config_file.write_text(yaml.safe_dump(config))

    def __enter__(self) -> Daemon:
        (self.directory / "notify").unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.directory / "notify"))
        self._notify.settimeout(DEADLINE)
        arguments = [part for file in self.files for part in ("--config", str(file))]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "dwcp.manager.daemon", *arguments],
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        try:
            self.told_with("READY=1")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self.running.poll() is None:
            self.running.kill()
            self.running.wait()
        if self._notify is not None:
            self._notify.close()

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def told(self) -> list[str]:
        """The next notification's lines."""
        assert self._notify is not None
        try:
            return self._notify.recv(4096).decode().splitlines()
        except TimeoutError:
            raise AssertionError(f"no notification came; the log:\n{self.log_file.read_text()}") from None

    def told_with(self, word: str) -> list[str]:
        """The next notification that has `word` in it."""
        while word not in "\n".join(lines := self.told()):
            pass
        return lines

    def signal(self, number: int) -> None:
        self.running.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.running.wait(DEADLINE)

    def log(self) -> list[dict[str, Any]]:
        """What was logged so far."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def get(self, path: str) -> tuple[int, Any]:
        """(status, JSON) of a GET."""
        return self.ask("GET", path)

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.http, timeout=DEADLINE)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()
