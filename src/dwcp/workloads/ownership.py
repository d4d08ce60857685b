"""Ownership at work: this node's part in deciding who runs each workload that has `owners`.

One loop looks at the registry whenever something changes there, and at least every POLL seconds; what it finds goes to
`dwcp.ownership`, what that decides is done. Beside it the session keeps the lease. Nothing here is on the path of a
transfer: without the registry nobody becomes an owner, and whoever is one goes on under its token, which the receivers
compare (`dwcp.ownership.lease` says for how long towards receivers that cannot).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import structlog

from dwcp.config import Config
from dwcp.errors import DwcpError, TemporaryError
from dwcp.ownership.decide import Claim, HandOver, LetGo, Moved, decide
from dwcp.ownership.lease import LeaseState
from dwcp.ownership.timing import Election
from dwcp.registry.interface import Member, Registry, RegistryError, Trouble, UnknownOutcomeError
from dwcp.store.recorder import Note
from dwcp.transfer.fencing import Fences
from dwcp.wire.messages import Fence
from dwcp.workloads import ledger as led
from dwcp.workloads.cluster_desk import ClusterDesk
from dwcp.workloads.copies import copies, fence_key
from dwcp.workloads.owners import Grant, policy_of
from dwcp.workloads.session import Session, clock
from dwcp.workloads.shared import SharedRecord

POLL = 1.0
"""Seconds between two looks without a change, for up to CROWD nodes; more nodes look more rarely, so that etcd's load
stays what it is."""
CROWD = 20
FIRST_PAUSE, MAX_PAUSE = 0.2, 5.0
"""Seconds before the registry is tried again; it doubles, less up to a half by chance."""
LOOK_CALLS = 4
"""Calls to the registry between two signs of life of a look."""
REFUSED_PAUSE = 30.0
"""Seconds before an ownership is tried again that a receiver has refused, and the registry confirms."""
EVENTS = 500
T = TypeVar("T")

log = structlog.get_logger()


class Work(Protocol):
    """What is done for workloads here. From the event loop."""

    def pending(self, workload: str) -> bool:
        """A job of it runs, or is about to."""
        ...

    async def take_up(self, workload: str) -> None:
        """It is this node's now: its targets are brought up to date."""
        ...

    async def put_down(self, workload: str, why: str) -> None:
        """It is not any more: what runs is interrupted, what waits is dropped."""
        ...

    def look_again(self) -> None: ...


@dataclass
class Owned:
    """`leaving`: the node that it is handed to, once what is `pending` has ended."""

    token: int
    leaving: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """`at`: seconds since the epoch."""

    at: float
    event: str
    detail: dict[str, str | int]


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """As of the newest look that succeeded, at `at` (seconds since the epoch, 0 for never)."""

    cluster: str = ""
    at: float = 0.0
    lease: LeaseState = LeaseState.LOST
    problem: str = ""
    trouble: Trouble | None = None
    ledger: led.Ledger = field(default_factory=led.Ledger)


