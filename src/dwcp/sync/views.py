"""How old our view of each node is: up to which moment we have all that it wrote; and up to which moment everybody is
known to have everything that anybody wrote, before which nobody can bring back what was deleted.

Moments are on our own monotonic clock. Nodes tell each other ages, never times, and each age counts from a moment that
was certainly before: the initiator's from when it asked, the responder's from a mark that it gave out itself earlier.
So neither clocks nor delays make a view look younger than it is.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dwcp.sync.entry import ID_SIZE

TICK = 0.1
"""Seconds that an age is told in."""
_NEVER = 0xFFFF
_RECORD = struct.Struct(f">{ID_SIZE}sHH")
MOST_TOLD = 64
"""Nodes in one message: with more of them chance decides, and the others come with the next."""
MOST_KNOWN = 4096
FORGOTTEN = 7 * 86400.0
"""Seconds after which a node that is no peer of ours, and that nobody hears of any more, does not count any more."""


@dataclass(slots=True)
class View:
    """`fresh`: we have all that it wrote before. `low`: it had all that anybody wrote before."""

    fresh: float
    low: float


class Views:
    def __init__(self, node: bytes) -> None:
        self._node = node
        self._views: dict[bytes, View] = {}

    def fresh(self, node: bytes) -> float | None:
        view = self._views.get(node)
        return view.fresh if view is not None else None

    def known(self) -> Collection[bytes]:
        """All that were heard of, ourselves excepted."""
        return self._views.keys()

    def ages(self, now: float) -> Mapping[bytes, float]:
        """Seconds, by node."""
        return {node: max(0.0, now - view.fresh) for node, view in self._views.items()}

    def forget(self, members: Collection[bytes], now: float) -> None:
        """Those that are no members and were not heard of for long."""
        for node in [node for node in self._views if node not in members]:
            if now - self._views[node].fresh > FORGOTTEN:
                del self._views[node]

    def drop(self, node: bytes) -> None:
        self._views.pop(node, None)

    def low(self, members: Collection[bytes]) -> float | None:
        """We have all that anybody wrote before; None where there is a member of whom nothing is known."""
        wanted = {*members, *self._views} - {self._node}
        if not wanted <= self._views.keys():
            return None
        return min((self._views[node].fresh for node in wanted), default=None)

    def stable(self, members: Collection[bytes]) -> float | None:
        """Everybody has all that anybody wrote before."""
        own = self.low(members)
        if own is None:
            return None
        return min([own, *(view.low for view in self._views.values())])

    def tell(self, members: Collection[bytes], now: float, rng: random.Random) -> bytes:
        """What we have now, for another node: `learn` takes it."""
        own = self.low(members)
        told = [_RECORD.pack(self._node, 0, _age(now, own))]
        nodes = list(self._views)
        if len(nodes) >= MOST_TOLD:
            nodes = rng.sample(nodes, MOST_TOLD - 1)
        told += [
            _RECORD.pack(node, _age(now, self._views[node].fresh), _age(now, self._views[node].low)) for node in nodes
        ]
        return b"".join(told)

    def learn(self, told: bytes, at: float) -> None:
        """We have all that the teller had when it told, which was at `at` or later."""
        for node, fresh, low in _RECORD.iter_unpack(told[: len(told) // _RECORD.size * _RECORD.size]):
            if node == self._node:
                continue
            view = self._views.get(node)
            if view is None:
                if len(self._views) >= MOST_KNOWN or fresh == _NEVER:
                    continue
                view = self._views[node] = View(float("-inf"), float("-inf"))
            if fresh != _NEVER:
                view.fresh = max(view.fresh, at - fresh * TICK)
            if low != _NEVER:
                view.low = max(view.low, at - low * TICK)


def _age(now: float, moment: float | None) -> int:
    """In ticks, rounded up; _NEVER for what is too old to tell."""
    if moment is None or moment == float("-inf"):
        return _NEVER
    return min(_NEVER, int((now - moment) / TICK) + 1)
