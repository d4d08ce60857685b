"""A manager inside the test's process, where a test can reach into its components; and a transfer that lasts."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import io
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from dwcp.config import Config
from dwcp.manager.manager import Manager
from dwcp.store.identity import load_or_create
from dwcp.supervise.health import ComponentHealth, NodeHealth
from dwcp.transfer.client import connect
from tests.support import DEADLINE, wait_until

T = TypeVar("T")
QUICK = {
    "interval": "200ms",
    "timeout": "20s",
    "recovery_backoff": "100ms",
    "recovery_jitter": 0.0,
    "slow_retry_interval": "1s",
    "metrics_interval": "200ms",
}
"""Of `health`."""


class Running:
    """`with Running(directory, "b") as node:` is a manager in a thread with an event loop of its own.

    It has an export `inbox`; `sections` go over a configuration with free ports.
    """

    def __init__(self, directory: Path, name: str, **sections: dict[str, Any]) -> None:
        self.name = name
        self.state_dir = directory / name
        self.inbox = directory / f"{name}-inbox"
        self.inbox.mkdir(exist_ok=True)
        self.fingerprint = load_or_create(self.state_dir / "identity", name).fingerprint
        values: dict[str, dict[str, Any]] = {
            "node": {"name": name},
            # the whole test run is in this process
            "memory": {"limit": "4GiB"},
            "http": {"listen": "127.0.0.1:0", "tls_listen": ""},
            "storage": {"state_dir": str(self.state_dir), "exports": {"inbox": {"path": str(self.inbox)}}},
            "transport": {"listen": "127.0.0.1:0", "congestion_algorithm": "cubic", "min_streams": 1},
            "health": dict(QUICK),
            "compression": {"pruning_interval": "1s"},
        }
        for section, changes in sections.items():
            values[section] = {**values.get(section, {}), **changes}
        self.values = values
        self._started = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> Running:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._started.wait(DEADLINE)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _main(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            self.manager = Manager(Config.model_validate(self.values))
            async with self.manager:
                self._started.set()
                await self._stop.wait()
        except BaseException as error:
            self._error = error
            self._started.set()

    def call(self, work: Callable[[], T]) -> T:
        """What `work` gives, called on the event loop."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(DEADLINE)

    @property
    def port(self) -> int:
        return self.manager._server.address[1]

    def health(self) -> NodeHealth:
        return self.call(self.manager.health)

    def component(self, name: str) -> ComponentHealth:
        return self.health().components[name]

    def get(self, path: str) -> tuple[int, Any]:
        status, body = self._get(path)
        return status, json.loads(body)

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.call(lambda: self.manager.addresses["http"]), timeout=DEADLINE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """Of all samples that have these labels, the sum."""
        text = self._get("/metrics")[1].decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def is_well(self) -> bool:
        return self.health().status == "healthy"


class Faucet(io.RawIOBase):
    """Noise that goes on until it is turned off, some MB a second."""

    PIECE = 64 * 1024

    def __init__(self) -> None:
        self.off = threading.Event()
        self.digest = hashlib.sha256()
        self.size = 0
        self._noise = random.Random(1)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.off.wait(0.02):
            return 0
        piece = self._noise.randbytes(min(self.PIECE, len(buffer)))
        buffer[: len(piece)] = piece
        self.digest.update(piece)
        self.size += len(piece)
        return len(piece)


class InFlight:
    """`with InFlight(directory, node) as moving:` is a transfer from node `a` into the inbox of `node`, which has to
    know `a`, until `finish`."""

    def __init__(self, directory: Path, node: Running) -> None:
        self.node = node
        peer = {"address": f"127.0.0.1:{node.port}", "fingerprint": node.fingerprint}
        self._config = Config.model_validate(
            {
                "node": {"name": "a"},
                "peers": {node.name: peer},
                "storage": {"state_dir": str(directory / "a")},
                "transport": {
                    "congestion_algorithm": "cubic",
                    "min_streams": 1,
                    "initial_streams": 2,
                    "max_streams": 16,
                },
            }
        )
        self._faucet = Faucet()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> InFlight:
        self._thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread.is_alive():
            # the test has failed
            assert self._task is not None
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()

    def _run(self) -> None:
        async def send() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            async with connect(self.node.name, config=self._config) as peer:
                await peer.send(self._faucet, "inbox/stream")

        try:
            asyncio.run(send())
        except BaseException as error:
            self._error = error

    def arrived(self) -> int:
        return sum(status.bytes_done for status in self.node.manager.board.live())

    def wait_for_more(self) -> None:
        """Until it has moved, or has failed, which `finish` tells."""
        before = self.arrived()
        wait_until(lambda: self._error is not None or self.arrived() > before, "the transfer moves")

    def finish(self) -> int:
        """How often it was broken off. Raises what it failed with; all that was sent has to be there."""
        self._faucet.off.set()
        self._thread.join(2 * DEADLINE)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        content = (self.node.inbox / "stream").read_bytes()
        assert (len(content), hashlib.sha256(content).digest()) == (self._faucet.size, self._faucet.digest.digest())
        wait_until(lambda: not self.node.manager.board.live(), "the receiver has ended it too")
        ended = self.node.manager.board.ended()
        assert ended["done"] == 1
        return sum(ended.values()) - 1
