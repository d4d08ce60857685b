"""Several nodes on one machine: real processes, identities, ports and files, for newcomers, tests and benchmarks."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from dwcp.errors import DwcpError, StateError, TemporaryError, UsageError
from dwcp.store import layout
from dwcp.store.identity import load_or_create
from dwcp.store.recorder import untold

START_TIMEOUT = 20.0
"""Seconds for a node to become healthy; it takes well under two."""
STOP_TIMEOUT = 15.0
LOOK = 0.02
_FILE = "lab.json"


@dataclass(frozen=True, slots=True)
class LabNode:
    """One node. `born`: start time of its process in clock ticks, which tells it from a later one with its pid."""

    name: str
    directory: Path
    config_file: Path
    inbox: Path
    transport: str
    http_url: str
    pid: int
    born: int

    @property
    def running(self) -> bool:
        return _born(self.pid) == self.born


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab as it was started. `with Lab.up(directory) as lab:` stops it at the end."""

    directory: Path
    nodes: list[LabNode]

    @staticmethod
    @contextlib.contextmanager
    def up(directory: Path, nodes: int = 2, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Lab]:
        """`settings`: sections to put into each node's configuration, over the lab's own."""
        lab = lab_up(directory, nodes, settings)
        try:
            yield lab
        finally:
            lab_down(directory)


def lab_up(directory: Path, nodes: int = 2, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Lab:
    """Starts `nodes` managers that trust each other, and returns when none is unhealthy.

    One that was up before its peers is degraded until it looks at them again, which is `health.interval` later.

    Raises StateError when the directory holds a running lab, TemporaryError when a node does not become healthy; then
    the others are stopped again.
    """
    directory = directory.absolute()
    if any(lab_status(directory).values()):
        raise StateError(f"a lab runs in {directory} already; stop it with `dwcp lab down {directory}`")
    names = [f"node{number}" for number in range(1, nodes + 1)]
    ports = _free_ports(3 * nodes)
    fingerprints: dict[str, str] = {}
    for name in names:
        (directory / name / "inbox").mkdir(parents=True, exist_ok=True)
        state_dir = directory / name / "state"
        layout.enter(state_dir, keep=1, note=untold)
        fingerprints[name] = load_or_create(state_dir / "identity", name).fingerprint
    addresses = {name: ports[3 * number : 3 * number + 3] for number, name in enumerate(names)}
    for name in names:
        config = _config(directory, name, addresses, fingerprints)
        for section, values in (settings or {}).items():
            config[section] = {**config.get(section, {}), **values}
        (directory / name / "config.yaml").write_text(_HEADER + yaml.safe_dump(config, sort_keys=False))
    started: list[LabNode] = []
    try:
        for name in names:
            started.append(_start(directory, name, addresses[name]))
            _remember(directory, started)
        for node in started:
            _await_health(node)
    except BaseException:
        lab_down(directory)
        raise
    return Lab(directory, started)


def lab_down(directory: Path) -> int:
    """Stops what still runs of the lab, and only that; how many nodes it was. Their files stay."""
    running = [node for node in _recall(directory) if node.running]
    for node in running:
        with contextlib.suppress(ProcessLookupError):
            # it may end between the look and the signal
            os.kill(node.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    for node in running:
        while node.running and time.monotonic() < deadline:
            _reap(node.pid)
            time.sleep(LOOK)
        if node.running:
            os.kill(node.pid, signal.SIGKILL)
            _reap(node.pid, wait=True)
    return len(running)


def lab_status(directory: Path) -> dict[str, bool]:
    """Which nodes run, by name; empty where no lab ever was."""
    return {node.name: node.running for node in _recall(directory)}


_HEADER = """# Made by `dwcp lab up`. Pacing and BBR model a path between sites; loopback has neither rate nor distance,
# so both are off here. Everything else is as by default: `dwcp-manager --print-config --config` this file.
"""


def _config(
    directory: Path, name: str, addresses: Mapping[str, list[int]], fingerprints: Mapping[str, str]
) -> dict[str, Any]:
    transport, plain, tls = addresses[name]
    peers = {
        other: {"address": f"127.0.0.1:{addresses[other][0]}", "fingerprint": fingerprint}
        for other, fingerprint in fingerprints.items()
        if other != name
    }
    return {
        "node": {"name": name},
        "http": {"listen": f"127.0.0.1:{plain}", "tls_listen": f"127.0.0.1:{tls}"},
        "transport": {"listen": f"127.0.0.1:{transport}", "enable_pacing": False, "congestion_algorithm": "cubic"},
        "storage": {
            "state_dir": str(directory / name / "state"),
            "exports": {"inbox": {"path": str(directory / name / "inbox")}},
        },
        "peers": peers,
    }


def _start(directory: Path, name: str, ports: list[int]) -> LabNode:
    home = directory / name
    # no DWCP_ variable of whoever starts a lab may reach into it
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DWCP_")}
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "dwcp.manager.daemon", "--config", str(home / "config.yaml")],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(home / "manager.log"), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return LabNode(
        name=name,
        directory=home,
        config_file=home / "config.yaml",
        inbox=home / "inbox",
        transport=f"127.0.0.1:{ports[0]}",
        http_url=f"http://127.0.0.1:{ports[1]}",
        pid=pid,
        born=_born(pid) or 0,
    )


def start_node(lab: Lab, name: str) -> Lab:
    """Starts a node of the lab that has ended or was killed; the lab with its new process. Raises UsageError."""
    old = next((node for node in lab.nodes if node.name == name), None)
    if old is None or old.running:
        raise UsageError(f"no node {name!r} of the lab is stopped")
    ports = [int(address.rpartition(":")[2]) for address in (old.transport, old.http_url)]
    _reap(old.pid)
    new = _start(lab.directory, name, ports)
    nodes = [new if node.name == name else node for node in lab.nodes]
    _remember(lab.directory, nodes)
    _await_health(new)
    return Lab(lab.directory, nodes)


def _await_health(node: LabNode) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    host, port = node.http_url.removeprefix("http://").split(":")
    while time.monotonic() < deadline:
        try:
            # the first one is answered by the manager alone: where the one before was killed, what answers probes for
            # it may live an instant longer
            if all(_asked(host, int(port), path) == 200 for path in ("/status", "/health")):
                return
        except OSError:
            # not up yet, or dead: the next line knows
            if not node.running:
                break
        time.sleep(LOOK)
    _reap(node.pid)
    tail = "\n".join((node.directory / "manager.log").read_text(errors="replace").splitlines()[-10:])
    raise TemporaryError(f"{node.name} did not become healthy; the end of its log:\n{tail}")


def _asked(host: str, port: int, path: str) -> int:
    """The status of the answer. Raises OSError."""
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _remember(directory: Path, nodes: list[LabNode]) -> None:
    temporary = directory / f"{_FILE}.new"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(nodes, enc_hook=str)))
    temporary.replace(directory / _FILE)


def _recall(directory: Path) -> list[LabNode]:
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=list[LabNode], dec_hook=_as_path)
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as error:
        raise DwcpError(f"{directory / _FILE} is damaged: {error}; stop its processes by hand") from error


def _as_path(kind: type, value: Any) -> Any:
    return Path(value) if kind is Path else value


def _born(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None when there is no such process, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _reap(pid: int, *, wait: bool = False) -> None:
    """Collects a child that has ended, where it is ours."""
    try:
        os.waitpid(pid, 0 if wait else os.WNOHANG)
    except ChildProcessError:
        # started by another process: that one collects it
        return


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
