"""One rate for the whole node: every sending socket gets its share, in this process and in those beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import structlog

from dwcp.errors import TemporaryError
from dwcp.links.interface import Link
from dwcp.store.shared_rate import SharedRate

LOOK = 1.0
"""Seconds between looks at what other processes send and what an operator has set, while something is sent here."""

log = structlog.get_logger()


class Pacer:
    """Shares a rate evenly between the links that were added and those of other processes of the node."""

    def __init__(
        self, rate: Callable[[], int | None], shared: SharedRate, ceiling: Callable[[], int | None] = lambda: None
    ) -> None:
        """`rate`: bits per second that the node may send as of now, None for no limit; `ceiling`: that all links of
        this one may send together."""
        self._rate_now = rate
        self._ceiling_now = ceiling
        self._ceiling = ceiling()
        self._shared = shared
        self._lock = threading.Lock()
        self._links: dict[Link, int | None] = {}
        self._rate = rate()
        self._others = 0
        self._looking = False
        self._telling = True

    @property
    def rate(self) -> int | None:
        """Bits per second that all links share, as of the newest look; None for no limit."""
        return self._rate

    def add(self, link: Link) -> None:
        with self._lock:
            self._links[link] = None
            if not self._looking:
                self._looking = True
                self._look()
                threading.Thread(target=self._keep_looking, name="dwcp-pacing", daemon=True).start()
            self._share()

    def remove(self, link: Link) -> None:
        with self._lock:
            self._links.pop(link, None)
            self._share()

    def refresh(self) -> None:
        """Takes over at once what has changed, for links in use too."""
        with self._lock:
            before = (self._rate, self._ceiling)
            self._look()
            if (self._rate, self._ceiling, *before) != (None, None, None, None):
                for link in self._links:
                    self._apply(link)

    def limit(self, links: Iterable[Link], rate: float | None) -> None:
        """Gives some of the links equal shares of `rate` (bits per second), or less where the node allows less."""
        with self._lock:
            mine = [link for link in links if link in self._links]
            for link in mine:
                self._links[link] = None if rate is None else int(rate) // len(mine)
                self._apply(link)

    def _keep_looking(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK):
            self.refresh()
            with self._lock:
                if not self._links:
                    self._looking = False
                    self._shared.leave()
                    return

    def _look(self) -> None:
        self._rate = self._rate_now()
        self._ceiling = self._ceiling_now()
        try:
            self._shared.announce(len(self._links))
            self._others = self._shared.others()
            self._telling = True
        except OSError as error:
            self._others = 0
            if self._telling:
                self._telling = False
                log.warning("the sending rate is not shared with other processes of this node", reason=str(error))

    def _share(self) -> None:
        if self._rate is not None or self._ceiling is not None:
            for link in self._links:
                self._apply(link)

    def _apply(self, link: Link) -> None:
        try:
            share = None if self._rate is None else max(1, self._rate // (len(self._links) + self._others))
            most = None if self._ceiling is None else max(1, self._ceiling // len(self._links))
            limits = [limit for limit in (share, most, self._links[link]) if limit is not None]
            link.set_pacing(min(limits) if limits else None)
        except TemporaryError:
            # it broke just now: whoever uses it finds out and removes it
            return
