"""What an OpenTelemetry collector hears of transfers, and what transfers notice of one that is away: nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from structlog.contextvars import get_contextvars
from structlog.testing import capture_logs

from dwcp.config import Config, changed_keys, load_config, needs_restart
from dwcp.config.model import TelemetrySection
from dwcp.telemetry import NO_SPAN, Span, Telemetry, shipping, telemetry_of
from dwcp.telemetry.otlp import LONGEST, QUEUE, OtlpTelemetry
from dwcp.testing.lab import Lab
from dwcp.transfer import tracing
from dwcp.transfer.client import connect
from dwcp.wire import messages as m
from tests import minimal_peer
from tests.collector import Collector, Told
from tests.integration.test_http import ask
from tests.processes import free_ports, run_dwcp
from tests.support import Pair, Proxy, random_file, wait_until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""The example of W3C's Trace Context."""
SAMPLED = 1
"""Among its flags."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector().running() as made:
        yield made


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Lab]:
    settings = {"telemetry": {"enabled": True, "endpoint": collector.endpoint}}
    with Lab.up(tmp_path_factory.mktemp("lab"), 2, settings) as made:
        yield made


def spans_at(collector: Collector, path: str) -> list[Told]:
    return [span for span in collector.spans if span.attributes.get("dwcp.path") == path]


def spans_of(collector: Collector, path: str, count: int) -> dict[str, Told]:
    """By name, when so many have come."""

    wait_until(lambda: len(spans_at(collector, path)) == count, f"{count} spans of {path}")
    return {span.name: span for span in spans_at(collector, path)}


def trace_of(collector: Collector, span: Told) -> dict[str, list[Told]]:
    """All spans of its trace, by parent, when its root has come: the root is sent last, in the order of ends."""

    def found() -> list[Told]:
        return [other for other in collector.spans if other.trace_id == span.trace_id]

    wait_until(lambda: any(not other.parent_id for other in found()), f"the root of {span.name}")
    below: dict[str, list[Told]] = {}
    for other in found():
        below.setdefault(other.parent_id, []).append(other)
    return below


def traced_pair(directory: Path, collector: Collector) -> Pair:
    directory.mkdir()
    return Pair(directory, telemetry={"enabled": True, "endpoint": collector.endpoint})


def test_a_transfer_is_one_trace_over_both_nodes(lab: Lab, collector: Collector, tmp_path: Path) -> None:
    a, b = lab.nodes
    source = tmp_path / "file"
    random_file(source, 1_000_000)
    done = run_dwcp("send", "--config", a.config_file, source, f"{b.name}:inbox/put")
    assert done.returncode == 0, done.stderr
    spans = spans_of(collector, "inbox/put", 2)
    put, served = spans["put"], spans["serve put"]
    assert (put.node, served.node) == (a.name, b.name)
    assert served.trace_id == put.trace_id
    assert served.parent_id == put.span_id
    assert served.attributes["dwcp.transfer"] == put.attributes["dwcp.transfer"]
    for span in (put, served):
        assert (span.attributes["dwcp.state"], span.error) == ("done", "")
        assert (span.attributes["dwcp.files"], span.attributes["dwcp.bytes"]) == (1, 1_000_000)

    below = trace_of(collector, put)
    (command,) = below[""]
    assert (command.name, command.node) == ("dwcp send", a.name)
    assert {span.name for span in below[command.span_id]} == {"connect", "put"}
    for span, received in ((put, False), (served, True)):
        streams = [stream for stream in below[span.span_id] if stream.name == "stream"]
        assert {stream.node for stream in streams} == {span.node}
        assert {stream.error for stream in streams} == {""}
        carried = "dwcp.received" if received else "dwcp.sent"
        assert sum(stream.attributes[carried] for stream in streams) > 1_000_000

    def said() -> set[str]:
        return {record.name for record in collector.logs if record.span_id == served.span_id}

    wait_until(lambda: said() >= {"transfer begins", "transfer ended"}, "the log of the transfer")
    assert {record.trace_id for record in collector.logs if record.span_id == served.span_id} == {put.trace_id}
    up = [record for record in collector.logs if record.name == "node is up" and record.node == b.name]
    assert [(record.trace_id, record.attributes["severity"]) for record in up] == [("", "info")]


def test_the_log_and_the_histogram_name_the_trace(lab: Lab, collector: Collector, tmp_path: Path) -> None:
    a, b = lab.nodes
    source = tmp_path / "file"
    random_file(source, 1000)
    assert run_dwcp("send", "--config", a.config_file, source, f"{b.name}:inbox/named").returncode == 0
    trace_id = spans_of(collector, "inbox/named", 2)["put"].trace_id
    lines = [json.loads(line) for line in (b.directory / "manager.log").read_text().splitlines()]
    assert {"transfer begins", "transfer ended"} <= {
        line["event"] for line in lines if line.get("trace_id") == trace_id
    }
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    page = ask(b.http_url.removeprefix("http://"), "GET", "/metrics", accept).body.decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    exemplars = [sample.exemplar for sample in families["dwcp_transfer_seconds"].samples if sample.exemplar]
    assert {"trace_id": trace_id} in [exemplar.labels for exemplar in exemplars]


def test_a_job_is_above_its_transfer(lab: Lab, collector: Collector, tmp_path: Path) -> None:
    a, b = lab.nodes
    source = tmp_path / "file"
    random_file(source, 1000)
    target = f"{b.name}:inbox/job"
    done = run_dwcp("workload", "add", "--config", a.config_file, "db", source, target, "--max-age", "1h")
    assert done.returncode == 0, done.stderr
    run = ("workload", "run", "--config", a.config_file, "db")
    wait_until(lambda: run_dwcp(*run).returncode == 0, "the manager knows it")
    put = spans_of(collector, "inbox/job", 2)["put"]
    (job,) = trace_of(collector, put)[""]
    assert (job.name, job.span_id, job.node) == ("job", put.parent_id, a.name)
    assert job.attributes["dwcp.workload"] == "db"


def test_a_transfer_is_a_child_of_what_the_program_is_in(lab: Lab, collector: Collector, tmp_path: Path) -> None:
    a, b = lab.nodes
    source = tmp_path / "file"
    random_file(source, 1000)

    async def send() -> None:
        async with connect(b.name, config=load_config([a.config_file])) as peer:
            await peer.send(source, "inbox/program")

    with TracerProvider().get_tracer("program").start_as_current_span("program") as program:
        asyncio.run(send())
    spans = spans_of(collector, "inbox/program", 2)
    context = program.get_span_context()
    assert spans["put"].parent_id == format_span_id(context.span_id)
    assert spans["serve put"].trace_id == format_trace_id(context.trace_id)


@pytest.mark.parametrize("what", ["a data connection", "all of them"])
def test_what_breaks_is_in_the_trace(collector: Collector, tmp_path: Path, what: str) -> None:
    pair = traced_pair(tmp_path / "pair", collector)
    source = tmp_path / "file"
    random_file(source, 3_000_000)
    path = f"inbox/{what}"
    cut = threading.Event()

    def cut_once(data: bytes, offset: int, inbound: bool) -> bytes | None:
        if not inbound or cut.is_set() or offset < 300_000:
            return data
        cut.set()
        if what == "all of them":
            proxy.cut()
        return None

    proxy = Proxy(pair.port, cut_once)
    pair.send(source, path, pair.client_config(proxy.port))
    proxy.close()
    pair.close()
    tries = 2 if what == "all of them" else 1
    wait_until(lambda: len(spans_at(collector, path)) == 1 + tries, "the transfer and its tries")
    (put,) = [span for span in spans_at(collector, path) if span.name == "put"]
    served = [span for span in spans_at(collector, path) if span.name == "serve put"]
    assert [span.parent_id for span in served] == [put.span_id] * tries
    assert [span.attributes["dwcp.state"] for span in served] == ["cancelled", "done"][-tries:]
    below = trace_of(collector, put)[put.span_id]
    assert [span.error for span in below if span.name == "connect"] == [""] * (tries - 1)
    assert tries > 1 or len([span for span in below if span.name == "stream" and span.error]) == 1


def test_peers_without_telemetry_are_not_told(
    collector: Collector, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []
    begin = tracing.begin_served

    def noted(telemetry: Telemetry, request: m.Open, peer: str) -> Span:
        told.append(request.traceparent)
        return begin(telemetry, request, peer)

    monkeypatch.setattr(tracing, "begin_served", noted)
    source = tmp_path / "file"
    random_file(source, 1000)
    section = TelemetrySection(enabled=True, endpoint=collector.endpoint)
    pair.send(source, "inbox/untold", pair.config.model_copy(update={"telemetry": section}))
    assert spans_of(collector, "inbox/untold", 1)["put"].error == ""
    assert told == [None]


def test_peers_that_tell_nothing_begin_a_trace_here(collector: Collector, tmp_path: Path) -> None:
    pair = traced_pair(tmp_path / "pair", collector)
    older = minimal_peer.Session(
        pair.port, pair.identities["a"].private_key, "minimal", pair.identities["b"].fingerprint
    )
    older.put(b"inbox/older", [{"path": b"", "type": "file", "size": 5, "mode": 0o644, "mtime_ns": 0}], {0: b"hello"})
    older.close()
    served = spans_of(collector, "inbox/older", 1)["serve put"]
    assert (served.parent_id, served.attributes["dwcp.state"]) == ("", "done")
    pair.close()


def test_what_is_not_sampled_is_not_told_anywhere(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    first, second = (OtlpTelemetry(collector.endpoint, name) for name in ("first", "second"))
    span = first.begin("put", {"dwcp.path": "unsampled"})
    assert span.traceparent is not None
    assert not int(span.traceparent[-2:], 16) & SAMPLED
    with span.active():
        assert "trace_id" not in get_contextvars()
    served = second.begin("serve put", {"dwcp.path": "unsampled"}, kind="server", parent=span.traceparent)
    elsewhere = second.begin("serve put", {"dwcp.path": "sampled elsewhere"}, kind="server", parent=PARENT)
    for each in (served, span, elsewhere):
        each.end({})
    for telemetry in (first, second):
        telemetry.close()
    assert [span.attributes["dwcp.path"] for span in collector.spans if span.node in ("first", "second")] == [
        "sampled elsewhere"
    ]


def test_a_transfer_that_is_refused_says_why(lab: Lab, collector: Collector, tmp_path: Path) -> None:
    a, b = lab.nodes
    done = run_dwcp("get", "--config", a.config_file, f"{b.name}:inbox/missing", tmp_path / "missing")
    assert done.returncode == 3
    spans = spans_of(collector, "inbox/missing", 2)
    assert spans["serve get"].parent_id == spans["get"].span_id
    assert "inbox/missing" in spans["serve get"].error
    assert spans["get"].attributes["dwcp.state"] == "failed"


@pytest.mark.parametrize(
    ("parent", "trace", "span"),
    [
        (PARENT, PARENT[3:35], PARENT[36:52]),
        ("00-nonsense", "", ""),
        ("00-" + "0" * 32 + PARENT[35:], "", ""),
        (None, "", ""),
    ],
    ids=["sane", "nonsense", "no trace", "none"],
)
def test_only_a_sane_parent_is_taken(
    collector: Collector, parent: str | None, trace: str, span: str, request: pytest.FixtureRequest
) -> None:
    telemetry = telemetry_of(TelemetrySection(enabled=True, endpoint=collector.endpoint), "here")
    path = request.node.name
    telemetry.begin("serve put", {"dwcp.path": path}, kind="server", parent=parent).end({})
    told = spans_of(collector, path, 1)["serve put"]
    assert told.parent_id == span
    assert told.trace_id == trace or not trace


def test_what_no_message_can_hold_is_told_all_the_same(collector: Collector) -> None:
    telemetry = OtlpTelemetry(collector.endpoint, "odd")
    try:
        raise OSError("no \udcff")
    except OSError:
        telemetry.log({"event": "odd \udcff", "level": "error", "path": "\udcff", "much": 2**64, "exc_info": True})
    telemetry.begin("put", {"dwcp.path": "a\udcff"}).end({}, "no \udcff")
    span = spans_of(collector, r"a\udcff", 1)["put"]
    assert span.error == r"no \udcff"
    wait_until(lambda: any(record.node == "odd" for record in collector.logs), "the record")
    record = next(record for record in collector.logs if record.node == "odd")
    assert record.name == r"odd \udcff"
    told = record.attributes
    assert (told["path"], told["much"], told["exception.type"]) == (r"\udcff", str(2**64), "OSError")
    assert "test_telemetry.py" in told["exception.stacktrace"]


@pytest.fixture(params=["refuses", "is silent", "is none"])
def away(request: pytest.FixtureRequest, collector: Collector) -> Iterator[str]:
    """The endpoint of a collector that takes nothing."""
    if request.param == "is none":
        yield f"{collector.endpoint}/elsewhere"
        return
    if request.param == "refuses":
        yield f"http://127.0.0.1:{free_ports(1)[0]}"
        return
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def test_a_collector_that_is_away_fails_no_transfer(tmp_path: Path, away: str) -> None:
    with Lab.up(tmp_path / "lab", 2, {"telemetry": {"enabled": True, "endpoint": away}}) as lab:
        a, b = lab.nodes
        source = tmp_path / "file"
        random_file(source, 1_000_000)
        done = run_dwcp("send", "--config", a.config_file, source, f"{b.name}:inbox/")
        assert done.returncode == 0, done.stderr
        assert (b.inbox / "file").read_bytes() == source.read_bytes()
        log = b.directory / "manager.log"
        wait_until(lambda: "traces and logs are lost" in log.read_text(), "a word of it in the log")
    assert "Traceback" not in log.read_text()
    assert log.read_text().count("traces and logs are lost") == 1


def test_a_collector_that_comes_back_gets_what_waits() -> None:
    collector = Collector()
    collector.takes = False
    with collector.running(), capture_logs() as said:
        telemetry = OtlpTelemetry(collector.endpoint, "patient")

        def events() -> list[str]:
            return [line["event"] for line in said]

        telemetry.begin("put", {"dwcp.path": "lost"}).end({})
        wait_until(lambda: any("are lost" in event for event in events()), "a word of it")
        collector.takes = True
        telemetry.begin("put", {"dwcp.path": "taken"}).end({})
        spans_of(collector, "taken", 1)
        wait_until(lambda: any("is there again" in event for event in events()), "a word of its return")
        telemetry.close()
    assert len(events()) == 2


def test_what_waits_for_a_collector_is_bounded(away: str) -> None:
    telemetry = OtlpTelemetry(away, "bounded")
    for number in range(3 * QUEUE):
        telemetry.log({"event": "x" * 2 * LONGEST, "level": "info", "number": number, "long": "y" * 2 * LONGEST})
        telemetry.begin("put", {"long": "y" * 2 * LONGEST}).end({})
    logs, spans = (
        processor._batch_processor._queue
        for processor in (
            *telemetry._loggers._multi_log_record_processor._log_record_processors,
            *telemetry._tracers._active_span_processor._span_processors,
        )
    )
    assert len(logs) <= QUEUE
    assert len(spans) <= QUEUE
    assert all(len(record.log_record.body) <= LONGEST for record in list(logs))
    assert all(len(span.attributes["long"]) <= LONGEST for span in list(spans))
    telemetry.close()


def test_what_is_off_is_not_there(pair: Pair, tmp_path: Path) -> None:
    section = TelemetrySection()
    assert shipping(section, "a") is None
    telemetry = telemetry_of(section, "a")
    assert telemetry.begin("put", {}) is NO_SPAN
    assert "traces" not in pair.server.node.introduction(pair.server.node.credentials()).also
    rooms = "dwcp.transfer.outbound, dwcp.manager.manager, dwcp.cli.transfer"
    code = f"import sys, {rooms}; print('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_configuration_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in ("localhost:4318", "http://user:secret@localhost:4318", "http://localhost:4318/?key=secret"):
        with pytest.raises(ValueError, match="endpoint"):
            TelemetrySection(endpoint=endpoint)
    on = Config(telemetry=TelemetrySection(enabled=True))
    assert [needs_restart(key) for key in changed_keys(Config(), on)] == [True]
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(ValueError, match=r"pip install 'dwcp\[otel\]'"):
        TelemetrySection(enabled=True)


def test_what_the_export_says_of_each_batch_is_not_logged_each_time() -> None:
    code = """
import logging
from dwcp import logs
logs.configure("info", "json")
for _ in range(2):
    logging.getLogger("opentelemetry.exporter.otlp.proto.http").error("a batch failed")
    logging.getLogger("opentelemetry.sdk._shared_internal").warning("the queue is full: %s", "a span")
    logging.getLogger("opentelemetry.sdk.trace").warning("no such sampler")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.splitlines()
    assert [json.loads(line)["event"] for line in said] == ["the queue is full: a span", *["no such sampler"] * 2]
