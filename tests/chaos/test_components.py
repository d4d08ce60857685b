"""A fault in each component of a manager that moves data: it is found within one interval, told everywhere, mended once
its cause is gone; the others go on, and no transfer is lost."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dwcp.config import Config
from dwcp.manager import parts
from dwcp.store.identity import load_or_create
from dwcp.transfer.client import connect
from tests.chaos.test_state import fill
from tests.processes import DEADLINE, Daemon, free_ports, run_dwcp
from tests.running import InFlight, Running
from tests.support import wait_until

Undo = Callable[[], None]
TASKS = ("state", "memory", "metrics", "peers", "pruning")
"""Components that are a task."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path, "b", peers=knows_sender(tmp_path)) as running:
        yield running


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Running]:
    """One whose checks may not take long."""
    with Running(tmp_path, "b", peers=knows_sender(tmp_path), health={"timeout": "1s"}) as running:
        yield running


def knows_sender(directory: Path) -> dict[str, Any]:
    return {"a": {"fingerprint": load_or_create(directory / "a" / "identity", "a").fingerprint}}


def of(node: Running, name: str) -> Any:
    """The component itself."""
    return node.manager._runner._by_name[name]  # type: ignore[union-attr]


def checks(node: Running, name: str) -> float:
    """How many were made."""
    samples = node.manager._durations._checks.labels(name)._child_samples()
    return next(sample.value for sample in samples if sample.name == "_count")


@dataclass
class Told:
    """What was said of a component while its fault lasted."""

    node: Running
    name: str

    def everywhere(self, reason: str) -> None:
        """/health and /metrics say that the component is ill, and why."""
        status, document = self.node.get("/health")
        ill = document["components"][self.name]
        assert ill in ("unhealthy", "degraded")
        assert reason in document["reasons"][self.name]
        assert document["status"] == ("unhealthy" if document["checks"][self.name]["failed"] else "degraded")
        assert status == (503 if document["status"] == "unhealthy" else 200)
        assert self.name in document["unhealthy_components"]
        value = {"unhealthy": 0.0, "degraded": 0.5}[ill]
        assert self.node.metric("dwcp_manager_component_healthy", component=self.name) == value

    def mended(self, *, restarted: bool = True) -> None:
        wait_until(self.node.is_well, f"{self.name} is well again")
        document = self.node.get("/health")[1]
        assert set(document["components"].values()) == {"healthy", "closed"}
        assert not document["recovery_in_progress"]
        assert self.node.metric("dwcp_manager_component_healthy", component=self.name) == 1.0
        if restarted:
            assert self.node.metric("dwcp_manager_recovery_attempts_total", component=self.name) >= 1
            assert self.node.metric("dwcp_manager_recovery_success_total", component=self.name) == 1
            assert self.node.metric("dwcp_manager_recovery_seconds_count", component=self.name) == 1


def found(node: Running, name: str, before: float) -> None:
    """At the next check, or at the one after it where that was under way already."""
    wait_until(lambda: node.component(name).status != "healthy" or node.component(name).recovering, f"{name} is ill")
    assert checks(node, name) <= before + 2
    ill = {health.name for health in node.health().components.values() if health.status != "healthy"}
    assert ill <= {name}, "the others do their work"


# -- a task that ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TASKS, "http"])
def test_a_task_that_is_killed(node: Running, tmp_path: Path, name: str) -> None:
    with InFlight(tmp_path, node) as moving:
        before = checks(node, name)
        component = of(node, name)
        task = component._tasks[0] if name == "http" else component._task
        node.call(task.cancel)
        found(node, name, before)
        Told(node, name).mended()
        moving.wait_for_more()
        assert moving.finish() == 0, "it went on all the time"


