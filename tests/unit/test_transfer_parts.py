"""Small parts of a transfer under the thread interleavings that hurt."""

from __future__ import annotations

import threading

from dwcp.transfer.pool import BufferPool
from tests.support import wait_until


def test_a_buffer_given_back_goes_to_whoever_it_is_large_enough_for() -> None:
    pool = BufferPool(4)
    got = {size: threading.Event() for size in (4, 2)}

    def take(size: int) -> None:
        with pool.buffer(size):
            got[size].set()

    with pool.buffer(2):
        with pool.buffer(2):
            threads = [threading.Thread(target=take, args=(size,), daemon=True) for size in (4, 2)]
            for number, thread in enumerate(threads, 1):
                thread.start()
                wait_until(lambda number=number: len(pool._condition._waiters) == number, "it waits")  # type: ignore[attr-defined]
        assert got[2].wait(5), "the one that waits for more has slept through the other's call"
        assert not got[4].is_set()
    for thread in threads:
        thread.join(5)
    assert got[4].is_set()
