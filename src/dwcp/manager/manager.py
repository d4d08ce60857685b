"""The node as one object: wires the components, and is what HTTP and metrics look at."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import structlog

from dwcp.api.server import HttpServer
from dwcp.config import Config, changed_keys, needs_restart
from dwcp.config.model import Transport
from dwcp.config.workloads import WorkloadSection
from dwcp.errors import ConfigError, NotFoundError, StateError, UsageError
from dwcp.links.sockopts import Effective
from dwcp.manager import statedir
from dwcp.manager.collection import MetricsComponent
from dwcp.manager.component import Component
from dwcp.manager.consensus import ConsensusComponent, connector
from dwcp.manager.descriptors import DescriptorsComponent
from dwcp.manager.facts import LinkFacts, breaker_facts, node_facts, workload_facts
from dwcp.manager.memory import MemoryComponent
from dwcp.manager.parts import CompressionComponent, PruningComponent, TransportComponent
from dwcp.manager.peers import PeersComponent
from dwcp.manager.prediction import PredictionComponent
from dwcp.manager.runner import Runner
from dwcp.manager.statedir import StateComponent
from dwcp.manager.sync import SyncComponent
from dwcp.manager.workloads import WorkloadsComponent
from dwcp.metrics.collector import create_registry
from dwcp.metrics.durations import Durations
from dwcp.metrics.view import SendingLimit
from dwcp.prediction.predictor import LinkView
from dwcp.profiling import heap
from dwcp.store import layout
from dwcp.store.aftermath import Aftermath, aftermath
from dwcp.store.claim import Claim
from dwcp.store.fences import FenceRecord
from dwcp.store.identity import load_or_create
from dwcp.store.links import Sample
from dwcp.store.recorder import Recorder
from dwcp.store.records import Value
from dwcp.store.shared_rate import parse_limit, read_limit, write_limit
from dwcp.store.workloads import add_workload, remove_workload
from dwcp.supervise.breaker import BreakerStatus
from dwcp.supervise.health import NodeHealth, node_health
from dwcp.supervise.memory import MemoryStatus
from dwcp.supervise.recovery import RecoveryCounts
from dwcp.transfer.board import Board
from dwcp.transfer.counters import TransportCounters
from dwcp.transfer.pool import PoolStatus
from dwcp.transfer.recording import TransferRecording
from dwcp.transfer.server import TransportServer
from dwcp.transfer.shared_state import SharedState
from dwcp.workloads import shared
from dwcp.workloads.coordinator import Workloads
from dwcp.workloads.ordering import OrderDesk
from dwcp.workloads.ownership import Ownership
from dwcp.workloads.shared import SharedRecord

RESTART_WITH = {"peers": ("transport",)}
"""Who is restarted with whom: they say at once whether the paths that the transport opens anew carry something. The
others hold nothing of those that they are started after, and transfers must not end with the state directory's."""
LOG_GRACE = 5.0
"""Seconds that the last records get to be written."""

log = structlog.get_logger()


