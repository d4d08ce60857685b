"""Forecasts beside what people forecast with, on measured series.

Every series is one that no weights were trained on (its session, route, unit or pair of regions was kept aside), and is
gone through forward in time: a forecast knows what was measured before it, its calibration what came true before it.
Everything that is tuned is tuned on the training series. MAE is over all forecasts of a case, in Mbit/s.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench import forecast_baselines as baselines
from bench.forecast_cases import CASES, Case, Job, Rates, jobs, strung
from bench.plot import Group
from bench.report import Table, publish
from dwcp.errors import DwcpError
from dwcp.forecast.arima import Arima
from dwcp.forecast.distribution import Model
from dwcp.forecast.ewma import Ewma
from dwcp.forecast.forecaster import Forecast, LinkForecaster, Settings
from dwcp.forecast.history import Measurement
from dwcp.forecast.last import Last
from dwcp.forecast.lstm import Lstm
from dwcp.prediction.runtime import OnnxNetwork
from dwcp.prediction.traces import read

CONFIDENCE = 0.95
MEGABIT = 1e6
ENOUGH = 100
"""Windows from which on a family's coverage is held to LEAST_COVERAGE."""
LEAST_COVERAGE, POOLED_COVERAGE = 0.90, (0.93, 0.97)
MOST_MILLISECONDS = 1.0
PLAIN = "same, 1.96 dev."
"""EWMA with the interval that a normal distribution would have; the other one's is tuned, which is harder to beat."""


@dataclass
class Result:
    """Of one method in one case, forecast by forecast."""

    points: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    milliseconds: float | None = None

    def error(self, outcome: Rates, where: Rates | slice = slice(None)) -> float:
        return float(np.abs(np.array(self.points) - outcome)[where].mean())

    def winkler(self, outcome: Rates) -> float:
        low, high = np.array(self.low), np.array(self.high)
        missed = np.maximum(low - outcome, 0) + np.maximum(outcome - high, 0)
        return float((high - low + 2 / (1 - CONFIDENCE) * missed).mean())

    def covered(self, outcome: Rates, where: Rates | slice = slice(None)) -> float:
        return float(((np.array(self.low) <= outcome) & (outcome <= np.array(self.high)))[where].mean())


@dataclass(frozen=True)
class Covered:
    """Of the interval of `auto`: outcomes within it, of so many."""

    held: int
    asked: int


def walk(job: Job, models: Sequence[Model]) -> tuple[list[Forecast], float]:
    """Forecasts of a fresh forecaster along the series, in Mbit/s times MEGABIT, and the seconds that they took."""
    series = job.series
    measured = [Measurement(when, rate * MEGABIT) for when, rate in zip(series.times, series.rates, strict=True)]
    forecaster = LinkForecaster(models, Settings(job.horizon, job.window, CONFIDENCE))
    said, seconds = [], 0.0
    first = 0
    for instant in job.instants:
        now = series.times[instant - 1]
        while series.times[first] < now - job.window:
            first += 1
        known = measured[max(0, first - job.steps) : instant]
        began = time.perf_counter()
        forecast = forecaster.update(known, now)
        seconds += time.perf_counter() - began
        if forecast is None:
            raise RuntimeError(f"{series.name} at {now}: no forecast from {len(known)} measurements")
        said.append(forecast)
    return said, seconds


def run(case: Case, train: list[Job], test: list[Job], network: OnnxNetwork, searching: bool) -> dict[str, Result]:
    """Each method's forecasts for all instants of `test`, in their order."""
    results: dict[str, Result] = defaultdict(Result)
    choices: dict[str, list[Model]] = {
        "last": [Last()],
        "ewma": [Ewma()],
        "arima": [Arima()],
        "lstm": [Lstm(network)],
        "auto": [Lstm(network), Ewma(), Arima(), Last()],
    }
    count = sum(len(job.instants) for job in test)
    for name, models in choices.items():
        total = 0.0
        for job in test:
            said, seconds = walk(job, models)
            total += seconds
            results[f"dwcp {name}"].points += [entry.rate / MEGABIT for entry in said]
            results[f"dwcp {name}"].low += [entry.low / MEGABIT for entry in said]
            results[f"dwcp {name}"].high += [entry.high / MEGABIT for entry in said]
        results[f"dwcp {name}"].milliseconds = total / count * 1000

    tuning = baselines.sample(train, baselines.TRAINED_ON)
    histories = [job.history(instant) for job in test for instant in job.instants]
    ewma, half_life = baselines.tuned(baselines.ewma, baselines.HALF_LIVES, tuning)
    average, _ = baselines.tuned(baselines.average, baselines.WIDTHS, tuning)
    points = {
        "last value": baselines.last,
        "moving average": average,
        "tuned EWMA": ewma,
        "harmonic mean": baselines.harmonic,
    }
    for name, point in points.items():
        results[name].points = [point(history) for history in histories]
    results[PLAIN].points = results["tuned EWMA"].points
    factors = {"tuned EWMA": baselines.deviations(ewma, half_life, tuning), PLAIN: baselines.NORMAL}
    for name, factor in factors.items():
        interval = baselines.scaled_interval(ewma, half_life, factor)
        results[name].low, results[name].high = (list(side) for side in zip(*map(interval, histories), strict=True))
    steps = test[0].steps
    _try(lambda: results["LightGBM"].points.extend(baselines.boosted(tuning, steps)(histories)), "LightGBM")
    if searching:
        chosen = np.unique(np.linspace(0, count - 1, baselines.SEARCHED_ON).astype(int))
        for name in ("AutoARIMA", "AutoETS"):
            _try(lambda name=name: _search(results, name, steps, histories, chosen), name)
    return dict(results)


