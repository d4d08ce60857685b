"""The figures as one HTML file: no script, nothing from elsewhere, to be opened, printed or mailed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from dwcp.report.chart import Bar, bars
from dwcp.report.figures import Figures, Recovery, Traffic
from dwcp.store.records import Record
from dwcp.units import format_rate, format_size

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


def page(node: str, figures: Figures) -> str:
    """A whole document. Names in it come from peers and files: all is escaped."""
    total = figures.total
    recoveries = figures.components.values()
    told = [
        ("transfers", f"{total.transfers:,}"),
        ("failed", f"{total.failed:,}"),
        ("content kept in step", format_size(total.bytes)),
        ("on the wire", format_size(total.wire_bytes)),
        ("saved", f"{total.saved:.0%}"),
        ("restarts of components", f"{sum(entry.restarts for entry in recoveries):,}"),
        ("breakers tripped", f"{figures.trips.total():,}"),
        ("manager killed", f"{figures.kills:,}"),
    ]
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in told)
    sections = [_over_time(figures), _peers(figures), _components(figures), _faults(figures.faults)]
    title = f"{escape(node)}: {_moment(figures.begin)} to {_moment(figures.end)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        "<body><main>"
        f"<h1>{escape(node)}</h1><p>{escape(headline(figures))}</p>"
        f'<p class="muted">{_moment(figures.begin)} to {_moment(figures.end)}, from {figures.records:,} records of the '
        f"transaction log{_damage(figures)}</p><dl>{facts}</dl>{''.join(sections)}</main></body></html>\n"
    )


def headline(figures: Figures) -> str:
    """The period in a sentence."""
    total = figures.total
    if not figures.records:
        return "Nothing was recorded."
    if not total.transfers:
        return "No transfer ended."
    failed = f"{total.failed:,} of {total.transfers:,} transfers failed" if total.failed else "every transfer arrived"
    if figures.outcomes["cancelled"] and not total.failed:
        failed = f"no transfer failed, {figures.outcomes['cancelled']:,} were cancelled"
    saved = f", {total.saved:.0%} less than all of it" if total.saved >= 0.01 else ""
    wire = f"{format_size(total.wire_bytes)} on the wire{saved}"
    return f"{format_size(total.bytes)} were kept in step with {wire}; {failed}."


def _damage(figures: Figures) -> str:
    places = f"; {figures.damaged:,} places of it cannot be read (<code>dwcp state verify</code>)"
    return places if figures.damaged else ""


def _over_time(figures: Figures) -> str:
    form = "%H:%M" if figures.step.total_seconds() < 86_400 else "%d %b"
    values = [
        Bar(begin.strftime(form), traffic.bytes, traffic.wire_bytes, traffic.failed)
        for begin, traffic in figures.buckets.items()
    ]
    each = "hour" if figures.step.total_seconds() < 86_400 else "day"
    keys = (("", "content"), (" of-wire", "on the wire"), (" of-fault", "a transfer failed"))
    legend = "".join(f'<span class="key{kind}">{text}</span>' for kind, text in keys)
    return f'<h2>By the {each}</h2><p class="muted">{legend}</p>{bars(values)}'


def _peers(figures: Figures) -> str:
    ordered = sorted(figures.peers.items(), key=lambda entry: -entry[1].bytes)
    head = ("peer", "transfers", "failed", "content", "on the wire", "saved", "rate")
    trips = [(peer, f"{count:,}") for peer, count in figures.trips.most_common()]
    return _table("By peer", head, [_peer(name, traffic) for name, traffic in ordered]) + _table(
        "Circuit breakers", ("peer", "trips"), trips
    )


def _peer(name: str, traffic: Traffic) -> tuple[str, ...]:
    counts = (f"{traffic.transfers:,}", f"{traffic.failed:,}")
    sizes = (format_size(traffic.bytes), format_size(traffic.wire_bytes), f"{traffic.saved:.0%}")
    return (name, *counts, *sizes, _rate(traffic))


def _rate(traffic: Traffic) -> str:
    return format_rate(traffic.bytes * 8 / traffic.seconds) if traffic.seconds else ""


def _components(figures: Figures) -> str:
    def is_told(recovery: Recovery) -> bool:
        return bool(recovery.restarts or recovery.failed or recovery.down_seconds)

    rows = [
        (name, f"{c.restarts:,}", f"{c.recovered:,}", f"{c.failed:,}", f"{c.down_seconds:,.0f} s")
        for name, c in sorted(figures.components.items())
        if is_told(c)
    ]
    return _table("Recoveries", ("component", "restarts", "recovered", "given up", "unhealthy for"), rows)


def _faults(faults: Iterable[Record]) -> str:
    rows = [
        (_moment(record.time.astimezone()), f"{record.kind} {_outcome(record)} {record.peer}", _reason(record))
        for record in reversed(list(faults))
    ]
    return _table("What went wrong, newest first", ("when", "what", "why"), rows, "text")


def _outcome(record: Record) -> str:
    return str(record.detail.get("state", record.event)) if record.kind == "transfer" else record.event


def _reason(record: Record) -> str:
    named = [str(record.detail[key]) for key in ("target", "component") if key in record.detail]
    why = [str(record.detail[key]) for key in ("error", "reason", "problems") if record.detail.get(key)]
    return ": ".join([*named, *why])


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Left out where there is nothing in it."""
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<h2>{title}</h2><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _moment(time: object) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
