"""etcd members on this machine, for labs and tests: real processes, real disks, free ports."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from dwcp.errors import TemporaryError

START_TIMEOUT = 20.0
HEARTBEAT, ELECTION = 50, 250
"""Milliseconds: a new leader within half a second."""


@dataclass
class EtcdMember:
    """One process. `host`: where it listens."""

    name: str
    directory: Path
    host: str
    client_port: int
    peer_port: int
    prefix: Sequence[str] = ()
    """A command that ends in exec, as `ip netns exec NAME`."""
    scheme: str = "http"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    log_begins: int = 0
    """Bytes of its log that are of earlier processes."""

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{self.host}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{self.host}:{self.peer_port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """As a power cut for the process; what it has synced stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def log_file(self) -> Path:
        return self.directory / "log"

    def log(self) -> str:
        """Of the process that was started last."""
        return self.log_file.read_bytes()[self.log_begins :].decode(errors="replace")


class EtcdCluster:
    """`with EtcdCluster(directory, 3) as cluster:` has a leader when the block begins."""

    def __init__(
        self,
        directory: Path,
        members: int = 3,
        *,
        hosts: Sequence[str] = (),
        prefixes: Sequence[Sequence[str]] = (),
        options: Sequence[str] = (),
        scheme: str = "http",
    ) -> None:
        """`hosts` and `prefixes`: of each member, for network namespaces; `options`: more of etcd's own."""
        self.directory = directory
        self._options = [*options]
        ports = iter(_free_ports(2 * members))
        self.members = [
            EtcdMember(
                f"etcd{number + 1}",
                directory / f"etcd{number + 1}",
                hosts[number] if hosts else "127.0.0.1",
                next(ports),
                next(ports),
                prefixes[number] if prefixes else (),
                scheme,
            )
            for number in range(members)
        ]

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def __enter__(self) -> EtcdCluster:
        with contextlib.ExitStack() as stack:
            stack.callback(self.stop)
            for member in self.members:
                self.start(member)
            for member in self.members:
                self.await_ready(member)
            stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self, member: EtcdMember) -> None:
        """Also one that was killed: it goes on with its data."""
        member.directory.mkdir(parents=True, exist_ok=True)
        client = f"{member.scheme}://{member.host}:{member.client_port}"
        with member.log_file.open("ab") as log:
            member.log_begins = log.tell()
            member.process = subprocess.Popen(
                [
                    *member.prefix,
                    *("etcd", "--name", member.name, "--data-dir", str(member.directory / "data")),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", member.peer_url, "--initial-advertise-peer-urls", member.peer_url),
                    *("--initial-cluster", ",".join(f"{each.name}={each.peer_url}" for each in self.members)),
                    *("--initial-cluster-token", str(self.directory)),
                    *("--heartbeat-interval", str(HEARTBEAT), "--election-timeout", str(ELECTION)),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def await_ready(self, member: EtcdMember) -> None:
        """Raises TemporaryError with the end of its log."""
        deadline = time.monotonic() + START_TIMEOUT
        while "ready to serve client requests" not in member.log():
            if not member.running or time.monotonic() > deadline:
                tail = "\n".join(member.log().splitlines()[-5:])
                raise TemporaryError(f"{member.name} did not become ready; the end of its log:\n{tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        for member in self.members:
            if member.running:
                member.signal(signal.SIGCONT)
                member.kill()


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    if find_spec("aetcd") is None:
        return "needs the extra: pip install 'dwcp[consensus]'"
    return "" if shutil.which("etcd") else "needs etcd (apt install etcd-server)"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
