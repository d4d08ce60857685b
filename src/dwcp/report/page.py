"""The figures as one HTML file: no script, nothing from elsewhere, to be opened, printed or mailed."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from dwcp.report.chart import Bar, bars
from dwcp.report.figures import Figures, Recovery, Traffic
from dwcp.report.sheet import sheet, table
from dwcp.store.records import Record
from dwcp.units import format_rate, format_size


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
    title = f"{node}: {_moment(figures.begin)} to {_moment(figures.end)}"
    return sheet(
        title,
        f"<h1>{escape(node)}</h1><p>{escape(headline(figures))}</p>"
        f'<p class="muted">{_moment(figures.begin)} to {_moment(figures.end)}, from {figures.records:,} records of the '
        f"transaction log{_damage(figures)}</p><dl>{facts}</dl>{''.join(sections)}",
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
    return table("By peer", head, [_peer(name, traffic) for name, traffic in ordered]) + table(
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
    return table("Recoveries", ("component", "restarts", "recovered", "given up", "unhealthy for"), rows)


def _faults(faults: Iterable[Record]) -> str:
    rows = [
        (_moment(record.time.astimezone()), f"{record.kind} {_outcome(record)} {record.peer}", _reason(record))
        for record in reversed(list(faults))
    ]
    return table("What went wrong, newest first", ("when", "what", "why"), rows, "text")


def _outcome(record: Record) -> str:
    return str(record.detail.get("state", record.event)) if record.kind == "transfer" else record.event


def _reason(record: Record) -> str:
    named = [str(record.detail[key]) for key in ("target", "component") if key in record.detail]
    why = [str(record.detail[key]) for key in ("error", "reason", "problems") if record.detail.get(key)]
    return ": ".join([*named, *why])


def _moment(time: object) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
