"""Links that are measured and forecast by managers that run, and what transfers and people make of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dwcp.forecast.forecaster import Forecast
from dwcp.store.links import LinkStore, Sample
from dwcp.store.path_memory import PathMemory
from dwcp.testing.lab import Lab, LabNode
from dwcp.transfer.burst import LEAST, burst, judge
from dwcp.transfer.foresight import Foresight
from dwcp.transfer.node import Node
from tests.integration.test_http import ask
from tests.processes import run_dwcp, run_manager
from tests.support import Pair, random_file, wait_until

SETTINGS = {
    "prediction": {
        "enabled": True,
        "model_type": "ewma",
        "prediction_horizon": "2s",
        "update_interval": "1s",
        "history_window": "1m",
    },
    "health": {"interval": "200ms"},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab.up(tmp_path_factory.mktemp("lab"), 2, SETTINGS) as made:
        yield made


def get(node: LabNode, path: str) -> Any:
    return ask(node.http_url.removeprefix("http://"), "GET", path).json


def _forecast_of(node: LabNode, peer: str) -> Any:
    return get(node, f"/forecasts/{peer}")["forecast"]


def test_an_idle_link_is_probed_and_forecast(lab: Lab) -> None:
    sender, receiver = lab.nodes
    wait_until(lambda: _forecast_of(sender, receiver.name) is not None, "a forecast from a probe")
    answer = get(sender, f"/forecasts/{receiver.name}")
    said, samples = answer["forecast"], answer["samples"]
    assert 0 < said["low"] <= said["rate"] <= said["high"]
    assert (said["horizon"], said["confidence"]) == (2.0, 0.95)
    assert samples[0]["source"] == "probe"
    assert samples[0]["rate"] > 1e6
    assert any("only 1 measurements" in doubt for doubt in said["doubts"])
    assert get(sender, "/forecasts").keys() == {receiver.name}
    assert get(sender, "/health")["components"]["prediction"] == "healthy"


def test_who_is_no_peer_has_no_forecast(lab: Lab) -> None:
    answer = ask(lab.nodes[0].http_url.removeprefix("http://"), "GET", "/forecasts/nobody")
    assert answer.status == 404


def test_metrics_have_forecast_interval_error_and_coverage(lab: Lab) -> None:
    sender, receiver = lab.nodes
    address = sender.http_url.removeprefix("http://")
    store = LinkStore(Path(sender.directory) / "state")

    def outcomes() -> float:
        found = text_string_to_metric_families(ask(address, "GET", "/metrics").body.decode())
        values = {
            (s.name, *sorted(s.labels.values())): s.value
            for f in found
            for s in f.samples
            if s.name.startswith("dwcp_prediction")
        }
        for bound in ("low", "median", "high"):
            assert ("dwcp_prediction_rate_bits_per_second", *sorted((receiver.name, bound))) in values
        assert ("dwcp_prediction_error_bits_per_second", "forecast", receiver.name) in values
        return sum(value for name, value in values.items() if name[0] == "dwcp_prediction_outcomes_total")

    wait_until(lambda: _forecast_of(sender, receiver.name) is not None, "a forecast")

    def measured_and_judged() -> bool:
        store.add(receiver.name, Sample(_now(), 1.0, 5e7, False, "transfer"))
        return outcomes() > 0

    wait_until(measured_and_judged, "an outcome")


def _now() -> float:
    import time

    return time.time()


def test_a_transfer_measures_the_link_and_tells_its_time_as_a_range(lab: Lab, tmp_path: Path) -> None:
    sender, receiver = lab.nodes
    random_file(tmp_path / "content", 40_000_000)
    wait_until(lambda: _forecast_of(sender, receiver.name) is not None, "a forecast")
    slow = ("--set", "transport.enable_pacing=true", "--set", "transport.pacing_rate=40Mbit/s")
    done = run_dwcp(
        "send", "--json", "--config", sender.config_file, *slow, tmp_path / "content", f"{receiver.name}:inbox/content"
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    ranges = [event["eta_range_seconds"] for event in events if event["event"] == "progress"]
    assert any(found is not None and 0 <= found[0] <= found[1] for found in ranges)
    samples = get(sender, f"/forecasts/{receiver.name}")["samples"]
    measured = [entry for entry in samples if entry["source"] == "transfer" and entry["round_trip"] is not None]
    # it was our own pacing that limited, which says nothing of the link
    assert measured
    assert all(entry["limited"] for entry in measured)
    assert all(0 < entry["rate"] < 60e6 for entry in measured)


def test_dwcp_forecast_draws_and_tells(lab: Lab, tmp_path: Path) -> None:
    sender, receiver = lab.nodes
    wait_until(lambda: _forecast_of(sender, receiver.name) is not None, "a forecast")
    shown = run_dwcp("forecast", "--config", sender.config_file, receiver.name)
    assert shown.returncode == 0, shown.stderr
    assert "░" in shown.stdout
    assert f"{receiver.name}, next 2s:" in shown.stdout
    assert "with 95% between" in shown.stdout
    whole = run_dwcp("forecast", "--json", "--config", sender.config_file, receiver.name)
    assert json.loads(whole.stdout)["forecast"]["model"] == "ewma"
    unknown = run_dwcp("forecast", "--config", sender.config_file, "nobody")
    assert unknown.returncode == 3
    off = run_dwcp("forecast", "--config", sender.config_file, "--set", "prediction.enabled=false", receiver.name)
    assert off.returncode == 2
    assert "prediction.enabled: true" in off.stderr


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed (extra plot)")
def test_dwcp_forecast_makes_pictures(lab: Lab, tmp_path: Path) -> None:
    sender, receiver = lab.nodes
    svg, png = tmp_path / "link.svg", tmp_path / "link.png"
    done = run_dwcp("forecast", "--config", sender.config_file, "--svg", svg, "--png", png, receiver.name)
    assert done.returncode == 0, done.stderr
    assert svg.read_text().count("<svg") == 1
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_model_that_cannot_be_had_is_told_before_anything_runs(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"none")
    settings = ("--set", "prediction.model_type=lstm", "--set", f"prediction.weights={tmp_path / 'weights'}")
    state = ("--set", f"storage.state_dir={tmp_path / 'state'}", "--set", "transport.listen=127.0.0.1:0")
    http = ("--set", "http.listen=127.0.0.1:0", "--set", "http.tls_listen=127.0.0.1:0")
    done = run_manager("--config", lab.nodes[0].config_file, *settings, *state, *http)
    assert done.returncode == 7
    assert "prediction" in done.stderr
    assert "weights" in done.stderr or "onnxruntime" in done.stderr


# -- bursts ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.server.stop(1.0)


def test_a_burst_sends_what_it_may_and_no_more(pair: Pair) -> None:
    node = Node(pair.config, pair.identities["a"])
    before = pair.server.counters().bytes_received
    found = burst(node, "b", 2_000_000)
    assert found.size <= 2_100_000
    assert 0 < found.round_trip < 5
    assert found.rate > 1e6
    wait_until(lambda: pair.server.counters().bytes_received - before >= found.size, "counted at the peer")
    assert pair.server.counters().bytes_received - before < found.size * 1.1 + 20_000


def test_a_burst_is_no_transfer(pair: Pair) -> None:
    burst(Node(pair.config, pair.identities["a"]), "b", 64 * 1024)
    assert not pair.board.live()
    assert not pair.board.recent()


def test_bursts_are_judged_by_how_their_quarters_compare() -> None:
    steady = [0.1 * (index + 1) for index in range(2 * LEAST)]
    rate, growing = judge(steady, 1000)
    assert (rate, growing) == (pytest.approx(80_000.0), False)
    opening = [1.0, 2.0, 2.9, 3.7, 4.4, 5.0, 5.5, 5.9, 6.2, 6.4, 6.5, 6.57, 6.62, 6.66, 6.69, 6.71]
    assert judge(opening, 1000)[1]
    # all at once: it was the machine that was measured
    assert judge([0.5] * LEAST, 1000)[1]


# -- what a transfer makes of it ---------------------------------------------------------------------------------------


def _foreseen(pair: Pair, **keys: bool) -> Foresight:
    prediction = pair.config.prediction.model_copy(update={"enabled": True, "forecast_streams": True, **keys})
    config = pair.config.model_copy(update={"prediction": prediction})
    store = LinkStore(Path(config.storage.state_dir))
    store.foresee("b", Forecast(_now(), 300.0, 3e7, 2e7, 5e7, 0.95, "ewma", 40))
    store.close()
    return Foresight(config, "b")


def test_streams_are_as_many_as_the_forecast_asks_for(pair: Pair) -> None:
    known = PathMemory(10, 2e7, "cubic")
    assert _foreseen(pair).adapt(known) == PathMemory(15, 3e7, "cubic")
    assert _foreseen(pair).adapt(PathMemory(10, 1e6, "cubic")).streams == 20
    assert _foreseen(pair, forecast_streams=False).adapt(known) == known


def test_each_use_can_be_switched_off(pair: Pair) -> None:
    rates = _foreseen(pair).rates()
    assert rates is not None
    assert (rates.low, rates.rate, rates.high) == (2e7, 3e7, 5e7)
    assert _foreseen(pair, forecast_eta=False).rates() is None
    assert Foresight(pair.config, "b").rates() is None


def test_threads_may_ask_while_it_is_closed(pair: Pair) -> None:
    foresight = _foreseen(pair)
    threads = [threading.Thread(target=foresight.rates) for _ in range(8)]
    for thread in threads:
        thread.start()
    foresight.close()
    for thread in threads:
        thread.join()
    foresight.close()
