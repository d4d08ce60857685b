"""Which strangers may begin a handshake: bounds on what they cost, per address and in all.

    event     when                                             what happens
    arrive    a connection was accepted                        it gets a place, or is refused:
                 all places taken                                `settings.pending`
                 the address has enough of them                  `settings.pending_per_address`
                 the address has failed too often                no failure is left in its bucket
    proved    it has shown who it is, or which session's       its place becomes free
    left      it ended before its first byte                   its place becomes free
    failed    it ended otherwise, however it ended             its place becomes free, the bucket has one failure less

The bucket of an address holds `failures_per_minute` failures and fills up evenly within a minute (a token bucket, as in
ITU-T I.371). A connection that is refused costs neither place nor failure: only somebody who made us work has to wait.
A proved one forgives nothing, or one honest node behind an address would pay for all others there. One that leaves
without a word may have been begun by an honest node that found nothing to send.

The table is bounded by ADDRESSES; the one not seen for longest goes first, never one with a place. So somebody who has
more addresses than that is bounded by the places in all, and by nothing else. IPv6 is counted by /64, which is what one
customer gets (RFC 6177): single addresses cost nothing there.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

ADDRESSES = 8192
"""Twice what `pending` can be set to, so there is always one without a place; some 300 bytes each."""
IPV6_PREFIX = 64
QUIET = 1.0
"""Seconds between two lines about one address in the log."""


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    pending: int = 512
    pending_per_address: int = 384
    failures_per_minute: int = 600


@dataclass(slots=True)
class _Address:
    """`left`: failures in the bucket at time `at`; below zero when many failed at once, by at most the places."""

    left: float
    at: float
    pending: int = 0
    refused: str = ""
    refused_at: float = 0.0
    told_at: float | None = None
    untold: int = 0


class Admission:
    """Times in seconds of a clock that does not go back."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self.settings = settings
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._pending = 0

    @property
    def pending(self) -> int:
        """Handshakes under way."""
        return self._pending

    def arrive(self, address: str, now: float) -> str:
        """Why a connection is refused; empty when it has a place, which `proved` or `failed` must give back."""
        entry = self._entry(address, now)
        reason = self._reason(entry)
        if reason:
            entry.refused, entry.refused_at = reason, now
            return reason
        entry.pending += 1
        self._pending += 1
        return ""

    def refused_since(self, address: str, since: float, now: float) -> str:
        """Why the latest connection that was refused was, if that is not before `since`; else empty."""
        entry = self._entry(address, now)
        return entry.refused if entry.refused_at >= since else ""

    def _reason(self, entry: _Address) -> str:
        settings = self.settings
        if self._pending >= settings.pending:
            return f"{settings.pending} handshakes are under way (security.max_pending_handshakes)"
        if entry.pending >= settings.pending_per_address:
            return (
                f"{settings.pending_per_address} handshakes from this address are under way "
                f"(security.max_pending_per_address)"
            )
        if entry.left < 1:
            return (
                f"more than {settings.failures_per_minute} handshakes a minute from this address have failed "
                f"(security.failed_handshakes_per_minute)"
            )
        return ""

    def proved(self, address: str, now: float) -> None:
        self._leave(address, now)

    def left(self, address: str, now: float) -> None:
        self._leave(address, now)

    def failed(self, address: str, now: float) -> None:
        self._leave(address, now).left -= 1

    def tell(self, address: str, now: float) -> int | None:
        """Whether a line about the address may be logged now: how many were kept back since the last, None for no."""
        entry = self._entry(address, now)
        if entry.told_at is not None and now - entry.told_at < QUIET:
            entry.untold += 1
            return None
        untold, entry.untold, entry.told_at = entry.untold, 0, now
        return untold

    def _leave(self, address: str, now: float) -> _Address:
        entry = self._entry(address, now)
        entry.pending -= 1
        self._pending -= 1
        return entry

    def _entry(self, address: str, now: float) -> _Address:
        key, limit = network(address), self.settings.failures_per_minute
        entry = self._addresses.get(key)
        if entry is None:
            if len(self._addresses) >= ADDRESSES:
                del self._addresses[next(known for known, old in self._addresses.items() if not old.pending)]
            entry = self._addresses[key] = _Address(left=limit, at=now)
        self._addresses.move_to_end(key)
        entry.left = min(limit, entry.left + (now - entry.at) * limit / 60)
        entry.at = now
        return entry


def network(address: str) -> str:
    """What an address is counted as: itself, or its /64; IPv4 in IPv6 clothes counts as IPv4."""
    try:
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), IPV6_PREFIX), strict=False))
