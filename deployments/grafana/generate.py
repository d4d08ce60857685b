"""The dashboard, made with Grafana's SDK: `make dashboard` writes dwcp-manager.json, which Grafana imports.

A row for each question of an operator, in the order in which they are asked: does it work, what does it move, what is
kept elsewhere, what goes wrong, what does it take. A panel has one line for each node, or for each thing of a node.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
NODES = 'job="dwcp-manager", instance=~"$instance"'
"""In every query of a node's own metrics."""

PANEL_HEIGHT = 8
PANEL_WIDTH = 8
"""Of 24 columns: three panels side by side, four figures."""

STATES = ["closed", "half-open", "open"]


def query(expression: str, legend: str, name: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).range().ref_id(name)


def thresholds(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """`steps`: from which value on which colour; the first has none."""
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=color) for value, color in steps])
    )


def values(*names: str) -> list[ValueMap]:
    """What to show instead of 0, 1, 2 and so on."""
    return [ValueMap(options={str(number): ValueMappingResult(text=name) for number, name in enumerate(names)})]


def lines(title: str, meaning: str, unit: str, *queries: tuple[str, str]) -> timeseries.Panel:
    """`queries`: PromQL and the name of its lines. All of our quantities begin at nothing."""
    panel = timeseries.Panel().title(title).description(meaning).unit(unit).min(0).datasource(SOURCE)
    panel = panel.height(PANEL_HEIGHT).span(PANEL_WIDTH)
    panel = panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    for number, (expression, legend) in enumerate(queries):
        panel = panel.with_target(query(expression, legend, chr(ord("A") + number)))
    return panel


def mean(histogram: str) -> str:
    """Of what was observed in five minutes, for each set of labels."""
    return f"rate({histogram}_sum{{{NODES}}}[5m]) / rate({histogram}_count{{{NODES}}}[5m])"


