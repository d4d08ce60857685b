"""The components that are only a wrapper: around the transport's threads, the codecs, the peers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from dwcp.config import Config
from dwcp.errors import DwcpError, TemporaryError
from dwcp.files.root import Root
from dwcp.files.staging import prune
from dwcp.manager.component import Background
from dwcp.store.baselines import DIRECTORY, make_room
from dwcp.store.recorder import Note, untold
from dwcp.supervise.breaker import Breaker, BreakerSettings, BreakerStatus
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.transfer.probe import probe
from dwcp.transfer.selftest import check_compression
from dwcp.transfer.server import TransportServer

STOP_GRACE = 5.0
"""Seconds that running transfers get to end when the manager stops; then they are left for later, in their journals."""

log = structlog.get_logger()


class CompressionComponent:
    """Checks that every codec gives back what it was given."""

    name = "compression"

    async def start(self) -> None:
        await asyncio.to_thread(check_compression)

    async def stop(self) -> None:
        """Nothing runs."""

    async def check(self) -> Health:
        await asyncio.to_thread(check_compression)
        return HEALTHY


class TransportComponent:
    """Checks by a handshake and a round trip through its own listener."""

    name = "transport"

    def __init__(self, server: TransportServer) -> None:
        self._server = server

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.stop, STOP_GRACE)

    async def check(self) -> Health:
        began = time.monotonic()
        try:
            await asyncio.to_thread(self._server.self_probe)
        except TemporaryError:
            reason = self._server.kept_out_since(began)
            if not reason:
                raise
            # it listens, and says no: a restart would cut transfers, and help nobody
            return Health(Status.DEGRADED, f"its own connection was refused: {reason}")
        fallback = await asyncio.to_thread(self._server.check_rdma)
        return HEALTHY if fallback is None else Health(Status.DEGRADED, fallback)


class PruningComponent(Background):
    """Removes unfinished files that nobody came back for, and copies of what was sent beyond their limit."""

    name = "pruning"

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config

    async def check(self) -> Health:
        if not self._runs:
            return Health(Status.UNHEALTHY, "unfinished files are not looked for any more")
        return HEALTHY

    async def _run(self) -> None:
        while True:
            config = self._config()
            if config.compression.enable_pruning:
                await asyncio.to_thread(_prune, config)
                await asyncio.to_thread(_prune_copies, config)
            await asyncio.sleep(config.compression.pruning_interval)


def _prune_copies(config: Config) -> None:
    """A limit that was lowered, or a disk that others have filled, counts without another transfer."""
    storage = config.storage
    limit = 0 if storage.keep_baselines == "never" else storage.baselines_limit
    make_room(Path(storage.state_dir) / DIRECTORY, limit)


def _prune(config: Config) -> None:
    for name, export in config.storage.exports.items():
        if export.read_only:
            continue
        try:
            root = Root(Path(export.path))
        except DwcpError as error:
            log.warning("an export cannot be looked at", export=name, reason=str(error))
            continue
        try:
            removed = prune(root, config.storage.resume_retention)
        except OSError as error:
            log.warning("unfinished files could not be removed", export=name, reason=str(error))
        else:
            if removed:
                log.info("unfinished files removed", export=name, files=removed)
        finally:
            root.close()


class PeersComponent(Background):
    """Looks at each peer that has an address, as often as health is checked, and keeps its circuit breaker.

    A peer that is away is no fault of this node: it opens a breaker, which shows on the node's health by itself.
    """

    name = "peers"

    def __init__(self, server: TransportServer, config: Callable[[], Config], note: Note = untold) -> None:
        self._server = server
        self._config = config
        self._note = note
        self._breakers: dict[str, Breaker] = {}
        self._latency: dict[str, float] = {}

    def breakers(self) -> Mapping[str, BreakerStatus]:
        now = time.monotonic()
        return {name: breaker.status(now) for name, breaker in self._breakers.items()}

    def reset(self, peer: str) -> None:
        self._breakers[peer].reset()

    def latency(self) -> Mapping[str, float]:
        """Seconds, of the newest round trip to each peer that answered."""
        return dict(self._latency)

    async def start(self) -> None:
        self._follow_config()
        await super().start()

    async def check(self) -> Health:
        if not self._runs:
            return Health(Status.UNHEALTHY, "peers are not looked at any more")
        return HEALTHY

    def _follow_config(self) -> None:
        config = self._config()
        section = config.circuit_breaker
        settings = BreakerSettings(
            section.failure_threshold,
            section.timeout,
            section.success_threshold,
            section.half_open_probes,
            section.max_timeout,
        )
        known = {name for name, peer in config.peers.items() if peer.address is not None}
        for name in known - self._breakers.keys():
            self._breakers[name] = Breaker(name, settings)
        for name in self._breakers.keys() - known:
            del self._breakers[name]
            self._latency.pop(name, None)
        for breaker in self._breakers.values():
            breaker.settings = settings

    async def _run(self) -> None:
        while True:
            self._follow_config()
            await asyncio.gather(*(self._look(breaker) for breaker in list(self._breakers.values())))
            waits = [status.retry_at_seconds for status in self.breakers().values() if status.retry_at_seconds > 0]
            await asyncio.sleep(min([self._config().health_interval, *waits]))

    async def _look(self, breaker: Breaker) -> None:
        if not breaker.allow(time.monotonic()):
            return
        before = breaker.status(time.monotonic()).state
        try:
            self._latency[breaker.name] = await asyncio.to_thread(probe, self._server.node, breaker.name)
            breaker.succeeded(time.monotonic())
        except DwcpError as error:
            self._latency.pop(breaker.name, None)
            breaker.failed(time.monotonic(), str(error))
        after = breaker.status(time.monotonic())
        if after.state != before:
            self._note("breaker", after.state, peer=breaker.name, was=before, reason=after.reason)
            log.warning("circuit breaker changes", peer=breaker.name, was=before, now=after.state, reason=after.reason)
