"""The `sync` component: says what this node is like, and exchanges what is known with a few peers at a time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import structlog

from dwcp.config import Config
from dwcp.errors import DwcpError
from dwcp.manager.apart import Apart
from dwcp.manager.component import Background
from dwcp.store.inventory import take_inventory
from dwcp.store.recorder import Note, untold
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.sync.partners import Partners
from dwcp.transfer.server import TransportServer
from dwcp.transfer.session import LIVELY
from dwcp.transfer.shared_state import PeerView, SharedState
from dwcp.transfer.sync_session import SyncSession

PATIENCE = 10.0
"""Seconds for each wait in a round, at the most: views are worth something while they are young."""
LONGEST_PAUSE = 10.0
"""Seconds before a peer that could not be spoken to is tried again; the first time it is a round, and doubles."""
ASK_AGAIN = 60.0
"""Seconds before a peer that takes no part is asked again: it may have been brought up to date."""
NAMED = 5
"""Peers in a reason, before the others are only counted."""

Facts = Callable[[], Mapping[str, Mapping[str, object]]]

log = structlog.get_logger()


class SyncComponent(Background):
    """Degraded while the view of a peer is older than sync.max_staleness, with the reason."""

    name = "sync"

    def __init__(
        self,
        server: TransportServer,
        shared: SharedState,
        config: Callable[[], Config],
        left_alone: Callable[[], Collection[str]],
        facts: Facts,
        note: Note = untold,
    ) -> None:
        """`left_alone`: peers whose circuit breaker is open. `facts`: what this node says of itself, by namespace;
        called in the event loop."""
        self._server = server
        self._shared = shared
        self._config = config
        self._left_alone = left_alone
        self._facts = facts
        self._note = note
        self._partners = Partners(random.SystemRandom())
        self._work = Apart("dwcp-sync")
        self._sessions: dict[str, SyncSession] = {}
        self._threads: dict[str, Apart] = {}
        self._rounds: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, float] = {}
        """Seconds, of peers that could not be spoken to lately."""
        self._not_before: dict[str, float] = {}
        """Monotonic seconds."""
        self._inventory: Mapping[str, object] = {}
        self._inventory_due = 0.0
        self._stale: frozenset[str] = frozenset()

    async def start(self) -> None:
        await self._work.run(partial(self._shared.open, self._server.node.identity.fingerprint))
        self._server.node.sync = self._shared
        self._inventory_due = 0.0
        await super().start()

    async def stop(self) -> None:
        self._server.node.sync = None
        await super().stop()
        rounds = list(self._rounds.values())
        for session in self._sessions.values():
            session.hang_up()
        for task in rounds:
            task.cancel()
        await asyncio.gather(*rounds, return_exceptions=True)
        for peer, session in list(self._sessions.items()):
            await self._thread(peer).run(session.close)
        self._sessions.clear()
        await self._work.run(self._shared.close)

    async def check(self) -> Health:
        trouble = self._trouble()
        if trouble:
            return Health(Status.UNHEALTHY, f"what nodes know is not exchanged any more: {trouble}")
        status = self._shared.status
        reasons = [status.failure] if status.failure else []
        skew = self._config().sync.max_clock_skew
        if status.clock_ahead > skew:
            reasons.append(
                f"this node dates what it writes {status.clock_ahead:.0f} s ahead of its clock, which was set back: "
                f"peers refuse it until their clocks get there"
            )
        wrong = [peer for peer in status.peers if peer.clock_offset is not None and abs(peer.clock_offset) > skew]
        reasons += [
            f"the clock of {peer.name} is {abs(peer.clock_offset or 0.0):.0f} s "
            f"{'ahead of' if (peer.clock_offset or 0.0) > 0 else 'behind'} this node's (sync.max_clock_skew)"
            for peer in wrong[:NAMED]
        ]
        stale = [peer for peer in status.peers if peer.stale]
        reasons += [_words(peer) for peer in stale[:NAMED]]
        if len(stale) > NAMED:
            reasons.append(f"and {len(stale) - NAMED} more")
        return Health(Status.DEGRADED, "; ".join(reasons)) if reasons else HEALTHY

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            facts = {**self._facts(), **await self._baselines(began)}
            await self._work.run(partial(self._say, facts))
            self._tell()
            config = self._config()
            known = {name for name, peer in config.peers.items() if peer.address is not None}
            free = known - set(self._left_alone()) - {peer for peer, at in self._not_before.items() if began < at}
            chosen = self._partners.choose(sorted(free))
            for peer in chosen:
                if peer not in self._rounds:
                    self._speak(peer, self._exchange(peer))
            self._let_go([peer for peer in self._sessions if peer not in chosen and peer not in self._rounds])
            await self._sleep(max(0.0, config.sync.sync_interval - (time.monotonic() - began)))

    def _say(self, facts: Mapping[str, Mapping[str, object]]) -> None:
        try:
            self._shared.publish(facts)
        except DwcpError as error:
            # what is full or cannot be kept shows in the component's state
            log.debug("this node's state is not told", reason=str(error))
        self._shared.tick()

    async def _baselines(self, now: float) -> Mapping[str, Mapping[str, object]]:
        compression = self._config().compression
        if not compression.enable_baseline_sync:
            return {}
        if now >= self._inventory_due:
            self._inventory_due = now + compression.baseline_sync_interval
            found = await self._work.run(partial(take_inventory, Path(self._config().storage.state_dir)))
            self._inventory = {peer: asdict(inventory) for peer, inventory in found.items()}
        return {"baselines": self._inventory}

    def _thread(self, peer: str) -> Apart:
        return self._threads.setdefault(peer, Apart(f"dwcp-sync-{peer}"))

    def _speak(self, peer: str, what: Coroutine[None, None, None]) -> None:
        task = self._rounds[peer] = asyncio.create_task(what, name=f"dwcp-sync-{peer}")
        task.add_done_callback(partial(self._spoken, peer))

    def _spoken(self, peer: str, _: asyncio.Task[None]) -> None:
        del self._rounds[peer]

    async def _exchange(self, peer: str) -> None:
        config = self._config()
        session = self._sessions.setdefault(peer, SyncSession(self._server.node, self._shared, peer))
        patience = min(PATIENCE, config.transport.read_timeout)
        try:
            takes_part = await self._thread(peer).run(partial(session.exchange, patience))
            self._pauses.pop(peer, None)
            self._not_before[peer] = 0.0 if takes_part else time.monotonic() + ASK_AGAIN
        except DwcpError as error:
            log.debug("an exchange with a peer failed", peer=peer, reason=str(error))
            self._shared.failed(peer, str(error))
            self._put_off(peer)
        except Exception as error:  # a fault of our own must not end the exchanges with the others
            log.exception("an exchange with a peer failed", peer=peer)
            self._shared.failed(peer, str(error) or type(error).__name__)
            self._put_off(peer)
        if config.sync.sync_interval > config.transport.read_timeout / LIVELY:
            # nobody would say signs of life between two rounds
            await self._thread(peer).run(session.close)

    def _put_off(self, peer: str) -> None:
        first = self._config().sync.sync_interval
        pause = self._pauses[peer] = min(LONGEST_PAUSE, max(first, 2 * self._pauses.get(peer, 0.0)))
        self._not_before[peer] = time.monotonic() + pause

    def _let_go(self, peers: Collection[str]) -> None:
        """Ends the sessions with those who are not spoken to for a while."""
        for peer in peers:
            self._speak(peer, self._thread(peer).run(self._sessions.pop(peer).close))
        for peer in self._threads.keys() - self._config().peers.keys() - self._rounds.keys():
            for of_peer in (self._threads, self._pauses, self._not_before):
                of_peer.pop(peer, None)

    def _tell(self) -> None:
        """The log knows when a view became too old, and when it was renewed."""
        now = {peer.name: peer for peer in self._shared.status.peers}
        stale = frozenset(name for name, peer in now.items() if peer.stale)
        for name in stale - self._stale:
            self._note("sync", "stale", peer=name, reason=now[name].error)
        for name in self._stale & now.keys() - stale:
            self._note("sync", "fresh", peer=name)
        self._stale = stale


def _words(peer: PeerView) -> str:
    view = "nothing was heard of it yet" if peer.age is None else f"the view of it is {peer.age:.0f} s old"
    return f"{peer.name}: {view}" + (f" ({peer.error})" if peer.error else "")
