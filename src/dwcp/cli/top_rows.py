"""What `dwcp top` writes: cells and lines from the live document. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from rich.text import Text

from dwcp.cli.options import printable
from dwcp.dashboard.patch import Document
from dwcp.units import format_rate, format_size

SHOWN = 200
"""Rows of a table: running transfers first. Nobody scrolls through more, and a terminal is slow to draw."""
COLUMNS = {
    "transfers": ("state", "progress", "size", "rate", "streams", "to go", "peer", "target"),
    "peers": ("peer", "breaker", "round trip", "traffic", "address", "reason"),
    "components": ("component", "status", "restarts", "reason"),
}
PARTS = {
    "transfers": frozenset({"transfers"}),
    "peers": frozenset({"peers", "transfers"}),
    "components": frozenset({"components"}),
}
"""Of the document, that each table is made of."""
STYLES = {
    **dict.fromkeys(("healthy", "done", "closed"), "green"),
    **dict.fromkeys(("degraded", "half-open", "cancelled", "recovering"), "yellow"),
    **dict.fromkeys(("unhealthy", "open", "failed"), "bold red"),
    "running": "cyan",
}
BAR = 10
Row = tuple[Text, ...]


def quoted(text: str) -> str:
    """For a URL."""
    return quote(text, safe="")


def rows(table: str, document: Document) -> dict[str, Row]:
    """Cells by key, in the order in which they are shown."""
    builders: dict[str, Callable[[Document], dict[str, Row]]] = {
        "transfers": _transfers,
        "peers": _peers,
        "components": _components,
    }
    return builders[table](document)


def overall(document: Document, lost: str, now: float) -> Text:
    """Two lines. `lost`: why what is shown may be old; `now`: seconds since the epoch."""
    if not document:
        return Text(f"{lost}\n", style="yellow")
    node, health, transport = document["node"], document["health"], document["transport"]
    text = Text()
    text.append(printable(node["name"]), style="bold")
    text.append(f"  {health['status']}", style=STYLES[health["status"]])
    text.append(f"  up {_about(now - node['started_at'])}")
    if lost:
        text.append(f"  {lost}", style="bold red")
    elif health["reason"]:
        text.append(f"  {printable(health['reason'])}")
    limit = transport.get("limit_bits_per_second")
    text.append(
        f"\nsent {format_rate(transport['sent_bits_per_second'])}"
        f"  received {format_rate(transport['received_bits_per_second'])}"
        f"  limit {format_rate(limit) if limit is not None else 'none'}"
        f"{' (set by hand)' if transport['limited_by_operator'] else ''}"
    )
    return text


def _transfers(document: Document) -> dict[str, Row]:
    def order(item: tuple[str, dict[str, Any]]) -> tuple[bool, float]:
        return item[1]["state"] != "running", -item[1]["started_at"]

    return {name: _transfer(entry) for name, entry in sorted(document["transfers"].items(), key=order)[:SHOWN]}


def _transfer(entry: dict[str, Any]) -> Row:
    running = entry["state"] == "running"
    share = entry["bytes_done"] / entry["bytes_total"] if entry["bytes_total"] else 0.0
    filled = int(share * BAR)
    rate = entry["wire_bits_per_second"] if running else entry["rate_bits_per_second"]
    eta = entry.get("eta_seconds")
    error = f"  {entry['error']}" if entry.get("error") else ""
    return (
        _styled(entry["state"]),
        Text(f"{'━' * filled}{'╌' * (BAR - filled)} {share:4.0%}") if running else Text(""),
        Text(format_size(entry["bytes_total" if running else "bytes_done"]), justify="right"),
        Text(format_rate(rate), justify="right"),
        Text(str(entry.get("streams", "")), justify="right"),
        Text(_about(eta) if eta is not None else "", justify="right"),
        Text(f"{'→' if entry['role'] == 'send' else '←'} {printable(entry['peer'])}"),
        Text(printable(entry["target"] + error)),
    )


def _peers(document: Document) -> dict[str, Row]:
    carried: dict[str, float] = {}
    for entry in document["transfers"].values():
        if entry["state"] == "running":
            carried[entry["peer"]] = carried.get(entry["peer"], 0.0) + entry["wire_bits_per_second"]
    return {name: _peer(name, peer, carried.get(name, 0.0)) for name, peer in sorted(document["peers"].items())}


def _peer(name: str, peer: dict[str, Any], rate: float) -> Row:
    breaker, far = peer.get("breaker"), peer.get("round_trip_milliseconds")
    return (
        Text(printable(name)),
        _styled(breaker["state"]) if breaker else Text("none"),
        Text("not reached" if far is None else f"{far:g} ms", justify="right"),
        Text(format_rate(rate), justify="right"),
        Text(printable(peer.get("address", ""))),
        Text(printable(breaker["reason"]) if breaker and breaker["failures"] else ""),
    )


def _components(document: Document) -> dict[str, Row]:
    return {
        name: (
            Text(name),
            _styled("failed" if part["failed"] else "recovering" if part["recovering"] else part["status"]),
            Text(str(part["restarts"]), justify="right"),
            Text(printable(part["reason"])),
        )
        for name, part in document["components"].items()
    }


def _styled(state: str) -> Text:
    return Text(state, style=STYLES.get(state, ""))


def _about(seconds: float) -> str:
    """One unit, for a glance."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
