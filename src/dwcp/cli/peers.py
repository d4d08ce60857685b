"""`dwcp ls`, `dwcp ping`, `dwcp id`: small questions."""

from __future__ import annotations

import json
import stat
import time
from dataclasses import asdict
from pathlib import Path

import click

from dwcp.cli.options import configured, load, printable, split_remote
from dwcp.cli.running import run
from dwcp.store.opening import open_state
from dwcp.transfer.client import connect
from dwcp.transfer.remote_files import RemoteEntry

_KINDS = {"dir": stat.S_IFDIR, "file": stat.S_IFREG, "symlink": stat.S_IFLNK, "export": stat.S_IFDIR, "special": 0}


@click.command()
@click.argument("target", metavar="PEER:[EXPORT[/PATH]]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def ls(target: str, as_json: bool, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """List a peer's exports, or what is in a directory below one."""
    peer, path = split_remote(target)
    config = load(files, overrides)

    async def listing() -> list[RemoteEntry]:
        async with connect(peer, config=config) as connected:
            return await connected.ls(path)

    for entry in run(config, listing()):
        click.echo(json.dumps(asdict(entry)) if as_json else _line(entry))


def _line(entry: RemoteEntry) -> str:
    name = printable(entry.name)
    if entry.kind == "export":
        return f"{name}/"
    arrow = f" -> {printable(entry.target)}" if entry.target else "/" if entry.kind == "dir" else ""
    mode = stat.filemode(_KINDS.get(entry.kind, 0) | stat.S_IMODE(entry.mode))
    return f"{mode} {entry.size:>14} {_when(entry.mtime_ns)} {name}{arrow}"


def _when(mtime_ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(mtime_ns / 1e9))
    except (OverflowError, OSError, ValueError):
        # a year that no calendar here has
        return "-".ljust(16)


@click.command()
@click.argument("peer")
@click.option("-c", "--count", type=click.IntRange(1, 1000), default=3, show_default=True, help="How many round trips.")
@configured
def ping(peer: str, count: int, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Measure the round trip to PEER on a proved session."""
    config = load(files, overrides)

    async def measure() -> tuple[str, list[float]]:
        async with connect(peer, config=config, despite_breaker=True) as connected:
            return connected.address, [await connected.ping() for _ in range(count)]

    address, seconds = run(config, measure())
    times = ", ".join(f"{value * 1000:.2f}" for value in seconds)
    click.echo(f"{peer} ({address}): {times} ms, median {sorted(seconds)[len(seconds) // 2] * 1000:.2f} ms")


@click.command(name="id")
@configured
def show_id(files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Show this node's name and fingerprint, for the peers section of other nodes."""
    config = load(files, overrides)
    click.echo(f"{config.node.name} {open_state(config).identity.fingerprint}")
