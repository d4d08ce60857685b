"""`dwcp report`: a day or a week of this node as a page."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dwcp.cli.log import moment
from dwcp.cli.options import configured, load_files
from dwcp.errors import NotFoundError, StateError, StorageError
from dwcp.report.figures import Figures, collect
from dwcp.report.page import headline, page
from dwcp.store.records import Record
from dwcp.store.txlog import LogDamage, LogReader


@click.command()
@click.option(
    "--since",
    default="7d",
    show_default=True,
    metavar="WHEN",
    help="From then on: 24h, 7d ago, or a time like 2026-01-31.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path, allow_dash=True),
    default="dwcp-report.html",
    show_default=True,
    metavar="FILE",
    help="Where the page goes; - for standard output.",
)
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object on standard output, and no page.")
@configured
def report(since: str, output: Path, as_json: bool, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Write what this node did as an HTML page: bytes, savings, faults, recoveries, breaker trips.

    It is made from the transaction log, whether or not a manager runs.
    """
    config = load_files(files, overrides)
    begin, end = (datetime.datetime.fromtimestamp(seconds).astimezone() for seconds in (moment(since), time.time()))
    figures = _read(Path(config.storage.state_dir), begin, end)
    if as_json:
        click.echo(json.dumps(_document(config.node.name, figures)))
        return
    content = page(config.node.name, figures)
    if str(output) == "-":
        click.echo(content, nl=False)
        return
    try:
        output.write_text(content, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the report to {output}: {error.strerror}; -o names another file") from error
    click.echo(f"{headline(figures)} The report is in {output}.")


def _read(state_dir: Path, begin: datetime.datetime, end: datetime.datetime) -> Figures:
    damaged = 0

    def records() -> Iterator[Record]:
        nonlocal damaged
        for entry in LogReader(state_dir, begin.timestamp()).poll():
            if isinstance(entry, LogDamage):
                damaged += 1
            else:
                yield entry

    try:
        figures = collect(records(), begin, end)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no transaction log in {state_dir}; a manager or a transfer begins it") from error
    except OSError as error:
        raise StateError(f"cannot read {error.filename}: {error.strerror}; run as the user that owns it") from error
    figures.damaged = damaged
    return figures


def _document(node: str, figures: Figures) -> dict[str, Any]:
    return {
        "node": node,
        "begin": figures.begin.isoformat(),
        "end": figures.end.isoformat(),
        **asdict(figures.total),
        "saved": round(figures.total.saved, 4),
        "outcomes": dict(figures.outcomes),
        "peers": {name: asdict(traffic) for name, traffic in figures.peers.items()},
        "components": {name: asdict(recovery) for name, recovery in figures.components.items()},
        "breaker_trips": dict(figures.trips),
        "starts": figures.starts,
        "kills": figures.kills,
        "records": figures.records,
        "damaged": figures.damaged,
    }
