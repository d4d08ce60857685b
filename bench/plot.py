"""Bars as SVG, written by hand: rectangles and words need no plotting library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from bench.report import RESULTS

WIDTH, LABEL, BAR, GAP = 860, 190, 15, 5
OURS, THEIRS, LIMIT = "#1f6feb", "#8b949e", "#d0d7de"


def _share(figure: float, full: float) -> str:
    return f"{figure:.0f} ({figure / full:.0%})"


def bars(
    name: str,
    groups: Sequence[tuple[str, float, Mapping[str, float]]],
    label: Callable[[float, float], str] = _share,
) -> None:
    """Writes `bench/results/NAME.svg`: for each (title, full length, figures) one bar a figure; dwcp's stands out."""
    lines, y = [], 10
    scale = WIDTH - LABEL - 90
    for title, full, figures in groups:
        y += 22
        lines.append(f'<text x="8" y="{y}" font-weight="bold">{escape(title)}</text>')
        for peer, figure in figures.items():
            y += BAR + GAP
            colour = OURS if peer == "dwcp" else LIMIT if peer.startswith("iperf3") else THEIRS
            length = max(1.0, scale * min(1.0, figure / full))
            lines.append(f'<text x="{LABEL - 6}" y="{y}" text-anchor="end">{escape(peer)}</text>')
            lines.append(f'<rect x="{LABEL}" y="{y - BAR + 3}" width="{length:.0f}" height="{BAR}" fill="{colour}"/>')
            lines.append(f'<text x="{LABEL + length + 5:.0f}" y="{y}">{label(figure, full)}</text>')
        y += 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 12}" font-family="sans-serif"'
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = "\n".join([head + ' font-size="12">', '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>"])
    (RESULTS / f"{name}.svg").write_text(text + "\n")
