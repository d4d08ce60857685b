"""The live stream: a snapshot, then what changes; pages that come back, read slowly, or are many."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dwcp.config import Config
from dwcp.dashboard import feed as feed_module
from dwcp.dashboard.feed import Feed
from dwcp.dashboard.patch import apply
from dwcp.errors import TemporaryError
from dwcp.manager.manager import Manager
from dwcp.transfer.board import Role, State, TransferStatus
from tests.processes import DEADLINE, Daemon


@dataclass(frozen=True, slots=True)
class Message:
    id: str
    event: str
    data: Any


def parsed(text: str) -> Message:
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
    return Message(fields["id"], fields["event"], json.loads(fields["data"]))


class Stream:
    """`with Stream(port) as stream:` reads /events as a page does."""

    def __init__(self, port: int, last_event_id: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        self._headers = {"Last-Event-ID": last_event_id} if last_event_id else {}

    def __enter__(self) -> Stream:
        self._connection.request("GET", "/events", headers=self._headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.headers["content-type"].startswith("text/event-stream")
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()
        self._answer.close()

    def next(self) -> Message:
        lines = []
        while line := self._answer.readline().decode().rstrip("\n"):
            lines.append(line)
        return parsed("\n".join(lines))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    peers = {"away": {"address": "127.0.0.1:1", "fingerprint": f"sha256:{'0' * 64}"}}
    with Daemon(tmp_path_factory.mktemp("daemon"), {"peers": peers}) as made:
        yield made


def test_a_snapshot_comes_first_and_has_all_that_there_is(daemon: Daemon) -> None:
    with Stream(daemon.http) as stream:
        first = stream.next()
    assert first.event == "snapshot"
    document = first.data["document"]
    assert document["node"]["name"] == "n"
    assert document["components"]["transport"]["status"] == "healthy"
    assert document["peers"]["away"]["breaker"]["state"] == "closed"
    assert document["transport"]["limit_bits_per_second"] == 1_000_000_000
    assert not {"workloads", "jobs"} & document.keys()
    assert first.data["log"][0]["kind"] == "node"


def test_what_changes_comes_as_a_patch_and_as_the_logs_record(daemon: Daemon) -> None:
    with Stream(daemon.http) as stream:
        document = stream.next().data["document"]
        assert daemon.ask("POST", "/limit?rate=20Mbit/s")[0] == 200
        seen: list[dict[str, Any]] = []
        while not (document["transport"]["limited_by_operator"] and any(r["kind"] == "limit" for r in seen)):
            message = stream.next()
            if message.event == "patch":
                document = apply(document, message.data)
            elif message.event == "log":
                seen += message.data
    assert document["transport"]["limit_bits_per_second"] == 20_000_000
    assert daemon.get("/limit") == (200, {"bits_per_second": 20_000_000, "by_operator": True})


@pytest.mark.parametrize("rate", ["", "1kbit/s", "fast"])
def test_a_limit_that_is_none_is_refused(daemon: Daemon, rate: str) -> None:
    before = daemon.get("/limit")
    status, problem = daemon.ask("POST", f"/limit?rate={rate}")
    assert (status, problem["code"]) == (400, "usage")
    assert daemon.get("/limit") == before


def test_a_page_that_comes_back_gets_what_it_missed_and_nothing_twice(daemon: Daemon) -> None:
    with Stream(daemon.http) as stream:
        ids = [stream.next().id for _ in range(3)]
    with Stream(daemon.http, ids[1]) as stream:
        again = stream.next()
    assert (again.event != "snapshot", again.id) == (True, ids[2])
    with Stream(daemon.http, "0000-1") as stream:
        assert stream.next().event == "snapshot"


def test_the_stream_ends_when_the_node_stops(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon, Stream(daemon.http) as stream:
        stream.next()
        assert daemon.stop() == 0


def test_the_configuration_in_force_is_shown_without_secrets(daemon: Daemon) -> None:
    status, config = daemon.get("/config")
    assert status == 200
    assert config["node"]["name"] == "n"
    assert daemon.ask("GET", "/config", {"Origin": "http://evil.example"})[0] == 403
    assert daemon.ask("GET", "/events", {"Sec-Fetch-Site": "cross-site"})[0] == 403


# -- in this process ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def feed_of(directory: Path, more: dict[str, Any] | None = None) -> AsyncIterator[tuple[Manager, Feed]]:
    """`more`: sections of the configuration."""
    values = {
        "http": {"listen": "127.0.0.1:0", "tls_listen": ""},
        "transport": {"listen": "127.0.0.1:0"},
        "storage": {"state_dir": str(directory)},
        **(more or {}),
    }
    async with Manager(Config.model_validate(values)) as node:
        feed = Feed(node)
        feed.start()
        try:
            yield node, feed
        finally:
            await feed.stop()


def test_a_thousand_transfers_are_told_once_and_then_only_what_changes(tmp_path: Path) -> None:
    async def run() -> None:
        async with feed_of(tmp_path / "state") as (node, feed):
            done = 0

            def read(status: TransferStatus) -> TransferStatus:
                return replace(status, bytes_done=done)

            for number in range(1000):
                status = TransferStatus(f"t{number}", Role.RECEIVE, f"peer{number % 100}", "inbox/x", bytes_total=10**9)
                node.board.begin(status, read, lambda: None, lambda _: None)
            stream = feed.follow("")
            snapshot = parsed((await anext(stream)).decode())
            assert len(snapshot.data["document"]["transfers"]) == 1000
            done = 10**6
            while (message := parsed((await anext(stream)).decode())).event != "patch":
                pass
            changes = message.data["transfers"]
            assert len(changes) == 1000
            assert changes["t7"]["bytes_done"] == 10**6
            assert "target" not in changes["t7"]
            await stream.aclose()  # type: ignore[attr-defined]
            for number in range(1000):
                node.board.end(f"t{number}", State.DONE)

    asyncio.run(run())


def test_a_workload_is_told_with_what_becomes_of_it_and_only_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    more = {
        "peers": {"away": {"address": "127.0.0.1:1", "fingerprint": f"sha256:{'0' * 64}"}},
        "jobs": {"retries": 0},
        "workloads": {
            "db": {"source": str(tmp_path / "source"), "targets": ["away:inbox/db"], "every": "1h", "max_age": "2h"}
        },
    }

    async def run() -> None:
        async with feed_of(tmp_path / "state", more) as (node, feed):
            stream = feed.follow("")
            document: dict[str, Any] = {}

            async def until(condition: Callable[[], bool]) -> None:
                nonlocal document
                while not (document and condition()):
                    message = parsed((await anext(stream)).decode())
                    if message.event in ("snapshot", "patch"):
                        told = message.data["document"] if message.event == "snapshot" else message.data
                        document = apply({} if message.event == "snapshot" else document, told)

            def first() -> dict[str, Any]:
                return next(iter(document.get("jobs", {"first": {}})["first"].values()), {})

            await until(lambda: first().get("state") == "parked")
            assert first()["target"] == "away:inbox/db"
            assert first()["reason"]
            db = document["workloads"]["db"]
            assert (db["every"], db["max_age"], db["paused"], db["targets"]) == (
                3600,
                7200,
                False,
                {"away:inbox/db": {}},
            )
            assert db["next_run_at"] == pytest.approx(db["asked_at"] + 3600, abs=1)
            await node.workloads.pause("db", paused=True)
            await until(lambda: document["workloads"]["db"]["paused"])
            assert "next_run_at" not in document["workloads"]["db"]
            node.reload(node.config.model_copy(update={"workloads": {}}))
            await until(lambda: not {"workloads", "jobs"} & document.keys())
            await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())


def test_pages_share_one_computation_and_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_FOLLOWERS", 5)

    async def run() -> None:
        async with feed_of(tmp_path / "state") as (_, feed):
            streams = [feed.follow("") for _ in range(5)]
            await anext(streams[0])
            first = await asyncio.gather(*(anext(stream) for stream in streams[1:]))
            assert all(message is first[0] for message in first)
            assert feed.followers == 5
            with pytest.raises(TemporaryError, match="5 pages"):
                feed.follow("")
            for stream in streams:
                await stream.aclose()  # type: ignore[attr-defined]
            assert feed.followers == 0

    asyncio.run(run())


def test_a_page_that_reads_too_slowly_gets_a_snapshot_and_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "RING_MESSAGES", 3)
    monkeypatch.setattr(feed_module, "PERIOD", 0.01)

    async def run() -> None:
        async with feed_of(tmp_path / "state") as (node, feed):
            slow, quick = feed.follow(""), feed.follow("")
            assert parsed((await anext(slow)).decode()).event == "snapshot"
            assert parsed((await anext(quick)).decode()).event == "snapshot"
            for number in range(5):
                status = TransferStatus(f"t{number}", Role.SEND, "b", "inbox/x")
                node.board.begin(status, lambda status: status, lambda: None, lambda _: None)
                while parsed((await anext(quick)).decode()).event != "patch":
                    pass
                node.board.end(f"t{number}", State.DONE)
            message = parsed((await anext(slow)).decode())
            assert message.event == "snapshot"
            assert len(message.data["document"]["transfers"]) >= 4

    asyncio.run(run())


def test_a_node_whose_transport_is_down_is_shown_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with feed_of(tmp_path / "state") as (node, feed):
            await asyncio.to_thread(node._server.stop, 0)
            stream = feed.follow("")
            document = parsed((await anext(stream)).decode()).data["document"]
            assert document["node"]["addresses"].keys() == {"http"}
            await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())


def test_a_fault_while_looking_does_not_end_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "PERIOD", 0.01)

    async def run() -> None:
        async with feed_of(tmp_path / "state") as (node, feed):
            stream = feed.follow("")
            await anext(stream)
            failed = asyncio.Event()

            def fail() -> None:
                failed.set()
                raise ZeroDivisionError

            with monkeypatch.context() as broken:
                broken.setattr(node, "breakers", fail)
                await failed.wait()
            node.board.begin(
                TransferStatus("t", Role.SEND, "b", "inbox/x"), lambda status: status, lambda: None, lambda _: None
            )
            while parsed((await anext(stream)).decode()).event != "patch":
                pass
            await stream.aclose()  # type: ignore[attr-defined]
            node.board.end("t", State.DONE)

    asyncio.run(run())
