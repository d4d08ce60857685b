"""Every key there is. Attribute names are the keys; durations are seconds, sizes bytes, rates bits per second."""

from __future__ import annotations

import os
import re
import socket
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dwcp.config.fields import (
    Duration,
    Rate,
    Section,
    Size,
    choice,
    duration,
    flag,
    integer,
    number,
    rate,
    size,
    string,
)
from dwcp.config.workloads import NODE_NAME as NODE_NAME
from dwcp.config.workloads import JobsSection, WorkloadSection
from dwcp.units import format_duration, parse_days, parse_minute

KIB, MIB, GIB = 2**10, 2**20, 2**30
ADDRESS = r"^(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]*):([0-9]{1,5})$"
UNAVAILABLE = "is not available in this version"


BY_AUTHORITY = "ca"
"""In the place of a fingerprint: whoever has a certificate of security.ca_file for the peer's name."""


def _not_available(section: str, value: bool) -> bool:
    if value:
        raise ValueError(f"{section} {UNAVAILABLE}; set it to false")
    return value


def _is_loopback(host: str) -> bool:
    return host in ("::1", "localhost") or host.startswith("127.")


def _address(value: str) -> str:
    if int(value.rpartition(":")[2]) > 65535:
        raise ValueError("ports go up to 65535")
    return value


class PacingPeriod(Section):
    """Hours of the week with a rate of their own; the first entry that covers a moment counts."""

    days: str = string("mon-sun", "days of the week, as in mon-fri or sat,sun", "When it begins.")
    begin: str = string("00:00", "HH:MM, local time", "From.")
    end: str = string("24:00", "HH:MM, local time", "To; where it is not later than begin, on the next day.")
    rate: Rate = Field(
        ge=10**6,
        le=10**12,
        description="As pacing_rate.",
        json_schema_extra={"allowed": "1Mbit/s to 1Tbit/s", "unit": "rate"},
    )

    @field_validator("days")
    @classmethod
    def _days(cls, value: str) -> str:
        parse_days(value)
        return value

    @field_validator("begin", "end")
    @classmethod
    def _minutes(cls, value: str) -> str:
        parse_minute(value)
        return value


class Transport(Section):
    """Multi-stream TCP between nodes."""

    listen: str = string(":9000", "HOST:PORT; no host: all addresses", "Where peers connect to.", ADDRESS)
    min_streams: int = integer(16, 1, 256, "Streams that a large transfer keeps at least.")
    max_streams: int = integer(256, 16, 1024, "Streams that a transfer uses at most.")
    initial_streams: int = integer(32, 1, 1024, "Streams that a large transfer begins with.")
    stream_scaling_factor: float = number(
        1.5, 1.01, 4.0, "By how much the number of streams grows while more of them raise the goodput."
    )
    congestion_algorithm: Literal["bbr", "cubic", "reno"] = choice(
        "bbr", "TCP congestion control of each stream.", "bbr", "cubic", "reno"
    )
    enable_ecn: bool = flag(True, "Whether ECN is wanted; Linux decides by net.ipv4.tcp_ecn, a difference is reported.")
    send_buffer_size: Size = size(16 * MIB, 64 * KIB, GIB, "Send buffer of each socket (SO_SNDBUF).")
    recv_buffer_size: Size = size(16 * MIB, 64 * KIB, GIB, "Receive buffer of each socket (SO_RCVBUF).")
    connect_timeout: Duration = duration("30s", "100ms", "1h", "How long a connection may take to be made.")
    read_timeout: Duration = duration(
        "60s", "100ms", "1h", "How long a peer may be silent; it says PING three times in this."
    )
    write_timeout: Duration = duration("60s", "100ms", "1h", "How long a peer may take nothing of what is sent to it.")
    enable_rdma: bool = flag(
        False,
        "Send blocks over RDMA to peers that have it enabled too, unencrypted; TCP takes over where it does not work.",
    )
    rdma_device: str = string(
        "mlx5_0",
        "a name in /sys/class/infiniband; to try it without, a name in /sys/class/net, or shm",
        "InfiniBand or RoCE device.",
        r"^[A-Za-z0-9_.-]{1,63}$",
    )
    rdma_port: int = integer(1, 1, 255, "Port of the InfiniBand or RoCE device; others have none.")
    rdma_required: bool = flag(False, "What cannot go over RDMA fails, instead of falling back to TCP.")
    enable_pacing: bool = flag(True, "Send no faster than pacing_rate.")
    pacing_rate: Rate = rate(
        10**9,
        10**6,
        10**12,
        "Rate of the whole node, shared by its streams. A bare number is bits per second.",
        "1Mbit/s to 1Tbit/s",
    )
    pacing_timetable: list[PacingPeriod] = Field(
        default_factory=list,
        description="Other rates for some hours: a list of days, begin, end and rate.",
        json_schema_extra={
            "allowed": "entries like {days: mon-fri, begin: 08:00, end: 18:00, rate: 100Mbit/s}",
            "default": "none",
        },
    )

    @field_validator("listen")
    @classmethod
    def _listen(cls, value: str) -> str:
        return _address(value)

    @model_validator(mode="before")
    @classmethod
    def _fit_initial(cls, data: Any) -> Any:
        """An initial count that nobody set follows the limits that somebody did."""
        if isinstance(data, dict) and "initial_streams" not in data:
            low, high = data.get("min_streams", 16), data.get("max_streams", 256)
            if isinstance(low, int) and isinstance(high, int) and low <= high:
                return {**data, "initial_streams": max(low, min(high, 32))}
        return data

    @model_validator(mode="after")
    def _ordered(self) -> Transport:
        if not self.min_streams <= self.initial_streams <= self.max_streams:
            raise ValueError(
                f"min_streams <= initial_streams <= max_streams is needed, found {self.min_streams}, "
                f"{self.initial_streams}, {self.max_streams}"
            )
        if self.rdma_required and not self.enable_rdma:
            raise ValueError("rdma_required needs enable_rdma: true")
        return self


