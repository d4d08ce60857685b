"""What the network sees of a history; the same function for training and for use, so that they cannot differ.

Everything is divided by the history's mean, so that a network knows neither Mbit/s nor Gbit/s. It sees

- a sequence: the newest RAW measurements as they are, those before them in COARSE means of WIDTH;
- a bank of simple forecasts: the last value, averages with several half-lives and windows, medians;
- how wrong each of the averages would have been, for the same horizon, at PAST instants in this very history.

All averages, now and at every instant in the past, are one product with a matrix (`_kernel`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dwcp.forecast.history import MOST

Array = NDArray[np.float32]

HALF_LIVES = (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)
WINDOWS = (6, 24, 60, 240, 720)
MEDIANS = (5, 15, 60, 720)
AVERAGES = 1 + len(HALF_LIVES) + len(WINDOWS)
"""The last value is the first of them."""
BANK = AVERAGES + len(MEDIANS)
PAST = 24
RAW = 24
COARSE, WIDTH = 24, 29
LONGEST = 60
"""Measurements ahead, at most: longer horizons were not trained for, and are forecast as this one."""
FLOOR = 0.02
"""Of the mean; added before the logarithm, which has to bear links that stand still."""
STEADIEST = 0.005
"""Of the mean; below it the error of the best average says more about the measurements than about the link."""
QUANTILES = (0.0, 0.1, 0.25, 0.75, 0.9, 1.0)
"""Of the errors that the best average made in the past."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Of as many histories as there are rows. Everything is relative to `unit`."""

    sequence: Array
    """(rows, COARSE + RAW, 4): log of the rate, deviation within, whether there is one, whether it is a mean."""
    scalars: Array
    bank: Array
    """(rows, BANK): what the simple forecasts say."""
    scale: Array
    """(rows,): the error of the best average in the past; what corrections and intervals are measured in."""
    unit: Array
    """(rows,): the mean of the history, in the unit of the rates that were given."""


def build(rates: NDArray[np.floating], steps: int) -> Inputs:
    """`rates`: (rows, count) with 1 <= count <= MOST, newest last, for the mean of the next `steps`."""
    steps = min(steps, LONGEST)
    rows, count = rates.shape
    own = rates.astype(np.float64)
    unit = np.maximum(own.mean(axis=1), 1e-9)
    values = np.zeros((rows, MOST), np.float32)
    values[:, MOST - count :] = own / unit[:, None]
    recent = values[:, MOST - count :]

    stride = max(1, min(steps, (count - steps - 2) // PAST))
    kernel, weight = _kernel(steps, stride), _weight(steps, stride, count)
    said = ((values @ kernel) / weight).reshape(rows, PAST + 1, AVERAGES)
    errors, tried = _errors(values, said[:, 1:], steps, stride, count)
    error = np.abs(errors).mean(axis=1) if tried else np.full((rows, AVERAGES), 0.5, np.float32)
    least = error.min(axis=1, keepdims=True)
    scale = np.maximum(least, STEADIEST)
    medians = np.stack([_median(recent[:, -width:]) for width in MEDIANS], axis=1)
    bank = np.concatenate([said[:, 0], medians], axis=1)
    scalars = np.concatenate(
        [
            np.tile(np.array([[np.log(steps) / 4, np.log(count) / 6, tried / PAST]]), (rows, 1)),
            _log(bank),
            _log(error) + 2,
            np.log((error + 0.01) / (least + 0.01)),
            _bias(errors, rows) / scale * 0.5,
            _spread(errors, error, rows) / scale * 0.3,
            _log(_variation(recent, scale)) + 1,
            _log(_extremes(recent)),
        ],
        axis=1,
    )
    return Inputs(
        _sequence(values, count),
        np.clip(np.nan_to_num(scalars), -10, 10).astype(np.float32),
        bank.astype(np.float32),
        scale[:, 0].astype(np.float32),
        unit.astype(np.float32),
    )


def _errors(values: Array, said: Array, steps: int, stride: int, count: int) -> tuple[Array, int]:
    """(what each average said minus what came, at each past instant that had two measurements before it; how many)."""
    ends = MOST - np.arange(PAST) * stride
    ends = ends[ends - steps - (MOST - count) >= 2]
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1, dtype=np.float64)], axis=1)
    came = (sums[:, ends] - sums[:, ends - steps]) / steps
    return (said[:, : len(ends)] - came[:, :, None]).astype(np.float32), len(ends)


