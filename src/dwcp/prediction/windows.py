"""What the network is trained on: pieces of measured series, of series made from them, and of some that are invented.

A link that nobody has measured is likely to move in another way than those in the traces: slower, smoother, in steps.
So long series are also smoothed, short ones strung together with others of their group and stretched in time, and some
are invented: random walks, processes that return to a mean, steps, waves, and steady links with drops.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.forecast.features import LONGEST, Array, build
from dwcp.forecast.history import MOST
from dwcp.prediction.traces import Series, by_family, is_even

Rates = NDArray[np.float64]

LONG = 780
"""Measurements from which on a series holds whole windows by itself: an hour, and five minutes ahead."""
STEPS = (60, 6, 1, 2, 3, 12, 24, 36)
STEPS_SHARE = (0.3, 0.3, 0.1, 0.06, 0.06, 0.06, 0.06, 0.06)
SHORT = 24
"""Measurements of a window where only a short history is to be had: two minutes."""
SHORT_AHEAD = (6, 0.6)
"""(measurements ahead, of this share of the short windows): with two minutes known, half a minute is what is asked."""
PER_LONG, PER_SMOOTH, PER_MADE, PER_UNEVEN, PER_INVENTED = 700, 80, 110, 800, 50
"""Windows of a series, by where it is from. A series of less than 200 gets them in proportion to its length."""
STRUNG, STRETCHED = 0.6, 0.4
"""How many series are strung together, and how many stretched, for each that there is of a family."""
MOST_MADE = 100
"""Of a family."""
INVENTED = 0.5
"""Series that are invented for each that was measured."""
INVENTED_KIND, INVENTED_WEIGHT = "invented", 0.5
BY_RATE = 0.75
"""Power of a link's rate with which it counts among those of its kind."""


@dataclass(frozen=True, slots=True)
class Windows:
    """`inputs` in the order of the network's arguments; `outcome` relative to each window's unit; `weight` of each."""

    inputs: tuple[Array, Array, Array, Array]
    outcome: Array
    weight: Array
    source: NDArray[np.str_]
    """Which kind of series each is from: `FAMILY`, `FAMILY smooth`, `FAMILY made`, `invented`."""


@dataclass(frozen=True, slots=True)
class _Source:
    kind: str
    rates: Rates
    windows: int
    steps: tuple[int, ...] = STEPS
    share: tuple[float, ...] = STEPS_SHARE
    short: float = 0.25
    """Share of windows with a short history."""
    whole: bool = False
    """All that was measured before is the history."""


