"""Blocking work in a thread of its own, so that what hangs keeps nobody else waiting.

`asyncio.to_thread` shares a few threads among all: six peers that swallow every packet would keep the state directory
from being looked at, and the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from dwcp.errors import ExhaustedError

T = TypeVar("T")


class Apart:
    """One job at a time, the next one waits: what hangs costs one thread, however often it is tried."""

    def __init__(self, name: str) -> None:
        """`name`: of the threads."""
        self._name = name
        self._ended: asyncio.Event | None = None
        """Of the job that runs."""

    async def run(self, work: Callable[[], T]) -> T:
        """Raises what `work` raises, or ExhaustedError. Cancelling leaves the thread to itself."""
        while self._ended is not None:
            await self._ended.wait()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        ended = self._ended = asyncio.Event()

        def call() -> None:
            try:
                result = work()
            except Exception as error:  # the caller's to know, whatever it is
                tell(done.set_exception, error)
            else:
                tell(done.set_result, result)

        def tell(how: Callable[..., None], what: object) -> None:
            def told() -> None:
                end()
                if not done.done():
                    how(what)

            with contextlib.suppress(RuntimeError):
                # the loop has ended meanwhile, and with it whoever wanted to know
                loop.call_soon_threadsafe(told)

        def end() -> None:
            self._ended = None
            ended.set()

        try:
            threading.Thread(target=call, name=self._name, daemon=True).start()
        except RuntimeError as error:
            end()
            raise ExhaustedError(f"no thread is left for {self._name}: {error}") from error
        return await done
