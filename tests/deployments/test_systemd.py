"""The unit: systemd takes it, it is as closed as the documents say, and the manager needs nothing that it closes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dwcp.store.identity import load_or_create
from tests.processes import Daemon, run_dwcp
from tests.support import random_file

ROOT = Path(__file__).parent.parent.parent
UNIT = ROOT / "deployments" / "systemd" / "dwcp-manager.service"
RDMA = UNIT.with_name("rdma.conf")

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def installed(directory: Path, *drop_ins: Path) -> Path:
    """The unit as it is after installation, with a program that is there in the place of the manager."""
    unit = directory / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/dwcp/bin/dwcp-manager", sys.executable))
    for drop_in in drop_ins:
        beside = directory / f"{UNIT.name}.d"
        beside.mkdir(exist_ok=True)
        shutil.copy(drop_in, beside)
    return unit


@needs_systemd
@pytest.mark.parametrize("drop_ins", [[], [RDMA]], ids=["unit", "with RDMA"])
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path, drop_ins: list[Path]) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", installed(tmp_path, *drop_ins)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_it_is_as_closed_as_the_documents_say(tmp_path: Path) -> None:
    """A later systemd may know more tests, so that the score is a bound."""
    stated = re.search(r"exposure level of (\d\.\d)", (ROOT / "docs" / "deployment.md").read_text())
    assert stated is not None
    threshold = str(round(float(stated[1]) * 10))
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            f"--threshold={threshold}",
            "--no-pager",
            installed(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_the_runbook_writes_is_kept() -> None:
    """But for `Type=simple`: the manager says itself when it is ready."""
    service = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert service["ExecStart"] == "/opt/dwcp/bin/dwcp-manager --config /etc/dwcp/config.yaml"
    runbook = {
        "User": "dwcp",
        "Group": "dwcp",
        "WorkingDirectory": "/opt/dwcp",
        "Restart": "always",
        "RestartSec": "10",
        "StandardOutput": "journal",
        "StandardError": "journal",
        "SyslogIdentifier": "dwcp-manager",
        "LimitNOFILE": "65536",
        "LimitNPROC": "4096",
        "NoNewPrivileges": "true",
        "PrivateTmp": "true",
        "ProtectSystem": "strict",
        "ProtectHome": "true",
    }
    assert {key: service[key] for key in runbook} == runbook
    assert service["Type"] == "notify"
    # its state directory is writable by that, and made where it is missing
    assert service["StateDirectory"] == "dwcp"


def allowed_calls() -> set[str]:
    """The system calls that the unit leaves: systemd's groups in and out, in the order of the file."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.+)$", UNIT.read_text(), re.MULTILINE):
        calls: set[str] = set()
        for group in line.removeprefix("~").split():
            calls |= group_calls(group) if group.startswith("@") else {group}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def group_calls(group: str) -> set[str]:
    listed = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    names = {line.strip() for line in listed.stdout.splitlines()[1:] if line.startswith(" ")}
    found = {name for name in names if not name.startswith(("#", "@"))}
    return found.union(*(group_calls(name) for name in names if name.startswith("@")))


NO_EXECUTABLE_MEMORY = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, PR_SET_NO_NEW_PRIVS = 65, 1, 38
prctl = ctypes.CDLL(None, use_errno=True).prctl
for option, value in ((PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), (PR_SET_NO_NEW_PRIVS, 1)):
    if prctl(option, value, 0, 0, 0):
        sys.exit(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
"""
"""What MemoryDenyWriteExecute and NoNewPrivileges do (prctl(2); the first from Linux 6.3 on, kept over exec)."""


def cannot_confine() -> str:
    if shutil.which("strace") is None or shutil.which("systemd-analyze") is None:
        return "needs strace and systemd-analyze"
    tried = [
        ["strace", "-D", "-f", "-o", "/dev/null", "true"],
        [sys.executable, "-c", NO_EXECUTABLE_MEMORY],
    ]
    for command in tried:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{command[0]}: {done.stderr.strip()}"
    return ""


_REASON = cannot_confine()


@pytest.mark.skipif(bool(_REASON), reason=_REASON)
def test_a_manager_needs_no_system_call_that_the_unit_refuses(tmp_path: Path) -> None:
    """From its start over files that it takes and gives, a reload and HTTP, to its end."""
    calls = tmp_path / "calls"
    confined = "import os, sys\n" + NO_EXECUTABLE_MEMORY + "os.execvp(sys.argv[1], sys.argv[1:])"
    trace = ["strace", "-D", "-f", "-qq", "--signal=none", "-o", str(calls)]
    homes = {name: tmp_path / name for name in ("one", "two")}
    for home in homes.values():
        (home / "inbox").mkdir(parents=True)
    prints = {name: load_or_create(home / "state" / "identity", name).fingerprint for name, home in homes.items()}
    one = Daemon(homes["one"], prefix=[sys.executable, "-c", confined, *trace])
    one.configure(settings(homes["one"], "two", prints["two"]))
    client = tmp_path / "client.yaml"
    client.write_text(
        json.dumps(
            {
                "storage": {"state_dir": str(homes["two"] / "state")},
                "security": {"tls": "always"},
                "peers": {"one": {"address": f"127.0.0.1:{one.transport}", "fingerprint": prints["one"]}},
            }
        )
    )
    random_file(tmp_path / "content", 3_000_000)
    with one:
        for command in (
            ["send", "--config", client, tmp_path / "content", "one:inbox/"],
            ["send", "--config", client, tmp_path / "content", "one:inbox/again"],
            ["get", "--config", client, "one:inbox/content", tmp_path / "back"],
        ):
            done = run_dwcp(*map(str, command))
            assert done.returncode == 0, done.stderr
        assert one.get("/health")[0] == 200
        one.signal(signal.SIGHUP)
        one.told_with("RELOADING=1")
        one.told_with("READY=1")
        assert one.stop() == 0
    used = set(re.findall(r"^\d+ +(\w+)\(", calls.read_text(), re.MULTILINE))
    assert {"accept4", "renameat", "sendto", "fdatasync"} <= used
    # SQLite gives its files to the owner of the database, but only where it runs as root, as here
    assert used - allowed_calls() - {"fchown"} == set()


def settings(home: Path, peer: str, fingerprint: str) -> dict[str, Any]:
    return {
        "security": {"tls": "always"},
        "storage": {"state_dir": str(home / "state"), "exports": {"inbox": {"path": str(home / "inbox")}}},
        "peers": {peer: {"fingerprint": fingerprint}},
    }