class Compression(Section):
    """What is sent instead of the content itself."""

    enabled: bool = flag(True, "Compress at all.")
    algorithm: Literal["zstd", "lz4", "snappy", "none"] = choice("zstd", "Codec.", "zstd", "lz4", "snappy", "none")
    level: Literal["fast", "balanced", "max"] = choice("balanced", "Effort of the codec.", "fast", "balanced", "max")
    enable_delta_encoding: bool = flag(True, "Send only what the receiver's version of a file lacks.")
    baseline_interval: Duration = duration("5m", "1s", "30d", "Age at which a kept copy is compared as a whole again.")
    max_delta_chain: int = integer(10, 1, 1000, "Updates of a kept copy before it is compared as a whole.")
    delta_algorithm: Literal["auto", "rsync", "xor", "bsdiff", "prefix"] = choice(
        "auto",
        "How changed content is coded where both ends hold the old version.",
        "auto",
        "rsync",
        "xor",
        "bsdiff",
        "prefix",
    )
    enable_dictionary: bool = flag(
        True, "Learn what small files of a tree have in common, and send that once. For `algorithm: zstd`."
    )
    dictionary_update_interval: Duration = duration(
        "24h", "1m", "365d", "Age at which a dictionary is judged, and trained anew."
    )
    enable_adaptive: bool = flag(True, "Leave compression out where the link is faster than the codec.")
    adaptive_threshold: float = number(15.0, 0.0, 100.0, "Percent by which the other way must be cheaper for a change.")
    min_compression_ratio: float = number(1.1, 1.0, 100.0, "A block that shrinks by less goes as it is.")
    enable_baseline_sync: bool = flag(False, "Tell peers which copies of what was sent are here (needs sync.enabled).")
    baseline_sync_interval: Duration = duration("5s", "100ms", "1d", "How often they are looked through for that.")
    enable_pruning: bool = flag(True, "Remove unfinished files that nobody came back for.")
    pruning_interval: Duration = duration("10m", "1s", "30d", "How often to look for them.")


