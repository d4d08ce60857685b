"""The components that are only a wrapper: around the transport's threads, the codecs, what prunes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from dwcp.config import Config
from dwcp.errors import DwcpError, TemporaryError
from dwcp.files.root import Root
from dwcp.files.staging import prune
from dwcp.manager.apart import Apart
from dwcp.manager.component import Background
from dwcp.store.baselines import DIRECTORY, make_room
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.transfer.selftest import check_compression
from dwcp.transfer.server import TransportServer

STOP_GRACE = 5.0
"""Seconds that running transfers get to end when the manager stops; then they are left for later, in their journals."""

PRUNE_SECONDS = 60.0
"""For the removal of many thousands of parts on a slow disk."""

log = structlog.get_logger()


class CompressionComponent:
    """Checks that every codec gives back what it was given."""

    name = "compression"

    def __init__(self) -> None:
        self._checks = Apart("dwcp-check-compression")

    async def start(self) -> None:
        await self._checks.run(check_compression)

    async def stop(self) -> None:
        """Nothing runs."""

    async def check(self) -> Health:
        await self._checks.run(check_compression)
        return HEALTHY


class TransportComponent:
    """Checks by a block that goes through its own listener and comes back."""

    name = "transport"

    def __init__(self, server: TransportServer, is_ending: Callable[[], bool] = lambda: True) -> None:
        """`is_ending`: whether a stop is for good, and running transfers get a while to end; a recovery cannot wait for
        them, and they go on after it."""
        self._server = server
        self._is_ending = is_ending
        self._work = Apart("dwcp-transport")
        self._checks = Apart("dwcp-check-transport")

    async def start(self) -> None:
        await self._work.run(self._server.start)

    async def stop(self) -> None:
        await self._work.run(partial(self._server.stop, STOP_GRACE if self._is_ending() else 0.0))

    async def check(self) -> Health:
        dead = self._server.dead_threads()
        if dead:
            return Health(Status.UNHEALTHY, f"the thread {' and '.join(dead)} has ended")
        began = time.monotonic()
        try:
            await self._checks.run(self._server.self_probe)
        except TemporaryError:
            reason = self._server.kept_out_since(began) or self._server.starved_since(began)
            if not reason:
                raise
            # it listens, and says no: a restart would cut transfers, and help nobody
            return Health(Status.DEGRADED, f"its own connection was refused: {reason}")
        fallback = await self._checks.run(self._server.check_rdma)
        return HEALTHY if fallback is None else Health(Status.DEGRADED, fallback)


class PruningComponent(Background):
    """Removes unfinished files that nobody came back for, and copies of what was sent beyond their limit."""

    name = "pruning"

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._work = Apart("dwcp-prune")

    async def check(self) -> Health:
        trouble = self._trouble()
        if trouble:
            return Health(Status.UNHEALTHY, f"unfinished files are not looked for any more: {trouble}")
        return HEALTHY

    async def _run(self) -> None:
        while True:
            config = self._config()
            if config.compression.enable_pruning:
                self._alive(PRUNE_SECONDS)
                await self._work.run(partial(_prune, config))
                await self._work.run(partial(_prune_copies, config))
            await self._sleep(config.compression.pruning_interval)


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
