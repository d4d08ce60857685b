"""Transfers over UCX, on what stands in for hardware: they arrive, survive a broken RDMA over TCP, and come back."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from dwcp.cli.demo import compare_trees
from dwcp.config import Config
from dwcp.errors import DwcpError, RefusedError, UnreachableError
from dwcp.links.ucx import UcxEnd, UcxLink
from dwcp.testing.lab import lab_down, lab_up, start_node
from dwcp.transfer.board import Board
from dwcp.transfer.rdma import Rdma
from dwcp.transfer.server import TransportServer
from tests.processes import no_own_network
from tests.support import UCX_DEVICES, Pair, make_tree, needs_ucx, random_file, wait_until

SLOW = {"enable_pacing": True, "pacing_rate": 240_000_000}


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[UcxLink]:
    """Every link over UCX that this process makes, at either end."""
    made: list[UcxLink] = []
    connect = UcxEnd.connect

    def remember(end: UcxEnd, *args: Any, **kwargs: Any) -> UcxLink:
        link = connect(end, *args, **kwargs)
        made.append(link)
        return link

    monkeypatch.setattr(UcxEnd, "connect", remember)
    return made


def rdma_pair(directory: Path, device: str = "lo", **transport: Any) -> Pair:
    return Pair(
        directory,
        transport={"enable_rdma": True, "rdma_device": device, **transport},
        circuit_breaker={"timeout": 0.5},
    )


@contextlib.contextmanager
def running(pair: Pair, source: Path, target: str) -> Iterator[list[Any]]:
    """A transfer under way in another thread, and what comes of it."""
    results: list[Any] = []

    def send() -> None:
        try:
            results.append(pair.send(source, target))
        except DwcpError as error:
            results.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield results
    finally:
        thread.join(90)
        assert not thread.is_alive()


def arrived(pair: Pair) -> int:
    return max((status.bytes_done for status in pair.board.live()), default=0)


def live(links: list[UcxLink]) -> list[UcxLink]:
    return [link for link in links if link._wake >= 0]


def break_ucx() -> int:
    """Ends the TCP connections of UCX under it, as a lost device would; those of Python are left. How many."""
    python = {sock.fileno() for sock in gc.get_objects() if isinstance(sock, socket.socket)}
    broken = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            descriptor = int(name)
            if descriptor in python or not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                if sock.family == socket.AF_INET:
                    sock.getpeername()
                    sock.shutdown(socket.SHUT_RDWR)
                    broken += 1
    return broken


@needs_ucx
@pytest.mark.parametrize("device", UCX_DEVICES)
def test_a_tree_goes_over_ucx_and_comes_back(tmp_path: Path, device: str, links: list[UcxLink]) -> None:
    pair = rdma_pair(tmp_path, device)
    make_tree(tmp_path / "tree")
    sent = pair.send(tmp_path / "tree", "inbox/tree")
    assert compare_trees(tmp_path / "tree", pair.inbox / "tree") == []
    put = len(links)
    assert put >= 2
    content = sum(link.wire_bytes()[0] for link in links)
    assert content > 3_800_000  # what of the tree cannot be compressed
    assert sent.wire_bytes - content < 100_000, "only control messages went over TCP"
    got = pair.get("inbox/tree", tmp_path / "back")
    assert got.verified
    assert compare_trees(tmp_path / "tree", tmp_path / "back") == []
    assert len(links) > put
    assert pair.server.check_rdma() is None
    assert pair.server.counters().rdma_failures == 0
    assert pair.server.sockets().settings["rdma"] == "in use"
    pair.close()


@needs_ucx
def test_over_tls_the_identity_is_proved_before_ucx_is_spoken(tmp_path: Path, links: list[UcxLink]) -> None:
    with pytest.raises(ValueError, match="which security.tls: always rules out"):
        Config.model_validate({"transport": {"enable_rdma": True}, "security": {"tls": "always"}})
    pair = rdma_pair(tmp_path)
    content = random_file(tmp_path / "file", 3_000_000)
    # what `auto` does off loopback
    for config in (pair.config, pair.server.node.config):
        object.__setattr__(config.security, "tls", "always")
    pair.send(tmp_path / "file", "inbox/file")
    assert (pair.inbox / "file").read_bytes() == content
    assert links
    assert all("beside tls" in link.description for link in links)
    assert not any(link.encrypted for link in links)
    pair.close()


@needs_ucx
def test_where_only_one_end_has_rdma_tcp_is_spoken(tmp_path: Path, links: list[UcxLink]) -> None:
    pair = rdma_pair(tmp_path)
    content = random_file(tmp_path / "file", 3_000_000)
    without = pair.config.model_copy(
        update={"transport": pair.config.transport.model_copy(update={"enable_rdma": False})}
    )
    pair.send(tmp_path / "file", "inbox/file", without)
    assert (pair.inbox / "file").read_bytes() == content
    assert links == []
    assert pair.server.check_rdma() is None
    pair.close()


def test_without_the_device_tcp_takes_its_place_and_health_says_so(
    tmp_path: Path, links: list[UcxLink], capsys: pytest.CaptureFixture[str]
) -> None:
    pair = rdma_pair(tmp_path, "nosuch0")
    content = random_file(tmp_path / "file", 3_000_000)
    pair.send(tmp_path / "file", "inbox/file")
    assert (pair.inbox / "file").read_bytes() == content
    assert links == []
    assert pair.server.check_rdma() == "RDMA device not found: nosuch0; TCP takes its place"
    sockets = pair.server.sockets()
    assert sockets.settings["rdma"] == "not used"
    assert "enable_rdma: RDMA device not found: nosuch0; TCP takes its place" in sockets.warnings
    # by the listening node and by the sending one, once each
    assert capsys.readouterr().out.count("RDMA device not found: nosuch0") == 2
    pair.close()


@needs_ucx
@pytest.mark.parametrize("direction", ["put", "get"])
def test_when_ucx_breaks_in_flight_tcp_carries_on_and_rdma_comes_back(
    tmp_path: Path, links: list[UcxLink], direction: str
) -> None:
    pair = rdma_pair(tmp_path, **SLOW)
    source, target = tmp_path / "file", pair.inbox / "file"
    if direction == "get":
        source, target = pair.inbox / "file", tmp_path / "back"
    content = random_file(source, 90_000_000)

    def act() -> None:
        result = pair.send(source, "inbox/file") if direction == "put" else pair.get("inbox/file", target)
        assert result.verified

    thread = threading.Thread(target=act)
    thread.start()
    wait_until(lambda: arrived(pair) > 8_000_000, "some of it arrives")
    first = list(links)
    assert break_ucx() > 0
    wait_until(lambda: not live(first), "streams over RDMA end")
    before = arrived(pair)
    wait_until(lambda: arrived(pair) > before + 4_000_000, "it goes on")
    wait_until(lambda: len(live(links)) >= 4, "RDMA is used again in the same transfer")
    assert arrived(pair) < len(content)
    thread.join(60)
    assert target.read_bytes() == content
    later = [link for link in links if link not in first]
    assert sum(sum(link.wire_bytes()) for link in later) > 8_000_000
    pair.close()


@needs_ucx
def test_a_failure_concerns_one_peer_for_a_while(tmp_path: Path) -> None:
    pair = rdma_pair(tmp_path)
    rdma = pair.server.node.rdma
    rdma.failed("a", "broken")
    fallback = pair.server.check_rdma()
    assert fallback is not None
    assert re.fullmatch(r"RDMA with a failed \(broken; tried again in [01] s\); TCP takes its place", fallback)
    assert not rdma.allow("a")
    assert rdma.allow("other")
    # a stream that has not broken yet proves nothing
    rdma.succeeded("a")
    assert not rdma.works("a")
    wait_until(lambda: rdma.due("a"), "it may be tried again")
    assert pair.server.check_rdma() is None
    assert rdma.allow("a")
    assert not rdma.allow("a"), "one stream tries, the others wait for it"
    rdma.succeeded("a")
    assert rdma.works("a")
    pair.close()


@needs_ucx
def test_a_peer_that_loses_its_device_is_spoken_to_over_tcp(tmp_path: Path, links: list[UcxLink]) -> None:
    """Between the handshake, where it offered RDMA, and the first stream."""
    pair = rdma_pair(tmp_path)
    content = random_file(tmp_path / "file", 5_000_000)

    def lost() -> UcxEnd:
        raise UnreachableError("RDMA was lost just now")

    pair.server.node.rdma.open = lost  # type: ignore[method-assign]
    result = pair.send(tmp_path / "file", "inbox/file")
    assert result.verified
    assert (pair.inbox / "file").read_bytes() == content
    assert links == []
    pair.close()


@needs_ucx
def test_a_node_that_cannot_open_its_end_uses_tcp(
    tmp_path: Path, links: list[UcxLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = rdma_pair(tmp_path)
    content = random_file(tmp_path / "file", 5_000_000)
    monkeypatch.setattr(Rdma, "open", lambda self: (_ for _ in ()).throw(UnreachableError("no more queue pairs")))
    pair.send(tmp_path / "file", "inbox/file")
    assert (pair.inbox / "file").read_bytes() == content
    assert links == []
    pair.close()


# -- rdma_required -----------------------------------------------------------------------------------------------------


@needs_ucx
def test_required_rdma_carries_a_transfer(tmp_path: Path, links: list[UcxLink]) -> None:
    pair = rdma_pair(tmp_path, rdma_required=True)
    content = random_file(tmp_path / "file", 5_000_000)
    pair.send(tmp_path / "file", "inbox/file")
    assert (pair.inbox / "file").read_bytes() == content
    assert links
    pair.close()


def test_required_rdma_without_a_device_does_not_start(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    values = pair.server_config.model_dump()
    values["transport"] |= {"enable_rdma": True, "rdma_device": "nosuch0", "rdma_required": True}
    server = TransportServer(Config.model_validate(values), pair.identities["b"], Board())
    with pytest.raises(UnreachableError, match="RDMA device not found: nosuch0, and transport.rdma_required is set"):
        server.start()
    pair.close()


@needs_ucx
def test_required_rdma_refuses_a_peer_without(tmp_path: Path) -> None:
    pair = rdma_pair(tmp_path, rdma_required=True)
    random_file(tmp_path / "file", 1000)
    without = pair.config.model_copy(
        update={"transport": pair.config.transport.model_copy(update={"enable_rdma": False, "rdma_required": False})}
    )
    with pytest.raises(RefusedError, match="'b' takes blocks over RDMA only, and transport.rdma_required is set"):
        pair.send(tmp_path / "file", "inbox/file", without)
    pair.close()


def test_required_rdma_does_not_send_to_a_peer_without(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    random_file(tmp_path / "file", 1000)
    for device, words in (("nosuch0", "RDMA device not found: nosuch0"), ("shm", "b does not offer RDMA")):
        if device == "shm" and needs_ucx.args[0]:
            continue
        update = {"enable_rdma": True, "rdma_required": True, "rdma_device": device}
        config = pair.config.model_copy(update={"transport": pair.config.transport.model_copy(update=update)})
        with pytest.raises(DwcpError, match=f"{words}, and transport.rdma_required is set"):
            pair.send(tmp_path / "file", "inbox/file", config)
    assert not (pair.inbox / "file").exists()
    pair.close()


@needs_ucx
def test_required_rdma_that_breaks_begins_again_over_rdma(tmp_path: Path, links: list[UcxLink]) -> None:
    pair = rdma_pair(tmp_path, rdma_required=True, **SLOW)
    content = random_file(tmp_path / "file", 40_000_000)
    with running(pair, tmp_path / "file", "inbox/file") as results:
        wait_until(lambda: arrived(pair) > 6_000_000, "some of it arrives")
        assert break_ucx() > 0
    assert not isinstance(results[0], DwcpError), results[0]
    assert (pair.inbox / "file").read_bytes() == content
    assert results[0].wire_bytes - sum(link.wire_bytes()[0] for link in links) < 200_000
    pair.close()


# -- a device that goes and comes --------------------------------------------------------------------------------------


OWN_NETWORK = "DWCP_TEST_OWN_NETWORK"
DEVICE = "dwcprdma0"
PREPARE = f"""
mount -t sysfs sysfs /sys
ip link set lo up
ip link add {DEVICE} type veth peer name dwcprdma1
ip addr add 198.18.77.1/24 dev {DEVICE}
ip link set dwcprdma1 up
ip link set {DEVICE} up
"""


@needs_ucx
@pytest.mark.root
def test_a_device_that_is_taken_away_in_flight_and_given_back(tmp_path: Path, links: list[UcxLink]) -> None:
    """In a network namespace of its own, which sysfs has to show."""
    if OWN_NETWORK not in os.environ:
        if os.geteuid() != 0 or shutil.which("ip") is None or no_own_network():
            pytest.skip("needs root, ip (iproute2) and a network namespace")
        test = f"{__file__}::{test_a_device_that_is_taken_away_in_flight_and_given_back.__name__}"
        command = shlex.join([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test])
        script = f"set -e\n{PREPARE}\nexec {command}"
        done = subprocess.run(
            ["unshare", "--net", "--mount", "sh", "-c", script],
            env={**os.environ, OWN_NETWORK: "1"},
            cwd=Path(__file__).parent.parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return
    pair = rdma_pair(tmp_path, DEVICE, **SLOW)
    content = random_file(tmp_path / "file", 120_000_000)
    with running(pair, tmp_path / "file", "inbox/file") as results:
        wait_until(lambda: arrived(pair) > 8_000_000, "some of it arrives")
        first = list(links)
        assert first
        began = time.monotonic()
        # within one machine packets between its own addresses pass whatever the state of the device
        subprocess.run(["sh", "-c", f"ip addr flush dev {DEVICE}; ip link set {DEVICE} down"], check=True)
        wait_until(lambda: not live(first), "streams over RDMA end")
        assert time.monotonic() - began < 4, "the read timeout is 5 s"
        assert pair.server.check_rdma() == f"RDMA device not found: {DEVICE} is down; TCP takes its place"
        before = arrived(pair)
        wait_until(lambda: arrived(pair) > before + 4_000_000, "it goes on over TCP")
        subprocess.run(["sh", "-c", f"ip addr add 198.18.77.1/24 dev {DEVICE}; ip link set {DEVICE} up"], check=True)
        wait_until(lambda: bool(live(links)), "RDMA is used again in the same transfer")
    assert not isinstance(results[0], DwcpError), results[0]
    assert (pair.inbox / "file").read_bytes() == content
    assert pair.server.check_rdma() is None
    pair.close()


# -- real processes ----------------------------------------------------------------------------------------------------


@needs_ucx
@pytest.mark.parametrize("device", UCX_DEVICES)
def test_kill_9_of_the_receiver_in_the_midst_of_rdma(tmp_path: Path, device: str) -> None:
    transport = {
        "enable_rdma": True,
        "rdma_device": device,
        "enable_pacing": True,
        "pacing_rate": "400Mbit/s",
        "read_timeout": "5s",
    }
    lab = lab_up(tmp_path / "lab", 2, {"transport": transport})
    try:
        size = 96 * 2**20
        content = random_file(tmp_path / "big", size)
        command = [sys.executable, "-m", "dwcp.cli", "send", "--json", "--config", str(lab.nodes[0].config_file)]
        process = subprocess.Popen(
            [*command, str(tmp_path / "big"), "node2:inbox/big"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def part() -> int:
            found = list((lab.nodes[1].inbox / ".dwcp").glob("*.part"))
            return found[0].stat().st_blocks * 512 if found else 0

        wait_until(lambda: part() > size // 4, "some of it arrives", 60)
        metrics = urlopen(f"{lab.nodes[1].http_url}/metrics").read().decode()
        assert float(re.findall(r"^dwcp_transport_rdma_streams (\S+)", metrics, re.MULTILINE)[0]) >= 1
        os.kill(lab.nodes[1].pid, signal.SIGKILL)
        wait_until(lambda: not lab.nodes[1].running, "it is dead")
        lab = start_node(lab, "node2")
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err + out
        assert (lab.nodes[1].inbox / "big").read_bytes() == content
        last = json.loads(out.splitlines()[-1])
        assert last["verified"]
        assert last["wire_bytes"] < size * 1.3
        again = subprocess.run(
            [*command, str(tmp_path / "big"), "node2:inbox/again"], capture_output=True, text=True, check=False
        )
        assert again.returncode == 0
        assert "RDMA" not in again.stderr
    finally:
        lab_down(tmp_path / "lab")


def test_nothing_is_loaded_where_rdma_is_not_enabled(tmp_path: Path) -> None:
    code = (
        "import sys, dwcp.cli.main, dwcp.manager.daemon\n"
        "from dwcp.config import Config\n"
        "from dwcp.store.identity import load_or_create\n"
        "from dwcp.transfer.node import Node\n"
        "from pathlib import Path\n"
        f"identity = load_or_create(Path({str(tmp_path)!r}) / 'identity', 'a')\n"
        f"node = Node(Config.model_validate({{'storage': {{'state_dir': {str(tmp_path)!r}}}}}), identity)\n"
        "node.introduction(node.credentials())\n"
        "assert 'ucxx' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
