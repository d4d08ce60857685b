"""A day of a busy node's supervision, metrics and log by a simulated clock: nothing grows after the first hours."""

from __future__ import annotations

import gc
import random
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from dwcp.metrics.durations import Durations
from dwcp.metrics.http import HttpMetrics
from dwcp.store.recorder import Recorder
from dwcp.supervise.admission import Admission, AdmissionSettings
from dwcp.supervise.breaker import Breaker, BreakerSettings
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.supervise.memory import MemoryBudget
from dwcp.supervise.recovery import RecoverySettings, Supervised
from dwcp.transfer.board import RECENT_TRANSFERS, Board, Role, State, TransferStatus
from dwcp.transfer.recording import TransferRecording

HOUR = 3600
CHECK, COLLECT, TRANSFER, SCRAPE = 10, 5, 20, 300
"""Seconds between two of them."""
STRANGERS = 4
"""Each COLLECT seconds: their table is full within three hours."""
LOG = 2**20


class Node:
    """Everything that remembers something, under a clock of ours. One check in 50 fails, one transfer in 10."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        self.chance = random.Random(24)
        self.recorder = Recorder(directory, LOG)
        self.durations = Durations()
        self.registry = CollectorRegistry()
        self.durations.register(self.registry)
        self.http = HttpMetrics(self.registry)
        self.board = Board(TransferRecording(self.recorder, command=False), self.durations, clock=lambda: self.now)
        names = ("state", "transport", "peers", "http", "metrics", "memory", "compression", "pruning")
        self.components = [Supervised(name, RecoverySettings(), CHECK, self.chance, 0.0) for name in names]
        self.breakers = [Breaker(f"peer{number}", BreakerSettings()) for number in range(20)]
        self.memory = MemoryBudget()
        self.admission = Admission(AdmissionSettings())
        self.page = b""

    def live(self, hours: int) -> None:
        for _ in range(hours * HOUR // COLLECT):
            self.now += COLLECT
            self.memory.observe(self.chance.randrange(2**29), 2**28, self.now)
            for _ in range(STRANGERS):
                self._stranger()
            if self.now % CHECK == 0:
                self._check()
            if self.now % TRANSFER == 0:
                self._transfer()
            if self.now % SCRAPE == 0:
                with self.http.measure("GET", "/metrics") as measured:
                    self.page = generate_latest(self.registry)
                    measured.status = 200

    def _check(self) -> None:
        for component in self.components:
            before = component.counts().successes
            ill = self.chance.random() < 0.02
            health = Health(Status.UNHEALTHY, f"failed at {self.now}") if ill else HEALTHY
            component.checked(health, self.chance.random(), self.now, self.now)
            self.durations.checked(component.name, self.chance.random())
            if component.due(self.now):
                self.recorder.write("component", "restart", component=component.name, with_dependants=[])
                component.restart()
                component.started()
            if component.counts().successes > before:
                self.recorder.write("component", "recovered", component=component.name)
                self.durations.recovered(component.name, 10.0)
        for breaker in self.breakers:
            if not breaker.allow(self.now):
                continue
            if self.chance.random() < 0.3:
                breaker.failed(self.now, f"silent at {self.now}")
            else:
                breaker.succeeded(self.now)

    def _transfer(self) -> None:
        name = self.board.begin(
            TransferStatus(f"{self.now}", Role.RECEIVE, f"peer{int(self.now) % 20}", f"inbox/{self.now}"),
            lambda status: status,
            lambda: None,
            lambda _: None,
        )
        failed = self.chance.random() < 0.1
        self.board.end(name, State.FAILED if failed else State.DONE, f"broke at {self.now}" if failed else "")

    def _stranger(self) -> None:
        """Another address each time."""
        address = f"2001:db8:{self.chance.randrange(2**16):x}:{self.chance.randrange(2**16):x}::1"
        if not self.admission.arrive(address, self.now):
            self.admission.failed(address, self.now)


def blocks() -> int:
    """Objects that are held, some 50 bytes each."""
    gc.collect()
    return sys.getallocatedblocks()


def test_the_second_half_of_a_day_takes_no_more_than_the_first(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.live(12)
    half, page = blocks(), len(node.page)
    node.live(12)
    grown = blocks() - half
    node.recorder.close(1.0)
    assert node.now == 24 * HOUR
    assert grown < 2000
    # counters have more digits, nothing has more lines
    assert len(node.page) - page < 2000
    assert len(node.board.recent()) == RECENT_TRANSFERS
    assert sum(node.board.ended().values()) == 24 * HOUR / TRANSFER
    assert sum(file.stat().st_size for file in node.recorder.log.directory.iterdir()) <= LOG
