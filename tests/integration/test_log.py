"""What a node writes into its transaction log, and how `dwcp log` shows it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dwcp.store.records import KINDS, decode
from dwcp.store.txlog import TransactionLog
from dwcp.testing.lab import Lab, lab_down, lab_up
from tests.processes import Daemon, clean_environment, run_dwcp
from tests.support import Pair, random_file, wait_until

FINGERPRINT = "sha256:" + "0" * 64


def records(state_dir: Path, *options: str) -> list[dict[str, Any]]:
    done = run_dwcp("log", "--json", "--set", f"storage.state_dir={state_dir}", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def events(state_dir: Path, *options: str) -> list[tuple[str, str]]:
    return [(record["kind"], record["event"]) for record in records(state_dir, *options)]


def of(found: list[dict[str, Any]], kind: str, event: str) -> list[dict[str, Any]]:
    return [record for record in found if (record["kind"], record["event"]) == (kind, event)]


def test_a_managers_life_from_start_to_stop(tmp_path: Path) -> None:
    settings = {
        "health": {"interval": "100ms", "recovery_backoff": "20ms", "recovery_max_retries": 1},
        "circuit_breaker": {"failure_threshold": 2, "timeout": "1h", "max_timeout": "1h"},
        "peers": {"away": {"address": "127.0.0.1:1", "fingerprint": FINGERPRINT}},
    }
    daemon = Daemon(tmp_path, settings)
    state = daemon.state_dir
    files = ["--config", daemon.config_file]
    with daemon:
        wait_until(lambda: daemon.get("/circuit-breaker/state") == (200, "open"), "the breaker opens")
        daemon.ask("POST", "/circuit-breaker/reset?peer=away")
        wait_until(lambda: ("breaker", "reset") in events(state), "the reset is in the log")
        # a file is in the way of the state directory, so that its component is restarted, and called failed
        state.rename(tmp_path / "aside")
        state.write_text("in the way")
        wait_until(lambda: "state" in daemon.get("/health")[1].get("error", ""), "the node is unhealthy")
        state.unlink()
        (tmp_path / "aside").rename(state)
        wait_until(lambda: ("log", "resumed") in events(state), "the log goes on")
        assert run_dwcp("peer", "add", "other", "127.0.0.1:2", FINGERPRINT[:-1] + "1", *files).returncode == 0
        daemon.told_with("READY=1")
        assert run_dwcp("peer", "remove", "other", *files).returncode == 0
        daemon.told_with("READY=1")
        assert run_dwcp("limit", "5Mbit/s", *files).returncode == 0
        daemon.config_file.write_text("transport: {max_streams: none}\n")
        daemon.signal(signal.SIGHUP)
        daemon.told_with("READY=1")
        assert daemon.stop() == 0
    found = records(state)
    assert {record["kind"] for record in found} <= KINDS.keys()
    for record in found:
        assert record["event"] in KINDS[record["kind"]]
    (start,) = of(found, "node", "start")
    assert start["detail"]["run_before"] == "first"
    assert start["detail"]["pid"] == daemon.running.pid
    started = [record["detail"]["component"] for record in of(found, "component", "start")]
    assert {"state", "transport", "http", "peers"} <= set(started)
    assert started.index("state") < started.index("transport") < started.index("peers")
    assert [record["peer"] for record in of(found, "breaker", "open")][:1] == ["away"]
    assert of(found, "breaker", "reset")[0]["peer"] == "away"
    # while the state directory was away nobody could write what happened: that much is said
    (resumed,) = of(found, "log", "resumed")
    assert resumed["detail"]["lost"] >= 2
    assert [record["peer"] for kind in ("add", "remove") for record in of(found, "peer", kind)] == ["other", "other"]
    assert ["peers.other" in record["detail"]["applied"] for record in of(found, "config", "reload")] == [True, True]
    assert "max_streams" in of(found, "config", "refused")[0]["detail"]["problems"][0]
    assert of(found, "limit", "set")[0]["detail"] == {"rate": "5Mbit/s"}
    assert (found[-1]["kind"], found[-1]["event"]) == ("node", "stop")
    assert [record["seq"] for record in found] == list(range(1, len(found) + 1))


def test_a_component_that_fails_and_recovers(tmp_path: Path) -> None:
    health = {"interval": "100ms", "recovery_backoff": "20ms", "timeout": "500ms", "slow_retry_interval": "1s"}
    daemon = Daemon(tmp_path, {"health": health})
    with daemon:
        # the log itself stays writable: what fails is the probe beside it
        (daemon.state_dir / "health-probe").mkdir()
        wait_until(lambda: daemon.get("/health")[1]["status"] != "healthy", "the state component fails")
        wait_until(lambda: ("component", "restart") in events(daemon.state_dir), "it is restarted")
        (daemon.state_dir / "health-probe").rmdir()
        wait_until(lambda: daemon.get("/health")[1]["status"] == "healthy", "it is well again")
        assert daemon.stop() == 0
    found = [record for record in records(daemon.state_dir) if record["kind"] == "component"]
    state = [record["event"] for record in found if record["detail"]["component"] == "state"]
    assert state[0] == "start"
    assert {"health", "restart", "recovered"} <= set(state)
    unhealthy = next(record for record in found if record["event"] == "health")
    assert unhealthy["detail"]["now"] == "unhealthy"
    assert "health-probe" in unhealthy["detail"]["reason"] or "cannot be written" in unhealthy["detail"]["reason"]


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    made = lab_up(tmp_path / "lab", 2, {"transport": {"enable_pacing": False}})
    yield made
    lab_down(tmp_path / "lab")


def state_of(lab: Lab, number: int) -> Path:
    return lab.nodes[number].config_file.parent / "state"


def test_both_ends_tell_of_a_transfer(lab: Lab, tmp_path: Path) -> None:
    random_file(tmp_path / "file", 300_000)
    config = ["--config", lab.nodes[0].config_file]
    assert run_dwcp("send", "-q", *config, tmp_path / "file", "node2:inbox/x").returncode == 0
    assert run_dwcp("get", "-q", *config, "node2:inbox/x", tmp_path / "back").returncode == 0
    assert run_dwcp("get", "-q", *config, "node2:inbox/nothing", tmp_path / "no").returncode == 3
    wait_until(lambda: events(state_of(lab, 1)).count(("transfer", "end")) == 2, "the server tells of both ends")
    near = records(state_of(lab, 0), "--kind", "transfer")
    far = records(state_of(lab, 1), "--kind", "transfer")
    assert [record["event"] for record in near] == ["begin", "end"] * 3
    assert [record["event"] for record in far] == ["begin", "end"] * 2
    for mine, theirs in zip(near[:4], far, strict=True):
        assert mine["detail"]["id"] == theirs["detail"]["id"]
        assert {mine["detail"]["role"], theirs["detail"]["role"]} == {"send", "receive"}
        assert (mine["peer"], theirs["peer"]) == ("node2", "node1")
    for end in (near[1], far[1], near[3], far[3]):
        assert end["detail"]["state"] == "done"
        assert (end["detail"]["files"], end["detail"]["bytes"]) == (1, 300_000)
    assert near[5]["detail"]["state"] == "failed"
    assert "does not exist" in near[5]["detail"]["error"]
    assert [record["detail"]["by"] for record in (near[0], far[0])] == ["command", "manager"]


def test_a_killed_manager_says_at_its_next_start_what_it_lost(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    with daemon:
        daemon.process and daemon.process.kill()
        daemon.running.wait(30)
        # as its own thread writes it before the first byte
        run = records(daemon.state_dir)[-1]["run"]
        log = TransactionLog(daemon.state_dir, 2**26)
        log.run = run
        for name in ("a", "b"):
            log.append("transfer", "begin", peer="p", detail={"id": name, "role": "receive", "target": f"inbox/{name}"})
        log.append("transfer", "end", peer="p", detail={"id": "a", "state": "done"})
        # a command beside it, which may live on
        TransactionLog(daemon.state_dir, 2**26).append("transfer", "begin", detail={"id": "c", "role": "send"})
    with daemon:
        assert daemon.stop() == 0
    found = records(daemon.state_dir)
    assert [r["detail"]["run_before"] for r in of(found, "node", "start")] == ["first", "killed"]
    (lost,) = [r for r in of(found, "transfer", "end") if r["detail"]["state"] == "lost"]
    assert (lost["peer"], lost["detail"]["id"], lost["detail"]["target"]) == ("p", "b", "inbox/b")
    with daemon:
        assert daemon.stop() == 0
    found = records(daemon.state_dir)
    assert [r["detail"]["run_before"] for r in of(found, "node", "start")] == ["first", "killed", "stopped"]
    assert len([r for r in of(found, "transfer", "end") if r["detail"]["state"] == "lost"]) == 1


def test_a_transfer_in_the_library_is_told_too_and_strange_names_are_text(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    try:
        name = os.fsdecode(b"a\xff\x1b[2J")
        random_file(tmp_path / name, 1000)
        pair.send(tmp_path / name, "inbox/")
    finally:
        pair.close()
    begin, end = (r for r in records(tmp_path / "a") if r["kind"] == "transfer")
    assert begin["detail"]["target"] == end["detail"]["target"] == "inbox/a\\udcff\x1b[2J"
    shown = run_dwcp("log", "--set", f"storage.state_dir={tmp_path / 'a'}", "--kind", "transfer").stdout
    assert all(line.isprintable() for line in shown.splitlines())


# -- dwcp log ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Path:
    log = TransactionLog(tmp_path, 2**20)
    log.append("transfer", "begin", peer="b", detail={"id": "1"})
    log.append("breaker", "open", peer="c")
    log.append("transfer", "end", peer="b", detail={"id": "1"})
    return tmp_path


def test_it_is_filtered_by_kind_peer_number_and_time(state: Path) -> None:
    assert len(events(state)) == 3
    assert events(state, "--kind", "breaker") == [("breaker", "open")]
    assert len(events(state, "--kind", "breaker", "--kind", "transfer")) == 3
    assert events(state, "--peer", "b") == [("transfer", "begin"), ("transfer", "end")]
    assert events(state, "-n", "1") == [("transfer", "end")]
    assert len(events(state, "--since", "1h")) == 3
    assert events(state, "--since", "2100-01-01") == []
    second = records(state)[1]["time"]
    assert len(events(state, "--since", second)) == 2
    for wrong in (("--since", "yesterday"), ("--kind", "weather"), ("-n", "-1")):
        done = run_dwcp("log", "--set", f"storage.state_dir={state}", *wrong)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_damage_is_told_and_the_rest_is_shown(state: Path) -> None:
    (path,) = (state / "logs").glob("*.log")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"open", b"shut") + lines[2] + b"half of o")
    done = run_dwcp("log", "--set", f"storage.state_dir={state}")
    assert done.returncode == 0
    assert [line.split()[2:4] for line in done.stdout.splitlines()] == [["transfer", "begin"], ["transfer", "end"]]
    first, second = done.stderr.splitlines()
    assert f"{path}: at byte {len(lines[0])}: the checksum does not match" in first
    assert "9 bytes of a record that was not finished" in second


def test_it_follows_until_it_is_interrupted(state: Path) -> None:
    command = [sys.executable, "-m", "dwcp.cli", "log", "-f", "-n", "1", "--json"]
    follower = subprocess.Popen(
        [*command, "--set", f"storage.state_dir={state}"], stdout=subprocess.PIPE, env=clean_environment(), text=True
    )
    assert follower.stdout is not None
    try:
        assert json.loads(follower.stdout.readline())["event"] == "end"
        TransactionLog(state, 2**20).append("limit", "set", detail={"rate": "off"})
        assert json.loads(follower.stdout.readline())["detail"] == {"rate": "off"}
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
    finally:
        follower.kill()
        follower.stdout.close()
        follower.wait()


def test_a_copy_that_cannot_be_written_can_be_read(state: Path) -> None:
    (state / "logs" / "lock").unlink()
    (state / "logs").chmod(0o500)
    try:
        assert len(events(state)) == 3
    finally:
        (state / "logs").chmod(0o700)


def test_the_page_shows_a_record_and_has_every_kind_and_event() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "state.md").read_text()
    line = page.partition("```text\n")[2].partition("\n```")[0]
    assert decode(line.encode()).kind == "transfer"
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page.partition("| kind | events |")[2], re.MULTILINE))
    assert rows.keys() == KINDS.keys()
    for kind, events in KINDS.items():
        for event in events:
            assert f"`{event}`" in rows[kind], (kind, event)
