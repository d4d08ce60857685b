"""One rate for the whole node: every sending socket gets its share of `transport.pacing_rate`."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from dwcp.errors import TemporaryError
from dwcp.links.interface import Link


class Pacer:
    """Shares `rate` (bits per second; None: no limit) evenly between the links that were added."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._links: dict[Link, int | None] = {}

    def add(self, link: Link) -> None:
        with self._lock:
            self._links[link] = None
            self._share()

    def remove(self, link: Link) -> None:
        with self._lock:
            self._links.pop(link, None)
            self._share()

    def set_rate(self, rate: int | None) -> None:
        """At once, for links in use too."""
        with self._lock:
            changed, self._rate = self._rate != rate, rate
            if changed:
                for link in self._links:
                    self._apply(link)

    def limit(self, links: Iterable[Link], rate: float | None) -> None:
        """Gives some of the links equal shares of `rate` (bits per second), or less where the node allows less."""
        with self._lock:
            mine = [link for link in links if link in self._links]
            for link in mine:
                self._links[link] = None if rate is None else int(rate) // len(mine)
                self._apply(link)

    def _share(self) -> None:
        if self._rate is not None:
            for link in self._links:
                self._apply(link)

    def _apply(self, link: Link) -> None:
        try:
            share = None if self._rate is None else self._rate // len(self._links)
            own = self._links[link]
            link.set_pacing(min(share, own) if share is not None and own is not None else share or own)
        except TemporaryError:
            # it broke just now: whoever uses it finds out and removes it
            return
