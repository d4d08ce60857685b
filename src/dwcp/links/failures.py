"""How a link that fails says so: every kind in the same words."""

from __future__ import annotations

from dwcp.errors import TimeoutExpired, UnreachableError


class LinkFailures:
    """For links, which set these attributes. Timeouts in seconds."""

    _description: str
    _read_timeout: float
    _write_timeout: float

    @property
    def description(self) -> str:
        return self._description

    def _lost(self, reason: object) -> UnreachableError:
        return UnreachableError(f"{self._description}: connection lost ({reason})")

    def _cut_off(self) -> UnreachableError:
        return UnreachableError(f"{self._description}: the peer closed the connection in mid-frame")

    def _silent(self) -> TimeoutExpired:
        return TimeoutExpired(
            f"{self._description}: the peer said nothing for {self._read_timeout:g} s (transport.read_timeout)"
        )

    def _stuck(self) -> TimeoutExpired:
        return TimeoutExpired(
            f"{self._description}: the peer took nothing for {self._write_timeout:g} s (transport.write_timeout)"
        )
