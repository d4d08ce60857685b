"""What `consensus` may be, and what `--validate` says of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dwcp.config import Config
from dwcp.config.show import summary
from dwcp.ownership.timing import Election
from dwcp.workloads.owners import StaticOwners

ENDPOINTS = ["https://etcd1:2379", "https://etcd2:2379", "https://etcd3:2379"]


def config(**consensus: Any) -> Config:
    return Config.model_validate({"consensus": {"enabled": True, "endpoints": ENDPOINTS, **consensus}})


def test_the_runbooks_timing_is_raised_to_what_etcd_accepts_and_said() -> None:
    lines = "\n".join(summary(config(election_timeout="150ms", heartbeat_interval="50ms")))
    assert "an election is reckoned with 250ms, raised from 150ms and heartbeats of 50ms" in lines
    assert "of 3 voters (quorum: 2)" in lines
    assert "raised" not in "\n".join(summary(config(election_timeout="1s", heartbeat_interval="100ms")))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"endpoints": []}, "consensus needs endpoints"),
        ({"endpoints": ["http://etcd1:2379"]}, "is not encrypted"),
        ({"endpoints": ["http://127.0.0.1:99999"]}, "ports go up to 65535"),
        ({"endpoints": ["http://[::1]:2379", "http://[::1]:2379"]}, "named twice"),
        ({"cert_file": "/a"}, "belong together"),
        ({"user": "dwcp"}, "belong together"),
        ({"lease": "2s", "heartbeat_interval": "1s"}, "shorter than two elections"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        config(**wrong)


def test_the_timing_follows_round_trips_where_they_change_much() -> None:
    fixed, adaptive = Election(0.25, adaptive=False), Election(0.25, adaptive=True)
    assert not fixed.measured(1.0)
    assert not adaptive.measured(0.03), "0.3 s is near enough"
    assert adaptive.measured(0.1)
    assert adaptive.seconds == pytest.approx(1.0)
    assert not adaptive.measured(0.08)
    assert adaptive.measured(0.001)
    assert adaptive.seconds == pytest.approx(0.25), "never below what is configured"


def test_without_consensus_the_first_owner_runs_it() -> None:
    declared = {"source": "/srv/db", "targets": ["b:inbox/db"]}
    workloads = {"shared": {**declared, "owners": ["a", "b"]}, "own": declared}
    for name, shared in (("a", True), ("b", False)):
        found = Config.model_validate({"node": {"name": name}, "workloads": workloads})
        owners = StaticOwners(lambda found=found: found)
        assert owners.may_run("shared") is shared
        assert owners.may_run("own")
        assert owners.owner("shared") == "a"
        assert owners.grant("shared") is None
