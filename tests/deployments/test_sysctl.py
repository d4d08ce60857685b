"""The kernel's settings exist, and a manager gets by them what it asks for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from dwcp.config import Config
from tests.processes import Daemon, no_own_network, run_dwcp

DIRECTORY = Path(__file__).parent.parent.parent / "deployments" / "sysctl"
CONF = DIRECTORY / "90-dwcp.conf"
SETTINGS = dict(re.findall(r"^([\w.]+) = (.+)$", CONF.read_text(), re.MULTILINE))
DATA = Path(__file__).parent.parent / "data"

_REASON = no_own_network()


def test_each_setting_has_a_reason_before_it() -> None:
    blocks = CONF.read_text().split("\n\n")[1:]
    assert all(block.startswith("# ") for block in blocks)
    assert sum(len(re.findall(r"^[\w.]+ = ", block, re.MULTILINE)) for block in blocks) == len(SETTINGS) == 6


@pytest.mark.parametrize("key", SETTINGS)
def test_this_kernel_knows_it(key: str) -> None:
    path = Path("/proc/sys", *key.split("."))
    if key.startswith("net.core.") and not path.exists():
        pytest.skip("containers do not see what is of the whole machine")
    assert path.exists()


def test_the_limits_have_room_for_what_is_asked_by_default_and_by_the_runbooks_profiles() -> None:
    asked = [
        int(size)
        for file in DATA.glob("*.yaml")
        for size in re.findall(r"(?:send|recv)_buffer_size: (\d+)", file.read_text())
    ]
    transport = Config().transport
    asked += [transport.send_buffer_size, transport.recv_buffer_size]
    assert max(asked) == int(SETTINGS["net.core.rmem_max"]) == int(SETTINGS["net.core.wmem_max"])


def test_the_module_is_that_of_the_default_algorithm() -> None:
    modules = [line for line in (DIRECTORY / "dwcp-modules.conf").read_text().splitlines() if not line.startswith("#")]
    assert modules == [f"tcp_{Config().transport.congestion_algorithm}"]


@pytest.mark.root
@pytest.mark.skipif(bool(_REASON), reason=_REASON)
def test_a_manager_misses_nothing_of_what_a_network_namespace_can_have(tmp_path: Path) -> None:
    """The limits and the queue are of the whole machine, which a test leaves alone."""
    here = tmp_path / "90-dwcp.conf"
    here.write_text("".join(f"{key} = {value}\n" for key, value in SETTINGS.items() if key.startswith("net.ipv4.")))
    script = f'ip link set lo up && sysctl --quiet --load {here} && exec "$@"'
    for prefix, complains in (
        (["sh", "-c", 'ip link set lo up && exec "$@"', "sh"], True),
        (["sh", "-c", script, "sh"], False),
    ):
        with Daemon(tmp_path, prefix=["unshare", "--net", *prefix]) as daemon:
            inside = ["nsenter", "--target", str(daemon.running.pid), "--net"]
            shown = run_dwcp("status", "--config", daemon.config_file, prefix=inside).stdout
            assert ("asked for ECN" in shown) is complains
            read = subprocess.run(
                [*inside, "sysctl", "-n", "net.ipv4.tcp_mtu_probing"], capture_output=True, check=True
            )
            assert (read.stdout.strip() == b"1") is not complains
            daemon.stop()
