"""Bars as SVG, written by hand: rectangles and words need no plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABEL, BAR, GAP = 860, 190, 15, 5
ROOM = 130
"""Units of width for the figure behind a bar."""
OURS, THEIRS, LIMIT = "#1f6feb", "#8b949e", "#d0d7de"
LIMITS = ("goal", "iperf3", "the link's rate")
"""How names begin of what moves no file."""


@dataclass(frozen=True, slots=True)
class Group:
    """Bars of one kind: `figures` in `unit` by program, of which `full` is a whole bar."""

    title: str
    unit: str
    full: float
    figures: Mapping[str, float]
    shares: bool = False
    """Tell of each which part of `full` it is."""

    def label(self, figure: float) -> str:
        digits = 0 if figure >= 100 else 1 if figure >= 10 else 2
        share = f" ({figure / self.full:.0%})" if self.shares else ""
        return f"{figure:,.{digits}f} {self.unit}{share}"


def bars(groups: Sequence[Group]) -> str:
    """An SVG with one bar for each figure; dwcp's stand out."""
    lines, y = [], 10
    scale = WIDTH - LABEL - ROOM
    for group in groups:
        y += 22
        lines.append(f'<text x="8" y="{y}" font-weight="bold">{escape(group.title)}</text>')
        for name, figure in group.figures.items():
            y += BAR + GAP
            colour = OURS if name.startswith("dwcp") else LIMIT if name.startswith(LIMITS) else THEIRS
            length = max(1.0, scale * min(1.0, figure / group.full)) if group.full > 0 else 1.0
            lines.append(f'<text x="{LABEL - 6}" y="{y}" text-anchor="end">{escape(name)}</text>')
            lines.append(f'<rect x="{LABEL}" y="{y - BAR + 3}" width="{length:.0f}" height="{BAR}" fill="{colour}"/>')
            lines.append(f'<text x="{LABEL + length + 5:.0f}" y="{y}">{escape(group.label(figure))}</text>')
        y += 12
    height = y + 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    title = "; ".join(group.title for group in groups)
    first = f'{head} role="img" aria-label="{escape(title)}" font-family="sans-serif" font-size="12">'
    return "\n".join([first, '<rect width="100%" height="100%" fill="white" rx="8"/>', *lines, "</svg>"]) + "\n"
