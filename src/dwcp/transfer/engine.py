"""What both roles of a transfer share: how it ends, and where failures of its threads and messages go."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

import structlog

from dwcp.errors import DwcpError, TimeoutExpired, UnreachableError, fault
from dwcp.transfer.channel import Channel
from dwcp.transfer.progress import Progress
from dwcp.wire import messages as m

log = structlog.get_logger()


class Engine(ABC):
    """One end of a transfer on one session. `finished` is set when it ends, `error` says how if not well."""

    def __init__(self, control: Channel) -> None:
        self._control = control
        self._condition = threading.Condition()
        """Guards what a role counts; notified when the transfer ends."""
        self.progress = Progress()
        self.finished = threading.Event()
        self.error: DwcpError | None = None
        self.verified = False

    @property
    @abstractmethod
    def paused(self) -> bool:
        """The sender begins no further blocks; the session lives."""

    @abstractmethod
    def pause(self, paused: bool) -> None:
        """Pauses the transfer, or lets it go on. Raises RefusedError where the peer cannot be asked for that,
        TemporaryError where it cannot be told."""

    @abstractmethod
    def _handle(self, message: m.Message, body: bytes) -> None:
        """One message of the control connection. Raises ProtocolError for what has no place here."""

    def _ended(self) -> None:  # noqa: B027 - a role may have nothing to give back
        """The transfer has ended just now, well or not: gives back what threads wait for."""

    def _finish(self) -> None:
        """Everything that can be done is done."""
        with self._condition:
            self.finished.set()
            self._condition.notify_all()
        self._ended()

    def abort(self, error: DwcpError) -> None:
        """Ends the transfer with `error`, unless it has ended. What has been written stays for the next try."""
        with self._condition:
            if self.finished.is_set():
                return
            self.error = self.error or error
            self.finished.set()
            self._condition.notify_all()
        self._ended()

    def tell_and_abort(self, error: DwcpError) -> None:
        """As `abort`; the peer learns why, unless it is the peer that cannot be reached."""
        with self._condition:
            # before the peer is told: its own end of the session may come back faster than we get to `abort`
            self.error = self.error or (error if not self.finished.is_set() else None)
        if not self.finished.is_set() and not isinstance(error, UnreachableError | TimeoutExpired):
            try:
                self._control.send(m.Error(code=error.code, message=str(error)))
            except DwcpError as lost:
                log.info("the peer could not be told of the failure", reason=str(lost))
        self.abort(error)

    def guard(self, step: Callable[[], None]) -> None:
        """Runs a step of a helper thread, which would end alone and let the transfer wait for ever: what fails there
        ends the transfer."""
        if self.finished.is_set():
            return
        try:
            step()
        except Exception as error:
            self.tell_and_abort(self._as_dwcp_error(error))

    def _as_dwcp_error(self, error: Exception) -> DwcpError:
        if isinstance(error, DwcpError):
            return error
        log.exception("a step of a transfer failed")
        return fault(error)

    def handle(self, message: m.Message, body: bytes) -> None:
        """One message of the control connection. Raises ProtocolError for what has no place here."""
        try:
            self._handle(message, body)
        except DwcpError:
            raise
        except Exception as error:
            log.exception("a message cannot be handled through a fault of this program")
            raise fault(error) from error
