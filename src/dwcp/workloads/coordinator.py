"""Workloads and jobs of one node: looks what is due, runs jobs, and answers who asks.

One loop, in the manager's event loop, does all that decides; the database, transfers and watchers are in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from dwcp.config import Config
from dwcp.errors import DwcpError, FencedError, Interrupted, NotFoundError, UnreachableError, UsageError
from dwcp.policy.queueing import Backoff, JobState, choose, next_look, parks
from dwcp.policy.schedule import Settling
from dwcp.store.job import Job, Known, NewJob, Outcome, Standing
from dwcp.store.jobs import JobStore
from dwcp.store.recorder import Note
from dwcp.transfer.client import connect_as
from dwcp.transfer.node import Node
from dwcp.transfer.remote_versions import RemoteVersion
from dwcp.workloads import plan
from dwcp.workloads.owners import Owners, StaticOwners
from dwcp.workloads.performing import Performance, run
from dwcp.workloads.watching import Watcher

IDLE = 60.0
"""Seconds between looks where nothing is due: a clock that was set is noticed."""
CLOSED = 2.0
"""Seconds between looks while jobs wait for a peer whose circuit breaker is open."""
LEAST = 0.05
MAX_JOBS = 64
"""As jobs.at_once may be set to."""
MAX_WAITING = 10_000
"""Jobs added by command that may wait: each costs a row."""
TOLD_JOBS = 100
"""Of the jobs that have not ended, in the status: as many as people read."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """What is known of a workload, for people and metrics. Cheap to read: as of the newest look."""

    known: dict[str, Known] = field(default_factory=dict)
    standings: list[Standing] = field(default_factory=list)
    counts: dict[JobState, int] = field(default_factory=lambda: dict.fromkeys(JobState, 0))
    ended: dict[JobState, int] = field(default_factory=dict)
    """Jobs since the manager started: done, parked and cancelled."""
    next_runs: dict[str, float] = field(default_factory=dict)
    """Wall clock, of the workloads that the clock has run."""
    jobs: list[Job] = field(default_factory=list)
    """Jobs that have not ended, TOLD_JOBS at most: those that run, then parked ones, then those that wait."""


class Workloads:
    """`start`, then `run` until cancelled, then `stop`; can be started again."""

    def __init__(
        self,
        config: Callable[[], Config],
        node: Callable[[], Node],
        closed_peers: Callable[[], Collection[str]],
        note: Note,
        owners: Owners | None = None,
    ) -> None:
        """`closed_peers`: those whose circuit breaker is open. `owners`: who says what is run here; without, each
        workload's first owner."""
        self._owners: Owners = owners or StaticOwners(config)
        self._config = config
        self._node = node
        self._closed_peers = closed_peers
        self._note = note
        self._store_: JobStore | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._running: dict[int, Performance] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchers: dict[str, tuple[Watcher, Settling]] = {}
        self._wake = asyncio.Event()
        self._untried: set[str] = set()
        """Workloads with jobs that wait for their first try."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._ended = dict.fromkeys((JobState.DONE, JobState.PARKED, JobState.CANCELLED), 0)
        self._status = WorkloadStatus()
        self.looked_at = 0.0
        """Monotonic time of the newest look: proof that the loop lives."""

    @property
    def status(self) -> WorkloadStatus:
        return self._status

    def runs(self, workload: str) -> bool:
        """Whether it is this node that runs it, and not another of its owners."""
        return self._owners.schedules(workload)

    def owner(self, workload: str) -> str:
        """The node that runs it, as far as this one knows; empty where nobody does."""
        return self._owners.owner(workload)

    @property
    def problems(self) -> list[str]:
        """Sources whose changes are not seen."""
        return [watcher.problem for watcher, _ in self._watchers.values() if watcher.problem]

    @property
    def _store(self) -> JobStore:
        """Raises NotFoundError while nothing runs."""
        if self._store_ is None:
            raise NotFoundError("workloads do not run on this node: `enabled` is false, or it is stopping")
        return self._store_

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises StateError."""
        self._stopping = False
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._store_ = await asyncio.to_thread(JobStore, Path(self._config().storage.state_dir))
        self._executor = ThreadPoolExecutor(MAX_JOBS, thread_name_prefix="dwcp-job")
        self._wake.set()

    async def run(self, alive: Callable[[float], None] = lambda _: None) -> None:
        """Looks and acts until it is cancelled; `alive` is told in how many seconds it will be told again.

        Raises StateError where the database cannot be used.
        """
        while True:
            self._wake.clear()
            alive(0.0)
            pause = await self._look()
            self.looked_at = time.monotonic()
            alive(pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def stop(self) -> None:
        """What runs is interrupted, and goes on at the next start."""
        self._stopping = True
        for watcher, _ in self._watchers.values():
            watcher.stop()
        self._watchers.clear()
        for performance in self._running.values():
            performance.cancel("the manager is stopping; it goes on when it is started again")
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None
        store, self._store_ = self._store_, None
        if store is not None:
            await asyncio.to_thread(store.close)

    def look_again(self) -> None:
        """The configuration has changed. From the event loop."""
        self._wake.set()

    # -- requests, from the event loop ---------------------------------------------------------------------------------

    async def jobs(self, *states: JobState) -> list[Job]:
        """In these states, or all; oldest first."""
        return await asyncio.to_thread(self._store.jobs, *states)

    async def job(self, job_id: int) -> Job:
        """Raises NotFoundError."""
        return await asyncio.to_thread(self._store.get, job_id)

    async def add(self, job: NewJob) -> Job:
        """As `add_job`, which blocks."""
        return await asyncio.to_thread(self.add_job, job)

    def add_job(self, job: NewJob) -> Job:
        """Queues a job that belongs to no workload; from any thread but the event loop's. Raises UsageError when too
        many wait."""
        if self._status.counts[JobState.WAITING] >= MAX_WAITING:
            raise UsageError(f"{MAX_WAITING} jobs wait already; cancel some (`dwcp jobs cancel`)")
        (job_id,) = self._store.add([job], time.time())
        self._note("job", "add", peer=job.peer, id=job_id, source=job.source, target=job.target)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)
        return self._store.get(job_id)

    def get_job(self, job_id: int) -> Job:
        """From any thread but the event loop's. Raises NotFoundError."""
        return self._store.get(job_id)

    async def cancel(self, job_id: int) -> Job:
        """Raises NotFoundError; UsageError for one that has ended."""
        performance = self._running.get(job_id)
        if performance is not None:
            performance.cancel("cancelled")
            return await self.job(job_id)
        job = await self.job(job_id)
        if job.state not in (JobState.WAITING, JobState.PARKED):
            raise UsageError(f"job {job_id} is {job.state} already")
        await asyncio.to_thread(self._store.cancelled, job_id, time.time(), "cancelled")
        self._count(JobState.CANCELLED)
        self._note("job", "cancelled", peer=job.peer, id=job_id)
        self._wake.set()
        return await self.job(job_id)

    async def retry(self, job_id: int) -> Job:
        """Raises NotFoundError; UsageError for one that runs or is done."""
        await asyncio.to_thread(self._store.retry, job_id)
        self._wake.set()
        return await self.job(job_id)

    async def ask(self, name: str, kind: str) -> list[Job]:
        """A run of a workload now (`send`), or a check of its versions (`verify`). Raises NotFoundError, UsageError."""
        workload = plan.workload_of(self._config(), name)
        plan.check_kind(workload, name, kind)
        if not self._owners.may_run(name):
            owner = self._owners.owner(name)
            raise UsageError(
                f"workload {name!r} is run by {owner}, not by this node: ask there, or move it here"
                if owner
                else f"workload {name!r} has no owner now; `dwcp cluster status` says why"
            )
        ids = await asyncio.to_thread(self._queue, [(name, kind)], self._config(), time.time(), at_once=True)
        self._wake.set()
        return [await self.job(job_id) for job_id in ids]

    async def pause(self, name: str, *, paused: bool) -> None:
        """Whether it runs by itself; what runs already goes on. Raises NotFoundError."""
        plan.workload_of(self._config(), name)
        await asyncio.to_thread(self._store.follow, plan.targets_of(self._config()), time.time())
        await asyncio.to_thread(self._store.pause, name, paused=paused)
        if not paused and name in self._watchers:
            # what changed meanwhile was not asked for
            self._watchers[name][1].changed(time.monotonic())
        self._note("workload", "pause" if paused else "resume", name=name)
        self._wake.set()

    async def versions(self, name: str, target: str) -> list[RemoteVersion]:
        """Asks the target's peer, oldest first. Raises NotFoundError, UnreachableError, or what the peer answers."""
        if target not in plan.workload_of(self._config(), name).targets:
            raise NotFoundError(f"workload {name!r} has no target {target!r}")
        peer, _, path = target.partition(":")
        if peer in self._closed_peers():
            raise UnreachableError(f"{peer} is not asked: its circuit breaker is open (`dwcp breaker list`)")
        async with connect_as(self._node(), peer) as connected:
            return await connected.versions(path)

    # -- ownership: `workloads.ownership.Work` -------------------------------------------------------------------------

    def pending(self, workload: str) -> bool:
        running = any(performance.job.workload == workload for performance in self._running.values())
        return running or workload in self._untried

    async def take_up(self, workload: str) -> None:
        """Queues a run, unless it is paused; for the workload's owner alone."""
        known = self._status.known.get(workload)
        declared = self._config().workloads.get(workload)
        if self._store_ is not None and declared is not None and declared.enabled and not (known and known.paused):
            self._untried.add(workload)
            await asyncio.to_thread(self._queue, [(workload, "send")], self._config(), time.time(), at_once=True)
        self._wake.set()

    async def put_down(self, workload: str, why: str) -> None:
        for performance in self._running.values():
            if performance.job.workload == workload:
                performance.cancel(why)
        store = self._store_
        if store is not None:
            now = time.time()
            for job in await asyncio.to_thread(store.jobs, JobState.WAITING):
                if job.workload == workload:
                    await asyncio.to_thread(store.cancelled, job.id, now, why)
        self._untried.discard(workload)
        self._wake.set()

    # -- a look --------------------------------------------------------------------------------------------------------

    async def _look(self) -> float:
        """Starts what is to be started; seconds until the next look."""
        config = self._config()
        self._follow_watchers(config)
        settled, settles_at = self._settled(time.monotonic())
        for name in settled:
            # before the jobs are queued: what changes from now on is for the next ones
            self._watchers[name][1].taken()
        ready, next_at = await asyncio.to_thread(self._plan, config, settled, set(self._closed_peers()))
        for job in ready:
            self._begin(job)
        await asyncio.to_thread(self._read_status, config)
        waits = [IDLE]
        if next_at is not None:
            waits.append(next_at - time.time())
        if settles_at is not None:
            waits.append(settles_at - time.monotonic())
        if self._status.counts[JobState.WAITING] and self._closed_peers():
            waits.append(CLOSED)
        return max(LEAST, min(waits))

    def _plan(
        self, config: Config, settled: Collection[str], closed: Collection[str]
    ) -> tuple[list[Job], float | None]:
        """(jobs that were marked as running, when the next is due). In a thread."""
        store, now = self._store, time.time()
        store.follow(plan.targets_of(config), now)
        scheduled = {name: known for name, known in store.known().items() if self._owners.schedules(name)}
        due = plan.due(config, scheduled, settled, now)
        self._queue(due.asked, config, now)
        # first what is at work: what ends meanwhile is not taken for lost
        at_work = set(self._running)
        for job in store.jobs(JobState.RUNNING):
            if job.id not in at_work:
                store.wait(job.id, job.attempts, now, "how it ended could not be noted")
        waiting = {
            job.id: job
            for job in store.jobs(JobState.WAITING)
            if not job.workload or self._owners.may_run(job.workload)
        }
        self._untried = {job.workload for job in waiting.values() if job.workload and not job.attempts}
        running = [plan.queued(performance.job) for performance in list(self._running.values())]
        queued = [plan.queued(job) for job in waiting.values()]
        ready = []
        if not self._stopping:
            for job_id in choose(queued, running, now, plan.limits(config), closed):
                store.start(job_id, now)
                ready.append(store.get(job_id))
        moments = [moment for moment in (due.next_at, next_look(queued, now)) if moment is not None]
        return ready, min(moments, default=None)

    def _queue(
        self, asked: Collection[tuple[str, str]], config: Config, now: float, *, at_once: bool = False
    ) -> list[int]:
        store, ids = self._store, []
        for name, kind in asked:
            ids += store.add(plan.jobs_of(name, config.workloads[name], kind), now, at_once=at_once)
            store.asked(name, kind, now)
        return ids

    def _read_status(self, config: Config) -> None:
        store = self._store
        known = store.known()
        self._status = WorkloadStatus(
            known,
            store.standings(),
            store.counts(),
            dict(self._ended),
            plan.next_runs(config, known),
            store.unended(TOLD_JOBS),
        )

    # -- sources -------------------------------------------------------------------------------------------------------

    def _follow_watchers(self, config: Config) -> None:
        wanted = {
            name: Path(workload.source)
            for name, workload in config.workloads.items()
            if workload.on_change and workload.enabled and self._owners.schedules(name)
        }
        for name, (watcher, settling) in list(self._watchers.items()):
            if wanted.get(name) != watcher.source or config.workloads[name].settle != settling.seconds:
                watcher.stop()
                del self._watchers[name]
        for name, source in wanted.items():
            if name not in self._watchers:
                settling = Settling(config.workloads[name].settle)
                self._watchers[name] = (Watcher(source, self._teller(settling)), settling)

    def _teller(self, settling: Settling) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def changed() -> None:
            settling.changed(time.monotonic())
            self._wake.set()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):
                # the loop has ended, and nobody wants to know any more
                loop.call_soon_threadsafe(changed)

        return tell

    def _settled(self, now: float) -> tuple[list[str], float | None]:
        """(workloads whose source rests, when the next will)."""
        moments = {name: settling.due() for name, (_, settling) in self._watchers.items()}
        rest = [name for name, moment in moments.items() if moment is not None and moment <= now]
        return rest, min((m for m in moments.values() if m is not None and m > now), default=None)

    # -- jobs at work --------------------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        self._running[job.id] = Performance(self._node(), job, partial(self._owners.grant, job.workload))
        self._note("job", "begin", peer=job.peer, id=job.id, what=job.kind, workload=job.workload, target=job.target)
        task = asyncio.create_task(self._see_through(self._running[job.id]), name=f"dwcp-job-{job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, performance: Performance) -> None:
        job = performance.job
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._executor, run, performance)
            await asyncio.to_thread(self._settle, performance, result)
        except DwcpError as error:
            log.error("the end of a job cannot be noted; it is done again", job=job.id, reason=str(error))
        finally:
            self._running.pop(job.id, None)
            self._wake.set()
            self._owners.job_ended()

    def _settle(self, performance: Performance, result: Outcome | DwcpError) -> None:
        """Notes how it ended. In a thread."""
        store, now, settings, job = self._store, time.time(), self._config().jobs, performance.job
        if isinstance(result, Outcome):
            store.finish(job, result, now)
            store.forget_ended(settings.keep_ended)
            self._count(JobState.DONE)
            self._note("job", "done", peer=job.peer, id=job.id, version=result.version, files=result.files)
            return
        reason = str(result)
        if performance.is_cancelled and isinstance(result, Interrupted):
            if self._stopping:
                store.wait(job.id, job.attempts, 0.0, reason)
            else:
                store.cancelled(job.id, now, reason)
                self._count(JobState.CANCELLED)
                self._note("job", "cancelled", peer=job.peer, id=job.id)
            return
        if isinstance(result, FencedError):
            store.cancelled(job.id, now, reason)
            self._count(JobState.CANCELLED)
            self._note("job", "cancelled", peer=job.peer, id=job.id)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._owners.refused, job.workload)
            return
        attempts = job.attempts + 1
        backoff = Backoff(settings.backoff, settings.max_backoff, settings.retries)
        if parks(result.code, attempts, backoff):
            store.park(job.id, attempts, reason)
            self._count(JobState.PARKED)
            self._note("job", "parked", peer=job.peer, id=job.id, reason=reason, attempts=attempts)
            log.error("job is parked", job=job.id, workload=job.workload, target=job.place, reason=reason)
            return
        # not a secret: it only keeps many jobs from coming back in step
        pause = backoff.pause(attempts, random.random())  # noqa: S311
        store.wait(job.id, attempts, now + pause, reason)
        log.warning("job is tried again", job=job.id, target=job.place, reason=reason, seconds=round(pause, 1))

    def _count(self, state: JobState) -> None:
        self._ended[state] += 1