class Prediction(Section):
    """Forecasts of the link to each peer that has an address."""

    enabled: bool = flag(False, "Measure links and forecast them.")
    model_type: Literal["lstm", "arima", "ewma", "last", "auto"] = choice(
        "lstm",
        "Model. auto: of all of them the one that was best on this link lately. lstm, arima and auto need the extra "
        "`prediction`.",
        "lstm",
        "arima",
        "ewma",
        "last",
        "auto",
    )
    weights: str = string(
        "",
        'an absolute path, or "" for those of the package',
        "Weights of lstm (ONNX) from `python -m dwcp.prediction.train`.",
        r"^(/.*)?$",
    )
    prediction_horizon: Duration = duration("5m", "1s", "1d", "How far ahead: the mean rate from now until then.")
    update_interval: Duration = duration("30s", "1s", "1d", "How often each link is forecast anew.")
    history_window: Duration = duration("1h", "1m", "30d", "How old a measurement may be to count.")
    confidence_level: float = number(
        0.95, 0.5, 0.999, "Share of outcomes that the interval around a forecast should hold."
    )
    probe_budget: Size = size(
        64 * MIB, 0, 64 * GIB, "Bytes an hour that probes of each link may send while it is idle; 0: no probes."
    )
    forecast_eta: bool = flag(True, "Tell the time that a transfer still needs as a range, by the forecast.")
    forecast_streams: bool = flag(False, "Begin a transfer with streams for the rate that is forecast.")

    @model_validator(mode="after")
    def _horizon_is_measured(self) -> Prediction:
        if self.prediction_horizon > self.history_window:
            raise ValueError("prediction_horizon is longer than history_window: no forecast could ever be judged")
        return self


class Sync(Section):
    """What nodes know of each other: their state, and whatever applications put there."""

    enabled: bool = flag(False, "Exchange it with peers that have it enabled too.")
    sync_interval: Duration = duration("1s", "10ms", "1h", "Between two exchanges, each with up to three peers.")
    max_staleness: Duration = duration(
        "5s", "10ms", "1d", "How old the view of a peer may be before reads say so and the node is degraded."
    )
    conflict_resolution: Literal["lww", "mvcc", "crdt"] = choice(
        "lww",
        "What becomes of writes of applications that did not know of each other. lww: the later one stays; mvcc: both, "
        "until a write names those it replaces; crdt: documents that are edited, and merge (extra `crdt`). For keys "
        "that are new; each keeps what it began with.",
        "lww",
        "mvcc",
        "crdt",
    )
    enable_versioning: bool = flag(True, "Remember what keys of applications were: 32 states of each, 32 MiB in all.")
    max_clock_skew: Duration = duration(
        "30s", "100ms", "1h", "How far ahead of this node's clock a peer's entries may be dated; others are refused."
    )

    @model_validator(mode="after")
    def _is_often_enough(self) -> Sync:
        if self.max_staleness <= self.sync_interval:
            raise ValueError("max_staleness must be longer than sync_interval: every view would be too old")
        return self


ELECTION_HEARTBEATS = 5
"""etcd refuses an election timeout below so many heartbeats."""
ENDPOINT = r"^https?://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})$"


class Consensus(Section):
    """What nodes agree on: who owns a workload, through an etcd cluster."""

    enabled: bool = flag(False, "Workloads with `owners` are run by one at a time. Needs the extra `consensus`.")
    algorithm: Literal["raft"] = choice("raft", "Algorithm: etcd's.", "raft")
    endpoints: list[Annotated[str, Field(pattern=ENDPOINT)]] = Field(
        default_factory=list,
        max_length=16,
        description="Members of the etcd cluster (3.4 or later); http:// on loopback only.",
        json_schema_extra={"allowed": "a list of https://HOST:PORT", "default": "none"},
    )
    ca_file: str = string(
        "", 'an absolute path, or "" for the system\'s', "Authority (PEM) of the members' certificates.", r"^(/.*)?$"
    )
    cert_file: str = string("", 'an absolute path, or "" for none', "This node's certificate (PEM).", r"^(/.*)?$")
    key_file: str = string("", 'an absolute path, or "" for none', "Its key (PEM).", r"^(/.*)?$")
    user: str = string("", 'a name, or "" without authentication', "User of the etcd cluster.")
    password_file: str = string("", 'an absolute path, or "" for none', "File with the user's password.", r"^(/.*)?$")
    lease: Duration = duration(
        "10s", "2s", "10m", "Silence after which a node has lost what it owns; whole seconds, rounded up."
    )
    shared_workloads: bool = flag(
        False, "Run workloads that were declared once for the whole cluster: what is in exports goes to peers."
    )
    quorum_size: int = integer(
        3, 1, 9, "Number of voters; the quorum is their majority. Another number at etcd is reported."
    )
    election_timeout: Duration = duration(
        "150ms",
        "10ms",
        "1m",
        "Silence after which a new leader is elected, as etcd has it: what a call waits for. At least five heartbeats "
        "count, whatever is set.",
    )
    heartbeat_interval: Duration = duration(
        "50ms", "1ms", "10s", "How often a leader shows that it lives, as etcd has it."
    )
    adaptive_mode: bool = flag(False, "Take measured round trips to the members into account: ten of them at least.")

    @property
    def effective_election(self) -> float:
        """Seconds; what etcd would accept."""
        return max(self.election_timeout, ELECTION_HEARTBEATS * self.heartbeat_interval)

    @field_validator("endpoints")
    @classmethod
    def _endpoints(cls, value: list[str]) -> list[str]:
        for endpoint in value:
            _address(endpoint)
            host = endpoint.partition("://")[2].rpartition(":")[0].strip("[]")
            if endpoint.startswith("http://") and not _is_loopback(host):
                raise ValueError(f"{endpoint} is not encrypted; off loopback write https://")
        if len(set(value)) < len(value):
            raise ValueError("an endpoint is named twice")
        return value

    @model_validator(mode="after")
    def _reachable(self) -> Consensus:
        if self.enabled and not self.endpoints:
            raise ValueError("consensus needs endpoints: the members of an etcd cluster, as https://HOST:2379")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file belong together")
        if bool(self.user) != bool(self.password_file):
            raise ValueError("user and password_file belong together")
        if self.enabled and self.lease < 2 * self.effective_election:
            raise ValueError(
                f"lease ({format_duration(self.lease)}) is shorter than two elections "
                f"({format_duration(self.effective_election)} each): it would end with every change of the leader"
            )
        return self


