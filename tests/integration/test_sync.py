"""What nodes know of each other, between managers on real sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from dwcp.cli.main import main
from dwcp.config import Config
from dwcp.errors import NotFoundError, RefusedError, StateError
from dwcp.store.identity import load_or_create
from dwcp.store.records import Record
from dwcp.store.sync import DIRECTORY, FILE, SyncStore
from dwcp.store.txlog import LogReader
from dwcp.sync.entry import Kind, encode
from dwcp.transfer import shared_state
from dwcp.transfer.node import Node
from dwcp.transfer.shared_state import SharedState
from dwcp.transfer.sync_session import SyncSession
from dwcp.wire import messages as m
from tests.running import Running
from tests.support import Pair, logs_kept, wait_until

STALENESS = 10.0
"""Of the nodes here: time for a busy machine."""
SYNC = {"enabled": True, "sync_interval": "200ms", "max_staleness": "10s"}


class Site:
    """Managers that all know each other."""

    def __init__(self, directory: Path, names: list[str], **sections: dict[str, Any]) -> None:
        self.prints = {name: load_or_create(directory / name / "identity", name).fingerprint for name in names}
        self.nodes: dict[str, Running] = {}
        self._directory = directory
        self._sections = {"sync": SYNC, "health": {"interval": "200ms", "timeout": "20s"}, **sections}

    def __enter__(self) -> Site:
        try:
            for name in self.prints:
                self.start(name)
            self.introduce()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in list(self.nodes):
            self.stop(name)

    def stop(self, name: str) -> None:
        self.nodes.pop(name).__exit__()

    def start(self, name: str) -> Running:
        peers = {other: {"fingerprint": found} for other, found in self.prints.items() if other != name}
        node = Running(self._directory, name, peers=peers, **self._sections)
        self.nodes[name] = node.__enter__()
        return node

    def introduce(self) -> None:
        """Everybody learns where the others are."""
        for name, node in self.nodes.items():
            peers = {
                other: {"fingerprint": found, "address": f"127.0.0.1:{self.nodes[other].port}"}
                for other, found in self.prints.items()
                if other != name
            }
            config = Config.model_validate({**node.values, "peers": peers})
            node.call(lambda node=node, config=config: node.manager.reload(config))  # type: ignore[misc]

    def shared(self, name: str) -> SharedState:
        return self.nodes[name].manager.sync

    def value(self, name: str, key: str) -> Any:
        try:
            return json.loads(self.shared(name).get(key).newest.value)
        except NotFoundError:
            return None


def test_a_change_is_at_ten_nodes_before_it_is_stale(tmp_path: Path) -> None:
    names = [f"node{number}" for number in range(10)]
    with Site(tmp_path, names) as site:
        # each has a view of each, its state included
        wait_until(lambda: all(len(site.shared(name).names()) == 10 for name in names), "all have met", 60)
        wait_until(lambda: all(_is_fresh(site.shared(name)) for name in names), "nothing is stale", 60)
        for turn in range(3):
            site.shared(names[turn]).put("app/turn", json.dumps(turn).encode())
            wait_until(partial(_everywhere, site, "app/turn", turn), "it is there", STALENESS)
        assert all(_is_fresh(site.shared(name)) for name in names)
        site.shared("node3").delete("app/turn")
        wait_until(partial(_everywhere, site, "app/turn", None), "it is gone", STALENESS)
        # what a view is worth: everybody is known to have it
        wait_until(lambda: not any(site.shared(name).status.tombstones for name in names), "it is forgotten", 60)
        health = site.nodes["node0"].component("sync")
        assert health.status in ("healthy", "degraded"), health
        said = json.loads(site.shared("node0").get("node/node7").newest.value)
        assert said["name"] == "node7"
        assert said["addresses"]["transport"] == f"127.0.0.1:{site.nodes['node7'].port}"
        assert "node7" in json.loads(site.shared("node1").get("links/node0").newest.value)
        assert json.loads(site.shared("node1").get("breakers/node0").newest.value)["node7"]["state"] == "closed"


def _everywhere(site: Site, key: str, value: Any) -> bool:
    return all(site.value(name, key) == value for name in site.nodes)


def _is_fresh(shared: SharedState) -> bool:
    peers = shared.status.peers
    return bool(peers) and all(peer.age is not None and not peer.stale for peer in peers)


def test_a_peer_that_is_away_is_named_until_it_is_back(tmp_path: Path) -> None:
    sync = {**SYNC, "max_staleness": "1s"}
    with Site(tmp_path, ["a", "b"], sync=sync) as site:
        a = site.nodes["a"]
        wait_until(lambda: a.component("sync").status == "healthy" and _is_fresh(site.shared("a")), "they have met")
        site.stop("b")
        wait_until(lambda: a.component("sync").status == "degraded", "it is missed")
        assert "b: the view of it is" in a.component("sync").reason
        status, entry = a.get("/sync/entry?key=node/b")
        assert (status, entry["stale_peers"]) == (200, ["b"])
        assert entry["view_age_seconds"] > 1
        assert a.metric("dwcp_sync_view_stale", peer="b") == 1
        assert a.metric("dwcp_sync_view_age_seconds", peer="b") > 1
        site.start("b")
        site.introduce()
        wait_until(lambda: a.component("sync").status == "healthy", "it is back")
        events = [(r.kind, r.event, r.peer) for r in _records(a) if r.kind == "sync"]
        assert events == [("sync", "stale", "b"), ("sync", "fresh", "b")]


def _records(node: Running) -> list[Any]:
    return [entry for entry in LogReader(node.state_dir).poll() if isinstance(entry, Record)]


def test_a_peer_that_takes_no_part_is_left_alone(tmp_path: Path) -> None:
    """It may be older, or have it off."""
    prints = {name: load_or_create(tmp_path / name / "identity", name).fingerprint for name in "ab"}
    with Running(tmp_path, "b", peers={"a": {"fingerprint": prints["a"]}}) as b:
        peer = {"b": {"fingerprint": prints["b"], "address": f"127.0.0.1:{b.port}"}}
        with Running(tmp_path, "a", peers=peer, sync={**SYNC, "max_staleness": "1s"}) as a:
            shared = a.manager.sync
            wait_until(lambda: bool(shared.status.peers) and shared.status.peers[0].takes_part is False, "it was asked")
            shared.put("app/a", b"1")
            shared.delete("app/a")
            wait_until(lambda: not shared.status.tombstones, "nobody has to be waited for")
            wait_until(lambda: a.component("sync").status == "healthy", "nothing is wrong")
            assert a.get("/sync")[1]["peers"]["b"]["takes_part"] is False
        status, document = b.get("/sync/entries")
        assert status == 409
        assert "sync.enabled" in document["message"]
        assert b.get("/sync")[1]["enabled"] is False


def test_who_asks_a_node_that_does_not_take_part_is_refused(pair: Pair) -> None:
    async def ask(peer: Any) -> None:
        with pytest.raises(RefusedError, match="does not synchronise now"):
            await asyncio.to_thread(peer.request, m.Sync(content=b""), m.Synced)
        assert await peer.ping() > 0, "the session goes on"

    pair.do(ask)


class Two:
    """Two states on one pair of sockets, without managers: one begins, the other answers."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.ours = SharedState(lambda: pair.config)
        self.theirs = SharedState(lambda: pair.server_config)
        self.ours.open(pair.identities["a"].fingerprint)
        self.theirs.open(pair.identities["b"].fingerprint)
        pair.server.node.sync = self.theirs
        self.session = SyncSession(Node(pair.config, pair.identities["a"]), self.ours, "b")

    def exchange(self) -> int:
        """Bytes on the wire."""
        self.ours.tick()
        before = self.ours.status
        self.session.exchange(20.0)
        self.ours.tick()
        self.theirs.tick()
        after = self.ours.status
        return after.bytes_sent + after.bytes_received - before.bytes_sent - before.bytes_received


