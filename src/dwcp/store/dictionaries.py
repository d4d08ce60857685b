"""Dictionaries for small objects: `dictionaries` in the state directory.

    dictionaries/PEER/own-KEY     of one tree that is sent there: the dictionary in use, samples, what was sent since
    dictionaries/PEER/held-ID     what that peer's packs may be made with

None of it is needed: what is gone or damaged is trained, or sent, anew. So nothing here is synced. Samples are content
of files, kept as privately as everything in the state directory.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog
import xxhash

from dwcp.hde.dictionary import Dictionary
from dwcp.store import durable

DIRECTORY = "dictionaries"
MOST = 64
"""Trees with a dictionary, and dictionaries held, for each peer; the one that was not used for longest goes."""

ENOUGH = 4
"""Packs after which it is judged for the first time whether a dictionary would pay."""

log = structlog.get_logger()


class Learned(msgspec.Struct):
    """Of one tree. `judged_at` in seconds of the epoch."""

    dictionary: bytes = b""
    held: bool = False
    """The peer has said that it holds it."""
    judged_at: float = 0.0
    packs: int = 0
    files: int = 0
    """In these packs."""
    enough: int = ENOUGH
    """Packs after which to judge again while there is no dictionary: doubled each time that none pays."""
    offered: int = 0
    samples: list[bytes] = []


class Dictionaries:
    """Of one peer."""

    def __init__(self, state_dir: Path, peer: str) -> None:
        self._directory = state_dir / DIRECTORY / peer

    def learned(self, tree: bytes) -> Learned:
        path = self._own(tree)
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=Learned)
        except (OSError, msgspec.DecodeError) as error:
            if not isinstance(error, FileNotFoundError):
                log.info("what was learned of small files is not read", path=str(path), reason=str(error))
            return Learned()

    def learn(self, tree: bytes, learned: Learned) -> None:
        self._write(self._own(tree), msgspec.msgpack.encode(learned))

    def held(self, dictionary_id: bytes) -> Dictionary | None:
        path = self._held(dictionary_id)
        try:
            found = Dictionary(path.read_bytes())
            if found.id == dictionary_id:
                path.touch()
                return found
        except (OSError, ValueError):
            pass
        return None

    def hold(self, dictionary: Dictionary) -> None:
        """Where that fails it serves this session only: the sender will be asked for its packs again in later ones."""
        self._write(self._held(dictionary.id), dictionary.content)

    def _own(self, tree: bytes) -> Path:
        return self._directory / f"own-{xxhash.xxh3_128_hexdigest(tree)}"

    def _held(self, dictionary_id: bytes) -> Path:
        return self._directory / f"held-{dictionary_id.hex()}"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(path, content, sync=False)
            _prune(self._directory, path.name.partition("-")[0])
        except OSError as error:
            log.info("a dictionary is not kept", path=str(path), reason=str(error))


def _prune(directory: Path, kind: str) -> None:
    """Raises OSError."""
    found = sorted(directory.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
    for path in found[:-MOST]:
        path.unlink(missing_ok=True)
