"""Runs what the supervision core decides: starts in order, checks side by side, restarts, stops in reverse."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping

import structlog

from dwcp.config import Config
from dwcp.errors import ExhaustedError
from dwcp.links.endpoints import EXHAUSTED
from dwcp.manager.component import Component
from dwcp.metrics.durations import Durations
from dwcp.store.recorder import Note, untold
from dwcp.supervise.health import ComponentHealth, Health, Status
from dwcp.supervise.order import dependants, start_order
from dwcp.supervise.recovery import Phase, RecoveryCounts, RecoverySettings, Supervised

TICK = 0.1
"""Seconds between looks at what is due, at the most: a tenth of the shortest backoff."""
START_TIMEOUT = STOP_TIMEOUT = 20.0
"""Seconds that one component gets; one that hangs must not keep the others."""
STUCK = 5.0
"""Seconds without a look, after which nothing that was seen counts any more."""

log = structlog.get_logger()


class Runner:
    def __init__(
        self,
        components: Mapping[Component, tuple[str, ...]],
        config: Callable[[], Config],
        note: Note = untold,
        durations: Durations | None = None,
        restart_with: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """`components`: each with the names of those it depends on: it is started after them, and recovered after them
        where several are ill. `restart_with`: those of them with which it is restarted; a restart of the others leaves
        it alone."""
        self._config = config
        self._note = note
        self._durations = durations or Durations()
        self._unhealthy_at: dict[str, float] = {}
        self._by_name = {component.name: component for component in components}
        self._depends_on = {component.name: needed for component, needed in components.items()}
        self._order = start_order(self._depends_on)
        along = {name: (restart_with or {}).get(name, ()) for name in self._order}
        self._affected = {name: [name, *dependants(name, along)] for name in self._order}
        """By a restart, in start order."""
        chance = random.Random()  # noqa: S311  (jitter of restarts)
        settings, interval = _settings(config()), config().health_interval
        self._supervised = {name: Supervised(name, settings, interval, chance, time.time()) for name in self._order}
        self._next_check = dict.fromkeys(self._order, 0.0)
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._restarts: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self.ticked_at = time.monotonic()
        """When supervision last looked."""

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
        self.ticked_at = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="dwcp-supervisor")

    async def stop(self) -> None:
        """Stops all in reverse order."""
        tasks = [task for task in (self._task, *self._checks.values(), *self._restarts.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in reversed(self._order):
            await self._stop_one(name)

    @property
    def stalled(self) -> float:
        """Seconds for which supervision has stood still; 0 where it runs."""
        age = time.monotonic() - self.ticked_at
        return age if age > STUCK else 0.0

    def statuses(self) -> list[ComponentHealth]:
        """In start order."""
        return [self._supervised[name].status() for name in self._order]

    def recoveries(self) -> dict[str, RecoveryCounts]:
        return {name: supervised.counts() for name, supervised in self._supervised.items()}

    def apply(self, config: Config) -> None:
        for supervised in self._supervised.values():
            supervised.apply(_settings(config), config.health_interval)

    def check_soon(self, name: str) -> None:
        """With the next look, whenever it would be due otherwise."""
        self._next_check[name] = 0.0

    async def check_all(self) -> None:
        """One check of each, now."""
        await asyncio.gather(*map(self._begin_check, self._order))

    async def _run(self) -> None:
        while True:
            now = self.ticked_at = time.monotonic()
            try:
                self._look(now)
            except Exception:  # a fault of one look must not end all others
                log.exception("supervision stumbled")
            await asyncio.sleep(TICK)

    def _look(self, now: float) -> None:
        """Begins what is due."""
        for name, supervised in self._supervised.items():
            if supervised.is_up and now >= self._next_check[name]:
                self._begin_check(name)
        for name, supervised in self._supervised.items():
            if supervised.due(now) and self._may_restart(name):
                for other in self._affected[name]:
                    self._supervised[other].restart_along()
                    if other in self._checks:
                        self._checks.pop(other).cancel()
                self._spawn(self._restarts, name, self._restart(name))

    def _may_restart(self, name: str) -> bool:
        """Not while one that it depends on is about to be restarted, nor while any that it takes along is."""
        for needed in self._depends_on[name]:
            if self._supervised[needed].phase in (Phase.WAITING, Phase.RESTARTING):
                return False
        return all(self._supervised[other].phase is not Phase.RESTARTING for other in self._affected[name])

    def _begin_check(self, name: str) -> asyncio.Task[None]:
        """The one that is under way, or a new one."""
        return self._checks.get(name) or self._spawn(self._checks, name, self._check(name))

    def _spawn(
        self, tasks: dict[str, asyncio.Task[None]], name: str, work: Coroutine[None, None, None]
    ) -> asyncio.Task[None]:
        task = tasks[name] = asyncio.create_task(work)

        def ended(_: asyncio.Task[None]) -> None:
            if tasks.get(name) is task:
                del tasks[name]

        task.add_done_callback(ended)
        return task

    async def _check(self, name: str) -> None:
        supervised = self._supervised[name]
        timeout = self._config().health.timeout
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                health = await self._by_name[name].check()
        except TimeoutError:
            health = Health(Status.UNHEALTHY, f"health check took longer than {timeout:g} s")
        except Exception as error:  # a component's own fault, whatever it is, is what the check is for
            reason = str(error) or type(error).__name__
            if _is_starved(error):
                # not the component's: restarting it would end what works still, and `descriptors` has the reason
                health = Health(Status.DEGRADED, f"it could not be checked: {reason}")
            else:
                health = Health(Status.UNHEALTHY, reason)
        now = time.monotonic()
        before, phase, recovered = supervised.status(), supervised.phase, supervised.counts().successes
        supervised.checked(health, now - began, now, time.time())
        self._next_check[name] = now + supervised.pause()
        self._durations.checked(name, now - began)
        if health.status is Status.UNHEALTHY:
            self._unhealthy_at.setdefault(name, now)
        if supervised.counts().successes > recovered:
            self._note("component", "recovered", component=name)
            self._durations.recovered(name, now - self._unhealthy_at.get(name, now))
        if supervised.phase is Phase.RUNNING and not supervised.status().recovering:
            self._unhealthy_at.pop(name, None)
        if supervised.phase is Phase.FAILED and phase is not Phase.FAILED:
            self._note("component", "failed", component=name, reason=health.reason)
        self._tell(before, supervised.status())

    def _tell(self, before: ComponentHealth, after: ComponentHealth) -> None:
        if after.status is before.status:
            return
        change = {"component": after.name, "was": before.status.value, "now": after.status.value}
        self._note("component", "health", **change, reason=after.reason)
        log.warning("component health changes", **change, reason=after.reason)
        if after.status.severity < before.status.severity:
            # what it suffered from may have been the trouble of others too
            for name, supervised in self._supervised.items():
                if supervised.status().status is not Status.HEALTHY:
                    self._next_check[name] = 0.0

    async def _restart(self, name: str) -> None:
        """Stops the component and all that are restarted with it, and starts them again in order."""
        supervised, affected = self._supervised[name], self._affected[name]
        supervised.restart()
        log.warning(
            "component restarts", component=name, with_dependants=affected[1:], reason=supervised.status().reason
        )
        self._note("component", "restart", component=name, with_dependants=affected[1:])
        for other in reversed(affected):
            await self._stop_one(other)
        down = ""
        for other in affected:
            reason = f"{down} could not be restarted, which it stands on" if down else await self._start_one(other)
            if reason:
                down = down or other
                self._could_not_start(other, reason)
            else:
                self._supervised[other].started()
        await asyncio.gather(*(self._begin_check(other) for other in affected if self._supervised[other].is_up))

    async def _start_one(self, name: str) -> str:
        """Why it did not start; empty where it did."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._by_name[name].start()
        except TimeoutError:
            return f"it did not start within {START_TIMEOUT:g} s"
        except Exception as error:  # whatever keeps it from starting, the next attempt may find gone
            return str(error) or type(error).__name__
        return ""

    def _could_not_start(self, name: str, reason: str) -> None:
        supervised, now = self._supervised[name], time.monotonic()
        before = supervised.status()
        supervised.start_failed(reason, now, time.time())
        self._unhealthy_at.setdefault(name, now)
        failed = supervised.phase is Phase.FAILED
        log.error("component could not be restarted", component=name, reason=reason, failed=failed)
        self._note("component", "failed" if failed else "restart-failed", component=name, reason=reason)
        self._tell(before, supervised.status())

    async def _stop_one(self, name: str) -> None:
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._by_name[name].stop()
        except TimeoutError:
            log.error("component does not stop", component=name, seconds=STOP_TIMEOUT)
        except Exception as error:  # stopping goes on with the others
            log.error("component failed to stop", component=name, reason=str(error))


def _is_starved(error: BaseException) -> bool:
    """The check had no descriptor or thread to be made with."""
    cause = error.__cause__
    return (
        isinstance(error, ExhaustedError)
        or (isinstance(error, OSError) and error.errno in EXHAUSTED)
        or (cause is not None and _is_starved(cause))
    )


def _settings(config: Config) -> RecoverySettings:
    health = config.health
    return RecoverySettings(
        health.recovery_max_retries,
        health.recovery_backoff,
        health.recovery_backoff_factor,
        health.recovery_jitter,
        health.slow_retry_interval,
    )