@pytest.fixture
def two(pair: Pair) -> Iterator[Two]:
    made = Two(pair)
    yield made
    made.session.close()
    made.ours.close()
    made.theirs.close()


def test_a_round_costs_about_what_it_brings_and_an_idle_one_next_to_nothing(two: Two) -> None:
    """Bytes as the socket counts them: frames, everything."""
    rng = random.Random(1)
    with two.ours._using() as replica:
        for number in range(10_000):
            value = json.dumps({"status": "healthy", "number": number, "text": rng.randbytes(30).hex()}).encode()
            replica.accept(replica.propose(f"app/inventory/{number:05d}", value, Kind.LWW, 1.7e9), 1.0)
        two.ours._save(replica)
    two.exchange()
    while two.theirs.status.entries < 10_000:
        two.exchange()
    keys = [f"app/inventory/{number:05d}" for number in rng.sample(range(10_000), 100)]
    for state in (two.ours, two.theirs):
        size = 0
        for key in keys:
            value = json.dumps({"status": "degraded", "text": rng.randbytes(30).hex()}).encode()
            size += len(encode(state.put(key, value)))
        assert two.exchange() <= 2 * size
        assert all(two.ours.get(key) == two.theirs.get(key) for key in keys)
    assert two.exchange() < 400


def test_a_session_that_has_ended_is_made_anew(two: Two) -> None:
    two.exchange()
    session = two.session._session
    assert session is not None
    two.exchange()
    assert two.session._session is session, "kept for the next round"
    session.channel.link.shutdown()
    two.ours.put("app/a", b"1")
    two.exchange()
    assert two.theirs.get("app/a").newest.value == b"1"


