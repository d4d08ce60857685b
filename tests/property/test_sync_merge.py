"""Merging is a join: neither the order of messages nor their repetition changes what comes out."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.errors import ProtocolError, UsageError
from dwcp.sync import crdt, lww, mvcc
from dwcp.sync.entry import Entry, Kind, Version, check, decode, encode, expired, fingerprint
from dwcp.sync.merge import merge
from dwcp.sync.messages import decode_answer, decode_request

KEY = "app/key"
NODES = [bytes([number]) * 8 for number in range(1, 4)]


class History:
    """Three nodes that write one key and now and then hear of each other; all states that ever were."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kind = kind
        self.now: dict[bytes, Entry | None] = dict.fromkeys(NODES)
        self.stamp = 0
        self.states: list[Entry] = []
        self.clients = {node: number + 1 for number, node in enumerate(NODES)}

    def step(self) -> None:
        node, other = self.rng.sample(NODES, 2)
        before, heard = self.now[node], self.now[other]
        if self.rng.random() < 0.4 and heard is not None:
            self.now[node] = heard if before is None else merge(before, heard)
        else:
            self.now[node] = self.write(node, before)
        state = self.now[node]
        assert state is not None
        check(state)
        self.states.append(state)

    def write(self, node: bytes, before: Entry | None) -> Entry:
        # nodes may write with one stamp
        self.stamp += self.rng.randrange(2) or (before is not None and before.newest.origin == node)
        self.stamp = max(self.stamp, 1, *(dict(before.context).get(node, 0) + 1 if before else 0,))
        deleted = self.rng.random() < 0.2
        version = Version(node, self.stamp, b"" if deleted else f"{self.stamp}".encode(), deleted)
        if self.kind is Kind.LWW:
            return lww.write(KEY, version)
        if self.kind is Kind.MVCC:
            known = before.versions if before else ()
            return mvcc.write(KEY, before, version, [it.dot for it in known if self.rng.random() < 0.7])
        if before is not None and deleted:
            return crdt.clear(KEY, before, self.clients[node], node, self.stamp)
        edits: list[crdt.Edit] = [
            crdt.SetKey(self.rng.choice("abc"), self.rng.random()),
            crdt.RemoveKey(self.rng.choice("abc")),
            crdt.Add(self.rng.choice("xyz")),
            crdt.Remove(self.rng.choice("xyz")),
            crdt.Increment(self.rng.randrange(-5, 6)),
            crdt.Insert(0, self.rng.choice(["€", "text", "𝄞"])),
        ]
        return crdt.write(KEY, before, self.rng.sample(edits, 2), self.clients[node], node, self.stamp)


def _means(entry: Entry) -> object:
    """What has to be the same: Yjs may write one document in several ways."""
    rest = [(version.dot, version.deleted, version.expires) for version in entry.versions]
    value: object = [version.value for version in entry.versions]
    if entry.kind is Kind.CRDT:
        value = crdt.content(entry)
    return fingerprint(entry), entry.kind, rest, entry.context, value


def _states(kinds: list[Kind], seed: int, steps: int) -> list[Entry]:
    states = []
    for kind in kinds:
        if kind is Kind.CRDT:
            pytest.importorskip("pycrdt")
        history = History(kind, seed)
        for _ in range(steps):
            history.step()
        states += history.states
    return states


@pytest.mark.parametrize("kinds", [[Kind.LWW], [Kind.MVCC], [Kind.CRDT], list(Kind)], ids=lambda kinds: str(len(kinds)))
@given(seed=st.integers(0, 2**32), data=st.data())
def test_merging_is_a_join(kinds: list[Kind], seed: int, data: st.DataObject) -> None:
    states = _states(kinds, seed, 12)
    a, b, c = (data.draw(st.sampled_from(states)) for _ in range(3))
    assert _means(merge(a, a)) == _means(a)
    assert _means(merge(a, b)) == _means(merge(b, a))
    assert _means(merge(merge(a, b), c)) == _means(merge(a, merge(b, c)))
    assert _means(merge(merge(a, b), b)) == _means(merge(a, b)), "absorbed"
    check(merge(a, b))


