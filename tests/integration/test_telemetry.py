"""What an OpenTelemetry collector hears of transfers, and what transfers notice of one that is away: nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.contextvars import get_contextvars
from structlog.testing import capture_logs

from dwcp.config import Config, changed_keys, needs_restart
from dwcp.config.model import TelemetrySection
from dwcp.telemetry import NO_SPAN, shipping, telemetry_of
from dwcp.telemetry.otlp import LONGEST, QUEUE, OtlpTelemetry
from tests.collector import Collector, Told
from tests.processes import free_ports
from tests.support import Pair, wait_until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""The example of W3C's Trace Context."""
SAMPLED = 1
"""Among its flags."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector().running() as made:
        yield made


def spans_at(collector: Collector, path: str) -> list[Told]:
    return [span for span in collector.spans if span.attributes.get("dwcp.path") == path]


def spans_of(collector: Collector, path: str, count: int) -> dict[str, Told]:
    """By name, when so many have come."""

    wait_until(lambda: len(spans_at(collector, path)) == count, f"{count} spans of {path}")
    return {span.name: span for span in spans_at(collector, path)}


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
        wait_until(lambda: any("is there again" in event for event in events()), "a word of it")
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
