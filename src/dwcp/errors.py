"""The one hierarchy of errors.

A message says what failed, on what, and what to do next. Each class carries the exit code that the
command line ends with and the `code` that stands for it in HTTP answers, JSON lines and on the wire,
so that the two ends of a transfer name one failure alike.
"""

from __future__ import annotations

from typing import ClassVar


class DwcpError(Exception):
    """Something failed that retrying will not mend."""

    exit_code: ClassVar[int] = 7
    code: ClassVar[str] = "fatal"


class UsageError(DwcpError):
    """The caller asked for something that cannot be meant: bad arguments, a bad address."""

    exit_code = 2
    code = "usage"


class ConfigError(UsageError):
    """The configuration cannot be used; `problems` holds one printable line for each reason."""

    code = "config"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NotFoundError(DwcpError):
    """A file, export, peer or transfer that was named does not exist."""

    exit_code = 3
    code = "not-found"


class RefusedError(DwcpError):
    """The other end, or the export's rules, will not allow this."""

    code = "refused"


class FencedError(RefusedError):
    """A workload's former owner: another one has been at the receiver since."""

    code = "fenced"


class AuthenticationError(RefusedError):
    """A peer could not prove the identity that the configuration pins."""

    code = "authentication"


class ProtocolError(DwcpError):
    """The remote end broke the protocol: it is at fault, and the connection is closed."""

    code = "protocol"


class VersionError(ProtocolError):
    """The two ends share no protocol version."""

    code = "version"


class IntegrityError(DwcpError):
    """Bytes are not what their hash says, again and again."""

    code = "integrity"


class StorageError(DwcpError):
    """The disk, or the operating system on its behalf, said no: full, read-only, no permission."""

    code = "storage"


class StateError(DwcpError):
    """The state directory is in use, damaged, or of another version."""

    code = "state"


class TemporaryError(DwcpError):
    """Worth another try later."""

    exit_code = 5
    code = "temporary"


class UnreachableError(TemporaryError):
    """No connection to the peer, or it was lost and could not be had again."""

    code = "unreachable"


class TimeoutExpired(TemporaryError):
    """The peer kept silent for longer than the configured time."""

    code = "timeout"


class ExhaustedError(TemporaryError):
    """This process has no descriptor, thread or memory left for it; the other end has nothing to do with that."""

    code = "exhausted"


class CircuitOpenError(TemporaryError):
    """A circuit breaker rejects the call for now; the message says which and until when.

    `seconds`: until it lets one through.
    """

    code = "circuit-open"

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class ConsensusError(TemporaryError):
    """What the nodes agree through did not answer, or said no; transfers go on without it."""

    code = "consensus"


class PartialError(DwcpError):
    """Some files arrived and are verified, some did not; the message begins to list the latter.

    `result`: the `TransferResult` of the transfer, whose `errors` has the first 1000; None on the way through a peer.
    """

    exit_code = 23
    code = "partial"

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class Interrupted(DwcpError):
    """Stopped by the user or by a cancel; what had arrived is kept for the next try."""

    exit_code = 130
    code = "interrupted"


def fault(error: Exception) -> DwcpError:
    """What to end with where something failed that nobody foresaw: this program is to blame, and says so."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return DwcpError(f"a fault of this program ({what}); its log has the traceback, please report it")


def _by_code(cls: type[DwcpError]) -> dict[str, type[DwcpError]]:
    table = {cls.code: cls} if "code" in vars(cls) else {}
    for child in cls.__subclasses__():
        table.update(_by_code(child))
    return table


def from_code(code: str, message: str) -> DwcpError:
    """The error that a peer's `code` names, so that it ends our side as it ended the peer's.

    An unknown code (a newer peer) gives the base class: fatal.
    """
    cls = _by_code(DwcpError).get(code, DwcpError)
    if cls is ConfigError:
        return ConfigError([message])
    return cls(message)
