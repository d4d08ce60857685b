"""What monitoring asks for is answered by a process of its own; nobody who asks can disturb the node."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwcp.testing.lab import Lab
from tests.disturbance import STATUS, children, disturbed_transfer, memory
from tests.integration.test_http import ask
from tests.processes import DEADLINE, Daemon
from tests.support import random_file, wait_until

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIVE = HEALTH.replace(b"/health", b"/live")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings = {"health": {"interval": "200ms", "recovery_backoff": "50ms"}}
    with Daemon(tmp_path_factory.mktemp("daemon"), settings) as made:
        yield made


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.http), timeout=DEADLINE)


def answers(sock: socket.socket, count: int) -> list[bytes]:
    """Status lines and bodies of the next answers on a connection."""
    with sock.makefile("rb") as stream:
        got = []
        for _ in range(count):
            head = b"".join(iter(stream.readline, b"\r\n"))
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None, head
            got.append(head.split(b"\r\n")[0] + b" " + stream.read(int(length[1])))
        return got


# -- the same answers as from the manager ------------------------------------------------------------------------------


def test_the_process_and_the_manager_answer_on_one_connection_in_order(daemon: Daemon) -> None:
    with connect(daemon) as sock:
        sock.sendall(HEALTH + LIVE + STATUS + HEALTH)
        health, live, status, again = answers(sock, 4)
    assert health.startswith(b'HTTP/1.1 200 OK {"status":"healthy"')
    assert live == b'HTTP/1.1 200 OK {"status":"alive"}'
    assert b'"fingerprint"' in status
    assert again.startswith(b'HTTP/1.1 200 OK {"status":"healthy"')


@pytest.mark.parametrize("request_bytes", [HEALTH, STATUS])
def test_a_head_that_comes_byte_by_byte_is_answered(daemon: Daemon, request_bytes: bytes) -> None:
    with connect(daemon) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request_bytes:
            sock.sendall(bytes([byte]))
        assert answers(sock, 1)[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (HEALTH.replace(b"Host", b"Ho st"), 400),
        (HEALTH.replace(b"localhost", b"local\0host"), 400),
        (HEALTH.replace(b"GET", b"POST"), 405),
        (HEALTH.replace(b"/health", b"/health?x=1"), 200),
        (HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), 200),
        (HEALTH.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi"), 200),
    ],
)
def test_what_is_no_plain_question_is_judged_by_the_manager(daemon: Daemon, request_bytes: bytes, status: int) -> None:
    with connect(daemon) as sock:
        sock.sendall(request_bytes)
        assert sock.recv(100).startswith(b"HTTP/1.1 %d " % status)


def test_who_says_close_is_told_so_and_closed(daemon: Daemon) -> None:
    with connect(daemon) as sock:
        sock.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = b"".join(iter(lambda: sock.recv(4096), b""))
    assert b"\r\nconnection: close\r\n" in received


def test_a_change_over_http_shows_in_the_next_answer(tmp_path: Path) -> None:
    settings = {
        "health": {"interval": "1h"},
        "circuit_breaker": {"failure_threshold": 1, "timeout": "1h", "max_timeout": "1h"},
        "peers": {"away": {"address": "127.0.0.1:1", "fingerprint": "sha256:" + "0" * 64}},
    }
    with Daemon(tmp_path, settings) as node:
        wait_until(lambda: node.get("/health")[1]["circuit_breaker"] == "open", "the breaker opens")
        assert node.ask("POST", "/circuit-breaker/reset")[0] == 200
        assert node.get("/health")[1]["circuit_breaker"] == "closed"


def test_what_it_answers_is_counted_among_the_rest(daemon: Daemon) -> None:
    def count(name: str) -> float:
        text = ask(f"127.0.0.1:{daemon.http}", "GET", "/metrics").body.decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    # no other test here asks for this one of the module's daemon
    requests = 'dwcp_http_requests_total{method="GET",route="/ready",status="200"}'
    timed = 'dwcp_http_request_seconds_count{method="GET",route="/ready"}'
    before = count(requests)
    assert count(timed) == before
    for _ in range(3):
        daemon.get("/ready")
    wait_until(lambda: count(requests) == before + 3, "they are counted")
    assert count(timed) == before + 3


# -- when one of the two fails -----------------------------------------------------------------------------------------


def test_a_manager_that_stands_still_is_answered_for_and_then_called_unhealthy(tmp_path: Path) -> None:
    with Daemon(tmp_path) as node:
        node.signal(signal.SIGSTOP)
        assert node.get("/health")[0] == 200
        wait_until(lambda: node.get("/health")[0] == 503, "it is found")
        document = node.get("/health")[1]
        assert document["status"] == "unhealthy"
        assert "has not been heard of" in document["error"]
        assert node.get("/live") == (503, {"status": "stuck"})
        assert node.get("/ready")[0] == 503
        node.signal(signal.SIGCONT)
        wait_until(lambda: node.get("/health")[0] == 200, "it is well again")
        assert node.stop() == 0


def test_the_process_is_started_again_when_it_dies(daemon: Daemon) -> None:
    (process,) = children(daemon.running.pid)
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: children(daemon.running.pid) not in ([], [process]), "another one is there")

    def well() -> bool:
        try:
            return bool(daemon.get("/health")[0] == 200)
        except OSError:
            return False

    wait_until(well, "it answers")


def test_the_process_ends_with_a_manager_that_is_killed(tmp_path: Path) -> None:
    with Daemon(tmp_path) as node:
        (process,) = children(node.running.pid)
        node.signal(signal.SIGKILL)
        node.running.wait()
        wait_until(lambda: not Path(f"/proc/{process}").exists(), "it has ended")


# -- who would disturb -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes whose transfers take some seconds."""
    directory = tmp_path_factory.mktemp("lab")
    random_file(directory / "content", 20_000_000)
    transport = {"enable_pacing": True, "pacing_rate": "80Mbit/s", "congestion_algorithm": "cubic"}
    with Lab.up(directory, 2, {"transport": transport}) as made:
        yield made


