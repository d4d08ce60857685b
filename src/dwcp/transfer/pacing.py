"""One rate for the whole node: every sending socket gets its share of `transport.pacing_rate`."""

from __future__ import annotations

import threading

from dwcp.errors import TemporaryError
from dwcp.links.interface import Link


class Pacer:
    """Shares `rate` (bits per second; None: no limit) evenly between the links that were added."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._links: set[Link] = set()

    def add(self, link: Link) -> None:
        with self._lock:
            self._links.add(link)
            self._share()

    def remove(self, link: Link) -> None:
        with self._lock:
            self._links.discard(link)
            self._share()

    def set_rate(self, rate: int | None) -> None:
        """At once, for links in use too."""
        with self._lock:
            changed, self._rate = self._rate != rate, rate
            if changed:
                for link in self._links:
                    self._apply(link)

    def _share(self) -> None:
        if self._rate is not None:
            for link in self._links:
                self._apply(link)

    def _apply(self, link: Link) -> None:
        try:
            link.set_pacing(None if self._rate is None else self._rate // len(self._links))
        except TemporaryError:
            # it broke just now: whoever uses it finds out and removes it
            return
