"""The dashboard as a person sees it: live nodes, a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect

from dwcp.testing.lab import Lab, start_node
from tests.browser import crowd
from tests.browser.conftest import CHROMIUM, launch, node, send, watched_lab, watched_page
from tests.processes import DEADLINE, OWN_NETWORK, Daemon, clean_environment, free_ports, no_own_network, run_dwcp
from tests.support import make_tree

SCREENSHOTS = Path(__file__).parent.parent.parent / "build" / "screenshots"
"""Kept for who looks at a run."""
LONG = DEADLINE * 1000
AWAY = "net::ERR_"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
"""Options of a browser's context."""

expect.set_options(timeout=LONG)


def opened(page: Page, url: str) -> Page:
    page.goto(url)
    expect(page.locator("#connection")).to_have_text("live")
    return page


# -- each view ---------------------------------------------------------------------------------------------------------


def test_the_node_at_a_glance(page: Page, lab: Lab) -> None:
    opened(page, node(lab, "node2").http_url)
    expect(page.locator("#overall")).to_have_text("All is well")
    expect(page).to_have_title("node2: all is well")
    expect(page.locator("#icon")).to_have_attribute("href", "/dashboard/healthy.svg")
    expect(page.locator("#facts")).to_contain_text(re.compile(r"(\d+) of \1"))
    expect(page.locator("[data-component=transport] .badge")).to_have_text("healthy")
    expect(page.locator("[data-peer=node1] .badge")).to_have_text("breaker closed")
    expect(page.locator("[data-peer=node1] .round-trip")).to_have_text(re.compile(r"\d ms$"))
    expect(page.locator("#events-list")).to_contain_text("transport has started")
    page.locator("[data-component=transport] summary").click()
    expect(page.locator("[data-component=transport] .history")).to_contain_text("transport has started")
    expect(page.locator("#chart canvas")).to_be_visible()


def test_nothing_is_fetched_from_elsewhere(page: Page, lab: Lab) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    url = node(lab, "node2").http_url
    opened(page, url)
    assert asked
    assert [address for address in asked if not address.startswith(url)] == []


def test_the_configuration_in_force(page: Page, lab: Lab) -> None:
    opened(page, node(lab, "node2").http_url)
    page.get_by_role("button", name="Show the configuration").click()
    page.locator("#configuration-transport summary").click()
    row = page.locator("#configuration-transport .settings div").filter(has_text="pacing_rate")
    expect(row.locator("dd")).to_have_text("16000000")


def test_events_by_kind(page: Page, lab: Lab) -> None:
    opened(page, node(lab, "node2").http_url)
    page.locator("#events-kind").select_option(label="the node")
    expect(page.locator("#events-list")).to_contain_text("the node starts")
    expect(page.locator("#events-list")).not_to_contain_text("transport has started")


# -- what happens before the eye ---------------------------------------------------------------------------------------


def test_a_transfer_goes_on_and_is_cancelled(page: Page, lab: Lab) -> None:
    opened(page, node(lab, "node2").http_url)
    process = send(lab, "cancelled")
    row = page.locator(".transfer").filter(has_text="inbox/cancelled").first
    expect(row.locator(".badge")).to_have_text("running")
    expect(page).to_have_title("node2: 1 transfer")
    expect(row.locator("progress")).to_have_attribute("value", re.compile(r"^0\.\d*[1-9]"))
    # 16 Mbit/s, and some for what is on the wire before pacing begins
    expect(row.locator(".numbers")).to_have_text(re.compile(r"\s[1-5]?\d\.\d\sMbit/s.*[1-9]\d*\ss\sto\sgo"))
    row.get_by_role("button", name="Pause").click()
    expect(row.locator(".badge")).to_have_text("paused")
    expect(row.locator(".numbers")).not_to_contain_text("to go")
    row.get_by_role("button", name="Resume").click()
    expect(row.locator(".badge")).to_have_text("running")
    row.get_by_role("button", name="Cancel inbox").click()
    page.get_by_role("button", name="Let it run").click()
    expect(row.locator(".badge")).to_have_text("running")
    row.get_by_role("button", name="Cancel inbox").click()
    page.get_by_role("button", name="Cancel the transfer").click()
    expect(row.locator(".badge")).to_have_text("cancelled")
    expect(page.locator("#events-list")).to_contain_text("inbox/cancelled from node1 has been cancelled")
    assert process.wait(DEADLINE) == 130
    page.locator("#transfers-state").select_option("running")
    expect(row).to_have_count(0)


