"""What every benchmark ends with: a table, a JSON file, and an exit code that tells whether its goals were met."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

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


def finish(name: str, rows: list[Row], notes: list[str]) -> int:
    """Prints, writes `bench/results/NAME.json`, and gives the exit code."""
    print(f"\n{'':<34}{'dwcp':>10}  {'peer':<22}{'':>10}{'ratio':>8}{'goal':>7}")
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        figures = f"{row.figure:>10.2f}  {row.peer:<22}{row.peer_figure:>10.2f}{row.ratio:>8.2f}{goal:>7}"
        print(f"{row.name:<34}{figures} {verdict}")
    for note in notes:
        print(note)
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "machine": {"cpus": len(os.sched_getaffinity(0)), "kernel": platform.release()},
        "rows": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows],
        "notes": notes,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    return int(any(row.met is False for row in rows))