def test_what_cannot_be_made_durable_is_not_told_on_as_known(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.exchange()
    two.theirs.put("app/a", b"1")

    def full(*arguments: object, **options: object) -> None:
        raise StateError("the disk is full; free space")

    with monkeypatch.context() as patch:
        patch.setattr(SyncStore, "save", full)
        before = two.ours.age_of(bytes.fromhex(two.theirs.status.id))
        two.exchange()
        assert two.ours.get("app/a").newest.value == b"1", "it is known"
        assert two.ours.status.failure
        after = two.ours.age_of(bytes.fromhex(two.theirs.status.id))
        assert before is not None
        assert after is not None
        assert after > before, "but the view is as old as what is on the disk"
        with pytest.raises(StateError):
            two.ours.put("app/b", b"1")
        with pytest.raises(NotFoundError):
            two.ours.get("app/b")
    two.exchange()
    assert not two.ours.status.failure
    two.ours.close()
    two.ours.open(two.pair.identities["a"].fingerprint)
    assert two.ours.get("app/a").newest.value == b"1"


def test_stamps_grow_over_a_restart_with_a_clock_set_back(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing on the disk but that."""
    two.ours.put("app/a", b"old")
    stamp = two.ours.delete("app/a").newest.stamp
    wait_until(lambda: two.exchange() > 0 and two.ours.status.entries == 0, "the deletion is forgotten")
    two.ours.close()
    past = SimpleNamespace(time=lambda: time.time() - 10.0, monotonic=time.monotonic)
    monkeypatch.setattr(shared_state, "time", past)
    two.ours.open(two.pair.identities["a"].fingerprint)
    assert two.ours.put("app/a", b"new").newest.stamp > stamp
    two.exchange()
    assert two.theirs.get("app/a").newest.value == b"new"


def test_a_file_that_was_damaged_under_way_is_written_anew(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.ours.put("app/a", b"1")
    store = two.ours._store
    assert store is not None

    class Broken:
        def execute(self, *arguments: object) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        def close(self) -> None:
            """Nothing is open."""

    good, store._db = store._db, Broken()  # type: ignore[assignment]
    with pytest.raises(StateError):
        two.ours.put("app/b", b"2")
    good.close()
    two.ours.tick()
    two.ours.close()
    two.ours.open(two.pair.identities["a"].fingerprint)
    assert two.ours.get("app/a").newest.value == b"1", "what was known is in the new file"
    assert (two.pair.directory / "a" / DIRECTORY / f"{FILE}.damaged").exists()


def _kv(config: Path, *arguments: str, code: int) -> str:
    with logs_kept():
        # the nodes beside it go on logging, and what the command logs to ends with it
        done = CliRunner().invoke(main, ["kv", *arguments, "--config", str(config)])
    assert done.exit_code == code, done.output
    return done.output if code else done.stdout


def test_it_is_read_and_written_over_http_and_by_command(tmp_path: Path) -> None:
    with Site(tmp_path, ["a", "b"]) as site:
        a = site.nodes["a"]
        for node in site.nodes.values():
            (tmp_path / f"{node.name}.yaml").write_text(json.dumps({"storage": {"state_dir": str(node.state_dir)}}))

        def kv(node: str, *arguments: str, code: int = 0) -> str:
            return _kv(tmp_path / f"{node}.yaml", *arguments, code=code)

        version = kv("a", "put", "app/limit", '{"rate": 5}').strip()
        assert json.loads(kv("a", "get", "app/limit")) == {"rate": 5}
        wait_until(lambda: site.value("b", "app/limit") == {"rate": 5}, "b has it")
        kv("b", "put", "app/limit", "as fast as it goes", "--expires-in", "1h")
        wait_until(lambda: site.value("a", "app/limit") == "as fast as it goes", "a has it")
        entry = json.loads(kv("a", "get", "app/limit", "--json"))
        assert entry["versions"][0]["node"] == "b"
        assert entry["versions"][0]["expires_at"]
        past = [json.loads(line) for line in kv("a", "history", "app/limit", "--json").splitlines()]
        assert [it["value"] for it in past] == ["as fast as it goes", {"rate": 5}]
        assert past[1]["versions"][0]["id"] == version
        assert "as fast as it goes" in kv("a", "history", "app/limit")
        assert "app/limit" in kv("a", "list", "app/")
        assert '"name": "b"' in kv("a", "list", "node/")
        assert json.loads(kv("a", "get", "node/b"))["name"] == "b"
        assert "exchanges:" in kv("a", "status")
        assert "b " in kv("a", "status")
        kv("a", "delete", "app/limit")
        assert "nothing is at" in kv("a", "get", "app/limit", code=3)
        assert "(deleted)" in kv("a", "history", "app/limit")
        assert "is no key" in kv("a", "put", "limit", "1", code=2)
        assert "what a node says of itself" in kv("a", "put", f"node/{site.shared('a').status.id}", "1", code=2)
        assert "conflict_resolution" not in kv("a", "edit", "app/limit", '[{"edit": "add"}]', code=2)
        status, document = _request(a, "PUT", "/sync/entry?key=app/x", {"value": 1})
        assert (status, document["code"]) == (401, "authentication"), "the token is needed on loopback too"
        wait_until(lambda: a.metric("dwcp_sync_rounds_total", outcome="same") > 0, "nothing changes any more")
        assert a.metric("dwcp_sync_bytes_total", direction="sent") > 0


def _request(node: Running, method: str, path: str, body: object, token: str = "") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(node.call(lambda: node.manager.addresses["http"]))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, path, json.dumps(body), headers)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    return answer.status, document


def test_versions_and_documents_by_command(tmp_path: Path) -> None:
    pytest.importorskip("pycrdt")
    with Site(tmp_path, ["a"], sync={**SYNC, "conflict_resolution": "mvcc"}) as site:
        a = site.nodes["a"]
        (tmp_path / "a.yaml").write_text(json.dumps({"storage": {"state_dir": str(a.state_dir)}}))

        def kv(*arguments: str, code: int = 0) -> str:
            return _kv(tmp_path / "a.yaml", *arguments, code=code)

        first = kv("put", "app/a", "1").strip()
        second = kv("put", "app/a", "2").strip()
        beside = kv("put", "app/a", "3", "--replaces", first).strip()
        shown = kv("get", "app/a")
        assert second in shown
        assert beside in shown
        assert "has 2 versions; name those" in kv("put", "app/a", "4", code=7)
        kv("put", "app/a", "4", "--replaces", second, "--replaces", beside)
        assert json.loads(kv("get", "app/a")) == 4
        config = Config.model_validate({**a.values, "sync": {**SYNC, "conflict_resolution": "crdt"}})
        a.call(lambda: a.manager.reload(config))
        kv("edit", "app/doc", '[{"edit": "insert", "at": 0, "text": "hello"}, {"edit": "increment", "by": 3}]')
        kv("edit", "app/doc", '[{"edit": "cut", "at": 0, "count": 1}, {"edit": "set-key", "key": "k", "value": [1]}]')
        assert json.loads(kv("get", "app/doc")) == {"map": {"k": [1]}, "counter": 3, "text": "ello"}
        assert "is edited, and not replaced" in kv("put", "app/doc", "1", code=2)
        assert "ello" in kv("list", "app/doc")
        assert len(kv("history", "app/doc").splitlines()) == 2
        kv("delete", "app/doc")
        kv("get", "app/doc", code=3)


def test_which_baselines_are_kept_is_told_where_it_is_wanted(tmp_path: Path) -> None:
    compression = {"enable_baseline_sync": True, "baseline_sync_interval": "200ms"}
    with Site(tmp_path, ["a", "b"], compression=compression) as site:
        copies = site.nodes["a"].state_dir / "baselines" / "b"
        copies.mkdir(parents=True)
        (copies / "0123").write_bytes(bytes(5000))
        (copies / "0123.json").write_text('{"path": "disk.img", "made": 17.0}')

        def told() -> Any:
            return site.value("b", f"baselines/{site.shared('a').status.id}")

        wait_until(lambda: bool(told()), "b knows")
        assert told() == {"b": {"files": 1, "bytes": 5000, "newest": [["disk.img", 17.0]]}}
