"""Many connections that only want to disturb a node, beside a transfer to it."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from dwcp.testing.lab import Lab
from tests.integration.test_http import ask
from tests.processes import DEADLINE, clean_environment
from tests.support import wait_until

STATUS = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
MAX_GROWTH = 100 * 2**20
"""Bytes: some 500 connections in the manager, 1000 in the process before it, and the transfer's buffers."""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Disturbance:
    """Many connections to a port, of four kinds, all of which stay as long as they may."""

    KINDS = (b"", b"GET /hea", STATUS[:-2] + b"A: ", STATUS.replace(b"GET", b"POST"))
    """Silent; in the middle of a word; in the middle of a head; with a body that never ends."""

    def __init__(self, port: int, count: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.sockets: list[socket.socket] = []
        for number in range(count):
            sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
            self.sockets.append(sock)
            kind = self.KINDS[number % len(self.KINDS)]
            try:
                sock.sendall(kind.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000000000000\r\n\r\n"))
            except ConnectionError:
                # turned away already
                continue

    def __enter__(self) -> Disturbance:
        return self

    def __exit__(self, *exc: object) -> None:
        for sock in self.sockets:
            sock.close()


def memory(pid: int) -> int:
    """Resident bytes of a process and its children."""
    pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (pid, *children(pid))]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def _health(port: int) -> tuple[int, Any]:
    answer = ask(f"127.0.0.1:{port}", "GET", "/health")
    return answer.status, answer.json


def _manager_answers(port: int) -> bool:
    """While more connections wait for it than it may hold, some are turned away."""
    try:
        return ask(f"127.0.0.1:{port}", "GET", "/transfers").status == 200
    except ConnectionError:
        return False


def disturbed_transfer(lab: Lab, count: int) -> int:
    """A transfer of `content` arrives, and /health is answered, while somebody keeps `count` connections busy; by how
    many bytes the node has grown."""
    sender, receiver = lab.nodes
    port = int(receiver.http_url.rpartition(":")[2])
    # nodes that start together may look for each other too early; they look again after their interval
    wait_until(lambda: _health(port)[1]["status"] == "healthy", "the node is healthy while nobody disturbs it")
    before = memory(receiver.pid)
    command = [sys.executable, "-m", "dwcp.cli", "send", "--json", "--config", str(sender.config_file)]
    with subprocess.Popen(
        [*command, str(lab.directory / "content"), f"{receiver.name}:inbox/disturbed"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:
        with Disturbance(port, count):
            for _ in range(50):
                status, document = _health(port)
                assert (status, document["status"]) == (200, "healthy"), document
            wait_until(lambda: _manager_answers(port), "the manager answers what it is asked itself")
            grown = memory(receiver.pid) - before
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert (receiver.inbox / "disturbed").read_bytes() == (lab.directory / "content").read_bytes()
    (receiver.inbox / "disturbed").unlink()
    assert grown < MAX_GROWTH
    return grown
