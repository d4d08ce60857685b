"""`dwcp bench`: what two nodes do on this machine, beside what is expected of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from dwcp.errors import UsageError
from dwcp.testing.benchmark import Row, measure, rows
from dwcp.units import format_size, parse_size

LEAST = 2**20
MET = {True: "yes", False: "no", None: "-"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@click.option(
    "--size", default="256MiB", show_default=True, help="Of the file that is sent; three times that is needed."
)
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Where; without, the system's temporary place."
)
@click.option("--rdma-device", default="", metavar="DEVICE", help="Send over this as well, as transport.rdma_device.")
def bench(as_json: bool, size: str, directory: Path | None, rdma_device: str) -> None:
    """Run two nodes on loopback, and measure: how fast /health answers, idle and while a file is received; how fast the
    file goes; what it takes of the processor at 1 Gbit/s, and of memory.

    The running manager is not touched, but shares the machine: measure on one that is idle. Ends with 0 when all is
    measured, whether or not the goals are met.
    """
    try:
        count = parse_size(size)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from error
    if count < LEAST:
        raise UsageError(f"--size: {size} is less than {format_size(LEAST)}, of which nothing can be measured")
    table = rows(measure(directory, count, rdma_device, lambda what: click.echo(f"measuring: {what} ...", err=True)))
    if as_json:
        click.echo(json.dumps({"size": count, "results": [asdict(row) for row in table]}, indent=2))
    else:
        _show(table)


def _show(table: list[Row]) -> None:
    click.echo(f"{'':<24}{'measured':>16}  {'expected':<14}{'met':<5}")
    for row in table:
        click.echo(f"{row.name:<24}{row.shown:>16}  {row.goal:<14}{MET[row.met]:<5}{row.note}".rstrip())
