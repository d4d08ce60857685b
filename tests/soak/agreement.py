"""Five clients, three members of etcd that are killed, stopped and cut off: what clients saw has to be linearizable.

    python -m tests.soak.agreement --seconds 600 --seeds 3

Each round is about one key, so that a search over what was lost ends. A client reads, swaps, takes the key under a
lease, gives it back, and says for how long it thought that its lease held: no two may have thought so at once.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from dwcp.ownership.lease import Hold, LeaseState
from dwcp.registry.channels import Access
from dwcp.registry.etcd import EtcdRegistry
from dwcp.registry.interface import Lease, LeaseLostError, RegistryError, UnknownOutcomeError
from dwcp.testing import etcd
from dwcp.testing.etcd import EtcdCluster
from tests.bridged import Bridged, no_bridge
from tests.linearizability import ABSENT, Operation, expiry, is_linearizable, read, swap

CLIENTS = 5
TTL = 3
PAUSE = 1.5
"""Seconds, at the most, for which a member is stopped: half a lease, see docs/cluster.md on etcd's issue 15247."""
ROUND_OPERATIONS = 60
CALL = 1.5


@dataclass
class Round:
    """`kind`: `free`, a key that everybody swaps, or `held`, one that is taken under a lease and given back."""

    kind: str
    number: int
    history: list[Operation] = field(default_factory=list)
    leases: dict[str, Client] = field(default_factory=dict)
    """By value."""
    expiries: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.number}"


class World:
    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.rounds: list[Round] = []
        self._now: dict[str, Round] = {}
        self.values = itertools.count(1)
        self.holding: list[tuple[float, float, str]] = []
        """(from, to, value) of who thought that it held a key."""

    def current(self, kind: str) -> Round:
        now = self._now.get(kind)
        if now is None or len(now.history) >= ROUND_OPERATIONS:
            now = self._now[kind] = Round(kind, next(self._numbers))
            self.rounds.append(now)
        return now


class Client:
    def __init__(self, name: str, endpoints: list[str], world: World, chance: random.Random) -> None:
        self.name = name
        self._registry = EtcdRegistry(Access(endpoints), CALL)
        self._world = world
        self._chance = chance
        self._lease: Lease | None = None
        self._hold = Hold(margin=CALL / 3)
        self._lasts = 0.0
        """The earliest moment at which the lease can end."""
        self.counts = {"done": 0, "lost": 0, "failed": 0}

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            try:
                await self._registry.open()
                break
            except RegistryError:
                await asyncio.sleep(0.1)
        while time.monotonic() < until:
            steps = (("free", self._read), ("free", self._swap), ("held", self._read), ("held", self._take))
            kind, step = self._chance.choice(steps)
            try:
                await step(self._world.current(kind))
            except RegistryError:
                self.counts["failed"] += 1
                await asyncio.sleep(0.05)
        await self._registry.close()

    async def _read(self, round_: Round) -> None:
        began = time.monotonic()
        found = await self._registry.get(round_.key)
        value = found.value.decode() if found is not None else ABSENT
        round_.history.append(read(began, time.monotonic(), value))
        self.counts["done"] += 1

    async def _swap(self, round_: Round) -> None:
        found = await self._registry.get(round_.key)
        old, version = (found.value.decode(), found.version) if found is not None else (ABSENT, 0)
        await self._written(round_, old, version, f"{self.name}-{next(self._world.values)}", None)

    async def _take(self, round_: Round) -> None:
        """As an owner does: under a lease, for a while, and then gives it back."""
        lease = await self._leased()
        value = f"{self.name}-{next(self._world.values)}"
        round_.leases[value] = self
        round_.expiries[value] = self._lasts
        if not await self._written(round_, ABSENT, 0, value, lease):
            return
        since = time.monotonic()
        held_to = since
        for _ in range(self._chance.randrange(1, 6)):
            if self._hold.state(time.monotonic()) is LeaseState.HELD:
                held_to = time.monotonic()
            await asyncio.sleep(self._chance.uniform(0.0, 0.3))
            try:
                await self._keep(lease)
            except LeaseLostError:
                break
            except RegistryError:
                continue
            round_.expiries[value] = self._lasts
        found = await self._registry.get(round_.key)
        if found is not None and found.value.decode() == value:
            # it is nobody else's, and was not in between
            if self._hold.state(time.monotonic()) is LeaseState.HELD:
                held_to = time.monotonic()
            self._world.holding.append((since, held_to, value))
            began = time.monotonic()
            try:
                done: bool | None = await self._registry.remove(round_.key, found.version)
            except UnknownOutcomeError:
                done = None
            round_.history.append(swap(began, time.monotonic(), value, ABSENT, done))
        elif self._chance.random() < 0.3:
            self._lease = None

    async def _leased(self) -> Lease:
        if self._lease is not None:
            try:
                await self._keep(self._lease)
            except LeaseLostError:
                self._lease = None
        if self._lease is None:
            sent_at = time.monotonic()
            self._lease = await self._registry.grant(TTL)
            self._hold.kept(sent_at, self._lease.seconds)
            self._lasts = sent_at + self._lease.seconds
        return self._lease

    async def _keep(self, lease: Lease) -> None:
        sent_at = time.monotonic()
        try:
            seconds = await self._registry.keep(lease)
        except LeaseLostError:
            self._hold.lost()
            self._lease = None
            raise
        self._hold.kept(sent_at, seconds)
        self._lasts = sent_at + seconds

    async def _written(self, round_: Round, old: str, version: int, new: str, lease: Lease | None) -> bool:
        began = time.monotonic()
        done: bool | None
        try:
            done = await self._registry.swap(round_.key, version, new.encode(), lease) is not None
        except UnknownOutcomeError:
            done = None
        round_.history.append(swap(began, time.monotonic(), old, new, done))
        self.counts["lost" if done is None else "done"] += 1
        return bool(done)


