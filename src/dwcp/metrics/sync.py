"""Metrics of what nodes know of each other."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dwcp.transfer.shared_state import SyncStatus


def collect(status: SyncStatus) -> Iterator[Metric]:
    """Nothing where it is not enabled."""
    if not status.enabled:
        return
    yield GaugeMetricFamily("dwcp_sync_entries", "Entries, tombstones included.", status.entries)
    yield GaugeMetricFamily(
        "dwcp_sync_tombstones", "Deletions that not everybody is known to have yet.", status.tombstones
    )
    yield GaugeMetricFamily("dwcp_sync_entries_bytes", "Bytes of all entries.", status.bytes)
    rounds = CounterMetricFamily(
        "dwcp_sync_rounds",
        "Exchanges that this node began: nothing differed, all came, something did not, or the peer was away.",
        labels=["outcome"],
    )
    for outcome, count in status.rounds.items():
        rounds.add_metric([outcome], count)
    yield rounds
    entries = CounterMetricFamily("dwcp_sync_exchanged_entries", "Entries in these exchanges.", labels=["direction"])
    traffic = CounterMetricFamily("dwcp_sync_bytes", "Bytes on the wire in these exchanges.", labels=["direction"])
    for direction, count, size in (
        ("sent", status.sent, status.bytes_sent),
        ("received", status.received, status.bytes_received),
    ):
        entries.add_metric([direction], count)
        traffic.add_metric([direction], size)
    yield from (entries, traffic)
    refused = CounterMetricFamily(
        "dwcp_sync_refused_entries", "Entries of others that were not taken in.", labels=["reason"]
    )
    for reason, count in status.refused.items():
        refused.add_metric([reason], count)
    yield refused
    age = GaugeMetricFamily("dwcp_sync_view_age_seconds", "Age of the view of each peer.", labels=["peer"])
    stale = GaugeMetricFamily(
        "dwcp_sync_view_stale", "1 where the view is older than sync.max_staleness.", labels=["peer"]
    )
    offset = GaugeMetricFamily(
        "dwcp_sync_clock_offset_seconds", "By how much the clock of a peer is ahead of ours.", labels=["peer"]
    )
    for peer in status.peers:
        if peer.age is not None:
            age.add_metric([peer.name], peer.age)
        stale.add_metric([peer.name], peer.stale)
        if peer.clock_offset is not None:
            offset.add_metric([peer.name], peer.clock_offset)
    yield from (age, stale, offset)
