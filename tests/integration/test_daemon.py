"""`dwcp-manager` as a process: how it starts, tells, reloads and stops."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dwcp.config import load_config
from dwcp.store.identity import load_or_create
from tests.processes import Daemon, clean_environment, run_manager
from tests.support import wait_until


def test_it_tells_the_service_manager_how_it_goes(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, environment={"WATCHDOG_USEC": "200000"})
    with daemon:
        assert daemon.told_with("WATCHDOG=1") == ["WATCHDOG=1"]
        assert daemon.told_with("STATUS=")[0] == "STATUS=healthy, 0 transfers"
        daemon.signal(signal.SIGHUP)
        reloading = daemon.told_with("RELOADING=1")
        assert reloading[1].startswith("MONOTONIC_USEC=")
        assert daemon.told_with("READY=1")
        daemon.signal(signal.SIGTERM)
        assert daemon.told_with("STOPPING=1")
        assert daemon.running.wait(20) == 0
    events = [line["event"] for line in daemon.log()]
    assert events.index("node is up") < events.index("stopping") < events.index("node is down")


def test_a_watchdog_for_another_process_is_not_fed(tmp_path: Path) -> None:
    from dwcp.manager.sdnotify import Notifier

    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_seconds is None
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 0.5


def test_reloading_applies_what_can_be_applied_and_names_the_rest(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.configure({"transport": {"pacing_rate": "5Mbit/s", "min_streams": 2}, "http": {"listen": "127.0.0.1:1"}})
        daemon.signal(signal.SIGHUP)
        daemon.told_with("READY=1")
        line = next(line for line in daemon.log() if line["event"] == "configuration was read again")
        assert line["needs_restart"] == ["http.listen"]
        assert line["applied"] == ["transport.min_streams", "transport.pacing_rate"]
        assert daemon.get("/status")[1]["sockets"]["pacing_rate"].startswith("5.0 Mbit/s")

        daemon.config_file.write_text("transport: {max_streams: lots}\n")
        daemon.signal(signal.SIGHUP)
        daemon.told_with("READY=1")
        refused = [line for line in daemon.log() if line["event"] == "configuration is not taken over"]
        assert "transport.max_streams: found 'lots'" in refused[0]["problem"]
        assert daemon.get("/health")[1]["status"] == "healthy"


def test_a_second_manager_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        second = run_manager("--config", daemon.config_file)
        assert second.returncode == 7
        assert (
            f"another manager (pid {daemon.running.pid}) uses the state directory {daemon.state_dir}" in second.stderr
        )
        assert "Traceback" not in second.stderr


def test_after_kill_9_the_next_one_starts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with Daemon(tmp_path / "a") as first:
        first.signal(signal.SIGKILL)
        first.running.wait()
    with Daemon(tmp_path / "a") as second:
        assert second.get("/health")[0] == 200
        assert second.stop() == 0


def test_a_taken_port_is_named_and_everything_is_stopped_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Daemon(tmp_path / "a") as first:
        second = Daemon(tmp_path / "b")
        second.configure({"http": {"listen": f"127.0.0.1:{first.http}"}})
        done = run_manager("--config", second.config_file)
        assert done.returncode == 7
        assert f"cannot listen on 127.0.0.1:{first.http}" in done.stderr
        assert "http.listen" in done.stderr
        assert "Traceback" not in done.stderr
        second.configure({"transport": {"listen": f"127.0.0.1:{first.transport}"}})
        done = run_manager("--config", second.config_file)
        assert done.returncode != 0
        assert "transport.listen" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_wrong_configuration_ends_with_2_and_all_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("transport:\n  max_strems: 3\n  min_streams: 0\n")
    for arguments in (["--config", path], ["--config", path, "--validate"]):
        done = run_manager(*arguments)
        assert done.returncode == 2
        assert f"{path}:2:3: transport.max_strems: unknown key" in done.stderr
        assert f"{path}:3:3: transport.min_streams: found 0" in done.stderr
        assert "Traceback" not in done.stderr
    assert "Failed to start DWCP manager\nError: invalid configuration" in run_manager("--config", path).stderr


def test_validate_and_print_config(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("transport: {max_streams: 300}\n")
    done = run_manager("--config", path, "--validate")
    assert done.returncode == 0
    assert done.stdout.startswith("configuration is valid\n")
    assert "16 to 300 streams" in done.stdout

    environment = clean_environment(DWCP_TRANSPORT__MAX_STREAMS="64", DWCP_TRANSPORT__INITIAL_STREAMS="20")
    printed = run_manager("--config", path, "--print-config", "--set", "transport.initial_streams=17", env=environment)
    values = yaml.safe_load(printed.stdout)
    assert (values["transport"]["max_streams"], values["transport"]["initial_streams"]) == (64, 17)
    (tmp_path / "all.yaml").write_text(printed.stdout)
    assert load_config([tmp_path / "all.yaml"]).transport.max_streams == 64


def test_an_ordinary_user_without_configuration_gets_xdg_directories(tmp_path: Path) -> None:
    """In a user namespace of its own, where root is nobody."""
    probe = subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False)
    if os.geteuid() == 0 and probe.returncode:
        pytest.skip("user namespaces are not allowed here")
    command = [sys.executable, "-m", "dwcp.manager.daemon", "--print-config"]
    if os.geteuid() == 0:
        # an empty /var/lib, because root's /var/lib/dwcp is still ours to write there
        alone = 'mount -t tmpfs tmpfs /var/lib && exec unshare --user "$@"'
        command = ["unshare", "--mount", "sh", "-c", alone, "sh", *command]
    elif os.access("/var/lib/dwcp", os.W_OK):
        pytest.skip("this user has been given /var/lib/dwcp")
    environment = clean_environment(HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path / "conf"))
    environment.pop("XDG_STATE_HOME", None)
    (tmp_path / "conf" / "dwcp").mkdir(parents=True)
    (tmp_path / "conf" / "dwcp" / "config.yaml").write_text("transport: {max_streams: 77}\n")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if "Permission denied" in done.stderr:
        pytest.skip("the temporary directory is closed to other users")
    values = yaml.safe_load(done.stdout)
    assert values["storage"]["state_dir"] == str(tmp_path / ".local" / "state" / "dwcp")
    assert values["transport"]["max_streams"] == 77


def test_a_lost_state_directory_makes_it_unhealthy_until_it_has_recovered(tmp_path: Path) -> None:
    settings = {"health": {"interval": "100ms", "recovery_backoff": "50ms", "slow_retry_interval": "1s"}}
    with Daemon(tmp_path, settings) as daemon:
        state = daemon.state_dir
        # where a file is in the way of the directory, not even root can write to it
        state.rename(tmp_path / "aside")
        state.write_text("in the way")
        wait_until(lambda: daemon.get("/health")[0] == 503, "the node is unhealthy")
        document = daemon.get("/health")[1]
        assert document["status"] == "unhealthy"
        assert "state" in document["unhealthy_components"]
        assert str(state) in document["error"]
        assert daemon.get("/ready")[0] == 503
        assert daemon.get("/live")[0] == 200
        state.unlink()
        (tmp_path / "aside").rename(state)
        wait_until(lambda: daemon.get("/health")[1]["status"] == "healthy", "the node has recovered")
        assert daemon.stop() == 0


def test_the_breaker_of_a_peer_that_is_away_opens_and_can_be_reset(tmp_path: Path) -> None:
    settings = {
        "health": {"interval": "100ms"},
        "circuit_breaker": {"failure_threshold": 2, "timeout": "1h", "max_timeout": "1h"},
        "peers": {"away": {"address": "127.0.0.1:1", "fingerprint": "sha256:" + "0" * 64}},
    }
    with Daemon(tmp_path, settings) as daemon:
        wait_until(lambda: daemon.get("/circuit-breaker/state") == (200, "open"), "the breaker opens")
        status, document = daemon.get("/health")
        assert document["circuit_breaker"] == document["components"]["circuit_breaker"] == "open"
        assert (status, document["status"]) == (200, "degraded")
        breaker = daemon.get("/circuit-breakers")[1]["away"]
        assert breaker["state"] == "open"
        assert "127.0.0.1:1" in breaker["reason"]
        assert daemon.ask("POST", "/circuit-breaker/reset?peer=nobody")[0] == 404
        assert daemon.ask("POST", "/circuit-breaker/reset?peer=away") == (200, {"state": "closed"})


def test_https_shows_a_renewed_certificate_without_a_restart(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"health": {"interval": "100ms"}}) as daemon:
        identity = daemon.state_dir / "identity"
        first = ssl.get_server_certificate(("127.0.0.1", daemon.https))
        assert first.split() == (identity / "node.crt").read_text().split()
        (identity / "new").write_text("damaged")
        (identity / "new").replace(identity / "node.crt")
        wait_until(lambda: "not shown by HTTPS" in daemon.log_file.read_text(), "it is told")
        assert ssl.get_server_certificate(("127.0.0.1", daemon.https)) == first
        (tmp_path / "renewed").mkdir()
        (tmp_path / "renewed" / "node.key").write_bytes((identity / "node.key").read_bytes())
        renewed = load_or_create(tmp_path / "renewed", "n")
        renewed.certificate_file.rename(identity / "node.crt")
        wait_until(lambda: ssl.get_server_certificate(("127.0.0.1", daemon.https)) != first, "it is shown")
        shown = ssl.get_server_certificate(("127.0.0.1", daemon.https))
        assert shown.split() == renewed.certificate_pem.decode().split()
        assert daemon.get("/health")[1]["status"] == "healthy"
        assert daemon.stop() == 0
