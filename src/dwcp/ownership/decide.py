"""What a node does about the workloads that it may own, by what the registry says.

Every node decides for itself, by the same rules over the same facts: one of them finds that it is the one to claim.
Where two do, since they look at different moments, the registry's compare-and-swap lets one through.

Who should own a workload without an owner:

1. The node that an operator has moved it to, if that one can.
2. Of the nodes in `owners` that are there, not drained and have its state, the one whose state is of the newest
   ownership; among equals the first in `owners`. A copy that is half overwritten counts, after all others, only where
   the policy takes `any`.
3. A workload that has never been owned waits for the first in `owners`: only there the source is what it should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class State:
    """What a node has of a workload. `token`: of the ownership under which it was made, 0 where nobody knows."""

    token: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node that holds its lease. `states`: by workload; none where the node has nothing at its source."""

    states: Mapping[str, State] = field(default_factory=dict)
    drained: bool = False


@dataclass(frozen=True, slots=True)
class Owner:
    node: str
    token: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Of one workload. `owners`: nodes that may own it, first first."""

    owners: tuple[str, ...]
    any_state: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the registry says at one moment."""

    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)
    owners: Mapping[str, Owner] = field(default_factory=dict)
    last: Mapping[str, Owner] = field(default_factory=dict)
    """Who owned each workload last, or does."""
    moves: Mapping[str, str] = field(default_factory=dict)
    """Workload to the node that an operator wants to own it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Become the owner."""

    workload: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """Finish what runs, bring `to` up to date, and let it go."""

    workload: str
    to: str


@dataclass(frozen=True, slots=True)
class LetGo:
    """This node may not own it any more."""

    workload: str


@dataclass(frozen=True, slots=True)
class Moved:
    """What the operator wanted is so."""

    workload: str


Action: TypeAlias = Claim | HandOver | LetGo | Moved


def decide(facts: Facts, me: str, policies: Mapping[str, Policy], *, settled: bool) -> list[Action]:
    """`policies`: of the workloads that this node declares with owners. `settled`: it has looked for as long as a lease
    lasts, so that whoever is to come back after all were down has come back."""
    actions: list[Action] = []
    for workload, owner in facts.owners.items():
        if owner.node == me:
            policy = policies.get(workload)
            if policy is None or me not in policy.owners:
                actions.append(LetGo(workload))
                continue
            if facts.moves.get(workload) == me:
                actions.append(Moved(workload))
            to = successor(facts, workload, policy, me)
            if to is not None:
                actions.append(HandOver(workload, to))
    for workload, policy in policies.items():
        if workload in facts.owners or heir(facts, workload, policy) != me:
            continue
        last = facts.last.get(workload)
        if settled or last is None or last.node in facts.nodes or facts.moves.get(workload) == me:
            actions.append(Claim(workload))
    return actions


def heir(facts: Facts, workload: str, policy: Policy) -> str | None:
    """Who should own a workload that has no owner."""
    wanted = facts.moves.get(workload)
    if wanted is not None and can_own(facts, workload, policy, wanted):
        return wanted
    if workload not in facts.last:
        first = policy.owners[0] if policy.owners else ""
        return first if can_own(facts, workload, policy, first) else None
    able = [node for node in policy.owners if can_own(facts, workload, policy, node)]
    return min(able, key=lambda node: _rank(facts.nodes[node].states[workload]), default=None)


def successor(facts: Facts, workload: str, policy: Policy, me: str) -> str | None:
    """Whom its owner has to hand it to, if anybody."""
    wanted = facts.moves.get(workload)
    if wanted is not None and wanted != me and can_own(facts, workload, policy, wanted):
        return wanted
    mine = facts.nodes.get(me)
    if mine is not None and mine.drained:
        others = Policy(tuple(node for node in policy.owners if node != me), policy.any_state)
        return heir(facts, workload, others) if workload in facts.last else None
    return None


def can_own(facts: Facts, workload: str, policy: Policy, node: str) -> bool:
    return not why_not(facts, workload, policy, node)


def why_not(facts: Facts, workload: str, policy: Policy, node: str) -> str:
    """Why a node cannot own a workload; empty where it can."""
    if node not in policy.owners:
        return f"{node} is not among its owners ({', '.join(policy.owners)})"
    found = facts.nodes.get(node)
    if found is None:
        return f"{node} is not there"
    if found.drained:
        return f"{node} is drained"
    state = found.states.get(workload)
    if state is None:
        return f"{node} has nothing at its source, or does not declare it"
    if not state.complete and not policy.any_state:
        return f"the copy of {node} is half overwritten (failover: complete)"
    return ""


def _rank(state: State) -> tuple[bool, int]:
    """The least one is the best; of equals `min` takes the first."""
    return (not state.complete, -state.token)
