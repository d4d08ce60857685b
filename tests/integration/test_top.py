"""`dwcp top`: the live view and its keys, by Textual's pilot, on managers that run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Sparkline, Static

from dwcp.cli.manager_http import ManagerHttp
from dwcp.cli.top_app import Told, TopApp
from dwcp.testing.lab import Lab, start_node
from tests.processes import DEADLINE, clean_environment, run_dwcp
from tests.support import random_file


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    random_file(directory / "content", 20_000_000)
    settings = {
        "transport": {"enable_pacing": True, "pacing_rate": "16Mbit/s"},
        "circuit_breaker": {"failure_threshold": 2, "timeout": "10m"},
        "jobs": {"retries": 0},
        "health": {"interval": "1s"},
    }
    with Lab.up(directory, 2, settings) as made:
        yield made


def address(lab: Lab, name: str) -> str:
    return next(node for node in lab.nodes if node.name == name).http_url.removeprefix("http://")


def watch(lab: Lab, name: str, story: Callable[[App[None], Pilot[None]], object]) -> None:
    """Runs the screen on a node, and `story` (a coroutine function) beside it."""

    async def run() -> None:
        app = TopApp(ManagerHttp(address(lab, name)))
        async with app.run_test(size=(140, 40)) as pilot:
            await story(app, pilot)  # type: ignore[misc]

    asyncio.run(run())


async def until(pilot: Pilot[None], condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        await pilot.pause(0.02)


def overall(app: App[None]) -> str:
    return str(app.query_one("#overall", Static).render())


def cells(app: App[None], table: str) -> list[list[str]]:
    found = app.query_one(f"#{table}-table", DataTable)
    return [[str(cell) for cell in found.get_row(key)] for key in found.rows]


def test_it_shows_what_the_node_is_and_does(lab: Lab) -> None:
    async def story(app: App[None], pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "healthy" in overall(app), "the node is there")
        assert "node2" in overall(app)
        assert "limit 16.0 Mbit/s" in overall(app)
        assert {row[0] for row in cells(app, "components")} >= {"transport", "http", "state"}
        await until(pilot, lambda: cells(app, "peers")[0][:2] == ["node1", "closed"], "its peer")
        await pilot.press("6")
        log = app.query_one(RichLog)
        await until(pilot, lambda: any("component start" in strip.text for strip in log.lines), "its log")
        assert log.has_focus

    watch(lab, "node2", story)


def test_a_transfer_is_shown_and_cancelled(lab: Lab) -> None:
    command = [sys.executable, "-m", "dwcp.cli", "send", "--config", str(lab.nodes[0].config_file)]
    process = subprocess.Popen(
        [*command, str(lab.directory / "content"), "node2:inbox/x"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )

    async def story(app: App[None], pilot: Pilot[None]) -> None:
        def state() -> str:
            return next((row[0] for row in cells(app, "transfers")), "")

        await until(pilot, lambda: state() == "running", "it is under way")
        row = cells(app, "transfers")[0]
        assert row[-2:] == ["← node1", "inbox/x"]
        await pilot.press("p")
        await until(pilot, lambda: state() == "paused", "it is paused")
        await pilot.press("p")
        await until(pilot, lambda: state() == "running", "it goes on")
        await pilot.press("c")
        await pilot.press("n")
        await until(pilot, lambda: len(app.screen_stack) == 1, "the question is gone")
        assert process.poll() is None
        await pilot.press("c")
        await pilot.press("y")
        await until(pilot, lambda: state() == "cancelled", "it is cancelled")
        await pilot.press("c")
        assert len(app.screen_stack) == 1

    try:
        watch(lab, "node2", story)
        assert process.wait(DEADLINE) == 130
    finally:
        process.kill()
        process.wait()


def test_workloads_and_jobs_are_shown_and_steered(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "file").write_text("content")

    def dwcp(*arguments: str | Path) -> None:
        done = run_dwcp("workload", *arguments, "--config", lab.nodes[0].config_file)
        assert done.returncode == 0, done.stderr

    dwcp("add", "db", tmp_path / "db", "node2:inbox/db", "--every=1h", "--max-age=2h", "--keep=last 3")
    dwcp("add", "lost", tmp_path / "db", "node2:nowhere/db")

    async def story(app: App[None], pilot: Pilot[None]) -> None:
        def row(table: str, name: str) -> list[str]:
            return next((row for row in cells(app, table) if name in row), [""] * 8)

        await until(pilot, lambda: row("workloads", "db")[1] == "fresh", "it has been sent")
        assert row("workloads", "db")[6] == "node2:inbox/db"
        await pilot.press("2")
        await pilot.press("p")
        await until(pilot, lambda: row("workloads", "db")[1] == "paused", "it is paused")
        await pilot.press("p")
        await until(pilot, lambda: row("workloads", "db")[1] == "fresh", "it goes on")
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, Told), "its versions")
        told = str(app.screen.query_one(Static).render())
        assert f"dwcp workload restore db DST --version {row('workloads', 'db')[4]} --from node2" in told
        await pilot.press("escape", "down")
        await pilot.press("r")
        await until(pilot, lambda: row("jobs", "lost")[1] == "parked", "its job is parked")
        await pilot.press("3")
        before = row("jobs", "lost")[0]
        await pilot.press("r")
        await until(pilot, lambda: f"Job {before} goes" in notes(app), "it is tried again")
        await until(pilot, lambda: row("jobs", "lost")[1] == "parked", "in vain")
        await pilot.press("c", "y")
        await until(pilot, lambda: not cells(app, "jobs"), "it is cancelled")
        await pilot.press("c")
        assert len(app.screen_stack) == 1
        assert "Choose a transfer that is running, or a job." in notes(app)

    try:
        watch(lab, "node1", story)
    finally:
        dwcp("rm", "db")
        dwcp("rm", "lost")


def notes(app: App[None]) -> str:
    return " ".join(note.message for note in app._notifications)


def test_the_sending_limit_is_set(lab: Lab) -> None:
    async def story(app: App[None], pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "limit 16.0 Mbit/s" in overall(app), "the limit as configured")
        for typed, shown in (("8Mbit/s", "limit 8.0 Mbit/s (set by hand)"), ("auto", "limit 16.0 Mbit/s")):
            await pilot.press("l", *typed, "enter")
            await until(pilot, lambda shown=shown: overall(app).endswith(shown), shown)  # type: ignore[misc]
        await pilot.press("l")
        # what comes meanwhile is shown below the question
        sparkline = app.screen_stack[0].query_one(Sparkline)
        before = sparkline.data
        await until(pilot, lambda: sparkline.data is not before, "a sample")
        await pilot.press("f", "a", "s", "t", "enter")
        await until(pilot, lambda: "'fast' is no rate" in notes(app), "why not")

    watch(lab, "node1", story)


def test_a_breaker_is_closed_by_hand_and_a_manager_that_comes_back_is_found(lab: Lab) -> None:
    async def story(app: App[None], pilot: Pilot[None]) -> None:
        await until(pilot, lambda: bool(cells(app, "peers")), "its peer")
        os.kill(next(node.pid for node in lab.nodes if node.name == "node1"), signal.SIGTERM)
        await until(pilot, lambda: cells(app, "peers")[0][1] == "open", "the breaker is open")
        assert "degraded" in overall(app)
        lab.nodes[:] = start_node(lab, "node1").nodes
        await pilot.press("4", "r")
        await until(pilot, lambda: cells(app, "peers")[0][1] == "closed", "it is closed")
        os.kill(next(node.pid for node in lab.nodes if node.name == "node2"), signal.SIGKILL)
        await until(pilot, lambda: "not connected" in overall(app), "it is gone")
        lab.nodes[:] = start_node(lab, "node2").nodes
        await until(pilot, lambda: "not connected" not in overall(app), "it is back")

    watch(lab, "node2", story)


def test_without_the_extra_it_says_what_to_install(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "textual.py").write_text("raise ModuleNotFoundError(\"No module named 'textual'\", name='textual')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run_dwcp("top", "--config", lab.nodes[0].config_file, env=clean_environment(PYTHONPATH=path))
    assert done.returncode == 2
    assert "pip install 'dwcp[tui]'" in done.stderr


def test_without_a_manager_it_says_so(tmp_path: Path) -> None:
    done = run_dwcp("top", "--set", f"storage.state_dir={tmp_path}")
    assert done.returncode == 3
    assert "no manager runs" in done.stderr
