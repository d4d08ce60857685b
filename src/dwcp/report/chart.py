"""Bars over time as SVG: what was kept in step, and what that took on the wire. Colours are those of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dwcp.units import format_size

WIDTH, HEIGHT = 960, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 8, 12, 28
_LABEL_ROOM = 64
"""Units of width that a label on the time axis needs."""
_GRID = 4


@dataclass(frozen=True, slots=True)
class Bar:
    """`content`, `wire`: bytes; `failed`: transfers."""

    label: str
    content: int
    wire: int
    failed: int


def bars(values: Sequence[Bar]) -> str:
    """An <svg> with a title for each bar."""
    most = _ceiling(max((max(bar.content, bar.wire) for bar in values), default=0))
    room = (WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    every = max(1, round(_LABEL_ROOM / room + 0.5))
    parts = [_line(step, most) for step in range(_GRID + 1)]
    parts += [_bar(bar, _LEFT + number * room, room, most) for number, bar in enumerate(values)]
    parts += [
        f'<text class="label" x="{_LEFT + (number + 0.5) * room:.1f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(bar.label)}</text>"
        for number, bar in enumerate(values)
        if number % every == 0
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Content kept in step, and bytes on the wire">'
        f"{''.join(parts)}</svg>"
    )


def _y(value: float, most: int) -> float:
    return HEIGHT - _BOTTOM - value / most * (HEIGHT - _BOTTOM - _TOP)


def _line(step: int, most: int) -> str:
    value = most * step / _GRID
    y = _y(value, most)
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="label" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{format_size(value)}</text>'
    )


def _bar(bar: Bar, x: float, room: float, most: int) -> str:
    width = room * 0.36
    told = f"{bar.label}: {format_size(bar.content)} of content, {format_size(bar.wire)} on the wire"
    failed = f", {bar.failed} failed" if bar.failed else ""
    columns = [("content", bar.content, x + room * 0.12), ("wire", bar.wire, x + room * 0.52)]
    rectangles = "".join(
        f'<rect class="{name}" x="{left:.1f}" y="{_y(value, most):.1f}" width="{width:.1f}" '
        f'height="{HEIGHT - _BOTTOM - _y(value, most):.1f}" rx="1.5"/>'
        for name, value, left in columns
        if value
    )
    mark = f'<circle class="fault" cx="{x + room / 2:.1f}" cy="{HEIGHT - _BOTTOM}" r="3.5"/>' if bar.failed else ""
    return f"<g><title>{escape(told + failed)}</title>{rectangles}{mark}</g>"


def _ceiling(value: int) -> int:
    """The next of 1, 2 and 4 times a power of 1024 and of 10 below that, so that the axis has short labels."""
    unit = 1
    while unit * 1024 <= value:
        unit *= 1024
    for factor in (1, 2, 4, 10, 20, 40, 100, 200, 400, 1024):
        if value <= unit * factor:
            return unit * factor
    return unit * 1024
