"""`dwcp state`: the state directory looked at, kept in snapshots, and put back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dwcp.cli.options import configured, load_files
from dwcp.config import Config
from dwcp.errors import NotFoundError, StateError
from dwcp.store import layout, restore, snapshots
from dwcp.store.claim import Claim, ClaimedError
from dwcp.store.opening import open_existing
from dwcp.store.recorder import Recorder
from dwcp.store.snapshots import Snapshot
from dwcp.store.verify import verify
from dwcp.units import format_size


@click.group()
def state() -> None:
    """Check the state directory; list, take and restore snapshots of it."""


@state.command(name="verify")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@configured
def verify_state(as_json: bool, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Check all files of the state directory. Tells each problem, those of the snapshots too.

    A manager may run meanwhile. Ends with 7 where there is a problem; notes are none.
    """
    state_dir = _directory(load_files(files, overrides))
    report = verify(state_dir)
    if as_json:
        findings = [asdict(finding) for finding in report.findings]
        click.echo(json.dumps({"checked": report.counts, "findings": findings}, indent=2))
    else:
        for finding in report.findings:
            click.echo(f"{'note' if finding.harmless else 'problem'}: {finding.text}")
        click.echo("whole: " + ", ".join(f"{what} {count}" for what, count in report.counts.items()))
    if report.problems:
        raise StateError(f"{len(report.problems)} problems in {state_dir}")


@state.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def list_snapshots(as_json: bool, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """List the snapshots, newest first."""
    state_dir = _directory(load_files(files, overrides))
    try:
        found = snapshots.find(state_dir)
    except OSError as error:
        raise StateError(f"cannot read {error.filename}: {error.strerror}; run as the user that owns it") from error
    for snapshot in found:
        click.echo(json.dumps(_document(snapshot)) if as_json else _line(snapshot))
    whole = {snapshot.path for snapshot in found}
    for path in snapshots.paths(state_dir):
        if path not in whole:
            click.echo(f"dwcp: damaged: {path}; `dwcp state verify` tells more", err=True)


@state.command(name="snapshot")
@configured
def take_snapshot(files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Take a snapshot now. A manager may run meanwhile. Prints its name."""
    config = load_files(files, overrides)
    state_dir = _directory(config)
    recorder = open_existing(config)
    taken = layout.take_snapshot(state_dir, "manual", config.storage.snapshot_keep, recorder.write)
    click.echo(taken.name)


@state.command(name="restore")
@click.argument("name")
@click.option("--keep-identity", is_flag=True, help="Leave the node's key, certificate and token as they are now.")
@configured
def restore_snapshot(name: str, keep_identity: bool, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Make the state what it was in snapshot NAME. All of it or nothing; no manager may run.

    What is replaced is kept in a snapshot. To go back to an older version of the program, restore the snapshot that was
    taken before the upgrade, then start the older version.
    """
    config = load_files(files, overrides)
    state_dir = _directory(config)
    try:
        claim = Claim(state_dir)
    except ClaimedError as error:
        raise StateError(f"a restore needs the manager to be stopped: {error}") from error
    try:
        kept = _restore(config, state_dir, name, keep_identity=keep_identity)
    finally:
        claim.release()
    click.echo(f"{name} is restored; what was there is kept as {kept.name}")


def _restore(config: Config, state_dir: Path, name: str, *, keep_identity: bool) -> Snapshot:
    recorder = Recorder(state_dir, config.storage.log_size, sync=True)
    if restore.is_pending(state_dir):
        recorder.write("restore", "end", snapshot=restore.finish(state_dir), resumed=True)
    snapshot = snapshots.get(state_dir, name)
    if snapshot.manifest.layout > layout.LAYOUT:
        raise StateError(
            f"the snapshot {name} is of a state directory of version {snapshot.manifest.layout}; this is dwcp "
            f"{layout.program()}, which knows versions up to {layout.LAYOUT}: restore it with the newer one"
        )
    found = layout.found(state_dir)
    recorder.write("restore", "begin", snapshot=name)
    kept = restore.restore(
        state_dir,
        snapshot,
        config.storage.snapshot_keep,
        layout=found.layout,
        program=found.program,
        identity=not keep_identity,
    )
    recorder.write("restore", "end", snapshot=name, kept=kept.name)
    return kept


def _directory(config: Config) -> Path:
    """Raises NotFoundError where there is none."""
    state_dir = Path(config.storage.state_dir)
    if not state_dir.is_dir():
        raise NotFoundError(f"there is no state directory {state_dir}; name its configuration with --config")
    return state_dir


def _document(snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    return {
        "name": snapshot.name,
        "taken_at": manifest.taken_at.isoformat(),
        "reason": manifest.reason,
        "layout": manifest.layout,
        "program": manifest.program,
        "files": len(manifest.files),
        "bytes": snapshot.size,
    }


def _line(snapshot: Snapshot) -> str:
    manifest = snapshot.manifest
    version = f"version {manifest.layout}" + (f", dwcp {manifest.program}" if manifest.program else "")
    return f"{snapshot.name:<34}  {version}, {len(manifest.files)} files, {format_size(snapshot.size)}"
