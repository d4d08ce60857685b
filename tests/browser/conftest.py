"""A real browser, Debian's Chromium, on the dashboards of nodes that run. Skipped where there is none."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, sync_playwright

from dwcp.testing.lab import Lab, LabNode
from tests.processes import DEADLINE, clean_environment
from tests.support import random_file

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # it would look up its maker's hosts
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZE = 40_000_000
"""Bytes: with the lab's rate a transfer takes some 20 s."""


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Not for the whole session: while it is there an event loop runs in this thread, and others have tests too."""
    if CHROMIUM is None:
        pytest.skip("no chromium here; scripts/install-test-tools.sh installs it where it can")
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = launch(playwright, str(CHROMIUM))
    try:
        yield browser
    finally:
        browser.close()


def launch(playwright: Playwright, program: str) -> Browser:
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=program, args=[*FLAGS, *sandbox])


@pytest.fixture
def page(browser: Browser, expected: list[str]) -> Iterator[Page]:
    """Fails the test that made it complain: nothing may be written to the console, nor break the page's policy."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1240, "height": 900}, reduced_motion="reduce")
    try:
        yield watched_page(context, complaints)
    finally:
        context.close()
    assert [text for text in complaints if not any(part in text for part in expected)] == []


@pytest.fixture
def expected() -> list[str]:
    """Parts of what the console may say, for tests of what goes wrong."""
    return []


def watched_page(context: BrowserContext, complaints: list[str]) -> Page:
    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page = context.new_page()
    page.set_default_timeout(DEADLINE * 1000)
    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return page


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """For tests that leave both nodes as they are."""
    with watched_lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """For tests that end nodes."""
    with watched_lab(tmp_path) as made:
        yield made


@contextlib.contextmanager
def watched_lab(directory: Path, more: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Lab]:
    """Two nodes that know each other, with a path between them on which transfers can be watched. `more`: sections of
    their configuration."""
    random_file(directory / "content", SIZE)
    settings = {
        "transport": {"enable_pacing": True, "pacing_rate": "16Mbit/s", "congestion_algorithm": "cubic"},
        "circuit_breaker": {"failure_threshold": 2, "timeout": "1s", "success_threshold": 1},
        "health": {"interval": "1s"},
        **(more or {}),
    }
    with Lab.up(directory, 2, settings) as made:
        yield made


def node(lab: Lab, name: str) -> LabNode:
    return next(node for node in lab.nodes if node.name == name)


def send(lab: Lab, target: str, source: Path | None = None) -> subprocess.Popen[bytes]:
    """`dwcp send` from node1 to node2's inbox, under way."""
    command = [sys.executable, "-m", "dwcp.cli", "send", "--json", "--config", str(node(lab, "node1").config_file)]
    return subprocess.Popen(
        [*command, str(source or lab.directory / "content"), f"node2:inbox/{target}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
