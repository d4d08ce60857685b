"""A workload's former owner writes nothing any more, however late it wakes up."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dwcp.errors import FencedError, RefusedError
from dwcp.store.fences import FenceStore
from dwcp.transfer.fencing import Fences
from dwcp.wire.messages import Fence
from tests.support import Pair, random_file

KEY = "00c0ffee/db"


def fence(token: int) -> Fence:
    return Fence(workload=KEY, token=token)


def test_a_lower_token_writes_nothing(pair: Pair, tmp_path: Path) -> None:
    source = tmp_path / "db"
    source.mkdir()
    (source / "table").write_text("new")
    pair.send(source, "inbox/db", fence=fence(7))
    (source / "table").write_text("old")
    with pytest.raises(FencedError, match=r"token 6 is refused, 7 has been here"):
        pair.send(source, "inbox/db", fence=fence(6))
    with pytest.raises(FencedError):
        pair.do(lambda peer: peer.keep_version("inbox/db", "all", fence=fence(6)))
    with pytest.raises(FencedError):
        pair.do(lambda peer: peer.check_versions("inbox/db", fence=fence(6)))
    assert (pair.inbox / "db" / "table").read_text() == "new"
    pair.send(source, "inbox/db", fence=fence(7))
    assert (pair.inbox / "db" / "table").read_text() == "old", "the owner may go on"


def test_what_was_let_in_is_remembered_by_the_disk(pair: Pair, tmp_path: Path) -> None:
    source = tmp_path / "file"
    random_file(source, 100_000)
    pair.send(source, "inbox/file", fence=fence(7))
    pair.server.node.fences.close()
    with pytest.raises(FencedError):
        pair.send(source, "inbox/file", fence=fence(6))
    record = pair.server.node.fences.store.get(KEY)
    assert (record.highest, record.begun, record.complete) == (7, 7, 7)
    assert record.path == str(pair.inbox / "file")


def test_the_next_owner_takes_over_the_versions(pair: Pair, tmp_path: Path) -> None:
    source = tmp_path / "file"
    random_file(source, 1000)
    pair.send(source, "inbox/file")
    pair.do(lambda peer: peer.keep_version("inbox/file"))
    pair.do(lambda peer: peer.keep_version("inbox/file", fence=fence(3)))
    with pytest.raises(RefusedError, match=f"are kept for workload {KEY}, not for a"):
        pair.do(lambda peer: peer.keep_version("inbox/file"))
    pair.do(lambda peer: peer.check_versions("inbox/file", fence=fence(4)))


def test_only_owners_that_the_receiver_knows_may_raise_a_token(tmp_path: Path) -> None:
    declared = {"db": {"source": "/srv/db", "targets": ["a:inbox/db"], "owners": ["b", "c"]}}
    pair = Pair(tmp_path, workloads=declared)
    try:
        with pytest.raises(RefusedError, match="a is not among the owners"):
            random_file(tmp_path / "file", 1000)
            pair.send(tmp_path / "file", "inbox/file", fence=fence(3))
    finally:
        pair.close()


def test_a_token_that_comes_in_stops_those_that_write(tmp_path: Path) -> None:
    fences = Fences(tmp_path)
    stopped = threading.Event()
    old = fences.admit(fence(1), "a", "/x", lambda error: stopped.set())
    publishing, go_on, admitted = threading.Event(), threading.Event(), threading.Event()

    def publish() -> None:
        with old.changing():
            publishing.set()
            go_on.wait(20)

    def admit() -> None:
        fences.admit(fence(2), "b", "/x", lambda error: None).close()
        admitted.set()

    threads = [threading.Thread(target=publish), threading.Thread(target=admit)]
    threads[0].start()
    assert publishing.wait(20)
    threads[1].start()
    assert not admitted.wait(0.05), "nobody is let in while a name is being given"
    go_on.set()
    assert admitted.wait(20)
    assert stopped.wait(20)
    with pytest.raises(FencedError), old.changing():
        raise AssertionError
    for thread in threads:
        thread.join()
    old.close()
    fences.close()


def test_half_a_copy_is_known_as_such(tmp_path: Path) -> None:
    store = FenceStore(tmp_path)
    assert store.admit(KEY, 3) == 3
    store.begun(KEY, 3, "/x")
    assert (store.get(KEY).begun, store.get(KEY).complete) == (3, 0)
    store.completed(KEY, 3, "/x")
    assert store.admit(KEY, 2) == 3
    store.admit(KEY, 4)
    store.begun(KEY, 4, "/x")
    assert (store.get(KEY).begun, store.get(KEY).complete, store.get(KEY).highest) == (4, 3, 4)
    store.begun(KEY, 4, "/y")
    assert store.get(KEY).complete == 0, "what is elsewhere has nothing to do with it"
    store.own(KEY, 5)
    assert (store.get(KEY).owned, store.get(KEY).highest) == (5, 5)
    assert store.forget(KEY)
    assert not store.forget(KEY)
    store.close()
