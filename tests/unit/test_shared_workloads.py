"""What a node makes of a workload that is declared for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dwcp.config import Config
from dwcp.errors import RefusedError, StateError, UsageError
from dwcp.workloads.shared import SharedRecord, check, declared, recall, remember

PLACES = ["a:db/live", "b:inbox/db", "c:db/live"]


def config(name: str, **more: Any) -> Config:
    return Config.model_validate({"node": {"name": name}, "storage": {"exports": {"db": {"path": "/srv/db"}}}, **more})


def test_its_own_place_is_the_source_and_the_others_are_the_targets() -> None:
    shared = {"db": SharedRecord(PLACES, {"every": "5m", "keep": "last 3"})}
    found, problems = declared(config("a"), shared)
    assert problems == []
    made = found["db"]
    assert (made.source, made.targets, made.owners) == ("/srv/db/live", PLACES[1:], ["a", "b", "c"])
    assert (made.every, made.keep) == (300.0, "last 3")
    assert declared(config("z"), shared) == ({}, [])


def test_what_a_node_cannot_take_is_said() -> None:
    shared = {"db": SharedRecord(PLACES)}
    assert "has no export inbox" in declared(config("b"), shared)[1][0]
    own = {"db": {"source": "/x", "targets": ["b:db/x"]}}
    assert "goes before the shared one" in declared(config("a", workloads=own), shared)[1][0]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (SharedRecord(["a:db/live"]), "two places at the least"),
        (SharedRecord(["a:db/live", "a:db/other"]), "two places at one node"),
        (SharedRecord(["a:db/live", "nothing"]), "is no place"),
        (SharedRecord(PLACES, {"before": ["rm"]}), "cannot be shared"),
        (SharedRecord(PLACES, {"source": "/etc"}), "cannot be shared"),
        (SharedRecord(PLACES, {"evry": "5m"}), "evry"),
    ],
)
def test_what_no_node_could_take_is_refused(record: SharedRecord, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check("db", record)


def test_no_place_leads_out_of_an_export() -> None:
    with pytest.raises(RefusedError):
        check("db", SharedRecord(["a:db/../../etc", "b:inbox/db"]))


def test_it_is_remembered(tmp_path: Path) -> None:
    assert recall(tmp_path) == {}
    shared = {"db": SharedRecord(PLACES, {"every": "5m"})}
    remember(tmp_path, shared)
    assert recall(tmp_path) == shared
    (tmp_path / "shared-workloads").write_text("{")
    with pytest.raises(StateError, match="remove it"):
        recall(tmp_path)
