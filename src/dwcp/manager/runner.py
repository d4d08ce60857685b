"""Runs what the supervision core decides: starts in order, checks side by side, restarts, stops in reverse."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping

import structlog

from dwcp.config import Config
from dwcp.manager.component import Component
from dwcp.metrics.durations import Durations
from dwcp.store.recorder import Note, untold
from dwcp.supervise.health import ComponentHealth, Health, Status
from dwcp.supervise.order import dependants, start_order
from dwcp.supervise.recovery import Phase, RecoveryCounts, RecoverySettings, Supervised

TICK = 0.1
"""Seconds between looks at what is due, at the most: a tenth of the shortest backoff."""
STOP_TIMEOUT = 20.0
"""Seconds that one component gets to stop; one that hangs must not keep the others."""

log = structlog.get_logger()


class Runner:
    def __init__(
        self,
        components: Mapping[Component, tuple[str, ...]],
        config: Callable[[], Config],
        note: Note = untold,
        durations: Durations | None = None,
    ) -> None:
        """`components`: each with the names of those it depends on."""
        self._config = config
        self._note = note
        self._durations = durations or Durations()
        self._unhealthy_at: dict[str, float] = {}
        self._by_name = {component.name: component for component in components}
        self._depends_on = {component.name: needed for component, needed in components.items()}
        self._order = start_order(self._depends_on)
        chance = random.Random()  # noqa: S311  (jitter of restarts)
        self._supervised = {name: Supervised(name, _settings(config()), chance, time.time()) for name in self._order}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._restarts: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self.ticked_at = time.monotonic()
        """When supervision last ran: the watchdog's proof that it lives."""

    async def start(self) -> None:
        """Starts all in order. Raises what the first that cannot start raised, the others stopped again."""
        started: list[str] = []
        try:
            for name in self._order:
                await self._by_name[name].start()
                started.append(name)
                self._note("component", "start", component=name)
        except BaseException:
            for name in reversed(started):
                await self._stop_one(name)
            raise
        self._task = asyncio.create_task(self._run(), name="dwcp-supervisor")

    async def stop(self) -> None:
        """Stops all in reverse order."""
        tasks = [task for task in (self._task, *self._checks.values(), *self._restarts.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in reversed(self._order):
            await self._stop_one(name)

    def statuses(self) -> list[ComponentHealth]:
        """In start order."""
        return [self._supervised[name].status() for name in self._order]

    def recoveries(self) -> dict[str, RecoveryCounts]:
        return {name: supervised.counts() for name, supervised in self._supervised.items()}

    def apply(self, config: Config) -> None:
        for supervised in self._supervised.values():
            supervised.settings = _settings(config)

    async def check_all(self) -> None:
        """One check of each, now."""
        await asyncio.gather(*(self._check(name) for name in self._order))

    async def _run(self) -> None:
        next_checks = time.monotonic() + self._config().health_interval
        while True:
            now = self.ticked_at = time.monotonic()
            if now >= next_checks:
                next_checks = now + self._config().health_interval
                for name in self._order:
                    if name not in self._checks:
                        self._spawn(self._checks, name, self._check(name))
            for name, supervised in self._supervised.items():
                if name not in self._restarts and supervised.due(now):
                    self._spawn(self._restarts, name, self._restart(name))
            await asyncio.sleep(TICK)

    def _spawn(self, tasks: dict[str, asyncio.Task[None]], name: str, work: Coroutine[None, None, None]) -> None:
        task = tasks[name] = asyncio.create_task(work)
        task.add_done_callback(lambda _: tasks.pop(name, None))

    async def _check(self, name: str) -> None:
        supervised = self._supervised[name]
        before = supervised.status()
        timeout = self._config().health.timeout
        began = time.monotonic()
        try:
            health = await asyncio.wait_for(self._by_name[name].check(), timeout)
        except TimeoutError:
            health = Health(Status.UNHEALTHY, f"health check took longer than {timeout:g} s")
        except Exception as error:  # a component's own fault, whatever it is, is what the check is for
            health = Health(Status.UNHEALTHY, str(error) or type(error).__name__)
        now = time.monotonic()
        phase, recovered = supervised.phase, supervised.counts().successes
        supervised.checked(health, now - began, now, time.time())
        self._durations.checked(name, now - began)
        if health.status is Status.UNHEALTHY:
            self._unhealthy_at.setdefault(name, now)
        if supervised.counts().successes > recovered:
            self._note("component", "recovered", component=name)
            self._durations.recovered(name, now - self._unhealthy_at.pop(name, now))
        if supervised.phase is Phase.FAILED and phase is not Phase.FAILED:
            self._note("component", "failed", component=name, reason=health.reason)
        # a component that was restarted is looked at again soon: its health counts once a check has said so
        if health.status is not before.status:
            change = {"component": name, "was": before.status.value, "now": health.status.value}
            self._note("component", "health", **change, reason=health.reason)
            log.warning(
                "component health changes", component=name, was=before.status, now=health.status, reason=health.reason
            )

    async def _restart(self, name: str) -> None:
        """Stops the component and all that stand on it, and starts them again in order."""
        supervised = self._supervised[name]
        affected = [name, *dependants(name, self._depends_on)]
        log.warning(
            "component restarts", component=name, with_dependants=affected[1:], reason=supervised.status().reason
        )
        self._note("component", "restart", component=name, with_dependants=affected[1:])
        for other in reversed(affected):
            await self._stop_one(other)
        try:
            for other in affected:
                await self._by_name[other].start()
        except Exception as error:  # whatever keeps it from starting, the next attempt may find gone
            supervised.start_failed(str(error) or type(error).__name__, time.monotonic(), time.time())
            log.error(
                "component could not be restarted",
                component=name,
                reason=str(error),
                failed=supervised.phase is Phase.FAILED,
            )
            failed = supervised.phase is Phase.FAILED
            self._note("component", "failed" if failed else "restart-failed", component=name, reason=str(error))
            return
        supervised.started()
        await self._check(name)

    async def _stop_one(self, name: str) -> None:
        try:
            await asyncio.wait_for(self._by_name[name].stop(), STOP_TIMEOUT)
        except TimeoutError:
            log.error("component does not stop", component=name, seconds=STOP_TIMEOUT)
        except Exception as error:  # stopping goes on with the others
            log.error("component failed to stop", component=name, reason=str(error))


def _settings(config: Config) -> RecoverySettings:
    health = config.health
    return RecoverySettings(
        health.recovery_max_retries,
        health.recovery_backoff,
        health.recovery_backoff_factor,
        health.recovery_jitter,
        health.slow_retry_interval,
    )
