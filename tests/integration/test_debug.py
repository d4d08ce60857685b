"""Looking into a manager that runs, over HTTP: profiles, stacks, its configuration, the level of its log."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwcp.api.debug import HIDDEN, without_secrets
from dwcp.api.routes import ENDPOINTS
from tests.integration.test_http import Answer, ask, check, schema_of
from tests.processes import DEADLINE, OWN_NETWORK, Daemon, no_own_network
from tests.support import wait_until
from tests.unit.test_pprof import go_pprof, protoc

DEBUG = [(e.method, e.path) for e in ENDPOINTS if e.path.startswith("/debug/")]
GZIP = b"\x1f\x8b"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon"), {"debug": {"enabled": True}}) as made:
        yield made


@pytest.fixture(scope="module")
def address(daemon: Daemon) -> str:
    return f"127.0.0.1:{daemon.http}"


def test_it_is_off_until_the_configuration_allows_it_and_a_reload_is_enough(tmp_path: Path) -> None:
    with Daemon(tmp_path) as plain:
        address = f"127.0.0.1:{plain.http}"
        assert len(DEBUG) == 6
        for method, path in DEBUG:
            answer = ask(address, method, path)
            assert (answer.status, answer.json["code"]) == (403, "refused"), path
            assert "debug.enabled" in answer.json["message"]
        plain.configure({"debug": {"enabled": True}})
        plain.signal(signal.SIGHUP)
        plain.told_with("READY=1")
        assert ask(address, "GET", "/debug/config").json["debug"]["enabled"] is True


@pytest.mark.parametrize(("method", "path"), DEBUG)
@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_another_sites_page_may_not_even_read(address: str, method: str, path: str, headers: dict[str, str]) -> None:
    assert ask(address, method, path, headers).status == 403


@pytest.mark.root
def test_off_loopback_reading_needs_the_token_too(tmp_path: Path) -> None:
    if reason := no_own_network():
        pytest.skip(reason)
    far = Daemon(tmp_path, prefix=OWN_NETWORK)
    far.configure({"http": {"listen": "10.9.0.1:8080", "tls_listen": ""}, "debug": {"enabled": True}})
    with far:
        token = (far.state_dir / "identity" / "api-token").read_text().strip()

        def status(method: str, path: str, *headers: str) -> int:
            command = [
                "nsenter",
                "--target",
                str(far.running.pid),
                "--net",
                "curl",
                "--silent",
                "--output",
                "/dev/null",
            ]
            command += ["--write-out", "%{http_code}", "-X", method, *headers, f"http://10.9.0.1:8080{path}"]
            return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

        for method, path in DEBUG:
            assert status(method, path) == 401, path
            assert status(method, path, "-H", "Authorization: Bearer wrong") == 401, path
        assert status("GET", "/debug/config", "-H", f"Authorization: Bearer {token}") == 200
        assert status("GET", "/health") == 200


def test_the_heap_as_the_runbook_asks_for_it(address: str, tmp_path: Path) -> None:
    answer = ask(address, "GET", "/debug/pprof/heap")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert answer.body.startswith(GZIP)
    assert "inuse_space" in protoc(answer.body)
    assert re.search(r"MB\s+[\d.]+%.*\(not in Python objects", go_pprof(answer.body, tmp_path, "-top"))


def test_the_heap_by_stack_where_the_configuration_traces_it(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"debug": {"enabled": True, "heap_frames": 4}}) as traced:
        answer = ask(f"127.0.0.1:{traced.http}", "GET", "/debug/pprof/heap")
        assert answer.body.startswith(GZIP)
        text = go_pprof(answer.body, tmp_path, "-top", "-nodecount=1000000", "-nodefraction=0")
        assert "by the stack that allocated, 4 frames deep" in text
        assert "TransportServer.__init__" in text


def test_what_all_threads_do_and_health_is_answered_meanwhile(address: str, daemon: Daemon, tmp_path: Path) -> None:
    connection = http.client.HTTPConnection(address, timeout=DEADLINE)
    connection.request("GET", "/debug/pprof/profile?seconds=2")
    again: Answer | None = None

    def refused() -> bool:
        nonlocal again
        again = ask(address, "GET", "/debug/pprof/profile?seconds=0.01")
        return again.status == 409

    wait_until(refused, "it has begun")
    assert again is not None
    assert again.json["message"].startswith("another CPU profile is being taken")
    assert daemon.get("/health")[0] == 200
    content = connection.getresponse().read()
    connection.close()
    assert "dwcp-accept" in protoc(content)
    text = go_pprof(content, tmp_path, "-traces", "-sample_index=wall")
    assert re.search(r"thread:\s*dwcp-accept\n\s+[12][.\d]*s.*", text)
    assert "TransportServer._accept" in text


def test_a_profile_that_nobody_waits_for_is_left_off(address: str, daemon: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.http)) as sock:
        sock.sendall(b"GET /debug/pprof/profile?seconds=300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: ask(address, "GET", "/debug/pprof/profile?seconds=0.01").status == 409, "it has begun")
    wait_until(lambda: ask(address, "GET", "/debug/pprof/profile?seconds=0.01").status == 200, "it has ended")


def test_a_profile_does_not_keep_the_manager_from_stopping(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"debug": {"enabled": True}}) as stopped:
        address = f"127.0.0.1:{stopped.http}"
        with socket.create_connection(("127.0.0.1", stopped.http)) as sock:
            sock.sendall(b"GET /debug/pprof/profile?seconds=300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: ask(address, "GET", "/debug/pprof/profile?seconds=0.01").status == 409, "it has begun")
            assert stopped.stop() == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "301", "nan", "inf", "ten", ""])
def test_a_duration_that_cannot_be_is_refused(address: str, seconds: str) -> None:
    answer = ask(address, "GET", f"/debug/pprof/profile?seconds={seconds}")
    assert (answer.status, answer.json["code"]) == (400, "usage")
    assert "300 at most" in answer.json["message"]


def test_threads_and_tasks(address: str) -> None:
    document = ask(address, "GET", "/debug/threads").json
    check(document, schema_of("/debug/threads"), "threads")
    by_name = {entry["name"]: entry for entry in document["threads"]}
    assert by_name["dwcp-accept"]["stack"][0]["function"] in {"socket.accept", "TransportServer._accept"}
    assert by_name["MainThread"]["cpu_seconds"] > 0
    tasks = {entry["name"]: [frame["function"] for frame in entry["stack"]] for entry in document["tasks"]}
    assert "Runner._run" in tasks["dwcp-supervisor"]


def test_the_configuration_in_force(address: str, daemon: Daemon) -> None:
    answer = ask(address, "GET", "/debug/config")
    assert answer.json["storage"]["state_dir"] == str(daemon.state_dir)
    assert answer.json["transport"]["read_timeout"] == "1m"
    assert (daemon.state_dir / "identity" / "api-token").read_text().strip().encode() not in answer.body


def test_secrets_of_a_configuration_are_not_shown() -> None:
    shown = without_secrets(
        {
            "api_token": "s3cret",
            "a": [{"password": "s3cret", "tls": {"private_key": "s3cret", "key_file": "/k"}}],
            "endpoint": "https://user:s3cret@etcd.example:2379/x",
            "token": "",
            "secret": {"inner": "s3cret"},
        }
    )
    assert "s3cret" not in json.dumps(shown)
    assert shown["a"][0]["tls"] == {"private_key": HIDDEN, "key_file": "/k"}
    assert shown["endpoint"] == f"https://{HIDDEN}@etcd.example:2379/x"
    assert shown["token"] == ""


def test_the_logs_level_is_changed_live_and_a_reload_takes_it_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"debug": {"enabled": True}}) as logging:
        address = f"127.0.0.1:{logging.http}"
        path = "/debug/log-level"

        assert ask(address, "GET", path).json == {"level": "info", "configured": "info"}
        answer = ask(address, "POST", f"{path}?level=error")
        assert answer.json == {"level": "error", "configured": "info"}
        check(answer.json, schema_of(path, "post"), path)
        change = logging.log()[-1]
        assert (change["event"], change["was"], change["now"]) == (
            "log level changes, asked over HTTP",
            "info",
            "error",
        )
        lines = len(logging.log())
        logging.signal(signal.SIGHUP)
        logging.told_with("READY=1")
        wait_until(lambda: len(logging.log()) == lines + 1, "what was read is logged again")
        assert logging.log()[-1]["event"] == "configuration was read again"
        assert ask(address, "GET", path).json["level"] == "info"
        for wrong in ("loud", ""):
            answer = ask(address, "POST", f"{path}?level={wrong}")
            assert (answer.status, answer.json["code"]) == (400, "usage")
