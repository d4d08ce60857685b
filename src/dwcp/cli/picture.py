"""The same chart as a picture, by matplotlib, which comes with the extra `plot` and is imported when it is used."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from dwcp.cli.chart import Chart
from dwcp.errors import StorageError, UsageError

FORMATS = ("png", "svg")


def save(chart: Chart, title: str, path: Path, kind: str) -> None:
    """Raises UsageError without matplotlib, StorageError where the file cannot be written."""
    try:
        figures: Any = import_module("matplotlib.figure")
    except ImportError as error:
        raise UsageError(f"a picture needs matplotlib ({error}): pip install 'dwcp[plot]'") from error
    figure = figures.Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    now = chart.band[0] if chart.band else (chart.history[-1][0] if chart.history else 0.0)
    axes.plot(
        [(when - now) / 60 for when, _ in chart.history],
        [rate / 1e6 for _, rate in chart.history],
        ".-",
        label="measured",
    )
    if chart.band:
        begin, end, low, rate, high = chart.band
        ahead = [(begin - now) / 60, (end - now) / 60]
        axes.fill_between(ahead, [low / 1e6] * 2, [high / 1e6] * 2, alpha=0.3, label="interval")
        axes.plot(ahead, [rate / 1e6] * 2, label="forecast")
    axes.set(title=title, xlabel="minutes from now", ylabel="Mbit/s")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")
    try:
        figure.savefig(path, format=kind)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