def test_a_thousand_connections_disturb_neither_a_transfer_nor_the_memory(lab: Lab) -> None:
    disturbed_transfer(lab, 1000)


def test_a_connection_that_never_asks_whole_is_ended(lab: Lab) -> None:
    """Over TLS too."""
    node = lab.nodes[0]
    status = ask(node.http_url.removeprefix("http://"), "GET", "/status").json
    host, _, port = status["addresses"]["https"].rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", int(node.http_url.rpartition(":")[2])), timeout=DEADLINE)
    secret = context.wrap_socket(socket.create_connection((host, int(port)), timeout=DEADLINE))
    over = threading.Event()

    def drip(sock: socket.socket) -> None:
        """A byte of a header now and then is no excuse."""
        try:
            while not over.wait(0.2):
                sock.sendall(b"a")
        except OSError:
            return

    for sock in (plain, secret):
        sock.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\nA: ")
        threading.Thread(target=drip, args=(sock,)).start()
    for sock in (plain, secret):
        try:
            assert sock.recv(100) == b""
        except ConnectionError:
            # the bytes that came after the end were answered with a reset
            continue
    over.set()
    plain.close()
    secret.close()


@pytest.mark.parametrize("head", [b"A: b\r\n" * 20_000, b"A: " + b"b" * 200_000 + b"\r\n"])
@pytest.mark.parametrize("path", [b"/health", b"/status"])
def test_a_huge_head_is_refused(daemon: Daemon, path: bytes, head: bytes) -> None:
    with connect(daemon) as sock:
        try:
            sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + head)
            answer = sock.recv(100)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert daemon.get("/health")[0] == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 100000000", b"Transfer-Encoding: chunked"])
def test_a_huge_body_is_not_kept(daemon: Daemon, framing: bytes) -> None:
    before = memory(daemon.running.pid)
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    sent = 0
    with connect(daemon) as sock:
        try:
            sock.sendall(b"POST /circuit-breaker/reset HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n\r\n")
            while sent < 100_000_000:
                sent += sock.send(chunk)
        except ConnectionError:
            # not read to the end
            pass
    assert memory(daemon.running.pid) - before < 30 * 2**20
    assert daemon.get("/health")[0] == 200
