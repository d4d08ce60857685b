"""The manager's side of `dwcp.api.probes`: starts it, tells it what to answer, takes what it hands over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping

import structlog

from dwcp.api.probes import CONNECTION, MAX_PACKET, READY
from dwcp.errors import TemporaryError
from dwcp.metrics.requests import Count, Key

START_SECONDS = 10.0
STOP_SECONDS = 2.0
AT_ONCE = 64
"""Packets read in one turn of the event loop."""

log = structlog.get_logger()

Counts = Mapping[Key, Count]


class Front:
    """The process that has the listening socket."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control

    @classmethod
    async def start(
        cls, listener: socket.socket, connection: Callable[[socket.socket], None], counts: Callable[[Counts], None]
    ) -> Front:
        """Returns when it is there; `listener` is its alone from then on. Raises TemporaryError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        descriptors = (listener.fileno(), theirs.fileno())
        command = [sys.executable, "-m", "dwcp.api.probes", *map(str, descriptors)]
        # what lies in the working directory is not a part of the program
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  (a vfork, not its end, is waited for)
                command, stdin=subprocess.DEVNULL, pass_fds=descriptors, env=environment
            )
        except OSError as error:
            ours.close()
            raise TemporaryError(f"the process that answers probes cannot be started: {error}") from error
        finally:
            theirs.close()
            listener.close()
        front = cls(process, ours)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(START_SECONDS):
                said = await loop.sock_recv(ours, MAX_PACKET)
            if said != READY:
                raise TemporaryError("the process that answers probes ended as soon as it began; the log says why")
        except BaseException:
            await front.stop()
            raise
        loop.add_reader(ours, front._read, connection, counts)
        return front

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def show(self, copies: Mapping[str, tuple[int, str]]) -> None:
        """What is answered from now on, (status, body) by path."""
        packet = json.dumps(copies).encode()
        if len(packet) > MAX_PACKET:
            # then it has none, and asks us each time
            packet = b"{}"
        with contextlib.suppress(OSError):
            # it has died, which the health check finds, or does not read: the next copy is newer
            self._control.send(packet)

    async def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("the process that answers probes does not end and is killed", pid=self._process.pid)
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _read(self, connection: Callable[[socket.socket], None], counts: Callable[[Counts], None]) -> None:
        for _ in range(AT_ONCE):
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._control, MAX_PACKET, 1)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                asyncio.get_running_loop().remove_reader(self._control)
                return
            if packet == CONNECTION:
                for descriptor in descriptors:
                    connection(socket.socket(fileno=descriptor))
            else:
                totals = json.loads(packet)
                counts({(m, route, status): Count(buckets, s) for m, route, status, buckets, s in totals})
