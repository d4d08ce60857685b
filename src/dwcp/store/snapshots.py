"""Snapshots of the state directory's small state: identity, added peers, limit, what was learned of paths, version.

    snapshots/20261125T063838Z-interval/
        manifest   a sealed line (`store.records`): when, why, of which layout, each file's size, mode and SHA-256
        files/     the files as they were, at their paths

Plain files in directories, so that one can be put back by hand. A snapshot has what the node is, its secret key
included: without it a restored node would be a stranger to its peers. Directories are 0700 and files 0600, whatever
they were; wherever snapshots are copied to needs the same care as `identity`.

Made below a name that begins with a dot, synced, then renamed: what has its name is whole.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dwcp.errors import NotFoundError, StateError
from dwcp.store import durable
from dwcp.store.records import DamagedError, seal, unseal_all

DIRECTORY = "snapshots"
REASONS = ("interval", "manual", "before-upgrade", "before-restore")
NOT_STATE = frozenset(
    {
        *("logs", "snapshots", "baselines", "dictionaries", "jobs", "links", "senders", "sync"),
        *("fences", "session"),
        *("lock", "breakers", "run.json", "health-probe", "restore", "restore.unfinished"),
    }
)
"""Names in the state directory that are records, copies, or of the running process alone; everything else is state, so
that what a newer version adds is kept too."""
TEMPORARY = re.compile(r".*\.\d+")
"""A file on its way to its name: NAME.PID."""
MAX_FILE = 16 * 2**20
MAX_TOTAL = 64 * 2**20
MAX_FILES = 10_000
"""Far above what there can be with thousands of peers; what is larger was put there by mistake."""
MAX_MANIFEST = 4 * 2**20
TRIES = 20
"""Looks at files that change meanwhile."""
_NAME = re.compile(rf"(\d{{8}}T\d{{6}}Z)-({'|'.join(REASONS)})(?:-(\d{{1,6}}))?")


class FileEntry(msgspec.Struct, frozen=True):
    """`path` relative to the state directory; `size` in bytes; `sha256` hexadecimal."""

    path: str
    size: int
    mode: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """`layout` of the state directory and `program` version when it was taken."""

    taken_at: datetime.datetime
    reason: str
    layout: int
    program: str
    files: list[FileEntry]


@dataclass(frozen=True, slots=True)
class Snapshot:
    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.manifest.files)


def take(state_dir: Path, reason: str, keep: int, *, layout: int, program: str) -> Snapshot:
    """A snapshot of now, of which the newest `keep` are kept for each reason. Raises StateError."""
    directory = state_dir / DIRECTORY
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        with durable.locked(directory):
            _sweep(directory)
            contents = read_state(state_dir)
            snapshot = _write(directory, contents, reason, layout, program)
            _prune(state_dir, keep)
    except OSError as error:
        raise StateError(f"cannot take a snapshot in {directory}: {error.strerror}; {advice(error)}") from error
    return snapshot


def find(state_dir: Path) -> list[Snapshot]:
    """Those that can be read, newest first. Raises OSError."""
    found = []
    for path in paths(state_dir):
        with contextlib.suppress(StateError):
            # `check` tells what is wrong with it
            found.append(load(path))
    return sorted(found, key=lambda snapshot: snapshot.manifest.taken_at, reverse=True)


def paths(state_dir: Path) -> list[Path]:
    """Of everything that has a snapshot's name, oldest first. Raises OSError."""
    directory = state_dir / DIRECTORY
    try:
        return sorted((path for path in directory.iterdir() if _NAME.fullmatch(path.name)), key=_order)
    except FileNotFoundError:
        return []


def get(state_dir: Path, name: str) -> Snapshot:
    """Raises NotFoundError, or StateError where its manifest is damaged."""
    known = paths(state_dir)
    for path in known:
        if path.name == name:
            return load(path)
    newest = ", ".join(path.name for path in reversed(known[-5:])) or "none"
    raise NotFoundError(f"no snapshot {name!r} in {state_dir / DIRECTORY}; the newest are: {newest}")


def load(path: Path) -> Snapshot:
    """Raises StateError."""
    try:
        with (path / "manifest").open("rb") as file:
            manifest = msgspec.json.decode(unseal_all(file.read(MAX_MANIFEST + 1)), type=Manifest)
    except OSError as error:
        raise StateError(f"the snapshot {path} has no manifest that can be read: {error.strerror}") from error
    except (DamagedError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"the manifest of snapshot {path} is damaged: {error}") from error
    for entry in manifest.files:
        parts = Path(entry.path).parts
        if not parts or entry.path.startswith("/") or ".." in parts or parts[0] in NOT_STATE:
            raise StateError(f"the snapshot {path} has a file at {entry.path!r}, where no state belongs")
    return Snapshot(path, manifest)


def contents(snapshot: Snapshot, entry: FileEntry) -> bytes:
    """Of one of its files, checked. Raises StateError."""
    path = snapshot.path / "files" / entry.path
    try:
        content = read_file(path, entry.size)
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise StateError(f"{path}: is not what its manifest says")
    return content