def figure(title: str, meaning: str, unit: str, expression: str, legend: str = "{{instance}}") -> stat.Panel:
    panel = stat.Panel().title(title).description(meaning).unit(unit).datasource(SOURCE)
    panel = panel.graph_mode(BigValueGraphMode.NONE)
    return panel.height(PANEL_HEIGHT // 2).span(6).with_target(query(expression, legend, "A"))


def does_it_work(board: dashboard.Dashboard) -> dashboard.Dashboard:
    bad_good = thresholds((None, "red"), (0.5, "orange"), (1, "green"))
    good_bad = thresholds((None, "green"), (1, "orange"), (2, "red"))
    return (
        board.with_row(dashboard.Row("Does it work"))
        .with_panel(
            figure("Answers", "Whether Prometheus reaches the node.", "none", f"up{{{NODES}}}")
            .mappings(values("down", "up"))
            .thresholds(thresholds((None, "red"), (1, "green")))
        )
        .with_panel(figure("Up for", "Since the manager started.", "s", f"dwcp_manager_uptime_seconds{{{NODES}}}"))
        .with_panel(
            figure(
                "Worst circuit breaker",
                "Of all peers of a node.",
                "none",
                f"dwcp_manager_circuit_breaker_state{{{NODES}}}",
            )
            .mappings(values(*STATES))
            .thresholds(good_bad)
        )
        .with_panel(
            figure(
                "Version", "Of the program.", "none", f"dwcp_build_info{{{NODES}}}", "{{node}} {{version}}"
            ).text_mode(BigValueTextMode.NAME)
        )
        .with_panel(
            lines(
                "Components",
                "1 healthy, 0.5 degraded, 0 unhealthy; /health has the reasons.",
                "none",
                (f"dwcp_manager_component_healthy{{{NODES}}}", "{{instance}} {{component}}"),
            ).thresholds(bad_good)
        )
        .with_panel(
            lines(
                "Circuit breakers",
                "0 closed, 1 half-open, 2 open.",
                "none",
                (f"dwcp_manager_peer_circuit_breaker_state{{{NODES}}}", "{{instance}} to {{peer}}"),
            ).mappings(values(*STATES))
        )
        .with_panel(
            lines(
                "Restarts of components",
                "In five minutes, and those that helped.",
                "none",
                (f"increase(dwcp_manager_recovery_attempts_total{{{NODES}}}[5m])", "{{instance}} {{component}}"),
                (f"increase(dwcp_manager_recovery_success_total{{{NODES}}}[5m])", "{{instance}} {{component}} helped"),
            )
        )
    )


def what_does_it_move(board: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        board.with_row(dashboard.Row("What does it move"))
        .with_panel(
            lines(
                "Throughput",
                "What goes over the network, TLS and what is sent again included.",
                "bps",
                (f"instance:dwcp_transport_sent_bits:rate1m{{{NODES}}}", "{{instance}} sent"),
                (f"instance:dwcp_transport_received_bits:rate1m{{{NODES}}}", "{{instance}} received"),
            )
        )
        .with_panel(
            lines(
                "Streams",
                "Data connections, and those of them over RDMA.",
                "none",
                (f"dwcp_transport_active_streams{{{NODES}}}", "{{instance}}"),
                (f"dwcp_transport_rdma_streams{{{NODES}}}", "{{instance}} RDMA"),
            )
        )
        .with_panel(
            lines(
                "Round trip",
                "To each peer.",
                "ms",
                (f"dwcp_transport_latency_milliseconds{{{NODES}}}", "{{instance}} to {{peer}}"),
            )
        )
        .with_panel(
            lines(
                "Transfers under way",
                "By what the node does in them.",
                "none",
                (f"dwcp_transfers_running{{{NODES}}}", "{{instance}} {{role}}"),
                (f"dwcp_transport_sessions{{{NODES}}}", "{{instance}} sessions"),
            )
        )
        .with_panel(
            lines(
                "Transfers that ended",
                "In five minutes, by outcome.",
                "none",
                (f"increase(dwcp_transfers_ended_total{{{NODES}}}[5m])", "{{instance}} {{state}}"),
            )
        )
        .with_panel(
            lines(
                "Duration of transfers",
                "Mean of those that ended in five minutes, by outcome.",
                "s",
                (mean("dwcp_transfer_seconds"), "{{instance}} {{role}} {{state}}"),
            )
        )
        .with_panel(
            lines(
                "Files",
                "With changed content, a second.",
                "ops",
                (f"rate(dwcp_transport_files_total{{{NODES}}}[1m])", "{{instance}} {{direction}}"),
            )
        )
    )


def what_is_kept_elsewhere(board: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        board.with_row(dashboard.Row("What is kept elsewhere"))
        .with_panel(
            lines(
                "Age of workloads",
                "Of the newest complete state at each target; and from which on it is too old (max_age).",
                "s",
                (f"dwcp_workload_age_seconds{{{NODES}}}", "{{workload}} at {{target}}"),
                (f"dwcp_workload_max_age_seconds{{{NODES}}}", "{{workload}} at the most"),
            )
        )
        .with_panel(
            lines(
                "Jobs",
                "That wait, run, or were given up.",
                "none",
                (f"dwcp_jobs{{{NODES}}}", "{{instance}} {{state}}"),
            )
        )
        .with_panel(
            lines(
                "Jobs that ended",
                "In five minutes.",
                "none",
                (f"increase(dwcp_jobs_ended_total{{{NODES}}}[5m])", "{{instance}} {{state}}"),
            )
        )
        .with_panel(
            lines(
                "Paused workloads",
                "1 where a workload does not run by itself.",
                "none",
                (f"dwcp_workload_paused{{{NODES}}}", "{{instance}} {{workload}}"),
            )
        )
        .with_panel(
            lines(
                "Newest check of stored versions",
                "When each target's versions were last read again and compared.",
                "dateTimeAsIso",
                (f"dwcp_workload_verified_timestamp_seconds{{{NODES}}} * 1000", "{{workload}} at {{target}}"),
            )
        )
        .with_panel(
            lines(
                "Damaged stored files",
                "That the newest check could not mend.",
                "none",
                (f"dwcp_workload_damaged_files{{{NODES}}}", "{{workload}} at {{target}}"),
            )
        )
        .with_panel(
            lines(
                "Owners",
                "1 where a node owns a workload that several may own.",
                "none",
                (f"dwcp_workload_owned{{{NODES}}}", "{{workload}} by {{instance}}"),
            )
        )
        .with_panel(
            lines(
                "Consensus",
                "Nodes that are there, as each one sees it, and how old what it knows is.",
                "none",
                (f"dwcp_cluster_nodes{{{NODES}}}", "nodes seen by {{instance}}"),
                (f"dwcp_consensus_view_age_seconds{{{NODES}}}", "seconds since {{instance}} looked"),
            )
        )
    )


def what_goes_wrong(board: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        board.with_row(dashboard.Row("What goes wrong"))
        .with_panel(
            lines(
                "Faults that were mended",
                "A second: damaged blocks, blocks sent again, refused connections, RDMA.",
                "ops",
                (f"rate(dwcp_transport_errors_total{{{NODES}}}[1m])", "{{instance}} {{kind}}"),
            )
        )
        .with_panel(
            lines(
                "Failures of peers",
                "In a row; the breaker opens at circuit_breaker.failure_threshold.",
                "none",
                (f"dwcp_manager_circuit_breaker_failures{{{NODES}}}", "{{instance}} to {{peer}}"),
                (
                    f"increase(dwcp_manager_circuit_breaker_trips_total{{{NODES}}}[5m])",
                    "{{instance}} to {{peer}} opened",
                ),
            )
        )
        .with_panel(
            lines(
                "Time to recover",
                "From the check that found a component unhealthy to the one that found it well: mean of five minutes.",
                "s",
                (mean("dwcp_manager_recovery_seconds"), "{{instance}} {{component}}"),
            )
        )
        .with_panel(
            lines(
                "Share of restarts that helped",
                "Over five minutes; nothing while nothing had to be restarted.",
                "percentunit",
                (f"instance:dwcp_manager_recovery_success:ratio_rate5m{{{NODES}}}", "{{instance}}"),
            ).max(1)
        )
    )


def what_does_it_take(board: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        board.with_row(dashboard.Row("What does it take"))
        .with_panel(
            lines(
                "Processors of the manager",
                "1 is one of them, busy all the time.",
                "none",
                (f"rate(process_cpu_seconds_total{{{NODES}}}[1m])", "{{instance}}"),
            )
        )
        .with_panel(
            lines(
                "Memory of the manager",
                "Resident.",
                "bytes",
                (f"process_resident_memory_bytes{{{NODES}}}", "{{instance}}"),
            )
        )
        .with_panel(
            lines(
                "Budget of the manager",
                "Resident memory as memory.limit's keeper saw it, and that limit; over it transfer buffers are halved.",
                "bytes",
                (f"dwcp_manager_memory_resident_bytes{{{NODES}}}", "{{instance}}"),
                (f"dwcp_manager_memory_limit_bytes{{{NODES}}}", "{{instance}} limit"),
                (f"dwcp_transport_buffers_bytes{{{NODES}}}", "{{instance}} buffers {{state}}"),
                (f"dwcp_transport_buffers_limit_bytes{{{NODES}}}", "{{instance}} buffers' limit"),
            )
        )
        .with_panel(
            lines(
                "Buffers halved",
                "How many times they are now, and how often they were in five minutes.",
                "none",
                (f"dwcp_manager_memory_shrink_level{{{NODES}}}", "{{instance}}"),
                (f"increase(dwcp_manager_memory_shrinks_total{{{NODES}}}[5m])", "{{instance}} in 5 min"),
            )
        )
        .with_panel(
            lines(
                "Descriptors of the manager",
                "Share of its limit.",
                "percentunit",
                (f"process_open_fds{{{NODES}}} / process_max_fds{{{NODES}}}", "{{instance}}"),
            ).max(1)
        )
        .with_panel(
            lines(
                "Processors of the machine",
                "Share in use; an alert from 80% on.",
                "percentunit",
                ("instance:node_cpu_usage:ratio_rate1m", "{{instance}}"),
            ).max(1)
        )
        .with_panel(
            lines(
                "Memory of the machine",
                "Share in use; an alert from 85% on.",
                "percentunit",
                ("instance:node_memory_usage:ratio", "{{instance}}"),
            ).max(1)
        )
        .with_panel(
            lines(
                "HTTP and health checks",
                "99th percentile of HTTP answers; how long each check took last, and the mean of five minutes.",
                "s",
                (f"instance:dwcp_http_request_seconds:p99_rate5m{{{NODES}}}", "{{instance}} HTTP"),
                (f"dwcp_manager_component_check_seconds{{{NODES}}}", "{{instance}} {{component}}"),
                (mean("dwcp_manager_health_check_seconds"), "{{instance}} {{component}} mean"),
            )
        )
    )


def generate() -> str:
    """The dashboard as Grafana imports it."""
    board = (
        dashboard.Dashboard("DWCP Manager")
        .uid("dwcp-manager")
        .tags(["dwcp"])
        .readonly()
        .refresh("15s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("instance")
            .label("Node")
            .datasource(SOURCE)
            .query('label_values(up{job="dwcp-manager"}, instance)')
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
        )
    )
    for row in (does_it_work, what_does_it_move, what_is_kept_elsewhere, what_goes_wrong, what_does_it_take):
        board = row(board)
    built = board.build()
    for number, panel in enumerate(built.panels or [], start=1):
        # so that a link to a panel stays right when Grafana imports a newer dashboard
        panel.id_val = number
    return JSONEncoder(sort_keys=True, indent=2).encode(built) + "\n"


if __name__ == "__main__":
    print(generate(), end="")
