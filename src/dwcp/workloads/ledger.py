"""What nodes write into the registry about workloads, and what that says.

nodes/NODE        under its lease: who it is, and what it has of each workload
owners/WORKLOAD   under its owner's lease: who owns it; the key's token is the fencing token
last/WORKLOAD     who owned it last, for as long as anybody declares it
moves/WORKLOAD    the node that an operator wants to own it
drains/NODE       that it should own nothing
workloads/NAME    a declaration for all nodes
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import structlog

from dwcp.ownership.decide import Facts, NodeFacts, Owner, State
from dwcp.registry.interface import Entry, Registry, Snapshot
from dwcp.workloads.shared import SharedRecord

NODES, OWNERS, LAST, MOVES, DRAINS = "nodes/", "owners/", "last/", "moves/", "drains/"
SHARED = "workloads/"
T = TypeVar("T", bound=msgspec.Struct)

log = structlog.get_logger()


class NodeRecord(msgspec.Struct, frozen=True):
    """`states`: (token, complete) by workload."""

    fingerprint: str
    address: str
    lease: int
    states: dict[str, tuple[int, bool]] = {}


class OwnerRecord(msgspec.Struct, frozen=True):
    node: str
    lease: int


class LastRecord(msgspec.Struct, frozen=True):
    node: str
    token: int


class MoveRecord(msgspec.Struct, frozen=True):
    """`at`: seconds since the epoch."""

    to: str
    at: float


class DrainRecord(msgspec.Struct, frozen=True):
    at: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """A snapshot, read."""

    facts: Facts = field(default_factory=Facts)
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    owners: dict[str, OwnerRecord] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    shared: dict[str, SharedRecord] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)

    def version(self, key: str) -> int:
        """0 for a key that is not there."""
        entry = self.entries.get(key)
        return entry.version if entry is not None else 0


def read(snapshot: Snapshot) -> Ledger:
    """What cannot be read is left out, and told: a newer program may write more."""
    nodes = _all(snapshot, NODES, NodeRecord)
    owners = _all(snapshot, OWNERS, OwnerRecord)
    drained = frozenset(_all(snapshot, DRAINS, DrainRecord))
    facts = Facts(
        nodes={
            name: NodeFacts({workload: State(*state) for workload, state in node.states.items()}, name in drained)
            for name, node in nodes.items()
        },
        owners={name: Owner(owner.node, snapshot.entries[OWNERS + name].token) for name, owner in owners.items()},
        last={name: Owner(last.node, last.token) for name, last in _all(snapshot, LAST, LastRecord).items()},
        moves={name: move.to for name, move in _all(snapshot, MOVES, MoveRecord).items()},
    )
    return Ledger(facts, nodes, owners, drained, _all(snapshot, SHARED, SharedRecord), snapshot.entries)


def _all(snapshot: Snapshot, prefix: str, kind: type[T]) -> dict[str, T]:
    found = {}
    for key, entry in snapshot.entries.items():
        if key.startswith(prefix):
            try:
                found[key.removeprefix(prefix)] = msgspec.json.decode(entry.value, type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.warning("an entry of the registry cannot be read", key=key, reason=str(error))
    return found


async def write(registry: Registry, key: str, record: msgspec.Struct) -> None:
    """In place of whatever is there. Raises RegistryError."""
    value = msgspec.json.encode(record)
    written = None
    while written is None:
        found = await registry.get(key)
        written = await registry.swap(key, found.version if found is not None else 0, value)


async def remove(registry: Registry, key: str) -> None:
    """Whatever is there. Raises RegistryError."""
    while (found := await registry.get(key)) is not None:
        await registry.remove(key, found.version)


def changes(before: Ledger, after: Ledger) -> list[tuple[str, dict[str, str | int]]]:
    """(event, what it is about) of what is different, for people."""
    told: list[tuple[str, dict[str, str | int]]] = []
    for node in sorted(before.nodes.keys() | after.nodes.keys()):
        if node not in before.nodes:
            told.append(("node-there", {"node": node}))
        elif node not in after.nodes:
            told.append(("node-gone", {"node": node}))
    for node in sorted(before.drained ^ after.drained):
        told.append(("drain" if node in after.drained else "drain-undone", {"node": node}))
    was, now = before.facts, after.facts
    for workload in sorted(was.owners.keys() | now.owners.keys()):
        old, new = was.owners.get(workload), now.owners.get(workload)
        if old != new and new is not None:
            told.append(("owned", {"workload": workload, "node": new.node, "token": new.token}))
        elif old != new and old is not None:
            told.append(("unowned", {"workload": workload, "node": old.node, "token": old.token}))
    for workload in sorted(before.shared.keys() | after.shared.keys()):
        if before.shared.get(workload) != after.shared.get(workload):
            told.append(("shared" if workload in after.shared else "unshared", {"workload": workload}))
    for workload in sorted(now.moves.keys() - was.moves.keys()):
        told.append(("move", {"workload": workload, "node": now.moves[workload]}))
    return told
