"""Forecasts of one link, each judged when its time has come; what was learned from that goes into the next.

    measurements ─▶ History ─▶ every model ─▶ the one that was best lately ─▶ Calibration ─▶ Forecast
                                   │                                               ▲
                                   └──── kept until the horizon has passed ────────┘

Nothing has to be stored beside the measurements: `replay` goes through them once, as if the forecasts had been made.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dwcp.forecast.conformal import Calibration
from dwcp.forecast.distribution import Distribution, Model
from dwcp.forecast.history import HIGHEST_RATE, History, Measurement
from dwcp.forecast.last import Last

MOST_PENDING = 128
"""Forecasts that wait to be judged. With more than that in a horizon, those in between would say the same."""
MEMORY = 0.97
"""What an independent outcome leaves of the weight of those before it: half after 23."""
BETTER = 2.0
"""Standard errors by which another model has to have been better than the preferred one to speak in its place. With
half of it, the choice follows chance and is worse than none on the series of the backtest."""
WORST = 10.0
"""Relative error beyond which it makes no difference; on a constant link the last value's is 0."""
DOUBT = 1.5
"""How much wider an interval gets with each reason for doubt, up to MOST_DOUBTS of them."""
MOST_DOUBTS = 2
SILENCE = 4.0
"""How much wider at most for the time in which nothing was measured: as of a random walk over it."""
FARTHEST = 10.0
"""Times the highest rate that was ever measured on the link: no bound is above."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Seconds, except for `confidence` (0 to 1, exclusive)."""

    horizon: float
    window: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Rates in bits per second: the mean over `horizon` seconds from `made_at` on; 0 <= low <= rate <= high."""

    made_at: float
    horizon: float
    rate: float
    low: float
    high: float
    confidence: float
    model: str
    measurements: int
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """Of forecasts whose time has come."""

    outcomes: int = 0
    error: float = 0.0
    """Mean absolute error, bits per second, recent ones weighing more."""
    last_error: float = 0.0
    """What the last value would have been off by."""
    covered: int = 0
    """Outcomes that were within the interval."""
    models: Mapping[str, float] = field(default_factory=dict)
    """Error of each model, relative to that of the last value, as it is used to choose one."""


@dataclass(slots=True)
class _Track:
    """One model on this link."""

    error: float = 0.0
    """Sum of absolute errors, those long ago discounted."""
    gain: float = 0.0
    """Sum of what the preferred model was off by more than this one, and, in `spread`, of its squares."""
    spread: float = 0.0
    calibration: Calibration = field(default_factory=Calibration)


@dataclass(frozen=True, slots=True)
class _Pending:
    forecast: Forecast
    said: Mapping[str, Distribution]
    independence: float


class LinkForecaster:
    """`models`: the first one speaks, until another one has been better lately by more than chance."""

    def __init__(self, models: Sequence[Model], settings: Settings) -> None:
        self.settings = settings
        self._models = [*models, *([] if any(model.name == "last" for model in models) else [Last()])]
        self._eligible = {model.name for model in models}
        self._tracks = {model.name: _Track() for model in self._models}
        self._pending: deque[_Pending] = deque()
        self._weight = 0.0
        self._own_error = 0.0
        self._score = Score()
        self._now = -math.inf

    @property
    def score(self) -> Score:
        names = sorted(self._eligible)
        relative = {name: self._relative(name) for name in names}
        weight = max(self._weight, 1e-9)
        last = self._tracks["last"].error / weight
        return replace(self._score, error=self._own_error / weight, last_error=last, models=relative)

    def update(self, measurements: Sequence[Measurement], now: float) -> Forecast | None:
        """The forecast as of `now`, after all those were judged whose time has come. None while nothing was measured.

        `measurements` may be whatever was read from anywhere, in any order. Never raises.
        """
        if now < self._now:
            # the clock was set back: what is pending is about another time
            self._pending.clear()
        self._now = now
        history = History.of(measurements, now, self.settings.window)
        self._judge(history, now)
        if not history.rates:
            return None
        said = self._say(history)
        name = self._choose([name for name in said if name in self._eligible])
        forecast = self._forecast(history, said[name], name, now)
        self._keep(forecast, said, now)
        return forecast

    def replay(self, measurements: Sequence[Measurement], now: float, every: float, most: int = 24) -> None:
        """Learns from the past what it would have learned by forecasting each `every` seconds, `most` times at most."""
        times = [entry.time for entry in measurements if math.isfinite(entry.time) and entry.time < now]
        if not times:
            return
        begin = max(min(times), now - self.settings.window)
        every = max(every, (now - begin) / most)
        for count in range(1, int((now - begin) / every)):
            self.update(measurements, begin + count * every)

    def _say(self, history: History) -> dict[str, Distribution]:
        steps = history.steps(self.settings.horizon)
        said: dict[str, Distribution] = {}
        for model in self._models:
            try:
                said[model.name] = model.predict(history, steps)
            except (ArithmeticError, ValueError):
                # numpy's LinAlgError is a ValueError; another model speaks
                continue
        return said

    def _forecast(self, history: History, said: Distribution, name: str, now: float) -> Forecast:
        confidence, horizon = self.settings.confidence, self.settings.horizon
        silence = max(0.0, history.age(now) - history.step)
        stretch = DOUBT ** min(MOST_DOUBTS, len(history.doubts)) * min(SILENCE, math.sqrt(1 + silence / horizon))
        low, high = self._tracks[name].calibration.interval(said, confidence, stretch)
        ceiling = min(HIGHEST_RATE, max(FARTHEST * max(history.rates), said.median))
        return Forecast(
            now,
            horizon,
            said.median,
            low,
            min(high, ceiling),
            confidence,
            name,
            len(history.rates),
            history.doubts,
        )

    def _keep(self, forecast: Forecast, said: Mapping[str, Distribution], now: float) -> None:
        horizon = self.settings.horizon
        since = now - self._pending[-1].forecast.made_at if self._pending else horizon
        if since >= horizon / MOST_PENDING:
            self._pending.append(_Pending(forecast, said, min(1.0, since / horizon)))

    def _judge(self, history: History, now: float) -> None:
        while self._pending and self._pending[0].forecast.made_at + self.settings.horizon <= now:
            pending = self._pending.popleft()
            outcome = _outcome(history, pending.forecast)
            if outcome is not None:
                self._learn(pending, outcome)

    def _learn(self, pending: _Pending, outcome: float) -> None:
        forecast, share = pending.forecast, pending.independence
        kept = MEMORY**share
        errors = {name: abs(said.median - outcome) for name, said in pending.said.items()}
        preferred = errors.get(self._models[0].name, errors["last"])
        self._weight = self._weight * kept + share
        self._own_error = self._own_error * kept + share * abs(forecast.rate - outcome)
        for name, track in self._tracks.items():
            said = pending.said.get(name)
            error = errors.get(name, errors["last"])
            track.error = track.error * kept + share * error
            track.gain = track.gain * kept + share * (preferred - error)
            track.spread = track.spread * kept + share * (preferred - error) ** 2
            if said is not None:
                track.calibration.observe(said, forecast.confidence, outcome, share)
        self._score = replace(
            self._score,
            outcomes=self._score.outcomes + 1,
            covered=self._score.covered + (forecast.low <= outcome <= forecast.high),
        )

    def _choose(self, names: list[str]) -> str:
        """The first of `names`, which are in the order of preference, or who has been better than it by BETTER."""
        if not names:
            return "last"

        def better(name: str) -> float:
            track = self._tracks[name]
            return track.gain / math.sqrt(track.spread) if track.spread > 0 else 0.0

        best = max(names, key=better)
        return best if better(best) > max(0.0, better(names[0])) + BETTER else names[0]

    def _relative(self, name: str) -> float:
        """Error relative to the last value's."""
        last, own = self._tracks["last"].error, self._tracks[name].error
        return min(WORST, own / last) if last > 0 else (WORST if own > 0 else 1.0)


def _outcome(history: History, forecast: Forecast) -> float | None:
    """Mean rate over the horizon; None where too little was measured to say."""
    begin, end = forecast.made_at, forecast.made_at + forecast.horizon
    rates = [rate for time, rate in zip(history.times, history.rates, strict=True) if begin < time <= end]
    if not rates or len(rates) * 2 < history.steps(forecast.horizon):
        return None
    return math.fsum(rates) / len(rates)
