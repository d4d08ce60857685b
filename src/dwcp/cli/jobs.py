"""`dwcp jobs`: what the manager has to send, sends, and could not send."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from dwcp.cli.asking import ask_manager
from dwcp.cli.options import configured, load, printable
from dwcp.units import format_duration, format_size

Files = tuple[Path, ...]
Overrides = tuple[str, ...]


@click.group()
def jobs() -> None:
    """See and steer the manager's queue: jobs of workloads, and single ones.

    A job that fails is tried again after a pause that doubles; after jobs.retries, or where nothing but another
    configuration helps, it is parked with the reason.
    """


@jobs.command(name="list")
@click.option("--state", help="Only those that are waiting, running, parked, done or cancelled.")
@click.option("--all", "ended", is_flag=True, help="Also those that have ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@configured
def list_jobs(state: str | None, ended: bool, as_json: bool, files: Files, overrides: Overrides) -> None:
    """List the jobs that have not ended."""
    path = "/jobs" + (f"?state={state}" if state else "")
    for job in ask_manager(load(files, overrides), "GET", path):
        if as_json:
            click.echo(json.dumps(job))
        elif state or ended or job["state"] in ("waiting", "running", "parked"):
            click.echo(job_line(job))


@jobs.command()
@click.argument("number", type=int)
@configured
def show(number: int, files: Files, overrides: Overrides) -> None:
    """Show all that is known of one job."""
    for key, value in ask_manager(load(files, overrides), "GET", f"/jobs/{number}").items():
        text = _when(value) if key.endswith("_at") or key == "not_before" else printable(str(value))
        click.echo(f"{key:<12} {text}")


@jobs.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="PEER:EXPORT/PATH")
@click.option("--delete", is_flag=True, help="Remove at the target what the source does not have.")
@click.option("--checksum", type=click.Choice(["xxh3", "blake3"]), default="xxh3", show_default=True)
@click.option("--keep", default="", metavar="RULES", help='Keep a version there: all, or like "last 5, daily 7".')
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="Higher ones go first.")
@click.option("--bandwidth", default="100%", show_default=True, help="A share of the node's rate, or a rate.")
@configured
def add(source: str, target: str, files: Files, overrides: Overrides, **settings: Any) -> None:
    """Leave a transfer to the manager.

    It happens once the peer is there. Prints the number of the job.
    """
    body = {"source": os.path.abspath(source), "target": target, **settings}  # noqa: PTH100  (resolve() follows)
    click.echo(ask_manager(load(files, overrides), "POST", "/jobs", body)["id"])


@jobs.command()
@click.argument("numbers", type=int, nargs=-1, required=True)
@configured
def cancel(numbers: tuple[int, ...], files: Files, overrides: Overrides) -> None:
    """Cancel jobs; what has arrived is kept for the next try."""
    config = load(files, overrides)
    for number in numbers:
        ask_manager(config, "POST", f"/jobs/{number}/cancel")


@jobs.command()
@click.argument("numbers", type=int, nargs=-1, required=True)
@configured
def retry(numbers: tuple[int, ...], files: Files, overrides: Overrides) -> None:
    """Let jobs that are parked, wait or were cancelled go at once."""
    config = load(files, overrides)
    for number in numbers:
        ask_manager(config, "POST", f"/jobs/{number}/retry")


def job_line(job: dict[str, Any]) -> str:
    """`12 waiting db: send /srv/db to node2:inbox/db, again in 20s: the reason`."""
    what = f"{job['kind']} {printable(job['source'])} to {printable(job['target'])}"
    text = f"{job['id']:>6} {job['state']:<9} {job['workload'] + ': ' if job['workload'] else ''}{what}"
    wait = job["not_before"] - time.time()
    if job["state"] == "waiting" and wait > 0:
        text += f", again in {format_duration(round(wait) or 1.0)}"
    if job["state"] == "done":
        text += f", {job['files']} files, {format_size(job['bytes'])}, {format_size(job['wire_bytes'])} on the wire"
    return text + (f": {printable(job['reason'])}" if job["reason"] else "")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"