class Manager:
    """`async with Manager(config) as node:` runs a node; it is healthy when the block begins.

    Raises StateError when the state directory or an address cannot be had, or another DwcpError of a component that
    cannot start.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._state_dir = Path(config.storage.state_dir)
        self._recorder = Recorder(self._state_dir, config.storage.log_size)
        self._durations = Durations()
        self.board = Board(TransferRecording(self._recorder, command=False), self._durations)
        self._link_facts = LinkFacts()
        self.sync = SharedState(lambda: self._config)
        self._runner: Runner | None = None
        self._ending = False
        self._own_workloads: Mapping[str, WorkloadSection] = config.workloads
        self._shared: Mapping[str, SharedRecord] = {}
        self.shared_problems: list[str] = []
        """What is declared for all nodes and cannot be taken by this one."""
        self._began = time.monotonic()

    async def __aenter__(self) -> Manager:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        config = self._config
        heap.trace(config.debug.heap_frames)
        statedir.prepare(self._state_dir)
        self._claim = Claim(self._state_dir)
        try:
            await asyncio.to_thread(
                layout.bring_up, self._state_dir, config.storage.snapshot_keep, self._recorder.write
            )
            await asyncio.to_thread(self._begin_log)
        except BaseException:
            self._claim.release()
            raise
        try:
            identity = load_or_create(self._state_dir / "identity", config.node.name)
            self._identity = identity
            self._server = TransportServer(config, identity, self.board)
            self._peers = PeersComponent(
                self._server.node, lambda: self._config, self._note, lambda: self._look_soon("peers")
            )
            self._own_workloads = config.workloads
            if config.consensus.enabled and config.consensus.shared_workloads:
                self._shared = await asyncio.to_thread(shared.recall, self._state_dir)
                self._config = self._with_shared(config)
            self.ownership = self._join_cluster() if config.enabled and config.consensus.enabled else None
            self.workloads = Workloads(
                lambda: self._config,
                lambda: self._server.node,
                self._closed_peers,
                self._recorder.note,
                self.ownership,
            )
            if self.ownership is not None:
                self.ownership.serve(self.workloads)
            if config.enabled:
                self._server.node.orders = OrderDesk(
                    lambda: self._config, self.workloads.add_job, self.workloads.get_job
                )
            self._memory = MemoryComponent(lambda: self._config.memory.limit, self._server.node.halve_buffers)
            self._prediction = PredictionComponent(self._server, lambda: self._config, self._peers.latency)
            self._sync = SyncComponent(
                self._server, self.sync, lambda: self._config, self._closed_peers, self._facts, self._note
            )
            self._metrics = MetricsComponent(self.transport, lambda: self._config.health.metrics_interval)
            self._http = HttpServer(
                self,
                create_registry(self, self._durations),
                listen=config.http.listen,
                tls_listen=config.http.tls_listen,
                token=statedir.api_token(self._state_dir),
                certificate=(identity.certificate_file, identity.key_file),
            )
            self._runner = Runner(self._components(), lambda: self._config, self._note, self._durations, RESTART_WITH)
            self._began = time.monotonic()
            await self._runner.start()
            await self._runner.check_all()
            self._http.show()
        except BaseException as error:
            self._recorder.note("node", "stop", reason=str(error) or type(error).__name__)
            await asyncio.to_thread(self._recorder.close, LOG_GRACE)
            self._claim.release()
            self._runner = None
            raise
        statedir.write_run_file(self._state_dir, config.node.name, self.addresses)
        log.info("node is up", node=config.node.name, fingerprint=identity.fingerprint, **self.addresses)

    def _join_cluster(self) -> Ownership:
        """Raises ConfigError."""
        return Ownership(
            lambda: self._config,
            connector(lambda: self._config.consensus),
            self._server.node.fences,
            self._identity.fingerprint,
            lambda: self.addresses.get("transport", ""),
            self._recorder.note,
            self._take_shared,
        )

    async def _take_shared(self, found: Mapping[str, SharedRecord]) -> None:
        """What is declared for all nodes has changed. Raises StateError."""
        if not self._config.consensus.shared_workloads or found == self._shared:
            return
        await asyncio.to_thread(shared.remember, self._state_dir, found)
        self._shared = found
        self._with_workloads(self._own_workloads)

    def _with_shared(self, config: Config) -> Config:
        """Beside its own workloads, those that are declared for all nodes."""
        if not self._config.consensus.shared_workloads:
            return config
        ours, self.shared_problems = shared.declared(config, self._shared)
        return config.model_copy(update={"workloads": {**ours, **config.workloads}})

    def _note(self, kind: str, event: str, *, peer: str = "", **detail: Value) -> None:
        """What supervision tells the log has just changed the node's health: probes are answered so at once."""
        self._recorder.note(kind, event, peer=peer, **detail)
        asyncio.get_running_loop().call_soon(self._http.show)

    def _components(self) -> dict[Component, tuple[str, ...]]:
        """Every component, and what it depends on. Adding one is a line here."""
        components: dict[Component, tuple[str, ...]] = {
            StateComponent(self._state_dir, self._recorder, lambda: self._config): (),
            CompressionComponent(): (),
            self._memory: (),
            self._metrics: (),
            self._http: ("metrics",),
            DescriptorsComponent(self._ports, self._directories): (),
        }
        if self._config.enabled:
            components |= {
                TransportComponent(self._server, lambda: self._ending): ("state", "compression"),
                self._peers: ("transport",),
                PruningComponent(lambda: self._config): ("state",),
                WorkloadsComponent(self.workloads): ("state", "transport"),
            }
            if self.ownership is not None:
                consensus = ConsensusComponent(
                    self.ownership, lambda: self._config.consensus, lambda: self.shared_problems
                )
                components[consensus] = ("workloads",)
            if self._config.prediction.enabled:
                components[self._prediction] = ("transport",)
            if self._config.sync.enabled:
                components[self._sync] = ("state", "transport")
        return components

    def _facts(self) -> dict[str, dict[str, object]]:
        """What other nodes are told of this one."""
        name, health = self._config.node.name, self.health()
        return {
            "node": node_facts(name, layout.program(), self.addresses, health),
            "links": self._link_facts.facts(self._peers.latency(), self.links()),
            "breakers": breaker_facts(self.breakers()),
            "workloads": workload_facts(self.workloads.status.standings),
        }

    def _ports(self) -> dict[int, str]:
        return {int(address.rpartition(":")[2]): f"connections of {name}" for name, address in self.addresses.items()}

    def _directories(self) -> dict[str, str]:
        exports = self._config.storage.exports
        return {str(self._state_dir): "files of the state directory"} | {
            export.path: f"files of export {name}" for name, export in exports.items()
        }

    def _look_soon(self, name: str) -> None:
        if self._runner is not None:
            self._runner.check_soon(name)

    def _begin_log(self) -> None:
        """Says how the run before ended, and closes what it left open."""
        recorder = self._recorder
        try:
            before = aftermath(self._state_dir)
        except OSError as error:
            before = Aftermath(f"unknown: {error.strerror}")
        recorder.write("node", "start", version=layout.program(), pid=os.getpid(), run_before=before.end)
        for begun in before.open_transfers:
            lost = {"state": "lost", "error": "the manager was killed; what had arrived is kept for the next try"}
            recorder.write("transfer", "end", peer=begun.peer, **{**begun.detail, **lost})

    async def stop(self) -> None:
        """Finishes or journals what is under way, then stops everything."""
        if self._runner is None:
            return
        self._ending = True
        await asyncio.to_thread(statedir.remove_run_file, self._state_dir)
        await self._runner.stop()
        self._runner = None
        self._recorder.note("node", "stop")
        await asyncio.to_thread(self._recorder.close, LOG_GRACE)
        self._claim.release()
        log.info("node is down", node=self._config.node.name)

    def reload(self, config: Config) -> tuple[list[str], list[str]]:
        """Applies what can be applied to a running node: (keys applied, keys that wait for a restart)."""
        self._own_workloads = config.workloads
        config = self._with_shared(config)
        changed = changed_keys(self._config, config)
        waiting = [key for key in changed if needs_restart(key)]
        applied = [key for key in changed if key not in waiting]
        self._config = self._blend(config)
        self._recorder.log.size = self._config.storage.log_size
        self._recorder.note("config", "reload", applied=applied, needs_restart=waiting)
        self._server.apply(self._config)
        if self._runner is not None:
            self._runner.apply(self._config)
            self.workloads.look_again()
        return applied, waiting

    def refused(self, error: ConfigError) -> None:
        """A configuration that was to be loaded cannot be."""
        self._recorder.note("config", "refused", problems=error.problems)

    def _blend(self, config: Config) -> Config:
        """The new configuration, with what needs a restart as it was."""
        old = self._config
        transport = config.transport.model_copy(
            update={
                key: getattr(old.transport, key) for key in Transport.model_fields if needs_restart(f"transport.{key}")
            }
        )
        node = config.node.model_copy(update={"name": old.node.name, "log_format": old.node.log_format})
        storage = config.storage.model_copy(update={"state_dir": old.storage.state_dir})
        debug = config.debug.model_copy(update={"heap_frames": old.debug.heap_frames})
        prediction = config.prediction.model_copy(update={"enabled": old.prediction.enabled})
        kept = {
            "debug": debug,
            "prediction": prediction,
            "consensus": old.consensus,
            "sync": config.sync.model_copy(update={"enabled": old.sync.enabled}),
            "enabled": old.enabled,
            "http": old.http,
            "security": old.security,
            "telemetry": old.telemetry,
        }
        return config.model_copy(update={"transport": transport, "node": node, "storage": storage, **kept})

    @property
    def stalled(self) -> float:
        """Seconds for which supervision has stood still; 0 while it runs."""
        return self._runner.stalled if self._runner is not None else 0.0

    # -- NodeView ------------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        return self._config

    @property
    def fingerprint(self) -> str:
        return self._identity.fingerprint

    @property
    def addresses(self) -> Mapping[str, str]:
        addresses = dict(self._http.addresses)
        if self._config.enabled and self._server.listens:
            host, port = self._server.address
            addresses["transport"] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return addresses

    def health(self) -> NodeHealth:
        statuses = self._runner.statuses() if self._runner is not None else []
        breakers = self._peers.breakers().values()
        return node_health(statuses, breakers, time.monotonic() - self._began, self.stalled)

    def breakers(self) -> Mapping[str, BreakerStatus]:
        return self._peers.breakers()

    def reset_breakers(self, peer: str | None) -> None:
        names = list(self._peers.breakers())
        if peer is not None and peer not in names:
            raise NotFoundError(f"no circuit breaker for {peer!r}; there are: {', '.join(names) or 'none'}")
        for name in names if peer is None else [peer]:
            self._peers.reset(name)
            self._recorder.note("breaker", "reset", peer=name)
            log.info("circuit breaker was reset", peer=name)

    def _closed_peers(self) -> set[str]:
        return {name for name, breaker in self._peers.breakers().items() if breaker.state == "open"}

    async def add_workload(self, name: str, workload: WorkloadSection) -> None:
        if name in self._shared:
            raise UsageError(f"workload {name!r} is declared for all nodes; take that back first: dwcp cluster unshare")
        await asyncio.to_thread(add_workload, self._config, name, workload)
        self._recorder.note("workload", "add", name=name, source=workload.source)
        self._with_workloads({**self._own_workloads, name: workload})

    async def remove_workload(self, name: str) -> None:
        await asyncio.to_thread(remove_workload, self._config, name)
        self._recorder.note("workload", "remove", name=name)
        self._with_workloads({key: value for key, value in self._own_workloads.items() if key != name})

    def _with_workloads(self, workloads: Mapping[str, WorkloadSection]) -> None:
        self.reload(self._config.model_copy(update={"workloads": workloads}))

    def recoveries(self) -> Mapping[str, RecoveryCounts]:
        return self._runner.recoveries() if self._runner is not None else {}

    def transport(self) -> TransportCounters:
        counters = self._server.counters()
        return replace(counters, latency_seconds={**self._peers.latency(), **counters.latency_seconds})

    def sockets(self) -> tuple[Mapping[str, str], list[str]]:
        effective: Effective = self._server.sockets()
        return effective.settings, effective.warnings

    def throughput(self) -> tuple[float, float]:
        return self._metrics.throughput()

    def links(self) -> Mapping[str, LinkView]:
        return self._prediction.links()

    def link_samples(self, peer: str) -> list[Sample]:
        if peer not in self._config.peers:
            raise NotFoundError(f"no peer {peer!r}; there are: {', '.join(sorted(self._config.peers)) or 'none'}")
        return self._prediction.samples(peer)

    def memory(self) -> MemoryStatus:
        return self._memory.status()

    def buffers(self) -> PoolStatus:
        return self._server.node.pool.status()

    def fences(self) -> list[FenceRecord]:
        return self._server.node.fences.known()

    async def unfence(self, key: str) -> None:
        if not await asyncio.to_thread(self._server.node.fences.forget, key):
            raise NotFoundError(f"no workload is fenced here as {key!r}")
        self._recorder.note("cluster", "unfence", workload=key)

    def limit(self) -> SendingLimit:
        return SendingLimit(self._server.node.rate_now(), read_limit(self._state_dir) is not None)

    async def set_limit(self, rate: str) -> None:
        parsed = parse_limit(rate)
        try:
            await asyncio.to_thread(write_limit, self._state_dir, parsed)
        except OSError as error:
            raise StateError(f"cannot set the limit in {self._state_dir}: {error.strerror}") from error
        self._recorder.note("limit", "set", rate=rate)
        await asyncio.to_thread(self._server.node.pacer.refresh)