def _default_name() -> str:
    short = socket.gethostname().split(".")[0]
    return short if re.match(NODE_NAME, short) else "node"


class NodeSection(Section):
    """This node."""

    name: str = Field(
        default_factory=_default_name,
        pattern=NODE_NAME,
        description="What the node calls itself.",
        json_schema_extra={"allowed": "letters, digits, . _ -, at most 63", "default": "the host's name"},
    )
    environment: Literal["production", "staging", "development"] = choice(
        "production", "Sets how often health is checked.", "production", "staging", "development"
    )
    log_level: Literal["debug", "info", "warning", "error"] = choice(
        "info", "What is logged.", "debug", "info", "warning", "error"
    )
    log_format: Literal["auto", "console", "json"] = choice(
        "auto", "auto: for people on a terminal, JSON elsewhere.", "auto", "console", "json"
    )


class Http(Section):
    """Health, metrics and control."""

    listen: str = string("127.0.0.1:8080", "HOST:PORT", "Plain HTTP.", ADDRESS)
    tls_listen: str = string(
        "127.0.0.1:8443", 'HOST:PORT, or "" for none', "HTTPS with the node's certificate.", f"^$|{ADDRESS}"
    )

    @field_validator("listen", "tls_listen")
    @classmethod
    def _listens(cls, value: str) -> str:
        return _address(value) if value else value

    @model_validator(mode="after")
    def _apart(self) -> Http:
        if self.listen == self.tls_listen and not self.listen.endswith(":0"):
            raise ValueError(f"listen and tls_listen are both {self.listen}; give them different ports")
        return self


class Security(Section):
    """Who may connect, and how."""

    tls: Literal["auto", "always", "never"] = choice(
        "auto", "auto: TLS 1.3 wherever an end is no loopback address.", "auto", "always", "never"
    )
    handshake_timeout: Duration = duration("10s", "100ms", "5m", "Time for a connection to prove who it is.")
    ca_file: str = string(
        "",
        'an absolute path, or "" for none',
        "Authorities (PEM): a node with a certificate from one of them is trusted under the name in it.",
        r"^(/.*)?$",
    )
    max_pending_handshakes: int = integer(512, 1, 4096, "Connections that may be at it at once.")
    max_pending_per_address: int = integer(
        384, 1, 4096, "How many of them may be from one address (IPv6: /64); a transfer dials up to 32 at once."
    )
    failed_handshakes_per_minute: int = integer(
        600, 1, 100_000, "Handshakes from one address (IPv6: /64) that may fail in a minute before it has to wait."
    )


class PeerSection(Section):
    """Another node."""

    address: str | None = string(
        None, "HOST:PORT", "Where it listens; a peer without one only connects to us.", ADDRESS
    )
    fingerprint: str = Field(
        pattern=rf"^(sha256:[0-9a-f]{{64}}|{BY_AUTHORITY})$",
        description="Its identity; `dwcp id` there shows it. ca: whoever has a certificate for its name (ca_file).",
        json_schema_extra={"allowed": f"sha256: and 64 hexadecimal digits, or {BY_AUTHORITY}"},
    )
    may_order: bool = flag(False, "It may have this node send what is in its exports to other peers.")


