"""The `peers` component: looks at each peer that has an address, and keeps its circuit breaker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from dwcp.config import Config
from dwcp.config.model import CircuitBreaker
from dwcp.errors import DwcpError, ExhaustedError
from dwcp.manager.apart import Apart
from dwcp.manager.component import Background
from dwcp.store.open_breakers import OpenBreaker, OpenBreakers
from dwcp.store.recorder import Note, untold
from dwcp.supervise.breaker import Breaker, BreakerSettings, BreakerStatus, State, pause
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.transfer.node import Node
from dwcp.transfer.probe import probe

TICK = 1.0
"""Seconds between two looks at whose turn it is, at the most."""
AT_ONCE = 8
"""Peers that are looked at at one time: each look costs some milliseconds of processor time, and a hundred of them
together would be felt by what moves data."""
PATIENCE = 3
"""Times health.timeout, which each step of a look gets, for all of them together."""
NAMED = 5
"""Peers in a reason, before the others are only counted."""

log = structlog.get_logger()


class PeersComponent(Background):
    """A peer that is away is no fault of this node: it is degraded, says who, and leaves it alone for a while.

    Other programs of this node learn from a file in the state directory which peers are left alone.
    """

    name = "peers"

    def __init__(
        self, node: Node, config: Callable[[], Config], note: Note = untold, changed: Callable[[], None] = lambda: None
    ) -> None:
        """`changed` is called when a peer went away or came back."""
        self._node = node
        self._config = config
        self._note = note
        self._changed = changed
        self._breakers: dict[str, Breaker] = {}
        self._latency: dict[str, float] = {}
        self._told: dict[str, str] = {}
        """The state of each breaker that was logged last."""
        self._due: dict[str, float] = {}
        """When each peer is looked at next, monotonic seconds."""
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._threads: dict[str, Apart] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._open = OpenBreakers(Path(config().storage.state_dir))
        self._published: dict[str, int] = {}
        """Open breakers that others know of, with their count of trips."""
        self._writer = Apart("dwcp-breakers")
        self._writing: set[asyncio.Task[None]] = set()

    def breakers(self) -> Mapping[str, BreakerStatus]:
        now = time.monotonic()
        return {name: breaker.status(now) for name, breaker in self._breakers.items()}

    def reset(self, peer: str) -> None:
        """Closes its breaker; it is looked at at once."""
        self._breakers[peer].reset()
        self._told[peer] = State.CLOSED
        self._due[peer] = 0.0
        self._publish()
        self._changed()

    def latency(self) -> Mapping[str, float]:
        """Seconds, of the newest round trip to each peer that answered."""
        return dict(self._latency)

    async def start(self) -> None:
        self._follow_config()
        # all of them, whenever they were looked at last
        self._due = dict.fromkeys(self._breakers, 0.0)
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        tasks = [*self._looks.values(), *self._writing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._published.clear()
        await self._writer.run(self._open.leave)

    async def check(self) -> Health:
        trouble = self._trouble()
        if trouble:
            return Health(Status.UNHEALTHY, f"peers are not looked at any more: {trouble}")
        away = [
            _words(status) for status in self.breakers().values() if status.failures or status.state != State.CLOSED
        ]
        if not away:
            return HEALTHY
        more = [f"and {len(away) - NAMED} more"] if len(away) > NAMED else []
        return Health(Status.DEGRADED, "; ".join([*away[:NAMED], *more]))

    def _follow_config(self) -> None:
        config = self._config()
        settings = breaker_settings(config.circuit_breaker)
        known = {name for name, peer in config.peers.items() if peer.address is not None}
        for name in known - self._breakers.keys():
            self._breakers[name] = Breaker(name, settings)
            self._told[name] = State.CLOSED
            self._due[name] = 0.0
            self._threads[name] = Apart(f"dwcp-peer-{name}")
        for name in self._breakers.keys() - known:
            if name in self._looks:
                self._looks[name].cancel()
            for of_peer in (self._breakers, self._told, self._due, self._threads, self._latency):
                of_peer.pop(name, None)
        for breaker in self._breakers.values():
            breaker.settings = settings

    async def _run(self) -> None:
        while True:
            self._follow_config()
            now = time.monotonic()
            for name, breaker in self._breakers.items():
                if name not in self._looks and now >= self._due[name]:
                    look = self._looks[name] = asyncio.create_task(self._look(breaker), name=f"dwcp-peer-{name}")
                    look.add_done_callback(partial(self._looked, name))
            if self._published != self._trips():
                self._publish()
            await self._sleep(min(TICK, self._config().health_interval))

    def _looked(self, name: str, _: asyncio.Task[None]) -> None:
        del self._looks[name]

    async def _look(self, breaker: Breaker) -> None:
        async with self._places:
            if breaker.allow(time.monotonic()):
                self._tell(breaker)
                was_well = not breaker.status(time.monotonic()).failures
                await self._ask(breaker)
                if was_well != (not breaker.status(time.monotonic()).failures):
                    self._changed()
        self._tell(breaker)
        now = time.monotonic()
        self._due[breaker.name] = now + pause(breaker.status(now), self._config().health_interval)

    async def _ask(self, breaker: Breaker) -> None:
        name, timeout = breaker.name, self._config().health.timeout
        try:
            work = self._threads[name].run(partial(probe, self._node, name, timeout))
            async with asyncio.timeout(PATIENCE * timeout):
                self._latency[name] = await work
            breaker.succeeded(time.monotonic())
            return
        except ExhaustedError as error:
            # our own want says nothing about the peer
            breaker.abandoned(time.monotonic())
            log.warning("a peer could not be looked at", peer=name, reason=str(error))
            return
        except asyncio.CancelledError:
            breaker.abandoned(time.monotonic())
            raise
        except TimeoutError:
            reason = f"it could not be looked at within {PATIENCE * timeout:g} s"
        except DwcpError as error:
            reason = str(error)
        except Exception as error:  # a fault of our own must not end the looks at the others
            log.exception("a look at a peer failed", peer=name)
            reason = str(error) or type(error).__name__
        self._latency.pop(name, None)
        breaker.failed(time.monotonic(), reason)

    def _tell(self, breaker: Breaker) -> None:
        status = breaker.status(time.monotonic())
        was = self._told.get(breaker.name, status.state)
        if status.state == was:
            return
        self._told[breaker.name] = status.state
        self._note("breaker", status.state, peer=breaker.name, was=was, reason=status.reason)
        log.warning(
            "circuit breaker changes",
            peer=breaker.name,
            was=was,
            now=status.state,
            tripped_by=status.tripped_by,
            reason=status.reason,
        )

    def _trips(self) -> dict[str, int]:
        return {name: status.trips for name, status in self.breakers().items() if status.state == State.OPEN}

    def _publish(self) -> None:
        self._published = self._trips()
        now = time.monotonic()
        opened = {
            name: OpenBreaker(now + status.retry_at_seconds, status.reason)
            for name, status in self.breakers().items()
            if status.state == State.OPEN
        }
        task = asyncio.create_task(self._write(opened))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, opened: Mapping[str, OpenBreaker]) -> None:
        try:
            await self._writer.run(partial(self._open.publish, opened))
        except (OSError, ExhaustedError) as error:
            # they will try, and find out for themselves
            log.warning("`dwcp send` does not know which circuit breakers are open", reason=str(error))


def breaker_settings(section: CircuitBreaker) -> BreakerSettings:
    return BreakerSettings(
        failure_threshold=section.failure_threshold,
        timeout=section.timeout,
        success_threshold=section.success_threshold,
        half_open_probes=section.half_open_probes,
        max_timeout=section.max_timeout,
        failure_rate=section.failure_rate,
        window=section.window,
        minimum_calls=section.minimum_calls,
    )


def _words(status: BreakerStatus) -> str:
    then = {
        State.OPEN: f"; it is left alone for another {status.retry_at_seconds:.0f} s",
        State.HALF_OPEN: "; it is being tried again",
    }
    return f"{status.name}: {status.reason}{then.get(State(status.state), '')}"
