"""The node as one JSON document, keyed so that what changes is a small patch. Absent means: there is none."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dwcp.config.model import PeerSection
from dwcp.dashboard.patch import Document
from dwcp.dashboard.workloads import jobs, workloads
from dwcp.forecast.eta import Rates
from dwcp.forecast.forecaster import Forecast
from dwcp.metrics.view import NodeView
from dwcp.prediction.predictor import LinkView
from dwcp.supervise.breaker import BreakerStatus
from dwcp.transfer.board import State, TransferStatus

STEADY = 2
"""Significant digits of round trips and rates that are only looked at: noise is not told to every page each second."""

STILL = Rates(0.0, 0.0, 0.0)


def build(view: NodeView, node: Document, rates: Mapping[str, Rates], live: list[TransferStatus]) -> Document:
    """`node`: what does not change while the node runs; `rates`: what those in `live` have on the wire."""
    document = {
        "node": node | _node(view),
        "health": _health(view),
        "components": _components(view),
        "peers": _peers(view),
        "transfers": _transfers(view, rates, live),
        "transport": _transport(view),
    }
    optional = {"workloads": workloads(view), "jobs": jobs(view.workloads.status)}
    return document | {part: found for part, found in optional.items() if found}


def _node(view: NodeView) -> Document:
    return {
        "name": view.config.node.name,
        "fingerprint": view.fingerprint,
        "enabled": view.config.enabled,
        "addresses": dict(view.addresses),
        "exports": {
            name: {"path": export.path, "read_only": export.read_only}
            for name, export in view.config.storage.exports.items()
        },
    }


def _health(view: NodeView) -> Document:
    health = view.health()
    return {
        "status": health.status.value,
        "reason": health.reason,
        "circuit_breaker": health.circuit_breaker,
        "recovery_in_progress": health.recovery_in_progress,
    }


def _components(view: NodeView) -> Document:
    recoveries = view.recoveries()
    return {
        name: {
            "status": component.status.value,
            "reason": component.reason,
            "since": round(component.since),
            "recovering": component.recovering,
            "failed": component.failed,
            "restarts": recoveries[name].attempts if name in recoveries else 0,
        }
        for name, component in view.health().components.items()
    }


def _peers(view: NodeView) -> Document:
    breakers, latency = view.breakers(), view.transport().latency_seconds
    configured, links = view.config.peers, view.links()
    return {
        name: _peer(configured.get(name), breakers.get(name), latency.get(name), links.get(name))
        for name in sorted(configured.keys() | breakers.keys() | latency.keys())
    }


def _peer(
    configured: PeerSection | None, breaker: BreakerStatus | None, latency: float | None, link: LinkView | None
) -> Document:
    peer: Document = {}
    if configured is not None:
        peer["fingerprint"] = configured.fingerprint
        if configured.address is not None:
            peer["address"] = configured.address
    if latency is not None:
        peer["round_trip_milliseconds"] = significant(latency * 1000)
    if breaker is not None:
        peer["breaker"] = {
            "state": breaker.state,
            "failures": breaker.failures,
            "trips": breaker.trips,
            "reason": breaker.reason,
        }
        if breaker.retry_at_seconds > 0:
            peer["breaker"]["retry_at"] = round(time.time() + breaker.retry_at_seconds)
    if link is not None and link.forecast is not None:
        peer["forecast"] = _forecast(link.forecast)
    return peer


def _forecast(forecast: Forecast) -> Document:
    return {
        "rate": significant(forecast.rate),
        "low": significant(forecast.low),
        "high": significant(forecast.high),
        "confidence": forecast.confidence,
        "horizon": forecast.horizon,
    }


def _transfers(view: NodeView, rates: Mapping[str, Rates], live: list[TransferStatus]) -> Document:
    # running ones last: one that was taken up again has the id of its own past
    ended = {status.id: transfer_entry(status) for status in reversed(view.board.recent())}
    running = {status.id: transfer_entry(status, rates.get(status.id, STILL)) for status in live}
    return ended | running


def transfer_entry(status: TransferStatus, wire: Rates = STILL) -> Document:
    """`wire`: what a running one has on the wire now."""
    entry: dict[str, Any] = {
        "role": status.role.value,
        "peer": status.peer,
        "target": status.target,
        "state": status.state.value,
        "started_at": round(status.started_at, 1),
        "files_total": status.files_total,
        "files_done": status.files_done,
        "bytes_total": status.bytes_total,
        "bytes_done": status.bytes_done,
        "wire_bytes": status.wire_bytes,
    }
    if status.state is State.RUNNING:
        entry["streams"] = status.streams
        entry["wire_bits_per_second"] = significant(wire.rate, 3)
        if status.paused:
            entry["paused"] = True
        else:
            entry |= _to_go(status, wire)
    else:
        entry["seconds"] = round(status.seconds, 1)
        entry["rate_bits_per_second"] = significant(status.rate, 3)
    if status.error:
        entry["error"] = status.error
    return entry


def _to_go(status: TransferStatus, wire: Rates) -> Document:
    """Seconds that it still takes, and at best and at worst: as its link is forecast, else as its rate was lately."""
    # content is settled later than it is carried, and deltas settle more than they carry: the faster one tells
    rate = max(status.rate, wire.rate)
    if rate < 1:
        return {}
    seconds = (status.bytes_total - status.bytes_done) * 8 / rate
    best, _, worst = status.seconds_at(status.foreseen or wire, seconds)
    return {"eta_seconds": round(seconds), "eta_range_seconds": [round(best), round(worst)]}


def _transport(view: NodeView) -> Document:
    counters, limit = view.transport(), view.limit()
    sent, received = view.throughput()
    transport: Document = {
        "sent_bits_per_second": significant(sent, 3),
        "received_bits_per_second": significant(received, 3),
        "bytes_sent": counters.bytes_sent,
        "bytes_received": counters.bytes_received,
        "streams": counters.active_streams,
        "sessions": counters.sessions,
        "limited_by_operator": limit.by_operator,
    }
    if limit.bits_per_second is not None:
        transport["limit_bits_per_second"] = limit.bits_per_second
    return transport


def significant(number: float, digits: int = STEADY) -> float:
    """Rounded to so many significant digits; a whole number where that is one."""
    rounded = float(f"{number:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded
