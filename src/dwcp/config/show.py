"""A configuration for people: whole, in short, and what differs between two."""

from __future__ import annotations

from typing import Any

import yaml

from dwcp.config.load import as_written
from dwcp.config.model import Config
from dwcp.units import format_duration, format_rate, format_size

_RESTART = (
    "enabled",
    "version",
    "node.name",
    "storage.state_dir",
    "http.",
    "security.",
    "telemetry.",
    "consensus.",
    "transport.listen",
)
_RESTART_ALSO = (
    "transport.enable_rdma",
    "transport.rdma_",
    "node.log_format",
    "debug.heap_frames",
    "prediction.enabled",
    "sync.enabled",
)


def dump_config(config: Config) -> str:
    """YAML with every default, which loads to the same configuration."""
    text: str = yaml.safe_dump(_without_none(as_written(config)), sort_keys=False, allow_unicode=True)
    return text


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return value


def summary(config: Config) -> list[str]:
    """What will run, a line each."""
    t, c = config.transport, config.compression
    pacing = f"paced to {format_rate(t.pacing_rate)}" if t.enable_pacing else "not paced"
    codec = f"{c.algorithm} ({c.level}{', adaptive' if c.enable_adaptive else ''})" if c.enabled else "off"
    lines = [
        f"node {config.node.name}, state in {config.storage.state_dir}",
        f"transport on {t.listen}: {t.min_streams} to {t.max_streams} streams, {t.initial_streams} at first, "
        f"{t.congestion_algorithm}, {pacing}, "
        f"buffers {format_size(t.send_buffer_size)} / {format_size(t.recv_buffer_size)}",
        f"http on {config.http.listen}" + (f", https on {config.http.tls_listen}" if config.http.tls_listen else ""),
        f"compression {codec}, delta encoding {'on' if c.enable_delta_encoding else 'off'}",
        f"health checked every {format_duration(config.health_interval)}, "
        f"circuit breakers open after {config.circuit_breaker.failure_threshold} failures",
        f"exports: {', '.join(f'{name} = {export.path}' for name, export in config.storage.exports.items()) or 'none'}",
        f"peers: {', '.join(config.peers) or 'none'}",
    ]
    p = config.prediction
    if p.enabled:
        lines.append(
            f"links are forecast by {p.model_type} every {format_duration(p.update_interval)} for "
            f"{format_duration(p.prediction_horizon)}, probes of idle ones send at most "
            f"{format_size(p.probe_budget)} an hour"
        )
    s = config.sync
    if s.enabled:
        lines.append(
            f"what nodes know is exchanged every {format_duration(s.sync_interval)} ({s.conflict_resolution}), and may "
            f"be {format_duration(s.max_staleness)} old"
        )
    if config.telemetry.enabled:
        lines.append(f"traces and logs go to {config.telemetry.endpoint}")
    if config.workloads:
        lines.append(f"workloads: {', '.join(config.workloads)}")
    k = config.consensus
    if k.enabled:
        lines.append(
            f"consensus: owners of workloads are agreed on through etcd at {', '.join(k.endpoints)}, of "
            f"{k.quorum_size} voters (quorum: {k.quorum_size // 2 + 1}); a node that is silent for "
            f"{format_duration(k.lease)} loses what it owns"
        )
        raised = f", raised from {format_duration(k.election_timeout)}" * (k.effective_election > k.election_timeout)
        lines.append(
            f"consensus: an election is reckoned with {format_duration(k.effective_election)}{raised} and heartbeats "
            f"of {format_duration(k.heartbeat_interval)}"
        )
    if not config.enabled:
        lines.append("enabled is false: nothing will be transferred")
    if t.enable_rdma:
        otherwise = "what cannot fails" if t.rdma_required else "TCP takes over where it cannot"
        lines.append(f"blocks go over RDMA ({t.rdma_device}, port {t.rdma_port}), unencrypted; {otherwise}")
    return lines


def changed_keys(old: Config, new: Config) -> list[str]:
    """Dotted keys with different values."""
    return _differences(as_written(old), as_written(new), "")


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line for key in keys for line in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [path]


def needs_restart(key: str) -> bool:
    """Whether a changed key only counts from the next start on; all others apply at once."""
    return any(key == start or (start.endswith(".") and key.startswith(start)) for start in _RESTART) or key.startswith(
        _RESTART_ALSO
    )
