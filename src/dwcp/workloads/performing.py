"""One job from its beginning to its end, in a thread of its own: a transfer takes long, and blocks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TypedDict, TypeVar

import structlog

from dwcp.errors import DwcpError, Interrupted, NotFoundError, TemporaryError, fault
from dwcp.files.root import Root
from dwcp.store.job import Job, Outcome
from dwcp.telemetry import Attributes, spanning
from dwcp.transfer.client import Checksum, Peer, connect_as
from dwcp.transfer.node import Node
from dwcp.transfer.result import TransferResult
from dwcp.transfer.source import Source, TreeSource
from dwcp.units import parse_percent, parse_rate
from dwcp.wire.messages import Fence
from dwcp.wire.paths import check_relative
from dwcp.workloads.hooks import run_hook
from dwcp.workloads.owners import Grant

LEASE_LOOK = 0.2
"""Seconds between two looks whether the lease is still there."""
T = TypeVar("T")

log = structlog.get_logger()


class _Options(TypedDict):
    delete: bool
    checksum: Checksum


class Performance:
    """`run` blocks; `cancel` may come from any thread."""

    def __init__(self, node: Node, job: Job, grant: Callable[[], Grant | None] = lambda: None) -> None:
        """`grant`: under whose ownership it writes."""
        self._node = node
        self._grant = grant
        self.job = job
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Outcome] | None = None
        self._why = ""

    @property
    def is_cancelled(self) -> bool:
        """Here, and not by the peer: one that stops, or cancels, will take it again."""
        return bool(self._why)

    def cancel(self, why: str) -> None:
        """`run` soon raises Interrupted; what had arrived is kept."""
        with self._lock:
            self._why = why
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def _reason(self) -> str:
        return self._why

    def run(self) -> Outcome:
        """Raises what the job fails with."""
        job = self.job
        told: Attributes = {
            "dwcp.kind": job.kind,
            "dwcp.job": job.id,
            "dwcp.workload": job.workload,
            "dwcp.peer": job.peer,
        }
        with spanning(self._node.telemetry, "job", told):
            return self._run()

    def _run(self) -> Outcome:
        with asyncio.Runner() as runner:
            work = self._perform()
            with self._lock:
                if self._why:
                    work.close()
                    raise Interrupted(self._why)
                self._loop = runner.get_loop()
                self._task = self._loop.create_task(work)
            try:
                return self._loop.run_until_complete(self._task)
            except asyncio.CancelledError:
                raise Interrupted(self._reason()) from None
            finally:
                with self._lock:
                    self._loop = None

    async def _perform(self) -> Outcome:
        job = self.job
        node = self._node if job.settings.bandwidth == "100%" else self._node.slowed(partial(_ceiling, job))
        grant = self._grant()
        if job.kind == "verify":
            async with connect_as(node, job.peer) as peer:
                return await self._held(grant, peer, partial(self._verify, peer))
        if job.settings.before:
            await run_hook(job.settings.before, job.settings.hook_timeout, _variables(job))
        ended: DwcpError | None = None
        try:
            async with connect_as(node, job.peer) as peer:
                result, version = await self._held(grant, peer, partial(self._send, peer))
        except DwcpError as error:
            ended = error
        if job.settings.after:
            await self._after(ended)
        if ended is not None:
            raise ended
        return Outcome(version, result.files, result.bytes, result.wire_bytes)

    async def _held(
        self, grant: Grant | None, peer: Peer, work: Callable[[Fence | None], Coroutine[None, None, T]]
    ) -> T:
        """`work` with what it shows the peer. A peer that cannot tell a former owner must not get anything from one:
        there it ends with the lease. Raises TemporaryError then."""
        if grant is None:
            return await work(None)
        if peer.keeps_fences:
            return await work(grant.fence)
        task = asyncio.create_task(work(None))
        try:
            while grant.held():
                done, _ = await asyncio.wait({task}, timeout=LEASE_LOOK)
                if done:
                    return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})
        raise TemporaryError(
            f"{self.job.peer} is of a version that cannot tell a former owner of a workload, and the lease of this "
            f"node has run out; it is tried again when the lease is there"
        )

    async def _send(self, peer: Peer, fence: Fence | None) -> tuple[TransferResult, str]:
        job, settings = self.job, self.job.settings
        options: _Options = {"delete": settings.delete, "checksum": settings.checksum}  # type: ignore[typeddict-item]
        if settings.ordered_by:
            result = await peer.send_source(_exported(self._node, job.source), job.target, **options)
        else:
            result = await peer.send(job.source, job.target, fence=fence, **options)
        if not settings.keep:
            return result, ""
        return result, (await peer.keep_version(job.target, settings.keep, fence=fence)).version.id

    async def _after(self, ended: DwcpError | None) -> None:
        """What the transfer failed with goes before what the hook fails with."""
        settings = self.job.settings
        told = {"DWCP_RESULT": "done" if ended is None else ended.code}
        try:
            await run_hook(settings.after, settings.hook_timeout, {**_variables(self.job), **told})
        except DwcpError:
            if ended is None:
                raise

    async def _verify(self, peer: Peer, fence: Fence | None) -> Outcome:
        """Where files are damaged at the target beyond its own means, the source heals what it still has."""
        job = self.job
        rate = job.settings.verify_rate // 8 or None
        checked = await peer.check_versions(job.target, rate, fence=fence)
        if checked.removed or checked.damaged:
            await self._send(peer, fence)
            checked = await peer.check_versions(job.target, rate, fence=fence)
        note = f"{checked.damaged} stored files are damaged: {'; '.join(checked.lines[:3])}" if checked.damaged else ""
        return Outcome(files=checked.files, bytes=checked.bytes, damaged=checked.damaged, note=note)


def run(performance: Performance) -> Outcome | DwcpError:
    """As `Performance.run`; whatever it ends with is given back, and nothing raised."""
    try:
        return performance.run()
    except DwcpError as error:
        return error
    except Exception as error:  # a job that fails by a fault of ours must not end the queue
        log.exception("a job failed", job=performance.job.id)
        return fault(error)


def _exported(node: Node, path: str) -> Source:
    """EXPORT/PATH of this node, as a peer gets it: no symlink leads out of it. Raises NotFoundError, RefusedError."""
    name, _, below = path.partition("/")
    export = node.config.storage.exports.get(name)
    if export is None:
        raise NotFoundError(f"there is no export {name!r} any more")
    return TreeSource(Root(Path(export.path)), check_relative(os.fsencode(below)))


def _ceiling(job: Job, rate: int | None) -> int | None:
    """Bits per second that the job may send where the node may send `rate`."""
    share = parse_percent(job.settings.bandwidth)
    if share is None:
        return parse_rate(job.settings.bandwidth)
    return None if rate is None else max(1, int(rate * share))


def _variables(job: Job) -> dict[str, str]:
    return {
        "DWCP_WORKLOAD": job.workload,
        "DWCP_SOURCE": os.fspath(job.source),
        "DWCP_PEER": job.peer,
        "DWCP_TARGET": job.target,
    }
