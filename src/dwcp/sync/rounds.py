"""One exchange between two replicas, after which each has what the other had when it began.

The initiator goes down the responder's digest to where it differs from its own, asks for what it lacks there, and gives
what the responder lacks. Both sides of a difference are merged before anything is given, so that an old version never
travels to where the new one came from. The responder keeps nothing between two requests.

What was learned of views (`learned`) counts only once all that came is durable: whoever runs this calls `Views.learn`
with it then.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from dwcp.errors import ProtocolError
from dwcp.sync import messages as m
from dwcp.sync.digest import (
    DEEPEST,
    LEVELS,
    below,
    children,
    is_older,
    pack_hashes,
    pack_nodes,
    pack_rival,
    salted,
    unpack_hashes,
    unpack_nodes,
    unpack_rivals,
)
from dwcp.sync.entry import Entry, Kind, size
from dwcp.sync.replica import Replica

FEW = 64
"""Entries that are listed at once, instead of going down to them: 256 bytes."""
DENSE = 6
"""Entries in a node on average, above which looking into it costs fewer bytes than listing it does."""
ROUND_BYTES = 4 * 2**20
"""Of entries each way in one round; what is left comes with the next one."""

Learned = tuple[bytes, float]
"""Arguments of `Views.learn`."""
Talk = Generator[m.Request, m.Answer, None]
A = TypeVar("A", m.State, m.Sums, m.Items, m.Parcel, m.Taken)


# -- responder ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    message: m.Answer
    learned: Learned | None = None


def answer(replica: Replica, request: m.Request, wall: float, now: float) -> Answered:
    """The responder's part. Raises ProtocolError for what cannot be asked."""
    match request:
        case m.Hail():
            return _state(replica, request, wall, now)
        case m.Look():
            return Answered(_sums(replica, request))
        case m.List():
            return Answered(_items(replica, request))
        case m.Want():
            return Answered(_parcel(replica, request))
        case m.Give():
            refused = _take(replica, request.entries, wall, now)
            learned = _learned(request, now) if request.complete and not refused else None
            return Answered(m.Taken(len(refused), refused[0][:1000] if refused else ""), learned)


def _learned(request: m.Hail | m.Give, now: float) -> Learned | None:
    """What it tells held after our mark that it echoes; a mark of the future is none that we gave."""
    return (request.told, min(now, request.echo / 1000)) if request.echo else None


def _state(replica: Replica, hail: m.Hail, wall: float, now: float) -> Answered:
    digest, root, sums = replica.digest, _root(replica), b""
    same = root == hail.root
    if not same and digest.count > FEW:
        sums = pack_hashes(digest.hashes(LEVELS[1], range(1 << LEVELS[1]), hail.salt))
    told = replica.views.tell(replica.members, now, replica.rng)
    state = m.State(root, digest.count, told, int(now * 1000), int(wall * 1000), sums)
    return Answered(state, _learned(hail, now) if same else None)


def _sums(replica: Replica, request: m.Look) -> m.Sums:
    if request.level == DEEPEST:
        raise ProtocolError("the peer asks for what is below the deepest level")
    sums: list[int] = []
    for node in _nodes(request.level, request.nodes):
        sums += replica.digest.hashes(below(request.level), children(request.level, node), request.salt)
        if len(sums) > m.MAX_SUMS:
            raise ProtocolError("the peer asks for too many sums at once")
    return m.Sums(pack_hashes(sums))


def _items(replica: Replica, request: m.List) -> m.Items:
    counts: list[int] = []
    items: list[int] = []
    for node in _nodes(request.level, request.nodes):
        here = [salted(found, request.salt) for found, _ in replica.digest.items(request.level, node)]
        if len(items) + len(here) > m.MAX_ITEMS:
            break
        counts.append(len(here))
        items += here
    return m.Items(pack_nodes(counts), pack_hashes(items))


def _parcel(replica: Replica, request: m.Want) -> m.Parcel:
    nodes, items = list(_nodes(request.level, request.nodes)), unpack_hashes(request.items)
    if len(nodes) != len(items):
        raise ProtocolError(f"the peer wants {len(items)} entries of {len(nodes)} nodes")
    index: dict[int, dict[int, str]] = {}
    rivals = unpack_rivals(request.ours)
    entries: list[Entry] = []
    room, older = m.MAX_PARCEL, 0
    for looked, (node, item) in enumerate(zip(nodes, items, strict=True)):
        if node not in index:
            index[node] = {salted(found, request.salt): key for found, key in replica.digest.items(request.level, node)}
        entry = replica.state(index[node].get(item, ""))
        if entry is None:
            continue
        if entry.kind is Kind.LWW and is_older(entry.key, entry.newest.stamp, rivals):
            older += 1
            continue
        room -= size(entry)
        if entries and room < 0:
            return m.Parcel(looked, tuple(entries), older)
        entries.append(entry)
    return m.Parcel(len(items), tuple(entries), older)