def _search(results: dict[str, Result], name: str, steps: int, histories: list[Rates], chosen: Rates) -> None:
    point = baselines.statistical(name, steps)
    began = time.perf_counter()
    said = np.full(len(histories), np.nan)
    for index in chosen:
        said[index] = point(histories[index])
    results[name].points = said.tolist()
    results[name].milliseconds = (time.perf_counter() - began) / len(chosen) * 1000


def _try(act: Callable[[], None], name: str) -> None:
    try:
        act()
    except ImportError as error:
        print(f"  {name} is left out: {error}; pip install '.[bench-forecast]'")


def table(case: Case, test: list[Job], results: dict[str, Result]) -> tuple[dict[str, object], Covered, bool]:
    """Prints the case; gives what is kept of it, and whether its goals were met by `auto`."""
    outcome = np.array([job.outcome(instant) for job in test for instant in job.instants])
    families = np.array([job.series.family for job in test for _ in job.instants])
    last, ewma = results["last value"].error(outcome), results["tuned EWMA"]
    print(
        f"\n{case.name}: {len(outcome)} forecasts of {len(test)} series, "
        f"tuned EWMA / last {ewma.error(outcome) / last:.3f}"
    )
    print(f"  {'':<16}{'MAE/last':>9}{'MAE/EWMA':>9}{'Winkler':>9}{'covered':>9}{'width':>9}{'ms':>8}")
    rows = []
    for name, result in results.items():
        if not result.points:
            continue
        there = np.isfinite(result.points)
        error = float(np.abs(np.array(result.points) - outcome)[there].mean())
        row: dict[str, object] = {
            "name": name,
            "windows": int(there.sum()),
            "mae_over_last": error / results["last value"].error(outcome, there),
            "mae_over_ewma": error / ewma.error(outcome, there),
            "milliseconds": result.milliseconds,
        }
        text = f"  {name:<16}{row['mae_over_last']:>9.3f}{row['mae_over_ewma']:>9.3f}"
        if result.low:
            row |= {
                "winkler_over_ewma": result.winkler(outcome) / ewma.winkler(outcome),
                "covered": result.covered(outcome),
                "width_mbps": float((np.array(result.high) - np.array(result.low)).mean()),
            }
            text += f"{row['winkler_over_ewma']:>9.3f}{row['covered']:>9.3f}{row['width_mbps']:>9.2f}"
        else:
            text += " " * 27
        print(text + (f"{result.milliseconds:>8.2f}" if result.milliseconds is not None else ""))
        rows.append(row)
    ours = results["dwcp auto"]
    kept, met = [], True
    for family in sorted(set(families)):
        where = families == family
        entry = {
            "family": family,
            "windows": int(where.sum()),
            "mae_over_last": ours.error(outcome, where) / results["last value"].error(outcome, where),
            "mae_over_ewma": ours.error(outcome, where) / ewma.error(outcome, where),
            "covered": ours.covered(outcome, where),
        }
        kept.append(entry)
        missed = entry["windows"] >= ENOUGH and entry["covered"] < LEAST_COVERAGE
        met &= not missed
        print(
            f"  auto on {family:<26}{entry['windows']:>6} windows, MAE/last {entry['mae_over_last']:.3f}, "
            f"MAE/EWMA {entry['mae_over_ewma']:.3f}, covered {entry['covered']:.3f}{' MISSED' if missed else ''}"
        )
    figures = {
        "MAE / last value": (ours.error(outcome) / last, case.goals[0]),
        "MAE / tuned EWMA": (ours.error(outcome) / ewma.error(outcome), case.goals[1]),
        "Winkler / tuned EWMA": (ours.winkler(outcome) / ewma.winkler(outcome), case.goals[2]),
    }
    for name, (figure, goal) in figures.items():
        met &= figure <= goal
        print(f"  {name:<24}{figure:.3f}, at most {goal:g}: {'met' if figure <= goal else 'MISSED'}")
    print(f"  {'covered':<24}{ours.covered(outcome):.3f}")
    kept_case = {"case": case.name, "methods": rows, "families": kept, "goals": case.goals}
    return kept_case, Covered(round(ours.covered(outcome) * len(outcome)), len(outcome)), met