def windows(series: list[Series], seed: int) -> Windows:
    """The same for the same series and seed."""
    random = np.random.default_rng(seed)
    sources = _sources(series, random)
    jobs: dict[tuple[int, int], list[tuple[str, Rates, float]]] = defaultdict(list)
    for source in sources:
        long = len(source.rates) > 200
        for _ in range(source.windows if long else max(2, source.windows * len(source.rates) // 400)):
            job = _cut(source, random)
            if job is not None:
                history, steps, came = job
                jobs[len(history), steps].append((source.kind, history, came))
    parts: list[tuple[Array, ...]] = []
    units: list[Array] = []
    kinds: list[str] = []
    for (_, steps), members in jobs.items():
        inputs = build(np.stack([history for _, history, _ in members]), steps)
        ahead = np.array([came for _, _, came in members]) / inputs.unit
        parts.append((inputs.sequence, inputs.scalars, inputs.bank, inputs.scale, ahead.astype(np.float32)))
        units.append(inputs.unit)
        kinds.extend(kind for kind, _, _ in members)
    sequence, scalars, bank, scale, outcome = (np.concatenate(column) for column in zip(*parts, strict=True))
    source_of = np.array(kinds)
    return Windows(
        (sequence, scalars, bank, scale), outcome, _weights(source_of, np.concatenate(units), outcome), source_of
    )


def _weights(kinds: NDArray[np.str_], unit: Array, outcome: Array) -> Array:
    """A kind counts as the root of its number of windows. Within it a fast link counts more, for errors are counted in
    bits per second; an outcome of a multiple of all before it counts less."""
    weight = np.zeros(len(kinds))
    for kind, count in Counter(kinds.tolist()).items():
        own = kinds == kind
        weight[own] = (unit[own] / unit[own].mean()) ** BY_RATE / np.sqrt(count)
    weight = np.where(kinds == INVENTED_KIND, weight * INVENTED_WEIGHT, weight)
    weights: Array = (weight / weight.mean() / np.maximum(1, outcome / 3)).astype(np.float32)
    return weights


def _cut(source: _Source, random: np.random.Generator) -> tuple[Rates, int, float] | None:
    """(history, steps ahead, mean of these)."""
    steps = int(random.choice(source.steps, p=source.share))
    count, draw = MOST, random.random()
    if draw < source.short:
        count = SHORT
        if random.random() < SHORT_AHEAD[1]:
            steps = SHORT_AHEAD[0]
    elif draw > 1 - 0.3:
        count = int(np.exp(random.uniform(np.log(4), np.log(MOST - 1))))
    count = min(count, len(source.rates) - steps)
    if count < 4:
        return None
    now = int(random.integers(4 if source.whole else count, len(source.rates) - steps + 1))
    history = source.rates[max(0, now - (MOST if source.whole else count)) : now]
    if history.mean() <= 0:
        return None
    return history, steps, float(source.rates[now : now + steps].mean())


def _sources(series: list[Series], random: np.random.Generator) -> list[_Source]:
    sources: list[_Source] = []
    for family, members in sorted(by_family(series).items()):
        rates = [np.array(entry.rates) for entry in members]
        if not is_even(members):
            sources += [
                _Source(family, own, PER_UNEVEN, (1, 2), (0.8, 0.2), 0.0, whole=True) for own in rates if len(own) > 5
            ]
        elif np.median([len(own) for own in rates]) >= LONG:
            sources += [_Source(family, own, PER_LONG) for own in rates]
            sources += [_Source(f"{family} smooth", _smooth(own, random), PER_SMOOTH) for own in rates]
        else:
            sources += [_Source(family, own, PER_MADE, (6, 1, 3, 12), (0.5, 0.2, 0.15, 0.15), 0.6) for own in rates]
            made = min(MOST_MADE, len(rates))
            strung, stretched = math.ceil(made * STRUNG), math.ceil(made * STRETCHED)
            kind = f"{family} made"
            groups = _groups(members)
            sources += [_Source(kind, _string(groups, 1100, random), PER_MADE) for _ in range(strung)]
            sources += [
                _Source(kind, _stretch(_string(groups, 500, random), random.uniform(1.5, 5)), PER_MADE)
                for _ in range(stretched)
            ]
    sources += [_Source(INVENTED_KIND, _invent(random), PER_INVENTED) for _ in range(int(len(series) * INVENTED))]
    return sources


def _groups(members: list[Series]) -> list[list[Rates]]:
    groups: dict[str, list[Rates]] = defaultdict(list)
    for entry in members:
        groups[entry.group].append(np.array(entry.rates))
    return [groups[name] for name in sorted(groups)]


def _string(groups: list[list[Rates]], length: int, random: np.random.Generator) -> Rates:
    """Series of one group after the other; now and then, or where the group has one only, the group changes."""
    group = groups[int(random.integers(len(groups)))]
    parts: list[Rates] = []
    while sum(map(len, parts)) < length:
        parts.append(group[int(random.integers(len(group)))])
        if random.random() < (0.7 if len(group) == 1 else 0.1):
            group = groups[int(random.integers(len(groups)))]
    return np.concatenate(parts)


def _stretch(rates: Rates, factor: float) -> Rates:
    places = np.linspace(0, len(rates) - 1, int(len(rates) * factor))
    return np.interp(places, np.arange(len(rates)), rates)


def _smooth(rates: Rates, random: np.random.Generator) -> Rates:
    width = int(random.integers(2, LONGEST // 2))
    return np.convolve(rates, np.ones(width) / width, "valid")


def _invent(random: np.random.Generator) -> Rates:
    count = 1200
    kind = int(random.integers(5))
    noise = random.normal(0, 1, count)
    if kind == 0:
        log = np.cumsum(noise * 10 ** random.uniform(-2.5, -0.7))
    elif kind == 1:
        kept = np.exp(-1 / 10 ** random.uniform(0, 2.5))
        noise *= np.sqrt(1 - kept * kept) * 10 ** random.uniform(-1.5, 0)
        log = np.zeros(count)
        for index in range(1, count):
            log[index] = kept * log[index - 1] + noise[index]
    elif kind == 2:
        levels = random.normal(0, 10 ** random.uniform(-1, 0), count)
        log = np.repeat(levels, int(random.integers(20, 300)))[:count] + noise * 10 ** random.uniform(-2.5, -0.5)
    elif kind == 3:
        period, phase = 10 ** random.uniform(1.7, 3), random.random()
        log = 10 ** random.uniform(-1, 0) * np.sin(2 * np.pi * (np.arange(count) / period + phase))
        log += noise * 10 ** random.uniform(-2.5, -1) + np.cumsum(
            random.normal(0, 10 ** random.uniform(-3, -1.3), count)
        )
    else:
        log = noise * 10 ** random.uniform(-2.5, 0)
        log[random.random(count) < 0.02] -= random.uniform(0.5, 3)
    log -= log.mean()
    return np.exp(log * min(1.0, 1.2 / max(float(log.std()), 1e-9)))
