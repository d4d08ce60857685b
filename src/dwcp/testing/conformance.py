"""What every link has to do, whatever is below it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from typing_extensions import Buffer

from dwcp.errors import TemporaryError, TimeoutExpired
from dwcp.links.interface import Link

PATIENCE = 30.0
"""Seconds for anything that has to happen by itself."""
SIZES = (1, 40, 1000, 65_537, 1_048_576, 3_000_001)
Ends = Callable[[], tuple[Link, Link]]


def check_link(ends: Ends) -> None:
    """Raises AssertionError where the implementation does not do what `links.interface.Link` promises.

    `ends` makes both ends of a fresh link, whose write timeout is at most 5 seconds.
    """
    for check in (_order, _framing, _both_ways, _orderly_end, _mid_frame, _silence, _stuck, _shutdown, _pace):
        near, far = ends()
        try:
            check(near, far)
        finally:
            for link in (near, far):
                link.shutdown()
                link.close()


class _Thread(threading.Thread):
    """Remembers what came of it."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._act = act
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._act()
        except Exception as error:  # compared with what was to be expected
            self.error = error

    def outcome(self) -> BaseException | None:
        self.join(PATIENCE)
        if self.is_alive():
            raise AssertionError("a call did not return")
        return self.error


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _content(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311  (no secret)


def _receive(link: Link, size: int) -> bytes:
    buffer = bytearray(size)
    link.receive_into(memoryview(buffer))
    return bytes(buffer)


def _order(near: Link, far: Link) -> None:
    contents = [_content(size, seed) for seed, size in enumerate(SIZES)]

    def send() -> None:
        for content in contents:
            near.send(content)

    sending = _Thread(send)
    for content in contents:
        _check(_receive(far, len(content)) == content, "what arrives is not what was sent")
    _check(sending.outcome() is None, f"sending failed: {sending.error}")
    total = sum(SIZES)
    _check(near.wire_bytes()[0] >= total and far.wire_bytes()[1] >= total, "bytes are not counted")
    _check(far.delivery().received >= total, "what was delivered is not counted")
    _check(str(near.description) != "", "a link has a description")


def _framing(near: Link, far: Link) -> None:
    """Parts on one side and pieces on the other have nothing to do with each other."""
    content = _content(2_000_003, 1)
    view = memoryview(content)
    near_parts: list[Buffer] = [view[:40], view[40:41], b"", view[41:900_000], bytearray(view[900_000:])]
    sending = _Thread(lambda: near.send(*near_parts))
    got = b"".join(_receive(far, size) for size in (1, 16, 7_000, 1_500_000, 492_986))
    _check(got == content, "what arrives is not what was sent")
    _check(sending.outcome() is None, f"sending failed: {sending.error}")


def _both_ways(near: Link, far: Link) -> None:
    one, other = _content(4_000_000, 1), _content(4_000_000, 2)
    got: list[bytes] = []
    threads = [
        _Thread(lambda: near.send(one)),
        _Thread(lambda: far.send(other)),
        _Thread(lambda: got.append(_receive(far, len(one)))),
        _Thread(lambda: got.append(_receive(near, len(other)))),
    ]
    for thread in threads:
        _check(thread.outcome() is None, f"sending and receiving at once failed: {thread.error}")
    _check(sorted(got) == sorted([one, other]), "what arrives is not what was sent")


def _orderly_end(near: Link, far: Link) -> None:
    def leave() -> None:
        near.send(b"last words")
        near.close()

    leaving = _Thread(leave)
    _check(_receive(far, 10) == b"last words", "what was sent before the end is lost")
    ended = _Thread(lambda: _receive(far, 1))
    _check(isinstance(ended.outcome(), EOFError), f"an end in good order is {ended.error!r}")
    far.close()
    _check(leaving.outcome() is None, f"leaving failed: {leaving.error}")


def _mid_frame(near: Link, far: Link) -> None:
    def leave() -> None:
        near.send(b"half")
        near.close()

    leaving = _Thread(leave)
    cut = _Thread(lambda: _receive(far, 8))
    _check(isinstance(cut.outcome(), TemporaryError), f"an end in mid-frame is {cut.error!r}")
    far.close()
    _check(leaving.outcome() is None, f"leaving failed: {leaving.error}")


def _silence(near: Link, far: Link) -> None:
    near.set_read_timeout(0.2)
    began = time.monotonic()
    waiting = _Thread(lambda: _receive(near, 1))
    _check(isinstance(waiting.outcome(), TimeoutExpired), f"silence is {waiting.error!r}")
    _check(0.1 < time.monotonic() - began < 5, "the read timeout is not kept")


def _stuck(near: Link, far: Link) -> None:
    content = bytes(64 * 2**20)
    sending = _Thread(lambda: near.send(content))
    _check(isinstance(sending.outcome(), TimeoutExpired), f"a peer that takes nothing is {sending.error!r}")


def _shutdown(near: Link, far: Link) -> None:
    waits: list[tuple[Link, Callable[[], object]]] = [
        (near, lambda: _receive(near, 1)),
        (far, lambda: far.send(bytes(64 * 2**20))),
    ]
    for link, act in waits:
        waiting = _Thread(act)
        time.sleep(0.1)
        link.shutdown()
        _check(isinstance(waiting.outcome(), TemporaryError | EOFError), f"shutdown wakes with {waiting.error!r}")


def _pace(near: Link, far: Link) -> None:
    near.limit_queue(100_000)
    near.set_pacing(16_000_000)
    receiving = _Thread(lambda: _receive(far, 2_000_000))
    began = time.monotonic()
    near.send(bytes(2_000_000))
    _check(receiving.outcome() is None, f"receiving failed: {receiving.error}")
    _check(0.5 < time.monotonic() - began < 10, "the pace is not kept")
    near.set_pacing(None)
