"""What is done differently on a path between sites, tried on loopback by calling that far."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dwcp.files.attributes import Attributes
from dwcp.files.root import Root
from dwcp.files.staging import Staging
from dwcp.hde.hashes import XXH3
from dwcp.store.journal import Journal
from dwcp.store.path_memory import PathMemory, recall, remember
from dwcp.transfer import streams
from dwcp.transfer.client import Peer
from dwcp.transfer.incoming import HERE, NOWHERE, Incoming
from dwcp.transfer.plan import Planner
from dwcp.transfer.server import TransportServer
from dwcp.transfer.tree import TreeKeeper
from dwcp.tuning import leaves
from dwcp.wire.messages import Entry
from tests.support import Pair, random_file

MIB = 2**20


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "FAR", 0.0)
    monkeypatch.setattr(streams, "FAR", 0.0)


@pytest.mark.usefixtures("far")
def test_files_go_in_small_leaves_over_streams_that_were_dialled_ahead(pair: Pair, tmp_path: Path) -> None:
    content = random_file(tmp_path / "file", 5 * MIB + 12345)
    result = pair.send(tmp_path / "file", "inbox/copy")
    assert result.verified
    assert (pair.inbox / "copy").read_bytes() == content
    assert 1 <= result.streams <= 4
    again = pair.get("inbox/copy", tmp_path / "back")
    assert again.verified
    assert (tmp_path / "back").read_bytes() == content


@pytest.mark.usefixtures("far")
def test_nothing_is_sent_of_what_is_there_although_streams_were_dialled(pair: Pair, tmp_path: Path) -> None:
    random_file(tmp_path / "file", 3 * MIB)
    pair.send(tmp_path / "file", "inbox/copy")
    result = pair.send(tmp_path / "file", "inbox/copy")
    assert result.unchanged == 1
    assert result.wire_bytes < 20_000


@pytest.mark.usefixtures("far")
def test_a_refusal_reaches_a_sender_that_did_not_wait_for_it(pair: Pair, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(3000):
        (tree / f"a-rather-long-name-so-that-many-entries-are-on-the-way-{number}").touch()
    with pytest.raises(Exception, match="read-only"):
        pair.send(tree, "fixed/tree")
    assert pair.send(tree, "inbox/tree").files == 3000


def test_the_first_transfer_takes_the_session_that_is_there(pair: Pair, tmp_path: Path) -> None:
    random_file(tmp_path / "file", 1000)
    sessions: list[int] = []
    serve = TransportServer._serve_session

    def counted(*arguments: object) -> None:
        sessions.append(1)
        serve(*arguments)  # type: ignore[arg-type]

    async def act(peer: Peer) -> None:
        await peer.ls()
        await peer.send(tmp_path / "file", "inbox/one")
        assert len(sessions) == 1
        await peer.send(tmp_path / "file", "inbox/two")
        assert {entry.name for entry in await peer.ls("inbox")} >= {"one", "two"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransportServer, "_serve_session", counted)
        pair.do(act)
    assert len(sessions) == 3


def test_what_was_learned_of_a_path_is_used_by_the_next_transfer(tmp_path: Path) -> None:
    assert recall(tmp_path, "b", "cubic") is None
    remember(tmp_path, "b", PathMemory(96, 1e8, "cubic"))
    assert recall(tmp_path, "b", "cubic") == PathMemory(96, 1e8, "cubic")
    assert recall(tmp_path, "b", "bbr") is None
    (tmp_path / "paths" / "b.cubic.json").write_bytes(b'{"streams": -1, "rate": 0, "congestion": "cubic"}')
    assert recall(tmp_path, "b", "cubic") is None
    (tmp_path / "paths" / "b.cubic.json").write_bytes(b"\xff")
    assert recall(tmp_path, "b", "cubic") is None


def test_a_part_is_resumed_in_leaves_of_another_size(tmp_path: Path) -> None:
    content = os.urandom(4 * MIB + 1000)
    root = Root(tmp_path)
    staging = Staging(root)
    entry = Entry(path=b"", type="file", size=len(content), mtime_ns=1)

    def planner() -> Planner:
        attributes = Attributes([], privileged=False)
        tree = TreeKeeper(root, (b"file",), staging, attributes, None, None)
        return Planner(root, (b"file",), tree, staging, attributes, XXH3, delta=False, compare=False, pretend=False)

    first = Incoming(0, entry, (b"file",), XXH3.size)
    with first.lock:
        planner().open_part(first)
    assert first.fd is not None
    assert isinstance(first.journal, Journal)
    for leaf in (0, 2, 4):
        piece = content[leaf * MIB : (leaf + 1) * MIB]
        os.pwrite(first.fd, piece, leaf * MIB)
        first.journal.add(leaf, XXH3.digest(piece))
    first.close()

    second = Incoming(0, entry, (b"file",), XXH3.size, 2**17)
    planner().hash_what_is_here(second, lambda: False)
    assert second.leaves == 33
    assert list(second.origin) == [HERE] * 8 + [NOWHERE] * 8 + [HERE] * 8 + [NOWHERE] * 8 + [HERE]
    second.close()

    third = Incoming(0, entry, (b"file",), XXH3.size, 2**18)
    planner().hash_what_is_here(third, lambda: False)
    assert list(third.origin) == [HERE] * 4 + [NOWHERE] * 4 + [HERE] * 4 + [NOWHERE] * 4 + [HERE]
    third.close()
    staging.close()
    root.close()
