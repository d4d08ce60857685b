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
    "workloads": ("workload", "state", "age", "at most", "version", "next run", "target", "damaged"),
    "jobs": ("job", "state", "kind", "workload", "target", "tries", "again in", "reason"),
    "peers": ("peer", "breaker", "round trip", "traffic", "address", "reason"),
    "components": ("component", "status", "restarts", "reason"),
}
PARTS = {
    "transfers": frozenset({"transfers"}),
    "workloads": frozenset({"workloads"}),
    "jobs": frozenset({"jobs"}),
    "peers": frozenset({"peers", "transfers"}),
    "components": frozenset({"components"}),
}
"""Of the document, that each table is made of."""
STYLES = {
    **dict.fromkeys(("healthy", "done", "closed", "fresh"), "green"),
    **dict.fromkeys(("degraded", "half-open", "cancelled", "recovering", "paused", "parked"), "yellow"),
    **dict.fromkeys(("unhealthy", "open", "failed", "stale"), "bold red"),
    "running": "cyan",
}
BAR = 10
Row = tuple[Text, ...]


def quoted(text: str) -> str:
    """For a URL."""
    return quote(text, safe="")


def rows(table: str, document: Document, now: float) -> dict[str, Row]:
    """Cells by key, in the order in which they are shown. `now`: seconds since the epoch."""
    builders: dict[str, Callable[[Document], dict[str, Row]]] = {
        "transfers": _transfers,
        "workloads": lambda document: _workloads(document, now),
        "jobs": lambda document: _jobs(document, now),
        "peers": _peers,
        "components": _components,
    }
    return builders[table](document)


def place(name: str, target: str) -> str:
    """Key of a workload's row: one for each target."""
    return f"{name} {target}"


def placed(key: str) -> tuple[str, str]:
    """(workload, target) of a row's key; names have no spaces."""
    name, _, target = key.partition(" ")
    return name, target


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
    state = "paused" if entry.get("paused") else entry["state"]
    error = f"  {entry['error']}" if entry.get("error") else ""
    return (
        _styled(state),
        Text(f"{'━' * filled}{'╌' * (BAR - filled)} {share:4.0%}") if running else Text(""),
        Text(format_size(entry["bytes_total" if running else "bytes_done"]), justify="right"),
        Text(format_rate(rate), justify="right"),
        Text(str(entry.get("streams", "")), justify="right"),
        Text(_to_go(entry), justify="right"),
        Text(f"{'→' if entry['role'] == 'send' else '←'} {printable(entry['peer'])}"),
        Text(printable(entry["target"] + error)),
    )


def versions(name: str, target: str, found: list[dict[str, Any]]) -> str:
    """What /workloads/NAME/versions tells, newest first, each with the command that restores it."""
    head = f"Versions of {name} at {printable(target)}"
    if not found:
        return f"{head}: none yet"
    lines = [f"{head}. DST is a path that does not exist yet; escape closes this."]
    for version in reversed(found):
        size = f"{version['files']} files, {format_size(version['bytes'])}, {format_size(version['new_bytes'])} new"
        damaged = f", {version['damaged']} damaged" if version["damaged"] else ""
        lines.append(f"\n{printable(version['id'])}  {size}{damaged}\n  {printable(version['restore'])}")
    return "\n".join(lines)


def _to_go(entry: dict[str, Any]) -> str:
    """A range that rounds to one number is told as that number."""
    if "eta_seconds" not in entry:
        return ""
    best, worst = (_about(seconds) for seconds in entry["eta_range_seconds"])
    return best if best == worst else f"{best} to {worst}"


def _workloads(document: Document, now: float) -> dict[str, Row]:
    return {
        place(name, target): _target(name, workload, target, standing, now)
        for name, workload in sorted(document.get("workloads", {}).items())
        for target, standing in workload["targets"].items()
    }


def _target(name: str, workload: dict[str, Any], target: str, standing: dict[str, Any], now: float) -> Row:
    sent, most, due = standing.get("sent_at"), workload.get("max_age"), workload.get("next_run_at")
    since = sent or workload.get("since")
    stale = most is not None and since is not None and now - since > most
    off = "not enabled" if not workload["enabled"] else "paused" if workload["paused"] else ""
    state = "stale" if stale else "not there yet" if sent is None else "fresh" if most is not None else ""
    return (
        Text(name),
        _styled(off or state),
        Text(_about(now - sent) if sent is not None else "", justify="right"),
        Text(_about(most) if most is not None else "", justify="right"),
        Text(printable(standing.get("version", ""))),
        Text("" if due is None else "due" if due <= now else f"in {_about(due - now)}", justify="right"),
        Text(printable(target)),
        Text(str(standing.get("damaged", "")), justify="right"),
    )


def _jobs(document: Document, now: float) -> dict[str, Row]:
    order = {"running": 0, "parked": 1, "waiting": 2}
    found = sorted(
        document.get("jobs", {}).get("first", {}).items(),
        key=lambda item: (order[item[1]["state"]], -item[1]["priority"], int(item[0])),
    )
    return {number: _job(number, job, now) for number, job in found}


def _job(number: str, job: dict[str, Any], now: float) -> Row:
    pause = job.get("not_before", 0) - now
    return (
        Text(number, justify="right"),
        _styled(job["state"]),
        Text(job["kind"]),
        Text(printable(job.get("workload", job["source"]))),
        Text(printable(job["target"])),
        Text(str(job.get("attempts", "")), justify="right"),
        Text(_about(pause) if pause > 0 else "", justify="right"),
        Text(printable(job.get("reason", ""))),
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
