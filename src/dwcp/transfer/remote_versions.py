"""Versions that a peer has, as the node that asks sees them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dwcp.errors import IntegrityError, NotFoundError, StorageError, UsageError
from dwcp.files.root import Parts
from dwcp.store import durable
from dwcp.versions.restored import differences
from dwcp.wire import messages as m
from dwcp.wire.handshake import VERSIONED

if TYPE_CHECKING:
    from dwcp.transfer.client import Peer


@dataclass(frozen=True, slots=True)
class RemoteVersion:
    """`taken_at` and `checked_at` in seconds since the epoch, the latter 0 for never; `new_bytes` are not shared with
    the version before; `damaged` counts files as of the newest check."""

    id: str
    taken_at: int
    files: int
    bytes: int
    new_bytes: int
    checked_at: int
    damaged: int


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """`fresh`: false where nothing has changed since `version`; `removed`: versions that the rules did not keep."""

    version: RemoteVersion
    fresh: bool
    removed: int


@dataclass(frozen=True, slots=True)
class CheckedVersions:
    """`files` and `bytes` were read, `healed` were mended, `damaged` could not be: `lines` names the first of them.
    `removed`: live files that have to come anew before their versions can be mended."""

    files: int
    bytes: int
    healed: int
    damaged: int
    removed: int
    lines: list[str]


def keep(peer: Peer, path: str, rules: str, fence: m.Fence | None) -> KeptVersion:
    """See `Peer.keep_version`; blocks, as all here."""
    (answer,) = peer.request(m.Keep(path=os.fsencode(path), rules=rules, fence=fence), m.Kept, VERSIONED)
    return KeptVersion(_version(answer.version), answer.fresh, answer.removed)


def find(peer: Peer, path: str) -> list[RemoteVersion]:
    """See `Peer.versions`."""
    answers = peer.request(m.Versions(path=os.fsencode(path)), m.VersionListing, VERSIONED)
    return [_version(entry) for answer in answers for entry in answer.versions]


def check(peer: Peer, path: str, rate: int | None, fence: m.Fence | None) -> CheckedVersions:
    """See `Peer.check_versions`."""
    (answer,) = peer.request(m.Check(path=os.fsencode(path), rate=rate or 0, fence=fence), m.Checked, VERSIONED)
    return CheckedVersions(
        answer.files, answer.bytes, answer.healed, answer.damaged, answer.removed, list(answer.lines)
    )


def choose(peer: Peer, path: str, version: str) -> RemoteVersion:
    """`latest`, or the one of that name. Raises NotFoundError."""
    found = find(peer, path)
    for candidate in reversed(found):
        if version in ("latest", candidate.id):
            return candidate
    newest = ", ".join(one.id for one in reversed(found[-5:])) or "none"
    raise NotFoundError(f"{peer.name} has no version {version!r} of {path}; the newest are: {newest}")


class Restoring:
    """A version on its way to `target`: in a directory beside it, which the next try finds again."""

    def __init__(self, target: Path, version: str) -> None:
        """Raises UsageError where something is at the target already."""
        if os.path.lexists(target):
            raise UsageError(f"{target} exists; name a path that does not, and put it in its place afterwards")
        self._target = Path(os.path.abspath(target))  # noqa: PTH100  (resolve() follows)
        self._arriving = self._target.with_name(f".{target.name}.{version}.restore")

    @property
    def destination(self) -> tuple[Path, Parts]:
        return self._target.parent, (os.fsencode(self._arriving.name),)

    def finish(self) -> None:
        """Gives it its name once it is what its manifest says. Raises IntegrityError, StorageError."""
        wrong: list[str] = []
        for path, problem in differences(self._arriving):
            if len(wrong) < 3:
                wrong.append(problem)
            if path.is_file() and not path.is_symlink():
                # the next try would take it for what it should be
                path.unlink()
        if wrong:
            raise IntegrityError(
                f"{self._arriving} is not what the version was: {'; '.join(wrong)}; have it checked and mended "
                f"(`dwcp workload verify`) and restore it again, or restore another one"
            )
        try:
            (self._arriving / "tree").rename(self._target)
            durable.sync_directory(self._target.parent)
            shutil.rmtree(self._arriving)
        except OSError as error:
            raise StorageError(f"cannot put {self._target} in its place: {error.strerror}") from error


def _version(entry: m.VersionEntry) -> RemoteVersion:
    return RemoteVersion(
        entry.id, entry.taken_at, entry.files, entry.bytes, entry.new_bytes, entry.checked_at, entry.damaged
    )
