"""Everything that HTTP answers, asked of managers that run: what it says, to whom, and what it refuses."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from dwcp.api.routes import ENDPOINTS
from dwcp.testing.lab import Lab
from tests.processes import DEADLINE, OWN_NETWORK, Daemon, clean_environment, no_own_network
from tests.support import random_file, wait_until

READING = [
    "/health",
    "/live",
    "/ready",
    "/circuit-breaker/state",
    "/circuit-breakers",
    "/transfers",
    "/status",
    "/limit",
]
OTHERS = ["/metrics", "/openapi.json"]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def ask(address: str, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Of the HTTP listener at HOST:PORT."""
    connection = http.client.HTTPConnection(address, timeout=DEADLINE)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A manager with a peer that is away."""
    peers = {"away": {"address": "127.0.0.1:1", "fingerprint": f"sha256:{'0' * 64}"}}
    with Daemon(tmp_path_factory.mktemp("daemon"), {"peers": peers}) as made:
        yield made


@pytest.fixture(scope="module")
def address(daemon: Daemon) -> str:
    return f"127.0.0.1:{daemon.http}"


# -- what is answered --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*READING, *OTHERS])
def test_reading_answers_200_and_may_not_be_cached_or_framed(address: str, path: str) -> None:
    answer = ask(address, "GET", path)
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers


@pytest.mark.parametrize("path", [*READING, *OTHERS])
def test_head_answers_as_get_without_a_body(address: str, path: str) -> None:
    answer = ask(address, "HEAD", path)
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0
    assert answer.headers["content-type"] == ask(address, "GET", path).headers["content-type"]


def test_live_and_ready(address: str) -> None:
    assert ask(address, "GET", "/live").json == {"status": "alive"}
    assert ask(address, "GET", "/ready").json["status"] == "ready"


def test_breakers_by_peer(address: str) -> None:
    breakers = ask(address, "GET", "/circuit-breakers").json
    assert list(breakers) == ["away"]
    assert breakers["away"]["state"] == "closed"


def test_status_tells_who_the_node_is(address: str, daemon: Daemon) -> None:
    document = ask(address, "GET", "/status").json
    assert document["node"] == "n"
    assert re.fullmatch("sha256:[0-9a-f]{64}", document["fingerprint"])
    assert document["addresses"] == {
        "http": address,
        "https": f"127.0.0.1:{daemon.https}",
        "transport": f"127.0.0.1:{daemon.transport}",
    }
    assert document["peers"]["away"]["address"] == "127.0.0.1:1"
    assert document["peers"]["away"]["latency_milliseconds"] is None
    assert {"congestion_algorithm", "send_buffer_size", "recv_buffer_size", "pacing_rate"} <= set(document["sockets"])


def test_a_node_that_is_not_enabled_says_so_and_is_healthy(tmp_path: Path) -> None:
    config = tmp_path / "off.yaml"
    config.write_text("enabled: false\n")
    off = Daemon(tmp_path, files=[tmp_path / "config.yaml", config])
    off.configure({})
    with off:
        document = off.get("/health")[1]
        assert (document["status"], document["enabled"]) == ("healthy", False)
        assert "transport" not in document["components"]
        assert off.get("/circuit-breaker/state") == (200, "closed")
        assert off.get("/status")[0] == 200


# -- what is not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/nope", "/dashboard/", "/dashboard/nope.js", "/health/", "/transfers/", "/transfers/a/b", "/circuit-breaker"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_where_nothing_is_a_404_says_where_to_look(address: str, method: str, path: str) -> None:
    answer = ask(address, method, path)
    assert answer.status == 404
    assert answer.json == {
        "code": "not-found",
        "message": f"nothing is at {path}; /openapi.json lists what there is",
    }
    assert "x-content-type-options" in answer.headers


def test_another_method_gets_405_with_those_that_are_allowed(address: str) -> None:
    allowed: dict[str, set[str]] = {path: {"GET"} for path in OTHERS}
    for endpoint in ENDPOINTS:
        allowed.setdefault(endpoint.path.replace("{id}", "x"), set()).add(endpoint.method)
    for path, methods in allowed.items():
        methods |= {"HEAD"} & {"HEAD" if "GET" in methods else ""}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - methods:
            answer = ask(address, method, path)
            assert answer.status == 405, (method, path)
            assert set(answer.headers["allow"].split(", ")) == methods
            assert answer.json["code"] == "usage"
            assert answer.headers["allow"] in answer.json["message"]


def test_what_does_not_exist_or_is_not_meant_is_named(address: str) -> None:
    cases = {
        ("GET", "/transfers/nope"): (404, "not-found", "no transfer 'nope' here; GET /transfers lists them"),
        ("DELETE", "/transfers/nope"): (404, "not-found", "no running transfer 'nope' here"),
        ("POST", "/transfers/nope/cancel"): (404, "not-found", "no running transfer 'nope' here"),
        ("POST", "/transfers/nope/pause"): (404, "not-found", "no running transfer 'nope' here"),
        ("POST", "/transfers/nope/resume"): (404, "not-found", "no running transfer 'nope' here"),
        ("POST", "/circuit-breaker/reset?peer=nope"): (
            404,
            "not-found",
            "no circuit breaker for 'nope'; there are: aw",
        ),
        ("GET", "/transfers?state=nope"): (400, "usage", "state is one of running, done, failed, cancelled"),
    }
    for (method, path), (status, code, words) in cases.items():
        answer = ask(address, method, path)
        assert (answer.status, answer.json["code"]) == (status, code)
        assert words in answer.json["message"]


@pytest.mark.parametrize("request_bytes", [b"\x16\x03\x01\x02\x00" * 50, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000])
def test_what_is_no_request_is_turned_away_and_nothing_else_suffers(daemon: Daemon, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", daemon.http), timeout=DEADLINE) as sock:
        try:
            sock.sendall(request_bytes)
            answer = sock.recv(1000)
        except ConnectionError:
            answer = b""
    assert answer == b"" or b" 400 " in answer.splitlines()[0]
    assert daemon.get("/live")[0] == 200


# -- who may change something ------------------------------------------------------------------------------------------

RESET = "/circuit-breaker/reset"


def test_on_loopback_it_is_asked_for_no_token(address: str) -> None:
    port = address.rpartition(":")[2]
    for host in (address, f"localhost:{port}", f"[::1]:{port}", "localhost", "127.0.0.2"):
        answer = ask(address, "POST", RESET, {"Host": host})
        assert (answer.status, answer.json) == (200, {"state": "closed"}), host


def test_a_page_of_this_node_may(address: str) -> None:
    assert ask(address, "POST", RESET, {"Origin": f"http://{address}", "Sec-Fetch-Site": "same-origin"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", RESET), ("DELETE", "/transfers/x"), ("POST", "/transfers/x/cancel"), ("POST", "/transfers/x/pause")],
)
def test_another_sites_page_may_not(address: str, method: str, path: str, headers: dict[str, str]) -> None:
    answer = ask(address, method, path, headers)
    assert (answer.status, answer.json["code"]) == (403, "refused")
    assert "other sites' pages" in answer.json["message"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.9.0.1:8080", ""])
def test_a_name_that_was_made_to_point_here_may_not(address: str, host: str) -> None:
    """DNS rebinding: the browser thinks that it talks to the site whose page it shows."""
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert ask(address, "POST", RESET, headers).status in (400, 403)


@pytest.mark.root
def test_off_loopback_a_token_is_needed(tmp_path: Path) -> None:
    if reason := no_own_network():
        pytest.skip(reason)
    far = Daemon(tmp_path, prefix=OWN_NETWORK)
    far.configure({"http": {"listen": "10.9.0.1:8080", "tls_listen": "10.9.0.1:8443"}})
    with far:
        token = (far.state_dir / "identity" / "api-token").read_text().strip()
        assert (far.state_dir / "identity" / "api-token").stat().st_mode & 0o777 == 0o600

        def curl(*arguments: str) -> tuple[int, str]:
            inside = ["nsenter", "--target", str(far.running.pid), "--net"]
            command = [
                *inside,
                "curl",
                "--silent",
                "--insecure",
                "--max-time",
                "10",
                "--write-out",
                "\n%{http_code}",
                *arguments,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            body, _, status = done.stdout.rpartition("\n")
            return int(status), body

        for base in ("http://10.9.0.1:8080", "https://10.9.0.1:8443"):
            assert curl(f"{base}/health")[0] == 200
            for headers in ([], ["-H", "Authorization: Bearer wrong"], ["-H", f"Authorization: Basic {token}"]):
                status, body = curl("-X", "POST", *headers, base + RESET)
                assert status == 401
                assert json.loads(body)["code"] == "authentication"
                assert "identity/api-token" in body
                assert token not in body
            assert curl("-X", "DELETE", f"{base}/transfers/x")[0] == 401
            # the page itself holds no secret, and asks for the token
            assert curl(f"{base}/")[0] == 200
            assert [curl(base + path)[0] for path in ("/events", "/config")] == [401, 401]
            good = ["-H", f"Authorization: Bearer {token}"]
            assert curl("-X", "POST", *good, base + RESET) == (200, '{"state":"closed"}')
            # a stolen token is of no use to another site's page
            assert curl("-X", "POST", *good, "-H", "Origin: http://evil.example", base + RESET)[0] == 403
        assert curl("--head", "-X", "POST", "http://10.9.0.1:8080" + RESET)[1].count("www-authenticate: Bearer") == 1
        assert far.stop() == 0


def test_https_with_the_nodes_own_certificate(daemon: Daemon) -> None:
    context = ssl.create_default_context(cafile=daemon.state_dir / "identity" / "node.crt")
    for host in ("127.0.0.1", "localhost"):
        connection = http.client.HTTPSConnection(host, daemon.https, context=context, timeout=DEADLINE)
        connection.request("GET", "/health")
        assert isinstance(connection.sock, ssl.SSLSocket)
        assert connection.sock.version() == "TLSv1.3"
        answer = connection.getresponse()
        # a peer of this node is away
        assert (answer.status, json.loads(answer.read())["status"] in ("healthy", "degraded")) == (200, True)
        connection.close()
    old = ssl.create_default_context(cafile=daemon.state_dir / "identity" / "node.crt")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        http.client.HTTPSConnection("127.0.0.1", daemon.https, context=old, timeout=DEADLINE).request("GET", "/health")


def test_a_listener_can_be_left_out(tmp_path: Path) -> None:
    with Daemon(tmp_path, {"http": {"tls_listen": ""}}) as plain:
        assert "https" not in plain.get("/status")[1]["addresses"]


# -- transfers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes whose transfers take long enough to be looked at."""
    directory = tmp_path_factory.mktemp("lab")
    random_file(directory / "content", 20_000_000)
    transport = {"enable_pacing": True, "pacing_rate": "16Mbit/s", "congestion_algorithm": "cubic"}
    with Lab.up(directory, 2, {"transport": transport}) as lab:
        yield lab


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/transfers/{id}"), ("POST", "/transfers/{id}/cancel")])
def test_a_live_transfer_is_listed_shown_and_cancelled(slow_lab: Lab, method: str, path: str) -> None:
    sender, receiver = slow_lab.nodes
    address = receiver.http_url.removeprefix("http://")
    name = method.lower()
    command = [sys.executable, "-m", "dwcp.cli", "send", "--json", "--config", str(sender.config_file)]
    process = subprocess.Popen(
        [*command, str(slow_lab.directory / "content"), f"{receiver.name}:inbox/{name}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )

    def running() -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = ask(address, "GET", "/transfers?state=running").json
        return listed

    wait_until(lambda: bool(running()) and running()[0]["bytes_done"] > 0, "it is under way")
    listed = running()[0]
    one = ask(address, "GET", f"/transfers/{listed['id']}").json
    check(one, schema_of("/transfers/{id}"), "transfer")
    assert (one["role"], one["peer"], one["target"]) == ("receive", "node1", f"inbox/{name}")
    assert (one["state"], one["bytes_total"], one["files_total"]) == ("running", 20_000_000, 1)
    assert 0 < one["bytes_done"] < one["bytes_total"]
    assert one["rate_bits_per_second"] > 0
    assert one["eta_seconds"] > 0
    for action, state, paused in (("pause", "pausing", True), ("resume", "resuming", False)):
        answer = ask(address, "POST", f"/transfers/{one['id']}/{action}")
        assert (answer.status, answer.json) == (202, {"id": one["id"], "state": state})
        wait_until(lambda paused=paused: running()[0]["paused"] is paused, action)  # type: ignore[misc]
    answer = ask(address, method, path.format(id=one["id"]))
    assert (answer.status, answer.json) == (202, {"id": one["id"], "state": "cancelling"})
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["code"] == "interrupted"
    wait_until(lambda: not running(), "it has ended")
    ended = ask(address, "GET", f"/transfers/{one['id']}").json
    assert ended["state"] == "cancelled"
    assert ended in ask(address, "GET", "/transfers?state=cancelled").json
    assert ended not in ask(address, "GET", "/transfers?state=done").json
    assert not (receiver.inbox / name).exists()
    # it has ended, so there is nothing left to cancel
    assert ask(address, method, path.format(id=one["id"])).status == 404


# -- the OpenAPI document ----------------------------------------------------------------------------------------------

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def schema_of(path: str, method: str = "get", status: str = "200") -> dict[str, Any]:
    from dwcp.api.routes import openapi

    content = openapi("0")["paths"][path][method]["responses"][status]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema


def check(value: Any, schema: Mapping[str, Any], where: str) -> None:
    """The part of JSON Schema that the document uses; besides, an object may have no property that is not described."""
    assert schema.keys() <= {"type", "enum", "properties", "required", "items", "additionalProperties"}, where
    if "enum" in schema:
        assert value in schema["enum"], where
    kinds = schema.get("type", [])
    if kinds:
        allowed = tuple(t for kind in ([kinds] if isinstance(kinds, str) else kinds) for t in TYPES[kind])
        assert isinstance(value, allowed), f"{where} is {value!r}"
        assert bool in allowed or not isinstance(value, bool), where
    assert set(schema.get("required", ())) <= (value.keys() if isinstance(value, dict) else set()), where
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        other = schema.get("additionalProperties")
        for key, item in value.items():
            assert key in properties or other is not None, f"{where}.{key} is not described"
            check(item, properties.get(key, other), f"{where}.{key}")
    if isinstance(value, list):
        for item in value:
            check(item, schema["items"], f"{where}[]")


@pytest.fixture(scope="module")
def document(address: str) -> dict[str, Any]:
    answer: dict[str, Any] = ask(address, "GET", "/openapi.json").json
    return answer


def test_the_document_is_openapi(document: dict[str, Any]) -> None:
    """OpenAPI 3.1: what is required of the parts that it uses."""
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"]
    assert document["info"]["version"]
    for path, item in document["paths"].items():
        assert path.startswith("/")
        templated = set(re.findall(r"{(\w+)}", path))
        for method, operation in item.items():
            assert method in {"get", "post", "put", "delete"}
            assert operation["summary"]
            parameters = operation.get("parameters", [])
            assert {p["name"] for p in parameters if p["in"] == "path" and p["required"] is True} == templated
            assert all(p["in"] in ("path", "query") and p["schema"].keys() & {"type", "enum"} for p in parameters)
            assert operation["responses"]
            for status, response in operation["responses"].items():
                assert re.fullmatch("[2-5][0-9]{2}", status)
                assert response["description"]
                assert len(response["content"]) == 1
            for requirement in operation.get("security", []):
                assert requirement.keys() <= document["components"]["securitySchemes"].keys()
    for name in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in document["components"]["schemas"]


def test_the_document_lists_what_is_routed_and_nothing_else(address: str, document: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(e.method, e.path) for e in ENDPOINTS} | {("GET", path) for path in OTHERS}
    for method, path in described:
        # a stream has no end
        asked = "HEAD" if path == "/events" else method
        answer = ask(address, asked, path.replace("{id}", "nope"))
        expected = document["paths"][path][method.lower()]["responses"]
        assert str(answer.status) in expected, (method, path)
        if answer.status == 404:
            assert "nothing is at" not in answer.json["message"]


@pytest.mark.parametrize("path", READING)
def test_answers_are_as_described(address: str, path: str) -> None:
    check(ask(address, "GET", path).json, schema_of(path), path)


def test_what_changes_something_or_looks_inside_is_described_with_its_token(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            private = path.startswith(("/debug/", "/events", "/config")) or path.endswith("/versions")
            guarded = method != "get" or private
            assert ("security" in operation) is guarded
            assert ({"401", "403"} <= operation["responses"].keys()) is guarded


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_parse_and_none_comes_twice(address: str) -> None:
    answer = ask(address, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    families = list(text_string_to_metric_families(text))
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    samples = [(s.name, tuple(sorted(s.labels.items()))) for family in families for s in family.samples]
    assert len(samples) == len(set(samples))
    assert all(family.documentation for family in families)
    ours = {family.name for family in families if family.name.startswith("dwcp_")}
    assert len(ours) > 20
    assert {"process_resident_memory_bytes", "python_info"} <= {name for name, _ in samples}


def test_openmetrics_where_it_is_asked_for(address: str) -> None:
    answer = ask(address, "GET", "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
    assert any(f.name == "dwcp_manager_uptime_seconds" for f in openmetrics_families(answer.body.decode()))


def test_requests_are_counted_by_route_and_status(address: str) -> None:
    def count(**labels: str) -> float:
        families = text_string_to_metric_families(ask(address, "GET", "/metrics").body.decode())
        return sum(
            s.value
            for family in families
            for s in family.samples
            if s.name == "dwcp_http_requests_total" and s.labels == labels
        )

    labels = {"method": "GET", "route": "/transfers/{id}", "status": "404"}
    before = count(**labels)
    ask(address, "GET", f"/transfers/{os.getpid()}")
    ask(address, "HEAD", "/transfers/other")
    assert count(**labels) == before + 2
