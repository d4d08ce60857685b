"""Measured series of throughput, to train on and to judge by.

A directory of CSV files, one for each family of links: `series_id,t_seconds,mbps`. `manifest.csv` beside them may put
series into groups (`series_id,family,group`) that must not be torn apart: sessions, routes, units, pairs of regions.
"""

from __future__ import annotations

import csv
import hashlib
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dwcp.errors import NotFoundError, UsageError

Role = Literal["train", "test"]
TURN: tuple[Role, ...] = ("train", "test", "train", "train", "train", "train")
"""Roles of the groups of a family, the largest group first."""
FOLDS = 5
"""Parts into which training groups are divided, each held back from one network."""
EVEN = 0.2
"""Deviation of the distances from the usual one, relative to it, up to which a family is measured at even distances."""


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    family: str
    group: str
    role: Role
    fold: int
    times: tuple[float, ...]
    """Seconds."""
    rates: tuple[float, ...]
    """Mbit/s."""

    @property
    def step(self) -> float:
        """Usual seconds between two measurements."""
        return statistics.median(_distances(self)) if len(self.times) > 1 else 1.0


def read(directory: Path, *, manifest_role: bool = True) -> list[Series]:
    """All series, by family and name. A group's role comes from its name alone, so that it is the same everywhere.

    With `manifest_role`, series that the manifest calls `test` are for testing whatever their group's turn is.
    Raises NotFoundError without files, UsageError for what cannot be read.
    """
    files = sorted(path for path in directory.glob("*.csv") if path.name != "manifest.csv")
    if not files:
        raise NotFoundError(f"no traces in {directory}: it has to hold CSV files of series_id,t_seconds,mbps")
    described = _manifest(directory / "manifest.csv")
    series: list[Series] = []
    for path in files:
        points = _points(path)
        groups = {name: described.get(name, {}).get("group") or name for name in points}
        places = _places(groups)
        for name in sorted(points):
            place = places[groups[name]]
            role = TURN[place % len(TURN)]
            if manifest_role and described.get(name, {}).get("split", "train") == "test":
                role = "test"
            times, rates = zip(*sorted(points[name]), strict=True)
            series.append(Series(name, path.stem, groups[name], role, place % FOLDS, times, rates))
    return series


def by_family(series: list[Series]) -> dict[str, list[Series]]:
    families: dict[str, list[Series]] = defaultdict(list)
    for entry in series:
        families[entry.family].append(entry)
    return dict(families)


def is_even(family: list[Series]) -> bool:
    """Whether it was measured at even distances; probes usually are not."""
    spread = [statistics.pstdev(distances) / entry.step for entry in family if len(distances := _distances(entry)) > 1]
    return not spread or statistics.median(spread) <= EVEN


def _distances(series: Series) -> list[float]:
    return [later - sooner for sooner, later in zip(series.times, series.times[1:], strict=False)]


def _manifest(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["series_id"]: row for row in csv.DictReader(file) if row.get("series_id")}


def _points(path: Path) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                points[row["series_id"]].append((float(row["t_seconds"]), float(row["mbps"])))
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(f"{path}:{number}: not a line of series_id,t_seconds,mbps") from error
    return points


def _places(groups: dict[str, str]) -> dict[str, int]:
    """By size, so that small families have their share of each role; by hash among equals, so that it means nothing."""
    sizes = Counter(groups.values())
    order = sorted(sizes, key=lambda group: (-sizes[group], hashlib.sha256(group.encode()).hexdigest()))
    return {group: place for place, group in enumerate(order)}
