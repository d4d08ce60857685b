"""What a node says of itself to all others: documents by namespace, that change only when it matters.

What is measured is told anew when it differs by more than CHANGE from what was told, so that nodes where nothing
happens have nothing to exchange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dwcp.prediction.predictor import LinkView
from dwcp.store.job import Standing
from dwcp.supervise.breaker import BreakerStatus
from dwcp.supervise.health import NodeHealth, Status

CHANGE = 0.5
"""Round trips of an idle machine vary by some ten percent."""
LEAST = 0.005
"""Seconds of a round trip below which a difference means nothing."""


def node_facts(name: str, program: str, addresses: Mapping[str, str], health: NodeHealth) -> dict[str, object]:
    """Of the node: who it is, where, how it does. Reasons are left out: they have numbers that change all the time."""
    ailing = {it.name: str(it.status) for it in health.components.values() if it.status is not Status.HEALTHY}
    # whether it hears of others is what others see for themselves, and would go round in circles
    ailing.pop("sync", None)
    worst = max((Status(status) for status in ailing.values()), key=lambda it: it.severity, default=Status.HEALTHY)
    return {
        "name": name,
        "version": program,
        "addresses": dict(addresses),
        "status": str(worst),
        "components": ailing,
    }


def breaker_facts(breakers: Mapping[str, BreakerStatus]) -> dict[str, object]:
    return {name: {"state": it.state, "trips": it.trips} for name, it in breakers.items()}


def workload_facts(standings: Sequence[Standing]) -> dict[str, object]:
    """How fresh each workload is at each target."""
    facts: dict[str, object] = {}
    for it in standings:
        facts[f"{it.workload} {it.target}"] = {
            "workload": it.workload,
            "target": it.target,
            "sent_at": it.sent_at,
            "version": it.version,
            "verified_at": it.verified_at,
            "damaged": it.damaged,
        }
    return facts


class LinkFacts:
    """Round trips and forecasts of the links to peers, as they were last told."""

    def __init__(self) -> None:
        self._told: dict[str, dict[str, float]] = {}

    def facts(self, round_trips: Mapping[str, float], forecasts: Mapping[str, LinkView]) -> dict[str, object]:
        told = {}
        for peer, seconds in round_trips.items():
            now = {"round_trip_seconds": _rounded(seconds)}
            view = forecasts.get(peer)
            if view is not None and view.forecast is not None:
                now["bits_per_second"] = _rounded(view.forecast.rate)
            before = self._told.get(peer, {})
            told[peer] = before if _alike(before, now) else now
        self._told = told
        return dict(told)


def _alike(before: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return before.keys() == now.keys() and all(
        abs(value - before[name]) <= max(CHANGE * before[name], LEAST) for name, value in now.items()
    )


def _rounded(value: float) -> float:
    """To two digits: the others are chance."""
    return float(f"{value:.2g}")