def _bias(errors: Array, rows: int) -> Array:
    return errors.mean(axis=1) if errors.shape[1] else np.zeros((rows, AVERAGES), np.float32)


def _spread(errors: Array, error: Array, rows: int) -> NDArray[np.floating]:
    """Quantiles of what came minus what the best average said."""
    if not errors.shape[1]:
        return np.zeros((rows, len(QUANTILES)))
    best = np.take_along_axis(-errors, error.argmin(axis=1)[:, None, None], axis=2)[:, :, 0]
    ordered = np.sort(best, axis=1)
    at = np.rint(np.array(QUANTILES) * (ordered.shape[1] - 1)).astype(int)
    return ordered[:, at]


def _variation(recent: Array, scale: Array) -> Array:
    jumps = np.abs(np.diff(recent, axis=1)).mean(axis=1) if recent.shape[1] > 1 else np.zeros(len(recent), np.float32)
    return np.stack([recent.std(axis=1), recent[:, -RAW:].std(axis=1), jumps, scale[:, 0]], axis=1)


def _extremes(recent: Array) -> Array:
    newest = recent[:, -RAW:]
    return np.stack([recent.min(axis=1), recent.max(axis=1), newest.min(axis=1), newest.max(axis=1)], axis=1)


def _sequence(values: Array, count: int) -> Array:
    rows = len(values)
    there = (np.arange(MOST) >= MOST - count).astype(np.float32)
    old = values[:, MOST - RAW - COARSE * WIDTH : MOST - RAW].reshape(rows, COARSE, WIDTH)
    held = there[MOST - RAW - COARSE * WIDTH : MOST - RAW].reshape(COARSE, WIDTH).sum(axis=1)
    number = np.maximum(held, 1)
    mean = old.sum(axis=2) / number
    deviation = np.sqrt(np.maximum((old * old).sum(axis=2) / number - mean**2, 0))
    sequence = np.zeros((rows, COARSE + RAW, 4), np.float32)
    known = np.concatenate([held > 0, there[MOST - RAW :] > 0])
    sequence[:, :, 0] = _log(np.concatenate([mean, values[:, MOST - RAW :]], axis=1)) * known
    sequence[:, :COARSE, 1] = deviation * known[:COARSE]
    sequence[:, :, 2] = known
    sequence[:, :COARSE, 3] = 1
    return sequence


def _median(values: Array) -> Array:
    ordered = np.sort(values, axis=1)
    count = ordered.shape[1]
    middle: Array = ((ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2).astype(np.float32)
    return middle


def _log(values: NDArray[np.floating]) -> NDArray[np.floating]:
    logs: NDArray[np.floating] = np.log(np.maximum(values, 0) + FLOOR)
    return logs


@lru_cache(maxsize=16)
def _kernel(steps: int, stride: int) -> Array:
    """(MOST, (PAST + 1) * AVERAGES): weights of each measurement in each average, now and at each past instant."""
    age = np.arange(MOST)[::-1]
    kernel = np.zeros((PAST + 1, AVERAGES, MOST), np.float32)
    for instant in range(PAST + 1):
        before = age - (0 if instant == 0 else steps + (instant - 1) * stride)
        seen = before >= 0
        kernel[instant, 0] = before == 0
        for index, half_life in enumerate(HALF_LIVES, start=1):
            kernel[instant, index] = np.where(seen, 0.5 ** (np.maximum(before, 0) / half_life), 0)
        for index, width in enumerate(WINDOWS, start=1 + len(HALF_LIVES)):
            kernel[instant, index] = seen & (before < width)
    return np.ascontiguousarray(kernel.reshape(-1, MOST).T)


@lru_cache(maxsize=256)
def _weight(steps: int, stride: int, count: int) -> Array:
    """The sum of those weights, over the measurements that there are."""
    weight: Array = np.maximum(_kernel(steps, stride)[MOST - count :].sum(axis=0), np.float32(1e-12))
    return weight
