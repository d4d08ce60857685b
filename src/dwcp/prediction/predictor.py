"""One round of forecasting: reads what was measured, forecasts each link, and keeps what it says for whoever asks.

Blocks, and belongs to a thread; `seen` may be called from any other one. A link that goes wrong costs only itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from dwcp.config.model import Prediction
from dwcp.errors import StateError
from dwcp.forecast.arima import Arima
from dwcp.forecast.distribution import Model
from dwcp.forecast.ewma import Ewma
from dwcp.forecast.forecaster import Forecast, LinkForecaster, Score, Settings
from dwcp.forecast.last import Last
from dwcp.forecast.lstm import Lstm
from dwcp.prediction.runtime import OnnxNetwork
from dwcp.store.links import LinkStore

THIN_EVERY = 600.0
"""Seconds between two looks for measurements that are to be made coarser."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LinkView:
    """What is known of one link. `forecast` is None while nothing was measured within the window."""

    forecast: Forecast | None
    score: Score


class Predictor:
    def __init__(self, state_dir: Path, config: Callable[[], Prediction]) -> None:
        """`config`: as it is now; asked in each round."""
        self.store = LinkStore(state_dir)
        self._config = config
        self._lock = threading.Lock()
        self._seen: dict[str, LinkView] = {}
        self._links: dict[str, LinkForecaster] = {}
        self._made_of: tuple[object, ...] = ()
        self._models: list[Model] = []
        self._thinned = 0.0

    def seen(self) -> Mapping[str, LinkView]:
        """By peer, as of the newest round."""
        with self._lock:
            return dict(self._seen)

    def prepare(self) -> None:
        """Loads what the configured model needs. Raises StateError where that cannot be had."""
        config = self._config()
        made_of = (config.model_type, config.weights, self._settings(config))
        if made_of == self._made_of:
            return
        self._models = models(config)
        self._links.clear()
        self._made_of = made_of

    def round(self, peers: Iterable[str], now: float) -> None:
        """Forecasts for each of `peers`; those that are not among them are forgotten. `now` as of `time.time`.

        Raises StateError where a changed configuration asks for a model that cannot be had.
        """
        self.prepare()
        settings = self._settings(self._config())
        seen: dict[str, LinkView] = {}
        for peer in peers:
            measurements = [sample.measurement for sample in self.store.samples(peer, now - settings.window)]
            link = self._links.get(peer)
            if link is None:
                link = self._links[peer] = LinkForecaster(self._models, settings)
                link.replay(measurements, now, self._config().update_interval)
            forecast = link.update(measurements, now)
            if forecast is not None:
                self.store.foresee(peer, forecast)
            seen[peer] = LinkView(forecast, link.score)
        for gone in self._links.keys() - seen.keys():
            del self._links[gone]
        with self._lock:
            self._seen = seen
        if not self._thinned <= now < self._thinned + THIN_EVERY:
            self._thinned = now
            self.store.thin(now, settings.window)

    def close(self) -> None:
        self.store.close()

    @staticmethod
    def _settings(config: Prediction) -> Settings:
        return Settings(config.prediction_horizon, config.history_window, config.confidence_level)


def models(config: Prediction) -> list[Model]:
    """What `model_type` stands for. Raises StateError where it cannot be had."""
    match config.model_type:
        case "last":
            return [Last()]
        case "ewma":
            return [Ewma()]
        case "arima":
            _need_numpy()
            return [Arima()]
        case "lstm":
            return [Lstm(OnnxNetwork(config.weights))]
        case _:
            return [Lstm(OnnxNetwork(config.weights)), Ewma(), Arima(), Last()]


def _need_numpy() -> None:
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise StateError(
            f"prediction.model_type: arima needs numpy ({error}): pip install 'dwcp[prediction]'"
        ) from error