def milliseconds(network: OnnxNetwork) -> float:
    """Of one forecast of the network from a full history, the quickest of many: the machine has other things to do."""
    from dwcp.forecast.history import History

    random = np.random.default_rng(1)
    history = History.of(
        [Measurement(5.0 * i, float(r)) for i, r in enumerate(random.lognormal(16, 0.4, 720))], 3600, 3600
    )
    model, best = Lstm(network), float("inf")
    for _ in range(300):
        began = time.perf_counter()
        model.predict(history, 60)
        best = min(best, time.perf_counter() - began)
    return best * 1000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.forecast", description=__doc__)
    parser.add_argument(
        "--weights", default="", help="a file of python -m dwcp.prediction.train; without, what is shipped"
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out AutoARIMA and AutoETS, which search for seconds"
    )
    options = parser.parse_args()
    where = Path(os.environ.get("DWCP_TRACES") or Path(__file__).parents[1].parent / "shared" / "traces")
    if not where.is_dir():
        print(f"skipped: no traces in {where}; name a directory of them in DWCP_TRACES")
        return 0
    try:
        series, network = read(where), OnnxNetwork(options.weights)
    except DwcpError as error:
        print(f"forecast: {error}", file=sys.stderr)
        return error.exit_code
    # a link in use for hours is not in every set of traces, and the first two cases are about those
    series = [
        *series,
        *(s for role in ("train", "test") for s in strung([e for e in series if e.role == role], 5400)),
    ]
    document: list[dict[str, object]] = []
    met, held, asked = True, 0, 0
    groups, tables = [], []
    for case in CASES:
        chosen = list(jobs(case, series))
        train = [job for job in chosen if job.series.role == "train"]
        test = [job for job in chosen if job.series.role == "test"]
        if not train or not test:
            print(f"\n{case.name}: skipped, no series for it in {where}")
            continue
        results = run(case, train, test, network, not options.quick)
        kept, covered, fine = table(case, test, results)
        document.append(kept)
        held, asked = held + covered.held, asked + covered.asked
        met &= fine
        groups.append(Group(f"{case.name}: error, percent of the last value's", "%", 130.0, _figures(kept)))
        tables.append(_table(kept))
    if asked:
        inside = POOLED_COVERAGE[0] <= held / asked <= POOLED_COVERAGE[1]
        met &= inside
        verdict = "met" if inside else "MISSED"
        print(f"\ncovered in all: {held / asked:.3f}, {POOLED_COVERAGE[0]:.0%} to {POOLED_COVERAGE[1]:.0%}: {verdict}")
    single = milliseconds(network)
    fast = single <= MOST_MILLISECONDS
    print(
        f"\none forecast of the network: {single:.2f} ms, at most {MOST_MILLISECONDS:g}: {'met' if fast else 'MISSED'}"
    )
    headline = f"{'Every goal is met' if met and fast else 'A goal is missed'}; one forecast takes {single:.2f} ms."
    publish("forecast", headline, {"milliseconds": single, "cases": document}, groups, tables)
    return int(not (met and fast))


def _figures(kept: dict[str, object]) -> dict[str, float]:
    methods = kept["methods"]
    assert isinstance(methods, list)
    shown = {row["name"]: row["mae_over_last"] * 100 for row in methods if row["name"] != "dwcp last"}
    return {"dwcp" if name == "dwcp auto" else name: figure for name, figure in shown.items()}


def _table(kept: dict[str, object]) -> Table:
    methods = kept["methods"]
    assert isinstance(methods, list)
    columns = ("mae_over_last", "mae_over_ewma", "winkler_over_ewma", "covered", "width_mbps", "milliseconds")
    cells = [
        (str(row["name"]), *(f"{row[key]:.3f}" if row.get(key) is not None else "" for key in columns))
        for row in methods
    ]
    head = ("method", "error / last value", "error / EWMA", "Winkler / EWMA", "covered", "width, Mbit/s", "ms")
    return Table(str(kept["case"]), head, cells)


if __name__ == "__main__":
    sys.exit(main())
