"""What prediction changes on an emulated link whose rate varies: how well the time of a transfer is known before it
begins, and how long transfers take.

    DWCP_WANLINK=PROGRAM python -m bench.forecast_link      see `emulated`; it has to follow a trace

The link follows a held-out series of the traces (mobile, strung together), brought to MEAN Mbit/s. A manager forecasts
it from what the transfers before have measured; files follow each other, and every other one begins
without streams for the forecast, so that both see the same link. What people have without a forecast is the rate of the
transfer before.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.emulated import RECEIVER, RECEIVER_HOST, SENDER, SENDER_HOST, NoLinkError, Profile, inside, link
from bench.forecast_cases import strung
from bench.peers import server
from bench.plot import Group
from bench.report import Table, publish
from dwcp.prediction.traces import Series, read
from dwcp.store.identity import load_or_create

MEAN = 40.0
"""Mbit/s of the link on average."""
SIZE = 60_000_000
"""Bytes of a file: a dozen seconds at MEAN."""
WARM_UP = 6
"""Transfers before the first that counts: a minute or two of measurements."""
TRANSFERS = int(os.environ.get("BENCH_TRANSFERS", 20))
HORIZON = "15s"
ON, OFF = "streams by forecast", "without"


@dataclass(frozen=True)
class Sent:
    """Seconds, and what was expected before it began: by the forecast (best, expected, worst), by the rate before."""

    way: str
    seconds: float
    forecast: tuple[float, float, float] | None
    by_rate_before: float | None


def main() -> int:
    where = Path(os.environ.get("DWCP_TRACES") or Path(__file__).parents[1].parent / "shared" / "traces")
    if not where.is_dir():
        print(f"skipped: no traces in {where}; name a directory of them in DWCP_TRACES")
        return 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        try:
            sent = _run(Path(directory), read(where))
        except NoLinkError as error:
            print(f"skipped: {error}")
            return 0
    _tell(sent)
    return 0


def _run(home: Path, series: list[Series]) -> list[Sent]:
    trace = home / "trace"
    trace.write_text(_trace(series))
    configs = _configure(home)
    source = home / "source"
    source.write_bytes(os.urandom(SIZE))
    sent: list[Sent] = []
    manager = [sys.executable, "-m", "dwcp.manager.daemon", "--config"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(link(Profile(MEAN, 40, 0), "cubic", trace))
        stack.enter_context(server([*manager, str(configs["b"])], RECEIVER, RECEIVER_HOST, 9000))
        stack.enter_context(server([*manager, str(configs["a"])], SENDER, SENDER_HOST, 9000))
        before: float | None = None
        for number in range(WARM_UP + TRANSFERS):
            way = (ON, OFF)[number % 2]
            forecast = _forecast(configs["a"])
            began = time.monotonic()
            uses = str(way == ON).lower()
            _dwcp(
                configs["a"],
                *("send", "--quiet", "--set", f"prediction.forecast_streams={uses}"),
                *(str(source), f"b:to/{number}"),
            )
            seconds = time.monotonic() - began
            (home / "to" / str(number)).unlink()
            if number >= WARM_UP:
                sent.append(Sent(way, seconds, forecast, before))
                print(f"{number}: {way}, {seconds:.1f} s, forecast {forecast}, by the rate before {before}", flush=True)
            before = seconds
    return sent


def _trace(series: list[Series]) -> str:
    """A line a second."""
    mobile = [entry for entry in strung([s for s in series if s.role == "test"], 3600) if "hsdpa" in entry.family]
    chosen = (mobile or strung(series, 3600))[0]
    mean = statistics.fmean(chosen.rates)
    lines = [f"{max(1.0, rate / mean * MEAN):.3f}" for rate in chosen.rates for _ in range(round(chosen.step))]
    return "\n".join(lines) + "\n"


def _configure(home: Path) -> dict[str, Path]:
    hosts = {"a": SENDER_HOST, "b": RECEIVER_HOST}
    identities = {name: load_or_create(home / name / "identity", name) for name in hosts}
    (home / "to").mkdir()
    files = {}
    for name, host in hosts.items():
        other = "b" if name == "a" else "a"
        exports = {"to": {"path": str(home / "to")}} if name == "b" else {}
        config: dict[str, Any] = {
            "node": {"name": name, "log_level": "warning"},
            "http": {"listen": "127.0.0.1:8080", "tls_listen": ""},
            "storage": {"state_dir": str(home / name), "exports": exports},
            "transport": {"listen": f"{host}:9000", "congestion_algorithm": "cubic", "enable_pacing": False},
            "compression": {"enabled": False},
            "peers": {other: {"address": f"{hosts[other]}:9000", "fingerprint": identities[other].fingerprint}},
        }
        if name == "a":
            config["prediction"] = {
                "enabled": True,
                "model_type": "auto",
                "update_interval": "5s",
                "prediction_horizon": HORIZON,
                "probe_budget": 0,
            }
        files[name] = home / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump(config))
    return files


def _dwcp(config: Path, command: str, *arguments: str) -> str:
    line = inside(SENDER, sys.executable, "-m", "dwcp.cli", command, "--config", config, *arguments)
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def _forecast(config: Path) -> tuple[float, float, float] | None:
    """Seconds for SIZE: (best, expected, worst)."""
    said = json.loads(_dwcp(config, "forecast", "--json", "b"))["forecast"]
    if said is None or said["low"] <= 0:
        return None
    best, expected, worst = (SIZE * 8 / said[name] for name in ("high", "rate", "low"))
    return best, expected, worst


def _tell(sent: list[Sent]) -> None:
    told = [entry for entry in sent if entry.forecast is not None and entry.by_rate_before is not None]
    figures: dict[str, float] = {}
    if told:
        figures["error of the forecast, median"] = statistics.median(
            abs(entry.forecast[1] / entry.seconds - 1) for entry in told if entry.forecast
        )
        figures["error by the rate before, median"] = statistics.median(
            abs(entry.by_rate_before / entry.seconds - 1) for entry in told if entry.by_rate_before
        )
        figures["within the range"] = statistics.fmean(
            entry.forecast[0] <= entry.seconds <= entry.forecast[2] for entry in told if entry.forecast
        )
    for way in (ON, OFF):
        times = [entry.seconds for entry in sent if entry.way == way]
        if times:
            figures[f"seconds {way}, median"] = statistics.median(times)
            figures[f"seconds {way}, mean"] = statistics.fmean(times)
    for name, figure in figures.items():
        print(f"{name:<36}{figure:>8.2f}")
    times = {name: figure for name, figure in figures.items() if name.startswith("seconds")}
    shares = {name: 100 * figure for name, figure in figures.items() if name not in times}
    publish(
        "forecast-link",
        f"{len(sent)} transfers over one changing link.",
        {"figures": figures, "sent": [asdict(entry) for entry in sent]},
        [
            Group("what a transfer takes", "s", max(times.values(), default=0.0), times),
            Group("the forecast of it", "%", 100.0, shares),
        ],
        [Table("Figures", ("what", ""), [(name, f"{figure:.2f}") for name, figure in figures.items()])],
    )


if __name__ == "__main__":
    sys.exit(main())