def test_the_sending_limit_is_set_and_taken_away(page: Page, lab: Lab, expected: list[str]) -> None:
    # the browser itself writes what the node answers to a rate that is none
    expected.append("status of 400")
    opened(page, node(lab, "node1").http_url)
    limit = page.locator("#limit")
    expect(limit).to_have_text("At most 16.0 Mbit/s (as configured)")
    limit.click()
    page.locator("#limit-rate").fill("fast")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("#limit-problem")).to_contain_text("'fast' is no rate")
    page.locator("#limit-rate").fill("8Mbit/s")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(limit).to_have_text("At most 8.0 Mbit/s (set by hand)")
    limit.click()
    page.get_by_label("as configured").check()
    page.get_by_role("button", name="Set", exact=True).click()
    expect(limit).to_have_text("At most 16.0 Mbit/s (as configured)")


def test_a_breaker_trips_and_recovers(own_lab: Lab, page: Page) -> None:
    opened(page, node(own_lab, "node2").http_url)
    badge = page.locator("[data-peer=node1] .badge")
    expect(badge).to_have_text("breaker closed")
    os.kill(node(own_lab, "node1").pid, signal.SIGTERM)
    expect(badge).to_have_text("breaker open")
    expect(page.locator("[data-peer=node1] .error")).to_contain_text("in a row")
    expect(page.locator("#overall")).to_have_text("Degraded")
    expect(page).to_have_title("node2: degraded")
    expect(page.locator("#icon")).to_have_attribute("href", "/dashboard/degraded.svg")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "breaker-open.png")
    own_lab.nodes[:] = start_node(own_lab, "node1").nodes
    expect(badge).to_have_text("breaker closed")
    expect(page.locator("#overall")).to_have_text("All is well")
    expect(page.locator("[data-peer=node1] details")).to_contain_text("breaker of node1 is open")


def test_a_page_comes_back_after_its_manager_was_killed(own_lab: Lab, page: Page, expected: list[str]) -> None:
    expected.append(AWAY)
    opened(page, node(own_lab, "node2").http_url)
    os.kill(node(own_lab, "node2").pid, signal.SIGKILL)
    expect(page.locator("#lost")).to_contain_text("Not connected since")
    expect(page).to_have_title("node2: not connected")
    expect(page.locator("#icon")).to_have_attribute("href", "/dashboard/away.svg")
    own_lab.nodes[:] = start_node(own_lab, "node2").nodes
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#lost")).to_be_hidden()
    expect(page.locator("#events-list")).to_contain_text("the run before was killed")
    expect(page.locator("#overall")).to_have_text("All is well")


# -- what a node has, or has not ---------------------------------------------------------------------------------------


@pytest.fixture
def forecasting_lab(tmp_path: Path) -> Iterator[Lab]:
    prediction = {"enabled": True, "model_type": "ewma", "prediction_horizon": "2s", "update_interval": "1s"}
    breaker = {"failure_threshold": 2, "timeout": "1h"}
    more = {"prediction": prediction, "jobs": {"retries": 0}, "circuit_breaker": breaker}
    with watched_lab(tmp_path, more) as made:
        yield made


def command(lab: Lab, group: str, action: str, *arguments: str | Path) -> None:
    done = run_dwcp(group, action, "--config", node(lab, "node1").config_file, *arguments)
    assert done.returncode == 0, done.stderr


