"""Manual pages: one for each command, of what --help says, and without a warning of groff."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from dwcp.cli.main import main as dwcp
from dwcp.cli.manual import pages
from tests.processes import clean_environment

PAGES = dict(pages())


def test_every_command_has_a_page() -> None:
    context = click.Context(dwcp, info_name="dwcp")
    expected = {"dwcp.1", "dwcp-manager.1", *(f"dwcp-{name}.1" for name in dwcp.list_commands(context))}
    assert expected <= PAGES.keys()
    assert {"dwcp-peer-add.1", "dwcp-lab-up.1"} <= PAGES.keys()


def test_a_page_has_what_help_says() -> None:
    send = PAGES["dwcp-send.1"]
    assert ".B \\-\\-delete\nRemove at the destination" in send
    assert ".nf\n  dwcp send /srv/images node2:inbox" in send
    assert ".BR dwcp\\-send (1)" in PAGES["dwcp.1"]
    assert "Exit codes: 0 done" in PAGES["dwcp.1"]
    assert ".B \\-h, \\-\\-help" in PAGES["dwcp.1"]


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("name", PAGES)
def test_groff_finds_nothing(name: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-b", "-Tutf8"], input=PAGES[name], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_they_are_written_where_they_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "man").mkdir()
    command = [sys.executable, "-m", "dwcp.cli.manual", str(tmp_path / "man")]
    subprocess.run(command, check=True, env=clean_environment())
    assert {path.name for path in (tmp_path / "man").iterdir()} == PAGES.keys()


def test_the_shell_completes_commands() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from dwcp.cli.main import main; main(prog_name='dwcp')",
        ],
        capture_output=True,
        text=True,
        env=clean_environment(_DWCP_COMPLETE="bash_complete", COMP_WORDS="dwcp s", COMP_CWORD="1"),
        check=True,
    )
    assert set(done.stdout.split()) >= {"plain,send", "plain,status", "plain,state"}