@pytest.mark.parametrize("name", TASKS)
def test_an_exception_again_and_again(
    node: Running, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restarts do not help; it is called failed, and the slow retry finds the cause gone."""
    with InFlight(tmp_path, node) as moving:

        async def fail(seconds: float) -> None:
            raise RuntimeError("nobody foresaw this")

        with monkeypatch.context() as patch:
            patch.setattr(of(node, name), "_sleep", fail)
            node.call(of(node, name)._task.cancel)
            wait_until(lambda: node.component(name).failed, "its attempts are used up")
            wait_until(lambda: "nobody foresaw this" in node.component(name).reason, "it says why")
            wait_until(lambda: node.get("/health")[0] == 503, "the node is unhealthy")
            assert node.get("/ready")[0] == 503
            assert "nobody foresaw this" in node.get("/health")[1]["error"]
            assert node.metric("dwcp_manager_recovery_attempts_total", component=name) >= 3
            moving.wait_for_more()
        Told(node, name).mended()
        assert moving.finish() == 0


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_hangs(node: Running, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    component = of(node, name)

    async def hang(seconds: float) -> None:
        component._alive()
        await asyncio.Event().wait()

    with InFlight(tmp_path, node) as moving:
        with monkeypatch.context() as patch:
            patch.setattr(component, "leeway", 0.3)
            patch.setattr(component, "_sleep", hang)
            wait_until(lambda: "hangs" in node.component(name).reason, "the watchdog tells")
            Told(node, name).everywhere("its task hangs")
        Told(node, name).mended()
        assert moving.finish() == 0


# -- the transport -----------------------------------------------------------------------------------------------------


def a_port_that_was_stolen(node: Running, patch: pytest.MonkeyPatch) -> Undo:
    server = node.manager._server
    listener, port = server._listener, node.port
    assert listener is not None
    patch.setattr(server.node, "config", _listening_at(node, port))
    # it listens no more, and another program does
    listener.shutdown(socket.SHUT_RDWR)
    thief = socket.create_server(("127.0.0.1", port))
    return thief.close


def _listening_at(node: Running, port: int) -> Any:
    config = node.manager.config
    fixed = config.transport.model_copy(update={"listen": f"127.0.0.1:{port}"})
    return config.model_copy(update={"transport": fixed})


def a_thread_that_ends(node: Running, patch: pytest.MonkeyPatch) -> Undo:
    def fail(sock: socket.socket, address: str) -> None:
        sock.close()
        raise ValueError("nobody foresaw this")

    patch.setattr(node.manager._server, "_begin", fail)
    patch.setattr(node.manager._server.node, "config", _listening_at(node, node.port))
    patch.setattr(threading, "excepthook", lambda _: None)
    return lambda: None


def a_thread_that_hangs(node: Running, patch: pytest.MonkeyPatch) -> Undo:
    release = threading.Event()
    begin = node.manager._server._begin

    def hang(sock: socket.socket, address: str) -> None:
        release.wait()
        begin(sock, address)

    patch.setattr(node.manager._server, "_begin", hang)
    patch.setattr(node.manager._server.node, "config", _listening_at(node, node.port))
    return release.set


def _threads(name: str) -> int:
    return [thread.name for thread in threading.enumerate()].count(name)


@pytest.mark.parametrize("fault", [a_port_that_was_stolen, a_thread_that_ends, a_thread_that_hangs])
def test_the_transport(
    hasty: Running,
    tmp_path: Path,
    fault: Callable[[Running, pytest.MonkeyPatch], Undo],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The transfer that runs on it is broken off, and goes on once it is back."""
    node = hasty
    with InFlight(tmp_path, node) as moving:
        port = node.port
        before = checks(node, "transport")
        with monkeypatch.context() as patch:
            undo = fault(node, patch)
            found(node, "transport", before)
            wait_until(lambda: node.component("transport").status == "unhealthy", "it is told")
            Told(node, "transport").everywhere("")
            wait_until(lambda: node.component("transport").failed, "its attempts are used up")
            if fault is a_port_that_was_stolen:
                assert "Address already in use" in node.get("/health")[1]["error"]
            undo()
            patch.setattr(
                node.manager._server, "_begin", type(node.manager._server)._begin.__get__(node.manager._server)
            )
            Told(node, "transport").mended()
            assert node.port == port
            wait_until(lambda: _threads("dwcp-accept") == 1, "the one before has ended")
            moving.wait_for_more()
            moving.finish()


def test_compression(hasty: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = hasty
    release = threading.Event()
    with InFlight(tmp_path, node) as moving:
        with monkeypatch.context() as patch:
            patch.setattr(parts, "check_compression", release.wait)
            wait_until(lambda: node.component("compression").status == "unhealthy", "the check has taken too long")
            Told(node, "compression").everywhere("took longer than 1 s")
            wait_until(lambda: node.manager.recoveries()["compression"].attempts > 0, "it is restarted")
            assert _threads("dwcp-check-compression") == 1, "however often it is tried"
        release.set()
        Told(node, "compression").mended()
        assert moving.finish() == 0


# -- peers -------------------------------------------------------------------------------------------------------------


def knows(node: Running, other: Running, port: int) -> dict[str, Any]:
    return {other.name: {"address": f"127.0.0.1:{port}", "fingerprint": other.fingerprint}}


def test_a_peer_that_is_gone_and_comes_back(tmp_path: Path) -> None:
    """It is named, left alone, and tried again; meanwhile nobody here has to wait for it."""
    (port,) = free_ports(1)
    breaker = {"failure_threshold": 3, "timeout": "1s", "max_timeout": "1s"}
    near = Running(tmp_path, "b", circuit_breaker=breaker)
    far = Running(
        tmp_path, "c", transport={"listen": f"127.0.0.1:{port}"}, peers={"b": {"fingerprint": near.fingerprint}}
    )
    near.values["peers"] = knows(near, far, port)
    config = Config.model_validate(near.values)
    with contextlib.ExitStack() as until_it_goes:
        until_it_goes.enter_context(far)
        with near:
            wait_until(lambda: "c" in near.manager.transport().latency_seconds, "the peer is seen")
            assert near.is_well()
            until_it_goes.close()
            # its own look may just have begun
            found(near, "peers", checks(near, "peers") + 1)
            Told(near, "peers").everywhere(f"c: cannot connect to 127.0.0.1:{port}")
            assert near.component("transport").status == "healthy", "it is no fault of this node"
            wait_until(lambda: near.get("/circuit-breaker/state") == (200, "open"), "it is left alone")
            row = near.get("/circuit-breakers")[1]["c"]
            assert row["tripped_by"] in ("3 failures in a row", "a probe failed")
            assert "Connection refused" in row["reason"]
            assert near.metric("dwcp_manager_circuit_breaker_trips_total", peer="c") >= 1
            with far:
                Told(near, "peers").mended(restarted=False)
                assert near.get("/circuit-breaker/state") == (200, "closed")
                wait_until(lambda: asyncio.run(_reached(config)), "nobody is kept away any more")


async def _reached(config: Config) -> bool:
    async with connect("c", config=config) as peer:
        return await peer.ping() > 0


def test_what_is_rejected_says_by_whom_and_until_when(tmp_path: Path) -> None:
    """To the library, the command line and over HTTP; and a reset lets it through."""
    (port,) = free_ports(1)
    breaker = {"failure_threshold": 1, "timeout": "1h", "max_timeout": "1h"}
    settings = {"health": {"interval": "200ms"}, "circuit_breaker": breaker}
    away = {"peers": {"c": {"address": f"127.0.0.1:{port}", "fingerprint": "sha256:" + "0" * 64}}}
    (tmp_path / "file").write_text("x")
    with Daemon(tmp_path, {**settings, **away}) as daemon:
        options = ["--config", daemon.config_file]

        def send() -> tuple[int, str]:
            done = run_dwcp("send", "-q", *options, tmp_path / "file", "c:inbox/file")
            return done.returncode, done.stderr

        wait_until(
            lambda: (daemon.state_dir / "breakers").exists() and send()[1].count("circuit breaker") == 1, "rejected"
        )
        code, words = send()
        assert code == 5
        assert re.search(r"circuit breaker of 'c' is open until \d\d:\d\d:\d\d UTC \(another 3[56]\d\d s\)", words)
        assert f"cannot connect to 127.0.0.1:{port}: Connection refused" in words
        assert "`dwcp breaker reset c`" in words
        assert "Connection refused" in run_dwcp("ping", *options, "c").stderr, "who wants to know is told"
        listed = run_dwcp("breaker", "list", *options).stdout
        assert re.match(r"c: open, tried again in \S+, opened by 1 failures in a row: cannot connect", listed)
        assert json.loads(run_dwcp("breaker", "list", "--json", *options).stdout)["c"]["state"] == "open"
        assert run_dwcp("breaker", "reset", "nobody", *options).returncode == 3
        assert run_dwcp("breaker", "reset", "c", *options).stdout == "the circuit breaker of c is closed\n"
        assert run_dwcp("breaker", "reset", *options).stdout == "all circuit breakers are closed\n"
        assert run_dwcp("send", "-q", *options, tmp_path / "file", "c:inbox/file").returncode == 5
        wait_until(lambda: send()[1].count("circuit breaker") == 1, "it fails again")
        daemon.signal(signal.SIGKILL)
        daemon.running.wait()
        assert "Connection refused" in send()[1], "what a manager said that was killed counts no more"


# -- what a process can run out of -------------------------------------------------------------------------------------

ON_A_SMALL_DISK = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"')


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Daemon]:
    """A manager whose state directory is a file system of 2 MB, which only it sees."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    state = tmp_path / "state"
    state.mkdir()
    tried = subprocess.run([*ON_A_SMALL_DISK, state, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"cannot mount here: {tried.stderr.strip()}")
    health = {"interval": "200ms", "recovery_backoff": "100ms", "slow_retry_interval": "1s"}
    with Daemon(tmp_path, {"health": health}, prefix=[*ON_A_SMALL_DISK, str(state)]) as daemon:
        yield daemon


@pytest.mark.root
def test_a_disk_that_is_full(small: Daemon) -> None:
    seen = Path(f"/proc/{small.running.pid}/root{small.state_dir}")
    wait_until(lambda: small.get("/health")[1]["status"] == "healthy", "all is well")
    filler = fill(seen)
    wait_until(lambda: small.get("/health")[1]["components"]["state"] == "unhealthy", "it is found")
    document = small.get("/health")[1]
    assert "No space left on device" in document["reasons"]["state"]
    assert document["unhealthy_components"] == ["state"], "the others do their work"
    wait_until(lambda: small.get("/health")[0] == 503, "restarts do not help")
    filler.unlink()
    wait_until(lambda: small.get("/health")[1]["status"] == "healthy", "it is well again, with no restart to wait for")
    assert not [line for line in small.log() if "Traceback" in json.dumps(line)]
    assert small.stop() == 0


def test_descriptors_that_are_used_up(tmp_path: Path) -> None:
    """Nobody is restarted who could not help it; what has its descriptors goes on."""
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    health = {"interval": "200ms", "recovery_backoff": "100ms", "slow_retry_interval": "1s"}
    with Daemon(tmp_path, {"health": health}) as daemon:
        pid = daemon.running.pid
        # made while there are descriptors; a new one is not accepted meanwhile
        kept = http.client.HTTPConnection("127.0.0.1", daemon.http, timeout=DEADLINE)

        def health_now() -> dict[str, Any]:
            kept.request("GET", "/health")
            return dict(json.loads(kept.getresponse().read()))

        wait_until(lambda: health_now()["status"] == "healthy", "all is well")
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (12, before[1]))
        wait_until(lambda: health_now()["components"]["descriptors"] == "unhealthy", "it is found")
        assert "no descriptor is left" in health_now()["reasons"]["descriptors"]
        wait_until(lambda: health_now()["status"] == "unhealthy", "restarts do not help")
        document = health_now()
        assert document["components"]["transport"] != "unhealthy"
        assert document["components"]["http"] != "unhealthy"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        wait_until(lambda: health_now()["status"] == "healthy", "it is well again")
        assert daemon.get("/health")[0] == 200
        restarted = {line["component"] for line in daemon.log() if line["event"] == "component restarts"}
        assert restarted == {"descriptors"}
        kept.close()
        assert daemon.stop() == 0
