"""Dictionaries between two ends. The sender sends one that it has trained, once, and uses it when the receiver has said
that it holds it; also in later sessions, until the receiver asks for such a pack again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

import structlog
from typing_extensions import Buffer

from dwcp.errors import IntegrityError, ProtocolError
from dwcp.hde import dictionary as hde
from dwcp.hde.dictionary import MAX_CONTENT, Dictionary, Samples, Use
from dwcp.store.dictionaries import ENOUGH, Dictionaries
from dwcp.transfer.channel import Channel
from dwcp.wire import messages as m

MOST_ENOUGH = 1 << 12
"""Packs after which a tree whose files have nothing in common is looked at again."""
MOST_TAKEN = 4
"""Dictionaries that one session may use."""

log = structlog.get_logger()


class Trained:
    """The sender's end, of one tree. Any thread may use it."""

    def __init__(self, store: Dictionaries, tree: bytes, *, level: str, interval: float) -> None:
        """`interval`: seconds after which a dictionary is trained anew."""
        self._store = store
        self._tree = tree
        self._level = level
        self._interval = interval
        self._learned = store.learned(tree)
        self._samples = Samples(self._learned.samples, self._learned.offered)
        self._chance = random.Random()  # noqa: S311  (which samples are kept is no secret)
        self._lock = threading.Lock()
        self._changed = False
        self._mine = _loaded(self._learned.dictionary)
        self.usable = self._mine if self._learned.held else None
        """What the peer holds too."""

    def send(self, control: Channel) -> None:
        """Sends the dictionary to a receiver that does not hold it."""
        if self._mine is not None and self.usable is None:
            control.send(m.Dictionary(id=self._mine.id, size=len(self._mine.content)), hde.packed(self._mine))

    def held(self, dictionary_id: bytes) -> None:
        """The receiver holds it now. Raises ProtocolError."""
        if self._mine is None or dictionary_id != self._mine.id:
            raise ProtocolError("the peer holds a dictionary, it says, that was not sent")
        with self._lock:
            self._changed = self._learned.held = True
        self.usable = self._mine

    def doubt(self) -> None:
        """A pack is asked for again: it may be that the receiver has lost the dictionary."""
        with self._lock:
            if self.usable is not None:
                self.usable, self._learned.held, self._changed = None, False, True

    def note(self, files: Sequence[Buffer], size: int) -> None:
        """Of one pack: its files' contents, `size` bytes together."""
        with self._lock:
            if size <= MAX_CONTENT:
                self._learned.packs += 1
                self._learned.files += len(files)
            elif self._samples.full:
                return
            self._changed = True
            for content in files:
                self._samples.offer(content, self._chance)

    def close(self) -> None:
        """Judges, where that is due, what to use from the next transfer on."""
        learned, now = self._learned, time.time()
        if not self._changed:
            return
        learned.judged_at = min(learned.judged_at or now, now)
        old = now - learned.judged_at >= self._interval
        if learned.packs and (old or (self._mine is None and learned.packs >= learned.enough)):
            self._judge(now)
        learned.samples, learned.offered = self._samples.kept, self._samples.offered
        self._store.learn(self._tree, learned)

    def _judge(self, now: float) -> None:
        learned = self._learned
        chosen = hde.judge(self._mine, self._samples.kept, Use(learned.packs, learned.files), self._level)
        learned.judged_at, learned.packs, learned.files = now, 0, 0
        learned.enough = min(MOST_ENOUGH, 2 * learned.enough) if chosen is None else ENOUGH
        if chosen != self._mine:
            log.info("small files go with a dictionary" if chosen else "small files go without a dictionary")
            learned.dictionary, learned.held = chosen.content if chosen is not None else b"", False


def _loaded(content: bytes) -> Dictionary | None:
    try:
        return Dictionary(content) if content else None
    except ValueError as error:
        log.info("a dictionary is damaged, and will be trained anew", reason=str(error))
        return None


class Taken:
    """The receiver's end, of one session. Any thread may use it."""

    def __init__(self, store: Dictionaries) -> None:
        self._store = store
        self._by_id: dict[bytes, Dictionary] = {}
        self._lock = threading.Lock()

    def take(self, message: m.Dictionary, body: bytes) -> None:
        """Raises ProtocolError."""
        dictionary = hde.unpacked(body, message.size)
        if dictionary.id != message.id:
            raise ProtocolError("a dictionary is not what it is called")
        self._store.hold(dictionary)
        self._use(dictionary)

    def decode(self, dictionary_id: bytes, body: Buffer, size: int) -> bytes:
        """Raises ProtocolError; IntegrityError where the dictionary has been lost here."""
        found = self._by_id.get(dictionary_id)
        if found is None:
            found = self._store.held(dictionary_id)
            if found is None:
                raise IntegrityError("the dictionary that it was made with is not here any more")
            self._use(found)
        return found.decode(body, size)

    def _use(self, dictionary: Dictionary) -> None:
        with self._lock:
            self._by_id[dictionary.id] = dictionary
            if len(self._by_id) > MOST_TAKEN:
                raise ProtocolError("the peer uses more dictionaries than are allowed")