class Ownership:
    """`run` until cancelled. `owners.Owners` for the coordinator."""

    def __init__(
        self,
        config: Callable[[], Config],
        connect: Callable[[str, float], Registry],
        fences: Fences,
        fingerprint: str,
        address: Callable[[], str],
        note: Note,
        on_shared: Callable[[Mapping[str, SharedRecord]], Awaitable[None]],
    ) -> None:
        """`connect`: makes a registry of a cluster ("" for any) whose calls take so many seconds. `on_shared` learns
        what is declared for all nodes, whenever that has changed."""
        self._on_shared = on_shared
        self._shared: dict[str, SharedRecord] | None = None
        self._config = config
        self._connect = connect
        self._fences = fences
        self._fingerprint = fingerprint
        self._address = address
        self._note = note
        self._name = config().node.name
        consensus = config().consensus
        self._session = Session(Path(config().storage.state_dir), lambda: consensus.lease, consensus.effective_election)
        self._election = Election(consensus.effective_election, adaptive=consensus.adaptive_mode)
        self._cluster = ""
        self._owned: dict[str, Owned] = {}
        self._ledger = led.Ledger()
        self._seen_at = 0.0
        self._joined_at = 0.0
        self._failure: RegistryError | DwcpError | None = None
        self._wake = asyncio.Event()
        self._work: Work | None = None
        self._refused: dict[str, tuple[int, float]] = {}
        """(token, when) of what a receiver has refused."""
        self._alive: Callable[[float], None] = lambda _: None
        self._moment = 0
        """Of the newest look: what is watched comes after it."""
        self.events: deque[Event] = deque(maxlen=EVENTS)
        self.desk = ClusterDesk(config, self._asked, lambda: self._ledger, self._wake.set)

    def serve(self, work: Work) -> None:
        """Whose work it is to run what is owned."""
        self._work = work

    # -- owners.Owners -------------------------------------------------------------------------------------------------

    def owner(self, workload: str) -> str:
        if not self._is_shared(workload):
            return self._name
        owner = self._ledger.facts.owners.get(workload)
        return owner.node if owner is not None else ""

    def _is_shared(self, workload: str) -> bool:
        declared = self._config().workloads.get(workload)
        return declared is not None and bool(declared.owners)

    def may_run(self, workload: str) -> bool:
        if not self._is_shared(workload):
            return True
        return workload in self._owned and self._session.state in (LeaseState.HELD, LeaseState.UNCONFIRMED)

    def schedules(self, workload: str) -> bool:
        owned = self._owned.get(workload)
        return not self._is_shared(workload) or (self.may_run(workload) and owned is not None and not owned.leaving)

    def grant(self, workload: str) -> Grant | None:
        if not workload or not self._is_shared(workload):
            return None
        owned = self._owned.get(workload)
        if owned is None:
            raise TemporaryError(f"workload {workload!r} is not owned by this node any more")
        return Grant(
            Fence(workload=self._key(workload), token=owned.token),
            lambda: workload in self._owned and self._session.state is LeaseState.HELD,
        )

    def refused(self, workload: str) -> None:
        """What the registry knows comes with the next look; until then nothing is begun."""
        owned = self._owned.pop(workload, None)
        if owned is not None:
            self._refused[workload] = (owned.token, clock())
        self._tell("refused", workload=workload)
        self._wake.set()

    def job_ended(self) -> None:
        if any(owned.leaving for owned in self._owned.values()):
            self._wake.set()

    # -- what people ask -----------------------------------------------------------------------------------------------

    @property
    def status(self) -> ClusterStatus:
        problem = str(self._failure or "") or self._session.problem
        trouble = self._failure.trouble if isinstance(self._failure, RegistryError) else None
        return ClusterStatus(self._cluster, self._seen_at, self._session.state, problem, trouble, self._ledger)

    def leaving(self, workload: str) -> str:
        """To which node it is being handed over; empty where it is not."""
        owned = self._owned.get(workload)
        return owned.leaving if owned is not None else ""

    async def members(self) -> list[Member]:
        """Each as it answers now."""
        return await self._asked(lambda registry: registry.members())

    async def survey(self) -> tuple[list[Member], int]:
        """(members, number of voters). Raises RegistryError."""

        async def both(registry: Registry) -> tuple[list[Member], int]:
            return await registry.members(), await registry.voters()

        return await self._asked(both)

    async def _asked(self, question: Callable[[Registry], Awaitable[T]]) -> T:
        """On a connection of its own: that of the loop comes and goes with what befalls the loop."""
        registry = self._connect(self._cluster or self._session.known_cluster(), self._election.call)
        try:
            return await question(registry)
        finally:
            await registry.close()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self, alive: Callable[[float], None] = lambda _: None) -> None:
        """Until it is cancelled."""
        self._alive = alive
        pause = FIRST_PAUSE
        while True:
            began = clock()
            try:
                await self._attend()
            except* DwcpError as group:
                self._session.hold.failed(began)
                self._failed(_first(group))
            if clock() - began > MAX_PAUSE:
                pause = FIRST_PAUSE
            # not a secret: it only keeps nodes from coming back in step
            wait = pause * random.uniform(0.5, 1.0)  # noqa: S311
            self._alive(wait)
            await asyncio.sleep(wait)
            pause = min(MAX_PAUSE, pause * 2)

    def _failed(self, error: DwcpError) -> None:
        if str(error) != str(self._failure or ""):
            log.warning("consensus is not to be had", reason=str(error))
            self._note("cluster", "trouble", reason=str(error))
        self._failure = error

    async def _attend(self) -> None:
        """Raises what it ends with, or a group of that."""
        self._alive(self._election.call)
        known = self._cluster or await asyncio.to_thread(self._session.known_cluster)
        registry = self._connect(known, self._election.call)
        try:
            self._cluster = await registry.open()
            await self._session.begin(registry, self._cluster)
            self._joined_at = self._joined_at or clock()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._session.keep(registry))
                group.create_task(self._watch(registry))
                group.create_task(self._look_for_ever(registry))
        finally:
            await registry.close()
            await self._put_down_lost()

    async def _put_down_lost(self) -> None:
        if self._session.state is LeaseState.LOST:
            for workload in list(self._owned):
                await self._lose(workload, "the lease of this node has ended")

    async def _watch(self, registry: Registry) -> None:
        while True:
            try:
                async for _ in registry.watch("", self._moment):
                    self._wake.set()
            except RegistryError as error:
                log.info("a watch ended", reason=str(error))
            self._wake.set()
            # not a secret: it only keeps nodes from coming back in step
            await asyncio.sleep(FIRST_PAUSE * random.uniform(1.0, 3.0))  # noqa: S311

    async def _look_for_ever(self, registry: Registry) -> None:
        while True:
            self._wake.clear()
            poll = POLL * max(1.0, len(self._ledger.nodes) / CROWD)
            self._alive(poll + LOOK_CALLS * self._election.call)
            began = time.monotonic()
            await self._look(registry)
            if self._failure is not None:
                log.info("consensus is there again")
                self._note("cluster", "recovered")
                self._failure = None
            if self._election.measured((time.monotonic() - began) / 2):
                log.info("the election timeout follows the round trips", seconds=round(self._election.seconds, 3))
                raise RegistryError("the connection is made anew with other timeouts")
            try:
                async with asyncio.timeout(poll):
                    await self._wake.wait()
            except TimeoutError:
                continue

    # -- a look --------------------------------------------------------------------------------------------------------

    async def _look(self, registry: Registry) -> None:
        snapshot = await registry.snapshot("")
        self._moment = snapshot.moment
        ledger = led.read(snapshot)
        if await self._register(registry, ledger):
            ledger = led.read(await registry.snapshot(""))
        for event, detail in led.changes(self._ledger, ledger) if self._seen_at else ():
            self._tell(event, **detail)
        if ledger.shared != self._shared:
            await self._on_shared(ledger.shared)
            self._shared = ledger.shared
        self._ledger, self._seen_at = ledger, time.time()
        await self._absorb(registry, ledger)
        config = self._config()
        policies = {
            name: policy_of(workload)
            for name, workload in config.workloads.items()
            if workload.owners and workload.enabled
        }
        settled = clock() - self._joined_at >= config.consensus.lease
        staying = set(self._owned)
        for action in decide(ledger.facts, self._name, policies, settled=settled):
            self._alive(LOOK_CALLS * self._election.call)
            try:
                match action:
                    case Claim(workload):
                        await self._claim(registry, workload)
                    case HandOver(workload, to):
                        staying.discard(workload)
                        await self._hand_over(registry, workload, to)
                    case LetGo(workload):
                        await self._lose(workload, "this node does not declare it any more")
                        await registry.remove(led.OWNERS + workload, ledger.version(led.OWNERS + workload))
                    case Moved(workload):
                        await registry.remove(led.MOVES + workload, ledger.version(led.MOVES + workload))
            except UnknownOutcomeError as error:
                log.info("the next look shows what became of it", reason=str(error))
                self._wake.set()
        for workload in staying & self._owned.keys():
            if self._owned[workload].leaving:
                self._owned[workload].leaving = ""
                self._running().look_again()

    async def _register(self, registry: Registry, ledger: led.Ledger) -> bool:
        """What others have to know of this node; whether that was written."""
        lease = self._session.lease()
        states = await asyncio.to_thread(copies, self._config(), self._cluster, self._fences)
        record = led.NodeRecord(self._fingerprint, self._address(), lease.id, states)
        key = led.NODES + self._name
        known = ledger.nodes.get(self._name)
        if known == record:
            return False
        if known is not None and known.fingerprint != self._fingerprint:
            raise RegistryError(
                f"another node is called {self._name!r} ({known.fingerprint}, {known.address}); give one of the two "
                f"another node.name"
            )
        await registry.swap(key, ledger.version(key), msgspec.json.encode(record), lease)
        return True

    async def _absorb(self, registry: Registry, ledger: led.Ledger) -> None:
        """Takes up what this node owns by the registry's word, puts down what it does not."""
        lease = self._session.lease().id
        mine = {
            workload: ledger.facts.owners[workload].token
            for workload, owner in ledger.owners.items()
            if owner.node == self._name and owner.lease == lease and self._is_shared(workload)
        }
        for workload, owned in list(self._owned.items()):
            if mine.get(workload) != owned.token:
                now = self.owner(workload)
                await self._lose(workload, f"{now} owns it now" if now else "its ownership has ended")
        for workload, token in mine.items():
            if workload in self._owned or self._is_refused(workload, token):
                continue
            self._alive(LOOK_CALLS * self._election.call)
            await asyncio.to_thread(self._fences.own, Fence(workload=self._key(workload), token=token))
            key, last = led.LAST + workload, led.LastRecord(self._name, token)
            if ledger.facts.last.get(workload) is None or ledger.facts.last[workload].token < token:
                await registry.swap(key, ledger.version(key), msgspec.json.encode(last))
            self._owned[workload] = Owned(token)
            log.info("this node owns a workload", workload=workload, token=token)
            await self._running().take_up(workload)

    def _is_refused(self, workload: str, token: int) -> bool:
        """Receivers know of a later owner than the registry does, which was made anew or put back from a copy: people
        have to look at that."""
        refused, at = self._refused.get(workload, (0, 0.0))
        return refused == token and clock() - at < REFUSED_PAUSE

    async def _claim(self, registry: Registry, workload: str) -> None:
        record = led.OwnerRecord(self._name, self._session.lease().id)
        await registry.swap(led.OWNERS + workload, 0, msgspec.json.encode(record), self._session.lease())
        self._wake.set()

    async def _hand_over(self, registry: Registry, workload: str, to: str) -> None:
        owned = self._owned.get(workload)
        if owned is None:
            return
        if owned.leaving != to:
            owned.leaving = to
            log.info("a workload is handed over", workload=workload, to=to)
            self._tell("hand-over", workload=workload, node=to)
            await self._running().take_up(workload)
        if self._running().pending(workload):
            return
        await self._lose(workload, f"it is handed over to {to}")
        await registry.remove(led.OWNERS + workload, self._ledger.version(led.OWNERS + workload))

    async def _lose(self, workload: str, why: str) -> None:
        if self._owned.pop(workload, None) is not None:
            log.info("this node does not own a workload any more", workload=workload, reason=why)
            await self._running().put_down(workload, why)

    def _running(self) -> Work:
        if self._work is None:
            raise DwcpError("ownership has nobody to work for")
        return self._work

    def _key(self, workload: str) -> str:
        """What receivers know it by."""
        return fence_key(self._cluster, workload)

    def _tell(self, event: str, **detail: str | int) -> None:
        self.events.append(Event(time.time(), event, detail))
        self._note("cluster", event, peer="", **detail)


def _first(group: BaseExceptionGroup[DwcpError]) -> DwcpError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, DwcpError) else DwcpError(str(error))
