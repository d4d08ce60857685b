"""Requests to a peer, on one session that stands by for them until a transfer takes it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from dwcp.errors import DwcpError, ProtocolError, RefusedError, TemporaryError, UnreachableError, from_code
from dwcp.transfer.session import Dialled, Standby
from dwcp.wire import messages as m
from dwcp.wire.frames import NO_BODY

MAX_ANSWERS = 1_000_000 // m.MAX_ENTRIES
"""Frames in answer to one request: a million names of one directory, some 300 MB of memory here, which a directory of
that size is worth."""

M = TypeVar("M", bound=m.Message)


class Requests:
    """Methods block and may be called from any thread. A session that fails is given up, and the next request begins
    another one."""

    def __init__(self, peer: str, begin: Callable[[], Dialled], session: Dialled, read_timeout: float) -> None:
        self._peer = peer
        self._begin = begin
        self._read_timeout = read_timeout
        self._lock = threading.Lock()
        self._standby: Standby | None = Standby(session, read_timeout)

    def ask(self, request: m.Message, kind: type[M], feature: str = "", *, again: bool = False) -> list[M]:
        """The answers, of which each but the last has `more`. `feature`: what the peer must be able to do. `again`: the
        request may be made twice, where a session that stood by has ended meanwhile.

        Raises what the peer answers, UnreachableError, TimeoutExpired, ProtocolError, or RefusedError for a peer that
        cannot do it.
        """
        (answers,) = self._converse(lambda: [request], kind, feature, again=again)
        return [message for message, _ in answers]

    def ask_ahead(
        self, make: Callable[[], Iterable[m.Message]], kind: type[M], feature: str, *, ahead: int, max_body: int
    ) -> list[tuple[M, bytes]]:
        """The one answer to each request, with a body of up to `max_body` bytes; up to `ahead` requests are on their
        way at a time. They may be made twice, as `make` gives them. Raises as `ask`."""
        found = self._converse(make, kind, feature, ahead=ahead, max_body=max_body, again=True)
        return [answers[0] for answers in found]

    def ping(self) -> float:
        """Seconds of one round trip on the session."""
        with self._lock:
            session, _ = self._session()
            began = time.monotonic()
            _, refusal = self._talk(session, [m.Ping(token=1)], m.Pong, 1, NO_BODY)
            seconds = time.monotonic() - began
        if refusal is not None:
            raise self._refused(refusal)
        return seconds

    def take(self) -> Dialled | None:
        """The session that stands by, which is the caller's from now on; None while a request is under way on it."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._take()
        finally:
            self._lock.release()

    def end(self) -> None:
        """Ends the session, once no request is under way."""
        with self._lock:
            session = self._take()
        if session is None:
            return
        try:
            session.channel.send(m.Bye())
        except DwcpError:
            # it has gone already: there is nobody to say goodbye to
            return
        finally:
            _close(session)

    def _take(self) -> Dialled | None:
        standby, self._standby = self._standby, None
        return standby.take() if standby is not None else None

    def hang_up(self) -> None:
        """Ends a request that is under way."""
        standby = self._standby
        if standby is not None:
            standby.session.channel.link.shutdown()

    def _session(self) -> tuple[Dialled, bool]:
        """(the one that is there for requests, whether it is a new one). Call with the lock held."""
        fresh = self._standby is None
        standby = self._standby or Standby(self._begin(), self._read_timeout)
        self._standby = standby
        return standby.session, fresh

    def _converse(
        self,
        make: Callable[[], Iterable[m.Message]],
        kind: type[M],
        feature: str,
        *,
        again: bool,
        ahead: int = 1,
        max_body: int = NO_BODY,
    ) -> list[list[tuple[M, bytes]]]:
        with self._lock:
            while True:
                session, fresh = self._session()
                if feature and feature not in session.features:
                    raise RefusedError(f"{self._peer} cannot do this ({feature}); bring it to this node's version")
                try:
                    answers, refusal = self._talk(session, make(), kind, ahead, max_body)
                except TemporaryError:
                    if fresh or not again:
                        raise
                    continue
                if refusal is not None:
                    raise self._refused(refusal)
                return answers

    def _talk(
        self, session: Dialled, requests: Iterable[m.Message], kind: type[M], ahead: int, max_body: int
    ) -> tuple[list[list[tuple[M, bytes]]], m.Error | None]:
        """(what was answered to each request; the peer's no to one, after which no further ones are sent). Gives the
        session up where that fails: whatever came next on it would belong to nobody."""
        answers: list[list[tuple[M, bytes]]] = []
        refusal: m.Error | None = None
        waiting = iter(requests)
        asked = 0
        channel = session.channel
        channel.max_body = max_body
        try:
            while True:
                for request in itertools.islice(waiting, 0 if refusal else ahead - asked):
                    channel.send(request)
                    asked += 1
                if not asked:
                    break
                answer = self._answers(session, kind)
                asked -= 1
                if isinstance(answer, m.Error):
                    refusal = refusal or answer
                else:
                    answers.append(answer)
        except DwcpError:
            self._give_up()
            raise
        channel.max_body = NO_BODY
        return answers, refusal

    def _answers(self, session: Dialled, kind: type[M]) -> list[tuple[M, bytes]] | m.Error:
        found: list[tuple[M, bytes]] = []
        for _ in itertools.repeat(None, MAX_ANSWERS + 1):
            message, body = self._next(session, kind)
            if isinstance(message, m.Error):
                return message
            found.append((message, body))
            if not getattr(message, "more", False):
                return found
        raise ProtocolError(f"{self._peer} answers without end")

    def _next(self, session: Dialled, kind: type[M]) -> tuple[M | m.Error, bytes]:
        while True:
            try:
                message, body = session.channel.receive()
            except EOFError as error:
                raise UnreachableError(f"{self._peer} closed the session") from error
            if isinstance(message, (kind, m.Error)):
                return message, body
            if isinstance(message, m.Welcome):
                session.admit(message)
            elif not isinstance(message, m.Ping):
                raise ProtocolError(f"{self._peer} answers with a {type(message).__name__}")

    def _refused(self, answer: m.Error) -> DwcpError:
        return from_code(answer.code, f"{self._peer}: {answer.message}")

    def _give_up(self) -> None:
        session = self._take()
        if session is not None:
            _close(session)


def _close(session: Dialled) -> None:
    session.end()
    session.channel.link.close()
