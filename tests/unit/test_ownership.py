"""Who owns what, told as stories."""

from __future__ import annotations

from dwcp.ownership.decide import Action, Claim, Facts, HandOver, LetGo, Moved, NodeFacts, Owner, Policy, State, why_not
from dwcp.ownership.decide import decide as decide_for
from dwcp.ownership.lease import DRIFT, Hold, LeaseState

POLICY = {"db": Policy(("a", "b", "c"))}


def nodes(**tokens: int) -> dict[str, NodeFacts]:
    return {name: NodeFacts({"db": State(token)}) for name, token in tokens.items()}


def decisions(facts: Facts, *, settled: bool = True, policies: dict[str, Policy] = POLICY) -> dict[str, list[Action]]:
    """Of all three nodes, those that do something."""
    found = {me: decide_for(facts, me, policies, settled=settled) for me in "abc"}
    return {me: actions for me, actions in found.items() if actions}


def test_a_new_workload_waits_for_the_node_that_has_its_source() -> None:
    assert decisions(Facts(nodes(b=0, c=0))) == {}
    assert decisions(Facts(nodes(a=0, b=0, c=0))) == {"a": [Claim("db")]}
    # its empty directory is nothing that should go everywhere
    assert decisions(Facts({"a": NodeFacts(), **nodes(b=0)})) == {}


def test_the_newest_state_goes_before_the_order() -> None:
    last = {"db": Owner("c", 9)}
    assert decisions(Facts(nodes(a=5, b=9), last=last)) == {"b": [Claim("db")]}
    assert decisions(Facts(nodes(a=5, b=5), last=last)) == {"a": [Claim("db")]}


def test_an_owner_that_is_there_keeps_what_it_has() -> None:
    owner = {"db": Owner("b", 7)}
    assert decisions(Facts(nodes(a=7, b=7, c=7), owners=owner, last=owner)) == {}


def test_after_a_blackout_the_last_owner_gets_time_to_come_back() -> None:
    last = {"db": Owner("c", 9)}
    assert decisions(Facts(nodes(a=5), last=last), settled=False) == {}
    assert decisions(Facts(nodes(a=5), last=last)) == {"a": [Claim("db")]}
    assert decisions(Facts(nodes(a=5, c=9), last=last), settled=False) == {"c": [Claim("db")]}


def test_half_a_copy_is_taken_only_where_that_is_said() -> None:
    half = {"b": NodeFacts({"db": State(8, complete=False)}), "c": NodeFacts({"db": State(7)})}
    last = {"db": Owner("a", 8)}
    assert decisions(Facts(half, last=last)) == {"c": [Claim("db")]}
    only_half = Facts({"b": half["b"]}, last=last)
    assert decisions(only_half) == {}
    taken = decisions(only_half, policies={"db": Policy(("a", "b", "c"), any_state=True)})
    assert taken == {"b": [Claim("db")]}
    assert "half overwritten" in why_not(only_half, "db", POLICY["db"], "b")


def test_a_move_waits_for_a_node_that_can() -> None:
    owner = {"db": Owner("a", 3)}
    there = Facts(nodes(a=3, b=3), owners=owner, last=owner, moves={"db": "c"})
    assert decisions(there) == {}
    assert decisions(Facts(nodes(a=3, b=3, c=3), owners=owner, last=owner, moves={"db": "c"})) == {
        "a": [HandOver("db", "c")]
    }
    let_go = Facts(nodes(a=3, b=3, c=3), last=owner, moves={"db": "c"})
    assert decisions(let_go, settled=False) == {"c": [Claim("db")]}
    moved = {"db": Owner("c", 4)}
    assert decisions(Facts(nodes(a=3, b=3, c=4), owners=moved, last=moved, moves={"db": "c"})) == {"c": [Moved("db")]}


def test_a_drained_node_hands_over_and_claims_nothing() -> None:
    owner = {"db": Owner("a", 3)}
    drained = {**nodes(b=2, c=3), "a": NodeFacts({"db": State(3)}, drained=True)}
    assert decisions(Facts(drained, owners=owner, last=owner)) == {"a": [HandOver("db", "c")]}
    assert decisions(Facts({"a": drained["a"]}, owners=owner, last=owner)) == {}
    assert decisions(Facts({"a": drained["a"]}, last=owner)) == {}


def test_who_may_not_own_it_any_more_lets_it_go() -> None:
    owner = {"db": Owner("a", 3)}
    assert decide_for(Facts(nodes(a=3), owners=owner), "a", {}, settled=True) == [LetGo("db")]
    assert decide_for(Facts(nodes(a=3), owners=owner), "a", {"db": Policy(("b",))}, settled=True) == [LetGo("db")]


def test_a_lease_ends_for_its_holder_first() -> None:
    hold = Hold()
    assert hold.state(0.0) is LeaseState.LOST
    hold.kept(100.0, 10.0)
    assert hold.state(109.8) is LeaseState.HELD
    assert hold.state(100.0 + 10.0 * (1 - DRIFT)) is LeaseState.DOUBTFUL
    hold.failed(109.0)
    assert hold.state(111.0) is LeaseState.DOUBTFUL, "what failed before the deadline says nothing of the time after it"
    hold.failed(111.0)
    assert hold.state(111.0) is LeaseState.UNCONFIRMED
    hold.kept(112.0, 10.0)
    assert hold.state(113.0) is LeaseState.HELD
    hold.lost()
    assert hold.state(113.0) is LeaseState.LOST


def test_an_answer_that_comes_late_shortens_nothing() -> None:
    hold = Hold()
    hold.kept(103.0, 10.0)
    hold.kept(100.0, 10.0)
    assert hold.state(112.0) is LeaseState.HELD
    assert hold.next_keep() == 103.0 + 10.0 / 3
