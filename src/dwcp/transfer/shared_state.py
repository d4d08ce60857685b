"""What this node knows of all nodes, for whoever asks: peers' sessions, HTTP, the component that talks to peers.

One lock: a replica (`dwcp.sync`) and its database belong together. What this node writes is durable before it counts;
what comes from others counts at once, and is told on as known only once it is durable.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from dwcp.config import Config
from dwcp.config.model import BY_AUTHORITY
from dwcp.errors import NotFoundError, StateError, UsageError
from dwcp.store.sync import Past, SyncStore
from dwcp.sync import messages, rounds
from dwcp.sync.crdt import Edit
from dwcp.sync.entry import ID_SIZE, MAX_VALUE, Dot, Entry, Kind, owner_of
from dwcp.sync.replica import Replica
from dwcp.sync.rounds import Round

KINDS = {"lww": Kind.LWW, "mvcc": Kind.MVCC, "crdt": Kind.CRDT}
"""By `sync.conflict_resolution`."""
OUTCOMES = ("same", "changed", "incomplete", "failed")
"""Of rounds: nothing differed; all came; something could not be taken in; the peer could not be spoken to."""
LIFETIME = 86400.0
"""Seconds for which what a node says of itself outlasts the node; it is said again at half of it."""

log = structlog.get_logger()


@dataclass(slots=True)
class PeerState:
    """What was seen of a peer in exchanges that this node began."""

    id: bytes | None = None
    takes_part: bool | None = None
    """None while it was not asked."""
    clock_offset: float | None = None
    """Seconds by which its clock is ahead of ours."""
    error: str = ""
    """Why the newest exchange failed, or did not bring all; empty where it did."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """`age`: seconds, None while it was never heard of; `stale`: it is more than sync.max_staleness."""

    name: str
    id: str
    age: float | None
    stale: bool
    takes_part: bool | None
    clock_offset: float | None
    error: str


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """As of the newest look. `others`: ages in seconds of nodes that are no peers of this one, by id."""

    enabled: bool = False
    id: str = ""
    entries: int = 0
    tombstones: int = 0
    bytes: int = 0
    rounds: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    received: int = 0
    """Entries from others, in exchanges that this node began."""
    sent: int = 0
    bytes_received: int = 0
    """On the wire, in those exchanges."""
    bytes_sent: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    """Entries that were not taken in, by reason."""
    newest_refusal: str = ""
    clock_ahead: float = 0.0
    """Seconds by which stamps are ahead of the clock."""
    peers: tuple[PeerView, ...] = ()
    others: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    """Why nothing can be made durable now."""


class SharedState:
    """`open`, `close`, and again. Methods block, may be called from any thread, and raise StateError while it is not
    open; `status` is cheap."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._lock = threading.RLock()
        self._replica: Replica | None = None
        self._store: SyncStore | None = None
        self._opened = 0.0
        self._peers: dict[str, PeerState] = {}
        self._unsaved: dict[str, Entry | None] = {}
        self._failure = ""
        self._rounds: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._traffic: Counter[str] = Counter(received=0, sent=0, bytes_received=0, bytes_sent=0)
        self._status = SyncStatus()

    @property
    def status(self) -> SyncStatus:
        return self._status

    def open(self, fingerprint: str) -> None:
        """`fingerprint` of this node. Raises StateError."""
        config = self._config()
        with self._lock:
            store = SyncStore(Path(config.storage.state_dir))
            replica = Replica(id_of(fingerprint), max_skew=config.sync.max_clock_skew, rng=random.SystemRandom())
            try:
                replica.load(store.load(), store.clock(), time.monotonic())
            except BaseException:
                store.close()
                raise
            self._store, self._replica = store, replica
            self._opened, self._unsaved, self._failure = time.monotonic(), {}, ""
            self.tick()

    def close(self) -> None:
        with self._lock:
            store, self._store, self._replica = self._store, None, None
            if store is not None:
                store.close()
            self._status = SyncStatus()

    # -- reads ---------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry:
        """Raises NotFoundError."""
        with self._using() as replica:
            entry = replica.get(self._resolved(replica, key), time.time())
        if entry is None:
            raise NotFoundError(f"nothing is at {key!r}")
        return entry

    def find(self, prefix: str, after: str, most: int) -> tuple[list[Entry], bool]:
        """(entries whose keys begin so and come after `after`, in order; whether there are more)."""
        found: list[Entry] = []
        with self._using() as replica:
            for key in replica.keys(prefix):
                if key > after and (entry := replica.get(key, time.time())) is not None:
                    if len(found) == most:
                        return found, True
                    found.append(entry)
        return found, False

    def history(self, key: str) -> list[Past]:
        """What was there, newest first. Raises NotFoundError where nothing is remembered."""
        with self._using() as replica:
            found = self._database.history(self._resolved(replica, key))
        if not found:
            raise NotFoundError(f"nothing is remembered of {key!r}; sync.enable_versioning remembers keys of app/")
        return found

    def age_of(self, node: bytes) -> float | None:
        """Seconds of our view of a node; 0 for this one, None for one that nobody has heard of."""
        with self._using() as replica:
            return 0.0 if node == replica.node else replica.views.ages(time.monotonic()).get(node)

    def names(self) -> dict[bytes, str]:
        """What nodes call themselves, by id."""
        names = {}
        entries, _ = self.find("node/", "", 10_000)
        for entry in entries:
            try:
                said = msgspec.json.decode(entry.newest.value, type=dict[str, object]).get("name")
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if isinstance(said, str):
                names[entry.newest.origin] = said
        return names

    def _resolved(self, replica: Replica, key: str) -> str:
        """With a node's id, where its name stands instead. Raises UsageError for what is no key."""
        try:
            owner_of(key)
        except UsageError:
            namespace, _, name = key.partition("/")
            ids = [node for node, its in self.names().items() if its == name] if namespace and name else []
            if len(ids) != 1:
                raise
            return f"{namespace}/{ids[0].hex()}"
        return key

    # -- writes --------------------------------------------------------------------------------------------------------

    def put(
        self, key: str, value: bytes, *, lifetime: float | None = None, replaces: Collection[Dot] | None = None
    ) -> Entry:
        """As `Replica.propose`; durable when it returns."""
        kind = KINDS[self._config().sync.conflict_resolution]
        return self._write(
            key, lambda replica: replica.propose(key, value, kind, time.time(), lifetime=lifetime, replaces=replaces)
        )

    def edit(self, key: str, edits: list[Edit]) -> Entry:
        """As `Replica.propose_edits`."""
        return self._write(key, lambda replica: replica.propose_edits(key, edits, time.time()))

    def delete(self, key: str, *, replaces: Collection[Dot] | None = None) -> Entry:
        """As `Replica.propose_deletion`."""
        return self._write(key, lambda replica: replica.propose_deletion(key, time.time(), replaces=replaces))

    def publish(self, said: Mapping[str, Mapping[str, object]]) -> None:
        """What this node says of itself, by namespace. Only what has changed, or would expire soon, is written."""
        with self._using() as replica:
            now = time.time()
            for namespace, document in said.items():
                key, value = f"{namespace}/{replica.node.hex()}", _fitting(document)
                before = replica.get(key, now)
                renew_at = int((now + LIFETIME / 2) * 1000)
                if before is None or before.newest.value != value or before.newest.expires < renew_at:
                    replica.accept(replica.propose(key, value, Kind.LWW, now, lifetime=LIFETIME), time.monotonic())
            self._save(replica)

    def _write(self, key: str, propose: Callable[[Replica], Entry]) -> Entry:
        with self._using() as replica:
            if owner_of(key) is not None:
                raise UsageError(f"{key!r} is what a node says of itself; applications write app/NAME")
            entry = propose(replica)
            self._unsaved.update(replica.take_changes())
            versioning = self._config().sync.enable_versioning
            self._database.save({entry.key: entry}, replica.clock.last, time.time(), history=versioning)
            replica.accept(entry, time.monotonic())
            self._unsaved.pop(entry.key, None)
            replica.take_changes()
            return entry

    # -- exchanges -----------------------------------------------------------------------------------------------------

    def answer(self, peer: str, key: bytes, content: bytes) -> bytes:
        """`transfer.node.Synchroniser`."""
        request = messages.decode_request(content)
        with self._using() as replica:
            if peer in self._peers:
                # others that an authority vouches for count as those that were heard of
                self._peers[peer].id = id_of_key(key)
            answered = rounds.answer(replica, request, time.time(), time.monotonic())
            if self._save(replica) and answered.learned is not None:
                replica.views.learn(*answered.learned)
            return messages.encode(answered.message)

    def begin(self, echo: int) -> tuple[Round, bytes]:
        """A round, and what it asks first."""
        with self._using() as replica:
            round_ = Round(replica, echo)
            return round_, messages.encode(round_.begin(time.time(), time.monotonic()))

    def receive(self, round_: Round, content: bytes) -> bytes | None:
        """What the round asks next. Raises ProtocolError."""
        answer = messages.decode_answer(content)
        with self._using() as replica:
            request = round_.receive(answer, time.time(), time.monotonic())
            if request is not None:
                return messages.encode(request)
            if self._save(replica) and round_.learned is not None:
                replica.views.learn(*round_.learned)
            return None

    def ended(self, peer: str, round_: Round, key: bytes, sent: int, received: int) -> None:
        """An exchange with a peer of that key has ended well. `sent` and `received`: bytes on the wire."""
        with self._lock:
            state = self._peers.setdefault(peer, PeerState())
            state.id, state.takes_part = id_of_key(key), True
            state.clock_offset, state.error = round_.clock_offset, round_.incomplete
            outcome = "incomplete" if round_.incomplete else "same" if round_.same else "changed"
            self._rounds[outcome] += 1
            self._traffic.update(received=round_.received, sent=round_.sent, bytes_received=received, bytes_sent=sent)

    def takes_no_part(self, peer: str, key: bytes) -> None:
        """The peer has said so."""
        with self._lock:
            state = self._peers.setdefault(peer, PeerState())
            state.id, state.takes_part, state.error = id_of_key(key), False, ""

    def failed(self, peer: str, reason: str) -> None:
        with self._lock:
            self._peers.setdefault(peer, PeerState()).error = reason
            self._rounds["failed"] += 1

    # -- time ----------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Lets expire and forgets, makes durable what could not be, and renews `status`."""
        with self._using() as replica:
            config = self._config()
            replica.clock.max_skew = config.sync.max_clock_skew
            self._follow(replica, config)
            replica.tick(time.time(), time.monotonic())
            self._save(replica)
            self._status = self._look(replica, config)

    def _follow(self, replica: Replica, config: Config) -> None:
        """Who takes part: every peer that may be asked and has not declined, and who else has been heard of."""
        for name in self._peers.keys() - config.peers.keys():
            gone = self._peers.pop(name)
            if gone.id is not None:
                replica.views.drop(gone.id)
        members, met = set(), True
        for name, peer in config.peers.items():
            state = self._peers.setdefault(name, PeerState())
            if peer.fingerprint != BY_AUTHORITY:
                state.id = id_of(peer.fingerprint)
            if state.takes_part is False or (peer.address is None and state.id not in replica.views.known()):
                continue
            if state.id is None:
                met = False
            else:
                members.add(state.id)
        replica.members, replica.all_met = frozenset(members), met

    def _look(self, replica: Replica, config: Config) -> SyncStatus:
        now, wall = time.monotonic(), time.time()
        ages = dict(replica.views.ages(now))
        peers = []
        for name, state in self._peers.items():
            age = ages.pop(state.id, None) if state.id is not None else None
            counts = state.takes_part is not False and (config.peers[name].address is not None or age is not None)
            waited = age if age is not None else now - self._opened
            peers.append(
                PeerView(
                    name,
                    state.id.hex() if state.id is not None else "",
                    age,
                    counts and waited > config.sync.max_staleness,
                    state.takes_part,
                    state.clock_offset,
                    state.error,
                )
            )
        return SyncStatus(
            enabled=True,
            id=replica.node.hex(),
            entries=len(replica),
            tombstones=replica.tombstones,
            bytes=replica.bytes,
            rounds=dict(self._rounds),
            refused=dict(replica.refusals.counts),
            newest_refusal=replica.refusals.newest,
            clock_ahead=replica.clock.ahead(wall),
            peers=tuple(peers),
            others={node.hex(): age for node, age in ages.items()},
            failure=self._failure,
            **self._traffic,
        )

    # -- the database --------------------------------------------------------------------------------------------------

    @property
    def _database(self) -> SyncStore:
        if self._store is None:
            raise StateError("synchronisation is not enabled here; set sync.enabled and restart the manager")
        return self._store

    @contextmanager
    def _using(self) -> Iterator[Replica]:
        with self._lock:
            if self._replica is None:
                raise StateError("synchronisation is not enabled here; set sync.enabled and restart the manager")
            yield self._replica

    def _save(self, replica: Replica) -> bool:
        """Makes durable what has changed, or could not be made so before. Whether that went well."""
        store = self._database
        self._unsaved.update(replica.take_changes())
        try:
            if store.began_anew:
                self._unsaved = {**dict(replica.states()), **self._unsaved}
            if self._unsaved or store.began_anew:
                versioning = self._config().sync.enable_versioning
                store.save(self._unsaved, replica.clock.last, time.time(), history=versioning)
        except StateError as error:
            if not self._failure:
                log.error("what is known of other nodes cannot be kept", reason=str(error))
            self._failure = str(error)
            return False
        self._unsaved, self._failure, store.began_anew = {}, "", False
        return True


def id_of(fingerprint: str) -> bytes:
    """Of a node with that fingerprint (`sha256:` and hexadecimal digits)."""
    return bytes.fromhex(fingerprint.partition(":")[2])[:ID_SIZE]


def id_of_key(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:ID_SIZE]


def _fitting(document: Mapping[str, object]) -> bytes:
    """As JSON that an entry can hold: of what is too long, the first ones by name."""
    names = sorted(document)
    while True:
        said: dict[str, object] = {name: document[name] for name in names}
        if len(names) < len(document):
            said["left out"] = len(document) - len(names)
        value = msgspec.json.encode(said, order="deterministic")
        if len(value) <= MAX_VALUE:
            return value
        del names[len(names) // 2 :]
