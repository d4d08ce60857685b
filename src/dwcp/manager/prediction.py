"""The `prediction` component: a forecast of each link, as often as configured, and probes of those that are idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import structlog

from dwcp.config import Config
from dwcp.errors import DwcpError
from dwcp.forecast.probing import ProbeBudget
from dwcp.manager.component import Background
from dwcp.prediction.predictor import LinkView, Predictor
from dwcp.store.links import Sample
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.transfer.burst import burst
from dwcp.transfer.server import TransportServer

ROUND = 120.0
"""Seconds that forecasting all peers for the first time, or one probe of a slow link with its timeouts, may take."""

log = structlog.get_logger()


class PredictionComponent(Background):
    name = "prediction"

    def __init__(
        self,
        server: TransportServer,
        config: Callable[[], Config],
        reached: Callable[[], Collection[str]],
    ) -> None:
        """`reached`: peers that answered when they were looked at last."""
        self._server = server
        self._config = config
        self._reached = reached
        self._budget = ProbeBudget()
        self._predictor = Predictor(Path(config().storage.state_dir), lambda: config().prediction)
        self._failure = ""

    def links(self) -> Mapping[str, LinkView]:
        return self._predictor.seen()

    def samples(self, peer: str) -> list[Sample]:
        """What was measured within the window, oldest first. Reads the disk."""
        return self._predictor.store.samples(peer, time.time() - self._config().prediction.history_window)

    async def start(self) -> None:
        await asyncio.to_thread(self._predictor.prepare)
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        await asyncio.to_thread(self._predictor.close)

    async def check(self) -> Health:
        trouble = self._trouble()
        if trouble:
            return Health(Status.UNHEALTHY, f"links are not forecast any more: {trouble}")
        failure = self._failure or self._predictor.store.failure
        return Health(Status.DEGRADED, failure) if failure else HEALTHY

    async def _run(self) -> None:
        while True:
            peers = [name for name, peer in self._config().peers.items() if peer.address is not None]
            self._alive(ROUND)
            try:
                await asyncio.to_thread(self._predictor.round, peers, time.time())
                self._failure = ""
            except DwcpError as error:
                # a reload asked for a model that cannot be had; what was there before has stopped
                self._failure = str(error)
            for peer in peers:
                if self._is_idle(peer):
                    self._alive(ROUND)
                    await self._probe(peer)
            await self._sleep(self._config().prediction.update_interval)

    def _is_idle(self, peer: str) -> bool:
        busy = any(transfer.peer == peer for transfer in self._server.node.board.live())
        return not busy and peer in self._reached()

    async def _probe(self, peer: str) -> None:
        config, now = self._config().prediction, time.time()
        store = self._predictor.store
        newest = await asyncio.to_thread(store.samples, peer, now - config.history_window, 1)
        known = newest[-1] if newest else None
        size = self._budget.size(
            peer,
            time.monotonic(),
            config.probe_budget,
            known.rate if known else None,
            now - known.at if known else None,
        )
        if not size:
            return
        self._budget.begun(peer, time.monotonic(), size)
        try:
            found = await asyncio.to_thread(burst, self._server.node, peer, size)
        except DwcpError as error:
            # whether it can be reached is the affair of the component `peers`
            log.debug("a link could not be probed", peer=peer, reason=str(error))
            return
        self._budget.succeeded(peer, time.monotonic())
        sample = Sample(time.time(), found.seconds, found.rate, found.limited, "probe", found.round_trip, found.loss)
        await asyncio.to_thread(store.add, peer, sample)
