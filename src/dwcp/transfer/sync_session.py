"""Exchanges of what nodes know, as the node that begins them: rounds over a session that may be kept for the next."""

from __future__ import annotations

from dwcp.errors import DwcpError, ProtocolError, TemporaryError, UnreachableError, from_code
from dwcp.transfer.node import Node
from dwcp.transfer.session import Dialled, dial_session
from dwcp.transfer.shared_state import SharedState
from dwcp.wire import messages as m
from dwcp.wire.handshake import SYNC


class SyncSession:
    """With one peer; made when it is first needed. One thread at a time."""

    def __init__(self, node: Node, shared: SharedState, peer: str) -> None:
        self._node = node
        self._shared = shared
        self.peer = peer
        self._session: Dialled | None = None
        self._mark = 0
        """Of the peer, from the newest round in the session."""

    def exchange(self, patience: float) -> bool:
        """One round; how it went is told to the shared state. False where the peer takes no part. `patience`: seconds
        for each wait.

        Raises a DwcpError; a session that had ended since the round before is made anew first.
        """
        kept = self._session is not None
        try:
            return self._round(patience)
        except TemporaryError:
            self.close()
            if not kept:
                raise
            return self._round(patience)
        except DwcpError:
            self.close()
            raise

    def _round(self, patience: float) -> bool:
        session = self._open(patience)
        if SYNC not in session.features:
            self._shared.takes_no_part(self.peer, session.peer_key)
            self.close()
            return False
        link = session.channel.link
        before = link.wire_bytes()
        round_, first = self._shared.begin(self._mark)
        request: bytes | None = first
        while request is not None:
            request = self._shared.receive(round_, self._ask(session, request))
        self._mark = round_.mark
        sent, received = (now - then for now, then in zip(link.wire_bytes(), before, strict=True))
        self._shared.ended(self.peer, round_, session.peer_key, sent, received)
        return True

    def _open(self, patience: float) -> Dialled:
        if self._session is None:
            address, expected = self._node.address_of(self.peer)
            self._session = dial_session(self._node, address, expected, patience)
            self._mark = 0
            self._node.watch(self._session.channel.link, sends=False)
        return self._session

    def _ask(self, session: Dialled, content: bytes) -> bytes:
        session.channel.send(m.Sync(content=content))
        try:
            answer, _ = session.channel.receive()
            while isinstance(answer, m.Ping):
                # its own signs of life, since the round before
                answer, _ = session.channel.receive()
        except EOFError as error:
            raise UnreachableError(f"{self.peer} closed the session instead of answering") from error
        if isinstance(answer, m.Error):
            raise from_code(answer.code, f"{self.peer}: {answer.message}")
        if not isinstance(answer, m.Synced):
            raise ProtocolError(f"{self.peer} answers a SYNC with a {type(answer).__name__}")
        return answer.content

    def hang_up(self) -> None:
        """Ends what is under way, from any thread."""
        session = self._session
        if session is not None:
            session.channel.link.shutdown()

    def close(self) -> None:
        """In good order, where the peer is there."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.channel.send(m.Bye())
        except DwcpError:
            # it has gone already: there is nobody to say goodbye to
            return
        finally:
            session.end()
            self._node.unwatch(session.channel.link)
            session.channel.link.close()
