"""Stand-ins and tools for tests: two nodes in one process, a proxy that does harm, files to send."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from dwcp import logs
from dwcp.config import Config
from dwcp.store.identity import load_or_create
from dwcp.transfer.board import Board
from dwcp.transfer.client import Peer, connect
from dwcp.transfer.result import TransferResult
from dwcp.transfer.server import TransportServer

DEADLINE = 20.0
UCX_DEVICES = ("lo", "shm")
"""What stands in for hardware: UCX's own TCP, and its shared memory."""

needs_ucx = pytest.mark.skipif(importlib.util.find_spec("ucxx") is None, reason="ucxx is not installed (extra rdma)")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    """Looks again and again until it holds; fails the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {seconds} s: {what}")
        time.sleep(0.005)


@contextlib.contextmanager
def logs_kept() -> Iterator[None]:
    """A command that runs within this process sets up its logs, which are those of the tests too; they are as before at
    the end."""
    level, config, root = logs.level(), structlog.get_config(), logging.getLogger()
    root_level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        logs.set_level(level)
        structlog.configure(**config)
        root.setLevel(root_level)
        root.handlers[:] = handlers


class Pair:
    """Node `b` listens and has an export `inbox`; node `a` knows it. Timeouts are short, pacing is off."""

    def __init__(self, directory: Path, *, privileged: bool = False, **settings: dict[str, Any]) -> None:
        self.directory = directory
        self.inbox = directory / "inbox"
        self.inbox.mkdir(exist_ok=True)
        self.settings = settings
        a, b = (load_or_create(directory / name / "identity", name) for name in "ab")
        self.identities = {"a": a, "b": b}
        self.server_config = self._config(
            "b",
            peers={"a": {"fingerprint": a.fingerprint}},
            exports={
                "inbox": {"path": str(self.inbox), "privileged": privileged},
                "fixed": {"path": str(self.inbox), "read_only": True},
            },
            listen="127.0.0.1:0",
        )
        self.board = Board()
        self.server = TransportServer(self.server_config, b, self.board)
        self.server.start()
        self.port = self.server.address[1]
        self.config = self.client_config(self.port)

    def client_config(self, port: int) -> Config:
        """Of node `a`, to reach `b` at a port: its own, or that of a proxy."""
        peer = {"address": f"127.0.0.1:{port}", "fingerprint": self.identities["b"].fingerprint}
        return self._config("a", peers={"b": peer}, exports={}, listen="127.0.0.1:0")

    def _config(self, name: str, *, peers: dict[str, Any], exports: dict[str, Any], listen: str) -> Config:
        values: dict[str, Any] = {
            "node": {"name": name},
            "peers": peers,
            "storage": {"state_dir": str(self.directory / name), "exports": exports},
            "transport": {
                "listen": listen,
                "congestion_algorithm": "cubic",
                "enable_pacing": False,
                "connect_timeout": 5.0,
                "read_timeout": 5.0,
                "write_timeout": 5.0,
                "min_streams": 1,
                "initial_streams": 4,
                "max_streams": 16,
            },
        }
        for section, changes in self.settings.items():
            values[section] = {**values.get(section, {}), **changes}
        return Config.model_validate(values)

    def do(self, act: Callable[[Peer], Any], config: Config | None = None) -> Any:
        """Runs `act` (a coroutine function of a connected peer) to its end."""

        async def run() -> Any:
            async with connect("b", config=config or self.config) as peer:
                return await act(peer)

        return asyncio.run(run())

    def send(self, source: Any, target: str, config: Config | None = None, **options: Any) -> TransferResult:
        result = self.do(lambda peer: peer.send(source, target, **options), config)
        assert isinstance(result, TransferResult)
        return result

    def get(self, source: str, target: Any, **options: Any) -> TransferResult:
        result = self.do(lambda peer: peer.get(source, target, **options))
        assert isinstance(result, TransferResult)
        return result

    def leftovers(self) -> list[str]:
        """Files in the staging directory."""
        staging = self.inbox / ".dwcp"
        return sorted(path.name for path in staging.iterdir()) if staging.exists() else []

    def close(self) -> None:
        self.server.stop(0)


Harm = Callable[[bytes, int, bool], bytes | None]
"""(data, offset of it in this direction of this connection, towards the server) to what goes on; None cuts."""


class Proxy:
    """Between a client and a server; `harm` sees all that passes. Three threads a connection."""

    DIAL_SECONDS = 3.0

    def __init__(
        self,
        port: int,
        harm: Harm,
        *,
        host: str = "127.0.0.1",
        listen: tuple[str, int] = ("127.0.0.1", 0),
        buffer: int | None = None,
    ) -> None:
        """`host`, `port`: of the server; `buffer`: bytes that each of its sockets holds, each way."""
        self.target = (host, port)
        self.harm = harm
        self._buffer = buffer
        self._listener = socket.create_server(listen)
        self._bound(self._listener)
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._connections: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _bound(self, sock: socket.socket) -> None:
        # what is half open must not stay for ever
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(self.DIAL_SECONDS))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.DIAL_SECONDS * 1000))
        if self._buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._connect, args=(near,), daemon=True)
            with self._lock:
                self._sockets.add(near)
                self._connections.add(thread)
                thread.start()

    def _connect(self, near: socket.socket) -> None:
        far = socket.socket()
        self._bound(far)
        far.settimeout(self.DIAL_SECONDS)
        with self._lock:
            self._sockets.add(far)
        try:
            far.connect(self.target)
            far.settimeout(None)
            back = threading.Thread(target=self._pump, args=(far, near, False), daemon=True)
            back.start()
            self._pump(near, far, True)
            back.join()
        except OSError:
            # nobody listens there just now: the client sees its connection end
            pass
        finally:
            with self._lock:
                self._sockets -= {near, far}
                self._connections.discard(threading.current_thread())
            near.close()
            far.close()

    def _pump(self, source: socket.socket, sink: socket.socket, inbound: bool) -> None:
        offset = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passed = self.harm(data, offset, inbound)
                offset += len(data)
                if passed is None:
                    break
                sink.sendall(passed)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Every connection ends now."""
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut()
        with self._lock:
            connections = list(self._connections)
        for thread in connections:
            thread.join()


def random_file(path: Path, size: int, seed: int = 1) -> bytes:
    """Incompressible content, the same for the same seed."""
    content = random.Random(seed).randbytes(size)
    path.write_bytes(content)
    return content


def make_tree(root: Path) -> None:
    """A bit of everything that is kept."""
    (root / "empty-dir").mkdir(parents=True)
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty").touch()
    (root / "small").write_text("hello\n")
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o755)
    random_file(root / "sub" / "medium", 300_000)
    random_file(root / "sub" / "deep" / "large", 3_500_000)
    (root / "text").write_text("compressible " * 200_000)
    with (root / "sparse").open("wb") as file:
        file.truncate(5_000_000)
        file.seek(4_500_000)
        file.write(b"end")
    (root / "link").symlink_to("sub/medium")
    (root / "dangling").symlink_to("/no/such/place")
    os.link(root / "small", root / "sub" / "same")
    Path(os.fsdecode(os.fsencode(root) + b"/not-utf8-\xff\xfe")).write_text("x")
    (root / "näme with space").write_text("y")
    (root / "sub").chmod(0o700)
    for number, path in enumerate(sorted(root.rglob("*"), key=os.fsencode)):
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_007), follow_symlinks=False)
    os.utime(root, ns=(10**18, 10**18))
