"""What all transfers of one process share: identity, buffers, pacing, counts. The server and every client take one."""

from __future__ import annotations

import copy
import datetime
import math
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dwcp.config import Config
from dwcp.config.model import BY_AUTHORITY
from dwcp.errors import AuthenticationError, NotFoundError, UsageError
from dwcp.links.endpoints import LinkSettings
from dwcp.links.interface import Link
from dwcp.links.sockopts import SocketOptions
from dwcp.store.baselines import KeptCopies
from dwcp.store.dictionaries import Dictionaries
from dwcp.store.identity import Identity
from dwcp.store.shared_rate import SharedRate, read_limit
from dwcp.telemetry import telemetry_of
from dwcp.transfer.board import Board
from dwcp.transfer.channel import Meter
from dwcp.transfer.counters import Tally
from dwcp.transfer.credentials import Credentials, CredentialStore
from dwcp.transfer.dictionaries import Taken, Trained
from dwcp.transfer.fencing import Fences
from dwcp.transfer.pacing import Pacer
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.rdma import Rdma
from dwcp.tuning.leaves import FAR
from dwcp.tuning.timetable import Period, rate_at
from dwcp.units import parse_days, parse_minute
from dwcp.wire.handshake import (
    DICTIONARY,
    FENCES,
    ORDERS,
    PAUSE,
    PROBE,
    RDMA,
    READ,
    SYNC,
    TRACES,
    VERSIONED,
    Claim,
    Introduction,
)
from dwcp.wire.messages import Order, Ordered

POOL_SHARE = 4
"""Transfer buffers take a quarter of memory.limit: as much again goes to what codecs and deltas make of them, the rest
is the interpreter, threads and tables."""


class Orders(Protocol):
    """What peers tell this node to send. Called in threads of sessions."""

    def take(self, peer: str, order: Order) -> Ordered:
        """Queues it. Raises RefusedError, NotFoundError, UsageError."""
        ...

    def look(self, peer: str, job: int) -> Ordered:
        """Raises NotFoundError for a job that this peer has not ordered."""
        ...


class Synchroniser(Protocol):
    """What this node knows of all nodes. Called in threads of sessions."""

    def answer(self, peer: str, key: bytes, content: bytes) -> bytes:
        """To a peer with that identity key. Raises ProtocolError, or StateError where it cannot be used."""
        ...


