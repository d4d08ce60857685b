"""Versions of what is at one path of an export.

    EXPORT/.dwcp/versions/KEY/        KEY: XXH3 of the path
        about                         a sealed line: the path, and the peer that keeps versions of it
        20261125T063838Z/
            tree                      the file or directory as it was
            manifest, summary, checked   see `manifest`
        .20261125T064000Z/            being made, or being removed; worthless once nobody holds the lock

Peers can neither write below `.dwcp` nor name it, so whatever they send, a version stays as it was made. Its files are
independent of the live ones: clones where the file system shares blocks; elsewhere copies, of which those that did not
change are hard links to the version before. So nothing that happens to a live file, in place or not, changes a version.

A version is made below a name that begins with a dot, synced with its file system, then renamed: what has its name is
whole. It is removed the same way round.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
import xxhash

from dwcp.errors import NotFoundError, RefusedError, StorageError, TemporaryError, UsageError
from dwcp.files.root import DIRECTORY_FLAGS, Parts, Root, failure, make_directory
from dwcp.policy import retention
from dwcp.store import durable
from dwcp.store.records import DamagedError, seal, unseal_all
from dwcp.versions import manifest
from dwcp.versions.manifest import Checked, Summary
from dwcp.wire.paths import STAGING, display

DIRECTORY = b"versions"
MAX_VERSIONS = 10_000
"""Of one path: years of hourly ones. More would be a rule that keeps everything of a schedule of seconds."""
_ID = re.compile(r"\d{8}T\d{6}Z(?:-\d{1,6})?")

log = structlog.get_logger()


class About(msgspec.Struct, frozen=True):
    """`path` percent-encoded; `owner`: the peer that alone may make and remove versions of it."""

    path: str
    owner: str


@dataclass(frozen=True, slots=True)
class Version:
    path: Path
    summary: Summary
    checked: Checked | None

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def manifest(self) -> Path:
        return self.path / "manifest"


class VersionStore:
    """Of one path below an export's root; `with` gives back what it holds. Only one at a time may change anything: it
    takes the lock with `locked`."""

    def __init__(self, root: Root, target: Parts, *, create: bool = False) -> None:
        """Raises NotFoundError where there are no versions and none are to be made, UsageError, or StorageError."""
        if not target:
            raise UsageError("versions are kept of a path below an export, not of the export itself")
        self.target = target
        self.root = root
        key = xxhash.xxh3_128_hexdigest(b"/".join(target)).encode()
        try:
            if create:
                _make(root, key)
            fd = root.open_directory((STAGING, DIRECTORY, key))
        except FileNotFoundError as error:
            raise NotFoundError(f"there are no versions of {display(b'/'.join(target))}") from error
        except OSError as error:
            raise failure(error, "cannot use the versions of", b"/".join(target)) from error
        self._fd = fd
        self.directory = Path(f"/proc/self/fd/{fd}")
        """By descriptor, so that what is put in the way of the path meanwhile leads nowhere."""

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> VersionStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def locked(self, owner: str, heir_of: str = "") -> Iterator[None]:
        """For `owner` to change something, who takes over what `heir_of` kept. What a killed process left half done is
        removed first.

        Raises RefusedError for anybody but the peer that made the first version, TemporaryError while another has the
        lock, StorageError.
        """
        lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TemporaryError(
                    f"the versions of {display(b'/'.join(self.target))} are being worked on; try again later"
                ) from error
            self._claim(owner, heir_of)
            self._sweep()
            yield
        finally:
            os.close(lock)

    def find(self) -> list[Version]:
        """Those that are whole, oldest first. Raises StorageError."""
        found = []
        try:
            names = sorted((path for path in self.directory.iterdir() if _ID.fullmatch(path.name)), key=_number)
        except OSError as error:
            raise failure(error, "cannot list the versions of", b"/".join(self.target)) from error
        for path in names:
            try:
                found.append(
                    Version(path, manifest.read_summary(path / "summary"), manifest.read_checked(path / "checked"))
                )
            except (StorageError, msgspec.DecodeError) as error:
                log.warning("a version cannot be used", version=path.name, reason=str(error))
        return found

    def get(self, version: str) -> Version:
        """`latest` is the newest. Raises NotFoundError, StorageError."""
        found = self.find()
        for candidate in found:
            if candidate.id == version:
                return candidate
        if found and version == "latest":
            return found[-1]
        newest = ", ".join(one.id for one in reversed(found[-5:])) or "none"
        raise NotFoundError(
            f"no version {display(version.encode())} of {display(b'/'.join(self.target))}; the newest are: {newest}"
        )

    def new_id(self, now: datetime.datetime) -> str:
        """A name later than all there are, also where the clock was set back. Raises StorageError."""
        stem = f"{now.astimezone(datetime.UTC):%Y%m%dT%H%M%SZ}"
        newest = max(self.find(), key=lambda version: _number(version.path), default=None)
        if newest is None or _number(newest.path) < (stem, 1):
            return stem
        stem, number = _number(newest.path)
        return f"{stem}-{number + 1}"

    def prune(self, keep: Mapping[str, int]) -> int:
        """Removes what the rules do not keep; how many that were. With the lock held. Raises StorageError."""
        found = self.find()
        stay = retention.kept([version.summary.taken_at for version in found], keep)
        gone = [version for index, version in enumerate(found) if index not in stay]
        for version in gone:
            self.remove(version)
        return len(gone)

    def remove(self, version: Version) -> None:
        """With the lock held. Raises StorageError."""
        hidden = self.directory / f".{version.id}"
        try:
            version.path.rename(hidden)
            durable.sync_directory(self.directory)
            remove_tree(hidden)
        except OSError as error:
            raise failure(error, "cannot remove version", version.id.encode()) from error

    def note_check(self, version: Version, checked: Checked) -> None:
        """Raises StorageError."""
        try:
            durable.write(version.path / "checked", manifest.sealed(checked))
        except OSError as error:
            raise failure(error, "cannot note the check of version", version.id.encode()) from error

    def _claim(self, owner: str, heir_of: str) -> None:
        path = self.directory / "about"
        try:
            about = msgspec.json.decode(unseal_all(path.read_bytes()), type=About)
        except FileNotFoundError:
            self._write_about(path, owner)
            return
        except (OSError, DamagedError, msgspec.DecodeError) as error:
            raise StorageError(f"cannot tell whose versions these are ({error}); see {self._where()}/about") from error
        if about.owner == heir_of:
            self._write_about(path, owner)
        elif about.owner != owner:
            raise RefusedError(
                f"the versions of {display(b'/'.join(self.target))} are kept for {about.owner}, not for {owner}; "
                f"choose another path, or remove {self._where()} there"
            )

    def _write_about(self, path: Path, owner: str) -> None:
        try:
            durable.write(path, seal(msgspec.json.encode(About(manifest.quoted(self.target), owner))))
        except OSError as error:
            raise failure(error, "cannot keep versions of", b"/".join(self.target)) from error

    def _where(self) -> str:
        return str(self.directory.readlink())

    def _sweep(self) -> None:
        try:
            for path in list(self.directory.iterdir()):
                if path.name.startswith("."):
                    remove_tree(path)
        except OSError as error:
            raise failure(error, "cannot tidy up the versions of", b"/".join(self.target)) from error


def version_root(version: Version) -> Root:
    """The version's directory, with `tree` and `manifest` in it. Raises StorageError."""
    return Root(version.path)


def remove_tree(path: Path) -> None:
    """Also where modes of directories forbid it. Raises OSError."""
    for parent, directories, _ in os.walk(path):
        for name in directories:
            below = Path(parent) / name
            mode = below.lstat().st_mode
            if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
                below.chmod(stat.S_IRWXU)
    shutil.rmtree(path)


def _make(root: Root, key: bytes) -> None:
    held = os.dup(root.fd)
    try:
        for name in (STAGING, DIRECTORY, key):
            make_directory(name, held)
            below = os.open(name, DIRECTORY_FLAGS, dir_fd=held)
            os.close(held)
            held = below
            os.fchmod(held, 0o700)
    finally:
        os.close(held)


def _number(path: Path) -> tuple[str, int]:
    stem, _, number = path.name.partition("-")
    return stem, int(number or 1)
