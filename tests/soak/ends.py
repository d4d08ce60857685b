"""The two ends as processes: a manager in the far namespace, commands in the near one, and what they are sent with."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from dwcp.store.identity import load_or_create
from tests.processes import Daemon, clean_environment
from tests.soak.network import PORT, PROXY_PORT, Network

MIB = 2**20
STREAMS = 16
BUFFER = 256 * 1024
LEAF = MIB
WINDOW = STREAMS * (BUFFER + LEAF)
"""What a fault may cost at most: each stream's receive buffer, and a leaf of which a part was read from it."""
TIMEOUT = 2.0
TRANSPORT: dict[str, Any] = {
    "min_streams": STREAMS,
    "initial_streams": STREAMS,
    "max_streams": STREAMS,
    "send_buffer_size": BUFFER,
    "recv_buffer_size": BUFFER,
    "connect_timeout": TIMEOUT,
    "read_timeout": TIMEOUT,
    "write_timeout": TIMEOUT,
    "congestion_algorithm": "cubic",
    "enable_pacing": True,
    "pacing_rate": "480Mbit/s",
}


class Route(Enum):
    """How the near end reaches the far one. Plain connections are for loopback only, so the proxies make it one."""

    DIRECT = f"far:{PORT}"
    TLS = f"far:{PROXY_PORT}"
    PLAIN = f"127.0.0.1:{PROXY_PORT}"

    @property
    def proxied(self) -> bool:
        return self is not Route.DIRECT


class Ends:
    """`with Ends(directory, network, seed) as ends:`; the manager runs, and a proxy in each namespace."""

    def __init__(
        self, directory: Path, network: Network, seed: int = 0, transport: dict[str, Any] | None = None
    ) -> None:
        """`transport`: over TRANSPORT, at both ends."""
        self.directory = directory
        self.network = network
        self.inbox = directory / "inbox"
        self.peak = {"near": 0, "far": 0}
        """Most resident memory of any one process of that end, in bytes."""
        self._seed = seed
        self._transport = {**TRANSPORT, **(transport or {})}
        self._stack = contextlib.ExitStack()
        self._output = self._stack.enter_context((directory / "commands.log").open("ab"))
        self.manager = self._configure()

    def __enter__(self) -> Ends:
        try:
            self._far_proxy = self._start_proxy(self.network.far, "0.0.0.0", "127.0.0.1", PORT)
            self._start_proxy(self.network.near, "127.0.0.1", "far", PROXY_PORT)
            self.manager.__enter__()
            self._stack.push(self.manager)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _start_proxy(self, namespace: str, listen: str, host: str, port: int) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "tests.soak.proxy", listen, host, str(port), str(BUFFER), str(self._seed)]
        process = subprocess.Popen(
            self.network.inside(namespace, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        _answer(process)
        return process

    def _configure(self) -> Daemon:
        self.inbox.mkdir(parents=True)
        near, far = self.directory / "near", self.directory / "far"
        prints = {end.name: load_or_create(end / "state" / "identity", end.name).fingerprint for end in (near, far)}
        for route in Route:
            config = {
                "node": {"name": "near", "log_format": "json"},
                "transport": self._transport,
                "storage": {"state_dir": str(near / "state")},
                "peers": {"far": {"address": route.value, "fingerprint": prints["far"]}},
            }
            self._config_of(route).write_text(yaml.safe_dump(config))
        settings = {
            "node": {"name": "far"},
            "transport": {**self._transport, "listen": f":{PORT}"},
            "storage": {"state_dir": str(far / "state"), "exports": {"inbox": {"path": str(self.inbox)}}},
            "peers": {"near": {"fingerprint": prints["near"]}},
        }
        return Daemon(far, settings, prefix=self.network.inside(self.network.far), environment=_debuggable())

    def _config_of(self, route: Route) -> Path:
        return self.directory / f"{route.name.lower()}.yaml"

    def run(self, route: Route, words: list[str | Path], standard_input: Path | None = None) -> subprocess.Popen[bytes]:
        """`dwcp WORDS` at the near end, `words` beginning with the command."""
        command = [sys.executable, "-m", "dwcp.cli", words[0], "--json", "--config", self._config_of(route), *words[1:]]
        with (standard_input or Path(os.devnull)).open("rb") as source:
            return subprocess.Popen(
                self.network.inside(self.network.near, *command),
                stdin=source,
                stdout=self._output,
                stderr=self._output,
                env=_debuggable(),
            )

    def restart(self) -> None:
        """The manager, which has been killed."""
        self.manager.__exit__()
        self.manager.__enter__()

    def proxy(self, command: str) -> str:
        """Has the far end's proxy do something; what it says to that."""
        assert self._far_proxy.stdin is not None
        self._far_proxy.stdin.write(command + "\n")
        self._far_proxy.stdin.flush()
        return _answer(self._far_proxy)

    def measure(self, *commands: subprocess.Popen[bytes]) -> None:
        """Notes how much memory the processes have had at most."""
        for end, process in (("far", self.manager.running), *(("near", command) for command in commands)):
            self.peak[end] = max(self.peak[end], peak_of(process.pid))

    def keep_logs(self, name: str) -> str:
        """Where they can be read afterwards: all that both ends said."""
        kept = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        shutil.copy(self.directory / "commands.log", kept / "near")
        shutil.copy(self.manager.log_file, kept / "far")
        return str(kept)

    def logs(self, lines: int = 25) -> str:
        """The last of what both ends said."""
        parts = []
        for name, path in (("near", self.directory / "commands.log"), ("far", self.manager.log_file)):
            last = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"-- the last lines of the {name} end --", *last]))
        return "\n".join(parts)


def _answer(proxy: subprocess.Popen[str]) -> str:
    assert proxy.stdout is not None
    return proxy.stdout.readline().strip()


def tracebacks(process: subprocess.Popen[bytes]) -> None:
    """Has a process that hangs write down where each of its threads is, and end."""
    os.kill(process.pid, signal.SIGABRT)
    process.wait()


def peak_of(pid: int) -> int:
    """Bytes of resident memory at most so far; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _debuggable() -> dict[str, str]:
    """SIGABRT makes a process say where it is (faulthandler)."""
    return clean_environment(PYTHONFAULTHANDLER="1")
