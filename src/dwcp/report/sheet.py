"""One HTML file and its tables: no script, nothing from elsewhere, to be opened, printed or mailed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --text: light-dark(#1b2430, #e6eaef); --muted: light-dark(#57636f, #9aa6b2);
  --page: light-dark(#fff, #0f1216); --line: light-dark(#e1e5ea, #2a313a); --content: light-dark(#2f6fd0, #78aaff);
  --wire: light-dark(#0b8a7d, #4fd1c0); --bad: light-dark(#a92b1f, #ff9a8f); }
body { margin: 0 auto; padding: 40px 24px; max-width: 960px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0; font-size: 1.7rem; letter-spacing: -0.01em; } h2 { margin: 40px 0 12px; font-size: 1.1rem; }
p { margin: 4px 0; } .muted { color: var(--muted); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 20px; margin: 28px 0; }
dt { color: var(--muted); font-size: 0.87rem; } dd { margin: 0; font-size: 1.5rem; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th, td { text-align: right; padding: 6px 8px; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--muted); } th:first-child, td:first-child, .text td, .text th { text-align: left; }
.text td:first-child { white-space: nowrap; color: var(--muted); }
svg { width: 100%; height: auto; } .label { font-size: 11px; fill: var(--muted); }
.grid { stroke: var(--line); } .content { fill: var(--content); } .wire { fill: var(--wire); }
.fault { fill: var(--bad); }
.key::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 6px 0 14px;
  background: var(--content); } .key.of-wire::before { background: var(--wire); }
.key.of-fault::before { background: var(--bad); border-radius: 50%; }
"""


def sheet(title: str, body: str) -> str:
    """A whole document; `body` is HTML."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Left out where there is nothing in it."""
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<h2>{escape(title)}</h2><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
