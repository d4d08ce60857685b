"""What `dwcp bench` makes of what it measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dwcp.testing.benchmark import Measured, percentile, rows

GOOD = Measured(
    idle_latency=[0.001] * 100,
    busy_latency=[0.002] * 100,
    throughput=900e6,
    rdma=2e9,
    cpu_at_link={"receiver": 0.3},
    memory={"receiver": 2**28},
    machine_memory=2**34,
)


def met(measured: Measured) -> dict[str, bool | None]:
    return {row.name: row.met for row in rows(measured)}


def test_what_is_expected_is_met() -> None:
    assert set(met(GOOD).values()) == {True}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"idle_latency": [0.006] * 100}, "health p50, idle"),
        ({"busy_latency": [0.001] * 98 + [0.1] * 2}, "health p99, under load"),
        ({"throughput": 800e6}, "throughput, TCP"),
        ({"rdma": 1e9}, "throughput, RDMA"),
        ({"cpu_at_link": {"receiver": 0.41}}, "CPU, receiver"),
        ({"memory": {"receiver": 2**33 + 1}}, "memory, receiver"),
    ],
)
def test_what_is_not_met_says_so(change: dict[str, object], name: str) -> None:
    assert met(replace(GOOD, **change))[name] is False  # type: ignore[arg-type]


def test_what_was_not_measured_is_neither() -> None:
    row = next(row for row in rows(replace(GOOD, rdma=None)) if row.name == "throughput, RDMA")
    assert (row.met, row.value, row.note) == (None, None, "see --rdma-device")


def test_percentiles() -> None:
    values = [float(number) for number in range(1, 100)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
