"""Puts a snapshot back, all of it or nothing, whoever is killed meanwhile.

    restore.unfinished/   being made: a kill now has changed nothing
    restore/              renamed from it once all is on disk: from here on the restore will be
        plan              a sealed line (`store.records`): the files with size, mode and SHA-256, and what to remove
        files/            those that are not at their place yet

Whoever uses the state directory next finds `restore` and carries it out to the end (`finish`). What is replaced is kept
in a snapshot first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from dwcp.errors import StateError
from dwcp.store import durable, snapshots
from dwcp.store.records import DamagedError, seal, unseal_all
from dwcp.store.snapshots import FileEntry, Snapshot

PLAN = "restore"
_UNFINISHED = "restore.unfinished"
IDENTITY = "identity/"


class Plan(msgspec.Struct, frozen=True):
    snapshot: str
    files: list[FileEntry]
    remove: list[str]


def restore(state_dir: Path, snapshot: Snapshot, keep: int, *, layout: int, program: str, identity: bool) -> Snapshot:
    """Makes the state what it was in `snapshot`; the snapshot of what was there instead. The caller has the claim.

    `layout`, `program`, `keep`: for that one. With `identity` false the node keeps the key that it has now. Raises
    StateError, and nothing has changed then.
    """
    # all is read and checked before anything is touched
    files = [(entry, snapshots.contents(snapshot, entry)) for entry in snapshot.manifest.files]
    kept = snapshots.take(state_dir, "before-restore", keep + 1, layout=layout, program=program)
    if not identity:
        files = [(entry, content) for entry, content in files if not entry.path.startswith(IDENTITY)]
    wanted = {entry.path for entry, _ in files}
    there = {entry.path for entry in kept.manifest.files}
    remove = [path for path in sorted(there - wanted) if identity or not path.startswith(IDENTITY)]
    plan = Plan(snapshot.name, [entry for entry, _ in files], remove)
    try:
        with durable.locked(state_dir):
            _prepare(state_dir, plan, files)
            _carry_out(state_dir, plan)
    except OSError as error:
        raise StateError(
            f"cannot restore {snapshot.name} in {state_dir}: {error.strerror}; {snapshots.advice(error)}"
        ) from error
    return kept


def is_pending(state_dir: Path) -> bool:
    """A restore was decided on, and its process killed before its end."""
    return os.path.lexists(state_dir / PLAN)


def finish(state_dir: Path) -> str:
    """Carries such a restore out; the name of its snapshot. The caller has the claim. Raises StateError."""
    try:
        plan = msgspec.json.decode(unseal_all((state_dir / PLAN / "plan").read_bytes()), type=Plan)
        with durable.locked(state_dir):
            _carry_out(state_dir, plan)
    except OSError as error:
        raise StateError(
            f"cannot finish the restore in {state_dir / PLAN}: {error.strerror}; {snapshots.advice(error)}"
        ) from error
    except (DamagedError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(
            f"the restore in {state_dir / PLAN} was interrupted and its plan is damaged ({error}); remove that "
            f"directory, and `dwcp state restore` again"
        ) from error
    return plan.snapshot


def _prepare(state_dir: Path, plan: Plan, files: list[tuple[FileEntry, bytes]]) -> None:
    unfinished = state_dir / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        (unfinished / "files").mkdir(mode=0o700, parents=True)
        for entry, content in files:
            target = unfinished / "files" / entry.path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.create(target, content, entry.mode)
        durable.create(unfinished / "plan", seal(msgspec.json.encode(plan)))
        for parent, _, _ in os.walk(unfinished, topdown=False):
            durable.sync_directory(Path(parent))
        unfinished.rename(state_dir / PLAN)
        durable.sync_directory(state_dir)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _carry_out(state_dir: Path, plan: Plan) -> None:
    """May begin anew where it was interrupted."""
    staged = state_dir / PLAN / "files"
    for entry in plan.files:
        target = state_dir / entry.path
        if (staged / entry.path).exists():
            _check(staged / entry.path, entry)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (staged / entry.path).replace(target)
        else:
            _check(target, entry)
    for path in plan.remove:
        (state_dir / path).unlink(missing_ok=True)
    touched = [*plan.remove, *(entry.path for entry in plan.files)]
    for directory in {state_dir, *((state_dir / path).parent for path in touched)}:
        if directory.exists():
            durable.sync_directory(directory)
    # by its name first: a plan that is half removed must not be found
    (state_dir / PLAN).rename(state_dir / _UNFINISHED)
    durable.sync_directory(state_dir)
    shutil.rmtree(state_dir / _UNFINISHED)


def _check(path: Path, entry: FileEntry) -> None:
    if hashlib.sha256(snapshots.read_file(path, entry.size)).hexdigest() != entry.sha256:
        raise StateError(f"{path} was damaged while it was restored; remove {PLAN}, and `dwcp state restore` again")
