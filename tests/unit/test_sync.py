"""What nodes know of each other, as stories of a few replicas."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from dwcp.errors import NotFoundError, ProtocolError, RefusedError, UsageError
from dwcp.sync import messages as m
from dwcp.sync import mvcc
from dwcp.sync import replica as limits
from dwcp.sync.clock import COUNTER_BITS, HybridClock, seconds_of, to_stamp
from dwcp.sync.digest import Digest
from dwcp.sync.entry import MAX_VALUE, Entry, Kind, Version, encode, fingerprint, owner_of, size
from dwcp.sync.partners import FAN_OUT, Partners
from dwcp.sync.rounds import Round, answer
from dwcp.sync.views import Views
from tests.cluster import EPOCH, Cluster
from tests.simulation import simulate


def test_stamps_grow_whatever_the_clock_does() -> None:
    clock = HybridClock(max_skew=10.0)
    stamps = [clock.stamp(wall) for wall in (5.0, 5.0, 4.0, 6.0)]
    assert stamps == sorted(set(stamps))
    clock.observe(to_stamp(15.0) - 1)
    assert clock.stamp(6.0) == to_stamp(15.0), "after all that was heard of"
    assert clock.ahead(6.0) == pytest.approx(9.0)
    assert clock.accepts(to_stamp(15.9), 6.0)
    assert not clock.accepts(to_stamp(16.0), 6.0)
    many = HybridClock(0.0)
    for _ in range(1 << COUNTER_BITS):
        many.stamp(1.0)
    assert seconds_of(many.stamp(1.0)) == 1.001, "a millisecond that is used up is followed by the next"


def test_a_write_is_everywhere_and_the_last_one_wins() -> None:
    cluster = Cluster(3)
    cluster.put(0, "app/a", b"1")
    cluster.now += 1
    cluster.put(1, "app/a", b"2")
    cluster.settle()
    for number, member in enumerate(cluster.members):
        entry = member.replica.get("app/a", cluster.wall(number))
        assert entry is not None
        assert entry.newest.value == b"2"
    assert cluster.exchange(0, 1).round.same
    idle = cluster.exchange(2, 1)
    assert idle.requests == 1
    assert idle.bytes < 250, "an idle round"


def test_a_change_costs_about_its_bytes_to_whoever_begins() -> None:
    cluster = Cluster(2)
    for number in range(10_000):
        cluster.put(0, f"app/inventory/{number:05d}", random.Random(number).randbytes(100))
    cluster.settle()
    for first in (0, 1):
        changed = random.Random(first).sample(range(10_000), 100)
        cluster.now += 1
        entries = [cluster.put(0, f"app/inventory/{number:05d}", bytes(100)) for number in changed]
        size = sum(len(encode(entry)) for entry in entries)
        made = cluster.exchange(first, 1 - first)
        assert cluster.converged()
        assert made.bytes <= 2 * size
        assert (made.round.sent, made.round.received) == ((100, 0) if first == 0 else (0, 100)), "each once"


def test_a_tombstone_is_kept_until_the_last_one_has_it() -> None:
    cluster = Cluster(3)
    cluster.put(0, "app/a", b"1")
    cluster.settle()
    cluster.now += 1
    cluster.delete(0, "app/a")
    cluster.now += 1
    cluster.exchange(1, 2)
    cluster.exchange(0, 1)
    cluster.tick(0)
    assert cluster.members[0].replica.tombstones, "all of 2 has come here, but 2 does not know of it"
    cluster.exchange(2, 0)
    for _ in range(4):
        cluster.now += 1
        for one, other in ((0, 1), (1, 2), (2, 0)):
            cluster.exchange(one, other)
        for number in range(3):
            cluster.tick(number)
    assert not any(len(member.replica) for member in cluster.members)


def test_a_tombstone_is_not_taken_back_from_those_who_have_it_still() -> None:
    cluster = Cluster(2)
    cluster.put(0, "app/a", b"1")
    cluster.delete(0, "app/a")
    for _ in range(3):
        cluster.now += 1
        cluster.exchange(0, 1)
    cluster.tick(0)
    assert not len(cluster.members[0].replica)
    assert len(cluster.members[1].replica)
    made = cluster.exchange(0, 1)
    assert not made.round.received
    assert not made.round.incomplete, "what is missing is known to be gone"


@pytest.mark.parametrize("kind", [Kind.LWW, Kind.MVCC])
def test_a_write_after_a_restart_is_later_than_a_deletion_that_is_forgotten(kind: Kind) -> None:
    """The clock was set back meanwhile."""
    cluster = Cluster(4)
    cluster.members[0].skew = 12.0
    cluster.put(0, "app/a", b"old", kind, replaces=[])
    gone = cluster.delete(0, "app/a")
    _meet(cluster)
    _meet(cluster)
    assert not any(len(member.replica) for member in cluster.members)
    assert not cluster.members[0].disk
    cluster.restart(0)
    cluster.members[0].skew = 0.0
    new = cluster.put(0, "app/a", b"new", kind, replaces=[])
    assert new.newest.stamp > gone.newest.stamp
    _meet(cluster)
    assert [member.replica.state("app/a") for member in cluster.members] == [new] * 4


@pytest.mark.parametrize("kind", [Kind.LWW, Kind.MVCC])
def test_no_stamp_is_given_out_twice_by_a_machine_that_comes_up_with_the_same_time(kind: Kind) -> None:
    """The others remember not to take back what was deleted: they would not take what has its stamp."""
    cluster = Cluster(4)
    begun = cluster.wall(0)
    dots = [cluster.put(0, "app/a", b"old", kind).newest.dot, cluster.delete(0, "app/a").newest.dot]
    _meet(cluster)
    _meet(cluster)
    assert not cluster.members[0].disk
    cluster.restart(0)
    cluster.members[0].skew = begun - cluster.wall(0)
    dots += [cluster.put(0, "app/a", value, kind).newest.dot for value in (b"1", b"2")]
    assert dots == sorted(set(dots))
    _meet(cluster)
    assert cluster.converged()
    for number, member in enumerate(cluster.members):
        entry = member.replica.get("app/a", cluster.wall(number))
        assert entry is not None
        assert entry.newest.value == b"2"


@pytest.mark.parametrize("kind", [Kind.LWW, Kind.MVCC])
def test_a_write_after_a_restart_is_not_undone_by_who_has_the_tombstone_still(kind: Kind) -> None:
    cluster = Cluster(2)
    cluster.members[0].skew = 12.0
    cluster.put(0, "app/a", b"old", kind)
    cluster.delete(0, "app/a")
    while cluster.members[0].replica.tombstones:
        cluster.now += 1
        cluster.exchange(0, 1)
        cluster.tick(0)
    assert cluster.members[1].replica.tombstones
    cluster.restart(0)
    cluster.members[0].skew = 0.0
    cluster.put(0, "app/a", b"new", kind)
    cluster.settle()
    for number, member in enumerate(cluster.members):
        entry = member.replica.get("app/a", cluster.wall(number))
        assert entry is not None, "no write that was answered is lost to an earlier deletion"
        assert entry.newest.value == b"new"


def _meet(cluster: Cluster) -> None:
    """As in the histories of tests/property/test_sync_replicas.py."""
    count = len(cluster.members)
    for _ in range(3):
        cluster.now += 1
        for number in range(count):
            cluster.exchange(number, (number + 1) % count)
            cluster.tick(number)


def test_nothing_is_collected_while_a_peer_was_never_heard_of() -> None:
    cluster = Cluster(3)
    cluster.put(0, "app/a", b"1")
    cluster.delete(0, "app/a")
    for _ in range(4):
        cluster.now += 1
        cluster.exchange(0, 1)
        cluster.exchange(1, 0)
        cluster.tick(0)
    assert cluster.members[0].replica.tombstones
    for member in cluster.members[:2]:
        member.replica.members -= {cluster.ids[2]}
    for _ in range(2):
        cluster.exchange(0, 1)
    cluster.tick(0)
    assert not cluster.members[0].replica.tombstones, "it is no peer any more"


def test_a_node_alone_forgets_at_once() -> None:
    cluster = Cluster(1)
    cluster.put(0, "app/a", b"1", lifetime=5.0)
    cluster.now += 5
    assert cluster.members[0].replica.get("app/a", cluster.wall(0)) is None
    cluster.tick(0)
    cluster.now += 1
    cluster.tick(0)
    assert not cluster.members[0].disk


def test_a_clock_that_is_too_far_ahead_is_named_and_what_it_wrote_is_left_out() -> None:
    cluster = Cluster(2, max_skew=10.0)
    cluster.members[1].skew = 60.0
    cluster.put(1, "app/a", b"1")
    made = cluster.exchange(0, 1)
    assert "60.0 s ahead of this node's clock, and 10 s are allowed (sync.max_clock_skew)" in made.round.incomplete
    assert made.round.clock_offset == pytest.approx(60.0, abs=0.01)
    assert cluster.members[0].replica.get("app/a", cluster.wall(0)) is None
    assert cluster.members[0].replica.views.fresh(cluster.ids[1]) is None, "we do not have all of it"
    assert cluster.members[0].replica.refusals.counts == {"clock": 1}
    cluster.now += 50.0
    cluster.exchange(0, 1)
    assert cluster.members[0].replica.get("app/a", cluster.wall(0)) is not None, "its time has come"


def test_each_node_writes_its_own_and_says_again_what_others_have_wrong() -> None:
    cluster = Cluster(2)
    own, other = (f"node/{node.hex()}" for node in cluster.ids)
    cluster.put(0, own, b"mine")
    with pytest.raises(RefusedError, match="of another node"):
        cluster.put(0, other, b"theirs")
    cluster.settle()
    forged = Entry(own, Kind.LWW, (Version(cluster.ids[0], to_stamp(EPOCH + 30), b"forged"),))
    assert not cluster.members[1].replica.take(forged, cluster.wall(1), cluster.clock(1)), "nobody can tell there"
    cluster.settle()
    for number, member in enumerate(cluster.members):
        entry = member.replica.get(own, cluster.wall(number))
        assert entry is not None
        assert entry.newest.value == b"mine"
    wrong = Entry(own, Kind.LWW, (Version(cluster.ids[1], to_stamp(EPOCH), b"forged"),))
    assert "another node" in cluster.members[1].replica.take(wrong, cluster.wall(1), cluster.clock(1))


def test_versions_are_resolved_by_naming_them() -> None:
    cluster = Cluster(2)
    for number in range(2):
        cluster.put(number, "app/a", str(number).encode(), Kind.MVCC)
    cluster.settle()
    replica = cluster.members[0].replica
    entry = replica.get("app/a", cluster.wall(0))
    assert entry is not None
    assert {version.value for version in entry.live} == {b"0", b"1"}
    with pytest.raises(RefusedError, match="has 2 versions; name those"):
        cluster.put(0, "app/a", b"2", Kind.MVCC)
    with pytest.raises(RefusedError, match="has 2 versions"):
        cluster.delete(0, "app/a")
    cluster.put(0, "app/a", b"2", Kind.LWW, replaces=[version.dot for version in entry.versions])
    cluster.settle()
    found = cluster.members[1].replica.get("app/a", cluster.wall(1))
    assert found is not None
    assert [version.value for version in found.versions] == [b"2"]
    assert found.kind is Kind.MVCC, "a key keeps its kind"


@pytest.mark.parametrize("key", ["", "app", "app/", "/a", "node/me", "node/" + "g" * 16, "app/a\n", "app/" + "x" * 600])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="is no key"):
        owner_of(key)


def test_there_is_an_end_to_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(2)
    with pytest.raises(UsageError, match=f"at most {MAX_VALUE}"):
        cluster.put(0, "app/a", bytes(MAX_VALUE + 1))
    with pytest.raises(NotFoundError):
        cluster.delete(0, "app/a")
    for number in range(5):
        cluster.put(0, f"app/{number}", b"x")
    monkeypatch.setattr(limits, "MAX_COUNT", 3)
    with pytest.raises(RefusedError, match="no room"):
        cluster.put(0, "app/5", b"x")
    made = cluster.exchange(1, 0)
    assert len(cluster.members[1].replica) == 3
    assert "no room" in made.round.incomplete
    assert cluster.members[1].replica.refusals.counts == {"full": 2}


def test_what_no_message_could_carry_is_not_merged() -> None:
    """Each of two states is small enough, and both together are not."""
    cluster = Cluster(2)
    for number in range(2):
        made: Entry | None = None
        for stamp in range(1, 41):
            origin = bytes([number + 1, stamp]) + bytes(6)
            made = mvcc.write("app/a", made, Version(origin, to_stamp(EPOCH) - stamp, b"x"), ())
        assert made is not None
        assert not cluster.members[number].replica.take(made, cluster.wall(number), cluster.clock(number))
    made_round = cluster.exchange(0, 1).round
    assert "has 80 versions" in made_round.incomplete
    assert not cluster.converged()
    entry = cluster.members[0].replica.get("app/a", cluster.wall(0))
    assert entry is not None
    cluster.put(0, "app/a", b"resolved", Kind.MVCC, replaces=[version.dot for version in entry.versions])
    cluster.settle()


@pytest.mark.parametrize("value", [b"", b"x" * 10_000])
def test_sizes_are_not_less_than_what_is_sent(value: bytes) -> None:
    context = tuple((bytes([number]) * 8, 2**63 - 1) for number in range(5))
    versions = tuple(Version(bytes([number]) * 8, 2**63 - 1, value, True, 2**63 - 1) for number in range(5))
    entry = Entry("app/" + "€" * 100, Kind.MVCC, versions, context)
    assert len(encode(entry)) <= size(entry) <= len(encode(entry)) + 100


def test_views_say_how_old_they_are_whatever_clocks_and_delays_there_are() -> None:
    cluster = Cluster(3, skew=20.0)
    views = [member.replica.views for member in cluster.members]
    cluster.exchange(0, 1)
    assert views[0].ages(cluster.clock(0))[cluster.ids[1]] == pytest.approx(0.1, abs=0.1)
    assert views[1].fresh(cluster.ids[0]) is None, "it has asked nothing, and been told nothing that it could date"
    cluster.now += 5.0
    cluster.exchange(2, 0)
    assert views[2].ages(cluster.clock(2))[cluster.ids[1]] == pytest.approx(5.1, abs=0.2), "by way of 0"
    cluster.now += 3.0
    cluster.exchange(2, 0)
    age = views[0].ages(cluster.clock(0))[cluster.ids[2]]
    assert 2.9 < age < 3.3, "told by who asked: from the mark of the round before"


def test_views_of_strangers_are_forgotten_and_bounded() -> None:
    views = Views(bytes(8))
    told = b"".join(number.to_bytes(8, "big") + b"\0\0\0\0" for number in range(1, 6000))
    views.learn(told, 0.0)
    assert len(views.known()) == 4096
    views.forget({(1).to_bytes(8, "big")}, 8 * 86400.0)
    assert list(views.known()) == [(1).to_bytes(8, "big")]


def test_requests_that_nobody_would_make_are_refused() -> None:
    replica = Cluster(1).members[0].replica
    for request in (
        m.Look(1, 16, b"\0\0"),
        m.Look(1, 7, b"\0\0"),
        m.List(1, 8, b"\xff\xff"),
        m.Want(1, 8, b"\0\0", b""),
        m.Look(1, 0, b"\0\0" * 200),
    ):
        with pytest.raises(ProtocolError):
            answer(replica, request, EPOCH, 1.0)
    round_ = Round(replica)
    round_.begin(EPOCH, 1.0)
    with pytest.raises(ProtocolError, match="where State belongs"):
        round_.receive(m.Taken(), EPOCH, 1.0)


def test_sums_are_of_what_is_there() -> None:
    digest, other = Digest(), Digest()
    found = {
        f"app/{number}": fingerprint(Entry(f"app/{number}", Kind.LWW, (Version(bytes(8), 1, b""),)))
        for number in range(1000)
    }
    for key, value in found.items():
        digest.add(key, value)
    for key, value in reversed(found.items()):
        other.add(key, value)
    assert digest.root == other.root
    for key, value in list(found.items())[1:]:
        digest.remove(key, value)
    assert list(digest.items(0, 0)) == [(found["app/0"], "app/0")]
    digest.remove("app/0", found["app/0"])
    assert digest.root == 0
    assert not any(digest.hashes(8, range(256), 12345))


def test_partners_are_few_and_stay_for_a_while_but_not_for_ever() -> None:
    partners = Partners(random.Random(1))
    known = [f"node{number}" for number in range(50)]
    chosen = [partners.choose(known) for _ in range(500)]
    assert {len(set(some)) for some in chosen} == {FAN_OUT}
    changes = sum(set(one) != set(other) for one, other in pairwise(chosen))
    assert 10 < changes < 60
    assert len({peer for some in chosen for peer in some}) > 20
    assert partners.choose(["a", "b"]) in (["a", "b"], ["b", "a"])
    assert partners.choose([]) == []


def test_fifty_nodes_become_the_same_after_any_partitions() -> None:
    """The long version, with 10,000 keys, is in the soak."""
    seconds, oldest = simulate(50, 400, 24, seed=7)
    assert seconds <= 6
    assert oldest <= 5.5, "the default of sync.max_staleness, and a round"