class Node:
    """`config` may be replaced while transfers run (`apply`)."""

    def __init__(self, config: Config, identity: Identity, board: Board | None = None) -> None:
        self.config = config
        self._credentials = CredentialStore(identity, config.security.ca_file)
        self.board = board or Board()
        self._halved = 0
        self.pool = BufferPool(config.memory.limit // POOL_SHARE)
        state_dir = Path(config.storage.state_dir)
        self.pacer = Pacer(self.rate_now, SharedRate(state_dir))
        self.meter = Meter()
        self.tally = Tally()
        self.rdma = Rdma(lambda: self.config)
        self.fences = Fences(state_dir)
        self.orders: Orders | None = None
        """Where it sends what peers tell it to."""
        self.telemetry = telemetry_of(config.telemetry, config.node.name)
        self.sync: Synchroniser | None = None
        """Where it takes part in synchronisation."""
        _raise_descriptor_limit()

    def apply(self, config: Config) -> None:
        """What can change in a running node changes now; the rest waits for a restart."""
        self.config = config
        self.halve_buffers(self._halved)
        self.pacer.refresh()

    def halve_buffers(self, times: int) -> int:
        """Bytes that transfer buffers may take from now on: memory.limit's share for them, halved so many times."""
        self._halved = times
        limit = self.config.memory.limit // POOL_SHARE >> times
        self.pool.resize(limit)
        return limit

    def slowed(self, ceiling: Callable[[int | None], int | None]) -> Node:
        """This node for a transfer that may not take all of its rate: `ceiling` makes of the node's rate (bits per
        second, None for no limit) what that one may send."""
        slow = copy.copy(self)
        shared = SharedRate(Path(self.config.storage.state_dir))
        slow.pacer = Pacer(self.rate_now, shared, lambda: ceiling(self.rate_now()))
        return slow

    def rate_now(self) -> int | None:
        """Bits per second that the node may send, None for no limit: what `dwcp limit` has set, else as configured."""
        override = read_limit(Path(self.config.storage.state_dir))
        if override is not None:
            return override if isinstance(override, int) else None
        now = time.localtime()
        return configured_rate(self.config, now.tm_wday, now.tm_hour * 60 + now.tm_min)

    @property
    def identity(self) -> Identity:
        """As its files are now."""
        return self._credentials.current().identity

    def credentials(self) -> Credentials:
        """For one session: what its connections show and what it signs must be of the same key."""
        return self._credentials.current()

    def address_of(self, peer: str) -> tuple[str, str]:
        """(address, fingerprint or `ca:NAME`) of a configured peer. Raises NotFoundError, or UsageError without one."""
        known = self.config.peers.get(peer)
        if known is None:
            names = ", ".join(sorted(self.config.peers)) or "none"
            raise NotFoundError(f"no peer {peer!r}; known peers: {names}; `dwcp peer add` adds one")
        if known.address is None:
            raise UsageError(f"peer {peer!r} has no address in the configuration: it can only connect to this node")
        expected = f"{BY_AUTHORITY}:{peer}" if known.fingerprint == BY_AUTHORITY else known.fingerprint
        return known.address, expected

    def kept_copies(self, peer: str, tree: bytes, round_trip: float | None) -> KeptCopies | None:
        """Copies of what was sent of `tree` to a peer, `round_trip` seconds away; None where none are kept."""
        config = self.config
        storage, compression = config.storage, config.compression
        keep = storage.keep_baselines == "always" or (
            storage.keep_baselines == "far" and round_trip is not None and round_trip >= FAR
        )
        if not (keep and compression.enable_delta_encoding and storage.baselines_limit):
            return None
        return KeptCopies(
            Path(storage.state_dir),
            peer,
            tree,
            limit=storage.baselines_limit,
            interval=compression.baseline_interval,
            chain=compression.max_delta_chain,
        )

    def trained(self, peer: str, tree: bytes) -> Trained | None:
        """Dictionaries for what is sent of `tree` to a peer; None where none are used."""
        section = self.config.compression
        if not (section.enabled and section.enable_dictionary and section.algorithm == "zstd"):
            return None
        store = Dictionaries(Path(self.config.storage.state_dir), peer)
        return Trained(store, tree, level=section.level, interval=section.dictionary_update_interval)

    def taken_dictionaries(self, peer: str) -> Taken:
        return Taken(Dictionaries(Path(self.config.storage.state_dir), peer))

    def link_settings(self, credentials: Credentials | None = None, patience: float = math.inf) -> LinkSettings:
        """`patience`: seconds that each timeout is at the most, where health is checked."""
        transport = self.config.transport
        return LinkSettings(
            options=SocketOptions(
                congestion_algorithm=transport.congestion_algorithm,
                enable_ecn=transport.enable_ecn,
                send_buffer_size=transport.send_buffer_size,
                recv_buffer_size=transport.recv_buffer_size,
                user_timeout=transport.read_timeout,
            ),
            connect_timeout=min(patience, transport.connect_timeout),
            read_timeout=min(patience, transport.read_timeout),
            write_timeout=min(patience, transport.write_timeout),
            tls=self.config.security.tls,
            contexts=(credentials or self.credentials()).contexts,
            connect_limit="health.timeout" if patience < transport.connect_timeout else "transport.connect_timeout",
        )

    def introduction(self, credentials: Credentials) -> Introduction:
        identity = credentials.identity
        offers = {
            DICTIONARY: self.config.compression.enable_dictionary,
            PROBE: True,
            VERSIONED: True,
            FENCES: True,
            READ: True,
            PAUSE: True,
            ORDERS: self.orders is not None,
            SYNC: self.sync is not None,
            RDMA: self.rdma.usable(),
            TRACES: self.telemetry.enabled,
        }
        also = tuple(name for name, offered in offers.items() if offered)
        return Introduction(
            identity.node_name, identity.public_key, os.urandom(32), identity.sign, credentials.certificate, also
        )

    def trust(self, claim: Claim) -> str:
        """The name that a peer goes by here: by its pin; without one for that name, by the authority.

        The node trusts itself: its own health check comes through its own port. Raises AuthenticationError.
        """
        identity, found = self.identity, claim.fingerprint
        if found == identity.fingerprint:
            return identity.node_name
        for name, peer in self.config.peers.items():
            if peer.fingerprint == found:
                return name
        stranger = f"node {identity.node_name!r} does not know {claim.node!r} with fingerprint {found}"
        known = self.config.peers.get(claim.node)
        if claim.node == identity.node_name or (known is not None and known.fingerprint != BY_AUTHORITY):
            raise AuthenticationError(f"{stranger}: another node has that name, with another fingerprint")
        if self.credentials().authority is None:
            raise AuthenticationError(f"{stranger}; `dwcp peer add` adds it")
        objection = self.objection(claim.node, claim)
        if objection:
            raise AuthenticationError(f"{stranger}, and {objection}")
        return claim.node

    def objection(self, name: str, claim: Claim) -> str:
        """Why a peer is not `name` by the word of the authority; empty when it is."""
        authority = self.credentials().authority
        if authority is None:
            return "there is no security.ca_file by which it could be known"
        return authority.objection(claim.certificate, claim.key, name, datetime.datetime.now(datetime.UTC))

    def watch(self, link: Link, *, sends: bool) -> None:
        """Counts a link's bytes; paces it where it carries payload from here."""
        self.meter.add(link)
        if sends:
            self.pacer.add(link)

    def unwatch(self, link: Link) -> None:
        self.meter.remove(link)
        self.pacer.remove(link)


def configured_rate(config: Config, day: int, minute: int) -> int | None:
    """Bits per second at a minute of a day (0 is Monday); None without pacing."""
    transport = config.transport
    if not transport.enable_pacing:
        return None
    periods = [
        Period(parse_days(entry.days), parse_minute(entry.begin), parse_minute(entry.end), entry.rate)
        for entry in transport.pacing_timetable
    ]
    return rate_at(periods, day, minute) or transport.pacing_rate


def _raise_descriptor_limit() -> None:
    """A file in work takes up to three descriptors, and a login shell often allows 1024 softly."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
