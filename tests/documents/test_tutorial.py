"""Every command of the tutorial with two machines, in order, on two machines with a wire between them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import no_own_network
from tests.runbook.commands import Command, File, steps
from tests.runbook.machine import Machine, NoMachineError
from tests.support import wait_until

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
ADDRESSES = {"paris": "10.77.0.1", "tokyo": "10.77.0.2"}
PLACEHOLDER = "sha256:the-fingerprint-that-was-printed"

pytestmark = pytest.mark.root


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    if reason := no_own_network():
        pytest.skip(reason)
    made: dict[str, Machine] = {}
    try:
        for name in ADDRESSES:
            (tmp_path / name).mkdir()
            made[name] = Machine(tmp_path / name)
            made[name].__enter__()
        wire = ["ip", "link", "add", "wire", "netns", str(made["paris"].pid), "type", "veth"]
        subprocess.run([*wire, "peer", "name", "wire", "netns", str(made["tokyo"].pid)], check=True)
        for name, machine in made.items():
            machine.check(f"ip addr add {ADDRESSES[name]}/24 dev wire && ip link set wire up")
            for other, address in ADDRESSES.items():
                machine.check(f"echo {address} {other} >> /etc/hosts")
        yield made
    except NoMachineError as error:
        pytest.skip(str(error))
    finally:
        for machine in made.values():
            machine.__exit__()


def machine_of(lines: list[str], line: int) -> str:
    """The last that was named before that line."""
    return re.findall(r"[Oo]n \*\*(paris|tokyo)\*\*", "\n".join(lines[:line]))[-1]


def test_the_tutorial_works_as_it_is_printed(machines: dict[str, Machine]) -> None:
    lines = PAGE.read_text().splitlines()
    printed = ""
    answers: dict[str, str] = {}
    for step in steps(PAGE):
        machine = machines[machine_of(lines, step.line)]
        if isinstance(step, File):
            machine.write(step.path, step.content)
        elif step.text == "dwcp-manager":
            # in a terminal of its own
            machine.check("setsid dwcp-manager > /tmp/manager.log 2>&1 < /dev/null &")
            wait_until(lambda at=machine: at.run("dwcp status").returncode == 0, "the manager answers")  # type: ignore[misc]
        else:
            assert isinstance(step, Command)
            fingerprints = re.findall("sha256:[0-9a-f]{64}", printed) or [""]
            printed = machine.check(step.text.replace(PLACEHOLDER, fingerprints[-1]))
            answers[step.text] = printed
    assert {machine_of(lines, step.line) for step in steps(PAGE)} == {"paris", "tokyo"}
    assert "disk.img" in answers["dwcp ls tokyo:inbox/data"]
    assert "node tokyo: healthy" in answers["dwcp status"]
    assert answers["dwcp log --kind transfer --lines 5"].count(" transfer end paris ") == 3
