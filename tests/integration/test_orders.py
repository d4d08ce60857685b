"""Transfers between two other nodes: ordered by one that may, from exports only."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwcp.config import load_config
from dwcp.errors import DwcpError, NotFoundError, RefusedError
from dwcp.testing.lab import Lab
from dwcp.transfer.client import Peer, connect
from tests.processes import run_dwcp
from tests.support import make_tree, wait_until


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """node1 orders, node2 takes orders of it and sends, node3 receives."""
    settings = {"jobs": {"backoff": "50ms", "max_backoff": "100ms", "retries": 1}}
    with Lab.up(tmp_path_factory.mktemp("lab") / "lab", 3, settings) as made:
        sender = made.nodes[1]
        config = yaml.safe_load(sender.config_file.read_text())
        config["peers"]["node1"]["may_order"] = True
        sender.config_file.write_text(yaml.safe_dump(config))
        os.kill(sender.pid, signal.SIGHUP)
        wait_until(lambda: "may_order" in (sender.directory / "manager.log").read_text(), "it is allowed")
        yield made


def ask(lab: Lab, act: Any, of: str = "node2", by: int = 0) -> Any:
    async def run() -> Any:
        async with connect(of, config=load_config([lab.nodes[by].config_file])) as peer:
            return await act(peer)

    return asyncio.run(run())


def test_two_others_exchange_a_tree(lab: Lab) -> None:
    make_tree(lab.nodes[1].inbox / "tree")
    command = ["send", "--config", lab.nodes[0].config_file, "--from", "node2", "inbox/tree", "node3:inbox/there"]
    done = run_dwcp(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["event"] == "done"
    for path in ("small", "sub/deep/large"):
        assert (lab.nodes[2].inbox / "there" / path).read_bytes() == (lab.nodes[1].inbox / "tree" / path).read_bytes()
    assert not list(lab.nodes[0].inbox.iterdir())
    again = run_dwcp(*command)
    assert "done: " in again.stdout


def test_what_fails_there_fails_here(lab: Lab) -> None:
    command = ["send", "--config", lab.nodes[0].config_file, "--from", "node2"]
    done = run_dwcp(*command, "inbox/nothing", "node3:inbox/x")
    assert (done.returncode, "cannot read" in done.stderr) == (7, True), done.stderr
    done = run_dwcp(*command, "inbox/tree", "node9:inbox/x")
    assert (done.returncode, "has no peer 'node9'" in done.stderr) == (3, True), done.stderr
    done = run_dwcp(*command, "inbox", "node3:inbox/x")
    assert (done.returncode, "named in full" in done.stderr) == (2, True), done.stderr


def test_only_who_may_can_order(lab: Lab) -> None:
    with pytest.raises(RefusedError, match="takes no orders from 'node3'"):
        ask(lab, lambda peer: peer.order("inbox/tree", "node1", "inbox/x"), by=2)
    with pytest.raises(RefusedError, match="may_order is not set"):
        ask(lab, lambda peer: peer.order("inbox/tree", "node1", "inbox/x"), of="node3")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("inbox/../../state/identity/node.key", "inbox/x"),
        ("inbox/.dwcp/versions", "inbox/x"),
        ("/etc/passwd", "inbox/x"),
        ("state/identity", "inbox/x"),
        ("inbox/tree", "inbox/../x"),
    ],
)
def test_nothing_outside_of_an_export_can_be_ordered(lab: Lab, source: str, target: str) -> None:
    with pytest.raises((RefusedError, NotFoundError)):
        ask(lab, lambda peer: peer.order(source, "node3", target))


def test_no_symlink_leads_out_of_the_export(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (lab.nodes[1].inbox / "way-out").symlink_to(tmp_path)

    async def act(peer: Peer) -> Any:
        job = await peer.order("inbox/way-out/secret", "node3", "inbox/secret")
        while not job.ended:
            await asyncio.sleep(0.02)
            job = await peer.order_status(job.id)
        return job

    job = ask(lab, act)
    assert job.state == "parked"
    assert not (lab.nodes[2].inbox / "secret").exists()


def test_a_job_is_its_orderers_alone(lab: Lab) -> None:
    make_tree(lab.nodes[1].inbox / "mine")
    job = ask(lab, lambda peer: peer.order("inbox/mine", "node3", "inbox/mine"))
    assert ask(lab, lambda peer: peer.order_status(job.id)).id == job.id
    with pytest.raises(NotFoundError, match="ordered by 'node3'"):
        ask(lab, lambda peer: peer.order_status(job.id), by=2)
    with pytest.raises(DwcpError):
        ask(lab, lambda peer: peer.order_status(99999))
