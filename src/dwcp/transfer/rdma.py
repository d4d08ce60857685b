"""Whether content goes over RDMA: for the node as a whole by its device, for each peer by how it went before.

    device       peer                          content goes over
    not there    any                           TCP, and the node is degraded
    there        does not offer RDMA           TCP
    there        offers it                     RDMA
    there        a stream over RDMA failed     TCP at once; for circuit_breaker.timeout, which doubles while it fails
    there        that time is over             one stream tries RDMA; when it has carried something, the others follow

With transport.rdma_required there is no TCP in this table: what cannot go over RDMA fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from dwcp.config import Config
from dwcp.errors import UnreachableError
from dwcp.links.rdma_device import RdmaDevice
from dwcp.links.ucx import Ucx, UcxEnd
from dwcp.supervise.breaker import Breaker, BreakerSettings, State

INSTEAD = "TCP takes its place"
REQUIRED = "and transport.rdma_required is set"

log = structlog.get_logger()


class Rdma:
    """One for a node. Threads may share it."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._ucx: Ucx | None = None
        self._known_problem: str | None = None
        self._breakers: dict[str, Breaker] = {}

    @property
    def enabled(self) -> bool:
        return self._config().transport.enable_rdma

    @property
    def required(self) -> bool:
        return self._config().transport.rdma_required

    def problem(self) -> str | None:
        """Why the device cannot be used now, None where it can; looked at anew each time. Only of an enabled node."""
        transport = self._config().transport
        device = RdmaDevice(transport.rdma_device, transport.rdma_port)
        with self._lock:
            problem = device.problem()
            if problem is not None:
                # a device that comes back is another one to UCX
                self._ucx = None
            elif self._ucx is None:
                try:
                    self._ucx = Ucx(device)
                except UnreachableError as error:
                    problem = str(error)
            before, self._known_problem = self._known_problem, problem
        if problem is not None and problem != before:
            log.warning(problem, then=REQUIRED if self.required else INSTEAD)
        elif problem is None and before is not None:
            log.info("RDMA is back", device=str(device))
        return problem

    def usable(self) -> bool:
        return self.enabled and self.problem() is None

    def open(self) -> UcxEnd:
        """Our end of a stream. Raises UnreachableError."""
        problem = self.problem()
        ucx = self._ucx
        if problem is not None or ucx is None:
            raise UnreachableError(problem or "RDMA was lost just now")
        return ucx.open()

    # -- peers ---------------------------------------------------------------------------------------------------------

    def allow(self, peer: str) -> bool:
        """Whether the next stream to a peer may try RDMA; then `succeeded` or `failed` has to follow."""
        if self.required:
            return True
        if self.problem() is not None:
            return False
        with self._lock:
            return self._breaker(peer).allow(time.monotonic())

    def works(self, peer: str) -> bool:
        """Nothing has failed since it last went well."""
        with self._lock:
            return self._breaker(peer).status(time.monotonic()).state == State.CLOSED

    def due(self, peer: str) -> bool:
        """After a failure: it is time to try again."""
        with self._lock:
            return self._breaker(peer).status(time.monotonic()).state == State.HALF_OPEN

    def succeeded(self, peer: str) -> None:
        """A stream has carried something, or has ended in good order."""
        with self._lock:
            breaker = self._breaker(peer)
            was = breaker.status(time.monotonic()).state
            if was == State.OPEN:
                # an older stream that has not broken yet says nothing about the next one
                return
            breaker.succeeded(time.monotonic())
        if was == State.HALF_OPEN:
            log.info("RDMA works again", peer=peer)

    def failed(self, peer: str, reason: str) -> None:
        with self._lock:
            breaker = self._breaker(peer)
            was = breaker.status(time.monotonic()).state
            breaker.failed(time.monotonic(), reason)
            # whatever broke it, the next stream had better begin afresh
            self._ucx = None
        if was != State.OPEN:
            log.warning("RDMA failed", peer=peer, reason=reason, then=REQUIRED if self.required else INSTEAD)

    def failing(self) -> dict[str, str]:
        """Peers that are spoken to over TCP for now, each with the reason."""
        now = time.monotonic()
        with self._lock:
            statuses = [breaker.status(now) for breaker in self._breakers.values()]
        return {
            status.name: f"{status.reason}; tried again in {status.retry_at_seconds:.0f} s"
            for status in statuses
            if status.state == State.OPEN
        }

    def _breaker(self, peer: str) -> Breaker:
        section = self._config().circuit_breaker
        settings = BreakerSettings(
            failure_threshold=1, timeout=section.timeout, success_threshold=1, max_timeout=section.max_timeout
        )
        breaker = self._breakers.setdefault(peer, Breaker(peer, settings))
        breaker.settings = settings
        return breaker
