"""Every command of the quick start, in order, as it is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.processes import clean_environment
from tests.runbook.commands import Command, steps

ROOT = Path(__file__).parent.parent.parent
NOT_RUN = {
    "make run": "it would make the environment that this test runs in",
    ". .venv/bin/activate": "the same",
}
LIMIT = 120.0


def test_the_quick_start_works_as_it_is_printed(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "dwcp"
    program.write_text(f"#!{sys.executable}\nfrom dwcp.cli.main import main\nmain()\n")
    program.chmod(0o755)
    environment = clean_environment(
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    )
    commands = [step for step in steps(ROOT / "docs" / "quickstart.md") if isinstance(step, Command)]
    assert len(commands) > 10
    assert NOT_RUN.keys() <= {command.text for command in commands}
    options: dict[str, Any] = {
        "cwd": ROOT,
        "env": environment,
        "capture_output": True,
        "check": False,
        "timeout": LIMIT,
    }
    answers: dict[str, str] = {}
    try:
        for command in commands:
            if command.text in NOT_RUN:
                continue
            # the same commands, in directories of this test
            text = command.text.replace("/tmp/lab", f"{tmp_path}/lab").replace("/tmp/data", f"{tmp_path}/data")
            done = subprocess.run(["bash", "-c", text], text=True, **options)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            answers[command.text] = done.stdout
    finally:
        subprocess.run([str(program), "lab", "down", str(tmp_path / "lab")], **options)
    assert "disk.img" in answers["dwcp ls --config /tmp/lab/node1/config.yaml node2:inbox/data"]
    assert "http " in answers["dwcp status --config /tmp/lab/node2/config.yaml"]
    assert answers["dwcp log --config /tmp/lab/node2/config.yaml --kind transfer"].count(" transfer end ") == 2
    assert not (tmp_path / "lab").exists()
