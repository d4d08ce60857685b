"""The main job, from end to end, on one machine: ship a real tree, change it, ship it again, compare."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dwcp.errors import IntegrityError, from_code
from dwcp.hde.hashes import XXH3
from dwcp.testing.lab import Lab, lab_down, lab_up
from dwcp.units import format_rate, format_size

INSERTED = b"These bytes were not here before; everything behind them has moved.\n" * 7


@dataclass(frozen=True, slots=True)
class Shipment:
    title: str
    figures: dict[str, Any]


def run_demo(directory: Path, *, keep: bool) -> None:
    """Prints its table. Raises IntegrityError when the trees differ in the end, or what a shipment failed with."""
    directory = directory.absolute()
    lab_down(directory)
    if (directory / "lab.json").exists():
        shutil.rmtree(directory)
    lab = lab_up(directory, 2)
    try:
        _main_job(lab, directory / "tree")
        if keep:
            click.echo("\nBoth nodes are left running:")
            for node in lab.nodes:
                click.echo(f"  {node.name}: {node.http_url}/health  config {node.config_file}")
            click.echo(f"Stop them with: dwcp lab down {directory}")
    finally:
        if not keep:
            lab_down(directory)


def _main_job(lab: Lab, tree: Path) -> None:
    sender, receiver = lab.nodes
    source = Path(sysconfig.get_path("purelib"))
    click.echo(f"Two nodes are up. Shipping a copy of {source.name} from {sender.name} to {receiver.name}:inbox ...")
    shutil.copytree(source, tree, symlinks=True)
    (tree / "a-link").symlink_to("no/such/target")
    target = f"{receiver.name}:inbox/{source.name}"
    first = _ship(sender.config_file, tree, target, "first shipment")
    changes = _change(tree)
    click.echo(f"Changed: {'; '.join(changes)}. Shipping again ...")
    second = _ship(sender.config_file, tree, target, "second shipment")
    _print_table([first, second])
    differences = compare_trees(tree, receiver.inbox / source.name)
    if differences:
        raise IntegrityError("the trees differ:\n" + "\n".join(differences[:20]))
    click.echo("identical")


def _ship(config: Path, tree: Path, target: str, title: str) -> Shipment:
    command = [
        sys.executable,
        "-m",
        "dwcp.cli",
        "send",
        "--config",
        str(config),
        "--delete",
        "--json",
        str(tree),
        target,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    if done.returncode or last.get("event") != "done":
        raise from_code(str(last.get("code", "fatal")), str(last.get("message") or done.stderr.strip()))
    return Shipment(title, last)


def _change(tree: Path) -> list[str]:
    """What happens to a tree between two days, and one thing that moves all content of its largest file."""
    files = sorted((p for p in tree.rglob("*") if p.is_file() and not p.is_symlink()), key=lambda p: p.stat().st_size)
    largest = files[-1]
    content = largest.read_bytes()
    largest.write_bytes(INSERTED + content)
    deleted = files[len(files) // 2 : len(files) // 2 + 20]
    for path in deleted:
        path.unlink()
    renamed, touched = files[-2], files[-3]
    renamed.rename(renamed.with_name(renamed.name + ".renamed"))
    os.utime(touched)
    return [
        f"{len(INSERTED)} bytes inserted in front of {largest.name} ({format_size(len(content))})",
        f"{len(deleted)} files deleted",
        f"{renamed.name} renamed",
        f"{touched.name} touched",
    ]


def _print_table(shipments: list[Shipment]) -> None:
    click.echo(f"\n{'':<16}{'files':>8}{'bytes':>12}{'on the wire':>14}{'seconds':>9}{'rate':>16}{'ratio':>9}")
    for shipment in shipments:
        f = shipment.figures
        ratio = f["bytes"] / f["wire_bytes"] if f["wire_bytes"] else 0.0
        click.echo(
            f"{shipment.title:<16}{f['files']:>8}{format_size(f['bytes']):>12}{format_size(f['wire_bytes']):>14}"
            f"{f['seconds']:>9.2f}{format_rate(f['bytes'] * 8 / max(f['seconds'], 1e-9)):>16}{ratio:>9.1f}"
        )
    click.echo("")


def compare_trees(left: Path, right: Path) -> list[str]:
    """One line for each difference in names, types, content, modes, link targets or modification times."""
    lines = []
    names = {path.relative_to(left) for path in left.rglob("*")} | {
        path.relative_to(right) for path in right.rglob("*")
    }
    for name in sorted(names | {Path()}):
        a, b = left / name, right / name
        if not os.path.lexists(a) or not os.path.lexists(b):
            lines.append(f"{name}: only on one side")
            continue
        one, other = a.lstat(), b.lstat()
        lines += [
            f"{name}: {what} differ: {getattr(one, what)} and {getattr(other, what)}"
            for what in ("st_mode", "st_mtime_ns")
            if getattr(one, what) != getattr(other, what)
        ]
        if stat.S_ISLNK(one.st_mode) and stat.S_ISLNK(other.st_mode):
            if a.readlink() != b.readlink():
                lines.append(f"{name}: link targets differ")
        elif stat.S_ISREG(one.st_mode) and stat.S_ISREG(other.st_mode):
            same = one.st_size == other.st_size and XXH3.digest(a.read_bytes()) == XXH3.digest(b.read_bytes())
            if not same:
                lines.append(f"{name}: contents differ")
    return lines
