"""Workloads at work in one process: schedules, retries, hooks, changes, versions, damage."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dwcp.config import Config
from dwcp.errors import NotFoundError, UsageError
from dwcp.policy.queueing import JobState
from dwcp.store.job import Job, NewJob, Settings
from dwcp.store.jobs import JobStore
from dwcp.store.recorder import untold
from dwcp.transfer.node import Node
from dwcp.workloads.coordinator import Workloads
from dwcp.workloads.hooks import HookError, run_hook
from dwcp.workloads.performing import Performance
from tests.support import DEADLINE, Pair, make_tree

JOBS = {"backoff": "10ms", "max_backoff": "20ms", "retries": 2}


class Site:
    """Node `a` of a pair, with workloads. `config` may be replaced."""

    def __init__(self, pair: Pair, **workloads: dict[str, Any]) -> None:
        self.pair = pair
        self.source = pair.directory / "db"
        make_tree(self.source)
        self.closed: set[str] = set()
        self.declare(**workloads)
        self.node = Node(self.config, pair.identities["a"])
        self.workloads = Workloads(lambda: self.config, lambda: self.node, lambda: self.closed, untold)

    def declare(self, **workloads: dict[str, Any]) -> None:
        usual = {"source": str(self.source), "targets": ["b:inbox/db"]}
        values = self.pair.config.model_dump()
        values |= {"jobs": JOBS, "workloads": {name: {**usual, **given} for name, given in workloads.items()}}
        self.config = Config.model_validate(values)

    def run(self, act: Callable[[Workloads], Awaitable[None]]) -> None:
        """`act` beside the loop, which is stopped at the end."""

        async def both() -> None:
            await self.workloads.start()
            loop = asyncio.create_task(self.workloads.run())
            try:
                acting = asyncio.create_task(act(self.workloads))
                await asyncio.wait({acting, loop}, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
                assert not loop.done(), loop.result()
                if not acting.done():
                    acting.cancel()
                    pytest.fail(f"nothing more happens: {await self.workloads.jobs()}, {self.workloads.status}")
                await acting
            finally:
                loop.cancel()
                await asyncio.gather(loop, return_exceptions=True)
                await self.workloads.stop()

        asyncio.run(both())

    def is_there(self) -> bool:
        return _content(self.source) == _content(self.pair.inbox / "db")


def _content(top: Path) -> dict[str, tuple[int, int]]:
    """Cheap, because it is looked at again and again in the loop that does the work."""
    found = {}
    for path in top.rglob("*"):
        if path.is_file():
            status = path.stat()
            found[str(path.relative_to(top))] = (status.st_size, status.st_mtime_ns)
    return found


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (what is waited for has no event)
        await asyncio.sleep(0.01)


async def _ended(workloads: Workloads, job_id: int, *states: JobState) -> Job:
    wanted = states or (JobState.DONE, JobState.PARKED, JobState.CANCELLED)
    while (job := await workloads.job(job_id)).state not in wanted:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return job


def test_an_interval_runs_at_once_and_again(pair: Pair) -> None:
    site = Site(pair, db={"every": "1s"})

    async def act(workloads: Workloads) -> None:
        await _until(site.is_there)
        (site.source / "new").write_bytes(b"new")
        await _until(site.is_there)
        await _until(lambda: len(workloads.status.standings) == 1)
        assert workloads.status.standings[0].sent_at <= time.time()

    site.run(act)


def test_without_a_schedule_it_runs_on_request_only(pair: Pair) -> None:
    site = Site(pair, db={"keep": "last 2", "checksum": "blake3"})

    async def act(workloads: Workloads) -> None:
        await _until(lambda: workloads.looked_at > 0)
        assert await workloads.jobs() == []
        for content in (b"1", b"2", b"3"):
            (site.source / "new").write_bytes(content)
            (job,) = await workloads.ask("db", "send")
            done = await _ended(workloads, job.id)
            assert done.state is JobState.DONE, done.reason
            assert done.version
        # nothing has changed, and nothing is made
        (job,) = await workloads.ask("db", "send")
        assert (await _ended(workloads, job.id)).version == done.version

    site.run(act)
    assert site.is_there()
    assert len(pair.do(lambda peer: peer.versions("inbox/db"))) == 2


def test_changes_are_sent_once_they_rest(pair: Pair) -> None:
    site = Site(pair, db={"on_change": True, "settle": "200ms"})

    async def act(workloads: Workloads) -> None:
        await _until(site.is_there)
        (site.source / "deep" / "er").mkdir(parents=True)
        (site.source / "deep" / "er" / "new").write_bytes(b"new")
        await _until(site.is_there)
        (site.source / "deep" / "er" / "new").unlink()
        await _until(site.is_there)
        await workloads.pause("db", paused=True)
        (site.source / "while-paused").write_bytes(b"")
        await _until(lambda: workloads.status.known["db"].paused)
        await workloads.pause("db", paused=False)
        await _until(site.is_there)

    site.run(act)


def test_a_file_that_is_replaced_is_seen(pair: Pair) -> None:
    site = Site(pair)
    image = pair.directory / "image"
    image.write_bytes(b"one")
    site.declare(image={"source": str(image), "targets": ["b:inbox/image"], "on_change": True, "settle": "100ms"})

    async def act(workloads: Workloads) -> None:
        arrived = pair.inbox / "image"
        await _until(lambda: arrived.exists() and arrived.read_bytes() == b"one")
        new = pair.directory / "image.new"
        new.write_bytes(b"three")
        new.rename(image)
        await _until(lambda: arrived.read_bytes() == b"three")

    site.run(act)


def test_what_is_in_a_source_that_appears_is_seen(pair: Pair) -> None:
    """Its parent was watched, as for a file."""
    site = Site(pair)
    later = pair.directory / "later"
    site.declare(later={"source": str(later), "targets": ["b:inbox/later"], "on_change": True, "settle": "100ms"})
    arrived = pair.inbox / "later"

    async def act(workloads: Workloads) -> None:
        await _until(lambda: workloads.looked_at > 0)
        later.mkdir()
        (later / "first").write_bytes(b"")
        await _until((arrived / "first").exists)
        (later / "second").write_bytes(b"")
        await _until((arrived / "second").exists)

    site.run(act)


def test_a_source_that_cannot_be_watched_is_named(pair: Pair) -> None:
    site = Site(pair)
    site.declare(db={"source": "/nowhere/at/all", "on_change": True})

    async def act(workloads: Workloads) -> None:
        await _until(lambda: bool(workloads.problems))
        assert "/nowhere/at/all" in workloads.problems[0]

    site.run(act)


def test_what_fails_is_tried_again_then_parked_then_set_going(pair: Pair) -> None:
    site = Site(pair, db={})
    aside = site.source.rename(pair.directory / "aside")

    async def act(workloads: Workloads) -> None:
        (job,) = await workloads.ask("db", "send")
        parked = await _ended(workloads, job.id)
        assert (parked.state, parked.attempts) == (JobState.PARKED, 3)
        assert "cannot read" in parked.reason
        aside.rename(site.source)
        (again,) = await workloads.ask("db", "send")
        assert again.id == job.id
        assert (await _ended(workloads, job.id)).state is JobState.DONE
        assert workloads.status.ended[JobState.PARKED] == 1

    site.run(act)
    assert site.is_there()


def test_what_no_other_try_can_mend_is_parked_at_once(pair: Pair) -> None:
    site = Site(pair, db={"targets": ["b:fixed/db"]})

    async def act(workloads: Workloads) -> None:
        (job,) = await workloads.ask("db", "send")
        parked = await _ended(workloads, job.id)
        assert (parked.state, parked.attempts) == (JobState.PARKED, 1)
        assert "read-only" in parked.reason

    site.run(act)


def test_a_peer_whose_breaker_is_open_is_waited_for(pair: Pair) -> None:
    site = Site(pair, db={})
    site.closed = {"b"}

    async def act(workloads: Workloads) -> None:
        (job,) = await workloads.ask("db", "send")
        began = workloads.looked_at
        await _until(lambda: workloads.looked_at > began)
        assert (await workloads.job(job.id)).state is JobState.WAITING
        site.closed = set()
        assert (await _ended(workloads, job.id)).state is JobState.DONE

    site.run(act)


def test_hooks_run_around_a_transfer(pair: Pair) -> None:
    note = pair.directory / "note"
    write = f"import os; open({str(note)!r}, 'a').write('%s ' + os.environ.get('DWCP_RESULT', '-') + '\\n')"
    hooks = {"before": [sys.executable, "-c", write % "before"], "after": [sys.executable, "-c", write % "after"]}
    site = Site(pair, db=hooks)

    async def act(workloads: Workloads) -> None:
        (job,) = await workloads.ask("db", "send")
        assert (await _ended(workloads, job.id)).state is JobState.DONE
        site.source.rename(pair.directory / "aside")
        (job,) = await workloads.ask("db", "send")
        await _ended(workloads, job.id)

    site.run(act)
    lines = note.read_text().splitlines()
    assert lines[:2] == ["before -", "after done"]
    assert lines[2:] == ["before -", "after not-found"] * 3


def test_where_the_hook_before_fails_nothing_is_sent(pair: Pair) -> None:
    site = Site(pair, db={"before": [sys.executable, "-c", "print('no snapshot'); raise SystemExit(3)"]})

    async def act(workloads: Workloads) -> None:
        (job,) = await workloads.ask("db", "send")
        parked = await _ended(workloads, job.id)
        assert "ended with 3: no snapshot" in parked.reason

    site.run(act)
    assert not (pair.inbox / "db").exists()


def test_a_hook_has_an_end_and_takes_its_children_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(HookError, match="took longer than 2 s"):
        asyncio.run(run_hook([sys.executable, "-c", parent], 2.0, {}))
    with pytest.raises(ProcessLookupError):
        # it was killed; whoever collects it may need a moment
        for _ in range(1000):
            os.kill(int(pid.read_text()), 0)
            if Path(f"/proc/{pid.read_text()}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                raise ProcessLookupError
            time.sleep(0.005)
    with pytest.raises(HookError, match="cannot be run"):
        asyncio.run(run_hook([str(tmp_path / "nothing")], 2.0, {}))


def test_a_job_of_nobody_and_its_cancellation(pair: Pair) -> None:
    site = Site(pair)
    big = pair.directory / "big"
    big.write_bytes(os.urandom(40_000_000))

    async def act(workloads: Workloads) -> None:
        slow = Settings(bandwidth="8Mbit/s")
        job = await workloads.add(NewJob("", "send", "b", "inbox/big", str(big), slow, 5))
        await _ended(workloads, job.id, JobState.RUNNING)
        await _until(lambda: bool(site.node.board.live()))
        await workloads.cancel(job.id)
        assert (await _ended(workloads, job.id)).state is JobState.CANCELLED
        with pytest.raises(UsageError, match="is cancelled already"):
            await workloads.cancel(job.id)
        with pytest.raises(NotFoundError):
            await workloads.cancel(12345)

    site.run(act)


def test_what_runs_when_the_node_stops_goes_on_afterwards(pair: Pair) -> None:
    site = Site(pair, db={"bandwidth": "16Mbit/s"})
    (site.source / "big").write_bytes(os.urandom(4_000_000))
    ids: list[int] = []

    async def begin(workloads: Workloads) -> None:
        ids.extend(job.id for job in await workloads.ask("db", "send"))
        await _until(lambda: bool(site.node.board.live()))

    site.run(begin)
    stopped = JobStore(pair.directory / "a")
    assert "stopping" in stopped.get(ids[0]).reason
    stopped.close()

    async def finish(workloads: Workloads) -> None:
        assert (await _ended(workloads, ids[0])).state is JobState.DONE

    site.run(finish)
    assert site.is_there()


def test_a_peer_that_interrupts_is_tried_again(pair: Pair) -> None:
    site = Site(pair, db={"bandwidth": "16Mbit/s"})
    (site.source / "big").write_bytes(os.urandom(4_000_000))

    async def act(workloads: Workloads) -> None:
        (job,) = await workloads.ask("db", "send")
        await _until(lambda: bool(pair.board.live()))
        pair.board.cancel(pair.board.live()[0].id)
        await _until(lambda: len(pair.board.recent()) == 1)
        assert (await _ended(workloads, job.id)).state is JobState.DONE

    site.run(act)
    assert site.is_there()


def test_a_check_mends_from_the_source_what_is_damaged_everywhere(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(pair, db={"keep": "all", "verify_every": "1d"})
    precious = site.source / "precious"
    precious.write_bytes(os.urandom(100_000))

    def rot(path: Path) -> None:
        status = path.stat()
        path.write_bytes(os.urandom(100_000))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    async def act(workloads: Workloads) -> None:
        (job,) = await workloads.ask("db", "send")
        version = (await _ended(workloads, job.id)).version
        (stored,) = (pair.inbox / ".dwcp" / "versions").glob(f"*/{version}/tree/precious")
        live = pair.inbox / "db" / "precious"
        rot(stored)
        live.unlink()
        (job,) = await workloads.ask("db", "verify")
        done = await _ended(workloads, job.id)
        assert (done.state, done.reason) == (JobState.DONE, "")
        assert stored.read_bytes() == live.read_bytes() == precious.read_bytes()
        # the source has another by now: nobody can mend it, and it is said
        rot(stored)
        precious.write_bytes(b"other")
        (job,) = await workloads.ask("db", "send")
        await _ended(workloads, job.id)
        (job,) = await workloads.ask("db", "verify")
        done = await _ended(workloads, job.id)
        assert "1 stored files are damaged" in done.reason
        await _until(lambda: any(standing.damaged == 1 for standing in workloads.status.standings))

    site.run(act)


def test_what_a_workload_cannot_do_is_said(pair: Pair) -> None:
    site = Site(pair, db={})

    async def act(workloads: Workloads) -> None:
        with pytest.raises(NotFoundError, match="no workload 'www'; there are: db"):
            await workloads.ask("www", "send")
        with pytest.raises(UsageError, match="keeps no versions"):
            await workloads.ask("db", "verify")
        with pytest.raises(NotFoundError):
            await workloads.pause("www", paused=True)

    site.run(act)
    with pytest.raises(NotFoundError, match="do not run"):
        asyncio.run(site.workloads.jobs())


def test_a_fault_of_ours_ends_one_job_and_not_the_queue(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(pair, db={})

    def broken(self: Performance) -> None:
        raise ValueError("nobody thought of it")

    async def act(workloads: Workloads) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Performance, "run", broken)
            (job,) = await workloads.ask("db", "send")
            assert "nobody thought of it" in (await _ended(workloads, job.id)).reason
        (job,) = await workloads.ask("db", "send")
        assert (await _ended(workloads, job.id)).state is JobState.DONE

    site.run(act)


def test_a_share_of_the_rate_is_what_a_job_may_send(pair: Pair) -> None:
    site = Site(pair)
    slow = site.node.slowed(lambda rate: 4_000_000 if rate is None else rate // 4)

    class Paced:
        pace: int | None = 0

        def set_pacing(self, rate: int | None) -> None:
            self.pace = rate

    links = [Paced(), Paced()]
    for link in links:
        slow.pacer.add(link)  # type: ignore[arg-type]
    assert [link.pace for link in links] == [2_000_000, 2_000_000]
    for link in links:
        slow.pacer.remove(link)  # type: ignore[arg-type]
