"""`dwcp send --from`: a transfer between two other nodes, from the order to its end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Any

import click

from dwcp.cli.options import split_remote
from dwcp.cli.running import run
from dwcp.config import Config
from dwcp.errors import DwcpError, Interrupted, TemporaryError, UsageError
from dwcp.transfer.client import connect
from dwcp.transfer.remote_jobs import RemoteJob
from dwcp.units import format_size

LOOK = 0.5
"""Seconds between two questions how far it is."""


def order(config: Config, sender: str, source: str, target: str, *, as_json: bool, quiet: bool, **options: Any) -> None:
    """Has `sender` send its EXPORT/PATH `source` to `target`, and waits. Raises what became of it."""
    at, path = split_remote(target)
    if "/" not in source.strip("/") or "/" not in path.strip("/") or path.endswith("/"):
        raise UsageError("between two other nodes both have to be named in full: EXPORT/PATH and PEER:EXPORT/PATH")
    placed: list[int] = []

    async def waiting() -> RemoteJob:
        async with connect(sender, config=config) as peer:
            job = await peer.order(source, at, path, **options)
            placed.append(job.id)
            if not quiet and not as_json:
                click.echo(f"job {job.id} of {sender}: {source} to {target}")
            while not job.ended:
                await asyncio.sleep(LOOK)
                job = await peer.order_status(job.id)
            return job

    try:
        job = run(config, waiting())
    except (Interrupted, TemporaryError) as error:
        if placed:
            raise type(error)(f"{error}; job {placed[0]} of {sender} goes on there (`dwcp jobs`)") from error
        raise
    if as_json:
        click.echo(json.dumps({"event": job.state, "sender": sender, **asdict(job)}))
    if job.state != "done":
        raise DwcpError(f"job {job.id} of {sender} is {job.state} there: {job.reason}")
    if not quiet and not as_json:
        size, wire = format_size(job.bytes), format_size(job.wire_bytes)
        click.echo(f"done: {job.files} files, {size}, {wire} on the wire")