def test_workloads_jobs_and_forecasts_are_shown_where_there_are_any(
    forecasting_lab: Lab, browser: Browser, page: Page
) -> None:
    lab = forecasting_lab
    make_tree(lab.directory / "db")
    opened(page, node(lab, "node1").http_url)
    sections = [page.locator(part) for part in ("#workloads", "#workloads-link", "#jobs")]
    for section in sections:
        expect(section).to_be_hidden()
    expect(page.locator("[data-peer=node2] .foreseen")).to_contain_text(
        re.compile(r"with\s95\s%\sbetween \d.*\sand \d")
    )

    times = ("--every=1h", "--max-age=2h", "--keep=last 3")
    command(lab, "workload", "add", "db", lab.directory / "db", "node2:inbox/db", *times)
    db = page.locator("[data-workload=db]")
    expect(db.locator(".targets .badge")).to_have_text("fresh")
    expect(db.locator(".targets")).to_contain_text(re.compile(r"s\sold,\sat\smost\s2\sh.*version\s\d"))
    expect(db.locator(".numbers")).to_contain_text(re.compile(r"^every\s1\sh .*last\srun.*next\srun.*keeps\slast\s3$"))
    db.get_by_role("button", name="Pause").click()
    expect(db.locator("> .workload-head .badge")).to_have_text("paused")
    expect(db.locator(".numbers")).not_to_contain_text("next")
    db.get_by_role("button", name="Resume").click()
    expect(db.locator(".numbers")).to_contain_text("next")

    db.get_by_role("button", name="Versions of db at node2:inbox/db").click()
    version = page.locator("#versions-list li")
    expect(version.locator("code")).to_have_text(
        re.compile(r"^dwcp workload restore db DST --version \S+ --from node2$")
    )
    expect(version).to_contain_text("files")
    look(page, "versions")
    version.get_by_role("button").click()
    expect(page.locator("#versions-status")).to_contain_text("The command is")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#versions-dialog")).to_be_hidden()

    command(lab, "workload", "add", "lost", lab.directory / "db", "node2:nowhere/db")
    lost = page.locator("[data-workload=lost]")
    expect(lost.locator(".numbers")).to_contain_text("never")
    lost.get_by_role("button", name="Run lost now").click()
    parked = page.locator(".job").filter(has_text="lost")
    expect(parked.locator(".badge")).to_have_text("parked")
    expect(parked.locator(".error")).to_contain_text("nowhere")
    parked.get_by_role("button", name="Retry").click()
    expect(page.locator("#toasts")).to_contain_text("goes as soon as there is room")
    expect(parked.locator(".badge")).to_have_text("parked")

    slow = ("--max-age=1s", "--bandwidth=25%")
    command(lab, "workload", "add", "image", lab.directory / "content", "node2:inbox/image", *slow)
    image = page.locator("[data-workload=image]")
    expect(image.locator(".targets .badge")).to_have_text("stale")
    expect(page.locator("#overall")).to_have_text("Needs a look")
    expect(page.locator("#overall-reason")).to_have_text("1 workload stale, 1 job parked.")
    expect(page).to_have_title("node1: needs a look")
    image.get_by_role("button", name="Run image now").click()
    expect(page.locator("#jobs-count")).to_have_text("1 running, 1 parked")
    expect(image.get_by_role("button", name="Pause")).to_be_hidden()
    complaints: list[str] = []
    for name, options in LOOKS.items():
        context = browser.new_context(reduced_motion="reduce", **options)
        look(opened(watched_page(context, complaints), node(lab, "node1").http_url), f"workloads-{name}")
        context.close()
    assert complaints == []

    for name in ("db", "lost", "image"):
        command(lab, "workload", "rm", name)
    page.locator(".job[data-state=running]").get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    for section in sections:
        expect(section).to_be_hidden()

    os.kill(node(lab, "node2").pid, signal.SIGKILL)
    expect(page.locator("[data-peer=node2] .badge")).to_have_text("breaker open")
    command(lab, "jobs", "add", lab.directory / "db", "node2:inbox/db")
    expect(page.locator(".job .numbers")).to_contain_text(re.compile(r"waits\sfor\snode2"))
    expect(page.locator("#workloads")).to_be_hidden()


# -- for everybody -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOKS)
def test_axe_finds_nothing_and_nothing_sticks_out(browser: Browser, lab: Lab, name: str) -> None:
    complaints: list[str] = []
    context: BrowserContext = browser.new_context(reduced_motion="reduce", **LOOKS[name])
    process = send(lab, f"looked-at-{name}")
    try:
        page = opened(watched_page(context, complaints), node(lab, "node2").http_url)
        row = page.locator(".transfer").filter(has_text=f"looked-at-{name}")
        expect(row.locator("progress")).to_have_attribute("value", re.compile(r"^0\.\d*[1-9]"))
        page.get_by_role("button", name="Show the configuration").click()
        page.locator("#configuration-transport summary").click()
        page.locator("[data-component=transport] summary").click()
        look(page, name)
        page.locator("#limit").click()
        assert violations(page) == []
        page.keyboard.press("Escape")
        row.get_by_role("button", name="Cancel").click()
        assert violations(page) == []
        page.get_by_role("button", name="Cancel the transfer").click()
        assert process.wait(DEADLINE) == 130
    finally:
        process.kill()
        process.wait()
        context.close()
    assert complaints == []


