"""The report of the runbooks' commands at the end of the test run."""

from __future__ import annotations

import pytest

from tests.runbook.commands import REPORT


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    told = config.stash.get(REPORT, [])
    if not told:
        return
    terminalreporter.section("commands of the runbooks")
    for page in dict.fromkeys(page for page, _, _ in told):
        terminalreporter.write_line(str(page))
        for command, outcome in [(command, outcome) for where, command, outcome in told if where == page]:
            word = outcome if outcome.startswith("run") else f"NOT RUN: {outcome}"
            terminalreporter.write_line(f"  {command}  [{word}]")