async def disturb(
    network: Bridged, cluster: EtcdCluster, until: float, chance: random.Random, tell: Callable[[str], None]
) -> None:
    """One member after the other, so that there is a quorum most of the time."""
    while time.monotonic() < until:
        await asyncio.sleep(chance.uniform(0.3, 2.0))
        number = chance.randrange(len(cluster.members))
        member = cluster.members[number]
        kind = chance.choice(("kill", "stop", "cut"))
        tell(f"{kind} {member.name}")
        if kind == "kill":
            member.kill()
            await asyncio.sleep(chance.uniform(0.0, 1.5))
            cluster.start(member)
        elif kind == "stop":
            member.signal(signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(0.1, PAUSE))
            member.signal(signal.SIGCONT)
        else:
            await asyncio.to_thread(network.cut, number)
            await asyncio.sleep(chance.uniform(0.1, 2.0))
            await asyncio.to_thread(network.mend, number)


def verdict(world: World) -> list[str]:
    """What is wrong."""
    wrong = []
    for round_ in world.rounds:
        ends = [expiry(at, value) for value, at in round_.expiries.items()]
        if not is_linearizable([*round_.history, *ends]):
            lines = "\n".join(map(str, sorted([*round_.history, *ends], key=lambda each: each.began)))
            wrong.append(f"{round_.key} is not linearizable:\n{lines}")
    by_round: dict[int, list[tuple[float, float, str]]] = {}
    for round_ in world.rounds:
        by_round[round_.number] = sorted(held for held in world.holding if held[2] in round_.leases)
    for held in by_round.values():
        for one, other in itertools.pairwise(held):
            if other[0] < one[1]:
                wrong.append(f"{one[2]} thought that it held until {one[1]:.4f}, {other[2]} held from {other[0]:.4f}")
    return wrong


async def one_run(network: Bridged, seconds: float, seed: int) -> list[str]:
    chance = random.Random(seed)
    world = World()
    with tempfile.TemporaryDirectory(prefix="dwcp-agreement-") as directory:
        prefixes = [network.inside(number) for number in range(len(network.machines))]
        cluster = EtcdCluster(Path(directory), len(prefixes), hosts=network.addresses, prefixes=prefixes)
        with cluster:
            until = time.monotonic() + seconds
            clients = [
                Client(f"c{number}", cluster.endpoints, world, random.Random(chance.random()))
                for number in range(CLIENTS)
            ]
            faults: list[str] = []
            work: list[Awaitable[None]] = [client.run(until) for client in clients]
            await asyncio.gather(disturb(network, cluster, until, chance, faults.append), *work)
    counts = {key: sum(client.counts[key] for client in clients) for key in clients[0].counts}
    wrong = verdict(world)
    print(
        f"seed {seed}: {counts['done']} operations done, {counts['lost']} unknown, {counts['failed']} failed, "
        f"{len(world.rounds)} keys, {len(world.holding)} times held, {len(faults)} faults: "
        f"{'NOT LINEARIZABLE' if wrong else 'linearizable'}",
        flush=True,
    )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--network", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.network is None:
        reason = no_bridge() or etcd.missing()
        if reason:
            print(f"skipped: {reason}")
            return 0
        with Bridged(3) as network:
            # the clients' threads, too, have to be at the hub
            command = [sys.executable, "-m", "tests.soak.agreement", *sys.argv[1:]]
            return subprocess.run(
                network.at_hub(*command, "--seed", str(options.seed), "--network", str(os.getpid())), check=False
            ).returncode
    network = Bridged(3, int(options.network))
    wrong: list[str] = []
    for number in range(options.seeds):
        wrong += asyncio.run(one_run(network, options.seconds, options.seed + number))
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
