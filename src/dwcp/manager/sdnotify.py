"""sd_notify(3): tells the service manager how it goes, over the datagram socket that it names."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

WATCHDOG_SHARE = 0.5
"""sd_watchdog_enabled(3) recommends half of the time that is given."""


class Notifier:
    """Does nothing where no service manager listens."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # a leading @ stands for the zero byte of an abstract socket
        self._address = "\0" + path[1:] if path.startswith("@") else path
        usec = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(usec) / 1e6 * WATCHDOG_SHARE if usec.isdigit() and meant else None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Type=notify-reload wants to know since when, on the monotonic clock."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=stopping")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(message.encode(), self._address)
            except OSError:
                # the service manager has gone; that is no reason for us to go too
                return