@given(seed=st.integers(0, 2**32))
def test_any_order_of_all_writes_ends_in_one_state(seed: int) -> None:
    for kind in (Kind.LWW, Kind.MVCC):
        states = _states([kind], seed, 4)
        ends = set()
        for order in permutations(states):
            state = order[0]
            for other in order[1:]:
                state = merge(state, other)
            ends.add(str(_means(state)))
        assert len(ends) == 1


def test_a_version_that_nobody_replaced_stays_and_one_that_was_named_goes() -> None:
    a, b, c = NODES
    first = mvcc.write(KEY, None, Version(a, 1, b"a"), ())
    other = mvcc.write(KEY, None, Version(b, 1, b"b"), ())
    both = merge(first, other)
    assert [version.value for version in both.versions] == [b"b", b"a"]
    resolved = mvcc.write(KEY, both, Version(a, 2, b"c"), [version.dot for version in both.versions])
    assert [version.value for version in merge(resolved, both).versions] == [b"c"]
    late = mvcc.write(KEY, first, Version(c, 3, b"d"), [(a, 1)])
    assert {version.value for version in merge(resolved, late).versions} == {b"c", b"d"}, "neither knew of the other"


def test_edits_that_did_not_know_of_each_other_are_all_there() -> None:
    pytest.importorskip("pycrdt")
    a, b = NODES[:2]
    base = crdt.write(KEY, None, [crdt.Insert(0, "héllo"), crdt.Add("x"), crdt.Increment(2)], 1, a, 1)
    one = crdt.write(KEY, base, [crdt.Insert(5, "!"), crdt.Increment(3), crdt.SetKey("n", 2**60)], 1, a, 2)
    other = crdt.write(KEY, base, [crdt.Cut(0, 1), crdt.Increment(-1), crdt.Remove("x"), crdt.Add("y")], 2, b, 2)
    assert crdt.content(merge(one, other)) == {"map": {"n": 2**60}, "set": ["y"], "counter": 4, "text": "éllo!"}
    emptied = crdt.clear(KEY, one, 1, a, 3)
    assert emptied.deleted
    assert crdt.content(merge(emptied, other)) == {"set": ["y"], "counter": -1}, "what nobody had seen stays"
    with pytest.raises(UsageError, match="6 characters"):
        crdt.write(KEY, one, [crdt.Insert(7, "x")], 1, a, 4)


def test_what_has_expired_is_a_tombstone_with_the_same_dots() -> None:
    entry = lww.write(KEY, Version(NODES[0], 1, b"x", expires=2000))
    assert expired(entry, 1.999) is entry
    over = expired(entry, 2.0)
    assert over.deleted
    assert over.newest.value == b""
    assert fingerprint(over) == fingerprint(entry)
    assert merge(over, entry) == merge(entry, over) == over


@given(st.binary(max_size=300))
def test_whatever_a_peer_sends_is_an_entry_or_a_breach(data: bytes) -> None:
    for read in (decode, decode_request, decode_answer):
        try:
            read(data)
        except ProtocolError:
            continue


@given(seed=st.integers(0, 2**32), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6))
def test_a_damaged_entry_is_refused_or_merges(seed: int, flips: list[tuple[int, int]]) -> None:
    """A peer's bytes do no more than fail, in documents too."""
    states = _states(list(Kind), seed, 3)
    for state in states:
        raw = bytearray(encode(state))
        for place, value in flips:
            raw[place % len(raw)] = value
        try:
            found = decode(bytes(raw))
            for other in states:
                if other.key == found.key:
                    merge(other, found)
                    merge(found, other)
            if found.kind is Kind.CRDT:
                crdt.content(found)
        except ProtocolError:
            continue
