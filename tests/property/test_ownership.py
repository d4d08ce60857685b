"""Whatever is delayed, lost, paused or slow by its own clock: never two holders whose deadlines both hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dwcp.ownership.decide import Claim, Facts, NodeFacts, Owner, Policy, State, decide
from dwcp.ownership.lease import DRIFT, Hold, LeaseState

LEASE = 10.0
NAMES = ("a", "b", "c")
POLICIES = {"db": Policy(NAMES)}


@dataclass
class Holder:
    """A node: its own clock, and requests of which nobody knows when they arrive or are answered."""

    rate: float
    hold: Hold = field(default_factory=Hold)
    owns: bool = False
    asked: list[tuple[str, float]] = field(default_factory=list)
    """(request, sent at) on the way to the registry."""
    answers: list[tuple[str, float, bool]] = field(default_factory=list)


class Leases(RuleBasedStateMachine):
    """The registry expires leases by its own clock, which is the true one, and gives ownership by compare-and-swap."""

    @initialize(rates=st.tuples(*[st.floats(1 - DRIFT / 2.1, 1 + DRIFT / 2.1)] * len(NAMES)))
    def begin(self, rates: tuple[float, ...]) -> None:
        self.now = 0.0
        self.holders = {name: Holder(rate) for name, rate in zip(NAMES, rates, strict=True)}
        self.leases: dict[str, float] = {}
        self.owner: Owner | None = None
        self.last: Owner | None = None
        self.tokens = 0

    def clock(self, name: str) -> float:
        return self.now * self.holders[name].rate

    def expire(self) -> None:
        self.leases = {name: until for name, until in self.leases.items() if until > self.now}
        if self.owner is not None and self.owner.node not in self.leases:
            self.owner = None

    @rule(seconds=st.floats(0.01, 25.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.expire()

    @rule(name=st.sampled_from(NAMES), what=st.sampled_from(("keep", "look")))
    def asks(self, name: str, what: str) -> None:
        self.holders[name].asked.append((what, self.clock(name)))

    @precondition(lambda self: any(holder.asked for holder in self.holders.values()))
    @rule(data=st.data())
    def request_arrives(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, holder in self.holders.items() if holder.asked]))
        holder = self.holders[name]
        what, sent_at = holder.asked.pop(data.draw(st.integers(0, len(holder.asked) - 1)))
        if what == "keep":
            known = name in self.leases
            # a lease that is gone is granted anew, and owns nothing
            self.leases[name] = self.now + LEASE
            holder.answers.append(("kept" if known else "granted", sent_at, True))
            return
        facts = Facts(
            {each: NodeFacts({"db": State(0)}) for each in self.leases},
            {"db": self.owner} if self.owner else {},
            {"db": self.last} if self.last else {},
        )
        if Claim("db") in decide(facts, name, POLICIES, settled=True) and name in self.leases:
            self.tokens += 1
            self.owner = self.last = Owner(name, self.tokens)
            holder.answers.append(("claimed", sent_at, True))

    @precondition(lambda self: any(holder.answers for holder in self.holders.values()))
    @rule(data=st.data(), lost=st.booleans())
    def answer_arrives(self, data: st.DataObject, lost: bool) -> None:
        name = data.draw(st.sampled_from([name for name, holder in self.holders.items() if holder.answers]))
        holder = self.holders[name]
        # of one connection: in order
        what, sent_at, _ = holder.answers.pop(0)
        if lost:
            holder.hold.failed(sent_at)
            if what == "granted":
                # the next keep of the lease that it knew finds nothing, which the holder is told
                holder.hold.lost()
                holder.owns = False
            return
        if what == "granted":
            holder.owns = False
            holder.hold.lost()
        if what == "claimed":
            holder.owns = True
        else:
            holder.hold.kept(sent_at, LEASE)

    @precondition(lambda self: self.owner is not None)
    @rule(name=st.sampled_from(NAMES))
    def taken_over_at_once(self, name: str) -> None:
        """The moment at which two could hold it."""
        assert self.owner is not None
        before = self.owner.node
        if name == before:
            return
        self.now = self.leases[before] + 1e-6
        self.expire()
        holder = self.holders[name]
        if name in self.leases or holder.asked or holder.answers:
            return
        self.leases[name] = self.now + LEASE
        holder.hold.lost()
        holder.hold.kept(self.clock(name), LEASE)
        self.tokens += 1
        self.owner = self.last = Owner(name, self.tokens)
        holder.owns = True

    @invariant()
    def one_holder(self) -> None:
        if not hasattr(self, "holders"):
            return
        holding = [
            name
            for name, holder in self.holders.items()
            if holder.owns and holder.hold.state(self.clock(name)) is LeaseState.HELD
        ]
        assert len(holding) <= 1, f"{holding} hold it at {self.now}"
        if holding:
            assert self.owner is not None and self.owner.node == holding[0]


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
