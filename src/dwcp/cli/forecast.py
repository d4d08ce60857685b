"""`dwcp forecast`: what a link carried and what it is foreseen to carry, as lines, a picture, or JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from dwcp.cli.chart import Chart, draw
from dwcp.cli.options import configured, load
from dwcp.cli.picture import FORMATS, save
from dwcp.cli.status import ask, find_manager
from dwcp.errors import NotFoundError, UsageError
from dwcp.units import format_duration, format_rate


@click.command()
@click.argument("peer")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw it as SVG.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw it as PNG.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@configured
def forecast(
    peer: str,
    svg: Path | None,
    png: Path | None,
    as_json: bool,
    files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Show what the link to PEER carried lately and what the local manager expects of it, with an interval.

    Pictures need matplotlib: pip install 'dwcp[plot]'.
    """
    config = load(files, overrides)
    if peer not in config.peers:
        raise NotFoundError(f"no peer {peer!r}; known peers: {', '.join(sorted(config.peers)) or 'none'}")
    if not config.prediction.enabled:
        raise UsageError("links are not forecast here: set prediction.enabled: true, and restart the manager")
    address = find_manager(Path(config.storage.state_dir)).addresses["http"]
    answer = ask(address, f"/forecasts/{quote(peer, safe='')}")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    elif answer["forecast"] is None:
        click.echo(f"nothing was measured of the link to {peer} yet: transfers and idle probes will")
    else:
        _show(peer, answer)
    for kind, path in zip(FORMATS, (png, svg), strict=True):
        if path is not None:
            save(_chart(answer), f"link to {peer}", path, kind)


def _show(peer: str, answer: Mapping[str, Any]) -> None:
    said, score = answer["forecast"], answer["score"]
    click.echo(draw(_chart(answer)))
    share = f"{said['confidence']:.0%}"
    click.echo(
        f"{peer}, next {format_duration(float(said['horizon']))}: {format_rate(said['rate'])}, with {share} between "
        f"{format_rate(said['low'])} and {format_rate(said['high'])} ({said['model']}, {said['measurements']} "
        f"measurements, {format_duration(float(round(max(0.0, time.time() - said['made_at']))))} ago)"
    )
    for doubt in said["doubts"]:
        click.echo(f"  uncertain: {doubt}")
    if score["outcomes"]:
        held = score["covered"] / score["outcomes"]
        click.echo(
            f"  so far {score['outcomes']} forecasts came due: off by {format_rate(score['error'])} "
            f"(the last value by {format_rate(score['last_error'])}), {held:.0%} within their interval"
        )


def _chart(answer: Mapping[str, Any]) -> Chart:
    said = answer["forecast"]
    history = [(float(sample["at"]), float(sample["rate"])) for sample in answer["samples"]]
    if said is None:
        return Chart(history, None)
    band = (said["made_at"], said["made_at"] + said["horizon"], said["low"], said["rate"], said["high"])
    return Chart(history, band)
