"""A paused transfer sends nothing and keeps its session, whichever end asked for it, and over sessions that break."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwcp.errors import NotFoundError, RefusedError
from dwcp.transfer import node as node_module
from dwcp.transfer.board import Board, TransferStatus
from dwcp.transfer.client import connect_as
from dwcp.transfer.node import Node
from tests.processes import DEADLINE
from tests.support import Pair, Proxy, random_file, wait_until

READ_TIMEOUT = 1.0
SIZE = 20_000_000


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(
        tmp_path,
        transport={"enable_pacing": True, "pacing_rate": 100_000_000, "read_timeout": READ_TIMEOUT},
    )
    yield made
    made.close()


class Moving:
    """A transfer between the two ends, in a thread; `boards` by node."""

    def __init__(self, pair: Pair, direction: str, port: int | None = None) -> None:
        config = pair.client_config(port or pair.port)
        board = Board()
        self.boards = {"a": board, "b": pair.board}
        self.failure: BaseException | None = None
        self.content = random_file((pair.directory if direction == "put" else pair.inbox) / "source", SIZE)
        self.arrives_at = (pair.inbox if direction == "put" else pair.directory) / "copy"

        async def run() -> None:
            async with connect_as(Node(config, pair.identities["a"], board), "b") as peer:
                if direction == "put":
                    await peer.send(pair.directory / "source", "inbox/copy")
                else:
                    await peer.get("inbox/source", self.arrives_at)

        def guarded() -> None:
            try:
                asyncio.run(run())
            except BaseException as error:
                self.failure = error

        self._thread = threading.Thread(target=guarded)
        self._thread.start()
        wait_until(lambda: all(board.live() for board in self.boards.values()), "both ends have begun")
        wait_until(lambda: self.status("a").bytes_done > 0, "something has arrived")

    def status(self, end: str) -> TransferStatus:
        return self.boards[end].live()[0]

    def pause(self, end: str, *, paused: bool) -> None:
        self.boards[end].pause(self.status(end).id, paused=paused)

    def rests(self) -> None:
        """Returns when all that was under way has settled, at both ends."""
        wait_until(lambda: all(self.status(end).paused for end in self.boards), "both ends know of the pause")
        last = self.status("b")

        def settled() -> bool:
            nonlocal last
            now = self.status("b")
            if now.bytes_done != last.bytes_done:
                last = now
            return now.seconds - last.seconds > READ_TIMEOUT and self.status("a").bytes_done == now.bytes_done

        wait_until(settled, "what was under way is settled")

    def ends_well(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        assert self.failure is None
        assert self.arrives_at.read_bytes() == self.content
        wait_until(lambda: not any(board.live() for board in self.boards.values()), "both ends have ended")


@pytest.mark.parametrize("by", ["a", "b"])
@pytest.mark.parametrize("direction", ["put", "get"])
def test_it_rests_longer_than_its_timeouts_and_goes_on_in_the_same_session(slow: Pair, direction: str, by: str) -> None:
    moving = Moving(slow, direction)
    moving.pause(by, paused=True)
    moving.rests()
    at, settled, wire = moving.status("b").seconds, moving.status("b").bytes_done, moving.status("b").wire_bytes
    assert settled < SIZE
    wait_until(lambda: moving.status("b").seconds > at + 2.5 * READ_TIMEOUT, "more than two timeouts have passed")
    assert moving.status("b").bytes_done == settled
    # signs of life, and nothing else
    assert 0 < moving.status("b").wire_bytes - wire < 20_000
    # whoever paused it, either end lets it go on
    moving.pause("a" if by == "b" else "b", paused=False)
    wait_until(lambda: not moving.boards["b"].live() or moving.status("b").bytes_done > settled, "it goes on")
    moving.ends_well()
    assert [status.state for status in slow.board.recent()] == ["done"]
    assert not slow.board.recent()[0].paused


@pytest.mark.parametrize("direction", ["put", "get"])
def test_a_pause_outlives_the_session_that_it_began_in(slow: Pair, direction: str) -> None:
    proxy = Proxy(slow.port, lambda data, offset, inbound: data)
    try:
        moving = Moving(slow, direction, proxy.port)
        moving.pause("b", paused=True)
        moving.rests()
        first = moving.status("b").started_at
        proxy.cut()
        wait_until(
            lambda: any(status.started_at != first and status.paused for status in slow.board.live()),
            "the next session begins with it",
        )
        wait_until(lambda: len(slow.board.live()) == 1, "the first one has ended")
        moving.pause("b", paused=False)
        moving.ends_well()
    finally:
        proxy.close()


def test_a_transfer_that_is_paused_can_be_cancelled(slow: Pair) -> None:
    moving = Moving(slow, "put")
    moving.pause("b", paused=True)
    moving.rests()
    slow.board.cancel(moving.status("b").id)
    wait_until(lambda: not slow.board.live(), "it has ended")
    assert slow.board.recent()[0].state == "cancelled"
    with pytest.raises(NotFoundError, match="no running transfer"):
        slow.board.pause(slow.board.recent()[0].id, paused=False)


def test_a_sender_that_is_too_old_is_not_asked(slow: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "PAUSE", "something-else")
    moving = Moving(slow, "put")
    with pytest.raises(RefusedError, match="pause the transfer there"):
        moving.pause("b", paused=True)
    moving.pause("a", paused=True)
    assert moving.status("a").paused
    moving.pause("a", paused=False)
    moving.ends_well()
