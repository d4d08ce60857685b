"""kill -9 of either end, real processes: the same command again finishes, and sends little twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dwcp.cli.demo import compare_trees
from dwcp.testing.lab import Lab, lab_down, lab_up, start_node
from tests.support import make_tree, wait_until

MIB = 1024 * 1024
SIZE = 1024 * MIB
EXTRA = 64 * MIB
"""What may be sent beyond the missing part."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    # what is in the sockets when a process dies goes again, so their buffers bound what is sent twice
    transport = {
        "enable_pacing": True,
        "pacing_rate": "3Gbit/s",
        "read_timeout": "5s",
        "congestion_algorithm": "cubic",
        "send_buffer_size": "1MiB",
        "recv_buffer_size": "1MiB",
        "initial_streams": 16,
        "max_streams": 16,
    }
    made = lab_up(tmp_path / "lab", 2, {"transport": transport})
    yield made
    lab_down(tmp_path / "lab")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    with path.open("wb") as file:
        for seed in range(SIZE // (32 * MIB)):
            file.write(random.Random(seed).randbytes(32 * MIB))
    return path


def _send(lab: Lab, source: Path, target: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dwcp.cli", "send", "--json", "--config", str(lab.nodes[0].config_file)]
    return subprocess.Popen([*command, str(source), target], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err + out
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert last["event"] == "done"
    assert last["verified"]
    return last


def _arrived(lab: Lab) -> int:
    """Bytes of the part that are on the receiver's disk; sparse where nothing came yet."""
    parts = list((lab.nodes[1].inbox / ".dwcp").glob("*.part"))
    return parts[0].stat().st_blocks * 512 if parts else 0


def _half_way(lab: Lab) -> int:
    wait_until(lambda: _arrived(lab) > SIZE // 2, "half of it arrives", 60)
    return _arrived(lab)


def _same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", "-s", one, other], check=False).returncode == 0


def test_kill_9_of_the_sender(lab: Lab, big: Path) -> None:
    process = _send(lab, big, "node2:inbox/big")
    arrived = _half_way(lab)
    process.kill()
    process.communicate()
    assert not (lab.nodes[1].inbox / "big").exists()
    done = _finish(_send(lab, big, "node2:inbox/big"))
    assert done["wire_bytes"] <= SIZE - arrived + EXTRA
    assert _same(big, lab.nodes[1].inbox / "big")


def test_kill_9_of_the_receiver(lab: Lab, big: Path) -> None:
    process = _send(lab, big, "node2:inbox/big")
    arrived = _half_way(lab)
    os.kill(lab.nodes[1].pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 5
    assert not (lab.nodes[1].inbox / "big").exists()
    lab = start_node(lab, "node2")
    done = _finish(_send(lab, big, "node2:inbox/big"))
    assert done["wire_bytes"] <= SIZE - arrived + EXTRA
    assert _same(big, lab.nodes[1].inbox / "big")


def test_a_receiver_that_comes_back_in_time_is_found_again(lab: Lab, big: Path) -> None:
    process = _send(lab, big, "node2:inbox/big")
    _half_way(lab)
    os.kill(lab.nodes[1].pid, signal.SIGKILL)
    wait_until(lambda: not lab.nodes[1].running, "it is dead")
    lab = start_node(lab, "node2")
    done = _finish(process)
    assert done["wire_bytes"] <= SIZE + EXTRA
    assert _same(big, lab.nodes[1].inbox / "big")


def test_a_stopped_receiver_is_given_up_and_goes_on_later(lab: Lab, big: Path) -> None:
    process = _send(lab, big, "node2:inbox/big")
    _half_way(lab)
    os.kill(lab.nodes[1].pid, signal.SIGSTOP)
    process.communicate(timeout=60)
    assert process.returncode == 5
    os.kill(lab.nodes[1].pid, signal.SIGCONT)
    _finish(_send(lab, big, "node2:inbox/big"))
    assert _same(big, lab.nodes[1].inbox / "big")


def test_memory_stays_bounded_at_both_ends(lab: Lab, big: Path) -> None:
    process = _send(lab, big, "node2:inbox/big")
    peak = 0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid) or 0)
        time.sleep(0.01)
    _finish(process)
    assert 0 < peak < 256 * MIB
    assert 0 < (_peak(lab.nodes[1].pid) or 0) < 256 * MIB


def _peak(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def test_a_tree_survives_kills_at_random_moments(lab: Lab, tmp_path: Path) -> None:
    chance = random.Random(7)
    for round_ in range(6):
        tree = tmp_path / f"tree{round_}"
        make_tree(tree)
        for number in range(200):
            (tree / f"file{number}").write_bytes(chance.randbytes(chance.randrange(200_000)))
        target = f"node2:inbox/tree{round_}"
        process = _send(lab, tree, target)
        moment = chance.randrange(0, 40_000_000)
        inbox = lab.nodes[1].inbox
        while process.poll() is None and _bytes_below(inbox / ".dwcp") + _bytes_below(inbox / f"tree{round_}") < moment:
            pass
        if chance.random() < 0.5:
            process.kill()
            process.communicate()
        else:
            os.kill(lab.nodes[1].pid, signal.SIGKILL)
            wait_until(partial(_is_dead, lab), "it is dead")
            lab = start_node(lab, "node2")
            process.communicate(timeout=60)
        try:
            _finish(_send(lab, tree, target))
        except AssertionError:
            print((lab.nodes[1].config_file.parent / "manager.log").read_text()[-5000:])
            raise
        assert compare_trees(tree, inbox / f"tree{round_}") == []


def _is_dead(lab: Lab) -> bool:
    return not lab.nodes[1].running


def _bytes_below(directory: Path) -> int:
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
