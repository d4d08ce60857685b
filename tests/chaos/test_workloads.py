"""A declared workload follows its source at two sites, through the death of every node, and restores."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import run_dwcp
from tests.soak import managed as soak
from tests.soak.managed import Managed, change, picture

SEED = 20261125


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    with Managed(tmp_path / "managed", on_change=True, settle="100ms", keep="last 3", max_age="1h") as made:
        yield made


def test_a_workload_follows_its_source_through_the_death_of_each_node(managed: Managed, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    for number in range(4):
        change(managed.source, chance, number)
        if number:
            # node 1 is the source's own, which sees by itself what changed while it was dead
            managed.kill(number - 1)
        managed.until(managed.is_everywhere, f"B and C have what A has, after round {number}")
        managed.until(managed.idle, "nothing is left to do")
    shutil.rmtree(managed.source / "d0", ignore_errors=True)
    managed.until(managed.is_everywhere, "what went at A went at B and C")
    managed.until(managed.idle, "nothing is left to do")
    config = managed.lab.nodes[0].config_file
    for peer in ("node2", "node3"):
        assert 1 <= len(managed.versions(peer)) <= 3
        back = tmp_path / f"back-from-{peer}"
        done = run_dwcp("workload", "restore", "--config", config, "--from", peer, "db", back)
        assert done.returncode == 0, done.stderr
        assert picture(back) == picture(managed.source)


def test_every_version_that_is_listed_after_kills_restores(tmp_path: Path) -> None:
    """`make soak` does a hundred of these."""
    assert soak.run(tmp_path / "managed", kills=5, seed=SEED)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts an image, which needs root")
@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs mkfs.xfs (apt xfsprogs)")
def test_every_version_that_is_listed_after_power_cuts_is_what_it_was() -> None:
    """`make soak` does a hundred of these."""
    command = ["unshare", "--mount", sys.executable, "-m", "tests.soak.power", "--cuts", "8", "--seed", str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    if "unshare failed" in done.stderr or "failed to setup loop device" in done.stderr:
        pytest.skip(f"cannot mount an image here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