class Export(Section):
    """A directory that peers may read, and write unless it says otherwise."""

    path: str = Field(pattern=r"^/", description="The directory.", json_schema_extra={"allowed": "an absolute path"})
    read_only: bool = flag(False, "Peers may only read.")
    privileged: bool = flag(
        False,
        "Peers may set owners, set-user-id bits, security attributes and devices here, where the manager runs as root.",
    )


SYSTEM_STATE_DIR = "/var/lib/dwcp"


def default_state_dir() -> str:
    """/var/lib/dwcp for root and for the user whom an administrator gave it; for others the XDG state directory."""
    if os.geteuid() == 0 or os.access(SYSTEM_STATE_DIR, os.W_OK | os.X_OK):
        return SYSTEM_STATE_DIR
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return str(Path(base) / "dwcp")


ExportName = Annotated[str, Field(pattern=NODE_NAME)]


class Storage(Section):
    """What is on disk."""

    state_dir: str = Field(
        default_factory=default_state_dir,
        pattern=r"^/",
        description="Identity, logs and state.",
        json_schema_extra={
            "allowed": "an absolute path",
            "default": "/var/lib/dwcp if writable, or ~/.local/state/dwcp",
        },
    )
    exports: dict[ExportName, Export] = Field(default_factory=dict, description="Directories for peers, by name.")
    keep_baselines: Literal["far", "always", "never"] = choice(
        "far",
        "Keep copies of what was sent, for deltas of the next version: to peers from 5 ms round trip on, to all, none.",
        "far",
        "always",
        "never",
    )
    baselines_limit: Size = size(10 * GIB, 0, 2**50, "Disk that these copies may take; a tenth always stays free.")
    resume_retention: Duration = duration("7d", "1m", "365d", "Age at which an unfinished file is given up.")
    log_size: Size = size(64 * MIB, MIB, 2**40, "All of the transaction log; its oldest eighth goes for what is new.")
    snapshot_interval: Duration = duration(
        "6h", "1m", "30d", "Between two looks whether the state has changed; if so, a snapshot is taken."
    )
    snapshot_keep: int = integer(24, 1, 1000, "Snapshots of each reason that are kept: the newest.")

    @model_validator(mode="after")
    def _outside(self) -> Storage:
        state = Path(self.state_dir)
        for name, export in self.exports.items():
            path = Path(export.path)
            if path == state or path in state.parents or state in path.parents:
                raise ValueError(f"export {name} ({export.path}) and state_dir ({self.state_dir}) contain each other")
        return self


CHECK_INTERVALS = {"production": 10.0, "staging": 30.0, "development": 60.0}
"""Seconds; the runbook's check frequencies."""


class HealthSection(Section):
    """How the manager looks after its components."""

    interval: Duration | None = duration(
        None, "100ms", "1h", "Between two checks; unset: 10s, 30s or 60s by node.environment."
    )
    timeout: Duration = duration(
        "5s", "10ms", "10m", "A check that takes longer has failed; so has a step of a look at a peer."
    )
    metrics_interval: Duration = duration("5s", "100ms", "1h", "Between two collections of metrics.")
    recovery_max_retries: int = integer(3, 0, 100, "Restarts before a component is called failed.")
    recovery_backoff: Duration = duration("1s", "1ms", "1h", "Before the first restart.")
    recovery_backoff_factor: float = number(2.0, 1.0, 10.0, "By how much that grows with each.")
    recovery_jitter: float = number(0.1, 0.0, 1.0, "Share of it that is left to chance.")
    slow_retry_interval: Duration = duration("60s", "1s", "1d", "Between restarts of a failed component.")


class CircuitBreaker(Section):
    """When a peer that fails is left alone."""

    failure_threshold: int = integer(5, 1, 1000, "Failures in a row that open it.")
    timeout: Duration = duration("30s", "10ms", "1d", "Open for this long, then half-open.")
    success_threshold: int = integer(2, 1, 1000, "Successes that close it again.")
    half_open_probes: int = integer(1, 1, 100, "Calls let through at once while half-open.")
    max_timeout: Duration = duration("10m", "10ms", "7d", "What the timeout doubles up to, when it keeps opening.")
    failure_rate: float = number(0.5, 0.01, 1.0, "Share of the calls within the window that opens it by failing.")
    window: Duration = duration("5m", "100ms", "1d", "For how long a call counts in that rate.")
    minimum_calls: int = integer(10, 1, 1000, "Calls within the window, below which there is no rate.")