def _nodes(level: int, packed: bytes) -> Iterator[int]:
    if level not in LEVELS:
        raise ProtocolError(f"the peer asks for level {level}, which there is not")
    for node in unpack_nodes(packed):
        if node >> level:
            raise ProtocolError(f"the peer asks for node {node} of level {level}")
        yield node


# -- initiator ---------------------------------------------------------------------------------------------------------


class Round:
    """Call `begin`, then `receive` with each answer; each gives the next request, the latter None at the end."""

    def __init__(self, replica: Replica, echo: int = 0) -> None:
        """`echo`: the responder's mark from the round before in the same session."""
        self._replica = replica
        self._salt = replica.rng.randrange(1, 2**63) | 1
        self._began = self._wall = self._now = 0.0
        self._echo = echo
        self._talk: Talk | None = None
        self._told = b""
        self._state: m.State | None = None
        self._lost = ""
        self._theirs: set[int] = set()
        """Salted fingerprints of what is known to be there."""
        self._give: dict[str, None] = {}
        """Keys of which the responder may lack our state, in the order in which that was found."""
        self.same = False
        """Nothing differed."""
        self.received = self.sent = 0
        """Entries."""

    @property
    def mark(self) -> int:
        """To be echoed in the next round."""
        return self._state.mark if self._state is not None else 0

    @property
    def incomplete(self) -> str:
        """Why we do not have all that the responder has; empty where we do."""
        return self._lost

    @property
    def learned(self) -> Learned | None:
        """Once the round has ended."""
        if self._state is None or self._lost:
            return None
        return self._state.told, self._began

    @property
    def clock_offset(self) -> float | None:
        """Seconds by which the responder's clock is ahead of ours, or less than half a round trip more or less."""
        return self._offset if self._state is not None else None

    def begin(self, wall: float, now: float) -> m.Request:
        self._wall, self._began, self._now = wall, now, now
        self._told = self._replica.views.tell(self._replica.members, now, self._replica.rng)
        self._talk = self._run()
        return next(self._talk)

    def receive(self, answer: m.Answer, wall: float, now: float) -> m.Request | None:
        """Raises ProtocolError for an answer to something else."""
        if self._talk is None:
            raise ProtocolError("the peer answers what nobody has asked")
        if isinstance(answer, m.State):
            self._offset = answer.wall / 1000 - (self._wall + (now - self._began) / 2)
        self._wall, self._now = wall, now
        try:
            return self._talk.send(answer)
        except StopIteration:
            self._talk = None
            return None

    def _run(self) -> Talk:
        state = _expect((yield m.Hail(self._salt, _root(self._replica), self._told, self._echo)), m.State)
        self._state = state
        self.same = state.root == _root(self._replica)
        if self.same:
            return
        if state.sums and len(self._replica):
            yield from self._descend(state)
        else:
            level = LEVELS[1] if state.sums else 0
            yield from self._compare(level, range(1 << level))
        yield from self._hand_over()

    def _descend(self, state: m.State) -> Talk:
        """Down to where there are few entries in a node, and compares them there."""
        level, nodes = LEVELS[1], list(range(1 << LEVELS[1]))
        sums = unpack_hashes(state.sums)
        while True:
            if len(sums) != len(nodes):
                raise ProtocolError(f"the peer answers with {len(sums)} sums of {len(nodes)}")
            ours = self._replica.digest.hashes(level, nodes, self._salt)
            differing = [(node, own, their) for node, own, their in zip(nodes, ours, sums, strict=True) if own != their]
            for node, _, their in differing:
                if not their:
                    self._give.update(dict.fromkeys(key for _, key in self._replica.digest.items(level, node)))
            inside = [node for node, own, their in differing if own and their]
            alone = [node for node, own, their in differing if not own]
            if level == DEEPEST or max(state.count, len(self._replica)) <= DENSE << level:
                yield from self._compare(level, [*alone, *inside])
                return
            yield from self._compare(level, alone)
            sums = []
            for part in _parts(inside, m.MAX_NODES):
                answer = _expect((yield m.Look(self._salt, level, pack_nodes(part))), m.Sums)
                sums += unpack_hashes(answer.sums)
            nodes = [child for node in inside for child in children(level, node)]
            level = below(level)

    def _compare(self, level: int, nodes: Sequence[int]) -> Talk:
        """Asks what is in these nodes, and for what of it is not here."""
        gone = {salted(found, self._salt) for found in self._replica.collected()}
        wanted: list[tuple[int, int]] = []
        rivals: dict[int, list[bytes]] = {}
        waiting = list(nodes)
        while waiting:
            asked = waiting[: m.MAX_NODES]
            answer = _expect((yield m.List(self._salt, level, pack_nodes(asked))), m.Items)
            counts, items = unpack_nodes(answer.counts), iter(unpack_hashes(answer.items))
            if len(counts) > len(asked):
                raise ProtocolError("the peer lists nodes that nobody has asked for")
            for node, count in zip(asked, counts, strict=False):
                theirs = set(islice(items, count))
                ours = {salted(found, self._salt): key for found, key in self._replica.digest.items(level, node)}
                self._theirs |= theirs
                lacking = [key for item, key in ours.items() if item not in theirs]
                missing = [(node, item) for item in theirs if item not in ours and item not in gone]
                self._give.update(dict.fromkeys(lacking))
                if missing:
                    rivals[node] = list(self._rivals(lacking))
                    wanted += missing
            if not counts:
                self._lost = "more entries than can be listed share the first bits of their hash"
            del waiting[: len(counts) or 1]
        yield from self._ask_for(level, wanted, rivals)

    def _rivals(self, keys: Iterable[str]) -> Iterator[bytes]:
        for key in keys:
            entry = self._replica.state(key)
            if entry is not None and entry.kind is Kind.LWW:
                yield pack_rival(key, entry.newest.stamp)

    def _ask_for(self, level: int, wanted: list[tuple[int, int]], rivals: dict[int, list[bytes]]) -> Talk:
        room = ROUND_BYTES
        while wanted:
            if room <= 0:
                self._lost = "there is more than one round may bring; the next ones bring the rest"
                return
            part = wanted[: m.MAX_WANTED]
            nodes, items = zip(*part, strict=True)
            ours = [rival for node in dict.fromkeys(nodes) for rival in rivals[node]]
            packed = b"".join(ours[: m.MAX_WANTED])
            want = m.Want(self._salt, level, pack_nodes(nodes), pack_hashes(items), packed)
            answer = _expect((yield want), m.Parcel)
            if not 0 < answer.looked <= len(part) or len(answer.entries) + answer.older > answer.looked:
                raise ProtocolError(f"the peer answers {answer.looked} of {len(part)} wishes")
            del wanted[: answer.looked]
            self._take(answer)
            room -= sum(size(entry) for entry in answer.entries)

    def _take(self, parcel: m.Parcel) -> None:
        refused = _take(self._replica, parcel.entries, self._wall, self._now)
        self.received += len(parcel.entries)
        self._give.update(dict.fromkeys(entry.key for entry in parcel.entries))
        if refused:
            self._lost = refused[0]
        elif len(parcel.entries) + parcel.older < parcel.looked:
            self._lost = "some entries changed while they were asked for"

    def _hand_over(self) -> Talk:
        """What the responder lacks, and that it has everything then."""
        whole, room = True, ROUND_BYTES
        batch: list[Entry] = []
        batch_size = 0
        for key in self._give:
            entry, found = self._replica.state(key), self._replica.fingerprint_of(key)
            if entry is None or found is None or salted(found, self._salt) in self._theirs:
                continue
            if batch and (batch_size + size(entry) > m.MAX_PARCEL or len(batch) == m.MAX_ENTRIES):
                taken = _expect((yield m.Give(tuple(batch))), m.Taken)
                whole = whole and not taken.refused
                batch, batch_size = [], 0
            batch.append(entry)
            batch_size += size(entry)
            room -= size(entry)
            self.sent += 1
            if room <= 0:
                whole = False
                break
        yield m.Give(tuple(batch), complete=whole, told=self._told if whole else b"", echo=self._echo)


def _take(replica: Replica, entries: Iterable[Entry], wall: float, now: float) -> list[str]:
    """Why some were not taken in."""
    return [why for entry in entries if (why := replica.take(entry, wall, now))]


def _root(replica: Replica) -> bytes:
    return replica.digest.root.to_bytes(8, "big")


def _parts(nodes: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    for begin in range(0, len(nodes), most):
        yield nodes[begin : begin + most]


def _expect(answer: m.Answer, kind: type[A]) -> A:
    if not isinstance(answer, kind):
        raise ProtocolError(f"the peer answers with {type(answer).__name__} where {kind.__name__} belongs")
    return answer