def look(page: Page, name: str) -> None:
    """Keeps a picture, and fails on what axe finds or what sticks out."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def violations(page: Page) -> list[str]:
    found = Axe().run(page)
    return [
        f"{rule['id']}: {target['html']}: {target['failureSummary']}"
        for rule in found.response["violations"]
        for target in rule["nodes"]
    ]


def test_with_the_keyboard(page: Page, lab: Lab) -> None:
    opened(page, node(lab, "node2").http_url)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.locator("#theme").focus()
    for theme in ("light", "dark"):
        page.keyboard.press("Enter")
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[str]:
    """URL of a node with 100 peers and 1,000 transfers."""
    transport, plain = free_ports(2)
    config = {
        "node": {"name": "crowd"},
        "http": {"listen": f"127.0.0.1:{plain}", "tls_listen": ""},
        "transport": {"listen": f"127.0.0.1:{transport}"},
        "storage": {"state_dir": str(tmp_path / "state")},
        "peers": {f"peer{number}": {"fingerprint": f"sha256:{number:064x}"} for number in range(crowd.PEERS)},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "tests.browser.crowd", str(tmp_path / "config.yaml")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=clean_environment()
        )
    with process:
        assert process.stdout is not None
        yield f"http://{process.stdout.readline().decode().strip()}"
        assert process.stdin is not None
        process.stdin.close()
        process.wait(DEADLINE)


def test_a_hundred_peers_and_a_thousand_transfers(crowded: str, page: Page) -> None:
    opened(page, crowded)
    expect(page.locator("#transfers-count")).to_have_text("1,000 running")
    expect(page.locator(".peer")).to_have_count(100)
    expect(page.locator(".transfer")).to_have_count(50)
    page.locator("#transfers-more").click()
    expect(page.locator(".transfer")).to_have_count(100)
    page.locator("#transfers-find").fill("disk-777")
    expect(page.locator(".transfer")).to_have_count(1)
    numbers = page.locator(".transfer .numbers")
    first = numbers.text_content()
    assert first is not None
    expect(numbers).not_to_have_text(first)


# -- off loopback ------------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_off_loopback_the_page_asks_for_the_token_and_keeps_it(playwright: Playwright, tmp_path: Path) -> None:
    if reason := no_own_network():
        pytest.skip(reason)
    far = Daemon(tmp_path, prefix=OWN_NETWORK)
    far.configure({"http": {"listen": "10.9.0.1:8080", "tls_listen": ""}})
    complaints: list[str] = []
    with far:
        inside = tmp_path / "chromium"
        inside.write_text(f'#!/bin/sh\nexec nsenter --target {far.running.pid} --net {CHROMIUM} "$@"\n')
        inside.chmod(0o755)
        browser = launch(playwright, str(inside))
        try:
            context = browser.new_context()
            page = watched_page(context, complaints)
            page.goto("http://10.9.0.1:8080/")
            expect(page.locator("#token-dialog")).to_be_visible()
            expect(page).to_have_title("DWCP: token needed")
            assert violations(page) == []
            page.locator("#token").fill("wrong")
            page.keyboard.press("Enter")
            expect(page.locator("#token-problem")).to_have_text("That is not this node's token.")
            page.locator("#token").fill((far.state_dir / "identity" / "api-token").read_text())
            page.keyboard.press("Enter")
            expect(page.locator("#connection")).to_have_text("live")
            expect(page.locator("#token-dialog")).to_be_hidden()
            page.get_by_role("button", name="Show the configuration").click()
            expect(page.locator("#configuration-node")).to_be_visible()
            page.reload()
            expect(page.locator("#connection")).to_have_text("live")
            another = watched_page(context, complaints)
            another.goto("http://10.9.0.1:8080/")
            expect(another.locator("#token-dialog")).to_be_visible()
        finally:
            browser.close()
        assert far.stop() == 0
    assert [text for text in complaints if "401" not in text] == []
