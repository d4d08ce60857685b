"""What a transfer does with the forecast of its link, which a manager makes; the transfer may be in any process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec

from dwcp.config import Config
from dwcp.forecast.eta import Rates
from dwcp.forecast.forecaster import Forecast
from dwcp.store.links import LinkStore
from dwcp.store.path_memory import PathMemory

REFRESH = 5.0
"""Seconds for which a forecast is not read anew."""
MOST_CHANGE = 2.0
"""Times as many streams, or as few, as a forecast may ask for: the rest the tuner finds out within seconds."""


class Foresight:
    """Of one transfer. May be asked from any thread; says nothing where prediction is off, or for this use."""

    def __init__(self, config: Config, peer: str) -> None:
        self._config = config.prediction
        self._peer = peer
        self._lock = threading.Lock()
        self._store = LinkStore(Path(config.storage.state_dir)) if config.prediction.enabled else None
        self._read_at = float("-inf")
        self._forecast: Forecast | None = None

    def rates(self) -> Rates | None:
        """For the time that the transfer still needs."""
        forecast = self._newest() if self._config.forecast_eta else None
        return Rates.of(forecast) if forecast is not None else None

    def adapt(self, known: PathMemory) -> PathMemory:
        """What is known of the path, at the rate that is forecast: more or fewer streams, each with as much."""
        forecast = self._newest() if self._config.forecast_streams else None
        if forecast is None or forecast.rate <= 0:
            return known
        ratio = min(MOST_CHANGE, max(1 / MOST_CHANGE, forecast.rate / known.rate))
        return msgspec.structs.replace(known, streams=max(1, round(known.streams * ratio)), rate=forecast.rate)

    def close(self) -> None:
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    def _newest(self) -> Forecast | None:
        with self._lock:
            now = time.monotonic()
            if self._store is not None and now - self._read_at > REFRESH:
                self._read_at = now
                self._forecast = self._store.foreseen(self._peer, time.time())
            return self._forecast
