"""`dwcp limit`: how fast this node may send, from now on."""

from __future__ import annotations

from pathlib import Path

import click

from dwcp.cli.options import configured, load
from dwcp.errors import StateError
from dwcp.store.opening import open_existing
from dwcp.store.shared_rate import OFF, parse_limit, read_limit, write_limit
from dwcp.units import format_rate


@click.command()
@click.argument("rate", required=False)
@configured
def limit(rate: str | None, files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Set how fast this node may send, or show it: RATE like 200Mbit/s, off for no limit, auto for the configuration's.

    It holds for the manager and for every dwcp beside it, within a second, also for transfers under way, and until it
    is set anew.
    """
    config = load(files, overrides)
    state_dir = Path(config.storage.state_dir)
    if rate is not None:
        parsed = parse_limit(rate)
        recorder = open_existing(config)
        try:
            write_limit(state_dir, parsed)
        except OSError as error:
            raise StateError(
                f"cannot set the limit in {state_dir}: {error.strerror}; run as the user that the manager runs as"
            ) from error
        recorder.write("limit", "set", rate=rate)
    now = read_limit(state_dir)
    if now is None:
        click.echo("as configured (transport.enable_pacing, pacing_rate, pacing_timetable)")
    else:
        click.echo("no limit" if now == OFF else f"{format_rate(int(now))}")
