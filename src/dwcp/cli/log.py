"""`dwcp log`: what has happened at this node, from the transaction log; no manager needs to run."""

from __future__ import annotations

import datetime
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from dwcp.cli.options import configured, load_files, printable
from dwcp.errors import NotFoundError, StateError, UsageError
from dwcp.store.records import KINDS, Record, Value
from dwcp.store.txlog import LogDamage, LogReader
from dwcp.units import parse_duration

POLL = 0.25
"""Seconds between two looks for what is new: at once, for people."""


@click.command(name="log")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("--since", metavar="WHEN", help="From then on: 30m, 24h, 7d ago, or a time like 2026-01-31T08:00.")
@click.option("--kind", "kinds", type=click.Choice(list(KINDS)), multiple=True, help="Only these; may be repeated.")
@click.option("--peer", help="Only what is about this peer.")
@click.option("-n", "--lines", type=click.IntRange(0, 1_000_000), help="Only the newest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def log(
    follow: bool,
    since: str | None,
    kinds: tuple[str, ...],
    peer: str | None,
    lines: int | None,
    as_json: bool,
    files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Show what has happened at this node: transfers, components, breakers, peers, configuration, snapshots.

    The log is the state directory's; it is read as it is, whether or not a manager runs. Damage in it is told on
    standard error, and what is whole is shown.
    """
    state_dir = Path(load_files(files, overrides).storage.state_dir)
    begin = moment(since) if since is not None else 0.0
    reader = LogReader(state_dir, begin)

    def wanted() -> Iterator[Record]:
        for entry in reader.poll():
            if isinstance(entry, LogDamage):
                _tell(entry)
            elif (
                entry.time.timestamp() >= begin
                and (not kinds or entry.kind in kinds)
                and (peer is None or entry.peer == peer)
            ):
                yield entry

    try:
        shown = wanted() if lines is None else deque(wanted(), maxlen=lines)
        for record in shown:
            _show(record, as_json=as_json)
        torn = reader.torn()
        if torn is not None:
            _tell(torn)
        while follow:
            sys.stdout.flush()
            time.sleep(POLL)
            for record in wanted():
                _show(record, as_json=as_json)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no transaction log in {state_dir}; a manager or a transfer begins it") from error
    except OSError as error:
        if error.filename is None:
            # it is the output that cannot be written
            raise
        raise StateError(f"cannot read {error.filename}: {error.strerror}; run as the user that owns it") from error


def moment(text: str) -> float:
    """Seconds since the epoch. Raises UsageError."""
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        try:
            return datetime.datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError) as error:
            raise UsageError(
                f"--since {text!r} is no moment; write for example 30m, 24h, 7d, or 2026-01-31T08:00"
            ) from error


def _tell(damage: LogDamage) -> None:
    click.echo(f"dwcp: damaged: {damage}", err=True)


def _show(record: Record, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(record))
    else:
        click.echo(line(record))


def line(record: Record) -> str:
    """For people."""
    when = record.time.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    peer = f" {printable(record.peer)}" if record.peer else ""
    detail = "".join(f" {printable(key)}={_text(value)}" for key, value in record.detail.items())
    return f"{when} {printable(record.kind)} {printable(record.event)}{peer}{detail}"


def _text(value: Value) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    shown = printable(text)
    return f'"{shown}"' if " " in shown or not shown else shown
