"""The version of the state directory, and how an older one becomes a newer one.

    layout   what it has
    1        identity, peers.yaml, limit, paths; no `version`; files as open as the umask let them be
    2        `version`, a sealed line (`store.records`); the transaction log and snapshots; nothing that others may read

A newer layout than ours is refused, because what we would do to it nobody can know. Each step of a migration may be
done twice; `version` is written last, so that one which was interrupted begins anew. Before it, and before another
version of the program takes over, a snapshot is taken: restoring that one is the way back.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import msgspec
import structlog

from dwcp.errors import StateError
from dwcp.store import durable, restore, snapshots
from dwcp.store.claim import Claim, ClaimedError
from dwcp.store.recorder import Note
from dwcp.store.records import DamagedError, seal, unseal_all
from dwcp.store.snapshots import Snapshot

LAYOUT = 2
FILE = "version"
_OLD = ("identity/node.key", "peers.yaml", "limit", "paths")
"""One of them is there where a program of layout 1 has been."""
PATIENCE = 10.0
"""Seconds that a command waits for another one that does the same."""

log = structlog.get_logger()


class Version(msgspec.Struct, frozen=True):
    """`program`: the version that used the directory last."""

    layout: int
    program: str


def program() -> str:
    """The version of this program."""
    return metadata.version("dwcp")


def read_version(state_dir: Path) -> Version | None:
    """None where nothing has been yet. Raises StateError where it cannot be read or is newer than this program."""
    version = _read(state_dir)
    if version is not None and version.layout > LAYOUT:
        raise StateError(
            f"the state directory {state_dir} is of version {version.layout}, made by dwcp {version.program}; this is "
            f"dwcp {program()}, which knows versions up to {LAYOUT}: run the newer one, or go back to the snapshot "
            f"that it took before its upgrade (`dwcp state list`, `dwcp state restore`)"
        )
    return version


def found(state_dir: Path) -> Version:
    """Whatever it is, for the record: 0 where it cannot be read."""
    try:
        return _read(state_dir) or Version(LAYOUT, program())
    except StateError:
        return Version(0, "")


def _read(state_dir: Path) -> Version | None:
    path = state_dir / FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Version(1, "") if any(os.path.lexists(state_dir / name) for name in _OLD) else None
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}; run as the user that owns it") from error
    try:
        return msgspec.json.decode(unseal_all(content), type=Version)
    except (DamagedError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(
            f"{path} is damaged ({error}): put a snapshot back (`dwcp state list`, `dwcp state restore`)"
        ) from error


def take_snapshot(state_dir: Path, reason: str, keep: int, note: Note) -> Snapshot:
    """As `snapshots.take`, told in the log. Raises StateError."""
    note("snapshot", "begin", reason=reason)
    version = found(state_dir)
    try:
        taken = snapshots.take(state_dir, reason, keep, layout=version.layout, program=version.program)
    except StateError as error:
        note("snapshot", "failed", reason=reason, error=str(error))
        raise
    note("snapshot", "end", reason=reason, snapshot=taken.name, files=len(taken.manifest.files), bytes=taken.size)
    return taken


def bring_up(state_dir: Path, keep: int, note: Note) -> None:
    """Makes the directory one of this version: finishes a restore, migrates, names this program. The caller has the
    claim. `keep`: as of `snapshots.take`.

    Raises StateError; what was there is then still there.
    """
    if restore.is_pending(state_dir):
        note("restore", "end", snapshot=restore.finish(state_dir), resumed=True)
    before = read_version(state_dir)
    ours = Version(LAYOUT, program())
    if before is None:
        _write(state_dir, ours)
    elif before.layout < LAYOUT:
        _migrate(state_dir, before.layout, keep, note)
    elif before != ours:
        _change_program(state_dir, before.program, keep, note)
    _sweep(state_dir)


def enter(state_dir: Path, keep: int, note: Note) -> None:
    """For a command that uses the state: as `bring_up`, where that is needed. Raises StateError."""
    deadline = time.monotonic() + PATIENCE
    while restore.is_pending(state_dir) or (version := read_version(state_dir)) is None or version.layout < LAYOUT:
        try:
            state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
            claim = Claim(state_dir)
        except OSError as error:
            raise unusable(state_dir, error) from error
        except ClaimedError:
            # another command does it, or an older manager runs, which has to be stopped first
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        try:
            bring_up(state_dir, keep, note)
        finally:
            claim.release()


def unusable(state_dir: Path, error: OSError) -> StateError:
    """What to raise where the operating system does not let us use the directory."""
    return StateError(
        f"cannot use the state directory {state_dir}: {error.strerror}; "
        f"make it writable for this user, or name another in storage.state_dir"
    )


def _migrate(state_dir: Path, was: int, keep: int, note: Note) -> None:
    note("upgrade", "begin", was=was, now=LAYOUT)
    before = take_snapshot(state_dir, "before-upgrade", keep, note)
    try:
        for step in range(was, LAYOUT):
            _STEPS[step](state_dir)
    except OSError as error:
        raise StateError(
            f"cannot bring the state directory {state_dir} to version {LAYOUT} ({error.filename}: {error.strerror}); "
            f"run as the user that owns it; what was there is in {before.path}"
        ) from error
    _write(state_dir, Version(LAYOUT, program()))
    note("upgrade", "end", was=was, now=LAYOUT, snapshot=before.name)
    log.info("the state directory was upgraded", was=was, now=LAYOUT, snapshot=before.name)


def _change_program(state_dir: Path, was: str, keep: int, note: Note) -> None:
    try:
        before = take_snapshot(state_dir, "before-upgrade", keep, note)
    except StateError as error:
        # nothing is changed but the name: no reason not to run
        log.warning("no snapshot before this version takes over", reason=str(error))
        return
    _write(state_dir, Version(LAYOUT, program()))
    note("upgrade", "end", was=was, now=program(), snapshot=before.name)


def _write(state_dir: Path, version: Version) -> None:
    try:
        durable.write(state_dir / FILE, seal(msgspec.json.encode(version)))
    except OSError as error:
        raise unusable(state_dir, error) from error


def _close_to_others(state_dir: Path) -> None:
    """1 to 2: what was learned and limited was written as the umask had it."""
    with durable.locked(state_dir):
        for parent, directories, names in os.walk(state_dir):
            if Path(parent) == state_dir:
                directories[:] = [name for name in directories if snapshots.is_state(name)]
                names = [name for name in names if snapshots.is_state(name)]
            for name, allowed in [*((name, 0o700) for name in directories), *((name, 0o600) for name in names)]:
                path = Path(parent) / name
                mode = path.lstat().st_mode
                if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & ~allowed:
                    path.chmod(stat.S_IMODE(mode) & allowed)


_STEPS: dict[int, Callable[[Path], None]] = {1: _close_to_others}


def _sweep(state_dir: Path) -> None:
    """Files that were on their way to their names when their writers were killed."""
    with contextlib.suppress(OSError):
        for parent in (state_dir, state_dir / "identity", state_dir / "paths"):
            for path in list(parent.iterdir()) if parent.is_dir() else ():
                if snapshots.TEMPORARY.fullmatch(path.name) and not Path("/proc", path.suffix[1:]).exists():
                    path.unlink()
