"""Two network namespaces on a veth pair, `near` and `far`, and what can happen to what is between them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from random import Random

HOSTS = Path("/etc/netns")
DEVICE = "wire0"
PORT = 9000
PROXY_PORT = 9001
HEADERS = 14 + 20 + 32
"""Bytes of a packet that are no payload: Ethernet, IPv4, TCP with timestamps."""
ADDRESSES = range(100, 250)
"""Of three digits each, so that an entry in a hosts file is overwritten in one piece."""


class NoNetworkError(Exception):
    """Why there can be no such network here."""


class Network:
    """`with Network() as network:`; `far` is the name under which the far end's present address is found."""

    def __init__(self) -> None:
        self.near, self.far = (f"dwcp-soak-{os.getpid()}-{end}" for end in ("near", "far"))
        self._addresses = {self.near: ADDRESSES[0], self.far: ADDRESSES[0]}
        self._holder: subprocess.Popen[bytes] | None = None
        self.can_reset = False
        """Whether the kernel ends connections for whoever asks (ss -K, CONFIG_INET_DIAG_DESTROY)."""

    def __enter__(self) -> Network:
        if os.geteuid() != 0:
            raise NoNetworkError("network namespaces need root")
        for tool in ("ip", "ss"):
            if shutil.which(tool) is None:
                raise NoNetworkError(f"{tool} is not installed (iproute2)")
        try:
            for namespace in (self.near, self.far):
                _run("ip", "netns", "add", namespace)
                _run("ip", "-n", namespace, "link", "set", "lo", "up")
                (HOSTS / namespace).mkdir(parents=True, exist_ok=True)
                self._write_hosts(namespace)
            ends = ("netns", self.near, "type", "veth", "peer", "name", DEVICE, "netns", self.far)
            _run("ip", "link", "add", DEVICE, *ends)
            for namespace in (self.near, self.far):
                _run("ip", "-n", namespace, "addr", "add", self._address(namespace), "dev", DEVICE)
                _run("ip", "-n", namespace, "link", "set", DEVICE, "up")
            # in the namespace all the while: its /proc shows the device's counters
            self._holder = subprocess.Popen(self.inside(self.near, "cat"), stdin=subprocess.PIPE)
            self.can_reset = self._try_reset()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._holder is not None:
            self._holder.communicate()
        for namespace in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
            shutil.rmtree(HOSTS / namespace, ignore_errors=True)

    @staticmethod
    def inside(namespace: str, *command: str | Path) -> list[str]:
        """The command that runs `command` in a namespace; it keeps its process id."""
        return ["ip", "netns", "exec", namespace, *map(str, command)]

    def payload(self) -> int:
        """Bytes that TCP has carried over the wire so far, both ways: with what it or we sent again, TLS and frames."""
        assert self._holder is not None
        lines = Path(f"/proc/{self._holder.pid}/net/dev").read_text().splitlines()
        fields = next(line.partition(":")[2].split() for line in lines if line.strip().startswith(f"{DEVICE}:"))
        got, got_packets, sent, sent_packets = (int(fields[at]) for at in (0, 1, 8, 9))
        return got + sent - HEADERS * (got_packets + sent_packets)

    def set_link(self, up: bool) -> None:
        _run("ip", "-n", self.near, "link", "set", DEVICE, "up" if up else "down")

    def move(self, namespace: str) -> str:
        """An end leaves its address for another one, which is what its name stands for from now on."""
        old = self._address(namespace)
        number = self._addresses[namespace]
        self._addresses[namespace] = ADDRESSES[(number + 1) % len(ADDRESSES)]
        # in this order: the kernel takes addresses of one subnet away together with the first of them
        _run("ip", "-n", namespace, "addr", "del", old, "dev", DEVICE)
        _run("ip", "-n", namespace, "addr", "add", self._address(namespace), "dev", DEVICE)
        self._write_hosts(self.near)
        return self._address(namespace).partition("/")[0]

    def connections(self) -> list[int]:
        """Local ports of the near end's connections to the far one."""
        command = self.inside(self.near, "ss", "-Htn", "state", "established")
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [int(port) for port in re.findall(rf":(\d+)\s+\S+:(?:{PORT}|{PROXY_PORT})\b", shown)]

    def reset(self, ports: list[int], namespace: str | None = None) -> None:
        """Ends connections of the near end as if the kernel had lost them; the other end is told by a RST."""
        for port in ports:
            _run(*self.inside(namespace or self.near, "ss", "-K", "-tn", "sport", "=", f":{port}"))

    def _address(self, namespace: str) -> str:
        return f"10.77.{1 if namespace == self.near else 2}.{self._addresses[namespace]}/16"

    def _write_hosts(self, namespace: str) -> None:
        """In place: whoever runs in the namespace has this very file mounted over /etc/hosts (ip-netns(8))."""
        text = f"127.0.0.1 localhost\n{self._address(self.far).partition('/')[0]} far\n"
        path = HOSTS / namespace / "hosts"
        path.touch()
        with path.open("r+") as file:
            file.write(text)

    def _try_reset(self) -> bool:
        """A connection within the near end, and whether it is gone afterwards."""
        probe = (
            "import socket, subprocess, sys\n"
            "server = socket.create_server(('127.0.0.1', 0))\n"
            "client = socket.create_connection(server.getsockname())\n"
            "port = client.getsockname()[1]\n"
            "subprocess.run(['ss', '-K', '-tn', 'sport', '=', f':{port}'], capture_output=True)\n"
            "client.settimeout(0)\n"
            "try: client.recv(1)\n"
            "except BlockingIOError: sys.exit(1)\n"
            "except OSError: sys.exit(0)\n"
        )
        command = self.inside(self.near, shutil.which("python3") or "python3", "-c", probe)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def some(chance: Random, ports: list[int]) -> list[int]:
    """One of them, some, or all."""
    count = chance.choice([1, 1, 1, max(1, len(ports) // 3), len(ports)])
    return chance.sample(ports, min(count, len(ports)))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetworkError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