class Memory(Section):
    """What the node may take."""

    limit: Size = size(
        256 * MIB,
        64 * MIB,
        2**40,
        "Of each process: a quarter bounds transfer buffers. The manager lets them shrink when all that is resident is "
        "more than the limit.",
    )


class TelemetrySection(Section):
    """Traces and logs for an OpenTelemetry collector."""

    enabled: bool = flag(
        False, "Send spans of transfers, jobs and connections, and what is logged. Needs the extra `otel`."
    )
    endpoint: str = string(
        "http://localhost:4318",
        "an http or https URL without /v1/traces, user and password",
        "The collector, which takes OTLP over HTTP.",
        r"^https?://[^/\s@]+(/[^\s?#]*)?$",
    )

    @field_validator("enabled")
    @classmethod
    def _can_be(cls, value: bool) -> bool:
        if value:
            try:
                import_module("opentelemetry.exporter.otlp.proto.http")
                import_module("opentelemetry.sdk")
            except ImportError as error:
                raise ValueError(f"telemetry needs OpenTelemetry ({error}): pip install 'dwcp[otel]'") from error
        return value


class Debug(Section):
    """Looking into the process over HTTP: `/debug`."""

    enabled: bool = flag(False, "Answer there: profiles, stacks, the configuration, the log's level.")
    heap_frames: int = integer(
        0,
        0,
        64,
        "Frames kept of the stack of each allocation, for /debug/pprof/heap; 0: none. Slows all of Python down.",
    )


def _version(value: Any) -> Any:
    # unquoted, YAML reads it as a number
    return "2.0" if isinstance(value, float) and value == 2.0 else value


class Config(Section):
    """The whole of it."""

    enabled: bool = flag(True, "false: HTTP answers, but nothing is transferred.")
    version: Annotated[Literal["2.0"], BeforeValidator(_version)] = choice("2.0", "Of this format.", "2.0")
    node: NodeSection = Field(default_factory=NodeSection)
    http: Http = Field(default_factory=Http)
    security: Security = Field(default_factory=Security)
    peers: dict[Annotated[str, Field(pattern=NODE_NAME)], PeerSection] = Field(
        default_factory=dict, description="Other nodes, by name."
    )
    storage: Storage = Field(default_factory=Storage)
    workloads: dict[Annotated[str, Field(pattern=NODE_NAME)], WorkloadSection] = Field(
        default_factory=dict, description="What is kept at other sites by itself, by name."
    )
    jobs: JobsSection = Field(default_factory=JobsSection)
    transport: Transport = Field(default_factory=Transport)
    compression: Compression = Field(default_factory=Compression)
    health: HealthSection = Field(default_factory=HealthSection)
    circuit_breaker: CircuitBreaker = Field(default_factory=CircuitBreaker)
    memory: Memory = Field(default_factory=Memory)
    telemetry: TelemetrySection = Field(default_factory=TelemetrySection)
    debug: Debug = Field(default_factory=Debug)
    prediction: Prediction = Field(default_factory=Prediction)
    sync: Sync = Field(default_factory=Sync)
    consensus: Consensus = Field(default_factory=Consensus)

    @property
    def health_interval(self) -> float:
        """Seconds between health checks."""
        return self.health.interval or CHECK_INTERVALS[self.node.environment]

    @model_validator(mode="after")
    def _authority_is_named(self) -> Config:
        for name, peer in self.peers.items():
            if peer.fingerprint == BY_AUTHORITY and not self.security.ca_file:
                raise ValueError(f"peers.{name}.fingerprint: {BY_AUTHORITY} needs security.ca_file")
        return self

    @model_validator(mode="after")
    def _baselines_have_a_way(self) -> Config:
        if self.compression.enable_baseline_sync and not self.sync.enabled:
            raise ValueError("compression.enable_baseline_sync needs sync.enabled: true")
        return self

    @model_validator(mode="after")
    def _never_in_the_clear(self) -> Config:
        if self.security.tls == "always" and self.transport.enable_rdma:
            raise ValueError("transport.enable_rdma sends blocks unencrypted, which security.tls: always rules out")
        host = self.transport.listen.rpartition(":")[0].strip("[]")
        if self.security.tls == "never" and not _is_loopback(host):
            raise ValueError("security.tls: never needs transport.listen on a loopback address, like 127.0.0.1:9000")
        return self
