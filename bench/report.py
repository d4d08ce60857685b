"""What every benchmark ends with: a table, `bench/results/NAME.json`, the same as NAME.svg and as a page in NAME.html,
and an exit code that tells whether its goals were met."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from bench.plot import Group, bars
from dwcp.report.sheet import sheet, table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """`figure` of dwcp beside `peer_figure` of a peer, both in `unit`; `goal` is the least ratio, None without one."""

    name: str
    peer: str
    unit: str
    figure: float
    peer_figure: float
    goal: float | None = None
    smaller_is_better: bool = False
    """The ratio is turned over then: how many times the peer needs what dwcp needs."""

    @property
    def ratio(self) -> float:
        over, under = (self.peer_figure, self.figure) if self.smaller_is_better else (self.figure, self.peer_figure)
        return over / under if under else 0.0

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.ratio >= self.goal


VERDICT = {True: "met", False: "MISSED", None: ""}


@dataclass(frozen=True)
class Table:
    """For the page."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def finish(name: str, rows: list[Row], notes: list[str], groups: Sequence[Group] | None = None) -> int:
    """Prints, publishes, and gives the exit code. `groups`: what is drawn, where that is not each row's figures."""
    print(f"\n{'':<34}{'dwcp':>10}  {'peer':<22}{'':>10}{'ratio':>8}{'goal':>7}")
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        figures = f"{row.figure:>10.2f}  {row.peer:<22}{row.peer_figure:>10.2f}{row.ratio:>8.2f}{goal:>7}"
        print(f"{row.name:<34}{figures} {VERDICT[row.met]}")
    for note in notes:
        print(note)
    told = [row.met for row in rows if row.met is not None]
    publish(
        name,
        f"{sum(told)} of {len(told)} goals are met." if told else "There is no goal.",
        {"rows": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows], "notes": notes},
        grouped(rows) if groups is None else groups,
        [Table("Figures", ("what", "dwcp", "unit", "beside", "its figure", "ratio", "goal", ""), _cells(rows))],
        notes,
    )
    return int(False in told)


def _cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [
        (
            row.name,
            f"{row.figure:,.2f}",
            row.unit,
            row.peer,
            f"{row.peer_figure:,.2f}",
            f"{row.ratio:.2f}",
            "" if row.goal is None else f"{row.goal:g}",
            VERDICT[row.met],
        )
        for row in rows
    ]


def grouped(rows: Sequence[Row]) -> list[Group]:
    """The figures of rows about the same thing side by side."""
    figures: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        figures.setdefault((row.name, row.unit), {"dwcp": row.figure})[row.peer] = row.peer_figure
    return [Group(name, unit, max(values.values()), values) for (name, unit), values in figures.items()]


def publish(
    name: str,
    headline: str,
    data: Mapping[str, Any],
    groups: Sequence[Group],
    tables: Sequence[Table],
    notes: Sequence[str] = (),
) -> None:
    """Writes NAME.json, NAME.svg and NAME.html."""
    machine = {"cpus": len(os.sched_getaffinity(0)), "kernel": platform.release()}
    document = {"name": name, "machine": machine, **data, "groups": [asdict(group) for group in groups]}
    picture = bars(groups)
    told = "".join(f'<p class="muted">{escape(note)}</p>' for note in notes)
    body = (
        f"<h1>{escape(name)}</h1><p>{escape(headline)}</p>"
        f'<p class="muted">Measured with {machine["cpus"]} processors, Linux {escape(machine["kernel"])}.</p>{picture}'
        f"{''.join(table(each.title, each.head, each.rows) for each in tables)}"
        f"{told}"
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.svg").write_text(picture, encoding="utf-8")
    (RESULTS / f"{name}.html").write_text(sheet(f"dwcp: {name}", body), encoding="utf-8")
    print(f"{RESULTS / name}.json, .svg and .html have it")
