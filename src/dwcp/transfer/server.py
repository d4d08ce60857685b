"""The listening side: accepts connections, lets in who can prove an identity, and serves their requests.

A thread a connection. A control connection's thread serves its session; a data connection's thread carries blocks for
the transfer of the session that it joined. Until the handshake is through, a connection costs one thread, one head of
a frame and a place among `security.max_pending_handshakes`, for at most `security.handshake_timeout`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from dwcp.config import Config
from dwcp.errors import (
    AuthenticationError,
    DwcpError,
    Interrupted,
    ProtocolError,
    RefusedError,
    TemporaryError,
    UnreachableError,
)
from dwcp.links import sockopts
from dwcp.links.endpoints import listen, take_over
from dwcp.links.sockopts import Effective
from dwcp.store.identity import Identity
from dwcp.supervise.admission import Admission, AdmissionSettings
from dwcp.transfer.board import Board
from dwcp.transfer.channel import Channel
from dwcp.transfer.counters import TransportCounters
from dwcp.transfer.credentials import Credentials
from dwcp.transfer.node import Node
from dwcp.transfer.probe import answer_probe, look
from dwcp.transfer.rdma import INSTEAD, REQUIRED
from dwcp.transfer.served import ServedSession
from dwcp.transfer.session import answer_stream, check_certificate, part, respond
from dwcp.wire import messages as m
from dwcp.wire.frames import MAX_HEAD, MAX_HEAD_BEFORE_WELCOME, NO_BODY
from dwcp.wire.handshake import joins

ACCEPT_PAUSE = 0.05
"""Seconds before the next try, where accepting failed for want of descriptors."""
STOPS = "the node stops, or starts anew; the transfer goes on where it was once it is back"
"""Worth another try: whoever dialled makes one for as long as its read timeout."""
UNKNOWN_PEER = "this node does not know your fingerprint (`dwcp id` shows it); add it to its peers"
UNKNOWN_SESSION = "a data connection was refused: its session is over, or is not of this node"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Pending:
    """A connection that has not proved itself, and when that has to be over (monotonic seconds)."""

    address: str
    deadline: float


class TransportServer:
    """Component-like, but blocking: whoever runs an event loop calls it in threads."""

    def __init__(self, config: Config, identity: Identity, board: Board) -> None:
        self.node = Node(config, identity, board)
        self._listener: socket.socket | None = None
        self._address = ("", 0)
        self._lock = threading.Lock()
        self._sessions: dict[bytes, ServedSession] = {}
        security = config.security
        self._admission = Admission(
            AdmissionSettings(
                security.max_pending_handshakes,
                security.max_pending_per_address,
                security.failed_handshakes_per_minute,
            )
        )
        self._pending: dict[socket.socket, _Pending] = {}
        """By guard: a second descriptor of the connection, because TLS takes the accepted one over."""
        self._threads: set[threading.Thread] = set()
        self._keepers: list[threading.Thread] = []
        """Those that live as long as the listener."""
        self._starved: tuple[float, str] = (0.0, "")
        """When a connection could last not be taken for want of descriptors, and the words for it."""
        self._stopping = threading.Event()

    @property
    def listens(self) -> bool:
        return self._listener is not None

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) as bound. Raises DwcpError before `start`."""
        if self._listener is None:
            raise DwcpError("the transport does not listen yet")
        return self._address

    def start(self) -> None:
        """Returns when connections are accepted. Raises UnreachableError when the address cannot be had, or RDMA with
        transport.rdma_required."""
        self.check_rdma()
        self._stopping.clear()
        listener = listen(self.node.config.transport.listen, self.node.link_settings().options)
        host, port = listener.getsockname()[:2]
        self._listener, self._address = listener, (str(host), int(port))
        self._keepers = [
            threading.Thread(target=target, args=(listener,), name=name, daemon=True)
            for target, name in ((self._accept, "dwcp-accept"), (self._reap, "dwcp-reap"))
        ]
        for thread in self._keepers:
            thread.start()
        log.info("transport listens", address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def stop(self, grace_seconds: float) -> None:
        """Accepts no more, gives running transfers `grace_seconds` to end, then interrupts them: they resume later."""
        self._stopping.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                # wakes the accepting thread; fails only where it never listened
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            # nobody looks after their deadlines any more
            _shut_down(self._pending)
        deadline = time.monotonic() + grace_seconds
        for session in self._all_sessions():
            if session.busy:
                session.ended.wait(max(0.0, deadline - time.monotonic()))
        for session in self._all_sessions():
            session.interrupt(TemporaryError(STOPS))
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=max(0.1, deadline + 2 - time.monotonic()))
        self.node.fences.close()

    def apply(self, config: Config) -> None:
        """Uses what can change live from now on."""
        self.node.apply(config)

    def sockets(self) -> Effective:
        """What a socket with this configuration gets from the kernel, the share of the pacing rate included."""
        config = self.node.config
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sample:
            effective = sockopts.apply(sample, self.node.link_settings().options)
            sockopts.set_pacing(sample, self.node.rate_now())
            settings = {**effective.settings, "pacing_rate": f"{sockopts.pacing(sample)}, shared by all streams"}
        timeouts = {
            name: f"{getattr(config.transport, name):g} s"
            for name in ("connect_timeout", "read_timeout", "write_timeout")
        }
        settings["rdma"], warnings = self._rdma()
        return Effective({**settings, **timeouts}, [*effective.warnings, *warnings])

    def _rdma(self) -> tuple[str, list[str]]:
        rdma = self.node.rdma
        if not rdma.enabled:
            return "off", []
        problem = rdma.problem()
        if problem is not None:
            return "not used", [f"enable_rdma: {problem}; {REQUIRED if rdma.required else INSTEAD}"]
        failing = rdma.failing()
        return "in use", [
            f"enable_rdma: RDMA with {peer} failed ({reason}); {INSTEAD}" for peer, reason in failing.items()
        ]

    def counters(self) -> TransportCounters:
        sent, received = self.node.meter.read()
        counts = self.node.tally.read()
        sessions = self._all_sessions()
        return TransportCounters(
            active_streams=sum(session.active_streams for session in sessions),
            bytes_sent=sent,
            bytes_received=received,
            latency_seconds={s.peer: rtt for s in sessions if (rtt := s.round_trip_seconds()) is not None},
            frames_corrupt=counts.get("frames_corrupt", 0),
            sessions=len(sessions),
            blocks_resent=counts.get("blocks_resent", 0),
            refused=counts.get("refused", 0),
            files_received=counts.get("files_received", 0),
            files_sent=counts.get("files_sent", 0),
            rdma_streams=sum(session.rdma_streams for session in sessions),
            rdma_failures=counts.get("rdma_failures", 0),
        )

    def self_probe(self) -> float:
        """`probe.look` at the node's own listener."""
        host, port = self._reachable()
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return look(self.node, target, self.node.identity.fingerprint, self.node.config.health.timeout)

    def check_rdma(self) -> str | None:
        """Why blocks go over TCP though RDMA is enabled, None where they don't. Raises UnreachableError where they may
        not."""
        rdma = self.node.rdma
        problem = rdma.problem() if rdma.enabled else None
        if problem is not None:
            if rdma.required:
                raise UnreachableError(f"{problem}, {REQUIRED}")
            return f"{problem}; {INSTEAD}"
        for peer, reason in rdma.failing().items():
            return f"RDMA with {peer} failed ({reason}); {INSTEAD}"
        return None

    def dead_threads(self) -> list[str]:
        """Of those that listen; each should live as long as it does."""
        return [thread.name for thread in self._keepers if not thread.is_alive()]

    def starved_since(self, since: float) -> str:
        """What a connection could not be taken for; empty when all could be since then (monotonic seconds)."""
        at, reason = self._starved
        return reason if at >= since else ""

    def kept_out_since(self, since: float) -> str:
        """Why this machine's own connections to it were refused as those of strangers are; empty when none was since
        then (monotonic seconds)."""
        host, _ = self._reachable()
        with self._lock:
            return self._admission.refused_since(host, since, time.monotonic())

    def _reachable(self) -> tuple[str, int]:
        """(host, port) for a connection from here, whose own address is the same host then."""
        host, port = self.address
        return {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(host, host), port  # noqa: S104

    # -- accepting -----------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        # one that hung while the transport was started anew finds another listener in its place
        while self._listener is listener:
            try:
                sock, address = listener.accept()
            except OSError as error:
                if self._listener is not listener:
                    return
                # out of descriptors, most likely: those who wait stay in the backlog
                self._starved = (time.monotonic(), str(error))
                log.warning("cannot accept a connection", reason=str(error))
                self._stopping.wait(ACCEPT_PAUSE)
                continue
            caller = str(address[0])
            try:
                self._begin(sock, caller)
            except RefusedError as error:
                self._refused(caller, error)
                sock.close()
            except (OSError, RuntimeError) as error:
                self._starved = (time.monotonic(), str(error))
                self._refused(caller, TemporaryError(f"no descriptor or thread to serve it: {error}"))
                sock.close()
                self._stopping.wait(ACCEPT_PAUSE)

    def _begin(self, sock: socket.socket, address: str) -> None:
        """Serves a connection in its own thread. Raises RefusedError where it may have none, OSError or RuntimeError
        where there is nothing left for it."""
        guard = sock.dup()
        try:
            self._enter(guard, address)
            threading.Thread(target=self._serve, args=(sock, guard, address), name="dwcp-serve", daemon=True).start()
        except (RefusedError, RuntimeError):
            # what is our own want is not its failure
            self._settle(guard, self._admission.proved)
            raise

    def _enter(self, guard: socket.socket, address: str) -> None:
        """Takes a place for the handshake. Raises RefusedError."""
        now = time.monotonic()
        with self._lock:
            # asked under the lock, so that `stop` finds whoever came in before
            reason = "the node is stopping" if self._stopping.is_set() else self._admission.arrive(address, now)
            if reason:
                raise RefusedError(reason)
            self._pending[guard] = _Pending(address, now + self.node.config.security.handshake_timeout)

    def _settle(self, guard: socket.socket, event: Callable[[str, float], None]) -> None:
        """The handshake is over and its place is free; `event` of `Admission` says how. May be called again, the first
        word counts."""
        with self._lock:
            pending = self._pending.pop(guard, None)
            guard.close()
            if pending is not None:
                event(pending.address, time.monotonic())

    def _reap(self, listener: socket.socket) -> None:
        """Ends handshakes that take too long, however lively they drip."""
        while not self._stopping.wait(min(1.0, self.node.config.security.handshake_timeout / 4)):
            if self._listener is not listener:
                return
            now = time.monotonic()
            with self._lock:
                _shut_down(guard for guard, pending in self._pending.items() if pending.deadline < now)

    def _serve(self, sock: socket.socket, guard: socket.socket, address: str) -> None:
        channel: Channel | None = None
        message: m.Message | None = None
        with self._lock:
            self._threads.add(threading.current_thread())
        try:
            credentials = self.node.credentials()
            settings = self.node.link_settings(credentials)
            link = take_over(sock, settings, self.node.config.security.handshake_timeout)
            channel = Channel(link, NO_BODY, MAX_HEAD_BEFORE_WELCOME)
            message, head, _ = channel.receive_head()
            if isinstance(message, m.Hello):
                self._serve_session(credentials, channel, message, head, guard)
            elif isinstance(message, m.Join):
                self._serve_stream(channel, message, guard)
            else:
                raise ProtocolError(f"a connection begins with a {type(message).__name__}")
        except EOFError:
            log.debug("a connection ended before it began", address=address)
            if channel is None:
                self._settle(guard, self._admission.left)
        except DwcpError as error:
            self._refused(address, error)
            if channel is not None:
                self._explain(channel, error, joins_session=isinstance(message, m.Join))
        finally:
            self._settle(guard, self._admission.failed)
            with self._lock:
                self._threads.discard(threading.current_thread())
            if channel is not None:
                channel.link.close()
            else:
                sock.close()

    def _admitted(self, guard: socket.socket, channel: Channel) -> None:
        self._settle(guard, self._admission.proved)
        channel.max_head = MAX_HEAD
        channel.link.set_read_timeout(self.node.config.transport.read_timeout)

    def _refused(self, address: str, error: DwcpError) -> None:
        self.node.tally.add("refused")
        with self._lock:
            untold = self._admission.tell(address, time.monotonic())
        if untold is not None:
            more = {"not_logged_before": untold} if untold else {}
            log.warning("a connection was refused", address=address, code=error.code, reason=str(error), **more)

    def _explain(self, channel: Channel, error: DwcpError, *, joins_session: bool) -> None:
        """Tells the other end why, in words that give a stranger nothing to work with."""
        text = str(error)
        if isinstance(error, AuthenticationError):
            text = UNKNOWN_SESSION if joins_session else UNKNOWN_PEER
        with contextlib.suppress(DwcpError):
            # it may be gone, or never have spoken the protocol
            channel.send(m.Error(code=error.code, message=text))
            if isinstance(error, AuthenticationError):
                # it may have asked for something already
                part(channel)

    def _serve_session(
        self, credentials: Credentials, channel: Channel, hello: m.Hello, head: bytes, guard: socket.socket
    ) -> None:
        welcome = m.Welcome(session=os.urandom(16), join_key=os.urandom(32))
        peer = respond(self.node, credentials, channel, hello, head, welcome)
        self._admitted(guard, channel)
        session = ServedSession(self.node, channel, peer, self._supersede)
        with self._lock:
            self._sessions[welcome.session] = session
        session.join_key, session.peer_key = welcome.join_key, hello.key
        session.features = frozenset(hello.features)
        self.node.watch(channel.link, sends=False)
        try:
            session.serve()
        finally:
            with self._lock:
                del self._sessions[welcome.session]
            self.node.unwatch(channel.link)

    def _serve_stream(self, channel: Channel, join: m.Join, guard: socket.socket) -> None:
        with self._lock:
            session = self._sessions.get(join.session)
        if session is None or not joins(join, session.join_key) or not session.claim(join.stream, probe=join.probe):
            raise AuthenticationError("a data connection does not belong to any session here")
        try:
            check_certificate(channel, session.peer_key)
            self._admitted(guard, channel)
            if join.probe:
                answer_probe(channel)
                return
            over = answer_stream(self.node, channel, join.rdma)
            try:
                session.run_stream(join.stream, over)
            finally:
                if over is not channel:
                    over.link.close()
        finally:
            session.release()

    def _supersede(self, new: ServedSession) -> None:
        """A peer that begins a transfer anew has given up the one before: that one makes room."""
        for old in self._all_sessions():
            if old is not new and old.key == new.key:
                old.interrupt(Interrupted("the same transfer was begun anew"))
                old.ended.wait(self.node.config.transport.read_timeout)

    def _all_sessions(self) -> list[ServedSession]:
        with self._lock:
            return list(self._sessions.values())


def _shut_down(sockets: Iterable[socket.socket]) -> None:
    """Whoever reads or writes there finds it ended."""
    for sock in sockets:
        with contextlib.suppress(OSError):
            # the connection may have ended by itself
            sock.shutdown(socket.SHUT_RDWR)
