"""Keeps former owners of a workload out: whoever writes says under which token, and only the highest one may.

A clock cannot do this: a process that was stopped in the middle of a write goes on with the write, whatever its lease
said. So the token is looked at where the write takes effect, and together with it: nothing is published under a token
once a higher one has been let in (Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import structlog

from dwcp.errors import FencedError
from dwcp.store.fences import FenceRecord, FenceStore
from dwcp.wire.messages import Fence

log = structlog.get_logger()


class Ticket:
    """What one transfer, or one request, has been let in with; `close` it in the end."""

    def __init__(self, fences: Fences, fence: Fence, path: str, stop: Callable[[FencedError], None]) -> None:
        self._fences = fences
        self.fence = fence
        self.path = path
        self.stop = stop
        self._begun = False
        self.lock = fences.lock_of(fence.workload)
        self.overtaken: FencedError | None = None

    def check(self) -> None:
        """Raises FencedError once a higher token has been let in. Cheap."""
        if self.overtaken is not None:
            raise self.overtaken

    @contextmanager
    def held(self) -> Iterator[None]:
        """No higher token is let in meanwhile. Raises FencedError where one has been."""
        with self.lock:
            self.check()
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """As `held`, for what changes the copy."""
        with self.held():
            if not self._begun:
                self._fences.store.begun(self.fence.workload, self.fence.token, self.path)
                self._begun = True
            yield

    def completed(self) -> None:
        """The copy is what the owner had."""
        with self.held():
            self._fences.store.completed(self.fence.workload, self.fence.token, self.path)

    def close(self) -> None:
        self._fences.leave(self)


class Unfenced:
    """In place of a ticket, for what shows none: nobody is compared with anybody."""

    def check(self) -> None:
        """It may go on."""

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def changing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def completed(self) -> None:
        """Nobody asks what the copy is."""

    def close(self) -> None:
        """Nothing is held."""


UNFENCED = Unfenced()


class Fences:
    """Of one node; for all threads."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._guard = threading.Lock()
        self._store: FenceStore | None = None
        self._locks: dict[str, threading.RLock] = {}
        self._tickets: dict[str, list[Ticket]] = {}

    @property
    def store(self) -> FenceStore:
        """Opened when it is first needed: most nodes never do. Raises StateError."""
        with self._guard:
            if self._store is None:
                self._store = FenceStore(self._state_dir)
            return self._store

    def admit(self, fence: Fence, peer: str, path: str, stop: Callable[[FencedError], None]) -> Ticket:
        """Lets in whoever has the highest token so far, and stops all that have lower ones: each one's `stop` is
        called, from another thread. Waits for what they are publishing just now.

        Raises FencedError for a lower token, StateError, UsageError.
        """
        ticket = Ticket(self, fence, path, stop)
        with ticket.lock:
            highest = self.store.admit(fence.workload, fence.token)
            if highest > fence.token:
                log.warning("a former owner was refused", workload=fence.workload, peer=peer, token=fence.token)
                raise _overtaken(fence, highest)
            self._stop_lower(fence)
            with self._guard:
                self._tickets.setdefault(fence.workload, []).append(ticket)
        return ticket

    def own(self, fence: Fence) -> None:
        """This node is the owner: as if it had been let in. Raises StateError."""
        with self.lock_of(fence.workload):
            self.store.own(fence.workload, fence.token)
            self._stop_lower(fence)

    def _stop_lower(self, fence: Fence) -> None:
        """Call with the workload's lock held."""
        with self._guard:
            others = self._tickets.get(fence.workload, ())
            lower = [other for other in others if other.fence.token < fence.token and other.overtaken is None]
            for other in lower:
                other.overtaken = _overtaken(other.fence, fence.token)
        for other in lower:
            log.warning("a former owner was stopped", workload=fence.workload, token=other.fence.token, now=fence.token)
            threading.Thread(target=other.stop, args=(other.overtaken,), name="dwcp-fence", daemon=True).start()

    def leave(self, ticket: Ticket) -> None:
        with self._guard:
            others = self._tickets.get(ticket.fence.workload, [])
            if ticket in others:
                others.remove(ticket)
            if not others:
                self._tickets.pop(ticket.fence.workload, None)

    def lock_of(self, workload: str) -> threading.RLock:
        with self._guard:
            return self._locks.setdefault(workload, threading.RLock())

    def known(self) -> list[FenceRecord]:
        """Raises StateError."""
        return self.store.all()

    def forget(self, key: str) -> bool:
        """Lets in whoever comes next, whatever its token; false where nobody was kept out. Raises StateError."""
        return self.store.forget(key)

    def close(self) -> None:
        with self._guard:
            store, self._store = self._store, None
        if store is not None:
            store.close()


def _overtaken(fence: Fence, highest: int) -> FencedError:
    return FencedError(
        f"workload {fence.workload} has another owner: token {fence.token} is refused, {highest} has been here"
    )