def check(path: Path) -> list[str]:
    """What is wrong with the snapshot, a line each."""
    try:
        snapshot = load(path)
    except StateError as error:
        return [str(error)]
    problems = []
    for entry in snapshot.manifest.files:
        try:
            contents(snapshot, entry)
        except StateError as error:
            problems.append(str(error))
    listed = {str(path / "files" / entry.path) for entry in snapshot.manifest.files} | {str(path / "manifest")}
    try:
        present = {str(Path(parent) / name) for parent, _, names in os.walk(path, onerror=_raise) for name in names}
    except OSError as error:
        return [*problems, f"{path}: cannot be read: {error.strerror}"]
    return problems + [f"{extra}: is not in the manifest" for extra in sorted(present - listed)]


def read_state(state_dir: Path) -> list[tuple[FileEntry, bytes]]:
    """All files of the state as they were together at one moment. Raises OSError, or StateError."""
    for _ in range(TRIES):
        with durable.locked(state_dir):
            before = list(_state_files(state_dir))
            try:
                read = [_read_entry(state_dir, path) for path, _ in before]
            except FileNotFoundError:
                # replaced or removed since it was listed
                continue
            if before == list(_state_files(state_dir)):
                return read
    raise StateError(f"the files in {state_dir} change all the time; see which with `ls -lR --sort=time`")


def is_changed(state_dir: Path) -> bool:
    """Whether the state is another than in the newest snapshot. Raises StateError."""
    try:
        newest = find(state_dir)[:1]
        now = [entry for entry, _ in read_state(state_dir)]
    except OSError as error:
        raise StateError(f"cannot read {error.filename or state_dir}: {error.strerror}; {advice(error)}") from error
    return not newest or newest[0].manifest.files != now


def is_state(name: str) -> bool:
    """Whether a name in the state directory is of its state."""
    return name not in NOT_STATE and not name.startswith(".") and not TEMPORARY.fullmatch(name)


def read_file(path: Path, size: int) -> bytes:
    """At most `size` bytes and one, for whoever wants to know whether there are more. Raises OSError."""
    with path.open("rb") as file:
        return file.read(size + 1)


def _prune(state_dir: Path, keep: int) -> None:
    """Removes all but the newest `keep` for each reason. Raises OSError."""
    for reason in REASONS:
        found = [path for path in paths(state_dir) if _parts(path)[1] == reason]
        for path in found[:-keep]:
            shutil.rmtree(path.rename(path.with_name(f".{path.name}")))


def _sweep(directory: Path) -> None:
    """What a killed process left half made or half removed."""
    for path in list(directory.iterdir()):
        if path.name.startswith(".") and _NAME.fullmatch(path.name[1:]):
            shutil.rmtree(path)


def _state_files(state_dir: Path) -> Iterator[tuple[Path, tuple[int, int, int]]]:
    """Path of each file, and by what a change of it shows. Raises OSError, StateError."""
    count = total = 0
    for parent, directories, names in os.walk(state_dir, onerror=_raise):
        top = Path(parent) == state_dir
        directories[:] = sorted(name for name in directories if not top or is_state(name))
        for name in sorted(names):
            path = Path(parent) / name
            if (top and not is_state(name)) or TEMPORARY.fullmatch(name):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            count, total = count + 1, total + status.st_size
            if status.st_size > MAX_FILE or total > MAX_TOTAL or count > MAX_FILES:
                raise StateError(
                    f"the state directory {state_dir} has more than belongs there (at {path}); move it elsewhere"
                )
            yield path, (status.st_ino, status.st_size, status.st_mtime_ns)


def _read_entry(state_dir: Path, path: Path) -> tuple[FileEntry, bytes]:
    content = read_file(path, MAX_FILE)
    mode = stat.S_IMODE(path.stat().st_mode)
    name = str(path.relative_to(state_dir))
    if not name.isprintable():
        raise StateError(f"the state directory has a file with a strange name, {name!r}; move it elsewhere")
    return FileEntry(name, len(content), mode, hashlib.sha256(content).hexdigest()), content


def _write(
    directory: Path, contents: list[tuple[FileEntry, bytes]], reason: str, layout: int, program: str
) -> Snapshot:
    now = datetime.datetime.now(datetime.UTC)
    stem = f"{now:%Y%m%dT%H%M%SZ}-{reason}"
    before = [_order(path)[1] for path in paths(directory.parent) if path.name.startswith(stem)]
    name = f"{stem}-{max(before) + 1}" if before else stem
    made = directory / f".{name}"
    manifest = Manifest(now, reason, layout, program, [entry for entry, _ in contents])
    try:
        (made / "files").mkdir(mode=0o700, parents=True)
        made.chmod(0o700)
        for entry, content in contents:
            target = made / "files" / entry.path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.create(target, content)
        durable.create(made / "manifest", seal(msgspec.json.encode(manifest)))
        for parent, _, _ in os.walk(made, topdown=False):
            durable.sync_directory(Path(parent))
        made.rename(directory / name)
        durable.sync_directory(directory)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return Snapshot(directory / name, manifest)


def _parts(path: Path) -> tuple[str, str, int]:
    """When, why, and which one of that second."""
    match = _NAME.fullmatch(path.name)
    return (match[1], match[2], int(match[3] or 1)) if match else ("", "", 0)


def _order(path: Path) -> tuple[str, int]:
    when, _, number = _parts(path)
    return when, number


def _raise(error: OSError) -> None:
    raise error


def advice(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "free space there" if full else "run as the user that owns it"
