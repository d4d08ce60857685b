"""A proxy as a process of its own, in one of the namespaces: changes a byte, or cuts everything, when it is told to.

Commands come as lines on standard input, each is answered by a line: `corrupt in` and `corrupt out` (towards the
server, or from it) once a byte was changed, `cut` once all connections are ended.
"""

from __future__ import annotations

import queue
import random
import sys
import threading

from tests.soak.network import PROXY_PORT
from tests.support import Proxy

PATIENCE = 5.0
"""Seconds in which something has to pass that can be damaged."""


class Corrupter:
    """The proxy's harm: one byte for each time it is asked."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._wanted: bool | None = None
        self._done: queue.Queue[int] = queue.Queue()

    def __call__(self, data: bytes, offset: int, inbound: bool) -> bytes:
        if self._wanted is not inbound:
            return data
        with self._lock:
            if self._wanted is not inbound:
                return data
            self._wanted = None
            at = self._chance.randrange(len(data))
            self._done.put(offset + at)
        return data[:at] + bytes([data[at] ^ 1 << self._chance.randrange(8)]) + data[at + 1 :]

    def corrupt(self, inbound: bool) -> str:
        """Where it was, in its connection."""
        with self._lock:
            self._wanted = inbound
        try:
            return f"byte {self._done.get(timeout=PATIENCE)} of a connection"
        except queue.Empty:
            with self._lock:
                self._wanted = None
            return "nothing passed"


def main() -> None:
    """Arguments: address to listen on, host and port of the server, bytes of its sockets' buffers, seed."""
    listen, host, port, buffer, seed = sys.argv[1:]
    corrupter = Corrupter(int(seed))
    proxy = Proxy(int(port), corrupter, host=host, listen=(listen, PROXY_PORT), buffer=int(buffer))
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "cut":
            proxy.cut()
            print("cut", flush=True)
        else:
            print(corrupter.corrupt(line.strip() == "corrupt in"), flush=True)


if __name__ == "__main__":
    main()
